//! Hosts against a whole node over NVMe/RDMA, in one thread: production core, control and RAM drives;
//! the fabric and the hosts' machines on in-memory queue pairs, whose every legal order a seed picks.
//! Data is what it should be, every command is completed once, and at the end every Buf is home,
//! wherever the connection was cut.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::task::Waker;

use ferroce_buf::{Buf, BufList, Class, Home, Pool, Region, Want};
use ferroce_drivers::{RamConfig, RamDrive, RamQueue};
use ferroce_engine::control::{Change, Control};
use ferroce_engine::core::{Core, CoreConfig, LANDING};
use ferroce_engine::counters::Counters;
use ferroce_engine::host as nvme;
use ferroce_engine::limits;
use ferroce_engine::mail::{Mailbox, ToControl, mailbox};
use ferroce_engine::port::{Backend, Done, DriveId, DriveInfo, Io, Op, Tick};
use ferroce_engine::table::Subsystem;
use ferroce_transport::host::{Completion, Data};
use ferroce_transport::rdma::fabric::RdmaFabric;
use ferroce_transport::rdma::host::{Broken, Conn, request};
use ferroce_transport::rdma::memory::{LIMITS, MemoryIncoming, MemoryProvider, World};
use ferroce_transport::rdma::provider::{Dial, Limits, Provider, Why};
use ferroce_wire::Wire;
use ferroce_wire::fabrics::{ConnectData, Nqn};
use ferroce_wire::identify::{Cns, Csi, IDENTIFY_LEN, IdentifyController};
use ferroce_wire::prop::{Cc, PropertyOffset};
use ferroce_wire::rdma::RdmaCmStatus;
use ferroce_wire::sqe::Sqe;
use ferroce_wire::status::Status;

const NQN: &str = "nqn.2026-01.test:node";
const RECVS: usize = 256;
const BLOCK_LENS: [usize; 2] = [4096, 512];

struct Node {
    world: World,
    core: Core<RdmaFabric<MemoryProvider>, Disk>,
    control: Control<MemoryIncoming, Disk>,
    from_core: Mailbox<ToControl>,
    now: Tick,
    drives: Vec<Arc<RamDrive>>,
    counters: Arc<Counters>,
}

/// A drive with memory of its own, or one that data is carried to and from, as files and NVMe drives are.
#[derive(Debug)]
enum Disk {
    Ram(RamQueue),
    Plain(Vec<u8>, VecDeque<Done>),
}

const PLAIN_BLOCK: usize = 4096;

impl Disk {
    fn plain(id: DriveId) -> (DriveInfo, Disk) {
        let info = DriveInfo {
            label: format!("plain {}", id.0),
            block_len: PLAIN_BLOCK as u32,
            blocks: 1024,
            uuid: [9; 16],
            nguid: [9; 16],
            read_only: false,
            volatile_cache: false,
            brings_memory: false,
            preferred_blocks: 1,
            deallocates: false,
            max_transfer: limits::CHUNK_LEN,
            max_bufs: 1024,
            health: None,
        };
        let disk = Disk::Plain(vec![0; 1024 * PLAIN_BLOCK], VecDeque::new());
        (info, disk)
    }
}

impl Backend for Disk {
    fn submit(&mut self, mut io: Io) -> Result<(), Io> {
        let (content, done) = match self {
            Disk::Ram(queue) => return queue.submit(io),
            Disk::Plain(content, done) => (content, done),
        };
        let place = |lba: u64| lba as usize * PLAIN_BLOCK;
        match io.op {
            Op::Read { lba, .. } => {
                let len = io.bufs.len();
                io.bufs.copy_in(0, &content[place(lba)..][..len]);
            }
            Op::Write { lba, .. } => {
                // A device wants whole blocks from where a page begins.
                let fits = |buf: &Buf| (buf.as_ptr() as usize | buf.len()).is_multiple_of(4096);
                assert!(io.bufs.iter().all(fits), "aligned");
                let len = io.bufs.len();
                io.bufs.copy_out(0, &mut content[place(lba)..][..len]);
            }
            _ => {}
        }
        done.push_back(Done {
            tag: io.tag,
            status: Status::SUCCESS,
            bufs: io.bufs,
        });
        Ok(())
    }

