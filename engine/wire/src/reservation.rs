//! Reservations (Base 7.5 to 7.8): the fields of the four commands and their data.

use crate::num::{U16, U32, U64};
use crate::sqe::Sqe;
use bytemuck::{Pod, Zeroable};

open_set! {
    /// RTYPE, Reservation Type.
    pub struct ReservationType(u8);
    NONE = 0, "no reservation";
    WRITE_EXCLUSIVE = 1, "Write Exclusive";
    EXCLUSIVE_ACCESS = 2, "Exclusive Access";
    WRITE_EXCLUSIVE_REGISTRANTS = 3, "Write Exclusive - Registrants Only";
    EXCLUSIVE_ACCESS_REGISTRANTS = 4, "Exclusive Access - Registrants Only";
    WRITE_EXCLUSIVE_ALL = 5, "Write Exclusive - All Registrants";
    EXCLUSIVE_ACCESS_ALL = 6, "Exclusive Access - All Registrants";
}

/// Reservation Register, Acquire, Release and Report.
impl Sqe {
    /// RREGA: register a key.
    pub const RREGA_REGISTER: u8 = 0;
    /// RREGA: unregister.
    pub const RREGA_UNREGISTER: u8 = 1;
    /// RREGA: replace the key.
    pub const RREGA_REPLACE: u8 = 2;
    /// RACQA: acquire.
    pub const RACQA_ACQUIRE: u8 = 0;
    /// RACQA: preempt.
    pub const RACQA_PREEMPT: u8 = 1;
    /// RACQA: preempt and abort.
    pub const RACQA_PREEMPT_ABORT: u8 = 2;
    /// RRELA: release.
    pub const RRELA_RELEASE: u8 = 0;
    /// RRELA: clear.
    pub const RRELA_CLEAR: u8 = 1;

    /// RREGA, RACQA or RRELA: what is to be done.
    pub const fn reservation_action(&self) -> u8 {
        self.cdw10.get() as u8 & 7
    }

    /// IEKEY: the current key is not checked.
    pub const fn reservation_iekey(&self) -> bool {
        self.cdw10.get() & 1 << 3 != 0
    }

    /// RTYPE of Acquire and Release.
    pub const fn reservation_type(&self) -> ReservationType {
        ReservationType((self.cdw10.get() >> 8) as u8)
    }

    /// CPTPL of Register: 0 no change, 2 clear, 3 set Persist Through Power Loss.
    pub const fn reservation_cptpl(&self) -> u8 {
        (self.cdw10.get() >> 30) as u8
    }

    /// NUMD of Report: dwords to return, zero-based.
    pub const fn reservation_numd_z(&self) -> u32 {
        self.cdw10.get()
    }

    /// EDS of Report: extended data structures, for Host Identifiers of 16 bytes.
    pub const fn reservation_eds(&self) -> bool {
        self.cdw11.get() & 1 != 0
    }
}

/// Data of Reservation Register.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct RegisterData {
    /// Current Reservation Key.
    pub crkey: U64,
    /// New Reservation Key.
    pub nrkey: U64,
}
layout!(RegisterData = 16 {
    crkey @ 0, nrkey @ 8
});

/// Data of Reservation Acquire.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct AcquireData {
    /// Current Reservation Key.
    pub crkey: U64,
    /// Preempt Reservation Key.
    pub prkey: U64,
}
layout!(AcquireData = 16 {
    crkey @ 0, prkey @ 8
});

/// Data of Reservation Release.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct ReleaseData {
    /// Current Reservation Key.
    pub crkey: U64,
}
layout!(ReleaseData = 8 {
    crkey @ 0
});

/// Head of Reservation Status; `Registrant`s follow.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct StatusHeader {
    /// Generation: changes with every registration.
    pub gen_: U32,
    /// Reservation Type.
    pub rtype: ReservationType,
    /// Number of Registrants. Off the wire: may exceed what follows.
    pub regstrnt: U16,
    /// Reserved.
    pub rsvd7: [u8; 2],
    /// Persist Through Power Loss State.
    pub ptpls: u8,
    /// Reserved.
    pub rsvd10: [u8; 14],
}
layout!(StatusHeader = 24 {
    gen_ @ 0, rtype @ 4, regstrnt @ 5, rsvd7 @ 7, ptpls @ 9, rsvd10 @ 10
});

/// Head of Extended Reservation Status; `ExtendedRegistrant`s follow.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct ExtendedStatusHeader {
    /// The same fields.
    pub head: StatusHeader,
    /// Reserved.
    pub rsvd24: [u8; 40],
}
layout!(ExtendedStatusHeader = 64 {
    head @ 0, rsvd24 @ 24
});

/// Registered Controller.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Registrant {
    /// Controller ID.
    pub cntlid: U16,
    /// Reservation Status: bit 0 if the host holds the reservation.
    pub rcsts: u8,
    /// Reserved.
    pub rsvd3: [u8; 5],
    /// Host Identifier of 8 bytes.
    pub hostid: U64,
    /// Reservation Key.
    pub rkey: U64,
}
layout!(Registrant = 24 {
    cntlid @ 0, rcsts @ 2, rsvd3 @ 3, hostid @ 8, rkey @ 16
});

/// Registered Controller Extended.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct ExtendedRegistrant {
    /// Controller ID; FFFFh for a dynamic one that is not there.
    pub cntlid: U16,
    /// Reservation Status: bit 0 if the host holds the reservation.
    pub rcsts: u8,
    /// Reserved.
    pub rsvd3: [u8; 5],
    /// Reservation Key.
    pub rkey: U64,
    /// Host Identifier of 16 bytes.
    pub hostid: [u8; 16],
    /// Reserved.
    pub rsvd32: [u8; 32],
}
layout!(ExtendedRegistrant = 64 {
    cntlid @ 0, rcsts @ 2, rsvd3 @ 3, rkey @ 8, hostid @ 16, rsvd32 @ 32
});
