//! The control thread's mind: which controllers there are, who may connect, and how a change of the
//! table is agreed on by all cores. Pure: mail and requests in, mail out.
//!
//! **Changes are one mechanism.** A change makes a new [`Table`] and sends it to every core
//! (`prepare`: new commands see the new table); each core answers that it has it, and when no command
//! begun under the old one is left (`drained`). When all have it, cores may tell hosts what is new;
//! when all have drained, the change is done. Changes go one after the other, but those of who may connect and where, which
//! no command hangs on: they are made at once and done when all have them, whatever a drive takes for those before them.
//!
//! **No stale write.** While I/O queues that ended, alone or with their association, have commands at a
//! drive, the same host's next I/O queue in that subsystem waits, see [`Control::admit_io`].

mod connect;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use ferroce_wire::fabrics::DISCOVERY_NQN;
use ferroce_wire::status::Status;

use crate::controller::{Association, Kind};
use crate::limits;
use crate::mail::{ConnectRequest, Post, ToControl, ToCore};
use crate::plant::{self, Bug};
use crate::port::{DriveId, DriveInfo, Tick};
use crate::queue::QueueRef;
use crate::table::{Listener, Namespace, Subsystem, Table, Transport};

/// The control thread's state. `I` and `D` are what cores adopt: connections and drives.
#[derive(Debug)]
pub struct Control<I, D> {
    table: Table,
    cores: Vec<CoreLink<I, D>>,
    controllers: BTreeMap<u16, Live>,
    /// Where the search for a free CNTLID of a range begins: a number is not used again soon.
    next_cntlid: BTreeMap<(u16, u16), u16>,
    waiting: Vec<Waiting>,
    changes: VecDeque<Pending<D>>,
    /// The change that cores are draining for: its number, and its drive to remove afterwards.
    current: Option<Current>,
    /// Changes that nothing is awaited for but that every core has this table.
    quick: VecDeque<(ChangeId, u64)>,
    /// The latest table that cores may tell hosts of.
    told: u64,
    finished: VecDeque<ChangeId>,
    next_change: u64,
    next_drive: u16,
    /// Queues that a core may have.
    queues_max: usize,
    stopping: bool,
}

#[derive(Debug)]
struct CoreLink<I, D> {
    post: Post<ToCore<I, D>>,
    /// What did not fit the mailbox.
    backlog: VecDeque<ToCore<I, D>>,
    /// The latest table it has.
    has: u64,
    /// The latest table it has drained to.
    drained: u64,
    stopped: bool,
}

/// A controller that exists.
#[derive(Debug)]
struct Live {
    who: Arc<Association>,
    /// Where its admin queue is.
    owner: usize,
    /// By QID.
    queues: BTreeMap<u16, LiveQueue>,
    /// It takes no more queues, and its number is free when its last queue is gone.
    ending: bool,
    /// Its I/O queues must go before CSTS.RDY may clear.
    resetting: bool,
}

#[derive(Debug)]
struct LiveQueue {
    core: usize,
    /// Its core found its connection there when it heard of the admission.
    began: bool,
    /// It takes no more commands; some may be at a drive.
    ending: bool,
}

/// A Connect that waits for the host's earlier commands to come back from the drives.
#[derive(Debug)]
struct Waiting {
    core: usize,
    queue: QueueRef,
    request: Box<ConnectRequest>,
    until: Tick,
}

/// Names a change, to hear of its end.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct ChangeId(pub u64);

