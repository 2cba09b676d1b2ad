//! One queue: a socket around the PDU machine.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut, Read};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferroce_wire::sqe::Sqe;
use socket2::{SockRef, TcpKeepalive};

use super::{Completion, Data, HostError, Options, Refused, RefusedWhy};
use crate::sys::{self, IoList};
use crate::tcp::frame::Digests;
use crate::tcp::host::{Broken, Conn, Wishes};

/// Bytes that one system call sends, at most: what came meanwhile is to be looked at, too.
const SEND_MAX: usize = 1 << 20;
/// What is received at once where most of each PDU goes to its own memory by itself.
const BETWEEN_LARGE: usize = 4096;
/// How long a socket that takes nothing is left alone by [`Queue::wait`].
const SEND_RETRY: Duration = Duration::from_millis(1);

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
    socket: TcpStream,
    conn: Conn,
    staging: Box<[u8]>,
    /// Completions that [`Queue::exec`] met while it waited for its own.
    stash: VecDeque<Completion>,
    error: Option<HostError>,
    timeout: Duration,
}

impl Queue {
    /// A TCP connection, and the handshake of NVMe/TCP on it.
    pub(super) fn open(
        address: SocketAddr,
        qid: u16,
        depth: u16,
        options: &Options,
    ) -> Result<Queue, HostError> {
        let unreachable = |cause| HostError::Unreachable {
            address,
            cause: Arc::new(cause),
        };
        let socket = TcpStream::connect_timeout(&address, options.timeout).map_err(unreachable)?;
        prepare(&socket, options).map_err(unreachable)?;
        let wishes = Wishes {
            digests: Digests {
                header: options.header_digest,
                data: options.data_digest,
            },
            hpda: 0,
            maxr2t: options.maxr2t,
            depth,
        };
        let mut queue = Queue {
            qid,
            address,
            socket,
            conn: Conn::new(wishes),
            staging: vec![0; options.receive_len.max(BETWEEN_LARGE)].into_boxed_slice(),
            stash: VecDeque::with_capacity(usize::from(depth)),
            error: None,
            timeout: options.timeout,
        };
        queue.handshake()?;
        if queue.conn.digests() != wishes.digests {
            return Err(HostError::NoDigests { address });
        }
        Ok(queue)
    }

    fn handshake(&mut self) -> Result<(), HostError> {
        let address = self.address;
        let deadline = Instant::now() + self.timeout;
        while !self.conn.is_open() {
            self.exchange();
            if let Some(error) = self.error.take() {
                let what = match error {
                    HostError::Closed { .. } => "it closed the connection".into(),
                    HostError::Protocol { broken, .. } => match broken {
                        Broken::Violation(violation) => {
                            let mut text = format!("it sent {:02x?}", violation.header);
                            if let Ok(ascii) = std::str::from_utf8(&violation.header)
                                && ascii.chars().all(|c| !c.is_control() || c.is_whitespace())
                            {
                                text = format!("it sent {ascii:?}");
                            }
                            format!("{text}: {}", violation.what)
                        }
                        Broken::Terminated { .. } => broken.to_string(),
                    },
                    other => return Err(other),
                };
                return Err(HostError::NotNvmeTcp { address, what });
            }
            if !self.conn.is_open() {
                self.wait_until(deadline, "ICResp")?;
            }
        }
        Ok(())
    }

    pub(super) fn conn_mut(&mut self) -> &mut Conn {
        &mut self.conn
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
        self.conn.depth()
    }

    /// Commands that were submitted and not yet polled as completed.
    #[inline]
    pub fn outstanding(&self) -> usize {
        self.conn.outstanding() + self.stash.len()
    }

    /// Why the queue is dead; None while it lives.
    #[inline]
    pub fn error(&self) -> Option<&HostError> {
        self.error.as_ref()
    }

    /// Queues a command; it leaves with the next [`Queue::flush`] or [`Queue::poll`]. `user_data`
    /// comes back with the completion. CID, PSDT and data pointer are filled in. Returns the CID.
    ///
    /// # Errors
    /// Gives the data back if the queue is full or dead.
    ///
    /// # Panics
    /// If the opcode takes no such data: data for a Flush, [`Data::Discard`] for a write.
    #[inline]
    pub fn submit(&mut self, sqe: Sqe, data: Data, user_data: u64) -> Result<u16, Refused> {
        self.conn.submit(sqe, data, user_data)
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
        self.conn.poll()
    }

