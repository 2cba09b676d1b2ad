//! The host's machine against the target's, in one process: the test carries the bytes, in pieces of
//! every length, and cuts the line anywhere. Behind the target is a controller of a few lines.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use ferroce_buf::{BufList, Class, Home, Pool, Region, Want};
use ferroce_engine::host as nvme;
use ferroce_engine::port::{Fetch, Reply, Room, Tag};
use ferroce_transport::host::Data;
use ferroce_transport::tcp::frame::Digests;
use ferroce_transport::tcp::host::{Conn, Wishes};
use ferroce_transport::tcp::target::{Offer, Target, Took, sqe_at};
use ferroce_wire::cqe::Cqe;
use ferroce_wire::opcode::NvmOpcode;
use ferroce_wire::sqe::{Sgl, Sqe};
use ferroce_wire::status::Status;

const BLOCK: usize = 512;
const PART: usize = 4096;

/// How both ends are set up.
#[derive(Clone, Copy, Debug)]
struct Setup {
    dgst: u8,
    hpda: u8,
    cpda: u8,
    maxr2t: u16,
    /// The target may elide completions.
    elide: bool,
}

const PLAIN: Setup = Setup {
    dgst: 0,
    hpda: 0,
    cpda: 0,
    maxr2t: 1,
    elide: true,
};

/// A write that waits for its data: its parts, and how many are still to come.
struct Writing {
    sqe: Sqe,
    parts: usize,
    status: Status,
}

/// A line between a host and a target. Bytes that were sent and not carried lie on it.
struct Line {
    setup: Setup,
    host: Conn,
    target: Target,
    /// Shown to the target, and not used up.
    left: Vec<u8>,
    pool: Pool,
    memory: Vec<u8>,
    writing: BTreeMap<u16, Writing>,
    /// Bytes carried each way so far.
    to_target: usize,
    to_host: usize,
}

impl Line {
    fn new(setup: Setup, pool: Pool) -> Line {
        let digests = Digests::from_dgst(setup.dgst);
        let mut host = Conn::new(Wishes {
            digests,
            hpda: setup.hpda,
            maxr2t: setup.maxr2t,
            depth: 8,
        });
        host.set_sq_flow_control(!setup.elide);
        Line {
            setup,
            host,
            target: Target::new(Offer {
                digests,
                cpda: setup.cpda,
            }),
            left: Vec::new(),
            pool,
            memory: vec![0; 64 * BLOCK],
            writing: BTreeMap::new(),
            to_target: 0,
            to_host: 0,
        }
    }

    /// Carries at most `step` bytes to the target, of `most` at all; false if there were none.
    fn carry_to_target(&mut self, step: usize, most: usize) -> bool {
        let room = step.min(most - self.to_target);
        let mut piece = Vec::new();
        self.host.gather(|bytes| {
            let count = bytes.len().min(room - piece.len());
            piece.extend_from_slice(&bytes[..count]);
            piece.len() < room
        });
        if piece.is_empty() {
            return false;
        }
        self.host.sent(piece.len());
        self.to_target += piece.len();
        let mut piece = &piece[..];
        // Every other length goes by way of the Bufs, as a socket shell would have it.
        if step.is_multiple_of(2) && self.left.is_empty() {
            let mut placed = 0;
            self.target.space(|space| {
                let count = space.len().min(piece.len());
                space[..count].copy_from_slice(&piece[..count]);
                piece = &piece[count..];
                placed += count;
                !piece.is_empty()
            });
            self.target.placed(placed);
        }
        self.left.extend_from_slice(piece);
        self.run_target();
        true
    }

    fn run_target(&mut self) {
        loop {
            let (used, took) = self.target.take(&self.left, Room::Any);
            let bytes: Vec<u8> = self.left.drain(..used).collect();
            match took {
                Took::Opened => {}
                Took::Capsule {
                    at,
                    data_at,
                    data_len,
                } => self.on_capsule(*sqe_at(&bytes, at), &bytes[data_at..data_at + data_len]),
                Took::Filled => {
                    let filled = self.target.filled().expect("it was told");
                    let cid = filled.tag.slot as u16;
                    let at = filled.tag.generation as usize;
                    let writing = self.writing.get_mut(&cid).unwrap();
                    let base = writing.sqe.slba() as usize * BLOCK + at;
                    let len = filled.bufs.len();
                    filled.bufs.copy_out(0, &mut self.memory[base..base + len]);
                    self.pool.put_all(filled.bufs);
                    if !filled.status.is_success() {
                        writing.status = filled.status;
                    }
                    writing.parts -= 1;
                    if writing.parts == 0 {
                        let status = self.writing.remove(&cid).unwrap().status;
                        self.complete(cid, status);
                    }
                }
                Took::Need(_) => break,
                Took::Spoiled { .. } | Took::NoRoom | Took::Over | Took::HungUp => {
                    panic!("the host broke the protocol: {took:?}")
                }
            }
        }
        self.target.ask();
    }