/// Something an operator wants changed.
#[derive(Debug)]
pub enum Change<D> {
    /// A subsystem, with the namespaces it already names drives for.
    AddSubsystem(Subsystem),
    /// A namespace on a drive new to the node; `queues` are the drive's ends, one for each core, for
    /// the [`DriveId`] of [`Control::next_drive`].
    AddNamespace {
        /// Of this subsystem.
        nqn: String,
        /// Its NSID; `None` takes the lowest that is free.
        nsid: Option<u32>,
        /// What the drive is.
        info: DriveInfo,
        /// Refuse writes though the drive could take them.
        read_only: bool,
        /// The drive's number, from [`Control::next_drive`].
        drive: DriveId,
        /// The drive, for each core.
        queues: Vec<D>,
    },
    /// A namespace goes; when the change is finished, so is its drive.
    RemoveNamespace {
        /// Of this subsystem.
        nqn: String,
        /// Which.
        nsid: u32,
    },
    /// A namespace has another size. A drive grows before this change, and shrinks after it.
    Resize {
        /// Of this subsystem.
        nqn: String,
        /// Which.
        nsid: u32,
        /// New size in blocks, at least 1.
        blocks: u64,
    },
    /// Writes are refused from now on, or not any more.
    ReadOnly {
        /// Of this subsystem.
        nqn: String,
        /// Which.
        nsid: u32,
        /// Refuse them, though the drive could take them.
        read_only: bool,
    },
    /// Who may connect; hosts that no longer may are disconnected.
    Allow {
        /// To this subsystem.
        nqn: String,
        /// These hosts; `None` is every host.
        hosts: Option<BTreeSet<String>>,
    },
    /// Another place where hosts connect.
    AddListener(Listener),
    /// Hosts do not connect there any more. Those that did stay.
    RemoveListener(Transport, SocketAddr),
}

impl<D> Change<D> {
    /// It is of who may connect and where, alone.
    fn is_of_access(&self) -> bool {
        match self {
            Change::Allow { .. } | Change::AddListener(_) | Change::RemoveListener(..) => true,
            Change::AddSubsystem(subsystem) => subsystem.namespaces.is_empty(),
            Change::AddNamespace { .. }
            | Change::RemoveNamespace { .. }
            | Change::ReadOnly { .. }
            | Change::Resize { .. } => false,
        }
    }
}

/// Why a change cannot be made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ChangeError {
    /// No such subsystem.
    NoSubsystem(String),
    /// A subsystem of that name is there already.
    SubsystemExists(String),
    /// No such namespace.
    NoNamespace(u32),
    /// The NSID is in use.
    NamespaceExists(u32),
    /// NSIDs go from 1 to `limits::NAMESPACES_MAX`.
    BadNsid(u32),
    /// All NSIDs are in use.
    NoNsidLeft,
    /// No listener there.
    NoListener(SocketAddr),
    /// A listener is there already.
    ListenerExists(SocketAddr),
    /// A namespace has at least one block.
    NoBlocks,
    /// The node is stopping.
    Stopping,
}

impl std::fmt::Display for ChangeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ChangeError::NoSubsystem(nqn) => write!(f, "there is no subsystem {nqn}"),
            ChangeError::SubsystemExists(nqn) => write!(f, "there is a subsystem {nqn} already"),
            ChangeError::NoNamespace(nsid) => write!(f, "there is no namespace {nsid}"),
            ChangeError::NamespaceExists(nsid) => write!(f, "there is a namespace {nsid} already"),
            ChangeError::BadNsid(nsid) => write!(
                f,
                "{nsid} is no namespace identifier: they go from 1 to {}",
                limits::NAMESPACES_MAX
            ),
            ChangeError::NoNsidLeft => {
                write!(
                    f,
                    "all {} namespace identifiers are in use",
                    limits::NAMESPACES_MAX
                )
            }
            ChangeError::NoListener(address) => write!(f, "there is no listener at {address}"),
            ChangeError::ListenerExists(address) => {
                write!(f, "there is a listener at {address} already")
            }
            ChangeError::NoBlocks => write!(f, "a namespace has at least one block"),
            ChangeError::Stopping => write!(f, "the node is stopping"),
        }
    }
}

impl std::error::Error for ChangeError {}

#[derive(Debug)]
struct Pending<D> {
    id: ChangeId,
    table: Table,
    add: Option<(DriveId, Vec<D>)>,
    remove: Option<DriveId>,
}

#[derive(Debug)]
struct Current {
    id: ChangeId,
    epoch: u64,
    remove: Option<DriveId>,
}

