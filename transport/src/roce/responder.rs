//! The receiving half of a queue pair (InfiniBand 9.7): requests are executed in order, each once,
//! and acknowledged.
//!
//! Acknowledgements are cumulative and wait until the packets at hand were looked at, so that many
//! share one; they never wait for what the receiver makes of a message. What cannot be answered for
//! is refused with a NAK and changes nothing.

use std::collections::VecDeque;

use ferroce_buf::Buf;
use ferroce_engine::plant::{self, Bug};
use ferroce_engine::port::Tick;
use ferroce_wire::roce::{ACK_REQ, Opcode, Reth, Syndrome};

use crate::rdma::provider::{Access, Event, HEAD_LEN, QpId, Remote};
use crate::roce::cm::Peer;
use crate::roce::counters::{Counters, Dropped};
use crate::roce::grants::Grants;
use crate::roce::packet::{self, Head, Mtu, Packet, Psn, packets};
use crate::roce::payload::{Burst, PacketOut, Payload};

/// What a peer without a RECV of ours is told to wait: code 12, 640 us.
const RNR_TIMER: u8 = 12;

/// The message that is being received.
#[derive(Debug)]
enum Assembly {
    None,
    Send { len: u32 },
    Write { key: u32, addr: u64, left: u32 },
}

/// A READ that is being answered.
#[derive(Clone, Copy, Debug)]
struct Response {
    first: Psn,
    remote: Remote,
    len: u32,
    packets: u32,
    /// Packets that were sent.
    sent: u32,
    msn: u32,
    /// The peer asked again: it may have the first answer by now, and wait for this one no more.
    again: bool,
}

/// The receiving half of a queue pair.
#[derive(Debug)]
pub struct Responder {
    qp: QpId,
    peer_qpn: u32,
    mtu: Mtu,
    /// The packet that is to come next.
    expected: Psn,
    /// Messages that were completed.
    msn: u32,
    assembly: Assembly,
    head: [u8; HEAD_LEN],
    recvs: VecDeque<Option<Buf>>,
    responses: VecDeque<Response>,
    responses_max: usize,
    /// The gap before the packets that come now was told.
    gap_told: bool,
    /// Requests that came before others, which are on their way, or lost: whole datagrams.
    early: Vec<(Psn, Box<[u8]>)>,
    /// Since when the first of those others is missing.
    early_since: Tick,
    patience: Patience,
    /// What is owed to the peer, once all READs are answered.
    owed: Option<Syndrome>,
}

/// Why a request changes nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// It is not its turn.
    Dropped(Dropped),
    /// The connection is to end, with this NAK.
    Fatal(Dropped, Syndrome),
}

impl From<Dropped> for Refused {
    fn from(why: Dropped) -> Refused {
        Refused::Dropped(why)
    }
}

/// How far ahead of what is expected a request may be numbered, in packets. No peer sends on for so long without an
/// acknowledgement (rxe has 128 out, a NIC what a round trip holds), and where so many are lost in a row their sender's timer
/// finds out. Who cannot see the numbers, but forges addresses, meets these few with one packet in 4,000.
const AHEAD_MAX: i32 = 4096;

/// How long packets that are missing are taken for late, before they are for lost.
#[derive(Clone, Copy, Debug)]
struct Patience {
    /// Requests that are kept for those before them.
    packets: usize,
    /// How long, in ns.
    ns: u64,
}

impl Patience {
    /// For soft-RoCE at the peer, whose CPUs overtake each other, and which comes off badly when it is told of a gap.
    const STRANGER: Patience = Patience {
        packets: 16,
        ns: 1_000_000,
    };
    /// For a peer that sends in order, so that only the network can have changed it: the third one that comes early says
    /// that what is before it was lost (as in TCP: RFC 5681 section 3.2).
    const OURS: Patience = Patience {
        packets: 2,
        ns: 100_000,
    };
}

const INVALID: Refused = Refused::Fatal(Dropped::Invalid, Syndrome::NAK_INVALID);
const ACCESS: Refused = Refused::Fatal(Dropped::Access, Syndrome::NAK_ACCESS);

