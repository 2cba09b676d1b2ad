//! A host that crashed and came back asks for connections with queue pairs that the node still has connections with (stale
//! connections, InfiniBand 12.9.8.3.1): it is refused, and the old connection ends. One whose peer is there does not, whoever
//! asks in its name.

mod cable;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::rc::Rc;

use cable::{HOST, TARGET, address, datagram, service};
use ferroce_engine::port::{Fabric as _, Inbound, Room, Tick};
use ferroce_transport::rdma::fabric::RdmaFabric;
use ferroce_transport::rdma::provider::{Demand, Dial, Event, Incoming as _, STALE_MS, Why};
use ferroce_transport::roce::cm::{Front, Heard};
use ferroce_transport::roce::device::{Device, Port};
use ferroce_transport::roce::mad::{self, Message};
use ferroce_transport::roce::packet::{self, Mtu};
use ferroce_transport::roce::payload::{Outlet, PacketOut, Route};
use ferroce_transport::roce::provider::{Line, Roce};
use ferroce_wire::Wire;
use ferroce_wire::rdma::RdmaCmRequest;
use ferroce_wire::roce::RejectReason;

/// Entries of an admin queue.
const ENTRIES: u32 = 32;
const DEMAND: Demand = Demand {
    recvs: ENTRIES,
    recv_data: 0,
    sends: ENTRIES,
    reads: 0,
};
/// Between two looks at everything, in ms.
const STEP_MS: u64 = 1;

/// What is under way to each end.
type Cable = Rc<RefCell<[VecDeque<Vec<u8>>; 2]>>;

struct Plug(Cable, usize);

