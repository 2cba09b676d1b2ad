//! One core's queue pairs, without the sockets: packets and time in, packets and events out.
//!
//! A packet is looked at in this order: form, queue pair, sender, ICRC. Only one that passes all of
//! it can change anything but a counter.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::net::{IpAddr, SocketAddr};

use ferroce_buf::{Buf, BufList};
use ferroce_engine::port::Tick;
use ferroce_wire::roce::{BECN, CM_QKEY, CM_QPN, Opcode, PORT, RejectReason, Syndrome};

use crate::rdma::provider::Incoming as _;
use crate::rdma::provider::{
    Access, Answer, Demand, Dial, DialError, Event, Limits, Message, PrivateData, QpId, Read,
    Remote, WcStatus, Why,
};
use crate::roce::cm::{CONNECTIONS_MAX, Cm, CmEvent, Incoming, Ours, Peer, Target};
use crate::roce::counters::{Counters, Dropped};
use crate::roce::grants::{GRANT_BUFS_MAX, Grants};
use crate::roce::icrc::{Checked, Flow};
use crate::roce::mad::Mad;
use crate::roce::packet::{self, Head, Mtu, Packet, Psn};
use crate::roce::payload::{BURST_MAX, Burst, Outlet, PacketOut, Payload, Route};
use crate::roce::requester::Requester;
use crate::roce::responder::{Refused, Responder};

/// READs of one queue pair that may be out, in either direction.
const READS_MAX: u8 = 16;
/// Work requests of one queue pair.
const SENDS_MAX: u32 = 8192;
/// Bytes of one message. With the packets of as many work requests as there may be, it keeps the
/// packet numbers that are out far below half of their circle.
const MESSAGE_MAX: u32 = 128 * 1024;
/// How long the number of a queue pair rests before it may be used again, in ns: longer than a packet
/// is under way.
const REST_NS: u64 = 4_000_000_000;

/// Packets that are little to send: the answer to a read of 4 KiB, in packets of 1024 bytes.
const LITTLE: u32 = 5;

/// An address of ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Port {
    /// It.
    pub ip: IpAddr,
    /// What its interface carries.
    pub mtu: Mtu,
}

#[derive(Debug)]
enum State {
    /// Passive, before it was accepted.
    Opened(Box<Incoming>),
    /// Active, asked for.
    Connecting,
    /// Passive, accepted; the peer may not know yet.
    Accepting,
    Up,
    Down,
}

#[derive(Debug)]
struct Qp {
    id: QpId,
    state: State,
    qpn: u32,
    /// Its name in the connection manager, while that knows it.
    cm: Option<u32>,
    route: Route,
    /// Packets of the peer's, which come from a port that is the peer's choice.
    inward: (u16, Flow),
    local: SocketAddr,
    peer: SocketAddr,
    requester: Requester,
    responder: Responder,
    grants: Grants,
    limits: Limits,
    private: PrivateData,
    /// The peer is RoCE in software of ours, too.
    ours: bool,
    /// It stands in the list of those that have something to send.
    ready: bool,
}

/// One core's queue pairs.
#[derive(Debug)]
pub struct Device {
    ports: Vec<Port>,
    slots: Vec<(u32, Option<Box<Qp>>)>,
    free: Vec<u32>,
    by_qpn: HashMap<u32, u32, BuildHasherDefault<Mix>>,
    resting: VecDeque<(u32, Tick)>,
    cm: Cm,
    events: VecDeque<Event>,
    /// Queue pairs that have something to send.
    ready: VecDeque<u32>,
    /// The outlet was full for the last of them that sent.
    cut: bool,
    /// Last words of queue pairs: a NAK, or the ACK that was owed.
    last_words: VecDeque<(Route, Head)>,
    /// Queue pairs that are down and have nothing left but their name.
    going: VecDeque<u32>,
    /// No timer of a queue pair is due before.
    due: Option<Tick>,
    /// Numbers the datagrams of the connection manager.
    mad_psn: Psn,
    /// See [`Device::number_from`].
    first_psn: Option<u32>,
    random: fastrand::Rng,
    /// What happened to packets.
    pub counters: Counters,
}

