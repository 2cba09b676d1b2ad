//! Simulated drives: a [`Disk`] with a volatile cache that is slow, fails and finishes in any order; and
//! the real RAM drive, as it is or with delays.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use ferroce_buf::{Buf, BufList};
use ferroce_drivers::RamQueue;
use ferroce_engine::port::{Backend, Done, Io, Op};
use ferroce_wire::status::Status;

use crate::shared::{Chance, Common, Event, MS, S, US};

/// How a drive behaves.
#[derive(Clone, Debug)]
pub struct Manners {
    /// Typical time of a request in ns.
    pub delay: u64,
    /// One request in so many fails; 0 is never.
    pub fail: u32,
    /// One request in so many takes up to seconds; 0 is never.
    pub stick: u32,
    /// Requests a queue takes.
    pub depth: usize,
}

impl Manners {
    fn time(&self, calm: bool, rng: &mut fastrand::Rng) -> u64 {
        if calm {
            return rng.u64(self.delay / 4..=self.delay);
        }
        if rng.once_in(self.stick) {
            return rng.u64(10 * MS..3 * S);
        }
        match rng.u32(0..100) {
            0 => rng.u64(self.delay..=self.delay * 50),
            1..=15 => rng.u64(self.delay..=self.delay * 6),
            _ => rng.u64(self.delay / 4..=self.delay * 2),
        }
    }
}

/// A drive with blocks, a cache, and no memory of its own.
#[derive(Debug)]
pub struct Disk {
    common: Common,
    rng: fastrand::Rng,
    /// Its index in the simulation.
    pub index: usize,
    pub block_len: usize,
    manners: Manners,
    volatile: bool,
    media: Vec<u8>,
    /// Blocks written since the last flush.
    cache: BTreeMap<u64, Box<[u8]>>,
    pending: BTreeMap<u64, Pending>,
    next: u64,
    /// By core, what is done.
    done: Vec<VecDeque<Done>>,
}

#[derive(Debug)]
struct Pending {
    core: usize,
    io: Io,
    status: Status,
}

pub type SharedDisk = Rc<RefCell<Disk>>;

impl Disk {
    pub fn new(
        common: Common,
        rng: fastrand::Rng,
        index: usize,
        (block_len, blocks): (u32, u64),
        manners: Manners,
        volatile: bool,
    ) -> Disk {
        Disk {
            common,
            rng,
            index,
            block_len: block_len as usize,
            manners,
            volatile,
            media: vec![0; block_len as usize * blocks as usize],
            cache: BTreeMap::new(),
            pending: BTreeMap::new(),
            next: 0,
            done: Vec::new(),
        }
    }

    fn blocks(&self) -> u64 {
        (self.media.len() / self.block_len) as u64
    }

    /// What is cut off is forgotten.
    pub fn resize(&mut self, blocks: u64) {
        self.cache.split_off(&blocks);
        self.media.resize(blocks as usize * self.block_len, 0);
    }

    /// No request is left: the namespace is gone, and with it the drive.
    pub fn assert_idle(&self) {
        let count = self.pending.len();
        assert!(
            count == 0,
            "{count} requests are at a drive that was removed"
        );
    }

    /// Carries out a request: now the data moves.
    pub fn apply(&mut self, request: u64) {
        let Some(mut pending) = self.pending.remove(&request) else {
            return;
        };
        let fails = !pending.status.is_success();
        self.carry_out(&mut pending.io, fails);
        self.pending.insert(request, pending);
    }

    fn carry_out(&mut self, io: &mut Io, fails: bool) {
        let total = self.blocks();
        // A request that fails did some of its blocks, or none.
        let reach = |rng: &mut fastrand::Rng, blocks: u32| match fails {
            true => rng.u32(0..=blocks),
            false => blocks,
        };
        let check = |lba: u64, blocks: u32| {
            assert!(
                lba + u64::from(blocks) <= total,
                "blocks {lba}+{blocks} of a drive of {total}"
            );
        };
        match io.op {
            Op::Read { lba, blocks } => {
                check(lba, blocks);
                let count = reach(&mut self.rng, blocks);
                assert!(
                    io.bufs.len() == blocks as usize * self.block_len,
                    "the Bufs are the blocks"
                );
                for i in 0..u64::from(count) {
                    let data = read_block(&self.cache, &self.media, self.block_len, lba + i);
                    io.bufs.copy_in(i as usize * self.block_len, data);
                }
            }
            Op::Write { lba, blocks, fua } => {
                check(lba, blocks);
                assert!(
                    io.bufs.len() == blocks as usize * self.block_len,
                    "the Bufs are the blocks"
                );
                let mut block = vec![0; self.block_len];
                for i in 0..u64::from(reach(&mut self.rng, blocks)) {
                    io.bufs.copy_out(i as usize * self.block_len, &mut block);
                    self.write_block(lba + i, &block, fua);
                }
            }
            Op::WriteZeroes {
                lba, blocks, fua, ..
            } => {
                check(lba, blocks);
                let block = vec![0; self.block_len];
                for i in 0..u64::from(reach(&mut self.rng, blocks)) {
                    self.write_block(lba + i, &block, fua);
                }
            }
            Op::Deallocate { lba, blocks } => {
                check(lba, blocks);
                let block = vec![0; self.block_len];
                for i in 0..u64::from(blocks) {
                    if self.rng.bool() {
                        self.write_block(lba + i, &block, false);
                    }
                }
            }
            Op::Verify { lba, blocks } => check(lba, blocks),
            Op::Flush => {
                if !fails {
                    self.flush();
                }
            }
        }
    }

