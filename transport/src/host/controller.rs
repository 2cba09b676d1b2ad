//! A controller: its admin queue, what it says about itself, and its queues.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ferroce_engine::host::{self as nvme, Bringup, Goal, Step};
use ferroce_engine::port::Tick;
use ferroce_wire::Wire;
use ferroce_wire::cqe::Cqe;
use ferroce_wire::fabrics::{
    CATTR_NO_SQ_FLOW_CONTROL, CNTLID_DYNAMIC, ConnectData, ConnectRefusal, ConnectResponse, Nqn,
};
use ferroce_wire::feature::{AsyncEvent, AsyncEventConfig, FeatureId, NumberOfQueues};
use ferroce_wire::identify::{
    Cns, Csi, IDENTIFY_LEN, IdentifyController, IdentifyNamespace, NamespaceList, Nidt,
    NsDescriptors,
};
use ferroce_wire::log::LogId;
use ferroce_wire::prop::Cap;
use ferroce_wire::sqe::Sqe;
use ferroce_wire::status::Status;

use super::{Completion, Data, HostError, Options, Queue};

/// `user_data` of commands on the admin queue that nobody waits for.
const ASYNC_EVENT: u64 = 1 << 63;
const KEEP_ALIVE: u64 = 1 << 62;
/// Asynchronous Event Requests we keep outstanding, and events we keep for who asks.
const AERS: u16 = 4;
const EVENTS_MAX: usize = 256;
/// How long a shutdown may take where the controller does not say.
const SHUTDOWN_MS: u32 = 5_000;

/// An enabled controller. Dropping it closes the admin connection, which ends the association;
/// [`Controller::shutdown`] is the polite way.
#[derive(Debug)]
pub struct Controller {
    shared: Arc<Shared>,
    connector: Connector,
    identify: Box<IdentifyController>,
    cap: Cap,
    /// What [`Controller::queues`] was last asked for.
    asked: Mutex<(u16, u16)>,
    tender: Option<JoinHandle<()>>,
}

/// Makes I/O queues of one controller. It can be cloned and sent to the thread that drives a queue.
#[derive(Clone, Debug)]
pub struct Connector {
    address: SocketAddr,
    nqn: Nqn,
    options: Options,
    cntlid: u16,
    /// Entries a queue may have (CAP.MQES), commands it may have outstanding (MAXCMD; 0 if not said).
    entries_max: u32,
    maxcmd: u16,
    in_capsule: u32,
}

/// A namespace, as the controller describes it.
#[derive(Clone, Debug)]
pub struct Namespace {
    /// NSID.
    pub nsid: u32,
    /// Size in blocks.
    pub blocks: u64,
    /// Bytes of a block.
    pub block_len: u32,
    /// UUID; zero if there is none.
    pub uuid: [u8; 16],
    /// NGUID; zero if there is none.
    pub nguid: [u8; 16],
    /// Writes are refused.
    pub read_only: bool,
    /// All of Identify Namespace.
    pub identify: Box<IdentifyNamespace>,
}

/// What the tender thread and callers share.
#[derive(Debug)]
struct Shared {
    admin: Mutex<Admin>,
    stop: Mutex<bool>,
    bell: Condvar,
}

#[derive(Debug)]
struct Admin {
    queue: Queue,
    events: VecDeque<AsyncEvent>,
    /// Between two Keep Alives; None without.
    keep_alive_every: Option<Duration>,
    keep_alive_due: Instant,
    keep_alive_out: bool,
}

