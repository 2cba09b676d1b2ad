//! The sockets of software RoCEv2.
//!
//! An address has one socket for each core, and one for requests for connections if somebody listens
//! there; all are bound to port 4791 and share it (SO_REUSEPORT). Which one gets a datagram is decided
//! by the low byte of the number in it, of the queue pair or of the connection, so that a core's
//! packets come to it without a lock or a hop.
//!
//! The ICRC covers the identification of the IPv4 header, which the system chooses. It chooses 0 for
//! a socket that is not connected and may not fragment, and counts from 0 the datagrams that it cuts
//! out of one message (UDP_SEGMENT). That is checked at the start, since everything depends on it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex};

use ferroce_engine::port::Tick;
use ferroce_wire::roce::{ICRC_LEN, Opcode, PORT, RejectReason};
use socket2::{Domain, Protocol, Socket, Type};

use crate::roce::cm::{Front, Heard, Incoming};
use crate::roce::counters::{Counters, Dropped};
use crate::roce::device::{Device, Port, mad_packet};
use crate::roce::icrc::{Checked, Flow};
use crate::roce::mad::{self, Mad, Message};
use crate::roce::packet::{self, Mtu, Psn};
use crate::roce::payload::{BURST_MAX, Outlet, PacketOut, Route};
use crate::sys::udp::{self, Datagrams, Inbox};
use crate::sys::{Epoll, PIECES_MAX};

/// Room for packets that wait in a socket, in bytes, if the system allows.
const RECEIVE_BUFFER: usize = 8 << 20;
/// ... and for each command that peers may have out, what the system counts for one with in-capsule data of 4 KiB in packets
/// of 1024 bytes.
const RECEIVE_BUFFER_OF_RECV: usize = 12 << 10;
/// With less than this, what a few queues have out may be lost.
const RECEIVE_BUFFER_LOW: usize = 1 << 20;
/// Batches of datagrams that are looked at for one request, so that a flood of others does not keep
/// the control thread; the rest waits in the sockets, which wake it again.
const BATCHES_PER_ACCEPT: u32 = 4;
/// Bytes of a message that is cut into datagrams.
const MESSAGE_MAX: usize = 65_000;
/// The longest trailer: pad and ICRC.
const TRAILER_MAX: usize = 3 + ICRC_LEN;

/// What is wanted of sockets beyond the usual.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Packets no longer than this, whatever the interface carries.
    pub mtu_max: Option<Mtu>,
    /// Whether the system may cut long messages into packets; by default, where that is known to be right.
    pub segment: Option<bool>,
    /// Traffic class of packets (DSCP in its upper six bits). `None` is the system's default.
    pub traffic_class: Option<u8>,
    /// RECVs that peers may fill on one core at a time: there is to be room for what they send. 0 is a few.
    pub recvs: u32,
    /// Drops this share of the packets that come, in millionths, drawn by the seed: to measure and to
    /// test what loss does.
    pub loss_ppm: u32,
    /// See `loss_ppm`.
    pub loss_seed: u64,
}

