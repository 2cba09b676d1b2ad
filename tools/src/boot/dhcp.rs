//! A DHCP client (RFC 2131): asks for an address, keeps it by renewing, and asks anew when it is lost. The kernel's UDP
//! carries it, bound to the interface; answers are asked for by broadcast, since there is no address yet to send them to.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use smoltcp::wire::{DhcpMessageType, DhcpOption, DhcpPacket, DhcpRepr, EthernetAddress};
use socket2::{Domain, Protocol, Socket, Type};

use super::board::Board;
use super::net::{Interface, has_carrier};
use crate::config::machine::{Cidr, Mac};
use crate::fail::{Context, Result};

const SERVER: u16 = 67;
const CLIENT: u16 = 68;
/// How long an answer is waited for: at first, and at most, since each try doubles it (RFC 2131 section 4.1).
const PATIENCE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(32));
/// A cable is looked at so often.
const LOOK: Duration = Duration::from_secs(2);
/// What is said of an interface without a cable.
const NO_CARRIER: &str = "it has no carrier: is a cable plugged in?";
/// Subnet mask, router, lease time, renewal and rebinding times.
const WANTED: &[u8] = &[1, 3, 51, 58, 59];
/// The option that names us (RFC 2132 section 3.14).
const HOST_NAME: u8 = 12;

/// What a server granted.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Lease {
    address: Cidr,
    gateway: Option<Ipv4Addr>,
    server: Ipv4Addr,
    /// Time after which it is to be renewed, and after which it is over.
    renew: Duration,
    over: Duration,
}

/// Keeps an interface supplied, from a thread of its own.
pub fn keep(interface: Interface, hostname: Option<String>, board: Board) -> Result<()> {
    let what = format!("dhcp {}", interface.name);
    thread::Builder::new()
        .name(what)
        .spawn(move || {
            let mut client = Client::new(interface, hostname, board);
            loop {
                client.live();
            }
        })
        .context(|| "cannot start a thread")?;
    Ok(())
}

struct Client {
    interface: Interface,
    hostname: Option<String>,
    board: Board,
    patience: Duration,
}

impl Client {
    fn new(interface: Interface, hostname: Option<String>, board: Board) -> Client {
        Client {
            interface,
            hostname,
            board,
            patience: PATIENCE.0,
        }
    }

    /// From no address to one, until that is lost.
    fn live(&mut self) {
        let name = self.interface.name.clone();
        let lease = match self.acquire() {
            Ok(Some(lease)) => lease,
            Ok(None) => {
                let why = match has_carrier(&name) {
                    true => "no DHCP server answers",
                    false => NO_CARRIER,
                };
                self.board.miss(&name, why);
                self.patience = (self.patience * 2).min(PATIENCE.1);
                return;
            }
            Err(cause) => {
                self.board
                    .miss(&name, &format!("DHCP cannot be asked: {cause}"));
                thread::sleep(self.patience);
                return;
            }
        };
        self.patience = PATIENCE.0;
        if let Err(why) = self.install(&lease) {
            self.board.miss(&name, &why.0);
            thread::sleep(PATIENCE.1);
            return;
        }
        self.board
            .found(&name, &format!("has {} by DHCP", lease.address));
        self.hold(&lease);
        self.board.miss(
            &name,
            &format!("{} by DHCP is over: no server renews it", lease.address),
        );
        // What is lost must not be used any more; a failure would mean that it is gone already.
        let _ = self.interface.remove_address(lease.address);
    }

    fn install(&self, lease: &Lease) -> Result<()> {
        self.interface.add_address(lease.address)?;
        match lease.gateway {
            Some(gateway) => self.interface.default_route(IpAddr::V4(gateway)),
            None => Ok(()),
        }
    }

    /// Renews a lease again and again, and where a cable comes back; returns when it is over.
    fn hold(&self, lease: &Lease) {
        let (mut since, mut over) = (Instant::now(), lease.over);
        let mut next = lease.renew;
        loop {
            let was_away = self.wait(lease, since + next);
            // Whoever answers may extend it once seven eighths are over (RFC 2131 section 4.4.5), or where this may be
            // another network by now.
            let to = match was_away || since.elapsed() >= over / 8 * 7 {
                true => Ipv4Addr::BROADCAST,
                false => lease.server,
            };
            match self.renew(lease, to) {
                Ok(Some(Some(renewed))) if renewed.address == lease.address => {
                    log::debug!("{}: {} is renewed", self.interface.name, lease.address);
                    (since, next, over) = (Instant::now(), renewed.renew, renewed.over);
                    continue;
                }
                // Another address, or a refusal.
                Ok(Some(_)) => return,
                Ok(None) | Err(_) => (),
            }
            let left = over.saturating_sub(since.elapsed());
            if left.is_zero() {
                return;
            }
            // Half of what is left, but no more often than once a minute (RFC 2131 section 4.4.5).
            next = since.elapsed() + (left / 2).max(Duration::from_secs(60)).min(left);
        }
    }

