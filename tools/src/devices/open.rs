//! Who has a drive's disks open without having claimed them: processes, the kernel's own NVMe target, loop devices. None of
//! them keeps others from the disk, and each would lose it.

use std::fs;
use std::path::{Path, PathBuf};

/// The device files of a drive that the kernel has.
#[derive(Clone, Debug)]
pub struct Files {
    /// Its controllers, such as nvme0.
    pub controllers: Vec<String>,
    /// Their disks, such as nvme0n1.
    pub disks: Vec<String>,
}

impl Files {
    /// True for a controller, a disk, its character device (ng0n1) or one of its partitions (nvme0n1p1), in whatever `dev`.
    fn have(&self, path: &Path) -> bool {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            return false;
        };
        let disk = match name.strip_prefix("ng") {
            Some(rest) => format!("nvme{rest}"),
            None => match name.rsplit_once('p') {
                Some((disk, number)) if number.parse::<u32>().is_ok() => disk.to_owned(),
                _ => name.to_owned(),
            },
        };
        path.ends_with(Path::new("dev").join(name))
            && (self.disks.contains(&disk) || self.controllers.iter().any(|own| own == name))
    }

    /// Who has one of them open, in words. `root` is where `proc` and `sys` are.
    pub fn users(&self, root: &Path) -> Vec<String> {
        let process = process(root, |file| self.have(file)).map(|(pid, file)| {
            let name = line(&root.join(format!("proc/{pid}/comm"))).unwrap_or_default();
            format!("{}: process {pid} ({name}) has it open", name_of(&file))
        });
        let mut users = Vec::from_iter(process);
        users.extend(self.exports(root));
        users.extend(self.loops(root));
        users
    }

    /// Namespaces of the kernel's NVMe target, and controllers that it hands on as a whole.
    fn exports(&self, root: &Path) -> Vec<String> {
        let mut users = Vec::new();
        for subsystem in entries(&root.join("sys/kernel/config/nvmet/subsystems")) {
            let mut places = entries(&subsystem.join("namespaces"));
            places.push(subsystem.join("passthru"));
            for place in places {
                let (Some(file), Some("1")) = (
                    line(&place.join("device_path")),
                    line(&place.join("enable")).as_deref(),
                ) else {
                    continue;
                };
                // It may be told by another name (/dev/disk/by-id).
                let file = fs::canonicalize(&file).unwrap_or(file.into());
                if self.have(&file) {
                    users.push(format!(
                        "{}: the kernel's NVMe target exports it ({})",
                        name_of(&file),
                        name_of(&subsystem)
                    ));
                }
            }
        }
        users
    }

    fn loops(&self, root: &Path) -> Vec<String> {
        let mut users = Vec::new();
        for device in entries(&root.join("sys/block")) {
            let file = line(&device.join("loop/backing_file")).map(PathBuf::from);
            if let Some(file) = file.filter(|file| self.have(file)) {
                users.push(format!("{}: {} has it", name_of(&file), name_of(&device)));
            }
        }
        users
    }
}

/// A process that has such a file open, and the file; as far as we may see. Only names are read, so neither the process nor
/// what it has open is touched; one that ends meanwhile has nothing open.
pub fn process(root: &Path, wanted: impl Fn(&Path) -> bool) -> Option<(u32, PathBuf)> {
    entries(&root.join("proc")).into_iter().find_map(|process| {
        let pid: u32 = process.file_name()?.to_str()?.parse().ok()?;
        let files = entries(&process.join("fd")).into_iter();
        let mut files = files.filter_map(|fd| fs::read_link(fd).ok());
        Some((pid, files.find(|file| wanted(file))?))
    })
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

fn line(file: &Path) -> Option<String> {
    Some(fs::read_to_string(file).ok()?.trim().to_owned())
}

fn name_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn files() -> Files {
        Files {
            controllers: vec!["nvme9".into()],
            disks: vec!["nvme9n1".into()],
        }
    }

    fn write(file: &Path, text: &str) {
        fs::create_dir_all(file.parent().expect("in a folder")).expect("made");
        fs::write(file, text).expect("written");
    }

    #[test]
    fn what_is_of_the_drive_is_told_from_the_rest() {
        for (file, yes) in [
            ("/dev/nvme9n1", true),
            ("/dev/nvme9n1p2", true),
            ("/dev/ng9n1", true),
            ("/dev/nvme9", true),
            ("/srv/jail/dev/nvme9n1", true),
            ("/dev/nvme9n11", false),
            ("/dev/nvme9n2", false),
            ("/dev/nvme9n1px", false),
            ("/dev/nvme90", false),
            ("/dev/ng9n2", false),
            ("/sys/block/nvme9n1", false),
            ("/root/nvme9n1", false),
            ("/dev/null", false),
        ] {
            assert_eq!(files().have(Path::new(file)), yes, "{file}");
        }
    }

    #[test]
    fn a_process_that_has_a_partition_open_is_named() {
        let root = tempfile::tempdir().expect("a directory");
        assert!(files().users(root.path()).is_empty(), "nothing is there");
        let fd = |pid: &str, number: &str, target: &str| {
            let folder = root.path().join("proc").join(pid).join("fd");
            fs::create_dir_all(&folder).expect("made");
            symlink(target, folder.join(number)).expect("made");
        };
        fd("7", "0", "/dev/null");
        fd("7", "1", "socket:[99]");
        fd("self", "0", "/dev/nvme9n1");
        // One that ended meanwhile.
        fs::create_dir_all(root.path().join("proc/8")).expect("made");
        assert!(files().users(root.path()).is_empty());
        write(&root.path().join("proc/12/comm"), "qemu-system\n");
        fd("12", "3", "/dev/nvme9n1p1");
        let said = "nvme9n1p1: process 12 (qemu-system) has it open";
        assert_eq!(files().users(root.path()), [said]);
    }

    #[test]
    fn what_the_kernel_exports_or_makes_a_loop_device_of_is_named() {
        let root = tempfile::tempdir().expect("a directory");
        let subsystem = root.path().join("sys/kernel/config/nvmet/subsystems/nqn.a");
        for (namespace, file, enable) in [
            ("1", "/dev/nvme8n1\n", "1\n"),
            ("2", "(null)\n", "0\n"),
            ("3", "/dev/nvme9n1\n", "0\n"),
        ] {
            let folder = subsystem.join("namespaces").join(namespace);
            write(&folder.join("device_path"), file);
            write(&folder.join("enable"), enable);
        }
        let backing = root.path().join("sys/block/loop0/loop/backing_file");
        write(&backing, "/srv/image\n");
        assert!(files().users(root.path()).is_empty(), "none is in use");
        write(&subsystem.join("namespaces/3/enable"), "1\n");
        write(&subsystem.join("passthru/device_path"), "/dev/nvme9\n");
        write(&subsystem.join("passthru/enable"), "1\n");
        write(&backing, "/dev/nvme9n1\n");
        assert_eq!(
            files().users(root.path()),
            [
                "nvme9n1: the kernel's NVMe target exports it (nqn.a)",
                "nvme9: the kernel's NVMe target exports it (nqn.a)",
                "nvme9n1: loop0 has it",
            ]
        );
    }
}
