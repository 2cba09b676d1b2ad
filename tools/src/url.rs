//! Where something listens: `tcp://ADDRESS:PORT` or `rdma://ADDRESS:PORT`, for a host with the
//! subsystem's NQN behind it.

use std::fmt;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::str::FromStr;

use ferroce_engine::table::Transport;
use ferroce_wire::fabrics::Nqn;
use serde::Deserialize;

#[cfg(feature = "verbs")]
use crate::fail::Fail;
use crate::fail::{Context, Result, fail};

/// The port NVMe over Fabrics is assigned.
pub const PORT: u16 = 4420;

/// What carries NVMe there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Scheme {
    /// NVMe/TCP.
    #[default]
    Tcp,
    /// NVMe/RDMA by whatever leads there: an RDMA device that has the address, else our own RoCEv2.
    Rdma,
    /// NVMe/RDMA over RDMA devices.
    Verbs,
    /// NVMe/RDMA over our own RoCEv2.
    Roce,
}

impl Scheme {
    fn parse(text: &str) -> Option<Scheme> {
        match text {
            "tcp" => Some(Scheme::Tcp),
            "rdma" => Some(Scheme::Rdma),
            "verbs" => Some(Scheme::Verbs),
            "roce" => Some(Scheme::Roce),
            _ => None,
        }
    }

    /// As discovery calls it.
    pub fn transport(self) -> Transport {
        match self {
            Scheme::Tcp => Transport::Tcp,
            Scheme::Rdma | Scheme::Verbs | Scheme::Roce => Transport::Rdma,
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Scheme::Tcp => "tcp",
            Scheme::Rdma => "rdma",
            Scheme::Verbs => "verbs",
            Scheme::Roce => "roce",
        })
    }
}

/// `tcp://HOST[:PORT][/NQN]`, or `rdma://`, `verbs://`, `roce://` with the same.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(try_from = "String")]
pub struct Url {
    /// The transport.
    pub scheme: Scheme,
    /// A name or a numeric address; IPv6 without its brackets.
    pub host: String,
    /// TCP port, or that of an RDMA service.
    pub port: u16,
    /// The subsystem, if one is named.
    pub nqn: Option<String>,
}

impl FromStr for Url {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Url, String> {
        let wrong =
            |why: &str| format!("`{text}` is not an address: {why}; write tcp://ADDRESS:PORT");
        let (scheme, rest) = text
            .split_once("://")
            .ok_or_else(|| wrong("the transport is missing"))?;
        let scheme = Scheme::parse(scheme)
            .ok_or_else(|| wrong(&format!("`{scheme}` is no transport of this version")))?;
        let (place, nqn) = match rest.split_once('/') {
            Some((place, "")) => (place, None),
            Some((place, nqn)) => (place, Some(nqn)),
            None => (rest, None),
        };
        let (host, port) = if let Some(v6) = place.strip_prefix('[') {
            let (host, after) = v6
                .split_once(']')
                .ok_or_else(|| wrong("a `]` is missing"))?;
            (host, after)
        } else if place.matches(':').count() > 1 {
            return Err(wrong(
                "an IPv6 address stands in brackets: tcp://[::1]:4420",
            ));
        } else {
            place.split_at(place.find(':').unwrap_or(place.len()))
        };
        let port = match port.strip_prefix(':') {
            None if port.is_empty() => PORT,
            None => return Err(wrong("something stands between `]` and the port")),
            Some(port) => port
                .parse()
                .map_err(|_| wrong(&format!("`{port}` is not a port")))?,
        };
        if host.is_empty() || host.contains(char::is_whitespace) {
            return Err(wrong("the address is missing"));
        }
        if let Some(nqn) = nqn {
            Nqn::new(nqn).map_err(|why| wrong(&format!("after the `/`, `{nqn}`: {why}")))?;
        }
        Ok(Url {
            scheme,
            host: host.to_owned(),
            port,
            nqn: nqn.map(str::to_owned),
        })
    }
}

impl Url {
    /// The socket addresses it stands for; at least one.
    pub fn resolve(&self) -> Result<Vec<SocketAddr>> {
        // A static executable would need the shared libraries of this very glibc to look a name up.
        if cfg!(target_feature = "crt-static") && self.host.parse::<IpAddr>().is_err() {
            fail!(
                "`{}` is a name, and this static build of Ferroce does not look names up; write the numeric address \
                 (`getent ahosts {}` tells it)",
                self.host,
                self.host
            );
        }
        let found: Vec<_> = (self.host.as_str(), self.port)
            .to_socket_addrs()
            .context(|| format!("cannot find the address of `{}`", self.host))?
            .collect();
        if found.is_empty() {
            fail!("`{}` has no address", self.host);
        }
        Ok(found)
    }

