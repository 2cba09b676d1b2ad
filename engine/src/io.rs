//! The data path: NVM commands from capsule to drive and back, part by part (NVM Command Set 3).
//!
//! A command's data is cut into parts of at most [`limits::CHUNK_LEN`], each one request to the
//! drive. A part's place is its [`Chunk`]; every change of it happens here. Reads go Executing,
//! Ordered; writes Fetching, Landed, Executing; compares Fetching, Landed, Comparing. What cannot go
//! on for want of memory or of room at a drive is Blocked and waits in line.

use std::mem::offset_of;
use std::ops::Range;

use ferroce_buf::BufList;
use ferroce_wire::feature::DsmRange;
use ferroce_wire::opcode::NvmOpcode;
use ferroce_wire::sqe::{Sgl, Sqe};
use ferroce_wire::status::Status;

use crate::command::{Chunk, Command, Kind};
use crate::drives::Drives;
use crate::limits;
use crate::line::{Lane, Served};
use crate::memory::{deal, lend, list_for, take_back};
use crate::phases::{Clerk, NO_SERIES, Phases};
use crate::plant::{self, Bug};
use crate::port::{Backend, Done, DriveId, Fabric, Fetch, InCapsule, Io, Op, Tag, Tick};
use crate::queue::Queue;
use crate::queues::Queues;
use crate::refusal::Refusal;
use crate::table::Transport;

/// Where a command's data from the host is.
pub(crate) enum Source {
    /// In its capsule, there.
    Capsule(Range<usize>),
    /// Still at the host.
    Host,
}

/// Checks a command's SGL against the length it must have, and finds the data. `capsule` is the
/// length of the capsule's data.
pub(crate) fn source(
    sqe: &Sqe,
    transport: Transport,
    len: u32,
    capsule: usize,
) -> Result<Source, Refusal> {
    let sgl = check_sgl(sqe, transport, len)?;
    if sgl.kind != Sgl::IN_CAPSULE {
        return Ok(Source::Host);
    }
    let start = usize::try_from(sgl.addr.get()).unwrap_or(usize::MAX);
    if start > capsule {
        return Err(Refusal::sgl(Status::SGL_OFFSET_INVALID));
    }
    if capsule - start < len as usize {
        return Err(Refusal::sgl(Status::DATA_SGL_LENGTH_INVALID));
    }
    Ok(Source::Capsule(start..start + len as usize))
}

/// A command with data names it by an SGL of exactly that length.
#[inline(always)]
fn check_sgl(sqe: &Sqe, transport: Transport, len: u32) -> Result<Sgl, Refusal> {
    if sqe.psdt() != Sqe::PSDT_SGL {
        return Err(Refusal::field(offset_of!(Sqe, flags)));
    }
    let sgl = sqe.dptr;
    match transport.data_len(&sgl) {
        Some(has) if has == len => Ok(sgl),
        Some(_) => Err(Refusal::sgl(Status::DATA_SGL_LENGTH_INVALID)),
        None => Err(Refusal::sgl(Status::SGL_TYPE_INVALID)),
    }
}

