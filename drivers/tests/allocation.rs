//! No request allocates: not in the RAM drive, not in the file drive, not in the NVMe driver.
#![allow(unsafe_code)] // A global allocator, to count.

mod one_core;
mod played;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use std::sync::Arc;

use ferroce_buf::{BufList, Home, PAGE, Want};
use ferroce_drivers::dma::Bus;
use ferroce_drivers::nvme::{Controller, NvmeConfig, NvmeDrive, Patience, Seat};
use ferroce_drivers::{FileConfig, FileDrive, RamConfig, RamDrive, Via};
use ferroce_engine::port::{Backend, DriveId, Io, Op, Tag};
use ferroce_wire::status::Status;
use one_core::Core;

struct Counting;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: all is left to the system's allocator; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.set(COUNT.get() + 1);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, len: usize) -> *mut u8 {
        COUNT.set(COUNT.get() + 1);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(at, layout, len) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const TAG: Tag = Tag {
    slot: 0,
    generation: 0,
};

#[test]
fn the_ram_drive_does_not_allocate() {
    for block_len in [512, 4096] {
        let drive = RamDrive::new(RamConfig {
            id: DriveId(0),
            label: "ram:1MiB".to_owned(),
            bytes: 1 << 20,
            block_len,
            read_only: false,
            uuid: None,
            cores: 1,
            spare: None,
            want: Want::default(),
        })
        .unwrap();
        let mut queue = drive.open(0).unwrap();
        let mut list = BufList::with_capacity(33);
        let mut rng = fastrand::Rng::with_seed(1);
        let before = COUNT.get();
        for _ in 0..10_000 {
            let blocks = rng.u32(1..32);
            let lba = rng.u64(0..256 - u64::from(blocks));
            let op = match rng.u32(0..4) {
                0 => Op::Read { lba, blocks },
                1 => Op::Deallocate { lba, blocks },
                2 => Op::WriteZeroes {
                    lba,
                    blocks,
                    fua: false,
                    deallocate: true,
                },
                _ => {
                    let len = (blocks * block_len) as usize;
                    assert!(queue.space(lba, len, &mut list));
                    Op::Write {
                        lba,
                        blocks,
                        fua: false,
                    }
                }
            };
            let bufs = std::mem::take(&mut list);
            queue.submit(Io { tag: TAG, op, bufs }).unwrap();
            queue.ring_doorbell();
            let done = queue.poll().unwrap();
            assert_eq!(done.status, Status::SUCCESS);
            list = done.bufs;
            while let Some(buf) = list.pop() {
                queue.put(buf);
            }
        }
        assert_eq!(COUNT.get() - before, 0);
    }
}

#[test]
fn the_file_drive_does_not_allocate() {
    for via in [Via::Ring, Via::Threads] {
        let folder = tempfile::tempdir().unwrap();
        let drive = FileDrive::open_path(FileConfig {
            size: Some(1 << 20),
            via,
            ..FileConfig::new(folder.path().join("disk"))
        })
        .unwrap();
        let mut core = Core::new(&drive);
        let mut list = BufList::with_capacity(8);
        let mut rng = fastrand::Rng::with_seed(1);
        let before = COUNT.get();
        for _ in 0..500 {
            let blocks = rng.u32(1..8);
            let lba = rng.u64(0..240);
            for _ in 0..blocks {
                list.push(core.pool.take(PAGE).unwrap());
            }
            let op = match rng.u32(0..10) {
                0 => Op::Flush,
                1 => Op::Verify { lba, blocks },
                2..6 => Op::Read { lba, blocks },
                _ => Op::Write {
                    lba,
                    blocks,
                    fua: false,
                },
            };
            let bufs = std::mem::take(&mut list);
            let (status, bufs) = core.run(op, bufs);
            assert_eq!(status, Status::SUCCESS);
            list = bufs;
            while let Some(buf) = list.pop() {
                core.pool.put(buf);
            }
        }
        assert_eq!(COUNT.get() - before, 0, "{via:?}");
    }
}

#[test]
fn the_nvme_driver_does_not_allocate() {
    let bus = Arc::new(Bus::default());
    let seat = Seat::played(played::Player::new(bus.clone(), &[4096]), bus);
    let controller = Controller::start("played".into(), seat, Patience::default()).unwrap();
    let config = NvmeConfig {
        label: "played".into(),
        nsid: None,
        read_only: false,
        uuid: None,
    };
    let drive = NvmeDrive::open(Arc::new(controller), config).unwrap();
    let mut pool = played::pool(Home::CORE, &[(128 * 1024, 4)]);
    let mut queue = drive.queue(0, std::slice::from_ref(pool.region())).unwrap();
    let mut rng = fastrand::Rng::with_seed(1);
    let mut counted = 0;
    for _ in 0..500 {
        let (lba, blocks) = (rng.u64(0..1024), rng.u32(1..=32));
        let op = match rng.u32(0..10) {
            0 => Op::Flush,
            1 => Op::Verify { lba, blocks },
            2 => Op::Deallocate { lba, blocks },
            3..6 => Op::Read { lba, blocks },
            _ => Op::Write {
                lba,
                blocks,
                fua: false,
            },
        };
        let mut bufs = BufList::new();
        if matches!(op, Op::Read { .. } | Op::Write { .. }) {
            bufs.push(pool.take(blocks as usize * 4096).unwrap());
        }
        let before = COUNT.get();
        queue.submit(Io { tag: TAG, op, bufs }).unwrap();
        counted += COUNT.get() - before;
        // Here the controller works, which is no part of the driver.
        queue.ring_doorbell();
        let before = COUNT.get();
        let mut done = queue.poll().unwrap();
        assert!(queue.poll().is_none());
        counted += COUNT.get() - before;
        assert_eq!(done.status, Status::SUCCESS);
        if let Some(buf) = done.bufs.pop() {
            pool.put(buf);
        }
    }
    assert_eq!(counted, 0);
}
