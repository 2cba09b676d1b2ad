//! What a seed means: how large everything is, how it behaves, and what goes wrong.

use ferroce_buf::Class;
use ferroce_engine::limits;

use crate::disk::{DELAYS, Manners};
use crate::ether::Rough;
use crate::net::Weather;
use crate::shared::{Chance, MS, US};

/// A kind of drive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DriveKind {
    Disk,
    Ram,
    SlowRam,
}

/// How a host treats the node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Manner {
    /// As it should.
    Honest,
    /// Asks for data, keeps alive, and never reads from its I/O queues.
    Deaf,
    /// Promises data, keeps alive, and never sends any.
    Mute,
}

/// A namespace to begin with, or one to be added.
#[derive(Clone, Debug)]
pub struct SpacePlan {
    pub kind: DriveKind,
    pub block_len: u32,
    pub blocks: u64,
    pub volatile: bool,
    pub read_only: bool,
    pub manners: Manners,
    pub max_transfer: u32,
    /// Of a RAM drive: pages beyond its capacity that may be with hosts.
    pub spare: usize,
}

/// One of a host's associations.
#[derive(Clone, Debug)]
pub struct PathPlan {
    pub host: usize,
    pub subsystem: usize,
    pub io_queues: u16,
    pub depth: u16,
    pub flow_control: bool,
    pub kato_ms: u32,
    /// Largest command in bytes.
    pub len_max: u32,
    /// Commands sent at once.
    pub burst: u32,
    /// ns between bursts.
    pub pause: u64,
    /// One command in so many is wrong on purpose.
    pub wrong: u32,
    /// One tick in so many resets or disconnects.
    pub restless: u32,
    /// An I/O queue that is lost is connected anew; else all of them are.
    pub mends: bool,
    pub manner: Manner,
    /// It comes by RDMA.
    pub rdma: bool,
}

/// Everything a seed decides before anything happens.
#[derive(Clone, Debug)]
pub struct Plan {
    pub cores: usize,
    pub fabrics: usize,
    /// Hosts that behave.
    pub hosts: usize,
    /// Hosts that do not.
    pub bad: usize,
    pub subsystems: usize,
    pub commands_per_core: usize,
    pub classes: Vec<Class>,
    pub landing: usize,
    pub mail: usize,
    pub spaces: Vec<(usize, SpacePlan)>,
    pub paths: Vec<PathPlan>,
    pub weather: Weather,
    /// How the network under RDMA behaves.
    pub rough: Rough,
    /// Commands of all hosts together.
    pub commands: u32,
    /// ns between faults; 0 is none.
    pub faults: u64,
    /// ns between the operator's actions; 0 is none.
    pub operator: u64,
    /// Crashes and stops of the node.
    pub deaths: u32,
    /// One turn in so many is late; 0 is never.
    pub naps: u32,
}

impl Plan {
    pub fn of(rng: &mut fastrand::Rng) -> Plan {
        // A fifth of all seeds have no faults: what breaks there is easier to understand.
        let gentle = rng.once_in(5);
        let often = |rng: &mut fastrand::Rng, from: u32, to: u32| match gentle {
            true => 0,
            false if rng.once_in(4) => 0,
            false => rng.u32(from..=to),
        };
        let cores = rng.usize(1..=3);
        let subsystems = if rng.once_in(4) { 2 } else { 1 };
        let hosts = rng.usize(1..=3);
        let fail = often(rng, 20, 400);
        let stick = often(rng, 100, 800);
        let spaces = (0..rng.usize(1..=3))
            .map(|at| (at % subsystems, SpacePlan::of(rng, fail, stick)))
            .collect();
        let mut paths = Vec::new();
        for host in 0..hosts {
            for _ in 0..if rng.once_in(3) { 2 } else { 1 } {
                paths.push(PathPlan::of(rng, host, subsystems, gentle));
            }
        }
        // At the end of `paths`, with hosts of their own.
        let bad = if rng.once_in(3) { rng.usize(1..=2) } else { 0 };
        for host in hosts..hosts + bad {
            paths.push(PathPlan::bad(rng, host, subsystems));
        }
        let promised: usize = paths
            .iter()
            .map(|path| ADMIN_DEPTH as usize + (path.io_queues * path.depth) as usize)
            .sum();
        let commands_per_core = if rng.once_in(4) {
            // Some are refused, or wait; but never all.
            let deepest = paths
                .iter()
                .map(|path| usize::from(path.depth))
                .max()
                .unwrap_or(0);
            ADMIN_DEPTH as usize * (paths.len() + 1) + deepest + rng.usize(0..=promised / 3)
        } else {
            promised + ADMIN_DEPTH as usize
        };
        let scarce = rng.once_in(3);
        let count = |rng: &mut fastrand::Rng, few: usize, many: usize| match scarce {
            true => rng.usize(few..=few * 2),
            false => rng.usize(few..=many),
        };
        let classes = vec![
            Class {
                size: 4096,
                count: count(rng, 2, 16),
            },
            Class {
                size: 32 * 1024,
                count: count(rng, 1, 8),
            },
            Class {
                size: limits::CHUNK_LEN as usize,
                // Each that takes all it can get leaves half of what is left, and a Compare needs two.
                count: count(rng, 2, 8).max(2 << bad),
            },
        ];
        if rng.bool() {
            for path in paths.iter_mut().filter(|path| !path.is_bad()) {
                path.come_by_rdma(rng);
            }
        }
        let rough = Rough {
            lost: often(rng, 20, 500),
            repeated: often(rng, 20, 500),
            late: often(rng, 20, 500),
            damaged: often(rng, 50, 500),
            mtu: rng.u8(3..=5),
            wraps: rng.bool(),
        };
        let quiet = paths.iter().all(|path| path.len_max <= 64 * 1024);
        Plan {
            cores,
            fabrics: if rng.once_in(4) { 2 } else { 1 },
            hosts,
            bad,
            subsystems,
            commands_per_core,
            classes,
            landing: if scarce {
                rng.usize(2..=4)
            } else {
                rng.usize(4..=24)
            },
            mail: if rng.once_in(4) {
                rng.usize(1..=8)
            } else {
                256
            },
            spaces,
            paths,
            weather: Weather {
                delay: *rng.pick(&[3 * US, 20 * US, 100 * US]),
                stall: often(rng, 10, 200),
                spoil: often(rng, 20, 200),
                send_room: rng.skewed(4096, 512 * 1024) as usize,
                one_fetch: rng.bool(),
            },
            rough,
            commands: if quiet {
                rng.u32(200..=700)
            } else {
                rng.u32(100..=350)
            },
            faults: if gentle || rng.once_in(4) {
                0
            } else {
                rng.skewed(300 * US, 20 * MS)
            },
            operator: if rng.bool() {
                0
            } else {
                rng.skewed(300 * US, 20 * MS)
            },
            deaths: if gentle || rng.bool() {
                0
            } else {
                rng.u32(1..=2)
            },
            naps: often(rng, 50, 1000),
        }
    }
}

