//! What the engine needs of the world: a [`Fabric`] that carries capsules and data, and a
//! [`Backend`] that stores blocks. Transports and drivers implement these; they do not know each
//! other, and meet only in a [`Buf`].
//!
//! Both ports are polled. Nothing here blocks, and nothing calls back.

use std::net::SocketAddr;
use std::sync::Arc;

use ferroce_buf::{Buf, BufList};
use ferroce_wire::cqe::Cqe;
use ferroce_wire::sqe::{Sgl, Sqe};
use ferroce_wire::status::Status;

use crate::health::Health;
use crate::limits;
use crate::table::Transport;

/// Nanoseconds of a clock that only goes forward. The engine never reads a clock; it is told.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash)]
pub struct Tick(pub u64);

impl Tick {
    /// This many nanoseconds later.
    #[must_use]
    pub const fn plus_ns(self, ns: u64) -> Tick {
        Tick(self.0.saturating_add(ns))
    }

    /// This many milliseconds later.
    #[must_use]
    pub const fn plus_ms(self, ms: u64) -> Tick {
        self.plus_ns(ms.saturating_mul(1_000_000))
    }

    /// Nanoseconds since an earlier time; 0 if it is later.
    pub const fn since(self, earlier: Tick) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// A connection of one fabric of one core. The generation makes an old name recognisable after its
/// slot was used again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct ConnId {
    /// Index within the fabric.
    pub slot: u32,
    /// Life of that slot.
    pub generation: u32,
}

/// Names a piece of work of the engine while a fabric or a drive has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Tag {
    /// Index within the core's table.
    pub slot: u32,
    /// Life of that slot: a completion of an older life is recognised and ignored.
    pub generation: u32,
}

/// In-capsule data, as it lies with the fabric.
#[derive(Debug)]
pub enum InCapsule<'a> {
    /// Among other bytes. Who wants it later copies it.
    Bytes(&'a [u8]),
    /// So many bytes at the start of a Buf. Who wants it later may have the Buf, if they leave another one of its length in
    /// its place ([`ferroce_buf::Pool::exchange`]).
    Buf(&'a mut Buf, usize),
}

impl InCapsule<'_> {
    /// The data.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        match self {
            InCapsule::Bytes(bytes) => bytes,
            InCapsule::Buf(buf, len) => &buf.bytes()[..*len],
        }
    }
}

/// What a fabric reports, one thing at a time.
#[derive(Debug)]
pub enum Inbound<'a> {
    /// The transport's own handshake is over; capsules may follow.
    Opened {
        /// The new connection.
        conn: ConnId,
        /// The address the host came to: discovery reports it where a listener has none of its own.
        local: SocketAddr,
        /// The host's address.
        peer: SocketAddr,
        /// What it came by: it decides how hosts name data, and what the controller says of that.
        transport: Transport,
    },
    /// A command capsule is whole.
    Capsule {
        /// Where it came from.
        conn: ConnId,
        /// The submission queue entry as it was sent. It stays valid until the next poll.
        sqe: &'a Sqe,
        /// In-capsule data. It stays valid until the next poll: who wants it later takes it.
        data: InCapsule<'a>,
    },
    /// A command capsule is whole, but the digest of its data does not match: the command is
    /// answered with a transient transport error, and its data is never looked at.
    Spoiled {
        /// Where it came from.
        conn: ConnId,
        /// The submission queue entry as it was sent.
        sqe: &'a Sqe,
    },
    /// The data of a [`Fetch`] is there, all of it, checked by digest if there is one.
    Fetched {
        /// Where it came from.
        conn: ConnId,
        /// The tag of the fetch.
        tag: Tag,
        /// The Bufs of the fetch, filled.
        bufs: BufList,
        /// SUCCESS, or a transient transport error (a data digest that does not match).
        status: Status,
    },
    /// The connection is over. Before this is reported, every Buf it had came back by
    /// [`Fabric::home`]; the [`ConnId`] means nothing any more.
    Closed {
        /// The dead connection.
        conn: ConnId,
    },
}

/// Data wanted from the host: R2T and H2CData, or RDMA READ.
#[derive(Debug)]
pub struct Fetch {
    /// Comes back with the data.
    pub tag: Tag,
    /// The command's identifier (CCCID on TCP).
    pub cid: u16,
    /// Where the host has the data, as the command said it (RDMA reads from there). Checked: of a
    /// kind the transport has, and long enough.
    pub sgl: Sgl,
    /// Offset within the command's data, in bytes.
    pub offset: u32,
    /// Where it is to land. Their summed length is how much.
    pub bufs: BufList,
}

