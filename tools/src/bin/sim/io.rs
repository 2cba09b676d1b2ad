//! I/O commands of simulated hosts: what they ask, and what their answers may say.

use std::collections::BTreeSet;

use bytemuck::Zeroable;
use ferroce_engine::host;
use ferroce_engine::limits;
use ferroce_wire::feature::DsmRange;
use ferroce_wire::opcode::NvmOpcode;
use ferroce_wire::sqe::{Sgl, Sqe};
use ferroce_wire::status::Status;

use crate::content::{self, Content, Found};
use crate::ground::{Ground, Stage};
use crate::model::{Ended, MediumId};
use crate::plan::{Manner, PathPlan, Plan};
use crate::shared::Chance;
use crate::wrong;

/// What a command does.
#[derive(Clone, Debug)]
pub enum Op {
    Read,
    Write { id: u64, fua: bool },
    Zeroes { id: u64, fua: bool },
    Compare { contents: Vec<Content> },
    Flush,
    Verify,
    Deallocate { ids: Ids },
}

/// Writes by their names, printed as a count.
#[derive(Clone)]
pub struct Ids(Vec<u64>);

impl std::fmt::Debug for Ids {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} ranges from write {:?} on",
            self.0.len(),
            self.0.first()
        )
    }
}

/// An I/O command and what its host knows of it.
#[derive(Clone, Debug)]
pub struct Io {
    /// Index of the namespace; none if it names one that never was.
    pub space: Option<usize>,
    /// What was behind it when the command was sent.
    pub medium: MediumId,
    pub op: Op,
    pub lba: u64,
    pub blocks: u64,
    /// It reads, with Force Unit Access.
    pub commits: bool,
    /// Made wrong on purpose: one of these is the answer.
    pub refused: &'static [Status],
    /// The namespace is new, and an event told of it.
    pub told: bool,
}

/// A command ready to be sent.
#[derive(Debug)]
pub struct Made {
    pub sqe: Sqe,
    pub io: Io,
    /// Data for the target.
    pub data: Vec<u8>,
    /// In the capsule, from this offset on.
    pub capsule: Option<u32>,
    /// Bytes that the answer brings.
    pub len: u32,
    /// When it began, for the model.
    pub start: u64,
}

/// The most blocks of a command for the drives alone.
const SPAN_MAX: u64 = 4096;

/// A command of one path; none while there is no namespace it could go to.
pub fn make(ground: &mut Ground, plan: &PathPlan, told: &BTreeSet<u32>) -> Option<Made> {
    let here: Vec<usize> = (0..ground.spaces.len())
        .filter(|&at| {
            let space = &ground.spaces[at];
            let early = space.stage == Stage::Coming && told.contains(&space.nsid);
            space.subsystem == plan.subsystem && (space.stage == Stage::Here || early)
        })
        .collect();
    if here.is_empty() {
        return None;
    }
    // A host that was told of a new one is quick to look at it.
    let new = |at: &&usize| ground.spaces[**at].stage == Stage::Coming;
    let at = match here.iter().find(new) {
        Some(at) if ground.rng.bool() => *at,
        _ => *ground.rng.pick(&here),
    };
    if ground.rng.once_in(plan.wrong) {
        return Some(make_wrong(ground, at, plan));
    }
    let read_only = ground.spaces[at].read_only;
    let (lba, blocks) = place(ground, at, plan.len_max);
    Some(match ground.rng.u32(0..100) {
        0..=37 => read(ground, at, lba, blocks),
        38..=74 if !read_only => write(ground, at, lba, blocks),
        75..=80 => compare(ground, at, lba, blocks),
        81..=87 => flush(ground, at),
        88..=92 if !read_only => {
            let (lba, blocks) = span(ground, at);
            zeroes(ground, at, lba, blocks)
        }
        93..=95 if !read_only => deallocate(ground, at),
        96..=98 => {
            let (lba, blocks) = span(ground, at);
            verify(ground, at, lba, blocks)
        }
        _ => read(ground, at, lba, blocks),
    })
}

/// A command of a host that asks for data it will not read, or promises data it will not send; its length.
pub fn make_bad(ground: &mut Ground, plan: &PathPlan) -> Option<(Sqe, u32)> {
    let fits = |at: &usize| {
        let space = &ground.spaces[*at];
        space.subsystem == plan.subsystem && space.stage == Stage::Here
    };
    let here: Vec<usize> = (0..ground.spaces.len()).filter(fits).collect();
    if here.is_empty() {
        return None;
    }
    let at = *ground.rng.pick(&here);
    let (lba, blocks) = place(ground, at, plan.len_max);
    let space = &ground.spaces[at];
    let len = blocks as u32 * space.block_len;
    let (nsid, blocks) = (space.nsid, blocks as u32);
    let sqe = match plan.manner {
        Manner::Deaf => host::read(nsid, lba, blocks),
        _ if ground.rng.once_in(4) => host::compare(nsid, lba, blocks),
        _ => host::write(nsid, lba, blocks, false),
    };
    Some((sqe.with_sgl(Sgl::transport(len)), len))
}

