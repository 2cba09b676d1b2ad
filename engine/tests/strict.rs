//! What strict hosts look at, and what time does to hosts: one core and the control thread's mind, a
//! fabric that is a queue, a drive that does what the test says, and a clock that the test moves.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::task::Waker;

use ferroce_buf::{BufList, Class, Home, Pool, Region, Want};
use ferroce_engine::control::{Change, Control};
use ferroce_engine::core::{Core, CoreConfig, LANDING};
use ferroce_engine::host as nvme;
use ferroce_engine::limits;
use ferroce_engine::mail::{Mailbox, ToControl, mailbox};
use ferroce_engine::port::{
    Backend, Close, ConnId, Done, DriveId, DriveInfo, Fabric, Fetch, InCapsule, Inbound, Io, Op,
    Reply, Room, Tick,
};
use ferroce_engine::table::{Subsystem, Transport};
use ferroce_wire::Wire;
use ferroce_wire::cqe::Cqe;
use ferroce_wire::fabrics::{
    ConnectCmd, ConnectData, ConnectRefusal, Nqn, PropertyGet, PropertySet,
};
use ferroce_wire::feature::{DsmRange, FeatureId, HostBehaviorSupport, NumberOfQueues};
use ferroce_wire::log::{ErrorInfoEntry, LogId, SmartLog};
use ferroce_wire::opcode::AdminOpcode;
use ferroce_wire::prop::{Cc, Csts, PropertyOffset};
use ferroce_wire::sqe::{NSID_ALL, Sgl, Sqe};
use ferroce_wire::status::Status;

const NQN: &str = "nqn.2026-01.test:strict";
/// Slots of the core for commands of connected queues.
const COMMANDS: usize = 64;
/// Buffers for in-capsule data: fewer than connected queues may send at a time.
const LANDINGS: usize = 16;
const BLOCKS: u64 = 4096;

enum Came {
    Opened(u32),
    Capsule(u32, Sqe, Vec<u8>),
    Spoiled(u32, Sqe),
    Closed(u32),
}

#[derive(Default)]
struct Wires {
    came: VecDeque<Came>,
    /// The capsule reported last.
    sqe: Option<Sqe>,
    data: Vec<u8>,
    answers: VecDeque<(u32, Cqe)>,
    /// What was sent since it was last looked at.
    sent: Vec<u8>,
    /// Of which commands it was given data, or an answer.
    replies: Vec<u16>,
    /// How many replies it takes until the next flush; 0 is any number.
    room: usize,
    taken: usize,
    fetching: Vec<(ConnId, BufList)>,
    homes: VecDeque<BufList>,
    closed: Vec<u32>,
    /// Commands of each connection that are not answered.
    under_way: HashMap<u32, u32>,
}

const fn conn(slot: u32) -> ConnId {
    ConnId {
        slot,
        generation: 0,
    }
}

impl Fabric for Wires {
    type Incoming = u32;

    fn adopt(&mut self, slot: u32, _: Tick) {
        self.came.push_back(Came::Opened(slot));
    }

    fn poll(&mut self, _: Tick, room: Room) -> Option<Inbound<'_>> {
        let under_way = &self.under_way;
        let fits = |came: &Came| match came {
            Came::Capsule(slot, sqe, data) => {
                let kept = !data.is_empty() && sqe.opc != AdminOpcode::FABRICS.0;
                room >= Room::of(kept, *under_way.get(slot).unwrap_or(&0))
            }
            Came::Spoiled(..) => room == Room::Any,
            Came::Opened(_) | Came::Closed(_) => true,
        };
        let at = self.came.iter().position(fits)?;
        Some(match self.came.remove(at)? {
            Came::Opened(slot) => Inbound::Opened {
                conn: conn(slot),
                local: ([127, 0, 0, 1], 4420).into(),
                peer: ([127, 0, 0, 1], 10_000 + slot as u16).into(),
                transport: Transport::Tcp,
            },
            Came::Capsule(slot, sqe, data) => {
                self.data = data;
                *self.under_way.entry(slot).or_default() += 1;
                Inbound::Capsule {
                    conn: conn(slot),
                    sqe: self.sqe.insert(sqe),
                    data: InCapsule::Bytes(&self.data),
                }
            }
            Came::Spoiled(slot, sqe) => {
                *self.under_way.entry(slot).or_default() += 1;
                Inbound::Spoiled {
                    conn: conn(slot),
                    sqe: self.sqe.insert(sqe),
                }
            }
            Came::Closed(slot) => Inbound::Closed { conn: conn(slot) },
        })
    }

    /// No host here ever sends what it is asked for.
    fn fetch(&mut self, conn: ConnId, fetch: Fetch) {
        self.fetching.push((conn, fetch.bufs));
    }

    fn reply(&mut self, conn: ConnId, reply: Reply) {
        let bytes = reply.bufs.iter().flat_map(|buf| buf.bytes().to_vec());
        self.sent.extend(bytes);
        self.replies.push(reply.cid);
        self.taken += 1;
        if reply.cqe.is_some() {
            *self.under_way.entry(conn.slot).or_default() -= 1;
        }
        self.answers.extend(reply.cqe.map(|cqe| (conn.slot, cqe)));
        self.homes.push_back(reply.bufs);
    }

    fn wants_more(&self, _: ConnId) -> bool {
        self.room == 0 || self.taken < self.room
    }

    fn close(&mut self, conn: ConnId, _: Close) {
        let mine = |fetch: &mut (ConnId, BufList)| fetch.0 == conn;
        let fetching = self.fetching.extract_if(.., mine);
        self.homes.extend(fetching.map(|(_, bufs)| bufs));
        self.closed.push(conn.slot);
        self.came.push_back(Came::Closed(conn.slot));
    }

    fn home(&mut self) -> Option<BufList> {
        self.homes.pop_front()
    }

    fn flush(&mut self, _: Tick) {
        self.taken = 0;
    }

    fn next_timeout(&self) -> Option<Tick> {
        None
    }

    fn has_work(&self) -> bool {
        !self.came.is_empty()
    }
}

/// What the test wants of the drive, and what it has.
struct Orders {
    status: Status,
    holds: bool,
    /// It has no room for more.
    full: bool,
    held: VecDeque<Io>,
    /// All that it was asked for.
    asked: Vec<Op>,
}

