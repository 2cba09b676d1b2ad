//! Identify Namespace (CNS 00h), its NVM Command Set part (CNS 05h) and the independent one (CNS 08h).

use crate::num::{U16, U32, U64, U128};
use bytemuck::{Pod, Zeroable};

/// LBA Format (NVM 4.1.5.1).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct LbaFormat {
    /// Metadata Size in bytes per block.
    pub ms: U16,
    /// LBA Data Size, a power of two: 9 and up; 0 is an unused entry.
    pub lbads: u8,
    /// Relative Performance in bits 1:0; 0 is best.
    pub rp: u8,
}
layout!(LbaFormat = 4 {
    ms @ 0, lbads @ 2, rp @ 3
});

impl LbaFormat {
    /// A format of blocks of 2 to the power of `lbads` bytes, without metadata.
    pub const fn new(lbads: u8, rp: u8) -> Self {
        Self {
            ms: U16::ZERO,
            lbads,
            rp,
        }
    }

    /// Bytes of data per block; None unless 512 bytes to 2 GiB.
    pub const fn block_bytes(&self) -> Option<u32> {
        if self.lbads >= 9 && self.lbads < 32 {
            Some(1 << self.lbads)
        } else {
            None
        }
    }
}

/// Identify Namespace data structure of the NVM Command Set, CNS 00h and 11h (NVM 4.1.5.1).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct IdentifyNamespace {
    /// Namespace Size in blocks.
    pub nsze: U64,
    /// Namespace Capacity in blocks.
    pub ncap: U64,
    /// Namespace Utilization in blocks.
    pub nuse: U64,
    /// Namespace Features, see `NSFEAT_*`.
    pub nsfeat: u8,
    /// Number of LBA Formats, zero-based.
    pub nlbaf_z: u8,
    /// Formatted LBA Size: index in bits 6:5 and 3:0, `FLBAS_EXTENDED` in bit 4.
    pub flbas: u8,
    /// Metadata Capabilities.
    pub mc: u8,
    /// End-to-end Data Protection Capabilities.
    pub dpc: u8,
    /// End-to-end Data Protection Type Settings.
    pub dps: u8,
    /// Namespace Multi-path I/O and Namespace Sharing Capabilities, see `NMIC_*`.
    pub nmic: u8,
    /// Reservation Capabilities, see `RESCAP_*`.
    pub rescap: u8,
    /// Format Progress Indicator.
    pub fpi: u8,
    /// Deallocate Logical Block Features, see `DLFEAT_*`.
    pub dlfeat: u8,
    /// Namespace Atomic Write Unit Normal, zero-based blocks.
    pub nawun_z: U16,
    /// Namespace Atomic Write Unit Power Fail, zero-based blocks.
    pub nawupf_z: U16,
    /// Namespace Atomic Compare & Write Unit, zero-based blocks.
    pub nacwu_z: U16,
    /// Namespace Atomic Boundary Size Normal, zero-based blocks; 0 is no boundary.
    pub nabsn_z: U16,
    /// Namespace Atomic Boundary Offset in blocks.
    pub nabo: U16,
    /// Namespace Atomic Boundary Size Power Fail, zero-based blocks; 0 is no boundary.
    pub nabspf_z: U16,
    /// Namespace Optimal I/O Boundary in blocks; 0 is none.
    pub noiob: U16,
    /// NVM Capacity in bytes.
    pub nvmcap: U128,
    /// Namespace Preferred Write Granularity, zero-based blocks.
    pub npwg_z: U16,
    /// Namespace Preferred Write Alignment, zero-based blocks.
    pub npwa_z: U16,
    /// Namespace Preferred Deallocate Granularity, zero-based blocks.
    pub npdg_z: U16,
    /// Namespace Preferred Deallocate Alignment, zero-based blocks.
    pub npda_z: U16,
    /// Namespace Optimal Write Size, zero-based blocks.
    pub nows_z: U16,
    /// Maximum Single Source Range Length of Copy, in blocks.
    pub mssrl: U16,
    /// Maximum Copy Length in blocks.
    pub mcl: U32,
    /// Maximum Source Range Count of Copy, zero-based.
    pub msrc_z: u8,
    /// Key Per I/O Status.
    pub kpios: u8,
    /// Number of Unique Attribute LBA Formats.
    pub nulbaf: u8,
    /// Reserved.
    pub rsvd83: u8,
    /// Key Per I/O Data Access Alignment and Granularity.
    pub kpiodaag: U32,
    /// Reserved.
    pub rsvd88: [u8; 4],
    /// ANA Group Identifier.
    pub anagrpid: U32,
    /// Reserved.
    pub rsvd96: [u8; 3],
    /// Namespace Attributes, see `NSATTR_*`.
    pub nsattr: u8,
    /// NVM Set Identifier.
    pub nvmsetid: U16,
    /// Endurance Group Identifier.
    pub endgid: U16,
    /// Namespace Globally Unique Identifier, big-endian.
    pub nguid: [u8; 16],
    /// IEEE Extended Unique Identifier, big-endian.
    pub eui64: [u8; 8],
    /// LBA Formats.
    pub lbaf: [LbaFormat; 64],
    /// Vendor specific.
    pub vs: [u8; 3712],
}
layout!(IdentifyNamespace = 4096 {
    nsze @ 0, ncap @ 8, nuse @ 16, nsfeat @ 24, nlbaf_z @ 25, flbas @ 26, mc @ 27, dpc @ 28, dps @ 29,
    nmic @ 30, rescap @ 31, fpi @ 32, dlfeat @ 33, nawun_z @ 34, nawupf_z @ 36, nacwu_z @ 38, nabsn_z @
    40, nabo @ 42, nabspf_z @ 44, noiob @ 46, nvmcap @ 48, npwg_z @ 64, npwa_z @ 66, npdg_z @ 68, npda_z
    @ 70, nows_z @ 72, mssrl @ 74, mcl @ 76, msrc_z @ 80, kpios @ 81, nulbaf @ 82, rsvd83 @ 83, kpiodaag
    @ 84, rsvd88 @ 88, anagrpid @ 92, rsvd96 @ 96, nsattr @ 99, nvmsetid @ 100, endgid @ 102, nguid @
    104, eui64 @ 120, lbaf @ 128, vs @ 384
});

