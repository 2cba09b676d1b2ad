//! No allocation per I/O on the host's side either: what a probe measures is the target.

mod node;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use ferroce_engine::host as nvme;
use ferroce_transport::host::{Controller, Data, Options, Queue};
use ferroce_wire::fabrics::Nqn;
use node::common::Patience;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

#[allow(
    unsafe_code,
    reason = "a test allocator counts what the data path must not do"
)]
// SAFETY: every call goes on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
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

/// Half reads, half writes, of so many blocks, at full depth.
fn run(queue: &mut Queue, memory: &mut Vec<Vec<u8>>, blocks: u32, commands: u64) {
    let (mut submitted, mut completed) = (0, 0);
    let patience = Patience::begin();
    while completed < commands {
        patience.holds("all answers");
        while submitted < commands
            && let Some(bytes) = memory.pop()
        {
            let lba = submitted % 16 * u64::from(blocks);
            let sqe = if submitted % 2 == 0 {
                nvme::read(1, lba, blocks)
            } else {
                nvme::write(1, lba, blocks, false)
            };
            queue
                .submit(sqe, Data::Vec(bytes), submitted)
                .expect("it has room");
            submitted += 1;
        }
        if let Some(done) = queue.poll() {
            assert!(done.is_success());
            memory.push(done.data.into_vec());
            completed += 1;
        } else {
            assert!(queue.error().is_none());
            std::thread::yield_now();
        }
    }
}

#[test]
fn reads_and_writes_allocate_nothing() {
    let node = node::Node::start(&[4096]);
    let nqn = Nqn::new(node::NQN).expect("it is one");
    for digests in [false, true] {
        let options = Options {
            header_digest: digests,
            data_digest: digests,
            background: false,
            ..Options::default()
        };
        let controller =
            Controller::connect(node.address, &nqn, &options).expect("a host connects");
        let mut queue = controller.queues(1, 32).expect("a queue").remove(0);
        // Within a capsule, by one R2T, by many C2HData.
        for blocks in [1, 2, 8, 64] {
            let mut memory = vec![vec![0; blocks as usize * 4096]; 32];
            run(&mut queue, &mut memory, blocks, 100);
            let before = ALLOCATIONS.get();
            run(&mut queue, &mut memory, blocks, 300);
            assert_eq!(ALLOCATIONS.get() - before, 0, "{blocks} blocks");
        }
    }
}
