//! Devices from user space: VFIO's groups and containers. One of the rooms where `unsafe` lives: VFIO is
//! asked by ioctls.
//!
//! A group is the smallest set of devices that an IOMMU keeps apart from others; a container is an address
//! space for one or more of them. Here each group has a container of its own, so that a drive reaches its
//! rings and the data buffers, and nothing of other drives. Left out on purpose: no-IOMMU mode, where a
//! drive could write anywhere, and iommufd, which the kernels we meet do not all have.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use ferroce_buf::Region;
use vfio_bindings::bindings::vfio;

use crate::DriveError;
use crate::mmio::MappedBar;
use crate::nvme::PciId;
use crate::pci::{Address, NO_IOMMU, Sysfs, VFIO};

/// Requests, as VFIO_BASE and what follows it in linux/vfio.h.
mod request {
    pub const GET_API_VERSION: u32 = 0;
    pub const CHECK_EXTENSION: u32 = 1;
    pub const SET_IOMMU: u32 = 2;
    pub const GROUP_GET_STATUS: u32 = 3;
    pub const GROUP_SET_CONTAINER: u32 = 4;
    pub const GROUP_GET_DEVICE_FD: u32 = 6;
    pub const DEVICE_GET_INFO: u32 = 7;
    pub const DEVICE_GET_REGION_INFO: u32 = 8;
    pub const DEVICE_GET_IRQ_INFO: u32 = 9;
    pub const DEVICE_SET_IRQS: u32 = 10;
    pub const DEVICE_RESET: u32 = 11;
    pub const IOMMU_GET_INFO: u32 = 12;
    pub const IOMMU_MAP_DMA: u32 = 13;
    pub const IOMMU_UNMAP_DMA: u32 = 14;
}

/// Where IOVAs begin, so that none is 0.
const IOVA_MIN: u64 = 1 << 20;
/// What large regions are aligned to, so that the IOMMU can use large pages.
const IOVA_ALIGN: u64 = 2 << 20;
/// PCI configuration space: the Command register, and its bits for memory and bus mastering.
const COMMAND: u64 = 4;
const COMMAND_MEMORY: u16 = 1 << 1;
const COMMAND_MASTER: u16 = 1 << 2;
/// There too: the first of its capabilities, each with an identifier, where the next is, and what it says (PCIe 7.5.1).
const CAPABILITIES: u64 = 0x34;
const CAPABILITY_MSIX: u8 = 0x11;

/// # Safety
/// `argument` must be what `request` asks for: a number, or the address of its structure.
unsafe fn ioctl(fd: BorrowedFd<'_>, request: u32, argument: usize) -> io::Result<i32> {
    let number = u32::from(vfio::VFIO_TYPE) << 8 | (vfio::VFIO_BASE + request);
    // SAFETY: the descriptor is open, and the argument is right, says the caller.
    match unsafe { libc::ioctl(fd.as_raw_fd(), libc::c_ulong::from(number) as _, argument) } {
        -1 => Err(io::Error::last_os_error()),
        result => Ok(result),
    }
}

/// An ioctl about a structure.
///
/// # Safety
/// `T` must be the structure of `request`, with `argsz` filled in.
unsafe fn ask<T>(fd: BorrowedFd<'_>, request: u32, structure: &mut T) -> io::Result<i32> {
    // SAFETY: the structure is the right one, says the caller, and lives over the call.
    unsafe { ioctl(fd, request, (&raw mut *structure).expose_provenance()) }
}

/// `argsz` of a structure.
const fn argsz<T>() -> u32 {
    size_of::<T>() as u32
}

/// One IOMMU group and its address space.
#[derive(Debug)]
pub struct Container {
    // Closed in this order: a group leaves its container first.
    group: OwnedFd,
    container: OwnedFd,
    space: Mutex<Space>,
}

/// What is where in the devices' address space.
#[derive(Debug)]
struct Space {
    /// First and last usable address of each range, ascending.
    ranges: Vec<(u64, u64)>,
    /// What is mapped, ascending by address.
    maps: Vec<(u64, Arc<Region>)>,
}

