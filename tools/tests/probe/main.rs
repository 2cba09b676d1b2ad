//! The probe against a real node: what it measures, what it proves, and what it refuses.

#[path = "../common/mod.rs"]
mod common;
mod ends;
mod node;

use std::io::Write;
use std::net::TcpStream;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use common::{Process, run};
use ferroce_engine::host as nvme;
use ferroce_transport::host::{Controller, Data, Options};
use ferroce_wire::fabrics::Nqn;
use ferroce_wire::status::Status;
use node::{NQN, Node, ferroce};

#[test]
fn it_measures_reads_and_writes() {
    let node = Node::one();
    let reads = node.measured(&["--depth", "4", "--seed", "1"]);
    assert!(
        reads["read"]["ios"].as_u64().is_some_and(|ios| ios > 100),
        "{reads}"
    );
    assert!(reads.get("write").is_none());
    let latency = &reads["read"]["latency_us"];
    let at = |name: &str| latency[name].as_f64().expect("a number");
    assert!(at("min") <= at("p50") && at("p50") <= at("p99.99") && at("p99.99") <= at("max"));

    let mixed = node.measured(&[
        "--write",
        "50",
        "--destroy-data",
        "--queues",
        "3",
        "-b",
        "64KiB",
        "-p",
        "sequential",
    ]);
    let (reads, writes) = (&mixed["read"]["ios"], &mixed["write"]["ios"]);
    let share = writes.as_f64().expect("writes")
        / (writes.as_f64().unwrap_or(0.0) + reads.as_f64().expect("reads"));
    assert!((0.3..0.7).contains(&share), "{mixed}");
    assert_eq!(mixed["errors"], serde_json::json!({}));
}

#[test]
fn it_verifies_at_every_shape() {
    let node = Node::one();
    for shape in [
        &["-b", "512"][..],
        &["-b", "4KiB", "--queues", "2", "--depth", "128"],
        &["-b", "8KiB", "--header-digest", "--data-digest"],
        &["-b", "1MiB", "--depth", "4", "-p", "sequential"],
        &[
            "-b", "12KiB", "--size", "1MiB", "--write", "90", "--depth", "300",
        ],
        &[
            "-b", "16KiB", "--size", "48KiB", "--depth", "64", "--queues", "3",
        ],
    ] {
        let verified = node.measured(&[&["--verify", "--destroy-data"], shape].concat());
        assert!(
            verified["blocks_verified"]
                .as_u64()
                .is_some_and(|blocks| blocks > 0),
            "{shape:?}: {verified}"
        );
        assert_eq!(verified["blocks_wrong"], 0, "{shape:?}");
    }
}

/// Every key of a value and below it, but not of `errors`, whose keys are what targets say.
fn keys(value: &serde_json::Value, found: &mut std::collections::BTreeSet<String>) {
    match value {
        serde_json::Value::Object(map) => {
            for (key, value) in map {
                found.insert(key.clone());
                if key != "errors" {
                    keys(value, found);
                }
            }
        }
        serde_json::Value::Array(list) => list.iter().for_each(|value| keys(value, found)),
        _ => (),
    }
}

#[test]
fn the_json_is_described() {
    let node = Node::one();
    let pid = node.process.id().to_string();
    let mut found = std::collections::BTreeSet::new();
    for arguments in [
        &["--baseline", "--rounds", "5", "--target-pid", &pid][..],
        &[
            "--against",
            &node.url(),
            "--against-write",
            "9",
            "--destroy-data",
        ],
        &["--rate", "100,200", "--slo", "errors=0", "--ceiling"],
        &["--verify", "--destroy-data"],
        &["--neighbour", "2x2x64KiB", "--pattern", "objects"],
        &["--crowd", "70", "--storms", "1", "--target-pid", &pid],
        &["--sweep", "--slo", "p50<1s", "--depth", "4"],
    ] {
        let value = node.measured(arguments);
        assert_eq!(value["schema"], "ferroce-probe/1");
        keys(&value, &mut found);
    }
    let described = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/probe-json.md"))
        .expect("reads");
    let missing: Vec<_> = found
        .iter()
        .filter(|key| !described.contains(&format!("`{key}`")))
        .collect();
    assert!(
        missing.is_empty(),
        "not in tools/probe-json.md: {missing:?}"
    );
    for key in ["read", "write", "object", "low", "p99.9", "neighbour"] {
        assert!(found.contains(key), "{key} is never there");
    }
    let value = node.measured(&["--depth", "1000", "--queues", "2"]);
    let granted = serde_json::json!({ "queues": 2, "depth": 1000 });
    assert_eq!(value["granted"], granted);
}

