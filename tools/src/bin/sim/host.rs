//! A simulated host's association ("path") with the node: connects, sets up, sends I/O, keeps alive,
//! follows events, resets, disconnects, dies and comes back.

mod answers;

use std::collections::BTreeSet;

use ferroce_engine::host::{self, Bringup, Goal, Step};
use ferroce_engine::port::Tick;
use ferroce_wire::fabrics::{CATTR_NO_SQ_FLOW_CONTROL, CNTLID_DYNAMIC, ConnectData, Nqn};
use ferroce_wire::feature::{AsyncEventConfig, FeatureId, FeatureSelect, NumberOfQueues};
use ferroce_wire::identify::{Cns, Csi, IDENTIFY_LEN};
use ferroce_wire::log::LogId;
use ferroce_wire::sqe::{Sgl, Sqe};

use crate::ground::{Ground, Stage};
use crate::io;
use crate::net::{LinkId, ToTarget};
use crate::plan::{ADMIN_DEPTH, Manner, PathPlan};
use crate::queue::{Queue, What};
use crate::shared::{Chance, Event, MS, S, US};
use crate::wrong;

/// Where a path is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Not connected; tries again at a time.
    Down,
    /// The admin queue connects.
    Connecting,
    Enabling,
    /// Identify, features, the namespaces.
    Setup(u8),
    /// Waits until the node knows of all this host's dead associations.
    Waiting,
    /// The I/O queues connect.
    ConnectingIo,
    Live,
    /// CC.EN went to 0 with commands in flight.
    Resetting,
    /// Sends nothing more until everything is answered, then leaves.
    Draining,
    /// Disconnect was sent on the I/O queues.
    Disconnecting,
    ShuttingDown,
    /// It is over for good.
    Over,
}

/// The name of a host.
pub fn nqn(host: usize) -> String {
    format!("nqn.2014-08.org.nvmexpress:uuid:5eed0000-0000-4000-8000-{host:012}")
}

/// The name of a subsystem.
pub fn subsystem_nqn(subsystem: usize) -> String {
    format!("nqn.2024-01.example:sim{subsystem}")
}

#[derive(Debug)]
pub struct Path {
    index: usize,
    pub plan: PathPlan,
    pub phase: Phase,
    /// Since when, in ns.
    since: u64,
    /// Nodes that had died by then.
    deaths: u64,
    admin: Option<Queue>,
    io: Vec<Queue>,
    cntlid: u16,
    bringup: Option<Bringup>,
    /// What it does next it does then.
    due: u64,
    /// When it may try again, or looks at the controller again.
    not_before: u64,
    last_sent: u64,
    granted: u16,
    /// Namespaces as it was told.
    pub known: BTreeSet<u32>,
    stale_list: bool,
    /// Namespaces as an event said it: every core must know them.
    told: BTreeSet<u32>,
    /// I/O queues to be connected anew, by number and the link they had.
    lost: Vec<(u16, LinkId)>,
    /// Writes that were in flight at a reset, and the links they were on.
    reset_writes: Vec<u64>,
    reset_links: Vec<LinkId>,
    /// When drained: come back afterwards.
    returns: bool,
    /// Blocks to be read at the end: namespace, first, count.
    pub to_verify: Vec<(usize, u64, u64)>,
}

impl Path {
    pub fn new(index: usize, plan: PathPlan) -> Path {
        Path {
            index,
            plan,
            phase: Phase::Down,
            since: 0,
            deaths: 0,
            admin: None,
            io: Vec::new(),
            cntlid: 0,
            bringup: None,
            due: u64::MAX,
            not_before: 0,
            last_sent: 0,
            granted: 0,
            known: BTreeSet::new(),
            stale_list: false,
            told: BTreeSet::new(),
            lost: Vec::new(),
            reset_writes: Vec::new(),
            reset_links: Vec::new(),
            returns: true,
            to_verify: Vec::new(),
        }
    }

