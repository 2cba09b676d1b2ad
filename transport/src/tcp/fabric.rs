//! The sockets of one core, as a [`Fabric`].
//!
//! What one 4 KiB read costs here when there are many: its share of one `recv` into the core's
//! staging, one look at its header there, 48 bytes of headers written, its share of one `sendmsg`.
//! Nothing is copied but headers, in-capsule data (by who wants it) and the first bytes of each
//! H2CData; the rest of those goes from the socket into the command's Bufs.
//!
//! Who is read when. A turn is what happens between two calls of `flush`. In a turn each connection
//! is read at most once, so none takes more than its share. The one or two that were busy last are
//! tried directly, since a `recv` that finds nothing costs less than epoll and a `recv`; as soon as
//! others are busy too, one epoll says who has something, and those who have nothing cost nothing.
//!
//! Who is sent when. All that was answered in a turn leaves at its end, up to each connection's share; connections that have no
//! more than a small answer go first.
//!
//! Left out on purpose: accepting (`listen.rs`, on a control thread), and KATO, which is the
//! engine's. A connection that is silent between two PDUs may stay for ever.

mod conn;

use std::collections::VecDeque;
use std::io::{self, Read};
use std::net::{Shutdown, SocketAddr};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};

use conn::{Conn, Phase, Slot, find, find_mut, id_of, live, token_of};

use crate::sys::{self, Epoll, Events, IoList};
use crate::tcp::listen::{self, Incoming};
use crate::tcp::outbox::LARGE;
use crate::tcp::target::{Offer, State, Target, Took, WHOLE_MAX, sqe_at};
use ferroce_buf::BufList;
use ferroce_engine::port::{Close, ConnId, Fabric, Fetch, InCapsule, Inbound, Reply, Room, Tick};
use ferroce_engine::table::Transport;

/// Bytes of a core's staging: what one `recv` takes at most of small PDUs.
const STAGING_LEN: usize = 128 * 1024;
/// Of a connection that sends large data, so much is read beyond the data that is expected: more
/// would be data that belongs elsewhere and has to be copied there.
const BESIDE_DATA: usize = 4096;
/// R2Ts of at least so many bytes, and what is left of a PDU if it is at least so long, are read
/// into place. Below it the copy is cheaper than the system call.
const PLACED_MIN: usize = 8192;
/// Bytes read from, and sent to, all connections in a turn, each of which has an equal share, if they are of large commands. It
/// is what a small command waits for beside these.
const LARGE_PER_TURN: usize = 512 * 1024;
/// The same for connections with small commands. As many of 4 KiB as the engine takes in a turn: what does not leave in the turn in
/// which it was done makes every later call a small one.
const SMALL_PER_TURN: usize = 1 << 20;
/// The least and the most that is one connection's share.
const SHARE: (usize, usize) = (32 * 1024, 256 * 1024);
/// The most when sending, for one that alone is busy: all of a turn. With 256 KiB large reads bring a third less.
const ALONE_MAX: usize = SMALL_PER_TURN;
/// Commands of one connection in a turn; those behind wait for the next one. All of a turn are answered together: of more, the
/// beginnings of pages that are asked for would leave the processor's cache before they are sent, and the host would have
/// nothing to do meanwhile.
const COMMANDS_AT_ONCE: u32 = 48;
/// Connections that are tried without asking epoll.
const HOT_MAX: usize = 2;
/// A connection that had nothing so many times is not hot any more.
const HOT_MISSES: u32 = 1024;
/// While only hot connections are busy, the others are looked at every so many turns.
const EPOLL_EVERY: u32 = 4;
/// After others were busy, epoll is asked in so many turns.
const COLD_TURNS: u32 = 64;
/// Readiness taken from epoll at a time.
const EVENTS: usize = 256;
/// From accept to a whole ICReq.
const GREETING_MS: u64 = 10_000;
/// From the first byte of a PDU to its last.
const PDU_MS: u64 = 30_000;
/// To send what waits on a connection that is to end.
const ENDING_MS: u64 = 5_000;
/// From our FIN to the host's: the host reads our last words in this time. A socket that is closed
/// with bytes unread would be reset, and the reset overtakes what was sent.
const LINGER_MS: u64 = 2_000;
/// Connections that linger at a time; those beyond are closed at once.
const LINGERING_MAX: usize = 256;

const _: () = assert!(STAGING_LEN >= 2 * WHOLE_MAX);

/// NVMe/TCP connections of one core.
#[derive(Debug)]
pub struct TcpFabric {
    offer: Offer,
    slots: Vec<Slot>,
    free: Vec<u32>,
    epoll: Epoll,
    events: Events,
    staging: Box<[u8]>,
    /// Whose bytes lie in the staging, and which of them are not used up.
    staged: Option<(ConnId, Range<usize>)>,
    /// Commands taken from there.
    commands: u32,
    /// To be read in this turn, and in the next.
    ready: VecDeque<ConnId>,
    later: Vec<ConnId>,
    /// Their next PDU is a command, and there was no room for it: only so much.
    no_room: VecDeque<(ConnId, Room)>,
    /// There was room for any command when it was polled last.
    room: bool,
    /// It was not looked in this turn whether there is room for those again.
    retries: bool,
    /// With something to send that the socket may take.
    dirty: Vec<ConnId>,
    sending: Vec<ConnId>,
    hot: Vec<ConnId>,
    /// Turns in which epoll is still asked.
    cold: u32,
    turn: u32,
    /// This turn's readiness was looked at.
    looked: bool,
    /// Connections that share what is read in this turn.
    readers: usize,
    /// Connections whose sockets take nothing.
    blocked: usize,
    lingering: usize,
    homes: Vec<BufList>,
    closed: VecDeque<ConnId>,
    /// No connection's deadline is earlier.
    next_deadline: Option<Tick>,
    /// The time we were last told.
    now: Tick,
    copied: u64,
    ends: Ends,
}

/// Connections that did not end as they should.
#[derive(Debug, Default)]
struct Ends {
    /// The host broke the protocol and was told so.
    violations: u64,
    /// The host says that we did.
    terminated: u64,
    /// The socket failed: the peer is gone, or the network to it.
    failed: u64,
    /// A handshake or a PDU was not whole in time.
    late: u64,
}

/// What is reported, before its data is borrowed. A range or an offset is one of the staging.
enum Next {
    Opened(ConnId),
    Capsule(ConnId, usize, Range<usize>),
    Spoiled(ConnId, usize),
    Filled(ConnId),
    Closed(ConnId),
}

impl TcpFabric {
    /// A fabric without connections.
    ///
    /// # Errors
    /// If the process may have no more descriptors.
    pub fn new(offer: Offer) -> io::Result<TcpFabric> {
        Ok(TcpFabric {
            offer,
            slots: Vec::new(),
            free: Vec::new(),
            epoll: Epoll::new()?,
            events: Events::new(EVENTS),
            staging: vec![0; STAGING_LEN].into_boxed_slice(),
            staged: None,
            commands: 0,
            ready: VecDeque::new(),
            later: Vec::new(),
            no_room: VecDeque::new(),
            room: false,
            retries: true,
            dirty: Vec::new(),
            sending: Vec::new(),
            hot: Vec::with_capacity(HOT_MAX),
            cold: 0,
            turn: 0,
            looked: false,
            readers: 1,
            blocked: 0,
            lingering: 0,
            homes: Vec::new(),
            closed: VecDeque::new(),
            next_deadline: None,
            now: Tick::default(),
            copied: 0,
            ends: Ends::default(),
        })
    }

