//! What a controller's keeper tells its queues.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};

/// What the keeper says of a controller, in one word that every queue looks at.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Life(pub(super) u32);

/// How a controller is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// It takes commands.
    Up,
    /// It is being reset: nobody touches it, commands wait.
    Down,
    /// It is given up. It reaches no memory, and commands are answered.
    Failed,
}

impl Life {
    const fn new(generation: u32, mode: Mode) -> Life {
        Life(generation << 2 | mode as u32)
    }

    /// How it is.
    pub const fn mode(self) -> Mode {
        match self.0 & 3 {
            0 => Mode::Up,
            1 => Mode::Down,
            _ => Mode::Failed,
        }
    }

    /// The next thing to be said.
    #[must_use]
    pub const fn then(self, mode: Mode) -> Life {
        Life::new((self.0 >> 2).wrapping_add(1), mode)
    }
}

impl fmt::Debug for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} #{}", self.mode(), self.0 >> 2)
    }
}

/// What the keeper tells all queues of a controller.
#[derive(Debug)]
pub struct Word {
    life: AtomicU32,
    ms: AtomicU32,
}

impl Default for Word {
    fn default() -> Word {
        Word {
            life: AtomicU32::new(Life::new(0, Mode::Up).0),
            ms: AtomicU32::new(0),
        }
    }
}

impl Word {
    /// How the controller is.
    #[inline]
    pub fn life(&self) -> Life {
        Life(self.life.load(Ordering::Acquire))
    }

    /// Says how it is from now on.
    pub fn say(&self, mode: Mode) -> Life {
        let life = self.life().then(mode);
        self.life.store(life.0, Ordering::Release);
        life
    }

    /// Milliseconds of the keeper's clock, as it last said.
    #[inline]
    pub(super) fn ms(&self) -> u32 {
        self.ms.load(Ordering::Relaxed)
    }

    /// Tells the time.
    pub fn tell_ms(&self, ms: u32) {
        self.ms.store(ms, Ordering::Relaxed);
    }
}