impl Controller {
    /// Connects to a subsystem and enables a controller of it.
    ///
    /// # Errors
    /// See [`HostError`].
    pub fn connect(
        address: SocketAddr,
        nqn: &Nqn,
        options: &Options,
    ) -> Result<Controller, HostError> {
        let entries = options.admin_entries.clamp(16, 4096);
        let mut queue = Queue::open(address, 0, entries - 1, options)?;
        let mut connector = Connector {
            address,
            nqn: *nqn,
            options: options.clone(),
            cntlid: CNTLID_DYNAMIC,
            entries_max: 0,
            maxcmd: 0,
            in_capsule: 0,
        };
        let answer = connector.fabrics_connect(&mut queue, u32::from(entries))?;
        connector.cntlid = answer.cntlid;
        let mut admin = Admin::new(queue, options.kato_ms);
        let cap = admin.bring_up(Goal::Enabled, SHUTDOWN_MS)?;
        let sqe = Sqe::identify(Cns::CONTROLLER, 0, Csi::NVM);
        let data = admin.read(sqe, IDENTIFY_LEN, "Identify Controller")?;
        let identify: Box<IdentifyController> = Box::new(whole(&data));
        connector.entries_max = cap.queue_entries_max();
        connector.maxcmd = identify.maxcmd.get();
        // In-capsule data starts right behind the SQE on NVMe/TCP, or not at all (ICDOFF 0).
        connector.in_capsule = if identify.icdoff.get() == 0 {
            u32::try_from(identify.in_capsule_bytes_max()).unwrap_or(u32::MAX)
        } else {
            0
        };
        if identify.kas.get() == 0 {
            admin.keep_alive_every = None;
        }
        admin.ask_for_events(&identify)?;
        let shared = Arc::new(Shared {
            admin: Mutex::new(admin),
            stop: Mutex::new(false),
            bell: Condvar::new(),
        });
        let tender = options.background.then(|| tender(shared.clone()));
        Ok(Controller {
            shared,
            connector,
            identify,
            cap,
            asked: Mutex::new((0, 0)),
            tender,
        })
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.connector.address
    }

    /// The subsystem's name.
    pub fn nqn(&self) -> &Nqn {
        &self.connector.nqn
    }

    /// The controller's number.
    pub fn cntlid(&self) -> u16 {
        self.connector.cntlid
    }

    /// Identify Controller, as it was when we connected.
    pub fn identify(&self) -> &IdentifyController {
        &self.identify
    }

    /// Controller Capabilities.
    pub fn cap(&self) -> Cap {
        self.cap
    }

    /// How it was connected.
    pub fn options(&self) -> &Options {
        &self.connector.options
    }

    /// The most bytes one command may move (MDTS); None if there is no limit.
    pub fn transfer_max(&self) -> Option<u64> {
        self.identify.transfer_bytes_max(self.cap.mpsmin())
    }

    /// Executes an admin command, whatever its status. `what` names it in errors.
    ///
    /// # Errors
    /// The connection is dead, or there is no answer in time.
    pub fn exec(&self, sqe: Sqe, data: Data, what: &'static str) -> Result<Completion, HostError> {
        self.admin().exec(sqe, data, what)
    }

    /// An admin command that reads `len` bytes and has to succeed.
    ///
    /// # Errors
    /// It failed, or the connection did.
    pub fn read(&self, sqe: Sqe, len: usize, what: &'static str) -> Result<Vec<u8>, HostError> {
        self.admin().read(sqe, len, what)
    }

    /// An admin command without data to read that has to succeed.
    ///
    /// # Errors
    /// It failed, or the connection did.
    pub fn command(&self, sqe: Sqe, data: Data, what: &'static str) -> Result<Cqe, HostError> {
        self.admin().command(sqe, data, what)
    }

    /// `len` bytes of a log page; commands are cut to what the controller moves at once. Reading
    /// the page of an event is also what makes the controller report the next of its kind.
    ///
    /// # Errors
    /// It failed, or the connection did.
    pub fn log_page(&self, lid: LogId, nsid: u32, len: usize) -> Result<Vec<u8>, HostError> {
        self.log_page_at(lid, nsid, 0, len)
    }

    pub(super) fn log_page_at(
        &self,
        lid: LogId,
        nsid: u32,
        offset: u64,
        len: usize,
    ) -> Result<Vec<u8>, HostError> {
        let step = self.transfer_max().unwrap_or(u64::MAX).min(64 * 1024) as usize;
        let mut page = Vec::with_capacity(len);
        while page.len() < len {
            let now = step.min((len - page.len()).next_multiple_of(4));
            let at = offset + page.len() as u64;
            let sqe = Sqe::get_log_page(lid, nsid, at, now as u32);
            page.extend_from_slice(&self.read(sqe, now, "Get Log Page")?);
        }
        page.truncate(len);
        Ok(page)
    }

