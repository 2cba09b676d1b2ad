//! Who may connect: new controllers, and queues that join theirs.

use std::collections::BTreeMap;
use std::sync::Arc;

use ferroce_wire::fabrics::{CNTLID_DYNAMIC, CNTLID_MAX, ConnectRefusal};
use ferroce_wire::status::Status;

use super::{Control, Live, LiveQueue, Waiting};
use crate::controller::{Association, Kind};
use crate::limits;
use crate::mail::{Admission, ConnectRequest, Refused, ToCore};
use crate::plant::{self, Bug};
use crate::port::Tick;
use crate::queue::QueueRef;

impl LiveQueue {
    fn new(core: usize) -> LiveQueue {
        LiveQueue {
            core,
            began: false,
            ending: false,
        }
    }
}

impl<I, D> Control<I, D> {
    pub(super) fn on_connect(
        &mut self,
        core: usize,
        queue: QueueRef,
        request: Box<ConnectRequest>,
        now: Tick,
    ) {
        let kind = match self.check_connect(&request) {
            Ok(kind) => kind,
            Err(refused) => {
                log::info!(
                    "{}: {} may not connect to {}: {}",
                    request.peer,
                    request.hostnqn,
                    request.subnqn,
                    refused.status
                );
                let admission = Err(refused);
                self.send(core, ToCore::Admit { queue, admission });
                return;
            }
        };
        if request.qid == 0 {
            self.admit_admin(core, queue, &request, kind, now);
        } else {
            self.admit_io(core, queue, request, now);
        }
    }

    fn check_connect(&self, request: &ConnectRequest) -> Result<Kind, Refused> {
        let invalid = |what: ConnectRefusal| Refused {
            status: Status::CONNECT_INVALID_PARAMETERS.dnr(),
            dw0: what.dw0(),
        };
        if self.stopping {
            return Err(Refused {
                status: Status::CONNECT_CONTROLLER_BUSY,
                dw0: 0,
            });
        }
        if request.subnqn.is_discovery() {
            // A discovery controller has no I/O queues (Base 3.1.2.3).
            return match (request.qid, request.cntlid) {
                (0, CNTLID_DYNAMIC) => Ok(Kind::Discovery),
                (0, _) => Err(invalid(ConnectRefusal::CNTLID)),
                _ => Err(invalid(ConnectRefusal::QID)),
            };
        }
        let Some(subsystem) = self.table.subsystems.get(request.subnqn.as_str()) else {
            return Err(invalid(ConnectRefusal::SUBNQN));
        };
        if !subsystem.allows(request.hostnqn.as_str()) {
            return Err(Refused {
                status: Status::CONNECT_INVALID_HOST.dnr(),
                dw0: 0,
            });
        }
        // The dynamic controller model (Base 3.1.3): a new controller for each association.
        if request.qid == 0 && request.cntlid != CNTLID_DYNAMIC {
            return Err(invalid(ConnectRefusal::CNTLID));
        }
        Ok(Kind::Io)
    }

    fn admit_admin(
        &mut self,
        core: usize,
        queue: QueueRef,
        request: &ConnectRequest,
        kind: Kind,
        now: Tick,
    ) {
        if self.is_full(core) {
            self.say_full(request);
            self.refuse(core, queue, Status::CONNECT_CONTROLLER_BUSY, 0);
            return;
        }
        let subsystem = self.table.subsystems.get(request.subnqn.as_str());
        let (found, range) = match subsystem.map(|subsystem| subsystem.cntlids) {
            Some(range) => (self.free_cntlid(range), range),
            None => (self.free_discovery_cntlid(), (1, CNTLID_MAX)),
        };
        let Some(cntlid) = found else {
            log::warn!(
                "{}: all controller identifiers from {range:?} are in use",
                request.peer
            );
            self.refuse(core, queue, Status::CONNECT_CONTROLLER_BUSY, 0);
            return;
        };
        let who = Arc::new(Association::new(
            cntlid,
            kind,
            request.subnqn.as_str().to_owned(),
            request.hostnqn.as_str().to_owned(),
            request.hostid,
            request.transport,
            (request.local, request.peer),
            self.cores.len(),
            now,
        ));
        let live = Live {
            who: who.clone(),
            owner: core,
            queues: BTreeMap::from([(0, LiveQueue::new(core))]),
            ending: false,
            resetting: false,
        };
        self.controllers.insert(cntlid, live);
        let admission = Ok(Admission { who, qid: 0 });
        self.send(core, ToCore::Admit { queue, admission });
    }

    fn free_cntlid(&mut self, (first, last): (u16, u16)) -> Option<u16> {
        let next = self.next_cntlid.entry((first, last)).or_insert(first);
        let start = if *next <= last { *next } else { first };
        let found = (start..=last)
            .chain(first..start)
            .find(|cntlid| !self.controllers.contains_key(cntlid))?;
        self.next_cntlid.insert((first, last), found + 1);
        Some(found)
    }

    /// Not one of those that a subsystem's hosts need, if there is another. A discovery controller's may be used again soon:
    /// hosts do not tell these apart by them.
    fn free_discovery_cntlid(&self) -> Option<u16> {
        let free = |cntlid: &u16| !self.controllers.contains_key(cntlid);
        let mut at = CNTLID_MAX;
        while at > 0 {
            let ranges = self.table.subsystems.values().map(|all| all.cntlids);
            let mut around = ranges.filter(|(first, last)| (*first..=*last).contains(&at));
            at = match around.next() {
                Some((first, _)) => first - 1,
                None if free(&at) => return Some(at),
                None => at - 1,
            };
        }
        (1..=CNTLID_MAX).rev().find(free)
    }

