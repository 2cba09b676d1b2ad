//! NVMe/TCP under a [`super::Queue`]: a socket around the PDU machine.

use std::io::{self, IoSliceMut, Read};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

use super::{HostError, Options};
use crate::sys::{self, IoList};
use crate::tcp::frame::Digests;
use crate::tcp::host::{Broken, Conn, Wishes};

/// Bytes that one system call sends, at most: what came meanwhile is to be looked at, too.
const SEND_MAX: usize = 1 << 20;
/// What is received at once where most of each PDU goes to its own memory by itself.
const BETWEEN_LARGE: usize = 4096;
/// How long a socket that takes nothing is left alone by [`TcpWire::wait`].
const SEND_RETRY: Duration = Duration::from_millis(1);

/// A connection.
#[derive(Debug)]
pub struct TcpWire {
    address: SocketAddr,
    socket: TcpStream,
    pub conn: Conn,
    staging: Box<[u8]>,
}

impl TcpWire {
    /// A TCP connection; the handshake of NVMe/TCP is yet to come.
    pub fn open(address: SocketAddr, depth: u16, options: &Options) -> Result<TcpWire, HostError> {
        let unreachable = |cause| HostError::Unreachable {
            address,
            cause: Arc::new(cause),
        };
        let socket = TcpStream::connect_timeout(&address, options.timeout).map_err(unreachable)?;
        prepare(&socket, options).map_err(unreachable)?;
        let wishes = Wishes {
            digests: wanted(options),
            hpda: 0,
            maxr2t: options.maxr2t,
            depth,
        };
        Ok(TcpWire {
            address,
            socket,
            conn: Conn::new(wishes),
            staging: vec![0; options.receive_len.max(BETWEEN_LARGE)].into_boxed_slice(),
        })
    }

    /// The handshake is over: it is as was asked for.
    pub fn check(&self, options: &Options) -> Result<(), HostError> {
        if self.conn.digests() == wanted(options) {
            return Ok(());
        }
        Err(HostError::NoDigests {
            address: self.address,
        })
    }

    /// What an error before the end of the handshake says of whoever answers.
    pub fn not_nvme(&self, error: HostError) -> HostError {
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
            other => return other,
        };
        HostError::NotNvmeTcp {
            address: self.address,
            what,
        }
    }

    /// Sends what is queued and the socket takes.
    pub fn flush(&mut self) -> Result<(), HostError> {
        self.send()
            .map_err(|cause| HostError::lost(self.address, cause))
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

    /// Receives once.
    pub fn receive(&mut self) -> Result<(), HostError> {
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
                return Err(HostError::Closed { address });
            }
            Ok(count) => count,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) =>
            {
                return Ok(());
            }
            Err(cause) => return Err(HostError::lost(self.address, cause)),
        };
        let direct = count.min(direct_len);
        if direct > 0 {
            self.conn.direct_received(direct);
        }
        let received = self.conn.received(&self.staging[..count - direct]);
        received.map_err(|broken| self.broken(broken))
    }

    fn broken(&mut self, broken: Broken) -> HostError {
        if let Broken::Violation(violation) = &broken {
            self.conn.terminate(violation);
            // Nobody waits for the TermReq to arrive: the connection is over either way.
            let _ = self.send();
        }
        let address = self.address;
        HostError::Protocol { address, broken }
    }

    /// Nothing more is sent or believed.
    pub fn end(&mut self) {
        // Not read: closing at once would throw a TermReq away that is still on its way.
        let _ = self.socket.shutdown(Shutdown::Write);
        self.conn.end();
    }

    /// Sleeps until there is something to receive, or the timeout is over.
    pub fn wait(&mut self, timeout: Duration) -> Result<bool, HostError> {
        let timeout = if self.conn.wants_send() {
            timeout.min(SEND_RETRY)
        } else {
            timeout
        };
        if timeout.is_zero() {
            return Ok(false);
        }
        sys::wait_readable(self.socket.as_fd(), timeout)
            .map_err(|cause| HostError::lost(self.address, cause))
    }
}

fn wanted(options: &Options) -> Digests {
    Digests {
        header: options.header_digest,
        data: options.data_digest,
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