impl Responder {
    /// Of a queue pair whose peer's first packet is `first`, for so many RECVs and READs of the peer's
    /// at a time.
    pub fn new(
        qp: QpId,
        peer_qpn: u32,
        mtu: Mtu,
        first: Psn,
        recvs: usize,
        reads: u8,
    ) -> Responder {
        Responder {
            qp,
            peer_qpn,
            mtu,
            expected: first,
            msn: 0,
            assembly: Assembly::None,
            head: [0; HEAD_LEN],
            recvs: VecDeque::with_capacity(recvs),
            responses: VecDeque::with_capacity(usize::from(reads)),
            responses_max: usize::from(reads),
            gap_told: false,
            early: Vec::new(),
            early_since: Tick(0),
            patience: Patience::STRANGER,
            owed: None,
        }
    }

    /// The peer is known.
    pub fn connect(&mut self, peer: &Peer) {
        self.peer_qpn = peer.qpn;
        if peer.ours {
            self.patience = Patience::OURS;
        }
    }

    /// The packet that is to come next.
    pub fn expected(&self) -> Psn {
        self.expected
    }

    /// READs of the peer's that may be out.
    pub fn reads_max(&self) -> u8 {
        self.responses_max as u8
    }

    /// Posts a RECV.
    pub fn post(&mut self, buf: Option<Buf>) {
        self.recvs.push_back(buf);
    }

    /// A request came, in this datagram.
    ///
    /// # Errors
    /// Why it was not executed.
    pub fn on_request(
        &mut self,
        now: Tick,
        datagram: &[u8],
        packet: &Packet<'_>,
        grants: &mut Grants,
        events: &mut VecDeque<Event>,
        counters: &mut Counters,
    ) -> Result<(), Refused> {
        let psn = Psn::new(packet.bth.psn.get());
        let ahead = psn.since(self.expected);
        if ahead > AHEAD_MAX {
            return Err(Dropped::Stray.into());
        }
        if ahead > 0 {
            if self.keep(now, psn, datagram) {
                counters.early += 1;
                return Ok(());
            }
            self.tell_gap(counters);
            return Err(Dropped::Gap.into());
        }
        if ahead < 0 && !plant::on(Bug::Repeated) {
            self.on_duplicate(psn, packet, grants);
            return Err(Dropped::Duplicate.into());
        }
        let mut done = self.execute(psn, packet, grants, events, counters);
        while done.is_ok()
            && let Some(at) = self.early.iter().position(|early| early.0 == self.expected)
        {
            let (psn, datagram) = self.early.swap_remove(at);
            let packet = packet::parse(&datagram).expect("it was looked at when it came");
            self.early_since = now;
            done = self.execute(psn, &packet, grants, events, counters);
        }
        if done.is_err() {
            // The peer sends again what comes after this one.
            self.early.clear();
        }
        done
    }

    /// Keeps a request that came before others, a few packets and a short time: those may be late and not lost.
    fn keep(&mut self, now: Tick, psn: Psn, datagram: &[u8]) -> bool {
        if self.gap_told || self.early.len() >= self.patience.packets {
            return false;
        }
        if self.early.is_empty() {
            self.early_since = now;
        }
        if self.early.iter().all(|early| early.0 != psn) {
            self.early.push((psn, datagram.into()));
        }
        true
    }

    /// Packets are missing: the peer is to send again from there.
    fn tell_gap(&mut self, counters: &mut Counters) {
        self.early.clear();
        if !self.gap_told {
            self.gap_told = true;
            counters.naks_sent += 1;
            self.owed = Some(Syndrome::NAK_SEQUENCE);
        }
    }

    /// When [`Responder::on_time`] may have something to do.
    pub fn next_timeout(&self) -> Option<Tick> {
        (!self.early.is_empty()).then(|| self.early_since.plus_ns(self.patience.ns))
    }

    /// Whose predecessors did not come in time are not waited for any more.
    pub fn on_time(&mut self, now: Tick, counters: &mut Counters) {
        if self.next_timeout().is_some_and(|due| due <= now) {
            self.tell_gap(counters);
        }
    }

    /// A request that was executed: a READ's data may have been lost, of others the ACK.
    fn on_duplicate(&mut self, psn: Psn, packet: &Packet<'_>, grants: &Grants) {
        let Some(reth) = packet
            .reth
            .filter(|_| packet.bth.opcode == Opcode::READ_REQUEST)
        else {
            if self.owed.is_none() {
                self.owed = Some(Syndrome::ACK);
            }
            return;
        };
        let (remote, len) = place(reth);
        // What it names must still be granted, and it must have been part of what was executed.
        if grants.find(remote, len, Access::Read).is_none() {
            return;
        }
        let count = packets(len, self.mtu);
        if psn.plus(count).since(self.expected) > 0 {
            return;
        }
        // The peer begins again here, so answers from here on are to be given anew as it asks for them.
        while self
            .responses
            .back()
            .is_some_and(|last| last.first.since(psn) >= 0)
        {
            self.responses.pop_back();
        }
        // Whoever breaks the bound by asking again waits for what it asked first.
        if self.make_room() {
            self.respond(psn, remote, len, count, true);
        }
    }

