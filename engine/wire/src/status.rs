//! Status codes (Base 4.2.3).

open_set! {
    /// The 15 bits of the Status field, the phase left off: SC in bits 7:0, SCT in 10:8, CRD in 12:11,
    /// M in 13, DNR in 14. Constants carry SCT and SC: compare them with `code`. Display and `name` look
    /// at SCT and SC too; the number printed is all 15 bits.
    pub struct Status(u16) named by 0x7FF;
    // Generic Command Status.
    SUCCESS = 0x000, "Successful Completion";
    INVALID_OPCODE = 0x001, "Invalid Command Opcode";
    INVALID_FIELD = 0x002, "Invalid Field in Command";
    CID_CONFLICT = 0x003, "Command ID Conflict";
    DATA_TRANSFER_ERROR = 0x004, "Data Transfer Error";
    POWER_LOSS_ABORT = 0x005, "Commands Aborted due to Power Loss Notification";
    INTERNAL_ERROR = 0x006, "Internal Error";
    ABORT_REQUESTED = 0x007, "Command Abort Requested";
    ABORTED_SQ_DELETION = 0x008, "Command Aborted due to SQ Deletion";
    ABORTED_FAILED_FUSED = 0x009, "Command Aborted due to Failed Fused Command";
    ABORTED_MISSING_FUSED = 0x00A, "Command Aborted due to Missing Fused Command";
    INVALID_NAMESPACE = 0x00B, "Invalid Namespace or Format";
    COMMAND_SEQUENCE_ERROR = 0x00C, "Command Sequence Error";
    INVALID_SGL_SEGMENT = 0x00D, "Invalid SGL Segment Descriptor";
    INVALID_SGL_COUNT = 0x00E, "Invalid Number of SGL Descriptors";
    DATA_SGL_LENGTH_INVALID = 0x00F, "Data SGL Length Invalid";
    METADATA_SGL_LENGTH_INVALID = 0x010, "Metadata SGL Length Invalid";
    SGL_TYPE_INVALID = 0x011, "SGL Descriptor Type Invalid";
    INVALID_CMB_USE = 0x012, "Invalid Use of Controller Memory Buffer";
    PRP_OFFSET_INVALID = 0x013, "PRP Offset Invalid";
    ATOMIC_WRITE_UNIT_EXCEEDED = 0x014, "Atomic Write Unit Exceeded";
    OPERATION_DENIED = 0x015, "Operation Denied";
    SGL_OFFSET_INVALID = 0x016, "SGL Offset Invalid";
    HOST_ID_INCONSISTENT_FORMAT = 0x018, "Host Identifier Inconsistent Format";
    KEEP_ALIVE_TIMER_EXPIRED = 0x019, "Keep Alive Timer Expired";
    KEEP_ALIVE_TIMEOUT_INVALID = 0x01A, "Keep Alive Timeout Invalid";
    ABORTED_PREEMPT = 0x01B, "Command Aborted due to Preempt and Abort";
    SANITIZE_FAILED = 0x01C, "Sanitize Failed";
    SANITIZE_IN_PROGRESS = 0x01D, "Sanitize In Progress";
    SGL_GRANULARITY_INVALID = 0x01E, "SGL Data Block Granularity Invalid";
    COMMAND_NOT_SUPPORTED_IN_CMB = 0x01F, "Command Not Supported for Queue in CMB";
    NAMESPACE_WRITE_PROTECTED = 0x020, "Namespace is Write Protected";
    COMMAND_INTERRUPTED = 0x021, "Command Interrupted";
    TRANSIENT_TRANSPORT_ERROR = 0x022, "Transient Transport Error";
    PROHIBITED_BY_LOCKDOWN = 0x023, "Command Prohibited by Command and Feature Lockdown";
    ADMIN_MEDIA_NOT_READY = 0x024, "Admin Command Media Not Ready";
    INVALID_KEY_TAG = 0x025, "Invalid Key Tag";
    HOST_DISPERSED_NS_NOT_ENABLED = 0x026, "Host Dispersed Namespace Support Not Enabled";
    HOST_ID_NOT_INITIALIZED = 0x027, "Host Identifier Not Initialized";
    INCORRECT_KEY = 0x028, "Incorrect Key";
    FDP_DISABLED = 0x029, "FDP Disabled";
    INVALID_PLACEMENT_HANDLE_LIST = 0x02A, "Invalid Placement Handle List";
    LBA_OUT_OF_RANGE = 0x080, "LBA Out of Range";
    CAPACITY_EXCEEDED = 0x081, "Capacity Exceeded";
    NAMESPACE_NOT_READY = 0x082, "Namespace Not Ready";
    RESERVATION_CONFLICT = 0x083, "Reservation Conflict";
    FORMAT_IN_PROGRESS = 0x084, "Format In Progress";
    INVALID_VALUE_SIZE = 0x085, "Invalid Value Size";
    INVALID_KEY_SIZE = 0x086, "Invalid Key Size";
    KV_KEY_DOES_NOT_EXIST = 0x087, "KV Key Does Not Exist";
    UNRECOVERED_ERROR = 0x088, "Unrecovered Error";
    KEY_EXISTS = 0x089, "Key Exists";
    // Command Specific Status, common to all command sets.
    CQ_INVALID = 0x100, "Completion Queue Invalid";
    INVALID_QUEUE_IDENTIFIER = 0x101, "Invalid Queue Identifier";
    INVALID_QUEUE_SIZE = 0x102, "Invalid Queue Size";
    ABORT_LIMIT_EXCEEDED = 0x103, "Abort Command Limit Exceeded";
    ASYNC_EVENT_LIMIT_EXCEEDED = 0x105, "Asynchronous Event Request Limit Exceeded";
    INVALID_FIRMWARE_SLOT = 0x106, "Invalid Firmware Slot";
    INVALID_FIRMWARE_IMAGE = 0x107, "Invalid Firmware Image";
    INVALID_INTERRUPT_VECTOR = 0x108, "Invalid Interrupt Vector";
    INVALID_LOG_PAGE = 0x109, "Invalid Log Page";
    INVALID_FORMAT = 0x10A, "Invalid Format";
    FIRMWARE_NEEDS_CONVENTIONAL_RESET = 0x10B, "Firmware Activation Requires Conventional Reset";
    INVALID_QUEUE_DELETION = 0x10C, "Invalid Queue Deletion";
    FEATURE_NOT_SAVEABLE = 0x10D, "Feature Identifier Not Saveable";
    FEATURE_NOT_CHANGEABLE = 0x10E, "Feature Not Changeable";
    FEATURE_NOT_NAMESPACE_SPECIFIC = 0x10F, "Feature Not Namespace Specific";
    FIRMWARE_NEEDS_SUBSYSTEM_RESET = 0x110, "Firmware Activation Requires NVM Subsystem Reset";
    FIRMWARE_NEEDS_CONTROLLER_RESET = 0x111, "Firmware Activation Requires Controller Level Reset";
    FIRMWARE_NEEDS_MAX_TIME = 0x112, "Firmware Activation Requires Maximum Time Violation";
    FIRMWARE_ACTIVATION_PROHIBITED = 0x113, "Firmware Activation Prohibited";
    OVERLAPPING_RANGE = 0x114, "Overlapping Range";
    NS_INSUFFICIENT_CAPACITY = 0x115, "Namespace Insufficient Capacity";
    NS_IDENTIFIER_UNAVAILABLE = 0x116, "Namespace Identifier Unavailable";
    NS_ALREADY_ATTACHED = 0x118, "Namespace Already Attached";
    NS_IS_PRIVATE = 0x119, "Namespace Is Private";
    NS_NOT_ATTACHED = 0x11A, "Namespace Not Attached";
    THIN_PROVISIONING_NOT_SUPPORTED = 0x11B, "Thin Provisioning Not Supported";
    CONTROLLER_LIST_INVALID = 0x11C, "Controller List Invalid";
    SELF_TEST_IN_PROGRESS = 0x11D, "Device Self-test In Progress";
    BOOT_PARTITION_WRITE_PROHIBITED = 0x11E, "Boot Partition Write Prohibited";
    INVALID_CONTROLLER_IDENTIFIER = 0x11F, "Invalid Controller Identifier";
    INVALID_SECONDARY_CONTROLLER_STATE = 0x120, "Invalid Secondary Controller State";
    INVALID_CONTROLLER_RESOURCES = 0x121, "Invalid Number of Controller Resources";
    INVALID_RESOURCE_IDENTIFIER = 0x122, "Invalid Resource Identifier";
    SANITIZE_PROHIBITED_WITH_PMR = 0x123, "Sanitize Prohibited While Persistent Memory Region is Enabled";
    ANA_GROUP_IDENTIFIER_INVALID = 0x124, "ANA Group Identifier Invalid";
    ANA_ATTACH_FAILED = 0x125, "ANA Attach Failed";
    INSUFFICIENT_CAPACITY = 0x126, "Insufficient Capacity";
    NS_ATTACHMENT_LIMIT_EXCEEDED = 0x127, "Namespace Attachment Limit Exceeded";
    LOCKDOWN_NOT_SUPPORTED = 0x128, "Prohibition of Command Execution Not Supported";
    IO_COMMAND_SET_NOT_SUPPORTED = 0x129, "I/O Command Set Not Supported";
    IO_COMMAND_SET_NOT_ENABLED = 0x12A, "I/O Command Set Not Enabled";
    IO_COMMAND_SET_COMBINATION_REJECTED = 0x12B, "I/O Command Set Combination Rejected";
    INVALID_IO_COMMAND_SET = 0x12C, "Invalid I/O Command Set";
    IDENTIFIER_UNAVAILABLE = 0x12D, "Identifier Unavailable";
    NAMESPACE_IS_DISPERSED = 0x12E, "Namespace Is Dispersed";
    INVALID_DISCOVERY_INFORMATION = 0x12F, "Invalid Discovery Information";
    ZONING_DATA_STRUCTURE_LOCKED = 0x130, "Zoning Data Structure Locked";
    ZONING_DATA_STRUCTURE_NOT_FOUND = 0x131, "Zoning Data Structure Not Found";
    INSUFFICIENT_DISCOVERY_RESOURCES = 0x132, "Insufficient Discovery Resources";
    REQUESTED_FUNCTION_DISABLED = 0x133, "Requested Function Disabled";
    ZONEGROUP_ORIGINATOR_INVALID = 0x134, "ZoneGroup Originator Invalid";
    INVALID_HOST = 0x135, "Invalid Host";
    INVALID_NVM_SUBSYSTEM = 0x136, "Invalid NVM Subsystem";
    INVALID_CONTROLLER_DATA_QUEUE = 0x137, "Invalid Controller Data Queue";
    NOT_ENOUGH_RESOURCES = 0x138, "Not Enough Resources";
    CONTROLLER_SUSPENDED = 0x139, "Controller Suspended";
    CONTROLLER_NOT_SUSPENDED = 0x13A, "Controller Not Suspended";
    CONTROLLER_DATA_QUEUE_FULL = 0x13B, "Controller Data Queue Full";
    // Command Specific Status whose meaning depends on the command: the NVM Command Set's reading and
    // the Fabrics reading of one number share a line, for a completion alone does not tell them apart.
    SPECIFIC_80 = 0x180, "Conflicting Attributes or Connect Incompatible Format";
    SPECIFIC_81 = 0x181, "Invalid Protection Information or Connect Controller Busy";
    SPECIFIC_82 = 0x182, "Attempted Write to Read Only Range or Connect Invalid Parameters";
    SPECIFIC_83 = 0x183, "Command Size Limit Exceeded or Connect Restart Discovery";
    SPECIFIC_84 = 0x184, "Invalid Command ID or Connect Invalid Host";
    SPECIFIC_85 = 0x185, "Incompatible Namespace or Format, or Disconnect Invalid Queue Type";
    FAST_COPY_NOT_POSSIBLE = 0x186, "Fast Copy Not Possible";
    OVERLAPPING_IO_RANGE = 0x187, "Overlapping I/O Range";
    NAMESPACE_NOT_REACHABLE = 0x188, "Namespace Not Reachable";
    INSUFFICIENT_RESOURCES = 0x189, "Insufficient Resources";
    DISCOVERY_RESTART = 0x190, "Discover Restart";
    AUTHENTICATION_REQUIRED = 0x191, "Authentication Required";
    // Media and Data Integrity Errors.
    WRITE_FAULT = 0x280, "Write Fault";
    UNRECOVERED_READ_ERROR = 0x281, "Unrecovered Read Error";
    GUARD_CHECK_ERROR = 0x282, "End-to-end Guard Check Error";
    APPLICATION_TAG_CHECK_ERROR = 0x283, "End-to-end Application Tag Check Error";
    REFERENCE_TAG_CHECK_ERROR = 0x284, "End-to-end Reference Tag Check Error";
    COMPARE_FAILURE = 0x285, "Compare Failure";
    ACCESS_DENIED = 0x286, "Access Denied";
    DEALLOCATED_BLOCK = 0x287, "Deallocated or Unwritten Logical Block";
    STORAGE_TAG_CHECK_ERROR = 0x288, "End-to-End Storage Tag Check Error";
    // Path Related Status.
    INTERNAL_PATH_ERROR = 0x300, "Internal Path Error";
    ANA_PERSISTENT_LOSS = 0x301, "Asymmetric Access Persistent Loss";
    ANA_INACCESSIBLE = 0x302, "Asymmetric Access Inaccessible";
    ANA_TRANSITION = 0x303, "Asymmetric Access Transition";
    CONTROLLER_PATHING_ERROR = 0x360, "Controller Pathing Error";
    HOST_PATHING_ERROR = 0x370, "Host Pathing Error";
    ABORTED_BY_HOST = 0x371, "Command Aborted By Host";
}

