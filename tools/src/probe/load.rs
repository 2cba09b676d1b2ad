//! One link under load: commands in, completions out. A closed loop keeps as many commands under way as the depth says;
//! an open loop sends each when its schedule says, whatever the target does.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ferroce_transport::host::{Completion, Data};

use super::ledger::{Ledger, Turn};
use super::link::{Io, Link};
use super::pattern::Stamp;
use super::report::Totals;
use super::schedule::Schedule;

/// What all loads of a target have in common.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// Namespace.
    pub nsid: u32,
    /// Bytes of its blocks.
    pub block_len: u32,
    /// Blocks of a command, but for one that would go beyond `end`.
    pub blocks: u32,
    /// The first block that is not used.
    pub end: u64,
    /// Of the data, in a run that verifies.
    pub verify: Option<u64>,
    /// Some commands write.
    pub writes: bool,
}

impl Work {
    /// First block and number of blocks of a command.
    #[inline]
    fn span(&self, turn: Turn) -> (u64, u32) {
        let lba = turn.place * u64::from(self.blocks);
        let left = self.end.saturating_sub(lba);
        (lba, self.blocks.min(left.try_into().unwrap_or(u32::MAX)))
    }

    /// Bytes that each command needs: none for reads that nobody looks at.
    fn memory_len(&self) -> usize {
        if self.writes || self.verify.is_some() {
            (self.blocks * self.block_len) as usize
        } else {
            0
        }
    }
}

/// A stretch of time in which a target is measured.
#[derive(Debug)]
pub struct Slice {
    /// From when.
    pub start: Instant,
    /// No command starts from then on.
    pub end: Instant,
    /// What was meant to start before that is counted apart.
    pub early_until: Option<Instant>,
    /// Someone wants it to end.
    pub stop: AtomicBool,
    /// Commands answered so far, for the progress bar.
    pub answered: AtomicU64,
}

impl Slice {
    /// From as soon on as all threads can be there.
    pub fn new(time: Duration, early: Option<Duration>) -> Slice {
        let start = Instant::now() + GATHER;
        Slice {
            start,
            end: start + time,
            early_until: early.map(|early| start + early),
            stop: AtomicBool::new(false),
            answered: AtomicU64::new(0),
        }
    }

    fn is_over(&self, now: Instant) -> bool {
        now >= self.end || self.stop.load(Ordering::Relaxed)
    }
}

/// What it takes to start threads.
const GATHER: Duration = Duration::from_millis(1);
/// A closed loop with nothing to do polls so long before it sleeps, unless it is to doze. An open loop never sleeps
/// otherwise: it would measure its own waking up.
const SPIN: Duration = Duration::from_micros(100);
/// Silence that ends the run.
const SILENCE: Duration = Duration::from_secs(30);
/// The kind of error of commands whose connection died: whether they were carried out is not known.
const LOST: &str = "connection lost";
/// How long the last commands may take.
const DRAIN: Duration = Duration::from_secs(10);

/// A link with what it measures.
#[derive(Debug)]
pub struct Load {
    work: Work,
    link: Link,
    ledger: Ledger,
    schedule: Option<Schedule>,
    slots: Vec<Slot>,
    /// Objects with parts under way or to come; the first is number `objects_from`.
    objects: VecDeque<Object>,
    objects_from: u64,
    /// Slots without a command.
    idle: Vec<usize>,
    phase: Phase,
    totals: Totals,
    early: Totals,
    /// When something last came.
    heard: Instant,
    /// Since when commands wait without any being carried out.
    unserved_since: Option<Instant>,
    /// When one was carried out last: what was meant to start before that waited for its turn, not for service.
    served: Instant,
    /// When it stopped sending what is due.
    stopped: Option<Instant>,
    lasted: Duration,
}

#[derive(Debug)]
enum Phase {
    /// Commands are sent as they are due.
    Running,
    /// The last ones are awaited.
    Draining,
    /// What was written is read once more; not measured.
    ReadingBack(Vec<Turn>),
    /// All is done.
    Over,
    /// It cannot go on.
    Dead(String),
}

/// An object that is not complete.
#[derive(Debug)]
struct Object {
    /// Of its first part.
    start: Instant,
    /// Parts without an answer.
    left: u8,
    /// A part of it failed.
    failed: bool,
}

/// A place for one command, with its memory while it is not under way.
#[derive(Debug)]
struct Slot {
    turn: Turn,
    /// When it was meant to be sent.
    start: Instant,
    memory: Vec<u8>,
}

