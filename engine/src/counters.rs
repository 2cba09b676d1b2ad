//! What a core counts, read by others without disturbing it.

use std::sync::atomic::{AtomicU64, Ordering};

use ferroce_wire::status::Status;

use crate::phases::Phases;

/// One core's counters. Only the core writes them, so counting is a load and a store.
#[repr(align(64))]
#[derive(Debug, Default)]
pub struct Counters {
    /// Read commands completed without error.
    pub reads: Counter,
    /// Write commands completed without error.
    pub writes: Counter,
    /// Bytes sent for reads.
    pub read_bytes: Counter,
    /// Bytes stored by writes.
    pub written_bytes: Counter,
    /// Bytes of payload that the engine copied: in-capsule data that landed in Bufs.
    pub copied_bytes: Counter,
    /// Commands that were answered with an error status.
    pub errors: Errors,
    /// Commands that had to wait for memory or for room at a drive.
    pub waits: Counter,
    /// Queues connected so far.
    pub connects: Counter,
    /// Keep Alive Timers that expired.
    pub keep_alive_expiries: Counter,
    /// Queues connected now.
    pub queues: Counter,
    /// Of these, admin queues.
    pub admin_queues: Counter,
    /// Bytes of all Bufs for data to and from hosts.
    pub pool_bytes: Counter,
    /// Bytes of those that are out, as of the last turn that did something.
    pub pool_out: Counter,
    /// Bytes of all Bufs for in-capsule data.
    pub landing_bytes: Counter,
    /// Bytes of those that are out, as of the last turn that did something.
    pub landing_out: Counter,
    /// Times of I/Os.
    pub phases: Phases,
}

impl Counters {
    /// With room to measure so many pairs of namespace and host apart; see [`Phases::new`].
    pub fn with_series(series: usize) -> Counters {
        Counters {
            phases: Phases::new(series),
            ..Counters::default()
        }
    }

    /// Without times of I/Os; see [`Phases::off`].
    pub fn without_phases() -> Counters {
        Counters {
            phases: Phases::off(),
            ..Counters::default()
        }
    }
}

/// Errors by status.
#[derive(Debug)]
pub struct Errors([Counter; STATUSES]);

/// Status Code Type and Status Code, 3 and 8 bits.
const STATUSES: usize = 1 << 11;

impl Default for Errors {
    fn default() -> Errors {
        Errors(std::array::from_fn(|_| Counter::default()))
    }
}

impl Errors {
    #[cold]
    pub(crate) fn note(&self, status: Status) {
        let at = usize::from(status.sct()) << 8 | usize::from(status.sc());
        self.0[at % STATUSES].add(1);
    }

    /// Those that happened, and how often.
    pub fn read(&self) -> impl Iterator<Item = (Status, u64)> {
        let counted = |(at, count): (usize, &Counter)| {
            let status = Status::new((at >> 8) as u8, at as u8);
            (count.get() > 0).then(|| (status, count.get()))
        };
        self.0.iter().enumerate().filter_map(counted)
    }
}

/// A number with one writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// More of it.
    #[inline]
    pub fn add(&self, more: u64) {
        self.0.store(
            self.0.load(Ordering::Relaxed).wrapping_add(more),
            Ordering::Relaxed,
        );
    }

    /// Less of it.
    #[inline]
    pub fn sub(&self, less: u64) {
        self.0.store(
            self.0.load(Ordering::Relaxed).wrapping_sub(less),
            Ordering::Relaxed,
        );
    }

    /// This is what it is.
    #[inline]
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// What it is.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
