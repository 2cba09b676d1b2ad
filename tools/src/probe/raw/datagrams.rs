//! The floor under NVMe/RDMA over RoCEv2 in software: the same train of datagrams over UDP, without a protocol. A read is
//! a request of 80 bytes (as the SEND of a command), which is answered by one of 20 (as an ACK), by its data behind 32
//! bytes each (as WRITEs), and by one of 36 (as the SEND of a completion), which in turn is answered by one of 20. Both
//! ends send and receive as software RoCEv2 does: many datagrams with one system call, those of one length as one message
//! that the system cuts (UDP_SEGMENT), and those that come together as one (UDP_GRO).
//!
//! Nothing is sent again: a datagram that is lost, or overtaken by another, ends the measurement.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use ferroce_transport::host::Data;
use ferroce_transport::sys::PIECES_MAX;
use ferroce_transport::sys::udp::{self, Datagrams, Inbox};

use super::book::Book;
use super::{MAGIC, REQUEST, Request, What};
use crate::probe::link::Io;

/// Bytes of each kind of datagram, or of what precedes its data.
const COMMAND: usize = 80;
const ACK: usize = 20;
const DATA: usize = 32;
const DONE: usize = 36;
/// Of data in a datagram, as the largest IB MTU.
const SEGMENT_MAX: u16 = 4096;
/// Bytes of one message that is cut.
const MESSAGE_MAX: usize = 65_000;
/// Room for datagrams that come, as software RoCEv2 asks for.
const RECEIVE_BUFFER: usize = 8 << 20;
/// After so long a silence something was lost.
const PATIENCE: Duration = Duration::from_millis(500);
/// It is looked at the clock every so many turns in which nothing came.
const LOOK_EVERY: u32 = 4096;
/// Messages that are taken before anything is sent.
const BATCHES: usize = 4;
/// Ends of queues that a server knows.
const PEERS_MAX: usize = 256;

/// A socket as those of software RoCEv2.
fn socket(at: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(at)?;
    socket.set_nonblocking(true)?;
    udp::never_fragment(socket.as_fd(), at.is_ipv4())?;
    udp::receive_buffer(socket.as_fd(), RECEIVE_BUFFER)?;
    // Old kernels do without, as the node then does.
    let _ = udp::receive_together(socket.as_fd());
    Ok(socket)
}

/// A datagram to be sent: a head, and some of the memory.
#[derive(Clone, Copy, Debug)]
struct Out {
    head: [u8; COMMAND],
    head_len: usize,
    at: usize,
    len: usize,
}

impl Out {
    fn new(number: u32, head_len: usize) -> Out {
        let mut head = [0; COMMAND];
        head[..4].copy_from_slice(&MAGIC);
        head[8..12].copy_from_slice(&number.to_le_bytes());
        Out {
            head,
            head_len,
            at: 0,
            len: 0,
        }
    }

    fn len(&self) -> usize {
        self.head_len + self.len
    }
}

/// The number in a datagram; None if it is none of ours.
fn number_of(datagram: &[u8]) -> Option<u32> {
    let number = datagram.get(8..12)?.try_into().expect("four bytes");
    (datagram[..4] == MAGIC).then(|| u32::from_le_bytes(number))
}

/// What is to be sent to one peer, in order.
#[derive(Debug)]
struct Outbox {
    to: SocketAddr,
    waiting: VecDeque<Out>,
}

impl Outbox {
    fn new(to: SocketAddr) -> Outbox {
        Outbox {
            to,
            waiting: VecDeque::new(),
        }
    }

