//! The host library against a whole node: every I/O command, checked by a model of the blocks.

mod node;

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use ferroce_engine::host as nvme;
use ferroce_transport::host::{
    Completion, Controller, Data, HostError, HostIdentity, Options, Queue, RdmaHost, Via, discover,
};
use ferroce_transport::roce::udp;
use ferroce_wire::Wire;
use ferroce_wire::fabrics::Nqn;
use ferroce_wire::feature::DsmRange;
use ferroce_wire::num::{U32, U64};
use ferroce_wire::sqe::{Sgl, Sqe};
use ferroce_wire::status::Status;
use node::common::Patience;

fn options(header_digest: bool, data_digest: bool) -> Options {
    Options {
        identity: HostIdentity::random(),
        header_digest,
        data_digest,
        ..Options::default()
    }
}

/// By software RoCEv2, from an address of this host's own.
fn by_roce() -> Options {
    let host = RdmaHost::roce(node::loopback(), 8, udp::Options::default()).unwrap();
    Options {
        via: Via::Roce(host),
        ..options(false, false)
    }
}

fn connect(node: &node::Node, options: &Options) -> Controller {
    Controller::connect(node.address, &Nqn::new(node::NQN).unwrap(), options).unwrap()
}

fn exec(queue: &mut Queue, sqe: Sqe, data: Data) -> Completion {
    queue.exec(sqe, data, "an I/O command").unwrap()
}

#[test]
fn a_node_is_discovered_and_described() {
    described(&node::Node::start(&[512, 4096]), &options(false, false));
}

#[test]
fn a_node_is_discovered_and_described_over_rdma() {
    let node = node::Node::start_roce(&[512, 4096], |turn| turn());
    described(&node, &by_roce());
}

fn described(node: &node::Node, options: &Options) {
    let log = discover(node.address, options).unwrap();
    let found: Vec<_> = log.subsystems().collect();
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].nqn.as_str(), found[0].address),
        (node::NQN, node.address)
    );
    let controller = connect(node, options);
    let namespaces = controller.namespaces().unwrap();
    let shapes: Vec<_> = namespaces
        .iter()
        .map(|ns| (ns.nsid, ns.blocks, ns.block_len))
        .collect();
    assert_eq!(shapes, [(1, 32768, 512), (2, 4096, 4096)]);
    assert_ne!(namespaces[0].uuid, namespaces[1].uuid);
    assert!(
        namespaces
            .iter()
            .all(|ns| ns.uuid != [0; 16] && ns.nguid != [0; 16])
    );
    assert!(controller.transfer_max().unwrap() >= 1 << 20);
    controller.shutdown().unwrap();
}

#[test]
fn unknown_subsystems_are_refused_in_words() {
    let node = node::Node::start(&[512]);
    let nqn = Nqn::new("nqn.2026-01.test:another").unwrap();
    let error = Controller::connect(node.address, &nqn, &options(false, false)).unwrap_err();
    assert!(matches!(error, HostError::ConnectRefused { .. }));
    assert!(
        error.to_string().contains("no subsystem of that name"),
        "{error}"
    );
}

#[test]
fn every_command_does_what_the_model_says_over_rdma() {
    let node = node::Node::start_roce(&[512, 4096], |turn| turn());
    modelled(&node, &by_roce());
}

#[test]
fn who_cannot_be_reached_over_rdma_is_told_so() {
    let quick = Options {
        timeout: Duration::from_secs(2),
        ..by_roce()
    };
    let node = node::Node::start_roce(&[512], |turn| turn());
    let wrong_port = SocketAddr::new(node.address.ip(), 4421);
    let nqn = Nqn::new(node::NQN).unwrap();
    let error = Controller::connect(wrong_port, &nqn, &quick).unwrap_err();
    assert!(error.to_string().contains("nothing listens"), "{error}");
    // The queue pair can be used again.
    Controller::connect(node.address, &nqn, &quick).unwrap();
    // Nobody there at all.
    let nobody = SocketAddr::new(node::loopback(), 4420);
    let error = Controller::connect(nobody, &nqn, &quick).unwrap_err();
    assert!(error.is_transient(), "{error}");
}

