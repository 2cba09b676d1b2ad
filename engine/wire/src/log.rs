//! Get Log Page: the command and the pages (Base 5.1.12). Discovery's page is in `discovery`.

use crate::identify::{Csi, NamespaceList};
use crate::num::{U16, U32, U64, U128};
use crate::opcode::AdminOpcode;
use crate::sqe::Sqe;
use crate::status::Status;
use bytemuck::{Pod, Zeroable};

open_set! {
    /// LID, Log Page Identifier.
    pub struct LogId(u8);
    SUPPORTED_LOG_PAGES = 0x00, "Supported Log Pages";
    ERROR_INFORMATION = 0x01, "Error Information";
    SMART = 0x02, "SMART / Health Information";
    FIRMWARE_SLOT = 0x03, "Firmware Slot Information";
    CHANGED_NAMESPACES = 0x04, "Changed Attached Namespace List";
    COMMAND_EFFECTS = 0x05, "Commands Supported and Effects";
    SELF_TEST = 0x06, "Device Self-test";
    TELEMETRY_HOST = 0x07, "Telemetry Host-Initiated";
    TELEMETRY_CONTROLLER = 0x08, "Telemetry Controller-Initiated";
    ENDURANCE_GROUP = 0x09, "Endurance Group Information";
    PREDICTABLE_LATENCY = 0x0A, "Predictable Latency Per NVM Set";
    PREDICTABLE_LATENCY_EVENTS = 0x0B, "Predictable Latency Event Aggregate";
    ANA = 0x0C, "Asymmetric Namespace Access";
    PERSISTENT_EVENT = 0x0D, "Persistent Event Log";
    LBA_STATUS = 0x0E, "LBA Status Information";
    ENDURANCE_GROUP_EVENTS = 0x0F, "Endurance Group Event Aggregate";
    MEDIA_UNIT_STATUS = 0x10, "Media Unit Status";
    SUPPORTED_CAPACITY_CONFIGURATIONS = 0x11, "Supported Capacity Configuration List";
    FEATURE_EFFECTS = 0x12, "Feature Identifiers Supported and Effects";
    MI_COMMAND_EFFECTS = 0x13, "NVMe-MI Commands Supported and Effects";
    LOCKDOWN = 0x14, "Command and Feature Lockdown";
    BOOT_PARTITION = 0x15, "Boot Partition";
    ROTATIONAL_MEDIA = 0x16, "Rotational Media Information";
    DISPERSED_NS_PARTICIPANTS = 0x17, "Dispersed Namespace Participating NVM Subsystems";
    MANAGEMENT_ADDRESSES = 0x18, "Management Address List";
    REACHABILITY_GROUPS = 0x1A, "Reachability Groups";
    REACHABILITY_ASSOCIATIONS = 0x1B, "Reachability Associations";
    CHANGED_ALLOCATED_NAMESPACES = 0x1C, "Changed Allocated Namespace List";
    DISCOVERY = 0x70, "Discovery";
    HOST_DISCOVERY = 0x71, "Host Discovery";
    AVE_DISCOVERY = 0x72, "AVE Discovery";
    PULL_MODEL_DDC_REQUEST = 0x73, "Pull Model DDC Request";
    RESERVATION_NOTIFICATION = 0x80, "Reservation Notification";
    SANITIZE_STATUS = 0x81, "Sanitize Status";
}

/// Get Log Page (Base 5.1.12).
impl Sqe {
    /// A Get Log Page of `len` bytes from `offset`. Both must be multiples of 4, `len` above 0.
    pub const fn get_log_page(lid: LogId, nsid: u32, offset: u64, len: u32) -> Self {
        assert!(
            len > 0 && len.is_multiple_of(4) && offset.is_multiple_of(4),
            "a log page moves in dwords"
        );
        let numd_z = len / 4 - 1;
        let mut sqe = Self::new(AdminOpcode::GET_LOG_PAGE.0);
        sqe.nsid = U32::new(nsid);
        sqe.cdw10 = U32::new(numd_z << 16 | lid.0 as u32);
        sqe.cdw11 = U32::new(numd_z >> 16);
        sqe.cdw12 = U32::new(offset as u32);
        sqe.cdw13 = U32::new((offset >> 32) as u32);
        sqe
    }

