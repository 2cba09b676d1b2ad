//! A controller: brought up, kept, reset, shut down; and its namespaces as drives of the node.
//!
//! Each controller has a keeper, a thread that sleeps on the drive's admin interrupt and looks around twice a
//! second. It does all that is slow, so that no core ever waits for a drive. What goes wrong escalates: a
//! command that takes too long is aborted, one that cannot be aborted gets the controller reset while all
//! commands wait, and a controller that does not come back, or is gone, fails: its commands are answered, and
//! the node lives on.

mod logs;
mod namespace;

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ferroce_engine::health::Health;
use ferroce_engine::host::{Bringup, BringupError, Goal, Step, is_64_bit};
use ferroce_engine::port::Tick;
use ferroce_wire::feature::{AsyncEventConfig, FeatureId, NumberOfQueues};
use ferroce_wire::identify::{Cns, IdentifyController, IdentifyNamespace};
use ferroce_wire::prop::{Cap, Csts, PropertyOffset, Vs};
use ferroce_wire::sqe::Sqe;

pub use namespace::{NvmeConfig, NvmeDrive, Seated};

use super::admin::{Admin, AdminError};
use super::queue::{ENTRIES_MAX, End, Life, Mode, Vector, Word};
use super::quirks::{DISABLE_PAUSE_MS, PciId, Quirks};
use crate::DriveError;
use crate::dma::{Bus, DmaMemory, Iommu};
use crate::mmio::{Bar, Registers};
use crate::pci::Address;
use crate::vfio::{self, Device, EventFd};
use logs::Log;
use namespace::Shape;

/// I/O queues we ask a drive for.
const QUEUES_WANTED: u32 = 128;
/// Interrupt vectors we take at most: each is a descriptor, and one of some 200 that a CPU has for all devices. Queues beyond
/// them are looked at every now and then.
const VECTORS_MAX: usize = 65;
/// Of these, beyond one for each core: that of the admin queue, and some for queues whose identifiers are higher because others
/// could not be deleted.
const VECTORS_SPARE: usize = 4;
/// Bytes of an entry of the MSI-X table.
const VECTOR: u64 = 16;
/// A drive that had to be reset so often within `RESETS_WITHIN` is given up.
const RESETS_MAX: usize = 3;
const RESETS_WITHIN: Duration = Duration::from_secs(600);
/// How long a drive's shutdown is waited for, whatever it says.
const SHUTDOWN_MAX_MS: u32 = 30_000;
/// What a drive says of the time it needs to become ready is believed up to this: the most that CAP.TO can say.
const READY_MAX_MS: u32 = 255 * 500;
/// Between CSTS.RDY 0 and CC.EN 1: there are drives that miss what comes sooner (SPDK, nvme_ctrlr_process_init).
const ENABLE_PAUSE: Duration = Duration::from_micros(100);
/// Between two tries to bring a drive up.
const PAUSE: Duration = Duration::from_millis(100);
/// How long cores have to notice what the keeper says, and to close their queues.
const HEAR: Duration = Duration::from_secs(5);

/// How long things may take, in milliseconds. For a drive that answers nothing, and says that it is ready soon, they stay,
/// together, below the 30 s after which Linux hosts give up on a command themselves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Patience {
    /// A command, while its queue does no other either, before it is aborted.
    pub command_ms: u32,
    /// The same while its queue does others: what waits inside of a slow drive is not lost.
    pub command_max_ms: u32,
    /// Once it was aborted, before the controller is reset.
    pub abort_ms: u32,
    /// The reset, before the drive is given up. Where the function can be reset as a whole, this is how long that may
    /// take, after the controller alone was given half of it; and longer if the drive says that it needs that, two minutes at
    /// most. A drive whose registers read as all ones has that half, too.
    pub reset_ms: u32,
    /// Any other admin command.
    pub admin_ms: u32,
    /// A log page that the keeper reads. Drives that collect garbage or sanitise are slow to give one, and are well: the
    /// keeper does everything else meanwhile.
    pub log_ms: u32,
    /// Between two looks of the keeper.
    pub look_ms: u32,
    /// Between two readings of the SMART / Health log.
    pub smart_ms: u32,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience {
            command_ms: 8_000,
            command_max_ms: 20_000,
            abort_ms: 6_000,
            reset_ms: 10_000,
            admin_ms: 5_000,
            log_ms: 60_000,
            look_ms: 500,
            smart_ms: 10_000,
        }
    }
}

