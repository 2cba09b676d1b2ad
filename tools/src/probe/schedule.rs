//! When an open loop's commands are meant to start. Latency counts from there, not from when the probe got round to
//! sending: a target that stalls delays the commands behind, and leaving that wait out would flatter it (coordinated
//! omission).

use std::str::FromStr;
use std::time::{Duration, Instant};

use fastrand::Rng;

use crate::cli::Arrival;
use crate::units::parse_number;

/// Rates one after the other, in commands per second: `100`, `1.5k` or `10,10000`.
#[derive(Clone, PartialEq, Debug)]
pub struct Rates(pub Vec<f64>);

impl FromStr for Rates {
    type Err = String;

    fn from_str(text: &str) -> Result<Rates, String> {
        let rate =
            |part: &str| parse_number(part.trim()).filter(|rate| (0.01..=1e8).contains(rate));
        text.split(',')
            .map(rate)
            .collect::<Option<Vec<f64>>>()
            .map(Rates)
            .ok_or_else(|| {
                format!("`{text}` is no rate: write commands per second, as 100, 10k, or 10,10000 for one after the other")
            })
    }
}

/// The intended starts of one queue's commands.
#[derive(Debug)]
pub struct Schedule {
    start: Instant,
    /// From `start` to the next command's intended start.
    next_ns: f64,
    /// Mean distance of two.
    gap_ns: f64,
    arrival: Arrival,
    rng: Rng,
}

impl Schedule {
    /// From `start` on, `rate` commands per second over all `queues`, of which this is number `queue`.
    pub fn new(
        start: Instant,
        rate: f64,
        arrival: Arrival,
        (queue, queues): (u16, u16),
        seed: u64,
    ) -> Schedule {
        let gap_ns = 1e9 * f64::from(queues) / rate;
        let mut schedule = Schedule {
            start,
            // Queues take turns.
            next_ns: gap_ns * f64::from(queue) / f64::from(queues),
            gap_ns,
            arrival,
            rng: Rng::with_seed(seed ^ (u64::from(queue) + 1).wrapping_mul(0xD1B5_4A32_D192_ED03)),
        };
        if arrival == Arrival::Poisson {
            schedule.next_ns = schedule.distance();
        }
        schedule
    }

    /// The intended start of the next command, if that is over at `now` and before `end`.
    #[inline]
    pub fn due(&mut self, now: Instant, end: Instant) -> Option<Instant> {
        let next = self.start + Duration::from_nanos(self.next_ns as u64);
        if next > now || next >= end {
            return None;
        }
        self.next_ns += self.distance();
        Some(next)
    }

    /// How long until the next one.
    pub fn until_next(&self) -> Duration {
        let next = self.start + Duration::from_nanos(self.next_ns as u64);
        next.saturating_duration_since(Instant::now())
    }

    /// How many are left until `end`: due, and never sent.
    pub fn left(&mut self, end: Instant) -> u64 {
        std::iter::from_fn(|| self.due(end, end)).count() as u64
    }

    #[inline]
    fn distance(&mut self) -> f64 {
        match self.arrival {
            Arrival::Fixed => self.gap_ns,
            // Of independent arrivals, the distances are exponentially distributed.
            Arrival::Poisson => -self.gap_ns * (1.0 - self.rng.f64()).ln(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn starts(arrival: Arrival, rate: f64, place: (u16, u16), seconds: u64) -> Vec<u64> {
        let start = Instant::now();
        let end = start + Duration::from_secs(seconds);
        let mut schedule = Schedule::new(start, rate, arrival, place, 7);
        std::iter::from_fn(|| schedule.due(end, end))
            .map(|at| at.duration_since(start).as_nanos() as u64)
            .collect()
    }

    #[test]
    fn fixed_arrivals_are_evenly_spread_over_queues() {
        assert_eq!(
            starts(Arrival::Fixed, 4.0, (0, 1), 1),
            [0, 250_000_000, 500_000_000, 750_000_000]
        );
        assert_eq!(
            starts(Arrival::Fixed, 4.0, (1, 2), 1),
            [250_000_000, 750_000_000]
        );
    }

    #[test]
    fn poisson_arrivals_have_the_mean_and_the_spread_they_should() {
        let starts = starts(Arrival::Poisson, 10_000.0, (0, 1), 20);
        let count = starts.len() as f64;
        assert!((count - 200_000.0).abs() < 3_000.0, "{count}");
        let gaps: Vec<f64> = starts
            .windows(2)
            .map(|two| (two[1] - two[0]) as f64)
            .collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        // Of an exponential distribution the standard deviation is the mean.
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.05, "{variance}");
    }

    #[test]
    fn nothing_is_due_early_and_what_is_late_keeps_its_intended_start() {
        let start = Instant::now();
        let end = start + Duration::from_secs(10);
        let mut schedule = Schedule::new(start, 10.0, Arrival::Fixed, (0, 1), 0);
        let at = |ms: u64| start + Duration::from_millis(ms);
        assert_eq!(schedule.due(at(0), end), Some(at(0)));
        assert_eq!(schedule.due(at(99), end), None);
        // Half a second of stall: each is due from when it was meant to start.
        assert_eq!(schedule.due(at(500), end), Some(at(100)));
        assert_eq!(schedule.due(at(500), end), Some(at(200)));
        assert_eq!(schedule.left(at(1000)), 7);
        assert_eq!(schedule.due(at(1000), at(1000)), None);
    }

    #[test]
    fn rates_as_people_write_them() {
        assert_eq!("10,10000".parse(), Ok(Rates(vec![10.0, 10_000.0])));
        assert_eq!("1.5k".parse(), Ok(Rates(vec![1_500.0])));
        for text in ["", "0", "-1", "fast", "10,,20", "inf", "NaN", "1e99"] {
            assert!(text.parse::<Rates>().is_err(), "{text}");
        }
    }
}
