//! Coming back after the target was away.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::{Controller, HostError, Queue};

/// How often to try again: at growing distances, with some chance in them, so that many hosts of a
/// restarted target do not all come at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Backoff {
    /// Before the second try.
    pub first: Duration,
    /// The longest pause.
    pub max: Duration,
    /// When to give up; None for never.
    pub give_up_after: Option<Duration>,
}

impl Default for Backoff {
    fn default() -> Backoff {
        Backoff {
            first: Duration::from_millis(50),
            max: Duration::from_secs(2),
            give_up_after: Some(Duration::from_secs(60)),
        }
    }
}

impl Backoff {
    /// Calls `attempt` until it succeeds, fails in a way that time does not mend
    /// ([`HostError::is_transient`]), the time is up, or `stop` is set.
    ///
    /// # Errors
    /// That of the last attempt, or [`HostError::Stopped`].
    pub fn retry<T>(
        &self,
        stop: &AtomicBool,
        mut attempt: impl FnMut() -> Result<T, HostError>,
    ) -> Result<T, HostError> {
        let start = Instant::now();
        let mut pause = self.first;
        loop {
            if stop.load(Ordering::Relaxed) {
                return Err(HostError::Stopped);
            }
            let error = match attempt() {
                Ok(value) => return Ok(value),
                Err(error) if !error.is_transient() => return Err(error),
                Err(error) => error,
            };
            if let Some(give_up_after) = self.give_up_after
                && start.elapsed() + pause > give_up_after
            {
                return Err(error);
            }
            sleep(pause.mul_f64(0.75 + fastrand::f64() / 2.0), stop);
            pause = (pause * 2).min(self.max);
        }
    }
}

impl Controller {
    /// Replaces a controller whose connection is lost by a new one of the same subsystem, and
    /// connects as many queues as [`Controller::queues`] was asked for. Drop the old queues first.
    ///
    /// # Errors
    /// See [`Backoff::retry`]; the old controller stays.
    pub fn reconnect(
        &mut self,
        backoff: &Backoff,
        stop: &AtomicBool,
    ) -> Result<Vec<Queue>, HostError> {
        let (count, depth) = self.asked();
        let (controller, queues) = backoff.retry(stop, || {
            let controller = Controller::connect(self.address(), self.nqn(), self.options())?;
            let queues = match count {
                0 => Vec::new(),
                _ => controller.queues(count, depth)?,
            };
            Ok((controller, queues))
        })?;
        *self = controller;
        Ok(queues)
    }
}

/// In small steps, so that `stop` is heard.
fn sleep(pause: Duration, stop: &AtomicBool) {
    let end = Instant::now() + pause;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() || stop.load(Ordering::Relaxed) {
            return;
        }
        std::thread::sleep(left.min(Duration::from_millis(50)));
    }
}