/// Checks opcode, namespace and range, and fills in what the command will do.
#[inline(always)]
fn check_io(
    opcode: NvmOpcode,
    command: &mut Command,
    queue: &Queue,
    clerk: &mut Clerk,
    phases: &Phases,
    now: Tick,
    transfer_max: u32,
) -> Result<(), Refusal> {
    let sqe = &command.sqe;
    if sqe.fuse() != Sqe::FUSE_NORMAL {
        return Err(Refusal::field(offset_of!(Sqe, flags)));
    }
    let subsystem = &queue.subsystem;
    let namespaces = &subsystem.as_ref().ok_or(Refusal::opcode())?.namespaces;
    let kind = match opcode {
        NvmOpcode::READ => Kind::Read,
        NvmOpcode::WRITE => Kind::Write { fua: sqe.fua() },
        NvmOpcode::COMPARE => Kind::Compare,
        NvmOpcode::FLUSH => Kind::Flush,
        NvmOpcode::VERIFY => Kind::Verify,
        NvmOpcode::WRITE_ZEROES => Kind::WriteZeroes {
            fua: sqe.fua(),
            deallocate: sqe.deac(),
        },
        // NR is zero-based, in the low byte (NVM 3.3.2).
        NvmOpcode::DSM => Kind::Deallocate {
            range: 0,
            ranges: u16::from(sqe.dsm_nr_z()) + 1,
        },
        _ => return Err(Refusal::opcode()),
    };
    let namespace = namespaces
        .get(&sqe.nsid.get())
        .ok_or(Refusal::namespace())?;
    if let Some(who) = &queue.who {
        command.series = clerk.begin(phases, command.queue, who, sqe.nsid.get(), now);
    }
    let writes = matches!(
        kind,
        Kind::Write { .. } | Kind::WriteZeroes { .. } | Kind::Deallocate { .. }
    );
    if writes && namespace.read_only {
        return Err(Refusal::at(
            Status::NAMESPACE_WRITE_PROTECTED,
            offset_of!(Sqe, opc),
        ));
    }
    let shift = namespace.info.block_len.trailing_zeros() as u8;
    command.kind = kind;
    command.drive = namespace.drive;
    command.block_shift = shift;
    command.capacity = namespace.info.blocks;
    command.part_max = namespace.info.max_transfer.min(limits::CHUNK_LEN);
    if matches!(kind, Kind::Flush) {
        command.len = 1;
        return Ok(());
    }
    if matches!(kind, Kind::Deallocate { .. }) {
        command.part_max = namespace.info.max_deallocate;
        return Ok(());
    }
    let (lba, blocks) = (sqe.slba(), sqe.blocks());
    if lba
        .checked_add(u64::from(blocks))
        .is_none_or(|end| end > namespace.info.blocks)
    {
        let out = Refusal::at(Status::LBA_OUT_OF_RANGE, offset_of!(Sqe, cdw10));
        return Err(Refusal { lba, ..out });
    }
    command.lba = lba;
    command.blocks = blocks;
    if matches!(kind, Kind::Verify | Kind::WriteZeroes { .. }) {
        // There is nothing to strip from what is only verified (NVM 3.3.5, PRINFO).
        if kind == Kind::Verify && sqe.prinfo() & Sqe::PRINFO_PRACT != 0 {
            return Err(Refusal::field(offset_of!(Sqe, cdw12) + 3));
        }
        command.len = blocks;
    } else {
        let len = u64::from(blocks) << shift;
        if len > u64::from(transfer_max) {
            return Err(Refusal::field(offset_of!(Sqe, cdw12)));
        }
        command.len = len as u32;
    }
    Ok(())
}

/// Where the data of a command is that was checked.
#[inline(always)]
fn data_of(
    opcode: NvmOpcode,
    command: &Command,
    transport: Transport,
    capsule: usize,
) -> Result<Source, Refusal> {
    let (sqe, len) = (&command.sqe, command.len);
    match opcode {
        NvmOpcode::WRITE | NvmOpcode::COMPARE => source(sqe, transport, len, capsule),
        NvmOpcode::DSM => source(sqe, transport, ranges_len(sqe, transport), capsule),
        NvmOpcode::READ => match check_sgl(sqe, transport, len)?.kind {
            Sgl::IN_CAPSULE => Err(Refusal::sgl(Status::SGL_TYPE_INVALID)),
            _ => Ok(Source::Host),
        },
        _ => Ok(Source::Host),
    }
}

impl Queues {
    /// An I/O command of that queue came in.
    #[inline(always)]
    pub(crate) fn begin_io<D: Backend>(
        &mut self,
        opcode: NvmOpcode,
        at: u32,
        slot: u32,
        capsule: InCapsule<'_>,
        drives: &mut Drives<D>,
    ) {
        if opcode == NvmOpcode::READ {
            // For itself: of what is looked at here a read needs little.
            self.begin_as(opcode, at, slot, capsule, drives);
        } else {
            self.begin_other(opcode, at, slot, capsule, drives);
        }
    }

    #[inline(never)]
    fn begin_other<D: Backend>(
        &mut self,
        opcode: NvmOpcode,
        at: u32,
        slot: u32,
        capsule: InCapsule<'_>,
        drives: &mut Drives<D>,
    ) {
        self.begin_as(opcode, at, slot, capsule, drives);
    }

