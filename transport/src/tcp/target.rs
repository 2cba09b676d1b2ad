//! The target's end of one NVMe/TCP connection, as a value: bytes in, things that happened out.
//!
//! It never reads a socket or a clock. The shell (`fabric.rs`) shows it the bytes that are not used
//! up yet ([`Target::take`]), asks whether the next bytes belong straight into a command's Bufs
//! ([`Target::space`]), and sends what waits ([`Target::gather`], [`Target::sent`]).
//!
//! Left out on purpose: what a command means. SQEs and CQEs pass through; only CID, in-capsule
//! length and R2T bookkeeping are looked at.

use std::collections::VecDeque;

use ferroce_buf::BufList;
use ferroce_engine::limits;
use ferroce_engine::port::{Fetch, Reply, Room};
use ferroce_wire::Wire;
use ferroce_wire::fabrics::ConnectCmd;
use ferroce_wire::num::{U16, U32};
use ferroce_wire::opcode::{AdminOpcode, FabricsType};
use ferroce_wire::sqe::{Sgl, Sqe};
use ferroce_wire::tcp::{
    C2hData, CapsuleCmd, CapsuleResp, CommonHeader, Fes, H2cData, IcReq, IcResp, LAST_PDU,
    MAXH2CDATA_MIN, PFV_1_0, PduType, R2t, SUCCESS, TermReq,
};

use crate::tcp::frame::{
    self, AT_FLAGS, AT_PLEN, Crc, Digests, Fatal, Format, Parsed, Sender, Shape,
};
use crate::tcp::outbox::Outbox;
use crate::tcp::transfer::{Filled, Slot, Transfers};

/// Most bytes that a host may put into one H2CData (MAXH2CDATA): a whole command, since a shorter
/// bound only makes more headers. Memory is not at stake: data goes where its R2T said.
pub const MAXH2CDATA: u32 = limits::TRANSFER_MAX;
/// In-capsule data of any command, in bytes. Before Connect a connection may become either kind.
pub const IN_CAPSULE_MAX: usize = if limits::IN_CAPSULE > limits::IN_CAPSULE_ADMIN {
    limits::IN_CAPSULE as usize
} else {
    limits::IN_CAPSULE_ADMIN as usize
};
/// Bytes that may wait to be sent before the engine is asked to hold back.
pub const SEND_WAITING_MAX: usize = 1 << 20;
/// R2Ts of one command that are out at a time, if the host allows as many.
pub const R2TS_PER_COMMAND: u64 = 16;
/// The longest run of bytes that must lie together before it can be used up: a capsule with its
/// padding, data and digests.
pub const WHOLE_MAX: usize = 256 + IN_CAPSULE_MAX + 4;

const _: () = assert!(MAXH2CDATA >= MAXH2CDATA_MIN && MAXH2CDATA.is_multiple_of(4));
const _: () = assert!(IN_CAPSULE_MAX >= 8192);

/// What a node offers in ICResp.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Offer {
    /// Digests that are turned on if the host asks for them.
    pub digests: Digests,
    /// CPDA: alignment asked of the host, 0 (none beyond dwords) to 31. Linux accepts only 0.
    pub cpda: u8,
}

impl Default for Offer {
    fn default() -> Offer {
        Offer {
            digests: Digests {
                header: true,
                data: true,
            },
            cpda: 0,
        }
    }
}

/// Where a connection is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Nothing but ICReq may come.
    Greeting,
    /// ICResp was given.
    Open,
    /// Broken, or ended by the host: what still comes is not looked at.
    Over,
}

/// PDUs, as far as the state decides about them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arrival {
    /// ICReq.
    IcReq,
    /// H2CTermReq.
    TermReq,
    /// CapsuleCmd.
    Capsule,
    /// H2CData.
    Data,
}

/// What is done with a PDU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// The parameters are looked at; ICResp.
    Greet,
    /// It is a command.
    Execute,
    /// It goes where its R2T said.
    Place,
    /// The host hangs up.
    HangUp,
    /// C2HTermReq with this status.
    Refuse(Fes),
    /// Not looked at.
    Ignore,
}

