//! The answering end: `ferroce raw-server`.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferroce_buf::{Buf, Class, Home, Pool, Region, Want};
use ferroce_transport::sys::{self, IoList};

use super::datagrams::Responder;
use super::{DATA_MAX, REQUEST, Request, What, reply};
use crate::cli::RawServerArgs;
use crate::config::Spin;
use crate::ctl::print;
use crate::fail::{Context, Fail, Result, cannot_listen, fail};
use crate::units::Size;
use crate::usage;
use crate::wait::Bed;

/// What one call receives, and sends, at most.
const RECEIVE_MAX: usize = 256 * 1024;
const SEND_MAX: usize = 1 << 20;
/// Of a write's data, from here on it pays to have the kernel put the rest in its place.
const DIRECT_MIN: usize = 8192;
/// Without a sleep in between, it looks for new connections every so many turns.
const ACCEPT_EVERY: u64 = 1024;
/// How long it sleeps at most while a socket takes nothing.
const SEND_RETRY: Duration = Duration::from_millis(1);

/// Runs the command: serves until it is killed.
pub fn run(args: RawServerArgs) -> Result<()> {
    let address = args.listen.resolve_tcp()?[0];
    let listener = TcpListener::bind(address).map_err(|cause| {
        let hint = cannot_listen(&cause);
        Fail(format!("cannot listen at {address}: {cause}; {hint}"))
    })?;
    if let Some(id) = args.core
        && !core_affinity::set_for_current(core_affinity::CoreId { id })
    {
        fail!("the system does not let us run on CPU {id}");
    }
    let memory = memory(args.size)?;
    let at = listener
        .local_addr()
        .context(|| "cannot tell the address")?;
    print(&format!("raw server of {} at tcp://{at}\n", args.size))?;
    if args.until_eof {
        // Whoever started us has the other end; when it is gone, so are we.
        std::thread::spawn(|| {
            let _ = io::copy(&mut io::stdin(), &mut io::sink());
            std::process::exit(0);
        });
    }
    Server::new(listener, memory, args.spin.unwrap_or_default())
        .and_then(Server::run)
        .context(|| "the raw server")
}

/// Memory like that of a RAM drive, every page of it written.
pub fn memory(size: Size) -> Result<Buf> {
    let len = usize::try_from(size.0).unwrap_or(usize::MAX);
    if len < DATA_MAX as usize || len > (u32::MAX as usize) & !4095 {
        fail!("--size {size}: choose one between 16MiB and 4095MiB");
    }
    let len = len.next_multiple_of(4096);
    let want = Want {
        huge: true,
        locked: false,
    };
    let region = Region::map(len, want).context(|| format!("--size {size}"))?;
    let class = Class {
        size: len,
        count: 1,
    };
    let mut memory = Pool::new(Arc::new(region), 0, Home::CORE, &[class])
        .take(len)
        .expect("the pool has exactly that one");
    for (number, page) in memory.bytes_mut().chunks_exact_mut(4096).enumerate() {
        page[..8].copy_from_slice(&(number as u64 + 1).to_le_bytes());
    }
    Ok(memory)
}

/// One thread, its memory and its connections.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    memory: Buf,
    spin: Spin,
    bed: Bed,
    connections: Vec<Connection>,
    datagrams: Responder,
}

impl Server {
    /// Of a listener.
    pub fn new(listener: TcpListener, memory: Buf, spin: Spin) -> io::Result<Server> {
        listener.set_nonblocking(true)?;
        let bed = Bed::new()?;
        bed.watch(listener.as_fd())?;
        let datagrams = Responder::new(listener.local_addr()?)?;
        bed.watch(datagrams.socket().as_fd())?;
        Ok(Server {
            listener,
            memory,
            spin,
            bed,
            connections: Vec::new(),
            datagrams,
        })
    }

    /// Serves for ever.
    pub fn run(mut self) -> io::Result<()> {
        let mut last_busy = Instant::now();
        for turns in 1u64.. {
            if self.turn()? {
                last_busy = Instant::now();
            } else if matches!(self.spin, Spin::For(time) if last_busy.elapsed() >= time) {
                let full = self.connections.iter().any(|c| !c.replies.is_empty())
                    || self.datagrams.is_full();
                self.bed.sleep(full.then_some(SEND_RETRY), || true);
                self.accept()?;
                last_busy = Instant::now();
            } else {
                std::hint::spin_loop();
            }
            if turns.is_multiple_of(ACCEPT_EVERY) {
                self.accept()?;
            }
        }
        Ok(())
    }

    /// Looks at every connection once; true if there was something to do.
    fn turn(&mut self) -> io::Result<bool> {
        let mut busy = self.datagrams.turn(self.memory.bytes())?;
        let memory = &mut self.memory;
        self.connections
            .retain_mut(|connection| match connection.turn(memory) {
                Ok(was_busy) => {
                    busy |= was_busy;
                    true
                }
                Err(why) => {
                    log::debug!("a connection of the raw server ends: {why}");
                    false
                }
            });
        Ok(busy)
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            match self.listener.accept() {
                Ok((socket, from)) => {
                    self.bed.watch(socket.as_fd())?;
                    let connection = Connection::new(socket, from, self.memory.len() as u64)?;
                    self.connections.push(connection);
                }
                Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(cause) => {
                    // Out of descriptors, say: those that are connected are served meanwhile.
                    log::debug!("accept: {cause}");
                    return Ok(());
                }
            }
        }
    }
}