impl Device {
    /// With these addresses, of core `worker` of so many. `seed` decides everything random, and `guid`
    /// is one of this life of the process.
    pub fn new(ports: Vec<Port>, guid: u64, worker: u8, workers: u8, seed: u64) -> Device {
        let mut random = fastrand::Rng::with_seed(seed);
        Device {
            ports,
            slots: Vec::new(),
            free: Vec::new(),
            by_qpn: HashMap::default(),
            resting: VecDeque::new(),
            cm: Cm::new(guid, worker, workers, random.u64(..)),
            events: VecDeque::with_capacity(256),
            ready: VecDeque::with_capacity(64),
            cut: false,
            last_words: VecDeque::new(),
            going: VecDeque::new(),
            due: None,
            mad_psn: Psn::new(random.u32(..)),
            first_psn: None,
            random,
            counters: Counters::default(),
        }
    }

    /// Peers' packets are numbered from here and not at random: for tests, to see the numbers wrap.
    pub fn number_from(&mut self, psn: u32) {
        self.first_psn = Some(psn);
    }

    /// Everything random is drawn by another seed from here on.
    pub fn reseed(&mut self, seed: u64) {
        self.random.seed(seed);
        self.cm.reseed(self.random.u64(..));
    }

    /// Its addresses.
    pub fn ports(&self) -> &[Port] {
        &self.ports
    }

    fn fresh_qpn(&mut self, now: Tick) -> u32 {
        while self
            .resting
            .front()
            .is_some_and(|(_, since)| now.since(*since) >= REST_NS)
        {
            self.resting.pop_front();
        }
        loop {
            let qpn = self.cm.name() & 0xFF_FFFF;
            let taken = self.by_qpn.contains_key(&qpn)
                || self.resting.iter().any(|(resting, _)| *resting == qpn);
            if qpn > 0xFF && qpn != 0xFF_FFFF && !taken {
                return qpn;
            }
        }
    }

    fn full(&self) -> bool {
        self.by_qpn.len() >= CONNECTIONS_MAX || self.cm.count() >= CONNECTIONS_MAX
    }

    /// Makes the queue pair of a request, or gives it back if there are too many.
    pub fn open(
        &mut self,
        incoming: Box<Incoming>,
        demand: &Demand,
        now: Tick,
    ) -> Result<QpId, Box<Incoming>> {
        if self.full() {
            return Err(incoming);
        }
        let (request, peer) = (*incoming.request(), incoming.peer);
        let made = Made {
            port: incoming.port,
            to: incoming.from,
            local: request.local,
            peer: request.peer,
            mtu: peer.mtu,
            state: State::Opened(incoming),
            reads_in: request.initiator_depth.min(READS_MAX),
        };
        let id = self.make(made, demand, now);
        let qp = self.qp_mut(id);
        qp.connect(peer);
        Ok(id)
    }

