//! A peer that means no good: packets with any opcode, number, key and length, in the right flow and
//! with a right ICRC, at queue pairs in every state. Nothing panics, memory beyond what was granted
//! is never touched, and every Buf comes home.
//!
//! A packet that is dropped changes a counter and nothing else; what breaks a rule is answered with the NAK the
//! specification has for it.
//!
//! `FERROCE_SEEDS=100000 cargo test -p ferroce-transport --test roce_forged` runs as long as asked;
//! `FERROCE_SEED=N` runs one.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;

use ferroce_buf::{BufList, Class, Home, Pool, Region, Want};
use ferroce_engine::port::Tick;
use ferroce_transport::rdma::provider::{
    Access, Answer, Demand, Dial, Event, Message, QpId, Read, Remote, WcStatus, Why,
};

use ferroce_transport::roce::cm::{Front, Heard};
use ferroce_transport::roce::counters::{Counters, Dropped};
use ferroce_transport::roce::device::{Device, Port};
use ferroce_transport::roce::icrc::Flow;
use ferroce_transport::roce::mad::{self, Message as Mad};
use ferroce_transport::roce::packet::{self, Head, Mtu, Psn};
use ferroce_transport::roce::payload::{Outlet, PacketOut, Route};
use ferroce_wire::roce::{CM_QKEY, CM_QPN, Opcode, PORT, Syndrome};

fn seeds() -> Range<u64> {
    let of = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    match of("FERROCE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..of("FERROCE_SEEDS").unwrap_or(100),
    }
}

const DEMAND: Demand = Demand {
    recvs: 4,
    recv_data: 4096,
    sends: 16,
    reads: 4,
};

/// An address that both ends have besides their own, and do not use.
const OTHER_PORT: Port = Port {
    ip: IpAddr::V4(Ipv4Addr::new(10, 1, 0, 1)),
    mtu: Mtu::MIN,
};

/// Keeps what an end sends.
struct Caught(Vec<Vec<u8>>);

impl Outlet for Caught {
    fn send(&mut self, route: &Route, packets: &[PacketOut<'_>]) -> usize {
        for packet in packets {
            let mut datagram = packet.head.bytes().to_vec();
            datagram.extend(packet.payload.to_vec());
            datagram.resize(datagram.len() + packet::pad(packet.payload.len()), 0);
            seal(&mut datagram, &route.flow);
            self.0.push(datagram);
        }
        packets.len()
    }
}

fn seal(datagram: &mut Vec<u8>, flow: &Flow) {
    let icrc = flow.icrc(0, &datagram[..12], std::iter::once(&datagram[12..]));
    datagram.extend(icrc.to_le_bytes());
}

struct End {
    device: Device,
    pool: Pool,
    address: SocketAddr,
    qp: Option<QpId>,
    up: bool,
    grants: Vec<Remote>,
    /// Messages that came.
    heard: u32,
    /// Why it was over.
    over: Option<Why>,
}

impl End {
    fn new(address: &str, seed: u64) -> End {
        let address = SocketAddr::new(address.parse().expect("an address"), PORT);
        let class = Class {
            size: 8192,
            count: 512,
        };
        let region = Region::map(Pool::bytes(&[class]), Want::default()).expect("memory");
        let mtu = Mtu::MIN;
        let ip = address.ip();
        End {
            device: Device::new(vec![Port { ip, mtu }, OTHER_PORT], seed, 0, 1, seed),
            pool: Pool::new(Arc::new(region), 0, Home::CORE, &[class]),
            address,
            qp: None,
            up: false,
            grants: Vec::new(),
            heard: 0,
            over: None,
        }
    }

    fn bufs(&mut self, len: usize) -> BufList {
        let mut list = BufList::new();
        let mut buf = self
            .pool
            .take(len.max(1))
            .expect("the pool is large enough");
        buf.truncate(len);
        list.push(buf);
        list
    }

    fn post_recv(&mut self, qp: QpId) {
        let mut buf = self.pool.take(4096).expect("memory");
        buf.truncate(4096);
        self.device.post_recv(qp, Some(buf));
    }

    fn give_up(&mut self, qp: QpId) {
        self.up = false;
        for grant in std::mem::take(&mut self.grants) {
            let bufs = self.device.revoke(qp, grant.key).expect("it was granted");
            self.pool.put_all(bufs);
        }
    }

    fn events(&mut self, now: Tick) {
        while let Some(event) = self.device.poll(now) {
            match event {
                Event::Established { .. } => self.up = true,
                Event::Received { qp, len, buf, .. } => {
                    assert!(len <= 64 + 4096);
                    self.pool.put(buf.expect("each RECV has a Buf"));
                    self.heard += 1;
                    self.post_recv(qp);
                }
                Event::Sent { bufs, .. } | Event::ReadDone { bufs, .. } => self.pool.put_all(bufs),
                Event::Unposted { buf } => self.pool.put(buf),
                Event::Disconnected { qp, why } => {
                    self.over = Some(why);
                    self.give_up(qp);
                }
                Event::Gone { .. } => self.qp = None,
            }
        }
    }