/// The connection's table: which PDU may come when (NVMe/TCP 3.5, 3.6.2).
pub const fn answer(state: State, arrival: Arrival) -> Answer {
    match (state, arrival) {
        (State::Greeting, Arrival::IcReq) => Answer::Greet,
        (State::Greeting, Arrival::TermReq) => Answer::HangUp,
        (State::Greeting, Arrival::Capsule) => Answer::Refuse(Fes::PDU_SEQUENCE_ERROR),
        (State::Greeting, Arrival::Data) => Answer::Refuse(Fes::PDU_SEQUENCE_ERROR),
        (State::Open, Arrival::IcReq) => Answer::Refuse(Fes::PDU_SEQUENCE_ERROR),
        (State::Open, Arrival::TermReq) => Answer::HangUp,
        (State::Open, Arrival::Capsule) => Answer::Execute,
        (State::Open, Arrival::Data) => Answer::Place,
        (State::Over, Arrival::IcReq) => Answer::Ignore,
        (State::Over, Arrival::TermReq) => Answer::Ignore,
        (State::Over, Arrival::Capsule) => Answer::Ignore,
        (State::Over, Arrival::Data) => Answer::Ignore,
    }
}

impl Arrival {
    const fn of(kind: PduType) -> Option<Arrival> {
        Some(match kind {
            PduType::IC_REQ => Arrival::IcReq,
            PduType::H2C_TERM_REQ => Arrival::TermReq,
            PduType::CAPSULE_CMD => Arrival::Capsule,
            PduType::H2C_DATA => Arrival::Data,
            _ => return None,
        })
    }
}

/// What [`Target::take`] found. Small on purpose: it is handed up through several hands for each
/// command. Offsets count from the first byte that was shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Took {
    /// The handshake is over.
    Opened,
    /// A command is whole.
    Capsule {
        /// Where its PDU begins: see [`sqe_at`].
        at: usize,
        /// Where its in-capsule data begins.
        data_at: usize,
        /// Bytes of in-capsule data.
        data_len: usize,
    },
    /// A command is whole, but the digest of its data does not match.
    Spoiled {
        /// Where its PDU begins: see [`sqe_at`].
        at: usize,
    },
    /// The data of a fetch is there: see [`Target::filled`].
    Filled,
    /// Nothing more before there are this many bytes beyond those used up.
    Need(usize),
    /// Next is a command, and there is no room for one.
    NoRoom,
    /// The host broke the protocol: nothing will ever be taken again. What waits to be sent, a
    /// C2HTermReq as the last of it, is still to be sent.
    Over,
    /// The host ended the connection by H2CTermReq: there is nobody left to send to.
    HungUp,
}

/// The command of the capsule that begins at `at`.
///
/// # Panics
/// If [`Took`] did not say so.
#[inline]
pub fn sqe_at(bytes: &[u8], at: usize) -> &Sqe {
    let capsule = CapsuleCmd::view(&bytes[at..]);
    &capsule.expect("the capsule is whole").sqe
}

/// It is a Connect (NVMe-oF 3.3) of another queue than the admin queue.
fn begins_io_queue(sqe: &Sqe) -> bool {
    let connect = ConnectCmd::of(sqe);
    sqe.opc == AdminOpcode::FABRICS.0
        && connect.fctype == FabricsType::CONNECT.0
        && connect.qid.get() != 0
}

/// The target's end of one connection.
#[derive(Debug)]
pub struct Target {
    state: State,
    offer: Offer,
    from_host: Format,
    to_host: Format,
    maxr2t: u64,
    /// The H2CData whose data is being received.
    incoming: Option<Incoming>,
    transfers: Transfers,
    filled: VecDeque<Filled>,
    outbox: Outbox,
    /// A host asked for an I/O queue. What commands of others carry is looked at, and needs no room.
    is_io: bool,
    /// Commands with in-capsule data that came and are not answered. Not those whose data is still to come: it may lie behind
    /// a command that waits for room.
    with_data: u32,
    /// PDUs that were received whole.
    pdus: u64,
    copied: u64,
}

#[derive(Clone, Copy, Debug)]
struct Incoming {
    slot: Slot,
    left: usize,
    ddgst: bool,
    crc: Crc,
}

