//! The NVMe driver against a controller that is played (`played`): bring-up, data of every shape, what a drive
//! cannot do, and drives that stall, lie, answer out of order, or are gone.

mod played;

use std::sync::Arc;
use std::time::{Duration, Instant};

use ferroce_buf::{BufList, Home};
use ferroce_drivers::dma::Bus;
use ferroce_drivers::mmio::Registers as _;
use ferroce_drivers::nvme::queue::{ENTRIES_MAX, FAILED};
use ferroce_drivers::nvme::{NvmeDrive, Patience, PciId};
use ferroce_engine::port::{Backend, Io, Op, Tag};
use ferroce_wire::identify::{Csi, IdentifyController, IdentifyNamespace};
use ferroce_wire::prop::Vs;
use ferroce_wire::status::Status;
use played::bench::{Bench, config, impatient, patient, pattern, start, until};
use played::{CAPACITY, Mischief, Player};

#[test]
fn a_drive_says_what_it_is() {
    for block_len in [512, 4096] {
        let bench = Bench::new(block_len, patient(), |_| {});
        let info = bench.drive.info();
        assert_eq!(info.block_len, block_len);
        assert_eq!(info.blocks * u64::from(block_len), CAPACITY);
        assert_eq!(info.max_transfer, 128 * 1024);
        assert!(!info.brings_memory && !info.read_only && info.deallocates);
        let again = Bench::new(block_len, patient(), |_| {}).drive.info();
        assert_eq!((again.uuid, again.nguid), (info.uuid, info.nguid), "stable");
        assert!(info.uuid != [0; 16] && info.uuid != info.nguid);
        bench.end();
    }
}

#[test]
fn a_drive_found_enabled_is_disabled_first() {
    let bus = Arc::new(Bus::default());
    let player = Player::new(bus.clone(), &[4096]);
    player.write32(0x14, 0x0046_0001);
    assert_eq!(player.seen().enabled, 1);
    let controller = start(&player, &bus, patient());
    let seen = player.seen();
    assert_eq!((seen.disabled, seen.enabled), (1, 2));
    drop(controller);
    assert_eq!(player.seen().shutdowns, 1);
}

#[test]
fn data_of_every_shape_comes_back() {
    for (block_len, dstrd) in [(512, 0), (4096, 2)] {
        let mut bench = Bench::new(block_len, patient(), |mischief| mischief.dstrd = dstrd);
        let lens = [
            512usize, 1024, 3584, 4096, 4608, 8192, 8704, 12288, 65536, 130_560, 131_072,
        ];
        for (index, len) in lens.into_iter().enumerate() {
            if !len.is_multiple_of(block_len as usize) {
                continue;
            }
            let (lba, data) = (7 * index as u64, pattern(len, index as u64));
            for piece in [131_072, 4096] {
                assert_eq!(bench.write(lba, &data, piece), Status::SUCCESS);
                for piece in [131_072, 4096] {
                    assert!(bench.read(lba, len, piece) == data, "{len} in {piece}");
                }
            }
        }
        // A Buf that begins inside its page, as what landed beside a header would.
        let mut bufs = bench.bufs(4096, 4096);
        bufs.iter_mut().for_each(|buf| buf.advance(4096 - 512));
        if block_len == 512 {
            bufs.push(bench.pool.take(512).unwrap());
            bufs.copy_in(0, &pattern(1024, 99));
            let (status, bufs) = bench.run(bench.write_op(5, 1024), bufs);
            assert_eq!(status, Status::SUCCESS);
            assert!(bench.read(5, 1024, 4096) == pattern(1024, 99));
            bench.pool.put_all(bufs);
        } else {
            bench.pool.put_all(bufs);
        }
        bench.end();
    }
}