    /// Something to be out when the next packet comes.
    fn work(&mut self, random: &mut fastrand::Rng) {
        let Some(qp) = self.qp.filter(|_| self.up) else {
            return;
        };
        let remote = Remote {
            addr: random.u64(..),
            key: random.u32(..),
        };
        let len = random.usize(..2000);
        if self.pool.free(8192) < 64 {
            return;
        }
        let bufs = self.bufs(len);
        match random.u8(..5) {
            0 => self.device.read(
                qp,
                Read {
                    tag: 1,
                    remote,
                    bufs,
                },
            ),
            1 => self.device.send(
                qp,
                Message {
                    tag: 2,
                    head: [7; 64],
                    bufs,
                },
            ),
            2 => {
                let access = if random.bool() {
                    Access::Read
                } else {
                    Access::Write
                };
                match self.device.grant(qp, bufs, access) {
                    Ok(grant) => self.grants.push(grant),
                    Err(bufs) => self.pool.put_all(bufs),
                }
            }
            _ => {
                let answer = Answer {
                    tag: 3,
                    remote,
                    bufs,
                    capsule: Some([5; 16]),
                    invalidate: random.bool().then_some(remote.key),
                };
                self.device.answer(qp, answer);
            }
        }
    }
}

/// Two ends, connected or nearly, with work of `random` meanwhile; without it connected and quiet.
fn connected(seed: u64, random: Option<&mut fastrand::Rng>) -> ([End; 2], Vec<Vec<u8>>) {
    connected_by(seed, random, |_| {})
}

/// The same, with the datagrams of the handshake changed on their way.
fn connected_by(
    seed: u64,
    random: Option<&mut fastrand::Rng>,
    change: impl Fn(&mut Vec<u8>),
) -> ([End; 2], Vec<Vec<u8>>) {
    let mut ends = [End::new("10.0.0.2", seed), End::new("10.0.0.1", seed + 1)];
    let service = SocketAddr::new(ends[1].address.ip(), 4420);
    let mut front = Front::new(vec![service]);
    let dial = Dial {
        local: None,
        peer: service,
        private: b"",
        demand: DEMAND,
    };
    let now = Tick(1);
    let mut random = random;
    let qp = ends[0].device.connect(&dial, now).expect("there is room");
    ends[0].qp = Some(qp);
    (0..4).for_each(|_| ends[0].post_recv(qp));
    let mut seen = Vec::new();
    // Now and then the handshake is left unfinished.
    let steps = match &mut random {
        Some(random) => match random.u8(..4) {
            0 => random.usize(..3),
            _ => 8,
        },
        None => 8,
    };
    for step in 0..steps {
        let who = step % 2;
        let mut caught = Caught(Vec::new());
        ends[who].device.transmit(now, &mut caught);
        for datagram in caught.0 {
            let (from, to) = (ends[who].address, 1 - who);
            let flow = Flow::new(from, ends[to].address.ip());
            let datagram = changed(&datagram, &flow, &change);
            seen.push(datagram.clone());
            let parsed = packet::parse(&datagram).expect("ours are proper");
            if let Some((tid, Mad::Req(req))) = mad::parse(parsed.payload) {
                let local = (0, service.ip(), Mtu::MAX);
                let Heard::Incoming(incoming) = front.on_req(now, local, from, (tid, req)) else {
                    panic!("the request is proper")
                };
                let end = &mut ends[1];
                let qp = end
                    .device
                    .open(incoming, &DEMAND, now)
                    .expect("there is room");
                end.qp = Some(qp);
                (0..4).for_each(|_| end.post_recv(qp));
                end.device.accept(qp, b"", now);
            } else {
                ends[to].device.receive(now, 0, from, &datagram, 0);
            }
        }
        for end in &mut ends {
            end.events(now);
            if let Some(random) = &mut random {
                end.work(random);
            }
        }
    }
    (ends, seen)
}

/// One of the packets seen, with bits of its headers flipped and a length that may not fit.
fn forge(seen: &[Vec<u8>], flow: &Flow, random: &mut fastrand::Rng) -> Vec<u8> {
    let mut datagram = seen[random.usize(..seen.len())].clone();
    datagram.truncate(datagram.len() - 4);
    if random.bool() {
        datagram[0] = random.u8(..0x20);
    }
    match random.u8(..4) {
        // Near what is expected.
        0 => datagram[11] = datagram[11].wrapping_add(random.u8(..8)),
        1 => datagram[11] = random.u8(..),
        _ => {}
    }
    for _ in 0..random.usize(..4) {
        let at = random.usize(8..datagram.len().min(44));
        datagram[at] ^= 1 << random.u8(..8);
    }
    if random.u8(..4) == 0 {
        let words = random.usize(3..300);
        datagram.resize(words * 4, 0x5A);
    }
    seal(&mut datagram, flow);
    datagram
}

fn attack(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut ends, mut seen) = connected(seed, Some(&mut random));
    let mut now = Tick(1000);
    for _ in 0..200 {
        let who = random.usize(..2);
        if !seen.is_empty() {
            let from = ends[1 - who].address;
            let flow = Flow::new(from, ends[who].address.ip());
            let datagram = forge(&seen, &flow, &mut random);
            ends[who].device.receive(now, 0, from, &datagram, 0);
        }
        ends[who].work(&mut random);
        ends[who].events(now);
        let mut caught = Caught(Vec::new());
        ends[who].device.transmit(now, &mut caught);
        // An honest answer now and then, so that there is something to be broken.
        for datagram in &caught.0 {
            if random.bool() {
                let from = ends[who].address;
                ends[1 - who].device.receive(now, 0, from, datagram, 0);
            }
        }
        seen.extend(caught.0);
        if seen.len() > 200 {
            seen.drain(..100);
        }
        now = now.plus_ns(random.u64(..20_000_000));
        ends[who].device.on_time(now, true);
    }
    for end in &mut ends {
        end.events(now);
        if let Some(qp) = end.qp {
            end.device.close(qp, now);
            end.give_up(qp);
        }
        end.events(now);
        assert_eq!(end.device.queue_pairs(), 0);
        assert_eq!(end.pool.out(), 0, "Bufs are lost");
    }
}

