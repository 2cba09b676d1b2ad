//! The machine's RDMA devices, and what is missing where there are none.

use std::fmt::Write as _;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use ferroce_transport::rdma::verbs::inventory::{self, Ability, Found, Port};

use crate::config::{Config, DEFAULT_PATH};
use crate::fail::{Result, fail};
use crate::node::buffer_bytes;
use crate::units::about;

/// A paragraph for each device; then how much memory may be locked.
pub fn list() -> String {
    let mut out = String::new();
    match inventory::devices() {
        Ok(found) if !found.is_empty() => {
            found.iter().for_each(|device| tell(&mut out, device));
            out += &unknown(&found);
        }
        result => {
            let found = System::look();
            line(&mut out, &missing(result.err().as_ref(), &found));
            if found.verbs {
                out += &unknown(&[]);
            }
            return out;
        }
    }
    if !Path::new("/dev/infiniband/rdma_cm").exists() {
        line(
            &mut out,
            "  connections cannot be made: /dev/infiniband/rdma_cm is missing; as root: modprobe rdma_ucm",
        );
    }
    line(&mut out, &locked());
    out
}

/// The address to listen at for `DEVICE` or `DEVICE%INDEX`, the index of a GID. `None` if there is no device of that name,
/// and the text may well be something else.
///
/// # Errors
/// If there is the device and not the GID, with those there are.
pub fn address_of(text: &str) -> Result<Option<IpAddr>> {
    chosen(&inventory::devices().unwrap_or_default(), text)
}

/// The names of the devices, for people.
pub fn names() -> String {
    let found = inventory::devices().unwrap_or_default();
    match found.is_empty() {
        true => "there is none".into(),
        false => {
            let names: Vec<_> = found.iter().map(|device| device.name.as_str()).collect();
            names.join(", ")
        }
    }
}

/// A line for each device of the kernel's that is not seen here.
fn unknown(found: &[Found]) -> String {
    let kernels = std::fs::read_dir("/sys/class/infiniband");
    let kernels = kernels.into_iter().flatten().flatten();
    let kernels = kernels.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut out = String::new();
    for name in without_driver(kernels, found) {
        line(
            &mut out,
            &format!(
                "RDMA {name}: the kernel has it, and no driver here knows it, unless it is not passed into this container: install a \
                 newer ibverbs-providers (rdma-core); the static executable has its own, see README.md"
            ),
        );
    }
    out
}

/// Those of the kernel's devices that libibverbs does not see.
fn without_driver(kernels: impl Iterator<Item = String>, found: &[Found]) -> Vec<String> {
    let mut all: Vec<_> = kernels
        .filter(|name| !found.iter().any(|device| device.name == *name))
        .collect();
    all.sort();
    all
}

fn chosen(found: &[Found], text: &str) -> Result<Option<IpAddr>> {
    let (name, index) = match text.split_once('%') {
        Some((name, index)) => (name, Some(index)),
        None => (text, None),
    };
    let Some(device) = found.iter().find(|device| device.name == name) else {
        return Ok(None);
    };
    let ability = match &device.ability {
        Ok(ability) => ability,
        Err(why) => fail!("RDMA {name}: {}", trouble(why)),
    };
    // A connection leads to an address, which InfiniBand's GIDs are not; version 1 of RoCE has the same addresses, and is not
    // what connections are made by.
    let gids = ability.ports.iter().filter(|port| port.ethernet);
    let mut gids: Vec<_> = gids
        .flat_map(|port| &port.gids)
        .filter(|gid| gid.kind.contains("v2"))
        .collect();
    let there: Vec<_> = gids
        .iter()
        .map(|gid| format!("{} ({})", gid.index, gid.address))
        .collect();
    // Addresses of one link lead nowhere without its name, IPv4 is what most networks of storage have.
    gids.retain(|gid| !matches!(gid.address, IpAddr::V6(ip) if ip.is_unicast_link_local()));
    gids.sort_by_key(|gid| (gid.address.is_ipv6(), gid.index));
    let wanted = match index {
        None => gids.first(),
        Some(index) => gids
            .iter()
            .find(|gid| index.parse::<u32>().is_ok_and(|index| index == gid.index)),
    };
    match (wanted, there.is_empty()) {
        (Some(gid), _) => Ok(Some(gid.address)),
        (None, true) => fail!(
            "`{text}`: {name} has no address of RoCE version 2; give its network interface one, or name the address of the \
             interface where it is InfiniBand"
        ),
        (None, false) => fail!(
            "`{text}`: {name} has no such GID to listen at; of RoCE version 2 there are {}",
            there.join(", ")
        ),
    }
}

