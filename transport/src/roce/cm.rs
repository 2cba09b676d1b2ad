//! The communication manager: how connections begin and end (InfiniBand chapter 12, IP CM service of
//! annex A11), as machines that know neither sockets nor clocks.
//!
//! A node's [`Front`] hears requests and hands them to a core. A core's [`Cm`] has the rest:
//! connections it accepts or asks for, until both ends know they are over. Messages find it by the
//! low byte of its communication IDs (see `udp`).
//!
//! Left out on purpose: a record of connections that are over. A DREQ for one is answered as Linux
//! answers it, and the number of its queue pair rests (`device`).

mod front;

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use ferroce_engine::port::Tick;
use ferroce_wire::Wire;
use ferroce_wire::num::{Be16, Be24, Be32, Be64};
use ferroce_wire::roce::{
    CmDreq, CmRej, CmRep, CmReq, CmRtu, CmaHeader, PKEY_DEFAULT, PORT, RejectReason, RepDelay,
    RepRnr, ReqCmRetries, ReqPath, ReqRetry, ReqTimeout, service_id,
};

pub use front::{Front, Heard, Incoming};

use crate::rdma::provider::{PrivateData, QpId, Why};
use crate::roce::cm::front::{Link, rej_of_req};
use crate::roce::counters::Dropped;
use crate::roce::mad::{self, Mad, Message};
use crate::roce::packet::{Mtu, Psn};

/// Between two sendings of one message, in ms. Shorter than the seconds that are usual, because a lost
/// message shall not cost a connection seconds.
const RETRY_MS: u64 = 500;
/// How often a REQ or REP is sent.
const TRIES_MAX: u32 = 15;
/// How often a DREQ is sent.
const DREQ_TRIES_MAX: u32 = 7;
/// The longest time that an MRA may ask for, in ms.
const MRA_MAX_MS: u64 = 30_000;
/// A request that is repeated within this time, in ms, was handed to a core, which answers it, and
/// more than once if it must. Later it is known as long as its connection lives.
const REPEAT_MS: u64 = RETRY_MS * TRIES_MAX as u64;
/// 4.096 us times 2 to the power of this is told to peers as the time we take to answer: 67 ms.
const RESPONSE_TIMEOUT: u8 = 14;
/// ... and as the time after which a packet of theirs is lost: 268 ms. A process that shares its CPU may well not run for a
/// tenth of a second, and what is sent again meanwhile was not lost.
const ACK_TIMEOUT: u8 = 16;
/// Retried for ever.
const RNR_RETRY: u8 = 7;
/// Private data of a REQ behind the addresses.
const REQ_PRIVATE: usize = 56;
/// Connections asked for or accepted that may exist at a time, those being ended with them.
pub const CONNECTIONS_MAX: usize = 8192;

/// What is known of a peer's queue pair.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Peer {
    /// Its number.
    pub qpn: u32,
    /// What our first packet is numbered.
    pub send_psn: Psn,
    /// Payload of a packet.
    pub mtu: Mtu,
    /// READs of ours it serves at a time.
    pub reads_max: u8,
    /// It is RoCE in software of ours, too: see [`MARK`].
    pub ours: bool,
}

/// The last bytes of private data in the REQs and REPs of RoCE in software of ours, behind what NVMe/RDMA has there: who
/// has it at the end sends in order, comes off well when it is told of packets that are merely late, and takes a packet
/// that comes again for what it is. Others do not look at these bytes.
const MARK: [u8; 8] = *b"FERROCE1";

/// Marks private data behind so many bytes, if there is room.
fn mark(private_data: &mut [u8], used: usize) {
    if let Some(at) = private_data.len().checked_sub(MARK.len())
        && used <= at
    {
        private_data[at..].copy_from_slice(&MARK);
    }
}

/// What we tell a peer of our queue pair.
#[derive(Clone, Copy, Debug)]
pub struct Ours {
    /// Its name here.
    pub qp: QpId,
    /// Its number.
    pub qpn: u32,
    /// What the peer's first packet is to be numbered.
    pub recv_psn: Psn,
    /// READs of the peer's that we serve at a time.
    pub responder_resources: u8,
    /// READs that we want to have out at a time.
    pub initiator_depth: u8,
}

/// Where a connection is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Number and value of our address.
    pub port: usize,
    /// Our address.
    pub local: IpAddr,
    /// The target's, with the port of the service.
    pub peer: SocketAddr,
    /// Payload of a packet.
    pub mtu: Mtu,
}

/// What became of a connection.
#[derive(Debug)]
pub enum CmEvent {
    /// The peer accepted.
    Accepted {
        /// Our queue pair.
        qp: QpId,
        /// The peer's.
        peer: Peer,
        /// Of the REP.
        private: PrivateData,
    },
    /// The peer knows that it was accepted.
    Ready {
        /// Our queue pair.
        qp: QpId,
    },
    /// It is over, or was not made.
    Ended {
        /// Our queue pair.
        qp: QpId,
        /// Why.
        why: Why,
        /// Of a REJ.
        private: PrivateData,
    },
}

/// A message to be sent.
#[derive(Debug)]
pub struct Outgoing {
    /// From which of our addresses.
    pub port: usize,
    /// To whom.
    pub to: SocketAddr,
    /// What.
    pub mad: Box<Mad>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    ReqSent,
    RepSent,
    Up,
    DreqSent,
}

#[derive(Debug)]
struct Connection {
    state: State,
    qp: QpId,
    qpn: u32,
    port: usize,
    to: SocketAddr,
    tid: u64,
    remote_id: u32,
    peer: Peer,
    /// What is repeated until it is answered; when established, what answers a repeated REP.
    mad: Box<Mad>,
    due: Option<Tick>,
    tries: u32,
    /// However often the peer asks for patience, there is none beyond this.
    patience: Tick,
    /// Of the request that was accepted, until it is ended here: held, so that the front knows that it lives.
    link: Option<Link>,
}

