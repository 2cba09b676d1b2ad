//! Accepting, for a control thread: nothing here may be slow for a core, since no core does it.

use std::io;
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that wait to be accepted: a thousand queues may come back at once.
const BACKLOG: i32 = 4096;

/// A peer that acknowledges nothing for so long is dead.
const DEAD_MS: u64 = 30_000;

/// A listening socket.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    local: SocketAddr,
}

/// A connection, handed over from where it was accepted.
#[derive(Debug)]
pub struct Incoming {
    /// The socket.
    pub socket: TcpStream,
    /// What was already read from it.
    pub bytes: Vec<u8>,
    /// The address the host came to.
    pub local: SocketAddr,
    /// The host's address.
    pub peer: SocketAddr,
}

impl Incoming {
    /// A socket of which nothing was read.
    ///
    /// # Errors
    /// If the socket has no addresses: its peer is gone already.
    pub fn new(socket: TcpStream) -> io::Result<Incoming> {
        let (local, peer) = (socket.local_addr()?, socket.peer_addr()?);
        Ok(Incoming {
            socket,
            bytes: Vec::new(),
            local,
            peer,
        })
    }
}

/// What [`Listener::accept`] found.
#[derive(Debug)]
pub enum Accepted {
    /// A connection.
    One(Incoming),
    /// Nobody waits.
    Nobody,
    /// This one failed before it was accepted; there may be others.
    Lost(io::Error),
    /// There is no descriptor or memory for another one. Those that wait go on waiting; try again
    /// after a while, not at once: the socket stays readable, and asking again would spin.
    Exhausted(io::Error),
}

impl Listener {
    /// Listens at an address. An IPv6 one takes IPv6 alone, so that both wildcards can be bound.
    ///
    /// # Errors
    /// Of socket, bind and listen: the address is in use, or not of this machine, or needs a
    /// privilege.
    pub fn bind(address: SocketAddr) -> io::Result<Listener> {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM.nonblocking().cloexec(),
            Some(Protocol::TCP),
        )?;
        // A node that was restarted must not wait for its old connections to be forgotten.
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let socket = TcpListener::from(socket);
        let local = socket.local_addr()?;
        Ok(Listener { socket, local })
    }

    /// Where it listens; the port is the real one if 0 was asked for.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// The next connection, without waiting.
    pub fn accept(&self) -> Accepted {
        match self.socket.accept() {
            Ok((socket, peer)) => match incoming(socket, peer) {
                Ok(incoming) => Accepted::One(incoming),
                Err(cause) => Accepted::Lost(cause),
            },
            Err(cause) => classify(cause),
        }
    }
}

fn incoming(socket: TcpStream, peer: SocketAddr) -> io::Result<Incoming> {
    socket.set_nonblocking(true)?;
    let local = socket.local_addr()?;
    Ok(Incoming {
        socket,
        bytes: Vec::new(),
        local: plain(local),
        peer: plain(peer),
    })
}

/// An IPv4 address that came dressed as IPv6, undressed.
fn plain(address: SocketAddr) -> SocketAddr {
    let SocketAddr::V6(v6) = address else {
        return address;
    };
    let ip: &Ipv6Addr = v6.ip();
    match ip.to_ipv4_mapped() {
        Some(v4) => SocketAddr::from((v4, v6.port())),
        None => address,
    }
}

fn classify(cause: io::Error) -> Accepted {
    match cause.raw_os_error() {
        Some(libc::EAGAIN) => Accepted::Nobody,
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
            Accepted::Exhausted(cause)
        }
        // accept(2) hands out errors of the connection that was to be accepted, too.
        _ => Accepted::Lost(cause),
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// What every socket is set to. Dead peers show themselves even if a host asked for no KATO.
pub(super) fn prepare(socket: &TcpStream) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    socket.set_nodelay(true)?;
    let options = socket2::SockRef::from(socket);
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(10))
        .with_interval(Duration::from_secs(5))
        .with_retries(4);
    options.set_tcp_keepalive(&keepalive)?;
    options.set_tcp_user_timeout(Some(Duration::from_millis(DEAD_MS)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    fn accept(listener: &Listener) -> Incoming {
        for _ in 0..1000 {
            match listener.accept() {
                Accepted::One(incoming) => return incoming,
                Accepted::Nobody => std::thread::sleep(std::time::Duration::from_millis(1)),
                other => panic!("{other:?}"),
            }
        }
        panic!("nobody came");
    }

    #[test]
    fn connections_are_handed_out_with_their_addresses() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = match Listener::bind(address.parse().unwrap()) {
                Ok(listener) => listener,
                // A machine may be without IPv6.
                Err(cause) if address.starts_with('[') => {
                    assert_ne!(cause.kind(), io::ErrorKind::AddrInUse);
                    continue;
                }
                Err(cause) => panic!("{cause}"),
            };
            assert_ne!(listener.local().port(), 0);
            assert!(matches!(listener.accept(), Accepted::Nobody));
            let mut host = TcpStream::connect(listener.local()).unwrap();
            let mut incoming = accept(&listener);
            assert_eq!(incoming.local, listener.local());
            assert_eq!(incoming.peer, host.local_addr().unwrap());
            assert!(matches!(listener.accept(), Accepted::Nobody));
            let none = incoming.socket.read(&mut [0]).unwrap_err();
            assert_eq!(none.kind(), io::ErrorKind::WouldBlock);
            host.write_all(b"x").unwrap();
        }
    }

    #[test]
    fn a_port_in_use_is_an_error_and_a_closed_one_is_free_at_once() {
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local();
        let taken = Listener::bind(address).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        let host = TcpStream::connect(address).unwrap();
        // Closed here first, so that this end keeps the address for a while.
        drop(accept(&listener));
        drop(listener);
        drop(host);
        Listener::bind(address).unwrap();
    }

    #[test]
    fn errors_say_whether_to_go_on() {
        let kind = |code| classify(io::Error::from_raw_os_error(code));
        assert!(matches!(kind(libc::EAGAIN), Accepted::Nobody));
        for code in [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM] {
            assert!(matches!(kind(code), Accepted::Exhausted(_)));
        }
        for code in [libc::ECONNABORTED, libc::EPROTO, libc::EINTR, libc::EPERM] {
            assert!(matches!(kind(code), Accepted::Lost(_)));
        }
    }
}
