//! What `ferroce ctl` and the node say to each other: one line of JSON each way, over a Unix socket.

use ferroce_wire::log::SmartLog;
use ferroce_wire::num::U128;
use serde::{Deserialize, Serialize};

/// The longest line either side accepts, in bytes.
pub const LINE_MAX: usize = 1 << 20;

/// A wish.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Request {
    /// What to do.
    pub order: Order,
    /// Write it to the configuration file as well.
    #[serde(default)]
    pub persist: bool,
    /// The subsystem it is about, where there are several.
    #[serde(default)]
    pub subsystem: Option<String>,
}

/// What to do.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(
    deny_unknown_fields,
    rename_all = "kebab-case",
    rename_all_fields = "kebab-case"
)]
pub enum Order {
    /// Say what is served.
    Show,
    /// Say who is connected.
    Hosts,
    /// Say which I/Os were the slowest.
    Slow {
        /// Then forget them.
        reset: bool,
    },
    /// Open a drive and make a namespace of it.
    Add {
        /// `ram:64MiB`, `file:/path`.
        device: String,
        /// Its number; without one, the lowest free.
        nsid: Option<u32>,
        /// Hosts may read only.
        read_only: bool,
    },
    /// Take a namespace away and close its drive.
    Remove {
        /// Its number.
        nsid: u32,
    },
    /// Change a namespace's size.
    Resize {
        /// Its number.
        nsid: u32,
        /// Bytes.
        size: u64,
    },
    /// Let a host connect.
    Allow {
        /// Its NQN.
        host: String,
    },
    /// Do not let a host connect, and disconnect it.
    Forbid {
        /// Its NQN.
        host: String,
    },
    /// End the associations of a host.
    Disconnect {
        /// Its NQN.
        host: String,
    },
    /// Accept hosts at one more address.
    Listen {
        /// `tcp://ADDRESS:PORT`.
        url: String,
    },
    /// Accept no more hosts at an address.
    Unlisten {
        /// `tcp://ADDRESS:PORT`.
        url: String,
    },
}

impl Order {
    /// It may wait for drives.
    pub fn is_of_drives(&self) -> bool {
        matches!(
            self,
            Order::Add { .. } | Order::Remove { .. } | Order::Resize { .. }
        )
    }
}

/// What became of it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Response {
    /// Done; a line for a person.
    Done(String),
    /// The answer to [`Order::Show`].
    Node(Box<Node>),
    /// The answer to [`Order::Hosts`].
    Hosts(Vec<Host>),
    /// The answer to [`Order::Slow`], slowest first.
    Slow(Vec<SlowIo>),
    /// Not done, and why.
    Failed(String),
}

/// What is served.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Node {
    /// Of the binary.
    pub version: String,
    /// Of the process.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// The file that --persist changes.
    pub config: Option<String>,
    /// Where hosts connect.
    pub listen: Vec<String>,
    /// How CPUs that sleep wake up, in words.
    #[serde(default)]
    pub wake_up: String,
    /// One each.
    pub cores: Vec<CoreView>,
    /// What was counted of each RDMA device, by its name and what it is, without what is 0.
    #[serde(default)]
    pub rdma_devices: Vec<(String, String, u64)>,
    /// What was counted where requests for RoCE connections are heard, by name, without what is 0.
    #[serde(default)]
    pub requests: Vec<(String, u64)>,
    /// What it was to have and has not, yet.
    #[serde(default)]
    pub missing: Vec<String>,
    /// What hosts connect to.
    pub subsystems: Vec<SubsystemView>,
}

/// A core.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct CoreView {
    /// The CPU it is pinned to.
    pub cpu: Option<usize>,
    /// Connections it serves.
    pub connections: u64,
    /// Time it worked since the node's start.
    pub busy_ns: u64,
    /// Time it polled and found nothing to do.
    pub spinning_ns: u64,
    /// Time it slept.
    pub asleep_ns: u64,
    /// Memory for data on its way.
    pub buffer_bytes: u64,
    /// Of this, what was in use when it last did something.
    pub buffer_used_bytes: u64,
    /// Commands so far that waited for memory or for room at a drive.
    pub waits: u64,
    /// Its TCP connections that did not end as they should, by why, without what is 0.
    #[serde(default)]
    pub tcp: Vec<(String, u64)>,
    /// What its RDMA has counted, by name, without what is 0.
    #[serde(default)]
    pub rdma: Vec<(String, u64)>,
}

