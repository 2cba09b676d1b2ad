//! A connection as the control thread and the set-up threads know it, and what they ask librdmacm of it.

use std::io;
use std::mem::zeroed;
use std::net::SocketAddr;
use std::ptr::null_mut;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use rdma_sys as sys;

use super::cm::{Id, Mail, addresses, check, no_resources};
use super::device::Device;
use super::queue::{CoreShared, Plan};
use crate::rdma::provider::{PrivateData, QpId, Why};

/// How long an address may take to be found, in ms, and a route.
const RESOLVE_MS: libc::c_int = 2000;
/// Code of 0.08 ms, how long a peer waits that found no RECV (IBTA, RNR NAK timer field). 0, the default, means 655 ms.
const MIN_RNR_TIMER: u8 = 6;

/// A connection as the control thread and the set-up threads know it.
#[derive(Debug)]
pub(super) struct Conn {
    pub id: Id,
    pub qp: QpId,
    pub device: Arc<Device>,
    pub core: Arc<CoreShared>,
    pub plan: Plan,
    /// Of the REQ, on an active end.
    pub private: Option<PrivateData>,
    /// Whether its queue pair is being made: decided once, by who is first.
    making: AtomicU8,
    /// Set by `Destroy`: jobs that come after it find nothing.
    pub(super) gone: AtomicBool,
}

/// Values of `Conn::making`.
const UNDECIDED: u8 = 0;
pub(super) const MAKE: u8 = 1;
const NEVER: u8 = 2;

impl Conn {
    pub(super) fn local(&self) -> Option<SocketAddr> {
        // SAFETY: the id lives until `Destroy`.
        unsafe { addresses(self.id) }.0
    }

    /// Of an id. The queue pair of a request is made in any case; that of an active end once the address is found.
    pub(super) fn new(
        (id, qp): (Id, QpId),
        device: Arc<Device>,
        core: Arc<CoreShared>,
        plan: Plan,
        private: Option<PrivateData>,
    ) -> Conn {
        let making = if private.is_some() { UNDECIDED } else { MAKE };
        Conn {
            id,
            qp,
            device,
            core,
            plan,
            private,
            making: AtomicU8::new(making),
            gone: AtomicBool::new(false),
        }
    }

