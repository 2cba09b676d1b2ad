//! What RDMA devices there are: the ibverbs crate lists them, rdma-sys says what each can do, sysfs knows the rest.

use std::ffi::CStr;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;

use rdma_sys as sys;

/// An RDMA device.
#[derive(Debug)]
pub struct Found {
    /// Its name: `mlx5_0`, `rxe0`.
    pub name: String,
    /// The NUMA node it sits at, if the system says.
    pub numa_node: Option<u32>,
    /// What was asked of it, or why it could not be.
    pub ability: io::Result<Ability>,
}

/// What a device can do. Counts are per device unless they say otherwise.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ability {
    /// Version of its firmware, or nothing.
    pub firmware: String,
    /// False for iWARP, which NVMe/RDMA here does without.
    pub infiniband: bool,
    /// Queue pairs.
    pub qps: u32,
    /// Work requests of a queue.
    pub qp_wrs: u32,
    /// Pieces of memory of a work request.
    pub sges: u32,
    /// Completion queues.
    pub cqs: u32,
    /// Entries of a completion queue.
    pub cqes: u32,
    /// Memory regions.
    pub mrs: u32,
    /// Bytes of a memory region.
    pub mr_len: u64,
    /// READs that a queue pair may have out.
    pub reads_out: u32,
    /// READs that a queue pair serves at a time.
    pub reads_in: u32,
    /// A message may invalidate a key of its receiver (SEND_WITH_INV).
    pub remote_invalidate: bool,
    /// It is soft-RoCE (rxe), which writes the kernel's flags into users' completions.
    pub soft: bool,
    /// Memory windows of type 2, which a host grants its memory by.
    pub windows: bool,
    /// Its ports.
    pub ports: Vec<Port>,
}

/// A port of a device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Port {
    /// From 1 on.
    pub number: u8,
    /// True if packets can be sent.
    pub active: bool,
    /// State of the port, in words.
    pub state: &'static str,
    /// True for Ethernet (RoCE), false for InfiniBand.
    pub ethernet: bool,
    /// Bytes of a packet's payload, now and at most.
    pub mtu: u32,
    /// See `mtu`.
    pub mtu_max: u32,
    /// Speed in tenths of a Gb/s, 0 if unknown.
    pub decigbits: u32,
    /// The GIDs that are set.
    pub gids: Vec<Gid>,
}

/// An address of a port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Gid {
    /// Its place in the port's table.
    pub index: u32,
    /// The address. RoCE's are IP addresses.
    pub address: IpAddr,
    /// `RoCE v2`, `RoCE v1` or `IB`.
    pub kind: String,
    /// The network interface, for RoCE.
    pub netdev: String,
}

/// Vendor that rxe calls itself (Linux, drivers/infiniband/sw/rxe/rxe_param.h).
const RXE_VENDOR_ID: u32 = 0xFF_FFFF;

/// Broadcom, whose kernel driver says that messages may invalidate keys, and whose library (bnxt_re of rdma-core before 47) has
/// no such message and refuses it. A host invalidates its keys itself then.
const BROADCOM_VENDOR_ID: u32 = 0x14E4;

/// The RDMA devices of this machine.
///
/// # Errors
/// Of ibv_get_device_list: ENOSYS where the kernel has no RDMA verbs.
pub fn devices() -> io::Result<Vec<Found>> {
    let list = ibverbs::devices()?;
    let found = list.iter().filter_map(|device| {
        let name = device.name()?.to_str().ok()?.to_owned();
        let numa_node = read(&sysfs(&name).join("device/numa_node"));
        Some(Found {
            numa_node: numa_node.and_then(|node| node.parse().ok()),
            ability: ability(&name),
            name,
        })
    });
    Ok(found.collect())
}

fn sysfs(name: &str) -> PathBuf {
    PathBuf::from("/sys/class/infiniband").join(name)
}

fn read(path: &PathBuf) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

/// Opens the device of this name for as long as it takes to ask it.
fn ability(name: &str) -> io::Result<Ability> {
    let mut count = 0;
    // SAFETY: the list is checked and freed below; its entries are valid until then, the context beyond that.
    unsafe {
        let list = sys::ibv_get_device_list(&raw mut count);
        if list.is_null() {
            return Err(io::Error::last_os_error());
        }
        let devices = std::slice::from_raw_parts(list, count as usize);
        let mut devices = devices.iter();
        let wanted = devices.find(|device| {
            CStr::from_ptr(sys::ibv_get_device_name(**device)).to_bytes() == name.as_bytes()
        });
        let context = match wanted {
            Some(device) => {
                let infiniband =
                    (**device).transport_type == sys::ibv_transport_type::IBV_TRANSPORT_IB;
                let context = sys::ibv_open_device(*device);
                if context.is_null() {
                    Err(io::Error::last_os_error())
                } else {
                    Ok((context, infiniband))
                }
            }
            None => Err(io::Error::from_raw_os_error(libc::ENODEV)),
        };
        sys::ibv_free_device_list(list);
        let (context, infiniband) = context?;
        let asked = ask(context, name, infiniband);
        sys::ibv_close_device(context);
        asked
    }
}