#[derive(Debug)]
struct Connection {
    socket: TcpStream,
    from: SocketAddr,
    staging: Box<[u8]>,
    staged: usize,
    /// Where the data of a write that is coming in goes, and how much is to come.
    incoming: Option<(usize, usize)>,
    replies: VecDeque<Reply>,
    /// Bytes of the first that were sent.
    sent: usize,
}

#[derive(Debug)]
struct Reply {
    header: [u8; super::REPLY],
    at: usize,
    len: usize,
}

impl Connection {
    fn new(socket: TcpStream, from: SocketAddr, size: u64) -> io::Result<Connection> {
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        let greeting = Reply {
            header: reply(size),
            at: 0,
            len: 0,
        };
        Ok(Connection {
            socket,
            from,
            staging: vec![0; RECEIVE_MAX].into_boxed_slice(),
            staged: 0,
            incoming: None,
            replies: VecDeque::from([greeting]),
            sent: 0,
        })
    }

    /// Receives once, answers what is whole, sends once; true if anything moved. An error ends the connection.
    fn turn(&mut self, memory: &mut Buf) -> io::Result<bool> {
        let received = self.receive(memory)?;
        let sent = self.send(memory)?;
        Ok(received || sent)
    }

    fn receive(&mut self, memory: &mut Buf) -> io::Result<bool> {
        let direct = match self.incoming {
            Some((at, left)) if left >= DIRECT_MIN => &mut memory.bytes_mut()[at..at + left],
            _ => &mut [],
        };
        let direct_len = direct.len();
        let rest = &mut self.staging[self.staged..];
        let result = if direct_len > 0 {
            (&self.socket).read_vectored(&mut [IoSliceMut::new(direct), IoSliceMut::new(rest)])
        } else {
            (&self.socket).read(rest)
        };
        let count = match result {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => count,
            Err(cause)
                if matches!(
                    cause.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) =>
            {
                return Ok(false);
            }
            Err(cause) => return Err(cause),
        };
        self.placed(count.min(direct_len));
        self.staged += count - count.min(direct_len);
        self.take_requests(memory)?;
        Ok(true)
    }

    /// So many bytes of a write's data are where they belong.
    fn placed(&mut self, count: usize) {
        let Some((at, left)) = &mut self.incoming else {
            return;
        };
        *at += count;
        *left -= count;
        if *left == 0 {
            self.incoming = None;
            self.answer(0, 0, 0);
        }
    }

    fn answer(&mut self, value: u64, at: usize, len: usize) {
        self.replies.push_back(Reply {
            header: reply(value),
            at,
            len,
        });
    }

    fn take_requests(&mut self, memory: &mut Buf) -> io::Result<()> {
        let mut at = 0;
        loop {
            let bytes = &self.staging[at..self.staged];
            if let Some((place, left)) = self.incoming {
                let count = left.min(bytes.len());
                memory.bytes_mut()[place..place + count].copy_from_slice(&bytes[..count]);
                at += count;
                self.placed(count);
                if self.incoming.is_some() {
                    break;
                }
                continue;
            }
            let Some(bytes) = bytes.first_chunk::<REQUEST>() else {
                break;
            };
            let Some(request) = Request::of(bytes, memory.len() as u64) else {
                log::warn!(
                    "{} does not speak to the raw server as it should",
                    self.from
                );
                return Err(io::ErrorKind::InvalidData.into());
            };
            at += REQUEST;
            let (place, len) = (request.at as usize, request.len as usize);
            match request.what {
                What::Read => self.answer(0, place, len),
                What::Write if len == 0 => self.answer(0, 0, 0),
                What::Write => self.incoming = Some((place, len)),
                What::Usage => {
                    self.answer(usage::of_process(std::process::id()).unwrap_or(0), 0, 0)
                }
            }
        }
        self.staging.copy_within(at..self.staged, 0);
        self.staged -= at;
        Ok(())
    }

    fn send(&mut self, memory: &Buf) -> io::Result<bool> {
        if self.replies.is_empty() {
            return Ok(false);
        }
        let mut list = IoList::new(SEND_MAX);
        let mut skip = self.sent;
        for reply in &self.replies {
            let data = &memory.bytes()[reply.at..reply.at + reply.len];
            let header = skip.min(reply.header.len());
            if !list.push(&reply.header[header..]) || !list.push(&data[skip - header..]) {
                break;
            }
            skip = 0;
        }
        match sys::send(self.socket.as_fd(), &list) {
            Ok(count) => self.left(count),
            Err(cause)
                if matches!(
                    cause.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) =>
            {
                return Ok(false);
            }
            Err(cause) => return Err(cause),
        }
        Ok(true)
    }

    /// So many bytes were sent.
    fn left(&mut self, count: usize) {
        self.sent += count;
        while let Some(first) = self.replies.front()
            && self.sent >= first.header.len() + first.len
        {
            self.sent -= first.header.len() + first.len;
            self.replies.pop_front();
        }
    }
}
