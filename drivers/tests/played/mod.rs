//! A PCIe controller that is played: our own engine behind emulated registers, with queues and data in memory
//! that it reaches by the addresses a device would use. Doorbells and registers act at once, in the thread that
//! touches them. It checks what the driver does, and it can misbehave.
#![allow(dead_code, reason = "each test file uses a part")]

pub mod bench;
mod board;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use ferroce_buf::{Class, Home, Pool, Region, Want};
use ferroce_drivers::dma::Bus;
use ferroce_drivers::fault::{Media, MediaQueue};
use ferroce_drivers::mmio::Registers;
use ferroce_drivers::nvme::PciId;
use ferroce_engine::control::{Change, Control};
use ferroce_engine::core::{Core, CoreConfig, LANDING};
use ferroce_engine::health::Health;
use ferroce_engine::host;
use ferroce_engine::limits;
use ferroce_engine::mail::{Mailbox, ToControl, mailbox};
use ferroce_engine::port::{DriveInfo, Tick};
use ferroce_engine::table::Subsystem;
use ferroce_wire::fabrics::{CNTLID_DYNAMIC, ConnectData, Nqn};
use ferroce_wire::feature::{AsyncEvent, DsmRange, FeatureId, NumberOfQueues};
use ferroce_wire::identify::{
    Cns, Csi, IDENTIFY_LEN, IdentifyController, IdentifyNamespace, NvmIdentifyController,
};
use ferroce_wire::log::{LogId, SmartLog};
use ferroce_wire::opcode::{AdminOpcode, NvmOpcode};
use ferroce_wire::prop::{Aqa, Cap, Cc, Crto, DOORBELLS, PropertyOffset, Vs};
use ferroce_wire::sqe::{Sgl, Sqe};
use ferroce_wire::status::Status;
use ferroce_wire::{Cqe, Wire};

use board::Board;

const NQN: &str = "nqn.2026-01.test:played";
/// Bytes of each namespace.
pub const CAPACITY: u64 = 16 << 20;
/// CID of what we send the engine on our own behalf; no host of ours uses it.
const OURS: u16 = 0xFFFF;

/// How it misbehaves. The default is not at all.
#[derive(Debug, Default)]
pub struct Mischief {
    /// Doorbell stride, CAP.DSTRD.
    pub dstrd: u8,
    /// What PCI says that it is.
    pub id: PciId,
    /// Its version, if it is not the engine's. It refuses a reserved bit of then, and goes astray at a CNS of later.
    pub vs: Option<Vs>,
    /// CAP.TO and CRTO.CRWMT: how long it may take to become ready, in units of 500 ms.
    pub to: u8,
    /// I/O commands are done, but their completions are held.
    pub hold: bool,
    /// I/O commands are fetched and forgotten.
    pub swallow: bool,
    /// Abort finds what is held.
    pub aborts: bool,
    /// Aborts are not answered.
    pub holds_aborts: bool,
    /// Admin commands are not answered, until it is reset.
    pub deaf: bool,
    /// RDY comes when CSTS was read so often since it was enabled.
    pub ready_reads: u32,
    /// RDY does not come any more.
    pub never_ready: bool,
    /// A reset of the function makes it ready again, where one of the controller did not.
    pub function_reset_helps: bool,
    /// CSTS.CFS, until it is reset.
    pub fatal: bool,
    /// Everything reads as ones, and nothing is written.
    pub gone: bool,
    /// So many registers are read as ones, and nothing is written meanwhile.
    pub gone_reads: u32,
    /// The next I/O completion has this CID.
    pub lie_about_cid: Option<u16>,
    /// The next I/O completion comes twice.
    pub twice: bool,
    /// The next I/O command fails so.
    pub fail: Option<Status>,
    /// What Identify Controller says beside.
    pub controller: Option<fn(&mut IdentifyController)>,
    /// What Identify Namespace says beside.
    pub namespace: Option<fn(&mut IdentifyNamespace)>,
    /// What Identify says of the NVM Command Set's limits beside.
    pub limits: Option<fn(&mut NvmIdentifyController)>,
    /// I/O queues there are, if fewer than the engine's.
    pub queues: Option<u16>,
    /// There are interrupts, and queues ask for their own.
    pub interrupts: bool,
    /// Entries an I/O queue may have, CAP.MQES, if not as many as the engine's.
    pub entries: Option<u16>,
    /// Create I/O Submission Queue fails so.
    pub no_queue: Option<Status>,
    /// The command set of its namespaces, if it is not NVM.
    pub csi: Option<Csi>,
    /// It refuses its SMART log so.
    pub no_smart: Option<Status>,
    /// It is hot, and tells that as often as there is a request for events.
    pub hot: bool,
    /// Log pages are asked for and do not come, until `give_logs`.
    pub slow_logs: bool,
}