/// A subsystem.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct SubsystemView {
    /// Its name.
    pub nqn: String,
    /// Serial number.
    pub serial: String,
    /// Model number.
    pub model: String,
    /// Hosts that may connect; none named is every host.
    pub allow: Option<Vec<String>>,
    /// Its blocks.
    pub namespaces: Vec<NamespaceView>,
}

/// A namespace.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct NamespaceView {
    /// Its number.
    pub nsid: u32,
    /// What the operator called the drive.
    pub device: String,
    /// Capacity.
    pub bytes: u64,
    /// Block size in bytes.
    pub block: u32,
    /// Writes are refused.
    pub read_only: bool,
    /// Its identity.
    pub uuid: String,
    /// How its drive is, if that tells.
    #[serde(default)]
    pub health: Option<HealthView>,
}

/// What a drive says in its SMART / Health log.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct HealthView {
    /// Critical Warning, as bits; 0 is none.
    pub critical_warning: u8,
    /// Temperature; 0 is unknown.
    pub kelvin: u16,
    /// Available spare, in percent.
    pub spare_percent: u8,
    /// Below this spare it warns, in percent.
    pub spare_threshold_percent: u8,
    /// Endurance used, in percent; may exceed 100.
    pub used_percent: u8,
    /// Media and data integrity errors.
    pub media_errors: u64,
    /// Entries of its Error Information log, in all its life.
    #[serde(default)]
    pub error_log_entries: u64,
    /// Unexpected power losses.
    pub unsafe_shutdowns: u64,
    /// Hours powered on.
    pub power_on_hours: u64,
}

impl From<&SmartLog> for HealthView {
    fn from(smart: &SmartLog) -> HealthView {
        let count = |count: U128| u64::try_from(count.get()).unwrap_or(u64::MAX);
        HealthView {
            critical_warning: smart.critical_warning,
            kelvin: smart.ctemp.get(),
            spare_percent: smart.avsp,
            spare_threshold_percent: smart.avspt,
            used_percent: smart.pused,
            media_errors: count(smart.mdie),
            error_log_entries: count(smart.nele),
            unsafe_shutdowns: count(smart.upl),
            power_on_hours: count(smart.poh),
        }
    }
}

/// An association of a host.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Host {
    /// The host.
    pub nqn: String,
    /// Where it comes from.
    pub address: String,
    /// What it connected to.
    pub subsystem: String,
    /// Its controller.
    pub cntlid: u16,
    /// Connections, the admin queue's among them.
    pub queues: u32,
    /// Read commands so far.
    pub reads: u64,
    /// Write commands so far.
    pub writes: u64,
    /// Bytes read so far.
    pub bytes_read: u64,
    /// Bytes written so far.
    pub bytes_written: u64,
}

/// A slow I/O.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct SlowIo {
    /// When it came, in ms since 1970.
    pub at_ms: u64,
    /// From its arrival to when its answer was sent.
    pub total_ns: u64,
    /// Of this, until it was given to the drive: waiting, and fetching the data of a write.
    pub queue_ns: u64,
    /// Of this, until the drive was done.
    pub drive_ns: u64,
    /// Of this, until the answer was given to the transport.
    pub send_ns: u64,
    /// What it was.
    pub opcode: String,
    /// Its namespace.
    pub nsid: u32,
    /// Its first block; 0 if it had none.
    pub slba: u64,
    /// How many blocks; 0 if it had none.
    pub blocks: u32,
    /// The core that served it.
    pub core: usize,
    /// Who asked for it.
    pub host: String,
    /// What the host was connected to.
    pub subsystem: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_each_way() {
        let order = Order::Add {
            device: "file:/a\nb".into(),
            nsid: Some(3),
            read_only: true,
        };
        let request = Request {
            order,
            persist: true,
            subsystem: None,
        };
        let line = serde_json::to_string(&request).expect("serializes");
        assert!(!line.contains('\n'));
        assert_eq!(
            serde_json::from_str::<Request>(&line).expect("parses"),
            request
        );
        assert_eq!(
            serde_json::from_str::<Request>(r#"{"order":"show"}"#)
                .expect("parses")
                .order,
            Order::Show
        );
        assert!(serde_json::from_str::<Request>(r#"{"order":"dance"}"#).is_err());
    }
}