#[test]
fn whatever_a_peer_sends() {
    for seed in seeds() {
        if let Err(cause) = std::panic::catch_unwind(|| attack(seed)) {
            eprintln!("seed {seed}");
            std::panic::resume_unwind(cause);
        }
    }
}

#[test]
fn a_peer_that_is_not_ready_is_tried_again_when_it_says() {
    let ([mut host, mut target], _) = connected(1, None);
    let qp = host.qp.filter(|_| host.up).expect("it is connected");
    let now = Tick(1000);
    // The target has four RECVs, and does not look at what came.
    for tag in 0..5 {
        let message = Message {
            tag,
            head: [7; 64],
            bufs: BufList::new(),
        };
        host.device.send(qp, message);
    }
    let mut caught = Caught(Vec::new());
    host.device.transmit(now, &mut caught);
    for datagram in caught.0 {
        target.device.receive(now, 0, host.address, &datagram, 0);
    }
    let mut caught = Caught(Vec::new());
    target.device.transmit(now, &mut caught);
    for datagram in caught.0 {
        host.device.receive(now, 0, target.address, &datagram, 0);
    }
    // It said 640 us, which is much less than a late acknowledgement would have taken.
    assert_eq!(host.device.next_timeout(), Some(now.plus_ns(640_000)));
}

#[test]
fn what_was_taken_is_acknowledged_before_the_end() {
    let ([mut host, mut target], _) = connected(1, None);
    let qp = target.qp.filter(|_| target.up).expect("it is connected");
    let now = Tick(1000);
    let message = Message {
        tag: 0,
        head: [7; 64],
        bufs: BufList::new(),
    };
    target.device.send(qp, message);
    let mut caught = Caught(Vec::new());
    target.device.transmit(now, &mut caught);
    let [datagram] = &caught.0[..] else {
        panic!("one message is one packet")
    };
    host.device.receive(now, 0, target.address, datagram, 0);
    host.device.close(host.qp.expect("it has one"), now);
    let mut caught = Caught(Vec::new());
    host.device.transmit(now, &mut caught);
    let opcodes: Vec<_> = caught
        .0
        .iter()
        .map(|datagram| packet::parse(datagram).expect("ours are proper").bth.opcode)
        .collect();
    assert_eq!(opcodes, [Opcode::ACKNOWLEDGE, Opcode::UD_SEND_ONLY]);
    target.device.receive(now, 0, host.address, &caught.0[0], 0);
    let sent = target.device.poll(now);
    let status =
        |event: &Event| matches!(event, Event::Sent { status, .. } if *status == WcStatus::Success);
    assert!(sent.as_ref().is_some_and(status), "{sent:?}");
}

const NOW: Tick = Tick(1000);

impl End {
    /// What it sends now.
    fn sends(&mut self, now: Tick) -> Vec<Vec<u8>> {
        let mut caught = Caught(Vec::new());
        self.device.transmit(now, &mut caught);
        caught.0
    }

    /// So many messages of its own, as packets.
    fn messages(&mut self, count: u32) -> Vec<Vec<u8>> {
        let qp = self.qp.filter(|_| self.up).expect("it is connected");
        for tag in 0..count {
            let message = Message {
                tag,
                head: [7; 64],
                bufs: BufList::new(),
            };
            self.device.send(qp, message);
        }
        let packets = self.sends(NOW);
        assert_eq!(packets.len(), count as usize);
        packets
    }

    fn grant(&mut self, access: Access) -> Remote {
        let bufs = self.bufs(512);
        let qp = self.qp.expect("it has one");
        let grant = self.device.grant(qp, bufs, access).expect("there is room");
        self.grants.push(grant);
        grant
    }

    /// All of its state but the counters, and these.
    fn state(&mut self) -> (String, Counters) {
        let counters = std::mem::take(&mut self.device.counters);
        (format!("{:?}", self.device), counters)
    }
}

/// Whom a packet is for, and which is expected next there.
fn goes_to(datagram: &[u8]) -> (u32, Psn) {
    let bth = packet::parse(datagram).expect("ours are proper").bth;
    (bth.dest_qpn.get(), Psn::new(bth.psn.get()))
}

