//! What came of a run, told to a person or to a program (tools/probe-json.md).

use clap::ValueEnum as _;
use serde_json::{Value, json};

use super::check::{writes, writes_against};
use super::compare::{self, Row};
use super::drive::Place;
use super::report::{self, Sliced, Totals};
use super::side::{Phase, Side};
use super::{SCHEMA, workload};
use crate::cli::{Arrival, Pattern, ProbeArgs, Workload};
use crate::fail::{Result, fail};
use crate::units::{about, per_second, thousands};

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    /// What was done, with the workload's numbers in place.
    pub args: ProbeArgs,
    /// Of each target.
    pub sides: Vec<Measured>,
    /// Why it ended before its time.
    pub cut_short: Option<String>,
}

/// What was measured of a target.
#[derive(Debug)]
pub struct Measured {
    name: &'static str,
    about: String,
    granted: (usize, usize),
    /// As many as the phases have, in their order.
    pub stages: Vec<Stage>,
}

/// A part of the run that stands for itself: a rate, or its beginning.
#[derive(Debug)]
pub struct Stage {
    name: String,
    rate: Option<f64>,
    /// One for each round.
    pub slices: Vec<Sliced>,
    /// What the load beside it did in the same time.
    pub beside: Vec<Sliced>,
}

impl Measured {
    /// Nothing measured yet, of each stage that the phases have.
    pub fn begin(side: &Side, phases: &[Phase]) -> Measured {
        let stage = |phase: &Phase, part: &str| Stage {
            name: match phase.rate {
                Some(rate) if phases.len() > 1 => format!("{} per s{part}", per_second(rate)),
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
            granted: side.granted(),
            stages: stages.collect(),
        }
    }

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

    /// What is wrong with the result, if anything.
    pub fn judge(&self) -> Result<()> {
        let whole = self.whole();
        let Totals { blocks_wrong, .. } = whole.totals;
        if blocks_wrong > 0 {
            fail!(
                "{} blocks are not what was acknowledged last{}",
                thousands(blocks_wrong),
                match self.args.seed {
                    Some(seed) => format!(" (--seed {seed} does the same again)"),
                    None => String::new(),
                }
            );
        }
        if let Some(why) = &self.cut_short {
            fail!("ended after {:.1} s: {why}", whole.time.as_secs_f64());
        }
        // A figure beside another one is none, either, if commands of its own failed.
        for (at, side) in self.sides.iter().enumerate() {
            let beside = side.stages.iter().flat_map(|stage| &stage.beside);
            let of = match at {
                0 => String::new(),
                _ => format!(" of {}", side.name),
            };
            for (of, of_it) in [
                (of, side.whole()),
                (" of the neighbour".into(), Sliced::sum(beside)),
            ] {
                let failed = of_it.totals.failed();
                if failed > 0 {
                    fail!("{} commands{of} failed", thousands(failed));
                }
            }
        }
        Ok(())
    }

    /// All for a person.
    pub fn table(&self) -> String {
        let args = &self.args;
        let mut out = format!("{}\n\n{}", self.describe(), report::head());
        let several = self.sides.len() > 1;
        for side in &self.sides {
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
            for side in &self.sides {
                let seconds = side.whole().time.as_secs_f64() / side.stages[0].slices.len() as f64;
                out += &format!("{}: the last byte came after {seconds:.3} s\n", side.name);
            }
        }
        for side in &self.sides {
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
        for (name, rows) in self.comparisons() {
            out += &format!(
                "\n{}",
                compare::table(&rows, (self.sides[0].name, self.sides[1].name))
            );
            if self.is_against_drive() {
                out += &compare::added(&rows);
            }
            if !name.is_empty() {
                out += &format!("of {name}\n");
            }
        }
        out
    }

    /// All for a program.
    pub fn json(&self) -> Value {
        let args = &self.args;
        let side = |side: &Measured| {
            let mut value = report::json(&side.whole());
            value["about"] = json!(side.about);
            let (queues, depth) = side.granted;
            value["granted"] = json!({ "queues": queues, "depth": depth });
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
        let mut value = side(&self.sides[0]);
        let beside = self.sides[0].stages.iter().flat_map(|stage| &stage.beside);
        let beside = Sliced::sum(beside);
        if args.neighbour.is_some() {
            value["neighbour"] = report::json(&beside);
        }
        value["schema"] = json!(SCHEMA);
        if args.verify {
            let whole = self.whole().totals;
            value["blocks_verified"] = json!(whole.blocks_verified);
            value["blocks_wrong"] = json!(whole.blocks_wrong);
            value["wrong"] = json!(whole.wrong);
        }
        value["cut_short"] = json!(self.cut_short);
        let ends_by_itself = args.workload == Some(Workload::ModelLoad) && args.time.is_none();
        value["run"] = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "url": args.url.as_ref().map(ToString::to_string),
            "against": args.against.as_ref().map(ToString::to_string),
            "nsid": args.nsid,
            "time_s": Some(workload::time(args).as_secs_f64()).filter(|_| !ends_by_itself),
            "doze": args.doze,
            "block_size": args.block_size.0,
            "depth": args.depth,
            "queues": args.queues,
            "write_percent": writes(args),
            "against_write_percent": args.against.as_ref().map(|_| writes_against(args)),
            "pattern": match args.pattern {
                Pattern::Random => "random",
                Pattern::Sequential => "sequential",
                Pattern::Objects => "objects",
            },
            "workload": args.workload.and_then(|w| Some(w.to_possible_value()?.get_name().to_owned())),
            "verify": args.verify,
            "size": args.size.map(|size| size.0),
            "seed": args.seed,
            "rates": args.rate.as_ref().map(|rates| rates.0.clone()),
            "arrival": args.rate.as_ref().map(|_| match args.arrival {
                None | Some(Arrival::Poisson) => "poisson",
                Some(Arrival::Fixed) => "fixed",
            }),
            "rounds": self.sides[0].stages[0].slices.len(),
        });
        if let Some(other) = self.sides.get(1) {
            let name = if args.against.is_some() {
                "against"
            } else {
                "baseline"
            };
            value[name] = side(other);
            let compared: Vec<Value> = self
                .comparisons()
                .iter()
                .map(|(name, rows)| {
                    let mut value = compare::json(rows);
                    value["stage"] = json!(name);
                    if self.is_against_drive() {
                        value["added_latency_us"] = compare::added_json(rows);
                    }
                    value
                })
                .collect();
            value["comparison"] = json!(compared);
        }
        value
    }

    /// What the first side has more than the second is what a fabric and a node add.
    fn is_against_drive(&self) -> bool {
        matches!(self.args.against, Some(Place::Drive(_)))
            && matches!(self.args.url, Some(Place::Node(_)))
    }

    /// The first side compared with the second, stage by stage.
    fn comparisons(&self) -> Vec<(String, Vec<Row>)> {
        let [first, second] = &self.sides[..] else {
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

    /// What was done, in words.
    fn describe(&self) -> String {
        let args = &self.args;
        let pattern = match args.pattern {
            Pattern::Random => "random",
            Pattern::Sequential => "sequential",
            Pattern::Objects => "objects of 8 to 16",
        };
        let load = |writes| match writes {
            0 => "reads".to_owned(),
            100 => "writes".to_owned(),
            percent => format!("reads and writes ({percent}%)"),
        };
        let mut what = load(writes(args));
        if writes_against(args) != writes(args) {
            what += &format!(" against {}", load(writes_against(args)));
        }
        let verify = if args.verify { ", verified" } else { "" };
        let queues = if args.queues == 1 {
            "1 queue".into()
        } else {
            format!("{} queues", args.queues)
        };
        let rate = match (&args.rate, args.arrival) {
            (None, _) => String::new(),
            (Some(rates), arrival) => {
                let rates: Vec<_> = rates.0.iter().copied().map(per_second).collect();
                let arrival = match arrival {
                    None | Some(Arrival::Poisson) => "as of many users",
                    Some(Arrival::Fixed) => "at even distances",
                };
                format!(", {} per second {arrival}", rates.join(" then "))
            }
        };
        let time = match args.workload {
            Some(Workload::ModelLoad) => "until the last byte".into(),
            _ => {
                let wanted = workload::time(args).as_secs_f64();
                match self.cut_short {
                    Some(_) => format!("{:.1} s of {wanted:.1} s", self.whole().time.as_secs_f64()),
                    None => format!("{wanted:.1} s"),
                }
            }
        };
        let mut out: Vec<String> = self.sides.iter().map(|side| side.about.clone()).collect();
        out.push(format!(
            "{} {pattern} {what}{verify}{rate}, {queues} of {}, {time}{}",
            about(args.block_size.0),
            args.depth,
            match self.sides.len() {
                1 => String::new(),
                _ => format!(
                    " each, {} slices in turns",
                    self.sides[0].stages[0].slices.len()
                ),
            }
        ));
        out.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fail::Fail;

    #[test]
    fn whose_commands_failed_is_said() {
        let failed = |ones: u64| {
            let mut slice = Sliced::default();
            slice.totals.errors = [("Some Status".to_owned(), ones)].into();
            vec![slice]
        };
        let side = |name, slices, beside| Measured {
            name,
            about: String::new(),
            granted: (1, 1),
            stages: vec![Stage {
                name: String::new(),
                rate: None,
                slices,
                beside,
            }],
        };
        let url = "tcp://127.0.0.1:4420".parse().expect("a URL");
        let judged = |sides| {
            let outcome = Outcome {
                args: ProbeArgs::of(&url),
                sides,
                cut_short: None,
            };
            outcome.judge().map_err(|Fail(why)| why)
        };
        let (good, bad) = (Vec::new, || failed(2));
        assert_eq!(
            judged(vec![
                side("this", good(), good()),
                side("other", good(), good())
            ]),
            Ok(())
        );
        for (sides, why) in [
            (vec![side("this", bad(), good())], "2 commands failed"),
            (
                vec![side("this", good(), bad())],
                "2 commands of the neighbour failed",
            ),
            (
                vec![side("this", good(), good()), side("other", bad(), good())],
                "2 commands of other failed",
            ),
        ] {
            assert_eq!(judged(sides), Err(why.into()));
        }
    }
}
