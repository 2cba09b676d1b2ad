//! Features (Base 5.1.25), asynchronous events (Base 5.1.2), and the ranges of Dataset Management (NVM 3.3.3).

use crate::log::LogId;
use crate::num::{U16, U32, U64};
use crate::opcode::{AdminOpcode, NvmOpcode};
use crate::sqe::Sqe;
use bytemuck::{Pod, Zeroable};

open_set! {
    /// FID, Feature Identifier.
    pub struct FeatureId(u8);
    ARBITRATION = 0x01, "Arbitration";
    POWER_MANAGEMENT = 0x02, "Power Management";
    LBA_RANGE_TYPE = 0x03, "LBA Range Type";
    TEMPERATURE_THRESHOLD = 0x04, "Temperature Threshold";
    ERROR_RECOVERY = 0x05, "Error Recovery";
    VOLATILE_WRITE_CACHE = 0x06, "Volatile Write Cache";
    NUMBER_OF_QUEUES = 0x07, "Number of Queues";
    INTERRUPT_COALESCING = 0x08, "Interrupt Coalescing";
    INTERRUPT_VECTOR_CONFIG = 0x09, "Interrupt Vector Configuration";
    WRITE_ATOMICITY = 0x0A, "Write Atomicity Normal";
    ASYNC_EVENT_CONFIG = 0x0B, "Asynchronous Event Configuration";
    AUTONOMOUS_POWER_STATE = 0x0C, "Autonomous Power State Transition";
    HOST_MEMORY_BUFFER = 0x0D, "Host Memory Buffer";
    TIMESTAMP = 0x0E, "Timestamp";
    KATO = 0x0F, "Keep Alive Timer";
    HOST_THERMAL_MANAGEMENT = 0x10, "Host Controlled Thermal Management";
    NON_OPERATIONAL_POWER_STATE = 0x11, "Non-Operational Power State Config";
    READ_RECOVERY_LEVEL = 0x12, "Read Recovery Level Config";
    PREDICTABLE_LATENCY_CONFIG = 0x13, "Predictable Latency Mode Config";
    PREDICTABLE_LATENCY_WINDOW = 0x14, "Predictable Latency Mode Window";
    LBA_STATUS_INTERVAL = 0x15, "LBA Status Information Report Interval";
    HOST_BEHAVIOR_SUPPORT = 0x16, "Host Behavior Support";
    SANITIZE_CONFIG = 0x17, "Sanitize Config";
    ENDURANCE_GROUP_EVENT_CONFIG = 0x18, "Endurance Group Event Configuration";
    IO_COMMAND_SET_PROFILE = 0x19, "I/O Command Set Profile";
    SPINUP_CONTROL = 0x1A, "Spinup Control";
    POWER_LOSS_SIGNALING = 0x1B, "Power Loss Signaling Config";
    PERFORMANCE_CHARACTERISTICS = 0x1C, "Performance Characteristics";
    FLEXIBLE_DATA_PLACEMENT = 0x1D, "Flexible Data Placement";
    FLEXIBLE_DATA_PLACEMENT_EVENTS = 0x1E, "Flexible Data Placement Events";
    NS_ADMIN_LABEL = 0x1F, "Namespace Admin Label";
    CONTROLLER_DATA_QUEUE = 0x21, "Controller Data Queue";
    ENHANCED_CONTROLLER_METADATA = 0x7D, "Enhanced Controller Metadata";
    CONTROLLER_METADATA = 0x7E, "Controller Metadata";
    NAMESPACE_METADATA = 0x7F, "Namespace Metadata";
    SOFTWARE_PROGRESS_MARKER = 0x80, "Software Progress Marker";
    HOST_IDENTIFIER = 0x81, "Host Identifier";
    RESERVATION_NOTIFICATION_MASK = 0x82, "Reservation Notification Mask";
    RESERVATION_PERSISTENCE = 0x83, "Reservation Persistence";
    NS_WRITE_PROTECTION = 0x84, "Namespace Write Protection Config";
    BOOT_PARTITION_WRITE_PROTECTION = 0x85, "Boot Partition Write Protection Config";
}