/// What was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Times it was enabled.
    pub enabled: u32,
    /// Times it was disabled while enabled.
    pub disabled: u32,
    /// Shutdown notifications.
    pub shutdowns: u32,
    /// Aborts.
    pub aborts: u32,
    /// Accesses to memory that is not mapped.
    pub faults: u32,
    /// I/O commands.
    pub commands: u32,
    /// Blocks that were written, or written with zeros, with FUA and without.
    pub durable_blocks: u32,
    pub volatile_blocks: u32,
    /// The most blocks of one command so far.
    pub largest: Largest,
    /// Doorbells of I/O submission queues.
    pub doorbells: u32,
    /// Resets of the function.
    pub function_resets: u32,
    /// Readings of the SMART log.
    pub smart_reads: u32,
    /// Events that were told because it is hot.
    pub hot_events: u32,
    /// I/O completion queues that there are.
    pub completion_queues: u32,
}

/// Blocks, by what was to be done with them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Largest {
    /// Read and Write.
    pub transfer: u32,
    pub write_zeroes: u32,
    pub verify: u32,
    /// Dataset Management, of its ranges together.
    pub deallocate: u32,
}

/// The controller.
pub struct Player(Mutex<State>);

impl fmt::Debug for Player {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Player")
    }
}

impl Player {
    /// A controller with a namespace for each block length.
    pub fn new(bus: Arc<Bus>, block_lens: &[u32]) -> Arc<Player> {
        Arc::new(Player(Mutex::new(State::new(bus, block_lens))))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes how it misbehaves.
    pub fn misbehave(&self, change: impl FnOnce(&mut Mischief)) {
        change(&mut self.state().mischief);
    }

    /// What PCI says that it is.
    pub fn id(&self) -> PciId {
        self.state().mischief.id
    }

    pub fn seen(&self) -> Seen {
        let state = self.state();
        let queues = state.completions.keys().filter(|qid| **qid > 0).count();
        Seen {
            completion_queues: queues as u32,
            ..state.seen
        }
    }

    /// It says this of its health from now on, and tells who asked to hear of warnings.
    pub fn feels(&self, smart: &SmartLog) {
        let mut state = self.state();
        state.health.say(smart);
        // The engine looks every now and then.
        state.now = state.now.plus_ms(1_000);
        state.settle();
        state.deliver();
    }

    /// It is not slow with log pages any more.
    pub fn give_logs(&self) {
        let mut state = self.state();
        state.mischief.slow_logs = false;
        for sqe in std::mem::take(&mut state.slow) {
            state.admin(sqe);
        }
    }

    /// Log pages that it is asked for.
    pub fn logs_asked(&self) -> usize {
        self.state().slow.len()
    }

    /// The power of its media fails: what was neither flushed nor written with FUA may be gone.
    pub fn power_off(&self) {
        for media in &self.state().media {
            media.power_off();
        }
    }

    /// Completions that are held.
    pub fn held(&self) -> usize {
        self.state().held.len()
    }

    /// Posts what is held, the last first.
    pub fn release_backwards(&self) {
        let mut state = self.state();
        state.mischief.hold = false;
        while let Some((qid, cqe)) = state.held.pop() {
            state.post(qid, cqe);
        }
    }
}

impl Registers for Player {
    fn read32(&self, at: u32) -> u32 {
        self.state().read32(at)
    }

    fn write32(&self, at: u32, value: u32) {
        self.state().write32(at, value);
    }

