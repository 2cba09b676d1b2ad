//! The label of a FAT file system: Microsoft's "FAT32 File System Specification" 1.03. It has two places, the boot sector and
//! an entry of the root directory, and not every tool writes both. Where they differ the root directory is what people see.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// A label, filled up with spaces.
pub type Label = [u8; 11];

/// Bytes of an entry of a directory.
const ENTRY: usize = 32;
/// A directory has no more of them: 2 MiB.
const ENTRIES_MAX: u64 = 65_536;
/// DIR_Attr: the volume's label; with the other three, a part of a long name.
const VOLUME_ID: u8 = 0x08;
const LONG_NAME: u8 = 0x0F;
/// DIR_Name\[0\] of an entry that is free, and of one behind which all are.
const FREE: u8 = 0xE5;
const NO_MORE: u8 = 0;
/// A FAT32 entry from here on ends a chain, or cannot be followed; the upper four bits are not part of it.
const CHAIN_END: u32 = 0x0FFF_FFF7;

/// Of this device, if a FAT file system with a label lies on it.
pub fn label(device: &File) -> Option<Label> {
    let mut sector = [0; 512];
    device.read_exact_at(&mut sector, 0).ok()?;
    let volume = Volume::of(&sector)?;
    // A directory that cannot be read leaves what the boot sector says.
    volume.label_of_root(device).or(volume.label)
}

/// What the boot sector says, in bytes from the device's start where it is a place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Volume {
    /// BS_VolLab.
    label: Option<Label>,
    root: Root,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Root {
    /// FAT12 and FAT16: one piece.
    Piece { at: u64, entries: u64 },
    /// FAT32: a chain of clusters.
    Chain {
        /// The first one.
        cluster: u32,
        /// Bytes of each.
        len: u64,
        /// Where cluster 2 is, the first that there is.
        data: u64,
        /// Where the table is.
        fat: u64,
    },
}

impl Volume {
    fn of(sector: &[u8; 512]) -> Option<Volume> {
        let u16_at = |at: usize| u16::from_le_bytes([sector[at], sector[at + 1]]);
        let u32_at = |at: usize| u32::from(u16_at(at)) | u32::from(u16_at(at + 2)) << 16;
        // BS_FilSysType is only a hint which kind of FAT it is, but whether it is FAT at all, nothing says better.
        let is_fat32 = u16_at(22) == 0;
        let (label, kind) = if is_fat32 { (71, 82) } else { (43, 54) };
        if sector[510..] != [0x55, 0xAA] || !sector[kind..].starts_with(b"FAT") {
            return None;
        }
        let label: Label = sector[label..label + 11].try_into().expect("eleven");
        // BPB_BytsPerSec, BPB_RsvdSecCnt, BPB_NumFATs, and BPB_FATSz32 or BPB_FATSz16.
        let sector_len = u64::from(u16_at(11));
        let fat = u64::from(u16_at(14)) * sector_len;
        let fat_sectors = match is_fat32 {
            true => u64::from(u32_at(36)),
            false => u64::from(u16_at(22)),
        };
        let behind = fat + u64::from(sector[16]) * fat_sectors * sector_len;
        let root = match is_fat32 {
            true => Root::Chain {
                // BPB_RootClus, BPB_SecPerClus.
                cluster: u32_at(44),
                len: u64::from(sector[13]) * sector_len,
                data: behind,
                fat,
            },
            false => Root::Piece {
                at: behind,
                // BPB_RootEntCnt.
                entries: u64::from(u16_at(17)),
            },
        };
        Some(Volume {
            label: (label != *b"NO NAME    ").then_some(label),
            root,
        })
    }

    fn label_of_root(&self, device: &File) -> Option<Label> {
        match self.root {
            Root::Piece { at, entries } => look(device, at, entries).label(),
            Root::Chain {
                mut cluster,
                len,
                data,
                fat,
            } => {
                // Clusters of nothing would make a chain that never ends.
                let each = (len / ENTRY as u64).max(1);
                for _ in 0..ENTRIES_MAX.div_ceil(each) {
                    let at = data + u64::from(cluster.checked_sub(2)?) * len;
                    match look(device, at, each) {
                        Found::GoOn => (),
                        found => return found.label(),
                    }
                    let mut next = [0; 4];
                    let entry = fat + u64::from(cluster) * 4;
                    device.read_exact_at(&mut next, entry).ok()?;
                    cluster = u32::from_le_bytes(next) & 0x0FFF_FFFF;
                    if cluster >= CHAIN_END {
                        return None;
                    }
                }
                None
            }
        }
    }
}

/// What a piece of a directory holds.
enum Found {
    Label(Label),
    /// All entries are in use.
    GoOn,
    /// There is no label, or the device cannot be read.
    End,
}

impl Found {
    fn label(self) -> Option<Label> {
        match self {
            Found::Label(label) => Some(label),
            Found::GoOn | Found::End => None,
        }
    }
}

