//! NVMe/RDMA under a [`super::Queue`]: a provider of queue pairs around the host's machine.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ferroce_buf::Region;
use ferroce_engine::port::Tick;
use ferroce_wire::Wire;
use ferroce_wire::sqe::Sqe;

use super::{Data, HostError, Refused};
use crate::rdma::host::{Broken, Conn, request};
use crate::rdma::provider::{Dial, DialError, Provider, Why};
#[cfg(feature = "verbs")]
use crate::rdma::verbs::{Verbs, VerbsProvider};
use crate::roce::provider::Roce;
use crate::roce::udp::{self, OpenError};
use crate::sys;

/// How long who drops a queue waits for its end to be sent and heard.
const GOODBYE: Duration = Duration::from_millis(200);
/// Between two looks at a provider that nobody can sleep on, or whose timer is due.
const NAP: Duration = Duration::from_millis(1);
const POISON: &str = "nobody panics with the lock";

/// Our end of RDMA: providers of queue pairs on one address, one for each queue that is to be open at
/// a time. Clones share them.
pub struct RdmaHost<P> {
    shared: Arc<Shared<P>>,
}

struct Shared<P> {
    local: IpAddr,
    /// The providers' clock counts from here.
    start: Instant,
    free: Mutex<Vec<P>>,
}

impl<P> Clone for RdmaHost<P> {
    fn clone(&self) -> RdmaHost<P> {
        RdmaHost {
            shared: self.shared.clone(),
        }
    }
}

impl<P> fmt::Debug for RdmaHost<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RdmaHost({})", self.shared.local)
    }
}

impl RdmaHost<Roce> {
    /// Software RoCEv2 for so many queues at a time, at most 128, the admin queue included. It has UDP
    /// port 4791 of its address to itself.
    ///
    /// # Errors
    /// What is in the way, in words for people.
    pub fn roce(
        local: IpAddr,
        queues: usize,
        options: udp::Options,
    ) -> Result<RdmaHost<Roce>, OpenError> {
        let (sockets, _) = udp::open(&[local], Vec::new(), queues, options)?;
        // New with every start, so that nobody takes us for who was here before.
        let random = || {
            let failed = |cause| OpenError::System(local, "cannot draw random numbers", cause);
            crate::sys::udp::random().map_err(failed)
        };
        let guid = random()? | 1;
        let providers = sockets
            .into_iter()
            .map(|sockets| Ok(Roce::new(sockets, guid, random()?)))
            .collect::<Result<_, _>>()?;
        Ok(RdmaHost::new(local, providers))
    }
}

impl<P: Provider> RdmaHost<P> {
    /// The address it comes from.
    pub fn local(&self) -> IpAddr {
        self.shared.local
    }

    /// These providers, all of this address.
    pub fn new(local: IpAddr, providers: Vec<P>) -> RdmaHost<P> {
        RdmaHost {
            shared: Arc::new(Shared {
                local,
                start: Instant::now(),
                free: Mutex::new(providers),
            }),
        }
    }
}

#[cfg(feature = "verbs")]
impl RdmaHost<VerbsProvider> {
    /// RDMA devices, started as a host, for so many queues at a time, the admin queue included. The device is the one with
    /// this address ([`Verbs::has`]). The devices are to be dropped after this.
    ///
    /// # Errors
    /// Of the queues' descriptors.
    pub fn verbs(
        verbs: &Verbs,
        local: IpAddr,
        queues: usize,
    ) -> std::io::Result<RdmaHost<VerbsProvider>> {
        let providers = (0..queues).map(|_| verbs.core());
        Ok(RdmaHost::new(local, providers.collect::<Result<_, _>>()?))
    }
}

