//! What a packet carries, where it lies, and how packets leave.

use std::net::SocketAddr;

use ferroce_buf::BufList;

use crate::roce::icrc::Flow;
use crate::roce::packet::Head;

/// Bytes of a packet: a piece of a capsule, then a piece of Bufs. They are sent from where they are.
#[derive(Clone, Copy, Debug)]
pub struct Payload<'a> {
    inline: &'a [u8],
    bufs: Option<&'a BufList>,
    at: usize,
    len: usize,
}

impl<'a> Payload<'a> {
    /// None.
    pub const EMPTY: Payload<'a> = Payload {
        inline: &[],
        bufs: None,
        at: 0,
        len: 0,
    };

    /// These bytes.
    pub fn of_bytes(inline: &'a [u8]) -> Payload<'a> {
        Payload {
            inline,
            ..Payload::EMPTY
        }
    }

    /// `len` bytes of Bufs from `at` on.
    pub fn of_bufs(bufs: &'a BufList, at: usize, len: usize) -> Payload<'a> {
        Payload::EMPTY.and_bufs(bufs, at, len)
    }

    /// These bytes, then `len` bytes of Bufs from `at` on.
    #[must_use]
    pub fn and_bufs(mut self, bufs: &'a BufList, at: usize, len: usize) -> Payload<'a> {
        (self.bufs, self.at, self.len) = (Some(bufs), at, len);
        self
    }

    /// How many bytes.
    pub fn len(&self) -> usize {
        self.inline.len() + self.len
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes, in pieces.
    #[inline]
    pub fn pieces(&self) -> impl Iterator<Item = &'a [u8]> + Clone + use<'a> {
        let bufs = self.bufs.filter(|_| self.len > 0);
        let (mut skip, mut left) = (self.at, self.len);
        let first = Some(self.inline).filter(|inline| !inline.is_empty());
        let rest = bufs
            .into_iter()
            .flat_map(BufList::iter)
            .filter_map(move |buf| {
                let bytes = buf.bytes();
                let from = skip.min(bytes.len());
                skip -= from;
                let now = left.min(bytes.len() - from);
                left -= now;
                (now > 0).then(|| &bytes[from..from + now])
            });
        first.into_iter().chain(rest)
    }

    /// The bytes, gathered: for tests.
    pub fn to_vec(&self) -> Vec<u8> {
        self.pieces().collect::<Vec<_>>().concat()
    }
}

/// A packet that wants to be sent.
#[derive(Clone, Copy, Debug)]
pub struct PacketOut<'a> {
    /// Its headers.
    pub head: Head,
    /// What it carries.
    pub payload: Payload<'a>,
}

/// Packets that leave a queue pair at once.
pub const BURST_MAX: usize = 64;

/// Packets to one peer, in order.
#[derive(Debug)]
pub struct Burst<'a> {
    packets: [PacketOut<'a>; BURST_MAX],
    len: usize,
}

impl Default for Burst<'_> {
    fn default() -> Self {
        Burst {
            packets: [PacketOut {
                head: Head::EMPTY,
                payload: Payload::EMPTY,
            }; BURST_MAX],
            len: 0,
        }
    }
}

impl<'a> Burst<'a> {
    /// Adds one at the end.
    ///
    /// # Panics
    /// If it is full.
    pub fn push(&mut self, packet: PacketOut<'a>) {
        self.packets[self.len] = packet;
        self.len += 1;
    }

    /// The packets.
    pub fn packets(&self) -> &[PacketOut<'a>] {
        &self.packets[..self.len]
    }

    /// There is no room for another one.
    pub fn is_full(&self) -> bool {
        self.len == BURST_MAX
    }

    /// There is room for one more only.
    pub fn is_last(&self) -> bool {
        self.len + 1 == BURST_MAX
    }
}

/// The way to a peer.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// Which of our addresses it begins at.
    pub port: usize,
    /// Where it leads.
    pub to: SocketAddr,
    /// For the ICRC.
    pub flow: Flow,
}

/// Where packets leave: sockets, or a test's network.
pub trait Outlet {
    /// Sends packets to one peer, in this order. How many there was room for.
    fn send(&mut self, route: &Route, packets: &[PacketOut<'_>]) -> usize;
}
