//! Completion queue entries.

use crate::num::{U16, U32};
use crate::status::Status;
use bytemuck::{Pod, Zeroable};

/// One completion: Common Completion Queue Entry (Base 4.2.1).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Cqe {
    /// Command specific.
    pub dw0: U32,
    /// Command specific.
    pub dw1: U32,
    /// SQ Head Pointer; reserved where SQ flow control is disabled.
    pub sqhd: U16,
    /// SQ Identifier; reserved on fabrics.
    pub sqid: U16,
    /// Command Identifier of the command this answers.
    pub cid: U16,
    /// Phase Tag in bit 0 (reserved on fabrics), Status in bits 15:1.
    pub status: U16,
}
layout!(Cqe = 16 { dw0 @ 0, dw1 @ 4, sqhd @ 8, sqid @ 10, cid @ 12, status @ 14 });

impl Cqe {
    /// SQHD of a response on a queue without SQ flow control.
    pub const SQHD_NO_FLOW_CONTROL: u16 = 0xFFFF;

    /// The answer `status` to command `cid`.
    pub const fn new(cid: u16, status: Status) -> Self {
        Self {
            dw0: U32::ZERO,
            dw1: U32::ZERO,
            sqhd: U16::ZERO,
            sqid: U16::ZERO,
            cid: U16::new(cid),
            status: U16::new(status.0 << 1),
        }
    }

    /// Sets dword 0.
    #[must_use]
    pub const fn with_dw0(mut self, dw0: u32) -> Self {
        self.dw0 = U32::new(dw0);
        self
    }

    /// Sets dwords 1 and 0 as one number: the value of a Property Get.
    #[must_use]
    pub const fn with_result64(mut self, value: u64) -> Self {
        self.dw0 = U32::new(value as u32);
        self.dw1 = U32::new((value >> 32) as u32);
        self
    }

    /// Dwords 1 and 0 as one number.
    pub const fn result64(&self) -> u64 {
        (self.dw1.get() as u64) << 32 | self.dw0.get() as u64
    }

    /// The Status field, without the phase.
    pub const fn status(&self) -> Status {
        Status(self.status.get() >> 1)
    }

    /// Sets the Status field and keeps the phase.
    pub const fn set_status(&mut self, status: Status) {
        self.status = U16::new(status.0 << 1 | self.status.get() & 1);
    }

    /// The Phase Tag.
    pub const fn phase(&self) -> bool {
        self.status.get() & 1 != 0
    }

    /// Sets the Phase Tag and keeps the status.
    pub const fn set_phase(&mut self, phase: bool) {
        self.status = U16::new(self.status.get() & !1 | phase as u16);
    }
}
