//! No allocation per I/O: with everything warm, a node's core serves reads and writes of all sizes
//! without asking the allocator for anything.

mod node;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ferroce_engine::host as nvme;
use ferroce_transport::host::{Controller, Data, Options, RdmaHost, Via};
use ferroce_transport::roce::udp;
use ferroce_wire::fabrics::Nqn;

thread_local! {
    static IN_TURN: Cell<bool> = const { Cell::new(false) };
}
static COUNTING: AtomicBool = AtomicBool::new(false);
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

struct Counting;

#[allow(
    unsafe_code,
    reason = "a test allocator counts what the data path must not do"
)]
// SAFETY: every call goes on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if IN_TURN.try_with(Cell::get).unwrap_or(false) && COUNTING.load(Ordering::Relaxed) {
            ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        }
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
fn reads_and_writes_allocate_nothing() {
    // One after the other, since the count is of the process.
    let tcp = node::Node::start_with(&[4096, 512], around);
    check(&tcp, &Options::default(), 15);
    drop(tcp);
    let roce = node::Node::start_roce(&[4096, 512], around);
    let host =
        RdmaHost::roce(node::loopback(), 2, udp::Options::default()).expect("a free address");
    let options = Options {
        via: Via::Roce(host),
        ..Options::default()
    };
    // Packets are slower: their checksums, unoptimised.
    check(&roce, &options, 5);
}

fn check(node: &node::Node, options: &Options, rounds: u64) {
    let nqn = Nqn::new(node::NQN).expect("it is one");
    let controller = Controller::connect(node.address, &nqn, options).expect("a host connects");
    let mut queue = controller.queues(1, 32).expect("a queue").remove(0);
    let mut run = |rounds: u64| {
        for round in 0..rounds {
            // Sizes of one block, one page, a part and a bit, the most; all at a depth of 16.
            for (nsid, block_len, blocks) in [
                (1, 4096, 1),
                (2, 512, 1),
                (2, 512, 9),
                (2, 512, 7),
                (1, 4096, 33),
                (1, 4096, 256),
            ] {
                for slot in 0..16 {
                    let lba = (round * 16 + slot) * blocks % 1024;
                    let sqe = if slot % 2 == 0 {
                        nvme::read(nsid, lba, blocks as u32)
                    } else {
                        nvme::write(nsid, lba, blocks as u32, false)
                    };
                    let data = Data::zeroed((blocks * block_len) as usize);
                    queue.submit(sqe, data, slot).expect("there is room for 16");
                }
                let mut done = 0;
                while done < 16 {
                    if let Some(completion) = queue.poll() {
                        assert!(completion.is_success(), "{}", completion.status());
                        done += 1;
                    }
                }
            }
        }
    };
    run(2 * rounds);
    COUNTING.store(true, Ordering::Relaxed);
    run(rounds);
    COUNTING.store(false, Ordering::Relaxed);
    assert_eq!(
        ALLOCATIONS.load(Ordering::Relaxed),
        0,
        "in {} I/Os",
        rounds * 6 * 16
    );
    drop(queue);
    controller.shutdown().expect("it ends in order");
}
