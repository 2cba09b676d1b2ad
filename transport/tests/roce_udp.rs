//! Software RoCEv2 over real sockets on the loopback interface: packets are dealt to the right core,
//! messages and memory arrive whole at every MTU, with and without loss, and who is in the way is named.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use ferroce_buf::{BufList, Class, Home, Pool, Region, Want};
use ferroce_engine::port::Tick;
use ferroce_transport::rdma::provider::Incoming as _;
use ferroce_transport::rdma::provider::{
    Access, Answer, Demand, Dial, Event, Message, Provider, QpId, Read, Remote, WcStatus,
};
use ferroce_transport::roce::device::mad_packet;
use ferroce_transport::roce::icrc::Flow;
use ferroce_transport::roce::mad;
use ferroce_transport::roce::packet::{self, Mtu, Psn};
use ferroce_transport::roce::payload::{Outlet, Route};
use ferroce_transport::roce::provider::Roce;
use ferroce_transport::roce::udp::{self, Listener, OpenError, Options, Sockets};
use ferroce_wire::roce::{CmReq, PORT};
use socket2::{SockFilter, SockRef};

/// An address of this machine that no other test has, nor another run of this one.
fn address() -> IpAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let pid = std::process::id();
    let last = NEXT.fetch_add(1, Ordering::Relaxed);
    Ipv4Addr::new(127, 64 | (pid >> 8) as u8, pid as u8, last).into()
}

/// The target has so many cores.
const CORES: usize = 3;
/// How long to wait for what must come, in ns, before the test is given up.
const PATIENCE: u64 = 60_000_000_000;

struct Net {
    start: Instant,
    listener: Listener,
    /// Cores of the target, then those of the host.
    ends: Vec<Roce>,
    pool: Pool,
    target: SocketAddr,
}

impl Net {
    fn new(options: Options) -> Net {
        let (host, target) = (address(), SocketAddr::new(address(), 4420));
        let (cores, listener) =
            udp::open(&[target.ip()], vec![target], CORES, options).expect("the target's sockets");
        let (hosts, none) = udp::open(&[host], Vec::new(), 2, options).expect("the host's sockets");
        assert!(none.is_none());
        let ends = cores.into_iter().chain(hosts);
        let ends = ends
            .zip(0..)
            .map(|(sockets, seed)| Roce::new(sockets, 1 + seed / 3, seed))
            .collect();
        let class = Class {
            size: 1 << 17,
            count: 64,
        };
        let region = Region::map(Pool::bytes(&[class]), Want::default()).expect("memory");
        Net {
            start: Instant::now(),
            listener: listener.expect("somebody listens"),
            ends,
            pool: Pool::new(Arc::new(region), 0, Home::CORE, &[class]),
            target,
        }
    }

    fn now(&self) -> Tick {
        Tick(1 + self.start.elapsed().as_nanos() as u64)
    }

    /// Runs until this sees what it waits for in the events of an end.
    fn until<T>(&mut self, who: usize, mut seen: impl FnMut(Event) -> Option<T>) -> T {
        let begin = self.now();
        loop {
            self.accept();
            for end in 0..self.ends.len() {
                let now = self.now();
                while let Some(event) = self.ends[end].poll(now) {
                    if end == who {
                        if let Some(found) = seen(event) {
                            return found;
                        }
                    } else {
                        self.serve(end, event);
                    }
                }
                self.ends[end].flush(now);
            }
            assert!(self.now().since(begin) < PATIENCE, "it never came");
            std::thread::yield_now();
        }
    }

    fn accept(&mut self) {
        let now = self.now();
        while let Some(incoming) = self.listener.accept(now) {
            let core = incoming.request().private.bytes()[0] as usize;
            let end = &mut self.ends[core];
            let qp = end.open(incoming, &demand(), now).expect("there is room");
            for _ in 0..4 {
                let buf = self.pool.take(8192).expect("memory");
                end.post_recv(qp, Some(buf));
            }
            end.accept(qp, b"", now);
        }
    }

