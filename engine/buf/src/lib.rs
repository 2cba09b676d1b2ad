//! Memory that devices may see: [`Region`]s, and the [`Buf`]s dealt from them.
//!
//! A [`Buf`] is a piece of a region. Holding one is the right to touch its bytes; it is not `Clone`,
//! and it goes home explicitly, to the [`Pool`] or [`Pages`] named by [`Buf::home`], because the data
//! path has no place for a shared counter. Bufs come in two kinds: exclusive ones, whose bytes may be
//! written, and shared ones (from [`Pages::share`]), which only read.
//!
//! This crate is one of the rooms where `unsafe` lives: it owns the mapping, and hands out slices of
//! it. The invariants are few:
//! - a mapping lives as long as any `Buf` into it: who deals Bufs counts them, and keeps the mapping
//!   for ever if it is dropped while some are out;
//! - two exclusive Bufs never overlap, and a shared Buf never overlaps an exclusive one.
//!
//! What is left out on purpose: growing (all memory is there before the first Connect), and
//! addresses as devices know them (lkeys, IOVAs): a provider finds those by [`Buf::region`].
#![allow(unsafe_code)]

mod list;
mod pages;
mod pool;
mod region;

pub use list::BufList;
pub use pages::{NoPage, Page, Pages};
pub use pool::{Class, Pool};
pub use region::{PageKind, Region, RegionId, Want};

use std::ptr::NonNull;

/// The unit all memory is laid out in, in bytes.
pub const PAGE: usize = 4096;

/// Who deals a [`Buf`] and takes it back: a core's pool, or a drive with memory of its own.
///
/// The number is the owner's choice; it is unique within the node, so that a Buf that strays to the
/// wrong owner is recognised.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Home(pub u16);

impl Home {
    /// The home of buffers that belong to a core.
    pub const CORE: Home = Home(0);
}

/// The right to touch some bytes of a [`Region`].
///
/// Not `Clone`, no `Drop`: it must be given back to its [`Home`]. One that is dropped instead is
/// lost to its pool, which tests notice by counting.
#[derive(Debug)]
#[must_use = "a Buf that is dropped is lost to its pool"]
pub struct Buf {
    at: NonNull<u8>,
    len: u32,
    index: u32,
    region: RegionId,
    home: Home,
    dealt_to: u16,
    // No `bool`: its spare values would be what says that an `Option` has no Buf, and a list is then moved field by field
    // and not in words.
    shared: u8,
    /// Which of its pool's sizes; of shared pages, how many were joined to the first.
    class: u8,
}

// They are moved a lot.
const _: () = assert!(size_of::<Buf>() == 24 && size_of::<Option<Buf>>() == 24);

// SAFETY: a Buf is the sole owner of its bytes, or a reader of bytes nobody writes while it lives.
unsafe impl Send for Buf {}

impl Buf {
    /// The bytes. Their number is what was asked for, or what [`Buf::truncate`] left.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: `at` and `len` lie inside a mapped region that outlives every Buf (module docs).
        // Nobody writes these bytes: exclusive Bufs do not overlap, shared ones are only read.
        unsafe { std::slice::from_raw_parts(self.at.as_ptr(), self.len as usize) }
    }

    /// The bytes, to be written.
    ///
    /// # Panics
    /// If the Buf is shared: its bytes may be on their way to a host.
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        assert!(!self.is_shared(), "a shared Buf is never written");
        // SAFETY: as in `bytes`, and an exclusive Buf overlaps no other.
        unsafe { std::slice::from_raw_parts_mut(self.at.as_ptr(), self.len as usize) }
    }

    /// Where the bytes start, for a device or a system call.
    #[inline]
    pub fn as_ptr(&self) -> *const u8 {
        self.at.as_ptr()
    }

    /// Length in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// True if it has no bytes.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Keeps the first `len` bytes in view. The whole buffer still goes home.
    ///
    /// # Panics
    /// If `len` is more than there is.
    #[inline]
    pub fn truncate(&mut self, len: usize) {
        assert!(len <= self.len as usize, "a Buf does not grow");
        self.len = len as u32;
    }

    /// Leaves the first `count` bytes out of view. The whole buffer still goes home.
    ///
    /// # Panics
    /// If `count` is more than there is.
    #[inline]
    pub fn advance(&mut self, count: usize) {
        assert!(count <= self.len as usize, "a Buf does not grow");
        // SAFETY: `count` is at most `len`, so the result is inside the region or one past its end.
        self.at = unsafe { self.at.add(count) };
        self.len -= count as u32;
    }

    /// The region it is a piece of: providers look lkeys and IOVAs up by it.
    #[inline]
    pub fn region(&self) -> RegionId {
        self.region
    }

    /// Who takes it back.
    #[inline]
    pub fn home(&self) -> Home {
        self.home
    }

    /// Whom its dealer gave it to: a number that means something to the dealer alone, 0 at first.
    #[inline]
    pub fn dealt_to(&self) -> u16 {
        self.dealt_to
    }

    /// See [`Buf::dealt_to`].
    #[inline]
    pub fn deal_to(&mut self, whom: u16) {
        self.dealt_to = whom;
    }

    /// Of a pool's Buf: which of its sizes it is, from 0.
    #[inline]
    pub fn class(&self) -> usize {
        usize::from(self.class)
    }

    /// True if others may read the same bytes.
    #[inline]
    pub fn is_shared(&self) -> bool {
        self.shared != 0
    }
}

/// Asks the processor to have the cache line of this address near, soon: no more than a hint, whatever the
/// address.
#[inline]
pub fn prefetch(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch has no effect that a program can see, whatever the address.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(at.cast());
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above; the instruction touches neither registers nor flags.
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{}]", in(reg) at, options(nostack, preserves_flags));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = at;
}

/// Bytes that a processor writes to memory at once.
const LINE: usize = 64;

/// Copies by non-temporal stores if these are whole lines of a processor that has them, else as usual.
fn copy_non_temporal(to: &mut [u8], from: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    if to.as_ptr().addr().is_multiple_of(LINE) && to.len().is_multiple_of(LINE) {
        use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_stream_si128};
        assert_eq!(to.len(), from.len(), "one for the other");
        for (to, from) in to.chunks_exact_mut(LINE).zip(from.chunks_exact(LINE)) {
            let (to, from) = (to.as_mut_ptr(), from.as_ptr());
            for at in (0..LINE).step_by(size_of::<__m128i>()) {
                // SAFETY: both are as long as a line, of which each piece is a part, and `to` is aligned to one. This thread sees
                // what it wrote in order; others that are given the Buf do too, by what `settle` says.
                unsafe {
                    let piece = _mm_loadu_si128(from.add(at).cast());
                    _mm_stream_si128(to.add(at).cast(), piece);
                }
            }
        }
        return;
    }
    to.copy_from_slice(from);
}

/// What was copied by non-temporal stores is written before what this thread writes from here on. Who publishes such bytes by
/// a mere store, to another thread or to a device, calls this before; whatever locks or swaps (as queues and mutexes do)
/// does the same by itself.
#[inline]
pub fn settle() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 processor has it, and it only orders.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
}