/// Why sockets could not be had.
#[derive(Debug)]
pub enum OpenError {
    /// The address stands for all of a machine, but an ICRC covers the very one.
    Wildcard(IpAddr),
    /// No interface has the address, or its MTU is not to be had.
    Interface(IpAddr, io::Error),
    /// The interface carries no packet of the smallest size.
    Mtu(IpAddr, u32),
    /// Somebody else has the port.
    Taken(IpAddr),
    /// Something else failed: what, and why.
    System(IpAddr, &'static str, io::Error),
    /// Packets do not leave as they must.
    Mangled(IpAddr),
    /// More cores than numbers can be dealt to.
    Workers(usize),
}

impl std::fmt::Display for OpenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            OpenError::Wildcard(ip) => {
                write!(f, "RoCE needs the very address hosts will use, not {ip}")
            }
            OpenError::Interface(ip, cause) => {
                write!(
                    f,
                    "no interface of this machine has the address {ip}: {cause}"
                )
            }
            OpenError::Mtu(ip, mtu) => {
                write!(
                    f,
                    "the interface of {ip} has an MTU of {mtu}, too little for RoCE packets"
                )
            }
            OpenError::Taken(ip) => write!(
                f,
                "UDP port {PORT} of {ip} is in use: by the kernel's rdma_rxe, or by another RoCE \
                 program on this address (rdma link; ss -ulpn sport = {PORT})"
            ),
            OpenError::System(ip, what, cause) => write!(f, "{what} at {ip} port {PORT}: {cause}"),
            OpenError::Mangled(ip) => write!(
                f,
                "packets from {ip} do not leave as RoCE needs them (IPv4 identification 0, not \
                 fragmented): this kernel, or a sandbox around it, does it differently"
            ),
            OpenError::Workers(count) => {
                write!(
                    f,
                    "RoCE packets can be dealt to 128 cores at most, not {count}"
                )
            }
        }
    }
}

impl std::error::Error for OpenError {}

/// The port of an address, by its interface.
///
/// # Errors
/// If no interface has it, or one that carries too little.
pub fn port_of(ip: IpAddr) -> Result<Port, OpenError> {
    if ip.is_unspecified() {
        return Err(OpenError::Wildcard(ip));
    }
    let name = udp::interface_of(ip).map_err(|cause| OpenError::Interface(ip, cause))?;
    let failed = |cause| OpenError::System(ip, "cannot find what its interface carries", cause);
    let mtu = udp::mtu_of(&name).map_err(failed)?;
    let mtu = Mtu::of_interface(mtu).ok_or(OpenError::Mtu(ip, mtu))?;
    Ok(Port { ip, mtu })
}

/// How packets come and go at one of our addresses, to be told at the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Facts {
    /// It, and what its packets carry.
    pub port: Port,
    /// Room for packets that wait in a core's socket, in bytes.
    pub room: usize,
    /// The system cuts long messages into packets (UDP_SEGMENT).
    pub segment: bool,
    /// The system hands over packets together (UDP_GRO).
    pub gro: bool,
}

impl Facts {
    /// Bits of an ICRC that are checked: over IPv4 it covers the identification, which sockets do not see.
    pub fn icrc_bits(&self) -> u32 {
        match self.port.ip.is_ipv4() {
            true => 16,
            false => 32,
        }
    }
}

impl std::fmt::Display for Facts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let used = |used| if used { "with" } else { "without" };
        write!(
            f,
            "RoCE in software at {}: packets of {} bytes, {} of 32 bits of their ICRCs checked, {} UDP_SEGMENT, {} UDP_GRO",
            self.port.ip,
            self.port.mtu.bytes(),
            self.icrc_bits(),
            used(self.segment),
            used(self.gro)
        )
    }
}

/// True if what leaves by this address may be cut by the system (UDP_SEGMENT), with ICRCs that still hold. Over IPv6 they
/// cover nothing that cutting changes. Over IPv4 they cover the identification, which the kernel counts from 0 when it cuts;
/// a NIC that does so itself may not, and what it does cannot be seen from here: not even from a virtual cable (veth),
/// which hands on what is not cut yet to whatever is behind it. So there it is for loopback alone.
fn may_segment(ip: IpAddr) -> bool {
    ip.is_ipv6() || ip.is_loopback()
}

