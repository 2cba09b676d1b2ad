//! Mapped memory: huge pages if there are any, locked if asked and allowed.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::PAGE;

/// Names a [`Region`] within the process, for as long as it is there: no two regions have the same name at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct RegionId(pub u16);

/// What kind of pages a region got.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PageKind {
    /// hugetlbfs pages of 1 GiB.
    Huge1G,
    /// hugetlbfs pages of 2 MiB.
    Huge2M,
    /// 4 KiB pages; the kernel was asked for transparent huge ones.
    Small,
}

/// What is wanted of a region.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Want {
    /// Try hugetlbfs pages first. Without them, or where there are none, 4 KiB pages are used.
    pub huge: bool,
    /// Lock the pages, as devices that reach memory by themselves need. Files and TCP do not.
    pub locked: bool,
}

/// A mapping that is never moved, shared with no child process, and zeroed at first.
#[derive(Debug)]
pub struct Region {
    base: NonNull<u8>,
    len: usize,
    id: RegionId,
    kind: PageKind,
    fd: OwnedFd,
}

// SAFETY: a Region hands out no references to its bytes; Pool and Pages do, by their own rules.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

/// Names that are taken, and the one that was given last.
struct Names {
    taken: BTreeSet<u16>,
    last: u16,
}

static NAMES: Mutex<Names> = Mutex::new(Names {
    taken: BTreeSet::new(),
    last: u16::MAX,
});

fn names() -> MutexGuard<'static, Names> {
    NAMES.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Names {
    /// One that no region has. A name that was given back rests as long as it can: whoever still looks it up finds
    /// nothing, and not another region.
    fn take(&mut self) -> Option<RegionId> {
        if self.taken.len() > usize::from(u16::MAX) {
            return None;
        }
        self.last = self.last.wrapping_add(1);
        while !self.taken.insert(self.last) {
            self.last = self.last.wrapping_add(1);
        }
        Some(RegionId(self.last))
    }
}

impl Region {
    /// Maps `len` bytes, rounded up to whole pages of the kind that is found, and touches each page,
    /// so that the data path never faults.
    ///
    /// # Errors
    /// Of memfd_create, ftruncate, mmap or mlock, with the size that was asked for; for mlock with
    /// the limit and how to raise it.
    pub fn map(len: usize, want: Want) -> io::Result<Region> {
        assert!(len > 0, "a region has bytes");
        let huge = [
            (PageKind::Huge1G, libc::MFD_HUGE_1GB, 1usize << 30),
            (PageKind::Huge2M, libc::MFD_HUGE_2MB, 2 << 20),
        ];
        if want.huge {
            for (kind, flag, size) in huge {
                // A page of 1 GiB for a small pool would be mostly waste.
                if len >= size / 2
                    && let Ok(region) =
                        Region::map_kind(len.next_multiple_of(size), kind, libc::MFD_HUGETLB | flag)
                {
                    return Ok(region);
                }
            }
        }
        let region =
            Region::map_kind(len.next_multiple_of(PAGE), PageKind::Small, 0).map_err(|cause| {
                io::Error::new(
                    cause.kind(),
                    format!("cannot map {len} bytes of memory: {cause}"),
                )
            })?;
        if want.locked {
            region.lock()?;
        }
        Ok(region)
    }

    fn map_kind(len: usize, kind: PageKind, flags: libc::c_uint) -> io::Result<Region> {
        // SAFETY: the name is a NUL-terminated string; the call has no other precondition.
        let fd = unsafe { libc::memfd_create(c"ferroce".as_ptr(), libc::MFD_CLOEXEC | flags) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and nobody else's.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: plain system calls on a descriptor we own; the mapping is checked below.
        let base = unsafe {
            if libc::ftruncate(fd.as_raw_fd(), len as libc::off_t) != 0 {
                return Err(io::Error::last_os_error());
            }
            let flags = libc::MAP_SHARED
                | if kind == PageKind::Small {
                    0
                } else {
                    libc::MAP_POPULATE
                };
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                flags,
                fd.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base =
            NonNull::new(base.cast::<u8>()).expect("mmap does not return NULL without MAP_FIXED");
        let Some(id) = names().take() else {
            // SAFETY: the mapping made above, which nobody has seen.
            unsafe { libc::munmap(base.as_ptr().cast(), len) };
            return Err(io::Error::other(
                "there are 65536 regions of memory already",
            ));
        };
        // Dropping `region` unmaps, so errors below leave nothing behind.
        let region = Region {
            base,
            len,
            id,
            kind,
            fd,
        };
        // SAFETY: the range is exactly the mapping made above.
        unsafe {
            libc::madvise(base.as_ptr().cast(), len, libc::MADV_DONTFORK);
            if kind == PageKind::Small {
                // The advice comes before the first touch, or it comes too late.
                libc::madvise(base.as_ptr().cast(), len, libc::MADV_HUGEPAGE);
            }
            if libc::madvise(base.as_ptr().cast(), len, libc::MADV_POPULATE_WRITE) != 0 {
                let cause = io::Error::last_os_error();
                // Kernels before 5.14 do not know the advice; there the pages come with first use.
                if cause.raw_os_error() != Some(libc::EINVAL) {
                    return Err(cause);
                }
            }
        }
        Ok(region)
    }

    fn lock(&self) -> io::Result<()> {
        // SAFETY: the range is this mapping.
        if unsafe { libc::mlock(self.base.as_ptr().cast(), self.len) } == 0 {
            return Ok(());
        }
        let cause = io::Error::last_os_error();
        let mut limit = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        // SAFETY: the struct is ours and of the right type.
        unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) };
        Err(io::Error::new(
            cause.kind(),
            format!(
                "cannot lock {} KiB of memory: {cause} (the limit is {} KiB; raise it with `ulimit -l`, \
                 LimitMEMLOCK= of the service, or CAP_IPC_LOCK)",
                self.len / 1024,
                limit.rlim_cur / 1024
            ),
        ))
    }

    /// Its name.
    #[inline]
    pub fn id(&self) -> RegionId {
        self.id
    }

    /// First byte, for devices that register the whole region.
    pub fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// Length in bytes, a multiple of 4096.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never true; here because `len` is.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What pages it got.
    pub fn kind(&self) -> PageKind {
        self.kind
    }

    /// The memfd behind it.
    pub fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// The address `offset` bytes in.
    #[inline]
    pub(crate) fn at(&self, offset: usize) -> NonNull<u8> {
        assert!(
            offset < self.len,
            "offset {offset} is outside a region of {}",
            self.len
        );
        // SAFETY: inside the mapping by the assertion.
        unsafe { self.base.add(offset) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping made in `map_kind`; owners of Bufs keep the region alive.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
        names().taken.remove(&self.id.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_regions_have_the_same_name() {
        let kept = Region::map(PAGE, Want::default()).expect("memory");
        let mut names = Names {
            taken: BTreeSet::from([0, 2, u16::MAX]),
            last: u16::MAX - 1,
        };
        let next: Vec<u16> = (0..3).filter_map(|_| names.take()).map(|id| id.0).collect();
        assert_eq!(next, [1, 3, 4]);
        names.taken = (0..=u16::MAX).collect();
        assert_eq!(names.take(), None);
        names.taken.remove(&7);
        assert_eq!(names.take(), Some(RegionId(7)));
        // As many as there are names, one after the other, and none gets that of the one that stays.
        for _ in 0..=u16::MAX {
            assert_ne!(
                Region::map(PAGE, Want::default()).expect("memory").id(),
                kept.id()
            );
        }
    }
}
