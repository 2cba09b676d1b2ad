//! Where the time of each I/O goes: histograms by namespace, host and operation, and the slowest I/Os
//! kept whole.
//!
//! A core moves commands through the stages of a turn together, so the clock is read once per stage
//! and not once per command: `arrived` is when the turn began in which the capsule was read,
//! `submitted` when the drives were told of the first request, `done` when the last completion was
//! polled, `sent` when the fabric was flushed after it was given the answer. Bytes that a socket did
//! not take then are not waited for.
//!
//! [`Phases`] is what others read, at any time, without disturbing the core: counters with one writer.
//! A lock is taken for names and for the slowest I/Os only, never waited for by the core. Counters are
//! made before the first Connect. What finds no series of its own is counted in the first one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ferroce_wire::opcode::NvmOpcode;

use crate::command::{Command, Slab};
use crate::controller::Association;
use crate::counters::Counter;
use crate::limits::{SERIES_FULL_MS, SERIES_IDLE_MS, SLOWEST};
use crate::port::Tick;

/// Not an I/O command.
pub(crate) const NO_SERIES: u16 = u16::MAX;
/// The series of those that found none of their own.
const OTHERS: u16 = 0;

/// What is told apart of operations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Read.
    Read,
    /// Write.
    Write,
    /// Every other I/O command.
    Other,
}

impl Operation {
    /// All there are.
    pub const ALL: [Operation; 3] = [Operation::Read, Operation::Write, Operation::Other];

    /// For people.
    pub const fn name(self) -> &'static str {
        match self {
            Operation::Read => "read",
            Operation::Write => "write",
            Operation::Other => "other",
        }
    }

    fn of(opcode: u8) -> Operation {
        match NvmOpcode(opcode) {
            NvmOpcode::READ => Operation::Read,
            NvmOpcode::WRITE => Operation::Write,
            _ => Operation::Other,
        }
    }
}

/// A stretch of an I/O's time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// From `arrived` to `submitted`: waiting for memory or for the drive, and a write's data being
    /// fetched.
    Queue,
    /// From `submitted` to `done`.
    Drive,
    /// From `done` to `sent`.
    Send,
    /// From `arrived` to `sent`.
    Total,
}

impl Phase {
    /// All there are.
    pub const ALL: [Phase; 4] = [Phase::Queue, Phase::Drive, Phase::Send, Phase::Total];

    /// For people.
    pub const fn name(self) -> &'static str {
        match self {
            Phase::Queue => "queue",
            Phase::Drive => "drive",
            Phase::Send => "send",
            Phase::Total => "total",
        }
    }
}

/// A histogram's resolution at its low end: 128 ns.
const UNIT_SHIFT: u32 = 7;
/// Buckets of one octave: a bucket is at most an eighth of its value wide.
const PER_OCTAVE: u32 = 8;
/// The longest time told apart, in ns; longer ones are in the last bucket: 34 s.
const TIME_MAX: u64 = (1 << 35) - 1;
/// Buckets of a histogram.
pub const BUCKETS: usize = place(TIME_MAX) + 1;

/// The bucket of a time in ns, if there were one for every time.
#[inline]
const fn place(ns: u64) -> usize {
    let units = ns >> UNIT_SHIFT;
    // Octaves above the first, whose buckets are one unit wide.
    let octave = (units | PER_OCTAVE as u64).ilog2() - PER_OCTAVE.ilog2();
    (octave * PER_OCTAVE) as usize + (units >> octave) as usize
}

/// The bucket of a time in ns.
#[inline]
fn bucket(ns: u64) -> usize {
    place(ns).min(BUCKETS - 1)
}

/// The shortest time in ns that is beyond a bucket.
pub const fn bucket_end(bucket: usize) -> u64 {
    let per_octave = PER_OCTAVE as usize;
    let octave = if bucket < 2 * per_octave {
        0
    } else {
        bucket / per_octave - 1
    };
    ((bucket - octave * per_octave + 1) as u64) << (octave as u32 + UNIT_SHIFT)
}

/// What a core tells of the time of its I/Os.
#[derive(Debug)]
pub struct Phases {
    on: bool,
    series: Box<[Series]>,
    slowest: Slowest,
}

impl Default for Phases {
    /// With few series, for tests.
    fn default() -> Phases {
        Phases::new(4)
    }
}