impl IdentifyNamespace {
    /// NSFEAT: thin provisioning.
    pub const NSFEAT_THIN: u8 = 1 << 0;
    /// NSFEAT: NAWUN, NAWUPF and NACWU hold for this namespace, in place of the controller's.
    pub const NSFEAT_ATOMICS: u8 = 1 << 1;
    /// NSFEAT: errors for deallocated blocks are supported.
    pub const NSFEAT_DEALLOCATED_ERROR: u8 = 1 << 2;
    /// NSFEAT: NGUID and EUI64 are never reused.
    pub const NSFEAT_ID_NOT_REUSED: u8 = 1 << 3;
    /// NSFEAT: NPWG, NPWA, NPDG, NPDA and NOWS are valid (OPTPERF 01b).
    pub const NSFEAT_OPTPERF: u8 = 0b01 << 4;

    /// FLBAS: metadata is at the end of each block's data.
    pub const FLBAS_EXTENDED: u8 = 1 << 4;

    /// NMIC: the namespace may be attached to several controllers.
    pub const NMIC_SHARED: u8 = 1 << 0;
    /// NMIC: a dispersed namespace.
    pub const NMIC_DISPERSED: u8 = 1 << 1;

    /// RESCAP: Persist Through Power Loss.
    pub const RESCAP_PTPL: u8 = 1 << 0;
    /// RESCAP: Write Exclusive.
    pub const RESCAP_WRITE_EXCLUSIVE: u8 = 1 << 1;
    /// RESCAP: Exclusive Access.
    pub const RESCAP_EXCLUSIVE_ACCESS: u8 = 1 << 2;
    /// RESCAP: Write Exclusive - Registrants Only.
    pub const RESCAP_WRITE_EXCLUSIVE_REGISTRANTS: u8 = 1 << 3;
    /// RESCAP: Exclusive Access - Registrants Only.
    pub const RESCAP_EXCLUSIVE_ACCESS_REGISTRANTS: u8 = 1 << 4;
    /// RESCAP: Write Exclusive - All Registrants.
    pub const RESCAP_WRITE_EXCLUSIVE_ALL: u8 = 1 << 5;
    /// RESCAP: Exclusive Access - All Registrants.
    pub const RESCAP_EXCLUSIVE_ACCESS_ALL: u8 = 1 << 6;
    /// RESCAP: Ignore Existing Key as revision 1.3 defines it.
    pub const RESCAP_IEKEY_1_3: u8 = 1 << 7;

