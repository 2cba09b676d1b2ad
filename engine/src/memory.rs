//! Where a command's data is put: the core's buffers, or memory of the drive's own; and the way home.
//!
//! What may wait for a peer, being sent or being filled, is dealt by [`crate::shares`], and of a drive's
//! own memory only so much as the drive lends. Beyond that data is copied. So whatever hosts hold, data
//! that waits for no host finds a place.

use std::ops::Range;

use ferroce_buf::{Buf, BufList, Home, PAGE};

use crate::command::{Chunk, Kind};
use crate::drives::{Drives, Slot};
use crate::limits;
use crate::port::{Backend, DriveId, InCapsule};
use crate::queue::State;
use crate::queues::{LANDING, Queues};
use crate::shares::Shares;

/// A place in a namespace: where, how much, and log2 of the block length.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub drive: DriveId,
    pub lba: u64,
    pub len: u32,
    pub shift: u8,
}

impl Span {
    /// Pages of a drive's own memory that the blocks lie in.
    #[inline]
    fn pages(&self) -> u32 {
        let start = (self.lba << self.shift) as u32 % PAGE as u32;
        (start + self.len).div_ceil(PAGE as u32)
    }
}

impl Queues {
    /// In-capsule data moves out of the fabric's hands at once: to the drive's own memory, or to
    /// buffers that wait for nobody but the drive. It is not copied where it lies in such a buffer.
    pub(crate) fn land<D: Backend>(
        &mut self,
        slot: u32,
        mut data: InCapsule<'_>,
        place: Range<usize>,
        drives: &mut Drives<D>,
    ) {
        let len = place.len() as u32;
        let command = &self.slab[slot];
        let (drive, lba, shift) = (command.drive, command.lba, command.block_shift);
        let is_write = matches!(command.kind, Kind::Write { .. });
        let compares = command.kind == Kind::Compare;
        let mut bufs = self.list(len, shift);
        let has_space = is_write && drives.space(drive, lba, place.len(), &mut bufs);
        let taken = match &mut data {
            // Drives want data to begin where a page does.
            InCapsule::Buf(buf, _) if !has_space && place.start == 0 => {
                self.config.landing.exchange(buf)
            }
            _ => None,
        };
        match taken {
            Some(mut buf) => {
                buf.truncate(place.len());
                bufs.push(buf);
            }
            None => {
                if !has_space {
                    bufs.push(self.landing_buf(len));
                }
                let data = &data.bytes()[place];
                match has_space {
                    // To where it stays.
                    true => bufs.copy_in_non_temporal(0, data),
                    false => bufs.copy_in(0, data),
                }
                self.config.counters.copied_bytes.add(u64::from(len));
            }
        }
        let mut spare = BufList::new();
        if compares {
            match drives.brings_memory(drive) {
                true => spare = self.list(len, shift),
                false => spare.push(self.landing_buf(len)),
            }
        }
        let command = &mut self.slab[slot];
        let part = command.push_part(0, len).expect("it is the first");
        command.parts[part].chunk = Chunk::Landed { bufs };
        command.parts[part].spare = spare;
        command.started = command.len;
    }

    fn landing_buf(&mut self, len: u32) -> Buf {
        let buf = self.config.landing.take(len as usize);
        buf.expect("room was asked for before the capsule was polled")
    }

    /// A buffer of the core's for something that may wait for this queue's host.
    #[inline]
    pub(crate) fn pool_buf(&mut self, queue: u32, len: u32) -> Option<BufList> {
        let buf = self
            .shares
            .take(queue, &mut self.config.pool, len as usize)?;
        Some(BufList::one(buf))
    }

    /// Where the data of a write is to land.
    #[inline]
    pub(crate) fn write_bufs<D: Backend>(
        &mut self,
        queue: u32,
        span: Span,
        drives: &mut Drives<D>,
    ) -> Option<BufList> {
        let lent = drives
            .slot(span.drive)
            .and_then(|drive| lend(&mut self.shares, queue, span, drive));
        if let Some(lent) = lent {
            let mut bufs = self.list(span.len, span.shift);
            if drives.space(span.drive, span.lba, span.len as usize, &mut bufs) {
                deal(&mut self.shares, queue, span.drive, &mut bufs, lent, drives);
                return Some(bufs);
            }
            self.home(bufs, drives);
            take_back(&mut self.shares, queue, span.drive, lent, drives);
        }
        self.pool_buf(queue, span.len)
    }

    /// Where the host's side of a Compare lands, and where the drive reads to, which waits for no
    /// host. Both at once, since commands that have one and wait for the other could wait for each
    /// other.
    pub(crate) fn both_sides<D: Backend>(
        &mut self,
        queue: u32,
        span: Span,
        drives: &mut Drives<D>,
    ) -> Option<(BufList, BufList)> {
        let theirs = self.pool_buf(queue, span.len)?;
        if drives.brings_memory(span.drive) {
            return Some((theirs, self.list(span.len, span.shift)));
        }
        let pool = &mut self.config.pool;
        match self.shares.take_second(queue, pool, span.len as usize) {
            Some(buf) => {
                let mut ours = BufList::new();
                ours.push(buf);
                Some((theirs, ours))
            }
            None => {
                self.home(theirs, drives);
                None
            }
        }
    }

