//! What one command of a drive may carry, and what of it survives when the power fails.

mod played;

use ferroce_engine::port::Op;
use ferroce_wire::identify::{IdentifyController, IdentifyNamespace, NvmIdentifyController};
use ferroce_wire::status::Status;
use played::Largest;
use played::bench::{Bench, patient, pattern};

const BLOCK: usize = 512;
/// Blocks of a request for which a drive has a limit.
const BLOCKS: u32 = 1000;

/// What a controller says, and the most blocks of each kind of command that it is to see then.
type Case = (
    fn(&mut IdentifyController),
    fn(&mut NvmIdentifyController),
    Largest,
);

#[test]
fn no_command_is_larger_than_the_drive_says() {
    // A drive that tells no limits at all is given no more than it takes as data.
    let untold = |transfer| Largest {
        transfer,
        write_zeroes: transfer,
        verify: transfer,
        deallocate: BLOCKS,
    };
    // Else what has no limit is done at once.
    let told = Largest {
        transfer: 256,
        write_zeroes: BLOCKS,
        verify: BLOCKS,
        deallocate: BLOCKS,
    };
    // MDTS, VSL and WZSL are powers of two, of pages.
    let cases: [Case; 7] = [
        (|_| {}, |_| {}, untold(256)),
        (|id| id.mdts = 1, |_| {}, untold(16)),
        (
            |id| (id.mdts, id.oncs) = (2, 0.into()),
            |_| {},
            Largest {
                transfer: 32,
                ..Largest::default()
            },
        ),
        (|_| {}, |id| id.vsl = 1, Largest { verify: 16, ..told }),
        (
            |_| {},
            |id| id.wzsl = 3,
            Largest {
                write_zeroes: 64,
                ..told
            },
        ),
        (
            |_| {},
            |id| id.dmrsl = 100.into(),
            Largest {
                deallocate: 100,
                ..told
            },
        ),
        (
            |_| {},
            |id| (id.dmrsl, id.dmsl) = (100.into(), 7.into()),
            Largest {
                deallocate: 7,
                ..told
            },
        ),
    ];
    for (controller, limits, largest) in cases {
        let mut bench = Bench::new(BLOCK as u32, patient(), |mischief| {
            (mischief.controller, mischief.limits) = (Some(controller), Some(limits));
        });
        // The engine cuts by this what hosts read and write.
        let transfer = bench.drive.info().max_transfer as usize;
        assert_eq!(transfer, largest.transfer as usize * BLOCK);
        let mut data = pattern(3 * BLOCKS as usize * BLOCK + transfer, 1);
        for (index, part) in data.chunks(transfer).enumerate() {
            let lba = (index * transfer / BLOCK) as u64;
            assert_eq!(bench.write(lba, part, 4096), Status::SUCCESS);
        }
        let blocks = BLOCKS;
        let ops = [
            Op::Verify { lba: 0, blocks },
            Op::WriteZeroes {
                lba: 1000,
                blocks,
                fua: false,
                deallocate: false,
            },
            Op::Deallocate { lba: 2000, blocks },
        ];
        for op in ops {
            assert_eq!(bench.plain(op), Status::SUCCESS);
        }
        let place = |first: usize| first * BLOCK..(first + BLOCKS as usize) * BLOCK;
        data[place(1000)].fill(0);
        if largest.deallocate > 0 {
            data[place(2000)].fill(0);
        }
        for (index, part) in data.chunks(transfer).enumerate() {
            let lba = (index * transfer / BLOCK) as u64;
            assert!(bench.read(lba, part.len(), 131_072) == part, "block {lba}");
        }
        assert_eq!(bench.player.seen().largest, largest);
        bench.end();
    }
}

