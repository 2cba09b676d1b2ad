//! How a thread sleeps: on one epoll, with a bell that others ring. One of the rooms where `unsafe`
//! lives: epoll and eventfd are system calls that the standard library does not have.
//!
//! The order makes sure that no ring is lost. The sleeper says that it sleeps, then looks once more
//! whether there is work, then blocks. A ringer makes the work known, then looks whether somebody
//! sleeps. Whatever the interleaving, one of the two sees the other.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::task::{Wake, Waker};
use std::time::Duration;

/// Rung by anyone, at any time; costs a load while its owner is awake.
#[derive(Debug)]
pub struct Bell {
    asleep: AtomicBool,
    event: OwnedFd,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::Relaxed) {
            let one = 1u64.to_ne_bytes();
            // SAFETY: eight bytes of ours, and a descriptor we own. The counter has room for 2^64 rings.
            unsafe { libc::write(self.event.as_raw_fd(), one.as_ptr().cast(), one.len()) };
        }
    }
}

/// A thread's place to sleep.
#[derive(Debug)]
pub struct Bed {
    epoll: Arc<OwnedFd>,
    bell: Arc<Bell>,
}

/// By edges: each ring wakes once, and nobody has to take it back, which is a system call. A ring that comes just after its
/// sleeper woke up by itself would else be heard for ever.
const EDGES: libc::c_int = libc::EPOLLIN | libc::EPOLLET;

/// Events taken per wake-up; what woke us is looked for by polling, not here.
const EVENTS: usize = 16;

impl Bed {
    /// A bed with its bell.
    pub fn new() -> io::Result<Bed> {
        // SAFETY: system calls without preconditions; each result is checked, and is ours alone.
        let (epoll, event) = unsafe {
            let epoll = owned(libc::epoll_create1(libc::EPOLL_CLOEXEC))?;
            (
                epoll,
                owned(libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK))?,
            )
        };
        let bell = Arc::new(Bell {
            asleep: AtomicBool::new(false),
            event,
        });
        let bed = Bed {
            epoll: Arc::new(epoll),
            bell,
        };
        control(
            bed.epoll.as_fd(),
            libc::EPOLL_CTL_ADD,
            EDGES,
            bed.bell.event.as_fd(),
        )?;
        Ok(bed)
    }

    /// For those who want to wake us.
    pub fn waker(&self) -> Waker {
        self.bell.clone().into()
    }

    /// Wakes up, from now on, when `source` can be read.
    pub fn watch(&self, source: BorrowedFd<'_>) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, source)
    }

    /// Wakes up, from now on and until the result is dropped, each time that `source` is made readable, whoever reads it or
    /// not: for an eventfd that stays open when nobody here has use for it.
    pub fn watch_while(&self, source: BorrowedFd<'_>) -> io::Result<Watching> {
        // A descriptor of our own: nobody else's watching is in the way, and its end is not anybody else's.
        let source = source.try_clone_to_owned()?;
        control(
            self.epoll.as_fd(),
            libc::EPOLL_CTL_ADD,
            EDGES,
            source.as_fd(),
        )?;
        Ok(Watching {
            epoll: self.epoll.clone(),
            source,
        })
    }

    /// Does not wake up for `source` any more.
    pub fn unwatch(&self, source: BorrowedFd<'_>) {
        // It fails only for what is not watched.
        let _ = self.control(libc::EPOLL_CTL_DEL, source);
    }

    fn control(&self, what: libc::c_int, source: BorrowedFd<'_>) -> io::Result<()> {
        control(self.epoll.as_fd(), what, libc::EPOLLIN, source)
    }

    /// Sleeps until a source can be read, the bell rings, or `limit` is over. Not at all if
    /// `may_sleep` says no: it is asked after the bell was armed.
    pub fn sleep(&self, limit: Option<Duration>, may_sleep: impl FnOnce() -> bool) {
        self.bell.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if may_sleep() {
            self.block(limit);
        }
        self.bell.asleep.store(false, Ordering::Relaxed);
    }

    fn block(&self, limit: Option<Duration>) {
        // Timers are of milliseconds here; rounding up means that what was due is due on waking.
        let ms = limit.map_or(-1, |limit| {
            i32::try_from(limit.as_micros().div_ceil(1000)).unwrap_or(i32::MAX)
        });
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS];
        // SAFETY: the array is ours and as long as we say. A signal only wakes us early.
        unsafe {
            libc::epoll_wait(
                self.epoll.as_raw_fd(),
                events.as_mut_ptr(),
                EVENTS as i32,
                ms,
            );
        }
    }
}

