//! The queue pairs of one core that hosts came by, as a [`Fabric`].
//!
//! What one 4 KiB read costs here: a receive completion with the SQE in it, a RECV posted again, a
//! chain of WRITE and SEND in one post, and its completion, by which the data comes home. Nothing is
//! copied but the SQE, and in-capsule data by who wants it.
//!
//! A connection has the name of its queue pair. Its RECVs' Bufs come from a store that is given at the
//! start; a host for whose queue there are too few is refused, so hosts that are connected keep theirs.
//!
//! An idle queue pair says nothing of its peer, so one on which nothing was acknowledged for a while
//! is asked: by a WRITE of no bytes, after whose retries the device says that nobody is there.
//!
//! Left out on purpose: listening, which is the provider's.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use ferroce_buf::{Buf, BufList};
use ferroce_engine::limits;
use ferroce_engine::port::{
    Close, ConnId, Fabric, Fetch, InCapsule, Inbound, Reply, Room, Tag, Tick,
};
use ferroce_engine::table::Transport;
use ferroce_wire::Wire;
use ferroce_wire::rdma::RdmaCmStatus;
use ferroce_wire::sqe::Sqe;
use ferroce_wire::status::Status;

use crate::rdma::provider::{Event, HEAD_LEN, Incoming, Provider, QpId, STALE_MS, WcStatus, Why};
use crate::rdma::target::{Outcome, State, Target, Wanted, reject};

/// Connections whose handshake is not over, at most. Each holds RECVs for nothing if its host never
/// comes.
const OPENING_MAX: usize = 128;
/// ... and of these of one address. Hosts connect one queue after the other; this is for many of them on one machine.
const OPENING_OF_ONE_MAX: usize = OPENING_MAX / 4;
/// Of a core's RECVs, one address has this part at most in connections whose handshake is not over, or those of one queue.
/// A few requests that nobody goes on with can so not take what there is for others.
const OPENING_RECVS_PART: usize = 4;
/// Of a core's RECVs, one address has all but this part at most in connections of hosts that were not admitted, if no host there
/// was. Linux sets up the connections of all its I/O queues before it sends a Connect of any, but for its admin queue.
const STRANGERS_LEAVE_PART: usize = 8;
/// When there is no room for another handshake, the oldest makes some if it is so old: a host that is there needs a few round
/// trips, and once more what RoCE in software repeats after 500 ms.
const OPENING_GIVES_WAY_MS: u64 = 750;
/// Lists of Bufs on their way home for which there is room from the start.
const HOMES_READY: usize = 1024;
/// A queue pair on which nothing was acknowledged for so long is asked whether its host is there. As
/// many hosts as there are cost one packet each in that time.
const PROBE_MS: u64 = 15_000;
/// How often it is looked for such queue pairs.
const PROBE_CHECK_MS: u64 = 5_000;
/// How long what was given to a connection that ends may take to be acknowledged: its peer may be gone already.
const ENDING_MS: u64 = 5_000;
/// Two warnings of the same kind are at least so far apart.
const WARN_EVERY_MS: u64 = 10_000;

/// NVMe/RDMA connections of one core.
#[derive(Debug)]
pub struct RdmaFabric<P> {
    provider: P,
    /// By slot of the queue pair.
    conns: Vec<Option<Box<Conn>>>,
    /// How many there are.
    count: usize,
    /// Those whose handshake is not over, or whose host was not admitted yet.
    opening: Vec<Opening>,
    /// Bufs of no RECV, each of `limits::IN_CAPSULE` bytes.
    spare: Vec<Buf>,
    /// Bufs of RECVs in all.
    recvs: usize,
    /// Answers that wait for room on their queue pairs.
    waiting: usize,
    /// Messages for which there was no room.
    held: VecDeque<Held>,
    /// There was room for any command when it was polled last.
    room: bool,
    /// So many of these were looked at again in this turn, which is the so many-th, and wait.
    looked_at: usize,
    turn: u32,
    /// The command reported last.
    sqe: Sqe,
    /// Its RECV, if there is data in it. It is posted again before anything is sent.
    current: Option<Recv>,
    homes: Vec<BufList>,
    closed: VecDeque<ConnId>,
    refused: u64,
    warned: Option<Tick>,
    probe_next: Tick,
    /// Connections that end when all is sent, and until when, the first first.
    ending: VecDeque<(Tick, QpId)>,
    /// Connections that end if their peers acknowledge nothing until then, the first first.
    stale: VecDeque<(Tick, QpId)>,
    now: Tick,
}

