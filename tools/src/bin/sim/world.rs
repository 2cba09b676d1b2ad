//! One run: the node, its drives, its hosts, its operator, and what goes wrong, from a seed.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use ferroce_buf::Want;
use ferroce_drivers::{RamConfig, RamDrive};
use ferroce_engine::control::{Change, ChangeId};
use ferroce_engine::port::{DriveId, DriveInfo};
use ferroce_engine::table::Subsystem;

use crate::disk::{Disk, DiskQueue, SharedDisk, SimDrive, SlowRam};
use crate::ether::Ether;
use crate::ground::{Ground, Space, Stage, Stats};
use crate::host::{Path, Phase, nqn, subsystem_nqn};
use crate::net::{self, Net};
use crate::node::Node;
use crate::plan::{DriveKind, Plan, SpacePlan};
use crate::rdma::Incoming;
use crate::shared::{Chance, Common, Event, MS, S, Shared, US};
use crate::wrong;

/// Where a run is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Act {
    /// Everything happens.
    Storm,
    /// Nothing fails any more; what was begun ends.
    Calm,
    /// Every block is read.
    Verify,
    /// The hosts leave.
    Farewell,
    /// The node stops.
    Stop,
}

/// A drive behind a namespace.
#[derive(Debug)]
enum Drive {
    Disk(SharedDisk),
    Ram(Arc<RamDrive>),
}

/// Something the operator has asked for.
#[derive(Debug)]
struct Asked {
    id: ChangeId,
    what: Errand,
}

#[derive(Clone, Copy, Debug)]
enum Errand {
    Add(usize),
    Remove(usize),
    Grow(usize, u64),
    Shrink(usize, u64),
    Forbid,
    Allow(usize),
    Nothing,
}

#[derive(Debug)]
pub struct World {
    common: Common,
    ground: Ground,
    rng: fastrand::Rng,
    node: Option<Node>,
    paths: Vec<Path>,
    /// As the spaces.
    drives: Vec<Drive>,
    kinds: Vec<SpacePlan>,
    asked: Vec<Asked>,
    next_nsid: u32,
    deaths_left: u32,
    /// What the operator may still do.
    acts_left: u32,
    stopping: bool,
    /// It is up, but has not all its namespaces.
    starting: bool,
    act: Act,
    act_since: u64,
    over: bool,
}

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub hash: u64,
    pub stats: Stats,
    /// Virtual ns.
    pub time: u64,
}

/// A storm does not last longer.
const STORM_MAX: u64 = 30 * S;
/// Nor has it more of these.
const FAULTS_MAX: u64 = 80;
const ACTS_MAX: u32 = 60;

impl World {
    pub fn new(seed: u64, print: bool) -> World {
        let mut rng = fastrand::Rng::with_seed(seed);
        let plan = Rc::new(Plan::of(&mut rng));
        let common = Shared::new(print);
        if print {
            println!("{plan:#?}");
        }
        let delay = plan.weather.delay;
        let medium = Ether::new(common.clone(), rng.fork(), plan.rough.clone(), delay);
        let net = Net::new(common.clone(), rng.fork(), plan.weather.clone(), medium);
        let net = Rc::new(RefCell::new(net));
        let ground = Ground::new(common.clone(), net, rng.fork(), plan.clone());
        let paths = plan
            .paths
            .iter()
            .enumerate()
            .map(|(index, plan)| Path::new(index, plan.clone()))
            .collect();
        let mut world = World {
            common,
            ground,
            deaths_left: plan.deaths,
            acts_left: ACTS_MAX,
            node: None,
            paths,
            drives: Vec::new(),
            kinds: Vec::new(),
            asked: Vec::new(),
            next_nsid: 1,
            stopping: false,
            starting: false,
            act: Act::Storm,
            act_since: 0,
            over: false,
            rng,
        };
        for (subsystem, space) in &plan.spaces {
            world.add_space(*subsystem, space.clone(), Stage::Here);
        }
        world
    }