    fn reset(&self) -> bool {
        let mut state = self.state();
        if state.mischief.gone || state.mischief.gone_reads > 0 {
            return false;
        }
        state.seen.function_resets += 1;
        if state.mischief.function_reset_helps {
            state.mischief.never_ready = false;
        }
        state.configure(Cc(0));
        true
    }
}

struct Ring {
    addr: u64,
    entries: u32,
    /// Of a submission queue, how far it was fetched; of a completion queue, how far the host has read.
    head: u32,
    tail: u32,
    phase: bool,
    cqid: u16,
}

struct State {
    bus: Arc<Bus>,
    core: Core<Board, MediaQueue>,
    control: Control<u32, MediaQueue>,
    from_core: Mailbox<ToControl>,
    now: Tick,
    cntlid: u16,
    aqa: Aqa,
    asq: u64,
    acq: u64,
    submissions: BTreeMap<u16, Ring>,
    completions: BTreeMap<u16, Ring>,
    held: Vec<(u16, Cqe)>,
    /// Log pages that were asked for.
    slow: Vec<Sqe>,
    block_lens: Vec<u32>,
    media: Vec<Arc<Media>>,
    health: Arc<Health>,
    mischief: Mischief,
    seen: Seen,
    unready_reads: u32,
}

impl State {
    fn new(bus: Arc<Bus>, block_lens: &[u32]) -> State {
        let (to_core, mail) = mailbox(256, Waker::noop().clone());
        let (to_control, from_core) = mailbox(256, Waker::noop().clone());
        let mut control = Control::new(vec![to_core]);
        let config = CoreConfig {
            index: 0,
            cores: 1,
            commands: 4096,
            pool: pool(Home::CORE, &[(4096, 64), (limits::CHUNK_LEN as usize, 64)]),
            landing: pool(LANDING, &[(limits::IN_CAPSULE as usize, 64)]),
            facts: Arc::default(),
            counters: Arc::default(),
        };
        let board = Board {
            bus: bus.clone(),
            inbox: VecDeque::new(),
            homes: VecDeque::new(),
            sqe: None,
            in_capsule: Vec::new(),
            commands: BTreeMap::new(),
            answers: VecDeque::new(),
            lives: BTreeMap::new(),
            faults: 0,
            controller: None,
            namespace: None,
            limits: None,
            csi: None,
        };
        let core = Core::new(config, vec![board], mail, to_control);
        let health = Arc::default();
        let media = plan(&mut control, block_lens, &health);
        let mut state = State {
            bus,
            core,
            control,
            from_core,
            now: Tick(1),
            cntlid: 0,
            aqa: Aqa::default(),
            asq: 0,
            acq: 0,
            submissions: BTreeMap::new(),
            completions: BTreeMap::new(),
            held: Vec::new(),
            slow: Vec::new(),
            block_lens: block_lens.to_vec(),
            media,
            health,
            mischief: Mischief::default(),
            seen: Seen::default(),
            unready_reads: 0,
        };
        state.settle();
        let connected = state.connect(0, 32, CNTLID_DYNAMIC);
        assert!(connected.status().is_success(), "{connected:?}");
        state.cntlid = connected.dw0.get() as u16;
        state
    }

    fn board(&mut self) -> &mut Board {
        &mut self.core.fabrics[0]
    }

    fn settle(&mut self) {
        loop {
            self.now = self.now.plus_ns(1000);
            let now = self.now;
            let busy = self.core.turn(now, 0, || now).busy;
            while let Some(mail) = self.from_core.poll() {
                self.control.on_mail(mail, now);
            }
            self.control.on_time(now);
            if !busy && !self.core.has_mail() {
                return;
            }
        }
    }

    /// A queue of the host is a connection to the engine.
    fn connect(&mut self, qid: u16, entries: u32, cntlid: u16) -> Cqe {
        let nqn = Nqn::new(NQN).expect("it is one");
        let data = ConnectData::new([1; 16], cntlid, &nqn, &nqn);
        let sqe = host::connect(qid, entries, 0, 0);
        let sqe = sqe.with_sgl(Sgl::in_capsule(0, ConnectData::LEN as u32));
        self.board().open(qid);
        self.ask(qid, sqe, data.as_bytes().to_vec())
    }

