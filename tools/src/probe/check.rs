//! What contradicts itself in the arguments, beyond what the command line's own rules say.

use ferroce_drivers::spec::Kind;

use super::drive::Place;
use crate::cli::{Pattern, ProbeArgs, Workload};
use crate::fail::{Result, fail};
use crate::node::cpus;

/// With `--verify`, and no word about writes: half and half.
const VERIFY_WRITES: u8 = 50;

/// Percentage of writes.
pub fn writes(args: &ProbeArgs) -> u8 {
    args.write
        .unwrap_or(if args.verify { VERIFY_WRITES } else { 0 })
}

/// The same of what it is measured against.
pub fn writes_against(args: &ProbeArgs) -> u8 {
    args.against_write.unwrap_or(writes(args))
}

/// Refuses flags that contradict each other, with the reason.
pub fn check(args: &ProbeArgs) -> Result<()> {
    if args.against_write.is_some() && args.against.is_none() {
        fail!("--against-write, but there is no other target: add --against, be it the same one");
    }
    let wish = match (args.verify, args.write, args.against_write) {
        (true, ..) => Some("--verify".to_owned()),
        (_, Some(percent), _) if percent > 0 => Some(format!("--write {percent}")),
        (.., Some(percent)) if percent > 0 => Some(format!("--against-write {percent}")),
        _ => None,
    };
    match (&wish, args.destroy_data) {
        (Some(wish), false) => {
            fail!("{wish} overwrites the namespace: add --destroy-data if nothing on it is needed")
        }
        (None, true) => {
            fail!("--destroy-data, but nothing writes: add --write PERCENT or --verify")
        }
        _ => (),
    }
    if let Some(Place::Drive(device)) = &args.url
        && let Some(flag) = of_a_connection(args)
    {
        fail!(
            "{flag} is about a connection, and {} is a drive without one",
            device.text
        );
    }
    if args.verify && args.write == Some(0) {
        fail!(
            "--verify and --write 0 contradict each other: only what was written can be verified"
        );
    }
    if args.verify && args.pattern == Pattern::Objects {
        fail!(
            "--pattern objects and --verify contradict each other: parts of two objects may be one place"
        );
    }
    if args.verify {
        for (there, flag, why) in [
            (args.rate.is_some(), "--rate", "keeps all slots busy"),
            (args.baseline.is_some(), "--baseline", "looks at one target"),
            (args.against.is_some(), "--against", "looks at one target"),
        ] {
            if there {
                fail!("--verify and {flag} contradict each other: a run that verifies {why}");
            }
        }
    }
    if args.time.is_some_and(|time| time.is_zero()) {
        fail!("--time 0: there would be nothing to measure");
    }
    if args.workload == Some(Workload::ModelLoad) {
        for (there, flag) in [
            (args.time.is_some(), "--time"),
            (args.rate.is_some(), "--rate"),
            (args.verify, "--verify"),
        ] {
            if there {
                fail!(
                    "--workload model-load and {flag} contradict each other: it ends with the last byte"
                );
            }
        }
    }
    if args.verify && args.workload == Some(Workload::KvCache) {
        fail!(
            "--workload kv-cache and --verify contradict each other: parts of two objects may be one place"
        );
    }
    if args.arrival.is_some() && args.rate.is_none() && !args.sweep {
        fail!("--arrival, but a closed loop has no schedule: add --rate");
    }
    if args.sweep && args.workload == Some(Workload::ModelLoad) {
        fail!("--sweep and --workload model-load contradict each other: it has no rate");
    }
    if args.rounds.is_some() && args.baseline.is_none() && args.against.is_none() {
        fail!("--rounds, but there are no two targets to take turns: add --baseline or --against");
    }
    if let Some(cores) = &args.cores {
        cpus::of(cores)?;
    }
    for place in args.url.iter().chain(&args.against) {
        if let Place::Drive(device) = place
            && let Kind::File {
                path,
                size: Some(_),
            } = &device.spec.kind
            && !args.destroy_data
            && !path.exists()
        {
            fail!(
                "{}: there is no such file, and a run that only reads makes none; --destroy-data with --write lets it",
                device.text
            );
        }
    }
    if args.baseline_core.is_some() && matches!(args.baseline, Some(Some(_))) {
        fail!(
            "--baseline-core is for a raw server that is started here; the one at that URL was given its core by \
             `ferroce raw-server --core`"
        );
    }
    if let Some(pid) = args.target_pid
        && crate::usage::of_process(pid).is_none()
    {
        fail!(
            "--target-pid {pid}: there is no such process here, or the kernel does not tell its CPU time"
        );
    }
    if args.url.is_none() {
        let of_a_load = first([
            (args.time.is_some(), "--time"),
            (args.slo.is_some(), "--slo"),
            (args.rate.is_some(), "--rate"),
            (writes(args) > 0, "the writing flags"),
            (args.against.is_some(), "--against"),
            (args.target_pid.is_some(), "--target-pid"),
            (args.size.is_some(), "--size"),
        ]);
        if let Some(flag) = of_a_load.or_else(|| of_a_connection(args)) {
            fail!("--ceiling without a URL measures the probe alone: leave {flag} out");
        }
    }
    Ok(())
}

/// A flag that is given, and has a meaning for connections only.
fn of_a_connection(args: &ProbeArgs) -> Option<&'static str> {
    first([
        (args.baseline.is_some(), "--baseline"),
        (args.neighbour.is_some(), "--neighbour"),
        (args.crowd.is_some(), "--crowd"),
        (args.reconnect, "--reconnect"),
        (args.nsid.is_some(), "--nsid"),
        (args.hostnqn.is_some(), "--hostnqn"),
        (args.bind.is_some(), "--bind"),
        (args.dscp.is_some(), "--dscp"),
        (args.header_digest, "--header-digest"),
        (args.data_digest, "--data-digest"),
    ])
}

/// The first of these flags that is given.
fn first<const N: usize>(flags: [(bool, &'static str); N]) -> Option<&'static str> {
    let given = flags.into_iter().find(|(there, _)| *there);
    given.map(|(_, flag)| flag)
}
