//! Controller properties: registers on PCIe, Property Get and Property Set on fabrics (Base 3.1.4).

open_set! {
    /// The offset of a property.
    pub struct PropertyOffset(u32);
    CAP = 0x00, "Controller Capabilities";
    VS = 0x08, "Version";
    INTMS = 0x0C, "Interrupt Mask Set";
    INTMC = 0x10, "Interrupt Mask Clear";
    CC = 0x14, "Controller Configuration";
    CSTS = 0x1C, "Controller Status";
    NSSR = 0x20, "NVM Subsystem Reset";
    AQA = 0x24, "Admin Queue Attributes";
    ASQ = 0x28, "Admin Submission Queue Base Address";
    ACQ = 0x30, "Admin Completion Queue Base Address";
    CMBLOC = 0x38, "Controller Memory Buffer Location";
    CMBSZ = 0x3C, "Controller Memory Buffer Size";
    BPINFO = 0x40, "Boot Partition Information";
    NSSD = 0x64, "NVM Subsystem Shutdown";
    CRTO = 0x68, "Controller Ready Timeouts";
}

/// What NSSR must be set to for a subsystem reset: "NVMe".
pub const NSSR_RESET: u32 = 0x4E56_4D65;

/// PCIe: where the doorbells start. SQ y's tail is at 1000h + (2y << (2 + DSTRD)), CQ y's head at the next stride.
pub const DOORBELLS: u32 = 0x1000;

bit_fields! {
    /// CAP, Controller Capabilities (Base 3.1.4.1).
    pub struct Cap(u64) {
        /// Maximum Queue Entries Supported, zero-based.
        mqes_z, with_mqes_z: u16 = 16 @ 0;
        /// Contiguous Queues Required; always set on fabrics.
        cqr, with_cqr: bool = 1 @ 16;
        /// Arbitration Mechanisms Supported beside round robin.
        ams, with_ams: u8 = 2 @ 17;
        /// Timeout for RDY to change, in units of 500 ms.
        to, with_to: u8 = 8 @ 24;
        /// Doorbell Stride: 2 to the power of 2 + DSTRD bytes; 0 on fabrics.
        dstrd, with_dstrd: u8 = 4 @ 32;
        /// NVM Subsystem Reset Supported.
        nssrs, with_nssrs: bool = 1 @ 36;
        /// Command Sets Supported, the eight bits; see `CSS_*`.
        css, with_css: u8 = 8 @ 37;
        /// Boot Partition Support.
        bps, with_bps: bool = 1 @ 45;
        /// Controller Power Scope.
        cps, with_cps: u8 = 2 @ 46;
        /// Memory Page Size Minimum: 2 to the power of 12 + MPSMIN bytes.
        mpsmin, with_mpsmin: u8 = 4 @ 48;
        /// Memory Page Size Maximum: 2 to the power of 12 + MPSMAX bytes.
        mpsmax, with_mpsmax: u8 = 4 @ 52;
        /// Persistent Memory Region Supported.
        pmrs, with_pmrs: bool = 1 @ 56;
        /// Controller Memory Buffer Supported.
        cmbs, with_cmbs: bool = 1 @ 57;
        /// NVM Subsystem Shutdown Supported.
        nsss, with_nsss: bool = 1 @ 58;
        /// Controller Ready With Media Support (CRMS bit 0): required since 2.0.
        crwms, with_crwms: bool = 1 @ 59;
        /// Controller Ready Independent of Media Support (CRMS bit 1).
        crims, with_crims: bool = 1 @ 60;
        /// NVM Subsystem Shutdown Enhancements Supported.
        nsses, with_nsses: bool = 1 @ 61;
    }
}

impl Cap {
    /// CSS: the NVM Command Set.
    pub const CSS_NVM: u8 = 1 << 0;
    /// CSS: one or more I/O command sets, told by Identify CNS 1Ch.
    pub const CSS_IOCSS: u8 = 1 << 6;
    /// CSS: no I/O command set, Admin only.
    pub const CSS_NOIOCSS: u8 = 1 << 7;

    /// Most entries a queue may have.
    pub const fn queue_entries_max(self) -> u32 {
        self.mqes_z() as u32 + 1
    }

    /// How long RDY may take to change, in milliseconds.
    pub const fn timeout_ms(self) -> u32 {
        self.to() as u32 * 500
    }
}