/// Where a command goes: mostly to few places, so that commands meet.
fn place(ground: &mut Ground, at: usize, len_max: u32) -> (u64, u64) {
    let space = &ground.spaces[at];
    let (total, block_len) = (space.blocks, u64::from(space.block_len));
    let most = (u64::from(len_max) / block_len).min(total).max(1);
    let blocks = match ground.rng.u32(0..10) {
        0..=5 => ground.rng.u64(1..=8.min(most)),
        6..=8 => ground.rng.skewed(1, most),
        _ => most,
    };
    let lba = match ground.rng.u32(0..10) {
        0..=5 => ground.rng.u64(0..=(total - blocks).min(24)),
        6 => total - blocks,
        _ => ground.rng.u64(0..=total - blocks),
    };
    (lba, blocks)
}

fn span(ground: &mut Ground, at: usize) -> (u64, u64) {
    let total = ground.spaces[at].blocks;
    let blocks = ground.rng.skewed(1, total.min(SPAN_MAX));
    (ground.rng.u64(0..=total - blocks), blocks)
}

fn made(ground: &mut Ground, at: usize, sqe: Sqe, op: Op, lba: u64, blocks: u64) -> Made {
    Made {
        sqe,
        io: Io {
            space: Some(at),
            medium: ground.spaces[at].medium,
            op,
            lba,
            blocks,
            commits: false,
            refused: &[],
            told: ground.spaces[at].stage == Stage::Coming,
        },
        data: Vec::new(),
        capsule: None,
        len: 0,
        start: ground.model.tick(),
    }
}

pub fn read(ground: &mut Ground, at: usize, lba: u64, blocks: u64) -> Made {
    let space = &ground.spaces[at];
    let len = blocks as u32 * space.block_len;
    let sqe = host::read(space.nsid, lba, blocks as u32).with_sgl(Sgl::transport(len));
    let mut made = made(ground, at, sqe, Op::Read, lba, blocks);
    made.start = ground.model.begin_read();
    made.len = len;
    commits_sometimes(ground, &mut made);
    made
}

fn commits_sometimes(ground: &mut Ground, made: &mut Made) {
    made.io.commits = ground.rng.once_in(3);
    made.sqe.set_fua(made.io.commits);
}

fn write(ground: &mut Ground, at: usize, lba: u64, blocks: u64) -> Made {
    let space = ground.spaces[at].clone();
    let content = ground.model.new_content();
    let fua = ground.rng.once_in(5);
    let sqe = host::write(space.nsid, lba, blocks as u32, fua);
    let id = ground
        .model
        .begin(space.medium, lba, blocks, content, false);
    let mut made = made(ground, at, sqe, Op::Write { id, fua }, lba, blocks);
    made.data = vec![0; (blocks * u64::from(space.block_len)) as usize];
    content::fill_all(content, lba, space.block_len as usize, &mut made.data);
    send_somehow(ground, &mut made);
    made
}

fn compare(ground: &mut Ground, at: usize, lba: u64, blocks: u64) -> Made {
    let space = ground.spaces[at].clone();
    let mut contents: Vec<Content> = (lba..lba + blocks)
        .map(|lba| ground.model.guess(space.medium, lba))
        .collect();
    if ground.rng.once_in(2) {
        // Only one block differs; the last one is the easiest to forget.
        let other = match ground.rng.bool() {
            true => contents.len() - 1,
            false => ground.rng.usize(0..contents.len()),
        };
        contents[other] = ground.model.new_content();
    }
    let block_len = space.block_len as usize;
    let mut data = vec![0; blocks as usize * block_len];
    for ((block, content), lba) in data.chunks_exact_mut(block_len).zip(&contents).zip(lba..) {
        content::fill(*content, lba, block);
    }
    let sqe = host::compare(space.nsid, lba, blocks as u32);
    let mut made = made(ground, at, sqe, Op::Compare { contents }, lba, blocks);
    made.start = ground.model.begin_read();
    made.data = data;
    commits_sometimes(ground, &mut made);
    send_somehow(ground, &mut made);
    made
}

fn flush(ground: &mut Ground, at: usize) -> Made {
    let sqe = host::flush(ground.spaces[at].nsid);
    made(ground, at, sqe, Op::Flush, 0, 0)
}

