//! Requests for connections, as a node hears them before a core has them.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};

use ferroce_engine::port::Tick;
use ferroce_wire::Wire;
use ferroce_wire::num::{Be16, Be32};
use ferroce_wire::roce::{CmRej, CmReq, CmaHeader, PKEY_DEFAULT, PORT, RejectReason, service_id};

use super::{MARK, Peer, REPEAT_MS, address, gid};
use crate::rdma::provider::{self, PrivateData, QpId, Request, STALE_MS};
use crate::roce::counters::Dropped;
use crate::roce::mad::{self, Mad, Message};
use crate::roce::packet::{Mtu, Psn};

/// Requests that may be remembered for [`REPEAT_MS`], and so requests in that time.
pub(super) const RECENT_MAX: usize = 4096;
/// ... and of these of one address: a host with a queue for each of many cores, several times over, but
/// not all there is for others.
pub(super) const RECENT_OF_ONE_MAX: u32 = RECENT_MAX as u32 / 4;

/// What became of a request, as cores tell it to the [`Front`].
#[derive(Debug, Default)]
pub(super) struct Fate {
    /// Once it was refused: what answers repetitions.
    refused: OnceLock<(RejectReason, Mad)>,
    /// Once it was accepted: the core that has the connection, and its queue pair there.
    accepted: OnceLock<(u8, QpId)>,
}

/// Beside the front's, the request has one on its way to a core, and then its connection as long as it lives.
pub(super) type Link = Arc<Fate>;

/// A request that the front knows.
#[derive(Debug)]
pub(super) struct Known {
    link: Link,
    heard: Tick,
    /// The sender's queue pair.
    qpn: u32,
    /// When its core was last told that it may be stale.
    doubted: Option<Tick>,
}

impl Known {
    fn is_recent(&self, now: Tick) -> bool {
        now.since(self.heard) < REPEAT_MS * 1_000_000
    }

    /// It waits for a core, or its connection lives there.
    fn lives(&self) -> bool {
        Arc::strong_count(&self.link) > 1
    }
}

/// A request on its way to a core.
#[derive(Clone, Debug)]
pub struct Incoming {
    request: Request,
    /// Which of the node's addresses it came to.
    pub(crate) port: usize,
    pub(crate) from: SocketAddr,
    pub(super) tid: u64,
    pub(super) remote_id: u32,
    pub(crate) peer: Peer,
    pub(super) link: Link,
    /// The connection of the same queue pair at the other end, if there is one.
    stale: Option<(u8, QpId)>,
}

impl Incoming {
    /// The core that must have it, if that is not for others to choose: a connection there may be stale.
    pub fn core(&self) -> Option<usize> {
        self.stale.map(|(core, _)| core.into())
    }

    /// A core accepted it on this queue pair.
    pub(super) fn accepted(&self, core: u8, qp: QpId) {
        let first = self.link.accepted.set((core, qp));
        first.expect("a request is accepted once");
    }

    /// The answer when there is no room for it.
    pub fn refusal(&self) -> Box<Mad> {
        Box::new(self.refuse(RejectReason::NO_RESOURCES, &[]))
    }

    /// A refusal, which is also what the request hears if it comes again.
    pub(super) fn refuse(&self, reason: RejectReason, private: &[u8]) -> Mad {
        let rej = || {
            (
                reason,
                rej_of_req(self.tid, self.remote_id, reason, &[], private),
            )
        };
        self.link.refused.get_or_init(rej).1
    }
}

impl provider::Incoming for Box<Incoming> {
    fn request(&self) -> &Request {
        &self.request
    }

    fn stale(&self) -> Option<QpId> {
        self.stale.map(|(_, qp)| qp)
    }
}

/// What becomes of a request.
#[derive(Debug)]
pub enum Heard {
    /// A core may have it.
    Incoming(Box<Incoming>),
    /// It is refused; this is the answer.
    Reject(RejectReason, Box<Mad>),
    /// Nothing.
    Dropped(Dropped),
}

/// Hears requests for a node.
#[derive(Debug)]
pub struct Front {
    services: Vec<SocketAddr>,
    pub(super) recent: VecDeque<(Key, Tick)>,
    /// The same, to be found, and those of connections that live.
    pub(super) known: HashMap<Key, Known>,
    /// Of each queue pair of a peer the request that came last, but for those that found an older one alive.
    pub(super) queue_pairs: HashMap<(IpAddr, u32), Key>,
    /// With so many it is looked which of them are over.
    known_max: usize,
    /// How many of the recent ones each address sent.
    pub(super) sources: HashMap<IpAddr, u32>,
}

