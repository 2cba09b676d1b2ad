//! The RAM drive: what is written is read, whole, by any core, and every page comes home.

use ferroce_buf::{BufList, PAGE, Want};
use ferroce_drivers::ram::{DEPTH, MAX_TRANSFER};
use ferroce_drivers::{RamConfig, RamDrive, RamQueue};
use ferroce_engine::port::{Backend, DriveId, Io, Op, Tag};
use ferroce_wire::status::Status;
use proptest::prelude::*;

fn config(bytes: u64, block_len: u32) -> RamConfig {
    RamConfig {
        id: DriveId(3),
        label: "ram:test".to_owned(),
        bytes,
        block_len,
        read_only: false,
        uuid: None,
        cores: 2,
        spare: None,
        want: Want::default(),
    }
}

fn tag(slot: u32) -> Tag {
    Tag {
        slot,
        generation: 7,
    }
}

fn run(queue: &mut RamQueue, op: Op, bufs: BufList) -> (Status, BufList) {
    let io = Io {
        tag: tag(1),
        op,
        bufs,
    };
    queue.submit(io).expect("the queue has room");
    queue.ring_doorbell();
    let done = queue.poll().expect("a RAM drive is done at once");
    assert_eq!(done.tag, tag(1));
    (done.status, done.bufs)
}

fn give_back(queue: &mut RamQueue, mut bufs: BufList) {
    while let Some(buf) = bufs.pop() {
        queue.put(buf);
    }
}

fn write(queue: &mut RamQueue, lba: u64, block_len: u32, data: &[u8]) {
    let mut bufs = BufList::new();
    assert!(queue.space(lba, data.len(), &mut bufs));
    bufs.copy_in(0, data);
    let op = Op::Write {
        lba,
        blocks: data.len() as u32 / block_len,
        fua: false,
    };
    let (status, bufs) = run(queue, op, bufs);
    assert_eq!(status, Status::SUCCESS);
    assert!(bufs.is_empty(), "a RAM drive keeps what is written");
}

fn read(queue: &mut RamQueue, lba: u64, blocks: u32) -> Vec<u8> {
    let (status, bufs) = run(queue, Op::Read { lba, blocks }, BufList::new());
    assert_eq!(status, Status::SUCCESS);
    let mut out = vec![0; bufs.len()];
    bufs.copy_out(0, &mut out);
    give_back(queue, bufs);
    out
}

#[test]
fn reads_zeros_then_what_was_written_without_copies() {
    let drive = RamDrive::new(config(1 << 20, 4096)).unwrap();
    let mut queue = drive.open(0).unwrap();
    assert_eq!(read(&mut queue, 3, 2), vec![0; 8192]);
    let data: Vec<u8> = (0..8192u32).map(|byte| byte as u8).collect();
    write(&mut queue, 3, 4096, &data);
    assert_eq!(read(&mut queue, 3, 2), data);
    assert_eq!(read(&mut queue, 2, 1), vec![0; 4096]);
    assert_eq!(drive.copied(), 0);
    assert_eq!(drive.written_pages(), 2);
}

#[test]
fn a_page_on_its_way_out_is_not_changed() {
    let drive = RamDrive::new(config(1 << 20, 4096)).unwrap();
    let mut queue = drive.open(0).unwrap();
    write(&mut queue, 0, 4096, &[1; PAGE]);
    let op = Op::Read { lba: 0, blocks: 1 };
    let (_, leaving) = run(&mut queue, op, BufList::new());
    for value in 2..200 {
        write(&mut queue, 0, 4096, &[value; PAGE]);
    }
    let mut seen = [0; PAGE];
    leaving.copy_out(0, &mut seen);
    assert_eq!(seen, [1; PAGE]);
    give_back(&mut queue, leaving);
    assert_eq!(read(&mut queue, 0, 1), [199; PAGE]);
}

#[test]
fn refuses_what_is_outside_or_read_only() {
    let drive = RamDrive::new(config(1 << 20, 512)).unwrap();
    let mut queue = drive.open(0).unwrap();
    let outside = Status::LBA_OUT_OF_RANGE.dnr();
    for (lba, blocks) in [(2048, 1), (2047, 2), (u64::MAX, 1)] {
        let op = Op::Read { lba, blocks };
        assert_eq!(run(&mut queue, op, BufList::new()).0, outside);
        let op = Op::Deallocate { lba, blocks };
        assert_eq!(run(&mut queue, op, BufList::new()).0, outside);
    }
    let drive = RamDrive::new(RamConfig {
        read_only: true,
        ..config(1 << 20, 512)
    })
    .unwrap();
    let mut queue = drive.open(0).unwrap();
    let mut bufs = BufList::new();
    assert!(queue.space(0, 512, &mut bufs));
    let op = Op::Write {
        lba: 0,
        blocks: 1,
        fua: true,
    };
    let (status, bufs) = run(&mut queue, op, bufs);
    assert_eq!(status, Status::NAMESPACE_WRITE_PROTECTED.dnr());
    assert_eq!(bufs.len(), 512, "refused data comes back");
    give_back(&mut queue, bufs);
}

