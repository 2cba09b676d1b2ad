//! Abort (Base 5.1.1): ends what waits and can end at once. What a drive or the fabric has is not aborted,
//! nor are commands of queues on other cores: "best effort" is all the specification asks.

use ferroce_wire::status::Status;

use super::Queues;
use crate::command::{Chunk, Kind, NONE};
use crate::drives::Drives;
use crate::port::Backend;
use crate::queue::State;

impl Queues {
    /// Aborts what an Abort command names; true if that was aborted, and is answered before the Abort.
    pub(super) fn abort<D: Backend>(&mut self, abort: u32, drives: &mut Drives<D>) -> bool {
        let sqe = self.slab[abort].sqe;
        let (sqid, cid) = (sqe.abort_sqid(), sqe.abort_cid());
        let admin = self.queue(abort);
        let (who, controller) = (admin.who.clone(), admin.controller);
        let Some(who) = who else {
            return false;
        };
        let named = self.queues.iter().find(|queue| {
            let mine = queue.who.as_ref().is_some_and(|it| it.cntlid == who.cntlid);
            mine && queue.qid == sqid && queue.state == State::Live
        });
        let mut slot = named.map_or(NONE, |queue| queue.commands);
        while slot != NONE {
            let command = &self.slab[slot];
            if command.sqe.cid.get() == cid && slot != abort && command.answer.is_none() {
                break;
            }
            slot = command.after;
        }
        if slot == NONE {
            return false;
        }
        let command = &self.slab[slot];
        if command.kind == Kind::Admin {
            // Of these only Asynchronous Event Requests wait for long.
            let controller = controller.and_then(|at| self.controllers[at as usize].as_mut());
            let aers = &mut controller.expect("a live admin queue has one").aers;
            let Some(at) = aers.iter().position(|aer| *aer == slot) else {
                return false;
            };
            aers.remove(at);
            self.complete(slot, Status::ABORT_REQUESTED, 0);
            return true;
        }
        let going_out = |chunk: &Chunk| matches!(chunk, Chunk::Ordered { .. });
        let begun = command.settled > 0 || command.parts.iter().any(|part| going_out(&part.chunk));
        if begun || command.error.is_some() || command.at_drive() || command.at_fabric() {
            return false;
        }
        self.interrupt(slot, Status::ABORT_REQUESTED, drives);
        true
    }
}
