//! What loss costs, in virtual time: two ends of software RoCEv2 on a cable that loses one packet of a hundred by a seed.

mod cable;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::sync::Arc;

use cable::{HOST, TARGET, address, arrive, datagram, service};
use ferroce_buf::{BufList, Class, Home, Pool, Region, Want};
use ferroce_engine::port::Tick;
use ferroce_transport::rdma::provider::{
    Access, Answer, Demand, Dial, Event, Message, Provider, QpId, Remote,
};
use ferroce_transport::roce::cm::Front;
use ferroce_transport::roce::device::{Device, Port};
use ferroce_transport::roce::packet::Mtu;
use ferroce_transport::roce::payload::{Outlet, PacketOut, Route};
use ferroce_transport::roce::provider::{Line, Roce};

/// How long a datagram is under way, in ns.
const DELAY: u64 = 20_000;
/// How long one keeps the cable, in ns: what a core takes for one, more or less.
const EACH: u64 = 1000;
/// Between two turns of an end, in ns.
const STEP: u64 = 2_000;
const PIECE: usize = 128 * 1024;

struct Cable {
    /// What is under way to each end, and when it arrives.
    flights: [VecDeque<(u64, Vec<u8>)>; 2],
    /// Since when the cable to each end is free.
    free: [u64; 2],
    /// Of a thousand datagrams.
    loss: u32,
    random: fastrand::Rng,
}

struct Plug {
    cable: Rc<RefCell<Cable>>,
    who: usize,
    now: u64,
    front: Front,
    demand: Demand,
}