#[test]
fn a_full_queue_gives_the_request_back() {
    let drive = RamDrive::new(config(1 << 20, 4096)).unwrap();
    let mut queue = drive.open(0).unwrap();
    let io = || Io {
        tag: tag(0),
        op: Op::Flush,
        bufs: BufList::new(),
    };
    for _ in 0..DEPTH {
        queue.submit(io()).unwrap();
    }
    assert!(queue.submit(io()).is_err());
    queue.ring_doorbell();
    assert!(queue.poll().is_some());
    assert!(queue.submit(io()).is_ok());
}

#[test]
fn space_ends_and_comes_back() {
    let drive = RamDrive::new(config(4 << 20, 4096)).unwrap();
    let mut queue = drive.open(0).unwrap();
    let mut all = Vec::new();
    loop {
        let mut bufs = BufList::new();
        if !queue.space(1, MAX_TRANSFER as usize, &mut bufs) {
            assert!(bufs.is_empty());
            break;
        }
        all.push(bufs);
    }
    assert!(all.len() > 64);
    for bufs in all {
        give_back(&mut queue, bufs);
    }
    let mut bufs = BufList::new();
    assert!(queue.space(1, MAX_TRANSFER as usize, &mut bufs));
    give_back(&mut queue, bufs);
}

#[test]
fn zeroes_and_deallocate_give_pages_back() {
    let drive = RamDrive::new(config(1 << 20, 512)).unwrap();
    let mut queue = drive.open(0).unwrap();
    write(&mut queue, 0, 512, &[9; 5 * PAGE]);
    assert_eq!(drive.written_pages(), 5);
    // From the middle of page 0 to the middle of page 3.
    let op = Op::WriteZeroes {
        lba: 4,
        blocks: 24,
        fua: false,
        deallocate: true,
    };
    assert_eq!(run(&mut queue, op, BufList::new()).0, Status::SUCCESS);
    assert_eq!(drive.written_pages(), 3);
    let mut want = vec![9; 5 * PAGE];
    want[2048..2048 + 24 * 512].fill(0);
    assert_eq!(read(&mut queue, 0, 40), want);
    let op = Op::Deallocate { lba: 0, blocks: 40 };
    assert_eq!(run(&mut queue, op, BufList::new()).0, Status::SUCCESS);
    assert_eq!(drive.written_pages(), 0);
    assert_eq!(read(&mut queue, 0, 40), vec![0; 5 * PAGE]);
}

#[test]
fn resize_forgets_what_is_cut_off() {
    let drive = RamDrive::new(config(1 << 20, 4096)).unwrap();
    let mut queue = drive.open(0).unwrap();
    write(&mut queue, 255, 4096, &[5; PAGE]);
    write(&mut queue, 100, 4096, &[6; PAGE]);
    drive.resize(128).unwrap();
    assert_eq!(drive.info().blocks, 128);
    let op = Op::Read {
        lba: 128,
        blocks: 1,
    };
    let (status, _) = run(&mut queue, op, BufList::new());
    assert_eq!(status, Status::LBA_OUT_OF_RANGE.dnr());
    // Far beyond the first mapping.
    drive.resize(64 << 8).unwrap();
    assert_eq!(drive.regions().len(), 2);
    assert_eq!(read(&mut queue, 255, 1), [0; PAGE]);
    assert_eq!(read(&mut queue, 100, 1), [6; PAGE]);
    for lba in 0..64 << 8 {
        write(&mut queue, lba, 4096, &[lba as u8; PAGE]);
    }
    for lba in (0..64 << 8).step_by(97) {
        assert_eq!(read(&mut queue, lba, 1), [lba as u8; PAGE]);
    }
    assert!(drive.resize(0).is_err());
    assert!(drive.resize(u64::MAX).is_err());
    assert_eq!(drive.info().blocks, 64 << 8);
}

