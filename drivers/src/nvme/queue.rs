//! One core's queue at a drive: requests of the engine to commands, completions to answers.
//!
//! A command has a slot: its place in the CID table and its PRP list in queue memory. What one command may
//! not carry (Write Zeroes beyond WZSL) goes as several, one after the other, in the same slot. What the drive
//! cannot do is done by what it can: zeros are written from one page of them, blocks are verified by reading
//! them to a page nobody looks at.
//!
//! Nothing here waits. When the keeper resets the drive, commands stay in the table, are taken until it is
//! full, and are given to the drive anew afterwards: none of them was answered, so none may be left out, and
//! doing one twice changes nothing. Their Bufs are the device's until the keeper has seen to it that the device
//! does not reach memory any more.

mod prp;
mod word;

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crossbeam_queue::ArrayQueue;
use ferroce_engine::host::{self, CidTable};
use ferroce_engine::limits;
use ferroce_engine::port::{Backend, Done, Io, Op};
use ferroce_wire::prop::Cap;
use ferroce_wire::sqe::Sqe;
use ferroce_wire::status::Status;

use super::device::Patience;
use super::guest::{Hatch, PLACES, Visitor};
use super::ring::{CompletionRing, SubmissionRing, doorbells};
use crate::dma::{BufMap, DmaMemory};
use crate::mmio::Bar;
use crate::vfio::EventFd;
use prp::{Slot, one_page};
pub use word::{Life, Mode, Word};

/// The most entries of a queue. One fewer is the number of requests it takes.
pub const ENTRIES_MAX: u32 = 256;
/// The most bytes one command carries.
pub const MAX_TRANSFER: u32 = 128 * 1024;

/// Bytes of a slot's PRP list: 64 entries. A list may not cross a page (Base 4.3.1), and this divides one.
const LIST_LEN: usize = 512;
const PAGE: usize = ferroce_buf::PAGE;
/// Commands whose Abort the keeper may have on its list at a time.
const SUSPECTS: usize = 16;

const _: () = assert!(MAX_TRANSFER as usize / PAGE < LIST_LEN / 8);
const _: () = assert!(PAGE.is_multiple_of(LIST_LEN));
// A turn takes all completions there can be, and so reaches the answers behind them.
const _: () = assert!(ENTRIES_MAX as usize <= limits::DONE_PER_TURN);

/// What the drive failed answers with: the host may try again, on another path or later.
pub const FAILED: Status = Status::NAMESPACE_NOT_READY;

/// A queue's interrupt.
#[derive(Clone, Debug)]
pub struct Vector {
    /// Its number.
    pub number: u16,
    /// What it writes to.
    pub event: EventFd,
    /// The register that masks it (PCIe 7.7.2, Vector Control of the MSI-X table), if it can be reached.
    pub mask: Option<u32>,
}

/// A queue as the keeper has it: what the drive must be told to make it, and what its core says of it.
#[derive(Debug)]
pub struct End {
    qid: u16,
    /// Whose it is.
    core: usize,
    entries: u32,
    memory: Arc<DmaMemory>,
    vector: Option<Vector>,
    heard: AtomicU32,
    resting: AtomicBool,
    suspects: ArrayQueue<u16>,
    stuck: AtomicBool,
    lied: AtomicBool,
    closed: AtomicBool,
    /// Who else is served.
    door: Mutex<Door>,
    /// How many were let in so far: the core looks there only when that changed.
    invited: AtomicUsize,
}

/// Whom a queue serves beside its own. They have their numbers from their places here.
#[derive(Debug, Default)]
struct Door {
    guests: Vec<Arc<Hatch>>,
    /// The queue is about to go: nobody is let in any more.
    shut: bool,
}

impl End {
    /// A queue that the drive does not have yet.
    pub fn new(
        qid: u16,
        core: usize,
        entries: u32,
        memory: Arc<DmaMemory>,
        vector: Option<Vector>,
        life: Life,
    ) -> End {
        assert!(
            memory.words().len() * 8 >= Layout::of(entries).len,
            "a queue fits its memory"
        );
        End {
            qid,
            core,
            entries,
            memory,
            vector,
            heard: AtomicU32::new(life.0),
            resting: AtomicBool::new(false),
            suspects: ArrayQueue::new(SUSPECTS),
            stuck: AtomicBool::new(false),
            lied: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            door: Mutex::default(),
            invited: AtomicUsize::new(0),
        }
    }

