//! The sending half of a queue pair (InfiniBand 9.7): messages and READs become packets, and stay
//! until the peer acknowledged them.
//!
//! A packet is a function of its number, so nothing is kept of packets: going back to send again
//! (go-back-N) is setting the number of the next one. RDMA WRITEs go out as one "WRITE Only" for each
//! packet, every one with its own address; a chain of them and its SEND is then a run of datagrams of
//! one length with a shorter one at the end, which is what one system call with UDP_SEGMENT takes.
//!
//! How much may be out follows the loss that is seen: the window grows by one packet per round trip
//! and is halved by a round trip with loss, down to 32 packets as long as others get through. There are
//! no timers between packets; what leaves at once is bounded by the window and by the length of a [`Burst`]. Nothing is paced: the window grows only as fast as packets
//! are acknowledged, so what leaves is clocked by what arrived, and the largest train is 64 packets of one queue pair, which
//! a NIC's queue and a switch's port take. Packets apart in time would need a timer every few us, that is a core that never
//! sleeps, and would give up UDP_SEGMENT, which is half of the speed. NICs that pace do so on marks of congestion (DCQCN);
//! those marks (CNP) halve the window here.

use std::collections::VecDeque;

use ferroce_engine::plant::{self, Bug};
use ferroce_engine::port::Tick;
use ferroce_wire::roce::{Opcode, Syndrome};

use crate::rdma::provider::{Answer, Event, HEAD_LEN, Message, QpId, Read, WcStatus};
use crate::roce::cm::Peer;
use crate::roce::counters::{Counters, Dropped};
use crate::roce::packet::{Head, Mtu, Psn, packets};
use crate::roce::payload::{Burst, PacketOut, Payload};

/// Packets out at first.
const WINDOW_START: u32 = 64;
/// Packets out at most: what rxe lets itself have out.
const WINDOW_MAX: u32 = 128;
/// Packets out at least, however congested the way is, and when nothing gets through: enough for one loss to be seen by
/// the next packet.
const WINDOW_MIN: u32 = 4;
/// Packets out at least where some are lost and those after them arrive: halving for each, one loss of a hundred would
/// leave about twelve. Hosts and NICs do not slow down for that at all; these have CNPs for it.
const WINDOW_LOSSY: u32 = 32;
/// One READ request asks for so many packets at most; longer READs are several. They are always cut at
/// the same places: a peer that executed one serves it again, or its end, but not what reaches beyond.
const READ_CHUNK: u32 = 16;
/// In a long train, every so many packets one asks to be acknowledged.
const ACK_EVERY: u32 = 32;
/// An acknowledgement is late after what [`RoundTrip`] says, but never before or after these, in ns.
const RTO_MIN: u64 = 5_000_000;
/// See `RTO_MIN`.
const RTO_MAX: u64 = 500_000_000;
/// ... or after this, as long as no round trip was measured.
const RTO_START: u64 = 50_000_000;
/// Before that, a peer that is ours is nudged after two round trips, but never sooner than this, in ns.
const NUDGE_MIN: u64 = 200_000;
/// A peer that acknowledges nothing for this long, in ns, is gone. What its REQ wishes for this (Local ACK Timeout and Retry
/// Count; RNR Retry Count for the next) is not heeded: Linux asks for 2.1 s eight times, longer than we wait for anybody, and
/// who wished for less would lose connections whenever it pauses.
pub const GIVE_UP_NS: u64 = 10_000_000_000;

/// A peer that is there and has no RECV for this long, in ns, will have none. InfiniBand's RNR retry count of 7, which
/// everybody asks for, means for ever (9.7.5.2.8); but what is posted here has the memory of others, and a host gives up a
/// command after 30 s.
pub const RNR_GIVE_UP_NS: u64 = 30_000_000_000;

/// RNR timer by code, in us (InfiniBand table 45).
const RNR_US: [u32; 32] = [
    655_360, 10, 20, 30, 40, 60, 80, 120, 160, 240, 320, 480, 640, 960, 1280, 1920, 2560, 3840,
    5120, 7680, 10_240, 15_360, 20_480, 30_720, 40_960, 61_440, 81_920, 122_880, 163_840, 245_760,
    327_680, 491_520,
];

/// What is to be carried out.
#[derive(Debug)]
enum Work {
    Answer(Answer),
    Message(Message),
    Read(Read),
}

