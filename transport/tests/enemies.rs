//! Hosts that mean no good: noise, silence, slowness and haste. The node serves others meanwhile,
//! and has nothing left over afterwards (which `Node` checks when it is dropped).

mod node;

use std::io::Write;
use std::net::TcpStream;

use ferroce_engine::host as nvme;
use ferroce_transport::host::{Controller, Data, HostIdentity, Options, Queue};
use ferroce_wire::Wire;
use ferroce_wire::fabrics::Nqn;
use ferroce_wire::sqe::Sgl;
use ferroce_wire::tcp::IcReq;
use node::common::Patience;
use node::raw::Raw;
use node::{NQN, Node};

/// A host that reads a block to see whether the node still serves.
struct Witness {
    _admin: Raw,
    io: Raw,
}

impl Witness {
    fn new(node: &Node) -> Witness {
        let (admin, cntlid) = Raw::admin(node.address);
        Witness {
            _admin: admin,
            io: Raw::io(node.address, cntlid, 1),
        }
    }

    fn look(&mut self) {
        let answer = self
            .io
            .ask(nvme::read(1, 0, 1).with_sgl(Sgl::transport(4096)), &[]);
        assert!(answer.cqe.status().is_success());
        assert_eq!(answer.data.len(), 4096);
    }
}

/// xorshift64: noise that is the same each time.
fn noise(seed: &mut u64) -> u8 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    (*seed >> 32) as u8
}

#[test]
fn a_million_random_bytes() {
    let node = Node::start(&[4096]);
    let mut witness = Witness::new(&node);
    let mut seed = 0x5EED;
    for round in 0..100 {
        // Some of it after a proper greeting, some of it under a proper first header.
        let mut raw = match round % 3 {
            0 => Raw::silent(node.address),
            _ => Raw::greet(node.address),
        };
        let mut bytes: Vec<u8> = (0..10_000).map(|_| noise(&mut seed)).collect();
        if round % 3 == 2 {
            bytes[..8].copy_from_slice(&[4, 0, 72, 0, 72, 0, 0, 0]);
        }
        // The node may hang up in the middle.
        let _ = raw.socket.write_all(&bytes);
        witness.look();
    }
}

#[test]
fn ten_thousand_quick_connects() {
    let node = Node::start(&[4096]);
    let mut witness = Witness::new(&node);
    for round in 0..10_000 {
        let socket = TcpStream::connect(node.address).expect("the node accepts");
        drop(socket);
        if round % 1000 == 0 {
            witness.look();
        }
    }
    witness.look();
}

#[test]
fn half_open_and_slow_connections_hold_nobody_up() {
    let node = Node::start(&[4096]);
    let mut witness = Witness::new(&node);
    let silent: Vec<Raw> = (0..200).map(|_| Raw::silent(node.address)).collect();
    let mut slow: Vec<Raw> = (0..50).map(|_| Raw::silent(node.address)).collect();
    let greeting = IcReq::new(0, 0, 0);
    for byte in greeting.as_bytes().iter().take(64) {
        for raw in &mut slow {
            raw.socket
                .write_all(&[*byte])
                .expect("the node waits for more");
        }
        witness.look();
    }
    drop((silent, slow));
    witness.look();
}

#[test]
fn hosts_that_die_with_everything_in_flight_leave_nothing() {
    let node = Node::start(&[4096, 512]);
    let mut witness = Witness::new(&node);
    for round in 0..50 {
        let (admin, cntlid) = Raw::admin(node.address);
        let mut io = Raw::io(node.address, cntlid, 1);
        for command in 0..30u64 {
            match (command + round) % 4 {
                0 => io.send(
                    nvme::read(1, command, 64).with_sgl(Sgl::transport(64 * 4096)),
                    &[],
                ),
                1 => io.send(
                    nvme::write(1, command, 256, false).with_sgl(Sgl::transport(256 * 4096)),
                    &[],
                ),
                2 => io.send(
                    nvme::write(2, command, 8, false).with_sgl(Sgl::in_capsule(0, 4096)),
                    &[round as u8; 4096],
                ),
                _ => io.send(
                    nvme::read(2, command, 9).with_sgl(Sgl::transport(9 * 512)),
                    &[],
                ),
            };
        }
        if round % 2 == 0 {
            drop(io);
            drop(admin);
        } else {
            drop(admin);
            drop(io);
        }
        witness.look();
    }
}

#[test]
fn a_host_that_does_not_read_takes_no_memory_from_others() {
    let node = Node::start(&[4096]);
    let mut witness = Witness::new(&node);
    let _deaf = Bad::new(&node, 1, |lba| nvme::read(1, lba, 256));
    for _ in 0..100 {
        witness.look();
        let write = nvme::write(1, 4000, 1, false).with_sgl(Sgl::in_capsule(0, 4096));
        assert!(witness.io.ask(write, &[3; 4096]).cqe.status().is_success());
    }
}

