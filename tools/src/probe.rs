//! `ferroce probe`: a host that measures a node, or verifies it.

mod check;
mod compare;
mod cpu;
mod crowd;
mod guard;
mod ledger;
mod link;
mod load;
mod memory;
mod pattern;
pub mod raw;
pub mod report;
pub mod schedule;
mod side;
pub mod slo;
mod sweep;
mod target;
mod watch;
mod workload;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use clap::ValueEnum as _;
use serde_json::{Value, json};

use crate::cli::{Arrival, Pattern, ProbeArgs, Workload};
use crate::ctl::print;
use crate::fail::{Result, fail};
use crate::signals::Signals;
use crate::units::{about, thousands};
use check::writes;
use report::{Sliced, Totals};
use side::{Phase, Side};
use slo::Slo;
use target::Target;
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

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    /// What was done, with the workload's numbers in place.
    args: ProbeArgs,
    /// Of each target.
    sides: Vec<Measured>,
    /// Why it ended before its time.
    cut_short: Option<String>,
}

/// What was measured of a target.
#[derive(Debug)]
struct Measured {
    name: &'static str,
    about: String,
    stages: Vec<Stage>,
}

/// A part of the run that stands for itself: a rate, or its beginning.
#[derive(Debug)]
struct Stage {
    name: String,
    rate: Option<f64>,
    /// One for each round.
    slices: Vec<Sliced>,
    /// What the load beside it did in the same time.
    beside: Vec<Sliced>,
}

impl Measured {
    /// All of it.
    fn whole(&self) -> Sliced {
        Sliced::sum(self.stages.iter().flat_map(|stage| &stage.slices))
    }
}

impl Outcome {
    /// All that was measured of the target in question.
    pub fn whole(&self) -> Sliced {
        self.sides[0].whole()
    }
}

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
        return Ok(ExitCode::SUCCESS);
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
    let bar = !args.json && std::io::stderr().is_terminal();
    let outcome = measure(&args, bar, &wants_end)?;
    let missed = args
        .slo
        .as_ref()
        .map(|slo| slo.missed(&outcome.whole()))
        .unwrap_or_default();
    if args.json {
        let mut value = to_json(&outcome);
        if let Some(ceiling) = &ceiling {
            value["ceiling"] = report::json(ceiling);
        }
        if args.slo.is_some() {
            value["slo"] = json!({ "met": missed.is_empty(), "missed": missed });
        }
        print(&format!("{value:#}\n"))?;
    } else {
        print(&tell(&outcome))?;
        if args.slo.is_some() && missed.is_empty() {
            print("the objective is met\n")?;
        }
    }
    judge(&outcome)?;
    for why in &missed {
        eprintln!("ferroce: the objective is missed: {why}");
    }
    Ok(if missed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(MISSED)
    })
}

/// Runs a sweep.
fn find_highest(args: &ProbeArgs, slo: &Slo, wants_end: &dyn Fn() -> bool) -> Result<ExitCode> {
    let (args, mut sides) = connect(args)?;
    let sweep = sweep::run(&args, slo, &mut sides[0], wants_end)?;
    let about = sides[0].about.clone();
    sides.into_iter().for_each(Side::goodbye);
    print(&if args.json {
        let value = json!({ "schema": SCHEMA, "about": about, "sweep": sweep.json() });
        format!("{value:#}\n")
    } else {
        format!("{about}\n\n{}", sweep.table())
    })?;
    Ok(match sweep.highest {
        Some(_) => ExitCode::SUCCESS,
        None => ExitCode::from(MISSED),
    })
}

/// What is wrong with the result, if anything.
pub fn judge(outcome: &Outcome) -> Result<()> {
    let whole = outcome.whole();
    let Totals { blocks_wrong, .. } = whole.totals;
    if blocks_wrong > 0 {
        fail!(
            "{} blocks are not what was acknowledged last",
            thousands(blocks_wrong)
        );
    }
    if let Some(why) = &outcome.cut_short {
        fail!("ended after {:.1} s: {why}", whole.time.as_secs_f64());
    }
    if whole.totals.failed() > 0 {
        fail!("{} commands failed", thousands(whole.totals.failed()));
    }
    Ok(())
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
        sides: sides.iter().map(|side| begin(side, &phases)).collect(),
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
    for side in sides {
        side.goodbye();
    }
    Ok(outcome)
}

