//! How queue pairs begin and end: what set-up threads say of them, and what is left to do until they are gone.

use super::*;

impl VerbsProvider {
    pub(super) fn on_mail(&mut self, mail: Mail) {
        match mail {
            Mail::Made(qp, made) => self.on_made(qp, made),
            Mail::Established { qp, reads, private } => {
                let Some(found) = find(&mut self.slots, qp) else {
                    return;
                };
                if found.conn.private.is_some() {
                    found.private = private;
                    found.limits.reads = found.limits.reads.min(u32::from(reads));
                }
                if found.stage == Stage::Made {
                    found.stage = Stage::Up;
                    self.counters.connections += 1;
                    self.events.push_back(Event::Established { qp });
                }
            }
            Mail::Over { qp, why, private } => {
                // If something of ours failed and the peer hung up for that, the failure is the reason.
                self.look();
                if let Some(found) = find(&mut self.slots, qp)
                    && !private.bytes().is_empty()
                {
                    found.private = private;
                }
                self.end(qp, why, true);
            }
            Mail::Violation(qp) => {
                self.counters.violations += 1;
                if let Some(found) = find(&mut self.slots, qp) {
                    found.violated = true;
                }
            }
            Mail::Destroyed(qp) => {
                if let Some(found) = find(&mut self.slots, qp) {
                    found.stage = Stage::Destroyed;
                }
            }
            Mail::DeviceGone(device) => {
                self.cqs.retain(|polled| !polled.cq.is_given_up());
                self.keys.forget(&device);
            }
        }
    }

    fn on_made(&mut self, qp: QpId, made: Result<Box<Made>, String>) {
        let found = find(&mut self.slots, qp).expect("it waits for what is being made");
        found.was_made = true;
        let made = match made {
            Ok(made) => made,
            Err(why) => {
                self.counters.failed += 1;
                // It fails as well when its peer is gone already, which peers can be as often as they like.
                let quiet = |warned: Tick| self.now < warned.plus_ns(WARN_EVERY_NS);
                if self.warned.is_some_and(quiet) {
                    log::debug!("RDMA: {}: {why}", found.peer);
                } else {
                    self.warned = Some(self.now);
                    log::warn!("RDMA: {}: {why}", found.peer);
                }
                return self.end(qp, Why::Error(WcStatus::LocalError), true);
            }
        };
        for cq in made.cqs.each() {
            if !self.cqs.iter().any(|polled| polled.cq.is(cq)) {
                let (cq, word) = (cq.clone(), Word::None);
                self.cqs.push(Polled { cq, word });
            }
        }
        let grant = || Grant {
            key: 0,
            valid: false,
            bufs: None,
        };
        found.grants = (0..made.windows()).map(|_| grant()).collect();
        found.cqs = Some(made.cqs.clone());
        found.made = Some(made);
        let waiting = std::mem::take(&mut found.recvs);
        if found.stage != Stage::Making {
            // It was closed meanwhile.
            let bufs = waiting.into_iter().flatten();
            return self.events.extend(bufs.map(|buf| Event::Unposted { buf }));
        }
        found.stage = Stage::Made;
        found.recvs.reserve(found.plan.recvs as usize);
        let accept = found.accept.take();
        for buf in waiting {
            self.post(qp, buf);
        }
        if let Some(private) = accept {
            self.let_in(qp, private);
        }
    }

    /// The RECVs are posted, so the peer may come.
    pub(super) fn let_in(&mut self, qp: QpId, private: PrivateData) {
        let found = find(&mut self.slots, qp).expect("the queue pair is not gone");
        let job = Job::Accept {
            conn: found.conn.clone(),
            private,
            reads_out: found.plan.reads_out,
            reads_in: found.plan.reads_in,
        };
        self.shared.send(qp.slot as usize, job);
    }

    /// It ends, for the first reason that is given. `stopped`: it is in its error state, or never left its first one.
    pub(super) fn end(&mut self, qp: QpId, why: Why, stopped: bool) {
        let Some(found) = find(&mut self.slots, qp) else {
            return;
        };
        let why = if found.violated { Why::Violation } else { why };
        match found.stage {
            Stage::Destroying | Stage::Destroyed => return,
            Stage::Ending {
                stopped: ref mut known,
                ..
            } => *known |= stopped,
            _ => {
                let since = self.now;
                found.stage = Stage::Ending { stopped, since };
                self.ending.push(qp.slot);
            }
        }
        if !found.told {
            found.told = true;
            self.events.push_back(Event::Disconnected { qp, why });
        }
        // Where nothing was connected, the device was not told to stop.
        self.stop(qp);
    }

    /// Asks for the error state, once.
    pub(super) fn stop(&mut self, qp: QpId) {
        let shared = &self.shared;
        if let Some(found) = find(&mut self.slots, qp)
            && !found.stopping
        {
            found.stopping = true;
            shared.send(qp.slot as usize, Job::Disconnect(found.conn.clone()));
        }
    }

    /// Moves on those that are over: destroys what came back whole, and says farewell to what is destroyed.
    pub(super) fn end_some(&mut self) {
        let mut at = 0;
        while at < self.ending.len() {
            let slot = self.ending[at] as usize;
            if self.end_one(slot) {
                self.ending.swap_remove(at);
            } else {
                at += 1;
            }
        }
    }

    fn end_one(&mut self, slot: usize) -> bool {
        let Some(found) = self.slots[slot].qp.as_deref_mut() else {
            return true;
        };
        let id = found.id;
        match found.stage {
            Stage::Ending { stopped, since } => {
                // A bind that succeeded completes with what is posted after it, which may be nothing.
                let bound = |posted: &Posted| posted.what == What::Bind;
                let empty = found.sends.iter().all(bound) && found.recvs.is_empty();
                let granted = found.grants.iter().any(|grant| grant.bufs.is_some());
                let late = self.now.since(since) > DRAIN_NS;
                let known = found.was_made || found.conn.never_make();
                if granted || !known || !stopped || !(empty || late || found.made.is_none()) {
                    return false;
                }
                self.counters.slow_drains += u64::from(!empty && found.made.is_some());
                found.stage = Stage::Destroying;
                let job = Job::Destroy(found.conn.clone(), found.made.take());
                self.shared.send(slot, job);
                false
            }
            // No completion queue had anything left when this was called.
            Stage::Destroyed => {
                if let Some(cqs) = found.cqs.take() {
                    cqs.give_back(&found.plan);
                }
                for posted in found.sends.drain(..) {
                    self.sends -= 1;
                    self.reads -= u32::from(posted.what == What::Read);
                    self.events.extend(done(id, posted, WcStatus::Flushed));
                }
                let bufs = found.recvs.drain(..).flatten();
                self.events.extend(bufs.map(|buf| Event::Unposted { buf }));
                self.events.push_back(Event::Gone { qp: id });
                self.slots[slot].qp = None;
                self.slots[slot].generation = self.slots[slot].generation.wrapping_add(1);
                self.free.push(slot as u32);
                true
            }
            _ => false,
        }
    }
}
