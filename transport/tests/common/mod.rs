//! An end to what tests wait for.

use std::fmt::Display;
use std::time::{Duration, Instant};

/// What is waited for comes in this time, on a machine that is busy, too.
pub const MOST: Duration = Duration::from_secs(60);

/// Of one wait.
pub struct Patience(Instant);

impl Patience {
    /// It begins now.
    pub fn begin() -> Patience {
        Patience(Instant::now())
    }

    /// Fails the test once that is waited for too long.
    #[track_caller]
    pub fn holds(&self, what: impl Display) {
        assert!(self.0.elapsed() < MOST, "waited {MOST:?} for: {what}");
    }
}
