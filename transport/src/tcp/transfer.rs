//! Data asked from the host of one connection: which R2Ts are out, which wait, and where the bytes
//! go. A number off the wire (TTAG) becomes an index here and nowhere else.
//!
//! Neighbouring [`Fetch`](ferroce_engine::port::Fetch)es of one command share one R2T as long as it
//! has not been sent: hosts that allow one R2T at a time (Linux) then send a large write without a
//! round trip per part. Each part is still reported for itself.

use std::collections::VecDeque;
use std::ops::Range;

use ferroce_buf::BufList;
use ferroce_engine::port::Tag;
use ferroce_wire::status::Status;

/// A part of a command's data is there.
#[derive(Debug)]
pub struct Filled {
    /// Of the fetch.
    pub tag: Tag,
    /// Of the fetch, filled.
    pub bufs: BufList,
    /// SUCCESS, or a transient transport error.
    pub status: Status,
}

/// What an R2T says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ask {
    /// CCCID.
    pub cid: u16,
    /// TTAG.
    pub ttag: u16,
    /// R2TO.
    pub offset: u32,
    /// R2TL.
    pub len: u32,
}

/// Index of a transfer whose R2T is out: a TTAG that was checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slot(u16);

/// Transfers of one connection.
#[derive(Debug)]
pub struct Transfers {
    slots: Vec<Transfer>,
    free: Vec<u16>,
    parts: Vec<Part>,
    parts_free: Vec<u16>,
    /// First transfer of each chain of CIDs with the same low bits, oldest first.
    chains: [u16; CHAINS],
    /// Transfers whose R2T may be sent.
    waiting: VecDeque<u16>,
    /// Bytes that R2Ts asked for and that did not come yet.
    expected: usize,
    /// R2Ts that are out.
    out: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Life {
    Free,
    /// In `waiting`.
    Waiting,
    /// As many R2Ts of its command are out as the host allows.
    Blocked,
    /// Its R2T is out.
    Out,
}

#[derive(Debug)]
struct Transfer {
    life: Life,
    /// Upper bits of its TTAG.
    generation: u16,
    cid: u16,
    offset: u32,
    len: u32,
    got: u32,
    /// A digest did not match: what has not been reported yet is reported as failed.
    spoiled: bool,
    /// Oldest part that was not reported.
    first: u16,
    /// The part that is being filled, and how far.
    current: u16,
    current_got: usize,
    last: u16,
    /// Next in the chain.
    next: u16,
}

#[derive(Debug)]
struct Part {
    tag: Tag,
    bufs: BufList,
    len: usize,
    next: u16,
}

const CHAINS: usize = 64;
const NONE: u16 = u16::MAX;
/// A TTAG is a slot in its low bits and the slot's life above.
const SLOT_BITS: u32 = 12;
/// Transfers of one connection at a time.
const SLOTS_MAX: usize = 1 << SLOT_BITS;

const _: () = assert!(
    SLOTS_MAX
        >= ferroce_engine::limits::IO_DEPTH_MAX as usize
            * ferroce_engine::limits::CHUNKS_PER_COMMAND
);

impl Default for Transfers {
    fn default() -> Transfers {
        Transfers {
            slots: Vec::new(),
            free: Vec::new(),
            parts: Vec::new(),
            parts_free: Vec::new(),
            chains: [NONE; CHAINS],
            waiting: VecDeque::new(),
            expected: 0,
            out: 0,
        }
    }
}

impl Transfers {
    /// Wants `bufs` filled from byte `offset` of the command's data on.
    ///
    /// # Panics
    /// If nothing is wanted, or if there are more fetches than commands can have.
    pub fn add(&mut self, cid: u16, offset: u32, tag: Tag, bufs: BufList) {
        let len = bufs.len();
        assert!(len > 0, "a fetch wants bytes");
        let part = self.new_part(Part {
            tag,
            bufs,
            len,
            next: NONE,
        });
        let mut tail = NONE;
        let mut at = self.chains[chain_of(cid)];
        while at != NONE {
            let transfer = &mut self.slots[usize::from(at)];
            let unsent = matches!(transfer.life, Life::Waiting | Life::Blocked);
            if unsent && transfer.cid == cid && transfer.offset + transfer.len == offset {
                transfer.len += len as u32;
                let last = std::mem::replace(&mut transfer.last, part);
                self.parts[usize::from(last)].next = part;
                return;
            }
            tail = at;
            at = transfer.next;
        }
        let slot = self.new_transfer(cid, offset, len as u32, part);
        if tail == NONE {
            self.chains[chain_of(cid)] = slot;
        } else {
            self.slots[usize::from(tail)].next = slot;
        }
        self.waiting.push_back(slot);
    }