/// A group can be opened once, so drives of one group share it.
static OPEN: Mutex<BTreeMap<u32, Weak<Container>>> = Mutex::new(BTreeMap::new());

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Container {
    /// The group of a device, opened if it is not already.
    fn of(address: Address, sysfs: &Sysfs) -> Result<Arc<Container>, DriveError> {
        let label = format!("nvme:{address}");
        let Some(number) = sysfs.group(address) else {
            return Err(DriveError::refused(
                &label,
                format!("it has no IOMMU group: {NO_IOMMU}"),
            ));
        };
        let mut open = lock(&OPEN);
        // A drive that was unplugged may still hold the group it was in, which is of no use to the one in its place.
        let known = open.get(&number).and_then(Weak::upgrade);
        if let Some(container) = known.filter(|container| container.is_attached()) {
            return Ok(container);
        }
        let container = Arc::new(Container::open(number, address, sysfs, &label)?);
        open.insert(number, Arc::downgrade(&container));
        Ok(container)
    }

    fn open(
        number: u32,
        address: Address,
        sysfs: &Sysfs,
        label: &str,
    ) -> Result<Container, DriveError> {
        let system = |tried: String, cause| DriveError::system(label, tried, cause);
        let open = |path: &str| {
            let file = OpenOptions::new().read(true).write(true).open(path);
            file.map(OwnedFd::from).map_err(|cause| {
                let why = match cause.raw_os_error() {
                    Some(libc::ENOENT | libc::ENODEV) => "; is the module vfio-pci loaded?",
                    Some(libc::EACCES | libc::EPERM) => {
                        "; run as root, or give the file to this user (chown)"
                    }
                    Some(libc::EBUSY) => "; another process uses the drive, or one of its group",
                    _ => "",
                };
                system(format!("opening {path}{why}"), cause)
            })
        };
        let container = open("/dev/vfio/vfio")?;
        // SAFETY: these two take a number, or nothing.
        let (version, type1) = unsafe {
            (
                ioctl(container.as_fd(), request::GET_API_VERSION, 0),
                ioctl(
                    container.as_fd(),
                    request::CHECK_EXTENSION,
                    vfio::VFIO_TYPE1v2_IOMMU as usize,
                ),
            )
        };
        if !matches!(version, Ok(0)) || !matches!(type1, Ok(1)) {
            return Err(DriveError::refused(
                label,
                "the system's VFIO has no type 1 IOMMU; load the module vfio_iommu_type1",
            ));
        }
        let group = open(&format!("/dev/vfio/{number}"))?;
        let flags = group_flags(group.as_fd())
            .map_err(|cause| system(format!("asking for the state of group {number}"), cause))?;
        if flags & vfio::VFIO_GROUP_FLAGS_VIABLE == 0 {
            return Err(DriveError::refused(
                label,
                format!(
                    "its IOMMU group {number} is not viable, since the kernel uses other devices of it: {}; bind \
                     those to vfio-pci too, or to no driver",
                    sysfs.mates_in_use(address).join(", ")
                ),
            ));
        }
        let mut fd: RawFd = container.as_raw_fd();
        // SAFETY: the request takes the address of a descriptor.
        unsafe { ask(group.as_fd(), request::GROUP_SET_CONTAINER, &mut fd) }
            .map_err(|cause| system(format!("making group {number} ours"), cause))?;
        // SAFETY: the request takes a number.
        unsafe {
            ioctl(
                container.as_fd(),
                request::SET_IOMMU,
                vfio::VFIO_TYPE1v2_IOMMU as usize,
            )
        }
        .map_err(|cause| {
            let why = if cause.raw_os_error() == Some(libc::EPERM) {
                " (the platform does not remap interrupts; if that is acceptable, load vfio_iommu_type1 with \
                 allow_unsafe_interrupts=1)"
            } else {
                ""
            };
            system(format!("setting up the IOMMU{why}"), cause)
        })?;
        let ranges = iova_ranges(container.as_fd())
            .map_err(|cause| system("asking for the IOMMU's addresses".into(), cause))?;
        Ok(Container {
            group,
            container,
            space: Mutex::new(Space {
                ranges,
                maps: Vec::new(),
            }),
        })
    }

    /// False once the last device of the group is gone from the system: then nothing reaches what was mapped, and
    /// nothing can be mapped any more.
    fn is_attached(&self) -> bool {
        let flags = group_flags(self.group.as_fd());
        flags.is_ok_and(|flags| flags & vfio::VFIO_GROUP_FLAGS_CONTAINER_SET != 0)
    }

    /// Maps a region, once; where it starts for the devices.
    ///
    /// # Errors
    /// If no range of addresses has room, or the system refuses; for want of lockable memory with the limit.
    pub fn map(&self, region: &Arc<Region>) -> io::Result<u64> {
        let mut space = lock(&self.space);
        let known = |(_, known): &&(u64, Arc<Region>)| known.id() == region.id();
        if let Some((iova, _)) = space.maps.iter().find(known) {
            return Ok(*iova);
        }
        let (at, iova) = space.find(region.len() as u64).ok_or_else(|| {
            io::Error::other(format!(
                "the IOMMU has no room for {} bytes of memory among the addresses it takes",
                region.len()
            ))
        })?;
        let mut map = vfio::vfio_iommu_type1_dma_map {
            argsz: argsz::<vfio::vfio_iommu_type1_dma_map>(),
            flags: vfio::VFIO_DMA_MAP_FLAG_READ | vfio::VFIO_DMA_MAP_FLAG_WRITE,
            vaddr: region.base().expose_provenance() as u64,
            iova,
            size: region.len() as u64,
        };
        // SAFETY: the structure is that of the request, and names exactly the region's mapping, which
        // `maps` keeps until it is unmapped.
        unsafe { ask(self.container.as_fd(), request::IOMMU_MAP_DMA, &mut map) }
            .map_err(|cause| map_failed(region.len(), &cause))?;
        space.maps.insert(at, (iova, region.clone()));
        Ok(iova)
    }

    /// Takes a region away from the devices.
    pub fn unmap(&self, region: &Region) {
        let mut space = lock(&self.space);
        let known = |(_, known): &(u64, Arc<Region>)| known.id() == region.id();
        let Some(at) = space.maps.iter().position(known) else {
            return;
        };
        let (iova, mapped) = space.maps.remove(at);
        let mut unmap = vfio::vfio_iommu_type1_dma_unmap {
            argsz: argsz::<vfio::vfio_iommu_type1_dma_unmap>(),
            iova,
            size: mapped.len() as u64,
            ..Default::default()
        };
        // SAFETY: the structure is that of the request, and names a mapping made by `map`.
        let unmapped = unsafe { ask(self.container.as_fd(), request::IOMMU_UNMAP_DMA, &mut unmap) };
        if let Err(cause) = unmapped
            // With its last device the group lost all its mappings.
            && self.is_attached()
        {
            // A device may still write there, so the memory is never used for anything else.
            log::warn!("cannot unmap {} bytes from a device: {cause}", mapped.len());
            std::mem::forget(mapped);
        }
    }
}

