//! Submission queue entries and the descriptors that say where their data lies.

use crate::num::{U16, U24, U32, U64};
use crate::opcode::{AdminOpcode, FabricsType, NvmOpcode};
use bytemuck::{Pod, Zeroable};

/// One command: Common Command Format (Base 4.1.1).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Sqe {
    /// Opcode; which set it belongs to depends on the queue and the namespace.
    pub opc: u8,
    /// FUSE in bits 1:0, PSDT in bits 7:6.
    pub flags: u8,
    /// Command Identifier, the host's number for this command.
    pub cid: U16,
    /// Namespace Identifier.
    pub nsid: U32,
    /// Command dword 2.
    pub cdw2: U32,
    /// Command dword 3.
    pub cdw3: U32,
    /// Metadata Pointer.
    pub mptr: U64,
    /// Data Pointer: SGL1 on every fabric, PRP1 and PRP2 on PCIe where PSDT says so.
    pub dptr: Sgl,
    /// Command dword 10.
    pub cdw10: U32,
    /// Command dword 11.
    pub cdw11: U32,
    /// Command dword 12.
    pub cdw12: U32,
    /// Command dword 13.
    pub cdw13: U32,
    /// Command dword 14.
    pub cdw14: U32,
    /// Command dword 15.
    pub cdw15: U32,
}
layout!(Sqe = 64 { opc @ 0, flags @ 1, cid @ 2, nsid @ 4, cdw2 @ 8, cdw3 @ 12, mptr @ 16, dptr @ 24,
    cdw10 @ 40, cdw11 @ 44, cdw12 @ 48, cdw13 @ 52, cdw14 @ 56, cdw15 @ 60 });

/// NSID that names every namespace.
pub const NSID_ALL: u32 = 0xFFFF_FFFF;

impl Sqe {
    /// FUSE: an ordinary command.
    pub const FUSE_NORMAL: u8 = 0b00;
    /// FUSE: first command of a fused operation.
    pub const FUSE_FIRST: u8 = 0b01;
    /// FUSE: second command of a fused operation.
    pub const FUSE_SECOND: u8 = 0b10;
    /// PSDT: PRPs are used (PCIe only).
    pub const PSDT_PRP: u8 = 0b00;
    /// PSDT: SGLs are used, and MPTR is the address of a contiguous buffer. The only value allowed on a fabric.
    pub const PSDT_SGL: u8 = 0b01;
    /// PSDT: SGLs are used, and MPTR is the address of an SGL segment.
    pub const PSDT_SGL_METADATA: u8 = 0b10;
    /// What stands there in Fabrics commands with data: "data is transferred", or nothing (Base 2.1, 4.1.2); in hosts of before,
    /// what stands in all other commands.
    pub const PSDT_FABRICS: [u8; 3] = [0b10, 0b00, Self::PSDT_SGL];

    /// A command with this opcode and nothing else.
    pub const fn new(opc: u8) -> Self {
        Self {
            opc,
            flags: 0,
            cid: U16::ZERO,
            nsid: U32::ZERO,
            cdw2: U32::ZERO,
            cdw3: U32::ZERO,
            mptr: U64::ZERO,
            dptr: Sgl::NONE,
            cdw10: U32::ZERO,
            cdw11: U32::ZERO,
            cdw12: U32::ZERO,
            cdw13: U32::ZERO,
            cdw14: U32::ZERO,
            cdw15: U32::ZERO,
        }
    }

    /// The opcode, read as one of the Admin command set.
    pub const fn admin_opcode(&self) -> AdminOpcode {
        AdminOpcode(self.opc)
    }

    /// The opcode, read as one of the NVM Command Set.
    pub const fn nvm_opcode(&self) -> NvmOpcode {
        NvmOpcode(self.opc)
    }

    /// FCTYPE, if this is a Fabrics command: the byte where others have NSID.
    pub fn fabrics_type(&self) -> Option<FabricsType> {
        let [fctype, ..] = self.nsid.get().to_le_bytes();
        (self.opc == AdminOpcode::FABRICS.0).then_some(FabricsType(fctype))
    }

    /// FUSE, one of the `FUSE_*` constants.
    pub const fn fuse(&self) -> u8 {
        self.flags & 0b11
    }

    /// PSDT, one of the `PSDT_*` constants.
    pub const fn psdt(&self) -> u8 {
        self.flags >> 6
    }

    /// Sets PSDT, keeping FUSE.
    pub const fn set_psdt(&mut self, psdt: u8) {
        self.flags = (self.flags & 0x3F) | (psdt << 6);
    }

    /// Points the command at its data by an SGL descriptor and says so in PSDT.
    #[must_use]
    pub const fn with_sgl(mut self, sgl: Sgl) -> Self {
        self.dptr = sgl;
        self.set_psdt(Self::PSDT_SGL);
        self
    }

    /// The data pointer, read as two PRP entries (PCIe, PSDT 00b).
    pub fn prp(&self) -> Prp {
        bytemuck::cast(self.dptr)
    }

