//! `ferroce probe`: a host that measures a node, or verifies it.

mod check;
mod compare;
mod crowd;
pub mod drive;
mod guard;
mod ledger;
mod link;
mod load;
mod memory;
mod outcome;
mod pattern;
pub mod raw;
mod rdma;
pub mod report;
pub mod schedule;
mod side;
pub mod slo;
mod sweep;
mod target;
mod watch;
mod workload;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;

use crate::cli::{ProbeArgs, Workload};
use crate::ctl;
use crate::fail::{Fail, Result, fail};
use crate::signals::Signals;
use crate::units::Size;
use drive::Place;
use outcome::{Measured, Outcome};
use report::Sliced;
use side::{Phase, Side};
use slo::Slo;
use target::{Ground, Target};
use watch::Watch;

/// Of what `--json` prints; tools/probe-json.md says when it changes.
const SCHEMA: &str = "ferroce-probe/1";
/// The status of a run that went well and missed its objective.
const MISSED: u8 = 3;
/// Places that a run which verifies keeps in mind: six bytes each.
const PLACES_MAX: u64 = 1 << 26;
/// Slices of two targets in turns are so long, if there are not too many.
const SLICE: Duration = Duration::from_millis(100);
const SLICES_MAX: u32 = 40;
/// Of several rates, so much of each beginning is counted apart.
const EARLY: Duration = Duration::from_secs(1);
/// Two targets are warmed up so long each before the first slice.
const WARM_UP: Duration = Duration::from_millis(50);
/// How long the probe's own ceiling is measured.
const CEILING_TIME: Duration = Duration::from_millis(500);
/// Bytes of memory that it may take.
const CEILING_MEMORY_MAX: u64 = 1 << 30;

