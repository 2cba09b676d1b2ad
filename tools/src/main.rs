//! The `ferroce` command.

mod boot;
mod cli;
mod config;
mod ctl;
mod demo;
mod devices;
mod fail;
mod identity;
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
mod wait;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use cli::{Cli, Command};
use fail::Result;

fn main() -> ExitCode {
    let cli = Cli::parse();
    start_log();
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
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "ferroce", &mut script);
            ctl::print(&String::from_utf8_lossy(&script))
        }
    }
    .map(|()| ExitCode::SUCCESS)
}

/// Warnings and above, unless RUST_LOG says otherwise. Cores do not log between two I/Os: only set-up
/// and the control thread do.
fn start_log() {
    let env = env_logger::Env::default().default_filter_or("warn");
    env_logger::Builder::from_env(env)
        .format(|out, record| {
            let level = record.level().as_str().to_ascii_lowercase();
            writeln!(out, "ferroce: {level}: {}", record.args())
        })
        .init();
}
