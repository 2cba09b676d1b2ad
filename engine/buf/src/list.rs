//! The Bufs of one transfer, in order.

use crate::Buf;

/// The Bufs of one transfer, in order. One Buf, the usual number, lies inside; more go to a vector
/// that keeps its capacity, so that lists that are recycled do not allocate. The vector is boxed:
/// lists are moved a lot, most of them without one.
#[derive(Debug, Default)]
#[must_use = "Bufs that are dropped are lost to their pool"]
pub struct BufList {
    first: Option<Buf>,
    #[expect(clippy::box_collection, reason = "a third of the size")]
    rest: Option<Box<Vec<Buf>>>,
}

const _: () = assert!(size_of::<BufList>() == 32);

impl BufList {
    /// No Bufs.
    pub const fn new() -> BufList {
        BufList {
            first: None,
            rest: None,
        }
    }

    /// Room for so many Bufs.
    pub fn with_capacity(count: usize) -> BufList {
        BufList {
            first: None,
            rest: (count > 1).then(|| Box::new(Vec::with_capacity(count - 1))),
        }
    }

    /// Just one.
    #[inline]
    pub const fn one(buf: Buf) -> BufList {
        BufList {
            first: Some(buf),
            rest: None,
        }
    }

    /// The one Buf, of a list that has one and room for no more; else the list.
    #[inline]
    pub fn into_one(self) -> Result<Buf, BufList> {
        match self {
            BufList {
                first: Some(buf),
                rest: None,
            } => Ok(buf),
            list => Err(list),
        }
    }

    /// Adds one at the end.
    #[inline]
    pub fn push(&mut self, buf: Buf) {
        if self.first.is_none() {
            self.first = Some(buf);
        } else {
            self.rest.get_or_insert_default().push(buf);
        }
    }

    /// Takes the last one out.
    #[inline]
    pub fn pop(&mut self) -> Option<Buf> {
        let last = self.rest.as_mut().and_then(|rest| rest.pop());
        last.or_else(|| self.first.take())
    }

    /// The first one.
    #[inline]
    pub const fn first(&self) -> Option<&Buf> {
        self.first.as_ref()
    }

    /// In order.
    #[inline]
    pub fn iter(&self) -> impl Iterator<Item = &Buf> + Clone {
        self.first
            .iter()
            .chain(self.rest.iter().flat_map(|rest| rest.iter()))
    }

    /// In order, to be written.
    #[inline]
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Buf> {
        let rest = self.rest.iter_mut().flat_map(|rest| rest.iter_mut());
        self.first.iter_mut().chain(rest)
    }

    /// How many Bufs.
    #[inline]
    pub fn count(&self) -> usize {
        usize::from(self.first.is_some()) + self.rest.as_ref().map_or(0, |rest| rest.len())
    }

    /// How many pages of a drive's own the Bufs hold; see [`Buf::pages`].
    #[inline]
    pub fn pages(&self) -> u32 {
        let first = self.first.as_ref().map_or(0, Buf::pages);
        match &self.rest {
            None => first,
            Some(rest) => rest.iter().map(Buf::pages).sum::<u32>() + first,
        }
    }

    /// True if there is none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// Bytes of all of them.
    #[inline]
    pub fn len(&self) -> usize {
        self.iter().map(Buf::len).sum()
    }

    /// How many Bufs fit without allocating.
    #[inline]
    pub fn capacity(&self) -> usize {
        1 + self.rest.as_ref().map_or(0, |rest| rest.capacity())
    }

    /// Copies `data` into the Bufs from byte `offset` of the list on.
    ///
    /// # Panics
    /// If it does not fit.
    pub fn copy_in(&mut self, offset: usize, data: &[u8]) {
        self.copy_by(<[u8]>::copy_from_slice, offset, data);
    }

    /// The same by non-temporal stores, for pages that lay still for long and will again: their lines are not fetched first,
    /// only to be overwritten. See [`crate::settle`].
    ///
    /// # Panics
    /// If it does not fit.
    pub fn copy_in_non_temporal(&mut self, offset: usize, data: &[u8]) {
        self.copy_by(crate::copy_non_temporal, offset, data);
    }

    #[inline]
    fn copy_by(&mut self, copy: impl Fn(&mut [u8], &[u8]), mut offset: usize, mut data: &[u8]) {
        for buf in self.iter_mut() {
            if data.is_empty() {
                return;
            }
            if offset >= buf.len() {
                offset -= buf.len();
                continue;
            }
            let (now, later) = data.split_at(data.len().min(buf.len() - offset));
            copy(&mut buf.bytes_mut()[offset..offset + now.len()], now);
            data = later;
            offset = 0;
        }
        assert!(data.is_empty(), "the data fits the Bufs");
    }

    /// Copies the bytes from `offset` on into `out`.
    ///
    /// # Panics
    /// If there are too few.
    pub fn copy_out(&self, mut offset: usize, mut out: &mut [u8]) {
        for buf in self.iter() {
            if out.is_empty() {
                return;
            }
            if offset >= buf.len() {
                offset -= buf.len();
                continue;
            }
            let count = out.len().min(buf.len() - offset);
            let (now, later) = out.split_at_mut(count);
            now.copy_from_slice(&buf.bytes()[offset..offset + count]);
            out = later;
            offset = 0;
        }
        assert!(out.is_empty(), "the Bufs have that many bytes");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{Class, Home, Pool, Region, Want};

    /// Whole lines and what is none, at addresses that begin a line and those that do not.
    #[test]
    fn either_way_to_copy_writes_the_same() {
        let classes = [Class {
            size: 4096,
            count: 4,
        }];
        let region = Region::map(Pool::bytes(&classes), Want::default()).expect("memory");
        let mut pool = Pool::new(Arc::new(region), 0, Home::CORE, &classes);
        let data: Vec<u8> = (0..8192_u32).map(|at| (at % 251) as u8).collect();
        for (first, offset, len) in [
            (4096, 0, 8192),
            (4096, 0, 4096),
            (4096, 64, 4096),
            (4096, 1, 64),
            (4096, 4000, 200),
            (512, 0, 4608),
            (100, 0, 4196),
            (4096, 0, 0),
        ] {
            let mut lists = [0, 1].map(|_| {
                let mut list = BufList::new();
                for len in [first, 4096] {
                    let mut buf = pool.take(4096).expect("there are four");
                    buf.bytes_mut().fill(0xEE);
                    buf.truncate(len);
                    list.push(buf);
                }
                list
            });
            lists[0].copy_in(offset, &data[..len]);
            lists[1].copy_in_non_temporal(offset, &data[..len]);
            crate::settle();
            let [usual, other] = lists.map(|mut list| {
                let mut out = vec![0; list.len()];
                list.copy_out(0, &mut out);
                while let Some(buf) = list.pop() {
                    pool.put(buf);
                }
                out
            });
            assert_eq!(usual, other, "{len} at {offset} of {first}");
            assert_eq!(usual[offset..offset + len], data[..len]);
        }
    }
}