#[derive(Debug)]
struct Entry {
    work: Work,
    /// Bytes of its Bufs.
    len: u32,
    /// Its first packet (for a READ: of the response).
    first: Psn,
    packets: u32,
}

/// Where sending is.
#[derive(Clone, Copy, Debug)]
struct Cursor {
    /// The next packet.
    psn: Psn,
    /// The entry it belongs to, or the number of entries.
    index: usize,
    /// READ requests that are out.
    reads: usize,
}

/// The sending half of a queue pair.
#[derive(Debug)]
pub struct Requester {
    qp: QpId,
    peer_qpn: u32,
    mtu: Mtu,
    reads_max: usize,
    queue: VecDeque<Entry>,
    /// The oldest packet that is not acknowledged.
    una: Psn,
    next: Cursor,
    /// Behind the last packet that was ever sent.
    high: Psn,
    /// Behind the last packet of the queue.
    end: Psn,
    /// Behind the last response packet of each READ request that is out.
    reads: VecDeque<Psn>,
    window: Window,
    timer: Option<Tick>,
    rto: u64,
    round_trip: RoundTrip,
    /// A packet whose acknowledgement is timed.
    probe: Option<(Psn, Tick)>,
    /// The peer may be nudged: sent one packet again, the oldest that is not acknowledged, well before that is late. It
    /// finds the loss of the last packets, which no later one shows, and the acknowledgement of it the loss of an
    /// acknowledgement; and if nothing is lost, it was one packet.
    nudges: bool,
    /// How far that is.
    nudge: Nudge,
    /// How often its time was doubled: once for each that was sent since a round trip was measured last. One that grew is
    /// measured then, and is not taken for loss for ever (Karn, Partridge: Improving Round-Trip Time Estimates, 1987).
    nudge_shift: u32,
    /// Since when nothing was acknowledged.
    stalled: Tick,
    /// What was gone back to already.
    gone_back: Option<Psn>,
    /// The peer has no RECV until then.
    rnr: Option<Tick>,
    /// Since when it says so, of the same message.
    rnr_since: Option<Tick>,
}

/// A packet that is sent again before its acknowledgement is late.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Nudge {
    /// The timer is not for it.
    Idle,
    /// The timer is for it.
    Armed,
    /// It is to be sent.
    Due,
    /// It was, since there was progress last.
    Done,
}

#[derive(Debug)]
struct Window {
    /// In 256ths of packets.
    size: u32,
    /// Below this it grows with each packet that is acknowledged.
    threshold: u32,
    /// Loss of packets before this one was reacted to, until a later one is acknowledged. It is not
    /// kept beyond that: half a circle of packet numbers later it would look like the future.
    reacted: Option<Psn>,
}

/// How long acknowledgements take, and how much that varies, in ns; 0 as long as none was measured.
#[derive(Debug, Default)]
struct RoundTrip {
    smooth: u64,
    variation: u64,
}

impl RoundTrip {
    /// One more measurement, weighed as RFC 6298 section 2 does.
    fn sample(&mut self, ns: u64) {
        if self.smooth == 0 {
            (self.smooth, self.variation) = (ns.max(1), ns / 2);
            return;
        }
        self.variation = self.variation - self.variation / 4 + self.smooth.abs_diff(ns) / 4;
        self.smooth = (self.smooth - self.smooth / 8 + ns / 8).max(1);
    }

    /// After which an acknowledgement is late. Four round trips, because peers that share a CPU answer in bursts.
    fn timeout(&self) -> u64 {
        if self.smooth == 0 {
            return RTO_START;
        }
        (4 * self.smooth)
            .max(self.smooth + 4 * self.variation)
            .clamp(RTO_MIN, RTO_MAX)
    }

    /// After which a peer is nudged, once a round trip was measured.
    fn nudge(&self) -> Option<u64> {
        let usual = (2 * self.smooth).max(self.smooth + 4 * self.variation);
        (self.smooth > 0).then(|| usual.max(NUDGE_MIN))
    }
}

