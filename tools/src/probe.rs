//! `ferroce probe`: a host that measures a node, or verifies it.

mod guard;
mod ledger;
mod load;
mod pattern;
pub mod report;
mod target;

use std::io::IsTerminal;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use crate::cli::{Pattern, ProbeArgs};
use crate::ctl::print;
use crate::fail::{Fail, Result, fail};
use crate::signals::Signals;
use crate::units::{about, thousands};
use ledger::Ledger;
use load::{Load, Shared};
use report::Totals;
pub use target::Target;

/// With `--verify`, and no word about writes: half and half.
const VERIFY_WRITES: u8 = 50;
/// Places that a run which verifies keeps in mind: six bytes each.
const PLACES_MAX: u64 = 1 << 26;

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    /// What was measured.
    pub totals: Totals,
    /// For how long.
    pub time: Duration,
    /// Why it ended before its time.
    pub cut_short: Option<String>,
}

/// Runs the command.
pub fn run(args: ProbeArgs) -> Result<()> {
    check(&args)?;
    let signals = Signals::take()?;
    let target = Target::connect(&args)?;
    let about_run = describe(&args, &target);
    if !args.json {
        print(&format!("{about_run}\n"))?;
    }
    let quiet = args.json || !std::io::stderr().is_terminal();
    let outcome = measure(&args, target, !quiet, &|| signals.came())?;
    if args.json {
        let mut value = report::json(&outcome.totals, outcome.time);
        value["run"] = json!({
            "about": about_run,
            "url": args.url.to_string(),
            "block_size": args.block_size.0,
            "depth": args.depth,
            "queues": args.queues,
            "write_percent": writes(&args),
            "random": args.pattern == Pattern::Random,
            "verify": args.verify,
        });
        value["cut_short"] = json!(outcome.cut_short);
        print(&format!("{value:#}\n"))?;
    } else {
        print(&format!(
            "\n{}",
            report::table(&outcome.totals, outcome.time)
        ))?;
    }
    judge(&outcome)
}

/// What is wrong with the result, if anything.
pub fn judge(outcome: &Outcome) -> Result<()> {
    let Totals { blocks_wrong, .. } = outcome.totals;
    if blocks_wrong > 0 {
        fail!(
            "{} blocks are not what was acknowledged last",
            thousands(blocks_wrong)
        );
    }
    if let Some(why) = &outcome.cut_short {
        fail!("ended after {:.1} s: {why}", outcome.time.as_secs_f64());
    }
    if outcome.totals.failed() > 0 {
        fail!("{} commands failed", thousands(outcome.totals.failed()));
    }
    Ok(())
}

/// Puts the load on, one thread for each queue, and adds up what they measured.
pub fn measure(
    args: &ProbeArgs,
    target: Target,
    bar: bool,
    wants_end: &dyn Fn() -> bool,
) -> Result<Outcome> {
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..));
    let places = target.places(args)?;
    let mut queues = target.queues(args)?;
    if writes(args) > 0 {
        target.refuse_if_in_use(&mut queues[0], args.force)?;
    }
    let count = queues.len() as u16;
    let shared = Shared {
        nsid: target.namespace.nsid,
        block_len: target.namespace.block_len,
        blocks: args.block_size.0 as u32 / target.namespace.block_len,
        verify: args.verify.then_some(seed),
        time: args.time,
        stop: AtomicBool::new(false),
        answered: AtomicU64::new(0),
    };
    let loads: Vec<Load<'_>> = (0..count)
        .zip(queues)
        .map(|(number, queue)| {
            let ledger = Ledger::new(places, (number, count), args.pattern, writes(args), seed);
            let ledger = if args.verify {
                ledger.with_verify()
            } else {
                ledger
            };
            Load::new(&shared, queue, ledger, args.depth)
        })
        .collect();
    let cpus = args.cores.clone().unwrap_or_default().0;
    let starts = Barrier::new(loads.len() + 1);
    thread::scope(|scope| {
        let threads: Vec<_> = loads
            .into_iter()
            .enumerate()
            .map(|(number, load)| {
                let cpu = (!cpus.is_empty()).then(|| cpus[number % cpus.len()]);
                let starts = &starts;
                scope.spawn(move || {
                    let pinned = cpu.is_none_or(|id| {
                        core_affinity::set_for_current(core_affinity::CoreId { id })
                    });
                    starts.wait();
                    let (totals, lasted, why) = load.run();
                    (totals, lasted, why, pinned)
                })
            })
            .collect();
        starts.wait();
        watch(&shared, bar, wants_end, || {
            threads.iter().all(|thread| thread.is_finished())
        });
        let mut outcome = Outcome {
            totals: Totals::new(),
            time: Duration::ZERO,
            cut_short: None,
        };
        for thread in threads {
            let (totals, time, why, pinned) = thread
                .join()
                .map_err(|_| Fail("a queue's thread failed".into()))?;
            if !pinned {
                log::warn!("the system did not let a thread run on the CPUs of --cores");
            }
            outcome.totals.merge(&totals);
            outcome.time = outcome.time.max(time);
            outcome.cut_short = outcome.cut_short.or(why);
        }
        if wants_end() && outcome.cut_short.is_none() && outcome.time < args.time {
            outcome.cut_short = Some("interrupted".into());
        }
        target.goodbye();
        Ok(outcome)
    })
}

