//! What carries commands to a target and brings the answers: the same calls whatever lies between, so that loads,
//! schedules and reports need not know.

use std::time::Duration;

use ferroce_engine::host as nvme;
use ferroce_transport::host::{Completion, Data, Queue};

use super::{drive, memory, raw};

/// A command.
#[derive(Clone, Copy, Debug)]
pub struct Io {
    /// Namespace.
    pub nsid: u32,
    /// First block.
    pub lba: u64,
    /// How many.
    pub blocks: u32,
    /// Write them, or read them.
    pub write: bool,
}

/// One connection.
#[derive(Debug)]
pub enum Link {
    /// A queue of a controller.
    Nvme(Queue),
    /// The same bytes without a protocol.
    Raw(raw::Queue),
    /// The same datagrams without a protocol.
    Datagrams(Box<raw::datagrams::Queue>),
    /// A target that is nothing but memory in this process.
    Memory(Box<memory::Queue>),
    /// A drive of this machine.
    Drive(Box<drive::Queue>),
    /// Lost, and not made again yet.
    Gone(String),
}

impl Link {
    /// Commands that may be outstanding at a time.
    pub fn depth(&self) -> usize {
        match self {
            Link::Nvme(queue) => queue.depth(),
            Link::Raw(queue) => queue.book.depth(),
            Link::Datagrams(queue) => queue.book.depth(),
            Link::Memory(queue) => queue.depth(),
            Link::Drive(queue) => queue.depth(),
            Link::Gone(_) => 0,
        }
    }

    /// Queues a command; it leaves with the next flush or exchange. Gives the data back if it is full or dead.
    #[inline]
    pub fn submit(&mut self, io: &Io, data: Data, user_data: u64) -> Result<(), Data> {
        match self {
            Link::Nvme(queue) => match queue.submit(sqe(io), data, user_data) {
                Ok(_) => Ok(()),
                Err(refused) => Err(refused.data),
            },
            Link::Raw(queue) => queue.submit(io, data, user_data),
            Link::Datagrams(queue) => queue.submit(io, data, user_data),
            Link::Memory(queue) => queue.submit(sqe(io), data, user_data),
            Link::Drive(queue) => queue.submit(io, data, user_data),
            Link::Gone(_) => Err(data),
        }
    }

    /// Sends what is queued and is taken.
    #[inline]
    pub fn flush(&mut self) {
        match self {
            Link::Nvme(queue) => queue.flush(),
            Link::Raw(queue) => queue.flush(),
            Link::Datagrams(queue) => queue.flush(),
            Link::Drive(queue) => queue.flush(),
            Link::Memory(_) | Link::Gone(_) => (),
        }
    }

    /// Sends and receives once, without waiting.
    #[inline]
    pub fn exchange(&mut self) {
        match self {
            Link::Nvme(queue) => queue.exchange(),
            Link::Raw(queue) => queue.exchange(),
            Link::Datagrams(queue) => queue.exchange(),
            Link::Memory(queue) => queue.exchange(),
            Link::Drive(queue) => queue.flush(),
            Link::Gone(_) => (),
        }
    }

    /// The next completion of those that came.
    #[inline]
    pub fn next_done(&mut self) -> Option<Completion> {
        match self {
            Link::Nvme(queue) => queue.next_done(),
            Link::Raw(queue) => queue.book.next_done(),
            Link::Datagrams(queue) => queue.book.next_done(),
            Link::Memory(queue) => queue.next_done(),
            Link::Drive(queue) => queue.next_done(),
            Link::Gone(_) => None,
        }
    }

    /// Commands without an answer.
    #[inline]
    pub fn outstanding(&self) -> usize {
        match self {
            Link::Nvme(queue) => queue.outstanding(),
            Link::Raw(queue) => queue.book.outstanding(),
            Link::Datagrams(queue) => queue.book.outstanding(),
            Link::Memory(queue) => queue.outstanding(),
            Link::Drive(queue) => queue.outstanding(),
            Link::Gone(_) => 0,
        }
    }

    /// Why it is dead; None while it lives.
    pub fn error(&self) -> Option<String> {
        match self {
            Link::Nvme(queue) => queue.error().map(ToString::to_string),
            Link::Raw(queue) => queue.book.error().map(str::to_owned),
            Link::Datagrams(queue) => queue.book.error().map(str::to_owned),
            Link::Memory(queue) => queue.error().map(str::to_owned),
            // One that fails answers every command with that.
            Link::Drive(_) => None,
            Link::Gone(why) => Some(why.clone()),
        }
    }

    /// True if it is dead.
    #[inline]
    pub fn is_dead(&self) -> bool {
        match self {
            Link::Nvme(queue) => queue.error().is_some(),
            Link::Raw(queue) => queue.book.error().is_some(),
            Link::Datagrams(queue) => queue.book.error().is_some(),
            Link::Memory(queue) => queue.error().is_some(),
            Link::Drive(_) => false,
            Link::Gone(_) => true,
        }
    }

    /// Sleeps until there may be something, or `limit` is over.
    pub fn wait(&mut self, limit: Duration) {
        match self {
            Link::Nvme(queue) => {
                queue.wait(limit);
            }
            Link::Raw(queue) => queue.wait(limit),
            Link::Datagrams(_) | Link::Memory(_) | Link::Gone(_) => std::thread::yield_now(),
            Link::Drive(queue) => queue.wait(limit),
        }
    }
}

#[inline]
fn sqe(io: &Io) -> ferroce_wire::sqe::Sqe {
    if io.write {
        nvme::write(io.nsid, io.lba, io.blocks, false)
    } else {
        nvme::read(io.nsid, io.lba, io.blocks)
    }
}