/// What is counted of one namespace and one host.
#[derive(Debug)]
struct Series {
    /// `None`: nobody's yet, or of the first one, everybody else's.
    who: Mutex<Option<Who>>,
    in_flight: Counter,
    operations: [Counts; Operation::ALL.len()],
}

/// Whose I/O a series counts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Who {
    /// The host.
    pub hostnqn: String,
    /// The subsystem.
    pub subnqn: String,
    /// The namespace.
    pub nsid: u32,
}

impl Who {
    fn is(&self, association: &Association, nsid: u32) -> bool {
        self.nsid == nsid
            && self.hostnqn == association.hostnqn
            && self.subnqn == association.subnqn
    }
}

#[derive(Debug)]
struct Counts {
    bytes: Counter,
    /// Nanoseconds by phase, but for the total, which is their sum.
    sums: [Counter; Phase::Total as usize],
    buckets: [[Counter; BUCKETS]; Phase::ALL.len()],
}

impl Counts {
    /// So many commands took that long.
    #[inline]
    fn add(&self, times: Times, count: u64) {
        let Times { queue, drive, send } = times;
        for (sum, ns) in self.sums.iter().zip([queue, drive, send]) {
            sum.add(ns * count);
        }
        for (buckets, ns) in self.buckets.iter().zip([queue, drive, send, times.total()]) {
            buckets[bucket(ns)].add(count);
        }
    }
}

/// A series as it was when it was read.
#[derive(Clone, Debug)]
pub struct SeriesView {
    /// Whose; `None` is those who have no series of their own.
    pub who: Option<Who>,
    /// Commands under way.
    pub in_flight: u64,
    /// By [`Operation`].
    pub operations: [CountsView; Operation::ALL.len()],
}

/// The counts of one operation.
#[derive(Clone, Debug)]
pub struct CountsView {
    /// Bytes of data that were moved.
    pub bytes: u64,
    /// Nanoseconds by [`Phase`].
    pub sums: [u64; Phase::ALL.len()],
    /// Commands by [`Phase`] and bucket; see [`bucket_end`].
    pub buckets: [[u64; BUCKETS]; Phase::ALL.len()],
}

impl CountsView {
    /// Adds another core's.
    pub fn add(&mut self, more: &CountsView) {
        self.bytes += more.bytes;
        for (sum, more) in self.sums.iter_mut().zip(&more.sums) {
            *sum += more;
        }
        let more = more.buckets.iter().flatten();
        for (count, more) in self.buckets.iter_mut().flatten().zip(more) {
            *count += more;
        }
    }

    /// Commands that were answered.
    pub fn count(&self) -> u64 {
        self.buckets[Phase::Total as usize].iter().sum()
    }
}

impl Phases {
    /// No I/O is timed: what that costs shows beside a core that does it.
    pub fn off() -> Phases {
        Phases {
            on: false,
            ..Phases::new(0)
        }
    }

    /// I/Os are timed.
    pub fn is_on(&self) -> bool {
        self.on
    }

    /// Room for so many pairs of a namespace and a host.
    pub fn new(series: usize) -> Phases {
        assert!(series < usize::from(NO_SERIES), "series fit their number");
        Phases {
            on: true,
            series: (0..=series).map(|_| Series::new()).collect(),
            slowest: Slowest {
                least_ns: AtomicU64::new(0),
                kept: Mutex::new(Vec::with_capacity(SLOWEST)),
            },
        }
    }

    /// All series that somebody has, first of all that of those who have none.
    pub fn read(&self) -> Vec<SeriesView> {
        let used = |(index, series): (usize, &Series)| {
            // The name cannot change while its counts are read.
            let who = lock(&series.who);
            (who.is_some() || index == usize::from(OTHERS)).then(|| series.view(who.clone()))
        };
        self.series.iter().enumerate().filter_map(used).collect()
    }

    /// The slowest I/Os, slowest first; with `reset` they are forgotten.
    pub fn slowest(&self, reset: bool) -> Vec<Slow> {
        let mut kept = lock(&self.slowest.kept);
        let mut slowest = kept.clone();
        if reset {
            kept.clear();
            self.slowest.least_ns.store(0, Ordering::Relaxed);
        }
        drop(kept);
        slowest.sort_by_key(|slow| std::cmp::Reverse(slow.times.total()));
        slowest
    }
}