    /// Points the command at its data by PRP entries and says so in PSDT.
    pub fn set_prp(&mut self, prp: Prp) {
        self.dptr = bytemuck::cast(prp);
        self.set_psdt(Self::PSDT_PRP);
    }

    /// Sets CID and NSID, which every builder leaves at 0.
    #[must_use]
    pub const fn with_ids(mut self, cid: u16, nsid: u32) -> Self {
        self.cid = U16::new(cid);
        self.nsid = U32::new(nsid);
        self
    }
}

/// Fields of Read, Write, Compare, Verify, Write Zeroes and Write Uncorrectable (NVM 3.3).
impl Sqe {
    /// CDW12: Limited Retry.
    pub const CDW12_LR: u32 = 1 << 31;
    /// CDW12: Force Unit Access.
    pub const CDW12_FUA: u32 = 1 << 30;
    /// CDW12: PRINFO, protection information action and checks.
    pub const CDW12_PRINFO: u32 = 0xF << 26;
    /// CDW12 of Write Zeroes: deallocate, if reading back zeroes still holds.
    pub const CDW12_DEAC: u32 = 1 << 25;
    /// CDW12: Storage Tag Check.
    pub const CDW12_STC: u32 = 1 << 24;

    /// A command over `blocks` blocks from `slba`. Panics unless 1 <= blocks <= 65536.
    pub const fn lba_range(opcode: NvmOpcode, nsid: u32, slba: u64, blocks: u32) -> Self {
        assert!(
            blocks >= 1 && blocks <= 0x1_0000,
            "NLB is a zero-based 16-bit count"
        );
        let mut sqe = Self::new(opcode.0);
        sqe.nsid = U32::new(nsid);
        sqe.set_slba(slba);
        sqe.cdw12 = U32::new(blocks - 1);
        sqe
    }

    /// SLBA, the first block, from CDW11 and CDW10.
    pub const fn slba(&self) -> u64 {
        (self.cdw11.get() as u64) << 32 | self.cdw10.get() as u64
    }

    /// Sets SLBA.
    pub const fn set_slba(&mut self, slba: u64) {
        self.cdw10 = U32::new(slba as u32);
        self.cdw11 = U32::new((slba >> 32) as u32);
    }

    /// NLB as it is on the wire, one less than the number of blocks.
    pub const fn nlb_z(&self) -> u16 {
        self.cdw12.get() as u16
    }

    /// How many blocks: 1 to 65536.
    pub const fn blocks(&self) -> u32 {
        self.nlb_z() as u32 + 1
    }

    /// Force Unit Access: the data must be on non-volatile media before the command completes.
    pub const fn fua(&self) -> bool {
        self.cdw12.get() & Self::CDW12_FUA != 0
    }

    /// Limited Retry.
    pub const fn lr(&self) -> bool {
        self.cdw12.get() & Self::CDW12_LR != 0
    }

    /// Protection Information Action, in [`Sqe::prinfo`].
    pub const PRINFO_PRACT: u8 = 0b1000;

    /// PRINFO: PRACT in bit 3, PRCHK in bits 2:0.
    pub const fn prinfo(&self) -> u8 {
        ((self.cdw12.get() & Self::CDW12_PRINFO) >> 26) as u8
    }

    /// Deallocate bit of Write Zeroes.
    pub const fn deac(&self) -> bool {
        self.cdw12.get() & Self::CDW12_DEAC != 0
    }

    /// Sets or clears Force Unit Access.
    pub const fn set_fua(&mut self, fua: bool) {
        let rest = self.cdw12.get() & !Self::CDW12_FUA;
        self.cdw12 = U32::new(if fua { rest | Self::CDW12_FUA } else { rest });
    }
}

/// Abort (Base 5.1.1).
impl Sqe {
    /// An Abort of command `cid` on submission queue `sqid`.
    pub const fn abort(sqid: u16, cid: u16) -> Self {
        let mut sqe = Self::new(AdminOpcode::ABORT.0);
        sqe.cdw10 = U32::new((cid as u32) << 16 | sqid as u32);
        sqe
    }

    /// Abort's SQID: the queue of the command to abort.
    pub const fn abort_sqid(&self) -> u16 {
        self.cdw10.get() as u16
    }

    /// Abort's CID: the command to abort.
    pub const fn abort_cid(&self) -> u16 {
        (self.cdw10.get() >> 16) as u16
    }
}

/// An SGL descriptor (Base 4.3.2): Data Block, Bit Bucket, Segment, Last Segment and Transport Data Block.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Sgl {
    /// Address, or offset into the capsule where the subtype says so.
    pub addr: U64,
    /// Length in bytes.
    pub len: U32,
    /// Reserved.
    pub rsvd12: [u8; 3],
    /// SGL Identifier: type in bits 7:4, subtype in bits 3:0.
    pub kind: u8,
}
layout!(Sgl = 16 { addr @ 0, len @ 8, rsvd12 @ 12, kind @ 15 });

