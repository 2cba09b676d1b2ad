//! A bad day for a drive, for tests: on a virtual clock, and the same again from the same seed.
//!
//! [`Fault`] is put around any drive's queue. Requests start and end at times drawn from its seed, so
//! they overtake each other; some fail, with or without having been done; sometimes nothing moves for
//! a while; sometimes the queue or the memory is full.
//!
//! [`Media`] is a drive of its own: an array of blocks with a volatile cache in front, as the
//! specification allows it to be. What was neither flushed nor written with FUA may vanish at
//! [`Media::power_off`], each block on its own, back to any state since the last Flush.
//!
//! Left out on purpose: a block that is torn. Every drive writes one block whole or not at all (AWUPF
//! is at least 0), so no node could do better; [`Plant`] has it to show that a test would notice.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fastrand::Rng;
use ferroce_buf::{Buf, BufList, Home};
use ferroce_engine::port::{Backend, Done, DriveInfo, Io, Op, Tag, Tick};
use ferroce_wire::status::Status;

/// The time of a simulation. Clones show the same time.
#[derive(Clone, Debug, Default)]
pub struct Clock(Arc<AtomicU64>);

impl Clock {
    /// The time now.
    pub fn now(&self) -> Tick {
        Tick(self.0.load(Ordering::Relaxed))
    }

    /// It is later now.
    pub fn set(&self, now: Tick) {
        let before = self.0.swap(now.0, Ordering::Relaxed);
        assert!(before <= now.0, "time goes forward");
    }
}

/// What goes wrong, and how often. By default nothing does, and all is done at once.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// The shortest and longest time a request takes.
    pub delay_ns: (u64, u64),
    /// Of 1000 requests, how many take up to `slow_ns` longer.
    pub slow_per_mille: u32,
    /// See `slow_per_mille`.
    pub slow_ns: u64,
    /// Of 1000 requests, how many fail.
    pub error_per_mille: u32,
    /// Of 1000 requests, after how many the drive stands still for up to `stall_ns`.
    pub stall_per_mille: u32,
    /// See `stall_per_mille`.
    pub stall_ns: u64,
    /// Of 1000 requests, how many find the queue full, and asks for space, how many find none.
    pub full_per_mille: u32,
}

/// How the faults of a drive are changed while it runs. Clones are the same.
#[derive(Clone, Debug)]
pub struct Control(Arc<State>);

#[derive(Debug)]
struct State {
    clock: Clock,
    faults: Mutex<Faults>,
    /// Nothing moves until then.
    stalled_until: AtomicU64,
    /// Everything fails.
    gone: AtomicBool,
}

impl Control {
    /// For a drive that has these faults.
    pub fn new(clock: Clock, faults: Faults) -> Control {
        Control(Arc::new(State {
            clock,
            faults: Mutex::new(faults),
            stalled_until: AtomicU64::new(0),
            gone: AtomicBool::new(false),
        }))
    }

    /// Other faults from now on.
    pub fn set_faults(&self, faults: Faults) {
        *locked(&self.0.faults) = faults;
    }

    /// Nothing moves until then.
    pub fn stall_until(&self, until: Tick) {
        self.0.stalled_until.fetch_max(until.0, Ordering::Relaxed);
    }

    /// The drive was pulled out, or put back.
    pub fn set_gone(&self, gone: bool) {
        self.0.gone.store(gone, Ordering::Relaxed);
    }

    fn now(&self) -> Tick {
        self.0.clock.now()
    }