struct Drive(Arc<Mutex<Orders>>);

impl Backend for Drive {
    fn submit(&mut self, io: Io) -> Result<(), Io> {
        let mut orders = self.0.lock().unwrap();
        if orders.full {
            return Err(io);
        }
        orders.asked.push(io.op);
        orders.held.push_back(io);
        Ok(())
    }

    fn ring_doorbell(&mut self) {}

    fn poll(&mut self) -> Option<Done> {
        let mut orders = self.0.lock().unwrap();
        if orders.holds {
            return None;
        }
        let Io { tag, bufs, .. } = orders.held.pop_front()?;
        Some(Done {
            tag,
            status: orders.status,
            bufs,
        })
    }

    fn in_flight(&self) -> usize {
        self.0.lock().unwrap().held.len()
    }

    fn has_work(&self) -> bool {
        let orders = self.0.lock().unwrap();
        !orders.holds && !orders.held.is_empty()
    }
}

struct Node {
    core: Core<Wires, Drive>,
    control: Control<u32, Drive>,
    from_core: Mailbox<ToControl>,
    orders: Arc<Mutex<Orders>>,
    now: Tick,
    next_conn: u32,
    next_cid: u16,
}

fn pool(home: Home, classes: &[(usize, usize)]) -> Pool {
    let class = |&(size, count): &(usize, usize)| Class { size, count };
    let classes: Vec<Class> = classes.iter().map(class).collect();
    let region = Region::map(Pool::bytes(&classes), Want::default()).expect("memory");
    Pool::new(Arc::new(region), 0, home, &classes)
}

fn nqn(name: &str) -> Nqn {
    Nqn::new(name).expect("it is one")
}

impl Node {
    fn new() -> Node {
        Node::with_chunks(16)
    }

    /// With so many of the pool's largest buffers.
    fn with_chunks(count: usize) -> Node {
        let (to_core, mail) = mailbox(1024, Waker::noop().clone());
        let (to_control, from_core) = mailbox(1024, Waker::noop().clone());
        let mut control = Control::new(vec![to_core]);
        let config = CoreConfig {
            index: 0,
            cores: 1,
            commands: COMMANDS,
            pool: pool(
                Home::CORE,
                &[(4096, 512), (limits::CHUNK_LEN as usize, count)],
            ),
            landing: pool(LANDING, &[(limits::IN_CAPSULE as usize, LANDINGS)]),
            facts: Arc::default(),
            counters: Arc::default(),
        };
        let core = Core::new(config, vec![Wires::default()], mail, to_control);
        let orders = Arc::new(Mutex::new(Orders {
            status: Status::SUCCESS,
            holds: false,
            full: false,
            held: VecDeque::new(),
            asked: Vec::new(),
        }));
        let subsystem = Subsystem {
            nqn: NQN.into(),
            serial: "1".into(),
            model: "test".into(),
            cntlids: (1, 1000),
            allow: None,
            namespaces: Default::default(),
        };
        let info = DriveInfo {
            label: "scripted".into(),
            block_len: 4096,
            blocks: BLOCKS,
            uuid: [1; 16],
            nguid: [1; 16],
            read_only: false,
            volatile_cache: false,
            brings_memory: false,
            preferred_blocks: 1,
            deallocates: true,
            max_deallocate: 1000 * 4096,
            max_transfer: 128 * 1024,
            max_bufs: 32,
            health: None,
        };
        let change = control.change(Change::AddSubsystem(subsystem));
        change.expect("it is the first");
        let drive = control.next_drive();
        assert_eq!(drive, DriveId(0));
        let change = control.change(Change::AddNamespace {
            nqn: NQN.into(),
            nsid: None,
            info,
            read_only: false,
            drive,
            queues: vec![Drive(orders.clone())],
        });
        change.expect("it is the first");
        let mut node = Node {
            core,
            control,
            from_core,
            orders,
            now: Tick(1),
            next_conn: 0,
            next_cid: 0,
        };
        node.settle();
        node
    }

    fn wires(&mut self) -> &mut Wires {
        &mut self.core.fabrics[0]
    }

    fn turn(&mut self) -> bool {
        let now = self.now;
        let busy = self.core.turn(now, 0, || now).busy;
        while let Some(mail) = self.from_core.poll() {
            self.control.on_mail(mail, now);
        }
        self.control.on_time(now);
        busy
    }

    fn settle(&mut self) {
        for _ in 0..1000 {
            self.now = self.now.plus_ns(1000);
            let busy = self.turn();
            // Commands that nobody reads for want of room keep the fabric busy.
            if !busy && !self.core.has_mail() {
                return;
            }
        }
    }

    /// Time goes by, a turn every 10 ms.
    fn pass(&mut self, ms: u64) {
        for _ in 0..ms / 10 {
            self.now = self.now.plus_ms(10);
            self.turn();
        }
    }

    fn open(&mut self) -> u32 {
        let slot = self.next_conn;
        self.next_conn += 1;
        self.control.adopt(0, 0, slot);
        self.settle();
        slot
    }

    fn is_closed(&mut self, slot: u32) -> bool {
        self.wires().closed.contains(&slot)
    }

    /// Sends a command; its CID.
    fn send(&mut self, slot: u32, sqe: Sqe, data: &[u8]) -> u16 {
        self.next_cid += 1;
        let sqe = Sqe {
            cid: self.next_cid.into(),
            ..sqe
        };
        let came = Came::Capsule(slot, sqe, data.to_vec());
        self.wires().came.push_back(came);
        self.next_cid
    }

    /// Sends a command, and says how it ended and what data came.
    fn ask(&mut self, slot: u32, sqe: Sqe, data: &[u8]) -> (Cqe, Vec<u8>) {
        self.wires().sent.clear();
        let cid = self.send(slot, sqe, data);
        self.settle();
        let answers = &mut self.wires().answers;
        let at = answers.iter().position(|(_, cqe)| cqe.cid.get() == cid);
        let (_, cqe) = answers.remove(at.expect("it is answered")).expect("there");
        (cqe, std::mem::take(&mut self.wires().sent))
    }