#[test]
fn transfers_are_cut_at_the_boundaries_a_drive_likes() {
    // 11 blocks of 512 bytes: parts begin anywhere in a page.
    let mut bench = Bench::new(512, patient(), |mischief| {
        mischief.namespace = Some(|id| id.noiob = 11.into());
    });
    for (lba, len, parts) in [(0, 512, 1), (10, 1024, 2), (11, 5632, 1), (3, 131_072, 24)] {
        let data = pattern(len, lba);
        for piece in [131_072, 4096] {
            let before = bench.player.seen().commands;
            assert_eq!(bench.write(lba, &data, piece), Status::SUCCESS);
            assert_eq!(bench.player.seen().commands - before, parts);
            assert!(bench.read(lba, len, piece) == data, "{len} at {lba}");
        }
    }
    bench.end();
}

/// A drive of which PCI says that it is this.
fn known_as(vendor: u16, device: u16) -> impl FnOnce(&mut Mischief) {
    move |mischief| mischief.id = PciId { vendor, device }
}

#[test]
fn transfers_are_cut_at_the_stripes_of_drives_that_have_them() {
    type Change = fn(&mut IdentifyController);
    // Stripes of 64 KiB: 128 blocks.
    let stripes: Change = |id| id.vs[3] = 4;
    let none: Change = |id| id.vs[3] = 0;
    let nonsense: Change = |id| id.vs[3] = 99;
    for (device, controller, noiob, parts) in [
        (0x0953, stripes, false, 3),
        (0x0953, none, false, 1),
        (0x0953, nonsense, false, 1),
        // What is said where all drives say it counts.
        (0x0953, stripes, true, 4),
        (0x0952, stripes, false, 1),
    ] {
        let mut bench = Bench::new(512, patient(), |mischief| {
            known_as(0x8086, device)(mischief);
            mischief.controller = Some(controller);
            if noiob {
                mischief.namespace = Some(|id| id.noiob = 64.into());
            }
        });
        let data = pattern(131_072, 7);
        let before = bench.player.seen().commands;
        assert_eq!(bench.write(64, &data, 131_072), Status::SUCCESS);
        assert_eq!(bench.player.seen().commands - before, parts);
        bench.end();
    }
}

#[test]
fn a_drive_that_had_better_have_no_write_zeroes_is_given_none() {
    for (device, none) in [(0xF1A5, true), (0xF1A6, false)] {
        let mut bench = Bench::new(512, patient(), known_as(0x8086, device));
        let zeroes = Op::WriteZeroes {
            lba: 3,
            blocks: 8,
            fua: false,
            deallocate: true,
        };
        assert_eq!(bench.write(0, &pattern(8192, 1), 8192), Status::SUCCESS);
        assert_eq!(bench.plain(zeroes), Status::SUCCESS);
        assert!(bench.read(3, 4096, 4096).iter().all(|byte| *byte == 0));
        assert_eq!(bench.player.seen().largest.write_zeroes == 0, none);
        bench.end();
    }
}

/// However a request is cut, and by whatever it is done.
#[test]
fn force_unit_access_reaches_the_drive_on_every_block() {
    let none: fn(&mut IdentifyController) = |id| id.oncs = 0.into();
    for controller in [None, Some(none)] {
        let mut bench = Bench::new(512, patient(), |mischief| {
            mischief.controller = controller;
            mischief.namespace = Some(|id| id.noiob = 16.into());
        });
        let (mut durable, mut volatile) = (0, 0);
        for (lba, blocks, fua) in [
            (0, 1, true),
            (8, 100, true),
            (200, 33, false),
            (300, 8, true),
        ] {
            let bufs = bench.bufs(blocks as usize * 512, 65536);
            let (status, bufs) = bench.run(Op::Write { lba, blocks, fua }, bufs);
            assert_eq!(status, Status::SUCCESS);
            bench.pool.put_all(bufs);
            let zeroes = Op::WriteZeroes {
                lba,
                blocks: 20 * blocks,
                fua,
                deallocate: false,
            };
            assert_eq!(bench.plain(zeroes), Status::SUCCESS);
            *(if fua { &mut durable } else { &mut volatile }) += 21 * blocks;
            let seen = bench.player.seen();
            assert_eq!(
                (seen.durable_blocks, seen.volatile_blocks),
                (durable, volatile)
            );
        }
        bench.end();
    }
}