/// One core's connections.
#[derive(Debug)]
pub struct Cm {
    connections: HashMap<u32, Connection>,
    guid: u64,
    worker: u8,
    workers: u8,
    random: fastrand::Rng,
    /// What came of it.
    pub events: VecDeque<CmEvent>,
    /// What is to be sent.
    pub out: VecDeque<Outgoing>,
    /// No message is due before.
    due: Option<Tick>,
}

impl Cm {
    /// Of core `worker` of so many. The GUID is one of this life of the process: peers take a queue
    /// pair number they know for the old one.
    pub fn new(guid: u64, worker: u8, workers: u8, seed: u64) -> Cm {
        Cm {
            connections: HashMap::new(),
            guid,
            worker,
            workers,
            random: fastrand::Rng::with_seed(seed),
            events: VecDeque::new(),
            out: VecDeque::new(),
            due: None,
        }
    }

    /// Numbers are drawn by another seed from here on.
    pub fn reseed(&mut self, seed: u64) {
        self.random.seed(seed);
    }

    /// A number whose low byte says whose it is.
    pub fn name(&mut self) -> u32 {
        let (worker, workers) = (u32::from(self.worker), u32::from(self.workers));
        let classes = (256 - worker).div_ceil(workers);
        (self.random.u32(..) & !0xFF) | (worker + workers * self.random.u32(..classes))
    }

    fn fresh_id(&mut self) -> u32 {
        loop {
            let id = self.name();
            if id > 0xFF && !self.connections.contains_key(&id) {
                return id;
            }
        }
    }

    /// Asks for a connection. `private` has 56 bytes at most. The communication ID.
    pub fn connect(&mut self, now: Tick, ours: Ours, target: Target, private: &[u8]) -> u32 {
        let id = self.fresh_id();
        let v4 = target.local.is_ipv4();
        let cma = CmaHeader {
            version: 0,
            ip_version: if v4 { 0x40 } else { 0x60 },
            port: Be16::new(self.random.u16(49_152..)),
            src: padded(target.local),
            dst: padded(target.peer.ip()),
        };
        let mut req = CmReq {
            local_id: Be32::new(id),
            service_id: Be64::new(service_id(target.peer.port())),
            ca_guid: Be64::new(self.guid),
            qpn: Be24::new(ours.qpn),
            responder_resources: ours.responder_resources,
            initiator_depth: ours.initiator_depth,
            remote_timeout: ReqTimeout(0)
                .with_timeout(RESPONSE_TIMEOUT)
                .with_flow_control(true),
            starting_psn: Be24::new(ours.recv_psn.get()),
            local_timeout: ReqRetry(0)
                .with_timeout(RESPONSE_TIMEOUT)
                .with_retry_count(7),
            pkey: Be16::new(PKEY_DEFAULT),
            path: ReqPath(0)
                .with_mtu(target.mtu.code())
                .with_rnr_retry(RNR_RETRY),
            cm_retries: ReqCmRetries(0).with_retries(15),
            local_lid: Be16::new(0xFFFF),
            remote_lid: Be16::new(0xFFFF),
            local_gid: gid(target.local),
            remote_gid: gid(target.peer.ip()),
            hop_limit: 64,
            ack_timeout: ACK_TIMEOUT << 3,
            ..CmReq::default()
        };
        req.private_data[..CmaHeader::LEN].copy_from_slice(cma.as_bytes());
        assert!(
            private.len() <= REQ_PRIVATE,
            "a REQ has 56 bytes of private data"
        );
        req.private_data[CmaHeader::LEN..][..private.len()].copy_from_slice(private);
        mark(&mut req.private_data, CmaHeader::LEN + private.len());
        let tid = self.random.u64(..);
        let mut to = target.peer;
        to.set_port(PORT);
        let connection = Connection {
            state: State::ReqSent,
            qp: ours.qp,
            qpn: ours.qpn,
            port: target.port,
            to,
            tid,
            remote_id: 0,
            peer: Peer {
                qpn: 0,
                send_psn: Psn::new(0),
                mtu: target.mtu,
                reads_max: 0,
                ours: false,
            },
            mad: Box::new(mad::build(tid, Message::Req(&req))),
            due: None,
            tries: 0,
            patience: patience(now),
            link: None,
        };
        self.begin(now, id, connection);
        id
    }

    /// Accepts a request. `private` has 196 bytes at most. The communication ID.
    pub fn accept(&mut self, now: Tick, incoming: &Incoming, ours: Ours, private: &[u8]) -> u32 {
        let id = self.fresh_id();
        let mut rep = CmRep {
            local_id: Be32::new(id),
            remote_id: Be32::new(incoming.remote_id),
            qpn: Be24::new(ours.qpn),
            starting_psn: Be24::new(ours.recv_psn.get()),
            responder_resources: ours.responder_resources,
            initiator_depth: ours.initiator_depth,
            delay: RepDelay(0).with_flow_control(true),
            rnr: RepRnr(0).with_rnr_retry(RNR_RETRY),
            ca_guid: Be64::new(self.guid),
            ..CmRep::default()
        };
        rep.private_data[..private.len()].copy_from_slice(private);
        mark(&mut rep.private_data, private.len());
        incoming.accepted(self.worker, ours.qp);
        let connection = Connection {
            state: State::RepSent,
            qp: ours.qp,
            qpn: ours.qpn,
            port: incoming.port,
            to: incoming.from,
            tid: incoming.tid,
            remote_id: incoming.remote_id,
            peer: incoming.peer,
            mad: Box::new(mad::build(incoming.tid, Message::Rep(&rep))),
            due: None,
            tries: 0,
            patience: patience(now),
            link: Some(incoming.link.clone()),
        };
        self.begin(now, id, connection);
        id
    }

