//! Where hosts come in: the listeners, and which core gets who comes.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ferroce_engine::port::Tick;
use ferroce_engine::table::Transport;
use ferroce_transport::rdma::provider::Incoming as _;
#[cfg(feature = "verbs")]
use ferroce_transport::rdma::verbs;
use ferroce_transport::roce;
use ferroce_transport::tcp::listen::{Accepted, Listener};

use crate::node::CoreFacts;
use crate::sets::AnyIncoming;
use crate::wait::Bed;

/// While descriptors or memory are short, nobody is let in for so long.
const SHORT_MS: u64 = 100;
/// While all places are taken, they are looked at again so soon.
const FULL_MS: u64 = 5;
/// After all places were taken for so long, who comes is turned away. Before, most of them are of
/// connections that have ended already.
const PATIENCE_MS: u64 = 1000;
/// Connections of a core beyond its places, in which hosts that are turned away are told so: their Connect
/// is refused with Controller Busy. Who comes when these are taken, too, finds the connection closed.
pub const RESERVE: usize = 16;
/// The same trouble is told once in this time.
const TELL_MS: u64 = 1000;

/// Where hosts of any transport come in.
#[derive(Debug)]
pub enum AnyListener {
    /// A socket.
    Tcp(Listener),
    /// What hears requests at all RoCE addresses.
    Roce(Box<roce::udp::Listener>),
    /// What hears requests at one address of RDMA devices, which go to the fabric with this index.
    #[cfg(feature = "verbs")]
    Verbs(usize, Box<verbs::Listener>),
}

impl AnyListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            AnyListener::Tcp(listener) => listener.as_fd(),
            AnyListener::Roce(listener) => listener.as_fd(),
            #[cfg(feature = "verbs")]
            AnyListener::Verbs(_, listener) => listener.as_fd(),
        }
    }

    /// The next one who comes, and from where.
    fn accept(&mut self, now: Tick) -> Knock {
        match self {
            AnyListener::Tcp(listener) => match listener.accept() {
                Accepted::One(incoming) => Knock::One(incoming.peer, AnyIncoming::Tcp(incoming)),
                Accepted::Nobody => Knock::Nobody,
                Accepted::Lost(cause) => Knock::Lost(cause),
                Accepted::Exhausted(cause) => Knock::Exhausted(cause),
            },
            AnyListener::Roce(listener) => match listener.accept(now) {
                Some(incoming) => {
                    let peer = incoming.request().peer;
                    Knock::One(peer, AnyIncoming::Roce(incoming))
                }
                None => Knock::Nobody,
            },
            #[cfg(feature = "verbs")]
            AnyListener::Verbs(fabric, listener) => match listener.accept() {
                Some(incoming) => {
                    let peer = incoming.request().peer;
                    Knock::One(peer, AnyIncoming::Verbs(*fabric, Box::new(incoming)))
                }
                None => Knock::Nobody,
            },
        }
    }

    /// Tells who came that there is no place.
    fn turn_away(&mut self, incoming: AnyIncoming) {
        // A socket that is dropped says it by itself, and so does a request to a device.
        if let (AnyListener::Roce(listener), AnyIncoming::Roce(incoming)) = (self, incoming) {
            listener.refuse(&incoming);
        }
    }
}

/// What [`AnyListener::accept`] found; see [`Accepted`].
enum Knock {
    One(SocketAddr, AnyIncoming),
    Nobody,
    Lost(io::Error),
    Exhausted(io::Error),
}

/// The listeners.
#[derive(Debug)]
pub struct Door {
    listeners: Vec<AnyListener>,
    cores: Vec<Arc<CoreFacts>>,
    /// Connections a core may have.
    places: usize,
    /// Nobody is let in until then, and the listeners are not watched.
    rests: Option<Tick>,
    full_since: Option<Tick>,
    told: Option<Tick>,
    /// The core that got the last one.
    last: usize,
    /// The listener that is asked first: a flood at one does not close the others.
    next: usize,
}

impl Door {
    /// Leads to these cores, each of which takes `places` connections.
    pub fn new(cores: Vec<Arc<CoreFacts>>, places: usize) -> Door {
        Door {
            listeners: Vec::new(),
            cores,
            places,
            rests: None,
            full_since: None,
            told: None,
            last: 0,
            next: 0,
        }
    }