impl Load {
    /// Commands at a time.
    pub fn depth(&self) -> usize {
        self.slots.len()
    }

    /// On a link, `depth` commands at a time.
    pub fn new(work: Work, link: Link, ledger: Ledger, depth: u16) -> Load {
        let depth = usize::from(depth).min(link.depth());
        let len = work.memory_len();
        let now = Instant::now();
        let slot = |_| Slot {
            turn: Turn::default(),
            start: now,
            // Random, so that a drive or a wire that compresses is not flattered.
            memory: (0..len).map(|_| fastrand::u8(..)).collect(),
        };
        Load {
            work,
            link,
            ledger,
            schedule: None,
            slots: (0..depth).map(slot).collect(),
            objects: VecDeque::new(),
            objects_from: 1,
            idle: (0..depth).rev().collect(),
            phase: Phase::Over,
            totals: Totals::new(),
            early: Totals::new(),
            heard: now,
            unserved_since: None,
            served: now,
            stopped: None,
            lasted: Duration::ZERO,
        }
    }

    /// A slice begins. Without a schedule it is a closed loop.
    pub fn begin(&mut self, slice: &Slice, schedule: Option<Schedule>) {
        self.phase = Phase::Running;
        self.schedule = schedule;
        self.ledger.begin_again();
        (self.totals, self.early) = (Totals::new(), Totals::new());
        (self.heard, self.served, self.unserved_since) = (slice.start, slice.start, None);
        (self.stopped, self.lasted) = (None, Duration::ZERO);
    }

    /// Goes on within the slice, on a new link.
    pub fn resume(&mut self, link: Link) {
        self.link = link;
        self.phase = Phase::Running;
        self.heard = Instant::now();
    }

    /// Closes the link: there is to be another. Commands without an answer are lost.
    pub fn hang_up(&mut self) {
        let why = self.dead().unwrap_or("hung up").to_owned();
        self.link = Link::Gone(why);
        (self.stopped, self.lasted) = (None, Duration::ZERO);
        for at in 0..self.slots.len() {
            if !self.idle.contains(&at) {
                let turn = self.slots[at].turn;
                self.slots[at].memory = vec![0; self.work.memory_len()];
                self.ledger.done(turn, false);
                if turn.object > 0 {
                    self.part_done(turn, false, Instant::now());
                }
                self.idle.push(at);
                *self.totals.errors.entry(LOST.into()).or_default() += 1;
            }
        }
    }

    /// Why it cannot go on.
    pub fn dead(&self) -> Option<&str> {
        match &self.phase {
            Phase::Dead(why) => Some(why),
            _ => None,
        }
    }