    #[inline(always)]
    fn begin_as<D: Backend>(
        &mut self,
        opcode: NvmOpcode,
        at: u32,
        slot: u32,
        capsule: InCapsule<'_>,
        drives: &mut Drives<D>,
    ) {
        let command = &mut self.slab[slot];
        // It is counted as begun under the present table.
        command.parity = (self.table.epoch % 2) as u8;
        self.in_flight[usize::from(command.parity)] += 1;
        let queue = &self.queues[at as usize];
        let (phases, now) = (&self.config.counters.phases, self.now);
        let (clerk, most) = (&mut self.clerk, self.transfer_max);
        let checked = match check_io(opcode, command, queue, clerk, phases, now, most) {
            Ok(()) => data_of(opcode, command, queue.transport, capsule.bytes().len()),
            Err(refusal) => Err(refusal),
        };
        match checked {
            Ok(Source::Host) => {}
            Ok(Source::Capsule(place)) => self.land(slot, capsule, place, drives),
            Err(refusal) => {
                if command.series == NO_SERIES {
                    command.series = self.clerk.begin_elsewhere(phases);
                }
                self.refuse(slot, refusal);
                return;
            }
        }
        let commits = reads(opcode) && self.slab[slot].sqe.fua();
        if commits && !plant::on(Bug::FuaReadDropped) {
            self.commit_first(slot, drives);
            return;
        }
        if opcode == NvmOpcode::READ && self.line.is_empty() {
            let (len, part_max) = (self.slab[slot].len, self.slab[slot].part_max);
            if len <= part_max && self.start_read(slot, drives) == Served::Took(len) {
                return;
            }
        }
        self.go_on(slot, drives);
    }

    /// FUA of a command that reads: what it reads is on media before it is answered (NVM 3.3.1, 3.3.4, 3.3.5).
    #[cold]
    fn commit_first<D: Backend>(&mut self, slot: u32, drives: &mut Drives<D>) {
        self.slab[slot].kind = Kind::Commit;
        self.go_on(slot, drives);
    }

    /// Does for a command what can be done now, about `budget` bytes of it at most; in the lane of
    /// those whose data is here, nothing that needs more memory.
    pub(crate) fn advance<D: Backend>(
        &mut self,
        slot: u32,
        lane: Lane,
        budget: u32,
        drives: &mut Drives<D>,
    ) -> Served {
        let mut took = 0;
        loop {
            let command = &self.slab[slot];
            if command.answer.is_some() {
                return Served::Leaves;
            }
            if command.error.is_some() || command.ticket.is_none() {
                self.drop_parts(slot, drives);
                self.end_in_error(slot);
                return Served::Leaves;
            }
            if lane == Lane::Landed && !command.goes_first() {
                return Served::Leaves;
            }
            if took >= budget {
                return Served::Took(took);
            }
            let (kind, large) = (command.kind, command.len > command.part_max);
            let step = match kind {
                Kind::Read if large && !self.takes_large(slot) => Served::Leaves,
                Kind::Read => self.start_read(slot, drives),
                Kind::Write { .. } | Kind::Compare => self.start_write(slot, drives),
                Kind::Flush | Kind::Verify | Kind::WriteZeroes { .. } => {
                    self.start_slice(slot, drives)
                }
                Kind::Commit => self.start_commit(slot, drives),
                Kind::Deallocate { .. } => self.start_range(slot, drives),
                Kind::Admin => self.start_admin(slot),
            };
            match step {
                Served::Took(bytes) => {
                    took += bytes.max(1);
                    // The next step of a read would only find that there is nothing to begin.
                    let command = &self.slab[slot];
                    let all = command.kind == Kind::Read && command.started == command.len;
                    if all && took < budget {
                        return Served::Leaves;
                    }
                }
                Served::Blocked if took > 0 => return Served::Took(took),
                other => return other,
            }
        }
    }

