//! What looks at a run while it lasts: a progress bar, and whoever wants it to end.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::load::Slice;
use crate::units::thousands;

/// How often the run is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// Threads that are at work; whoever made this is woken when they leave.
#[derive(Debug)]
pub struct AtWork {
    left: AtomicUsize,
    waiter: Thread,
}

/// Held by a thread while it is at work.
#[derive(Debug)]
pub struct Shift<'a>(&'a AtWork);

impl AtWork {
    /// So many, each of which is to hold a [`Shift`].
    pub fn new(count: usize) -> AtWork {
        AtWork {
            left: AtomicUsize::new(count),
            waiter: thread::current(),
        }
    }

    /// Of one thread.
    pub fn shift(&self) -> Shift<'_> {
        Shift(self)
    }
}

impl Drop for Shift<'_> {
    fn drop(&mut self) {
        self.0.left.fetch_sub(1, Ordering::Release);
        self.0.waiter.unpark();
    }
}

/// The watch over a run of one or more slices.
pub struct Watch<'a> {
    /// Says whether someone wants the run to end.
    pub wants_end: &'a dyn Fn() -> bool,
    bar: ProgressBar,
    /// Of the slices before.
    past: Duration,
}

impl fmt::Debug for Watch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watch")
    }
}

impl<'a> Watch<'a> {
    /// Over a run that is to take `time` in all; with a bar, if someone looks.
    pub fn new(time: Duration, visible: bool, wants_end: &'a dyn Fn() -> bool) -> Watch<'a> {
        let bar = if visible {
            ProgressBar::new(time.as_millis() as u64)
        } else {
            ProgressBar::hidden()
        };
        let style = ProgressStyle::with_template("{wide_bar} {msg}").expect("a sound template");
        bar.set_style(style);
        Watch {
            wants_end,
            bar,
            past: Duration::ZERO,
        }
    }

    /// Stays until nobody is at work any more, and passes a wish to end on to the slice.
    pub fn until_done(&self, work: &AtWork, slice: &Slice) {
        while work.left.load(Ordering::Acquire) > 0 {
            // Each look takes a CPU from the load or from the target for a moment: few are enough.
            thread::park_timeout(LOOK);
            if (self.wants_end)() {
                slice.stop.store(true, Ordering::Relaxed);
            }
            let now = Instant::now();
            let elapsed = now.duration_since(slice.start);
            let over = now > slice.end;
            let time = (slice.end - slice.start).min(elapsed);
            self.bar.set_position((self.past + time).as_millis() as u64);
            let rate = slice.answered.load(Ordering::Relaxed) as f64 / elapsed.as_secs_f64();
            let what = if over { "reading back" } else { "IOPS" };
            self.bar
                .set_message(format!("{} {what}", thousands(rate as u64)));
        }
    }

    /// A slice of so long is over.
    pub fn advance(&mut self, time: Duration) {
        self.past += time;
    }

    /// The run is over.
    pub fn finish(self) {
        self.bar.finish_and_clear();
    }
}