fn verify(ground: &mut Ground, at: usize, lba: u64, blocks: u64) -> Made {
    let sqe = host::verify(ground.spaces[at].nsid, lba, blocks as u32);
    let mut made = made(ground, at, sqe, Op::Verify, lba, blocks);
    commits_sometimes(ground, &mut made);
    made
}

fn zeroes(ground: &mut Ground, at: usize, lba: u64, blocks: u64) -> Made {
    let space = ground.spaces[at].clone();
    let mut sqe = host::write_zeroes(space.nsid, lba, blocks as u32, ground.rng.bool());
    let fua = ground.rng.once_in(4);
    sqe.set_fua(fua);
    let id = ground.model.begin(space.medium, lba, blocks, 0, false);
    made(ground, at, sqe, Op::Zeroes { id, fua }, lba, blocks)
}

fn deallocate(ground: &mut Ground, at: usize) -> Made {
    let space = ground.spaces[at].clone();
    let count = ground.rng.skewed(1, 256) as usize;
    let ranges: Vec<(u64, u64)> = (0..count)
        .map(|_| {
            let (lba, blocks) = place(ground, at, 64 * 1024);
            // A range of no blocks is one, too.
            (lba, if ground.rng.once_in(20) { 0 } else { blocks })
        })
        .collect();
    let really = !ground.rng.once_in(6);
    let ids = match really {
        true => ranges
            .iter()
            .filter(|(_, blocks)| *blocks > 0)
            .map(|(lba, blocks)| ground.model.begin(space.medium, *lba, *blocks, 0, true))
            .collect(),
        false => Vec::new(),
    };
    let attributes = if really { Sqe::DSM_AD } else { 0 };
    let sqe = Sqe::dsm(space.nsid, count as u16, attributes);
    let mut made = made(ground, at, sqe, Op::Deallocate { ids: Ids(ids) }, 0, 0);
    made.data = ranges_data(&ranges);
    send_somehow(ground, &mut made);
    made
}

fn ranges_data(ranges: &[(u64, u64)]) -> Vec<u8> {
    let mut data = Vec::with_capacity(ranges.len() * 16);
    for (lba, blocks) in ranges {
        let mut range = DsmRange::zeroed();
        range.slba = (*lba).into();
        range.nlb = (*blocks as u32).into();
        data.extend_from_slice(bytemuck::bytes_of(&range));
    }
    data
}

/// In the capsule if it fits, sometimes; else to be fetched.
fn send_somehow(ground: &mut Ground, made: &mut Made) {
    let len = made.data.len() as u32;
    let sgl = if len <= limits::IN_CAPSULE && !ground.rng.once_in(3) {
        let gap = match ground.rng.once_in(4) {
            true => ground.rng.u32(0..=limits::IN_CAPSULE - len),
            false => 0,
        };
        made.capsule = Some(gap);
        Sgl::in_capsule(gap.into(), len)
    } else {
        Sgl::transport(len)
    };
    made.sqe = made.sqe.with_sgl(sgl);
}