impl Requester {
    /// Of a queue pair whose first packet is `first`.
    pub fn new(qp: QpId, peer_qpn: u32, mtu: Mtu, first: Psn, reads_max: usize) -> Requester {
        Requester {
            qp,
            peer_qpn,
            mtu,
            reads_max,
            queue: VecDeque::new(),
            una: first,
            next: Cursor {
                psn: first,
                index: 0,
                reads: 0,
            },
            high: first,
            end: first,
            reads: VecDeque::with_capacity(reads_max),
            window: Window {
                size: WINDOW_START << 8,
                threshold: WINDOW_MAX << 8,
                reacted: None,
            },
            timer: None,
            rto: RTO_START,
            round_trip: RoundTrip::default(),
            probe: None,
            nudges: false,
            nudge: Nudge::Idle,
            nudge_shift: 0,
            stalled: Tick(0),
            gone_back: None,
            rnr: None,
            rnr_since: None,
        }
    }

    /// The peer is known, and it is said what our first packet is to be numbered. Nothing was posted
    /// until now.
    pub fn connect(&mut self, peer: &Peer, reads_max: usize) {
        assert!(
            self.queue.is_empty(),
            "nothing is posted before the connection stands"
        );
        *self = Requester::new(self.qp, peer.qpn, peer.mtu, peer.send_psn, reads_max);
        self.nudges = peer.ours;
    }

    /// Posts an answer.
    pub fn answer(&mut self, answer: Answer) {
        let len = answer.bufs.len() as u32;
        let data = if len > 0 { packets(len, self.mtu) } else { 0 };
        let capsule = u32::from(answer.capsule.is_some());
        // With neither it is a WRITE of no bytes, which is a packet as well.
        self.push(Work::Answer(answer), len, (data + capsule).max(1));
    }

    /// Posts a message.
    pub fn message(&mut self, message: Message) {
        let len = message.bufs.len() as u32;
        let count = packets(HEAD_LEN as u32 + len, self.mtu);
        self.push(Work::Message(message), len, count);
    }

    /// Posts a READ.
    pub fn read(&mut self, read: Read) {
        let len = read.bufs.len() as u32;
        self.push(Work::Read(read), len, packets(len, self.mtu));
    }

    fn push(&mut self, work: Work, len: u32, count: u32) {
        let first = self.end;
        self.end = first.plus(count);
        self.queue.push_back(Entry {
            work,
            len,
            first,
            packets: count,
        });
    }

    /// Packets that wait to be sent.
    pub fn unsent(&self) -> u32 {
        self.end.since(self.next.psn) as u32
    }

