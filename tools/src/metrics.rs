//! What a node tells monitoring over HTTP: `/metrics` as Prometheus reads it, `/status` as JSON, `/log` as text.
//!
//! Everything is read from counters that the cores write anyway; no core hears of it.

mod http;
mod series;

use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use ferroce_engine::counters::Counters;
use ferroce_engine::phases::{CountsView, Phase};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeLabelSet, MetricEncoder,
    NoLabelSet, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use crate::ctl::protocol::HealthView;
use crate::fail::{Context, Fail, Result, cannot_listen};
use crate::journal;
use crate::node::Handle;
use series::{Name, Operations, SECONDS};

/// A listener that nobody answers at yet.
#[derive(Debug)]
pub struct Place {
    listener: TcpListener,
    /// Where it listens, with the port that was really taken.
    pub address: SocketAddr,
}

impl Place {
    /// Takes the address.
    pub fn open(address: SocketAddr) -> Result<Place> {
        let what = || format!("cannot serve metrics at {address}");
        let listener = TcpListener::bind(address)
            .map_err(|cause| Fail(format!("{}: {cause}; {}", what(), cannot_listen(&cause))))?;
        listener.set_nonblocking(true).context(what)?;
        let address = listener.local_addr().context(what)?;
        Ok(Place { listener, address })
    }

    /// Answers from a thread of its own, for as long as the process lives.
    pub fn answer(self, node: Arc<Handle>) -> Result<()> {
        let mut registry = Registry::with_prefix("ferroce");
        registry.register_collector(Box::new(Metrics(node.clone())));
        let pages = move |path: &str| match path {
            "/metrics" => {
                let mut page = String::new();
                // Writing to a String does not fail.
                text::encode(&mut page, &registry).ok()?;
                const TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                Some((TYPE, page))
            }
            "/status" => Some(("application/json", status(&node))),
            "/log" => Some(("text/plain; charset=utf-8", journal::text())),
            "/" => Some(("text/plain", "/metrics\n/status\n/log\n".into())),
            _ => None,
        };
        http::serve(self.listener, pages)
    }
}

fn status(node: &Handle) -> String {
    let status = node.view().map(|view| {
        serde_json::json!({
            "node": view,
            "hosts": node.hosts().unwrap_or_default(),
            "io": series::all(node.cores()).iter().map(|(name, io)| io.summary(name)).collect::<Vec<_>>(),
        })
    });
    match status {
        Ok(status) => format!("{status:#}\n"),
        Err(Fail(why)) => format!("{}\n", serde_json::json!({ "failed": why })),
    }
}

/// The node as a source of metrics.
#[derive(Debug)]
struct Metrics(Arc<Handle>);

/// A metric of each core: its name, what it is, how it is read.
type OfCore = (&'static str, &'static str, fn(&Counters) -> u64);

const COUNTERS: &[OfCore] = &[
    ("core_reads", "Read commands completed without error", |c| {
        c.reads.get()
    }),
    (
        "core_writes",
        "Write commands completed without error",
        |c| c.writes.get(),
    ),
    ("core_read_bytes", "Bytes read", |c| c.read_bytes.get()),
    ("core_written_bytes", "Bytes written", |c| {
        c.written_bytes.get()
    }),
    (
        "core_waits",
        "Commands that waited for a buffer or for room at a drive",
        |c| c.waits.get(),
    ),
    ("core_connects", "Queues connected", |c| c.connects.get()),
    ("core_disconnects", "Queues that ended", |c| {
        c.connects.get().saturating_sub(c.queues.get())
    }),
    (
        "core_keep_alive_expiries",
        "Associations ended because the host was silent",
        |c| c.keep_alive_expiries.get(),
    ),
];

const GAUGES: &[OfCore] = &[
    ("core_queues", "Queues that are connected", |c| {
        c.queues.get()
    }),
    ("core_buffer_bytes", "Memory for data on its way", |c| {
        c.pool_bytes.get()
    }),
    (
        "core_buffer_used_bytes",
        "Memory for data on its way that is in use",
        |c| c.pool_out.get(),
    ),
    (
        "core_landing_bytes",
        "Memory for data that comes with commands",
        |c| c.landing_bytes.get(),
    ),
    (
        "core_landing_used_bytes",
        "Memory for data that comes with commands that is in use",
        |c| c.landing_out.get(),
    ),
];

/// A metric of each drive that has a SMART / Health log, likewise.
type OfDrive<T> = (&'static str, &'static str, fn(&HealthView) -> T);