/// What a request is known by: its sender, and the sender's names for the connection and itself.
pub(super) type Key = (IpAddr, u32, u64);

impl Front {
    /// For those who ask for one of these addresses.
    pub fn new(services: Vec<SocketAddr>) -> Front {
        Front {
            services,
            recent: VecDeque::with_capacity(RECENT_MAX),
            known: HashMap::with_capacity(RECENT_MAX),
            queue_pairs: HashMap::with_capacity(RECENT_MAX),
            known_max: 2 * RECENT_MAX,
            sources: HashMap::new(),
        }
    }

    /// Where it is listened.
    pub fn services(&self) -> &[SocketAddr] {
        &self.services
    }

    /// Nobody listens there any more.
    pub fn forget(&mut self, service: SocketAddr) {
        self.services.retain(|other| *other != service);
    }

    /// A request came from `from` to our address number `port`, which is `local` and has packets of
    /// `mtu` at most.
    pub fn on_req(
        &mut self,
        now: Tick,
        (port, local, mtu): (usize, IpAddr, Mtu),
        from: SocketAddr,
        (tid, req): (u64, &CmReq),
    ) -> Heard {
        let key = (from.ip(), req.local_id.get(), req.ca_guid.get());
        self.age(now);
        let known = self.known.get(&key);
        if let Some(known) = known.filter(|known| known.is_recent(now) || known.lives()) {
            // A REP is repeated by the core that sent it; a REJ may be lost, and is sent once. When the connection stands,
            // a REQ that comes late says nothing new (12.9.8.1).
            match known.link.refused.get() {
                // What was stale may have ended meanwhile.
                Some((RejectReason::STALE, _)) => {}
                Some((reason, mad)) => return Heard::Reject(*reason, Box::new(*mad)),
                None => return Heard::Dropped(Dropped::CmState),
            }
        }
        let sent = self.sources.get(&key.0).copied().unwrap_or(0);
        if self.recent.len() == RECENT_MAX || sent >= RECENT_OF_ONE_MAX {
            return Heard::Dropped(Dropped::CmFlood);
        }
        let examined = self.examine(port, local, mtu, from, tid, req);
        match examined.and_then(|incoming| self.doubt(now, incoming)) {
            Ok(incoming) => {
                self.recent.push_back((key, now));
                *self.sources.entry(key.0).or_default() += 1;
                let qpn = incoming.peer.qpn;
                if incoming.stale.is_none() {
                    self.queue_pairs.insert((key.0, qpn), key);
                }
                let known = Known {
                    link: incoming.link.clone(),
                    heard: now,
                    qpn,
                    doubted: None,
                };
                self.known.insert(key, known);
                Heard::Incoming(Box::new(incoming))
            }
            Err(reason) => {
                let ari: &[u8] = match reason {
                    RejectReason::INVALID_MTU => &[mtu.code() << 4],
                    _ => &[],
                };
                Heard::Reject(
                    reason,
                    Box::new(rej_of_req(tid, req.local_id.get(), reason, ari, &[])),
                )
            }
        }
    }

    /// A queue pair has one connection. If there is one with that of the sender, whoever had it has forgotten it: a host
    /// that crashed and came back. The request is refused, and the old connection is to end (12.9.8.3.1). Not at once,
    /// though, as Linux ends it: anybody can send this with the address of another host, whose queue pairs have numbers
    /// that are easy to guess. So the core of the old connection has the request, and looks first whether the peer is
    /// there (`RdmaFabric::adopt`), once in `STALE_MS`.
    fn doubt(&mut self, now: Tick, mut incoming: Incoming) -> Result<Incoming, RejectReason> {
        let qpn = incoming.peer.qpn;
        let key = self.queue_pairs.get(&(incoming.from.ip(), qpn));
        let known = key.and_then(|key| self.known.get_mut(key));
        let Some(old) = known.filter(|known| known.qpn == qpn && known.lives()) else {
            return Ok(incoming);
        };
        let told = |doubted: Tick| now.since(doubted) < STALE_MS * 1_000_000;
        match old.link.accepted.get() {
            Some(accepted) if !old.doubted.is_some_and(told) => {
                old.doubted = Some(now);
                incoming.stale = Some(*accepted);
                Ok(incoming)
            }
            _ => Err(RejectReason::STALE),
        }
    }

