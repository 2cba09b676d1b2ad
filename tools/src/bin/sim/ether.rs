//! The network under RDMA: datagrams that are lost, repeated, late and out of order, between the production's software
//! RoCEv2 at both ends. Each link of a host comes from an address of its own, so that what goes wrong on it has a name.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::rc::Rc;

use ferroce_engine::port::Tick;
use ferroce_transport::rdma::provider::Incoming as _;
use ferroce_transport::roce::cm::{Front, Heard, Incoming};
use ferroce_transport::roce::device::{Device, Port, mad_packet};
use ferroce_transport::roce::icrc::{Checked, Flow};
use ferroce_transport::roce::mad::{self, Mad};
use ferroce_transport::roce::packet::{self, Mtu, Psn};
use ferroce_transport::roce::payload::{Outlet, PacketOut, Route};
use ferroce_transport::roce::provider::{Line, Roce};
use ferroce_wire::roce::PORT;

use crate::net::LinkId;
use crate::shared::{Chance, Common, Event, MS, S, US};

/// Datagrams that are taken at once.
const BATCH: usize = 64;

/// How rough it is: each is one in so many datagrams, and 0 is never.
#[derive(Clone, Debug)]
pub struct Rough {
    pub lost: u32,
    pub repeated: u32,
    pub late: u32,
    pub damaged: u32,
    /// Code of a host's MTU, 3 to 5; the node has 5.
    pub mtu: u8,
    /// Packets are numbered from just before where the numbers wrap.
    pub wraps: bool,
}

/// Who hears a datagram.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Place {
    /// What listens, at the node.
    Front,
    Core(usize),
    Host(LinkId),
}

/// When it arrives, a number that keeps those apart that arrive together, from whom, and its bytes.
type Flight = Reverse<(u64, u64, SocketAddr, Vec<u8>)>;

#[derive(Debug)]
pub struct Ether {
    common: Common,
    rng: fastrand::Rng,
    rough: Rough,
    delay: u64,
    flights: BTreeMap<Place, BinaryHeap<Flight>>,
    sent: u64,
    /// Nothing of these links gets through until then.
    dark: BTreeMap<LinkId, u64>,
    cores: usize,
    /// Everything that is sent goes there as well.
    capture: Option<Capture>,
    /// The node is up: it hears and is heard.
    up: bool,
    front: Front,
}

pub type Medium = Rc<RefCell<Ether>>;

/// Where the node is.
fn node() -> IpAddr {
    Ipv4Addr::new(10, 0, 0, 1).into()
}

/// Where it listens.
pub fn service() -> SocketAddr {
    SocketAddr::new(node(), 4420)
}

/// The address a link comes from.
pub fn address(link: LinkId) -> IpAddr {
    Ipv4Addr::from(0x0B00_0000 | link).into()
}

/// The link that comes from an address.
pub fn link_of(ip: IpAddr) -> LinkId {
    match ip {
        IpAddr::V4(ip) => u32::from(ip) & 0x00FF_FFFF,
        IpAddr::V6(_) => unreachable!("all are IPv4"),
    }
}

impl Ether {
    pub fn new(common: Common, rng: fastrand::Rng, rough: Rough, delay: u64) -> Medium {
        Rc::new(RefCell::new(Ether {
            common,
            rng,
            rough,
            delay,
            flights: BTreeMap::new(),
            sent: 0,
            dark: BTreeMap::new(),
            cores: 1,
            capture: None,
            up: false,
            front: Front::new(Vec::new()),
        }))
    }

    /// The node starts, with so many cores. What is under way to the one before still arrives.
    pub fn node_up(&mut self, cores: usize) {
        self.cores = cores;
        self.up = true;
        self.front = Front::new(vec![service()]);
    }

    /// The node is dead.
    pub fn node_down(&mut self) {
        self.up = false;
        self.flights
            .retain(|place, _| matches!(place, Place::Host(_)));
    }

    /// Writes everything that is sent from now on to a file, for packet analysers.
    pub fn capture(&mut self, file: std::fs::File) {
        self.capture = Some(Capture::new(file));
    }

    /// A link carries nothing for a while. False if that is so long, with what was before, that a node may take the host
    /// for dead: the shortest Keep Alive Timeout is a second as the node counts it, and as much is granted besides.
    pub fn darken(&mut self, link: LinkId, ns: u64) -> bool {
        let now = self.common.now();
        let was_dark = self.dark.insert(link, now + ns).is_some();
        !was_dark && ns <= S
    }