    /// Sends what is queued and the socket takes.
    pub fn flush(&mut self) {
        if self.error.is_none()
            && let Err(cause) = self.send()
        {
            self.fail(HostError::lost(self.address, cause));
        }
    }

    /// Sends and receives once, without waiting; [`Queue::next_done`] has what came.
    pub fn exchange(&mut self) {
        self.flush();
        if self.error.is_none() {
            self.receive();
        }
    }

    fn send(&mut self) -> io::Result<()> {
        while self.conn.wants_send() {
            let mut list = IoList::new(SEND_MAX);
            self.conn.gather(|piece| list.push(piece));
            let len = list.len();
            let sent = match sys::send(self.socket.as_fd(), &list) {
                Ok(sent) => sent,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.conn.sent(sent);
            if sent < len {
                return Ok(());
            }
        }
        Ok(())
    }

    fn receive(&mut self) {
        let mut socket = &self.socket;
        let (direct_len, result) = if let Some(direct) = self.conn.direct() {
            let len = direct.len();
            let behind = &mut self.staging[..BETWEEN_LARGE];
            let mut pieces = [IoSliceMut::new(direct), IoSliceMut::new(behind)];
            (len, socket.read_vectored(&mut pieces))
        } else if self.conn.has_large_pdus() {
            (0, socket.read(&mut self.staging[..BETWEEN_LARGE]))
        } else {
            (0, socket.read(&mut self.staging))
        };
        let count = match result {
            Ok(0) => {
                let address = self.address;
                return self.fail(HostError::Closed { address });
            }
            Ok(count) => count,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) =>
            {
                return;
            }
            Err(cause) => return self.fail(HostError::lost(self.address, cause)),
        };
        let direct = count.min(direct_len);
        if direct > 0 {
            self.conn.direct_received(direct);
        }
        if let Err(broken) = self.conn.received(&self.staging[..count - direct]) {
            self.broken(broken);
        }
    }

    fn broken(&mut self, broken: Broken) {
        if let Broken::Violation(violation) = &broken {
            self.conn.terminate(violation);
            // Nobody waits for the TermReq to arrive: the connection is over either way.
            let _ = self.send();
        }
        let address = self.address;
        self.fail(HostError::Protocol { address, broken });
    }

    /// The queue is dead: all its commands are completed.
    pub(super) fn fail(&mut self, error: HostError) {
        if self.error.is_some() {
            return;
        }
        self.error = Some(error);
        // Not read: closing at once would throw a TermReq away that is still on its way.
        let _ = self.socket.shutdown(Shutdown::Write);
        self.conn.end();
    }

    /// Sleeps until there may be something to poll, or `timeout` is over. For those who do not spin;
    /// true if there is.
    pub fn wait(&mut self, timeout: Duration) -> bool {
        if !self.stash.is_empty() || self.conn.has_done() {
            return true;
        }
        self.flush();
        if self.error.is_some() {
            return true;
        }
        let timeout = if self.conn.wants_send() {
            timeout.min(SEND_RETRY)
        } else {
            timeout
        };
        match readable(&self.socket, timeout) {
            Ok(readable) => readable,
            Err(cause) => {
                self.fail(HostError::lost(self.address, cause));
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
    /// later would find its memory gone.
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
        };
        let deadline = Instant::now() + self.timeout;
        loop {
            while let Some(completion) = self.conn.poll() {
                if completion.cqe.cid.get() == cid {
                    return match &self.error {
                        Some(error) => Err(error.clone()),
                        None => Ok(completion),
                    };
                }
                self.stash.push_back(completion);
            }
            self.exchange();
            if self.error.is_none() && !self.conn.has_done() {
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

fn prepare(socket: &TcpStream, options: &Options) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    socket.set_nodelay(true)?;
    let socket = SockRef::from(socket);
    // A target that is gone is noticed even if no keep-alive was agreed on.
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(10))
        .with_interval(Duration::from_secs(5))
        .with_retries(3);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(options.timeout.max(Duration::from_secs(1))))
}

/// Sleeps until there is something to read, be it the end.
fn readable(socket: &TcpStream, timeout: Duration) -> io::Result<bool> {
    if timeout.is_zero() {
        return Ok(false);
    }
    socket.set_nonblocking(false)?;
    socket.set_read_timeout(Some(timeout.max(Duration::from_micros(10))))?;
    let result = socket.peek(&mut [0]);
    socket.set_nonblocking(true)?;
    match result {
        Ok(_) => Ok(true),
        Err(error) => match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Ok(false),
            io::ErrorKind::Interrupted => Ok(true),
            _ => Err(error),
        },
    }
}