/// Where a controller sits: its registers, its way to memory, its interrupts.
#[derive(Debug)]
pub struct Seat {
    bar: Bar,
    iommu: Iommu,
    device: Option<Device>,
    id: PciId,
    signals: Signals,
}

/// What is written when something happens to a controller. None of it need be there.
#[derive(Clone, Default, Debug)]
pub struct Signals {
    /// Its interrupt vectors: the first is that of the admin queue, others of I/O queues by their numbers.
    pub vectors: Vec<EventFd>,
    /// Where the table of these is among the registers, if it can be reached.
    pub vector_table: Option<u32>,
    /// The system asks for the device back (VFIO's REQ).
    pub request: Option<EventFd>,
    /// The bus reports an error that was not corrected (VFIO's ERR).
    pub error: Option<EventFd>,
}

impl Signals {
    /// Those that the keeper waits for.
    fn of_keeper(&self) -> impl Iterator<Item = &EventFd> {
        self.vectors
            .first()
            .into_iter()
            .chain(&self.request)
            .chain(&self.error)
    }
}

impl Seat {
    /// A device that is bound to vfio-pci, for so many cores, each of which has a queue.
    ///
    /// # Errors
    /// Each with what to do about it.
    pub fn vfio(address: Address, cores: usize) -> Result<Seat, DriveError> {
        let label = format!("nvme:{address}");
        let system = |tried: &str, cause| DriveError::system(&label, tried, cause);
        let device = Device::open(address)?;
        let bar = device
            .map_bar0()
            .map_err(|cause| system("mapping its registers", cause))?;
        let count = (device.vectors() as usize)
            .min(cores + VECTORS_SPARE)
            .min(VECTORS_MAX);
        let events: std::io::Result<Vec<EventFd>> = (0..count).map(|_| EventFd::new()).collect();
        let mut vectors =
            events.map_err(|cause| system("making an eventfd for an interrupt", cause))?;
        let given = device
            .watch_vectors(&vectors)
            .map_err(|cause| system("setting up its interrupts", cause))?;
        if given < count {
            log::warn!(
                "{label}: the system has {given} interrupts for it, not {count}; without one a core that sleeps is late"
            );
            vectors.truncate(given);
        }
        // Not every device and kernel has these two; without them nobody is told in time.
        let watched = |watch: &dyn Fn(&EventFd) -> std::io::Result<()>| {
            let event = EventFd::new().ok()?;
            watch(&event).ok().map(|()| event)
        };
        let request = watched(&|event| device.watch_request(event));
        let error = watched(&|event| device.watch_errors(event));
        device
            .set_bus_master(true)
            .map_err(|cause| system("letting it reach memory", cause))?;
        let bar = Bar::Mapped(Arc::new(bar));
        let end = |table: &u32| u64::from(*table) + VECTOR * vectors.len() as u64;
        let vector_table = device
            .vector_table()
            .filter(|table| bar.reaches(end(table) - 4));
        Ok(Seat {
            bar,
            iommu: Iommu::Vfio(device.container().clone()),
            id: device.id(),
            device: Some(device),
            signals: Signals {
                vectors,
                vector_table,
                request,
                error,
            },
        })
    }

    /// Somebody plays the device; nothing interrupts.
    pub fn played(registers: Arc<dyn Registers>, bus: Arc<Bus>) -> Seat {
        Seat::played_with(registers, bus, Signals::default())
    }

    /// Somebody plays the device and what it signals.
    pub fn played_with(registers: Arc<dyn Registers>, bus: Arc<Bus>, signals: Signals) -> Seat {
        Seat {
            bar: Bar::Played(registers),
            iommu: Iommu::Bus(bus),
            device: None,
            id: PciId::default(),
            signals,
        }
    }

    /// The same, as a device of which PCI says that it is this.
    #[must_use]
    pub fn with_id(mut self, id: PciId) -> Seat {
        self.id = id;
        self
    }

