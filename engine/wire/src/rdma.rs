//! Private data of the RDMA connection manager's messages (NVMe/RDMA 3.2.2, RDMA_CM).
//!
//! REQ, REP and REJ each carry a field of fixed length for it, longer than these: what follows is zero,
//! and not looked at.

use crate::num::U16;
use bytemuck::{Pod, Zeroable};

/// In the REQ: what queue the host wants.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct RdmaCmRequest {
    /// Record Format, 0.
    pub recfmt: U16,
    /// Queue Identifier; 0 is the admin queue.
    pub qid: U16,
    /// RDMA QP Host Receive Queue Size: RECVs the host has for responses.
    pub hrqsize: U16,
    /// RDMA QP Host Send Queue Size, zero-based: the same as Connect's SQSIZE.
    pub hsqsize_z: U16,
    /// Controller Identifier, of an I/O queue of newer hosts; 0 of others.
    pub cntlid: U16,
    /// Reserved.
    pub rsvd10: [u8; 22],
}
layout!(RdmaCmRequest = 32 {
    recfmt @ 0, qid @ 2, hrqsize @ 4, hsqsize_z @ 6, cntlid @ 8, rsvd10 @ 10
});

/// In the REP: the queue is there.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct RdmaCmAccept {
    /// Record Format, 0.
    pub recfmt: U16,
    /// RDMA QP Controller Receive Queue Size: RECVs the controller has for commands.
    pub crqsize: U16,
    /// Reserved.
    pub rsvd4: [u8; 28],
}
layout!(RdmaCmAccept = 32 { recfmt @ 0, crqsize @ 2, rsvd4 @ 4 });

/// In a REJ with reason 28, consumer defined: why not.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct RdmaCmReject {
    /// Record Format, 0.
    pub recfmt: U16,
    /// Status.
    pub sts: U16,
}
layout!(RdmaCmReject = 4 { recfmt @ 0, sts @ 2 });

open_set! {
    /// STS of a reject.
    pub struct RdmaCmStatus(u16);
    INVALID_PRIVATE_DATA_LENGTH = 0x01, "Invalid Private Data Length";
    INVALID_RECFMT = 0x02, "Invalid RECFMT";
    INVALID_QID = 0x03, "Invalid QID";
    INVALID_HSQSIZE = 0x04, "Invalid HSQSIZE";
    INVALID_HRQSIZE = 0x05, "Invalid HRQSIZE";
    NO_RESOURCES = 0x06, "No Resources";
    INVALID_IRD = 0x07, "Invalid IRD";
    INVALID_ORD = 0x08, "Invalid ORD";
}

impl RdmaCmRequest {
    /// For a queue of `entries` (at least 2), with a RECV for the response to each.
    pub fn new(qid: u16, entries: u16) -> Self {
        Self {
            qid: qid.into(),
            hrqsize: entries.into(),
            hsqsize_z: (entries - 1).into(),
            ..Self::default()
        }
    }

    /// Entries of the submission queue: commands that may be outstanding.
    pub const fn entries(&self) -> u32 {
        self.hsqsize_z.get() as u32 + 1
    }
}

impl RdmaCmAccept {
    /// With this many RECVs.
    pub fn new(crqsize: u16) -> Self {
        Self {
            crqsize: crqsize.into(),
            ..Self::default()
        }
    }
}

impl RdmaCmReject {
    /// For this reason.
    pub fn new(status: RdmaCmStatus) -> Self {
        Self {
            recfmt: U16::new(0),
            sts: status.0.into(),
        }
    }

    /// The reason.
    pub const fn status(&self) -> RdmaCmStatus {
        RdmaCmStatus(self.sts.get())
    }
}
