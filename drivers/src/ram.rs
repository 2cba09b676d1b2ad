//! A drive in memory. Not an array that cores share: an index of 4 KiB pages.
//!
//! A read hands out the page that holds the block, shared; the transport sends from it, and nobody
//! changes it meanwhile. A write arrives in a fresh page, which the engine got from
//! [`Backend::space`] and the transport filled, and becomes visible by one atomic swap of the page's
//! index entry. So neither copies, and no block is ever seen half written. With 512-byte blocks a
//! page that is written in part is completed with what the index has, and swapped in only if the
//! index still has that: copies, which [`RamDrive::copied`] counts.
//!
//! A page that hosts are slow to fill, or slow to take, is lost to others meanwhile: with a drive that
//! is full, those are the pages to spare. So each core lends a bounded number of them
//! ([`Backend::lends`]), and what goes beyond is copied from and to buffers of the core.
//!
//! The cost of a 4 KiB read: one index entry, one counter up, one counter down when the Buf comes
//! home. No list that cores share is touched: freed pages stay in the core's own store until that is
//! full.
//!
//! Left out on purpose: giving memory back to the system (devices have it registered).

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use ferroce_buf::{Buf, BufList, PAGE, Page, Pages, Region, Want};
use ferroce_engine::limits;
use ferroce_engine::plant::{self, Bug};
use ferroce_engine::port::{Backend, Done, DriveId, DriveInfo, Io, Op};
use ferroce_wire::status::Status;
use uuid::Uuid;

use crate::DriveError;

/// Requests a queue takes before completions must be polled.
pub const DEPTH: usize = 1024;
/// The most bytes one request carries.
pub const MAX_TRANSFER: u32 = 128 * 1024;

/// Free pages a core keeps to itself.
const STORE_MAX: usize = 128;
/// How many move between a core's store and the free ones all cores share.
const STORE_MOVE: usize = 32;
/// Pages of the store that writes do not get, so that Write Zeroes at two page edges never waits for
/// writes that wait for their hosts.
const RESERVE: usize = 2;
/// Pages of a core beside those that are lent: its store, its page of zeros, and one request's.
const PER_CORE: usize = STORE_MAX + 1 + MAX_TRANSFER as usize / PAGE + 1;
/// Pages of one index chunk, a power of two: 1 GiB of drive.
const CHUNK_PAGES: usize = 1 << 18;
/// Index chunks: 4 TiB of drive.
const CHUNKS: usize = 4096;
/// Mappings: the first, and one for each growth.
const SEGMENTS: usize = 15;
/// Pages of one mapping: 1 TiB.
const SEGMENT_PAGES: usize = 1 << 28;

// With everything that may be lent away for ever, and the stores of all other cores full, a core still
// finds the pages of one request: see `spare`.
const _: () = assert!(MAX_TRANSFER as usize / PAGE + 1 + RESERVE < PER_CORE);
const _: () = assert!(MAX_TRANSFER as usize / PAGE + 1 + RESERVE <= STORE_MAX);
const _: () = assert!((SEGMENTS as u64) << 28 < u32::MAX as u64);

/// What a RAM drive is to be.
#[derive(Clone, Debug)]
pub struct RamConfig {
    /// Its number in the node.
    pub id: DriveId,
    /// What the operator called it.
    pub label: String,
    /// Capacity in bytes, a multiple of 4096.
    pub bytes: u64,
    /// Bytes of a block: 512 or 4096.
    pub block_len: u32,
    /// Writes are refused.
    pub read_only: bool,
    /// Its identity; a random one if there is none, since what it held is gone.
    pub uuid: Option<[u8; 16]>,
    /// How many cores will open it at once.
    pub cores: usize,
    /// Pages beyond the capacity for data on its way; `None` is an eighth of the capacity, within
    /// bounds. The more there are, the more data moves without a copy.
    pub spare: Option<usize>,
    /// What memory it is to be in.
    pub want: Want,
}