    /// Bytes of memory a queue needs.
    pub fn memory_len(entries: u32) -> usize {
        Layout::of(entries).len
    }

    /// Its number.
    pub fn qid(&self) -> u16 {
        self.qid
    }

    /// The core that has it.
    pub fn core(&self) -> usize {
        self.core
    }

    /// The commands that make it: completion queue first (PCIe Transport 3.3).
    pub fn create(&self) -> [Sqe; 2] {
        let layout = Layout::of(self.entries);
        let vector = self.vector.as_ref().map(|vector| vector.number);
        let iova = |offset| self.memory.iova(offset);
        [
            Sqe::create_io_cq(self.qid, self.entries, iova(layout.completions), vector),
            Sqe::create_io_sq(self.qid, self.entries, iova(0), self.qid),
        ]
    }

    /// The commands that end it.
    pub fn delete(&self) -> [Sqe; 2] {
        [Sqe::delete_io_sq(self.qid), Sqe::delete_io_cq(self.qid)]
    }

    /// Empties the completion ring, before the drive makes its queue anew. Its core must have heard.
    pub fn clear(&self) {
        let layout = Layout::of(self.entries);
        self.memory
            .clear(layout.completions, layout.lists - layout.completions);
        while self.suspects.pop().is_some() {}
        self.stuck.store(false, Ordering::Relaxed);
        self.lied.store(false, Ordering::Relaxed);
    }

    /// True if its core knows how the controller is, and so does what that says; or if there is no core.
    pub fn has_heard(&self, life: Life) -> bool {
        self.is_closed() || self.heard.load(Ordering::Acquire) == life.0
    }

    /// The core is done with it.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Nobody has it any more.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// Lets a guest in, which this queue serves from now on; `None` if the queue is about to go.
    ///
    /// # Errors
    /// If no more descriptors may be open.
    pub fn invite(&self, visitor: Visitor) -> std::io::Result<Option<Arc<Hatch>>> {
        let mut door = self.door();
        if door.shut {
            return Ok(None);
        }
        let near = visitor.core == self.core;
        let bell = self.vector.as_ref().map(|vector| vector.event.clone());
        let hatch = Arc::new(Hatch::new(bell, near, visitor.abilities)?);
        match door.guests.iter_mut().find(|guest| guest.is_free()) {
            Some(place) => *place = hatch.clone(),
            None => door.guests.push(hatch.clone()),
        }
        self.invited.fetch_add(1, Ordering::Release);
        Ok(Some(hatch))
    }

    /// How many it serves beside its own.
    pub fn guests(&self) -> usize {
        let door = self.door();
        door.guests.iter().filter(|guest| !guest.is_left()).count()
    }

    #[inline]
    fn invited(&self) -> usize {
        self.invited.load(Ordering::Relaxed)
    }

    fn door(&self) -> MutexGuard<'_, Door> {
        self.door.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes its core, if that sleeps.
    pub fn wake(&self) {
        if let Some(vector) = &self.vector {
            vector.event.signal();
        }
    }

    /// True if its core sleeps with commands at the drive.
    pub fn rests_on_commands(&self) -> bool {
        self.resting.load(Ordering::Relaxed)
    }

    /// A command that took too long, to be aborted.
    pub fn suspect(&self) -> Option<u16> {
        self.suspects.pop()
    }

    /// A command that took too long was not aborted either.
    pub fn is_stuck(&self) -> bool {
        self.stuck.load(Ordering::Relaxed)
    }

    /// The drive answered a command that nobody gave it.
    pub fn was_lied_to(&self) -> bool {
        self.lied.load(Ordering::Relaxed)
    }
}

/// Where things are in a queue's memory.
#[derive(Clone, Copy, Debug)]
struct Layout {
    completions: usize,
    lists: usize,
    /// A page of zeros, then one that nobody looks at.
    zeros: usize,
    len: usize,
}