/// A source that a [`Bed`] wakes up for, while this is there.
#[derive(Debug)]
pub struct Watching {
    epoll: Arc<OwnedFd>,
    source: OwnedFd,
}

impl Drop for Watching {
    fn drop(&mut self) {
        // Closing ours is not enough: others have the same source open. It fails only for what is not watched.
        let _ = control(
            self.epoll.as_fd(),
            libc::EPOLL_CTL_DEL,
            libc::EPOLLIN,
            self.source.as_fd(),
        );
    }
}

fn control(
    epoll: BorrowedFd<'_>,
    what: libc::c_int,
    events: libc::c_int,
    source: BorrowedFd<'_>,
) -> io::Result<()> {
    let mut event = libc::epoll_event {
        events: events as u32,
        u64: 0,
    };
    let (epoll, source) = (epoll.as_raw_fd(), source.as_raw_fd());
    // SAFETY: both descriptors are open, and the event is ours. A source that is closed later
    // leaves the epoll by itself.
    if unsafe { libc::epoll_ctl(epoll, what, source, &raw mut event) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// # Safety
/// `fd` must be the result of a call that returns a new descriptor, or a negative number.
unsafe fn owned(fd: libc::c_int) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open and nobody else's, says the caller.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::PATIENCE;
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::sync::atomic::AtomicU32;
    use std::time::Instant;

    /// Sleeps until something wakes it.
    fn sleep(bed: &Bed, may_sleep: impl FnOnce() -> bool) {
        let start = Instant::now();
        bed.sleep(Some(PATIENCE), may_sleep);
        assert!(start.elapsed() < PATIENCE, "nothing wakes it");
    }

    #[test]
    fn a_source_wakes_and_time_does() {
        let bed = Bed::new().expect("a bed");
        let (mut there, here) = UnixStream::pair().expect("a pair");
        bed.watch(here.as_fd()).expect("watched");
        let start = Instant::now();
        bed.sleep(Some(Duration::from_millis(20)), || true);
        assert!(start.elapsed() >= Duration::from_millis(20));
        there.write_all(b"x").expect("writes");
        sleep(&bed, || true);
        sleep(&bed, || false);
    }

    /// A drive's queue goes and comes again, with an interrupt that stays open all the time.
    #[test]
    fn watching_ends_with_whoever_watched() {
        let bed = Bed::new().expect("a bed");
        let (mut there, here) = UnixStream::pair().expect("a pair");
        let first = bed.watch_while(here.as_fd()).expect("watched");
        let second = bed.watch_while(here.as_fd()).expect("watched by another");
        drop(first);
        let undisturbed = || {
            let start = Instant::now();
            bed.sleep(Some(Duration::from_millis(20)), || true);
            assert!(start.elapsed() >= Duration::from_millis(20));
        };
        for _ in 0..2 {
            there.write_all(b"x").expect("writes");
            sleep(&bed, || true);
            // Nobody read it.
            undisturbed();
        }
        drop(second);
        there.write_all(b"x").expect("writes");
        undisturbed();
        let _again = bed.watch_while(here.as_fd()).expect("watched again");
        sleep(&bed, || true);
    }

    /// Whoever rings says first that nobody sleeps any more, and then writes; the sleeper may be up, and asleep again,
    /// before that.
    #[test]
    fn a_late_ring_wakes_once() {
        let bed = Bed::new().expect("a bed");
        sleep(&bed, || {
            bed.bell.asleep.store(false, Ordering::Relaxed);
            false
        });
        let one = 1u64.to_ne_bytes();
        // SAFETY: eight bytes of ours, and a descriptor that is open.
        unsafe { libc::write(bed.bell.event.as_raw_fd(), one.as_ptr().cast(), one.len()) };
        sleep(&bed, || true);
        let start = Instant::now();
        bed.sleep(Some(Duration::from_millis(20)), || true);
        assert!(start.elapsed() >= Duration::from_millis(20));
    }

    #[test]
    fn no_ring_is_lost() {
        let bed = Bed::new().expect("a bed");
        let waker = bed.waker();
        let work = AtomicU32::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for i in 0..20_000 {
                    work.fetch_add(1, Ordering::Relaxed);
                    waker.wake_by_ref();
                    if i % 64 == 0 {
                        std::thread::yield_now();
                    }
                }
            });
            let mut done = 0;
            while done < 20_000 {
                let there = work.swap(0, Ordering::Relaxed);
                done += there;
                if there == 0 {
                    sleep(&bed, || work.load(Ordering::Relaxed) == 0);
                }
            }
        });
    }
}