#[derive(Debug)]
struct Conn {
    qp: QpId,
    machine: Target,
    /// When its host last acknowledged something.
    heard: Tick,
    qid: u16,
    /// `Opened` was reported, so `Closed` will be.
    opened: bool,
    /// Its host was admitted.
    admitted: bool,
    /// Messages that came, less commands that were answered. (One that is no command ends it.)
    unanswered: u32,
    /// Of these, those that wait for room.
    held: u32,
    /// In this turn the first of them was looked at, and waits.
    waits_in: u32,
    local: SocketAddr,
    peer: SocketAddr,
}

/// A connection whose handshake is not over, or whose host was not admitted yet: whose it is, and the Bufs of its RECVs.
#[derive(Debug)]
struct Opening {
    qp: QpId,
    ip: IpAddr,
    bufs: usize,
    since: Tick,
    /// The handshake is over; the host was not admitted yet.
    established: bool,
}

impl Conn {
    /// There is no room for a message that is one of `unanswered`, and not of `held`, should that be a command.
    fn lacks(&self, room: Room, len: u32) -> bool {
        let under_way = self.unanswered.wrapping_sub(1 + self.held);
        room < Room::of(self.qid != 0 && len as usize > HEAD_LEN, under_way)
    }
}

/// A message as it was received.
#[derive(Debug)]
struct Held {
    qp: QpId,
    len: u32,
    head: [u8; HEAD_LEN],
    buf: Option<Buf>,
}

/// A RECV that was used up, and the bytes of in-capsule data at the start of its Buf.
#[derive(Debug)]
struct Recv {
    qp: QpId,
    buf: Buf,
    len: usize,
}

/// What is reported. A command is in `sqe`, its data in `current`.
enum Next {
    Opened(QpId),
    Capsule(ConnId),
    Fetched(ConnId, Tag, BufList),
    Closed(ConnId),
}

const fn conn_of(qp: QpId) -> ConnId {
    ConnId {
        slot: qp.slot,
        generation: qp.generation,
    }
}

impl<P: Provider> RdmaFabric<P> {
    /// A fabric without connections. `recvs` are the Bufs of its RECVs, each of exactly
    /// [`limits::IN_CAPSULE`] bytes: one for every entry of every I/O queue that is to be connected.
    ///
    /// # Panics
    /// If one of them is of another length.
    pub fn new(provider: P, recvs: Vec<Buf>) -> RdmaFabric<P> {
        let fits = |buf: &Buf| buf.len() == limits::IN_CAPSULE as usize;
        assert!(recvs.iter().all(fits), "a RECV holds in-capsule data");
        RdmaFabric {
            provider,
            conns: Vec::new(),
            count: 0,
            opening: Vec::with_capacity(OPENING_MAX),
            recvs: recvs.len(),
            spare: recvs,
            waiting: 0,
            held: VecDeque::with_capacity(limits::INBOUND_PER_TURN),
            room: false,
            looked_at: 0,
            turn: 0,
            sqe: Sqe::new(0),
            current: None,
            homes: Vec::with_capacity(HOMES_READY),
            closed: VecDeque::new(),
            refused: 0,
            warned: None,
            probe_next: Tick::default(),
            ending: VecDeque::new(),
            stale: VecDeque::new(),
            now: Tick::default(),
        }
    }

    /// The queue pairs.
    pub fn provider(&self) -> &P {
        &self.provider
    }

    /// The queue pairs.
    pub fn provider_mut(&mut self) -> &mut P {
        &mut self.provider
    }

    /// Has the next thing that happens make [`Provider::fd`] readable; see [`Provider::arm`]. Who is `patient` waits for no
    /// memory that comes back when something was sent. It is asked for all the same while a connection waits for that.
    pub fn arm(&mut self, patient: bool) -> bool {
        let patient = patient && self.waiting == 0 && self.ending.is_empty();
        self.provider.arm(patient)
    }

    /// Connections, in whatever state.
    pub fn connections(&self) -> usize {
        self.count
    }