    /// Adds the packets that may be sent now, as far as there is room.
    pub fn burst<'a>(&'a self, out: &mut Burst<'a>) {
        if self.rnr.is_some() {
            return;
        }
        if self.nudge == Nudge::Due && !out.is_full() {
            let oldest = Cursor {
                psn: self.una,
                index: 0,
                reads: 0,
            };
            out.push(self.packet(oldest, 1, true));
        }
        let mut cursor = self.next;
        while !out.is_full() {
            let Some((after, span)) = self.step(cursor) else {
                break;
            };
            // The last one before a pause asks, or an acknowledgement might never come.
            let last = out.is_last() || self.step(after).is_none();
            out.push(self.packet(cursor, span, last));
            cursor = after;
        }
    }

    /// The packet at the cursor was sent if this says so: where the cursor is then, and how many
    /// packet numbers it takes. `None` if none may be sent now.
    #[inline]
    fn step(&self, at: Cursor) -> Option<(Cursor, u32)> {
        let entry = self.queue.get(at.index)?;
        let out = at.psn.since(self.una) as u32;
        let room = self.window.packets().checked_sub(out)?;
        let k = at.psn.since(entry.first) as u32;
        let mut after = at;
        let mut span = 1;
        if let Work::Read(_) = entry.work {
            if at.reads >= self.reads_max {
                return None;
            }
            span = (READ_CHUNK - k % READ_CHUNK).min(entry.packets - k);
            after.reads += 1;
        }
        if span > room && out > 0 {
            return None;
        }
        after.psn = at.psn.plus(span);
        if k + span == entry.packets {
            after.index += 1;
        }
        Some((after, span))
    }

    fn packet(&self, at: Cursor, span: u32, last: bool) -> PacketOut<'_> {
        let entry = &self.queue[at.index];
        let mtu = self.mtu.bytes();
        let k = at.psn.since(entry.first) as u32;
        let ends = k + 1 == entry.packets;
        let ask = last || at.psn.get().is_multiple_of(ACK_EVERY);
        let head = |opcode, len| Head::new(opcode, self.peer_qpn, at.psn, len);
        match &entry.work {
            Work::Answer(answer) => match &answer.capsule {
                Some(capsule) if ends => {
                    let payload = Payload::of_bytes(capsule);
                    let head = match answer.invalidate {
                        Some(key) => head(Opcode::SEND_ONLY_INVALIDATE, capsule.len()).ieth(key),
                        None => head(Opcode::SEND_ONLY, capsule.len()),
                    };
                    PacketOut {
                        head: head.ack_req(true),
                        payload,
                    }
                }
                capsule => {
                    let from = k * mtu;
                    let len = mtu.min(entry.len - from);
                    let addr = answer.remote.addr.wrapping_add(u64::from(from));
                    PacketOut {
                        head: head(Opcode::WRITE_ONLY, len as usize)
                            .reth(addr, answer.remote.key, len)
                            .ack_req(ask || (ends && capsule.is_none())),
                        payload: Payload::of_bufs(&answer.bufs, from as usize, len as usize),
                    }
                }
            },
            Work::Message(message) => {
                let opcode = match (k, ends) {
                    (0, true) => Opcode::SEND_ONLY,
                    (0, false) => Opcode::SEND_FIRST,
                    (_, false) => Opcode::SEND_MIDDLE,
                    (_, true) => Opcode::SEND_LAST,
                };
                let from = (k * mtu) as usize;
                let to = (from + mtu as usize).min(HEAD_LEN + entry.len as usize);
                let inline = &message.head[from.min(HEAD_LEN)..to.min(HEAD_LEN)];
                let at = from.max(HEAD_LEN) - HEAD_LEN;
                let len = to.max(HEAD_LEN) - HEAD_LEN - at;
                PacketOut {
                    head: head(opcode, to - from).ack_req(ask || ends),
                    payload: Payload::of_bytes(inline).and_bufs(&message.bufs, at, len),
                }
            }
            Work::Read(read) => {
                let from = k * mtu;
                let len = (span * mtu).min(entry.len - from);
                let addr = read.remote.addr.wrapping_add(u64::from(from));
                PacketOut {
                    head: head(Opcode::READ_REQUEST, 0)
                        .reth(addr, read.remote.key, len)
                        .ack_req(true),
                    payload: Payload::EMPTY,
                }
            }
        }
    }

    /// The first so many packets of the last burst were sent.
    pub fn sent(&mut self, mut count: usize, now: Tick, counters: &mut Counters) {
        if count > 0 && self.nudge == Nudge::Due {
            self.nudge = Nudge::Done;
            counters.resent += 1;
            count -= 1;
        }
        for _ in 0..count {
            let (after, _) = self.step(self.next).expect("it was in the burst");
            let psn = self.next.psn;
            if psn.since(self.high) < 0 {
                counters.resent += 1;
            } else {
                if self.probe.is_none() {
                    self.probe = Some((after.psn.before(), now));
                }
                self.high = after.psn;
            }
            if after.reads > self.next.reads {
                self.reads.push_back(after.psn);
            }
            self.next = after;
        }
        if count > 0 && self.timer.is_none() {
            self.stalled = now;
            self.wait(now);
        }
    }

    /// Sets the timer for what is to be done if nothing is acknowledged from now on.
    fn wait(&mut self, now: Tick) {
        let nudge = self.round_trip.nudge().map(|ns| ns << self.nudge_shift);
        let nudge = nudge.filter(|ns| self.nudges && self.nudge == Nudge::Idle && *ns < self.rto);
        if nudge.is_some() {
            self.nudge = Nudge::Armed;
        }
        self.timer = Some(now.plus_ns(nudge.unwrap_or(self.rto)));
    }

    /// An ACK or NAK came for a packet.
    ///
    /// # Errors
    /// If it changes nothing, why; see [`Requester::refused`] for what ends the connection.
    pub fn on_ack(
        &mut self,
        now: Tick,
        psn: Psn,
        syndrome: Syndrome,
        events: &mut VecDeque<Event>,
        counters: &mut Counters,
    ) -> Result<(), Dropped> {
        if psn.since(self.high) >= 0 {
            return Err(Dropped::Stray);
        }
        if psn.since(self.una) < 0 {
            return Err(Dropped::Duplicate);
        }
        match syndrome.kind() {
            Syndrome::KIND_ACK => self.retire(now, psn.plus(1), events),
            Syndrome::KIND_RNR => {
                self.retire(now, psn, events);
                let wait = u64::from(RNR_US[usize::from(syndrome.value())]) * 1000;
                self.rnr = Some(now.plus_ns(wait));
                self.rnr_since.get_or_insert(now);
                // It is alive, and has said how long to wait.
                self.stalled = now;
                self.timer = None;
                self.go_back();
            }
            _ if syndrome == Syndrome::NAK_SEQUENCE => {
                counters.naks_received += 1;
                self.retire(now, psn, events);
                self.lose_at_una();
            }
            _ => return Err(Dropped::Stray),
        }
        Ok(())
    }

    /// How a NAK that ends the connection ends the request it is for; `None` for others.
    pub fn refused(&self, psn: Psn, syndrome: Syndrome) -> Option<WcStatus> {
        if psn.since(self.una) < 0 || psn.since(self.high) >= 0 {
            return None;
        }
        match syndrome {
            Syndrome::NAK_ACCESS => Some(WcStatus::RemoteAccess),
            Syndrome::NAK_INVALID | Syndrome::NAK_OPERATION => Some(WcStatus::RemoteError),
            _ => None,
        }
    }

    /// A part of a READ came. It acknowledges what was posted before the READ.
    ///
    /// # Errors
    /// If it is not the next one.
    pub fn on_response(
        &mut self,
        now: Tick,
        psn: Psn,
        payload: &[u8],
        events: &mut VecDeque<Event>,
        counters: &mut Counters,
    ) -> Result<(), Dropped> {
        if psn.since(self.high) >= 0 {
            return Err(Dropped::Stray);
        }
        if psn.since(self.una) < 0 {
            return Err(Dropped::Duplicate);
        }
        self.retire(now, psn, events);
        if self.una != psn && !plant::on(Bug::ReadHoles) {
            return Err(Dropped::ReadOrder);
        }
        let Some(Entry {
            work: Work::Read(read),
            len,
            first,
            packets,
        }) = self.queue.front_mut()
        else {
            return Err(Dropped::Stray);
        };
        let k = psn.since(*first) as u32;
        let from = k * self.mtu.bytes();
        // Whether it calls itself first, middle or last depends on where the peer began again.
        if payload.len() as u32 != self.mtu.bytes().min(*len - from) {
            return Err(Dropped::Stray);
        }
        read.bufs.copy_in(from as usize, payload);
        counters.copied += payload.len() as u64;
        let whole = k + 1 == *packets;
        self.una = psn.plus(1);
        if whole {
            self.pop(WcStatus::Success, events);
        }
        self.progress(now, 1);
        Ok(())
    }

    /// Everything before `upto` is acknowledged, but READs, which are when their data came.
    fn retire(&mut self, now: Tick, upto: Psn, events: &mut VecDeque<Event>) {
        let before = self.una;
        let mut data_lost = false;
        while let Some(entry) = self.queue.front()
            && upto.since(self.una) > 0
        {
            let end = entry.first.plus(entry.packets);
            if let Work::Read(_) = entry.work {
                // What was acknowledged was executed after the READ: its data was lost.
                data_lost = true;
                break;
            }
            if end.since(upto) > 0 {
                self.una = upto;
                break;
            }
            self.una = end;
            self.pop(WcStatus::Success, events);
        }
        let acknowledged = self.una.since(before) as u32;
        if acknowledged > 0 {
            self.progress(now, acknowledged);
        }
        if data_lost {
            self.lose_at_una();
        }
    }

    /// The oldest request is done.
    fn pop(&mut self, status: WcStatus, events: &mut VecDeque<Event>) {
        let entry = self.queue.pop_front().expect("the caller saw it");
        self.next.index = self.next.index.saturating_sub(1);
        let qp = self.qp;
        events.push_back(match entry.work {
            Work::Answer(Answer { tag, bufs, .. }) | Work::Message(Message { tag, bufs, .. }) => {
                Event::Sent {
                    qp,
                    tag,
                    bufs,
                    status,
                }
            }
            Work::Read(Read { tag, bufs, .. }) => Event::ReadDone {
                qp,
                tag,
                bufs,
                status,
            },
        });
    }

    /// So many packets more are acknowledged.
    fn progress(&mut self, now: Tick, count: u32) {
        // Answers to what was sent before it was to be sent again.
        if self.next.psn.since(self.una) < 0 {
            self.next.psn = self.una;
            self.next.index = 0;
        }
        while self
            .reads
            .front()
            .is_some_and(|end| end.since(self.una) <= 0)
        {
            self.reads.pop_front();
        }
        self.next.reads = self.reads.len();
        if let Some((psn, sent)) = self.probe
            && psn.since(self.una) < 0
        {
            self.round_trip.sample(now.since(sent));
            self.probe = None;
            self.nudge_shift = 0;
        }
        self.rto = self.round_trip.timeout();
        self.window.grow(count);
        if self
            .window
            .reacted
            .is_some_and(|upto| self.una.since(upto) > 0)
        {
            self.window.reacted = None;
        }
        self.stalled = now;
        self.rnr_since = None;
        self.gone_back = None;
        self.nudge = Nudge::Idle;
        self.timer = None;
        if self.una != self.next.psn {
            self.wait(now);
        }
    }

    /// Sends again from the oldest packet that is not acknowledged.
    fn go_back(&mut self) {
        self.gone_back = Some(self.una);
        self.reads.clear();
        self.probe = None;
        if matches!(self.nudge, Nudge::Armed | Nudge::Due) {
            self.nudge = Nudge::Done;
        }
        self.next = Cursor {
            psn: self.una,
            index: 0,
            reads: 0,
        };
    }

    /// The oldest packet that is not acknowledged was lost. Once it was sent again, hearing so again
    /// is no news; if it is lost again, time tells.
    fn lose_at_una(&mut self) {
        if self.gone_back != Some(self.una) {
            self.lose(WINDOW_LOSSY);
            self.go_back();
        }
    }

    /// Something was lost, and the window is not to be smaller than so many packets for it.
    fn lose(&mut self, least: u32) {
        if self
            .window
            .reacted
            .is_none_or(|upto| self.una.since(upto) >= 0)
        {
            self.shrink(least);
        }
    }

    /// The peer says that the way to it is congested (a CNP). It says so many times in a round trip,
    /// and may say so when all has arrived: one flight is one reason to slow down. A CNP has no packet number to be checked
    /// (all are 0, RoCEv2 annex A17.9.3).
    ///
    /// # Errors
    /// If nothing is out that could have met congestion.
    pub fn on_congestion(&mut self) -> Result<(), Dropped> {
        if self.una == self.high {
            return Err(Dropped::Stray);
        }
        if self.window.reacted.is_none() {
            self.shrink(WINDOW_MIN);
        }
        Ok(())
    }

    /// Halves the window, but not below so many packets if it has them, and not again for what is out now.
    fn shrink(&mut self, least: u32) {
        let least = (least << 8).min(self.window.size);
        self.window.size = (self.window.size / 2).max(least);
        self.window.threshold = self.window.size;
        self.window.reacted = Some(self.high);
    }

    /// When [`Requester::on_time`] has something to do.
    pub fn next_timeout(&self) -> Option<Tick> {
        match (self.timer, self.rnr) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Sends again what was not acknowledged in time. `caught_up` says that no packets wait to be looked at.
    ///
    /// # Errors
    /// If the peer has acknowledged nothing for too long, or had no RECV.
    pub fn on_time(
        &mut self,
        now: Tick,
        caught_up: bool,
        counters: &mut Counters,
    ) -> Result<(), WcStatus> {
        if self.rnr.is_some_and(|until| until <= now) {
            self.rnr = None;
            let waits = |since: Tick| now.since(since) >= RNR_GIVE_UP_NS;
            if self.rnr_since.is_some_and(waits) {
                return Err(WcStatus::RetriesExceeded);
            }
        }
        if self.timer.is_none_or(|due| due > now) {
            return Ok(());
        }
        if now.since(self.stalled) >= GIVE_UP_NS {
            return Err(WcStatus::RetriesExceeded);
        }
        if self.nudge == Nudge::Armed {
            // Unless it is to be sent again anyhow, or the acknowledgement may lie here already. READs are not: who is asked
            // for one again drops the answers to those after it, which would all be asked for again.
            let waits = caught_up && self.una != self.next.psn;
            let oldest = self.queue.front().filter(|_| waits);
            let from = match oldest.map(|entry| &entry.work) {
                Some(Work::Answer(_) | Work::Message(_)) => {
                    self.nudge = Nudge::Due;
                    self.nudge_shift += 1;
                    // When it is acknowledged, nobody knows which time it was sent.
                    self.probe = None;
                    now
                }
                Some(Work::Read(_)) | None => {
                    self.nudge = Nudge::Done;
                    self.stalled
                }
            };
            // If it is sent, it is given its time.
            self.timer = Some(from.plus_ns(self.rto));
            return Ok(());
        }
        counters.timeouts += 1;
        self.lose(WINDOW_MIN);
        self.go_back();
        self.gone_back = None;
        self.rto = (self.rto * 2).min(RTO_MAX);
        self.timer = Some(now.plus_ns(self.rto));
        Ok(())
    }

    /// Ends everything: the oldest request with this status, the others flushed.
    pub fn fail(&mut self, status: WcStatus, events: &mut VecDeque<Event>) {
        let mut status = status;
        while !self.queue.is_empty() {
            self.pop(status, events);
            status = WcStatus::Flushed;
        }
        self.una = self.end;
        self.high = self.end;
        self.next = Cursor {
            psn: self.end,
            index: 0,
            reads: 0,
        };
        self.timer = None;
        self.nudge = Nudge::Idle;
        self.rnr = None;
    }

    /// True if a burst would not be empty.
    pub fn has_work(&self) -> bool {
        self.rnr.is_none() && (self.nudge == Nudge::Due || self.step(self.next).is_some())
    }
}