    /// Writes the datagrams of RDMA to a file.
    pub fn capture(&self, file: std::fs::File) {
        let net = self.ground.net.borrow();
        net.medium.borrow_mut().capture(file);
    }

    /// Runs to the end, or panics where something is wrong.
    pub fn run(mut self) -> Outcome {
        self.start();
        for at in 0..self.paths.len() {
            let when = self.rng.u64(0..2 * MS);
            self.paths[at].wake(&self.ground, when);
        }
        let plan = self.ground.plan.clone();
        if plan.faults > 0 {
            self.common.after(plan.faults, Event::Fault);
        }
        if plan.operator > 0 {
            self.common.after(plan.operator, Event::Operator);
        }
        self.common.after(5 * MS, Event::Check);
        let mut events = 0u64;
        while !self.over {
            let event = self.common.next();
            let event = event.expect("something is always going to happen");
            self.handle(event);
            self.accept();
            if let Some(node) = &mut self.node {
                node.hear_bells();
            }
            events += 1;
            if events > 5_000_000 {
                wrong!("it goes round in circles in {:?}", self.act);
            }
        }
        Outcome {
            hash: self.common.hash(),
            stats: self.ground.stats.clone(),
            time: self.common.now(),
        }
    }

    fn handle(&mut self, event: Event) {
        let life = self.common.life.get();
        match event {
            Event::Turn { life: of, core } => {
                if let Some(node) = self.node.as_mut().filter(|_| of == life) {
                    self.ground.stats.turns += 1;
                    node.turn(core);
                }
            }
            Event::Wake { life: of, core } => {
                if let Some(node) = self.node.as_mut().filter(|_| of == life) {
                    node.wake(core);
                }
            }
            Event::Control { life: of } => {
                if let Some(node) = self.node.as_mut().filter(|_| of == life) {
                    node.run_control();
                    self.hear_finished();
                }
            }
            Event::ToHost { link } => {
                let message = self.ground.net.borrow_mut().for_host(link);
                if let Some(message) = message {
                    let path = self.ground.net.borrow_mut().link(link).path;
                    self.paths[path].on_message(&mut self.ground, link, message);
                }
            }
            Event::Packet { link } => self.ground.net.borrow_mut().run(link),
            Event::Knock => self.let_in(),
            Event::Path { path } => self.paths[path].on_time(&mut self.ground),
            Event::Apply { disk, request } => {
                if let Drive::Disk(disk) = &self.drives[disk] {
                    disk.borrow_mut().apply(request);
                }
            }
            Event::Done { disk, request } => {
                if let Drive::Disk(disk) = &self.drives[disk] {
                    disk.borrow_mut().finish(request);
                }
            }
            Event::Operator => self.operate(),
            Event::Fault => self.fault(),
            Event::Start => self.start(),
            Event::StopLimit { life: of } => {
                if of == life && self.stopping {
                    // As `serve`: what has not ended by then ends with the process.
                    self.die(false);
                }
            }
            Event::Check => self.check(),
        }
    }

    /// Connections that hosts asked for are dealt.
    fn accept(&mut self) {
        for (link, core, fabric) in std::mem::take(&mut self.ground.dials) {
            match &mut self.node {
                Some(node) if self.ground.node_up => {
                    let incoming = Incoming::Ordered(net::Incoming { link });
                    node.control.adopt(core, fabric, incoming);
                }
                _ => {
                    let mut net = self.ground.net.borrow_mut();
                    net.link(link).target_closed = true;
                    net.cut(link);
                }
            }
        }
    }

    /// Those that asked for a connection by RDMA are dealt.
    fn let_in(&mut self) {
        let medium = self.ground.net.borrow().medium.clone();
        loop {
            // A node that is not ready does not listen yet, or no longer.
            let Some(asked) = medium.borrow_mut().knock() else {
                return;
            };
            if let Some(node) = &mut self.node
                && self.ground.node_up
            {
                let core = self.rng.usize(0..node.cores());
                let core = asked.core().unwrap_or(core);
                let fabric = self.ground.plan.fabrics;
                node.control.adopt(core, fabric, Incoming::Rdma(asked));
            } else {
                medium.borrow_mut().refuse(asked);
            }
        }
    }