    /// NSIDs of the active namespaces.
    ///
    /// # Errors
    /// See [`HostError`].
    pub fn nsids(&self) -> Result<Vec<u32>, HostError> {
        let mut nsids: Vec<u32> = Vec::new();
        loop {
            let after = nsids.last().copied().unwrap_or(0);
            let sqe = Sqe::identify(Cns::ACTIVE_NAMESPACES, after, Csi::NVM);
            let data = self.read(sqe, IDENTIFY_LEN, "Identify Active Namespace list")?;
            let list: NamespaceList = whole(&data);
            let before = nsids.len();
            for nsid in list.iter() {
                if nsids.last().is_some_and(|&last| nsid <= last) {
                    return Err(HostError::Nonsense {
                        what: "the list of namespaces does not ascend",
                    });
                }
                nsids.push(nsid);
            }
            if nsids.len() - before < NamespaceList::CAPACITY {
                return Ok(nsids);
            }
        }
    }

    /// The active namespaces.
    ///
    /// # Errors
    /// See [`HostError`].
    pub fn namespaces(&self) -> Result<Vec<Namespace>, HostError> {
        let mut namespaces = Vec::new();
        for nsid in self.nsids()? {
            // One that went away since the list was made is left out.
            if let Some(namespace) = self.namespace(nsid)? {
                namespaces.push(namespace);
            }
        }
        Ok(namespaces)
    }

    /// One namespace; None if there is none of that NSID.
    ///
    /// # Errors
    /// See [`HostError`].
    pub fn namespace(&self, nsid: u32) -> Result<Option<Namespace>, HostError> {
        let sqe = Sqe::identify(Cns::NAMESPACE, nsid, Csi::NVM);
        let what = "Identify Namespace";
        let answer = self.exec(sqe, Data::zeroed(IDENTIFY_LEN), what)?;
        let status = answer.status();
        if status.code() == Status::INVALID_NAMESPACE {
            return Ok(None);
        }
        if !status.is_success() {
            return Err(HostError::Command { what, status });
        }
        let identify: Box<IdentifyNamespace> = Box::new(whole(answer.data.bytes()));
        if identify.nsze.get() == 0 {
            return Ok(None);
        }
        let Some(block_len) = identify.block_bytes() else {
            return Err(HostError::Nonsense {
                what: "a namespace has blocks of no possible size",
            });
        };
        let sqe = Sqe::identify(Cns::NS_DESCRIPTORS, nsid, Csi::NVM);
        let answer = self.exec(sqe, Data::zeroed(IDENTIFY_LEN), "Identify Descriptors")?;
        let mut uuid = [0; 16];
        if answer.is_success()
            && let Some(found) = NsDescriptors::new(answer.data.bytes()).find(Nidt::UUID)
        {
            uuid.copy_from_slice(found);
        }
        Ok(Some(Namespace {
            nsid,
            blocks: identify.nsze.get(),
            block_len,
            uuid,
            nguid: identify.nguid,
            read_only: identify.nsattr & IdentifyNamespace::NSATTR_WRITE_PROTECTED != 0,
            identify,
        }))
    }

    /// Connects `count` I/O queues of `depth` commands each. There may be fewer, if the controller
    /// grants fewer, and they may be shallower ([`Queue::depth`]). Call it once per connection: the
    /// queues are numbered from 1.
    ///
    /// # Errors
    /// See [`HostError`].
    ///
    /// # Panics
    /// If `count` or `depth` is 0.
    pub fn queues(&self, count: u16, depth: u16) -> Result<Vec<Queue>, HostError> {
        let granted = self.grant_queues(count)?;
        *self.asked.lock().expect(POISON) = (count, depth);
        (1..=granted)
            .map(|qid| self.connector.connect(qid, depth))
            .collect()
    }