#[test]
fn what_a_drive_cannot_do_is_done_by_what_it_can() {
    let none: fn(&mut IdentifyController) = |id| id.oncs = 0.into();
    for controller in [None, Some(none)] {
        let mut bench = Bench::new(512, patient(), |mischief| mischief.controller = controller);
        let data = pattern(65536, 1);
        assert_eq!(bench.write(1000, &data, 131_072), Status::SUCCESS);
        // A slice of the engine's is larger than one command of a drive that has to write zeros.
        let zeroes = |lba, blocks| Op::WriteZeroes {
            lba,
            blocks,
            fua: true,
            deallocate: true,
        };
        assert_eq!(bench.plain(zeroes(1001, 2048)), Status::SUCCESS);
        let read = bench.read(1000, 65536, 131_072);
        assert!(read[..512] == data[..512] && read[512..].iter().all(|byte| *byte == 0));
        let last = bench.read(1001 + 2047, 1024, 4096);
        assert!(last[..512].iter().all(|byte| *byte == 0));
        assert_eq!(
            bench.plain(Op::Verify {
                lba: 3,
                blocks: 2048
            }),
            Status::SUCCESS
        );
        let deallocate = Op::Deallocate {
            lba: 1000,
            blocks: 8,
        };
        assert_eq!(bench.plain(deallocate), Status::SUCCESS);
        assert_eq!(bench.plain(Op::Flush), Status::SUCCESS);
        assert_eq!(bench.drive.info().deallocates, controller.is_none());
        let kept = bench.read(1000, 512, 4096) == data[..512];
        assert_eq!(kept, controller.is_some());
        bench.end();
    }
}

#[test]
fn a_full_queue_refuses_and_completions_come_in_any_order() {
    let mut bench = Bench::new(4096, patient(), |mischief| mischief.hold = true);
    let depth = ENTRIES_MAX - 1;
    for round in 0..3 {
        bench.player.misbehave(|mischief| mischief.hold = true);
        let tags: Vec<Tag> = (0..depth)
            .map(|index| {
                let mut bufs = bench.bufs(4096, 4096);
                bufs.copy_in(0, &pattern(4096, u64::from(index + round)));
                bench.submit(bench.write_op(u64::from(index), 4096), bufs)
            })
            .collect();
        let tag = tags[0];
        let op = Op::Flush;
        let bufs = BufList::new();
        assert!(
            bench.queue.submit(Io { tag, op, bufs }).is_err(),
            "it is full"
        );
        let before = bench.player.seen().doorbells;
        bench.queue.ring_doorbell();
        assert_eq!(
            bench.player.seen().doorbells,
            before + 1,
            "one doorbell for all"
        );
        assert_eq!(bench.player.held(), depth as usize);
        assert!(bench.queue.poll().is_none() && !bench.queue.has_work());
        bench.player.release_backwards();
        assert!(bench.queue.has_work());
        for expected in tags.into_iter().rev() {
            let done = bench.wait();
            assert_eq!((done.tag, done.status), (expected, Status::SUCCESS));
            bench.pool.put_all(done.bufs);
        }
        let last = bench.read(u64::from(depth - 1), 4096, 4096);
        assert!(last == pattern(4096, u64::from(depth - 1 + round)));
    }
    bench.end();
}

#[test]
fn errors_of_the_media_pass_through() {
    let mut bench = Bench::new(4096, patient(), |_| {});
    for status in [
        Status::UNRECOVERED_READ_ERROR.dnr(),
        Status::UNRECOVERED_READ_ERROR,
        Status::WRITE_FAULT.more(),
        Status::NAMESPACE_WRITE_PROTECTED,
    ] {
        bench
            .player
            .misbehave(|mischief| mischief.fail = Some(status));
        assert_eq!(bench.write(0, &[1; 4096], 4096), status);
    }
    // A slice fails with its first part that does.
    bench
        .player
        .misbehave(|mischief| mischief.fail = Some(Status::INTERNAL_ERROR));
    assert_eq!(
        bench.plain(Op::Verify {
            lba: 0,
            blocks: 256
        }),
        Status::INTERNAL_ERROR
    );
    assert_eq!(bench.write(0, &[1; 4096], 4096), Status::SUCCESS);
    bench.end();
}

