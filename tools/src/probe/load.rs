//! One queue under load: commands in, completions out, as fast as the target answers, with as many
//! commands under way as the depth says.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ferroce_engine::host as nvme;
use ferroce_transport::host::{Completion, Data, Queue};

use super::ledger::{Ledger, Turn};
use super::pattern::Stamp;
use super::report::Totals;

/// What all queues have in common.
#[derive(Debug)]
pub struct Shared {
    /// Namespace.
    pub nsid: u32,
    /// Bytes of its blocks.
    pub block_len: u32,
    /// Blocks of a command.
    pub blocks: u32,
    /// Of the data, in a run that verifies.
    pub verify: Option<u64>,
    /// How long.
    pub time: Duration,
    /// Someone wants it to end.
    pub stop: AtomicBool,
    /// Commands answered so far, for the progress bar.
    pub answered: AtomicU64,
}

/// With nothing to do the thread polls so long before it sleeps.
const SPIN: Duration = Duration::from_micros(100);
/// Silence that ends the run.
const SILENCE: Duration = Duration::from_secs(30);
/// How long the last commands may take.
const DRAIN: Duration = Duration::from_secs(10);

/// A queue with what it measures.
#[derive(Debug)]
pub struct Load<'a> {
    shared: &'a Shared,
    queue: Queue,
    ledger: Ledger,
    slots: Vec<Slot>,
    /// Slots without a command.
    idle: Vec<usize>,
    totals: Totals,
    answered: u64,
    /// How long the load lasted, once it is over: reading back afterwards is not measured.
    lasted: Option<Duration>,
}

/// A place for one command, with its memory while it is not under way.
#[derive(Debug)]
struct Slot {
    turn: Turn,
    sent: Instant,
    memory: Vec<u8>,
}

