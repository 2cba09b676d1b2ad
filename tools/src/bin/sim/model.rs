//! What hosts may find in blocks. For each block the model keeps every write whose data might be there,
//! with the interval in which it took effect; a read must find one of those that were not yet replaced
//! when it began. Crashes of a node with a volatile cache bring back what was not made durable.
//!
//! Times here are counts of what the hosts saw happen, not nanoseconds: what is before what is all that
//! matters.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::content::Content;

/// Names a medium: a drive as long as its data lives.
pub type MediumId = usize;

/// Never, so far.
const OPEN: u64 = u64::MAX;

/// A write to one block.
#[derive(Clone, Debug)]
struct Rec {
    id: u64,
    content: Content,
    start: u64,
    /// It has no effect after this.
    end: u64,
    /// Reads that begin later do not find it.
    superseded: u64,
    /// What replaced it is durable: not even a crash brings it back.
    hard: bool,
    /// A crash does not take it away.
    durable: bool,
    /// The host was told that it is done.
    acked: bool,
}

#[derive(Clone, Debug, Default)]
struct Block {
    /// When the drive grew to have this block.
    born: u64,
    /// Empty while nobody wrote.
    recs: Vec<Rec>,
}

#[derive(Debug)]
struct Medium {
    volatile: bool,
    blocks: Vec<Block>,
    /// Blocks with acknowledged writes that are not durable.
    dirty: BTreeSet<u64>,
    crashed: u64,
}

/// A write, or what counts as one, that has not ended.
#[derive(Clone, Debug)]
struct Write {
    medium: MediumId,
    lba: u64,
    blocks: u64,
    content: Content,
    start: u64,
    /// It may leave blocks as they were even if it succeeds (Deallocate).
    optional: bool,
}

/// How a write ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// Acknowledged.
    Done {
        /// As durable (FUA).
        durable: bool,
    },
    /// It may have happened, in whole or in part, and will not happen any more.
    Perhaps,
}

#[derive(Debug, Default)]
pub struct Model {
    time: u64,
    media: Vec<Medium>,
    writes: BTreeMap<u64, Write>,
    /// Writes that a crash ended: an acknowledgement may still be on its way.
    late: BTreeMap<u64, Write>,
    next: u64,
    reads: BTreeMap<u64, u32>,
}

impl Model {
    /// The next moment.
    pub fn tick(&mut self) -> u64 {
        self.time += 1;
        self.time
    }

    /// A new drive full of zeros. Without a volatile cache every acknowledged write is durable.
    pub fn add_medium(&mut self, blocks: u64, volatile: bool) -> MediumId {
        self.media.push(Medium {
            volatile,
            blocks: vec![Block::default(); blocks as usize],
            dirty: BTreeSet::new(),
            crashed: 0,
        });
        self.media.len() - 1
    }

    /// A name for what a write puts into its blocks.
    pub fn new_content(&mut self) -> Content {
        self.next += 1;
        self.next
    }

    /// A host sends a write.
    pub fn begin(
        &mut self,
        medium: MediumId,
        lba: u64,
        blocks: u64,
        content: Content,
        optional: bool,
    ) -> u64 {
        self.next += 1;
        let id = self.next;
        let start = self.tick();
        let write = Write {
            medium,
            lba,
            blocks,
            content,
            start,
            optional,
        };
        self.add_recs(id, &write, 0);
        self.writes.insert(id, write);
        id
    }

    fn add_recs(&mut self, id: u64, write: &Write, from: u64) {
        let oldest = self.oldest_read();
        let blocks = &mut self.media[write.medium].blocks;
        let last = (write.lba + write.blocks).min(blocks.len() as u64);
        for lba in write.lba.max(from)..last {
            let block = &mut blocks[lba as usize];
            block.touch();
            block.prune(oldest);
            block.recs.push(Rec {
                id,
                content: write.content,
                start: write.start,
                end: OPEN,
                superseded: OPEN,
                hard: false,
                durable: false,
                acked: false,
            });
        }
    }

