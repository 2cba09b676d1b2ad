//! Connections: librdmacm's events on a control thread, and what takes its time on set-up threads.
//!
//! Making a queue pair takes a system call or many, destroying one up to 20 ms: none of that happens on a core. A core
//! sends [`Job`]s and gets [`Mail`]. The jobs of one queue pair go to one set-up thread, so they are done in order.

use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::{null_mut, read_unaligned};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ferroce_buf::Region;
use ferroce_wire::Wire as _;
use ferroce_wire::rdma::{RdmaCmReject, RdmaCmStatus};
use rdma_sys as sys;
use sys::rdma_cm_event_type as event;

use super::conn::{Conn, MAKE};
use super::device::Device;
use super::inbox::Inbox;
use super::inventory;
use super::listen::{Listener, Place};
use super::queue::{CoreShared, Cq, Made};
use crate::rdma::provider::{self, PrivateData, QpId, Request, WcStatus, Why};

/// Set-up threads: one that destroys does not keep others from being made.
const SETUP_THREADS: usize = 2;
/// How often the control thread looks after what no event tells of: regions that are gone, addresses that came back.
const TEND: Duration = Duration::from_secs(1);

/// RDMA_OPTION_ID and RDMA_OPTION_ID_AFONLY of rdma_cma.h.
const OPTION_ID: libc::c_int = 0;
const OPTION_AFONLY: libc::c_int = 2;

/// How RDMA devices are to be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Options {
    /// Memory is granted to peers: this process is a host. Regions may have windows bound to them then.
    pub host: bool,
    /// Traffic class of packets (DSCP in its upper six bits). `None` is the system's default on connections we ask for, and
    /// what the host asked for on those that hosts do.
    pub traffic_class: Option<u8>,
}

