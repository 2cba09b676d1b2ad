//! Hosts against a whole node over NVMe/RDMA, in one thread: production core, control and RAM drives;
//! the fabric and the hosts' machines on the queue pairs of each provider. In memory a seed picks every legal order; software
//! RoCEv2 is on loopback; RDMA devices are where FERROCE_RDMA says, as in the lab's scenario `verbs-binding`.
//! Data is what it should be, every command is completed once, and at the end every Buf is home,
//! wherever the connection was cut.

mod lines;

use std::collections::{HashMap, VecDeque};
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
use ferroce_transport::host::{Completion, Data, RefusedWhy};
use ferroce_transport::rdma::fabric::RdmaFabric;
use ferroce_transport::rdma::host::{Broken, Conn, request};
use ferroce_transport::rdma::memory::{LIMITS, World};
use ferroce_transport::rdma::provider::{Dial, Limits, Provider, Why};
use ferroce_wire::Wire;
use ferroce_wire::fabrics::{ConnectData, Nqn};
use ferroce_wire::identify::{Cns, Csi, IDENTIFY_LEN, IdentifyController};
use ferroce_wire::prop::{Cc, PropertyOffset};
use ferroce_wire::rdma::RdmaCmStatus;
use ferroce_wire::sqe::Sqe;
use ferroce_wire::status::Status;

use lines::{Accident, Line, Memory, Patience, Udp};

const NQN: &str = "nqn.2026-01.test:node";
const RECVS: usize = 256;
const BLOCK_LENS: [usize; 2] = [4096, 512];

