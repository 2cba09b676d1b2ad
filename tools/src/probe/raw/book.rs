//! What a requesting end keeps of its requests, whatever carries them.

use std::collections::VecDeque;

use ferroce_transport::host::{Completion, Data};
use ferroce_wire::cqe::Cqe;
use ferroce_wire::status::Status;

use super::{Request, What};
use crate::probe::link::Io;

/// The requests of one connection. Their replies come in order.
#[derive(Debug)]
pub struct Book<H> {
    depth: usize,
    /// Bytes of the server's memory.
    size: u64,
    /// Requests without their whole reply, the oldest first.
    pub waiting: VecDeque<Waiting<H>>,
    done: VecDeque<Completion>,
    error: Option<String>,
}

/// A request without its whole reply, and how it is known.
#[derive(Debug)]
pub struct Waiting<H> {
    pub head: H,
    pub data: Data,
    user_data: u64,
}

impl<H> Book<H> {
    /// Of `depth` requests at a time to a memory of `size` bytes.
    pub fn new(size: u64, depth: u16) -> Book<H> {
        let depth = usize::from(depth);
        Book {
            depth,
            size,
            waiting: VecDeque::with_capacity(depth),
            done: VecDeque::with_capacity(depth),
            error: None,
        }
    }

    pub fn depth(&self) -> usize {
        self.depth
    }

    /// Requests without a reply, and replies that nobody took.
    #[inline]
    pub fn outstanding(&self) -> usize {
        self.waiting.len() + self.done.len()
    }

    pub fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    #[inline]
    pub fn has_room(&self) -> bool {
        self.error.is_none() && self.outstanding() < self.depth
    }

    /// What is asked of the server for `len` bytes, which are not none. Addresses beyond its memory wrap around.
    #[inline]
    pub fn request(&self, io: &Io, len: usize) -> Request {
        let len = len as u64;
        let places = (self.size / len).max(1);
        let place = io.lba / u64::from(io.blocks) % places;
        Request {
            what: if io.write { What::Write } else { What::Read },
            len: len as u32,
            at: place * len,
        }
    }

    #[inline]
    pub fn add(&mut self, head: H, data: Data, user_data: u64) {
        self.waiting.push_back(Waiting {
            head,
            data,
            user_data,
        });
    }

    /// The oldest one's reply is there.
    #[inline]
    pub fn answered(&mut self) {
        let first = self.waiting.pop_front().expect("it was looked at");
        self.done.push_back(first.ended(Status::SUCCESS));
    }

    #[inline]
    pub fn next_done(&mut self) -> Option<Completion> {
        self.done.pop_front()
    }

    /// The end of all of them, and why.
    pub fn fail(&mut self, why: String) {
        self.error = Some(why);
        let lost = self.waiting.drain(..);
        self.done
            .extend(lost.map(|waiting| waiting.ended(Status::HOST_PATHING_ERROR)));
    }
}

impl<H> Waiting<H> {
    #[inline]
    fn ended(self, status: Status) -> Completion {
        Completion {
            user_data: self.user_data,
            cqe: Cqe::new(0, status),
            data: self.data,
        }
    }
}