    /// Bufs of no RECV.
    pub fn spare_recvs(&self) -> usize {
        self.spare.len()
    }

    /// Requests that were refused.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    #[inline]
    fn conn(&self, qp: QpId) -> Option<&Conn> {
        let conn = self.conns.get(qp.slot as usize)?.as_deref()?;
        (conn.qp == qp).then_some(conn)
    }

    /// Is there room for messages that wait?
    #[inline(never)]
    fn look_again(&mut self, room: Room) -> Option<ConnId> {
        if room == Room::Any {
            self.looked_at = 0;
        }
        while let Some(held) = self.held.get(self.looked_at) {
            let (qp, len) = (held.qp, held.len);
            if let Some(conn) = live(&mut self.conns, qp) {
                conn.held -= 1;
                let waits = conn.waits_in == self.turn || conn.lacks(room, len);
                if room != Room::Any && waits {
                    // With it all that came behind it.
                    conn.waits_in = self.turn;
                    conn.held += 1;
                    self.looked_at += 1;
                    continue;
                }
                // It comes once more.
                conn.unanswered = conn.unanswered.wrapping_sub(1);
            }
            let held = self.held.remove(self.looked_at).expect("it was there");
            let conn = self.on_received(qp, len, &held.head, held.buf, Room::Any);
            if conn.is_some() {
                return conn;
            }
        }
        None
    }

    #[inline]
    fn next(&mut self, room: Room) -> Option<Next> {
        if !self.held.is_empty()
            && let Some(conn) = self.look_again(room)
        {
            return Some(Next::Capsule(conn));
        }
        loop {
            if self.homes.is_empty()
                && let Some(conn) = self.closed.pop_front()
            {
                return Some(Next::Closed(conn));
            }
            // Looked at where it lies: it is not small.
            let next = match self.provider.poll(self.now) {
                None => return None,
                Some(Event::Received {
                    qp,
                    len,
                    ref head,
                    buf,
                    invalidated: _,
                }) => {
                    let conn = self.on_received(qp, len, head, buf, room);
                    conn.map(Next::Capsule)
                }
                Some(Event::Sent {
                    qp,
                    tag,
                    bufs,
                    status,
                }) => {
                    self.on_sent(qp, tag, bufs, status);
                    None
                }
                Some(Event::ReadDone {
                    qp,
                    tag,
                    bufs,
                    status,
                }) => self.on_read_done(qp, tag, bufs, status),
                Some(Event::Unposted { buf }) => {
                    self.spare.push(buf);
                    None
                }
                Some(Event::Established { qp }) => self.on_established(qp),
                Some(Event::Disconnected { qp, why }) => {
                    self.on_disconnected(qp, why);
                    None
                }
                Some(Event::Gone { qp }) => {
                    self.on_gone(qp);
                    None
                }
            };
            if next.is_some() {
                return next;
            }
        }
    }

    /// Checks a request and takes it up.
    fn open(&mut self, incoming: P::Incoming) -> Result<(), (P::Incoming, RdmaCmStatus)> {
        let wanted = match Wanted::check(incoming.request()) {
            Ok(wanted) => wanted,
            Err(status) => return Err((incoming, status)),
        };
        let demand = wanted.demand();
        let bufs = match demand.recv_data {
            0 => 0,
            _ => demand.recvs as usize,
        };
        let ip = incoming.request().peer.ip();
        if !self.may_open(ip, bufs) {
            self.warn(incoming.request().peer, bufs);
            return Err((incoming, RdmaCmStatus::NO_RESOURCES));
        }
        if self.handshakes().count() >= OPENING_MAX
            && let Some(oldest) = self.gives_way()
        {
            self.close_now(oldest);
        }
        let opened = self.provider.open(incoming, &demand, self.now);
        let qp = opened.map_err(|incoming| (incoming, RdmaCmStatus::NO_RESOURCES))?;
        for _ in 0..demand.recvs {
            let buf = match bufs {
                0 => None,
                _ => self.spare.pop(),
            };
            self.provider.post_recv(qp, buf);
        }
        let conn = Conn {
            qp,
            machine: Target::new(self.provider.limits(qp)),
            heard: self.now,
            qid: wanted.qid,
            opened: false,
            admitted: false,
            unanswered: 0,
            held: 0,
            waits_in: self.turn.wrapping_sub(1),
            local: self.provider.local(qp),
            peer: self.provider.peer(qp),
        };
        let slot = qp.slot as usize;
        if self.conns.len() <= slot {
            self.conns.resize_with(slot + 1, || None);
        }
        let before = self.conns[slot].replace(Box::new(conn));
        assert!(
            before.is_none(),
            "a queue pair's slot is free when it comes"
        );
        self.count += 1;
        self.opening.push(Opening {
            qp,
            ip,
            bufs,
            since: self.now,
            established: false,
        });
        self.provider
            .accept(qp, wanted.accept().as_bytes(), self.now);
        Ok(())
    }

