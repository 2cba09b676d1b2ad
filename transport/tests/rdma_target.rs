//! The target's end of NVMe/RDMA: the machine by state, then the fabric over in-memory queue pairs
//! with a host whose every message is written down here.

use std::sync::Arc;

use ferroce_buf::{Buf, BufList, Class, Home, Pool, Region, Want};
use ferroce_engine::limits;
use ferroce_engine::port::{Close, ConnId, Fabric, Fetch, Inbound, Reply, Room, Tag, Tick};
use ferroce_engine::table::Transport;
use ferroce_transport::rdma::fabric::RdmaFabric;
use ferroce_transport::rdma::memory::{LIMITS, MemoryProvider, World};
use ferroce_transport::rdma::provider::{
    Access, Answer, Demand, Dial, Event, Limits, Message, PrivateData, Provider, QpId, Remote,
    Request, WcStatus, Why,
};
use ferroce_transport::rdma::target::{
    ANSWERS_WAITING_MAX, Arrival, Outcome, State, Target, Wanted, outcome,
};
use ferroce_wire::Wire;
use ferroce_wire::cqe::Cqe;
use ferroce_wire::rdma::{RdmaCmAccept, RdmaCmReject, RdmaCmRequest, RdmaCmStatus};
use ferroce_wire::sqe::{KeyedSgl, Sgl, Sqe};
use ferroce_wire::status::Status;

const NOW: Tick = Tick(1);
const SERVER: &str = "10.0.0.1:4420";
const CLIENT: &str = "10.0.0.2:0";

#[test]
fn the_table_is_this() {
    let states = [State::Opening, State::Live, State::Ending, State::Over];
    let arrivals = [
        Arrival::Established,
        Arrival::Capsule,
        Arrival::Stub,
        Arrival::AllSent,
        Arrival::Disconnected,
    ];
    let mut table = String::new();
    for state in states {
        for arrival in arrivals {
            table += &format!("{state:?} + {arrival:?}: {:?}\n", outcome(state, arrival));
        }
    }
    let expected = "\
Opening + Established: Open
Opening + Capsule: Close
Opening + Stub: Close
Opening + AllSent: Ignore
Opening + Disconnected: GiveUp
Live + Established: Ignore
Live + Capsule: Execute
Live + Stub: Close
Live + AllSent: Ignore
Live + Disconnected: GiveUp
Ending + Established: Ignore
Ending + Capsule: Ignore
Ending + Stub: Close
Ending + AllSent: Close
Ending + Disconnected: GiveUp
Over + Established: Ignore
Over + Capsule: Ignore
Over + Stub: Ignore
Over + AllSent: Ignore
Over + Disconnected: Ignore
";
    assert_eq!(table, expected);
}

mod request {
    use super::*;

    fn check(private: &[u8], responder_resources: u8) -> Result<Wanted, RdmaCmStatus> {
        Wanted::check(&Request {
            local: SERVER.parse().unwrap(),
            peer: CLIENT.parse().unwrap(),
            private: PrivateData::new(private),
            responder_resources,
            initiator_depth: 0,
        })
    }

    fn with(change: impl FnOnce(&mut RdmaCmRequest)) -> Result<Wanted, RdmaCmStatus> {
        let mut private = RdmaCmRequest::new(1, 128);
        change(&mut private);
        check(private.as_bytes(), 1)
    }

    #[test]
    fn linux_is_taken() {
        let linux = with(|_| {}).unwrap();
        assert_eq!((linux.qid, linux.entries), (1, 128));
        assert_eq!(linux.accept().crqsize.get(), 128);
        let demand = linux.demand();
        assert_eq!((demand.recvs, demand.recv_data), (128, limits::IN_CAPSULE));
        // The field of the REQ is longer than the data.
        let mut field = [0; 56];
        field[..32].copy_from_slice(RdmaCmRequest::new(0, 32).as_bytes());
        let admin = check(&field, 128).unwrap();
        assert_eq!((admin.qid, admin.entries), (0, 32));
        assert_eq!(admin.demand().recv_data, 0);
    }

