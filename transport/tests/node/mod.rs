//! A whole node in a thread of the test: one core, the control thread's mind, a listener, RAM drives.
//! Hosts connect over loopback.
#![allow(dead_code, reason = "each test uses its part")]

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Waker;
use std::thread::JoinHandle;
use std::time::Instant;

use ferroce_buf::{Class, Home, Pool, Region, Want};
use ferroce_drivers::{RamConfig, RamDrive, RamQueue};
use ferroce_engine::control::{Change, Control};
use ferroce_engine::core::{Core, CoreConfig, LANDING};
use ferroce_engine::limits;
use ferroce_engine::mail::{ToControl, mailbox};
use ferroce_engine::port::{Fabric, Tick};
use ferroce_engine::table::{Listener as Listening, Subsystem, Transport};
use ferroce_transport::rdma::fabric::RdmaFabric;
use ferroce_transport::roce::provider::Roce;
use ferroce_transport::roce::udp;
use ferroce_transport::tcp::fabric::TcpFabric;
use ferroce_transport::tcp::listen::{Accepted, Listener};
use ferroce_transport::tcp::target::Offer;

pub mod raw;

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
            run(
                fabric,
                accept,
                (Transport::Rdma, address),
                &block_lens,
                &stopped,
                around,
            );
        });
        Node {
            address,
            stop,
            thread: Some(thread),
        }
    }

    pub fn start_with(block_lens: &[u32], around: Turn) -> Node {
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
            run(
                fabric,
                accept,
                (Transport::Tcp, address),
                &block_lens,
                &stopped,
                around,
            );
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
    block_lens: &[u32],
    stop: &AtomicBool,
    around: Turn,
) {
    let (to_core, from_control) = mailbox(1024, Waker::noop().clone());
    let (to_control, from_core) = mailbox::<ToControl>(1024, Waker::noop().clone());
    let mut control: Control<F::Incoming, RamQueue> = Control::new(vec![to_core]);
    let config = CoreConfig {
        index: 0,
        cores: 1,
        commands: 4096,
        pool: pool(Home::CORE, &[(4096, 64), (limits::CHUNK_LEN as usize, 64)]),
        landing: pool(LANDING, &[(limits::IN_CAPSULE as usize, 64)]),
        facts: Arc::default(),
        counters: Arc::default(),
    };
    let mut core = Core::new(config, vec![fabric], from_control, to_control);
    let mut drives = Vec::new();
    plan(&mut control, transport, address, block_lens, &mut drives);

    let start = Instant::now();
    let mut stopping = false;
    loop {
        let now = Tick(1 + start.elapsed().as_nanos() as u64);
        let mut busy = false;
        around(&mut || busy = core.turn(now, 1_700_000_000_000, || now).busy);
        while let Some(mail) = from_core.poll() {
            control.on_mail(mail, now);
            busy = true;
        }
        control.on_time(now);
        while !stopping && let Some(incoming) = accept(now) {
            control.adopt(0, 0, incoming);
            busy = true;
        }
        if stop.load(Ordering::Relaxed) && !stopping {
            stopping = true;
            control.stop();
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
    control: &mut Control<I, RamQueue>,
    transport: Transport,
    address: SocketAddr,
    block_lens: &[u32],
    drives: &mut Vec<Arc<RamDrive>>,
) {
    let mut change = |change| {
        control.change(change).expect("it fits what is there");
    };
    change(Change::AddSubsystem(Subsystem {
        nqn: NQN.into(),
        serial: "FERROCE1".into(),
        model: "Ferroce".into(),
        cntlids: (1, 0xFFEF),
        allow: None,
        namespaces: Default::default(),
    }));
    let listener = Listening {
        transport,
        address,
        port_id: 1,
    };
    change(Change::AddListener(listener));
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
        let queues = vec![drive.open(0).expect("memory")];
        control
            .change(Change::AddNamespace {
                nqn: NQN.into(),
                nsid: None,
                info: drive.info(),
                read_only: false,
                drive: id,
                queues,
            })
            .expect("it fits what is there");
        drives.push(drive);
    }
}

fn pool(home: Home, classes: &[(usize, usize)]) -> Pool {
    let classes: Vec<Class> = classes
        .iter()
        .map(|&(size, count)| Class { size, count })
        .collect();
    let region = Region::map(Pool::bytes(&classes), Want::default()).expect("memory");
    Pool::new(Arc::new(region), 0, home, &classes)
}