#[test]
fn an_open_loop_sends_what_the_schedule_says() {
    let node = Node::one();
    // On a machine that is busy with other things, the last ones may be late.
    let due = |result: &serde_json::Value| {
        result["read"]["ios"].as_u64().expect("reads") + result["unsent"].as_u64().expect("a count")
    };
    let value = node.measured(&["--rate", "500", "--arrival", "fixed", "--queues", "2"]);
    assert_eq!(due(&value), 100, "{value}");
    let value = node.measured(&["--rate", "100,500", "--arrival", "fixed"]);
    let stages = value["stages"].as_array().expect("stages");
    let due: Vec<u64> = stages.iter().map(due).collect();
    assert_eq!(due, [20, 100], "{value}");
}

#[test]
fn a_baseline_and_another_target_take_turns_with_it() {
    let (node, other) = (Node::one(), Node::one());
    for against in [
        "--baseline".to_owned(),
        format!("--against={}", other.url()),
    ] {
        let value = node.measured(&[&against, "--rounds", "6", "--depth", "4"]);
        let name = if against == "--baseline" {
            "baseline"
        } else {
            "against"
        };
        for side in [&value, &value[name]] {
            assert!(
                side["read"]["ios"].as_u64().is_some_and(|ios| ios > 20),
                "{value}"
            );
        }
        let ratio = &value["comparison"][0]["read"]["p50"]["ratio"];
        let at = |name: &str| ratio[name].as_f64().expect("a number");
        assert!(at("low") <= at("high") && at("value") > 0.0, "{value}");
    }
    // Two loads on one target.
    let itself = format!("--against={}", node.url());
    let two = [&itself, "--against-write", "50"];
    node.refused(&two, "--against-write 50 overwrites the namespace");
    let value = node.measured(&[&two[..], &["--destroy-data", "--rounds", "6"]].concat());
    let writes = |side: &serde_json::Value| side["write"]["ios"].as_u64();
    assert_eq!(writes(&value), None, "{value}");
    assert!(writes(&value["against"]) > Some(0), "{value}");
    let ratio = &value["comparison"][0]["all"]["iops"]["ratio"];
    assert!(ratio["median"].as_f64() > Some(0.0), "{value}");
    // A raw server that runs already, and one that is no raw server.
    let mut command = ferroce();
    command
        .args(["raw-server", "--listen", "tcp://127.0.0.1:0"])
        .args(["--size", "16MiB"])
        .stdout(Stdio::piped());
    let mut raw = Process::spawn(&mut command);
    let line = raw.stdout().until(|said| said.ends_with('\n'));
    let line = line.expect("it starts");
    let at = line.trim().rsplit_once(" at ").expect("it says where").1;
    let value = node.measured(&[
        &format!("--baseline={at}"),
        "--write",
        "50",
        "--destroy-data",
    ]);
    assert!(
        value["baseline"]["write"]["ios"].as_u64() > Some(0),
        "{value}"
    );
    drop(raw);
    node.refused(&[&format!("--baseline={}", other.url())], "raw server");
}

