//! The simulation, briefly: the same seed is the same run, and no seed fails. `sim --seeds 10000` is the
//! long form.

use std::io::Write;
use std::process::Command;

fn sim(args: &[&str]) -> (bool, String) {
    let out = Command::new(env!("CARGO_BIN_EXE_sim"))
        .args(args)
        .output()
        .expect("sim runs");
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    (out.status.success(), said)
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in ["1", "7", "23"] {
        let (fine, first) = sim(&["--seed", seed]);
        assert!(fine, "{first}");
        assert_eq!(sim(&["--seed", seed]), (true, first));
    }
}

#[test]
fn no_seed_fails() {
    let (fine, said) = sim(&["--seeds", "30"]);
    assert!(fine, "{said}");
}

#[test]
fn seeds_that_once_failed_do_not_fail_again() {
    for line in include_str!("sim-seeds.txt").lines() {
        if line.starts_with('#') {
            continue;
        }
        let (seed, bug) = line.split_once(' ').expect("a seed and what it showed");
        let (fine, said) = sim(&["--seed", seed]);
        assert!(fine, "{bug}: {said}");
    }
}

#[test]
fn planted_bugs_are_found() {
    let (fine, said) = sim(&["--self-test", "--seeds", "1000"]);
    assert!(fine, "{said}");
    assert!(said.lines().count() >= 10, "{said}");
}

/// What a capture of a gentle run and of a rough one is to Wireshark: NVMe over RDMA, and nothing that is wrong.
#[test]
fn what_is_sent_is_decoded_without_complaint() {
    let tshark = |file: &str, more: &[&str]| {
        let out = Command::new("tshark")
            .args(["-r", file])
            .args(more)
            .output();
        out.ok()
            .map(|out| String::from_utf8_lossy(&out.stdout).into_owned())
    };
    if Command::new("tshark").arg("--version").output().is_err() {
        // Past the harness, which keeps what tests print to itself.
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED: no tshark here; scripts/setup lab installs it"
        );
        return;
    }
    let mut nvme = 0;
    for seed in ["4", "6"] {
        let file = std::env::temp_dir().join(format!("sim-{}-{seed}.pcap", std::process::id()));
        let file = file.to_str().expect("a name in ASCII");
        let (fine, said) = sim(&["--seed", seed, "--pcap", file]);
        assert!(fine, "{said}");
        let wrong = "_ws.malformed || _ws.expert.severity >= 0x600000";
        let complaints = tshark(file, &["-Y", wrong]).expect("it runs");
        nvme += tshark(file, &["-Y", "nvme-rdma"])
            .expect("it runs")
            .lines()
            .count();
        std::fs::remove_file(file).expect("it was written");
        assert_eq!(complaints, "", "seed {seed}");
    }
    assert!(nvme > 100, "{nvme} packets are NVMe over RDMA");
}