fn look(device: &File, at: u64, entries: u64) -> Found {
    for i in 0..entries {
        let mut entry = [0; ENTRY];
        if device
            .read_exact_at(&mut entry, at + i * ENTRY as u64)
            .is_err()
        {
            return Found::End;
        }
        match (entry[0], entry[11]) {
            (NO_MORE, _) => return Found::End,
            (FREE, _) => (),
            (_, attributes) if attributes & LONG_NAME == VOLUME_ID => {
                return Found::Label(entry[..11].try_into().expect("eleven"));
            }
            _ => (),
        }
    }
    Found::GoOn
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const OURS: &Label = b"FERROCE    ";
    const OTHER: &Label = b"MODELS     ";
    const NONE: &Label = b"NO NAME    ";

    fn entry(name: &Label, attributes: u8) -> Vec<u8> {
        let mut entry = [name.as_slice(), &[attributes]].concat();
        entry.resize(ENTRY, 0xA5);
        entry
    }

    /// A device of 64 KiB with these bytes at these places.
    fn device(parts: &[(usize, &[u8])]) -> File {
        let mut bytes = vec![0; 64 << 10];
        for (at, part) in parts {
            bytes[*at..at + part.len()].copy_from_slice(part);
        }
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(&bytes).expect("written");
        file
    }

    /// Sectors of 512 bytes, one of them a cluster; four before two tables of two each; 16 entries in the root directory.
    fn fat16(in_sector: &Label, root: &[u8]) -> File {
        device(&[
            (11, &[0, 2, 1, 4, 0, 2, 16, 0]),
            (22, &[2, 0]),
            (43, in_sector),
            (54, b"FAT16   "),
            (510, &[0x55, 0xAA]),
            (8 * 512, root),
        ])
    }

    /// The same with FAT32: the root directory's first cluster is 3, at the tenth sector, and its second one is 5.
    fn fat32(in_sector: &Label, first: &[u8], second: &[u8]) -> File {
        device(&[
            (11, &[0, 2, 1, 4, 0, 2]),
            (36, &[2, 0, 0, 0]),
            (44, &[3, 0, 0, 0]),
            (71, in_sector),
            (82, b"FAT32   "),
            (510, &[0x55, 0xAA]),
            (4 * 512 + 3 * 4, &[5, 0, 0, 0xF0]),
            (4 * 512 + 5 * 4, &[0xFF, 0xFF, 0xFF, 0x0F]),
            (9 * 512, first),
            (11 * 512, second),
        ])
    }

    #[test]
    fn the_root_directory_counts_over_the_boot_sector() {
        let ours = entry(OURS, VOLUME_ID);
        // Archive bits are of no meaning; a name of eleven letters and a part of a long one are no labels.
        let among_others = [
            entry(OTHER, 0x20),
            entry(OTHER, LONG_NAME),
            entry(b"\xE5ODELS     ", VOLUME_ID),
            entry(OURS, VOLUME_ID | 0x20),
        ]
        .concat();
        for root in [&ours, &among_others] {
            for in_sector in [OURS, OTHER, NONE] {
                assert_eq!(label(&fat16(in_sector, root)).as_ref(), Some(OURS));
                assert_eq!(label(&fat32(in_sector, root, &[])).as_ref(), Some(OURS));
            }
        }
        let other = entry(OTHER, VOLUME_ID);
        assert_eq!(label(&fat16(OURS, &other)).as_ref(), Some(OTHER));
        // Behind the end there is nothing.
        let behind = [vec![0; ENTRY], other].concat();
        assert_eq!(label(&fat16(OURS, &behind)).as_ref(), Some(OURS));
        assert_eq!(label(&fat32(OURS, &behind, &[])).as_ref(), Some(OURS));
    }

    #[test]
    fn without_a_label_in_the_root_directory_the_boot_sector_has_it() {
        let files = [entry(OTHER, 0x20), entry(b"\xE5ODELS     ", VOLUME_ID)].concat();
        assert_eq!(label(&fat16(OURS, &files)).as_ref(), Some(OURS));
        assert_eq!(label(&fat32(OURS, &files, &[])).as_ref(), Some(OURS));
        assert_eq!(label(&fat16(NONE, &files)), None);
        assert_eq!(label(&fat32(NONE, &files, &[])), None);
    }

    #[test]
    fn a_root_directory_of_several_clusters_is_read_to_its_end() {
        let full = entry(OTHER, 0x20).repeat(16);
        let ours = entry(OURS, VOLUME_ID);
        assert_eq!(label(&fat32(NONE, &full, &ours)).as_ref(), Some(OURS));
        assert_eq!(label(&fat32(NONE, &full, &full)), None);
        // The other one's has one piece only.
        assert_eq!(label(&fat16(NONE, &[full, ours].concat())), None);
    }

    #[test]
    fn what_cannot_be_is_no_reason_to_hang_or_panic() {
        let full = entry(OTHER, 0x20).repeat(16);
        let spoil = |parts: &[(usize, &[u8])]| {
            let file = fat32(NONE, &full, &full);
            for (at, part) in parts {
                file.write_all_at(part, *at as u64).expect("written");
            }
            label(&file)
        };
        // Signatures; a ring; clusters of no bytes, that do not exist, or lie behind the end.
        assert_eq!(spoil(&[(510, &[0])]), None);
        assert_eq!(spoil(&[(82, b"NTFS")]), None);
        assert_eq!(spoil(&[(4 * 512 + 5 * 4, &[3, 0, 0, 0])]), None);
        assert_eq!(spoil(&[(13, &[0])]), None);
        assert_eq!(spoil(&[(11, &[0, 0])]), None);
        assert_eq!(spoil(&[(44, &[0])]), None);
        assert_eq!(spoil(&[(44, &[0xFF; 4])]), None);
        assert_eq!(spoil(&[(36, &[0xFF; 4]), (71, OURS)]).as_ref(), Some(OURS));
        assert_eq!(label(&device(&[])), None);
        let short = tempfile::tempfile().expect("a file");
        assert_eq!(label(&short), None);
    }
}
