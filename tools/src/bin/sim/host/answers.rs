//! What comes back to a path, and what it does then.

use ferroce_engine::host::{self, Goal, Step};
use ferroce_engine::port::Tick;
use ferroce_wire::fabrics::ConnectResponse;
use ferroce_wire::feature::NumberOfQueues;
use ferroce_wire::identify::{Cns, Csi, IDENTIFY_LEN, NamespaceList};
use ferroce_wire::sqe::{Sgl, Sqe};
use ferroce_wire::status::Status;

use super::{Path, Phase};
use crate::ground::Ground;
use crate::io;
use crate::net::{LinkId, ToHost, ToTarget};
use crate::plan::Manner;
use crate::queue::{Answered, Queue, What};
use crate::shared::MS;
use crate::wrong;

impl Path {
    /// Something came on one of its links.
    pub fn on_message(&mut self, ground: &mut Ground, link: LinkId, message: ToHost) {
        let Some(at) = self.find(link) else {
            // Of a life that is over.
            return;
        };
        match message {
            ToHost::Up => self.on_up(ground, at),
            ToHost::Data {
                cid,
                offset,
                data,
                success,
            } => {
                if let Some(answered) = self.queue(at).on_data(cid, offset, &data, success) {
                    self.on_answered(ground, at, answered);
                }
            }
            ToHost::Answer(cqe) => {
                let answered = self.queue(at).on_answer(cqe);
                self.on_answered(ground, at, answered);
            }
            ToHost::Ask {
                cid,
                fetch,
                offset,
                len,
            } if self.plan.manner != Manner::Mute || at.is_none() => {
                self.queue(at).on_ask(ground, cid, fetch, offset, len);
            }
            ToHost::Ask { .. } => (),
            ToHost::Closed => self.on_closed(ground, at, link),
        }
    }

    /// `None` is the admin queue.
    fn find(&self, link: LinkId) -> Option<Option<usize>> {
        if self.admin.as_ref().is_some_and(|admin| admin.link == link) {
            return Some(None);
        }
        self.io
            .iter()
            .position(|queue| queue.link == link)
            .map(Some)
    }

    fn queue(&mut self, at: Option<usize>) -> &mut Queue {
        match at {
            Some(at) => &mut self.io[at],
            None => self.admin.as_mut().expect("it was found"),
        }
    }

    fn on_up(&mut self, ground: &mut Ground, at: Option<usize>) {
        self.queue(at).up = true;
        self.connect(ground, at);
    }

    fn on_closed(&mut self, ground: &mut Ground, at: Option<usize>, link: LinkId) {
        let host = (self.plan.subsystem, self.plan.host);
        let excused = {
            let mut net = ground.net.borrow_mut();
            let any = self.links().iter().any(|link| net.link(*link).excused);
            any || ground.forbidden.contains(&host)
        };
        if !excused {
            wrong!(
                "the node closed link {link} of path {} for no reason",
                self.index
            );
        }
        self.queue(at).closed = true;
        if let Some(at) = at.filter(|_| self.phase == Phase::Live && self.plan.mends) {
            self.lose(ground, at);
            return;
        }
        if self.phase == Phase::Disconnecting
            && at.is_some()
            && self.io.iter().any(|queue| !queue.closed)
        {
            return;
        }
        self.tear_down(ground);
    }

    fn on_answered(&mut self, ground: &mut Ground, at: Option<usize>, answered: Answered) {
        let now = ground.common.now();
        let status = answered.cqe.status();
        let cmd = &answered.cmd;
        let link = self.queue(at).link;
        let numbers = [link.into(), answered.cqe.cid.get().into(), status.0.into()];
        ground.common.note("answer", &numbers);
        match &cmd.what {
            What::Io(io) => {
                io::check(ground, io, cmd.start, answered.got(), status);
                if ground.common.calm.get() || self.phase == Phase::Draining {
                    self.wake(ground, now);
                }
            }
            What::Connect { settles } => {
                let dw0 = answered.cqe.dw0.get();
                let settles = settles.clone();
                self.on_connected(ground, at, status, dw0, &settles);
            }
            What::Property => {
                let Some(bringup) = self.bringup.as_mut() else {
                    return;
                };
                if !status.is_success() {
                    wrong!("{status} for a property while {:?}", self.phase);
                }
                let went = match bringup.next(Tick(cmd.sent)) {
                    Step::Get(_) => bringup.got(answered.cqe.result64(), Tick(now)),
                    _ => {
                        bringup.done(Tick(now));
                        Ok(())
                    }
                };
                if let Err(error) = went {
                    wrong!("path {}: {error}", self.index);
                }
                self.step(ground);
            }
            What::Setup | What::Namespaces | What::Changed => self.on_list(ground, &answered),
            What::Event => self.on_event(ground, status),
            What::KeepAlive if !status.is_success() => wrong!("{status} for Keep Alive"),
            What::KeepAlive => (),
            What::Any => {
                let (got, all) = (answered.got().len(), status.is_success());
                if got > 0 && !all {
                    wrong!("{got} bytes and then {status}");
                }
            }
            What::Disconnect => {
                if !status.is_success() {
                    wrong!("{status} for Disconnect");
                }
            }
        }
        if self.phase == Phase::Draining {
            self.wake(ground, now);
        }
    }

