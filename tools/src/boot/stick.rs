//! The configuration on a file system with the label FERROCE: a stick, or a disk of a virtual machine. Labels are read here,
//! since nobody else does without udev; the file system itself is the kernel's, mounted for reading and only while it is read.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::modules::Modules;
use crate::fail::{Context, Result};

/// What the file system is called.
pub const LABEL: &str = "FERROCE";
/// The file on it.
const NAME: &str = "ferroce.toml";
const PLACE: &str = "/run/ferroce/stick";
/// USB disks appear this long after their controller's driver was loaded, at most.
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// What such disks need that no hardware asks for by its name.
const MODULES: [&str; 4] = ["sd_mod", "vfat", "nls_cp437", "nls_ascii"];
/// Bytes of a disk in which the superblocks lie.
const HEAD: usize = 2048;

/// What a superblock says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct FileSystem {
    /// As mount(2) calls it.
    kind: &'static str,
    /// So that nothing is written, not even a journal.
    options: &'static str,
}

/// The text of the file, and where it was. `None` if no such file system appears.
///
/// # Errors
/// If there is one and it cannot be read.
pub fn read(modules: &mut Modules) -> Result<Option<(String, String)>> {
    for name in MODULES {
        // What the image does not have may be part of the kernel.
        if modules.has(name)
            && let Err(why) = modules.load(name)
        {
            log::warn!("{why}");
        }
    }
    let until = Instant::now() + PATIENCE;
    loop {
        for why in modules.load_for_hardware() {
            log::warn!("{why}");
        }
        if let Some((device, found)) = find(Path::new("/sys/class/block"), Path::new("/dev")) {
            let at = format!("{NAME} of the file system {LABEL} on {}", device.display());
            return take(&device, found, modules)
                .context(|| at.clone())
                .map(|text| Some((text, at)));
        }
        if Instant::now() >= until {
            return Ok(None);
        }
        thread::sleep(LOOK_AGAIN);
    }
}

fn take(device: &Path, found: FileSystem, modules: &Modules) -> Result<String> {
    if modules.has(found.kind) {
        modules.load(found.kind)?;
    }
    fs::create_dir_all(PLACE).context(|| PLACE)?;
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let options = std::ffi::CString::new(found.options).expect("there is no zero in it");
    mount(device, PLACE, found.kind, flags, options.as_c_str())
        .context(|| format!("cannot mount it ({})", found.kind))?;
    let text = fs::read_to_string(Path::new(PLACE).join(NAME));
    if let Err(cause) = unmount(PLACE, UnmountFlags::empty()) {
        log::warn!("cannot unmount {PLACE}: {cause}");
    }
    text.context(|| "cannot read it")
}

/// The first block device with such a file system, in the order of their names.
fn find(known: &Path, devices: &Path) -> Option<(PathBuf, FileSystem)> {
    let mut names: Vec<_> = fs::read_dir(known)
        .ok()?
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    names.sort();
    names.into_iter().find_map(|name| {
        let device = devices.join(name);
        let mut head = [0; HEAD];
        // A drive without a medium cannot be opened, and is none.
        File::open(&device).ok()?.read_exact_at(&mut head, 0).ok()?;
        Some((device, labelled(&head)?))
    })
}

/// Whether this is the beginning of a file system with our label.
///
/// FAT: Microsoft's "FAT32 File System Specification" 1.03, boot sector: BS_VolLab at 43, BS_FilSysType at 54; with FAT32 at
/// 71 and 82. ext4: the kernel's Documentation/filesystems/ext4, super block at 1024: s_magic at 56, s_volume_name at 120.
fn labelled(head: &[u8; HEAD]) -> Option<FileSystem> {
    let is_label = |bytes: &[u8]| {
        let end = bytes.iter().position(|byte| *byte == 0);
        bytes[..end.unwrap_or(bytes.len())].trim_ascii_end() == LABEL.as_bytes()
    };
    let fat = |label: usize, kind: usize| {
        head[510..512] == [0x55, 0xAA]
            && head[kind..].starts_with(b"FAT")
            && is_label(&head[label..label + 11])
    };
    if fat(71, 82) || fat(43, 54) {
        return Some(FileSystem {
            kind: "vfat",
            options: "",
        });
    }
    let ext4 = &head[1024..];
    (ext4[56..58] == [0x53, 0xEF] && is_label(&ext4[120..136])).then_some(FileSystem {
        kind: "ext4",
        options: "noload",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const VFAT: FileSystem = FileSystem {
        kind: "vfat",
        options: "",
    };
    const EXT4: FileSystem = FileSystem {
        kind: "ext4",
        options: "noload",
    };

    fn head(parts: &[(usize, &[u8])]) -> [u8; HEAD] {
        let mut head = [0; HEAD];
        for (at, bytes) in parts {
            head[*at..at + bytes.len()].copy_from_slice(bytes);
        }
        head
    }

    #[test]
    fn labels_are_read_from_superblocks() {
        const SIGNED: (usize, &[u8]) = (510, &[0x55, 0xAA]);
        let fat32 = head(&[SIGNED, (71, b"FERROCE    "), (82, b"FAT32   ")]);
        let fat16 = head(&[SIGNED, (43, b"FERROCE    "), (54, b"FAT16   ")]);
        let ext4 = head(&[(1024 + 56, &[0x53, 0xEF]), (1024 + 120, b"FERROCE")]);
        assert_eq!(labelled(&fat32), Some(VFAT));
        assert_eq!(labelled(&fat16), Some(VFAT));
        assert_eq!(labelled(&ext4), Some(EXT4));
        for other in [
            head(&[]),
            // Not signed; other labels; a label that only begins as ours.
            head(&[(71, b"FERROCE    "), (82, b"FAT32   ")]),
            head(&[SIGNED, (71, b"NO NAME    "), (82, b"FAT32   ")]),
            head(&[SIGNED, (43, b"FERROCE2   "), (54, b"FAT16   ")]),
            head(&[(1024 + 56, &[0x53, 0xEF]), (1024 + 120, b"FERROCE-OLD")]),
            head(&[(1024 + 120, b"FERROCE")]),
        ] {
            assert_eq!(labelled(&other), None);
        }
    }

    #[test]
    fn the_device_with_the_label_is_found_among_others() {
        let place = std::env::temp_dir().join(format!("ferroce-stick-{}", std::process::id()));
        let (known, devices) = (place.join("class"), place.join("dev"));
        fs::create_dir_all(&devices).expect("a folder");
        let ext4 = head(&[(1024 + 56, &[0x53, 0xEF]), (1024 + 120, b"FERROCE")]);
        for (name, bytes) in [("sda", &[][..]), ("sdb", &[0; HEAD]), ("sdb1", &ext4)] {
            fs::create_dir_all(known.join(name)).expect("a folder");
            fs::write(devices.join(name), bytes).expect("a file");
        }
        // In the list, and gone.
        fs::create_dir_all(known.join("loop0")).expect("a folder");
        assert_eq!(find(&known, &devices), Some((devices.join("sdb1"), EXT4)));
        fs::remove_file(devices.join("sdb1")).expect("it was there");
        assert_eq!(find(&known, &devices), None);
        fs::remove_dir_all(&place).expect("it was there");
    }
}
