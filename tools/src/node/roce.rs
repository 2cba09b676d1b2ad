//! The sockets of software RoCEv2, opened before the cores that will have them.

use std::collections::VecDeque;
use std::fs;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::Path;

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
    for address in &addresses {
        if let Some(name) = nic_with(*address, Path::new("/sys/class/infiniband")) {
            log::warn!(
                "{address} is an address of the RDMA device {name}, which takes RoCE packets before they come to \
                 us: hosts will not get through to roce://, use rdma:// or verbs:// (or switch RoCE off in it)"
            );
        }
    }
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

/// The RDMA device in hardware that has this address for RoCE version 2, by the system's directory of such devices. Those
/// that the system plays (rxe, siw) have no `device` there; where rxe has the port, opening it fails anyway.
fn nic_with(address: IpAddr, sysfs: &Path) -> Option<String> {
    let entries = |path: &Path| fs::read_dir(path).into_iter().flatten().flatten();
    let has = |port: &Path| {
        entries(&port.join("gids")).any(|gid| {
            // Those that are not set cannot be read.
            let read = |path| fs::read_to_string(path).unwrap_or_default();
            let is_it = |gid: Ipv6Addr| gid.to_canonical() == address;
            let kind = port.join("gid_attrs/types").join(gid.file_name());
            read(gid.path()).trim().parse().is_ok_and(is_it) && read(kind).trim() == "RoCE v2"
        })
    };
    entries(sysfs)
        .filter(|device| device.path().join("device").exists())
        .find(|device| entries(&device.path().join("ports")).any(|port| has(&port.path())))
        .map(|device| device.file_name().to_string_lossy().into_owned())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nic_that_takes_the_packets_is_found() {
        let dir = tempfile::tempdir().expect("a directory");
        let device = |name: &str, real: bool, gids: &[(&str, &str)]| {
            let port = dir.path().join(name).join("ports/1");
            fs::create_dir_all(port.join("gids")).expect("a directory");
            fs::create_dir_all(port.join("gid_attrs/types")).expect("a directory");
            if real {
                fs::create_dir(dir.path().join(name).join("device")).expect("a directory");
            }
            for (index, (gid, kind)) in gids.iter().enumerate() {
                let write = |at: &str, text| {
                    let path = port.join(at).join(index.to_string());
                    fs::write(path, format!("{text}\n")).expect("a file");
                };
                write("gids", gid);
                write("gid_attrs/types", kind);
            }
        };
        let at = |last: &str| format!("0000:0000:0000:0000:0000:ffff:0a00:{last}");
        device("rxe0", false, &[(&at("0001"), "RoCE v2")]);
        device(
            "mlx5_0",
            true,
            &[
                ("fe80:0000:0000:0000:0202:03ff:fe04:0506", "RoCE v2"),
                (&at("0002"), "IB/RoCE v1"),
                (&at("0003"), "RoCE v2"),
                ("fd00:0000:0000:0000:0000:0000:0000:0005", "RoCE v2"),
                ("0000:0000:0000:0000:0000:0000:0000:0000", ""),
            ],
        );
        let found = |address: &str| nic_with(address.parse().expect("an address"), dir.path());
        let nic = Some("mlx5_0".to_owned());
        assert_eq!(found("10.0.0.3"), nic);
        assert_eq!(found("fd00::5"), nic);
        // Soft-RoCE's, of the older version only, and nobody's.
        for address in ["10.0.0.1", "10.0.0.2", "10.0.0.4", "fd00::6", "::"] {
            assert_eq!(found(address), None, "{address}");
        }
        assert_eq!(
            nic_with(
                "10.0.0.3".parse().expect("an address"),
                &dir.path().join("none")
            ),
            None
        );
    }
}