    /// A write has ended, as far as its host knows.
    pub fn end(&mut self, id: u64, how: Ended) {
        let now = self.tick();
        let (write, late) = match self.writes.remove(&id) {
            Some(write) => (write, false),
            None => match self.late.remove(&id) {
                Some(write) => (write, true),
                None => return,
            },
        };
        let medium = &mut self.media[write.medium];
        let durable = how == Ended::Done { durable: true } || !medium.volatile;
        let done = how != Ended::Perhaps && !write.optional;
        // Acknowledged before the crash, heard of after it: only a durable one is sure to be there.
        let counts = done && (!late || durable);
        let last = (write.lba + write.blocks).min(medium.blocks.len() as u64);
        for lba in write.lba..last {
            let block = &mut medium.blocks[lba as usize];
            let Some(rec) = block.recs.iter_mut().find(|rec| rec.id == id) else {
                continue;
            };
            rec.end = rec.end.min(now);
            if !counts {
                continue;
            }
            rec.acked = true;
            rec.durable |= durable;
            let (start, hard) = (rec.start, rec.durable);
            block.supersede(id, start, now, hard);
            if !hard {
                medium.dirty.insert(lba);
            }
        }
    }

    /// A Flush that a host sent at `start` was acknowledged, or a command with FUA that read these blocks.
    pub fn flushed(&mut self, medium: MediumId, blocks: Range<u64>, start: u64) {
        let now = self.tick();
        let medium = &mut self.media[medium];
        let mut still = BTreeSet::new();
        for lba in std::mem::take(&mut medium.dirty) {
            if !blocks.contains(&lba) {
                still.insert(lba);
                continue;
            }
            let Some(block) = medium.blocks.get_mut(lba as usize) else {
                continue;
            };
            let sure: Vec<(u64, u64)> = block
                .recs
                .iter_mut()
                .filter(|rec| rec.acked && rec.end < start)
                .map(|rec| {
                    rec.durable = true;
                    (rec.id, rec.start)
                })
                .collect();
            for (id, began) in sure {
                block.supersede(id, began, now, true);
            }
            if block.recs.iter().any(|rec| rec.acked && !rec.durable) {
                still.insert(lba);
            }
        }
        medium.dirty = still;
    }

    /// A read (or compare) begins; say so with its number again at its end.
    pub fn begin_read(&mut self) -> u64 {
        let start = self.tick();
        *self.reads.entry(start).or_insert(0) += 1;
        start
    }

    /// It is over.
    pub fn end_read(&mut self, start: u64) {
        if let Some(count) = self.reads.get_mut(&start) {
            *count -= 1;
            if *count == 0 {
                self.reads.remove(&start);
            }
        }
    }

    fn oldest_read(&self) -> u64 {
        self.reads.keys().next().copied().unwrap_or(OPEN)
    }

    /// True if a read that began at `start` and ends now may find this in a block.
    pub fn may_find(&self, medium: MediumId, lba: u64, content: Content, start: u64) -> bool {
        let Some(block) = self.media[medium].blocks.get(lba as usize) else {
            // Cut off while the read was under way.
            return true;
        };
        if block.born > start {
            return true;
        }
        if block.recs.is_empty() {
            return content == 0;
        }
        let found = |rec: &&Rec| rec.content == content && rec.superseded >= start;
        block.recs.iter().any(|rec| found(&rec))
    }

    /// True if a read that began at `start` and ends now can find nothing else.
    pub fn must_find(&self, medium: MediumId, lba: u64, content: Content, start: u64) -> bool {
        let Some(block) = self.media[medium].blocks.get(lba as usize) else {
            return false;
        };
        if block.born > start {
            return false;
        }
        let mut possible = block.recs.iter().filter(|rec| rec.superseded >= start);
        possible.all(|rec| rec.content == content) && (content == 0 || !block.recs.is_empty())
    }

    /// A read that began at `start` and ends now found this in a block: what ended before it began is
    /// replaced for good.
    pub fn observed(&mut self, medium: MediumId, lba: u64, content: Content, start: u64) {
        let now = self.time;
        let medium = &mut self.media[medium];
        let crashed = medium.crashed;
        let Some(block) = medium.blocks.get_mut(lba as usize) else {
            return;
        };
        if start <= crashed || block.born > start {
            return;
        }
        let mut found = block
            .recs
            .iter_mut()
            .filter(|rec| rec.content == content && rec.superseded >= start);
        let (Some(rec), None) = (found.next(), found.next()) else {
            // Zeros may have come from several.
            return;
        };
        // What is there after a crash came from the medium.
        rec.durable |= rec.end <= crashed;
        let (id, hard) = (rec.id, rec.durable);
        block.supersede(id, start, now, hard);
    }

