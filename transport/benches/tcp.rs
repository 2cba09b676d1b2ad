//! What a 4 KiB read and a 4 KiB in-capsule write cost the target's sockets and PDU machine, over
//! loopback, beside the same bytes without a protocol. Host and target take turns in one thread and
//! only the target's part is timed, so that a busy machine disturbs little. Data comes from random
//! pages of a large memory, as it does from a RAM drive.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ferroce_buf::{Buf, BufList, Class, Home, PAGE, Pool, Region, Want};
use ferroce_engine::port::{ConnId, Fabric, Inbound, Reply, Room, Tick};
use ferroce_transport::sys::{self, IoList};
use ferroce_transport::tcp::fabric::TcpFabric;
use ferroce_transport::tcp::frame::{self, Format};
use ferroce_transport::tcp::listen::Incoming;
use ferroce_transport::tcp::target::Offer;
use ferroce_wire::Wire;
use ferroce_wire::cqe::Cqe;
use ferroce_wire::sqe::{Sgl, Sqe};
use ferroce_wire::status::Status;
use ferroce_wire::tcp::{CapsuleCmd, CapsuleResp, IcReq};

const MEMORY: usize = 256 << 20;
const NOW: Tick = Tick(1);
const HEADER: [u8; 24] = [0; 24];

/// The two ends of a connection over loopback.
fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback is there");
    let host = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
    let (target, _) = listener.accept().expect("it connected");
    host.set_nodelay(true).expect("a TCP option");
    target.set_nodelay(true).expect("a TCP option");
    (host, target)
}

/// Pages in an order that no cache foresees.
struct Memory {
    pages: Vec<Buf>,
    random: fastrand::Rng,
    pool: Pool,
}

impl Memory {
    fn new() -> Memory {
        let classes = [Class {
            size: PAGE,
            count: MEMORY / PAGE,
        }];
        let region = Arc::new(Region::map(MEMORY, Want::default()).expect("memory"));
        let mut pool = Pool::new(region, 0, Home::CORE, &classes);
        let mut pages: Vec<Buf> = std::iter::from_fn(|| pool.take(PAGE)).collect();
        let mut random = fastrand::Rng::with_seed(1);
        random.shuffle(&mut pages);
        Memory {
            pages,
            random,
            pool,
        }
    }

    fn take(&mut self) -> Buf {
        let at = self.random.usize(..self.pages.len());
        self.pages.swap_remove(at)
    }

    fn close(mut self) {
        for page in self.pages.drain(..) {
            self.pool.put(page);
        }
    }
}

/// Sends `request`, lets the target work, and reads `reply_len` bytes; says how long the target took.
fn round(
    host: &mut TcpStream,
    request: &[u8],
    reply: &mut [u8],
    target: impl FnOnce() -> io::Result<()>,
) -> Duration {
    host.write_all(request).expect("it fits the socket");
    let start = Instant::now();
    target().expect("the connection lives");
    let took = start.elapsed();
    host.read_exact(reply).expect("it was sent");
    took
}

fn raw(depth: usize, rounds: u64, memory: &mut Memory) -> Duration {
    let (mut host, target) = pair();
    let request = vec![0; depth * CapsuleCmd::LEN];
    let mut reply = vec![0; depth * (HEADER.len() + PAGE)];
    let mut staging = vec![0; 64 * 1024];
    let mut pages = Vec::new();
    let mut took = Duration::ZERO;
    for _ in 0..rounds {
        took += round(&mut host, &request, &mut reply, || {
            let mut got = 0;
            while got < request.len() {
                got += (&target).read(&mut staging)?;
            }
            pages.extend((0..depth).map(|_| memory.take()));
            let mut list = IoList::new(usize::MAX);
            for page in &pages {
                list.push(&HEADER);
                list.push(page.bytes());
            }
            assert_eq!(sys::send(target.as_fd(), &list)?, list.len());
            Ok(())
        });
        memory.pages.append(&mut pages);
    }
    took
}

