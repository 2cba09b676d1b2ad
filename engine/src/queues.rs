//! All queues of a core and their commands: how they come, wait, move on and end.
//!
//! The data path itself is in `io.rs`, Fabrics commands are in `fabrics.rs`; both are further methods
//! of [`Queues`]. Commands end in one place, [`Queues::finish`], and queues in another,
//! [`Queues::end_queue`] (`queues/ends.rs`).

mod abort;
mod ends;
mod send;
mod tables;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use ferroce_buf::{BufList, Pool};
use ferroce_wire::opcode::{AdminOpcode, FabricsType};
use ferroce_wire::sqe::Sqe;
use ferroce_wire::status::Status;

use crate::admin::{self, Admin, Answer, Facts};
use crate::command::{NONE, Slab};
use crate::controller::Controller;
use crate::counters::Counters;
use crate::drives::Drives;
use crate::io::{Source, source};
use crate::limits;
use crate::line::{Lane, Line, Served};
use crate::mail::{Post, ToControl};
use crate::memory;
use crate::phases::Clerk;
use crate::plant::{self, Bug};
use crate::port::{Backend, Close, ConnId, Fetch, InCapsule, Room, Tick};
use crate::queue::{Queue, QueueRef, State};
use crate::refusal::Refusal;
use crate::shares::Shares;
use crate::table::{Table, Transport};

/// How often controllers and queues are looked at for what time has ended, in ms.
const CHECK_MS: u64 = 100;

/// A core that rests looks once in so many ms whether its hosts are silent, and how the drives are for each that wants to know:
/// of so long a rest nobody can tell how much of it the system kept the core from running.
const REST_MS: u64 = 1000;

/// Buffers of a core that wait for the drive only, never for a peer: in-capsule data lands here. They
/// always come back, so hosts whose memory demands are not met cannot hold up commands that need
/// none. See [`limits::IN_CAPSULE`].
pub const LANDING: ferroce_buf::Home = ferroce_buf::Home(u16::MAX);

/// What a core is made of.
#[derive(Debug)]
pub struct CoreConfig {
    /// Its index, from 0.
    pub index: usize,
    /// How many cores there are.
    pub cores: usize,
    /// Commands in flight at most, over all its queues.
    pub commands: usize,
    /// Buffers for data to and from hosts; home [`ferroce_buf::Home::CORE`].
    pub pool: Pool,
    /// Buffers of [`limits::IN_CAPSULE`] bytes; home [`LANDING`].
    pub landing: Pool,
    /// What the node tells of itself.
    pub facts: Arc<Facts>,
    /// What this core counts.
    pub counters: Arc<Counters>,
}

/// Everything of a core that is neither fabric nor drive.
#[derive(Debug)]
pub struct Queues {
    pub(crate) config: CoreConfig,
    pub(crate) table: Arc<Table>,
    pub(crate) slab: Slab,
    pub(crate) queues: Vec<Queue>,
    unused: Vec<u32>,
    /// By fabric, then by connection slot: the queue.
    by_conn: Vec<Vec<u32>>,
    pub(crate) controllers: Vec<Option<Controller>>,
    pub(crate) line: Line,
    /// Queues that had a large read answered.
    let_on: Vec<u32>,
    outboxes: Vec<VecDeque<Outgoing>>,
    /// Data of commands that is to be fetched, by fabric.
    fetches: Vec<VecDeque<(ConnId, Fetch)>>,
    mail: VecDeque<ToControl>,
    /// Commands begun under tables of even and odd epoch.
    pub(crate) in_flight: [u32; 2],
    /// The control thread was not yet told that commands of the earlier table are gone; since when.
    draining: Option<Tick>,
    /// The last table that hosts were told of, if it is not the present one.
    untold: Option<Arc<Table>>,
    /// Emptied lists with room for many Bufs, to be used again.
    pub(crate) lists: Vec<BufList>,
    pub(crate) shares: Shares,
    /// Slots promised to connected queues, as their depths say; and those that are out to connections
    /// which were promised none. Together never more than there are.
    promised: usize,
    pub(crate) strangers: usize,
    /// Bytes of a command's data at most.
    pub(crate) transfer_max: u32,
    /// When the turn began.
    pub(crate) now: Tick,
    /// When the turn's present stage began.
    pub(crate) stage: Tick,
    pub(crate) clerk: Clerk,
    pub(crate) wall_ms: u64,
    /// When controllers and queues were last looked at for what time has ended.
    checked: Tick,
    /// When they have to be looked at again, if nothing happens before.
    look_by: Option<Tick>,
    /// A core that rests need not run before.
    rests_until: Tick,
    /// The controller whose drives were looked at last.
    felt: usize,
    /// When commands that may have come were last left unread for want of room.
    unread: Tick,
    /// See [`Queues::room`]: room for so many commands with in-capsule data is little.
    landings_low: usize,
    /// When the system last let this core wait for long.
    stalled: Tick,
    stopping: bool,
}