/// Readings that share a number with the other command set.
impl Status {
    /// NVM: Conflicting Attributes.
    pub const CONFLICTING_ATTRIBUTES: Self = Self::SPECIFIC_80;
    /// NVM: Invalid Protection Information.
    pub const INVALID_PROTECTION_INFORMATION: Self = Self::SPECIFIC_81;
    /// NVM: Attempted Write to Read Only Range.
    pub const WRITE_TO_READ_ONLY_RANGE: Self = Self::SPECIFIC_82;
    /// NVM: Command Size Limit Exceeded.
    pub const COMMAND_SIZE_LIMIT_EXCEEDED: Self = Self::SPECIFIC_83;
    /// Cancel: Invalid Command ID.
    pub const INVALID_COMMAND_ID: Self = Self::SPECIFIC_84;
    /// NVM: Incompatible Namespace or Format.
    pub const INCOMPATIBLE_NAMESPACE: Self = Self::SPECIFIC_85;
    /// Fabrics: Connect Incompatible Format.
    pub const CONNECT_INCOMPATIBLE_FORMAT: Self = Self::SPECIFIC_80;
    /// Fabrics: Connect Controller Busy.
    pub const CONNECT_CONTROLLER_BUSY: Self = Self::SPECIFIC_81;
    /// Fabrics: Connect Invalid Parameters.
    pub const CONNECT_INVALID_PARAMETERS: Self = Self::SPECIFIC_82;
    /// Fabrics: Connect Restart Discovery.
    pub const CONNECT_RESTART_DISCOVERY: Self = Self::SPECIFIC_83;
    /// Fabrics: Connect Invalid Host.
    pub const CONNECT_INVALID_HOST: Self = Self::SPECIFIC_84;
    /// Fabrics: Disconnect Invalid Queue Type.
    pub const DISCONNECT_INVALID_QUEUE_TYPE: Self = Self::SPECIFIC_85;
}

