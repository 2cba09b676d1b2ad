//! Commands in flight: who is to be answered, what is left to do, and which part is where.

use ferroce_buf::BufList;
use ferroce_wire::cqe::Cqe;
use ferroce_wire::sqe::Sqe;
use ferroce_wire::status::Status;

use crate::limits::{self, CHUNKS_PER_COMMAND};
use crate::memory::Span;
use crate::phases::{NO_SERIES, Stamps};
use crate::plant::{self, Bug};
use crate::port::{DriveId, Tag, Tick};

/// Not counted under any table.
pub(crate) const NO_PARITY: u8 = 2;

/// No slot.
pub const NONE: u32 = u32::MAX;

/// Proof that one command owes its host an answer. Used up by giving it, or by saying why not.
#[derive(Debug)]
#[must_use]
pub struct Ticket {
    cid: u16,
    armed: bool,
}

impl Ticket {
    /// A command came in.
    pub fn new(cid: u16) -> Ticket {
        Ticket { cid, armed: true }
    }

    /// The answer.
    pub fn complete(mut self, status: Status, dw0: u64) -> Cqe {
        self.armed = false;
        Cqe::new(self.cid, status).with_result64(dw0)
    }

    /// The queue died: no answer is owed any more.
    pub fn abandon(mut self) {
        self.armed = false;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        assert!(
            !self.armed || std::thread::panicking(),
            "cid {} was never answered",
            self.cid
        );
    }
}

/// What a command does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Drive to host.
    Read,
    /// Host to drive.
    Write {
        /// Force Unit Access.
        fua: bool,
    },
    /// Host against drive.
    Compare,
    /// No data.
    Flush,
    /// No data, in slices.
    Verify,
    /// No data, in slices.
    WriteZeroes {
        /// Force Unit Access.
        fua: bool,
        /// DEAC.
        deallocate: bool,
    },
    /// Of a command that reads with Force Unit Access: what the drive's cache has goes to media before it is read.
    Commit,
    /// A list of ranges from the host, then each of them in slices. `range` is the one under way.
    Deallocate {
        /// Index of the range under way.
        range: u16,
        /// How many ranges.
        ranges: u16,
    },
    /// Admin and Fabrics commands: data from the host, if any, is needed whole; the answer may have
    /// data for the host.
    Admin,
}

/// Where one part of a command's data is.
#[derive(Debug, Default)]
pub enum Chunk {
    /// Nowhere: this place is free.
    #[default]
    Free,
    /// The fabric has the Bufs and fills them from the host.
    Fetching,
    /// The host's data is here, and must wait for the drive's memory or queue.
    Landed {
        /// The data.
        bufs: BufList,
    },
    /// The drive has the Bufs.
    Executing,
    /// The drive reads what is to be compared with these.
    Comparing {
        /// The host's data.
        bufs: BufList,
    },
    /// The data for the host is here, and goes when its turn comes.
    Ordered {
        /// The data.
        bufs: BufList,
    },
}

/// A part of a command's data.
#[derive(Debug, Default)]
pub struct Part {
    /// Where it is.
    pub chunk: Chunk,
    /// Its place in the command's data, in bytes.
    pub offset: u32,
    /// Its length in bytes.
    pub len: u32,
    /// Of a read at a drive that brings memory: pages promised to the host, see
    /// [`crate::port::Backend::lends`].
    pub lent: u32,
    /// Of a Compare: where the drive is to read to, unless it brings memory. Both sides are taken at
    /// once, since commands that have one and wait for the other could wait for each other.
    pub spare: BufList,
}

impl Part {
    /// Something comes to a place where nothing is.
    #[inline(always)]
    pub fn fill(&mut self, chunk: Chunk) {
        assert!(matches!(self.chunk, Chunk::Free), "nothing is lost");
        self.chunk = chunk;
    }
}

/// The places of a command's parts, a ring. Few commands ever have more than one part, so most of the places lie elsewhere:
/// they are made at the start for the slots that are taken first ([`limits::LISTS`]), for another slot when it needs them for
/// the first time, and are kept.
#[derive(Debug, Default)]
pub struct Parts {
    first: Part,
    more: Option<Box<[Part; CHUNKS_PER_COMMAND - 1]>>,
}

impl Parts {
    /// How many places there are now.
    pub fn count(&self) -> usize {
        1 + self.more.as_ref().map_or(0, |more| more.len())
    }

