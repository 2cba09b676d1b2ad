//! The requesting end of one connection.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::time::Duration;

use ferroce_transport::host::{Completion, Data};
use ferroce_transport::sys::{self, IoList};
use ferroce_wire::cqe::Cqe;
use ferroce_wire::status::Status;

use super::{REPLY, REQUEST, Request, What};
use crate::probe::link::Io;

/// What one call sends, and receives, at most.
const SEND_MAX: usize = 1 << 20;
/// How long it sleeps at most while the socket takes nothing.
const SEND_RETRY: Duration = Duration::from_millis(1);
const RECEIVE_MAX: usize = 256 * 1024;

/// A connection to a raw server. Replies come in the order of the requests, so nothing but lengths is needed to tell
/// them apart.
#[derive(Debug)]
pub struct Queue {
    socket: TcpStream,
    depth: usize,
    /// Bytes of the server's memory.
    size: u64,
    waiting: VecDeque<Waiting>,
    /// Of those, so many were sent whole, and of the next so many bytes.
    sent: usize,
    sent_of_next: usize,
    /// Bytes of the oldest one's reply that came.
    came: usize,
    staging: Box<[u8]>,
    done: VecDeque<Completion>,
    error: Option<String>,
}

/// A request without its whole reply.
#[derive(Debug)]
struct Waiting {
    header: [u8; REQUEST],
    write: bool,
    data: Data,
    user_data: u64,
}

impl Waiting {
    fn reply_len(&self) -> usize {
        REPLY + if self.write { 0 } else { self.data.len() }
    }

    fn request_len(&self) -> usize {
        REQUEST + if self.write { self.data.len() } else { 0 }
    }
}

impl Queue {
    /// Of a connection that was greeted with the size of the memory.
    pub fn new(socket: TcpStream, size: u64, depth: u16) -> io::Result<Queue> {
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        Ok(Queue {
            socket,
            depth: usize::from(depth),
            size,
            waiting: VecDeque::with_capacity(usize::from(depth)),
            sent: 0,
            sent_of_next: 0,
            came: 0,
            staging: vec![0; RECEIVE_MAX].into_boxed_slice(),
            done: VecDeque::with_capacity(usize::from(depth)),
            error: None,
        })
    }

    /// Requests at a time.
    pub fn depth(&self) -> usize {
        self.depth
    }

    /// Requests without a reply.
    pub fn outstanding(&self) -> usize {
        self.waiting.len() + self.done.len()
    }

    /// Why it is dead.
    pub fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    /// Takes a request, if there is room. Addresses beyond the server's memory wrap around.
    #[inline]
    pub fn submit(&mut self, io: &Io, data: Data, user_data: u64) -> Result<(), Data> {
        if self.error.is_some() || self.outstanding() == self.depth {
            return Err(data);
        }
        let len = data.len() as u64;
        let places = (self.size / len).max(1);
        let place = io.lba / u64::from(io.blocks) % places;
        let request = Request {
            what: if io.write { What::Write } else { What::Read },
            len: len as u32,
            at: place * len,
        };
        self.waiting.push_back(Waiting {
            header: request.to_bytes(),
            write: io.write,
            data,
            user_data,
        });
        Ok(())
    }

    /// Sends what waits and the socket takes.
    #[inline]
    pub fn flush(&mut self) {
        while self.error.is_none() && self.sent < self.waiting.len() {
            match self.send() {
                Ok(true) => (),
                Ok(false) => return,
                Err(cause) => self.fail(cause.to_string()),
            }
        }
    }

    /// One call; false if the socket takes no more.
    fn send(&mut self) -> io::Result<bool> {
        let mut list = IoList::new(SEND_MAX);
        let mut skip = self.sent_of_next;
        for waiting in self.waiting.range(self.sent..) {
            let data = if waiting.write {
                waiting.data.bytes()
            } else {
                &[]
            };
            let header = skip.min(REQUEST);
            if !list.push(&waiting.header[header..]) || !list.push(&data[skip - header..]) {
                break;
            }
            skip = 0;
        }
        let len = list.len();
        let count = match sys::send(self.socket.as_fd(), &list) {
            Ok(count) => count,
            Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => return Ok(true),
            Err(cause) => return Err(cause),
        };
        let mut left = self.sent_of_next + count;
        while let Some(waiting) = self.waiting.get(self.sent)
            && left >= waiting.request_len()
        {
            left -= waiting.request_len();
            self.sent += 1;
        }
        self.sent_of_next = left;
        Ok(count == len)
    }

    /// Sends and receives once.
    #[inline]
    pub fn exchange(&mut self) {
        self.flush();
        if self.error.is_some() {
            return;
        }
        match (&self.socket).read(&mut self.staging) {
            Ok(0) => self.fail("the raw server closed the connection".into()),
            Ok(count) => self.received(count),
            Err(cause)
                if matches!(
                    cause.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) => {}
            Err(cause) => self.fail(cause.to_string()),
        }
    }

    /// Sleeps until there may be something, or `limit` is over.
    pub fn wait(&mut self, limit: Duration) {
        self.flush();
        let unsent = self.sent < self.waiting.len();
        let limit = if unsent { limit.min(SEND_RETRY) } else { limit };
        if self.error.is_none()
            && !limit.is_zero()
            && let Err(cause) = sys::wait_readable(self.socket.as_fd(), limit)
        {
            self.fail(cause.to_string());
        }
    }

    #[inline]
    fn received(&mut self, mut count: usize) {
        while count > 0 {
            let Some(first) = self.waiting.front() else {
                return self.fail("the raw server sent more than was asked for".into());
            };
            let take = count.min(first.reply_len() - self.came);
            self.came += take;
            count -= take;
            if self.came < first.reply_len() {
                return;
            }
            self.came = 0;
            let first = self.waiting.pop_front().expect("it was looked at");
            if self.sent == 0 {
                return self.fail("the raw server answered before it was asked".into());
            }
            self.sent -= 1;
            self.done.push_back(Completion {
                user_data: first.user_data,
                cqe: Cqe::new(0, Status::SUCCESS),
                data: first.data,
            });
        }
    }

    /// The next reply that came.
    #[inline]
    pub fn next_done(&mut self) -> Option<Completion> {
        self.done.pop_front()
    }

    fn fail(&mut self, why: String) {
        self.error = Some(why);
        let lost = self.waiting.drain(..).map(|waiting| Completion {
            user_data: waiting.user_data,
            cqe: Cqe::new(0, Status::HOST_PATHING_ERROR),
            data: waiting.data,
        });
        self.done.extend(lost);
    }
}