    // The node.

    fn start(&mut self) {
        let plan = self.ground.plan.clone();
        let net = self.ground.net.clone();
        self.common.note("start", &[]);
        let node = Node::start(self.common.clone(), self.rng.fork(), &plan, &net);
        self.node = Some(node);
        self.stopping = false;
        for subsystem in 0..plan.subsystems {
            self.change(
                Change::AddSubsystem(Subsystem {
                    nqn: subsystem_nqn(subsystem),
                    serial: format!("sim{subsystem}"),
                    model: "Ferroce".to_owned(),
                    cntlids: (1, 0xFFEF),
                    allow: None,
                    namespaces: std::collections::BTreeMap::new(),
                }),
                Errand::Nothing,
            );
        }
        for at in 0..self.drives.len() {
            if self.ground.spaces[at].stage == Stage::Here {
                self.serve(at, Errand::Nothing);
            }
        }
        self.starting = true;
        self.hear_finished();
    }

    fn change(&mut self, change: Change<SimDrive>, what: Errand) {
        let node = self.node.as_mut().expect("it is up");
        match node.control.change(change) {
            Ok(id) => self.asked.push(Asked { id, what }),
            Err(error) => wrong!("the change was refused: {error}"),
        }
        self.hear_finished();
    }

    /// A namespace is handed to the node.
    fn serve(&mut self, at: usize, what: Errand) {
        let node = self.node.as_mut().expect("it is up");
        let cores = node.cores();
        let drive = node.control.next_drive();
        let space = self.ground.spaces[at].clone();
        let kind = self.kinds[at].clone();
        if kind.kind != DriveKind::Disk {
            // The memory is the node's: a new one has a new drive.
            let ram = new_ram(&space, &kind, drive, cores);
            self.drives[at] = Drive::Ram(ram);
        }
        let mut info = DriveInfo {
            label: format!("sim{at}"),
            block_len: space.block_len,
            blocks: space.blocks,
            uuid: [at as u8 + 1; 16],
            nguid: [at as u8 + 1; 16],
            read_only: false,
            volatile_cache: kind.volatile,
            brings_memory: false,
            preferred_blocks: 1,
            deallocates: true,
            max_deallocate: 1 << 20,
            max_transfer: kind.max_transfer,
            max_bufs: 64,
            health: None,
        };
        let queues = match &self.drives[at] {
            Drive::Disk(disk) => (0..cores)
                .map(|core| SimDrive::Disk(DiskQueue::open(disk, core)))
                .collect(),
            Drive::Ram(ram) => {
                info = ram.info();
                let mut open = |core| {
                    let queue = ram.open(core).expect("there is memory");
                    match kind.kind {
                        DriveKind::Ram => SimDrive::Ram(Box::new(queue)),
                        _ => {
                            let rng = self.rng.fork();
                            let common = self.common.clone();
                            let manners = kind.manners.clone();
                            let slow = SlowRam::new(common, rng, manners, core, queue);
                            SimDrive::SlowRam(Box::new(slow))
                        }
                    }
                };
                (0..cores).map(&mut open).collect()
            }
        };
        let change = Change::AddNamespace {
            nqn: subsystem_nqn(space.subsystem),
            nsid: Some(space.nsid),
            info,
            read_only: space.read_only,
            drive,
            queues,
        };
        self.change(change, what);
    }