/// The address of ours that the system sends from to a target.
///
/// # Errors
/// If no route leads there.
pub fn route_address(target: SocketAddr) -> std::io::Result<IpAddr> {
    let any: IpAddr = match target {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    // Sends nothing: the system only picks the route.
    socket.connect(target)?;
    Ok(socket.local_addr()?.ip())
}

/// The address of ours by which a target is reached over software RoCEv2. Both ends of its connections need port 4791, so
/// a target on the same address of this machine is reached from another loopback address.
///
/// # Errors
/// If no route leads there.
pub fn local_address(target: SocketAddr) -> std::io::Result<IpAddr> {
    let local = route_address(target)?;
    match (local, target.ip()) {
        (IpAddr::V4(ip), IpAddr::V4(there)) if ip == there => {
            let other = match there == Ipv4Addr::new(127, 0, 0, 2) {
                true => Ipv4Addr::LOCALHOST,
                false => Ipv4Addr::new(127, 0, 0, 2),
            };
            Ok(other.into())
        }
        _ => Ok(local),
    }
}

/// A connection, on a provider that it has to itself while it lasts.
#[derive(Debug)]
pub struct RdmaWire<P: Provider> {
    address: SocketAddr,
    host: RdmaHost<P>,
    /// There until it is given back.
    provider: Option<P>,
    pub conn: Conn,
}

impl<P: Provider> RdmaWire<P> {
    /// Asks for a connection for `depth` commands at a time; whether it comes is yet to be seen.
    pub fn open(
        host: &RdmaHost<P>,
        address: SocketAddr,
        qid: u16,
        depth: u16,
    ) -> Result<RdmaWire<P>, HostError> {
        let none = |why: &str| HostError::NoQueuePair {
            address,
            why: why.to_owned(),
        };
        let free = host.shared.free.lock().expect(POISON).pop();
        let mut provider = free.ok_or_else(|| none("all queues it was opened for are in use"))?;
        let entries = depth + 1;
        let (private, demand) = request(qid, entries);
        let dial = Dial {
            local: Some(host.shared.local),
            peer: address,
            private: private.as_bytes(),
            demand,
        };
        let qp = match provider.connect(&dial, now(host)) {
            Ok(qp) => qp,
            Err(why) => {
                host.shared.free.lock().expect(POISON).push(provider);
                return Err(match why {
                    DialError::NoRoute => none("no RDMA device or socket leads there"),
                    DialError::Resources(what) => none(&what),
                });
            }
        };
        let conn = Conn::new(&mut provider, qp, entries, depth);
        Ok(RdmaWire {
            address,
            host: host.clone(),
            provider: Some(provider),
            conn,
        })
    }

    /// Lets commands have their data there.
    pub fn register(&mut self, region: &Arc<Region>) -> Result<(), HostError> {
        let provider = self.provider.as_mut().expect(HELD);
        provider
            .register(region)
            .map_err(|cause| HostError::NoMemory {
                address: self.address,
                why: cause.to_string(),
            })
    }

    /// Queues a command.
    #[inline]
    pub fn submit(&mut self, sqe: Sqe, data: Data, user_data: u64) -> Result<u16, Refused> {
        let provider = self.provider.as_mut().expect(HELD);
        self.conn.submit(provider, sqe, data, user_data)
    }

    /// Sends what is queued.
    #[inline]
    pub fn flush(&mut self) -> Result<(), HostError> {
        let now = now(&self.host);
        self.provider.as_mut().expect(HELD).flush(now);
        Ok(())
    }

    /// Takes what came.
    #[inline]
    pub fn receive(&mut self) -> Result<(), HostError> {
        let now = now(&self.host);
        let provider = self.provider.as_mut().expect(HELD);
        if let Some(cause) = self.conn.no_memory() {
            return Err(HostError::NoMemory {
                address: self.address,
                why: cause.to_string(),
            });
        }
        while let Some(event) = provider.poll(now) {
            let address = self.address;
            let taken = self.conn.on_event(provider, event);
            taken.map_err(|broken| match broken {
                Broken::Lost(Why::Peer) if self.conn.is_open() => HostError::Closed { address },
                broken => HostError::Rdma { address, broken },
            })?;
        }
        Ok(())
    }

    /// Nothing more is sent or believed; the queue pair ends.
    pub fn end(&mut self) {
        let now = now(&self.host);
        let provider = self.provider.as_mut().expect(HELD);
        self.conn.end(provider);
        if !self.conn.is_gone() {
            provider.close(self.conn.qp(), now);
            provider.flush(now);
        }
    }

    /// Sleeps until there may be something to take, or the timeout is over.
    pub fn wait(&mut self, timeout: Duration) -> Result<bool, HostError> {
        let now = now(&self.host);
        let provider = self.provider.as_mut().expect(HELD);
        if !provider.arm(false) {
            return Ok(true);
        }
        let due = provider.next_timeout();
        let due = due.map(|due| Duration::from_nanos(due.since(now)).max(NAP));
        let timeout = due.map_or(timeout, |due| due.min(timeout));
        let Some(fd) = provider.fd() else {
            std::thread::sleep(timeout.min(NAP));
            return Ok(true);
        };
        // A timer of the provider counts as something.
        sys::wait_readable(fd, timeout)
            .map(|readable| readable || due == Some(timeout))
            .map_err(|cause| HostError::lost(self.address, cause))
    }
}

const HELD: &str = "held until it is dropped";

fn now<P>(host: &RdmaHost<P>) -> Tick {
    Tick(1 + host.shared.start.elapsed().as_nanos() as u64)
}

impl<P: Provider> Drop for RdmaWire<P> {
    /// The target hears of the end now, and not when it misses us.
    fn drop(&mut self) {
        self.end();
        let deadline = Instant::now() + GOODBYE;
        while !self.conn.is_gone() && Instant::now() < deadline {
            // It was over before this; why does not matter any more.
            let _ = self.receive();
            let _ = self.flush();
            if !self.conn.is_gone() {
                let _ = self.wait(NAP);
            }
        }
        // One that cannot let go is no good for another queue.
        if self.conn.is_gone()
            && let Some(provider) = self.provider.take()
        {
            self.host.shared.free.lock().expect(POISON).push(provider);
        }
    }
}
