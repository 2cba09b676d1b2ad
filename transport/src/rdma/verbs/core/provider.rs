//! The interface, over what `core` does.

use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

use ferroce_buf::Region;

use super::*;
use crate::host::route_address;

impl Provider for VerbsProvider {
    type Incoming = VerbsIncoming;

    fn open(
        &mut self,
        incoming: VerbsIncoming,
        demand: &Demand,
        now: Tick,
    ) -> Result<QpId, VerbsIncoming> {
        self.now = now;
        let plan = VerbsProvider::plan(incoming.device(), demand, false);
        let (mut plan, id) = match (plan, self.place()) {
            (Ok(plan), Some(id)) => (plan, id),
            (Err(why), id) => {
                log::warn!("RDMA: {}: {why}", incoming.request().peer);
                self.free.extend(id.map(|id| id.slot));
                return Err(incoming);
            }
            (Ok(_), None) => return Err(incoming),
        };
        let device = incoming.device().clone();
        let (cm, request) = incoming.take();
        plan.reads_out = plan.reads_out.min(request.responder_resources);
        plan.reads_in = plan.reads_in.min(request.initiator_depth);
        let conn = Conn::new((cm, id), device, self.core.clone(), plan, None);
        let conn = Arc::new(conn);
        self.add(
            id,
            conn.clone(),
            (request.local, request.peer),
            plan.reads_out,
        );
        self.shared.send(id.slot as usize, Job::Make(conn));
        Ok(id)
    }

    fn reject(&mut self, incoming: VerbsIncoming, private: &[u8], _now: Tick) {
        self.counters.refused += 1;
        let (id, _) = incoming.take();
        let job = Job::Refuse(id, Some(PrivateData::new(private)));
        self.shared.send(0, job);
    }

    fn accept(&mut self, qp: QpId, private: &[u8], now: Tick) {
        self.now = now;
        let private = PrivateData::new(private);
        let found = self.qp_mut(qp);
        match found.stage {
            Stage::Making => found.accept = Some(private),
            Stage::Made => self.let_in(qp, private),
            _ => {}
        }
    }

    fn connect(&mut self, dial: &Dial<'_>, now: Tick) -> Result<QpId, DialError> {
        self.now = now;
        if !self.shared.options().host {
            return Err(DialError::Resources(
                "this process was not started as a host".into(),
            ));
        }
        let local = match dial.local {
            Some(ip) => ip,
            None => route_address(dial.peer).map_err(|_| DialError::NoRoute)?,
        };
        let cm = self.shared.bound(SocketAddr::new(local, 0));
        let cm = cm.map_err(|_| DialError::NoRoute)?;
        let refuse = |shared: &Shared, why| {
            shared.send(0, Job::Refuse(cm, None));
            Err(why)
        };
        let Some(context) = cm.context() else {
            return refuse(&self.shared, DialError::NoRoute);
        };
        let planned = self.shared.device(context).and_then(|device| {
            let plan = VerbsProvider::plan(&device, &dial.demand, true)?;
            Ok((device, plan))
        });
        let (device, plan) = match planned {
            Ok(planned) => planned,
            Err(why) => return refuse(&self.shared, DialError::Resources(why)),
        };
        let Some(id) = self.place() else {
            let why = format!("{QPS_MAX} queue pairs are taken");
            return refuse(&self.shared, DialError::Resources(why));
        };
        let private = Some(PrivateData::new(dial.private));
        let conn = Conn::new((cm, id), device, self.core.clone(), plan, private);
        let conn = Arc::new(conn);
        let local = conn.local().unwrap_or(SocketAddr::new(local, 0));
        self.add(id, conn.clone(), (local, dial.peer), plan.reads_out);
        if let Some(class) = self.shared.options().traffic_class {
            conn.set_traffic_class(class);
        }
        if let Err(cause) = conn.resolve(dial.peer) {
            log::debug!("RDMA: {}: {cause}", dial.peer);
            self.end(id, Why::Unreachable, true);
        }
        Ok(id)
    }

    fn limits(&self, qp: QpId) -> Limits {
        self.qp(qp).limits
    }

    fn local(&self, qp: QpId) -> SocketAddr {
        self.qp(qp).local
    }

    fn peer(&self, qp: QpId) -> SocketAddr {
        self.qp(qp).peer
    }

    fn private(&self, qp: QpId) -> PrivateData {
        self.qp(qp).private
    }

    #[inline]
    fn post_recv(&mut self, qp: QpId, buf: Option<Buf>) {
        let found = self.qp_mut(qp);
        match found.stage {
            Stage::Making => found.recvs.push_back(buf),
            Stage::Made | Stage::Up if !found.stopping => self.post(qp, buf),
            _ => self.events.extend(buf.map(|buf| Event::Unposted { buf })),
        }
    }