/// What waits for its fabric.
#[derive(Debug)]
enum Outgoing {
    /// A command has data or its answer to send.
    Send { slot: u32, generation: u32 },
    /// A connection is to end.
    Close { conn: ConnId, how: Close },
}

impl Queues {
    pub(crate) fn new(config: CoreConfig, fabrics: usize, table: Arc<Table>) -> Queues {
        let counters = &config.counters;
        counters.pool_bytes.set(config.pool.bytes_all() as u64);
        counters
            .landing_bytes
            .set(config.landing.bytes_all() as u64);
        Queues {
            slab: Slab::new(config.commands + limits::STRANGERS),
            queues: Vec::new(),
            unused: Vec::new(),
            by_conn: vec![Vec::new(); fabrics],
            controllers: Vec::new(),
            line: Line::default(),
            let_on: Vec::new(),
            outboxes: (0..fabrics).map(|_| VecDeque::new()).collect(),
            fetches: (0..fabrics).map(|_| VecDeque::new()).collect(),
            mail: VecDeque::new(),
            in_flight: [0, 0],
            draining: None,
            untold: None,
            lists: (0..config.commands.min(limits::LISTS))
                .map(|_| memory::list_of_a_part())
                .collect(),
            shares: Shares::new(&config.pool),
            promised: 0,
            strangers: 0,
            transfer_max: config.facts.transfer_max(),
            now: Tick(0),
            stage: Tick(0),
            clerk: Clerk::new(&config.counters.phases, config.commands + limits::STRANGERS),
            wall_ms: 0,
            felt: 0,
            checked: Tick(0),
            look_by: None,
            rests_until: Tick(0),
            unread: Tick(0),
            landings_low: config.landing.free(1) / 2 / 4,
            stalled: Tick(0),
            stopping: false,
            config,
            table,
        }
    }

    // Connections.

    pub(crate) fn on_opened(
        &mut self,
        fabric: usize,
        conn: ConnId,
        local: SocketAddr,
        peer: SocketAddr,
        transport: Transport,
    ) {
        let slot = self.unused.pop().unwrap_or_else(|| {
            self.queues.push(Queue::unused(0));
            self.queues.len() as u32 - 1
        });
        self.clerk.queue_opened(slot);
        self.shares.open(slot);
        let queue = &mut self.queues[slot as usize];
        let life = queue.life;
        *queue = Queue {
            state: State::Fresh,
            fabric,
            conn,
            local,
            peer,
            transport,
            deadline: self.now.plus_ms(limits::CONNECT_MS),
            ..Queue::unused(life)
        };
        let by_conn = &mut self.by_conn[fabric];
        if by_conn.len() <= conn.slot as usize {
            by_conn.resize(conn.slot as usize + 1, NONE);
        }
        by_conn[conn.slot as usize] = slot;
        self.look_soon();
    }

    pub(crate) fn on_closed<D: Backend>(
        &mut self,
        fabric: usize,
        conn: ConnId,
        drives: &mut Drives<D>,
    ) {
        let Some(slot) = self.queue_of(fabric, conn) else {
            return;
        };
        self.by_conn[fabric][conn.slot as usize] = NONE;
        self.queues[slot as usize].closed = true;
        self.end_queue(slot, drives);
    }

    #[inline]
    fn queue_of(&self, fabric: usize, conn: ConnId) -> Option<u32> {
        let slot = *self.by_conn[fabric].get(conn.slot as usize)?;
        let queue = self.queues.get(slot as usize)?;
        (queue.conn == conn && queue.state != State::Unused).then_some(slot)
    }

