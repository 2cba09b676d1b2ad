//! A controller: what a host's association is to its owner core (the one with the admin queue), and
//! the part of it that the other cores see.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};

use bytemuck::Zeroable;
use ferroce_wire::feature::AsyncEventConfig;
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
    /// The controller serves, written by the owner core: I/O queues are only admitted while it is set.
    pub ready: AtomicBool,
    /// Error Information log, newest first, written by any core. A mutex does no harm: errors are
    /// not the data path, and no core waits for another longer than a copy of 64 bytes.
    pub errors: Mutex<ErrorLog>,
    /// An I/O queue was created since the controller became ready.
    io_queues: AtomicBool,
    /// I/O queues granted by Number of Queues; 0 until that was asked for.
    queues_granted: AtomicU16,
    /// The host heeds Command Retry Delays (Host Behavior Support, ACRE).
    acre: AtomicBool,
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
    /// Read and Compare commands completed.
    pub reads: u64,
    /// Write commands completed.
    pub writes: u64,
    /// Units of 512 bytes read, by Read, Compare and Verify.
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
            queues_granted: AtomicU16::new(0),
            acre: AtomicBool::new(false),
            cores: (0..cores).map(|_| PerCore::default()).collect(),
        };
        association.saw(0, now);
        association
    }

    /// [`Controller::serves`] as the other cores see it.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Release);
    }

    /// See [`Controller::serves`].
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// An I/O queue was admitted. Number of Queues cannot be set from now on, until a reset.
    pub fn note_io_queue(&self) {
        self.io_queues.store(true, Ordering::Relaxed);
    }

    /// The I/O queues that there were are gone.
    pub fn forget_io_queues(&self) {
        self.io_queues.store(false, Ordering::Relaxed);
    }

    /// See [`Association::note_io_queue`].
    pub fn has_io_queues(&self) -> bool {
        self.io_queues.load(Ordering::Relaxed)
    }

    /// Number of Queues granted so many I/O queues: identifiers beyond are invalid.
    pub fn grant_queues(&self, queues: u16) {
        self.queues_granted.store(queues, Ordering::Relaxed);
    }

    /// The largest identifier of an I/O queue. Until the host asks for a number it may have all.
    pub fn qid_max(&self) -> u16 {
        match self.queues_granted.load(Ordering::Relaxed) {
            0 => limits::IO_QUEUES_MAX,
            granted => granted,
        }
    }

    /// The host said whether it heeds Command Retry Delays.
    pub fn set_acre(&self, acre: bool) {
        self.acre.store(acre, Ordering::Relaxed);
    }

    /// A status as this host is told it: where trying again may help, and the host asked to hear
    /// when, with a Command Retry Delay (Base 4.2.3; the delays are CRDT1 to CRDT3 of Identify).
    pub fn with_delay(&self, status: Status) -> Status {
        let delay = match status {
            // Gone in a moment: memory, a drive's reset, a change of the table.
            Status::COMMAND_INTERRUPTED | Status::INTERNAL_ERROR => 1,
            // A drive is gone, and comes back only when somebody does something.
            Status::NAMESPACE_NOT_READY => 3,
            // A digest that does not match says nothing against trying at once.
            _ => 0,
        };
        match self.acre.load(Ordering::Relaxed) {
            true => status.with_crd(delay),
            // Only who heeds delays may be told this one (Base 4.2.3, Command Interrupted).
            false if status == Status::COMMAND_INTERRUPTED => Status::NAMESPACE_NOT_READY,
            false => status,
        }
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

    /// So many bytes were read by a command that is no host read: Verify is a "SMART Data Units Read
    /// Command", but no "SMART Host Read Command" (NVM 1.4.2).
    #[inline]
    pub fn count_units_read(&self, core: usize, bytes: u64) {
        add(&self.cores[core].blocks_512_read, bytes / 512);
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
    /// How long the host has been silent.
    pub silence: Silence,
}

/// How long a host has been silent while its core could hear it. What the core could not hear counts
/// neither for the host nor for ever.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silence {
    /// When it was last heard.
    heard: Tick,
    /// Since then, the time in which commands were left unread for want of room, in ns.
    unread_ns: u64,
    /// Since then, the longest time in which the system did not let the core run, in ns. The turn
    /// after it reads what came meanwhile, so two such times do not add up.
    stalled_ns: u64,
}

impl Silence {
    /// Looks at it again. Since the last look commands were left unread for `unread_ns`, and the core
    /// did not run for `stalled_ns`. Unread commands excuse no more than `allowed_ns`: by then a host
    /// has given up waiting for the answer to its Keep Alive.
    pub fn look(
        &mut self,
        heard: Tick,
        now: Tick,
        unread_ns: u64,
        stalled_ns: u64,
        allowed_ns: u64,
    ) -> u64 {
        if heard != self.heard {
            *self = Silence {
                heard,
                ..Silence::default()
            };
        }
        self.unread_ns = (self.unread_ns + unread_ns).min(allowed_ns);
        self.stalled_ns = self.stalled_ns.max(stalled_ns);
        let excused = self.unread_ns + self.stalled_ns;
        now.since(heard).saturating_sub(excused)
    }
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
    /// What a controller has after Connect, and after a reset. A host that named a KATO wants a persistent
    /// connection to a discovery controller, and to hear of changes there without another word (Base 3.1.3.3.1).
    pub fn initial(kind: Kind, kato_connect_ms: u32) -> Features {
        let persistent = kind == Kind::Discovery && kato_connect_ms != 0;
        Features {
            async_event_config: if persistent {
                AsyncEventConfig::DISCOVERY_LOG
            } else {
                0
            },
            ..Features::default()
        }
    }

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
    /// SMART / Health status; log page 02h.
    pub health: HealthEvents,
}