/// The line stands behind what is to be dropped before it.
struct Node<L: Line> {
    core: Core<RdmaFabric<L::End>, Disk>,
    control: Control<<L::End as Provider>::Incoming, Disk>,
    from_core: Mailbox<ToControl>,
    now: Tick,
    drives: Vec<Arc<RamDrive>>,
    counters: Arc<Counters>,
    line: L,
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
            max_deallocate: 1 << 20,
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

fn pool(line: &impl Line, home: Home, classes: &[(usize, usize)]) -> Pool {
    let classes: Vec<Class> = classes
        .iter()
        .map(|&(size, count)| Class { size, count })
        .collect();
    let region = Region::map(Pool::bytes(&classes), Want::default()).expect("memory");
    let region = Arc::new(region);
    line.register(&region);
    Pool::new(region, 0, home, &classes)
}

impl<L: Line> Node<L> {
    fn new(line: &L, limits: Limits) -> Node<L> {
        let (to_core, mail) = mailbox(1024, Waker::noop().clone());
        let (to_control, from_core) = mailbox(1024, Waker::noop().clone());
        let in_capsule = limits::IN_CAPSULE as usize;
        let mut landing = pool(line, LANDING, &[(in_capsule, 8 + RECVS)]);
        let bufs: Vec<Buf> = (0..RECVS)
            .map(|_| landing.set_aside(in_capsule).unwrap())
            .collect();
        let counters = Arc::<Counters>::default();
        let fabric = RdmaFabric::new(line.node(limits), bufs);
        let config = CoreConfig {
            index: 0,
            cores: 1,
            commands: 1024,
            // Few, so that commands wait for memory.
            pool: pool(
                line,
                Home::CORE,
                &[(4096, 8), (limits::CHUNK_LEN as usize, 6)],
            ),
            landing,
            facts: Arc::default(),
            counters: counters.clone(),
        };
        let core = Core::new(config, vec![fabric], mail, to_control);
        let mut node = Node {
            core,
            control: Control::new(vec![to_core]),
            from_core,
            now: Tick(1),
            drives: Vec::new(),
            counters,
            line: line.clone(),
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
            for region in drive.regions() {
                self.line.register(&region);
            }
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
        self.now = self.line.later(self.now);
        let now = self.now;
        self.core.turn(now, 0, || now);
        while let Some(mail) = self.from_core.poll() {
            self.control.on_mail(mail, self.now);
        }
        self.control.on_time(self.now);
        while let Some(incoming) = self.line.incoming(self.now) {
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
        let mut patience = Patience::new();
        while !self.is_empty() && patience.holds(&self.line) {
            self.turn();
        }
        assert_eq!(self.core.outstanding(), (0, 0), "{what}");
        let fabric = &self.core.fabrics[0];
        assert_eq!(
            (fabric.connections(), fabric.spare_recvs()),
            (0, RECVS),
            "{what}"
        );
        assert_eq!(self.line.qps(), 0, "{what}");
        assert!(self.control.hosts().is_empty(), "{what}");
    }
}

/// A host with an end of its own.
struct Host<L: Line> {
    provider: L::End,
    queues: Vec<Conn>,
    broken: Vec<Broken>,
    number: u8,
    nqn: Nqn,
    now: Tick,
    line: L,
}

impl<L: Line> Host<L> {
    fn new(line: &L, number: u8, limits: Limits) -> Host<L> {
        Host {
            provider: line.host(number, limits),
            queues: Vec::new(),
            broken: Vec::new(),
            number,
            nqn: Nqn::new(&format!("nqn.2026-01.test:host{number}")).unwrap(),
            now: Tick(1),
            line: line.clone(),
        }
    }

    fn ask(&mut self, qid: u16, entries: u16) {
        let (private, demand) = request(qid, entries);
        let dial = Dial {
            local: None,
            peer: self.line.address(),
            private: private.as_bytes(),
            demand,
        };
        let qp = self
            .provider
            .connect(&dial, self.now)
            .expect("it can be tried");
        let conn = Conn::new(&mut self.provider, qp, entries, entries - 1);
        self.queues.push(conn);
    }

    fn turn(&mut self) {
        self.now = self.line.later(self.now);
        while let Some(event) = self.provider.poll(self.now) {
            let qp = event.qp().expect("its RECVs have no Bufs");
            let conn = self.queues.iter_mut().find(|conn| conn.qp() == qp).unwrap();
            if let Err(broken) = conn.on_event(&mut self.provider, event) {
                self.broken.push(broken);
                conn.end(&mut self.provider);
                self.provider.close(qp, self.now);
            }
        }
        self.provider.flush(self.now);
    }

    fn close(&mut self, at: usize) {
        if !self.queues[at].is_gone() {
            self.queues[at].end(&mut self.provider);
            self.provider.close(self.queues[at].qp(), self.now);
        }
    }

    /// Closes everything, and waits until it is gone.
    fn leaves(&mut self, node: &mut Node<L>) {
        (0..self.queues.len()).for_each(|queue| self.close(queue));
        let mut patience = Patience::new();
        while !self.queues.iter().all(Conn::is_gone) && patience.holds(&self.line) {
            self.turn();
            node.turn();
        }
        assert!(self.queues.iter().all(Conn::is_gone));
    }

    /// Waits for one command on a queue that has no other.
    fn exec(&mut self, node: &mut Node<L>, at: usize, sqe: Sqe, data: Data) -> Completion {
        self.queues[at]
            .submit(&mut self.provider, sqe, data, 77)
            .expect("it has room");
        let mut patience = Patience::new();
        while patience.holds(&self.line) {
            self.turn();
            node.turn();
            if let Some(completion) = self.queues[at].poll() {
                return completion;
            }
        }
        panic!("no answer; {:?}", self.broken);
    }

    fn open(&mut self, node: &mut Node<L>, qid: u16, entries: u16) -> usize {
        self.ask(qid, entries);
        let at = self.queues.len() - 1;
        let mut patience = Patience::new();
        while patience.holds(&self.line) {
            if self.queues[at].is_open() {
                return at;
            }
            self.turn();
            node.turn();
        }
        panic!("not open; {:?}", self.broken);
    }

    fn connect(
        &mut self,
        node: &mut Node<L>,
        at: usize,
        qid: u16,
        entries: u16,
        cntlid: u16,
    ) -> u16 {
        let nqn = Nqn::new(NQN).unwrap();
        let data = ConnectData::new([self.queues.len() as u8; 16], cntlid, &nqn, &self.nqn);
        let data = ConnectData {
            hostid: [self.number; 16],
            ..data
        };
        let kato_ms = if qid == 0 { L::KATO_MS } else { 0 };
        let sqe = nvme::connect(qid, entries.into(), 0, kato_ms);
        let answer = self.exec(node, at, sqe, Data::Vec(data.as_bytes().to_vec()));
        assert!(answer.is_success(), "{}", answer.status());
        answer.cqe.dw0.get() as u16
    }

    /// An enabled controller: the admin queue is 0, the I/O queues are those behind it.
    fn connect_all(&mut self, node: &mut Node<L>, queues: u16, entries: u16) {
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
    fn submit<L: Line>(
        &mut self,
        host: &mut Host<L>,
        queue: usize,
        part: u64,
        random: &mut fastrand::Rng,
    ) {
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
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Cut {
    /// None does before all is done.
    Never,
    /// The host closes one queue.
    Queue,
    /// The host closes all of them.
    Host,
    /// This happens to the host.
    By(Accident),
    /// The operator sends the host away.
    Evict,
}

fn run<L: Line>(line: &L, seed: u64, cut: Cut) {
    let what = format!("seed {seed}, {cut:?}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut node = Node::new(line, some_limits(&mut random));
    let mut hosts: Vec<(Host<L>, Model)> = Vec::new();
    for number in 2..4 {
        let mut host = Host::new(line, number, some_limits(&mut random));
        host.connect_all(&mut node, 2, 16);
        hosts.push((host, Model::default()));
    }
    let steps = 300;
    let cut_at = random.u32(0..steps);
    // Who vanished; the others go on.
    let mut gone = None;
    for step in 0..steps {
        if step == cut_at {
            if !cut_off(cut, &mut hosts[0].0, &mut node, &mut random) {
                eprintln!("{what}: not by this provider");
            } else if cut == Cut::By(Accident::Vanishes) {
                gone = Some(0);
            }
        }
        for (at, (host, model)) in hosts.iter_mut().enumerate() {
            if gone == Some(at) {
                continue;
            }
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
    let mut patience = Patience::new();
    loop {
        assert!(patience.holds(line), "{what}: commands without an answer");
        node.turn();
        let mut out = 0;
        for (at, (host, model)) in hosts.iter_mut().enumerate() {
            if gone != Some(at) {
                turn(host, model, &what);
                out += model.out.len();
            }
        }
        if out == 0 {
            break;
        }
    }
    if cut != Cut::By(Accident::NodeBreaks) {
        assert!(
            hosts[1].0.broken.is_empty(),
            "{what}: {:?}",
            hosts[1].0.broken
        );
    }
    for (at, (host, model)) in hosts.iter_mut().enumerate() {
        if gone == Some(at) {
            continue;
        }
        for queue in 0..host.queues.len() {
            host.close(queue);
        }
        let mut patience = Patience::new();
        while !host.queues.iter().all(Conn::is_gone) && patience.holds(line) {
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

fn turn<L: Line>(host: &mut Host<L>, model: &mut Model, what: &str) {
    host.turn();
    for queue in &mut host.queues {
        while let Some(completion) = queue.poll() {
            model.complete(completion, what);
        }
    }
}

/// False if this cut is none that this line can make.
fn cut_off<L: Line>(
    cut: Cut,
    host: &mut Host<L>,
    node: &mut Node<L>,
    random: &mut fastrand::Rng,
) -> bool {
    match cut {
        Cut::Never => {}
        Cut::Queue => host.close(random.usize(0..3)),
        Cut::Host => (0..3).for_each(|queue| host.close(queue)),
        Cut::By(accident) => {
            let line = host.line.clone();
            return line.happen(accident, &mut host.provider, host.number);
        }
        Cut::Evict => assert_eq!(node.control.disconnect(host.nqn.as_str()), 1),
    }
    true
}

const CUTS: [Cut; 6] = [
    Cut::Queue,
    Cut::Host,
    Cut::Evict,
    Cut::By(Accident::Breaks),
    Cut::By(Accident::NodeBreaks),
    Cut::By(Accident::Vanishes),
];

fn seeds() -> u64 {
    let wish = std::env::var("FERROCE_SEEDS").ok();
    wish.and_then(|text| text.parse().ok()).unwrap_or(6)
}

/// The same for every provider: `$line` makes a new line from a seed, or there is none here.
macro_rules! over {
    ($provider:ident, $seeds:expr, $line:expr) => {
        mod $provider {
            use super::*;

            #[test]
            fn data_is_what_was_written() {
                for seed in 0..$seeds {
                    let Some(line) = $line(seed) else { return };
                    run(&line, seed, Cut::Never);
                }
            }

            #[test]
            fn wherever_it_is_cut_everything_comes_home() {
                for seed in 1000..1000 + $seeds {
                    for cut in CUTS {
                        let Some(line) = $line(seed) else { return };
                        run(&line, seed, cut);
                    }
                }
            }

            #[test]
            fn whole_pages_are_not_copied() {
                let Some(line) = $line(3) else { return };
                copies(&line);
            }

            #[test]
            fn a_queue_that_is_refused_says_why() {
                let Some(line) = $line(1) else { return };
                refused(&line);
            }

            #[test]
            fn memory_that_no_device_was_told_of_is_refused() {
                let Some(line) = $line(4) else { return };
                unregistered(&line);
            }
        }
    };
}

over!(in_memory, seeds(), |seed| Some(Memory(World::seeded(seed))));
over!(software_rocev2, seeds().min(2), |_| Some(Udp::new()));
#[cfg(feature = "verbs")]
over!(rdma_devices, seeds().min(1), |_| lines::Devices::new());

/// Whole pages go from the peer's memory to the drive's and back, and no CPU of ours copies them: what `copied_bytes` counts
/// is what it says.
fn copies<L: Line>(line: &L) {
    let mut node = Node::new(line, LIMITS);
    let mut host = Host::new(line, 2, LIMITS);
    host.connect_all(&mut node, 1, 16);
    let ram = 1 + BLOCK_LENS.iter().position(|len| *len == 4096).unwrap() as u32;
    let mut stamp = 0;
    let mut copied = |node: &mut Node<L>, nsid: u32, blocks: u32, what: &str| {
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
    host.leaves(&mut node);
    node.ends_clean("copies");
}

fn refused<L: Line>(line: &L) {
    let mut node = Node::new(line, LIMITS);
    let mut host = Host::new(line, 2, LIMITS);
    // More entries than there are RECVs, though not more than a queue may have.
    host.ask(1, 1000);
    let mut patience = Patience::new();
    while !host.queues[0].is_gone() && patience.holds(line) {
        host.turn();
        node.turn();
    }
    assert_eq!(host.broken, [Broken::Refused(RdmaCmStatus::NO_RESOURCES)]);
    assert!(host.queues[0].is_gone());
    node.ends_clean("refused");
}

/// A Buf of a region that was not registered is refused where a device has to know it, and taken once it does; the
/// connection does not mind.
fn unregistered<L: Line>(line: &L) {
    let mut node = Node::new(line, LIMITS);
    let mut host = Host::new(line, 2, LIMITS);
    host.connect_all(&mut node, 1, 16);
    let class = Class {
        size: 16384,
        count: 2,
    };
    let region = Region::map(Pool::bytes(&[class]), Want::default()).expect("memory");
    let region = Arc::new(region);
    let mut pool = Pool::new(region.clone(), 0, Home(77), &[class]);
    let mut buf = pool.take(16384).expect("a Buf");
    if !host.provider.reaches(host.queues[1].qp(), &buf) {
        // The longer one would be granted, the shorter one sent in a capsule.
        for len in [16384, 4096] {
            buf.truncate(len);
            let write = nvme::write(3, 7, len as u32 / 4096, false);
            let refused = host.queues[1].submit(&mut host.provider, write, Data::Buf(buf), 1);
            let refused = refused.expect_err("the device does not know it");
            assert_eq!(refused.why, RefusedWhy::NotRegistered);
            let Data::Buf(back) = refused.data else {
                panic!("it comes back")
            };
            buf = back;
        }
        pool.put(buf);
        buf = pool.take(16384).expect("it came home");
        host.provider.register(&region).expect("it can be locked");
    }
    buf.bytes_mut().fill(0x5A);
    let answer = host.exec(&mut node, 1, nvme::write(3, 7, 4, false), Data::Buf(buf));
    assert!(answer.is_success(), "{}", answer.status());
    let Data::Buf(mut buf) = answer.data else {
        panic!("the Buf comes back")
    };
    buf.bytes_mut().fill(0);
    let answer = host.exec(&mut node, 1, nvme::read(3, 7, 4), Data::Buf(buf));
    assert!(answer.is_success(), "{}", answer.status());
    let Data::Buf(buf) = answer.data else {
        panic!("the Buf comes back")
    };
    assert!(buf.bytes().iter().all(|byte| *byte == 0x5A));
    pool.put(buf);
    host.leaves(&mut node);
    node.ends_clean("unregistered");
}

#[test]
fn nobody_there_is_said_too() {
    let line = Memory(World::seeded(2));
    let mut host = Host::new(&line, 2, LIMITS);
    host.ask(0, 32);
    for _ in 0..1000 {
        host.turn();
    }
    assert_eq!(host.broken, [Broken::Lost(Why::Unreachable)]);
    assert!(host.queues[0].is_gone());
}