impl Sgl {
    /// Data Block at an address.
    pub const DATA_BLOCK: u8 = 0x00;
    /// Data Block at an offset: the data is in the capsule.
    pub const IN_CAPSULE: u8 = 0x01;
    /// Bit Bucket: data of a read to be thrown away.
    pub const BIT_BUCKET: u8 = 0x10;
    /// Segment of further descriptors.
    pub const SEGMENT: u8 = 0x20;
    /// Segment of further descriptors at an offset in the capsule.
    pub const SEGMENT_OFFSET: u8 = 0x21;
    /// Last Segment of further descriptors.
    pub const LAST_SEGMENT: u8 = 0x30;
    /// Last Segment of further descriptors at an offset in the capsule.
    pub const LAST_SEGMENT_OFFSET: u8 = 0x31;
    /// Keyed Data Block: an RDMA address, length and rkey.
    pub const KEYED: u8 = 0x40;
    /// Keyed Data Block whose key the target invalidates remotely with its response.
    pub const KEYED_INVALIDATE: u8 = 0x4F;
    /// Transport Data Block: the transport moves the data (NVMe/TCP: R2T, H2CData, C2HData).
    pub const TRANSPORT: u8 = 0x5A;

    /// Type: Data Block.
    pub const TYPE_DATA_BLOCK: u8 = 0x0;
    /// Type: Bit Bucket.
    pub const TYPE_BIT_BUCKET: u8 = 0x1;
    /// Type: Segment.
    pub const TYPE_SEGMENT: u8 = 0x2;
    /// Type: Last Segment.
    pub const TYPE_LAST_SEGMENT: u8 = 0x3;
    /// Type: Keyed Data Block.
    pub const TYPE_KEYED: u8 = 0x4;
    /// Type: Transport Data Block.
    pub const TYPE_TRANSPORT: u8 = 0x5;
    /// Type: vendor specific.
    pub const TYPE_VENDOR: u8 = 0xF;

    /// No data: sixteen zero bytes.
    pub const NONE: Self = Self::with(0, 0, 0);

    const fn with(addr: u64, len: u32, kind: u8) -> Self {
        Self {
            addr: U64::new(addr),
            len: U32::new(len),
            rsvd12: [0; 3],
            kind,
        }
    }

    /// `len` bytes at `addr`.
    pub const fn data_block(addr: u64, len: u32) -> Self {
        Self::with(addr, len, Self::DATA_BLOCK)
    }

    /// `len` bytes in the capsule, `offset` behind where its data area starts.
    pub const fn in_capsule(offset: u64, len: u32) -> Self {
        Self::with(offset, len, Self::IN_CAPSULE)
    }

    /// `len` bytes that the transport moves by its own means.
    pub const fn transport(len: u32) -> Self {
        Self::with(0, len, Self::TRANSPORT)
    }

    /// Type, one of the `TYPE_*` constants.
    pub const fn sgl_type(&self) -> u8 {
        self.kind >> 4
    }

    /// Subtype.
    pub const fn subtype(&self) -> u8 {
        self.kind & 0xF
    }

    /// The same bytes, read as a Keyed Data Block.
    pub fn keyed(&self) -> KeyedSgl {
        bytemuck::cast(*self)
    }
}

/// A Keyed SGL Data Block descriptor (Base 4.3.2): memory of the host that RDMA may reach.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct KeyedSgl {
    /// Address in the host's memory.
    pub addr: U64,
    /// Length in bytes.
    pub len: U24,
    /// The rkey.
    pub key: U32,
    /// SGL Identifier: type in bits 7:4, subtype in bits 3:0.
    pub kind: u8,
}
layout!(KeyedSgl = 16 { addr @ 0, len @ 8, key @ 11, kind @ 15 });

impl KeyedSgl {
    /// `len` bytes at `addr` under `key`; `invalidate` asks the target to invalidate the key.
    pub const fn new(addr: u64, len: u32, key: u32, invalidate: bool) -> Self {
        let kind = if invalidate {
            Sgl::KEYED_INVALIDATE
        } else {
            Sgl::KEYED
        };
        Self {
            addr: U64::new(addr),
            len: U24::new(len),
            key: U32::new(key),
            kind,
        }
    }

    /// The host asks for its key to be invalidated by the response.
    pub const fn wants_invalidate(&self) -> bool {
        self.kind == Sgl::KEYED_INVALIDATE
    }
}

impl From<KeyedSgl> for Sgl {
    fn from(keyed: KeyedSgl) -> Self {
        bytemuck::cast(keyed)
    }
}

/// The data pointer of a PCIe command that uses PRPs (Base 4.3.1).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Prp {
    /// First entry; may start inside a page.
    pub prp1: U64,
    /// Second entry, or the address of a list.
    pub prp2: U64,
}
layout!(Prp = 16 { prp1 @ 0, prp2 @ 8 });
