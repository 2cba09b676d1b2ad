//! Network interfaces, as the kernel is told of them: rtnetlink for links, addresses and routes (RFC 3549), RDMA netlink
//! for soft-RoCE.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use netlink_packet_core::{
    DefaultNla, Emitable, NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage,
};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::{NETLINK_RDMA, NETLINK_ROUTE};
use netlink_sys::{Socket, SocketAddr};

use crate::config::machine::{Cidr, Mac};
use crate::fail::{Context, Result};

/// RDMA_NL_GET_TYPE(RDMA_NL_NLDEV, RDMA_NLDEV_CMD_NEWLINK), and the attributes it takes (rdma/rdma_netlink.h).
const NLDEV_NEWLINK: u16 = 5 << 10 | 3;
const NLDEV_DEV_NAME: u16 = 2;
const NLDEV_NDEV_NAME: u16 = 51;
const NLDEV_LINK_TYPE: u16 = 65;

/// An Ethernet interface that is there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// The kernel's number of it.
    pub index: u32,
    /// Its hardware address.
    pub mac: Mac,
}

impl Interface {
    /// Brings it up, with an MTU if one is asked for.
    pub fn up(&self, mtu: Option<u32>) -> Result<()> {
        up(self.index, mtu).context(|| match mtu {
            Some(mtu) => format!("{}: cannot be brought up with an MTU of {mtu}", self.name),
            None => format!("{}: cannot be brought up", self.name),
        })
    }

    /// Gives it an address.
    pub fn add_address(&self, address: Cidr) -> Result<()> {
        let message = self.address(address);
        let call = call(RouteNetlinkMessage::NewAddress(message), CREATE);
        call.context(|| format!("{}: cannot have the address {address}", self.name))
    }

    /// Takes an address from it.
    pub fn remove_address(&self, address: Cidr) -> Result<()> {
        let message = self.address(address);
        let call = call(RouteNetlinkMessage::DelAddress(message), 0);
        call.context(|| format!("{}: cannot lose the address {address}", self.name))
    }

    fn address(&self, address: Cidr) -> AddressMessage {
        let mut message = AddressMessage::default();
        message.header.family = family(address.ip);
        message.header.prefix_len = address.prefix;
        message.header.index = self.index;
        // Without this an IPv6 address is looked for on the network for a second, and cannot be bound to meanwhile.
        message.header.flags = AddressHeaderFlags::Nodad;
        message.attributes = vec![
            AddressAttribute::Local(address.ip),
            AddressAttribute::Address(address.ip),
            AddressAttribute::Flags(AddressFlags::Nodad),
        ];
        message
    }

    /// Makes it the way to all other networks.
    pub fn default_route(&self, gateway: IpAddr) -> Result<()> {
        let mut message = RouteMessage::default();
        message.header.address_family = family(gateway);
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::Boot;
        message.header.scope = RouteScope::Universe;
        message.header.kind = RouteType::Unicast;
        message.attributes = vec![
            RouteAttribute::Gateway(RouteAddress::from(gateway)),
            RouteAttribute::Oif(self.index),
        ];
        let call = call(RouteNetlinkMessage::NewRoute(message), CREATE);
        call.context(|| format!("{}: no way through the gateway {gateway}", self.name))
    }

    /// Makes a soft-RoCE device of it, called `rxe_` and its name. One that is there already is no failure.
    pub fn add_rxe(&self) -> Result<()> {
        let device = format!("rxe_{}", self.name);
        if Path::new("/sys/class/infiniband").join(&device).exists() {
            return Ok(());
        }
        new_rxe(&device, &self.name)
            .context(|| format!("{}: soft-RoCE cannot be made of it", self.name))
    }
}

/// What is there, without loopback and what is no Ethernet, in the order of names.
pub fn interfaces() -> Vec<Interface> {
    of_folder(Path::new("/sys/class/net"))
}

fn of_folder(folder: &Path) -> Vec<Interface> {
    let read = |name: &str, file: &str| {
        let text = fs::read_to_string(folder.join(name).join(file)).ok()?;
        Some(text.trim().to_owned())
    };
    let interface = |name: String| {
        // ARPHRD_ETHER.
        (read(&name, "type")? == "1").then_some(())?;
        Some(Interface {
            index: read(&name, "ifindex")?.parse().ok()?,
            mac: read(&name, "address")?.parse().ok()?,
            name,
        })
    };
    let mut all: Vec<Interface> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| interface(entry.file_name().into_string().ok()?))
        .collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