    fn add_space(&mut self, subsystem: usize, kind: SpacePlan, stage: Stage) {
        let medium = self.ground.model.add_medium(kind.blocks, kind.volatile);
        let index = self.drives.len();
        let disk = Disk::new(
            self.common.clone(),
            self.rng.fork(),
            index,
            (kind.block_len, kind.blocks),
            kind.manners.clone(),
            kind.volatile,
        );
        self.drives.push(Drive::Disk(Rc::new(RefCell::new(disk))));
        self.ground.spaces.push(Space {
            subsystem,
            nsid: self.next_nsid,
            medium,
            block_len: kind.block_len,
            blocks: kind.blocks,
            read_only: kind.read_only,
            stage,
            changing: stage == Stage::Coming,
            changed: 0,
        });
        self.next_nsid += self.rng.u32(1..=2);
        self.kinds.push(kind);
    }

    /// The process ends at once; with `power`, volatile caches are lost.
    fn die(&mut self, power: bool) {
        let Some(node) = self.node.take() else {
            return;
        };
        self.common.note("die", &[power.into()]);
        self.common.say("the node dies");
        self.ground.stats.deaths += 1;
        self.stopping = false;
        self.ground.node_up = false;
        // From now on nothing that was planned for this node means anything.
        self.common.life.set(self.common.life.get() + 1);
        self.excuse_all();
        self.ground.net.borrow().medium.borrow_mut().node_down();
        node.bury(|| {
            for drive in &self.drives {
                if let Drive::Disk(disk) = drive {
                    disk.borrow_mut().node_died();
                }
            }
        });
        self.ground.net.borrow_mut().node_died();
        self.ground.model.crash(power);
        for at in 0..self.drives.len() {
            match &self.drives[at] {
                Drive::Disk(disk) if power => disk.borrow_mut().power_lost(),
                Drive::Disk(_) => (),
                Drive::Ram(ram) => {
                    check_ram(ram);
                    let blocks = self.ground.spaces[at].blocks;
                    self.ground.spaces[at].medium = self.ground.model.add_medium(blocks, false);
                }
            }
        }
        // What the operator had asked for is in the configuration.
        for asked in std::mem::take(&mut self.asked) {
            self.fulfil(asked.what);
        }
        self.ground.forbidden.clear();
        let rest = self.rng.u64(MS..200 * MS);
        self.common.after(rest, Event::Start);
    }

    /// As SIGTERM does.
    fn stop(&mut self) {
        let Some(node) = self.node.as_mut().filter(|_| !self.stopping) else {
            return;
        };
        self.common.note("stop", &[]);
        self.common.say("the node stops");
        node.control.stop();
        self.stopping = true;
        self.ground.node_up = false;
        let life = node.life();
        self.common.after(10 * S, Event::StopLimit { life });
        self.excuse_all();
    }

    fn excuse_all(&self) {
        let mut net = self.ground.net.borrow_mut();
        net.links.iter_mut().for_each(|link| link.excused = true);
    }

    /// All cores stopped: nothing is left of them.
    fn stopped(&mut self) {
        let node = self.node.take().expect("it stopped");
        let (commands, bufs) = node.outstanding();
        if (commands, bufs) != (0, 0) {
            wrong!("the cores stopped with {commands} commands and {bufs} Bufs out");
        }
        self.node = Some(node);
        self.die(false);
    }

    // The operator.

    fn hear_finished(&mut self) {
        if self.starting && self.asked.is_empty() {
            // Hosts are let in when all there is to begin with is there.
            self.starting = false;
            self.ground.node_up = true;
        }
        let Some(node) = self.node.as_mut() else {
            return;
        };
        while let Some(id) = node.control.finished() {
            let at = self.asked.iter().position(|asked| asked.id == id);
            let Some(at) = at else {
                // Asked for this very moment.
                continue;
            };
            let asked = self.asked.remove(at);
            self.common.note("finished", &[id.0]);
            self.fulfil(asked.what);
            return self.hear_finished();
        }
    }