    /// The address of the host of a connection.
    pub fn peer(&self, conn: ConnId) -> Option<SocketAddr> {
        self.conn(conn).map(|conn| conn.peer)
    }

    /// The address that the host of a connection came to.
    pub fn local(&self, conn: ConnId) -> Option<SocketAddr> {
        self.conn(conn).map(|conn| conn.local)
    }

    /// Sockets that are open.
    pub fn connections(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// How many connections did not end as they should, by why.
    pub fn each_counter(&self, give: &mut dyn FnMut(&'static str, u64)) {
        give("violations", self.ends.violations);
        give("terminated", self.ends.terminated);
        give("failed", self.ends.failed);
        give("late", self.ends.late);
    }

    /// Bytes of H2CData that were copied instead of being read into place.
    pub fn copied(&self) -> u64 {
        self.copied
    }

    fn conn(&self, id: ConnId) -> Option<&Conn> {
        find(&self.slots, id)
    }

    fn next(&mut self, room: Room) -> Option<Next> {
        loop {
            if self.staged.is_some() {
                if let Some(next) = self.take(room) {
                    return Some(next);
                }
                continue;
            }
            if !self.closed.is_empty()
                && self.homes.is_empty()
                && let Some(conn) = self.closed.pop_front()
            {
                return Some(Next::Closed(conn));
            }
            if room == Room::Any || (self.retries && room > Room::None) {
                self.retries = false;
                self.look_again(room);
            }
            if let Some(id) = self.ready.pop_front() {
                self.read(id);
            } else if self.looked {
                // After reading: what came in time counts, however late we look.
                self.expire();
                return None;
            } else {
                self.looked = true;
                self.look();
            }
        }
    }

    /// Those that waited for room and may have it now are read, before those that only come now. Where it is little, this is
    /// asked once in a turn.
    fn look_again(&mut self, room: Room) {
        for _ in 0..self.no_room.len() {
            let Some((id, lacked)) = self.no_room.pop_back() else {
                break;
            };
            let goes_on = room == Room::Any
                || find(&self.slots, id).is_none_or(|conn| conn.machine.may_go_on(lacked, room));
            match goes_on {
                true => self.ready.push_front(id),
                false => self.no_room.push_front((id, lacked)),
            }
        }
    }

    /// Who has something to read?
    fn look(&mut self) {
        self.turn = self.turn.wrapping_add(1);
        let direct = self.cold == 0 && !self.hot.is_empty();
        if direct {
            for at in 0..self.hot.len() {
                self.queue(self.hot[at]);
            }
        }
        self.cold = self.cold.saturating_sub(1);
        let others = self.hot.len() < self.connections();
        // Who is to be ended for silence is asked first.
        let due = self
            .next_deadline
            .is_some_and(|deadline| self.now >= deadline);
        if !direct || due || self.blocked > 0 || others && self.turn.is_multiple_of(EPOLL_EVERY) {
            self.ask_epoll();
        }
        self.readers = self.ready.len().max(1);
    }

    /// What one connection may send in a turn. If others are busy, that is what they wait for.
    fn send_max(&self) -> usize {
        let alone = self.cold == 0 && self.hot.len() < 2;
        if alone { ALONE_MAX } else { SHARE.1 }
    }

    fn ask_epoll(&mut self) {
        // Of no connection there is nothing to be told: a node whose hosts come by RDMA alone has none here.
        if self.connections() == 0 {
            return;
        }
        // An error here is EINTR or a mistake of ours; the next turn asks again.
        let Ok(told) = self.epoll.wait(&mut self.events) else {
            return;
        };
        for event in told {
            let id = id_of(event.token);
            let Some(conn) = find_mut(&mut self.slots, id) else {
                continue;
            };
            if event.writable && conn.blocked {
                conn.blocked = false;
                self.blocked -= 1;
                if !conn.dirty {
                    conn.dirty = true;
                    self.dirty.push(id);
                }
            }
            if event.readable || event.ended {
                conn.more = true;
                conn.ended |= event.ended;
                if !self.hot.contains(&id) {
                    self.cold = COLD_TURNS;
                }
                if !conn.queued {
                    conn.queued = true;
                    self.ready.push_back(id);
                }
            }
        }
    }

    fn queue(&mut self, id: ConnId) {
        if let Some(conn) = find_mut(&mut self.slots, id)
            && !conn.queued
        {
            conn.queued = true;
            self.ready.push_back(id);
        }
    }

    /// Reads one connection, once.
    fn read(&mut self, id: ConnId) {
        let Some(conn) = find_mut(&mut self.slots, id) else {
            return;
        };
        match conn.phase {
            Phase::Live => {}
            Phase::Ending => {
                conn.queued = false;
                return;
            }
            Phase::Lingering => return self.discard(id),
        }
        self.commands = 0;
        let have = conn.carry.len();
        if conn.replay {
            conn.replay = false;
            self.staging[..have].copy_from_slice(&conn.carry);
            conn.carry.clear();
            // Usually it holds no more than the beginning of one PDU; a thousand connections that
            // once waited for room must not keep a staging's worth each.
            conn.carry.shrink_to(WHOLE_MAX);
            self.staged = Some((id, 0..have));
            return;
        }
        let left = conn.machine.data_left();
        let large = left.max(conn.machine.expected_each()) >= PLACED_MIN;
        let share = share(large, self.readers, SHARE.1);
        let beside = if large { BESIDE_DATA } else { share };
        let (asked, placed, result) = if left >= PLACED_MIN {
            let staging = &mut self.staging[..BESIDE_DATA];
            conn.read_into_place(share, staging)
        } else {
            let end = (have + beside).min(STAGING_LEN);
            self.staging[..have].copy_from_slice(&conn.carry);
            let space = &mut self.staging[have..end];
            (space.len(), 0, (&conn.socket).read(space))
        };
        match result {
            Ok(0) => self.end(id),
            Ok(count) => {
                conn.more = count == asked || conn.ended;
                conn.misses = 0;
                conn.carry.clear();
                let placed = placed.min(count);
                conn.machine.placed(placed);
                let staged = if placed > 0 { 0 } else { have } + count - placed;
                self.staged = Some((id, 0..staged));
                if self.hot.len() < HOT_MAX && !self.hot.contains(&id) {
                    self.hot.push(id);
                }
            }
            Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => {
                conn.more = false;
                conn.ended = false;
                conn.queued = false;
                conn.misses += 1;
                if conn.misses >= HOT_MISSES {
                    conn.misses = 0;
                    self.hot.retain(|hot| *hot != id);
                }
            }
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => self.later.push(id),
            Err(cause) => {
                log::debug!("connection of {} failed: {cause}", conn.peer);
                self.ends.failed += u64::from(conn.phase == Phase::Live);
                self.end(id);
            }
        }
    }

    /// What is in the bytes of the staging?
    #[inline]
    fn take(&mut self, room: Room) -> Option<Next> {
        let (id, range) = self.staged.as_mut()?;
        let id = *id;
        let Some(conn) = find_mut(&mut self.slots, id) else {
            self.staged = None;
            return None;
        };
        let start = range.start;
        if self.commands == COMMANDS_AT_ONCE && range.start < range.end {
            conn.put_off(&self.staging[range.clone()]);
            self.staged = None;
            self.later.push(id);
            return None;
        }
        let bytes = &self.staging[range.clone()];
        let (used, took) = conn.machine.take(bytes, room);
        range.start += used;
        match took {
            Took::Capsule {
                at,
                data_at,
                data_len,
            } => {
                let data_at = start + data_at;
                let data = data_at..data_at + data_len;
                self.commands += 1;
                return Some(Next::Capsule(id, start + at, data));
            }
            Took::Spoiled { at } => return Some(Next::Spoiled(id, start + at)),
            Took::Filled => return Some(Next::Filled(id)),
            Took::Opened => {
                conn.opened = true;
                self.mark_dirty(id);
                return Some(Next::Opened(id));
            }
            Took::Need(_) => {
                conn.carry.extend_from_slice(&self.staging[range.clone()]);
                self.staged = None;
                self.used_up(id);
            }
            Took::NoRoom => {
                conn.put_off(&self.staging[range.clone()]);
                self.staged = None;
                self.no_room.push_back((id, room));
            }
            Took::Over => {
                self.ends.violations += 1;
                self.begin_ending(id);
            }
            Took::HungUp => {
                self.ends.terminated += 1;
                self.end(id);
            }
        }
        None
    }

    /// Everything that was read is used up, but for the beginning of a PDU.
    fn used_up(&mut self, id: ConnId) {
        let now = self.now;
        let Some(conn) = find_mut(&mut self.slots, id) else {
            return;
        };
        self.copied += conn.machine.take_copied();
        if conn.machine.state() == State::Open {
            // A PDU has its time from its first byte on; one that follows has its own.
            if conn.pdus != conn.machine.pdus() {
                conn.pdus = conn.machine.pdus();
                conn.deadline = None;
            }
            if !conn.machine.is_inside(conn.carry.len()) {
                conn.deadline = None;
            } else if conn.deadline.is_none() {
                let deadline = now.plus_ms(PDU_MS);
                conn.deadline = Some(deadline);
                sooner(&mut self.next_deadline, deadline);
            }
        }
        if conn.more {
            self.later.push(id);
        } else {
            conn.queued = false;
        }
    }

    #[inline]
    fn mark_dirty(&mut self, id: ConnId) {
        if let Some(conn) = find_mut(&mut self.slots, id)
            && !conn.dirty
            && !conn.blocked
        {
            conn.dirty = true;
            self.dirty.push(id);
        }
    }

    /// Sends what waits on one of so many connections, up to its share.
    fn send(&mut self, id: ConnId, senders: usize) {
        let most = self.send_max();
        let Some(conn) = find_mut(&mut self.slots, id) else {
            return;
        };
        conn.dirty = false;
        if conn.blocked {
            return;
        }
        conn.machine.ask();
        let mut share = share(conn.machine.sends_large(), senders, most);
        while conn.machine.to_send() > 0 && share > 0 {
            let mut list = IoList::new(share);
            conn.machine.gather(|piece| list.push(piece));
            let asked = list.len();
            match sys::send(conn.socket.as_fd(), &list) {
                Ok(count) => {
                    share -= count;
                    let homes = &mut self.homes;
                    conn.machine.sent(count, &mut |bufs| homes.push(bufs));
                    if count < asked {
                        return self.block(id);
                    }
                }
                Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => return self.block(id),
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
                Err(cause) => {
                    log::debug!("connection of {} failed: {cause}", conn.peer);
                    self.ends.failed += u64::from(conn.phase == Phase::Live);
                    return self.end(id);
                }
            }
        }
        if conn.machine.to_send() > 0 {
            self.mark_dirty(id);
        } else if conn.phase == Phase::Ending {
            self.begin_lingering(id);
        }
    }

    /// What waits on it is no more than a small command's answer.
    fn has_little(&self, id: ConnId) -> bool {
        find(&self.slots, id).is_some_and(|conn| conn.machine.to_send() <= LARGE)
    }

    fn block(&mut self, id: ConnId) {
        let Some(conn) = find_mut(&mut self.slots, id) else {
            return;
        };
        conn.blocked = true;
        self.blocked += 1;
        if conn.watches_room {
            return;
        }
        conn.watches_room = true;
        if let Err(cause) = self.epoll.add_writable(conn.socket.as_fd(), token_of(id)) {
            log::warn!("connection of {} cannot be watched: {cause}", conn.peer);
            self.end(id);
        }
    }

    /// Nothing is received any more; what waits is sent, and then the connection ends.
    fn begin_ending(&mut self, id: ConnId) {
        self.unstage(id);
        let deadline = self.now.plus_ms(ENDING_MS);
        let Some(conn) = find_mut(&mut self.slots, id) else {
            return;
        };
        conn.phase = Phase::Ending;
        conn.carry = Vec::new();
        conn.replay = false;
        conn.deadline = Some(deadline);
        sooner(&mut self.next_deadline, deadline);
        let homes = &mut self.homes;
        conn.machine.give_up_fetches(&mut |bufs| homes.push(bufs));
        self.mark_dirty(id);
    }

    /// Everything was sent: the engine is told the end, and the host has some time to read it.
    fn begin_lingering(&mut self, id: ConnId) {
        let deadline = self.now.plus_ms(LINGER_MS);
        let lingering = self.lingering;
        let Some(conn) = find_mut(&mut self.slots, id) else {
            return;
        };
        if lingering >= LINGERING_MAX || conn.socket.shutdown(Shutdown::Write).is_err() {
            return self.end(id);
        }
        conn.phase = Phase::Lingering;
        conn.deadline = Some(deadline);
        sooner(&mut self.next_deadline, deadline);
        self.lingering += 1;
        if std::mem::take(&mut conn.opened) {
            self.closed.push_back(id);
        }
        // What it had already sent tells nothing by an edge.
        self.queue(id);
    }

    fn discard(&mut self, id: ConnId) {
        let Some(conn) = find_mut(&mut self.slots, id) else {
            return;
        };
        match (&conn.socket).read(&mut self.staging) {
            Ok(0) => self.end(id),
            Ok(_) => self.later.push(id),
            Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => conn.queued = false,
            Err(_) => self.end(id),
        }
    }

    /// Closes the socket now. All Bufs go home; the engine is told if it knows the connection.
    fn end(&mut self, id: ConnId) {
        let Some(slot) = self.slots.get_mut(id.slot as usize) else {
            return;
        };
        if slot.generation != id.generation {
            return;
        }
        let Some(mut conn) = slot.conn.take() else {
            return;
        };
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(id.slot);
        let homes = &mut self.homes;
        conn.machine.give_up(&mut |bufs| homes.push(bufs));
        self.blocked -= usize::from(conn.blocked);
        self.lingering -= usize::from(conn.phase == Phase::Lingering);
        if conn.opened {
            self.closed.push_back(id);
        }
        self.hot.retain(|hot| *hot != id);
        self.unstage(id);
    }

    /// What was received and not used up is not looked at any more.
    fn unstage(&mut self, id: ConnId) {
        let waiting = self.no_room.len();
        self.no_room.retain(|(waiting, _)| *waiting != id);
        let mut held = self.no_room.len() < waiting;
        if self
            .staged
            .as_ref()
            .is_some_and(|(staged, _)| *staged == id)
        {
            self.staged = None;
            held = true;
        }
        if held && let Some(conn) = find_mut(&mut self.slots, id) {
            conn.queued = false;
        }
    }

    /// Ends connections whose time is over. One that has more to be read is not ended: if we were away
    /// for long, what it had to send in time may be there.
    fn expire(&mut self) {
        let now = self.now;
        if self.next_deadline.is_none_or(|deadline| now < deadline) {
            return;
        }
        self.next_deadline = None;
        for at in 0..self.slots.len() {
            let Some(conn) = &self.slots[at].conn else {
                continue;
            };
            let Some(deadline) = conn.deadline else {
                continue;
            };
            if now < deadline || conn.more && conn.phase == Phase::Live {
                sooner(&mut self.next_deadline, deadline);
            } else {
                log::debug!("{} took too long: {:?}", conn.peer, conn.phase);
                self.ends.late +=
                    u64::from(!matches!(conn.phase, Phase::Ending | Phase::Lingering));
                let id = conn.id;
                self.end(id);
            }
        }
    }
}

impl Fabric for TcpFabric {
    type Incoming = Incoming;

    fn adopt(&mut self, incoming: Incoming, now: Tick) {
        self.now = now;
        let Incoming {
            socket,
            bytes,
            local,
            peer,
        } = incoming;
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot {
                generation: 0,
                conn: None,
            });
            self.slots.len() as u32 - 1
        });
        let id = ConnId {
            slot,
            generation: self.slots[slot as usize].generation,
        };
        let ready =
            listen::prepare(&socket).and_then(|()| self.epoll.add(socket.as_fd(), token_of(id)));
        if let Err(cause) = ready {
            log::debug!("connection of {peer} failed: {cause}");
            self.free.push(slot);
            return;
        }
        let deadline = now.plus_ms(GREETING_MS);
        sooner(&mut self.next_deadline, deadline);
        self.slots[slot as usize].conn = Some(Box::new(Conn {
            id,
            socket,
            machine: Target::new(self.offer),
            replay: !bytes.is_empty(),
            carry: bytes,
            phase: Phase::Live,
            opened: false,
            queued: false,
            dirty: false,
            blocked: false,
            watches_room: false,
            more: true,
            ended: false,
            misses: 0,
            pdus: 0,
            deadline: Some(deadline),
            local,
            peer,
        }));
        self.queue(id);
    }

    #[inline]
    fn poll(&mut self, now: Tick, room: Room) -> Option<Inbound<'_>> {
        self.now = now;
        self.room = room == Room::Any;
        Some(match self.next(room)? {
            Next::Capsule(conn, at, data) => Inbound::Capsule {
                conn,
                sqe: sqe_at(&self.staging, at),
                data: InCapsule::Bytes(&self.staging[data]),
            },
            Next::Spoiled(conn, at) => Inbound::Spoiled {
                conn,
                sqe: sqe_at(&self.staging, at),
            },
            Next::Filled(id) => {
                let conn = find_mut(&mut self.slots, id)?;
                let filled = conn.machine.filled()?;
                if conn.machine.wants_to_ask() {
                    self.mark_dirty(id);
                }
                Inbound::Fetched {
                    conn: id,
                    tag: filled.tag,
                    bufs: filled.bufs,
                    status: filled.status,
                }
            }
            Next::Opened(id) => {
                let conn = find(&self.slots, id)?;
                Inbound::Opened {
                    conn: id,
                    local: conn.local,
                    peer: conn.peer,
                    transport: Transport::Tcp,
                }
            }
            Next::Closed(conn) => Inbound::Closed { conn },
        })
    }

    fn fetch(&mut self, id: ConnId, fetch: Fetch) {
        let back = match live(&mut self.slots, id) {
            Some(conn) => conn.machine.fetch(fetch),
            None => Some(fetch.bufs),
        };
        match back {
            Some(bufs) => self.homes.push(bufs),
            None => self.mark_dirty(id),
        }
    }

    #[inline]
    fn reply(&mut self, id: ConnId, reply: Reply) {
        let back = match live(&mut self.slots, id) {
            Some(conn) => {
                let back = conn.machine.reply(reply);
                self.mark_dirty(id);
                back
            }
            None => Some(reply.bufs),
        };
        if let Some(bufs) = back
            && (!bufs.is_empty() || bufs.capacity() > 1)
        {
            self.homes.push(bufs);
        }
    }

    #[inline]
    fn wants_more(&self, id: ConnId) -> bool {
        self.conn(id).is_none_or(|conn| conn.machine.wants_more())
    }

    fn close(&mut self, id: ConnId, how: Close) {
        if live(&mut self.slots, id).is_none() {
            return;
        }
        match how {
            Close::Now => self.end(id),
            Close::Sent => self.begin_ending(id),
        }
    }

    #[inline]
    fn home(&mut self) -> Option<BufList> {
        self.homes.pop()
    }

    fn flush(&mut self, now: Tick) {
        self.now = now;
        self.looked = false;
        self.retries = true;
        self.ready.extend(self.later.drain(..));
        if self.dirty.is_empty() {
            return;
        }
        let mut sending = std::mem::take(&mut self.sending);
        std::mem::swap(&mut sending, &mut self.dirty);
        let senders = sending.len();
        // Beside large data most of a small answer's time was the wait for its turn; those are hardly later for it.
        let mut others = 0;
        for at in 0..senders {
            let id = sending[at];
            if self.has_little(id) {
                self.send(id, senders);
            } else {
                sending[others] = id;
                others += 1;
            }
        }
        sending.truncate(others);
        for id in sending.drain(..) {
            self.send(id, senders);
        }
        self.sending = sending;
    }

    fn next_timeout(&self) -> Option<Tick> {
        self.next_deadline
    }

    fn has_work(&self) -> bool {
        // Commands that there was no room for keep nobody awake: whatever makes room is work of that turn, after which
        // there is another one.
        self.staged.is_some()
            || !self.ready.is_empty()
            || !self.later.is_empty()
            || (self.room && !self.no_room.is_empty())
            || !self.dirty.is_empty()
            || !self.homes.is_empty()
            || !self.closed.is_empty()
    }
}

