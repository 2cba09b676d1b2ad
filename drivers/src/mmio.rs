//! A device's registers. One of the rooms where `unsafe` lives: BAR 0 is mapped memory that the device
//! changes at any moment, read and written by 32-bit volatile accesses and in no other way.
//!
//! Tests have a controller of ours behind the same two calls.
#![allow(unsafe_code)]

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

/// Registers that are no device's.
pub trait Registers: fmt::Debug + Send + Sync {
    /// The register at byte `at`, a multiple of 4.
    fn read32(&self, at: u32) -> u32;
    /// Sets it.
    fn write32(&self, at: u32, value: u32);
    /// Resets the function, as by its configuration space. False if it cannot be.
    fn reset(&self) -> bool {
        false
    }
}

/// Where a drive's registers are.
#[derive(Clone, Debug)]
pub enum Bar {
    /// A device's, mapped.
    Mapped(Arc<MappedBar>),
    /// Somebody plays the device.
    Played(Arc<dyn Registers>),
}

impl Bar {
    /// The register at byte `at`.
    #[inline]
    pub fn read32(&self, at: u32) -> u32 {
        match self {
            Bar::Mapped(bar) => bar.read32(at),
            Bar::Played(device) => device.read32(at),
        }
    }

    /// Sets the register at byte `at`. What was stored to ring memory before is there before.
    #[inline]
    pub fn write32(&self, at: u32, value: u32) {
        match self {
            Bar::Mapped(bar) => bar.write32(at, value),
            Bar::Played(device) => device.write32(at, value),
        }
    }

    /// A register of eight bytes: two accesses, low half first.
    pub fn read64(&self, at: u32) -> u64 {
        let low = self.read32(at);
        u64::from(self.read32(at + 4)) << 32 | u64::from(low)
    }

    /// Sets a register of eight bytes.
    pub fn write64(&self, at: u32, value: u64) {
        self.write32(at, value as u32);
        self.write32(at + 4, (value >> 32) as u32);
    }

    /// True if there is a register at `at`.
    pub fn reaches(&self, at: u64) -> bool {
        match self {
            Bar::Mapped(bar) => at + 4 <= bar.len as u64,
            Bar::Played(_) => true,
        }
    }
}

/// A mapped BAR.
#[derive(Debug)]
pub struct MappedBar {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: every access is one volatile load or store of a register, which the device serialises.
unsafe impl Send for MappedBar {}
// SAFETY: as above.
unsafe impl Sync for MappedBar {}

impl MappedBar {
    /// Maps `len` bytes of `device` from `offset` on.
    ///
    /// # Errors
    /// Of mmap.
    pub fn map(device: BorrowedFd<'_>, offset: u64, len: usize) -> io::Result<MappedBar> {
        // SAFETY: a new mapping at an address the kernel chooses; the result is checked.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                device.as_raw_fd(),
                offset as libc::off_t,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).expect("mmap does not return NULL");
        Ok(MappedBar { base, len })
    }

    #[inline]
    fn at(&self, at: u32) -> *mut u32 {
        assert!(
            at.is_multiple_of(4) && at as usize + 4 <= self.len,
            "register {at:#x} is outside a BAR of {} bytes",
            self.len
        );
        // SAFETY: inside the mapping by the assertion; the mapping is page-aligned, so a multiple of 4 is
        // an aligned place.
        unsafe { self.base.as_ptr().add(at as usize).cast() }
    }

    #[inline]
    fn read32(&self, at: u32) -> u32 {
        // SAFETY: `at` is an aligned register of the mapping, which lives as long as `self`.
        u32::from_le(unsafe { self.at(at).read_volatile() })
    }

    #[inline]
    fn write32(&self, at: u32, value: u32) {
        // Entries in memory come before the doorbell that tells of them.
        fence(Ordering::Release);
        // SAFETY: as in `read32`.
        unsafe { self.at(at).write_volatile(value.to_le()) };
    }
}

impl Drop for MappedBar {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping made in `map`; nobody has a pointer into it.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}
