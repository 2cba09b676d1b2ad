//! Two ends of a connection on one device, and what they do to each other.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferroce_buf::{Buf, BufList, Class, Home, Pool, Region, Want};
use ferroce_engine::port::Tick;
use ferroce_transport::rdma::provider::{
    Access, Answer, Demand, Dial, Event, Incoming as _, Provider, QpId, Remote, WcStatus, Why,
};
use ferroce_transport::rdma::verbs::{
    Listener, Options, Verbs, VerbsIncoming, VerbsProvider, none_here,
};

pub const PAGE: usize = 4096;
pub const RECVS: u32 = 4;
/// Longer than anything takes but what never comes.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Two ends, with memory for both. Fields are dropped in order: providers before what they belong to.
pub struct Bench {
    pub ends: [End; 2],
    pub listener: Listener,
    pub verbs: Verbs,
    pub pool: Pool,
    /// How answers and READs ended that came back from queue pairs that were over.
    pub statuses: Vec<WcStatus>,
    pub address: SocketAddr,
    pub start: Instant,
}

pub struct End {
    pub provider: VerbsProvider,
    pub events: VecDeque<Event>,
}

pub const HOST: usize = 0;
pub const TARGET: usize = 1;

pub fn demand(recv_data: u32) -> Demand {
    Demand {
        recvs: RECVS,
        recv_data,
        sends: 64,
        reads: 16,
    }
}

/// Bytes that say where they belong.
pub fn pattern(seed: u8, len: usize) -> Vec<u8> {
    (0..len)
        .map(|i| (i as u8).wrapping_mul(7).wrapping_add((i >> 8) as u8) ^ seed)
        .collect()
}

impl Bench {
    pub fn new(ip: IpAddr, port: u16) -> Bench {
        let verbs = Verbs::start(Options {
            host: true,
            traffic_class: None,
        })
        .expect("RDMA is there");
        assert!(!verbs.devices().is_empty() && verbs.has(ip));
        let classes = [
            Class {
                size: PAGE,
                count: 128,
            },
            Class {
                size: 32 * PAGE,
                count: 8,
            },
        ];
        let region = Region::map(Pool::bytes(&classes), Want::default()).expect("memory");
        let region = Arc::new(region);
        verbs.register(&region).expect("it can be locked");
        let end = || End {
            provider: verbs.core().expect("descriptors"),
            events: VecDeque::new(),
        };
        let address = SocketAddr::new(ip, port);
        Bench {
            ends: [end(), end()],
            listener: verbs.listen(address).expect("a listener"),
            verbs,
            pool: Pool::new(region, 0, Home::CORE, &classes),
            statuses: Vec::new(),
            address,
            start: Instant::now(),
        }
    }

    pub fn now(&self) -> Tick {
        Tick(self.start.elapsed().as_nanos() as u64)
    }

    /// Both ends turn once.
    pub fn turn(&mut self) {
        let now = self.now();
        for end in &mut self.ends {
            while let Some(event) = end.provider.poll(now) {
                end.events.push_back(event);
            }
            end.provider.flush(now);
        }
    }

