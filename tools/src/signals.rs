//! SIGTERM, SIGINT and SIGHUP: the first ends the program in good order, a later one at once. For a node that has a
//! configuration file, SIGHUP is the wish to read it again.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::low_level::pipe;

use crate::fail::{Context, Fail, Result};

/// SIGHUP comes last: it may mean something else.
const SIGNALS: [(i32, &str); 3] = [(SIGTERM, "SIGTERM"), (SIGINT, "SIGINT"), (SIGHUP, "SIGHUP")];

/// Signals within this time are one: `timeout` and some shells send theirs twice.
const SAME: Duration = Duration::from_millis(500);

/// What the program is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Told {
    /// By a signal of this name, to end.
    End(&'static str),
    /// By a part of itself, to start again, and why.
    Restart(String),
}

/// The signals that end the program.
#[derive(Debug)]
pub struct Signals {
    told: Receiver<Told>,
    tell: Sender<Told>,
    came: Arc<AtomicBool>,
    hups: Option<signal_hook::iterator::Signals>,
}

impl Signals {
    /// From now on they are ours.
    pub fn take() -> Result<Signals> {
        Signals::try_take(&SIGNALS).context(|| "cannot handle signals")
    }

    /// The same, and SIGHUP does not end the program: see [`Signals::on_reload`].
    pub fn take_with_reload() -> Result<Signals> {
        let what = || "cannot handle signals";
        let mut signals = Signals::try_take(&SIGNALS[..2]).context(what)?;
        signals.hups = Some(signal_hook::iterator::Signals::new([SIGHUP]).context(what)?);
        Ok(signals)
    }

    /// From now on this is done at each SIGHUP, and once if there were some before; by a thread of its own, since the program
    /// may be told to end while it is at it. Those that come meanwhile are one.
    pub fn on_reload(&mut self, mut reload: impl FnMut() + Send + 'static) -> Result<()> {
        let Some(mut hups) = self.hups.take() else {
            return Ok(());
        };
        let listen = move || hups.forever().for_each(|_| reload());
        let thread = thread::Builder::new().name("reload".into()).spawn(listen);
        thread.map(drop).context(|| "cannot handle signals")
    }

    fn try_take(ending: &'static [(i32, &'static str)]) -> std::io::Result<Signals> {
        let (mut pipe, other) = UnixStream::pair()?;
        let came = Arc::new(AtomicBool::new(false));
        let at_once = Arc::new(AtomicBool::new(false));
        let which = Arc::new(AtomicUsize::new(0));
        for (number, (signal, _)) in ending.iter().enumerate() {
            // The status is what a shell gives to a program that was interrupted.
            flag::register_conditional_shutdown(*signal, 130, at_once.clone())?;
            flag::register(*signal, came.clone())?;
            flag::register_usize(*signal, which.clone(), number)?;
            pipe::register(*signal, other.try_clone()?)?;
        }
        let (tell, told) = channel();
        let teller = tell.clone();
        let listen = move || {
            // The pipe ends with the process only, so this reads until a signal came.
            if pipe.read_exact(&mut [0]).is_ok() {
                let _ = teller.send(Told::End(ending[which.load(Ordering::Relaxed)].1));
                thread::sleep(SAME);
                at_once.store(true, Ordering::Relaxed);
            }
        };
        thread::Builder::new()
            .name("signals".into())
            .spawn(listen)?;
        Ok(Signals {
            told,
            tell,
            came,
            hups: None,
        })
    }

    /// For parts of the program that have something to tell.
    pub fn teller(&self) -> Sender<Told> {
        self.tell.clone()
    }

    /// Waits until there is something.
    pub fn wait(&self) -> Result<Told> {
        self.told
            .recv()
            .map_err(|_| Fail("no signal can be waited for".into()))
    }

    /// True once one came that ends the program.
    pub fn came(&self) -> bool {
        self.came.load(Ordering::Relaxed)
    }
}
