//! Discovery: which subsystems there are, and where.

use std::net::{IpAddr, SocketAddr};

use ferroce_wire::Wire;
use ferroce_wire::discovery::{DiscoveryLogEntry, DiscoveryLogHeader, SubType, TrType};
use ferroce_wire::fabrics::Nqn;
use ferroce_wire::log::LogId;

use super::{Controller, HostError, Options};

/// Entries we read of a log; a target that says it has more is not believed.
const ENTRIES_MAX: u64 = 16_384;
/// How often the log is read again because it changed meanwhile.
const TRIES: u32 = 10;
const NSID_NONE: u32 = 0;

/// A Discovery log page that did not change while it was read.
#[derive(Clone, Debug)]
pub struct DiscoveryLog {
    /// Generation counter.
    pub generation: u64,
    /// The entries, as they are.
    pub entries: Vec<DiscoveryLogEntry>,
    /// What it was read by.
    pub trtype: TrType,
}

/// One way to one NVM subsystem.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Subsystem {
    /// Its name.
    pub nqn: Nqn,
    /// Where to connect.
    pub address: SocketAddr,
    /// Port identifier.
    pub portid: u16,
}

/// Asks a discovery controller once.
///
/// # Errors
/// See [`HostError`].
pub fn discover(address: SocketAddr, options: &Options) -> Result<DiscoveryLog, HostError> {
    let mut options = options.clone();
    options.kato_ms = 0;
    options.background = false;
    let controller = Controller::connect(address, &Nqn::discovery(), &options)?;
    let log = controller.discovery_log()?;
    // The log is what was asked for; a goodbye that fails changes nothing.
    let _ = controller.shutdown();
    Ok(log)
}

impl Controller {
    /// The Discovery log page of a discovery controller. With a KATO the connection to one persists,
    /// and [`Controller::next_event`] tells of changes.
    ///
    /// # Errors
    /// See [`HostError`].
    pub fn discovery_log(&self) -> Result<DiscoveryLog, HostError> {
        for _ in 0..TRIES {
            let header = self.discovery_header()?;
            let count = header.numrec.get();
            if header.recfmt.get() != 0 || count > ENTRIES_MAX {
                return Err(HostError::Nonsense {
                    what: "the discovery log has an unknown format, or too many entries",
                });
            }
            let len = count as usize * DiscoveryLogEntry::LEN;
            let at = DiscoveryLogHeader::LEN as u64;
            let bytes = self.log_page_at(LogId::DISCOVERY, NSID_NONE, at, len)?;
            if self.discovery_header()?.genctr != header.genctr {
                continue;
            }
            let (entries, _) = bytes.as_chunks::<{ DiscoveryLogEntry::LEN }>();
            let entry = |bytes: &[u8; DiscoveryLogEntry::LEN]| {
                DiscoveryLogEntry::read(bytes).expect("a chunk is an entry long")
            };
            return Ok(DiscoveryLog {
                generation: header.genctr.get(),
                entries: entries.iter().map(entry).collect(),
                trtype: self.options().via.trtype(),
            });
        }
        Err(HostError::Nonsense {
            what: "the discovery log changed every time it was read",
        })
    }

    fn discovery_header(&self) -> Result<DiscoveryLogHeader, HostError> {
        let page = self.log_page(LogId::DISCOVERY, NSID_NONE, DiscoveryLogHeader::LEN)?;
        Ok(DiscoveryLogHeader::read(&page).expect("as many bytes were asked for"))
    }
}

impl DiscoveryLog {
    /// NVM subsystems that can be reached by what the log was read by. Entries that make no sense are left out.
    pub fn subsystems(&self) -> impl Iterator<Item = Subsystem> + '_ {
        self.entries.iter().filter_map(|entry| {
            if entry.trtype != self.trtype || entry.subtype != SubType::NVM {
                return None;
            }
            let ip: IpAddr = entry.traddr()?.parse().ok()?;
            let port: u16 = entry.trsvcid()?.parse().ok()?;
            Some(Subsystem {
                nqn: entry.subnqn().ok()?,
                address: SocketAddr::new(ip, port),
                portid: entry.portid.get(),
            })
        })
    }
}