    /// Asks for `count` I/O queues (Number of Queues); how many there may be. For who connects each
    /// on its own thread by a [`Connector`].
    ///
    /// # Errors
    /// See [`HostError`].
    ///
    /// # Panics
    /// If `count` is 0.
    pub fn grant_queues(&self, count: u16) -> Result<u16, HostError> {
        let wish = NumberOfQueues::new(u32::from(count)).0;
        let sqe = Sqe::set_features(FeatureId::NUMBER_OF_QUEUES, 0, wish);
        let answer = self.command(sqe, Data::None, "Set Features Number of Queues")?;
        let granted = NumberOfQueues(answer.dw0.get());
        let both = granted.submission_queues().min(granted.completion_queues());
        Ok(both.min(u32::from(count)) as u16)
    }

    /// What makes I/O queues.
    pub fn connector(&self) -> &Connector {
        &self.connector
    }

    /// The next asynchronous event, if one came. Read its log page to hear of the next of its kind.
    ///
    /// # Errors
    /// The connection is dead.
    pub fn next_event(&self) -> Result<Option<AsyncEvent>, HostError> {
        let mut admin = self.admin();
        admin.tend();
        if let Some(event) = admin.events.pop_front() {
            return Ok(Some(event));
        }
        match admin.queue.error() {
            Some(error) => Err(error.clone()),
            None => Ok(None),
        }
    }

    /// NSIDs of namespaces that changed since this was last asked; None if there were too many to
    /// list, and all have to be looked at.
    ///
    /// # Errors
    /// See [`HostError`].
    pub fn changed_namespaces(&self) -> Result<Option<Vec<u32>>, HostError> {
        let page = self.log_page(LogId::CHANGED_NAMESPACES, 0xFFFF_FFFF, IDENTIFY_LEN)?;
        let list: NamespaceList = whole(&page);
        let nsids: Vec<u32> = list.iter().collect();
        Ok((nsids != [NamespaceList::OVERFLOW]).then_some(nsids))
    }

    /// Sends a Keep Alive if one is due, and collects events. Without a background thread, to be
    /// called at least twice per KATO.
    pub fn tend(&self) {
        self.admin().tend();
    }

    /// Why the connection is dead; None while it lives.
    pub fn error(&self) -> Option<HostError> {
        self.admin().queue.error().cloned()
    }

    /// Ends the association by the book: a normal shutdown. Queues must have nothing outstanding.
    ///
    /// # Errors
    /// See [`HostError`].
    pub fn shutdown(mut self) -> Result<(), HostError> {
        self.stop_tender();
        let told_ms = self.identify.rtd3e.get() / 1000;
        let timeout_ms = if told_ms == 0 { SHUTDOWN_MS } else { told_ms };
        let mut admin = self.admin();
        admin.bring_up(Goal::ShutDown, timeout_ms)?;
        Ok(())
    }

    /// What `queues` was last asked for.
    pub(super) fn asked(&self) -> (u16, u16) {
        *self.asked.lock().expect(POISON)
    }

    fn admin(&self) -> MutexGuard<'_, Admin> {
        self.shared.admin.lock().expect(POISON)
    }

    fn stop_tender(&mut self) {
        if let Some(tender) = self.tender.take() {
            *self.shared.stop.lock().expect(POISON) = true;
            self.shared.bell.notify_all();
            tender.join().expect("the tender thread does not panic");
        }
    }
}

const POISON: &str = "nobody panics with the lock";

impl Drop for Controller {
    fn drop(&mut self) {
        self.stop_tender();
    }
}

impl Connector {
    /// Connects I/O queue `qid`, 1 and up, for `depth` commands at a time; fewer if the controller
    /// takes fewer.
    ///
    /// # Errors
    /// See [`HostError`].
    ///
    /// # Panics
    /// If `qid` or `depth` is 0.
    pub fn connect(&self, qid: u16, depth: u16) -> Result<Queue, HostError> {
        assert!(
            qid > 0 && depth > 0,
            "I/O queues count from 1 and have room"
        );
        let depth_max = match self.maxcmd {
            0 => depth,
            maxcmd => depth.min(maxcmd),
        };
        // A queue is never full by its SQSIZE: one entry more than commands.
        let entries = (u32::from(depth_max) + 1).min(self.entries_max).max(2);
        let mut queue = Queue::open(self.address, qid, (entries - 1) as u16, &self.options)?;
        queue.set_in_capsule(self.in_capsule);
        self.fabrics_connect(&mut queue, entries)?;
        Ok(queue)
    }