    #[test]
    fn each_field_has_its_refusal() {
        let short = &RdmaCmRequest::new(1, 128).as_bytes()[..31].to_vec();
        let length = RdmaCmStatus::INVALID_PRIVATE_DATA_LENGTH;
        assert_eq!(check(short, 1), Err(length));
        assert_eq!(check(&[], 1), Err(length));
        assert_eq!(
            with(|private| private.recfmt = 1.into()),
            Err(RdmaCmStatus::INVALID_RECFMT)
        );
        let qid = |qid: u16| with(|private| private.qid = qid.into());
        assert!(qid(limits::IO_QUEUES_MAX).is_ok());
        assert_eq!(
            qid(limits::IO_QUEUES_MAX + 1),
            Err(RdmaCmStatus::INVALID_QID)
        );
        let entries = |qid: u16, hsqsize: u16| {
            with(|private| {
                private.qid = qid.into();
                private.hsqsize_z = hsqsize.into();
                private.hrqsize = u16::MAX.into();
            })
        };
        let hsqsize = Err(RdmaCmStatus::INVALID_HSQSIZE);
        assert_eq!(entries(1, 0), hsqsize);
        assert!(entries(1, 1).is_ok() && entries(1, 1023).is_ok() && entries(0, 255).is_ok());
        assert_eq!(entries(1, 1024), hsqsize);
        assert_eq!(entries(1, u16::MAX), hsqsize);
        assert_eq!(entries(0, 256), hsqsize);
        let hrqsize = |hrqsize: u16| with(|private| private.hrqsize = hrqsize.into());
        assert!(hrqsize(127).is_ok() && hrqsize(129).is_ok());
        assert_eq!(hrqsize(126), Err(RdmaCmStatus::INVALID_HRQSIZE));
        let private = RdmaCmRequest::new(1, 128);
        let nothing_read = check(private.as_bytes(), 0);
        assert_eq!(nothing_read, Err(RdmaCmStatus::INVALID_IRD));
    }
}

mod machine {
    use super::*;

    fn live(limits: Limits) -> Target {
        let mut target = Target::new(limits);
        assert!(target.established());
        assert!(!target.established());
        target
    }

    fn reply(kind: u8, status: Status) -> Reply {
        let mut sgl = Sgl::from(KeyedSgl::new(0x1000, 4096, 0xABCD, true));
        sgl.kind = kind;
        Reply {
            cid: 7,
            sgl,
            offset: 0,
            bufs: BufList::new(),
            last: false,
            cqe: Some(Cqe::new(7, status)),
            may_elide_cqe: true,
        }
    }

    #[test]
    fn the_key_is_invalidated_when_asked_and_then_only() {
        let mut target = live(LIMITS);
        let mut invalidates = |kind, status| {
            let answer = target.reply(reply(kind, status)).unwrap().unwrap();
            let cqe: Cqe = bytemuck::cast(answer.capsule.unwrap());
            assert_eq!((cqe.cid.get(), cqe.status()), (7, status));
            answer.invalidate
        };
        let error = Status::LBA_OUT_OF_RANGE;
        for status in [Status::SUCCESS, error] {
            assert_eq!(invalidates(Sgl::KEYED_INVALIDATE, status), Some(0xABCD));
            assert_eq!(invalidates(Sgl::KEYED, status), None);
            assert_eq!(invalidates(Sgl::IN_CAPSULE, status), None);
            assert_eq!(invalidates(0, status), None);
        }
        let mut cannot = live(Limits {
            invalidate: false,
            ..LIMITS
        });
        let plain = cannot.reply(reply(Sgl::KEYED_INVALIDATE, error)).unwrap();
        assert_eq!(plain.unwrap().invalidate, None);
    }

    #[test]
    fn data_before_the_last_carries_neither_completion_nor_key() {
        let mut pool = pool(Home::CORE, &[(4096, 4)]);
        let mut target = live(LIMITS);
        let part = Reply {
            offset: 8192,
            bufs: bufs(&mut pool, &[4096], 1),
            cqe: None,
            ..reply(Sgl::KEYED_INVALIDATE, Status::SUCCESS)
        };
        let answer = target.reply(part).unwrap().unwrap();
        let remote = Remote {
            addr: 0x1000 + 8192,
            key: 0xABCD,
        };
        assert_eq!((answer.remote, answer.invalidate), (remote, None));
        assert!(answer.capsule.is_none());
        pool.put_all(answer.bufs);
    }

    #[test]
    fn what_the_queue_pair_has_no_room_for_waits_in_order() {
        let few = Limits {
            sends: 80,
            sges: 1,
            reads: 4,
            ..LIMITS
        };
        let mut target = live(few);
        let mut out = 0;
        for _ in 0..47 {
            let answer = target.reply(reply(Sgl::KEYED, Status::SUCCESS)).unwrap();
            out += u32::from(answer.is_some());
        }
        assert_eq!(out, 47, "33 are kept for READs: what one may take");
        for cid in 0..ANSWERS_WAITING_MAX as u16 {
            assert!(target.wants_more());
            let mut waits = reply(Sgl::KEYED, Status::SUCCESS);
            waits.cqe = Some(Cqe::new(cid, Status::SUCCESS));
            assert!(target.reply(waits).unwrap().is_none());
        }
        assert!(!target.wants_more());
        assert!(target.next_answer().is_none());
        for cid in 0..ANSWERS_WAITING_MAX as u16 {
            target.sent(1);
            let answer = target.next_answer().unwrap();
            let cqe: Cqe = bytemuck::cast(answer.capsule.unwrap());
            assert_eq!(cqe.cid.get(), cid);
            assert!(target.next_answer().is_none() && target.wants_more());
        }
    }

