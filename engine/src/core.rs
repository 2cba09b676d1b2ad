//! One core: its loop, its mail, its timers.
//!
//! A core owns its connections, its queues at the drives, its share of memory and its own copy of
//! the table. Nothing here is shared, so nothing locks. What other threads want arrives as mail at
//! the top of a turn.

use std::sync::Arc;

use crate::drives::Drives;
use crate::limits;
use crate::mail::{Mailbox, Post, ToControl, ToCore};
use crate::port::{Backend, Fabric, Inbound, Room, Tick};
use crate::queues::Queues;
pub use crate::queues::{CoreConfig, LANDING};
use crate::table::Table;

/// What a turn leaves behind. It decides whether the core may sleep.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Work {
    /// Something happened in this turn, or can happen without waiting.
    pub busy: bool,
    /// Another turn would find nothing but what comes from outside meanwhile, even if this one was busy. Always so if it was
    /// not.
    pub rests: bool,
    /// Somebody waits for memory or room that comes back when something was sent, if only a drive that is to leave. Not looked
    /// for unless the core rests.
    pub wants_back: bool,
    /// Requests at drives: their completions are near, so sleeping costs more than it saves. Not counted
    /// unless the core rests.
    pub at_drives: usize,
    /// The next thing that is due by time alone. Not looked for unless the core rests.
    pub next_timeout: Option<Tick>,
    /// The core was told to stop, and all its queues are gone.
    pub stopped: bool,
}

/// A core.
#[derive(Debug)]
pub struct Core<F: Fabric, D> {
    /// Its fabrics.
    pub fabrics: Vec<F>,
    /// Its ends of the drives.
    pub drives: Drives<D>,
    queues: Queues,
    mailbox: Mailbox<ToCore<F::Incoming, D>>,
    control: Post<ToControl>,
    stop_told: bool,
}

impl<F: Fabric, D: Backend> Core<F, D> {
    /// A core without drives, serving an empty table. Both come by mail.
    pub fn new(
        config: CoreConfig,
        fabrics: Vec<F>,
        mailbox: Mailbox<ToCore<F::Incoming, D>>,
        control: Post<ToControl>,
    ) -> Core<F, D> {
        let queues = Queues::new(config, fabrics.len(), Arc::new(Table::default()));
        let drives = Drives::new();
        Core {
            fabrics,
            drives,
            queues,
            mailbox,
            control,
            stop_told: false,
        }
    }

    /// Mail, time, fabrics to engine, drives to engine, engine to fabrics. `wall_ms` is the time of
    /// day in ms since 1970, which only the Timestamp feature looks at. `clock` says how late it has
    /// become since `now`: it is asked between stages, for [`crate::phases`] alone.
    pub fn turn(&mut self, now: Tick, wall_ms: u64, clock: impl Fn() -> Tick) -> Work {
        let mut busy = self.has_mail() && self.read_mail(now);
        // What came was followed to where it waits for drives, hosts or time, in this very turn.
        let mut through = !busy;
        self.queues.on_time(now, wall_ms, &mut self.drives);
        // Which commands there is room for, and for how many at least.
        let (mut room, mut count) = (Room::None, 0);
        for (index, fabric) in self.fabrics.iter_mut().enumerate() {
            let mut left = limits::INBOUND_PER_TURN;
            while left > 0 {
                left -= 1;
                if count == 0 {
                    (room, count) = self.queues.room();
                }
                match fabric.poll(now, room) {
                    None => break,
                    Some(Inbound::Capsule { conn, sqe, data }) => {
                        self.queues
                            .on_capsule(index, conn, sqe, data, &mut self.drives);
                    }
                    Some(Inbound::Spoiled { conn, sqe }) => {
                        self.queues.on_spoiled(index, conn, sqe, &mut self.drives);
                        through = false;
                    }
                    Some(Inbound::Fetched {
                        conn: _,
                        tag,
                        bufs,
                        status,
                    }) => {
                        self.queues.on_fetched(tag, bufs, status, &mut self.drives);
                    }
                    Some(Inbound::Opened {
                        conn,
                        local,
                        peer,
                        transport,
                    }) => {
                        self.queues.on_opened(index, conn, local, peer, transport);
                        left = left.saturating_sub(limits::CONNECTION_COUNTS_AS);
                        through = false;
                    }
                    Some(Inbound::Closed { conn }) => {
                        self.queues.on_closed(index, conn, &mut self.drives);
                        left = left.saturating_sub(limits::CONNECTION_COUNTS_AS);
                        through = false;
                    }
                }
                count = count.saturating_sub(1);
                busy = true;
            }
            through &= room == Room::Any && left > 0;
        }
        busy |= self.queues.serve_line(&mut self.drives);
        self.queues.stamp_submitted(&clock);
        let done = self.poll_drives(&clock);
        busy |= done;
        through &= !done;
        for (index, fabric) in self.fabrics.iter_mut().enumerate() {
            busy |= self.queues.send_ready(index, fabric, &mut self.drives);
            fabric.flush(now);
            while let Some(bufs) = fabric.home() {
                self.queues.take_home(bufs, &mut self.drives);
                busy = true;
            }
        }
        self.queues.count_answered(&clock);
        if busy {
            self.queues.tell_levels();
        }
        // Nobody wakes a core because the control thread has read its mail.
        let posted = self.queues.post_mail(&self.control);
        self.work_left(busy, through, posted)
    }