    /// What the connections of an address that are being set up hold: how many, and Bufs of RECVs.
    fn opening_of(&self, ip: IpAddr) -> (usize, usize) {
        let of = self.handshakes().filter(|opening| opening.ip == ip);
        of.fold((0, 0), |(count, bufs), opening| {
            (count + 1, bufs + opening.bufs)
        })
    }

    fn handshakes(&self) -> impl Iterator<Item = &Opening> {
        let opening = self.opening.iter();
        opening.filter(|opening| !opening.established)
    }

    /// There is room for a queue of this address with so many RECVs that have Bufs.
    fn may_open(&self, ip: IpAddr, bufs: usize) -> bool {
        let (count, held) = self.opening_of(ip);
        let strange = self.strange_of(ip);
        let known = |conn: &Conn| conn.admitted && conn.peer.ip() == ip;
        bufs <= self.spare.len()
            && (self.handshakes().count() < OPENING_MAX || self.gives_way().is_some())
            && count < OPENING_OF_ONE_MAX
            && (held == 0 || held + bufs <= self.recvs / OPENING_RECVS_PART)
            && (strange == 0
                || strange + bufs <= self.recvs - self.recvs / STRANGERS_LEAVE_PART
                || self.conns.iter().flatten().any(|conn| known(conn)))
    }

    /// Bufs of RECVs of the connections of an address whose hosts were not admitted.
    fn strange_of(&self, ip: IpAddr) -> usize {
        let strange = self.opening.iter().filter(|opening| opening.ip == ip);
        strange.map(|opening| opening.bufs).sum()
    }

    /// The oldest handshake, if it is so old that it makes room. They stand in the order in which they came.
    fn gives_way(&self) -> Option<QpId> {
        let due = |opening: &&Opening| self.now >= opening.since.plus_ms(OPENING_GIVES_WAY_MS);
        self.handshakes().next().filter(due).map(|oldest| oldest.qp)
    }

    /// A connection is a host's, or over.
    fn opened(&mut self, qp: QpId) {
        self.opening.retain(|opening| opening.qp != qp);
    }

    fn warn(&mut self, peer: SocketAddr, bufs: usize) {
        let quiet = self
            .warned
            .is_some_and(|warned| self.now < warned.plus_ms(WARN_EVERY_MS));
        if quiet {
            return;
        }
        self.warned = Some(self.now);
        let (count, held) = self.opening_of(peer.ip());
        log::warn!(
            "{peer}: a queue is refused: it needs {bufs} receive buffers and {} of {} are left, with {} \
             of at most {OPENING_MAX} connections being set up; {count} of {OPENING_OF_ONE_MAX} are this \
             address's, with {held} buffers, and {} buffers are its in all that no host was admitted on. Raise \
             `rdma-entries` of the node's limits, or connect fewer or smaller queues, one after the other",
            self.spare.len(),
            self.recvs,
            self.handshakes().count(),
            self.strange_of(peer.ip()),
        );
    }

    /// The RECV of the command that was looked at last goes back: the host may send another one as
    /// soon as it sees the response.
    #[inline]
    fn repost(&mut self) {
        if self.current.is_some() {
            self.repost_current();
        }
    }

    #[inline(never)]
    fn repost_current(&mut self) {
        if let Some(recv) = self.current.take() {
            self.recycle(recv.qp, Some(recv.buf));
        }
    }

    /// A RECV was used up, and its Buf is not needed any more.
    #[inline(never)]
    fn recycle(&mut self, qp: QpId, buf: Option<Buf>) {
        match self.conn(qp) {
            Some(conn) if conn.machine.state() != State::Over => self.provider.post_recv(qp, buf),
            _ => self.spare.extend(buf),
        }
    }