    /// DLFEAT: what a deallocated block reads as is not reported.
    pub const DLFEAT_NOT_REPORTED: u8 = 0;
    /// DLFEAT: a deallocated block reads as zeroes.
    pub const DLFEAT_ZEROES: u8 = 0b001;
    /// DLFEAT: a deallocated block reads as ones.
    pub const DLFEAT_ONES: u8 = 0b010;
    /// DLFEAT: Write Zeroes takes the Deallocate bit.
    pub const DLFEAT_WRITE_ZEROES: u8 = 1 << 3;
    /// DLFEAT: the guard of a deallocated block is the CRC of what it reads as.
    pub const DLFEAT_GUARD_CRC: u8 = 1 << 4;

    /// NSATTR: the namespace is write protected.
    pub const NSATTR_WRITE_PROTECTED: u8 = 1 << 0;

    /// LBA formats that are valid, NULBAF's not counted.
    pub const fn lba_formats(&self) -> u16 {
        self.nlbaf_z as u16 + 1
    }

    /// Index of the format in use: 0 to 63. Above 15 only where more than 16 formats exist.
    pub const fn format_index(&self) -> usize {
        let low = self.flbas & 0xF;
        let high = if self.nlbaf_z > 15 {
            self.flbas >> 5 & 0b11
        } else {
            0
        };
        (high << 4 | low) as usize
    }

    /// The LBA format in use.
    pub const fn lba_format(&self) -> &LbaFormat {
        &self.lbaf[self.format_index()]
    }

    /// Bytes of data per block in the format in use; None if that is not a size a block may have.
    pub const fn block_bytes(&self) -> Option<u32> {
        self.lba_format().block_bytes()
    }

    /// Bytes of the namespace; None if its format is not valid or the number does not fit.
    pub fn bytes(&self) -> Option<u64> {
        self.nsze.get().checked_mul(u64::from(self.block_bytes()?))
    }

    /// Blocks written atomically in normal operation, where `NSFEAT_ATOMICS` is set.
    pub const fn atomic_blocks(&self) -> u32 {
        self.nawun_z.get() as u32 + 1
    }

    /// Blocks written atomically even over a power failure, where `NSFEAT_ATOMICS` is set.
    pub const fn atomic_blocks_power_fail(&self) -> u32 {
        self.nawupf_z.get() as u32 + 1
    }

    /// Source ranges that a Copy may have.
    pub const fn copy_ranges_max(&self) -> u16 {
        self.msrc_z as u16 + 1
    }

    /// Optimal write size in blocks, where `NSFEAT_OPTPERF` is set.
    pub const fn optimal_write_blocks(&self) -> u32 {
        self.nows_z.get() as u32 + 1
    }

    /// Preferred write granularity in blocks, where `NSFEAT_OPTPERF` is set.
    pub const fn preferred_write_blocks(&self) -> u32 {
        self.npwg_z.get() as u32 + 1
    }
}