/// Opens the sockets of addresses for so many cores, and one more for each if somebody listens there
/// at `services`. What each core gets, in order, and what listens.
///
/// # Errors
/// What is in the way, in words for people.
pub fn open(
    addresses: &[IpAddr],
    services: Vec<SocketAddr>,
    workers: usize,
    options: Options,
) -> Result<(Vec<Sockets>, Option<Listener>), OpenError> {
    let count = u8::try_from(workers)
        .ok()
        .filter(|count| (1..=128).contains(count))
        .ok_or(OpenError::Workers(workers))?;
    let front = !services.is_empty();
    let mut cores: Vec<_> = (0..count)
        .map(|worker| Sockets::new(worker, count, options))
        .collect::<io::Result<_>>()
        .map_err(|cause| OpenError::System(addresses[0], "cannot make an epoll", cause))?;
    let mut doors = Vec::new();
    for ip in addresses {
        let mut port = port_of(*ip)?;
        port.mtu = port.mtu.min(options.mtu_max.unwrap_or(Mtu::MAX));
        probe(*ip)?;
        // Nobody else has it: with sharing asked for, that would not show.
        drop(bind(*ip, PORT, false)?);
        let segment = options.segment.unwrap_or_else(|| may_segment(*ip));
        for core in &mut cores {
            let socket = marked(bind(*ip, PORT, true)?, *ip, options)?;
            core.add(port, socket, segment)?;
        }
        if front {
            let socket = marked(bind(*ip, PORT, true)?, *ip, options)?;
            doors.push(socket);
        }
        let last = doors
            .last()
            .or(cores[0].sockets.last())
            .expect("one was bound");
        udp::steer(last.as_fd(), count, front)
            .map_err(|cause| OpenError::System(*ip, "cannot deal packets to cores", cause))?;
        // They are the same for every core.
        let facts = cores[0].facts.last().expect("it was added");
        let room = facts.room;
        log::info!("{facts}, {} KiB of room for those that come", room / 1024);
        if room < RECEIVE_BUFFER_LOW {
            log::warn!(
                "RoCE at {ip}: {} KiB of room for packets holds about {} commands of all queues of \
                 a core; more at a time may be lost and sent again. Raise net.core.rmem_max or grant \
                 CAP_NET_ADMIN",
                room / 1024,
                room / RECEIVE_BUFFER_OF_RECV
            );
        }
    }
    let listener = match doors.is_empty() {
        true => None,
        false => Some(Listener::new(cores[0].ports.clone(), doors, services)?),
    };
    Ok((cores, listener))
}

fn bind(ip: IpAddr, port: u16, shared: bool) -> Result<Socket, OpenError> {
    let failed = |what| move |cause| OpenError::System(ip, what, cause);
    let address = SocketAddr::new(ip, port);
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM.nonblocking().cloexec(),
        Some(Protocol::UDP),
    )
    .map_err(failed("cannot open a socket"))?;
    if shared {
        socket
            .set_reuse_port(true)
            .map_err(failed("cannot share the port"))?;
    }
    if ip.is_ipv6() {
        socket
            .set_only_v6(true)
            .map_err(failed("cannot take IPv6 alone"))?;
        udp::take_without_checksum(socket.as_fd())
            .map_err(failed("cannot take packets without a UDP checksum"))?;
    }
    udp::never_fragment(socket.as_fd(), ip.is_ipv4()).map_err(failed("cannot forbid fragments"))?;
    socket
        .bind(&address.into())
        .map_err(|cause| match cause.kind() {
            io::ErrorKind::AddrInUse => OpenError::Taken(ip),
            _ => OpenError::System(ip, "cannot bind", cause),
        })?;
    Ok(socket)
}

/// With the traffic class of its packets. ICRCs leave it out.
fn marked(socket: Socket, ip: IpAddr, options: Options) -> Result<Socket, OpenError> {
    let Some(class) = options.traffic_class else {
        return Ok(socket);
    };
    let set = match ip {
        IpAddr::V4(_) => socket.set_tos_v4(class.into()),
        IpAddr::V6(_) => socket.set_tclass_v6(class.into()),
    };
    set.map_err(|cause| OpenError::System(ip, "cannot set the traffic class of packets", cause))?;
    Ok(socket)
}