    fn ring_doorbell(&mut self) {
        if let Disk::Ram(queue) = self {
            queue.ring_doorbell();
        }
    }

    fn poll(&mut self) -> Option<Done> {
        match self {
            Disk::Ram(queue) => queue.poll(),
            Disk::Plain(_, done) => done.pop_front(),
        }
    }

    fn in_flight(&self) -> usize {
        match self {
            Disk::Ram(queue) => queue.in_flight(),
            Disk::Plain(_, done) => done.len(),
        }
    }

    fn brings_memory(&self) -> bool {
        matches!(self, Disk::Ram(_))
    }

    fn space(&mut self, lba: u64, len: usize, into: &mut BufList) -> bool {
        match self {
            Disk::Ram(queue) => queue.space(lba, len, into),
            Disk::Plain(..) => false,
        }
    }

    fn lends(&self) -> u32 {
        match self {
            Disk::Ram(queue) => queue.lends(),
            Disk::Plain(..) => 0,
        }
    }

    fn put(&mut self, buf: Buf) {
        match self {
            Disk::Ram(queue) => queue.put(buf),
            Disk::Plain(..) => panic!("it has no memory of its own"),
        }
    }

    fn has_work(&self) -> bool {
        match self {
            Disk::Ram(queue) => queue.has_work(),
            Disk::Plain(_, done) => !done.is_empty(),
        }
    }
}

fn node_ip() -> IpAddr {
    "10.0.0.1".parse().unwrap()
}

fn pool(home: Home, classes: &[(usize, usize)]) -> Pool {
    let classes: Vec<Class> = classes
        .iter()
        .map(|&(size, count)| Class { size, count })
        .collect();
    let region = Region::map(Pool::bytes(&classes), Want::default()).expect("memory");
    Pool::new(Arc::new(region), 0, home, &classes)
}

impl Node {
    fn new(world: World, limits: Limits) -> Node {
        let (to_core, mail) = mailbox(1024, Waker::noop().clone());
        let (to_control, from_core) = mailbox(1024, Waker::noop().clone());
        let in_capsule = limits::IN_CAPSULE as usize;
        let mut landing = pool(LANDING, &[(in_capsule, 8 + RECVS)]);
        let bufs: Vec<Buf> = (0..RECVS)
            .map(|_| landing.set_aside(in_capsule).unwrap())
            .collect();
        let counters = Arc::<Counters>::default();
        let fabric = RdmaFabric::new(world.end(node_ip(), limits), bufs);
        let config = CoreConfig {
            index: 0,
            cores: 1,
            commands: 1024,
            // Few, so that commands wait for memory.
            pool: pool(Home::CORE, &[(4096, 8), (limits::CHUNK_LEN as usize, 6)]),
            landing,
            facts: Arc::default(),
            counters: counters.clone(),
        };
        let core = Core::new(config, vec![fabric], mail, to_control);
        let mut node = Node {
            world,
            core,
            control: Control::new(vec![to_core]),
            from_core,
            now: Tick(1),
            drives: Vec::new(),
            counters,
        };
        node.plan();
        node
    }

    fn plan(&mut self) {
        let add = Change::AddSubsystem(Subsystem {
            nqn: NQN.into(),
            serial: "1".into(),
            model: "test".into(),
            cntlids: (1, 100),
            allow: None,
            namespaces: Default::default(),
        });
        self.control.change(add).expect("it is the first");
        for block_len in BLOCK_LENS {
            let id = self.control.next_drive();
            let drive = RamDrive::new(RamConfig {
                id,
                label: "ram".into(),
                bytes: 8 << 20,
                block_len: block_len as u32,
                read_only: false,
                uuid: None,
                cores: 1,
                spare: None,
                want: Want::default(),
            })
            .expect("memory");
            let add = Change::AddNamespace {
                nqn: NQN.into(),
                nsid: None,
                info: drive.info(),
                read_only: false,
                drive: id,
                queues: vec![Disk::Ram(drive.open(0).expect("memory"))],
            };
            self.control.change(add).expect("it fits");
            self.drives.push(drive);
        }
        let drive = self.control.next_drive();
        let (info, disk) = Disk::plain(drive);
        let add = Change::AddNamespace {
            nqn: NQN.into(),
            nsid: None,
            info,
            read_only: false,
            drive,
            queues: vec![disk],
        };
        self.control.change(add).expect("it fits");
        for _ in 0..10 {
            self.turn();
        }
    }

