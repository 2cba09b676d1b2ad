//! A queue pair with its completion queue and windows, as set-up threads make it and a core uses it.

use std::io;
use std::mem::zeroed;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rdma_sys as sys;

use super::cm::{Mail, nonblocking};
use super::conn::Conn;
use super::device::{Device, Slab};
use super::inbox::Inbox;

/// Entries of a completion queue, if the device has as many: those of some hundred queue pairs. A core makes another
/// one when they are dealt out.
const CQ_ENTRIES: u32 = 32 * 1024;
/// Completion queues of a core and a device.
const CQS_MAX: usize = 16;
/// Bytes that are wanted inline: a response, and on an active end a command.
const INLINE: [u32; 2] = [16, 64];

/// How a queue pair is to be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Plan {
    /// RECVs.
    pub recvs: u32,
    /// SGEs of a RECV: one for the head, one for a Buf.
    pub recv_sges: u32,
    /// Work requests of the binding.
    pub sends: u32,
    /// SGEs of each.
    pub sges: u32,
    /// Memory windows, on an active end.
    pub windows: u32,
    /// READs of ours that may be out, and of the peer's.
    pub reads_out: u8,
    /// See `reads_out`.
    pub reads_in: u8,
}

/// The part of a core's provider that set-up threads know.
#[derive(Debug)]
pub(super) struct CoreShared {
    pub inbox: Inbox<Mail>,
    /// Readable when mail or a completion is there.
    pub epoll: OwnedFd,
    /// Its number, by which it has a completion vector of each device: what wakes one core interrupts no other.
    number: usize,
    ends: Mutex<Vec<End>>,
}

/// A core's end of a device.
#[derive(Debug)]
struct End {
    context: *mut sys::ibv_context,
    channel: *mut sys::ibv_comp_channel,
    cqs: Vec<Arc<Cq>>,
}

// SAFETY: behind its mutex, and libibverbs may be called from any thread.
unsafe impl Send for End {}

/// Which completions a queue takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Takes {
    /// Those that somebody waits for: of RECVs, and of all that a host posts.
    Awaited,
    /// Those of a target's send queue. What was sent is done with but for its memory, for which mostly nobody waits. (Of READs
    /// somebody does.)
    Sends,
}

/// A completion queue. It stays until the process ends: the next queue pairs will need it.
#[derive(Debug)]
pub(super) struct Cq {
    cq: *mut sys::ibv_cq,
    channel: *mut sys::ibv_comp_channel,
    pub takes: Takes,
    entries: u32,
    /// Entries that queue pairs may need.
    dealt: AtomicU32,
    /// The device said that it is of no use any more.
    broken: AtomicBool,
}

// SAFETY: libibverbs may be called from any thread.
unsafe impl Send for Cq {}
// SAFETY: as above.
unsafe impl Sync for Cq {}

/// The completion queues of a queue pair, which has dealt entries of both.
#[derive(Clone, Debug)]
pub(super) struct Cqs {
    pub recv: Arc<Cq>,
    pub send: Arc<Cq>,
}

/// A queue pair with what belongs to it.
#[derive(Debug)]
pub(super) struct Made {
    qp: *mut sys::ibv_qp,
    pub cqs: Cqs,
    pub slab: Slab,
    windows: Vec<*mut sys::ibv_mw>,
    /// Bytes a SEND may carry inline.
    pub inline: u32,
}

// SAFETY: it is owned by one thread at a time, and libibverbs may be called from any.
unsafe impl Send for Made {}

impl Plan {
    /// Windows are bound and invalidated by work requests of their own. When all of it fails, each has a completion.
    fn all_sends(&self) -> u32 {
        self.sends + 2 * self.windows
    }
}

impl CoreShared {
    pub fn new(number: usize) -> io::Result<CoreShared> {
        // SAFETY: no pointers are passed; the result is checked.
        let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if epoll < 0 {
            return Err(io::Error::last_os_error());
        }
        let core = CoreShared {
            inbox: Inbox::new()?,
            // SAFETY: the descriptor is new and nobody else's.
            epoll: unsafe { OwnedFd::from_raw_fd(epoll) },
            number,
            ends: Mutex::new(Vec::new()),
        };
        core.watch(core.inbox.as_fd().as_raw_fd())?;
        Ok(core)
    }

