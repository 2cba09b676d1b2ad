use super::*;
use ferroce_buf::Want;

fn region(pages: usize) -> Arc<Region> {
    Arc::new(Region::map(pages * 4096, Want::default()).unwrap())
}

#[test]
fn addresses_come_from_the_ranges_and_never_overlap() {
    let mut space = Space {
        ranges: vec![(0, 0x2F_FFFF), (0x80_0000, 0x80_2FFF)],
        maps: Vec::new(),
    };
    let mut add = |pages: usize| {
        let region = region(pages);
        let (at, iova) = space.find(region.len() as u64)?;
        space.maps.insert(at, (iova, region));
        assert!(
            space
                .maps
                .is_sorted_by(|a, b| a.0 + a.1.len() as u64 <= b.0)
        );
        Some(iova)
    };
    assert_eq!(add(1), Some(0x10_0000), "not at 0");
    assert_eq!(add(0x1FE), Some(0x10_1000));
    assert_eq!(
        add(2),
        Some(0x80_0000),
        "the rest of the first range is too small"
    );
    assert_eq!(
        add(1),
        Some(0x2F_F000),
        "the first range is full to its last byte"
    );
    assert_eq!(add(1), Some(0x80_2000));
    assert_eq!(add(1), None);
    let (_, gone) = space.maps.remove(1);
    assert_eq!(
        space.find(gone.len() as u64),
        Some((1, 0x10_1000)),
        "what was freed is found again"
    );
}

#[test]
fn large_regions_are_aligned_for_large_pages() {
    let space = Space {
        ranges: vec![(0, (1 << 39) - 1)],
        maps: vec![(0x10_0000, region(1))],
    };
    assert_eq!(space.find(2 << 20), Some((1, 2 << 20)));
    assert_eq!(space.find(4096), Some((1, 0x10_1000)));
}

#[test]
fn ranges_are_read_from_what_the_kernel_says() {
    // argsz, flags (capabilities), page sizes, cap_offset; a capability of another kind; the ranges.
    let mut info = Vec::new();
    for word in [0u32, vfio::VFIO_IOMMU_INFO_CAPS, 0x1000, 0, 24, 0] {
        info.extend(word.to_ne_bytes());
    }
    for word in [0x0001_0002u32, 40, 0, 0] {
        info.extend(word.to_ne_bytes());
    }
    for word in [0x0001_0001u32, 0, 2, 0] {
        info.extend(word.to_ne_bytes());
    }
    for word in [0u64, 0xFEDF_FFFF, 0xFEF0_0000, 0x7F_FFFF_FFFF] {
        info.extend(word.to_ne_bytes());
    }
    let ranges = vec![(0, 0xFEDF_FFFF), (0xFEF0_0000, 0x7F_FFFF_FFFF)];
    assert_eq!(parse_iova_ranges(&info), ranges);
    // Cut anywhere, it says less or falls back, and never reads beyond.
    for len in 0..info.len() {
        let said = parse_iova_ranges(&info[..len]);
        assert!(
            said == ranges || said[..1] == ranges[..1],
            "{len}: {said:?}"
        );
    }
    // A chain that leads back ends.
    info[44..48].copy_from_slice(&24u32.to_ne_bytes());
    assert_eq!(parse_iova_ranges(&info), ranges);
}

#[test]
fn events_are_counted_and_waited_for() {
    let (one, other) = (EventFd::new().unwrap(), EventFd::new().unwrap());
    assert!(!one.drain());
    one.signal();
    one.signal();
    wait(&[other, one.clone()], Duration::from_secs(60));
    assert!(one.drain() && !one.drain());
}

#[test]
fn without_an_iommu_the_fix_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let address: Address = "0000:3b:00.0".parse().unwrap();
    let folder = dir.path().join("devices/0000:3b:00.0");
    std::fs::create_dir_all(folder).unwrap();
    let said = Container::of(address, &Sysfs::at(dir.path())).unwrap_err();
    let said = said.to_string();
    assert!(
        said.contains("nvme:0000:3b:00.0: it has no IOMMU group")
            && said.contains("intel_iommu=on"),
        "{said}"
    );
}

/// What a system answers that has so many vectors left, as one that says how many, or one that does not.
fn system(left: usize, says: bool) -> impl FnMut(usize) -> io::Result<usize> {
    move |count| match (count <= left, says && left > 0) {
        (true, _) => Ok(0),
        (false, true) => Ok(left),
        (false, false) => Err(io::Error::from_raw_os_error(libc::ENOSPC)),
    }
}

#[test]
fn as_many_vectors_are_taken_as_there_are() {
    for (left, says, given) in [
        (100, true, 65),
        (65, false, 65),
        (40, true, 40),
        (40, false, 32),
        (1, true, 1),
        (1, false, 1),
        (0, true, 0),
        (0, false, 0),
    ] {
        assert_eq!(as_many(65, system(left, says)).unwrap(), given, "{left}");
    }
    let mut asked = 0;
    let other = as_many(65, |_| {
        asked += 1;
        Err(io::ErrorKind::InvalidInput.into())
    });
    assert!(other.is_err() && asked == 1);
    // One that takes back what it said ends, too.
    assert_eq!(as_many(9, |_| Ok(9)).unwrap(), 0);
}