/// I/O Command Set specific Identify Namespace data structure of the NVM Command Set, CNS 05h (NVM 4.1.5.3).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct NvmIdentifyNamespace {
    /// Logical Block Storage Tag Mask.
    pub lbstm: U64,
    /// Protection Information Capabilities.
    pub pic: u8,
    /// Protection Information Format Attribute.
    pub pifa: u8,
    /// Reserved.
    pub rsvd10: [u8; 2],
    /// Extended LBA Formats.
    pub elbaf: [U32; 64],
    /// Namespace Preferred Deallocate Granularity Large, in blocks.
    pub npdgl: U32,
    /// Namespace Preferred Read Granularity, in blocks.
    pub nprg: U32,
    /// Namespace Preferred Read Alignment, in blocks.
    pub npra: U32,
    /// Namespace Optimal Read Size, in blocks.
    pub nors: U32,
    /// Namespace Preferred Deallocate Alignment Large, in blocks.
    pub npdal: U32,
    /// LBA Format Placement Shard Size.
    pub lbapss: U32,
    /// Tracked LBA Allocation Granularity.
    pub tlbaag: U32,
    /// Reserved.
    pub rsvd296: [u8; 3800],
}
layout!(NvmIdentifyNamespace = 4096 {
    lbstm @ 0, pic @ 8, pifa @ 9, rsvd10 @ 10, elbaf @ 12, npdgl @ 268, nprg @ 272, npra @ 276, nors @
    280, npdal @ 284, lbapss @ 288, tlbaag @ 292, rsvd296 @ 296
});

/// I/O Command Set Independent Identify Namespace data structure, CNS 08h (Base 5.1.13.2.8).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct CsIndependentNamespace {
    /// Common Namespace Features, see `NSFEAT_*`.
    pub nsfeat: u8,
    /// Namespace Multi-path I/O and Namespace Sharing Capabilities, as in `IdentifyNamespace`.
    pub nmic: u8,
    /// Reservation Capabilities, as in `IdentifyNamespace`.
    pub rescap: u8,
    /// Format Progress Indicator.
    pub fpi: u8,
    /// ANA Group Identifier.
    pub anagrpid: U32,
    /// Namespace Attributes, as in `IdentifyNamespace`.
    pub nsattr: u8,
    /// Reserved.
    pub rsvd9: u8,
    /// NVM Set Identifier.
    pub nvmsetid: U16,
    /// Endurance Group Identifier.
    pub endgid: U16,
    /// Namespace Status, see `NSTAT_*`.
    pub nstat: u8,
    /// Key Per I/O Status.
    pub kpios: u8,
    /// Maximum Key Tag.
    pub maxkt: U16,
    /// Reserved.
    pub rsvd18: [u8; 2],
    /// Reachability Group Identifier.
    pub rgrpid: U32,
    /// Reserved.
    pub rsvd24: [u8; 4072],
}
layout!(CsIndependentNamespace = 4096 {
    nsfeat @ 0, nmic @ 1, rescap @ 2, fpi @ 3, anagrpid @ 4, nsattr @ 8, rsvd9 @ 9, nvmsetid @ 10,
    endgid @ 12, nstat @ 14, kpios @ 15, maxkt @ 16, rsvd18 @ 18, rgrpid @ 20, rsvd24 @ 24
});

impl CsIndependentNamespace {
    /// NSFEAT: NGUID and EUI64 are never reused.
    pub const NSFEAT_ID_NOT_REUSED: u8 = 1 << 3;
    /// NSFEAT: rotational media.
    pub const NSFEAT_ROTATIONAL: u8 = 1 << 4;
    /// NSFEAT: a volatile write cache is not present for this namespace.
    pub const NSFEAT_NO_WRITE_CACHE: u8 = 1 << 5;
    /// NSTAT: the namespace is ready. Linux does not attach one that is not.
    pub const NSTAT_READY: u8 = 1 << 0;
}
