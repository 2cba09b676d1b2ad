//! How much memory a node takes for data on its way, and how it is dealt to cores.

use std::fmt;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use ferroce_buf::{Class, Home, PageKind, Pool, Region, Want};
use ferroce_engine::core::LANDING;
use ferroce_engine::limits;

use crate::config::Config;
use crate::fail::{Context, Result, fail};
use crate::units::about;
use crate::url::Scheme;

/// What each core gets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    cores: usize,
    classes: Vec<Class>,
    /// For in-capsule data, and for RECVs: what is received moves on by an exchange of the two.
    landing: Vec<Class>,
    huge: bool,
    /// Devices reach it by themselves, through tables of addresses: large pages keep those short.
    for_devices: bool,
}

/// Sizes of buffers, and the share of the budget that each size gets, in sixteenths. Most commands
/// are small, most bytes are in large ones.
const SHARES: [(usize, usize); 4] = [
    (4096, 2),
    (16 * 1024, 3),
    (64 * 1024, 3),
    (limits::CHUNK_LEN as usize, 8),
];
/// The huge pages that vm.nr_hugepages counts.
const HUGE_PAGE: usize = 2 << 20;
/// In-capsule data lands in a buffer each until the drive has it.
const LANDING_MAX: usize = 2048;

/// The memory, mapped.
#[derive(Debug)]
pub struct Dealt {
    /// For each core.
    pub pools: Vec<(Pool, Pool)>,
    /// What they lie in, for drives that register it.
    pub regions: Vec<Arc<Region>>,
}

impl Plan {
    /// As configured, with or without hosts that come by RDMA.
    pub fn of(config: &Config, cores: usize, rdma: bool) -> Plan {
        let budget = config.memory.buffers.0 as usize;
        let count = |(size, share)| Class {
            size,
            count: budget / 16 * share / size,
        };
        let entries = match rdma {
            true => config.limits.rdma_entries as usize,
            false => 0,
        };
        let landing = Class {
            size: limits::IN_CAPSULE as usize,
            count: (config.limits.commands as usize).min(LANDING_MAX) + entries,
        };
        Plan {
            cores,
            classes: SHARES.map(count).to_vec(),
            landing: vec![landing],
            huge: config.memory.huge_pages,
            for_devices: config.has_drives_of_ours()
                || (config.listen.iter()).any(|url| match url.scheme {
                    Scheme::Verbs => true,
                    Scheme::Rdma => fs::read_dir("/sys/class/infiniband")
                        .is_ok_and(|mut devices| devices.next().is_some()),
                    _ => false,
                }),
        }
    }

    /// Bytes in all.
    pub fn bytes(&self) -> usize {
        self.cores * self.bytes_of_core()
    }

    fn bytes_of_core(&self) -> usize {
        [&self.classes, &self.landing]
            .map(|classes| Pool::bytes(classes))
            .iter()
            .sum()
    }

    /// Maps it all and deals it: for each core buffers for transfers, and for in-capsule data, on the NUMA node that these are
    /// the cores' of.
    pub fn map(&self, nodes: &[Option<u32>]) -> Result<Dealt> {
        let want = Want {
            huge: self.huge,
            locked: false,
        };
        refuse_if_short(self.bytes() as u64, "`buffers`")?;
        let parts: Vec<_> = (nodes.iter().enumerate())
            .map(|(core, node)| (core * self.bytes_of_core(), *node))
            .collect();
        let region = Region::map_on(self.bytes(), want, &parts).context(|| {
            format!(
                "{self}; make `buffers` or, with RDMA, `rdma-entries` smaller, or name fewer cores"
            )
        })?;
        if self.huge && self.for_devices && region.kind() == PageKind::Small {
            log::warn!("{}", no_huge_pages(self.bytes()));
        }
        let region = Arc::new(region);
        let deal = |core| {
            let start = core * self.bytes_of_core();
            let pool = Pool::new(region.clone(), start, Home::CORE, &self.classes);
            let start = start + Pool::bytes(&self.classes);
            let landing = Pool::new(region.clone(), start, LANDING, &self.landing);
            (pool, landing)
        };
        let pools = (0..self.cores).map(deal).collect();
        Ok(Dealt {
            pools,
            regions: vec![region.clone()],
        })
    }
}