    /// The target: what it is sent inline, it writes to where it is told; what it is told to read, it
    /// writes behind that.
    fn serve(&mut self, end: usize, event: Event) {
        assert!(end < CORES);
        match event {
            Event::Received {
                qp, len, head, buf, ..
            } => {
                let buf = buf.expect("a RECV with a Buf");
                let remote = Remote {
                    addr: u64::from_le_bytes(head[..8].try_into().unwrap()),
                    key: u32::from_le_bytes(head[8..12].try_into().unwrap()),
                };
                let from = Remote {
                    addr: u64::from_le_bytes(head[16..24].try_into().unwrap()),
                    key: u32::from_le_bytes(head[24..28].try_into().unwrap()),
                };
                let size = u32::from_le_bytes(head[28..32].try_into().unwrap()) as usize;
                assert_eq!(len, 64 + 5000);
                let mut bufs = BufList::new();
                bufs.push(self.pool.take(5000).expect("memory"));
                let mut data = vec![0; 5000];
                data.copy_from_slice(&buf.bytes()[..5000]);
                bufs.iter_mut().for_each(|buf| buf.truncate(5000));
                bufs.copy_in(0, &data);
                self.ends[end].post_recv(qp, Some(buf));
                let answer = Answer {
                    tag: 0,
                    remote,
                    bufs,
                    capsule: None,
                    invalidate: None,
                };
                self.ends[end].answer(qp, answer);
                let mut bufs = BufList::new();
                let mut buf = self.pool.take(size).expect("memory");
                buf.truncate(size);
                bufs.push(buf);
                let tag = remote.key;
                self.ends[end].read(
                    qp,
                    Read {
                        tag,
                        remote: from,
                        bufs,
                    },
                );
                // Where the host wants it is told once more, in the address of what was read.
                assert_eq!(remote.addr >> 32, (u64::from(remote.key) >> 16) + 1);
            }
            Event::ReadDone {
                qp,
                tag,
                bufs,
                status,
            } => {
                assert_eq!(status, WcStatus::Success);
                let remote = Remote {
                    addr: (((u64::from(tag) >> 16) + 1) << 32) + 5000,
                    key: tag,
                };
                let answer = Answer {
                    tag: 1,
                    remote,
                    bufs,
                    capsule: Some([9; 16]),
                    invalidate: Some(tag),
                };
                self.ends[end].answer(qp, answer);
            }
            Event::Sent { bufs, .. } => self.pool.put_all(bufs),
            Event::Unposted { buf } => self.pool.put(buf),
            Event::Established { .. } | Event::Disconnected { .. } | Event::Gone { .. } => {}
        }
    }

    fn connect(&mut self, who: usize, core: u8) -> QpId {
        let dial = Dial {
            local: None,
            peer: self.target,
            private: &[core],
            demand: demand(),
        };
        let now = self.now();
        let qp = self.ends[who].connect(&dial, now).expect("it can be tried");
        for _ in 0..4 {
            self.ends[who].post_recv(qp, None);
        }
        self.until(who, |event| match event {
            Event::Established { qp: up } if up == qp => Some(()),
            other => panic!("{other:?}"),
        });
        qp
    }

    /// One command: inline data there and back by WRITE, `size` bytes by READ and back by WRITE.
    fn command(&mut self, who: usize, qp: QpId, size: usize, seed: u8) {
        let data = |len: usize, salt: u8| -> Vec<u8> {
            (0..len)
                .map(|at| (at / 7) as u8 ^ (at as u8) ^ seed ^ salt)
                .collect()
        };
        let list = |net: &mut Net, len: usize, bytes: &[u8]| {
            let mut bufs = BufList::new();
            let mut buf = net.pool.take(len).expect("memory");
            buf.truncate(len);
            bufs.push(buf);
            bufs.copy_in(0, bytes);
            bufs
        };
        let place = list(self, 5000 + size, &vec![0; 5000 + size]);
        let source = list(self, size, &data(size, 1));
        let inline = list(self, 5000, &data(5000, 2));
        let end = &mut self.ends[who];
        let to = end.grant(qp, place, Access::Write).expect("a key");
        let from = end.grant(qp, source, Access::Read).expect("a key");
        let mut head = [0; 64];
        head[..8].copy_from_slice(&to.addr.to_le_bytes());
        head[8..12].copy_from_slice(&to.key.to_le_bytes());
        head[16..24].copy_from_slice(&from.addr.to_le_bytes());
        head[24..28].copy_from_slice(&from.key.to_le_bytes());
        head[28..32].copy_from_slice(&(size as u32).to_le_bytes());
        end.send(
            qp,
            Message {
                tag: 7,
                head,
                bufs: inline,
            },
        );
        let (mut sent, mut answered) = (None, false);
        let inline = self.until(who, |event| {
            match event {
                Event::Sent {
                    tag: 7,
                    bufs,
                    status: WcStatus::Success,
                    ..
                } => sent = Some(bufs),
                Event::Received {
                    len: 16,
                    head,
                    invalidated,
                    ..
                } => {
                    assert_eq!(head[..16], [9; 16]);
                    assert_eq!(invalidated, Some(to.key));
                    answered = true;
                }
                other => panic!("{other:?}"),
            }
            if answered { sent.take() } else { None }
        });
        let end = &mut self.ends[who];
        end.post_recv(qp, None);
        let place = end.revoke(qp, to.key).expect("it was granted");
        let source = end.revoke(qp, from.key).expect("it was granted");
        let mut got = vec![0; 5000 + size];
        place.copy_out(0, &mut got);
        assert!(got[..5000] == data(5000, 2)[..] && got[5000..] == data(size, 1)[..]);
        for bufs in [inline, place, source] {
            self.pool.put_all(bufs);
        }
    }

