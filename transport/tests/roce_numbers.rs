//! The numbers that keep out who can send with a false address, but sees no packets: queue pairs, first packets and
//! communication IDs are drawn anew for each connection, and the number of a queue pair rests before it comes again.

use std::cell::RefCell;
use std::collections::HashSet;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::rc::Rc;

use ferroce_engine::port::Tick;
use ferroce_transport::rdma::provider::{Demand, Dial, Event, Provider, QpId};
use ferroce_transport::roce::cm::{Front, Heard, Incoming};
use ferroce_transport::roce::device::{Device, Port};
use ferroce_transport::roce::mad::{self, Message};
use ferroce_transport::roce::packet::Mtu;
use ferroce_transport::roce::payload::{Outlet, PacketOut, Route};
use ferroce_transport::roce::provider::{Line, Roce};
use ferroce_wire::roce::{CmReq, PORT};

const DEMAND: Demand = Demand {
    recvs: 1,
    recv_data: 0,
    sends: 2,
    reads: 1,
};
const MS: u64 = 1_000_000;

fn address(text: &str, port: u16) -> SocketAddr {
    SocketAddr::new(text.parse().expect("an address"), port)
}

fn service() -> SocketAddr {
    address("10.0.0.1", 4420)
}

/// What a REQ or REP tells: communication ID, queue pair, first packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Numbers {
    id: u32,
    qpn: u32,
    psn: u32,
}

/// Keeps what is told; its seeds are in a row.
#[derive(Clone, Default)]
struct Told(Rc<RefCell<Inside>>);

#[derive(Default)]
struct Inside {
    numbers: Vec<Numbers>,
    requests: Vec<(u64, CmReq)>,
    seeds: u64,
}

impl Told {
    fn numbers(&self) -> Vec<Numbers> {
        std::mem::take(&mut self.0.borrow_mut().numbers)
    }
}

impl Outlet for Told {
    fn send(&mut self, _: &Route, packets: &[PacketOut<'_>]) -> usize {
        let mut inside = self.0.borrow_mut();
        for packet in packets {
            let (id, qpn, psn) = match mad::parse(&packet.payload.to_vec()) {
                Some((tid, Message::Req(req))) => {
                    inside.requests.push((tid, *req));
                    (req.local_id, req.qpn, req.starting_psn)
                }
                Some((_, Message::Rep(rep))) => (rep.local_id, rep.qpn, rep.starting_psn),
                _ => continue,
            };
            inside.numbers.push(Numbers {
                id: id.get(),
                qpn: qpn.get(),
                psn: psn.get(),
            });
        }
        packets.len()
    }
}

impl Line for Told {
    fn receive(&mut self, _: Tick, _: &mut Device) -> bool {
        false
    }

