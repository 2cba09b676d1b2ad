//! The file drive on real files: through io_uring and through threads.

mod one_core;

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferroce_buf::BufList;
use ferroce_drivers::file::DEPTH;
use ferroce_drivers::{FileConfig, FileDrive, Via};
use ferroce_engine::port::{Backend, Io, Op, Tag};
use ferroce_wire::status::Status;
use one_core::{Core, pattern};
use proptest::prelude::*;

const VIAS: [Via; 2] = [Via::Ring, Via::Threads];

fn config(path: &Path) -> FileConfig {
    FileConfig {
        lock_wait: Duration::ZERO,
        ..FileConfig::new(path)
    }
}

/// A new drive of so many bytes in a folder of its own.
fn drive_of(bytes: u64, via: Via) -> (tempfile::TempDir, Arc<FileDrive>) {
    let folder = tempfile::tempdir().unwrap();
    let drive = FileDrive::open_path(FileConfig {
        size: Some(bytes),
        via,
        ..config(&folder.path().join("disk"))
    })
    .unwrap();
    (folder, drive)
}

#[test]
fn what_is_written_is_read() {
    for via in VIAS {
        let (folder, drive) = drive_of(1 << 20, via);
        assert_eq!(drive.info().blocks, 256);
        let mut core = Core::new(&drive);
        assert_eq!(core.queue.is_ring(), via == Via::Ring);
        let data = pattern(128 << 10, 1);
        // In one Buf, and in many, with and without FUA.
        assert_eq!(
            core.write(3, 4096, &data, 128 << 10, false),
            Status::SUCCESS
        );
        assert_eq!(core.read(3, 128 << 10, 4096, 128 << 10), data);
        assert_eq!(core.write(99, 4096, &data, 4096, true), Status::SUCCESS);
        assert_eq!(core.read(99, 128 << 10, 4096, 128 << 10), data);
        assert_eq!(core.read(3, 128 << 10, 4096, 4096), data);
        assert_eq!(core.plain(Op::Flush), Status::SUCCESS);
        assert_eq!(
            core.plain(Op::Verify {
                lba: 0,
                blocks: 256
            }),
            Status::SUCCESS
        );
        assert_eq!(core.pool.out(), 0);
        drop((core, drive));
        let file = fs::read(folder.path().join("disk")).unwrap();
        assert_eq!(file.len(), 1 << 20);
        assert_eq!(&file[3 << 12..(3 << 12) + data.len()], &data);
    }
}

#[test]
fn bufs_of_other_regions_are_served_too() {
    let (_folder, drive) = drive_of(1 << 20, Via::Ring);
    let mut core = Core::new(&drive);
    core.queue = drive.open(1, &[]).unwrap();
    let data = pattern(8192, 2);
    assert_eq!(core.write(7, 4096, &data, 8192, false), Status::SUCCESS);
    assert_eq!(core.read(7, 8192, 4096, 8192), data);
}

#[test]
fn zeroes_and_holes() {
    use std::os::unix::fs::MetadataExt;
    for via in VIAS {
        let (folder, drive) = drive_of(4 << 20, via);
        let mut core = Core::new(&drive);
        let data = pattern(128 << 10, 3);
        for lba in (0..1024).step_by(32) {
            assert_eq!(
                core.write(lba, 4096, &data, 128 << 10, false),
                Status::SUCCESS
            );
        }
        let zeroes = |lba, deallocate| Op::WriteZeroes {
            lba,
            blocks: 16,
            fua: true,
            deallocate,
        };
        assert_eq!(core.plain(zeroes(16, false)), Status::SUCCESS);
        assert_eq!(core.plain(zeroes(48, true)), Status::SUCCESS);
        for lba in [0, 32] {
            let got = core.read(lba, 128 << 10, 4096, 128 << 10);
            assert_eq!(got[..64 << 10], data[..64 << 10]);
            assert_eq!(got[64 << 10..], vec![0; 64 << 10]);
        }
        let before = fs::metadata(folder.path().join("disk")).unwrap().blocks();
        let op = Op::Deallocate {
            lba: 512,
            blocks: 512,
        };
        assert_eq!(core.plain(op), Status::SUCCESS);
        if drive.info().deallocates {
            let after = fs::metadata(folder.path().join("disk")).unwrap().blocks();
            assert!(after < before, "space was given back");
            assert_eq!(core.read(1000, 4096, 4096, 4096), [0; 4096]);
        }
    }
}