/// What a missed wish for huge pages costs, and how it is granted.
fn no_huge_pages(bytes: usize) -> String {
    format!(
        "no free huge pages for {} of buffers, so devices reach them by pages of 4 KiB, which is slower: \
         `sysctl vm.nr_hugepages={}` (more if others use some) before the start, or huge-pages = false",
        about(bytes as u64),
        bytes.div_ceil(HUGE_PAGE)
    )
}

/// Refuses what would not fit into memory: the kernel would hand the pages out one by one and then
/// kill somebody for the last of them.
pub fn refuse_if_short(bytes: u64, what: &str) -> Result<()> {
    match available() {
        Some(there) if bytes > there => {
            fail!(
                "{what}: {} of memory are wanted, and {} are available",
                about(bytes),
                about(there)
            )
        }
        _ => Ok(()),
    }
}

/// Memory that can be had without pushing others out, as far as the system says: the machine's, and
/// that of the control group we are in.
pub fn available() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().ok()?;
    // Huge pages are set aside, and not counted as available.
    let huge = fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
    let huge: u64 = huge
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0);
    let machine = kib * 1024 + huge * (2 << 20);
    let group = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = group
        .lines()
        .find_map(|line| line.strip_prefix("0::/"))
        .unwrap_or_default();
    let groups = [
        Path::new("/sys/fs/cgroup").to_owned(),
        Path::new("/sys/fs/cgroup").join(own),
    ];
    let rooms = groups.iter().filter_map(|group| {
        let number = |name| {
            fs::read_to_string(group.join(name))
                .ok()?
                .trim()
                .parse::<u64>()
                .ok()
        };
        Some(number("memory.max")?.saturating_sub(number("memory.current")?))
    });
    rooms.chain([machine]).min()
}

/// What pages it got, for people.
pub fn pages(regions: &[Arc<Region>]) -> &'static str {
    match regions.first().map(|region| region.kind()) {
        Some(PageKind::Huge1G) => "pages of 1 GiB",
        Some(PageKind::Huge2M) => "pages of 2 MiB",
        Some(PageKind::Transparent) => "transparent huge pages",
        Some(PageKind::Small) | None => "pages of 4 KiB",
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (cores, each) = (self.cores, about(self.bytes_of_core() as u64));
        write!(
            f,
            "{} of buffers: {cores} x {each}",
            about(self.bytes() as u64)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_before_it_is_tried() {
        assert!(available().is_some_and(|bytes| bytes > 1 << 20));
        let said = refuse_if_short(1 << 60, "ram:1EiB")
            .expect_err("too much")
            .0;
        assert!(
            said.starts_with("ram:1EiB: ") && said.contains("available"),
            "{said}"
        );
    }

    #[test]
    fn a_missed_wish_for_huge_pages_says_how_many_are_needed() {
        let said = no_huge_pages((80 << 20) + 1);
        assert!(said.contains("vm.nr_hugepages=41`"), "{said}");
        let plan = |text: &str| {
            let text = format!("[[subsystem]]\nnamespace = [{{device=\"{text}\"}}]");
            Plan::of(&Config::parse(&text, "f.toml").expect("valid"), 1, false)
        };
        assert!(plan("nvme:3b:00.0").for_devices && !plan("ram:1MiB").for_devices);
    }

    #[test]
    fn every_core_has_its_own() {
        let plan = Plan::of(&Config::default(), 2, false);
        let mut pools = plan.map(&[None, Some(0)]).expect("there is memory").pools;
        assert_eq!(pools.len(), 2);
        let budget = Config::default().memory.buffers.0 as usize;
        assert!(
            Pool::bytes(&plan.classes) <= budget && Pool::bytes(&plan.classes) > budget / 10 * 9
        );
        let mut starts = std::collections::BTreeSet::new();
        for (pool, landing) in &mut pools {
            let (large, small) = (
                pool.take(limits::CHUNK_LEN as usize),
                landing.take(limits::IN_CAPSULE as usize),
            );
            let (large, small) = (large.expect("one is there"), small.expect("one is there"));
            assert!(starts.insert(large.as_ptr()) && starts.insert(small.as_ptr()));
            pool.put(large);
            landing.put(small);
        }
    }
}