    /// A command of ours, answered at once.
    fn ask(&mut self, qid: u16, mut sqe: Sqe, data: Vec<u8>) -> Cqe {
        sqe.cid.set(OURS);
        self.board().send(qid, sqe, data);
        self.settle();
        let answers = &mut self.board().answers;
        let at = answers
            .iter()
            .position(|(to, cqe)| *to == qid && cqe.cid.get() == OURS);
        answers
            .remove(at.expect("the engine answers"))
            .expect("it is there")
            .1
    }

    fn property(&mut self, at: PropertyOffset) -> u64 {
        let cqe = self.ask(0, host::property_get(at), Vec::new());
        assert!(cqe.status().is_success(), "{}", cqe.status());
        cqe.result64()
    }

    fn read32(&mut self, at: u32) -> u32 {
        if self.mischief.gone_reads > 0 {
            self.mischief.gone_reads -= 1;
            return u32::MAX;
        }
        if self.mischief.gone {
            return u32::MAX;
        }
        let half = |value: u64, base: PropertyOffset| (value >> ((at - base.0) * 8)) as u32;
        match at {
            0x00 | 0x04 => {
                let cap = Cap(self.property(PropertyOffset::CAP));
                let cap = cap
                    .with_dstrd(self.mischief.dstrd)
                    .with_to(self.mischief.to);
                let cap = match self.mischief.vs {
                    Some(_) => cap.with_css(Cap::CSS_NVM),
                    None => cap,
                };
                let cap = match self.mischief.entries {
                    Some(entries) => cap.with_mqes_z(entries - 1),
                    None => cap,
                };
                half(cap.0, PropertyOffset::CAP)
            }
            0x1C => {
                let mut csts = self.property(PropertyOffset::CSTS) as u32;
                let early = self.unready_reads > 0;
                self.unready_reads = self.unready_reads.saturating_sub(1);
                csts &= !u32::from(self.mischief.never_ready || early);
                csts | u32::from(self.mischief.fatal) << 1
            }
            0x68 => Crto::default().with_crwmt(self.mischief.to.into()).0,
            0x08 if self.mischief.vs.is_some() => self.mischief.vs.expect("just seen").0,
            0x08 | 0x14 => self.property(PropertyOffset(at)) as u32,
            0x24 => self.aqa.0,
            _ => panic!("the driver read register {at:#x}"),
        }
    }

    fn write32(&mut self, at: u32, value: u32) {
        if self.mischief.gone || self.mischief.gone_reads > 0 {
            return;
        }
        let set = |register: &mut u64, high: bool| {
            let shift = u32::from(high) * 32;
            *register = *register & !(0xFFFF_FFFF << shift) | u64::from(value) << shift;
        };
        match at {
            0x14 => self.configure(Cc(value)),
            0x24 => self.aqa = Aqa(value),
            0x28 | 0x2C => set(&mut self.asq, at == 0x2C),
            0x30 | 0x34 => set(&mut self.acq, at == 0x34),
            DOORBELLS.. => self.doorbell(at - DOORBELLS, value),
            _ => panic!("the driver wrote register {at:#x}"),
        }
    }

    fn configure(&mut self, cc: Cc) {
        let before = Cc(self.property(PropertyOffset::CC) as u32);
        if before.en() && !cc.en() {
            self.seen.disabled += 1;
            (self.mischief.deaf, self.mischief.fatal) = (false, false);
            self.submissions.clear();
            self.completions.clear();
            self.held.clear();
            self.slow.clear();
        }
        let cqe = self.ask(
            0,
            host::property_set(PropertyOffset::CC, cc.0.into()),
            Vec::new(),
        );
        assert!(cqe.status().is_success(), "{}", cqe.status());
        self.board().answers.clear();
        self.seen.shutdowns += u32::from(cc.shn() == Cc::SHN_NORMAL);
        if cc.en() && !before.en() {
            self.seen.enabled += 1;
            self.unready_reads = self.mischief.ready_reads;
            let ring = |addr, entries_z: u16| Ring {
                addr,
                entries: u32::from(entries_z) + 1,
                head: 0,
                tail: 0,
                phase: true,
                cqid: 0,
            };
            self.submissions
                .insert(0, ring(self.asq, self.aqa.asqs_z()));
            self.completions
                .insert(0, ring(self.acq, self.aqa.acqs_z()));
        }
    }

