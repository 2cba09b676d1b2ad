//! Software RoCEv2 as a [`Provider`].

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};

use ferroce_buf::{Buf, BufList};
use ferroce_engine::port::Tick;

use crate::rdma::provider::{
    Access, Answer, Demand, Dial, DialError, Event, Limits, Message, PrivateData, Provider, QpId,
    Read, Remote,
};
use crate::roce::cm::Incoming;
use crate::roce::device::Device;
use crate::roce::payload::Outlet;
use crate::roce::udp::Sockets;
use crate::sys::udp::random;

/// Batches of packets that are taken in a turn.
const BATCHES_PER_TURN: u32 = 4;

/// As long as there are more, a batch moves on what timers know of the time by this at most, in ns. What 64 queue pairs have
/// out is some 250 batches, together as long as the shortest timer, so it is looked at before it is taken for lost (a nudge waits until all was looked at). And it is
/// about what a batch takes: the timers of a core that always has more are slow, but run.
const BATCH_NS: u64 = 20_000;

/// How long what the system had no room for waits, in ns. A queue of an interface that is full tells
/// nobody when it has room again (ENOBUFS), so time does; it is a few packets at 1 Gbit/s.
const FULL_NS: u64 = 50_000;

/// What packets come in by and leave by: a core's sockets, or a simulated network.
pub trait Line: Outlet {
    /// Takes the packets that are there, a bounded number, to the device. True if there may be more.
    fn receive(&mut self, now: Tick, device: &mut Device) -> bool;

    /// True if the system had no room for something since this was asked last.
    fn was_full(&mut self) -> bool {
        false
    }

    /// A number nobody can guess, where numbers must be such; `None` where a seed is to decide everything.
    fn seed(&mut self) -> Option<u64> {
        None
    }

    /// Readable when packets are there; `None` if nobody can sleep on it.
    fn fd(&self) -> Option<BorrowedFd<'_>>;
}

impl Line for Sockets {
    #[inline]
    fn receive(&mut self, now: Tick, device: &mut Device) -> bool {
        Sockets::receive(self, now, device)
    }

    fn was_full(&mut self) -> bool {
        std::mem::take(&mut self.full)
    }

    fn seed(&mut self) -> Option<u64> {
        // At the start it gave some, and it does not stop.
        random().ok()
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.as_fd())
    }
}

/// One core's queue pairs over its sockets.
#[derive(Debug)]
pub struct Roce<L = Sockets> {
    device: Device,
    line: L,
    /// Batches that may yet be taken in this turn.
    batches: u32,
    /// There may be more packets in the sockets.
    more: bool,
    /// What timers know of the time: what they wait for may lie in the sockets, and has arrived after this.
    heard: Tick,
    /// The system had no room for what is to be sent; it is tried again then.
    full_until: Option<Tick>,
}

impl Roce {
    /// Over a core's sockets. `guid` is the node's, new with every start of it; `seed` is nobody's to
    /// guess.
    pub fn new(sockets: Sockets, guid: u64, seed: u64) -> Roce {
        let (worker, workers) = (sockets.worker, sockets.workers);
        let device = Device::new(sockets.ports.clone(), guid, worker, workers, seed);
        Roce::over(sockets, device)
    }
}

impl<L: Line> Roce<L> {
    /// Of a device and what its packets go by.
    pub fn over(line: L, device: Device) -> Roce<L> {
        Roce {
            device,
            line,
            batches: BATCHES_PER_TURN,
            more: false,
            heard: Tick(0),
            full_until: None,
        }
    }

    /// Bytes of data that were copied here, out of packets.
    pub fn copied(&self) -> u64 {
        self.device.counters.copied
    }

    /// Before the numbers of a queue pair are drawn. Who does not see its packets, but can send with a false address, must
    /// not know them: they are all that keeps such packets out. The generator is a quick one, whose state those who connect
    /// could work out from the numbers they are told; so it has a new seed of the system for each queue pair.
    fn draw_anew(&mut self) {
        if let Some(seed) = self.line.seed() {
            self.device.reseed(seed);
        }
    }