/// Sends ourselves a datagram as packets are sent, and looks whether it has the identification that
/// their ICRCs take for granted.
fn probe(ip: IpAddr) -> Result<(), OpenError> {
    if ip.is_ipv6() {
        return Ok(());
    }
    let failed = |what| move |cause| OpenError::System(ip, what, cause);
    let (from, to) = (bind(ip, 0, false)?, bind(ip, 0, false)?);
    if udp::only_plain(to.as_fd()).is_err() {
        // Without filters there is no telling; then the first connection will.
        return Ok(());
    }
    let address = to.local_addr().map_err(failed("cannot find the port"))?;
    to.set_nonblocking(false).map_err(failed("cannot wait"))?;
    to.set_read_timeout(Some(std::time::Duration::from_secs(1)))
        .map_err(failed("cannot wait"))?;
    // Two, because a counter may happen to be at 0.
    let mut byte = [std::mem::MaybeUninit::uninit(); 1];
    for _ in 0..2 {
        from.send_to(&[0], &address)
            .map_err(failed("cannot send to ourselves"))?;
        to.recv_from(&mut byte)
            .map_err(|_| OpenError::Mangled(ip))?;
    }
    Ok(())
}

/// One core's sockets, one for each address.
#[derive(Debug)]
pub struct Sockets {
    pub(crate) worker: u8,
    pub(crate) workers: u8,
    pub(crate) ports: Vec<Port>,
    sockets: Vec<Socket>,
    overflows: Vec<u32>,
    inbox: Inbox,
    epoll: Epoll,
    /// Of each socket.
    facts: Vec<Facts>,
    options: Options,
    random: fastrand::Rng,
    told: bool,
    /// The system had no room for what was sent last.
    pub(crate) full: bool,
}

impl Sockets {
    fn new(worker: u8, workers: u8, options: Options) -> io::Result<Sockets> {
        Ok(Sockets {
            worker,
            workers,
            ports: Vec::new(),
            sockets: Vec::new(),
            overflows: Vec::new(),
            inbox: Inbox::default(),
            epoll: Epoll::new()?,
            facts: Vec::new(),
            options,
            random: fastrand::Rng::with_seed(options.loss_seed ^ u64::from(worker)),
            told: false,
            full: false,
        })
    }

    /// How packets come and go at each of its addresses.
    pub fn facts(&self) -> &[Facts] {
        &self.facts
    }

    fn add(&mut self, port: Port, socket: Socket, segment: bool) -> Result<(), OpenError> {
        let failed = |what| move |cause| OpenError::System(port.ip, what, cause);
        let wanted = RECEIVE_BUFFER.max(self.options.recvs as usize * RECEIVE_BUFFER_OF_RECV);
        let room = udp::receive_buffer(socket.as_fd(), wanted)
            .map_err(failed("cannot make room for packets"))?;
        // Both are for speed and for knowing; old kernels are slower and know less.
        let gro = udp::receive_together(socket.as_fd()).is_ok();
        let _ = udp::count_overflows(socket.as_fd());
        self.epoll
            .add_datagrams(socket.as_fd())
            .map_err(failed("cannot watch the socket"))?;
        self.ports.push(port);
        self.sockets.push(socket);
        self.overflows.push(0);
        self.facts.push(Facts {
            port,
            room,
            segment,
            gro,
        });
        Ok(())
    }

    /// Takes the packets that are there, a bounded number, to the device. True if there may be more.
    pub fn receive(&mut self, now: Tick, device: &mut Device) -> bool {
        let mut more = false;
        for port in 0..self.sockets.len() {
            // Errors of single datagrams do not come here, since the sockets are not connected.
            let Ok(count) = self.inbox.receive(self.sockets[port].as_fd()) else {
                continue;
            };
            more |= count == Inbox::CAPACITY;
            for i in 0..count {
                let Some(message) = self.inbox.get(i) else {
                    continue;
                };
                if let Some(overflows) = message.overflows {
                    let new = overflows.wrapping_sub(self.overflows[port]);
                    device.counters.overflows += u64::from(new);
                    self.overflows[port] = overflows;
                }
                for (id, datagram) in message.bytes.chunks(message.segment).enumerate() {
                    if self.options.loss_ppm > 0
                        && self.random.u32(..1_000_000) < self.options.loss_ppm
                    {
                        device.counters.drop(Dropped::Injected);
                        continue;
                    }
                    device.receive(now, port, message.from, datagram, id as u16);
                }
            }
        }
        more
    }
}

