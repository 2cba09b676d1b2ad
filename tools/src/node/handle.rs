//! What may be asked of a node that runs, by `ctl`, by `serve` while it starts, and by tests.

mod view;

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use ferroce_buf::Region;
use ferroce_drivers::FileConfig;
use ferroce_engine::control::Change;
use ferroce_engine::health::Health;
use ferroce_engine::limits;
use ferroce_engine::mail::Post;
use ferroce_engine::phases::Slow;
use ferroce_engine::port::{DriveId, DriveInfo};
use ferroce_engine::table::{self, Listener, Table, Transport};
#[cfg(feature = "verbs")]
use ferroce_transport::rdma::verbs::{self, Verbs};
use ferroce_transport::roce;
use ferroce_transport::tcp::listen;
use ferroce_wire::fabrics::Nqn;
use ferroce_wire::opcode::NvmOpcode;
use uuid::Uuid;

use super::CoreFacts;
use super::control::{Ask, Look, Reply};
use super::core::Clock;
use super::door::AnyListener;
use super::drives::Drive;
use super::latency::Said;
use super::wanted::Wanted;
use crate::boot;
use crate::config::{Config, Memory, Namespace, check_nsid};
use crate::ctl::protocol::{
    CoreView, HealthView, Host, NamespaceView, Node, Order, Request, Response, SlowIo,
    SubsystemView,
};
use crate::fail::{Context, Fail, Result, cannot_listen, fail};
use crate::persist::{self, persist};
use crate::sets::AnyDrive;
use crate::units::{Size, about};
use crate::url::{Scheme, Url};

/// Drives that a node has in its life, at most: each has a number of its own, and so have its Bufs.
const DRIVES_MAX: u16 = 0xFFF0;
/// How long a node that ends waits for a change of its drives.
const LAST_CHANGE: Duration = Duration::from_secs(2);
/// How long who only looks waits for the control thread.
const LOOK: Duration = Duration::from_secs(5);

/// The way to a node's control thread.
#[derive(Debug)]
pub struct Handle {
    asks: Post<Ask>,
    cores: Vec<Arc<CoreFacts>>,
    /// Held for a moment only: metrics wait for it.
    drives: Mutex<BTreeMap<DriveId, Arc<Drive>>>,
    /// A number that was drawn for a drive which then could not be had: a drive that is looked for again and again must not
    /// use them up.
    spare_id: Mutex<Option<DriveId>>,
    /// Orders that change drives go one after the other, and those of who may connect and where: these never wait for a
    /// drive, and so not for those either.
    changing: [Mutex<()>; 2],
    file: Option<PathBuf>,
    /// What the file said, as far as the node goes by it, and what was written to it since.
    in_force: Mutex<Config>,
    memory: Memory,
    /// What the cores' Bufs lie in.
    regions: Vec<Arc<Region>>,
    clock: Clock,
    wake_up: Said,
    /// RDMA devices, and the index of their fabric on each core.
    #[cfg(feature = "verbs")]
    verbs: Option<(usize, Arc<Verbs>)>,
    /// Where software RoCEv2 listens, and what it counts there; other RDMA listeners are devices'.
    roce: OnceLock<(Vec<SocketAddr>, Arc<Mutex<roce::counters::Counters>>)>,
    /// What a patient node has not, yet.
    wanted: Wanted,
    since: Instant,
    /// Bytes that drives copied which are gone.
    copied_before: AtomicU64,
}

impl Handle {
    pub(super) fn new(
        asks: Post<Ask>,
        cores: Vec<Arc<CoreFacts>>,
        file: Option<PathBuf>,
        (memory, regions): (Memory, Vec<Arc<Region>>),
        clock: Clock,
        (wanted, wake_up): (Wanted, Said),
        #[cfg(feature = "verbs")] verbs: Option<(usize, Arc<Verbs>)>,
    ) -> Handle {
        Handle {
            asks,
            cores,
            spare_id: Mutex::default(),
            drives: Mutex::default(),
            changing: Default::default(),
            file,
            in_force: Mutex::default(),
            memory,
            regions,
            clock,
            wake_up,
            #[cfg(feature = "verbs")]
            verbs,
            roce: OnceLock::new(),
            wanted,
            since: Instant::now(),
            copied_before: AtomicU64::new(0),
        }
    }