    #[test]
    fn reads_are_chained_within_what_the_host_serves() {
        let mut pool = pool(Home::CORE, &[(4096, 8)]);
        let mut target = live(Limits { reads: 2, ..LIMITS });
        let mut posted = Vec::new();
        for slot in 0..5 {
            let read = target.fetch(fetch(&mut pool, slot, 4096)).unwrap();
            posted.extend(read);
        }
        assert_eq!(posted.len(), 2);
        for slot in 0..5 {
            let read = posted.remove(0);
            assert_eq!(read.remote.addr, 0x1000 + 4096 * u64::from(slot));
            assert_eq!(target.read_done(read.tag).slot, slot);
            pool.put_all(read.bufs);
            posted.extend(target.next_read());
            assert!(target.next_read().is_none());
        }
        assert!(target.is_empty() && pool.out() == 0);
    }

    #[test]
    fn it_ends_when_the_last_is_acknowledged() {
        let mut pool = pool(Home::CORE, &[(4096, 4)]);
        let mut target = live(LIMITS);
        let answer = target.reply(reply(Sgl::KEYED, Status::SUCCESS)).unwrap();
        let mut back = Vec::new();
        assert!(!target.end(&mut |bufs| back.push(bufs)));
        assert_eq!(target.state(), State::Ending);
        assert!(target.fetch(fetch(&mut pool, 1, 4096)).is_err_and(|bufs| {
            pool.put_all(bufs);
            true
        }));
        target.sent(answer.unwrap().tag);
        assert!(target.is_to_close() && target.is_empty());
        target.give_up(&mut |bufs| back.push(bufs));
        assert!(!target.is_to_close() && back.is_empty());
        assert!(target.reply(reply(Sgl::KEYED, Status::SUCCESS)).is_err());
    }

    #[test]
    fn a_message_too_short_for_a_command_ends_the_connection() {
        let mut target = live(LIMITS);
        assert_eq!(target.received(64), Outcome::Execute);
        assert_eq!(target.received(63), Outcome::Close);
        assert_eq!(target.received(0), Outcome::Close);
    }
}

fn pool(at: Home, classes: &[(usize, usize)]) -> Pool {
    let classes: Vec<Class> = classes
        .iter()
        .map(|&(size, count)| Class { size, count })
        .collect();
    let region = Region::map(Pool::bytes(&classes), Want::default()).expect("memory");
    Pool::new(Arc::new(region), 0, at, &classes)
}

fn bufs(pool: &mut Pool, lens: &[usize], fill: u8) -> BufList {
    let mut list = BufList::new();
    for len in lens {
        let mut buf = pool.take(*len).expect("the pool is large enough");
        buf.bytes_mut().fill(fill);
        list.push(buf);
    }
    list
}

fn fetch(pool: &mut Pool, slot: u32, len: usize) -> Fetch {
    Fetch {
        tag: Tag {
            slot,
            generation: 3,
        },
        cid: slot as u16,
        sgl: KeyedSgl::new(0x1000, 0x10_0000, 0xABCD, true).into(),
        offset: slot * len as u32,
        bufs: bufs(pool, &[len], 0),
    }
}

/// What the fabric reported.
#[derive(Debug)]
enum Seen {
    Opened(ConnId),
    Capsule(ConnId, Sqe, Vec<u8>),
    Fetched(Tag, Vec<u8>),
    Closed(ConnId),
}

/// A fabric with a pool in the engine's place, and a host's end.
struct Bench {
    world: World,
    fabric: RdmaFabric<MemoryProvider>,
    host: MemoryProvider,
    pool: Pool,
    recvs: usize,
    now: Tick,
    /// Hosts are admitted as soon as they come.
    admits: bool,
}

const HOST_RECVS: u32 = 64;

/// How a host asks for a connection.
fn dial(private: &[u8], recvs: u32) -> Dial<'_> {
    Dial {
        local: None,
        peer: SERVER.parse().unwrap(),
        private,
        demand: Demand {
            recvs,
            recv_data: 0,
            sends: 64,
            reads: 0,
        },
    }
}

impl Bench {
    fn new(recvs: usize, host: Limits) -> Bench {
        let world = World::punctual();
        let server = world.end("10.0.0.1".parse().unwrap(), LIMITS);
        let host = world.end("10.0.0.2".parse().unwrap(), host);
        let mut landing = pool(Home(9), &[(limits::IN_CAPSULE as usize, recvs.max(1))]);
        let bufs: Vec<Buf> = (0..recvs)
            .map(|_| landing.take(limits::IN_CAPSULE as usize).unwrap())
            .collect();
        // Its memory stays mapped, since Bufs are out.
        drop(landing);
        Bench {
            fabric: RdmaFabric::new(server, bufs),
            world,
            host,
            pool: pool(Home::CORE, &[(4096, 64), (limits::CHUNK_LEN as usize, 8)]),
            recvs,
            now: NOW,
            admits: true,
        }
    }

