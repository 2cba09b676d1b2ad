//! What the simulated hosts share: the network, the model, the namespaces as the operator has them, and
//! what is left to do.

use std::rc::Rc;

use crate::model::{Ended, MediumId, Model};
use crate::net::{LinkId, Wire};
use crate::plan::Plan;
use crate::shared::{Common, MS};

/// Where a namespace is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// Being added.
    Coming,
    Here,
    /// Being removed.
    Going,
    Gone,
}

/// A namespace, as the operator knows it.
#[derive(Clone, Debug)]
pub struct Space {
    pub subsystem: usize,
    pub nsid: u32,
    pub medium: MediumId,
    pub block_len: u32,
    /// Hosts use no more than these.
    pub blocks: u64,
    pub read_only: bool,
    pub stage: Stage,
    /// A change of it is under way.
    pub changing: bool,
    /// When a change of it last began or ended.
    pub changed: u64,
}

impl Space {
    /// A command sent at `start` may have met another state of the namespace than the present one.
    pub fn unsure(&self, start: u64) -> bool {
        self.changing || self.changed > start
    }
}

/// Writes of a dead association that may still take effect.
#[derive(Debug)]
pub struct Limbo {
    pub id: u64,
    pub host: usize,
    pub subsystem: usize,
    pub links: Vec<LinkId>,
    pub writes: Vec<u64>,
}

/// What happened, counted.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    pub commands: u64,
    pub blocks_checked: u64,
    pub errors: u64,
    pub refusals: u64,
    pub connects: u64,
    pub deaths: u64,
    pub changes: u64,
    pub faults: u64,
    pub turns: u64,
}

impl Stats {
    pub fn add(&mut self, other: &Stats) {
        self.commands += other.commands;
        self.blocks_checked += other.blocks_checked;
        self.errors += other.errors;
        self.refusals += other.refusals;
        self.connects += other.connects;
        self.deaths += other.deaths;
        self.changes += other.changes;
        self.faults += other.faults;
        self.turns += other.turns;
    }
}

#[derive(Debug)]
pub struct Ground {
    pub common: Common,
    pub net: Wire,
    pub model: Model,
    pub rng: fastrand::Rng,
    pub plan: Rc<Plan>,
    pub spaces: Vec<Space>,
    pub limbo: Vec<Limbo>,
    next_limbo: u64,
    /// Links that hosts have asked for: the control thread accepts them.
    pub dials: Vec<(LinkId, usize, usize)>,
    /// The node accepts connections.
    pub node_up: bool,
    /// Hosts that the operator has forbidden (subsystem, host), or may have.
    pub forbidden: Vec<(usize, usize)>,
    /// Commands left to send.
    pub left: u32,
    pub stats: Stats,
}

impl Ground {
    pub fn new(common: Common, net: Wire, rng: fastrand::Rng, plan: Rc<Plan>) -> Ground {
        Ground {
            common,
            net,
            model: Model::default(),
            rng,
            left: plan.commands,
            plan,
            spaces: Vec::new(),
            limbo: Vec::new(),
            next_limbo: 0,
            dials: Vec::new(),
            node_up: false,
            forbidden: Vec::new(),
            stats: Stats::default(),
        }
    }

    /// A host asks for a connection by RDMA.
    pub fn dial_rdma(&mut self, path: usize, qid: u16, depth: u16) -> LinkId {
        self.net.borrow_mut().dial_rdma(path, qid, depth)
    }

    /// A host asks for a connection.
    pub fn dial(&mut self, path: usize) -> LinkId {
        let core = self.rng.usize(0..self.plan.cores);
        let fabric = self.rng.usize(0..self.plan.fabrics);
        let kato = u64::from(self.plan.paths[path].kato_ms) * MS;
        let link = self.net.borrow_mut().dial(path, core, kato);
        self.dials.push((link, core, fabric));
        link
    }

    /// Writes whose answers will never come.
    pub fn lose(&mut self, host: usize, subsystem: usize, links: Vec<LinkId>, writes: Vec<u64>) {
        if writes.is_empty() {
            return;
        }
        self.limbo.push(Limbo {
            id: self.next_limbo,
            host,
            subsystem,
            links,
            writes,
        });
        self.next_limbo += 1;
    }

    /// The dead associations of a host of whose end the node knows by now: if a new queue is admitted
    /// after this, their writes are over.
    pub fn known_dead(&self, host: usize, subsystem: usize) -> Vec<u64> {
        let mut net = self.net.borrow_mut();
        let mut closed =
            |limbo: &Limbo| limbo.links.iter().all(|link| net.link(*link).target_closed);
        let mine = self
            .limbo
            .iter()
            .filter(|limbo| limbo.host == host && limbo.subsystem == subsystem);
        let mut known = Vec::new();
        for limbo in mine {
            if closed(limbo) {
                known.push(limbo.id);
            }
        }
        known
    }

    /// Some association of the host is dead and the node may not know it.
    pub fn has_unknown_dead(&self, host: usize, subsystem: usize) -> bool {
        let mine = |limbo: &&Limbo| limbo.host == host && limbo.subsystem == subsystem;
        self.limbo.iter().filter(mine).count() > self.known_dead(host, subsystem).len()
    }

    /// Writes of these associations will not happen any more.
    pub fn settle(&mut self, ids: &[u64]) {
        let over = self
            .limbo
            .extract_if(.., |limbo| ids.contains(&limbo.id))
            .collect::<Vec<_>>();
        for write in over.into_iter().flat_map(|limbo| limbo.writes) {
            self.model.end(write, Ended::Perhaps);
        }
    }
}

/// Something that must never be was seen.
#[macro_export]
macro_rules! wrong {
    ($($message:tt)*) => {
        panic!("WRONG {}", format_args!($($message)*))
    };
}