    /// A message came: if it is a command, it is reported, or held until there is room. A queue's commands are taken in their
    /// order.
    #[inline]
    fn on_received(
        &mut self,
        qp: QpId,
        len: u32,
        head: &[u8; HEAD_LEN],
        buf: Option<Buf>,
        room: Room,
    ) -> Option<ConnId> {
        let outcome = match live(&mut self.conns, qp) {
            Some(conn) => {
                conn.unanswered = conn.unanswered.wrapping_add(1);
                conn.machine.received(len)
            }
            None => Outcome::Ignore,
        };
        if outcome == Outcome::Execute {
            if room != Room::Any && self.must_wait(qp, len, room) {
                let head = *head;
                self.held.push_back(Held { qp, len, head, buf });
                return None;
            }
            self.sqe = bytemuck::cast(*head);
            // Of a RECV without data nothing is looked at any more: it goes back at once.
            match (len as usize - HEAD_LEN, buf) {
                (len @ 1.., Some(buf)) => self.current = Some(Recv { qp, buf, len }),
                (_, buf) => self.provider.post_recv(qp, buf),
            }
            return Some(conn_of(qp));
        }
        if outcome == Outcome::Close {
            log::debug!("queue pair {qp:?}: {len} bytes are no capsule");
            self.close_now(qp);
        }
        self.recycle(qp, buf);
        None
    }

    /// There is no room for a command, or an earlier one of its queue waits.
    #[cold]
    fn must_wait(&mut self, qp: QpId, len: u32, room: Room) -> bool {
        let conn = live(&mut self.conns, qp);
        let waits = |conn: &&mut Conn| conn.held > 0 || conn.lacks(room, len);
        let waiting = conn.filter(waits).map(|conn| conn.held += 1);
        waiting.is_some()
    }

    /// An answer is done: its data is the engine's again, and others may have room now.
    #[inline]
    fn on_sent(&mut self, qp: QpId, tag: u32, bufs: BufList, status: WcStatus) {
        self.come_home(bufs);
        let Some(conn) = live(&mut self.conns, qp) else {
            return;
        };
        conn.machine.sent(tag);
        conn.heard = self.now;
        while let Some(answer) = conn.machine.next_answer() {
            self.waiting -= 1;
            self.provider.answer(qp, answer);
        }
        if conn.machine.is_to_close() {
            self.close_now(qp);
        } else if status != WcStatus::Success {
            log::debug!("{}: an answer failed: {status:?}", conn.peer);
        }
    }

    #[inline]
    fn come_home(&mut self, bufs: BufList) {
        if !bufs.is_empty() || bufs.capacity() > 1 {
            self.homes.push(bufs);
        }
    }

    fn on_read_done(
        &mut self,
        qp: QpId,
        tag: u32,
        bufs: BufList,
        status: WcStatus,
    ) -> Option<Next> {
        let Some(conn) = live(&mut self.conns, qp) else {
            self.come_home(bufs);
            return None;
        };
        let whose = conn.machine.read_done(tag);
        while let Some(read) = conn.machine.next_read() {
            self.provider.read(qp, read);
        }
        if status == WcStatus::Success && conn.machine.state() == State::Live {
            return Some(Next::Fetched(conn_of(qp), whose, bufs));
        }
        // A READ that failed has broken the queue pair; its command ends with it.
        log::debug!("{}: a READ ended with {status:?}", conn.peer);
        self.come_home(bufs);
        None
    }

    /// Asks hosts that were not heard of for long whether they are there. If not, their queue pairs
    /// break, and that is reported as for any other reason.
    fn probe(&mut self) {
        if self.now < self.probe_next {
            return;
        }
        self.probe_next = self.now.plus_ms(PROBE_CHECK_MS);
        for conn in self.conns.iter_mut().flatten() {
            if self.now >= conn.heard.plus_ms(PROBE_MS)
                && let Some(answer) = conn.machine.probe()
            {
                self.provider.answer(conn.qp, answer);
            }
        }
    }

    /// Closes connections whose peers did not take the last of it in time.
    fn end_late(&mut self) {
        while let Some((_, qp)) = self.ending.pop_front_if(|(due, _)| *due <= self.now) {
            if live(&mut self.conns, qp).is_some_and(|conn| conn.machine.state() == State::Ending) {
                self.close_now(qp);
            }
        }
    }