impl Layout {
    fn of(entries: u32) -> Layout {
        let entries = entries as usize;
        let completions = (entries * size_of::<Sqe>()).next_multiple_of(PAGE);
        let lists = completions + (entries * 16).next_multiple_of(PAGE);
        let zeros = lists + (entries * LIST_LEN).next_multiple_of(PAGE);
        Layout {
            completions,
            lists,
            zeros,
            len: zeros + 2 * PAGE,
        }
    }
}

/// What a namespace's commands may be, in blocks of one command.
#[derive(Clone, Copy, Default, Debug)]
pub struct Abilities {
    /// Namespace identifier at the drive.
    pub nsid: u32,
    /// Bytes of a block are 2 to the power of this.
    pub block_shift: u8,
    /// Read and Write.
    pub transfer: u32,
    /// Read and Write had better not cross a multiple of this (NOIOB); 0 if it does not matter.
    pub boundary: u32,
    /// Write Zeroes, if it is supported.
    pub zeroes: Option<u32>,
    /// Write Zeroes that may give the space back, if it does at all.
    pub zeroes_deallocate: Option<u32>,
    /// Verify, if it is supported.
    pub verify: Option<u32>,
    /// Deallocate, if it is supported.
    pub deallocate: Option<u32>,
}

impl Abilities {
    /// How many of these blocks one Read or Write may carry. That a request is cut at a boundary breaks no
    /// promise: hosts are told that one block is written atomically.
    #[inline]
    fn part(&self, lba: u64, blocks: u32) -> u32 {
        if self.boundary == 0 {
            return blocks;
        }
        let boundary = u64::from(self.boundary);
        blocks.min((boundary - lba % boundary) as u32)
    }
}

/// A request, and how far it is.
#[derive(Debug)]
struct Command {
    io: Io,
    /// Blocks done, and those of the command at the drive.
    done: u32,
    part: u32,
    since_ms: u32,
    suspected: bool,
    /// Whose it is: 0 is the queue's own, others are guests by their number and one.
    from: u16,
}

impl Command {
    /// A part of it, which is not the first, or is so once more, is given to the drive. Whose it is.
    fn begin(&mut self, now_ms: u32) -> u16 {
        (self.since_ms, self.suspected) = (now_ms, false);
        self.from
    }
}

/// One core's queue.
#[derive(Debug)]
pub struct OwnQueue {
    word: Arc<Word>,
    end: Arc<End>,
    life: Life,
    up: bool,
    /// None when the device is to be given back.
    bar: Option<Bar>,
    submissions: SubmissionRing,
    completions: CompletionRing,
    layout: Layout,
    table: CidTable<Command>,
    bufs: BufMap,
    abilities: Abilities,
    patience: Patience,
    /// Answers that needed no drive.
    ready: VecDeque<Done>,
    seen_ms: u32,
    /// When it was last seen that a completion had been taken, and how far that was.
    moved_ms: u32,
    seen_place: (u32, u64),
    /// Its core was about to sleep since the keeper's last look.
    slept: bool,
    /// The drive does not interrupt.
    masked: bool,
    guests: Vec<Arc<Hatch>>,
    /// How many had been let in when it looked.
    invited: usize,
    /// Commands of guests in the table.
    guests_in_flight: usize,
    /// The guest that is heard next.
    guest_next: usize,
    /// A guest asks, and there was no place.
    guests_wait: bool,
    /// A request of a guest was taken or answered in this turn.
    guests_served: bool,
}

impl OwnQueue {
    pub(super) fn new(
        word: Arc<Word>,
        end: Arc<End>,
        bar: Bar,
        cap: Cap,
        bufs: BufMap,
        abilities: Abilities,
        patience: Patience,
    ) -> OwnQueue {
        let (tail, head) = doorbells(cap, end.qid);
        let layout = Layout::of(end.entries);
        let memory = &end.memory;
        let depth = (end.entries - 1) as u16;
        let life = Life(end.heard.load(Ordering::Relaxed));
        let completions =
            CompletionRing::new(memory.clone(), layout.completions, end.entries, head);
        let mut queue = OwnQueue {
            life,
            up: life.mode() == Mode::Up,
            bar: Some(bar),
            submissions: SubmissionRing::new(memory.clone(), 0, end.entries, tail),
            seen_place: completions.place(),
            completions,
            layout,
            table: CidTable::new(depth),
            bufs,
            abilities,
            patience,
            ready: VecDeque::with_capacity(2 * usize::from(depth)),
            seen_ms: word.ms(),
            moved_ms: word.ms(),
            slept: false,
            masked: false,
            guests: Vec::new(),
            invited: 0,
            guests_in_flight: 0,
            guest_next: 0,
            guests_wait: false,
            guests_served: false,
            word,
            end,
        };
        // Whoever had this vector before may have left it masked.
        queue.mask(false);
        queue
    }

