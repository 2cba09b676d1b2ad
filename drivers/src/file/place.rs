//! Where a file or block device is, as the system tells: its file system, limits, users and names.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use super::ring::sys;
use crate::DriveError;

/// A file or block device.
#[derive(Debug)]
pub(super) struct Place {
    path: PathBuf,
    kind: Metadata,
    /// Type of the file system, its identifier and its block length; of a file only.
    pub file_system: sys::FileSystem,
    /// What offsets O_DIRECT asks for, if the kernel says.
    direct_align: Option<u32>,
}

/// True for a block device.
pub(super) fn is_device(kind: &Metadata) -> bool {
    kind.file_type().is_block_device()
}

/// Bytes of a block device, if the system says.
pub(super) fn device_len(kind: &Metadata) -> Option<u64> {
    let sectors: u64 = read_line(&sysfs(kind.rdev()).join("size"))?.parse().ok()?;
    Some(sectors * 512)
}

impl Place {
    pub fn of(file: &File, path: &Path) -> io::Result<Place> {
        Ok(Place {
            path: path.to_owned(),
            kind: file.metadata()?,
            file_system: sys::file_system(file)?,
            direct_align: sys::direct_align(file),
        })
    }

    pub fn is_device(&self) -> bool {
        is_device(&self.kind)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn inode(&self) -> u64 {
        self.kind.ino()
    }

    /// Nanoseconds since 1970 when the file was made; 0 if the file system does not know.
    pub fn born_ns(&self) -> u128 {
        let born = self.kind.created().ok();
        born.and_then(|born| born.duration_since(UNIX_EPOCH).ok())
            .map_or(0, |since| since.as_nanos())
    }

    /// Folder of the device in sysfs.
    pub fn sysfs(&self) -> PathBuf {
        sysfs(self.kind.rdev())
    }

    /// Folder of the whole disk in sysfs, if the device is a partition.
    pub fn disk(&self) -> PathBuf {
        let folder = self.sysfs();
        if folder.join("partition").exists() {
            let folder = folder.canonicalize().unwrap_or(folder);
            folder.parent().map(Path::to_owned).unwrap_or(folder)
        } else {
            folder
        }
    }

    fn queue_limit(&self, name: &str) -> Option<u64> {
        read_line(&self.disk().join("queue").join(name))?
            .parse()
            .ok()
    }

    /// The length of blocks, as wished or as it lies near.
    pub fn block_len(
        &self,
        label: &str,
        direct: bool,
        wished: Option<u32>,
    ) -> Result<u32, DriveError> {
        let logical = if self.is_device() {
            self.queue_limit("logical_block_size").unwrap_or(512) as u32
        } else if direct {
            self.direct_align.unwrap_or(512)
        } else {
            1
        };
        let near = if self.is_device() {
            logical.max(512)
        } else {
            4096
        };
        let block_len = wished.unwrap_or(near);
        if block_len < logical || (block_len != 512 && block_len != 4096) {
            return Err(DriveError::refused(
                label,
                format!(
                    "blocks of {block_len} bytes cannot be written one by one, the device below has \
                     blocks of {logical}{}",
                    if logical == 4096 {
                        "; give block=4096"
                    } else {
                        ""
                    }
                ),
            ));
        }
        Ok(block_len)
    }

    /// What is written best at once, in bytes.
    pub fn preferred_len(&self) -> u32 {
        let len = if self.is_device() {
            self.queue_limit("physical_block_size").unwrap_or(512) as u32
        } else {
            self.file_system.block_len
        };
        if len.is_power_of_two() {
            len.clamp(512, 1 << 20)
        } else {
            4096
        }
    }

    /// True if space can be given back.
    pub fn can_punch(&self, file: &File, bytes: u64) -> bool {
        if self.is_device() {
            let limit = |name| self.queue_limit(name).is_some_and(|limit| limit > 0);
            limit("discard_max_bytes") && limit("write_zeroes_max_bytes")
        } else {
            // Beyond the end there is nothing to lose.
            sys::punch_hole(file, bytes, 4096).is_ok()
        }
    }

    /// A loop device that has this file.
    pub fn loop_device(&self) -> Option<String> {
        if self.is_device() {
            return None;
        }
        for entry in fs::read_dir("/sys/block").ok()?.flatten() {
            let Some(backing) = read_line(&entry.path().join("loop/backing_file")) else {
                continue;
            };
            if let Ok(kind) = fs::metadata(&backing)
                && (kind.dev(), kind.ino()) == (self.kind.dev(), self.kind.ino())
            {
                return Some(format!("/dev/{}", entry.file_name().to_string_lossy()));
            }
        }
        None
    }
}

fn sysfs(rdev: u64) -> PathBuf {
    let (major, minor) = (libc::major(rdev), libc::minor(rdev));
    PathBuf::from(format!("/sys/dev/block/{major}:{minor}"))
}

/// The first line of a small file, if it has one.
pub(super) fn read_line(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().next()?.trim();
    (!line.is_empty()).then(|| line.to_owned())
}

/// Who has a device claimed, in words.
pub(super) fn user_of_device(kind: &Metadata) -> Option<String> {
    let folder = sysfs(kind.rdev());
    // The device itself, and if it is a disk, its partitions.
    let mut devices = vec![folder.clone()];
    if let Ok(entries) = fs::read_dir(&folder) {
        devices.extend(
            entries
                .flatten()
                .map(|entry| entry.path())
                .filter(|path| path.join("partition").exists()),
        );
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
    for device in devices {
        if let Some(number) = read_line(&device.join("dev")) {
            // mountinfo: mount ID, parent ID, major:minor, root, mount point.
            let mount = mounts.lines().find_map(|line| {
                let mut fields = line.split(' ').skip(2);
                (fields.next()? == number).then(|| fields.nth(1))?
            });
            if let Some(point) = mount {
                return Some(format!("it is mounted on {point}"));
            }
        }
        let name = device
            .canonicalize()
            .ok()
            .and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
        if let Some(name) = name
            && swaps
                .lines()
                .any(|line| line.split_whitespace().next() == Some(&format!("/dev/{name}")))
        {
            return Some("it is swapped to".to_owned());
        }
        let holder = fs::read_dir(device.join("holders"))
            .ok()
            .and_then(|mut holders| holders.next()?.ok());
        if let Some(holder) = holder {
            let name = holder.file_name();
            return Some(format!("{} has it", name.to_string_lossy()));
        }
    }
    None
}

/// The process that has the lock on a file, if it can be seen.
pub(super) fn lock_holder(file: &File) -> Option<u32> {
    let kind = file.metadata().ok()?;
    let place = format!(
        "{:02x}:{:02x}:{}",
        libc::major(kind.dev()),
        libc::minor(kind.dev()),
        kind.ino()
    );
    // "1: FLOCK  ADVISORY  WRITE 1234 fe:00:5678 0 EOF"
    let locks = fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let found = fields.get(1) == Some(&"FLOCK") && fields.get(5) == Some(&place.as_str());
        found.then(|| fields.get(4)?.parse().ok())?
    })
}