    /// Links it has.
    pub fn links(&self) -> Vec<LinkId> {
        let admin = self.admin.iter();
        admin.chain(&self.io).map(|queue| queue.link).collect()
    }

    /// One of its I/O links.
    pub fn io_links(&self) -> Vec<LinkId> {
        self.io.iter().map(|queue| queue.link).collect()
    }

    /// Commands without an answer, Asynchronous Event Requests left out.
    pub fn in_flight(&self) -> usize {
        let admin = self.admin.iter().flat_map(|queue| {
            let mine = queue.cids.cids().filter_map(|cid| queue.cids.get(cid));
            mine.filter(|cmd| !matches!(cmd.what, What::Event))
        });
        admin.count() + self.io.iter().map(|queue| queue.cids.len()).sum::<usize>()
    }

    /// It has nothing to do any more but to stay alive.
    pub fn is_idle(&self) -> bool {
        let complete = self.lost.is_empty() && !self.stale_list;
        self.in_flight() == 0 && self.to_verify.is_empty() && complete
    }

    /// Wakes the path at a time.
    pub fn wake(&mut self, ground: &Ground, time: u64) {
        let time = time.max(ground.common.now());
        if time < self.due {
            self.due = time;
            let path = self.index;
            ground.common.at(time, Event::Path { path });
        }
    }

    fn keep_alive_every(&self) -> u64 {
        match self.plan.kato_ms {
            0 => 10 * S,
            kato => u64::from(kato) * MS / 3,
        }
    }

    fn enter(&mut self, ground: &Ground, phase: Phase) {
        ground.common.note("path", &[self.index as u64]);
        if ground.common.prints() {
            ground
                .common
                .say(&format!("path {} is {phase:?}", self.index));
        }
        self.phase = phase;
        self.since = ground.common.now();
        self.deaths = ground.stats.deaths;
        if !matches!(phase, Phase::Down | Phase::Over) {
            self.wake(ground, self.since + self.keep_alive_every());
        }
    }

    /// Its time has come.
    pub fn on_time(&mut self, ground: &mut Ground) {
        let now = ground.common.now();
        if now < self.due {
            return;
        }
        self.due = u64::MAX;
        // A host times its commands: what a node took before it died is answered by nobody, and by RDMA nobody tells.
        if self.plan.rdma && self.waits() && ground.stats.deaths > self.deaths {
            if now >= self.since + 30 * S {
                self.tear_down(ground);
                return;
            }
            self.wake(ground, self.since + 30 * S);
        }
        match self.phase {
            Phase::Down if now < self.not_before || !ground.node_up => {
                let again = self.not_before.max(now + MS);
                self.wake(ground, again);
            }
            Phase::Down => self.dial_admin(ground),
            Phase::Enabling | Phase::Resetting | Phase::ShuttingDown => self.step(ground),
            Phase::Waiting => self.connect_io(ground),
            Phase::Live => self.live(ground),
            Phase::Draining if self.in_flight() == 0 => self.leave(ground),
            Phase::Connecting
            | Phase::Setup(_)
            | Phase::ConnectingIo
            | Phase::Draining
            | Phase::Disconnecting
            | Phase::Over => (),
        }
        self.keep_alive(ground);
    }

    /// It is at something that has an end.
    fn waits(&self) -> bool {
        !matches!(self.phase, Phase::Down | Phase::Live | Phase::Over)
    }

    /// Nothing takes for ever.
    pub fn check_patience(&self, ground: &Ground) {
        let now = ground.common.now();
        if self.waits() && now > self.since + 60 * S {
            wrong!("path {} is {:?} for a minute", self.index, self.phase);
        }
        if self.plan.is_bad() {
            // It stands in its own way.
            return;
        }
        for queue in self.admin.iter().chain(&self.io) {
            let cmds = queue.cids.cids().filter_map(|cid| queue.cids.get(cid));
            for cmd in cmds.filter(|cmd| !matches!(cmd.what, What::Event)) {
                if now > cmd.sent + 60 * S {
                    let what = &cmd.what;
                    wrong!("no answer for a minute on queue {}: {what:?}", queue.qid);
                }
            }
        }
    }

