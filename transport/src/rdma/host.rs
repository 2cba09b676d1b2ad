//! The host's end of one NVMe/RDMA connection, as a machine: commands and work completions in,
//! messages and completions out. It knows no clock, and waits for nothing.
//!
//! - [`Conn::submit`] takes a command and its data. Data that fits goes into the capsule; for other
//!   data the target is granted access under a key of this command alone.
//! - [`Conn::on_event`] takes what the provider reports; [`Conn::poll`] gives completions.
//!
//! The target is not trusted. A completion for a command that is not outstanding, a second one, a
//! message of another length, or an invalidation of any key but the command's own ends the
//! connection. What a key does not cover, the provider refuses. Every command that was taken is
//! completed exactly once, with its data: [`Conn::end`] does that for those without an answer.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::Arc;

use ferroce_buf::{Buf, BufList, Class, Home, PAGE, Pool, Region, Want};
use ferroce_engine::host::CidTable;
use ferroce_wire::Wire;
use ferroce_wire::cqe::Cqe;
use ferroce_wire::num::U16;
use ferroce_wire::opcode::DataDirection;
use ferroce_wire::rdma::{RdmaCmReject, RdmaCmRequest, RdmaCmStatus};
use ferroce_wire::sqe::{KeyedSgl, Sgl, Sqe};
use ferroce_wire::status::Status;

use crate::host::{Completion, Data, Refused, RefusedWhy};
use crate::rdma::provider::{
    Access, Demand, Event, HEAD_LEN, Limits, Message, Provider, QpId, REJ_CONSUMER, WcStatus, Why,
};

/// Memory that is mapped at a time for data that does not lie in Bufs.
const GROW_LEN: usize = 128 << 10;

/// One connection, seen from the host.
#[derive(Debug)]
pub struct Conn {
    qp: QpId,
    phase: Phase,
    /// What the queue pair can do, once it stands.
    limits: Option<Limits>,
    in_capsule: u32,
    commands: CidTable<Command>,
    /// Commands whose messages wait for room on the queue pair.
    unsent: VecDeque<u16>,
    /// Work requests that are out.
    wrs: u32,
    /// Answered and with their data back, not yet polled.
    done: VecDeque<u16>,
    bounce: Bounce,
    no_memory: Option<io::Error>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// The target has not accepted yet.
    Asking,
    /// Commands may go.
    Open,
    /// Nothing is sent or believed any more.
    Ended,
    /// The queue pair is gone as well.
    Gone,
}

/// A command without an answer, or with one that nobody polled yet.
#[derive(Debug)]
struct Command {
    user_data: u64,
    sqe: Sqe,
    direction: DataDirection,
    /// As it was given; a Buf of the caller is where `place` says.
    data: Data,
    place: Place,
    answer: Option<Cqe>,
}

/// Where the data that the target may see is.
#[derive(Debug)]
enum Place {
    /// Nowhere: there is none, or it is back.
    Nowhere,
    /// To be sent with the capsule.
    InCapsule(BufList),
    /// The provider has it, as part of the message.
    Sending,
    /// The target may reach it by this key.
    Granted(u32),
    /// It is back.
    Back(BufList),
}

/// Why a connection ended by what the target did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Broken {
    /// The connection was lost, or not made.
    Lost(Why),
    /// The target refused the queue, and said why.
    Refused(RdmaCmStatus),
    /// A message that is no response capsule: its length.
    NoResponse(u32),
    /// A response to a command that is not outstanding: its CID.
    NoCommand(u16),
    /// A second response to the same command: its CID.
    Again(u16),
    /// A response that invalidated a key which is not its command's, or which was not to be
    /// invalidated: the CID and the key.
    Bogus(u16, u32),
}

impl Broken {
    /// True if the same may well succeed a little later.
    pub fn is_transient(self) -> bool {
        match self {
            Broken::Lost(Why::Violation) => false,
            // Whoever rejects may be about to listen, or to forget who we were before.
            Broken::Lost(_) => true,
            Broken::Refused(status) => status == RdmaCmStatus::NO_RESOURCES,
            Broken::NoResponse(_) | Broken::NoCommand(_) | Broken::Again(_) | Broken::Bogus(..) => {
                false
            }
        }
    }
}