bit_fields! {
    /// CC, Controller Configuration (Base 3.1.4.5).
    pub struct Cc(u32) {
        /// Enable.
        en, with_en: bool = 1 @ 0;
        /// I/O Command Set Selected; see `CSS_*`.
        css, with_css: u8 = 3 @ 4;
        /// Memory Page Size: 2 to the power of 12 + MPS bytes.
        mps, with_mps: u8 = 4 @ 7;
        /// Arbitration Mechanism Selected; 0 is round robin.
        ams, with_ams: u8 = 3 @ 11;
        /// Shutdown Notification; see `SHN_*`.
        shn, with_shn: u8 = 2 @ 14;
        /// I/O Submission Queue Entry Size, a power of two: 6 for 64 bytes.
        iosqes, with_iosqes: u8 = 4 @ 16;
        /// I/O Completion Queue Entry Size, a power of two: 4 for 16 bytes.
        iocqes, with_iocqes: u8 = 4 @ 20;
        /// Controller Ready Independent of Media Enable.
        crime, with_crime: bool = 1 @ 24;
    }
}

impl Cc {
    /// CSS: the NVM Command Set.
    pub const CSS_NVM: u8 = 0b000;
    /// CSS: all I/O command sets that are supported.
    pub const CSS_ALL: u8 = 0b110;
    /// CSS: Admin commands only.
    pub const CSS_ADMIN: u8 = 0b111;
    /// SHN: nothing.
    pub const SHN_NONE: u8 = 0b00;
    /// SHN: normal shutdown.
    pub const SHN_NORMAL: u8 = 0b01;
    /// SHN: abrupt shutdown.
    pub const SHN_ABRUPT: u8 = 0b10;
    /// IOSQES for entries of 64 bytes.
    pub const IOSQES_64: u8 = 6;
    /// IOCQES for entries of 16 bytes.
    pub const IOCQES_16: u8 = 4;
}

bit_fields! {
    /// CSTS, Controller Status (Base 3.1.4.6).
    pub struct Csts(u32) {
        /// Ready.
        rdy, with_rdy: bool = 1 @ 0;
        /// Controller Fatal Status.
        cfs, with_cfs: bool = 1 @ 1;
        /// Shutdown Status; see `SHST_*`.
        shst, with_shst: u8 = 2 @ 2;
        /// NVM Subsystem Reset Occurred.
        nssro, with_nssro: bool = 1 @ 4;
        /// Processing Paused.
        pp, with_pp: bool = 1 @ 5;
        /// Shutdown Type: 1 if the subsystem, not the controller alone, shuts down.
        st, with_st: bool = 1 @ 6;
    }
}

impl Csts {
    /// SHST: no shutdown.
    pub const SHST_NORMAL: u8 = 0b00;
    /// SHST: shutdown processing is occurring.
    pub const SHST_OCCURRING: u8 = 0b01;
    /// SHST: shutdown processing is complete.
    pub const SHST_COMPLETE: u8 = 0b10;
}

bit_fields! {
    /// VS, Version (Base 3.1.4.2).
    pub struct Vs(u32) {
        /// Tertiary version.
        ter, with_ter: u8 = 8 @ 0;
        /// Minor version.
        mnr, with_mnr: u8 = 8 @ 8;
        /// Major version.
        mjr, with_mjr: u16 = 16 @ 16;
    }
}

impl Vs {
    /// NVMe 1.1.
    pub const V1_1: Self = Self(0x0001_0100);
    /// NVMe 1.3.
    pub const V1_3: Self = Self(0x0001_0300);
    /// NVMe 1.4.
    pub const V1_4: Self = Self(0x0001_0400);
    /// NVMe 2.0.
    pub const V2_0: Self = Self(0x0002_0000);
    /// NVMe 2.1.
    pub const V2_1: Self = Self(0x0002_0100);
}

bit_fields! {
    /// CRTO, Controller Ready Timeouts (Base 3.1.4.21).
    pub struct Crto(u32) {
        /// Controller Ready With Media Timeout, in units of 500 ms.
        crwmt, with_crwmt: u16 = 16 @ 0;
        /// Controller Ready Independent of Media Timeout, in units of 500 ms.
        crimt, with_crimt: u16 = 16 @ 16;
    }
}

bit_fields! {
    /// AQA, Admin Queue Attributes (Base 3.1.4.8; PCIe only).
    pub struct Aqa(u32) {
        /// Admin Submission Queue Size, zero-based.
        asqs_z, with_asqs_z: u16 = 12 @ 0;
        /// Admin Completion Queue Size, zero-based.
        acqs_z, with_acqs_z: u16 = 12 @ 16;
    }
}
