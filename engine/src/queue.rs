//! One SQ and CQ, which is one connection: from the transport's handshake to its end.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use ferroce_wire::cqe::Cqe;
use ferroce_wire::opcode::FabricsType;
use ferroce_wire::sqe::Sqe;

use crate::command::{Command, NONE, Slab};
use crate::controller::Association;
use crate::limits;
use crate::plant::{self, Bug};
use crate::port::{ConnId, Tick};
use crate::table::{Subsystem, Transport};

/// Names a queue in mail; the life tells a slot's users apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct QueueRef {
    /// Index on its core.
    pub slot: u32,
    /// Life of the slot.
    pub life: u32,
}

/// Where a queue is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// The slot is free.
    Unused,
    /// Waits for Connect.
    Fresh,
    /// Connect came; its data is being fetched, or the control thread thinks about it.
    Connecting,
    /// Connected.
    Live,
    /// To be closed when everything is answered and sent, Disconnect as the last of it; takes no more commands.
    Closing,
    /// Closed by the fabric, or about to be. Nobody is answered any more; what is at drives is
    /// awaited.
    Dead,
}

/// A queue.
#[derive(Debug)]
pub struct Queue {
    /// Life of this slot.
    pub life: u32,
    /// Where it is in its life.
    pub state: State,
    /// Index of its fabric on this core.
    pub fabric: usize,
    /// Its connection.
    pub conn: ConnId,
    /// The connection is gone; nothing can be sent.
    pub closed: bool,
    /// The address the host came to.
    pub local: SocketAddr,
    /// The host's address.
    pub peer: SocketAddr,
    /// What the host came by.
    pub transport: Transport,
    /// Queue identifier; 0 is the admin queue.
    pub qid: u16,
    /// Entries (SQSIZE + 1); 0 until Connect is admitted.
    pub depth: u16,
    /// SQ head, counted if there is SQ flow control.
    pub sqhd: u16,
    /// The host left SQ flow control on.
    pub flow_control: bool,
    /// Whose it is, once connected.
    pub who: Option<Arc<Association>>,
    /// Of an admin queue: index of its controller on this core.
    pub controller: Option<u32>,
    /// What it serves; `None` for discovery.
    pub subsystem: Option<Arc<Subsystem>>,
    /// First of its commands.
    pub commands: u32,
    /// How many commands it has.
    pub in_flight: u32,
    /// A Disconnect that waits for the others to be answered.
    pub disconnect: u32,
    /// Those of them that have something to send, and wait for it.
    pub to_send: u32,
    /// Bytes of its reads of several parts that are under way.
    pub large: u32,
    /// Those (slot, generation) that wait for these, in order.
    pub behind: VecDeque<(u32, u32)>,
    /// Index of its host on this core; 0 until Connect is admitted.
    pub host: u32,
    /// It must be connected by then.
    pub deadline: Tick,
    /// It was admitted: the control thread wants to hear of its end.
    pub admitted: bool,
}

impl Queue {
    pub(crate) fn unused(life: u32) -> Queue {
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        Queue {
            life,
            state: State::Unused,
            fabric: 0,
            conn: ConnId {
                slot: NONE,
                generation: 0,
            },
            closed: false,
            local: nowhere,
            peer: nowhere,
            transport: Transport::Tcp,
            qid: 0,
            depth: 0,
            sqhd: 0,
            flow_control: true,
            who: None,
            controller: None,
            subsystem: None,
            commands: NONE,
            in_flight: 0,
            disconnect: NONE,
            to_send: 0,
            large: 0,
            behind: VecDeque::new(),
            host: 0,
            deadline: Tick(u64::MAX),
            admitted: false,
        }
    }

    /// A read of so many bytes, in several parts, may begin.
    pub fn has_room(&self, len: u32) -> bool {
        self.large == 0 || self.large + len <= limits::LARGE_READS
    }

    /// It begins.
    pub fn begin_large(&mut self, command: &mut Command) {
        command.large = command.len;
        self.large += command.len;
    }

    /// A command is answered, and its entry of the submission queue free: not before, or a host that goes by the head would have
    /// more under way than there are entries (Base 3.3.2.6).
    #[inline]
    pub fn advance_sqhd(&mut self) {
        self.sqhd += 1;
        if self.sqhd >= self.depth {
            self.sqhd = 0;
        }
    }

    /// Fills in what the completion of `sqe` says of its queue.
    #[inline]
    pub fn stamp(&self, sqe: &Sqe, cqe: &mut Cqe) {
        let sqhd = if self.flow_control {
            self.sqhd
        } else if sqe.fabrics_type() == Some(FabricsType::CONNECT) {
            // That the host need not heed SQHD is said once; afterwards it is 0 (Base 3.3.2.5).
            Cqe::SQHD_NO_FLOW_CONTROL
        } else {
            0
        };
        let wrong = plant::on(Bug::HeadTooFar) && self.flow_control;
        cqe.sqhd = (sqhd + u16::from(wrong)).into();
    }

    /// Adds a command to the queue's list.
    #[inline]
    pub fn link(&mut self, slab: &mut Slab, slot: u32) {
        let command = &mut slab[slot];
        (command.before, command.after) = (NONE, self.commands);
        if self.commands != NONE {
            slab[self.commands].before = slot;
        }
        self.commands = slot;
        self.in_flight += 1;
    }

    /// Takes a command out of the queue's list, where it had these neighbours.
    #[inline]
    pub fn unlink(&mut self, slab: &mut Slab, slot: u32, (before, after): (u32, u32)) {
        if before == NONE {
            assert!(
                self.commands == slot,
                "the first command is the list's head"
            );
            self.commands = after;
        } else {
            slab[before].after = after;
        }
        if after != NONE {
            slab[after].before = before;
        }
        self.in_flight -= 1;
    }
}
