//! The transports and drives there are, as two closed sets. A core is generic over them; matching
//! here, once per batch, is all the dispatch there is: no `dyn` on the data path.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use ferroce_buf::{Buf, BufList};
use ferroce_drivers::{FileQueue, NvmeQueue, RamQueue};
use ferroce_engine::port::{
    Backend, Close, ConnId, Done, Fabric, Fetch, Inbound, Io, Reply, Room, Tick,
};
use ferroce_transport::rdma::fabric::RdmaFabric;
use ferroce_transport::rdma::provider::Provider;
#[cfg(feature = "verbs")]
use ferroce_transport::rdma::verbs::{VerbsIncoming, VerbsProvider};
use ferroce_transport::roce;
use ferroce_transport::roce::provider::Roce;
use ferroce_transport::tcp::fabric::TcpFabric;
use ferroce_transport::tcp::listen::Incoming;

use crate::wait::{Bed, Watching};

/// Any transport, as one core has it.
#[derive(Debug)]
pub enum AnyFabric {
    /// NVMe/TCP.
    Tcp(Box<TcpFabric>),
    /// NVMe/RDMA over software RoCEv2.
    Roce(Box<RdmaFabric<Roce>>),
    /// NVMe/RDMA over RDMA devices.
    #[cfg(feature = "verbs")]
    Verbs(Box<RdmaFabric<VerbsProvider>>),
}

/// Index of the TCP fabric on each core.
pub const TCP: usize = 0;
/// Index of the RoCE fabric on each core, if there is one; that of RDMA devices comes after it.
pub const ROCE: usize = 1;

/// A connection on its way to a core.
#[derive(Debug)]
pub enum AnyIncoming {
    /// An accepted socket.
    Tcp(Incoming),
    /// A request that was not answered yet.
    Roce(Box<roce::cm::Incoming>),
    /// The same, for RDMA devices, with the index of their fabric.
    #[cfg(feature = "verbs")]
    Verbs(usize, Box<VerbsIncoming>),
}

impl AnyIncoming {
    /// The fabric it is for.
    pub fn fabric(&self) -> usize {
        match self {
            AnyIncoming::Tcp(_) => TCP,
            AnyIncoming::Roce(_) => ROCE,
            #[cfg(feature = "verbs")]
            AnyIncoming::Verbs(index, _) => *index,
        }
    }

    /// The core that must have it, if not any may.
    pub fn core(&self) -> Option<usize> {
        match self {
            AnyIncoming::Roce(incoming) => incoming.core(),
            _ => None,
        }
    }
}

macro_rules! each_fabric {
    ($self:ident, $fabric:ident => $call:expr) => {
        match $self {
            AnyFabric::Tcp($fabric) => $call,
            AnyFabric::Roce($fabric) => $call,
            #[cfg(feature = "verbs")]
            AnyFabric::Verbs($fabric) => $call,
        }
    };
}

impl AnyFabric {
    /// Where a core with these fabrics sleeps.
    pub fn bed(fabrics: &[AnyFabric]) -> io::Result<Bed> {
        let epoll = fabrics.iter().find_map(AnyFabric::epoll);
        let bed = match epoll {
            Some(epoll) => Bed::over(epoll.try_clone_to_owned()?)?,
            None => Bed::new()?,
        };
        for fabric in fabrics.iter().filter(|fabric| fabric.epoll().is_none()) {
            bed.watch(match fabric {
                AnyFabric::Tcp(fabric) => fabric.as_fd(),
                AnyFabric::Roce(fabric) => fabric.provider().fd().expect("sockets can be watched"),
                #[cfg(feature = "verbs")]
                AnyFabric::Verbs(_) => unreachable!("it has an epoll"),
            })?;
        }
        Ok(bed)
    }