    /// A change is done.
    fn fulfil(&mut self, what: Errand) {
        let now = self.ground.model.tick();
        self.ground.stats.changes += 1;
        let space = match what {
            Errand::Add(at) | Errand::Remove(at) | Errand::Grow(at, _) | Errand::Shrink(at, _) => {
                at
            }
            Errand::Allow(at) => {
                // Refusals may still be on their way.
                self.excuse_host(at);
                self.ground.forbidden.retain(|(_, host)| *host != at);
                return;
            }
            Errand::Forbid | Errand::Nothing => return,
        };
        let subject = &mut self.ground.spaces[space];
        subject.changing = false;
        subject.changed = now;
        match what {
            Errand::Add(_) => subject.stage = Stage::Here,
            Errand::Remove(_) => {
                subject.stage = Stage::Gone;
                if let Drive::Disk(disk) = &self.drives[space] {
                    disk.borrow().assert_idle();
                }
            }
            Errand::Grow(_, blocks) => subject.blocks = blocks,
            Errand::Shrink(_, blocks) => {
                let medium = subject.medium;
                self.ground.model.resize(medium, blocks);
                match &self.drives[space] {
                    Drive::Disk(disk) => disk.borrow_mut().resize(blocks),
                    Drive::Ram(ram) => ram.resize(blocks).expect("it can shrink"),
                }
            }
            Errand::Forbid | Errand::Allow(_) | Errand::Nothing => (),
        }
    }

    fn operate(&mut self) {
        let plan = self.ground.plan.clone();
        if self.act != Act::Storm || self.acts_left == 0 {
            return;
        }
        self.acts_left -= 1;
        let next = self.rng.u64(plan.operator / 2..=plan.operator * 2);
        self.common.after(next, Event::Operator);
        if self.node.is_none() || self.stopping || self.asked.len() > 3 {
            return;
        }
        let steady: Vec<usize> = (0..self.ground.spaces.len())
            .filter(|&at| {
                let space = &self.ground.spaces[at];
                space.stage == Stage::Here && !space.changing
            })
            .collect();
        match self.rng.u32(0..10) {
            0..=1 if self.drives.len() < 6 => {
                let kind = SpacePlan::of(&mut self.rng, 0, 0);
                let subsystem = self.rng.usize(0..plan.subsystems);
                self.add_space(subsystem, kind, Stage::Coming);
                let at = self.drives.len() - 1;
                self.serve(at, Errand::Add(at));
            }
            2 if steady.len() > 1 => {
                let at = *self.rng.pick(&steady);
                self.begin_change(at);
                let space = &mut self.ground.spaces[at];
                space.stage = Stage::Going;
                let change = Change::RemoveNamespace {
                    nqn: subsystem_nqn(space.subsystem),
                    nsid: space.nsid,
                };
                self.change(change, Errand::Remove(at));
            }
            3..=4 if !steady.is_empty() => {
                let at = *self.rng.pick(&steady);
                self.resize(at);
            }
            5..=6 => {
                let host = self.rng.usize(0..plan.hosts);
                self.excuse_host(host);
                let nqn = nqn(host);
                let node = self.node.as_mut().expect("it is up");
                node.control.disconnect(&nqn);
            }
            7 => self.allow_or_forbid(),
            _ => (),
        }
    }

    fn begin_change(&mut self, at: usize) {
        let now = self.ground.model.tick();
        let space = &mut self.ground.spaces[at];
        space.changing = true;
        space.changed = now;
    }

    fn resize(&mut self, at: usize) {
        self.begin_change(at);
        let space = &mut self.ground.spaces[at];
        let per_page = 4096 / u64::from(space.block_len);
        let pages = space.blocks / per_page;
        let new = self.rng.u64(pages / 2 + 1..=pages * 3 / 2) * per_page;
        let change = Change::Resize {
            nqn: subsystem_nqn(space.subsystem),
            nsid: space.nsid,
            blocks: new,
        };
        let (old, medium) = (space.blocks, space.medium);
        if new > old {
            self.ground.model.resize(medium, new);
            match &self.drives[at] {
                Drive::Disk(disk) => disk.borrow_mut().resize(new),
                Drive::Ram(ram) => ram.resize(new).expect("it can grow"),
            }
            self.change(change, Errand::Grow(at, new));
        } else {
            space.blocks = new;
            self.change(change, Errand::Shrink(at, new));
        }
    }