    /// What it was to have and has not.
    pub fn wanted(&self) -> &Wanted {
        &self.wanted
    }

    /// What the configuration file said, as far as this node goes by it.
    pub fn in_force(&self) -> Config {
        lock(&self.in_force).clone()
    }

    /// See [`Handle::in_force`]. For a moment: orders wait for it.
    pub fn noting(&self) -> MutexGuard<'_, Config> {
        lock(&self.in_force)
    }

    /// Held by whoever changes drives.
    pub fn changing_drives(&self) -> MutexGuard<'_, ()> {
        lock(&self.changing[0])
    }

    /// Held by whoever changes who may connect and where.
    pub fn changing_access(&self) -> MutexGuard<'_, ()> {
        lock(&self.changing[1])
    }

    /// Does what was asked, and says what came of it.
    pub fn respond(&self, request: &Request) -> Response {
        match self.try_respond(request) {
            Ok(response) => response,
            Err(Fail(why)) => Response::Failed(why),
        }
    }

    fn try_respond(&self, request: &Request) -> Result<Response> {
        match &request.order {
            Order::Show => return Ok(Response::Node(Box::new(self.view()?))),
            Order::Hosts => return Ok(Response::Hosts(self.hosts()?)),
            Order::Slow { reset } => return Ok(Response::Slow(self.slow(*reset)?)),
            _ => (),
        }
        let file = match (&self.file, request.persist) {
            (_, false) => None,
            (Some(file), true) => Some(file),
            (None, true) => fail!(
                "--persist: the node was started from flags, so there is no file to write; nothing was changed. \
                 Start it with `ferroce serve --config FILE`"
            ),
        };
        let _one_at_a_time = match request.order.is_of_drives() {
            true => self.changing_drives(),
            false => self.changing_access(),
        };
        let done = self.execute(&request.order, request.subsystem.as_deref())?;
        if let (Some(file), Some(change)) = (file, done.to_persist()) {
            let mut in_force = self.noting();
            persist(file, &change)
                .context(|| format!("{}, but it is not in the file", done.line))?;
            // When the file is read again this is no change.
            change.note(&mut in_force);
            let (line, warnings) = match done.line.find('\n') {
                Some(end) => done.line.split_at(end),
                None => (done.line.as_str(), ""),
            };
            let file = file.display();
            return Ok(Response::Done(format!(
                "{line}; written to {file}{warnings}"
            )));
        }
        Ok(Response::Done(done.line))
    }

    /// Makes a change; the cores work by it when this returns.
    pub fn execute(&self, order: &Order, subsystem: Option<&str>) -> Result<Done> {
        let table = self.table()?;
        let nqn = || pick(&table, subsystem);
        let (line, written) = match order {
            Order::Show | Order::Hosts | Order::Slow { .. } => fail!("that changes nothing"),
            Order::Add {
                device,
                nsid,
                read_only,
            } => {
                let nqn = nqn()?;
                let mut namespace = Namespace::of(device.parse().map_err(Fail)?);
                if let (Some(inside), Some(beside)) = (namespace.nsid, nsid)
                    && inside != *beside
                {
                    fail!("`{device}` says nsid={inside}, and --nsid says {beside}");
                }
                namespace.nsid = namespace.nsid.or(*nsid);
                if *read_only {
                    namespace.read_only = Some(true);
                }
                let nsid = self.add(nqn, &namespace)?;
                let written = Written::Add {
                    nqn: nqn.into(),
                    nsid,
                    device: device.clone(),
                    read_only: *read_only,
                };
                let mut line = format!("namespace {nsid} is {device}");
                let has = &self.table()?.subsystems[nqn].namespaces[&nsid].info;
                let bytes = has.blocks * u64::from(has.block_len);
                let other_size = |file: FileConfig| file.other_size(bytes);
                if let Some(told) = namespace.spec().file().and_then(other_size) {
                    line += &format!("\nwarning: {told}");
                }
                (line, written)
            }
            Order::Remove { nsid } => {
                let nqn = nqn()?;
                let drive = namespace(&table, nqn, *nsid)?.drive;
                self.change(Change::RemoveNamespace {
                    nqn: nqn.into(),
                    nsid: *nsid,
                })?;
                let drive = lock(&self.drives).remove(&drive);
                // Not under the lock: a drive may take a while to shut down.
                if let Some(drive) = drive {
                    self.copied_before.fetch_add(drive.copied(), Relaxed);
                }
                (
                    format!("namespace {nsid} is gone"),
                    Written::Remove {
                        nqn: nqn.into(),
                        nsid: *nsid,
                    },
                )
            }
            Order::Resize { nsid, size } => {
                let nqn = nqn()?;
                self.resize(nqn, *nsid, namespace(&table, nqn, *nsid)?, *size)?;
                let written = Written::Resize {
                    nqn: nqn.into(),
                    nsid: *nsid,
                    size: *size,
                };
                (format!("namespace {nsid} has {}", about(*size)), written)
            }
            Order::Allow { host } => {
                let nqn = nqn()?;
                Nqn::new(host).context(|| format!("`{host}`"))?;
                let before = table.subsystems[nqn].allow.clone();
                let first = before.is_none();
                let mut hosts = before.unwrap_or_default();
                hosts.insert(host.clone());
                self.change(Change::Allow {
                    nqn: nqn.into(),
                    hosts: Some(hosts),
                })?;
                let rest = if first {
                    "; every other host may not any more"
                } else {
                    ""
                };
                (
                    format!("{host} may connect{rest}"),
                    Written::Allow {
                        nqn: nqn.into(),
                        host: host.clone(),
                    },
                )
            }
            Order::Forbid { host } => {
                let nqn = nqn()?;
                let Some(mut hosts) = table.subsystems[nqn].allow.clone() else {
                    fail!(
                        "every host may connect to {nqn}; name those that may with `ctl allow`, then all others may not"
                    );
                };
                if !hosts.remove(host) {
                    fail!("{host} may not connect anyway");
                }
                self.change(Change::Allow {
                    nqn: nqn.into(),
                    hosts: Some(hosts),
                })?;
                (
                    format!("{host} may not connect"),
                    Written::Forbid {
                        nqn: nqn.into(),
                        host: host.clone(),
                    },
                )
            }
            Order::Disconnect { host } => {
                let count = self.ask(|reply| Ask::Disconnect(host.clone(), reply))?;
                if count == 0 {
                    fail!("{host} is not connected; `ferroce ctl hosts` says who is");
                }
                (
                    format!("{host} is disconnected ({count} associations)"),
                    Written::Nothing,
                )
            }
            Order::Listen { url } => {
                let url: Url = url.parse().map_err(Fail)?;
                let url = self.listen(&table, &url)?;
                let mut line = format!("hosts may connect to {url}");
                let at = url.to_string();
                for door in self.open_doors()?.iter().filter(|door| door.contains(&at)) {
                    log::warn!("{door}");
                    line += &format!("\nwarning: {door}");
                }
                (line, Written::Listen(url))
            }
            Order::Unlisten { url } => {
                let url: Url = url.parse().map_err(Fail)?;
                let address = url.resolve_listener()?;
                let transport = url.scheme.transport();
                self.change(Change::RemoveListener(transport, address))?;
                self.ask(|reply| Ask::Refuse(transport, address, reply))?;
                (
                    format!("nobody new connects to {url}"),
                    Written::Unlisten(url),
                )
            }
        };
        Ok(Done { line, written })
    }

    /// Without a list of hosts, whoever reaches an address beyond loopback may read and write: a line for each such
    /// subsystem.
    pub fn open_doors(&self) -> Result<Vec<String>> {
        let table = self.table()?;
        let beyond: Vec<String> = table
            .listeners
            .iter()
            .filter(|listener| !listener.address.ip().is_loopback())
            .map(|listener| self.url(listener).to_string())
            .collect();
        if beyond.is_empty() {
            return Ok(Vec::new());
        }
        let open = table.subsystems.values().filter(|all| all.allow.is_none());
        let line = |subsystem: &table::Subsystem| {
            format!(
                "every host that reaches {} may connect to {}; name those that may with `ferroce ctl allow NQN`, \
                 --allow NQN at the start, or `allow` of the configuration",
                beyond.join(", "),
                subsystem.nqn
            )
        };
        Ok(open.map(|subsystem| line(subsystem.as_ref())).collect())
    }

    /// Opens a drive and makes a namespace of it; its number.
    pub fn add(&self, nqn: &str, namespace: &Namespace) -> Result<u32> {
        let table = self.table()?;
        let taken = &table
            .subsystems
            .get(nqn)
            .context_none(|| format!("there is no subsystem {nqn}"))?
            .namespaces;
        let free = (1..=limits::NAMESPACES_MAX).find(|nsid| !taken.contains_key(nsid));
        let Some(nsid) = namespace.nsid.or(free) else {
            fail!(
                "{nqn} has {} namespaces, which is all there can be",
                taken.len()
            );
        };
        check_nsid(nsid)?;
        // Looked at before the drive is opened: that may create a file.
        if taken.contains_key(&nsid) {
            fail!("there is a namespace {nsid} already; remove it first, or leave --nsid out");
        }
        let spec = namespace.spec();
        for subsystem in table.subsystems.values() {
            let same = |other: &table::Namespace| {
                let shared = spec.read_only && other.info.read_only;
                spec.file().is_some() && other.info.label == spec.label() && !shared
            };
            if let Some((other, _)) = subsystem.namespaces.iter().find(|(_, other)| same(other)) {
                fail!(
                    "this node serves {} already, as namespace {other} of {}",
                    spec.label(),
                    subsystem.nqn
                );
            }
        }
        if let Some(uuid) = spec.uuid
            && let Some((other, _)) = taken.iter().find(|(_, other)| other.info.uuid == uuid)
        {
            fail!(
                "namespace {other} has this UUID already, and hosts refuse a second one with \"duplicate IDs\"; leave uuid= out, \
                 or give another"
            );
        }
        let spare = lock(&self.spare_id).take();
        let id = match spare {
            Some(id) => id,
            None => self.ask(Ask::NextDrive)?,
        };
        let added = self.add_as(id, nqn, nsid, namespace);
        if added.is_err() {
            *lock(&self.spare_id) = Some(id);
        }
        added.map(|()| nsid)
    }

    fn add_as(&self, id: DriveId, nqn: &str, nsid: u32, namespace: &Namespace) -> Result<()> {
        if id.0 >= DRIVES_MAX {
            fail!(
                "this node has had {DRIVES_MAX} drives, and has no number for another one; restart it"
            );
        }
        let spec = namespace.spec();
        let drive = Drive::open(namespace, id, self.cores.len(), self.memory)?;
        self.register(&drive)?;
        let nodes: Vec<Option<u32>> = self.cores.iter().map(|core| core.node).collect();
        let queues = drive.ends(&nodes, &self.regions)?;
        self.change(Change::AddNamespace {
            nqn: nqn.into(),
            nsid: Some(nsid),
            info: drive.info(),
            read_only: spec.read_only,
            drive: id,
            queues,
        })?;
        lock(&self.drives).insert(id, Arc::new(drive));
        Ok(())
    }

    fn resize(&self, nqn: &str, nsid: u32, now: &table::Namespace, size: u64) -> Result<()> {
        let block = u64::from(now.info.block_len);
        if size == 0 || !size.is_multiple_of(block) {
            fail!(
                "{} cannot be: a size is a multiple of the block, {block} bytes, and not 0",
                Size(size)
            );
        }
        let blocks = size / block;
        let drive = lock(&self.drives).get(&now.drive).cloned();
        let drive = drive.context_none(|| "the drive is gone".into())?;
        let before = now.info.blocks;
        if blocks > before {
            drive.resize(blocks)?;
            self.register(&drive)?;
        } else if blocks < before {
            drive.may_shrink(blocks)?;
        }
        let change = |blocks| {
            let nqn = nqn.into();
            self.change(Change::Resize { nqn, nsid, blocks })
        };
        change(blocks)?;
        // Hosts know the smaller size, and no command of theirs is beyond it any more.
        if blocks < before
            && let Err(why) = drive.resize(blocks)
        {
            // What they know is what there is.
            if drive.info().blocks == before
                && let Err(Fail(again)) = change(before)
            {
                log::error!(
                    "hosts know namespace {nsid} of {nqn} as {}, and it has more: {again}",
                    Size(size)
                );
            }
            return Err(why);
        }
        Ok(())
    }

    /// The place this means, with the scheme of what listens there if it says no more than `rdma://`.
    pub fn place(&self, live: &[Url], url: &Url) -> Url {
        let Ok(address) = url.resolve_listener() else {
            return url.clone();
        };
        let place: Url = (url.scheme, address).into();
        let is_it =
            |known: &&Url| known.scheme.transport() == Transport::Rdma && known.is_at(&place);
        match live.iter().find(is_it) {
            Some(known) if url.scheme == Scheme::Rdma => known.clone(),
            _ => place,
        }
    }

    /// True if the node can begin to listen there while it runs: each core has sockets or queue pairs of its own for RDMA,
    /// and gets them at the start.
    pub fn can_listen(&self, url: &Url) -> bool {
        #[cfg(feature = "verbs")]
        if let Some((_, verbs)) = &self.verbs {
            let has = |address: SocketAddr| verbs.has(address.ip());
            return match url.scheme {
                Scheme::Tcp | Scheme::Verbs => true,
                Scheme::Roce => false,
                Scheme::Rdma => url.resolve_listener().is_ok_and(has),
            };
        }
        url.scheme == Scheme::Tcp
    }

    pub(super) fn listen(&self, table: &Table, url: &Url) -> Result<Url> {
        let address = url.resolve_listener()?;
        #[cfg(feature = "verbs")]
        if let Some((_, verbs)) = &self.verbs
            && (url.scheme == Scheme::Verbs
                || url.scheme == Scheme::Rdma && verbs.has(address.ip()))
        {
            let listener = super::verbs::listen(verbs, url, address)?;
            let address = listener.local();
            self.listen_verbs(listener)?;
            return Ok((Scheme::Verbs, address).into());
        }
        if url.scheme.transport() == Transport::Rdma {
            fail!(
                "`{url}`: each core has sockets or queue pairs of its own for RDMA, and gets them at the start; name the \
                 address in `listen` of the configuration, or with `serve --listen`"
            );
        }
        let listener = listen::Listener::bind(address).map_err(|cause| {
            let hint = cannot_listen(&cause);
            Fail(format!("cannot listen at {url}: {cause}; {hint}"))
        })?;
        let address = listener.local();
        self.announce(table, Transport::Tcp, address)?;
        let listener = Box::new(AnyListener::Tcp(listener));
        self.ask(|reply| Ask::Accept(listener, reply))?;
        Ok((Scheme::Tcp, address).into())
    }

    /// Hosts may connect where this listens.
    pub(super) fn listen_roce(&self, listener: roce::udp::Listener) -> Result<()> {
        self.roce
            .set((listener.services().to_vec(), listener.shared()))
            .expect("one listener has all addresses");
        for address in listener.services() {
            self.announce(&self.table()?, Transport::Rdma, *address)?;
        }
        let listener = Box::new(AnyListener::Roce(Box::new(listener)));
        self.ask(|reply| Ask::Accept(listener, reply))
    }

    /// Hosts may connect where this listens.
    #[cfg(feature = "verbs")]
    pub(super) fn listen_verbs(&self, listener: verbs::Listener) -> Result<()> {
        let Some((fabric, _)) = &self.verbs else {
            fail!("no core has queue pairs on RDMA devices");
        };
        self.announce(&self.table()?, Transport::Rdma, listener.local())?;
        let listener = Box::new(AnyListener::Verbs(*fabric, Box::new(listener)));
        self.ask(|reply| Ask::Accept(listener, reply))
    }

    /// Lets RDMA devices reach the memory a drive brings, before any of it is dealt.
    fn register(&self, drive: &Drive) -> Result<()> {
        #[cfg(feature = "verbs")]
        if let Some((_, verbs)) = &self.verbs {
            for region in drive.regions() {
                verbs
                    .register(&region)
                    .context(|| drive.info().label.clone())?;
            }
        }
        let _ = drive;
        Ok(())
    }

    /// Where this is, with what carries it: who asked for `rdma://` sees which it became.
    pub(super) fn url(&self, listener: &Listener) -> Url {
        let in_software = |(at, _): &(Vec<SocketAddr>, _)| at.contains(&listener.address);
        let scheme = match listener.transport {
            Transport::Tcp => Scheme::Tcp,
            Transport::Rdma if self.roce.get().is_some_and(in_software) => Scheme::Roce,
            Transport::Rdma => Scheme::Verbs,
        };
        (scheme, listener.address).into()
    }

    /// Discovery names an address from now on.
    fn announce(&self, table: &Table, transport: Transport, address: SocketAddr) -> Result<()> {
        let port_ids = table.listeners.iter().map(|known| known.port_id);
        self.change(Change::AddListener(Listener {
            transport,
            address,
            port_id: port_ids.max().unwrap_or(0) + 1,
        }))
    }

    /// One change, agreed on by all cores.
    pub fn change(&self, change: Change<AnyDrive>) -> Result<()> {
        let answer = self.ask(|reply| Ask::Change(Box::new(change), reply))?;
        answer.map_err(|why| Fail(why.to_string()))
    }

    /// Where it listens, with the ports that were really taken.
    pub fn listeners(&self) -> Result<Vec<Url>> {
        let table = self.table()?;
        let listeners = table.listeners.iter();
        Ok(listeners.map(|listener| self.url(listener)).collect())
    }

    /// What is served.
    pub fn table(&self) -> Result<Table> {
        Ok(self.look()?.table)
    }

    /// Shuts all drives down. The cores must be done with them.
    pub(super) fn close_drives(&self) {
        // Who has one in hand, to shut it down or to change it, is let finish for a moment.
        let until = Instant::now() + LAST_CHANGE;
        while matches!(self.changing[0].try_lock(), Err(TryLockError::WouldBlock))
            && Instant::now() < until
        {
            std::thread::sleep(Duration::from_millis(10));
        }
        let drives = std::mem::take(&mut *lock(&self.drives));
        // Side by side: each may take as long as its shutdown does.
        std::thread::scope(|scope| {
            for drive in drives.into_values() {
                scope.spawn(move || drop(drive));
            }
        });
    }

    /// Begins the end of the node.
    pub(super) fn stop(&self) {
        while let Err(_full) = self.asks.send(Ask::Stop) {
            std::thread::yield_now();
        }
    }

    fn ask<T>(&self, make: impl FnOnce(Reply<T>) -> Ask) -> Result<T> {
        let answer = self.asked(make)?;
        answer
            .recv()
            .map_err(|_| Fail("the node is stopping".into()))
    }

    /// What there is. Who only looks, as metrics do, does not wait long for a control thread that has much to do.
    fn look(&self) -> Result<Look> {
        let answer = self.asked(Ask::Look)?;
        answer.recv_timeout(LOOK).map_err(|why| match why {
            RecvTimeoutError::Timeout => Fail(format!(
                "the control thread has not answered for {} s; try again",
                LOOK.as_secs()
            )),
            RecvTimeoutError::Disconnected => Fail("the node is stopping".into()),
        })
    }

    fn asked<T>(&self, make: impl FnOnce(Reply<T>) -> Ask) -> Result<Receiver<T>> {
        let (reply, answer) = sync_channel(1);
        if self.asks.send(make(reply)).is_err() {
            fail!("the node has too much to answer; try again");
        }
        Ok(answer)
    }
}