    /// The queue a command came from.
    #[inline]
    pub(crate) fn queue(&mut self, slot: u32) -> &mut Queue {
        let queue = self.slab[slot].queue;
        &mut self.queues[queue as usize]
    }

    /// Which commands may come, and how many before this is to be asked again. In-capsule data lies in Bufs that come back when a
    /// drive has it: the last quarter of them is for connections that have few commands under way, or a drive that does not
    /// answer would keep all hosts out that never use it.
    #[inline]
    pub(crate) fn room(&mut self) -> (Room, usize) {
        let landings = self.landings().saturating_sub(self.landings_low);
        match self.slab.room().min(landings) {
            0 => self.little_room(),
            count => (Room::Any, count),
        }
    }

    #[cold]
    fn little_room(&mut self) -> (Room, usize) {
        if plant::on(Bug::AllWait) {
            return (Room::None, 0);
        }
        self.unread = self.now;
        match (self.slab.room(), self.landings()) {
            (0, _) => (Room::None, 0),
            (slots, 0) => (Room::Bare, slots),
            (slots, landings) => (Room::Few, slots.min(landings)),
        }
    }

    /// Commands with in-capsule data that there are Bufs for. A Compare takes two.
    #[inline]
    fn landings(&self) -> usize {
        self.config.landing.free(1) / 2
    }

    pub(crate) fn on_capsule<D: Backend>(
        &mut self,
        fabric: usize,
        conn: ConnId,
        sqe: &Sqe,
        data: InCapsule<'_>,
        drives: &mut Drives<D>,
    ) {
        let Some((at, slot, takes_io)) = self.begin(fabric, conn, sqe, drives) else {
            return;
        };
        if takes_io && !is_fabrics(sqe) {
            self.begin_io(sqe.nvm_opcode(), at, slot, data, drives);
        } else {
            self.begin_admin(slot, data.bytes(), drives);
        }
    }

    /// A command whose in-capsule data did not arrive as it was sent.
    pub(crate) fn on_spoiled<D: Backend>(
        &mut self,
        fabric: usize,
        conn: ConnId,
        sqe: &Sqe,
        drives: &mut Drives<D>,
    ) {
        if let Some((_, slot, _)) = self.begin(fabric, conn, sqe, drives) {
            self.refuse(slot, Refusal::of(Status::TRANSIENT_TRANSPORT_ERROR));
        }
    }

    /// Takes a slot for a command: its queue, the slot, and whether it is a live I/O queue; None if its queue
    /// takes none any more.
    #[inline(always)]
    fn begin<D: Backend>(
        &mut self,
        fabric: usize,
        conn: ConnId,
        sqe: &Sqe,
        drives: &mut Drives<D>,
    ) -> Option<(u32, u32, bool)> {
        let at = self.queue_of(fabric, conn)?;
        let mut queue = &mut self.queues[at as usize];
        if matches!(queue.state, State::Dead | State::Closing) {
            return None;
        }
        if queue.in_flight >= u32::from(queue.depth) {
            if !self.admits_stranger(at) {
                self.end_queue(at, drives);
                return None;
            }
            queue = &mut self.queues[at as usize];
        }
        let slot = self
            .slab
            .take(at, sqe, self.now)
            .expect("room was asked for before");
        queue.link(&mut self.slab, slot);
        if let Some(who) = &queue.who {
            who.saw(self.config.index, self.now);
        }
        Some((at, slot, queue.state == State::Live && queue.qid != 0))
    }

    // Admin commands. Fabrics ones are in `fabrics.rs`.