    fn keep_alive(&mut self, ground: &mut Ground) {
        if matches!(self.phase, Phase::Down | Phase::Connecting | Phase::Over) {
            return;
        }
        let now = ground.common.now();
        let every = self.keep_alive_every();
        if self.plan.kato_ms > 0
            && now >= self.last_sent + every
            && !matches!(
                self.phase,
                Phase::Enabling | Phase::Resetting | Phase::ShuttingDown
            )
            && let Some(admin) = self.admin.as_mut().filter(|admin| admin.has_room())
        {
            admin.send(ground, host::keep_alive(), What::KeepAlive, 0);
            self.last_sent = now;
        }
        self.wake(ground, now.max(self.last_sent) + every);
    }

    // Connecting.

    fn dial(&self, ground: &mut Ground, qid: u16, depth: u16) -> LinkId {
        match self.plan.rdma {
            true => ground.dial_rdma(self.index, qid, depth),
            false => ground.dial(self.index),
        }
    }

    fn dial_admin(&mut self, ground: &mut Ground) {
        let link = self.dial(ground, 0, ADMIN_DEPTH);
        self.admin = Some(Queue::new(link, 0, ADMIN_DEPTH, &self.plan));
        self.enter(ground, Phase::Connecting);
    }

    fn connect(&mut self, ground: &mut Ground, at: Option<usize>) {
        let settles = match at {
            Some(_) => ground.known_dead(self.plan.host, self.plan.subsystem),
            None => Vec::new(),
        };
        let cntlid = if at.is_some() {
            self.cntlid
        } else {
            CNTLID_DYNAMIC
        };
        let kato_ms = if at.is_some() { 0 } else { self.plan.kato_ms };
        let cattr = if self.plan.flow_control {
            0
        } else {
            CATTR_NO_SQ_FLOW_CONTROL
        };
        let queue = match at {
            Some(at) => &mut self.io[at],
            None => self.admin.as_mut().expect("it was dialled"),
        };
        let mut hostid = [0x51; 16];
        hostid[15] = self.plan.host as u8;
        let name = |name: String| Nqn::new(&name).expect("a name");
        let data = ConnectData::new(
            hostid,
            cntlid,
            &name(subsystem_nqn(self.plan.subsystem)),
            &name(nqn(self.plan.host)),
        );
        let data = bytemuck::bytes_of(&data).to_vec();
        let len = data.len() as u32;
        let sqe = host::connect(queue.qid, queue.depth.into(), cattr, kato_ms);
        let in_capsule = queue.qid != 0 || !ground.rng.once_in(4);
        let (sgl, capsule) = match in_capsule {
            true => (Sgl::in_capsule(0, len), Some(0)),
            false => (Sgl::transport(len), None),
        };
        let start = ground.model.tick();
        let what = (What::Connect { settles }, start, 0);
        queue.send_data(ground, sqe.with_sgl(sgl), what, data, capsule);
        self.last_sent = ground.common.now();
    }

    fn connect_io(&mut self, ground: &mut Ground) {
        let (host, subsystem) = (self.plan.host, self.plan.subsystem);
        if ground.has_unknown_dead(host, subsystem) {
            let again = ground.common.now() + ground.rng.u64(100 * US..=20 * MS);
            self.wake(ground, again);
            return;
        }
        self.enter(ground, Phase::ConnectingIo);
        for qid in 1..=self.granted.min(self.plan.io_queues) {
            let link = self.dial(ground, qid, self.plan.depth);
            let queue = Queue::new(link, qid, self.plan.depth, &self.plan);
            self.io.push(queue);
        }
    }

