//! Two ends of software RoCEv2 in one process, joined by a network that loses, repeats, reorders,
//! delays and damages packets by a seed, carries smaller packets for a while, and sees an end die and
//! come back. What must hold: every message arrives once and in order, memory is equal, nothing stalls
//! for longer than a bound, and every Buf comes home.
//!
//! `FERROCE_SEEDS=100000 cargo test -p ferroce-transport --test roce` runs as long as asked;
//! `FERROCE_SEED=N` runs one.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;

use ferroce_buf::{BufList, Class, Home, Pool, Region, Want};
use ferroce_engine::port::Tick;
use ferroce_transport::rdma::provider::{
    Access, Answer, Demand, Dial, Event, Incoming, Message, QpId, Read, Remote, WcStatus, Why,
};
use ferroce_transport::roce::cm::{Front, Heard};
use ferroce_transport::roce::device::{Device, Port};
use ferroce_transport::roce::icrc::Flow;
use ferroce_transport::roce::mad::{self, Mad};
use ferroce_transport::roce::packet::{self, Mtu};
use ferroce_transport::roce::payload::{Outlet, PacketOut, Route};
use ferroce_wire::roce::PORT;

fn seeds(count: u64) -> Range<u64> {
    let of = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    match of("FERROCE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..of("FERROCE_SEEDS").unwrap_or(count),
    }
}

/// Nothing may stand still for longer, in ns: a little more than a peer is given before it is taken
/// for dead.
const STALL_MAX: u64 = 13_000_000_000;

const HOST: usize = 0;
const TARGET: usize = 1;

/// What a run does, drawn from its seed.
#[derive(Clone, Debug)]
struct Plan {
    v6: bool,
    mtu: [u8; 2],
    commands: u32,
    depth: usize,
    loss: f64,
    repeat: f64,
    damage: f64,
    delay_ns: u64,
    jitter_ns: u64,
    /// Packets longer than so many bytes are lost in this time.
    narrow: Option<(Range<u64>, usize)>,
    /// An end dies then, and is back at once.
    death: Option<(u64, usize)>,
    /// The peers' packets are numbered from here.
    first_psn: Option<u32>,
    /// This end does not run for the second time in every first one, in ns.
    stalls: Option<(usize, u64, u64)>,
}

impl Plan {
    fn draw(random: &mut fastrand::Rng) -> Plan {
        let some = |random: &mut fastrand::Rng, max: f64| match random.u8(..3) {
            0 => 0.0,
            1 => max * 0.1 * random.f64(),
            _ => max * random.f64(),
        };
        let mtu = random.u8(1..=5);
        Plan {
            v6: random.u8(..4) == 0,
            // A target refuses packets longer than its own.
            mtu: [mtu, random.u8(mtu..=5)],
            commands: random.u32(10..200),
            depth: random.usize(1..17),
            loss: some(random, 0.12),
            repeat: some(random, 0.1),
            damage: some(random, 0.05),
            delay_ns: random.u64(1000..1_000_000),
            jitter_ns: if random.bool() {
                random.u64(..400_000)
            } else {
                0
            },
            narrow: (random.u8(..4) == 0).then(|| {
                let from = random.u64(..20_000_000);
                (
                    from..from + random.u64(1..4_000_000_000),
                    random.usize(64..2000),
                )
            }),
            death: (random.u8(..5) == 0).then(|| (random.u64(..50_000_000), random.usize(..2))),
            first_psn: random.bool().then(|| random.u32(0xFF_FF00..=0xFF_FFFF)),
            stalls: (random.u8(..3) == 0).then(|| {
                let stall = random.u64(100_000..30_000_000);
                let every = stall + random.u64(10_000..5_000_000);
                (random.usize(..2), every, stall)
            }),
        }
    }
}

impl Plan {
    /// When an end that stands still runs again; `None` if it runs.
    fn runs_again(&self, who: usize, now: u64) -> Option<u64> {
        let (stalled, every, stall) = self.stalls?;
        let since = now % every;
        (stalled == who && since < stall).then(|| now - since + stall)
    }
}

/// A datagram on its way: when it arrives, and a number that keeps those apart that arrive together.
type Flight = Reverse<(u64, u64, usize, Vec<u8>)>;