/// A host, as `ctl hosts` shows it.
#[derive(Clone, Debug)]
pub struct HostView {
    /// Its controller.
    pub who: Arc<Association>,
    /// Its I/O queues.
    pub io_queues: usize,
    /// It is on its way out.
    pub ending: bool,
}

impl<I, D> Control<I, D> {
    /// A node with these cores, serving nothing yet.
    pub fn new(posts: Vec<Post<ToCore<I, D>>>) -> Control<I, D> {
        let cores = posts.into_iter().map(|post| CoreLink {
            post,
            backlog: VecDeque::new(),
            has: 0,
            drained: 0,
            stopped: false,
        });
        Control {
            table: Table::default(),
            cores: cores.collect(),
            controllers: BTreeMap::new(),
            next_cntlid: BTreeMap::new(),
            waiting: Vec::new(),
            changes: VecDeque::new(),
            current: None,
            quick: VecDeque::new(),
            told: 0,
            finished: VecDeque::new(),
            next_change: 1,
            next_drive: 0,
            queues_max: usize::MAX,
            stopping: false,
        }
    }

    /// A core takes so many queues, admin queues among them; a Connect beyond is refused with Controller
    /// Busy. Without this call there is no such bound.
    pub fn bound_queues(&mut self, each_core: usize) {
        self.queues_max = each_core;
    }

    // What operators ask.

    /// Plans a change. It is done when [`Control::finished`] names it.
    ///
    /// # Errors
    /// If it contradicts what there is, with what was planned before it taken into account.
    pub fn change(&mut self, change: Change<D>) -> Result<ChangeId, ChangeError> {
        if self.stopping {
            return Err(ChangeError::Stopping);
        }
        let mut table = self.planned().clone();
        let quick = change.is_of_access();
        let (add, remove) = apply(&mut table, change)?;
        let id = ChangeId(self.next_change);
        self.next_change += 1;
        if quick {
            for pending in &mut self.changes {
                pending.table.take_access(&table);
            }
            let mut now = self.table.clone();
            now.take_access(&table);
            self.put_in_force(now);
            self.quick.push_back((id, self.table.version));
        } else {
            table.epoch += 1;
            self.changes.push_back(Pending {
                id,
                table,
                add,
                remove,
            });
            self.next_step();
        }
        Ok(id)
    }

    /// The table as it will be when all changes are done.
    pub fn planned(&self) -> &Table {
        self.changes
            .back()
            .map_or(&self.table, |pending| &pending.table)
    }

    /// The table as new commands see it.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// The next change that is done.
    pub fn finished(&mut self) -> Option<ChangeId> {
        self.finished.pop_front()
    }

    /// A number for a new drive.
    pub fn next_drive(&mut self) -> DriveId {
        let id = DriveId(self.next_drive);
        self.next_drive += 1;
        id
    }

    /// Who is connected.
    pub fn hosts(&self) -> Vec<HostView> {
        let view = |live: &Live| HostView {
            who: live.who.clone(),
            io_queues: live.queues.keys().filter(|qid| **qid != 0).count(),
            ending: live.ending,
        };
        self.controllers.values().map(view).collect()
    }

    /// Hosts that use namespaces are connected.
    pub fn is_in_use(&self) -> bool {
        let mut controllers = self.controllers.values();
        controllers.any(|live| live.who.kind == Kind::Io && !live.ending)
    }

    /// Disconnects all controllers of a host; how many that were.
    pub fn disconnect(&mut self, hostnqn: &str) -> usize {
        let of_host = |live: &&Live| live.who.hostnqn == hostnqn && !live.ending;
        let theirs: Vec<u16> = self
            .controllers
            .values()
            .filter(of_host)
            .map(|live| live.who.cntlid)
            .collect();
        for cntlid in &theirs {
            self.end(*cntlid);
        }
        theirs.len()
    }