    /// Nothing more will happen.
    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over | Phase::Dead(_))
    }

    /// What was measured since `begin`: all but the early part, that part, and how long it took.
    pub fn finish(&mut self, slice: &Slice) -> (Totals, Totals, Duration) {
        let (stopped, lasted) = (self.stopped, self.lasted);
        let is_dead = self.dead().is_some();
        if is_dead {
            self.hang_up();
        }
        let now = Instant::now();
        // To find a target dead takes its time, which is not the run's.
        let until = if is_dead { now.min(slice.end) } else { now };
        self.lasted = match lasted.is_zero() {
            true => until.saturating_duration_since(slice.start),
            false => lasted,
        };
        if let Some(schedule) = &mut self.schedule {
            let until = stopped.unwrap_or(now).min(slice.end);
            if let Some(first) = schedule.due(until, until) {
                self.totals.unsent += 1 + schedule.left(until);
                if is_dead {
                    self.waits_from(first);
                }
            }
        }
        // Nothing ended this wait.
        if let Some(since) = self.unserved_since {
            let until = if is_dead {
                now
            } else {
                slice.start + self.lasted
            };
            let gap = until.saturating_duration_since(since);
            self.totals.gap = self.totals.gap.max(gap);
        }
        let empty = Totals::new();
        let totals = std::mem::replace(&mut self.totals, empty);
        (totals, std::mem::take(&mut self.early), self.lasted)
    }

    /// Sends what is due, and takes what came. False if there was nothing to do.
    pub fn step(&mut self, slice: &Slice) -> bool {
        let mut now = Instant::now();
        let sent = self.fill(now, slice);
        self.link.exchange();
        let mut count = 0;
        while let Some(completion) = self.link.next_done() {
            if count == 0 {
                now = Instant::now();
            }
            count += 1;
            self.complete(completion, now, slice);
        }
        if count > 0 {
            slice.answered.fetch_add(count, Ordering::Relaxed);
            self.heard = now;
            self.fill(now, slice);
            self.link.flush();
        }
        self.advance(now, slice);
        sent || count > 0
    }

    /// Nothing was to do for a while: sleeps if that does no harm, or if it is to `doze`.
    pub fn rest(&mut self, doze: bool) {
        let limit = Duration::from_millis(10);
        match &self.schedule {
            None if self.is_over() => {}
            None if doze || self.heard.elapsed() > SPIN => self.link.wait(limit),
            Some(schedule) if doze && self.link.outstanding() == 0 => {
                std::thread::sleep(schedule.until_next().min(limit));
            }
            // Others may have to run before the answer can come, be it only in the system: one who goes first and
            // polls would wait for those who wait for it.
            Some(_) if doze && self.idle.is_empty() => self.link.wait(limit),
            Some(schedule) if doze => self.link.wait(schedule.until_next().min(limit)),
            _ => std::thread::yield_now(),
        }
    }

    /// From one phase to the next.
    #[inline]
    fn advance(&mut self, now: Instant, slice: &Slice) {
        let outstanding = self.link.outstanding();
        if self.link.is_dead() {
            let why = self.link.error().unwrap_or_default();
            self.stopped.get_or_insert(now);
            self.phase = Phase::Dead(why);
            return;
        }
        let patience = match self.phase {
            Phase::Running => SILENCE,
            _ => DRAIN,
        };
        if outstanding > 0 && now.duration_since(self.heard) > patience {
            self.stopped.get_or_insert(now);
            self.phase = Phase::Dead(format!(
                "no answer for {} s, with {outstanding} commands outstanding",
                patience.as_secs()
            ));
            return;
        }
        match &self.phase {
            Phase::Running => {
                if slice.is_over(now) || (outstanding == 0 && self.ledger.is_exhausted()) {
                    self.phase = Phase::Draining;
                    self.stopped = Some(now);
                    self.heard = now;
                }
            }
            Phase::Draining if outstanding == 0 => {
                self.lasted = now.duration_since(slice.start);
                let read_back = self.work.verify.is_some() && !slice.stop.load(Ordering::Relaxed);
                self.phase = if read_back {
                    Phase::ReadingBack(self.ledger.written().collect())
                } else {
                    Phase::Over
                };
            }
            Phase::ReadingBack(left)
                if outstanding == 0 && (left.is_empty() || slice.stop.load(Ordering::Relaxed)) =>
            {
                self.phase = Phase::Over;
            }
            Phase::Draining | Phase::ReadingBack(_) | Phase::Over | Phase::Dead(_) => (),
        }
    }

    /// Sends as many commands as are due and there are places for; true if there were any.
    #[inline]
    fn fill(&mut self, now: Instant, slice: &Slice) -> bool {
        let mut any = false;
        while let Some(&at) = self.idle.last()
            && let Some((turn, start)) = self.next(now, slice)
            && self.send(at, turn, start, slice)
        {
            any = true;
        }
        any
    }

    /// The next command, and when it was meant to start.
    #[inline]
    fn next(&mut self, now: Instant, slice: &Slice) -> Option<(Turn, Instant)> {
        match &mut self.phase {
            Phase::Running => match &mut self.schedule {
                None if slice.is_over(now) => None,
                None => Some((self.ledger.next()?, now)),
                // What was due before the end is sent, even if we look a little later.
                Some(schedule) => {
                    let start = schedule.due(now, slice.end)?;
                    Some((self.ledger.next()?, start))
                }
            },
            Phase::ReadingBack(_) if slice.stop.load(Ordering::Relaxed) => None,
            Phase::ReadingBack(left) => {
                let turn = left.pop()?;
                self.ledger.begin(turn);
                Some((turn, now))
            }
            Phase::Draining | Phase::Over | Phase::Dead(_) => None,
        }
    }

    #[inline]
    fn send(&mut self, at: usize, turn: Turn, start: Instant, slice: &Slice) -> bool {
        let Work {
            nsid, block_len, ..
        } = self.work;
        let (lba, blocks) = self.work.span(turn);
        let io = Io {
            nsid,
            lba,
            blocks,
            write: turn.write,
        };
        let slot = &mut self.slots[at];
        slot.turn = turn;
        slot.start = start;
        let data = if slot.memory.is_empty() {
            Data::Discard(blocks * block_len)
        } else {
            let mut memory = std::mem::take(&mut slot.memory);
            memory.resize((blocks * block_len) as usize, 0);
            if turn.write {
                let blocks = memory.chunks_exact_mut(block_len as usize);
                for (stamp, block) in self.stamps(turn).zip(blocks) {
                    stamp.fill(block);
                }
            }
            Data::Vec(memory)
        };
        if turn.object >= self.objects_from + self.objects.len() as u64 {
            self.objects.push_back(Object {
                start,
                left: turn.parts,
                failed: false,
            });
        }
        match self.link.submit(&io, data, at as u64) {
            Ok(()) => {
                self.idle.pop();
                self.waits_from(start);
                true
            }
            // It is dead, which `advance` will find; the command was due, and is lost as those under way are.
            Err(data) => {
                self.slots[at].memory = data.into_vec();
                self.done(turn, false, Instant::now());
                // Of a closed loop nothing is due.
                if self.schedule.is_some() {
                    self.failed(start, slice, LOST.to_owned());
                }
                false
            }
        }
    }

    /// A command that was meant to start then waits.
    #[inline]
    fn waits_from(&mut self, start: Instant) {
        self.unserved_since.get_or_insert(start.max(self.served));
    }

    /// What the blocks of a place hold after that write; nothing in runs that do not verify.
    fn stamps(&self, turn: Turn) -> impl Iterator<Item = Stamp> + use<> {
        let (first, blocks) = self.work.span(turn);
        let seed = self.work.verify;
        (0..u64::from(blocks)).filter_map(move |i| {
            Some(Stamp {
                seed: seed?,
                lba: first + i,
                write: turn.number,
            })
        })
    }

    #[inline]
    fn complete(&mut self, completion: Completion, now: Instant, slice: &Slice) {
        let at = completion.user_data as usize;
        let success = completion.is_success();
        let status = completion.status();
        let slot = &mut self.slots[at];
        let (turn, start) = (slot.turn, slot.start);
        slot.memory = completion.data.into_vec();
        self.idle.push(at);
        self.done(turn, success, now);
        if !success {
            let kind = if self.link.is_dead() {
                LOST.to_owned()
            } else {
                status.to_string()
            };
            self.failed(start, slice, kind);
            return;
        }
        let totals = totals_of((&mut self.totals, &mut self.early), start, slice);
        if !matches!(self.phase, Phase::ReadingBack(_)) {
            let flow = if turn.write {
                &mut totals.writes
            } else {
                &mut totals.reads
            };
            let ns = now.saturating_duration_since(start).as_nanos() as u64;
            let bytes = self.work.span(turn).1 * self.work.block_len;
            flow.record(ns, u64::from(bytes));
            self.served = now;
            if let Some(since) = self.unserved_since {
                totals.gap = totals.gap.max(now.saturating_duration_since(since));
                self.unserved_since = (self.link.outstanding() > 0).then_some(now);
            }
        }
        if !turn.write && self.work.verify.is_some() {
            self.check(at);
        }
    }

    /// A command is over.
    #[inline]
    fn done(&mut self, turn: Turn, success: bool, now: Instant) {
        self.ledger.done(turn, success);
        if turn.object > 0 {
            self.part_done(turn, success, now);
        }
    }

    fn failed(&mut self, start: Instant, slice: &Slice, kind: String) {
        let totals = totals_of((&mut self.totals, &mut self.early), start, slice);
        *totals.errors.entry(kind).or_default() += 1;
    }

    /// A part of an object was answered.
    fn part_done(&mut self, turn: Turn, success: bool, now: Instant) {
        let at = (turn.object - self.objects_from) as usize;
        let object = &mut self.objects[at];
        object.left -= 1;
        object.failed |= !success;
        if object.left == 0 && !object.failed {
            let ns = now.saturating_duration_since(object.start).as_nanos() as u64;
            let bytes = u64::from(turn.parts) * u64::from(self.work.blocks * self.work.block_len);
            self.totals.objects.record(ns, bytes);
        }
        while self.objects.front().is_some_and(|object| object.left == 0) {
            self.objects.pop_front();
            self.objects_from += 1;
        }
    }

    fn check(&mut self, at: usize) {
        let memory = std::mem::take(&mut self.slots[at].memory);
        let blocks = memory.chunks_exact(self.work.block_len as usize);
        for (stamp, block) in self.stamps(self.slots[at].turn).zip(blocks) {
            self.totals.blocks_verified += 1;
            if let Err(wrong) = stamp.check(block) {
                self.totals.add_wrong(wrong.to_string());
            }
        }
        self.slots[at].memory = memory;
    }
}