    /// Its core is about to sleep: an interrupt from now on wakes it. Look for completions once more after this.
    pub fn before_sleep(&mut self) {
        self.slept = true;
        // While the drive is reset nobody touches it; when it is back, the mask goes anyway.
        if self.masked && self.up {
            self.mask(false);
        }
        let resting = !self.table.is_empty();
        self.end.resting.store(resting, Ordering::Relaxed);
        for guest in &self.guests {
            guest.before_host_sleeps();
        }
    }

    /// Keeps the drive from interrupting, or not. What it would have told meanwhile it tells when it may again: a completion
    /// between the two is not lost.
    fn mask(&mut self, on: bool) {
        let mask = self.end.vector.as_ref().and_then(|vector| vector.mask);
        if let (Some(bar), Some(at)) = (&self.bar, mask) {
            bar.write32(at, on.into());
            self.masked = on;
        }
    }

    /// True while guests may still ask for something.
    pub fn is_needed(&self) -> bool {
        self.end.invited() != self.invited || self.guests.iter().any(|guest| !guest.is_left())
    }

    /// Its namespace was removed. False while it has guests; else nobody is let in any more.
    pub fn may_leave(&mut self) -> bool {
        let mut door = self.end.door();
        door.shut |= door.guests.iter().all(|guest| guest.is_left());
        door.shut && self.table.is_empty()
    }

    /// Once a turn: who is there to be served, and what do they ask for?
    #[inline(never)]
    fn look_at_guests(&mut self) {
        if self.end.invited() != self.invited {
            let door = self.end.door();
            self.invited = self.end.invited();
            self.guests.clone_from(&door.guests);
        }
        self.guests_served = false;
        self.guests_wait = self.is_asked();
        if self.guests_wait {
            self.hear_guests();
        }
    }

    fn is_asked(&self) -> bool {
        self.guests.iter().any(|guest| guest.is_asked())
    }

    /// True if a guest's request would be taken. They have half of the places, so that the core itself always gets on;
    /// of a single one they have their turns.
    fn has_place_for_guests(&self) -> bool {
        let depth = self.table.depth();
        self.guests_in_flight < (depth / 2).max(1) && self.table.len() < depth
    }

    /// Takes what guests ask for: one request of each, and again, beginning with the guest whose turn it is since the
    /// last time. So none is kept waiting by another that asks for more than there are places.
    #[inline(never)]
    fn hear_guests(&mut self) {
        let mut silent = 0;
        // They ask on while they are heard; what is more than this is for the next turn.
        for _ in 0..self.guests.len() * PLACES {
            if silent == self.guests.len() || !self.has_place_for_guests() {
                break;
            }
            let at = self.guest_next;
            self.guest_next = (at + 1) % self.guests.len();
            let Some(io) = self.guests[at].take() else {
                silent += 1;
                continue;
            };
            silent = 0;
            self.guests_served = true;
            if let Some(status) = self.known_answer(&io, &self.guests[at].abilities) {
                let (tag, bufs) = (io.tag, io.bufs);
                self.guests[at].answer(Done { tag, status, bufs });
                continue;
            }
            self.guests_in_flight += 1;
            // The core may be about to sleep, and believe that it has nothing at the drive.
            self.end.resting.store(true, Ordering::Relaxed);
            let taken = self.take(io, at as u16 + 1);
            assert!(taken.is_ok(), "there is room in the table");
        }
        self.guests_wait = self.is_asked();
    }

    /// A request that may be answered without the drive.
    #[inline(never)]
    fn submit_rare(&mut self, io: Io) -> Result<(), Io> {
        let Some(status) = self.known_answer(&io, &self.abilities) else {
            return self.take(io, 0);
        };
        if self.ready.len() >= self.table.depth() {
            return Err(io);
        }
        self.answer(io, status);
        Ok(())
    }

