//! One core's queue pairs: what is posted, what completes, and how each of them begins and ends.
//!
//! Everything that takes its time is asked of the set-up threads and comes back as mail. While a queue pair is being
//! made, its RECVs wait here.

mod keys;
mod life;
mod provider;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use ferroce_buf::{Buf, BufList};
use ferroce_engine::port::Tick;
use rdma_sys as sys;
use sys::{ibv_wc_status as status, ibv_wr_opcode as opcode};

use super::cm::{Job, Mail, Shared, VerbsIncoming};
use super::conn::Conn;
use super::device::Device;
use super::queue::{CoreShared, Cq, Cqs, Kind, Made, Plan, Takes, Work, WrId};
use crate::rdma::provider::{
    Access, Answer, Demand, Dial, DialError, Event, HEAD_LEN, Incoming as _, Limits, Message,
    PrivateData, Provider, QpId, Read, Remote, WcStatus, Why,
};
use keys::Keys;

/// Completions taken out at a time.
const BATCH: usize = 32;
/// Events of a turn, at most.
const EVENTS_PER_TURN: u32 = 256;
/// Bufs of a work request, if the device takes as many. More make every entry of the send queue longer.
const SGES_MAX: u32 = 16;
/// Work requests that wait, at most, for others of the same turn: each post is a system call of soft-RoCE's and a doorbell of a
/// NIC's, and what a peer gets together it handles together.
const WAITING_MAX: usize = 32;
/// Work requests of two chains of 128 KiB in pages that do not start with one, for the fewest SGEs there are.
const SENDS_MIN: u32 = 2 * (33 + 1);
/// What was posted comes back soon after the connection ended. A queue pair whose device does not say so is destroyed
/// after this time, in ns, which has the same effect.
const DRAIN_NS: u64 = 1_000_000_000;
/// How often a revoked key is looked for at most before the queue pair is stopped instead.
const REVOKE_LOOKS: u32 = 1_000_000;
/// Two warnings are at least so far apart.
const WARN_EVERY_NS: u64 = 10_000_000_000;
/// Who armed more often than this and found no completion since was woken by mail, a timer, a drive, or by a word that nobody
/// read, as that of a completion that went with its queue pair.
const IDLE_ARMS: u32 = 2;
/// Batches of completions looked at out of turn.
const LOOK_BATCHES: u32 = 16;
/// Bytes of a message. Devices carry more; nobody here needs more.
const MESSAGE_LEN: u32 = 4 << 20;
/// Flag of a work completion: `invalidated_rkey` is set (IBV_WC_WITH_INV).
const WITH_INV: u32 = 8;
/// The same flag as the kernel has it (IB_WC_WITH_INVALIDATE), which rxe hands through.
const WITH_INV_SOFT: u32 = 4;

/// The queue pairs of one core on RDMA devices.
#[derive(Debug)]
pub struct VerbsProvider {
    shared: Arc<Shared>,
    core: Arc<CoreShared>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    cqs: Vec<Polled>,
    /// Which of them is polled first.
    next_cq: usize,
    keys: Keys,
    completions: Completions,
    events: VecDeque<Event>,
    /// Slots of queue pairs that are over, and not gone.
    ending: Vec<u32>,
    scratch: Scratch,
    left_in_turn: u32,
    /// The turn ended before everything was looked at.
    cut: bool,
    /// What is posted to send queues and not known to be done, and how much of it are READs.
    sends: u32,
    reads: u32,
    /// How often it was armed since completions came out.
    idle_arms: u32,
    now: Tick,
    /// When it was warned of a queue pair that could not be made.
    warned: Option<Tick>,
    counters: Counters,
}

/// A completion queue, and what it is to tell.
#[derive(Debug)]
struct Polled {
    cq: Arc<Cq>,
    word: Word,
}

/// Whether a completion queue tells of its next completion, by a word in its channel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Word {
    /// It does not.
    None,
    /// It does.
    Asked,
    /// It was asked to, and completions came out since. If they came after it was asked, the word is in the channel, or on its
    /// way; else it comes with the next completion. So it tells in any case, and need not be asked again before the word was read.
    Given,
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    qp: Option<Box<Qp>>,
}

/// Completions that were taken out and not looked at.
struct Completions {
    all: Vec<sys::ibv_wc>,
    at: usize,
    count: usize,
}

