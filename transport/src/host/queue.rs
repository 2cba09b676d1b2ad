//! One queue: commands in, completions out, whatever carries them.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferroce_buf::Region;
use ferroce_wire::sqe::Sqe;

use super::rdma::RdmaWire;
use super::tcp::TcpWire;
use super::{Completion, Data, HostError, Options, Refused, RefusedWhy, Via};
#[cfg(feature = "verbs")]
use crate::rdma::verbs::VerbsProvider;
use crate::roce::provider::Roce;

/// A connected queue: commands in, completions out, polled.
///
/// It belongs to whoever holds it and can move to a thread of its own. [`Queue::submit`] only
/// queues; [`Queue::poll`] sends what was queued and receives, in one system call each, once all
/// completions it had were given out: so commands go out in batches by themselves. Nothing is
/// allocated per command.
///
/// When the connection is lost, every command without an answer is completed with
/// `Status::HOST_PATHING_ERROR`, and [`Queue::error`] says what happened.
#[derive(Debug)]
pub struct Queue {
    qid: u16,
    address: SocketAddr,
    wire: Wire,
    /// Completions that [`Queue::exec`] met while it waited for its own.
    stash: VecDeque<Completion>,
    error: Option<HostError>,
    timeout: Duration,
}

/// What carries a queue.
#[derive(Debug)]
enum Wire {
    Tcp(Box<TcpWire>),
    Roce(Box<RdmaWire<Roce>>),
    #[cfg(feature = "verbs")]
    Verbs(Box<RdmaWire<VerbsProvider>>),
}

macro_rules! each_wire {
    ($self:expr, $wire:ident => $call:expr) => {
        match $self {
            Wire::Tcp($wire) => $call,
            Wire::Roce($wire) => $call,
            #[cfg(feature = "verbs")]
            Wire::Verbs($wire) => $call,
        }
    };
}

impl Queue {
    /// A connection to a target, and the transport's handshake on it.
    pub(super) fn open(
        address: SocketAddr,
        qid: u16,
        depth: u16,
        options: &Options,
    ) -> Result<Queue, HostError> {
        let wire = match &options.via {
            Via::Tcp => Wire::Tcp(Box::new(TcpWire::open(address, depth, options)?)),
            Via::Roce(host) => Wire::Roce(Box::new(RdmaWire::open(host, address, qid, depth)?)),
            #[cfg(feature = "verbs")]
            Via::Verbs(host) => Wire::Verbs(Box::new(RdmaWire::open(host, address, qid, depth)?)),
        };
        let mut queue = Queue {
            qid,
            address,
            wire,
            stash: VecDeque::with_capacity(usize::from(depth)),
            error: None,
            timeout: options.timeout,
        };
        queue.handshake()?;
        if let Wire::Tcp(wire) = &queue.wire {
            wire.check(options)?;
        }
        Ok(queue)
    }

    fn handshake(&mut self) -> Result<(), HostError> {
        let deadline = Instant::now() + self.timeout;
        while !each_wire!(&self.wire, wire => wire.conn.is_open()) {
            self.exchange();
            if let Some(error) = self.error.take() {
                return Err(match &self.wire {
                    Wire::Tcp(wire) => wire.not_nvme(error),
                    _ => error,
                });
            }
            if !each_wire!(&self.wire, wire => wire.conn.is_open()) {
                let what = match &self.wire {
                    Wire::Tcp(_) => "ICResp",
                    _ => "answer to the request for a queue pair",
                };
                self.wait_until(deadline, what)?;
            }
        }
        Ok(())
    }

    /// What an I/O queue may have of in-capsule data, in bytes (IOCCSZ less the SQE).
    pub(super) fn set_in_capsule(&mut self, bytes: u32) {
        each_wire!(&mut self.wire, wire => wire.conn.set_in_capsule(bytes));
    }

    /// Without it, which Connect asks for, the target need not send completions that say nothing.
    pub(super) fn set_sq_flow_control(&mut self, on: bool) {
        // Over RDMA each command has its completion.
        if let Wire::Tcp(wire) = &mut self.wire {
            wire.conn.set_sq_flow_control(on);
        }
    }

    /// The queue's number: 0 is an admin queue.
    pub fn qid(&self) -> u16 {
        self.qid
    }

    /// The target's address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Commands that may be outstanding at a time.
    pub fn depth(&self) -> usize {
        each_wire!(&self.wire, wire => wire.conn.depth())
    }

    /// Commands that were submitted and not yet polled as completed.
    #[inline]
    pub fn outstanding(&self) -> usize {
        each_wire!(&self.wire, wire => wire.conn.outstanding()) + self.stash.len()
    }

    /// Why the queue is dead; None while it lives.
    #[inline]
    pub fn error(&self) -> Option<&HostError> {
        self.error.as_ref()
    }

    /// Lets the queue's commands have data in Bufs of this region, for as long as it lives. Over TCP and software RoCEv2 they
    /// may without. Other queues on the same RDMA device need not ask again. Takes its time, and locks the memory.
    ///
    /// # Errors
    /// If it cannot be locked, with the limit and how to raise it.
    pub fn register(&mut self, region: &Arc<Region>) -> Result<(), HostError> {
        match &mut self.wire {
            Wire::Tcp(_) => Ok(()),
            Wire::Roce(wire) => wire.register(region),
            #[cfg(feature = "verbs")]
            Wire::Verbs(wire) => wire.register(region),
        }
    }