    fn carry(&mut self, from: Place, ip: IpAddr, to: SocketAddr, mut datagram: Vec<u8>) {
        let now = self.common.now();
        let (place, link) = match from {
            Place::Host(link) => (steer(&datagram, self.cores), link),
            _ => (Place::Host(link_of(to.ip())), link_of(to.ip())),
        };
        let dark = self.dark.get(&link).is_some_and(|until| *until > now);
        if !self.up || dark {
            return;
        }
        let calm = self.common.calm.get();
        let copies = match self.rng.once_in(self.rough.repeated) {
            true if !calm => 2,
            _ => 1,
        };
        for _ in 0..copies {
            if !calm && self.rng.once_in(self.rough.lost) {
                self.common.note("lost", &[link.into()]);
                continue;
            }
            if !calm && self.rng.once_in(self.rough.damaged) {
                let at = self.rng.usize(0..datagram.len() - 1);
                datagram[at] ^= self.rng.u8(1..);
            }
            let mut delay = self.rng.u64(self.delay / 2..=self.delay);
            if !calm && self.rng.once_in(self.rough.late) {
                delay += self.rng.skewed(US, 20 * MS);
            }
            self.sent += 1;
            let due = now + delay;
            let flight = (due, self.sent, SocketAddr::new(ip, PORT), datagram.clone());
            self.flights.entry(place).or_default().push(Reverse(flight));
            match place {
                Place::Front => self.common.at(due, Event::Knock),
                Place::Core(core) => self.common.wake_at(due, core),
                Place::Host(link) => self.common.at(due, Event::Packet { link }),
            }
        }
    }

    /// Datagrams that were sent and not lost.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    fn arrived(&mut self, place: Place) -> Option<(SocketAddr, Vec<u8>)> {
        let flights = self.flights.get_mut(&place)?;
        let Reverse((due, ..)) = flights.peek()?;
        if *due > self.common.now() {
            return None;
        }
        let Reverse((_, _, from, datagram)) = flights.pop()?;
        Some((from, datagram))
    }

    /// The next request for a connection, as the node's listener hears them.
    pub fn knock(&mut self) -> Option<Box<Incoming>> {
        while let Some((from, datagram)) = self.arrived(Place::Front) {
            let Some((tid, req)) = request(from, &datagram) else {
                continue;
            };
            let now = Tick(self.common.now());
            let local = (0, node(), Mtu::MAX);
            match self.front.on_req(now, local, from, (tid, &req)) {
                Heard::Incoming(incoming) => return Some(incoming),
                Heard::Reject(_, mad) => self.say(from, &mad),
                Heard::Dropped(_) => (),
            }
        }
        None
    }

    /// A request is not taken up.
    pub fn refuse(&mut self, incoming: Box<Incoming>) {
        let to = SocketAddr::new(incoming.request().peer.ip(), PORT);
        self.say(to, &incoming.refusal());
    }

    fn say(&mut self, to: SocketAddr, mad: &Mad) {
        let flow = Flow::new(SocketAddr::new(node(), PORT), to.ip());
        let datagram = bytes(&mad_packet(mad, Psn::new(0)), &flow, 0);
        self.carry(Place::Front, node(), to, datagram);
    }
}

fn request(from: SocketAddr, datagram: &[u8]) -> Option<(u64, ferroce_wire::roce::CmReq)> {
    let packet = packet::parse(datagram)
        .ok()
        .filter(|packet| packet.deth.is_some())?;
    if Flow::new(from, node()).check(datagram, 0) == Checked::Damaged {
        return None;
    }
    match mad::parse(packet.payload)? {
        (tid, mad::Message::Req(req)) => Some((tid, *req)),
        _ => None,
    }
}

/// Who at the node hears a datagram, as the filter on its sockets says (`sys::udp::steer`).
fn steer(datagram: &[u8], cores: usize) -> Place {
    const MAD: usize = 20;
    let byte = |at: usize| usize::from(datagram.get(at).copied().unwrap_or(0));
    match (byte(0), byte(MAD + 17)) {
        (0x64, 0x10) => Place::Front,
        (0x64, _) => Place::Core(byte(MAD + 24 + 7) % cores),
        _ => Place::Core(byte(7) % cores),
    }
}

/// A packet as a datagram.
fn bytes(packet: &PacketOut<'_>, flow: &Flow, id: u16) -> Vec<u8> {
    let mut datagram = packet.head.bytes().to_vec();
    packet
        .payload
        .pieces()
        .for_each(|piece| datagram.extend_from_slice(piece));
    datagram.resize(datagram.len() + packet::pad(packet.payload.len()), 0);
    let icrc = flow.icrc(id, &datagram[..12], std::iter::once(&datagram[12..]));
    datagram.extend(icrc.to_le_bytes());
    datagram
}

/// An end of the network, in the place of sockets.
#[derive(Debug)]
pub struct End {
    medium: Medium,
    place: Place,
    ip: IpAddr,
}

