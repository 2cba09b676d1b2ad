//! How queues end: at once, when everything is answered, or with their controller.

use ferroce_wire::status::Status;

use super::{Outgoing, Queues};
use crate::command::{Chunk, NONE};
use crate::drives::Drives;
use crate::limits;
use crate::mail::ToControl;
use crate::plant::{self, Bug};
use crate::port::{Backend, Close};
use crate::queue::{Queue, State};

impl Queues {
    /// Ends a queue at once: nobody there is answered any more. What drives have of it is awaited.
    pub(crate) fn end_queue<D: Backend>(&mut self, at: u32, drives: &mut Drives<D>) {
        let queue = &mut self.queues[at as usize];
        if queue.state == State::Unused {
            return;
        }
        if queue.state != State::Dead {
            queue.state = State::Dead;
            let (fabric, conn, closed) = (queue.fabric, queue.conn, queue.closed);
            if !closed {
                self.outboxes[fabric].push_back(Outgoing::Close {
                    conn,
                    how: Close::Now,
                });
            }
            self.end_controller_of(at);
            self.say_ending(at);
        }
        let mut next = self.queues[at as usize].commands;
        while next != NONE {
            let slot = next;
            next = self.slab[slot].after;
            if let Some(ticket) = self.slab[slot].ticket.take() {
                ticket.abandon();
            }
            self.drop_parts(slot, drives);
            if !self.slab[slot].at_drive() {
                self.finish_unanswered(slot);
            }
        }
        self.release_if_over(at);
    }

    /// A command of a queue that is not live ended.
    #[cold]
    pub(super) fn finished_apart(&mut self, at: u32) {
        let queue = &self.queues[at as usize];
        if !queue.admitted {
            self.strangers -= 1;
        }
        if queue.state == State::Closing && queue.in_flight == 1 && queue.disconnect != NONE {
            let disconnect = std::mem::replace(&mut self.queues[at as usize].disconnect, NONE);
            self.say_ending(at);
            self.complete(disconnect, Status::SUCCESS, 0);
        } else if queue.state == State::Closing && queue.in_flight == 0 {
            let (fabric, conn) = (queue.fabric, queue.conn);
            self.outboxes[fabric].push_back(Outgoing::Close {
                conn,
                how: Close::Sent,
            });
            self.queues[at as usize].state = State::Dead;
        } else if queue.state == State::Dead {
            self.release_if_over(at);
        }
    }

    /// A command came from a queue that has as many as it may: true if it was promised none because it
    /// is not connected yet, and there is a slot for it nevertheless.
    #[cold]
    pub(super) fn admits_stranger(&mut self, at: u32) -> bool {
        let queue = &self.queues[at as usize];
        if queue.admitted {
            log::warn!(
                "{}: more commands in flight than the queue has entries ({}): its association ends",
                queue.peer,
                queue.depth
            );
            // All of it, not this queue alone (Base 3.3.2.5).
            let cntlid = queue.who.as_ref().expect("it is admitted").cntlid;
            self.mail.push_back(ToControl::ControllerEnding { cntlid });
            return false;
        }
        let left = self.config.commands - self.promised;
        let full = self.strangers >= limits::STRANGERS + left / 2;
        if full || queue.in_flight >= limits::STRANGER_COMMANDS {
            let peer = queue.peer;
            log::info!("{peer}: too many commands before Connect is answered; closing");
            return false;
        }
        self.strangers += 1;
        true
    }

    /// The control thread hears at once that an I/O queue ends, and again when nothing is left of it.
    pub(crate) fn say_ending(&mut self, at: u32) {
        let queue = &self.queues[at as usize];
        if let Some(who) = queue
            .who
            .as_ref()
            .filter(|_| queue.admitted && queue.qid != 0)
        {
            let (cntlid, qid) = (who.cntlid, queue.qid);
            self.mail.push_back(ToControl::QueueEnding { cntlid, qid });
        }
    }

