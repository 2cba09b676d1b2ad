//! What a turn of a core costs: reads of 4 KiB from a fabric that is a queue in memory to a RAM drive,
//! at several depths. `cargo bench -p ferroce-engine`.

mod node;

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ferroce_wire::num::{U16, U32, U64};
use node::{Node, read};

fn turns(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("turn");
    for depth in [1u64, 32, 128] {
        let mut node = Node::new();
        let mut random = 1u64;
        group.throughput(Throughput::Elements(depth));
        group.bench_function(format!("read-4k/qd{depth}"), |bencher| {
            bencher.iter(|| {
                let before = node.core.fabrics[0].replies;
                node.read_random(depth, &mut random);
                while node.core.fabrics[0].replies < before + depth {
                    black_box(node.turn());
                }
            });
        });
    }
    group.finish();
}

fn wire(criterion: &mut Criterion) {
    criterion.bench_function("wire/sqe-fields", |bencher| {
        let sqe = black_box(read(0x1234_5678_9ABC, 7));
        bencher.iter(|| {
            let sqe = black_box(&sqe);
            (sqe.slba(), sqe.blocks(), sqe.nsid, sqe.psdt(), sqe.fua())
        });
    });
    // The newtypes are bytes underneath, and cost what a plain load costs.
    criterion.bench_function("wire/numbers", |bencher| {
        let numbers = black_box((U16::new(1), U32::new(2), U64::new(3)));
        bencher.iter(|| {
            let (a, b, c) = black_box(&numbers);
            u64::from(a.get()) + u64::from(b.get()) + c.get()
        });
    });
}

criterion_group!(benches, turns, wire);
criterion_main!(benches);