/// The syndrome of an acknowledgement, and of which packet it is.
fn acknowledges(datagram: &[u8]) -> Option<(Syndrome, Psn)> {
    let packet = packet::parse(datagram).expect("ours are proper");
    let psn = Psn::new(packet.bth.psn.get());
    let acks = packet.bth.opcode == Opcode::ACKNOWLEDGE;
    packet
        .aeth
        .filter(|_| acks)
        .map(|aeth| (aeth.syndrome, psn))
}

/// A packet with a right ICRC.
fn sealed(head: &Head, payload: usize, flow: &Flow) -> Vec<u8> {
    let mut datagram = head.bytes().to_vec();
    datagram.resize(datagram.len() + payload.next_multiple_of(4), 0x5A);
    seal(&mut datagram, flow);
    datagram
}

/// The same packet with something in it changed, and a right ICRC.
fn changed(datagram: &[u8], flow: &Flow, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut datagram = datagram[..datagram.len() - 4].to_vec();
    change(&mut datagram);
    seal(&mut datagram, flow);
    datagram
}

#[test]
fn what_is_dropped_changes_a_counter_and_nothing_else() {
    let ([mut host, mut target], _) = connected(1, None);
    let (to, from) = (host.address, target.address);
    let flow = Flow::new(from, to.ip());
    let stranger = SocketAddr::new("10.0.0.9".parse().expect("an address"), PORT);
    // The host has heard one message, and has one out of two acknowledged.
    let first = target.messages(1).remove(0);
    host.device.receive(NOW, 0, from, &first, 0);
    host.events(NOW);
    host.sends(NOW);
    let out = host.messages(2);
    let (_, own) = goes_to(&out[0]);
    let next = target.messages(1).remove(0);
    let (qpn, psn) = goes_to(&next);
    let ack = |psn, syndrome| {
        let head = Head::new(Opcode::ACKNOWLEDGE, qpn, psn, 0).aeth(syndrome, 1);
        sealed(&head, 0, &flow)
    };
    host.device
        .receive(NOW, 0, from, &ack(own, Syndrome::ACK), 0);
    host.events(NOW);

    let head = |opcode, psn| Head::new(opcode, qpn, psn, 0);
    let response =
        Head::new(Opcode::READ_RESPONSE_ONLY, qpn, own.plus(2), 4).aeth(Syndrome::ACK, 1);
    let mad = |qkey, qpn| Head::new(Opcode::UD_SEND_ONLY, qpn, psn, 256).deth(qkey, CM_QPN);
    let at = |index: usize, byte: u8| changed(&next, &flow, |datagram| datagram[index] = byte);
    let broken = |at: usize| {
        let mut datagram = next.clone();
        datagram[at] ^= 1;
        datagram
    };
    let congestion = |becn| {
        let cnp = sealed(&head(Opcode::CONGESTION, Psn::new(0)), 16, &flow);
        changed(&cnp, &flow, |datagram| datagram[4] = becn)
    };
    // Whom it says it is from, our address it came to, it, and what it is dropped as.
    let mut table: Vec<(SocketAddr, usize, Vec<u8>, Dropped)> = Vec::new();
    let mut case = |datagram: Vec<u8>, why| table.push((from, 0, datagram, why));
    // BTH and ICRC are 16 bytes, and words are whole.
    for len in 0..next.len() {
        let proper = len >= 16 && len.is_multiple_of(4);
        let why = if proper {
            Dropped::Icrc
        } else {
            Dropped::Short
        };
        case(next[..len].to_vec(), why);
    }
    for opcode in [
        Opcode::WRITE_ONLY,
        Opcode::READ_REQUEST,
        Opcode::COMPARE_SWAP,
    ] {
        case(sealed(&head(opcode, psn), 12, &flow), Dropped::Short);
    }
    case(
        sealed(&head(Opcode::ACKNOWLEDGE, own), 0, &flow),
        Dropped::Short,
    );
    (12..next.len()).for_each(|at| case(broken(at), Dropped::Icrc));
    case(at(1, 0x41), Dropped::Version);
    case(at(2, 0x12), Dropped::Partition);
    case(at(0, 0x24), Dropped::Opcode);
    case(at(0, 0x12), Dropped::Opcode);
    case(at(5, next[5] ^ 1), Dropped::Qpn);
    case(first.clone(), Dropped::Duplicate);
    for syndrome in [
        Syndrome::ACK,
        Syndrome::NAK_SEQUENCE,
        Syndrome::NAK_ACCESS,
        Syndrome::rnr(1),
    ] {
        case(ack(own, syndrome), Dropped::Duplicate);
        case(ack(own.plus(2), syndrome), Dropped::Stray);
        case(ack(own.plus(1 << 22), syndrome), Dropped::Stray);
    }
    case(ack(own.plus(1), Syndrome(0x40)), Dropped::Stray);
    case(sealed(&response, 4, &flow), Dropped::Stray);
    case(congestion(0), Dropped::Stray);
    // A request as far ahead as nobody is, in the half of all numbers that is not behind.
    for ahead in [4097, 1 << 20, (1 << 23) - 1] {
        let datagram = sealed(&head(Opcode::SEND_ONLY, psn.plus(ahead)), 64, &flow);
        case(datagram, Dropped::Stray);
    }
    case(sealed(&mad(CM_QKEY ^ 1, CM_QPN), 256, &flow), Dropped::Mad);
    case(sealed(&mad(CM_QKEY, qpn), 256, &flow), Dropped::Mad);
    case(sealed(&mad(CM_QKEY, CM_QPN), 256, &flow), Dropped::Mad);
    // What is right but for whom it is from, or which way it came.
    let elsewhere = changed(&next, &Flow::new(stranger, to.ip()), |_| {});
    table.push((stranger, 0, elsewhere, Dropped::Peer));
    let elsewhere = changed(&next, &Flow::new(from, OTHER_PORT.ip), |_| {});
    table.push((from, 1, elsewhere, Dropped::Peer));

    // Packets that come later, break a rule, or are the connection manager's: other tests have them.
    let elsewhere = [
        Dropped::State,
        Dropped::Gap,
        Dropped::ReadOrder,
        Dropped::Invalid,
        Dropped::Access,
        Dropped::NotReady,
        Dropped::CmUnknown,
        Dropped::CmState,
        Dropped::CmFlood,
        Dropped::Injected,
    ];
    for why in Dropped::ALL {
        let here = table.iter().any(|(.., dropped)| dropped == why);
        assert!(here != elsewhere.contains(why), "{why:?}");
    }
    for (from, port, datagram, why) in &table {
        let (before, _) = host.state();
        host.device.receive(NOW, *port, *from, datagram, 0);
        // A request that comes again is acknowledged again, once.
        if *why == Dropped::Duplicate && datagram == &first {
            let sent = host.sends(NOW);
            assert_eq!(sent.len(), 1);
            assert_eq!(acknowledges(&sent[0]), Some((Syndrome::ACK, psn.before())));
        }
        let (after, counters) = host.state();
        assert!(before == after, "{why:?}: {datagram:?}");
        counters.each(&mut |name, count| {
            let expected = match name {
                "received" => 1,
                "sent" => u64::from(*datagram == first),
                _ => u64::from(name == why.counter()),
            };
            assert_eq!(count, expected, "{name}, for {why:?}: {datagram:?}");
        });
    }
    // All of it together leads to nothing later, and what is honest goes on.
    let late = NOW.plus_ns(150_000);
    host.device.on_time(late, true);
    assert!(host.sends(late).is_empty());
    host.device.receive(late, 0, from, &next, 0);
    host.events(late);
    assert_eq!((host.heard, host.over), (2, None));
    // Congestion is no news to who has nothing out.
    host.device
        .receive(late, 0, from, &ack(own.plus(1), Syndrome::ACK), 0);
    host.events(late);
    host.sends(late);
    let (before, _) = host.state();
    host.device.receive(late, 0, from, &congestion(0x40), 0);
    let (after, counters) = host.state();
    assert!(before == after);
    assert_eq!(counters.dropped(Dropped::Stray), 1);
    // Who is on the way out hears nothing any more.
    host.grant(Access::Read);
    host.device.close(host.qp.expect("it has one"), late);
    host.sends(late);
    let next = target.messages(1).remove(0);
    let (before, _) = host.state();
    host.device.receive(late, 0, from, &next, 0);
    let (after, counters) = host.state();
    assert!(before == after);
    assert_eq!(counters.dropped(Dropped::State), 1);
}

