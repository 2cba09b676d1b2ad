//! System calls that neither std nor socket2 offers: gathering more pieces than a slice of `IoSlice`
//! could be built for without writing it all first, epoll, and in [`udp`] many datagrams at once.
//!
//! This is a room where `unsafe` lives. What leaves it is safe: an [`IoList`] borrows the bytes it
//! names, and an [`Epoll`] only ever holds numbers.
#![allow(unsafe_code)]

pub mod udp;

use std::io;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// Pieces that one system call takes. The kernel's bound is 1024; half of it is a page pair of stack.
pub const PIECES_MAX: usize = 512;

/// Pieces of memory to be sent in order, by one system call.
pub struct IoList<'a> {
    pieces: [MaybeUninit<libc::iovec>; PIECES_MAX],
    count: usize,
    len: usize,
    len_max: usize,
    borrows: PhantomData<&'a [u8]>,
}

impl<'a> IoList<'a> {
    /// No pieces yet, and no more than `len_max` bytes ever.
    #[inline]
    pub fn new(len_max: usize) -> IoList<'a> {
        IoList {
            pieces: [const { MaybeUninit::uninit() }; PIECES_MAX],
            count: 0,
            len: 0,
            len_max,
            borrows: PhantomData,
        }
    }

    /// Adds a piece, or as much of its beginning as is allowed. False if the list is full now: the
    /// rest, and what follows, goes into a later list. A piece that lies right behind the one before
    /// is merged with it.
    #[inline]
    pub fn push(&mut self, bytes: &'a [u8]) -> bool {
        let room = self.len_max - self.len;
        let (piece, all) = if bytes.len() < room {
            (bytes, true)
        } else {
            (&bytes[..room], false)
        };
        if piece.is_empty() {
            return all;
        }
        if let Some(last) = self.count.checked_sub(1) {
            // SAFETY: the first `count` pieces were written below.
            let last = unsafe { self.pieces[last].assume_init_mut() };
            if last
                .iov_base
                .cast_const()
                .cast::<u8>()
                .wrapping_add(last.iov_len)
                == piece.as_ptr()
            {
                last.iov_len += piece.len();
                self.len += piece.len();
                return all;
            }
        }
        if self.count == PIECES_MAX {
            return false;
        }
        self.pieces[self.count].write(libc::iovec {
            iov_base: piece.as_ptr().cast_mut().cast(),
            iov_len: piece.len(),
        });
        self.count += 1;
        self.len += piece.len();
        all
    }

    #[inline]
    fn pieces(&self) -> &[libc::iovec] {
        // SAFETY: the first `count` pieces were written by `push`.
        unsafe { self.pieces[..self.count].assume_init_ref() }
    }

    /// Bytes of all pieces.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if there is nothing to send.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// Bytes at the beginning of each piece that [`send`] asks the processor for: what its own prefetching needs to get going.
const PREFETCH_BYTES: usize = 12 * 64;

/// Sends as much of the list as the socket takes now, and never raises SIGPIPE.
///
/// Of random pages of a large memory, the wait for the first lines and for the translation of the address is a quarter of
/// what it takes the system to copy 4 KiB. All pieces are asked for at once, in a loop that does nothing else, so that the
/// processor waits for several translations at a time.
///
/// # Errors
/// Of sendmsg; `WouldBlock` if the socket takes nothing.
#[inline]
pub fn send(socket: BorrowedFd<'_>, list: &IoList<'_>) -> io::Result<usize> {
    for piece in list.pieces() {
        for at in (0..piece.iov_len.min(PREFETCH_BYTES)).step_by(64) {
            ferroce_buf::prefetch(piece.iov_base.cast_const().cast::<u8>().wrapping_add(at));
        }
    }
    // SAFETY: all zeroes is a valid msghdr, and padding is only written this way.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = list.pieces.as_ptr().cast_mut().cast();
    message.msg_iovlen = list.count as _;
    // SAFETY: the first `count` pieces are initialised and name memory that is borrowed for as long
    // as the list lives; sendmsg only reads it.
    let sent = unsafe {
        libc::sendmsg(
            socket.as_raw_fd(),
            &raw const message,
            libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT,
        )
    };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(sent as usize)
}

/// Sleeps until a descriptor is readable; false if the timeout, a microsecond at least, was over first
/// or a signal came.
///
/// # Errors
/// Of ppoll.
pub fn wait_readable(fd: BorrowedFd<'_>, timeout: Duration) -> io::Result<bool> {
    let mut poll = libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    let timeout = libc::timespec {
        tv_sec: timeout.as_secs() as libc::time_t,
        tv_nsec: timeout.subsec_nanos().max(1000) as libc::c_long,
    };
    // SAFETY: both structures live through the call, and the descriptor is open.
    let count = unsafe { libc::ppoll(&raw mut poll, 1, &raw const timeout, std::ptr::null()) };
    if count >= 0 {
        return Ok(count > 0);
    }
    match io::Error::last_os_error() {
        cause if cause.kind() == io::ErrorKind::Interrupted => Ok(false),
        cause => Err(cause),
    }
}

/// What [`Epoll::wait`] tells of one socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Readiness {
    /// The number the socket was added with.
    pub token: u64,
    /// There is something to read, be it the end.
    pub readable: bool,
    /// There is room to write again.
    pub writable: bool,
    /// The peer will send no more, or the socket is broken: read until that shows.
    pub ended: bool,
}