const DRIVE_GAUGES: &[OfDrive<f64>] = &[
    (
        "drive_critical_warning",
        "Critical Warning of the drive's SMART / Health log: bits, 0 is none",
        |health| health.critical_warning.into(),
    ),
    (
        "drive_temperature_kelvin",
        "Composite temperature; 0 is unknown",
        |health| health.kelvin.into(),
    ),
    ("drive_spare_ratio", "Available spare, of 1", |health| {
        ratio(health.spare_percent)
    }),
    (
        "drive_spare_threshold_ratio",
        "Available spare below which the drive warns, of 1",
        |health| ratio(health.spare_threshold_percent),
    ),
    (
        "drive_used_ratio",
        "Endurance used; may exceed 1",
        |health| ratio(health.used_percent),
    ),
];

const DRIVE_COUNTERS: &[OfDrive<u64>] = &[
    (
        "drive_media_errors",
        "Media and data integrity errors in the drive's life",
        |health| health.media_errors,
    ),
    (
        "drive_error_log_entries",
        "Entries of the drive's Error Information log in its life",
        |health| health.error_log_entries,
    ),
    (
        "drive_unsafe_shutdowns",
        "Unexpected power losses in the drive's life",
        |health| health.unsafe_shutdowns,
    ),
    (
        "drive_power_on_seconds",
        "Time powered on in the drive's life",
        |health| health.power_on_hours.saturating_mul(3600),
    ),
];

/// Base units are what Prometheus wants, and a percentage is none.
fn ratio(percent: u8) -> f64 {
    f64::from(percent) / 100.0
}

impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        self.encode_node(&mut encoder)?;
        self.encode_drives(&mut encoder)?;
        self.encode_cores(&mut encoder)?;
        encode_io(&mut encoder, &series::all(self.0.cores()))
    }
}

impl Metrics {
    fn encode_node(&self, to: &mut DescriptorEncoder) -> fmt::Result {
        let mut build = begin(to, "build", "The program", MetricType::Info)?;
        build.encode_info(&[("version", env!("CARGO_PKG_VERSION"))])?;
        let name = "uptime_seconds";
        let mut uptime = begin(to, name, "Time since the start", MetricType::Gauge)?;
        uptime.encode_gauge(&(self.0.uptime_ns() as f64 * SECONDS))?;
        let help = "Commands answered with an error status";
        let mut errors = begin(to, "errors", help, MetricType::Counter)?;
        for (status, count) in self.0.errors() {
            counter(&mut errors, &[("status", status)], count)?;
        }
        let help = "Bytes of data that this program copied, and why";
        let mut copied = begin(to, "copied_bytes", help, MetricType::Counter)?;
        for (why, count) in self.0.copied() {
            counter(&mut copied, &[("why", why)], count)?;
        }
        Ok(())
    }

    fn encode_drives(&self, to: &mut DescriptorEncoder) -> fmt::Result {
        let drives = self.0.health();
        for (name, help, get) in DRIVE_GAUGES {
            let mut metric = begin(to, name, help, MetricType::Gauge)?;
            for (drive, health) in &drives {
                gauge(&mut metric, &[("drive", drive.as_str())], get(health))?;
            }
        }
        for (name, help, get) in DRIVE_COUNTERS {
            let mut metric = begin(to, name, help, MetricType::Counter)?;
            for (drive, health) in &drives {
                counter(&mut metric, &[("drive", drive.as_str())], get(health))?;
            }
        }
        Ok(())
    }

    fn encode_cores(&self, to: &mut DescriptorEncoder) -> fmt::Result {
        let cores = || self.0.cores().iter().enumerate();
        for (name, help, get) in COUNTERS {
            let mut metric = begin(to, name, help, MetricType::Counter)?;
            for (core, facts) in cores() {
                counter(&mut metric, &[("core", core)], get(&facts.counters))?;
            }
        }
        for (name, help, get) in GAUGES {
            let mut metric = begin(to, name, help, MetricType::Gauge)?;
            for (core, facts) in cores() {
                gauge(&mut metric, &[("core", core)], get(&facts.counters))?;
            }
        }
        let help = "Connections, with those that are no queues yet";
        let mut connections = begin(to, "core_connections", help, MetricType::Gauge)?;
        for (core, facts) in cores() {
            let count = facts.connections.load(Ordering::Relaxed) as u64;
            gauge(&mut connections, &[("core", core)], count)?;
        }
        for (transport, help) in [
            (
                "tcp",
                "TCP connections that did not end as they should, and why",
            ),
            (
                "rdma",
                "What RDMA counted: packets, and why some were dropped",
            ),
        ] {
            let mut metric = begin(to, transport, help, MetricType::Counter)?;
            for (core, facts) in cores() {
                let counts = (facts.transports.lock()).unwrap_or_else(PoisonError::into_inner);
                for (_, what, count) in counts.iter().filter(|(of, ..)| *of == transport) {
                    let labels = [("core", core.to_string()), ("what", (*what).to_owned())];
                    counter(&mut metric, &labels, *count)?;
                }
            }
        }
        let help =
            "What was counted of RDMA devices: ports that went down, peers that found no RECV";
        let mut devices = begin(to, "rdma_device", help, MetricType::Counter)?;
        for (device, what, count) in self.0.rdma_devices() {
            let labels = [("device", device), ("what", what.to_owned())];
            counter(&mut devices, &labels, count)?;
        }
        let help = "What was counted where requests for RoCE connections are heard";
        let mut requests = begin(to, "rdma_requests", help, MetricType::Counter)?;
        for (what, count) in self.0.requests() {
            counter(&mut requests, &[("what", what)], count)?;
        }
        let help = "Time at work (busy), polling with nothing to do (spinning), and asleep";
        let mut seconds = begin(to, "core_seconds", help, MetricType::Counter)?;
        for (core, facts) in cores() {
            for (state, ns) in self.0.spent(facts).by_name() {
                let labels = [("core", core.to_string()), ("state", state.to_owned())];
                counter(&mut seconds, &labels, ns as f64 * SECONDS)?;
            }
        }
        Ok(())
    }
}

