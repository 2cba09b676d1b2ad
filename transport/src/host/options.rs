//! Who the host is, and how it connects.

use std::fs;
use std::time::Duration;

use ferroce_wire::discovery::TrType;
use ferroce_wire::fabrics::{Nqn, UUID_NQN_PREFIX};

use super::RdmaHost;
#[cfg(feature = "verbs")]
use crate::rdma::verbs::VerbsProvider;
use crate::roce::provider::Roce;

/// Who the host says it is. Targets allow or refuse it by its NQN.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HostIdentity {
    /// Host NQN.
    pub nqn: Nqn,
    /// Host Identifier, never zero.
    pub id: [u8; 16],
}

impl HostIdentity {
    /// Of this machine, as `nvme-cli` set it up in /etc/nvme; a random one if it did not.
    pub fn of_machine() -> HostIdentity {
        let nqn = fs::read_to_string("/etc/nvme/hostnqn")
            .ok()
            .and_then(|text| Nqn::new(text.trim()).ok());
        let id = fs::read_to_string("/etc/nvme/hostid")
            .ok()
            .and_then(|text| parse_uuid(text.trim()));
        match nqn {
            // One host NQN goes with one host ID: that of its UUID where there is no other.
            Some(nqn) => {
                let of_nqn = || parse_uuid(nqn.as_str().strip_prefix(UUID_NQN_PREFIX)?);
                let id = id.or_else(of_nqn);
                HostIdentity {
                    nqn,
                    id: id.unwrap_or_else(random_uuid),
                }
            }
            None => HostIdentity::random(),
        }
    }

    /// One that was never used before: for tests, or beside another host on the same machine.
    pub fn random() -> HostIdentity {
        HostIdentity::from_uuid(random_uuid())
    }

    /// The UUID form, host NQN and host ID from one UUID.
    ///
    /// # Panics
    /// If it is all zeroes, which no host may be.
    pub fn from_uuid(id: [u8; 16]) -> HostIdentity {
        assert!(id != [0; 16], "a host ID is not zero");
        let mut name = String::from(UUID_NQN_PREFIX);
        for (i, byte) in id.iter().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                name.push('-');
            }
            name.push_str(&format!("{byte:02x}"));
        }
        HostIdentity {
            nqn: Nqn::new(&name).expect("the UUID form is an NQN"),
            id,
        }
    }
}

/// By what targets are reached.
#[derive(Clone, Debug, Default)]
pub enum Via {
    /// NVMe/TCP.
    #[default]
    Tcp,
    /// NVMe/RDMA over software RoCEv2.
    Roce(RdmaHost<Roce>),
    /// NVMe/RDMA over RDMA devices.
    #[cfg(feature = "verbs")]
    Verbs(RdmaHost<VerbsProvider>),
}

impl Via {
    /// As discovery calls it.
    pub fn trtype(&self) -> TrType {
        match self {
            Via::Tcp => TrType::TCP,
            Via::Roce(_) => TrType::RDMA,
            #[cfg(feature = "verbs")]
            Via::Verbs(_) => TrType::RDMA,
        }
    }
}

/// How a host connects.
#[derive(Clone, Debug)]
pub struct Options {
    /// By what.
    pub via: Via,
    /// Who it is.
    pub identity: HostIdentity,
    /// Ask for header digests.
    pub header_digest: bool,
    /// Ask for data digests.
    pub data_digest: bool,
    /// Keep Alive Timeout in milliseconds; 0 for none. A connection to a discovery controller that
    /// is only asked once has none.
    pub kato_ms: u32,
    /// How long a TCP connection, the handshake, or an admin command may take.
    pub timeout: Duration,
    /// Entries of the admin queue.
    pub admin_entries: u16,
    /// Keep SQ flow control: completions are then never elided.
    pub sq_flow_control: bool,
    /// R2Ts that a command may have outstanding.
    pub maxr2t: u16,
    /// The most bytes received at once, for many small PDUs in one system call.
    pub receive_len: usize,
    /// Have a small thread send Keep Alives and collect events. Without it, call
    /// [`super::Controller::tend`] at least twice per KATO.
    pub background: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            via: Via::Tcp,
            identity: HostIdentity::of_machine(),
            header_digest: false,
            data_digest: false,
            kato_ms: 10_000,
            timeout: Duration::from_secs(10),
            admin_entries: 32,
            sq_flow_control: false,
            maxr2t: 1,
            receive_len: 256 * 1024,
            background: true,
        }
    }
}

/// Version 4.
fn random_uuid() -> [u8; 16] {
    let mut id = fastrand::u128(..).to_be_bytes();
    id[6] = id[6] & 0x0F | 0x40;
    id[8] = id[8] & 0x3F | 0x80;
    id
}

fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let digits: String = text.chars().filter(|&c| c != '-').collect();
    if digits.len() != 32 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let id = u128::from_str_radix(&digits, 16).ok()?;
    (id != 0).then(|| id.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nqn_and_id_are_of_one_uuid() {
        let host = HostIdentity::random();
        let uuid = host.nqn.as_str().strip_prefix(UUID_NQN_PREFIX).unwrap();
        assert_eq!(parse_uuid(uuid), Some(host.id));
        assert_eq!(uuid.len(), 36);
        assert_ne!(HostIdentity::random(), host);
    }

    #[test]
    fn what_is_no_uuid_is_not_taken() {
        for text in [
            "",
            "0",
            "00000000-0000-0000-0000-000000000000",
            "+1234567-0000-0000-0000-000000000000",
        ] {
            assert_eq!(parse_uuid(text), None);
        }
    }
}
