//! Mail from set-up threads to somebody who polls, with a descriptor to sleep on.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// A queue from many to one. Looking into an empty one costs a load.
#[derive(Debug)]
pub(super) struct Inbox<T> {
    queue: Mutex<VecDeque<T>>,
    some: AtomicBool,
    fd: OwnedFd,
}

impl<T> Inbox<T> {
    /// An empty one.
    ///
    /// # Errors
    /// Of eventfd.
    pub fn new() -> io::Result<Inbox<T>> {
        // SAFETY: no pointers are passed; the result is checked.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Inbox {
            queue: Mutex::new(VecDeque::new()),
            some: AtomicBool::new(false),
            // SAFETY: the descriptor is new and nobody else's.
            fd: unsafe { OwnedFd::from_raw_fd(fd) },
        })
    }

    /// Adds one, and wakes who sleeps on the descriptor.
    pub fn push(&self, item: T) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.push_back(item);
        self.some.store(true, Ordering::Release);
        let one = 1u64.to_ne_bytes();
        // SAFETY: eight bytes that live. It fails only when the counter is full, and then it wakes already.
        unsafe { libc::write(self.fd.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    /// Takes the oldest out. The descriptor is quiet when there is none left.
    #[inline]
    pub fn pop(&self) -> Option<T> {
        if self.is_empty() {
            return None;
        }
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let item = queue.pop_front();
        if queue.is_empty() {
            self.some.store(false, Ordering::Release);
            let mut count = [0u8; 8];
            // SAFETY: eight bytes of ours. That there is nothing to read is no failure.
            unsafe { libc::read(self.fd.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
        }
        item
    }

    /// True if there is nothing.
    #[inline]
    pub fn is_empty(&self) -> bool {
        !self.some.load(Ordering::Acquire)
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.len()
    }
}

impl<T> AsFd for Inbox<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readable<T>(inbox: &Inbox<T>) -> bool {
        let mut poll = libc::pollfd {
            fd: inbox.as_fd().as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one struct of ours.
        unsafe { libc::poll(&raw mut poll, 1, 0) == 1 }
    }

    #[test]
    fn the_descriptor_tells_of_mail() {
        let inbox = Inbox::new().expect("a descriptor");
        assert!(inbox.is_empty() && !readable(&inbox));
        inbox.push(1);
        inbox.push(2);
        assert!(readable(&inbox));
        assert_eq!((inbox.pop(), inbox.len()), (Some(1), 1));
        assert!(readable(&inbox));
        assert_eq!(inbox.pop(), Some(2));
        assert!(inbox.is_empty() && !readable(&inbox));
        assert_eq!(inbox.pop(), None);
    }
}