    pub(super) fn decide(&self, what: u8) -> bool {
        self.making
            .compare_exchange(UNDECIDED, what, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// True if no queue pair is being made for it, nor will be.
    pub(super) fn never_make(&self) -> bool {
        self.decide(NEVER) || self.making.load(Ordering::Acquire) == NEVER
    }

    pub(super) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    pub(super) fn over(&self, why: Why) {
        self.core.inbox.push(Mail::Over {
            qp: self.qp,
            why,
            private: PrivateData::new(&[]),
        });
    }

    /// Tells a host that asked for a queue pair why there is none: by then its request has left the binding's hands.
    pub(super) fn refuse(&self) {
        let private = no_resources();
        let bytes = private.bytes();
        // SAFETY: the id lives until `Destroy`, a later job of this thread; the bytes live for the call.
        unsafe { sys::rdma_reject(self.id.0, bytes.as_ptr().cast(), bytes.len() as u8) };
    }

    /// The last step before the request, which follows when the route is there.
    pub(super) fn ask_for_route(&self) {
        // SAFETY: the id lives until `Destroy`, a later job of this thread; its address was resolved.
        if let Err(cause) = check(unsafe { sys::rdma_resolve_route(self.id.0, RESOLVE_MS) }) {
            log::debug!("RDMA: no route to the peer: {cause}");
            self.over(Why::Unreachable);
        }
    }

    /// Sets the traffic class of its packets.
    pub(super) fn set_traffic_class(&self, mut class: u8) {
        // RDMA_OPTION_ID, RDMA_OPTION_ID_TOS of rdma_cma.h. A device without classes does not mind.
        // SAFETY: the id lives; the byte lives for the call.
        unsafe { sys::rdma_set_option(self.id.0, 0, 0, (&raw mut class).cast(), 1) };
    }

    /// Lets the peer in.
    ///
    /// librdmacm gives the queue pair the traffic class of the peer's request, whatever `rdma_set_option` said of the id: that
    /// is for who asks. With a class of our own it is brought up here, and librdmacm left to answer for a queue pair that it
    /// does not see.
    pub(super) fn accept(
        &self,
        param: &mut sys::rdma_conn_param,
        class: Option<u8>,
    ) -> io::Result<()> {
        // SAFETY: the id lives until `Destroy`, a later job of this thread, and nobody else looks at its queue pair before the
        // peer is let in.
        unsafe {
            let Some(class) = class else {
                return check(sys::rdma_accept(self.id.0, param));
            };
            let qp = (*self.id.0).qp;
            self.bring_up(qp, param, class)?;
            param.qp_num = (*qp).qp_num;
            (*self.id.0).qp = null_mut();
            let accepted = check(sys::rdma_accept(self.id.0, param));
            (*self.id.0).qp = qp;
            accepted
        }
    }

    /// By the steps of a queue pair (ibv_modify_qp(3)), with what librdmacm knows of the connection.
    ///
    /// # Safety
    /// The id and its queue pair live, and it is in its first state.
    unsafe fn bring_up(
        &self,
        qp: *mut sys::ibv_qp,
        param: &sys::rdma_conn_param,
        class: u8,
    ) -> io::Result<()> {
        use sys::ibv_qp_state as state;
        for step in [state::IBV_QPS_INIT, state::IBV_QPS_RTR, state::IBV_QPS_RTS] {
            // SAFETY: plain data, which the call fills by the state that is wanted; the mask says which of it counts.
            unsafe {
                let mut attr: sys::ibv_qp_attr = zeroed();
                let mut mask = 0;
                attr.qp_state = step;
                check(sys::rdma_init_qp_attr(
                    self.id.0,
                    &raw mut attr,
                    &raw mut mask,
                ))?;
                match step {
                    state::IBV_QPS_RTR => {
                        attr.max_dest_rd_atomic = param.responder_resources;
                        attr.ah_attr.grh.traffic_class = class;
                    }
                    state::IBV_QPS_RTS => attr.max_rd_atomic = param.initiator_depth,
                    _ => {}
                }
                match sys::ibv_modify_qp(qp, &raw mut attr, mask) {
                    0 => {}
                    cause => return Err(io::Error::from_raw_os_error(cause)),
                }
            }
        }
        Ok(())
    }

    /// Asks for the way to the peer, from the address the id is bound to. `Make` follows when it is found.
    pub(super) fn resolve(&self, peer: SocketAddr) -> io::Result<()> {
        let peer = socket2::SockAddr::from(peer);
        // SAFETY: the address lives for the call, which does not change it.
        check(unsafe {
            sys::rdma_resolve_addr(
                self.id.0,
                null_mut(),
                peer.as_ptr().cast_mut().cast(),
                RESOLVE_MS,
            )
        })
    }

    /// Has peers that find no RECV try again soon.
    pub(super) fn set_rnr_timer(&self) {
        // SAFETY: plain data; the mask says which of it counts. The queue pair lives until `Destroy`.
        unsafe {
            let mut attr: sys::ibv_qp_attr = zeroed();
            attr.min_rnr_timer = MIN_RNR_TIMER;
            let mask = sys::ibv_qp_attr_mask::IBV_QP_MIN_RNR_TIMER.0 as libc::c_int;
            if !(*self.id.0).qp.is_null()
                && sys::ibv_modify_qp((*self.id.0).qp, &raw mut attr, mask) != 0
            {
                // It works, and waits longer where a RECV is missing.
                log::debug!("RDMA: the time to wait for a RECV stays the device's");
            }
        }
    }

    /// From the return on no peer reaches memory by this queue pair, and everything posted is flushed.
    pub(super) fn to_error(&self) {
        // SAFETY: as above.
        unsafe {
            let mut attr: sys::ibv_qp_attr = zeroed();
            attr.qp_state = sys::ibv_qp_state::IBV_QPS_ERR;
            let mask = sys::ibv_qp_attr_mask::IBV_QP_STATE.0 as libc::c_int;
            if !(*self.id.0).qp.is_null() {
                sys::ibv_modify_qp((*self.id.0).qp, &raw mut attr, mask);
            }
        }
    }
}