    fn ask(&mut self, private: &[u8]) -> QpId {
        let qp = self.host.connect(&dial(private, HOST_RECVS), NOW).unwrap();
        for _ in 0..HOST_RECVS {
            self.host.post_recv(qp, None);
        }
        while let Some(incoming) = self.world.incoming() {
            self.fabric.adopt(incoming, NOW);
        }
        qp
    }

    fn turn(&mut self, room: bool) -> Vec<Seen> {
        let room = if room { Room::Any } else { Room::None };
        self.turn_with(room)
    }

    fn turn_with(&mut self, room: Room) -> Vec<Seen> {
        let mut seen = Vec::new();
        let mut opened = Vec::new();
        while let Some(inbound) = self.fabric.poll(self.now, room) {
            seen.push(match inbound {
                Inbound::Opened {
                    conn, transport, ..
                } => {
                    assert_eq!(transport, Transport::Rdma);
                    opened.push(conn);
                    Seen::Opened(conn)
                }
                Inbound::Capsule { conn, sqe, data } => {
                    Seen::Capsule(conn, *sqe, data.bytes().to_vec())
                }
                Inbound::Fetched { tag, bufs, .. } => {
                    let mut data = vec![0; bufs.len()];
                    bufs.copy_out(0, &mut data);
                    self.pool.put_all(bufs);
                    Seen::Fetched(tag, data)
                }
                Inbound::Closed { conn } => Seen::Closed(conn),
                Inbound::Spoiled { .. } => panic!("RDMA has no digests"),
            });
        }
        if self.admits {
            opened.drain(..).for_each(|conn| self.fabric.admitted(conn));
        }
        self.fabric.flush(self.now);
        while let Some(bufs) = self.fabric.home() {
            self.pool.put_all(bufs);
        }
        seen
    }

    fn turns(&mut self) -> Vec<Seen> {
        let mut seen = Vec::new();
        for _ in 0..8 {
            seen.extend(self.turn(true));
        }
        seen
    }

    /// Connects an I/O queue of 32.
    fn open(&mut self) -> (QpId, ConnId) {
        let qp = self.ask(RdmaCmRequest::new(1, 32).as_bytes());
        let seen = self.turns();
        let [Seen::Opened(conn)] = seen[..] else {
            panic!("{seen:?}")
        };
        let event = self.host.poll(NOW);
        assert!(matches!(event, Some(Event::Established { qp: it }) if it == qp));
        let accept = RdmaCmAccept::read(self.host.private(qp).bytes()).unwrap();
        assert_eq!(accept.crqsize.get(), 32);
        (qp, conn)
    }

    fn send(&mut self, qp: QpId, sqe: &Sqe, data: &[u8]) {
        let mut list = BufList::new();
        if !data.is_empty() {
            let mut buf = self.pool.take(data.len()).unwrap();
            buf.bytes_mut().copy_from_slice(data);
            list.push(buf);
        }
        let message = Message {
            tag: 0,
            head: bytemuck::cast(*sqe),
            bufs: list,
        };
        self.host.send(qp, message);
    }

    fn host_events(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(event) = self.host.poll(NOW) {
            match event {
                Event::Sent {
                    bufs,
                    status: WcStatus::Success,
                    ..
                } => self.pool.put_all(bufs),
                other => events.push(other),
            }
        }
        events
    }

    /// Nothing is left of any connection, and everything is at home.
    fn all_is_home(&mut self) {
        self.turns();
        for event in self.host_events() {
            if let Event::Sent { bufs, .. } = event {
                self.pool.put_all(bufs);
            }
        }
        assert_eq!(self.fabric.connections(), 0);
        assert_eq!(self.fabric.spare_recvs(), self.recvs);
        assert_eq!(self.pool.out(), 0);
        assert!(!self.fabric.has_work());
    }
}

fn sqe(cid: u16) -> Sqe {
    Sqe::new(1).with_ids(cid, 1)
}

#[test]
fn a_capsule_with_data_comes_whole_and_its_recv_goes_back_before_the_answer() {
    let mut bench = Bench::new(32, LIMITS);
    let (qp, conn) = bench.open();
    assert_eq!(bench.fabric.spare_recvs(), 0);
    let data: Vec<u8> = (0..5000u32).map(|at| at as u8).collect();
    // Four times as many as there are RECVs: each must have been posted again.
    for cid in 0..128 {
        bench.send(qp, &sqe(cid), &data[..usize::from(cid) * 39]);
        let seen = bench.turns();
        let [Seen::Capsule(from, sqe, got)] = &seen[..] else {
            panic!("{seen:?}")
        };
        assert_eq!((*from, sqe.cid.get()), (conn, cid));
        assert_eq!(got, &data[..usize::from(cid) * 39]);
        bench.host_events();
    }
    bench.fabric.close(conn, Close::Now);
    assert!(matches!(bench.turns()[..], [Seen::Closed(it)] if it == conn));
    bench.all_is_home();
}