/// Something for the host: a part of a command's data, its completion, or both in one.
#[derive(Debug)]
pub struct Reply {
    /// The command's identifier (CCCID on TCP).
    pub cid: u16,
    /// The command's descriptor: where the host wants the data (RDMA writes there), checked if there
    /// is data. Without data it is whatever the host sent, or none if it sent no SGL; RDMA looks
    /// whether a key is to be invalidated.
    pub sgl: Sgl,
    /// Offset of `bufs` within the command's data, in bytes. Parts are given in ascending order.
    pub offset: u32,
    /// The data. Comes back by [`Fabric::home`] when its last byte left. May be empty.
    pub bufs: BufList,
    /// True if these bytes are the last of the command's data.
    pub last: bool,
    /// The completion, after the last data (or instead of it).
    pub cqe: Option<Cqe>,
    /// The completion says nothing but success and the queue disabled SQ flow control: a fabric
    /// that can say so in the data (NVMe/TCP, SUCCESS flag) need not send it.
    pub may_elide_cqe: bool,
}

/// How a connection is to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Close {
    /// At once; what was not sent is not sent.
    Now,
    /// When what was given to [`Fabric::reply`] has been sent.
    Sent,
}

/// A transport, as one core sees it.
///
/// Calls that name a connection which has ended are ignored, and the Bufs given come back by
/// [`Fabric::home`]: the engine may act on a connection whose `Closed` it has not polled yet.
pub trait Fabric {
    /// A connection as it is handed over from where it was accepted.
    type Incoming: Send;

    /// Takes over a connection.
    fn adopt(&mut self, incoming: Self::Incoming, now: Tick);

    /// The next thing that happened, if any. No [`Inbound::Capsule`] or [`Inbound::Spoiled`] is reported that there is no
    /// room for: the engine has no place for such a command, and its connection waits unread.
    fn poll(&mut self, now: Tick, room: Room) -> Option<Inbound<'_>>;

    /// Asks the host for data.
    fn fetch(&mut self, conn: ConnId, fetch: Fetch);

    /// Gives the host data, a completion, or both.
    fn reply(&mut self, conn: ConnId, reply: Reply);

    /// False while the connection has so much to send already that more should wait.
    fn wants_more(&self, conn: ConnId) -> bool;

    /// The host behind a connection was admitted: its Connect is about to succeed.
    fn admitted(&mut self, _conn: ConnId) {}

    /// Ends a connection. `Closed` follows.
    fn close(&mut self, conn: ConnId, how: Close);

    /// Data whose last byte left, or whose connection died.
    fn home(&mut self) -> Option<BufList>;

    /// Sends what is waiting to be sent. Called once a turn.
    fn flush(&mut self, now: Tick);

    /// When [`Fabric::poll`] must be called even if no peer does anything.
    fn next_timeout(&self) -> Option<Tick>;

    /// True if something can be polled or flushed without waiting for a peer: the core must not
    /// sleep. Bytes that a peer does not take are not such work.
    fn has_work(&self) -> bool;
}

/// Names a drive within the node. Also the number after [`ferroce_buf::Home`] 0 of memory that is
/// the drive's own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct DriveId(pub u16);

impl DriveId {
    /// The home of Bufs that this drive deals.
    pub const fn home(self) -> ferroce_buf::Home {
        ferroce_buf::Home(self.0 + 1)
    }
}

/// What a drive is asked to do. Block numbers and counts are in blocks of the drive's size, checked
/// against its capacity before they come here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    /// Blocks into the Bufs; or, if the drive brings its own memory, Bufs onto the blocks.
    Read {
        /// First block.
        lba: u64,
        /// How many.
        blocks: u32,
    },
    /// The Bufs into blocks.
    Write {
        /// First block.
        lba: u64,
        /// How many.
        blocks: u32,
        /// Done only when the data is on media (Force Unit Access).
        fua: bool,
    },
    /// Everything written and done before is on media.
    Flush,
    /// The blocks can be read, without handing them out.
    Verify {
        /// First block.
        lba: u64,
        /// How many.
        blocks: u32,
    },
    /// The blocks read as zeros from now on.
    WriteZeroes {
        /// First block.
        lba: u64,
        /// How many.
        blocks: u32,
        /// Done only when the zeros are on media.
        fua: bool,
        /// The host does not mind if the space is given back (DEAC).
        deallocate: bool,
    },
    /// The blocks' contents are not needed any more; they read as zeros or as they were.
    Deallocate {
        /// First block.
        lba: u64,
        /// How many.
        blocks: u32,
    },
}