impl AsFd for Sockets {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

impl Outlet for Sockets {
    fn send(&mut self, route: &Route, packets: &[PacketOut<'_>]) -> usize {
        let socket = self.sockets[route.port].as_fd();
        let segment = &mut self.facts[route.port].segment;
        match send(socket, route, packets, *segment) {
            Ok(sent) => sent,
            Err(cause) => match cause.raw_os_error() {
                Some(libc::EAGAIN | libc::ENOBUFS) => {
                    self.full = true;
                    0
                }
                Some(libc::EINVAL | libc::EIO | libc::EOPNOTSUPP) if *segment => {
                    log::info!("RoCE sends packets one by one: {cause}");
                    *segment = false;
                    0
                }
                // As good as lost on the way, which the peer will notice, or we by its silence.
                _ => {
                    if !self.told {
                        log::warn!("RoCE packets to {} cannot be sent: {cause}", route.to.ip());
                        self.told = true;
                    }
                    packets.len()
                }
            },
        }
    }
}

/// Sends packets to one peer, those of one length as one message if the system cuts them. How many
/// were sent.
fn send(
    socket: BorrowedFd<'_>,
    route: &Route,
    packets: &[PacketOut<'_>],
    segment: bool,
) -> io::Result<usize> {
    let mut trailers = [[0u8; TRAILER_MAX + 1]; BURST_MAX];
    // Of each message: behind its last packet.
    let mut ends = [0u8; BURST_MAX];
    let (mut messages, mut at) = (0, 0);
    while at < packets.len() {
        let first = len(&packets[at]);
        let (mut end, mut total, mut pieces) = (at, 0, 0);
        // Only the last one may be shorter than the first.
        while end < packets.len() && end - at < udp::SEGMENTS_MAX {
            let (next, more) = (len(&packets[end]), pieces_of(&packets[end]));
            let joins = segment
                && next <= first
                && total + next <= MESSAGE_MAX
                && pieces + more <= PIECES_MAX;
            if end > at && !joins {
                break;
            }
            seal(
                &packets[end],
                &route.flow,
                (end - at) as u16,
                &mut trailers[end],
            );
            total += next;
            pieces += more;
            end += 1;
            if next < first {
                break;
            }
        }
        ends[messages] = end as u8;
        messages += 1;
        at = end;
    }
    let mut list = Datagrams::new(route.to);
    let mut from = 0;
    'all: for end in ends[..messages].iter().map(|end| usize::from(*end)) {
        let cut = if end - from > 1 {
            len(&packets[from]) as u16
        } else {
            0
        };
        // What does not fit the list now is left for the next one, by whole messages.
        let pieces: usize = packets[from..end].iter().map(pieces_of).sum();
        if !list.has_room(pieces) || !list.begin(cut) {
            break 'all;
        }
        for (packet, trailer) in packets[from..end].iter().zip(&trailers[from..end]) {
            list.push(packet.head.bytes());
            for piece in packet.payload.pieces() {
                list.push(piece);
            }
            list.push(&trailer[..packet::pad(packet.payload.len()) + ICRC_LEN]);
        }
        from = end;
    }
    let sent = list.send(socket)?;
    Ok(sent
        .checked_sub(1)
        .map_or(0, |last| usize::from(ends[last])))
}

/// Head, payload and trailer.
fn pieces_of(packet: &PacketOut<'_>) -> usize {
    2 + packet.payload.pieces().count()
}

fn len(packet: &PacketOut<'_>) -> usize {
    packet::datagram_len(&packet.head, packet.payload.len())
}

/// Writes what follows the payload of a packet.
fn seal(packet: &PacketOut<'_>, flow: &Flow, id: u16, trailer: &mut [u8; TRAILER_MAX + 1]) {
    const ZEROS: [u8; 3] = [0; 3];
    let pad = packet::pad(packet.payload.len());
    let pieces = packet
        .payload
        .pieces()
        .chain(std::iter::once(&ZEROS[..pad]));
    let icrc = flow.icrc(id, packet.head.bytes(), pieces);
    trailer[pad..pad + ICRC_LEN].copy_from_slice(&icrc.to_le_bytes());
}

/// Hears requests for connections, for a control thread.
#[derive(Debug)]
pub struct Listener {
    ports: Vec<Port>,
    sockets: Vec<Socket>,
    front: Front,
    inbox: Inbox,
    /// Of those taken last: the port they came to, how many, and how many were looked at.
    taken: (usize, usize, usize),
    epoll: Epoll,
    psn: Psn,
    /// What each socket had no room for, as it said last.
    overflows: Vec<u32>,
    /// It was said that somebody translates addresses.
    told: bool,
    /// What happened to packets.
    pub counters: Counters,
    /// The same as it was a moment ago, for other threads.
    shared: Arc<Mutex<Counters>>,
}

impl Listener {
    fn new(
        ports: Vec<Port>,
        sockets: Vec<Socket>,
        services: Vec<SocketAddr>,
    ) -> Result<Listener, OpenError> {
        let ip = ports[0].ip;
        let failed = |cause| OpenError::System(ip, "cannot watch the socket", cause);
        let epoll = Epoll::new().map_err(failed)?;
        for socket in &sockets {
            epoll.add_datagrams(socket.as_fd()).map_err(failed)?;
            // Old kernels know less.
            let _ = udp::count_overflows(socket.as_fd());
        }
        Ok(Listener {
            ports,
            overflows: vec![0; sockets.len()],
            told: false,
            shared: Arc::default(),
            sockets,
            front: Front::new(services),
            inbox: Inbox::default(),
            taken: (0, 0, 0),
            epoll,
            psn: Psn::new(0),
            counters: Counters::default(),
        })
    }