#[test]
fn data_is_written_before_the_completion_arrives_and_comes_home_when_acknowledged() {
    let mut bench = Bench::new(32, LIMITS);
    let (qp, conn) = bench.open();
    let place = bufs(&mut bench.pool, &[4096, 4096], 0);
    let remote = bench.host.grant(qp, place, Access::Write).unwrap();
    bench.send(qp, &sqe(5), &[]);
    bench.turns();
    let reply = Reply {
        cid: 5,
        sgl: KeyedSgl::new(remote.addr, 8192, remote.key, true).into(),
        offset: 4096,
        bufs: bufs(&mut bench.pool, &[1000, 3096], 0x77),
        last: true,
        cqe: Some(Cqe::new(5, Status::SUCCESS)),
        may_elide_cqe: true,
    };
    bench.fabric.reply(conn, reply);
    assert_eq!(bench.pool.out(), 4);
    bench.turns();
    assert_eq!(bench.pool.out(), 2, "what was sent is home");
    let events = bench.host_events();
    let [
        Event::Received {
            len: 16,
            head,
            invalidated,
            ..
        },
    ] = &events[..]
    else {
        panic!("{events:?}")
    };
    assert_eq!(*invalidated, Some(remote.key));
    let cqe = Cqe::read(&head[..16]).unwrap();
    assert_eq!((cqe.cid.get(), cqe.status()), (5, Status::SUCCESS));
    let place = bench.host.revoke(qp, remote.key).unwrap();
    let mut got = vec![0; 8192];
    place.copy_out(0, &mut got);
    assert!(got[..4096].iter().all(|byte| *byte == 0));
    assert!(got[4096..].iter().all(|byte| *byte == 0x77));
    bench.pool.put_all(place);
    assert!(bench.host.revoke(qp, remote.key).is_none());
    bench.host.close(qp, NOW);
    assert!(matches!(bench.turns()[..], [Seen::Closed(it)] if it == conn));
    bench.all_is_home();
}

