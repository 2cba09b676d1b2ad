//! The Discovery log page (Base 5.1.12.3.1): each way from here to each subsystem the host may use.

use std::net::SocketAddr;

use ferroce_wire::Wire;
use ferroce_wire::discovery::{
    AdrFam, DiscoveryLogEntry, DiscoveryLogHeader, LSP_PORT_LOCAL, RdmaCms, RdmaPrType, RdmaQpType,
    RdmaTsas, SubType, TcpTsas, TrType,
};
use ferroce_wire::fabrics::CNTLID_DYNAMIC;
use ferroce_wire::num::U16;

use crate::controller::Association;
use crate::limits;
use crate::table::{Listener, Table, Transport};

/// How RDMA is reached here (NVMe/RDMA 3.1). PKEY is InfiniBand's alone.
const RDMA: RdmaTsas = RdmaTsas {
    rdma_qptype: RdmaQpType::RELIABLE_CONNECTED,
    rdma_prtype: RdmaPrType::ROCE_V2,
    rdma_cms: RdmaCms::RDMA_CM,
    rsvd3: [0; 5],
    rdma_pkey: U16::new(0),
    rsvd10: [0; 246],
};

/// What Supported Log Pages says of LSP: port local entries can be asked for (PLEOS). Extended
/// entries cannot, nor those of subsystems the host may not use.
pub(super) const LSP_SUPPORTED: u16 = LSP_PORT_LOCAL as u16;

/// The page as this host sees it.
pub(super) fn page(table: &Table, who: &Association, lsp: u8) -> Vec<u8> {
    let port_local = lsp & LSP_PORT_LOCAL != 0;
    let entries = entries(table, who, port_local);
    let header = DiscoveryLogHeader {
        genctr: table.generation.into(),
        numrec: (entries.len() as u64).into(),
        dlpf: match port_local {
            true => DiscoveryLogHeader::DLPF_PORT_LOCAL,
            false => 0,
        },
        ..DiscoveryLogHeader::default()
    };
    let mut page = header.as_bytes().to_vec();
    for entry in &entries {
        page.extend_from_slice(entry.as_bytes());
    }
    page
}

/// The entries this host sees; with `port_local`, those of the port it came to.
pub(super) fn entries(
    table: &Table,
    who: &Association,
    port_local: bool,
) -> Vec<DiscoveryLogEntry> {
    let mut entries = Vec::new();
    for listener in &table.listeners {
        let Some(address) = reachable(listener, who.local) else {
            continue;
        };
        let here = (listener.transport, address) == (who.transport, plain(who.local));
        if port_local && !here {
            continue;
        }
        entries.push(discovery_entry(table, listener, address, who));
        for subsystem in table.subsystems.values() {
            if subsystem.allows(&who.hostnqn) {
                let mut entry = entry(listener, address, &subsystem.nqn);
                entry.subtype = SubType::NVM;
                entries.push(entry);
            }
        }
    }
    entries
}

/// This discovery subsystem itself: by such an entry a host finds out that it may stay connected
/// (EPCSD), and that each of them tells the same (DUPRETINFO). They do not where one is at every address of a family: it is
/// named by that at which the host came.
fn discovery_entry(
    table: &Table,
    listener: &Listener,
    address: SocketAddr,
    who: &Association,
) -> DiscoveryLogEntry {
    let mut entry = entry(listener, address, &who.subnqn);
    entry.subtype = SubType::CURRENT_DISCOVERY;
    let anywhere = |listener: &Listener| listener.address.ip().is_unspecified();
    let same = match table.listeners.iter().any(anywhere) {
        true => 0,
        false => DiscoveryLogEntry::EFLAGS_DUPRETINFO,
    };
    entry.eflags = (same | DiscoveryLogEntry::EFLAGS_EPCSD).into();
    entry
}

fn entry(listener: &Listener, address: SocketAddr, nqn: &str) -> DiscoveryLogEntry {
    let (trtype, tsas) = match listener.transport {
        Transport::Tcp => (TrType::TCP, bytemuck::cast(TcpTsas::default())),
        Transport::Rdma => (TrType::RDMA, bytemuck::cast(RDMA)),
    };
    let mut entry = DiscoveryLogEntry {
        trtype,
        tsas,
        adrfam: match address {
            SocketAddr::V4(_) => AdrFam::IPV4,
            SocketAddr::V6(_) => AdrFam::IPV6,
        },
        // "Not specified", though "not required" is as true: hosts have taken that for a wish for TLS.
        treq: DiscoveryLogEntry::TREQ_NOT_SPECIFIED | DiscoveryLogEntry::TREQ_NO_SQ_FLOW_CONTROL,
        portid: listener.port_id.into(),
        cntlid: CNTLID_DYNAMIC.into(),
        asqsz: limits::ADMIN_DEPTH_MAX.into(),
        ..DiscoveryLogEntry::default()
    };
    for (place, byte) in entry.subnqn.iter_mut().zip(nqn.bytes()) {
        *place = byte;
    }
    entry.set_address(&address.ip().to_string(), &address.port().to_string());
    entry
}

/// The address at which the host can reach a listener: its own, or, if it listens on every one of its
/// family, that by which the host came. None if the host came by the other family, which such a
/// socket does not take: which address of ours would do, nobody knows.
fn reachable(listener: &Listener, local: SocketAddr) -> Option<SocketAddr> {
    if !listener.address.ip().is_unspecified() {
        return Some(plain(listener.address));
    }
    let reached = SocketAddr::new(local.ip(), listener.address.port());
    (listener.address.is_ipv6() == reached.is_ipv6()).then_some(reached)
}

/// Without a scope, which would be ours and not the host's.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip(), address.port())
}

const _: () = assert!(limits::ADMIN_DEPTH_MAX >= DiscoveryLogEntry::ASQSZ_MIN);
