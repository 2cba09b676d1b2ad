//! Which queue pair of software RoCEv2 sends first: who has little does not wait for those who have much, and nobody
//! waits for ever.

mod cable;

use cable::{HOST, TARGET, address, arrive, datagram, service};
use ferroce_buf::BufList;
use ferroce_engine::port::Tick;
use ferroce_transport::rdma::provider::{Answer, Demand, Dial, Event, QpId, Remote};
use ferroce_transport::roce::cm::Front;
use ferroce_transport::roce::device::{Device, Port};
use ferroce_transport::roce::packet::{self, Mtu};
use ferroce_transport::roce::payload::{Outlet, PacketOut, Route};

/// Answers of a queue pair that has much to send.
const MUCH: u32 = 32;
const DEMAND: Demand = Demand {
    recvs: MUCH,
    recv_data: 0,
    sends: 2 * MUCH,
    reads: 1,
};

/// Keeps what is sent, as long as there is room.
struct Kept {
    room: usize,
    datagrams: Vec<Vec<u8>>,
}

impl Kept {
    fn with_room(room: usize) -> Kept {
        Kept {
            room,
            datagrams: Vec::new(),
        }
    }

    /// The queue pairs that its packets are for, in order.
    fn order(&self) -> Vec<u32> {
        let to = |datagram: &Vec<u8>| packet::parse(datagram).expect("it is one").bth.dest_qpn;
        self.datagrams.iter().map(|one| to(one).get()).collect()
    }
}

impl Outlet for Kept {
    fn send(&mut self, route: &Route, packets: &[PacketOut<'_>]) -> usize {
        let count = packets.len().min(self.room);
        self.room -= count;
        let taken = packets[..count].iter();
        self.datagrams.extend(taken.map(|one| datagram(route, one)));
        count
    }
}

fn now() -> Tick {
    Tick(1)
}

/// A target with so many connections, and their queue pairs.
fn target(connections: usize) -> (Device, Vec<QpId>) {
    let device = |who| {
        let port = Port {
            ip: address(who).ip(),
            mtu: Mtu::MAX,
        };
        Device::new(vec![port], who as u64, 0, 1, who as u64)
    };
    let mut ends = [device(HOST), device(TARGET)];
    let mut front = Front::new(vec![service()]);
    let dial = Dial {
        local: None,
        peer: service(),
        private: b"",
        demand: DEMAND,
    };
    for _ in 0..connections {
        ends[HOST].connect(&dial, now()).expect("there is room");
    }
    // REQ, REP, RTU.
    for from in [HOST, TARGET, HOST] {
        let mut kept = Kept::with_room(usize::MAX);
        assert!(ends[from].transmit(now(), &mut kept));
        for one in &kept.datagrams {
            arrive(
                one,
                now(),
                1 - from,
                &mut front,
                &mut ends[1 - from],
                &DEMAND,
            );
        }
    }
    let [_, mut target] = ends;
    let mut up = Vec::new();
    while let Some(event) = target.poll(now()) {
        if let Event::Established { qp } = event {
            up.push(qp);
        }
    }
    assert_eq!(up.len(), connections);
    // What came with their beginning is no answer.
    target.transmit(now(), &mut Kept::with_room(usize::MAX));
    (target, up)
}

/// Posts answers of one packet each.
fn answer(target: &mut Device, qp: QpId, count: u32) {
    for _ in 0..count {
        let answer = Answer {
            tag: 0,
            remote: Remote { addr: 0, key: 0 },
            bufs: BufList::new(),
            capsule: Some([0; 16]),
            invalidate: None,
        };
        target.answer(qp, answer);
    }
}

#[test]
fn who_has_little_to_send_goes_first() {
    let (mut target, qps) = target(3);
    for (qp, count) in qps.iter().zip([MUCH, MUCH, 1]) {
        answer(&mut target, *qp, count);
    }
    let mut kept = Kept::with_room(usize::MAX);
    assert!(target.transmit(now(), &mut kept));
    let order = kept.order();
    assert_eq!(order.len() as u32, 2 * MUCH + 1);
    let little = order[0];
    assert_eq!(order.iter().filter(|to| **to == little).count(), 1);
    // The others in theirs, each all at once.
    let much = MUCH as usize;
    let all_one = |some: &[u32]| some.iter().all(|to| *to == some[0]);
    assert!(all_one(&order[1..=much]) && all_one(&order[much + 1..]));
}

#[test]
fn who_has_much_to_send_has_its_turn_where_there_is_not_room_for_all() {
    let (mut target, qps) = target(2);
    answer(&mut target, qps[0], MUCH);
    let mut sent = Vec::new();
    for _ in 0..8 {
        answer(&mut target, qps[1], 1);
        let mut kept = Kept::with_room(1);
        assert!(!target.transmit(now(), &mut kept));
        sent.extend(kept.order());
    }
    let little = sent[0];
    let count = sent.iter().filter(|to| **to == little).count();
    assert!((2..=6).contains(&count), "{count} of 8");
}