    #[inline]
    fn answer(&mut self, qp: QpId, answer: Answer) {
        let Answer {
            tag,
            remote,
            bufs,
            capsule,
            invalidate,
        } = answer;
        if !self.qp(qp).posts() {
            return self.events.push_back(Event::Sent {
                qp,
                tag,
                bufs,
                status: WcStatus::Flushed,
            });
        }
        let first = self.begin(qp);
        self.transfer(qp, opcode::IBV_WR_RDMA_WRITE, remote, &bufs);
        if let Some(capsule) = capsule {
            self.message(qp, &capsule, &BufList::new(), invalidate);
        } else if bufs.is_empty() {
            // A WRITE of no bytes, from no piece of memory.
            let write = Work::new(opcode::IBV_WR_RDMA_WRITE);
            self.scratch.wrs.push(write.remote(remote.addr, remote.key));
        }
        self.post_sends(qp, first, What::Send, tag, bufs);
    }

    #[inline]
    fn send(&mut self, qp: QpId, message: Message) {
        let Message { tag, head, bufs } = message;
        if !self.qp(qp).posts() {
            return self.events.push_back(Event::Sent {
                qp,
                tag,
                bufs,
                status: WcStatus::Flushed,
            });
        }
        let first = self.begin(qp);
        self.message(qp, &head, &bufs, None);
        self.post_sends(qp, first, What::Send, tag, bufs);
    }

    #[inline]
    fn read(&mut self, qp: QpId, read: Read) {
        let Read { tag, remote, bufs } = read;
        if !self.qp(qp).posts() {
            return self.events.push_back(Event::ReadDone {
                qp,
                tag,
                bufs,
                status: WcStatus::Flushed,
            });
        }
        let first = self.begin(qp);
        self.transfer(qp, opcode::IBV_WR_RDMA_READ, remote, &bufs);
        self.post_sends(qp, first, What::Read, tag, bufs);
    }

    fn register(&mut self, region: &Arc<Region>) -> io::Result<()> {
        self.shared.register(region)
    }

    fn reaches(&mut self, qp: QpId, buf: &Buf) -> bool {
        let found = find(&mut self.slots, qp).expect("the queue pair is not gone");
        self.keys.find(&found.conn.device, buf).is_some()
    }

    /// By a memory window of type 2, bound to the queue pair: a work request of its own, which goes before the command
    /// that names the key. One piece of memory, since a window shows one.
    fn grant(&mut self, qp: QpId, bufs: BufList, access: Access) -> Result<Remote, BufList> {
        let found = find(&mut self.slots, qp).expect("the queue pair is not gone");
        let at = found.grants.iter().position(|grant| grant.bufs.is_none());
        let (Some(at), Some(piece), true) = (at, bufs.iter().next(), found.posts()) else {
            return Err(bufs);
        };
        let mut end = piece.as_ptr() as u64;
        let one_piece = bufs.iter().all(|buf| {
            let joined = buf.as_ptr() as u64 == end && buf.region() == piece.region();
            end += buf.len() as u64;
            joined
        });
        if !one_piece {
            return Err(bufs);
        }
        let addr = piece.as_ptr() as u64;
        let mr = self.keys.of(&found.conn.device, piece).mr;
        let first = self.begin(qp);
        let found = find(&mut self.slots, qp).expect("it was there");
        let made = found.made.as_deref_mut().expect("it is made");
        let (work, key) = made.bind(at, mr, (addr, end - addr), access == Access::Write);
        found.grants[at] = Grant {
            key,
            valid: true,
            bufs: Some(bufs),
        };
        self.scratch.wrs.push(work);
        self.post_sends(qp, first, What::Bind, 0, BufList::new());
        self.post_waiting();
        // The request named the window by its key of before, so only now.
        let found = find(&mut self.slots, qp).expect("it was there");
        found
            .made
            .as_deref_mut()
            .expect("it is made")
            .bound(at, key);
        Ok(Remote { addr, key })
    }

    /// Where the peer did not invalidate the key this waits until the device did, which takes as long as what was posted
    /// before takes to be acknowledged. If the queue pair is ending it is put into its error state first.
    fn revoke(&mut self, qp: QpId, key: u32) -> Option<BufList> {
        let found = find(&mut self.slots, qp)?;
        let granted = |grant: &Grant| grant.key == key && grant.bufs.is_some();
        let at = found.grants.iter().position(granted)?;
        if found.grants[at].valid && found.posts() {
            self.invalidate(qp, at);
        }
        let found = find(&mut self.slots, qp)?;
        if found.grants[at].valid && !found.in_error {
            found.in_error = true;
            found.conn.to_error();
            self.stop(qp);
        }
        let found = find(&mut self.slots, qp)?;
        found.grants[at].valid = false;
        found.grants[at].bufs.take()
    }