    fn begin_admin<D: Backend>(&mut self, slot: u32, data: &[u8], drives: &mut Drives<D>) {
        self.look_soon();
        let at = self.slab[slot].queue;
        let (state, transport) = {
            let queue = &self.queues[at as usize];
            (queue.state, queue.transport)
        };
        let sqe = &mut self.slab[slot].sqe;
        if sqe.fabrics_type() == Some(FabricsType::CONNECT)
            && Sqe::PSDT_FABRICS.contains(&sqe.psdt())
        {
            sqe.set_psdt(Sqe::PSDT_SGL);
        }
        let step = if is_fabrics(&self.slab[slot].sqe) {
            self.fabrics_command(slot, None)
        } else if state == State::Live {
            self.admin_command(slot, None)
        } else {
            Answer::Refused(Refusal::of(Status::COMMAND_SEQUENCE_ERROR.dnr()))
        };
        let answer = match step {
            Answer::Wants(len) => match source(&self.slab[slot].sqe, transport, len, data.len()) {
                Ok(Source::Capsule(place)) => self.with_host_data(slot, &data[place]),
                Ok(Source::Host) => {
                    // To be fetched: all at once, since these structures are small.
                    self.slab[slot].len = len;
                    self.go_on(slot, drives);
                    return;
                }
                Err(refusal) => Answer::Refused(self.connect_failed(slot, refusal)),
            },
            // What `admin` says when it finds nothing wrong with it.
            Answer::Done(1) if self.slab[slot].sqe.admin_opcode() == AdminOpcode::ABORT => {
                Answer::Done(u32::from(!self.abort(slot, drives)))
            }
            answer => answer,
        };
        self.answer(slot, answer, drives);
    }

    /// Data that an admin or Fabrics command waited for is there.
    pub(crate) fn with_host_data(&mut self, slot: u32, data: &[u8]) -> Answer {
        if is_fabrics(&self.slab[slot].sqe) {
            self.fabrics_command(slot, Some(data))
        } else {
            self.admin_command(slot, Some(data))
        }
    }

    fn admin_command(&mut self, slot: u32, data: Option<&[u8]>) -> Answer {
        let sqe = self.slab[slot].sqe;
        let Some(at) = self.queue(slot).controller else {
            return Answer::Refused(Refusal::of(Status::INVALID_OPCODE.dnr()));
        };
        let controller = self.controllers[at as usize]
            .as_mut()
            .expect("the queue names it");
        let mut admin = Admin {
            controller,
            table: &self.table,
            now: self.now,
            wall_ms: self.wall_ms,
            facts: &self.config.facts,
        };
        admin::execute(&mut admin, &sqe, slot, data)
    }

    /// Does what became of an admin or Fabrics command.
    pub(crate) fn answer<D: Backend>(&mut self, slot: u32, answer: Answer, drives: &mut Drives<D>) {
        match answer {
            Answer::Done(dw0) => self.complete(slot, Status::SUCCESS, u64::from(dw0)),
            Answer::Wide(value) => self.complete(slot, Status::SUCCESS, value),
            Answer::Data(data) => {
                let len = data.len() as u32;
                self.give(slot, data, len, drives);
            }
            Answer::Page { data, len } => self.give(slot, data, len, drives),
            Answer::Held => {}
            Answer::Refused(refusal) => self.refuse(slot, refusal),
            Answer::Wants(_) => unreachable!("the data was given"),
        }
        let at = self.slab[slot].queue;
        if at != NONE {
            self.pump_events(at);
        }
    }

    /// Data for the host, with zeros behind it up to `len`.
    fn give<D: Backend>(&mut self, slot: u32, mut data: Vec<u8>, len: u32, drives: &mut Drives<D>) {
        let transport = self.queue(slot).transport;
        let room = transport.data_len(&self.slab[slot].sqe.dptr);
        if room.is_none_or(|room| len > room) {
            let refusal = Refusal::of(Status::DATA_SGL_LENGTH_INVALID.dnr());
            self.refuse(slot, refusal);
        } else if len == 0 {
            self.complete(slot, Status::SUCCESS, 0);
        } else {
            if data.is_empty() {
                // What is staged says which way the data goes.
                data.push(0);
            }
            let command = &mut self.slab[slot];
            command.len = len;
            command.staged = data;
            self.go_on(slot, drives);
        }
    }

    /// Answers Asynchronous Event Requests with the events that wait.
    fn pump_events(&mut self, queue: u32) {
        let Some(at) = self.queues[queue as usize].controller else {
            return;
        };
        while let Some(controller) = self.controllers[at as usize].as_mut()
            && let Some((slot, dw0)) = admin::next_event(controller)
        {
            self.complete(slot, Status::SUCCESS, u64::from(dw0));
        }
    }

    // Ends of commands.

    /// The command's answer is known; it goes out when its turn comes.
    pub(crate) fn complete(&mut self, slot: u32, status: Status, dw0: u64) {
        let command = &mut self.slab[slot];
        debug_assert!(command.answer.is_none(), "one command, one answer");
        command.answer = Some((status, dw0));
        self.send_later(slot);
    }

