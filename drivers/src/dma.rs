//! Memory that a drive reads and writes by itself. One of the rooms where `unsafe` lives: ring memory is
//! looked at as atomics, since the device may change it at any moment.
//!
//! Here too is what tests have in place of an IOMMU: [`Bus`], through which a controller of ours reads and
//! writes the same memory by the same addresses that a device would use.
#![allow(unsafe_code)]

use std::io;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ferroce_buf::{Buf, PAGE, Region, RegionId, Want};

use crate::vfio::Container;

/// Who maps memory for a device, and at which addresses the device then finds it (IOVAs).
#[derive(Clone, Debug)]
pub enum Iommu {
    /// The IOMMU, through VFIO.
    Vfio(Arc<Container>),
    /// No hardware.
    Bus(Arc<Bus>),
}

impl Iommu {
    /// Maps a region, once; where it starts for the device.
    ///
    /// # Errors
    /// If there is no room among the addresses the IOMMU takes, or the system refuses.
    pub fn map(&self, region: &Arc<Region>) -> io::Result<u64> {
        match self {
            Iommu::Vfio(container) => container.map(region),
            Iommu::Bus(bus) => Ok(bus.map(region)),
        }
    }

    /// Takes it away from the device. A region that is not mapped is left alone.
    pub fn unmap(&self, region: &Region) {
        match self {
            Iommu::Vfio(container) => container.unmap(region),
            Iommu::Bus(bus) => bus.unmap(region.id()),
        }
    }
}

/// Memory of a queue: rings, lists, pages. The device's from the start, ours as atomics.
#[derive(Debug)]
pub struct DmaMemory {
    region: Arc<Region>,
    iova: u64,
    iommu: Iommu,
}

impl DmaMemory {
    /// At least `len` zeroed bytes, mapped; on that NUMA node, if it has any.
    ///
    /// # Errors
    /// If there is no such memory, or it cannot be mapped.
    pub fn map(iommu: &Iommu, len: usize, node: Option<u32>) -> io::Result<DmaMemory> {
        let region = Arc::new(Region::map_on(len, Want::default(), &[(0, node)])?);
        let iova = iommu.map(&region)?;
        Ok(DmaMemory {
            region,
            iova,
            iommu: iommu.clone(),
        })
    }

    /// The region as words that the device may change at any moment.
    #[inline]
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: a region is a multiple of 4096 bytes long, page-aligned, and mapped until it drops,
        // which `self` keeps it from. Atomics allow the device's writes; the region was made here and no
        // Pool or Pages deals it, so nothing has plain references to it.
        unsafe { std::slice::from_raw_parts(self.region.base().cast(), self.region.len() / 8) }
    }

    /// Where the device finds byte `offset`.
    #[inline]
    pub fn iova(&self, offset: usize) -> u64 {
        assert!(offset < self.region.len(), "inside the memory");
        self.iova + offset as u64
    }

    /// Copies bytes from `offset`, a multiple of 8, out.
    pub fn copy_out(&self, offset: usize, out: &mut [u8]) {
        for (index, chunk) in out.chunks_mut(8).enumerate() {
            let word = self.words()[offset / 8 + index].load(Ordering::Relaxed);
            chunk.copy_from_slice(&word.to_ne_bytes()[..chunk.len()]);
        }
    }

    /// Sets `len` bytes from `offset` to zero; both are multiples of 8.
    pub fn clear(&self, offset: usize, len: usize) {
        for word in &self.words()[offset / 8..(offset + len) / 8] {
            word.store(0, Ordering::Relaxed);
        }
    }
}

impl Drop for DmaMemory {
    fn drop(&mut self) {
        self.iommu.unmap(&self.region);
    }
}

/// Regions that Bufs lie in, as one device finds them.
#[derive(Clone, Debug, Default)]
pub struct BufMap {
    regions: Vec<Mapped>,
}

