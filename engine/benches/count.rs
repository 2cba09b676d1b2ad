//! How many instructions the engine takes for a read of 4 KiB, at depths of 1 and 32: an in-memory
//! fabric, the production `turn` and a RAM drive. It only does the reads; callgrind counts those of
//! [`counted_turn`], and not what is inside of functions whose names begin with `uncounted`: fabric and
//! drive stand in for others, whose instructions are counted elsewhere. `scripts/count` runs it, compares
//! with `engine/benches/count.txt`, and prints what it comes to with both beside it.
//!
//!     cargo bench -p ferroce-engine --bench count -- DEPTH

mod node;

use node::Node;

/// Reads, after as many to warm up.
const READS: u64 = 3200;

fn main() {
    // `cargo bench` adds `--bench`.
    let depth = std::env::args().find_map(|word| word.parse().ok());
    let Some(depth @ 1..=128) = depth else {
        eprintln!("usage: count DEPTH, 1 to 128");
        std::process::exit(2);
    };
    let mut node = Node::new();
    let mut random = 1;
    reads(&mut node, depth, &mut random, Node::turn);
    reads(&mut node, depth, &mut random, counted_turn);
    println!("{READS} reads");
}

fn reads(node: &mut Node, depth: u64, random: &mut u64, turn: fn(&mut Node) -> bool) {
    for _ in 0..READS / depth {
        let before = node.core.fabrics[0].replies;
        node.read_random(depth, random);
        while node.core.fabrics[0].replies < before + depth {
            turn(node);
        }
    }
}

#[inline(never)]
fn counted_turn(node: &mut Node) -> bool {
    std::hint::black_box(node.turn())
}