/// WZDSL, beside WZSL: what gives the space back may be less at a time.
#[test]
fn zeroes_that_give_space_back_have_a_limit_of_their_own() {
    type Limits = fn(&mut NvmIdentifyController);
    // WZSL and WZDSL, as blocks of a command without and with Deallocate.
    let cases: [(Limits, u32, u32); 4] = [
        (|id| (id.wzsl, id.wzdsl) = (3, 0), 64, 64),
        (|id| (id.wzsl, id.wzdsl) = (3, 2), 64, 32),
        (|id| (id.wzsl, id.wzdsl) = (0, 4), BLOCKS, 128),
        // Nobody knows which of them is meant, so the smaller one.
        (|id| (id.wzsl, id.wzdsl) = (2, 4), 32, 32),
    ];
    for (limits, plain, giving) in cases {
        for (deallocate, most) in [(false, plain), (true, giving)] {
            let mut bench = Bench::new(BLOCK as u32, patient(), |mischief| {
                mischief.limits = Some(limits);
                mischief.namespace = Some(|id| {
                    id.dlfeat =
                        IdentifyNamespace::DLFEAT_ZEROES | IdentifyNamespace::DLFEAT_WRITE_ZEROES;
                });
            });
            let zeroes = Op::WriteZeroes {
                lba: 100,
                blocks: BLOCKS,
                fua: false,
                deallocate,
            };
            assert_eq!(bench.write(100, &[1; 4096], 4096), Status::SUCCESS);
            assert_eq!(bench.plain(zeroes), Status::SUCCESS);
            assert!(bench.read(100, 4096, 4096) == [0; 4096]);
            assert_eq!(bench.player.seen().largest.write_zeroes, most);
            bench.end();
        }
    }
}

#[test]
fn what_is_deallocated_is_so_at_drives_that_do_not_say_what_is_read_then() {
    type Change = fn(&mut IdentifyNamespace);
    let says: [(Change, bool); 3] = [
        (|id| id.dlfeat = 0, false),
        (|id| id.dlfeat = IdentifyNamespace::DLFEAT_ZEROES, true),
        // All ones.
        (|id| id.dlfeat = 2, false),
    ];
    for (namespace, zeros) in says {
        let mut bench = Bench::new(BLOCK as u32, patient(), |mischief| {
            mischief.namespace = Some(namespace);
        });
        assert_eq!(bench.drive.info().deallocates, zeros);
        let (lba, blocks) = (8, 8);
        assert_eq!(bench.write(lba, &[1; 4096], 4096), Status::SUCCESS);
        assert_eq!(bench.plain(Op::Deallocate { lba, blocks }), Status::SUCCESS);
        assert_eq!(bench.player.seen().largest.deallocate, 8);
        assert!(bench.read(lba, 4096, 4096) == [0; 4096]);
        bench.end();
    }
}

#[test]
fn what_was_written_with_force_unit_access_or_flushed_survives_and_nothing_else_need() {
    // What the bench writes to an even block it writes with FUA.
    const DURABLE: u64 = 4;
    const VOLATILE: u64 = 105;
    const ZEROES: u64 = 204;
    const FLUSHED: u64 = 305;
    const LEN: usize = 32 * BLOCK;
    let none: fn(&mut IdentifyController) = |id| id.oncs = 0.into();
    for controller in [None, Some(none)] {
        // Parts of 10 blocks: each of them is to survive.
        let mut bench = Bench::new(BLOCK as u32, patient(), |mischief| {
            mischief.controller = controller;
            mischief.namespace = Some(|id| id.noiob = 10.into());
        });
        assert!(bench.drive.info().volatile_cache);
        let (mut lost, mut flushed) = (0, vec![0; LEN]);
        for round in 0..16 {
            let data = pattern(LEN, round);
            for lba in [DURABLE, VOLATILE, ZEROES] {
                assert_eq!(bench.write(lba, &data, 4096), Status::SUCCESS);
            }
            let zeroes = Op::WriteZeroes {
                lba: ZEROES,
                blocks: 32,
                fua: true,
                deallocate: false,
            };
            assert_eq!(bench.plain(zeroes), Status::SUCCESS);
            bench.player.power_off();
            assert!(bench.read(DURABLE, LEN, 4096) == data);
            assert!(bench.read(ZEROES, LEN, 4096) == [0; LEN]);
            assert!(bench.read(FLUSHED, LEN, 4096) == flushed);
            lost += u32::from(bench.read(VOLATILE, LEN, 4096) != data);
            assert_eq!(bench.write(FLUSHED, &data, 4096), Status::SUCCESS);
            assert_eq!(bench.plain(Op::Flush), Status::SUCCESS);
            flushed = data;
        }
        assert!(lost > 0, "there is a cache");
        bench.end();
    }
}
