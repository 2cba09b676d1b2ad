//! One RDMA device as all cores share it: its protection domain, and the memory that is registered with it.

use std::ffi::CStr;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use ferroce_buf::{Region, RegionId};
use rdma_sys as sys;

use super::cm::lock;
use super::inventory::{self, Ability};

/// A device that is in use. Its context stays open until the process ends: `keep_contexts` sees to that.
#[derive(Debug)]
pub(super) struct Device {
    pub name: String,
    pub ability: Ability,
    pub context: *mut sys::ibv_context,
    pub pd: *mut sys::ibv_pd,
    /// How often a port of it went down.
    pub port_errors: AtomicU64,
    access: u32,
    /// Counts changes of `regions`: keys that were looked up before may be those of another region now.
    changes: AtomicU64,
    regions: Mutex<Vec<Registered>>,
}

/// A region as the device knows it.
#[derive(Debug)]
struct Registered {
    id: RegionId,
    /// Gone when its owner is; then the registration goes with the next change.
    region: Weak<Region>,
    mr: *mut sys::ibv_mr,
}

/// What a device wants to see beside an address.
#[derive(Clone, Copy, Debug)]
pub(super) struct Key {
    pub lkey: u32,
    /// For binding windows.
    pub mr: *mut sys::ibv_mr,
}

// SAFETY: libibverbs may be called from any thread; what is ours is behind the mutex.
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Sync for Device {}
// SAFETY: a Key is two numbers for the library; nothing is read through its pointer here.
unsafe impl Send for Key {}

impl Device {
    /// Of a context that librdmacm opened. `windows`: windows will be bound to its regions.
    ///
    /// # Errors
    /// In words.
    pub fn open(context: *mut sys::ibv_context, windows: bool) -> Result<Device, String> {
        // SAFETY: contexts stay open; the name is a string within the device's struct.
        let (name, infiniband) = unsafe {
            let kind = (*(*context).device).transport_type;
            (
                name(context),
                kind == sys::ibv_transport_type::IBV_TRANSPORT_IB,
            )
        };
        if !infiniband {
            return Err(format!(
                "{name} speaks neither RoCE nor InfiniBand (iWARP, perhaps), which alone are supported"
            ));
        }
        let told = |cause| format!("{name} cannot be used: {cause}");
        // SAFETY: the context is open.
        let ability = unsafe { inventory::ask(context, &name, infiniband) }.map_err(told)?;
        // SAFETY: as above; the result is checked.
        let pd = unsafe { sys::ibv_alloc_pd(context) };
        if pd.is_null() {
            return Err(told(io::Error::last_os_error()));
        }
        let mut access = sys::ibv_access_flags::IBV_ACCESS_LOCAL_WRITE.0 | RELAXED_ORDERING;
        if windows {
            access |= sys::ibv_access_flags::IBV_ACCESS_MW_BIND.0;
        }
        Ok(Device {
            name,
            ability,
            context,
            pd,
            port_errors: AtomicU64::new(0),
            access,
            changes: AtomicU64::new(0),
            regions: Mutex::new(Vec::new()),
        })
    }