    /// Sends what the socket takes; true if all of it.
    fn send(&mut self, socket: &UdpSocket, memory: &[u8]) -> io::Result<bool> {
        while !self.waiting.is_empty() {
            let mut list = Datagrams::new(self.to);
            // Of each message: how many datagrams it is.
            let mut counts = [0; udp::MESSAGES_MAX];
            let (mut messages, mut from) = (0, 0);
            while from < self.waiting.len() && messages < counts.len() {
                let count = self.together(from);
                let first = self.waiting[from].len();
                let cut = if count > 1 { first as u16 } else { 0 };
                if !list.has_room(2 * count) || !list.begin(cut) {
                    break;
                }
                for out in self.waiting.range(from..from + count) {
                    list.push(&out.head[..out.head_len]);
                    list.push(&memory[out.at..out.at + out.len]);
                }
                counts[messages] = count;
                messages += 1;
                from += count;
            }
            let sent = match list.send(socket.as_fd()) {
                Ok(sent) => sent,
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => continue,
                Err(cause)
                    if cause.kind() == io::ErrorKind::WouldBlock
                        || cause.raw_os_error() == Some(libc::ENOBUFS) =>
                {
                    return Ok(false);
                }
                Err(cause) => return Err(cause),
            };
            let datagrams: usize = counts[..sent].iter().sum();
            self.waiting.drain(..datagrams);
            if sent < messages {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// How many of those from here on go as one message: all but the last have one length.
    fn together(&self, from: usize) -> usize {
        let first = self.waiting[from].len();
        let (mut count, mut total) = (0, 0);
        for out in self.waiting.range(from..) {
            let fits = count < udp::SEGMENTS_MAX
                && out.len() <= first
                && total + out.len() <= MESSAGE_MAX
                && 2 * (count + 1) <= PIECES_MAX;
            if count > 0 && !fits {
                break;
            }
            count += 1;
            total += out.len();
            if out.len() < first {
                break;
            }
        }
        count
    }
}

/// The answering end, beside a raw server's connections.
pub struct Responder {
    socket: UdpSocket,
    inbox: Inbox,
    peers: Vec<Outbox>,
}

impl std::fmt::Debug for Responder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Responder({:?}, {} peers)",
            self.socket,
            self.peers.len()
        )
    }
}

impl Responder {
    /// At an address, where nobody may be yet.
    ///
    /// # Errors
    /// Of the socket.
    pub fn new(at: SocketAddr) -> io::Result<Responder> {
        Ok(Responder {
            socket: socket(at)?,
            inbox: Inbox::default(),
            peers: Vec::new(),
        })
    }

    /// To be woken by.
    pub fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    /// True if something could not be sent yet.
    pub fn is_full(&self) -> bool {
        self.peers.iter().any(|peer| !peer.waiting.is_empty())
    }

    /// Takes what came, and sends what that asks for; true if anything moved.
    ///
    /// # Errors
    /// Of sending.
    pub fn turn(&mut self, memory: &[u8]) -> io::Result<bool> {
        let mut busy = false;
        for _ in 0..BATCHES {
            let Ok(count) = self.inbox.receive(self.socket.as_fd()) else {
                break;
            };
            busy = true;
            for i in 0..count {
                if let Some(message) = self.inbox.get(i)
                    && message.bytes.len() >= COMMAND
                    && let Some(peer) = peer(&mut self.peers, message.from)
                {
                    let commands = message.bytes.chunks(message.segment);
                    peer.answer(commands, memory.len() as u64);
                }
            }
            if count < Inbox::CAPACITY {
                break;
            }
        }
        for peer in &mut self.peers {
            peer.send(&self.socket, memory)?;
        }
        Ok(busy)
    }
}

/// What goes to a peer; None if there are too many.
fn peer(peers: &mut Vec<Outbox>, at: SocketAddr) -> Option<&mut Outbox> {
    let found = match peers.iter().position(|peer| peer.to == at) {
        Some(found) => found,
        None if peers.len() == PEERS_MAX => return None,
        None => {
            peers.push(Outbox::new(at));
            peers.len() - 1
        }
    };
    peers.get_mut(found)
}

impl Outbox {
    /// Answers commands that came together: first that they came, then what they ask for.
    fn answer<'a>(&mut self, commands: impl Iterator<Item = &'a [u8]> + Clone, size: u64) {
        let commands = commands.filter_map(|datagram| {
            let command: &[u8; COMMAND] = datagram.try_into().ok()?;
            let request = Request::of(command.first_chunk::<REQUEST>()?, size)?;
            let segment = u16::from_le_bytes([command[72], command[73]]);
            let ours = request.what == What::Read && (1..=SEGMENT_MAX).contains(&segment);
            ours.then_some((
                u32::from_le_bytes(command[76..].try_into().ok()?),
                request,
                usize::from(segment),
            ))
        });
        for (number, ..) in commands.clone() {
            self.waiting.push_back(Out::new(number, ACK));
        }
        for (number, request, segment) in commands {
            let (at, len) = (request.at as usize, request.len as usize);
            for from in (0..len).step_by(segment) {
                self.waiting.push_back(Out {
                    at: at + from,
                    len: segment.min(len - from),
                    ..Out::new(number, DATA)
                });
            }
            self.waiting.push_back(Out::new(number, DONE));
        }
    }
}