    /// Asks the peer of a connection that may be stale whether it is there. False if that is over anyway.
    fn doubt(&mut self, qp: QpId) -> bool {
        let Some(conn) = live(&mut self.conns, qp) else {
            return false;
        };
        if conn.machine.state() == State::Over {
            return false;
        }
        // If the handshake is not over, its REP is repeated.
        if let Some(answer) = conn.machine.probe() {
            self.provider.answer(qp, answer);
        }
        self.stale.push_back((self.now.plus_ms(STALE_MS), qp));
        true
    }

    /// Closes connections of which nothing was heard since they were doubted. If the core stood still, what they sent may not be
    /// read yet.
    fn end_stale(&mut self) {
        let Some(first) = self.stale.front().map(|(due, _)| *due) else {
            return;
        };
        if self.now < first.plus_ms(STALE_MS) && self.provider.has_work() {
            return;
        }
        while let Some((due, qp)) = self.stale.pop_front_if(|(due, _)| *due <= self.now) {
            if let Some(conn) = live(&mut self.conns, qp)
                && conn.heard.plus_ms(STALE_MS) <= due
            {
                log::debug!("{}: queue {} is stale", conn.peer, conn.qid);
                self.close_now(qp);
            }
        }
    }

    fn on_established(&mut self, qp: QpId) -> Option<Next> {
        let conn = live(&mut self.conns, qp)?;
        if !conn.machine.established() {
            return None;
        }
        conn.heard = self.now;
        conn.opened = true;
        let mut opening = self.opening.iter_mut();
        if let Some(opening) = opening.find(|opening| opening.qp == qp) {
            opening.established = true;
        }
        Some(Next::Opened(qp))
    }

    /// Nothing more is sent or taken. `Closed` is reported when nothing of it is left.
    fn give_up(&mut self, qp: QpId) {
        let Some(conn) = live(&mut self.conns, qp) else {
            return;
        };
        let homes = &mut self.homes;
        self.waiting -= conn.machine.answers_waiting();
        conn.machine.give_up(&mut |bufs| homes.push(bufs));
        self.opened(qp);
    }

    fn close_now(&mut self, qp: QpId) {
        self.give_up(qp);
        self.provider.close(qp, self.now);
    }

    fn on_disconnected(&mut self, qp: QpId, why: Why) {
        if let Some(conn) = self.conn(qp) {
            log::debug!("{}: queue {} is lost: {why:?}", conn.peer, conn.qid);
        }
        self.give_up(qp);
    }

    fn on_gone(&mut self, qp: QpId) {
        // If it never was told of as lost, it is now.
        self.give_up(qp);
        let slot = self.conns.get_mut(qp.slot as usize);
        let Some(conn) = slot.and_then(|slot| slot.take_if(|conn| conn.qp == qp)) else {
            return;
        };
        assert!(conn.machine.is_empty(), "every Buf came back before");
        // Commands that there was no room for will not be looked at any more.
        let spare = &mut self.spare;
        self.held.retain_mut(|held| {
            let stays = held.qp != qp;
            if !stays {
                spare.extend(held.buf.take());
            }
            stays
        });
        self.count -= 1;
        if conn.opened {
            self.closed.push_back(conn_of(qp));
        }
    }
}

/// A connection, if the name is not an old one.
#[inline]
fn live(conns: &mut [Option<Box<Conn>>], qp: QpId) -> Option<&mut Conn> {
    let conn = conns.get_mut(qp.slot as usize)?.as_deref_mut()?;
    (conn.qp == qp).then_some(conn)
}

const fn qp_of(conn: ConnId) -> QpId {
    QpId {
        slot: conn.slot,
        generation: conn.generation,
    }
}

impl<P: Provider> Fabric for RdmaFabric<P> {
    type Incoming = P::Incoming;

    fn adopt(&mut self, incoming: P::Incoming, now: Tick) {
        self.now = now;
        if incoming.stale().is_some_and(|qp| self.doubt(qp)) {
            self.provider.reject_stale(incoming, now);
            return;
        }
        let Err((incoming, status)) = self.open(incoming) else {
            return;
        };
        self.refused += 1;
        log::debug!("{}: refused: {status}", incoming.request().peer);
        self.provider
            .reject(incoming, reject(status).as_bytes(), now);
    }

