//! No allocation per I/O: with everything warm, a node's core serves every I/O command, reads and writes of all
//! sizes, from RAM and from a file, without asking the allocator for anything.

mod node;

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use ferroce_engine::host as nvme;
use ferroce_transport::host::{Controller, Data, Options, RdmaHost, Via};
use ferroce_transport::roce::udp;
use ferroce_wire::Wire;
use ferroce_wire::fabrics::Nqn;
use ferroce_wire::feature::DsmRange;
use ferroce_wire::sqe::Sqe;
use node::common::Patience;

thread_local! {
    static IN_TURN: Cell<bool> = const { Cell::new(false) };
}
static COUNTING: AtomicBool = AtomicBool::new(false);
/// Where each of the counted allocations was asked for.
static PLACES: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Counting;

impl Counting {
    fn count() {
        if !IN_TURN.try_with(Cell::get).unwrap_or(false) || !COUNTING.load(Ordering::Relaxed) {
            return;
        }
        // What is said of it allocates too, and is not counted.
        IN_TURN.set(false);
        let place = Backtrace::force_capture().to_string();
        PLACES.lock().expect("nobody panics with it").push(place);
        IN_TURN.set(true);
    }
}

#[allow(
    unsafe_code,
    reason = "a test allocator counts what the data path must not do"
)]
// SAFETY: every call goes on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Counting::count();
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn around(turn: &mut dyn FnMut()) {
    IN_TURN.set(true);
    turn();
    IN_TURN.set(false);
}

#[test]
fn no_io_command_allocates() {
    // One after the other, since the count is of the process.
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("disk");
    let tcp = node::Node::start_filed(&[4096, 512], Some(file), around);
    check(
        &tcp,
        &Options::default(),
        8,
        &[(1, 4096), (2, 512), (3, 4096)],
    );
    drop(tcp);
    let roce = node::Node::start_roce(&[4096, 512], around);
    let host =
        RdmaHost::roce(node::loopback(), 2, udp::Options::default()).expect("a free address");
    let options = Options {
        via: Via::Roce(host),
        ..Options::default()
    };
    // Packets are slower: their checksums, unoptimised.
    check(&roce, &options, 4, &[(1, 4096), (2, 512)]);
}

/// Everything is zero and stays so, so that Compare finds what it was told.
fn command(at: u64, nsid: u32, block_len: u64, lba: u64, blocks: u64) -> (Sqe, Data) {
    let len = blocks * block_len;
    let zeroes = || Data::zeroed(len as usize);
    let count = blocks as u32;
    match at {
        0 | 1 => (nvme::read(nsid, lba, count), zeroes()),
        2 | 3 => (nvme::write(nsid, lba, count, at == 3), zeroes()),
        // As long as a Compare may be.
        4 | 5 if len <= 64 << 10 => (nvme::compare(nsid, lba, count), zeroes()),
        6 | 7 => (nvme::write_zeroes(nsid, lba, count, at == 7), Data::None),
        8 => {
            let range = DsmRange {
                nlb: count.into(),
                slba: lba.into(),
                ..DsmRange::default()
            };
            let list = [range, range].map(|range| range.as_bytes().to_vec());
            (Sqe::dsm(nsid, 2, Sqe::DSM_AD), list.concat().into())
        }
        9 | 10 => (nvme::verify(nsid, lba, count), Data::None),
        11 => (nvme::flush(nsid), Data::None),
        _ if at.is_multiple_of(2) => (nvme::read(nsid, lba, count), zeroes()),
        _ => (nvme::write(nsid, lba, count, false), zeroes()),
    }
}

fn check(node: &node::Node, options: &Options, rounds: u64, namespaces: &[(u32, u64)]) {
    let nqn = Nqn::new(node::NQN).expect("it is one");
    let controller = Controller::connect(node.address, &nqn, options).expect("a host connects");
    let mut queue = controller.queues(1, 32).expect("a queue").remove(0);
    let mut run = |rounds: u64| {
        for round in 0..rounds {
            for (nsid, block_len) in namespaces {
                // Bytes: one block, one page, several, a part and a bit, the most; all at a depth of 16.
                for len in [512, 4096, 4608, 3584, 64 << 10, 132 << 10, 1 << 20] {
                    if len % block_len != 0 {
                        continue;
                    }
                    let blocks = len / block_len;
                    for slot in 0..16 {
                        let lba = (round * 16 + slot) * blocks % 1024;
                        let (sqe, data) = command(slot, *nsid, *block_len, lba, blocks);
                        queue.submit(sqe, data, slot).expect("there is room for 16");
                    }
                    let (mut done, patience) = (0, Patience::begin());
                    while done < 16 {
                        patience.holds("16 answers");
                        if let Some(completion) = queue.poll() {
                            let (slot, status) = (completion.user_data, completion.status());
                            assert!(completion.is_success(), "{slot} of {len}: {status}");
                            done += 1;
                        }
                    }
                }
            }
        }
    };
    run(2 * rounds);
    // Lists that grow to the most that was ever waiting may do so later than this, depending on who is faster just now:
    // what each I/O allocated would be seen every time.
    let mut places = String::new();
    let is_quiet = (0..5).any(|_| {
        COUNTING.store(true, Ordering::Relaxed);
        run(rounds);
        COUNTING.store(false, Ordering::Relaxed);
        places = std::mem::take(&mut *PLACES.lock().expect("nobody panics with it")).join("\n\n");
        places.is_empty()
    });
    assert!(is_quiet, "allocated each time, at last:\n{places}");
    drop(queue);
    controller.shutdown().expect("it ends in order");
}