    /// Makes room for one more answer. False if the peer has more READs out than it may: those that
    /// were never answered do not leave. Of answers given again the oldest leaves, since a peer with
    /// so many younger READs has it.
    fn make_room(&mut self) -> bool {
        if self.responses.len() < self.responses_max {
            return true;
        }
        let oldest = self.responses.iter().position(|response| response.again);
        oldest.is_some_and(|at| self.responses.remove(at).is_some())
    }

    fn respond(&mut self, first: Psn, remote: Remote, len: u32, count: u32, again: bool) {
        self.responses.push_back(Response {
            first,
            remote,
            len,
            packets: count,
            sent: 0,
            msn: self.msn,
            again,
        });
    }

    /// Executes the request whose turn it is.
    fn execute(
        &mut self,
        psn: Psn,
        packet: &Packet<'_>,
        grants: &mut Grants,
        events: &mut VecDeque<Event>,
        counters: &mut Counters,
    ) -> Result<(), Refused> {
        let payload = packet.payload;
        let mtu = self.mtu.bytes() as usize;
        let whole = |ends: bool| {
            let fits = if ends {
                payload.len() <= mtu
            } else {
                payload.len() == mtu
            };
            if fits { Ok(()) } else { Err(INVALID) }
        };
        let mut count = 1;
        match packet.bth.opcode {
            Opcode::SEND_FIRST
            | Opcode::SEND_ONLY
            | Opcode::SEND_ONLY_IMM
            | Opcode::SEND_ONLY_INVALIDATE => {
                let ends = packet.bth.opcode != Opcode::SEND_FIRST;
                whole(ends)?;
                if !matches!(self.assembly, Assembly::None) {
                    return Err(INVALID);
                }
                if self.recvs.is_empty() {
                    self.owed = Some(Syndrome::rnr(RNR_TIMER));
                    // What follows waits for this one; it is no gap.
                    self.gap_told = true;
                    return Err(Dropped::NotReady.into());
                }
                self.head = [0; HEAD_LEN];
                self.receive(0, ends, packet, grants, events, counters)?;
            }
            Opcode::SEND_MIDDLE
            | Opcode::SEND_LAST
            | Opcode::SEND_LAST_IMM
            | Opcode::SEND_LAST_INVALIDATE => {
                let ends = packet.bth.opcode != Opcode::SEND_MIDDLE;
                whole(ends)?;
                let Assembly::Send { len } = self.assembly else {
                    return Err(INVALID);
                };
                if ends && payload.is_empty() {
                    return Err(INVALID);
                }
                self.receive(len, ends, packet, grants, events, counters)?;
            }
            Opcode::WRITE_FIRST | Opcode::WRITE_ONLY | Opcode::WRITE_ONLY_IMM => {
                let ends = packet.bth.opcode != Opcode::WRITE_FIRST;
                whole(ends)?;
                let (remote, len) = place(packet.reth.ok_or(INVALID)?);
                let fits = if ends {
                    payload.len() == len as usize
                } else {
                    payload.len() < len as usize
                };
                if !matches!(self.assembly, Assembly::None) || !fits {
                    return Err(INVALID);
                }
                let place = grants.find(remote, len, Access::Write).ok_or(ACCESS)?;
                grants.write(place, payload);
                counters.copied += payload.len() as u64;
                self.finish_write(remote, len, payload.len() as u32, ends);
            }
            Opcode::WRITE_MIDDLE | Opcode::WRITE_LAST | Opcode::WRITE_LAST_IMM => {
                let ends = packet.bth.opcode != Opcode::WRITE_MIDDLE;
                whole(ends)?;
                let Assembly::Write { key, addr, left } = self.assembly else {
                    return Err(INVALID);
                };
                let fits = if ends {
                    payload.len() == left as usize
                } else {
                    payload.len() < left as usize
                };
                if !fits {
                    return Err(INVALID);
                }
                // It may have been taken back since the first packet.
                let remote = Remote { addr, key };
                let place = grants.find(remote, left, Access::Write).ok_or(ACCESS)?;
                grants.write(place, payload);
                counters.copied += payload.len() as u64;
                self.finish_write(remote, left, payload.len() as u32, ends);
            }
            Opcode::READ_REQUEST => {
                let (remote, len) = place(packet.reth.ok_or(INVALID)?);
                if !matches!(self.assembly, Assembly::None) {
                    return Err(INVALID);
                }
                grants.find(remote, len, Access::Read).ok_or(ACCESS)?;
                if !self.make_room() {
                    return Err(INVALID);
                }
                count = packets(len, self.mtu);
                self.msn = self.msn.wrapping_add(1);
                self.respond(psn, remote, len, count, false);
            }
            _ => return Err(INVALID),
        }
        self.expected = psn.plus(count);
        // A gap that was told is closed; a NAK that was not sent yet must not be.
        self.gap_told = false;
        if packet.bth.opcode == Opcode::READ_REQUEST {
            // Its data acknowledges it, and all before it.
            self.owed = None;
        } else if self.owed.is_some() || packet.bth.ack_req & ACK_REQ != 0 {
            self.owed = Some(Syndrome::ACK);
        }
        Ok(())
    }

