//! The requesting end of one connection.

use std::io::{self, Read};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::time::Duration;

use ferroce_transport::host::Data;
use ferroce_transport::sys::{self, IoList};

use super::book::{Book, Waiting};
use super::{REPLY, REQUEST};
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
    pub book: Book<Head>,
    /// Of those, so many were sent whole, and of the next so many bytes.
    sent: usize,
    sent_of_next: usize,
    /// Bytes of the oldest one's reply that came.
    came: usize,
    staging: Box<[u8]>,
}

/// A request as it is sent.
#[derive(Debug)]
pub struct Head {
    bytes: [u8; REQUEST],
    write: bool,
}

impl Waiting<Head> {
    fn reply_len(&self) -> usize {
        REPLY + if self.head.write { 0 } else { self.data.len() }
    }

    fn request_len(&self) -> usize {
        REQUEST + if self.head.write { self.data.len() } else { 0 }
    }
}

impl Queue {
    /// Of a connection that was greeted with the size of the memory.
    pub fn new(socket: TcpStream, size: u64, depth: u16) -> io::Result<Queue> {
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        Ok(Queue {
            socket,
            book: Book::new(size, depth),
            sent: 0,
            sent_of_next: 0,
            came: 0,
            staging: vec![0; RECEIVE_MAX].into_boxed_slice(),
        })
    }

    /// Takes a request, if there is room.
    #[inline]
    pub fn submit(&mut self, io: &Io, data: Data, user_data: u64) -> Result<(), Data> {
        if !self.book.has_room() {
            return Err(data);
        }
        let head = Head {
            bytes: self.book.request(io, data.len()).to_bytes(),
            write: io.write,
        };
        self.book.add(head, data, user_data);
        Ok(())
    }

    /// Sends what waits and the socket takes.
    #[inline]
    pub fn flush(&mut self) {
        while self.book.error().is_none() && self.sent < self.book.waiting.len() {
            match self.send() {
                Ok(true) => (),
                Ok(false) => return,
                Err(cause) => self.book.fail(cause.to_string()),
            }
        }
    }

    /// One call; false if the socket takes no more.
    fn send(&mut self) -> io::Result<bool> {
        let mut list = IoList::new(SEND_MAX);
        let mut skip = self.sent_of_next;
        for waiting in self.book.waiting.range(self.sent..) {
            let data = if waiting.head.write {
                waiting.data.bytes()
            } else {
                &[]
            };
            let header = skip.min(REQUEST);
            if !list.push(&waiting.head.bytes[header..]) || !list.push(&data[skip - header..]) {
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
        while let Some(waiting) = self.book.waiting.get(self.sent)
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
        if self.book.error().is_some() {
            return;
        }
        match (&self.socket).read(&mut self.staging) {
            Ok(0) => self
                .book
                .fail("the raw server closed the connection".into()),
            Ok(count) => self.received(count),
            Err(cause)
                if matches!(
                    cause.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) => {}
            Err(cause) => self.book.fail(cause.to_string()),
        }
    }

    /// Sleeps until there may be something, or `limit` is over.
    pub fn wait(&mut self, limit: Duration) {
        self.flush();
        let unsent = self.sent < self.book.waiting.len();
        let limit = if unsent { limit.min(SEND_RETRY) } else { limit };
        if self.book.error().is_none()
            && !limit.is_zero()
            && let Err(cause) = sys::wait_readable(self.socket.as_fd(), limit)
        {
            self.book.fail(cause.to_string());
        }
    }

    #[inline]
    fn received(&mut self, mut count: usize) {
        while count > 0 {
            let Some(first) = self.book.waiting.front() else {
                return self
                    .book
                    .fail("the raw server sent more than was asked for".into());
            };
            let take = count.min(first.reply_len() - self.came);
            self.came += take;
            count -= take;
            if self.came < first.reply_len() {
                return;
            }
            self.came = 0;
            if self.sent == 0 {
                return self
                    .book
                    .fail("the raw server answered before it was asked".into());
            }
            self.sent -= 1;
            self.book.answered();
        }
    }
}
