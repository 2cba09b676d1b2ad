//! Two cores on the same few pages, each pausing where the other could come in between.

use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use ferroce_buf::{Class, Home, Pool};

use super::*;

fn run(queue: &mut RamQueue, op: Op, bufs: BufList) -> BufList {
    let tag = ferroce_engine::port::Tag {
        slot: 0,
        generation: 0,
    };
    queue.submit(Io { tag, op, bufs }).expect("room");
    queue.ring_doorbell();
    let done = queue.poll().expect("done at once");
    assert_eq!(done.status, Status::SUCCESS);
    done.bufs
}

fn write(queue: &mut RamQueue, lba: u64, block_len: u32, data: &[u8]) {
    let mut bufs = BufList::new();
    let start = Instant::now();
    while !queue.space(lba, data.len(), &mut bufs) {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "no page comes back"
        );
        std::thread::yield_now();
    }
    bufs.copy_in(0, data);
    let op = Op::Write {
        lba,
        blocks: data.len() as u32 / block_len,
        fua: false,
    };
    assert!(run(queue, op, bufs).is_empty());
}

fn read(queue: &mut RamQueue, lba: u64, blocks: u32) -> Vec<u8> {
    let mut bufs = run(queue, Op::Read { lba, blocks }, BufList::new());
    let mut out = vec![0; bufs.len()];
    // The Bufs may wait for a socket while the blocks change.
    race();
    bufs.copy_out(0, &mut out);
    while let Some(buf) = bufs.pop() {
        queue.put(buf);
    }
    out
}

/// Every block carries its own number and a counter, in its first and last words and in between: a
/// torn or misplaced one is recognised.
fn stamp(block: &mut [u8], lba: u64, count: u64) {
    for (at, word) in block.chunks_exact_mut(8).enumerate() {
        let value = lba << 40 ^ count << 8 ^ (at as u64 & 0xFF);
        word.copy_from_slice(&value.to_le_bytes());
    }
}

/// The counter of a whole block; 0 for one never written.
fn check(block: &[u8], lba: u64) -> u64 {
    if block.iter().all(|byte| *byte == 0) {
        return 0;
    }
    let first = u64::from_le_bytes(block[..8].try_into().unwrap());
    let count = (first ^ lba << 40) >> 8;
    let mut want = vec![0; block.len()];
    stamp(&mut want, lba, count);
    assert!(block == want, "block {lba} is torn");
    count
}

/// Two cores write and read the same few pages. No block is torn, none goes back in time, and at the
/// end all pages are home.
fn two_cores(block_len: u32, shared_blocks: bool) {
    const LBAS: u64 = 12;
    let drive = RamDrive::new(RamConfig {
        id: DriveId(3),
        label: "ram:test".to_owned(),
        bytes: 1 << 20,
        block_len,
        read_only: false,
        uuid: None,
        cores: 2,
        spare: None,
        want: Want::default(),
    })
    .unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let core = |core: u64| {
            let drive: Arc<RamDrive> = drive.clone();
            let stop = &stop;
            move || {
                let mut queue = drive.open(core as usize).unwrap();
                let mut rng = fastrand::Rng::with_seed(core);
                let mut mine = [0u64; LBAS as usize];
                let len = block_len as usize;
                for round in 1..4_000u64 {
                    let lba = rng.u64(0..LBAS - 4);
                    let blocks = rng.u32(1..5);
                    if rng.bool() {
                        let got = read(&mut queue, lba, blocks);
                        for (at, block) in got.chunks(len).enumerate() {
                            let lba = lba + at as u64;
                            let count = check(block, lba);
                            // Blocks only this core writes hold exactly what it last wrote.
                            if !shared_blocks && lba % 2 == core {
                                assert_eq!(count, mine[lba as usize], "block {lba} lost a write");
                            }
                        }
                    } else if shared_blocks {
                        let mut data = vec![0; blocks as usize * len];
                        for (at, block) in data.chunks_mut(len).enumerate() {
                            stamp(block, lba + at as u64, round << 1 | core);
                        }
                        write(&mut queue, lba, block_len, &data);
                    } else {
                        let lba = lba & !1 | core;
                        let mut data = vec![0; len];
                        stamp(&mut data, lba, round);
                        write(&mut queue, lba, block_len, &data);
                        mine[lba as usize] = round;
                    }
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                }
                stop.store(true, Ordering::Relaxed);
            }
        };
        scope.spawn(core(0));
        scope.spawn(core(1));
    });
    assert_eq!(drive.held_pages(), drive.written_pages());
}

#[test]
fn no_block_is_torn_with_4096() {
    two_cores(4096, true);
}

#[test]
fn no_block_is_torn_with_512() {
    two_cores(512, true);
}

#[test]
fn neighbours_within_a_page_are_not_lost() {
    two_cores(512, false);
}