#[test]
fn small_blocks() {
    for via in VIAS {
        let folder = tempfile::tempdir().unwrap();
        let opened = FileDrive::open_path(FileConfig {
            size: Some(513 * 512),
            block_len: Some(512),
            via,
            ..config(&folder.path().join("disk"))
        });
        let drive = match opened {
            Ok(drive) => drive,
            // A disk with blocks of 4096 says so.
            Err(refusal) => {
                assert!(refusal.to_string().contains("block=4096"), "{refusal}");
                continue;
            }
        };
        let mut core = Core::new(&drive);
        let data = pattern(1536, 4);
        assert_eq!(core.write(510, 512, &data, 1536, false), Status::SUCCESS);
        assert_eq!(core.read(510, 1536, 512, 512), data);
        let op = Op::WriteZeroes {
            lba: 511,
            blocks: 1,
            fua: false,
            deallocate: false,
        };
        assert_eq!(core.plain(op), Status::SUCCESS);
        let got = core.read(510, 1536, 512, 1536);
        assert_eq!(got[..512], data[..512]);
        assert_eq!(got[512..1024], [0; 512]);
        assert_eq!(got[1024..], data[1024..]);
    }
}

#[test]
fn a_queue_is_full_at_its_depth_and_all_are_answered_once() {
    for via in VIAS {
        let (_folder, drive) = drive_of(4 << 20, via);
        let mut core = Core::new(&drive);
        let mut answered = vec![false; DEPTH];
        for slot in 0..DEPTH {
            let mut bufs = core.bufs(4096, 4096);
            bufs.copy_in(0, &pattern(4096, slot as u64));
            let io = Io {
                tag: Tag {
                    slot: slot as u32,
                    generation: 0,
                },
                op: Op::Write {
                    lba: slot as u64,
                    blocks: 1,
                    fua: false,
                },
                bufs,
            };
            core.queue.submit(io).unwrap();
        }
        let tag = Tag {
            slot: 0,
            generation: 1,
        };
        let op = Op::Flush;
        let bufs = BufList::new();
        assert!(core.queue.submit(Io { tag, op, bufs }).is_err());
        assert_eq!(core.queue.in_flight(), DEPTH);
        while core.queue.in_flight() > 0 {
            let done = core.wait();
            assert_eq!(done.status, Status::SUCCESS);
            assert!(!std::mem::replace(
                &mut answered[done.tag.slot as usize],
                true
            ));
            core.pool.put_all(done.bufs);
        }
        assert!(!core.queue.has_work());
        for slot in (0..DEPTH).step_by(17) {
            let got = core.read(slot as u64, 4096, 4096, 4096);
            assert_eq!(got, pattern(4096, slot as u64));
        }
        assert_eq!(core.pool.out(), 0);
    }
}

#[test]
fn refusals_of_requests() {
    for via in VIAS {
        let (folder, drive) = drive_of(1 << 20, via);
        let mut core = Core::new(&drive);
        for (lba, blocks) in [(256, 1), (255, 2), (u64::MAX, 2)] {
            let outside = Status::LBA_OUT_OF_RANGE.dnr();
            assert_eq!(core.plain(Op::Verify { lba, blocks }), outside);
            assert_eq!(core.plain(Op::Deallocate { lba, blocks }), outside);
        }
        drop((core, drive));
        let drive = FileDrive::open_path(FileConfig {
            read_only: true,
            via,
            ..FileConfig::new(folder.path().join("disk"))
        })
        .unwrap();
        let mut core = Core::new(&drive);
        let protected = Status::NAMESPACE_WRITE_PROTECTED.dnr();
        assert_eq!(core.write(0, 4096, &[1; 4096], 4096, false), protected);
        assert_eq!(core.plain(Op::Deallocate { lba: 0, blocks: 1 }), protected);
        assert_eq!(core.plain(Op::Flush), Status::SUCCESS);
        assert_eq!(core.read(0, 4096, 4096, 4096), [0; 4096]);
        assert!(drive.resize(512).is_err());
    }
}

#[test]
fn a_file_that_somebody_cut_fails_as_media_do() {
    for via in VIAS {
        let (folder, drive) = drive_of(1 << 20, via);
        let mut core = Core::new(&drive);
        let file = File::options()
            .write(true)
            .open(folder.path().join("disk"))
            .unwrap();
        file.set_len(6 << 12).unwrap();
        let bufs = core.bufs(4 << 12, 4 << 12);
        let (status, bufs) = core.run(Op::Read { lba: 4, blocks: 4 }, bufs);
        assert_eq!(status, Status::UNRECOVERED_READ_ERROR);
        core.pool.put_all(bufs);
        let op = Op::Verify { lba: 0, blocks: 8 };
        assert_eq!(core.plain(op), Status::UNRECOVERED_READ_ERROR);
        assert_eq!(core.pool.out(), 0);
    }
}

