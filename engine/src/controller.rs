//! A controller: what a host's association is to its owner core (the one with the admin queue), and
//! the part of it that the other cores see.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytemuck::Zeroable;
use ferroce_wire::log::ErrorInfoEntry;
use ferroce_wire::prop::{Cc, Csts};
use ferroce_wire::sqe::Sqe;
use ferroce_wire::status::Status;

use crate::limits;
use crate::port::Tick;
use crate::refusal::Refusal;
use crate::table::Transport;

/// What kind of controller (CNTRLTYPE).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Serves namespaces.
    Io,
    /// Serves the discovery log.
    Discovery,
}

/// The part of a controller that every core with a queue of it knows: who it is, and what cores
/// tell each other without mail.
#[derive(Debug)]
pub struct Association {
    /// Controller identifier.
    pub cntlid: u16,
    /// I/O or discovery.
    pub kind: Kind,
    /// The subsystem it belongs to; of a discovery controller, the name it was asked for by.
    pub subnqn: String,
    /// The host.
    pub hostnqn: String,
    /// The host's identifier.
    pub hostid: [u8; 16],
    /// Where the admin queue came from.
    pub peer: SocketAddr,
    /// Where it came to.
    pub local: SocketAddr,
    /// The transport.
    pub transport: Transport,
    /// CSTS.RDY, written by the owner core: I/O queues are only admitted while it is set.
    pub ready: AtomicBool,
    /// Error Information log, newest first, written by any core. A mutex does no harm: errors are
    /// not the data path, and no core waits for another longer than a copy of 64 bytes.
    pub errors: Mutex<ErrorLog>,
    /// An I/O queue was created since the controller became ready.
    io_queues: AtomicBool,
    cores: Box<[PerCore]>,
}

/// What one core counts for an association, on a cache line of its own.
#[repr(align(64))]
#[derive(Debug, Default)]
struct PerCore {
    seen: AtomicU64,
    reads: AtomicU64,
    writes: AtomicU64,
    blocks_512_read: AtomicU64,
    blocks_512_written: AtomicU64,
}

/// Sums over the cores, as the SMART log wants them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// Read commands (and Compare, Verify) completed.
    pub reads: u64,
    /// Write commands completed.
    pub writes: u64,
    /// Units of 512 bytes read.
    pub blocks_512_read: u64,
    /// Units of 512 bytes written.
    pub blocks_512_written: u64,
}

/// Error Information log.
#[derive(Debug, Default)]
pub struct ErrorLog {
    /// Errors so far: the newest entry's number (Error Count).
    pub count: u64,
    /// Of these, data that the media lost or spoiled: Media and Data Integrity Errors in SMART.
    pub media: u64,
    /// At most `limits::ERROR_LOG_ENTRIES`, newest first.
    pub entries: VecDeque<ErrorInfoEntry>,
}

impl ErrorLog {
    /// Keeps an entry, and numbers it.
    pub fn add(&mut self, mut entry: ErrorInfoEntry) {
        self.count += 1;
        entry.count = self.count.into();
        let lost = matches!(
            entry.status().code(),
            Status::UNRECOVERED_READ_ERROR
                | Status::GUARD_CHECK_ERROR
                | Status::APPLICATION_TAG_CHECK_ERROR
                | Status::REFERENCE_TAG_CHECK_ERROR
        );
        self.media += u64::from(lost);
        self.entries.truncate(limits::ERROR_LOG_ENTRIES - 1);
        self.entries.push_front(entry);
    }
}

impl Association {
    /// A new one, seen now, known to `cores` cores.
    #[expect(clippy::too_many_arguments, reason = "these are the fields, once")]
    pub fn new(
        cntlid: u16,
        kind: Kind,
        subnqn: String,
        hostnqn: String,
        hostid: [u8; 16],
        transport: Transport,
        (local, peer): (SocketAddr, SocketAddr),
        cores: usize,
        now: Tick,
    ) -> Association {
        let association = Association {
            cntlid,
            kind,
            subnqn,
            hostnqn,
            hostid,
            peer,
            local,
            transport,
            ready: AtomicBool::new(false),
            errors: Mutex::default(),
            io_queues: AtomicBool::new(false),
            cores: (0..cores).map(|_| PerCore::default()).collect(),
        };
        association.saw(0, now);
        association
    }