impl Series {
    fn new() -> Series {
        Series {
            who: Mutex::default(),
            in_flight: Counter::default(),
            operations: std::array::from_fn(|_| Counts {
                bytes: Counter::default(),
                sums: Default::default(),
                buckets: std::array::from_fn(|_| std::array::from_fn(|_| Counter::default())),
            }),
        }
    }

    fn clear(&self) {
        for counts in &self.operations {
            counts.bytes.set(0);
            counts.sums.iter().for_each(|sum| sum.set(0));
            counts
                .buckets
                .iter()
                .flatten()
                .for_each(|count| count.set(0));
        }
    }

    fn view(&self, who: Option<Who>) -> SeriesView {
        let counts = |counts: &Counts| {
            let phases = [0, 1, 2].map(|phase: usize| counts.sums[phase].get());
            CountsView {
                bytes: counts.bytes.get(),
                sums: [phases[0], phases[1], phases[2], phases.iter().sum()],
                buckets: std::array::from_fn(|phase| {
                    std::array::from_fn(|bucket| counts.buckets[phase][bucket].get())
                }),
            }
        };
        SeriesView {
            who,
            in_flight: self.in_flight.get(),
            operations: std::array::from_fn(|operation| counts(&self.operations[operation])),
        }
    }
}

/// The slowest I/Os since the start, or since they were last forgotten.
#[derive(Debug)]
struct Slowest {
    /// What is at most this slow is not kept. Written under the lock.
    least_ns: AtomicU64,
    kept: Mutex<Vec<Slow>>,
}

/// A slow I/O.
#[derive(Clone, Debug)]
pub struct Slow {
    /// Its host and subsystem.
    pub who: Arc<Association>,
    /// Its namespace.
    pub nsid: u32,
    /// OPC.
    pub opcode: u8,
    /// SLBA, of commands that have one.
    pub slba: u64,
    /// Logical blocks, of commands that have some.
    pub blocks: u32,
    /// When it came.
    pub arrived: Tick,
    /// How long it took.
    pub times: Times,
}

/// How long an I/O was in each phase, in ns.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Times {
    /// See [`Phase::Queue`].
    pub queue: u64,
    /// See [`Phase::Drive`].
    pub drive: u64,
    /// See [`Phase::Send`].
    pub send: u64,
}

impl Times {
    /// See [`Phase::Total`].
    #[inline]
    pub fn total(&self) -> u64 {
        self.queue + self.drive + self.send
    }
}

/// When a command was where. Zero is not yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stamps {
    /// The capsule was read.
    pub arrived: Tick,
    /// The drive was told.
    pub submitted: Tick,
    /// The drive was done.
    pub done: Tick,
}

impl Stamps {
    /// Of a command that was sent now. What was refused was at no drive: it spent its time in the
    /// queue.
    #[inline]
    fn times(&self, sent: Tick) -> Times {
        let done = if self.done == Tick(0) {
            sent
        } else {
            self.done
        };
        let submitted = if self.submitted == Tick(0) {
            done
        } else {
            self.submitted
        };
        Times {
            queue: submitted.since(self.arrived),
            drive: done.since(submitted),
            send: sent.since(done),
        }
    }
}

/// The core's side of [`Phases`].
#[derive(Debug)]
pub(crate) struct Clerk {
    /// I/Os are timed.
    pub on: bool,
    /// By queue.
    places: Vec<[Place; PLACES]>,
    /// Whose each series is: the core alone gives them away, and need not lock to look.
    owners: Vec<Option<Who>>,
    /// When a series was used last.
    used: Vec<Tick>,
    /// There was no series to give away: those that were told so do not ask again before.
    full_until: Tick,
    /// Slots whose first request was given to a drive in this turn.
    pub submitted: Vec<u32>,
    /// Slots and queues of commands that were answered in this turn. The slots are free, but have no
    /// new user before the next turn.
    pub answered: Vec<(u32, u32)>,
    /// Slow ones that came while somebody looked at the others.
    late: Vec<Slow>,
}

/// Which series a queue's commands for a namespace count in, found by the low bits of the NSID.
#[derive(Clone, Copy, Debug)]
struct Place {
    nsid: u32,
    series: u16,
}

const PLACES: usize = 64;
const NOWHERE: Place = Place {
    nsid: 0,
    series: OTHERS,
};