    fn on_capsule(&mut self, sqe: Sqe, data: &[u8]) {
        let cid = sqe.cid.get();
        let from = sqe.slba() as usize * BLOCK;
        let len = sqe.dptr.len.get() as usize;
        match sqe.nvm_opcode() {
            NvmOpcode::READ if from + len > self.memory.len() => {
                self.complete(cid, Status::LBA_OUT_OF_RANGE.dnr());
            }
            NvmOpcode::READ => {
                for at in (0..len).step_by(PART) {
                    let part = PART.min(len - at);
                    let mut buf = self.pool.take(part).unwrap();
                    buf.bytes_mut()
                        .copy_from_slice(&self.memory[from + at..from + at + part]);
                    let mut bufs = BufList::new();
                    bufs.push(buf);
                    let last = at + part == len;
                    let unused = self.target.reply(Reply {
                        cid,
                        sgl: sqe.dptr,
                        offset: at as u32,
                        bufs,
                        last,
                        cqe: last.then(|| Cqe::new(cid, Status::SUCCESS)),
                        may_elide_cqe: self.setup.elide,
                    });
                    assert!(unused.is_none());
                }
            }
            NvmOpcode::WRITE if sqe.dptr.kind == Sgl::IN_CAPSULE => {
                self.memory[from..from + len].copy_from_slice(data);
                self.complete(cid, Status::SUCCESS);
            }
            NvmOpcode::WRITE => {
                let parts = len.div_ceil(PART);
                let status = Status::SUCCESS;
                self.writing.insert(cid, Writing { sqe, parts, status });
                for at in (0..len).step_by(PART) {
                    let mut bufs = BufList::new();
                    bufs.push(self.pool.take(PART.min(len - at)).unwrap());
                    let unused = self.target.fetch(Fetch {
                        tag: Tag {
                            slot: u32::from(cid),
                            generation: at as u32,
                        },
                        cid,
                        sgl: sqe.dptr,
                        offset: at as u32,
                        bufs,
                    });
                    assert!(unused.is_none());
                }
            }
            _ => self.complete(cid, Status::SUCCESS),
        }
    }

    fn complete(&mut self, cid: u16, status: Status) {
        let unused = self.target.reply(Reply {
            cid,
            sgl: Sgl::NONE,
            offset: 0,
            bufs: BufList::new(),
            last: false,
            cqe: Some(Cqe::new(cid, status)),
            may_elide_cqe: false,
        });
        self.pool.put_all(unused.unwrap_or_default());
    }

    /// As `carry_to_target`, the other way.
    fn carry_to_host(&mut self, step: usize, most: usize) -> bool {
        let room = step.min(most - self.to_host);
        let mut piece = Vec::new();
        self.target.gather(|bytes| {
            let count = bytes.len().min(room - piece.len());
            piece.extend_from_slice(&bytes[..count]);
            piece.len() < room
        });
        if piece.is_empty() {
            return false;
        }
        let pool = &mut self.pool;
        self.target
            .sent(piece.len(), &mut |bufs| pool.put_all(bufs));
        self.to_host += piece.len();
        let mut piece = &piece[..];
        if step.is_multiple_of(2)
            && let Some(space) = self.host.direct()
        {
            let count = space.len().min(piece.len());
            space[..count].copy_from_slice(&piece[..count]);
            self.host.direct_received(count);
            piece = &piece[count..];
        }
        self.host.received(piece).unwrap();
        true
    }

    /// Carries both ways, in pieces of `step`, until nothing moves.
    fn carry(&mut self, step: usize, most_to_target: usize, most_to_host: usize) {
        while self.carry_to_target(step, most_to_target) | self.carry_to_host(step, most_to_host) {}
    }

    /// Cuts the line: all Bufs come home, and what the host has no answer for is told.
    fn cut(&mut self) {
        self.host.end();
        let pool = &mut self.pool;
        self.target.give_up(&mut |bufs| pool.put_all(bufs));
        assert_eq!(self.pool.out(), 0, "Bufs were lost");
    }
}

/// Every Buf is back in it after each line, so one is enough.
fn pool() -> Pool {
    let classes = [Class {
        size: PART,
        count: 16,
    }];
    let region = Region::map(Pool::bytes(&classes), Want::default()).unwrap();
    Pool::new(Arc::new(region), 0, Home::CORE, &classes)
}

fn pattern(seed: usize, len: usize) -> Vec<u8> {
    (0..len)
        .map(|i| (i * 31 + seed * 7 + i / 512) as u8)
        .collect()
}

/// What the host does, and what must come of it.
struct Case {
    sqe: Sqe,
    /// The data as it is given; none at all, or so many bytes to discard.
    data: Option<Vec<u8>>,
    discard: u32,
    status: Status,
    /// The data as it comes back.
    back: Vec<u8>,
}