    fn make(&mut self, made: Made, demand: &Demand, now: Tick) -> QpId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push((0, None));
            self.slots.len() as u32 - 1
        });
        let id = QpId {
            slot,
            generation: self.slots[slot as usize].0,
        };
        let qpn = self.fresh_qpn(now);
        let ours = SocketAddr::new(self.ports[made.port].ip, PORT);
        let first = Psn::new(self.first_psn.unwrap_or_else(|| self.random.u32(..)));
        let recvs = demand.recvs as usize;
        let limits = Limits {
            sends: demand.sends.clamp(2, SENDS_MAX),
            sges: 1024,
            reads: demand.reads.min(u32::from(READS_MAX)),
            invalidate: true,
            grant_bufs: GRANT_BUFS_MAX,
            message_len: MESSAGE_MAX,
        };
        let qp = Qp {
            id,
            state: made.state,
            qpn,
            cm: None,
            route: Route {
                port: made.port,
                to: made.to,
                flow: Flow::new(ours, made.to.ip()),
            },
            inward: (PORT, Flow::new(made.to, ours.ip())),
            local: made.local,
            peer: made.peer,
            requester: Requester::new(id, 0, made.mtu, first, 0),
            responder: Responder::new(id, 0, made.mtu, first, recvs, made.reads_in),
            grants: Grants::new(),
            limits,
            private: PrivateData::new(&[]),
            ours: false,
            ready: false,
        };
        self.by_qpn.insert(qpn, slot);
        self.slots[slot as usize].1 = Some(Box::new(qp));
        id
    }

    /// Refuses a request.
    pub fn reject(&mut self, incoming: &Incoming, private: &[u8]) {
        self.cm.reject(incoming, RejectReason::CONSUMER, private);
    }

    /// Refuses a request whose peer may not know a connection of the same queue pair any more.
    pub fn reject_stale(&mut self, incoming: &Incoming) {
        self.cm.reject(incoming, RejectReason::STALE, &[]);
    }

    /// Lets the peer of an opened queue pair in.
    pub fn accept(&mut self, id: QpId, private: &[u8], now: Tick) {
        let qp = self.qp_mut(id);
        let State::Opened(incoming) = std::mem::replace(&mut qp.state, State::Accepting) else {
            panic!("a queue pair is accepted once, and was opened");
        };
        let ours = qp.ours();
        let cm = self.cm.accept(now, &incoming, ours, private);
        self.qp_mut(id).cm = Some(cm);
    }

    /// Asks for a connection.
    pub fn connect(&mut self, dial: &Dial<'_>, now: Tick) -> Result<QpId, DialError> {
        if self.full() {
            let text = format!("{CONNECTIONS_MAX} connections");
            return Err(DialError::Resources(text));
        }
        let fits = |port: &Port| match dial.local {
            Some(ip) => port.ip == ip,
            None => port.ip.is_ipv4() == dial.peer.is_ipv4(),
        };
        let port = self.ports.iter().position(fits).ok_or(DialError::NoRoute)?;
        let Port { ip, mtu } = self.ports[port];
        if ip.is_ipv4() != dial.peer.is_ipv4() || ip == dial.peer.ip() {
            return Err(DialError::NoRoute);
        }
        let mut to = dial.peer;
        to.set_port(PORT);
        let made = Made {
            port,
            to,
            local: SocketAddr::new(ip, 0),
            peer: dial.peer,
            mtu,
            state: State::Connecting,
            reads_in: READS_MAX,
        };
        let id = self.make(made, &dial.demand, now);
        let target = Target {
            port,
            local: ip,
            peer: dial.peer,
            mtu,
        };
        let ours = self.qp(id).ours();
        let cm = self.cm.connect(now, ours, target, dial.private);
        self.qp_mut(id).cm = Some(cm);
        Ok(id)
    }

    /// What a queue pair can do.
    pub fn limits(&self, id: QpId) -> Limits {
        self.qp(id).limits
    }

    /// Our end.
    pub fn local(&self, id: QpId) -> SocketAddr {
        self.qp(id).local
    }

    /// The peer's end.
    pub fn peer(&self, id: QpId) -> SocketAddr {
        self.qp(id).peer
    }

    /// Private data of the peer's answer.
    pub fn private(&self, id: QpId) -> PrivateData {
        self.qp(id).private
    }

    /// Posts a RECV.
    pub fn post_recv(&mut self, id: QpId, buf: Option<Buf>) {
        let qp = self.qp_mut(id);
        if let State::Down = qp.state {
            self.events.extend(buf.map(|buf| Event::Unposted { buf }));
        } else {
            qp.responder.post(buf);
        }
    }

    /// Posts an answer.
    pub fn answer(&mut self, id: QpId, answer: Answer) {
        self.post(id, |qp| qp.requester.answer(answer));
    }

    /// Posts a message.
    pub fn send(&mut self, id: QpId, message: Message) {
        self.post(id, |qp| qp.requester.message(message));
    }

    /// Posts a READ.
    pub fn read(&mut self, id: QpId, read: Read) {
        self.post(id, |qp| qp.requester.read(read));
    }

    fn post(&mut self, id: QpId, post: impl FnOnce(&mut Qp)) {
        let qp = self.qp_mut(id);
        post(qp);
        match qp.state {
            State::Up => self.list(id.slot),
            State::Down => {
                let (_, qp) = &mut self.slots[id.slot as usize];
                let qp = qp.as_mut().expect("it was just used");
                qp.requester.fail(WcStatus::Flushed, &mut self.events);
            }
            // They leave when it is connected.
            State::Opened(_) | State::Connecting | State::Accepting => {}
        }
    }

    /// Lets the peer reach some memory.
    pub fn grant(&mut self, id: QpId, bufs: BufList, access: Access) -> Result<Remote, BufList> {
        let random = self.random.u16(..);
        let qp = self.qp_mut(id);
        // It may be about to go, and then nobody would give this back.
        if let State::Down = qp.state {
            return Err(bufs);
        }
        qp.grants.grant(bufs, access, random)
    }

    /// Takes memory back.
    pub fn revoke(&mut self, id: QpId, key: u32) -> Option<BufList> {
        let qp = self.qp_mut(id);
        let bufs = qp.grants.revoke(key);
        if let State::Down = qp.state
            && bufs.is_some()
            && qp.grants.held() == 0
        {
            self.going.push_back(id.slot);
        }
        bufs
    }

    /// Ends a connection.
    pub fn close(&mut self, id: QpId, now: Tick) {
        let qp = self.qp(id);
        match qp.state {
            State::Down => return,
            // What was taken is acknowledged before the peer hears that this is the end: a peer that takes its time to
            // look at a DREQ would send it again meanwhile.
            State::Up => {
                let ack = qp.responder.owed_ack().map(|head| (qp.route, head));
                self.last_words.extend(ack);
            }
            State::Opened(_) | State::Connecting | State::Accepting => {}
        }
        self.down(id, WcStatus::Flushed, None, now);
    }

    /// A connection is over: what is posted comes back, and who asks is told why.
    fn down(&mut self, id: QpId, status: WcStatus, why: Option<Why>, now: Tick) {
        let (_, qp) = &mut self.slots[id.slot as usize];
        let qp = qp.as_mut().expect("it is there");
        match std::mem::replace(&mut qp.state, State::Down) {
            State::Down => return,
            State::Opened(incoming) => {
                self.cm.reject(&incoming, RejectReason::NO_RESOURCES, &[]);
            }
            State::Connecting | State::Accepting | State::Up => {}
        }
        if let Some(cm) = qp.cm.take() {
            self.cm.disconnect(now, cm);
        }
        qp.requester.fail(status, &mut self.events);
        qp.responder.fail(&mut self.events);
        qp.grants.close();
        if let Some(why) = why {
            self.events.push_back(Event::Disconnected { qp: id, why });
        }
        if qp.grants.held() == 0 {
            self.going.push_back(id.slot);
        }
    }

    /// The next thing that happened, among what was received until now.
    pub fn poll(&mut self, now: Tick) -> Option<Event> {
        if let Some(event) = self.events.pop_front() {
            return Some(event);
        }
        let slot = self.going.pop_front()?;
        let (generation, qp) = &mut self.slots[slot as usize];
        let qp = qp.take().expect("it goes once");
        *generation = generation.wrapping_add(1);
        self.free.push(slot);
        self.by_qpn.remove(&qp.qpn);
        self.resting.push_back((qp.qpn, now));
        Some(Event::Gone { qp: qp.id })
    }

    /// A datagram came from `from` to our address number `port`. `id` is the IPv4 identification that
    /// a peer like ourselves would have given it.
    pub fn receive(&mut self, now: Tick, port: usize, from: SocketAddr, datagram: &[u8], id: u16) {
        self.counters.received += 1;
        if let Err(why) = self.take(now, port, from, datagram, id) {
            self.counters.drop(why);
        }
    }

    fn take(
        &mut self,
        now: Tick,
        port: usize,
        from: SocketAddr,
        datagram: &[u8],
        id: u16,
    ) -> Result<(), Dropped> {
        let packet = packet::parse(datagram)?;
        let qpn = packet.bth.dest_qpn.get();
        if packet.deth.is_some() || qpn == CM_QPN {
            let flow = Flow::new(from, self.ports[port].ip);
            let mad = management(&packet)?;
            check(&flow, datagram, id, false, &mut self.counters)?;
            let taken = self.cm.on_mad(now, port, from, mad);
            self.on_cm(now);
            return taken;
        }
        let slot = *self.by_qpn.get(&qpn).ok_or(Dropped::Qpn)?;
        let (_, qp) = &mut self.slots[slot as usize];
        let qp = qp.as_mut().expect("its number is known");
        if qp.route.to.ip() != from.ip() || qp.route.port != port {
            return Err(Dropped::Peer);
        }
        if qp.inward.0 != from.port() {
            qp.inward = (from.port(), Flow::new(from, self.ports[port].ip));
        }
        check(&qp.inward.1, datagram, id, qp.ours, &mut self.counters)?;
        match qp.state {
            State::Up => {}
            State::Accepting => {
                let cm = qp.cm.expect("it was accepted");
                self.cm.on_data(cm);
                self.on_cm(now);
            }
            _ => return Err(Dropped::State),
        }
        self.dispatch(now, slot, datagram, &packet)
    }

    /// A packet that is what it says it is.
    fn dispatch(
        &mut self,
        now: Tick,
        slot: u32,
        datagram: &[u8],
        packet: &Packet<'_>,
    ) -> Result<(), Dropped> {
        let (_, qp) = &mut self.slots[slot as usize];
        let qp = &mut **qp.as_mut().expect("its number is known");
        let (events, counters) = (&mut self.events, &mut self.counters);
        let psn = Psn::new(packet.bth.psn.get());
        let id = qp.id;
        let done = match packet.bth.opcode {
            Opcode::ACKNOWLEDGE => {
                let syndrome = packet.aeth.ok_or(Dropped::Short)?.syndrome;
                if let Some(status) = qp.requester.refused(psn, syndrome) {
                    self.down(id, status, Some(Why::Error(status)), now);
                    return Ok(());
                }
                qp.requester.on_ack(now, psn, syndrome, events, counters)
            }
            Opcode::READ_RESPONSE_FIRST
            | Opcode::READ_RESPONSE_MIDDLE
            | Opcode::READ_RESPONSE_LAST
            | Opcode::READ_RESPONSE_ONLY => {
                qp.requester
                    .on_response(now, psn, packet.payload, events, counters)
            }
            Opcode::CONGESTION if packet.bth.ecn & BECN == 0 => Err(Dropped::Stray),
            Opcode::CONGESTION => qp.requester.on_congestion(),
            Opcode::ATOMIC_ACKNOWLEDGE => Err(Dropped::Stray),
            _ => match qp.responder.on_request(
                now,
                datagram,
                packet,
                &mut qp.grants,
                events,
                counters,
            ) {
                Ok(()) => Ok(()),
                Err(Refused::Dropped(why)) => Err(why),
                Err(Refused::Fatal(why, syndrome)) => {
                    self.refuse(id, syndrome, now);
                    return Err(why);
                }
            },
        };
        // A peer without a RECV names a time that may be much sooner than what was due before.
        let due = qp.next_timeout();
        if qp.responder.has_work() || qp.requester.has_work() {
            self.list(slot);
        }
        self.lower_due(due);
        done
    }

    fn lower_due(&mut self, due: Option<Tick>) {
        if self.due.is_none_or(|old| due.is_some_and(|due| due < old)) {
            self.due = due;
        }
    }

    /// The peer broke a rule: it is told which, and that was all.
    fn refuse(&mut self, id: QpId, syndrome: Syndrome, now: Tick) {
        let qp = self.qp(id);
        let nak = (qp.route, qp.responder.nak(syndrome));
        self.last_words.push_back(nak);
        self.down(id, WcStatus::Flushed, Some(Why::Violation), now);
    }

    fn on_cm(&mut self, now: Tick) {
        while let Some(event) = self.cm.events.pop_front() {
            match event {
                CmEvent::Accepted {
                    qp: id,
                    peer,
                    private,
                } => {
                    let qp = self.qp_mut(id);
                    qp.private = private;
                    qp.connect(peer);
                    qp.state = State::Up;
                    self.events.push_back(Event::Established { qp: id });
                    self.list(id.slot);
                }
                CmEvent::Ready { qp: id } => {
                    self.qp_mut(id).state = State::Up;
                    self.events.push_back(Event::Established { qp: id });
                    self.list(id.slot);
                }
                CmEvent::Ended {
                    qp: id,
                    why,
                    private,
                } => {
                    let qp = self.qp_mut(id);
                    qp.private = private;
                    qp.cm = None;
                    self.down(id, WcStatus::Flushed, Some(why), now);
                }
            }
        }
    }

    /// Puts a queue pair on the list of those that send.
    fn list(&mut self, slot: u32) {
        let (_, qp) = &mut self.slots[slot as usize];
        let qp = qp.as_mut().expect("it is there");
        if !qp.ready {
            qp.ready = true;
            self.ready.push_back(slot);
        }
    }

    /// Sends what may be sent, every queue pair a burst at most. False if the outlet was full.
    pub fn transmit(&mut self, now: Tick, outlet: &mut impl Outlet) -> bool {
        // Before the DREQs: what comes after one is not looked at any more.
        while let Some((route, head)) = self.last_words.front() {
            let packet = PacketOut {
                head: *head,
                payload: Payload::EMPTY,
            };
            if outlet.send(route, &[packet]) == 0 {
                return false;
            }
            self.counters.sent += 1;
            self.last_words.pop_front();
        }
        while let Some(out) = self.cm.out.front() {
            let route = Route {
                port: out.port,
                to: out.to,
                flow: Flow::new(SocketAddr::new(self.ports[out.port].ip, PORT), out.to.ip()),
            };
            let packet = mad_packet(&out.mad, self.mad_psn);
            if outlet.send(&route, &[packet]) == 0 {
                return false;
            }
            self.counters.sent += 1;
            self.mad_psn = self.mad_psn.plus(1);
            self.cm.out.pop_front();
        }
        // Who has little to send does not wait for those who have much. If there was not room for all, each has its turn.
        if self.ready.len() > 1 && !std::mem::take(&mut self.cut) {
            for _ in 0..self.ready.len() {
                let slot = self.ready.pop_front().expect("as many as there were");
                let (_, qp) = &self.slots[slot as usize];
                if qp.as_ref().is_some_and(|qp| qp.requester.unsent() > LITTLE) {
                    self.ready.push_back(slot);
                } else if !self.send_burst(slot, now, outlet) {
                    return false;
                }
            }
        }
        for _ in 0..self.ready.len() {
            let slot = self.ready.pop_front().expect("as many as there were");
            if !self.send_burst(slot, now, outlet) {
                return false;
            }
        }
        true
    }

    /// Sends what a queue pair may send, a burst at most. False if the outlet was full.
    fn send_burst(&mut self, slot: u32, now: Tick, outlet: &mut impl Outlet) -> bool {
        let (_, qp) = &mut self.slots[slot as usize];
        // It may have gone, and its slot have been used again: then this is one look too many.
        let Some(qp) = qp else { return true };
        qp.ready = false;
        let State::Up = qp.state else { return true };
        let (wanted, sent) = {
            let mut burst = Burst::default();
            qp.responder.burst(&qp.grants, &mut burst);
            qp.requester.burst(&mut burst);
            let packets = burst.packets();
            let sent = if packets.is_empty() {
                0
            } else {
                outlet.send(&qp.route, packets)
            };
            (packets.len(), sent)
        };
        self.counters.sent += sent as u64;
        let left = qp.responder.sent(sent, &qp.grants);
        qp.requester.sent(left, now, &mut self.counters);
        let due = qp.requester.next_timeout();
        if qp.responder.has_work() || qp.requester.has_work() {
            self.list(slot);
        }
        self.lower_due(due);
        self.cut = sent < wanted;
        !self.cut
    }

    /// Does what is due. `caught_up` says that no packets wait to be looked at.
    pub fn on_time(&mut self, now: Tick, caught_up: bool) {
        if self.cm.next_timeout().is_some_and(|due| due <= now) {
            self.cm.on_time(now);
            self.on_cm(now);
        }
        if self.due.is_none_or(|due| due > now) {
            return;
        }
        self.due = None;
        for slot in 0..self.slots.len() as u32 {
            let (_, Some(qp)) = &mut self.slots[slot as usize] else {
                continue;
            };
            let State::Up = qp.state else { continue };
            let id = qp.id;
            if qp.requester.next_timeout().is_some_and(|due| due <= now) {
                match qp.requester.on_time(now, caught_up, &mut self.counters) {
                    Ok(()) => self.list(slot),
                    Err(status) => self.down(id, status, Some(Why::Error(status)), now),
                }
            }
            let (_, Some(qp)) = &mut self.slots[slot as usize] else {
                continue;
            };
            qp.responder.on_time(now, &mut self.counters);
            let (due, works) = (qp.next_timeout(), qp.responder.has_work());
            if works {
                self.list(slot);
            }
            self.lower_due(due);
        }
    }

    /// When [`Device::on_time`] may have something to do.
    pub fn next_timeout(&self) -> Option<Tick> {
        match (self.due, self.cm.next_timeout()) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// True if something can be polled or sent now.
    pub fn has_work(&self) -> bool {
        !(self.events.is_empty()
            && self.going.is_empty()
            && self.ready.is_empty()
            && self.last_words.is_empty()
            && self.cm.out.is_empty())
    }

    /// True if an event waits to be polled.
    pub fn has_events(&self) -> bool {
        !(self.events.is_empty() && self.going.is_empty())
    }

    /// True if a peer has not answered yet that it knows of the end of a connection.
    pub fn is_parting(&self) -> bool {
        self.cm.is_parting()
    }

    /// Queue pairs there are.
    pub fn queue_pairs(&self) -> usize {
        self.by_qpn.len()
    }

    fn qp(&self, id: QpId) -> &Qp {
        let (generation, qp) = &self.slots[id.slot as usize];
        assert!(
            *generation == id.generation,
            "a queue pair that is gone was used"
        );
        qp.as_ref().expect("it has not gone")
    }

    fn qp_mut(&mut self, id: QpId) -> &mut Qp {
        let (generation, qp) = &mut self.slots[id.slot as usize];
        assert!(
            *generation == id.generation,
            "a queue pair that is gone was used"
        );
        qp.as_mut().expect("it has not gone")
    }
}

