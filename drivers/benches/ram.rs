//! What the RAM drive costs per request, without the transport: submit, poll, and the Bufs home.

use criterion::{Criterion, criterion_group, criterion_main};
use ferroce_buf::{BufList, Want};
use ferroce_drivers::{RamConfig, RamDrive, RamQueue};
use ferroce_engine::port::{Backend, DriveId, Io, Op, Tag};

const TAG: Tag = Tag {
    slot: 1,
    generation: 1,
};

fn run(queue: &mut RamQueue, op: Op, bufs: BufList) -> BufList {
    queue
        .submit(Io { tag: TAG, op, bufs })
        .expect("the queue has room");
    queue.ring_doorbell();
    queue.poll().expect("a RAM drive is done at once").bufs
}

fn ram(c: &mut Criterion) {
    const BLOCKS: u64 = 64 << 8;
    let drive = RamDrive::new(RamConfig {
        id: DriveId(0),
        label: "ram:64MiB".to_owned(),
        bytes: BLOCKS << 12,
        block_len: 4096,
        read_only: false,
        uuid: None,
        cores: 1,
        spare: None,
        want: Want {
            huge: true,
            locked: false,
        },
    })
    .expect("64 MiB");
    let mut queue = drive.open(0).expect("a core");
    let mut list = Some(BufList::with_capacity(33));
    let mut rng = fastrand::Rng::with_seed(1);
    let mut read = |queue: &mut RamQueue, blocks: u32, lba: u64| {
        let op = Op::Read { lba, blocks };
        let mut bufs = run(queue, op, list.take().expect("home"));
        while let Some(buf) = bufs.pop() {
            queue.put(std::hint::black_box(buf));
        }
        list = Some(bufs);
    };
    c.bench_function("ram read 4 KiB unwritten", |b| {
        b.iter(|| read(&mut queue, 1, rng.u64(0..BLOCKS)));
    });
    let mut list = BufList::with_capacity(33);
    for lba in 0..BLOCKS {
        assert!(queue.space(lba, 4096, &mut list));
        let op = Op::Write {
            lba,
            blocks: 1,
            fua: false,
        };
        list = run(&mut queue, op, list);
    }
    c.bench_function("ram read 4 KiB random", |b| {
        b.iter(|| read(&mut queue, 1, rng.u64(0..BLOCKS)));
    });
    c.bench_function("ram read 4 KiB same", |b| {
        b.iter(|| read(&mut queue, 1, 77));
    });
    c.bench_function("ram read 128 KiB random", |b| {
        b.iter(|| read(&mut queue, 32, rng.u64(0..BLOCKS - 32)));
    });
    c.bench_function("ram write 4 KiB random, without filling", |b| {
        b.iter(|| {
            let lba = rng.u64(0..BLOCKS);
            assert!(queue.space(lba, 4096, &mut list));
            let op = Op::Write {
                lba,
                blocks: 1,
                fua: false,
            };
            list = run(&mut queue, op, std::mem::take(&mut list));
        });
    });
}

criterion_group!(benches, ram);
criterion_main!(benches);
