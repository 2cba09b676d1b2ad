//! One core's thread: it turns while there is work, polls a while longer, then sleeps.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ferroce_engine::core::{Core, Work};
use ferroce_engine::port::{Backend as _, Fabric as _, Room, Tick};

use crate::config::Spin;
use crate::node::CoreFacts;
use crate::sets::{AnyDrive, AnyFabric};
use crate::wait::{Bed, monotonic_ns};

/// The node's time, the same on all its threads.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// In ns of the monotonic clock.
    start_ns: u64,
    /// Time of day at the start, in ms since 1970.
    start_ms: u64,
}

impl Clock {
    /// Starts now.
    pub fn start() -> Clock {
        let day = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Clock {
            start_ns: monotonic_ns(),
            start_ms: day.as_millis() as u64,
        }
    }

    /// Now.
    #[inline]
    pub fn now(&self) -> Tick {
        Tick(monotonic_ns() - self.start_ns)
    }

    /// The time of day then, in ms since 1970.
    #[inline]
    pub fn wall_ms(&self, now: Tick) -> u64 {
        self.start_ms + now.0 / 1_000_000
    }
}

/// How a core's thread behaves when there is nothing to do.
#[derive(Clone, Copy, Debug)]
pub struct Idling {
    /// As configured.
    pub spin: Spin,
    /// Nobody else wants its CPU. Otherwise others get a chance between two looks.
    pub alone: bool,
}

/// With requests at a drive an answer is near, so a core stays awake longer: sleeping inside every
/// read of a flash drive would cost more than it saves.
const DRIVE_SPIN: Duration = Duration::from_millis(1);

/// What the transports counted is told so long after it was, or twice as long.
const COUNT_NS: u64 = 50_000_000;

/// A core that does not spin, and woke up so few turns ago, sleeps though it was busy: one request keeps it for no longer.
/// Else it looks for more first, which costs less than to have interrupts armed each time.
const TURNS_OF_ONE: u32 = 4;

/// How long a core that has stopped tells peers again, in ms, that their connections have ended (DREQ), unless they answer:
/// of a DREQ that was lost they would find out by themselves, after seconds.
const PARTING_MS: u64 = 1000;

/// How long a core sleeps at most that cannot watch one of its drives.
const UNWATCHED_NS: u64 = 1_000_000;

/// A core with all it needs to run.
#[derive(Debug)]
pub struct Thread {
    /// What runs.
    pub core: Core<AnyFabric, AnyDrive>,
    /// Where it sleeps.
    pub bed: Bed,
    /// The node's.
    pub clock: Clock,
    /// What it does when there is nothing to do.
    pub idling: Idling,
    /// What it tells of itself.
    pub facts: Arc<CoreFacts>,
    /// When what the transports counted is told next.
    pub count_next: Tick,
}

impl Thread {
    /// Runs the core until it is told to stop.
    pub fn run(mut self) {
        if let Some(id) = self.facts.cpu
            && !core_affinity::set_for_current(core_affinity::CoreId { id })
        {
            log::warn!("the system did not let us run on CPU {id} alone");
        }
        let mut now = self.clock.now();
        let mut last_busy = now;
        let mut turns_awake = 0u32;
        loop {
            turns_awake = turns_awake.saturating_add(1);
            let work = self
                .core
                .turn(now, self.clock.wall_ms(now), || self.clock.now());
            if work.stopped {
                self.linger();
                return;
            }
            if work.busy {
                last_busy = now;
                let connections = self.core.fabrics.iter().map(AnyFabric::connections).sum();
                self.facts.connections.store(connections, Ordering::Relaxed);
                let copied = self.core.fabrics.iter().map(AnyFabric::copied).sum();
                self.facts.copied_bytes.set(copied);
            }
            let tired = work.rests
                && (!work.busy || turns_awake < TURNS_OF_ONE)
                && !self.idling.keeps_awake(&work, now.since(last_busy));
            let bedtime = if tired {
                self.arm(!work.wants_back)
            } else {
                None
            };
            if !tired && !work.busy {
                self.idling.pause();
            }
            let then = self.clock.now();
            let spent = if work.busy {
                &self.facts.busy_ns
            } else {
                &self.facts.spinning_ns
            };
            spent.add(then.since(now));
            now = then;
            if let Some(limit) = bedtime {
                self.sleep(now, work.next_timeout, limit);
                now = self.clock.now();
                (last_busy, turns_awake) = (now, 0);
            } else if now >= self.count_next.plus_ns(COUNT_NS) {
                self.count(now);
            }
        }
    }