    fn finish_write(&mut self, remote: Remote, left: u32, len: u32, ends: bool) {
        if ends {
            self.assembly = Assembly::None;
            self.msn = self.msn.wrapping_add(1);
        } else {
            self.assembly = Assembly::Write {
                key: remote.key,
                addr: remote.addr + u64::from(len),
                left: left - len,
            };
        }
    }

    /// A packet of a message, `at` bytes into it.
    fn receive(
        &mut self,
        at: u32,
        ends: bool,
        packet: &Packet<'_>,
        grants: &mut Grants,
        events: &mut VecDeque<Event>,
        counters: &mut Counters,
    ) -> Result<(), Refused> {
        let at = at as usize;
        let to_head = HEAD_LEN.saturating_sub(at).min(packet.payload.len());
        let (head, data) = packet.payload.split_at(to_head);
        let buf = self.recvs.front_mut().ok_or(INVALID)?;
        let room = buf.as_ref().map_or(0, Buf::len);
        let from = at.max(HEAD_LEN) - HEAD_LEN;
        if from + data.len() > room {
            return Err(INVALID);
        }
        let invalidated = packet.ieth.map(|ieth| ieth.rkey.get());
        if let Some(key) = invalidated
            && !grants.invalidate(key)
        {
            return Err(ACCESS);
        }
        self.head[at.min(HEAD_LEN)..][..to_head].copy_from_slice(head);
        if let Some(buf) = buf
            && !data.is_empty()
        {
            buf.bytes_mut()[from..from + data.len()].copy_from_slice(data);
        }
        counters.copied += packet.payload.len() as u64;
        let len = (at + packet.payload.len()) as u32;
        if ends {
            self.assembly = Assembly::None;
            self.msn = self.msn.wrapping_add(1);
            events.push_back(Event::Received {
                qp: self.qp,
                len,
                head: self.head,
                buf: self.recvs.pop_front().expect("it was filled"),
                invalidated,
            });
        } else {
            self.assembly = Assembly::Send { len };
        }
        Ok(())
    }