impl Space {
    /// A free place for `len` bytes: where it goes in the list, and its address.
    fn find(&self, len: u64) -> Option<(usize, u64)> {
        let align = if len >= IOVA_ALIGN { IOVA_ALIGN } else { 4096 };
        for (first, last) in &self.ranges {
            let mut start = (*first).max(IOVA_MIN).checked_next_multiple_of(align)?;
            for (at, (iova, region)) in self.maps.iter().enumerate() {
                let end = iova + region.len() as u64;
                if end <= start || *iova > *last {
                    continue;
                }
                if start.checked_add(len)? <= *iova {
                    return Some((at, start));
                }
                start = end.checked_next_multiple_of(align)?;
            }
            if start.checked_add(len - 1)? <= *last {
                let at = self.maps.partition_point(|(iova, _)| *iova < start);
                return Some((at, start));
            }
        }
        None
    }
}

/// What VFIO says of a group: VFIO_GROUP_FLAGS_*.
fn group_flags(group: BorrowedFd<'_>) -> io::Result<u32> {
    let mut status = vfio::vfio_group_status {
        argsz: argsz::<vfio::vfio_group_status>(),
        flags: 0,
    };
    // SAFETY: the structure is that of the request.
    unsafe { ask(group, request::GROUP_GET_STATUS, &mut status) }?;
    Ok(status.flags)
}

fn map_failed(len: usize, cause: &io::Error) -> io::Error {
    if cause.raw_os_error() != Some(libc::ENOMEM) {
        return io::Error::new(
            cause.kind(),
            format!("mapping {len} bytes for the device: {cause}"),
        );
    }
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the struct is ours and of the right type.
    unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) };
    io::Error::new(
        cause.kind(),
        format!(
            "too little memory may be locked: {} KiB more are needed for the device, and the limit is {} KiB in \
             all; raise it with `ulimit -l`, LimitMEMLOCK= of the service, or CAP_IPC_LOCK",
            len / 1024,
            limit.rlim_cur / 1024
        ),
    )
}