/// One request to a drive.
#[derive(Debug)]
pub struct Io {
    /// Comes back with the result.
    pub tag: Tag,
    /// What to do.
    pub op: Op,
    /// The data of a write, the place for a read. For a read of a drive that brings its own memory:
    /// an empty list with capacity, to get Bufs onto the blocks, or Bufs that they are copied into.
    pub bufs: BufList,
}

/// A request came back.
#[derive(Debug)]
pub struct Done {
    /// Of the request.
    pub tag: Tag,
    /// SUCCESS, or what failed; without DNR where trying again may help.
    pub status: Status,
    /// The Bufs of the request (a drive that keeps written memory keeps those and returns an empty
    /// list), or the drive's own Bufs onto the blocks read, in order, their summed length exactly
    /// the bytes asked for.
    pub bufs: BufList,
}

/// Which commands there is room for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Room {
    /// None.
    None,
    /// Those without in-capsule data.
    Bare,
    /// Those with it, too, of connections that have few commands under way.
    Few,
    /// Any.
    Any,
}

impl Room {
    /// What a command takes, with or without in-capsule data, of a connection that has so many under way: of more than the
    /// engine has got there is none for it.
    #[inline]
    pub fn of(data: bool, under_way: u32) -> Room {
        match (data, under_way < limits::FEW) {
            (false, _) => Room::Bare,
            (true, true) => Room::Few,
            (true, false) => Room::Any,
        }
    }
}

/// A drive, as one core sees it.
pub trait Backend {
    /// Takes a request.
    ///
    /// # Errors
    /// Gives it back if the queue is full; try again when something was polled.
    fn submit(&mut self, io: Io) -> Result<(), Io>;

    /// Tells the device about everything submitted. Called once a turn.
    fn ring_doorbell(&mut self);

    /// The next completion, if any.
    fn poll(&mut self) -> Option<Done>;

    /// Requests that were submitted and not yet polled as done.
    fn in_flight(&self) -> usize;

    /// True if the drive deals the memory for its data itself: reads come back with the drive's own
    /// Bufs, and writes are to be filled into Bufs of [`Backend::space`].
    fn brings_memory(&self) -> bool {
        false
    }

    /// Fresh Bufs of the drive for a write of `len` bytes, whole blocks, at `lba`, added to `into`;
    /// false, and nothing added, while there are none. They are cut as the drive's own pages lie, so
    /// they fit a write at that place only.
    fn space(&mut self, lba: u64, len: usize, into: &mut BufList) -> bool {
        let _ = (lba, len, into);
        false
    }

    /// Of a drive that brings memory: how many of its pages ([`Buf::pages`]) may be with peers at once, being sent or
    /// being filled. So many can be away for ever, and all requests that wait for no peer still find
    /// memory.
    fn lends(&self) -> u32 {
        0
    }

    /// A Buf of the drive comes home.
    fn put(&mut self, buf: Buf) {
        panic!(
            "a drive without memory of its own was given {:?}",
            buf.home()
        );
    }

    /// True if [`Backend::poll`] may yield something without the device doing anything.
    fn has_work(&self) -> bool;

    /// The core was told to remove it, and nothing is asked of it any more. False while something else needs it to be polled:
    /// then it stays, and is asked again.
    fn may_leave(&mut self) -> bool {
        true
    }
}

/// What a drive is, as far as hosts are told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DriveInfo {
    /// What the operator called it, for logs and `ctl show`: `ram:64MiB`, `file:/path`.
    pub label: String,
    /// Bytes of a block: 512 or 4096.
    pub block_len: u32,
    /// Capacity in blocks, at least 1.
    pub blocks: u64,
    /// Unique identifier, never zero, stable exactly as long as the data is (never a drive's own).
    pub uuid: [u8; 16],
    /// Namespace Globally Unique Identifier, by the same rule.
    pub nguid: [u8; 16],
    /// Writes are refused.
    pub read_only: bool,
    /// Written data may be lost at a power failure until a Flush (Identify Controller, VWC).
    pub volatile_cache: bool,
    /// See [`Backend::brings_memory`].
    pub brings_memory: bool,
    /// Blocks that are written best together, at aligned places (NPWG); 1 if it does not matter.
    pub preferred_blocks: u32,
    /// What is deallocated reads as zeros, and hosts are told so. Without it the request is accepted, and what is read
    /// afterwards is not told: the blocks may be as they were.
    pub deallocates: bool,
    /// Bytes of an [`Op::Deallocate`] at most: what it does in a moment, so that others are served between.
    pub max_deallocate: u32,
    /// The most bytes one request may carry.
    pub max_transfer: u32,
    /// The most Bufs (pages of `max_transfer` for memory of its own) one request may carry.
    pub max_bufs: u32,
    /// Where the drive's SMART / Health log is told, if it has one.
    pub health: Option<Arc<Health>>,
}