fn line(out: &mut String, text: &str) {
    writeln!(out, "{text}").expect("a String takes it");
}

fn tell(out: &mut String, device: &Found) {
    let node = device.numa_node;
    let node = node.map_or(String::new(), |node| format!(", NUMA node {node}"));
    match &device.ability {
        Ok(ability) => {
            let kind = match ability.infiniband {
                true if ability.soft => "soft-RoCE",
                true => "RoCE or InfiniBand",
                false => "iWARP, which is not supported",
            };
            line(out, &format!("RDMA {}: {kind}{node}", device.name));
            for port in &ability.ports {
                tell_port(out, port);
            }
            line(out, &limits(ability));
        }
        Err(why) => line(out, &format!("RDMA {}: {}", device.name, trouble(why))),
    }
}

/// Why a device that is there cannot be opened.
fn trouble(why: &io::Error) -> String {
    match why.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => {
            format!(
                "cannot be opened: {why}; be root, or of the group that has /dev/infiniband/uverbs*"
            )
        }
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => format!(
            "cannot be opened: {why}; in a container, /dev/infiniband must be passed in (docker run --device=/dev/infiniband)"
        ),
        Some(libc::ENOMEM) => format!("cannot be opened: {why}; {}", locked().trim_start()),
        _ => format!("cannot be opened: {why}"),
    }
}

fn tell_port(out: &mut String, port: &Port) {
    let speed = match port.decigbits {
        0 => String::new(),
        tenths => format!(", {}.{} Gb/s", tenths / 10, tenths % 10),
    };
    line(
        out,
        &format!(
            "  port {} is {}: {}{speed}, MTU {} of at most {}",
            port.number,
            port.state,
            if port.ethernet {
                "Ethernet"
            } else {
                "InfiniBand"
            },
            port.mtu,
            port.mtu_max
        ),
    );
    for gid in &port.gids {
        line(
            out,
            &format!(
                "    {:>3}  {:<8} {}  {}",
                gid.index, gid.kind, gid.netdev, gid.address
            ),
        );
    }
    if port.gids.is_empty() {
        line(
            out,
            "    no address: give the network interface one (ip addr add ADDRESS/24 dev INTERFACE)",
        );
    }
    if port.ethernet && port.active && port.mtu < 4096 && port.mtu_max >= 4096 {
        line(
            out,
            "    larger packets cost less: ip link set INTERFACE mtu 4200 or more gives MTU 4096, if the network carries it",
        );
    }
}

fn limits(ability: &Ability) -> String {
    format!(
        "  {} queue pairs of {} requests with {} pieces, {} completion queues of {}, {} memory regions, READs: {} out, {} in; \
         remote invalidation: {}, windows: {}",
        ability.qps,
        ability.qp_wrs,
        ability.sges,
        ability.cqs,
        ability.cqes,
        ability.mrs,
        ability.reads_out,
        ability.reads_in,
        if ability.remote_invalidate {
            "yes"
        } else {
            "no"
        },
        if ability.windows { "yes" } else { "no" },
    )
}

/// What devices may reach has to be locked: how much that is, as the configuration says, against how much may be.
fn locked() -> String {
    let path = Path::new(DEFAULT_PATH);
    let (whose, config) = match path.exists().then(|| Config::read(path)) {
        Some(Ok(config)) => (format!("the node of {DEFAULT_PATH}"), config),
        _ => ("`ferroce serve`".to_owned(), Config::default()),
    };
    match buffer_bytes(&config) {
        Ok(bytes) => locked_for(bytes, &whose),
        Err(why) => format!("  locked memory: {}", why.0),
    }
}