#[test]
fn resize_cuts_and_lengthens() {
    let (folder, drive) = drive_of(1 << 20, Via::Best);
    let mut core = Core::new(&drive);
    assert_eq!(core.write(9, 4096, &[1; 4096], 4096, true), Status::SUCCESS);
    drive.resize(512).unwrap();
    assert_eq!(core.read(511, 4096, 4096, 4096), [0; 4096]);
    drive.resize(9).unwrap();
    assert_eq!(
        core.plain(Op::Verify { lba: 9, blocks: 1 }),
        Status::LBA_OUT_OF_RANGE.dnr()
    );
    drive.resize(10).unwrap();
    assert_eq!(core.read(9, 4096, 4096, 4096), [0; 4096]);
    assert!(drive.resize(0).is_err());
    let size = fs::metadata(folder.path().join("disk")).unwrap().len();
    assert_eq!(size, 10 << 12);
}

#[test]
fn identity_stays_with_the_file() {
    let (folder, drive) = drive_of(1 << 20, Via::Best);
    let path = folder.path().join("disk");
    let first = drive.info();
    drop(drive);
    let again = FileDrive::open_path(config(&path)).unwrap().info();
    assert_eq!(first, again);
    assert_ne!(first.uuid, first.nguid);
    assert!(first.uuid != [0; 16] && first.nguid != [0; 16]);
    // A new name is no new disk, a new file is.
    let moved = folder.path().join("moved");
    fs::rename(&path, &moved).unwrap();
    let other = FileDrive::open_path(FileConfig {
        size: Some(1 << 20),
        ..config(&path)
    })
    .unwrap();
    let renamed = FileDrive::open_path(config(&moved)).unwrap();
    assert_eq!(renamed.info().uuid, first.uuid);
    assert_ne!(other.info().uuid, first.uuid);
    assert_ne!(other.info().nguid, first.nguid);
}

#[test]
fn setup_errors_say_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    let refusal = |config| FileDrive::open_path(config).unwrap_err().to_string();
    let missing = refusal(config(&path));
    assert!(missing.contains("give size="), "{missing}");
    let odd = refusal(FileConfig {
        size: Some(5000),
        ..config(&path)
    });
    assert!(
        odd.contains("5000 bytes are not a number of blocks"),
        "{odd}"
    );
    assert!(!path.exists());
    File::create(&path).unwrap().write_all(&[0; 1536]).unwrap();
    let odd = refusal(config(&path));
    assert!(odd.contains("give block=512"), "{odd}");
    let block = refusal(FileConfig {
        block_len: Some(2048),
        ..config(&path)
    });
    assert!(block.contains("512 or 4096"), "{block}");
    let directory = refusal(config(folder.path()));
    assert!(directory.contains("neither a regular file"), "{directory}");
    // With size= it is the same: a file that is there is not made.
    File::create(&path).unwrap();
    for size in [None, Some(4096)] {
        let empty = refusal(FileConfig {
            size,
            ..config(&path)
        });
        assert!(empty.contains("`truncate -s` gives it a size"), "{empty}");
    }
}

#[test]
fn a_file_that_is_there_keeps_its_size_whatever_is_asked_for() {
    let (folder, drive) = drive_of(8 << 20, Via::Best);
    drop(drive);
    let path = folder.path().join("disk");
    for size in [6 << 20, 10 << 20] {
        let asked = FileConfig {
            size: Some(size),
            ..config(&path)
        };
        let drive = FileDrive::open_path(asked).unwrap();
        assert_eq!(drive.info().blocks, (8 << 20) / 4096);
        let told = drive.notices().join("\n");
        let sizes = format!("it has 8MiB, not {}MiB", size >> 20);
        assert!(
            told.contains(&sizes) && told.contains("write size=8MiB"),
            "{told}"
        );
        assert_eq!(fs::metadata(&path).unwrap().len(), 8 << 20);
    }
}

#[test]
fn one_node_at_a_time() {
    let (folder, drive) = drive_of(1 << 20, Via::Best);
    let path = folder.path().join("disk");
    let second = FileDrive::open_path(config(&path)).unwrap_err().to_string();
    assert!(second.contains("this process has it open"), "{second}");
    let reader = FileConfig {
        read_only: true,
        ..config(&path)
    };
    assert!(FileDrive::open_path(reader.clone()).is_err());
    drop(drive);
    // Readers go together. A child that another test is just starting has the lock until it runs its program.
    let _one = FileDrive::open_path(FileConfig {
        lock_wait: Duration::from_secs(5),
        ..reader.clone()
    })
    .unwrap();
    let _two = FileDrive::open_path(reader).unwrap();
    assert!(FileDrive::open_path(config(&path)).is_err());
}

#[test]
fn a_queue_keeps_the_lock_after_its_drive() {
    let (folder, drive) = drive_of(1 << 20, Via::Best);
    let path = folder.path().join("disk");
    let core = Core::new(&drive);
    drop(drive);
    assert!(FileDrive::open_path(config(&path)).is_err());
    drop(core);
    FileDrive::open_path(FileConfig {
        lock_wait: Duration::from_secs(5),
        ..config(&path)
    })
    .unwrap();
}

