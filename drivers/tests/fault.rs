//! Faults are drawn from the seed, lose no Buf, and drop what a drive may drop, and no more.

use std::sync::Arc;

use ferroce_buf::{BufList, Class, Home, Pool, Region, Want};
use ferroce_drivers::fault::{Clock, Control, Fault, Faults, Media, MediaQueue, Plant};
use ferroce_drivers::{RamConfig, RamDrive};
use ferroce_engine::port::{Backend, DriveId, DriveInfo, Io, Op, Tag, Tick};
use ferroce_wire::status::Status;

const LEN: usize = 512;

fn info() -> DriveInfo {
    DriveInfo {
        label: "media".to_owned(),
        block_len: LEN as u32,
        blocks: 64,
        uuid: [1; 16],
        nguid: [2; 16],
        read_only: false,
        volatile_cache: true,
        brings_memory: false,
        preferred_blocks: 1,
        deallocates: true,
        max_deallocate: 1 << 20,
        max_transfer: 4096,
        max_bufs: 1,
        health: None,
    }
}

fn pool() -> Pool {
    let classes = [Class {
        size: 4096,
        count: 256,
    }];
    let region = Region::map(Pool::bytes(&classes), Want::default()).unwrap();
    Pool::new(Arc::new(region), 0, Home::CORE, &classes)
}

fn bad_day() -> Faults {
    Faults {
        delay_ns: (1_000, 100_000),
        slow_per_mille: 50,
        slow_ns: 10_000_000,
        error_per_mille: 100,
        stall_per_mille: 10,
        stall_ns: 50_000_000,
        full_per_mille: 50,
    }
}

fn write(lba: u64, byte: u8, fua: bool, pool: &mut Pool) -> Io {
    let mut bufs = BufList::new();
    let mut buf = pool.take(LEN).unwrap();
    buf.bytes_mut().fill(byte);
    bufs.push(buf);
    Io {
        tag: Tag {
            slot: lba as u32,
            generation: u32::from(byte),
        },
        op: Op::Write {
            lba,
            blocks: 1,
            fua,
        },
        bufs,
    }
}

fn plain(op: Op) -> Io {
    Io {
        tag: Tag {
            slot: 0,
            generation: 0,
        },
        op,
        bufs: BufList::new(),
    }
}

fn run(queue: &mut MediaQueue, io: Io, pool: &mut Pool) {
    queue.submit(io).unwrap();
    let done = queue.poll().unwrap();
    assert_eq!(done.status, Status::SUCCESS);
    pool.put_all(done.bufs);
}

/// What was answered, when, and how.
fn story(seed: u64) -> Vec<(u64, Tag, Status)> {
    let clock = Clock::default();
    let media = Media::new(info(), seed);
    let control = Control::new(clock.clone(), bad_day());
    let mut queue = Fault::new(media.open(), control, seed);
    let mut pool = pool();
    let mut story = Vec::new();
    let mut submitted = 0u64;
    while story.len() < 500 {
        while submitted < 500 && queue.in_flight() < 32 {
            let io = write(submitted % 64, (submitted / 64) as u8, false, &mut pool);
            match queue.submit(io) {
                Ok(()) => submitted += 1,
                Err(mut io) => {
                    pool.put(io.bufs.pop().unwrap());
                    break;
                }
            }
        }
        queue.ring_doorbell();
        while let Some(done) = queue.poll() {
            story.push((clock.now().0, done.tag, done.status));
            pool.put_all(done.bufs);
        }
        assert!(!queue.has_work());
        if let Some(next) = queue.next_event() {
            clock.set(next);
        }
    }
    assert_eq!(queue.in_flight(), 0);
    assert_eq!(pool.out(), 0);
    story
}

#[test]
fn the_same_seed_is_the_same_day() {
    let one = story(7);
    assert_eq!(one, story(7));
    assert_ne!(one, story(8));
    assert!(one.iter().any(|(_, _, status)| !status.is_success()));
    let order: Vec<Tag> = one.iter().map(|(_, tag, _)| *tag).collect();
    let mut sorted = order.clone();
    sorted.sort_by_key(|tag| (tag.generation, tag.slot));
    assert_ne!(order, sorted, "requests overtake each other");
    sorted.dedup();
    assert_eq!(sorted.len(), 500, "each is answered once");
}

#[test]
fn nothing_moves_in_a_stall_and_all_fails_when_gone() {
    let clock = Clock::default();
    let control = Control::new(clock.clone(), Faults::default());
    let media = Media::new(info(), 1);
    let mut queue = Fault::new(media.open(), control.clone(), 1);
    control.stall_until(Tick(1000));
    queue.submit(plain(Op::Flush)).unwrap();
    queue.ring_doorbell();
    assert!(queue.poll().is_none() && !queue.has_work());
    assert_eq!(queue.next_event(), Some(Tick(1000)));
    clock.set(Tick(1000));
    assert!(queue.has_work());
    assert!(queue.poll().unwrap().status.is_success());
    control.set_gone(true);
    queue.submit(plain(Op::Flush)).unwrap();
    assert!(queue.poll().unwrap().status.is_dnr());
}