    fn write_block(&mut self, lba: u64, data: &[u8], fua: bool) {
        if self.volatile && !fua {
            self.cache.insert(lba, data.into());
            return;
        }
        self.cache.remove(&lba);
        let at = lba as usize * self.block_len;
        self.media[at..at + self.block_len].copy_from_slice(data);
    }

    fn flush(&mut self) {
        for (lba, data) in std::mem::take(&mut self.cache) {
            let at = lba as usize * self.block_len;
            self.media[at..at + self.block_len].copy_from_slice(&data);
        }
    }

    /// A request is done: its core may hear of it.
    pub fn finish(&mut self, request: u64) {
        let Some(pending) = self.pending.remove(&request) else {
            return;
        };
        let Pending { core, io, status } = pending;
        self.done[core].push_back(Done {
            tag: io.tag,
            status,
            bufs: io.bufs,
        });
        self.common.wake_at(self.common.now(), core);
    }

    /// The node is dead: what it had asked for happens in part, or not, and is over.
    pub fn node_died(&mut self) {
        for (_, mut pending) in std::mem::take(&mut self.pending) {
            if self.rng.bool() && !matches!(pending.io.op, Op::Read { .. }) {
                self.carry_out(&mut pending.io, true);
            }
            self.done[pending.core].push_back(Done {
                tag: pending.io.tag,
                status: Status::INTERNAL_ERROR,
                bufs: pending.io.bufs,
            });
        }
    }

    /// Power is lost: of the cache, some blocks had made it.
    pub fn power_lost(&mut self) {
        let survivors = self.rng.u32(0..=2);
        for (lba, data) in std::mem::take(&mut self.cache) {
            if survivors == 1 && self.rng.bool() {
                let at = lba as usize * self.block_len;
                self.media[at..at + self.block_len].copy_from_slice(&data);
            }
        }
    }
}

fn read_block<'a>(
    cache: &'a BTreeMap<u64, Box<[u8]>>,
    media: &'a [u8],
    block_len: usize,
    lba: u64,
) -> &'a [u8] {
    match cache.get(&lba) {
        Some(block) => block,
        None => &media[lba as usize * block_len..(lba as usize + 1) * block_len],
    }
}

/// One core's end of a disk.
#[derive(Debug)]
pub struct DiskQueue {
    disk: SharedDisk,
    core: usize,
    in_flight: usize,
}

impl DiskQueue {
    pub fn open(disk: &SharedDisk, core: usize) -> DiskQueue {
        let mut inner = disk.borrow_mut();
        if inner.done.len() <= core {
            inner.done.resize_with(core + 1, VecDeque::new);
        }
        assert!(
            inner.done[core].is_empty(),
            "nothing is left of another life"
        );
        drop(inner);
        DiskQueue {
            disk: disk.clone(),
            core,
            in_flight: 0,
        }
    }

    fn submit(&mut self, io: Io) -> Result<(), Io> {
        let disk = &mut *self.disk.borrow_mut();
        if self.in_flight >= disk.manners.depth {
            return Err(io);
        }
        self.in_flight += 1;
        let calm = disk.common.calm.get();
        let time = disk.manners.time(calm, &mut disk.rng);
        let apply = disk.rng.u64(time / 4..=time);
        let fails = !calm && disk.rng.once_in(disk.manners.fail);
        let status = if fails {
            *disk.rng.pick(&[
                Status::UNRECOVERED_ERROR.dnr(),
                Status::INTERNAL_ERROR,
                Status::DATA_TRANSFER_ERROR,
            ])
        } else {
            Status::SUCCESS
        };
        let request = disk.next;
        disk.next += 1;
        let core = self.core;
        let index = disk.index;
        disk.common
            .note("submit", &[index as u64, core as u64, request, time]);
        disk.pending.insert(request, Pending { core, io, status });
        let event = Event::Apply {
            disk: index,
            request,
        };
        disk.common.after(apply, event);
        let event = Event::Done {
            disk: index,
            request,
        };
        disk.common.after(time, event);
        Ok(())
    }

    fn poll(&mut self) -> Option<Done> {
        let done = self.disk.borrow_mut().done[self.core].pop_front()?;
        self.in_flight -= 1;
        Some(done)
    }
}