/// Brings loopback up: it has the index 1, always.
pub fn loopback_up() -> Result<()> {
    up(1, None).context(|| "loopback cannot be brought up")
}

/// True while there is a carrier: a cable, and somebody at its other end.
pub fn has_carrier(name: &str) -> bool {
    let file = Path::new("/sys/class/net").join(name).join("carrier");
    fs::read_to_string(file).is_ok_and(|text| text.trim() == "1")
}

const CREATE: u16 = NLM_F_CREATE | NLM_F_REPLACE;

fn family(ip: IpAddr) -> AddressFamily {
    match ip {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

fn up(index: u32, mtu: Option<u32>) -> io::Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message.attributes.extend(mtu.map(LinkAttribute::Mtu));
    call(RouteNetlinkMessage::SetLink(message), 0)
}

/// Has the kernel do something, and waits for its answer.
fn call(message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    exchange(NETLINK_ROUTE, &bytes)
}

fn new_rxe(device: &str, interface: &str) -> io::Result<()> {
    let text = |kind, text: &str| DefaultNla::new(kind, [text.as_bytes(), &[0]].concat());
    let attributes = [
        text(NLDEV_DEV_NAME, device),
        text(NLDEV_LINK_TYPE, "rxe"),
        text(NLDEV_NDEV_NAME, interface),
    ];
    let mut header = NetlinkHeader::default();
    let body: usize = attributes.iter().map(Emitable::buffer_len).sum();
    header.length = (header.buffer_len() + body) as u32;
    header.message_type = NLDEV_NEWLINK;
    header.flags = NLM_F_REQUEST | NLM_F_ACK;
    let mut bytes = vec![0; header.length as usize];
    header.emit(&mut bytes);
    let mut at = header.buffer_len();
    for attribute in &attributes {
        attribute.emit(&mut bytes[at..]);
        at += attribute.buffer_len();
    }
    exchange(NETLINK_RDMA, &bytes)
}

/// Sends a request that asks for an acknowledgement, which says how it went.
fn exchange(protocol: isize, request: &[u8]) -> io::Result<()> {
    let mut socket = Socket::new(protocol)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(request, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer)
        .map_err(|cause| io::Error::other(cause.to_string()))?;
    match answer.payload {
        NetlinkPayload::Error(error) if error.code.is_none() => Ok(()),
        NetlinkPayload::Error(error) => Err(error.to_io()),
        other => Err(io::Error::other(format!("the kernel answered {other:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ethernet_is_found_and_nothing_else() {
        let dir = tempfile::tempdir().expect("a directory");
        for (name, kind, index, mac) in [
            ("eth1", "1", "3", "52:54:00:00:00:01"),
            ("eth0", "1", "2", "52:54:00:00:00:00"),
            ("lo", "772", "1", "00:00:00:00:00:00"),
            ("ib0", "32", "4", "80:00"),
        ] {
            let folder = dir.path().join(name);
            fs::create_dir(&folder).expect("made");
            for (file, text) in [("type", kind), ("ifindex", index), ("address", mac)] {
                fs::write(folder.join(file), format!("{text}\n")).expect("written");
            }
        }
        let found = of_folder(dir.path());
        let names: Vec<&str> = found.iter().map(|found| found.name.as_str()).collect();
        assert_eq!(names, ["eth0", "eth1"]);
        assert_eq!((found[1].index, found[1].mac.0[5]), (3, 1));
    }

    #[test]
    fn the_kernel_says_why_not() {
        let nothing = Interface {
            name: "none9".into(),
            index: 999_999,
            mac: Mac([0; 6]),
        };
        let address = "10.99.99.1/24".parse().expect("an address");
        let said = nothing.add_address(address).expect_err("there is none").0;
        assert!(
            said.starts_with("none9: cannot have the address 10.99.99.1/24: "),
            "{said}"
        );
        let said = nothing.up(Some(9000)).expect_err("there is none").0;
        assert!(said.contains("MTU of 9000"), "{said}");
    }
}