/// SCT: Generic Command Status.
pub const SCT_GENERIC: u8 = 0;
/// SCT: Command Specific Status.
pub const SCT_COMMAND_SPECIFIC: u8 = 1;
/// SCT: Media and Data Integrity Errors.
pub const SCT_MEDIA: u8 = 2;
/// SCT: Path Related Status.
pub const SCT_PATH: u8 = 3;
/// SCT: vendor specific.
pub const SCT_VENDOR: u8 = 7;

impl Status {
    /// M: the Error Information log has more about this command.
    pub const MORE: u16 = 1 << 13;
    /// DNR: the same command would fail again.
    pub const DNR: u16 = 1 << 14;

    /// A status from its type and code.
    pub const fn new(sct: u8, sc: u8) -> Self {
        Self(((sct & 7) as u16) << 8 | sc as u16)
    }

    /// Status Code.
    pub const fn sc(self) -> u8 {
        self.0 as u8
    }

    /// Status Code Type, one of the `SCT_*` constants.
    pub const fn sct(self) -> u8 {
        (self.0 >> 8) as u8 & 7
    }

    /// Command Retry Delay: 0 for none, or which of CRDT1 to CRDT3 to wait.
    pub const fn crd(self) -> u8 {
        (self.0 >> 11) as u8 & 3
    }

    /// SCT and SC alone, fit for comparison with the constants.
    pub const fn code(self) -> Self {
        Self(self.0 & 0x7FF)
    }

    /// The command succeeded.
    pub const fn is_success(self) -> bool {
        self.0 & 0x7FF == 0
    }

    /// M is set.
    pub const fn is_more(self) -> bool {
        self.0 & Self::MORE != 0
    }

    /// DNR is set.
    pub const fn is_dnr(self) -> bool {
        self.0 & Self::DNR != 0
    }

    /// This status with DNR set.
    #[must_use]
    pub const fn dnr(self) -> Self {
        Self(self.0 | Self::DNR)
    }

    /// This status with M set.
    #[must_use]
    pub const fn more(self) -> Self {
        Self(self.0 | Self::MORE)
    }

    /// This status with a Command Retry Delay. Panics above 3.
    #[must_use]
    pub const fn with_crd(self, crd: u8) -> Self {
        assert!(crd <= 3, "CRD has two bits");
        Self(self.0 & !(3 << 11) | (crd as u16) << 11)
    }
}