impl Window {
    fn packets(&self) -> u32 {
        self.size >> 8
    }

    fn grow(&mut self, acknowledged: u32) {
        let by = if self.size < self.threshold {
            acknowledged << 8
        } else {
            (acknowledged << 16) / self.size
        };
        self.size = (self.size + by).min(WINDOW_MAX << 8);
    }
}

#[cfg(test)]
mod tests {
    use ferroce_buf::BufList;

    use super::*;
    use crate::rdma::provider::Remote;

    const QP: QpId = QpId {
        slot: 0,
        generation: 0,
    };

    fn requester(first: u32) -> Requester {
        let mtu = Mtu::from_code(5).expect("1 to 5");
        Requester::new(QP, 9, mtu, Psn::new(first), 16)
    }

    /// Posts and sends `count` packets. The last of them.
    fn send(requester: &mut Requester, now: Tick, count: u32) -> Psn {
        for tag in 0..count {
            requester.message(Message {
                tag,
                head: [0; HEAD_LEN],
                bufs: BufList::new(),
            });
        }
        requester.sent(count as usize, now, &mut Counters::default());
        requester.high.before()
    }

    fn hear(requester: &mut Requester, now: Tick, psn: Psn) {
        let mut events = VecDeque::new();
        requester
            .on_ack(
                now,
                psn,
                Syndrome::ACK,
                &mut events,
                &mut Counters::default(),
            )
            .expect("it is out");
    }