/// An index entry: 0 for a page nobody wrote, else segment and page, plus one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Entry(u32);

impl Entry {
    const UNWRITTEN: Entry = Entry(0);

    #[inline]
    fn new(segment: usize, page: Page) -> Entry {
        Entry(((segment as u32) << 28 | page) + 1)
    }

    #[inline]
    fn at(self) -> Option<(usize, Page)> {
        let at = self.0.checked_sub(1)?;
        Some(((at >> 28) as usize, at & (SEGMENT_PAGES as u32 - 1)))
    }
}

/// The part of a RAM drive that all cores see.
#[derive(Debug)]
pub struct RamDrive {
    id: DriveId,
    label: String,
    block_len: u32,
    read_only: bool,
    uuid: [u8; 16],
    nguid: [u8; 16],
    cores: usize,
    spare: Option<usize>,
    want: Want,
    blocks: AtomicU64,
    copied: AtomicU64,
    segments: [OnceLock<Pages>; SEGMENTS],
    index: Box<[OnceLock<Box<[AtomicU32]>>]>,
    /// Held while the capacity changes.
    resizing: Mutex<()>,
}

impl RamConfig {
    /// Whether there can be such a drive, if there is the memory for it.
    ///
    /// # Errors
    /// If its size or block length cannot be.
    pub fn look(&self) -> Result<(), DriveError> {
        if self.block_len != 512 && self.block_len != 4096 {
            return Err(DriveError::refused(
                &self.label,
                format!(
                    "blocks of {} bytes: a RAM drive has blocks of 512 or 4096",
                    self.block_len
                ),
            ));
        }
        if self.bytes == 0 || !self.bytes.is_multiple_of(PAGE as u64) {
            return Err(DriveError::refused(
                &self.label,
                format!(
                    "{} bytes: the size of a RAM drive is a multiple of 4 KiB, and not 0 (1MiB is 1048576 bytes, 1MB is \
                     1000000)",
                    self.bytes
                ),
            ));
        }
        Ok(())
    }
}

impl RamDrive {
    /// Maps the memory of a drive, all of it.
    ///
    /// # Errors
    /// If the size or block length cannot be had, or the memory is not there.
    pub fn new(config: RamConfig) -> Result<Arc<RamDrive>, DriveError> {
        config.look()?;
        let RamConfig {
            id,
            label,
            bytes,
            block_len,
            read_only,
            uuid,
            cores,
            spare,
            want,
        } = config;
        // What it held before is gone, so to hosts it is another disk.
        let uuid = uuid.unwrap_or_else(|| Uuid::new_v4().into_bytes());
        let nguid = crate::nguid_of(uuid);
        let drive = RamDrive {
            id,
            label,
            block_len,
            read_only,
            uuid,
            nguid,
            cores,
            spare,
            want,
            blocks: AtomicU64::new(0),
            copied: AtomicU64::new(0),
            segments: [const { OnceLock::new() }; SEGMENTS],
            index: (0..CHUNKS).map(|_| OnceLock::new()).collect(),
            resizing: Mutex::new(()),
        };
        drive.resize(bytes / u64::from(block_len))?;
        Ok(Arc::new(drive))
    }

    /// What hosts are told.
    pub fn info(&self) -> DriveInfo {
        DriveInfo {
            label: self.label.clone(),
            block_len: self.block_len,
            blocks: self.blocks.load(Ordering::Acquire),
            uuid: self.uuid,
            nguid: self.nguid,
            read_only: self.read_only,
            // A Flush would save nothing: power takes it all.
            volatile_cache: false,
            brings_memory: true,
            preferred_blocks: PAGE as u32 / self.block_len,
            deallocates: true,
            max_deallocate: limits::SLICE_LEN,
            max_transfer: MAX_TRANSFER,
            max_bufs: MAX_TRANSFER / PAGE as u32 + 1,
            health: None,
        }
    }