/// A command that must be refused.
fn make_wrong(ground: &mut Ground, at: usize, plan: &PathPlan) -> Made {
    let space = ground.spaces[at].clone();
    let (lba, blocks) = place(ground, at, plan.len_max.min(64 * 1024));
    let len = blocks as u32 * space.block_len;
    let mut made = read(ground, at, lba, blocks);
    let far = [space.blocks, u64::MAX, u64::MAX - 3, 1 << 50];
    made.io.refused = match ground.rng.u32(0..12) {
        0 => {
            made.sqe.opc = *ground.rng.pick(&[0x04, 0x0D, 0x19, 0x70, 0xFF]);
            &[Status::INVALID_OPCODE]
        }
        1 => {
            let gone = ground
                .spaces
                .iter()
                .filter(|space| space.subsystem == plan.subsystem && space.stage == Stage::Gone);
            let mut nsids: Vec<u32> = gone.map(|space| space.nsid).collect();
            nsids.extend([0, 1000, u32::MAX]);
            let nsid = *ground.rng.pick(&nsids);
            made.sqe.nsid = nsid.into();
            made.io.space = None;
            &[Status::INVALID_NAMESPACE]
        }
        2 => {
            made.sqe.set_slba(*ground.rng.pick(&far));
            &[Status::LBA_OUT_OF_RANGE]
        }
        3 => {
            // Past the end by one block.
            made.sqe.set_slba(space.blocks - blocks + 1);
            &[Status::LBA_OUT_OF_RANGE]
        }
        4 => {
            made.sqe.opc = ground
                .rng
                .pick(&[NvmOpcode::VERIFY, NvmOpcode::WRITE_ZEROES])
                .0;
            made.sqe.set_slba(*ground.rng.pick(&far[1..]));
            if space.read_only {
                &[Status::LBA_OUT_OF_RANGE, Status::NAMESPACE_WRITE_PROTECTED]
            } else {
                &[Status::LBA_OUT_OF_RANGE]
            }
        }
        5 => {
            let wrong = if ground.rng.bool() {
                len + 512
            } else {
                len / 2
            };
            made.sqe = made.sqe.with_sgl(Sgl::transport(wrong));
            &[Status::DATA_SGL_LENGTH_INVALID]
        }
        6 => {
            let kinds = [Sgl::data_block(0, len), Sgl::in_capsule(0, len)];
            made.sqe = made.sqe.with_sgl(*ground.rng.pick(&kinds));
            &[Status::SGL_TYPE_INVALID, Status::DATA_SGL_LENGTH_INVALID]
        }
        7 => {
            made.sqe.set_psdt(Sqe::PSDT_PRP);
            &[Status::INVALID_FIELD]
        }
        8 => {
            made.sqe.flags |= Sqe::FUSE_FIRST;
            &[Status::INVALID_FIELD]
        }
        9 => {
            // More than MDTS: the drive must have that many blocks for this to be the reason.
            let count = (limits::TRANSFER_MAX / space.block_len) as u64 + 1;
            made.sqe.cdw12 = ((count - 1) as u32).into();
            made.sqe.set_slba(0);
            made.sqe = made
                .sqe
                .with_sgl(Sgl::transport(count as u32 * space.block_len));
            &[Status::INVALID_FIELD, Status::LBA_OUT_OF_RANGE]
        }
        10 if !space.read_only => {
            // Data that is not where the capsule says.
            made.sqe.opc = NvmOpcode::WRITE.0;
            let (offset, len) = if ground.rng.bool() {
                (1 << 20, len)
            } else {
                (8000, len)
            };
            made.sqe = made.sqe.with_sgl(Sgl::in_capsule(offset, len));
            made.capsule = Some(0);
            made.data = vec![0xEE; 16];
            made.len = 0;
            &[Status::SGL_OFFSET_INVALID, Status::DATA_SGL_LENGTH_INVALID]
        }
        11 if space.read_only => {
            made.sqe.opc = NvmOpcode::WRITE.0;
            made.len = 0;
            &[Status::NAMESPACE_WRITE_PROTECTED]
        }
        _ if !space.read_only => {
            // Its second range is out of bounds.
            let data = ranges_data(&[(0, 0), (space.blocks.max(1 << 40), 2)]);
            made.sqe = Sqe::dsm(space.nsid, 2, Sqe::DSM_AD);
            made.data = data;
            made.len = 0;
            send_somehow(ground, &mut made);
            &[Status::LBA_OUT_OF_RANGE]
        }
        _ => {
            made.sqe.opc = 0x7E;
            &[Status::INVALID_OPCODE]
        }
    };
    made
}

/// What a host learns from an answer. `got` is the data that came.
pub fn check(ground: &mut Ground, io: &Io, start: u64, got: &[u8], status: Status) {
    let unsure = io
        .space
        .is_none_or(|space| ground.spaces[space].unsure(start));
    let made_wrong = !io.refused.is_empty();
    if status.is_success() {
        if made_wrong && !(unsure && io.space.is_some()) {
            wrong!(
                "a command that is wrong succeeded; expected {:?}: {io:?}",
                io.refused
            );
        }
        if !made_wrong {
            succeeded(ground, io, start, got);
        }
    } else {
        ground.stats.errors += 1;
        if made_wrong {
            ground.stats.refusals += 1;
            // With what is wrong put right meanwhile, it may fail like any other, with some of its data sent.
            if !got.is_empty() && !unsure {
                wrong!(
                    "{} bytes came for a command that was refused: {io:?}",
                    got.len()
                );
            }
            let expected = io.refused.contains(&status.code())
                || (unsure && (came_of_change(status) || drive_failed(&ground.plan, status)))
                || [
                    Status::TRANSIENT_TRANSPORT_ERROR,
                    Status::NAMESPACE_NOT_READY,
                    Status::ABORT_REQUESTED,
                ]
                .contains(&status.code());
            if !expected {
                wrong!("refused with {status}, expected {:?}: {io:?}", io.refused);
            }
        } else {
            failed(ground, io, start, status, unsure);
        }
    }
    over(ground, io, start);
}

