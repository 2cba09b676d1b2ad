//! How a thread sleeps: on one epoll, with a bell that others ring and an alarm.
//!
//! The order makes sure that no ring is lost. The sleeper says that it sleeps, then looks once more
//! whether there is work, then blocks. A ringer makes the work known, then looks whether somebody
//! sleeps. Whatever the interleaving, one of the two sees the other.

use std::cell::Cell;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::task::{Wake, Waker};
use std::time::Duration;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};

/// Rung by anyone, at any time; costs a load while its owner is awake.
#[derive(Debug)]
pub struct Bell {
    asleep: AtomicBool,
    event: OwnedFd,
}

impl Bell {
    fn ring(&self) {
        // The counter has room for 2^64 rings.
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::Relaxed) {
            self.ring();
        }
    }
}

/// A thread's place to sleep.
#[derive(Debug)]
pub struct Bed {
    epoll: Arc<OwnedFd>,
    bell: Arc<Bell>,
    alarm: Alarm,
}

/// Wakes its sleeper. Setting it is a system call, so it stays set when something else woke first: it may go off for nothing.
#[derive(Debug)]
struct Alarm {
    timer: OwnedFd,
    /// When it goes off, or went, in ns of the monotonic clock.
    at: Cell<u64>,
}

/// An alarm may be so late. Who names the same time by what is left until then does not name the same nanosecond.
const LATE_NS: u64 = 10_000;

/// By edges: each ring wakes once, and nobody has to take it back, which is a system call. A ring that comes just after its
/// sleeper woke up by itself would else be heard for ever.
const EDGES: EventFlags = EventFlags::IN.union(EventFlags::ET);

/// Events taken per wake-up; what woke us is looked for by polling, not here.
const EVENTS: usize = 16;

impl Bed {
    /// A bed with its bell and alarm.
    pub fn new() -> io::Result<Bed> {
        Bed::over(epoll::create(epoll::CreateFlags::CLOEXEC)?)
    }

    /// A bed over an epoll that has sources already, and that nobody else waits on: an epoll in another one has the kernel
    /// go through both each time.
    pub fn over(epoll: OwnedFd) -> io::Result<Bed> {
        let bell = Bell {
            asleep: AtomicBool::new(false),
            event: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        };
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let alarm = Alarm {
            timer: timerfd_create(TimerfdClockId::Monotonic, flags)?,
            at: Cell::new(0),
        };
        for source in [&bell.event, &alarm.timer] {
            epoll::add(&epoll, source, EventData::new_u64(0), EDGES)?;
        }
        Ok(Bed {
            epoll: Arc::new(epoll),
            bell: Arc::new(bell),
            alarm,
        })
    }

    /// For those who want to wake us.
    pub fn waker(&self) -> Waker {
        self.bell.clone().into()
    }

    /// Wakes up, from now on, when `source` can be read.
    pub fn watch(&self, source: BorrowedFd<'_>) -> io::Result<()> {
        Ok(epoll::add(
            &self.epoll,
            source,
            EventData::new_u64(0),
            EventFlags::IN,
        )?)
    }

    /// Wakes up, from now on and until the result is dropped, each time that `source` is made readable, whoever reads it or
    /// not: for an eventfd that stays open when nobody here has use for it.
    pub fn watch_while(&self, source: BorrowedFd<'_>) -> io::Result<Watching> {
        // A descriptor of our own: nobody else's watching is in the way, and its end is not anybody else's.
        let source = source.try_clone_to_owned()?;
        epoll::add(&self.epoll, &source, EventData::new_u64(0), EDGES)?;
        Ok(Watching {
            epoll: self.epoll.clone(),
            source,
        })
    }

    /// Does not wake up for `source` any more.
    pub fn unwatch(&self, source: BorrowedFd<'_>) {
        // It fails only for what is not watched.
        let _ = epoll::delete(&self.epoll, source);
    }

    /// Sleeps until a source can be read, the bell rings, or `limit` is over; it may wake up earlier for nothing. Not at
    /// all if `may_sleep` says no: it is asked after the bell was armed.
    pub fn sleep(&self, limit: Option<Duration>, may_sleep: impl FnOnce() -> bool) {
        self.bell.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if may_sleep() && limit.is_none_or(|limit| self.alarm.set(limit)) {
            let mut events = [MaybeUninit::uninit(); EVENTS];
            // A signal only wakes us early.
            let _ = epoll::wait(&self.epoll, &mut events, None);
        }
        self.bell.asleep.store(false, Ordering::Relaxed);
    }
}

impl Alarm {
    /// Goes off when `limit` is over, or earlier. False if that is now.
    fn set(&self, limit: Duration) -> bool {
        if limit.is_zero() {
            return false;
        }
        let now = monotonic_ns();
        let at = now.saturating_add(limit.as_nanos() as u64);
        if (now + 1..=at.saturating_add(LATE_NS)).contains(&self.at.get()) {
            return true;
        }
        self.at.set(at);
        let value = Itimerspec {
            it_interval: Timespec::default(),
            it_value: Timespec {
                tv_sec: (at / 1_000_000_000) as i64,
                tv_nsec: (at % 1_000_000_000) as _,
            },
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &value).is_ok()
    }
}

/// What `Instant` is made of, without its arithmetic: a core asks some ten times for an I/O when it has one at a time.
#[inline]
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
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
        let _ = epoll::delete(&self.epoll, &self.source);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::PATIENCE;
    use std::io::Write;
    use std::os::fd::AsFd;
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
        bed.bell.ring();
        sleep(&bed, || true);
        let start = Instant::now();
        bed.sleep(Some(Duration::from_millis(20)), || true);
        assert!(start.elapsed() >= Duration::from_millis(20));
    }

    #[test]
    fn an_alarm_is_never_late_for_one_set_before() {
        let bed = Bed::new().expect("a bed");
        let rung_after = |limit| {
            bed.sleep(Some(limit), || {
                bed.bell.ring();
                true
            });
        };
        rung_after(PATIENCE);
        let start = Instant::now();
        bed.sleep(Some(Duration::from_millis(20)), || true);
        assert!(start.elapsed() < PATIENCE, "the alarm before counts");
        // The other way round it goes off for nothing, once.
        rung_after(Duration::from_millis(20));
        let start = Instant::now();
        sleep(&bed, || true);
        bed.sleep(Some(Duration::from_millis(40)), || true);
        assert!(start.elapsed() >= Duration::from_millis(40));
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