    /// Refuses a request, with at most 148 bytes of private data.
    pub fn reject(&mut self, incoming: &Incoming, reason: RejectReason, private: &[u8]) {
        let mad = incoming.refuse(reason, private);
        self.say(incoming.port, incoming.from, mad);
    }

    fn begin(&mut self, now: Tick, id: u32, connection: Connection) {
        self.connections.insert(id, connection);
        self.repeat(now, id);
    }

    /// Sends what is to be answered, and will again.
    fn repeat(&mut self, now: Tick, id: u32) {
        let connection = self.connections.get_mut(&id).expect("it is there");
        connection.tries += 1;
        let due = now.plus_ms(RETRY_MS);
        connection.due = Some(due);
        let (port, to, mad) = (connection.port, connection.to, connection.mad.clone());
        self.due = Some(self.due.map_or(due, |other| other.min(due)));
        self.out.push_back(Outgoing { port, to, mad });
    }

    fn say(&mut self, port: usize, to: SocketAddr, mad: Mad) {
        // Answers to what floods in are not worth more memory than this.
        if self.out.len() < CONNECTIONS_MAX {
            let mad = Box::new(mad);
            self.out.push_back(Outgoing { port, to, mad });
        }
    }

    /// A packet came on a connection: its peer knows that it stands.
    pub fn on_data(&mut self, id: u32) {
        if let Some(connection) = self.connections.get_mut(&id)
            && connection.state == State::RepSent
        {
            connection.state = State::Up;
            connection.due = None;
            let qp = connection.qp;
            self.events.push_back(CmEvent::Ready { qp });
        }
    }

    /// Ends a connection. Nothing more is said of it here; the peer is told until it knows.
    pub fn disconnect(&mut self, now: Tick, id: u32) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        match connection.state {
            // The peer may accept yet; that is then not known here, and refused.
            State::ReqSent => _ = self.connections.remove(&id),
            State::RepSent | State::Up => {
                let dreq = CmDreq {
                    local_id: Be32::new(id),
                    remote_id: Be32::new(connection.remote_id),
                    remote_qpn: Be24::new(connection.peer.qpn),
                    ..CmDreq::default()
                };
                let tid = self.random.u64(..);
                *connection.mad = mad::build(tid, Message::Dreq(&dreq));
                connection.state = State::DreqSent;
                connection.link = None;
                connection.tries = 0;
                self.repeat(now, id);
            }
            State::DreqSent => {}
        }
    }

    /// A message came from `from` to our address number `port`. Requests are the [`Front`]'s.
    ///
    /// # Errors
    /// Why it was not for any connection here, or changed nothing.
    pub fn on_mad(
        &mut self,
        now: Tick,
        port: usize,
        from: SocketAddr,
        datagram: &[u8],
    ) -> Result<(), Dropped> {
        let (tid, message) = mad::parse(datagram).ok_or(Dropped::Mad)?;
        let mut to = from;
        to.set_port(PORT);
        match message {
            Message::Req(req) => {
                // Nobody listens where this comes from the socket of a core.
                let reason = RejectReason::INVALID_SERVICE_ID;
                self.say(
                    port,
                    to,
                    rej_of_req(tid, req.local_id.get(), reason, &[], &[]),
                );
                Err(Dropped::CmUnknown)
            }
            Message::Rep(rep) => {
                let heard = self.on_rep(from.ip(), rep);
                if heard == Err(Dropped::CmUnknown) {
                    // Nobody waits for it any more; its sender shall not wait for an RTU.
                    let rej = CmRej {
                        local_id: rep.remote_id,
                        remote_id: rep.local_id,
                        reason: Be16::new(RejectReason::INVALID_COMM_ID.0),
                        // It refuses a REP.
                        rejected: 1 << 6,
                        ..CmRej::default()
                    };
                    self.say(port, to, mad::build(tid, Message::Rej(&rej)));
                }
                heard
            }
            Message::Rtu(rtu) => {
                let connection = self.find(from.ip(), rtu.remote_id, Some(rtu.local_id))?;
                if connection.state != State::RepSent {
                    return Err(Dropped::CmState);
                }
                self.on_data(rtu.remote_id.get());
                Ok(())
            }
            Message::Mra(mra) => {
                let connection = self.find(from.ip(), mra.remote_id, None)?;
                if !matches!(connection.state, State::ReqSent | State::RepSent) {
                    return Err(Dropped::CmState);
                }
                if now >= connection.patience {
                    return Err(Dropped::CmState);
                }
                let ms = (4096u64 << (mra.service_timeout >> 3)) / 1_000_000;
                let due = now.plus_ms(RETRY_MS + ms.min(MRA_MAX_MS));
                connection.due = Some(due.min(connection.patience));
                Ok(())
            }
            Message::Rej(rej) => {
                let connection = self.find(from.ip(), rej.remote_id, None)?;
                let reason = RejectReason(rej.reason.get());
                let why = match connection.state {
                    State::ReqSent => Why::Rejected { reason: reason.0 },
                    State::RepSent | State::Up if rej.local_id.get() == connection.remote_id => {
                        Why::Peer
                    }
                    State::DreqSent if rej.local_id.get() == connection.remote_id => Why::Peer,
                    _ => return Err(Dropped::CmState),
                };
                self.end(rej.remote_id.get(), why, &rej.private_data);
                Ok(())
            }
            Message::Dreq(dreq) => {
                let id = dreq.remote_id.get();
                let found = match self.find(from.ip(), dreq.remote_id, Some(dreq.local_id)) {
                    Ok(connection) if connection.qpn != dreq.remote_qpn.get() => {
                        return Err(Dropped::CmState);
                    }
                    Ok(_) => Ok(()),
                    Err(why) => Err(why),
                };
                let drep = CmRtu {
                    local_id: dreq.remote_id,
                    remote_id: dreq.local_id,
                    ..CmRtu::default()
                };
                self.say(port, to, mad::build(tid, Message::Drep(&drep)));
                found?;
                self.end(id, Why::Peer, &[]);
                Ok(())
            }
            Message::Drep(drep) => {
                let connection = self.find(from.ip(), drep.remote_id, Some(drep.local_id))?;
                if connection.state != State::DreqSent {
                    return Err(Dropped::CmState);
                }
                self.connections.remove(&drep.remote_id.get());
                Ok(())
            }
        }
    }

    fn on_rep(&mut self, from: IpAddr, rep: &CmRep) -> Result<(), Dropped> {
        let id = rep.remote_id.get();
        let connection = self.find(from, rep.remote_id, None)?;
        match connection.state {
            State::ReqSent => {
                if rep.qpn.get() < 2 {
                    return Err(Dropped::Mad);
                }
                connection.remote_id = rep.local_id.get();
                connection.peer.qpn = rep.qpn.get();
                connection.peer.send_psn = Psn::new(rep.starting_psn.get());
                connection.peer.reads_max = rep.responder_resources;
                connection.peer.ours = rep.private_data.ends_with(&MARK);
                let rtu = CmRtu {
                    local_id: Be32::new(id),
                    remote_id: rep.local_id,
                    ..CmRtu::default()
                };
                *connection.mad = mad::build(connection.tid, Message::Rtu(&rtu));
                connection.state = State::Up;
                connection.due = None;
                let (qp, peer) = (connection.qp, connection.peer);
                self.events.push_back(CmEvent::Accepted {
                    qp,
                    peer,
                    private: PrivateData::new(&rep.private_data),
                });
            }
            // Our RTU was lost.
            State::Up if connection.remote_id == rep.local_id.get() => {}
            _ => return Err(Dropped::CmState),
        }
        let connection = &self.connections[&id];
        let (port, to, mad) = (connection.port, connection.to, *connection.mad);
        // The accepting end holds a REP or an established connection; only an RTU answers it.
        if matches!(mad::parse(&mad), Some((_, Message::Rtu(_)))) {
            self.say(port, to, mad);
        }
        Ok(())
    }

    /// The connection of a message: of this peer, and with this name on its side if it must be known.
    fn find(
        &mut self,
        from: IpAddr,
        id: Be32,
        remote_id: Option<Be32>,
    ) -> Result<&mut Connection, Dropped> {
        let connection = self
            .connections
            .get_mut(&id.get())
            .ok_or(Dropped::CmUnknown)?;
        if connection.to.ip() != from
            || remote_id.is_some_and(|id| id.get() != connection.remote_id)
        {
            return Err(Dropped::CmUnknown);
        }
        Ok(connection)
    }

    fn end(&mut self, id: u32, why: Why, private: &[u8]) {
        let connection = self.connections.remove(&id).expect("it is there");
        if connection.state != State::DreqSent {
            self.events.push_back(CmEvent::Ended {
                qp: connection.qp,
                why,
                private: PrivateData::new(private),
            });
        }
    }

    /// Repeats what was not answered, and gives up.
    pub fn on_time(&mut self, now: Tick) {
        if self.due.is_none_or(|due| due > now) {
            return;
        }
        let late: Vec<u32> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.due.is_some_and(|due| due <= now))
            .map(|(id, _)| *id)
            .collect();
        for id in late {
            let connection = &self.connections[&id];
            let tries_max = match connection.state {
                State::DreqSent => DREQ_TRIES_MAX,
                _ => TRIES_MAX,
            };
            if connection.tries < tries_max {
                self.repeat(now, id);
            } else {
                self.end(id, Why::Unreachable, &[]);
            }
        }
        self.due = self
            .connections
            .values()
            .filter_map(|connection| connection.due)
            .min();
    }

    /// When [`Cm::on_time`] has something to do, at the earliest.
    pub fn next_timeout(&self) -> Option<Tick> {
        self.due
    }

    /// True if a peer has not answered yet that it knows of the end of a connection.
    pub fn is_parting(&self) -> bool {
        let mut states = self.connections.values().map(|connection| connection.state);
        states.any(|state| state == State::DreqSent)
    }

    /// Connections there are, those being ended with them.
    pub fn count(&self) -> usize {
        self.connections.len()
    }
}