    fn excuse_host(&mut self, host: usize) {
        let mut net = self.ground.net.borrow_mut();
        for path in self.paths.iter().filter(|path| path.plan.host == host) {
            for link in path.links() {
                net.link(link).excused = true;
            }
        }
    }

    fn allow_or_forbid(&mut self) {
        let plan = self.ground.plan.clone();
        let pending = |asked: &Asked| matches!(asked.what, Errand::Forbid | Errand::Allow(_));
        if self.asked.iter().any(pending) {
            return;
        }
        // One subsystem and one host at a time is enough.
        if let Some(&(subsystem, host)) = self.ground.forbidden.first() {
            let change = Change::Allow {
                nqn: subsystem_nqn(subsystem),
                hosts: None,
            };
            self.change(change, Errand::Allow(host));
            return;
        }
        let (subsystem, host) = (
            self.rng.usize(0..plan.subsystems),
            self.rng.usize(0..plan.hosts),
        );
        self.ground.forbidden.push((subsystem, host));
        let all = 0..plan.hosts + plan.bad;
        let others = all.filter(|other| *other != host).map(nqn);
        let change = Change::Allow {
            nqn: subsystem_nqn(subsystem),
            hosts: Some(others.collect()),
        };
        self.change(change, Errand::Forbid);
    }

    // What goes wrong.

    fn fault(&mut self) {
        if self.act != Act::Storm || self.ground.stats.faults >= FAULTS_MAX {
            return;
        }
        let every = self.ground.plan.faults;
        let next = self.rng.u64(every / 2..=every * 2);
        self.common.after(next, Event::Fault);
        self.ground.stats.faults += 1;
        let at = self.rng.usize(0..self.paths.len());
        match self.rng.u32(0..20) {
            0..=9 => {
                let links = self.paths[at].links();
                if !links.is_empty() {
                    let link = *self.rng.pick(&links);
                    self.ground.net.borrow_mut().cut(link);
                }
            }
            10..=11 => self.paths[at].vanish(&mut self.ground),
            12..=13 if self.deaths_left > 0 => {
                self.deaths_left -= 1;
                match self.rng.u32(0..3) {
                    0 => self.stop(),
                    1 => self.die(false),
                    _ => self.die(true),
                }
            }
            _ => (),
        }
    }

    // The course of things.

    fn check(&mut self) {
        self.common.after(2 * MS, Event::Check);
        let now = self.common.now();
        for path in &self.paths {
            path.check_patience(&self.ground);
        }
        if self.stopping
            && let Some(node) = &self.node
            && node.control.is_stopped()
        {
            self.stopped();
        }
        if self.act != Act::Storm && now > self.act_since + 90 * S {
            let paths: Vec<_> = self.paths.iter().map(|path| path.phase).collect();
            let out = self.node.as_ref().map(Node::outstanding);
            wrong!(
                "{:?} does not end: {} errands, paths {paths:?}, out {out:?}",
                self.act,
                self.asked.len()
            );
        }
        match self.act {
            Act::Storm => {
                if self.ground.left == 0 || now > STORM_MAX {
                    self.enter(Act::Calm);
                    self.common.calm.set(true);
                }
            }
            Act::Calm => self.calm_down(),
            Act::Verify => {
                let done = |path: &Path| path.to_verify.is_empty() && path.in_flight() == 0;
                if self
                    .paths
                    .iter()
                    .all(|path| path.plan.is_bad() || done(path))
                {
                    self.enter(Act::Farewell);
                    for path in &mut self.paths {
                        path.finish(&mut self.ground);
                    }
                }
            }
            Act::Farewell => {
                let gone = self.paths.iter().all(|path| path.phase == Phase::Over);
                let node = self.node.as_ref().expect("nothing kills it any more");
                let empty = node.control.hosts().is_empty() && node.outstanding() == (0, 0);
                if gone && empty {
                    self.enter(Act::Stop);
                    self.stop();
                }
            }
            Act::Stop => {
                if self.node.is_none() {
                    self.over = true;
                }
            }
        }
    }

