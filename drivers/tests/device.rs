//! The file drive on block devices and odd file systems. This takes root, loop devices and mounts;
//! where those cannot be had, the tests say so and check nothing.

mod one_core;

use std::fmt::Display;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use ferroce_drivers::{FileConfig, FileDrive, Via};
use ferroce_engine::port::Op;
use ferroce_wire::status::Status;
use one_core::{Core, pattern};

fn config(path: &Path) -> FileConfig {
    FileConfig {
        lock_wait: Duration::ZERO,
        ..FileConfig::new(path)
    }
}

fn refusal(config: FileConfig) -> String {
    FileDrive::open_path(config).unwrap_err().to_string()
}

/// What a command prints; `None`, and why said aloud, if it cannot be run or fails.
fn output(command: &str, args: &[&str]) -> Option<String> {
    let mut run = Command::new(command);
    run.args(args);
    let (tell, told) = channel();
    std::thread::spawn(move || tell.send(run.output()));
    let result = told.recv_timeout(Duration::from_secs(60));
    match result.unwrap_or_else(|_| panic!("{command} {args:?} does not end")) {
        Ok(done) if done.status.success() => {
            Some(String::from_utf8_lossy(&done.stdout).trim().to_owned())
        }
        Ok(done) => {
            let said = String::from_utf8_lossy(&done.stderr);
            skipped(command, &said.trim());
            None
        }
        Err(cause) => {
            skipped(command, &cause);
            None
        }
    }
}

/// Past the harness, which keeps what tests print to itself: nobody is to think that this was checked.
fn skipped(command: &str, why: &dyn Display) {
    let test = std::thread::current();
    let test = test.name().unwrap_or("a test");
    let _ = writeln!(std::io::stderr(), "SKIPPED: {test}: {command}: {why}");
}

/// A loop device over a new file, until it is dropped.
struct Loop {
    folder: tempfile::TempDir,
    device: PathBuf,
}

impl Loop {
    fn new(bytes: u64, block_len: u32) -> Option<Loop> {
        let folder = tempfile::tempdir().unwrap();
        let backing = folder.path().join("backing");
        File::create(&backing).unwrap().set_len(bytes).unwrap();
        let block_len = block_len.to_string();
        let backing = backing.to_str().unwrap();
        let device = output(
            "losetup",
            &["--find", "--show", "--sector-size", &block_len, backing],
        )?;
        let device = PathBuf::from(device);
        Some(Loop { folder, device })
    }

    fn backing(&self) -> PathBuf {
        self.folder.path().join("backing")
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        output("losetup", &["--detach", self.device.to_str().unwrap()]);
    }
}

/// A mounted file system, until it is dropped.
struct Mount {
    folder: tempfile::TempDir,
}

impl Mount {
    fn new(args: &[&str]) -> Option<Mount> {
        let folder = tempfile::tempdir().unwrap();
        let mut args = args.to_vec();
        args.push(folder.path().to_str().unwrap());
        output("mount", &args)?;
        Some(Mount { folder })
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        output("umount", &["--lazy", self.folder.path().to_str().unwrap()]);
    }
}

#[test]
fn a_device_is_served() {
    for (via, block_len) in [(Via::Ring, 512), (Via::Threads, 4096)] {
        let Some(disk) = Loop::new(8 << 20, block_len) else {
            return;
        };
        let open = || {
            FileDrive::open_path(FileConfig {
                via,
                ..FileConfig::new(&disk.device)
            })
            .unwrap()
        };
        let drive = open();
        let info = drive.info();
        assert_eq!(info.block_len, block_len);
        assert_eq!(info.blocks, (8 << 20) / u64::from(block_len));
        let mut core = Core::new(&drive);
        let data = pattern(64 << 10, 9);
        for lba in [0, 100, 1000] {
            let status = core.write(lba, block_len, &data, 64 << 10, true);
            assert_eq!(status, Status::SUCCESS);
            assert_eq!(core.read(lba, data.len(), block_len, 4096), data);
        }
        let zeroes = |lba, deallocate| Op::WriteZeroes {
            lba,
            blocks: 3,
            fua: true,
            deallocate,
        };
        assert_eq!(core.plain(zeroes(101, false)), Status::SUCCESS);
        assert_eq!(core.plain(zeroes(1001, true)), Status::SUCCESS);
        for lba in [100, 1000] {
            let got = core.read(lba, data.len(), block_len, 64 << 10);
            let block_len = block_len as usize;
            assert_eq!(got[..block_len], data[..block_len]);
            assert!(got[block_len..4 * block_len].iter().all(|byte| *byte == 0));
            assert_eq!(got[4 * block_len..], data[4 * block_len..]);
        }
        assert_eq!(
            core.plain(Op::Deallocate { lba: 0, blocks: 64 }),
            Status::SUCCESS
        );
        assert_eq!(core.plain(Op::Flush), Status::SUCCESS);
        assert!(refusal(config(&disk.device)).contains("in use"));
        assert!(drive.resize(info.blocks + 1).is_err());
        drive.resize(info.blocks / 2).unwrap();
        drop((core, drive));
        assert_eq!(open().info(), info, "the same disk again");
    }
}

#[test]
fn a_device_with_large_blocks_refuses_small_ones() {
    let Some(disk) = Loop::new(8 << 20, 4096) else {
        return;
    };
    let small = refusal(FileConfig {
        block_len: Some(512),
        ..config(&disk.device)
    });
    assert!(small.contains("block=4096"), "{small}");
    let larger = FileConfig {
        size: Some(16 << 20),
        ..config(&disk.device)
    };
    let drive = FileDrive::open_path(larger).unwrap();
    assert_eq!(drive.info().blocks, (8 << 20) / 4096);
    let told = drive.notices().join("\n");
    assert!(told.contains("it has 8MiB, not 16MiB"), "{told}");
}