/// Random commands one after the other; what is read is what was written.
#[test]
fn every_command_does_what_the_model_says() {
    let node = node::Node::start(&[512, 4096]);
    for (dgst, flow_control) in [(0, false), (3, true), (2, false)] {
        let options = Options {
            sq_flow_control: flow_control,
            ..options(dgst & 1 != 0, dgst & 2 != 0)
        };
        modelled(&node, &options);
    }
}

fn modelled(node: &node::Node, options: &Options) {
    let controller = connect(node, options);
    let mut queue = controller.queues(1, 32).unwrap().remove(0);
    for (nsid, block_len) in [(1, 512), (2, 4096)] {
        let mut model = Model::new(nsid, block_len);
        model.write_zeroes(&mut queue, 0, SPAN as u32);
        for _ in 0..100 {
            model.step(&mut queue);
        }
    }
}

const SPAN: u64 = 4096;

struct Model {
    nsid: u32,
    block_len: usize,
    /// The stamp of each block; 0 is all zeroes.
    stamps: HashMap<u64, u8>,
    next: u8,
}

impl Model {
    fn new(nsid: u32, block_len: usize) -> Model {
        Model {
            nsid,
            block_len,
            stamps: HashMap::new(),
            next: 0,
        }
    }

    fn expected(&self, lba: u64, blocks: u32) -> Vec<u8> {
        let stamp = |lba| self.stamps.get(&lba).copied().unwrap_or(0);
        (lba..lba + u64::from(blocks))
            .flat_map(|lba| {
                let stamp = stamp(lba);
                (0..self.block_len).map(move |i| if stamp == 0 { 0 } else { stamp ^ i as u8 })
            })
            .collect()
    }

    fn set(&mut self, lba: u64, blocks: u32, stamp: u8) {
        for lba in lba..lba + u64::from(blocks) {
            self.stamps.insert(lba, stamp);
        }
    }

    fn write_zeroes(&mut self, queue: &mut Queue, lba: u64, blocks: u32) {
        let sqe = nvme::write_zeroes(self.nsid, lba, blocks, fastrand::bool());
        assert!(exec(queue, sqe, Data::None).is_success());
        self.set(lba, blocks, 0);
    }

    fn step(&mut self, queue: &mut Queue) {
        let most = (1 << 20) / self.block_len as u32;
        let blocks = match fastrand::u8(..4) {
            0 => 1,
            1 => fastrand::u32(1..=16),
            2 => fastrand::u32(1..=128.min(most)),
            _ => fastrand::u32(1..=most),
        };
        let lba = fastrand::u64(0..=SPAN - u64::from(blocks));
        let len = blocks as usize * self.block_len;
        let nsid = self.nsid;
        match fastrand::u8(..10) {
            0..3 => {
                self.next = self.next % 255 + 1;
                self.set(lba, blocks, self.next);
                let data = self.expected(lba, blocks);
                let done = exec(
                    queue,
                    nvme::write(nsid, lba, blocks, fastrand::bool()),
                    data.into(),
                );
                assert!(done.is_success(), "{}", done.status());
            }
            3..6 => {
                let done = exec(queue, nvme::read(nsid, lba, blocks), Data::zeroed(len));
                assert!(done.is_success(), "{}", done.status());
                assert!(
                    done.data.bytes() == self.expected(lba, blocks),
                    "{lba}+{blocks}"
                );
            }
            6 => {
                // Within one part.
                let blocks = blocks.min((64 << 10) / self.block_len as u32);
                let len = blocks as usize * self.block_len;
                let mut data = self.expected(lba, blocks);
                let wrong = fastrand::bool();
                if wrong {
                    data[fastrand::usize(..len)] ^= 1;
                }
                let done = exec(queue, nvme::compare(nsid, lba, blocks), data.into());
                let want = if wrong {
                    Status::COMPARE_FAILURE
                } else {
                    Status::SUCCESS
                };
                assert_eq!(done.status().code(), want);
            }
            7 => self.write_zeroes(queue, lba, blocks),
            8 => {
                let range = DsmRange {
                    nlb: U32::new(blocks),
                    slba: U64::new(lba),
                    ..DsmRange::default()
                };
                let sqe = Sqe::dsm(nsid, 1, Sqe::DSM_AD);
                let done = exec(queue, sqe, range.as_bytes().to_vec().into());
                assert!(done.is_success(), "{}", done.status());
                // Advice: each block reads as zeroes or as it was.
                let was = self.expected(lba, blocks);
                let done = exec(queue, nvme::read(nsid, lba, blocks), Data::zeroed(len));
                let chunks = done.data.bytes().chunks(self.block_len);
                for (i, (now, was)) in chunks.zip(was.chunks(self.block_len)).enumerate() {
                    if now.iter().all(|&byte| byte == 0) {
                        self.set(lba + i as u64, 1, 0);
                    } else {
                        assert!(now == was, "{}", lba + i as u64);
                    }
                }
            }
            _ => {
                let done = exec(queue, nvme::verify(nsid, lba, blocks), Data::None);
                assert!(done.is_success(), "{}", done.status());
                assert!(exec(queue, nvme::flush(nsid), Data::None).is_success());
            }
        }
    }
}

