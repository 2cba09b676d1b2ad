//! RDMA in the simulation. At the node, the production's [`RdmaFabric`] over the production's software RoCEv2; at a host,
//! [`Remote`]: the production's host machine, told what simulated hosts say on a link and answering as they are answered.

use std::collections::VecDeque;

use ferroce_buf::{Buf, BufList};
use ferroce_engine::limits;
use ferroce_engine::port::{Close, ConnId, Fabric, Fetch, Inbound, Reply, Room, Tick};
use ferroce_transport::host::Data;
use ferroce_transport::rdma::fabric::RdmaFabric;
use ferroce_transport::rdma::host::{Broken, Conn, request};
use ferroce_transport::rdma::provider::{Dial, Incoming as _, Provider};
use ferroce_transport::roce::cm;
use ferroce_transport::roce::provider::Roce;
use ferroce_wire::Wire as _;
use ferroce_wire::opcode::DataDirection;
use ferroce_wire::sqe::{Sgl, Sqe};

use crate::ether::{self, End, Medium};
use crate::net::{self, LinkId, SimFabric, ToHost, ToTarget, Wire};
use crate::wrong;

/// A connection as the node is given it.
#[derive(Debug)]
pub enum Incoming {
    Ordered(net::Incoming),
    Rdma(Box<cm::Incoming>),
}

/// One core's end of either network.
#[derive(Debug)]
pub enum AnyFabric {
    Ordered(Box<SimFabric>),
    Rdma(Box<Rdma>),
}

/// Of one core: RDMA connections, and which links they are.
#[derive(Debug)]
pub struct Rdma {
    fabric: RdmaFabric<Roce<End>>,
    net: Wire,
    medium: Medium,
    core: usize,
    /// Those that were reported as opened, and not yet as closed.
    open: Vec<(ConnId, LinkId)>,
    /// Those that were asked for, and may come to nothing.
    asked: Vec<LinkId>,
    recvs: usize,
}

impl Rdma {
    pub fn new(net: Wire, medium: Medium, core: usize, recvs: Vec<Buf>) -> Rdma {
        Rdma {
            recvs: recvs.len(),
            fabric: RdmaFabric::new(ether::core(&medium, core), recvs),
            net,
            medium,
            core,
            open: Vec::new(),
            asked: Vec::new(),
        }
    }

    /// With nothing left to report, whoever was let in is known: the others never will be.
    fn settle(&mut self) {
        let opening = self.fabric.connections() > self.open.len();
        if self.asked.is_empty() || opening || self.fabric.has_work() {
            return;
        }
        let mut net = self.net.borrow_mut();
        for link in self.asked.drain(..) {
            if !self.open.iter().any(|(_, open)| *open == link) {
                net.link(link).target_closed = true;
            }
        }
    }
}

macro_rules! each {
    ($self:ident, $fabric:ident => $call:expr) => {
        match $self {
            AnyFabric::Ordered($fabric) => $call,
            AnyFabric::Rdma(rdma) => {
                let $fabric = &rdma.fabric;
                $call
            }
        }
    };
    (mut $self:ident, $fabric:ident => $call:expr) => {
        match $self {
            AnyFabric::Ordered($fabric) => $call,
            AnyFabric::Rdma(rdma) => {
                let $fabric = &mut rdma.fabric;
                $call
            }
        }
    };
}

impl AnyFabric {
    /// Every connection ends here and now.
    pub fn kill_all(&mut self) {
        match self {
            AnyFabric::Ordered(fabric) => fabric.kill_all(),
            AnyFabric::Rdma(rdma) => {
                for (conn, _) in &rdma.open {
                    rdma.fabric.close(*conn, Close::Now);
                }
            }
        }
    }

    /// Without connections every RECV's Buf is there again.
    pub fn check(&self) {
        if let AnyFabric::Rdma(rdma) = self
            && rdma.fabric.connections() == 0
            && rdma.fabric.spare_recvs() != rdma.recvs
        {
            let spare = rdma.fabric.spare_recvs();
            wrong!("{spare} of {} RECVs' Bufs came home", rdma.recvs);
        }
    }
}

impl Fabric for AnyFabric {
    type Incoming = Incoming;