    /// Get Log Page's RAE: events of this page stay as they are.
    pub const CDW10_RAE: u32 = 1 << 15;

    /// Get Log Page's LID.
    pub const fn lid(&self) -> LogId {
        LogId(self.cdw10.get() as u8)
    }

    /// Get Log Page's LSP, the Log Specific Parameter.
    pub const fn lsp(&self) -> u8 {
        (self.cdw10.get() >> 8) as u8 & 0x7F
    }

    /// Sets LSP. Panics above 127.
    #[must_use]
    pub const fn with_lsp(mut self, lsp: u8) -> Self {
        assert!(lsp <= 0x7F, "LSP has seven bits");
        self.cdw10 = U32::new(self.cdw10.get() & !0x7F00 | (lsp as u32) << 8);
        self
    }

    /// Retain Asynchronous Event.
    pub const fn rae(&self) -> bool {
        self.cdw10.get() & Self::CDW10_RAE != 0
    }

    /// NUMDU and NUMDL: dwords to return, zero-based.
    pub const fn numd_z(&self) -> u32 {
        self.cdw11.get() << 16 | self.cdw10.get() >> 16
    }

    /// Bytes to return: 4 to 16 GiB.
    pub const fn log_len(&self) -> u64 {
        (self.numd_z() as u64 + 1) * 4
    }

    /// Log Specific Identifier.
    pub const fn lsi(&self) -> u16 {
        (self.cdw11.get() >> 16) as u16
    }

    /// Log Page Offset: bytes, or entries where `log_offset_is_index`.
    pub const fn log_offset(&self) -> u64 {
        (self.cdw13.get() as u64) << 32 | self.cdw12.get() as u64
    }

    /// OT: the offset counts entries.
    pub const fn log_offset_is_index(&self) -> bool {
        self.cdw14.get() & 1 << 23 != 0
    }

    /// The command set the page is about.
    pub const fn log_csi(&self) -> Csi {
        Csi((self.cdw14.get() >> 24) as u8)
    }
}

/// Supported Log Pages, LID 00h (Base 5.1.12.1.1).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct SupportedLogPages {
    /// By LID.
    pub lids: [LidEffects; 256],
}
layout!(SupportedLogPages = 1024 {
    lids @ 0
});

bit_fields! {
    /// LID Supported and Effects, as it lies in the page's four bytes; see `LidEffects`.
    pub struct LidEffectsBits(u32) {
        /// LID Supported.
        lsupp, with_lsupp: bool = 1 @ 0;
        /// Index Offset Supported.
        ios, with_ios: bool = 1 @ 1;
        /// LID Specific Parameter.
        lidsp, with_lidsp: u16 = 16 @ 16;
    }
}

bit_fields! {
    /// Command Effects, as it lies in the page's four bytes; see `CommandEffects`.
    pub struct CommandEffectsBits(u32) {
        /// Command Supported.
        csupp, with_csupp: bool = 1 @ 0;
        /// Logical Block Content Change.
        lbcc, with_lbcc: bool = 1 @ 1;
        /// Namespace Capability Change.
        ncc, with_ncc: bool = 1 @ 2;
        /// Namespace Inventory Change.
        nic, with_nic: bool = 1 @ 3;
        /// Controller Capability Change.
        ccc, with_ccc: bool = 1 @ 4;
        /// Command Submission and Execution Relaxations.
        cser, with_cser: u8 = 2 @ 14;
        /// Command Submission and Execution.
        cse, with_cse: u8 = 3 @ 16;
        /// UUID Selection Supported.
        uuid, with_uuid: bool = 1 @ 19;
        /// Command Scope.
        csp, with_csp: u16 = 12 @ 20;
    }
}

bit_fields! {
    /// FID Supported and Effects, as it lies in the page's four bytes; see `FeatureEffect`.
    pub struct FeatureEffectBits(u32) {
        /// FID Supported.
        fsupp, with_fsupp: bool = 1 @ 0;
        /// User Data Content Change.
        udcc, with_udcc: bool = 1 @ 1;
        /// Namespace Capability Change.
        ncc, with_ncc: bool = 1 @ 2;
        /// Namespace Inventory Change.
        nic, with_nic: bool = 1 @ 3;
        /// Controller Capability Change.
        ccc, with_ccc: bool = 1 @ 4;
        /// UUID Selection Supported.
        uuid, with_uuid: bool = 1 @ 19;
        /// FID Scope, see `SCOPE_*`.
        fsp, with_fsp: u16 = 12 @ 20;
    }
}