    fn counter(&self, name: &str) -> u64 {
        let mut sum = 0;
        for end in &self.ends {
            end.each_counter(&mut |other, count| sum += if other == name { count } else { 0 });
        }
        sum
    }

    /// Everything comes to an end, and every Buf home.
    fn close(mut self, qps: &[(usize, QpId)]) {
        for (who, qp) in qps {
            let now = self.now();
            self.ends[*who].close(*qp, now);
            self.until(*who, |event| {
                matches!(event, Event::Gone { .. }).then_some(())
            });
        }
        let begin = self.now();
        while self.ends.iter().any(|end| end.queue_pairs() > 0) {
            for end in 0..self.ends.len() {
                let now = self.now();
                while let Some(event) = self.ends[end].poll(now) {
                    self.serve(end, event);
                }
                self.ends[end].flush(now);
            }
            assert!(self.now().since(begin) < PATIENCE, "the target never heard");
        }
        assert_eq!(self.pool.out(), 0);
    }
}

fn demand() -> Demand {
    Demand {
        recvs: 4,
        recv_data: 8192,
        sends: 16,
        reads: 4,
    }
}

#[test]
fn every_core_gets_its_own() {
    let mut net = Net::new(Options::default());
    let mut qps = Vec::new();
    for i in 0..12 {
        let (who, core) = (CORES + i % 2, (i % CORES) as u8);
        let qp = net.connect(who, core);
        net.command(who, qp, 100_000, i as u8);
        qps.push((who, qp));
    }
    for (i, (who, qp)) in qps.iter().enumerate() {
        net.command(*who, *qp, 1000 * i, 77);
    }
    assert_eq!(
        net.counter("dropped_qpn") + net.counter("dropped_cm_unknown"),
        0
    );
    assert_eq!(
        net.counter("dropped_icrc") + net.counter("ids_recovered"),
        0
    );
    assert!(net.ends[..CORES].iter().all(|end| end.queue_pairs() == 4));
    net.close(&qps);
}

#[test]
fn every_mtu() {
    for code in 1..=5 {
        let mtu_max = Mtu::from_code(code);
        let mut net = Net::new(Options {
            mtu_max,
            ..Options::default()
        });
        let qp = net.connect(CORES, 0);
        for size in [0, 1, 255, 4096, 65_537, 120_000] {
            net.command(CORES, qp, size, code);
        }
        net.close(&[(CORES, qp)]);
    }
}

#[test]
fn loss_is_made_good() {
    let mut net = Net::new(Options {
        mtu_max: Mtu::from_code(3),
        loss_ppm: 20_000,
        loss_seed: 5,
        ..Options::default()
    });
    let qp = net.connect(CORES, 1);
    for i in 0..20 {
        net.command(CORES, qp, 60_000, i);
    }
    assert!(net.counter("dropped_injected") > 10);
    assert!(net.counter("resent") > 10);
    net.close(&[(CORES, qp)]);
}

#[test]
fn a_flood_is_looked_at_bit_by_bit() {
    const COUNT: u64 = 100;
    let mut net = Net::new(Options::default());
    let mad = mad::build(1, mad::Message::Req(&CmReq::default()));
    let packet = mad_packet(&mad, Psn::new(0));
    let mut datagram = packet.head.bytes().to_vec();
    datagram.extend(packet.payload.to_vec());
    // No ICRC is that.
    datagram.extend([0x5A; 4]);
    let socket = UdpSocket::bind((address(), 0)).expect("a port");
    for _ in 0..COUNT {
        let to = (net.target.ip(), PORT);
        socket.send_to(&datagram, to).expect("it leaves");
    }
    let now = net.now();
    assert!(net.listener.accept(now).is_none());
    let first = net.listener.counters.received;
    assert!((1..COUNT).contains(&first), "{first} were looked at");
    // The rest is there when it is asked again.
    for _ in 0..COUNT {
        assert!(net.listener.accept(now).is_none());
    }
    assert_eq!(net.listener.counters.received, COUNT);
    // Others can see it, too.
    let shared = net.listener.shared();
    assert_eq!(shared.lock().expect("nobody panics").received, COUNT);
}