    /// An I/O queue joins its controller, unless commands of the same host's dead queues are still on
    /// their way to a drive: a write of theirs could land on top of a newer one.
    pub(super) fn admit_io(
        &mut self,
        core: usize,
        queue: QueueRef,
        mut request: Box<ConnectRequest>,
        now: Tick,
    ) {
        let owner = self.controllers.get(&request.cntlid);
        if let Some(owner) = owner.filter(|_| request.hostid == [0; 16]) {
            // For an I/O queue a host may leave it out (Base 6.3, HOSTID).
            request.hostid = owner.who.hostid;
        }
        if self.has_stale(&request) {
            // Who asks again for what it waits for has given up the connection it first asked on.
            let same = |waiting: &mut Waiting| {
                let earlier = &waiting.request;
                (earlier.cntlid, earlier.qid) == (request.cntlid, request.qid)
                    && (earlier.hostid, earlier.hostnqn) == (request.hostid, request.hostnqn)
            };
            for earlier in self.waiting.extract_if(.., same).collect::<Vec<_>>() {
                let (core, queue) = (earlier.core, earlier.queue);
                self.refuse(core, queue, Status::CONNECT_CONTROLLER_BUSY, 0);
            }
            let until = now.plus_ms(limits::STALE_WAIT_MS);
            self.waiting.push(Waiting {
                core,
                queue,
                request,
                until,
            });
            return;
        }
        let invalid = |what: ConnectRefusal| Refused {
            status: Status::CONNECT_INVALID_PARAMETERS.dnr(),
            dw0: what.dw0(),
        };
        // Base 6.3, QID.
        let exists = Refused {
            status: Status::INVALID_QUEUE_IDENTIFIER.dnr(),
            dw0: 0,
        };
        // Without DNR: the host tries again.
        let busy = Refused {
            status: Status::CONNECT_CONTROLLER_BUSY,
            dw0: 0,
        };
        let full = self.is_full(core);
        let admission = match self.controllers.get_mut(&request.cntlid) {
            Some(live) if !live.ending && live.who.subnqn == request.subnqn.as_str() => {
                let earlier = live.queues.get(&request.qid);
                let began = earlier.map(|queue| queue.began);
                if live.who.hostnqn != request.hostnqn.as_str() {
                    Err(invalid(ConnectRefusal::HOSTNQN))
                } else if live.who.hostid != request.hostid {
                    Err(invalid(ConnectRefusal::HOSTID))
                } else if request.qid > live.who.qid_max() {
                    Err(invalid(ConnectRefusal::QID))
                } else if live.resetting || !live.who.is_ready() {
                    // Base 6.3: it is not enabled.
                    Err(invalid(ConnectRefusal::QID))
                } else if began == Some(true) {
                    Err(exists)
                } else if began == Some(false) {
                    // Who asks again before it can have heard of the admission has lost the connection it first asked on.
                    Err(busy)
                } else if full {
                    self.say_full(&request);
                    Err(busy)
                } else {
                    live.queues.insert(request.qid, LiveQueue::new(core));
                    Ok(Admission {
                        who: live.who.clone(),
                        qid: request.qid,
                    })
                }
            }
            // Without DNR: a host that meets a node which was just started anew makes a new association, where Linux gives up
            // for good on one with it.
            _ => Err(Refused {
                status: Status::CONNECT_INVALID_PARAMETERS,
                dw0: ConnectRefusal::CNTLID.dw0(),
            }),
        };
        self.send(core, ToCore::Admit { queue, admission });
    }

    /// The host has an I/O queue in that subsystem which ended, alone or with its association, or is
    /// in reset, and is not gone.
    pub(super) fn has_stale(&self, request: &ConnectRequest) -> bool {
        if plant::on(Bug::StaleAdmitted) {
            return false;
        }
        self.controllers.values().any(|live| {
            let all = live.ending || live.resetting;
            let ended = |(qid, queue): (&u16, &LiveQueue)| *qid != 0 && (all || queue.ending);
            live.who.hostid == request.hostid
                && live.who.hostnqn == request.hostnqn.as_str()
                && live.who.subnqn == request.subnqn.as_str()
                && live.queues.iter().any(ended)
        })
    }

    /// The core has as many queues as it may. Those that are ending have no connection any more.
    fn is_full(&self, core: usize) -> bool {
        if self.queues_max == usize::MAX {
            return false;
        }
        let live = self.controllers.values().filter(|live| !live.ending);
        let queues = live.flat_map(|live| live.queues.values());
        queues
            .filter(|queue| queue.core == core && !queue.ending)
            .count()
            >= self.queues_max
    }

    fn say_full(&self, request: &ConnectRequest) {
        log::warn!(
            "{}: queue {} of {} was refused: its core has all the {} queues it may have (raise \
             `limits.queues`)",
            request.peer,
            request.qid,
            request.hostnqn,
            self.queues_max
        );
    }

    pub(super) fn refuse(&mut self, core: usize, queue: QueueRef, status: Status, dw0: u32) {
        let admission = Err(Refused { status, dw0 });
        self.send(core, ToCore::Admit { queue, admission });
    }
}
