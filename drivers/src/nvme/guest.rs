//! Guests: who has no queue of its own at a drive. That is a core for which the drive has no queue left, and a core's end of
//! another namespace of a drive at which it has one. A guest hands its requests to the queue of a core that has one, and gets
//! the answers back; their Bufs stay where they are.
//!
//! A [`Hatch`] is what the two share: two bounded queues, and for each side a note that it sleeps and a bell to wake it. Who
//! goes to sleep leaves the note first and looks once more, and who puts something in looks for the note afterwards, so
//! that one of them always sees the other. A note is good for one ring. Where both are of one core nobody sleeps without the
//! other, so there are neither notes nor rings.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};

use crossbeam_queue::ArrayQueue;
use ferroce_engine::port::{Backend, Done, Io};

use super::queue::{Abilities, OwnQueue};
use crate::vfio::EventFd;

/// Requests of a guest that may be under way at once.
pub const PLACES: usize = 64;

/// Between a guest and the queue that serves it.
#[derive(Debug)]
pub struct Hatch {
    asked: ArrayQueue<Io>,
    done: ArrayQueue<Done>,
    guest: Sleeper,
    host: Sleeper,
    /// Both are of one core.
    near: bool,
    left: AtomicBool,
    /// Requests that the queue took and did not answer yet. It alone writes here.
    taken: AtomicUsize,
    /// What commands of the guest's namespace may be.
    pub(super) abilities: Abilities,
}

/// Who asks to be let in.
#[derive(Debug)]
pub struct Visitor {
    /// The core.
    pub core: usize,
    /// What commands of its namespace may be.
    pub abilities: Abilities,
}

/// One side, and how it is woken. Without a bell it never sleeps for long.
#[derive(Debug)]
struct Sleeper {
    asleep: AtomicBool,
    bell: Option<EventFd>,
}

impl Sleeper {
    fn new(asleep: bool, bell: Option<EventFd>) -> Sleeper {
        Sleeper {
            asleep: AtomicBool::new(asleep),
            bell,
        }
    }

    /// It is about to sleep. Look once more after this.
    fn before_sleep(&self) {
        self.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Wakes it, if it sleeps or is about to. What it is to see was put in before.
    #[inline]
    fn wake(&self) {
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed)
            && self.asleep.swap(false, Ordering::Relaxed)
            && let Some(bell) = &self.bell
        {
            bell.signal();
        }
    }
}

impl Hatch {
    /// With nothing in it. `host` wakes the core of the queue, if something can; `near` says that it is the guest's, too.
    ///
    /// # Errors
    /// If no more descriptors may be open.
    pub fn new(host: Option<EventFd>, near: bool, abilities: Abilities) -> std::io::Result<Hatch> {
        Ok(Hatch {
            asked: ArrayQueue::new(PLACES),
            done: ArrayQueue::new(PLACES),
            guest: Sleeper::new(false, Some(EventFd::new()?)),
            // It may have gone to sleep before it could know of this guest.
            host: Sleeper::new(true, host),
            near,
            left: AtomicBool::new(false),
            taken: AtomicUsize::new(0),
            abilities,
        })
    }

    /// The next request.
    #[inline]
    pub fn take(&self) -> Option<Io> {
        // Counted before it leaves the queue: who asks whether the place is free sees it in one of the two.
        let taken = self.taken.load(Ordering::Relaxed);
        self.taken.store(taken + 1, Ordering::Relaxed);
        let io = self.asked.pop();
        if io.is_none() {
            self.taken.store(taken, Ordering::Relaxed);
        }
        io
    }

    /// True if a request waits.
    #[inline]
    pub fn is_asked(&self) -> bool {
        !self.asked.is_empty()
    }

    /// Answers a request.
    #[inline]
    pub fn answer(&self, done: Done) {
        let placed = self.done.push(done);
        assert!(placed.is_ok(), "there is a place for each request");
        let taken = self.taken.load(Ordering::Relaxed);
        self.taken.store(taken - 1, Ordering::Release);
        if !self.near {
            self.guest.wake();
        }
    }

    /// The queue's core is about to sleep. Look for requests once more after this.
    pub fn before_host_sleeps(&self) {
        if !self.near {
            self.host.before_sleep();
        }
    }

    /// The guest will ask for nothing any more.
    pub fn is_left(&self) -> bool {
        self.left.load(Ordering::Acquire)
    }