#[test]
fn who_is_in_the_way_is_named() {
    let ip = address();
    let squatter = UdpSocket::bind((ip, 4791)).expect("a free port");
    let open = |ip| udp::open(&[ip], Vec::new(), 1, Options::default()).map(|_| ());
    let error = open(ip).expect_err("it is taken");
    assert!(matches!(error, OpenError::Taken(_)));
    assert!(error.to_string().contains("rdma_rxe"), "{error}");
    drop(squatter);
    open(ip).expect("it is free now");
    let kept = udp::open(&[ip], Vec::new(), 1, Options::default()).expect("it is free");
    assert!(
        matches!(open(ip), Err(OpenError::Taken(_))),
        "even by one of us"
    );
    drop(kept);
    let wildcard = Ipv4Addr::UNSPECIFIED.into();
    assert!(matches!(open(wildcard), Err(OpenError::Wildcard(_))));
    let elsewhere = Ipv4Addr::new(192, 0, 2, 1).into();
    assert!(matches!(open(elsewhere), Err(OpenError::Interface(..))));
}

/// DSCP 26, and no ECN.
const CLASS: u8 = 26 << 2;

/// A socket that hears nothing but datagrams whose IP header has [`CLASS`].
fn hears_the_class(ip: IpAddr) -> UdpSocket {
    let socket = UdpSocket::bind((ip, 0)).expect("a port");
    // TOS is the second byte of an IPv4 header, Traffic Class bits 11:4 of the first two bytes of IPv6's.
    let shift = if ip.is_ipv4() { 0 } else { 4 };
    let (mask, class) = (0xFF << shift, u32::from(CLASS) << shift);
    let ip_header = libc::SKF_NET_OFF as u32;
    let step = |code: u32, jt, jf, k| SockFilter::new(code as u16, jt, jf, k);
    let filter = [
        step(libc::BPF_LD | libc::BPF_H | libc::BPF_ABS, 0, 0, ip_header),
        step(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0, 0, mask),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, class),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
    ];
    let filtered = SockRef::from(&socket).attach_filter(&filter);
    filtered.expect("sockets have filters");
    let patience = Duration::from_nanos(PATIENCE);
    socket.set_read_timeout(Some(patience)).expect("it may be");
    socket
}

/// The one core's sockets there, once no other run of this test has the address.
fn sockets(ip: IpAddr, options: Options) -> Sockets {
    let begin = Instant::now();
    loop {
        match udp::open(&[ip], Vec::new(), 1, options) {
            Ok((mut cores, _)) => return cores.remove(0),
            Err(OpenError::Taken(_)) if begin.elapsed() < Duration::from_nanos(PATIENCE) => {
                std::thread::yield_now();
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn packets_leave_with_the_traffic_class_that_was_asked_for() {
    let mad = mad::build(1, mad::Message::Req(&CmReq::default()));
    for ip in [address(), Ipv6Addr::LOCALHOST.into()] {
        let peer = hears_the_class(ip);
        let to = peer.local_addr().expect("it is bound");
        let flow = Flow::new(SocketAddr::new(ip, PORT), ip);
        let route = Route { port: 0, to, flow };
        // What leaves without a class is not heard, what leaves with it is: one by one and cut by the system.
        for (first, segment) in [(0, false), (4, true)] {
            for (psn, traffic_class) in [(first, None), (first + 2, Some(CLASS))] {
                let options = Options {
                    traffic_class,
                    segment: Some(segment),
                    ..Options::default()
                };
                let packets = [psn, psn + 1].map(|psn| mad_packet(&mad, Psn::new(psn)));
                assert_eq!(sockets(ip, options).send(&route, &packets), 2);
            }
            for psn in [first + 2, first + 3] {
                let mut datagram = [0; 512];
                let len = peer.recv(&mut datagram).expect("it comes");
                let heard = packet::parse(&datagram[..len]).expect("a packet");
                assert_eq!(
                    heard.bth.psn.get(),
                    psn,
                    "{ip}, cut by the system: {segment}"
                );
            }
        }
    }
}