fn locked_for(wanted: u64, whose: &str) -> String {
    let limit = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let limit = limit
        .lines()
        .find_map(|line| line.strip_prefix("Max locked memory"));
    let soft = limit.and_then(|limit| limit.split_whitespace().next());
    match soft.map(str::parse::<u64>) {
        None | Some(Err(_)) => format!(
            "  locked memory: no limit; {whose} locks {} of buffers, and its RAM drives, for each device",
            about(wanted)
        ),
        Some(Ok(bytes)) => told_locked(bytes, wanted, whose),
    }
}

fn told_locked(limit: u64, wanted: u64, whose: &str) -> String {
    // In KiB, as `ulimit -l` has it, with room for what queue pairs have beside buffers.
    let enough = wanted.div_ceil(1024) + 64 * 1024;
    format!(
        "  locked memory: {} at most, unless the process has CAP_IPC_LOCK; {whose} locks {} of buffers, and its RAM drives, for \
         each device. {}",
        about(limit),
        about(wanted),
        match limit < wanted {
            true => format!(
                "That is too little: `ulimit -l {enough}` or more, or LimitMEMLOCK={enough}K of the service"
            ),
            false => "More: `ulimit -l`, or LimitMEMLOCK= of the service".to_owned(),
        }
    )
}

/// What the system has of RDMA where libibverbs sees no device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct System {
    /// The kernel knows a device.
    device: bool,
    /// Programs may talk to devices.
    verbs: bool,
    /// Drivers of libibverbs are installed.
    providers: bool,
}

impl System {
    fn look() -> System {
        let any = |folder: &str| {
            std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some())
        };
        System {
            device: any("/sys/class/infiniband"),
            verbs: any("/sys/class/infiniband_verbs"),
            providers: any("/etc/libibverbs.d"),
        }
    }
}

