//! Memory that a peer may reach, by key. A host's: a target grants none.

use ferroce_buf::BufList;

use crate::rdma::provider::{Access, Remote};
use crate::roce::payload::Payload;

/// Grants of one queue pair at a time.
pub const GRANTS_MAX: usize = 4096;
/// Bufs of one grant.
pub const GRANT_BUFS_MAX: u32 = 1024;

/// Keys and what they open. A key is the index of its grant and a random half, so that one that was
/// used up does not open what came after it.
#[derive(Debug)]
pub struct Grants {
    slots: Vec<Slot>,
    free: Vec<u16>,
    held: usize,
}

#[derive(Debug)]
struct Slot {
    /// `Some` until it is revoked.
    bufs: Option<BufList>,
    len: u32,
    access: Access,
    key: u32,
    /// The peer has not invalidated it.
    valid: bool,
}

/// A place in granted memory, checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    slot: u16,
    offset: u32,
}

impl Place {
    /// So many bytes further.
    #[must_use]
    pub fn plus(self, bytes: u32) -> Place {
        Place {
            offset: self.offset + bytes,
            ..self
        }
    }
}

impl Grants {
    /// None yet.
    pub fn new() -> Grants {
        Grants {
            slots: Vec::new(),
            free: Vec::new(),
            held: 0,
        }
    }

    /// Grants memory; `random` is half of the key. Gives it back if there are too many grants, or if
    /// it is too much for one.
    pub fn grant(&mut self, bufs: BufList, access: Access, random: u16) -> Result<Remote, BufList> {
        let Ok(len) = u32::try_from(bufs.len()) else {
            return Err(bufs);
        };
        if bufs.count() > GRANT_BUFS_MAX as usize {
            return Err(bufs);
        }
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None if self.slots.len() < GRANTS_MAX => self.slots.len() as u16,
            None => return Err(bufs),
        };
        let key = u32::from(slot) << 16 | u32::from(random);
        let grant = Slot {
            bufs: Some(bufs),
            len,
            access,
            key,
            valid: true,
        };
        match self.slots.get_mut(usize::from(slot)) {
            Some(place) => *place = grant,
            None => self.slots.push(grant),
        }
        self.held += 1;
        Ok(Remote {
            addr: base(slot),
            key,
        })
    }

    /// Takes a grant back.
    pub fn revoke(&mut self, key: u32) -> Option<BufList> {
        let index = (key >> 16) as usize;
        let slot = self.slots.get_mut(index).filter(|slot| slot.key == key)?;
        let bufs = slot.bufs.take()?;
        slot.valid = false;
        self.free.push(index as u16);
        self.held -= 1;
        Some(bufs)
    }

    /// The peer is done with a key. False if it had no such key.
    pub fn invalidate(&mut self, key: u32) -> bool {
        let slot = self
            .slots
            .get_mut((key >> 16) as usize)
            .filter(|slot| slot.key == key && slot.valid);
        match slot {
            Some(slot) => {
                slot.valid = false;
                true
            }
            None => false,
        }
    }

    /// Nothing opens anything any more.
    pub fn close(&mut self) {
        for slot in &mut self.slots {
            slot.valid = false;
        }
    }

    /// Where `len` bytes at an address are, if this key opens all of them in this way. No bytes need
    /// no key.
    pub fn find(&self, at: Remote, len: u32, access: Access) -> Option<Place> {
        if len == 0 {
            return Some(Place { slot: 0, offset: 0 });
        }
        let index = (at.key >> 16) as u16;
        let slot = self
            .slots
            .get(usize::from(index))
            .filter(|slot| slot.key == at.key && slot.valid && slot.access == access)?;
        let offset = at.addr.checked_sub(base(index))?;
        let end = offset.checked_add(u64::from(len))?;
        (end <= u64::from(slot.len)).then_some(Place {
            slot: index,
            offset: offset as u32,
        })
    }

    /// Puts bytes into a place that was found for as many at least.
    pub fn write(&mut self, place: Place, bytes: &[u8]) {
        if !bytes.is_empty() {
            let slot = &mut self.slots[usize::from(place.slot)];
            let bufs = slot.bufs.as_mut().expect("a place was found in it");
            bufs.copy_in(place.offset as usize, bytes);
        }
    }

    /// Bytes of a place that was found for as many at least.
    pub fn read(&self, place: Place, len: u32) -> Payload<'_> {
        if len == 0 {
            return Payload::EMPTY;
        }
        let bufs = self.slots[usize::from(place.slot)].bufs.as_ref();
        Payload::of_bufs(
            bufs.expect("a place was found in it"),
            place.offset as usize,
            len as usize,
        )
    }

    /// Grants that were not taken back.
    pub fn held(&self) -> usize {
        self.held
    }
}

/// The address of a grant's first byte, as peers are told.
fn base(slot: u16) -> u64 {
    (u64::from(slot) + 1) << 32
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferroce_buf::{Class, Home, Pool, Region, Want};
    use std::sync::Arc;

    #[test]
    fn only_what_was_granted_is_found() {
        let region = Arc::new(Region::map(8192, Want::default()).unwrap());
        let class = Class {
            size: 4096,
            count: 2,
        };
        let mut pool = Pool::new(region, 0, Home::CORE, &[class]);
        let mut grants = Grants::new();
        let mut list = BufList::new();
        list.push(pool.take(4096).unwrap());
        list.push(pool.take(1000).unwrap());
        let at = grants.grant(list, Access::Write, 77).unwrap();
        let plus = |offset: i64, key: u32| Remote {
            addr: at.addr.wrapping_add_signed(offset),
            key,
        };
        assert!(grants.find(at, 5096, Access::Write).is_some());
        assert!(grants.find(plus(5095, at.key), 1, Access::Write).is_some());
        for (at, len, access) in [
            (at, 5097, Access::Write),
            (plus(1, at.key), 5096, Access::Write),
            (plus(-1, at.key), 1, Access::Write),
            (plus(i64::MIN, at.key), 1, Access::Write),
            (plus(-(at.addr as i64) - 1, at.key), u32::MAX, Access::Write),
            (at, 1, Access::Read),
            (plus(0, at.key ^ 1), 1, Access::Write),
            (plus(0, at.key ^ 1 << 16), 1, Access::Write),
            (plus(0, u32::MAX), 1, Access::Write),
        ] {
            assert_eq!(grants.find(at, len, access), None);
        }
        let place = grants.find(plus(4090, at.key), 12, Access::Write).unwrap();
        grants.write(place, b"across bufs!");
        assert_eq!(grants.read(place, 12).to_vec(), b"across bufs!");
        assert!(!grants.invalidate(at.key ^ 1));
        assert!(grants.invalidate(at.key));
        assert!(!grants.invalidate(at.key));
        assert_eq!(grants.find(at, 1, Access::Write), None);
        assert_eq!(grants.held(), 1);
        let list = grants.revoke(at.key).unwrap();
        assert!(grants.revoke(at.key).is_none());
        assert_eq!(grants.held(), 0);
        pool.put_all(list);
        assert_eq!(pool.out(), 0);
    }
}