/// The target, and what it is to be compared with; the arguments with what the workload stands for.
fn connect(args: &ProbeArgs) -> Result<(ProbeArgs, Vec<Side>)> {
    let Some(url) = &args.url else {
        fail!("there is no target")
    };
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..));
    let target = Target::connect(url, args)?;
    let other = args.against.as_ref();
    let other = other.map(|url| Target::connect(url, args)).transpose()?;
    let others_max = other.as_ref().map_or(u64::MAX, Target::transfer_max);
    let args = workload::apply(args, target.transfer_max().min(others_max));
    let mut side = Side::nvme("target", &args, target, seed)?.with_cpu_of(args.target_pid);
    if let Some(neighbour) = &args.neighbour {
        side = side.with_beside(url, neighbour)?;
    }
    let mut sides = vec![side];
    if args.baseline.is_some() {
        let raw = Side::raw("raw", &sides[0], &args)?;
        sides.push(raw);
    }
    if let Some(other) = other {
        sides.push(Side::nvme("other", &args, other, seed)?);
    }
    Ok((args, sides))
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

/// Nothing measured yet, of each stage that the phases have.
fn begin(side: &Side, phases: &[Phase]) -> Measured {
    let stage = |phase: &Phase, part: &str| Stage {
        name: match phase.rate {
            Some(rate) if phases.len() > 1 => format!("{} per s{part}", thousands(rate as u64)),
            _ => String::new(),
        },
        rate: phase.rate,
        slices: Vec::new(),
        beside: Vec::new(),
    };
    let stages = phases.iter().flat_map(|phase| match phase.early {
        Some(_) => vec![stage(phase, ", first s"), stage(phase, ", later")],
        None => vec![stage(phase, "")],
    });
    Measured {
        name: side.name,
        about: side.about.clone(),
        stages: stages.collect(),
    }
}

