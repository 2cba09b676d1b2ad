//! A node of one core in memory, for the benchmarks: a fabric that is a queue, a RAM drive, and a host
//! with an I/O queue. What fabric and drive do is in functions whose names begin with `uncounted`, so
//! that callgrind tells the engine from them; to get there and back is the engine's.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;

use ferroce_buf::{Buf, BufList, Class, Home, Pool, Region, Want};
use ferroce_drivers::{RamConfig, RamDrive, RamQueue};
use ferroce_engine::control::{Change, Control};
use ferroce_engine::core::{Core, CoreConfig, LANDING};
use ferroce_engine::host as nvme;
use ferroce_engine::limits;
use ferroce_engine::mail::{Mailbox, ToControl, mailbox};
use ferroce_engine::port::{
    Backend, Close, ConnId, Done, Fabric, Fetch, InCapsule, Inbound, Io, Reply, Tick,
};
use ferroce_engine::table::{Subsystem, Transport};
use ferroce_wire::fabrics::{ConnectCmd, ConnectData, Nqn, PropertySet};
use ferroce_wire::prop::{Cc, PropertyOffset};
use ferroce_wire::sqe::{Sgl, Sqe};

const NQN: &str = "nqn.2026-01.bench:node";
/// Blocks of the drive, of 4 KiB.
pub const BLOCKS: u64 = 16 * 1024;

/// Capsules in, replies counted, data thrown away.
#[derive(Default)]
pub struct Memory {
    opened: VecDeque<u32>,
    capsules: VecDeque<(u32, Sqe)>,
    homes: VecDeque<BufList>,
    /// The capsule reported last.
    sqe: Option<Sqe>,
    /// Data of the one capsule that has some.
    in_capsule: Vec<u8>,
    pub replies: u64,
    bytes: u64,
    last_dw0: u32,
}

const fn conn(slot: u32) -> ConnId {
    ConnId {
        slot,
        generation: 0,
    }
}

impl Memory {
    #[inline(never)]
    fn uncounted_poll(&mut self, room: bool) -> Option<Inbound<'_>> {
        if let Some(slot) = self.opened.pop_front() {
            let nowhere = ([127, 0, 0, 1], 4420).into();
            return Some(Inbound::Opened {
                conn: conn(slot),
                local: nowhere,
                peer: nowhere,
                transport: Transport::Tcp,
            });
        }
        if !room {
            return None;
        }
        let (slot, sqe) = self.capsules.pop_front()?;
        Some(Inbound::Capsule {
            conn: conn(slot),
            sqe: self.sqe.insert(sqe),
            data: InCapsule::Bytes(&self.in_capsule),
        })
    }

    #[inline(never)]
    fn uncounted_reply(&mut self, reply: Reply) {
        self.bytes += reply.bufs.len() as u64;
        if let Some(cqe) = reply.cqe {
            assert!(cqe.status().is_success(), "{}", cqe.status());
            self.replies += 1;
            self.last_dw0 = cqe.dw0.get();
        }
        self.homes.push_back(reply.bufs);
    }

    #[inline(never)]
    fn uncounted_home(&mut self) -> Option<BufList> {
        self.homes.pop_front()
    }
}

impl Fabric for Memory {
    type Incoming = u32;

    fn adopt(&mut self, slot: u32, _: Tick) {
        self.opened.push_back(slot);
    }

