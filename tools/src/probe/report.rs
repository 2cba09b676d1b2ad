//! What was measured, for people and for programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::units::{gib_per_s, thousands, us};

/// Of the first column of tables.
const WIDTH: usize = 24;
/// A gap worth mentioning to a person.
const GAP_TOLD: Duration = Duration::from_millis(10);

/// The quantiles everyone gets.
pub const QUANTILES: [(&str, f64); 5] = [
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
        if !other.latency.is_empty() {
            self.latency.add(&other.latency).expect("the same bounds");
            self.bytes += other.bytes;
        }
    }

    /// The latency within which this share of the commands was answered, in ns.
    pub fn quantile(&self, share: f64) -> u64 {
        self.latency.value_at_quantile(share)
    }
}

/// What one queue, or all of them, measured.
#[derive(Debug, Clone)]
pub struct Totals {
    /// Reads that succeeded.
    pub reads: Flow,
    /// Writes that succeeded.
    pub writes: Flow,
    /// Objects of which all parts were read or written, from the first one's start to the last one's end.
    pub objects: Flow,
    /// Commands that failed, by their status.
    pub errors: BTreeMap<String, u64>,
    /// Blocks compared with what they must be.
    pub blocks_verified: u64,
    /// Blocks that were something else; the first of them.
    pub wrong: Vec<String>,
    /// How many there were.
    pub blocks_wrong: u64,
    /// The longest time in which commands waited on a queue and none was carried out.
    pub gap: Duration,
    /// Commands of an open loop that were due, and not sent before the end: the target, or the depth, was not enough.
    pub unsent: u64,
    /// How often the connections were lost and made again.
    pub reconnects: u64,
}

/// What was measured of a target in some time.
#[derive(Debug, Clone, Default)]
pub struct Sliced {
    /// The commands.
    pub totals: Totals,
    /// The time.
    pub time: Duration,
    /// CPU time the target used, in ns, where that is known.
    pub cpu_ns: Option<u64>,
}

impl Sliced {
    /// Adds another stretch of time.
    pub fn merge(&mut self, other: &Sliced) {
        self.totals.merge(&other.totals);
        self.cpu_ns = match (self.time.is_zero(), self.cpu_ns, other.cpu_ns) {
            (true, None, cpu_ns) => cpu_ns,
            (_, Some(ours), Some(theirs)) => Some(ours + theirs),
            _ => None,
        };
        self.time += other.time;
    }

    /// All of these together.
    pub fn sum<'a>(slices: impl IntoIterator<Item = &'a Sliced>) -> Sliced {
        let mut sum = Sliced::default();
        for slice in slices {
            sum.merge(slice);
        }
        sum
    }

    /// CPU time the target used for each command, in us.
    pub fn cpu_us_per_io(&self) -> Option<f64> {
        let ios = self.totals.ios();
        (ios > 0).then_some(self.cpu_ns? as f64 / 1e3 / ios as f64)
    }

    /// Commands of a flow per second.
    pub fn iops(&self, flow: &Flow) -> f64 {
        flow.latency.len() as f64 / self.time.as_secs_f64().max(1e-9)
    }
}

impl Default for Totals {
    fn default() -> Totals {
        Totals::new()
    }
}

/// Wrong blocks told one by one.
const WRONG_TOLD: usize = 10;

impl Totals {
    /// Nothing yet.
    pub fn new() -> Totals {
        Totals {
            reads: Flow::new(),
            writes: Flow::new(),
            objects: Flow::new(),
            errors: BTreeMap::new(),
            blocks_verified: 0,
            wrong: Vec::new(),
            blocks_wrong: 0,
            gap: Duration::ZERO,
            unsent: 0,
            reconnects: 0,
        }
    }