    fn done(&mut self, slot: u32, sqe: Sqe, data: &[u8]) -> Vec<u8> {
        let (cqe, data) = self.ask(slot, sqe, data);
        assert!(cqe.status().is_success(), "{}", cqe.status());
        data
    }

    /// The status without M, which has to stand where a command failed: each has its entry in the error log.
    fn status(&mut self, slot: u32, sqe: Sqe, data: &[u8]) -> Status {
        let status = self.ask(slot, sqe, data).0.status();
        assert_eq!(status.is_more(), !status.is_success());
        Status(status.0 & !Status::MORE)
    }

    fn connect(&mut self, qid: u16, cntlid: u16, entries: u16, kato_ms: u32) -> (u32, Cqe) {
        let slot = self.open();
        (slot, self.connect_on(slot, qid, cntlid, entries, kato_ms))
    }

    fn connect_on(&mut self, slot: u32, qid: u16, cntlid: u16, entries: u16, kato_ms: u32) -> Cqe {
        let data = ConnectData::new([1; 16], cntlid, &nqn(NQN), &nqn("nqn.2026-01.test:host"));
        let sgl = Sgl::in_capsule(0, ConnectData::LEN as u32);
        let command = ConnectCmd::new(qid, entries - 1, 0, kato_ms, sgl);
        self.ask(slot, command.to_sqe(), data.as_bytes()).0
    }

    fn set_cc(&mut self, admin: u32, cc: Cc) {
        let set = PropertySet::new(PropertyOffset::CC.0, 0, cc.0.into());
        self.done(admin, set.to_sqe(), &[]);
    }

    /// CSTS.SHST.
    fn shst(&mut self, admin: u32) -> u8 {
        let get = PropertyGet::new(PropertyOffset::CSTS.0, 0).to_sqe();
        Csts(self.ask(admin, get, &[]).0.dw0.get()).shst()
    }

    /// An admin queue of 8 entries, its controller enabled, and the CNTLID.
    fn admin(&mut self, kato_ms: u32) -> (u32, u16) {
        let (admin, cqe) = self.connect(0, 0xFFFF, 8, kato_ms);
        assert!(cqe.status().is_success(), "{}", cqe.status());
        self.set_cc(admin, ENABLED);
        (admin, cqe.dw0.get() as u16)
    }

    fn io(&mut self, cntlid: u16, qid: u16, entries: u16) -> u32 {
        let (io, cqe) = self.connect(qid, cntlid, entries, 0);
        assert!(cqe.status().is_success(), "{}", cqe.status());
        io
    }

    fn log(&mut self, admin: u32, lid: LogId, len: u32) -> Vec<u8> {
        let sqe = Sqe::get_log_page(lid, NSID_ALL, 0, len).with_sgl(Sgl::transport(len));
        let data = self.done(admin, sqe, &[]);
        assert_eq!(data.len(), len as usize, "as much as was asked for");
        data
    }

    fn newest_error(&mut self, admin: u32) -> ErrorInfoEntry {
        let log = self.log(admin, LogId::ERROR_INFORMATION, 64);
        ErrorInfoEntry::read(&log).expect("64 bytes")
    }
}

const ENABLED: Cc = Cc(0x0046_0001);

fn read(lba: u64) -> Sqe {
    nvme::read(1, lba, 1).with_sgl(Sgl::transport(4096))
}

fn in_capsule(len: u32) -> Sgl {
    Sgl::in_capsule(0, len)
}

#[test]
fn smart_counts_compare_and_verify_as_the_specification_does() {
    let mut node = Node::new();
    let (admin, cntlid) = node.admin(0);
    let io = node.io(cntlid, 1, 8);
    let block = [0; 4096];
    // A scripted drive leaves its Bufs as they are, so what is compared is what was written before.
    let write = nvme::write(1, 0, 1, false).with_sgl(in_capsule(4096));
    node.done(io, write, &block);
    node.done(io, read(0), &[]);
    let compare = nvme::compare(1, 0, 1).with_sgl(in_capsule(4096));
    node.done(io, compare, &block);
    node.done(io, nvme::verify(1, 0, 2000), &[]);
    let smart = SmartLog::read(&node.log(admin, LogId::SMART, 512)).expect("512 bytes");
    // Compare is a host read, Verify is none (NVM 1.4.2); data units are of all three.
    assert_eq!((smart.hrc.get(), smart.hwc.get()), (2, 1));
    assert_eq!((smart.dur.get(), smart.duw.get()), (17, 1));
}

#[test]
fn what_is_read_with_fua_is_on_media_first() {
    let mut node = Node::new();
    let (_, cntlid) = node.admin(0);
    let io = node.io(cntlid, 1, 8);
    let fua = |mut sqe: Sqe| {
        sqe.set_fua(true);
        sqe
    };
    let block = [0; 4096];
    let (lba, blocks) = (3, 1);
    let one = [Op::Flush, Op::Read { lba, blocks }];
    let here = nvme::compare(1, lba, 1).with_sgl(in_capsule(4096));
    let verify = nvme::verify(1, lba, 1);
    // As long as the longest command: of several parts.
    let long = nvme::read(1, 0, 256).with_sgl(Sgl::transport(1 << 20));
    let cases: [(Sqe, &[u8], &[Op]); 4] = [
        (read(lba), &[], &one),
        (here, &block, &one),
        (verify, &[], &[Op::Flush, Op::Verify { lba, blocks }]),
        (long, &[], &[Op::Flush, Op::Read { lba: 0, blocks: 32 }]),
    ];
    for (sqe, data, wanted) in cases {
        node.orders.lock().unwrap().asked.clear();
        node.status(io, fua(sqe), data);
        let asked = std::mem::take(&mut node.orders.lock().unwrap().asked);
        assert_eq!(asked[..wanted.len()], *wanted, "{sqe:?}");
        let flushes = asked.iter().filter(|op| **op == Op::Flush);
        assert_eq!(flushes.count(), 1, "{sqe:?}");
        // Without FUA there is nothing to wait for.
        node.status(io, sqe, data);
        let asked = std::mem::take(&mut node.orders.lock().unwrap().asked);
        assert!(!asked.contains(&Op::Flush), "{sqe:?}");
    }
    // The flush waits for room at the drive, and what it fails with is the answer.
    node.orders.lock().unwrap().full = true;
    let cid = node.send(io, fua(here), &block);
    node.settle();
    assert!(node.wires().answers.is_empty());
    node.orders.lock().unwrap().full = false;
    node.orders.lock().unwrap().status = Status::INTERNAL_ERROR;
    node.settle();
    let (_, cqe) = node.wires().answers.pop_front().expect("it is answered");
    assert_eq!(
        (cqe.cid.get(), cqe.status().code()),
        (cid, Status::INTERNAL_ERROR)
    );
    let last = node.orders.lock().unwrap().asked.last().copied();
    assert_eq!(last, Some(Op::Flush));
    assert_eq!(node.core.outstanding(), (0, 0));
}