#[test]
fn data_is_read_from_the_host() {
    let mut bench = Bench::new(32, Limits { reads: 2, ..LIMITS });
    let (qp, conn) = bench.open();
    let data = bufs(&mut bench.pool, &[128 * 1024], 0);
    let remote = bench.host.grant(qp, data, Access::Read).unwrap();
    for slot in 0..8 {
        let fetch = Fetch {
            sgl: KeyedSgl::new(remote.addr, 128 * 1024, remote.key, true).into(),
            ..fetch(&mut bench.pool, slot, 4096)
        };
        bench.fabric.fetch(conn, fetch);
    }
    let seen = bench.turns();
    let order: Vec<u32> = seen
        .iter()
        .map(|seen| match seen {
            Seen::Fetched(tag, data) if data.len() == 4096 => tag.slot,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(order, [0, 1, 2, 3, 4, 5, 6, 7]);
    bench
        .pool
        .put_all(bench.host.revoke(qp, remote.key).unwrap());
    bench.host.close(qp, NOW);
    bench.all_is_home();
}

#[test]
fn a_wrong_key_length_or_right_costs_the_host_its_connection_and_us_nothing() {
    for wrong in 0..4 {
        let mut bench = Bench::new(32, LIMITS);
        let (qp, conn) = bench.open();
        let (good, good_conn) = {
            let qp = bench.ask(RdmaCmRequest::new(0, 32).as_bytes());
            let seen = bench.turns();
            let [Seen::Opened(conn)] = seen[..] else {
                panic!("{seen:?}")
            };
            (qp, conn)
        };
        bench.host_events();
        let place = bufs(&mut bench.pool, &[4096], 0);
        let access = [Access::Write, Access::Read][usize::from(wrong == 2)];
        let remote = bench.host.grant(qp, place, access).unwrap();
        let (mut addr, mut key) = (remote.addr, remote.key);
        match wrong {
            0 => key ^= 1,
            1 => addr += 1,
            2 => {}
            _ => addr = u64::MAX,
        }
        for cid in 0..3 {
            let reply = Reply {
                cid,
                sgl: KeyedSgl::new(addr, 4096, key, true).into(),
                offset: 0,
                bufs: bufs(&mut bench.pool, &[4096], 1),
                last: true,
                cqe: Some(Cqe::new(cid, Status::SUCCESS)),
                may_elide_cqe: false,
            };
            bench.fabric.reply(conn, reply);
        }
        bench.fabric.fetch(conn, fetch(&mut bench.pool, 1, 4096));
        let seen = bench.turns();
        assert!(
            matches!(seen[..], [Seen::Closed(it)] if it == conn),
            "{seen:?}"
        );
        let events = bench.host_events();
        let lost = |event: &Event| {
            let why = Why::Violation;
            matches!(event, Event::Disconnected { qp: it, why: it_why } if *it == qp && *it_why == why)
        };
        assert!(events.iter().any(lost), "{events:?}");
        bench
            .pool
            .put_all(bench.host.revoke(qp, remote.key).unwrap());
        // The other connection does not notice.
        bench.send(good, &sqe(9), &[]);
        let seen = bench.turns();
        assert!(matches!(&seen[..], [Seen::Capsule(it, ..)] if *it == good_conn));
        bench.host.close(good, NOW);
        bench.all_is_home();
    }
}

#[test]
fn refused_requests_say_why_and_leave_nothing() {
    let mut bench = Bench::new(32, LIMITS);
    let refused = |bench: &mut Bench, private: &[u8]| {
        let qp = bench.ask(private);
        bench.turns();
        let events = bench.host_events();
        let rejected = |event: &Event| matches!(event, Event::Disconnected { qp: it, why: Why::Rejected { reason: 28 } } if *it == qp);
        assert!(events.iter().any(rejected), "{events:?}");
    };
    let mut private = RdmaCmRequest::new(1, 32);
    private.recfmt = 5.into();
    refused(&mut bench, private.as_bytes());
    refused(&mut bench, &[0; 3]);
    // There are RECVs for one queue of 32, and none for another.
    let (qp, _) = bench.open();
    let second = RdmaCmRequest::new(2, 2);
    refused(&mut bench, second.as_bytes());
    // An admin queue needs none.
    let admin = bench.ask(RdmaCmRequest::new(0, 256).as_bytes());
    assert!(matches!(bench.turns()[..], [Seen::Opened(_)]));
    bench.host.close(admin, NOW);
    bench.host.close(qp, NOW);
    bench.turns();
    // They are back for the next.
    bench.host_events();
    let (qp, _) = bench.open();
    bench.host.close(qp, NOW);
    bench.turns();
    bench.world.limit_qps("10.0.0.1".parse().unwrap(), 0);
    refused(&mut bench, second.as_bytes());
    assert_eq!(bench.fabric.refused(), 4);
    bench.all_is_home();
}

#[test]
fn who_does_not_go_on_cannot_take_what_others_need() {
    let mut bench = Bench::new(256, LIMITS);
    // Its first, of whatever size; then what fits a quarter; admin queues take no RECVs.
    let mut asked = Vec::new();
    for (qid, entries) in [(1, 32), (2, 64), (3, 32), (4, 8), (0, 32)] {
        asked.push(bench.ask(RdmaCmRequest::new(qid, entries).as_bytes()));
    }
    assert_eq!(bench.fabric.refused(), 2);
    assert_eq!(bench.fabric.spare_recvs(), 256 - 2 * 32);
    // Another host's are its own.
    let mut other = bench.world.end("10.0.0.3".parse().unwrap(), LIMITS);
    let private = RdmaCmRequest::new(1, 128);
    let theirs = other.connect(&dial(private.as_bytes(), 1), NOW).unwrap();
    bench.fabric.adopt(bench.world.incoming().unwrap(), NOW);
    assert_eq!(bench.fabric.refused(), 2);
    // Once they stand they count no more.
    bench.turns();
    asked.push(bench.ask(RdmaCmRequest::new(2, 64).as_bytes()));
    assert_eq!(bench.fabric.refused(), 2);
    // However small they are, there is a bound on how many.
    for _ in 0..40 {
        asked.push(bench.ask(RdmaCmRequest::new(0, 32).as_bytes()));
    }
    assert_eq!(bench.fabric.refused(), 2 + 40 - (128 / 4 - 1));
    bench.turns();
    for event in bench.host_events() {
        if let Event::Disconnected { qp, .. } = event {
            asked.retain(|other| *other != qp);
        }
    }
    other.close(theirs, NOW);
    for qp in asked {
        bench.host.close(qp, NOW);
    }
    bench.turns();
    while other.poll(NOW).is_some() {}
    bench.all_is_home();
}

/// Whose Connect did not succeed yet may be anybody.
#[test]
fn who_was_not_admitted_leaves_some_for_others() {
    let mut bench = Bench::new(320, LIMITS);
    bench.admits = false;
    let admin = bench.ask(RdmaCmRequest::new(0, 32).as_bytes());
    let seen = bench.turns();
    let [Seen::Opened(conn)] = seen[..] else {
        panic!("{seen:?}")
    };
    while bench.host.poll(NOW).is_some() {}
    let mut opened: Vec<(QpId, ConnId)> = (0..8).map(|_| bench.open()).collect();
    bench.ask(RdmaCmRequest::new(9, 32).as_bytes());
    assert_eq!(bench.fabric.refused(), 1);
    bench.turns();
    while bench.host.poll(NOW).is_some() {}
    // A host that is known, by its admin queue, may have them all.
    bench.fabric.admitted(conn);
    opened.push(bench.open());
    assert_eq!(bench.fabric.refused(), 1);
    let mut other = bench.world.end("10.0.0.3".parse().unwrap(), LIMITS);
    let private = RdmaCmRequest::new(1, 32);
    let theirs = other.connect(&dial(private.as_bytes(), 1), NOW).unwrap();
    bench.fabric.adopt(bench.world.incoming().unwrap(), NOW);
    assert_eq!(bench.fabric.refused(), 1);
    bench.turns();
    other.close(theirs, NOW);
    bench.host.close(admin, NOW);
    for (qp, _) in opened {
        bench.host.close(qp, NOW);
    }
    bench.turns();
    while other.poll(NOW).is_some() {}
    bench.all_is_home();
}

#[test]
fn requests_that_nobody_goes_on_with_keep_nobody_out_for_long() {
    let mut bench = Bench::new(256, LIMITS);
    let private = RdmaCmRequest::new(0, 32);
    let mut hosts = Vec::new();
    for at in 0..5_u8 {
        let mut host = bench.world.end([10, 0, 1, at].into(), LIMITS);
        for _ in 0..32 {
            let now = if at < 4 { NOW } else { NOW.plus_ms(749) };
            host.connect(&dial(private.as_bytes(), 1), NOW).unwrap();
            bench.fabric.adopt(bench.world.incoming().unwrap(), now);
        }
        hosts.push(host);
    }
    // All there may be, and those of the last came too early.
    assert_eq!(bench.fabric.refused(), 32);
    let mut host = bench.world.end("10.0.0.3".parse().unwrap(), LIMITS);
    host.connect(&dial(private.as_bytes(), 1), NOW).unwrap();
    let later = NOW.plus_ms(750);
    bench.fabric.adopt(bench.world.incoming().unwrap(), later);
    assert_eq!(bench.fabric.refused(), 32);
    bench.now = later;
    let opened = bench.turns();
    assert!(opened.iter().any(|seen| matches!(seen, Seen::Opened(_))));
}

#[test]
fn the_reject_carries_its_status() {
    let world = World::punctual();
    let server = world.end("10.0.0.1".parse().unwrap(), LIMITS);
    let mut host = world.end("10.0.0.2".parse().unwrap(), LIMITS);
    let mut fabric = RdmaFabric::new(server, Vec::new());
    let private = RdmaCmRequest::new(1, 32);
    let qp = host.connect(&dial(private.as_bytes(), 1), NOW).unwrap();
    // A RECV out keeps the queue pair, and with it the private data.
    host.post_recv(qp, None);
    let held = BufList::new();
    let remote = host.grant(qp, held, Access::Read).unwrap();
    fabric.adopt(world.incoming().unwrap(), NOW);
    host.flush(NOW);
    assert!(matches!(
        host.poll(NOW),
        Some(Event::Disconnected {
            why: Why::Rejected { reason: 28 },
            ..
        })
    ));
    let reject = RdmaCmReject::read(host.private(qp).bytes()).unwrap();
    assert_eq!(reject.status(), RdmaCmStatus::NO_RESOURCES);
    assert!(host.revoke(qp, remote.key).is_some());
    host.flush(NOW);
    assert!(matches!(host.poll(NOW), Some(Event::Gone { .. })));
}

#[test]
fn without_room_commands_wait_and_other_things_go_on() {
    let mut bench = Bench::new(64, LIMITS);
    let (one, first) = bench.open();
    let (two, second) = bench.open();
    for cid in 0..5 {
        bench.send(one, &sqe(cid), &[cid as u8; 100]);
    }
    bench.send(two, &sqe(9), &[]);
    for _ in 0..5 {
        assert!(bench.turn(false).is_empty());
    }
    // Nothing is to be done until there is room, so nothing keeps the core awake.
    assert!(!bench.fabric.has_work());
    bench.host.close(two, NOW);
    let mut seen = Vec::new();
    for _ in 0..5 {
        seen.extend(bench.turn(false));
    }
    assert!(matches!(seen[..], [Seen::Closed(it)] if it == second));
    let cids: Vec<(u16, usize)> = bench
        .turns()
        .iter()
        .map(|seen| match seen {
            Seen::Capsule(it, sqe, data) if *it == first => (sqe.cid.get(), data.len()),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(cids, [(0, 100), (1, 100), (2, 100), (3, 100), (4, 100)]);
    bench.host.close(one, NOW);
    bench.all_is_home();
}

#[test]
fn where_there_is_little_room_those_with_few_commands_have_it_in_their_order() {
    let mut bench = Bench::new(64, LIMITS);
    let (one, first) = bench.open();
    let (two, _) = bench.open();
    let few = limits::FEW as u16;
    for cid in 0..few {
        bench.send(one, &sqe(cid), &[]);
    }
    for (host, cid) in [(one, few), (two, 100)] {
        bench.send(host, &sqe(cid), &[7; 100]);
        bench.send(host, &sqe(cid + 1), &[]);
    }
    let cids = |seen: Vec<Seen>| -> Vec<u16> {
        let cid = |seen: &Seen| match seen {
            Seen::Capsule(_, sqe, _) => sqe.cid.get(),
            other => panic!("{other:?}"),
        };
        seen.iter().map(cid).collect()
    };
    let mut seen = Vec::new();
    for _ in 0..5 {
        seen.extend(cids(bench.turn_with(Room::Few)));
    }
    seen.sort_unstable();
    assert!(seen.into_iter().eq((0..few).chain([100, 101])));
    assert!(!bench.fabric.has_work());
    // More of it comes: behind what waits.
    bench.send(one, &sqe(few + 2), &[]);
    assert_eq!(cids(bench.turn_with(Room::Few)), []);
    // Once one of its commands is answered, it has few of them.
    let answer = Reply {
        cid: 0,
        sgl: Sgl::NONE,
        offset: 0,
        bufs: BufList::new(),
        last: true,
        cqe: Some(Cqe::new(0, Status::SUCCESS)),
        may_elide_cqe: false,
    };
    bench.fabric.reply(first, answer);
    assert_eq!(cids(bench.turn_with(Room::Bare)), []);
    assert_eq!(cids(bench.turn_with(Room::Few)), [few, few + 1, few + 2]);
    for host in [one, two] {
        bench.host.close(host, NOW);
    }
    bench.turns();
    bench.all_is_home();
}

#[test]
fn what_was_given_is_sent_before_the_end() {
    let mut bench = Bench::new(32, LIMITS);
    let (qp, conn) = bench.open();
    let reply = |cid| Reply {
        cid,
        sgl: Sgl::NONE,
        offset: 0,
        bufs: BufList::new(),
        last: false,
        cqe: Some(Cqe::new(cid, Status::SUCCESS)),
        may_elide_cqe: false,
    };
    for cid in 0..10 {
        bench.fabric.reply(conn, reply(cid));
    }
    bench.fabric.close(conn, Close::Sent);
    bench.fabric.reply(conn, reply(10));
    assert!(matches!(bench.turns()[..], [Seen::Closed(it)] if it == conn));
    let events = bench.host_events();
    let answers = events
        .iter()
        .filter(|event| matches!(event, Event::Received { .. }))
        .count();
    assert_eq!(answers, 11);
    let _ = qp;
    // Late calls are ignored, and what they brought comes home.
    let late = Reply {
        bufs: bufs(&mut bench.pool, &[4096], 0),
        ..reply(11)
    };
    bench.fabric.reply(conn, late);
    bench.fabric.fetch(conn, fetch(&mut bench.pool, 1, 4096));
    bench.fabric.close(conn, Close::Now);
    bench.all_is_home();
}

#[test]
fn a_host_that_died_in_silence_is_found() {
    for dies in [false, true] {
        let mut bench = Bench::new(32, LIMITS);
        let (_, conn) = bench.open();
        if dies {
            bench.world.kill("10.0.0.2".parse().unwrap());
        }
        assert!(
            bench.fabric.next_timeout().is_some(),
            "it does not sleep for ever"
        );
        let mut seen = Vec::new();
        for seconds in 0..60 {
            bench.now = NOW.plus_ms(1000 * seconds);
            let found = bench.turns();
            assert!(
                found.is_empty() || seconds >= 15,
                "not before it was silent for long"
            );
            seen.extend(found);
        }
        match (dies, &seen[..]) {
            (false, []) => assert_eq!(bench.fabric.connections(), 1),
            (true, [Seen::Closed(it)]) => assert_eq!(*it, conn),
            _ => panic!("{dies}: {seen:?}"),
        }
        // The host heard nothing of it.
        assert!(dies || bench.host_events().is_empty());
    }
}

#[test]
fn a_stub_of_a_command_ends_the_connection() {
    let mut bench = Bench::new(32, LIMITS);
    let (qp, conn) = bench.open();
    // A chain with a completion is the shortest message there is.
    let stub = Answer {
        tag: 0,
        remote: Remote { addr: 0, key: 0 },
        bufs: BufList::new(),
        capsule: Some([1; 16]),
        invalidate: None,
    };
    bench.host.answer(qp, stub);
    assert!(matches!(bench.turns()[..], [Seen::Closed(it)] if it == conn));
    bench.all_is_home();
}