    #[test]
    fn a_peer_that_is_never_ready_is_given_up() {
        let mut requester = requester(0);
        let (mut events, mut counters) = (VecDeque::new(), Counters::default());
        let mut now = Tick(0);
        let mut first = send(&mut requester, now, 2).before();
        // One message was taken after 20 s; then time counts anew.
        let mut taken = false;
        let end = loop {
            if !taken && now.0 >= RNR_GIVE_UP_NS * 2 / 3 {
                taken = true;
                hear(&mut requester, now, first);
                first = first.plus(1);
            }
            // Code 0 is 655 ms.
            requester
                .on_ack(now, first, Syndrome::rnr(0), &mut events, &mut counters)
                .expect("it is out");
            now = requester.next_timeout().expect("it waits");
            if requester.on_time(now, true, &mut counters).is_err() {
                break now;
            }
            let out = requester.end.since(first) as usize;
            requester.sent(out, now, &mut counters);
        };
        let expected = RNR_GIVE_UP_NS * 5 / 3;
        assert!(end.0.abs_diff(expected) < 2_000_000_000, "{end:?}");
        assert_eq!(counters.timeouts, 0);
    }

    #[test]
    fn a_round_trip_that_grew_is_measured_though_the_peer_is_nudged() {
        let mut requester = requester(0);
        requester.nudges = true;
        let mut counters = Counters::default();
        let mut now = Tick(0);
        let mut resent = Vec::new();
        for round_trip in [60_000; 20].into_iter().chain([300_000; 20]) {
            let before = counters.resent;
            let last = send(&mut requester, now, 1);
            let heard = now.plus_ns(round_trip);
            while let Some(due) = requester.next_timeout().filter(|due| *due < heard) {
                assert_eq!(requester.on_time(due, true, &mut counters), Ok(()));
                requester.sent(usize::from(requester.has_work()), due, &mut counters);
            }
            hear(&mut requester, heard, last);
            now = heard.plus_ns(1000);
            resent.push(counters.resent - before);
        }
        // The first that takes longer, and no other.
        assert_eq!(resent.iter().position(|count| *count > 0), Some(20));
        assert_eq!(resent.iter().sum::<u64>(), 1);
    }