    fn watch(&self, fd: libc::c_int) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: libc::EPOLLIN as u32,
            u64: 0,
        };
        // SAFETY: the struct is ours, both descriptors are open.
        let status = unsafe {
            libc::epoll_ctl(
                self.epoll.as_raw_fd(),
                libc::EPOLL_CTL_ADD,
                fd,
                &raw mut event,
            )
        };
        if status == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// A device is gone: nobody sleeps on its channel any more, which would wake him for ever, nor makes queue pairs with
    /// its completion queues.
    pub fn forget(&self, device: &Arc<Device>) {
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        let at = ends.iter().position(|end| end.context == device.context);
        let Some(end) = at.map(|at| ends.swap_remove(at)) else {
            return;
        };
        end.cqs.iter().for_each(|cq| cq.give_up());
        // SAFETY: both descriptors are open: a channel stays until the process ends.
        unsafe {
            let (epoll, fd) = (self.epoll.as_raw_fd(), (*end.channel).fd);
            libc::epoll_ctl(epoll, libc::EPOLL_CTL_DEL, fd, null_mut());
        }
        self.inbox.push(Mail::DeviceGone(device.clone()));
    }

    /// The completion queues of a queue pair, with room for all that it may have there at a time.
    fn cqs(&self, device: &Device, plan: &Plan, host: bool) -> Result<Cqs, String> {
        let takes = match host {
            true => Takes::Awaited,
            false => Takes::Sends,
        };
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        let recv = self.cq(&mut ends, device, plan.recvs, Takes::Awaited)?;
        match self.cq(&mut ends, device, plan.all_sends(), takes) {
            Ok(send) => Ok(Cqs { recv, send }),
            Err(why) => {
                recv.give_back(plan.recvs);
                Err(why)
            }
        }
    }

    /// A completion queue with room for so many entries, which are dealt.
    fn cq(
        &self,
        ends: &mut Vec<End>,
        device: &Device,
        entries: u32,
        takes: Takes,
    ) -> Result<Arc<Cq>, String> {
        let told = |what: &str, cause: io::Error| {
            let (cqs, cqes) = (device.ability.cqs, device.ability.cqes);
            let device_has = format!("the device has {cqs} completion queues of {cqes} entries");
            format!(
                "{}: no {what}: {}",
                device.name,
                limited(&cause, &device_has)
            )
        };
        let at = ends.iter().position(|end| end.context == device.context);
        let at = match at {
            Some(at) => at,
            None => {
                // SAFETY: the context is open; the result is checked.
                let channel = unsafe { sys::ibv_create_comp_channel(device.context) };
                if channel.is_null() {
                    return Err(told("completion channel", io::Error::last_os_error()));
                }
                // SAFETY: it was just made, and stays.
                let fd = unsafe { (*channel).fd };
                nonblocking(fd)
                    .and_then(|()| self.watch(fd))
                    .map_err(|cause| {
                        // SAFETY: it was just made, and nothing is in it.
                        unsafe { sys::ibv_destroy_comp_channel(channel) };
                        told("completion channel", cause)
                    })?;
                ends.push(End {
                    context: device.context,
                    channel,
                    cqs: Vec::new(),
                });
                ends.len() - 1
            }
        };
        let end = &mut ends[at];
        let fits = |cq: &&Arc<Cq>| cq.takes == takes && cq.take(entries);
        if let Some(cq) = end.cqs.iter().find(fits) {
            return Ok(cq.clone());
        }
        let room = CQ_ENTRIES.min(device.ability.cqes);
        if end.cqs.len() >= CQS_MAX || entries > room {
            return Err(format!(
                "{}: completion queues are full: {entries} entries more are needed, and each of the {} there are has \
                 {room}; connect fewer or smaller queues",
                device.name,
                end.cqs.len(),
            ));
        }
        // SAFETY: context and channel are open; the result is checked.
        let cq = unsafe {
            let vectors = (*device.context).num_comp_vectors.max(1);
            sys::ibv_create_cq(
                device.context,
                room as libc::c_int,
                null_mut(),
                end.channel,
                (self.number % vectors as usize) as libc::c_int,
            )
        };
        if cq.is_null() {
            return Err(told("completion queue", io::Error::last_os_error()));
        }
        let cq = Arc::new(Cq {
            cq,
            channel: end.channel,
            takes,
            entries: room,
            dealt: AtomicU32::new(entries),
            broken: AtomicBool::new(false),
        });
        end.cqs.push(cq.clone());
        Ok(cq)
    }
}

/// Why there is no more of something, and which limit it is: one of the node's control group, or else those named.
fn limited(cause: &io::Error, limits: &str) -> String {
    match cause.raw_os_error() {
        // What the kernel says for a control group that has all it may have.
        Some(libc::EAGAIN) => format!(
            "{cause} (the control group may have no more RDMA objects: raise hca_object in its rdma.max)"
        ),
        _ => format!("{cause} ({limits})"),
    }
}

