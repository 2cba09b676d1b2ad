//! A peer that means no good: packets with any opcode, number, key and length, in the right flow and
//! with a right ICRC, at queue pairs in every state. Nothing panics, memory beyond what was granted
//! is never touched, and every Buf comes home.
//!
//! `FERROCE_SEEDS=100000 cargo test -p ferroce-transport --test roce_forged` runs as long as asked;
//! `FERROCE_SEED=N` runs one.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

use ferroce_buf::{BufList, Class, Home, Pool, Region, Want};
use ferroce_engine::port::Tick;
use ferroce_transport::rdma::provider::{
    Access, Answer, Demand, Dial, Event, Message, QpId, Read, Remote, WcStatus,
};
use ferroce_transport::roce::cm::{Front, Heard};
use ferroce_transport::roce::device::{Device, Port};
use ferroce_transport::roce::icrc::Flow;
use ferroce_transport::roce::mad::{self, Message as Mad};
use ferroce_transport::roce::packet::{self, Mtu};
use ferroce_transport::roce::payload::{Outlet, PacketOut, Route};
use ferroce_wire::roce::{Opcode, PORT};

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
            device: Device::new(vec![Port { ip, mtu }], seed, 0, 1, seed),
            pool: Pool::new(Arc::new(region), 0, Home::CORE, &[class]),
            address,
            qp: None,
            up: false,
            grants: Vec::new(),
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

    fn home(&mut self, mut bufs: BufList) {
        while let Some(buf) = bufs.pop() {
            self.pool.put(buf);
        }
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
            self.home(bufs);
        }
    }

    fn events(&mut self, now: Tick) {
        while let Some(event) = self.device.poll(now) {
            match event {
                Event::Established { .. } => self.up = true,
                Event::Received { qp, len, buf, .. } => {
                    assert!(len <= 64 + 4096);
                    self.pool.put(buf.expect("each RECV has a Buf"));
                    self.post_recv(qp);
                }
                Event::Sent { bufs, .. } | Event::ReadDone { bufs, .. } => self.home(bufs),
                Event::Unposted { buf } => self.pool.put(buf),
                Event::Disconnected { qp, .. } => self.give_up(qp),
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
                    Err(bufs) => self.home(bufs),
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
            seen.push(datagram.clone());
            let (from, to) = (ends[who].address, 1 - who);
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
        ends[who].device.on_time(now);
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
