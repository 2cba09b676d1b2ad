//! What node and probe share of software RoCEv2.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;

use ferroce_transport::host::{self, RdmaHost};
use ferroce_transport::roce::provider::Roce;
use ferroce_transport::roce::udp::Options;

use crate::fail::{Context, Fail, Result, fail};

/// Queues that packets can be dealt to on one address.
pub const QUEUES_MAX: usize = 128;

/// Drops packets that come, to see what loss does: `PPM`, or `PPM:SEED`.
const LOSS: &str = "FERROCE_ROCE_LOSS";

/// Whether the system cuts long messages into packets, whatever the interface: `on` or `off`.
const SEGMENT: &str = "FERROCE_ROCE_SEGMENT";

/// What this process has as a host, by its addresses: one on each, since each has port 4791 to itself.
static HOSTS: Mutex<BTreeMap<IpAddr, RdmaHost<Roce>>> = Mutex::new(BTreeMap::new());

/// A host's end for a target: at `bind`, or else by the route there. It is opened once in a process, for
/// so many queues at a time and packets of this class.
pub fn host(
    target: SocketAddr,
    bind: Option<IpAddr>,
    queues: usize,
    traffic_class: Option<u8>,
) -> Result<RdmaHost<Roce>> {
    let local = match bind {
        Some(local) => local,
        None => host::local_address(target)
            .context(|| format!("cannot find the address of ours that leads to {target}"))?,
    };
    let mut hosts = HOSTS.lock().expect("nobody panics with the lock");
    if let Some(host) = hosts.get(&local) {
        return Ok(host.clone());
    }
    let queues = queues.min(QUEUES_MAX);
    let options = Options {
        traffic_class,
        ..options()?
    };
    let host = RdmaHost::roce(local, queues, options).map_err(|why| {
        Fail(format!(
            "{why}; --bind names another address of this machine"
        ))
    })?;
    hosts.insert(local, host.clone());
    Ok(host)
}

/// The usual, but for what the environment says.
pub fn options() -> Result<Options> {
    let segment = match std::env::var_os(SEGMENT) {
        None => None,
        Some(text) if text == "on" => Some(true),
        Some(text) if text == "off" => Some(false),
        Some(text) => fail!("{SEGMENT}={}: say on or off", text.to_string_lossy()),
    };
    let options = loss()?;
    Ok(Options { segment, ..options })
}

fn loss() -> Result<Options> {
    let Some(text) = std::env::var_os(LOSS) else {
        return Ok(Options::default());
    };
    let text = text.to_string_lossy();
    let (ppm, seed) = text.split_once(':').unwrap_or((&text, "0"));
    match (ppm.parse(), seed.parse()) {
        (Ok(loss_ppm), Ok(loss_seed)) if loss_ppm <= 1_000_000 => {
            log::warn!("{LOSS}: {loss_ppm} of a million packets are dropped on purpose");
            Ok(Options {
                loss_ppm,
                loss_seed,
                ..Options::default()
            })
        }
        _ => fail!("{LOSS}={text}: give a number up to 1000000, and a seed after a colon"),
    }
}