    /// All of them, in use or not.
    pub fn iter(&self) -> impl Iterator<Item = &Part> {
        let more = self.more.iter().flat_map(|more| more.iter());
        std::iter::once(&self.first).chain(more)
    }
}

impl std::ops::Index<usize> for Parts {
    type Output = Part;

    #[inline]
    fn index(&self, at: usize) -> &Part {
        match at.checked_sub(1) {
            None => &self.first,
            Some(at) => &self.more.as_ref().expect("they were made")[at],
        }
    }
}

impl std::ops::IndexMut<usize> for Parts {
    #[inline]
    fn index_mut(&mut self, at: usize) -> &mut Part {
        match at.checked_sub(1) {
            None => &mut self.first,
            Some(at) => &mut self.more.as_mut().expect("they were made")[at],
        }
    }
}

/// A command in flight.
#[derive(Debug)]
pub struct Command {
    /// Life of the slot: a completion of an older life is recognised and ignored.
    pub generation: u32,
    /// `None`: nobody is left to answer.
    pub ticket: Option<Ticket>,
    /// The queue it came from.
    pub queue: u32,
    /// Neighbours in the queue's list of commands.
    pub before: u32,
    /// See `before`.
    pub after: u32,
    /// As it came.
    pub sqe: Sqe,
    /// What it does.
    pub kind: Kind,
    /// Where.
    pub drive: DriveId,
    /// Log2 of the block length in bytes.
    pub block_shift: u8,
    /// Which of the two table counts it is in: its epoch, modulo 2.
    pub parity: u8,
    /// It stands in the line of those who wait for memory or a drive.
    pub in_line: bool,
    /// It stands in the lane of those whose data is here.
    pub in_landed: bool,
    /// It stands in the line of those who have something to send.
    pub to_send: bool,
    /// Bytes of a part at most: what the drive takes in one request.
    pub part_max: u32,
    /// Of a read of several parts that has its place among those of its queue: the bytes it is counted with there.
    pub large: u32,
    /// Blocks of the namespace when the command came.
    pub capacity: u64,
    /// First block of the whole command, or of the range under way.
    pub lba: u64,
    /// Blocks of that range, for commands without data.
    pub blocks: u32,
    /// Bytes of data (or, without data, blocks of the range) in all.
    pub len: u32,
    /// How much of `len` has been begun.
    pub started: u32,
    /// How much of `len` is done: sent to the host, or stored.
    pub settled: u32,
    /// The first thing that went wrong.
    pub error: Option<Status>,
    /// Its answer, once that is known.
    pub answer: Option<(Status, u64)>,
    /// Data of an admin command's answer.
    pub staged: Vec<u8>,
    /// First of the parts in use.
    pub head: u8,
    /// How many parts are in use, in order from `head`.
    pub count: u8,
    /// The parts, a ring.
    pub parts: Parts,
    /// When it was where.
    pub stamps: Stamps,
    /// Where its time is counted.
    pub series: u16,
}

// A core has as many as all its queues are deep, 128,000 for a thousand queues of 128.
const _: () = assert!(size_of::<Command>() <= 320);

impl Command {
    /// It is not counted among those that began under a table any more.
    #[inline]
    pub(crate) fn leave_table(&mut self, in_flight: &mut [u32; 2]) {
        if self.parity != NO_PARITY {
            in_flight[usize::from(self.parity)] -= 1;
            self.parity = NO_PARITY;
        }
    }

    /// The place of some of its data.
    #[inline]
    pub(crate) fn span(&self, offset: u32, len: u32) -> Span {
        Span {
            drive: self.drive,
            lba: self.lba + u64::from(offset >> self.block_shift),
            len,
            shift: self.block_shift,
        }
    }

    /// The tag for a part, of the command in that slot.
    #[inline]
    pub fn tag(&self, slot: u32, part: usize) -> Tag {
        Tag {
            slot: slot * CHUNKS_PER_COMMAND as u32 + part as u32,
            generation: self.generation,
        }
    }

    /// Index of the oldest part.
    pub fn first_part(&self) -> Option<usize> {
        (self.count > 0).then_some(self.head as usize)
    }

