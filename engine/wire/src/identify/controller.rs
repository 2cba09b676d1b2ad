//! Identify Controller (CNS 01h) and its NVM Command Set part (CNS 06h).

use super::{ascii, set_ascii};
use crate::num::{U16, U32, U64, U128};
use bytemuck::{Pod, Zeroable};

/// Identify Controller data structure, CNS 01h (Base 5.1.13.2.1).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct IdentifyController {
    /// PCI Vendor ID.
    pub vid: U16,
    /// PCI Subsystem Vendor ID.
    pub ssvid: U16,
    /// Serial Number, ASCII padded with spaces.
    pub sn: [u8; 20],
    /// Model Number, ASCII padded with spaces.
    pub mn: [u8; 40],
    /// Firmware Revision, ASCII padded with spaces.
    pub fr: [u8; 8],
    /// Recommended Arbitration Burst, a power of two.
    pub rab: u8,
    /// IEEE OUI, least significant byte first.
    pub ieee: [u8; 3],
    /// Controller Multi-Path I/O and Namespace Sharing Capabilities, see `CMIC_*`.
    pub cmic: u8,
    /// Maximum Data Transfer Size, a power of two in units of CAP.MPSMIN; 0 is no limit.
    pub mdts: u8,
    /// Controller ID.
    pub cntlid: U16,
    /// Version, as property VS.
    pub ver: U32,
    /// RTD3 Resume Latency in microseconds.
    pub rtd3r: U32,
    /// RTD3 Entry Latency in microseconds: how long a normal shutdown may take.
    pub rtd3e: U32,
    /// Optional Asynchronous Events Supported, bits as in `feature::AsyncEventConfig`.
    pub oaes: U32,
    /// Controller Attributes, see `CTRATT_*`.
    pub ctratt: U32,
    /// Read Recovery Levels Supported.
    pub rrls: U16,
    /// Boot Partition Capabilities.
    pub bpcap: u8,
    /// Reserved.
    pub rsvd103: u8,
    /// NVM Subsystem Shutdown Latency in microseconds.
    pub nssl: U32,
    /// Reserved.
    pub rsvd108: [u8; 2],
    /// Power Loss Signaling Information.
    pub plsi: u8,
    /// Controller Type, see `CNTRLTYPE_*`.
    pub cntrltype: u8,
    /// FRU Globally Unique Identifier.
    pub fguid: [u8; 16],
    /// Command Retry Delay Time 1, in units of 100 ms.
    pub crdt1: U16,
    /// Command Retry Delay Time 2, in units of 100 ms.
    pub crdt2: U16,
    /// Command Retry Delay Time 3, in units of 100 ms.
    pub crdt3: U16,
    /// Controller Reachability Capabilities.
    pub crcap: u8,
    /// Reserved.
    pub rsvd135: [u8; 118],
    /// NVM Subsystem Report (management interface).
    pub nvmsr: u8,
    /// VPD Write Cycle Information (management interface).
    pub vwci: u8,
    /// Management Endpoint Capabilities (management interface).
    pub mec: u8,
    /// Optional Admin Command Support, see `OACS_*`.
    pub oacs: U16,
    /// Abort Command Limit, zero-based.
    pub acl_z: u8,
    /// Asynchronous Event Request Limit, zero-based.
    pub aerl_z: u8,
    /// Firmware Updates, see `FRMW_*`.
    pub frmw: u8,
    /// Log Page Attributes, see `LPA_*`.
    pub lpa: u8,
    /// Error Log Page Entries, zero-based.
    pub elpe_z: u8,
    /// Number of Power States Support, zero-based.
    pub npss_z: u8,
    /// Admin Vendor Specific Command Configuration.
    pub avscc: u8,
    /// Autonomous Power State Transition Attributes.
    pub apsta: u8,
    /// Warning Composite Temperature Threshold in kelvin.
    pub wctemp: U16,
    /// Critical Composite Temperature Threshold in kelvin.
    pub cctemp: U16,
    /// Maximum Time for Firmware Activation, in units of 100 ms.
    pub mtfa: U16,
    /// Host Memory Buffer Preferred Size, in units of 4 KiB.
    pub hmpre: U32,
    /// Host Memory Buffer Minimum Size, in units of 4 KiB.
    pub hmmin: U32,
    /// Total NVM Capacity in bytes.
    pub tnvmcap: U128,
    /// Unallocated NVM Capacity in bytes.
    pub unvmcap: U128,
    /// Replay Protected Memory Block Support.
    pub rpmbs: U32,
    /// Extended Device Self-test Time in minutes.
    pub edstt: U16,
    /// Device Self-test Options.
    pub dsto: u8,
    /// Firmware Update Granularity, in units of 4 KiB; FFh is no restriction.
    pub fwug: u8,
    /// Keep Alive Support: granularity in units of 100 ms; 0 is not supported.
    pub kas: U16,
    /// Host Controlled Thermal Management Attributes.
    pub hctma: U16,
    /// Minimum Thermal Management Temperature in kelvin.
    pub mntmt: U16,
    /// Maximum Thermal Management Temperature in kelvin.
    pub mxtmt: U16,
    /// Sanitize Capabilities.
    pub sanicap: U32,
    /// Host Memory Buffer Minimum Descriptor Entry Size, in units of 4 KiB.
    pub hmminds: U32,
    /// Host Memory Maximum Descriptors Entries.
    pub hmmaxd: U16,
    /// NVM Set Identifier Maximum.
    pub nsetidmax: U16,
    /// Endurance Group Identifier Maximum.
    pub endgidmax: U16,
    /// ANA Transition Time in seconds: longer than that in the change state is an error.
    pub anatt: u8,
    /// Asymmetric Namespace Access Capabilities, see `ANACAP_*`.
    pub anacap: u8,
    /// ANA Group Identifier Maximum.
    pub anagrpmax: U32,
    /// Number of ANA Group Identifiers.
    pub nanagrpid: U32,
    /// Persistent Event Log Size, in units of 64 KiB.
    pub pels: U32,
    /// Domain Identifier.
    pub domainid: U16,
    /// Key Per I/O Capabilities.
    pub kpioc: u8,
    /// Reserved.
    pub rsvd359: u8,
    /// Maximum Processing Time for Firmware Activation Without Reset, in units of 100 ms.
    pub mptfawr: U16,
    /// Reserved.
    pub rsvd362: [u8; 6],
    /// Max Endurance Group Capacity in bytes.
    pub megcap: U128,
    /// Temperature Threshold Hysteresis Attributes.
    pub tmpthha: u8,
    /// Reserved.
    pub rsvd385: u8,
    /// Command Quiesce Time in milliseconds: how long after KATO expires commands may still take effect.
    pub cqt: U16,
    /// Reserved.
    pub rsvd388: [u8; 124],
    /// Submission Queue Entry Size: required in bits 3:0, maximum in 7:4, powers of two.
    pub sqes: u8,
    /// Completion Queue Entry Size: required in bits 3:0, maximum in 7:4, powers of two.
    pub cqes: u8,
    /// Maximum Outstanding Commands per I/O queue, not zero-based; required on fabrics.
    pub maxcmd: U16,
    /// Number of Namespaces: the largest NSID.
    pub nn: U32,
    /// Optional NVM Command Support, see `ONCS_*`.
    pub oncs: U16,
    /// Fused Operation Support, see `FUSES_*`.
    pub fuses: U16,
    /// Format NVM Attributes, see `FNA_*`.
    pub fna: u8,
    /// Volatile Write Cache, see `VWC_*`.
    pub vwc: u8,
    /// Atomic Write Unit Normal, zero-based blocks.
    pub awun_z: U16,
    /// Atomic Write Unit Power Fail, zero-based blocks.
    pub awupf_z: U16,
    /// I/O Command Set Vendor Specific Command Configuration.
    pub icsvscc: u8,
    /// Namespace Write Protection Capabilities.
    pub nwpc: u8,
    /// Atomic Compare & Write Unit, zero-based blocks.
    pub acwu_z: U16,
    /// Copy Descriptor Formats Supported (CDFS in 2.1), one bit each.
    pub ocfs: U16,
    /// SGL Support, see `SGLS_*`.
    pub sgls: U32,
    /// Maximum Number of Allowed Namespaces; 0 is NN.
    pub mnan: U32,
    /// Maximum Domain Namespace Attachments.
    pub maxdna: U128,
    /// Maximum I/O Controller Namespace Attachments.
    pub maxcna: U32,
    /// Optimal Aggregated Queue Depth.
    pub oaqd: U32,
    /// Recommended Host-Initiated Refresh Interval in days.
    pub rhiri: u8,
    /// Host-Initiated Refresh Time in minutes.
    pub hirt: u8,
    /// Controller Maximum Memory Range Tracking Descriptors.
    pub cmmrtd: U16,
    /// NVM Subsystem Maximum Memory Range Tracking Descriptors.
    pub nmmrtd: U16,
    /// Minimum Memory Range Tracking Granularity.
    pub minmrtg: u8,
    /// Maximum Memory Range Tracking Granularity.
    pub maxmrtg: u8,
    /// Tracking Attributes.
    pub trattr: u8,
    /// Reserved.
    pub rsvd577: u8,
    /// Maximum Controller User Data Migration Queues.
    pub mcudmq: U16,
    /// Maximum NVM Subsystem User Data Migration Queues.
    pub mnsudmq: U16,
    /// Maximum CDQ Memory Ranges.
    pub mcmr: U16,
    /// NVM Subsystem Maximum CDQ Memory Ranges.
    pub nmcmr: U16,
    /// Maximum Controller Data Queue PRP Count.
    pub mcdqpc: U16,
    /// Reserved.
    pub rsvd588: [u8; 180],
    /// NVM Subsystem NVMe Qualified Name, NUL-padded.
    pub subnqn: [u8; 256],
    /// Reserved.
    pub rsvd1024: [u8; 768],
    /// I/O Queue Command Capsule Supported Size, in units of 16 bytes: 4 for no in-capsule data.
    pub ioccsz: U32,
    /// I/O Queue Response Capsule Supported Size, in units of 16 bytes: 1.
    pub iorcsz: U32,
    /// In Capsule Data Offset, in units of 16 bytes behind the SQE.
    pub icdoff: U16,
    /// Fabrics Controller Attributes, see `FCATT_*`.
    pub fcatt: u8,
    /// Maximum SGL Data Block Descriptors in a capsule; 0 is no limit.
    pub msdbd: u8,
    /// Optional Fabrics Commands Support, see `OFCS_*`.
    pub ofcs: U16,
    /// Discovery Controller Type, see `DCTYPE_*`.
    pub dctype: u8,
    /// Reserved.
    pub rsvd1807: [u8; 241],
    /// Power State Descriptors.
    pub psd: [PowerState; 32],
    /// Vendor specific.
    pub vs: [u8; 1024],
}
layout!(IdentifyController = 4096 {
    vid @ 0, ssvid @ 2, sn @ 4, mn @ 24, fr @ 64, rab @ 72, ieee @ 73, cmic @ 76, mdts @ 77, cntlid @
    78, ver @ 80, rtd3r @ 84, rtd3e @ 88, oaes @ 92, ctratt @ 96, rrls @ 100, bpcap @ 102, rsvd103 @
    103, nssl @ 104, rsvd108 @ 108, plsi @ 110, cntrltype @ 111, fguid @ 112, crdt1 @ 128, crdt2 @ 130,
    crdt3 @ 132, crcap @ 134, rsvd135 @ 135, nvmsr @ 253, vwci @ 254, mec @ 255, oacs @ 256, acl_z @
    258, aerl_z @ 259, frmw @ 260, lpa @ 261, elpe_z @ 262, npss_z @ 263, avscc @ 264, apsta @ 265,
    wctemp @ 266, cctemp @ 268, mtfa @ 270, hmpre @ 272, hmmin @ 276, tnvmcap @ 280, unvmcap @ 296,
    rpmbs @ 312, edstt @ 316, dsto @ 318, fwug @ 319, kas @ 320, hctma @ 322, mntmt @ 324, mxtmt @ 326,
    sanicap @ 328, hmminds @ 332, hmmaxd @ 336, nsetidmax @ 338, endgidmax @ 340, anatt @ 342, anacap @
    343, anagrpmax @ 344, nanagrpid @ 348, pels @ 352, domainid @ 356, kpioc @ 358, rsvd359 @ 359,
    mptfawr @ 360, rsvd362 @ 362, megcap @ 368, tmpthha @ 384, rsvd385 @ 385, cqt @ 386, rsvd388 @ 388,
    sqes @ 512, cqes @ 513, maxcmd @ 514, nn @ 516, oncs @ 520, fuses @ 522, fna @ 524, vwc @ 525,
    awun_z @ 526, awupf_z @ 528, icsvscc @ 530, nwpc @ 531, acwu_z @ 532, ocfs @ 534, sgls @ 536, mnan @
    540, maxdna @ 544, maxcna @ 560, oaqd @ 564, rhiri @ 568, hirt @ 569, cmmrtd @ 570, nmmrtd @ 572,
    minmrtg @ 574, maxmrtg @ 575, trattr @ 576, rsvd577 @ 577, mcudmq @ 578, mnsudmq @ 580, mcmr @ 582,
    nmcmr @ 584, mcdqpc @ 586, rsvd588 @ 588, subnqn @ 768, rsvd1024 @ 1024, ioccsz @ 1792, iorcsz @
    1796, icdoff @ 1800, fcatt @ 1802, msdbd @ 1803, ofcs @ 1804, dctype @ 1806, rsvd1807 @ 1807, psd @
    2048, vs @ 3072
});

