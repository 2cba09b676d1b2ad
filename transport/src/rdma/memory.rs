//! RDMA without a network, for tests and the simulation: several ends in one thread, each a
//! [`Provider`], joined by memory.
//!
//! A [`World`] with a seed does what a fabric may do and no more: what is posted to one queue pair
//! takes effect in order, READs aside, and completes in order; between queue pairs, and between the two
//! ends, anything may come before anything else. Without a seed everything happens at the next flush.
//!
//! What a user of the interface must not do panics here: more work requests than the limits say, more
//! RECVs than were asked for, a queue pair that is gone.

mod moves;

use std::cell::{RefCell, RefMut};
use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::sync::Arc;

use ferroce_buf::{Buf, BufList, Region, RegionId};
use ferroce_engine::port::Tick;

use crate::rdma::provider::{
    Access, Answer, Demand, Dial, DialError, Event, Incoming, Limits, Message, PrivateData,
    Provider, QpId, Read, Remote, Request, WcStatus, Why,
};

/// What a queue pair can do, unless an end is made otherwise.
pub const LIMITS: Limits = Limits {
    sends: 4096,
    sges: 32,
    reads: 16,
    invalidate: true,
    grant_bufs: 256,
    message_len: 1 << 30,
};

/// Ends that can reach each other. Clones are the same world.
#[derive(Clone, Debug)]
pub struct World(Rc<RefCell<Inner>>);

#[derive(Debug)]
struct Inner {
    random: Option<fastrand::Rng>,
    ends: Vec<End>,
    /// Requests on their way to whoever accepts them.
    requests: VecDeque<MemoryIncoming>,
    next_key: u32,
}

#[derive(Debug)]
struct End {
    ip: IpAddr,
    limits: Limits,
    /// Queue pairs it may have.
    qps_max: usize,
    /// It vanished: nothing it did not send yet will be, and nobody hears of it.
    dead: bool,
    slots: Vec<(u32, Option<Qp>)>,
    events: VecDeque<Event>,
    /// Queue pairs of which nothing is out. Each is there until its end hears that it goes.
    going: VecDeque<QpId>,
}

impl End {
    fn has_news(&self) -> bool {
        !self.events.is_empty() || !self.going.is_empty()
    }

    fn next_event(&mut self) -> Option<Event> {
        if let Some(event) = self.events.pop_front() {
            return Some(event);
        }
        let id = self.going.pop_front()?;
        let (generation, slot) = &mut self.slots[id.slot as usize];
        let qp = slot.as_mut().expect("it is there until it is heard of");
        qp.going = false;
        // What was posted after it broke comes back first.
        if !qp.nothing_is_out() {
            return None;
        }
        *generation = generation.wrapping_add(1);
        *slot = None;
        Some(Event::Gone { qp: id })
    }
}

/// A queue pair of an end.
type Place = (usize, QpId);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Made by `open`.
    Opened,
    /// Active: the request is out.
    Asking,
    /// Passive: accepted, and the peer does not know, or has not said so.
    Accepted,
    Established,
    /// It ended; what was posted comes back.
    Broken,
}

#[derive(Debug)]
struct Qp {
    stage: Stage,
    limits: Limits,
    demand: Demand,
    peer: Option<Place>,
    addresses: (SocketAddr, SocketAddr),
    private: PrivateData,
    recvs: VecDeque<Option<Buf>>,
    sends: VecDeque<Send>,
    /// Of `sends`, how many have been begun. READs may be begun and not done.
    begun: usize,
    grants: Vec<Grant>,
    /// The peer has accepted, and this end does not know yet.
    hears: Option<Reply>,
    /// The connection ended at the other side, and this end does not know yet.
    ends: Option<Why>,
    /// It stands in `going`.
    going: bool,
}

#[derive(Debug)]
enum Reply {
    Accepted(Place, PrivateData),
    Rejected(PrivateData),
    Ready,
}

#[derive(Debug)]
struct Send {
    work: Work,
    wrs: u32,
    /// `None` until it took effect or failed.
    status: Option<WcStatus>,
    /// The WRITE of a chain took effect; the SEND waits for a RECV.
    written: bool,
}

#[derive(Debug)]
enum Work {
    Answer(Answer),
    Message(Message),
    Read(Read),
}

#[derive(Debug)]
struct Grant {
    remote: Remote,
    access: Access,
    valid: bool,
    bufs: BufList,
}

/// A request on its way.
#[derive(Debug)]
pub struct MemoryIncoming {
    request: Request,
    from: Place,
    to: usize,
}

impl Incoming for MemoryIncoming {
    fn request(&self) -> &Request {
        &self.request
    }
}