    /// Gives the drive the next part of a read.
    #[inline(always)]
    fn start_read<D: Backend>(&mut self, slot: u32, drives: &mut Drives<D>) -> Served {
        let command = &mut self.slab[slot];
        let (offset, queue) = (command.started, command.queue);
        let len = (command.len - offset).min(command.part_max);
        if len == 0 {
            return Served::Leaves;
        }
        let Some(drive) = drives.slot(command.drive) else {
            return Served::Blocked;
        };
        let Some(part) = command.push_part(offset, len) else {
            return Served::Leaves;
        };
        let (span, tag) = (command.span(offset, len), command.tag(slot, part));
        let (bufs, lent) = match lend(&mut self.shares, queue, span, drive) {
            Some(lent) => (list_for(&mut self.lists, len, span.shift), lent),
            None => match self.shares.take(queue, &mut self.config.pool, len as usize) {
                Some(buf) => (BufList::one(buf), 0),
                None => {
                    command.count -= 1;
                    return Served::Blocked;
                }
            },
        };
        let op = Op::Read {
            lba: span.lba,
            blocks: len >> span.shift,
        };
        match drive.submit(Io { tag, op, bufs }) {
            Ok(()) => {
                self.clerk.submitted(slot, command, self.now);
                let part = &mut command.parts[part];
                part.lent = lent;
                part.fill(Chunk::Executing);
                command.started += len;
                Served::Took(len)
            }
            Err(io) => {
                command.count -= 1;
                self.home(io.bufs, drives);
                take_back(&mut self.shares, queue, span.drive, lent, drives);
                Served::Blocked
            }
        }
    }

    /// Gives the drive a request of a command's part; the command, or the Bufs back if the drive has no room.
    #[inline(always)]
    fn submit<D: Backend>(
        &mut self,
        slot: u32,
        tag: Tag,
        id: DriveId,
        op: Op,
        bufs: BufList,
        drives: &mut Drives<D>,
    ) -> Result<&mut Command, BufList> {
        drives
            .submit(id, Io { tag, op, bufs })
            .map_err(|io| io.bufs)?;
        let command = &mut self.slab[slot];
        self.clerk.submitted(slot, command, self.now);
        Ok(command)
    }

    /// Data that landed goes to the drive first; then more is fetched.
    // Apart from `advance`, whose frame is then that of a read.
    #[inline(never)]
    fn start_write<D: Backend>(&mut self, slot: u32, drives: &mut Drives<D>) -> Served {
        let command = &mut self.slab[slot];
        let landed = command
            .parts
            .iter()
            .position(|part| matches!(part.chunk, Chunk::Landed { .. }));
        if let Some(part) = landed {
            let Chunk::Landed { bufs } = std::mem::take(&mut command.parts[part].chunk) else {
                unreachable!("it was just found landed");
            };
            return match command.kind {
                Kind::Compare => self.compare_landed(slot, part, bufs, drives),
                _ => self.write_landed(slot, part, bufs, drives),
            };
        }
        let offset = command.started;
        let len = (command.len - offset).min(command.part_max);
        if len == 0 {
            return Served::Leaves;
        }
        let (queue, compare) = (command.queue, command.kind == Kind::Compare);
        let span = command.span(offset, len);
        command.pop_free_parts();
        let Some(part) = command.push_part(offset, len) else {
            return Served::Leaves;
        };
        let bufs = if compare {
            self.both_sides(queue, span, drives)
        } else {
            let bufs = self.write_bufs(queue, span, drives);
            bufs.map(|bufs| (bufs, BufList::new()))
        };
        let tag = self.slab[slot].tag(slot, part);
        let command = &mut self.slab[slot];
        let Some((bufs, spare)) = bufs else {
            command.count -= 1;
            return Served::Blocked;
        };
        command.parts[part].chunk = Chunk::Fetching;
        command.parts[part].spare = spare;
        command.started += len;
        let (cid, sgl) = (command.sqe.cid.get(), command.sqe.dptr);
        self.fetch_later(
            slot,
            Fetch {
                tag,
                cid,
                sgl,
                offset,
                bufs,
            },
        );
        Served::Took(len)
    }