/// Bits and values of the fields.
impl IdentifyController {
    /// CMIC: the subsystem may have more than one port.
    pub const CMIC_MULTI_PORT: u8 = 1 << 0;
    /// CMIC: the subsystem may have more than one controller.
    pub const CMIC_MULTI_CONTROLLER: u8 = 1 << 1;
    /// CMIC: the controller belongs to an SR-IOV virtual function.
    pub const CMIC_SRIOV: u8 = 1 << 2;
    /// CMIC: ANA is reported.
    pub const CMIC_ANA: u8 = 1 << 3;

    /// CTRATT: a Host Identifier of 128 bits.
    pub const CTRATT_HOSTID_128: u32 = 1 << 0;
    /// CTRATT: Non-Operational Power State Permissive Mode.
    pub const CTRATT_NOPSPM: u32 = 1 << 1;
    /// CTRATT: NVM Sets.
    pub const CTRATT_NVM_SETS: u32 = 1 << 2;
    /// CTRATT: Read Recovery Levels.
    pub const CTRATT_READ_RECOVERY: u32 = 1 << 3;
    /// CTRATT: Endurance Groups.
    pub const CTRATT_ENDURANCE_GROUPS: u32 = 1 << 4;
    /// CTRATT: Predictable Latency Mode.
    pub const CTRATT_PREDICTABLE_LATENCY: u32 = 1 << 5;
    /// CTRATT: Traffic Based Keep Alive: any command restarts the Keep Alive Timer.
    pub const CTRATT_TBKAS: u32 = 1 << 6;
    /// CTRATT: Namespace Granularity.
    pub const CTRATT_NS_GRANULARITY: u32 = 1 << 7;
    /// CTRATT: SQ Associations.
    pub const CTRATT_SQ_ASSOCIATIONS: u32 = 1 << 8;
    /// CTRATT: UUID List.
    pub const CTRATT_UUID_LIST: u32 = 1 << 9;
    /// CTRATT: Multi-Domain Subsystem.
    pub const CTRATT_MULTI_DOMAIN: u32 = 1 << 10;
    /// CTRATT: Extended LBA Formats.
    pub const CTRATT_EXTENDED_LBA_FORMATS: u32 = 1 << 15;
    /// CTRATT: Flexible Data Placement.
    pub const CTRATT_FDP: u32 = 1 << 19;