#[test]
fn a_spoiled_capsule_stands_in_the_error_log() {
    let mut node = Node::new();
    let (admin, cntlid) = node.admin(0);
    let io = node.io(cntlid, 1, 8);
    let sqe = Sqe {
        cid: 77.into(),
        ..nvme::write(1, 0, 1, false)
    };
    node.wires().came.push_back(Came::Spoiled(io, sqe));
    node.settle();
    let (_, cqe) = node.wires().answers.pop_front().expect("it is answered");
    assert_eq!(cqe.status(), Status::TRANSIENT_TRANSPORT_ERROR.more());
    let entry = node.newest_error(admin);
    assert_eq!((entry.sqid.get(), entry.cid.get()), (1, 77));
    assert_eq!(entry.status(), Status::TRANSIENT_TRANSPORT_ERROR.more());
}

#[test]
fn a_range_is_deallocated_in_as_few_requests_as_the_drive_takes() {
    let mut node = Node::new();
    let (_, cntlid) = node.admin(0);
    let io = node.io(cntlid, 1, 8);
    let range = DsmRange {
        slba: 7.into(),
        nlb: 2500.into(),
        ..DsmRange::default()
    };
    let sqe = Sqe::dsm(1, 1, Sqe::DSM_AD).with_sgl(in_capsule(16));
    node.done(io, sqe, range.as_bytes());
    let asked = std::mem::take(&mut node.orders.lock().unwrap().asked);
    let part = |lba, blocks| Op::Deallocate { lba, blocks };
    assert_eq!(asked, [part(7, 1000), part(1007, 1000), part(2007, 500)]);
}

#[test]
fn the_error_log_names_the_range_that_is_out_of_bounds() {
    let mut node = Node::new();
    let (admin, cntlid) = node.admin(0);
    let io = node.io(cntlid, 1, 8);
    let range = |slba: u64, nlb: u32| DsmRange {
        nlb: nlb.into(),
        slba: slba.into(),
        ..DsmRange::default()
    };
    let ranges = [range(8, 4), range(BLOCKS - 1, 2), range(16, 4)];
    let list: Vec<u8> = ranges
        .iter()
        .flat_map(|range| range.as_bytes().to_vec())
        .collect();
    let dsm = Sqe::dsm(1, 3, Sqe::DSM_AD).with_sgl(in_capsule(48));
    node.orders.lock().unwrap().holds = true;
    assert_eq!(node.status(io, dsm, &list), Status::LBA_OUT_OF_RANGE.dnr());
    // The drive heard nothing of the range before it either.
    assert!(node.orders.lock().unwrap().held.is_empty());
    assert_eq!(node.newest_error(admin).lba.get(), BLOCKS - 1);
}

#[test]
fn queue_identifiers_beyond_those_granted_are_refused() {
    let mut node = Node::new();
    let (admin, cntlid) = node.admin(0);
    let wish = NumberOfQueues::new(2).0;
    let sqe = Sqe::set_features(FeatureId::NUMBER_OF_QUEUES, 0, wish);
    node.done(admin, sqe, &[]);
    let (_, cqe) = node.connect(3, cntlid, 8, 0);
    assert_eq!(cqe.status(), Status::CONNECT_INVALID_PARAMETERS.dnr());
    assert_eq!(ConnectRefusal::from_dw0(cqe.dw0.get()), ConnectRefusal::QID);
    let second = node.io(cntlid, 2, 8);
    // One that is there is not there twice.
    let (_, cqe) = node.connect(2, cntlid, 8, 0);
    assert_eq!(cqe.status(), Status::INVALID_QUEUE_IDENTIFIER.dnr());
    // A reset forgets what was granted.
    node.set_cc(admin, ENABLED.with_en(false));
    assert!(node.is_closed(second));
    node.settle();
    node.set_cc(admin, ENABLED);
    node.io(cntlid, 3, 8);
}

#[test]
fn a_log_page_is_as_long_as_was_asked_for() {
    let mut node = Node::new();
    let (admin, _) = node.admin(0);
    for len in [512, 4096, 20_000, 1 << 20] {
        let page = node.log(admin, LogId::SMART, len);
        assert_eq!(page[3], 100, "available spare");
        assert!(page[512..].iter().all(|byte| *byte == 0));
    }
    // From the end on there is nothing but zeros, and of those as many as were asked for.
    let sqe = Sqe::get_log_page(LogId::SMART, NSID_ALL, 512, 8192).with_sgl(Sgl::transport(8192));
    assert_eq!(node.done(admin, sqe, &[]), [0; 8192]);
    // There must be room for them.
    let sqe = Sqe::get_log_page(LogId::SMART, NSID_ALL, 0, 8192).with_sgl(Sgl::transport(4096));
    let refused = node.status(admin, sqe, &[]);
    assert_eq!(refused, Status::DATA_SGL_LENGTH_INVALID.dnr());
}