    /// What is answered without the drive.
    fn known_answer(&self, io: &Io, abilities: &Abilities) -> Option<Status> {
        if self.life.mode() == Mode::Failed {
            return Some(FAILED);
        }
        let moot = matches!(io.op, Op::Deallocate { .. }) && abilities.deallocate.is_none();
        moot.then_some(Status::SUCCESS)
    }

    #[inline]
    fn take(&mut self, io: Io, from: u16) -> Result<(), Io> {
        let command = Command {
            io,
            done: 0,
            part: 0,
            since_ms: self.word.ms(),
            suspected: false,
            from,
        };
        match self.table.insert(command) {
            Ok(cid) => {
                if self.up {
                    self.issue(cid, from);
                }
                Ok(())
            }
            Err(command) => Err(command.io),
        }
    }

    /// As [`OwnQueue::complete`], if there are guests: theirs is answered here. Apart from it, since where an answer may go
    /// either way it is moved more often.
    #[inline(never)]
    fn complete_beside_guests(&mut self, cid: u16, status: Status) -> Option<Done> {
        let from = self.table.get(cid).map_or(0, |command| command.from);
        let done = self.complete(cid, status)?;
        if from > 0 {
            self.answer_guest(from, done);
            return None;
        }
        // Else the core, which has its answer first, would take every place that comes free.
        if self.guests_wait {
            self.hear_guests();
        }
        Some(done)
    }

    fn answer_guest(&mut self, from: u16, done: Done) {
        self.guests_in_flight -= 1;
        self.guests_served = true;
        self.guests[usize::from(from) - 1].answer(done);
    }