#[test]
fn a_command_that_takes_too_long_is_aborted() {
    let mut bench = Bench::new(4096, impatient(), |mischief| {
        (mischief.hold, mischief.aborts) = (true, true);
    });
    // The host may try again.
    assert_eq!(
        bench.write(0, &[1; 4096], 4096),
        Status::COMMAND_INTERRUPTED
    );
    assert!(bench.player.seen().aborts >= 1);
    assert_eq!(bench.player.seen().disabled, 0, "no reset for one command");
    bench.player.misbehave(|mischief| mischief.hold = false);
    assert_eq!(bench.write(0, &[2; 4096], 4096), Status::SUCCESS);
    bench.end();
}

#[test]
fn a_drive_that_answers_no_abort_is_not_reset_for_that() {
    let patience = Patience {
        command_ms: 50,
        abort_ms: 60_000,
        ..patient()
    };
    let mut bench = Bench::new(4096, patience, |mischief| {
        (mischief.hold, mischief.holds_aborts) = (true, true);
    });
    let bufs = bench.bufs(4096, 4096);
    bench.submit(bench.write_op(0, 4096), bufs);
    until(&mut bench, "it is aborted", |player| {
        player.seen().aborts > 0
    });
    // The keeper does everything else meanwhile.
    drop(bench.drive.queue(1, &[]).unwrap());
    bench.player.release_backwards();
    let done = bench.wait();
    assert_eq!(done.status, Status::SUCCESS);
    bench.pool.put_all(done.bufs);
    assert_eq!(bench.player.seen().disabled, 0);
    bench.end();
}

#[test]
fn a_drive_that_forgets_commands_is_reset_and_does_them_all() {
    for deaf in [false, true] {
        let mut bench = Bench::new(4096, impatient(), |_| {});
        bench.player.misbehave(|mischief| {
            // Aborts find nothing, or are not even answered.
            (mischief.swallow, mischief.deaf) = (true, deaf);
        });
        for lba in 0..20 {
            let mut bufs = bench.bufs(16384, 131_072);
            bufs.copy_in(0, &pattern(16384, lba));
            bench.submit(bench.write_op(4 * lba, 16384), bufs);
        }
        bench.queue.ring_doorbell();
        assert_eq!(bench.player.seen().commands, 20);
        bench.player.misbehave(|mischief| mischief.swallow = false);
        for _ in 0..20 {
            let done = bench.wait();
            assert_eq!(done.status, Status::SUCCESS);
            bench.pool.put_all(done.bufs);
        }
        assert!(bench.player.seen().disabled >= 1);
        for lba in 0..20 {
            assert!(bench.read(4 * lba, 16384, 131_072) == pattern(16384, lba));
        }
        bench.end();
    }
}

#[test]
fn a_drive_that_lies_is_reset_and_nothing_is_lost() {
    for lie in 0..4 {
        let mut bench = Bench::new(4096, patient(), |_| {});
        assert_eq!(bench.write(9, &pattern(4096, 9), 4096), Status::SUCCESS);
        bench.player.misbehave(|mischief| match lie {
            // Of an older life of the slot, beyond the table, and one that is never used.
            0 => mischief.lie_about_cid = Some(0),
            1 => mischief.lie_about_cid = Some(ENTRIES_MAX as u16 - 1),
            2 => mischief.lie_about_cid = Some(0xFFFF),
            _ => mischief.twice = true,
        });
        assert!(bench.read(9, 4096, 4096) == pattern(4096, 9));
        // The second of two answers is seen by the next look at the latest.
        let deadline = Instant::now() + Duration::from_secs(60);
        while bench.player.seen().disabled == 0 {
            assert!(Instant::now() < deadline && bench.queue.poll().is_none());
        }
        assert_eq!(bench.write(9, &pattern(4096, 8), 4096), Status::SUCCESS);
        assert!(bench.read(9, 4096, 4096) == pattern(4096, 8));
        assert!(!bench.drive.controller().has_failed());
        bench.end();
    }
}