    /// Queues a command; it leaves with the next [`Queue::flush`] or [`Queue::poll`]. `user_data`
    /// comes back with the completion. CID, PSDT and data pointer are filled in. Returns the CID.
    ///
    /// # Errors
    /// Gives the data back if the queue is full or dead, or its device may not reach the Buf: see [`Queue::register`].
    ///
    /// # Panics
    /// If the opcode takes no such data: data for a Flush, [`Data::Discard`] for a write.
    #[inline]
    pub fn submit(&mut self, sqe: Sqe, data: Data, user_data: u64) -> Result<u16, Refused> {
        match &mut self.wire {
            Wire::Tcp(wire) => wire.conn.submit(sqe, data, user_data),
            Wire::Roce(wire) => wire.submit(sqe, data, user_data),
            #[cfg(feature = "verbs")]
            Wire::Verbs(wire) => wire.submit(sqe, data, user_data),
        }
    }

    /// The next completion, if there is one. Sends and receives only when none was left over from
    /// before.
    #[inline]
    pub fn poll(&mut self) -> Option<Completion> {
        if let Some(completion) = self.next_done() {
            return Some(completion);
        }
        self.exchange();
        self.next_done()
    }

    /// The next completion of those that came with an earlier [`Queue::exchange`]: without a system
    /// call, so that one look at the clock serves for all that came together.
    #[inline]
    pub fn next_done(&mut self) -> Option<Completion> {
        if !self.stash.is_empty() {
            return self.stash.pop_front();
        }
        each_wire!(&mut self.wire, wire => wire.conn.poll())
    }

    fn has_done(&self) -> bool {
        each_wire!(&self.wire, wire => wire.conn.has_done())
    }

    /// Sends what is queued and the socket takes.
    pub fn flush(&mut self) {
        if self.error.is_none()
            && let Err(error) = each_wire!(&mut self.wire, wire => wire.flush())
        {
            self.fail(error);
        }
    }

    /// Sends and receives once, without waiting; [`Queue::next_done`] has what came.
    pub fn exchange(&mut self) {
        self.flush();
        // What is posted to a dead queue pair comes back, too.
        let drains = !matches!(self.wire, Wire::Tcp(_));
        if (self.error.is_none() || drains)
            && let Err(error) = each_wire!(&mut self.wire, wire => wire.receive())
        {
            self.fail(error);
        }
    }

    /// The queue is dead: all its commands are completed.
    pub(super) fn fail(&mut self, error: HostError) {
        if self.error.is_some() {
            return;
        }
        self.error = Some(error);
        each_wire!(&mut self.wire, wire => wire.end());
    }

    /// Sleeps until there may be something to poll, or `timeout` is over. For those who do not spin;
    /// true if there is.
    pub fn wait(&mut self, timeout: Duration) -> bool {
        if !self.stash.is_empty() || self.has_done() {
            return true;
        }
        self.flush();
        if self.error.is_some() {
            return true;
        }
        match each_wire!(&mut self.wire, wire => wire.wait(timeout)) {
            Ok(readable) => readable,
            Err(error) => {
                self.fail(error);
                true
            }
        }
    }

    /// Waits like [`Queue::wait`]; an error if that is in vain, or the queue is dead.
    pub(super) fn wait_until(
        &mut self,
        deadline: Instant,
        what: &'static str,
    ) -> Result<(), HostError> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(HostError::Timeout {
                address: self.address,
                what,
                after: self.timeout,
            });
        }
        self.wait(left);
        match &self.error {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }

    /// Submits a command and waits for its completion, whatever its status; `what` names it in
    /// errors. Completions of other commands are kept for [`Queue::poll`].
    ///
    /// # Errors
    /// The queue is dead, or no completion came in time, which is its death too: an answer that comes
    /// later would find its memory gone. Or the data is in a Buf that was not registered.
    ///
    /// # Panics
    /// If the queue is full.
    pub fn exec(
        &mut self,
        sqe: Sqe,
        data: Data,
        what: &'static str,
    ) -> Result<Completion, HostError> {
        let cid = match self.submit(sqe, data, 0) {
            Ok(cid) => cid,
            Err(Refused {
                why: RefusedWhy::Full,
                ..
            }) => panic!("exec on a full queue"),
            Err(Refused {
                why: RefusedWhy::Dead,
                ..
            }) => return Err(self.error.clone().expect("a dead queue knows why")),
            Err(Refused {
                why: RefusedWhy::NotRegistered,
                ..
            }) => {
                return Err(HostError::NoMemory {
                    address: self.address,
                    why: format!(
                        "the data of {what} lies in a region that is not registered with the RDMA device; \
                         Queue::register does that"
                    ),
                });
            }
        };
        let deadline = Instant::now() + self.timeout;
        loop {
            while let Some(completion) = each_wire!(&mut self.wire, wire => wire.conn.poll()) {
                if completion.cqe.cid.get() == cid {
                    return match &self.error {
                        Some(error) => Err(error.clone()),
                        None => Ok(completion),
                    };
                }
                self.stash.push_back(completion);
            }
            self.exchange();
            if self.error.is_none() && !self.has_done() {
                self.wait_for_bytes(deadline, what);
            }
        }
    }

    /// As [`Queue::wait_until`], but what lies in the stash does not count, and an error is the
    /// queue's: the caller finds its own command completed then.
    fn wait_for_bytes(&mut self, deadline: Instant, what: &'static str) {
        let stash = std::mem::take(&mut self.stash);
        let result = self.wait_until(deadline, what);
        self.stash = stash;
        if let Err(error) = result {
            self.fail(error);
        }
    }
}
