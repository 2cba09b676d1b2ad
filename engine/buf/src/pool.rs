//! One core's buffers, in a few sizes. Not shared, so taking and putting are a push and a pop.

use std::sync::Arc;

use crate::{Buf, BufList, Home, PAGE, Region};

/// So many buffers of one size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Class {
    /// Bytes of each, a multiple of 4096.
    pub size: usize,
    /// How many.
    pub count: usize,
}

/// One core's buffers. All of them exist from the start; none is ever allocated later.
#[derive(Debug)]
pub struct Pool {
    region: Option<Arc<Region>>,
    home: Home,
    shelves: Vec<Shelf>,
    out: usize,
    bytes_out: usize,
}

#[derive(Debug)]
struct Shelf {
    size: usize,
    start: usize,
    count: usize,
    free: Vec<u32>,
    /// Out for good, see [`Pool::set_aside`].
    aside: usize,
}

impl Pool {
    /// The bytes a region needs for these classes.
    pub fn bytes(classes: &[Class]) -> usize {
        classes.iter().map(|class| class.size * class.count).sum()
    }

    /// Deals out `region` from `start` on.
    ///
    /// # Panics
    /// If the classes do not ascend in size, are not whole pages, or do not fit the region.
    pub fn new(region: Arc<Region>, start: usize, home: Home, classes: &[Class]) -> Pool {
        assert!(
            start.is_multiple_of(PAGE) && start + Pool::bytes(classes) <= region.len(),
            "classes fit the region"
        );
        assert!(
            classes.is_sorted_by(|a, b| a.size < b.size),
            "classes ascend"
        );
        let mut at = start;
        let shelves = classes
            .iter()
            .map(|class| {
                assert!(class.size.is_multiple_of(PAGE), "buffers are whole pages");
                let start = at;
                at += class.size * class.count;
                // The last is taken first; handing out low addresses first keeps the caches warm.
                let free = (0..class.count as u32).rev().collect();
                Shelf {
                    size: class.size,
                    start,
                    count: class.count,
                    free,
                    aside: 0,
                }
            })
            .collect();
        Pool {
            region: Some(region),
            home,
            shelves,
            out: 0,
            bytes_out: 0,
        }
    }

    /// A buffer of `len` bytes, from the smallest size that fits and has one; `None` while there is
    /// none, or if `len` is larger than the largest size.
    #[inline]
    pub fn take(&mut self, len: usize) -> Option<Buf> {
        self.take_where(len, |_, _| true)
    }

    /// As [`Pool::take`], but only of a size that `may` agrees to, told its index and how many are
    /// free of it.
    #[inline]
    pub fn take_where(&mut self, len: usize, may: impl Fn(usize, usize) -> bool) -> Option<Buf> {
        let region = self.region.as_ref().expect("present until drop");
        for (class, shelf) in self.shelves.iter_mut().enumerate() {
            if shelf.size >= len
                && may(class, shelf.free.len())
                && let Some(index) = shelf.free.pop()
            {
                self.out += 1;
                self.bytes_out += shelf.size;
                return Some(Buf {
                    at: region.at(shelf.start + index as usize * shelf.size),
                    len: len as u32,
                    index,
                    region: region.id(),
                    home: self.home,
                    dealt_to: 0,
                    shared: 0,
                    class: class as u8,
                });
            }
        }
        None
    }

    /// A buffer of `len` bytes that is out for good and counts as neither out nor the pool's: what a transport receives
    /// into. What lies in it is passed on by [`Pool::exchange`].
    pub fn set_aside(&mut self, len: usize) -> Option<Buf> {
        let buf = self.take(len)?;
        let shelf = &mut self.shelves[buf.class()];
        shelf.aside += 1;
        self.out -= 1;
        self.bytes_out -= shelf.size;
        Some(buf)
    }

    /// Takes a buffer that was set aside, full as it is, and leaves another one of its length in its place; from now on
    /// it is the former that is out. `None` if it is not of this pool, or if no other one is free.
    #[inline]
    pub fn exchange(&mut self, aside: &mut Buf) -> Option<Buf> {
        let region = self.region.as_ref().expect("present until drop");
        if aside.home != self.home || aside.region != region.id() {
            return None;
        }
        let other = self.take(aside.len())?;
        Some(std::mem::replace(aside, other))
    }