    fn adopt(&mut self, incoming: Incoming, now: Tick) {
        match (self, incoming) {
            (AnyFabric::Ordered(fabric), Incoming::Ordered(incoming)) => {
                fabric.adopt(incoming, now)
            }
            (AnyFabric::Rdma(rdma), Incoming::Rdma(incoming)) => {
                rdma.asked
                    .push(ether::link_of(incoming.request().peer.ip()));
                rdma.fabric.adopt(incoming, now);
            }
            _ => unreachable!("a connection goes to the fabric it is for"),
        }
    }

    fn poll(&mut self, now: Tick, room: Room) -> Option<Inbound<'_>> {
        let rdma = match self {
            AnyFabric::Ordered(fabric) => return fabric.poll(now, room),
            AnyFabric::Rdma(rdma) => rdma,
        };
        let Rdma {
            fabric, net, open, ..
        } = &mut **rdma;
        let inbound = fabric.poll(now, room)?;
        match &inbound {
            Inbound::Opened { conn, peer, .. } => {
                let link = ether::link_of(peer.ip());
                open.push((*conn, link));
                // Asked for before a node died, it may be the next one's.
                net.borrow_mut().link(link).target_closed = false;
            }
            Inbound::Closed { conn } => {
                let at = open.iter().position(|(open, _)| open == conn);
                let (_, link) = open.swap_remove(at.expect("it was opened"));
                net.borrow_mut().link(link).target_closed = true;
            }
            _ => (),
        }
        Some(inbound)
    }

    fn fetch(&mut self, conn: ConnId, fetch: Fetch) {
        each!(mut self, fabric => fabric.fetch(conn, fetch));
    }

    fn reply(&mut self, conn: ConnId, reply: Reply) {
        each!(mut self, fabric => fabric.reply(conn, reply));
    }

    fn wants_more(&self, conn: ConnId) -> bool {
        each!(self, fabric => fabric.wants_more(conn))
    }

    fn close(&mut self, conn: ConnId, how: Close) {
        each!(mut self, fabric => fabric.close(conn, how));
    }

    fn home(&mut self) -> Option<BufList> {
        each!(mut self, fabric => fabric.home())
    }

    fn flush(&mut self, now: Tick) {
        each!(mut self, fabric => fabric.flush(now));
        if let AnyFabric::Rdma(rdma) = self {
            rdma.settle();
        }
    }

    fn next_timeout(&self) -> Option<Tick> {
        each!(self, fabric => fabric.next_timeout())
    }

    fn has_work(&self) -> bool {
        match self {
            AnyFabric::Ordered(fabric) => fabric.has_work(),
            AnyFabric::Rdma(rdma) => {
                rdma.fabric.has_work() || ether::waits(&rdma.medium, rdma.core)
            }
        }
    }
}

fn opcode(sqe: &Sqe) -> DataDirection {
    DataDirection::of(sqe.fabrics_type().map_or(sqe.opc, |fctype| fctype.0))
}

/// A host's end of a link by RDMA.
#[derive(Debug)]
pub struct Remote {
    provider: Roce<End>,
    conn: Conn,
    /// Commands whose data the host is asked for, and those behind them.
    waiting: VecDeque<Waiting>,
    asked: u32,
    pub up: bool,
    /// The host said that it is over, or was told.
    over: bool,
    /// A look at the time is planned for then.
    pub planned: u64,
}

#[derive(Debug)]
struct Waiting {
    sqe: Sqe,
    data: Vec<u8>,
    /// The number its data was asked for by, and how much of it is to come.
    fetch: u32,
    left: usize,
}

impl Remote {
    /// Asks for a connection of queue `qid` with so many entries.
    pub fn new(
        medium: &Medium,
        link: LinkId,
        (qid, depth): (u16, u16),
        in_capsule: bool,
        now: Tick,
    ) -> Remote {
        let mut provider = ether::host(medium, link);
        let (private, demand) = request(qid, depth);
        let dial = Dial {
            local: Some(ether::address(link)),
            peer: ether::service(),
            private: private.as_bytes(),
            demand,
        };
        let qp = provider.connect(&dial, now).expect("there is a way");
        let mut conn = Conn::new(&mut provider, qp, depth, depth);
        if in_capsule && qid > 0 {
            conn.set_in_capsule(limits::IN_CAPSULE);
        }
        Remote {
            provider,
            conn,
            waiting: VecDeque::new(),
            asked: 0,
            up: false,
            over: false,
            planned: u64::MAX,
        }
    }