    /// Adds answers, as far as there is room.
    pub fn burst<'a>(&'a self, grants: &'a Grants, out: &mut Burst<'a>) {
        for response in &self.responses {
            for k in response.sent..response.packets {
                if out.is_full() {
                    return;
                }
                match self.response(response, k, grants) {
                    Some(packet) => out.push(packet),
                    // The memory was taken back meanwhile: nobody waits for this answer.
                    None => break,
                }
            }
        }
        if let Some(syndrome) = self.owed
            && !out.is_full()
        {
            let psn = if syndrome == Syndrome::ACK {
                self.expected.before()
            } else {
                self.expected
            };
            out.push(PacketOut {
                head: Head::new(Opcode::ACKNOWLEDGE, self.peer_qpn, psn, 0)
                    .aeth(syndrome, self.msn),
                payload: Payload::EMPTY,
            });
        }
    }

    fn response<'a>(
        &self,
        response: &Response,
        k: u32,
        grants: &'a Grants,
    ) -> Option<PacketOut<'a>> {
        let place = grants.find(response.remote, response.len, Access::Read)?;
        let from = k * self.mtu.bytes();
        let len = self.mtu.bytes().min(response.len - from);
        let opcode = match (k == 0, k + 1 == response.packets) {
            (true, true) => Opcode::READ_RESPONSE_ONLY,
            (true, false) => Opcode::READ_RESPONSE_FIRST,
            (false, false) => Opcode::READ_RESPONSE_MIDDLE,
            (false, true) => Opcode::READ_RESPONSE_LAST,
        };
        let head = Head::new(opcode, self.peer_qpn, response.first.plus(k), len as usize);
        Some(PacketOut {
            head: match opcode {
                Opcode::READ_RESPONSE_MIDDLE => head,
                _ => head.aeth(Syndrome::ACK, response.msn),
            },
            payload: grants.read(place.plus(from), len),
        })
    }

    /// The first so many packets of the last burst were sent; those left over are the requester's.
    pub fn sent(&mut self, mut count: usize, grants: &Grants) -> usize {
        while let Some(response) = self.responses.front_mut() {
            if grants
                .find(response.remote, response.len, Access::Read)
                .is_none()
            {
                self.responses.pop_front();
                continue;
            }
            let now = (response.packets - response.sent).min(count as u32);
            response.sent += now;
            count -= now as usize;
            if response.sent < response.packets {
                return count;
            }
            self.responses.pop_front();
        }
        if count > 0 && self.owed.is_some() {
            self.owed = None;
            count -= 1;
        }
        count
    }

    /// True if a burst would not be empty.
    pub fn has_work(&self) -> bool {
        self.owed.is_some() || !self.responses.is_empty()
    }

    /// What a NAK that ends the connection says.
    pub fn nak(&self, syndrome: Syndrome) -> Head {
        Head::new(Opcode::ACKNOWLEDGE, self.peer_qpn, self.expected, 0).aeth(syndrome, self.msn)
    }

    /// The ACK that is owed, if nothing but the ACK is: READs that are not answered stand before it.
    pub fn owed_ack(&self) -> Option<Head> {
        let owed = self.owed == Some(Syndrome::ACK) && self.responses.is_empty();
        let psn = self.expected.before();
        owed.then(|| {
            Head::new(Opcode::ACKNOWLEDGE, self.peer_qpn, psn, 0).aeth(Syndrome::ACK, self.msn)
        })
    }

    /// Ends everything: the Bufs of RECVs come back.
    pub fn fail(&mut self, events: &mut VecDeque<Event>) {
        self.responses.clear();
        self.early.clear();
        self.owed = None;
        let lost = plant::on(Bug::RecvsLost);
        for buf in self.recvs.drain(..).flatten().filter(|_| !lost) {
            events.push_back(Event::Unposted { buf });
        }
    }
}

fn place(reth: &Reth) -> (Remote, u32) {
    let remote = Remote {
        addr: reth.va.get(),
        key: reth.rkey.get(),
    };
    (remote, reth.len.get())
}

#[cfg(test)]
mod tests {
    use ferroce_buf::{BufList, Class, Home, Pool, Region, Want};

    use super::*;

    const READS: u8 = 4;

    /// A READ request of `len` bytes.
    fn read(psn: u32, remote: Remote, len: u32) -> Vec<u8> {
        let head = Head::new(Opcode::READ_REQUEST, 5, Psn::new(psn), 0);
        let mut datagram = head.reth(remote.addr, remote.key, len).bytes().to_vec();
        datagram.extend([0; 4]);
        datagram
    }