    /// Changes the capacity. Growing maps another region; what is cut off is forgotten, and reads as
    /// zeros if the drive grows again. Shrink only after no core sends requests for what is cut off.
    ///
    /// # Errors
    /// If the size cannot be had. Then nothing changed.
    pub fn resize(&self, blocks: u64) -> Result<(), DriveError> {
        let _held = self.resizing.lock().unwrap_or_else(PoisonError::into_inner);
        let pages = self.check_size(blocks)?;
        self.map_for(pages)?;
        for chunk in &self.index[..pages.div_ceil(CHUNK_PAGES)] {
            chunk.get_or_init(|| (0..CHUNK_PAGES).map(|_| AtomicU32::new(0)).collect());
        }
        let before = self.blocks.load(Ordering::Acquire);
        if blocks < before {
            self.blocks.store(blocks, Ordering::Release);
        }
        // Growing clears too: a late write may have come after the drive shrank.
        self.forget_from(pages);
        self.blocks.store(blocks, Ordering::Release);
        Ok(())
    }

    /// The pages of a drive of so many blocks.
    ///
    /// # Errors
    /// If a RAM drive cannot have this size.
    pub fn check_size(&self, blocks: u64) -> Result<usize, DriveError> {
        let bytes = blocks.saturating_mul(u64::from(self.block_len));
        let page_len = PAGE as u64;
        if blocks == 0 || !bytes.is_multiple_of(page_len) {
            return Err(DriveError::refused(
                &self.label,
                format!(
                    "{blocks} blocks of {} bytes: the size of a RAM drive is a multiple of 4 KiB, \
                     and not 0",
                    self.block_len
                ),
            ));
        }
        let limit = (CHUNKS * CHUNK_PAGES) as u64;
        if bytes / page_len > limit {
            return Err(DriveError::refused(
                &self.label,
                format!("{bytes} bytes: a RAM drive has at most {} TiB", limit >> 28),
            ));
        }
        Ok((bytes / page_len) as usize)
    }

    /// One core's part. Open as many at a time as the configuration said.
    ///
    /// # Errors
    /// If the drive has no page left for the core.
    pub fn open(self: &Arc<Self>, core: usize) -> Result<RamQueue, DriveError> {
        let mut queue = RamQueue {
            drive: self.clone(),
            store: Vec::with_capacity(STORE_MAX + 1),
            zero: Entry::UNWRITTEN,
            done: VecDeque::with_capacity(DEPTH),
            asked: Vec::with_capacity(DEPTH),
            waiting: VecDeque::with_capacity(DEPTH),
            lends: (self.lendable(self.capacity_pages()) / self.cores.max(1)) as u32,
        };
        queue.restock(1 + RESERVE);
        let Some(mut zero) = queue.store.pop() else {
            return Err(DriveError::refused(
                &self.label,
                format!(
                    "no memory for core {core}: the drive was made for {} cores",
                    self.cores
                ),
            ));
        };
        zero.bytes_mut().fill(0);
        queue.zero = self.publish(zero);
        Ok(queue)
    }

    /// Bytes copied so far because a write did not cover its pages.
    pub fn copied(&self) -> u64 {
        self.copied.load(Ordering::Relaxed)
    }

    /// The regions it lies in, for devices that register them. Growing adds to them.
    pub fn regions(&self) -> Vec<Arc<Region>> {
        self.segments()
            .map(|pages| pages.region().clone())
            .collect()
    }

    /// Pages that hold blocks.
    pub fn written_pages(&self) -> usize {
        self.index
            .iter()
            .filter_map(OnceLock::get)
            .flat_map(|chunk| chunk.iter())
            .filter(|entry| entry.load(Ordering::Relaxed) != 0)
            .count()
    }

    /// Pages that are not free: those that hold blocks, Bufs that are out, and the stores and zero
    /// pages of the cores.
    pub fn held_pages(&self) -> usize {
        self.segments().map(Pages::held).sum()
    }

