//! Where hosts meet a node in tests: the same queue pairs by each provider of RDMA that there is, so that one test asks all of
//! them. In memory every legal order is picked by a seed, and time is the test's; over sockets and devices things happen when
//! they happen.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use ferroce_buf::Region;
use ferroce_engine::port::Tick;
use ferroce_transport::rdma::memory::{MemoryIncoming, MemoryProvider, World};
use ferroce_transport::rdma::provider::{Limits, Provider};
use ferroce_transport::roce::provider::Roce;
use ferroce_transport::roce::udp::{self, Options, Sockets};

/// What may happen to a host at any moment. Not every line can make it happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Accident {
    /// All of its queue pairs fail.
    Breaks,
    /// All of the node's do.
    NodeBreaks,
    /// It is there no more, and did not say so.
    Vanishes,
}

/// A node's end, its hosts' ends, and what is between them. Clones are the same line.
pub trait Line: Clone {
    /// Queue pairs of an end.
    type End: Provider;
    /// Keep Alive Timeout of the hosts, who send none.
    const KATO_MS: u32;

    /// What the node has to say to whoever comes to [`Line::address`]. Asked for once.
    fn node(&self, limits: Limits) -> Self::End;
    /// An end for host `number`, from 2 on.
    fn host(&self, number: u8, limits: Limits) -> Self::End;
    /// Where the node is.
    fn address(&self) -> SocketAddr;
    /// The next request for a connection that has arrived there.
    fn incoming(&self, now: Tick) -> Option<<Self::End as Provider>::Incoming>;
    /// Bufs of this region are the node's.
    fn register(&self, _region: &Arc<Region>) {}
    /// The time that comes after this one.
    fn later(&self, than: Tick) -> Tick;
    /// Makes this happen to host `number`; false if that cannot be.
    fn happen(&self, accident: Accident, host: &mut Self::End, number: u8) -> bool;
    /// Queue pairs of the node that are there, as far as somebody else counts them.
    fn qps(&self) -> usize {
        0
    }
    /// Between two looks at what may have come.
    fn rest(&self) {}
}

/// How long is waited for what must come: so many looks at least, and so long.
pub struct Patience {
    looks: u32,
    until: Instant,
}

impl Patience {
    pub fn new() -> Patience {
        Patience {
            looks: 100_000,
            until: Instant::now() + Duration::from_secs(60),
        }
    }

    /// False when it is at its end.
    pub fn holds<L: Line>(&mut self, line: &L) -> bool {
        line.rest();
        self.looks = self.looks.saturating_sub(1);
        self.looks > 0 || Instant::now() < self.until
    }
}

/// Queue pairs in memory.
#[derive(Clone)]
pub struct Memory(pub World);

impl Memory {
    fn ip(number: u8) -> IpAddr {
        Ipv4Addr::new(10, 0, 0, number).into()
    }
}

impl Line for Memory {
    type End = MemoryProvider;
    const KATO_MS: u32 = 5000;

    fn node(&self, limits: Limits) -> MemoryProvider {
        self.0.end(Memory::ip(1), limits)
    }

    fn host(&self, number: u8, limits: Limits) -> MemoryProvider {
        self.0.end(Memory::ip(number), limits).strict()
    }

    fn address(&self) -> SocketAddr {
        (Memory::ip(1), 4420).into()
    }

    fn incoming(&self, _: Tick) -> Option<MemoryIncoming> {
        self.0.incoming()
    }

    fn later(&self, than: Tick) -> Tick {
        than.plus_ns(200_000)
    }

    fn happen(&self, accident: Accident, _: &mut MemoryProvider, number: u8) -> bool {
        match accident {
            Accident::Breaks => self.0.break_all(Memory::ip(number)),
            Accident::NodeBreaks => self.0.break_all(Memory::ip(1)),
            Accident::Vanishes => self.0.kill(Memory::ip(number)),
        }
        true
    }

    fn qps(&self) -> usize {
        self.0.qps(Memory::ip(1))
    }
}

/// Software RoCEv2 on sockets of the loopback interface.
#[derive(Clone)]
pub struct Udp(Rc<UdpLine>);

struct UdpLine {
    address: SocketAddr,
    node: RefCell<Option<Sockets>>,
    listener: RefCell<udp::Listener>,
    start: Instant,
}

impl Udp {
    pub fn new() -> Udp {
        let address = SocketAddr::new(Udp::ip(), 4420);
        let opened = udp::open(&[address.ip()], vec![address], 1, Options::default());
        let (mut sockets, listener) = opened.expect("the node's sockets");
        Udp(Rc::new(UdpLine {
            address,
            node: RefCell::new(sockets.pop()),
            listener: RefCell::new(listener.expect("somebody listens")),
            start: Instant::now(),
        }))
    }

