//! SIGTERM, SIGINT and SIGHUP: the first ends the program in good order, a later one at once.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::low_level::pipe;

use crate::fail::{Context, Fail, Result};

const SIGNALS: [(i32, &str); 3] = [(SIGTERM, "SIGTERM"), (SIGINT, "SIGINT"), (SIGHUP, "SIGHUP")];

/// Signals within this time are one: `timeout` and some shells send theirs twice.
const SAME: Duration = Duration::from_millis(500);

/// The signals that end the program.
#[derive(Debug)]
pub struct Signals {
    first: Receiver<&'static str>,
    came: Arc<AtomicBool>,
}

impl Signals {
    /// From now on they are ours.
    pub fn take() -> Result<Signals> {
        Signals::try_take().context(|| "cannot handle signals")
    }

    fn try_take() -> std::io::Result<Signals> {
        let (mut pipe, other) = UnixStream::pair()?;
        let came = Arc::new(AtomicBool::new(false));
        let at_once = Arc::new(AtomicBool::new(false));
        let which = Arc::new(AtomicUsize::new(0));
        for (number, (signal, _)) in SIGNALS.iter().enumerate() {
            // The status is what a shell gives to a program that was interrupted.
            flag::register_conditional_shutdown(*signal, 130, at_once.clone())?;
            flag::register(*signal, came.clone())?;
            flag::register_usize(*signal, which.clone(), number)?;
            pipe::register(*signal, other.try_clone()?)?;
        }
        let (tell, first) = channel();
        let listen = move || {
            // The pipe ends with the process only, so this reads until a signal came.
            if pipe.read_exact(&mut [0]).is_ok() {
                let _ = tell.send(SIGNALS[which.load(Ordering::Relaxed)].1);
                thread::sleep(SAME);
                at_once.store(true, Ordering::Relaxed);
            }
        };
        thread::Builder::new()
            .name("signals".into())
            .spawn(listen)?;
        Ok(Signals { first, came })
    }

    /// Waits for one; its name.
    pub fn wait(&self) -> Result<&'static str> {
        self.first
            .recv()
            .map_err(|_| Fail("no signal can be waited for".into()))
    }

    /// True once one came.
    pub fn came(&self) -> bool {
        self.came.load(Ordering::Relaxed)
    }
}