    fn close(&mut self, qp: QpId, now: Tick) {
        self.now = now;
        self.post_waiting();
        let found = self.qp_mut(qp);
        found.told = true;
        if matches!(found.stage, Stage::Making | Stage::Made | Stage::Up) {
            found.stage = Stage::Ending {
                stopped: false,
                since: now,
            };
            self.ending.push(qp.slot);
        }
        self.stop(qp);
    }

    #[inline]
    fn poll(&mut self, now: Tick) -> Option<Event> {
        self.now = now;
        if self.left_in_turn == 0 {
            return None;
        }
        self.left_in_turn -= 1;
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            if let Some(event) = self.next_completion() {
                return Some(event);
            }
            if !self.events.is_empty() {
                continue;
            }
            if let Some(mail) = self.core.inbox.pop() {
                self.on_mail(mail);
                continue;
            }
            if !self.fill() {
                self.end_some();
                return self.events.pop_front();
            }
        }
    }

    fn flush(&mut self, _now: Tick) {
        self.post_waiting();
        // What is left of the turn's events is for the next one.
        self.cut = self.left_in_turn == 0;
        self.left_in_turn = EVENTS_PER_TURN;
    }

    fn next_timeout(&self) -> Option<Tick> {
        let due = self.ending.iter().filter_map(|slot| {
            match self.slots[*slot as usize].qp.as_deref()?.stage {
                Stage::Ending { since, .. } => Some(since.plus_ns(DRAIN_NS + 1)),
                _ => None,
            }
        });
        due.min().map(|due| due.max(self.now.plus_ns(1)))
    }

    fn has_work(&self) -> bool {
        self.cut
            || self.scratch.qp.is_some()
            || !self.events.is_empty()
            || self.completions.at < self.completions.count
            || !self.core.inbox.is_empty()
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.epoll())
    }

    fn arm(&mut self, patient: bool) -> bool {
        // What is there already spares the system calls.
        if self.has_work() || self.fill() {
            return false;
        }
        let patient = patient && self.reads == 0 && self.ending.is_empty();
        self.idle_arms = self.idle_arms.saturating_add(1);
        let any = self.idle_arms > IDLE_ARMS;
        for at in 0..self.cqs.len() {
            while any || self.cqs[at].word == Word::Given {
                let Some(whose) = self.cqs[at].cq.read_word() else {
                    break;
                };
                let mut cqs = self.cqs.iter_mut();
                if let Some(polled) = cqs.find(|polled| polled.cq.address() == whose) {
                    polled.word = Word::None;
                }
            }
        }
        for (at, polled) in self.cqs.iter_mut().enumerate() {
            let awaited = polled.cq.takes == Takes::Awaited;
            if !awaited {
                // What came home meanwhile is there for what comes after it.
                self.next_cq = at;
            }
            if polled.word == Word::None && (awaited || !patient) {
                polled.cq.arm();
                polled.word = Word::Asked;
            }
        }
        // What completed before that tells nobody.
        !self.fill() && self.core.inbox.is_empty()
    }

    fn each_counter(&self, give: &mut dyn FnMut(&'static str, u64)) {
        let counters = &self.counters;
        for (name, value) in [
            ("verbs_connections", counters.connections),
            ("verbs_refused", counters.refused),
            ("verbs_failed", counters.failed),
            ("verbs_flushed", counters.flushed),
            ("verbs_remote_access_errors", counters.remote_access),
            ("verbs_retries_exceeded", counters.retries_exceeded),
            ("verbs_violations", counters.violations),
            ("verbs_stale_completions", counters.stale),
            ("verbs_slow_drains", counters.slow_drains),
        ] {
            give(name, value);
        }
    }
}

impl Drop for VerbsProvider {
    /// Destroys its queue pairs. Bufs that are posted or granted do not come back: who drops a core drops its pools as
    /// well, and those keep memory that is out.
    fn drop(&mut self) {
        for slot in &mut self.slots {
            let Some(mut qp) = slot.qp.take() else {
                continue;
            };
            // What is being made now is waited for, since only its maker knows it.
            while !qp.was_made && !qp.conn.never_make() {
                match self.core.inbox.pop() {
                    Some(Mail::Made(id, made)) if id == qp.id => {
                        qp.was_made = true;
                        qp.made = made.ok();
                    }
                    Some(_) => {}
                    None => std::thread::sleep(std::time::Duration::from_millis(1)),
                }
            }
            if !matches!(qp.stage, Stage::Destroying | Stage::Destroyed) {
                let job = Job::Destroy(qp.conn.clone(), qp.made.take());
                self.shared.send(qp.id.slot as usize, job);
            }
        }
    }
}