    /// Does what the bringup wants next.
    fn step(&mut self, ground: &mut Ground) {
        let now = ground.common.now();
        let Some(bringup) = self.bringup.as_mut() else {
            return;
        };
        let admin = self.admin.as_mut().expect("it is connected");
        if admin.closed
            || admin.cids.cids().any(|cid| {
                let cmd = admin.cids.get(cid);
                cmd.is_some_and(|cmd| matches!(cmd.what, What::Property))
            })
        {
            return;
        }
        loop {
            match bringup.next(Tick(now)) {
                Step::Get(at) => {
                    admin.send(ground, host::property_get(at), What::Property, 0);
                    return;
                }
                Step::Set(at, value) => {
                    admin.send(ground, host::property_set(at, value), What::Property, 0);
                    return;
                }
                Step::Program => bringup.done(Tick(now)),
                Step::Wait(until) => {
                    self.wake(ground, until.0);
                    return;
                }
                Step::Ready => {
                    self.bringup = None;
                    self.on_ready(ground);
                    return;
                }
            }
        }
    }

    fn begin_bringup(&mut self, ground: &mut Ground, goal: Goal, phase: Phase) {
        self.bringup = Some(Bringup::new(goal, 10_000));
        self.enter(ground, phase);
        self.step(ground);
    }

    fn on_ready(&mut self, ground: &mut Ground) {
        match self.phase {
            Phase::Enabling => self.set_up(ground, 0),
            Phase::Resetting => {
                // RDY is 0: nothing of before the reset may happen any more.
                self.reset_links.clear();
                for write in std::mem::take(&mut self.reset_writes) {
                    ground.model.end(write, crate::model::Ended::Perhaps);
                }
                self.begin_bringup(ground, Goal::Enabled, Phase::Enabling);
            }
            Phase::ShuttingDown => self.tear_down(ground),
            phase => unreachable!("{phase:?} has no bringup"),
        }
    }

    fn set_up(&mut self, ground: &mut Ground, step: u8) {
        self.enter(ground, Phase::Setup(step));
        let admin = self.admin.as_mut().expect("it is connected");
        let identify = |cns| {
            let sqe = Sqe::identify(cns, 0, Csi::NVM);
            sqe.with_sgl(Sgl::transport(IDENTIFY_LEN as u32))
        };
        let (sqe, what, len) = match step {
            0 => (identify(Cns::CONTROLLER), What::Setup, IDENTIFY_LEN),
            1 => {
                let queues = NumberOfQueues::new(self.plan.io_queues.into()).0;
                let sqe = Sqe::set_features(FeatureId::NUMBER_OF_QUEUES, 0, queues);
                (sqe, What::Setup, 0)
            }
            2 => {
                let notices = AsyncEventConfig::NS_ATTRIBUTE;
                let sqe = Sqe::set_features(FeatureId::ASYNC_EVENT_CONFIG, 0, notices);
                (sqe, What::Setup, 0)
            }
            3 => {
                admin.send(ground, host::async_event_request(), What::Event, 0);
                (
                    identify(Cns::ACTIVE_NAMESPACES),
                    What::Namespaces,
                    IDENTIFY_LEN,
                )
            }
            _ => {
                self.enter(ground, Phase::Waiting);
                self.connect_io(ground);
                return;
            }
        };
        admin.send(ground, sqe, what, len as u32);
        self.last_sent = ground.common.now();
    }

    // Life.

    fn live(&mut self, ground: &mut Ground) {
        let now = ground.common.now();
        let calm = ground.common.calm.get();
        if !calm && ground.rng.once_in(self.plan.restless) {
            self.be_restless(ground);
            return;
        }
        self.read_lists(ground);
        self.mend(ground);
        if self.plan.is_bad() {
            self.be_bad(ground);
        } else if calm {
            self.verify(ground);
        } else {
            for _ in 0..self.plan.burst {
                if ground.left == 0 || !self.send_io(ground) {
                    break;
                }
            }
            if ground.rng.once_in(30) {
                self.send_admin(ground);
            }
            let pause = ground
                .rng
                .skewed(self.plan.pause / 4 + 1, self.plan.pause * 2);
            self.wake(ground, now + pause);
        }
    }