    /// What a block may hold now, for a host that wants to compare.
    pub fn guess(&self, medium: MediumId, lba: u64) -> Content {
        let block = self.media[medium].blocks.get(lba as usize);
        let recs = block.map(|block| block.recs.as_slice()).unwrap_or(&[]);
        let now = recs.iter().rev().find(|rec| rec.superseded == OPEN);
        now.map_or(0, |rec| rec.content)
    }

    /// The node went down and everything in flight with it. With `power`, volatile caches are lost.
    pub fn crash(&mut self, power: bool) {
        let now = self.tick();
        for (id, write) in std::mem::take(&mut self.writes) {
            let blocks = &mut self.media[write.medium].blocks;
            let last = (write.lba + write.blocks).min(blocks.len() as u64);
            for lba in write.lba..last {
                let mut recs = blocks[lba as usize].recs.iter_mut();
                if let Some(rec) = recs.find(|rec| rec.id == id) {
                    rec.end = now;
                }
            }
            self.late.insert(id, write);
        }
        if !power {
            return;
        }
        for medium in &mut self.media {
            medium.crashed = now;
            medium.dirty.clear();
            for rec in medium.blocks.iter_mut().flat_map(|block| &mut block.recs) {
                rec.end = rec.end.min(now);
                if medium.volatile && !rec.hard {
                    rec.superseded = OPEN;
                }
            }
        }
    }

    /// The drive has another size. Writes that are under way may still reach new blocks.
    pub fn resize(&mut self, medium: MediumId, blocks: u64) {
        let now = self.tick();
        let all = &mut self.media[medium].blocks;
        let before = all.len() as u64;
        let born = Block {
            born: now,
            recs: Vec::new(),
        };
        all.resize(blocks as usize, born);
        if blocks > before {
            let under_way: Vec<(u64, Write)> = self
                .writes
                .iter()
                .filter(|(_, write)| write.medium == medium)
                .map(|(id, write)| (*id, write.clone()))
                .collect();
            for (id, write) in under_way {
                self.add_recs(id, &write, before);
            }
        }
    }

    /// What may be in a block, for a message.
    pub fn describe(&self, medium: MediumId, lba: u64, start: u64) -> String {
        let Some(block) = self.media[medium].blocks.get(lba as usize) else {
            return "no such block".to_owned();
        };
        let recs = block.recs.iter().map(|rec| {
            let mark = if rec.superseded >= start {
                ""
            } else {
                " (replaced)"
            };
            format!(
                "{} [{}..{}]{}{}{mark}",
                rec.content,
                rec.start,
                if rec.end == OPEN {
                    "open".to_owned()
                } else {
                    rec.end.to_string()
                },
                if rec.acked { " acked" } else { "" },
                if rec.durable { " durable" } else { "" },
            )
        });
        format!("{{{}}}", recs.collect::<Vec<_>>().join(", "))
    }
}

impl Block {
    /// Zeros count as the first write.
    fn touch(&mut self) {
        if self.recs.is_empty() {
            self.recs.push(Rec {
                id: 0,
                content: 0,
                start: 0,
                end: self.born,
                superseded: OPEN,
                hard: false,
                durable: true,
                acked: true,
            });
        }
    }

    /// What ended before `start` is replaced by write `id`, known at `now`.
    fn supersede(&mut self, id: u64, start: u64, now: u64, hard: bool) {
        for rec in &mut self.recs {
            if rec.id != id && rec.end < start {
                rec.superseded = rec.superseded.min(now);
                rec.hard |= hard;
            }
        }
    }

    fn prune(&mut self, oldest_read: u64) {
        self.recs
            .retain(|rec| !rec.hard || rec.superseded >= oldest_read || rec.end == OPEN);
    }
}