    fn segments(&self) -> impl Iterator<Item = &Pages> {
        self.segments.iter().map_while(OnceLock::get)
    }

    fn capacity_pages(&self) -> usize {
        (self.blocks.load(Ordering::Acquire) * u64::from(self.block_len)) as usize / PAGE
    }

    /// Pages that may be with hosts while there are so many pages of capacity: being filled by some,
    /// or replaced and still being sent to others.
    fn lendable(&self, pages: usize) -> usize {
        self.spare.unwrap_or((pages / 8).clamp(2048, 65536))
    }

    /// Sees to it that there are pages for so many pages of capacity, and to spare. A page is in the
    /// index, or a core's, or lent, or on its way through the drive, which waits for nobody.
    fn map_for(&self, pages: usize) -> Result<(), DriveError> {
        let wanted = pages + self.lendable(pages) + self.cores * PER_CORE;
        let mapped: usize = self
            .segments()
            .map(|pages| pages.region().len() / PAGE)
            .sum();
        let Some(more) = wanted.checked_sub(mapped).filter(|more| *more > 0) else {
            return Ok(());
        };
        let segment = self.segments().count();
        if segment == SEGMENTS || more > SEGMENT_PAGES {
            return Err(DriveError::refused(
                &self.label,
                format!(
                    "cannot map {} MiB more: a RAM drive has at most {SEGMENTS} regions of 1 TiB, \
                     one for each growth beyond its largest size",
                    more >> 8
                ),
            ));
        }
        let region = Region::map(more * PAGE, self.want)
            .map_err(|cause| DriveError::system(&self.label, "mapping its memory", cause))?;
        let pages = Pages::new(Arc::new(region), self.id.home());
        self.segments[segment]
            .set(pages)
            .expect("segments are added under a lock");
        Ok(())
    }

    /// Nothing is written from this page on.
    fn forget_from(&self, page: usize) {
        let chunks = self.index.iter().enumerate().skip(page / CHUNK_PAGES);
        for (number, chunk) in chunks {
            let Some(chunk) = chunk.get() else { break };
            let first = page.saturating_sub(number * CHUNK_PAGES);
            for entry in &chunk[first..] {
                let old = Entry(entry.swap(0, Ordering::AcqRel));
                if let Some((segment, page)) = old.at() {
                    self.pages(segment).unhold(page);
                }
            }
        }
    }

    #[inline]
    fn pages(&self, segment: usize) -> &Pages {
        self.segments[segment]
            .get()
            .expect("an entry names a segment that exists")
    }

    /// The index entry of a page of the drive.
    #[inline]
    fn entry(&self, page: u64) -> &AtomicU32 {
        let chunk = self.index[page as usize / CHUNK_PAGES]
            .get()
            .expect("the index covers the capacity");
        &chunk[page as usize % CHUNK_PAGES]
    }

    /// Which segment a Buf is a piece of.
    #[inline]
    fn segment_of(&self, buf: &Buf) -> (usize, &Pages) {
        self.segments()
            .enumerate()
            .find(|(_, pages)| pages.region().id() == buf.region())
            .expect("a Buf of this drive")
    }

    /// A core keeps a fresh page, and gives some up when it has many.
    #[inline]
    fn keep(&self, store: &mut Vec<Buf>, fresh: Buf) {
        if store.len() == STORE_MAX {
            for buf in store.drain(STORE_MAX - STORE_MOVE..) {
                self.segment_of(&buf).1.put(buf);
            }
        }
        store.push(fresh);
    }

    #[inline]
    fn publish(&self, buf: Buf) -> Entry {
        let (segment, pages) = self.segment_of(&buf);
        Entry::new(segment, pages.publish(buf))
    }
}

impl Drop for RamDrive {
    fn drop(&mut self) {
        // Pages that are still published would keep the mapping for ever.
        self.forget_from(0);
    }
}