/// A request's private data, and what its queue pair is made for.
pub fn request(qid: u16, entries: u16) -> (RdmaCmRequest, Demand) {
    let demand = Demand {
        recvs: entries.into(),
        recv_data: 0,
        sends: 2 * u32::from(entries),
        reads: 0,
    };
    (RdmaCmRequest::new(qid, entries), demand)
}

impl Conn {
    /// A connection that [`Provider::connect`] was asked for, of at most `depth` commands at a time.
    /// `entries` are the RECVs it was to have: as many as the submission queue has entries.
    ///
    /// # Panics
    /// If there are fewer entries than commands.
    pub fn new<P: Provider>(provider: &mut P, qp: QpId, entries: u16, depth: u16) -> Conn {
        assert!(depth <= entries, "each response finds a RECV");
        for _ in 0..entries {
            provider.post_recv(qp, None);
        }
        Conn {
            qp,
            phase: Phase::Asking,
            limits: None,
            in_capsule: 0,
            commands: CidTable::new(depth),
            unsent: VecDeque::with_capacity(depth.into()),
            wrs: 0,
            done: VecDeque::with_capacity(depth.into()),
            bounce: Bounce::default(),
            no_memory: None,
        }
    }

    /// The queue pair.
    pub fn qp(&self) -> QpId {
        self.qp
    }

    /// The target accepted, and the connection did not end yet.
    pub fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// The queue pair is gone.
    pub fn is_gone(&self) -> bool {
        self.phase == Phase::Gone
    }

    /// Bytes of in-capsule data that this queue takes (IOCCSZ less the SQE); an admin queue has none.
    pub fn set_in_capsule(&mut self, bytes: u32) {
        self.in_capsule = bytes;
    }

    /// Why a command was refused for want of memory, if one was: more will be, so the connection is of no use.
    pub fn no_memory(&mut self) -> Option<io::Error> {
        self.no_memory.take()
    }

    /// Commands that have no answer, or one that was not polled.
    #[inline]
    pub fn outstanding(&self) -> usize {
        self.commands.len()
    }

    /// Commands outstanding at a time.
    pub fn depth(&self) -> usize {
        self.commands.depth()
    }

    /// True if [`Conn::poll`] has something.
    #[inline]
    pub fn has_done(&self) -> bool {
        !self.done.is_empty()
    }

    /// Takes a command. CID, PSDT and the data pointer are filled in here; the direction of the data
    /// is what the opcode says (Base 3.1.3.1). Returns the CID.
    ///
    /// # Errors
    /// Gives the data back if the queue is full, or out of keys, or dead, or does not reach it; or out of memory, see
    /// [`Conn::no_memory`].
    ///
    /// # Panics
    /// If the connection is not open yet, or the opcode takes no such data.
    pub fn submit<P: Provider>(
        &mut self,
        provider: &mut P,
        sqe: Sqe,
        data: Data,
        user_data: u64,
    ) -> Result<u16, Refused> {
        let refuse = |why, data| Err(Refused { why, data });
        match self.phase {
            Phase::Open => {}
            Phase::Asking => panic!("a command before the connection stands"),
            Phase::Ended | Phase::Gone => return refuse(RefusedWhy::Dead, data),
        }
        let Some(cid) = self.commands.next_cid() else {
            return refuse(RefusedWhy::Full, data);
        };
        let fabrics = sqe.fabrics_type();
        let direction = DataDirection::of(fabrics.map_or(sqe.opc, |fctype| fctype.0));
        let discarded = matches!(data, Data::Discard(_));
        match direction {
            DataDirection::None => assert!(data.is_empty(), "opcode {:02X}h has no data", sqe.opc),
            DataDirection::ToTarget => assert!(!discarded, "opcode {:02X}h sends data", sqe.opc),
            DataDirection::ToHost => {}
            DataDirection::Both => panic!("opcode {:02X}h moves data both ways", sqe.opc),
        }
        let (data, place, sgl) = self.place(provider, direction, data)?;
        let mut sqe = sqe.with_sgl(sgl);
        sqe.cid = U16::new(cid);
        let command = Command {
            user_data,
            sqe,
            direction,
            data,
            place,
            answer: None,
        };
        let taken = self.commands.insert(command);
        assert!(taken.is_ok_and(|taken| taken == cid), "the CID was free");
        self.unsent.push_back(cid);
        self.send(provider);
        Ok(cid)
    }