/// An edge-triggered epoll of sockets that are read and written.
#[derive(Debug)]
pub struct Epoll {
    fd: OwnedFd,
}

/// Room for what one [`Epoll::wait`] returns.
pub struct Events {
    slots: Box<[libc::epoll_event]>,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Events({})", self.slots.len())
    }
}

impl Events {
    /// Room for so many.
    pub fn new(count: usize) -> Events {
        Events {
            slots: vec![libc::epoll_event { events: 0, u64: 0 }; count].into_boxed_slice(),
        }
    }
}

impl Epoll {
    /// Of nothing yet.
    ///
    /// # Errors
    /// Of epoll_create1.
    pub fn new() -> io::Result<Epoll> {
        // SAFETY: no precondition.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and nobody else's.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Epoll { fd })
    }

    /// Watches a socket for something to read, by edges: each readiness is told once, when it
    /// begins. A socket that is closed is forgotten by itself.
    ///
    /// # Errors
    /// Of epoll_ctl.
    pub fn add(&self, socket: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, socket, 0, token)
    }

    /// From now on watches a socket that was added for room to write, too. Not from the start: while
    /// there is room, as there nearly always is, an event that was already acted upon would still
    /// count as readiness for whoever sleeps on this epoll.
    ///
    /// # Errors
    /// Of epoll_ctl.
    pub fn add_writable(&self, socket: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, socket, libc::EPOLLOUT, token)
    }

    /// Watches a socket of datagrams: whoever sleeps on this epoll is woken as long as there are any.
    /// [`Epoll::wait`] is not needed for that.
    ///
    /// # Errors
    /// Of epoll_ctl.
    pub fn add_datagrams(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        self.control_for(libc::EPOLL_CTL_ADD, socket, libc::EPOLLIN, 0)
    }

    fn control(
        &self,
        how: libc::c_int,
        socket: BorrowedFd<'_>,
        more: libc::c_int,
        token: u64,
    ) -> io::Result<()> {
        let interest = libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLET | more;
        self.control_for(how, socket, interest, token)
    }

    fn control_for(
        &self,
        how: libc::c_int,
        socket: BorrowedFd<'_>,
        interest: libc::c_int,
        token: u64,
    ) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: interest as u32,
            u64: token,
        };
        // SAFETY: `event` lives through the call; both descriptors are open.
        let done = unsafe {
            libc::epoll_ctl(self.fd.as_raw_fd(), how, socket.as_raw_fd(), &raw mut event)
        };
        if done < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// What became ready, without waiting.
    ///
    /// # Errors
    /// Of epoll_wait.
    #[inline]
    pub fn wait<'e>(
        &self,
        events: &'e mut Events,
    ) -> io::Result<impl Iterator<Item = Readiness> + use<'e>> {
        // SAFETY: the kernel writes at most as many events as there are slots.
        let count = unsafe {
            libc::epoll_wait(
                self.fd.as_raw_fd(),
                events.slots.as_mut_ptr(),
                events.slots.len() as libc::c_int,
                0,
            )
        };
        if count < 0 {
            return Err(io::Error::last_os_error());
        }
        let ready = &events.slots[..count as usize];
        Ok(ready.iter().map(|event| {
            let has = |bits: libc::c_int| event.events & bits as u32 != 0;
            Readiness {
                token: event.u64,
                readable: has(libc::EPOLLIN),
                writable: has(libc::EPOLLOUT),
                ended: has(libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR),
            }
        }))
    }
}

impl AsFd for Epoll {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    #[test]
    fn pieces_arrive_in_order_and_neighbours_are_merged() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let memory = *b"abcdefgh";
        let mut list = IoList::new(100);
        assert!(list.push(&memory[..3]));
        assert!(list.push(&memory[3..5]));
        assert!(list.push(&memory[6..]));
        assert!(list.push(&[]));
        assert_eq!((list.count, list.len()), (2, 7));
        assert_eq!(send(ours.as_fd(), &list).unwrap(), 7);
        let mut got = [0; 7];
        theirs.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"abcdegh");
    }

    #[test]
    fn a_full_list_says_so() {
        let mut list = IoList::new(5);
        assert!(list.push(b"abc"));
        assert!(!list.push(b"defg"));
        assert_eq!(list.len(), 5);
        assert!(!list.push(b"h"));
        assert_eq!(list.len(), 5);

        let memory = [0u8; 2 * PIECES_MAX + 2];
        let mut list = IoList::new(usize::MAX);
        for i in 0..PIECES_MAX {
            assert!(list.push(&memory[2 * i..2 * i + 1]));
        }
        assert!(!list.push(&memory[2 * PIECES_MAX..]));
        assert_eq!(list.len(), PIECES_MAX);
    }

    #[test]
    fn readiness_is_told_once() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let epoll = Epoll::new().unwrap();
        let mut events = Events::new(8);
        epoll.add(ours.as_fd(), 42).unwrap();
        assert_eq!(epoll.wait(&mut events).unwrap().count(), 0);
        epoll.add_writable(ours.as_fd(), 42).unwrap();
        let told: Vec<_> = epoll.wait(&mut events).unwrap().collect();
        assert_eq!(told.len(), 1);
        assert!(told[0].writable && !told[0].readable && told[0].token == 42);
        assert_eq!(epoll.wait(&mut events).unwrap().count(), 0);
        drop(theirs);
        let told: Vec<_> = epoll.wait(&mut events).unwrap().collect();
        assert!(told[0].ended && told[0].readable);
    }
}