impl std::fmt::Debug for Completions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Completions({} of {})", self.at, self.count)
    }
}

/// What waits to be posted at once, all of one queue pair.
#[derive(Default)]
struct Scratch {
    qp: Option<QpId>,
    wrs: Vec<Work>,
    sges: Vec<sys::ibv_sge>,
    /// How many chains, READs and messages that is.
    things: usize,
}

// SAFETY: its pointers are written and used within one call of `post_waiting`; between calls nobody reads them.
unsafe impl Send for Scratch {}

impl std::fmt::Debug for Scratch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Scratch")
    }
}

#[derive(Debug, Default)]
struct Counters {
    connections: u64,
    refused: u64,
    failed: u64,
    flushed: u64,
    remote_access: u64,
    retries_exceeded: u64,
    violations: u64,
    stale: u64,
    slow_drains: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// A set-up thread makes it.
    Making,
    /// It is made; the connection is not established.
    Made,
    Up,
    /// It ended, or is to: nothing is posted any more, and what was comes back.
    Ending {
        /// The queue pair is in its error state, as far as we know.
        stopped: bool,
        since: Tick,
    },
    Destroying,
    /// Nothing of it is left but completions that nobody has taken out.
    Destroyed,
}

#[derive(Debug)]
struct Qp {
    id: QpId,
    conn: Arc<Conn>,
    stage: Stage,
    /// `Disconnected` was reported, or `close` called.
    told: bool,
    /// A set-up thread was asked to put it into its error state.
    stopping: bool,
    violated: bool,
    /// The core put it into its error state by itself.
    in_error: bool,
    made: Option<Box<Made>>,
    /// A set-up thread said what came of making it.
    was_made: bool,
    /// The completion queues, until their entries are given back.
    cqs: Option<Cqs>,
    /// `accept` was called before it was made.
    accept: Option<PrivateData>,
    plan: Plan,
    limits: Limits,
    local: SocketAddr,
    peer: SocketAddr,
    private: PrivateData,
    /// RECVs in the order of posting. Each has the slab's entry of its number.
    recvs: VecDeque<Option<Buf>>,
    recvs_begun: u32,
    recvs_done: u32,
    /// What was posted to the send queue, in order.
    sends: VecDeque<Posted>,
    sends_begun: u64,
    grants: Vec<Grant>,
}

/// Something posted, until its last work request completed.
#[derive(Debug)]
struct Posted {
    index: u32,
    what: What,
    tag: u32,
    bufs: BufList,
    /// A work request before the last one failed.
    failed: Option<WcStatus>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum What {
    Send,
    Read,
    /// Binds of windows complete only if they fail.
    Bind,
    Invalidate,
}

/// A window and what it shows.
#[derive(Debug)]
struct Grant {
    key: u32,
    valid: bool,
    bufs: Option<BufList>,
}

/// Queue pairs of a core: as many as their numbers have room for.
const QPS_MAX: usize = 1 << 16;

impl VerbsProvider {
    pub(super) fn new(shared: Arc<Shared>) -> io::Result<VerbsProvider> {
        let core = shared.add_core()?;
        Ok(VerbsProvider {
            core,
            shared,
            slots: Vec::new(),
            free: Vec::new(),
            cqs: Vec::new(),
            next_cq: 0,
            keys: Keys::default(),
            completions: Completions {
                // SAFETY: plain data, which polling fills.
                all: (0..BATCH).map(|_| unsafe { std::mem::zeroed() }).collect(),
                at: 0,
                count: 0,
            },
            events: VecDeque::with_capacity(256),
            ending: Vec::new(),
            scratch: Scratch::default(),
            left_in_turn: EVENTS_PER_TURN,
            cut: false,
            sends: 0,
            reads: 0,
            idle_arms: 0,
            now: Tick::default(),
            warned: None,
            counters: Counters::default(),
        })
    }

    /// An epoll with all there is to wake up for, which nobody waits on unless he wants to sleep: [`Provider::fd`].
    pub fn epoll(&self) -> BorrowedFd<'_> {
        self.core.epoll.as_fd()
    }

    #[inline]
    fn qp(&self, qp: QpId) -> &Qp {
        let slot = self.slots.get(qp.slot as usize);
        slot.and_then(|slot| slot.qp.as_deref())
            .filter(|found| found.id == qp)
            .expect("the queue pair is not gone")
    }