    /// Puts the data where the target can have it, and describes it.
    fn place<P: Provider>(
        &mut self,
        provider: &mut P,
        direction: DataDirection,
        data: Data,
    ) -> Result<(Data, Place, Sgl), Refused> {
        let refuse = |why, data| Err(Refused { why, data });
        let len = u32::try_from(data.len()).expect("data of one command is below 4 GiB");
        if len == 0 {
            // As Linux does: a keyed descriptor of nothing.
            let nothing = KeyedSgl::new(0, 0, 0, false);
            return Ok((data, Place::Nowhere, nothing.into()));
        }
        let to_target = direction == DataDirection::ToTarget;
        let (data, bufs) = match data {
            Data::Buf(buf) if !provider.reaches(self.qp, &buf) => {
                return refuse(RefusedWhy::NotRegistered, Data::Buf(buf));
            }
            Data::Buf(buf) => (Data::None, only(buf)),
            other => {
                let mut buf = match self.bounce.take(provider, len as usize) {
                    Ok(buf) => buf,
                    Err(cause) => {
                        self.no_memory = Some(cause);
                        return refuse(RefusedWhy::Full, other);
                    }
                };
                if to_target {
                    buf.bytes_mut().copy_from_slice(other.bytes());
                }
                (other, only(buf))
            }
        };
        if to_target && len <= self.in_capsule {
            return Ok((data, Place::InCapsule(bufs), Sgl::in_capsule(0, len)));
        }
        let access = match to_target {
            true => Access::Read,
            false => Access::Write,
        };
        let invalidate = self.limits.is_some_and(|limits| limits.invalidate);
        match provider.grant(self.qp, bufs, access) {
            Ok(at) => {
                let sgl = KeyedSgl::new(at.addr, len, at.key, invalidate);
                Ok((data, Place::Granted(at.key), sgl.into()))
            }
            Err(bufs) => refuse(RefusedWhy::Full, self.bounce.give_back(data, bufs, false)),
        }
    }

    /// Posts the messages for which there is room.
    fn send<P: Provider>(&mut self, provider: &mut P) {
        let Some(limits) = self.limits else { return };
        while let Some(&cid) = self.unsent.front() {
            let command = self.commands.get_mut(cid).expect("kept until it is sent");
            let in_capsule = matches!(command.place, Place::InCapsule(_));
            let wrs = limits.wrs(usize::from(in_capsule) + 1, false);
            if self.wrs + wrs > limits.sends {
                return;
            }
            let bufs = match std::mem::replace(&mut command.place, Place::Sending) {
                Place::InCapsule(bufs) => bufs,
                other => {
                    command.place = other;
                    BufList::new()
                }
            };
            let message = Message {
                // Its CID, and what it takes of the queue pair.
                tag: u32::from(cid) << 16 | wrs,
                head: bytemuck::cast(command.sqe),
                bufs,
            };
            provider.send(self.qp, message);
            self.wrs += wrs;
            self.unsent.pop_front();
        }
    }

    /// Takes what the provider reports of this queue pair.
    ///
    /// # Errors
    /// The connection is over, or was not made: call [`Conn::end`].
    pub fn on_event<P: Provider>(&mut self, provider: &mut P, event: Event) -> Result<(), Broken> {
        match event {
            Event::Established { .. } if self.phase == Phase::Asking => {
                self.limits = Some(provider.limits(self.qp));
                self.phase = Phase::Open;
            }
            Event::Received {
                len,
                head,
                invalidated,
                ..
            } => {
                if self.phase == Phase::Open {
                    // Before the command's slot is free for another.
                    provider.post_recv(self.qp, None);
                    return self.on_response(provider, len, &head, invalidated);
                }
            }
            Event::Sent {
                tag, bufs, status, ..
            } => {
                self.wrs -= tag & 0xFFFF;
                self.on_sent((tag >> 16) as u16, bufs);
                if status == WcStatus::Success {
                    self.send(provider);
                }
            }
            Event::Disconnected { why, .. } => return Err(self.lost(provider, why)),
            Event::Gone { .. } => self.phase = Phase::Gone,
            Event::Established { .. } | Event::Unposted { .. } => {}
            Event::ReadDone { .. } => panic!("hosts read nothing"),
        }
        Ok(())
    }