#[test]
fn commands_that_waited_for_a_long_reset_are_not_old_after_it() {
    let patience = Patience {
        command_ms: 1000,
        abort_ms: 1000,
        ..patient()
    };
    let mut bench = Bench::new(4096, patience, |mischief| mischief.hold = true);
    let bufs = bench.bufs(4096, 4096);
    bench.submit(Op::Read { lba: 0, blocks: 1 }, bufs);
    bench.queue.ring_doorbell();
    let slow = |mischief: &mut Mischief| (mischief.never_ready, mischief.fatal) = (true, true);
    bench.player.misbehave(|mischief| {
        slow(mischief);
        mischief.function_reset_helps = false;
    });
    // The reset takes longer than a command may.
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(2500) {
        assert!(bench.queue.poll().is_none());
        std::thread::sleep(Duration::from_millis(1));
    }
    bench
        .player
        .misbehave(|mischief| mischief.never_ready = false);
    until(&mut bench, "it is given anew", |player| player.held() == 1);
    let (back, seen) = (Instant::now(), bench.player.seen());
    while back.elapsed() < Duration::from_millis(300) {
        assert!(bench.queue.poll().is_none());
        std::thread::sleep(Duration::from_millis(1));
    }
    if back.elapsed() < Duration::from_millis(900) {
        let now = bench.player.seen();
        assert_eq!((now.aborts, now.disabled), (seen.aborts, seen.disabled));
    }
    bench.player.release_backwards();
    let done = bench.wait();
    assert_eq!(done.status, Status::SUCCESS);
    bench.pool.put_all(done.bufs);
    bench.end();
}

/// Its function is reset as a whole, and then it serves.
fn is_back_by_a_function_reset(mut bench: Bench) {
    until(&mut bench, "its function is reset", |player| {
        player.seen().function_resets > 0
    });
    assert_eq!(bench.write(0, &[3; 4096], 4096), Status::SUCCESS);
    assert!(!bench.drive.controller().has_failed());
    bench.end();
}

#[test]
fn a_drive_that_needs_a_reset_of_its_function_gets_one_in_time() {
    let patience = Patience {
        reset_ms: 1000,
        ..patient()
    };
    let bench = Bench::new(4096, patience, |_| {});
    bench.player.misbehave(|mischief| {
        // It says that it may take longer than we wait, and would.
        mischief.to = 255;
        (mischief.never_ready, mischief.function_reset_helps) = (true, true);
        mischief.fatal = true;
    });
    is_back_by_a_function_reset(bench);
}

#[test]
fn a_drive_that_says_it_needs_time_to_become_ready_has_it() {
    let patience = Patience {
        reset_ms: 20,
        ..patient()
    };
    let bench = Bench::new(4096, patience, |mischief| mischief.to = 255);
    bench.player.misbehave(|mischief| {
        // Each two milliseconds: far more than we would wait by ourselves.
        mischief.ready_reads = 100;
        mischief.fatal = true;
    });
    is_back_by_a_function_reset(bench);
}

#[test]
fn a_reset_that_leads_nowhere_does_not_keep_a_node_from_stopping() {
    let patience = Patience {
        reset_ms: 20_000,
        ..patient()
    };
    let mut bench = Bench::new(4096, patience, |mischief| mischief.to = 255);
    bench.player.misbehave(|mischief| {
        (mischief.never_ready, mischief.fatal) = (true, true);
    });
    until(&mut bench, "it is reset", |player| {
        player.seen().enabled == 2
    });
    let Bench {
        player,
        queue,
        drive,
        ..
    } = bench;
    drop((queue, drive));
    // It was given up in the first try.
    assert_eq!(player.seen().enabled, 2);
}

#[test]
fn an_admin_command_that_is_late_is_followed_by_a_reset() {
    let patience = Patience {
        admin_ms: 100,
        ..patient()
    };
    let mut bench = Bench::new(4096, patience, |_| {});
    bench.player.misbehave(|mischief| mischief.deaf = true);
    let why = bench.drive.queue(1, &[]).expect_err("it is deaf");
    assert!(why.to_string().contains("in time"), "{why}");
    // What comes late would come over this: nothing is asked until then.
    until(&mut bench, "it is reset", |player| {
        player.seen().disabled == 1
    });
    let deadline = Instant::now() + Duration::from_secs(60);
    while bench.drive.queue(1, &[]).is_err() {
        assert!(Instant::now() < deadline && bench.queue.poll().is_none());
    }
    assert_eq!(bench.write(0, &[3; 4096], 4096), Status::SUCCESS);
    bench.end();
}