/// What a context says of its device.
///
/// # Safety
/// The context is open.
pub(super) unsafe fn ask(
    context: *mut sys::ibv_context,
    name: &str,
    infiniband: bool,
) -> io::Result<Ability> {
    // SAFETY: plain data, which the call below fills.
    let mut attr: sys::ibv_device_attr = unsafe { std::mem::zeroed() };
    // SAFETY: the context is open, the struct is ours.
    let status = unsafe { sys::ibv_query_device(context, &raw mut attr) };
    if status != 0 {
        return Err(io::Error::from_raw_os_error(status));
    }
    let has = |flag: sys::ibv_device_cap_flags| attr.device_cap_flags & flag.0 != 0;
    let count = |value: libc::c_int| value.max(0) as u32;
    let firmware: Vec<u8> = attr.fw_ver.iter().map(|c| *c as u8).collect();
    let firmware = CStr::from_bytes_until_nul(&firmware).unwrap_or_default();
    Ok(Ability {
        firmware: firmware.to_string_lossy().into_owned(),
        infiniband,
        qps: count(attr.max_qp),
        qp_wrs: count(attr.max_qp_wr),
        // READs may be allowed fewer; a device that says 0 has no bound of their own.
        sges: match (count(attr.max_sge), count(attr.max_sge_rd)) {
            (all, 0) => all,
            (all, reads) => all.min(reads),
        },
        cqs: count(attr.max_cq),
        cqes: count(attr.max_cqe),
        mrs: count(attr.max_mr),
        mr_len: attr.max_mr_size,
        reads_out: count(attr.max_qp_init_rd_atom),
        reads_in: count(attr.max_qp_rd_atom),
        remote_invalidate: has(sys::ibv_device_cap_flags::IBV_DEVICE_MEM_MGT_EXTENSIONS)
            && attr.vendor_id != BROADCOM_VENDOR_ID,
        soft: attr.vendor_id == RXE_VENDOR_ID,
        windows: has(sys::ibv_device_cap_flags::IBV_DEVICE_MEM_WINDOW_TYPE_2B),
        ports: (1..=attr.phys_port_cnt)
            // SAFETY: as above.
            .map(|number| unsafe { port(context, name, number) })
            .collect::<io::Result<_>>()?,
    })
}

/// # Safety
/// The context is open.
unsafe fn port(context: *mut sys::ibv_context, name: &str, number: u8) -> io::Result<Port> {
    // SAFETY: plain data, which the call below fills as far as the library knows it.
    let mut attr: sys::ibv_port_attr = unsafe { std::mem::zeroed() };
    // SAFETY: the context is open, the struct is ours.
    let status = unsafe { sys::___ibv_query_port(context, number, &raw mut attr) };
    if status != 0 {
        return Err(io::Error::from_raw_os_error(status));
    }
    let at = sysfs(name).join(format!("ports/{number}"));
    let gids = (0..attr.gid_tbl_len.max(0)).filter_map(|index| {
        let mut gid = sys::ibv_gid { raw: [0; 16] };
        // SAFETY: the context is open, the union is ours, and all of it is bytes.
        let raw = unsafe {
            if sys::ibv_query_gid(context, number, index, &raw mut gid) != 0 {
                return None;
            }
            gid.raw
        };
        if raw[8..] == [0; 8] {
            return None;
        }
        let text = |what: &str| {
            read(&at.join(format!("gid_attrs/{what}/{index}"))).unwrap_or_else(|| "-".into())
        };
        Some(Gid {
            index: index as u32,
            address: Ipv6Addr::from(raw).to_canonical(),
            kind: text("types"),
            netdev: text("ndevs"),
        })
    });
    let bytes = |mtu: sys::ibv_mtu::Type| {
        if (1..=5).contains(&mtu) {
            128 << mtu
        } else {
            0
        }
    };
    Ok(Port {
        number,
        active: attr.state == sys::ibv_port_state::IBV_PORT_ACTIVE,
        state: match attr.state {
            1 => "down",
            2 => "initialising",
            3 => "armed",
            4 => "active",
            _ => "not usable",
        },
        ethernet: attr.link_layer == 2,
        mtu: bytes(attr.active_mtu),
        mtu_max: bytes(attr.max_mtu),
        decigbits: decigbits(attr.active_width, attr.active_speed),
        gids: gids.collect(),
    })
}

/// Lanes times speed of a lane; both are codes of InfiniBand's PortInfo (LinkWidthActive, LinkSpeedActive and its
/// extensions, as `ibv_devinfo` prints them).
fn decigbits(width: u8, speed: u8) -> u32 {
    let lanes = match width {
        1 => 1,
        2 => 4,
        4 => 8,
        8 => 12,
        16 => 2,
        _ => 0,
    };
    let lane = match speed {
        1 => 25,
        2 => 50,
        4 | 8 => 100,
        16 => 140,
        32 => 250,
        64 => 500,
        128 => 1000,
        _ => 0,
    };
    lanes * lane
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_are_lanes_times_lane() {
        assert_eq!(decigbits(2, 32), 1000);
        assert_eq!(decigbits(1, 1), 25);
        assert_eq!(decigbits(3, 1), 0);
    }

    #[test]
    fn a_machine_without_rdma_is_no_accident() {
        match devices() {
            Ok(_) => {}
            Err(why) => assert_eq!(why.raw_os_error(), Some(libc::ENOSYS), "{why}"),
        }
    }
}