    /// Sends Connect and judges the answer.
    fn fabrics_connect(
        &self,
        queue: &mut Queue,
        entries: u32,
    ) -> Result<ConnectResponse, HostError> {
        let qid = queue.qid();
        let options = &self.options;
        let cattr = if options.sq_flow_control {
            0
        } else {
            CATTR_NO_SQ_FLOW_CONTROL
        };
        let kato_ms = if qid == 0 { options.kato_ms } else { 0 };
        let identity = &options.identity;
        let data = ConnectData::new(identity.id, self.cntlid, &self.nqn, &identity.nqn);
        let data = Data::Vec(data.as_bytes().to_vec());
        let sqe = nvme::connect(qid, entries, cattr, kato_ms);
        let answer = queue.exec(sqe, data, "answer to Connect")?;
        let status = answer.status();
        if !status.is_success() {
            let dw0 = answer.cqe.dw0.get();
            let wrong = status.code() == Status::CONNECT_INVALID_PARAMETERS;
            return Err(HostError::ConnectRefused {
                address: self.address,
                nqn: Box::new(self.nqn),
                hostnqn: Box::new(identity.nqn),
                qid,
                status,
                parameter: wrong.then(|| ConnectRefusal::from_dw0(dw0)),
            });
        }
        let response = ConnectResponse::from_dw0(answer.cqe.dw0.get());
        if response.authreq != 0 {
            return Err(HostError::AuthenticationRequired {
                address: self.address,
                nqn: Box::new(self.nqn),
            });
        }
        // Not as SQHD says, which we heed in no case: SPDK's target counts it on for hosts that asked to be spared, and elides
        // their completions all the same.
        queue.set_sq_flow_control(options.sq_flow_control);
        Ok(response)
    }
}

impl Admin {
    fn new(queue: Queue, kato_ms: u32) -> Admin {
        let every = Duration::from_millis(u64::from(kato_ms)) / 2;
        Admin {
            queue,
            events: VecDeque::new(),
            keep_alive_every: (kato_ms > 0).then_some(every),
            keep_alive_due: Instant::now() + every,
            keep_alive_out: false,
        }
    }

    fn exec(&mut self, sqe: Sqe, data: Data, what: &'static str) -> Result<Completion, HostError> {
        let answer = self.queue.exec(sqe, data, what);
        self.sort();
        answer
    }

    fn command(&mut self, sqe: Sqe, data: Data, what: &'static str) -> Result<Cqe, HostError> {
        let answer = self.exec(sqe, data, what)?;
        let status = answer.status();
        if status.is_success() {
            Ok(answer.cqe)
        } else {
            Err(HostError::Command { what, status })
        }
    }

    fn read(&mut self, sqe: Sqe, len: usize, what: &'static str) -> Result<Vec<u8>, HostError> {
        let answer = self.exec(sqe, Data::zeroed(len), what)?;
        let status = answer.status();
        if status.is_success() {
            Ok(answer.data.into_vec())
        } else {
            Err(HostError::Command { what, status })
        }
    }

    /// Brings the controller there by Property Get and Set; returns CAP.
    fn bring_up(&mut self, goal: Goal, shutdown_timeout_ms: u32) -> Result<Cap, HostError> {
        let start = Instant::now();
        let tick = || Tick(start.elapsed().as_nanos() as u64);
        let mut machine = Bringup::new(goal, shutdown_timeout_ms);
        loop {
            match machine.next(tick()) {
                Step::Get(at) => {
                    let sqe = nvme::property_get(at);
                    let answer = self.command(sqe, Data::None, "Property Get")?;
                    let got = machine.got(answer.result64(), tick());
                    got.map_err(HostError::Bringup)?;
                }
                Step::Set(at, value) => {
                    let sqe = nvme::property_set(at, value);
                    self.command(sqe, Data::None, "Property Set")?;
                    machine.done(tick());
                }
                Step::Program => machine.done(tick()),
                Step::Wait(until) => {
                    std::thread::sleep(Duration::from_nanos(until.since(tick())));
                }
                Step::Ready => return Ok(machine.cap()),
            }
        }
    }