    /// Connections a core may have, without its reserve.
    pub fn places(&self) -> usize {
        self.places
    }

    /// Hosts may come in here, too.
    pub fn open(&mut self, listener: AnyListener, bed: &Bed) {
        if let Err(cause) = bed.watch(listener.as_fd()) {
            log::error!("cannot watch a listener: {cause}");
        }
        self.listeners.push(listener);
    }

    /// Nobody comes in there any more.
    pub fn close(&mut self, transport: Transport, address: SocketAddr) {
        self.listeners.retain_mut(|listener| match listener {
            AnyListener::Tcp(listener) => {
                transport != Transport::Tcp || listener.local() != address
            }
            AnyListener::Roce(listener) => {
                if transport == Transport::Rdma {
                    listener.forget(address);
                }
                !listener.services().is_empty()
            }
            #[cfg(feature = "verbs")]
            AnyListener::Verbs(_, listener) => {
                transport != Transport::Rdma || listener.local() != address
            }
        });
    }

    /// Nobody comes in any more.
    pub fn close_all(&mut self) {
        self.listeners.clear();
    }

    /// When to look again although nobody knocks.
    pub fn next_timeout(&self) -> Option<Tick> {
        self.rests
    }

    /// The next one who comes, and the core that gets it.
    pub fn poll(&mut self, bed: &Bed, now: Tick) -> Option<(usize, AnyIncoming)> {
        if let Some(until) = self.rests {
            if now < until {
                return None;
            }
            self.rests = None;
            for listener in &self.listeners {
                // One that was opened meanwhile is watched already.
                let _ = bed.watch(listener.as_fd());
            }
        }
        let mut core = self.core(self.places);
        match (core, self.full_since) {
            (Some(_), _) => self.full_since = None,
            (None, None) => self.full_since = Some(now),
            (None, Some(_)) => (),
        }
        let patient = self
            .full_since
            .is_some_and(|since| now < since.plus_ms(PATIENCE_MS));
        if core.is_none() && !patient {
            core = self.core(self.places + RESERVE);
        }
        let count = self.listeners.len();
        let first = self.next;
        for at in (0..count).map(|i| (first + i) % count) {
            if patient {
                self.rest(bed, now.plus_ms(FULL_MS));
                return None;
            }
            let knock = self.listeners[at].accept(now);
            let core = match &knock {
                Knock::One(_, incoming) => incoming.core().or(core),
                _ => core,
            };
            match (knock, core) {
                (Knock::One(_, incoming), Some(core)) => {
                    // The core's thread says the same once it adopted it; until then this counts.
                    self.cores[core].connections.fetch_add(1, Ordering::Relaxed);
                    self.last = core;
                    self.next = at + 1;
                    return Some((core, incoming));
                }
                (Knock::One(peer, incoming), None) => {
                    self.listeners[at].turn_away(incoming);
                    let all = self.places * self.cores.len();
                    self.tell(now, || {
                        format!(
                            "{peer} is turned away: all {all} connections are taken (raise \
                             `limits.queues`)"
                        )
                    });
                }
                (Knock::Nobody, _) => (),
                (Knock::Lost(cause), _) => {
                    log::debug!("a connection was lost before it was accepted: {cause}")
                }
                (Knock::Exhausted(cause), _) => {
                    self.tell(now, || {
                        format!("no host can connect for now: {cause}; see `ulimit -n`")
                    });
                    self.rest(bed, now.plus_ms(SHORT_MS));
                    return None;
                }
            }
        }
        None
    }

    /// The core with the fewest I/O queues, of those with fewer connections than `places`; `None` if there is
    /// none. Whoever comes does not say yet what it will be, so all count as I/O queues but those known as admin queues:
    /// else one host after the other, each an admin queue and an I/O queue, would have all their I/O
    /// queues on the same core.
    fn core(&self, places: usize) -> Option<usize> {
        let count = self.cores.len();
        let load = |core: &usize| {
            let core = &self.cores[*core];
            let all = core.connections.load(Ordering::Relaxed);
            let admin = core.counters.admin_queues.get() as usize;
            (all.saturating_sub(admin), all)
        };
        let round = (0..count).map(|i| (self.last + 1 + i) % count);
        round.filter(|core| load(core).1 < places).min_by_key(load)
    }

