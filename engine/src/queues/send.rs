//! To the fabrics: data in order, answers, and the end of commands that were answered.
//!
//! Whose last request a drive is done with is answered at once. What its connection has no room for, and
//! all that is more than one part, waits in the outbox of its fabric, which is emptied once a turn.

use ferroce_buf::BufList;
use ferroce_wire::sqe::{Sgl, Sqe};
use ferroce_wire::status::Status;

use super::{CoreConfig, Outgoing, Queues};
use crate::command::{Chunk, Command, Kind, NONE, Part};
use crate::drives::Drives;
use crate::phases::{Clerk, NO_SERIES};
use crate::plant::{self, Bug};
use crate::port::{Backend, Fabric, Fetch, Reply};
use crate::queue::{Queue, State};

impl Queues {
    pub(crate) fn send_later(&mut self, slot: u32) {
        let command = &mut self.slab[slot];
        if command.to_send {
            return;
        }
        command.to_send = true;
        let generation = command.generation;
        let at = command.queue as usize;
        let queue = &mut self.queues[at];
        queue.to_send += 1;
        self.outboxes[queue.fabric].push_back(Outgoing::Send { slot, generation });
    }

    pub(crate) fn fetch_later(&mut self, slot: u32, fetch: Fetch) {
        let queue = self.queue(slot);
        let (fabric, conn) = (queue.fabric, queue.conn);
        self.fetches[fabric].push_back((conn, fetch));
    }

    /// Answers a command that went well, of which nothing is anywhere but these Bufs, all of its data for the
    /// host; they come back if its connection has no room now, or others of its queue wait.
    #[inline(always)]
    pub(crate) fn reply_at_once<F: Fabric>(
        &mut self,
        slot: u32,
        bufs: BufList,
        fabrics: &mut [F],
    ) -> Result<(), BufList> {
        let command = &mut self.slab[slot];
        let queue = &mut self.queues[command.queue as usize];
        let fabric = &mut fabrics[queue.fabric];
        // Those that wait were here before, and were there no end of newer ones, they would wait for ever.
        if queue.to_send > 0 || !fabric.wants_more(queue.conn) {
            return Err(bufs);
        }
        let last = !bufs.is_empty();
        assert!(
            command.count == u8::from(last),
            "nothing of it is anywhere else"
        );
        (command.head, command.count) = (0, 0);
        command.settled = command.len;
        let reply = Reply {
            bufs,
            last,
            ..reply_to(command)
        };
        reply_last(queue, command, (Status::SUCCESS, 0), reply, fabric);
        note_answer(
            &mut self.clerk,
            &self.config,
            queue,
            command,
            slot,
            Status::SUCCESS,
        );
        self.finish(slot);
        Ok(())
    }

    /// Hands the fabric what waits for it. What a connection has no room for waits on.
    pub(crate) fn send_ready<F: Fabric, D: Backend>(
        &mut self,
        index: usize,
        fabric: &mut F,
        drives: &mut Drives<D>,
    ) -> bool {
        let mut busy = false;
        while let Some((conn, fetch)) = self.fetches[index].pop_front() {
            busy = true;
            fabric.fetch(conn, fetch);
        }
        for _ in 0..self.outboxes[index].len() {
            let Some(outgoing) = self.outboxes[index].pop_front() else {
                break;
            };
            match outgoing {
                Outgoing::Send { slot, generation } => {
                    let command = &self.slab[slot];
                    if command.generation == generation && command.to_send {
                        busy |= self.send(slot, fabric, drives);
                    }
                }
                Outgoing::Close { conn, how } => {
                    busy = true;
                    fabric.close(conn, how);
                }
            }
        }
        busy
    }

    /// Gives the fabric a command's data in order, and its answer after the last. Who finds no room keeps its place
    /// among those of its fabric, and what it has sent makes room for more of it: so a queue's large commands are done
    /// one after the other, not all at last.
    #[inline(never)]
    fn send<F: Fabric, D: Backend>(
        &mut self,
        slot: u32,
        fabric: &mut F,
        drives: &mut Drives<D>,
    ) -> bool {
        let command = &mut self.slab[slot];
        let queue = &mut self.queues[command.queue as usize];
        let conn = queue.conn;
        let mut busy = false;
        loop {
            if !fabric.wants_more(conn) {
                let generation = command.generation;
                self.outboxes[queue.fabric].push_back(Outgoing::Send { slot, generation });
                if busy {
                    self.go_on(slot, drives);
                }
                return busy;
            }
            busy = true;
            command.pop_free_parts();
            let mut reply = reply_to(command);
            let mut first = command.first_part();
            if plant::on(Bug::OrderIgnored) {
                let ordered = |part: &Part| matches!(part.chunk, Chunk::Ordered { .. });
                first = command.parts.iter().position(ordered).or(first);
            }
            if let Some(first) = first
                && let Chunk::Ordered { bufs } = &mut command.parts[first].chunk
            {
                reply.bufs = std::mem::take(bufs);
                let part = &mut command.parts[first];
                part.chunk = Chunk::Free;
                reply.offset = part.offset;
                command.settled += part.len;
                reply.last = command.settled == command.len;
                if reply.last {
                    command.answer = Some((Status::SUCCESS, 0));
                }
                command.pop_free_parts();
            }
            if command.count == 0
                && let Some((status, dw0)) = command.answer
            {
                reply_last(queue, command, (status, dw0), reply, fabric);
                note_answer(&mut self.clerk, &self.config, queue, command, slot, status);
                self.finish(slot);
                return true;
            }
            if reply.bufs.is_empty() {
                break;
            }
            fabric.reply(conn, reply);
        }
        command.to_send = false;
        let at = command.queue as usize;
        self.queues[at].to_send -= 1;
        self.go_on(slot, drives);
        busy
    }