#[test]
fn an_objective_is_judged_by_the_status() {
    let node = Node::one();
    node.measured(&["--slo", "p99<60s,errors=0,iops>1"]);
    let output = node.probe(&["--time", "200ms", "--slo", "p50<1us,errors=0"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("p50 of reads is"), "{said}");
    assert!(!said.contains("errors"), "{said}");

    let sweep = node.measured(&["--sweep", "--slo", "p50<10ms", "--depth", "8"]);
    let highest = sweep["sweep"]["highest"]
        .as_f64()
        .expect("some rate is kept");
    assert!(highest > 1.0, "{sweep}");
    let output = node.probe(&["--time", "50ms", "--sweep", "--slo", "p50<1us"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
}

#[test]
fn the_status_is_told_where_nothing_can_be_written() {
    let node = Node::one();
    let full = || std::fs::File::options().write(true).open("/dev/full");
    let full = || Stdio::from(full().expect("Linux has it"));
    for (stdout, status) in [(Stdio::null(), 3), (full(), 1)] {
        let mut command = ferroce();
        command.args(["probe", &node.url(), "--time", "50ms", "--slo", "p50<1us"]);
        let mut probe = Process::spawn(command.stdout(stdout).stderr(full()));
        assert_eq!(probe.ended().code(), Some(status));
    }
}

#[test]
fn workloads_do_what_they_say() {
    let node = Node::one();
    let embedding = node.measured(&["--workload", "embedding"]);
    assert_eq!(embedding["run"]["block_size"], 4096);
    let kv = node.measured(&["--workload", "kv-cache"]);
    assert!(kv["object"]["ios"].as_u64() > Some(0), "{kv}");
    let output = node.probe(&["--json", "--workload", "model-load", "--queues", "2"]);
    let load: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(load["read"]["bytes"], 16 << 20, "{load}");
    // All of it, written and read, where that is no whole number of commands.
    let node = Node::serve(&["--device", "ram:10004KiB"]);
    for (more, read) in [
        (&["--write", "100", "--destroy-data"][..], 10_004 << 10),
        (&["--queues", "3"], 10_004 << 10),
        (&["--size", "1025000"], 1_024_000),
        (&["--size", "1050000"], 1_048_576),
    ] {
        let workload = ["--json", "--workload", "model-load"];
        let output = node.probe(&[&workload[..], more].concat());
        let load: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let bytes = |flow: &str| load[flow]["bytes"].as_u64().unwrap_or(0);
        assert_eq!(bytes("read") + bytes("write"), read, "{load}");
        assert_eq!(output.status.code(), Some(0), "{load}");
    }
}

/// The target's disk is full from 4 MiB on: whoever looks sees what failed and why, and what was measured.
#[test]
fn a_full_disk_loses_no_result() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = dir.path().join("disk");
    let file = std::fs::File::create(&disk).expect("creates");
    file.set_len(16 << 20).expect("grows");
    let device = format!("file:{}", disk.display());
    // A limit on the size of files (here of 8,192 times 512 bytes) stands for the disk's end; the signal that goes
    // with it is none of a full disk.
    let mut limited = Command::new("sh");
    limited.args(["-c", "trap '' XFSZ; ulimit -f 8192; exec \"$0\" \"$@\""]);
    limited.arg(env!("CARGO_BIN_EXE_ferroce"));
    let node = Node::serve_by(limited, &["--device", &device, "--nqn", NQN]);
    let writes = &[
        "--time",
        "300ms",
        "--json",
        "--write",
        "50",
        "--destroy-data",
    ];
    let output = node.probe(writes);
    assert!(!output.status.success());
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let errors = value["errors"].as_object().expect("errors");
    assert!(
        errors.keys().any(|kind| kind.contains("Capacity Exceeded")),
        "{value}"
    );
    assert!(value["write"]["ios"].as_u64() > Some(0), "{value}");

    let full = std::fs::File::options()
        .write(true)
        .open("/dev/full")
        .expect("opens");
    let mut command = ferroce();
    command
        .args(["probe", &node.url(), "--time", "200ms"])
        .stdout(full)
        .stderr(Stdio::piped());
    let output = Process::spawn(&mut command).output();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(
        said.contains("No space left") && said.contains("read "),
        "{said}"
    );
}

/// Figures beside those of a target that fails are no comparison.
#[test]
fn what_fails_beside_it_is_told_by_the_status() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = dir.path().join("disk");
    let file = std::fs::File::create(&disk).expect("creates");
    file.set_len(16 << 20).expect("grows");
    let failing = Node::serve(&["--device", &format!("file:{}", disk.display())]);
    file.set_len(1 << 20).expect("shrinks");
    let against = format!("--against={}", failing.url());
    Node::one().refused(&[&against], "commands of other failed");
}

#[test]
fn contradictions_are_refused_with_the_reason() {
    let node = Node::one();
    for (arguments, why) in [
        (&["--verify"][..], "add --destroy-data"),
        (
            &["--verify", "--destroy-data", "--rate", "10"],
            "--rate contradict",
        ),
        (
            &["--verify", "--destroy-data", "--baseline"],
            "--baseline contradict",
        ),
        (&["--workload", "model-load"], "--time contradict"),
        (&["--arrival", "fixed"], "add --rate"),
        (&["--baseline=rdma://127.0.0.1:1"], "speaks plain TCP"),
        (&["--rounds", "5"], "add --baseline or --against"),
        (&["--against-write", "0"], "add --against"),
        (&["--against-write", "10"], "there is no other target"),
        (&["--cores", "1000"], "may not run on CPU 1000"),
        (
            &["--against", "file:/nowhere/disk,size=1MiB"],
            "a run that only reads makes none",
        ),
        (
            &["--baseline=tcp://127.0.0.1:1"],
            "raw-server --listen tcp://127.0.0.1:1` starts one",
        ),
        (
            &["--crowd", "2", "--pattern", "sequential"],
            "cannot be used with",
        ),
        (
            &["--baseline=tcp://127.0.0.1:1", "--baseline-core", "0"],
            "raw-server --core",
        ),
        (&["--target-pid", "4000000000"], "no such process"),
        (&["--neighbour", "1x1x1000"], "choose a multiple"),
    ] {
        node.refused(arguments, why);
    }
    // The probe alone has nothing that these could be about.
    for (arguments, why) in [
        (&["--slo", "p99<1us"][..], "leave --slo out"),
        (&["--rate", "10"], "leave --rate out"),
        (&["--time", "1s"], "leave --time out"),
        (&["--verify", "--destroy-data"], "writing flags out"),
        (&["--reconnect"], "leave --reconnect out"),
        (&["--nsid", "1"], "leave --nsid out"),
        (&["--block-size", "0"], "1 byte to 1GiB"),
        (&["--block-size", "4GiB", "--depth", "1"], "1 byte to 1GiB"),
    ] {
        let output = run(ferroce().args(["probe", "--ceiling"]).args(arguments));
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        assert!(said.contains(why), "{arguments:?}: {said}");
    }
    for (url, why) in [
        ("tcp://127.0.0.1:1", "nothing listens there"),
        (
            &format!("{}/nqn.2024-01.org.example:other", node.url()),
            "no subsystem of that name",
        ),
    ] {
        let output = run(ferroce().args(["probe", url]));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && said.contains(why),
            "{url}: {said}"
        );
    }
}