    fn lost<P: Provider>(&self, provider: &P, why: Why) -> Broken {
        let rejected = Why::Rejected {
            reason: REJ_CONSUMER,
        };
        let private = provider.private(self.qp);
        match RdmaCmReject::view(private.bytes()) {
            Some(reject) if why == rejected => Broken::Refused(reject.status()),
            _ => Broken::Lost(why),
        }
    }

    fn on_response<P: Provider>(
        &mut self,
        provider: &mut P,
        len: u32,
        head: &[u8; HEAD_LEN],
        invalidated: Option<u32>,
    ) -> Result<(), Broken> {
        if len as usize != Cqe::LEN {
            return Err(Broken::NoResponse(len));
        }
        let cqe = Cqe::read(head).expect("a CQE fits the head");
        let cid = cqe.cid.get();
        let command = self.commands.get_mut(cid).ok_or(Broken::NoCommand(cid))?;
        if command.answer.is_some() {
            return Err(Broken::Again(cid));
        }
        if matches!(command.place, Place::InCapsule(_)) || self.unsent.contains(&cid) {
            return Err(Broken::NoCommand(cid));
        }
        if let Some(key) = invalidated {
            let asked = command.sqe.dptr.kind == Sgl::KEYED_INVALIDATE;
            if !(asked && matches!(command.place, Place::Granted(own) if own == key)) {
                return Err(Broken::Bogus(cid, key));
            }
        }
        command.answer = Some(cqe);
        if let Place::Granted(key) = command.place {
            let bufs = provider.revoke(self.qp, key);
            command.place = Place::Back(bufs.expect("a grant is taken back once"));
        }
        // Data in a capsule comes back with the message's own completion.
        if !matches!(command.place, Place::Sending) {
            self.done.push_back(cid);
        }
        Ok(())
    }

    fn on_sent(&mut self, cid: u16, bufs: BufList) {
        if bufs.is_empty() {
            return;
        }
        let command = self.commands.get_mut(cid);
        let command = command.expect("kept until its data is back");
        command.place = Place::Back(bufs);
        if command.answer.is_some() {
            self.done.push_back(cid);
        }
    }

    /// The next completion, if any.
    #[inline]
    pub fn poll(&mut self) -> Option<Completion> {
        let cid = self.done.pop_front()?;
        let command = self.commands.remove(cid);
        let command = command.expect("an answered command is kept until it is polled");
        let cqe = command.answer.expect("only answered commands are done");
        let data = match command.place {
            Place::Back(bufs) => {
                let filled =
                    command.direction == DataDirection::ToHost && cqe.status().is_success();
                self.bounce.give_back(command.data, bufs, filled)
            }
            _ => command.data,
        };
        Some(Completion {
            user_data: command.user_data,
            cqe,
            data,
        })
    }

    /// The connection is over: nothing more is sent or believed. Commands without an answer are
    /// completed with `Status::HOST_PATHING_ERROR` as soon as their data is back; that of a capsule
    /// on its way comes with a last event.
    pub fn end<P: Provider>(&mut self, provider: &mut P) {
        if matches!(self.phase, Phase::Ended | Phase::Gone) {
            return;
        }
        self.phase = Phase::Ended;
        self.unsent.clear();
        let cids: Vec<u16> = self.commands.cids().collect();
        for cid in cids {
            let command = self.commands.get_mut(cid).expect("it was listed");
            let was_done = command.answer.is_some() && !matches!(command.place, Place::Sending);
            let lost = Cqe::new(cid, Status::HOST_PATHING_ERROR);
            command.answer.get_or_insert(lost);
            command.place = match std::mem::replace(&mut command.place, Place::Nowhere) {
                Place::InCapsule(bufs) => Place::Back(bufs),
                Place::Granted(key) => {
                    let bufs = provider.revoke(self.qp, key);
                    Place::Back(bufs.expect("a grant is taken back once"))
                }
                other => other,
            };
            if !was_done && !matches!(command.place, Place::Sending) {
                self.done.push_back(cid);
            }
        }
    }

