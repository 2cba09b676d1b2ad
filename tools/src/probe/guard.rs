//! Does somebody's data lie here? Looks for the marks of partition tables, file systems and volume
//! managers at both ends of a namespace, so that a load does not overwrite them by mistake.

/// Bytes to look at, at each end.
pub const LOOK: usize = 1 << 20;

/// A mark at a place.
struct Mark {
    name: &'static str,
    offset: usize,
    bytes: &'static [u8],
}

const fn mark(name: &'static str, offset: usize, bytes: &'static [u8]) -> Mark {
    Mark {
        name,
        offset,
        bytes,
    }
}

/// Marks at fixed places from the start. The more telling ones come first.
const HEAD: &[Mark] = &[
    mark("GPT partition table", 512, b"EFI PART"),
    mark("GPT partition table", 4096, b"EFI PART"),
    mark("ext2, ext3 or ext4 file system", 0x438, &[0x53, 0xEF]),
    mark("XFS file system", 0, b"XFSB"),
    mark("Btrfs file system", 0x1_0040, b"_BHRfS_M"),
    mark("F2FS file system", 0x400, &[0x10, 0x20, 0xF5, 0xF2]),
    mark("NTFS file system", 3, b"NTFS    "),
    mark("exFAT file system", 3, b"EXFAT   "),
    mark("FAT file system", 0x36, b"FAT"),
    mark("FAT file system", 0x52, b"FAT32"),
    mark("ISO 9660 file system", 0x8001, b"CD001"),
    mark("UDF file system", 0x8001, b"BEA01"),
    mark("SquashFS file system", 0, b"hsqs"),
    mark("EROFS file system", 0x400, &[0xE2, 0xE1, 0xF5, 0xE0]),
    mark("NILFS2 file system", 0x406, &[0x34, 0x34]),
    mark("JFS file system", 0x8000, b"JFS1"),
    mark("ReiserFS file system", 0x1_0034, b"ReIsEr"),
    mark("GFS2 file system", 0x1_0000, &[0x01, 0x16, 0x19, 0x70]),
    mark("OCFS2 file system", 0x400, b"OCFSV2"),
    mark("OCFS2 file system", 0x800, b"OCFSV2"),
    mark("OCFS2 file system", 0x1000, b"OCFSV2"),
    mark("Ceph BlueStore", 0, b"bluestore block device"),
    mark("LUKS volume", 0, b"LUKS\xba\xbe"),
    mark("LUKS volume", 0x4000, b"SKUL\xba\xbe"),
    mark("LVM physical volume", 0, b"LABELONE"),
    mark("LVM physical volume", 512, b"LABELONE"),
    mark("LVM physical volume", 1024, b"LABELONE"),
    mark("LVM physical volume", 1536, b"LABELONE"),
    mark("software RAID member", 0, &[0xFC, 0x4E, 0x2B, 0xA9]),
    mark("software RAID member", 4096, &[0xFC, 0x4E, 0x2B, 0xA9]),
    mark(
        "bcache or bcachefs device",
        0x1018,
        &[0xC6, 0x85, 0x73, 0xF6],
    ),
    mark("Oracle ASM disk", 32, b"ORCLDISK"),
    mark("swap space", 4086, b"SWAPSPACE2"),
    mark("swap space", 8182, b"SWAPSPACE2"),
    mark("swap space", 16374, b"SWAPSPACE2"),
    mark("swap space", 65526, b"SWAPSPACE2"),
    mark("swap space", 4086, b"SWAP-SPACE"),
    mark("partition table or boot sector (MBR)", 510, &[0x55, 0xAA]),
];

/// Marks at fixed places from the end; the offset counts backwards.
const TAIL: &[Mark] = &[
    mark(
        "GPT partition table (the copy at the end)",
        512,
        b"EFI PART",
    ),
    mark(
        "GPT partition table (the copy at the end)",
        4096,
        b"EFI PART",
    ),
    mark("software RAID member", 8192, &[0xFC, 0x4E, 0x2B, 0xA9]),
];

