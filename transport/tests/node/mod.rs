//! A whole node in a thread of the test: one core, the control thread's mind, a listener, RAM drives.
//! Hosts connect over loopback.
#![allow(dead_code, reason = "each test uses its part")]

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Waker;
use std::thread::JoinHandle;
use std::time::Instant;

use ferroce_buf::{Buf, BufList, Class, Home, Pool, Region, Want};
use ferroce_drivers::{FileConfig, FileDrive, FileQueue, RamConfig, RamDrive, RamQueue};
use ferroce_engine::control::{Change, Control};
use ferroce_engine::core::{Core, CoreConfig, LANDING};
use ferroce_engine::limits;
use ferroce_engine::mail::{ToControl, mailbox};
use ferroce_engine::port::{Backend, Done, DriveId, DriveInfo, Fabric, Io, Tick};
use ferroce_engine::table::{Listener as Listening, Subsystem, Transport};
use ferroce_transport::rdma::fabric::RdmaFabric;
use ferroce_transport::roce::provider::Roce;
use ferroce_transport::roce::udp;
use ferroce_transport::tcp::fabric::TcpFabric;
use ferroce_transport::tcp::listen::{Accepted, Listener};
use ferroce_transport::tcp::target::Offer;

#[path = "../common/mod.rs"]
pub mod common;
pub mod raw;

use common::Patience;

pub const NQN: &str = "nqn.2026-01.test:node";

/// A running node. Dropping it stops it and checks that nothing was left behind.
pub struct Node {
    pub address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// What runs around each turn of the core; the allocation test counts there.
pub type Turn = fn(&mut dyn FnMut());

impl Node {
    /// Serves RAM drives of these block lengths, 16 MiB each, as namespaces 1, 2, ...
    pub fn start(block_lens: &[u32]) -> Node {
        Node::start_with(block_lens, |turn| turn())
    }

    /// The same over RDMA: software RoCEv2 on a loopback address that nobody else has.
    pub fn start_roce(block_lens: &[u32], around: Turn) -> Node {
        let ip = loopback();
        let address = SocketAddr::new(ip, 4420);
        let options = udp::Options::default();
        let (mut sockets, listener) =
            udp::open(&[ip], vec![address], 1, options).expect("the address is free");
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, block_lens) = (stop.clone(), block_lens.to_vec());
        let thread = std::thread::spawn(move || {
            let mut listener = listener.expect("it was asked for");
            let provider = Roce::new(sockets.remove(0), fastrand::u64(..), fastrand::u64(..));
            let in_capsule = limits::IN_CAPSULE as usize;
            let mut recvs = pool(Home(9), &[(in_capsule, 1024)]);
            let bufs = (0..1024).map(|_| recvs.take(in_capsule).expect("as many as there are"));
            let fabric = RdmaFabric::new(provider, bufs.collect());
            let accept = |now| listener.accept(now);
            let at = (Transport::Rdma, address);
            run(fabric, accept, at, (&block_lens, None), &stopped, around);
        });
        Node {
            address,
            stop,
            thread: Some(thread),
        }
    }

    pub fn start_with(block_lens: &[u32], around: Turn) -> Node {
        Node::start_filed(block_lens, None, around)
    }

    /// The last namespace is a new file of 16 MiB, if there is a path for it, of blocks of 4096 bytes.
    pub fn start_filed(block_lens: &[u32], file: Option<PathBuf>, around: Turn) -> Node {
        let listener = Listener::bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
        let address = listener.local();
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, block_lens) = (stop.clone(), block_lens.to_vec());
        let thread = std::thread::spawn(move || {
            let fabric = TcpFabric::new(Offer::default()).expect("descriptors");
            let accept = |_| match listener.accept() {
                Accepted::One(incoming) => Some(incoming),
                _ => None,
            };
            let at = (Transport::Tcp, address);
            let file = file.as_deref();
            run(fabric, accept, at, (&block_lens, file), &stopped, around);
        });
        Node {
            address,
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().expect("once").join();
        if !std::thread::panicking() {
            ended.expect("the node ends in order");
        }
    }
}

/// An address of 127.0.0.0/8 that most likely nobody uses.
pub fn loopback() -> IpAddr {
    let [_, b, c, d] = fastrand::u32(..).to_be_bytes();
    IpAddr::from([127, b, c, d.clamp(3, 250)])
}