    fn doorbell(&mut self, offset: u32, value: u32) {
        let stride = 4 << self.mischief.dstrd;
        assert!(offset.is_multiple_of(stride), "a doorbell between two");
        let (qid, is_head) = ((offset / stride / 2) as u16, offset / stride % 2 == 1);
        let rings = match is_head {
            true => &mut self.completions,
            false => &mut self.submissions,
        };
        // After a reset that it has not heard of, a queue may ring once more.
        let Some(ring) = rings.get_mut(&qid) else {
            return;
        };
        assert!(value < ring.entries, "a doorbell beyond the queue's end");
        if is_head {
            let read = (value + ring.entries - ring.head) % ring.entries;
            let there = (ring.tail + ring.entries - ring.head) % ring.entries;
            assert!(read <= there, "the host read what was not posted");
            ring.head = value;
            return;
        }
        self.seen.doorbells += u32::from(qid > 0);
        while let Some(ring) = self.submissions.get_mut(&qid)
            && ring.head != value
        {
            let mut sqe = Sqe::default();
            let at = ring.addr + u64::from(ring.head) * 64;
            ring.head = (ring.head + 1) % ring.entries;
            assert!(self.bus.read(at, sqe.as_bytes_mut()), "the queue is mapped");
            if qid == 0 {
                self.admin(sqe);
            } else {
                self.io(qid, sqe);
            }
        }
    }

    fn admin(&mut self, sqe: Sqe) {
        let cid = sqe.cid.get();
        if self.mischief.deaf {
            return;
        }
        let answer = match sqe.admin_opcode() {
            AdminOpcode::CREATE_IO_CQ => {
                let own = (self.mischief.interrupts).then(|| sqe.queue_qid());
                assert!(sqe.queue_contiguous() && sqe.queue_vector() == own);
                let ring = ring_of(&sqe);
                self.completions.insert(sqe.queue_qid(), ring);
                Cqe::new(cid, Status::SUCCESS)
            }
            AdminOpcode::CREATE_IO_SQ => {
                assert!(sqe.queue_contiguous() && self.completions.contains_key(&sqe.queue_cqid()));
                if let Some(status) = self.mischief.no_queue {
                    return self.post(0, Cqe::new(cid, status));
                }
                let connected = self.connect(sqe.queue_qid(), sqe.queue_entries(), self.cntlid);
                if connected.status().is_success() {
                    let ring = ring_of(&sqe);
                    self.submissions.insert(sqe.queue_qid(), ring);
                }
                Cqe::new(cid, connected.status())
            }
            AdminOpcode::DELETE_IO_SQ => {
                let known = self.submissions.remove(&sqe.queue_qid());
                assert!(known.is_some(), "the queue is deleted once");
                self.board().close_of(sqe.queue_qid());
                self.settle();
                Cqe::new(cid, Status::SUCCESS)
            }
            AdminOpcode::DELETE_IO_CQ => {
                let used = self
                    .submissions
                    .values()
                    .any(|ring| ring.cqid == sqe.queue_qid());
                assert!(!used && self.completions.remove(&sqe.queue_qid()).is_some());
                Cqe::new(cid, Status::SUCCESS)
            }
            AdminOpcode::ABORT => {
                self.seen.aborts += 1;
                if self.mischief.holds_aborts {
                    return;
                }
                let (qid, which) = (sqe.abort_sqid(), sqe.abort_cid());
                let known = |(to, cqe): &(u16, Cqe)| *to == qid && cqe.cid.get() == which;
                let found = self.held.iter().position(known);
                match found.filter(|_| self.mischief.aborts) {
                    Some(at) => {
                        self.held.remove(at);
                        self.post(qid, Cqe::new(which, Status::ABORT_REQUESTED));
                        Cqe::new(cid, Status::SUCCESS)
                    }
                    // Bit 0 of dword 0: it was not aborted (Base 5.1.1).
                    None => Cqe::new(cid, Status::SUCCESS).with_dw0(1),
                }
            }
            AdminOpcode::ASYNC_EVENT_REQUEST if self.mischief.hot => {
                self.seen.hot_events += 1;
                let event = AsyncEvent {
                    event_type: AsyncEvent::TYPE_SMART,
                    info: AsyncEvent::SMART_TEMPERATURE,
                    lid: LogId::SMART,
                };
                Cqe::new(cid, Status::SUCCESS).with_dw0(event.dw0())
            }
            AdminOpcode::IDENTIFY
                if self.mischief.vs.is_some_and(|vs| {
                    sqe.cns() == Cns::ACTIVE_NAMESPACES && vs.0 < Vs::V1_1.0
                        || sqe.cns() == Cns::NS_DESCRIPTORS && vs.0 < Vs::V1_3.0
                }) =>
            {
                return;
            }
            AdminOpcode::GET_LOG_PAGE
                if sqe.rae() && self.mischief.vs.is_some_and(|vs| vs.0 < Vs::V1_3.0) =>
            {
                Cqe::new(cid, Status::INVALID_FIELD)
            }
            AdminOpcode::GET_LOG_PAGE if self.mischief.slow_logs => {
                self.slow.push(sqe);
                return;
            }
            AdminOpcode::GET_LOG_PAGE
                if sqe.lid() == LogId::SMART && self.mischief.no_smart.is_some() =>
            {
                self.seen.smart_reads += 1;
                Cqe::new(cid, self.mischief.no_smart.expect("just seen"))
            }
            AdminOpcode::SET_FEATURES
                if sqe.fid() == FeatureId::NUMBER_OF_QUEUES && self.mischief.queues.is_some() =>
            {
                let queues = self.mischief.queues.expect("just seen");
                Cqe::new(cid, Status::SUCCESS).with_dw0(NumberOfQueues::new(queues.into()).0)
            }
            opcode => {
                let smart = opcode == AdminOpcode::GET_LOG_PAGE && sqe.lid() == LogId::SMART;
                self.seen.smart_reads += u32::from(smart);
                let len = match opcode {
                    AdminOpcode::IDENTIFY => IDENTIFY_LEN as u32,
                    AdminOpcode::GET_LOG_PAGE => sqe.log_len() as u32,
                    _ => 0,
                };
                let (controller, namespace) = (self.mischief.controller, self.mischief.namespace);
                let (limits, csi) = (self.mischief.limits, self.mischief.csi);
                let board = self.board();
                (board.controller, board.namespace) = (controller, namespace);
                (board.limits, board.csi) = (limits, csi);
                board.give(0, sqe, len);
                self.settle();
                self.deliver();
                return;
            }
        };
        self.post(0, answer);
    }