    fn new_part(&mut self, part: Part) -> u16 {
        if let Some(at) = self.parts_free.pop() {
            self.parts[usize::from(at)] = part;
            return at;
        }
        let at = self.parts.len();
        assert!(
            at < usize::from(NONE),
            "parts are bounded by the commands of a queue"
        );
        self.parts.push(part);
        at as u16
    }

    fn new_transfer(&mut self, cid: u16, offset: u32, len: u32, part: u16) -> u16 {
        let at = self.free.pop().unwrap_or_else(|| {
            let at = self.slots.len();
            assert!(
                at < SLOTS_MAX,
                "transfers are bounded by the commands of a queue"
            );
            self.slots.push(Transfer {
                life: Life::Free,
                generation: 0,
                cid: 0,
                offset: 0,
                len: 0,
                got: 0,
                spoiled: false,
                first: NONE,
                current: NONE,
                current_got: 0,
                last: NONE,
                next: NONE,
            });
            at as u16
        });
        let transfer = &mut self.slots[usize::from(at)];
        *transfer = Transfer {
            life: Life::Waiting,
            generation: transfer.generation,
            cid,
            offset,
            len,
            got: 0,
            spoiled: false,
            first: part,
            current: part,
            current_got: 0,
            last: part,
            next: NONE,
        };
        at
    }

    /// True if [`Transfers::next_r2t`] would be worth asking.
    #[inline]
    pub fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The next R2T to send, with at most `maxr2t` of one command out at a time.
    pub fn next_r2t(&mut self, maxr2t: u64) -> Option<Ask> {
        while let Some(at) = self.waiting.pop_front() {
            let cid = self.slots[usize::from(at)].cid;
            let blocked = self.out_of(cid) >= maxr2t;
            let transfer = &mut self.slots[usize::from(at)];
            if blocked {
                transfer.life = Life::Blocked;
                continue;
            }
            transfer.life = Life::Out;
            self.out += 1;
            self.expected += transfer.len as usize;
            return Some(Ask {
                cid,
                ttag: transfer.generation << SLOT_BITS | at,
                offset: transfer.offset,
                len: transfer.len,
            });
        }
        None
    }

    fn out_of(&self, cid: u16) -> u64 {
        let mut count = 0;
        let mut at = self.chains[chain_of(cid)];
        while at != NONE {
            let transfer = &self.slots[usize::from(at)];
            count += u64::from(transfer.cid == cid && transfer.life == Life::Out);
            at = transfer.next;
        }
        count
    }

    /// Bytes that are on their way, per R2T: tells small writes from large ones.
    #[inline]
    pub fn expected_each(&self) -> usize {
        self.expected.checked_div(self.out).unwrap_or(0)
    }

    /// The transfer that a TTAG names, if its R2T is out.
    pub fn find(&self, ttag: u16) -> Option<Slot> {
        let at = ttag & (SLOTS_MAX as u16 - 1);
        let transfer = self.slots.get(usize::from(at))?;
        let known = transfer.life == Life::Out && transfer.generation == ttag >> SLOT_BITS;
        known.then_some(Slot(at))
    }

    /// Of which command it is.
    pub fn cid(&self, slot: Slot) -> u16 {
        self.slots[usize::from(slot.0)].cid
    }

    /// What its R2T asked for, in the command's data.
    pub fn range(&self, slot: Slot) -> Range<u32> {
        let transfer = &self.slots[usize::from(slot.0)];
        transfer.offset..transfer.offset + transfer.len
    }

    /// The offset in the command's data that must come next, and how much is still to come.
    pub fn next_data(&self, slot: Slot) -> (u32, u32) {
        let transfer = &self.slots[usize::from(slot.0)];
        (transfer.offset + transfer.got, transfer.len - transfer.got)
    }

    /// Takes bytes that lie elsewhere.
    ///
    /// # Panics
    /// If they are more than is still to come.
    pub fn fill(&mut self, slot: Slot, mut data: &[u8]) {
        while !data.is_empty() {
            let transfer = &self.slots[usize::from(slot.0)];
            let part = &mut self.parts[usize::from(transfer.current)];
            let (now, later) = data.split_at(data.len().min(part.len - transfer.current_got));
            part.bufs.copy_in(transfer.current_got, now);
            self.advance(slot, now.len());
            data = later;
        }
    }