/// The real RAM drive, with requests and completions held back for a while.
#[derive(Debug)]
pub struct SlowRam {
    common: Common,
    rng: fastrand::Rng,
    manners: Manners,
    core: usize,
    inner: RamQueue,
    held: Vec<(u64, Io)>,
    ripe: Vec<(u64, Done)>,
}

impl SlowRam {
    pub fn new(
        common: Common,
        rng: fastrand::Rng,
        manners: Manners,
        core: usize,
        inner: RamQueue,
    ) -> SlowRam {
        SlowRam {
            common,
            rng,
            manners,
            core,
            inner,
            held: Vec::new(),
            ripe: Vec::new(),
        }
    }

    fn due(&self, time: u64) -> bool {
        time <= self.common.now() || self.common.hurry.get()
    }

    fn later(&mut self) -> u64 {
        let calm = self.common.calm.get();
        let time = self.common.now() + self.manners.time(calm, &mut self.rng) / 2;
        self.common.wake_at(time, self.core);
        time
    }

    fn submit(&mut self, io: Io) -> Result<(), Io> {
        if self.in_flight() >= self.manners.depth {
            return Err(io);
        }
        let time = self.later();
        self.held.push((time, io));
        Ok(())
    }

    fn go_on(&mut self) {
        while let Some(at) = self.held.iter().position(|(time, _)| self.due(*time)) {
            let (_, io) = self.held.swap_remove(at);
            let taken = self.inner.submit(io);
            taken.expect("it holds fewer than the drive takes");
        }
        self.inner.ring_doorbell();
        while let Some(done) = self.inner.poll() {
            let time = self.later();
            self.ripe.push((time, done));
        }
    }

    fn poll(&mut self) -> Option<Done> {
        self.go_on();
        let at = self.ripe.iter().position(|(time, _)| self.due(*time))?;
        Some(self.ripe.swap_remove(at).1)
    }

    fn in_flight(&self) -> usize {
        self.held.len() + self.ripe.len() + self.inner.in_flight()
    }

    fn has_work(&self) -> bool {
        self.inner.has_work()
            || self.held.iter().any(|(time, _)| self.due(*time))
            || self.ripe.iter().any(|(time, _)| self.due(*time))
    }
}

/// Any drive, as one core has it.
#[derive(Debug)]
pub enum SimDrive {
    Disk(DiskQueue),
    Ram(Box<RamQueue>),
    SlowRam(Box<SlowRam>),
}

impl Backend for SimDrive {
    fn submit(&mut self, io: Io) -> Result<(), Io> {
        match self {
            SimDrive::Disk(queue) => queue.submit(io),
            SimDrive::Ram(queue) => queue.submit(io),
            SimDrive::SlowRam(queue) => queue.submit(io),
        }
    }

    fn ring_doorbell(&mut self) {
        match self {
            SimDrive::Disk(_) => (),
            SimDrive::Ram(queue) => queue.ring_doorbell(),
            SimDrive::SlowRam(queue) => queue.go_on(),
        }
    }

    fn poll(&mut self) -> Option<Done> {
        match self {
            SimDrive::Disk(queue) => queue.poll(),
            SimDrive::Ram(queue) => queue.poll(),
            SimDrive::SlowRam(queue) => queue.poll(),
        }
    }

    fn in_flight(&self) -> usize {
        match self {
            SimDrive::Disk(queue) => queue.in_flight,
            SimDrive::Ram(queue) => queue.in_flight(),
            SimDrive::SlowRam(queue) => queue.in_flight(),
        }
    }

    fn brings_memory(&self) -> bool {
        !matches!(self, SimDrive::Disk(_))
    }

    fn space(&mut self, lba: u64, len: usize, into: &mut BufList) -> bool {
        match self {
            SimDrive::Disk(_) => false,
            SimDrive::Ram(queue) => queue.space(lba, len, into),
            SimDrive::SlowRam(queue) => queue.inner.space(lba, len, into),
        }
    }

    fn lends(&self) -> u32 {
        match self {
            SimDrive::Disk(_) => 0,
            SimDrive::Ram(queue) => queue.lends(),
            SimDrive::SlowRam(queue) => queue.inner.lends(),
        }
    }

    fn put(&mut self, buf: Buf) {
        match self {
            SimDrive::Disk(_) => panic!("a disk has no memory of its own"),
            SimDrive::Ram(queue) => queue.put(buf),
            SimDrive::SlowRam(queue) => queue.inner.put(buf),
        }
    }

    fn has_work(&self) -> bool {
        match self {
            SimDrive::Disk(queue) => !queue.disk.borrow().done[queue.core].is_empty(),
            SimDrive::Ram(queue) => queue.has_work(),
            SimDrive::SlowRam(queue) => queue.has_work(),
        }
    }
}

/// Times that fit a fast, a usual and a slow drive, in ns.
pub const DELAYS: [u64; 3] = [5 * US, 60 * US, 400 * US];
