//! The host's half of one NVMe/TCP connection, as a machine: bytes and commands in, bytes and
//! completions out. It knows no socket and no clock.
//!
//! - [`Conn::submit`] takes a command and its data; [`Conn::gather`] says what is to be sent next, as
//!   pieces of memory; [`Conn::sent`] that so much of it was.
//! - [`Conn::received`] takes bytes that came, in pieces of any length. Data of reads goes to the
//!   command's own memory. Of a large PDU the shell can have the kernel put the rest there without
//!   us: [`Conn::direct`], [`Conn::direct_received`].
//! - [`Conn::poll`] gives completions.
//!
//! The target is not trusted: CCCID, offsets, lengths, order and number of everything it sends are
//! checked, and the first thing that cannot be ends the connection with a TermReq
//! ([`Conn::terminate`]). Every command that was taken is completed exactly once; [`Conn::end`] does
//! that for those the peer did not answer.

use std::collections::VecDeque;
use std::fmt;

use ferroce_engine::host::CidTable;
use ferroce_wire::Wire;
use ferroce_wire::cqe::Cqe;
use ferroce_wire::num::{U16, U32};
use ferroce_wire::opcode::{AdminOpcode, DataDirection};
use ferroce_wire::sqe::{Sgl, Sqe};
use ferroce_wire::status::Status;
use ferroce_wire::tcp::{
    C2hData, CapsuleCmd, CapsuleResp, DIGEST_LEN, Fes, H2cData, IcReq, IcResp, LAST_PDU,
    MAXH2CDATA_MIN, PFV_1_0, PduType, R2t, SUCCESS, TermReq,
};

use crate::host::{Completion, Data, Refused, RefusedWhy};
use crate::tcp::frame::{self, Crc, Digests, Fatal, Format, Parsed, Sender, Shape};

/// In-capsule data that every queue takes of Fabrics commands, and the admin queue of all: NVMe/TCP
/// asks it of every controller, whatever IOCCSZ says.
pub const IN_CAPSULE_ADMIN: u32 = 8192;
/// The longest header there is with its digest: ICResp has none, but it is the longest.
const HEAD_MAX: usize = 128 + DIGEST_LEN;
/// Below this, having the kernel place the rest of a PDU saves less than it costs.
const DIRECT_MIN: usize = 8192;
/// Sent bytes of `heads` are kept until they are this many, so that what is left is moved rarely.
const KEPT_MAX: usize = 16 * 1024;

/// What the host wishes of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wishes {
    /// Digests to ask for.
    pub digests: Digests,
    /// HPDA: how we want data aligned, in zero-based dwords.
    pub hpda: u8,
    /// R2Ts we take per command at a time, 1 and up.
    pub maxr2t: u16,
    /// Commands outstanding at a time.
    pub depth: u16,
}

/// One connection, seen from the host.
#[derive(Debug)]
pub struct Conn {
    phase: Phase,
    wishes: Wishes,
    /// PDUs to the target, PDUs from it.
    to_target: Format,
    to_host: Format,
    digests: Digests,
    maxh2cdata: u32,
    in_capsule: u32,
    sq_flow_control: bool,
    commands: CidTable<Command>,
    /// Answered, not yet polled.
    done: VecDeque<u16>,
    /// The beginning of a header that is not whole yet.
    head: [u8; HEAD_MAX],
    head_len: usize,
    data: Option<Incoming>,
    large_pdus: bool,
    heads: Vec<u8>,
    /// Where the bytes of the first `Heads` begin; those before were sent.
    heads_at: usize,
    runs: VecDeque<Run>,
    /// Bytes of the first run that were sent.
    front_sent: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// ICReq is on its way; nothing but ICResp may come.
    AwaitIcResp,
    /// Commands may go.
    Open,
    /// Nothing is sent or believed any more.
    Ended,
}

/// A command without an answer, or with one that nobody polled yet.
#[derive(Debug)]
struct Command {
    user_data: u64,
    data: Data,
    to_host: bool,
    /// Bytes of data, those received or asked for so far, and whether all were right.
    len: u32,
    moved: u32,
    digest_failed: bool,
    /// Runs of its data that are not sent yet, and R2Ts these answer.
    unsent: u32,
    r2ts: u16,
    answer: Option<Cqe>,
}

