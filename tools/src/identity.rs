//! Names that are needed when nobody gave one: this machine's subsystem NQN, its serial number, and
//! the NQN that the probe connects as.

use std::fs;
use std::sync::LazyLock;

use uuid::Uuid;

/// The prefix of NQNs that are a UUID (Base 4.7).
const NQN_UUID: &str = "nqn.2014-08.org.nvmexpress:uuid:";

/// The NQN of a subsystem that was given none, and whether it will be the same at the next start. It is while this process runs,
/// however often it reads its configuration.
pub fn default_nqn() -> (String, bool) {
    default_of(machine_id())
}

fn default_of(machine_id: Option<String>) -> (String, bool) {
    static MADE_UP: LazyLock<Uuid> = LazyLock::new(Uuid::new_v4);
    match machine_id {
        Some(id) => (nqn_of("subsystem", &id), true),
        None => (format!("{NQN_UUID}{}", *MADE_UP), false),
    }
}

/// The UUID that the probe is known by, as NQN and host identifier.
pub fn default_host() -> Uuid {
    machine_id().map_or_else(Uuid::new_v4, |id| uuid_of("host", &id))
}

/// The host identifier that goes with a host's NQN.
pub fn of_nqn(nqn: &str) -> Uuid {
    let named = nqn
        .strip_prefix(NQN_UUID)
        .and_then(|uuid| Uuid::parse_str(uuid).ok());
    named
        .filter(|uuid| !uuid.is_nil())
        .unwrap_or_else(|| uuid_of("hostid", nqn))
}

/// The serial number of a subsystem that was given none: 20 characters that follow from its NQN.
pub fn default_serial(nqn: &str) -> String {
    let mut serial = uuid_of("serial", nqn).simple().to_string();
    serial.truncate(20);
    serial
}

fn nqn_of(what: &str, id: &str) -> String {
    format!("{NQN_UUID}{}", uuid_of(what, id))
}

/// A hash, so that the machine-id itself, which is to be kept private, is not told.
fn uuid_of(what: &str, id: &str) -> Uuid {
    let ferroce = Uuid::new_v5(&Uuid::NAMESPACE_OID, b"ferroce");
    Uuid::new_v5(&ferroce, format!("{what}:{id}").as_bytes())
}

fn machine_id() -> Option<String> {
    [
        "/etc/machine-id",
        "/var/lib/dbus/machine-id",
        "/sys/class/dmi/id/product_uuid",
    ]
    .iter()
    .filter_map(|path| fs::read_to_string(path).ok())
    .map(|id| id.trim().to_owned())
    // A systemd image that has not been booted yet says "uninitialized", a container often nothing.
    .find(|id| id.len() >= 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashed_and_stable() {
        let id = "0123456789abcdef0123456789abcdef";
        assert_eq!(nqn_of("subsystem", id), nqn_of("subsystem", id));
        assert_ne!(nqn_of("subsystem", id), nqn_of("host", id));
        assert!(!nqn_of("subsystem", id).contains("456789abcdef"));
        assert!(ferroce_wire::fabrics::Nqn::new(&default_nqn().0).is_ok());
        assert_eq!(default_of(None), default_of(None));
        assert!(!default_of(None).1 && default_of(Some(id.into())).1);
        assert_eq!(default_serial("nqn.a").len(), 20);
        assert_ne!(default_serial("nqn.a"), default_serial("nqn.b"));
    }
}