/// One core's part of a RAM drive.
#[derive(Debug)]
pub struct RamQueue {
    drive: Arc<RamDrive>,
    /// Fresh pages, whole.
    store: Vec<Buf>,
    /// What unwritten blocks read as. Each core has its own, so that they do not all count on one.
    zero: Entry,
    done: VecDeque<Done>,
    /// Submitted since the doorbell was rung.
    asked: Vec<Io>,
    /// Write Zeroes that found no page for their edges.
    waiting: VecDeque<Io>,
    /// See [`Backend::lends`].
    lends: u32,
}

impl RamQueue {
    /// Does the request; false if it has to wait for a page.
    #[inline]
    fn execute(&mut self, op: Op, bufs: &mut BufList) -> Result<Status, NoRoom> {
        let blocks_total = self.drive.blocks.load(Ordering::Relaxed);
        let inside = |lba: u64, blocks: u32| {
            lba.checked_add(u64::from(blocks))
                .is_some_and(|end| end <= blocks_total)
        };
        let outside = Ok(Status::LBA_OUT_OF_RANGE.dnr());
        let protected = Ok(Status::NAMESPACE_WRITE_PROTECTED.dnr());
        match op {
            Op::Read { lba, blocks } if inside(lba, blocks) => self.read(lba, blocks, bufs),
            Op::Verify { lba, blocks } if inside(lba, blocks) => {}
            Op::Flush => {}
            Op::Write { .. } | Op::WriteZeroes { .. } | Op::Deallocate { .. }
                if self.drive.read_only =>
            {
                return protected;
            }
            Op::Write { lba, blocks, .. } if inside(lba, blocks) => self.write(lba, blocks, bufs),
            Op::WriteZeroes { lba, blocks, .. } if inside(lba, blocks) => {
                self.write_zeroes(lba, blocks)?;
            }
            Op::Deallocate { lba, blocks } if inside(lba, blocks) => {
                let (start, end) = self.span(lba, blocks);
                self.forget(start.div_ceil(PAGE as u64)..end / PAGE as u64);
            }
            Op::Read { .. }
            | Op::Write { .. }
            | Op::Verify { .. }
            | Op::WriteZeroes { .. }
            | Op::Deallocate { .. } => return outside,
        }
        Ok(Status::SUCCESS)
    }

    /// First byte, and the one after the last.
    #[inline]
    fn span(&self, lba: u64, blocks: u32) -> (u64, u64) {
        let block_len = u64::from(self.drive.block_len);
        (lba * block_len, (lba + u64::from(blocks)) * block_len)
    }

    #[inline]
    fn read(&mut self, lba: u64, blocks: u32, bufs: &mut BufList) {
        let (mut at, end) = self.span(lba, blocks);
        if !bufs.is_empty() {
            self.read_into(at, end, bufs);
            return;
        }
        for page in at / PAGE as u64 + 1..end.div_ceil(PAGE as u64) {
            self.hint(self.drive.entry(page));
        }
        let mut run: Option<Buf> = None;
        while at < end {
            let mut buf = self.share(at / PAGE as u64);
            let offset = (at % PAGE as u64) as usize;
            let len = (PAGE - offset).min((end - at) as usize);
            if len < PAGE {
                buf.advance(offset);
                buf.truncate(len);
            }
            at += len as u64;
            // Pages that lie side by side go as one: who sends them has less to do.
            let Some(before) = &mut run else {
                run = Some(buf);
                continue;
            };
            if let Err(buf) = before.join(buf) {
                bufs.push(std::mem::replace(before, buf));
            }
        }
        if let Some(last) = run {
            bufs.push(last);
        }
    }

    /// Copies the bytes from `start` to `end`, page by page as each is now.
    fn read_into(&mut self, start: u64, end: u64, bufs: &mut BufList) {
        assert!(bufs.len() as u64 == end - start, "the Bufs are the blocks");
        let mut at = start;
        while at < end {
            let page = self.share(at / PAGE as u64);
            let offset = (at % PAGE as u64) as usize;
            let len = (PAGE - offset).min((end - at) as usize);
            bufs.copy_in((at - start) as usize, &page.bytes()[offset..offset + len]);
            self.put(page);
            at += len as u64;
        }
    }

