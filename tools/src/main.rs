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