    /// CNTRLTYPE: I/O controller.
    pub const CNTRLTYPE_IO: u8 = 1;
    /// CNTRLTYPE: Discovery controller.
    pub const CNTRLTYPE_DISCOVERY: u8 = 2;
    /// CNTRLTYPE: Administrative controller.
    pub const CNTRLTYPE_ADMIN: u8 = 3;

    /// OACS: Security Send and Receive.
    pub const OACS_SECURITY: u16 = 1 << 0;
    /// OACS: Format NVM.
    pub const OACS_FORMAT: u16 = 1 << 1;
    /// OACS: Firmware Commit and Download.
    pub const OACS_FIRMWARE: u16 = 1 << 2;
    /// OACS: Namespace Management and Attachment.
    pub const OACS_NS_MANAGEMENT: u16 = 1 << 3;
    /// OACS: Device Self-test.
    pub const OACS_SELF_TEST: u16 = 1 << 4;
    /// OACS: Directives.
    pub const OACS_DIRECTIVES: u16 = 1 << 5;
    /// OACS: NVMe-MI Send and Receive.
    pub const OACS_NVME_MI: u16 = 1 << 6;
    /// OACS: Virtualization Management.
    pub const OACS_VIRTUALIZATION: u16 = 1 << 7;
    /// OACS: Doorbell Buffer Config.
    pub const OACS_DOORBELL_BUFFER: u16 = 1 << 8;
    /// OACS: Get LBA Status.
    pub const OACS_GET_LBA_STATUS: u16 = 1 << 9;
    /// OACS: Command and Feature Lockdown.
    pub const OACS_LOCKDOWN: u16 = 1 << 10;