    /// Forgets requests that are no longer recent, unless their connections live.
    fn age(&mut self, now: Tick) {
        while let Some((old, heard)) = self.recent.front()
            && now.since(*heard) >= REPEAT_MS * 1_000_000
        {
            let over = |known: &Known| !known.is_recent(now) && !known.lives();
            if self.known.get(old).is_some_and(over) {
                self.known.remove(old);
            }
            if let Some(count) = self.sources.get_mut(&old.0) {
                *count -= 1;
                if *count == 0 {
                    self.sources.remove(&old.0);
                }
            }
            self.recent.pop_front();
        }
        // Twice as many as there were then: that is one look for each of so many requests.
        if self.known.len().max(self.queue_pairs.len()) >= self.known_max {
            self.known
                .retain(|_, known| known.is_recent(now) || known.lives());
            self.queue_pairs
                .retain(|(_, qpn), key| self.known.get(key).is_some_and(|known| known.qpn == *qpn));
            self.known_max = 2 * (self.known.len() + RECENT_MAX);
        }
    }

    fn examine(
        &self,
        port: usize,
        local: IpAddr,
        mtu: Mtu,
        from: SocketAddr,
        tid: u64,
        req: &CmReq,
    ) -> Result<Incoming, RejectReason> {
        let cma = CmaHeader::view(&req.private_data).expect("92 bytes hold it");
        let v4 = local.is_ipv4();
        if req.remote_timeout.transport() != 0 {
            return Err(RejectReason::INVALID_TRANSPORT);
        }
        if cma.version != 0 || cma.ip_version >> 4 != if v4 { 4 } else { 6 } {
            return Err(RejectReason::UNSUPPORTED);
        }
        // Other addresses in the message than around it: they were translated on the way, which the
        // ICRC of the packets to come would not survive.
        if address(&cma.dst, v4) != local
            || address(&cma.src, v4) != from.ip()
            || req.remote_gid != gid(local)
        {
            return Err(RejectReason::INVALID_GID);
        }
        let asked = self
            .services
            .iter()
            .find(|service| {
                service.ip() == local && service_id(service.port()) == req.service_id.get()
            })
            .ok_or(RejectReason::INVALID_SERVICE_ID)?;
        let theirs = Mtu::from_code(req.path.mtu()).ok_or(RejectReason::INVALID_MTU)?;
        if theirs > mtu {
            return Err(RejectReason::INVALID_MTU);
        }
        if req.qpn.get() < 2 || req.pkey.get() & 0x7FFF != PKEY_DEFAULT & 0x7FFF {
            return Err(RejectReason::UNSUPPORTED);
        }
        Ok(Incoming {
            request: Request {
                local: *asked,
                peer: SocketAddr::new(from.ip(), cma.port.get()),
                private: PrivateData::new(&req.private_data[CmaHeader::LEN..]),
                responder_resources: req.responder_resources,
                initiator_depth: req.initiator_depth,
            },
            port,
            from: SocketAddr::new(from.ip(), PORT),
            tid,
            remote_id: req.local_id.get(),
            peer: Peer {
                qpn: req.qpn.get(),
                send_psn: Psn::new(req.starting_psn.get()),
                mtu: theirs,
                reads_max: req.responder_resources,
                ours: req.private_data.ends_with(&MARK),
            },
            link: Link::default(),
            stale: None,
        })
    }
}

/// The refusal of a request that nobody knows yet.
pub(super) fn rej_of_req(
    tid: u64,
    remote_id: u32,
    reason: RejectReason,
    ari: &[u8],
    private: &[u8],
) -> Mad {
    let mut rej = CmRej {
        remote_id: Be32::new(remote_id),
        reason: Be16::new(reason.0),
        ari_len: (ari.len() as u8) << 1,
        ..CmRej::default()
    };
    rej.ari[..ari.len()].copy_from_slice(ari);
    rej.private_data[..private.len()].copy_from_slice(private);
    mad::build(tid, Message::Rej(&rej))
}