#[test]
fn a_queue_that_is_made_by_half_is_taken_back() {
    let mut bench = Bench::new(4096, patient(), |_| {});
    assert_eq!(bench.player.seen().completion_queues, 1);
    bench
        .player
        .misbehave(|mischief| mischief.no_queue = Some(Status::INTERNAL_ERROR));
    for _ in 0..3 {
        let why = bench.drive.queue(1, &[]).expect_err("refused").to_string();
        assert!(why.contains("making a queue"), "{why}");
        assert_eq!(bench.player.seen().completion_queues, 1);
    }
    bench.player.misbehave(|mischief| mischief.no_queue = None);
    drop(bench.drive.queue(1, &[]).unwrap());
    assert_eq!(bench.write(0, &[1; 4096], 4096), Status::SUCCESS);
    bench.end();
}

#[test]
fn a_drive_that_is_another_after_its_reset_fails() {
    type Change = fn(&mut Mischief);
    let changes: [Change; 4] = [
        |mischief| mischief.namespace = Some(|id| id.nsze = 8.into()),
        |mischief| mischief.namespace = Some(|id| id.lbaf[0].lbads = 9),
        |mischief| mischief.queues = Some(1),
        |mischief| mischief.controller = Some(|id| id.sn = *b"ANOTHER ONE         "),
    ];
    for change in changes {
        let patience = Patience {
            reset_ms: 100,
            ..patient()
        };
        let mut bench = Bench::new(4096, patience, |_| {});
        let second = bench.drive.queue(1, &[]).unwrap();
        bench.player.misbehave(|mischief| {
            change(mischief);
            (mischief.swallow, mischief.fatal) = (true, true);
        });
        let bufs = bench.bufs(4096, 4096);
        bench.submit(Op::Read { lba: 0, blocks: 1 }, bufs);
        let mut second = second;
        let deadline = Instant::now() + Duration::from_secs(60);
        let done = loop {
            assert!(Instant::now() < deadline, "it is answered");
            // Each core hears of a reset by looking at its queue.
            assert!(second.poll().is_none());
            if let Some(done) = bench.queue.poll() {
                break done;
            }
        };
        assert_eq!(done.status, FAILED);
        bench.pool.put_all(done.bufs);
        drop(second);
        assert!(bench.drive.controller().has_failed());
        bench.end();
    }
}

#[test]
fn names_of_a_namespace_tell_drives_of_one_serial_number_apart() {
    type Change = fn(&mut IdentifyNamespace);
    let changes: [Option<Change>; 3] = [
        None,
        Some(|id| id.eui64 = [7; 8]),
        Some(|id| id.nguid = [7; 16]),
    ];
    let uuids: std::collections::BTreeSet<[u8; 16]> = changes
        .into_iter()
        .map(|change| {
            let bench = Bench::new(4096, patient(), |mischief| {
                mischief.namespace = Some(change.unwrap_or(|id| {
                    (id.eui64, id.nguid) = ([0; 8], [0; 16]);
                }));
            });
            let info = bench.drive.info();
            assert!(info.uuid != [7; 16] && info.nguid != [7; 16]);
            bench.end();
            info.uuid
        })
        .collect();
    assert_eq!(uuids.len(), 3);
}

#[test]
fn a_fatal_status_leads_to_a_reset() {
    let mut bench = Bench::new(4096, patient(), |_| {});
    bench.player.misbehave(|mischief| mischief.fatal = true);
    let deadline = Instant::now() + Duration::from_secs(60);
    while bench.player.seen().disabled == 0 {
        assert!(Instant::now() < deadline && bench.queue.poll().is_none());
    }
    assert_eq!(bench.write(0, &[3; 4096], 4096), Status::SUCCESS);
    bench.end();
}