/// What a queue pair is made of.
struct Made {
    port: usize,
    to: SocketAddr,
    local: SocketAddr,
    peer: SocketAddr,
    mtu: Mtu,
    state: State,
    reads_in: u8,
}

impl Qp {
    /// The peer is known.
    fn connect(&mut self, peer: Peer) {
        self.limits.reads = self.limits.reads.min(u32::from(peer.reads_max));
        self.requester.connect(&peer, self.limits.reads as usize);
        self.responder.connect(&peer);
        self.ours = peer.ours;
    }

    fn next_timeout(&self) -> Option<Tick> {
        match (self.requester.next_timeout(), self.responder.next_timeout()) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    fn ours(&self) -> Ours {
        Ours {
            qp: self.id,
            qpn: self.qpn,
            recv_psn: self.responder.expected(),
            responder_resources: self.responder.reads_max(),
            initiator_depth: self.limits.reads as u8,
        }
    }
}

/// The management datagram in a packet.
pub(crate) fn management<'a>(packet: &Packet<'a>) -> Result<&'a [u8], Dropped> {
    let deth = packet.deth.ok_or(Dropped::Mad)?;
    if packet.bth.dest_qpn.get() != CM_QPN || deth.qkey.get() != CM_QKEY {
        return Err(Dropped::Mad);
    }
    Ok(packet.payload)
}