#[test]
fn what_was_heard_before_changes_nothing() {
    let ([mut host, mut target], mut seen) = connected(2, None);
    for _ in 0..3 {
        let said = host.messages(2);
        for datagram in &said {
            target.device.receive(NOW, 0, host.address, datagram, 0);
        }
        seen.extend(said);
        target.events(NOW);
        let said = target.sends(NOW);
        for datagram in &said {
            host.device.receive(NOW, 0, target.address, datagram, 0);
        }
        seen.extend(said);
        host.events(NOW);
    }
    let ends = [host, target];
    // What was said by the connection manager is said again, and numbered.
    let quiet = |ends: &mut [End; 2]| {
        ends.each_mut().map(|end| {
            let (state, _) = end.state();
            let (before, after) = state.split_once("mad_psn: ").expect("it has one");
            let (_, after) = after.split_once(',').expect("it is not the last");
            [before.to_owned(), after.to_owned()]
        })
    };
    let mut ends = ends;
    let before = quiet(&mut ends);
    for _ in 0..3 {
        for datagram in &seen {
            // It does not matter whose it was.
            for who in [0, 1] {
                let from = ends[1 - who].address;
                ends[who].device.receive(NOW, 0, from, datagram, 0);
                ends[who].sends(NOW);
                ends[who].events(NOW);
            }
        }
    }
    assert!(before == quiet(&mut ends));
    assert_eq!(
        ends.each_ref().map(|end| (end.heard, end.over)),
        [(0, None), (6, None)]
    );
}

/// A packet of a violation: opcode, key and place of its RETH or IETH, and how much it carries.
type Step = (Opcode, Option<(Remote, u32)>, usize);