/// Not a test by itself: the node that `no_write_of_a_killed_node_lands_late` kills.
#[test]
fn killed_node() {
    let Some(path) = std::env::var_os("FERROCE_KILLED_NODE") else {
        return;
    };
    let drive = FileDrive::open_path(FileConfig::new(path)).unwrap();
    let mut core = Core::new(&drive);
    println!("serving");
    let mut rng = fastrand::Rng::with_seed(1);
    loop {
        while core.queue.in_flight() < 48 {
            let mut bufs = core.bufs(128 << 10, 128 << 10);
            bufs.copy_in(0, &[0xDD; 128 << 10]);
            let io = Io {
                tag: Tag {
                    slot: 0,
                    generation: 0,
                },
                op: Op::Write {
                    lba: rng.u64(0..512) * 32,
                    blocks: 32,
                    fua: rng.bool(),
                },
                bufs,
            };
            core.queue.submit(io).unwrap();
        }
        let done = core.wait();
        core.pool.put_all(done.bufs);
    }
}

/// A process that does not outlive the test, however that ends.
struct Killed(std::process::Child);

impl Killed {
    /// It is killed; true once it is gone, which takes a while if the system has writes of it under way.
    fn is_gone(&mut self) -> bool {
        let _ = self.0.kill();
        let deadline = Instant::now() + Duration::from_secs(60);
        while let Ok(None) = self.0.try_wait() {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        true
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        self.is_gone();
    }
}

#[test]
fn no_write_of_a_killed_node_lands_late() {
    let (folder, drive) = drive_of(64 << 20, Via::Best);
    drop(drive);
    let path = folder.path().join("disk");
    for round in 0..3 {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "killed_node", "--nocapture"])
            .env("FERROCE_KILLED_NODE", &path)
            .stdout(Stdio::piped());
        let mut node = Killed(command.spawn().unwrap());
        let mut said = std::io::BufReader::new(node.0.stdout.take().unwrap());
        let mut line = String::new();
        while !line.contains("serving") {
            line.clear();
            let len = std::io::BufRead::read_line(&mut said, &mut line).unwrap();
            assert!(len > 0, "the node starts");
        }
        std::thread::sleep(Duration::from_millis(100 + 70 * round));
        assert!(FileDrive::open_path(config(&path)).is_err(), "it is locked");
        node.0.kill().unwrap();
        let drive = FileDrive::open_path(FileConfig {
            lock_wait: Duration::from_secs(10),
            ..config(&path)
        })
        .unwrap();
        let mut core = Core::new(&drive);
        for lba in (0..512 * 32).step_by(32) {
            assert_eq!(
                core.write(lba, 4096, &[0xEE; 128 << 10], 128 << 10, false),
                Status::SUCCESS
            );
        }
        assert!(node.is_gone());
        for lba in (0..512 * 32).step_by(32) {
            let got = core.read(lba, 128 << 10, 4096, 128 << 10);
            assert!(
                got.iter().all(|byte| *byte == 0xEE),
                "a late write at {lba}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20))]

    /// The drive is an array of blocks, whatever it is asked in whatever order.
    #[test]
    fn is_an_array_of_blocks(
        steps in prop::collection::vec((0u8..5, 0u64..64, 1u32..17, any::<u64>()), 1..40),
        threads in any::<bool>(),
    ) {
        let via = if threads { Via::Threads } else { Via::Ring };
        let (_folder, drive) = drive_of(80 << 12, via);
        let mut core = Core::new(&drive);
        let mut model = vec![0u8; 80 << 12];
        for (what, lba, blocks, seed) in steps {
            let range = (lba as usize) << 12..(lba as usize + blocks as usize) << 12;
            match what {
                0 | 1 => {
                    let data = pattern(range.len(), seed);
                    let piece = 4096 << (seed % 6);
                    let status = core.write(lba, 4096, &data, piece, what == 1);
                    prop_assert_eq!(status, Status::SUCCESS);
                    model[range].copy_from_slice(&data);
                }
                2 => {
                    let op = Op::WriteZeroes { lba, blocks, fua: seed & 1 > 0, deallocate: seed & 2 > 0 };
                    prop_assert_eq!(core.plain(op), Status::SUCCESS);
                    model[range].fill(0);
                }
                3 => prop_assert_eq!(core.plain(Op::Flush), Status::SUCCESS),
                _ => {
                    let got = core.read(lba, range.len(), 4096, 4096 << (seed % 6));
                    prop_assert_eq!(&got[..], &model[range]);
                }
            }
        }
        prop_assert_eq!(core.pool.out(), 0);
    }
}