    /// True if the function can be reset as a whole.
    fn resets(&self) -> bool {
        match (&self.device, &self.bar) {
            (Some(device), _) => device.resets(),
            (None, Bar::Played(_)) => true,
            (None, Bar::Mapped(_)) => false,
        }
    }

    /// Resets the function, if it can be.
    fn reset(&self) -> bool {
        match (&self.device, &self.bar) {
            (Some(device), _) => device.reset().is_ok(),
            (None, Bar::Played(registers)) => registers.reset(),
            (None, Bar::Mapped(_)) => false,
        }
    }

    /// Keeps the device from memory.
    fn silence(&self) {
        // One of these is enough. A device that is gone takes neither, but the system would wait for it, up to a minute.
        match &self.device {
            Some(device) => drop(device.set_bus_master(false)),
            None => self.bar.write32(PropertyOffset::CC.0, 0),
        }
        if self.bar.read32(PropertyOffset::CSTS.0) != u32::MAX {
            self.reset();
        }
    }

    /// Gives the device what a reset may have taken, whoever did it: it reaches memory, and its vectors have the addresses
    /// that make interrupts of them. After a reset of the bus a drive that got neither wrote to address 0.
    fn equip(&self) -> std::io::Result<()> {
        let Some(device) = &self.device else {
            return Ok(());
        };
        device.set_bus_master(true)?;
        // The system writes the addresses again, though it has these eventfds already.
        device.watch_vectors(&self.signals.vectors).map(drop)
    }
}

/// A controller of ours. Dropping it waits for its queues to be closed, and shuts the drive down.
#[derive(Debug)]
pub struct Controller {
    kept: Arc<Kept>,
    thread: Option<JoinHandle<()>>,
}

/// What the keeper's thread and others share.
#[derive(Debug)]
struct Kept {
    keeper: Mutex<Keeper>,
    /// The keeper's, to be asked while it is busy: a reset may take minutes.
    word: Arc<Word>,
    stop: Arc<AtomicBool>,
    bell: EventFd,
}

/// Namespaces of one controller share it.
static OPEN: Mutex<BTreeMap<Address, Weak<Controller>>> = Mutex::new(BTreeMap::new());

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Controller {
    /// The controller at an address, brought up if it is not already, for so many cores.
    ///
    /// # Errors
    /// Each with what to do about it.
    pub fn at(address: Address, cores: usize) -> Result<Arc<Controller>, DriveError> {
        let mut open = lock(&OPEN);
        let known = open.get(&address).and_then(Weak::upgrade);
        if let Some(controller) = known.filter(|controller| !controller.has_failed()) {
            return Ok(controller);
        }
        let label = format!("nvme:{address}");
        let controller =
            Controller::start(label, Seat::vfio(address, cores)?, Patience::default())?;
        let controller = Arc::new(controller);
        open.insert(address, Arc::downgrade(&controller));
        Ok(controller)
    }

    /// Brings up what sits there.
    ///
    /// # Errors
    /// If it does not come up, or says what cannot be.
    pub fn start(label: String, seat: Seat, patience: Patience) -> Result<Controller, DriveError> {
        let bell = EventFd::new()
            .map_err(|cause| DriveError::system(&label, "making an eventfd", cause))?;
        let mut events = vec![bell.clone()];
        events.extend(seat.signals.of_keeper().cloned());
        let keeper = Keeper::bring_up(label.clone(), seat, patience)?;
        let kept = Arc::new(Kept {
            stop: keeper.stop.clone(),
            word: keeper.word.clone(),
            keeper: Mutex::new(keeper),
            bell,
        });
        let look = Duration::from_millis(patience.look_ms.into());
        let shared = kept.clone();
        let run = move || {
            while !shared.stop.load(Ordering::Acquire) {
                vfio::wait(&events, look);
                lock(&shared.keeper).look();
            }
            lock(&shared.keeper).close();
        };
        let thread = std::thread::Builder::new().name("nvme keeper".into());
        let thread = thread
            .spawn(run)
            .map_err(|cause| DriveError::system(&label, "starting its keeper", cause))?;
        Ok(Controller {
            kept,
            thread: Some(thread),
        })
    }

    /// True if it was given up.
    pub fn has_failed(&self) -> bool {
        self.kept.word.life().mode() == Mode::Failed
    }

    fn keeper(&self) -> MutexGuard<'_, Keeper> {
        lock(&self.kept.keeper)
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.kept.stop.store(true, Ordering::Release);
        self.kept.bell.signal();
        if let Some(thread) = self.thread.take() {
            // Its panic has been reported where it happened.
            let _ = thread.join();
        }
    }
}