    /// Where the next bytes of this transfer belong: `take` is given the memory that is left of the
    /// part that is being filled, in order, until it says false.
    pub fn space<'a>(&'a mut self, slot: Slot, mut take: impl FnMut(&'a mut [u8]) -> bool) {
        let transfer = &self.slots[usize::from(slot.0)];
        let mut skip = transfer.current_got;
        for buf in self.parts[usize::from(transfer.current)].bufs.iter_mut() {
            if skip >= buf.len() {
                skip -= buf.len();
                continue;
            }
            if !take(&mut buf.bytes_mut()[skip..]) {
                return;
            }
            skip = 0;
        }
    }

    /// The first `count` bytes that [`Transfers::space`] would give, for their digest.
    pub fn each_filled(&self, slot: Slot, mut count: usize, mut look: impl FnMut(&[u8])) {
        let transfer = &self.slots[usize::from(slot.0)];
        let mut skip = transfer.current_got;
        for buf in self.parts[usize::from(transfer.current)].bufs.iter() {
            if skip >= buf.len() {
                skip -= buf.len();
                continue;
            }
            let bytes = &buf.bytes()[skip..];
            let now = count.min(bytes.len());
            look(&bytes[..now]);
            count -= now;
            skip = 0;
            if count == 0 {
                return;
            }
        }
    }

    /// `count` bytes were placed where [`Transfers::space`] said, all in one part.
    pub fn advance(&mut self, slot: Slot, count: usize) {
        let transfer = &mut self.slots[usize::from(slot.0)];
        let part = &self.parts[usize::from(transfer.current)];
        transfer.got += count as u32;
        transfer.current_got += count;
        assert!(
            transfer.current_got <= part.len,
            "data stays inside its part"
        );
        self.expected -= count;
        if transfer.current_got == part.len {
            transfer.current = part.next;
            transfer.current_got = 0;
        }
    }

    /// A digest of this transfer's data did not match.
    pub fn spoil(&mut self, slot: Slot) {
        self.slots[usize::from(slot.0)].spoiled = true;
    }

    /// Reports the parts that are full; what was received so far has been checked. The transfer ends
    /// with its last byte, and another of its command may ask then.
    pub fn release(&mut self, slot: Slot, filled: &mut VecDeque<Filled>) {
        let transfer = &mut self.slots[usize::from(slot.0)];
        let status = if transfer.spoiled {
            Status::TRANSIENT_TRANSPORT_ERROR
        } else {
            Status::SUCCESS
        };
        while transfer.first != transfer.current {
            let at = transfer.first;
            let part = &mut self.parts[usize::from(at)];
            transfer.first = part.next;
            filled.push_back(Filled {
                tag: part.tag,
                bufs: std::mem::take(&mut part.bufs),
                status,
            });
            self.parts_free.push(at);
        }
        if transfer.got == transfer.len {
            self.end(slot.0);
        }
    }

    fn end(&mut self, at: u16) {
        let transfer = &mut self.slots[usize::from(at)];
        let cid = transfer.cid;
        let next = transfer.next;
        transfer.life = Life::Free;
        transfer.generation = (transfer.generation + 1) & (NONE >> SLOT_BITS);
        self.free.push(at);
        self.out -= 1;
        let mut before = NONE;
        let mut seen = self.chains[chain_of(cid)];
        while seen != at {
            before = seen;
            seen = self.slots[usize::from(seen)].next;
        }
        if before == NONE {
            self.chains[chain_of(cid)] = next;
        } else {
            self.slots[usize::from(before)].next = next;
        }
        let mut other = self.chains[chain_of(cid)];
        while other != NONE {
            let transfer = &mut self.slots[usize::from(other)];
            if transfer.cid == cid && transfer.life == Life::Blocked {
                transfer.life = Life::Waiting;
                self.waiting.push_back(other);
                return;
            }
            other = transfer.next;
        }
    }

    /// Gives up on all of it; the Bufs go to `home`.
    pub fn clear(&mut self, home: &mut impl FnMut(BufList)) {
        for part in &mut self.parts {
            let bufs = std::mem::take(&mut part.bufs);
            if !bufs.is_empty() {
                home(bufs);
            }
        }
        *self = Transfers::default();
    }
}

fn chain_of(cid: u16) -> usize {
    usize::from(cid) % CHAINS
}