/// FSP and CSP: namespace scope.
pub const SCOPE_NAMESPACE: u16 = 1 << 0;
/// FSP and CSP: controller scope.
pub const SCOPE_CONTROLLER: u16 = 1 << 1;
/// FSP and CSP: NVM set scope.
pub const SCOPE_NVM_SET: u16 = 1 << 2;
/// FSP and CSP: endurance group scope.
pub const SCOPE_ENDURANCE_GROUP: u16 = 1 << 3;
/// FSP and CSP: domain scope.
pub const SCOPE_DOMAIN: u16 = 1 << 4;
/// FSP and CSP: NVM subsystem scope.
pub const SCOPE_SUBSYSTEM: u16 = 1 << 5;

/// A word of bit fields in four little-endian bytes of a page.
macro_rules! effects {
    ($(#[$meta:meta])* $T:ident of $Bits:ident) => {
        $(#[$meta])*
        #[repr(transparent)]
        #[derive(Clone, Copy, PartialEq, Eq, Default, Pod, Zeroable)]
        pub struct $T(U32);

        impl $T {
            /// The word these bytes stand for.
            pub const fn get(self) -> $Bits {
                $Bits(self.0.get())
            }
        }

        impl From<$Bits> for $T {
            fn from(bits: $Bits) -> Self {
                Self(U32::new(bits.0))
            }
        }

        impl core::fmt::Debug for $T {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                self.get().fmt(f)
            }
        }
    };
}

effects!(
    /// LID Supported and Effects: one entry of `SupportedLogPages`.
    LidEffects of LidEffectsBits
);
effects!(
    /// Command Effects: one entry of `CommandsSupportedAndEffects`.
    CommandEffects of CommandEffectsBits
);
effects!(
    /// FID Supported and Effects: one entry of `FeatureEffects`.
    FeatureEffect of FeatureEffectBits
);

/// Commands Supported and Effects, LID 05h (Base 5.1.12.1.6).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct CommandsSupportedAndEffects {
    /// Admin commands, by opcode.
    pub acs: [CommandEffects; 256],
    /// I/O commands, by opcode.
    pub iocs: [CommandEffects; 256],
    /// Reserved.
    pub rsvd2048: [u8; 2048],
}
layout!(CommandsSupportedAndEffects = 4096 {
    acs @ 0, iocs @ 1024, rsvd2048 @ 2048
});

/// Feature Identifiers Supported and Effects, LID 12h (Base 5.1.12.1.18).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct FeatureEffects {
    /// By FID.
    pub fids: [FeatureEffect; 256],
}
layout!(FeatureEffects = 1024 {
    fids @ 0
});

/// An entry of Error Information, LID 01h (Base 5.1.12.1.2), the newest first.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct ErrorInfoEntry {
    /// Error Count, unique over the controller's life; 0 is an unused entry.
    pub count: U64,
    /// Submission Queue ID; FFFFh if the error is not one command's.
    pub sqid: U16,
    /// Command ID; FFFFh if the error is not one command's.
    pub cid: U16,
    /// Status Field in bits 15:1, Phase Tag in bit 0.
    pub status: U16,
    /// Parameter Error Location: byte of the SQE in bits 7:0, bit in 10:8; FFFFh if none.
    pub pel: U16,
    /// First block that had the error.
    pub lba: U64,
    /// Namespace.
    pub nsid: U32,
    /// Vendor Specific Information Available.
    pub vsia: u8,
    /// Transport Type, as in the discovery log.
    pub trtype: u8,
    /// Command Set Indicator; valid with OPC where LPVER is 1 or more.
    pub csi: u8,
    /// Opcode.
    pub opc: u8,
    /// Command Specific Information.
    pub csinfo: U64,
    /// Transport Type Specific Information.
    pub ttsi: U16,
    /// Reserved.
    pub rsvd42: [u8; 21],
    /// Log Page Version, 1.
    pub lpver: u8,
}
layout!(ErrorInfoEntry = 64 {
    count @ 0, sqid @ 8, cid @ 10, status @ 12, pel @ 14, lba @ 16, nsid @ 24, vsia @ 28, trtype @ 29,
    csi @ 30, opc @ 31, csinfo @ 32, ttsi @ 40, rsvd42 @ 42, lpver @ 63
});

