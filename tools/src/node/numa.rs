//! NUMA: on a machine of several nodes a core had better run, and have its memory, where its drives are.
//!
//! A core that is pinned is on the node of its CPU. One that is not runs on all CPUs of a node that has drives, those in turn.
//! Its buffers and its queues at drives are on its node; where that has no memory left they are elsewhere, and nothing fails.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use ferroce_drivers::pci::{Address, Sysfs};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::config::Config;

/// The nodes of a machine, and the CPUs of each.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Nodes {
    cpus: BTreeMap<u32, BTreeSet<usize>>,
}

/// A drive that Ferroce drives itself, and its node, if the system knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Placed {
    /// What the operator called it.
    pub label: String,
    /// Its node.
    pub node: Option<u32>,
}

impl Nodes {
    /// Those of this machine.
    pub fn here() -> Nodes {
        Nodes::at(Path::new("/sys/devices/system/node"))
    }

    /// What a folder like that says; none if it says nothing.
    pub fn at(folder: &Path) -> Nodes {
        let mut nodes = Nodes::default();
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix("node"));
            let Some(node) = number.and_then(|number| number.parse().ok()) else {
                continue;
            };
            let list = fs::read_to_string(entry.path().join("cpulist")).unwrap_or_default();
            nodes.cpus.insert(node, cpus_of(&list));
        }
        nodes
    }

    /// True if it matters at all where things are.
    pub fn are_several(&self) -> bool {
        self.cpus.len() > 1
    }

    /// The node of a CPU.
    pub fn of_cpu(&self, cpu: usize) -> Option<u32> {
        let has = |(_, cpus): &(&u32, &BTreeSet<usize>)| cpus.contains(&cpu);
        self.cpus.iter().find(has).map(|(node, _)| *node)
    }

    /// The node of each core, given their CPUs and what drives there are. None of any where there is one node.
    pub fn of_cores(&self, cpus: &[Option<usize>], drives: &[Placed]) -> Vec<Option<u32>> {
        if !self.are_several() {
            return vec![None; cpus.len()];
        }
        // A node of memory alone runs nothing.
        let runs = |node: &u32| self.cpus.get(node).is_some_and(|cpus| !cpus.is_empty());
        let wanted: BTreeSet<u32> = drives.iter().filter_map(|drive| drive.node).collect();
        let mut turns = wanted.iter().copied().filter(runs).cycle();
        let of = |cpu: &Option<usize>| match cpu {
            Some(cpu) => self.of_cpu(*cpu),
            None => turns.next(),
        };
        cpus.iter().map(of).collect()
    }

    /// What is where, a line each; nothing where there is one node.
    pub fn said(&self, cores: &[Option<u32>], drives: &[Placed]) -> String {
        let mut out = String::new();
        if !self.are_several() {
            return out;
        }
        let known: BTreeSet<u32> = cores.iter().copied().flatten().collect();
        for node in &known {
            let of = |(index, at): (usize, &Option<u32>)| (*at == Some(*node)).then_some(index);
            let here: Vec<String> = (cores.iter().enumerate().filter_map(of))
                .map(|index| index.to_string())
                .collect();
            let drives: Vec<&str> = (drives.iter().filter(|drive| drive.node == Some(*node)))
                .map(|drive| drive.label.as_str())
                .collect();
            let _ = write!(
                out,
                "  NUMA node {node}: core {} with its buffers",
                here.join(",")
            );
            for drive in drives {
                let _ = write!(out, ", {drive}");
            }
            out.push('\n');
        }
        for Placed { label, node } in drives {
            match node {
                Some(node) if known.contains(node) => {}
                Some(node) => {
                    let _ = writeln!(
                        out,
                        "  NUMA node {node}: {label}, and no core; `cores` with CPUs of that node would be nearer"
                    );
                }
                None => {
                    let _ = writeln!(out, "  NUMA node not known: {label}");
                }
            }
        }
        out
    }

    /// The calling thread runs on this node from now on, on those of its CPUs where it may run.
    pub fn stay_on(&self, node: u32) {
        let (Ok(allowed), Some(cpus)) = (sched_getaffinity(None), self.cpus.get(&node)) else {
            return;
        };
        let mut here = CpuSet::new();
        for cpu in cpus.iter().filter(|cpu| **cpu < CpuSet::MAX_CPU) {
            if allowed.is_set(*cpu) {
                here.set(*cpu);
            }
        }
        if here.count() > 0
            && let Err(cause) = sched_setaffinity(None, &here)
        {
            log::debug!("a core cannot be kept on NUMA node {node}: {cause}");
        }
    }
}

/// The drives of a configuration that are driven by Ferroce itself.
pub fn drives(config: &Config, sysfs: &Sysfs) -> Vec<Placed> {
    let namespaces = config.subsystem.iter().flat_map(|one| &one.namespace);
    let nvme = namespaces.filter_map(|namespace| namespace.device.spec.nvme());
    nvme.map(|(address, config)| placed(address, config.label, sysfs))
        .collect()
}

fn placed(address: Address, label: String, sysfs: &Sysfs) -> Placed {
    let node = sysfs.numa_node(address);
    Placed { label, node }
}