    /// The page as it is now, for reading.
    #[inline]
    fn share(&mut self, page: u64) -> Buf {
        match self.share_written(page) {
            Some((buf, _)) => buf,
            None => {
                let (segment, page) = self.zero.at().expect("a queue has its zero page");
                self.drive
                    .pages(segment)
                    .share(page)
                    .expect("the zero page is held as long as the queue")
            }
        }
    }

    /// The page as it is now and the entry that names it; `None` if it is unwritten.
    #[inline(always)]
    fn share_written(&mut self, page: u64) -> Option<(Buf, Entry)> {
        loop {
            let slot = self.drive.entry(page);
            let entry = Entry(slot.load(Ordering::Acquire));
            let (segment, number) = entry.at()?;
            race();
            if let Ok(buf) = self.drive.pages(segment).share(number) {
                if plant::on(Bug::PageEarly) {
                    self.drive.pages(segment).unhold(number);
                }
                // Between the look and the share it may have been replaced and filled anew.
                if slot.load(Ordering::Acquire) == entry.0 {
                    return Some((buf, entry));
                }
                self.put(buf);
            }
        }
    }

    fn write(&mut self, lba: u64, blocks: u32, bufs: &mut BufList) {
        let (start, mut end) = self.span(lba, blocks);
        assert!(bufs.len() as u64 == end - start, "the Bufs are the blocks");
        // Back to front, since that is how a list is taken apart.
        while let Some(buf) = bufs.pop() {
            end -= buf.len() as u64;
            let offset = (end % PAGE as u64) as usize;
            assert!(
                buf.as_ptr().addr() % PAGE == offset && offset + buf.len() <= PAGE,
                "the Bufs are those of `space` for this place"
            );
            if buf.len() == PAGE {
                let entry = self.drive.publish(buf);
                self.swap(end / PAGE as u64, entry);
            } else {
                self.merge(end / PAGE as u64, offset, buf);
            }
        }
    }

    /// The page is this one from now on.
    #[inline]
    fn swap(&mut self, page: u64, entry: Entry) {
        let slot = self.drive.entry(page);
        let old = Entry(slot.swap(entry.0, Ordering::AcqRel));
        self.let_go(old);
    }

    /// Part of the page is what the Buf has in view, `offset` bytes in; the rest stays as it is.
    fn merge(&mut self, page: u64, offset: usize, buf: Buf) {
        let drive = self.drive.clone();
        let end = offset + buf.len();
        let (segment, pages) = drive.segment_of(&buf);
        let mut buf = pages.whole(buf);
        let entry = Entry::new(segment, pages.number(&buf));
        loop {
            // The old page is kept until the swap has happened or failed: while we have it, it
            // cannot be filled anew and put back in the same place, which the swap would not notice.
            let old = self.share_written(page);
            let bytes = buf.bytes_mut();
            let seen = match &old {
                Some((old, seen)) => {
                    bytes[..offset].copy_from_slice(&old.bytes()[..offset]);
                    bytes[end..].copy_from_slice(&old.bytes()[end..]);
                    let copied = (PAGE - (end - offset)) as u64;
                    drive.copied.fetch_add(copied, Ordering::Relaxed);
                    *seen
                }
                None => {
                    bytes[..offset].fill(0);
                    bytes[end..].fill(0);
                    Entry::UNWRITTEN
                }
            };
            race();
            let swapped = drive.entry(page).compare_exchange(
                seen.0,
                entry.0,
                Ordering::AcqRel,
                Ordering::Relaxed,
            );
            if let Some((old, _)) = old {
                self.put(old);
            }
            if swapped.is_ok() {
                let published = pages.publish(buf);
                assert!(Entry::new(segment, published) == entry);
                self.let_go(seen);
                return;
            }
        }
    }

