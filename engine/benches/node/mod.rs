//! A node of one core in memory, for the benchmarks: a fabric that is a queue, a RAM drive, and a host
//! with an I/O queue. What fabric and drive do is in functions whose names begin with `uncounted`, so
//! that callgrind tells the engine from them; to get there and back is the engine's.

mod ground;

use std::collections::VecDeque;

use ferroce_buf::BufList;
use ferroce_engine::host as nvme;
use ferroce_engine::port::{Close, ConnId, Fabric, Fetch, InCapsule, Inbound, Reply, Room, Tick};
use ferroce_engine::table::Transport;
use ferroce_wire::fabrics::{ConnectCmd, ConnectData, Nqn, PropertySet};
use ferroce_wire::prop::{Cc, PropertyOffset};
use ferroce_wire::sqe::{Sgl, Sqe};
use ground::{BLOCKS, NQN};

pub type Node = ground::Node<Memory>;

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
    fn poll(&mut self, _: Tick, room: Room) -> Option<Inbound<'_>> {
        self.uncounted_poll(room == Room::Any)
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

impl Node {
    /// A node with one RAM drive of 64 MiB, every block written, and a host with an I/O queue,
    /// connection 1.
    pub fn new() -> Node {
        let mut node = Node::over(Memory::default());
        (0..2).for_each(|slot| node.adopt(slot));
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
