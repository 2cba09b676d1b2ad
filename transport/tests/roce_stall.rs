//! Ends of software RoCEv2 that do not run for a while, alone or both at once as on a machine that is paused: what the
//! peer could not answer meanwhile, or what lies answered in the socket, is not sent again, and nobody is taken for dead.
//! A peer that is dead is found nevertheless, soon.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::rc::Rc;

use ferroce_buf::BufList;
use ferroce_engine::port::Tick;
use ferroce_transport::rdma::provider::{
    Answer, Demand, Dial, Event, Message, Provider, QpId, Remote, WcStatus, Why,
};
use ferroce_transport::roce::cm::{Front, Heard};
use ferroce_transport::roce::device::{Device, Port};
use ferroce_transport::roce::mad;
use ferroce_transport::roce::packet::{self, Mtu};
use ferroce_transport::roce::payload::{Outlet, PacketOut, Route};
use ferroce_transport::roce::provider::{Line, Roce};
use ferroce_wire::roce::PORT;

const HOST: usize = 0;
const TARGET: usize = 1;
const MS: u64 = 1_000_000;
/// A peer that acknowledges nothing for this long, in ns, is gone.
const GIVE_UP_NS: u64 = 10_000 * MS;
/// How long a datagram is under way, in ns.
const DELAY: u64 = 20_000;
/// Messages that the host has out.
const DEPTH: u32 = 8;
const DEMAND: Demand = Demand {
    recvs: DEPTH,
    recv_data: 0,
    sends: 2 * DEPTH,
    reads: 1,
};

fn address(who: usize) -> SocketAddr {
    let ip: IpAddr = Ipv4Addr::new(10, 0, 0, 1 + who as u8).into();
    SocketAddr::new(ip, PORT)
}

/// What is under way to each end, or waits in its socket.
type Cable = Rc<RefCell<[VecDeque<(u64, Vec<u8>)>; 2]>>;

struct Plug {
    cable: Cable,
    who: usize,
    now: Tick,
    front: Front,
}