    fn seed(&mut self) -> Option<u64> {
        let mut inside = self.0.borrow_mut();
        inside.seeds += 1;
        Some(inside.seeds)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

fn device(ip: &str, worker: u8, seed: u64) -> Device {
    let port = Port {
        ip: address(ip, PORT).ip(),
        mtu: Mtu::MIN,
    };
    Device::new(vec![port], 1, worker, 3, seed)
}

fn dial() -> Dial<'static> {
    Dial {
        local: None,
        peer: service(),
        private: b"",
        demand: DEMAND,
    }
}

fn incoming(front: &mut Front, (tid, req): &(u64, CmReq)) -> Box<Incoming> {
    let local = (0, service().ip(), Mtu::MAX);
    match front.on_req(Tick(1), local, address("10.0.0.2", PORT), (*tid, req)) {
        Heard::Incoming(incoming) => incoming,
        _ => panic!("the request is proper"),
    }
}

#[test]
fn each_connection_has_a_seed_of_its_own() {
    let told = Told::default();
    let mut host = Roce::over(told.clone(), device("10.0.0.2", 1, 5));
    for count in 1..=3 {
        host.connect(&dial(), Tick(1)).expect("there is room");
        assert_eq!(told.0.borrow().seeds, count);
    }
    host.flush(Tick(1));
    let heard = Told::default();
    let mut target = Roce::over(heard.clone(), device("10.0.0.1", 2, 6));
    let mut front = Front::new(vec![service()]);
    for (i, request) in (0..).zip(&told.0.borrow().requests) {
        let incoming = incoming(&mut front, request);
        let qp = target.open(incoming, &DEMAND, Tick(1));
        assert_eq!(heard.0.borrow().seeds, 2 * i + 1);
        target.accept(qp.expect("there is room"), b"", Tick(1));
        assert_eq!(heard.0.borrow().seeds, 2 * i + 2);
    }
    target.flush(Tick(1));
    assert_eq!(heard.numbers().len(), 3);
    // Nothing but the seeds decides: what came before does not.
    let other = Told::default();
    let mut same = Roce::over(other.clone(), device("10.0.0.2", 1, 99));
    for _ in 0..3 {
        same.connect(&dial(), Tick(1)).expect("there is room");
    }
    same.flush(Tick(1));
    let numbers = told.numbers();
    assert_eq!(numbers.len(), 3);
    assert_eq!(numbers, other.numbers());
}

#[test]
fn numbers_of_two_devices_have_nothing_in_common_but_the_core() {
    const COUNT: usize = 1000;
    let of = |seed| {
        let mut device = device("10.0.0.2", 1, seed);
        for _ in 0..COUNT {
            device.connect(&dial(), Tick(1)).expect("there is room");
        }
        let mut told = Told::default();
        while !device.transmit(Tick(1), &mut told) {}
        told.numbers()
    };
    let both = [of(1), of(2)];
    for numbers in &both {
        assert_eq!(numbers.len(), COUNT);
        for of in [
            |numbers: &Numbers| numbers.qpn,
            |numbers: &Numbers| numbers.id,
        ] {
            // Their low byte says which of three cores is to have what comes for them.
            assert!(numbers.iter().all(|each| (of(each) & 0xFF) % 3 == 1));
            let distinct: HashSet<_> = numbers.iter().map(of).collect();
            assert_eq!(distinct.len(), COUNT);
        }
        // First packets are from anywhere: some in each 64th of the circle.
        let parts: HashSet<_> = numbers.iter().map(|each| each.psn >> 18).collect();
        assert_eq!(parts.len(), 64);
        let near = |pair: &[Numbers]| pair[0].psn.abs_diff(pair[1].psn) < 256;
        assert!(numbers.windows(2).filter(|pair| near(pair)).count() < 5);
    }
    // Of 2^24 numbers a third is this core's, and a thousand of each are drawn: some few may meet.
    for of in [
        |numbers: &Numbers| numbers.qpn,
        |numbers: &Numbers| numbers.psn,
        |numbers: &Numbers| numbers.id,
    ] {
        let first: HashSet<_> = both[0].iter().map(of).collect();
        let common = both[1].iter().filter(|each| first.contains(&of(each)));
        assert!(common.count() < 5);
    }
}

/// Connects by numbers of always the same seed, and tells the queue pair's.
fn connect(device: &mut Device, now: Tick) -> (QpId, u32) {
    device.reseed(7);
    let qp = device.connect(&dial(), now).expect("there is room");
    let mut told = Told::default();
    assert!(device.transmit(now, &mut told));
    let [Numbers { qpn, .. }] = told.numbers()[..] else {
        panic!("one connection is asked for")
    };
    (qp, qpn)
}

fn close(device: &mut Device, qp: QpId, now: Tick) {
    device.close(qp, now);
    let gone = std::iter::from_fn(|| device.poll(now)).last();
    assert!(
        matches!(gone, Some(Event::Gone { qp: gone }) if gone == qp),
        "{gone:?}"
    );
}

#[test]
fn the_number_of_a_queue_pair_rests() {
    let mut device = device("10.0.0.2", 1, 5);
    let begin = Tick(1);
    let (qp, first) = connect(&mut device, begin);
    close(&mut device, qp, begin);
    let mut seen = HashSet::from([first]);
    for i in 0..1000 {
        // Packets are under way for less than 4 s.
        let now = begin.plus_ns(i * 3_999 * MS / 1000);
        let (qp, qpn) = connect(&mut device, now);
        assert!(seen.insert(qpn), "{qpn} comes again after {i} others");
        close(&mut device, qp, now);
    }
    // It is the first that this seed gives, and has not gone for ever.
    let (_, again) = connect(&mut device, begin.plus_ns(4_000 * MS));
    assert_eq!(again, first);
}