/// A change that was made.
#[derive(Debug)]
pub struct Done {
    /// For a person.
    line: String,
    written: Written,
}

/// What of it goes to the file.
#[derive(Debug)]
enum Written {
    Nothing,
    Add {
        nqn: String,
        nsid: u32,
        device: String,
        read_only: bool,
    },
    Remove {
        nqn: String,
        nsid: u32,
    },
    Resize {
        nqn: String,
        nsid: u32,
        size: u64,
    },
    Allow {
        nqn: String,
        host: String,
    },
    Forbid {
        nqn: String,
        host: String,
    },
    Listen(Url),
    Unlisten(Url),
}

impl Done {
    fn to_persist(&self) -> Option<persist::Change<'_>> {
        Some(match &self.written {
            Written::Nothing => return None,
            Written::Add {
                nqn,
                nsid,
                device,
                read_only,
            } => persist::Change::Add {
                nqn,
                nsid: *nsid,
                device,
                read_only: *read_only,
            },
            Written::Remove { nqn, nsid } => persist::Change::Remove { nqn, nsid: *nsid },
            Written::Resize { nqn, nsid, size } => persist::Change::Resize {
                nqn,
                nsid: *nsid,
                size: *size,
            },
            Written::Allow { nqn, host } => persist::Change::Allow { nqn, host },
            Written::Forbid { nqn, host } => persist::Change::Forbid { nqn, host },
            Written::Listen(url) => persist::Change::Listen(url),
            Written::Unlisten(url) => persist::Change::Unlisten(url),
        })
    }
}