impl Outlet for Plug {
    fn send(&mut self, route: &Route, packets: &[PacketOut<'_>]) -> usize {
        for packet in packets {
            let mut datagram = packet.head.bytes().to_vec();
            datagram.extend(packet.payload.to_vec());
            datagram.resize(datagram.len() + packet::pad(packet.payload.len()), 0);
            let icrc = route
                .flow
                .icrc(0, &datagram[..12], std::iter::once(&datagram[12..]));
            datagram.extend(icrc.to_le_bytes());
            let arrives = self.now.0 + DELAY;
            self.cable.borrow_mut()[1 - self.who].push_back((arrives, datagram));
        }
        packets.len()
    }
}

impl Line for Plug {
    fn receive(&mut self, now: Tick, device: &mut Device) -> bool {
        self.now = now;
        loop {
            let next = self.cable.borrow_mut()[self.who].pop_front_if(|(at, _)| *at <= now.0);
            let Some((_, datagram)) = next else {
                return false;
            };
            let from = address(1 - self.who);
            let parsed = packet::parse(&datagram).expect("ours are proper");
            let Some((tid, mad::Message::Req(req))) = mad::parse(parsed.payload) else {
                device.receive(now, 0, from, &datagram, 0);
                continue;
            };
            let local = (0, address(self.who).ip(), Mtu::MAX);
            let Heard::Incoming(incoming) = self.front.on_req(now, local, from, (tid, req)) else {
                panic!("the request is proper")
            };
            let qp = device.open(incoming, &DEMAND, now).expect("there is room");
            (0..DEPTH).for_each(|_| device.post_recv(qp, None));
            device.accept(qp, b"", now);
        }
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

struct End {
    roce: Roce<Plug>,
    qp: Option<QpId>,
    /// What became of it.
    over: Option<Why>,
    /// The host keeps so many messages out.
    depth: u32,
    out: u32,
    done: u64,
}

impl End {
    fn new(who: usize, cable: &Cable, random: &mut fastrand::Rng) -> End {
        let plug = Plug {
            cable: cable.clone(),
            who,
            now: Tick(1),
            front: Front::new(vec![SocketAddr::new(address(TARGET).ip(), 4420)]),
        };
        let port = Port {
            ip: address(who).ip(),
            mtu: Mtu::MAX,
        };
        let device = Device::new(vec![port], random.u64(..), 0, 1, random.u64(..));
        End {
            roce: Roce::over(plug, device),
            qp: None,
            over: None,
            depth: DEPTH,
            out: 0,
            done: 0,
        }
    }

    /// A turn. Hosts flush before they look, which must not matter.
    fn turn(&mut self, who: usize, now: Tick) {
        self.roce.flush(now);
        while let Some(event) = self.roce.poll(now) {
            match event {
                Event::Established { qp } => self.qp = Some(qp),
                Event::Received { qp, .. } => {
                    self.roce.post_recv(qp, None);
                    if who == TARGET {
                        self.answer(qp);
                    } else {
                        self.out -= 1;
                        self.done += 1;
                    }
                }
                Event::Disconnected { why, .. } => {
                    self.over = Some(why);
                    self.qp = None;
                }
                _ => {}
            }
        }
        while let Some(qp) = self.qp.filter(|_| who == HOST && self.out < self.depth) {
            self.out += 1;
            let message = Message {
                tag: 0,
                head: [1; 64],
                bufs: BufList::new(),
            };
            self.roce.send(qp, message);
        }
        self.roce.flush(now);
    }

    fn answer(&mut self, qp: QpId) {
        let answer = Answer {
            tag: 0,
            remote: Remote { addr: 0, key: 0 },
            bufs: BufList::new(),
            capsule: Some([2; 16]),
            invalidate: None,
        };
        self.roce.answer(qp, answer);
    }

    fn counter(&self, wanted: &str) -> u64 {
        let mut found = None;
        self.roce.each_counter(&mut |name, count| {
            if name == wanted {
                found = Some(count);
            }
        });
        found.expect("there is such a counter")
    }
}

struct World {
    now: u64,
    cable: Cable,
    ends: [End; 2],
    /// Does not run before.
    until: [u64; 2],
}

impl World {
    /// Two ends that are connected and busy.
    fn new(seed: u64) -> World {
        let mut random = fastrand::Rng::with_seed(seed);
        let cable = Cable::default();
        let ends = [HOST, TARGET].map(|who| End::new(who, &cable, &mut random));
        let mut world = World {
            now: 1,
            cable,
            ends,
            until: [0; 2],
        };
        let dial = Dial {
            local: None,
            peer: SocketAddr::new(address(TARGET).ip(), 4420),
            private: b"",
            demand: DEMAND,
        };
        let host = &mut world.ends[HOST].roce;
        let qp = host.connect(&dial, Tick(1)).expect("there is room");
        (0..DEPTH).for_each(|_| host.post_recv(qp, None));
        // A random number of datagrams is under way when this ends.
        world.run(MS + random.u64(..MS / 10));
        assert!(world.ends[HOST].done > 10);
        world
    }

    /// Runs for so many ns, the ends in random order.
    fn run(&mut self, ns: u64) {
        let end = self.now + ns;
        while self.now < end {
            let first = usize::from(self.now.is_multiple_of(2));
            for who in [first, 1 - first] {
                if self.until[who] <= self.now {
                    self.ends[who].turn(who, Tick(self.now));
                }
            }
            let next = [HOST, TARGET].into_iter().filter_map(|who| {
                let roce = &self.ends[who].roce;
                let arrival = self.cable.borrow()[who].front().map(|(at, _)| *at);
                let due = roce.next_timeout().map(|due| due.0);
                let work = roce.has_work().then_some(self.now + 500);
                let next = arrival.into_iter().chain(due).chain(work).min()?;
                Some(next.max(self.until[who]))
            });
            self.now = next.min().unwrap_or(end).max(self.now + 1).min(end);
        }
    }

    /// These ends do not run for so many ns, but time goes on.
    fn stall(&mut self, ends: &[usize], ns: u64) {
        ends.iter().for_each(|who| self.until[*who] = self.now + ns);
        if ends.len() == 2 {
            self.now += ns;
        } else {
            self.run(ns);
        }
    }

    fn resent(&self) -> [u64; 2] {
        [HOST, TARGET].map(|who| self.ends[who].counter("resent"))
    }

    /// The connection lives, and goes on.
    fn goes_on(&mut self, what: &str) {
        let before = self.ends[HOST].done;
        self.run(MS / 2);
        assert_eq!((self.ends[HOST].over, self.ends[TARGET].over), (None, None));
        assert!(self.ends[HOST].done > before, "{what}");
    }
}

#[test]
fn a_machine_that_stood_still_sends_nothing_again() {
    for seed in 0..12 {
        let mut world = World::new(seed);
        for ms in [3, 300, 40, 500, 7, 120] {
            world.stall(&[HOST, TARGET], ms * MS);
            world.goes_on("after both stood still");
            assert_eq!(world.resent(), [0, 0], "seed {seed}, {ms} ms");
        }
    }
}

#[test]
fn who_stood_still_alone_sends_nothing_again() {
    for seed in 0..12 {
        for who in [HOST, TARGET] {
            let mut world = World::new(seed);
            world.stall(&[who], 300 * MS);
            world.goes_on("after one stood still");
            assert_eq!(world.resent()[who], 0, "seed {seed}");
        }
    }
}

#[test]
fn who_sends_and_does_not_look_sends_nothing_again() {
    for seed in 0..12 {
        let mut world = World::new(seed);
        for _ in 0..6 {
            world.stall(&[HOST], 50 * MS);
            world.ends[HOST].roce.flush(Tick(world.now));
        }
        world.goes_on("after one did not look");
        assert_eq!(world.resent()[HOST], 0, "seed {seed}");
    }
}

#[test]
fn a_pause_longer_than_a_peer_is_waited_for_ends_nothing() {
    for seed in 0..3 {
        let mut world = World::new(seed);
        world.stall(&[HOST, TARGET], 3 * GIVE_UP_NS);
        world.goes_on("after a long pause");
        assert_eq!(world.resent(), [0, 0], "seed {seed}");
    }
}

/// From when the peer is dead until that is found.
fn found_dead(world: &mut World, step: impl Fn(&mut World)) -> u64 {
    let died = world.now;
    world.until[TARGET] = u64::MAX;
    while world.ends[HOST].over.is_none() {
        step(world);
        assert!(world.now - died < 10 * GIVE_UP_NS, "nobody finds it");
    }
    let why = Why::Error(WcStatus::RetriesExceeded);
    assert_eq!(world.ends[HOST].over, Some(why));
    world.now - died
}

#[test]
fn a_dead_peer_is_found() {
    for seed in 0..3 {
        let found = found_dead(&mut World::new(seed), |world| world.run(MS));
        assert!((GIVE_UP_NS..GIVE_UP_NS * 11 / 10).contains(&found));
    }
}

#[test]
fn a_dead_peer_is_found_by_who_hardly_runs() {
    for seed in 0..3 {
        // It runs for 1 ms in 50.
        let found = found_dead(&mut World::new(seed), |world| {
            world.stall(&[HOST], 49 * MS);
            world.run(MS);
        });
        assert!((GIVE_UP_NS..GIVE_UP_NS * 2).contains(&found), "{found}");
    }
}
