//! An end of software RoCEv2 that does not run for a while: what lies answered in its sockets is not sent again, however
//! much that is, and no peer is taken for dead. One that is dead is found nevertheless, by an end that is never done
//! looking as well.

mod cable;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::rc::Rc;

use cable::{HOST, TARGET, address, arrive, datagram, service};
use ferroce_buf::BufList;
use ferroce_engine::port::Tick;
use ferroce_transport::rdma::provider::{
    Answer, Demand, Dial, Event, Message, Provider, QpId, Remote, WcStatus, Why,
};
use ferroce_transport::roce::cm::Front;
use ferroce_transport::roce::device::{Device, Port};
use ferroce_transport::roce::packet::Mtu;
use ferroce_transport::roce::payload::{Outlet, PacketOut, Route};
use ferroce_transport::roce::provider::{Line, Roce};

const MS: u64 = 1_000_000;
/// A peer that acknowledges nothing for this long, in ns, is gone.
const GIVE_UP_NS: u64 = 10_000 * MS;
/// How long a datagram is under way, in ns.
const DELAY: u64 = 20_000;
/// Datagrams that are taken at once.
const BATCH: usize = 16;
/// Connections, and messages that the host has out on each: together more datagrams than are taken in a turn.
const CONNECTIONS: usize = 8;
const DEPTH: u32 = 32;
const DEMAND: Demand = Demand {
    recvs: DEPTH,
    recv_data: 0,
    sends: 2 * DEPTH,
    reads: 1,
};

/// What is under way to each end, or waits in its socket.
type Cable = Rc<RefCell<[VecDeque<(u64, Vec<u8>)>; 2]>>;

struct Plug {
    cable: Cable,
    who: usize,
    now: Tick,
    front: Front,
    flooded: Rc<Cell<bool>>,
}