    fn stalled(&self) -> bool {
        self.0.stalled_until.load(Ordering::Relaxed) > self.now().0
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A drive's queue with faults.
#[derive(Debug)]
pub struct Fault<B> {
    inner: B,
    control: Control,
    rng: Rng,
    /// Submitted; the drive has not looked at them yet.
    held: Vec<Held>,
    /// The drive works on them.
    running: Vec<(Tag, Fate)>,
    /// Done, and not told yet.
    finished: Vec<(Tick, Done)>,
}

/// A request and when it starts.
#[derive(Debug)]
struct Held {
    start: Tick,
    io: Io,
    fate: Fate,
}

/// When a request ends, and how if not as the drive says.
#[derive(Clone, Copy, Debug)]
struct Fate {
    end: Tick,
    error: Option<Status>,
    /// It is done although it fails.
    done_anyway: bool,
}

impl<B: Backend> Fault<B> {
    /// Around a queue. Every queue of a drive has a seed of its own and the drive's control.
    pub fn new(inner: B, control: Control, seed: u64) -> Fault<B> {
        Fault {
            inner,
            control,
            rng: Rng::with_seed(seed),
            held: Vec::new(),
            running: Vec::new(),
            finished: Vec::new(),
        }
    }

    /// The queue inside.
    pub fn inner(&self) -> &B {
        &self.inner
    }

    /// When something happens next if the node does nothing: for who turns the clock.
    pub fn next_event(&self) -> Option<Tick> {
        let starts = self.held.iter().map(|held| held.start);
        let ends = self.finished.iter().map(|(end, _)| *end);
        let next = starts.chain(ends).min()?;
        let stall = Tick(self.control.0.stalled_until.load(Ordering::Relaxed));
        Some(next.max(stall))
    }

    /// The node dies. Of the requests the drive has not looked at, each is done or not. The Bufs of
    /// all of them, for whoever counts; memory of the drive's own went home.
    pub fn kill(mut self) -> (B, Vec<BufList>) {
        let mut lists = Vec::new();
        let held = std::mem::take(&mut self.held);
        for held in held {
            if self.rng.bool() {
                lists.push(held.io.bufs);
            } else if let Err(io) = self.inner.submit(held.io) {
                lists.push(io.bufs);
            }
        }
        self.inner.ring_doorbell();
        while let Some(done) = self.inner.poll() {
            lists.push(done.bufs);
        }
        lists.extend(self.finished.drain(..).map(|(_, done)| done.bufs));
        if self.inner.brings_memory() {
            for bufs in &mut lists {
                // Its own, or what it was to copy into.
                while bufs.iter().any(|buf| buf.home() != Home::CORE)
                    && let Some(buf) = bufs.pop()
                {
                    self.inner.put(buf);
                }
            }
            lists.retain(|bufs| !bufs.is_empty());
        }
        (self.inner, lists)
    }

    fn fate(&mut self, op: Op) -> (Tick, Fate) {
        let now = self.control.now();
        let faults = locked(&self.control.0.faults).clone();
        let rng = &mut self.rng;
        let (least, most) = faults.delay_ns;
        let mut takes = rng.u64(least..=most.max(least));
        if rng.u32(0..1000) < faults.slow_per_mille {
            takes += rng.u64(0..=faults.slow_ns);
        }
        if rng.u32(0..1000) < faults.stall_per_mille {
            let until = now.plus_ns(rng.u64(0..=faults.stall_ns));
            self.control.stall_until(until);
        }
        let fails = rng.u32(0..1000) < faults.error_per_mille;
        let changes = !matches!(op, Op::Read { .. } | Op::Verify { .. } | Op::Flush);
        let error = fails.then(|| match op {
            _ if rng.bool() => Status::COMMAND_INTERRUPTED,
            Op::Read { .. } | Op::Verify { .. } => Status::UNRECOVERED_READ_ERROR,
            _ => Status::WRITE_FAULT,
        });
        let fate = Fate {
            end: now.plus_ns(takes),
            error,
            done_anyway: changes && rng.bool(),
        };
        (now.plus_ns(rng.u64(0..=takes)), fate)
    }

    /// Gives the drive what is due, in the order it is due.
    fn start_due(&mut self) {
        let now = self.control.now();
        while let Some(at) = (0..self.held.len())
            .filter(|at| self.held[*at].start <= now)
            .min_by_key(|at| self.held[*at].start)
        {
            let Held { start, io, fate } = self.held.remove(at);
            let tag = io.tag;
            if let Some(status) = fate.error
                && !fate.done_anyway
            {
                let bufs = io.bufs;
                self.finished.push((fate.end, Done { tag, status, bufs }));
                continue;
            }
            if let Err(io) = self.inner.submit(io) {
                self.held.insert(at, Held { start, io, fate });
                break;
            }
            self.running.push((tag, fate));
        }
        self.inner.ring_doorbell();
        while let Some(mut done) = self.inner.poll() {
            let at = self.running.iter().position(|(tag, _)| *tag == done.tag);
            let (_, fate) = self
                .running
                .remove(at.expect("a drive answers what it was asked"));
            if let Some(error) = fate.error {
                done.status = error;
            }
            self.finished.push((fate.end, done));
        }
    }
}

impl<B: Backend> Backend for Fault<B> {
    fn submit(&mut self, io: Io) -> Result<(), Io> {
        let full = locked(&self.control.0.faults).full_per_mille;
        // An empty queue is never full, or nothing would ever make the engine try again.
        if self.in_flight() > 0 && self.rng.u32(0..1000) < full {
            return Err(io);
        }
        if self.control.0.gone.load(Ordering::Relaxed) {
            let now = self.control.now();
            let Io { tag, bufs, .. } = io;
            let status = Status::INTERNAL_ERROR.dnr();
            self.finished.push((now, Done { tag, status, bufs }));
            return Ok(());
        }
        let (start, fate) = self.fate(io.op);
        self.held.push(Held { start, io, fate });
        Ok(())
    }

    fn ring_doorbell(&mut self) {
        if !self.control.stalled() {
            self.start_due();
        }
    }

    fn poll(&mut self) -> Option<Done> {
        if self.control.stalled() {
            return None;
        }
        self.start_due();
        let now = self.control.now();
        let at = (0..self.finished.len())
            .filter(|at| self.finished[*at].0 <= now)
            .min_by_key(|at| self.finished[*at].0)?;
        Some(self.finished.remove(at).1)
    }

    fn in_flight(&self) -> usize {
        self.held.len() + self.running.len() + self.finished.len()
    }

    fn brings_memory(&self) -> bool {
        self.inner.brings_memory()
    }

    fn space(&mut self, lba: u64, len: usize, into: &mut BufList) -> bool {
        let full = locked(&self.control.0.faults).full_per_mille;
        self.rng.u32(0..1000) >= full && self.inner.space(lba, len, into)
    }

    fn lends(&self) -> u32 {
        self.inner.lends()
    }

    fn put(&mut self, buf: Buf) {
        self.inner.put(buf);
    }

    fn has_work(&self) -> bool {
        let due = self
            .next_event()
            .is_some_and(|next| next <= self.control.now());
        due || (!self.running.is_empty() && self.inner.has_work())
    }
}

/// Mistakes of a drive, to show that a test notices them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Plant {
    /// Flush says it is done, and does nothing.
    FlushLies,
    /// FUA goes to the cache like any write.
    FuaIsCached,
    /// Of one block in a hundred only the first half is written.
    TornBlock,
    /// One write in a hundred is not done.
    LostWrite,
}

/// A drive with a volatile cache, in memory, that all cores of a simulation share.
#[derive(Debug)]
pub struct Media {
    info: DriveInfo,
    blocks: AtomicU64,
    inside: Mutex<Inside>,
}

#[derive(Debug)]
struct Inside {
    /// What survives.
    media: Vec<u8>,
    /// By block, everything written since the last Flush, oldest first.
    cache: BTreeMap<u64, Vec<Box<[u8]>>>,
    rng: Rng,
    plant: Option<Plant>,
}

impl Media {
    /// A drive of zeros. `info` says what it is; it does not bring memory.
    pub fn new(info: DriveInfo, seed: u64) -> Arc<Media> {
        assert!(!info.brings_memory, "this drive uses the engine's memory");
        let len = info.blocks as usize * info.block_len as usize;
        Arc::new(Media {
            blocks: AtomicU64::new(info.blocks),
            info,
            inside: Mutex::new(Inside {
                media: vec![0; len],
                cache: BTreeMap::new(),
                rng: Rng::with_seed(seed),
                plant: None,
            }),
        })
    }

