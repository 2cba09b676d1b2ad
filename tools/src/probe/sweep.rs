//! The highest rate that a target serves within an objective: doubled while it is kept, then narrowed down.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::report::{self, Sliced};
use super::side::{Phase, Side};
use super::slo::Slo;
use super::watch::Watch;
use super::workload;
use crate::cli::ProbeArgs;
use crate::fail::Result;
use crate::units::{per_second, us};

/// Where it starts, and the least that is tried, in commands per second.
const START: f64 = 1_000.0;
const LEAST: f64 = 1.0;
/// It ends when the highest rate kept and the lowest one missed are so close.
const CLOSE: f64 = 1.05;
/// A rate is missed when it was missed so often: a single hiccup of the machine is not the target's.
const TRIES: usize = 2;

/// The rates between which the answer lies.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
struct Search {
    kept: Option<f64>,
    missed: Option<f64>,
}

impl Search {
    /// The rate to try next; None once the answer is known.
    fn next(self) -> Option<f64> {
        match (self.kept, self.missed) {
            (None, None) => Some(START),
            (Some(kept), None) => Some(kept * 2.0),
            (None, Some(missed)) => (missed > LEAST).then(|| LEAST.max(missed / 4.0)),
            (Some(kept), Some(missed)) => (missed / kept > CLOSE).then(|| (kept * missed).sqrt()),
        }
    }

    fn tried(&mut self, rate: f64, kept: bool) {
        if kept {
            self.kept = Some(rate);
        } else {
            self.missed = Some(rate);
        }
    }
}

/// What came of it.
#[derive(Debug)]
pub struct Sweep {
    /// The highest rate that was kept.
    pub highest: Option<f64>,
    /// Why it ended before it was found.
    pub cut_short: Option<String>,
    tried: Vec<Tried>,
}

#[derive(Debug)]
struct Tried {
    rate: f64,
    slice: Sliced,
    missed: Vec<String>,
}

/// Searches on a target.
pub fn run(
    args: &ProbeArgs,
    slo: &Slo,
    side: &mut Side,
    wants_end: &dyn Fn() -> bool,
) -> Result<Sweep> {
    let mut search = Search::default();
    let mut tried = Vec::new();
    let mut cut_short = None;
    'rates: while let Some(rate) = search.next() {
        let phase = Phase {
            rate: Some(rate),
            time: workload::time(args),
            early: None,
        };
        let mut kept = false;
        for _ in 0..TRIES {
            let ran = side.run(&phase, &Watch::new(phase.time, false, wants_end))?;
            cut_short = ran.cut_short;
            if cut_short.is_none() && wants_end() {
                cut_short = Some("interrupted".into());
            }
            if cut_short.is_some() {
                break 'rates;
            }
            let missed = slo.missed(&ran.main);
            kept = missed.is_empty();
            tried.push(Tried {
                rate,
                slice: ran.main,
                missed,
            });
            if kept {
                break;
            }
        }
        search.tried(rate, kept);
    }
    Ok(Sweep {
        highest: search.kept,
        cut_short,
        tried,
    })
}

impl Sweep {
    /// For a person.
    pub fn table(&self) -> String {
        let mut out = format!("{:>12}{:>9}{:>9}\n", "per second", "p50 us", "p99 us");
        for tried in &self.tried {
            let flows = || tried.slice.totals.flows().map(|(_, flow)| flow);
            let at = |share| flows().map(|flow| flow.quantile(share)).max().unwrap_or(0);
            let verdict = match &tried.missed[..] {
                [] => "kept".to_owned(),
                missed => missed.join("; "),
            };
            let _ = writeln!(
                out,
                "{:>12}{:>9}{:>9}  {verdict}",
                per_second(tried.rate),
                us(at(0.5)),
                us(at(0.99))
            );
        }
        let _ = match self.highest {
            Some(rate) if self.cut_short.is_some() => writeln!(
                out,
                "\nkept up to {} per second when it was cut short",
                per_second(rate)
            ),
            Some(rate) => writeln!(
                out,
                "\nhighest rate found within the objective: {} per second",
                per_second(rate)
            ),
            None if self.cut_short.is_some() => {
                writeln!(out, "\ncut short before any rate was kept")
            }
            None => writeln!(out, "\nno rate was found within the objective"),
        };
        out
    }

    /// For a program.
    pub fn json(&self) -> Value {
        let tried = self.tried.iter().map(|tried| {
            let mut value = report::json(&tried.slice);
            value["rate"] = json!(tried.rate);
            value["missed"] = json!(tried.missed);
            value
        });
        json!({ "highest": self.highest, "cut_short": self.cut_short, "tried": tried.collect::<Vec<_>>() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Searches for a target that keeps what is below `limit`; the answer, and how many rates that took.
    fn search(limit: f64) -> (Option<f64>, usize) {
        let mut search = Search::default();
        let mut count = 0;
        while let Some(rate) = search.next() {
            search.tried(rate, rate < limit);
            count += 1;
            assert!(count < 100, "it does not end for {limit}");
        }
        (search.kept, count)
    }

    #[test]
    fn the_highest_rate_is_found() {
        for limit in [3.0, 999.0, 1_001.0, 47_000.0, 3_000_000.0] {
            let (found, count) = search(limit);
            let found = found.expect("there is one");
            assert!(
                found < limit && found * CLOSE >= limit * 0.999,
                "{limit}: {found}"
            );
            assert!(count < 25, "{limit}: {count} rates");
        }
        assert_eq!(search(0.0).0, None);
    }
}