impl ErrorInfoEntry {
    /// SQID, CID: not related to a command. PEL: no location.
    pub const NOT_SPECIFIC: u16 = 0xFFFF;

    /// The status, without the phase.
    pub const fn status(&self) -> Status {
        Status(self.status.get() >> 1)
    }

    /// PEL of byte `byte` and bit `bit` of an SQE.
    pub const fn parameter_location(byte: u8, bit: u8) -> u16 {
        ((bit & 7) as u16) << 8 | byte as u16
    }
}

/// SMART / Health Information, LID 02h (Base 5.1.12.1.3).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct SmartLog {
    /// Critical Warning, see `WARNING_*`.
    pub critical_warning: u8,
    /// Composite Temperature in kelvin.
    pub ctemp: U16,
    /// Available Spare in percent.
    pub avsp: u8,
    /// Available Spare Threshold in percent.
    pub avspt: u8,
    /// Percentage Used; may exceed 100.
    pub pused: u8,
    /// Endurance Group Critical Warning Summary.
    pub egcws: u8,
    /// Reserved.
    pub rsvd7: [u8; 25],
    /// Data Units Read, in thousands of 512 bytes, rounded up.
    pub dur: U128,
    /// Data Units Written, in thousands of 512 bytes, rounded up.
    pub duw: U128,
    /// Host Read Commands.
    pub hrc: U128,
    /// Host Write Commands.
    pub hwc: U128,
    /// Controller Busy Time in minutes.
    pub cbt: U128,
    /// Power Cycles.
    pub pwrc: U128,
    /// Power On Hours.
    pub poh: U128,
    /// Unexpected Power Losses.
    pub upl: U128,
    /// Media and Data Integrity Errors.
    pub mdie: U128,
    /// Number of Error Information Log Entries over the controller's life.
    pub nele: U128,
    /// Warning Composite Temperature Time in minutes.
    pub wctt: U32,
    /// Critical Composite Temperature Time in minutes.
    pub cctt: U32,
    /// Temperature Sensors in kelvin; 0 is not there.
    pub tsen: [U16; 8],
    /// Thermal Management Temperature 1 Transition Count.
    pub tmt1tc: U32,
    /// Thermal Management Temperature 2 Transition Count.
    pub tmt2tc: U32,
    /// Total Time For Thermal Management Temperature 1 in seconds.
    pub tttmt1: U32,
    /// Total Time For Thermal Management Temperature 2 in seconds.
    pub tttmt2: U32,
    /// Reserved.
    pub rsvd232: [u8; 280],
}
layout!(SmartLog = 512 {
    critical_warning @ 0, ctemp @ 1, avsp @ 3, avspt @ 4, pused @ 5, egcws @ 6, rsvd7 @ 7, dur @ 32, duw
    @ 48, hrc @ 64, hwc @ 80, cbt @ 96, pwrc @ 112, poh @ 128, upl @ 144, mdie @ 160, nele @ 176, wctt @
    192, cctt @ 196, tsen @ 200, tmt1tc @ 216, tmt2tc @ 220, tttmt1 @ 224, tttmt2 @ 228, rsvd232 @ 232
});

impl SmartLog {
    /// Critical Warning: available spare is below its threshold.
    pub const WARNING_SPARE: u8 = 1 << 0;
    /// Critical Warning: a temperature is beyond its threshold.
    pub const WARNING_TEMPERATURE: u8 = 1 << 1;
    /// Critical Warning: reliability is degraded.
    pub const WARNING_DEGRADED: u8 = 1 << 2;
    /// Critical Warning: all media is read only.
    pub const WARNING_READ_ONLY: u8 = 1 << 3;
    /// Critical Warning: the volatile memory backup failed.
    pub const WARNING_BACKUP: u8 = 1 << 4;
    /// Critical Warning: the Persistent Memory Region is read only or unreliable.
    pub const WARNING_PMR: u8 = 1 << 5;
}

/// Critical Warning bits, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Warnings(pub u8);

