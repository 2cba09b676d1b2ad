//! The Bufs of one transfer, in order.

use crate::Buf;

/// The Bufs of one transfer, in order. One Buf, the usual number, lies inside; more go to a vector
/// that keeps its capacity, so that lists that are recycled do not allocate.
#[derive(Debug, Default)]
#[must_use = "Bufs that are dropped are lost to their pool"]
pub struct BufList {
    first: Option<Buf>,
    rest: Vec<Buf>,
}

impl BufList {
    /// No Bufs.
    pub const fn new() -> BufList {
        BufList {
            first: None,
            rest: Vec::new(),
        }
    }

    /// Room for so many Bufs.
    pub fn with_capacity(count: usize) -> BufList {
        BufList {
            first: None,
            rest: Vec::with_capacity(count),
        }
    }

    /// Adds one at the end.
    #[inline]
    pub fn push(&mut self, buf: Buf) {
        if self.first.is_none() {
            self.first = Some(buf);
        } else {
            self.rest.push(buf);
        }
    }

    /// Takes the last one out.
    #[inline]
    pub fn pop(&mut self) -> Option<Buf> {
        self.rest.pop().or_else(|| self.first.take())
    }

    /// In order.
    #[inline]
    pub fn iter(&self) -> impl Iterator<Item = &Buf> + Clone {
        self.first.iter().chain(self.rest.iter())
    }

    /// In order, to be written.
    #[inline]
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Buf> {
        self.first.iter_mut().chain(self.rest.iter_mut())
    }

    /// How many Bufs.
    #[inline]
    pub fn count(&self) -> usize {
        usize::from(self.first.is_some()) + self.rest.len()
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
    pub fn capacity(&self) -> usize {
        1 + self.rest.capacity()
    }

    /// Copies `data` into the Bufs from byte `offset` of the list on.
    ///
    /// # Panics
    /// If it does not fit.
    pub fn copy_in(&mut self, mut offset: usize, mut data: &[u8]) {
        for buf in self.iter_mut() {
            if data.is_empty() {
                return;
            }
            if offset >= buf.len() {
                offset -= buf.len();
                continue;
            }
            let (now, later) = data.split_at(data.len().min(buf.len() - offset));
            buf.bytes_mut()[offset..offset + now.len()].copy_from_slice(now);
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