#[test]
fn somebodys_data_is_not_overwritten_without_force() {
    let node = Node::one();
    let mut gpt = vec![0; 1024];
    gpt[510..512].copy_from_slice(&[0x55, 0xAA]);
    gpt[512..520].copy_from_slice(b"EFI PART");
    node.write(0, gpt);
    node.refused(&["--verify", "--destroy-data"], "GPT partition table");
    node.refused(&["--write", "1", "--destroy-data"], "nothing was written");
    let itself = format!("--against={}", node.url());
    let beside = [&itself, "--against-write", "1", "--destroy-data"];
    node.refused(&beside, "nothing was written");
    node.measured(&[]);
    node.measured(&["--verify", "--destroy-data", "--force"]);
}

#[test]
fn it_says_what_to_choose() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("f.toml");
    let text = format!(
        "listen = [\"tcp://127.0.0.1:0\"]\nctl = \"{}\"\n\
         [[subsystem]]\nnqn = \"nqn.2024-01.org.example:a\"\n\
         namespace = [{{ device = \"ram:1MiB\" }}, {{ device = \"ram:1MiB\", read-only = true }}]\n\
         [[subsystem]]\nnqn = \"nqn.2024-01.org.example:b\"\nallow = [\"nqn.2024-01.org.example:h\"]\n\
         namespace = [{{ device = \"ram:1MiB\" }}]\n\
         [[subsystem]]\nnqn = \"nqn.2024-01.org.example:c\"\n",
        dir.path().join("ctl.sock").display()
    );
    std::fs::write(&file, text).expect("writes");
    let mut command = ferroce();
    command.args(["serve", "--config"]).arg(&file);
    let node = Node::spawn(command, dir);

    node.refused(&[], "several subsystems");
    let at = |nqn: &str, arguments: &[&str]| {
        let url = format!("{}/nqn.2024-01.org.example:{nqn}", node.url());
        let mut command = ferroce();
        command.args(["probe", &url, "--time", "100ms"]);
        let output = run(command.args(arguments));
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let said = |nqn: &str, arguments: &[&str], why: &str| {
        let (success, said) = at(nqn, arguments);
        assert!(
            !success && said.contains(why),
            "{nqn} {arguments:?}: {said}"
        );
    };
    said("a", &[], "choose with --nsid: 1, 2");
    said("a", &["--nsid", "3"], "there is 1, 2");
    said(
        "a",
        &["--nsid", "2", "--verify", "--destroy-data"],
        "read-only",
    );
    said("b", &[], "refused");
    said("c", &[], "no namespace");
    said("d", &[], "refused");
    assert!(at("a", &["--nsid", "2"]).0);
    let (success, why) = at("b", &["--hostnqn", "nqn.2024-01.org.example:h"]);
    assert!(success, "{why}");
}

