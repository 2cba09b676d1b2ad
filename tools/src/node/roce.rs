//! The sockets of software RoCEv2, opened before the cores that will have them.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use ferroce_buf::Pool;
use ferroce_engine::limits;
use ferroce_engine::table::Transport;
use ferroce_transport::rdma::fabric::RdmaFabric;
use ferroce_transport::roce::provider::Roce;
use ferroce_transport::roce::udp::{self, Facts, Listener, Options};
use ferroce_transport::sys::udp::random;

use crate::fail::{Context, Result, fail};
use crate::roce::options;
use crate::sets::AnyFabric;
use crate::url::Url;

/// What was opened.
#[derive(Debug)]
pub struct Opened {
    /// One for each core, in order; none if nobody asked for RoCE.
    pub fabrics: VecDeque<Roce>,
    /// What hears requests.
    pub listener: Option<Listener>,
    /// How packets come and go, of each address.
    pub facts: Vec<Facts>,
}

/// Opens what the RDMA addresses need that are for no device, for so many cores.
/// Each core has so many RECVs; its packets are of this class.
pub fn open(urls: &[Url], cores: usize, recvs: u32, traffic_class: Option<u8>) -> Result<Opened> {
    let mut services: Vec<SocketAddr> = Vec::new();
    for url in urls
        .iter()
        .filter(|url| url.scheme.transport() == Transport::Rdma)
    {
        let service = url.resolve_listener()?;
        if service.port() == 0 {
            fail!("`{url}`: RoCE has no port that is free by itself; name one, as 4420");
        }
        services.push(service);
    }
    let mut addresses: Vec<IpAddr> = Vec::new();
    for service in &services {
        if !addresses.contains(&service.ip()) {
            addresses.push(service.ip());
        }
    }
    if services.is_empty() {
        return Ok(Opened {
            fabrics: VecDeque::new(),
            listener: None,
            facts: Vec::new(),
        });
    }
    let options = Options {
        recvs,
        traffic_class,
        ..options()?
    };
    let opened = udp::open(&addresses, services, cores, options);
    let (sockets, listener) = opened.context(|| "cannot serve RoCE")?;
    let facts = sockets[0].facts().to_vec();
    let guid = number()?;
    let fabrics = sockets
        .into_iter()
        .map(|sockets| Ok(Roce::new(sockets, guid, number()?)))
        .collect::<Result<_>>()?;
    Ok(Opened {
        fabrics,
        listener,
        facts,
    })
}

fn number() -> Result<u64> {
    random().context(|| "the system gives no random numbers")
}

/// A core's queue pairs as its fabric, with the memory of its RECVs.
pub fn fabric(provider: Roce, landing: &mut Pool, count: usize) -> AnyFabric {
    // They stay with the fabric as long as it lives, and the process with both.
    let recvs = std::iter::from_fn(|| landing.set_aside(limits::IN_CAPSULE as usize)).take(count);
    AnyFabric::Roce(Box::new(RdmaFabric::new(provider, recvs.collect())))
}
