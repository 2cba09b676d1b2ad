//! A core's queue at a played drive, and requests one at a time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ferroce_buf::{BufList, Home, Pool};
use ferroce_drivers::dma::Bus;
use ferroce_drivers::nvme::{Controller, NvmeConfig, NvmeDrive, NvmeQueue, Patience, Seat};
use ferroce_engine::port::{Backend as _, Done, Io, Op, Tag};
use ferroce_wire::status::Status;

use super::{Mischief, Player, pool};

/// As it is in production, but for a keeper that looks around all the time.
pub fn patient() -> Patience {
    Patience {
        look_ms: 2,
        ..Patience::default()
    }
}

/// For what ends by a timeout. A slow machine may time out more often, which changes no result.
pub fn impatient() -> Patience {
    Patience {
        command_ms: 50,
        abort_ms: 50,
        reset_ms: 20_000,
        admin_ms: 20_000,
        look_ms: 2,
        ..Patience::default()
    }
}

/// A drive, a core's queue at it and its Bufs.
pub struct Bench {
    pub player: Arc<Player>,
    // The queue is dropped first: the controller waits for that.
    pub queue: NvmeQueue,
    pub drive: NvmeDrive,
    pub pool: Pool,
    pub block_len: u32,
    pub next: u32,
}

pub fn config(nsid: Option<u32>) -> NvmeConfig {
    NvmeConfig {
        label: "nvme:played".into(),
        nsid,
        read_only: false,
        uuid: None,
    }
}

pub fn start(player: &Arc<Player>, bus: &Arc<Bus>, patience: Patience) -> Arc<Controller> {
    let seat = Seat::played(player.clone(), bus.clone());
    Arc::new(Controller::start("nvme:played".into(), seat, patience).unwrap())
}

impl Bench {
    pub fn new(block_len: u32, patience: Patience, mischief: impl FnOnce(&mut Mischief)) -> Bench {
        let bus = Arc::new(Bus::default());
        let player = Player::new(bus.clone(), &[block_len]);
        player.misbehave(mischief);
        let id = player.id();
        let seat = Seat::played(player.clone(), bus.clone()).with_id(id);
        let controller = Controller::start("nvme:played".into(), seat, patience).unwrap();
        let controller = Arc::new(controller);
        let drive = NvmeDrive::open(controller, config(None)).unwrap();
        let pool = pool(Home::CORE, &[(4096, 300), (16384, 32), (128 * 1024, 16)]);
        let queue = drive.queue(0, std::slice::from_ref(pool.region())).unwrap();
        Bench {
            player,
            queue,
            drive,
            pool,
            block_len,
            next: 0,
        }
    }

    pub fn submit(&mut self, op: Op, bufs: BufList) -> Tag {
        self.next += 1;
        let tag = Tag {
            slot: self.next,
            generation: 9,
        };
        self.queue
            .submit(Io { tag, op, bufs })
            .expect("there is room");
        tag
    }

    pub fn wait(&mut self) -> Done {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            self.queue.ring_doorbell();
            if let Some(done) = self.queue.poll() {
                return done;
            }
            assert!(Instant::now() < deadline, "every request is answered");
            std::thread::yield_now();
        }
    }

    pub fn run(&mut self, op: Op, bufs: BufList) -> (Status, BufList) {
        let tag = self.submit(op, bufs);
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

    /// Bufs for `len` bytes, in pieces.
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

    pub fn blocks(&self, len: usize) -> u32 {
        (len / self.block_len as usize) as u32
    }

    pub fn write_op(&self, lba: u64, len: usize) -> Op {
        Op::Write {
            lba,
            blocks: self.blocks(len),
            fua: lba.is_multiple_of(2),
        }
    }

    pub fn write(&mut self, lba: u64, data: &[u8], piece: usize) -> Status {
        let mut bufs = self.bufs(data.len(), piece);
        bufs.copy_in(0, data);
        let (status, bufs) = self.run(self.write_op(lba, data.len()), bufs);
        assert_eq!(bufs.len(), data.len());
        self.pool.put_all(bufs);
        status
    }

    pub fn read(&mut self, lba: u64, len: usize, piece: usize) -> Vec<u8> {
        let bufs = self.bufs(len, piece);
        let blocks = self.blocks(len);
        let (status, bufs) = self.run(Op::Read { lba, blocks }, bufs);
        assert_eq!(status, Status::SUCCESS);
        let mut out = vec![0; len];
        bufs.copy_out(0, &mut out);
        self.pool.put_all(bufs);
        out
    }

    /// Nothing is left, and the drive did not reach for what is not its own.
    pub fn end(self) {
        assert_eq!(self.pool.out(), 0, "every Buf is home");
        assert_eq!(self.queue.in_flight(), 0);
        assert_eq!(self.player.seen().faults, 0);
        let Bench {
            player,
            queue,
            drive,
            ..
        } = self;
        let failed = drive.controller().has_failed();
        drop((queue, drive));
        assert_eq!(player.seen().shutdowns, u32::from(!failed), "a clean stop");
    }
}

pub fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut data = vec![0; len];
    fastrand::Rng::with_seed(seed).fill(&mut data);
    data
}

/// Polls until a condition holds. Nothing is answered meanwhile.
pub fn until(bench: &mut Bench, what: &str, holds: impl Fn(&Player) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds(&bench.player) {
        assert!(Instant::now() < deadline, "{what}");
        bench.queue.ring_doorbell();
        assert!(bench.queue.poll().is_none(), "nothing was asked for");
        std::thread::yield_now();
    }
}

/// Waits, and says what was waited for when that takes too long.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