#[test]
fn changes_under_load_are_seen_and_hurt_nobody() {
    let node = Node::one();
    let ctl = |arguments: &[&str]| {
        let output = node.ctl(arguments);
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let probe = node.under_load(&["--time", "2s", "--verify", "--destroy-data", "--nsid", "1"]);
    assert!(ctl(&["hosts"]).contains(NQN));
    for _ in 0..10 {
        ctl(&["add", "ram:1MiB", "--nsid", "5"]);
        ctl(&["resize", "5", "2MiB"]);
        ctl(&["resize", "1", "32MiB"]);
        ctl(&["resize", "1", "16MiB"]);
        ctl(&["remove", "5"]);
    }
    let output = probe.output();
    let out = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{out}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(out.contains("each was the last one acknowledged"), "{out}");
}

#[test]
fn a_host_can_be_disconnected_and_forbidden() {
    let node = Node::one();
    let ctl = |arguments: &[&str]| {
        let output = node.ctl(arguments);
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    };
    let host = "nqn.2024-01.org.example:h";
    for order in ["disconnect", "forbid"] {
        ctl(&["allow", host]);
        let probe = node.under_load(&["--time", "30s", "--hostnqn", host]);
        ctl(&[order, host]);
        let output = probe.output();
        assert!(
            String::from_utf8_lossy(&output.stderr).contains("ended after"),
            "{order}"
        );
    }
    node.refused(&["--hostnqn", host], "no subsystem that this host may see");
}

#[test]
fn a_file_serves_and_stays_what_it_was() {
    let dir = tempfile::tempdir().expect("a directory");
    let device = format!("file:{},size=16MiB", dir.path().join("disk").display());
    let arguments = ["--device", &device, "--nqn", NQN];
    let mut node = Node::serve(&arguments);
    for shape in [&["-b", "4KiB"][..], &["-b", "128KiB", "--depth", "8"]] {
        let verified = node.measured(&[&["--verify", "--destroy-data"], shape].concat());
        assert_eq!(verified["blocks_wrong"], 0, "{shape:?}");
    }
    let uuid = |node: &Node| {
        let output = node.ctl(&["show", "--json"]);
        let value: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        value["subsystems"][0]["namespaces"][0]["uuid"].to_string()
    };
    let before = uuid(&node);

    let mut second = ferroce();
    second
        .args(["serve", "--listen", "tcp://127.0.0.1:0", "--device"])
        .args([&device, "--ctl"])
        .arg(dir.path().join("other.sock"));
    let output = run(&mut second);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains("disk: "),
        "{said}"
    );

    node.process.kill().expect("kills");
    node.process.ended();
    let node = Node::serve(&arguments);
    assert_eq!(uuid(&node), before, "a file keeps its identity");
}