/// What is told by host and namespace.
fn encode_io(to: &mut DescriptorEncoder, all: &[(Name, Operations)]) -> fmt::Result {
    let mut depth = begin(to, "io_depth", "Commands under way", MetricType::Gauge)?;
    for (name, io) in all {
        gauge(&mut depth, &name.labels_with(&[]), io.in_flight)?;
    }
    let mut bytes = begin(
        to,
        "io_bytes",
        "Bytes read and written",
        MetricType::Counter,
    )?;
    for (name, io) in all {
        for (operation, counts) in io.used() {
            let labels = name.labels_with(&[("operation", operation)]);
            counter(&mut bytes, &labels, counts.bytes)?;
        }
    }
    let help = "Time from a command's arrival to when its answer was sent";
    let mut seconds = begin(to, "io_seconds", help, MetricType::Histogram)?;
    for (name, io) in all {
        for (operation, counts) in io.used() {
            let labels = name.labels_with(&[("operation", operation)]);
            histogram(&mut seconds, &labels, counts, Phase::Total)?;
        }
    }
    let help = "The parts of that time: queue (before the drive), drive, send";
    let mut seconds = begin(to, "io_phase_seconds", help, MetricType::Histogram)?;
    for (name, io) in all {
        for (operation, counts) in io.used() {
            for phase in Phase::ALL
                .into_iter()
                .filter(|phase| *phase != Phase::Total)
            {
                let labels = [("operation", operation), ("phase", phase.name())];
                histogram(&mut seconds, &name.labels_with(&labels), counts, phase)?;
            }
        }
    }
    Ok(())
}

fn begin<'a>(
    to: &'a mut DescriptorEncoder,
    name: &'a str,
    help: &str,
    kind: MetricType,
) -> std::result::Result<MetricEncoder<'a>, fmt::Error> {
    to.encode_descriptor(name, help, None, kind)
}

fn counter(
    metric: &mut MetricEncoder,
    labels: &impl EncodeLabelSet,
    value: impl EncodeCounterValue,
) -> fmt::Result {
    let mut one = metric.encode_family(labels)?;
    one.encode_counter::<NoLabelSet, _, u64>(&value, None)
}

fn gauge(
    metric: &mut MetricEncoder,
    labels: &impl EncodeLabelSet,
    value: impl EncodeGaugeValue,
) -> fmt::Result {
    metric.encode_family(labels)?.encode_gauge(&value)
}

fn histogram(
    metric: &mut MetricEncoder,
    labels: &impl EncodeLabelSet,
    counts: &CountsView,
    phase: Phase,
) -> fmt::Result {
    let (sum, count, buckets) = series::histogram(counts, phase);
    let mut one = metric.encode_family(labels)?;
    one.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferroce_wire::log::SmartLog;
    use ferroce_wire::num::U128;

    #[test]
    fn what_is_counted_of_a_drive_is_what_its_log_says() {
        let smart = SmartLog {
            poh: U128::new(2),
            upl: U128::new(3),
            mdie: U128::new(4),
            nele: U128::new(5),
            ..SmartLog::default()
        };
        let health = HealthView::from(&smart);
        let counted = DRIVE_COUNTERS
            .iter()
            .map(|(name, _, get)| (*name, get(&health)));
        assert_eq!(
            Vec::from_iter(counted),
            [
                ("drive_media_errors", 4),
                ("drive_error_log_entries", 5),
                ("drive_unsafe_shutdowns", 3),
                ("drive_power_on_seconds", 7200),
            ]
        );
    }
}