/// The requesting end: reads alone.
pub struct Queue {
    socket: UdpSocket,
    inbox: Inbox,
    outbox: Outbox,
    /// Each request is known by its number.
    pub book: Book<u32>,
    /// Bytes of data in a datagram.
    segment: u16,
    /// Of the next request.
    number: u32,
    /// Bytes of the oldest one's data that came.
    came: usize,
    /// Turns in which nothing came, and since when.
    silent: (u32, Option<Instant>),
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Queue({:?}, {} waiting)",
            self.socket,
            self.book.waiting.len()
        )
    }
}

impl Queue {
    /// From an address of ours to a server's, whose memory has `size` bytes; so many bytes of data in each datagram.
    ///
    /// # Errors
    /// Of the socket.
    pub fn new(
        from: IpAddr,
        to: SocketAddr,
        size: u64,
        segment: u32,
        depth: u16,
    ) -> io::Result<Queue> {
        Ok(Queue {
            socket: socket(SocketAddr::new(from, 0))?,
            inbox: Inbox::default(),
            outbox: Outbox::new(to),
            book: Book::new(size, depth),
            segment: u16::try_from(segment).map_or(SEGMENT_MAX, |len| len.min(SEGMENT_MAX)),
            number: 0,
            came: 0,
            silent: (0, None),
        })
    }

    /// Takes a read, if there is room.
    #[inline]
    pub fn submit(&mut self, io: &Io, data: Data, user_data: u64) -> Result<(), Data> {
        if io.write || !self.book.has_room() {
            return Err(data);
        }
        let request = self.book.request(io, data.len());
        let mut out = Out::new(0, COMMAND);
        out.head[..REQUEST].copy_from_slice(&request.to_bytes());
        out.head[72..74].copy_from_slice(&self.segment.to_le_bytes());
        out.head[76..].copy_from_slice(&self.number.to_le_bytes());
        self.outbox.waiting.push_back(out);
        if self.book.waiting.is_empty() {
            self.silent = (0, None);
        }
        self.book.add(self.number, data, user_data);
        self.number = self.number.wrapping_add(1);
        Ok(())
    }

    /// Sends what waits and the socket takes.
    #[inline]
    pub fn flush(&mut self) {
        if self.book.error().is_none()
            && let Err(cause) = self.outbox.send(&self.socket, &[])
        {
            self.book.fail(cause.to_string());
        }
    }

    /// Sends and receives once.
    #[inline]
    pub fn exchange(&mut self) {
        self.flush();
        if self.book.error().is_some() {
            return;
        }
        match self.inbox.receive(self.socket.as_fd()) {
            Ok(count) => {
                self.silent = (0, None);
                for i in 0..count {
                    self.received(i);
                }
            }
            Err(_) if !self.book.waiting.is_empty() => self.wait_no_longer(),
            Err(_) => {}
        }
    }

    /// Nothing came: since when?
    fn wait_no_longer(&mut self) {
        self.silent.0 += 1;
        if !self.silent.0.is_multiple_of(LOOK_EVERY) {
            return;
        }
        let since = *self.silent.1.get_or_insert_with(Instant::now);
        if since.elapsed() > PATIENCE {
            self.lost();
        }
    }

    fn lost(&mut self) {
        self.book.fail(
            "a datagram of the raw train was lost or overtaken: raise net.core.rmem_max, or measure \
             with less --depth"
                .into(),
        );
    }

    fn received(&mut self, i: usize) {
        let Some(message) = self.inbox.get(i).filter(|m| m.from == self.outbox.to) else {
            return;
        };
        let mut sound = true;
        for datagram in message.bytes.chunks(message.segment) {
            let Some(number) = number_of(datagram) else {
                continue;
            };
            if datagram.len() == ACK {
                continue;
            }
            let Some(first) = self
                .book
                .waiting
                .front()
                .filter(|first| first.head == number)
            else {
                sound = false;
                break;
            };
            let left = first.data.len() - self.came;
            if left > 0 {
                let len = datagram.len().saturating_sub(DATA);
                sound = len == left.min(usize::from(self.segment));
                self.came += len.min(left);
            } else {
                sound = datagram.len() == DONE;
                self.came = 0;
                self.outbox.waiting.push_back(Out::new(number, ACK));
                self.book.answered();
            }
            if !sound {
                break;
            }
        }
        if !sound {
            self.lost();
        }
    }
}