/// One end.
#[derive(Debug)]
pub struct MemoryProvider {
    world: World,
    end: usize,
    /// The regions that were registered, if it asks for that.
    registered: Option<Vec<RegionId>>,
}

impl World {
    /// Everything happens at the next flush, in order.
    pub fn punctual() -> World {
        World::with(None)
    }

    /// Everything happens when the seed says.
    pub fn seeded(seed: u64) -> World {
        World::with(Some(fastrand::Rng::with_seed(seed)))
    }

    fn with(random: Option<fastrand::Rng>) -> World {
        World(Rc::new(RefCell::new(Inner {
            random,
            ends: Vec::new(),
            requests: VecDeque::new(),
            next_key: 0x101,
        })))
    }

    /// An end with this address, whose queue pairs can do so much.
    pub fn end(&self, ip: IpAddr, limits: Limits) -> MemoryProvider {
        let mut inner = self.0.borrow_mut();
        inner.ends.push(End {
            ip,
            limits,
            qps_max: 4096,
            dead: false,
            slots: Vec::new(),
            events: VecDeque::new(),
            going: VecDeque::new(),
        });
        MemoryProvider {
            world: self.clone(),
            end: inner.ends.len() - 1,
            registered: None,
        }
    }

    /// The next request that has arrived somewhere, as a listener there would hand it out.
    pub fn incoming(&self) -> Option<MemoryIncoming> {
        self.0.borrow_mut().requests.pop_front()
    }

    /// The end with this address vanishes: its peers hear of it when they miss its acknowledgements.
    pub fn kill(&self, ip: IpAddr) {
        for end in &mut self.0.borrow_mut().ends {
            end.dead |= end.ip == ip;
        }
    }

    /// The end with this address may have so many queue pairs.
    pub fn limit_qps(&self, ip: IpAddr, qps_max: usize) {
        for end in &mut self.0.borrow_mut().ends {
            if end.ip == ip {
                end.qps_max = qps_max;
            }
        }
    }

    /// Breaks every connection of the end with this address, as if its device failed.
    pub fn break_all(&self, ip: IpAddr) {
        let mut inner = self.0.borrow_mut();
        for at in 0..inner.ends.len() {
            for slot in 0..inner.ends[at].slots.len() {
                let (generation, qp) = &inner.ends[at].slots[slot];
                let id = QpId {
                    slot: slot as u32,
                    generation: *generation,
                };
                if inner.ends[at].ip == ip && qp.is_some() {
                    inner.lose((at, id), Why::Device, WcStatus::LocalError);
                }
            }
        }
    }

    /// True if nothing would happen without somebody posting something.
    pub fn is_quiet(&self) -> bool {
        let inner = self.0.borrow();
        let events = inner.ends.iter().any(|end| !end.dead && end.has_news());
        !events && inner.requests.is_empty() && inner.moves().is_empty()
    }

    /// Queue pairs of the end with this address.
    pub fn qps(&self, ip: IpAddr) -> usize {
        let inner = self.0.borrow();
        let ends = inner.ends.iter().filter(|end| end.ip == ip);
        ends.flat_map(|end| &end.slots)
            .filter(|(_, qp)| qp.is_some())
            .count()
    }
}

impl Inner {
    fn qp(&self, (end, id): Place) -> Option<&Qp> {
        let (generation, qp) = self.ends[end].slots.get(id.slot as usize)?;
        qp.as_ref().filter(|_| *generation == id.generation)
    }

    fn qp_mut(&mut self, (end, id): Place) -> Option<&mut Qp> {
        let (generation, qp) = self.ends[end].slots.get_mut(id.slot as usize)?;
        qp.as_mut().filter(|_| *generation == id.generation)
    }

    fn make(
        &mut self,
        end: usize,
        stage: Stage,
        demand: Demand,
        limits: Limits,
        addresses: (SocketAddr, SocketAddr),
    ) -> Option<QpId> {
        let end = &mut self.ends[end];
        let used = end.slots.iter().filter(|(_, qp)| qp.is_some()).count();
        if used >= end.qps_max {
            return None;
        }
        let free = end.slots.iter().position(|(_, qp)| qp.is_none());
        let slot = free.unwrap_or_else(|| {
            end.slots.push((0, None));
            end.slots.len() - 1
        });
        end.slots[slot].1 = Some(Qp {
            stage,
            limits,
            demand,
            peer: None,
            addresses,
            private: PrivateData::new(&[]),
            recvs: VecDeque::new(),
            sends: VecDeque::new(),
            begun: 0,
            grants: Vec::new(),
            hears: None,
            ends: None,
            going: false,
        });
        Some(QpId {
            slot: slot as u32,
            generation: end.slots[slot].0,
        })
    }
}