    /// What hosts are told.
    pub fn info(&self) -> DriveInfo {
        DriveInfo {
            blocks: self.blocks.load(Ordering::Relaxed),
            ..self.info.clone()
        }
    }

    /// Changes the capacity. New blocks are zeros.
    pub fn resize(&self, blocks: u64) {
        let mut inside = locked(&self.inside);
        let len = blocks as usize * self.info.block_len as usize;
        inside.media.resize(len, 0);
        inside.cache.retain(|lba, _| *lba < blocks);
        self.blocks.store(blocks, Ordering::Relaxed);
    }

    /// One core's part.
    pub fn open(self: &Arc<Self>) -> MediaQueue {
        MediaQueue {
            media: self.clone(),
            done: VecDeque::new(),
        }
    }

    /// From now on the drive makes this mistake.
    pub fn plant(&self, plant: Plant) {
        locked(&self.inside).plant = Some(plant);
    }

    /// The power fails and comes back. Every block is what it was at the last Flush, or any of what
    /// was written to it since. How many blocks lost something.
    pub fn power_off(&self) -> usize {
        let mut inside = locked(&self.inside);
        let Inside {
            media, cache, rng, ..
        } = &mut *inside;
        let len = self.info.block_len as usize;
        let mut lost = 0;
        for (lba, versions) in std::mem::take(cache) {
            let survivor = rng.usize(0..=versions.len());
            if let Some(version) = survivor.checked_sub(1) {
                media[lba as usize * len..][..len].copy_from_slice(&versions[version]);
            }
            lost += usize::from(survivor < versions.len());
        }
        lost
    }