    /// Takes home what a command has, but for what a drive has. What the fabric has comes home by
    /// itself; who is to be answered waits for it: the host must not see an answer while its data is
    /// still being fetched.
    pub(crate) fn drop_parts<D: Backend>(&mut self, slot: u32, drives: &mut Drives<D>) {
        let owed = self.slab[slot].ticket.is_some();
        for part in 0..self.slab[slot].parts.count() {
            let chunk = &mut self.slab[slot].parts[part].chunk;
            match std::mem::take(chunk) {
                Chunk::Free => {}
                Chunk::Landed { bufs } if plant::on(Bug::BufsLost) => std::mem::forget(bufs),
                Chunk::Fetching if owed && !plant::on(Bug::AnsweredFetching) => {
                    *chunk = Chunk::Fetching
                }
                Chunk::Fetching => {}
                Chunk::Landed { bufs } | Chunk::Ordered { bufs } => self.home(bufs, drives),
                at_drive @ (Chunk::Executing | Chunk::Comparing { .. }) => *chunk = at_drive,
            }
            let spare = std::mem::take(&mut self.slab[slot].parts[part].spare);
            self.home(spare, drives);
        }
    }

    /// A dead queue whose connection is closed, and whose commands and Bufs are home, makes room.
    pub(crate) fn release_if_over(&mut self, at: u32) {
        let queue = &self.queues[at as usize];
        let over = queue.state == State::Dead && queue.closed && queue.in_flight == 0;
        if over && self.shares.is_empty(at) {
            self.release(at);
        }
    }

    fn release(&mut self, at: u32) {
        let queue = &mut self.queues[at as usize];
        let life = queue.life.wrapping_add(1);
        let queue = std::mem::replace(queue, Queue::unused(life));
        self.unused.push(at);
        if queue.admitted {
            self.promised -= usize::from(queue.depth);
            self.shares.leave(at);
            self.config.counters.queues.sub(1);
            if queue.qid == 0 {
                self.config.counters.admin_queues.sub(1);
            }
            let who = queue.who.expect("an admitted queue is somebody's");
            self.mail.push_back(ToControl::QueueEnded {
                cntlid: who.cntlid,
                qid: queue.qid,
            });
        }
    }

    /// If it is an admin queue, its controller ends with it.
    fn end_controller_of(&mut self, at: u32) {
        let Some(index) = self.queues[at as usize].controller.take() else {
            return;
        };
        let controller = self.controllers[index as usize]
            .take()
            .expect("the queue names it");
        controller.who.set_ready(false);
        let cntlid = controller.who.cntlid;
        self.mail.push_back(ToControl::ControllerEnding { cntlid });
    }

    pub(crate) fn on_end_controller<D: Backend>(
        &mut self,
        cntlid: u16,
        keep_admin: bool,
        drives: &mut Drives<D>,
    ) {
        for at in 0..self.queues.len() as u32 {
            let queue = &self.queues[at as usize];
            let mine = queue.who.as_ref().is_some_and(|who| who.cntlid == cntlid);
            if mine && !(keep_admin && queue.qid == 0) {
                self.end_queue(at, drives);
            }
        }
    }

    /// No new commands; what is in flight is finished, then the connections are closed.
    pub(crate) fn on_stop<D: Backend>(&mut self, drives: &mut Drives<D>) {
        self.stopping = true;
        for at in 0..self.queues.len() as u32 {
            match self.queues[at as usize].state {
                State::Unused | State::Dead | State::Closing => {}
                State::Fresh | State::Connecting => self.end_queue(at, drives),
                State::Live => self.close_when_done(at),
            }
        }
    }

    /// Outstanding event requests are aborted, the rest is answered, then the connection closes.
    pub(crate) fn close_when_done(&mut self, at: u32) {
        if let Some(index) = self.queues[at as usize].controller {
            let controller = self.controllers[index as usize]
                .as_mut()
                .expect("the queue names it");
            for slot in std::mem::take(&mut controller.aers) {
                self.complete(slot, Status::ABORTED_SQ_DELETION, 0);
            }
        }
        self.end_controller_of(at);
        let queue = &mut self.queues[at as usize];
        queue.state = State::Closing;
        if queue.in_flight == 0 {
            let (fabric, conn) = (queue.fabric, queue.conn);
            queue.state = State::Dead;
            self.outboxes[fabric].push_back(Outgoing::Close {
                conn,
                how: Close::Sent,
            });
        }
    }

    /// The core was told to stop, and all its queues are gone.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopping && self.queues.iter().all(|queue| queue.state == State::Unused)
    }
}