    fn poll_drives(&mut self, clock: &impl Fn() -> Tick) -> bool {
        let mut busy = false;
        for id in self.drives.ids() {
            if let Some(drive) = self.drives.get(id) {
                drive.ring_doorbell();
            }
            for _ in 0..limits::DONE_PER_TURN {
                let Some(done) = self.drives.poll(id) else {
                    break;
                };
                if !busy && self.queues.clerk.on {
                    self.queues.stage = clock();
                }
                busy = true;
                self.queues
                    .on_done(id, done, &mut self.fabrics, &mut self.drives);
            }
        }
        busy
    }

    #[inline(never)]
    fn read_mail(&mut self, now: Tick) -> bool {
        let mut busy = false;
        for _ in 0..limits::MAIL_PER_TURN {
            let Some(mail) = self.mailbox.poll() else {
                break;
            };
            busy = true;
            self.queues.look_soon();
            match mail {
                ToCore::Adopt { fabric, incoming } => self.fabrics[fabric].adopt(incoming, now),
                ToCore::Admit { queue, admission } => {
                    self.queues.on_admit(queue, admission);
                    if let Some((fabric, conn)) = self.queues.admitted(queue) {
                        self.fabrics[fabric].admitted(conn);
                    }
                }
                ToCore::EndController { cntlid, keep_admin } => {
                    self.queues
                        .on_end_controller(cntlid, keep_admin, &mut self.drives);
                }
                ToCore::ResetDone { cntlid } => self.queues.on_reset_done(cntlid),
                ToCore::Table(table) => self.queues.on_table(table),
                ToCore::Tell { version } => self.queues.on_tell(version),
                ToCore::AddDrive(id, drive) => self.drives.add(id, drive),
                ToCore::RemoveDrive(id) => self.drives.remove(id),
                ToCore::Stop => self.queues.on_stop(&mut self.drives),
            }
        }
        busy
    }

    fn work_left(&mut self, busy: bool, through: bool, posted: bool) -> Work {
        let mut stopped = self.queues.is_stopped();
        if stopped && !self.stop_told && posted {
            let core = self.queues.index();
            self.stop_told = self.control.send(ToControl::Stopped { core }).is_ok();
        }
        // Its thread ends with this: not before the control thread knows.
        let untold = stopped && !self.stop_told;
        stopped &= self.stop_told;
        let goes_on = (busy && (!through || self.queues.somebody_waits()))
            || untold
            || !posted
            || self.fabrics.iter().any(Fabric::has_work)
            || self.drives.have_work()
            || !self.mailbox.is_empty();
        if goes_on {
            return Work {
                busy: true,
                stopped,
                ..Work::default()
            };
        }
        self.drives.drop_removed();
        let timeouts = self.fabrics.iter().filter_map(Fabric::next_timeout);
        Work {
            busy,
            rests: true,
            wants_back: self.queues.somebody_waits() || self.drives.is_any_leaving(),
            at_drives: self.drives.in_flight(),
            next_timeout: timeouts.chain(self.queues.rest()).min(),
            stopped,
        }
    }

    /// Mail waits: who is about to sleep looks here after arming its bell.
    pub fn has_mail(&self) -> bool {
        !self.mailbox.is_empty()
    }

    /// Commands in flight, and Bufs that are not home: all zero when nothing is connected and
    /// nothing was leaked.
    pub fn outstanding(&self) -> (usize, usize) {
        (
            self.queues.commands_in_flight(),
            self.queues.bufs_out() + self.drives.bufs_out(),
        )
    }
}