    /// Nothing of this core is left. Other cores may still need a drive's queue that it has, and then it stays; for peers that do
    /// not know yet, a while.
    fn linger(&mut self) {
        for drive in self.core.drives.iter_mut() {
            drive.on_stop();
        }
        let until = self.clock.now().plus_ms(PARTING_MS);
        let mut needed = true;
        while needed {
            let now = self.clock.now();
            needed = false;
            for fabric in &mut self.core.fabrics {
                if now < until && fabric.is_parting() {
                    while fabric.poll(now, Room::Any).is_some() {}
                    fabric.flush(now);
                    needed = true;
                }
            }
            for drive in self.core.drives.iter_mut() {
                drive.ring_doorbell();
                // Of its own there is nothing any more.
                let _ = drive.poll();
                needed |= drive.is_needed();
            }
            std::thread::yield_now();
        }
    }

    /// Tells what the transports counted. False if somebody reads it just now.
    fn count(&mut self, now: Tick) -> bool {
        let Ok(mut counts) = self.facts.transports.try_lock() else {
            return false;
        };
        counts.clear();
        for fabric in &self.core.fabrics {
            fabric.each_counter(&mut |of, name, count| counts.push((of, name, count)));
        }
        self.count_next = now.plus_ns(COUNT_NS);
        true
    }

    /// Has whatever comes from now on wake this core, if it is `patient` but for what comes home. For how many ns it may
    /// sleep; `None` if there is something already.
    fn arm(&mut self, patient: bool) -> Option<u64> {
        for fabric in self.core.fabrics.iter_mut() {
            if !fabric.arm(patient) {
                return None;
            }
        }
        let mut limit = u64::MAX;
        for drive in self.core.drives.iter_mut() {
            let watched = drive.watch_by(&self.bed).unwrap_or_else(|cause| {
                log::warn!("cannot watch a drive: {cause}");
                false
            });
            if drive.has_work() {
                return None;
            }
            if !watched {
                // Its completions are looked for every now and then.
                limit = UNWATCHED_NS;
            }
        }
        Some(limit)
    }

    /// Blocks until something comes, or `limit` ns at most. What was counted till now is told before, or in time.
    fn sleep(&mut self, now: Tick, due: Option<Tick>, mut limit: u64) {
        if now < self.count_next || !self.count(now) {
            limit = limit.min(self.count_next.since(now));
        }
        limit = limit.min(due.map_or(u64::MAX, |due| due.since(now)));
        let limit = Some(limit).filter(|ns| *ns < u64::MAX);
        self.bed
            .sleep(limit.map(Duration::from_nanos), || !self.core.has_mail());
    }
}

impl Idling {
    /// Between two looks of a core that polls.
    fn pause(self) {
        if self.alone {
            std::hint::spin_loop();
        } else {
            std::thread::yield_now();
        }
    }

    fn keeps_awake(self, work: &Work, idle_ns: u64) -> bool {
        match self.spin {
            Spin::Always => true,
            // Who wants no polling at all gets none here either.
            Spin::For(time) if work.at_drives > 0 && !time.is_zero() => {
                idle_ns < DRIVE_SPIN.as_nanos() as u64
            }
            Spin::For(time) => idle_ns < time.as_nanos() as u64,
        }
    }
}