    /// An epoll that has its sources and none else, and that it does not look at itself.
    fn epoll(&self) -> Option<BorrowedFd<'_>> {
        match self {
            AnyFabric::Tcp(_) | AnyFabric::Roce(_) => None,
            #[cfg(feature = "verbs")]
            AnyFabric::Verbs(fabric) => Some(fabric.provider().epoll()),
        }
    }

    /// Bytes of data that were copied here.
    pub fn copied(&self) -> u64 {
        match self {
            AnyFabric::Tcp(fabric) => fabric.copied(),
            AnyFabric::Roce(fabric) => fabric.provider().copied(),
            // The device reads and writes the Bufs themselves.
            #[cfg(feature = "verbs")]
            AnyFabric::Verbs(_) => 0,
        }
    }

    /// What it counts, by the transport's name and its own.
    pub fn each_counter(&self, give: &mut dyn FnMut(&'static str, &'static str, u64)) {
        match self {
            AnyFabric::Tcp(fabric) => {
                fabric.each_counter(&mut |name, count| give("tcp", name, count));
            }
            AnyFabric::Roce(fabric) => {
                let give = &mut |name, count| give("rdma", name, count);
                fabric.provider().each_counter(give);
            }
            #[cfg(feature = "verbs")]
            AnyFabric::Verbs(fabric) => {
                let give = &mut |name, count| give("rdma", name, count);
                fabric.provider().each_counter(give);
            }
        }
    }

    /// Has what wakes a sleeping core armed; see [`RdmaFabric::arm`]. False if there is something to do already.
    pub fn arm(&mut self, patient: bool) -> bool {
        match self {
            AnyFabric::Tcp(_) => true,
            AnyFabric::Roce(fabric) => fabric.arm(patient),
            #[cfg(feature = "verbs")]
            AnyFabric::Verbs(fabric) => fabric.arm(patient),
        }
    }

    /// True if a peer is still to be told that its connection has ended. Sockets and devices tell theirs by themselves.
    pub fn is_parting(&self) -> bool {
        match self {
            AnyFabric::Roce(fabric) => fabric.provider().is_parting(),
            _ => false,
        }
    }

    /// Connections that are open.
    pub fn connections(&self) -> usize {
        each_fabric!(self, fabric => fabric.connections())
    }
}

impl Fabric for AnyFabric {
    type Incoming = AnyIncoming;

    fn adopt(&mut self, incoming: AnyIncoming, now: Tick) {
        match (self, incoming) {
            (AnyFabric::Tcp(fabric), AnyIncoming::Tcp(incoming)) => fabric.adopt(incoming, now),
            (AnyFabric::Roce(fabric), AnyIncoming::Roce(incoming)) => fabric.adopt(incoming, now),
            #[cfg(feature = "verbs")]
            (AnyFabric::Verbs(fabric), AnyIncoming::Verbs(_, incoming)) => {
                fabric.adopt(*incoming, now);
            }
            _ => {
                unreachable!("a connection goes to the fabric it is for")
            }
        }
    }

    #[inline]
    fn poll(&mut self, now: Tick, room: Room) -> Option<Inbound<'_>> {
        each_fabric!(self, fabric => fabric.poll(now, room))
    }

    #[inline]
    fn fetch(&mut self, conn: ConnId, fetch: Fetch) {
        each_fabric!(self, fabric => fabric.fetch(conn, fetch));
    }

    #[inline]
    fn reply(&mut self, conn: ConnId, reply: Reply) {
        each_fabric!(self, fabric => fabric.reply(conn, reply));
    }

    #[inline]
    fn wants_more(&self, conn: ConnId) -> bool {
        each_fabric!(self, fabric => fabric.wants_more(conn))
    }

    fn admitted(&mut self, conn: ConnId) {
        each_fabric!(self, fabric => fabric.admitted(conn));
    }

    fn close(&mut self, conn: ConnId, how: Close) {
        each_fabric!(self, fabric => fabric.close(conn, how));
    }

    #[inline]
    fn home(&mut self) -> Option<BufList> {
        each_fabric!(self, fabric => fabric.home())
    }

    #[inline]
    fn flush(&mut self, now: Tick) {
        each_fabric!(self, fabric => fabric.flush(now));
    }

    fn next_timeout(&self) -> Option<Tick> {
        each_fabric!(self, fabric => fabric.next_timeout())
    }

    fn has_work(&self) -> bool {
        each_fabric!(self, fabric => fabric.has_work())
    }
}