fn run<F: Fabric>(
    fabric: F,
    mut accept: impl FnMut(Tick) -> Option<F::Incoming>,
    (transport, address): (Transport, SocketAddr),
    (block_lens, file): (&[u32], Option<&Path>),
    stop: &AtomicBool,
    around: Turn,
) {
    let (to_core, from_control) = mailbox(1024, Waker::noop().clone());
    let (to_control, from_core) = mailbox::<ToControl>(1024, Waker::noop().clone());
    let mut control: Control<F::Incoming, Drive> = Control::new(vec![to_core]);
    let data = [(4096, 64), (limits::CHUNK_LEN as usize, 64)];
    let (data, data_at) = pool_of(Home::CORE, &data);
    let (landing, landing_at) = pool_of(LANDING, &[(limits::IN_CAPSULE as usize, 64)]);
    let config = CoreConfig {
        index: 0,
        cores: 1,
        commands: 4096,
        pool: data,
        landing,
        facts: Arc::default(),
        counters: Arc::default(),
    };
    let mut core = Core::new(config, vec![fabric], from_control, to_control);
    let mut drives = Vec::new();
    plan(&mut control, transport, address, block_lens, &mut drives);
    if let Some(path) = file {
        let drive = FileDrive::open_path(FileConfig {
            size: Some(16 << 20),
            block_len: Some(4096),
            ..FileConfig::new(path)
        })
        .expect("a file");
        let queue = drive.open(0, &[data_at, landing_at]).expect("its queue");
        let id = control.next_drive();
        add(&mut control, id, drive.info(), Drive::File(queue));
    }

    let start = Instant::now();
    let mut stopping: Option<Patience> = None;
    loop {
        let now = Tick(1 + start.elapsed().as_nanos() as u64);
        let mut busy = false;
        around(&mut || busy = core.turn(now, 1_700_000_000_000, || now).busy);
        while let Some(mail) = from_core.poll() {
            control.on_mail(mail, now);
            busy = true;
        }
        control.on_time(now);
        while stopping.is_none()
            && let Some(incoming) = accept(now)
        {
            control.adopt(0, 0, incoming);
            busy = true;
        }
        if stop.load(Ordering::Relaxed) && stopping.is_none() {
            stopping = Some(Patience::begin());
            control.stop();
        }
        if let Some(patience) = &stopping {
            patience.holds("the end of what is outstanding");
        }
        if control.is_stopped() {
            break;
        }
        if !busy {
            std::thread::yield_now();
        }
    }
    assert_eq!(core.outstanding(), (0, 0), "no command and no Buf is left");
    assert!(control.hosts().is_empty(), "no controller is left");
}

fn plan<I: Send>(
    control: &mut Control<I, Drive>,
    transport: Transport,
    address: SocketAddr,
    block_lens: &[u32],
    drives: &mut Vec<Arc<RamDrive>>,
) {
    let subsystem = Subsystem {
        nqn: NQN.into(),
        serial: "FERROCE1".into(),
        model: "Ferroce".into(),
        cntlids: (1, 0xFFEF),
        allow: None,
        namespaces: Default::default(),
    };
    let fits = "it fits what is there";
    control.change(Change::AddSubsystem(subsystem)).expect(fits);
    let listener = Listening {
        transport,
        address,
        port_id: 1,
    };
    control.change(Change::AddListener(listener)).expect(fits);
    for (index, block_len) in block_lens.iter().enumerate() {
        let id = control.next_drive();
        let drive = RamDrive::new(RamConfig {
            id,
            label: format!("ram{index}"),
            bytes: 16 << 20,
            block_len: *block_len,
            read_only: false,
            uuid: None,
            cores: 1,
            spare: None,
            want: Want::default(),
        })
        .expect("memory");
        let queue = drive.open(0).expect("memory");
        add(control, id, drive.info(), Drive::Ram(queue));
        drives.push(drive);
    }
}

fn add<I: Send>(control: &mut Control<I, Drive>, drive: DriveId, info: DriveInfo, queue: Drive) {
    let namespace = Change::AddNamespace {
        nqn: NQN.into(),
        nsid: None,
        info,
        read_only: false,
        drive,
        queues: vec![queue],
    };
    control.change(namespace).expect("it fits what is there");
}

/// A core's end of a drive.
enum Drive {
    Ram(RamQueue),
    File(FileQueue),
}

impl Drive {
    fn any(&self) -> &dyn Backend {
        match self {
            Drive::Ram(queue) => queue,
            Drive::File(queue) => queue,
        }
    }

    fn any_mut(&mut self) -> &mut dyn Backend {
        match self {
            Drive::Ram(queue) => queue,
            Drive::File(queue) => queue,
        }
    }
}

impl Backend for Drive {
    fn submit(&mut self, io: Io) -> Result<(), Io> {
        self.any_mut().submit(io)
    }

    fn ring_doorbell(&mut self) {
        self.any_mut().ring_doorbell();
    }

    fn poll(&mut self) -> Option<Done> {
        self.any_mut().poll()
    }

    fn in_flight(&self) -> usize {
        self.any().in_flight()
    }

    fn brings_memory(&self) -> bool {
        self.any().brings_memory()
    }

    fn space(&mut self, lba: u64, len: usize, into: &mut BufList) -> bool {
        self.any_mut().space(lba, len, into)
    }

    fn lends(&self) -> u32 {
        self.any().lends()
    }

    fn put(&mut self, buf: Buf) {
        self.any_mut().put(buf);
    }

    fn has_work(&self) -> bool {
        self.any().has_work()
    }
}

fn pool(home: Home, classes: &[(usize, usize)]) -> Pool {
    pool_of(home, classes).0
}

/// A pool, and the region it deals out.
fn pool_of(home: Home, classes: &[(usize, usize)]) -> (Pool, Arc<Region>) {
    let classes: Vec<Class> = classes
        .iter()
        .map(|&(size, count)| Class { size, count })
        .collect();
    let region = Region::map(Pool::bytes(&classes), Want::default()).expect("memory");
    let region = Arc::new(region);
    (Pool::new(region.clone(), 0, home, &classes), region)
}