impl Qp {
    fn nothing_is_out(&self) -> bool {
        self.recvs.is_empty() && self.sends.is_empty() && self.grants.is_empty()
    }

    fn post(&mut self, work: Work) {
        let wrs = match &work {
            Work::Answer(answer) => {
                assert!(
                    answer.invalidate.is_none()
                        || self.limits.invalidate && answer.capsule.is_some(),
                    "a key goes with a SEND, and only where it can"
                );
                let send = answer.capsule.is_some();
                // A WRITE of nothing is one as well.
                self.limits.wrs(answer.bufs.count(), send).max(1)
            }
            Work::Message(message) => self.limits.wrs(message.bufs.count() + 1, false),
            Work::Read(read) => {
                assert!(!read.bufs.is_empty(), "a READ wants something");
                self.limits.wrs(read.bufs.count(), false)
            }
        };
        let out: u32 = self.sends.iter().map(|send| send.wrs).sum();
        assert!(
            out + wrs <= self.limits.sends,
            "at most {} work requests are out",
            self.limits.sends
        );
        self.sends.push_back(Send {
            work,
            wrs,
            status: (self.stage == Stage::Broken).then_some(WcStatus::Flushed),
            written: false,
        });
        if self.stage == Stage::Broken {
            self.begun = self.sends.len();
        }
        let is_read = |send: &&Send| matches!(send.work, Work::Read(_));
        let reads: u32 = self.sends.iter().filter(is_read).map(|send| send.wrs).sum();
        // One that is cut into more than may be out is the provider's to chain.
        let alone = self.sends.iter().filter(is_read).count() < 2;
        assert!(
            reads <= self.limits.reads || alone,
            "at most {} READs are out, not {reads}",
            self.limits.reads
        );
    }
}

impl MemoryProvider {
    /// Only memory that was registered may be granted and sent, as with devices.
    pub fn strict(mut self) -> MemoryProvider {
        self.registered.get_or_insert_default();
        self
    }

    fn check(&self, bufs: &BufList) {
        if let Some(registered) = &self.registered {
            let known = |buf: &Buf| registered.contains(&buf.region());
            assert!(bufs.iter().all(known), "a region is registered first");
        }
    }

    fn inner(&self) -> RefMut<'_, Inner> {
        self.world.0.borrow_mut()
    }

    fn with_qp<R>(&self, qp: QpId, with: impl FnOnce(&mut Qp) -> R) -> R {
        let mut inner = self.inner();
        with(
            inner
                .qp_mut((self.end, qp))
                .expect("the queue pair is not gone"),
        )
    }

    fn limits_for(&self, peer_reads: u32) -> Limits {
        let limits = self.inner().ends[self.end].limits;
        Limits {
            reads: limits.reads.min(peer_reads),
            ..limits
        }
    }
}

impl Provider for MemoryProvider {
    type Incoming = MemoryIncoming;

    fn open(
        &mut self,
        incoming: MemoryIncoming,
        demand: &Demand,
        _: Tick,
    ) -> Result<QpId, MemoryIncoming> {
        assert!(incoming.to == self.end, "the request came to this end");
        let request = incoming.request;
        let limits = self.limits_for(request.responder_resources.into());
        let addresses = (request.local, request.peer);
        let mut inner = self.inner();
        let made = inner.make(self.end, Stage::Opened, *demand, limits, addresses);
        let Some(id) = made else { return Err(incoming) };
        let qp = inner.qp_mut((self.end, id)).expect("it was just made");
        qp.peer = Some(incoming.from);
        Ok(id)
    }

    fn reject(&mut self, incoming: MemoryIncoming, private: &[u8], _: Tick) {
        if let Some(qp) = self.inner().qp_mut(incoming.from) {
            qp.hears = Some(Reply::Rejected(PrivateData::new(private)));
        }
    }

    fn accept(&mut self, qp: QpId, private: &[u8], _: Tick) {
        let mut inner = self.inner();
        let here = (self.end, qp);
        let mine = inner.qp_mut(here).expect("the queue pair is not gone");
        assert!(mine.stage == Stage::Opened, "it is accepted once");
        mine.stage = Stage::Accepted;
        let peer = mine.peer.expect("a request has a sender");
        match inner.qp_mut(peer) {
            Some(other) if other.stage == Stage::Asking => {
                other.hears = Some(Reply::Accepted(here, PrivateData::new(private)));
            }
            _ => inner.end_later(here, Why::Unreachable),
        }
    }

