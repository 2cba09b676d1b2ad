//! Two targets that were measured in turns: how much one differs from the other, and how sure that is.
//!
//! Speed drifts from second to second, by heat, neighbours and clocks; two runs one after the other compare two moments.
//! Slices in turns see the same moments. How sure the result is comes from the slices themselves (a bootstrap): pairs of
//! slices are drawn with replacement, as many as there were, and the figures computed anew, many times; between the
//! bounds lie 95% of what came out.

use serde_json::{Value, json};

use super::report::{Flow, Sliced};

/// How often the figures are computed anew.
const DRAWS: usize = 400;
/// With fewer pairs, nothing is said about how sure it is.
const PAIRS_MIN: usize = 5;

/// An estimate with its bounds.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Estimate {
    /// From all slices.
    pub value: f64,
    /// The median of what each pair of slices gives by itself: what happens in few of them does not move it. None if no
    /// pair has the figure.
    pub median: Option<f64>,
    /// 95% of the draws lie between these; None if there were too few slices.
    pub bounds: Option<(f64, f64)>,
}

/// One figure of both.
#[derive(Clone, Debug)]
pub struct Row {
    /// `read` or `write`, or empty for figures of both.
    pub flow: &'static str,
    /// Which figure, as the JSON names it.
    pub figure: &'static str,
    /// Of the first and the second target.
    pub values: (f64, f64),
    /// First minus second.
    pub difference: Estimate,
    /// First over second.
    pub ratio: Estimate,
}

/// What is compared.
#[derive(Clone, Copy)]
enum Figure {
    Iops,
    /// Latency in us.
    Quantile(f64),
    /// CPU time of the target for each command, in us.
    Cpu,
}

const FIGURES: [(&str, Figure); 4] = [
    ("iops", Figure::Iops),
    ("p50", Figure::Quantile(0.5)),
    ("p99", Figure::Quantile(0.99)),
    ("p99.9", Figure::Quantile(0.999)),
];

/// A flow of a target, so that the figures of any choice of its slices are quickly computed.
struct Slices {
    seconds: Vec<f64>,
    ios: Vec<u64>,
    cpu_us: Vec<Option<f64>>,
    /// Latencies in ns that there were in any slice, ascending; and for each slice, how many were at most that.
    values: Vec<u64>,
    at_most: Vec<Vec<u64>>,
}

impl Slices {
    /// `flows` are one or several of each slice; latencies are of the first.
    fn of<'a>(slices: &'a [Sliced], flows: impl Fn(&'a Sliced) -> Vec<&'a Flow>) -> Slices {
        let latency = |slice: &'a Sliced| &flows(slice)[0].latency;
        let mut values: Vec<u64> = slices
            .iter()
            .flat_map(|slice| latency(slice).iter_recorded())
            .map(|step| step.value_iterated_to())
            .collect();
        values.sort_unstable();
        values.dedup();
        let at_most = |slice: &'a Sliced| {
            let mut counts = vec![0; values.len()];
            for step in latency(slice).iter_recorded() {
                let at = values.binary_search(&step.value_iterated_to());
                counts[at.expect("all are there")] = step.count_since_last_iteration();
            }
            let sum = |sum: &mut u64, count| {
                *sum += count;
                Some(*sum)
            };
            counts.into_iter().scan(0, sum).collect()
        };
        Slices {
            seconds: slices
                .iter()
                .map(|slice| slice.time.as_secs_f64())
                .collect(),
            ios: slices
                .iter()
                .map(|slice| flows(slice).iter().map(|flow| flow.latency.len()).sum())
                .collect(),
            cpu_us: slices
                .iter()
                .map(|slice| Some(slice.cpu_ns? as f64 / 1e3))
                .collect(),
            at_most: slices.iter().map(at_most).collect(),
            values,
        }
    }

    /// Of the slices, each as often as its weight says. None if there is nothing to compute it from.
    fn figure(&self, figure: Figure, weights: &[u64]) -> Option<f64> {
        let weigh =
            |counts: &[u64]| -> u64 { counts.iter().zip(weights).map(|(c, w)| c * w).sum() };
        let ios = Some(weigh(&self.ios)).filter(|ios| *ios > 0)?;
        match figure {
            Figure::Iops => {
                let seconds = self.seconds.iter().zip(weights);
                let seconds: f64 = seconds.map(|(s, w)| s * *w as f64).sum();
                Some(ios as f64 / seconds)
            }
            Figure::Cpu => {
                let cpu = self.cpu_us.iter().zip(weights);
                let cpu: Option<f64> = cpu.map(|(us, w)| Some((*us)? * *w as f64)).sum();
                Some(cpu? / ios as f64)
            }
            Figure::Quantile(share) => {
                let rank = (share * ios as f64).ceil() as u64;
                let at_most = |at: usize| -> u64 {
                    let slices = self.at_most.iter().zip(weights);
                    slices.map(|(at_most, w)| at_most[at] * w).sum()
                };
                // Bisection: the first value that enough are at most.
                let (mut low, mut high) = (0, self.values.len() - 1);
                while low < high {
                    let middle = (low + high) / 2;
                    if at_most(middle) < rank {
                        low = middle + 1;
                    } else {
                        high = middle;
                    }
                }
                Some(self.values[low] as f64 / 1e3)
            }
        }
    }
}