/// The ICRC, with the IPv4 identification that is expected. Another one is computed from it and accepted, at the price of
/// 16 of its 32 bits; but one of ours is 0 or the number of a piece of what the system cut, so that of its packets 26 are
/// checked.
fn check(
    flow: &Flow,
    datagram: &[u8],
    id: u16,
    ours: bool,
    counters: &mut Counters,
) -> Result<(), Dropped> {
    match flow.check(datagram, id) {
        Checked::Whole => Ok(()),
        Checked::WithId(id) if ours && usize::from(id) >= BURST_MAX => Err(Dropped::Icrc),
        Checked::WithId(_) => {
            counters.ids_recovered += 1;
            Ok(())
        }
        Checked::Damaged => Err(Dropped::Icrc),
    }
}

/// The packet of a management datagram.
pub fn mad_packet(mad: &Mad, psn: Psn) -> PacketOut<'_> {
    PacketOut {
        head: Head::new(Opcode::UD_SEND_ONLY, CM_QPN, psn, mad.len()).deth(CM_QKEY, CM_QPN),
        payload: Payload::of_bytes(mad),
    }
}

/// Spreads queue pair numbers, which are random anyway.
#[derive(Default)]
struct Mix(u64);

impl Hasher for Mix {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u32(&mut self, number: u32) {
        self.0 = u64::from(number);
    }

    fn finish(&self) -> u64 {
        self.0.wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }
}