/// The addresses that devices may be given. Some IOMMUs take 39 bits only, and none takes those that
/// interrupts go to.
fn iova_ranges(container: BorrowedFd<'_>) -> io::Result<Vec<(u64, u64)>> {
    // The structure with room for what follows it; asked twice if that is not enough.
    let mut info = vec![0u64; 64];
    loop {
        let bytes = (info.len() * 8) as u32;
        info[0] = u64::from(bytes);
        // SAFETY: the buffer starts with `argsz`, which says how long it is, and is aligned for the structure.
        unsafe {
            ioctl(
                container,
                request::IOMMU_GET_INFO,
                info.as_mut_ptr().expose_provenance(),
            )
        }?;
        let needed = info[0] as u32;
        if needed <= bytes {
            break;
        }
        info = vec![0; needed.div_ceil(8) as usize];
    }
    Ok(parse_iova_ranges(bytemuck::cast_slice(&info)))
}

/// What `vfio_iommu_type1_info` and the capabilities that follow it say.
fn parse_iova_ranges(info: &[u8]) -> Vec<(u64, u64)> {
    let u32_at = |at: usize| {
        let bytes = info.get(at..at + 4)?;
        Some(u32::from_ne_bytes(bytes.try_into().ok()?))
    };
    let u64_at = |at: usize| {
        let bytes = info.get(at..at + 8)?;
        Some(u64::from_ne_bytes(bytes.try_into().ok()?))
    };
    let mut ranges = Vec::new();
    let flags = u32_at(4).unwrap_or(0);
    let mut next = u32_at(16).filter(|_| flags & vfio::VFIO_IOMMU_INFO_CAPS != 0);
    // Each capability is further on, so the chain ends.
    while let Some(at) = next.filter(|at| *at != 0).map(|at| at as usize) {
        let id = u32_at(at).unwrap_or(0) & 0xFFFF;
        if id == vfio::VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE {
            let count = u32_at(at + 8).unwrap_or(0) as usize;
            for index in 0..count {
                let range = at + 16 + index * 16;
                if let (Some(first), Some(last)) = (u64_at(range), u64_at(range + 8)) {
                    ranges.push((first, last));
                }
            }
        }
        next = u32_at(at + 4).filter(|further| *further as usize > at);
    }
    if ranges.is_empty() {
        // Kernels before 5.4 do not say; every IOMMU takes 39 bits, less the interrupts' window.
        ranges = vec![(0, 0xFEDF_FFFF), (0xFEF0_0000, (1 << 39) - 1)];
    }
    ranges
}

/// A device that is ours. Dropping it takes its bus mastering away; the kernel then resets it.
#[derive(Debug)]
pub struct Device {
    file: File,
    /// Where its configuration space is in the file.
    config: u64,
    vectors: u32,
    resets: bool,
    /// The group stays open as long.
    container: Arc<Container>,
}

impl Device {
    /// Takes a device that is bound to vfio-pci.
    ///
    /// # Errors
    /// Each with what to do about it.
    pub fn open(address: Address) -> Result<Device, DriveError> {
        let sysfs = Sysfs::default();
        let label = format!("nvme:{address}");
        if !sysfs.exists(address) {
            return Err(DriveError::refused(
                &label,
                "there is no such PCI device; `ferroce devices` lists the NVMe drives",
            ));
        }
        if !sysfs.is_nvme(address) {
            return Err(DriveError::refused(
                &label,
                "it is no NVMe drive; `ferroce devices` lists those",
            ));
        }
        let driver = sysfs.driver(address);
        if driver.as_deref() != Some(VFIO) {
            let who = driver.unwrap_or_else(|| "no driver".into());
            return Err(DriveError::refused(
                &label,
                format!("{who} has it, not {VFIO}; `ferroce devices bind {address}` changes that"),
            ));
        }
        let container = Container::of(address, &sysfs)?;
        let system = |tried: &str, cause| DriveError::system(&label, tried, cause);
        let name = CString::new(address.to_string()).expect("an address has no NUL");
        // SAFETY: the request takes the address of a string; its result is a new descriptor.
        let file = unsafe {
            let fd = ioctl(
                container.group.as_fd(),
                request::GROUP_GET_DEVICE_FD,
                name.as_ptr().expose_provenance(),
            );
            fd.map(|fd| File::from_raw_fd(fd))
        }
        .map_err(|cause| match cause.raw_os_error() {
            Some(libc::EBUSY) => DriveError::refused(&label, "it is in use already"),
            _ => system("opening the device", cause),
        })?;
        let mut info = vfio::vfio_device_info {
            argsz: argsz::<vfio::vfio_device_info>(),
            ..Default::default()
        };
        // SAFETY: the structure is that of the request.
        unsafe { ask(file.as_fd(), request::DEVICE_GET_INFO, &mut info) }
            .map_err(|cause| system("asking what device it is", cause))?;
        let mut device = Device {
            file,
            config: 0,
            vectors: 0,
            resets: info.flags & vfio::VFIO_DEVICE_FLAGS_RESET != 0,
            container,
        };
        let config = device.region(vfio::VFIO_PCI_CONFIG_REGION_INDEX);
        device.config = config
            .map_err(|cause| system("asking for its configuration space", cause))?
            .offset;
        device.vectors = device
            .interrupts(vfio::VFIO_PCI_MSIX_IRQ_INDEX)
            .map_err(|cause| system("asking for its interrupts", cause))?;
        Ok(device)
    }