/// The target sends these packets instead of its own; the last one breaks a rule. What the NAK says, the counter of it,
/// and why it was over at the target.
fn violate(
    steps: impl FnOnce([Remote; 3]) -> Vec<Step>,
) -> (Option<Syndrome>, Counters, [Option<Why>; 2]) {
    let ([mut host, mut target], _) = connected(3, None);
    let (to, from) = (host.address, target.address);
    let flow = Flow::new(from, to.ip());
    // Memory to be written, to be read, and to be written no more.
    let grants = [Access::Write, Access::Read, Access::Write].map(|access| host.grant(access));
    let qp = target.qp.expect("it has one");
    let answer = Answer {
        tag: 0,
        remote: grants[2],
        bufs: BufList::new(),
        capsule: Some([0; 16]),
        invalidate: Some(grants[2].key),
    };
    target.device.answer(qp, answer);
    for datagram in target.sends(NOW) {
        host.device.receive(NOW, 0, from, &datagram, 0);
    }
    host.events(NOW);
    host.sends(NOW);
    host.state();
    // All that it sends by itself is lost; it is the target's own packets that are refused.
    let own = target.messages(24);
    let (qpn, mut psn) = goes_to(&own[0]);
    let steps = steps(grants);
    let last = steps.len() - 1;
    for (i, (opcode, extension, payload)) in steps.into_iter().enumerate() {
        let head = Head::new(opcode, qpn, psn, payload);
        let head = match (opcode, extension) {
            (_, None) => head,
            (Opcode::SEND_ONLY_INVALIDATE | Opcode::SEND_LAST_INVALIDATE, Some((at, _))) => {
                head.ieth(at.key)
            }
            (_, Some((at, len))) => head.reth(at.addr, at.key, len),
        };
        host.device
            .receive(NOW, 0, from, &sealed(&head, payload, &flow), 0);
        if i < last {
            assert_eq!(host.device.queue_pairs(), 1);
            host.events(NOW);
            assert_eq!(host.over, None, "step {i} is proper");
            psn = psn.plus(1);
        }
    }
    let sent = host.sends(NOW);
    host.events(NOW);
    let (_, counters) = host.state();
    for datagram in &sent {
        target.device.receive(NOW, 0, to, datagram, 0);
    }
    target.events(NOW);
    assert_eq!([host.qp, target.qp], [None, None]);
    assert_eq!(
        [host.pool.out(), target.pool.out()],
        [0, 0],
        "Bufs are lost"
    );
    let naks: Vec<_> = sent
        .iter()
        .filter_map(|datagram| acknowledges(datagram))
        .collect();
    let nak = match naks[..] {
        [.., (nak, at)] if at == psn => Some(nak),
        _ => None,
    };
    (nak, counters, [host.over, target.over])
}