    /// CSTS.RDY as the other cores see it.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Release);
    }

    /// CSTS.RDY.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// An I/O queue was admitted. Number of Queues cannot be set from now on, until a reset.
    pub fn note_io_queue(&self) {
        self.io_queues.store(true, Ordering::Relaxed);
    }

    /// See [`Association::note_io_queue`].
    pub fn has_io_queues(&self) -> bool {
        self.io_queues.load(Ordering::Relaxed)
    }

    /// Notes a refused command in the Error Information log.
    pub fn note_error(&self, refusal: &Refusal, sqid: u16, sqe: &Sqe) {
        let mut entry = ErrorInfoEntry::zeroed();
        entry.sqid = sqid.into();
        entry.cid = sqe.cid;
        entry.status = (refusal.status.0 << 1).into();
        entry.pel = refusal.location.into();
        entry.lba = refusal.lba.into();
        // A Fabrics command has its type where others have the namespace.
        if sqe.fabrics_type().is_none() {
            entry.nsid = sqe.nsid;
        }
        // A poisoned lock would mean that a core panicked, which ends the process.
        self.errors
            .lock()
            .expect("no panic while it is held")
            .add(entry);
    }

    /// A command came in on this core.
    #[inline]
    pub fn saw(&self, core: usize, now: Tick) {
        self.cores[core].seen.store(now.0, Ordering::Relaxed);
    }

    /// When any core last saw a command.
    pub fn last_seen(&self) -> Tick {
        let last = self
            .cores
            .iter()
            .map(|core| core.seen.load(Ordering::Relaxed))
            .max();
        Tick(last.unwrap_or(0))
    }

    /// A read of so many bytes is done. Only the core itself writes its counters.
    #[inline]
    pub fn count_read(&self, core: usize, bytes: u64) {
        let mine = &self.cores[core];
        add(&mine.reads, 1);
        add(&mine.blocks_512_read, bytes / 512);
    }

    /// A write of so many bytes is done.
    #[inline]
    pub fn count_write(&self, core: usize, bytes: u64) {
        let mine = &self.cores[core];
        add(&mine.writes, 1);
        add(&mine.blocks_512_written, bytes / 512);
    }

    /// The sums.
    pub fn usage(&self) -> Usage {
        self.cores.iter().fold(Usage::default(), |sum, core| Usage {
            reads: sum.reads + core.reads.load(Ordering::Relaxed),
            writes: sum.writes + core.writes.load(Ordering::Relaxed),
            blocks_512_read: sum.blocks_512_read + core.blocks_512_read.load(Ordering::Relaxed),
            blocks_512_written: sum.blocks_512_written
                + core.blocks_512_written.load(Ordering::Relaxed),
        })
    }
}

/// One writer, so a load and a store do.
#[inline]
fn add(counter: &AtomicU64, more: u64) {
    counter.store(counter.load(Ordering::Relaxed) + more, Ordering::Relaxed);
}

/// The state a controller's owner core keeps.
#[derive(Debug)]
pub struct Controller {
    /// Who it is.
    pub who: std::sync::Arc<Association>,
    /// Slot of the admin queue on this core.
    pub queue: u32,
    /// Controller Configuration as the host set it.
    pub cc: Cc,
    /// Controller Status.
    pub csts: Csts,
    /// Keep Alive Timeout in ms, in whole units of KAS; 0 is none.
    pub kato_ms: u32,
    /// What Connect asked `kato_ms` to be: it is that again after a reset.
    pub kato_connect_ms: u32,
    /// When it was made, or last reset: the Timestamp counts from there until the host sets it.
    pub reset_at: Tick,
    /// Features the host can set.
    pub features: Features,
    /// Command slots of outstanding Asynchronous Event Requests, at most `limits::AERS_MAX`.
    pub aers: VecDeque<u32>,
    /// Events that wait for a request, or for their log page to be read.
    pub events: Events,
    /// Changed Namespace List (log page 04h).
    pub changed_namespaces: BTreeSet<u32>,
}

/// What Set Features keeps.
#[derive(Clone, Debug)]
pub struct Features {
    /// Asynchronous Event Configuration (FID 0Bh) as set.
    pub async_event_config: u32,
    /// I/O queues granted (FID 07h); `None` until asked for.
    pub queues: Option<u16>,
    /// Values of features that are kept and told again, and change nothing here (Arbitration, Power
    /// Management, Write Atomicity Normal), by FID.
    pub kept: BTreeMap<u8, u32>,
    /// Temperature Threshold (FID 04h) of the composite temperature in kelvin: over, under.
    pub temperature: [u16; 2],
    /// Error Recovery (FID 05h) by NSID; absent is 0.
    pub error_recovery: BTreeMap<u32, u32>,
    /// Host Behavior Support (FID 16h): ACRE, ETDAS, LBAFEE, HDISNS.
    pub behavior: [u8; 4],
    /// Timestamp (FID 0Eh): what the host said, in ms since 1970, and when it said so.
    pub timestamp: Option<(u64, Tick)>,
}