    /// Of a flight of which nothing arrives, the oldest packet alone is no way to get on: when a packet is late in earnest, all
    /// are sent again, whether a round trip was ever measured or not.
    #[test]
    fn what_is_late_in_earnest_is_all_sent_again() {
        for measured in [false, true] {
            let mut requester = requester(0);
            requester.nudges = true;
            let mut counters = Counters::default();
            let mut now = Tick(0);
            if measured {
                let last = send(&mut requester, now, 1);
                now = Tick(60_000);
                hear(&mut requester, now, last);
            }
            let last = send(&mut requester, now, 8);
            let mut psn = requester.una;
            // Each nudge gets through, and nothing else.
            while counters.timeouts == 0 {
                now = requester.next_timeout().expect("something is out");
                assert_eq!(requester.on_time(now, true, &mut counters), Ok(()));
                if requester.nudge == Nudge::Due {
                    requester.sent(1, now, &mut counters);
                    now = now.plus_ns(60_000);
                    assert_ne!(psn, last, "a packet for each nudge");
                    hear(&mut requester, now, psn);
                    psn = psn.plus(1);
                }
            }
            assert_eq!(counters.resent > 0, measured);
            assert_eq!(requester.next.psn, requester.una);
        }
    }

    #[test]
    fn a_read_is_not_nudged_and_comes_again_no_later_for_that() {
        let mut requester = requester(0);
        requester.nudges = true;
        let mut counters = Counters::default();
        let last = send(&mut requester, Tick(0), 1);
        hear(&mut requester, Tick(60_000), last);
        let begin = Tick(100_000);
        requester.read(Read {
            tag: 0,
            remote: Remote { addr: 0, key: 0 },
            bufs: BufList::new(),
        });
        requester.sent(1, begin, &mut counters);
        for due in [NUDGE_MIN, RTO_MIN] {
            let due = begin.plus_ns(due);
            assert!(!requester.has_work());
            assert_eq!(requester.next_timeout(), Some(due));
            assert_eq!(requester.on_time(due, true, &mut counters), Ok(()));
        }
        assert!(requester.has_work());
        assert_eq!(counters.timeouts, 1);
    }