/// The fabric with an engine that does nothing.
struct Node<'m> {
    fabric: TcpFabric,
    memory: &'m mut Memory,
    landing: Vec<u8>,
    commands: Vec<(ConnId, u16)>,
    lists: Vec<BufList>,
}

impl Node<'_> {
    fn turn(&mut self, reads: bool) -> usize {
        while let Some(inbound) = self.fabric.poll(NOW, Room::Any) {
            if let Inbound::Capsule { conn, sqe, data } = inbound {
                let data = data.bytes();
                self.landing[..data.len()].copy_from_slice(data);
                self.commands.push((conn, sqe.cid.get()));
            }
        }
        let count = self.commands.len();
        for (conn, cid) in self.commands.drain(..) {
            let mut bufs = self.lists.pop().unwrap_or_default();
            if reads {
                bufs.push(self.memory.take());
            }
            let reply = Reply {
                cid,
                sgl: Sgl::NONE,
                offset: 0,
                bufs,
                last: true,
                cqe: Some(Cqe::new(cid, Status::SUCCESS)),
                may_elide_cqe: true,
            };
            self.fabric.reply(conn, reply);
        }
        self.fabric.flush(NOW);
        while let Some(mut bufs) = self.fabric.home() {
            while let Some(page) = bufs.pop() {
                self.memory.pages.push(page);
            }
            self.lists.push(bufs);
        }
        count
    }
}

fn node(depth: usize, rounds: u64, memory: &mut Memory, data: &[u8]) -> Duration {
    let (mut host, target) = pair();
    let mut node = Node {
        fabric: TcpFabric::new(Offer::default()).expect("a descriptor"),
        memory,
        landing: vec![0; 8192],
        commands: Vec::new(),
        lists: Vec::new(),
    };
    let incoming = Incoming::new(target).expect("it is connected");
    node.fabric.adopt(incoming, NOW);
    let mut greeting = Vec::new();
    frame::put(&mut greeting, IcReq::new(0, 0, 0), 0, &Format::default());
    host.write_all(&greeting).expect("it fits the socket");
    node.turn(true);
    host.read_exact(&mut greeting).expect("it was sent");

    let mut request = Vec::new();
    for cid in 0..depth {
        let pdu = CapsuleCmd {
            sqe: Sqe::new(2).with_ids(cid as u16, 1),
            ..CapsuleCmd::default()
        };
        frame::put(&mut request, pdu, data.len(), &Format::default());
        request.extend_from_slice(data);
    }
    let reads = data.is_empty();
    let each = if reads {
        HEADER.len() + PAGE
    } else {
        CapsuleResp::LEN
    };
    let mut reply = vec![0; depth * each];
    let mut took = Duration::ZERO;
    for _ in 0..rounds {
        took += round(&mut host, &request, &mut reply, || {
            let mut done = 0;
            while done < depth || node.fabric.has_work() {
                done += node.turn(reads);
            }
            Ok(())
        });
    }
    took
}

fn tcp(c: &mut Criterion) {
    let mut memory = Memory::new();
    let mut group = c.benchmark_group("tcp");
    for depth in [1, 32] {
        group.throughput(Throughput::Elements(depth as u64));
        group.bench_function(BenchmarkId::new("raw read", depth), |b| {
            b.iter_custom(|rounds| raw(depth, rounds, &mut memory));
        });
        group.bench_function(BenchmarkId::new("read", depth), |b| {
            b.iter_custom(|rounds| node(depth, rounds, &mut memory, &[]));
        });
        group.bench_function(BenchmarkId::new("write", depth), |b| {
            b.iter_custom(|rounds| node(depth, rounds, &mut memory, &[7; PAGE]));
        });
    }
    group.finish();
    memory.close();
}

criterion_group!(benches, tcp);
criterion_main!(benches);