/// What the keeper has.
#[derive(Debug)]
struct Keeper {
    label: String,
    word: Arc<Word>,
    patience: Patience,
    start: Instant,
    cap: Cap,
    quirks: Quirks,
    vs: Vs,
    /// How long it may take to become ready, as it says.
    ready_ms: u32,
    /// None when the device was given back.
    seat: Option<Seat>,
    /// Those of the seat, which they outlive.
    signals: Signals,
    admin: Option<Admin>,
    id: Box<IdentifyController>,
    queues: u32,
    ends: Vec<Arc<End>>,
    /// Namespaces that are served, as they were found.
    served: Vec<Weak<Shape>>,
    resets: Vec<Instant>,
    /// Nobody has it any more: no reset is worth waiting for.
    stop: Arc<AtomicBool>,
    health: Arc<Health>,
    /// When the SMART log is to be read again; `None` if the drive refuses it.
    smart_at: Option<Instant>,
    /// Before this, an event of its health is one of those that come again and again.
    smart_event_at: Instant,
    /// Event requests that such events took. The drive has them back with the next reading of the SMART log.
    held: u16,
    /// Log pages to be read.
    logs: VecDeque<Log>,
    /// The one that the drive was asked for, and when.
    asked: Option<(Log, Instant)>,
    /// Resets since the SMART log last came, because a page did not.
    unread: u32,
    /// No page is asked for before: a drive that gives none is not to be reset for it again and again.
    logs_at: Instant,
    /// The IOMMU outlives the seat: queue memory is unmapped through it.
    iommu: Iommu,
}

/// Why a controller did not come up.
#[derive(Debug)]
enum Trouble {
    Bringup(BringupError),
    Admin(&'static str, AdminError),
    /// The drive has so many queues, and all are taken.
    NoQueue(u32),
    Other(String),
}

impl Trouble {
    /// Its registers read as all ones. So they do while its link or its function is being reset, and then it comes back.
    fn is_gone(&self) -> bool {
        matches!(
            self,
            Trouble::Bringup(BringupError::Gone) | Trouble::Admin(_, AdminError::Gone)
        )
    }
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Trouble::Bringup(why) => why.fmt(f),
            Trouble::Admin(what, why) => write!(f, "{what}: {why}"),
            Trouble::NoQueue(queues) => write!(
                f,
                "all of the drive's {queues} queues are taken, and those that have them are about to go; try again"
            ),
            Trouble::Other(why) => f.write_str(why),
        }
    }
}

impl Keeper {
    fn bring_up(label: String, seat: Seat, patience: Patience) -> Result<Keeper, DriveError> {
        // Opening it reset its function, and after that a drive may take its time to answer at all.
        let gone_by = Instant::now() + Duration::from_millis((patience.reset_ms / 2).into());
        let cap = loop {
            let cap = Cap(seat.bar.read64(PropertyOffset::CAP.0));
            if cap.0 != u64::MAX {
                break cap;
            }
            if Instant::now() >= gone_by {
                return Err(DriveError::refused(&label, BringupError::Gone.to_string()));
            }
            std::thread::sleep(PAUSE);
        };
        let admin_timeout = Duration::from_millis(patience.admin_ms.into());
        let admin = Admin::new(seat.bar.clone(), &seat.iommu, cap, admin_timeout)
            .map_err(|cause| DriveError::system(&label, "memory for its admin queue", cause))?;
        let mut keeper = Keeper {
            label,
            word: Arc::new(Word::default()),
            patience,
            start: Instant::now(),
            cap,
            quirks: Quirks::of(seat.id),
            vs: Vs(0),
            ready_ms: 0,
            iommu: seat.iommu.clone(),
            signals: seat.signals.clone(),
            seat: Some(seat),
            admin: Some(admin),
            id: Box::default(),
            queues: 0,
            ends: Vec::new(),
            served: Vec::new(),
            resets: Vec::new(),
            stop: Arc::default(),
            health: Arc::default(),
            smart_at: Some(Instant::now()),
            smart_event_at: Instant::now(),
            held: 0,
            logs: VecDeque::new(),
            asked: None,
            unread: 0,
            logs_at: Instant::now(),
        };
        loop {
            match keeper.enable(None) {
                Ok(()) => return Ok(keeper),
                Err(why) if why.is_gone() && Instant::now() < gone_by => std::thread::sleep(PAUSE),
                Err(why) => return Err(DriveError::refused(&keeper.label, why.to_string())),
            }
        }
    }