#[test]
fn who_breaks_a_rule_is_told_which_and_loses_the_connection() {
    type Steps = fn([Remote; 3]) -> Vec<Step>;
    // As much as a packet carries.
    const MTU: usize = 256;
    fn off(at: Remote, by: i64) -> Remote {
        let addr = at.addr.wrapping_add_signed(by);
        Remote { addr, ..at }
    }
    fn other(at: Remote) -> Remote {
        Remote {
            key: at.key ^ 1,
            ..at
        }
    }
    let access: &[(&str, Steps)] = &[
        ("write, wrong key", |[w, _, _]| {
            vec![(Opcode::WRITE_ONLY, Some((other(w), 8)), 8)]
        }),
        ("write, before its start", |[w, _, _]| {
            vec![(Opcode::WRITE_ONLY, Some((off(w, -1), 8)), 8)]
        }),
        ("write, beyond its end", |[w, _, _]| {
            vec![(Opcode::WRITE_ONLY, Some((off(w, 508), 8)), 8)]
        }),
        ("write, longer than all", |[w, _, _]| {
            vec![(Opcode::WRITE_FIRST, Some((w, 513)), MTU)]
        }),
        ("write, to be read only", |[_, r, _]| {
            vec![(Opcode::WRITE_ONLY, Some((r, 8)), 8)]
        }),
        ("write, invalidated", |[_, _, x]| {
            vec![(Opcode::WRITE_ONLY, Some((x, 8)), 8)]
        }),
        ("read, wrong key", |[_, r, _]| {
            vec![(Opcode::READ_REQUEST, Some((other(r), 8)), 0)]
        }),
        ("read, beyond its end", |[_, r, _]| {
            vec![(Opcode::READ_REQUEST, Some((off(r, 1), 512)), 0)]
        }),
        ("read, to be written only", |[w, _, _]| {
            vec![(Opcode::READ_REQUEST, Some((w, 8)), 0)]
        }),
        ("write, invalidated just before", |[w, _, _]| {
            vec![
                (Opcode::SEND_ONLY_INVALIDATE, Some((w, 0)), 16),
                (Opcode::WRITE_FIRST, Some((w, 512)), MTU),
            ]
        }),
        ("invalidate, no such key", |[w, _, _]| {
            vec![(Opcode::SEND_ONLY_INVALIDATE, Some((other(w), 0)), 16)]
        }),
        ("invalidate, twice", |[_, _, x]| {
            vec![(Opcode::SEND_ONLY_INVALIDATE, Some((x, 0)), 16)]
        }),
    ];
    let invalid: &[(&str, Steps)] = &[
        ("the middle of no send", |_| {
            vec![(Opcode::SEND_MIDDLE, None, MTU)]
        }),
        ("the end of no send", |_| vec![(Opcode::SEND_LAST, None, 8)]),
        ("the middle of no write", |_| {
            vec![(Opcode::WRITE_MIDDLE, None, MTU)]
        }),
        ("the end of no write", |_| {
            vec![(Opcode::WRITE_LAST, None, 8)]
        }),
        ("a send in a send", |_| {
            vec![
                (Opcode::SEND_FIRST, None, MTU),
                (Opcode::SEND_ONLY, None, 8),
            ]
        }),
        ("a write in a send", |[w, _, _]| {
            vec![
                (Opcode::SEND_FIRST, None, MTU),
                (Opcode::WRITE_ONLY, Some((w, 8)), 8),
            ]
        }),
        ("a read in a send", |[_, r, _]| {
            vec![
                (Opcode::SEND_FIRST, None, MTU),
                (Opcode::READ_REQUEST, Some((r, 8)), 0),
            ]
        }),
        ("a write that goes on in a send", |_| {
            vec![
                (Opcode::SEND_FIRST, None, MTU),
                (Opcode::WRITE_MIDDLE, None, MTU),
            ]
        }),
        ("a send that goes on in a write", |[w, _, _]| {
            vec![
                (Opcode::WRITE_FIRST, Some((w, 512)), MTU),
                (Opcode::SEND_LAST, None, 8),
            ]
        }),
        ("a short first packet", |_| {
            vec![(Opcode::SEND_FIRST, None, MTU - 4)]
        }),
        ("a long only packet", |_| {
            vec![(Opcode::SEND_ONLY, None, MTU + 4)]
        }),
        ("an empty last packet", |_| {
            vec![
                (Opcode::SEND_FIRST, None, MTU),
                (Opcode::SEND_LAST, None, 0),
            ]
        }),
        ("a send longer than the RECV", |_| {
            let middle = (Opcode::SEND_MIDDLE, None, MTU);
            let mut steps = vec![middle; 17];
            steps[0].0 = Opcode::SEND_FIRST;
            steps
        }),
        ("a write longer than it says", |[w, _, _]| {
            vec![(Opcode::WRITE_ONLY, Some((w, 8)), 12)]
        }),
        ("a write shorter than it says", |[w, _, _]| {
            vec![
                (Opcode::WRITE_FIRST, Some((w, 512)), MTU),
                (Opcode::WRITE_LAST, None, MTU - 4),
            ]
        }),
        ("a first packet that is all", |[w, _, _]| {
            vec![(Opcode::WRITE_FIRST, Some((w, MTU as u32)), MTU)]
        }),
        ("compare and swap", |_| {
            vec![(Opcode::COMPARE_SWAP, None, 28)]
        }),
        ("fetch and add", |_| vec![(Opcode::FETCH_ADD, None, 28)]),
        ("more reads than may be out", |[_, r, _]| {
            vec![(Opcode::READ_REQUEST, Some((r, 8)), 0); 17]
        }),
    ];
    let refused = |table: &[(&str, Steps)], syndrome, counter, status| {
        for (name, steps) in table {
            let (nak, counters, over) = violate(steps);
            assert_eq!(nak, Some(syndrome), "{name}");
            assert_eq!(counters.dropped(counter), 1, "{name}");
            let why = [Some(Why::Violation), Some(Why::Error(status))];
            assert_eq!(over, why, "{name}");
        }
    };
    refused(
        access,
        Syndrome::NAK_ACCESS,
        Dropped::Access,
        WcStatus::RemoteAccess,
    );
    refused(
        invalid,
        Syndrome::NAK_INVALID,
        Dropped::Invalid,
        WcStatus::RemoteError,
    );
}

/// Takes from a REQ or REP the mark at its end by which our RoCE in software knows its own kind.
fn unmark(datagram: &mut [u8]) {
    if datagram[0] == Opcode::UD_SEND_ONLY.0 {
        let at = datagram.len() - 8;
        datagram[at..].fill(0);
    }
}

/// An end misses the first of three messages: after which time it says so, and what of them it then hears.
fn missing(change: impl Fn(&mut Vec<u8>)) -> u64 {
    let ([mut host, mut target], _) = connected_by(4, None, change);
    let from = target.address;
    let said = target.messages(3);
    let (qpn, psn) = goes_to(&said[0]);
    // Something forged from far ahead does not stand in the way of saying so.
    let far = Head::new(Opcode::SEND_ONLY, qpn, psn.plus(1 << 20), 64);
    let far = sealed(&far, 64, &Flow::new(from, host.address.ip()));
    for datagram in [&far, &said[1], &far, &said[2]] {
        host.device.receive(NOW, 0, from, datagram, 0);
    }
    assert!(host.sends(NOW).is_empty(), "it may be late");
    let due = host.device.next_timeout().expect("not for ever");
    host.device.on_time(due, true);
    let told = host.sends(due);
    assert_eq!(told.len(), 1);
    let nak = (Syndrome::NAK_SEQUENCE, psn);
    assert_eq!(acknowledges(&told[0]), Some(nak));
    target.device.receive(due, 0, host.address, &told[0], 0);
    for datagram in target.sends(due) {
        host.device.receive(due, 0, from, &datagram, 0);
    }
    host.events(due);
    assert_eq!((host.heard, host.over, target.over), (3, None, None));
    due.since(NOW)
}