/// Made once: they are used for each of some ten thousand lines.
static CASES: LazyLock<Vec<Case>> = LazyLock::new(|| {
    let case = |sqe, data: &[u8], status, back: &[u8]| Case {
        sqe,
        data: (!data.is_empty()).then(|| data.to_vec()),
        discard: 0,
        status,
        back: back.to_vec(),
    };
    let ok = Status::SUCCESS;
    let (small, large) = (pattern(1, 512), pattern(2, 10240));
    vec![
        // In the capsule, then by R2T, in parts that do not end where the R2T does.
        case(nvme::write(1, 0, 1, false), &small, ok, &small),
        case(nvme::write(1, 4, 20, false), &large, ok, &large),
        case(nvme::flush(1), &[], ok, &[]),
        case(nvme::read(1, 32, 24), &[0; 12288], ok, &[0; 12288]),
        case(
            nvme::read(1, 64, 1),
            &[9; 512],
            Status::LBA_OUT_OF_RANGE.dnr(),
            &[9; 512],
        ),
        case(nvme::read(1, 0, 1), &[0; 512], ok, &small),
        Case {
            discard: 1024,
            ..case(nvme::read(1, 40, 2), &[], ok, &[])
        },
    ]
});

/// Submits everything at once.
fn submit(line: &mut Line) {
    for (i, case) in CASES.iter().enumerate() {
        let data = match (&case.data, case.discard) {
            (Some(data), _) => Data::Vec(data.clone()),
            (None, 0) => Data::None,
            (None, len) => Data::Discard(len),
        };
        line.host.submit(case.sqe, data, i as u64).unwrap();
    }
}

/// Runs it all, without a cut.
fn run(setup: Setup, step: usize, pool: Pool) -> Line {
    let mut line = Line::new(setup, pool);
    line.carry(step, usize::MAX, usize::MAX);
    assert!(line.host.is_open());
    submit(&mut line);
    line.carry(step, usize::MAX, usize::MAX);
    let mut seen = [false; 7];
    while let Some(done) = line.host.poll() {
        let Case { status, back, .. } = &CASES[done.user_data as usize];
        assert!(!std::mem::replace(&mut seen[done.user_data as usize], true));
        assert_eq!(done.status(), *status, "{setup:?}, pieces of {step}");
        assert!(done.data.bytes() == back, "{setup:?}, pieces of {step}");
    }
    assert_eq!(seen, [true; 7], "{setup:?}, pieces of {step}");
    assert!(line.memory[4 * BLOCK..24 * BLOCK] == CASES[1].back);
    assert_eq!((line.host.outstanding(), line.pool.out()), (0, 0));
    line
}

fn setups() -> impl Iterator<Item = Setup> {
    (0..4u8).flat_map(|dgst| {
        [(0, 0, 1, true), (31, 31, 3, false), (2, 0, 1, true)].map(|(hpda, cpda, maxr2t, elide)| {
            Setup {
                dgst,
                hpda,
                cpda,
                maxr2t,
                elide,
            }
        })
    })
}

#[test]
fn in_pieces_of_every_length() {
    let whole = run(PLAIN, usize::MAX, pool());
    let mut pool = pool();
    // Beyond the longest PDU, only the beginnings differ: some of those lengths are enough.
    let longest = 72 + 12288 + 200;
    let all = (1..=300)
        .chain((301..longest).step_by(101))
        .chain([longest]);
    for step in all {
        let line = run(PLAIN, step, pool);
        assert_eq!(
            (line.to_target, line.to_host),
            (whole.to_target, whole.to_host),
            "the bytes do not depend on the pieces"
        );
        pool = line.pool;
    }
    for setup in setups() {
        for step in (1..=160).chain([511, 512, 4095, 4096, 4097, usize::MAX]) {
            pool = run(setup, step, pool).pool;
        }
    }
}

#[test]
fn cut_at_every_byte() {
    for setup in [
        PLAIN,
        Setup {
            dgst: 3,
            hpda: 3,
            cpda: 7,
            maxr2t: 2,
            elide: false,
        },
    ] {
        let whole = run(setup, usize::MAX, pool());
        let mut pool = pool();
        // Small pieces have the machines in the middle of everything; large ones are quick.
        for (step, every) in [(4096, 1), (61, 7)] {
            for cut in (0..=whole.to_target).step_by(every) {
                pool = cut_once(setup, step, cut, usize::MAX, pool);
            }
            for cut in (0..=whole.to_host).step_by(every) {
                pool = cut_once(setup, step, usize::MAX, cut, pool);
            }
        }
    }
}

fn cut_once(setup: Setup, step: usize, to_target: usize, to_host: usize, pool: Pool) -> Pool {
    let mut line = Line::new(setup, pool);
    line.carry(step, to_target, to_host);
    if !line.host.is_open() {
        line.cut();
        return line.pool;
    }
    submit(&mut line);
    line.carry(step, to_target, to_host);
    line.cut();
    let mut seen = [false; 7];
    while let Some(done) = line.host.poll() {
        let Case { status, back, .. } = &CASES[done.user_data as usize];
        assert!(!std::mem::replace(&mut seen[done.user_data as usize], true));
        if done.status() == Status::HOST_PATHING_ERROR {
            // Never data for a refused read.
            assert!(status.is_success() || done.data.bytes() == back);
        } else {
            assert_eq!(done.status(), *status);
            assert!(done.data.bytes() == back);
        }
    }
    assert_eq!(seen, [true; 7], "each command is answered once");
    assert_eq!(line.host.outstanding(), 0);
    line.pool
}