/// The subsystem that is meant: the one named, or the only one.
fn pick<'a>(table: &'a Table, named: Option<&str>) -> Result<&'a str> {
    let known: Vec<&str> = table.subsystems.keys().map(String::as_str).collect();
    match named {
        Some(nqn) => match known.iter().find(|known| **known == nqn) {
            Some(nqn) => Ok(nqn),
            None => fail!("there is no subsystem {nqn}; there is {}", known.join(", ")),
        },
        None => match known[..] {
            [nqn] => Ok(nqn),
            _ => fail!(
                "there are several subsystems; choose with --subsystem: {}",
                known.join(", ")
            ),
        },
    }
}

fn namespace<'a>(table: &'a Table, nqn: &str, nsid: u32) -> Result<&'a table::Namespace> {
    let namespaces = &table.subsystems[nqn].namespaces;
    namespaces.get(&nsid).context_none(|| {
        let known: Vec<String> = namespaces.keys().map(u32::to_string).collect();
        match known.is_empty() {
            true => format!("{nqn} has no namespace"),
            false => format!("{nqn} has no namespace {nsid}; it has {}", known.join(", ")),
        }
    })
}

/// A thread that panicked while it held the lock has said so; what it guarded is still sound.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

trait ContextNone<T> {
    fn context_none(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> ContextNone<T> for Option<T> {
    fn context_none(self, what: impl FnOnce() -> String) -> Result<T> {
        self.ok_or_else(|| Fail(what()))
    }
}
