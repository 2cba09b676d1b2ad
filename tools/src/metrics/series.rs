//! Times of I/Os by host and namespace, summed over cores.

use std::collections::BTreeMap;
use std::sync::Arc;

use ferroce_engine::phases::{BUCKETS, CountsView, Operation, Phase, SeriesView, bucket_end};
use serde_json::{Value, json};

use crate::node::CoreFacts;

/// Seconds of a nanosecond.
pub const SECONDS: f64 = 1e-9;
/// The name of those that have no series of their own, as host, subsystem and namespace.
const OTHERS: &str = "other";

/// Whose I/O it is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Name {
    host: String,
    subsystem: String,
    nsid: String,
}

impl Name {
    /// As labels, with others after them.
    pub fn labels_with(&self, more: &[(&'static str, &str)]) -> Vec<(&'static str, String)> {
        let mine = [
            ("host", self.host.clone()),
            ("subsystem", self.subsystem.clone()),
            ("nsid", self.nsid.clone()),
        ];
        let more = more.iter().map(|(key, value)| (*key, value.to_string()));
        mine.into_iter().chain(more).collect()
    }
}

/// What was counted of it.
#[derive(Clone, Debug)]
pub struct Operations {
    /// Commands under way.
    pub in_flight: u64,
    counts: [CountsView; Operation::ALL.len()],
}

/// All there are, by name.
pub fn all(cores: &[Arc<CoreFacts>]) -> Vec<(Name, Operations)> {
    let mut all: BTreeMap<Name, Operations> = BTreeMap::new();
    for series in cores.iter().flat_map(|core| core.counters.phases.read()) {
        let SeriesView {
            who,
            in_flight,
            operations,
        } = series;
        let name = match who {
            Some(who) => Name {
                host: who.hostnqn,
                subsystem: who.subnqn,
                nsid: who.nsid.to_string(),
            },
            None => Name {
                host: OTHERS.into(),
                subsystem: OTHERS.into(),
                nsid: OTHERS.into(),
            },
        };
        match all.get_mut(&name) {
            Some(sum) => {
                sum.in_flight += in_flight;
                for (sum, more) in sum.counts.iter_mut().zip(&operations) {
                    sum.add(more);
                }
            }
            None => {
                let counts = operations;
                all.insert(name, Operations { in_flight, counts });
            }
        }
    }
    all.into_iter().collect()
}

impl Operations {
    /// The operations that were used, by name.
    pub fn used(&self) -> impl Iterator<Item = (&'static str, &CountsView)> {
        let names = Operation::ALL.iter().map(|operation| operation.name());
        names
            .zip(&self.counts)
            .filter(|(_, counts)| counts.count() > 0)
    }

    /// For people: counts and quantiles.
    pub fn summary(&self, name: &Name) -> Value {
        let mut summary = json!({
            "host": name.host,
            "subsystem": name.subsystem,
            "nsid": name.nsid,
            "in-flight": self.in_flight,
        });
        for (operation, counts) in self.used() {
            let mut io = json!({ "count": counts.count(), "bytes": counts.bytes });
            for phase in Phase::ALL {
                let us = |share: f64| {
                    quantile_ns(&counts.buckets[phase as usize], share) as f64 / 1000.0
                };
                io[format!("{}-us", phase.name())] = json!({
                    "p50": us(0.5),
                    "p99": us(0.99),
                    "p99.9": us(0.999),
                    "max": us(1.0),
                });
            }
            summary[operation] = io;
        }
        summary
    }
}

/// The time within which this share of commands was done, at most an eighth too high; 0 of none.
fn quantile_ns(buckets: &[u64; BUCKETS], share: f64) -> u64 {
    let count: u64 = buckets.iter().sum();
    let wanted = (count as f64 * share).ceil() as u64;
    let mut seen = 0;
    for (bucket, here) in buckets.iter().enumerate() {
        seen += here;
        if *here > 0 && seen >= wanted {
            return bucket_end(bucket);
        }
    }
    0
}

/// The shortest and the longest bound of a bucket that is told, in ns: 1 us and 17 s.
const BOUNDS: std::ops::RangeInclusive<u64> = 1 << 10..=1 << 34;

/// Sum in seconds, count, and buckets as (upper bound in seconds, count). There are two buckets to a
/// factor of two, a quarter of what the cores count.
pub fn histogram(counts: &CountsView, phase: Phase) -> (f64, u64, Vec<(f64, u64)>) {
    let all = &counts.buckets[phase as usize];
    let mut buckets = Vec::new();
    let mut here = 0;
    for (bucket, count) in all.iter().enumerate() {
        here += count;
        let end = bucket_end(bucket);
        // 2^n, or 3/2 of that.
        let told = end.is_power_of_two() || (end.is_multiple_of(3) && (end / 3).is_power_of_two());
        if told && BOUNDS.contains(&end) {
            buckets.push((end as f64 * SECONDS, here));
            here = 0;
        }
    }
    buckets.push((f64::INFINITY, here));
    let sum = counts.sums[phase as usize] as f64 * SECONDS;
    (sum, all.iter().sum(), buckets)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(buckets: &[(usize, u64)]) -> CountsView {
        let mut counts = CountsView {
            bytes: 0,
            sums: [0; Phase::ALL.len()],
            buckets: [[0; BUCKETS]; Phase::ALL.len()],
        };
        for (bucket, count) in buckets {
            counts.buckets[Phase::Total as usize][*bucket] = *count;
        }
        counts
    }

    #[test]
    fn quantiles() {
        let counts = counts(&[(10, 90), (40, 9), (70, 1)]);
        let of = |share| quantile_ns(&counts.buckets[Phase::Total as usize], share);
        assert_eq!(of(0.5), bucket_end(10));
        assert_eq!(of(0.9), bucket_end(10));
        assert_eq!(of(0.99), bucket_end(40));
        assert_eq!(of(0.999), bucket_end(70));
        assert_eq!(quantile_ns(&[0; BUCKETS], 0.5), 0);
    }

    #[test]
    fn no_command_is_lost_between_bounds() {
        let every: Vec<(usize, u64)> = (0..BUCKETS).map(|bucket| (bucket, 1)).collect();
        let (_, count, buckets) = histogram(&counts(&every), Phase::Total);
        assert_eq!(count, BUCKETS as u64);
        assert_eq!(buckets.iter().map(|(_, here)| here).sum::<u64>(), count);
        assert!(buckets.is_sorted_by(|a, b| a.0 < b.0));
        assert_eq!(buckets[0].0, 1024.0 * SECONDS);
        // Two bounds for each doubling.
        assert_eq!(buckets.len(), 2 * 24 + 1 + 1);
    }
}