    /// Lets the device reach a region, if it does not yet. No peer may: only the device itself. By one thread at a time, which
    /// keeps no other waiting: the kernel pins the memory page by page.
    ///
    /// # Errors
    /// With what was tried and how to make it possible.
    pub fn register(&self, region: &Arc<Region>) -> io::Result<()> {
        self.forget_regions();
        if lock(&self.regions).iter().any(|old| old.id == region.id()) {
            return Ok(());
        }
        let told = |cause: io::Error, hint: &str| {
            let (mib, name) = (region.len() >> 20, &self.name);
            let why = format!("cannot register {mib} MiB of memory with {name}: {cause}. {hint}");
            io::Error::new(cause.kind(), why)
        };
        if region.len() as u64 > self.ability.mr_len {
            let most = self.ability.mr_len >> 20;
            let hint =
                format!("A region of its may have {most} MiB: split the drive or the buffers");
            return Err(told(io::ErrorKind::InvalidInput.into(), &hint));
        }
        let mr = register(self.pd, region.base(), region.len(), self.access).map_err(|cause| {
            let hint = match is_locking_limited() {
                true => {
                    "It has to be locked: raise the limit with `ulimit -l`, LimitMEMLOCK= of the service, or \
                     CAP_IPC_LOCK"
                }
                false => {
                    "The limit of locked memory is not it. A device has an entry for each page: huge pages need \
                     fewer (`sysctl vm.nr_hugepages`), and so do smaller drives and buffers"
                }
            };
            told(cause, hint)
        })?;
        lock(&self.regions).push(Registered {
            id: region.id(),
            region: Arc::downgrade(region),
            mr,
        });
        self.changes.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// True if there is something for [`Device::forget_regions`].
    pub fn has_gone_regions(&self) -> bool {
        let regions = lock(&self.regions);
        regions.iter().any(|known| known.region.strong_count() == 0)
    }

    /// Lets go of regions that are gone, whose memory the device would keep locked.
    pub fn forget_regions(&self) {
        let mut regions = lock(&self.regions);
        let gone: Vec<_> = regions
            .extract_if(.., |known| known.region.strong_count() == 0)
            .collect();
        if gone.is_empty() {
            return;
        }
        self.changes.fetch_add(1, Ordering::Release);
        // It takes its time, which nobody needs to wait for.
        drop(regions);
        for known in gone {
            // SAFETY: made by `register`, and nothing is posted with it: its Bufs are gone with its region.
            unsafe { sys::ibv_dereg_mr(known.mr) };
        }
    }

    /// What [`Device::keys`] gives is good while this is the same.
    #[inline]
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// How often a peer was told that there was no RECV. Devices count it under different names, or not at all.
    pub fn rnr_naks(&self) -> u64 {
        let ports = 1..=self.ability.ports.len();
        let name = &self.name;
        let of_port = |port| format!("/sys/class/infiniband/{name}/ports/{port}/hw_counters");
        ports
            .map(|port| rnr_naks_of(Path::new(&of_port(port))))
            .sum()
    }

    /// The key of each region, by its number.
    pub fn keys(&self) -> Vec<Option<Key>> {
        let regions = lock(&self.regions);
        let mut keys = Vec::new();
        for region in regions.iter() {
            let at = usize::from(region.id.0);
            if keys.len() <= at {
                keys.resize(at + 1, None);
            }
            keys[at] = Some(Key {
                // SAFETY: the registration lives while it stands in the list.
                lkey: unsafe { (*region.mr).lkey },
                mr: region.mr,
            });
        }
        keys
    }
}

/// True if this process may lock some memory only (RLIMIT_MEMLOCK).
fn is_locking_limited() -> bool {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the struct is ours.
    let status = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) };
    status != 0 || limit.rlim_cur != libc::RLIM_INFINITY
}

/// What the counters in this folder say of RNR NAKs sent: `out_of_buffer` of mlx5, `send_rnr_err` of rxe.
fn rnr_naks_of(counters: &Path) -> u64 {
    ["out_of_buffer", "send_rnr_err"]
        .iter()
        .find_map(|name| std::fs::read_to_string(counters.join(name)).ok())
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0)
}

/// The name of a context's device.
///
/// # Safety
/// The context is open.
pub(super) unsafe fn name(context: *mut sys::ibv_context) -> String {
    // SAFETY: by the caller; the name is a string within the device's struct.
    let name = unsafe { CStr::from_ptr(sys::ibv_get_device_name((*context).device)) };
    name.to_string_lossy().into_owned()
}

impl Drop for Device {
    /// Of one that could not be used after all: those in use stay until the process ends.
    fn drop(&mut self) {
        let regions = self.regions.get_mut();
        for known in regions.unwrap_or_else(PoisonError::into_inner) {
            // SAFETY: made in `register`, and no queue pair is left that could name it: each has the device.
            unsafe { sys::ibv_dereg_mr(known.mr) };
        }
        // SAFETY: made in `open`; what was made in it is gone. Without effect if something is not.
        unsafe { sys::ibv_dealloc_pd(self.pd) };
    }
}