/// Where a command counts that was meant to start then: with all, or with the early ones.
#[inline]
fn totals_of<'a>(
    (all, early): (&'a mut Totals, &'a mut Totals),
    start: Instant,
    slice: &Slice,
) -> &'a mut Totals {
    match slice.early_until {
        Some(until) if start < until => early,
        _ => all,
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory;
    use super::*;
    use crate::cli::{Arrival, Pattern};

    /// Four commands at a time on memory of this process, at 1,000 per second for five seconds that are over.
    fn of_the_past(stop: bool) -> (Load, Slice) {
        let work = Work {
            nsid: 1,
            block_len: 512,
            blocks: 1,
            end: 100,
            verify: None,
            writes: false,
        };
        let link = Link::Memory(Box::new(memory::Queue::new(4, 512)));
        let ledger = Ledger::new(100, (0, 1), Pattern::Random, 0, 1);
        let start = Instant::now() - Duration::from_secs(10);
        let slice = Slice {
            start,
            end: start + Duration::from_secs(5),
            early_until: None,
            stop: AtomicBool::new(stop),
            answered: AtomicU64::new(0),
        };
        let schedule = Schedule::new(start, 1_000.0, Arrival::Fixed, (0, 1), 1);
        let mut load = Load::new(work, link, ledger, 4);
        load.begin(&slice, Some(schedule));
        (load, slice)
    }

    #[test]
    fn what_a_silent_target_was_given_is_lost_and_its_silence_is_a_gap() {
        let (mut load, slice) = of_the_past(true);
        load.fill(Instant::now(), &slice);
        assert_eq!(load.link.outstanding(), 4);
        load.heard = slice.start;
        load.advance(Instant::now(), &slice);
        load.heard = slice.start - SILENCE;
        load.advance(Instant::now(), &slice);
        assert!(load.dead().is_some());
        let (totals, _, _) = load.finish(&slice);
        assert_eq!(totals.errors.get(LOST), Some(&4));
        assert_eq!(totals.unsent, 4_996);
        assert!(totals.gap >= Duration::from_secs(10), "{:?}", totals.gap);
    }

    #[test]
    fn what_was_due_after_the_connection_was_lost_is_unsent() {
        let (mut load, slice) = of_the_past(true);
        load.link = Link::Gone("lost".into());
        load.advance(slice.start + Duration::from_secs(2), &slice);
        let (totals, _, _) = load.finish(&slice);
        assert_eq!((totals.unsent, totals.failed()), (2_000, 0));
        assert!(totals.gap >= Duration::from_secs(10), "{:?}", totals.gap);
    }

    #[test]
    fn what_waits_for_its_turn_is_served_meanwhile() {
        let (mut load, slice) = of_the_past(false);
        load.served = slice.start + Duration::from_secs(5);
        // Of an open loop that is behind: meant to start long ago, sent now.
        load.waits_from(slice.start + Duration::from_secs(1));
        assert_eq!(load.unserved_since, Some(load.served));
        load.unserved_since = None;
        let later = slice.start + Duration::from_secs(6);
        load.waits_from(later);
        assert_eq!(load.unserved_since, Some(later));
    }

    #[test]
    fn the_last_command_ends_where_the_namespace_does() {
        let (load, _) = of_the_past(false);
        let work = Work {
            blocks: 8,
            end: 20,
            ..load.work
        };
        let at = |place| {
            work.span(Turn {
                place,
                ..Turn::default()
            })
        };
        assert_eq!([at(0), at(1), at(2)], [(0, 8), (8, 8), (16, 4)]);
    }

    #[test]
    fn commands_that_all_fail_are_no_service() {
        let (mut load, slice) = of_the_past(false);
        load.unserved_since = Some(slice.start + Duration::from_secs(1));
        load.phase = Phase::Over;
        load.lasted = Duration::from_secs(5);
        let (totals, _, _) = load.finish(&slice);
        assert_eq!(totals.gap, Duration::from_secs(4));
    }
}