impl<'a> Load<'a> {
    /// Of a connected queue, `depth` commands at a time.
    pub fn new(shared: &'a Shared, queue: Queue, ledger: Ledger, depth: u16) -> Load<'a> {
        let depth = usize::from(depth).min(queue.depth());
        let len = (shared.blocks * shared.block_len) as usize;
        let slot = |_| Slot {
            turn: Turn {
                place: 0,
                write: false,
                number: 0,
            },
            sent: Instant::now(),
            // Random, so that a drive or a wire that compresses is not flattered.
            memory: (0..len).map(|_| fastrand::u8(..)).collect(),
        };
        Load {
            shared,
            queue,
            ledger,
            slots: (0..depth).map(slot).collect(),
            idle: (0..depth).rev().collect(),
            totals: Totals::new(),
            answered: 0,
            lasted: None,
        }
    }

    /// Runs until the time is over, or someone wants an end, or it cannot go on. What was measured, for
    /// how long, and why it ended if not by time.
    pub fn run(mut self) -> (Totals, Duration, Option<String>) {
        let start = Instant::now();
        let why = self.try_run(start).err();
        if why.is_some() {
            self.shared.stop.store(true, Ordering::Relaxed);
        }
        let lasted = self.lasted.unwrap_or_else(|| start.elapsed());
        (self.totals, lasted, why)
    }

    fn try_run(&mut self, start: Instant) -> Result<(), String> {
        let end = start + self.shared.time;
        self.keep(end, &mut |ledger: &mut Ledger| ledger.next())?;
        self.drain()?;
        self.lasted = Some(start.elapsed());
        if self.shared.verify.is_some() && !self.shared.stop.load(Ordering::Relaxed) {
            self.read_back()?;
        }
        Ok(())
    }

    /// Every block that was written is read once more.
    fn read_back(&mut self) -> Result<(), String> {
        let mut written: Vec<Turn> = self.ledger.written().collect();
        let forever = Instant::now() + Duration::from_secs(365 * 24 * 3600);
        self.keep(forever, &mut |ledger: &mut Ledger| {
            let turn = written.pop()?;
            ledger.begin(turn);
            Some(turn)
        })?;
        self.drain()
    }

    /// Keeps commands under way until `end`, a wish to stop, or no turn is left.
    fn keep(
        &mut self,
        end: Instant,
        next: &mut dyn FnMut(&mut Ledger) -> Option<Turn>,
    ) -> Result<(), String> {
        let mut last = Instant::now();
        self.fill(last, next)?;
        while self.queue.outstanding() > 0 {
            let Some(completion) = self.queue.poll() else {
                last = self.pause(last, SILENCE)?;
                let now = Instant::now();
                if now >= end || self.shared.stop.load(Ordering::Relaxed) {
                    return Ok(());
                }
                continue;
            };
            let now = Instant::now();
            last = now;
            self.complete(completion, now)?;
            if now >= end || self.shared.stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            self.fill(now, next)?;
        }
        Ok(())
    }

    /// Sends as many commands as there are places for.
    #[inline]
    fn fill(
        &mut self,
        now: Instant,
        next: &mut dyn FnMut(&mut Ledger) -> Option<Turn>,
    ) -> Result<(), String> {
        while let Some(&at) = self.idle.last() {
            let Some(turn) = next(&mut self.ledger) else {
                return Ok(());
            };
            self.idle.pop();
            self.send(at, turn, now)?;
        }
        Ok(())
    }

    #[inline]
    fn send(&mut self, at: usize, turn: Turn, now: Instant) -> Result<(), String> {
        let Shared { nsid, blocks, .. } = *self.shared;
        let lba = turn.place * u64::from(blocks);
        let slot = &mut self.slots[at];
        slot.turn = turn;
        slot.sent = now;
        let mut memory = std::mem::take(&mut slot.memory);
        let sqe = if turn.write {
            nvme::write(nsid, lba, blocks, false)
        } else {
            nvme::read(nsid, lba, blocks)
        };
        if turn.write {
            for (stamp, block) in self
                .stamps(turn)
                .zip(memory.chunks_exact_mut(self.shared.block_len as usize))
            {
                stamp.fill(block);
            }
        }
        match self.queue.submit(sqe, Data::Vec(memory), at as u64) {
            Ok(_) => Ok(()),
            Err(_) => Err(self.why_dead()),
        }
    }

    /// What the blocks of a place hold after that write; nothing in runs that do not verify.
    fn stamps(&self, turn: Turn) -> impl Iterator<Item = Stamp> + use<> {
        let first = turn.place * u64::from(self.shared.blocks);
        let blocks = u64::from(self.shared.blocks);
        let seed = self.shared.verify;
        (0..blocks).filter_map(move |i| {
            Some(Stamp {
                seed: seed?,
                lba: first + i,
                write: turn.number,
            })
        })
    }

    #[inline]
    fn complete(&mut self, completion: Completion, now: Instant) -> Result<(), String> {
        if let Some(error) = self.queue.error() {
            return Err(error.to_string());
        }
        let at = completion.user_data as usize;
        let slot = &mut self.slots[at];
        let turn = slot.turn;
        let ns = now.duration_since(slot.sent).as_nanos() as u64;
        let success = completion.is_success();
        let status = completion.status();
        slot.memory = completion.data.into_vec();
        self.idle.push(at);
        self.ledger.done(turn, success);
        self.answered += 1;
        if self.answered.is_multiple_of(64) {
            self.shared.answered.fetch_add(64, Ordering::Relaxed);
        }
        if !success {
            *self.totals.errors.entry(status.to_string()).or_default() += 1;
            return Ok(());
        }
        if self.lasted.is_none() {
            let flow = if turn.write {
                &mut self.totals.writes
            } else {
                &mut self.totals.reads
            };
            flow.record(ns, self.slots[at].memory.len() as u64);
        }
        if !turn.write && self.shared.verify.is_some() {
            self.check(at);
        }
        Ok(())
    }

    fn check(&mut self, at: usize) {
        let memory = std::mem::take(&mut self.slots[at].memory);
        for (stamp, block) in self
            .stamps(self.slots[at].turn)
            .zip(memory.chunks_exact(self.shared.block_len as usize))
        {
            self.totals.blocks_verified += 1;
            if let Err(wrong) = stamp.check(block) {
                self.totals.add_wrong(wrong.to_string());
            }
        }
        self.slots[at].memory = memory;
    }

    /// Waits for what is under way.
    fn drain(&mut self) -> Result<(), String> {
        let mut last = Instant::now();
        while self.queue.outstanding() > 0 {
            match self.queue.poll() {
                Some(completion) => {
                    last = Instant::now();
                    self.complete(completion, last)?;
                }
                None => last = self.pause(last, DRAIN)?,
            }
        }
        Ok(())
    }

    /// Nothing came: polls on for a while, then sleeps until something does.
    fn pause(&mut self, last: Instant, patience: Duration) -> Result<Instant, String> {
        if let Some(error) = self.queue.error() {
            return Err(error.to_string());
        }
        let silent = last.elapsed();
        if silent > patience {
            return Err(format!(
                "no answer for {} s, with {} commands outstanding",
                patience.as_secs(),
                self.queue.outstanding()
            ));
        }
        if silent < SPIN {
            std::thread::yield_now();
        } else {
            self.queue.wait(Duration::from_millis(10));
        }
        Ok(last)
    }

    fn why_dead(&self) -> String {
        self.queue.error().map_or_else(
            || "the queue takes no more commands".into(),
            |error| error.to_string(),
        )
    }
}