/// Until when the peer of a connection that begins may ask for patience.
fn patience(now: Tick) -> Tick {
    now.plus_ms(REPEAT_MS + MRA_MAX_MS)
}

/// An address as a GID: IPv4 as IPv6 has it.
fn gid(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// An address as the IP CM service has it: IPv4 in the last four of sixteen bytes.
fn padded(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(v4) => {
            let mut bytes = [0; 16];
            bytes[12..].copy_from_slice(&v4.octets());
            bytes
        }
        IpAddr::V6(v6) => v6.octets(),
    }
}

fn address(bytes: &[u8; 16], v4: bool) -> IpAddr {
    if v4 {
        IpAddr::from([bytes[12], bytes[13], bytes[14], bytes[15]])
    } else {
        Ipv6Addr::from(*bytes).into()
    }
}

#[cfg(test)]
mod tests {
    use super::front::{RECENT_MAX, RECENT_OF_ONE_MAX};
    use super::*;
    use crate::rdma::provider::{self, Incoming as _};

    const HOST: &str = "10.0.0.2:4791";
    const TARGET: &str = "10.0.0.1:4791";

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    fn mtu(code: u8) -> Mtu {
        Mtu::from_code(code).expect("1 to 5")
    }

    fn ours(slot: u32) -> Ours {
        Ours {
            qp: QpId {
                slot,
                generation: 0,
            },
            qpn: 0x100 + slot,
            recv_psn: Psn::new(7),
            responder_resources: 16,
            initiator_depth: 0,
        }
    }

    /// Both ends, and the front of the target.
    struct Pair {
        now: Tick,
        host: Cm,
        target: Cm,
        front: Front,
    }

