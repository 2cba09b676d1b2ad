//! How many instructions the engine and the NVMe/RDMA binding take for a read of 4 KiB, at depths of 1
//! and 32: the production `turn` and `RdmaFabric` over queue pairs that are a list. It only does the
//! reads; callgrind counts those of [`counted_turn`], and not what is inside of functions whose names
//! begin with `uncounted`: the queue pairs and the drive (`scripts/count` runs it).
//!
//!     cargo bench -p ferroce-transport --bench count -- DEPTH

#[path = "../../engine/benches/node/ground.rs"]
mod ground;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

use ferroce_buf::{Buf, BufList, Home};
use ferroce_engine::host as nvme;
use ferroce_engine::limits;
use ferroce_engine::port::Tick;
use ferroce_transport::rdma::fabric::RdmaFabric;
use ferroce_transport::rdma::memory::LIMITS;
use ferroce_transport::rdma::provider::{
    Access, Answer, Demand, Dial, DialError, Event, HEAD_LEN, Incoming, Limits, Message,
    PrivateData, Provider, QpId, Read, Remote, Request, WcStatus,
};
use ferroce_wire::Wire;
use ferroce_wire::cqe::Cqe;
use ferroce_wire::fabrics::{ConnectData, Nqn};
use ferroce_wire::prop::{Cc, PropertyOffset};
use ferroce_wire::rdma::RdmaCmRequest;
use ferroce_wire::sqe::{KeyedSgl, Sgl, Sqe};
use ground::{BLOCKS, NQN, pool};

/// Reads, after as many to warm up.
const READS: u64 = 3200;
const RECVS: usize = 256;

fn main() {
    // `cargo bench` adds `--bench`.
    let depth = std::env::args().find_map(|word| word.parse().ok());
    let Some(depth @ 1..=128) = depth else {
        eprintln!("usage: count DEPTH, 1 to 128");
        std::process::exit(2);
    };
    let mut node = Node::new();
    let mut random = 1;
    reads(&mut node, depth, &mut random, Node::turn);
    reads(&mut node, depth, &mut random, counted_turn);
    println!("{READS} reads");
}

fn reads(node: &mut Node, depth: u64, random: &mut u64, turn: fn(&mut Node) -> bool) {
    for _ in 0..READS / depth {
        let before = node.list().answers;
        for cid in 0..depth {
            *random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let sqe = nvme::read(1, (*random >> 33) % BLOCKS, 1).with_ids(cid as u16, 1);
            let sgl = KeyedSgl::new(0x10_0000, 4096, 0x1234, true);
            node.list().arrives(1, &sqe.with_sgl(sgl.into()), &[]);
        }
        while node.list().answers < before + depth {
            turn(node);
        }
    }
}

#[inline(never)]
fn counted_turn(node: &mut Node) -> bool {
    std::hint::black_box(node.turn())
}

/// Queue pairs that are a list of what happened: messages arrive by themselves, answers are counted
/// and complete at once.
#[derive(Default)]
struct List {
    events: VecDeque<Event>,
    recvs: Vec<VecDeque<Option<Buf>>>,
    answers: u64,
    last_dw0: u32,
}

struct Asked(Request);

impl Incoming for Asked {
    fn request(&self) -> &Request {
        &self.0
    }
}

const fn qp(slot: u32) -> QpId {
    QpId {
        slot,
        generation: 0,
    }
}

impl List {
    fn arrives(&mut self, slot: u32, sqe: &Sqe, data: &[u8]) {
        let recv = self.recvs[slot as usize].pop_front();
        let mut buf = recv.expect("a RECV is posted");
        if !data.is_empty() {
            let buf = buf.as_mut().expect("it has room for data");
            buf.bytes_mut()[..data.len()].copy_from_slice(data);
        }
        self.events.push_back(Event::Received {
            qp: qp(slot),
            len: (HEAD_LEN + data.len()) as u32,
            head: bytemuck::cast(*sqe),
            buf,
            invalidated: None,
        });
    }

    #[inline(never)]
    fn uncounted_post_recv(&mut self, qp: QpId, buf: Option<Buf>) {
        self.recvs[qp.slot as usize].push_back(buf);
    }

    #[inline(never)]
    fn uncounted_answer(&mut self, qp: QpId, answer: Answer) {
        let cqe = Cqe::read(&answer.capsule.expect("it ends its command")).expect("a CQE");
        assert!(cqe.status().is_success(), "{}", cqe.status());
        self.last_dw0 = cqe.dw0.get();
        self.answers += 1;
        self.events.push_back(Event::Sent {
            qp,
            tag: answer.tag,
            bufs: answer.bufs,
            status: WcStatus::Success,
        });
    }

    #[inline(never)]
    fn uncounted_poll(&mut self) -> Option<Event> {
        self.events.pop_front()
    }
}

impl Provider for List {
    type Incoming = Asked;

    fn open(&mut self, _: Asked, demand: &Demand, _: Tick) -> Result<QpId, Asked> {
        let slot = self.recvs.len() as u32;
        let recvs = VecDeque::with_capacity(demand.recvs as usize);
        self.recvs.push(recvs);
        Ok(qp(slot))
    }