    /// A buffer comes home.
    ///
    /// # Panics
    /// If it is another pool's.
    #[inline]
    pub fn put(&mut self, buf: Buf) {
        assert!(
            buf.home == self.home,
            "a Buf of {:?} came to {:?}",
            buf.home,
            self.home
        );
        let region = self.region.as_ref().expect("present until drop");
        assert!(
            buf.region == region.id(),
            "a Buf of another core's pool came home here"
        );
        let shelf = &mut self.shelves[usize::from(buf.class)];
        assert!(
            (buf.index as usize) < shelf.count,
            "a Buf has an index of its shelf"
        );
        self.out -= 1;
        self.bytes_out -= shelf.size;
        shelf.free.push(buf.index);
    }

    /// All of a list come home.
    pub fn put_all(&mut self, mut bufs: BufList) {
        while let Some(buf) = bufs.pop() {
            self.put(buf);
        }
    }

    /// Buffers that are out. 0 when all are home.
    pub fn out(&self) -> usize {
        self.out
    }

    /// Bytes of all buffers that are out.
    pub fn bytes_out(&self) -> usize {
        self.bytes_out
    }

    /// Bytes of all buffers but those set aside.
    pub fn bytes_all(&self) -> usize {
        let all = |shelf: &Shelf| (shelf.count - shelf.aside) * shelf.size;
        self.shelves.iter().map(all).sum()
    }

    /// Free buffers of at least `len` bytes.
    pub fn free(&self, len: usize) -> usize {
        self.shelves
            .iter()
            .filter(|shelf| shelf.size >= len)
            .map(|shelf| shelf.free.len())
            .sum()
    }

    /// How many sizes there are.
    pub fn classes(&self) -> usize {
        self.shelves.len()
    }

    /// The largest buffer there is, in bytes.
    pub fn largest(&self) -> usize {
        self.shelves.last().map_or(0, |shelf| shelf.size)
    }

    /// The region the buffers lie in, for devices that register it.
    pub fn region(&self) -> &Arc<Region> {
        self.region.as_ref().expect("present until drop")
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if self.out > 0 || self.shelves.iter().any(|shelf| shelf.aside > 0) {
            // Bufs are out there: their memory must stay mapped. See the module docs of the crate.
            std::mem::forget(self.region.take());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Want;

    fn pool(count: usize) -> Pool {
        let classes = [Class { size: PAGE, count }];
        let region = Region::map(Pool::bytes(&classes), Want::default()).expect("memory");
        Pool::new(Arc::new(region), 0, Home(7), &classes)
    }

    #[test]
    fn what_was_set_aside_is_exchanged_full_for_free() {
        let mut pool = pool(3);
        let mut aside = pool.set_aside(PAGE).expect("it is the first");
        assert_eq!((pool.out(), pool.bytes_out(), pool.free(1)), (0, 0, 2));
        assert_eq!(pool.bytes_all(), 2 * PAGE);
        aside.bytes_mut().fill(5);
        let full = pool.exchange(&mut aside).expect("another one is free");
        assert!(full.bytes() == [5; PAGE] && aside.as_ptr() != full.as_ptr());
        assert_eq!((pool.out(), pool.bytes_out(), pool.free(1)), (1, PAGE, 1));
        let other = pool.exchange(&mut aside).expect("another one is free");
        // None is left to be put in its place.
        let place = aside.as_ptr();
        assert!(pool.exchange(&mut aside).is_none() && aside.as_ptr() == place);
        pool.put(full);
        pool.put(other);
        assert_eq!((pool.out(), pool.bytes_out(), pool.free(1)), (0, 0, 2));
    }

    #[test]
    fn a_buffer_of_another_pool_is_not_exchanged() {
        let (mut pool, mut other) = (pool(2), pool(2));
        let mut strange = other.set_aside(PAGE).expect("it is the first");
        assert!(pool.exchange(&mut strange).is_none());
        assert_eq!(pool.out(), 0);
    }
}