    fn turn(&mut self) {
        self.now = self.now.plus_ns(200_000);
        let now = self.now;
        self.core.turn(now, 0, || now);
        while let Some(mail) = self.from_core.poll() {
            self.control.on_mail(mail, self.now);
        }
        self.control.on_time(self.now);
        while let Some(incoming) = self.world.incoming() {
            self.control.adopt(0, 0, incoming);
        }
    }

    /// No connection is left, and nothing of any.
    fn is_empty(&self) -> bool {
        self.core.fabrics[0].connections() == 0
            && self.core.outstanding() == (0, 0)
            && self.control.hosts().is_empty()
    }

    #[track_caller]
    fn ends_clean(&mut self, what: &str) {
        for _ in 0..200_000 {
            if self.is_empty() {
                break;
            }
            self.turn();
        }
        assert_eq!(self.core.outstanding(), (0, 0), "{what}");
        let fabric = &self.core.fabrics[0];
        assert_eq!(
            (fabric.connections(), fabric.spare_recvs()),
            (0, RECVS),
            "{what}"
        );
        assert_eq!(self.world.qps(node_ip()), 0, "{what}");
        assert!(self.control.hosts().is_empty(), "{what}");
    }
}

/// A host with an end of its own.
struct Host {
    ip: IpAddr,
    provider: MemoryProvider,
    queues: Vec<Conn>,
    broken: Vec<Broken>,
    nqn: Nqn,
}

impl Host {
    fn new(world: &World, number: u8, limits: Limits) -> Host {
        let ip = IpAddr::from([10, 0, 0, number]);
        Host {
            ip,
            provider: world.end(ip, limits),
            queues: Vec::new(),
            broken: Vec::new(),
            nqn: Nqn::new(&format!("nqn.2026-01.test:host{number}")).unwrap(),
        }
    }

    fn ask(&mut self, qid: u16, entries: u16) {
        let (private, demand) = request(qid, entries);
        let dial = Dial {
            local: None,
            peer: (node_ip(), 4420).into(),
            private: private.as_bytes(),
            demand,
        };
        let qp = self
            .provider
            .connect(&dial, Tick(0))
            .expect("it can be tried");
        let conn = Conn::new(&mut self.provider, qp, entries, entries - 1);
        self.queues.push(conn);
    }

    fn turn(&mut self) {
        while let Some(event) = self.provider.poll(Tick(0)) {
            let qp = event.qp().expect("its RECVs have no Bufs");
            let conn = self.queues.iter_mut().find(|conn| conn.qp() == qp).unwrap();
            if let Err(broken) = conn.on_event(&mut self.provider, event) {
                self.broken.push(broken);
                conn.end(&mut self.provider);
                self.provider.close(qp, Tick(0));
            }
        }
        self.provider.flush(Tick(0));
    }

    fn close(&mut self, at: usize) {
        if !self.queues[at].is_gone() {
            self.queues[at].end(&mut self.provider);
            self.provider.close(self.queues[at].qp(), Tick(0));
        }
    }

    /// Waits for one command on a queue that has no other.
    fn exec(&mut self, node: &mut Node, at: usize, sqe: Sqe, data: Data) -> Completion {
        self.queues[at]
            .submit(&mut self.provider, sqe, data, 77)
            .expect("it has room");
        for _ in 0..100_000 {
            self.turn();
            node.turn();
            if let Some(completion) = self.queues[at].poll() {
                return completion;
            }
        }
        panic!("no answer; {:?}", self.broken);
    }

    fn open(&mut self, node: &mut Node, qid: u16, entries: u16) -> usize {
        self.ask(qid, entries);
        let at = self.queues.len() - 1;
        for _ in 0..100_000 {
            if self.queues[at].is_open() {
                return at;
            }
            self.turn();
            node.turn();
        }
        panic!("not open; {:?}", self.broken);
    }