    fn write_zeroes(&mut self, lba: u64, blocks: u32) -> Result<(), NoRoom> {
        let (start, end) = self.span(lba, blocks);
        let page_len = PAGE as u64;
        if !start.is_multiple_of(page_len) || !end.is_multiple_of(page_len) {
            self.restock(RESERVE);
            if self.store.len() < RESERVE {
                return Err(NoRoom);
            }
        }
        let whole = start.div_ceil(page_len)..end / page_len;
        self.forget(whole.clone());
        if whole.start > whole.end {
            // All of it lies within one page.
            self.zero_part(start, end);
        } else {
            self.zero_part(start, whole.start * page_len);
            self.zero_part(whole.end * page_len, end);
        }
        Ok(())
    }

    /// Zeros a part of one page, from byte to byte.
    fn zero_part(&mut self, start: u64, end: u64) {
        let page = start / PAGE as u64;
        if start == end || self.drive.entry(page).load(Ordering::Acquire) == 0 {
            return;
        }
        let offset = (start % PAGE as u64) as usize;
        let mut buf = self.store.pop().expect("the reserve was checked");
        buf.advance(offset);
        buf.truncate((end - start) as usize);
        buf.bytes_mut().fill(0);
        self.merge(page, offset, buf);
    }

    /// The pages are unwritten from now on.
    fn forget(&mut self, pages: std::ops::Range<u64>) {
        for page in pages {
            if self.drive.entry(page).load(Ordering::Relaxed) != 0 {
                self.swap(page, Entry::UNWRITTEN);
            }
        }
    }

    /// The index does not name this page any more.
    #[inline]
    fn let_go(&mut self, old: Entry) {
        if let Some((segment, page)) = old.at()
            && let Some(fresh) = self.drive.pages(segment).recycle_page(page)
        {
            self.drive.keep(&mut self.store, fresh);
        }
    }

    /// Takes from the free pages that all cores share until the store has so many, and some more.
    fn restock(&mut self, count: usize) {
        assert!(count <= STORE_MAX, "a request fits the store");
        if self.store.len() >= count {
            return;
        }
        let target = (count + STORE_MOVE).min(STORE_MAX);
        let from = self.store.len();
        for pages in self.drive.segments() {
            while self.store.len() < target
                && let Some(buf) = pages.fresh()
            {
                self.store.push(buf);
            }
        }
        // The store is taken from its end: so neighbours leave it in ascending order, and the blocks of a
        // large transfer lie side by side. They are sent as fewer pieces, and copied faster.
        self.store[from..].reverse();
    }

    /// What the index says of the first page of a read or a write, if that is inside.
    #[inline]
    fn first_entry(&self, op: Op) -> Option<&AtomicU32> {
        let (Op::Read { lba, .. } | Op::Write { lba, .. }) = op else {
            return None;
        };
        let byte = lba.checked_mul(u64::from(self.drive.block_len))?;
        let page = usize::try_from(byte / PAGE as u64).ok()?;
        self.drive
            .index
            .get(page / CHUNK_PAGES)?
            .get()?
            .get(page % CHUNK_PAGES)
    }

    /// The page that the index names here is shared or let go soon: the count of who holds it is asked for.
    #[inline]
    fn hint(&self, entry: &AtomicU32) {
        if let Some((segment, page)) = Entry(entry.load(Ordering::Relaxed)).at() {
            self.drive.pages(segment).hint(page);
        }
    }

    /// Does a request; false if it has to wait for a page.
    #[inline]
    fn finish(&mut self, io: &mut Io) -> bool {
        let Ok(status) = self.execute(io.op, &mut io.bufs) else {
            return false;
        };
        let (tag, bufs) = (io.tag, std::mem::take(&mut io.bufs));
        self.done.push_back(Done { tag, status, bufs });
        true
    }
}