/// Whatever hosts do not send, and do not take, each core can write as much as one request carries.
#[test]
fn what_is_lent_away_for_ever_is_not_missed() {
    let pages = 64u64;
    for spare in [0, 100] {
        let drive = RamDrive::new(RamConfig {
            id: DriveId(3),
            label: "ram:test".to_owned(),
            bytes: pages * 4096,
            block_len: 512,
            read_only: false,
            uuid: None,
            cores: 2,
            spare: Some(spare),
            want: Want::default(),
        })
        .unwrap();
        let mut queues: Vec<RamQueue> = (0..2).map(|core| drive.open(core).unwrap()).collect();
        let whole = vec![1; 4096];
        for page in 0..pages {
            write(&mut queues[0], page * 8, 512, &whole);
        }
        let mut away = Vec::new();
        for queue in &mut queues {
            assert_eq!(queue.lends() as usize, spare / 2);
            // Half of them never come; the other half are replaced, and never taken.
            for page in 0..u64::from(queue.lends()) {
                if page % 2 == 0 {
                    let mut bufs = BufList::new();
                    assert!(queue.space(0, 4096, &mut bufs));
                    away.push(bufs);
                } else {
                    let op = Op::Read {
                        lba: page,
                        blocks: 1,
                    };
                    away.push(run(queue, op, BufList::new()));
                    write(queue, page / 8 * 8, 512, &whole);
                }
            }
        }
        // The other core's store is full.
        for round in 0..4 {
            let queue = &mut queues[round % 2];
            let mut bufs = BufList::new();
            assert!(
                queue.space(1, MAX_TRANSFER as usize, &mut bufs),
                "core {round}"
            );
            while let Some(buf) = bufs.pop() {
                queue.put(buf);
            }
        }
        for mut bufs in away {
            while let Some(buf) = bufs.pop() {
                queues[0].put(buf);
            }
        }
        drop(queues);
        assert_eq!(drive.held_pages(), drive.written_pages());
    }
}

/// A drive that one core opens.
fn alone(block_len: u32) -> (Arc<RamDrive>, RamQueue) {
    let drive = RamDrive::new(RamConfig {
        id: DriveId(3),
        label: "ram:test".to_owned(),
        bytes: 1 << 20,
        block_len,
        read_only: false,
        uuid: None,
        cores: 1,
        spare: None,
        want: Want::default(),
    })
    .unwrap();
    let queue = drive.open(0).unwrap();
    (drive, queue)
}

/// What one read hands out: pages and bytes of each Buf.
fn pieces(bufs: &BufList) -> Vec<(u32, usize)> {
    bufs.iter().map(|buf| (buf.pages(), buf.len())).collect()
}

#[test]
fn pages_side_by_side_are_one_buf() {
    let (drive, mut queue) = alone(512);
    let data: Vec<u8> = (0..128 * 1024u32).map(|at| (at / 512) as u8).collect();
    write(&mut queue, 0, 512, &data);
    // From the middle of a page to the middle of another.
    let part = Op::Read {
        lba: 3,
        blocks: 250,
    };
    let mut part = run(&mut queue, part, BufList::new());
    assert_eq!(pieces(&part), [(32, 250 * 512)]);
    // One page in between is replaced while they are out.
    write(&mut queue, 80, 512, &[0xAA; 4096]);
    let whole = Op::Read {
        lba: 0,
        blocks: 256,
    };
    let mut whole = run(&mut queue, whole, BufList::new());
    assert_eq!(
        pieces(&whole),
        [(10, 10 * 4096), (1, 4096), (21, 21 * 4096)]
    );
    let mut got = vec![0; part.len()];
    part.copy_out(0, &mut got);
    assert!(got == data[3 * 512..253 * 512], "the bytes of before");
    let mut got = vec![0; whole.len()];
    whole.copy_out(0, &mut got);
    assert!(got[80 * 512..88 * 512].iter().all(|byte| *byte == 0xAA));
    assert!(got[..80 * 512] == data[..80 * 512] && got[88 * 512..] == data[88 * 512..]);
    for bufs in [&mut part, &mut whole] {
        while let Some(buf) = bufs.pop() {
            queue.put(buf);
        }
    }
    assert_eq!(pieces(&whole), []);
    // The page that was replaced is the core's; the others are held by the index alone.
    drop(queue);
    assert_eq!(drive.written_pages(), 32);
    assert_eq!(drive.held_pages(), 32);
}

/// The page of zeros stands for each page that nobody wrote, and lies beside others itself.
#[test]
fn pages_of_zeros_may_be_neighbours_too() {
    let (drive, mut queue) = alone(4096);
    write(&mut queue, 2, 4096, &[7; 2 * 4096]);
    let mut bufs = run(&mut queue, Op::Read { lba: 0, blocks: 6 }, BufList::new());
    assert_eq!(bufs.pages(), 6);
    let mut got = vec![1; 6 * 4096];
    bufs.copy_out(0, &mut got);
    let want = [[0; 2 * 4096], [7; 2 * 4096], [0; 2 * 4096]].concat();
    assert!(got == want);
    while let Some(buf) = bufs.pop() {
        queue.put(buf);
    }
    drop(queue);
    assert_eq!(drive.held_pages(), 2);
}

/// A read with a place to go to copies, and keeps no page.
#[test]
fn a_read_into_foreign_bufs_copies() {
    let region = Arc::new(Region::map(8192, Want::default()).unwrap());
    let class = [Class {
        size: 8192,
        count: 1,
    }];
    let mut pool = Pool::new(region, 0, Home::CORE, &class);
    let (drive, mut queue) = alone(512);
    let data: Vec<u8> = (0..512 * 9).map(|at| (at / 512) as u8 + 1).collect();
    write(&mut queue, 3, 512, &data);
    let held = drive.held_pages();
    let mut bufs = BufList::new();
    bufs.push(pool.take(512 * 11).unwrap());
    let mut bufs = run(&mut queue, Op::Read { lba: 2, blocks: 11 }, bufs);
    let mut got = vec![0xA5; 512 * 11];
    bufs.copy_out(0, &mut got);
    // What was never written is zeros.
    assert_eq!(got[..512], [0; 512]);
    assert_eq!(got[512..512 * 10], data);
    assert_eq!(got[512 * 10..], [0; 512]);
    assert_eq!(drive.held_pages(), held);
    pool.put(bufs.pop().unwrap());
}
