//! What the NVMe/RDMA binding needs of RDMA: queue pairs (RC, reliably connected), completions,
//! memory that a peer may reach, and connections. It is the least that libibverbs with librdmacm, our
//! software RoCEv2 and the in-memory provider of the tests all give.
//!
//! One [`Provider`] is one core's: its queue pairs and one completion queue. It is polled, never
//! blocks, and allocates nothing per I/O. Listening is no part of it: requests for connections come
//! to a core as [`Provider::Incoming`], from wherever they were accepted.
//!
//! # A queue pair's life
//! - Passive: [`Provider::open`] makes the queue pair of a request (or [`Provider::reject`] refuses
//!   it), [`Provider::post_recv`] fills its receive queue, [`Provider::accept`] lets the peer in.
//! - Active: [`Provider::connect`], then [`Provider::post_recv`]. The peer sends nothing before it
//!   was sent something, so the order is safe.
//! - [`Event::Established`] comes before any other event of the queue pair but
//!   [`Event::Disconnected`]: a message that overtakes the last step of the handshake ends it.
//! - [`Event::Disconnected`] comes once, unless [`Provider::close`] was called before. From then on
//!   nothing is sent; what was posted, and what still is, comes back as [`WcStatus::Flushed`].
//! - [`Event::Gone`] is the last. Before it every Buf posted or granted came back: those of chains
//!   and READs by their completions, those of RECVs by [`Event::Unposted`], those of grants because
//!   the binding revoked them, which it does when it sees `Disconnected` or calls `close`; `Gone`
//!   waits for that. After `Gone` the [`QpId`] means nothing, and using it is a mistake that panics.
//!
//! # Order
//! What is posted to a queue pair is carried out in that order: a message is received after the
//! WRITEs posted before it are placed. READs are the exception of all RDMA: a later WRITE or SEND may
//! overtake them. Completions of one queue pair come in the order of posting, RECVs aside.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use ferroce_buf::{Buf, BufList, Region};
use ferroce_engine::port::Tick;

/// Bytes of a message that a receive completion carries itself: an SQE. What is longer lands in the
/// RECV's Buf. A CQE fits as well.
pub const HEAD_LEN: usize = 64;

/// Private data at most, in bytes, of any CM message (a REP has room for 196; a REQ of the IP CM
/// service for 56, a REJ for 148).
pub const PRIVATE_MAX: usize = 196;

/// A peer that asks for a connection with a queue pair that it has one with already is given so long, in ms, to acknowledge
/// something on that one. A peer that is there does, though some packets are lost or it shares its CPU; and one that came
/// back (Linux after 10 s, a person after one) finds the old connection gone when it tries again.
pub const STALE_MS: u64 = 500;

/// REJ reason "consumer defined": why is in the private data.
pub const REJ_CONSUMER: u16 = 28;

/// A queue pair of one provider. The generation makes an old name recognisable after its slot was
/// used again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct QpId {
    /// Index within the provider, small and dense: the binding keeps its own table by it.
    pub slot: u32,
    /// Life of that slot.
    pub generation: u32,
}

/// Private data of a CM message. REQ, REP and REJ carry a field of fixed length, so what was given
/// may come with zeros behind it.
#[derive(Clone, Copy)]
pub struct PrivateData {
    bytes: [u8; PRIVATE_MAX],
    len: u8,
}

/// A peer's request for a connection.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// The address the peer came to, with the port (service) it asked for.
    pub local: SocketAddr,
    /// The peer's address, with the port it says it comes from.
    pub peer: SocketAddr,
    /// The consumer's private data (behind the 36 bytes of the IP CM service).
    pub private: PrivateData,
    /// READs of ours the peer can serve at a time.
    pub responder_resources: u8,
    /// READs to us the peer wants to have out at a time. NVMe hosts send none and say 0.
    pub initiator_depth: u8,
}

/// A request on its way from where it was accepted to the core that will have it. One that is
/// dropped is never answered; its peer tries again and gives up.
pub trait Incoming: Send {
    /// What is asked for.
    fn request(&self) -> &Request;

    /// The queue pair of the core that has this, with whose peer's end it asks for a connection: its peer does not know the
    /// old one any more (a stale connection, InfiniBand 12.9.8.3.1), or somebody says so in its name. Providers whose
    /// connection manager sees to that itself say `None`.
    fn stale(&self) -> Option<QpId> {
        None
    }
}