impl Clerk {
    /// For a core of so many commands.
    pub fn new(phases: &Phases, commands: usize) -> Clerk {
        Clerk {
            on: phases.on,
            places: Vec::new(),
            owners: vec![None; phases.series.len()],
            used: vec![Tick::default(); phases.series.len()],
            full_until: Tick::default(),
            submitted: Vec::with_capacity(commands),
            answered: Vec::with_capacity(commands),
            late: Vec::with_capacity(SLOWEST),
        }
    }

    /// A queue's slot has a new user.
    pub fn queue_opened(&mut self, queue: u32) {
        let at = queue as usize;
        if self.places.len() <= at {
            self.places.resize(at + 1, [NOWHERE; PLACES]);
        }
        self.places[at] = [NOWHERE; PLACES];
    }

    /// A command for a namespace that exists came: its series.
    #[inline]
    pub fn begin(
        &mut self,
        phases: &Phases,
        queue: u32,
        who: &Arc<Association>,
        nsid: u32,
        now: Tick,
    ) -> u16 {
        if !self.on {
            return NO_SERIES;
        }
        let place = self.places[queue as usize][nsid as usize % PLACES];
        let mut series = place.series;
        if place.nsid != nsid || series == OTHERS {
            series = self.look_up(phases, queue, who, nsid, now);
        }
        phases.series[usize::from(series)].in_flight.add(1);
        series
    }

    /// An I/O command came that is for no namespace.
    #[cold]
    pub fn begin_elsewhere(&mut self, phases: &Phases) -> u16 {
        if !self.on {
            return NO_SERIES;
        }
        phases.series[usize::from(OTHERS)].in_flight.add(1);
        OTHERS
    }

    #[cold]
    fn look_up(
        &mut self,
        phases: &Phases,
        queue: u32,
        who: &Association,
        nsid: u32,
        now: Tick,
    ) -> u16 {
        let (queue, at) = (queue as usize, nsid as usize % PLACES);
        if self.places[queue][at].nsid == nsid && now < self.full_until {
            return OTHERS;
        }
        let series = self.find_or_take(phases, who, nsid, now).unwrap_or(OTHERS);
        self.places[queue][at] = Place { nsid, series };
        series
    }

    /// The pair's own series, or one that nobody has, or one that was long not used; `None` if there
    /// is none, or somebody is reading it: then the next command asks again.
    fn find_or_take(
        &mut self,
        phases: &Phases,
        who: &Association,
        nsid: u32,
        now: Tick,
    ) -> Option<u16> {
        let is = |owner: &Option<Who>| owner.as_ref().is_some_and(|owner| owner.is(who, nsid));
        if let Some(index) = self.owners.iter().position(is) {
            return Some(index as u16);
        }
        if now < self.full_until {
            return None;
        }
        let idle = |index: usize| {
            let quiet = now.since(self.used[index]) >= SERIES_IDLE_MS * 1_000_000;
            quiet && phases.series[index].in_flight.get() == 0
        };
        let mut all = 1..self.owners.len();
        let unused = all.clone().find(|&index| self.owners[index].is_none());
        let Some(index) = unused.or_else(|| all.find(|&index| idle(index))) else {
            self.full_until = Tick(now.0 + SERIES_FULL_MS * 1_000_000);
            return None;
        };
        let series = &phases.series[index];
        let mut name = series.who.try_lock().ok()?;
        series.clear();
        let owner = Who {
            hostnqn: who.hostnqn.clone(),
            subnqn: who.subnqn.clone(),
            nsid,
        };
        *name = Some(owner.clone());
        self.owners[index] = Some(owner);
        self.used[index] = now;
        // Those it was of do not take it for theirs any more.
        for place in self.places.iter_mut().flatten() {
            if usize::from(place.series) == index {
                *place = NOWHERE;
            }
        }
        Some(index as u16)
    }

    /// A drive was given a request of a command: the first one counts, when the stage is over and the drive is
    /// told.
    #[inline]
    pub fn submitted(&mut self, slot: u32, command: &mut Command, now: Tick) {
        if command.stamps.submitted == Tick(0) && command.series != NO_SERIES {
            command.stamps.submitted = now;
            self.submitted.push(slot);
        }
    }

    /// A command is over that was not answered.
    pub fn end(&self, phases: &Phases, series: u16) {
        if series != NO_SERIES {
            phases.series[usize::from(series)].in_flight.sub(1);
        }
    }

