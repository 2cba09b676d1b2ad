//! The configuration on a file system with the label FERROCE: a stick, or a disk of a virtual machine. Labels are read here,
//! since nobody else does without udev; the file system itself is the kernel's, mounted for reading and only while it is read.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::fat;
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
        // A drive without a medium cannot be opened, and is none.
        let found = labelled(&File::open(&device).ok()?)?;
        Some((device, found))
    })
}

/// Whether this is a file system with our label.
///
/// ext4: the kernel's Documentation/filesystems/ext4, super block at 1024: s_magic at 56, s_volume_name at 120.
fn labelled(device: &File) -> Option<FileSystem> {
    let is_label = |bytes: &[u8]| {
        let end = bytes.iter().position(|byte| *byte == 0);
        bytes[..end.unwrap_or(bytes.len())].trim_ascii_end() == LABEL.as_bytes()
    };
    if fat::label(device).is_some_and(|label| is_label(&label)) {
        return Some(FileSystem {
            kind: "vfat",
            options: "",
        });
    }
    let mut ext4 = [0; 136];
    device.read_exact_at(&mut ext4, 1024).ok()?;
    (ext4[56..58] == [0x53, 0xEF] && is_label(&ext4[120..])).then_some(FileSystem {
        kind: "ext4",
        options: "noload",
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const VFAT: FileSystem = FileSystem {
        kind: "vfat",
        options: "",
    };
    const EXT4: FileSystem = FileSystem {
        kind: "ext4",
        options: "noload",
    };

    fn head(parts: &[(usize, &[u8])]) -> Vec<u8> {
        let mut head = vec![0; 2048];
        for (at, bytes) in parts {
            head[*at..at + bytes.len()].copy_from_slice(bytes);
        }
        head
    }

    #[test]
    fn labels_are_read_from_superblocks() {
        const SIGNED: (usize, &[u8]) = (510, &[0x55, 0xAA]);
        // A table of one sector, for FAT16.
        const TABLE: (usize, &[u8]) = (22, &[1, 0]);
        let of = |parts: &[(usize, &[u8])]| {
            let mut file = tempfile::tempfile().expect("a file");
            file.write_all(&head(parts)).expect("written");
            labelled(&file)
        };
        let fat32 = [SIGNED, (71, b"FERROCE    "), (82, b"FAT32   ")];
        let fat16 = [SIGNED, TABLE, (43, b"FERROCE    "), (54, b"FAT16   ")];
        let ext4: [(usize, &[u8]); 2] = [(1024 + 56, &[0x53, 0xEF]), (1024 + 120, b"FERROCE")];
        assert_eq!(of(&fat32), Some(VFAT));
        assert_eq!(of(&fat16), Some(VFAT));
        assert_eq!(of(&ext4), Some(EXT4));
        // Not signed; other labels; a label that only begins as ours.
        for other in [
            &[] as &[(usize, &[u8])],
            &fat32[1..],
            &[SIGNED, (71, b"NO NAME    "), (82, b"FAT32   ")],
            &[SIGNED, TABLE, (43, b"FERROCE2   "), (54, b"FAT16   ")],
            &[(1024 + 56, &[0x53, 0xEF]), (1024 + 120, b"FERROCE-OLD")],
            &ext4[1..],
        ] {
            assert_eq!(of(other), None);
        }
    }

    #[test]
    fn the_device_with_the_label_is_found_among_others() {
        let place = std::env::temp_dir().join(format!("ferroce-stick-{}", std::process::id()));
        let (known, devices) = (place.join("class"), place.join("dev"));
        fs::create_dir_all(&devices).expect("a folder");
        let ext4 = head(&[(1024 + 56, &[0x53, 0xEF]), (1024 + 120, b"FERROCE")]);
        for (name, bytes) in [("sda", &[][..]), ("sdb", &[0; 2048]), ("sdb1", &ext4)] {
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