#[test]
fn a_retry_delay_is_told_to_hosts_that_heed_it() {
    let mut node = Node::new();
    let (admin, cntlid) = node.admin(0);
    let io = node.io(cntlid, 1, 8);
    let statuses = [
        (Status::COMMAND_INTERRUPTED, 1),
        (Status::NAMESPACE_NOT_READY, 3),
        (Status::UNRECOVERED_READ_ERROR, 0),
        (Status::INTERNAL_ERROR.dnr(), 0),
    ];
    let check = |node: &mut Node, io: u32, heeds: bool| {
        for (status, crd) in statuses {
            node.orders.lock().unwrap().status = status;
            let told = node.status(io, read(0), &[]);
            let plain = match status {
                Status::COMMAND_INTERRUPTED => Status::NAMESPACE_NOT_READY,
                status => status,
            };
            assert_eq!(told, if heeds { status.with_crd(crd) } else { plain });
        }
    };
    check(&mut node, io, false);
    let behavior = HostBehaviorSupport {
        acre: 1,
        ..HostBehaviorSupport::default()
    };
    let len = HostBehaviorSupport::LEN as u32;
    let set = Sqe::set_features(FeatureId::HOST_BEHAVIOR_SUPPORT, 0, 0).with_sgl(in_capsule(len));
    node.done(admin, set, behavior.as_bytes());
    check(&mut node, io, true);
    // Like all that Set Features keeps it ends with a reset.
    node.set_cc(admin, ENABLED.with_en(false));
    node.settle();
    node.set_cc(admin, ENABLED);
    let io = node.io(cntlid, 1, 8);
    check(&mut node, io, false);
}

/// With SQ flow control a host goes by SQHD alone. It frees no entry of a command that is under way, or the host would have more
/// of them than the queue has entries.
#[test]
fn the_head_frees_an_entry_when_its_command_is_answered() {
    let mut node = Node::new();
    let (_, cntlid) = node.admin(0);
    let io = node.io(cntlid, 1, 4);
    // Two that wait for their data.
    for cid in [1, 2] {
        let write = nvme::write(1, 0, 4, false).with_sgl(Sgl::transport(16384));
        node.send(io, write.with_ids(cid, 1), &[]);
    }
    node.settle();
    let mut heads = Vec::new();
    for cid in 3..9 {
        let read = read(0).with_ids(cid, 1);
        node.send(io, read, &[]);
        node.settle();
        let (_, cqe) = node.wires().answers.pop_front().expect("it is answered");
        heads.push(cqe.sqhd.get());
    }
    // Connect was the first.
    assert_eq!(heads, [2, 3, 0, 1, 2, 3]);
    assert!(!node.is_closed(io));
    node.wires().came.push_back(Came::Closed(io));
    node.settle();
}

#[test]
fn more_commands_than_a_queue_has_entries_end_the_association() {
    let mut node = Node::new();
    let (admin, cntlid) = node.admin(0);
    let io = node.io(cntlid, 1, 4);
    let other = node.io(cntlid, 2, 4);
    let (stays, _) = node.admin(0);
    for cid in 1..6 {
        let write = nvme::write(1, 0, 4, false).with_sgl(Sgl::transport(16384));
        node.send(io, write.with_ids(cid, 1), &[]);
    }
    node.settle();
    for slot in [io, other, admin] {
        assert!(node.is_closed(slot), "{slot}");
    }
    assert!(!node.is_closed(stays));
}

/// Who sees that it is complete may give what is there to another host (Base 3.1.4, CSTS.SHST).
#[test]
fn a_shutdown_is_complete_when_no_io_can_be_done_any_more() {
    let mut node = Node::new();
    let (admin, cntlid) = node.admin(0);
    let io = node.io(cntlid, 1, 8);
    node.done(io, read(0), &[]);
    node.orders.lock().unwrap().holds = true;
    node.send(io, read(0), &[]);
    node.settle();
    node.set_cc(admin, ENABLED.with_shn(Cc::SHN_NORMAL));
    assert!(node.is_closed(io));
    assert_eq!(node.shst(admin), Csts::SHST_OCCURRING);
    node.orders.lock().unwrap().holds = false;
    node.settle();
    assert_eq!(node.shst(admin), Csts::SHST_COMPLETE);
    assert!(!node.is_closed(admin));
}

/// What stands in PSDT of a Fabrics command changed from version to version.
#[test]
fn a_connect_may_say_of_its_data_what_any_version_does() {
    for (psdt, fine) in [(0b00, true), (0b01, true), (0b10, true), (0b11, false)] {
        let mut node = Node::new();
        let slot = node.open();
        let data = ConnectData::new([1; 16], 0xFFFF, &nqn(NQN), &nqn("nqn.2026-01.test:host"));
        let mut sqe = ConnectCmd::new(0, 31, 0, 0, in_capsule(ConnectData::LEN as u32)).to_sqe();
        sqe.set_psdt(psdt);
        let status = node.ask(slot, sqe, data.as_bytes()).0.status();
        assert_eq!(status.is_success(), fine, "{psdt:02b}: {status}");
    }
}

#[test]
fn properties_are_not_on_io_queues() {
    let mut node = Node::new();
    let (_, cntlid) = node.admin(0);
    let io = node.io(cntlid, 1, 8);
    let get = PropertyGet::new(PropertyOffset::CSTS.0, 0).to_sqe();
    let set = PropertySet::new(PropertyOffset::CC.0, 0, 0).to_sqe();
    for sqe in [get, set] {
        assert_eq!(node.status(io, sqe, &[]), Status::INVALID_FIELD.dnr());
    }
}

#[test]
fn who_never_enables_or_was_shut_down_is_not_kept_for_ever() {
    let mut node = Node::new();
    let (fresh, cqe) = node.connect(0, 0xFFFF, 8, 5000);
    assert!(cqe.status().is_success());
    let (down, _) = node.admin(0);
    node.set_cc(down, ENABLED.with_shn(Cc::SHN_NORMAL));
    let (alive, _) = node.admin(0);
    node.pass(110_000);
    assert_eq!(node.wires().closed, []);
    node.pass(11_000);
    let mut closed = node.wires().closed.clone();
    closed.sort_unstable();
    assert_eq!(closed, [fresh, down]);
    assert!(!node.is_closed(alive), "it asked for no Keep Alive Timer");
}