    /// Counts those that were answered: they were sent now. `who` says whose a queue is.
    pub fn count<'a>(
        &mut self,
        phases: &Phases,
        slab: &Slab,
        sent: Tick,
        who: impl Fn(u32) -> Option<&'a Arc<Association>>,
    ) {
        let mut from = 0;
        while let Some(&(slot, _)) = self.answered.get(from) {
            // Those that went the same way together are counted together.
            let first = &slab[slot];
            let like = |command: &Command| {
                command.stamps == first.stamps
                    && command.series == first.series
                    && command.sqe.opc == first.sqe.opc
            };
            let (mut to, mut bytes) = (from, 0);
            while let Some(&(slot, _)) = self.answered.get(to)
                && let command = &slab[slot]
                && like(command)
            {
                bytes += u64::from(command.settled);
                to += 1;
            }
            let times = first.stamps.times(sent);
            let index = usize::from(first.series);
            self.used[index] = sent;
            let operation = Operation::of(first.sqe.opc);
            let series = &phases.series[index];
            series.in_flight.sub((to - from) as u64);
            let counts = &series.operations[operation as usize];
            if operation != Operation::Other {
                counts.bytes.add(bytes);
            }
            counts.add(times, (to - from) as u64);
            if times.total() > phases.slowest.least_ns.load(Ordering::Relaxed) {
                self.keep(phases, slab, from..to, times, &who);
            }
            from = to;
        }
        self.answered.clear();
    }

    #[cold]
    fn keep<'a>(
        &mut self,
        phases: &Phases,
        slab: &Slab,
        slow: std::ops::Range<usize>,
        times: Times,
        who: &impl Fn(u32) -> Option<&'a Arc<Association>>,
    ) {
        for at in slow {
            let (slot, queue) = self.answered[at];
            let (Some(who), command) = (who(queue), &slab[slot]) else {
                continue;
            };
            let slow = Slow {
                who: who.clone(),
                nsid: command.sqe.nsid.get(),
                opcode: command.sqe.opc,
                slba: command.first_lba(),
                blocks: command.blocks,
                arrived: command.stamps.arrived,
                times,
            };
            if self.late.len() == SLOWEST {
                keep_slower(&mut self.late, slow);
            } else {
                self.late.push(slow);
            }
        }
        self.hand_over(&phases.slowest);
    }

    /// Puts slow I/Os where others see them, unless somebody is looking just now.
    pub fn hand_over_late(&mut self, phases: &Phases) {
        if !self.late.is_empty() {
            self.hand_over(&phases.slowest);
        }
    }

    fn hand_over(&mut self, slowest: &Slowest) {
        let Ok(mut kept) = slowest.kept.try_lock() else {
            return;
        };
        for slow in self.late.drain(..) {
            if kept.len() < SLOWEST {
                kept.push(slow);
            } else {
                keep_slower(&mut kept, slow);
            }
        }
        if kept.len() == SLOWEST {
            let least = kept
                .iter()
                .map(|slow| slow.times.total())
                .min()
                .unwrap_or(0);
            slowest.least_ns.store(least, Ordering::Relaxed);
        }
    }
}

/// Takes the place of the fastest, if that was faster.
fn keep_slower(kept: &mut [Slow], slow: Slow) {
    let fastest = kept.iter_mut().min_by_key(|kept| kept.times.total());
    if let Some(fastest) = fastest
        && fastest.times.total() < slow.times.total()
    {
        *fastest = slow;
    }
}