    fn write_landed<D: Backend>(
        &mut self,
        slot: u32,
        part: usize,
        mut bufs: BufList,
        drives: &mut Drives<D>,
    ) -> Served {
        let command = &self.slab[slot];
        let Kind::Write { fua } = command.kind else {
            unreachable!("a write has landed")
        };
        let at = &command.parts[part];
        let len = at.len;
        let span = command.span(at.offset, len);
        let strange = bufs.iter().any(|buf| buf.home() != span.drive.home());
        if strange && drives.brings_memory(span.drive) {
            match self.move_in(span, bufs, drives) {
                Ok(own) => bufs = own,
                Err(bufs) => {
                    self.slab[slot].parts[part].chunk = Chunk::Landed { bufs };
                    return Served::Blocked;
                }
            }
        }
        let op = Op::Write {
            lba: span.lba,
            blocks: len >> span.shift,
            fua: fua && !plant::on(Bug::FuaDropped),
        };
        let tag = self.slab[slot].tag(slot, part);
        match self.submit(slot, tag, span.drive, op, bufs, drives) {
            Ok(command) => {
                command.parts[part].chunk = Chunk::Executing;
                Served::Took(len)
            }
            Err(bufs) => {
                self.slab[slot].parts[part].chunk = Chunk::Landed { bufs };
                Served::Blocked
            }
        }
    }

    fn compare_landed<D: Backend>(
        &mut self,
        slot: u32,
        part: usize,
        bufs: BufList,
        drives: &mut Drives<D>,
    ) -> Served {
        let command = &self.slab[slot];
        let at = &command.parts[part];
        let len = at.len;
        let span = command.span(at.offset, len);
        let op = Op::Read {
            lba: span.lba,
            blocks: len >> span.shift,
        };
        let command = &mut self.slab[slot];
        let tag = command.tag(slot, part);
        let into = std::mem::take(&mut command.parts[part].spare);
        match self.submit(slot, tag, span.drive, op, into, drives) {
            Ok(command) => {
                command.parts[part].chunk = Chunk::Comparing { bufs };
                Served::Took(len)
            }
            Err(into) => {
                let part = &mut self.slab[slot].parts[part];
                (part.chunk, part.spare) = (Chunk::Landed { bufs }, into);
                Served::Blocked
            }
        }
    }

    /// Commands without data go to the drive slice by slice, one at a time, so that others get
    /// their turns between.
    fn start_slice<D: Backend>(&mut self, slot: u32, drives: &mut Drives<D>) -> Served {
        let command = &mut self.slab[slot];
        let left = command.len - command.started;
        if left == 0 || command.at_drive() {
            return Served::Leaves;
        }
        if plant::on(Bug::FlushEarly) && command.kind == Kind::Flush {
            self.complete(slot, Status::SUCCESS, 0);
            return Served::Leaves;
        }
        let most = match command.kind {
            Kind::Deallocate { .. } => command.part_max,
            _ => limits::SLICE_LEN,
        };
        let blocks = left.min(most >> command.block_shift);
        let lba = command.lba + u64::from(command.started);
        let op = match command.kind {
            Kind::Flush => Op::Flush,
            Kind::Verify => Op::Verify { lba, blocks },
            Kind::WriteZeroes { fua, deallocate } => Op::WriteZeroes {
                lba,
                blocks,
                fua,
                deallocate,
            },
            Kind::Deallocate { .. } => Op::Deallocate { lba, blocks },
            _ => unreachable!("only commands without data have slices"),
        };
        command.pop_free_parts();
        let Some(part) = command.push_part(command.started, blocks) else {
            return Served::Leaves;
        };
        let (id, tag) = (command.drive, command.tag(slot, part));
        let Ok(command) = self.submit(slot, tag, id, op, BufList::new(), drives) else {
            self.slab[slot].count -= 1;
            return Served::Blocked;
        };
        command.parts[part].chunk = Chunk::Executing;
        command.started += blocks;
        Served::Took(blocks << command.block_shift)
    }

    /// A Flush before what a command reads. Its part has no length: nothing of the command is done with it.
    #[cold]
    fn start_commit<D: Backend>(&mut self, slot: u32, drives: &mut Drives<D>) -> Served {
        let command = &mut self.slab[slot];
        if command.at_drive() {
            return Served::Leaves;
        }
        let part = command.push_part(0, 0).expect("it is the first or second");
        let (id, tag) = (command.drive, command.tag(slot, part));
        match self.submit(slot, tag, id, Op::Flush, BufList::new(), drives) {
            Ok(command) => {
                command.parts[part].chunk = Chunk::Executing;
                Served::Leaves
            }
            Err(_) => {
                self.slab[slot].count -= 1;
                Served::Blocked
            }
        }
    }