    /// FRMW: slot 1 is read only.
    pub const FRMW_SLOT1_READ_ONLY: u8 = 1 << 0;
    /// FRMW: number of slots.
    pub const FRMW_SLOTS: u8 = 0b111 << 1;
    /// FRMW: activation without a reset.
    pub const FRMW_NO_RESET: u8 = 1 << 4;

    /// LPA: SMART / Health per namespace.
    pub const LPA_SMART_PER_NS: u8 = 1 << 0;
    /// LPA: Commands Supported and Effects.
    pub const LPA_COMMAND_EFFECTS: u8 = 1 << 1;
    /// LPA: Log Page Offset and 32-bit length.
    pub const LPA_EXTENDED: u8 = 1 << 2;
    /// LPA: Telemetry.
    pub const LPA_TELEMETRY: u8 = 1 << 3;
    /// LPA: Persistent Event.
    pub const LPA_PERSISTENT_EVENT: u8 = 1 << 4;
    /// LPA: log pages 00h, 05h's scopes, 12h and 13h.
    pub const LPA_SUPPORTED_LOG_PAGES: u8 = 1 << 5;

    /// ANACAP: reports ANA Optimized.
    pub const ANACAP_OPTIMIZED: u8 = 1 << 0;
    /// ANACAP: reports ANA Non-Optimized.
    pub const ANACAP_NON_OPTIMIZED: u8 = 1 << 1;
    /// ANACAP: reports ANA Inaccessible.
    pub const ANACAP_INACCESSIBLE: u8 = 1 << 2;
    /// ANACAP: reports ANA Persistent Loss.
    pub const ANACAP_PERSISTENT_LOSS: u8 = 1 << 3;
    /// ANACAP: reports ANA Change.
    pub const ANACAP_CHANGE: u8 = 1 << 4;
    /// ANACAP: a namespace's ANAGRPID does not change while it is attached.
    pub const ANACAP_GROUP_FIXED: u8 = 1 << 6;
    /// ANACAP: ANAGRPID in Namespace Management.
    pub const ANACAP_GROUP_MANAGEMENT: u8 = 1 << 7;