#[test]
fn a_drive_that_somebody_else_resets_goes_on_soon() {
    let mut bench = Bench::new(4096, patient(), |_| {});
    bench.player.misbehave(|mischief| mischief.hold = true);
    let mut bufs = bench.bufs(4096, 4096);
    bufs.copy_in(0, &pattern(4096, 5));
    bench.submit(bench.write_op(3, 4096), bufs);
    bench.queue.ring_doorbell();
    bench.player.misbehave(|mischief| mischief.hold = false);
    let before = Instant::now();
    assert!(bench.player.reset());
    let done = bench.wait();
    assert_eq!(done.status, Status::SUCCESS);
    // No command had to be found too old for that.
    let patience = Duration::from_millis(patient().command_ms.into());
    assert!(before.elapsed() < patience);
    bench.pool.put_all(done.bufs);
    assert_eq!(bench.read(3, 4096, 4096), pattern(4096, 5));
    bench.end();
}

#[test]
fn a_drive_that_vanishes_fails_and_every_command_is_answered() {
    let patience = Patience {
        reset_ms: 200,
        ..patient()
    };
    let mut bench = Bench::new(4096, patience, |_| {});
    bench.player.misbehave(|mischief| mischief.swallow = true);
    for lba in 0..10 {
        let bufs = bench.bufs(4096, 4096);
        bench.submit(Op::Read { lba, blocks: 1 }, bufs);
    }
    bench.queue.ring_doorbell();
    bench.player.misbehave(|mischief| mischief.gone = true);
    for _ in 0..10 {
        let done = bench.wait();
        assert_eq!(done.status, FAILED);
        bench.pool.put_all(done.bufs);
    }
    assert!(bench.drive.controller().has_failed());
    assert_eq!(bench.write(0, &[1; 4096], 4096), FAILED);
    assert_eq!(bench.plain(Op::Flush), FAILED);
    let why = bench
        .drive
        .queue(1, &[])
        .expect_err("there is no drive")
        .to_string();
    assert!(why.contains("gone"), "{why}");
    bench.end();
}

#[test]
fn a_drive_that_is_gone_for_a_moment_goes_on() {
    // When it is looked at, and before that when it is to be brought up; once, or some times.
    for gone_reads in [1, 7] {
        let mut bench = Bench::new(4096, patient(), |mischief| {
            mischief.gone_reads = gone_reads - 1;
        });
        assert_eq!(bench.player.seen().function_resets, 0);
        bench
            .player
            .misbehave(|mischief| mischief.gone_reads = gone_reads);
        until(&mut bench, "it is reset", |player| {
            player.seen().disabled == 1
        });
        let data = pattern(4096, 9);
        assert_eq!(bench.write(9, &data, 4096), Status::SUCCESS);
        assert!(bench.read(9, 4096, 4096) == data);
        // Nobody resets what cannot be reached.
        assert_eq!(bench.player.seen().function_resets, 0);
        assert!(!bench.drive.controller().has_failed());
        bench.end();
    }
}

#[test]
fn a_drive_that_does_not_come_back_fails() {
    let patience = Patience {
        reset_ms: 100,
        ..patient()
    };
    let mut bench = Bench::new(4096, patience, |_| {});
    bench.player.misbehave(|mischief| {
        (mischief.swallow, mischief.never_ready) = (true, true);
        mischief.lie_about_cid = Some(0xFFFF);
    });
    // Forgotten, then waiting in a reset that leads nowhere.
    let bufs = bench.bufs(4096, 4096);
    bench.submit(Op::Read { lba: 0, blocks: 1 }, bufs);
    bench.queue.ring_doorbell();
    bench.player.misbehave(|mischief| mischief.fatal = true);
    let done = bench.wait();
    assert_eq!(done.status, FAILED);
    bench.pool.put_all(done.bufs);
    assert!(bench.drive.controller().has_failed());
    bench.end();
}