    fn connect(&mut self, dial: &Dial<'_>, _: Tick) -> Result<QpId, DialError> {
        let limits = self.limits_for(0);
        let mut inner = self.inner();
        let local = SocketAddr::new(dial.local.unwrap_or(inner.ends[self.end].ip), 50_000);
        let found = inner
            .ends
            .iter()
            .position(|end| end.ip == dial.peer.ip() && !end.dead);
        let made = inner.make(
            self.end,
            Stage::Asking,
            dial.demand,
            limits,
            (local, dial.peer),
        );
        let qp = made.ok_or_else(|| DialError::Resources("no queue pair is left".to_owned()))?;
        let Some(to) = found else {
            inner.end_later((self.end, qp), Why::Unreachable);
            return Ok(qp);
        };
        let reads = inner.ends[self.end].limits.reads;
        inner.requests.push_back(MemoryIncoming {
            request: Request {
                local: dial.peer,
                peer: local,
                private: PrivateData::new(dial.private),
                responder_resources: reads.min(255) as u8,
                initiator_depth: 0,
            },
            from: (self.end, qp),
            to,
        });
        Ok(qp)
    }

    fn limits(&self, qp: QpId) -> Limits {
        self.with_qp(qp, |qp| qp.limits)
    }

    fn local(&self, qp: QpId) -> SocketAddr {
        self.with_qp(qp, |qp| qp.addresses.0)
    }

    fn peer(&self, qp: QpId) -> SocketAddr {
        self.with_qp(qp, |qp| qp.addresses.1)
    }

    fn private(&self, qp: QpId) -> PrivateData {
        self.with_qp(qp, |qp| qp.private)
    }

    fn post_recv(&mut self, qp: QpId, buf: Option<Buf>) {
        self.with_qp(qp, |qp| {
            assert!(
                (qp.recvs.len() as u32) < qp.demand.recvs,
                "more RECVs than were asked for"
            );
            let len = buf.as_ref().map_or(0, Buf::len);
            assert!(len == qp.demand.recv_data as usize, "a RECV is as was said");
            qp.recvs.push_back(buf);
        });
    }

    fn answer(&mut self, qp: QpId, answer: Answer) {
        self.with_qp(qp, |qp| qp.post(Work::Answer(answer)));
    }

    fn send(&mut self, qp: QpId, message: Message) {
        self.check(&message.bufs);
        self.with_qp(qp, |qp| qp.post(Work::Message(message)));
    }

    fn read(&mut self, qp: QpId, read: Read) {
        self.with_qp(qp, |qp| qp.post(Work::Read(read)));
    }

    fn register(&mut self, region: &Arc<Region>) -> io::Result<()> {
        if let Some(registered) = &mut self.registered {
            registered.push(region.id());
        }
        Ok(())
    }

    fn reaches(&mut self, _: QpId, buf: &Buf) -> bool {
        let registered = self.registered.as_ref();
        registered.is_none_or(|registered| registered.contains(&buf.region()))
    }

    fn grant(&mut self, qp: QpId, bufs: BufList, access: Access) -> Result<Remote, BufList> {
        self.check(&bufs);
        let mut inner = self.inner();
        // Keys are never used twice, so that a late use of one is seen.
        let key = inner.next_key;
        inner.next_key = key.wrapping_mul(5).wrapping_add(0x1357);
        let qp = inner
            .qp_mut((self.end, qp))
            .expect("the queue pair is not gone");
        if bufs.count() > qp.limits.grant_bufs as usize {
            return Err(bufs);
        }
        let remote = Remote {
            addr: u64::from(key) << 24,
            key,
        };
        qp.grants.push(Grant {
            remote,
            access,
            valid: true,
            bufs,
        });
        Ok(remote)
    }

    fn revoke(&mut self, qp: QpId, key: u32) -> Option<BufList> {
        self.with_qp(qp, |qp| {
            let at = qp.grants.iter().position(|grant| grant.remote.key == key)?;
            Some(qp.grants.swap_remove(at).bufs)
        })
    }

    fn close(&mut self, qp: QpId, _: Tick) {
        let mut inner = self.inner();
        assert!(
            inner.qp((self.end, qp)).is_some(),
            "the queue pair is not gone"
        );
        inner.shut((self.end, qp), WcStatus::Flushed);
    }

    fn poll(&mut self, _: Tick) -> Option<Event> {
        let mut inner = self.inner();
        if inner.ends[self.end].dead {
            return None;
        }
        inner.ends[self.end].next_event()
    }

    fn flush(&mut self, _: Tick) {
        self.inner().run();
    }

    fn next_timeout(&self) -> Option<Tick> {
        None
    }

    fn has_work(&self) -> bool {
        let inner = self.inner();
        inner.ends[self.end].has_news() || !inner.moves().is_empty()
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn each_counter(&self, _: &mut dyn FnMut(&'static str, u64)) {}
}