    /// Hands a connection to a core.
    pub fn adopt(&mut self, core: usize, fabric: usize, incoming: I) {
        self.send(core, ToCore::Adopt { fabric, incoming });
    }

    /// Everyone finishes what is outstanding and closes.
    pub fn stop(&mut self) {
        self.stopping = true;
        for waiting in std::mem::take(&mut self.waiting) {
            self.refuse(
                waiting.core,
                waiting.queue,
                Status::CONNECT_CONTROLLER_BUSY,
                0,
            );
        }
        for core in 0..self.cores.len() {
            self.send(core, ToCore::Stop);
        }
    }

    /// All cores have stopped.
    pub fn is_stopped(&self) -> bool {
        self.cores.iter().all(|core| core.stopped)
    }

    // What cores say.

    /// A core's mail.
    pub fn on_mail(&mut self, mail: ToControl, now: Tick) {
        match mail {
            ToControl::Connect {
                core,
                queue,
                request,
            } => {
                self.on_connect(core, queue, request, now);
            }
            ToControl::QueueBegan { cntlid, qid } => {
                let live = self.controllers.get_mut(&cntlid);
                if let Some(queue) = live.and_then(|live| live.queues.get_mut(&qid)) {
                    queue.began = true;
                }
            }
            ToControl::QueueEnding { cntlid, qid } => {
                let live = self.controllers.get_mut(&cntlid);
                if let Some(queue) = live.and_then(|live| live.queues.get_mut(&qid)) {
                    queue.ending = !plant::on(Bug::LostQueueForgotten);
                }
            }
            ToControl::QueueEnded { cntlid, qid } => self.on_queue_ended(cntlid, qid, now),
            ToControl::ControllerEnding { cntlid } => self.end(cntlid),
            ToControl::Resetting { cntlid } => self.on_resetting(cntlid),
            ToControl::HasTable { core, version } => {
                self.cores[core].has = version;
                self.on_had();
            }
            ToControl::Drained { core, epoch } => {
                self.cores[core].drained = epoch;
                self.next_step();
            }
            ToControl::Stopped { core } => self.cores[core].stopped = true,
        }
    }

    /// Time passes: mail that did not fit goes out, and who waited too long is refused.
    pub fn on_time(&mut self, now: Tick) {
        for core in 0..self.cores.len() {
            self.flush(core);
        }
        let late = |waiting: &mut Waiting| waiting.until <= now;
        for waiting in self.waiting.extract_if(.., late).collect::<Vec<_>>() {
            log::warn!(
                "{}: commands of this host's earlier association are still at a drive after {} ms; \
                 its new queue is refused for now",
                waiting.request.peer,
                limits::STALE_WAIT_MS
            );
            // Without DNR: the host tries again.
            self.refuse(
                waiting.core,
                waiting.queue,
                Status::CONNECT_CONTROLLER_BUSY,
                0,
            );
        }
    }

    /// When [`Control::on_time`] has something to do.
    pub fn next_timeout(&self) -> Option<Tick> {
        if self.cores.iter().any(|core| !core.backlog.is_empty()) {
            return Some(Tick(0));
        }
        self.waiting.iter().map(|waiting| waiting.until).min()
    }

    // Ends.

    /// All queues of a controller must go.
    fn end(&mut self, cntlid: u16) {
        let Some(live) = self.controllers.get_mut(&cntlid) else {
            return;
        };
        if live.ending {
            return;
        }
        live.ending = true;
        // While the node stops, queues finish by themselves.
        if !self.stopping {
            self.end_queues(cntlid, false);
        }
    }

    fn on_resetting(&mut self, cntlid: u16) {
        let Some(live) = self.controllers.get_mut(&cntlid) else {
            return;
        };
        live.resetting = true;
        self.end_queues(cntlid, true);
        self.reset_done_if_so(cntlid);
    }

    fn end_queues(&mut self, cntlid: u16, keep_admin: bool) {
        let Some(live) = self.controllers.get(&cntlid) else {
            return;
        };
        let cores: BTreeSet<usize> = live.queues.values().map(|queue| queue.core).collect();
        for core in cores {
            self.send(core, ToCore::EndController { cntlid, keep_admin });
        }
    }

