//! RDMA devices, opened before the cores that will have queue pairs on them.

use std::collections::VecDeque;
use std::sync::Arc;

use ferroce_buf::{Pool, Region};
use ferroce_engine::limits;
use ferroce_transport::rdma::fabric::RdmaFabric;
use ferroce_transport::rdma::verbs::{Listener, Options, Verbs, VerbsProvider, none_here};

use crate::fail::{Context, Result, fail};
use crate::sets::AnyFabric;
use crate::url::{Scheme, Url};

/// What was opened.
#[derive(Debug, Default)]
pub struct Opened {
    /// The devices, if an address is one of theirs.
    pub verbs: Option<Arc<Verbs>>,
    /// One for each core, in order; none if there are no devices.
    pub fabrics: VecDeque<VerbsProvider>,
    /// What hears requests.
    pub listeners: Vec<Listener>,
    /// The addresses of the configuration that are not for devices.
    pub others: Vec<Url>,
}

/// Opens what the addresses with `verbs://` need, and those with `rdma://` that a device has, for so many cores whose
/// Bufs lie in these regions, and whose packets are of this class.
pub fn open(
    urls: &[Url],
    cores: usize,
    regions: &[Arc<Region>],
    traffic_class: Option<u8>,
) -> Result<Opened> {
    let (wanted, mut others): (Vec<_>, Vec<_>) = urls
        .iter()
        .cloned()
        .partition(|url| matches!(url.scheme, Scheme::Verbs | Scheme::Rdma));
    let forced = wanted.iter().find(|url| url.scheme == Scheme::Verbs);
    if wanted.is_empty() {
        others.extend(wanted);
        return Ok(Opened {
            others,
            ..Opened::default()
        });
    }
    let options = Options {
        host: false,
        traffic_class,
    };
    let verbs = match (Verbs::start(options), forced) {
        (Ok(verbs), _) => Arc::new(verbs),
        (Err(why), None) if none_here(&why) => {
            others.extend(wanted);
            return Ok(Opened {
                others,
                ..Opened::default()
            });
        }
        (Err(why), Some(url)) if none_here(&why) => fail!(
            "`{url}`: this machine has no RDMA device ({why}); `ferroce devices` says what is missing, and roce:// needs none"
        ),
        (Err(why), _) => return Err(why).context(|| "cannot use RDMA devices"),
    };
    let mut places = Vec::new();
    for url in wanted {
        let place = url.resolve_listener()?;
        if url.scheme == Scheme::Verbs || verbs.has(place.ip()) {
            places.push((url, place));
        } else {
            others.push(url);
        }
    }
    if places.is_empty() {
        return Ok(Opened {
            others,
            ..Opened::default()
        });
    }
    for region in regions {
        verbs
            .register(region)
            .context(|| "the cores' buffers are for RDMA devices, too")?;
    }
    let core = |_| {
        verbs
            .core()
            .context(|| "cannot make queue pairs for a core")
    };
    let fabrics = (0..cores).map(core).collect::<Result<_>>()?;
    let listeners = places
        .iter()
        .map(|(url, place)| listen(&verbs, url, *place))
        .collect::<Result<_>>()?;
    Ok(Opened {
        verbs: Some(verbs),
        fabrics,
        listeners,
        others,
    })
}

/// Listens at one address.
pub fn listen(verbs: &Verbs, url: &Url, place: std::net::SocketAddr) -> Result<Listener> {
    verbs.listen(place).context(|| {
        let devices = verbs.devices().join(", ");
        format!(
            "cannot listen at {url} (the RDMA devices are: {devices}). The address must be that of a device's network \
             interface, and the port free; `ferroce devices` lists addresses"
        )
    })
}

/// A core's queue pairs as its fabric, with the memory of its RECVs.
pub fn fabric(provider: VerbsProvider, landing: &mut Pool, count: usize) -> AnyFabric {
    // They stay with the fabric as long as it lives, and the process with both.
    let recvs = std::iter::from_fn(|| landing.set_aside(limits::IN_CAPSULE as usize)).take(count);
    AnyFabric::Verbs(Box::new(RdmaFabric::new(provider, recvs.collect())))
}