/// The RDMA devices of this machine in use by this process, with the threads that make and end connections.
///
/// Cores' providers come from [`Verbs::core`], and are to be dropped before it.
#[derive(Debug)]
pub struct Verbs {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// A request for a connection, on its way to a core.
#[derive(Debug)]
pub struct VerbsIncoming {
    id: Id,
    device: Arc<Device>,
    request: Request,
    /// `None` once it was opened or refused.
    shared: Option<Arc<Shared>>,
}

/// An rdma_cm_id. Who destroys it is said where it is used: destroying waits until its events are acknowledged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Id(pub *mut sys::rdma_cm_id);

// SAFETY: librdmacm may be called from any thread.
unsafe impl Send for Id {}
// SAFETY: as above.
unsafe impl Sync for Id {}

/// What all parts of one [`Verbs`] share.
#[derive(Debug)]
pub(super) struct Shared {
    channel: Channel,
    options: Options,
    devices: Mutex<Vec<Arc<Device>>>,
    regions: Mutex<Vec<Weak<Region>>>,
    /// Had by who registers memory: that may take seconds, in which all else goes on.
    registering: Mutex<()>,
    /// Cores, which have an end of each device they have used.
    cores: Mutex<Vec<Weak<CoreShared>>>,
    /// Places whose device is gone.
    lost: Mutex<Vec<Weak<Place>>>,
    /// By address of an rdma_cm_id: whom its events are for.
    owners: Mutex<HashMap<usize, Owner>>,
    /// By address of an ibv_qp: whom the device's events are for.
    qps: Mutex<HashMap<usize, Arc<Conn>>>,
    /// By address of an ibv_cq, likewise.
    cqs: Mutex<HashMap<usize, Arc<Cq>>>,
    jobs: Vec<mpsc::Sender<Job>>,
    wake: Inbox<()>,
    stop: AtomicBool,
}

#[derive(Debug)]
struct Channel(*mut sys::rdma_event_channel);

// SAFETY: librdmacm may be called from any thread.
unsafe impl Send for Channel {}
// SAFETY: as above.
unsafe impl Sync for Channel {}

#[derive(Clone, Debug)]
pub(super) enum Owner {
    Listener(Arc<Place>),
    Conn(Arc<Conn>),
}

/// What a set-up thread is to do.
#[derive(Debug)]
pub(super) enum Job {
    /// Make the queue pair.
    Make(Arc<Conn>),
    /// Let the peer in.
    Accept {
        conn: Arc<Conn>,
        private: PrivateData,
        reads_out: u8,
        reads_in: u8,
    },
    /// Put the queue pair into its error state and tell the peer.
    Disconnect(Arc<Conn>),
    /// Destroy everything. What was made, if it was.
    Destroy(Arc<Conn>, Option<Box<Made>>),
    /// Deregister regions that are gone.
    Forget(Arc<Device>),
    /// Refuse a request, with private data.
    Refuse(Id, Option<PrivateData>),
}

/// What a core is told.
#[derive(Debug)]
pub(super) enum Mail {
    Made(QpId, Result<Box<Made>, String>),
    Established {
        qp: QpId,
        /// READs the peer serves.
        reads: u8,
        private: PrivateData,
    },
    /// It was not made, or is over. If it was made, its queue pair is in the error state.
    Over {
        qp: QpId,
        why: Why,
        private: PrivateData,
    },
    /// The device saw the peer break a rule. `Over` follows.
    Violation(QpId),
    Destroyed(QpId),
    /// A device is gone: what was made of it is of no use any more.
    DeviceGone(Arc<Device>),
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn check(status: libc::c_int) -> io::Result<()> {
    if status == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

impl Verbs {
    /// Starts the threads. A device is opened, and gets to know all memory, when it is first needed: it may have a TiB to pin.
    ///
    /// # Errors
    /// ENODEV or ENOSYS where the system has no RDMA ([`none_here`] knows them), or of the threads.
    pub fn start(options: Options) -> io::Result<Verbs> {
        // SAFETY: no arguments; the result is checked.
        let channel = unsafe { sys::rdma_create_event_channel() };
        if channel.is_null() {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the channel is open.
        nonblocking(unsafe { (*channel).fd })?;
        let (jobs, inboxes): (Vec<_>, Vec<_>) = (0..SETUP_THREADS).map(|_| mpsc::channel()).unzip();
        let shared = Arc::new(Shared {
            channel: Channel(channel),
            options,
            devices: Mutex::default(),
            regions: Mutex::default(),
            registering: Mutex::default(),
            cores: Mutex::default(),
            lost: Mutex::default(),
            owners: Mutex::default(),
            qps: Mutex::default(),
            cqs: Mutex::default(),
            jobs,
            wake: Inbox::new()?,
            stop: AtomicBool::new(false),
        });
        let mut threads = Vec::new();
        let spawn = |name: &str| thread::Builder::new().name(name.to_owned());
        for inbox in inboxes {
            let shared = shared.clone();
            threads.push(spawn("rdma-setup").spawn(move || shared.set_up(&inbox))?);
        }
        let control = shared.clone();
        threads.push(spawn("rdma-cm").spawn(move || control.control())?);
        // Before any id is bound to one of them.
        keep_contexts();
        Ok(Verbs { shared, threads })
    }

    /// Lets every device that is in use, now or later, reach a region.
    ///
    /// # Errors
    /// If memory cannot be locked, with the size and how to raise the limit.
    pub fn register(&self, region: &Arc<Region>) -> io::Result<()> {
        self.shared.register(region)
    }

    /// Listens. The wildcard address means every device's that can be used.
    ///
    /// # Errors
    /// Of rdma_bind_addr or rdma_listen: no device has this address, or the port is taken. Of the device: it cannot be used, or
    /// cannot reach all memory.
    pub fn listen(&self, address: SocketAddr) -> io::Result<Listener> {
        Listener::new(self.shared.clone(), address)
    }

    /// Queue pairs for one more core.
    ///
    /// # Errors
    /// Of its descriptors.
    pub fn core(&self) -> io::Result<super::VerbsProvider> {
        super::VerbsProvider::new(self.shared.clone())
    }

    /// True if a device has this address: a listener there, or a connection from there, is RDMA's own. Any device has the
    /// wildcard address.
    pub fn has(&self, ip: IpAddr) -> bool {
        match ip.is_unspecified() {
            true => !self.devices().is_empty(),
            false => self.device_at(ip).is_some(),
        }
    }

    /// The name of the device that has this address.
    pub fn device_at(&self, ip: IpAddr) -> Option<String> {
        let id = self.shared.bound(SocketAddr::new(ip, 0)).ok()?;
        // SAFETY: the id is ours, and has no events; a context stays open.
        let (context, _) = unsafe { ((*id.0).verbs, sys::rdma_destroy_id(id.0)) };
        // SAFETY: as above.
        (!context.is_null()).then(|| unsafe { super::device::name(context) })
    }

    /// The names of the devices there are.
    pub fn devices(&self) -> Vec<String> {
        let contexts = keep_contexts().into_iter();
        // SAFETY: contexts stay open.
        contexts
            .map(|context| unsafe { super::device::name(context) })
            .collect()
    }

    /// True if the system plays one of those there are (rxe). Its work is then done by threads of the system's, on the CPU of whoever
    /// gave it: one that polls without giving way keeps it from being done until the next tick.
    pub fn any_is_soft(&self) -> bool {
        let found = inventory::devices().unwrap_or_default();
        let mut abilities = found.iter().filter_map(|found| found.ability.as_ref().ok());
        abilities.any(|ability| ability.soft)
    }

    /// What was counted of each device, by its name and what it is: `port_errors`, how often a port of it went down, and
    /// `rnr_naks_sent`, how often a peer was told that there was no RECV, as far as the device counts it. Reads files, so
    /// it is nothing for a core.
    pub fn each_device_counter(&self, give: &mut dyn FnMut(&str, &'static str, u64)) {
        let devices = lock(&self.shared.devices).clone();
        for device in devices {
            let port_errors = device.port_errors.load(Ordering::Relaxed);
            give(&device.name, "port_errors", port_errors);
            give(&device.name, "rnr_naks_sent", device.rnr_naks());
        }
    }
}

/// True if this error of [`Verbs::start`] says that the system has no RDMA at all.
pub fn none_here(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENODEV | libc::ENOSYS | libc::ENOENT)
    )
}

impl Drop for Verbs {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.wake.push(());
        for at in 0..SETUP_THREADS {
            // A thread ends when it sees this job with `stop` set; what was asked for before is done.
            self.shared.send(at, Job::Refuse(Id(null_mut()), None));
        }
        for thread in self.threads.drain(..) {
            // It has nobody to tell of a panic but the log, where it is already.
            let _ = thread.join();
        }
    }
}

impl provider::Incoming for VerbsIncoming {
    fn request(&self) -> &Request {
        &self.request
    }
}

impl Drop for VerbsIncoming {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.take() {
            shared.send(0, Job::Refuse(self.id, Some(no_resources())));
        }
    }
}

impl VerbsIncoming {
    pub(super) fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// From now on the id is the caller's.
    pub(super) fn take(mut self) -> (Id, Request) {
        self.shared = None;
        (self.id, self.request)
    }
}

impl Shared {
    pub(super) fn options(&self) -> Options {
        self.options
    }

