//! Runs that end before their time, and what is lost and comes back.

use crate::common::{Process, wait_for};
use crate::node::{Node, ferroce};

#[test]
fn a_crowd_is_connected_and_comes_back() {
    let node = Node::one();
    let pid = node.process.id().to_string();
    let value = node.measured(&["--crowd", "200", "--storms", "2", "--target-pid", &pid]);
    let crowd = &value["crowd"];
    assert_eq!(
        (&crowd["queues"], &crowd["hosts"]),
        (&200.into(), &4.into())
    );
    assert_eq!(
        crowd["storms_s"].as_array().map(Vec::len),
        Some(2),
        "{value}"
    );
    assert!(crowd["memory_with"].as_u64() > Some(0), "{value}");
    node.measured(&[]);
    node.refused(&["--crowd", "5000"], "ferroce: ");
}

#[test]
fn a_run_goes_on_after_the_connections_were_lost() {
    let node = Node::one();
    for shape in [
        &["--depth", "8"][..],
        &["--rate", "1k", "--queues", "2"],
        &["--verify", "--destroy-data"],
    ] {
        let host = ["--hostnqn", "nqn.2024-01.org.example:h"];
        let probe = [&["--time", "3s", "--reconnect", "--json"], &host[..], shape].concat();
        let probe = node.under_load(&probe);
        let cut = node.ctl(&["disconnect", "nqn.2024-01.org.example:h"]);
        assert!(cut.status.success());
        let output = probe.output();
        let value: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(value["reconnects"], 1, "{value}");
        assert_eq!(value["cut_short"], serde_json::Value::Null, "{value}");
        let wrong = value
            .get("blocks_wrong")
            .and_then(serde_json::Value::as_u64);
        assert_eq!(wrong, shape.contains(&"--verify").then_some(0), "{value}");
        assert!(value["longest_gap_ms"].as_f64() > Some(0.0), "{value}");
        // What was under way is lost, and said to be; nothing else failed.
        let errors = value["errors"].as_object().expect("errors");
        assert!(
            errors.keys().all(|kind| kind == "connection lost"),
            "{value}"
        );
        let commands = errors
            .values()
            .filter_map(|count| count.as_u64())
            .sum::<u64>();
        assert_eq!(output.status.success(), commands == 0);
    }
}

#[test]
fn a_node_that_goes_away_leaves_what_was_measured() {
    let mut node = Node::one();
    let probe = node.under_load(&["--time", "30s"]);
    node.process.kill().expect("kills");
    let output = probe.output();
    let (out, said) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(!output.status.success());
    assert!(out.contains("\nread "), "{out}");
    assert!(said.contains("ended after"), "{said}");
}

#[test]
fn a_run_that_was_cut_short_meets_no_objective() {
    let mut node = Node::one();
    let probe = node.under_load(&["--time", "30s", "--json", "--slo", "p99<60s"]);
    node.process.kill().expect("kills");
    let output = probe.output();
    assert_eq!(output.status.code(), Some(1));
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(value["slo"]["met"], false, "{value}");
    let why = value["slo"]["missed"][0].as_str().expect("a reason");
    assert!(why.contains("before its time"), "{why}");
}

#[test]
fn an_interrupt_shows_what_was_measured() {
    let node = Node::one();
    let probe = node.under_load(&["--time", "30s"]);
    probe.signal("INT");
    let output = probe.output();
    assert!(String::from_utf8_lossy(&output.stdout).contains("\nread "));
    assert!(String::from_utf8_lossy(&output.stderr).contains("interrupted"));
}

#[test]
fn a_crowd_that_is_lost_is_told_with_what_was_measured() {
    let mut node = Node::one();
    let mut command = ferroce();
    command.args([
        "probe",
        &node.url(),
        "--crowd",
        "10",
        "--time",
        "60s",
        "--json",
    ]);
    let probe = Process::piped(&mut command);
    wait_for("ten queues and their admin queue", || {
        let hosts = node.ctl(&["hosts", "--json"]);
        let hosts: Vec<serde_json::Value> = serde_json::from_slice(&hosts.stdout).expect("JSON");
        let crowd = |host: &serde_json::Value| host["queues"] == 11 && host["reads"] == 10;
        match hosts.iter().any(crowd) {
            true => Ok(()),
            false => Err(format!("{hosts:?}")),
        }
    });
    node.process.kill().expect("kills");
    let output = probe.output();
    assert_eq!(output.status.code(), Some(1));
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(value["crowd"]["queues"], 10, "{value}");
    let why = value["crowd"]["cut_short"].as_str().expect("a reason");
    assert!(why.contains("of 10 queues are lost"), "{why}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains(why), "{said}");
}