/// IBV_ACCESS_RELAXED_ORDERING: PCIe may reorder what the device writes there, before its completion. Nobody looks before,
/// and it may be faster. Not of the slabs, which are small. Kernels that know nothing of it are not told of it
/// (`ibv_reg_mr_iova2`).
const RELAXED_ORDERING: u32 = 1 << 20;

fn register(
    pd: *mut sys::ibv_pd,
    base: *mut u8,
    len: usize,
    access: u32,
) -> io::Result<*mut sys::ibv_mr> {
    // SAFETY: the range is mapped (a Region, or a Slab below); the kernel pins its pages, so that it may even be unmapped
    // before it is deregistered.
    let mr = unsafe { sys::ibv_reg_mr_iova2(pd, base.cast(), len, base as u64, access) };
    if mr.is_null() {
        return Err(io::Error::last_os_error());
    }
    Ok(mr)
}

/// Memory of a queue pair: the heads of what is received, and messages that are too long to go inline.
#[derive(Debug)]
pub(super) struct Slab {
    base: *mut u8,
    len: usize,
    mr: *mut sys::ibv_mr,
}

// SAFETY: it is owned like a Box.
unsafe impl Send for Slab {}

impl Slab {
    /// Zeroed, in pages of its own, and registered.
    ///
    /// # Errors
    /// Of mmap or ibv_reg_mr.
    pub fn new(device: &Device, len: usize) -> io::Result<Slab> {
        let len = len.next_multiple_of(ferroce_buf::PAGE);
        // SAFETY: a new anonymous mapping; the result is checked.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // A child must not share pages that a device writes to.
        // SAFETY: the mapping made above.
        unsafe { libc::madvise(base, len, libc::MADV_DONTFORK) };
        let access = sys::ibv_access_flags::IBV_ACCESS_LOCAL_WRITE.0;
        match register(device.pd, base.cast(), len, access) {
            Ok(mr) => Ok(Slab {
                base: base.cast(),
                len,
                mr,
            }),
            Err(cause) => {
                // SAFETY: the mapping made above, which nobody uses.
                unsafe { libc::munmap(base, len) };
                Err(cause)
            }
        }
    }

    /// The address `offset` bytes in, at least 64 before the end.
    #[inline]
    fn at(&self, offset: usize) -> *mut u8 {
        assert!(offset + 64 <= self.len, "64 bytes of the slab");
        // SAFETY: inside the mapping by the assertion.
        unsafe { self.base.add(offset) }
    }

    /// 64 bytes of it as an SGE with `len` of them.
    #[inline]
    pub fn sge(&self, offset: usize, len: u32) -> sys::ibv_sge {
        assert!(len <= 64, "an entry has 64 bytes");
        sys::ibv_sge {
            addr: self.at(offset) as u64,
            length: len,
            // SAFETY: registered until drop.
            lkey: unsafe { (*self.mr).lkey },
        }
    }

    /// 64 bytes that the device has finished with.
    #[inline]
    pub fn read(&self, offset: usize) -> [u8; 64] {
        // SAFETY: inside the mapping; the caller saw the completion of what wrote it, and posts it again later.
        unsafe { self.at(offset).cast::<[u8; 64]>().read_unaligned() }
    }

    /// Fills 64 bytes that the device is not reading.
    #[inline]
    pub fn write(&mut self, offset: usize, bytes: &[u8]) {
        assert!(bytes.len() <= 64, "an entry has 64 bytes");
        // SAFETY: inside the mapping, by the assertions.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.at(offset), bytes.len()) };
    }
}

impl Drop for Slab {
    fn drop(&mut self) {
        // SAFETY: made in `new`; the queue pair that used it is gone.
        unsafe {
            sys::ibv_dereg_mr(self.mr);
            libc::munmap(self.base.cast(), self.len);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rnr_naks_are_those_that_were_sent() {
        let folder = tempfile::tempdir().expect("a directory");
        let write = |name: &str, count: &str| {
            std::fs::write(folder.path().join(name), count).expect("writes");
        };
        assert_eq!(rnr_naks_of(folder.path()), 0);
        // As rxe has it: what it received, and what it sent.
        write("rcvd_rnr_err", "7\n");
        write("send_rnr_err", "3\n");
        assert_eq!(rnr_naks_of(folder.path()), 3);
    }
}