    /// Connects another queue for one that was lost, under its number or another.
    fn mend(&mut self, ground: &mut Ground) {
        // As long as the node does not know, the number is in use.
        let known = |(_, link): &(u16, LinkId)| ground.net.borrow_mut().link(*link).target_closed;
        let all = self.lost.iter().all(known);
        if !all || ground.has_unknown_dead(self.plan.host, self.plan.subsystem) {
            return;
        }
        let Some((mut qid, _)) = self.lost.pop() else {
            return;
        };
        let free = |qid: &u16| self.io.iter().all(|queue| queue.qid != *qid);
        let others: Vec<u16> = (1..=self.granted).filter(free).collect();
        if ground.rng.bool() {
            qid = *ground.rng.pick(&others);
            self.lost.retain(|(lost, _)| *lost != qid);
        }
        let link = self.dial(ground, qid, self.plan.depth);
        let queue = Queue::new(link, qid, self.plan.depth, &self.plan);
        self.io.push(queue);
    }

    /// Of a live association, one I/O queue is gone.
    fn lose(&mut self, ground: &mut Ground, at: usize) {
        let queue = self.io.remove(at);
        let writes = forget(ground, &queue);
        let (host, subsystem) = (self.plan.host, self.plan.subsystem);
        ground.lose(host, subsystem, vec![queue.link], writes);
        self.lost.push((queue.qid, queue.link));
        self.wake(ground, ground.common.now() + 50 * US);
    }

    /// Asks for as much as there is, or promises as much, and takes no further part in it.
    fn be_bad(&mut self, ground: &mut Ground) {
        let deaf = self.plan.manner == Manner::Deaf;
        for at in 0..self.io.len() {
            ground.net.borrow_mut().link(self.io[at].link).deaf = deaf;
            while self.io[at].connected
                && self.io[at].has_room()
                && let Some((sqe, len)) = io::make_bad(ground, &self.plan)
            {
                let len = if deaf { len } else { 0 };
                self.io[at].send(ground, sqe, What::Any, len);
            }
        }
        let again = ground.common.now() + 5 * MS;
        self.wake(ground, again);
    }

    fn send_io(&mut self, ground: &mut Ground) -> bool {
        let roomy: Vec<usize> = (0..self.io.len())
            .filter(|&at| self.io[at].connected && self.io[at].has_room())
            .collect();
        if roomy.is_empty() {
            return false;
        }
        let at = *ground.rng.pick(&roomy);
        ground.left -= 1;
        let Some(made) = io::make(ground, &self.plan, &self.told) else {
            return false;
        };
        self.send_made(ground, at, made);
        true
    }

    fn send_made(&mut self, ground: &mut Ground, at: usize, made: io::Made) {
        if ground.common.prints() {
            let line = format!("  queue {}: {:?}", self.io[at].link, made.io);
            ground.common.say(&line);
        }
        let what = (What::Io(made.io), made.start, made.len);
        self.io[at].send_data(ground, made.sqe, what, made.data, made.capsule);
        self.last_sent = ground.common.now();
    }

    /// Reads what is to be verified at the end.
    fn verify(&mut self, ground: &mut Ground) {
        while let Some(&(space, lba, blocks)) = self.to_verify.last() {
            let connected = |queue: &Queue| queue.connected && queue.has_room();
            let Some(at) = self.io.iter().position(connected) else {
                return;
            };
            self.to_verify.pop();
            let made = io::read(ground, space, lba, blocks);
            self.send_made(ground, at, made);
        }
    }