/// Names what lies on a namespace of which `head` are the first bytes and `tail` the last, if it is
/// recognised.
pub fn recognise(head: &[u8], tail: &[u8]) -> Option<&'static str> {
    let at = |bytes: &[u8], offset: usize, what: &[u8]| {
        bytes
            .get(offset..)
            .is_some_and(|rest| rest.starts_with(what))
    };
    HEAD.iter()
        .find(|mark| at(head, mark.offset, mark.bytes))
        .or_else(|| {
            TAIL.iter().find(|mark| {
                let offset = tail.len().checked_sub(mark.offset);
                offset.is_some_and(|offset| at(tail, offset, mark.bytes))
            })
        })
        .map(|mark| mark.name)
        .or_else(|| (zfs(head) || zfs(tail)).then_some("ZFS pool member"))
        .or_else(|| old_raid(tail).then_some("software RAID member"))
}

/// Uberblocks of ZFS lie in the second half of labels of 256 KiB, two of which are at each end, at
/// multiples of 1 KiB. Their magic is in the writer's byte order.
fn zfs(bytes: &[u8]) -> bool {
    const MAGIC: u64 = 0x00BA_B10C;
    bytes.chunks_exact(1024).any(|chunk| {
        let first = chunk[..8].try_into().expect("eight bytes");
        u64::from_le_bytes(first) == MAGIC || u64::from_be_bytes(first) == MAGIC
    })
}

/// A version 0.90 superblock of md is in the last 64 KiB-aligned block of 64 KiB.
fn old_raid(tail: &[u8]) -> bool {
    tail.chunks_exact(4096)
        .any(|chunk| chunk.starts_with(&[0xFC, 0x4E, 0x2B, 0xA9]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blank() -> Vec<u8> {
        vec![0; LOOK]
    }

    #[test]
    fn empty_and_random_ends_are_nobodys() {
        assert_eq!(recognise(&blank(), &blank()), None);
        assert_eq!(recognise(&[], &[]), None);
        let mut random = vec![0x5A; LOOK];
        random
            .iter_mut()
            .enumerate()
            .for_each(|(i, byte)| *byte = (i % 251) as u8);
        assert_eq!(recognise(&random, &random), None);
    }

    #[test]
    fn every_mark_is_recognised() {
        for mark in HEAD {
            let mut head = blank();
            head[mark.offset..mark.offset + mark.bytes.len()].copy_from_slice(mark.bytes);
            assert_eq!(recognise(&head, &blank()), Some(mark.name));
        }
        for mark in TAIL {
            let mut tail = blank();
            let offset = tail.len() - mark.offset;
            tail[offset..offset + mark.bytes.len()].copy_from_slice(mark.bytes);
            assert_eq!(recognise(&blank(), &tail), Some(mark.name));
        }
        let mut label = blank();
        label[0x2_0400..0x2_0408].copy_from_slice(&0x00BA_B10C_u64.to_be_bytes());
        assert_eq!(recognise(&label, &blank()), Some("ZFS pool member"));
    }

    /// What the real tools write, if they are there.
    #[test]
    fn real_file_systems_are_recognised() {
        let dir = tempfile::tempdir().expect("a directory");
        for (tool, arguments, name) in [
            (
                "/sbin/mkfs.ext4",
                &["-q", "-F"][..],
                "ext2, ext3 or ext4 file system",
            ),
            ("/sbin/mkfs.xfs", &["-q", "-f"], "XFS file system"),
            ("/sbin/mkfs.btrfs", &["-q", "-f"], "Btrfs file system"),
            ("/sbin/mkswap", &[], "swap space"),
        ] {
            if !std::path::Path::new(tool).exists() {
                continue;
            }
            let path = dir.path().join("disk");
            let file = std::fs::File::create(&path).expect("creates");
            file.set_len(512 << 20).expect("is sparse");
            let mut make = std::process::Command::new(tool);
            let made = crate::common::run(make.args(arguments).arg(&path));
            assert!(made.status.success(), "{tool}: {made:?}");
            let mut head = blank();
            std::os::unix::fs::FileExt::read_exact_at(
                &std::fs::File::open(&path).expect("opens"),
                &mut head,
                0,
            )
            .expect("reads");
            assert_eq!(recognise(&head, &blank()), Some(name));
        }
    }
}