    pub(super) fn register(&self, region: &Arc<Region>) -> io::Result<()> {
        let _alone = lock(&self.registering);
        let devices = lock(&self.devices).clone();
        for device in devices {
            device.register(region)?;
        }
        let mut regions = lock(&self.regions);
        regions.retain(|region| region.strong_count() > 0);
        regions.push(Arc::downgrade(region));
        Ok(())
    }

    /// One more core will have ends of devices.
    pub(super) fn add_core(&self) -> io::Result<Arc<CoreShared>> {
        let mut cores = lock(&self.cores);
        let core = Arc::new(CoreShared::new(cores.len())?);
        cores.push(Arc::downgrade(&core));
        Ok(core)
    }

    pub(super) fn send(&self, slot: usize, job: Job) {
        // Without its thread the process is ending.
        let _ = self.jobs[slot % SETUP_THREADS].send(job);
    }

    /// Events of the connection's id go to its core from now on.
    pub(super) fn own(&self, conn: &Arc<Conn>) {
        self.owned_by(conn.id, Owner::Conn(conn.clone()));
    }

    pub(super) fn owned_by(&self, id: Id, owner: Owner) {
        lock(&self.owners).insert(id.0 as usize, owner);
    }

    pub(super) fn disown(&self, id: Id) {
        lock(&self.owners).remove(&(id.0 as usize));
    }

