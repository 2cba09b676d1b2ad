//! Where peers ask for connections. A place outlives its device: when one has its address again, it is heard there.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex};

use rdma_sys as sys;

use super::cm::{Id, Owner, Shared, VerbsIncoming, addresses, check, lock};
use super::inbox::Inbox;

/// Requests of one listener that no core has looked at yet. What is more is refused.
const REQUESTS_MAX: usize = 256;

/// A place where peers ask for connections.
#[derive(Debug)]
pub struct Listener {
    place: Arc<Place>,
    shared: Arc<Shared>,
}

/// What the control thread knows of one.
#[derive(Debug)]
pub(super) struct Place {
    address: SocketAddr,
    requests: Inbox<VerbsIncoming>,
    hears: Mutex<Hears>,
}

/// By what it hears of requests.
#[derive(Debug)]
enum Hears {
    By(Id),
    /// Its device went.
    Nothing,
    /// Nobody wants it any more.
    Closed,
}

impl Listener {
    /// See [`Verbs::listen`](super::Verbs::listen).
    pub(super) fn new(shared: Arc<Shared>, address: SocketAddr) -> io::Result<Listener> {
        let id = shared.bound(address)?;
        // Who asks need not wait until the device knows all memory.
        shared
            .open_for(id)
            .inspect_err(|_| destroy(id))
            .map_err(io::Error::other)?;
        // SAFETY: the id is bound, so its address is set.
        let local = unsafe { addresses(id) }.0;
        let requests = Inbox::new().inspect_err(|_| destroy(id))?;
        let place = Arc::new(Place {
            address: local.unwrap_or(address),
            requests,
            hears: Mutex::new(Hears::Nothing),
        });
        place.hear_by(id, &shared)?;
        Ok(Listener { place, shared })
    }

    /// The next request, if there is one.
    pub fn accept(&self) -> Option<VerbsIncoming> {
        self.place.requests.pop()
    }

    /// Where it listens.
    pub fn local(&self) -> SocketAddr {
        self.place.address
    }
}

impl AsFd for Listener {
    /// Readable while there are requests.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.place.requests.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.place.end(Hears::Closed, &self.shared);
    }
}

impl Place {
    /// A request came. False if too many wait: then it is refused.
    pub(super) fn ask(&self, request: VerbsIncoming) -> bool {
        let has_room = self.requests.len() < REQUESTS_MAX;
        if has_room {
            self.requests.push(request);
        }
        has_room
    }

    /// Its device is gone. Not while one of its events is handled, which destroying the id would wait for.
    pub(super) fn lost(&self, shared: &Shared) {
        log::warn!(
            "RDMA: the device at {} is gone, or its address; hosts are heard there again when one has it",
            self.address
        );
        self.end(Hears::Nothing, shared);
    }

    /// Listens again if it can. True if there is no need to try again.
    pub(super) fn hear_again(self: &Arc<Place>, shared: &Shared) -> bool {
        if !matches!(*lock(&self.hears), Hears::Nothing) {
            return true;
        }
        let heard = shared
            .bound(self.address)
            .and_then(|id| self.hear_by(id, shared));
        match &heard {
            Ok(()) => log::info!("RDMA: hosts are heard at {} again", self.address),
            Err(cause) => log::debug!("RDMA: nothing is heard at {}: {cause}", self.address),
        }
        heard.is_ok()
    }

    /// Listens by an id that is bound, which is destroyed if that fails, or if nobody wants it any more.
    fn hear_by(self: &Arc<Place>, id: Id, shared: &Shared) -> io::Result<()> {
        let mut hears = lock(&self.hears);
        if matches!(*hears, Hears::Closed) {
            destroy(id);
            return Ok(());
        }
        shared.owned_by(id, Owner::Listener(self.clone()));
        // SAFETY: the id was just bound.
        if let Err(cause) = check(unsafe { sys::rdma_listen(id.0, REQUESTS_MAX as libc::c_int) }) {
            shared.disown(id);
            destroy(id);
            return Err(cause);
        }
        *hears = Hears::By(id);
        Ok(())
    }

    fn end(&self, now: Hears, shared: &Shared) {
        let before = std::mem::replace(&mut *lock(&self.hears), now);
        if let Hears::By(id) = before {
            shared.disown(id);
            destroy(id);
        }
    }
}

fn destroy(id: Id) {
    // SAFETY: made by `bound` and known to nobody else; the control thread acknowledges its events without us.
    unsafe { sys::rdma_destroy_id(id.0) };
}