impl Target {
    /// A connection on which nothing came yet.
    pub fn new(offer: Offer) -> Target {
        Target {
            state: State::Greeting,
            offer,
            from_host: Format::default(),
            to_host: Format::default(),
            maxr2t: 1,
            incoming: None,
            transfers: Transfers::default(),
            filled: VecDeque::new(),
            outbox: Outbox::default(),
            is_io: false,
            with_data: 0,
            pdus: 0,
            copied: 0,
        }
    }

    /// Where the connection is in its life.
    pub fn state(&self) -> State {
        self.state
    }

    /// What was not taken for want of room may be now.
    pub fn may_go_on(&self, lacked: Room, room: Room) -> bool {
        room > lacked || room >= Room::of(true, self.with_data)
    }

    /// Uses up bytes from the front of `bytes` until something happened or more are needed. Says how
    /// many were used up; those are not to be shown again.
    #[inline]
    pub fn take(&mut self, bytes: &[u8], room: Room) -> (usize, Took) {
        let mut used = 0;
        loop {
            if !self.filled.is_empty() {
                return (used, Took::Filled);
            }
            if self.state == State::Over {
                return (bytes.len(), Took::Over);
            }
            let rest = &bytes[used..];
            let step = if self.incoming.is_some() {
                Ok(self.take_data(rest))
            } else {
                self.take_pdu(rest, room)
            };
            match step {
                Ok(Step::Used(count)) => used += count,
                Ok(Step::Took(count, took)) => return (used + count, took.behind(used)),
                Err(fatal) => self.refuse(fatal, frame::header_of(rest)),
            }
        }
    }

    /// What [`Took::Filled`] spoke of.
    pub fn filled(&mut self) -> Option<Filled> {
        self.filled.pop_front()
    }

    #[inline]
    fn take_pdu(&mut self, bytes: &[u8], room: Room) -> Result<Step, Fatal> {
        let shape = match frame::parse(bytes, Sender::Host, &self.from_host) {
            Ok(Parsed::Need(need)) => return Ok(Step::need(need)),
            Ok(Parsed::Pdu(shape)) => shape,
            // A TermReq of a length that cannot be is ignored, and the connection ends at once (NVMe/TCP 3.5):
            // a TermReq in return would be one too many.
            Err(_) if bytes[0] == PduType::H2C_TERM_REQ.0 => return Ok(self.hang_up(bytes)),
            Err(fatal) => return Err(fatal),
        };
        let arrival = Arrival::of(shape.kind).ok_or(Fatal::field(0))?;
        match answer(self.state, arrival) {
            Answer::Greet => self.greet(bytes),
            Answer::Execute => self.take_capsule(bytes, &shape, room),
            Answer::Place => self.begin_data(bytes, &shape),
            Answer::HangUp => Ok(self.hang_up(bytes)),
            Answer::Refuse(fes) => Err(Fatal::of(fes)),
            Answer::Ignore => Ok(Step::Took(bytes.len(), Took::Over)),
        }
    }

    /// ICReq and ICResp (NVMe/TCP 3.6.2.2, 3.6.2.3).
    fn greet(&mut self, bytes: &[u8]) -> Result<Step, Fatal> {
        let Some(request) = IcReq::view(bytes) else {
            return Ok(Step::need(IcReq::LEN));
        };
        if request.pfv.get() != PFV_1_0 {
            return Err(Fatal::parameter(8));
        }
        let asked = Digests::from_dgst(request.dgst);
        let digests = Digests {
            header: asked.header && self.offer.digests.header,
            data: asked.data && self.offer.digests.data,
        };
        self.to_host = Format::new(digests, request.hpda).ok_or(Fatal::field(10))?;
        self.from_host =
            Format::new(digests, self.offer.cpda).expect("what we offer is at most 31");
        self.maxr2t = request.maxr2t().min(R2TS_PER_COMMAND);
        let response = IcResp::new(self.offer.cpda, digests.dgst(), MAXH2CDATA);
        self.outbox.pdu(response, &Format::default());
        self.state = State::Open;
        self.pdus += 1;
        Ok(Step::Took(IcReq::LEN, Took::Opened))
    }