    /// A block as a host would read it.
    pub fn block(&self, lba: u64) -> Vec<u8> {
        let mut out = vec![0; self.info.block_len as usize];
        locked(&self.inside).read(lba, &mut out);
        out
    }

    /// Blocks that a power failure may change.
    pub fn unflushed(&self) -> Vec<u64> {
        locked(&self.inside).cache.keys().copied().collect()
    }

    /// Does a request. Bufs to be read into are filled.
    fn execute(&self, op: Op, bufs: &mut BufList) -> Status {
        let len = self.info.block_len as usize;
        let (lba, blocks) = match op {
            Op::Flush => (0, 0),
            Op::Read { lba, blocks }
            | Op::Verify { lba, blocks }
            | Op::Write { lba, blocks, .. }
            | Op::WriteZeroes { lba, blocks, .. }
            | Op::Deallocate { lba, blocks } => (lba, blocks),
        };
        let end = lba.checked_add(u64::from(blocks));
        if end.is_none_or(|end| end > self.blocks.load(Ordering::Relaxed)) {
            return Status::LBA_OUT_OF_RANGE.dnr();
        }
        let changes = !matches!(op, Op::Read { .. } | Op::Verify { .. } | Op::Flush);
        if changes && self.info.read_only {
            return Status::NAMESPACE_WRITE_PROTECTED.dnr();
        }
        let mut inside = locked(&self.inside);
        let lbas = lba..lba + u64::from(blocks);
        let mut block = vec![0; len];
        match op {
            Op::Read { .. } => {
                assert!(
                    bufs.len() == blocks as usize * len,
                    "the Bufs are the blocks"
                );
                for (number, lba) in lbas.enumerate() {
                    inside.read(lba, &mut block);
                    bufs.copy_in(number * len, &block);
                }
            }
            Op::Verify { .. } => {}
            Op::Flush => inside.flush(len),
            Op::Write { fua, .. } => {
                assert!(
                    bufs.len() == blocks as usize * len,
                    "the Bufs are the blocks"
                );
                if inside.plant == Some(Plant::LostWrite) && inside.rng.u32(0..100) == 0 {
                    return Status::SUCCESS;
                }
                for (number, lba) in lbas.enumerate() {
                    bufs.copy_out(number * len, &mut block);
                    inside.write(lba, &block, fua);
                }
            }
            Op::WriteZeroes { fua, .. } => {
                for lba in lbas {
                    inside.write(lba, &block, fua);
                }
            }
            Op::Deallocate { .. } => {
                for lba in lbas {
                    inside.write(lba, &block, false);
                }
            }
        }
        Status::SUCCESS
    }
}

impl Inside {
    fn read(&self, lba: u64, out: &mut [u8]) {
        let at = lba as usize * out.len();
        match self.cache.get(&lba).and_then(|versions| versions.last()) {
            Some(block) => out.copy_from_slice(block),
            None => out.copy_from_slice(&self.media[at..at + out.len()]),
        }
    }