/// Reads of memory in this process, by as many commands as the arguments say, on one thread.
fn ceiling(args: &ProbeArgs, wants_end: &dyn Fn() -> bool) -> Result<Sliced> {
    let args = ProbeArgs {
        queues: 1,
        ..args.clone()
    };
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

/// All for a person.
fn tell(outcome: &Outcome) -> String {
    let args = &outcome.args;
    let mut out = format!("{}\n\n{}", describe(outcome), report::head());
    let several = outcome.sides.len() > 1;
    for side in &outcome.sides {
        for stage in &side.stages {
            let name = if several { side.name } else { "" };
            let name = format!("{name} {}", stage.name);
            out += &report::rows(name.trim(), &Sliced::sum(&stage.slices));
            if !stage.beside.is_empty() {
                out += &report::rows("neighbour", &Sliced::sum(&stage.beside));
            }
        }
    }
    if args.workload == Some(Workload::ModelLoad) {
        for side in &outcome.sides {
            let seconds = side.whole().time.as_secs_f64() / side.stages[0].slices.len() as f64;
            out += &format!("{}: the last byte came after {seconds:.3} s\n", side.name);
        }
    }
    for side in &outcome.sides {
        let notes = report::notes(&side.whole());
        for line in notes.lines() {
            let name = if several {
                format!("{}: ", side.name)
            } else {
                String::new()
            };
            out += &format!("{name}{line}\n");
        }
    }
    for (name, rows) in comparisons(outcome) {
        out += &format!(
            "\n{}",
            compare::table(&rows, (outcome.sides[0].name, outcome.sides[1].name))
        );
        if !name.is_empty() {
            out += &format!("of {name}\n");
        }
    }
    out
}

/// The first side compared with the second, stage by stage.
fn comparisons(outcome: &Outcome) -> Vec<(String, Vec<compare::Row>)> {
    let [first, second] = &outcome.sides[..] else {
        return Vec::new();
    };
    let stages = first.stages.iter().zip(&second.stages);
    stages
        .map(|(a, b)| {
            let rows = compare::compare(&a.slices, &b.slices, 1);
            (a.name.clone(), rows)
        })
        .collect()
}

/// All for a program.
fn to_json(outcome: &Outcome) -> Value {
    let args = &outcome.args;
    let side = |side: &Measured| {
        let mut value = report::json(&side.whole());
        value["about"] = json!(side.about);
        if side.stages.len() > 1 {
            let stage = |stage: &Stage| {
                let mut value = report::json(&Sliced::sum(&stage.slices));
                value["name"] = json!(stage.name);
                value["rate"] = json!(stage.rate);
                value
            };
            value["stages"] = side.stages.iter().map(stage).collect();
        }
        value
    };
    let mut value = side(&outcome.sides[0]);
    let beside = outcome.sides[0]
        .stages
        .iter()
        .flat_map(|stage| &stage.beside);
    let beside = Sliced::sum(beside);
    if args.neighbour.is_some() {
        value["neighbour"] = report::json(&beside);
    }
    let whole = outcome.whole().totals;
    value["schema"] = json!(SCHEMA);
    value["blocks_verified"] = json!(whole.blocks_verified);
    value["blocks_wrong"] = json!(whole.blocks_wrong);
    value["wrong"] = json!(whole.wrong);
    value["cut_short"] = json!(outcome.cut_short);
    value["run"] = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "url": args.url.as_ref().map(ToString::to_string),
        "block_size": args.block_size.0,
        "depth": args.depth,
        "queues": args.queues,
        "write_percent": writes(args),
        "pattern": match args.pattern {
            Pattern::Random => "random",
            Pattern::Sequential => "sequential",
            Pattern::Objects => "objects",
        },
        "workload": args.workload.and_then(|w| Some(w.to_possible_value()?.get_name().to_owned())),
        "verify": args.verify,
        "rates": args.rate.as_ref().map(|rates| rates.0.clone()),
        "arrival": args.rate.as_ref().map(|_| match args.arrival {
            None | Some(Arrival::Poisson) => "poisson",
            Some(Arrival::Fixed) => "fixed",
        }),
        "rounds": outcome.sides[0].stages[0].slices.len(),
    });
    if let Some(other) = outcome.sides.get(1) {
        let name = if args.against.is_some() {
            "against"
        } else {
            "baseline"
        };
        value[name] = side(other);
        let compared: Vec<Value> = comparisons(outcome)
            .iter()
            .map(|(name, rows)| {
                let mut value = compare::json(rows);
                value["stage"] = json!(name);
                value
            })
            .collect();
        value["comparison"] = json!(compared);
    }
    value
}

/// What was done, in words.
fn describe(outcome: &Outcome) -> String {
    let args = &outcome.args;
    let pattern = match args.pattern {
        Pattern::Random => "random",
        Pattern::Sequential => "sequential",
        Pattern::Objects => "objects of 8 to 16",
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
    let rate = match (&args.rate, args.arrival) {
        (None, _) => String::new(),
        (Some(rates), arrival) => {
            let rates: Vec<_> = rates.0.iter().map(|rate| thousands(*rate as u64)).collect();
            let arrival = match arrival {
                None | Some(Arrival::Poisson) => "as of many users",
                Some(Arrival::Fixed) => "at even distances",
            };
            format!(", {} per second {arrival}", rates.join(" then "))
        }
    };
    let time = match args.workload {
        Some(Workload::ModelLoad) => "until the last byte".into(),
        _ => format!("{:.1} s", workload::time(args).as_secs_f64()),
    };
    let mut out: Vec<String> = outcome
        .sides
        .iter()
        .map(|side| side.about.clone())
        .collect();
    out.push(format!(
        "{} {pattern} {what}{verify}{rate}, {queues} of {}, {time}{}",
        about(args.block_size.0),
        args.depth,
        match outcome.sides.len() {
            1 => String::new(),
            _ => format!(
                " each, {} slices in turns",
                outcome.sides[0].stages[0].slices.len()
            ),
        }
    ));
    out.join("\n")
}