    /// True if the guest left and nothing of it is in the queue: its place there may be another's.
    pub fn is_free(&self) -> bool {
        self.is_left() && !self.is_asked() && self.taken.load(Ordering::Acquire) == 0
    }
}

/// Who is served by a queue that is another's.
#[derive(Debug)]
pub struct Guest {
    hatch: Arc<Hatch>,
    in_flight: usize,
    /// Requests were put in, and nobody was woken for them.
    untold: bool,
}

impl Guest {
    /// At this hatch, which no other guest has.
    pub fn new(hatch: Arc<Hatch>) -> Guest {
        Guest {
            hatch,
            in_flight: 0,
            untold: false,
        }
    }

    fn bell(&self) -> &EventFd {
        self.hatch.guest.bell.as_ref().expect("a guest has one")
    }

    /// It will ask for nothing any more. The queue may be waiting for that.
    fn leave(&self) {
        if !self.hatch.left.swap(true, Ordering::AcqRel) && !self.hatch.near {
            self.hatch.host.wake();
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Backend for Guest {
    fn submit(&mut self, io: Io) -> Result<(), Io> {
        if self.in_flight == PLACES {
            return Err(io);
        }
        self.hatch.asked.push(io)?;
        self.in_flight += 1;
        self.untold = true;
        Ok(())
    }

    fn ring_doorbell(&mut self) {
        if std::mem::take(&mut self.untold) && !self.hatch.near {
            self.hatch.host.wake();
        }
    }

    fn poll(&mut self) -> Option<Done> {
        let done = self.hatch.done.pop()?;
        self.in_flight -= 1;
        Some(done)
    }

    fn in_flight(&self) -> usize {
        self.in_flight
    }

    fn has_work(&self) -> bool {
        self.untold || !self.hatch.done.is_empty()
    }
}

/// A core's way to a namespace of a drive.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "who has it keeps it in one place, and a guest is no reason for another pointer in every request"
)]
pub enum NvmeQueue {
    /// A queue of its own.
    Own(OwnQueue),
    /// That of another core, or of another namespace.
    Guest(Guest),
}

impl NvmeQueue {
    /// Its core is about to sleep: from now on it is woken. Look for completions once more after this.
    pub fn before_sleep(&mut self) {
        match self {
            NvmeQueue::Own(queue) => queue.before_sleep(),
            NvmeQueue::Guest(guest) if guest.hatch.near => {}
            NvmeQueue::Guest(guest) => {
                // In this order: a ring that answers the note must not be taken for an old one.
                guest.bell().drain();
                guest.hatch.guest.before_sleep();
            }
        }
    }

    /// What becomes readable when there may be something to poll; None if nothing interrupts.
    pub fn wake_fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            NvmeQueue::Own(queue) => queue.wake_fd(),
            NvmeQueue::Guest(guest) => Some(guest.bell().as_fd()),
        }
    }

    /// Its core stopped, and will ask for nothing any more.
    pub fn on_stop(&mut self) {
        if let NvmeQueue::Guest(guest) = self {
            guest.leave();
        }
    }

    /// True while guests may still ask for something: polling may not end.
    pub fn is_needed(&self) -> bool {
        match self {
            NvmeQueue::Own(queue) => queue.is_needed(),
            NvmeQueue::Guest(_) => false,
        }
    }

    /// True if the queue is another's.
    pub fn is_guest(&self) -> bool {
        matches!(self, NvmeQueue::Guest(_))
    }
}

macro_rules! either {
    ($self:ident, $queue:ident => $call:expr) => {
        match $self {
            NvmeQueue::Own($queue) => $call,
            NvmeQueue::Guest($queue) => $call,
        }
    };
}

impl Backend for NvmeQueue {
    #[inline]
    fn submit(&mut self, io: Io) -> Result<(), Io> {
        either!(self, queue => queue.submit(io))
    }

    #[inline]
    fn ring_doorbell(&mut self) {
        either!(self, queue => queue.ring_doorbell());
    }

    #[inline]
    fn poll(&mut self) -> Option<Done> {
        either!(self, queue => queue.poll())
    }

    fn in_flight(&self) -> usize {
        either!(self, queue => queue.in_flight())
    }

    fn has_work(&self) -> bool {
        either!(self, queue => queue.has_work())
    }

