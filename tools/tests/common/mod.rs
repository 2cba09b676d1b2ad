//! What these tests wait for, and for how long: nothing is waited for without an end, and who waits too long says for what.
#![allow(dead_code, reason = "each test uses its part")]

use std::io::Read;
use std::ops::{Deref, DerefMut};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

/// What is waited for comes in this time, on a machine that is busy, too.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Looks until there is what is waited for; `look` says what there is instead.
#[track_caller]
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match look() {
            Ok(found) => return found,
            Err(known) => assert!(
                start.elapsed() < PATIENCE,
                "waited {PATIENCE:?} for: {what}; there is: {known}"
            ),
        }
        // Most of it comes at once.
        match start.elapsed() < Duration::from_millis(20) {
            true => thread::yield_now(),
            false => thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// Looks until `look` finds what is waited for in what it gives.
#[track_caller]
pub fn wait_until_it_says(what: &str, mut look: impl FnMut() -> String) -> String {
    wait_for(what, || {
        let said = look();
        if said.contains(what) {
            Ok(said)
        } else {
            Err(said)
        }
    })
}

/// Runs a command that takes nothing from stdin to its end.
#[track_caller]
pub fn run(command: &mut Command) -> Output {
    Process::piped(command).output()
}

/// A process that ends with the test at the latest.
pub struct Process(Child);

impl Process {
    /// Both its outputs can be read, and it has no input.
    pub fn piped(command: &mut Command) -> Process {
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped());
        Process::spawn(command.stderr(Stdio::piped()))
    }

    /// As the command says.
    pub fn spawn(command: &mut Command) -> Process {
        Process(command.spawn().expect("the program is there"))
    }

    /// What it writes to stdout from now on.
    pub fn stdout(&mut self) -> Said {
        Said::of(self.0.stdout.take().expect("it is piped"))
    }

    /// What it writes to stderr from now on.
    pub fn stderr(&mut self) -> Said {
        Said::of(self.0.stderr.take().expect("it is piped"))
    }

    /// Sends a signal, by the shell's own `kill`: a small machine has no other.
    pub fn signal(&self, name: &str) {
        let kill = format!("kill -s {name} {}", self.0.id());
        let sent = Command::new("sh").args(["-c", &kill]).status();
        assert!(sent.expect("there is a shell").success(), "{kill}");
    }

    /// Waits for its end.
    #[track_caller]
    pub fn ended(&mut self) -> ExitStatus {
        let look = || match self.0.try_wait().expect("it is ours") {
            Some(status) => Ok(status),
            None => Err("it runs".to_owned()),
        };
        wait_for("the end of a process", look)
    }

    /// Waits for its end, and for all that it says until then.
    #[track_caller]
    pub fn output(mut self) -> Output {
        let stdout = self.0.stdout.take().map(Said::of);
        let stderr = self.0.stderr.take().map(Said::of);
        let all = |said: Option<Said>| said.map_or(Vec::new(), |mut said| said.all().to_vec());
        let (stdout, stderr) = (all(stdout), all(stderr));
        Output {
            status: self.ended(),
            stdout,
            stderr,
        }
    }
}

impl Deref for Process {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.0
    }
}

impl DerefMut for Process {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        // One that the system does not let go of, as with I/O under way that never ends, is left behind.
        let start = Instant::now();
        while let Ok(None) = self.0.try_wait()
            && start.elapsed() < PATIENCE
        {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// What a process says. It is taken from the pipe all the time, so that nobody waits for room there.
pub struct Said {
    pieces: Receiver<Vec<u8>>,
    bytes: Vec<u8>,
}

impl Said {
    fn of(mut pipe: impl Read + Send + 'static) -> Said {
        let (give, pieces) = channel();
        thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(count @ 1..) = pipe.read(&mut piece) {
                // Whoever listened may have heard enough.
                let _ = give.send(piece[..count].to_vec());
            }
        });
        Said {
            pieces,
            bytes: Vec::new(),
        }
    }

    /// What it said until `is_all` holds of it.
    ///
    /// # Errors
    /// It ended before; what it said.
    #[track_caller]
    pub fn until(&mut self, is_all: impl Fn(&str) -> bool) -> Result<String, String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let text = String::from_utf8_lossy(&self.bytes).into_owned();
            if is_all(&text) {
                return Ok(text);
            }
            match self
                .pieces
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(piece) => self.bytes.extend(piece),
                Err(RecvTimeoutError::Disconnected) => return Err(text),
                Err(RecvTimeoutError::Timeout) => {
                    panic!("waited {PATIENCE:?} for more than: {text}")
                }
            }
        }
    }

    /// All it says until its end.
    #[track_caller]
    pub fn all(&mut self) -> &[u8] {
        let _ = self.until(|_| false);
        &self.bytes
    }

    /// The same as text.
    #[track_caller]
    pub fn text(&mut self) -> String {
        String::from_utf8_lossy(self.all()).into_owned()
    }
}

/// Sets what it has when it goes, also by a panic: who runs until that is set does not keep a test from failing.
pub struct SetAtEnd<'a>(pub &'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