    /// An address of this machine that no other test has, nor another run of this one.
    fn ip() -> IpAddr {
        static NEXT: AtomicU8 = AtomicU8::new(1);
        let pid = std::process::id();
        let last = NEXT.fetch_add(1, Ordering::Relaxed);
        Ipv4Addr::new(127, 128 | (pid >> 8) as u8, pid as u8, last).into()
    }
}

impl Line for Udp {
    type End = Roce;
    const KATO_MS: u32 = 120_000;

    fn node(&self, _: Limits) -> Roce {
        let sockets = self.0.node.borrow_mut().take();
        Roce::new(sockets.expect("asked for once"), 1, 0)
    }

    fn host(&self, number: u8, _: Limits) -> Roce {
        let opened = udp::open(&[Udp::ip()], Vec::new(), 1, Options::default());
        let (mut sockets, _) = opened.expect("a host's sockets");
        let sockets = sockets.pop().expect("it was asked for");
        Roce::new(sockets, number.into(), number.into())
    }

    fn address(&self) -> SocketAddr {
        self.0.address
    }

    fn incoming(&self, now: Tick) -> Option<<Roce as Provider>::Incoming> {
        self.0.listener.borrow_mut().accept(now)
    }

    fn later(&self, _: Tick) -> Tick {
        Tick(1 + self.0.start.elapsed().as_nanos() as u64)
    }

    /// Who vanishes from a network is found by time, which others' tests have more of.
    fn happen(&self, _: Accident, _: &mut Roce, _: u8) -> bool {
        false
    }

    fn rest(&self) {
        std::thread::yield_now();
    }
}

#[cfg(feature = "verbs")]
pub use devices::Devices;

#[cfg(feature = "verbs")]
mod devices {
    use std::sync::atomic::AtomicU16;

    use ferroce_transport::rdma::verbs::{self, Verbs, VerbsIncoming, VerbsProvider, none_here};

    use super::*;

    /// RDMA devices, of which one has the address in FERROCE_RDMA: the lab's scenarios set it.
    #[derive(Clone)]
    pub struct Devices(Rc<DevicesLine>);

    /// Dropped in order: a listener before what it belongs to.
    struct DevicesLine {
        listener: verbs::Listener,
        verbs: Verbs,
        start: Instant,
    }

    impl Devices {
        /// `None` if there is none here. That is found out, and no accident.
        pub fn new() -> Option<Devices> {
            static NEXT: AtomicU16 = AtomicU16::new(18600);
            let options = verbs::Options {
                host: true,
                traffic_class: None,
            };
            let started = Verbs::start(options);
            let Ok(ip) = std::env::var("FERROCE_RDMA") else {
                if let Err(why) = started {
                    assert!(none_here(&why), "{why}");
                }
                return None;
            };
            let verbs = started.expect("RDMA is there");
            let ip = ip.parse().expect("an IP address");
            let port = NEXT.fetch_add(1, Ordering::Relaxed);
            Some(Devices(Rc::new(DevicesLine {
                listener: verbs.listen(SocketAddr::new(ip, port)).expect("a listener"),
                verbs,
                start: Instant::now(),
            })))
        }
    }

    impl Line for Devices {
        type End = VerbsProvider;
        const KATO_MS: u32 = 120_000;

        fn node(&self, _: Limits) -> VerbsProvider {
            self.0.verbs.core().expect("descriptors")
        }

        fn host(&self, _: u8, _: Limits) -> VerbsProvider {
            self.0.verbs.core().expect("descriptors")
        }

        fn address(&self) -> SocketAddr {
            self.0.listener.local()
        }

        fn incoming(&self, _: Tick) -> Option<VerbsIncoming> {
            self.0.listener.accept()
        }

        fn register(&self, region: &Arc<Region>) {
            self.0.verbs.register(region).expect("it can be locked");
        }

        fn later(&self, _: Tick) -> Tick {
            Tick(1 + self.0.start.elapsed().as_nanos() as u64)
        }

        /// A process that ends takes its queue pairs with it.
        fn happen(&self, accident: Accident, host: &mut VerbsProvider, _: u8) -> bool {
            if accident == Accident::Vanishes {
                *host = self.0.verbs.core().expect("descriptors");
            }
            accident == Accident::Vanishes
        }

        fn rest(&self) {
            std::thread::yield_now();
        }
    }
}