    /// SQES: entries of 64 bytes are required and the maximum.
    pub const SQES_64: u8 = 0x66;
    /// CQES: entries of 16 bytes are required and the maximum.
    pub const CQES_16: u8 = 0x44;

    /// ONCS: Compare.
    pub const ONCS_COMPARE: u16 = 1 << 0;
    /// ONCS: Write Uncorrectable.
    pub const ONCS_WRITE_UNCORRECTABLE: u16 = 1 << 1;
    /// ONCS: Dataset Management.
    pub const ONCS_DSM: u16 = 1 << 2;
    /// ONCS: Write Zeroes.
    pub const ONCS_WRITE_ZEROES: u16 = 1 << 3;
    /// ONCS: Save and Select fields of Set and Get Features.
    pub const ONCS_SAVE_SELECT: u16 = 1 << 4;
    /// ONCS: Reservations.
    pub const ONCS_RESERVATIONS: u16 = 1 << 5;
    /// ONCS: Timestamp feature.
    pub const ONCS_TIMESTAMP: u16 = 1 << 6;
    /// ONCS: Verify.
    pub const ONCS_VERIFY: u16 = 1 << 7;
    /// ONCS: Copy.
    pub const ONCS_COPY: u16 = 1 << 8;

    /// FUSES: Compare and Write.
    pub const FUSES_COMPARE_AND_WRITE: u16 = 1 << 0;