/// Compares slices that were measured in pairs. Figures that one of the two does not have are left out.
pub fn compare(first: &[Sliced], second: &[Sliced], seed: u64) -> Vec<Row> {
    let pairs = first.len().min(second.len());
    let (first, second) = (&first[..pairs], &second[..pairs]);
    let mut rng = fastrand::Rng::with_seed(seed);
    let draws = if pairs < PAIRS_MIN { 0 } else { DRAWS };
    let draws: Vec<Vec<u64>> = (0..draws)
        .map(|_| {
            let mut weights = vec![0; pairs];
            (0..pairs).for_each(|_| weights[rng.usize(0..pairs)] += 1);
            weights
        })
        .collect();
    let all = vec![1; pairs];
    let single = |pair| (0..pairs).map(|at| u64::from(at == pair)).collect();
    let singles: Vec<Vec<u64>> = (0..pairs).map(single).collect();
    let mut rows = Vec::new();
    let mut add = |flow, name, figure, sides: &[Slices; 2]| {
        let of = |weights: &[u64]| {
            let (a, b) = (&sides[0], &sides[1]);
            Some((a.figure(figure, weights)?, b.figure(figure, weights)?))
        };
        let Some(values) = of(&all) else { return };
        let drawn: Vec<(f64, f64)> = draws.iter().filter_map(|weights| of(weights)).collect();
        let apart: Vec<(f64, f64)> = singles.iter().filter_map(|weights| of(weights)).collect();
        let estimate = |of: fn((f64, f64)) -> f64| Estimate {
            value: of(values),
            median: median(apart.iter().copied().map(of).collect()),
            bounds: middle(drawn.iter().copied().map(of).collect()),
        };
        rows.push(Row {
            flow,
            figure: name,
            values,
            difference: estimate(|(a, b)| a - b),
            ratio: estimate(|(a, b)| a / b),
        });
    };
    let reads = [first, second].map(|side| Slices::of(side, |slice| vec![&slice.totals.reads]));
    let writes = [first, second].map(|side| Slices::of(side, |slice| vec![&slice.totals.writes]));
    let both = [first, second].map(|side| {
        Slices::of(side, |slice| {
            vec![&slice.totals.reads, &slice.totals.writes]
        })
    });
    for (flow, sides) in [("read", &reads), ("write", &writes)] {
        for (name, figure) in FIGURES {
            add(flow, name, figure, sides);
        }
    }
    let any = |sides: &[Slices; 2]| sides.iter().flat_map(|side| &side.ios).any(|ios| *ios > 0);
    if any(&reads) && any(&writes) {
        add("", "iops", Figure::Iops, &both);
    }
    add("", "target_cpu_us_per_io", Figure::Cpu, &both);
    rows
}

/// Between what bounds the middle 95% lie.
fn middle(mut values: Vec<f64>) -> Option<(f64, f64)> {
    values.sort_by(f64::total_cmp);
    let cut = values.len() / 40;
    let last = values.len().checked_sub(1 + cut)?;
    Some((values[cut], values[last]))
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let at = values.len() / 2;
    let high = *values.get(at)?;
    Some(match values.len() % 2 {
        0 => f64::midpoint(values[at - 1], high),
        _ => high,
    })
}