impl Cq {
    fn take(&self, entries: u32) -> bool {
        let fits = |dealt: u32| Some(dealt + entries).filter(|all| *all <= self.entries);
        !self.is_given_up()
            && self
                .dealt
                .fetch_update(Ordering::AcqRel, Ordering::Acquire, fits)
                .is_ok()
    }

    /// What the device's events and words name it by.
    pub fn address(&self) -> usize {
        self.cq as usize
    }

    /// No further queue pair uses it. Those that do are to be ended: their completions do not come.
    pub fn give_up(&self) {
        self.broken.store(true, Ordering::Release);
    }

    /// See [`Cq::give_up`].
    pub fn is_given_up(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    fn give_back(&self, entries: u32) {
        self.dealt.fetch_sub(entries, Ordering::AcqRel);
    }

    /// Takes completions out. How many, or `None` if the queue is broken.
    #[inline]
    pub fn poll(&self, into: &mut [sys::ibv_wc]) -> Option<usize> {
        // SAFETY: the queue stays, and so many structs are ours.
        let count =
            unsafe { sys::ibv_poll_cq(self.cq, into.len() as libc::c_int, into.as_mut_ptr()) };
        usize::try_from(count).ok()
    }

    /// Asks for word of the next completion.
    pub fn arm(&self) {
        // SAFETY: as above. Without word the core's timers still wake it.
        unsafe { sys::ibv_req_notify_cq(self.cq, 0) };
    }

    /// Reads a word from the channel, which all completion queues of a core and a device share: the address of the one that
    /// gave it, see [`Cq::address`]. `None` if there is none.
    pub fn read_word(&self) -> Option<usize> {
        let (mut cq, mut context) = (null_mut(), null_mut());
        // SAFETY: the channel is open and does not block; each word is acknowledged once.
        unsafe {
            if sys::ibv_get_cq_event(self.channel, &raw mut cq, &raw mut context) != 0 {
                return None;
            }
            sys::ibv_ack_cq_events(cq, 1);
        }
        Some(cq as usize)
    }

    /// The same completion queue?
    pub fn is(&self, other: &Cq) -> bool {
        self.cq == other.cq
    }
}

impl Cqs {
    /// Both, which may be the same.
    pub fn each(&self) -> [&Arc<Cq>; 2] {
        [&self.recv, &self.send]
    }

    /// The entries of a queue pair that is gone, of which no completion is left.
    pub fn give_back(&self, plan: &Plan) {
        self.recv.give_back(plan.recvs);
        self.send.give_back(plan.all_sends());
    }
}

impl Made {
    /// Makes the queue pair of an id.
    pub fn new(conn: &Conn) -> Result<Made, String> {
        let (device, plan) = (&*conn.device, conn.plan);
        let slots = plan.recvs + plan.sends;
        let slab = Slab::new(device, slots as usize * 64).map_err(|cause| {
            let limits = format!("locked memory, `ulimit -l`; {} regions", device.ability.mrs);
            format!(
                "{}: no memory for a queue pair: {}",
                device.name,
                limited(&cause, &limits)
            )
        })?;
        let windows = Windows::new(device, plan.windows)?;
        let host = conn.private.is_some();
        let cqs = conn.core.cqs(device, &plan, host)?;
        let inline = INLINE[usize::from(host)];
        // SAFETY: plain data.
        let mut attr: sys::ibv_qp_init_attr = unsafe { zeroed() };
        attr.send_cq = cqs.send.cq;
        attr.recv_cq = cqs.recv.cq;
        attr.qp_type = sys::ibv_qp_type::IBV_QPT_RC;
        // Not all devices say what they can carry inline, so it is tried.
        let mut failed = None;
        for inline in [inline, 0] {
            attr.cap = sys::ibv_qp_cap {
                max_send_wr: plan.all_sends(),
                max_recv_wr: plan.recvs,
                max_send_sge: plan.sges,
                max_recv_sge: plan.recv_sges,
                max_inline_data: inline,
            };
            // SAFETY: the id lives, the protection domain and queues stay.
            if unsafe { sys::rdma_create_qp(conn.id.0, device.pd, &raw mut attr) } == 0 {
                return Ok(Made {
                    // SAFETY: it was just made.
                    qp: unsafe { (*conn.id.0).qp },
                    cqs,
                    slab,
                    windows: windows.keep(),
                    inline: attr.cap.max_inline_data.min(64),
                });
            }
            failed = Some(io::Error::last_os_error());
        }
        cqs.give_back(&plan);
        let device_has = format!("the device has {} queue pairs", device.ability.qps);
        let cause = failed.map_or_else(String::new, |cause| limited(&cause, &device_has));
        Err(format!(
            "{}: no queue pair of {} + {} work requests with {} pieces each: {cause}",
            device.name,
            plan.recvs,
            plan.all_sends(),
            plan.sges,
        ))
    }

