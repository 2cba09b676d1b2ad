//! Tears a hole into what a drive reaches: preloaded into the node, it stands before the system call by which that maps
//! memory for its drives. While the file /tmp/hole exists, the PRP lists of the first drive's queues are not mapped, so
//! that the drive meets the IOMMU at an address that is none of its own.
//!
//! The lists, and not the data: QEMU's NVMe drive says that it could not read a list, whereas it takes no notice of data
//! that it could neither read nor write.

use std::ffi::{c_int, c_long, c_ulong};
use std::path::Path;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

const IOCTL: c_long = 16;
const IOMMU_MAP_DMA: c_ulong = 0x3b71;
const IOMMU_UNMAP_DMA: c_ulong = 0x3b72;

/// A queue's memory: 256 entries of 64 and of 16 bytes, a list of 512 bytes for each, two pages.
const QUEUE: u64 = LISTS_AT + LISTS + 8192;
const LISTS_AT: u64 = 256 * (64 + 16);
const LISTS: u64 = 256 * 512;

#[repr(C)]
#[derive(Clone, Copy)]
struct Map {
    argsz: u32,
    flags: u32,
    vaddr: u64,
    iova: u64,
    size: u64,
}

#[repr(C)]
struct Unmap {
    argsz: u32,
    flags: u32,
    iova: u64,
    size: u64,
}

/// The first drive's container, and where its lists are.
static HOLES: Mutex<Option<(c_int, Vec<Map>)>> = Mutex::new(None);

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
}

fn real(container: c_int, request: c_ulong, argument: usize) -> c_int {
    // SAFETY: what the caller of `ioctl` said, or a structure of this request that lives until it returns.
    unsafe { syscall(IOCTL, container, request, argument) as c_int }
}

/// In the place of the C library's function.
#[unsafe(no_mangle)]
extern "C" fn ioctl(file: c_int, request: c_ulong, argument: usize) -> c_int {
    if request != IOMMU_MAP_DMA {
        return real(file, request, argument);
    }
    // SAFETY: that is what this request has.
    let map = unsafe { *(argument as *const Map) };
    let mut holes = HOLES.lock().unwrap();
    if holes.as_ref().is_some_and(|(first, _)| *first != file) || map.size != QUEUE {
        return real(file, request, argument);
    }
    // In three pieces, since a mapping goes as a whole. That the node takes them away at once is allowed.
    for (from, size) in [
        (0, LISTS_AT),
        (LISTS_AT, LISTS),
        (LISTS_AT + LISTS, QUEUE - LISTS_AT - LISTS),
    ] {
        let piece = piece(map, from, size);
        if real(file, request, &raw const piece as usize) != 0 {
            return -1;
        }
    }
    let first = holes.is_none();
    let (_, lists) = holes.get_or_insert((file, Vec::new()));
    lists.push(piece(map, LISTS_AT, LISTS));
    if first {
        thread::spawn(watch);
    }
    0
}

fn piece(map: Map, from: u64, size: u64) -> Map {
    Map {
        vaddr: map.vaddr + from,
        iova: map.iova + from,
        size,
        ..map
    }
}

/// Opens and mends the holes as the file comes and goes, and says so.
fn watch() {
    let mut open = false;
    loop {
        thread::sleep(Duration::from_millis(50));
        let wanted = Path::new("/tmp/hole").exists();
        if wanted == open {
            continue;
        }
        open = wanted;
        let holes = HOLES.lock().unwrap();
        let (container, lists) = holes.as_ref().expect("there was a mapping");
        for map in lists {
            let unmap = Unmap {
                argsz: size_of::<Unmap>() as u32,
                flags: 0,
                iova: map.iova,
                size: map.size,
            };
            let result = match open {
                true => real(*container, IOMMU_UNMAP_DMA, &raw const unmap as usize),
                false => real(*container, IOMMU_MAP_DMA, map as *const Map as usize),
            };
            assert_eq!(result, 0, "the IOMMU takes it");
        }
        let what = if open { "open" } else { "closed" };
        eprintln!("hole: {what} at {} places", lists.len());
    }
}