#[test]
fn a_core_that_stood_still_takes_nobody_for_dead_whom_it_did_not_hear() {
    let mut node = Node::new();
    let (waits, _) = node.admin(5000);
    let (dead, _) = node.admin(5000);
    let (late, cntlid) = node.admin(0);
    let io = node.open();
    node.pass(3000);
    // More connections than a turn takes come before the Keep Alive and the Connect that lie unread.
    for slot in 100..140 {
        node.wires().came.push_back(Came::Opened(slot));
    }
    node.send(waits, Sqe::new(AdminOpcode::KEEP_ALIVE.0), &[]);
    let data = ConnectData::new([1; 16], cntlid, &nqn(NQN), &nqn("nqn.2026-01.test:host"));
    let sgl = in_capsule(ConnectData::LEN as u32);
    let connect = ConnectCmd::new(1, 7, 0, 0, sgl).to_sqe();
    node.send(io, connect, data.as_bytes());
    node.wires().answers.clear();
    node.now = node.now.plus_ms(60_000);
    node.pass(100);
    assert_eq!(node.wires().closed, []);
    let answers = node.wires().answers.clone();
    let answered: Vec<u32> = answers.iter().map(|(slot, _)| *slot).collect();
    assert_eq!(answered, [waits, io]);
    assert!(answers.iter().all(|(_, cqe)| cqe.status().is_success()));
    // Who sent nothing has the time that was left when the core stood still.
    node.pass(2800);
    assert!(!node.is_closed(dead));
    node.pass(300);
    assert!(node.is_closed(dead));
    assert!(!node.is_closed(waits) && !node.is_closed(late));
}

#[test]
fn want_of_room_excuses_no_silent_host_for_ever() {
    let mut node = Node::new();
    let (dead, _) = node.admin(5000);
    let (living, _) = node.admin(5000);
    let (_admin, cntlid) = node.admin(0);
    let busy: Vec<u32> = (1..=5).map(|qid| node.io(cntlid, qid, 8)).collect();
    node.orders.lock().unwrap().holds = true;
    let mut seconds = 0;
    while !node.is_closed(dead) {
        seconds += 1;
        assert!(seconds < 20, "a dead host outlives its Keep Alive Timeout");
        node.send(living, Sqe::new(AdminOpcode::KEEP_ALIVE.0), &[]);
        // For a while of every second there is no room: the drive keeps what it gets.
        let write = nvme::write(1, 0, 1, false).with_sgl(in_capsule(4096));
        for io in &busy {
            for _ in 0..8 {
                node.send(*io, write, &[0; 4096]);
            }
        }
        node.pass(500);
        node.orders.lock().unwrap().holds = false;
        node.pass(500);
        node.orders.lock().unwrap().holds = true;
    }
    assert!(seconds > 6, "want of room does excuse");
    assert!(!node.is_closed(living));
    node.orders.lock().unwrap().holds = false;
}

impl Node {
    /// A connection whose Connect waits for data that never comes.
    fn stranger(&mut self) -> u32 {
        let slot = self.open();
        let sgl = Sgl::transport(ConnectData::LEN as u32);
        self.send(slot, ConnectCmd::new(0, 31, 0, 0, sgl).to_sqe(), &[]);
        slot
    }
}

#[test]
fn strangers_do_not_take_the_slots_of_connected_queues() {
    let mut node = Node::new();
    let (_admin, cntlid) = node.admin(0);
    let io = node.io(cntlid, 1, 32);
    let before = node.wires().closed.len();
    for _ in 0..200 {
        node.stranger();
    }
    node.settle();
    let refused = node.wires().closed.len() - before;
    assert!((100..200).contains(&refused), "{refused} were sent away");
    // The queue has all the slots it was promised, at once.
    node.orders.lock().unwrap().holds = true;
    for _ in 0..32 {
        node.send(io, read(0), &[]);
    }
    node.settle();
    assert_eq!(node.orders.lock().unwrap().held.len(), 32);
    node.orders.lock().unwrap().holds = false;
    node.settle();
    assert_eq!(node.wires().answers.len(), 32);
    // Who waits too long makes room for others.
    node.pass(11_000);
    assert_eq!(node.wires().closed.len() - before, 200);
    node.io(cntlid, 2, 8);
}

#[test]
fn a_queue_takes_as_many_commands_as_it_has_entries() {
    let mut node = Node::new();
    let (_admin, cntlid) = node.admin(0);
    let io = node.io(cntlid, 1, 8);
    node.orders.lock().unwrap().holds = true;
    for _ in 0..8 {
        node.send(io, read(0), &[]);
    }
    node.settle();
    assert!(!node.is_closed(io));
    node.send(io, read(0), &[]);
    node.settle();
    assert!(node.is_closed(io), "one more is one too many");
    node.orders.lock().unwrap().holds = false;
    node.settle();
}

#[test]
fn queues_beyond_the_command_slots_are_refused_for_now() {
    let mut node = Node::new();
    let (_admin, cntlid) = node.admin(0);
    let first = node.io(cntlid, 1, 32);
    // 24 of the 64 slots are left: no I/O queue of 25 entries, and no admin queue of as many.
    let busy = Status::CONNECT_CONTROLLER_BUSY;
    let (conn, cqe) = node.connect(2, cntlid, 25, 0);
    assert_eq!((cqe.status(), cqe.dw0.get()), (busy, 0));
    let (other, cqe) = node.connect(0, 0xFFFF, 25, 0);
    assert_eq!((cqe.status(), cqe.dw0.get()), (busy, 0));
    assert_eq!(node.control.hosts().len(), 1, "no controller is kept of it");
    // Both connections live on and may ask for less, with the same QID; all 64 slots are taken up then.
    assert!(!node.is_closed(conn) && !node.is_closed(other));
    let cqe = node.connect_on(conn, 2, cntlid, 16, 0);
    assert_eq!(cqe.status(), Status::SUCCESS);
    let cqe = node.connect_on(other, 0, 0xFFFF, 8, 0);
    assert_eq!(cqe.status(), Status::SUCCESS);
    let (last, cqe) = node.connect(3, cntlid, 2, 0);
    assert_eq!(cqe.status(), busy);
    // Who is connected has what was promised.
    node.done(first, read(0), &[]);
    node.done(conn, read(0), &[]);
    // A queue that ends leaves its slots to others.
    node.wires().came.push_back(Came::Closed(first));
    node.settle();
    let cqe = node.connect_on(last, 3, cntlid, 32, 0);
    assert_eq!(cqe.status(), Status::SUCCESS);
    node.done(last, read(0), &[]);
}