    /// The host says something. What it is to hear at once is put into `say`.
    pub fn told(&mut self, message: ToTarget, now: Tick, say: &mut Vec<ToHost>) {
        match message {
            ToTarget::Capsule { mut sqe, data, .. } => {
                // None that moves data both ways is defined.
                if opcode(&sqe) == DataDirection::Both {
                    sqe.opc ^= 1;
                }
                let in_capsule = sqe.dptr.kind == Sgl::IN_CAPSULE;
                let len = sqe.dptr.len.get() as usize;
                let (mut data, mut left) = (data, 0);
                match opcode(&sqe) {
                    DataDirection::ToTarget if in_capsule => {
                        let gap = sqe.dptr.addr.get() as usize;
                        data.drain(..gap);
                    }
                    DataDirection::ToTarget if len > 0 => {
                        left = len;
                        say.push(ToHost::Ask {
                            cid: sqe.cid.get(),
                            fetch: self.asked,
                            offset: 0,
                            len: len as u32,
                        });
                    }
                    DataDirection::ToHost => data.resize(len, 0),
                    _ => (),
                }
                self.waiting.push_back(Waiting {
                    sqe,
                    data,
                    fetch: self.asked,
                    left,
                });
                self.asked += 1;
            }
            ToTarget::Data {
                fetch,
                mut data,
                spoiled,
            } => {
                // What is damaged on the way is sent again, so it cannot come spoiled.
                if spoiled {
                    data.iter_mut().for_each(|byte| *byte ^= 0xFF);
                }
                let mut waiting = self.waiting.iter_mut();
                if let Some(waiting) = waiting.find(|waiting| waiting.fetch == fetch) {
                    waiting.left -= data.len();
                    waiting.data.append(&mut data);
                }
            }
            ToTarget::Closed => self.close(now),
        }
        // Entries of a submission queue have an order.
        while let Some(first) = self.waiting.pop_front_if(|first| first.left == 0) {
            self.submit(first.sqe, first.data);
        }
    }

    fn submit(&mut self, sqe: Sqe, data: Vec<u8>) {
        let reads = opcode(&sqe) == DataDirection::ToHost;
        let tag = u64::from(reads) << 16 | u64::from(sqe.cid.get());
        let data = match data.is_empty() {
            true => Data::None,
            false => Data::Vec(data),
        };
        if !self.over
            && self
                .conn
                .submit(&mut self.provider, sqe, data, tag)
                .is_err()
        {
            wrong!("a queue pair has no room for a command that the queue had room for");
        }
    }

    /// The host hangs up.
    pub fn close(&mut self, now: Tick) {
        self.over = true;
        if !self.conn.is_gone() {
            self.conn.end(&mut self.provider);
            self.provider.close(self.conn.qp(), now);
        }
    }

    /// Takes what came and sends what is to be sent. What the host hears is put into `say`; false if it was refused for
    /// want of room.
    pub fn run(&mut self, now: Tick, say: &mut Vec<ToHost>) -> bool {
        let mut refused = false;
        while let Some(event) = self.provider.poll(now) {
            if let Err(broken) = self.conn.on_event(&mut self.provider, event) {
                if !self.over {
                    say.push(ToHost::Closed);
                }
                refused |= matches!(broken, Broken::Refused(_));
                self.close(now);
            }
            if self.conn.is_open() && !self.up {
                self.up = true;
                say.push(ToHost::Up);
            }
            self.answers(say);
        }
        self.answers(say);
        self.provider.flush(now);
        !refused
    }

    fn answers(&mut self, say: &mut Vec<ToHost>) {
        while let Some(done) = self.conn.poll() {
            if self.over {
                continue;
            }
            let (cid, mut cqe) = (done.user_data as u16, done.cqe);
            cqe.cid = cid.into();
            let reads = done.user_data >> 16 == 1 && cqe.status().is_success();
            if reads && !done.data.is_empty() {
                say.push(ToHost::Data {
                    cid,
                    offset: 0,
                    data: done.data.bytes().to_vec(),
                    success: false,
                });
            }
            say.push(ToHost::Answer(cqe));
        }
    }

    /// When to look again, in ns.
    pub fn due(&self, now: u64) -> Option<u64> {
        match self.provider.has_work() {
            true => Some(now + 1000),
            false => self.provider.next_timeout().map(|due| due.0),
        }
    }
}