struct Network {
    plan: Plan,
    random: fastrand::Rng,
    flights: BinaryHeap<Flight>,
    count: u64,
    addresses: [SocketAddr; 2],
}

/// One end's way out.
struct Way<'n> {
    network: &'n mut Network,
    now: u64,
    from: usize,
}

impl Outlet for Way<'_> {
    fn send(&mut self, route: &Route, packets: &[PacketOut<'_>]) -> usize {
        let to = 1 - self.from;
        assert_eq!(route.to, self.network.addresses[to]);
        // Now and then the socket takes only some.
        let room = match self.network.random.u8(..20) {
            0 => self.network.random.usize(..=packets.len()),
            _ => packets.len(),
        };
        for packet in &packets[..room] {
            // As the system cuts trains, which reach us together or one by one.
            let id = if self.network.random.bool() {
                self.network.random.u16(..64)
            } else {
                0
            };
            let datagram = bytes(packet, &route.flow, id);
            self.network.carry(self.now, to, datagram);
        }
        room
    }
}

/// A packet as a datagram.
fn bytes(packet: &PacketOut<'_>, flow: &Flow, id: u16) -> Vec<u8> {
    let mut datagram = packet.head.bytes().to_vec();
    datagram.extend(packet.payload.to_vec());
    datagram.resize(datagram.len() + packet::pad(packet.payload.len()), 0);
    let icrc = flow.icrc(id, &datagram[..12], std::iter::once(&datagram[12..]));
    datagram.extend(icrc.to_le_bytes());
    assert_eq!(
        datagram.len(),
        packet::datagram_len(&packet.head, packet.payload.len())
    );
    datagram
}

impl Network {
    fn carry(&mut self, now: u64, to: usize, mut datagram: Vec<u8>) {
        let plan = &self.plan;
        if let Some((when, len)) = &plan.narrow
            && when.contains(&now)
            && datagram.len() > *len
        {
            return;
        }
        let copies = 1 + usize::from(self.random.f64() < plan.repeat);
        for _ in 0..copies {
            if self.random.f64() < plan.loss {
                continue;
            }
            if self.random.f64() < plan.damage {
                match self.random.u8(..4) {
                    0 => datagram.truncate(self.random.usize(2..datagram.len().max(3))),
                    // Sixteen bits are what a check of an IPv4 packet surely finds.
                    _ => {
                        let at = self.random.usize(..datagram.len() - 1);
                        datagram[at] ^= self.random.u8(1..);
                        datagram[at + 1] ^= self.random.u8(..);
                    }
                }
                // Bits that are not covered, by their nature: they say nothing to us.
                if datagram.len() < 5 {
                    continue;
                }
            }
            let jitter = if plan.jitter_ns > 0 {
                self.random.u64(..plan.jitter_ns)
            } else {
                0
            };
            let when = now + plan.delay_ns + jitter;
            self.count += 1;
            self.flights
                .push(Reverse((when, self.count, to, datagram.clone())));
        }
    }
}

/// The bytes of command `id`'s data.
fn pattern(id: u32, at: usize) -> u8 {
    (id as usize * 31 + at * 7 + at / 251) as u8
}

/// Half of an end: its device and memory.
struct End {
    device: Device,
    pool: Pool,
    qp: Option<QpId>,
    up: bool,
    /// Tags of what was sent, in order.
    sent: VecDeque<u32>,
}

impl End {
    fn new(plan: &Plan, who: usize, address: IpAddr, random: &mut fastrand::Rng) -> End {
        let classes = [
            Class {
                size: 4096,
                count: 256,
            },
            Class {
                size: 16384,
                count: 64,
            },
        ];
        let region = Region::map(Pool::bytes(&classes), Want::default()).expect("memory");
        let port = Port {
            ip: address,
            mtu: Mtu::from_code(plan.mtu[who]).expect("1 to 5"),
        };
        let mut device = Device::new(vec![port], random.u64(..), 1, 3, random.u64(..));
        if let Some(psn) = plan.first_psn {
            device.number_from(psn);
        }
        End {
            device,
            pool: Pool::new(Arc::new(region), 0, Home::CORE, &classes),
            qp: None,
            up: false,
            sent: VecDeque::new(),
        }
    }