open_set! {
    /// SEL: which value Get Features returns.
    pub struct FeatureSelect(u8);
    CURRENT = 0b000, "current";
    DEFAULT = 0b001, "default";
    SAVED = 0b010, "saved";
    SUPPORTED = 0b011, "supported capabilities";
}

/// Dword 0 of Get Features, SEL supported capabilities: the feature is saveable.
pub const CAPABILITY_SAVEABLE: u32 = 1 << 0;
/// Dword 0 of Get Features, SEL supported capabilities: the feature belongs to each namespace.
pub const CAPABILITY_NS_SPECIFIC: u32 = 1 << 1;
/// Dword 0 of Get Features, SEL supported capabilities: the feature is changeable.
pub const CAPABILITY_CHANGEABLE: u32 = 1 << 2;

/// Get Features and Set Features (Base 5.1.11, 5.1.25).
impl Sqe {
    /// Set Features' SV: the value is to survive resets and power cycles.
    pub const CDW10_SV: u32 = 1 << 31;

    /// A Get Features of `fid`.
    pub const fn get_features(fid: FeatureId, nsid: u32, select: FeatureSelect) -> Self {
        let mut sqe = Self::new(AdminOpcode::GET_FEATURES.0);
        sqe.nsid = U32::new(nsid);
        sqe.cdw10 = U32::new((select.0 as u32 & 7) << 8 | fid.0 as u32);
        sqe
    }

    /// A Set Features of `fid` to `cdw11`.
    pub const fn set_features(fid: FeatureId, nsid: u32, cdw11: u32) -> Self {
        let mut sqe = Self::new(AdminOpcode::SET_FEATURES.0);
        sqe.nsid = U32::new(nsid);
        sqe.cdw10 = U32::new(fid.0 as u32);
        sqe.cdw11 = U32::new(cdw11);
        sqe
    }

    /// FID of Get Features and Set Features.
    pub const fn fid(&self) -> FeatureId {
        FeatureId(self.cdw10.get() as u8)
    }

    /// SEL of Get Features.
    pub const fn feature_select(&self) -> FeatureSelect {
        FeatureSelect((self.cdw10.get() >> 8) as u8 & 7)
    }

    /// SV of Set Features.
    pub const fn feature_save(&self) -> bool {
        self.cdw10.get() & Self::CDW10_SV != 0
    }
}

bit_fields! {
    /// CDW11 of Arbitration.
    pub struct Arbitration(u32) {
        /// Arbitration Burst, a power of two; 7 is no limit.
        ab, with_ab: u8 = 3 @ 0;
        /// Low Priority Weight, zero-based.
        lpw_z, with_lpw_z: u8 = 8 @ 8;
        /// Medium Priority Weight, zero-based.
        mpw_z, with_mpw_z: u8 = 8 @ 16;
        /// High Priority Weight, zero-based.
        hpw_z, with_hpw_z: u8 = 8 @ 24;
    }
}

bit_fields! {
    /// CDW11 of Power Management.
    pub struct PowerManagement(u32) {
        /// Power State.
        ps, with_ps: u8 = 5 @ 0;
        /// Workload Hint.
        wh, with_wh: u8 = 3 @ 5;
    }
}

bit_fields! {
    /// CDW11 of Temperature Threshold.
    pub struct TemperatureThreshold(u32) {
        /// Temperature Threshold in kelvin.
        tmpth, with_tmpth: u16 = 16 @ 0;
        /// Threshold Temperature Select: 0 is the composite, 1 to 8 a sensor, Fh all (Set only).
        tmpsel, with_tmpsel: u8 = 4 @ 16;
        /// Threshold Type Select: 0 over, 1 under temperature.
        thsel, with_thsel: u8 = 2 @ 20;
        /// Temperature Threshold Hysteresis.
        tmpthh, with_tmpthh: u8 = 3 @ 22;
    }
}