    /// The command is over, and nobody is left to answer.
    pub(crate) fn finish_unanswered(&mut self, slot: u32) {
        let series = self.slab[slot].series;
        self.clerk.end(&self.config.counters.phases, series);
        self.finish(slot);
    }

    /// The command is over: answered, or abandoned. Nothing of it is anywhere.
    #[inline(always)]
    fn finish(&mut self, slot: u32) {
        let command = &mut self.slab[slot];
        if !plant::on(Bug::ParityKept) {
            command.leave_table(&mut self.in_flight);
        }
        if command.large > 0 {
            self.end_large(slot);
        }
        let command = &mut self.slab[slot];
        let at = std::mem::replace(&mut command.queue, NONE);
        let waited = u32::from(command.to_send);
        let queue = &mut self.queues[at as usize];
        queue.to_send -= waited;
        let neighbours = self.slab.free(slot);
        queue.unlink(&mut self.slab, slot, neighbours);
        if queue.state != State::Live {
            self.finished_apart(at);
        }
    }
}

/// A reply to a command, with nothing in it yet.
#[inline]
fn reply_to(command: &Command) -> Reply {
    Reply {
        cid: command.sqe.cid.get(),
        // Without PSDT these bytes are no descriptor, and say nothing about any key.
        sgl: match command.sqe.psdt() {
            Sqe::PSDT_SGL => command.sqe.dptr,
            _ => Sgl::NONE,
        },
        offset: 0,
        bufs: BufList::new(),
        last: false,
        cqe: None,
        may_elide_cqe: false,
    }
}

/// Gives the fabric a command's answer, with what is left of its data in front of it.
#[inline(always)]
fn reply_last<F: Fabric>(
    queue: &mut Queue,
    command: &mut Command,
    (status, dw0): (Status, u64),
    mut reply: Reply,
    fabric: &mut F,
) {
    let ticket = command.ticket.take().expect("one command, one answer");
    let mut cqe = ticket.complete(status, dw0);
    queue.advance_sqhd();
    queue.stamp(&command.sqe, &mut cqe);
    reply.may_elide_cqe = status.is_success() && dw0 == 0 && !queue.flow_control;
    reply.cqe = Some(cqe);
    if plant::on(Bug::AnsweredTwice) && reply.bufs.is_empty() {
        let again = Reply {
            bufs: BufList::new(),
            ..reply
        };
        fabric.reply(queue.conn, again);
    }
    fabric.reply(queue.conn, reply);
}

/// The fabric was given the answer.
#[inline(always)]
fn note_answer(
    clerk: &mut Clerk,
    config: &CoreConfig,
    queue: &Queue,
    command: &Command,
    slot: u32,
    status: Status,
) {
    if command.series != NO_SERIES {
        clerk.answered.push((slot, command.queue));
    }
    count_done(config, queue, command, status);
}

/// Counts a command that was answered.
#[inline(always)]
fn count_done(config: &CoreConfig, queue: &Queue, command: &Command, status: Status) {
    let bytes = u64::from(command.len);
    let (core, counters) = (config.index, &config.counters);
    if !status.is_success() {
        counters.errors.note(status);
    }
    if !status.is_success() || queue.qid == 0 {
        return;
    }
    match command.kind {
        Kind::Read => {
            counters.reads.add(1);
            counters.read_bytes.add(bytes);
            if let Some(who) = &queue.who {
                who.count_read(core, bytes);
            }
        }
        Kind::Compare => {
            if let Some(who) = &queue.who {
                who.count_read(core, bytes);
            }
        }
        Kind::Verify => {
            if let Some(who) = &queue.who {
                who.count_units_read(core, bytes << command.block_shift);
            }
        }
        Kind::Write { .. } => {
            counters.writes.add(1);
            counters.written_bytes.add(bytes);
            if let Some(who) = &queue.who {
                who.count_write(core, bytes);
            }
        }
        _ => {}
    }
}
