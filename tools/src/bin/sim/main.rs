//! `sim`: the whole node on a virtual clock, from a seed.
//!
//! The production core loop, control, RAM drive and software RoCEv2 run in one thread against simulated hosts, drives and
//! networks that are slow, stall, fail, drop and come back; what every host may find in every block is
//! known, and everything that was handed out must come home. The same seed is the same run, bit for bit.

mod content;
mod disk;
mod ether;
mod ground;
mod host;
mod io;
mod model;
mod net;
mod node;
mod plan;
mod queue;
mod rdma;
mod shared;
mod world;

use std::cell::{Cell, RefCell};
use std::panic::{self, AssertUnwindSafe};
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use clap::Parser;
use ferroce_engine::plant::{Bug, plant};

use crate::ground::Stats;
use crate::world::{Outcome, World};

/// Runs the node in simulation, many seeds or one.
#[derive(Parser, Debug)]
#[command(name = "sim")]
struct Args {
    /// Run this seed alone.
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Run so many seeds.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Print everything that happens.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Write the datagrams of RDMA to this file, for tshark and its like.
    #[arg(long, requires = "seed", value_name = "FILE")]
    pcap: Option<std::path::PathBuf>,
    /// Threads.
    #[arg(long)]
    jobs: Option<usize>,
    /// Plant this bug first.
    #[arg(long, value_parser = planted)]
    plant: Option<Bug>,
    /// Plant one bug after the other; each must be found within so many seeds.
    #[arg(long, conflicts_with_all = ["seed", "plant"])]
    self_test: bool,
    /// Stop after so many failures.
    #[arg(long, default_value_t = 20)]
    failures: usize,
}

thread_local! {
    /// What the last panic on this thread said.
    static SAID: RefCell<String> = const { RefCell::new(String::new()) };
    /// The seed that runs on this thread.
    static SEED: Cell<u64> = const { Cell::new(0) };
}

/// Runs one seed.
fn run(seed: u64, print: bool, pcap: Option<std::fs::File>) -> Result<Outcome, String> {
    SAID.with_borrow_mut(String::clear);
    SEED.set(seed);
    let outcome = panic::catch_unwind(AssertUnwindSafe(|| {
        let world = World::new(seed, print);
        if let Some(file) = pcap {
            world.capture(file);
        }
        world.run()
    }));
    outcome.map_err(|_| SAID.with_borrow(String::clone))
}

fn keep_what_panics_say() {
    panic::set_hook(Box::new(|info| {
        let said = info.payload_as_str().unwrap_or("no words");
        let place = info
            .location()
            .map_or_else(String::new, |at| format!(" ({}:{})", at.file(), at.line()));
        let said = said
            .strip_prefix("WRONG ")
            .map_or_else(|| format!("panic: {said}{place}"), str::to_owned);
        SAID.with_borrow_mut(|last| {
            // A panic while another unwinds is not the cause; and it is the end of the process, as
            // the first one is where panics abort.
            let second = !last.is_empty();
            if !second {
                *last = said;
            }
            if second || cfg!(panic = "abort") {
                println!("seed {}: {last}", SEED.get());
            }
        });
    }));
}

fn main() -> ExitCode {
    let args = Args::parse();
    keep_what_panics_say();
    if args.self_test {
        return self_test(&args);
    }
    plant(args.plant);
    if let Some(seed) = args.seed {
        let create = |path: &std::path::PathBuf| {
            std::fs::File::create(path).unwrap_or_else(|cause| {
                eprintln!("sim: cannot write {}: {cause}", path.display());
                std::process::exit(2)
            })
        };
        let pcap = args.pcap.as_ref().map(create);
        return match run(seed, args.trace, pcap) {
            Ok(outcome) => {
                println!(
                    "seed {seed}: {:016x}, {:.1} ms, {:?}",
                    outcome.hash,
                    outcome.time as f64 / 1e6,
                    outcome.stats
                );
                ExitCode::SUCCESS
            }
            Err(reason) => {
                println!("seed {seed}: FAILED: {reason}");
                ExitCode::FAILURE
            }
        };
    }
    let failures = many(&args);
    if failures == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn planted(name: &str) -> Result<Bug, String> {
    let found = Bug::ALL.iter().find(|(called, _)| *called == name);
    let names = Bug::ALL.map(|(name, _)| name).join(", ");
    found
        .map(|(_, bug)| *bug)
        .ok_or_else(|| format!("bugs are {names}"))
}

/// Plants each bug in a process of its own, which it may well bring down, and looks for it.
fn self_test(args: &Args) -> ExitCode {
    let myself = std::env::current_exe().expect("it runs");
    let mut missed = 0;
    for (name, _) in Bug::ALL {
        let began = Instant::now();
        let out = Command::new(&myself)
            .args(["--plant", name, "--failures", "1", "--jobs", "1"])
            .args(["--from", &args.from.to_string()])
            .args(["--seeds", &args.seeds.to_string()])
            .output()
            .expect("it runs again");
        let took = began.elapsed().as_secs_f64();
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        match said.lines().find(|line| line.starts_with("seed ")) {
            Some(found) => println!("{name:18} {took:6.1} s  {found:.120}"),
            None if out.status.code().is_none() => {
                println!("{name:18} {took:6.1} s  it brought the process down");
            }
            None => {
                println!("{name:18} NOT FOUND in {} seeds", args.seeds);
                missed += 1;
            }
        }
    }
    if missed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Runs many seeds on all threads; how many failed.
fn many(args: &Args) -> usize {
    let began = Instant::now();
    let next = AtomicU64::new(args.from);
    let end = args.from + args.seeds;
    let failed = Mutex::new(Vec::new());
    let stats = Mutex::new(Stats::default());
    let jobs = args
        .jobs
        .or_else(|| std::thread::available_parallelism().ok().map(Into::into))
        .unwrap_or(1);
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    match run(seed, false, None) {
                        Ok(outcome) => stats.lock().expect("no panic inside").add(&outcome.stats),
                        Err(reason) => {
                            println!("seed {seed}: {reason}");
                            let mut failed = failed.lock().expect("no panic inside");
                            failed.push(seed);
                            if failed.len() >= args.failures {
                                next.store(end, Ordering::Relaxed);
                            }
                        }
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().expect("no panic inside");
    let took = began.elapsed().as_secs_f64();
    let stats = stats.into_inner().expect("no panic inside");
    println!(
        "{} seeds, {} failed, {took:.1} s; {stats:?}",
        args.seeds,
        failed.len()
    );
    failed.len()
}