    /// A listener where somebody waits would wake us again at once, so it is not watched meanwhile.
    fn rest(&mut self, bed: &Bed, until: Tick) {
        for listener in &self.listeners {
            bed.unwatch(listener.as_fd());
        }
        self.rests = Some(until);
    }

    fn tell(&mut self, now: Tick, what: impl FnOnce() -> String) {
        if self.told.is_none_or(|told| now >= told.plus_ms(TELL_MS)) {
            self.told = Some(now);
            log::warn!("{}", what());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;

    fn cores(count: usize) -> Vec<Arc<CoreFacts>> {
        (0..count).map(|_| Arc::default()).collect()
    }

    fn listener() -> (AnyListener, SocketAddr) {
        let listener = Listener::bind("127.0.0.1:0".parse().expect("an address")).expect("listens");
        let address = listener.local();
        (AnyListener::Tcp(listener), address)
    }

    fn poll(door: &mut Door, bed: &Bed, now: Tick) -> Option<usize> {
        // The connection is there when connect returned; accepting it is never early.
        door.poll(bed, now).map(|(core, _)| core)
    }

    #[test]
    fn connections_are_dealt_evenly() {
        let (bed, (listener, address)) = (Bed::new().expect("a bed"), listener());
        let mut door = Door::new(cores(3), 100);
        door.open(listener, &bed);
        assert_eq!(poll(&mut door, &bed, Tick(0)), None);
        let _streams: Vec<_> = (0..6)
            .map(|_| TcpStream::connect(address).expect("connects"))
            .collect();
        let mut dealt: Vec<_> = (0..6)
            .filter_map(|_| poll(&mut door, &bed, Tick(0)))
            .collect();
        dealt.sort_unstable();
        assert_eq!(dealt, [0, 0, 1, 1, 2, 2]);
        door.close(Transport::Tcp, address);
        assert!(TcpStream::connect(address).is_err());
    }

    #[test]
    fn hosts_of_one_io_queue_do_not_all_have_it_on_the_same_core() {
        let (bed, (listener, address)) = (Bed::new().expect("a bed"), listener());
        let cores = cores(2);
        let mut door = Door::new(cores.clone(), 100);
        door.open(listener, &bed);
        let mut streams = Vec::new();
        let mut io = [0; 2];
        for _ in 0..6 {
            for admin in [true, false] {
                streams.push(TcpStream::connect(address).expect("connects"));
                let core = poll(&mut door, &bed, Tick(0)).expect("there is room");
                match admin {
                    true => cores[core].counters.admin_queues.add(1),
                    false => io[core] += 1,
                }
            }
        }
        assert_eq!(io, [3, 3]);
    }

    #[test]
    fn when_it_is_full_who_comes_waits_and_then_is_turned_away() {
        let (bed, (listener, address)) = (Bed::new().expect("a bed"), listener());
        let cores = cores(1);
        let mut door = Door::new(cores.clone(), 1);
        door.open(listener, &bed);
        let _first = TcpStream::connect(address).expect("connects");
        assert_eq!(poll(&mut door, &bed, Tick(0)), Some(0));

        let second = TcpStream::connect(address).expect("connects");
        assert_eq!(poll(&mut door, &bed, Tick(0)), None);
        assert_eq!(door.next_timeout(), Some(Tick(0).plus_ms(FULL_MS)));
        cores[0].connections.store(0, Ordering::Relaxed);
        assert_eq!(poll(&mut door, &bed, Tick(0).plus_ms(FULL_MS)), Some(0));

        let third = TcpStream::connect(address).expect("connects");
        let begin = Tick(0).plus_ms(100);
        assert_eq!(poll(&mut door, &bed, begin), None);
        // Into the reserve, where its Connect is refused.
        let late = begin.plus_ms(PATIENCE_MS);
        assert_eq!(poll(&mut door, &bed, late), Some(0));
        cores[0].connections.store(1 + RESERVE, Ordering::Relaxed);
        let fourth = TcpStream::connect(address).expect("connects");
        assert_eq!(poll(&mut door, &bed, late), None);
        let ended = |stream: &TcpStream| {
            stream
                .set_read_timeout(Some(std::time::Duration::from_millis(200)))
                .expect("is set");
            matches!(std::io::Read::read(&mut &*stream, &mut [0]), Ok(0))
        };
        assert!(ended(&fourth));
        drop((second, third));
    }
}
