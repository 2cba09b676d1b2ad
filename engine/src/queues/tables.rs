//! A new table on a core: what begins sees it, and the control thread hears when nothing is left that
//! began under the one before.

use std::sync::Arc;

use ferroce_wire::status::Status;

use super::Queues;
use crate::admin;
use crate::command::Kind;
use crate::drives::Drives;
use crate::limits;
use crate::mail::ToControl;
use crate::plant::{self, Bug};
use crate::port::{Backend, Tick};
use crate::table::Table;

impl Queues {
    pub(crate) fn on_table(&mut self, table: Arc<Table>) {
        let old = std::mem::replace(&mut self.table, table);
        if old.epoch != self.table.epoch {
            self.draining = Some(self.now);
        }
        let (core, version) = (self.config.index, self.table.version);
        self.mail.push_back(ToControl::HasTable { core, version });
        for queue in &mut self.queues {
            if let Some(subsystem) = &queue.subsystem {
                // A subsystem that was removed stays with its queues until they end.
                if let Some(new) = self.table.subsystems.get(&subsystem.nqn) {
                    queue.subsystem = Some(new.clone());
                }
            }
        }
        self.untold.get_or_insert(old);
    }

    /// Hosts are told what is new in the table, now that every core works by it.
    pub(crate) fn on_tell(&mut self, version: u64) {
        if self.table.version != version {
            return;
        }
        let Some(old) = self.untold.take() else {
            return;
        };
        for at in 0..self.controllers.len() {
            if let Some(controller) = &mut self.controllers[at] {
                admin::on_table(controller, &old, &self.table);
                let queue = controller.queue;
                self.pump_events(queue);
            }
        }
    }

    /// The count of commands that began under the table before.
    fn old_parity(&self) -> u8 {
        ((self.table.epoch + 1) % 2) as u8
    }

    /// Tells the control thread if nothing is left that began under an earlier table.
    pub(super) fn tell_drained(&mut self) {
        if self.draining.is_none() {
            return;
        }
        let gone = self.in_flight[usize::from(self.old_parity())] == 0;
        if gone || plant::on(Bug::DrainedEarly) {
            self.draining = None;
            let (core, epoch) = (self.config.index, self.table.epoch);
            self.mail.push_back(ToControl::Drained { core, epoch });
        }
    }

    /// Commands that began under an earlier table and wait for their hosts, or for memory, do not
    /// hold a change up for ever. What is at a drive is awaited.
    pub(super) fn hurry_old<D: Backend>(&mut self, drives: &mut Drives<D>) {
        let late = |since: Tick| self.now > since.plus_ms(limits::DRAIN_MS);
        if !self.draining.is_some_and(late) || plant::on(Bug::DrainsForEver) {
            return;
        }
        let parity = self.old_parity();
        for slot in 0..self.slab.end() {
            let command = &mut self.slab[slot];
            if command.parity != parity || command.at_drive() {
                continue;
            }
            // No drive hears of it any more.
            command.leave_table(&mut self.in_flight);
            let all_read = command.kind == Kind::Read && command.started == command.len;
            if command.answer.is_none() && !all_read {
                self.interrupt(slot, Status::COMMAND_INTERRUPTED, drives);
            }
        }
    }

    /// A command of which no drive has anything ends here; the host may try it again.
    pub(super) fn interrupt<D: Backend>(
        &mut self,
        slot: u32,
        status: Status,
        drives: &mut Drives<D>,
    ) {
        self.slab[slot].error.get_or_insert(status);
        self.drop_parts(slot, drives);
        self.end_in_error(slot);
    }
}