    fn new_id(&self) -> io::Result<Id> {
        let mut id = null_mut();
        // SAFETY: the channel is open until the process ends.
        check(unsafe {
            sys::rdma_create_id(
                self.channel.0,
                &raw mut id,
                null_mut(),
                sys::rdma_port_space::RDMA_PS_TCP,
            )
        })?;
        Ok(Id(id))
    }

    /// A new id bound to an address. The device is known then, unless it is the wildcard.
    pub(super) fn bound(&self, address: SocketAddr) -> io::Result<Id> {
        let id = self.new_id()?;
        if address.is_ipv6() {
            // Else the wildcard would be heard by IPv4, too, or not, as the system's `bindv6only` says.
            let mut only: libc::c_int = 1;
            let len = size_of_val(&only);
            // SAFETY: the id is ours, the number lives for the call. Where it fails, it is as the system says.
            unsafe {
                sys::rdma_set_option(id.0, OPTION_ID, OPTION_AFONLY, (&raw mut only).cast(), len)
            };
        }
        let address = socket2::SockAddr::from(address);
        // SAFETY: the address lives for the call, which does not change it.
        let bound = check(unsafe { sys::rdma_bind_addr(id.0, address.as_ptr().cast_mut().cast()) });
        if bound.is_err() {
            // SAFETY: it was made above and has no events.
            unsafe { sys::rdma_destroy_id(id.0) };
        }
        bound.map(|()| id)
    }

    /// Opens the device that an id is bound to, or, if it is bound to the wildcard, all that can be used.
    pub(super) fn open_for(&self, id: Id) -> Result<(), String> {
        if let Some(context) = id.context() {
            return self.device(context).map(|_| ());
        }
        let (mut any, mut last) = (false, Ok(()));
        for context in keep_contexts() {
            match self.device(context) {
                Ok(_) => any = true,
                Err(why) => {
                    log::warn!("RDMA: {why}");
                    last = Err(why);
                }
            }
        }
        if any { Ok(()) } else { last }
    }

    /// The device of this context, opened with every region the first time it is seen.
    pub(super) fn device(&self, context: *mut sys::ibv_context) -> Result<Arc<Device>, String> {
        let known = || {
            let devices = lock(&self.devices);
            devices.iter().find(|one| one.context == context).cloned()
        };
        if let Some(known) = known() {
            return Ok(known);
        }
        let _alone = lock(&self.registering);
        if let Some(known) = known() {
            return Ok(known);
        }
        // One that came later: from now on it is ours as well.
        keep_contexts();
        // One that cannot be used gives back what it has when it is dropped here.
        let device = Arc::new(Device::open(context, self.options.host)?);
        let regions = lock(&self.regions).clone();
        for region in regions.iter().filter_map(Weak::upgrade) {
            device.register(&region).map_err(|why| why.to_string())?;
        }
        // SAFETY: the context is open.
        if let Err(cause) = nonblocking(unsafe { (*context).async_fd }) {
            return Err(format!("{}: {cause}", device.name));
        }
        lock(&self.devices).push(device.clone());
        // The control thread has one more to listen to.
        self.wake.push(());
        Ok(device)
    }

    // The control thread.