    #[test]
    fn congestion_is_heard_once_a_flight() {
        let mut requester = requester(0);
        let last = send(&mut requester, Tick(0), 8);
        for _ in 0..10 {
            assert_eq!(requester.on_congestion(), Ok(()));
        }
        assert_eq!(requester.window.packets(), WINDOW_START / 2);
        // All of it arrived; what is said of it late is no news.
        hear(&mut requester, Tick(1000), last);
        for _ in 0..10 {
            assert_eq!(requester.on_congestion(), Err(Dropped::Stray));
        }
        assert_eq!(requester.window.packets(), WINDOW_START / 2);
        let last = send(&mut requester, Tick(2000), 1);
        hear(&mut requester, Tick(3000), last);
        // Nothing is out: nobody's business.
        assert_eq!(requester.on_congestion(), Err(Dropped::Stray));
        send(&mut requester, Tick(4000), 1);
        assert_eq!(requester.on_congestion(), Ok(()));
        assert_eq!(requester.window.packets(), WINDOW_START / 4);
    }

    #[test]
    fn loss_is_reacted_to_however_long_there_was_none() {
        let mut requester = requester(0);
        send(&mut requester, Tick(0), 1);
        requester.lose(WINDOW_MIN);
        let last = requester.high.before();
        hear(&mut requester, Tick(1000), last);
        // As after half a circle of packet numbers without a loss.
        for _ in 0..0x90_0000 / 32 {
            let last = send(&mut requester, Tick(2000), 32);
            hear(&mut requester, Tick(3000), last);
        }
        let before = requester.window.packets();
        send(&mut requester, Tick(4000), 8);
        requester.lose(WINDOW_MIN);
        assert_eq!(requester.window.packets(), before / 2);
    }
}