impl Default for Features {
    fn default() -> Features {
        Features {
            async_event_config: 0,
            queues: None,
            kept: BTreeMap::new(),
            // Over FFFFh and under 0 are what no temperature is (Base 5.1.25).
            temperature: [0xFFFF, 0],
            error_recovery: BTreeMap::new(),
            behavior: [0; 4],
            timestamp: None,
        }
    }
}

impl Features {
    /// Advanced Command Retry Enable: the host heeds CRD and CRDT1 to CRDT3.
    pub fn acre(&self) -> bool {
        self.behavior[0] == 1
    }
}

/// One kind of asynchronous event.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Event {
    /// Nothing to tell.
    #[default]
    Idle,
    /// To be told with the next request.
    Pending,
    /// Told; not again before its log page is read (with RAE cleared).
    Told,
}

impl Event {
    /// It happened, and the host wants to hear of it.
    pub fn raise(&mut self) {
        if *self == Event::Idle {
            *self = Event::Pending;
        }
    }
}

/// The events this target knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Events {
    /// Attached Namespace Attribute Changed; log page 04h.
    pub namespaces: Event,
    /// Discovery Log Page Change; log page 70h.
    pub discovery: Event,
}

/// A discovery controller without KATO ends after two minutes of silence (Base 3.1.3.3): nobody
/// else would notice that such a host is gone.
const DISCOVERY_SILENCE_MS: u64 = 120_000;

impl Controller {
    /// As it is right after Connect: not enabled.
    pub fn new(who: std::sync::Arc<Association>, queue: u32, kato_ms: u32) -> Controller {
        let kato_ms = round_kato(kato_ms);
        let reset_at = who.last_seen();
        Controller {
            who,
            queue,
            cc: Cc(0),
            csts: Csts(0),
            kato_ms,
            kato_connect_ms: kato_ms,
            reset_at,
            features: Features::default(),
            aers: VecDeque::new(),
            events: Events::default(),
            changed_namespaces: BTreeSet::new(),
        }
    }

    /// Enabled and ready, and no reset has begun.
    pub fn is_enabled(&self) -> bool {
        self.cc.en() && self.csts.rdy()
    }

    /// How long the host may be silent before the association ends, in ms; `None` is for ever.
    ///
    /// The Keep Alive Timer runs only while the controller is ready and not shutting down (Base
    /// 3.9). KAS says how exact the timer is, so that much is allowed on top. Before it is
    /// ready a host has [`limits::UNREADY_SILENCE_MS`].
    pub fn silence_allowed_ms(&self) -> Option<u64> {
        let leaves = self.csts.shst() != Csts::SHST_NORMAL;
        match (self.kato_ms, self.who.kind) {
            (0, Kind::Discovery) => Some(DISCOVERY_SILENCE_MS),
            (0, Kind::Io) => None,
            _ if leaves => None,
            (kato_ms, _) if !self.is_enabled() => {
                Some(limits::UNREADY_SILENCE_MS.max(u64::from(kato_ms)))
            }
            (kato_ms, _) => Some(u64::from(kato_ms) + KAS_MS as u64),
        }
    }

    /// Changes the Keep Alive Timeout, rounded up to the granularity (Base 5.1.25).
    pub fn set_kato(&mut self, kato_ms: u32) {
        self.kato_ms = round_kato(kato_ms);
    }

    /// The host's reset begins: what Set Features kept and all events are forgotten. Who calls takes
    /// the requests in `aers` and answers them. RDY stays set until the I/O queues are gone.
    pub fn forget(&mut self) {
        self.who.io_queues.store(false, Ordering::Relaxed);
        self.features = Features::default();
        self.events = Events::default();
        self.changed_namespaces.clear();
        self.kato_ms = self.kato_connect_ms;
        // Nobody tells the time here, but the command that asked for this was seen just now.
        self.reset_at = self.who.last_seen();
        // A poisoned lock would mean that a core panicked, which ends the process.
        let errors = &self.who.errors;
        let mut errors = errors.lock().expect("no panic while it is held");
        // "should clear on Controller Level Reset"; the count goes on (Base 5.1.12.1.2).
        errors.entries.clear();
    }
}

const KAS_MS: u32 = limits::KAS as u32 * 100;

/// The largest multiple of the granularity is the most there can be.
fn round_kato(kato_ms: u32) -> u32 {
    let most = u32::MAX / KAS_MS;
    kato_ms.div_ceil(KAS_MS).min(most) * KAS_MS
}
