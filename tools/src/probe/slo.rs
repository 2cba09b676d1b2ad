//! What a target has to keep: `p99<500us,p99.9<2ms,errors=0`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::report::{QUANTILES, Sliced};
use crate::units::{parse_number, parse_time, thousands, us};

/// Of what was due, this share may be unsent at the end of an open loop that kept up: the last few may be late.
const UNSENT: f64 = 0.001;

/// Conditions, all of which have to hold.
#[derive(Clone, PartialEq, Debug)]
pub struct Slo(Vec<Condition>);

#[derive(Clone, PartialEq, Debug)]
struct Condition {
    figure: Figure,
    order: Order,
    /// Nanoseconds, or a number.
    bound: f64,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Figure {
    /// Latency at a place of [`QUANTILES`].
    Quantile(usize),
    Mean,
    Max,
    Gap,
    Errors,
    Iops,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Order {
    Less,
    LessOrEqual,
    Equal,
    GreaterOrEqual,
    Greater,
}

const ORDERS: [(&str, Order); 5] = [
    ("<=", Order::LessOrEqual),
    (">=", Order::GreaterOrEqual),
    ("<", Order::Less),
    (">", Order::Greater),
    ("=", Order::Equal),
];

impl FromStr for Slo {
    type Err = String;

    fn from_str(text: &str) -> Result<Slo, String> {
        text.split(',')
            .map(|part| {
                Condition::of(part.trim()).map_err(|why| {
                    format!("`{part}`: {why}; write conditions as p99<500us,p99.9<2ms,errors=0")
                })
            })
            .collect::<Result<_, _>>()
            .map(Slo)
    }
}

impl Condition {
    fn of(text: &str) -> Result<Condition, String> {
        let (name, order, bound) = ORDERS
            .iter()
            .find_map(|(sign, order)| {
                let (name, bound) = text.split_once(sign)?;
                Some((name.trim(), *order, bound.trim()))
            })
            .ok_or("there is no <, <=, =, >= or > in it")?;
        let quantile = QUANTILES.iter().position(|(quantile, _)| *quantile == name);
        let figure = match (quantile, name) {
            (Some(at), _) => Figure::Quantile(at),
            (None, "mean") => Figure::Mean,
            (None, "max") => Figure::Max,
            (None, "gap") => Figure::Gap,
            (None, "errors") => Figure::Errors,
            (None, "iops") => Figure::Iops,
            _ => {
                return Err(
                    "it is about none of p50, p90, p99, p99.9, p99.99, mean, max, gap, errors, iops"
                        .into(),
                );
            }
        };
        let bound = match figure {
            Figure::Errors | Figure::Iops => parse_number(bound)
                .filter(|number| *number >= 0.0)
                .ok_or_else(|| format!("`{bound}` is no number: write it as 0, 1000 or 10k"))?,
            _ => parse_time(bound)?.as_nanos() as f64,
        };
        Ok(Condition {
            figure,
            order,
            bound,
        })
    }

    /// How it is missed, if it is.
    fn missed(&self, slice: &Sliced) -> Vec<String> {
        let mut missed = Vec::new();
        let mut judge = |what: String, found: Option<f64>| {
            let holds = found.is_some_and(|found| match self.order {
                Order::Less => found < self.bound,
                Order::LessOrEqual => found <= self.bound,
                Order::Equal => found == self.bound,
                Order::GreaterOrEqual => found >= self.bound,
                Order::Greater => found > self.bound,
            });
            if !holds {
                let found = found.map_or("unknown".into(), |found| self.figure.tell(found));
                missed.push(format!("{what} is {found}, not {self}"));
            }
        };
        let totals = &slice.totals;
        match self.figure {
            Figure::Errors => {
                // What was due and never sent was refused by the target's slowness.
                let errors = totals.failed() + totals.unsent;
                judge(
                    "the number of errors and unsent commands".into(),
                    Some(errors as f64),
                );
            }
            Figure::Gap => judge(
                "the longest gap in service".into(),
                Some(totals.gap.as_nanos() as f64),
            ),
            Figure::Iops => {
                let seconds = slice.time.as_secs_f64().max(1e-9);
                judge("IOPS".into(), Some(totals.ios() as f64 / seconds));
            }
            Figure::Quantile(_) | Figure::Mean | Figure::Max => {
                for (name, flow) in totals.flows() {
                    let found = match self.figure {
                        Figure::Quantile(at) => flow.quantile(QUANTILES[at].1) as f64,
                        Figure::Mean => flow.latency.mean(),
                        _ => flow.latency.max() as f64,
                    };
                    judge(format!("{} of {name}s", self.figure), Some(found));
                }
                if totals.ios() == 0 {
                    judge(self.figure.to_string(), None);
                }
            }
        }
        missed
    }
}

impl Slo {
    /// What of it is missed, in words; nothing if it is kept. Of what was due and not sent in time the latencies know nothing,
    /// and of nothing at all no condition is met: both miss it, whatever it says.
    pub fn missed(&self, slice: &Sliced) -> Vec<String> {
        let conditions = self.0.iter();
        let mut missed: Vec<_> = conditions
            .flat_map(|condition| condition.missed(slice))
            .collect();
        let totals = &slice.totals;
        let due = totals.ios() + totals.failed() + totals.unsent;
        if totals.unsent as f64 > (UNSENT * due as f64).max(1.0) {
            missed.push(format!(
                "{} of {} commands could not be sent in time",
                thousands(totals.unsent),
                thousands(due)
            ));
        }
        if totals.ios() == 0 && missed.is_empty() {
            missed.push("no command was answered".into());
        }
        missed
    }
}

impl Figure {
    fn tell(self, value: f64) -> String {
        match self {
            Figure::Errors | Figure::Iops => thousands(value as u64),
            _ => format!("{} us", us(value as u64)),
        }
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Figure::Quantile(at) => QUANTILES[*at].0,
            Figure::Mean => "mean",
            Figure::Max => "max",
            Figure::Gap => "gap",
            Figure::Errors => "errors",
            Figure::Iops => "iops",
        })
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = ORDERS.iter().find(|(_, order)| *order == self.order);
        write!(f, "{} ", sign.expect("every order has a sign").0)?;
        match self.figure {
            Figure::Errors | Figure::Iops => write!(f, "{}", self.bound),
            _ => write!(f, "{:?}", Duration::from_nanos(self.bound as u64)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured() -> Sliced {
        let mut slice = Sliced {
            time: Duration::from_secs(1),
            ..Sliced::default()
        };
        for i in 1..=1000u64 {
            slice.totals.reads.record(i * 1000, 4096);
        }
        slice.totals.gap = Duration::from_millis(3);
        slice
    }

    fn missed(slo: &str, slice: &Sliced) -> Vec<String> {
        slo.parse::<Slo>()
            .unwrap_or_else(|why| panic!("{why}"))
            .missed(slice)
    }

    #[test]
    fn conditions_are_judged() {
        let slice = measured();
        for kept in [
            "p99<1ms,p99.9<=1.1ms,errors=0",
            "p50 < 510us , max<1.1ms, mean<510us",
            "iops>=1000",
            "iops>=1k,iops>0.5k",
            "gap<4ms",
        ] {
            assert_eq!(missed(kept, &slice), Vec::<String>::new(), "{kept}");
        }
        for (wanted, why) in [
            ("p99<500us", "p99 of reads is 990"),
            ("p99<500us", "not < 500µs"),
            ("iops>1000", "IOPS is 1,000, not > 1000"),
            ("gap<=2ms", "the longest gap in service is 3000"),
        ] {
            let said = missed(wanted, &slice);
            assert!(
                said.len() == 1 && said[0].contains(why),
                "{wanted}: {said:?}"
            );
        }
        assert_eq!(missed("p99<1us,p50<1us,errors=0", &slice).len(), 2);
    }

    #[test]
    fn errors_and_silence_keep_no_objective() {
        let mut slice = measured();
        slice.totals.errors.insert("Internal Error".into(), 2);
        slice.totals.unsent = 1;
        assert!(missed("errors=0", &slice)[0].contains("is 3"));
        let nothing = Sliced::default();
        assert!(missed("p99<1s", &nothing)[0].contains("unknown"));
        assert_eq!(missed("errors=0", &nothing), ["no command was answered"]);
    }

    #[test]
    fn not_to_keep_up_is_a_miss() {
        let mut slice = Sliced::default();
        for _ in 0..10_000 {
            slice.totals.reads.record(1000, 4096);
        }
        slice.totals.unsent = 5;
        assert!(missed("p99<1s", &slice).is_empty());
        slice.totals.unsent = 500;
        assert!(missed("p99<1s", &slice)[0].contains("500 of 10,500"));
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (text, why) in [
            ("", "there is no <"),
            ("p99", "there is no <"),
            ("p98<1ms", "none of p50"),
            ("p99<500", "not a time"),
            ("p99<-1us", "not a time"),
            ("errors=none", "`none` is no number"),
            ("errors=", "`` is no number"),
            ("iops>1M", "`1M` is no number"),
            ("errors=0,,p99<1ms", "there is no <"),
            ("iops>NaN", "`NaN` is no number"),
        ] {
            let said = text.parse::<Slo>().expect_err(text);
            assert!(said.contains(why), "{text}: {said}");
        }
    }
}