    /// Turns on the notices the controller has, and asks to be told.
    fn ask_for_events(&mut self, identify: &IdentifyController) -> Result<(), HostError> {
        let wanted = AsyncEventConfig::NS_ATTRIBUTE
            | AsyncEventConfig::ANA_CHANGE
            | AsyncEventConfig::FIRMWARE_ACTIVATION
            | AsyncEventConfig::DISCOVERY_LOG;
        let events = identify.oaes.get() & wanted;
        if events == 0 {
            return Ok(());
        }
        let sqe = Sqe::set_features(FeatureId::ASYNC_EVENT_CONFIG, 0, events);
        let answer = self.exec(sqe, Data::None, "Set Features Async Event Configuration")?;
        // A discovery controller that is not asked for a persistent connection may refuse.
        if answer.is_success() {
            for _ in 0..identify.async_event_limit().min(AERS) {
                self.submit(nvme::async_event_request(), ASYNC_EVENT);
            }
            self.queue.flush();
        }
        Ok(())
    }

    fn submit(&mut self, sqe: Sqe, user_data: u64) {
        // On a dead queue, or one full of commands nobody answers, there is nothing to be done here.
        let _ = self.queue.submit(sqe, Data::None, user_data);
    }

    /// Looks at what came, and keeps the controller alive.
    fn tend(&mut self) {
        self.sort();
        let Some(every) = self.keep_alive_every else {
            return;
        };
        let now = Instant::now();
        if now < self.keep_alive_due {
            return;
        }
        if self.keep_alive_out {
            // Not a single answer in half a KATO. The target will have given us up as well.
            if now >= self.keep_alive_due + every {
                let address = self.queue.address();
                self.queue.fail(HostError::Timeout {
                    address,
                    what: "answer to Keep Alive",
                    after: every * 2,
                });
            }
            return;
        }
        self.keep_alive_out = true;
        self.keep_alive_due = now + every;
        self.submit(nvme::keep_alive(), KEEP_ALIVE);
        self.queue.flush();
    }

    /// Completions of commands that nobody waits for.
    fn sort(&mut self) {
        while let Some(completion) = self.queue.poll() {
            match completion.user_data {
                ASYNC_EVENT if completion.is_success() => {
                    if self.events.len() == EVENTS_MAX {
                        self.events.pop_front();
                    }
                    let event = AsyncEvent::from_dw0(completion.cqe.dw0.get());
                    self.events.push_back(event);
                    self.submit(nvme::async_event_request(), ASYNC_EVENT);
                    self.queue.flush();
                }
                KEEP_ALIVE => self.keep_alive_out = false,
                // Refused, or orphaned by the end of the queue.
                _ => {}
            }
        }
    }
}

/// The thread that tends to a controller.
fn tender(shared: Arc<Shared>) -> JoinHandle<()> {
    let run = move || {
        loop {
            let every = {
                let mut admin = shared.admin.lock().expect(POISON);
                admin.tend();
                if admin.queue.error().is_some() {
                    return;
                }
                // Answers and events are looked for more often than Keep Alives are due.
                admin.keep_alive_every.unwrap_or(Duration::MAX) / 4
            };
            let stop = shared.stop.lock().expect(POISON);
            let pause = every.clamp(Duration::from_millis(5), Duration::from_millis(500));
            let (stop, _) = shared
                .bell
                .wait_timeout_while(stop, pause, |stop| !*stop)
                .expect(POISON);
            if *stop {
                return;
            }
        }
    };
    std::thread::Builder::new()
        .name("nvme-host".into())
        .spawn(run)
        .expect("a thread can be started")
}

/// A structure that was received whole: a short read fails its command.
fn whole<T: Wire>(data: &[u8]) -> T {
    T::read(data).expect("as many bytes were asked for")
}