    fn write(&mut self, lba: u64, block: &[u8], fua: bool) {
        let mut block: Box<[u8]> = block.into();
        if self.plant == Some(Plant::TornBlock) && self.rng.u32(0..100) == 0 {
            let mut old = vec![0; block.len()];
            self.read(lba, &mut old);
            let half = block.len() / 2;
            block[half..].copy_from_slice(&old[half..]);
        }
        if fua && self.plant != Some(Plant::FuaIsCached) {
            self.cache.remove(&lba);
            self.media[lba as usize * block.len()..][..block.len()].copy_from_slice(&block);
        } else {
            self.cache.entry(lba).or_default().push(block);
        }
    }

    fn flush(&mut self, len: usize) {
        if self.plant == Some(Plant::FlushLies) {
            return;
        }
        for (lba, versions) in std::mem::take(&mut self.cache) {
            let last = versions.last().expect("a cached block was written");
            self.media[lba as usize * len..][..len].copy_from_slice(last);
        }
    }
}

/// One core's part of a [`Media`]. Does everything at once; put [`Fault`] around it.
#[derive(Debug)]
pub struct MediaQueue {
    media: Arc<Media>,
    done: VecDeque<Done>,
}

impl Backend for MediaQueue {
    fn submit(&mut self, io: Io) -> Result<(), Io> {
        let Io { tag, op, mut bufs } = io;
        let status = self.media.execute(op, &mut bufs);
        self.done.push_back(Done { tag, status, bufs });
        Ok(())
    }

    fn ring_doorbell(&mut self) {}

    fn poll(&mut self) -> Option<Done> {
        self.done.pop_front()
    }

    fn in_flight(&self) -> usize {
        self.done.len()
    }

    fn has_work(&self) -> bool {
        !self.done.is_empty()
    }
}

impl Fault<MediaQueue> {
    /// The power fails while requests are under way: of those the drive has not looked at, each block
    /// of a write is written or not. The Bufs of all of them, for whoever counts. Call
    /// [`Media::power_off`] when all cores were told.
    pub fn power_off(mut self) -> Vec<BufList> {
        let media = self.inner.media.clone();
        let len = media.info.block_len as usize;
        for held in &self.held {
            let Op::Write { lba, blocks, .. } = held.io.op else {
                continue;
            };
            let mut block = vec![0; len];
            for number in 0..u64::from(blocks) {
                if self.rng.bool() && lba + number < media.blocks.load(Ordering::Relaxed) {
                    held.io.bufs.copy_out(number as usize * len, &mut block);
                    locked(&media.inside).write(lba + number, &block, false);
                }
            }
        }
        let held = self.held.drain(..).map(|held| held.io.bufs);
        let finished = self.finished.drain(..).map(|(_, done)| done.bufs);
        held.chain(finished).collect()
    }
}
