//! Mapped memory: huge pages if there are any, locked if asked and allowed.

use std::collections::BTreeSet;
use std::io;
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
    /// 2 MiB pages of the kernel's own making, for most of it (transparent huge pages).
    Transparent,
    /// 4 KiB pages.
    Small,
}

/// What is wanted of a region.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Want {
    /// Try hugetlbfs pages first. Without them, or where there are none, the kernel is asked for
    /// transparent huge pages, and gives 4 KiB pages where it has none.
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
}

/// Of a transparent huge page, on x86-64 and on aarch64 with pages of 4 KiB.
const TRANSPARENT: usize = 2 << 20;
/// NUMA nodes there may be: the most that Linux takes.
const NODES: u32 = 1024;

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
    /// Of mmap, madvise or mlock, with the size that was asked for; for mlock with
    /// the limit and how to raise it.
    pub fn map(len: usize, want: Want) -> io::Result<Region> {
        Region::map_on(len, want, &[])
    }

    /// As [`Region::map`], with parts on NUMA nodes: from each of these offsets on, which ascend, the pages are on that node if
    /// it has any to give, or wherever they come from without a node. Where a page would be in two parts it is the first
    /// one's.
    ///
    /// # Errors
    /// As there. That a part is elsewhere is none.
    pub fn map_on(len: usize, want: Want, parts: &[(usize, Option<u32>)]) -> io::Result<Region> {
        assert!(len > 0, "a region has bytes");
        assert!(parts.is_sorted(), "parts ascend");
        let huge = [
            (PageKind::Huge1G, libc::MAP_HUGE_1GB, 1usize << 30),
            (PageKind::Huge2M, libc::MAP_HUGE_2MB, 2 << 20),
        ];
        if want.huge {
            for (kind, flag, size) in huge {
                // A page of 1 GiB for a small pool would be mostly waste.
                if len >= size / 2
                    && let Ok(region) = Region::map_kind(
                        len.next_multiple_of(size),
                        kind,
                        libc::MAP_HUGETLB | flag,
                        parts,
                    )
                {
                    return Ok(region);
                }
            }
        }
        // A device whose pages are all of one size has small ones for all of it, if there is a small one at the end.
        let page = match len >= TRANSPARENT {
            true => TRANSPARENT,
            false => PAGE,
        };
        let mut region = Region::map_kind(len.next_multiple_of(page), PageKind::Small, 0, parts)
            .map_err(|cause| {
                io::Error::new(
                    cause.kind(),
                    format!("cannot map {len} bytes of memory: {cause}"),
                )
            })?;
        if region.len >= TRANSPARENT && huge_bytes_at(region.base.as_ptr()) >= region.len / 2 {
            region.kind = PageKind::Transparent;
        }
        if want.locked {
            region.lock()?;
        }
        Ok(region)
    }

    /// Private memory, not shared: of that the usual kernel makes huge pages when asked, of shared memory
    /// it does not (`shmem_enabled` is `never`). No child process ever has it, so no page is copied on write
    /// under a device that knows it.
    fn map_kind(
        len: usize,
        kind: PageKind,
        flags: libc::c_int,
        parts: &[(usize, Option<u32>)],
    ) -> io::Result<Region> {
        // Before Linux 6.7 a mapping does not by itself begin where a huge page can.
        let spare = match kind {
            PageKind::Small if len >= TRANSPARENT => TRANSPARENT,
            _ => 0,
        };
        // SAFETY: a new mapping where the kernel likes; it is checked below.
        let mapped = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len + spare,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | flags,
                -1,
                0,
            )
        };
        if mapped == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let mapped = mapped.cast::<u8>();
        let before = if spare > 0 {
            mapped.align_offset(TRANSPARENT)
        } else {
            0
        };
        // SAFETY: `before` is at most `spare`, so all three ranges lie inside the mapping. What is unmapped
        // at its ends was never handed out.
        let base = unsafe {
            let base = mapped.add(before);
            for (from, len) in [(mapped, before), (base.add(len), spare - before)] {
                if len > 0 {
                    libc::munmap(from.cast(), len);
                }
            }
            base
        };
        let base = NonNull::new(base).expect("mmap does not return NULL without MAP_FIXED");
        let Some(id) = names().take() else {
            // SAFETY: what is left of the mapping made above, which nobody has seen.
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
        };
        // What is touched below comes from where it should.
        region.place(parts);
        // SAFETY: the range is exactly what is left of the mapping made above.
        unsafe {
            libc::madvise(base.as_ptr().cast(), len, libc::MADV_DONTFORK);
            if kind == PageKind::Small {
                // The advice comes before the first touch, or it comes too late.
                libc::madvise(base.as_ptr().cast(), len, libc::MADV_HUGEPAGE);
            }
            if libc::madvise(base.as_ptr().cast(), len, libc::MADV_POPULATE_WRITE) != 0 {
                let cause = io::Error::last_os_error();
                // Kernels before 5.14 do not know the advice.
                if cause.raw_os_error() != Some(libc::EINVAL) {
                    return Err(cause);
                }
                for at in (0..len).step_by(PAGE) {
                    base.as_ptr().add(at).write_volatile(0);
                }
            }
        }
        Ok(region)
    }

    /// Has parts of it on nodes. What is refused, by a container or a kernel without NUMA, is done without.
    fn place(&self, parts: &[(usize, Option<u32>)]) {
        // A policy is one of whole pages.
        let page = match self.kind {
            PageKind::Huge1G => 1 << 30,
            _ => TRANSPARENT,
        };
        for (index, &(from, node)) in parts.iter().enumerate() {
            let Some(node) = node.filter(|node| *node < NODES) else {
                continue;
            };
            let next = parts.get(index + 1).map_or(self.len, |(next, _)| *next);
            let from = if from == 0 {
                0
            } else {
                from.next_multiple_of(page)
            };
            let end = next.next_multiple_of(page).min(self.len);
            if from >= end {
                continue;
            }
            let mut nodes = [0 as libc::c_ulong; NODES as usize / 64];
            nodes[node as usize / 64] = 1 << (node % 64);
            // SAFETY: the range is inside this mapping; the mask has as many bits as is said, and one more is what the
            // kernel takes that number for.
            unsafe {
                libc::syscall(
                    libc::SYS_mbind,
                    self.base.as_ptr().add(from),
                    end - from,
                    libc::MPOL_PREFERRED,
                    nodes.as_ptr(),
                    libc::c_ulong::from(NODES) + 1,
                    0,
                );
            }
        }
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

/// Bytes of the mapping at `base` that lie in transparent huge pages, as the kernel says; 0 if it does not
/// say (proc(5), smaps).
fn huge_bytes_at(base: *const u8) -> usize {
    let text = std::fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    let (base, mut within) = (base as usize, false);
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let first = words.next().unwrap_or_default();
        if let Some((from, to)) = first.split_once('-') {
            let address = |hex| usize::from_str_radix(hex, 16).unwrap_or(0);
            within = (address(from)..address(to)).contains(&base);
        } else if within && first == "AnonHugePages:" {
            let kib: usize = words.next().and_then(|n| n.parse().ok()).unwrap_or(0);
            return kib * 1024;
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_is_as_long_as_asked_and_zeroed() {
        let long = 3 * TRANSPARENT + 1;
        for len in [1, PAGE, PAGE + 1, TRANSPARENT - PAGE - 1, long] {
            let region = Region::map(len, Want::default()).expect("memory");
            let page = if len < TRANSPARENT { PAGE } else { TRANSPARENT };
            assert_eq!(region.len(), len.next_multiple_of(page));
            // SAFETY: the whole of a mapping that lives as long as the region, and nobody writes to it.
            let bytes = unsafe { std::slice::from_raw_parts(region.base(), region.len()) };
            assert!(bytes.iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn a_region_of_transparent_huge_pages_begins_with_one() {
        let region = Region::map(4 * TRANSPARENT, Want::default()).expect("memory");
        assert!((region.base() as usize).is_multiple_of(TRANSPARENT));
        assert!(matches!(
            region.kind(),
            PageKind::Small | PageKind::Transparent
        ));
    }

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