bit_fields! {
    /// CDW11 of Error Recovery.
    pub struct ErrorRecovery(u32) {
        /// Time Limited Error Recovery, in units of 100 ms; 0 is no limit.
        tler, with_tler: u16 = 16 @ 0;
        /// Deallocated or Unwritten Logical Block Error Enable.
        dulbe, with_dulbe: bool = 1 @ 16;
    }
}

/// CDW11 of Volatile Write Cache: Volatile Write Cache Enable.
pub const WCE: u32 = 1 << 0;
/// CDW11 of Write Atomicity Normal: Disable Normal, so that only AWUPF and NAWUPF hold.
pub const WRITE_ATOMICITY_DN: u32 = 1 << 0;
/// CDW11 of Host Identifier: an extended one of 16 bytes; the only one on fabrics.
pub const EXHID: u32 = 1 << 0;
/// KATO: the Keep Alive Timeout is all of CDW11, in milliseconds; 0 is disabled.
pub const KATO_DISABLED: u32 = 0;

bit_fields! {
    /// Number of Queues: CDW11 asks (NSQR, NCQR), dword 0 of the completion answers (NSQA, NCQA).
    pub struct NumberOfQueues(u32) {
        /// I/O submission queues, zero-based. FFFFh may not be asked for.
        nsq_z, with_nsq_z: u16 = 16 @ 0;
        /// I/O completion queues, zero-based. FFFFh may not be asked for.
        ncq_z, with_ncq_z: u16 = 16 @ 16;
    }
}

impl NumberOfQueues {
    /// As many submission as completion queues. Panics unless 1 to 65535: the admin queue has a QID too.
    pub const fn new(queues: u32) -> Self {
        assert!(queues >= 1 && queues <= 0xFFFF, "I/O queues are 1 to 65535");
        let z = queues as u16 - 1;
        Self(0).with_nsq_z(z).with_ncq_z(z)
    }

    /// I/O submission queues.
    pub const fn submission_queues(self) -> u32 {
        self.nsq_z() as u32 + 1
    }

    /// I/O completion queues.
    pub const fn completion_queues(self) -> u32 {
        self.ncq_z() as u32 + 1
    }

    /// Neither number is FFFFh.
    pub const fn is_valid(self) -> bool {
        self.nsq_z() != 0xFFFF && self.ncq_z() != 0xFFFF
    }
}

/// CDW11 of Asynchronous Event Configuration, and OAES: the same bits from 8 up.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct AsyncEventConfig(pub u32);

impl AsyncEventConfig {
    /// SMART critical warnings, bit by bit as in `log::SmartLog`.
    pub const SMART: u32 = 0xFF;
    /// Attached Namespace Attribute Notices.
    pub const NS_ATTRIBUTE: u32 = 1 << 8;
    /// Firmware Activation Notices.
    pub const FIRMWARE_ACTIVATION: u32 = 1 << 9;
    /// Telemetry Log Notices.
    pub const TELEMETRY: u32 = 1 << 10;
    /// Asymmetric Namespace Access Change Notices.
    pub const ANA_CHANGE: u32 = 1 << 11;
    /// Predictable Latency Event Aggregate Log Change Notices.
    pub const PREDICTABLE_LATENCY: u32 = 1 << 12;
    /// LBA Status Information Alert Notices.
    pub const LBA_STATUS: u32 = 1 << 13;
    /// Endurance Group Event Aggregate Log Change Notices.
    pub const ENDURANCE_GROUP: u32 = 1 << 14;
    /// Normal NVM Subsystem Shutdown.
    pub const NORMAL_SHUTDOWN: u32 = 1 << 15;
    /// Temperature Threshold Hysteresis Recovery.
    pub const TEMPERATURE_HYSTERESIS: u32 = 1 << 16;
    /// Allocated Namespace Attribute Notices.
    pub const ALLOCATED_NS_ATTRIBUTE: u32 = 1 << 19;
    /// Zone Descriptor Changed Notices.
    pub const ZONE_DESCRIPTOR: u32 = 1 << 27;
    /// Discovery Log Page Change Notification.
    pub const DISCOVERY_LOG: u32 = 1 << 31;