#[derive(Clone, Debug)]
struct Mapped {
    id: RegionId,
    /// What is added to an address of ours to have the device's.
    shift: u64,
    /// It stays where it is.
    _region: Arc<Region>,
}

impl BufMap {
    /// Maps regions for a device; those it has already keep their place.
    ///
    /// # Errors
    /// As [`Iommu::map`].
    pub fn map(iommu: &Iommu, regions: &[Arc<Region>]) -> io::Result<BufMap> {
        let mapped = regions.iter().map(|region| {
            let iova = iommu.map(region)?;
            Ok(Mapped {
                id: region.id(),
                shift: iova.wrapping_sub(region.base().addr() as u64),
                _region: region.clone(),
            })
        });
        Ok(BufMap {
            regions: mapped.collect::<io::Result<_>>()?,
        })
    }

    /// Where the device finds a Buf's first byte.
    ///
    /// # Panics
    /// If the Buf lies in a region that was not named when the queue was opened.
    #[inline]
    pub fn iova(&self, buf: &Buf) -> u64 {
        let region = buf.region();
        let known = self.regions.iter().find(|known| known.id == region);
        let known = known.expect("Bufs lie in regions that were mapped for the drive");
        (buf.as_ptr().addr() as u64).wrapping_add(known.shift)
    }
}

/// Memory by the addresses of a device that is played: what an IOMMU and a device's DMA do, in tests.
#[derive(Debug)]
pub struct Bus {
    maps: Mutex<Maps>,
}

#[derive(Debug)]
struct Maps {
    next: u64,
    list: Vec<(u64, Arc<Region>)>,
}

impl Default for Bus {
    fn default() -> Bus {
        // Not 0, which a wrong pointer would hit; the gaps between regions show an overrun.
        let maps = Maps {
            next: 1 << 32,
            list: Vec::new(),
        };
        Bus {
            maps: Mutex::new(maps),
        }
    }
}

impl Bus {
    fn map(&self, region: &Arc<Region>) -> u64 {
        let mut maps = self.lock();
        let known = |(_, known): &&(u64, Arc<Region>)| known.id() == region.id();
        if let Some((iova, _)) = maps.list.iter().find(known) {
            return *iova;
        }
        let iova = maps.next;
        maps.next += (region.len() + PAGE) as u64;
        maps.list.push((iova, region.clone()));
        iova
    }

    fn unmap(&self, region: RegionId) {
        self.lock().list.retain(|(_, known)| known.id() != region);
    }

    /// The device reads memory. False, and nothing read, where nothing is mapped: an IOMMU fault.
    pub fn read(&self, iova: u64, out: &mut [u8]) -> bool {
        self.with(iova, out.len(), |bytes| {
            for (byte, there) in out.iter_mut().zip(bytes) {
                *byte = there.load(Ordering::Relaxed);
            }
        })
    }

    /// The device writes memory. False, and nothing written, where nothing is mapped.
    pub fn write(&self, iova: u64, data: &[u8]) -> bool {
        self.with(iova, data.len(), |bytes| {
            for (there, byte) in bytes.iter().zip(data) {
                there.store(*byte, Ordering::Release);
            }
        })
    }

    fn with(&self, iova: u64, len: usize, act: impl FnOnce(&[AtomicU8])) -> bool {
        let maps = self.lock();
        let end = iova.saturating_add(len as u64);
        let place = maps
            .list
            .iter()
            .find(|(start, region)| iova >= *start && end <= start + region.len() as u64);
        let Some((start, region)) = place else {
            return false;
        };
        // SAFETY: inside a region that `maps` keeps mapped. This is a device's access: it may race with
        // the host's exactly where the host lets a device race, in ring memory, which both sides look at
        // as atomics; Bufs are the device's alone while their command is in flight.
        let bytes = unsafe {
            let base = region.base().add((iova - start) as usize);
            std::slice::from_raw_parts(base.cast::<AtomicU8>(), len)
        };
        act(bytes);
        true
    }

    fn lock(&self) -> MutexGuard<'_, Maps> {
        self.maps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