    impl Pair {
        fn new() -> Pair {
            Pair {
                now: Tick(0),
                host: Cm::new(1, 0, 1, 1),
                target: Cm::new(2, 3, 4, 2),
                front: Front::new(vec![at("10.0.0.1:4420")]),
            }
        }

        fn dial(&mut self) -> u32 {
            let target = Target {
                port: 0,
                local: at(HOST).ip(),
                peer: at("10.0.0.1:4420"),
                mtu: mtu(3),
            };
            self.host.connect(self.now, ours(0), target, b"private")
        }

        fn said(cm: &mut Cm) -> Box<Mad> {
            cm.out.pop_front().expect("something is said").mad
        }

        fn req(mad: &Mad) -> (u64, CmReq) {
            match mad::parse(mad) {
                Some((tid, Message::Req(req))) => (tid, *req),
                other => panic!("{other:?}"),
            }
        }

        fn hear(&mut self, mad: &Mad) -> Heard {
            let (tid, req) = Pair::req(mad);
            let local = (0, at(TARGET).ip(), mtu(5));
            self.front.on_req(self.now, local, at(HOST), (tid, &req))
        }

        fn incoming(&mut self, mad: &Mad) -> Box<Incoming> {
            match self.hear(mad) {
                Heard::Incoming(incoming) => incoming,
                other => panic!("{other:?}"),
            }
        }

        fn host_hears(&mut self, mad: &Mad) -> Result<(), Dropped> {
            self.host.on_mad(self.now, 0, at(TARGET), mad)
        }

        fn target_hears(&mut self, mad: &Mad) -> Result<(), Dropped> {
            self.target.on_mad(self.now, 0, at(HOST), mad)
        }

        fn later(&mut self, ms: u64) {
            self.now = self.now.plus_ms(ms);
            self.host.on_time(self.now);
            self.target.on_time(self.now);
        }

        /// Up to the REP, which is not carried yet.
        fn accepted(&mut self) -> (u32, u32, Box<Mad>) {
            let host = self.dial();
            let req = Pair::said(&mut self.host);
            let incoming = self.incoming(&req);
            let target = self.target.accept(self.now, &incoming, ours(5), b"welcome");
            (host, target, Pair::said(&mut self.target))
        }

        /// Established at both ends.
        fn established(&mut self) -> (u32, u32) {
            let (host, target, rep) = self.accepted();
            self.host_hears(&rep).expect("a REP");
            let rtu = Pair::said(&mut self.host);
            self.target_hears(&rtu).expect("an RTU");
            self.host.events.clear();
            self.target.events.clear();
            (host, target)
        }
    }

    #[test]
    fn both_learn_what_they_need() {
        let mut pair = Pair::new();
        pair.dial();
        let req = Pair::said(&mut pair.host);
        let incoming = pair.incoming(&req);
        let request = incoming.request();
        assert_eq!(request.local, at("10.0.0.1:4420"));
        assert_eq!(request.peer.ip(), at(HOST).ip());
        assert_eq!(&request.private.bytes()[..8], b"private\0");
        assert_eq!(
            (request.responder_resources, request.initiator_depth),
            (16, 0)
        );
        assert_eq!(incoming.peer.qpn, 0x100);
        // Each end says what the other's first packet is to be numbered.
        assert_eq!(incoming.peer.send_psn, Psn::new(7));
        let target = pair.target.accept(pair.now, &incoming, ours(5), b"welcome");
        assert_eq!(target & 3, 3, "its low byte leads to worker 3 of 4");
        let rep = Pair::said(&mut pair.target);
        pair.host_hears(&rep).expect("a REP");
        match pair.host.events.pop_front() {
            Some(CmEvent::Accepted { peer, private, .. }) => {
                assert_eq!(
                    (peer.qpn, peer.send_psn, peer.mtu),
                    (0x105, Psn::new(7), mtu(3))
                );
                assert_eq!(&private.bytes()[..8], b"welcome\0");
            }
            other => panic!("{other:?}"),
        }
        let rtu = Pair::said(&mut pair.host);
        pair.target_hears(&rtu).expect("an RTU");
        assert!(matches!(
            pair.target.events.pop_front(),
            Some(CmEvent::Ready { .. })
        ));
        // Again it says nothing new.
        assert_eq!(pair.target_hears(&rtu), Err(Dropped::CmState));
        assert!(pair.target.events.is_empty());
    }

    #[test]
    fn what_is_lost_is_said_again() {
        let mut pair = Pair::new();
        pair.dial();
        let first = Pair::said(&mut pair.host);
        pair.later(RETRY_MS);
        let again = Pair::said(&mut pair.host);
        assert_eq!(first, again);
        let incoming = pair.incoming(&again);
        // The request itself is not heard twice while it is being answered.
        assert!(matches!(
            pair.hear(&first),
            Heard::Dropped(Dropped::CmState)
        ));
        pair.target.accept(pair.now, &incoming, ours(5), b"");
        let lost = Pair::said(&mut pair.target);
        pair.later(RETRY_MS);
        pair.host.out.clear();
        let rep = Pair::said(&mut pair.target);
        assert_eq!(lost, rep);
        pair.host_hears(&rep).expect("a REP");
        let lost = Pair::said(&mut pair.host);
        // The RTU was lost: the REP comes again, and so does the RTU, and nothing else happens.
        pair.host.events.clear();
        pair.host_hears(&rep).expect("the same REP");
        assert_eq!(Pair::said(&mut pair.host), lost);
        assert!(pair.host.events.is_empty());
        // Or a packet on the queue pair says as much.
        let id = *pair.target.connections.keys().next().expect("one");
        pair.target.on_data(id);
        assert!(matches!(
            pair.target.events.pop_front(),
            Some(CmEvent::Ready { .. })
        ));
        pair.later(60_000);
        assert!(pair.host.out.is_empty() && pair.target.out.is_empty());
    }