/// For a person.
pub fn table(rows: &[Row], names: (&str, &str)) -> String {
    let mut out = format!(
        "{:<28}{:>12}{:>12}{:>12}{:>9}  95% of the time between\n",
        "", names.0, names.1, "difference", "ratio"
    );
    for row in rows {
        let (name, digits) = match row.figure {
            "iops" => ("IOPS".to_owned(), 0),
            "target_cpu_us_per_io" => ("CPU us per command".to_owned(), 2),
            quantile => (format!("{quantile} us"), 1),
        };
        let name = format!("{} {name}", row.flow);
        let bounds = row.ratio.bounds.map_or_else(
            || "(too few slices to say)".to_owned(),
            |(low, high)| format!("{low:.2} and {high:.2}"),
        );
        out += &format!(
            "{:<28}{:>12.digits$}{:>12.digits$}{:>+12.digits$}{:>9.2}  {bounds}\n",
            name.trim(),
            row.values.0,
            row.values.1,
            row.difference.value,
            row.ratio.value,
        );
    }
    out
}

/// What the first adds to the second in latency, for a person: of each flow, at each quantile.
pub fn added(rows: &[Row]) -> String {
    let mut out = String::new();
    for flow in ["read", "write"] {
        let parts: Vec<String> = quantiles(rows, flow)
            .map(|row| format!("{:+.1} us at {}", row.difference.value, row.figure))
            .collect();
        if !parts.is_empty() {
            out += &format!("added latency of a {flow}: {}\n", parts.join(", "));
        }
    }
    out
}

/// The same for a program.
pub fn added_json(rows: &[Row]) -> Value {
    let mut out = json!({});
    for flow in ["read", "write"] {
        for row in quantiles(rows, flow) {
            out[flow][row.figure] = json!(row.difference.value);
        }
    }
    out
}

fn quantiles<'a>(rows: &'a [Row], flow: &'a str) -> impl Iterator<Item = &'a Row> {
    rows.iter()
        .filter(move |row| row.flow == flow && row.figure.starts_with('p'))
}