    fn reject(&mut self, _: Asked, private: &[u8], _: Tick) {
        panic!("refused: {private:?}");
    }

    fn accept(&mut self, qp: QpId, _: &[u8], _: Tick) {
        self.events.push_back(Event::Established { qp });
    }

    fn connect(&mut self, _: &Dial<'_>, _: Tick) -> Result<QpId, DialError> {
        Err(DialError::NoRoute)
    }

    fn limits(&self, _: QpId) -> Limits {
        LIMITS
    }

    fn local(&self, _: QpId) -> SocketAddr {
        ([127, 0, 0, 1], 4420).into()
    }

    fn peer(&self, _: QpId) -> SocketAddr {
        ([127, 0, 0, 2], 4420).into()
    }

    fn private(&self, _: QpId) -> PrivateData {
        PrivateData::new(&[])
    }

    #[inline]
    fn post_recv(&mut self, qp: QpId, buf: Option<Buf>) {
        self.uncounted_post_recv(qp, buf);
    }

    #[inline]
    fn answer(&mut self, qp: QpId, answer: Answer) {
        self.uncounted_answer(qp, answer);
    }

    fn send(&mut self, _: QpId, _: Message) {
        panic!("targets send answers");
    }

    fn read(&mut self, qp: QpId, mut read: Read) {
        // The only thing read is what an admin Connect says.
        let nqn = Nqn::new(NQN).expect("it is one");
        let data = ConnectData::new([1; 16], 0xFFFF, &nqn, &nqn);
        read.bufs.copy_in(0, data.as_bytes());
        self.events.push_back(Event::ReadDone {
            qp,
            tag: read.tag,
            bufs: read.bufs,
            status: WcStatus::Success,
        });
    }

    fn grant(&mut self, _: QpId, bufs: BufList, _: Access) -> Result<Remote, BufList> {
        Err(bufs)
    }

    fn revoke(&mut self, _: QpId, _: u32) -> Option<BufList> {
        None
    }

    fn close(&mut self, _: QpId, _: Tick) {}

    #[inline]
    fn poll(&mut self, _: Tick) -> Option<Event> {
        self.uncounted_poll()
    }

    fn flush(&mut self, _: Tick) {}

    fn next_timeout(&self) -> Option<Tick> {
        None
    }

    fn has_work(&self) -> bool {
        !self.events.is_empty()
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn each_counter(&self, _: &mut dyn FnMut(&'static str, u64)) {}
}

type Node = ground::Node<RdmaFabric<List>>;

impl Node {
    /// A node with one RAM drive of 64 MiB, every block written, and a host with an I/O queue, which
    /// is queue pair 1.
    fn new() -> Node {
        let in_capsule = limits::IN_CAPSULE as usize;
        let mut recvs = pool(Home(9), in_capsule, RECVS);
        let bufs = (0..RECVS).map(|_| recvs.take(in_capsule).expect("as many as there are"));
        let mut node = Node::over(RdmaFabric::new(List::default(), bufs.collect()));
        node.ask(0, 32);
        node.ask(1, RECVS as u16);
        let sgl = KeyedSgl::new(0x1000, size_of::<ConnectData>() as u32, 1, true);
        node.send(0, nvme::connect(0, 32, 0, 0).with_sgl(sgl.into()), &[]);
        let cntlid = node.list().last_dw0 as u16;
        let cc = Cc::default()
            .with_en(true)
            .with_iosqes(Cc::IOSQES_64)
            .with_iocqes(Cc::IOCQES_16);
        let enable = nvme::property_set(PropertyOffset::CC, u64::from(cc.0));
        node.send(0, enable.with_sgl(Sgl::NONE), &[]);
        let nqn = Nqn::new(NQN).expect("it is one");
        let data = ConnectData::new([1; 16], cntlid, &nqn, &nqn);
        let sgl = Sgl::in_capsule(0, size_of::<ConnectData>() as u32);
        let connect = nvme::connect(1, RECVS as u32, 0, 0).with_sgl(sgl);
        node.send(1, connect, data.as_bytes());
        for lba in 0..BLOCKS {
            let write = nvme::write(1, lba, 1, false).with_ids(0, 1);
            node.send(1, write.with_sgl(Sgl::in_capsule(0, 4096)), &[1; 4096]);
        }
        node
    }

    fn list(&mut self) -> &mut List {
        self.core.fabrics[0].provider_mut()
    }

    fn ask(&mut self, qid: u16, entries: u16) {
        let request = Request {
            local: ([127, 0, 0, 1], 4420).into(),
            peer: ([127, 0, 0, 2], 4420).into(),
            private: PrivateData::new(RdmaCmRequest::new(qid, entries).as_bytes()),
            responder_resources: 16,
            initiator_depth: 0,
        };
        self.adopt(Asked(request));
    }

    fn send(&mut self, slot: u32, sqe: Sqe, data: &[u8]) {
        self.list().arrives(slot, &sqe, data);
        self.settle();
    }
}