    /// The command is refused: the error log says why, and the host gets the status, with M if there is an entry (Base 4.2.3).
    pub(crate) fn refuse(&mut self, slot: u32, mut refusal: Refusal) {
        let sqe = self.slab[slot].sqe;
        let queue = self.queue(slot);
        if let Some(who) = &queue.who {
            refusal.status = who.with_delay(refusal.status);
            // Of a Connect that fails the log says nothing (Base 6.3).
            if sqe.fabrics_type() != Some(FabricsType::CONNECT) {
                refusal.status = refusal.status.more();
                who.note_error(&refusal, queue.qid, &sqe);
            }
        }
        self.complete(slot, refusal.status, u64::from(refusal.dw0));
    }

    // Moving on.

    /// Lets a command do what it can; what it cannot yet do, it waits for in line.
    #[inline]
    pub(crate) fn go_on<D: Backend>(&mut self, slot: u32, drives: &mut Drives<D>) {
        let command = &self.slab[slot];
        if command.in_landed || (command.in_line && !command.goes_first()) {
            return;
        }
        // Who comes while others wait stands behind them.
        if !self.line.is_empty()
            || self.advance(slot, Lane::Wanting, u32::MAX, drives) != Served::Leaves
        {
            // Blocked, at once or after it had got something under way: that may have been nothing
            // anyone calls back for, such as the next range of a Dataset Management.
            self.stand_in_line(slot);
        }
    }

    fn stand_in_line(&mut self, slot: u32) {
        let command = &mut self.slab[slot];
        let lane = if command.goes_first() {
            Lane::Landed
        } else {
            Lane::Wanting
        };
        let stands = match lane {
            Lane::Landed => &mut command.in_landed,
            Lane::Wanting => &mut command.in_line,
        };
        if std::mem::replace(stands, true) {
            return;
        }
        let generation = command.generation;
        let (host, queue) = (self.queue(slot).host, self.slab[slot].queue);
        self.line.join(host, queue, lane, (slot, generation));
        self.config.counters.waits.add(1);
    }

    /// A read of several parts may begin, or has begun; if not, it stands behind those of its queue that have.
    #[cold]
    pub(crate) fn takes_large(&mut self, slot: u32) -> bool {
        let command = &mut self.slab[slot];
        let queue = &mut self.queues[command.queue as usize];
        let has_begun = command.large > 0;
        if !has_begun && (!queue.behind.is_empty() || !queue.has_room(command.len)) {
            queue.behind.push_back((slot, command.generation));
            return false;
        }
        if !has_begun {
            queue.begin_large(command);
        }
        true
    }

    /// A read of several parts is over.
    #[cold]
    fn end_large(&mut self, slot: u32) {
        let command = &mut self.slab[slot];
        let queue = &mut self.queues[command.queue as usize];
        queue.large -= std::mem::take(&mut command.large);
        if !plant::on(Bug::LeftBehind) {
            self.let_on.push(command.queue);
        }
    }

    /// Of queues whose large reads were answered, the next ones begin.
    #[inline(never)]
    fn let_on<D: Backend>(&mut self, drives: &mut Drives<D>) {
        while let Some(at) = self.let_on.pop() {
            loop {
                let queue = &mut self.queues[at as usize];
                let Some(&(slot, generation)) = queue.behind.front() else {
                    break;
                };
                let command = &mut self.slab[slot];
                let waits = command.generation == generation && command.large == 0;
                if waits && !queue.has_room(command.len) {
                    break;
                }
                queue.behind.pop_front();
                if waits {
                    queue.begin_large(command);
                    self.go_on(slot, drives);
                }
            }
        }
    }

    /// Serves those who wait, once round all hosts.
    pub(crate) fn serve_line<D: Backend>(&mut self, drives: &mut Drives<D>) -> bool {
        if !self.let_on.is_empty() {
            self.let_on(drives);
        }
        if self.line.is_empty() {
            return false;
        }
        let mut line = std::mem::take(&mut self.line);
        let mut busy = false;
        line.serve(|lane, (slot, generation)| {
            if self.slab[slot].generation != generation {
                return Served::Leaves;
            }
            let served = self.advance(slot, lane, limits::CHUNK_LEN, drives);
            busy |= served != Served::Blocked;
            if served == Served::Leaves && self.slab[slot].generation == generation {
                match lane {
                    Lane::Landed => self.slab[slot].in_landed = false,
                    Lane::Wanting => self.slab[slot].in_line = false,
                }
            }
            served
        });
        debug_assert!(
            self.line.is_empty(),
            "nobody joins while the line is served"
        );
        self.line = line;
        busy
    }