#[test]
fn a_drive_comes_and_goes_under_load() {
    let node = Node::one();
    let disk = node.dir.path().join("disk");
    for device in [
        format!("file:{},size=8MiB", disk.display()),
        "ram:8MiB".into(),
    ] {
        for _ in 0..3 {
            assert!(node.ctl(&["add", &device, "--nsid", "2"]).status.success());
            let probe = node.under_load(&["--nsid", "2", "--time", "20s"]);
            let removed = node.ctl(&["remove", "2"]);
            assert!(
                removed.status.success(),
                "{}",
                String::from_utf8_lossy(&removed.stderr)
            );
            // It is to meet the refusal before it is told to end.
            std::thread::sleep(Duration::from_millis(300));
            probe.signal("INT");
            let output = probe.output();
            let out = String::from_utf8_lossy(&output.stdout);
            assert!(out.contains("Invalid Namespace"), "{device}: {out}");
        }
    }
    node.measured(&["--nsid", "1"]);
}

#[test]
fn rude_peers_leave_it_serving() {
    let node = Node::one();
    let connect = || TcpStream::connect(node.address).expect("is accepted");
    // Those that say nothing, or half a header, stay until they are thrown out.
    let mut half_open: Vec<TcpStream> = (0..200).map(|_| connect()).collect();
    for stream in half_open.iter_mut().step_by(2) {
        stream.write_all(&[0, 0, 128]).expect("writes");
    }
    let mut rng = fastrand::Rng::with_seed(1);
    for _ in 0..50 {
        let mut stream = connect();
        let noise: Vec<u8> = (0..20_000).map(|_| rng.u8(..)).collect();
        // It may hang up at any byte.
        let _ = stream.write_all(&noise);
    }
    for _ in 0..10_000 {
        drop(connect());
    }
    let verified = node.measured(&["--verify", "--destroy-data"]);
    assert_eq!(verified["blocks_wrong"], 0);
}

#[test]
fn the_demo_ends_in_a_table() {
    let output = run(ferroce().args(["demo", "--time", "100ms"]));
    let out = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{out}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    for line in [
        "each was the last one acknowledged",
        "NVMe/TCP",
        "NVMe/RDMA, in software at both ends",
        "4 KiB reads, 32 at a time",
        "ferroce serve",
    ] {
        assert!(out.contains(line), "`{line}` is missing:\n{out}");
    }
}

/// Over Ferroce's own RoCEv2, from another loopback address than the node's.
#[test]
fn rdma_is_measured_and_verified_and_compared() {
    let [_, b, c, d] = fastrand::u32(..).to_be_bytes();
    let at = format!("127.{b}.{c}.{}", d.clamp(3, 250));
    let roce = format!("roce://{at}:4420");
    let node = Node::serve(&[
        "--device",
        "ram:16MiB,block=512",
        "--nqn",
        NQN,
        "--listen",
        &roce,
    ]);
    let probe = |arguments: &[&str]| {
        let mut command = ferroce();
        command.args(["probe", &roce, "--json", "--time", "300ms"]);
        run(command.args(arguments))
    };
    let good = |output: Output| -> serde_json::Value {
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        serde_json::from_slice(&output.stdout).expect("JSON")
    };
    // In capsules and by READ, on two queues.
    for size in ["4KiB", "64KiB"] {
        let verify = [
            "--verify",
            "--destroy-data",
            "--force",
            "--queues",
            "2",
            "--depth",
            "4",
        ];
        let found = good(probe(&[&verify[..], &["--block-size", size]].concat()));
        let verified = found["blocks_verified"].as_u64();
        assert!(verified.is_some_and(|blocks| blocks > 0), "{found}");
    }
    good(probe(&["--against", &node.url(), "--depth", "2"]));
    for digest in ["--header-digest", "--data-digest"] {
        let refused = probe(&[digest]);
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(
            !refused.status.success() && said.contains("are of TCP"),
            "{said}"
        );
    }
    // Both ends need the port.
    let refused = probe(&["--bind", &at]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success(), "{said}");
    assert!(
        said.contains("port 4791") && said.contains("--bind"),
        "{said}"
    );
}

