//! A machine whose only program is Ferroce: what the first process does, from mounting /proc to switching the power off.
//!
//! The first process looks after the machine: kernel modules, network interfaces, drives, memory, the power button. The
//! node is a child of it, `ferroce serve --patient`, started again should it end. Every two seconds it looks for what was
//! missing. There is no shell, no other program, and nothing is ever written to a disk; what is on record is the
//! kernel's log, which the node shows at `/log`.

mod board;
mod button;
mod command_line;
mod dhcp;
mod fat;
mod links;
mod modules;
mod net;
mod places;
mod settings;
mod stick;
mod supervisor;

use std::ffi::OsStr;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getpid, getrlimit, setrlimit};
use rustix::system::{RebootCommand, reboot};

use crate::fail::{Fail, Result};
use crate::journal;

pub use board::missing;

/// Set for the node whose machine this is.
pub const VARIABLE: &str = "FERROCE_BOOT";
/// What was wrong stands on the console for so long before the machine starts again.
const READABLE: Duration = Duration::from_secs(20);

/// How a machine ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// The power goes off.
    PowerOff,
    /// It starts again.
    Restart,
}

/// What the program was started as, if not as a command: the kernel starts `/init` as the first process, and
/// `/sbin/modprobe` to have a module loaded.
pub fn special(program: Option<&OsStr>) -> Option<ExitCode> {
    let name = Path::new(program?).file_name()?;
    if name == "init" && getpid().is_init() {
        first_process()
    } else if name == "modprobe" {
        let loaded = modules::modprobe(std::env::args().skip(1));
        Some(if loaded {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    } else {
        None
    }
}

fn first_process() -> ! {
    let ended = places::prepare().and_then(|()| {
        journal::start_for_machine();
        log::info!(
            "Ferroce {} is the system of this machine",
            env!("CARGO_PKG_VERSION")
        );
        supervisor::live()
    });
    let end = match ended {
        Ok(end) => end,
        Err(Fail(why)) => {
            log::error!(
                "{why}; the machine starts again in {} s",
                READABLE.as_secs()
            );
            // Where even the places to log to could not be made.
            let _ = writeln!(io::stderr(), "ferroce: {why}");
            thread::sleep(READABLE);
            End::Restart
        }
    };
    rustix::fs::sync();
    let command = match end {
        End::PowerOff => RebootCommand::PowerOff,
        End::Restart => RebootCommand::Restart,
    };
    let refused = reboot(command);
    log::error!("the kernel neither switches off nor starts again: {refused:?}");
    loop {
        thread::park();
    }
}

/// Raises the limit of open files to what the hard limit allows, and says what it is then. Each
/// connection is a descriptor, and the usual soft limit is 1024.
pub fn raise_open_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    // A refusal leaves the limit as it was, which is what is reported then.
    let limit = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => raised,
        Err(_) => limit,
    };
    limit.current.unwrap_or(u64::MAX)
}

/// Lets the node open and lock what it wants: it is alone here.
fn raise_all_limits() -> Result<()> {
    let most = Rlimit {
        current: Some(1 << 20),
        maximum: Some(1 << 20),
    };
    let all = Rlimit {
        current: None,
        maximum: None,
    };
    for (what, resource, limit) in [
        ("open files", Resource::Nofile, most),
        ("locked memory", Resource::Memlock, all),
    ] {
        setrlimit(resource, limit)
            .map_err(|cause| Fail(format!("cannot raise the limit of {what}: {cause}")))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_files_to_open() {
        assert!(raise_open_files() >= 256);
    }

    #[test]
    fn a_command_is_nothing_special() {
        for name in [
            "ferroce",
            "/usr/bin/ferroce",
            "target/debug/ferroce",
            "/init",
        ] {
            assert!(special(Some(OsStr::new(name))).is_none(), "{name}");
        }
        assert!(special(None).is_none());
    }
}