impl Node {
    /// The dword 0 of an Abort, and how the command it names ended, if it did, before it.
    fn abort(&mut self, admin: u32, qid: u16, cid: u16) -> (u32, Option<Status>) {
        let abort = self.send(admin, Sqe::abort(qid, cid), &[]);
        self.settle();
        let answers = std::mem::take(&mut self.wires().answers);
        let mut ended = None;
        for (_, cqe) in answers {
            if cqe.cid.get() == abort {
                assert_eq!(cqe.status(), Status::SUCCESS, "of the Abort");
                return (cqe.dw0.get(), ended);
            }
            assert_eq!(cqe.cid.get(), cid, "nothing else is answered");
            assert!(ended.is_none(), "once");
            ended = Some(cqe.status().code());
        }
        panic!("an Abort is answered at once");
    }
}

const ABORTED: (u32, Option<Status>) = (0, Some(Status::ABORT_REQUESTED));
const NOT_ABORTED: (u32, Option<Status>) = (1, None);

#[test]
fn a_write_that_waits_for_room_at_the_drive_is_aborted() {
    let mut node = Node::new();
    let (admin, cntlid) = node.admin(0);
    let io = node.io(cntlid, 1, 8);
    node.orders.lock().unwrap().full = true;
    let write = nvme::write(1, 0, 1, false).with_sgl(in_capsule(4096));
    let waits = node.send(io, write, &[0; 4096]);
    let stays = node.send(io, write, &[0; 4096]);
    node.settle();
    assert_eq!(node.abort(admin, 1, waits), ABORTED);
    // It is there no more; nor does a command of another queue have its number.
    assert_eq!(node.abort(admin, 1, waits), NOT_ABORTED);
    assert_eq!(node.abort(admin, 2, stays), NOT_ABORTED);
    assert_eq!(node.abort(admin, 0, stays), NOT_ABORTED);
    // What the drive has stays there.
    {
        let mut orders = node.orders.lock().unwrap();
        (orders.full, orders.holds) = (false, true);
    }
    node.settle();
    assert_eq!(
        node.orders.lock().unwrap().held.len(),
        1,
        "the aborted one never came"
    );
    assert_eq!(node.abort(admin, 1, stays), NOT_ABORTED);
    node.orders.lock().unwrap().holds = false;
    node.settle();
    let (_, cqe) = node.wires().answers.pop_front().expect("it is answered");
    assert_eq!((cqe.cid.get(), cqe.status()), (stays, Status::SUCCESS));
    assert!(node.wires().answers.is_empty());
    assert_eq!(
        node.core.outstanding(),
        (0, 0),
        "every slot and Buf is back"
    );
}

#[test]
fn a_write_that_waits_for_memory_is_aborted_and_one_that_is_fetched_is_not() {
    let mut node = Node::new();
    let (admin, cntlid) = node.admin(0);
    let io = node.io(cntlid, 1, 32);
    let write = nvme::write(1, 0, 32, false).with_sgl(Sgl::transport(128 << 10));
    let cids: Vec<u16> = (0..32).map(|_| node.send(io, write, &[])).collect();
    node.settle();
    let fetched = node.wires().fetching.len();
    assert!((1..32).contains(&fetched), "{fetched} have memory");
    assert_eq!(node.abort(admin, 1, cids[0]), NOT_ABORTED);
    assert_eq!(node.abort(admin, 1, cids[31]), ABORTED);
    assert_eq!(node.wires().fetching.len(), fetched);
    node.wires().came.push_back(Came::Closed(io));
    let fetching = std::mem::take(&mut node.wires().fetching);
    let bufs = fetching.into_iter().map(|(_, bufs)| bufs);
    node.wires().homes.extend(bufs);
    node.settle();
    assert_eq!(
        node.core.outstanding(),
        (0, 0),
        "every slot and Buf is back"
    );
}

#[test]
fn a_queues_large_reads_are_done_one_after_the_other() {
    let mut node = Node::with_chunks(256);
    let (_, cntlid) = node.admin(0);
    let io = node.io(cntlid, 1, 32);
    node.wires().room = 1;
    node.wires().replies.clear();
    let large = nvme::read(1, 0, 256).with_sgl(Sgl::transport(1 << 20));
    let cids: Vec<u16> = (0..16).map(|_| node.send(io, large, &[])).collect();
    let small = node.send(io, read(0), &[]);
    node.settle();
    let mut order = std::mem::take(&mut node.wires().replies);
    // It waits for those of the large ones that had begun, and of these for what was read already.
    let at = order.iter().position(|cid| *cid == small);
    let at = at.expect("it is answered");
    order.remove(at);
    let begun = limits::LARGE_READS as usize / limits::CHUNK_LEN as usize;
    assert!(at <= begun, "behind {at} of at most {begun} parts");
    assert_eq!(order.len(), 16 * 8, "each in eight parts");
    order.dedup();
    assert_eq!(order, cids);
    assert_eq!(node.wires().answers.len(), 17);
}

#[test]
fn a_drive_that_does_not_answer_keeps_out_nobody_but_who_uses_it() {
    let mut node = Node::new();
    let (_, cntlid) = node.admin(0);
    let hung = node.io(cntlid, 1, 16);
    let (admin, cntlid) = node.admin(0);
    let other = node.io(cntlid, 1, 16);
    let write = || nvme::write(1, 0, 1, false).with_sgl(in_capsule(4096));
    let at_drive = |node: &Node| node.orders.lock().unwrap().held.len();
    node.orders.lock().unwrap().holds = true;
    for _ in 0..14 {
        node.send(hung, write(), &[0; 4096]);
    }
    node.settle();
    // A quarter of the Bufs is kept for others, and a command may take two.
    let taken = at_drive(&node);
    assert_eq!(taken, LANDINGS - LANDINGS / 4 - 1);
    // Others have these.
    node.send(other, write(), &[0; 4096]);
    node.settle();
    assert_eq!(at_drive(&node), taken + 1);
    for _ in 0..12 {
        node.send(other, write(), &[0; 4096]);
    }
    node.settle();
    let taken = at_drive(&node);
    assert_eq!(taken, LANDINGS - 1);
    // What needs none is taken as ever, of the first one as well.
    node.done(admin, nvme::keep_alive(), &[]);
    for queue in [hung, other] {
        node.send(queue, read(0), &[]);
    }
    node.settle();
    assert_eq!(at_drive(&node), taken + 2);
    let (third, cntlid) = node.admin(0);
    node.io(cntlid, 1, 4);
    node.done(third, nvme::keep_alive(), &[]);
    node.wires().answers.clear();
    node.orders.lock().unwrap().holds = false;
    node.settle();
    assert_eq!(node.wires().answers.len(), 14 + 13 + 2);
}