    /// Takes a place for another part at the end; `None` while all are in use.
    #[inline(always)]
    pub fn push_part(&mut self, offset: u32, len: u32) -> Option<usize> {
        if self.count as usize == CHUNKS_PER_COMMAND {
            return None;
        }
        let at = (self.head as usize + self.count as usize) % CHUNKS_PER_COMMAND;
        self.count += 1;
        if at > 0 {
            self.parts.more.get_or_insert_default();
        }
        let part = &mut self.parts[at];
        debug_assert!(
            matches!(part.chunk, Chunk::Free) && part.spare.is_empty(),
            "a place that is not in use is empty"
        );
        (part.offset, part.len, part.lent) = (offset, len, 0);
        Some(at)
    }

    /// Gives the places of finished parts at both ends back.
    #[inline]
    pub fn pop_free_parts(&mut self) {
        if self.count == 1 {
            // The usual case: the loops below, for one.
            if matches!(self.parts[self.head as usize].chunk, Chunk::Free) {
                (self.head, self.count) = (0, 0);
            }
            return;
        }
        while self.count > 0 {
            let last = (self.head as usize + self.count as usize - 1) % CHUNKS_PER_COMMAND;
            if !matches!(self.parts[last].chunk, Chunk::Free) {
                break;
            }
            self.count -= 1;
        }
        while self.count > 0 && matches!(self.parts[self.head as usize].chunk, Chunk::Free) {
            self.head = (self.head + 1) % CHUNKS_PER_COMMAND as u8;
            self.count -= 1;
        }
        if self.count == 0 {
            // The next one finds the place that every command has.
            self.head = 0;
        }
    }

    /// SLBA, of a command that has one.
    pub fn first_lba(&self) -> u64 {
        if self.blocks > 0 { self.sqe.slba() } else { 0 }
    }

    /// True if a drive has something of it.
    pub fn at_drive(&self) -> bool {
        self.parts
            .iter()
            .any(|part| matches!(part.chunk, Chunk::Executing | Chunk::Comparing { .. }))
    }

    /// True if data of the host is here that the drive has not got.
    pub fn has_landed(&self) -> bool {
        self.parts
            .iter()
            .any(|part| matches!(part.chunk, Chunk::Landed { .. }))
    }

    /// True if it does not stand behind those who want memory or a drive: it has Bufs that they may
    /// want, or it is an admin command, which a busy drive must not hold up.
    pub fn goes_first(&self) -> bool {
        self.kind == Kind::Admin || self.has_landed()
    }

    /// True if the fabric is filling Bufs of it.
    pub fn at_fabric(&self) -> bool {
        self.parts
            .iter()
            .any(|part| matches!(part.chunk, Chunk::Fetching))
    }
}

/// All commands of a core. Their memory is set aside before the first Connect, and touched when as many are under way.
#[derive(Debug)]
pub struct Slab {
    /// Those that were ever needed at once.
    commands: Vec<Command>,
    /// Of these, those that are nobody's.
    free: Vec<u32>,
    /// How many there may be.
    most: usize,
}

impl Slab {
    /// So many slots.
    pub fn new(count: usize) -> Slab {
        assert!(
            count > 0 && count < (NONE as usize) / CHUNKS_PER_COMMAND,
            "slots fit a tag"
        );
        let ready = count.min(limits::LISTS);
        let mut commands = Vec::with_capacity(count);
        commands.extend((0..ready).map(|_| {
            let mut command = blank();
            command.parts.more = Some(Box::default());
            command
        }));
        let mut free = Vec::with_capacity(count);
        free.extend((0..ready as u32).rev());
        Slab {
            commands,
            free,
            most: count,
        }
    }

    /// One more slot than were ever needed, if there may be.
    #[cold]
    fn grow(&mut self) -> Option<u32> {
        let slot = self.commands.len();
        (slot < self.most).then(|| {
            self.commands.push(blank());
            slot as u32
        })
    }