    /// All of `bits` are set.
    pub const fn has(self, bits: u32) -> bool {
        self.0 & bits == bits
    }
}

/// Dword 0 of an Asynchronous Event Request's completion (Base 5.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AsyncEvent {
    /// AET, see `TYPE_*`.
    pub event_type: u8,
    /// AEI; its meaning depends on the type.
    pub info: u8,
    /// The log page to read, which also clears the event.
    pub lid: LogId,
}

impl AsyncEvent {
    /// AET: error.
    pub const TYPE_ERROR: u8 = 0;
    /// AET: SMART / health status.
    pub const TYPE_SMART: u8 = 1;
    /// AET: notice.
    pub const TYPE_NOTICE: u8 = 2;
    /// AET: immediate; not cleared by reading a log page.
    pub const TYPE_IMMEDIATE: u8 = 3;
    /// AET: one-shot.
    pub const TYPE_ONE_SHOT: u8 = 4;
    /// AET: I/O Command Set specific.
    pub const TYPE_COMMAND_SET: u8 = 6;
    /// AET: vendor specific.
    pub const TYPE_VENDOR: u8 = 7;

    /// AEI of an error: write to an invalid doorbell register.
    pub const ERROR_INVALID_DOORBELL_REGISTER: u8 = 0;
    /// AEI of an error: invalid doorbell write value.
    pub const ERROR_INVALID_DOORBELL_VALUE: u8 = 1;
    /// AEI of an error: diagnostic failure.
    pub const ERROR_DIAGNOSTIC_FAILURE: u8 = 2;
    /// AEI of an error: persistent internal error.
    pub const ERROR_PERSISTENT_INTERNAL: u8 = 3;
    /// AEI of an error: transient internal error.
    pub const ERROR_TRANSIENT_INTERNAL: u8 = 4;
    /// AEI of an error: firmware image load error.
    pub const ERROR_FIRMWARE_LOAD: u8 = 5;

    /// AEI of SMART: NVM subsystem reliability.
    pub const SMART_RELIABILITY: u8 = 0;
    /// AEI of SMART: temperature threshold.
    pub const SMART_TEMPERATURE: u8 = 1;
    /// AEI of SMART: spare below threshold.
    pub const SMART_SPARE: u8 = 2;

    /// An attached namespace was added, removed or changed.
    pub const NAMESPACE_CHANGED: Self = Self::notice(0x00, LogId::CHANGED_NAMESPACES);
    /// Firmware activation is starting.
    pub const FIRMWARE_ACTIVATION: Self = Self::notice(0x01, LogId::FIRMWARE_SLOT);
    /// An ANA state or group changed.
    pub const ANA_CHANGED: Self = Self::notice(0x03, LogId::ANA);
    /// The Discovery log page changed.
    pub const DISCOVERY_CHANGED: Self = Self::notice(0xF0, LogId::DISCOVERY);
    /// The Host Discovery log page changed.
    pub const HOST_DISCOVERY_CHANGED: Self = Self::notice(0xF1, LogId::HOST_DISCOVERY);

    const fn notice(info: u8, lid: LogId) -> Self {
        Self {
            event_type: Self::TYPE_NOTICE,
            info,
            lid,
        }
    }

    /// AET in bits 2:0, AEI in 15:8, LID in 23:16.
    pub const fn dw0(self) -> u32 {
        (self.lid.0 as u32) << 16 | (self.info as u32) << 8 | (self.event_type as u32 & 7)
    }

    /// What dword 0 of such a completion says.
    pub const fn from_dw0(dw0: u32) -> Self {
        Self {
            event_type: dw0 as u8 & 7,
            info: (dw0 >> 8) as u8,
            lid: LogId((dw0 >> 16) as u8),
        }
    }
}