    #[test]
    fn who_is_not_answered_gives_up() {
        let mut pair = Pair::new();
        let (_, _, _) = pair.accepted();
        for _ in 0..TRIES_MAX {
            assert!(pair.target.events.is_empty());
            pair.later(RETRY_MS);
        }
        for cm in [&mut pair.host, &mut pair.target] {
            let ended = cm.events.pop_front();
            assert!(
                matches!(
                    ended,
                    Some(CmEvent::Ended {
                        why: Why::Unreachable,
                        ..
                    })
                ),
                "{ended:?}"
            );
            assert_eq!((cm.count(), cm.next_timeout()), (0, None));
        }
        assert_eq!(pair.host.out.len() as u32, TRIES_MAX - 1);
    }

    #[test]
    fn patience_can_be_asked_for() {
        let mut pair = Pair::new();
        let host = pair.dial();
        pair.host.out.clear();
        let mra = ferroce_wire::roce::CmMra {
            local_id: Be32::new(9),
            remote_id: Be32::new(host),
            // 4.096 us * 2^20 is 4.3 s.
            service_timeout: 20 << 3,
            ..Default::default()
        };
        let mra = mad::build(1, Message::Mra(&mra));
        pair.host_hears(&mra).expect("an MRA");
        pair.later(4000);
        assert!(pair.host.out.is_empty());
        pair.later(1000);
        assert_eq!(pair.host.out.len(), 1);
    }

    #[test]
    fn patience_ends() {
        let mut pair = Pair::new();
        let host = pair.dial();
        let mra = ferroce_wire::roce::CmMra {
            remote_id: Be32::new(host),
            service_timeout: 31 << 3,
            ..Default::default()
        };
        let mra = mad::build(1, Message::Mra(&mra));
        for _ in 0..(2 * REPEAT_MS + MRA_MAX_MS) / RETRY_MS {
            let _ = pair.host_hears(&mra);
            pair.later(RETRY_MS);
        }
        assert_eq!(pair.host.count(), 0);
    }

    #[test]
    fn requests_are_refused_with_a_reason() {
        let mut pair = Pair::new();
        pair.dial();
        let mad = Pair::said(&mut pair.host);
        let (tid, good) = Pair::req(&mad);
        let with = |change: &dyn Fn(&mut CmReq)| {
            let mut req = good;
            change(&mut req);
            req
        };
        let wrong = [
            (
                RejectReason::INVALID_SERVICE_ID,
                with(&|req| req.service_id = Be64::new(service_id(1))),
            ),
            (
                RejectReason::INVALID_TRANSPORT,
                with(&|req| req.remote_timeout.0 |= 2),
            ),
            (
                RejectReason::INVALID_GID,
                with(&|req| req.remote_gid[15] = 9),
            ),
            // Somebody translates addresses in between.
            (
                RejectReason::INVALID_GID,
                with(&|req| req.private_data[35] = 9),
            ),
            (
                RejectReason::INVALID_GID,
                with(&|req| req.private_data[19] = 9),
            ),
            (
                RejectReason::UNSUPPORTED,
                with(&|req| req.private_data[1] = 0x60),
            ),
            (
                RejectReason::UNSUPPORTED,
                with(&|req| req.qpn = Be24::new(1)),
            ),
            (RejectReason::INVALID_MTU, with(&|req| req.path.0 = 0x67)),
            (RejectReason::INVALID_MTU, with(&|req| req.path.0 = 0x07)),
        ];
        for (reason, req) in wrong {
            let local = (0, at(TARGET).ip(), mtu(5));
            match pair.front.on_req(pair.now, local, at(HOST), (tid, &req)) {
                Heard::Reject(why, mad) => {
                    assert_eq!(why, reason);
                    let Some((_, Message::Rej(rej))) = mad::parse(&*mad) else {
                        panic!("a REJ")
                    };
                    assert_eq!(rej.reason.get(), reason.0);
                    assert_eq!(rej.remote_id, good.local_id);
                }
                other => panic!("{reason}: {other:?}"),
            }
        }
        // Longer packets than ours: we say how long they may be.
        let local = (0, at(TARGET).ip(), mtu(2));
        let Heard::Reject(RejectReason::INVALID_MTU, mad) =
            pair.front.on_req(pair.now, local, at(HOST), (tid, &good))
        else {
            panic!("it is refused")
        };
        let Some((_, Message::Rej(rej))) = mad::parse(&*mad) else {
            panic!("a REJ")
        };
        assert_eq!((rej.ari_len >> 1, rej.ari[0] >> 4), (1, 2));
        pair.host_hears(&mad).expect("a REJ");
        let ended = pair.host.events.pop_front();
        assert!(
            matches!(
                ended,
                Some(CmEvent::Ended {
                    why: Why::Rejected { reason: 26 },
                    ..
                })
            ),
            "{ended:?}"
        );
        assert_eq!(pair.host.count(), 0);
    }