    fn may_leave(&mut self) -> bool {
        match self {
            NvmeQueue::Own(queue) => queue.may_leave(),
            NvmeQueue::Guest(_) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use ferroce_buf::BufList;
    use ferroce_engine::port::{Op, Tag};
    use ferroce_wire::status::Status;

    use super::*;
    use crate::vfio::wait;

    fn flush() -> Io {
        let tag = Tag {
            slot: 0,
            generation: 0,
        };
        let (op, bufs) = (Op::Flush, BufList::new());
        Io { tag, op, bufs }
    }

    #[test]
    fn a_note_is_good_for_one_ring() {
        let bell = EventFd::new().expect("a descriptor");
        let hatch = Arc::new(
            Hatch::new(Some(bell.clone()), false, Abilities::default()).expect("a descriptor"),
        );
        let mut guest = Guest::new(hatch.clone());
        let mut ask = || {
            assert!(guest.submit(flush()).is_ok());
            guest.ring_doorbell();
            bell.drain()
        };
        assert!(ask(), "it slept before it knew of the guest");
        assert!(!ask(), "nobody sleeps");
        hatch.before_host_sleeps();
        assert!(ask());
        assert!(!ask(), "it was woken already");
        assert_eq!(std::iter::from_fn(|| hatch.take()).count(), 4);
        assert!(!hatch.is_left());
        drop(guest);
        assert!(hatch.is_left());
    }

    /// Who left with a request in the hatch has it answered there: between the two the place is not free, not even while the
    /// request is taken.
    #[test]
    fn a_place_is_not_free_while_a_request_is_taken() {
        for _ in 0..5_000 {
            let hatch =
                Arc::new(Hatch::new(None, true, Abilities::default()).expect("a descriptor"));
            let mut guest = Guest::new(hatch.clone());
            assert!(guest.submit(flush()).is_ok());
            drop(guest);
            assert!(!hatch.is_free(), "nobody took the request");
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let Io { tag, bufs, .. } = hatch.take().expect("it asks");
                    let status = Status::SUCCESS;
                    hatch.answer(Done { tag, status, bufs });
                });
                let start = Instant::now();
                while !hatch.is_free() {
                    assert!(start.elapsed() < Duration::from_secs(60), "never free");
                    std::thread::yield_now();
                }
                assert_eq!(hatch.done.len(), 1, "free before the answer");
            });
        }
    }

    /// Both sleep as cores do: their bell is emptied, they leave the note, and look once more. One that is not woken for
    /// what the other put in sleeps until the limit is over.
    #[test]
    fn nobody_sleeps_through_what_the_other_put_in() {
        const REQUESTS: usize = 200_000;
        const LIMIT: Duration = Duration::from_secs(10);
        let block = |bell: &EventFd, who: &str| {
            let start = Instant::now();
            wait(std::slice::from_ref(bell), LIMIT);
            assert!(start.elapsed() < LIMIT, "nobody woke the {who}");
        };
        let host_bell = EventFd::new().expect("a descriptor");
        let hatch = Arc::new(
            Hatch::new(Some(host_bell.clone()), false, Abilities::default()).expect("a descriptor"),
        );
        let mut guest = NvmeQueue::Guest(Guest::new(hatch.clone()));
        let guest_bell = hatch.guest.bell.clone().expect("a guest has one");
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (mut asked, mut answered) = (0, 0);
                let start = Instant::now();
                while answered < REQUESTS {
                    assert!(start.elapsed() < 6 * LIMIT, "every request is answered");
                    // One, and sometimes a few: the other may be falling asleep, or be at work.
                    while asked < REQUESTS && guest.in_flight() <= asked % 4 {
                        assert!(guest.submit(flush()).is_ok());
                        asked += 1;
                    }
                    guest.ring_doorbell();
                    match guest.poll() {
                        Some(_) => answered += 1,
                        None => {
                            guest.before_sleep();
                            if !guest.has_work() {
                                block(&guest_bell, "guest");
                            }
                        }
                    }
                }
            });
            let mut taken = 0;
            while taken < REQUESTS {
                if let Some(Io { tag, bufs, .. }) = hatch.take() {
                    taken += 1;
                    let status = Status::SUCCESS;
                    hatch.answer(Done { tag, status, bufs });
                    continue;
                }
                host_bell.drain();
                hatch.before_host_sleeps();
                if !hatch.is_asked() {
                    block(&host_bell, "host");
                }
            }
        });
    }
}