    #[inline]
    fn take_capsule(&mut self, bytes: &[u8], shape: &Shape, room: Room) -> Result<Step, Fatal> {
        if shape.data_len > IN_CAPSULE_MAX {
            // The limit that has a status of its own is that of H2CData.
            return Err(Fatal::field(AT_PLEN));
        }
        if bytes.len() < shape.plen {
            return Ok(Step::need(shape.plen));
        }
        if room != Room::Any && room < Room::of(self.is_io && shape.data_len > 0, self.with_data) {
            return Ok(Step::Took(0, Took::NoRoom));
        }
        let sqe = sqe_at(bytes, 0);
        self.is_io = self.is_io || begins_io_queue(sqe);
        if sqe.psdt() == Sqe::PSDT_SGL {
            self.with_data += u32::from(sqe.dptr.kind == Sgl::IN_CAPSULE);
        }
        self.pdus += 1;
        let (data_at, data_len) = (shape.data_at, shape.data_len);
        // A data digest that does not match fails the command, not the connection (NVMe/TCP 3.3.1).
        let took = if shape.ddgst
            && Crc::of(&bytes[data_at..data_at + data_len])
                != frame::digest_at(bytes, data_at + data_len)
        {
            Took::Spoiled { at: 0 }
        } else {
            Took::Capsule {
                at: 0,
                data_at,
                data_len,
            }
        };
        Ok(Step::Took(shape.plen, took))
    }

    /// The header of an H2CData (NVMe/TCP 3.6.2.8): believed when every field is what the R2T said.
    fn begin_data(&mut self, bytes: &[u8], shape: &Shape) -> Result<Step, Fatal> {
        if bytes.len() < shape.data_at {
            return Ok(Step::need(shape.data_at));
        }
        let header = H2cData::view(bytes).expect("the header is whole");
        let slot = self
            .transfers
            .find(header.ttag.get())
            .ok_or(Fatal::field(10))?;
        if self.transfers.cid(slot) != header.cccid.get() {
            return Err(Fatal::field(8));
        }
        let datal = header.datal.get();
        if datal == 0 || datal as usize != shape.data_len {
            return Err(Fatal::field(16));
        }
        if datal > MAXH2CDATA {
            return Err(Fatal::of(Fes::DATA_TRANSFER_LIMIT_EXCEEDED));
        }
        let range = self.transfers.range(slot);
        let datao = header.datao.get();
        if datao < range.start || u64::from(datao) + u64::from(datal) > u64::from(range.end) {
            return Err(Fatal::of(Fes::DATA_TRANSFER_OUT_OF_RANGE));
        }
        let (offset, left) = self.transfers.next_data(slot);
        if datao != offset {
            // It is asked for, but not next (NVMe/TCP 3.3.2.2).
            return Err(Fatal::of(Fes::PDU_SEQUENCE_ERROR));
        }
        // A transfer that ends early would leave its command waiting for ever, one that does not end
        // would be answered twice: the flag must agree with the count.
        if header.ch.is_last() != (datal == left) {
            return Err(Fatal::field(AT_FLAGS));
        }
        self.incoming = Some(Incoming {
            slot,
            left: shape.data_len,
            ddgst: shape.ddgst,
            crc: Crc::new(),
        });
        Ok(Step::Used(shape.data_at))
    }

    fn take_data(&mut self, bytes: &[u8]) -> Step {
        let incoming = self.incoming.as_mut().expect("checked by the caller");
        if incoming.left == 0 {
            // Only the digest is missing.
            if bytes.len() < 4 {
                return Step::need(4);
            }
            let intact = incoming.crc.finish() == frame::digest_at(bytes, 0);
            self.end_data(intact);
            return Step::Used(4);
        }
        let count = incoming.left.min(bytes.len());
        if count == 0 {
            return Step::need(1);
        }
        let data = &bytes[..count];
        if incoming.ddgst {
            incoming.crc.update(data);
        }
        incoming.left -= count;
        self.copied += count as u64;
        let slot = incoming.slot;
        self.transfers.fill(slot, data);
        self.after_data();
        Step::Used(count)
    }