    /// What is made readable, again and again, when there may be something to poll: an eventfd that nobody reads, to be
    /// watched by edges. None if nothing interrupts.
    pub fn wake_fd(&self) -> Option<BorrowedFd<'_>> {
        self.end.vector.as_ref().map(|vector| vector.event.as_fd())
    }

    /// The keeper said something new.
    #[cold]
    fn on_life(&mut self, life: Life) {
        self.life = life;
        self.up = life.mode() == Mode::Up;
        match life.mode() {
            Mode::Up => {
                // A reset of the function unmasks it, one of the controller does not.
                self.mask(false);
                self.submissions.reset();
                self.completions.reset();
                for slot in 0..self.table.depth() {
                    if let Some(cid) = self.table.cid_in(slot) {
                        let from = self.table.in_slot_mut(slot).begin(self.word.ms());
                        self.issue(cid, from);
                    }
                }
            }
            Mode::Down => {}
            Mode::Failed => {
                // Nobody touches its registers any more, so that the device can be given back.
                self.bar = None;
                for slot in 0..self.table.depth() {
                    let Some(cid) = self.table.cid_in(slot) else {
                        continue;
                    };
                    let command = self.table.remove(cid).expect("it is in that slot");
                    let (tag, bufs, status) = (command.io.tag, command.io.bufs, FAILED);
                    let done = Done { tag, status, bufs };
                    match command.from {
                        0 => self.ready.push_back(done),
                        from => self.answer_guest(from, done),
                    }
                }
            }
        }
        self.end.heard.store(life.0, Ordering::Release);
    }

    #[inline]
    fn answer(&mut self, io: Io, status: Status) {
        self.ready.push_back(Done {
            tag: io.tag,
            status,
            bufs: io.bufs,
        });
    }

    /// Gives the drive the next part of a command, which is so-and-so's.
    #[inline]
    fn issue(&mut self, cid: u16, from: u16) {
        let slot = self.table.slot(cid);
        // Few commands need it.
        let list = || Slot {
            memory: &self.end.memory,
            list: self.layout.lists + slot * LIST_LEN,
            zeros: self.layout.zeros,
            scratch: self.layout.zeros + PAGE,
        };
        let command = self.table.in_slot_mut(slot);
        let abilities = match from {
            0 => &self.abilities,
            from => &self.guests[usize::from(from) - 1].abilities,
        };
        let mut sqe = match command.io.op {
            Op::Read { lba, blocks } => {
                let lba = lba + u64::from(command.done);
                command.part = abilities.part(lba, blocks - command.done);
                let mut sqe = host::read(abilities.nsid, lba, command.part);
                let one = one_page(command, &self.bufs, abilities.block_shift);
                sqe.set_prp(
                    one.unwrap_or_else(|| list().bufs(command, &self.bufs, abilities.block_shift)),
                );
                sqe
            }
            Op::Write { lba, blocks, fua } => {
                let lba = lba + u64::from(command.done);
                command.part = abilities.part(lba, blocks - command.done);
                let mut sqe = host::write(abilities.nsid, lba, command.part, fua);
                let one = one_page(command, &self.bufs, abilities.block_shift);
                sqe.set_prp(
                    one.unwrap_or_else(|| list().bufs(command, &self.bufs, abilities.block_shift)),
                );
                sqe
            }
            _ => slice(abilities, command, &list()),
        };
        sqe.cid.set(cid);
        self.submissions.push(&sqe);
    }

    /// A command came back from the drive. Its answer, unless more of it is to be done.
    #[inline]
    fn complete(&mut self, cid: u16, status: Status) -> Option<Done> {
        let is_done = |command: &mut Command| {
            if !status.is_success() {
                return true;
            }
            command.done += command.part;
            command.done >= blocks_of(&command.io.op)
        };
        let Some(command) = self.table.remove_if(cid, is_done) else {
            self.go_on(cid);
            return None;
        };
        let Command { io, suspected, .. } = command;
        Some(Done {
            tag: io.tag,
            status: told(status, suspected),
            bufs: io.bufs,
        })
    }

    /// Gives the drive the next part of a command of which a part is done, under another CID; if there is such a command.
    #[inline(never)]
    fn go_on(&mut self, cid: u16) {
        let Some(mut command) = self.table.remove(cid) else {
            return self.on_lie();
        };
        let from = command.begin(self.word.ms());
        let cid = self.table.insert(command).expect("a slot was just freed");
        self.issue(cid, from);
    }

    /// A completion for a command that was not given: the drive is not to be trusted until it is reset.
    #[cold]
    fn on_lie(&mut self) {
        self.up = false;
        self.end.lied.store(true, Ordering::Relaxed);
    }

    /// The keeper's clock moved on: is there a command that takes too long?
    #[cold]
    fn look_at_ages(&mut self, now: u32) {
        self.seen_ms = now;
        if !self.up {
            return;
        }
        // A core that polls all the time is better off without interrupts.
        if !std::mem::take(&mut self.slept) && !self.masked {
            self.mask(true);
        }
        let place = self.completions.place();
        if place != self.seen_place {
            (self.seen_place, self.moved_ms) = (place, now);
        }
        let still = now.wrapping_sub(self.moved_ms);
        let Patience {
            command_ms,
            command_max_ms,
            abort_ms,
            ..
        } = self.patience;
        for slot in 0..self.table.depth() {
            let Some(cid) = self.table.cid_in(slot) else {
                continue;
            };
            let command = self.table.get_mut(cid).expect("it is in that slot");
            let age = now.wrapping_sub(command.since_ms);
            let is_over =
                |more_ms| age.min(still) >= command_ms + more_ms || age >= command_max_ms + more_ms;
            if is_over(0) && !command.suspected {
                // With no room on the keeper's list it stays for the next look.
                command.suspected = self.end.suspects.push(cid).is_ok();
            } else if is_over(abort_ms) {
                self.end.stuck.store(true, Ordering::Relaxed);
            }
        }
    }
}

/// Blocks that a request is over; what has no blocks counts as one.
#[inline]
fn blocks_of(op: &Op) -> u32 {
    match *op {
        Op::Flush => 1,
        Op::Read { blocks, .. }
        | Op::Write { blocks, .. }
        | Op::Verify { blocks, .. }
        | Op::WriteZeroes { blocks, .. }
        | Op::Deallocate { blocks, .. } => blocks,
    }
}