/// Any drive, as one core has it.
#[derive(Debug)]
pub enum AnyDrive {
    /// Memory.
    Ram(Box<RamQueue>),
    /// A file or a block device.
    File(Box<FileEnd>),
    /// An NVMe drive.
    Nvme(Box<NvmeEnd>),
}

/// A drive's queue, and whether its core watches it.
#[derive(Debug)]
pub struct NvmeEnd {
    /// The drive keeps its interrupts open for the next queue, so this one's watching ends with it.
    watching: Option<Watching>,
    queue: NvmeQueue,
}

impl NvmeEnd {
    /// Nobody watches it yet.
    pub fn new(queue: NvmeQueue) -> NvmeEnd {
        NvmeEnd {
            watching: None,
            queue,
        }
    }
}

/// A file's queue, and whether its core watches it.
#[derive(Debug)]
pub struct FileEnd {
    queue: FileQueue,
    watched: bool,
}

impl FileEnd {
    /// Nobody watches it yet.
    pub fn new(queue: FileQueue) -> FileEnd {
        FileEnd {
            queue,
            watched: false,
        }
    }
}

macro_rules! each_drive {
    ($self:ident, $drive:ident => $call:expr) => {
        match $self {
            AnyDrive::Ram($drive) => $call,
            AnyDrive::File(end) => {
                let $drive = &mut end.queue;
                $call
            }
            AnyDrive::Nvme(end) => {
                let $drive = &mut end.queue;
                $call
            }
        }
    };
    (ref $self:ident, $drive:ident => $call:expr) => {
        match $self {
            AnyDrive::Ram($drive) => $call,
            AnyDrive::File(end) => {
                let $drive = &end.queue;
                $call
            }
            AnyDrive::Nvme(end) => {
                let $drive = &end.queue;
                $call
            }
        }
    };
}

impl AnyDrive {
    /// Has its completions watched by a core that is about to sleep. False if there is nothing to watch:
    /// then they must be looked for every now and then.
    pub fn watch_by(&mut self, bed: &Bed) -> io::Result<bool> {
        match self {
            // Its completions are there as soon as it was asked.
            AnyDrive::Ram(_) => {}
            AnyDrive::File(end) if end.watched => {}
            AnyDrive::File(end) => {
                bed.watch(end.queue.as_fd())?;
                end.watched = true;
            }
            AnyDrive::Nvme(end) => {
                end.queue.before_sleep();
                if end.watching.is_none() {
                    let Some(fd) = end.queue.wake_fd() else {
                        return Ok(false);
                    };
                    end.watching = Some(bed.watch_while(fd)?);
                }
            }
        }
        Ok(true)
    }
}

impl AnyDrive {
    /// Its core stopped.
    pub fn on_stop(&mut self) {
        if let AnyDrive::Nvme(end) = self {
            end.queue.on_stop();
        }
    }

    /// True while another core needs that this one polls it.
    pub fn is_needed(&self) -> bool {
        matches!(self, AnyDrive::Nvme(end) if end.queue.is_needed())
    }
}

impl Backend for AnyDrive {
    #[inline]
    fn submit(&mut self, io: Io) -> Result<(), Io> {
        each_drive!(self, drive => drive.submit(io))
    }

    #[inline]
    fn ring_doorbell(&mut self) {
        each_drive!(self, drive => drive.ring_doorbell());
    }

    #[inline]
    fn poll(&mut self) -> Option<Done> {
        each_drive!(self, drive => drive.poll())
    }

    fn in_flight(&self) -> usize {
        each_drive!(ref self, drive => drive.in_flight())
    }

    fn brings_memory(&self) -> bool {
        each_drive!(ref self, drive => drive.brings_memory())
    }

    #[inline]
    fn space(&mut self, start: u64, len: usize, into: &mut BufList) -> bool {
        each_drive!(self, drive => drive.space(start, len, into))
    }

    fn lends(&self) -> u32 {
        each_drive!(ref self, drive => drive.lends())
    }

    #[inline]
    fn put(&mut self, buf: Buf) {
        each_drive!(self, drive => drive.put(buf));
    }

    fn has_work(&self) -> bool {
        each_drive!(ref self, drive => drive.has_work())
    }

    fn may_leave(&mut self) -> bool {
        each_drive!(self, drive => drive.may_leave())
    }
}
