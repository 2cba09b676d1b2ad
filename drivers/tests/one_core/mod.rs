//! One core's Bufs and its queue onto a file drive, and requests one at a time.
#![allow(dead_code, reason = "each test file uses a part")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use ferroce_buf::{BufList, Class, Home, Pool, Region, Want};
use ferroce_drivers::file::MAX_TRANSFER;
use ferroce_drivers::{FileDrive, FileQueue};
use ferroce_engine::port::{Backend, Done, Io, Op, Tag};
use ferroce_wire::status::Status;

/// A core's Bufs and its queue.
pub struct Core {
    pub pool: Pool,
    pub queue: FileQueue,
}

impl Core {
    pub fn new(drive: &Arc<FileDrive>) -> Core {
        let classes = [
            Class {
                size: 4096,
                count: 256,
            },
            Class {
                size: MAX_TRANSFER as usize,
                count: 64,
            },
        ];
        let region = Region::map(Pool::bytes(&classes), Want::default()).unwrap();
        let region = Arc::new(region);
        let queue = drive.open(0, std::slice::from_ref(&region)).unwrap();
        let pool = Pool::new(region, 0, Home::CORE, &classes);
        Core { pool, queue }
    }

    pub fn bufs(&mut self, len: usize, piece: usize) -> BufList {
        let mut bufs = BufList::new();
        let mut left = len;
        while left > 0 {
            let now = left.min(piece);
            bufs.push(self.pool.take(now).expect("enough Bufs"));
            left -= now;
        }
        bufs
    }

    pub fn wait(&mut self) -> Done {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            self.queue.ring_doorbell();
            if let Some(done) = self.queue.poll() {
                return done;
            }
            assert!(Instant::now() < deadline, "the drive answers");
            std::thread::yield_now();
        }
    }

    pub fn run(&mut self, op: Op, bufs: BufList) -> (Status, BufList) {
        let tag = Tag {
            slot: 5,
            generation: 6,
        };
        self.queue.submit(Io { tag, op, bufs }).unwrap();
        let done = self.wait();
        assert_eq!(done.tag, tag);
        assert_eq!(self.queue.in_flight(), 0);
        (done.status, done.bufs)
    }

    pub fn plain(&mut self, op: Op) -> Status {
        let (status, bufs) = self.run(op, BufList::new());
        assert!(bufs.is_empty());
        status
    }

    pub fn write(
        &mut self,
        lba: u64,
        block_len: u32,
        data: &[u8],
        piece: usize,
        fua: bool,
    ) -> Status {
        let mut bufs = self.bufs(data.len(), piece);
        bufs.copy_in(0, data);
        let blocks = data.len() as u32 / block_len;
        let (status, bufs) = self.run(Op::Write { lba, blocks, fua }, bufs);
        assert_eq!(bufs.len(), data.len());
        self.pool.put_all(bufs);
        status
    }

    pub fn read(&mut self, lba: u64, len: usize, block_len: u32, piece: usize) -> Vec<u8> {
        let mut bufs = self.bufs(len, piece);
        for buf in bufs.iter_mut() {
            buf.bytes_mut().fill(0xA5);
        }
        let blocks = len as u32 / block_len;
        let (status, bufs) = self.run(Op::Read { lba, blocks }, bufs);
        assert_eq!(status, Status::SUCCESS);
        let mut out = vec![0; len];
        bufs.copy_out(0, &mut out);
        self.pool.put_all(bufs);
        out
    }
}

/// Random bytes.
pub fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut data = vec![0; len];
    fastrand::Rng::with_seed(seed).fill(&mut data);
    data
}
