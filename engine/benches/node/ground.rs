//! What a node of one core in memory has, whatever its fabric is: for the benchmarks of engine and transport, which bring a
//! fabric each. What the drive does is in functions whose names begin with `uncounted`, so that callgrind tells the rest from
//! them.

use std::sync::Arc;
use std::task::Waker;

use ferroce_buf::{Buf, BufList, Class, Home, Pool, Region, Want};
use ferroce_drivers::{RamConfig, RamDrive, RamQueue};
use ferroce_engine::control::{Change, Control};
use ferroce_engine::core::{Core, CoreConfig, LANDING};
use ferroce_engine::limits;
use ferroce_engine::mail::{Mailbox, ToControl, mailbox};
use ferroce_engine::port::{Backend, Done, Fabric, Io, Tick};
use ferroce_engine::table::Subsystem;

pub const NQN: &str = "nqn.2026-01.bench:node";
/// Blocks of the drive, of 4 KiB.
pub const BLOCKS: u64 = 16 * 1024;

pub struct Node<F: Fabric> {
    pub core: Core<F, Drive>,
    control: Control<F::Incoming, Drive>,
    from_core: Mailbox<ToControl>,
    now: Tick,
}

impl<F: Fabric> Node<F> {
    /// With one RAM drive of 64 MiB.
    pub fn over(fabric: F) -> Node<F> {
        let (to_core, mail) = mailbox(64, Waker::noop().clone());
        let (to_control, from_core) = mailbox(64, Waker::noop().clone());
        let config = CoreConfig {
            index: 0,
            cores: 1,
            commands: 4096,
            pool: pool(Home::CORE, 4096, 64),
            landing: pool(LANDING, limits::IN_CAPSULE as usize, 64),
            facts: Arc::default(),
            counters: Arc::default(),
        };
        let mut node = Node {
            core: Core::new(config, vec![fabric], mail, to_control),
            control: Control::new(vec![to_core]),
            from_core,
            now: Tick(1),
        };
        plan(&mut node.control);
        node.settle();
        node
    }

    /// The fabric's core is given a connection.
    pub fn adopt(&mut self, incoming: F::Incoming) {
        self.control.adopt(0, 0, incoming);
        self.settle();
    }

    pub fn turn(&mut self) -> bool {
        self.now = self.now.plus_ns(1000);
        let now = self.now;
        self.core.turn(now, 0, || now).busy
    }

    /// Turns until there is nothing to do.
    pub fn settle(&mut self) {
        loop {
            let busy = self.turn();
            while let Some(mail) = self.from_core.poll() {
                self.control.on_mail(mail, self.now);
            }
            if !busy && !self.core.has_mail() {
                return;
            }
        }
    }
}

/// A RAM drive whose work is not counted.
pub struct Drive(RamQueue);

impl Drive {
    #[inline(never)]
    fn uncounted_submit(&mut self, io: Io) -> Result<(), Io> {
        self.0.submit(io)
    }

    #[inline(never)]
    fn uncounted_ring(&mut self) {
        self.0.ring_doorbell();
    }

    #[inline(never)]
    fn uncounted_poll(&mut self) -> Option<Done> {
        self.0.poll()
    }

    #[inline(never)]
    fn uncounted_put(&mut self, buf: Buf) {
        self.0.put(buf);
    }
}

impl Backend for Drive {
    fn submit(&mut self, io: Io) -> Result<(), Io> {
        self.uncounted_submit(io)
    }

    fn ring_doorbell(&mut self) {
        self.uncounted_ring();
    }

    fn poll(&mut self) -> Option<Done> {
        self.uncounted_poll()
    }

    fn in_flight(&self) -> usize {
        self.0.in_flight()
    }

    fn brings_memory(&self) -> bool {
        true
    }

    fn space(&mut self, lba: u64, len: usize, into: &mut BufList) -> bool {
        self.0.space(lba, len, into)
    }

    fn lends(&self) -> u32 {
        self.0.lends()
    }

    fn put(&mut self, buf: Buf) {
        self.uncounted_put(buf);
    }

    fn has_work(&self) -> bool {
        self.0.has_work()
    }
}

fn plan<I>(control: &mut Control<I, Drive>) {
    let subsystem = Subsystem {
        nqn: NQN.into(),
        serial: "1".into(),
        model: "bench".into(),
        cntlids: (1, 100),
        allow: None,
        namespaces: Default::default(),
    };
    control
        .change(Change::AddSubsystem(subsystem))
        .expect("it is the first");
    let id = control.next_drive();
    let drive = RamDrive::new(RamConfig {
        id,
        label: "ram".into(),
        bytes: BLOCKS * 4096,
        block_len: 4096,
        read_only: false,
        uuid: None,
        cores: 1,
        spare: None,
        want: Want::default(),
    })
    .expect("memory");
    let add = Change::AddNamespace {
        nqn: NQN.into(),
        nsid: None,
        info: drive.info(),
        read_only: false,
        drive: id,
        queues: vec![Drive(drive.open(0).expect("memory"))],
    };
    control.change(add).expect("it is the first");
}

pub fn pool(home: Home, size: usize, count: usize) -> Pool {
    let classes = [Class { size, count }];
    let region = Region::map(Pool::bytes(&classes), Want::default()).expect("memory");
    Pool::new(Arc::new(region), 0, home, &classes)
}