/// A drive of this machine: the same load without a fabric, its contents proved, and a node compared with it.
#[test]
fn a_drive_is_measured_without_a_fabric() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("disk");
    std::fs::write(&path, vec![0; 16 << 20]).expect("writes");
    let drive = format!("file:{}", path.display());
    let probe = |arguments: &[&str]| {
        let mut command = ferroce();
        command.args(["probe", &drive, "--time", "200ms", "--json"]);
        let output = run(command.args(arguments));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output, said)
    };
    let good = |arguments: &[&str]| -> serde_json::Value {
        let (output, said) = probe(arguments);
        assert!(output.status.success(), "{arguments:?}: {said}");
        serde_json::from_slice(&output.stdout).expect("JSON")
    };
    let reads = good(&["--queues", "2", "--depth", "8"]);
    assert!(
        reads["read"]["ios"].as_u64().is_some_and(|ios| ios > 10),
        "{reads}"
    );
    assert_eq!(reads["run"]["url"], drive.as_str());
    for shape in [["--block-size", "4KiB"], ["--block-size", "64KiB"]] {
        let verified = good(&[&["--verify", "--destroy-data", "--force"][..], &shape].concat());
        assert!(verified["blocks_verified"].as_u64() > Some(0), "{verified}");
        assert_eq!(verified["blocks_wrong"], 0);
    }
    good(&[
        "--rate",
        "200",
        "--write",
        "50",
        "--destroy-data",
        "--force",
    ]);

    let node = Node::one();
    let against = format!("--against={drive}");
    let value = node.measured(&[&against, "--rounds", "6", "--depth", "4"]);
    let row = &value["comparison"][0];
    for quantile in ["p50", "p99", "p99.9"] {
        let added = row["added_latency_us"]["read"][quantile].as_f64();
        assert_eq!(added, row["read"][quantile]["difference"]["value"].as_f64());
        assert!(added.is_some(), "{row}");
    }

    // What is there is not overwritten by mistake.
    let mut table = vec![0; 16 << 20];
    table[512..520].copy_from_slice(b"EFI PART");
    std::fs::write(&path, &table).expect("writes");
    for (arguments, why) in [
        (&["--write", "50"][..], "add --destroy-data"),
        (&["--write", "50", "--destroy-data"], "GPT partition table"),
        (&["--nsid", "1"], "drive without one"),
        (&["--reconnect"], "drive without one"),
        (&["--baseline"], "drive without one"),
        (&["--block-size", "1000"], "choose a multiple"),
        (&["--block-size", "1GiB"], "at most"),
    ] {
        let (output, said) = probe(arguments);
        assert!(!output.status.success(), "{arguments:?} went through");
        assert!(said.contains(why), "{arguments:?}: {said}");
    }
    assert!(std::fs::read(&path).expect("reads") == table, "unharmed");
    for (place, why) in [
        ("nvme:0000:7f:00.0", "no such PCI device"),
        ("nvme:7f", "0000:3b:00.0"),
        ("nvme:0000:7f:00.0,nsid=2", "namespace N of a drive"),
        ("drive", "nvme:0000:bb:dd.f"),
    ] {
        let output = run(ferroce().args(["probe", place]));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(why), "{said}");
    }
}

#[test]
fn a_node_takes_no_more_in_one_command_than_it_is_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("node.toml");
    let text = format!(
        "listen = [\"tcp://127.0.0.1:0\"]\nctl = {:?}\n[limits]\ntransfer = \"128KiB\"\n\
         [[subsystem]]\nnqn = \"{NQN}\"\nnamespace = [{{device = \"ram:16MiB\"}}]\n",
        dir.path().join("ctl.sock")
    );
    std::fs::write(&file, text).expect("written");
    let mut command = ferroce();
    command.args(["serve", "--config"]).arg(&file);
    let node = Node::spawn(command, dir);
    node.measured(&["--block-size", "128KiB"]);
    node.refused(&["--block-size", "256KiB"], "at most 128KiB in one command");
    let nqn = Nqn::new(NQN).expect("a name");
    let controller =
        Controller::connect(node.address, &nqn, &Options::default()).expect("connects");
    let mut queue = controller.queues(1, 8).expect("connects").remove(0);
    for (blocks, status) in [(32, Status::SUCCESS), (33, Status::INVALID_FIELD)] {
        let data = Data::Discard(blocks * 4096);
        let done = queue
            .exec(nvme::read(1, 0, blocks), data, "Read")
            .expect("is answered");
        assert_eq!(done.status().code(), status, "{blocks} blocks");
    }
}
