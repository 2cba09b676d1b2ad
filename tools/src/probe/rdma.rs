//! What leads to a target by RDMA: a device that has the address we come from, or our own RoCEv2.

use std::net::{IpAddr, SocketAddr};

use ferroce_transport::host::Via;

#[cfg(feature = "verbs")]
use crate::fail::Context;
use crate::fail::{Result, fail};
use crate::roce;
use crate::url::Scheme;

/// For a target at this address, over what its URL names: `roce://` and `verbs://` insist, `rdma://` is a device if one has
/// the address we come from. Opened once in a process, for so many queues at a time and packets of this class.
pub fn via(
    scheme: Scheme,
    target: SocketAddr,
    bind: Option<IpAddr>,
    queues: usize,
    class: Option<u8>,
) -> Result<Via> {
    if scheme != Scheme::Roce
        && let Some(via) = device(scheme == Scheme::Verbs, target, bind, queues, class)?
    {
        return Ok(via);
    }
    Ok(Via::Roce(roce::host(target, bind, queues, class)?))
}

/// Over what that is, for people; nothing for TCP, which goes without saying.
pub fn described(via: &Via) -> Option<String> {
    match via {
        Via::Tcp => None,
        Via::Roce(host) => Some(format!("RoCEv2 in software, from {}", host.local())),
        #[cfg(feature = "verbs")]
        Via::Verbs(host) => {
            let device = devices::name_at(host.local()).unwrap_or_default();
            Some(format!("RDMA device {device}, from {}", host.local()))
        }
    }
}

#[cfg(not(feature = "verbs"))]
fn device(
    insists: bool,
    _: SocketAddr,
    _: Option<IpAddr>,
    _: usize,
    _: Option<u8>,
) -> Result<Option<Via>> {
    if insists {
        fail!(
            "this program was built without RDMA devices (feature `verbs`); roce:// reaches the same targets in software"
        );
    }
    Ok(None)
}

/// `None` if no device has the address, and nobody insists.
#[cfg(feature = "verbs")]
fn device(
    insists: bool,
    target: SocketAddr,
    bind: Option<IpAddr>,
    queues: usize,
    class: Option<u8>,
) -> Result<Option<Via>> {
    let Some(verbs) = devices::open(insists, class)? else {
        return Ok(None);
    };
    let local = match bind {
        Some(local) => local,
        None => ferroce_transport::host::route_address(target)
            .context(|| format!("cannot find the address of ours that leads to {target}"))?,
    };
    match verbs.device_at(local) {
        Some(_) => Ok(Some(Via::Verbs(devices::host(&verbs, local, queues)?))),
        None if insists => fail!(
            "no RDMA device has {local}, from which {target} is reached (the devices are: {}). Name an address of a device's \
             network interface by --bind; `ferroce devices` lists them, and roce:// needs no device",
            verbs.devices().join(", ")
        ),
        None => Ok(None),
    }
}

/// What this process has open of them.
#[cfg(feature = "verbs")]
mod devices {
    use std::collections::BTreeMap;
    use std::net::IpAddr;
    use std::sync::{Arc, Mutex};

    use ferroce_transport::host::RdmaHost;
    use ferroce_transport::rdma::verbs::{Options, Verbs, VerbsProvider, none_here};

    use crate::fail::{Context, Result, fail};

    /// They stay until the process ends, and what hosts have of them with them.
    static OPEN: Mutex<Option<Arc<Verbs>>> = Mutex::new(None);
    static HOSTS: Mutex<BTreeMap<IpAddr, RdmaHost<VerbsProvider>>> = Mutex::new(BTreeMap::new());
    const POISON: &str = "nobody panics with the lock";

    /// The machine's devices. `None` if it has none, and nobody insists.
    pub fn open(insists: bool, traffic_class: Option<u8>) -> Result<Option<Arc<Verbs>>> {
        let mut open = OPEN.lock().expect(POISON);
        if let Some(verbs) = &*open {
            return Ok(Some(verbs.clone()));
        }
        let options = Options {
            host: true,
            traffic_class,
        };
        match Verbs::start(options) {
            Ok(verbs) => Ok(Some(open.insert(Arc::new(verbs)).clone())),
            Err(why) if none_here(&why) && !insists => Ok(None),
            Err(why) if none_here(&why) => fail!(
                "this machine has no RDMA device ({why}); `ferroce devices` says what is missing, and roce:// needs none"
            ),
            Err(why) => Err(why).context(|| "cannot use RDMA devices; roce:// needs none"),
        }
    }

    pub fn host(verbs: &Verbs, local: IpAddr, queues: usize) -> Result<RdmaHost<VerbsProvider>> {
        let mut hosts = HOSTS.lock().expect(POISON);
        if let Some(host) = hosts.get(&local) {
            return Ok(host.clone());
        }
        let host = RdmaHost::verbs(verbs, local, queues).context(|| "cannot use RDMA devices")?;
        hosts.insert(local, host.clone());
        Ok(host)
    }

    /// The device with this address.
    pub fn name_at(local: IpAddr) -> Option<String> {
        let open = OPEN.lock().expect(POISON);
        open.as_ref()?.device_at(local)
    }
}