    fn on_queue_ended(&mut self, cntlid: u16, qid: u16, now: Tick) {
        let Some(live) = self.controllers.get_mut(&cntlid) else {
            return;
        };
        live.queues.remove(&qid);
        if live.queues.is_empty() {
            self.controllers.remove(&cntlid);
        } else {
            self.reset_done_if_so(cntlid);
        }
        // Someone may have waited for just this.
        for waiting in std::mem::take(&mut self.waiting) {
            if self.has_stale(&waiting.request) {
                self.waiting.push(waiting);
            } else {
                self.admit_io(waiting.core, waiting.queue, waiting.request, now);
            }
        }
    }

    fn reset_done_if_so(&mut self, cntlid: u16) {
        let Some(live) = self.controllers.get_mut(&cntlid) else {
            return;
        };
        let gone = live.queues.keys().all(|qid| *qid == 0) || plant::on(Bug::ResetEarly);
        if live.resetting && gone {
            live.resetting = false;
            let owner = live.owner;
            self.send(owner, ToCore::ResetDone { cntlid });
        }
    }

    // Changes.

    fn next_step(&mut self) {
        if let Some(current) = &self.current {
            if self.cores.iter().any(|core| core.drained < current.epoch) {
                return;
            }
            let current = self.current.take().expect("it was just there");
            if let Some(drive) = current.remove {
                for core in 0..self.cores.len() {
                    self.send(core, ToCore::RemoveDrive(drive));
                }
            }
            self.finished.push_back(current.id);
        }
        let Some(pending) = self.changes.pop_front() else {
            return;
        };
        let (id, epoch, remove) = (pending.id, pending.table.epoch, pending.remove);
        self.current = Some(Current { id, epoch, remove });
        if let Some((drive, queues)) = pending.add {
            assert!(
                queues.len() == self.cores.len(),
                "a drive has a queue for each core"
            );
            for (core, queue) in queues.into_iter().enumerate() {
                self.send(core, ToCore::AddDrive(drive, queue));
            }
        }
        self.put_in_force(pending.table);
    }

    /// From now on commands see this table.
    fn put_in_force(&mut self, table: Table) {
        let version = self.table.version + 1;
        self.table = Table { version, ..table };
        // Before cores say that they have it.
        self.end_forbidden();
        let table = Arc::new(self.table.clone());
        for core in 0..self.cores.len() {
            self.send(core, ToCore::Table(table.clone()));
        }
    }

    /// A core has another table. A host that hears of a change may use it on any of its queues, so not before all cores have.
    fn on_had(&mut self) {
        let version = self.table.version;
        let had = self.cores.iter().map(|core| core.has).min();
        let had = had.unwrap_or(version);
        if self.told < version && had >= version {
            self.told = version;
            for core in 0..self.cores.len() {
                self.send(core, ToCore::Tell { version });
            }
        }
        while let Some((id, _)) = self.quick.pop_front_if(|(_, version)| *version <= had) {
            self.finished.push_back(id);
        }
    }

    /// Hosts that may not be connected any more, or whose subsystem went, are disconnected.
    fn end_forbidden(&mut self) {
        let forbidden = |live: &&Live| {
            let subsystem = self.table.subsystems.get(&live.who.subnqn);
            live.who.kind == Kind::Io
                && live.who.subnqn != DISCOVERY_NQN
                && !subsystem.is_some_and(|subsystem| subsystem.allows(&live.who.hostnqn))
        };
        let theirs: Vec<u16> = self
            .controllers
            .values()
            .filter(forbidden)
            .map(|live| live.who.cntlid)
            .collect();
        for cntlid in theirs {
            self.end(cntlid);
        }
    }

    // Mail.

    fn send(&mut self, core: usize, mail: ToCore<I, D>) {
        self.cores[core].backlog.push_back(mail);
        self.flush(core);
    }