    /// For what speaks plain TCP, without NVMe.
    pub fn resolve_tcp(&self) -> Result<Vec<SocketAddr>> {
        if self.scheme != Scheme::Tcp || self.nqn.is_some() {
            fail!("`{self}`: a raw server speaks plain TCP; write tcp://ADDRESS:PORT");
        }
        self.resolve()
    }

    /// As a place to listen.
    pub fn resolve_listener(&self) -> Result<SocketAddr> {
        if self.nqn.is_some() {
            fail!("`{self}`: a listener serves every subsystem; leave the NQN out");
        }
        #[cfg(feature = "verbs")]
        if self.scheme == Scheme::Verbs && self.host.parse::<IpAddr>().is_err() {
            if let Some(ip) = crate::devices::rdma::address_of(&self.host)? {
                return Ok(SocketAddr::new(ip, self.port));
            }
            let no_device = |_| {
                let there = crate::devices::rdma::names();
                Fail(format!(
                    "`{self}`: `{}` is neither an address nor an RDMA device (devices: {there})",
                    self.host
                ))
            };
            return Ok(self.resolve().map_err(no_device)?[0]);
        }
        Ok(self.resolve()?[0])
    }
}

impl Url {
    /// The same place to listen, however it is written: a device's name and its address are one.
    pub fn is_at(&self, other: &Url) -> bool {
        let place = |url: &Url| url.resolve_listener().ok();
        self == other
            || self.scheme.transport() == other.scheme.transport()
                && place(self).is_some_and(|here| place(other) == Some(here))
    }
}

/// By TCP.
impl From<SocketAddr> for Url {
    fn from(address: SocketAddr) -> Url {
        (Scheme::Tcp, address).into()
    }
}

impl From<(Scheme, SocketAddr)> for Url {
    fn from((scheme, address): (Scheme, SocketAddr)) -> Url {
        Url {
            scheme,
            host: address.ip().to_string(),
            port: address.port(),
            nqn: None,
        }
    }
}

impl TryFrom<String> for Url {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Url, String> {
        text.parse()
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "{}://[{}]:{}", self.scheme, self.host, self.port)?;
        } else {
            write!(f, "{}://{}:{}", self.scheme, self.host, self.port)?;
        }
        match &self.nqn {
            Some(nqn) => write!(f, "/{nqn}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_prints() {
        for (text, printed) in [
            ("tcp://127.0.0.1:4420", "tcp://127.0.0.1:4420"),
            ("tcp://127.0.0.1", "tcp://127.0.0.1:4420"),
            ("tcp://127.0.0.1/", "tcp://127.0.0.1:4420"),
            ("tcp://[::1]:8009", "tcp://[::1]:8009"),
            ("tcp://[::]", "tcp://[::]:4420"),
            ("roce://10.0.0.1", "roce://10.0.0.1:4420"),
            ("rdma://10.0.0.1:4421", "rdma://10.0.0.1:4421"),
            ("verbs://10.0.0.1", "verbs://10.0.0.1:4420"),
            (
                "tcp://node-1:4420/nqn.2024-01.org.example:a/b",
                "tcp://node-1:4420/nqn.2024-01.org.example:a/b",
            ),
        ] {
            let url: Url = text.parse().unwrap_or_else(|why| panic!("{why}"));
            assert_eq!(url.to_string(), printed);
        }
    }

    #[test]
    fn says_what_is_wrong() {
        for (text, why) in [
            ("127.0.0.1:4420", "transport is missing"),
            ("udp://10.0.0.1", "`udp` is no transport"),
            ("tcp://::1:4420", "brackets"),
            ("tcp://[::1:4420", "`]` is missing"),
            ("tcp://1.2.3.4:70000", "not a port"),
            ("tcp://1.2.3.4:", "not a port"),
            ("tcp://:4420", "address is missing"),
            ("tcp://1.2.3.4/subsystem", "nqn."),
        ] {
            let said = text.parse::<Url>().expect_err(text);
            assert!(said.contains(why), "{text}: {said}");
        }
    }
}