    fn connect(&mut self, node: &mut Node, at: usize, qid: u16, entries: u16, cntlid: u16) -> u16 {
        let nqn = Nqn::new(NQN).unwrap();
        let data = ConnectData::new([self.queues.len() as u8; 16], cntlid, &nqn, &self.nqn);
        let data = ConnectData {
            hostid: [match self.ip {
                IpAddr::V4(ip) => ip.octets()[3],
                IpAddr::V6(_) => 0,
            }; 16],
            ..data
        };
        let kato_ms = if qid == 0 { 5000 } else { 0 };
        let sqe = nvme::connect(qid, entries.into(), 0, kato_ms);
        let answer = self.exec(node, at, sqe, Data::Vec(data.as_bytes().to_vec()));
        assert!(answer.is_success(), "{}", answer.status());
        answer.cqe.dw0.get() as u16
    }

    /// An enabled controller: the admin queue is 0, the I/O queues are those behind it.
    fn connect_all(&mut self, node: &mut Node, queues: u16, entries: u16) {
        let admin = self.open(node, 0, 32);
        let cntlid = self.connect(node, admin, 0, 32, 0xFFFF);
        let cc = Cc::default()
            .with_en(true)
            .with_iosqes(Cc::IOSQES_64)
            .with_iocqes(Cc::IOCQES_16);
        let enable = nvme::property_set(PropertyOffset::CC, u64::from(cc.0));
        assert!(self.exec(node, admin, enable, Data::None).is_success());
        let identify = Sqe::identify(Cns::CONTROLLER, 0, Csi::NVM);
        let answer = self.exec(node, admin, identify, Data::zeroed(IDENTIFY_LEN));
        let id = IdentifyController::read(answer.data.bytes()).unwrap();
        assert_eq!(id.sgls.get(), 1 | 1 << 2 | 1 << 20);
        for qid in 1..=queues {
            let at = self.open(node, qid, entries);
            self.queues[at].set_in_capsule(id.in_capsule_bytes_max() as u32);
            self.connect(node, at, qid, entries, cntlid);
        }
    }
}

/// What every block of a host's part of a namespace holds: the stamp of its last write, or the
/// stamps it may have if that write was not answered.
#[derive(Default)]
struct Model {
    blocks: HashMap<(u32, u64), Vec<u8>>,
    /// First block and number of what is under way, by user data.
    out: HashMap<u64, Flight>,
    next: u64,
    stamp: u8,
}

#[derive(Clone, Copy)]
struct Flight {
    nsid: u32,
    lba: u64,
    blocks: u64,
    wrote: Option<u8>,
}

impl Model {
    /// A command on blocks that no other is using.
    fn submit(&mut self, host: &mut Host, queue: usize, part: u64, random: &mut fastrand::Rng) {
        let nsid = random.u32(1..=2);
        let block_len = BLOCK_LENS[nsid as usize - 1];
        // Up to more than one part, which is 128 KiB.
        let most = [1, 2, 16, (200 * 1024) / block_len as u64][random.usize(..4)];
        let blocks = random.u64(1..=most);
        let lba = part * 500 + random.u64(0..500 - blocks);
        let busy = |flight: &Flight| {
            flight.nsid == nsid && lba < flight.lba + flight.blocks && flight.lba < lba + blocks
        };
        if self.out.values().any(busy) {
            return;
        }
        let writes = random.bool();
        let mut data = vec![0; blocks as usize * block_len];
        let sqe = if writes {
            self.stamp = self.stamp % 250 + 1;
            data.fill(self.stamp);
            nvme::write(nsid, lba, blocks as u32, random.bool())
        } else {
            nvme::read(nsid, lba, blocks as u32)
        };
        let name = self.next;
        let taken = host.queues[queue].submit(&mut host.provider, sqe, data.into(), name);
        if taken.is_err() {
            return;
        }
        self.next += 1;
        let wrote = writes.then_some(self.stamp);
        if let Some(stamp) = wrote {
            for lba in lba..lba + blocks {
                // Unanswered it may be there or not, and nothing that was before is forgotten.
                let may_be = self.blocks.entry((nsid, lba)).or_insert_with(|| vec![0]);
                may_be.push(stamp);
            }
        }
        let flight = Flight {
            nsid,
            lba,
            blocks,
            wrote,
        };
        self.out.insert(name, flight);
    }