    /// FNA: Format NVM applies to all namespaces.
    pub const FNA_FORMAT_ALL: u8 = 1 << 0;
    /// FNA: secure erase applies to all namespaces.
    pub const FNA_ERASE_ALL: u8 = 1 << 1;
    /// FNA: cryptographic erase.
    pub const FNA_CRYPTO_ERASE: u8 = 1 << 2;
    /// FNA: Format NVM does not take NSID FFFFFFFFh.
    pub const FNA_NO_BROADCAST: u8 = 1 << 3;

    /// VWC: a volatile write cache is present.
    pub const VWC_PRESENT: u8 = 1 << 0;
    /// VWC: Flush does not take NSID FFFFFFFFh.
    pub const VWC_FLUSH_NO_BROADCAST: u8 = 0b10 << 1;
    /// VWC: Flush takes NSID FFFFFFFFh.
    pub const VWC_FLUSH_BROADCAST: u8 = 0b11 << 1;

    /// SGLS: SGLs are supported, data blocks of any alignment.
    pub const SGLS_SUPPORTED: u32 = 0b01;
    /// SGLS: SGLs are supported, data blocks in dwords.
    pub const SGLS_SUPPORTED_DWORD: u32 = 0b10;
    /// SGLS: Keyed SGL Data Block descriptor.
    pub const SGLS_KEYED: u32 = 1 << 2;
    /// SGLS: Bit Bucket descriptor.
    pub const SGLS_BIT_BUCKET: u32 = 1 << 16;
    /// SGLS: an SGL longer than the data is allowed.
    pub const SGLS_OVERSIZE: u32 = 1 << 18;
    /// SGLS: the address field may be an offset: in-capsule data.
    pub const SGLS_OFFSET: u32 = 1 << 20;
    /// SGLS: Transport SGL Data Block descriptor.
    pub const SGLS_TRANSPORT: u32 = 1 << 21;

    /// FCATT: set for the static controller model, clear for the dynamic one.
    pub const FCATT_STATIC: u8 = 1 << 0;
    /// OFCS: Disconnect.
    pub const OFCS_DISCONNECT: u16 = 1 << 0;

    /// DCTYPE: not reported.
    pub const DCTYPE_NOT_REPORTED: u8 = 0;
    /// DCTYPE: Direct Discovery controller.
    pub const DCTYPE_DIRECT: u8 = 1;
    /// DCTYPE: Central Discovery controller.
    pub const DCTYPE_CENTRAL: u8 = 2;

    /// Abort commands that may be outstanding.
    pub const fn abort_limit(&self) -> u16 {
        self.acl_z as u16 + 1
    }

    /// Asynchronous Event Requests that may be outstanding.
    pub const fn async_event_limit(&self) -> u16 {
        self.aerl_z as u16 + 1
    }

    /// Entries that the Error Information log holds.
    pub const fn error_log_entries(&self) -> u16 {
        self.elpe_z as u16 + 1
    }

    /// Power state descriptors that are valid.
    pub const fn power_states(&self) -> u16 {
        self.npss_z as u16 + 1
    }

    /// Blocks written atomically in normal operation.
    pub const fn atomic_blocks(&self) -> u32 {
        self.awun_z.get() as u32 + 1
    }

    /// Blocks written atomically even over a power failure.
    pub const fn atomic_blocks_power_fail(&self) -> u32 {
        self.awupf_z.get() as u32 + 1
    }

    /// Blocks that a fused Compare and Write handles atomically.
    pub const fn atomic_blocks_compare(&self) -> u32 {
        self.acwu_z.get() as u32 + 1
    }

    /// MDTS in bytes, given CAP.MPSMIN; None if there is no limit, or none that fits.
    pub const fn transfer_bytes_max(&self, mpsmin: u8) -> Option<u64> {
        let shift = 12 + mpsmin as u32 + self.mdts as u32;
        if self.mdts == 0 {
            None
        } else {
            1u64.checked_shl(shift)
        }
    }

    /// Bytes of in-capsule data that an I/O queue takes.
    pub const fn in_capsule_bytes_max(&self) -> u64 {
        (self.ioccsz.get() as u64 * 16).saturating_sub(64)
    }

    /// Serial number without its padding.
    pub fn serial(&self) -> &[u8] {
        ascii(&self.sn)
    }

    /// Model number without its padding.
    pub fn model(&self) -> &[u8] {
        ascii(&self.mn)
    }