    /// Bufs of `len` bytes in pieces of random length.
    fn bufs(&mut self, len: usize, random: &mut fastrand::Rng) -> BufList {
        let mut list = BufList::new();
        let mut left = len;
        while left > 0 {
            let size = left.min(if random.bool() { 4096 } else { 16384 });
            let now = if random.bool() {
                size
            } else {
                random.usize(1..=size).max(size / 4)
            };
            let mut buf = self.pool.take(now).expect("the pool is large enough");
            buf.truncate(now);
            list.push(buf);
            left -= now;
        }
        list
    }
}

/// A command: 64 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// The target writes the data.
    Fetch { invalidate: bool },
    /// The target reads the data.
    Store { invalidate: bool },
    /// The data is in the capsule.
    Inline,
}

struct Command {
    kind: Kind,
    len: usize,
    grant: Option<Remote>,
    answered: bool,
}

struct World {
    now: u64,
    plan: Plan,
    random: fastrand::Rng,
    network: Network,
    front: Front,
    ends: [End; 2],
    /// By number: those that are not answered and done.
    commands: BTreeMap<u32, Command>,
    issued: u32,
    done: u32,
    /// The number the target expects next, in this life of the connection.
    expected: u32,
    /// Reads that the target has out: by tag.
    reads: BTreeMap<u32, (u32, Remote, bool)>,
    moved: u64,
    restarts: u32,
}

const INLINE_MAX: usize = 8192;
/// The tag of WRITEs of nothing.
const PROBE: u32 = u32::MAX;