    fn complete(&mut self, completion: Completion, what: &str) {
        let flight = self.out.remove(&completion.user_data);
        let flight = flight.expect("each command is completed once");
        let status = completion.status();
        if status == Status::HOST_PATHING_ERROR {
            return;
        }
        assert!(status.is_success(), "{what}: {status}");
        let block_len = BLOCK_LENS[flight.nsid as usize - 1];
        for (at, block) in completion.data.bytes().chunks(block_len).enumerate() {
            let key = (flight.nsid, flight.lba + at as u64);
            let may_be = self.blocks.entry(key).or_insert_with(|| vec![0]);
            match flight.wrote {
                Some(stamp) => *may_be = vec![stamp],
                None => {
                    let seen = block[0];
                    assert!(
                        block.iter().all(|byte| *byte == seen),
                        "{what}: torn {key:?}"
                    );
                    assert!(may_be.contains(&seen), "{what}: {key:?} {seen} {may_be:?}");
                    *may_be = vec![seen];
                }
            }
        }
    }
}

fn some_limits(random: &mut fastrand::Rng) -> Limits {
    Limits {
        sends: [160, 300, 4096][random.usize(..3)],
        sges: [1, 4, 32][random.usize(..3)],
        reads: random.u32(1..=16),
        invalidate: random.bool(),
        ..LIMITS
    }
}

/// How a connection, or all of a host's, comes to its end.
#[derive(Clone, Copy, Debug)]
enum Cut {
    /// None does before all is done.
    Never,
    /// The host closes one queue.
    Queue,
    /// The host closes all of them.
    Host,
    /// All of the host's queue pairs fail.
    Break,
    /// All of the node's queue pairs fail.
    BreakNode,
    /// The host vanishes.
    Kill,
    /// The operator sends the host away.
    Evict,
}

fn run(seed: u64, cut: Cut) {
    let what = format!("seed {seed}, {cut:?}");
    let mut random = fastrand::Rng::with_seed(seed);
    let world = World::seeded(seed);
    let mut node = Node::new(world.clone(), some_limits(&mut random));
    let mut hosts: Vec<(Host, Model)> = Vec::new();
    for number in 2..4 {
        let mut host = Host::new(&world, number, some_limits(&mut random));
        host.connect_all(&mut node, 2, 16);
        hosts.push((host, Model::default()));
    }
    let steps = 300;
    let cut_at = random.u32(0..steps);
    for step in 0..steps {
        if step == cut_at {
            cut_off(cut, &mut hosts[0].0, &mut node, &mut random);
        }
        for (at, (host, model)) in hosts.iter_mut().enumerate() {
            for _ in 0..random.u32(0..4) {
                let queue = random.usize(1..=2);
                // Each queue has its own blocks, since order between queues is nobody's promise.
                model.submit(host, queue, (2 * at + queue - 1) as u64, &mut random);
            }
            turn(host, model, &what);
        }
        if random.bool() {
            node.turn();
        }
    }
    let dead = matches!(cut, Cut::Kill);
    for round in 0.. {
        assert!(round < 100_000, "{what}: commands without an answer");
        node.turn();
        let mut out = 0;
        for (at, (host, model)) in hosts.iter_mut().enumerate() {
            turn(host, model, &what);
            out += if dead && at == 0 { 0 } else { model.out.len() };
        }
        if out == 0 {
            break;
        }
    }
    if !matches!(cut, Cut::BreakNode) {
        assert!(
            hosts[1].0.broken.is_empty(),
            "{what}: {:?}",
            hosts[1].0.broken
        );
    }
    for (at, (host, model)) in hosts.iter_mut().enumerate() {
        if dead && at == 0 {
            continue;
        }
        for queue in 0..host.queues.len() {
            host.close(queue);
        }
        for _ in 0..2000 {
            turn(host, model, &what);
            node.turn();
        }
        for queue in &host.queues {
            assert!(queue.is_gone() && queue.outstanding() == 0, "{what}");
            assert_eq!(queue.bounced(), 0, "{what}: a host's Bufs");
        }
    }
    node.ends_clean(&what);
}

fn turn(host: &mut Host, model: &mut Model, what: &str) {
    host.turn();
    for queue in &mut host.queues {
        while let Some(completion) = queue.poll() {
            model.complete(completion, what);
        }
    }
}