impl core::fmt::Display for Warnings {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        const NAMES: [&str; 6] = [
            "little spare is left",
            "its temperature is beyond a threshold",
            "its reliability is degraded",
            "its media is read-only",
            "its volatile memory is not backed up",
            "its persistent memory region is unreliable",
        ];
        write!(f, "critical warning {:#04x}", self.0)?;
        let set = |bit: &usize| self.0 & 1 << bit != 0;
        for (count, bit) in (0..NAMES.len()).filter(set).enumerate() {
            let before = if count == 0 { ": " } else { ", " };
            write!(f, "{before}{}", NAMES[bit])?;
        }
        Ok(())
    }
}

/// Firmware Slot Information, LID 03h (Base 5.1.12.1.4).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct FirmwareSlotLog {
    /// Active Firmware Info: active slot in bits 2:0, slot after the next reset in 6:4.
    pub afi: u8,
    /// Reserved.
    pub rsvd1: [u8; 7],
    /// Firmware Revision for Slots 1 to 7, ASCII; zeroes for none.
    pub frs: [[u8; 8]; 7],
    /// Reserved.
    pub rsvd64: [u8; 448],
}
layout!(FirmwareSlotLog = 512 {
    afi @ 0, rsvd1 @ 1, frs @ 8, rsvd64 @ 64
});

/// Changed Attached Namespace List, LID 04h (Base 5.1.12.1.5): NSIDs, or `NamespaceList::OVERFLOW` alone.
pub type ChangedNamespaceList = NamespaceList;

open_set! {
    /// ANA state, bits 3:0 (Base 5.1.12.1.13).
    pub struct AnaState(u8);
    OPTIMIZED = 0x1, "ANA Optimized state";
    NON_OPTIMIZED = 0x2, "ANA Non-Optimized state";
    INACCESSIBLE = 0x3, "ANA Inaccessible state";
    PERSISTENT_LOSS = 0x4, "ANA Persistent Loss state";
    CHANGE = 0xF, "ANA Change state";
}

/// LSP of Get Log Page ANA: Return Groups Only, without NSIDs.
pub const ANA_LSP_RGO: u8 = 1 << 0;

/// Head of Asymmetric Namespace Access, LID 0Ch (Base 5.1.12.1.13); groups follow.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct AnaHeader {
    /// Change Count.
    pub chgcnt: U64,
    /// Number of ANA Group Descriptors. Off the wire: may exceed what follows.
    pub ngrps: U16,
    /// Reserved.
    pub rsvd10: [u8; 6],
}
layout!(AnaHeader = 16 {
    chgcnt @ 0, ngrps @ 8, rsvd10 @ 10
});

/// Head of an ANA Group Descriptor (Base 5.1.12.1.13); NNSIDS NSIDs of 4 bytes follow.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct AnaGroup {
    /// ANA Group ID.
    pub agid: U32,
    /// Number of NSID Values that follow. Off the wire: may exceed what is left.
    pub nnsids: U32,
    /// Change Count.
    pub chgcnt: U64,
    /// ANA State in bits 3:0.
    pub state: AnaState,
    /// Reserved.
    pub rsvd17: [u8; 15],
}
layout!(AnaGroup = 32 {
    agid @ 0, nnsids @ 4, chgcnt @ 8, state @ 16, rsvd17 @ 17
});

/// The groups of an Asymmetric Namespace Access page, as far as the bytes go.
#[derive(Clone, Debug)]
pub struct AnaGroups<'a> {
    left: u16,
    rest: &'a [u8],
}

impl<'a> AnaGroups<'a> {
    /// Reads a page from its start; None if not even the header is there.
    pub fn new(page: &'a [u8]) -> Option<(&'a AnaHeader, Self)> {
        let (head, rest) = page.split_at_checked(size_of::<AnaHeader>())?;
        let head: &AnaHeader = bytemuck::from_bytes(head);
        Some((
            head,
            Self {
                left: head.ngrps.get(),
                rest,
            },
        ))
    }
}

impl<'a> Iterator for AnaGroups<'a> {
    type Item = (&'a AnaGroup, &'a [U32]);

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let (head, rest) = self.rest.split_at_checked(size_of::<AnaGroup>())?;
        let group: &AnaGroup = bytemuck::from_bytes(head);
        let len = usize::try_from(group.nnsids.get())
            .ok()?
            .checked_mul(size_of::<U32>())?;
        let (nsids, rest) = rest.split_at_checked(len)?;
        self.rest = rest;
        Some((group, bytemuck::cast_slice(nsids)))
    }
}