    /// True if a peer has not answered yet that it knows of the end of a connection. As long as this is polled and flushed,
    /// it is told again.
    pub fn is_parting(&self) -> bool {
        self.device.is_parting()
    }

    /// Queue pairs there are.
    pub fn queue_pairs(&self) -> usize {
        self.device.queue_pairs()
    }
}

impl<L: Line> Provider for Roce<L> {
    type Incoming = Box<Incoming>;

    fn open(
        &mut self,
        incoming: Box<Incoming>,
        demand: &Demand,
        now: Tick,
    ) -> Result<QpId, Box<Incoming>> {
        self.draw_anew();
        self.device.open(incoming, demand, now)
    }

    fn reject(&mut self, incoming: Box<Incoming>, private: &[u8], _now: Tick) {
        self.device.reject(&incoming, private);
    }

    fn reject_stale(&mut self, incoming: Box<Incoming>, _now: Tick) {
        self.device.reject_stale(&incoming);
    }

    fn accept(&mut self, qp: QpId, private: &[u8], now: Tick) {
        self.draw_anew();
        self.device.accept(qp, private, now);
    }

    fn connect(&mut self, dial: &Dial<'_>, now: Tick) -> Result<QpId, DialError> {
        self.draw_anew();
        self.device.connect(dial, now)
    }

    fn limits(&self, qp: QpId) -> Limits {
        self.device.limits(qp)
    }

    fn local(&self, qp: QpId) -> SocketAddr {
        self.device.local(qp)
    }

    fn peer(&self, qp: QpId) -> SocketAddr {
        self.device.peer(qp)
    }

    fn private(&self, qp: QpId) -> PrivateData {
        self.device.private(qp)
    }

    #[inline]
    fn post_recv(&mut self, qp: QpId, buf: Option<Buf>) {
        self.device.post_recv(qp, buf);
    }

    #[inline]
    fn answer(&mut self, qp: QpId, answer: Answer) {
        self.device.answer(qp, answer);
    }

    #[inline]
    fn send(&mut self, qp: QpId, message: Message) {
        self.device.send(qp, message);
    }

    #[inline]
    fn read(&mut self, qp: QpId, read: Read) {
        self.device.read(qp, read);
    }

    fn grant(&mut self, qp: QpId, bufs: BufList, access: Access) -> Result<Remote, BufList> {
        self.device.grant(qp, bufs, access)
    }

    fn revoke(&mut self, qp: QpId, key: u32) -> Option<BufList> {
        self.device.revoke(qp, key)
    }

    fn close(&mut self, qp: QpId, now: Tick) {
        self.device.close(qp, now);
    }

    #[inline]
    fn poll(&mut self, now: Tick) -> Option<Event> {
        loop {
            if let Some(event) = self.device.poll(now) {
                return Some(event);
            }
            if self.batches == 0 {
                return None;
            }
            if self.batches == BATCHES_PER_TURN {
                self.more = true;
            }
            if !self.more {
                return None;
            }
            self.batches -= 1;
            self.more = self.line.receive(now, &mut self.device);
            self.heard = match self.more {
                true => now.min(self.heard.plus_ns(BATCH_NS)),
                false => now,
            };
            if !self.more && !self.device.has_events() {
                return None;
            }
        }
    }

    #[inline]
    fn flush(&mut self, now: Tick) {
        self.batches = BATCHES_PER_TURN;
        self.device.on_time(self.heard, !self.more);
        if self.full_until.is_some_and(|until| now < until) {
            return;
        }
        self.device.transmit(now, &mut self.line);
        self.full_until = self.line.was_full().then(|| now.plus_ns(FULL_NS));
    }

    fn next_timeout(&self) -> Option<Tick> {
        let due = self.device.next_timeout();
        due.into_iter().chain(self.full_until).min()
    }

    fn has_work(&self) -> bool {
        // What waits for room in the system is no reason to stay awake.
        self.more
            || match self.full_until {
                Some(_) => self.device.has_events(),
                None => self.device.has_work(),
            }
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.line.fd()
    }

    fn each_counter(&self, give: &mut dyn FnMut(&'static str, u64)) {
        self.device.counters.each(give);
    }
}