impl World {
    fn new(seed: u64) -> World {
        let mut random = fastrand::Rng::with_seed(seed);
        let plan = Plan::draw(&mut random);
        let ip = |last: u8| -> IpAddr {
            if plan.v6 {
                Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, u16::from(last)).into()
            } else {
                Ipv4Addr::new(10, 0, 0, last).into()
            }
        };
        let addresses = [SocketAddr::new(ip(2), PORT), SocketAddr::new(ip(1), PORT)];
        let ends = [HOST, TARGET].map(|who| End::new(&plan, who, addresses[who].ip(), &mut random));
        World {
            now: 1,
            front: Front::new(vec![SocketAddr::new(ip(1), 4420)]),
            network: Network {
                plan: plan.clone(),
                random: fastrand::Rng::with_seed(random.u64(..)),
                flights: BinaryHeap::new(),
                count: 0,
                addresses,
            },
            plan,
            random,
            ends,
            commands: BTreeMap::new(),
            issued: 0,
            done: 0,
            expected: 0,
            reads: BTreeMap::new(),
            moved: 0,
            restarts: 0,
        }
    }

    /// Runs to the end.
    fn run(&mut self) {
        let mut closing = false;
        loop {
            if let Some((when, who)) = self.plan.death
                && when <= self.now
            {
                self.plan.death = None;
                self.die(who);
            }
            if !closing && self.done == self.plan.commands {
                closing = true;
                self.end();
            }
            if self.ends[HOST].qp.is_none() && !closing {
                self.dial();
            }
            for who in [HOST, TARGET] {
                if self.plan.runs_again(who, self.now).is_some() {
                    continue;
                }
                while let Some(event) = self.ends[who].device.poll(Tick(self.now)) {
                    self.on_event(who, event, closing);
                }
            }
            if !closing {
                self.issue();
            }
            let mut busy = false;
            for who in [HOST, TARGET] {
                if self.plan.runs_again(who, self.now).is_some() {
                    continue;
                }
                let mut way = Way {
                    network: &mut self.network,
                    now: self.now,
                    from: who,
                };
                self.ends[who].device.transmit(Tick(self.now), &mut way);
                busy |= self.ends[who].device.has_work();
            }
            if closing && self.ends.iter().all(|end| end.device.queue_pairs() == 0) {
                break;
            }
            assert!(
                self.now - self.moved <= STALL_MAX,
                "nothing moved for {} ms: {:?} of {} done",
                (self.now - self.moved) / 1_000_000,
                self.done,
                self.plan.commands
            );
            if busy {
                self.now += 500;
            } else {
                self.advance();
            }
        }
        for (who, end) in self.ends.iter().enumerate() {
            assert_eq!(end.pool.out(), 0, "Bufs of {who} are lost");
            assert!(end.sent.is_empty());
        }
    }

    /// The host disconnects. A target whose host died would not know: keeping alive is done above.
    fn end(&mut self) {
        for (who, end) in self.ends.iter_mut().enumerate() {
            if let Some(qp) = end.qp
                && (who == HOST || self.restarts > 0)
            {
                end.device.close(qp, Tick(self.now));
                end.up = false;
            }
        }
    }

    /// To the next thing that happens, which is done.
    fn advance(&mut self) {
        let arrival = self.network.flights.peek().map(|Reverse((when, ..))| *when);
        // An end that stands still has nothing to do before it runs again.
        let timers = (0..2).filter_map(|who| {
            let again = self.plan.runs_again(who, self.now);
            let due = self.ends[who].device.next_timeout().map(|due| due.0);
            match again {
                Some(again) if self.ends[who].device.has_work() => Some(again),
                Some(again) => due.map(|due| due.max(again)),
                None => due,
            }
        });
        let death = self.plan.death.map(|(when, _)| when);
        let next = arrival.into_iter().chain(timers).chain(death).min();
        let Some(next) = next else {
            // All was acknowledged, but who should answer has died: hosts time their commands.
            assert!(self.restarts > 0, "nobody waits for anything");
            let Some(qp) = self.ends[HOST].qp else {
                return;
            };
            self.ends[HOST].device.close(qp, Tick(self.now));
            self.ends[HOST].up = false;
            self.give_up(HOST, qp);
            return;
        };
        self.now = self.now.max(next) + 1;
        let now = Tick(self.now);
        // Several packets may be looked at together.
        let until = self.now + if self.random.bool() { 20_000 } else { 0 };
        while let Some(Reverse((when, ..))) = self.network.flights.peek()
            && *when <= until
        {
            let Some(Reverse((_, count, to, datagram))) = self.network.flights.pop() else {
                unreachable!("it was just seen")
            };
            // It waits in the socket.
            if let Some(again) = self.plan.runs_again(to, now.0) {
                let flight = Reverse((again.max(until + 1), count, to, datagram));
                self.network.flights.push(flight);
                continue;
            }
            self.arrive(now, to, &datagram);
        }
        for (who, end) in self.ends.iter_mut().enumerate() {
            if self.plan.runs_again(who, now.0).is_none() {
                end.device.on_time(now, true);
            }
        }
    }

    fn arrive(&mut self, now: Tick, to: usize, datagram: &[u8]) {
        let from = self.network.addresses[1 - to];
        let local = self.network.addresses[to].ip();
        // As steering does it: requests go to the front of the node.
        let req = packet::parse(datagram)
            .ok()
            .filter(|_| to == TARGET)
            .and_then(|packet| match mad::parse(packet.payload) {
                Some((tid, mad::Message::Req(req))) if packet.deth.is_some() => Some((tid, *req)),
                _ => None,
            });
        let Some((tid, req)) = req else {
            self.ends[to].device.receive(now, 0, from, datagram, 0);
            return;
        };
        let flow = Flow::new(from, local);
        if flow.check(datagram, 0) == ferroce_transport::roce::icrc::Checked::Damaged {
            return;
        }
        let mtu = self.ends[TARGET].device.ports()[0].mtu;
        match self.front.on_req(now, (0, local, mtu), from, (tid, &req)) {
            Heard::Incoming(incoming) => {
                assert_eq!(&incoming.request().private.bytes()[..5], b"hello");
                let demand = self.demand();
                let end = &mut self.ends[TARGET];
                let qp = end
                    .device
                    .open(incoming, &demand, now)
                    .expect("there is room");
                assert_eq!(end.device.limits(qp).reads, 16);
                for _ in 0..=self.plan.depth {
                    let mut buf = end.pool.take(INLINE_MAX).expect("room");
                    buf.truncate(INLINE_MAX);
                    end.device.post_recv(qp, Some(buf));
                }
                end.device.accept(qp, b"welcome", now);
                if let Some(old) = end.qp.replace(qp) {
                    // Its host asked anew, so it is over.
                    end.device.close(old, now);
                }
                end.up = false;
                end.sent.clear();
                self.reads.clear();
                self.expected = self.issued_from();
            }
            Heard::Reject(_, mad) => self.say(mad),
            Heard::Dropped(_) => {}
        }
    }

    /// A message of the front.
    fn say(&mut self, mad: Box<Mad>) {
        let route = Route {
            port: 0,
            to: self.network.addresses[HOST],
            flow: Flow::new(
                self.network.addresses[TARGET],
                self.network.addresses[HOST].ip(),
            ),
        };
        let packet = ferroce_transport::roce::device::mad_packet(&mad, packet::Psn::new(0));
        let mut way = Way {
            network: &mut self.network,
            now: self.now,
            from: TARGET,
        };
        way.send(&route, &[packet]);
    }

    fn demand(&self) -> Demand {
        Demand {
            recvs: self.plan.depth as u32 + 1,
            recv_data: INLINE_MAX as u32,
            sends: 64,
            reads: 16,
        }
    }

    /// The first command of this connection.
    fn issued_from(&self) -> u32 {
        self.commands.keys().next().copied().unwrap_or(self.issued)
    }

    fn dial(&mut self) {
        let peer = SocketAddr::new(self.network.addresses[TARGET].ip(), 4420);
        let dial = Dial {
            local: None,
            peer,
            private: b"hello",
            demand: self.demand(),
        };
        let end = &mut self.ends[HOST];
        let qp = end
            .device
            .connect(&dial, Tick(self.now))
            .expect("there is room");
        for _ in 0..=self.plan.depth {
            end.device.post_recv(qp, None);
        }
        end.qp = Some(qp);
    }

    /// An end vanishes, with all it had, and begins anew.
    fn die(&mut self, who: usize) {
        let address = self.network.addresses[who].ip();
        self.ends[who] = End::new(&self.plan, who, address, &mut self.random);
        self.restarts += 1;
        if who == HOST {
            self.forget();
        } else {
            self.reads.clear();
            self.front = Front::new(vec![SocketAddr::new(address, 4420)]);
        }
        self.moved = self.now;
    }

    /// The host's commands are over, whatever became of them.
    fn forget(&mut self) {
        self.done += self.commands.len() as u32;
        self.commands.clear();
    }

    fn issue(&mut self) {
        if !self.ends[HOST].up {
            return;
        }
        let qp = self.ends[HOST].qp.expect("it is up");
        while self.commands.len() < self.plan.depth && self.issued < self.plan.commands {
            let id = self.issued;
            self.issued += 1;
            let kind = match self.random.u8(..5) {
                0 => Kind::Fetch { invalidate: false },
                1 => Kind::Fetch { invalidate: true },
                2 => Kind::Store { invalidate: false },
                3 => Kind::Store { invalidate: true },
                _ => Kind::Inline,
            };
            let max = match kind {
                Kind::Inline => INLINE_MAX,
                _ if self.random.u8(..4) == 0 => 70_000,
                _ => 10_000,
            };
            let len = self.random.usize(..=max);
            let end = &mut self.ends[HOST];
            let mut bufs = end.bufs(len, &mut self.random);
            let mut head = [0; 64];
            head[..4].copy_from_slice(&id.to_le_bytes());
            head[4..8].copy_from_slice(&(len as u32).to_le_bytes());
            let mut grant = None;
            let mut inline = BufList::new();
            let fill = |bufs: &mut BufList| {
                let data: Vec<u8> = (0..len).map(|at| pattern(id, at)).collect();
                bufs.copy_in(0, &data);
            };
            match kind {
                Kind::Inline => {
                    fill(&mut bufs);
                    inline = bufs;
                }
                Kind::Fetch { .. } | Kind::Store { .. } => {
                    let access = match kind {
                        Kind::Fetch { .. } => Access::Write,
                        _ => Access::Read,
                    };
                    if access == Access::Read {
                        fill(&mut bufs);
                    }
                    let at = end.device.grant(qp, bufs, access).expect("there are keys");
                    head[16..24].copy_from_slice(&at.addr.to_le_bytes());
                    head[24..28].copy_from_slice(&at.key.to_le_bytes());
                    grant = Some(at);
                }
            }
            head[8] = match kind {
                Kind::Inline => 0,
                Kind::Fetch { .. } => 1,
                Kind::Store { .. } => 2,
            };
            head[9] = u8::from(matches!(
                kind,
                Kind::Fetch { invalidate: true } | Kind::Store { invalidate: true }
            ));
            let message = Message {
                tag: id,
                head,
                bufs: inline,
            };
            end.device.send(qp, message);
            end.sent.push_back(id);
            let command = Command {
                kind,
                len,
                grant,
                answered: false,
            };
            self.commands.insert(id, command);
        }
    }

    fn on_event(&mut self, who: usize, event: Event, closing: bool) {
        if event.qp().is_some_and(|qp| Some(qp) != self.ends[who].qp) {
            self.on_old(who, event);
            return;
        }
        self.moved = self.now;
        match event {
            Event::Established { qp } => {
                assert!(!self.ends[who].up);
                self.ends[who].up = true;
                if who == HOST {
                    assert_eq!(&self.ends[who].device.private(qp).bytes()[..7], b"welcome");
                }
            }
            Event::Received {
                qp,
                len,
                head,
                buf,
                invalidated,
            } => {
                assert!(self.ends[who].up, "established comes first");
                if who == TARGET {
                    assert_eq!(invalidated, None);
                    let buf = buf.expect("a RECV with a Buf");
                    self.on_command(qp, len as usize, head, buf.bytes());
                    let mut buf = self.ends[TARGET].pool_swap(buf);
                    buf.truncate(INLINE_MAX);
                    self.ends[TARGET].device.post_recv(qp, Some(buf));
                } else {
                    assert!(buf.is_none() && len == 16);
                    self.ends[HOST].device.post_recv(qp, None);
                    self.on_answer(qp, head, invalidated);
                }
            }
            Event::Sent {
                tag, bufs, status, ..
            } => {
                assert_eq!(self.ends[who].sent.pop_front(), Some(tag), "in order");
                self.ends[who].pool.put_all(bufs);
                if status != WcStatus::Success {
                    assert!(closing || self.restarts > 0, "{status:?}");
                } else if who == HOST {
                    self.finish(tag);
                }
            }
            Event::ReadDone {
                qp,
                tag,
                bufs,
                status,
            } => {
                let (len, remote, invalidate) = self.reads.remove(&tag).expect("it was out");
                if status == WcStatus::Success {
                    let mut data = vec![0; len as usize];
                    bufs.copy_out(0, &mut data);
                    let right = data
                        .iter()
                        .enumerate()
                        .all(|(at, byte)| *byte == pattern(tag, at));
                    assert!(right, "what was read is not what was there");
                    self.answer(qp, tag, remote, BufList::new(), invalidate);
                } else {
                    assert!(closing || self.restarts > 0, "{status:?}");
                }
                self.ends[who].pool.put_all(bufs);
            }
            Event::Unposted { buf } => self.ends[who].pool.put(buf),
            Event::Disconnected { qp, why } => {
                self.ends[who].up = false;
                let expected = (who == TARGET && closing && why == Why::Peer) || self.restarts > 0;
                assert!(expected, "{who}: {why:?}");
                self.give_up(who, qp);
            }
            Event::Gone { qp } => {
                assert_eq!(self.ends[who].qp, Some(qp));
                self.ends[who].qp = None;
                self.ends[who].sent.clear();
            }
        }
        if who == HOST && closing && !self.commands.is_empty() {
            panic!("all were done");
        }
    }

    /// Of a queue pair of the target's whose host came back before it was missed.
    fn on_old(&mut self, who: usize, event: Event) {
        assert!(self.restarts > 0 && who == TARGET);
        match event {
            Event::Sent { bufs, .. } | Event::ReadDone { bufs, .. } => {
                self.ends[who].pool.put_all(bufs)
            }
            Event::Received { buf: Some(buf), .. } => self.ends[who].pool.put(buf),
            _ => {}
        }
    }

    /// The host takes its memory back.
    fn give_up(&mut self, who: usize, qp: QpId) {
        if who != HOST {
            return;
        }
        for command in self.commands.values() {
            if let Some(grant) = command.grant {
                let bufs = self.ends[HOST].device.revoke(qp, grant.key);
                let bufs = bufs.expect("it was granted");
                self.ends[HOST].pool.put_all(bufs);
            }
        }
        self.forget();
    }

    fn on_command(&mut self, qp: QpId, len: usize, head: [u8; 64], data: &[u8]) {
        let word = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four"));
        let (id, data_len) = (word(0), word(4));
        assert_eq!(id, self.expected, "once, and in order");
        self.expected += 1;
        let remote = Remote {
            addr: u64::from_le_bytes(head[16..24].try_into().expect("eight")),
            key: word(24),
        };
        let invalidate = head[9] == 1;
        match head[8] {
            0 => {
                assert_eq!(len, 64 + data_len as usize);
                let data = &data[..data_len as usize];
                assert!(
                    data.iter()
                        .enumerate()
                        .all(|(at, byte)| *byte == pattern(id, at))
                );
                self.answer(qp, id, remote, BufList::new(), false);
            }
            1 => {
                let mut bufs = self.ends[TARGET].bufs(data_len as usize, &mut self.random);
                let data: Vec<u8> = (0..data_len as usize).map(|at| pattern(id, at)).collect();
                bufs.copy_in(0, &data);
                self.answer(qp, id, remote, bufs, invalidate);
            }
            _ => {
                let bufs = self.ends[TARGET].bufs(data_len as usize, &mut self.random);
                let read = Read {
                    tag: id,
                    remote,
                    bufs,
                };
                self.reads.insert(id, (data_len, remote, invalidate));
                self.ends[TARGET].device.read(qp, read);
            }
        }
    }

    fn answer(&mut self, qp: QpId, id: u32, remote: Remote, bufs: BufList, invalidate: bool) {
        if self.random.u8(..8) == 0 {
            // A WRITE of no bytes changes nothing, wherever it seems to go, and is acknowledged.
            let probe = Answer {
                tag: PROBE,
                remote: Remote { addr: 0, key: 7 },
                bufs: BufList::new(),
                capsule: None,
                invalidate: None,
            };
            self.ends[TARGET].sent.push_back(PROBE);
            self.ends[TARGET].device.answer(qp, probe);
        }
        let mut capsule = [0; 16];
        capsule[..4].copy_from_slice(&id.to_le_bytes());
        let answer = Answer {
            tag: id,
            remote,
            bufs,
            capsule: Some(capsule),
            invalidate: invalidate.then_some(remote.key),
        };
        self.ends[TARGET].sent.push_back(id);
        self.ends[TARGET].device.answer(qp, answer);
    }

    fn on_answer(&mut self, qp: QpId, head: [u8; 64], invalidated: Option<u32>) {
        let id = u32::from_le_bytes(head[..4].try_into().expect("four"));
        let command = self
            .commands
            .get_mut(&id)
            .expect("a command is answered once");
        assert!(!command.answered);
        command.answered = true;
        let invalidate = matches!(
            command.kind,
            Kind::Fetch { invalidate: true } | Kind::Store { invalidate: true }
        );
        assert_eq!(
            invalidated,
            command.grant.filter(|_| invalidate).map(|grant| grant.key)
        );
        if let Some(grant) = command.grant.take() {
            let bufs = self.ends[HOST]
                .device
                .revoke(qp, grant.key)
                .expect("it was granted");
            let mut data = vec![0; command.len];
            bufs.copy_out(0, &mut data);
            assert!(
                data.iter()
                    .enumerate()
                    .all(|(at, byte)| *byte == pattern(id, at))
            );
            self.ends[HOST].pool.put_all(bufs);
        }
        self.finish(id);
    }

    /// A command is over when it was answered and its capsule acknowledged.
    fn finish(&mut self, id: u32) {
        let acknowledged = !self.ends[HOST].sent.contains(&id);
        if acknowledged
            && self
                .commands
                .get(&id)
                .is_some_and(|command| command.answered)
        {
            self.commands.remove(&id);
            self.done += 1;
        }
    }
}

impl End {
    /// The same Buf, whole again.
    fn pool_swap(&mut self, buf: ferroce_buf::Buf) -> ferroce_buf::Buf {
        self.pool.put(buf);
        self.pool.take(INLINE_MAX).expect("one was just put there")
    }
}

#[test]
fn whatever_the_network_does() {
    for seed in seeds(40) {
        let shown = std::panic::catch_unwind(|| World::new(seed).run());
        if let Err(cause) = shown {
            eprintln!("seed {seed}: {:?}", World::new(seed).plan);
            std::panic::resume_unwind(cause);
        }
    }
}