/// The command for the next part of a request without data of its own.
fn slice(abilities: &Abilities, command: &mut Command, list: &Slot<'_>) -> Sqe {
    let done = command.done;
    let left = blocks_of(&command.io.op) - done;
    let nsid = abilities.nsid;
    let (sqe, part) = match command.io.op {
        Op::Read { .. } | Op::Write { .. } => unreachable!("they have data of their own"),
        Op::Flush => (host::flush(nsid), 1),
        Op::Verify { lba, .. } => {
            let lba = lba + u64::from(done);
            match abilities.verify {
                Some(most) => {
                    let part = left.min(most);
                    (host::verify(nsid, lba, part), part)
                }
                None => {
                    let part = left.min(abilities.transfer);
                    let mut sqe = host::read(nsid, lba, part);
                    list.point_at_page(&mut sqe, list.scratch, part << abilities.block_shift);
                    (sqe, part)
                }
            }
        }
        Op::WriteZeroes {
            lba,
            fua,
            deallocate,
            ..
        } => {
            let lba = lba + u64::from(done);
            match abilities.zeroes {
                Some(most) => {
                    let deallocates = abilities.zeroes_deallocate.filter(|_| deallocate);
                    let part = left.min(deallocates.unwrap_or(most));
                    let mut sqe = host::write_zeroes(nsid, lba, part, deallocates.is_some());
                    sqe.set_fua(fua);
                    (sqe, part)
                }
                None => {
                    let part = left.min(abilities.transfer);
                    let mut sqe = host::write(nsid, lba, part, fua);
                    list.point_at_page(&mut sqe, list.zeros, part << abilities.block_shift);
                    (sqe, part)
                }
            }
        }
        Op::Deallocate { lba, .. } => {
            let most = abilities.deallocate.expect("others are answered at once");
            let part = left.min(most);
            let mut sqe = Sqe::dsm(nsid, 1, Sqe::DSM_AD);
            list.point_at_range(&mut sqe, lba + u64::from(done), part);
            (sqe, part)
        }
    };
    command.part = part;
    sqe
}

/// What the host is told. A command that was aborted because it took too long may be tried again; everything
/// else passes through as the drive said it.
#[inline]
fn told(status: Status, suspected: bool) -> Status {
    if suspected && status.code() == Status::ABORT_REQUESTED {
        return Status::COMMAND_INTERRUPTED;
    }
    status
}

impl Backend for OwnQueue {
    #[inline]
    fn submit(&mut self, io: Io) -> Result<(), Io> {
        // Of a drive that is up, everything else goes to the drive.
        if !self.up || matches!(io.op, Op::Deallocate { .. }) {
            return self.submit_rare(io);
        }
        self.take(io, 0)
    }

    #[inline]
    fn ring_doorbell(&mut self) {
        if self.end.invited() > 0 {
            self.look_at_guests();
        }
        if let Some(bar) = self.bar.as_ref().filter(|_| self.up) {
            // In this order: room for completions is told before commands that will need it.
            self.completions.ring(bar);
            self.submissions.ring(bar);
        }
    }

    #[inline]
    fn poll(&mut self) -> Option<Done> {
        // What is ready comes last: before it there are at most as many completions as commands, which a turn takes.
        let life = self.word.life();
        if life != self.life {
            self.on_life(life);
        }
        if self.up {
            while self.up
                && let Some(cqe) = self.completions.poll()
            {
                let (cid, status) = (cqe.cid.get(), cqe.status());
                let done = match self.guests.is_empty() {
                    true => self.complete(cid, status),
                    false => self.complete_beside_guests(cid, status),
                };
                if done.is_some() {
                    return done;
                }
            }
            if let Some(bar) = &self.bar {
                self.completions.ring(bar);
                self.submissions.ring(bar);
            }
        }
        let now = self.word.ms();
        if now != self.seen_ms {
            self.look_at_ages(now);
        }
        self.ready.pop_front()
    }

    fn in_flight(&self) -> usize {
        self.table.len() + self.ready.len()
    }

    fn has_work(&self) -> bool {
        !self.ready.is_empty()
            || self.guests_served
            || (self.has_place_for_guests() && self.is_asked())
            || self.word.life() != self.life
            || (self.up && self.completions.is_ready())
    }
}

impl Drop for OwnQueue {
    fn drop(&mut self) {
        self.bar = None;
        self.end.door().shut = true;
        self.end.close();
    }
}

#[cfg(test)]
mod tests;