    /// Dataset Management: the list of ranges is fetched, stays landed in the first part, and its
    /// ranges are worked off one after the other.
    #[inline(never)]
    fn start_range<D: Backend>(&mut self, slot: u32, drives: &mut Drives<D>) -> Served {
        let command = &self.slab[slot];
        let Kind::Deallocate { range, ranges } = command.kind else {
            unreachable!("only Dataset Management has ranges");
        };
        let head = command.first_part();
        match head.map(|part| &command.parts[part].chunk) {
            Some(Chunk::Landed { bufs }) if command.settled == command.len => {
                // The first time, or the range before this one is done.
                if command.sqe.cdw11.get() & DSM_ATTRIBUTE_DEALLOCATE == 0 || range == ranges {
                    self.drop_parts(slot, drives);
                    self.complete(slot, Status::SUCCESS, 0);
                    return Served::Leaves;
                }
                let at = |index: u16| -> DsmRange {
                    let mut raw = [0; size_of::<DsmRange>()];
                    bufs.copy_out(usize::from(index) * raw.len(), &mut raw);
                    bytemuck::cast(raw)
                };
                // All of them before the first: a command that fails has changed nothing.
                let beyond = |range: &DsmRange| {
                    let end = range.slba.get().checked_add(range.nlb.get().into());
                    end.is_none_or(|end| end > command.capacity)
                };
                let wrong = match range {
                    0 => (0..ranges).map(at).find(beyond),
                    _ => None,
                };
                let next = at(range);
                match wrong {
                    Some(wrong) => self.refuse_range(slot, &wrong),
                    None => self.begin_range(slot, &next, range, ranges),
                }
                Served::Took(4096)
            }
            Some(Chunk::Landed { .. }) => self.start_slice(slot, drives),
            Some(_) => Served::Leaves,
            None => {
                let transport = self.queues[command.queue as usize].transport;
                let len = ranges_len(&command.sqe, transport);
                self.fetch_structure(slot, len)
            }
        }
    }

    fn begin_range(&mut self, slot: u32, range: &DsmRange, index: u16, ranges: u16) {
        let command = &mut self.slab[slot];
        // The error log names the range that fails.
        command.lba = range.slba.get();
        command.kind = Kind::Deallocate {
            range: index + 1,
            ranges,
        };
        (command.len, command.started, command.settled) = (range.nlb.get(), 0, 0);
    }

    #[cold]
    fn refuse_range(&mut self, slot: u32, range: &DsmRange) {
        let command = &mut self.slab[slot];
        command.lba = range.slba.get();
        command.error = Some(Status::LBA_OUT_OF_RANGE.dnr());
    }

    /// Fetches a small structure whole.
    fn fetch_structure(&mut self, slot: u32, len: u32) -> Served {
        let queue = self.slab[slot].queue;
        let Some(bufs) = self.pool_buf(queue, len) else {
            return Served::Blocked;
        };
        let command = &mut self.slab[slot];
        let part = command.push_part(0, len).expect("it is the first");
        command.parts[part].chunk = Chunk::Fetching;
        let (cid, sgl) = (command.sqe.cid.get(), command.sqe.dptr);
        let tag = self.slab[slot].tag(slot, part);
        self.fetch_later(
            slot,
            Fetch {
                tag,
                cid,
                sgl,
                offset: 0,
                bufs,
            },
        );
        Served::Leaves
    }

    /// An admin command wants data, or has some for the host.
    #[inline(never)]
    fn start_admin(&mut self, slot: u32) -> Served {
        let command = &mut self.slab[slot];
        if command.staged.is_empty() {
            return match command.count {
                0 if command.len > 0 => {
                    let len = command.len;
                    self.fetch_structure(slot, len)
                }
                _ => Served::Leaves,
            };
        }
        let offset = command.started;
        let len = (command.len - offset).min(command.part_max);
        if len == 0 {
            return Served::Leaves;
        }
        command.pop_free_parts();
        let Some(part) = command.push_part(offset, len) else {
            return Served::Leaves;
        };
        let queue = command.queue;
        let Some(mut bufs) = self.pool_buf(queue, len) else {
            self.slab[slot].count -= 1;
            return Served::Blocked;
        };
        let command = &mut self.slab[slot];
        // Behind the end of what is staged the host gets zeros, which nobody keeps for it.
        let staged = &command.staged;
        let till = |at: u32| (at as usize).min(staged.len());
        let data = &staged[till(offset)..till(offset + len)];
        bufs.copy_in(0, data);
        for at in (data.len()..len as usize).step_by(ZEROS.len()) {
            let count = ZEROS.len().min(len as usize - at);
            bufs.copy_in(at, &ZEROS[..count]);
        }
        command.parts[part].chunk = Chunk::Ordered { bufs };
        command.started += len;
        self.send_later(slot);
        Served::Took(len)
    }

