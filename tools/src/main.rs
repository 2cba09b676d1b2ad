//! The `ferroce` command.

mod boot;
mod cli;
mod config;
mod ctl;
mod demo;
mod devices;
mod fail;
mod identity;
mod journal;
mod metrics;
mod node;
mod persist;
mod probe;
mod roce;
mod serve;
mod sets;
mod signals;
mod units;
mod url;
mod usage;
mod wait;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use cli::{Cli, Command};
use fail::{Context, Result};

fn main() -> ExitCode {
    end_at_a_panic();
    if let Some(code) = boot::special(std::env::args_os().next().as_deref()) {
        return code;
    }
    let cli = Cli::parse();
    journal::start();
    #[cfg(feature = "verbs")]
    ferroce_transport::rdma::verbs::link_providers();
    match run(cli) {
        Ok(code) => code,
        Err(why) => {
            // The terminal may be gone; there is nobody else to tell.
            let _ = writeln!(std::io::stderr(), "ferroce: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode> {
    match cli.command {
        Command::Serve(args) => serve::run(args),
        Command::Ctl(args) => ctl::run(args),
        // Its status says more than well or not.
        Command::Probe(args) => return probe::run(*args),
        Command::RawServer(args) => probe::raw::server::run(args),
        Command::Demo(args) => demo::run(args),
        Command::Devices(args) => devices::run(&args),
        Command::Man { folder } => clap_mangen::generate_to(Cli::command(), &folder)
            .context(|| format!("cannot write manual pages into {}", folder.display())),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "ferroce", &mut script);
            ctl::print(&String::from_utf8_lossy(&script))
        }
    }
    .map(|()| ExitCode::SUCCESS)
}

/// Whoever waits for a thread that is gone would wait for ever, and a core that is gone would be given connections that nobody
/// answers: without one of its threads the process ends. Release builds know nothing else; what tests run is to do the same.
fn end_at_a_panic() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tell(panic);
        std::process::abort();
    }));
}

#[cfg(test)]
#[path = "../tests/common/mod.rs"]
mod common;

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;
    use std::thread;
    use std::time::Duration;

    const PANICS: &str = "FERROCE_TEST_PANICS";

    /// Not a test by itself: the process that `a_panic_of_a_thread_ends_the_process` looks at.
    #[test]
    fn one_that_panics() {
        if std::env::var_os(PANICS).is_some() {
            end_at_a_panic();
            thread::spawn(|| panic!("as it should"));
            thread::sleep(Duration::from_secs(120));
        }
    }

    #[test]
    fn a_panic_of_a_thread_ends_the_process() {
        let mut command = Command::new(std::env::current_exe().expect("it runs"));
        command.args(["--exact", "tests::one_that_panics", "--nocapture"]);
        let output = common::run(command.env(PANICS, "yes"));
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{said}");
        assert!(said.contains("as it should"), "{said}");
    }
}