#[test]
fn what_is_missing_is_told_after_a_while_and_sent_again() {
    // Soft-RoCE overtakes itself, and hangs when it is told of that.
    assert_eq!(missing(|datagram| unmark(datagram)), 1_000_000);
    // Ours does not, and is told at once if more come after it.
    assert_eq!(missing(|_| {}), 100_000);
    for (change, told) in [
        ((|datagram| unmark(datagram)) as fn(&mut Vec<u8>), false),
        (|_| {}, true),
    ] {
        let ([mut host, mut target], _) = connected_by(4, None, change);
        for datagram in &target.messages(4)[1..] {
            host.device.receive(NOW, 0, target.address, datagram, 0);
        }
        assert_eq!(host.sends(NOW).len(), usize::from(told));
    }
}

#[test]
fn of_our_own_kind_few_identifications_are_taken() {
    let take = |change: fn(&mut Vec<u8>), id: u16| {
        let ([mut host, mut target], _) = connected_by(7, None, change);
        let from = target.address;
        let mut datagram = target.messages(1).remove(0);
        datagram.truncate(datagram.len() - 4);
        let flow = Flow::new(from, host.address.ip());
        let icrc = flow.icrc(id, &datagram[..12], std::iter::once(&datagram[12..]));
        datagram.extend(icrc.to_le_bytes());
        host.device.receive(NOW, 0, from, &datagram, 0);
        host.events(NOW);
        let counters = host.device.counters;
        (
            host.heard,
            counters.dropped(Dropped::Icrc),
            counters.ids_recovered,
        )
    };
    for id in [0, 1, 63] {
        assert_eq!(take(|_| {}, id), (1, 0, u64::from(id > 0)));
    }
    for id in [64, 0x7000, 0xFFFF] {
        assert_eq!(take(|_| {}, id), (0, 1, 0));
        // Anybody else's is what the sender made of it.
        assert_eq!(take(|datagram| unmark(datagram), id), (1, 0, 1));
    }
}

/// A message arrives and is acknowledged; of two more the second is lost. When the first of them is sent again, and how
/// many packets that is.
fn unheard(change: impl Fn(&mut Vec<u8>), caught_up: bool) -> (u64, usize) {
    let ([mut host, mut target], _) = connected_by(6, None, change);
    let (to, from) = (host.address, target.address);
    for lost in [false, true] {
        let said = target.messages(2);
        host.device.receive(NOW, 0, from, &said[0], 0);
        if !lost {
            host.device.receive(NOW, 0, from, &said[1], 0);
        }
        host.events(NOW);
        // Acknowledgements are lost as well, but the first.
        for datagram in host.sends(NOW).iter().filter(|_| !lost) {
            target.device.receive(NOW, 0, to, datagram, 0);
        }
        target.events(NOW);
    }
    loop {
        let now = target.device.next_timeout().expect("it waits");
        target.device.on_time(now, caught_up);
        let again = target.sends(now);
        if again.is_empty() {
            continue;
        }
        for datagram in &again {
            host.device.receive(now, 0, from, datagram, 0);
        }
        for datagram in host.sends(now) {
            target.device.receive(now, 0, to, &datagram, 0);
        }
        // What of it arrived before is known now; what was lost is sent again next.
        let next = now.plus_ms(500);
        target.device.on_time(next, true);
        for datagram in target.sends(next) {
            host.device.receive(next, 0, from, &datagram, 0);
        }
        host.events(next);
        assert_eq!((host.heard, host.over, target.over), (4, None, None));
        return (now.since(NOW), again.len());
    }
}

#[test]
fn what_no_later_packet_shows_to_be_lost_is_found_by_one_packet() {
    assert_eq!(unheard(|_| {}, true), (200_000, 1));
    // Its acknowledgement may lie in a socket; then it is late when those of others are.
    assert_eq!(unheard(|_| {}, false), (5_000_000, 2));
    // Others are not sent anything again that they may have.
    assert_eq!(unheard(|datagram| unmark(datagram), true), (5_000_000, 2));
}

#[test]
fn who_has_no_recv_says_how_long_to_wait() {
    let ([mut host, mut target], _) = connected(5, None);
    let from = target.address;
    let said = target.messages(5);
    for datagram in &said {
        host.device.receive(NOW, 0, from, datagram, 0);
    }
    assert_eq!(host.device.counters.dropped(Dropped::NotReady), 1);
    let told = host.sends(NOW);
    let (_, psn) = goes_to(&said[4]);
    assert_eq!(told.len(), 1);
    // Code 12: 0.64 ms (InfiniBand table 45).
    assert_eq!(acknowledges(&told[0]), Some((Syndrome::rnr(12), psn)));
    target.device.receive(NOW, 0, host.address, &told[0], 0);
    // Four are acknowledged by it, and used up; the fifth comes again when it is time.
    host.events(NOW);
    let early = NOW.plus_ns(639_999);
    target.device.on_time(early, true);
    assert!(target.sends(early).is_empty());
    let due = NOW.plus_ns(640_000);
    target.device.on_time(due, true);
    for datagram in target.sends(due) {
        host.device.receive(due, 0, from, &datagram, 0);
    }
    host.events(due);
    assert_eq!((host.heard, host.over, target.over), (5, None, None));
}