    /// Bufs of its own memory that are out: 0 when nothing is outstanding.
    pub fn bounced(&self) -> usize {
        self.bounce.pools.iter().map(Pool::out).sum()
    }
}

fn only(buf: Buf) -> BufList {
    let mut bufs = BufList::new();
    bufs.push(buf);
    bufs
}

/// Bufs for data that lies in a vector, or nowhere. It grows when it has too few, and never shrinks,
/// so that a queue at work maps nothing.
#[derive(Debug, Default)]
struct Bounce {
    pools: Vec<Pool>,
}

impl Bounce {
    /// # Errors
    /// If the system has no more memory to map, or the device may not reach it.
    fn take<P: Provider>(&mut self, provider: &mut P, len: usize) -> io::Result<Buf> {
        if let Some(buf) = self.pools.iter_mut().find_map(|pool| pool.take(len)) {
            return Ok(buf);
        }
        let size = len.next_power_of_two().max(PAGE);
        let count = (GROW_LEN / size).max(1);
        let region = Arc::new(Region::map(size * count, Want::default())?);
        provider.register(&region)?;
        let home = Home(self.pools.len() as u16);
        let class = [Class { size, count }];
        self.pools.push(Pool::new(region, 0, home, &class));
        let pool = self.pools.last_mut().expect("it was just pushed");
        Ok(pool.take(len).expect("it is large enough"))
    }

    /// A command's data as it was given, with what came if it was `filled`.
    fn give_back(&mut self, data: Data, mut bufs: BufList, filled: bool) -> Data {
        let Some(buf) = bufs.pop() else { return data };
        match data {
            Data::None => Data::Buf(buf),
            mut bounced => {
                if filled && let Data::Vec(bytes) = &mut bounced {
                    bytes.copy_from_slice(buf.bytes());
                }
                self.pools[usize::from(buf.home().0)].put(buf);
                bounced
            }
        }
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Broken::Lost(Why::Peer) => f.write_str("the target ended the connection"),
            Broken::Lost(Why::Rejected { reason }) => {
                write!(f, "the request was rejected, reason {reason}")?;
                f.write_str(match reason {
                    8 => ": nothing listens there for RDMA",
                    10 => ": it takes us for a connection that is not over yet; try again",
                    26 => ": our packets are larger than its network takes",
                    _ => "",
                })
            }
            Broken::Lost(Why::Unreachable) => f.write_str("nobody answers there by RDMA"),
            Broken::Lost(Why::Violation) => {
                f.write_str("the target reached for memory it was not granted")
            }
            Broken::Lost(Why::Device) => f.write_str("the RDMA device is gone, or its port down"),
            Broken::Lost(Why::Error(status)) => f.write_str(match status {
                WcStatus::RetriesExceeded => {
                    "the target acknowledges nothing any more, however often it is sent"
                }
                WcStatus::RemoteAccess => "the target refused us access to its memory",
                WcStatus::RemoteError => "the target refused a message, or failed",
                WcStatus::Success | WcStatus::Flushed => "the connection ended",
                WcStatus::LocalError => "a message failed at our end, or at our device's",
            }),
            Broken::Refused(status) => {
                write!(f, "the target refused the queue: {status}")?;
                f.write_str(match *status {
                    RdmaCmStatus::NO_RESOURCES => {
                        "; it has no room for so many entries: ask for fewer or smaller queues, or raise its limit \
                         (rdma-entries of a Ferroce node)"
                    }
                    _ => "",
                })
            }
            Broken::NoResponse(len) => write!(f, "a message of {len} bytes is no response"),
            Broken::NoCommand(cid) => {
                write!(f, "a response to command {cid}, which is not outstanding")
            }
            Broken::Again(cid) => write!(f, "a second response to command {cid}"),
            Broken::Bogus(cid, key) => write!(
                f,
                "the response to command {cid} invalidated key {key:#x}, which is not that command's"
            ),
        }
    }
}