    /// Reads the lists that an event spoke of.
    fn read_lists(&mut self, ground: &mut Ground) {
        if !self.stale_list {
            return;
        }
        let Some(admin) = self.admin.as_mut().filter(|admin| admin.has_room()) else {
            return;
        };
        self.stale_list = false;
        let list = LogId::CHANGED_NAMESPACES;
        let sqe = Sqe::get_log_page(list, u32::MAX, 0, 4096).with_sgl(Sgl::transport(4096));
        admin.send(ground, sqe, What::Changed, 4096);
    }

    /// An admin command as tools and kernels send them.
    fn send_admin(&mut self, ground: &mut Ground) {
        let Some(admin) = self
            .admin
            .as_mut()
            .filter(|admin| admin.has_room_to_spare())
        else {
            return;
        };
        let nsid = ground.spaces[ground.rng.usize(0..ground.spaces.len())].nsid;
        let len = IDENTIFY_LEN as u32;
        let (sqe, len) = match ground.rng.u32(0..6) {
            0 => {
                let cns = [
                    0x00, 0x01, 0x02, 0x03, 0x05, 0x06, 0x07, 0x08, 0x10, 0x1C, 0x77,
                ];
                let cns = Cns(*ground.rng.pick(&cns));
                (
                    Sqe::identify(cns, nsid, Csi::NVM).with_sgl(Sgl::transport(len)),
                    len,
                )
            }
            1 => {
                let lids = [0x00, 0x01, 0x02, 0x03, 0x05, 0x0C, 0x12, 0x99];
                let lid = LogId(*ground.rng.pick(&lids));
                let len = ground.rng.u32(1..=4096) * 4;
                let offset = ground.rng.u64(0..=8) * 4;
                let sqe = Sqe::get_log_page(lid, u32::MAX, offset, len);
                (sqe.with_sgl(Sgl::transport(len)), len)
            }
            2 => {
                let fid = FeatureId(ground.rng.u8(0..0x20));
                let sqe = Sqe::get_features(fid, nsid, FeatureSelect::CURRENT);
                (sqe.with_sgl(Sgl::transport(len)), len)
            }
            3 => {
                let queue = match self.io.get(ground.rng.usize(0..4)) {
                    Some(queue) => queue,
                    None => &*admin,
                };
                let cids: Vec<u16> = queue.cids.cids().collect();
                let cid = match cids.is_empty() || ground.rng.once_in(4) {
                    true => ground.rng.u16(..),
                    false => *ground.rng.pick(&cids),
                };
                (Sqe::abort(queue.qid, cid), 0)
            }
            4 => (Sqe::new(ground.rng.u8(0x80..=0xFF)), 0),
            _ => (host::keep_alive(), 0),
        };
        admin.send(ground, sqe, What::Any, len);
    }

    fn be_restless(&mut self, ground: &mut Ground) {
        match ground.rng.u32(0..4) {
            0 => self.reset(ground),
            1 => {
                // As a host that is unloaded without care.
                self.tear_down(ground);
            }
            _ => {
                self.returns = true;
                self.drain(ground);
            }
        }
    }

    /// Everything is to be answered, then the path leaves; it comes back if that was said.
    fn drain(&mut self, ground: &mut Ground) {
        self.enter(ground, Phase::Draining);
        let now = ground.common.now();
        self.wake(ground, now);
    }

    /// Goes for good, politely if it can.
    pub fn finish(&mut self, ground: &mut Ground) {
        self.returns = false;
        match self.phase {
            Phase::Live if !self.plan.is_bad() => self.drain(ground),
            Phase::Down => self.enter(ground, Phase::Over),
            Phase::Draining | Phase::Disconnecting | Phase::ShuttingDown | Phase::Over => (),
            _ => self.tear_down(ground),
        }
    }