#[test]
fn what_others_use_is_refused() {
    let Some(disk) = Loop::new(8 << 20, 512) else {
        return;
    };
    let backs = refusal(config(&disk.backing()));
    assert!(backs.contains("it backs /dev/loop"), "{backs}");
    // Readers do no harm.
    FileDrive::open_path(FileConfig {
        read_only: true,
        ..config(&disk.backing())
    })
    .unwrap();
    let device = disk.device.to_str().unwrap();
    if output("mkfs.ext4", &["-q", device]).is_none() {
        return;
    }
    let Some(mount) = Mount::new(&[device]) else {
        return;
    };
    let mounted = refusal(FileConfig::new(&disk.device));
    let place = format!("it is mounted on {}", mount.folder.path().display());
    assert!(mounted.contains(&place), "{mounted}");
}

#[test]
fn a_full_file_system_is_capacity_exceeded() {
    let Some(disk) = Loop::new(8 << 20, 512) else {
        return;
    };
    let device = disk.device.to_str().unwrap();
    if output("mkfs.ext4", &["-q", device]).is_none() {
        return;
    }
    let Some(mount) = Mount::new(&[device]) else {
        return;
    };
    for via in [Via::Ring, Via::Threads] {
        let path = mount.folder.path().join(format!("{via:?}"));
        let drive = FileDrive::open_path(FileConfig {
            size: Some(32 << 20),
            via,
            ..config(&path)
        })
        .unwrap();
        let mut core = Core::new(&drive);
        let data = pattern(128 << 10, 5);
        let write = |core: &mut Core, lba| core.write(lba, 4096, &data, 128 << 10, false);
        let last = (0..8192)
            .step_by(32)
            .map(|lba| write(&mut core, lba))
            .find(|status| !status.is_success());
        assert_eq!(last, Some(Status::CAPACITY_EXCEEDED.dnr()));
        // What is given back can be written again.
        assert_eq!(
            core.plain(Op::Deallocate { lba: 0, blocks: 64 }),
            Status::SUCCESS
        );
        assert_eq!(core.plain(Op::Flush), Status::SUCCESS);
        assert_eq!(write(&mut core, 8000), Status::SUCCESS);
        drop((core, drive));
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn a_device_that_fails_says_so() {
    let Some(disk) = Loop::new(8 << 20, 512) else {
        return;
    };
    for via in [Via::Ring, Via::Threads] {
        let drive = FileDrive::open_path(FileConfig {
            via,
            ..FileConfig::new(&disk.device)
        })
        .unwrap();
        let mut core = Core::new(&drive);
        // Behind the end of its file, a loop device has errors to offer.
        let backing = File::options().write(true).open(disk.backing()).unwrap();
        backing.set_len(4 << 20).unwrap();
        let bufs = core.bufs(4096, 4096);
        let op = Op::Read {
            lba: 10_000,
            blocks: 8,
        };
        let (status, bufs) = core.run(op, bufs);
        core.pool.put_all(bufs);
        assert_eq!(status, Status::UNRECOVERED_READ_ERROR);
        assert_eq!(core.pool.out(), 0);
        backing.set_len(8 << 20).unwrap();
    }
}

/// A file system without O_DIRECT, holes or zeroing: everything goes the long way.
#[test]
fn a_plain_file_system_is_served_with_a_notice() {
    let Some(mount) = Mount::new(&["-t", "ramfs", "ramfs"]) else {
        return;
    };
    for via in [Via::Ring, Via::Threads] {
        let drive = FileDrive::open_path(FileConfig {
            size: Some(8 << 20),
            via,
            ..config(&mount.folder.path().join(format!("{via:?}")))
        })
        .unwrap();
        let notices = drive.notices();
        assert!(
            notices.iter().any(|notice| notice.contains("O_DIRECT")),
            "{notices:?}"
        );
        assert!(!drive.info().deallocates);
        let mut core = Core::new(&drive);
        let data = pattern(128 << 10, 5);
        for lba in (0..512).step_by(32) {
            let status = core.write(lba, 4096, &data, 128 << 10, lba % 64 == 0);
            assert_eq!(status, Status::SUCCESS);
        }
        let op = Op::WriteZeroes {
            lba: 100,
            blocks: 300,
            fua: true,
            deallocate: true,
        };
        assert_eq!(core.plain(op), Status::SUCCESS);
        assert_eq!(core.read(99, 4096, 4096, 4096), data[3 << 12..4 << 12]);
        for lba in [100, 250, 399] {
            assert_eq!(core.read(lba, 4096, 4096, 4096), [0; 4096]);
        }
        assert_eq!(core.read(400, 4096, 4096, 4096), data[16 << 12..17 << 12]);
        assert_eq!(
            core.plain(Op::Deallocate { lba: 0, blocks: 32 }),
            Status::SUCCESS
        );
        assert_eq!(core.read(0, 4096, 4096, 4096), data[..4096]);
        assert_eq!(
            core.plain(Op::Verify {
                lba: 0,
                blocks: 2048
            }),
            Status::SUCCESS
        );
        assert_eq!(core.plain(Op::Flush), Status::SUCCESS);
        let _: Arc<FileDrive> = drive;
    }
}