#[test]
fn namespaces_are_named_and_judged() {
    let bus = Arc::new(Bus::default());
    let player = Player::new(bus.clone(), &[512, 4096]);
    let controller = start(&player, &bus, patient());
    let open = |nsid| NvmeDrive::open(controller.clone(), config(nsid));
    let why = |nsid| open(nsid).expect_err("refused").to_string();
    assert!(
        why(None).contains("namespaces [1, 2]; say which"),
        "{}",
        why(None)
    );
    assert!(why(Some(3)).contains("no namespace 3"), "{}", why(Some(3)));
    let (first, second) = (open(Some(1)).unwrap(), open(Some(2)).unwrap());
    assert_eq!(
        (first.info().block_len, second.info().block_len),
        (512, 4096)
    );
    assert_ne!(first.info().uuid, second.info().uuid);
    // Both through one controller, and each with its own data.
    let mut pool = played::pool(Home::CORE, &[(4096, 4)]);
    let regions = [pool.region().clone()];
    let mut queues = [
        first.queue(0, &regions).unwrap(),
        second.queue(1, &regions).unwrap(),
    ];
    for (index, queue) in queues.iter_mut().enumerate() {
        for write in [true, false] {
            let mut bufs = BufList::new();
            bufs.push(pool.take(4096).unwrap());
            let (lba, blocks) = (0, if index == 0 { 8 } else { 1 });
            let op = match write {
                true => Op::Write {
                    lba,
                    blocks,
                    fua: false,
                },
                false => Op::Read { lba, blocks },
            };
            bufs.copy_in(0, &[if write { index as u8 + 1 } else { 0xA5 }; 4096]);
            let tag = Tag {
                slot: 1,
                generation: 1,
            };
            queue.submit(Io { tag, op, bufs }).unwrap();
            queue.ring_doorbell();
            let mut done = queue.poll().expect("it acts at once");
            assert_eq!(done.status, Status::SUCCESS);
            let buf = done.bufs.pop().unwrap();
            assert!(buf.bytes().iter().all(|byte| *byte == index as u8 + 1));
            pool.put(buf);
        }
    }
    type Change = fn(&mut IdentifyNamespace);
    let changes: [(Change, &str); 4] = [
        (|id| id.lbaf[0].ms = 8.into(), "metadata"),
        (|id| id.lbaf[0].lbads = 13, "8192"),
        (|id| id.lbaf[0].lbads = 200, "blocks of 0"),
        (|id| id.nsze = 0.into(), "no blocks"),
    ];
    for (change, expected) in changes {
        player.misbehave(|mischief| mischief.namespace = Some(change));
        assert!(why(Some(1)).contains(expected), "{}", why(Some(1)));
    }
    player.misbehave(|mischief| {
        mischief.namespace = None;
        mischief.csi = Some(Csi::ZONED);
    });
    assert!(why(Some(1)).contains("Zoned"), "{}", why(Some(1)));
    player.misbehave(|mischief| mischief.csi = Some(Csi::NVM));
    assert!(open(Some(1)).is_ok());
}

#[test]
fn drives_of_old_versions_are_asked_only_what_they_know() {
    for vs in [0x0001_0000, 0x0001_0100, 0x0001_0200] {
        let bus = Arc::new(Bus::default());
        let player = Player::new(bus.clone(), &[512, 4096]);
        player.misbehave(|mischief| mischief.vs = Some(Vs(vs)));
        let controller = start(&player, &bus, patient());
        let open = |nsid| NvmeDrive::open(controller.clone(), config(nsid));
        let why = open(None).expect_err("refused").to_string();
        assert!(why.contains("namespaces [1, 2]; say which"), "{why}");
        assert_eq!(open(Some(2)).unwrap().info().block_len, 4096);
    }
}

#[test]
fn a_drive_has_only_so_many_queues() {
    let mut bench = Bench::new(4096, patient(), |mischief| mischief.queues = Some(2));
    let second = bench.drive.queue(1, &[]).unwrap();
    // There are two; `guests.rs` is about those beyond.
    let third = bench.drive.queue(2, &[]).unwrap();
    assert!(!second.is_guest() && third.is_guest());
    // What was closed is free again.
    drop((third, second));
    assert!(!bench.drive.queue(3, &[]).unwrap().is_guest());
    assert_eq!(bench.write(0, &[1; 4096], 4096), Status::SUCCESS);
    bench.end();
}