    /// Data that landed in buffers of the core's moves to memory of the drive's own; the buffers are
    /// given back if there is none now.
    pub(crate) fn move_in<D: Backend>(
        &mut self,
        span: Span,
        bufs: BufList,
        drives: &mut Drives<D>,
    ) -> Result<BufList, BufList> {
        let mut own = self.list(span.len, span.shift);
        if !drives.space(span.drive, span.lba, span.len as usize, &mut own) {
            self.home(own, drives);
            return Err(bufs);
        }
        let mut offset = 0;
        for buf in bufs.iter() {
            own.copy_in(offset, buf.bytes());
            offset += buf.len();
        }
        self.config.counters.copied_bytes.add(u64::from(span.len));
        self.home(bufs, drives);
        Ok(own)
    }

    /// Data is here: the Bufs wait for no host any more. The core's own are its host's until they are
    /// home; there is no drive that could wait for ever.
    #[inline]
    pub(crate) fn landed<D: Backend>(
        &mut self,
        slot: u32,
        drive: DriveId,
        bufs: &mut BufList,
        drives: &mut Drives<D>,
    ) {
        if bufs.first().is_some_and(|buf| buf.home() == drive.home()) {
            bufs.iter_mut().for_each(|buf| buf.deal_to(0));
            let (queue, count) = (self.slab[slot].queue, bufs.pages());
            take_back(&mut self.shares, queue, drive, count, drives);
        }
    }

    /// See [`list_for`].
    #[inline]
    pub(crate) fn list(&mut self, len: u32, shift: u8) -> BufList {
        list_for(&mut self.lists, len, shift)
    }

    /// Bufs come home, each to its own.
    #[inline(never)]
    pub(crate) fn home<D: Backend>(&mut self, bufs: BufList, drives: &mut Drives<D>) {
        self.take_home(bufs, drives);
    }

    /// See [`Queues::home`].
    #[inline(always)]
    pub(crate) fn take_home<D: Backend>(&mut self, bufs: BufList, drives: &mut Drives<D>) {
        match bufs.into_one() {
            Ok(buf) => {
                let whose = self.home_one(buf, drives);
                self.see_whether_over(whose);
            }
            Err(bufs) => self.home_many(bufs, drives),
        }
    }

    #[inline(never)]
    fn home_many<D: Backend>(&mut self, mut bufs: BufList, drives: &mut Drives<D>) {
        let mut whose = None;
        while let Some(buf) = bufs.pop() {
            whose = self.home_one(buf, drives).or(whose);
        }
        self.see_whether_over(whose);
        if bufs.capacity() > 1 && self.lists.len() < self.slab.end() as usize {
            self.lists.push(bufs);
        }
    }

    /// A Buf comes home; the queue whose peer had it.
    #[inline(always)]
    fn home_one<D: Backend>(&mut self, buf: Buf, drives: &mut Drives<D>) -> Option<u32> {
        match buf.home() {
            Home::CORE => Some(self.shares.put(&mut self.config.pool, buf)),
            LANDING => {
                self.config.landing.put(buf);
                None
            }
            _ => {
                let queue = buf.dealt_to().checked_sub(1).map(u32::from);
                if let Some(queue) = queue {
                    self.shares.returned(queue, buf.pages());
                }
                drives.put(buf);
                queue
            }
        }
    }

    /// What came home may be the last that was left of a queue.
    #[inline]
    fn see_whether_over(&mut self, queue: Option<u32>) {
        if let Some(queue) = queue
            && self.queues[queue as usize].state == State::Dead
        {
            self.release_if_over(queue);
        }
    }
}

/// Promises the queue's host pages of the drive's own; how many, or `None` if it has no memory
/// or the host has enough.
#[inline(always)]
pub(crate) fn lend<D: Backend>(
    shares: &mut Shares,
    queue: u32,
    span: Span,
    drive: &mut Slot<D>,
) -> Option<u32> {
    let pages = span.pages();
    let lent = drive.lend(pages, |free| shares.borrow(queue, pages, free));
    lent.then_some(pages)
}

/// Pages that were promised are here. Where there are fewer, the rest of the promise is void.
#[inline]
pub(crate) fn deal<D: Backend>(
    shares: &mut Shares,
    queue: u32,
    drive: DriveId,
    bufs: &mut BufList,
    lent: u32,
    drives: &mut Drives<D>,
) {
    // 0 says that a Buf of a drive's own is with nobody.
    let whom = queue as u16 + 1;
    bufs.iter_mut().for_each(|buf| buf.deal_to(whom));
    let void = lent - bufs.pages();
    if void > 0 {
        take_back(shares, queue, drive, void, drives);
    }
}

/// So many pages of the drive's own are promised to the host no more.
pub(crate) fn take_back<D: Backend>(
    shares: &mut Shares,
    queue: u32,
    drive: DriveId,
    count: u32,
    drives: &mut Drives<D>,
) {
    shares.returned(queue, count);
    drives.returned(drive, count);
}

/// A list with room for the Bufs of `len` bytes in blocks of `1 << shift` bytes, one that was used before if
/// there is. One block is one Buf; more may lie across pages of the drive's own.
#[inline(always)]
pub(crate) fn list_for(used: &mut Vec<BufList>, len: u32, shift: u8) -> BufList {
    if len <= 1 << shift {
        return BufList::new();
    }
    used.pop().unwrap_or_else(list_of_a_part)
}

/// An empty list with room for the Bufs of any part: a page each, and one more where they lie across pages.
pub(crate) fn list_of_a_part() -> BufList {
    BufList::with_capacity(limits::CHUNK_LEN as usize / PAGE + 1)
}