    /// Until then, or until a cable that was pulled is back, which is true. Tells of both.
    fn wait(&self, lease: &Lease, until: Instant) -> bool {
        let name = &self.interface.name;
        loop {
            let had = self.board.misses(name);
            match (has_carrier(name), had) {
                (false, _) => self.board.miss(name, NO_CARRIER),
                (true, true) => {
                    let how = format!("its cable is back; it has {} by DHCP", lease.address);
                    self.board.found(name, &how);
                    return true;
                }
                (true, false) => (),
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            thread::sleep(left.min(LOOK));
        }
    }

    /// One round of DISCOVER, OFFER, REQUEST and ACK. None if nobody answers.
    fn acquire(&self) -> io::Result<Option<Lease>> {
        let socket = self.socket(Ipv4Addr::UNSPECIFIED)?;
        let xid = fastrand::u32(..);
        let ask = |kind, offer: Option<&Lease>| DhcpRepr {
            requested_ip: offer.and_then(Lease::v4),
            server_identifier: offer.map(|offer| offer.server),
            broadcast: true,
            ..self.message(kind, xid)
        };
        let everyone = Ipv4Addr::BROADCAST;
        self.send(&socket, &ask(DhcpMessageType::Discover, None), everyone)?;
        let Some(Some(offer)) = self.answer(&socket, xid, DhcpMessageType::Offer)? else {
            return Ok(None);
        };
        self.send(
            &socket,
            &ask(DhcpMessageType::Request, Some(&offer)),
            everyone,
        )?;
        Ok(self.answer(&socket, xid, DhcpMessageType::Ack)?.flatten())
    }

    /// None if nobody answers, Some(None) if the server refuses.
    fn renew(&self, lease: &Lease, to: Ipv4Addr) -> io::Result<Option<Option<Lease>>> {
        let own = lease.v4().unwrap_or(Ipv4Addr::UNSPECIFIED);
        let socket = self.socket(own)?;
        let xid = fastrand::u32(..);
        let request = DhcpRepr {
            client_ip: own,
            ..self.message(DhcpMessageType::Request, xid)
        };
        self.send(&socket, &request, to)?;
        self.answer(&socket, xid, DhcpMessageType::Ack)
    }

    fn socket(&self, own: Ipv4Addr) -> io::Result<UdpSocket> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_reuse_address(true)?;
        socket.set_broadcast(true)?;
        socket.bind_device(Some(self.interface.name.as_bytes()))?;
        socket.bind(&SocketAddr::from((own, CLIENT)).into())?;
        Ok(socket.into())
    }

    fn message(&self, kind: DhcpMessageType, xid: u32) -> DhcpRepr<'static> {
        let Mac(mac) = self.interface.mac;
        DhcpRepr {
            message_type: kind,
            transaction_id: xid,
            secs: 0,
            client_hardware_address: EthernetAddress(mac),
            client_ip: Ipv4Addr::UNSPECIFIED,
            your_ip: Ipv4Addr::UNSPECIFIED,
            server_ip: Ipv4Addr::UNSPECIFIED,
            router: None,
            subnet_mask: None,
            relay_agent_ip: Ipv4Addr::UNSPECIFIED,
            broadcast: false,
            requested_ip: None,
            client_identifier: Some(EthernetAddress(mac)),
            server_identifier: None,
            parameter_request_list: Some(WANTED),
            dns_servers: None,
            max_size: Some(1472),
            lease_duration: None,
            renew_duration: None,
            rebind_duration: None,
            additional_options: &[],
        }
    }

    fn send(&self, socket: &UdpSocket, message: &DhcpRepr, to: Ipv4Addr) -> io::Result<()> {
        let named = self.hostname.as_ref().map(|name| DhcpOption {
            kind: HOST_NAME,
            data: name.as_bytes(),
        });
        let message = DhcpRepr {
            additional_options: named.as_slice(),
            ..message.clone()
        };
        let bytes = bytes_of(&message)?;
        socket.send_to(&bytes, (to, SERVER)).map(drop)
    }

    /// Waits for the answer to a message of ours: that kind, or a refusal, which is Some(None).
    fn answer(
        &self,
        socket: &UdpSocket,
        xid: u32,
        kind: DhcpMessageType,
    ) -> io::Result<Option<Option<Lease>>> {
        let until = Instant::now() + self.patience;
        let mut bytes = [0; 1500];
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            socket.set_read_timeout(Some(left))?;
            let count = match socket.recv(&mut bytes) {
                Ok(count) => count,
                Err(cause)
                    if matches!(
                        cause.kind(),
                        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                    ) =>
                {
                    continue;
                }
                Err(cause) => return Err(cause),
            };
            if let Some((said, lease)) = read(&bytes[..count], xid, self.interface.mac) {
                match (said, lease) {
                    (DhcpMessageType::Nak, _) => return Ok(Some(None)),
                    (said, Some(lease)) if said == kind => return Ok(Some(Some(lease))),
                    _ => (),
                }
            }
        }
    }
}