    /// Its group's address space.
    pub fn container(&self) -> &Arc<Container> {
        &self.container
    }

    /// What it is, if its configuration space can be read.
    pub fn id(&self) -> PciId {
        let mut words = [0; 4];
        // Vendor ID and Device ID are the first two.
        let read = self.file.read_exact_at(&mut words, self.config);
        let [vendor, device] = [[words[0], words[1]], [words[2], words[3]]].map(u16::from_le_bytes);
        read.map_or_else(|_| PciId::default(), |()| PciId { vendor, device })
    }

    /// MSI-X vectors it has.
    pub fn vectors(&self) -> u32 {
        self.vectors
    }

    /// Where in BAR 0 the table of these vectors is, if it is there. Before Linux 4.16 a BAR that has it cannot be mapped.
    pub fn vector_table(&self) -> Option<u32> {
        let byte = |at: u64| {
            let mut byte = [0];
            let read = self.file.read_exact_at(&mut byte, self.config + at);
            read.ok().map(|()| byte[0])
        };
        let mut at = byte(CAPABILITIES)?;
        // A list that goes in a circle would have no end.
        for _ in 0..48 {
            let place = u64::from(at & !3);
            match (place, byte(place)?) {
                (0, _) => return None,
                (_, CAPABILITY_MSIX) => {
                    let mut word = [0; 4];
                    let read = self.file.read_exact_at(&mut word, self.config + place + 4);
                    let word = read.ok().map(|()| u32::from_le_bytes(word))?;
                    return (word & 7 == 0).then_some(word & !7);
                }
                _ => at = byte(place + 1)?,
            }
        }
        None
    }

    /// Maps BAR 0.
    ///
    /// # Errors
    /// Of asking for it, or of mmap.
    pub fn map_bar0(&self) -> io::Result<MappedBar> {
        let info = self.region(vfio::VFIO_PCI_BAR0_REGION_INDEX)?;
        if info.size < 8192 {
            return Err(io::Error::other(format!(
                "BAR 0 has {} bytes, too few for doorbells",
                info.size
            )));
        }
        MappedBar::map(self.file.as_fd(), info.offset, info.size as usize)
    }

    /// Lets the device reach memory by itself, or no more.
    ///
    /// # Errors
    /// Of its configuration space.
    pub fn set_bus_master(&self, on: bool) -> io::Result<()> {
        let mut command = [0; 2];
        self.file
            .read_exact_at(&mut command, self.config + COMMAND)?;
        let mut bits = u16::from_le_bytes(command) | COMMAND_MEMORY;
        if on {
            bits |= COMMAND_MASTER;
        } else {
            bits &= !COMMAND_MASTER;
        }
        self.file
            .write_all_at(&bits.to_le_bytes(), self.config + COMMAND)
    }

    /// True if the device can be reset alone.
    pub fn resets(&self) -> bool {
        self.resets
    }

    /// Resets the function, if the device can be reset alone.
    ///
    /// # Errors
    /// If it cannot.
    pub fn reset(&self) -> io::Result<()> {
        if !self.resets {
            return Err(io::ErrorKind::Unsupported.into());
        }
        // SAFETY: the request takes nothing.
        unsafe { ioctl(self.file.as_fd(), request::DEVICE_RESET, 0) }.map(drop)
    }

    /// Has MSI-X vectors written to these eventfds, from the first on, as many as the system has to give: how many.
    ///
    /// # Errors
    /// Of asking for them; that there is none to give is no error.
    pub fn watch_vectors(&self, events: &[EventFd]) -> io::Result<usize> {
        as_many(events.len(), |count| {
            self.set_irqs(vfio::VFIO_PCI_MSIX_IRQ_INDEX, &events[..count])
        })
    }