#[test]
fn queues_beyond_those_a_core_may_have_are_refused_for_now() {
    let mut node = Node::new();
    node.control.bound_queues(3);
    let (_admin, cntlid) = node.admin(0);
    let first = node.io(cntlid, 1, 8);
    let second = node.io(cntlid, 2, 8);
    let busy = Status::CONNECT_CONTROLLER_BUSY;
    let (third, cqe) = node.connect(3, cntlid, 8, 0);
    assert_eq!((cqe.status(), cqe.dw0.get()), (busy, 0));
    assert_eq!(node.connect(0, 0xFFFF, 8, 0).1.status(), busy);
    assert_eq!(node.control.hosts().len(), 1, "no controller is kept of it");
    // What is wrong for ever is said rather than what is wrong for now.
    let wrong = Status::CONNECT_INVALID_PARAMETERS;
    assert_eq!(node.connect(3, cntlid + 1, 8, 0).1.status(), wrong);
    node.done(second, read(0), &[]);
    // Commands that a queue has left at a drive take no place from others.
    node.orders.lock().unwrap().holds = true;
    node.send(first, read(0), &[]);
    node.settle();
    node.wires().came.push_back(Came::Closed(first));
    node.settle();
    let (other, cqe) = node.connect(0, 0xFFFF, 8, 0);
    assert!(cqe.status().is_success(), "{}", cqe.status());
    node.orders.lock().unwrap().holds = false;
    node.settle();
    assert_eq!(node.connect_on(third, 3, cntlid, 8, 0).status(), busy);
    node.wires().came.push_back(Came::Closed(other));
    node.settle();
    let cqe = node.connect_on(third, 3, cntlid, 8, 0);
    assert!(cqe.status().is_success(), "{}", cqe.status());
}

#[test]
fn a_turn_begins_and_ends_few_connections() {
    let mut node = Node::new();
    let (admin, _) = node.admin(0);
    for slot in 100..200 {
        node.control.adopt(0, 0, slot);
    }
    node.turn();
    assert!(node.core.has_mail(), "not all of them in one turn");
    node.settle();
    assert!(!node.core.has_mail());
    for slot in 100..200 {
        node.wires().came.push_back(Came::Closed(slot));
    }
    let is_busy = node.turn();
    let left = node.wires().came.len();
    let few = limits::INBOUND_PER_TURN / limits::CONNECTION_COUNTS_AS;
    assert!(left >= 100 - few && is_busy, "{left} are left");
    node.settle();
    assert_eq!(node.wires().came.len(), 0);
    node.newest_error(admin);
}

#[test]
fn a_core_rests_when_its_commands_wait_for_drives() {
    let mut node = Node::new();
    let (_, cntlid) = node.admin(0);
    let io = node.io(cntlid, 1, 8);
    node.settle();
    node.orders.lock().unwrap().holds = true;
    node.send(io, read(0), &[]);
    let now = node.now;
    let work = node.core.turn(now, 0, || now);
    assert!(work.busy && work.rests, "{work:?}");
    assert_eq!(work.at_drives, 1);
    node.orders.lock().unwrap().holds = false;
    let work = node.core.turn(now, 0, || now);
    assert!(work.busy && !work.rests, "{work:?}");
}

/// What a core that sleeps need not be woken for: nobody waits for the memory of what was sent.
#[test]
fn a_core_wants_back_what_its_commands_wait_for() {
    let mut node = Node::new();
    let (_, cntlid) = node.admin(0);
    let io = node.io(cntlid, 1, 8);
    node.settle();
    for full in [false, true] {
        {
            let mut orders = node.orders.lock().unwrap();
            (orders.holds, orders.full) = (true, full);
        }
        node.send(io, read(0), &[]);
        let now = node.now;
        let mut work = node.core.turn(now, 0, || now);
        if !work.rests {
            work = node.core.turn(now, 0, || now);
        }
        assert!(work.rests && work.wants_back == full, "{work:?}");
    }
    {
        let mut orders = node.orders.lock().unwrap();
        (orders.holds, orders.full) = (false, false);
    }
    node.settle();
    assert_eq!(node.wires().answers.len(), 2);
}

#[test]
fn a_silent_host_does_not_keep_a_core_from_sleeping() {
    let mut node = Node::new();
    let (admin, _) = node.admin(5000);
    node.pass(300);
    let (mut now, mut turns) = (node.now, 0);
    while !node.is_closed(admin) {
        let work = node.core.turn(now, 0, || now);
        turns += 1;
        if work.rests {
            now = work.next_timeout.expect("its silence ends").max(now);
        }
        assert!(
            turns < 10,
            "{} ms have gone",
            now.since(node.now) / 1_000_000
        );
    }
    let silent_ms = now.since(node.now) / 1_000_000;
    assert!((4000..6000).contains(&silent_ms), "after {silent_ms} ms");
}

/// Whether it rested or not when the system stopped it: what the host sent meanwhile is not read yet.
#[test]
fn a_core_that_could_not_run_takes_no_host_for_silent() {
    for rests in [true, false] {
        let mut node = Node::new();
        let (admin, cntlid) = node.admin(5000);
        let io = node.io(cntlid, 1, 8);
        node.pass(300);
        node.settle();
        if !rests {
            node.send(io, read(0), &[]);
            let now = node.now;
            assert!(!node.core.turn(now, 0, || now).rests);
        }
        node.now = node.now.plus_ms(20_000);
        let now = node.now;
        node.core.turn(now, 0, || now);
        node.pass(500);
        assert!(!node.is_closed(admin), "it rested: {rests}");
        node.pass(6000);
        assert!(node.is_closed(admin), "it rested: {rests}");
    }
}