    /// Somebody waits for what this turn may have given back: memory, room at a drive or in a fabric, the end of others.
    pub(crate) fn somebody_waits(&self) -> bool {
        !self.line.is_empty()
            || !self.let_on.is_empty()
            || self.fetches.iter().any(|fetches| !fetches.is_empty())
            || self.outboxes.iter().any(|outbox| !outbox.is_empty())
    }

    // Time.

    pub(crate) fn on_time<D: Backend>(&mut self, now: Tick, wall_ms: u64, drives: &mut Drives<D>) {
        let rested_until = std::mem::take(&mut self.rests_until);
        let paused_ns = now.since(self.now.max(rested_until));
        self.now = now;
        self.wall_ms = wall_ms;
        self.tell_drained();
        if now >= self.next_check() {
            self.check(paused_ns, drives);
        }
    }

    /// Looks at controllers and queues for what time has ended. For `paused_ns` the core had reason to run and did not.
    #[inline(never)]
    fn check<D: Backend>(&mut self, paused_ns: u64, drives: &mut Drives<D>) {
        let now = self.now;
        let mut stalled_ns = 0;
        if paused_ns > 3 * CHECK_MS * 1_000_000 {
            // The system let this core wait: what came meanwhile is not read yet.
            (self.stalled, stalled_ns) = (now, paused_ns);
        }
        let mut unread_ns = 0;
        if self.unread > self.checked {
            unread_ns = now.since(self.checked).saturating_sub(stalled_ns);
        }
        self.checked = now;
        self.clerk.hand_over_late(&self.config.counters.phases);
        self.hurry_old(drives);
        self.look_by = None;
        for at in 0..self.queues.len() as u32 {
            let queue = &self.queues[at as usize];
            // A Connect that is here and was not read is not late, but that excuses nobody for ever.
            let unread = self.unread.plus_ms(CHECK_MS);
            let excused = unread.min(queue.deadline.plus_ms(limits::CONNECT_MS));
            let excused = excused.max(self.stalled.plus_ms(CHECK_MS));
            let late = now > queue.deadline.max(excused);
            if !matches!(queue.state, State::Fresh | State::Connecting) {
                continue;
            }
            if late {
                log::info!(
                    "{}: no Connect within {} ms",
                    queue.peer,
                    limits::CONNECT_MS
                );
                self.end_queue(at, drives);
            } else {
                self.look_soon();
            }
        }
        self.look_at_health();
        for at in 0..self.controllers.len() {
            let Some(controller) = &mut self.controllers[at] else {
                continue;
            };
            let Some(allowed_ms) = controller.silence_allowed_ms() else {
                continue;
            };
            // Who sent a Keep Alive that was not read was not silent.
            let (allowed_ns, heard) = (allowed_ms * 1_000_000, controller.who.last_seen());
            let silence = &mut controller.silence;
            let silent_ns = silence.look(heard, now, unread_ns, stalled_ns, allowed_ns);
            if silent_ns > allowed_ns {
                log::warn!(
                    "{}: host {} was silent for {} ms: its association ends (Keep Alive)",
                    controller.who.peer,
                    controller.who.hostnqn,
                    silent_ns / 1_000_000
                );
                self.config.counters.keep_alive_expiries.add(1);
                let queue = controller.queue;
                self.end_queue(queue, drives);
            } else {
                let due = heard.plus_ns(allowed_ns + 1);
                self.look_at(due.min(now.plus_ms(REST_MS)));
            }
        }
    }

    /// Tells a host how the drives are, if that is worse than before. One host at a time: each has up to a thousand
    /// namespaces to look at, and I/O waits meanwhile.
    fn look_at_health(&mut self) {
        let controllers = self.controllers.len().max(1);
        if self
            .controllers
            .iter()
            .flatten()
            .any(Controller::wants_health)
        {
            self.look_at(self.now.plus_ms(REST_MS / controllers as u64));
        }
        self.felt = (self.felt + 1) % controllers;
        if let Some(Some(controller)) = self.controllers.get_mut(self.felt) {
            admin::on_health(controller, &self.table);
            let queue = controller.queue;
            self.pump_events(queue);
        }
    }