    fn control(self: &Arc<Shared>) {
        let mut fds = Vec::new();
        let mut tended = Instant::now();
        loop {
            while self.wake.pop().is_some() {}
            // Only now: what was just taken may have been what says that this is the end, and nothing wakes us again.
            if self.stop.load(Ordering::Acquire) {
                return;
            }
            let devices = lock(&self.devices).clone();
            fds.clear();
            // SAFETY: channel and contexts are open.
            let own = [self.wake.as_fd().as_raw_fd(), unsafe {
                (*self.channel.0).fd
            }];
            let theirs = devices
                .iter()
                // SAFETY: as above.
                .map(|device| unsafe { (*device.context).async_fd });
            fds.extend(own.into_iter().chain(theirs).map(|fd| libc::pollfd {
                fd,
                events: libc::POLLIN,
                revents: 0,
            }));
            let has_some = !devices.is_empty() || !lock(&self.lost).is_empty();
            let patience = match has_some {
                true => TEND.saturating_sub(tended.elapsed()).as_millis() as libc::c_int + 1,
                false => -1,
            };
            // SAFETY: the array is ours. A failure is a signal, and tried again.
            unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, patience) };
            if has_some && tended.elapsed() >= TEND {
                self.tend(&devices);
                tended = Instant::now();
            }
            while self.cm_event() {}
            for (device, fd) in devices.iter().zip(&fds[own.len()..]) {
                let mut told = false;
                while self.device_event(device) {
                    told = true;
                }
                // A descriptor says for ever that its device is gone, once its last event was read.
                if !told && fd.revents & !libc::POLLIN != 0 {
                    self.gone(device);
                }
            }
        }
    }

    /// Looks after regions that are gone, which stay locked until a device hears of it, and places where nobody is heard.
    fn tend(&self, devices: &[Arc<Device>]) {
        for device in devices.iter().filter(|device| device.has_gone_regions()) {
            // It takes its time, and hosts wait here.
            self.send(0, Job::Forget(device.clone()));
        }
        let mut lost = std::mem::take(&mut *lock(&self.lost));
        lost.retain(|place| place.upgrade().is_some_and(|place| !place.hear_again(self)));
        lock(&self.lost).append(&mut lost);
    }

    /// Nothing comes from a device any more.
    fn gone(&self, device: &Arc<Device>) {
        log::error!("RDMA: {} is gone; its connections end", device.name);
        lock(&self.devices).retain(|known| !Arc::ptr_eq(known, device));
        self.end_all(device);
        for core in lock(&self.cores).iter().filter_map(Weak::upgrade) {
            core.forget(device);
        }
    }

    fn end_all(&self, device: &Device) {
        for conn in lock(&self.qps).values() {
            if std::ptr::eq(Arc::as_ptr(&conn.device), device) {
                conn.over(Why::Device);
            }
        }
    }

    /// Handles one event of the connection manager, if there is one.
    fn cm_event(self: &Arc<Shared>) -> bool {
        let mut event = null_mut();
        // SAFETY: the channel is open and does not block.
        if unsafe { sys::rdma_get_cm_event(self.channel.0, &raw mut event) } != 0 {
            return false;
        }
        let mut lost = None;
        // SAFETY: the event is whole until it is acknowledged, which happens once.
        unsafe {
            let seen = &*event;
            if seen.event == event::RDMA_CM_EVENT_CONNECT_REQUEST {
                self.on_request(seen);
            } else {
                let owner = lock(&self.owners).get(&(seen.id as usize)).cloned();
                match owner {
                    Some(Owner::Conn(conn)) => self.on_conn(&conn, seen),
                    Some(Owner::Listener(place)) => {
                        // An id stays with the device it was bound to, though its address moved to another (bonding).
                        let gone = matches!(
                            seen.event,
                            event::RDMA_CM_EVENT_DEVICE_REMOVAL | event::RDMA_CM_EVENT_ADDR_CHANGE
                        );
                        lost = Some(place).filter(|_| gone);
                    }
                    // A request that is being refused, or that nobody looked at yet.
                    None => {}
                }
            }
            sys::rdma_ack_cm_event(event);
        }
        if let Some(place) = lost {
            place.lost(self);
            lock(&self.lost).push(Arc::downgrade(&place));
        }
        true
    }

    /// # Safety
    /// The event is a CONNECT_REQUEST that was not acknowledged.
    unsafe fn on_request(self: &Arc<Shared>, seen: &sys::rdma_cm_event) {
        let id = Id(seen.id);
        let owner = lock(&self.owners).get(&(seen.listen_id as usize)).cloned();
        // SAFETY: by the caller.
        let (private, resources, depth) = unsafe {
            let conn = &seen.param.conn;
            (
                bytes(conn.private_data, conn.private_data_len),
                // The event speaks as the receiver of the request: what it may issue, what it should serve.
                conn.initiator_depth,
                conn.responder_resources,
            )
        };
        // SAFETY: as above: a request's id has both addresses, and a device.
        let (context, at) = unsafe { ((*id.0).verbs, addresses(id)) };
        let (Some(Owner::Listener(place)), (Some(local), Some(peer))) = (owner, at) else {
            return self.send(0, Job::Refuse(id, None));
        };
        let device = match self.device(context) {
            Ok(device) => device,
            Err(why) => {
                log::warn!("{peer}: refused: {why}");
                return self.send(0, Job::Refuse(id, Some(no_resources())));
            }
        };
        let asks = place.ask(VerbsIncoming {
            id,
            device,
            request: Request {
                local,
                peer,
                private,
                responder_resources: resources,
                initiator_depth: depth,
            },
            shared: Some(self.clone()),
        });
        if !asks {
            log::debug!("{peer}: refused: too many ask at a time");
        }
    }

    /// # Safety
    /// The event is of this connection, and was not acknowledged.
    unsafe fn on_conn(&self, conn: &Arc<Conn>, seen: &sys::rdma_cm_event) {
        let qp = conn.qp;
        let slot = qp.slot as usize;
        let over = |why, private| {
            let mail = Mail::Over { qp, why, private };
            conn.core.inbox.push(mail);
        };
        let none = PrivateData::new(&[]);
        match seen.event {
            event::RDMA_CM_EVENT_ADDR_RESOLVED if conn.decide(MAKE) => {
                self.send(slot, Job::Make(conn.clone()));
            }
            event::RDMA_CM_EVENT_ROUTE_RESOLVED => {
                let private = conn.private.unwrap_or(none);
                let mut param = conn_param(&private, 0, conn.plan.reads_in);
                // SAFETY: the id lives until `Destroy`, which the core asks for when it hears that this is over.
                if let Err(cause) = check(unsafe { sys::rdma_connect(conn.id.0, &raw mut param) }) {
                    log::warn!("RDMA: cannot connect: {cause}");
                    over(Why::Error(WcStatus::LocalError), none);
                }
            }
            event::RDMA_CM_EVENT_ESTABLISHED => {
                if conn.private.is_some() {
                    conn.set_rnr_timer();
                }
                // SAFETY: by the caller: an active end's event has the REP's parameters, a passive one's has none.
                let (private, reads) = unsafe {
                    let param = &seen.param.conn;
                    (
                        bytes(param.private_data, param.private_data_len),
                        param.initiator_depth,
                    )
                };
                conn.core
                    .inbox
                    .push(Mail::Established { qp, reads, private });
            }
            event::RDMA_CM_EVENT_REJECTED => {
                let reason = seen.status as u16;
                // SAFETY: as above.
                let private = unsafe {
                    let param = &seen.param.conn;
                    bytes(param.private_data, param.private_data_len)
                };
                over(Why::Rejected { reason }, private);
            }
            event::RDMA_CM_EVENT_ADDR_ERROR
            | event::RDMA_CM_EVENT_ROUTE_ERROR
            | event::RDMA_CM_EVENT_CONNECT_ERROR
            | event::RDMA_CM_EVENT_UNREACHABLE => over(Why::Unreachable, none),
            // After a change of the hardware address nothing reaches the peer: it connects anew, by the other port.
            event::RDMA_CM_EVENT_DISCONNECTED | event::RDMA_CM_EVENT_ADDR_CHANGE => {
                self.send(slot, Job::Disconnect(conn.clone()));
            }
            event::RDMA_CM_EVENT_DEVICE_REMOVAL => over(Why::Device, none),
            // The end of TIMEWAIT: the connection does not mind.
            _ => {}
        }
    }

    /// Handles one event of a device, if there is one.
    fn device_event(&self, device: &Device) -> bool {
        let mut event = MaybeUninit::<sys::ibv_async_event>::zeroed();
        // SAFETY: the context is open and its descriptor does not block.
        if unsafe { sys::ibv_get_async_event(device.context, event.as_mut_ptr()) } != 0 {
            return false;
        }
        // A library may know more events than the enum has, so it is read as the number that it is in C.
        // SAFETY: the call filled it.
        let kind =
            unsafe { read_unaligned((&raw const (*event.as_ptr()).event_type).cast::<u32>()) };
        // SAFETY: as above; all variants are as long as a pointer, or shorter, in memory that was zeroed.
        let element = unsafe { (*event.as_ptr()).element.qp as usize };
        match kind {
            1..=4 | 16 => {
                let conn = lock(&self.qps).get(&element).cloned();
                if let Some(conn) = conn {
                    self.on_qp_event(&conn, kind);
                }
            }
            0 | 8 => {
                if let Some(cq) = lock(&self.cqs).get(&element).filter(|_| kind == 0) {
                    cq.give_up();
                }
                log::error!(
                    "RDMA: {} failed (event {kind}); its connections end",
                    device.name
                );
                self.end_all(device);
            }
            9 => log::info!("RDMA: a port of {} is up", device.name),
            10 => {
                device.port_errors.fetch_add(1, Ordering::Relaxed);
                log::warn!(
                    "RDMA: a port of {} is down; connections wait for it",
                    device.name
                );
            }
            _ => log::debug!("RDMA: event {kind} of {}", device.name),
        }
        // SAFETY: acknowledged once, as `ibv_destroy_qp` waits for.
        unsafe { sys::ibv_ack_async_event(event.as_mut_ptr()) };
        true
    }

    fn on_qp_event(&self, conn: &Arc<Conn>, kind: u32) {
        match kind {
            // The last step of the handshake was overtaken by data; the connection manager is told.
            4 => {
                // SAFETY: the id lives while its queue pair does.
                unsafe { sys::rdma_notify(conn.id.0, sys::ibv_event_type::IBV_EVENT_COMM_EST) };
            }
            // The peer broke a rule: QP_REQ_ERR, QP_ACCESS_ERR.
            2 | 3 => {
                conn.core.inbox.push(Mail::Violation(conn.qp));
                self.send(conn.qp.slot as usize, Job::Disconnect(conn.clone()));
            }
            1 => conn.over(Why::Error(WcStatus::LocalError)),
            _ => {}
        }
    }

    // The set-up threads.

    fn set_up(&self, jobs: &mpsc::Receiver<Job>) {
        while let Ok(job) = jobs.recv() {
            match job {
                Job::Make(conn) | Job::Accept { conn, .. } | Job::Disconnect(conn)
                    if conn.is_gone() => {}
                Job::Make(conn) => {
                    let made = self.make(&conn);
                    let asks = made.is_ok() && conn.private.is_some();
                    if made.is_err() && conn.private.is_none() {
                        conn.refuse();
                    }
                    conn.core.inbox.push(Mail::Made(conn.qp, made));
                    // Only now, so that the core does not hear what came of it before.
                    if asks {
                        conn.ask_for_route();
                    }
                }
                Job::Accept {
                    conn,
                    private,
                    reads_out,
                    reads_in,
                } => {
                    let mut param = conn_param(&private, reads_out, reads_in);
                    match conn.accept(&mut param, self.options.traffic_class) {
                        Ok(()) => conn.set_rnr_timer(),
                        Err(cause) => {
                            // Its peer gave up meanwhile, most often.
                            log::debug!("RDMA: cannot accept: {cause}");
                            conn.over(Why::Unreachable);
                        }
                    }
                }
                Job::Disconnect(conn) => {
                    // SAFETY: as above. It fails on what was never connected, or is not any more.
                    unsafe { sys::rdma_disconnect(conn.id.0) };
                    conn.to_error();
                    conn.over(Why::Peer);
                }
                Job::Destroy(conn, made) => self.destroy(&conn, made),
                Job::Forget(device) => device.forget_regions(),
                Job::Refuse(id, _) if id.0.is_null() => {
                    if self.stop.load(Ordering::Acquire) {
                        return;
                    }
                }
                // SAFETY: a request's id, which only this job has; the bytes live for the call.
                Job::Refuse(id, private) => unsafe {
                    let private = private.unwrap_or(PrivateData::new(&[]));
                    let bytes = private.bytes();
                    sys::rdma_reject(id.0, bytes.as_ptr().cast(), bytes.len() as u8);
                    sys::rdma_destroy_id(id.0);
                },
            }
        }
    }

    fn make(&self, conn: &Arc<Conn>) -> Result<Box<Made>, String> {
        // SAFETY: the id lives until `Destroy`, a later job of this thread.
        let context = unsafe { (*conn.id.0).verbs };
        if context != conn.device.context {
            return Err("the way to the peer leads over another device".into());
        }
        let made = Made::new(conn)?;
        lock(&self.qps).insert(made.qp() as usize, conn.clone());
        let mut cqs = lock(&self.cqs);
        cqs.extend(made.cqs.each().map(|cq| (cq.address(), cq.clone())));
        drop(cqs);
        Ok(Box::new(made))
    }

    fn destroy(&self, conn: &Arc<Conn>, made: Option<Box<Made>>) {
        conn.gone.store(true, Ordering::Release);
        lock(&self.owners).remove(&(conn.id.0 as usize));
        // SAFETY: the id lives until the end of this function.
        let qp = unsafe { (*conn.id.0).qp };
        lock(&self.qps).remove(&(qp as usize));
        if let Some(mut made) = made {
            made.unbind();
            // SAFETY: the queue pair is the id's, and nobody posts to it any more.
            unsafe { sys::rdma_destroy_qp(conn.id.0) };
            drop(made);
        } else if !qp.is_null() {
            // SAFETY: as above; it was made, and something after that failed.
            unsafe { sys::rdma_destroy_qp(conn.id.0) };
        }
        // SAFETY: no job, core or event knows the id any more. It waits for the event that is being handled, if any.
        unsafe { sys::rdma_destroy_id(conn.id.0) };
        conn.core.inbox.push(Mail::Destroyed(conn.qp));
    }
}