    fn on_connected(
        &mut self,
        ground: &mut Ground,
        at: Option<usize>,
        status: Status,
        dw0: u32,
        settles: &[u64],
    ) {
        let qid = self.queue(at).qid;
        if status.is_success() {
            ground.stats.connects += 1;
            self.queue(at).connected = true;
        } else {
            let host = (self.plan.subsystem, self.plan.host);
            let busy = status.code() == Status::CONNECT_CONTROLLER_BUSY;
            let forbidden = ground.forbidden.contains(&host);
            let ending = {
                let mut net = ground.net.borrow_mut();
                self.links().iter().any(|link| net.link(*link).excused)
            };
            let spoiled =
                status.code() == Status::TRANSIENT_TRANSPORT_ERROR && ground.plan.weather.spoil > 0;
            if !busy && !forbidden && !ending && !spoiled {
                wrong!("Connect of queue {qid} was refused: {status}");
            }
        }
        match at {
            None if status.is_success() => {
                self.cntlid = ConnectResponse::from_dw0(dw0).cntlid;
                self.begin_bringup(ground, Goal::Enabled, Phase::Enabling);
            }
            None => self.tear_down(ground),
            Some(at) => {
                ground.settle(if status.is_success() { settles } else { &[] });
                if !status.is_success() {
                    // That one is given up.
                    let refused = self.io.remove(at).link;
                    ground
                        .net
                        .borrow_mut()
                        .send_to_target(refused, ToTarget::Closed);
                }
                if self.phase == Phase::Live && !self.io.is_empty() {
                    self.wake(ground, ground.common.now());
                    return;
                }
                if self.io.iter().any(|queue| !queue.connected) {
                    return;
                }
                if self.io.is_empty() {
                    self.tear_down(ground);
                    self.not_before += 20 * MS;
                } else {
                    self.enter(ground, Phase::Live);
                    self.wake(ground, ground.common.now());
                }
            }
        }
    }

    fn on_list(&mut self, ground: &mut Ground, answered: &Answered) {
        let now = ground.common.now();
        let status = answered.cqe.status();
        if !status.is_success() {
            let kind = &answered.cmd.what;
            if matches!(self.phase, Phase::Live | Phase::Setup(_)) {
                wrong!("{status} for {kind:?} of path {}", self.index);
            }
            return;
        }
        let whole = answered.got().len() == IDENTIFY_LEN;
        match answered.cmd.what {
            What::Namespaces if whole => {
                let list: NamespaceList = bytemuck::pod_read_unaligned(answered.got());
                self.known = list.iter().collect();
                if !matches!(self.phase, Phase::Setup(_)) {
                    self.told.clone_from(&self.known);
                    self.wake(ground, now);
                }
            }
            What::Changed if whole => {
                let identify = Sqe::identify(Cns::ACTIVE_NAMESPACES, 0, Csi::NVM);
                let sqe = identify.with_sgl(Sgl::transport(IDENTIFY_LEN as u32));
                if let Some(admin) = self.admin.as_mut().filter(|admin| admin.has_room()) {
                    admin.send(ground, sqe, What::Namespaces, IDENTIFY_LEN as u32);
                } else {
                    self.stale_list = true;
                }
            }
            What::Namespaces | What::Changed => wrong!("a list of {} bytes", answered.got().len()),
            _ => (),
        }
        if let Phase::Setup(step) = self.phase
            && !matches!(answered.cmd.what, What::Changed)
        {
            if step == 1 {
                let granted = NumberOfQueues(answered.cqe.dw0.get());
                self.granted = granted.submission_queues() as u16;
            }
            self.set_up(ground, step + 1);
        }
    }

    fn on_event(&mut self, ground: &mut Ground, status: Status) {
        if !status.is_success() && status.code() != Status::ABORT_REQUESTED {
            return;
        }
        if let Some(admin) = self.admin.as_mut().filter(|admin| admin.has_room()) {
            admin.send(ground, host::async_event_request(), What::Event, 0);
        }
        self.stale_list = true;
        self.read_lists(ground);
    }
}
