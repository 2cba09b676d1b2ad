//! What was measured, for people and for programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::units::{gib_per_s, thousands, us};

/// The quantiles everyone gets.
const QUANTILES: [(&str, f64); 5] = [
    ("p50", 0.5),
    ("p90", 0.9),
    ("p99", 0.99),
    ("p99.9", 0.999),
    ("p99.99", 0.9999),
];

/// Commands of one direction.
#[derive(Debug, Clone)]
pub struct Flow {
    /// Nanoseconds from submission to completion.
    pub latency: Histogram<u64>,
    /// Bytes moved.
    pub bytes: u64,
}

impl Flow {
    fn new() -> Flow {
        Flow {
            // Up to a minute, to a thousandth; longer ones count as a minute.
            latency: Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("sound bounds"),
            bytes: 0,
        }
    }

    /// One command.
    #[inline]
    pub fn record(&mut self, ns: u64, bytes: u64) {
        self.latency.saturating_record(ns);
        self.bytes += bytes;
    }

    fn merge(&mut self, other: &Flow) {
        self.latency.add(&other.latency).expect("the same bounds");
        self.bytes += other.bytes;
    }
}

/// What one queue, or all of them, measured.
#[derive(Debug, Clone)]
pub struct Totals {
    /// Reads that succeeded.
    pub reads: Flow,
    /// Writes that succeeded.
    pub writes: Flow,
    /// Commands that failed, by their status.
    pub errors: BTreeMap<String, u64>,
    /// Blocks compared with what they must be.
    pub blocks_verified: u64,
    /// Blocks that were something else; the first of them.
    pub wrong: Vec<String>,
    /// How many there were.
    pub blocks_wrong: u64,
}

/// Wrong blocks told one by one.
const WRONG_TOLD: usize = 10;

impl Totals {
    /// Nothing yet.
    pub fn new() -> Totals {
        Totals {
            reads: Flow::new(),
            writes: Flow::new(),
            errors: BTreeMap::new(),
            blocks_verified: 0,
            wrong: Vec::new(),
            blocks_wrong: 0,
        }
    }

    /// Adds another queue's.
    pub fn merge(&mut self, other: &Totals) {
        self.reads.merge(&other.reads);
        self.writes.merge(&other.writes);
        for (status, count) in &other.errors {
            *self.errors.entry(status.clone()).or_default() += count;
        }
        self.blocks_verified += other.blocks_verified;
        self.blocks_wrong += other.blocks_wrong;
        let room = WRONG_TOLD.saturating_sub(self.wrong.len());
        self.wrong.extend(other.wrong.iter().take(room).cloned());
    }

    /// A block was not what it must be.
    pub fn add_wrong(&mut self, what: String) {
        self.blocks_wrong += 1;
        if self.wrong.len() < WRONG_TOLD {
            self.wrong.push(what);
        }
    }

    /// Commands that failed.
    pub fn failed(&self) -> u64 {
        self.errors.values().sum()
    }

    fn flows(&self) -> impl Iterator<Item = (&'static str, &Flow)> {
        [("read", &self.reads), ("write", &self.writes)]
            .into_iter()
            .filter(|(_, flow)| !flow.latency.is_empty())
    }
}

/// The table, for a person.
pub fn table(totals: &Totals, time: Duration) -> String {
    let seconds = time.as_secs_f64();
    let mut out = format!("{:<7}{:>12}{:>9}", "", "IOPS", "GiB/s");
    for (name, _) in QUANTILES {
        let _ = write!(out, "{name:>9}");
    }
    let _ = writeln!(out, "{:>9}  latency in us", "max");
    if totals.flows().next().is_none() {
        out.push_str("no command was answered\n");
    }
    for (name, flow) in totals.flows() {
        let iops = (flow.latency.len() as f64 / seconds.max(1e-9)).round() as u64;
        let _ = write!(
            out,
            "{name:<7}{:>12}{:>9.2}",
            thousands(iops),
            gib_per_s(flow.bytes, seconds)
        );
        for (_, quantile) in QUANTILES {
            let _ = write!(out, "{:>9}", us(flow.latency.value_at_quantile(quantile)));
        }
        let _ = writeln!(out, "{:>9}", us(flow.latency.max()));
    }
    for (status, count) in &totals.errors {
        let _ = writeln!(out, "{} commands failed: {status}", thousands(*count));
    }
    if totals.blocks_verified > 0 {
        let _ = writeln!(
            out,
            "verified {} blocks: {}",
            thousands(totals.blocks_verified),
            match totals.blocks_wrong {
                0 => "each was the last one acknowledged".to_owned(),
                wrong => format!("{} WRONG", thousands(wrong)),
            }
        );
    }
    for wrong in &totals.wrong {
        let _ = writeln!(out, "  {wrong}");
    }
    out
}

/// The same, for a program.
pub fn json(totals: &Totals, time: Duration) -> Value {
    let seconds = time.as_secs_f64();
    let mut out = json!({
        "seconds": seconds,
        "errors": totals.errors,
        "blocks_verified": totals.blocks_verified,
        "blocks_wrong": totals.blocks_wrong,
        "wrong": totals.wrong,
    });
    for (name, flow) in totals.flows() {
        let mut latency = json!({
            "min": flow.latency.min() as f64 / 1e3,
            "mean": flow.latency.mean() / 1e3,
            "max": flow.latency.max() as f64 / 1e3,
        });
        for (name, quantile) in QUANTILES {
            latency[name] = json!(flow.latency.value_at_quantile(quantile) as f64 / 1e3);
        }
        out[name] = json!({
            "ios": flow.latency.len(),
            "iops": flow.latency.len() as f64 / seconds.max(1e-9),
            "bytes": flow.bytes,
            "gib_per_s": gib_per_s(flow.bytes, seconds),
            "latency_us": latency,
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_add_up() {
        let mut all = Totals::new();
        for queue in 1..=2u64 {
            let mut one = Totals::new();
            for _ in 0..500 {
                one.reads.record(queue * 50_000, 4096);
            }
            one.errors.insert("Internal Error".into(), 2);
            all.merge(&one);
        }
        let text = table(&all, Duration::from_secs(2));
        assert!(text.contains("500"), "{text}");
        assert!(text.contains("4 commands failed: Internal Error"), "{text}");
        assert!(!text.contains("write"), "{text}");
        let value = json(&all, Duration::from_secs(2));
        assert_eq!(value["read"]["ios"], 1000);
        let p99 = value["read"]["latency_us"]["p99"]
            .as_f64()
            .expect("a number");
        assert!((p99 - 100.0).abs() < 0.2, "{p99}");
        assert!(value.get("write").is_none());
    }

    #[test]
    fn wrong_blocks_are_told_and_counted() {
        let mut all = Totals::new();
        for i in 0..50 {
            all.blocks_verified += 1;
            all.add_wrong(format!("block {i}"));
        }
        let text = table(&all, Duration::from_secs(1));
        assert!(
            text.contains("50 WRONG") && text.contains("block 9") && !text.contains("block 10"),
            "{text}"
        );
    }
}