/// Runs the command.
pub fn run(args: ProbeArgs) -> Result<ExitCode> {
    check::check(&args)?;
    let signals = Signals::take()?;
    let wants_end = || signals.came();
    if let Some(count) = args.crowd {
        let found = crowd::run(&args, count, &wants_end)?;
        let mut value = found.json();
        value["schema"] = json!(SCHEMA);
        print(&if args.json {
            format!("{value:#}\n")
        } else {
            found.to_string()
        })?;
        return match found.cut_short {
            Some(why) => Err(Fail(why)),
            None => Ok(ExitCode::SUCCESS),
        };
    }
    let ceiling = args
        .ceiling
        .then(|| ceiling(&args, &wants_end))
        .transpose()?;
    if let (Some(ceiling), false) = (&ceiling, args.json) {
        print(&format!(
            "The probe itself, reading memory of this process on one thread:\n{}{}\n",
            report::head(),
            report::rows("", ceiling)
        ))?;
    }
    if args.url.is_none() {
        if let (Some(ceiling), true) = (&ceiling, args.json) {
            let value = json!({ "schema": SCHEMA, "ceiling": report::json(ceiling) });
            print(&format!("{value:#}\n"))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    if let (true, Some(slo)) = (args.sweep, &args.slo) {
        return find_highest(&args, slo, &wants_end);
    }
    let bar = !args.json && io::stderr().is_terminal();
    let outcome = measure(&args, bar, &wants_end)?;
    let mut missed = Vec::new();
    if let Some(slo) = &args.slo {
        missed = slo.missed(&outcome.whole());
        // What would have come is not known.
        missed.extend(
            (outcome.cut_short.iter()).map(|why| format!("it ended before its time: {why}")),
        );
    }
    if args.json {
        let mut value = outcome.json();
        if let Some(ceiling) = &ceiling {
            value["ceiling"] = report::json(ceiling);
        }
        if args.slo.is_some() {
            value["slo"] = json!({ "met": missed.is_empty(), "missed": missed });
        }
        print(&format!("{value:#}\n"))?;
    } else {
        print(&outcome.table())?;
        if args.slo.is_some() && missed.is_empty() {
            print("the objective is met\n")?;
        }
    }
    outcome.judge()?;
    for why in &missed {
        tell(&format!("ferroce: the objective is missed: {why}\n"));
    }
    Ok(if missed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(MISSED)
    })
}

/// Prints a result; to stderr, if stdout takes nothing: what was measured is not to be lost to a full disk.
fn print(text: &str) -> Result<()> {
    ctl::print(text).map_err(|Fail(why)| {
        tell(text);
        Fail(format!(
            "the result could not be written ({why}): it is above"
        ))
    })
}

/// Whoever reads standard error may be gone, and the status is told all the same.
fn tell(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Runs a sweep.
fn find_highest(args: &ProbeArgs, slo: &Slo, wants_end: &dyn Fn() -> bool) -> Result<ExitCode> {
    let (args, mut sides) = connect(args)?;
    let sweep = sweep::run(&args, slo, &mut sides[0], wants_end)?;
    let about = sides[0].about.clone();
    if sweep.cut_short.is_none() {
        sides.into_iter().for_each(Side::goodbye);
    }
    print(&if args.json {
        let value = json!({ "schema": SCHEMA, "about": about, "sweep": sweep.json() });
        format!("{value:#}\n")
    } else {
        format!("{about}\n\n{}", sweep.table())
    })?;
    if let Some(why) = &sweep.cut_short {
        fail!("the sweep ended before its answer was known: {why}");
    }
    Ok(match sweep.highest {
        Some(_) => ExitCode::SUCCESS,
        None => ExitCode::from(MISSED),
    })
}

/// Connects what the arguments name, puts the load on, and adds up what was measured.
pub fn measure(args: &ProbeArgs, bar: bool, wants_end: &dyn Fn() -> bool) -> Result<Outcome> {
    let (args, mut sides) = connect(args)?;
    let (phases, rounds) = plan(&args, sides.len());
    let each: Duration = phases.iter().map(|phase| phase.time).sum();
    let count = u32::try_from(sides.len()).expect("one or two");
    let mut watch = Watch::new(each * u32::from(rounds) * count, bar, wants_end);
    let mut outcome = Outcome {
        args,
        sides: sides
            .iter()
            .map(|side| Measured::begin(side, &phases))
            .collect(),
        cut_short: None,
    };
    if sides.len() > 1 {
        for side in &mut sides {
            let warm_up = Phase {
                time: WARM_UP,
                early: None,
                ..phases[0]
            };
            side.run(&warm_up, &watch)?;
        }
    }
    let mut lost = false;
    'rounds: for round in 0..rounds {
        let mut order: Vec<usize> = (0..sides.len()).collect();
        // Each is first as often as second, so that no drift favours one.
        if round % 2 == 1 {
            order.reverse();
        }
        for at in order {
            let mut stages = outcome.sides[at].stages.iter_mut();
            for phase in &phases {
                let ran = sides[at].run(phase, &watch)?;
                watch.advance(phase.time);
                let mut last = None;
                for slice in ran.early.into_iter().chain([ran.main]) {
                    let stage = stages.next().expect("as many as the phases have");
                    stage.slices.push(slice);
                    last = Some(stage);
                }
                last.expect("there is one").beside.extend(ran.beside);
                lost |= ran.cut_short.is_some();
                outcome.cut_short = ran.cut_short;
                if outcome.cut_short.is_none() && wants_end() {
                    outcome.cut_short = Some("interrupted".into());
                }
                if outcome.cut_short.is_some() {
                    break 'rounds;
                }
            }
        }
    }
    watch.finish();
    // Whoever does not answer is not asked once more.
    if !lost {
        sides.into_iter().for_each(Side::goodbye);
    }
    Ok(outcome)
}

/// The target, and what it is to be compared with; the arguments with what the workload stands for.
fn connect(args: &ProbeArgs) -> Result<(ProbeArgs, Vec<Side>)> {
    let Some(place) = &args.url else {
        fail!("there is no target")
    };
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..));
    let target = Found::find(place, args)?;
    let other = args.against.as_ref();
    let other = other.map(|place| Found::find(place, args)).transpose()?;
    let most = |found: &Found| found.ground().transfer_max;
    let others_max = other.as_ref().map_or(u64::MAX, most);
    let mut args = workload::apply(args, most(&target).min(others_max));
    // It is told, so that the run can be repeated.
    args.seed = Some(seed);
    let mut side = target
        .side("target", &args, seed)?
        .with_cpu_of(args.target_pid);
    if let (Some(neighbour), Some(url)) = (&args.neighbour, place.url()) {
        side = side.with_beside(url, neighbour)?;
    }
    let mut sides = vec![side];
    if args.baseline.is_some() {
        let raw = Side::raw("raw", &sides[0], &args)?;
        sides.push(raw);
    }
    if let Some(other) = other {
        let name = match &other {
            Found::Node(_) => "other",
            Found::Drive(_) => "drive",
        };
        let args = ProbeArgs {
            write: Some(check::writes_against(&args)),
            ..args.clone()
        };
        sides.push(other.side(name, &args, seed)?);
    }
    Ok((args, sides))
}