    #[inline]
    fn poll(&mut self, _: Tick, room: bool) -> Option<Inbound<'_>> {
        self.uncounted_poll(room)
    }

    fn fetch(&mut self, _: ConnId, fetch: Fetch) {
        self.homes.push_back(fetch.bufs);
    }

    #[inline]
    fn reply(&mut self, _: ConnId, reply: Reply) {
        self.uncounted_reply(reply);
    }

    fn wants_more(&self, _: ConnId) -> bool {
        true
    }

    fn close(&mut self, _: ConnId, _: Close) {}

    #[inline]
    fn home(&mut self) -> Option<BufList> {
        self.uncounted_home()
    }

    fn flush(&mut self, _: Tick) {}

    fn next_timeout(&self) -> Option<Tick> {
        None
    }

    fn has_work(&self) -> bool {
        !self.capsules.is_empty()
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

pub struct Node {
    pub core: Core<Memory, Drive>,
    control: Control<u32, Drive>,
    from_core: Mailbox<ToControl>,
    now: Tick,
}

impl Node {
    /// A node with one RAM drive of 64 MiB, every block written, and a host with an I/O queue,
    /// connection 1.
    pub fn new() -> Node {
        let (to_core, mail) = mailbox(64, Waker::noop().clone());
        let (to_control, from_core) = mailbox(64, Waker::noop().clone());
        let mut control = Control::new(vec![to_core]);
        let config = CoreConfig {
            index: 0,
            cores: 1,
            commands: 4096,
            pool: pool(Home::CORE, 4096, 64),
            landing: pool(LANDING, limits::IN_CAPSULE as usize, 64),
            facts: Arc::default(),
            counters: Arc::default(),
        };
        let core = Core::new(config, vec![Memory::default()], mail, to_control);
        plan(&mut control);
        let mut node = Node {
            core,
            control,
            from_core,
            now: Tick(1),
        };
        node.settle();
        for slot in 0..2 {
            node.control.adopt(0, 0, slot);
        }
        let cntlid = node.connect(0, 0, 0xFFFF);
        let cc = Cc::default()
            .with_en(true)
            .with_iosqes(Cc::IOSQES_64)
            .with_iocqes(Cc::IOCQES_16);
        let enable = PropertySet::new(PropertyOffset::CC.0, 0, u64::from(cc.0));
        node.send(0, enable.to_sqe(), Vec::new());
        node.connect(1, 1, cntlid);
        for lba in 0..BLOCKS {
            node.send(1, write(lba, 0), vec![1; 4096]);
        }
        node
    }

    fn connect(&mut self, slot: u32, qid: u16, cntlid: u16) -> u16 {
        let nqn = Nqn::new(NQN).expect("it is one");
        let data = ConnectData::new([1; 16], cntlid, &nqn, &nqn);
        let sgl = Sgl::in_capsule(0, size_of::<ConnectData>() as u32);
        let depth_z = if qid == 0 { 31 } else { 255 };
        let command = ConnectCmd::new(qid, depth_z, 0, 0, sgl);
        self.send(slot, command.to_sqe(), bytemuck::bytes_of(&data).to_vec());
        self.core.fabrics[0].last_dw0 as u16
    }

    fn send(&mut self, slot: u32, sqe: Sqe, data: Vec<u8>) {
        let fabric = &mut self.core.fabrics[0];
        fabric.in_capsule = data;
        fabric.capsules.push_back((slot, sqe));
        self.settle();
    }

    pub fn turn(&mut self) -> bool {
        self.now = self.now.plus_ns(1000);
        let now = self.now;
        self.core.turn(now, 0, || now).busy
    }

    /// Lets the host read `count` random blocks; turns follow.
    pub fn read_random(&mut self, count: u64, random: &mut u64) {
        for cid in 0..count {
            *random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let sqe = read((*random >> 33) % BLOCKS, cid as u16);
            self.core.fabrics[0].capsules.push_back((1, sqe));
        }
    }

    fn settle(&mut self) {
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

fn plan(control: &mut Control<u32, Drive>) {
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

fn pool(home: Home, size: usize, count: usize) -> Pool {
    let classes = [Class { size, count }];
    let region = Region::map(Pool::bytes(&classes), Want::default()).expect("memory");
    Pool::new(Arc::new(region), 0, home, &classes)
}

pub fn read(lba: u64, cid: u16) -> Sqe {
    nvme::read(1, lba, 1)
        .with_ids(cid, 1)
        .with_sgl(Sgl::transport(4096))
}

fn write(lba: u64, cid: u16) -> Sqe {
    nvme::write(1, lba, 1, false)
        .with_ids(cid, 1)
        .with_sgl(Sgl::in_capsule(0, 4096))
}