    fn io(&mut self, qid: u16, sqe: Sqe) {
        self.seen.commands += 1;
        if matches!(sqe.nvm_opcode(), NvmOpcode::WRITE | NvmOpcode::WRITE_ZEROES) {
            match sqe.fua() {
                true => self.seen.durable_blocks += sqe.blocks(),
                false => self.seen.volatile_blocks += sqe.blocks(),
            }
        }
        if self.mischief.swallow {
            return;
        }
        if let Some(status) = self.mischief.fail.take() {
            self.post(qid, Cqe::new(sqe.cid.get(), status));
            return;
        }
        self.measure(&sqe);
        let block_len = self.block_lens[sqe.nsid.get() as usize - 1];
        let len = match sqe.nvm_opcode() {
            NvmOpcode::READ | NvmOpcode::WRITE => sqe.blocks() * block_len,
            NvmOpcode::DSM => sqe.dsm_ranges() as u32 * 16,
            _ => 0,
        };
        self.board().give(qid, sqe, len);
        self.settle();
        self.deliver();
    }

    /// How large is it?
    fn measure(&mut self, sqe: &Sqe) {
        let largest = &mut self.seen.largest;
        let (most, blocks) = match sqe.nvm_opcode() {
            NvmOpcode::READ | NvmOpcode::WRITE => (&mut largest.transfer, sqe.blocks()),
            NvmOpcode::WRITE_ZEROES => (&mut largest.write_zeroes, sqe.blocks()),
            NvmOpcode::VERIFY => (&mut largest.verify, sqe.blocks()),
            NvmOpcode::DSM => {
                assert_eq!(sqe.dsm_ranges(), 1);
                let mut range = DsmRange::default();
                assert!(self.bus.read(sqe.prp().prp1.get(), range.as_bytes_mut()));
                (&mut largest.deallocate, range.nlb.get())
            }
            _ => return,
        };
        *most = blocks.max(*most);
    }