    /// Bytes were placed: parts that are full are reported, unless a digest is still to judge them.
    fn after_data(&mut self) {
        let Some(incoming) = self.incoming else {
            return;
        };
        if incoming.ddgst {
            return;
        }
        if incoming.left == 0 {
            self.end_data(true);
        } else {
            self.transfers.release(incoming.slot, &mut self.filled);
        }
    }

    /// The last byte of an H2CData is there, and its digest was looked at.
    fn end_data(&mut self, intact: bool) {
        let Some(incoming) = self.incoming.take() else {
            return;
        };
        self.pdus += 1;
        if !intact {
            self.transfers.spoil(incoming.slot);
        }
        self.transfers.release(incoming.slot, &mut self.filled);
    }

    fn hang_up(&mut self, bytes: &[u8]) -> Step {
        if let Some(term) = TermReq::view(bytes) {
            log::debug!(
                "host ends the connection: {} ({:#x})",
                term.fes(),
                term.fei.get()
            );
        }
        self.state = State::Over;
        Step::Took(bytes.len(), Took::HungUp)
    }

    fn refuse(&mut self, fatal: Fatal, offending: &[u8]) {
        log::debug!("host broke the protocol: {} ({:#x})", fatal.fes, fatal.fei);
        self.state = State::Over;
        self.incoming = None;
        self.outbox.term(PduType::C2H_TERM_REQ, fatal, offending);
    }

    /// If the next bytes are data of a command: hands out the memory they belong in, piece by piece,
    /// until `take` says false. Says how many bytes of it the PDU has left, at most; 0 if the next
    /// bytes are not data.
    pub fn space<'a>(&'a mut self, mut take: impl FnMut(&'a mut [u8]) -> bool) {
        let Some(incoming) = self.incoming else {
            return;
        };
        let mut left = incoming.left;
        if left == 0 {
            return;
        }
        self.transfers.space(incoming.slot, |bytes| {
            let count = left.min(bytes.len());
            left -= count;
            take(&mut bytes[..count]) && left > 0
        });
    }

    /// Bytes of the data that is being received, still to come.
    #[inline]
    pub fn data_left(&self) -> usize {
        self.incoming.map_or(0, |incoming| incoming.left)
    }

    /// Bytes that R2Ts asked for, per R2T: tells large writes from small ones.
    #[inline]
    pub fn expected_each(&self) -> usize {
        self.transfers.expected_each()
    }

    /// `count` bytes were placed where [`Target::space`] said. What happened comes out of
    /// [`Target::take`].
    pub fn placed(&mut self, count: usize) {
        if count == 0 {
            return;
        }
        let incoming = self.incoming.as_mut().expect("there was space");
        incoming.left -= count;
        if incoming.ddgst {
            let crc = &mut incoming.crc;
            self.transfers
                .each_filled(incoming.slot, count, |bytes| crc.update(bytes));
        }
        self.transfers.advance(incoming.slot, count);
        self.after_data();
    }

    /// PDUs that were received whole: tells a slow PDU from many.
    #[inline]
    pub fn pdus(&self) -> u64 {
        self.pdus
    }

    /// Bytes of H2CData that were copied instead of being placed, since this was last asked.
    #[inline]
    pub fn take_copied(&mut self) -> u64 {
        std::mem::take(&mut self.copied)
    }

    /// True in the middle of a PDU, given how many bytes were left over: it must end within a bound.
    pub fn is_inside(&self, left_over: usize) -> bool {
        left_over > 0 || self.incoming.is_some()
    }

    /// Asks the host for data. The R2T is made by [`Target::ask`], so that neighbours can share one.
    /// Gives the Bufs back if the connection is over.
    pub fn fetch(&mut self, fetch: Fetch) -> Option<BufList> {
        if self.state != State::Open {
            return Some(fetch.bufs);
        }
        self.transfers
            .add(fetch.cid, fetch.offset, fetch.tag, fetch.bufs);
        None
    }

    /// True if [`Target::ask`] has something to do.
    #[inline]
    pub fn wants_to_ask(&self) -> bool {
        self.transfers.has_waiting()
    }