    /// Has an eventfd written when the device should be given back (it is to be removed or unbound).
    ///
    /// # Errors
    /// If the system cannot say.
    pub fn watch_request(&self, event: &EventFd) -> io::Result<()> {
        self.set_irqs(vfio::VFIO_PCI_REQ_IRQ_INDEX, std::slice::from_ref(event))
            .map(drop)
    }

    /// Has an eventfd written when the bus reported an error of the device that is not corrected.
    ///
    /// # Errors
    /// If the system cannot say.
    pub fn watch_errors(&self, event: &EventFd) -> io::Result<()> {
        self.set_irqs(vfio::VFIO_PCI_ERR_IRQ_INDEX, std::slice::from_ref(event))
            .map(drop)
    }

    fn region(&self, index: u32) -> io::Result<vfio::vfio_region_info> {
        let mut info = vfio::vfio_region_info {
            argsz: argsz::<vfio::vfio_region_info>(),
            index,
            ..Default::default()
        };
        // SAFETY: the structure is that of the request.
        unsafe {
            ask(
                self.file.as_fd(),
                request::DEVICE_GET_REGION_INFO,
                &mut info,
            )
        }?;
        Ok(info)
    }

    fn interrupts(&self, index: u32) -> io::Result<u32> {
        let mut info = vfio::vfio_irq_info {
            argsz: argsz::<vfio::vfio_irq_info>(),
            index,
            ..Default::default()
        };
        // SAFETY: the structure is that of the request.
        unsafe { ask(self.file.as_fd(), request::DEVICE_GET_IRQ_INFO, &mut info) }?;
        Ok(info.count)
    }

    /// 0; or how many the system could set, and then it set none (vfio_msi_enable).
    fn set_irqs(&self, index: u32, events: &[EventFd]) -> io::Result<usize> {
        // `vfio_irq_set` and its descriptors: argsz, flags, index, start, count, data.
        let flags = vfio::VFIO_IRQ_SET_DATA_EVENTFD | vfio::VFIO_IRQ_SET_ACTION_TRIGGER;
        let count = events.len() as u32;
        let mut set = vec![(5 + count) * 4, flags, index, 0, count];
        set.extend(events.iter().map(|event| event.0.as_raw_fd() as u32));
        // SAFETY: the words are the request's structure, as long as its first one says.
        unsafe {
            ioctl(
                self.file.as_fd(),
                request::DEVICE_SET_IRQS,
                set.as_ptr().expose_provenance(),
            )
        }
        .map(|instead| instead as usize)
    }
}

/// How many of these `give` gives. It says 0 if it gave so many; else it gave none, and says how many it could give, or that
/// there is no room for so many.
fn as_many(wanted: usize, mut give: impl FnMut(usize) -> io::Result<usize>) -> io::Result<usize> {
    let mut count = wanted;
    while count > 0 {
        count = match give(count) {
            Ok(0) => break,
            Ok(instead) => instead.min(count - 1),
            Err(cause) if cause.raw_os_error() == Some(libc::ENOSPC) => count / 2,
            Err(cause) => return Err(cause),
        };
    }
    Ok(count)
}

impl Drop for Device {
    fn drop(&mut self) {
        // A device that is gone has no configuration space either.
        let _ = self.set_bus_master(false);
    }
}

/// A counter that others write, and that can be waited for.
#[derive(Clone, Debug)]
pub struct EventFd(Arc<File>);

impl EventFd {
    /// A new one, at 0.
    ///
    /// # Errors
    /// If no more descriptors may be open.
    pub fn new() -> io::Result<EventFd> {
        // SAFETY: the call has no precondition; its result is checked, and is ours alone.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: as above.
        Ok(EventFd(Arc::new(unsafe { File::from_raw_fd(fd) })))
    }

    /// Makes it readable.
    pub fn signal(&self) {
        // A full counter is readable already.
        let _ = io::Write::write(&mut &*self.0, &1u64.to_ne_bytes());
    }

    /// Back to 0; true if it was not.
    pub fn drain(&self) -> bool {
        io::Read::read(&mut &*self.0, &mut [0; 8]).is_ok()
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Waits until one of them is readable, `limit` at most.
pub fn wait(events: &[EventFd], limit: Duration) {
    let pollfd = |event: &EventFd| libc::pollfd {
        fd: event.0.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    let mut fds: Vec<libc::pollfd> = events.iter().map(pollfd).collect();
    let ms = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: the array is ours and as long as we say. A signal only wakes us early.
    unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, ms) };
}

#[cfg(test)]
mod tests;
