//! The simulation, briefly: the same seed is the same run, and no seed fails. `sim --seeds 10000` is the
//! long form.

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