/// Events of type SMART / Health status: one for each critical warning that the host wants to hear of, when it comes up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HealthEvents {
    /// Critical Warning as it was last looked at.
    pub warnings: u8,
    /// Of these, what was told. What goes and comes again is told again.
    pub told: u8,
    /// One was told, and the log was not read since (with RAE cleared): there is none of this type till then (Base 5.1.2).
    pub masked: bool,
}

/// A discovery controller without KATO ends after two minutes of silence (Base 3.1.3.3), and so does
/// a controller that is not enabled or was shut down: its Keep Alive Timer does not run, and nobody else
/// would notice that such a host is gone.
const IDLE_SILENCE_MS: u64 = 120_000;

impl Controller {
    /// As it is right after Connect: not enabled.
    pub fn new(who: std::sync::Arc<Association>, queue: u32, kato_ms: u32) -> Controller {
        let kato_ms = round_kato(kato_ms);
        let reset_at = who.last_seen();
        let features = Features::initial(who.kind, kato_ms);
        Controller {
            who,
            queue,
            cc: Cc(0),
            csts: Csts(0),
            kato_ms,
            kato_connect_ms: kato_ms,
            reset_at,
            features,
            aers: VecDeque::new(),
            events: Events::default(),
            changed_namespaces: BTreeSet::new(),
            silence: Silence::default(),
        }
    }

    /// Enabled and ready, and neither a reset nor a shutdown has begun: other than Fabrics commands are executed.
    pub fn serves(&self) -> bool {
        self.is_enabled() && self.csts.shst() == Csts::SHST_NORMAL
    }

    /// Enabled and ready, and no reset has begun.
    pub fn is_enabled(&self) -> bool {
        self.cc.en() && self.csts.rdy()
    }

    /// How long the host may be silent before the association ends, in ms; `None` is for ever.
    ///
    /// The Keep Alive Timer runs only while the controller is ready and not shutting down (Base
    /// 3.9). KAS says how exact the timer is, so that much is allowed on top. A controller that serves
    /// nobody yet, or any more, is kept for a host that may still come back to it, but not for ever.
    pub fn silence_allowed_ms(&self) -> Option<u64> {
        let runs = self.serves();
        let kato_ms = u64::from(self.kato_ms) + u64::from(KAS_MS);
        match (self.kato_ms, self.who.kind) {
            _ if !runs => Some(kato_ms.max(IDLE_SILENCE_MS)),
            (0, Kind::Discovery) => Some(IDLE_SILENCE_MS),
            (0, Kind::Io) => None,
            _ => Some(kato_ms),
        }
    }

    /// The host wants to hear of critical warnings (Asynchronous Event Configuration).
    pub fn wants_health(&self) -> bool {
        self.features.async_event_config & AsyncEventConfig::SMART != 0
    }

    /// Changes the Keep Alive Timeout, rounded up to the granularity (Base 5.1.25).
    pub fn set_kato(&mut self, kato_ms: u32) {
        self.kato_ms = round_kato(kato_ms);
    }

    /// The host's reset begins: what Set Features kept and all events are forgotten. Who calls takes
    /// the requests in `aers` and answers them. RDY stays set until the I/O queues are gone.
    pub fn forget(&mut self) {
        self.who.grant_queues(0);
        self.who.set_acre(false);
        self.features = Features::initial(self.who.kind, self.kato_connect_ms);
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

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const ALLOWED: u64 = 6 * SECOND;

    #[test]
    fn silence_is_what_could_be_heard() {
        let mut silence = Silence::default();
        let mut look = |heard, now, unread, stalled| {
            let (heard, now) = (Tick(heard * SECOND), Tick(now * SECOND));
            silence.look(heard, now, unread * SECOND, stalled * SECOND, ALLOWED) / SECOND
        };
        assert_eq!(look(1, 3, 0, 0), 2);
        // Commands were there and not read, for two seconds.
        assert_eq!(look(1, 6, 2, 0), 3);
        // The system held the core, three times. After each it read what had come.
        assert_eq!(look(1, 11, 0, 5), 3);
        assert_eq!(look(1, 16, 0, 5), 8);
        assert_eq!(look(1, 20, 0, 4), 12);
        // Something was heard, and nothing of before counts.
        assert_eq!(look(19, 21, 0, 0), 2);
        // Want of room excuses once as much as is allowed, and no more.
        assert_eq!(look(19, 31, 10, 0), 6);
        assert_eq!(look(19, 41, 10, 0), 16);
    }
}
