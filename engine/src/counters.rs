//! What a core counts, read by others without disturbing it.

use std::sync::atomic::{AtomicU64, Ordering};

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
    /// Commands that ended with an error status.
    pub errors: Counter,
    /// Commands that had to wait for memory or for room at a drive.
    pub waits: Counter,
    /// Queues connected so far.
    pub connects: Counter,
    /// Keep Alive Timers that expired.
    pub keep_alive_expiries: Counter,
    /// Queues connected now.
    pub queues: Counter,
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

    /// What it is.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