    /// Firmware revision without its padding.
    pub fn firmware(&self) -> &[u8] {
        ascii(&self.fr)
    }

    /// Sets serial number, model number and firmware revision; what is too long is cut.
    pub fn set_names(&mut self, sn: &str, mn: &str, fr: &str) {
        set_ascii(&mut self.sn, sn);
        set_ascii(&mut self.mn, mn);
        set_ascii(&mut self.fr, fr);
    }
}

/// Power State Descriptor (Base 5.1.13.2.1).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct PowerState {
    /// Maximum Power, in centiwatts or, with `MXPS`, in units of 0.1 mW.
    pub mp: U16,
    /// Reserved.
    pub rsvd2: u8,
    /// See `MXPS` and `NOPS`.
    pub flags: u8,
    /// Entry Latency in microseconds.
    pub enlat: U32,
    /// Exit Latency in microseconds.
    pub exlat: U32,
    /// Relative Read Throughput.
    pub rrt: u8,
    /// Relative Read Latency.
    pub rrl: u8,
    /// Relative Write Throughput.
    pub rwt: u8,
    /// Relative Write Latency.
    pub rwl: u8,
    /// Idle Power.
    pub idlp: U16,
    /// Idle Power Scale in bits 7:6.
    pub ips: u8,
    /// Reserved.
    pub rsvd19: u8,
    /// Active Power.
    pub actp: U16,
    /// Active Power Workload in bits 2:0, Active Power Scale in bits 7:6.
    pub apws: u8,
    /// Emergency Power Fail Recovery Time.
    pub epfrt: u8,
    /// Forced Quiescence Vault Time.
    pub fqvt: u8,
    /// Emergency Power Fail Vault Time.
    pub epfvt: u8,
    /// Time scales of the two times before.
    pub epfr_fqv_ts: u8,
    /// Time scale of the Emergency Power Fail Vault Time.
    pub epfvts: u8,
    /// Reserved.
    pub rsvd28: [u8; 4],
}
layout!(PowerState = 32 {
    mp @ 0, rsvd2 @ 2, flags @ 3, enlat @ 4, exlat @ 8, rrt @ 12, rrl @ 13, rwt @ 14, rwl @ 15, idlp @
    16, ips @ 18, rsvd19 @ 19, actp @ 20, apws @ 22, epfrt @ 23, fqvt @ 24, epfvt @ 25, epfr_fqv_ts @
    26, epfvts @ 27, rsvd28 @ 28
});

impl PowerState {
    /// FLAGS: MP is in units of 0.1 mW.
    pub const MXPS: u8 = 1 << 0;
    /// FLAGS: non-operational state.
    pub const NOPS: u8 = 1 << 1;
}

/// I/O Command Set specific Identify Controller data structure of the NVM Command Set, CNS 06h (NVM 4.1.5.4).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct NvmIdentifyController {
    /// Verify Size Limit, a power of two in units of CAP.MPSMIN; 0 is no limit.
    pub vsl: u8,
    /// Write Zeroes Size Limit, as VSL.
    pub wzsl: u8,
    /// Write Uncorrectable Size Limit, as VSL.
    pub wusl: u8,
    /// Dataset Management Ranges Limit, 1 to 255; 0 is no limit.
    pub dmrl: u8,
    /// Dataset Management Range Size Limit in blocks; 0 is no limit.
    pub dmrsl: U32,
    /// Dataset Management Size Limit in blocks; 0 is no limit.
    pub dmsl: U64,
    /// Key Per I/O Capabilities.
    pub kpiocap: u8,
    /// Write Zeroes With Deallocate Size Limit, as VSL.
    pub wzdsl: u8,
    /// Admin Optional Command Support.
    pub aocs: U16,
    /// Version of the NVM Command Set specification.
    pub ver: U32,
    /// LBA Migration Queue Format.
    pub lbamqf: u8,
    /// Reserved.
    pub rsvd25: [u8; 4071],
}
layout!(NvmIdentifyController = 4096 {
    vsl @ 0, wzsl @ 1, wusl @ 2, dmrl @ 3, dmrsl @ 4, dmsl @ 8, kpiocap @ 16, wzdsl @ 17, aocs @ 18, ver
    @ 20, lbamqf @ 24, rsvd25 @ 25
});