impl Lease {
    fn v4(&self) -> Option<Ipv4Addr> {
        match self.address.ip {
            IpAddr::V4(ip) => Some(ip),
            IpAddr::V6(_) => None,
        }
    }
}

fn bytes_of(message: &DhcpRepr) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; message.buffer_len()];
    let mut packet = DhcpPacket::new_unchecked(&mut bytes);
    message
        .emit(&mut packet)
        .map_err(|_| io::Error::other("the message cannot be written"))?;
    Ok(bytes)
}

/// What an answer says, if it is one to us: its kind, and the lease if there is one in it.
fn read(bytes: &[u8], xid: u32, mac: Mac) -> Option<(DhcpMessageType, Option<Lease>)> {
    let packet = DhcpPacket::new_checked(bytes).ok()?;
    let said = DhcpRepr::parse(&packet).ok()?;
    if said.transaction_id != xid || said.client_hardware_address != EthernetAddress(mac.0) {
        return None;
    }
    Some((said.message_type, lease_of(&said)))
}

fn lease_of(said: &DhcpRepr) -> Option<Lease> {
    let mask = u32::from(said.subnet_mask.unwrap_or(Ipv4Addr::new(255, 255, 255, 0)));
    let prefix = mask.leading_ones() as u8;
    if mask.count_ones() as u8 != prefix || said.your_ip.is_unspecified() {
        return None;
    }
    // A minute at least, so that no server keeps us busy.
    let over = u64::from(said.lease_duration?).max(60);
    let renew = said.renew_duration.map_or(over / 2, u64::from);
    Some(Lease {
        address: Cidr {
            ip: IpAddr::V4(said.your_ip),
            prefix,
        },
        gateway: said.router,
        server: said.server_identifier?,
        renew: Duration::from_secs(renew.clamp(30, over)),
        over: Duration::from_secs(over),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = Mac([0x52, 0x54, 0, 1, 2, 3]);

    fn client() -> Client {
        let interface = Interface {
            name: "none9".into(),
            index: 9,
            mac: MAC,
        };
        Client::new(interface, Some("node-1".into()), Board::default())
    }

    fn ack() -> DhcpRepr<'static> {
        DhcpRepr {
            your_ip: Ipv4Addr::new(10, 0, 2, 15),
            subnet_mask: Some(Ipv4Addr::new(255, 255, 255, 0)),
            router: Some(Ipv4Addr::new(10, 0, 2, 2)),
            server_identifier: Some(Ipv4Addr::new(10, 0, 2, 3)),
            lease_duration: Some(3600),
            ..client().message(DhcpMessageType::Ack, 7)
        }
    }

    #[test]
    fn an_answer_to_us_is_a_lease() {
        let bytes = bytes_of(&ack()).expect("written");
        let (kind, lease) = read(&bytes, 7, MAC).expect("for us");
        let lease = lease.expect("a lease");
        assert_eq!(kind, DhcpMessageType::Ack);
        assert_eq!(lease.address.to_string(), "10.0.2.15/24");
        assert_eq!(lease.gateway, Some(Ipv4Addr::new(10, 0, 2, 2)));
        assert_eq!((lease.renew.as_secs(), lease.over.as_secs()), (1800, 3600));
    }

    #[test]
    fn what_is_not_for_us_or_no_lease_is_none() {
        let bytes = bytes_of(&ack()).expect("written");
        assert!(read(&bytes, 8, MAC).is_none());
        assert!(read(&bytes, 7, Mac([0; 6])).is_none());
        for cut in 0..bytes.len() {
            let _ = read(&bytes[..cut], 7, MAC);
        }
        let holes = DhcpRepr {
            subnet_mask: Some(Ipv4Addr::new(255, 0, 255, 0)),
            ..ack()
        };
        assert_eq!(lease_of(&holes), None);
        let nobody = DhcpRepr {
            your_ip: Ipv4Addr::UNSPECIFIED,
            ..ack()
        };
        assert_eq!(lease_of(&nobody), None);
        let endless = DhcpRepr {
            lease_duration: None,
            ..ack()
        };
        assert_eq!(lease_of(&endless), None);
        let hasty = DhcpRepr {
            lease_duration: Some(1),
            renew_duration: Some(0),
            ..ack()
        };
        let hasty = lease_of(&hasty).expect("a lease");
        assert_eq!((hasty.renew.as_secs(), hasty.over.as_secs()), (30, 60));
    }
}