/// `0-3,8` as numbers; what is no number is left out.
fn cpus_of(list: &str) -> BTreeSet<usize> {
    let mut cpus = BTreeSet::new();
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<usize>(), last.parse::<usize>()) {
            cpus.extend(first..=last.min(CpuSet::MAX_CPU));
        }
    }
    cpus
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two nodes with two CPUs each, and one of memory alone; and three drives, of which one does not say where it is.
    fn machine(dir: &Path) -> (Nodes, Sysfs) {
        for (node, cpus) in [("node0", "0-1\n"), ("node1", "2,3\n"), ("node2", "\n")] {
            let folder = dir.join("node").join(node);
            fs::create_dir_all(&folder).expect("made");
            fs::write(folder.join("cpulist"), cpus).expect("made");
        }
        fs::write(dir.join("node/possible"), "0-2\n").expect("made");
        for (address, node) in [
            ("0000:01:00.0", "0"),
            ("0000:81:00.0", "1"),
            ("0000:82:00.0", "-1"),
        ] {
            let folder = dir.join("pci/devices").join(address);
            fs::create_dir_all(&folder).expect("made");
            fs::write(folder.join("numa_node"), node).expect("made");
        }
        (Nodes::at(&dir.join("node")), Sysfs::at(dir.join("pci")))
    }

    fn config(drives: &[&str]) -> Config {
        let mut text = "listen = [\"tcp://127.0.0.1:0\"]\n[[subsystem]]\nnqn = \"nqn.2024-01.org.example:x\"\n".to_owned();
        for drive in drives {
            let _ = writeln!(text, "[[subsystem.namespace]]\ndevice = \"{drive}\"");
        }
        Config::parse(&text, "f.toml").expect("valid")
    }

    #[test]
    fn cores_go_where_the_drives_are() {
        let dir = tempfile::tempdir().expect("a directory");
        let (nodes, sysfs) = machine(dir.path());
        assert!(nodes.are_several());
        assert_eq!(
            [0, 1, 2, 3, 4].map(|cpu| nodes.of_cpu(cpu)),
            [Some(0), Some(0), Some(1), Some(1), None]
        );
        let far = drives(
            &config(&["ram:1MiB", "nvme:81:00.0", "nvme:82:00.0/1"]),
            &sysfs,
        );
        let labels = far.iter().map(|drive| (drive.label.as_str(), drive.node));
        assert!(labels.eq([
            ("nvme:0000:81:00.0", Some(1)),
            ("nvme:0000:82:00.0/1", None)
        ]));
        let both = drives(&config(&["nvme:01:00.0", "nvme:81:00.0"]), &sysfs);
        // Who names CPUs has them.
        assert_eq!(
            nodes.of_cores(&[Some(0), Some(3)], &far),
            [Some(0), Some(1)]
        );
        assert_eq!(nodes.of_cores(&[None, None], &far), [Some(1), Some(1)]);
        assert_eq!(
            nodes.of_cores(&[None, None, None], &both),
            [Some(0), Some(1), Some(0)]
        );
        assert_eq!(nodes.of_cores(&[None], &[]), [None]);
        let memory = Placed {
            label: "x".into(),
            node: Some(2),
        };
        assert_eq!(
            nodes.of_cores(&[None], &[memory]),
            [None],
            "nothing runs there"
        );
    }

    #[test]
    fn it_is_said_what_is_where() {
        let dir = tempfile::tempdir().expect("a directory");
        let (nodes, sysfs) = machine(dir.path());
        let both = drives(
            &config(&["nvme:01:00.0", "nvme:81:00.0", "nvme:82:00.0"]),
            &sysfs,
        );
        let said = nodes.said(&[Some(0), Some(0)], &both);
        assert_eq!(
            said.lines().collect::<Vec<_>>(),
            [
                "  NUMA node 0: core 0,1 with its buffers, nvme:0000:01:00.0",
                "  NUMA node 1: nvme:0000:81:00.0, and no core; `cores` with CPUs of that node would be nearer",
                "  NUMA node not known: nvme:0000:82:00.0",
            ]
        );
    }

    #[test]
    fn one_node_is_not_worth_a_word() {
        let dir = tempfile::tempdir().expect("a directory");
        let (_, sysfs) = machine(dir.path());
        fs::remove_dir_all(dir.path().join("node/node1")).expect("was there");
        fs::remove_dir_all(dir.path().join("node/node2")).expect("was there");
        for folder in ["node", "nothing"] {
            let nodes = Nodes::at(&dir.path().join(folder));
            let drives = drives(&config(&["nvme:81:00.0"]), &sysfs);
            assert_eq!(nodes.of_cores(&[Some(0), None], &drives), [None, None]);
            assert_eq!(nodes.said(&[None, None], &drives), "");
        }
    }

    #[test]
    fn a_thread_stays_where_it_may_run() {
        let thread = std::thread::spawn(|| {
            let allowed = sched_getaffinity(None).expect("asked");
            let first = (0..CpuSet::MAX_CPU)
                .find(|cpu| allowed.is_set(*cpu))
                .expect("one");
            let mut nodes = Nodes::default();
            nodes.cpus.insert(0, [first].into());
            nodes.cpus.insert(1, [CpuSet::MAX_CPU].into());
            nodes.stay_on(1);
            assert_eq!(
                sched_getaffinity(None),
                Ok(allowed),
                "it has to run somewhere"
            );
            nodes.stay_on(0);
            let now = sched_getaffinity(None).expect("asked");
            assert!(now.count() == 1 && now.is_set(first));
        });
        thread.join().expect("ends well");
    }
}