/// For a program: figures by flow, `all` for those of both.
pub fn json(rows: &[Row]) -> Value {
    let estimate = |estimate: Estimate| {
        let mut out = json!({ "value": estimate.value });
        if let Some(median) = estimate.median {
            out["median"] = json!(median);
        }
        if let Some((low, high)) = estimate.bounds {
            out["low"] = json!(low);
            out["high"] = json!(high);
        }
        out
    };
    let mut out = json!({});
    for row in rows {
        let flow = if row.flow.is_empty() { "all" } else { row.flow };
        out[flow][row.figure] = json!({
            "first": row.values.0,
            "second": row.values.1,
            "difference": estimate(row.difference),
            "ratio": estimate(row.ratio),
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// Slices of a second with 200 reads each, around `us`, each slice off by a random factor of up to 15%.
    fn slices(count: usize, us: f64, seed: u64) -> Vec<Sliced> {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut slice = || {
            let mut slice = Sliced {
                time: Duration::from_secs(1),
                ..Sliced::default()
            };
            let factor = 0.85 + 0.3 * rng.f64();
            for _ in 0..200 {
                let noise = 0.9 + 0.2 * rng.f64();
                let ns = us * 1e3 * factor * noise;
                slice.totals.reads.record(ns as u64, 4096);
            }
            slice
        };
        (0..count).map(|_| slice()).collect()
    }

    fn find(rows: &[Row], figure: &str) -> Row {
        let row = rows.iter().find(|row| row.figure == figure);
        row.expect("it is compared").clone()
    }

    /// Of a statement that is to hold with 95%, 38 of 40 are expected to hold; fewer than 32 would be no accident.
    #[test]
    fn the_bounds_hold_the_truth_as_often_as_they_say() {
        for truth in [1.0, 1.5] {
            let holds = (0..40)
                .filter(|seed| {
                    let (first, second) = (
                        slices(20, 20.0 * truth, 2 * seed),
                        slices(20, 20.0, 2 * seed + 1),
                    );
                    let ratio = find(&compare(&first, &second, 3), "p50").ratio;
                    let (low, high) = ratio.bounds.expect("enough slices");
                    assert!(low < ratio.value && ratio.value < high && high / low < 1.4);
                    low < truth && truth < high
                })
                .count();
            assert!(holds >= 32, "{holds} of 40 for {truth}");
        }
    }

    #[test]
    fn what_is_compared_is_what_there_is() {
        let (mut first, mut second) = (slices(5, 30.0, 1), slices(5, 20.0, 2));
        let rows = compare(&first, &second, 3);
        let names: Vec<_> = rows.iter().map(|row| (row.flow, row.figure)).collect();
        let reads = ["iops", "p50", "p99", "p99.9"].map(|figure| ("read", figure));
        assert_eq!(names, reads);
        let all = Sliced::sum(&first).totals.reads.quantile(0.99) as f64 / 1e3;
        assert!((find(&rows, "p99").values.0 / all - 1.0).abs() < 0.01);
        assert!((find(&rows, "iops").ratio.value - 1.0).abs() < 1e-9);
        let text = table(&rows, ("node", "raw"));
        assert!(text.contains("read p50 us"), "{text}");
        let p99 = find(&rows, "p99").difference.value;
        let text = added(&rows);
        assert!(
            text.starts_with("added latency of a read: +")
                && text.contains(&format!("{p99:+.1} us at p99,"))
                && text.contains("at p99.9")
                && !text.contains("write"),
            "{text}"
        );
        assert_eq!(added_json(&rows)["read"]["p99"], p99);
        assert!(json(&rows)["read"]["p99"]["ratio"]["low"].is_f64());

        // A stall in two slices of five is all of the p99, and not what is usual.
        let usual = find(&compare(&second, &second, 3), "p99").ratio;
        assert_eq!((usual.value, usual.median), (1.0, Some(1.0)));
        let mut stalled = second.clone();
        for slice in &mut stalled[..2] {
            (0..20).for_each(|_| slice.totals.reads.record(5_000_000, 4096));
        }
        let p99 = find(&compare(&stalled, &second, 3), "p99").ratio;
        assert!(p99.value > 100.0, "{p99:?}");
        assert_eq!(p99.median, Some(1.0));
        assert_eq!(
            json(&rows)["read"]["p99"]["ratio"]["median"],
            json!(find(&rows, "p99").ratio.median)
        );
        assert_eq!((median(vec![]), median(vec![3.0, 1.0])), (None, Some(2.0)));

        first
            .iter_mut()
            .for_each(|slice| slice.cpu_ns = Some(400_000));
        second
            .iter_mut()
            .for_each(|slice| slice.cpu_ns = Some(200_000));
        let rows = compare(&first, &second, 3);
        let cpu = find(&rows, "target_cpu_us_per_io");
        assert_eq!((cpu.values, cpu.ratio.value), ((2.0, 1.0), 2.0));
        assert!(json(&rows)["all"]["target_cpu_us_per_io"]["first"].is_f64());
    }

    #[test]
    fn reads_are_compared_with_writes_by_the_commands_of_both() {
        let writes = |mut slices: Vec<Sliced>| {
            for slice in &mut slices {
                std::mem::swap(&mut slice.totals.reads, &mut slice.totals.writes);
            }
            slices
        };
        let (first, second) = (writes(slices(5, 30.0, 1)), slices(10, 20.0, 2));
        let double: Vec<Sliced> = second.chunks(2).map(Sliced::sum).collect();
        let rows = compare(&first, &double, 3);
        let names: Vec<_> = rows.iter().map(|row| (row.flow, row.figure)).collect();
        assert_eq!(names, [("", "iops")]);
        assert_eq!((rows[0].values, rows[0].ratio.value), ((200.0, 200.0), 1.0));
        assert!(json(&rows)["all"]["iops"]["first"].is_f64());
    }

    #[test]
    fn few_slices_say_nothing_about_chance() {
        let slices = slices(4, 20.0, 1);
        let rows = compare(&slices, &slices, 3);
        assert!(rows.iter().all(|row| row.ratio.bounds.is_none()));
        assert!(compare(&[], &[], 3).is_empty());
    }
}