/// Data of a C2HData PDU that is not whole yet.
#[derive(Clone, Copy, Debug)]
struct Incoming {
    cid: u16,
    /// Bytes of padding to come.
    pad: usize,
    /// Where in the command's data the next byte goes, and how many are to come.
    at: usize,
    left: usize,
    crc: Option<Crc>,
    ddgst: [u8; DIGEST_LEN],
    ddgst_left: usize,
    success: bool,
}

#[derive(Clone, Copy, Debug)]
enum Run {
    /// So many bytes of `heads`.
    Heads(usize),
    /// Bytes of a command's data; with the last of an R2T, that one is answered.
    Data {
        cid: u16,
        at: u32,
        len: u32,
        ends_r2t: bool,
    },
}

/// Why a connection ended by something that was received.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Broken {
    /// The target broke the protocol.
    Violation(Violation),
    /// The target says that we did.
    Terminated {
        /// Fatal Error Status.
        fes: Fes,
        /// Fatal Error Information.
        fei: u32,
    },
}

/// What a target did that it must not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// What the TermReq says.
    pub fatal: Fatal,
    /// In words.
    pub what: &'static str,
    /// The header of the PDU, as far as it came.
    pub header: Vec<u8>,
}

/// A check that failed, before the header it is about is attached.
type Wrong = (Fatal, &'static str);

impl Conn {
    /// A new connection. ICReq waits to be sent; nothing can be submitted before
    /// [`Conn::is_open`].
    pub fn new(wishes: Wishes) -> Conn {
        let mut heads = Vec::with_capacity(KEPT_MAX + usize::from(wishes.depth) * 128);
        let icreq = IcReq::new(
            wishes.hpda,
            wishes.digests.dgst(),
            u32::from(wishes.maxr2t.max(1)) - 1,
        );
        let len = frame::put(&mut heads, icreq, 0, &Format::default());
        let mut runs = VecDeque::with_capacity(2 * usize::from(wishes.depth) + 2);
        runs.push_back(Run::Heads(len));
        Conn {
            phase: Phase::AwaitIcResp,
            wishes,
            to_target: Format::default(),
            to_host: Format::default(),
            digests: Digests::default(),
            maxh2cdata: 0,
            in_capsule: IN_CAPSULE_ADMIN,
            sq_flow_control: true,
            commands: CidTable::new(wishes.depth),
            done: VecDeque::with_capacity(usize::from(wishes.depth)),
            head: [0; HEAD_MAX],
            head_len: 0,
            data: None,
            large_pdus: false,
            heads,
            heads_at: 0,
            runs,
            front_sent: 0,
        }
    }

    /// ICResp came and was accepted.
    pub fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// Digests that are on: the target may leave out some that were asked for.
    pub fn digests(&self) -> Digests {
        self.digests
    }

    /// What an I/O queue may have of in-capsule data (IOCCSZ less the SQE). Until it is told, a
    /// connection is taken for one of an admin queue.
    pub fn set_in_capsule(&mut self, bytes: u32) {
        self.in_capsule = bytes;
    }

    /// SQHD of the Connect's answer was FFFFh: the target may elide completions (SUCCESS).
    pub fn set_sq_flow_control(&mut self, on: bool) {
        self.sq_flow_control = on;
    }

    /// Commands that have no answer, or one that was not polled.
    pub fn outstanding(&self) -> usize {
        self.commands.len()
    }

    /// Commands outstanding at a time.
    pub fn depth(&self) -> usize {
        self.commands.depth()
    }

    /// Takes a command. CID, PSDT and the data pointer are filled in here; the direction of the data
    /// is what the opcode says (Base 3.1.3.1). Returns the CID.
    ///
    /// # Errors
    /// Gives the data back if the queue is full or dead.
    ///
    /// # Panics
    /// If the connection is not open yet, or the opcode takes no such data.
    pub fn submit(&mut self, sqe: Sqe, data: Data, user_data: u64) -> Result<u16, Refused> {
        let refuse = |why, data| Err(Refused { why, data });
        match self.phase {
            Phase::Open => {}
            Phase::AwaitIcResp => panic!("a command before ICResp"),
            Phase::Ended => return refuse(RefusedWhy::Dead, data),
        }
        let Some(cid) = self.commands.next_cid() else {
            return refuse(RefusedWhy::Full, data);
        };
        let fabrics = sqe.fabrics_type();
        let direction = DataDirection::of(fabrics.map_or(sqe.opc, |fctype| fctype.0));
        let len = u32::try_from(data.len()).expect("data of one command is below 4 GiB");
        let to_target = direction == DataDirection::ToTarget && len > 0;
        match direction {
            DataDirection::None => assert!(len == 0, "opcode {:02X}h has no data", sqe.opc),
            DataDirection::ToTarget => {
                let discarded = matches!(data, Data::Discard(_));
                assert!(!discarded, "opcode {:02X}h sends data", sqe.opc);
            }
            DataDirection::ToHost => {}
            DataDirection::Both => panic!("opcode {:02X}h moves data both ways", sqe.opc),
        }
        let in_capsule_max = if sqe.opc == AdminOpcode::FABRICS.0 {
            IN_CAPSULE_ADMIN
        } else {
            self.in_capsule
        };
        let in_capsule = to_target && len <= in_capsule_max;
        let mut sqe = sqe.with_sgl(if in_capsule {
            Sgl::in_capsule(0, len)
        } else {
            Sgl::transport(len)
        });
        sqe.cid = U16::new(cid);
        let command = Command {
            user_data,
            data,
            to_host: direction == DataDirection::ToHost,
            len,
            // Data in the capsule needs no R2T: it counts as asked for.
            moved: if in_capsule { len } else { 0 },
            digest_failed: false,
            unsent: 0,
            r2ts: 0,
            answer: None,
        };
        let taken = self.commands.insert(command);
        assert!(taken.is_ok_and(|taken| taken == cid), "the CID was free");
        let capsule = CapsuleCmd {
            sqe,
            ..CapsuleCmd::default()
        };
        if in_capsule {
            self.put_with_data(capsule, cid, 0, len, false);
        } else {
            let put = frame::put(&mut self.heads, capsule, 0, &self.to_target);
            self.grew(put);
        }
        Ok(cid)
    }

    /// The next completion, if any.
    #[inline]
    pub fn poll(&mut self) -> Option<Completion> {
        let cid = self.done.pop_front()?;
        let command = self.commands.remove(cid);
        let command = command.expect("an answered command is kept until it is polled");
        let mut cqe = command.answer.expect("only answered commands are done");
        if command.digest_failed && cqe.status().is_success() {
            cqe.set_status(Status::TRANSIENT_TRANSPORT_ERROR);
        }
        Some(Completion {
            user_data: command.user_data,
            cqe,
            data: command.data,
        })
    }

    /// True if [`Conn::poll`] has something.
    #[inline]
    pub fn has_done(&self) -> bool {
        !self.done.is_empty()
    }

    /// True if there is something to send.
    #[inline]
    pub fn wants_send(&self) -> bool {
        !self.runs.is_empty()
    }

    /// Hands out what is to be sent, piece by piece and in order, until `push` says false.
    #[inline]
    pub fn gather<'a>(&'a self, mut push: impl FnMut(&'a [u8]) -> bool) {
        let mut heads_at = self.heads_at;
        let mut skip = self.front_sent;
        for run in &self.runs {
            let piece = match *run {
                Run::Heads(len) => {
                    let piece = &self.heads[heads_at + skip..heads_at + len];
                    heads_at += len;
                    piece
                }
                Run::Data { cid, at, len, .. } => {
                    let command = self.commands.get(cid);
                    let data = &command.expect("kept until its data is sent").data;
                    &data.bytes()[at as usize + skip..(at + len) as usize]
                }
            };
            if !push(piece) {
                return;
            }
            skip = 0;
        }
    }

    /// The first `count` bytes of what was to be sent were.
    ///
    /// # Panics
    /// If there were fewer.
    pub fn sent(&mut self, count: usize) {
        let mut left = self.front_sent + count;
        while let Some(&run) = self.runs.front() {
            let len = match run {
                Run::Heads(len) => len,
                Run::Data { len, .. } => len as usize,
            };
            if left < len {
                break;
            }
            left -= len;
            self.runs.pop_front();
            match run {
                Run::Heads(len) => self.heads_at += len,
                Run::Data { cid, ends_r2t, .. } => self.data_sent(cid, ends_r2t),
            }
        }
        self.front_sent = left;
        if self.runs.is_empty() {
            assert!(left == 0, "only what waits is sent");
            self.heads.clear();
            self.heads_at = 0;
        } else if self.heads_at > KEPT_MAX {
            self.heads.drain(..self.heads_at);
            self.heads_at = 0;
        }
    }

    fn data_sent(&mut self, cid: u16, ends_r2t: bool) {
        let command = self.commands.get_mut(cid);
        let command = command.expect("kept until its data is sent");
        command.unsent -= 1;
        if ends_r2t {
            command.r2ts -= 1;
        }
        if command.unsent == 0 && command.answer.is_some() {
            self.done.push_back(cid);
        }
    }

    /// Bytes came.
    ///
    /// # Errors
    /// The connection is over: [`Conn::terminate`] if the target is to be told, then close it and
    /// call [`Conn::end`].
    pub fn received(&mut self, mut bytes: &[u8]) -> Result<(), Broken> {
        while !bytes.is_empty() {
            if self.data.is_some() {
                bytes = self.take_data(bytes)?;
                continue;
            }
            if self.head_len == 0 {
                match frame::parse(bytes, Sender::Controller, &self.to_host) {
                    Ok(Parsed::Pdu(shape)) => {
                        let base = self.base(&shape);
                        self.on_pdu(shape, &bytes[..base])?;
                        bytes = &bytes[base..];
                        continue;
                    }
                    Ok(Parsed::Need(_)) => {}
                    Err(fatal) => return Err(refused(fatal, bytes)),
                }
            }
            bytes = self.gather_head(bytes)?;
        }
        Ok(())
    }

    /// A header that comes in pieces.
    fn gather_head<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], Broken> {
        let have = self.head_len;
        let need = match frame::parse(&self.head[..have], Sender::Controller, &self.to_host) {
            Ok(Parsed::Need(need)) => need,
            Ok(Parsed::Pdu(_)) => panic!("a whole header is not kept"),
            Err(fatal) => return Err(refused(fatal, &self.head[..have])),
        };
        let take = (need - have).min(bytes.len());
        let (now, later) = bytes.split_at(take);
        self.head[have..have + take].copy_from_slice(now);
        self.head_len += take;
        let head = self.head;
        let head = &head[..self.head_len];
        match frame::parse(head, Sender::Controller, &self.to_host) {
            Ok(Parsed::Need(_)) => {}
            Ok(Parsed::Pdu(shape)) => {
                debug_assert_eq!(self.base(&shape), head.len());
                self.head_len = 0;
                self.on_pdu(shape, head)?;
            }
            Err(fatal) => return Err(refused(fatal, head)),
        }
        Ok(later)
    }

    /// Bytes of a header and its digest: what lies before the padding.
    fn base(&self, shape: &Shape) -> usize {
        let hlen = shape.kind.hlen().map_or(0, usize::from);
        match shape.kind {
            PduType::IC_RESP | PduType::C2H_TERM_REQ => hlen,
            _ => hlen + self.to_host.digests.header_len(),
        }
    }

    /// A header is whole, its framing right. What follows of the PDU is data.
    fn on_pdu(&mut self, shape: Shape, head: &[u8]) -> Result<(), Broken> {
        let wrong = match (self.phase, shape.kind) {
            (Phase::AwaitIcResp, PduType::IC_RESP) => self.on_icresp(&whole(head)),
            (Phase::Open, PduType::CAPSULE_RESP) => self.on_response(&whole(head)),
            (Phase::Open, PduType::C2H_DATA) => self.on_data(&whole(head), &shape),
            (Phase::Open, PduType::R2T) => self.on_r2t(&whole(head)),
            (Phase::AwaitIcResp | Phase::Open, PduType::C2H_TERM_REQ) => {
                let term: TermReq = whole(head);
                return Err(Broken::Terminated {
                    fes: term.fes(),
                    fei: term.fei.get(),
                });
            }
            (Phase::AwaitIcResp, _) => Err(sequence("something else came before ICResp")),
            (Phase::Open, _) => Err(sequence("a second ICResp came")),
            (Phase::Ended, _) => Err(sequence("something came after the end")),
        };
        wrong.map_err(|(fatal, what)| violation(fatal, what, head))
    }

    fn on_icresp(&mut self, icresp: &IcResp) -> Result<(), Wrong> {
        if icresp.pfv.get() != PFV_1_0 {
            return Err(unsupported(8, "ICResp has an unknown PFV"));
        }
        let digests = Digests::from_dgst(icresp.dgst);
        let unasked = |on: bool, asked: bool| on && !asked;
        if unasked(digests.header, self.wishes.digests.header)
            || unasked(digests.data, self.wishes.digests.data)
        {
            return Err(unsupported(11, "ICResp turns on a digest nobody asked for"));
        }
        let maxh2cdata = icresp.maxh2cdata.get();
        if maxh2cdata < MAXH2CDATA_MIN || !maxh2cdata.is_multiple_of(4) {
            return Err(field(12, "ICResp has a MAXH2CDATA that may not be"));
        }
        self.to_target = Format::new(digests, icresp.cpda)
            .ok_or(field(10, "ICResp has a CPDA that may not be"))?;
        self.to_host = Format::new(digests, self.wishes.hpda).expect("our own HPDA is right");
        self.digests = digests;
        self.maxh2cdata = maxh2cdata;
        self.phase = Phase::Open;
        Ok(())
    }

    /// The command that the target speaks of, which has no answer yet.
    fn command(&mut self, cccid: U16, at: u32) -> Result<&mut Command, Wrong> {
        match self.commands.get_mut(cccid.get()) {
            Some(command) if command.answer.is_none() => Ok(command),
            Some(_) => Err(field(at, "the command was answered before")),
            None => Err(field(at, "there is no such command")),
        }
    }

    fn on_response(&mut self, pdu: &CapsuleResp) -> Result<(), Wrong> {
        // CID lies at bytes 12 and 13 of the CQE, which starts at 8.
        let cid = pdu.cqe.cid;
        let command = self.command(cid, 8 + 12)?;
        if pdu.cqe.status().is_success() && command.moved < command.len {
            let what = if command.to_host {
                "success, but not all data of the read came"
            } else {
                "success, but not all data of the write was asked for"
            };
            return Err(sequence(what));
        }
        command.answer = Some(pdu.cqe);
        // A refusal may overtake data on its way out; the memory is needed until that has left.
        if command.unsent == 0 {
            self.done.push_back(cid.get());
        }
        Ok(())
    }

    fn on_data(&mut self, pdu: &C2hData, shape: &Shape) -> Result<(), Wrong> {
        let sq_flow_control = self.sq_flow_control;
        let command = self.command(pdu.cccid, 8)?;
        if !command.to_host {
            return Err(field(8, "data for a command that reads none"));
        }
        let (datao, datal) = (pdu.datao.get(), pdu.datal.get());
        if datal == 0 || datal as usize != shape.data_len {
            return Err(field(16, "DATAL is not the length of the data"));
        }
        // Data of one command comes in ascending order without gaps; Linux and SPDK count on it.
        if datao != command.moved {
            return Err(out_of_range("DATAO is not where the data before ended"));
        }
        if datal > command.len - command.moved {
            return Err(out_of_range("more data than the command asked for"));
        }
        let success = shape.flags & SUCCESS != 0;
        if success && shape.flags & LAST_PDU == 0 {
            return Err(field(1, "SUCCESS without LAST_PDU"));
        }
        if success && sq_flow_control {
            return Err(field(1, "SUCCESS on a queue with SQ flow control"));
        }
        if success && datao + datal != command.len {
            return Err(sequence("SUCCESS, but not all data of the read came"));
        }
        command.moved += datal;
        self.large_pdus = datal as usize >= DIRECT_MIN && !matches!(command.data, Data::Discard(_));
        self.data = Some(Incoming {
            cid: pdu.cccid.get(),
            pad: shape.data_at - self.base(shape),
            at: datao as usize,
            left: datal as usize,
            crc: shape.ddgst.then(Crc::new),
            ddgst: [0; DIGEST_LEN],
            ddgst_left: if shape.ddgst { DIGEST_LEN } else { 0 },
            success,
        });
        Ok(())
    }

    fn on_r2t(&mut self, pdu: &R2t) -> Result<(), Wrong> {
        let maxr2t = self.wishes.maxr2t.max(1);
        let maxh2cdata = self.maxh2cdata;
        let command = self.command(pdu.cccid, 8)?;
        let (r2to, r2tl) = (pdu.r2to.get(), pdu.r2tl.get());
        if command.to_host || command.len == 0 {
            return Err(field(8, "R2T for a command that has nothing to send"));
        }
        if command.r2ts == maxr2t {
            let fatal = Fatal::of(Fes::R2T_LIMIT_EXCEEDED);
            return Err((fatal, "more R2Ts at a time than MAXR2T"));
        }
        if r2tl == 0 {
            return Err(field(16, "R2TL is 0"));
        }
        if r2to != command.moved {
            return Err(out_of_range("R2TO is not where the R2T before ended"));
        }
        if r2tl > command.len - command.moved {
            return Err(out_of_range("R2T asks for more than the command has"));
        }
        command.moved += r2tl;
        command.r2ts += 1;
        let end = r2to + r2tl;
        let mut at = r2to;
        while at < end {
            let len = (end - at).min(maxh2cdata);
            let last = at + len == end;
            let mut pdu = H2cData {
                cccid: pdu.cccid,
                ttag: pdu.ttag,
                datao: U32::new(at),
                datal: U32::new(len),
                ..H2cData::default()
            };
            pdu.ch.flags = if last { LAST_PDU } else { 0 };
            self.put_with_data(pdu, pdu.cccid.get(), at, len, last);
            at += len;
        }
        Ok(())
    }

    /// Queues a PDU with bytes of a command's data behind it.
    fn put_with_data<P: frame::Pdu>(
        &mut self,
        pdu: P,
        cid: u16,
        at: u32,
        len: u32,
        ends_r2t: bool,
    ) {
        let put = frame::put(&mut self.heads, pdu, len as usize, &self.to_target);
        self.grew(put);
        let command = self.commands.get_mut(cid).expect("the caller has it");
        command.unsent += 1;
        self.runs.push_back(Run::Data {
            cid,
            at,
            len,
            ends_r2t,
        });
        if self.to_target.digests.data {
            let data = &command.data.bytes()[at as usize..(at + len) as usize];
            let digest = Crc::of(data).to_le_bytes();
            self.heads.extend_from_slice(&digest);
            self.grew(digest.len());
        }
    }

    fn grew(&mut self, by: usize) {
        if let Some(Run::Heads(len)) = self.runs.back_mut() {
            *len += by;
        } else {
            self.runs.push_back(Run::Heads(by));
        }
    }

    /// Bytes of a C2HData PDU behind its header.
    fn take_data<'a>(&mut self, mut bytes: &'a [u8]) -> Result<&'a [u8], Broken> {
        let incoming = self.data.as_mut().expect("the caller saw it");
        bytes = &bytes[skip(&mut incoming.pad, bytes)..];
        let count = incoming.left.min(bytes.len());
        let (now, mut bytes) = bytes.split_at(count);
        let command = self.commands.get_mut(incoming.cid);
        let command = command.expect("a command is kept until its data came");
        if !matches!(command.data, Data::Discard(_)) {
            command.data.bytes_mut()[incoming.at..incoming.at + count].copy_from_slice(now);
        }
        if let Some(crc) = &mut incoming.crc {
            crc.update(now);
        }
        incoming.at += count;
        incoming.left -= count;
        if incoming.left == 0 {
            let at = DIGEST_LEN - incoming.ddgst_left;
            let count = skip(&mut incoming.ddgst_left, bytes);
            incoming.ddgst[at..at + count].copy_from_slice(&bytes[..count]);
            bytes = &bytes[count..];
            self.data_came();
        }
        Ok(bytes)
    }

    /// Ends the data of a PDU, if it is whole.
    fn data_came(&mut self) {
        let Some(incoming) = self.data else { return };
        if incoming.left > 0 || incoming.ddgst_left > 0 {
            return;
        }
        self.data = None;
        let command = self.commands.get_mut(incoming.cid);
        let command = command.expect("a command is kept until its data came");
        if let Some(crc) = incoming.crc
            && crc.finish() != u32::from_le_bytes(incoming.ddgst)
        {
            // The header was right, so the connection can go on; this command fails (NVMe/TCP 3.3.1).
            command.digest_failed = true;
        }
        if incoming.success {
            let mut cqe = Cqe::new(incoming.cid, Status::SUCCESS);
            cqe.sqhd = U16::new(Cqe::SQHD_NO_FLOW_CONTROL);
            command.answer = Some(cqe);
            self.done.push_back(incoming.cid);
        }
    }

    /// Where the rest of a large PDU's data belongs: the shell may receive right into it.
    pub fn direct(&mut self) -> Option<&mut [u8]> {
        let incoming = self.data.as_ref()?;
        if incoming.pad > 0 || incoming.left < DIRECT_MIN {
            return None;
        }
        let command = self.commands.get_mut(incoming.cid);
        let command = command.expect("a command is kept until its data came");
        match command.data {
            Data::None | Data::Discard(_) => None,
            Data::Vec(_) | Data::Buf(_) => {
                Some(&mut command.data.bytes_mut()[incoming.at..incoming.at + incoming.left])
            }
        }
    }

    /// `count` bytes were received into [`Conn::direct`].
    ///
    /// # Panics
    /// If it is more than there was room for.
    pub fn direct_received(&mut self, count: usize) {
        let incoming = self.data.as_mut().expect("there was a place for data");
        assert!(count <= incoming.left, "received past the end of a PDU");
        if let Some(crc) = &mut incoming.crc {
            let command = self.commands.get(incoming.cid);
            let command = command.expect("a command is kept until its data came");
            crc.update(&command.data.bytes()[incoming.at..incoming.at + count]);
        }
        incoming.at += count;
        incoming.left -= count;
        self.data_came();
    }

    /// True while PDUs are so large that it pays to receive few bytes between [`Conn::direct`]s.
    pub fn has_large_pdus(&self) -> bool {
        self.large_pdus
    }

    /// Tells the target what it did, behind what is half sent already.
    pub fn terminate(&mut self, violation: &Violation) {
        let kind = PduType::H2C_TERM_REQ;
        let len = frame::put_term(&mut self.heads, kind, violation.fatal, &violation.header);
        self.grew(len);
    }

    /// The connection is gone. Every command without an answer gets one of ours:
    /// [`Status::HOST_PATHING_ERROR`], for nobody knows whether it was carried out.
    pub fn end(&mut self) {
        if self.phase == Phase::Ended {
            return;
        }
        self.phase = Phase::Ended;
        self.data = None;
        self.runs.clear();
        self.heads.clear();
        (self.heads_at, self.front_sent) = (0, 0);
        self.done.clear();
        let cids: Vec<u16> = self.commands.cids().collect();
        for cid in cids {
            let command = self.commands.get_mut(cid).expect("it was listed");
            let lost = Cqe::new(cid, Status::HOST_PATHING_ERROR);
            command.answer.get_or_insert(lost);
            self.done.push_back(cid);
        }
    }
}