/// Writes some blocks in every way, flushes, writes again, and turns the power off. True if all that
/// was promised is there.
fn survives(seed: u64, plant: Option<Plant>) -> bool {
    let media = Media::new(info(), seed);
    if let Some(plant) = plant {
        media.plant(plant);
    }
    let mut queue = media.open();
    let mut pool = pool();
    for lba in 0..32 {
        run(&mut queue, write(lba, 1, false, &mut pool), &mut pool);
    }
    run(&mut queue, plain(Op::Flush), &mut pool);
    for lba in 32..48 {
        run(&mut queue, write(lba, 2, true, &mut pool), &mut pool);
    }
    for lba in 0..16 {
        run(&mut queue, write(lba, 3, false, &mut pool), &mut pool);
        run(&mut queue, write(lba, 4, false, &mut pool), &mut pool);
    }
    media.power_off();
    assert!(media.unflushed().is_empty());
    assert_eq!(pool.out(), 0);
    let whole = |lba, byte: u8| media.block(lba) == vec![byte; LEN];
    (0..16).all(|lba| [1, 3, 4].iter().any(|byte| whole(lba, *byte)))
        && (16..32).all(|lba| whole(lba, 1))
        && (32..48).all(|lba| whole(lba, 2))
        && (48..64).all(|lba| whole(lba, 0))
}

#[test]
fn power_off_drops_what_was_not_flushed_and_no_more() {
    assert!((0..100).all(|seed| survives(seed, None)));
}

#[test]
fn every_planted_mistake_shows() {
    for plant in [
        Plant::FlushLies,
        Plant::FuaIsCached,
        Plant::TornBlock,
        Plant::LostWrite,
    ] {
        let plain = (0..100).all(|seed| survives(seed, Some(plant)));
        assert!(!plain, "{plant:?} shows");
    }
}

#[test]
fn unflushed_writes_do_vanish() {
    let media = Media::new(info(), 3);
    let mut queue = media.open();
    let mut pool = pool();
    for lba in 0..64 {
        run(&mut queue, write(lba, 9, false, &mut pool), &mut pool);
    }
    let lost = media.power_off();
    let gone = (0..64).filter(|lba| media.block(*lba) == [0; LEN]).count();
    assert_eq!(lost, gone);
    assert!(gone > 10 && gone < 54, "{gone} of 64");
}

#[test]
fn a_dying_node_gives_its_bufs_back() {
    let mut pool = pool();
    for seed in 0..20 {
        let clock = Clock::default();
        let control = Control::new(clock.clone(), bad_day());
        let media = Media::new(info(), seed);
        let mut queue = Fault::new(media.open(), control.clone(), seed);
        for lba in 0..32 {
            if let Err(mut io) = queue.submit(write(lba, 5, false, &mut pool)) {
                pool.put(io.bufs.pop().unwrap());
            }
        }
        clock.set(Tick(50_000));
        queue.ring_doorbell();
        let lists = if seed % 2 == 0 {
            queue.kill().1
        } else {
            queue.power_off()
        };
        for bufs in lists {
            pool.put_all(bufs);
        }
        media.power_off();
        assert_eq!(pool.out(), 0);
        let whole = |lba: u64| [0, 5].contains(&media.block(lba)[0]);
        assert!((0..64).all(whole));
    }
}

#[test]
fn a_ram_drive_can_have_a_bad_day_too() {
    let drive = RamDrive::new(RamConfig {
        id: DriveId(0),
        label: "ram:1MiB".to_owned(),
        bytes: 1 << 20,
        block_len: 4096,
        read_only: false,
        uuid: None,
        cores: 1,
        spare: None,
        want: Want::default(),
    })
    .unwrap();
    let clock = Clock::default();
    let control = Control::new(clock.clone(), bad_day());
    let mut queue = Fault::new(drive.open(0).unwrap(), control, 5);
    assert!(queue.brings_memory());
    for round in 0..200u32 {
        let lba = u64::from(round % 64);
        let tag = Tag {
            slot: round,
            generation: 0,
        };
        let mut bufs = BufList::new();
        let op = if round % 2 == 0 {
            if !queue.space(lba, 8192, &mut bufs) {
                continue;
            }
            Op::Write {
                lba,
                blocks: 2,
                fua: false,
            }
        } else {
            Op::Read { lba, blocks: 2 }
        };
        if let Err(mut io) = queue.submit(Io { tag, op, bufs }) {
            while let Some(buf) = io.bufs.pop() {
                queue.put(buf);
            }
        }
        if round % 8 == 0 {
            queue.ring_doorbell();
            while let Some(mut done) = queue.poll() {
                while let Some(buf) = done.bufs.pop() {
                    queue.put(buf);
                }
            }
            if let Some(next) = queue.next_event() {
                clock.set(next);
            }
        }
    }
    let (inner, lists) = queue.kill();
    assert!(lists.is_empty());
    drop(inner);
    assert_eq!(drive.held_pages(), drive.written_pages());
}