impl Id {
    /// The device, once the id is bound to an address of one.
    pub(super) fn context(self) -> Option<*mut sys::ibv_context> {
        // SAFETY: who has an Id has one that lives.
        let context = unsafe { (*self.0).verbs };
        (!context.is_null()).then_some(context)
    }
}

/// The contexts of all devices there are. librdmacm closes that of a device that is gone once nobody has it: who has the list
/// has them all, so it is never given back.
fn keep_contexts() -> Vec<*mut sys::ibv_context> {
    let mut count = 0;
    // SAFETY: the list is checked; its first `count` entries are contexts.
    unsafe {
        let list = sys::rdma_get_devices(&raw mut count);
        if list.is_null() {
            return Vec::new();
        }
        std::slice::from_raw_parts(list, count as usize).to_vec()
    }
}

/// What a host is told that cannot be taken in.
pub(super) fn no_resources() -> PrivateData {
    PrivateData::new(RdmaCmReject::new(RdmaCmStatus::NO_RESOURCES).as_bytes())
}

fn conn_param(private: &PrivateData, reads_out: u8, reads_in: u8) -> sys::rdma_conn_param {
    let bytes = private.bytes();
    sys::rdma_conn_param {
        private_data: bytes.as_ptr().cast(),
        private_data_len: bytes.len() as u8,
        responder_resources: reads_in,
        initiator_depth: reads_out,
        flow_control: 1,
        // The most that the field holds; for RNR it means without end, and KATO ends it.
        retry_count: 7,
        rnr_retry_count: 7,
        srq: 0,
        qp_num: 0,
    }
}

