//! Hosts that mean no good: noise, silence, slowness and haste. The node serves others meanwhile,
//! and has nothing left over afterwards (which `Node` checks when it is dropped).

mod node;

use std::io::Write;
use std::net::TcpStream;

use ferroce_engine::host as nvme;
use ferroce_wire::Wire;
use ferroce_wire::sqe::Sgl;
use ferroce_wire::tcp::IcReq;
use node::Node;
use node::raw::Raw;

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
    let (_admin, cntlid) = Raw::admin(node.address);
    let mut deaf: Vec<Raw> = (1..=4)
        .map(|qid| Raw::io(node.address, cntlid, qid))
        .collect();
    for raw in &mut deaf {
        for lba in 0..31 {
            raw.send(
                nvme::read(1, lba, 256).with_sgl(Sgl::transport(1 << 20)),
                &[],
            );
        }
    }
    for _ in 0..100 {
        witness.look();
        let write = nvme::write(1, 4000, 1, false).with_sgl(Sgl::in_capsule(0, 4096));
        assert!(witness.io.ask(write, &[3; 4096]).cqe.status().is_success());
    }
}
