//! The two rings of a queue, in memory the drive reads and writes (Base 3.3.1, 4.2.4; PCIe Transport 3.1.2).
//!
//! Entries are stored and loaded as words; a completion's last word, which has the phase, is loaded first and
//! with acquire, so that what the drive wrote before it is seen. Doorbells are rung for many entries at once.
//!
//! A submission ring needs no look at SQHD: at most one entry less than it has are ever without a completion,
//! and the drive fetches in order, so an entry that is written over was fetched.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use ferroce_wire::prop::{Cap, DOORBELLS};
use ferroce_wire::{Cqe, Sqe};

use crate::dma::DmaMemory;
use crate::mmio::Bar;

const SQE_WORDS: usize = size_of::<Sqe>() / 8;
const CQE_WORDS: usize = size_of::<Cqe>() / 8;
/// The phase tag in a completion's second word: bit 0 of its last two bytes.
const PHASE: u64 = 1 << 48;

/// Where the doorbells of queue `qid` are: the tail of its submission queue, the head of its completion queue.
pub fn doorbells(cap: Cap, qid: u16) -> (u32, u32) {
    let stride = 4u32 << cap.dstrd();
    let tail = DOORBELLS + 2 * u32::from(qid) * stride;
    (tail, tail + stride)
}

/// Commands to the drive.
#[derive(Debug)]
pub struct SubmissionRing {
    memory: Arc<DmaMemory>,
    /// Its first word in the memory.
    start: usize,
    entries: u32,
    tail: u32,
    told: u32,
    doorbell: u32,
}

impl SubmissionRing {
    /// `entries` entries from byte `offset` of the memory on.
    pub fn new(memory: Arc<DmaMemory>, offset: usize, entries: u32, doorbell: u32) -> Self {
        SubmissionRing {
            memory,
            start: offset / 8,
            entries,
            tail: 0,
            told: 0,
            doorbell,
        }
    }

    /// Stores a command. The drive hears of it by [`SubmissionRing::ring`].
    #[inline]
    pub fn push(&mut self, sqe: &Sqe) {
        let words: [u64; SQE_WORDS] = bytemuck::cast(*sqe);
        let at = self.start + self.tail as usize * SQE_WORDS;
        let places = &self.memory.words()[at..at + SQE_WORDS];
        for (place, word) in places.iter().zip(words) {
            place.store(word, Ordering::Relaxed);
        }
        self.tail += 1;
        if self.tail == self.entries {
            self.tail = 0;
        }
    }

    /// Rings the doorbell, if there is anything new.
    #[inline]
    pub fn ring(&mut self, bar: &Bar) {
        if self.tail != self.told {
            bar.write32(self.doorbell, self.tail);
            self.told = self.tail;
        }
    }

    /// As it was when it was made: the drive's queue was made anew.
    pub fn reset(&mut self) {
        (self.tail, self.told) = (0, 0);
    }
}

/// Completions from the drive.
#[derive(Debug)]
pub struct CompletionRing {
    memory: Arc<DmaMemory>,
    start: usize,
    entries: u32,
    head: u32,
    told: u32,
    /// What the phase of a new entry is: inverted each time round.
    phase: u64,
    doorbell: u32,
}

impl CompletionRing {
    /// `entries` entries from byte `offset` of the memory on, which must be zero.
    pub fn new(memory: Arc<DmaMemory>, offset: usize, entries: u32, doorbell: u32) -> Self {
        CompletionRing {
            memory,
            start: offset / 8,
            entries,
            head: 0,
            told: 0,
            phase: PHASE,
            doorbell,
        }
    }

    /// True if there is a completion to be taken.
    #[inline]
    pub fn is_ready(&self) -> bool {
        let last = &self.memory.words()[self.start + self.head as usize * CQE_WORDS + 1];
        u64::from_le(last.load(Ordering::Acquire)) & PHASE == self.phase
    }

    /// The next completion, if it is there.
    #[inline]
    pub fn poll(&mut self) -> Option<Cqe> {
        let at = self.start + self.head as usize * CQE_WORDS;
        let words = self.memory.words();
        let last = words[at + 1].load(Ordering::Acquire);
        if u64::from_le(last) & PHASE != self.phase {
            return None;
        }
        let words = [words[at].load(Ordering::Relaxed), last];
        self.head += 1;
        if self.head == self.entries {
            self.head = 0;
            self.phase ^= PHASE;
        }
        Some(bytemuck::cast(words))
    }

    /// How far we have read: what is taken changes it.
    pub fn place(&self) -> (u32, u64) {
        (self.head, self.phase)
    }

    /// Tells the drive how far we have read, if that is new.
    #[inline]
    pub fn ring(&mut self, bar: &Bar) {
        if self.head != self.told {
            bar.write32(self.doorbell, self.head);
            self.told = self.head;
        }
    }

    /// As it was when it was made; its memory must be zero again.
    pub fn reset(&mut self) {
        (self.head, self.told, self.phase) = (0, 0, PHASE);
    }
}