/// One that takes no part in what it asked for, and keeps its connections.
struct Bad {
    _admin: Raw,
    _io: Vec<Raw>,
}

impl Bad {
    /// Everything that four full queues may ask for, of every block there is.
    fn new(node: &Node, host: u8, sqe: impl Fn(u64) -> ferroce_wire::sqe::Sqe) -> Bad {
        let (admin, cntlid) = Raw::admin_of(host, node.address);
        let queue = |qid| {
            let mut raw = Raw::io_of(host, node.address, cntlid, qid);
            for command in 0..31 {
                let lba = (u64::from(qid) * 31 + command) % 16 * 256;
                raw.send(sqe(lba).with_sgl(Sgl::transport(1 << 20)), &[]);
            }
            raw
        };
        Bad {
            _io: (1..=4).map(queue).collect(),
            _admin: admin,
        }
    }
}

/// Writes and reads of one length, up and down the namespace.
fn write_and_read(queue: &mut Queue, blocks: u32, pattern: u8) {
    for lba in (0..=4096 - u64::from(blocks)).step_by(blocks.max(64) as usize) {
        for write in [true, false] {
            let mut data = Data::zeroed(blocks as usize * 4096);
            let sqe = match write {
                true => nvme::write(1, lba, blocks, false),
                false => nvme::read(1, lba, blocks),
            };
            if write {
                data.bytes_mut().fill(pattern);
            }
            queue.submit(sqe, data, 0).expect("there is room");
            let patience = Patience::begin();
            let done = loop {
                match queue.poll() {
                    Some(done) => break done,
                    None => assert!(queue.error().is_none(), "{:?}", queue.error()),
                }
                patience.holds("an answer");
            };
            assert!(done.is_success(), "{}", done.status());
            assert!(write || done.data.bytes().iter().all(|byte| *byte == pattern));
        }
    }
}

#[test]
fn hosts_that_neither_read_nor_send_leave_memory_to_others() {
    let node = Node::start(&[4096]);
    let nqn = Nqn::new(NQN).expect("it is one");
    let options = Options {
        identity: HostIdentity::random(),
        ..Options::default()
    };
    let controller = Controller::connect(node.address, &nqn, &options).expect("a host connects");
    let mut queue = controller.queues(1, 32).expect("a queue").remove(0);
    // With every block written, only the pages to spare are left.
    write_and_read(&mut queue, 256, 1);
    let _deaf = Bad::new(&node, 1, |lba| nvme::read(1, lba, 256));
    let _mute = Bad::new(&node, 2, |lba| nvme::write(1, lba, 256, false));
    // What fits the capsule, what does not, and the most there can be: all pages that the deaf one has
    // not taken are replaced.
    for (round, blocks) in [1, 2, 3, 32, 256, 1].into_iter().enumerate() {
        write_and_read(&mut queue, blocks, round as u8 + 2);
    }
    drop(queue);
    controller.shutdown().expect("it ends in order");
}

#[test]
fn a_stuck_queue_holds_up_no_other_of_its_host() {
    let node = Node::start(&[4096]);
    let (_admin, cntlid) = Raw::admin_of(1, node.address);
    let stuck = |qid, sqe: fn(u64) -> ferroce_wire::sqe::Sqe| {
        let mut raw = Raw::io_of(1, node.address, cntlid, qid);
        for command in 0..31 {
            raw.send(
                sqe(command % 16 * 256).with_sgl(Sgl::transport(1 << 20)),
                &[],
            );
        }
        raw
    };
    let _deaf = stuck(1, |lba| nvme::read(1, lba, 256));
    let _mute = stuck(2, |lba| nvme::write(1, lba, 256, false));
    // As many as there are cores, and more: some share a core with those.
    for qid in 3..=8 {
        let mut io = Raw::io_of(1, node.address, cntlid, qid);
        for blocks in [1, 32, 256] {
            let len = blocks * 4096;
            let read = nvme::read(1, 0, blocks).with_sgl(Sgl::transport(len));
            assert_eq!(io.ask(read, &[]).data.len(), len as usize);
        }
        let write = nvme::write(1, 0, 1, false).with_sgl(Sgl::transport(4096));
        let cid = io.send(write, &[]);
        let r2t = io.r2t();
        io.data(&r2t, &[9; 4096]);
        let answer = io.answer();
        assert_eq!(answer.cqe.cid.get(), cid);
        assert!(answer.cqe.status().is_success());
    }
}