    /// From whatever state to ready, with all queues there are.
    fn enable(&mut self, deadline: Option<Instant>) -> Result<(), Trouble> {
        self.bring(Goal::Enabled, deadline)?;
        // It was disabled on the way, so it has let go of the memory of queues that nobody has any more, and has forgotten
        // what it was asked for.
        self.ends.retain(|end| !end.is_closed());
        self.logs.clear();
        (self.asked, self.held) = (None, 0);
        if let Some(seat) = &self.seat {
            self.vs = Vs(seat.bar.read32(PropertyOffset::VS.0));
        }
        let call = |what, result: Result<_, _>| result.map_err(|why| Trouble::Admin(what, why));
        let admin = self.admin.as_mut().expect("it is there until it fails");
        let id: Box<IdentifyController> = admin
            .identify(Cns::CONTROLLER, 0)
            .map_err(|why| Trouble::Admin("Identify Controller", why))?;
        if self.queues > 0 && (id.sn != self.id.sn || id.mn != self.id.mn) {
            return Err(Trouble::Other(
                "after its reset it says that it is another drive".into(),
            ));
        }
        self.id = id;
        let wanted = NumberOfQueues::new(QUEUES_WANTED);
        let sqe = Sqe::set_features(FeatureId::NUMBER_OF_QUEUES, 0, wanted.0);
        let granted = NumberOfQueues(call("Set Features, Number of Queues", admin.call(sqe))?);
        // A drive may grant more than was asked for.
        self.queues = granted
            .submission_queues()
            .min(granted.completion_queues())
            .min(QUEUES_WANTED);
        // A drive need not know the feature; then it tells what it tells.
        let events =
            AsyncEventConfig::SMART & !0xE0 | AsyncEventConfig::NS_ATTRIBUTE & self.id.oaes.get();
        let sqe = Sqe::set_features(FeatureId::ASYNC_EVENT_CONFIG, 0, events);
        if let Err(why @ (AdminError::Timeout | AdminError::Gone | AdminError::Lie)) =
            admin.call(sqe)
        {
            return Err(Trouble::Admin(
                "Set Features, Asynchronous Event Configuration",
                why,
            ));
        }
        admin.listen(self.id.async_event_limit());
        self.served.retain(|shape| shape.strong_count() > 0);
        for shape in self.served.iter().filter_map(Weak::upgrade) {
            let found: Box<IdentifyNamespace> = admin
                .identify(Cns::NAMESPACE, shape.nsid)
                .map_err(|why| Trouble::Admin("Identify Namespace", why))?;
            shape.check(&found).map_err(Trouble::Other)?;
        }
        if let Some(end) = self
            .ends
            .iter()
            .find(|end| u32::from(end.qid()) > self.queues)
        {
            return Err(Trouble::Other(format!(
                "after its reset it grants {} queues, and queue {} is in use",
                self.queues,
                end.qid()
            )));
        }
        for end in &self.ends {
            end.clear();
            for sqe in end.create() {
                call("making a queue", admin.call(sqe))?;
            }
        }
        Ok(())
    }