    /// A slot for a command that came in, with everything at its start.
    #[inline]
    pub fn take(&mut self, queue: u32, sqe: &Sqe, now: Tick) -> Option<u32> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => self.grow()?,
        };
        let command = &mut self.commands[slot as usize];
        assert!(
            command.ticket.is_none() && command.count == 0,
            "a free slot is blank"
        );
        command.ticket = Some(Ticket::new(sqe.cid.get()));
        command.queue = queue;
        command.sqe = *sqe;
        command.kind = Kind::Admin;
        command.part_max = limits::CHUNK_LEN;
        command.stamps = Stamps {
            arrived: now,
            ..Stamps::default()
        };
        command.series = NO_SERIES;
        command.lba = 0;
        command.blocks = 0;
        command.len = 0;
        command.started = 0;
        command.settled = 0;
        Some(slot)
    }

    /// The command is over: nothing of it is anywhere. Its neighbours in its queue's list.
    #[inline(always)]
    pub fn free(&mut self, slot: u32) -> (u32, u32) {
        let command = &mut self.commands[slot as usize];
        assert!(
            command.ticket.is_none(),
            "a command ends answered or abandoned"
        );
        if command.count > 0 {
            command.pop_free_parts();
        }
        assert!(command.count == 0, "a command ends with its parts home");
        if !plant::on(Bug::GenerationKept) {
            command.generation = command.generation.wrapping_add(1);
        }
        command.error = None;
        command.answer = None;
        command.in_line = false;
        command.in_landed = false;
        command.to_send = false;
        let neighbours = (command.before, command.after);
        (command.before, command.after) = (NONE, NONE);
        if command.staged.capacity() > 0 {
            command.staged = Vec::new();
        }
        self.free.push(slot);
        neighbours
    }

    /// How many more fit.
    pub fn room(&self) -> usize {
        self.most - self.taken()
    }

    /// How many are somebody's.
    pub fn taken(&self) -> usize {
        self.commands.len() - self.free.len()
    }

    /// How many there may be.
    pub fn capacity(&self) -> usize {
        self.most
    }

    /// All slots that were ever somebody's are below this.
    pub fn end(&self) -> u32 {
        self.commands.len() as u32
    }

    /// The slot, command and part a tag names; `None` if it is of an older life, or of no life at all.
    #[inline]
    pub fn find(&mut self, tag: Tag) -> Option<(u32, &mut Command, usize)> {
        let slot = tag.slot / CHUNKS_PER_COMMAND as u32;
        let command = self.commands.get_mut(slot as usize)?;
        let part = (tag.slot as usize) % CHUNKS_PER_COMMAND;
        let is = command.generation == tag.generation && part < command.parts.count();
        is.then_some((slot, command, part))
    }
}

impl std::ops::Index<u32> for Slab {
    type Output = Command;

    #[inline]
    fn index(&self, slot: u32) -> &Command {
        &self.commands[slot as usize]
    }
}

impl std::ops::IndexMut<u32> for Slab {
    #[inline]
    fn index_mut(&mut self, slot: u32) -> &mut Command {
        &mut self.commands[slot as usize]
    }
}

fn blank() -> Command {
    Command {
        generation: 0,
        ticket: None,
        queue: NONE,
        before: NONE,
        after: NONE,
        sqe: Sqe::new(0),
        kind: Kind::Admin,
        drive: DriveId(0),
        block_shift: 12,
        parity: NO_PARITY,
        in_line: false,
        in_landed: false,
        to_send: false,
        part_max: 0,
        large: 0,
        capacity: 0,
        lba: 0,
        blocks: 0,
        len: 0,
        started: 0,
        settled: 0,
        error: None,
        answer: None,
        staged: Vec::new(),
        head: 0,
        count: 0,
        parts: Parts::default(),
        stamps: Stamps::default(),
        series: NO_SERIES,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_grow_up_to_the_most_and_come_back() {
        let most = limits::LISTS + 3;
        let mut slab = Slab::new(most);
        let take = |slab: &mut Slab| slab.take(NONE, &Sqe::new(0), Tick(1));
        let mut slots: Vec<u32> = std::iter::from_fn(|| take(&mut slab)).collect();
        assert_eq!((slots.len(), slab.taken(), slab.room()), (most, most, 0));
        slots.sort_unstable();
        assert_eq!(slots, (0..slab.end()).collect::<Vec<_>>(), "each once");
        for slot in &slots {
            let ticket = slab[*slot].ticket.take().expect("it was taken");
            ticket.abandon();
            slab.free(*slot);
        }
        assert_eq!((slab.taken(), slab.room()), (0, slab.capacity()));
        // Those that are back are taken again before there are more.
        let again = take(&mut slab).expect("all are free");
        assert!(again < slab.end() && slab.end() as usize == most);
        let ticket = slab[again].ticket.take().expect("it was taken");
        ticket.abandon();
    }
}