    #[inline]
    fn qp_mut(&mut self, qp: QpId) -> &mut Qp {
        find(&mut self.slots, qp).expect("the queue pair is not gone")
    }

    fn place(&mut self) -> Option<QpId> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None if self.slots.len() < QPS_MAX => {
                self.slots.push(Slot {
                    generation: 0,
                    qp: None,
                });
                self.slots.len() as u32 - 1
            }
            None => return None,
        };
        Some(QpId {
            slot,
            generation: self.slots[slot as usize].generation,
        })
    }

    /// What a queue pair for this demand on that device is like, if the device can do it.
    fn plan(device: &Device, demand: &Demand, host: bool) -> Result<Plan, String> {
        let ability = &device.ability;
        let windows = if host { demand.recvs } else { 0 };
        let most = ability.qp_wrs.saturating_sub(2 * windows);
        if demand.recvs > ability.qp_wrs || most < SENDS_MIN || ability.sges < 2 {
            return Err(format!(
                "{}: {} receives and {SENDS_MIN} sends of 2 pieces are needed, and its queues have {} entries of {} pieces",
                device.name, demand.recvs, ability.qp_wrs, ability.sges
            ));
        }
        if demand.reads > 0 && ability.reads_out == 0 {
            return Err(format!(
                "{} reads no memory of its peers, by which data is fetched",
                device.name
            ));
        }
        if host && !ability.windows {
            return Err(format!(
                "{} has no memory windows of type 2, by which a host grants its memory",
                device.name
            ));
        }
        let small = |count: u32| count.min(255) as u8;
        Ok(Plan {
            recvs: demand.recvs,
            recv_sges: 1 + u32::from(demand.recv_data > 0),
            sends: demand.sends.clamp(SENDS_MIN, most),
            sges: ability.sges.min(SGES_MAX),
            windows,
            reads_out: small(demand.reads.min(ability.reads_out)),
            reads_in: small(ability.reads_in),
        })
    }

    fn add(&mut self, id: QpId, conn: Arc<Conn>, addresses: (SocketAddr, SocketAddr), reads: u8) {
        let plan = conn.plan;
        self.shared.own(&conn);
        let qp = Qp {
            id,
            stage: Stage::Making,
            told: false,
            stopping: false,
            violated: false,
            in_error: false,
            made: None,
            was_made: false,
            cqs: None,
            accept: None,
            plan,
            limits: Limits {
                sends: plan.sends,
                sges: plan.sges,
                reads: u32::from(reads),
                invalidate: conn.device.ability.remote_invalidate,
                grant_bufs: u32::from(plan.windows > 0),
                message_len: MESSAGE_LEN,
            },
            local: addresses.0,
            peer: addresses.1,
            private: PrivateData::new(&[]),
            recvs: VecDeque::with_capacity(plan.recvs as usize),
            recvs_begun: 0,
            recvs_done: 0,
            sends: VecDeque::with_capacity((plan.sends + 2 * plan.windows) as usize),
            sends_begun: 0,
            grants: Vec::new(),
            conn,
        };
        self.slots[id.slot as usize].qp = Some(Box::new(qp));
    }

    // Posting.

    /// Posts a RECV of a queue pair that is made.
    #[inline]
    fn post(&mut self, qp: QpId, buf: Option<Buf>) {
        let found = find(&mut self.slots, qp).expect("the queue pair is not gone");
        let made = found.made.as_deref().expect("it is made");
        let (keys, device) = (&mut self.keys, &found.conn.device);
        let data = buf.as_ref().map(|buf| keys.sge(device, buf));
        let index = found.recvs_begun;
        let id = WrId {
            slot: qp.slot,
            generation: qp.generation as u16,
            index,
            kind: Kind::Recv,
        };
        let head = (index % found.plan.recvs) as usize * HEAD_LEN;
        if made.post_recv(id.pack(), head, data) {
            found.recvs_begun = index.wrapping_add(1);
            // The number of an entry must not jump where the count begins anew.
            if found.recvs_begun.is_multiple_of(found.plan.recvs) {
                found.recvs_begun = 0;
            }
            found.recvs.push_back(buf);
        } else {
            self.counters.failed += 1;
            self.events.extend(buf.map(|buf| Event::Unposted { buf }));
            self.stop(qp);
        }
    }

    /// Makes room in the scratch for something of this queue pair. Where that begins.
    #[inline]
    fn begin(&mut self, qp: QpId) -> usize {
        if self.scratch.qp != Some(qp) || self.scratch.wrs.len() >= WAITING_MAX {
            self.post_waiting();
        }
        self.scratch.qp = Some(qp);
        self.scratch.wrs.len()
    }

    /// What lies in the scratch from there on is one thing, which is posted with others of this turn.
    #[inline]
    fn post_sends(&mut self, qp: QpId, first: usize, what: What, tag: u32, bufs: BufList) {
        let found = find(&mut self.slots, qp).expect("the queue pair is not gone");
        let index = found.sends_begun as u32 & 0x3FFF_FFFF;
        let id = |kind| {
            let id = WrId {
                slot: qp.slot,
                generation: qp.generation as u16,
                index,
                kind,
            };
            id.pack()
        };
        let last = self.scratch.wrs.len() - 1;
        for (at, work) in self.scratch.wrs.iter_mut().enumerate().skip(first) {
            work.wr.wr_id = id(if at == last { Kind::Last } else { Kind::Inner });
            if at == last && what != What::Bind {
                work.wr.send_flags |= sys::ibv_send_flags::IBV_SEND_SIGNALED.0;
            }
        }
        found.sends_begun += 1;
        self.sends += 1;
        self.reads += u32::from(what == What::Read);
        self.scratch.things += 1;
        found.sends.push_back(Posted {
            index,
            what,
            tag,
            bufs,
            failed: None,
        });
    }

    /// Posts what waits.
    #[inline]
    fn post_waiting(&mut self) {
        let Some(qp) = self.scratch.qp.take() else {
            return;
        };
        let Scratch {
            wrs, sges, things, ..
        } = &mut self.scratch;
        let things = std::mem::take(things);
        let found = find(&mut self.slots, qp);
        // Without a queue pair it comes back as what was posted does when that is destroyed.
        let failed = found.filter(|found| {
            let made = found.made.as_deref();
            made.is_some_and(|made| !wrs.is_empty() && !made.post_send(wrs, sges))
        });
        if let Some(found) = failed {
            // What could not be posted, or only in part, comes back when the queue pair is destroyed.
            for posted in found.sends.iter_mut().rev().take(things) {
                posted.failed.get_or_insert(WcStatus::LocalError);
            }
            self.counters.failed += 1;
            self.stop(qp);
        }
        self.scratch.wrs.clear();
        self.scratch.sges.clear();
    }

    /// Adds WRITEs or READs of these Bufs to the scratch.
    #[inline]
    fn transfer(&mut self, qp: QpId, opcode: opcode::Type, remote: Remote, bufs: &BufList) {
        let found = find(&mut self.slots, qp).expect("the queue pair is not gone");
        let (keys, device) = (&mut self.keys, &found.conn.device);
        let Scratch { wrs, sges, .. } = &mut self.scratch;
        let mut addr = remote.addr;
        let mut room = 0;
        for buf in bufs.iter() {
            if room == 0 {
                let mut work = Work::new(opcode).remote(addr, remote.key);
                work.first = sges.len();
                wrs.push(work);
                room = found.plan.sges;
            }
            sges.push(keys.sge(device, buf));
            if let Some(work) = wrs.last_mut() {
                work.wr.num_sge += 1;
            }
            addr = addr.wrapping_add(buf.len() as u64);
            room -= 1;
        }
    }

    /// Adds a SEND to the scratch: a short message, inline if the device takes it so, and what follows it.
    #[inline]
    fn message(&mut self, qp: QpId, bytes: &[u8], bufs: &BufList, invalidate: Option<u32>) {
        let found = find(&mut self.slots, qp).expect("the queue pair is not gone");
        let made = found.made.as_deref_mut().expect("it is made");
        let (keys, device) = (&mut self.keys, &found.conn.device);
        let Scratch { wrs, sges, .. } = &mut self.scratch;
        let mut work = match invalidate {
            Some(key) => Work::new(opcode::IBV_WR_SEND_WITH_INV).invalidating(key),
            None => Work::new(opcode::IBV_WR_SEND),
        };
        work.first = sges.len();
        // An entry of the slab is free again when as many have completed: no more are out.
        let entry = found.sends_begun % u64::from(found.plan.sends);
        let entry = (found.plan.recvs as usize + entry as usize) * HEAD_LEN;
        made.slab.write(entry, bytes);
        sges.push(made.slab.sge(entry, bytes.len() as u32));
        sges.extend(bufs.iter().map(|buf| keys.sge(device, buf)));
        work.wr.num_sge = (sges.len() - work.first) as libc::c_int;
        if bufs.is_empty() && bytes.len() <= made.inline as usize {
            work.wr.send_flags = sys::ibv_send_flags::IBV_SEND_INLINE.0;
        }
        wrs.push(work);
    }

    // Completions.

    /// The next event of the completions that were taken out.
    #[inline]
    fn next_completion(&mut self) -> Option<Event> {
        while self.completions.at < self.completions.count {
            let at = self.completions.at;
            self.completions.at += 1;
            if let Some(event) = self.on_completion(at) {
                return Some(event);
            }
        }
        None
    }

    /// Takes completions out. False if there are none.
    #[inline]
    fn fill(&mut self) -> bool {
        for step in 0..self.cqs.len() {
            // The one after that which had some is asked first: a busy one keeps no other from being heard.
            let at = (self.next_cq + step) % self.cqs.len();
            let polled = &mut self.cqs[at];
            let quiet = polled.cq.takes == Takes::Sends && self.sends == 0;
            if quiet || polled.cq.is_given_up() {
                continue;
            }
            match polled.cq.poll(&mut self.completions.all) {
                Some(0) => {}
                Some(count) => {
                    self.next_cq = at + 1;
                    self.idle_arms = 0;
                    if polled.word == Word::Asked {
                        polled.word = Word::Given;
                    }
                    self.completions.at = 0;
                    self.completions.count = count;
                    return true;
                }
                // The device tells the control thread, which ends the connections.
                None => self.counters.failed += 1,
            }
        }
        false
    }

    #[inline]
    fn on_completion(&mut self, at: usize) -> Option<Event> {
        let wc = &self.completions.all[at];
        let id = WrId::unpack(wc.wr_id);
        let result = result_of(wc.status);
        let slot = self.slots.get_mut(id.slot as usize);
        let found = slot
            .and_then(|slot| slot.qp.as_deref_mut())
            .filter(|found| found.id.generation as u16 == id.generation);
        let Some(found) = found else {
            self.counters.stale += 1;
            return None;
        };
        let qp = found.id;
        let event = match id.kind {
            Kind::Recv => {
                let buf = found.recvs.pop_front().expect("a RECV was posted");
                if result == WcStatus::Success {
                    let head = found.recvs_done as usize * HEAD_LEN;
                    found.next_recv();
                    let made = found.made.as_deref();
                    let mut bytes = made.map_or([0; HEAD_LEN], |made| made.slab.read(head));
                    if let Some(rest) = bytes.get_mut(wc.byte_len as usize..) {
                        rest.fill(0);
                    }
                    // SAFETY: both variants are the same four bytes; the flag says which is meant.
                    let key = unsafe { wc.imm_data_invalidated_rkey_union.invalidated_rkey };
                    let flags = match found.conn.device.ability.soft {
                        true => WITH_INV | WITH_INV_SOFT,
                        false => WITH_INV,
                    };
                    let invalidated = Some(key).filter(|_| wc.wc_flags & flags != 0);
                    if let Some(key) = invalidated {
                        found.invalidated(key);
                    }
                    let event = Event::Received {
                        qp,
                        len: wc.byte_len,
                        head: bytes,
                        buf,
                        invalidated,
                    };
                    if found.stage == Stage::Made {
                        // A message overtook the last step of the handshake.
                        found.stage = Stage::Up;
                        self.counters.connections += 1;
                        self.events.push_front(event);
                        return Some(Event::Established { qp });
                    }
                    return Some(event);
                }
                found.next_recv();
                buf.map(|buf| Event::Unposted { buf })
            }
            Kind::Inner => {
                if let Some(posted) = found.sends.iter_mut().find(|sent| sent.index == id.index) {
                    posted.failed.get_or_insert(result);
                }
                None
            }
            Kind::Last => {
                // Binds before it have no completion of their own.
                while let Some(posted) = found.sends.pop_front() {
                    let is_it = posted.index == id.index;
                    self.sends -= 1;
                    match posted.what {
                        What::Invalidate => found.grants[posted.tag as usize].valid = false,
                        What::Read => self.reads -= 1,
                        What::Send | What::Bind => {}
                    }
                    self.events.extend(done(qp, posted, result));
                    if is_it {
                        break;
                    }
                }
                // In order: none of these may come before an older one.
                self.events.pop_front()
            }
        };
        match result {
            WcStatus::Success => {}
            WcStatus::Flushed => {
                self.counters.flushed += 1;
                self.stop(qp);
            }
            why => {
                match why {
                    WcStatus::RemoteAccess => self.counters.remote_access += 1,
                    WcStatus::RetriesExceeded => self.counters.retries_exceeded += 1,
                    _ => self.counters.failed += 1,
                }
                // What failed has put the queue pair into its error state.
                self.end(qp, Why::Error(why), false);
            }
        }
        event
    }

    /// Has a key invalidated that the peer did not, and looks at completions until it is.
    fn invalidate(&mut self, qp: QpId, at: usize) {
        let first = self.begin(qp);
        let work = Work::new(opcode::IBV_WR_LOCAL_INV).invalidating(self.qp(qp).grants[at].key);
        self.scratch.wrs.push(work);
        self.post_sends(qp, first, What::Invalidate, at as u32, BufList::new());
        self.post_waiting();
        for _ in 0..REVOKE_LOOKS {
            let found = self.qp(qp);
            if !found.grants[at].valid || !found.posts() {
                break;
            }
            if !self.look() {
                std::hint::spin_loop();
            }
        }
    }

    /// Makes events of the completions there are, some hundred of them at most. False if there was none.
    fn look(&mut self) -> bool {
        let mut events = std::mem::take(&mut self.events);
        let mut any = false;
        for _ in 0..LOOK_BATCHES {
            while let Some(event) = self.next_completion() {
                events.push_back(event);
                events.append(&mut self.events);
            }
            if !self.fill() {
                break;
            }
            any = true;
        }
        events.append(&mut self.events);
        self.events = events;
        any
    }
}