/// No page is free now.
struct NoRoom;

impl Backend for RamQueue {
    #[inline]
    fn submit(&mut self, io: Io) -> Result<(), Io> {
        if self.in_flight() >= DEPTH {
            return Err(io);
        }
        if let Some(entry) = self.first_entry(io.op) {
            ferroce_buf::prefetch(std::ptr::from_ref(entry).cast());
        }
        self.asked.push(io);
        Ok(())
    }

    /// Does what was submitted. A read or a write looks at two random places, its entry of the index and the count of who
    /// holds the page. Those of all are asked for before the first is needed, so the waits for them
    /// are one: submitting asks for the entries, and this for the counts.
    fn ring_doorbell(&mut self) {
        while let Some(mut io) = self.waiting.pop_front() {
            if !self.finish(&mut io) {
                self.waiting.push_front(io);
                break;
            }
        }
        let mut asked = std::mem::take(&mut self.asked);
        let mut writes = false;
        for io in &asked {
            writes |= matches!(io.op, Op::Write { .. });
            if let Some(entry) = self.first_entry(io.op) {
                self.hint(entry);
            }
        }
        if writes {
            // Other cores may read what was filled as soon as the index names it.
            ferroce_buf::settle();
        }
        for io in &mut asked {
            if !self.finish(io) {
                let (tag, op, bufs) = (io.tag, io.op, std::mem::take(&mut io.bufs));
                self.waiting.push_back(Io { tag, op, bufs });
            }
        }
        asked.clear();
        self.asked = asked;
    }

    #[inline]
    fn poll(&mut self) -> Option<Done> {
        self.done.pop_front()
    }

    #[inline]
    fn in_flight(&self) -> usize {
        self.done.len() + self.asked.len() + self.waiting.len()
    }

    fn brings_memory(&self) -> bool {
        true
    }

    fn space(&mut self, lba: u64, len: usize, into: &mut BufList) -> bool {
        assert!(len <= MAX_TRANSFER as usize, "a request within the limit");
        let (start, _) = self.span(lba, 0);
        let mut offset = (start % PAGE as u64) as usize;
        let count = (offset + len).div_ceil(PAGE);
        self.restock(count + RESERVE);
        if self.store.len() < count + RESERVE {
            return false;
        }
        let mut left = len;
        while left > 0 {
            let mut buf = self.store.pop().expect("counted above");
            let here = left.min(PAGE - offset);
            buf.advance(offset);
            buf.truncate(here);
            into.push(buf);
            left -= here;
            offset = 0;
        }
        true
    }

    fn lends(&self) -> u32 {
        self.lends
    }

    #[inline]
    fn put(&mut self, buf: Buf) {
        let RamQueue { drive, store, .. } = self;
        let (_, pages) = drive.segment_of(&buf);
        pages.recycle(buf, |fresh| drive.keep(store, fresh));
    }

    #[inline]
    fn has_work(&self) -> bool {
        self.in_flight() > 0
    }
}

impl Drop for RamQueue {
    fn drop(&mut self) {
        let lists = self
            .done
            .drain(..)
            .map(|done| done.bufs)
            .chain(self.asked.drain(..).map(|io| io.bufs))
            .chain(self.waiting.drain(..).map(|io| io.bufs));
        for mut bufs in lists {
            while let Some(buf) = bufs.pop() {
                self.drive.segment_of(&buf).1.put(buf);
            }
        }
        for buf in self.store.drain(..) {
            self.drive.segment_of(&buf).1.put(buf);
        }
        if let Some((segment, page)) = self.zero.at() {
            self.drive.pages(segment).unhold(page);
        }
    }
}

/// A place where another core may come in between: tests make it likely.
#[cfg(not(test))]
#[inline]
fn race() {}

#[cfg(test)]
fn race() {
    if fastrand::u8(..) < 64 {
        std::thread::yield_now();
    }
}

#[cfg(test)]
mod tests;