    // Phases, see `phases.rs`.

    /// The drives are about to be told of what was submitted.
    #[inline]
    pub(crate) fn stamp_submitted(&mut self, clock: &impl Fn() -> Tick) {
        if self.clerk.submitted.is_empty() {
            return;
        }
        let now = clock();
        for &slot in &self.clerk.submitted {
            self.slab[slot].stamps.submitted = now;
        }
        self.clerk.submitted.clear();
    }

    /// The fabrics were flushed after they were given answers.
    #[inline]
    pub(crate) fn count_answered(&mut self, clock: &impl Fn() -> Tick) {
        if self.clerk.answered.is_empty() {
            return;
        }
        let (queues, phases) = (&self.queues, &self.config.counters.phases);
        let who = |queue: u32| queues[queue as usize].who.as_ref();
        self.clerk.count(phases, &self.slab, clock(), who);
    }

    /// Says how much memory is out.
    pub(crate) fn tell_levels(&self) {
        let counters = &self.config.counters;
        counters.pool_out.set(self.config.pool.bytes_out() as u64);
        counters
            .landing_out
            .set(self.config.landing.bytes_out() as u64);
    }

    /// When time alone gives the core something to do, which rests until then.
    pub(crate) fn rest(&mut self) -> Option<Tick> {
        if self.draining.is_some() {
            self.look_soon();
        }
        self.rests_until = self.look_by.unwrap_or_default();
        self.look_by
    }

    /// Something may be due sooner than was known when controllers and queues were last looked at.
    pub(crate) fn look_soon(&mut self) {
        self.look_at(Tick(0));
    }

    fn look_at(&mut self, due: Tick) {
        let due = due.max(self.next_check());
        self.look_by = Some(self.look_by.map_or(due, |by| by.min(due)));
    }

    /// When controllers and queues are looked at again by a core that runs.
    fn next_check(&self) -> Tick {
        match self.checked {
            Tick(0) => Tick(0),
            checked => checked.plus_ms(CHECK_MS),
        }
    }

    // Mail.

    pub(crate) fn mail(&mut self, mail: ToControl) {
        self.mail.push_back(mail);
    }

    /// False if some did not fit: it goes next turn. Order is kept.
    pub(crate) fn post_mail(&mut self, control: &Post<ToControl>) -> bool {
        while let Some(mail) = self.mail.pop_front() {
            if let Err(mail) = control.send(mail) {
                self.mail.push_front(mail);
                return false;
            }
        }
        true
    }

    // Admission, see `fabrics.rs`.

    /// Takes up a queue into its host's share; false if its depth is more than is left.
    pub(crate) fn promise(&mut self, at: u32) -> bool {
        let queue = &self.queues[at as usize];
        let depth = usize::from(queue.depth);
        // Its own commands, Connect among them, are no stranger's any more.
        let strangers = self.strangers - queue.in_flight as usize;
        let promised = self.promised + depth;
        if promised > self.config.commands || promised + strangers > self.slab.capacity() {
            return false;
        }
        (self.promised, self.strangers) = (promised, strangers);
        let queue = &mut self.queues[at as usize];
        let who = queue.who.as_ref().expect("it is admitted");
        queue.host = self.shares.join(at, who);
        true
    }

    /// The queue mail speaks of, if it still is that one.
    pub(crate) fn find(&self, queue: QueueRef) -> Option<u32> {
        let found = self.queues.get(queue.slot as usize)?;
        (found.life == queue.life && found.state != State::Unused).then_some(queue.slot)
    }

    pub(crate) fn name(&self, at: u32) -> QueueRef {
        QueueRef {
            slot: at,
            life: self.queues[at as usize].life,
        }
    }

    pub(crate) fn index(&self) -> usize {
        self.config.index
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping
    }

    pub(crate) fn commands_in_flight(&self) -> usize {
        self.slab.taken()
    }

    pub(crate) fn bufs_out(&self) -> usize {
        self.config.pool.out() + self.config.landing.out()
    }
}

fn is_fabrics(sqe: &Sqe) -> bool {
    sqe.opc == AdminOpcode::FABRICS.0
}