impl Outlet for Plug {
    fn send(&mut self, route: &Route, packets: &[PacketOut<'_>]) -> usize {
        let sent = packets.iter().map(|packet| datagram(route, packet));
        self.0.borrow_mut()[1 - self.1].extend(sent);
        packets.len()
    }
}

impl Line for Plug {
    fn receive(&mut self, now: Tick, device: &mut Device) -> bool {
        let arrived = std::mem::take(&mut self.0.borrow_mut()[self.1]);
        for datagram in arrived {
            device.receive(now, 0, address(1 - self.1), &datagram, 0);
        }
        false
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

fn device(who: usize, guid: u64) -> Device {
    let port = Port {
        ip: address(who).ip(),
        mtu: Mtu::MAX,
    };
    // One seed: a host that comes back has the numbers it had before.
    Device::new(vec![port], guid, 0, 1, who as u64)
}

/// A host with one queue pair.
struct Host {
    device: Device,
    up: bool,
    over: Option<Why>,
}

struct World {
    now: Tick,
    cable: Cable,
    front: Front,
    target: RdmaFabric<Roce<Plug>>,
    /// Connections that the target has, and had.
    opened: u32,
    closed: u32,
    /// None is off: what is sent to it is lost.
    host: Option<Host>,
    /// Lives of the host.
    lives: u64,
    dreqs: u32,
}

impl World {
    fn new() -> World {
        let cable = Cable::default();
        let roce = Roce::over(Plug(cable.clone(), TARGET), device(TARGET, 1));
        World {
            now: Tick(1),
            cable,
            front: Front::new(vec![service()]),
            target: RdmaFabric::new(roce, Vec::new()),
            opened: 0,
            closed: 0,
            host: None,
            lives: 1,
            dreqs: 0,
        }
    }

    /// A host that comes up and asks for a connection.
    fn dial(&mut self) -> Host {
        self.lives += 1;
        let mut device = device(HOST, self.lives);
        let private = RdmaCmRequest::new(0, ENTRIES as u16);
        let dial = Dial {
            local: None,
            peer: service(),
            private: private.as_bytes(),
            demand: DEMAND,
        };
        let qp = device.connect(&dial, self.now).expect("there is room");
        (0..ENTRIES).for_each(|_| device.post_recv(qp, None));
        Host {
            device,
            up: false,
            over: None,
        }
    }

    fn run(&mut self, ms: u64) {
        for _ in 0..ms / STEP_MS {
            self.step();
        }
    }

    fn step(&mut self) {
        self.now = self.now.plus_ms(STEP_MS);
        let now = self.now;
        if let Some(host) = &mut self.host {
            let arrived = std::mem::take(&mut self.cable.borrow_mut()[HOST]);
            for datagram in arrived {
                let parsed = packet::parse(&datagram).expect("ours are proper");
                let message = mad::parse(parsed.payload).map(|(_, message)| message);
                self.dreqs += u32::from(matches!(message, Some(Message::Dreq(_))));
                host.device.receive(now, 0, address(TARGET), &datagram, 0);
            }
            host.device.on_time(now, true);
            while let Some(event) = host.device.poll(now) {
                match event {
                    Event::Established { .. } => host.up = true,
                    Event::Disconnected { why, .. } => host.over = Some(why),
                    _ => {}
                }
            }
            let plug = &mut Plug(self.cable.clone(), HOST);
            host.device.transmit(now, plug);
        }
        self.cable.borrow_mut()[HOST].clear();
        self.knock();
        loop {
            match self.target.poll(now, Room::Any) {
                Some(Inbound::Opened { .. }) => self.opened += 1,
                Some(Inbound::Closed { .. }) => self.closed += 1,
                Some(_) => panic!("no host sends anything"),
                None => break,
            }
        }
        self.target.flush(now);
    }

    /// Requests go to the front, and from there to the core.
    fn knock(&mut self) {
        let arrived = std::mem::take(&mut self.cable.borrow_mut()[TARGET]);
        for datagram in arrived {
            let parsed = packet::parse(&datagram).expect("ours are proper");
            let Some((tid, Message::Req(req))) = mad::parse(parsed.payload) else {
                self.cable.borrow_mut()[TARGET].push_back(datagram);
                continue;
            };
            let local = (0, service().ip(), Mtu::MAX);
            match self
                .front
                .on_req(self.now, local, address(HOST), (tid, req))
            {
                Heard::Incoming(incoming) => {
                    assert_eq!(incoming.core().is_some(), incoming.stale().is_some());
                    self.target.adopt(incoming, self.now);
                }
                // As lost: it comes again.
                Heard::Reject(..) | Heard::Dropped(_) => {}
            }
        }
    }
}

const REFUSED: Option<Why> = Some(Why::Rejected {
    reason: RejectReason::STALE.0,
});

#[test]
fn a_host_that_came_back_is_refused_once_and_gets_in_then() {
    let mut world = World::new();
    let first = world.dial();
    world.host = Some(first);
    world.run(20);
    assert_eq!((world.opened, world.target.connections()), (1, 1));
    // It crashes, and is back with the numbers it had.
    let second = world.dial();
    world.host = Some(second);
    world.run(20);
    assert_eq!(world.host.as_ref().unwrap().over, REFUSED);
    assert_eq!((world.closed, world.dreqs), (0, 0));
    world.run(STALE_MS);
    assert_eq!((world.closed, world.target.connections()), (1, 0));
    assert!(world.dreqs > 0, "the peer is told");
    let third = world.dial();
    world.host = Some(third);
    world.run(20);
    assert!(world.host.as_ref().unwrap().up);
    assert_eq!((world.opened, world.closed), (2, 1));
}

#[test]
fn a_handshake_that_was_not_gone_on_with_is_stale_as_well() {
    let mut world = World::new();
    let first = world.dial();
    world.host = Some(first);
    world.step();
    assert_eq!((world.opened, world.target.connections()), (0, 1));
    // What was said to it is lost with it.
    world.cable.borrow_mut()[HOST].clear();
    let second = world.dial();
    world.host = Some(second);
    world.run(20);
    assert_eq!(world.host.as_ref().unwrap().over, REFUSED);
    world.host = None;
    world.run(STALE_MS);
    assert_eq!((world.opened, world.target.connections()), (0, 0));
}

#[test]
fn who_is_there_keeps_the_connection_whoever_asks_in_its_name() {
    let mut world = World::new();
    let host = world.dial();
    world.host = Some(host);
    world.run(20);
    for _ in 0..3 {
        let mut forger = world.dial();
        let plug = &mut Plug(world.cable.clone(), HOST);
        forger.device.transmit(world.now, plug);
        world.run(2 * STALE_MS);
    }
    let host = world.host.as_ref().unwrap();
    assert!(host.up && host.over.is_none());
    assert_eq!((world.opened, world.closed, world.dreqs), (1, 0, 0));
    assert_eq!(world.target.connections(), 1);
}