/// No answer comes any more: the command's host or queue is gone. What it wrote is told by
/// [`writes`].
pub fn lost(ground: &mut Ground, io: &Io, start: u64) {
    over(ground, io, start);
}

fn over(ground: &mut Ground, io: &Io, start: u64) {
    if matches!(io.op, Op::Read | Op::Compare { .. }) {
        ground.model.end_read(start);
    }
}

/// The writes a command is, for the model.
pub fn writes(io: &Io) -> Vec<u64> {
    match &io.op {
        Op::Write { id, .. } | Op::Zeroes { id, .. } => vec![*id],
        Op::Deallocate { ids } => ids.0.clone(),
        Op::Read | Op::Compare { .. } | Op::Flush | Op::Verify => Vec::new(),
    }
}

fn came_of_change(status: Status) -> bool {
    [Status::INVALID_NAMESPACE, Status::LBA_OUT_OF_RANGE].contains(&status.code())
}

fn drive_failed(plan: &Plan, status: Status) -> bool {
    let codes = [
        Status::UNRECOVERED_ERROR,
        Status::INTERNAL_ERROR,
        Status::DATA_TRANSFER_ERROR,
    ];
    codes.contains(&status.code()) && plan.spaces.iter().any(|(_, space)| space.manners.fail > 0)
}

fn succeeded(ground: &mut Ground, io: &Io, start: u64, got: &[u8]) {
    let space = ground.spaces[io.space.expect("it names one")].clone();
    let medium = io.medium;
    match &io.op {
        Op::Read => {
            for (block, lba) in got.chunks_exact(space.block_len as usize).zip(io.lba..) {
                ground.stats.blocks_checked += 1;
                match content::look(lba, block) {
                    Found::Broken(at) => wrong!(
                        "namespace {} block {lba} is torn or foreign from byte {at} on: {io:?}; {}",
                        space.nsid,
                        ground.model.describe(medium, lba, start)
                    ),
                    Found::Whole(found) => {
                        if !ground.model.may_find(medium, lba, found, start) {
                            wrong!(
                                "namespace {} block {lba} holds {found}, read from {start} on; possible {}",
                                space.nsid,
                                ground.model.describe(medium, lba, start)
                            );
                        }
                        ground.model.observed(medium, lba, found, start);
                    }
                }
            }
        }
        Op::Write { id, fua } | Op::Zeroes { id, fua } => {
            ground.model.end(*id, Ended::Done { durable: *fua });
        }
        Op::Deallocate { ids } => {
            for id in &ids.0 {
                ground.model.end(*id, Ended::Done { durable: false });
            }
        }
        Op::Compare { contents } => {
            for (content, lba) in contents.iter().zip(io.lba..) {
                ground.stats.blocks_checked += 1;
                if !ground.model.may_find(medium, lba, *content, start) {
                    wrong!(
                        "a compare of namespace {} block {lba} with {content} succeeded; possible {}",
                        space.nsid,
                        ground.model.describe(medium, lba, start)
                    );
                }
            }
        }
        Op::Flush => ground.model.flushed(medium, 0..u64::MAX, start),
        Op::Verify => (),
    }
    if io.commits {
        let blocks = io.lba..io.lba + io.blocks;
        ground.model.flushed(medium, blocks, start);
    }
}

fn failed(ground: &mut Ground, io: &Io, start: u64, status: Status, unsure: bool) {
    let plan = ground.plan.clone();
    let code = status.code();
    let leaves = io
        .space
        .is_some_and(|at| matches!(ground.spaces[at].stage, Stage::Going | Stage::Gone));
    let fine = match code {
        _ if drive_failed(&plan, status) => true,
        // These hosts do not know Command Interrupted.
        Status::NAMESPACE_NOT_READY => plan.operator > 0,
        // Hosts abort this and that.
        Status::ABORT_REQUESTED => true,
        Status::TRANSIENT_TRANSPORT_ERROR => plan.weather.spoil > 0,
        // Unless it went again, before this was even read.
        Status::INVALID_NAMESPACE if io.told && !leaves => false,
        Status::INVALID_NAMESPACE | Status::LBA_OUT_OF_RANGE => unsure,
        Status::COMPARE_FAILURE => {
            let Op::Compare { contents } = &io.op else {
                wrong!("{status} for {io:?}");
            };
            let mut all = contents.iter().zip(io.lba..);
            if all.all(|(content, lba)| ground.model.must_find(io.medium, lba, *content, start)) {
                wrong!("a compare failed though everything is equal: {io:?}");
            }
            true
        }
        _ => false,
    };
    if !fine {
        wrong!("{status} for {io:?}");
    }
    for write in writes(io) {
        ground.model.end(write, Ended::Perhaps);
    }
}