    /// Someone goes, for the slots that others need to connect.
    fn make_room(&mut self) {
        let live = self
            .paths
            .iter_mut()
            .filter(|path| path.phase == Phase::Live);
        let wait = self.common.now() > self.act_since + 2 * S;
        if let Some(path) = live
            .max_by_key(|path| path.io_links().len())
            .filter(|_| wait)
        {
            path.finish(&mut self.ground);
        }
    }

    fn enter(&mut self, act: Act) {
        self.common.note("act", &[act as u64]);
        self.common.say(&format!("{act:?}"));
        self.act = act;
        self.act_since = self.common.now();
    }

    /// Waits until all hosts that can are connected, everything is answered and every change is known.
    fn calm_down(&mut self) {
        if self.node.is_none() || self.stopping || !self.asked.is_empty() {
            return;
        }
        if !self.ground.forbidden.is_empty() {
            self.allow_or_forbid();
            return;
        }
        let settled = |path: &Path| match path.phase {
            Phase::Live if path.plan.is_bad() => true,
            Phase::Live => path.is_idle() && path.knows_all(&self.ground),
            Phase::Down | Phase::Over => true,
            _ => false,
        };
        for path in &mut self.paths {
            // Those that read lists do so in their own time.
            let soon = self.common.now() + US;
            if path.phase == Phase::Live {
                path.wake(&self.ground, soon);
            }
        }
        if !self.paths.iter().all(settled) {
            return;
        }
        for subsystem in 0..self.ground.plan.subsystems {
            let mut theirs = self
                .paths
                .iter()
                .filter(|path| path.plan.subsystem == subsystem && path.phase != Phase::Over)
                .filter(|path| !path.plan.is_bad());
            let wanted = theirs.clone().next().is_some();
            if wanted && !theirs.any(|path| path.phase == Phase::Live) {
                self.make_room();
                return;
            }
        }
        // One host of each subsystem reads everything.
        for subsystem in 0..self.ground.plan.subsystems {
            let live =
                |path: &&mut Path| path.phase == Phase::Live && path.plan.subsystem == subsystem;
            let mut honest = self.paths.iter_mut().filter(|path| !path.plan.is_bad());
            let Some(path) = honest.find(live) else {
                continue;
            };
            for (at, space) in self.ground.spaces.iter().enumerate() {
                if space.subsystem == subsystem && space.stage == Stage::Here {
                    let most = u64::from(256 * 1024 / space.block_len);
                    let step = |lba: u64| (at, lba, most.min(space.blocks - lba));
                    let starts = (0..space.blocks).step_by(most as usize);
                    path.to_verify.extend(starts.map(step));
                }
            }
            path.wake(&self.ground, self.common.now());
        }
        self.enter(Act::Verify);
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() && self.common.prints() {
            println!("{:#?}", self.node.as_ref().map(|node| &node.control));
        }
    }
}

fn new_ram(space: &Space, kind: &SpacePlan, id: DriveId, cores: usize) -> Arc<RamDrive> {
    let drive = RamDrive::new(RamConfig {
        id,
        label: "ram".to_owned(),
        bytes: space.blocks * u64::from(kind.block_len),
        block_len: kind.block_len,
        read_only: false,
        uuid: Some([space.nsid as u8; 16]),
        cores,
        spare: Some(kind.spare),
        want: Want::default(),
    });
    drive.expect("there is memory")
}

/// With all cores' ends gone, pages are held by blocks alone.
fn check_ram(ram: &RamDrive) {
    let (held, written) = (ram.held_pages(), ram.written_pages());
    if held != written {
        wrong!("{held} pages of a RAM drive are held, and {written} of them written");
    }
}