    /// What the engine answered goes to the rings.
    fn deliver(&mut self) {
        self.seen.faults = self.board().faults;
        while let Some((qid, mut cqe)) = self.board().answers.pop_front() {
            if qid == 0 {
                self.post(0, cqe);
            } else if self.mischief.hold {
                self.held.push((qid, cqe));
            } else {
                if let Some(cid) = self.mischief.lie_about_cid.take() {
                    cqe.cid.set(cid);
                }
                if std::mem::take(&mut self.mischief.twice) {
                    self.post(qid, cqe);
                }
                self.post(qid, cqe);
            }
        }
    }

    /// Writes a completion, the phase last.
    fn post(&mut self, qid: u16, mut cqe: Cqe) {
        let Some(ring) = self.completions.get_mut(&qid) else {
            return;
        };
        cqe.sqid.set(qid);
        cqe.set_phase(ring.phase);
        let at = ring.addr + u64::from(ring.tail) * 16;
        ring.tail += 1;
        if ring.tail == ring.entries {
            ring.tail = 0;
            ring.phase = !ring.phase;
        }
        assert!(ring.tail != ring.head, "a completion queue never overflows");
        let (first, last) = cqe.as_bytes().split_at(8);
        assert!(
            self.bus.write(at, first) && self.bus.write(at + 8, last),
            "the queue is mapped"
        );
    }
}

impl Drop for State {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        // The host goes; the engine ends what waits, such as event requests, and nothing is left.
        let queues: Vec<u16> = self.board().lives.keys().copied().collect();
        for qid in queues {
            self.board().close_of(qid);
        }
        self.settle();
        assert_eq!(
            self.core.outstanding(),
            (0, 0),
            "no command and no Buf is left"
        );
    }
}

fn ring_of(sqe: &Sqe) -> Ring {
    Ring {
        addr: sqe.prp().prp1.get(),
        entries: sqe.queue_entries(),
        head: 0,
        tail: 0,
        phase: true,
        cqid: sqe.queue_cqid(),
    }
}

fn plan(
    control: &mut Control<u32, MediaQueue>,
    block_lens: &[u32],
    health: &Arc<Health>,
) -> Vec<Arc<Media>> {
    let mut change = |change| {
        control.change(change).expect("it fits what is there");
    };
    change(Change::AddSubsystem(Subsystem {
        nqn: NQN.into(),
        serial: "PLAYED".into(),
        model: "Player".into(),
        cntlids: (1, 100),
        allow: None,
        namespaces: Default::default(),
    }));
    let mut drives = Vec::new();
    for (index, block_len) in block_lens.iter().enumerate() {
        let id = control.next_drive();
        // A drive's names stay the same.
        let name = [index as u8 + 1; 16];
        let info = DriveInfo {
            label: "media".into(),
            block_len: *block_len,
            blocks: CAPACITY / u64::from(*block_len),
            uuid: name,
            nguid: name,
            read_only: false,
            volatile_cache: true,
            brings_memory: false,
            preferred_blocks: 1,
            deallocates: true,
            max_deallocate: 1 << 20,
            max_transfer: limits::CHUNK_LEN,
            max_bufs: 1,
            health: Some(health.clone()),
        };
        let media = Media::new(info, index as u64);
        let add = Change::AddNamespace {
            nqn: NQN.into(),
            nsid: None,
            info: media.info(),
            read_only: false,
            drive: id,
            queues: vec![media.open()],
        };
        control.change(add).expect("it fits what is there");
        drives.push(media);
    }
    drives
}

/// Buffers of one core.
pub fn pool(home: Home, classes: &[(usize, usize)]) -> Pool {
    let classes: Vec<Class> = classes
        .iter()
        .map(|&(size, count)| Class { size, count })
        .collect();
    let region = Region::map(Pool::bytes(&classes), Want::default()).expect("memory");
    Pool::new(Arc::new(region), 0, home, &classes)
}