impl Plan {
    /// Entries of all I/O queues that come by RDMA.
    pub fn rdma_entries(&self) -> usize {
        let by_rdma = self.paths.iter().filter(|path| path.rdma);
        by_rdma
            .map(|path| usize::from(path.io_queues * path.depth))
            .sum()
    }
}

/// Entries of an admin queue.
pub const ADMIN_DEPTH: u16 = 16;

impl SpacePlan {
    pub fn of(rng: &mut fastrand::Rng, fail: u32, stick: u32) -> SpacePlan {
        let kind = match rng.u32(0..8) {
            0..=4 => DriveKind::Disk,
            5..=6 => DriveKind::SlowRam,
            _ => DriveKind::Ram,
        };
        let block_len = if rng.bool() { 512 } else { 4096 };
        let pages = rng.skewed(64, 700);
        SpacePlan {
            kind,
            block_len,
            blocks: pages * 4096 / u64::from(block_len),
            volatile: kind == DriveKind::Disk && !rng.once_in(4),
            read_only: rng.once_in(12),
            manners: Manners {
                delay: *rng.pick(&DELAYS),
                fail,
                stick,
                depth: if rng.once_in(3) {
                    rng.usize(1..=4)
                } else {
                    rng.usize(8..=64)
                },
            },
            max_transfer: *rng.pick(&[16 * 1024, 64 * 1024, 128 * 1024, 128 * 1024]),
            spare: *rng.pick(&[0, 20, 100, 2048]),
        }
    }
}

impl PathPlan {
    fn of(rng: &mut fastrand::Rng, host: usize, subsystems: usize, gentle: bool) -> PathPlan {
        PathPlan {
            host,
            subsystem: rng.usize(0..subsystems),
            io_queues: rng.u16(1..=3),
            depth: rng.skewed(2, 32) as u16,
            flow_control: rng.once_in(3),
            kato_ms: *rng.pick(&[0, 500, 500, 1000, 1000, 4000]),
            len_max: *rng.pick(&[8 * 1024, 64 * 1024, 256 * 1024, 1 << 20]),
            burst: rng.u32(1..=8),
            pause: rng.skewed(5 * US, 2 * MS),
            wrong: if rng.bool() { 0 } else { rng.u32(5..=40) },
            restless: if gentle || rng.bool() {
                0
            } else {
                rng.u32(20..=200)
            },
            mends: rng.bool(),
            manner: Manner::Honest,
            rdma: false,
        }
    }

    /// Perhaps. What is wrong with descriptors is the host machine's there, and an idle queue pair says nothing of its
    /// peer, so that a host which dies in silence is found by the Keep Alive Timer alone.
    fn come_by_rdma(&mut self, rng: &mut fastrand::Rng) {
        if rng.bool() {
            self.rdma = true;
            self.wrong = 0;
            self.kato_ms = self.kato_ms.max(500);
        }
    }

    /// Of a host that is up to no good. It takes all it can get, and stays.
    fn bad(rng: &mut fastrand::Rng, host: usize, subsystems: usize) -> PathPlan {
        PathPlan {
            io_queues: 2,
            depth: rng.u16(8..=32),
            wrong: 0,
            restless: 0,
            mends: false,
            manner: *rng.pick(&[Manner::Deaf, Manner::Mute]),
            ..PathPlan::of(rng, host, subsystems, true)
        }
    }

    pub fn is_bad(&self) -> bool {
        self.manner != Manner::Honest
    }
}