    #[inline]
    fn poll(&mut self, now: Tick, room: Room) -> Option<Inbound<'_>> {
        self.now = now;
        self.room = room == Room::Any;
        self.repost();
        Some(match self.next(room)? {
            Next::Capsule(conn) => Inbound::Capsule {
                conn,
                sqe: &self.sqe,
                data: match &mut self.current {
                    Some(recv) => InCapsule::Buf(&mut recv.buf, recv.len),
                    None => InCapsule::Bytes(&[]),
                },
            },
            Next::Fetched(conn, tag, bufs) => Inbound::Fetched {
                conn,
                tag,
                bufs,
                status: Status::SUCCESS,
            },
            Next::Opened(qp) => {
                let conn = self.conn(qp)?;
                Inbound::Opened {
                    conn: conn_of(qp),
                    local: conn.local,
                    peer: conn.peer,
                    transport: Transport::Rdma,
                }
            }
            Next::Closed(conn) => Inbound::Closed { conn },
        })
    }

    fn fetch(&mut self, conn: ConnId, fetch: Fetch) {
        let qp = qp_of(conn);
        let read = match live(&mut self.conns, qp) {
            Some(conn) => conn.machine.fetch(fetch),
            None => Err(fetch.bufs),
        };
        match read {
            Ok(Some(read)) => self.provider.read(qp, read),
            Ok(None) => {}
            Err(bufs) => self.come_home(bufs),
        }
    }

    #[inline(always)]
    fn reply(&mut self, conn: ConnId, reply: Reply) {
        self.repost();
        let qp = qp_of(conn);
        let answer = match live(&mut self.conns, qp) {
            Some(conn) => {
                if reply.cqe.is_some() {
                    conn.unanswered = conn.unanswered.wrapping_sub(1);
                }
                conn.machine.reply(reply)
            }
            None => Err(reply.bufs),
        };
        match answer {
            Ok(Some(answer)) => self.provider.answer(qp, answer),
            Ok(None) => self.waiting += 1,
            Err(bufs) => self.come_home(bufs),
        }
    }

    #[inline]
    fn wants_more(&self, conn: ConnId) -> bool {
        self.conn(qp_of(conn))
            .is_none_or(|conn| conn.machine.wants_more())
    }

    fn admitted(&mut self, conn: ConnId) {
        let qp = qp_of(conn);
        if let Some(conn) = live(&mut self.conns, qp) {
            conn.admitted = true;
        }
        self.opened(qp);
    }

    fn close(&mut self, conn: ConnId, how: Close) {
        let qp = qp_of(conn);
        let Some(conn) = live(&mut self.conns, qp) else {
            return;
        };
        let homes = &mut self.homes;
        let now = match how {
            Close::Now => true,
            Close::Sent => conn.machine.end(&mut |bufs| homes.push(bufs)),
        };
        if now && conn.machine.state() != State::Over {
            self.close_now(qp);
        } else if !now {
            self.ending.push_back((self.now.plus_ms(ENDING_MS), qp));
        }
    }

    #[inline]
    fn home(&mut self) -> Option<BufList> {
        self.homes.pop()
    }

    fn flush(&mut self, now: Tick) {
        self.now = now;
        self.repost();
        self.probe();
        self.end_late();
        self.end_stale();
        self.provider.flush(now);
        self.looked_at = 0;
        self.turn = self.turn.wrapping_add(1);
    }

    fn next_timeout(&self) -> Option<Tick> {
        let probe = (self.count > 0).then_some(self.probe_next);
        let first = |list: &VecDeque<(Tick, QpId)>| list.front().map(|(due, _)| *due);
        let all = self.provider.next_timeout().into_iter();
        let all = all.chain(probe).chain(first(&self.ending));
        all.chain(first(&self.stale)).min()
    }

    fn has_work(&self) -> bool {
        // Commands that there was no room for keep nobody awake: whatever makes room is work of that turn, after which
        // there is another one.
        self.provider.has_work()
            || self.current.is_some()
            || (self.room && !self.held.is_empty())
            || !self.homes.is_empty()
            || !self.closed.is_empty()
    }
}