    /// Does what a [`Bringup`] says until the goal is reached. The drive may take the time it says, but not
    /// beyond the deadline.
    fn bring(&mut self, goal: Goal, deadline: Option<Instant>) -> Result<(), Trouble> {
        // RTD3E, in microseconds, is how long it may take to write its caches out.
        let shutdown_ms = (self.id.rtd3e.get() / 1000).max(self.patience.admin_ms);
        let mut machine = Bringup::new(goal, shutdown_ms.min(SHUTDOWN_MAX_MS));
        if self.quirks.has(Quirks::SLOW_TO_DISABLE) {
            machine = machine.with_disable_pause_ms(DISABLE_PAUSE_MS);
        }
        let now = |keeper: &Keeper| Tick(keeper.start.elapsed().as_nanos() as u64);
        loop {
            let Some(bar) = self.seat.as_ref().map(|seat| &seat.bar) else {
                return Err(Trouble::Bringup(BringupError::Gone));
            };
            match machine.next(now(self)) {
                Step::Get(at) => {
                    let value = match is_64_bit(at) {
                        true => bar.read64(at.0),
                        false => bar.read32(at.0).into(),
                    };
                    let told = machine.got(value, now(self));
                    told.map_err(Trouble::Bringup)?;
                    self.ready_ms = machine.ready_timeout_ms().min(READY_MAX_MS);
                }
                Step::Set(at, value) => {
                    bar.write32(at.0, value as u32);
                    machine.done(now(self));
                }
                Step::Program => {
                    self.admin.as_mut().expect("until it fails").program();
                    std::thread::sleep(ENABLE_PAUSE);
                    machine.done(now(self));
                }
                Step::Wait(_) if deadline.is_some_and(|deadline| self.is_late(deadline)) => {
                    return Err(Trouble::Other("it takes too long to become ready".into()));
                }
                Step::Wait(until) => {
                    std::thread::sleep(Duration::from_nanos(until.since(now(self))));
                }
                Step::Ready => return Ok(()),
            }
        }
    }

    fn call<T>(
        &mut self,
        act: impl FnOnce(&mut Admin) -> Result<T, AdminError>,
    ) -> Result<T, AdminError> {
        match (self.word.life().mode(), &mut self.admin) {
            (Mode::Up, Some(admin)) => act(admin),
            _ => Err(AdminError::Gone),
        }
    }

    /// A new queue, for this core.
    fn open_queue(&mut self, core: Seated) -> Result<(Arc<End>, Bar), Trouble> {
        self.drop_closed();
        let taken = |qid: &u16| self.ends.iter().any(|end| end.qid() == *qid);
        let Some(qid) = (1..=self.queues as u16).find(|qid| !taken(qid)) else {
            return Err(Trouble::NoQueue(self.queues));
        };
        let Some(seat) = &self.seat else {
            return Err(Trouble::Bringup(BringupError::Gone));
        };
        let bar = seat.bar.clone();
        let entries = self.cap.queue_entries_max().min(ENTRIES_MAX);
        if entries < 2 {
            return Err(Trouble::Other("it has queues of one entry".into()));
        }
        let memory = DmaMemory::map(&self.iommu, End::memory_len(entries), core.node)
            .map_err(|cause| Trouble::Other(format!("memory for a queue: {cause}")))?;
        let vector = self
            .signals
            .vectors
            .get(usize::from(qid))
            .map(|event| Vector {
                number: qid,
                event: event.clone(),
                // Vector Control is the last of an entry's four words.
                mask: self
                    .signals
                    .vector_table
                    .map(|table| table + u32::from(qid) * VECTOR as u32 + 12),
            });
        let end = End::new(
            qid,
            core.index,
            entries,
            Arc::new(memory),
            vector,
            self.word.life(),
        );
        let end = Arc::new(end);
        if let Err(why) = self.make_queue(&end) {
            return Err(Trouble::Admin("making a queue", why));
        }
        self.ends.push(end.clone());
        Ok((end, bar))
    }

    /// Has the drive make a queue. One that was made by half is taken back; if the drive does not say that it was, it
    /// may still write there, and the memory stays until the next reset.
    fn make_queue(&mut self, end: &Arc<End>) -> Result<(), AdminError> {
        let [completions, submissions] = end.create();
        let in_doubt = match self.call(|admin| admin.call(completions)) {
            Err(why @ AdminError::Status(_)) => return Err(why),
            Err(why) => why,
            Ok(_) => match self.call(|admin| admin.call(submissions)) {
                Ok(_) => return Ok(()),
                Err(why) => {
                    let [_, delete] = end.delete();
                    if self.call(|admin| admin.call(delete)).is_ok() {
                        return Err(why);
                    }
                    why
                }
            },
        };
        end.close();
        self.ends.push(end.clone());
        Err(in_doubt)
    }

