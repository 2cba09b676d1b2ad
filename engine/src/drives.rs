//! A core's ends of the drives, and where their Bufs are.
//!
//! A drive that brings memory is counted on: it leaves only when every Buf it dealt is home, since
//! those may still be on their way to hosts when its last command is long answered.

use ferroce_buf::{Buf, BufList};

use crate::plant::{self, Bug};
use crate::port::{Backend, Done, DriveId, Io};

/// The drives as one core sees them, by [`DriveId`].
#[derive(Debug)]
pub struct Drives<D> {
    slots: Vec<Option<Slot<D>>>,
    /// Some were removed and are still needed.
    needed: bool,
}

/// A drive, and what is known of its Bufs.
#[derive(Debug)]
pub(crate) struct Slot<D> {
    drive: D,
    id: DriveId,
    brings_memory: bool,
    /// Bufs of the drive's own that are out.
    out: u32,
    /// How many of its pages are with peers, or promised to some, and how many may be.
    lent: u32,
    lends: u32,
    /// To be dropped when the last Buf is home, and nothing else needs it.
    leaving: bool,
}

impl<D: Backend> Drives<D> {
    pub(crate) fn new() -> Drives<D> {
        Drives {
            slots: Vec::new(),
            needed: false,
        }
    }

    /// The numbers that drives have, and some that drives had.
    pub(crate) fn ids(&self) -> impl Iterator<Item = DriveId> + use<D> {
        (0..self.slots.len() as u16).map(DriveId)
    }

    /// A drive that commands may be given to.
    #[inline]
    pub fn get(&mut self, id: DriveId) -> Option<&mut D> {
        let slot = self.slots.get_mut(usize::from(id.0))?.as_mut()?;
        Some(&mut slot.drive)
    }

    /// Fresh Bufs of the drive's own; see [`Backend::space`].
    pub fn space(&mut self, id: DriveId, lba: u64, len: usize, into: &mut BufList) -> bool {
        let Some(Some(slot)) = self.slots.get_mut(usize::from(id.0)) else {
            return false;
        };
        let had = into.count();
        let ok = slot.drive.space(lba, len, into);
        slot.out += (into.count() - had) as u32;
        ok
    }

    /// The drive deals the memory for its data; see [`Backend::brings_memory`].
    #[inline]
    pub fn brings_memory(&self, id: DriveId) -> bool {
        let slot = self.slots.get(usize::from(id.0)).and_then(Option::as_ref);
        slot.is_some_and(|slot| slot.brings_memory)
    }

    /// A drive, to be given something.
    #[inline]
    pub(crate) fn slot(&mut self, id: DriveId) -> Option<&mut Slot<D>> {
        self.slots.get_mut(usize::from(id.0))?.as_mut()
    }

    /// So many pages are not with a peer any more.
    #[inline]
    pub(crate) fn returned(&mut self, id: DriveId, count: u32) {
        let slot = self.slots[usize::from(id.0)].as_mut();
        slot.expect("a drive stays until its Bufs are home").lent -= count;
    }

    /// Bufs of the drive's own come home.
    #[inline]
    pub fn put(&mut self, buf: Buf) {
        let id = usize::from(buf.home().0 - 1);
        let place = &mut self.slots[id];
        let slot = place
            .as_mut()
            .expect("a drive stays until its Bufs are home");
        slot.out -= 1;
        if buf.dealt_to() != 0 {
            slot.lent -= buf.pages();
        }
        slot.drive.put(buf);
        if slot.leaving && slot.out == 0 {
            *place = None;
        }
    }

    /// Gives a request to a drive; see [`Backend::submit`].
    #[inline]
    pub fn submit(&mut self, id: DriveId, io: Io) -> Result<(), Io> {
        match self.slot(id) {
            Some(slot) => slot.submit(io),
            None => Err(io),
        }
    }

    /// The next completion of a drive, if it has one.
    #[inline]
    pub(crate) fn poll(&mut self, id: DriveId) -> Option<Done> {
        let slot = self.slots.get_mut(usize::from(id.0))?.as_mut()?;
        let done = slot.drive.poll();
        if let Some(done) = &done {
            slot.out += own(&done.bufs, id);
        }
        done
    }

    pub(crate) fn add(&mut self, id: DriveId, drive: D) {
        let at = usize::from(id.0);
        if self.slots.len() <= at {
            self.slots.resize_with(at + 1, || None);
        }
        assert!(self.slots[at].is_none(), "a drive's number is used once");
        self.slots[at] = Some(Slot {
            brings_memory: drive.brings_memory(),
            lends: if plant::on(Bug::LendsAll) {
                1 << 30
            } else {
                drive.lends()
            },
            drive,
            id,
            out: 0,
            lent: 0,
            leaving: false,
        });
    }

    pub(crate) fn remove(&mut self, id: DriveId) {
        let place = &mut self.slots[usize::from(id.0)];
        let slot = place.as_mut().expect("a drive is removed once");
        slot.leaving = true;
        self.needed = true;
        self.drop_removed();
    }

    /// A drive was removed, and waits for the last of its Bufs.
    pub(crate) fn is_any_leaving(&self) -> bool {
        self.slots.iter().flatten().any(|slot| slot.leaving)
    }

    /// Drops what was removed and is not needed any more.
    #[inline]
    pub(crate) fn drop_removed(&mut self) {
        if self.needed {
            self.drop_unneeded();
        }
    }

    #[cold]
    fn drop_unneeded(&mut self) {
        self.needed = false;
        for place in &mut self.slots {
            // Whoever waits for Bufs goes with the last of them.
            let Some(slot) = place.as_mut().filter(|slot| slot.leaving && slot.out == 0) else {
                continue;
            };
            if slot.drive.may_leave() {
                *place = None;
            } else {
                self.needed = true;
            }
        }
    }

    /// All of them, to be polled or asked where they can be waited for.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut D> {
        self.slots.iter_mut().flatten().map(|slot| &mut slot.drive)
    }

    /// Requests at all drives.
    pub fn in_flight(&self) -> usize {
        self.slots
            .iter()
            .flatten()
            .map(|slot| slot.drive.in_flight())
            .sum()
    }

    /// See [`Backend::has_work`].
    pub(crate) fn have_work(&self) -> bool {
        self.slots
            .iter()
            .flatten()
            .any(|slot| slot.drive.has_work())
    }

    /// Bufs of the drives' own that are not home.
    pub(crate) fn bufs_out(&self) -> usize {
        self.slots
            .iter()
            .flatten()
            .map(|slot| slot.out as usize)
            .sum()
    }
}

impl<D: Backend> Slot<D> {
    /// Promises pages of the drive's own to a peer, if it lends any and `may` agrees, told how many more
    /// it could lend.
    #[inline]
    pub fn lend(&mut self, count: u32, may: impl FnOnce(u32) -> bool) -> bool {
        let free = self.lends - self.lent;
        let lends = count <= free && may(free);
        if lends {
            self.lent += count;
        }
        lends
    }

    /// Gives it a request; see [`Backend::submit`].
    #[inline(always)]
    pub fn submit(&mut self, io: Io) -> Result<(), Io> {
        let given = own(&io.bufs, self.id);
        self.drive.submit(io)?;
        self.out -= given;
        Ok(())
    }
}

/// How many of these the drive dealt: all or none.
#[inline(always)]
fn own(bufs: &BufList, id: DriveId) -> u32 {
    match bufs.first() {
        Some(buf) if buf.home() == id.home() => bufs.count() as u32,
        _ => 0,
    }
}