/// Nothing panics while it holds one of these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use ferroce_wire::sqe::Sqe;
    use ferroce_wire::status::Status;

    use super::*;
    use crate::controller::Kind;
    use crate::table::Transport;

    #[test]
    fn buckets_are_narrow_and_in_order() {
        assert_eq!(bucket(0), 0);
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
        let mut start = 0;
        for at in 0..BUCKETS {
            let end = bucket_end(at);
            assert_eq!((bucket(start), bucket(end - 1)), (at, at));
            assert!(end - start <= 128 || (end - start) * 8 <= start);
            start = end;
        }
        assert_eq!(start, TIME_MAX + 1);
    }

    fn host(name: &str) -> Arc<Association> {
        let nowhere = ([127, 0, 0, 1], 4420).into();
        Arc::new(Association::new(
            1,
            Kind::Io,
            "nqn.2026-01.test:node".into(),
            name.into(),
            [1; 16],
            Transport::Tcp,
            (nowhere, nowhere),
            1,
            Tick(0),
        ))
    }

    /// A clerk, and what it writes to.
    struct Office {
        phases: Phases,
        clerk: Clerk,
        slab: Slab,
    }

    impl Office {
        fn new(series: usize) -> Office {
            let phases = Phases::new(series);
            Office {
                clerk: Clerk::new(&phases, 8),
                phases,
                slab: Slab::new(8),
            }
        }

        /// A command comes at `at` on a queue, and is answered `took` ns later.
        fn serve(&mut self, queue: u32, who: &Arc<Association>, sqe: Sqe, at: u64, took: u64) {
            let slot = self.begin(queue, who, sqe, at);
            self.answer(slot, queue, who, at + took);
        }

        fn begin(&mut self, queue: u32, who: &Arc<Association>, sqe: Sqe, at: u64) -> u32 {
            let slot = self.slab.take(queue, &sqe, Tick(at)).expect("a free slot");
            let (nsid, clerk) = (sqe.nsid.get(), &mut self.clerk);
            let command = &mut self.slab[slot];
            command.series = clerk.begin(&self.phases, queue, who, nsid, Tick(at));
            command.stamps.submitted = Tick(at + 200);
            command.stamps.done = Tick(at + 1000);
            command.blocks = 1;
            command.settled = 4096;
            slot
        }

        fn answer(&mut self, slot: u32, queue: u32, who: &Arc<Association>, sent: u64) {
            let command = &mut self.slab[slot];
            let ticket = command.ticket.take().expect("not answered yet");
            let _ = ticket.complete(Status::SUCCESS, 0);
            self.clerk.answered.push((slot, queue));
            self.slab.free(slot);
            let (slab, phases) = (&self.slab, &self.phases);
            self.clerk.count(phases, slab, Tick(sent), |_| Some(who));
        }

        fn of(&self, hostnqn: Option<&str>, nsid: u32) -> SeriesView {
            let mut all = self.phases.read().into_iter();
            all.find(|series| match (&series.who, hostnqn) {
                (Some(who), Some(name)) => who.hostnqn == name && who.nsid == nsid,
                (None, None) => true,
                _ => false,
            })
            .expect("there is such a series")
        }
    }

    fn read(nsid: u32) -> Sqe {
        crate::host::read(nsid, 7, 1).with_ids(0, nsid)
    }

    #[test]
    fn each_pair_of_host_and_namespace_has_its_own() {
        let mut office = Office::new(4);
        let (a, b) = (host("nqn.a"), host("nqn.b"));
        for (queue, who) in [(0, &a), (1, &b), (2, &a)] {
            office.clerk.queue_opened(queue);
            office.serve(queue, who, read(1), 5000, 2000);
        }
        // NSID 65 has the place that NSID 1 has.
        office.serve(0, &a, read(65), 5000, 2000);
        office.serve(0, &a, read(1), 5000, 3000);
        let write = crate::host::write(1, 7, 1, false).with_ids(0, 1);
        let under_way = office.begin(1, &b, write, 5000);

        let a1 = office.of(Some("nqn.a"), 1);
        let reads = &a1.operations[Operation::Read as usize];
        assert_eq!((reads.count(), reads.bytes), (3, 3 * 4096));
        assert_eq!(reads.sums, [600, 2400, 4000, 7000]);
        for (phase, ns, count) in [(0, 200, 3), (1, 800, 3), (2, 1000, 2), (3, 3000, 1)] {
            assert_eq!(reads.buckets[phase][bucket(ns)], count, "phase {phase}");
        }
        assert_eq!(a1.operations[Operation::Write as usize].count(), 0);
        assert_eq!(office.of(Some("nqn.a"), 65).operations[0].count(), 1);
        let b1 = office.of(Some("nqn.b"), 1);
        assert_eq!((b1.in_flight, b1.operations[0].count()), (1, 1));
        office.answer(under_way, 1, &b, 9000);
        let b1 = office.of(Some("nqn.b"), 1);
        assert_eq!((b1.in_flight, b1.operations[1].count()), (0, 1));
        assert_eq!(office.of(None, 0).operations[0].count(), 0);
    }

    #[test]
    fn who_finds_no_series_is_counted_with_the_others() {
        let mut office = Office::new(1);
        let (a, b) = (host("nqn.a"), host("nqn.b"));
        (0..2).for_each(|queue| office.clerk.queue_opened(queue));
        office.serve(0, &a, read(1), 5000, 2000);
        office.serve(1, &b, read(1), 5000, 2000);
        assert_eq!(office.of(Some("nqn.a"), 1).operations[0].count(), 1);
        assert_eq!(office.of(None, 0).operations[0].count(), 1);

        // A command under way keeps the series; after that it is free to who comes, and empty.
        let later = (SERIES_IDLE_MS + 1) * 1_000_000;
        let slot = office.begin(0, &a, read(1), later);
        office.serve(1, &b, read(1), 2 * later, 2000);
        assert_eq!(office.of(None, 0).operations[0].count(), 2);
        office.answer(slot, 0, &a, later + 2000);
        office.serve(1, &b, read(1), 3 * later, 2000);
        assert_eq!(office.of(Some("nqn.b"), 1).operations[0].count(), 1);
        // The queue that knew the series does not take it for its own.
        office.serve(0, &a, read(1), 3 * later, 2000);
        assert_eq!(office.of(Some("nqn.b"), 1).operations[0].count(), 1);
        assert_eq!(office.of(None, 0).operations[0].count(), 3);
    }

    #[test]
    fn what_nobody_has_is_given_away_before_what_is_idle() {
        let mut office = Office::new(2);
        let (a, b) = (host("nqn.a"), host("nqn.b"));
        (0..2).for_each(|queue| office.clerk.queue_opened(queue));
        office.serve(0, &a, read(1), 5000, 2000);
        let later = (SERIES_IDLE_MS + 1) * 1_000_000;
        office.serve(1, &b, read(1), later, 2000);
        assert_eq!(office.of(Some("nqn.a"), 1).operations[0].count(), 1);
        assert_eq!(office.of(Some("nqn.b"), 1).operations[0].count(), 1);
    }

    #[test]
    fn who_was_told_that_there_is_none_asks_again_later() {
        let mut office = Office::new(1);
        let (a, b) = (host("nqn.a"), host("nqn.b"));
        (0..2).for_each(|queue| office.clerk.queue_opened(queue));
        office.serve(0, &a, read(1), 0, 2000);
        let full = |office: &Office| office.clerk.full_until.0;
        let wait = SERIES_FULL_MS * 1_000_000;
        office.serve(1, &b, read(1), 5000, 2000);
        assert_eq!(full(&office), 5000 + wait);
        // Nobody looks for a free one until then, not for another pair either.
        office.serve(1, &b, read(1), 6000, 2000);
        office.serve(1, &b, read(2), 7000, 2000);
        assert_eq!(full(&office), 5000 + wait);
        office.serve(1, &b, read(1), 5000 + wait, 2000);
        assert_eq!(full(&office), 5000 + 2 * wait);
        assert_eq!(office.of(None, 0).operations[0].count(), 4);
    }

    #[test]
    fn the_slowest_are_kept() {
        let mut office = Office::new(1);
        let a = host("nqn.a");
        office.clerk.queue_opened(0);
        for i in 0..200 {
            // Neither ascending nor descending.
            office.serve(0, &a, read(1), 5000, 2000 + i * 77 % 200);
        }
        let totals = |slowest: Vec<Slow>| -> Vec<u64> {
            slowest.iter().map(|slow| slow.times.total()).collect()
        };
        let expected: Vec<u64> = (2136..2200).rev().collect();
        let slowest = office.phases.slowest(true);
        let first = &slowest[0];
        assert_eq!((first.nsid, first.slba, first.blocks), (1, 7, 1));
        assert_eq!(
            first.times,
            Times {
                queue: 200,
                drive: 800,
                send: 1199
            }
        );
        assert_eq!(totals(slowest), expected);
        assert!(office.phases.slowest(false).is_empty());

        // Who looks does not make the core wait, and nothing is lost.
        let kept = office.phases.slowest.kept.lock().expect("nobody panicked");
        let (phases, slab) = (&office.phases, &office.slab);
        office.clerk.answered.push((0, 0));
        office.clerk.count(phases, slab, Tick(9000), |_| Some(&a));
        drop(kept);
        assert!(office.phases.slowest(false).is_empty());
        office.clerk.hand_over_late(&office.phases);
        assert_eq!(office.phases.slowest(false).len(), 1);
    }
}
