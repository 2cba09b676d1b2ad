//! What a machine needs that Ferroce is the whole system of: read at boot, and of no meaning otherwise.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::Deserialize;

use crate::fail::{Result, fail};
use crate::units::Size;

/// The machine.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Machine {
    /// Its name, for the kernel and DHCP servers.
    pub hostname: Option<String>,
    /// Memory to set aside as huge pages; without it, what the buffers and RAM drives take.
    pub huge_pages: Option<Size>,
    /// Kernel modules to load beside those that the hardware asks for.
    pub modules: Vec<String>,
    /// Its network; without any, every Ethernet interface asks DHCP.
    pub link: Vec<Link>,
}

/// A network interface.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Link {
    /// Which one, by name; as the kernel names them, `eth0` and so on.
    pub name: Option<String>,
    /// Which one, by hardware address.
    pub mac: Option<Mac>,
    /// Its addresses; without any, DHCP is asked.
    pub address: Vec<Cidr>,
    /// The way to other networks.
    pub gateway: Option<IpAddr>,
    /// Bytes of the largest packet.
    pub mtu: Option<u32>,
    /// Make a soft-RoCE device of it.
    pub rxe: bool,
}

impl Machine {
    /// From a part of a file that is wrong elsewhere.
    pub fn deserialize_from(value: &toml::Value) -> std::result::Result<Machine, toml::de::Error> {
        value.clone().try_into()
    }

    /// Refuses what cannot be.
    pub fn check(&self) -> Result<()> {
        if let Some(name) = &self.hostname
            && (name.is_empty() || name.len() > 64 || !name.bytes().all(is_of_hostname))
        {
            fail!("machine: hostname `{name}` is not 1 to 64 letters, digits, dots and hyphens");
        }
        for link in &self.link {
            link.check()?;
        }
        Ok(())
    }
}

fn is_of_hostname(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.'
}

impl Link {
    fn check(&self) -> Result<()> {
        if self.name.is_some() == self.mac.is_some() {
            fail!("machine.link: name an interface by `name` or by `mac`, and not by both");
        }
        // The kernel's own bounds: IFNAMSIZ, the least MTU of IPv4, and what a datagram can be.
        if let Some(name) = &self.name
            && (name.is_empty() || name.len() > 15 || name.contains(['/', ' ']))
        {
            fail!("machine.link: `{name}` cannot name an interface");
        }
        if let Some(mtu) = self.mtu
            && !(68..=65_535).contains(&mtu)
        {
            fail!("machine.link: an MTU of {mtu} is outside 68 to 65535");
        }
        let v4 = |ip: &IpAddr| ip.is_ipv4();
        if let Some(gateway) = &self.gateway
            && !self.address.iter().any(|own| v4(&own.ip) == v4(gateway))
        {
            fail!(
                "machine.link: the gateway {gateway} needs an `address` of its kind beside it; DHCP names its own"
            );
        }
        Ok(())
    }

    /// How a person finds it in the file.
    pub fn label(&self) -> String {
        match (&self.name, &self.mac) {
            (Some(name), _) => name.clone(),
            (None, Some(mac)) => mac.to_string(),
            (None, None) => "?".into(),
        }
    }
}

/// `eth0,10.0.0.5/24,gateway=10.0.0.1,mtu=9000,rxe`, as on the kernel's command line; `dhcp` may stand for addresses.
impl FromStr for Link {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Link, String> {
        let mut link = Link::default();
        let mut parts = text.split(',');
        let name = parts.next().unwrap_or_default();
        match name.parse() {
            Ok(mac) => link.mac = Some(mac),
            Err(_) => link.name = Some(name.to_owned()),
        }
        for part in parts {
            match part.split_once('=') {
                None if part == "dhcp" => (),
                None if part == "rxe" => link.rxe = true,
                None => link.address.push(part.parse()?),
                Some(("mtu", mtu)) => {
                    let mtu = mtu.parse().map_err(|_| format!("`{mtu}` is no MTU"))?;
                    link.mtu = Some(mtu);
                }
                Some(("gateway", ip)) => {
                    let ip = ip.parse().map_err(|_| format!("`{ip}` is no address"))?;
                    link.gateway = Some(ip);
                }
                Some((key, _)) => {
                    return Err(format!(
                        "a link has no `{key}`; it has mtu, gateway, rxe, dhcp"
                    ));
                }
            }
        }
        Ok(link)
    }
}

/// An address with the length of its network's prefix.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(try_from = "String")]
pub struct Cidr {
    /// The address.
    pub ip: IpAddr,
    /// Bits that the network's addresses have in common.
    pub prefix: u8,
}

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Cidr, String> {
        let parsed = text.split_once('/').and_then(|(ip, prefix)| {
            let ip: IpAddr = ip.parse().ok()?;
            let prefix: u8 = prefix.parse().ok()?;
            let most = if ip.is_ipv4() { 32 } else { 128 };
            (prefix <= most).then_some(Cidr { ip, prefix })
        });
        parsed.ok_or_else(|| {
            format!("`{text}` is no address with its network's prefix: write 10.0.0.5/24")
        })
    }
}

impl TryFrom<String> for Cidr {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Cidr, String> {
        text.parse()
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.prefix)
    }
}

/// The hardware address of an Ethernet interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(try_from = "String")]
pub struct Mac(pub [u8; 6]);

impl FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Mac, String> {
        let wrong = || format!("`{text}` is no hardware address: write 52:54:00:12:34:56");
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2);
            *byte = part
                .and_then(|part| u8::from_str_radix(part, 16).ok())
                .ok_or_else(wrong)?;
        }
        match parts.next() {
            None => Ok(Mac(bytes)),
            Some(_) => Err(wrong()),
        }
    }
}

impl TryFrom<String> for Mac {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Mac, String> {
        text.parse()
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        match text.parse::<Link>() {
            Err(why) => why,
            Ok(link) => link.check().expect_err(text).0,
        }
    }

    #[test]
    fn links_of_the_command_line() {
        let link: Link = "eth0,10.0.0.5/24,fd00::5/64,gateway=10.0.0.1,mtu=9000,rxe"
            .parse()
            .expect("a link");
        link.check().expect("possible");
        assert_eq!(link.label(), "eth0");
        assert_eq!(link.address.len(), 2);
        assert_eq!(link.address[0].to_string(), "10.0.0.5/24");
        assert_eq!((link.mtu, link.rxe), (Some(9000), true));
        let link: Link = "52:54:00:ab:cd:ef,dhcp".parse().expect("a link");
        link.check().expect("possible");
        assert_eq!(link.label(), "52:54:00:ab:cd:ef");
        assert!(link.address.is_empty());
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for (text, why) in [
            ("eth0,10.0.0.5", "prefix"),
            ("eth0,10.0.0.5/33", "prefix"),
            ("eth0,mtu=9", "outside 68"),
            ("eth0,mtu=big", "no MTU"),
            ("eth0,speed=9", "no `speed`"),
            ("eth0,gateway=10.0.0.1", "needs an `address`"),
            ("eth0,10.0.0.5/24,gateway=fd00::1", "needs an `address`"),
            ("an/interface", "cannot name"),
            ("", "cannot name"),
        ] {
            let said = refused(text);
            assert!(said.contains(why), "{text}: {said}");
        }
        assert!("52:54:00:ab:cd".parse::<Mac>().is_err());
        assert!("52:54:00:ab:cd:ef:00".parse::<Mac>().is_err());
        assert!(Link::default().check().is_err());
    }
}