    fn leave(&mut self, ground: &mut Ground) {
        if ground.rng.bool() {
            // A Disconnect on every I/O queue; the admin queue goes afterwards.
            self.enter(ground, Phase::Disconnecting);
            self.excuse_all(ground);
            let mut any = false;
            for queue in self
                .io
                .iter_mut()
                .filter(|queue| queue.connected && !queue.closed)
            {
                queue.send(ground, host::disconnect(), What::Disconnect, 0);
                any = true;
            }
            if !any {
                self.tear_down(ground);
            }
        } else if ground.rng.bool() {
            self.excuse_all(ground);
            self.begin_bringup(ground, Goal::ShutDown, Phase::ShuttingDown);
        } else {
            self.tear_down(ground);
        }
    }

    fn excuse_all(&self, ground: &Ground) {
        let mut net = ground.net.borrow_mut();
        for link in self.links() {
            net.link(link).excused = true;
        }
    }

    fn reset(&mut self, ground: &mut Ground) {
        {
            let mut net = ground.net.borrow_mut();
            for link in self.io_links() {
                net.link(link).excused = true;
            }
        }
        let io = std::mem::take(&mut self.io);
        self.lost.clear();
        for queue in &io {
            let writes = forget(ground, queue);
            self.reset_writes.extend(writes);
            self.reset_links.push(queue.link);
        }
        // The target closes the connections; a host that is quick does it itself.
        if ground.rng.bool() {
            let mut net = ground.net.borrow_mut();
            for queue in &io {
                net.send_to_target(queue.link, ToTarget::Closed);
            }
        }
        self.begin_bringup(ground, Goal::Disabled, Phase::Resetting);
    }

    /// Closes what there is. What was in flight is in limbo.
    pub fn tear_down(&mut self, ground: &mut Ground) {
        let links = self.links();
        let mut writes = std::mem::take(&mut self.reset_writes);
        for queue in self.admin.iter().chain(&self.io) {
            writes.extend(forget(ground, queue));
        }
        {
            let mut net = ground.net.borrow_mut();
            for link in &links {
                net.link(*link).excused = true;
                net.send_to_target(*link, ToTarget::Closed);
            }
        }
        let mut all = std::mem::take(&mut self.reset_links);
        // Over one that never came about nothing was written, and a node may never hear of it.
        let queues = self.admin.iter().chain(&self.io);
        all.extend(queues.filter(|queue| queue.up).map(|queue| queue.link));
        ground.lose(self.plan.host, self.plan.subsystem, all, writes);
        self.admin = None;
        self.io.clear();
        self.bringup = None;
        self.known.clear();
        self.told.clear();
        self.lost.clear();
        self.stale_list = false;
        let now = ground.common.now();
        self.not_before = now + ground.rng.skewed(50 * US, 50 * MS);
        if self.returns {
            self.enter(ground, Phase::Down);
            let again = self.not_before;
            self.wake(ground, again);
        } else {
            self.enter(ground, Phase::Over);
        }
    }

    /// The host is gone in an instant, and says nothing.
    pub fn vanish(&mut self, ground: &mut Ground) {
        for link in self.links() {
            ground.net.borrow_mut().vanish(link);
        }
        self.tear_down(ground);
    }

    /// The namespaces of its subsystem are those it was told of.
    pub fn knows_all(&self, ground: &Ground) -> bool {
        let here = ground
            .spaces
            .iter()
            .filter(|space| space.subsystem == self.plan.subsystem && space.stage == Stage::Here)
            .map(|space| space.nsid);
        here.collect::<BTreeSet<u32>>() == self.known
    }
}

/// The commands of a queue will not be answered; the writes among them.
fn forget(ground: &mut Ground, queue: &Queue) -> Vec<u64> {
    let mut writes = Vec::new();
    for cid in queue.cids.cids() {
        if let Some(cmd) = queue.cids.get(cid)
            && let What::Io(io) = &cmd.what
        {
            writes.extend(io::writes(io));
            io::lost(ground, io, cmd.start);
        }
    }
    writes
}