    /// The next event of an end.
    pub fn next(&mut self, end: usize) -> Event {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(event) = self.ends[end].events.pop_front() {
                return event;
            }
            assert!(Instant::now() < until, "nothing happens at end {end}");
            self.turn();
        }
    }

    pub fn dial(&mut self, address: SocketAddr) -> QpId {
        self.dial_with(address, b"may I come in")
    }

    pub fn dial_with(&mut self, address: SocketAddr, private: &[u8]) -> QpId {
        let now = self.now();
        let dial = Dial {
            local: None,
            peer: address,
            private,
            demand: demand(0),
        };
        let qp = self.ends[HOST].provider.connect(&dial, now);
        qp.expect("it can be tried")
    }

    pub fn request(&mut self) -> VerbsIncoming {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(incoming) = self.listener.accept() {
                return incoming;
            }
            assert!(Instant::now() < until, "no request");
            self.turn();
        }
    }

    pub fn open(&mut self, incoming: VerbsIncoming) -> QpId {
        let now = self.now();
        let provider = &mut self.ends[TARGET].provider;
        let qp = provider
            .open(incoming, &demand(PAGE as u32), now)
            .expect("there is room");
        for _ in 0..RECVS {
            let buf = self.pool.take(PAGE).expect("a Buf");
            provider.post_recv(qp, Some(buf));
        }
        provider.accept(qp, b"do", now);
        qp
    }

    /// A connection that stands: the host's queue pair and the target's.
    pub fn pair(&mut self) -> [QpId; 2] {
        let host = self.dial(self.address);
        let ours = self.ends[HOST].provider.local(host);
        let incoming = loop {
            // One that was closed before may still have asked.
            let incoming = self.request();
            if incoming.request().peer == ours {
                break incoming;
            }
        };
        let request = *incoming.request();
        assert!(request.private.bytes().starts_with(b"may I come in"));
        assert_eq!(request.local, self.address);
        assert!(request.responder_resources > 0);
        let target = self.open(incoming);
        for (end, qp) in [(HOST, host), (TARGET, target)] {
            let event = self.next(end);
            assert!(
                matches!(event, Event::Established { qp: up } if up == qp),
                "{event:?}"
            );
        }
        assert!(
            self.ends[HOST]
                .provider
                .private(host)
                .bytes()
                .starts_with(b"do")
        );
        assert_eq!(
            self.ends[TARGET].provider.peer(target).ip(),
            self.address.ip()
        );
        for _ in 0..RECVS {
            self.ends[HOST].provider.post_recv(host, None);
        }
        [host, target]
    }

    /// Both are over: every Buf comes back, then the name goes. The reasons, if there were any.
    pub fn gone(&mut self, qps: [QpId; 2]) -> [Option<Why>; 2] {
        let mut reasons = [None; 2];
        for (end, qp) in qps.into_iter().enumerate() {
            loop {
                match self.next(end) {
                    Event::Unposted { buf } => self.pool.put(buf),
                    Event::Disconnected { qp: which, why } => {
                        assert_eq!((which, reasons[end]), (qp, None));
                        reasons[end] = Some(why);
                    }
                    Event::Gone { qp: which } => {
                        assert_eq!(which, qp);
                        break;
                    }
                    Event::Received { buf, .. } => {
                        if let Some(buf) = buf {
                            self.pool.put(buf);
                        }
                    }
                    Event::Sent { bufs, status, .. } | Event::ReadDone { bufs, status, .. } => {
                        self.statuses.push(status);
                        self.pool.put_all(bufs);
                    }
                    event @ Event::Established { .. } => panic!("{event:?}"),
                }
            }
        }
        reasons
    }

    pub fn buf(&mut self, content: &[u8]) -> Buf {
        let mut buf = self.pool.take(content.len()).expect("a Buf");
        buf.bytes_mut().copy_from_slice(content);
        buf
    }

    /// Content in pages of their own, so that there are many pieces.
    pub fn pages(&mut self, content: &[u8]) -> BufList {
        let mut bufs = BufList::new();
        for page in content.chunks(PAGE) {
            let buf = self.buf(page);
            bufs.push(buf);
        }
        bufs
    }

    pub fn grant(&mut self, qp: QpId, content: &[u8], access: Access) -> Remote {
        let mut bufs = BufList::new();
        bufs.push(self.buf(content));
        let granted = self.ends[HOST].provider.grant(qp, bufs, access);
        granted.expect("a window is free")
    }

    pub fn revoke(&mut self, qp: QpId, key: u32) -> Vec<u8> {
        let bufs = self.ends[HOST].provider.revoke(qp, key);
        let bufs = bufs.expect("it was granted");
        let mut content = vec![0; bufs.len()];
        bufs.copy_out(0, &mut content);
        self.pool.put_all(bufs);
        assert!(self.ends[HOST].provider.revoke(qp, key).is_none());
        content
    }

    pub fn answer(
        &mut self,
        qp: QpId,
        tag: u32,
        data: Option<(Remote, &[u8])>,
        invalidate: Option<u32>,
    ) {
        let bufs = data.map_or(BufList::new(), |(_, content)| self.pages(content));
        let remote = data.map_or(Remote { addr: 0, key: 0 }, |(remote, _)| remote);
        self.ends[TARGET].provider.answer(
            qp,
            Answer {
                tag,
                remote,
                bufs,
                capsule: Some([tag as u8; 16]),
                invalidate,
            },
        );
    }

    /// The host receives a response, and posts its RECV again.
    pub fn response(&mut self, qp: QpId, tag: u32) -> Option<u32> {
        let event = self.next(HOST);
        let Event::Received {
            qp: at,
            len: 16,
            head,
            buf: None,
            invalidated,
        } = event
        else {
            panic!("{event:?}");
        };
        assert_eq!(at, qp);
        assert_eq!(
            (head[..16].to_vec(), &head[16..]),
            (vec![tag as u8; 16], &[0; 48][..])
        );
        self.ends[HOST].provider.post_recv(qp, None);
        invalidated
    }

    pub fn sent(&mut self, end: usize, tag: u32) -> WcStatus {
        match self.next(end) {
            Event::Sent {
                tag: which,
                bufs,
                status,
                ..
            } => {
                assert_eq!(which, tag);
                self.pool.put_all(bufs);
                status
            }
            event => panic!("{event:?}"),
        }
    }
}

/// What the kernel holds for programs: queue pairs, connections, and memory regions.
pub fn held() -> Vec<usize> {
    let count = |kind: &str| {
        let mut command = Command::new("rdma");
        let shown = command.args(["resource", "show", kind]);
        let text = String::from_utf8(shown.output().expect("iproute2 is there").stdout);
        let text = text.expect("text");
        text.lines().filter(|line| line.contains(" pid ")).count()
    };
    ["qp", "cm_id", "mr"].map(count).to_vec()
}

/// A bench, if there is a device. If there is none that is found out, and no accident.
pub fn bench(port: u16) -> Option<Bench> {
    if let Ok(ip) = std::env::var("FERROCE_RDMA") {
        return Some(Bench::new(ip.parse().expect("an IP address"), port));
    }
    if let Err(why) = Verbs::start(Options::default()) {
        assert!(none_here(&why), "{why}");
    }
    None
}