/// What a place turned out to be.
enum Found {
    Node(Box<Target>),
    Drive(drive::Site),
}

impl Found {
    fn find(place: &Place, args: &ProbeArgs) -> Result<Found> {
        Ok(match place {
            Place::Node(url) => Found::Node(Box::new(Target::connect(url, args)?)),
            Place::Drive(device) => Found::Drive(drive::Site::open(device)?),
        })
    }

    fn ground(&self) -> Ground {
        match self {
            Found::Node(target) => target.ground(),
            Found::Drive(site) => site.ground(),
        }
    }

    fn side(self, name: &'static str, args: &ProbeArgs, seed: u64) -> Result<Side> {
        match self {
            Found::Node(target) => Side::nvme(name, args, *target, seed),
            Found::Drive(site) => Side::local(name, args, site, seed),
        }
    }
}

/// What each round consists of, and how many there are.
fn plan(args: &ProbeArgs, sides: usize) -> (Vec<Phase>, u16) {
    let rates: Vec<Option<f64>> = match &args.rate {
        Some(rates) => rates.0.iter().copied().map(Some).collect(),
        None => vec![None],
    };
    let step = rates.len() > 1;
    let time = workload::time(args);
    let rounds = match args.rounds {
        Some(rounds) => u32::from(rounds),
        // Cut into slices, a step would be many.
        None if sides == 1 || step || args.workload == Some(Workload::ModelLoad) => 1,
        None => {
            let slices = time.as_millis() / SLICE.as_millis();
            (slices as u32).clamp(1, SLICES_MAX)
        }
    };
    let time = time / rounds;
    let phase = |rate| Phase {
        rate,
        time,
        early: (step && time > EARLY).then_some(EARLY),
    };
    (rates.into_iter().map(phase).collect(), rounds as u16)
}

/// Reads of memory in this process, by as many commands as the arguments say, on one thread.
fn ceiling(args: &ProbeArgs, wants_end: &dyn Fn() -> bool) -> Result<Sliced> {
    let args = ProbeArgs {
        queues: 1,
        ..workload::apply(args, u64::MAX)
    };
    let Size(size) = args.block_size;
    if size == 0 || size.saturating_mul(args.depth.into()) > CEILING_MEMORY_MAX {
        fail!(
            "--ceiling: {} commands of {} at a time need other memory than 1 byte to {}",
            args.depth,
            args.block_size,
            Size(CEILING_MEMORY_MAX)
        );
    }
    let phase = Phase {
        rate: None,
        time: CEILING_TIME,
        early: None,
    };
    let mut side = Side::memory("ceiling", &args, 1);
    let watch = Watch::new(phase.time, false, wants_end);
    let ran = side.run(&phase, &watch)?;
    match ran.cut_short {
        Some(why) => fail!("measuring the probe itself: {why}"),
        None => Ok(ran.main),
    }
}
