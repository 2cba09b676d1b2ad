//! Two ends of software RoCEv2 for tests in virtual time, a host and a target, and what lies on the cable between them.
#![allow(dead_code, reason = "each test uses its part")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ferroce_engine::port::Tick;
use ferroce_transport::rdma::provider::Demand;
use ferroce_transport::roce::cm::{Front, Heard};
use ferroce_transport::roce::device::Device;
use ferroce_transport::roce::mad;
use ferroce_transport::roce::packet::{self, Mtu};
use ferroce_transport::roce::payload::{PacketOut, Route};
use ferroce_wire::roce::PORT;

pub const HOST: usize = 0;
pub const TARGET: usize = 1;

pub fn address(who: usize) -> SocketAddr {
    let ip: IpAddr = Ipv4Addr::new(10, 0, 0, 1 + who as u8).into();
    SocketAddr::new(ip, PORT)
}

pub fn service() -> SocketAddr {
    SocketAddr::new(address(TARGET).ip(), 4420)
}

/// A packet as it is on the cable.
pub fn datagram(route: &Route, packet: &PacketOut<'_>) -> Vec<u8> {
    let mut datagram = packet.head.bytes().to_vec();
    datagram.extend(packet.payload.to_vec());
    datagram.resize(datagram.len() + packet::pad(packet.payload.len()), 0);
    let icrc = route
        .flow
        .icrc(0, &datagram[..12], std::iter::once(&datagram[12..]));
    datagram.extend(icrc.to_le_bytes());
    datagram
}

/// A datagram of the other end arrives at this one, which accepts whoever asks for a connection.
pub fn arrive(
    datagram: &[u8],
    now: Tick,
    who: usize,
    front: &mut Front,
    device: &mut Device,
    demand: &Demand,
) {
    let from = address(1 - who);
    let parsed = packet::parse(datagram).expect("ours are proper");
    let Some((tid, mad::Message::Req(req))) = mad::parse(parsed.payload) else {
        device.receive(now, 0, from, datagram, 0);
        return;
    };
    let local = (0, address(who).ip(), Mtu::MAX);
    let Heard::Incoming(incoming) = front.on_req(now, local, from, (tid, req)) else {
        panic!("the request is proper")
    };
    let qp = device.open(incoming, demand, now).expect("there is room");
    (0..demand.recvs).for_each(|_| device.post_recv(qp, None));
    device.accept(qp, b"", now);
}