/// Host Behavior Support, FID 16h (Base 5.1.25.1.14).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct HostBehaviorSupport {
    /// Advanced Command Retry Enable: CRD and CRDT1 to CRDT3 are understood.
    pub acre: u8,
    /// Extended Telemetry Data Area 4 Supported.
    pub etdas: u8,
    /// LBA Format Extension Enable.
    pub lbafee: u8,
    /// Host Dispersed Namespace Support.
    pub hdisns: u8,
    /// Copy Descriptor Formats Enable.
    pub cdfe: U16,
    /// Reserved.
    pub rsvd6: [u8; 506],
}
layout!(HostBehaviorSupport = 512 {
    acre @ 0, etdas @ 1, lbafee @ 2, hdisns @ 3, cdfe @ 4, rsvd6 @ 6
});

/// Timestamp, FID 0Eh (Base 5.1.25.1.7).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Timestamp {
    /// Milliseconds since 1970-01-01, or since the last reset; little-endian.
    pub timestamp: [u8; 6],
    /// Synch in bit 0, Timestamp Origin in bits 3:1. Reserved in Set Features.
    pub attr: u8,
    /// Reserved.
    pub rsvd7: u8,
}
layout!(Timestamp = 8 {
    timestamp @ 0, attr @ 6, rsvd7 @ 7
});

impl Timestamp {
    /// ATTR: the count may have stopped while it ran.
    pub const SYNCH: u8 = 1 << 0;
    /// ATTR: counted from 0 since the last controller level reset.
    pub const ORIGIN_RESET: u8 = 0b000 << 1;
    /// ATTR: counted from what Set Features gave.
    pub const ORIGIN_SET: u8 = 0b001 << 1;

    /// A timestamp of the low 48 bits of `ms`.
    pub const fn new(ms: u64, attr: u8) -> Self {
        let [a, b, c, d, e, f, _, _] = ms.to_le_bytes();
        Self {
            timestamp: [a, b, c, d, e, f],
            attr,
            rsvd7: 0,
        }
    }

    /// The milliseconds.
    pub const fn ms(&self) -> u64 {
        let [a, b, c, d, e, f] = self.timestamp;
        u64::from_le_bytes([a, b, c, d, e, f, 0, 0])
    }
}

/// Range of a Dataset Management command (NVM 3.3.3).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct DsmRange {
    /// Context Attributes.
    pub cattr: U32,
    /// Length in blocks, not zero-based.
    pub nlb: U32,
    /// First block.
    pub slba: U64,
}
layout!(DsmRange = 16 {
    cattr @ 0, nlb @ 4, slba @ 8
});

/// Dataset Management (NVM 3.3.3).
impl Sqe {
    /// CDW11: Integral Dataset for Read.
    pub const DSM_IDR: u32 = 1 << 0;
    /// CDW11: Integral Dataset for Write.
    pub const DSM_IDW: u32 = 1 << 1;
    /// CDW11: Attribute - Deallocate.
    pub const DSM_AD: u32 = 1 << 2;
    /// Ranges that one Dataset Management may carry.
    pub const DSM_RANGES_MAX: usize = 256;

    /// A Dataset Management of `ranges` ranges. Panics unless 1 to 256.
    pub const fn dsm(nsid: u32, ranges: u16, attributes: u32) -> Self {
        assert!(
            ranges >= 1 && ranges as usize <= Self::DSM_RANGES_MAX,
            "NR is a zero-based byte"
        );
        let mut sqe = Self::new(NvmOpcode::DSM.0);
        sqe.nsid = U32::new(nsid);
        sqe.cdw10 = U32::new(ranges as u32 - 1);
        sqe.cdw11 = U32::new(attributes);
        sqe
    }

    /// NR, zero-based.
    pub const fn dsm_nr_z(&self) -> u8 {
        self.cdw10.get() as u8
    }

    /// Ranges that follow as data: 1 to 256.
    pub const fn dsm_ranges(&self) -> usize {
        self.dsm_nr_z() as usize + 1
    }

    /// The ranges are to be deallocated.
    pub const fn dsm_ad(&self) -> bool {
        self.cdw11.get() & Self::DSM_AD != 0
    }
}