impl Outlet for Plug {
    fn send(&mut self, route: &Route, packets: &[PacketOut<'_>]) -> usize {
        for packet in packets {
            let arrives = self.now.0 + DELAY;
            self.cable.borrow_mut()[1 - self.who].push_back((arrives, datagram(route, packet)));
        }
        packets.len()
    }
}

impl Line for Plug {
    fn receive(&mut self, now: Tick, device: &mut Device) -> bool {
        self.now = now;
        for _ in 0..BATCH {
            let next = self.cable.borrow_mut()[self.who].pop_front_if(|(at, _)| *at <= now.0);
            let Some((_, datagram)) = next else {
                return self.flooded.get();
            };
            arrive(&datagram, now, self.who, &mut self.front, device, &DEMAND);
        }
        true
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

struct End {
    roce: Roce<Plug>,
    /// Others send so much that there is always more in its socket.
    flooded: Rc<Cell<bool>>,
    /// What became of the first that ended.
    over: Option<Why>,
    /// The host's messages that are answered.
    done: u64,
}

impl End {
    fn new(who: usize, cable: &Cable, random: &mut fastrand::Rng) -> End {
        let flooded = Rc::default();
        let plug = Plug {
            cable: cable.clone(),
            who,
            now: Tick(1),
            front: Front::new(vec![service()]),
            flooded: Rc::clone(&flooded),
        };
        let port = Port {
            ip: address(who).ip(),
            mtu: Mtu::MAX,
        };
        let device = Device::new(vec![port], random.u64(..), 0, 1, random.u64(..));
        End {
            roce: Roce::over(plug, device),
            flooded,
            over: None,
            done: 0,
        }
    }

    /// A turn. The target answers what it gets; for an answer, the host sends anew.
    fn turn(&mut self, who: usize, now: Tick) {
        while let Some(event) = self.roce.poll(now) {
            match event {
                Event::Established { qp } if who == HOST => (0..DEPTH).for_each(|_| self.ask(qp)),
                Event::Received { qp, .. } => {
                    self.roce.post_recv(qp, None);
                    if who == TARGET {
                        self.answer(qp);
                    } else {
                        self.done += 1;
                        self.ask(qp);
                    }
                }
                Event::Disconnected { why, .. } => self.over = self.over.or(Some(why)),
                _ => {}
            }
        }
        self.roce.flush(now);
    }

    fn ask(&mut self, qp: QpId) {
        let message = Message {
            tag: 0,
            head: [1; 64],
            bufs: BufList::new(),
        };
        self.roce.send(qp, message);
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

    fn resent(&self) -> u64 {
        let mut resent = None;
        self.roce.each_counter(&mut |name, count| {
            if name == "resent" {
                resent = Some(count);
            }
        });
        resent.expect("there is such a counter")
    }
}

struct World {
    now: u64,
    ends: [End; 2],
    /// This one does not run.
    stands_still: Option<usize>,
}

impl World {
    /// Two ends that are connected and busy.
    fn new(seed: u64) -> World {
        let mut random = fastrand::Rng::with_seed(seed);
        let cable = Cable::default();
        let ends = [HOST, TARGET].map(|who| End::new(who, &cable, &mut random));
        let mut world = World {
            now: 1,
            ends,
            stands_still: None,
        };
        let dial = Dial {
            local: None,
            peer: service(),
            private: b"",
            demand: DEMAND,
        };
        for _ in 0..CONNECTIONS {
            let host = &mut world.ends[HOST].roce;
            let qp = host.connect(&dial, Tick(1)).expect("there is room");
            (0..DEPTH).for_each(|_| host.post_recv(qp, None));
        }
        // A random number of datagrams is under way when this ends.
        world.run(MS + random.u64(..MS / 10), 5000);
        assert!(world.ends[HOST].done > 1000);
        world
    }

    /// Runs for so many ns, with so many between turns.
    fn run(&mut self, ns: u64, step: u64) {
        for _ in 0..ns / step {
            self.now += step;
            for who in [HOST, TARGET] {
                if self.stands_still != Some(who) {
                    self.ends[who].turn(who, Tick(self.now));
                }
            }
        }
    }

    fn stall(&mut self, who: usize, ns: u64) {
        self.stands_still = Some(who);
        self.run(ns, MS);
        self.stands_still = None;
    }

    /// The connections live, and go on.
    fn goes_on(&mut self) {
        let before = self.ends[HOST].done;
        self.run(MS / 2, 5000);
        assert_eq!((self.ends[HOST].over, self.ends[TARGET].over), (None, None));
        assert!(self.ends[HOST].done > before);
    }
}

#[test]
fn who_stood_still_sends_nothing_again_that_is_answered_in_its_socket() {
    for seed in 0..4 {
        for who in [HOST, TARGET] {
            let mut world = World::new(seed);
            world.stall(who, 300 * MS);
            world.goes_on();
            assert_eq!(world.ends[who].resent(), 0, "seed {seed}, end {who}");
        }
    }
}

#[test]
fn who_sends_before_it_looks_sends_nothing_again_that_is_answered_in_its_socket() {
    for seed in 0..4 {
        let mut world = World::new(seed);
        for _ in 0..6 {
            world.stall(HOST, 50 * MS);
            world.ends[HOST].roce.flush(Tick(world.now));
        }
        world.goes_on();
        assert_eq!(world.ends[HOST].resent(), 0, "seed {seed}");
    }
}

#[test]
fn a_dead_peer_is_found_by_who_always_has_more_to_look_at() {
    for flooded in [false, true] {
        let mut world = World::new(0);
        world.stands_still = Some(TARGET);
        world.ends[HOST].flooded.set(flooded);
        // As many ns between turns as a turn takes that is full.
        world.run(GIVE_UP_NS * 9 / 10, 100_000);
        assert_eq!(world.ends[HOST].over, None);
        let died = world.now;
        while world.ends[HOST].over.is_none() && world.now < died + GIVE_UP_NS {
            world.run(MS, 100_000);
        }
        let why = Why::Error(WcStatus::RetriesExceeded);
        assert_eq!(world.ends[HOST].over, Some(why));
    }
}