/// Counts `left` down by what `bytes` has of it; says by how much.
fn skip(left: &mut usize, bytes: &[u8]) -> usize {
    let count = (*left).min(bytes.len());
    *left -= count;
    count
}

/// A header that `frame::parse` said is there.
fn whole<P: Wire>(head: &[u8]) -> P {
    P::read(head).expect("the framing was checked")
}

fn field(at: u32, what: &'static str) -> Wrong {
    (Fatal::field(at), what)
}

fn unsupported(at: u32, what: &'static str) -> Wrong {
    (Fatal::parameter(at), what)
}

fn sequence(what: &'static str) -> Wrong {
    (Fatal::of(Fes::PDU_SEQUENCE_ERROR), what)
}

fn out_of_range(what: &'static str) -> Wrong {
    (Fatal::of(Fes::DATA_TRANSFER_OUT_OF_RANGE), what)
}

/// What `frame::parse` refused.
fn refused(fatal: Fatal, bytes: &[u8]) -> Broken {
    let what = match fatal.fes {
        Fes::HEADER_DIGEST_ERROR => "the header digest does not match",
        _ => "not a PDU that a controller sends",
    };
    violation(fatal, what, bytes)
}

fn violation(fatal: Fatal, what: &'static str, bytes: &[u8]) -> Broken {
    Broken::Violation(Violation {
        fatal,
        what,
        header: frame::header_of(bytes).to_vec(),
    })
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Broken::Violation(violation) => {
                write!(f, "{}; received", violation.what)?;
                if let Some(&kind) = violation.header.first()
                    && PduType(kind).name().is_some()
                {
                    write!(f, " {}", PduType(kind))?;
                }
                for (i, byte) in violation.header.iter().take(32).enumerate() {
                    write!(f, "{}{byte:02x}", if i % 4 == 0 { " " } else { "" })?;
                }
                if violation.header.len() > 32 {
                    f.write_str(" ...")?;
                }
                Ok(())
            }
            Broken::Terminated { fes, fei } => {
                write!(
                    f,
                    "the target ended the connection: {fes}, information {fei:08X}h"
                )
            }
        }
    }
}

#[cfg(test)]
mod tests;