/// What a sleeping core waits on: readable when a connection has something for the next turns.
impl AsFd for TcpFabric {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

/// What one of so many connections may read or send in a turn.
#[inline]
fn share(large: bool, sharers: usize, most: usize) -> usize {
    let all = if large {
        LARGE_PER_TURN
    } else {
        SMALL_PER_TURN
    };
    (all / sharers).clamp(SHARE.0, most)
}

fn sooner(deadline: &mut Option<Tick>, other: Tick) {
    *deadline = Some(deadline.map_or(other, |deadline| deadline.min(other)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::sync::Arc;
    use std::time::Duration;

    use ferroce_buf::{Class, Home, Pool, Region, Want};
    use ferroce_engine::limits;
    use ferroce_engine::port::Tag;
    use ferroce_wire::Wire;
    use ferroce_wire::cqe::Cqe;
    use ferroce_wire::fabrics::ConnectCmd;
    use ferroce_wire::num::{U16, U32};
    use ferroce_wire::sqe::Sgl;
    use ferroce_wire::sqe::Sqe;
    use ferroce_wire::status::Status;
    use ferroce_wire::tcp::{
        C2hData, CapsuleCmd, CapsuleResp, Fes, H2cData, IcReq, IcResp, LAST_PDU, PduType, R2t,
        TermReq,
    };

    use crate::common::Patience;
    use crate::tcp::frame::{self, Format};

    const NOW: Tick = Tick(1_000);

    fn pool() -> Pool {
        let classes = [
            Class {
                size: 4096,
                count: 64,
            },
            Class {
                size: 128 * 1024,
                count: 16,
            },
        ];
        let region = Arc::new(Region::map(Pool::bytes(&classes), Want::default()).unwrap());
        Pool::new(region, 0, Home::CORE, &classes)
    }

    /// A fabric, and the other ends of its connections.
    struct Bench {
        fabric: TcpFabric,
        pool: Pool,
        now: Tick,
    }

    /// Owned copies of what was reported.
    #[derive(Debug)]
    enum Seen {
        Opened(ConnId),
        Capsule(ConnId, Sqe, Vec<u8>),
        Spoiled(ConnId, Sqe),
        Fetched(Tag, Vec<u8>, Status),
        Closed(ConnId),
    }

    impl Bench {
        fn new() -> Bench {
            Bench {
                fabric: TcpFabric::new(Offer::default()).unwrap(),
                pool: pool(),
                now: NOW,
            }
        }

        fn connect(&mut self) -> TcpStream {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let host = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            host.set_nodelay(true).unwrap();
            host.set_read_timeout(Some(Duration::from_secs(10)))
                .unwrap();
            let incoming = Incoming::new(listener.accept().unwrap().0).unwrap();
            self.fabric.adopt(incoming, self.now);
            host
        }

        fn turn(&mut self, room: bool) -> Vec<Seen> {
            let room = if room { Room::Any } else { Room::None };
            self.turn_with(room)
        }

        fn turn_with(&mut self, room: Room) -> Vec<Seen> {
            let mut seen = Vec::new();
            while let Some(inbound) = self.fabric.poll(self.now, room) {
                seen.push(match inbound {
                    Inbound::Opened { conn, .. } => Seen::Opened(conn),
                    Inbound::Capsule { conn, sqe, data } => {
                        Seen::Capsule(conn, *sqe, data.bytes().to_vec())
                    }
                    Inbound::Fetched {
                        tag, bufs, status, ..
                    } => {
                        let mut bytes = vec![0; bufs.len()];
                        bufs.copy_out(0, &mut bytes);
                        self.pool.put_all(bufs);
                        Seen::Fetched(tag, bytes, status)
                    }
                    Inbound::Spoiled { conn, sqe } => Seen::Spoiled(conn, *sqe),
                    Inbound::Closed { conn } => Seen::Closed(conn),
                });
            }
            self.fabric.flush(self.now);
            while let Some(bufs) = self.fabric.home() {
                self.pool.put_all(bufs);
            }
            seen
        }

        /// Turns until something is seen.
        fn until_seen(&mut self) -> Seen {
            for _ in 0..2_000_000 {
                let mut seen = self.turn(true);
                assert!(seen.len() <= 1, "one at a time: {seen:?}");
                if let Some(seen) = seen.pop() {
                    return seen;
                }
            }
            panic!("nothing happened");
        }

        fn open(&mut self, dgst: u8) -> (TcpStream, ConnId) {
            let mut host = self.connect();
            let mut bytes = Vec::new();
            frame::put(&mut bytes, IcReq::new(0, dgst, 0), 0, &Format::default());
            host.write_all(&bytes).unwrap();
            let Seen::Opened(conn) = self.until_seen() else {
                panic!("a greeting opens")
            };
            self.turn(true);
            let mut response = [0; IcResp::LEN];
            host.read_exact(&mut response).unwrap();
            assert_eq!(response[..8], [1, 0, 128, 0, 128, 0, 0, 0]);
            assert_eq!(response[11], dgst);
            (host, conn)
        }

        fn bufs(&mut self, lens: &[usize], fill: u8) -> BufList {
            let mut bufs = BufList::new();
            for len in lens {
                let mut buf = self.pool.take(*len).unwrap();
                buf.bytes_mut().fill(fill);
                bufs.push(buf);
            }
            bufs
        }
    }

    fn capsule(cid: u16, data: &[u8]) -> Vec<u8> {
        command(Sqe::new(1).with_ids(cid, 1), data)
    }

    fn command(sqe: Sqe, data: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let pdu = CapsuleCmd {
            sqe,
            ..CapsuleCmd::default()
        };
        frame::put(&mut bytes, pdu, data.len(), &Format::default());
        bytes.extend_from_slice(data);
        bytes
    }

    fn reply(cid: u16, bufs: BufList, elide: bool) -> Reply {
        Reply {
            cid,
            sgl: Sgl::NONE,
            offset: 0,
            bufs,
            last: true,
            cqe: Some(Cqe::new(cid, Status::SUCCESS)),
            may_elide_cqe: elide,
        }
    }

    fn read_head<P: Wire>(host: &mut TcpStream) -> P {
        let mut bytes = vec![0; P::LEN];
        host.read_exact(&mut bytes).unwrap();
        P::read(&bytes).unwrap()
    }

    const TAG: Tag = Tag {
        slot: 3,
        generation: 9,
    };

    #[test]
    fn of_many_commands_some_are_taken_each_turn_in_order() {
        let mut bench = Bench::new();
        let (mut host, conn) = bench.open(0);
        let (mut other, _) = bench.open(0);
        // Of the last one only the beginning comes at first.
        let all: Vec<u8> = (0..80).flat_map(|cid| capsule(cid, &[])).collect();
        let (first, rest) = all.split_at(all.len() - 10);
        let mut rest = Some(rest);
        host.write_all(first).unwrap();
        other.write_all(&capsule(100, &[])).unwrap();
        let mut cids = Vec::new();
        let mut turns = Vec::new();
        for _ in 0..2_000_000 {
            let seen = bench.turn(true);
            let of_conn = seen.iter().filter_map(|one| match one {
                Seen::Capsule(id, sqe, _) if *id == conn => Some(sqe.cid.get()),
                _ => None,
            });
            let before = cids.len();
            cids.extend(of_conn);
            if cids.len() > before {
                turns.push(cids.len() - before);
            }
            match cids.len() {
                79 => rest.take().map_or((), |rest| host.write_all(rest).unwrap()),
                80 => break,
                _ => {}
            }
        }
        assert_eq!(cids, (0..80).collect::<Vec<u16>>());
        let most = COMMANDS_AT_ONCE as usize;
        assert!(turns.iter().all(|count| *count <= most), "{turns:?}");
        assert!(!bench.fabric.has_work(), "nothing is left over");
    }

    #[test]
    fn who_has_little_to_send_goes_first() {
        let mut bench = Bench::new();
        let (_much_host, much) = bench.open(0);
        let (_little_host, little) = bench.open(0);
        for cid in 0..5 {
            let bufs = bench.bufs(&[4096], 0xAA);
            bench.fabric.reply(much, reply(cid, bufs, true));
        }
        let bufs = bench.bufs(&[4096], 0xBB);
        bench.fabric.reply(little, reply(9, bufs, true));
        bench.fabric.flush(NOW);
        let homes = std::mem::take(&mut bench.fabric.homes);
        let sent: Vec<u8> = homes
            .iter()
            .flat_map(BufList::iter)
            .map(|buf| buf.bytes()[0])
            .collect();
        homes.into_iter().for_each(|bufs| bench.pool.put_all(bufs));
        assert_eq!(sent, [0xBB, 0xAA, 0xAA, 0xAA, 0xAA, 0xAA]);
    }

    #[test]
    fn small_commands_may_move_more_in_a_turn_than_large_ones() {
        let mut bench = Bench::new();
        let (_host, conn) = bench.open(0);
        let large = |bench: &Bench| {
            find(&bench.fabric.slots, conn)
                .unwrap()
                .machine
                .sends_large()
        };
        assert!(!large(&bench), "nothing waits");
        for cid in 0..8 {
            let bufs = bench.bufs(&[4096; 4], 1);
            bench.fabric.reply(conn, reply(cid, bufs, true));
        }
        assert!(!large(&bench), "reads of 16 KiB");
        let bufs = bench.bufs(&[128 * 1024], 1);
        bench.fabric.reply(conn, reply(9, bufs, true));
        assert!(large(&bench), "one of 128 KiB among them");
        bench.fabric.close(conn, Close::Now);
        bench.turn(true);
        assert_eq!(bench.pool.out(), 0);

        assert_eq!(share(false, 16, SHARE.1), 2 * share(true, 16, SHARE.1));
        assert_eq!(share(true, 1, ALONE_MAX), LARGE_PER_TURN);
        assert_eq!(share(false, 1, SHARE.1), SHARE.1);
        assert_eq!(share(false, 1000, SHARE.1), SHARE.0);
    }

    #[test]
    fn a_read_and_a_write_travel() {
        let mut bench = Bench::new();
        let (mut host, conn) = bench.open(0);
        host.write_all(&capsule(7, b"hello")).unwrap();
        let Seen::Capsule(from, sqe, data) = bench.until_seen() else {
            panic!("a capsule")
        };
        assert_eq!((from, sqe.cid.get(), &data[..]), (conn, 7, &b"hello"[..]));

        let bufs = bench.bufs(&[4096, 512], 0xAB);
        bench.fabric.reply(conn, reply(7, bufs, false));
        bench.turn(true);
        let pdu: C2hData = read_head(&mut host);
        assert_eq!(
            (pdu.ch.flags, pdu.datal.get(), pdu.cccid.get()),
            (LAST_PDU, 4608, 7)
        );
        let mut data = vec![0; 4608];
        host.read_exact(&mut data).unwrap();
        assert!(data.iter().all(|byte| *byte == 0xAB));
        let response: CapsuleResp = read_head(&mut host);
        assert_eq!(response.cqe.cid.get(), 7);
        bench.turn(true);
        assert_eq!(bench.pool.out(), 0);

        // Two fetches of one command: one R2T, two reports.
        for part in 0..2u32 {
            let bufs = bench.bufs(&[128 * 1024], 0);
            let fetch = Fetch {
                tag: Tag { slot: part, ..TAG },
                cid: 8,
                sgl: Sgl::NONE,
                offset: part * 128 * 1024,
                bufs,
            };
            bench.fabric.fetch(conn, fetch);
        }
        bench.turn(true);
        let r2t: R2t = read_head(&mut host);
        assert_eq!((r2t.r2to.get(), r2t.r2tl.get()), (0, 256 * 1024));
        let data: Vec<u8> = (0..256 * 1024).map(|i: u32| (i / 7) as u8).collect();
        let mut bytes = Vec::new();
        let mut pdu = H2cData {
            cccid: U16::new(8),
            ttag: r2t.ttag,
            datal: U32::new(256 * 1024),
            ..H2cData::default()
        };
        pdu.ch.flags = LAST_PDU;
        frame::put(&mut bytes, pdu, data.len(), &Format::default());
        bytes.extend_from_slice(&data);
        let sender = std::thread::spawn(move || {
            host.write_all(&bytes).unwrap();
            host
        });
        for part in 0..2usize {
            let Seen::Fetched(tag, bytes, status) = bench.until_seen() else {
                panic!("data")
            };
            assert_eq!((tag.slot as usize, status), (part, Status::SUCCESS));
            assert!(bytes == data[part * 128 * 1024..][..128 * 1024]);
        }
        assert!(
            bench.fabric.copied() < 64 * 1024,
            "{}",
            bench.fabric.copied()
        );
        drop(sender.join().unwrap());
        assert!(matches!(bench.until_seen(), Seen::Closed(_)));
        assert_eq!(bench.pool.out(), 0);
        assert_eq!(bench.fabric.connections(), 0);
    }

    #[test]
    fn nonsense_is_answered_and_the_connection_ends() {
        let mut bench = Bench::new();
        let (mut host, _) = bench.open(0);
        host.write_all(&[0x55; 64]).unwrap();
        assert!(matches!(bench.until_seen(), Seen::Closed(_)));
        let term: TermReq = read_head(&mut host);
        assert_eq!(term.ch.type_, PduType::C2H_TERM_REQ);
        assert_eq!(
            (term.fes(), term.fei.get()),
            (Fes::INVALID_PDU_HEADER_FIELD, 0)
        );
        let mut rest = Vec::new();
        host.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, [0x55; 64]);
        drop(host);
        for _ in 0..1000 {
            bench.turn(true);
            if bench.fabric.connections() == 0 {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("the connection lingers though the host is gone");
    }

    #[test]
    fn without_room_a_command_waits_and_others_go_on() {
        let mut bench = Bench::new();
        let (mut one, first) = bench.open(0);
        let (mut two, second) = bench.open(0);
        let mut bytes = capsule(1, b"");
        bytes.extend(capsule(2, &[7; 3000]));
        bytes.extend(&capsule(3, b"")[..50]);
        one.write_all(&bytes).unwrap();
        for _ in 0..100 {
            assert!(bench.turn(false).is_empty());
        }
        assert!(!bench.fabric.has_work(), "it would keep its core awake");
        drop(two);
        let patience = Patience::begin();
        let closed = loop {
            patience.holds("the end of the other");
            let mut seen = bench.turn(false);
            if let Some(seen) = seen.pop() {
                break seen;
            }
        };
        assert!(matches!(closed, Seen::Closed(conn) if conn == second));
        let mut cids = Vec::new();
        one.write_all(&capsule(3, b"")[50..]).unwrap();
        while cids.len() < 3 {
            patience.holds("three commands");
            for seen in bench.turn(true) {
                let Seen::Capsule(conn, sqe, data) = seen else {
                    panic!("{seen:?}")
                };
                assert_eq!(conn, first);
                assert_eq!(data.len(), if sqe.cid.get() == 2 { 3000 } else { 0 });
                cids.push(sqe.cid.get());
            }
        }
        assert_eq!(cids, [1, 2, 3]);
        two = bench.connect();
        drop(two);
    }

    #[test]
    fn where_there_is_little_room_those_with_few_commands_have_it() {
        let mut bench = Bench::new();
        let (mut one, first) = bench.open(0);
        let (mut two, _) = bench.open(0);
        let few = limits::FEW as u16;
        let many = 3 * few;
        // It takes room where the queue is one for I/O: what others bring is not kept.
        let connect = |cid| {
            let connect = ConnectCmd::new(1, 31, 0, 0, Sgl::NONE).to_sqe();
            let sqe = Sqe {
                cid: U16::new(cid),
                ..connect
            };
            command(sqe, &[1; 1024])
        };
        let write = |cid| {
            let sgl = Sgl::in_capsule(0, 3000);
            command(Sqe::new(1).with_ids(cid, 1).with_sgl(sgl), &[7; 3000])
        };
        // Those without such data may wait for theirs behind one that waits, and do not count.
        let mut bytes = connect(0);
        (1..=many).for_each(|cid| bytes.extend(capsule(cid, b"")));
        (many + 1..=many + few).for_each(|cid| bytes.extend(write(cid)));
        let waits = many + few + 1;
        bytes.extend(write(waits));
        bytes.extend(capsule(waits + 1, b""));
        one.write_all(&bytes).unwrap();
        bytes = connect(1000);
        bytes.extend(write(1001));
        bytes.extend(capsule(1002, b""));
        two.write_all(&bytes).unwrap();
        let cids = |seen: Vec<Seen>| -> Vec<u16> {
            let cid = |seen: &Seen| match seen {
                Seen::Capsule(_, sqe, _) => sqe.cid.get(),
                other => panic!("{other:?}"),
            };
            seen.iter().map(cid).collect()
        };
        // What is behind a command that waits does so, too.
        let patience = Patience::begin();
        let mut seen = Vec::new();
        while seen.len() < usize::from(waits) + 3 {
            patience.holds("what there is room for");
            seen.extend(cids(bench.turn_with(Room::Few)));
        }
        seen.sort_unstable();
        assert!(seen.into_iter().eq((0..waits).chain([1000, 1001, 1002])));
        for _ in 0..100 {
            assert_eq!(cids(bench.turn_with(Room::Few)), []);
            assert_eq!(cids(bench.turn_with(Room::Bare)), []);
        }
        assert!(!bench.fabric.has_work(), "it would keep its core awake");
        // Once one of those is answered, it has few of them.
        bench.fabric.reply(first, reply(1, BufList::new(), false));
        assert_eq!(cids(bench.turn_with(Room::Few)), []);
        let answer = Reply {
            sgl: Sgl::in_capsule(0, 3000),
            ..reply(many + 1, BufList::new(), false)
        };
        bench.fabric.reply(first, answer);
        assert_eq!(cids(bench.turn_with(Room::Bare)), []);
        assert_eq!(cids(bench.turn_with(Room::Few)), [waits, waits + 1]);
    }

    #[test]
    fn a_slow_host_blocks_only_itself_and_everything_arrives() {
        let mut bench = Bench::new();
        let (mut slow, conn) = bench.open(0);
        let mut replies = 0;
        while bench.fabric.wants_more(conn) && replies < 400 {
            let bufs = bench.bufs(&[128 * 1024], replies as u8);
            bench.fabric.reply(conn, reply(replies, bufs, true));
            replies += 1;
            bench.turn(true);
        }
        assert!(!bench.fabric.wants_more(conn));
        for _ in 0..20 {
            bench.turn(true);
        }
        assert!(!bench.fabric.has_work(), "a blocked socket is no work");
        let (mut quick, other) = bench.open(0);
        let bufs = bench.bufs(&[4096], 1);
        bench.fabric.reply(other, reply(1, bufs, true));
        bench.turn(true);
        let pdu: C2hData = read_head(&mut quick);
        assert!(pdu.ch.is_success());

        bench.fabric.close(conn, Close::Sent);
        let reader = std::thread::spawn(move || {
            for cid in 0..replies {
                let pdu: C2hData = read_head(&mut slow);
                assert_eq!(pdu.cccid.get(), cid);
                let mut data = vec![0; 128 * 1024];
                slow.read_exact(&mut data).unwrap();
                assert!(data.iter().all(|byte| *byte == cid as u8));
            }
            assert_eq!(slow.read(&mut [0]).unwrap(), 0);
        });
        assert!(matches!(bench.until_seen(), Seen::Closed(id) if id == conn));
        reader.join().unwrap();
        assert_eq!(bench.pool.out(), 0);
    }

    #[test]
    fn silence_in_the_greeting_and_inside_a_pdu_ends_but_idle_may_stay() {
        let mut bench = Bench::new();
        let (_idle, _) = bench.open(0);
        let (mut inside, stuck) = bench.open(0);
        inside.write_all(&capsule(1, b"")[..71]).unwrap();
        let _silent = bench.connect();
        std::thread::sleep(Duration::from_millis(20));
        bench.turn(true);
        bench.turn(true);
        assert_eq!(bench.fabric.connections(), 3);
        let first = bench.fabric.next_timeout().unwrap();
        bench.now = first.max(NOW.plus_ms(GREETING_MS));
        bench.turn(true);
        assert_eq!(bench.fabric.connections(), 2);
        bench.now = NOW.plus_ms(PDU_MS);
        assert!(matches!(bench.until_seen(), Seen::Closed(conn) if conn == stuck));
        assert_eq!(bench.fabric.connections(), 1);
        assert_eq!(bench.fabric.next_timeout(), None);
        bench.now = bench.now.plus_ms(1_000_000);
        assert!(bench.turn(true).is_empty());
    }

    #[test]
    fn bytes_read_before_the_hand_over_count() {
        let mut bench = Bench::new();
        let listener = TcpListener::bind("[::1]:0").or_else(|_| TcpListener::bind("127.0.0.1:0"));
        let listener = listener.unwrap();
        let mut host = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut incoming = Incoming::new(listener.accept().unwrap().0).unwrap();
        frame::put(
            &mut incoming.bytes,
            IcReq::new(0, 0, 0),
            0,
            &Format::default(),
        );
        let rest = incoming.bytes.split_off(100);
        let peer = incoming.peer;
        bench.fabric.adopt(incoming, NOW);
        assert!(bench.turn(true).is_empty());
        host.write_all(&rest).unwrap();
        let Seen::Opened(conn) = bench.until_seen() else {
            panic!("opened")
        };
        assert_eq!(bench.fabric.peer(conn), Some(peer));
        bench.fabric.close(conn, Close::Now);
        assert!(matches!(bench.until_seen(), Seen::Closed(_)));
        assert_eq!(bench.fabric.peer(conn), None);
        // Late calls are ignored, and what they brought comes home.
        let bufs = bench.bufs(&[4096], 0);
        bench.fabric.reply(conn, reply(1, bufs, false));
        assert_eq!(bench.pool.out(), 1);
        bench.turn(true);
        assert_eq!(bench.pool.out(), 0);
    }

    #[test]
    fn many_connections_are_all_served() {
        let mut bench = Bench::new();
        let mut hosts: Vec<_> = (0..40).map(|_| bench.open(0)).collect();
        for round in 0..20u16 {
            for (host, _) in &mut hosts {
                host.write_all(&capsule(round, &[1; 100])).unwrap();
            }
            let mut seen = 0;
            let mut turns = 0;
            while seen < hosts.len() {
                seen += bench.turn(true).len();
                turns += 1;
                assert!(turns < 1_000_000);
            }
        }
    }

    #[test]
    fn who_is_alone_may_send_more_and_who_has_company_may_not() {
        let mut bench = Bench::new();
        let ask = |bench: &mut Bench, host: &mut TcpStream| {
            host.write_all(&capsule(1, b"")).unwrap();
            let seen = bench.until_seen();
            assert!(matches!(seen, Seen::Capsule(..)));
        };
        let (mut first, _) = bench.open(0);
        for _ in 0..COLD_TURNS {
            ask(&mut bench, &mut first);
        }
        assert_eq!(bench.fabric.send_max(), ALONE_MAX);
        let (mut second, _) = bench.open(0);
        for _ in 0..COLD_TURNS {
            ask(&mut bench, &mut first);
            assert_eq!(bench.fabric.send_max(), SHARE.1);
            ask(&mut bench, &mut second);
            assert_eq!(bench.fabric.send_max(), SHARE.1);
        }
        // One that is silent does not count for ever.
        for _ in 0..=HOT_MISSES {
            ask(&mut bench, &mut second);
        }
        assert_eq!(bench.fabric.send_max(), ALONE_MAX);
    }

    #[test]
    fn a_spoiled_capsule_is_told_apart() {
        let mut bench = Bench::new();
        let (mut host, conn) = bench.open(2);
        let mut bytes = Vec::new();
        let pdu = CapsuleCmd {
            sqe: Sqe::new(1).with_ids(9, 1),
            ..CapsuleCmd::default()
        };
        let digests = frame::Digests::from_dgst(2);
        frame::put(&mut bytes, pdu, 3, &Format::new(digests, 0).unwrap());
        bytes.extend_from_slice(b"abc\0\0\0\0");
        host.write_all(&bytes).unwrap();
        let Seen::Spoiled(from, sqe) = bench.until_seen() else {
            panic!("the digest does not match")
        };
        assert_eq!((from, sqe.cid.get()), (conn, 9));
    }

    #[test]
    fn without_connections_it_asks_the_system_nothing() {
        let mut bench = Bench::new();
        let (mut there, here) = std::os::unix::net::UnixStream::pair().unwrap();
        bench.fabric.epoll.add(here.as_fd(), 7).unwrap();
        there.write_all(b"x").unwrap();
        bench.turn(true);
        // An edge is told once, so nobody has asked for it.
        let mut events = Events::new(1);
        assert_eq!(bench.fabric.epoll.wait(&mut events).unwrap().count(), 1);
        assert_eq!(bench.fabric.epoll.wait(&mut events).unwrap().count(), 0);
    }

    #[test]
    fn who_sleeps_on_it_wakes_for_bytes_and_for_room_and_for_nothing_else() {
        /// What a core sees that adds the fabric to its own epoll and looks.
        fn awake(bench: &Bench) -> bool {
            let outer = Epoll::new().unwrap();
            outer.add(bench.fabric.as_fd(), 0).unwrap();
            outer.wait(&mut Events::new(1)).unwrap().count() > 0
        }
        fn eventually_awake(bench: &Bench) -> bool {
            (0..2000).any(|_| {
                std::thread::sleep(Duration::from_millis(1));
                awake(bench)
            })
        }
        let mut bench = Bench::new();
        let (mut host, conn) = bench.open(0);
        let _idle = bench.open(0);
        for round in 0..20 {
            // After so many turns that every kind of turn was among them.
            for _ in 0..round {
                bench.turn(true);
            }
            host.write_all(&capsule(round, b"")).unwrap();
            assert!(eventually_awake(&bench));
            assert!(matches!(bench.until_seen(), Seen::Capsule(..)));
            assert!(!awake(&bench) && !bench.fabric.has_work());
        }
        let mut replies = 0;
        while bench.fabric.wants_more(conn) && replies < 400 {
            let bufs = bench.bufs(&[128 * 1024], 1);
            bench.fabric.reply(conn, reply(replies, bufs, true));
            replies += 1;
            bench.turn(true);
        }
        for _ in 0..10 {
            bench.turn(true);
        }
        assert!(!awake(&bench) && !bench.fabric.has_work());
        let mut data = vec![0; 1 << 20];
        host.read_exact(&mut data).unwrap();
        host.read_exact(&mut data).unwrap();
        assert!(eventually_awake(&bench), "the host made room");
        bench.fabric.close(conn, Close::Now);
        bench.turn(true);
        bench.turn(true);
        assert_eq!(bench.pool.out(), 0);
    }

    /// Hosts and engine do what they like, in any order, and end whenever they like.
    #[test]
    fn whatever_ends_when_every_buf_comes_home_and_each_end_is_told_once() {
        for seed in 0..40 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut bench = Bench::new();
            let mut hosts: Vec<Option<TcpStream>> = Vec::new();
            let mut open: Vec<ConnId> = Vec::new();
            let mut known: Vec<ConnId> = Vec::new();
            let (mut opened, mut closed) = (0, 0);
            for step in 0..300 {
                match random.u8(0..10) {
                    0 if hosts.len() < 12 => {
                        let mut host = bench.connect();
                        let mut bytes = Vec::new();
                        frame::put(&mut bytes, IcReq::new(0, 0, 0), 0, &Format::default());
                        host.write_all(&bytes).unwrap();
                        host.set_nonblocking(true).unwrap();
                        hosts.push(Some(host));
                    }
                    1 if !hosts.is_empty() => {
                        let at = random.usize(..hosts.len());
                        hosts[at] = None;
                    }
                    2..5 => {
                        for host in hosts.iter_mut().flatten() {
                            let bytes = match random.u8(0..20) {
                                0 => vec![0xAA; 40],
                                1 => capsule(1, b"cut")[..70].to_vec(),
                                _ => capsule(random.u16(..), &[1; 300]),
                            };
                            // A connection that is gone, or full, is as good as any.
                            let _ = host.write(&bytes);
                        }
                    }
                    5 if !known.is_empty() => {
                        let conn = known[random.usize(..known.len())];
                        let how = if random.bool() {
                            Close::Now
                        } else {
                            Close::Sent
                        };
                        bench.fabric.close(conn, how);
                    }
                    6 | 7 if !known.is_empty() && bench.pool.free(128 * 1024) > 2 => {
                        let conn = known[random.usize(..known.len())];
                        let bufs = bench.bufs(&[100, 128 * 1024], 3);
                        bench.fabric.reply(conn, reply(1, bufs, random.bool()));
                    }
                    8 if !known.is_empty() && bench.pool.free(1) > 2 => {
                        let conn = known[random.usize(..known.len())];
                        let bufs = bench.bufs(&[100], 0);
                        let fetch = Fetch {
                            tag: TAG,
                            cid: random.u16(0..3),
                            sgl: Sgl::NONE,
                            offset: step * 1000,
                            bufs,
                        };
                        bench.fabric.fetch(conn, fetch);
                    }
                    _ => {
                        for host in hosts.iter_mut().flatten() {
                            let _ = host.read(&mut [0; 50_000]);
                        }
                    }
                }
                let room = random.bool();
                for seen in bench.turn(room) {
                    match seen {
                        Seen::Opened(conn) => {
                            opened += 1;
                            open.push(conn);
                            known.push(conn);
                        }
                        Seen::Closed(conn) => {
                            closed += 1;
                            let at = open.iter().position(|open| *open == conn);
                            open.swap_remove(at.expect("told once, and only what was opened"));
                        }
                        Seen::Capsule(conn, ..) | Seen::Spoiled(conn, _) => {
                            assert!(open.contains(&conn));
                        }
                        Seen::Fetched(..) => {}
                    }
                }
            }
            drop(hosts);
            for _ in 0..100_000 {
                closed += bench
                    .turn(true)
                    .iter()
                    .filter(|seen| matches!(seen, Seen::Closed(_)))
                    .count();
                if bench.fabric.connections() == 0 && closed == opened {
                    break;
                }
            }
            assert_eq!(
                (closed, bench.fabric.connections()),
                (opened, 0),
                "seed {seed}"
            );
            assert_eq!(bench.pool.out(), 0, "seed {seed}");
            assert!(!bench.fabric.has_work() && bench.fabric.blocked == 0);
            assert_eq!(bench.fabric.lingering, 0);
        }
    }
}