    /// Looks around, and does what is to be done.
    fn look(&mut self) {
        self.tell_ms();
        for end in self.ends.iter().filter(|end| end.rests_on_commands()) {
            end.wake();
        }
        // All of them, and whether there still is a drive or not: what stays readable keeps the keeper turning.
        if let Some(vector) = self.signals.vectors.first() {
            vector.drain();
        }
        let told = |event: &Option<EventFd>| event.as_ref().is_some_and(EventFd::drain);
        let (asked, bus_error) = (told(&self.signals.request), told(&self.signals.error));
        let Some(seat) = &self.seat else { return };
        if asked {
            self.give_back();
            return;
        }
        let csts = Csts(seat.bar.read32(PropertyOffset::CSTS.0));
        if bus_error {
            self.reset("the bus reports an error");
        } else if csts.0 == u32::MAX {
            self.reset("its registers read as all ones");
        } else if csts.cfs() {
            self.reset("it reports a fatal error (CSTS.CFS)");
        } else if !csts.rdy() {
            self.reset("it is not ready any more: somebody else reset it");
        } else if self.ends.iter().any(|end| end.was_lied_to()) {
            self.reset("it answered a command that nobody gave it");
        } else if self.admin.as_ref().is_some_and(Admin::is_late) {
            self.reset("an admin command was not answered in time");
        } else if self.ends.iter().any(|end| end.is_stuck()) {
            self.reset("a command was neither answered nor aborted");
        } else {
            self.drop_closed();
            self.hear_events();
            self.abort_suspects();
            self.look_at_health();
            self.read_logs();
        }
    }

    fn tell_ms(&self) {
        self.word.tell_ms(self.start.elapsed().as_millis() as u32);
    }

    fn abort_suspects(&mut self) {
        let limit = self.id.abort_limit();
        let Some(admin) = &mut self.admin else { return };
        let mut told = false;
        for end in &self.ends {
            while admin.may_abort(limit)
                && let Some(cid) = end.suspect()
            {
                let qid = end.qid();
                // One line for all of a look: a drive that stalls has many.
                if !std::mem::replace(&mut told, true) {
                    log::warn!("{}: no answer in time on queue {qid}: aborting", self.label);
                }
                admin.abort(qid, cid);
            }
        }
    }

    /// Ends the drive's part of queues whose cores are done with them.
    fn drop_closed(&mut self) {
        let closed: Vec<Arc<End>> = self
            .ends
            .iter()
            .filter(|end| end.is_closed())
            .cloned()
            .collect();
        for end in closed {
            let mut deleted = true;
            for sqe in end.delete() {
                deleted &= self.call(|admin| admin.call(sqe)).is_ok();
            }
            // Else the drive may still write there: the memory stays until the next reset.
            if deleted || self.seat.is_none() {
                self.ends.retain(|known| !Arc::ptr_eq(known, &end));
            }
        }
    }

    /// Says how it is, and waits until every core has heard.
    fn say(&mut self, mode: Mode) -> Life {
        let life = self.word.say(mode);
        let deadline = Instant::now() + HEAR;
        while let Some(deaf) = self.ends.iter().find(|end| !end.has_heard(life)) {
            if Instant::now() >= deadline {
                log::error!(
                    "{}: the core of queue {} does not look at it",
                    self.label,
                    deaf.qid()
                );
                break;
            }
            deaf.wake();
            std::thread::sleep(Duration::from_micros(200));
        }
        life
    }

    /// Resets the controller, unless it had to be reset too often.
    fn reset(&mut self, why: &str) {
        self.resets.retain(|at| at.elapsed() < RESETS_WITHIN);
        self.resets.push(Instant::now());
        if self.resets.len() > RESETS_MAX {
            return self.fail(&format!("{why}; it had to be reset too often"));
        }
        self.renew(why);
    }