/// # Safety
/// That many bytes are there, if the pointer is not null.
unsafe fn bytes(at: *const libc::c_void, len: u8) -> PrivateData {
    if at.is_null() {
        return PrivateData::new(&[]);
    }
    // SAFETY: by the caller.
    let bytes = unsafe { std::slice::from_raw_parts(at.cast::<u8>(), usize::from(len)) };
    PrivateData::new(&bytes[..bytes.len().min(provider::PRIVATE_MAX)])
}

/// An id's own address and its peer's.
///
/// # Safety
/// The id lives.
pub(super) unsafe fn addresses(id: Id) -> (Option<SocketAddr>, Option<SocketAddr>) {
    let read = |storage: libc::sockaddr_storage| {
        // SAFETY: an address of either family fits the storage, whose first field says which it is.
        let ((), address) = unsafe {
            socket2::SockAddr::try_init(|to, len| {
                to.cast::<libc::sockaddr_storage>().write(storage);
                *len = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
                Ok(())
            })
        }
        .ok()?;
        address.as_socket()
    };
    // SAFETY: by the caller; both unions are wholly bytes, zeroed when the id was made.
    unsafe {
        let addr = &(*id.0).route.addr;
        (
            read(addr.src_addr_union.src_storage),
            read(addr.dst_addr_union.dst_storage),
        )
    }
}

pub(super) fn nonblocking(fd: libc::c_int) -> io::Result<()> {
    // SAFETY: plain calls on a descriptor that is open.
    unsafe {
        let flags = libc::fcntl(fd, libc::F_GETFL);
        if flags < 0 || libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK) < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