fn cut_off(cut: Cut, host: &mut Host, node: &mut Node, random: &mut fastrand::Rng) {
    match cut {
        Cut::Never => {}
        Cut::Queue => host.close(random.usize(0..3)),
        Cut::Host => (0..3).for_each(|queue| host.close(queue)),
        Cut::Break => node.world.break_all(host.ip),
        Cut::BreakNode => node.world.break_all(node_ip()),
        Cut::Kill => node.world.kill(host.ip),
        Cut::Evict => assert_eq!(node.control.disconnect(host.nqn.as_str()), 1),
    }
}

fn seeds() -> u64 {
    let wish = std::env::var("FERROCE_SEEDS").ok();
    wish.and_then(|text| text.parse().ok()).unwrap_or(6)
}

#[test]
fn data_is_what_was_written_in_every_order_that_is_legal() {
    for seed in 0..seeds() {
        run(seed, Cut::Never);
    }
}

#[test]
fn wherever_it_is_cut_everything_comes_home() {
    for seed in 0..seeds() {
        for cut in [
            Cut::Queue,
            Cut::Host,
            Cut::Break,
            Cut::BreakNode,
            Cut::Kill,
            Cut::Evict,
        ] {
            run(1000 + seed, cut);
        }
    }
}

/// Whole pages go from the peer's memory to the drive's and back, and no CPU of ours copies them: what `copied_bytes` counts
/// is what it says.
#[test]
fn whole_pages_are_not_copied() {
    let world = World::seeded(3);
    let mut node = Node::new(world.clone(), LIMITS);
    let mut host = Host::new(&world, 2, LIMITS);
    host.connect_all(&mut node, 1, 16);
    let ram = 1 + BLOCK_LENS.iter().position(|len| *len == 4096).unwrap() as u32;
    let mut stamp = 0;
    let mut copied = |node: &mut Node, nsid: u32, blocks: u32, what: &str| {
        let before = node.counters.copied_bytes.get();
        let len = blocks as usize * 4096;
        let (sqe, data) = match what {
            "write" => {
                stamp += 1;
                (nvme::write(nsid, 7, blocks, false), vec![stamp; len])
            }
            _ => (nvme::read(nsid, 7, blocks), vec![0; len]),
        };
        let answer = host.exec(node, 1, sqe, data.into());
        assert!(answer.is_success(), "{}", answer.status());
        assert!(answer.data.bytes().iter().all(|byte| *byte == stamp));
        node.counters.copied_bytes.get() - before
    };
    for round in 0..3 {
        // One and two pages come in their capsules; 32 are a part, and 256 are several.
        for blocks in [1, 2, 3, 32, 256] {
            let what = format!("round {round}, {blocks} pages");
            assert_eq!(copied(&mut node, 3, blocks, "write"), 0, "{what}");
            assert_eq!(copied(&mut node, 3, blocks, "read"), 0, "{what}");
            // What came in its capsule is copied to the drive's own pages, once.
            let most = if blocks <= 2 {
                u64::from(blocks) * 4096
            } else {
                0
            };
            assert_eq!(copied(&mut node, ram, blocks, "write"), most, "{what}");
            assert_eq!(copied(&mut node, ram, blocks, "read"), 0, "{what}");
        }
    }
    for queue in 0..2 {
        host.close(queue);
    }
    for _ in 0..2000 {
        host.turn();
        node.turn();
    }
    node.ends_clean("copies");
}

#[test]
fn a_queue_that_is_refused_says_why() {
    let world = World::seeded(1);
    let mut node = Node::new(world.clone(), LIMITS);
    let mut host = Host::new(&world, 2, LIMITS);
    // More entries than there are RECVs, though not more than a queue may have.
    host.ask(1, 1000);
    for _ in 0..1000 {
        host.turn();
        node.turn();
    }
    assert_eq!(host.broken, [Broken::Refused(RdmaCmStatus::NO_RESOURCES)]);
    assert!(host.queues[0].is_gone());
    node.ends_clean("refused");
}

#[test]
fn nobody_there_is_said_too() {
    let world = World::seeded(2);
    let mut host = Host::new(&world, 2, LIMITS);
    host.ask(0, 32);
    for _ in 0..1000 {
        host.turn();
    }
    assert_eq!(host.broken, [Broken::Lost(Why::Unreachable)]);
    assert!(host.queues[0].is_gone());
}