    /// Adds another queue's.
    pub fn merge(&mut self, other: &Totals) {
        self.reads.merge(&other.reads);
        self.writes.merge(&other.writes);
        self.objects.merge(&other.objects);
        for (status, count) in &other.errors {
            *self.errors.entry(status.clone()).or_default() += count;
        }
        self.blocks_verified += other.blocks_verified;
        self.blocks_wrong += other.blocks_wrong;
        self.gap = self.gap.max(other.gap);
        self.unsent += other.unsent;
        self.reconnects += other.reconnects;
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

    /// Commands that succeeded.
    pub fn ios(&self) -> u64 {
        self.reads.latency.len() + self.writes.latency.len()
    }

    /// Those flows that there were.
    pub fn flows(&self) -> impl Iterator<Item = (&'static str, &Flow)> {
        let flows = [
            ("read", &self.reads),
            ("write", &self.writes),
            ("object", &self.objects),
        ];
        flows
            .into_iter()
            .filter(|(_, flow)| !flow.latency.is_empty())
    }
}

/// The head of a table.
pub fn head() -> String {
    let mut out = format!("{:<WIDTH$}{:>12}{:>9}", "", "IOPS", "GiB/s");
    for (name, _) in QUANTILES {
        let _ = write!(out, "{name:>9}");
    }
    let _ = writeln!(out, "{:>9}  latency in us", "max");
    out
}

/// The lines of a table, one for reads and one for writes; `name` is put in front where there is one.
pub fn rows(name: &str, slice: &Sliced) -> String {
    let mut out = String::new();
    let seconds = slice.time.as_secs_f64();
    for (flow_name, flow) in slice.totals.flows() {
        let label = format!("{name} {flow_name}");
        let _ = write!(
            out,
            "{:<WIDTH$}{:>12}{:>9.2}",
            label.trim(),
            thousands(slice.iops(flow).round() as u64),
            gib_per_s(flow.bytes, seconds)
        );
        for (_, share) in QUANTILES {
            let _ = write!(out, "{:>9}", us(flow.quantile(share)));
        }
        let _ = writeln!(out, "{:>9}", us(flow.latency.max()));
    }
    if out.is_empty() {
        let _ = writeln!(out, "{}", format!("{name} no command was answered").trim());
    }
    out
}

/// What else is worth saying.
pub fn notes(slice: &Sliced) -> String {
    let totals = &slice.totals;
    let mut out = String::new();
    if let Some(cpu) = slice.cpu_us_per_io() {
        let _ = writeln!(out, "CPU time of the target per command: {cpu:.2} us");
    }
    if totals.gap >= GAP_TOLD {
        let gap = totals.gap.as_secs_f64() * 1e3;
        let _ = writeln!(out, "longest gap in service: {gap:.1} ms");
    }
    if totals.reconnects > 0 {
        let _ = writeln!(out, "connected again {} times", totals.reconnects);
    }
    if totals.unsent > 0 {
        let _ = writeln!(
            out,
            "{} commands were due and not sent before the end: the target did not keep up, or --depth is too small. The latencies \
             above do not have their wait",
            thousands(totals.unsent)
        );
    }
    for (kind, count) in &totals.errors {
        let _ = writeln!(out, "{} commands failed: {kind}", thousands(*count));
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

/// A slice, for a program.
pub fn json(slice: &Sliced) -> Value {
    let (totals, seconds) = (&slice.totals, slice.time.as_secs_f64());
    let mut out = json!({
        "seconds": seconds,
        "errors": totals.errors,
        "longest_gap_ms": totals.gap.as_secs_f64() * 1e3,
        "reconnects": totals.reconnects,
        "unsent": totals.unsent,
    });
    if let Some(cpu) = slice.cpu_us_per_io() {
        out["target_cpu_us_per_io"] = json!(cpu);
    }
    for (name, flow) in totals.flows() {
        let mut latency = json!({
            "min": flow.latency.min() as f64 / 1e3,
            "mean": flow.latency.mean() / 1e3,
            "max": flow.latency.max() as f64 / 1e3,
        });
        for (name, share) in QUANTILES {
            latency[name] = json!(flow.quantile(share) as f64 / 1e3);
        }
        out[name] = json!({
            "ios": flow.latency.len(),
            "iops": slice.iops(flow),
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
        let slice = Sliced {
            totals: all,
            time: Duration::from_secs(2),
            cpu_ns: Some(2_000_000),
        };
        let text = rows("", &slice);
        assert!(text.starts_with("read") && text.contains(" 500 "), "{text}");
        assert!(!text.contains("write"), "{text}");
        let text = notes(&slice);
        assert!(text.contains("4 commands failed: Internal Error"), "{text}");
        assert!(text.contains("per command: 2.00 us"), "{text}");
        let value = json(&slice);
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
        let text = notes(&Sliced {
            totals: all,
            ..Sliced::default()
        });
        assert!(
            text.contains("50 WRONG") && text.contains("block 9") && !text.contains("block 10"),
            "{text}"
        );
    }
}