    /// Data from the host is there.
    pub(crate) fn on_fetched<D: Backend>(
        &mut self,
        tag: Tag,
        mut bufs: BufList,
        status: Status,
        drives: &mut Drives<D>,
    ) {
        let found = self.slab.find(tag).filter(|(_, command, part)| {
            let chunk = &command.parts[*part].chunk;
            matches!(chunk, Chunk::Fetching)
        });
        let Some((slot, command, part)) = found else {
            self.home(bufs, drives);
            return;
        };
        if !status.is_success() || command.error.is_some() {
            command.error.get_or_insert(status);
            command.parts[part].chunk = Chunk::Free;
            self.home(bufs, drives);
            // Other parts may have landed, and wait for the drive.
            self.drop_parts(slot, drives);
            self.end_in_error(slot);
            return;
        }
        if command.kind != Kind::Admin {
            let drive = command.drive;
            self.landed(slot, drive, &mut bufs, drives);
            self.slab[slot].parts[part].chunk = Chunk::Landed { bufs };
            self.go_on(slot, drives);
            return;
        }
        command.parts[part].chunk = Chunk::Free;
        command.pop_free_parts();
        let mut data = vec![0; command.len as usize];
        command.len = 0;
        bufs.copy_out(0, &mut data);
        self.home(bufs, drives);
        let answer = self.with_host_data(slot, &data);
        self.answer(slot, answer, drives);
    }

    /// A drive is done with something.
    #[inline(always)]
    pub(crate) fn on_done<F: Fabric, D: Backend>(
        &mut self,
        drive: DriveId,
        done: Done,
        fabrics: &mut [F],
        drives: &mut Drives<D>,
    ) {
        let Done {
            tag,
            mut status,
            mut bufs,
        } = done;
        let Some((slot, command, part)) = self.slab.find(tag) else {
            self.on_stray(drive, bufs, drives);
            return;
        };
        command.stamps.done = self.stage;
        let place = &mut command.parts[part];
        match place.chunk {
            Chunk::Executing => place.chunk = Chunk::Free,
            Chunk::Comparing { .. } => {
                return self.on_compared(slot, part, status, bufs, fabrics, drives);
            }
            _ => return self.on_stray(drive, bufs, drives),
        }
        let (len, lent) = (place.len, std::mem::take(&mut place.lent));
        let reads = command.kind == Kind::Read;
        if lent > 0 {
            let queue = command.queue;
            deal(&mut self.shares, queue, drive, &mut bufs, lent, drives);
        } else if reads && drives.brings_memory(drive) {
            self.config.counters.copied_bytes.add(u64::from(len));
        }
        if plant::on(Bug::ErrorSwallowed) {
            status = Status::SUCCESS;
        }
        let goes_well = status.is_success() && command.ticket.is_some() && command.error.is_none();
        if !reads || !goes_well {
            self.on_executed(slot, part, status, bufs, fabrics, drives);
            return;
        }
        let bufs = if len == command.len {
            match self.reply_at_once(slot, bufs, fabrics) {
                Ok(()) => return,
                Err(bufs) => bufs,
            }
        } else {
            bufs
        };
        let command = &mut self.slab[slot];
        command.parts[part].fill(Chunk::Ordered { bufs });
        // Only the first in order can leave; the others follow it.
        if command.head as usize == part {
            self.send_later(slot);
        }
    }

    #[cold]
    fn on_stray<D: Backend>(&mut self, drive: DriveId, bufs: BufList, drives: &mut Drives<D>) {
        log::error!("drive {} completed something it was not asked for", drive.0);
        self.home(bufs, drives);
    }