    fn flush(&mut self, core: usize) {
        let link = &mut self.cores[core];
        while let Some(mail) = link.backlog.pop_front() {
            if let Err(mail) = link.post.send(mail) {
                link.backlog.push_front(mail);
                return;
            }
        }
    }
}

type Drives<D> = (Option<(DriveId, Vec<D>)>, Option<DriveId>);

/// Makes the change in a copy of the table.
fn apply<D>(table: &mut Table, change: Change<D>) -> Result<Drives<D>, ChangeError> {
    match change {
        Change::AddSubsystem(subsystem) => {
            if table.subsystems.contains_key(&subsystem.nqn) {
                return Err(ChangeError::SubsystemExists(subsystem.nqn));
            }
            table
                .subsystems
                .insert(subsystem.nqn.clone(), Arc::new(subsystem));
            table.generation += 1;
        }
        Change::AddNamespace {
            nqn,
            nsid,
            info,
            read_only,
            drive,
            queues,
        } => {
            let subsystem = subsystem(table, &nqn)?;
            let free = (1..=limits::NAMESPACES_MAX)
                .find(|nsid| !subsystem.namespaces.contains_key(nsid))
                .ok_or(ChangeError::NoNsidLeft)?;
            let nsid = nsid.unwrap_or(free);
            if nsid == 0 || nsid > limits::NAMESPACES_MAX {
                return Err(ChangeError::BadNsid(nsid));
            }
            if subsystem.namespaces.contains_key(&nsid) {
                return Err(ChangeError::NamespaceExists(nsid));
            }
            let read_only = read_only || info.read_only;
            subsystem.namespaces.insert(
                nsid,
                Namespace {
                    drive,
                    info: info.into(),
                    read_only,
                },
            );
            return Ok((Some((drive, queues)), None));
        }
        Change::RemoveNamespace { nqn, nsid } => {
            let removed = subsystem(table, &nqn)?.namespaces.remove(&nsid);
            return Ok((
                None,
                Some(removed.ok_or(ChangeError::NoNamespace(nsid))?.drive),
            ));
        }
        Change::Resize { nqn, nsid, blocks } => {
            let namespace = namespace(table, &nqn, nsid)?;
            if blocks == 0 {
                return Err(ChangeError::NoBlocks);
            }
            Arc::make_mut(&mut namespace.info).blocks = blocks;
        }
        Change::ReadOnly {
            nqn,
            nsid,
            read_only,
        } => {
            let namespace = namespace(table, &nqn, nsid)?;
            namespace.read_only = read_only || namespace.info.read_only;
        }
        Change::Allow { nqn, hosts } => {
            subsystem(table, &nqn)?.allow = hosts;
            table.generation += 1;
        }
        Change::AddListener(listener) => {
            if table.listeners.iter().any(|there| {
                (there.transport, there.address) == (listener.transport, listener.address)
            }) {
                return Err(ChangeError::ListenerExists(listener.address));
            }
            table.listeners.push(listener);
            table.generation += 1;
        }
        Change::RemoveListener(transport, address) => {
            let had = table.listeners.len();
            table
                .listeners
                .retain(|listener| (listener.transport, listener.address) != (transport, address));
            if table.listeners.len() == had {
                return Err(ChangeError::NoListener(address));
            }
            table.generation += 1;
        }
    }
    Ok((None, None))
}

fn subsystem<'a>(table: &'a mut Table, nqn: &str) -> Result<&'a mut Subsystem, ChangeError> {
    let found = table.subsystems.get_mut(nqn);
    found
        .map(Arc::make_mut)
        .ok_or_else(|| ChangeError::NoSubsystem(nqn.to_owned()))
}

fn namespace<'a>(
    table: &'a mut Table,
    nqn: &str,
    nsid: u32,
) -> Result<&'a mut Namespace, ChangeError> {
    let found = subsystem(table, nqn)?.namespaces.get_mut(&nsid);
    found.ok_or(ChangeError::NoNamespace(nsid))
}