/// What a queue pair is made for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Demand {
    /// RECVs that will be posted at a time.
    pub recvs: u32,
    /// Bytes of the Buf behind each RECV, 0 for none.
    pub recv_data: u32,
    /// Work requests of chains, SENDs and READs that will be out at a time, as [`Limits::wrs`] counts
    /// them. A wish: fewer may be granted, at least those of two chains of 128 KiB in pages.
    pub sends: u32,
    /// READs that will be out at a time. A wish as well; fewer are granted, but one at least if the
    /// peer serves any.
    pub reads: u32,
}

/// Where a connection is to be made to.
#[derive(Clone, Copy, Debug)]
pub struct Dial<'a> {
    /// The address to come from; `None` is the provider's choice.
    pub local: Option<IpAddr>,
    /// Address and port of the target.
    pub peer: SocketAddr,
    /// Private data of the REQ, at most 56 bytes.
    pub private: &'a [u8],
    /// What the queue pair is made for.
    pub demand: Demand,
}

/// What a queue pair can do. Asked once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Work requests that may be out, counted by [`Limits::wrs`].
    pub sends: u32,
    /// Bufs of one work request. Longer lists are cut by the provider into several.
    pub sges: u32,
    /// READs that may be out: the smaller of ours and what the peer serves. With 0 there are none.
    pub reads: u32,
    /// Remote invalidation: a SEND may carry a key to invalidate, and one that is received obeyed.
    /// Where this is false [`Answer::invalidate`] must be `None`.
    pub invalidate: bool,
    /// Bufs of one grant.
    pub grant_bufs: u32,
    /// Bytes of one message, WRITE or READ; at least 128 KiB.
    pub message_len: u32,
}

/// Memory at the peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Remote {
    /// Address, as the key's owner counts.
    pub addr: u64,
    /// The rkey.
    pub key: u32,
}

/// What a target sends in one post: RDMA WRITE, then SEND. Either may be missing. Completes as a whole.
///
/// With neither it is a WRITE of no bytes: no key is looked at and no memory touched (InfiniBand C9-88),
/// but the peer has to acknowledge it. That finds out whether there still is one.
#[derive(Debug)]
pub struct Answer {
    /// Comes back in the completion.
    pub tag: u32,
    /// Where the data is to be written.
    pub remote: Remote,
    /// The data; without Bufs there is no WRITE. They come back when the peer has acknowledged all
    /// of the chain.
    pub bufs: BufList,
    /// The message, if this ends the command.
    pub capsule: Option<[u8; 16]>,
    /// The SEND is a SEND_WITH_INV of this key.
    pub invalidate: Option<u32>,
}

/// A message of a host: a command capsule.
#[derive(Debug)]
pub struct Message {
    /// Comes back in the completion.
    pub tag: u32,
    /// Its first bytes.
    pub head: [u8; HEAD_LEN],
    /// What follows them: in-capsule data, or none.
    pub bufs: BufList,
}

/// An RDMA READ.
#[derive(Debug)]
pub struct Read {
    /// Comes back in the completion.
    pub tag: u32,
    /// Where the data is.
    pub remote: Remote,
    /// Where it is to land; their summed length is how much.
    pub bufs: BufList,
}

/// What a peer may do with memory it is granted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// RDMA READ: the data of a write command.
    Read,
    /// RDMA WRITE: the place for a read command's data.
    Write,
}

/// How a work request ended. Anything but success breaks the connection, too.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WcStatus {
    /// It was carried out.
    Success,
    /// The connection ended before it was.
    Flushed,
    /// The peer refused: key, bounds or rights are wrong (NAK 0x62).
    RemoteAccess,
    /// The peer refused the request as invalid, or failed itself (NAK 0x61, 0x63).
    RemoteError,
    /// The peer did not acknowledge for too long, or had no RECV for too long.
    RetriesExceeded,
    /// Something of ours failed: length, protection, the device.
    LocalError,
}