    /// What is to be compared was read.
    #[inline(never)]
    fn on_compared<F: Fabric, D: Backend>(
        &mut self,
        slot: u32,
        part: usize,
        mut status: Status,
        bufs: BufList,
        fabrics: &mut [F],
        drives: &mut Drives<D>,
    ) {
        let command = &mut self.slab[slot];
        let place = &mut command.parts[part];
        let Chunk::Comparing { bufs: theirs } = std::mem::take(&mut place.chunk) else {
            unreachable!("it was looked at");
        };
        if plant::on(Bug::ErrorSwallowed) {
            status = Status::SUCCESS;
        }
        let last = place.offset + place.len == command.len;
        let skipped = last && plant::on(Bug::CompareShort);
        if status.is_success() && !skipped && !equal(&theirs, &bufs) {
            status = Status::COMPARE_FAILURE.dnr();
        }
        self.home(theirs, drives);
        self.on_executed(slot, part, status, bufs, fabrics, drives);
    }

    /// A part is done that has no data for the host.
    #[inline(never)]
    fn on_executed<F: Fabric, D: Backend>(
        &mut self,
        slot: u32,
        part: usize,
        status: Status,
        bufs: BufList,
        fabrics: &mut [F],
        drives: &mut Drives<D>,
    ) {
        self.home(bufs, drives);
        let command = &mut self.slab[slot];
        if !status.is_success() {
            command.error.get_or_insert(status);
        }
        if command.error.is_some() || command.ticket.is_none() {
            self.drop_parts(slot, drives);
            self.end_in_error(slot);
            return;
        }
        command.settled += command.parts[part].len;
        command.pop_free_parts();
        if command.kind == Kind::Commit {
            command.kind = reading(command.sqe.nvm_opcode());
            return self.go_on(slot, drives);
        }
        let over = command.settled == command.len;
        if !over || matches!(command.kind, Kind::Deallocate { .. }) {
            self.go_on(slot, drives);
        } else if self.reply_at_once(slot, BufList::new(), fabrics).is_err() {
            self.complete(slot, Status::SUCCESS, 0);
        }
    }

    /// Something went wrong, or nobody is left to answer: when nothing of the command is anywhere any
    /// more, it ends.
    pub(crate) fn end_in_error(&mut self, slot: u32) {
        let command = &self.slab[slot];
        if command.at_drive() || command.at_fabric() || command.answer.is_some() {
            return;
        }
        if command.ticket.is_none() {
            self.finish_unanswered(slot);
        } else if let Some(status) = command.error {
            let lba = command.lba;
            let is_admin = command.kind == Kind::Admin;
            let mut refusal = Refusal {
                lba,
                ..Refusal::of(status)
            };
            if is_admin {
                refusal = self.connect_failed(slot, refusal);
            }
            self.refuse(slot, refusal);
        }
    }
}

#[inline(always)]
fn reads(opcode: NvmOpcode) -> bool {
    matches!(
        opcode,
        NvmOpcode::READ | NvmOpcode::COMPARE | NvmOpcode::VERIFY
    )
}

/// What a command does that reads, after [`Kind::Commit`].
fn reading(opcode: NvmOpcode) -> Kind {
    match opcode {
        NvmOpcode::COMPARE => Kind::Compare,
        NvmOpcode::VERIFY => Kind::Verify,
        _ => Kind::Read,
    }
}

/// Copied where nothing is.
const ZEROS: [u8; 4096] = [0; 4096];

/// AD, Attribute - Deallocate, in CDW11 of Dataset Management (NVM 3.3.2).
const DSM_ATTRIBUTE_DEALLOCATE: u32 = 1 << 2;

/// Bytes of the list of ranges that come from the host: as many as its SGL says, if that is room for
/// NR ranges. Linux always sends room for 256, whatever NR says.
fn ranges_len(sqe: &Sqe, transport: Transport) -> u32 {
    let range = size_of::<DsmRange>() as u32;
    let needed = range * (u32::from(sqe.dsm_nr_z()) + 1);
    let has = transport.data_len(&sqe.dptr).unwrap_or(0);
    has.clamp(needed, range * Sqe::DSM_RANGES_MAX as u32)
}

/// The same bytes, wherever the Bufs are cut.
fn equal(a: &BufList, b: &BufList) -> bool {
    a.iter()
        .flat_map(|buf| buf.bytes())
        .eq(b.iter().flat_map(|buf| buf.bytes()))
}