    /// The addresses that are listened at.
    pub fn services(&self) -> &[SocketAddr] {
        self.front.services()
    }

    /// Nobody is heard at an address any more.
    pub fn forget(&mut self, service: SocketAddr) {
        self.front.forget(service);
    }

    /// Turns a request away, for want of room.
    pub fn refuse(&mut self, incoming: &Incoming) {
        self.say(incoming.port, incoming.from, &incoming.refusal());
    }

    /// What it counts, as it was a moment ago, for threads that show it.
    pub fn shared(&self) -> Arc<Mutex<Counters>> {
        self.shared.clone()
    }

    /// The next request, without waiting, among a bounded number of datagrams.
    pub fn accept(&mut self, now: Tick) -> Option<Box<Incoming>> {
        let incoming = self.next(now);
        // Who reads it is quick; if somebody does just now, the next time will do.
        if let Ok(mut shared) = self.shared.try_lock() {
            *shared = self.counters;
        }
        incoming
    }

    fn next(&mut self, now: Tick) -> Option<Box<Incoming>> {
        let mut batches = BATCHES_PER_ACCEPT;
        loop {
            let (port, count, at) = self.taken;
            if at < count {
                self.taken.2 += 1;
                if let Some(incoming) = self.hear(now, port, at) {
                    return Some(incoming);
                }
                continue;
            }
            // Only here: what was taken already would wake nobody.
            batches = batches.checked_sub(1)?;
            // What comes faster than it is taken waits in the sockets, whose room is bounded.
            let next = (0..self.sockets.len()).find_map(|i| {
                let port = (port + 1 + i) % self.sockets.len();
                let count = self.inbox.receive(self.sockets[port].as_fd()).ok()?;
                Some((port, count))
            });
            let (port, count) = next?;
            self.taken = (port, count, 0);
        }
    }