    pub fn qp(&self) -> *mut sys::ibv_qp {
        self.qp
    }

    /// Posts a RECV into the slab's entry `head`, and what comes behind the head.
    #[inline]
    pub fn post_recv(&self, id: u64, head: usize, data: Option<sys::ibv_sge>) -> bool {
        let mut sges = [
            self.slab.sge(head, 64),
            data.unwrap_or(sys::ibv_sge {
                addr: 0,
                length: 0,
                lkey: 0,
            }),
        ];
        let mut wr = sys::ibv_recv_wr {
            wr_id: id,
            next: null_mut(),
            sg_list: sges.as_mut_ptr(),
            num_sge: 1 + libc::c_int::from(data.is_some()),
        };
        let mut bad = null_mut();
        // SAFETY: the structs live for the call. The memory is the slab's, or a Buf that the caller keeps until the
        // completion; the device's own keys hold it to that.
        unsafe { sys::ibv_post_recv(self.qp, &raw mut wr, &raw mut bad) == 0 }
    }

    /// Posts work requests, linking them. Their SGEs, by `first` and count, lie in `sges`.
    ///
    /// The memory they name stays the caller's until their completion.
    #[inline]
    pub fn post_send(&self, wrs: &mut [Work], sges: &mut [sys::ibv_sge]) -> bool {
        let first = link(wrs, sges);
        let mut bad = null_mut();
        // SAFETY: the structs live for the call; the list ends in null. What they name is as in `post_recv`.
        unsafe { sys::ibv_post_send(self.qp, first.cast(), &raw mut bad) == 0 }
    }

    /// Windows there are.
    pub fn windows(&self) -> usize {
        self.windows.len()
    }

    /// The request that binds window `at` to some memory under a key of its own, and that key.
    pub fn bind(
        &mut self,
        at: usize,
        mr: *mut sys::ibv_mr,
        (addr, len): (u64, u64),
        write: bool,
    ) -> (Work, u32) {
        let mw = self.windows[at];
        // SAFETY: the window lives until `unbind`; the key's lowest byte is ours to choose.
        let key = unsafe { sys::ibv_inc_rkey((*mw).rkey) };
        let mut work = Work::new(sys::ibv_wr_opcode::IBV_WR_BIND_MW);
        work.wr.bind_mw_tso_union = sys::bind_mw_tso_union_t {
            bind_mw: sys::bind_mw_t {
                mw,
                rkey: key,
                bind_info: sys::ibv_mw_bind_info {
                    mr,
                    addr,
                    length: len,
                    mw_access_flags: match write {
                        true => sys::ibv_access_flags::IBV_ACCESS_REMOTE_WRITE.0,
                        false => sys::ibv_access_flags::IBV_ACCESS_REMOTE_READ.0,
                    },
                },
            },
        };
        (work, key)
    }

    /// The bind of a window is posted: what follows refers to it by its new key.
    pub fn bound(&mut self, at: usize, key: u32) {
        // SAFETY: the window lives until `unbind`.
        unsafe { (*self.windows[at]).rkey = key };
    }

    /// Lets go of the windows, and with them of the queue pair they are bound to, which is in its error state.
    pub fn unbind(&mut self) {
        for mw in self.windows.drain(..) {
            // SAFETY: made in `new`, once.
            unsafe { sys::ibv_dealloc_mw(mw) };
        }
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        self.unbind();
    }
}

/// A work request, with the place of its SGEs.
#[repr(C)]
pub(super) struct Work {
    pub wr: sys::ibv_send_wr,
    pub first: usize,
}

impl std::fmt::Debug for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Work(opcode {})", self.wr.opcode)
    }
}

impl Work {
    /// Nothing but what it is.
    #[inline]
    pub fn new(opcode: sys::ibv_wr_opcode::Type) -> Work {
        // SAFETY: plain data, for which zeros and null pointers are valid.
        let mut wr: sys::ibv_send_wr = unsafe { zeroed() };
        wr.opcode = opcode;
        Work { wr, first: 0 }
    }

    /// For a WRITE or READ at this place of the peer's.
    #[inline]
    pub fn remote(mut self, addr: u64, key: u32) -> Work {
        self.wr.wr.rdma = sys::rdma_t {
            remote_addr: addr,
            rkey: key,
        };
        self
    }