    #[test]
    fn the_consumer_refuses_with_data() {
        let mut pair = Pair::new();
        pair.dial();
        let req = Pair::said(&mut pair.host);
        let incoming = pair.incoming(&req);
        pair.target
            .reject(&incoming, RejectReason::CONSUMER, &[1, 2, 3]);
        let rej = Pair::said(&mut pair.target);
        pair.host_hears(&rej).expect("a REJ");
        match pair.host.events.pop_front() {
            Some(CmEvent::Ended { why, private, .. }) => {
                assert_eq!(why, Why::Rejected { reason: 28 });
                assert_eq!(private.bytes()[..4], [1, 2, 3, 0]);
            }
            other => panic!("{other:?}"),
        }
        // It may have been lost: whoever asks again hears it again.
        match pair.hear(&req) {
            Heard::Reject(RejectReason::CONSUMER, again) => assert_eq!(again, rej),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn requests_are_bounded() {
        let mut pair = Pair::new();
        pair.dial();
        let (tid, mut req) = Pair::req(&Pair::said(&mut pair.host));
        let local = (0, at(TARGET).ip(), mtu(5));
        let mut ask = |pair: &mut Pair, host: u8, id: u32| {
            let from = SocketAddr::new(IpAddr::from([10, 0, 0, host]), PORT);
            req.local_id = Be32::new(id);
            req.private_data[16..20].copy_from_slice(&[10, 0, 0, host]);
            pair.front.on_req(pair.now, local, from, (tid, &req))
        };
        // One host cannot take what all may have together.
        for host in 2..6 {
            for id in 0..RECENT_OF_ONE_MAX {
                assert!(matches!(ask(&mut pair, host, id), Heard::Incoming(_)));
            }
            let heard = ask(&mut pair, host, u32::MAX);
            assert!(matches!(heard, Heard::Dropped(Dropped::CmFlood)));
        }
        assert_eq!(pair.front.recent.len(), RECENT_MAX);
        let heard = ask(&mut pair, 6, 0);
        assert!(matches!(heard, Heard::Dropped(Dropped::CmFlood)));
        pair.later(REPEAT_MS);
        assert!(matches!(ask(&mut pair, 2, u32::MAX), Heard::Incoming(_)));
        assert_eq!((pair.front.known.len(), pair.front.sources.len()), (1, 1));
    }

    #[test]
    fn a_request_is_known_as_long_as_its_connection_lives() {
        let mut pair = Pair::new();
        pair.dial();
        let req = Pair::said(&mut pair.host);
        let again = |pair: &mut Pair| match pair.hear(&req) {
            Heard::Dropped(why) => Some(why),
            Heard::Incoming(_) => None,
            Heard::Reject(reason, _) => panic!("{reason}"),
        };
        // One that waits for a core for long.
        let incoming = pair.incoming(&req);
        pair.now = pair.now.plus_ms(2 * REPEAT_MS);
        assert_eq!(again(&mut pair), Some(Dropped::CmState));
        // ... and when it was accepted, however late.
        let target = pair.target.accept(pair.now, &incoming, ours(5), b"");
        drop(incoming);
        pair.target.on_data(target);
        for _ in 0..3 {
            pair.later(2 * REPEAT_MS);
            assert_eq!(again(&mut pair), Some(Dropped::CmState));
        }
        // When it is over, the same name is that of another connection.
        pair.target.disconnect(pair.now, target);
        assert_eq!(again(&mut pair), None);
        pair.later(REPEAT_MS);
        assert_eq!(again(&mut pair), None);
    }

    #[test]
    fn what_is_known_of_connections_is_bounded_by_those_that_live() {
        let mut pair = Pair::new();
        pair.dial();
        let (tid, mut req) = Pair::req(&Pair::said(&mut pair.host));
        let local = (0, at(TARGET).ip(), mtu(5));
        let mut waiting = VecDeque::new();
        for id in 0..20 * RECENT_MAX as u32 {
            req.local_id = Be32::new(id);
            req.qpn = Be24::new(2 + id);
            match pair.front.on_req(pair.now, local, at(HOST), (tid, &req)) {
                Heard::Incoming(incoming) => waiting.push_back(incoming),
                other => panic!("{other:?}"),
            }
            if waiting.len() > RECENT_MAX {
                waiting.pop_front();
            }
            if id % RECENT_OF_ONE_MAX == RECENT_OF_ONE_MAX - 1 {
                pair.later(REPEAT_MS);
            }
        }
        let front = &pair.front;
        assert!(front.known.len().max(front.queue_pairs.len()) <= 4 * RECENT_MAX);
    }

    #[test]
    fn a_queue_pair_that_is_connected_is_doubted_when_its_peer_asks_with_it() {
        let mut pair = Pair::new();
        pair.dial();
        let (tid, mut req) = Pair::req(&Pair::said(&mut pair.host));
        let local = (0, at(TARGET).ip(), mtu(5));
        let mut ask = |pair: &mut Pair, id: u32, qpn: u32| {
            req.local_id = Be32::new(id);
            req.qpn = Be24::new(qpn);
            match pair.front.on_req(pair.now, local, at(HOST), (tid, &req)) {
                Heard::Incoming(incoming) => Ok(incoming),
                Heard::Reject(reason, mad) => {
                    let Some((_, Message::Rej(rej))) = mad::parse(&*mad) else {
                        panic!("a REJ")
                    };
                    assert_eq!((rej.reason.get(), rej.remote_id.get()), (reason.0, id));
                    Err(Some(reason))
                }
                Heard::Dropped(_) => Err(None),
            }
        };
        let stale = Err(Some(RejectReason::STALE));
        let first = ask(&mut pair, 1, 0x100).expect("there is none yet");
        // No core has it that could look.
        assert_eq!(ask(&mut pair, 2, 0x100).map(drop), stale);
        let target = pair.target.accept(pair.now, &first, ours(5), b"");
        drop(first);
        let second = ask(&mut pair, 3, 0x100).expect("the core is to look");
        assert_eq!((second.core(), second.stale()), (Some(3), Some(ours(5).qp)));
        // Until it has looked it is told no more.
        assert_eq!(ask(&mut pair, 4, 0x100).map(drop), stale);
        // Another queue pair has nothing to do with it.
        let other = ask(&mut pair, 5, 0x101).expect("it is free");
        assert_eq!((other.core(), other.stale()), (None, None));
        // The core found it alive, this time and the next.
        pair.target.reject(&second, RejectReason::STALE, &[]);
        drop(second);
        pair.target.on_data(target);
        pair.later(provider::STALE_MS);
        assert!(ask(&mut pair, 3, 0x100).is_ok_and(|again| again.stale().is_some()));
        pair.later(provider::STALE_MS);
        let again = ask(&mut pair, 6, 0x100).expect("the core is to look");
        pair.target.reject(&again, RejectReason::STALE, &[]);
        drop(again);
        assert_eq!(ask(&mut pair, 6, 0x100).map(drop), stale);
        // When it is over there is room for another one, of the same name as well.
        pair.target.disconnect(pair.now, target);
        assert!(ask(&mut pair, 6, 0x100).is_ok_and(|new| new.stale().is_none()));
    }

    #[test]
    fn who_has_gone_refuses_a_late_rep() {
        let mut pair = Pair::new();
        let (host, _, rep) = pair.accepted();
        pair.host.disconnect(pair.now, host);
        assert_eq!(pair.host_hears(&rep), Err(Dropped::CmUnknown));
        let rej = Pair::said(&mut pair.host);
        pair.target_hears(&rej).expect("a REJ");
        let ended = pair.target.events.pop_front();
        assert!(
            matches!(ended, Some(CmEvent::Ended { why: Why::Peer, .. })),
            "{ended:?}"
        );
        assert_eq!(pair.target.count(), 0);
    }

    #[test]
    fn both_ends_part() {
        let mut pair = Pair::new();
        let (host, target) = pair.established();
        pair.host.disconnect(pair.now, host);
        let lost = Pair::said(&mut pair.host);
        pair.later(RETRY_MS);
        let dreq = Pair::said(&mut pair.host);
        assert_eq!(lost, dreq);
        pair.target_hears(&dreq).expect("a DREQ");
        let ended = pair.target.events.pop_front();
        assert!(
            matches!(ended, Some(CmEvent::Ended { why: Why::Peer, .. })),
            "{ended:?}"
        );
        let lost = Pair::said(&mut pair.target);
        // It is forgotten, and still answered.
        assert_eq!(pair.target_hears(&dreq), Err(Dropped::CmUnknown));
        assert_eq!(Pair::said(&mut pair.target), lost);
        pair.host_hears(&lost).expect("a DREP");
        assert!(pair.host.events.is_empty(), "who ends it knows");
        assert_eq!((pair.host.count(), pair.target.count()), (0, 0));
        pair.target.disconnect(pair.now, target);
        assert!(pair.target.out.is_empty());
    }

    #[test]
    fn both_ends_part_at_once_or_alone() {
        let mut pair = Pair::new();
        let (host, target) = pair.established();
        pair.host.disconnect(pair.now, host);
        pair.target.disconnect(pair.now, target);
        let (a, b) = (Pair::said(&mut pair.host), Pair::said(&mut pair.target));
        pair.target_hears(&a).expect("a DREQ");
        pair.host_hears(&b).expect("a DREQ");
        assert_eq!((pair.host.count(), pair.target.count()), (0, 0));
        assert!(pair.host.events.is_empty() && pair.target.events.is_empty());
        pair.host.out.clear();
        pair.target.out.clear();

        let (host, _) = pair.established();
        pair.host.disconnect(pair.now, host);
        for _ in 0..DREQ_TRIES_MAX {
            pair.later(RETRY_MS);
        }
        assert_eq!(pair.host.count(), 0);
        assert!(pair.host.events.is_empty());
    }

    #[test]
    fn strangers_change_nothing() {
        let mut pair = Pair::new();
        let (_, target) = pair.established();
        let connection = &pair.target.connections[&target];
        let (remote_id, qpn) = (connection.remote_id, connection.qpn);
        let dreq = |remote_id: u32, local_id: u32, qpn: u32| {
            let dreq = CmDreq {
                local_id: Be32::new(local_id),
                remote_id: Be32::new(remote_id),
                remote_qpn: Be24::new(qpn),
                ..CmDreq::default()
            };
            mad::build(5, Message::Dreq(&dreq))
        };
        let right = dreq(target, remote_id, qpn);
        let stranger = at("10.0.0.9:4791");
        let heard = pair.target.on_mad(pair.now, 0, stranger, &right);
        assert_eq!(heard, Err(Dropped::CmUnknown));
        assert_eq!(
            pair.target_hears(&dreq(target, remote_id ^ 1, qpn)),
            Err(Dropped::CmUnknown)
        );
        assert_eq!(
            pair.target_hears(&dreq(target, remote_id, qpn ^ 1)),
            Err(Dropped::CmState)
        );
        assert_eq!(
            pair.target_hears(&dreq(target ^ 256, remote_id, qpn)),
            Err(Dropped::CmUnknown)
        );
        assert!(pair.target.events.is_empty());
        assert_eq!(pair.target_hears(&right), Ok(()));
        assert_eq!(pair.target.events.len(), 1);
    }

    #[test]
    fn random_messages_do_no_harm() {
        let mut random = fastrand::Rng::with_seed(11);
        for _ in 0..200 {
            let mut pair = Pair::new();
            let (host, target) = if random.bool() {
                pair.established()
            } else {
                let (host, target, _) = pair.accepted();
                (host, target)
            };
            pair.dial();
            pair.host.out.clear();
            for _ in 0..50 {
                let mut mad: Mad = std::array::from_fn(|_| random.u8(..));
                mad[..4].copy_from_slice(&[1, 7, 2, 3]);
                mad[16..18].copy_from_slice(&[0, random.u8(0x10..0x18)]);
                let id = if random.bool() { host } else { target };
                if random.bool() {
                    mad[28..32].copy_from_slice(&id.to_be_bytes());
                }
                if random.bool() {
                    mad[24..28].copy_from_slice(&(host ^ target ^ id).to_be_bytes());
                }
                // Whatever it says, what matters is what is there afterwards.
                let _ = if random.bool() {
                    pair.host_hears(&mad)
                } else {
                    pair.target_hears(&mad)
                };
                pair.later(random.u64(..1000));
            }
            assert!(pair.host.count() <= 2 && pair.target.count() <= 1);
        }
    }
}