/// Why there is no device, and the command that changes it.
fn missing(why: Option<&io::Error>, system: &System) -> String {
    let none = "no RDMA device";
    let soft = "scripts/soft-roce up makes one of any network interface";
    match (why, system) {
        (
            _,
            System {
                device: true,
                verbs: false,
                ..
            },
        ) => {
            format!(
                "{none} for programs, although the kernel has one; as root: modprobe ib_uverbs rdma_ucm"
            )
        }
        (
            _,
            System {
                device: true,
                providers: false,
                ..
            },
        ) => {
            format!(
                "{none} for programs, although the kernel has one: its driver of libibverbs is missing; as root: apt-get \
                     install ibverbs-providers"
            )
        }
        (_, System { device: true, .. }) => format!(
            "{none} for this process, although the kernel has one; in a container, /dev/infiniband must be passed in"
        ),
        (Some(why), _) if why.raw_os_error() != Some(libc::ENOSYS) => format!("{none}: {why}"),
        _ => format!("{none}. NVMe/TCP needs none; {soft}, if the kernel has the module rdma_rxe"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_that_only_the_kernel_sees_are_named() {
        let kernels = ["mlx5_0", "rxe0", "bnxt_re1", "bnxt_re0"].map(String::from);
        let found = [device("rxe0", true, &[]), device("mlx5_0", true, &[])];
        let alone = without_driver(kernels.into_iter(), &found);
        assert_eq!(alone, ["bnxt_re0", "bnxt_re1"]);
    }

    fn device(name: &str, ethernet: bool, gids: &[(u32, &str, &str)]) -> Found {
        let gid = |(index, address, kind): &(u32, &str, &str)| inventory::Gid {
            index: *index,
            address: address.parse().expect("an address"),
            kind: (*kind).to_owned(),
            netdev: "eth0".into(),
        };
        let port = Port {
            number: 1,
            active: true,
            state: "active",
            ethernet,
            mtu: 4096,
            mtu_max: 4096,
            decigbits: 1000,
            gids: gids.iter().map(gid).collect(),
        };
        let ability = Ability {
            firmware: String::new(),
            infiniband: true,
            qps: 1,
            qp_wrs: 1,
            sges: 2,
            cqs: 1,
            cqes: 1,
            mrs: 1,
            mr_len: 1,
            reads_out: 1,
            reads_in: 1,
            remote_invalidate: true,
            soft: false,
            windows: true,
            ports: vec![port],
        };
        Found {
            name: name.into(),
            numa_node: None,
            ability: Ok(ability),
        }
    }

    #[test]
    fn a_device_stands_for_an_address_it_has() {
        let found = [
            device(
                "mlx5_0",
                true,
                &[
                    (0, "fe80::1", "IB/RoCE v1"),
                    (1, "fe80::1", "RoCE v2"),
                    (2, "10.0.0.5", "IB/RoCE v1"),
                    (3, "fd00::5", "RoCE v2"),
                    (4, "10.0.0.5", "RoCE v2"),
                ],
            ),
            device("mlx5_1", true, &[(0, "10.0.0.6", "IB/RoCE v1")]),
            device("ib0", false, &[(0, "fe80::2", "IB")]),
        ];
        let address = |text: &str| chosen(&found, text).map_err(|why| why.0);
        let is = |ip: &str| Ok(Some(ip.parse().expect("an address")));
        assert_eq!(address("mlx5_0"), is("10.0.0.5"));
        assert_eq!(address("mlx5_0%3"), is("fd00::5"));
        assert_eq!(address("mlx5_0%4"), is("10.0.0.5"));
        assert_eq!(address("mlx5_9"), Ok(None));
        assert_eq!(address("node-1"), Ok(None));
        // Version 1, another link's, not there, and no number.
        for text in ["mlx5_0%2", "mlx5_0%1", "mlx5_0%9", "mlx5_0%x"] {
            let why = address(text).expect_err(text);
            assert!(
                why.contains("1 (fe80::1), 3 (fd00::5), 4 (10.0.0.5)"),
                "{why}"
            );
        }
        for text in ["mlx5_1", "ib0"] {
            let why = address(text).expect_err(text);
            assert!(why.contains("has no address of RoCE version 2"), "{why}");
        }
    }

    #[test]
    fn what_is_missing_comes_with_its_command() {
        let system = |device, verbs, providers| System {
            device,
            verbs,
            providers,
        };
        let nosys = io::Error::from_raw_os_error(libc::ENOSYS);
        let perm = io::Error::from_raw_os_error(libc::EPERM);
        for (why, system, said) in [
            (Some(&nosys), system(false, false, true), "soft-roce up"),
            (None, system(false, true, true), "soft-roce up"),
            (
                Some(&nosys),
                system(true, false, true),
                "modprobe ib_uverbs",
            ),
            (None, system(true, true, false), "ibverbs-providers"),
            (None, system(true, true, true), "/dev/infiniband"),
            (Some(&perm), system(false, true, true), "not permitted"),
        ] {
            let text = missing(why, &system);
            assert!(text.contains(said), "{text}");
        }
    }

    #[test]
    fn a_device_is_told_with_ports_and_addresses() {
        let gid = inventory::Gid {
            index: 1,
            address: [10, 9, 0, 1].into(),
            kind: "RoCE v2".into(),
            netdev: "eth0".into(),
        };
        let port = Port {
            number: 1,
            active: true,
            state: "active",
            ethernet: true,
            mtu: 1024,
            mtu_max: 4096,
            decigbits: 1000,
            gids: vec![gid],
        };
        let mut text = String::new();
        tell_port(&mut text, &port);
        for said in [
            "port 1 is active: Ethernet, 100.0 Gb/s",
            "10.9.0.1",
            "mtu 4200",
        ] {
            assert!(text.contains(said), "{text}");
        }
    }

    #[test]
    fn locked_memory_that_is_too_little_comes_with_what_is_enough() {
        let text = told_locked(8 << 20, 100 << 20, "the node");
        for said in [
            "8 MiB at most",
            "the node locks 100 MiB",
            "`ulimit -l 167936`",
            "LimitMEMLOCK=167936K",
        ] {
            assert!(text.contains(said), "{text}");
        }
        let text = told_locked(1 << 30, 100 << 20, "the node");
        assert!(!text.contains("too little"), "{text}");
    }

    #[test]
    fn this_machine_can_be_asked() {
        let text = list();
        assert!(text.contains("RDMA"), "{text}");
    }
}
