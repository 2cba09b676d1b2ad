//! A connection as the fabric has it, and where it is found.

use std::io::{self, IoSliceMut, Read};
use std::net::{SocketAddr, TcpStream};

use ferroce_engine::port::{ConnId, Tick};

use crate::tcp::target::Target;

/// Bufs that are read into by one system call.
const PLACES: usize = 64;

/// A place for a connection.
#[derive(Debug)]
pub struct Slot {
    pub generation: u32,
    pub conn: Option<Box<Conn>>,
}

/// A connection.
#[derive(Debug)]
pub struct Conn {
    pub id: ConnId,
    pub socket: TcpStream,
    pub machine: Target,
    /// The beginning of a PDU, from the last read.
    pub carry: Vec<u8>,
    pub phase: Phase,
    /// `Opened` was reported, so `Closed` will be.
    pub opened: bool,
    /// In `ready`, `later` or `no_room`, or in the staging.
    pub queued: bool,
    /// In `dirty`.
    pub dirty: bool,
    /// The socket took less than it was given: epoll tells when it has room.
    pub blocked: bool,
    /// Epoll watches for room.
    pub watches_room: bool,
    /// The carry holds whole PDUs: they come before anything is read.
    pub replay: bool,
    /// The socket may hold more than was read.
    pub more: bool,
    /// The peer will send no more: to be read until that shows.
    pub ended: bool,
    pub misses: u32,
    /// PDUs that were whole when the deadline was set.
    pub pdus: u64,
    pub deadline: Option<Tick>,
    pub local: SocketAddr,
    pub peer: SocketAddr,
}

/// How far it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    Live,
    /// Nothing is read any more; what waits is sent.
    Ending,
    /// The engine was told the end; what the host still sends is thrown away.
    Lingering,
}

impl Conn {
    /// Reads data of a command into its Bufs, and what comes behind it into the staging. Says how much
    /// was asked for, how much of it has its place in Bufs, and what came.
    pub fn read_into_place(
        &mut self,
        share: usize,
        staging: &mut [u8],
    ) -> (usize, usize, io::Result<usize>) {
        let left = self.machine.data_left();
        let mut places: [IoSliceMut<'_>; PLACES] =
            std::array::from_fn(|_| IoSliceMut::new(&mut []));
        let mut count = 0;
        let mut placed = 0;
        self.machine.space(|bytes| {
            let room = share - placed;
            let bytes = if bytes.len() > room {
                &mut bytes[..room]
            } else {
                bytes
            };
            placed += bytes.len();
            places[count] = IoSliceMut::new(bytes);
            count += 1;
            count < PLACES - 1 && placed < share
        });
        let mut asked = placed;
        if placed == left {
            asked += staging.len();
            places[count] = IoSliceMut::new(staging);
            count += 1;
        }
        let result = (&self.socket).read_vectored(&mut places[..count]);
        (asked, placed, result)
    }

    /// What was read waits for another turn.
    pub fn put_off(&mut self, read: &[u8]) {
        self.carry.extend_from_slice(read);
        self.replay = true;
        // That it waits is not the host's fault. Of a PDU that is not whole the time begins when it is looked at.
        self.deadline = None;
    }
}

/// As epoll names it.
pub const fn token_of(id: ConnId) -> u64 {
    (id.generation as u64) << 32 | id.slot as u64
}

/// The one of that name.
pub const fn id_of(token: u64) -> ConnId {
    ConnId {
        slot: token as u32,
        generation: (token >> 32) as u32,
    }
}

/// The connection, if it still is that one.
#[inline]
pub fn find(slots: &[Slot], id: ConnId) -> Option<&Conn> {
    let slot = slots.get(id.slot as usize)?;
    if slot.generation == id.generation {
        slot.conn.as_deref()
    } else {
        None
    }
}

/// The same, to be changed.
#[inline]
pub fn find_mut(slots: &mut [Slot], id: ConnId) -> Option<&mut Conn> {
    let slot = slots.get_mut(id.slot as usize)?;
    if slot.generation == id.generation {
        slot.conn.as_deref_mut()
    } else {
        None
    }
}

/// One that the engine may still use.
#[inline]
pub fn live(slots: &mut [Slot], id: ConnId) -> Option<&mut Conn> {
    find_mut(slots, id).filter(|conn| conn.phase == Phase::Live && conn.opened)
}