    /// With a key to invalidate, the peer's or our own.
    #[inline]
    pub fn invalidating(mut self, key: u32) -> Work {
        self.wr.imm_data_invalidated_rkey_union.invalidated_rkey = key;
        self
    }
}

/// Links work requests with each other and with their pieces. The first of them.
#[inline(always)]
fn link(wrs: &mut [Work], sges: &mut [sys::ibv_sge]) -> *mut Work {
    for work in wrs.iter_mut() {
        let pieces = &mut sges[work.first..work.first + work.wr.num_sge as usize];
        // irdma looks at the first of them even if there is none.
        work.wr.sg_list = match pieces {
            [] => null_mut(),
            pieces => pieces.as_mut_ptr(),
        };
        work.wr.next = null_mut();
    }
    let first = wrs.as_mut_ptr();
    for at in 1..wrs.len() {
        // SAFETY: inside the slice. The request is the first field of a `Work`, which is `repr(C)`.
        unsafe { (*first.add(at - 1)).wr.next = first.add(at).cast() };
    }
    first
}

/// Windows on their way to a `Made`.
struct Windows(Vec<*mut sys::ibv_mw>);

impl Windows {
    fn new(device: &Device, count: u32) -> Result<Windows, String> {
        let mut windows = Windows(Vec::with_capacity(count as usize));
        for _ in 0..count {
            // SAFETY: the protection domain stays; the result is checked.
            let mw = unsafe { sys::ibv_alloc_mw(device.pd, sys::ibv_mw_type::IBV_MW_TYPE_2) };
            match mw {
                Some(mw) if !mw.is_null() => windows.0.push(mw),
                _ => {
                    let cause = io::Error::last_os_error();
                    return Err(format!("{}: no memory window: {cause}", device.name));
                }
            }
        }
        Ok(windows)
    }

    fn keep(mut self) -> Vec<*mut sys::ibv_mw> {
        std::mem::take(&mut self.0)
    }
}

impl Drop for Windows {
    fn drop(&mut self) {
        for mw in self.0.drain(..) {
            // SAFETY: made in `new`, and never bound.
            unsafe { sys::ibv_dealloc_mw(mw) };
        }
    }
}

/// What a work request's number says: whose it is, which, and what to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct WrId {
    pub slot: u32,
    pub generation: u16,
    pub index: u32,
    pub kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Recv,
    /// The last work request of something posted.
    Last,
    /// One before it. It completes only if it fails.
    Inner,
}

impl WrId {
    #[inline]
    pub fn pack(self) -> u64 {
        u64::from(self.slot & 0xFFFF) << 48
            | u64::from(self.generation) << 32
            | u64::from(self.index & 0x3FFF_FFFF) << 2
            | self.kind as u64
    }

    #[inline]
    pub fn unpack(id: u64) -> WrId {
        WrId {
            slot: (id >> 48) as u32,
            generation: (id >> 32) as u16,
            index: (id >> 2) as u32 & 0x3FFF_FFFF,
            kind: match id & 3 {
                0 => Kind::Recv,
                1 => Kind::Last,
                _ => Kind::Inner,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_without_pieces_names_none() {
        let piece = |addr| sys::ibv_sge {
            addr,
            length: 4096,
            lkey: 1,
        };
        let mut sges = [piece(1), piece(2)];
        let empty = Work::new(sys::ibv_wr_opcode::IBV_WR_RDMA_WRITE);
        let mut full = Work::new(sys::ibv_wr_opcode::IBV_WR_SEND);
        (full.first, full.wr.num_sge) = (1, 1);
        let mut wrs = [empty, full];
        let first = link(&mut wrs, &mut sges);
        // SAFETY: both are in `wrs`, and their pieces in `sges`.
        unsafe {
            assert!((*first).wr.sg_list.is_null());
            let next = (*first).wr.next;
            assert_eq!((*(*next).sg_list).addr, 2);
            assert!((*next).next.is_null());
        }
    }

    #[test]
    fn numbers_of_work_requests_are_read_as_they_were_made() {
        for kind in [Kind::Recv, Kind::Last, Kind::Inner] {
            let id = WrId {
                slot: 0xFFFF,
                generation: 0xABCD,
                index: 0x3FFF_FFFF,
                kind,
            };
            assert_eq!(WrId::unpack(id.pack()), id);
        }
        let id = WrId {
            slot: 1,
            generation: 2,
            index: 3,
            kind: Kind::Recv,
        };
        assert_eq!(id.pack(), 1 << 48 | 2 << 32 | 3 << 2);
    }
}
