//! What a person is told when something cannot be done: one line that says what was tried, why it
//! failed and what to do.

use std::{fmt, io};

/// A reason not to go on, for a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fail(pub String);

/// What most of this binary returns.
pub type Result<T> = std::result::Result<T, Fail>;

impl fmt::Display for Fail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Fail {}

impl From<String> for Fail {
    fn from(text: String) -> Fail {
        Fail(text)
    }
}

impl From<&str> for Fail {
    fn from(text: &str) -> Fail {
        Fail(text.to_owned())
    }
}

/// Says on what something failed.
pub trait Context<T> {
    /// Puts `what` and a colon in front of the cause.
    fn context<S: fmt::Display>(self, what: impl FnOnce() -> S) -> Result<T>;
}

impl<T, E: fmt::Display> Context<T> for std::result::Result<T, E> {
    fn context<S: fmt::Display>(self, what: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|cause| Fail(format!("{}: {cause}", what())))
    }
}

/// What to do when an address cannot be listened at, by TCP.
pub fn cannot_listen(cause: &io::Error) -> &'static str {
    match cause.raw_os_error() {
        Some(libc::EADDRINUSE) => {
            "another program (or node) listens there; stop it or choose another port"
        }
        Some(libc::EADDRNOTAVAIL) => {
            "this machine has no such address; `ip address` lists those it has"
        }
        Some(libc::EACCES) => "ports below 1024 need root",
        _ => "choose another address",
    }
}

/// Returns from the function with a formatted [`Fail`].
macro_rules! fail {
    ($($arg:tt)*) => { return Err($crate::fail::Fail(format!($($arg)*))) };
}
pub(crate) use fail;