    fn hear(&mut self, now: Tick, port: usize, at: usize) -> Option<Box<Incoming>> {
        let message = self.inbox.get(at)?;
        self.counters.received += 1;
        if let Some(overflows) = message.overflows {
            let new = overflows.wrapping_sub(self.overflows[port]);
            self.counters.overflows += u64::from(new);
            self.overflows[port] = overflows;
        }
        let (from, local) = (message.from, self.ports[port]);
        let heard = match request(message.bytes, from, local.ip) {
            Ok((tid, req)) => {
                self.front
                    .on_req(now, (port, local.ip, local.mtu), from, (tid, &req))
            }
            Err(why) => Heard::Dropped(why),
        };
        match heard {
            Heard::Incoming(incoming) => return Some(incoming),
            Heard::Reject(reason, mad) => {
                log::debug!("a RoCE connection of {from} is refused: {reason}");
                if reason == RejectReason::INVALID_GID && !self.told {
                    self.told = true;
                    log::warn!("{}", translated(from.ip(), local.ip));
                }
                self.say(port, from, &mad);
            }
            Heard::Dropped(why) => self.counters.drop(why),
        }
        None
    }

    fn say(&mut self, port: usize, mut to: SocketAddr, mad: &Mad) {
        to.set_port(PORT);
        let flow = Flow::new(SocketAddr::new(self.ports[port].ip, PORT), to.ip());
        let route = Route { port, to, flow };
        let packet = mad_packet(mad, self.psn);
        self.psn = self.psn.plus(1);
        // If it is lost, the request comes again.
        let _ = send(self.sockets[port].as_fd(), &route, &[packet], false);
        self.counters.sent += 1;
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

/// What to do about a request whose addresses are not those of its packet.
fn translated(from: IpAddr, to: IpAddr) -> String {
    format!(
        "a RoCE connection from {from} to {to} is refused, as all like it: inside, its packet names other addresses, so \
         they are translated on the way (NAT, a published container port, a service address). The checksums of RoCE \
         cover them: have hosts use the very address, as with host networking, macvlan or routed addresses"
    )
}

/// The request in a datagram.
fn request(
    datagram: &[u8],
    from: SocketAddr,
    local: IpAddr,
) -> Result<(u64, ferroce_wire::roce::CmReq), Dropped> {
    let packet = packet::parse(datagram)?;
    if packet.bth.opcode != Opcode::UD_SEND_ONLY {
        return Err(Dropped::Qpn);
    }
    let mad = crate::roce::device::management(&packet)?;
    if Flow::new(from, local).check(datagram, 0) == Checked::Damaged {
        return Err(Dropped::Icrc);
    }
    match mad::parse(mad) {
        Some((tid, Message::Req(req))) => Ok((tid, *req)),
        _ => Err(Dropped::Mad),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_packets_come_and_go_is_told() {
        let facts = |ip: &str, segment, gro| {
            let ip = ip.parse().expect("an address");
            let port = Port { ip, mtu: Mtu::MAX };
            let room = RECEIVE_BUFFER;
            let facts = Facts {
                port,
                room,
                segment,
                gro,
            };
            facts.to_string()
        };
        assert_eq!(
            facts("10.0.0.5", false, true),
            "RoCE in software at 10.0.0.5: packets of 4096 bytes, 16 of 32 bits of their ICRCs checked, without \
             UDP_SEGMENT, with UDP_GRO"
        );
        assert_eq!(
            facts("fd00::5", true, false),
            "RoCE in software at fd00::5: packets of 4096 bytes, 32 of 32 bits of their ICRCs checked, with \
             UDP_SEGMENT, without UDP_GRO"
        );
    }
}
