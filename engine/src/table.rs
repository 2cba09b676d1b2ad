//! What the node serves, as one immutable value: subsystems, namespaces, access, listeners.
//!
//! The control thread owns the current [`Table`] and changes it by making another. Each core works
//! with the one it was last sent; see [`crate::control`] for how a change is agreed on.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use ferroce_wire::sqe::Sgl;

use crate::port::{DriveId, DriveInfo};

/// Everything hosts can see.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// Counts the tables that there were; the first is 1.
    pub version: u64,
    /// Counts changes that commands of the table before are awaited for.
    pub epoch: u64,
    /// By NQN.
    pub subsystems: BTreeMap<String, Arc<Subsystem>>,
    /// Where hosts connect, in the order they were added. Discovery reports them.
    pub listeners: Vec<Listener>,
    /// Discovery generation counter: counts what changes the discovery log of any host.
    pub generation: u64,
}

impl Table {
    /// Takes over who may connect and where, and subsystems without namespaces: what another table has of that.
    pub fn take_access(&mut self, other: &Table) {
        self.listeners.clone_from(&other.listeners);
        for (nqn, subsystem) in &other.subsystems {
            match self.subsystems.get_mut(nqn) {
                Some(mine) if mine.allow != subsystem.allow => {
                    Arc::make_mut(mine).allow.clone_from(&subsystem.allow);
                }
                None if subsystem.namespaces.is_empty() => {
                    self.subsystems.insert(nqn.clone(), subsystem.clone());
                }
                _ => {}
            }
        }
        self.generation += 1;
    }
}

/// An NVM subsystem.
#[derive(Clone, Debug)]
pub struct Subsystem {
    /// Its name, at most 223 bytes.
    pub nqn: String,
    /// Serial number (SN): ASCII, at most 20 bytes.
    pub serial: String,
    /// Model number (MN): ASCII, at most 40 bytes.
    pub model: String,
    /// First and last CNTLID this node hands out, 1 to 0xFFEF. Two nodes that serve one subsystem
    /// have ranges that do not meet.
    pub cntlids: (u16, u16),
    /// Hosts that may connect; `None` is every host.
    pub allow: Option<BTreeSet<String>>,
    /// By NSID, 1 to `limits::NAMESPACES_MAX`.
    pub namespaces: BTreeMap<u32, Namespace>,
}

impl Subsystem {
    /// True if the host may connect.
    pub fn allows(&self, hostnqn: &str) -> bool {
        self.allow
            .as_ref()
            .is_none_or(|hosts| hosts.contains(hostnqn))
    }
}

/// A namespace: a drive, as hosts see it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Namespace {
    /// Where the blocks are.
    pub drive: DriveId,
    /// What the drive is. `blocks` is the namespace's size (NSZE).
    pub info: Arc<DriveInfo>,
    /// Writes are refused, by the operator's wish or the drive's nature.
    pub read_only: bool,
}

/// A place where hosts connect.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listener {
    /// The transport.
    pub transport: Transport,
    /// Address and port. An unspecified address is every local one.
    pub address: SocketAddr,
    /// Port identifier (PORTID) in discovery log entries, unique and stable.
    pub port_id: u16,
}

/// Transports (TRTYPE).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// NVMe/TCP.
    Tcp,
    /// NVMe/RDMA.
    Rdma,
}

impl Transport {
    /// Bytes of data that a descriptor names; `None` if hosts of this transport may not name data
    /// so (NVMe/TCP 3.2.1, NVMe/RDMA 3.2.1).
    #[inline]
    pub fn data_len(self, sgl: &Sgl) -> Option<u32> {
        match (self, sgl.kind) {
            (_, Sgl::IN_CAPSULE) | (Transport::Tcp, Sgl::TRANSPORT) => Some(sgl.len.get()),
            (Transport::Rdma, Sgl::KEYED | Sgl::KEYED_INVALIDATE) => Some(sgl.keyed().len.get()),
            _ => None,
        }
    }
}
