//! How many instructions the NVMe driver takes for a read of 4 KiB, at depths of 1 and 32, against the
//! controller that the tests play. That one works between the two halves of a turn, so callgrind counts the
//! driver alone: [`counted_turn_submit`] and [`counted_turn_poll`], but for the recording of its doorbells,
//! `uncounted_write` (`scripts/count` runs it and compares with `drivers/benches/count.txt`).
//!
//!     cargo bench -p ferroce-drivers --bench count -- DEPTH

#[path = "../tests/played/mod.rs"]
mod played;

use std::sync::{Arc, Mutex};

use ferroce_buf::{BufList, Home, Pool};
use ferroce_drivers::dma::Bus;
use ferroce_drivers::mmio::Registers;
use ferroce_drivers::nvme::{Controller, NvmeConfig, NvmeDrive, NvmeQueue, Patience, Seat};
use ferroce_engine::port::{Backend, Io, Op, Tag};
use ferroce_wire::prop::DOORBELLS;
use played::Player;

/// Reads, after as many to warm up.
const READS: u64 = 3200;

/// The device: doorbells are kept until it is let work.
#[derive(Debug)]
struct Device {
    player: Arc<Player>,
    rung: Mutex<Vec<(u32, u32)>>,
}

impl Device {
    /// Stands in for one store.
    #[inline(never)]
    fn uncounted_write(&self, at: u32, value: u32) {
        self.rung.lock().expect("nobody panics").push((at, value));
    }

    fn work(&self) {
        for (at, value) in self.rung.lock().expect("nobody panics").drain(..) {
            self.player.write32(at, value);
        }
    }
}

impl Registers for Device {
    fn read32(&self, at: u32) -> u32 {
        self.player.read32(at)
    }

    fn write32(&self, at: u32, value: u32) {
        // Those of the admin queue act at once: its commands are waited for.
        if at < DOORBELLS + 8 {
            self.player.write32(at, value);
        } else {
            self.uncounted_write(at, value);
        }
    }
}

fn main() {
    // `cargo bench` adds `--bench`.
    let depth = std::env::args().find_map(|word| word.parse().ok());
    let Some(depth @ 1..=128) = depth else {
        eprintln!("usage: count DEPTH, 1 to 128");
        std::process::exit(2);
    };
    let bus = Arc::new(Bus::default());
    let device = Arc::new(Device {
        player: Player::new(bus.clone(), &[4096]),
        rung: Mutex::new(Vec::with_capacity(16)),
    });
    let seat = Seat::played(device.clone(), bus);
    let controller =
        Controller::start("played".into(), seat, Patience::default()).expect("it is sound");
    let config = NvmeConfig {
        label: "played".into(),
        nsid: None,
        read_only: false,
        uuid: None,
    };
    let drive = NvmeDrive::open(Arc::new(controller), config).expect("it has a namespace");
    let mut pool = played::pool(Home::CORE, &[(4096, 128)]);
    let regions = [pool.region().clone()];
    let mut queue = drive.queue(0, &regions).expect("it has queues");
    let mut bufs = Vec::with_capacity(128);
    let halves: [(Submit, Poll); 2] = [(submit, poll), (counted_turn_submit, counted_turn_poll)];
    for (submit, poll) in halves {
        for round in 0..READS / depth {
            for _ in 0..depth {
                bufs.push(buf(&mut pool));
            }
            submit(&mut queue, round * depth, &mut bufs);
            device.work();
            poll(&mut queue, &mut bufs);
            device.work();
            for mut list in bufs.drain(..) {
                pool.put(list.pop().expect("its Buf"));
            }
        }
    }
    println!("{READS} reads");
}

fn buf(pool: &mut Pool) -> BufList {
    let mut list = BufList::new();
    list.push(pool.take(4096).expect("all are home"));
    list
}

type Submit = fn(&mut NvmeQueue, u64, &mut [BufList]);
type Poll = fn(&mut NvmeQueue, &mut [BufList]);

/// Requests, and one doorbell.
fn submit(queue: &mut NvmeQueue, lba: u64, bufs: &mut [BufList]) {
    for (index, list) in bufs.iter_mut().enumerate() {
        let io = Io {
            tag: Tag {
                slot: index as u32,
                generation: 0,
            },
            op: Op::Read {
                lba: lba + index as u64,
                blocks: 1,
            },
            bufs: std::mem::take(list),
        };
        queue.submit(io).expect("there is room");
    }
    queue.ring_doorbell();
}

/// Completions until there are none.
fn poll(queue: &mut NvmeQueue, bufs: &mut [BufList]) {
    let mut done = 0;
    while let Some(answer) = queue.poll() {
        assert!(answer.status.is_success());
        bufs[answer.tag.slot as usize] = answer.bufs;
        done += 1;
    }
    assert_eq!(done, bufs.len(), "the device has worked");
}

#[inline(never)]
fn counted_turn_submit(queue: &mut NvmeQueue, lba: u64, bufs: &mut [BufList]) {
    submit(std::hint::black_box(queue), lba, bufs);
}

#[inline(never)]
fn counted_turn_poll(queue: &mut NvmeQueue, bufs: &mut [BufList]) {
    poll(std::hint::black_box(queue), bufs);
}