#[test]
fn many_queues_and_depths_at_once() {
    at_once(16, 200);
}

/// As many as the largest machines have CPUs, each of which hosts give a queue.
#[test]
fn sixty_four_queues_at_once() {
    at_once(64, 16);
}

fn at_once(count: u16, depth: u16) {
    let node = node::Node::start(&[512]);
    let controller = connect(&node, &options(false, false));
    let queues = controller.queues(count, depth).unwrap();
    assert_eq!(queues.len(), usize::from(count));
    let ios = 32_000 / u64::from(count);
    let threads: Vec<_> = queues
        .into_iter()
        .enumerate()
        .map(|(index, mut queue)| {
            std::thread::spawn(move || {
                // Each queue has blocks of its own: write all at full depth, then read them back.
                let base = index as u64 * ios;
                for reading in [false, true] {
                    let mut submitted = 0;
                    let mut completed = 0;
                    let patience = Patience::begin();
                    while completed < ios {
                        patience.holds("all answers");
                        while submitted < ios && queue.outstanding() < queue.depth() {
                            let lba = base + submitted;
                            let (sqe, data) = if reading {
                                (nvme::read(1, lba, 1), vec![0; 512])
                            } else {
                                (nvme::write(1, lba, 1, false), vec![lba as u8; 512])
                            };
                            queue.submit(sqe, data.into(), lba).unwrap();
                            submitted += 1;
                        }
                        match queue.poll() {
                            Some(done) => {
                                assert!(done.is_success());
                                assert_eq!(done.data.bytes(), [done.user_data as u8; 512]);
                                completed += 1;
                            }
                            None => {
                                queue.wait(Duration::from_secs(1));
                                assert!(queue.error().is_none());
                            }
                        }
                    }
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert!(controller.error().is_none());
}

/// More is asked for than may wait to be sent: what comes later does not overtake what waits.
#[test]
fn reads_that_wait_to_be_sent_are_not_overtaken() {
    const LEN: u32 = 128 * 1024;
    let node = node::Node::start(&[4096]);
    let (_admin, cntlid) = node::raw::Raw::admin(node.address);
    let mut queue = node::raw::Raw::io(node.address, cntlid, 1);
    let read = nvme::read(1, 0, LEN / 4096).with_sgl(Sgl::transport(LEN));
    let mut asked: VecDeque<u16> = (0..24).map(|_| queue.send(read, &[])).collect();
    for _ in 0..500 {
        let answer = queue.answer();
        assert!(answer.cqe.status().is_success());
        assert_eq!(Some(answer.cqe.cid.get()), asked.pop_front());
        asked.push_back(queue.send(read, &[]));
    }
}