    #[test]
    fn answers_given_again_are_not_reads_that_are_out() {
        let classes = [Class {
            size: 4096,
            count: 1,
        }];
        let region = Region::map(Pool::bytes(&classes), Want::default()).expect("memory");
        let mut pool = Pool::new(std::sync::Arc::new(region), 0, Home::CORE, &classes);
        let mut grants = Grants::new();
        let mut bufs = BufList::new();
        bufs.push(pool.take(4096).expect("one"));
        let remote = grants.grant(bufs, Access::Read, 1).expect("room");
        let qp = QpId {
            slot: 0,
            generation: 0,
        };
        let mtu = Mtu::from_code(5).expect("1 to 5");
        let mut responder = Responder::new(qp, 9, mtu, Psn::new(0), 0, READS);
        let mut hear = |responder: &mut Responder, psn: u32| {
            let datagram = read(psn, remote, 512);
            let packet = crate::roce::packet::parse(&datagram).expect("a READ");
            let (mut events, mut counters) = (VecDeque::new(), Counters::default());
            responder.on_request(
                Tick(1),
                &datagram,
                &packet,
                &mut grants,
                &mut events,
                &mut counters,
            )
        };
        let reads = u32::from(READS);
        for psn in 0..reads {
            assert_eq!(hear(&mut responder, psn), Ok(()));
        }
        // One more than there may be.
        assert_eq!(hear(&mut responder, reads), Err(INVALID));
        // All are answered, but late; the peer asks again, and hears the first answers before we can
        // send them again. It may go on.
        responder.responses.clear();
        for psn in 0..reads {
            assert_eq!(hear(&mut responder, psn), Err(Dropped::Duplicate.into()));
        }
        for psn in reads..2 * reads {
            assert_eq!(hear(&mut responder, psn), Ok(()));
            assert_eq!(responder.responses.len(), usize::from(READS));
        }
        // These have not been answered at all.
        assert_eq!(hear(&mut responder, 2 * reads), Err(INVALID));
        pool.put(
            grants
                .revoke(remote.key)
                .expect("it was granted")
                .pop()
                .expect("one"),
        );
    }

    /// Requests of one byte each, of a peer that may have many out.
    fn early(order: &[u32], times: &[u64]) -> (Vec<u32>, Responder, Counters) {
        let mut grants = Grants::new();
        let qp = QpId {
            slot: 0,
            generation: 0,
        };
        let mtu = Mtu::from_code(5).expect("1 to 5");
        let mut responder = Responder::new(qp, 9, mtu, Psn::new(0), 64, READS);
        (0..64).for_each(|_| responder.post(None));
        let (mut events, mut counters) = (VecDeque::new(), Counters::default());
        for (psn, ms) in order.iter().zip(times) {
            let head = Head::new(Opcode::SEND_ONLY, 5, Psn::new(*psn), 0);
            let mut datagram = head.bytes().to_vec();
            datagram.extend(psn.to_be_bytes());
            datagram.extend([0; 4]);
            let packet = packet::parse(&datagram).expect("a SEND");
            let now = Tick(0).plus_ms(*ms);
            responder.on_time(now, &mut counters);
            let _ = responder.on_request(
                now,
                &datagram,
                &packet,
                &mut grants,
                &mut events,
                &mut counters,
            );
        }
        let heard = events.iter().map(|event| match event {
            Event::Received { head, .. } => u32::from_be_bytes(*head.first_chunk().expect("4")),
            other => panic!("{other:?}"),
        });
        (heard.collect(), responder, counters)
    }

    #[test]
    fn requests_that_overtook_others_wait_for_these_and_are_executed_once_in_order() {
        let order = [0, 3, 2, 3, 1, 4, 6, 5];
        let (heard, responder, counters) = early(&order, &[1; 8]);
        assert_eq!(heard, [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!((counters.early, counters.naks_sent), (4, 0));
        assert_eq!(responder.next_timeout(), None);
        assert_ne!(responder.owed, Some(Syndrome::NAK_SEQUENCE));
    }

    #[test]
    fn a_gap_is_told_once_when_it_lasts() {
        let (heard, mut responder, mut counters) = early(&[0, 2, 3], &[1; 3]);
        assert_eq!(heard, [0]);
        let due = responder.next_timeout().expect("it waits");
        responder.on_time(Tick(due.0 - 1), &mut counters);
        assert_eq!((counters.naks_sent, responder.has_work()), (0, false));
        responder.on_time(due, &mut counters);
        assert_eq!(responder.owed, Some(Syndrome::NAK_SEQUENCE));
        assert_eq!(responder.next_timeout(), None);
        // What was kept comes again, after what was missing.
        let order = [0, 2, 3, 4, 1, 2, 3, 4];
        let (heard, _, counters) = early(&order, &[1, 1, 1, 9, 9, 9, 9, 9]);
        assert_eq!(heard, [0, 1, 2, 3, 4]);
        assert_eq!(counters.naks_sent, 1);
    }

    #[test]
    fn few_requests_are_kept() {
        let order: Vec<u32> = (2..60).collect();
        let (heard, responder, counters) = early(&order, &[1; 58]);
        assert!(heard.is_empty() && responder.early.is_empty());
        let kept = Patience::STRANGER.packets as u64;
        assert_eq!((counters.early, counters.naks_sent), (kept, 1));
    }
}