impl Qp {
    /// True while work requests may be posted to the send queue.
    #[inline]
    fn posts(&self) -> bool {
        self.stage == Stage::Up && !self.stopping
    }

    fn next_recv(&mut self) {
        self.recvs_done = (self.recvs_done + 1) % self.plan.recvs;
    }

    fn invalidated(&mut self, key: u32) {
        let of_it = |grant: &&mut Grant| grant.key == key && grant.bufs.is_some();
        if let Some(grant) = self.grants.iter_mut().find(of_it) {
            grant.valid = false;
        }
    }
}

#[inline]
fn find(slots: &mut [Slot], qp: QpId) -> Option<&mut Qp> {
    let found = slots.get_mut(qp.slot as usize)?.qp.as_deref_mut()?;
    (found.id == qp).then_some(found)
}

/// What the end of something posted is reported as.
#[inline]
fn done(qp: QpId, posted: Posted, result: WcStatus) -> Option<Event> {
    let Posted { tag, bufs, .. } = posted;
    let status = posted.failed.unwrap_or(result);
    match posted.what {
        What::Send => Some(Event::Sent {
            qp,
            tag,
            bufs,
            status,
        }),
        What::Read => Some(Event::ReadDone {
            qp,
            tag,
            bufs,
            status,
        }),
        What::Bind | What::Invalidate => None,
    }
}

#[inline]
fn result_of(code: status::Type) -> WcStatus {
    match code {
        status::IBV_WC_SUCCESS => WcStatus::Success,
        status::IBV_WC_WR_FLUSH_ERR => WcStatus::Flushed,
        status::IBV_WC_REM_ACCESS_ERR => WcStatus::RemoteAccess,
        status::IBV_WC_REM_INV_REQ_ERR
        | status::IBV_WC_REM_OP_ERR
        | status::IBV_WC_REM_INV_RD_REQ_ERR
        | status::IBV_WC_REM_ABORT_ERR => WcStatus::RemoteError,
        status::IBV_WC_RETRY_EXC_ERR
        | status::IBV_WC_RNR_RETRY_EXC_ERR
        | status::IBV_WC_RESP_TIMEOUT_ERR => WcStatus::RetriesExceeded,
        _ => WcStatus::LocalError,
    }
}
