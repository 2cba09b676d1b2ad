//! 4 KiB pages that several cores read while others replace them: the memory of a RAM drive.
//!
//! A page is free, or exclusive (being filled by its one owner), or published: then its bytes never
//! change until everyone who shares it has let go. Who wants to change a block fills a fresh page and
//! swaps it in; a reader on its way to a socket keeps the old one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crossbeam_queue::ArrayQueue;

use crate::{Buf, Home, PAGE, Region};

/// Number of a page within its [`Pages`].
pub type Page = u32;

/// The page was given back in the meantime; look the block up again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoPage;

/// A region cut into counted pages.
#[derive(Debug)]
pub struct Pages {
    region: Option<Arc<Region>>,
    home: Home,
    /// Who holds each page: 0 nobody (it is free, or on its way there).
    holders: Box<[AtomicU32]>,
    free: ArrayQueue<Page>,
}

impl Pages {
    /// Cuts up the whole region; every page is free.
    pub fn new(region: Arc<Region>, home: Home) -> Pages {
        let count = region.len() / PAGE;
        let free = ArrayQueue::new(count);
        for page in 0..count as Page {
            free.push(page).expect("there is room for every page");
        }
        let holders = (0..count).map(|_| AtomicU32::new(0)).collect();
        Pages {
            region: Some(region),
            home,
            holders,
            free,
        }
    }

    /// A free page, exclusively. Its bytes are whatever they were. `None` while none is free.
    #[inline]
    pub fn fresh(&self) -> Option<Buf> {
        let page = self.free.pop()?;
        let before = self.holders[page as usize].swap(1, Ordering::Acquire);
        assert!(before == 0, "a free page has no holders");
        Some(self.buf(page, false))
    }

    /// Gives up an exclusive Buf for its page. The one hold it had goes to the caller, who publishes
    /// the number and one day calls [`Pages::unhold`].
    #[inline]
    pub fn publish(&self, buf: Buf) -> Page {
        assert!(
            !buf.is_shared() && buf.home == self.home,
            "only a fresh page is published"
        );
        buf.index
    }

    /// A Buf onto a published page, for reading.
    ///
    /// # Errors
    /// [`NoPage`] if nobody holds the page any more. The caller must check that the page is still the
    /// one it meant: it may have been given back and published anew elsewhere.
    #[inline]
    pub fn share(&self, page: Page) -> Result<Buf, NoPage> {
        let holders = &self.holders[page as usize];
        let mut seen = holders.load(Ordering::Relaxed);
        loop {
            if seen == 0 {
                return Err(NoPage);
            }
            match holders.compare_exchange_weak(
                seen,
                seen + 1,
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => break,
                Err(now) => seen = now,
            }
        }
        Ok(self.buf(page, true))
    }

    /// [`Pages::share`] of this page will come soon: what it looks at is fetched meanwhile.
    #[inline]
    pub fn hint(&self, page: Page) {
        if let Some(holders) = self.holders.get(page as usize) {
            crate::prefetch(std::ptr::from_ref(holders).cast());
        }
    }

    /// A Buf comes home: a shared one, or a fresh one that was never published.
    ///
    /// # Panics
    /// If it is another owner's.
    #[inline]
    pub fn put(&self, buf: Buf) {
        self.pages_of(&buf).for_each(|page| self.unhold(page));
    }

    /// A Buf comes home as with [`Pages::put`], but pages that become free thereby go to the
    /// caller, fresh and whole, instead of to the free ones all cores share.
    ///
    /// # Panics
    /// If it is another owner's.
    #[inline]
    pub fn recycle(&self, buf: Buf, mut fresh: impl FnMut(Buf)) {
        // Back to front: who keeps them takes the last one first, and neighbours in their order.
        for page in self.pages_of(&buf).rev() {
            if let Some(buf) = self.recycle_page(page) {
                fresh(buf);
            }
        }
    }

    /// The pages of a Buf that came home.
    #[inline]
    fn pages_of(&self, buf: &Buf) -> std::ops::Range<Page> {
        assert!(
            buf.home == self.home,
            "a Buf of {:?} came to {:?}",
            buf.home,
            self.home
        );
        buf.index..buf.index + buf.pages()
    }

    /// One hold less as with [`Pages::unhold`], but a page that becomes free thereby goes to the
    /// caller, fresh and whole.
    #[inline]
    pub fn recycle_page(&self, page: Page) -> Option<Buf> {
        let holders = &self.holders[page as usize];
        let before = holders.fetch_sub(1, Ordering::AcqRel);
        assert!(before > 0, "a page is freed once");
        if before > 1 {
            return None;
        }
        // It is in no free list, so nobody else can take it; and nobody can share it at 0.
        let before = holders.swap(1, Ordering::Acquire);
        assert!(before == 0, "a free page has no holders");
        Some(self.buf(page, false))
    }

    /// The number an exclusive Buf will be published under.
    #[inline]
    pub fn number(&self, buf: &Buf) -> Page {
        assert!(
            !buf.is_shared() && buf.home == self.home,
            "only a fresh page has a number to publish"
        );
        buf.index
    }

    /// The whole page of an exclusive Buf in view, whatever was cut off before.
    #[inline]
    pub fn whole(&self, buf: Buf) -> Buf {
        let page = self.number(&buf);
        self.buf(page, false)
    }

    /// One hold less; the last one frees the page.
    #[inline]
    pub fn unhold(&self, page: Page) {
        let before = self.holders[page as usize].fetch_sub(1, Ordering::AcqRel);
        assert!(before > 0, "a page is freed once");
        if before == 1 {
            self.free.push(page).expect("there is room for every page");
        }
    }

    /// Free pages.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Pages that somebody holds: published ones, and Bufs that are out.
    pub fn held(&self) -> usize {
        self.holders.len() - self.free.len()
    }

    /// Whose Bufs these are.
    pub fn home(&self) -> Home {
        self.home
    }

    /// The region, for devices that register it.
    pub fn region(&self) -> &Arc<Region> {
        self.region.as_ref().expect("present until drop")
    }

    #[inline]
    fn buf(&self, page: Page, shared: bool) -> Buf {
        let region = self.region();
        Buf {
            at: region.at(page as usize * PAGE),
            len: PAGE as u32,
            index: page,
            region: region.id(),
            home: self.home,
            dealt_to: 0,
            shared: shared.into(),
            class: 0,
        }
    }
}

impl Buf {
    /// Adds the page behind it, if both are shared ones of the same [`Pages`] and all of their bytes lie side by side.
    ///
    /// # Errors
    /// Gives the other back if they do not.
    #[inline]
    pub fn join(&mut self, next: Buf) -> Result<(), Buf> {
        let end = self.at.as_ptr().addr() + self.len();
        let joins = end == next.at.as_ptr().addr()
            && self.index + self.pages() == next.index
            && (self.region, self.home, self.shared) == (next.region, next.home, next.shared)
            && self.dealt_to == next.dealt_to
            && self.is_shared()
            && next.class == 0
            && self.class < u8::MAX;
        if !joins {
            return Err(next);
        }
        self.class += 1;
        self.len += next.len;
        Ok(())
    }

    /// How many pages a Buf of [`Pages`] holds: several if others were joined to it.
    #[inline]
    pub fn pages(&self) -> u32 {
        u32::from(self.class) + 1
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        if self.held() > 0 {
            // Bufs may be out there: their memory must stay mapped. Who publishes pages takes them
            // back before dropping this, or the mapping stays. See the module docs of the crate.
            std::mem::forget(self.region.take());
        }
    }
}