impl Outlet for End {
    fn send(&mut self, route: &Route, packets: &[PacketOut<'_>]) -> usize {
        let mut ether = self.medium.borrow_mut();
        // Now and then a socket takes only some.
        let room = match ether.rng.once_in(40) && !ether.common.calm.get() {
            true => ether.rng.usize(0..=packets.len()),
            false => packets.len(),
        };
        // As the system numbers pieces it cut, or as it does datagrams.
        let counts = ether.rng.bool();
        for packet in &packets[..room] {
            let id = if counts { ether.rng.u16(..64) } else { 0 };
            let datagram = bytes(packet, &route.flow, id);
            let now = ether.common.now();
            if let Some(capture) = &mut ether.capture {
                capture.write(now, (self.ip, route.to.ip()), id, &datagram);
            }
            ether.carry(self.place, self.ip, route.to, datagram);
        }
        room
    }
}

impl Line for End {
    fn receive(&mut self, now: Tick, device: &mut Device) -> bool {
        for _ in 0..BATCH {
            let Some((from, datagram)) = self.medium.borrow_mut().arrived(self.place) else {
                return false;
            };
            device.receive(now, 0, from, &datagram, 0);
        }
        true
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// What a core of the node has.
pub fn core(medium: &Medium, core: usize) -> Roce<End> {
    let cores = medium.borrow().cores;
    end(medium, Place::Core(core), node(), Mtu::MAX, (core, cores))
}

/// What a host has for one link.
pub fn host(medium: &Medium, link: LinkId) -> Roce<End> {
    let mtu = Mtu::from_code(medium.borrow().rough.mtu).expect("a code");
    end(medium, Place::Host(link), address(link), mtu, (0, 1))
}

fn end(
    medium: &Medium,
    place: Place,
    ip: IpAddr,
    mtu: Mtu,
    (worker, workers): (usize, usize),
) -> Roce<End> {
    let (guid, seed, first, wraps) = {
        let mut ether = medium.borrow_mut();
        let (guid, seed, first) = (
            ether.rng.u64(..),
            ether.rng.u64(..),
            ether.rng.u32(0xFF_FF00..=0xFF_FFFF),
        );
        (guid, seed, first, ether.rough.wraps)
    };
    let port = Port { ip, mtu };
    let mut device = Device::new(vec![port], guid, worker as u8, workers as u8, seed);
    if wraps {
        device.number_from(first);
    }
    let line = End {
        medium: medium.clone(),
        place,
        ip,
    };
    Roce::over(line, device)
}

/// True if something for a core has arrived.
pub fn waits(medium: &Medium, core: usize) -> bool {
    let ether = medium.borrow();
    let flights = ether.flights.get(&Place::Core(core));
    flights
        .and_then(BinaryHeap::peek)
        .is_some_and(|Reverse((due, ..))| *due <= ether.common.now())
}

/// A capture file (libpcap's format, of IP packets without what is below them).
#[derive(Debug)]
struct Capture(std::io::BufWriter<std::fs::File>);

impl Capture {
    fn new(file: std::fs::File) -> Capture {
        let mut out = std::io::BufWriter::new(file);
        // Nanoseconds, version 2.4, no limit to speak of, LINKTYPE_IPV4.
        let header = [0xA1B2_3C4D, 2 | 4 << 16, 0, 0, 65_535, 228];
        write(&mut out, &header.map(u32::to_le_bytes).concat());
        Capture(out)
    }

    fn write(&mut self, now: u64, (from, to): (IpAddr, IpAddr), id: u16, datagram: &[u8]) {
        let (IpAddr::V4(from), IpAddr::V4(to)) = (from, to) else {
            unreachable!("all are IPv4")
        };
        let udp_len = 8 + datagram.len() as u16;
        let mut ip = vec![0x45, 0];
        ip.extend((20 + udp_len).to_be_bytes());
        ip.extend(id.to_be_bytes());
        // Not to be fragmented; 64 hops, UDP.
        ip.extend([0x40, 0, 64, 17, 0, 0]);
        ip.extend(from.octets());
        ip.extend(to.octets());
        let words = ip.chunks_exact(2);
        let sum: u32 = words
            .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]))
            .sum();
        // Ten words: what is carried once may carry once more.
        let sum = (sum & 0xFFFF) + (sum >> 16);
        let checksum = !((sum & 0xFFFF) + (sum >> 16)) as u16;
        ip[10..12].copy_from_slice(&checksum.to_be_bytes());
        // The ICRC stands in for the checksum.
        ip.extend([PORT, PORT, udp_len, 0].map(u16::to_be_bytes).concat());
        let len = (ip.len() + datagram.len()) as u32;
        let times = [
            (now / 1_000_000_000) as u32,
            (now % 1_000_000_000) as u32,
            len,
            len,
        ];
        write(&mut self.0, &times.map(u32::to_le_bytes).concat());
        write(&mut self.0, &ip);
        write(&mut self.0, datagram);
    }
}

fn write(out: &mut impl std::io::Write, bytes: &[u8]) {
    out.write_all(bytes)
        .expect("the capture file takes what is written");
}