/// Why a connection ended, or was not made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// The peer ended it (DREQ, or a device's equivalent).
    Peer,
    /// A work request failed, ours or the peer's.
    Error(WcStatus),
    /// The peer broke a rule, and was refused (a NAK of ours).
    Violation,
    /// The peer refused the connection. Its private data, if any: [`Provider::private`].
    Rejected {
        /// The REJ reason; [`REJ_CONSUMER`] if the private data says it.
        reason: u16,
    },
    /// Nobody answered, or there is no way to the address.
    Unreachable,
    /// The device is going away, or the port is down.
    Device,
}

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// The connection stands. An active end finds the REP's data in [`Provider::private`].
    Established {
        /// The queue pair.
        qp: QpId,
    },
    /// A message came, and used up a RECV.
    Received {
        /// The queue pair.
        qp: QpId,
        /// Its length in bytes. It fitted head and Buf.
        len: u32,
        /// Its first bytes; those beyond `len` are zero.
        head: [u8; HEAD_LEN],
        /// The RECV's Buf, if it had one. The message's bytes from [`HEAD_LEN`] on are at its start.
        buf: Option<Buf>,
        /// The key that the message invalidated. Its memory is out of the peer's reach; the Bufs are
        /// still to be had by [`Provider::revoke`].
        invalidated: Option<u32>,
    },
    /// An [`Answer`] or a [`Message`] is done: acknowledged by the peer, or failed.
    Sent {
        /// The queue pair.
        qp: QpId,
        /// Of the answer or message.
        tag: u32,
        /// Its Bufs.
        bufs: BufList,
        /// How it ended.
        status: WcStatus,
    },
    /// A [`Read`] is done.
    ReadDone {
        /// The queue pair.
        qp: QpId,
        /// Of the read.
        tag: u32,
        /// Its Bufs, filled if it succeeded.
        bufs: BufList,
        /// How it ended.
        status: WcStatus,
    },
    /// The Buf of a RECV that will not be used any more. Without a queue pair's name, because receive
    /// queues may be shared: as many come back as were posted for one that is going, sooner or later.
    Unposted {
        /// The Buf.
        buf: Buf,
    },
    /// The connection is over, or was not made.
    Disconnected {
        /// The queue pair.
        qp: QpId,
        /// Why.
        why: Why,
    },
    /// Nothing of it is left.
    Gone {
        /// The queue pair that was.
        qp: QpId,
    },
}

/// Why [`Provider::connect`] could not even try.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DialError {
    /// No device or socket of this provider leads there.
    NoRoute,
    /// Out of queue pairs, memory or table entries; the text names the limit.
    Resources(String),
}

/// RDMA, as one core has it. See the module's text for the rules. What is posted to send queues may wait for
/// [`Provider::flush`].
pub trait Provider {
    /// A request that was not yet decided.
    type Incoming: Incoming;

    /// Makes the queue pair of a request. It takes RECVs, and nothing else before
    /// [`Provider::accept`].
    ///
    /// # Errors
    /// Gives the request back if queue pairs, memory or table entries ran out: refuse it.
    fn open(
        &mut self,
        incoming: Self::Incoming,
        demand: &Demand,
        now: Tick,
    ) -> Result<QpId, Self::Incoming>;

    /// Refuses a request: REJ with [`REJ_CONSUMER`] and this private data, at most 148 bytes.
    fn reject(&mut self, incoming: Self::Incoming, private: &[u8], now: Tick);

    /// Refuses a request because of its [`Incoming::stale`] queue pair: REJ with reason 10. If it is not stale any more, the
    /// request may as well be opened.
    fn reject_stale(&mut self, incoming: Self::Incoming, now: Tick) {
        self.reject(incoming, &[], now);
    }

    /// Lets the peer of an [`Provider::open`]ed queue pair in: REP with this private data, at most 196
    /// bytes. Its RECVs are posted.
    fn accept(&mut self, qp: QpId, private: &[u8], now: Tick);