    /// Makes the R2Ts that may be sent now.
    pub fn ask(&mut self) {
        if self.state != State::Open {
            return;
        }
        while let Some(ask) = self.transfers.next_r2t(self.maxr2t) {
            let r2t = R2t {
                cccid: U16::new(ask.cid),
                ttag: U16::new(ask.ttag),
                r2to: U32::new(ask.offset),
                r2tl: U32::new(ask.len),
                ..R2t::default()
            };
            self.outbox.pdu(r2t, &self.to_host);
        }
    }

    /// Queues data, a completion, or both. Gives the Bufs back if there is nothing in them to send,
    /// or if the connection is over.
    #[inline]
    pub fn reply(&mut self, reply: Reply) -> Option<BufList> {
        if self.state != State::Open {
            return Some(reply.bufs);
        }
        let answered = reply.cqe.is_some() && reply.sgl.kind == Sgl::IN_CAPSULE;
        self.with_data = self.with_data.saturating_sub(u32::from(answered));
        let data_len = reply.bufs.len();
        let mut elided = false;
        let mut unused = None;
        if data_len == 0 {
            unused = Some(reply.bufs);
        } else {
            // SUCCESS only with LAST_PDU (NVMe/TCP 3.6.2.9).
            elided = reply.last && reply.may_elide_cqe && reply.cqe.is_some();
            let flags =
                (if reply.last { LAST_PDU } else { 0 }) | (if elided { SUCCESS } else { 0 });
            let pdu = C2hData {
                ch: CommonHeader {
                    flags,
                    ..CommonHeader::default()
                },
                cccid: U16::new(reply.cid),
                datao: U32::new(reply.offset),
                datal: U32::new(data_len as u32),
                ..C2hData::default()
            };
            self.outbox
                .pdu_with(pdu, reply.bufs, data_len, &self.to_host);
        }
        if let (Some(cqe), false) = (reply.cqe, elided) {
            let pdu = CapsuleResp {
                cqe,
                ..CapsuleResp::default()
            };
            self.outbox.pdu(pdu, &self.to_host);
        }
        unused
    }

    /// False while so much waits to be sent that more should wait elsewhere.
    #[inline]
    pub fn wants_more(&self) -> bool {
        self.outbox.len() < SEND_WAITING_MAX
    }

    /// Bytes that wait to be sent.
    #[inline]
    pub fn to_send(&self) -> usize {
        self.outbox.len()
    }

    /// What waits to be sent is large data, most of it.
    #[inline]
    pub fn sends_large(&self) -> bool {
        self.outbox.is_large()
    }

    /// Hands out what waits to be sent, piece by piece and in order, until `push` says false.
    #[inline]
    pub fn gather<'a>(&'a self, push: impl FnMut(&'a [u8]) -> bool) {
        self.outbox.gather(push);
    }

    /// The first `count` bytes were sent. Data whose last byte left goes to `home`.
    #[inline]
    pub fn sent(&mut self, count: usize, home: &mut impl FnMut(BufList)) {
        self.outbox.sent(count, home);
    }

    /// No more data will come: the Bufs of fetches go to `home`.
    pub fn give_up_fetches(&mut self, home: &mut impl FnMut(BufList)) {
        self.state = State::Over;
        self.incoming = None;
        self.transfers.clear(home);
        for filled in self.filled.drain(..) {
            home(filled.bufs);
        }
    }

    /// Nothing more will be sent or received: all Bufs go to `home`.
    pub fn give_up(&mut self, home: &mut impl FnMut(BufList)) {
        self.give_up_fetches(home);
        self.outbox.clear(home);
    }
}

enum Step {
    Used(usize),
    Took(usize, Took),
}

impl Step {
    const fn need(count: usize) -> Step {
        Step::Took(0, Took::Need(count))
    }
}

impl Took {
    /// The same, counted from `by` bytes earlier.
    #[inline]
    const fn behind(self, by: usize) -> Took {
        match self {
            Took::Capsule {
                at,
                data_at,
                data_len,
            } => Took::Capsule {
                at: at + by,
                data_at: data_at + by,
                data_len,
            },
            Took::Spoiled { at } => Took::Spoiled { at: at + by },
            other => other,
        }
    }
}