#[test]
fn identity_is_new_with_the_data() {
    let infos: Vec<_> = (0..2)
        .map(|_| RamDrive::new(config(1 << 20, 4096)).unwrap().info())
        .collect();
    assert_ne!(infos[0].uuid, infos[1].uuid);
    assert_ne!(infos[0].nguid, infos[1].nguid);
    for info in infos {
        assert_ne!(info.uuid, info.nguid);
        assert_ne!(info.uuid, [0; 16]);
        assert_ne!(info.nguid, [0; 16]);
    }
    let given = RamConfig {
        uuid: Some([4; 16]),
        ..config(1 << 20, 4096)
    };
    assert_eq!(RamDrive::new(given).unwrap().info().uuid, [4; 16]);
}

#[test]
fn odd_sizes_and_blocks_are_refused_with_a_reason() {
    for (bytes, block_len) in [(0, 4096), (4097, 512), (512, 512), (1 << 20, 1024)] {
        let refusal = RamDrive::new(config(bytes, block_len)).unwrap_err();
        assert!(refusal.to_string().starts_with("ram:test: "), "{refusal}");
    }
}

#[derive(Clone, Debug)]
enum Step {
    Write(u64, u32, u8),
    Zero(u64, u32),
    Deallocate(u64, u32),
    Read(u64, u32),
}

const MODEL_BLOCKS: u64 = 64;

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let range =
        || (0..MODEL_BLOCKS).prop_flat_map(|lba| (Just(lba), 1..=(MODEL_BLOCKS - lba) as u32));
    let step = prop_oneof![
        (range(), any::<u8>()).prop_map(|((lba, blocks), byte)| Step::Write(lba, blocks, byte)),
        range().prop_map(|(lba, blocks)| Step::Zero(lba, blocks)),
        range().prop_map(|(lba, blocks)| Step::Deallocate(lba, blocks)),
        range().prop_map(|(lba, blocks)| Step::Read(lba, blocks)),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// With blocks of 512 in pages of 4096, the drive is an array of blocks.
    #[test]
    fn is_an_array_of_blocks(steps in steps()) {
        let drive = RamDrive::new(config(32 << 10, 512)).unwrap();
        let mut queue = drive.open(0).unwrap();
        let mut model = vec![0u8; 32 << 10];
        for step in steps {
            match step {
                Step::Write(lba, blocks, byte) => {
                    let at = lba as usize * 512;
                    let data: Vec<u8> = (0..blocks * 512).map(|n| byte ^ (n >> 9) as u8).collect();
                    model[at..at + data.len()].copy_from_slice(&data);
                    write(&mut queue, lba, 512, &data);
                }
                Step::Zero(lba, blocks) => {
                    let op = Op::WriteZeroes { lba, blocks, fua: false, deallocate: true };
                    prop_assert_eq!(run(&mut queue, op, BufList::new()).0, Status::SUCCESS);
                    model[lba as usize * 512..][..blocks as usize * 512].fill(0);
                }
                Step::Deallocate(lba, blocks) => {
                    let op = Op::Deallocate { lba, blocks };
                    prop_assert_eq!(run(&mut queue, op, BufList::new()).0, Status::SUCCESS);
                    // Whole pages read as zeros, parts of pages as they were.
                    let start = (lba as usize * 512).next_multiple_of(PAGE);
                    let end = (lba as usize + blocks as usize) * 512 / PAGE * PAGE;
                    if start < end {
                        model[start..end].fill(0);
                    }
                }
                Step::Read(lba, blocks) => {
                    let got = read(&mut queue, lba, blocks);
                    prop_assert_eq!(&got[..], &model[lba as usize * 512..][..blocks as usize * 512]);
                }
            }
        }
        let got = read(&mut queue, 0, MODEL_BLOCKS as u32);
        prop_assert_eq!(got, model);
        drop(queue);
        prop_assert_eq!(drive.held_pages(), drive.written_pages());
    }
}

#[test]
fn pages_of_a_large_write_lie_side_by_side() {
    let drive = RamDrive::new(config(8 << 20, 4096)).unwrap();
    let mut queue = drive.open(0).unwrap();
    let mut bufs = BufList::new();
    assert!(queue.space(0, MAX_TRANSFER as usize, &mut bufs));
    let places: Vec<usize> = bufs.iter().map(|buf| buf.as_ptr().addr()).collect();
    let beside = places.windows(2).filter(|pair| pair[1] == pair[0] + 4096);
    // The store may hold the rest of an earlier lot.
    assert!(beside.count() + 2 >= places.len(), "{places:x?}");
    give_back(&mut queue, bufs);
}