/// Shows how far it is, and passes on a wish to end, until all threads are done.
fn watch(shared: &Shared, bar: bool, wants_end: &dyn Fn() -> bool, done: impl Fn() -> bool) {
    let bar = if bar {
        ProgressBar::new(shared.time.as_millis() as u64)
    } else {
        ProgressBar::hidden()
    };
    let style = ProgressStyle::with_template("{wide_bar} {msg}").expect("a sound template");
    bar.set_style(style);
    let start = Instant::now();
    while !done() {
        thread::sleep(Duration::from_millis(20));
        if wants_end() {
            shared.stop.store(true, Ordering::Relaxed);
        }
        let elapsed = start.elapsed();
        bar.set_position(elapsed.min(shared.time).as_millis() as u64);
        let rate = shared.answered.load(Ordering::Relaxed) as f64 / elapsed.as_secs_f64();
        let what = if elapsed > shared.time {
            "reading back"
        } else {
            "IOPS"
        };
        bar.set_message(format!("{} {what}", thousands(rate as u64)));
    }
    bar.finish_and_clear();
}

/// Percentage of writes.
fn writes(args: &ProbeArgs) -> u8 {
    args.write
        .unwrap_or(if args.verify { VERIFY_WRITES } else { 0 })
}

/// Flags that contradict each other.
fn check(args: &ProbeArgs) -> Result<()> {
    let wish = match (args.verify, args.write) {
        (true, _) => Some("--verify".to_owned()),
        (false, Some(percent)) if percent > 0 => Some(format!("--write {percent}")),
        _ => None,
    };
    match (&wish, args.destroy_data) {
        (Some(wish), false) => {
            fail!("{wish} overwrites the namespace: add --destroy-data if nothing on it is needed")
        }
        (None, true) => {
            fail!("--destroy-data, but nothing writes: add --write PERCENT or --verify")
        }
        _ => (),
    }
    if args.verify && args.write == Some(0) {
        fail!(
            "--verify and --write 0 contradict each other: only what was written can be verified"
        );
    }
    if args.time.is_zero() {
        fail!("--time 0: there would be nothing to measure");
    }
    Ok(())
}

/// One line about the run.
fn describe(args: &ProbeArgs, target: &Target) -> String {
    let pattern = match args.pattern {
        Pattern::Random => "random",
        Pattern::Sequential => "sequential",
    };
    let what = match writes(args) {
        0 => "reads".to_owned(),
        100 => "writes".to_owned(),
        percent => format!("reads and writes ({percent}%)"),
    };
    let verify = if args.verify { ", verified" } else { "" };
    let queues = if args.queues == 1 {
        "1 queue".into()
    } else {
        format!("{} queues", args.queues)
    };
    format!(
        "{}\nnamespace {}, {}, blocks of {}\n{} {pattern} {what}{verify}, {queues} of {}, {:.1} s",
        target.nqn,
        target.namespace.nsid,
        about(target.namespace.blocks * u64::from(target.namespace.block_len)),
        target.namespace.block_len,
        about(args.block_size.0),
        args.depth,
        args.time.as_secs_f64()
    )
}
