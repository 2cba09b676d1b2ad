//! Where a command's data is: its PRP entries, and what else lies in its slot's place in queue memory.

use std::sync::atomic::Ordering;

use ferroce_wire::feature::DsmRange;
use ferroce_wire::sqe::{Prp, Sqe};

use super::{Command, LIST_LEN, PAGE};
use crate::dma::{BufMap, DmaMemory};

/// The bytes of a command, if they lie in one page, as those of most do.
#[inline(always)]
pub(super) fn one_page(command: &Command, bufs: &BufMap, shift: u8) -> Option<Prp> {
    let len = u64::from(command.part) << shift;
    let buf = command.io.bufs.first()?;
    if command.done > 0 || len > buf.len() as u64 {
        return None;
    }
    let iova = bufs.iova(buf);
    (iova % PAGE as u64 + len <= PAGE as u64).then(|| Prp {
        prp1: iova.into(),
        prp2: 0.into(),
    })
}

/// Where a command's list and the two pages are.
pub(super) struct Slot<'a> {
    pub memory: &'a DmaMemory,
    pub list: usize,
    pub zeros: usize,
    pub scratch: usize,
}

impl Slot<'_> {
    /// The bytes of a command's part.
    #[inline(never)]
    pub fn bufs(&self, command: &Command, bufs: &BufMap, shift: u8) -> Prp {
        let mut prps = Prps::new(self);
        let mut skip = u64::from(command.done) << shift;
        let mut left = u64::from(command.part) << shift;
        for buf in command.io.bufs.iter() {
            let len = buf.len() as u64;
            if skip >= len {
                skip -= len;
                continue;
            }
            let run = left.min(len - skip);
            prps.run(bufs.iova(buf) + skip, run);
            skip = 0;
            left -= run;
            if left == 0 {
                break;
            }
        }
        assert!(left == 0, "a request has Bufs for its blocks");
        prps.pointer()
    }

    /// The same page again and again.
    pub fn point_at_page(&self, sqe: &mut Sqe, page: usize, len: u32) {
        let mut prps = Prps::new(self);
        let mut left = u64::from(len);
        while left > 0 {
            let run = left.min(PAGE as u64);
            prps.run(self.memory.iova(page), run);
            left -= run;
        }
        sqe.set_prp(prps.pointer());
    }

    /// One range of a Dataset Management, where the list would be.
    pub fn point_at_range(&self, sqe: &mut Sqe, lba: u64, blocks: u32) {
        let range = DsmRange {
            cattr: 0.into(),
            nlb: blocks.into(),
            slba: lba.into(),
        };
        let words: [u64; 2] = bytemuck::cast(range);
        for (place, word) in self.memory.words()[self.list / 8..].iter().zip(words) {
            place.store(word, Ordering::Relaxed);
        }
        sqe.set_prp(Prp {
            prp1: self.memory.iova(self.list).into(),
            prp2: 0.into(),
        });
    }
}

/// PRP entries of one command (Base 4.3.1): the first in the command, the second too if it is the last, else
/// all but the first in the slot's list.
struct Prps<'a> {
    slot: &'a Slot<'a>,
    first: u64,
    second: u64,
    count: usize,
    end: u64,
}

impl<'a> Prps<'a> {
    #[inline]
    fn new(slot: &'a Slot<'a>) -> Prps<'a> {
        Prps {
            slot,
            first: 0,
            second: 0,
            count: 0,
            end: 0,
        }
    }

    /// A run of bytes. Only the first may begin, and only the last may end, inside a page.
    #[inline]
    fn run(&mut self, iova: u64, len: u64) {
        let page = PAGE as u64;
        assert!(
            self.count == 0 || (iova.is_multiple_of(page) && self.end.is_multiple_of(page)),
            "Bufs of one transfer join at page boundaries"
        );
        self.end = iova + len;
        let mut at = iova;
        while at < self.end {
            match self.count {
                0 => self.first = at,
                1 => self.second = at,
                _ => {}
            }
            if self.count > 0 {
                assert!(self.count <= LIST_LEN / 8, "a transfer fits its list");
                let word = self.slot.list / 8 + self.count - 1;
                self.slot.memory.words()[word].store(at.to_le(), Ordering::Relaxed);
            }
            self.count += 1;
            at = (at & !(page - 1)) + page;
        }
    }

    #[inline]
    fn pointer(self) -> Prp {
        let second = match self.count {
            0 | 1 => 0,
            2 => self.second,
            _ => self.slot.memory.iova(self.slot.list),
        };
        Prp {
            prp1: self.first.into(),
            prp2: second.into(),
        }
    }
}