    /// Asks a target for a connection. [`Event::Established`] or [`Event::Disconnected`] follows.
    ///
    /// # Errors
    /// If it cannot be tried.
    fn connect(&mut self, dial: &Dial<'_>, now: Tick) -> Result<QpId, DialError>;

    /// What a queue pair can do: known from [`Provider::open`] on, or when it is established.
    fn limits(&self, qp: QpId) -> Limits;

    /// The address of our end.
    fn local(&self, qp: QpId) -> SocketAddr;

    /// The address of the peer.
    fn peer(&self, qp: QpId) -> SocketAddr;

    /// Private data of the peer's REP or REJ, of an active end.
    fn private(&self, qp: QpId) -> PrivateData;

    /// Posts a RECV for [`HEAD_LEN`] bytes and as many behind them as the Buf has.
    fn post_recv(&mut self, qp: QpId, buf: Option<Buf>);

    /// Posts a WRITE and a SEND, or one of the two, or a WRITE of nothing. [`Event::Sent`] follows.
    fn answer(&mut self, qp: QpId, answer: Answer);

    /// Posts a SEND. [`Event::Sent`] follows.
    fn send(&mut self, qp: QpId, message: Message);

    /// Posts a READ. [`Event::ReadDone`] follows.
    fn read(&mut self, qp: QpId, read: Read);

    /// Makes the Bufs of a region fit to be posted and granted here, before the first of them is. Devices have to be told of
    /// memory, and it is locked, which takes its time: nothing for every command. The usual provider needs nothing.
    ///
    /// # Errors
    /// If the memory cannot be locked, with how to make it possible.
    fn register(&mut self, _region: &Arc<Region>) -> io::Result<()> {
        Ok(())
    }

    /// True if this Buf may be posted and granted on this queue pair. To do so with another is a mistake that panics.
    fn reaches(&mut self, _qp: QpId, _buf: &Buf) -> bool {
        true
    }

    /// Lets the peer reach some memory until [`Provider::revoke`], or until it is told to invalidate
    /// the key. While that lasts the provider has the Bufs.
    ///
    /// # Errors
    /// Gives the Bufs back if there is no key left, or they are too many (`Limits::grant_bufs`).
    fn grant(&mut self, qp: QpId, bufs: BufList, access: Access) -> Result<Remote, BufList>;

    /// Takes memory back, whether or not the key was invalidated. `None` if this queue pair was never
    /// granted such a key, or it was taken back before.
    fn revoke(&mut self, qp: QpId, key: u32) -> Option<BufList>;

    /// Ends a connection, telling the peer (DREQ) if there is one. What is posted is flushed;
    /// [`Event::Gone`] follows. Again, or after [`Event::Disconnected`], it does nothing.
    fn close(&mut self, qp: QpId, now: Tick);

    /// The next thing that happened. In a turn, which is what lies between two calls of
    /// [`Provider::flush`], it says `None` after a bounded number.
    fn poll(&mut self, now: Tick) -> Option<Event>;

    /// Sends what waits to be sent. Called once a turn.
    fn flush(&mut self, now: Tick);

    /// When [`Provider::poll`] must be called even if nothing comes from outside.
    fn next_timeout(&self) -> Option<Tick>;

    /// True if something can be polled or flushed without waiting for a peer.
    fn has_work(&self) -> bool;

    /// Readable when there is something to poll, once [`Provider::arm`] was called. `None` if nobody
    /// can sleep on it.
    fn fd(&self) -> Option<BorrowedFd<'_>>;

    /// Asks for [`Provider::fd`] to tell of the next thing that happens. True if it may be slept on
    /// now; false if something is there already. Who is `patient` does not wait for any
    /// [`Event::Sent`], and so need not be told of one: being woken for it costs more than what was sent. Of all else, as
    /// [`Event::ReadDone`], it is.
    fn arm(&mut self, _patient: bool) -> bool {
        !self.has_work()
    }

    /// What was counted, by name: packets dropped by reason, retries, RNR. For metrics, not for
    /// every turn.
    fn each_counter(&self, give: &mut dyn FnMut(&'static str, u64));
}

impl PrivateData {
    /// These bytes.
    ///
    /// # Panics
    /// If they are more than [`PRIVATE_MAX`].
    pub fn new(data: &[u8]) -> PrivateData {
        let mut bytes = [0; PRIVATE_MAX];
        bytes[..data.len()].copy_from_slice(data);
        PrivateData {
            bytes,
            len: data.len() as u8,
        }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl std::fmt::Debug for PrivateData {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PrivateData({:02x?})", self.bytes())
    }
}

impl Limits {
    /// Work requests that a chain or a READ with so many Bufs takes: its WRITEs or READs, and one for
    /// the SEND if there is one.
    #[inline]
    pub const fn wrs(&self, bufs: usize, send: bool) -> u32 {
        // Without a division where there is nothing to cut.
        let lists = match bufs as u32 <= self.sges {
            true => (bufs > 0) as u32,
            false => (bufs as u32).div_ceil(self.sges),
        };
        lists + send as u32
    }
}

impl Event {
    /// The queue pair it is about, if it is about one.
    pub const fn qp(&self) -> Option<QpId> {
        match self {
            Event::Established { qp }
            | Event::Received { qp, .. }
            | Event::Sent { qp, .. }
            | Event::ReadDone { qp, .. }
            | Event::Disconnected { qp, .. }
            | Event::Gone { qp } => Some(*qp),
            Event::Unposted { .. } => None,
        }
    }
}