    /// Resets the controller and makes its queues anew, while all commands wait.
    fn renew(&mut self, why: &str) {
        log::warn!("{}: {why}: resetting it", self.label);
        // Where there is something harder, the controller alone does not get all the time there is: with what a slow
        // drive says in CAP.TO nothing would be left.
        let whole = Duration::from_millis(self.patience.reset_ms.into());
        // At last it has all the time that it asks for: a drive that was not shut down may have to rebuild what it knows.
        let ready = whole.max(Duration::from_millis(self.ready_ms.into()));
        let harder = self.seat.as_ref().is_some_and(Seat::resets);
        // When it is given up, unless it says meanwhile that it takes longer, and when even so.
        let until = |last| match last {
            true => (Instant::now() + whole, Instant::now() + ready),
            false => (Instant::now() + whole / 2, Instant::now() + whole / 2),
        };
        let (mut deadline, mut ready_by) = until(!harder);
        let mut last = !harder;
        let life = self.say(Mode::Down);
        if !self.ends.iter().all(|end| end.has_heard(life)) {
            return self.fail("a core does not let go of it");
        }
        loop {
            let tried = self.equip().and_then(|()| self.enable(Some(ready_by)));
            let late = self.is_late(deadline);
            match tried {
                Ok(()) => {
                    log::warn!("{}: it is back", self.label);
                    // Commands that are given to it anew are as old as this moment, and not as the reset.
                    self.tell_ms();
                    self.say(Mode::Up);
                    return;
                }
                // The link may be down, and it would be of no use to reset what cannot be reached.
                Err(why) if why.is_gone() && !late => {}
                Err(why) if why.is_gone() || (last && late) || self.stops() => {
                    return self.fail(&format!("it does not come back: {why}"));
                }
                Err(why) => {
                    log::warn!("{}: {why}; trying again", self.label);
                    // Harder: the function, not the controller alone.
                    if self.seat.as_ref().is_some_and(Seat::reset) {
                        log::warn!("{}: its function was reset", self.label);
                    }
                    if !std::mem::replace(&mut last, true) {
                        (deadline, ready_by) = until(true);
                    }
                }
            }
            // It does not come back if it was pulled out, and then the system says so.
            vfio::wait(self.signals.request.as_slice(), PAUSE);
            if self.signals.request.as_ref().is_some_and(EventFd::drain) {
                return self.give_back();
            }
        }
    }

    fn is_late(&self, deadline: Instant) -> bool {
        self.stops() || Instant::now() >= deadline
    }

    fn stops(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    fn equip(&self) -> Result<(), Trouble> {
        let Some(seat) = &self.seat else {
            return Ok(());
        };
        seat.equip()
            .map_err(|cause| match seat.bar.read64(PropertyOffset::CAP.0) {
                u64::MAX => Trouble::Bringup(BringupError::Gone),
                _ => Trouble::Other(format!(
                    "it cannot be given memory and interrupts again: {cause}"
                )),
            })
    }

    /// Gives the drive up. It reaches no memory any more before any Buf goes home.
    fn fail(&mut self, why: &str) {
        log::error!("{}: {why}; its namespaces fail", self.label);
        // While the system resets the function its registers are not mapped (vfio_pci_mmap_fault): a core that touched them
        // would stand still until then, with all its hosts.
        if self.word.life().mode() == Mode::Up {
            self.say(Mode::Down);
        }
        if let Some(seat) = &self.seat {
            seat.silence();
        }
        self.health.fail();
        self.say(Mode::Failed);
        self.admin = None;
        self.seat = None;
    }

    /// The system wants the device: it is to be removed, or bound to another driver.
    fn give_back(&mut self) {
        log::warn!("{}: the system asks for it back", self.label);
        self.say(Mode::Down);
        if let Err(why) = self.bring(Goal::ShutDown, None) {
            log::warn!("{}: {why}", self.label);
        }
        self.fail("it was taken away");
    }

    /// Shuts the drive down: a stop of ours is no unsafe shutdown of its.
    fn close(&mut self) {
        let deadline = Instant::now() + HEAR;
        while self.ends.iter().any(|end| !end.is_closed()) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        if self.seat.is_none() {
            return;
        }
        self.drop_closed();
        if let Err(why) = self.bring(Goal::ShutDown, None) {
            log::warn!("{}: {why}", self.label);
        }
        if let Some(device) = self.seat.as_ref().and_then(|seat| seat.device.as_ref()) {
            let _ = device.set_bus_master(false);
        }
        self.word.say(Mode::Failed);
        self.admin = None;
        self.seat = None;
    }
}
