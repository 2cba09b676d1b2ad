//! Sizes, times and rates as people write them: 64MiB, 64MB, 500ms, microseconds, GiB/s.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use ferroce_drivers::spec;
use serde::Deserialize;

/// A differentiated services code point, 0 to 63 (RFC 2474): what networks give priority by.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(try_from = "i64")]
pub struct Dscp(u8);

impl Dscp {
    /// The field of an IP header it stands in, of which the other two bits are ECN's.
    pub fn traffic_class(self) -> u8 {
        self.0 << 2
    }
}

impl TryFrom<i64> for Dscp {
    type Error = String;

    fn try_from(number: i64) -> Result<Dscp, String> {
        match u8::try_from(number) {
            Ok(number @ 0..64) => Ok(Dscp(number)),
            _ => Err(format!(
                "`{number}` is no DSCP: write a number from 0 to 63"
            )),
        }
    }
}

impl FromStr for Dscp {
    type Err = String;

    fn from_str(text: &str) -> Result<Dscp, String> {
        let number = text.parse::<i64>();
        let number =
            number.map_err(|_| format!("`{text}` is no DSCP: write a number from 0 to 63"))?;
        number.try_into()
    }
}

/// A number of bytes, written with its unit.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Deserialize)]
#[serde(try_from = "Text")]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Size, String> {
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, unit) = text.split_at(digits);
        let unit = unit.trim_start();
        let factor = match unit {
            "" => Some(1),
            _ => spec::unit(unit),
        };
        let bytes = factor.and_then(|factor| number.parse::<u64>().ok()?.checked_mul(factor));
        bytes.map(Size).ok_or_else(|| {
            format!("`{text}` is not a size: write a whole number and KiB, MiB, GiB, TiB or KB, MB, GB, TB")
        })
    }
}

impl fmt::Display for Size {
    /// Exact.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        spec::Size(self.0).fmt(f)
    }
}

/// A size that is written with its unit: a bare number is taken for bytes elsewhere, and here more likely is none.
pub fn size_with_unit(text: &str) -> Result<Size, String> {
    let size = text.parse()?;
    match text.ends_with(['B', 'b']) {
        true => Ok(size),
        false => Err(format!(
            "`{text}` has no unit: write KiB, MiB, GiB, TiB or KB, MB, GB, TB behind it, or {text}B for bytes"
        )),
    }
}

/// About so many bytes, for people: three digits and a binary unit.
pub fn about(bytes: u64) -> String {
    for (name, factor) in &spec::UNITS[..4] {
        if bytes >= *factor {
            let value = bytes as f64 / *factor as f64;
            let digits = if bytes.is_multiple_of(*factor) || value >= 100.0 {
                0
            } else if value >= 10.0 {
                1
            } else {
                2
            };
            return format!("{value:.digits$} {name}");
        }
    }
    format!("{bytes} B")
}

/// Nanoseconds, told in microseconds.
pub fn us(ns: u64) -> String {
    let us = ns as f64 / 1000.0;
    let digits = if us < 100.0 { 1 } else { 0 };
    format!("{us:.digits$}")
}

/// Bytes in a time, told in GiB/s.
pub fn gib_per_s(bytes: u64, seconds: f64) -> f64 {
    if seconds <= 0.0 {
        return 0.0;
    }
    bytes as f64 / (1u64 << 30) as f64 / seconds
}

/// A count with its thousands apart: 1234567 is 1,234,567.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A rate: 10,000, or 0.5.
pub fn per_second(rate: f64) -> String {
    match rate < 10.0 {
        true => format!("{}", (rate * 100.0).round() / 100.0),
        false => thousands(rate as u64),
    }
}

/// A number, as 100, 0.5 or 10k, if it is one.
pub fn parse_number(text: &str) -> Option<f64> {
    let (number, factor) = match text.strip_suffix('k') {
        Some(number) => (number, 1e3),
        None => (text, 1.0),
    };
    let number: f64 = number.parse().ok()?;
    Some(number * factor).filter(|number| number.is_finite())
}

/// A time, as 2s, 500ms, 50us or 1m.
pub fn parse_time(text: &str) -> Result<Duration, String> {
    let split = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor = match unit.trim_start() {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => f64::NAN,
    };
    let seconds = number.parse::<f64>().map_or(f64::NAN, |n| n * factor);
    Duration::try_from_secs_f64(seconds)
        .ok()
        .filter(|time| *time <= Duration::from_secs(30 * 24 * 3600))
        .ok_or_else(|| {
            format!(
                "`{text}` is not a time: write a number and us, ms, s, m or h (30 days at most)"
            )
        })
}

/// Text or a plain number, as configuration files have them.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a number or a text with a unit")]
pub enum Text {
    /// Without a unit.
    Number(u64),
    /// With one.
    Text(String),
}

impl TryFrom<Text> for Size {
    type Error = String;

    fn try_from(text: Text) -> Result<Size, String> {
        match text {
            Text::Number(bytes) => Ok(Size(bytes)),
            Text::Text(text) => text.parse(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_below_one_are_not_none() {
        let told = [0.01, 0.5, 9.0, 10.0, 12_345.6].map(per_second);
        assert_eq!(told, ["0.01", "0.5", "9", "10", "12,345"]);
    }

    #[test]
    fn sizes_mean_what_they_say() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("512B", 512),
            ("4KiB", 4096),
            ("4KB", 4000),
            ("4kB", 4000),
            ("64MiB", 64 << 20),
            ("64 MiB", 64 << 20),
            ("64MB", 64_000_000),
            ("64mb", 64_000_000),
            ("64mib", 64 << 20),
            ("3GiB", 3 << 30),
            ("1TB", 1_000_000_000_000),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        for text in [
            "",
            "MiB",
            "-1",
            "1.5GiB",
            "4k",
            "4K",
            "64M",
            "99999999TiB",
            "1 2",
        ] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_printed_size_reads_back() {
        for bytes in [0, 1, 512, 1000, 4096, 5000, 64 << 20, 64_000_000, u64::MAX] {
            assert_eq!(Size(bytes).to_string().parse(), Ok(Size(bytes)));
        }
        assert_eq!(Size(64 << 20).to_string(), "64MiB");
        assert_eq!(Size(64_000_000).to_string(), "64MB");
        assert_eq!(about(1536), "1.50 KiB");
        assert_eq!(about(64 << 20), "64 MiB");
    }

    #[test]
    fn times_mean_what_they_say() {
        assert_eq!(parse_time("2s"), Ok(Duration::from_secs(2)));
        assert_eq!(parse_time("0.5s"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_time("50us"), Ok(Duration::from_micros(50)));
        assert_eq!(parse_time("1m"), Ok(Duration::from_secs(60)));
        for text in ["", "2", "s", "-1s", "2 weeks", "1e99s", "nans", "infs"] {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }

    #[test]
    fn numbers_for_people() {
        assert_eq!(us(12_345), "12.3");
        assert_eq!(us(1_234_567), "1235");
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert!((gib_per_s(1 << 30, 2.0) - 0.5).abs() < 1e-9);
    }
}