impl Outlet for Plug {
    fn send(&mut self, route: &Route, packets: &[PacketOut<'_>]) -> usize {
        let cable = &mut *self.cable.borrow_mut();
        let to = 1 - self.who;
        for packet in packets {
            cable.free[to] = cable.free[to].max(self.now) + EACH;
            if cable.random.u32(..1000) >= cable.loss {
                cable.flights[to].push_back((cable.free[to] + DELAY, datagram(route, packet)));
            }
        }
        packets.len()
    }
}

impl Line for Plug {
    fn receive(&mut self, now: Tick, device: &mut Device) -> bool {
        self.now = now.0;
        for _ in 0..64 {
            let due = |(at, _): &mut (u64, _)| *at <= now.0;
            let next = self.cable.borrow_mut().flights[self.who].pop_front_if(due);
            let Some((_, datagram)) = next else {
                return false;
            };
            arrive(
                &datagram,
                now,
                self.who,
                &mut self.front,
                device,
                &self.demand,
            );
        }
        true
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// A host that has so many READs of so many bytes out at a target, and how many were answered.
struct World {
    now: u64,
    cable: Rc<RefCell<Cable>>,
    ends: [Roce<Plug>; 2],
    pools: [Pool; 2],
    len: usize,
    depth: u32,
    grant: Option<Remote>,
    done: u64,
}

impl World {
    fn new(seed: u64, depth: u32, len: usize) -> World {
        let mut random = fastrand::Rng::with_seed(seed);
        let cable = Rc::new(RefCell::new(Cable {
            flights: Default::default(),
            free: [0; 2],
            loss: 0,
            random: random.fork(),
        }));
        let demand = Demand {
            recvs: depth,
            recv_data: 0,
            sends: 2 * depth,
            reads: 1,
        };
        let ends = [HOST, TARGET].map(|who| {
            let plug = Plug {
                cable: cable.clone(),
                who,
                now: 1,
                front: Front::new(vec![service()]),
                demand,
            };
            let port = Port {
                ip: address(who).ip(),
                mtu: Mtu::from_code(3).expect("1024 bytes"),
            };
            let device = Device::new(vec![port], random.u64(..), 0, 1, random.u64(..));
            Roce::over(plug, device)
        });
        let pools = [HOST, TARGET].map(|_| {
            let class = Class {
                size: PIECE,
                count: 64,
            };
            let region = Region::map(Pool::bytes(&[class]), Want::default()).expect("memory");
            Pool::new(Arc::new(region), 0, Home::CORE, &[class])
        });
        let mut world = World {
            now: 1,
            cable,
            ends,
            pools,
            len,
            depth,
            grant: None,
            done: 0,
        };
        let dial = Dial {
            local: None,
            peer: service(),
            private: b"",
            demand,
        };
        let host = &mut world.ends[HOST];
        let qp = host.connect(&dial, Tick(1)).expect("there is room");
        (0..depth).for_each(|_| host.post_recv(qp, None));
        world
    }

    fn bufs(&mut self, who: usize) -> BufList {
        let mut bufs = BufList::new();
        let mut buf = self.pools[who].take(PIECE).expect("one each");
        buf.truncate(self.len);
        bufs.push(buf);
        bufs
    }

    fn ask(&mut self, qp: QpId) {
        let grant = self.grant.expect("it is granted first");
        let mut head = [0; 64];
        head[..8].copy_from_slice(&grant.addr.to_le_bytes());
        head[8..12].copy_from_slice(&grant.key.to_le_bytes());
        let message = Message {
            tag: 0,
            head,
            bufs: BufList::new(),
        };
        self.ends[HOST].send(qp, message);
    }

    fn on_event(&mut self, who: usize, event: Event) {
        match event {
            Event::Established { qp } if who == HOST => {
                let bufs = self.bufs(HOST);
                let grant = self.ends[HOST].grant(qp, bufs, Access::Write);
                self.grant = Some(grant.expect("there is room"));
                (0..self.depth).for_each(|_| self.ask(qp));
            }
            Event::Received { qp, head, .. } if who == TARGET => {
                self.ends[TARGET].post_recv(qp, None);
                let answer = Answer {
                    tag: 0,
                    remote: Remote {
                        addr: u64::from_le_bytes(*head.first_chunk().expect("8 bytes")),
                        key: u32::from_le_bytes(*head[8..].first_chunk().expect("4 bytes")),
                    },
                    bufs: self.bufs(TARGET),
                    capsule: Some([0; 16]),
                    invalidate: None,
                };
                self.ends[TARGET].answer(qp, answer);
            }
            Event::Received { qp, .. } => {
                self.ends[HOST].post_recv(qp, None);
                self.done += 1;
                self.ask(qp);
            }
            Event::Sent { bufs, .. } => self.pools[who].put_all(bufs),
            Event::Disconnected { why, .. } => panic!("{who} loses the connection: {why:?}"),
            _ => {}
        }
    }

    /// How many ns so many READs take.
    fn run(&mut self, count: u64) -> u64 {
        let (begin, upto) = (self.now, self.done + count);
        while self.done < upto {
            self.now += STEP;
            let now = Tick(self.now);
            for who in [HOST, TARGET] {
                while let Some(event) = self.ends[who].poll(now) {
                    self.on_event(who, event);
                }
                self.ends[who].flush(now);
            }
            assert!(self.now - begin < 100_000_000_000, "it stands still");
        }
        self.now - begin
    }
}

/// What is left of the speed when one datagram of a hundred is lost.
fn left(depth: u32, len: usize, count: u64) -> f64 {
    let mut world = World::new(u64::from(depth), depth, len);
    // The window opens first.
    world.run(count / 2);
    let clean = world.run(count);
    world.cable.borrow_mut().loss = 10;
    let lossy = world.run(count);
    let left = clean as f64 / lossy as f64;
    println!("QD{depth}, {len} bytes: {left:.2} of the speed are left");
    left
}

#[test]
fn a_good_part_of_the_speed_survives_the_loss_of_one_packet_in_a_hundred() {
    // One in twelve loses a packet.
    assert!(left(1, 4096, 2000) > 0.65);
    // One in fourteen, and what was sent behind that packet is sent again.
    assert!(left(32, 4096, 6000) > 0.45);
    // Each loses more than one packet.
    assert!(left(8, 128 * 1024, 500) > 0.35);
}
