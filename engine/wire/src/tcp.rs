//! NVMe/TCP PDUs (NVMe/TCP 3.6.2).
//!
//! Each type is the PDU's header, CH and PSH, without digests, padding or data: those move with the
//! bytes around it and belong to the transport.

use crate::cqe::Cqe;
use crate::num::{U16, U32};
use crate::sqe::Sqe;
use bytemuck::{Pod, Zeroable};

open_set! {
    /// PDU-Type (NVMe/TCP 3.3).
    pub struct PduType(u8);
    IC_REQ = 0x00, "ICReq";
    IC_RESP = 0x01, "ICResp";
    H2C_TERM_REQ = 0x02, "H2CTermReq";
    C2H_TERM_REQ = 0x03, "C2HTermReq";
    CAPSULE_CMD = 0x04, "CapsuleCmd";
    CAPSULE_RESP = 0x05, "CapsuleResp";
    H2C_DATA = 0x06, "H2CData";
    C2H_DATA = 0x07, "C2HData";
    R2T = 0x09, "R2T";
}

impl PduType {
    /// HLEN that a PDU of this type must have; None for a type nobody defined.
    pub const fn hlen(self) -> Option<u8> {
        Some(match self {
            Self::IC_REQ | Self::IC_RESP => 128,
            Self::H2C_TERM_REQ | Self::C2H_TERM_REQ => 24,
            Self::CAPSULE_CMD => 72,
            Self::CAPSULE_RESP => 24,
            Self::H2C_DATA | Self::C2H_DATA | Self::R2T => 24,
            _ => return None,
        })
    }
}

/// FLAGS: a header digest follows the header.
pub const HDGSTF: u8 = 1 << 0;
/// FLAGS: a data digest follows the data.
pub const DDGSTF: u8 = 1 << 1;
/// FLAGS of H2CData and C2HData: the last PDU of its R2T or of its command.
pub const LAST_PDU: u8 = 1 << 2;
/// FLAGS of C2HData: the command succeeded and no CapsuleResp follows.
pub const SUCCESS: u8 = 1 << 3;

/// Bytes of a header or data digest.
pub const DIGEST_LEN: usize = 4;
/// The I/O port IANA assigned to NVMe over Fabrics.
pub const PORT: u16 = 4420;
/// The port IANA assigned to NVMe/TCP discovery.
pub const DISCOVERY_PORT: u16 = 8009;
/// Longest PDO, and so the largest CPDA or HPDA in bytes.
pub const ALIGNMENT_MAX: u32 = 128;
/// Smallest MAXH2CDATA that a controller may report.
pub const MAXH2CDATA_MIN: u32 = 4096;
/// Most bytes of the offending PDU's header that a TermReq carries.
pub const TERM_DATA_MAX: usize = 128;

/// What every PDU starts with (NVMe/TCP 3.6.2.1).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct CommonHeader {
    /// PDU-Type.
    pub type_: PduType,
    /// FLAGS; which bits exist depends on the type.
    pub flags: u8,
    /// HLEN, bytes of CH and PSH.
    pub hlen: u8,
    /// PDO, where the data starts, from the start of the PDU.
    pub pdo: u8,
    /// PLEN, bytes of the whole PDU with digests, padding and data.
    pub plen: U32,
}
layout!(CommonHeader = 8 { type_ @ 0, flags @ 1, hlen @ 2, pdo @ 3, plen @ 4 });

impl CommonHeader {
    /// A header without data and without digests: PLEN is HLEN. Panics for a type without a fixed HLEN.
    pub const fn bare(type_: PduType) -> Self {
        let Some(hlen) = type_.hlen() else {
            panic!("a PDU type we never send")
        };
        Self {
            type_,
            flags: 0,
            hlen,
            pdo: 0,
            plen: U32::new(hlen as u32),
        }
    }

    /// A header digest follows the header.
    pub const fn has_hdgst(&self) -> bool {
        self.flags & HDGSTF != 0
    }

    /// A data digest follows the data.
    pub const fn has_ddgst(&self) -> bool {
        self.flags & DDGSTF != 0
    }

    /// LAST_PDU is set.
    pub const fn is_last(&self) -> bool {
        self.flags & LAST_PDU != 0
    }

    /// SUCCESS is set.
    pub const fn is_success(&self) -> bool {
        self.flags & SUCCESS != 0
    }
}

/// DGST of ICReq and ICResp: header digests.
pub const DGST_HEADER: u8 = 1 << 0;
/// DGST of ICReq and ICResp: data digests.
pub const DGST_DATA: u8 = 1 << 1;
/// PFV, the only PDU format version there is.
pub const PFV_1_0: u16 = 0;

/// ICReq: the host opens a connection (NVMe/TCP 3.6.2.2).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct IcReq {
    /// Common header.
    pub ch: CommonHeader,
    /// PDU Format Version.
    pub pfv: U16,
    /// Host PDU Data Alignment, zero-based dwords, 0 to 31.
    pub hpda: u8,
    /// Digests the host asks for.
    pub dgst: u8,
    /// MAXR2T, zero-based: R2Ts that may be outstanding per command.
    pub maxr2t_z: U32,
    /// Reserved.
    pub rsvd16: [u8; 112],
}
layout!(IcReq = 128 { ch @ 0, pfv @ 8, hpda @ 10, dgst @ 11, maxr2t_z @ 12, rsvd16 @ 16 });

impl IcReq {
    /// The request of a host with these wishes.
    pub fn new(hpda: u8, dgst: u8, maxr2t_z: u32) -> Self {
        Self {
            ch: CommonHeader::bare(PduType::IC_REQ),
            hpda,
            dgst,
            maxr2t_z: U32::new(maxr2t_z),
            ..Self::default()
        }
    }

    /// R2Ts that may be outstanding per command: 1 and up.
    pub const fn maxr2t(&self) -> u64 {
        self.maxr2t_z.get() as u64 + 1
    }
}

/// ICResp: the controller accepts the connection (NVMe/TCP 3.6.2.3).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct IcResp {
    /// Common header.
    pub ch: CommonHeader,
    /// PDU Format Version.
    pub pfv: U16,
    /// Controller PDU Data Alignment, zero-based dwords, 0 to 31.
    pub cpda: u8,
    /// Digests that are on from now.
    pub dgst: u8,
    /// MAXH2CDATA, bytes of data that one H2CData PDU may carry.
    pub maxh2cdata: U32,
    /// Reserved.
    pub rsvd16: [u8; 112],
}
layout!(IcResp = 128 { ch @ 0, pfv @ 8, cpda @ 10, dgst @ 11, maxh2cdata @ 12, rsvd16 @ 16 });

impl IcResp {
    /// The response of a controller with these wishes.
    pub fn new(cpda: u8, dgst: u8, maxh2cdata: u32) -> Self {
        Self {
            ch: CommonHeader::bare(PduType::IC_RESP),
            cpda,
            dgst,
            maxh2cdata: U32::new(maxh2cdata),
            ..Self::default()
        }
    }
}

/// Bytes that HPDA or CPDA ask data to be aligned to: 4 to 128. None above 31, which no peer may send.
pub const fn alignment(pda: u8) -> Option<u32> {
    if pda > 31 {
        None
    } else {
        Some((pda as u32 + 1) * 4)
    }
}

/// CapsuleCmd: a command, its in-capsule data behind it (NVMe/TCP 3.6.2.6).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct CapsuleCmd {
    /// Common header.
    pub ch: CommonHeader,
    /// CCSQE, the command.
    pub sqe: Sqe,
}
layout!(CapsuleCmd = 72 { ch @ 0, sqe @ 8 });

/// CapsuleResp: a completion (NVMe/TCP 3.6.2.7).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct CapsuleResp {
    /// Common header.
    pub ch: CommonHeader,
    /// RCCQE, the completion.
    pub cqe: Cqe,
}
layout!(CapsuleResp = 24 { ch @ 0, cqe @ 8 });

/// H2CData: data the target asked for by an R2T (NVMe/TCP 3.6.2.8).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct H2cData {
    /// Common header.
    pub ch: CommonHeader,
    /// CCCID, the command's CID.
    pub cccid: U16,
    /// TTAG of the R2T this answers. Off the wire: no index before it was checked.
    pub ttag: U16,
    /// DATAO, where this data lies in the command's, in bytes.
    pub datao: U32,
    /// DATAL, bytes of data in this PDU.
    pub datal: U32,
    /// Reserved.
    pub rsvd20: [u8; 4],
}
layout!(H2cData = 24 { ch @ 0, cccid @ 8, ttag @ 10, datao @ 12, datal @ 16, rsvd20 @ 20 });

/// C2HData: data of a read (NVMe/TCP 3.6.2.9).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct C2hData {
    /// Common header.
    pub ch: CommonHeader,
    /// CCCID, the command's CID.
    pub cccid: U16,
    /// Reserved: where H2CData has TTAG.
    pub rsvd10: [u8; 2],
    /// DATAO, where this data lies in the command's, in bytes.
    pub datao: U32,
    /// DATAL, bytes of data in this PDU.
    pub datal: U32,
    /// Reserved.
    pub rsvd20: [u8; 4],
}
layout!(C2hData = 24 { ch @ 0, cccid @ 8, rsvd10 @ 10, datao @ 12, datal @ 16, rsvd20 @ 20 });

/// R2T: the target asks for data of a write (NVMe/TCP 3.6.2.10).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct R2t {
    /// Common header.
    pub ch: CommonHeader,
    /// CCCID, the command's CID.
    pub cccid: U16,
    /// TTAG, the target's number for this transfer.
    pub ttag: U16,
    /// R2TO, the first byte wanted.
    pub r2to: U32,
    /// R2TL, bytes wanted.
    pub r2tl: U32,
    /// Reserved.
    pub rsvd20: [u8; 4],
}
layout!(R2t = 24 { ch @ 0, cccid @ 8, ttag @ 10, r2to @ 12, r2tl @ 16, rsvd20 @ 20 });

/// H2CTermReq and C2HTermReq (NVMe/TCP 3.6.2.4, 3.6.2.5): FES in bytes 9:8, FEI in bytes 13:10.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct TermReq {
    /// Common header.
    pub ch: CommonHeader,
    /// Fatal Error Status, see `Fes`.
    pub fes: U16,
    /// Fatal Error Information: the offset of the bad field, or the digest that was received.
    pub fei: U32,
    /// Reserved.
    pub rsvd14: [u8; 10],
}
layout!(TermReq = 24 { ch @ 0, fes @ 8, fei @ 10, rsvd14 @ 14 });

impl TermReq {
    /// A TermReq of `type_`, followed by `data_len` bytes of the offending PDU's header.
    pub fn new(type_: PduType, fes: Fes, fei: u32, data_len: usize) -> Self {
        assert!(data_len <= TERM_DATA_MAX);
        let mut ch = CommonHeader::bare(type_);
        ch.plen = U32::new(u32::from(ch.hlen) + data_len as u32);
        Self {
            ch,
            fes: U16::new(fes.0),
            fei: U32::new(fei),
            rsvd14: [0; 10],
        }
    }

    /// FES, with its name.
    pub const fn fes(&self) -> Fes {
        Fes(self.fes.get())
    }
}

open_set! {
    /// Fatal Error Status. 05h has a name for each direction, see the constants below.
    pub struct Fes(u16);
    INVALID_PDU_HEADER_FIELD = 0x01, "Invalid PDU Header Field";
    PDU_SEQUENCE_ERROR = 0x02, "PDU Sequence Error";
    HEADER_DIGEST_ERROR = 0x03, "Header Digest Error";
    DATA_TRANSFER_OUT_OF_RANGE = 0x04, "Data Transfer Out of Range";
    LIMIT_EXCEEDED = 0x05, "Data Transfer Limit Exceeded or R2T Limit Exceeded";
    UNSUPPORTED_PARAMETER = 0x06, "Unsupported Parameter";
}

impl Fes {
    /// 05h from the controller: the host sent more than MAXH2CDATA in one PDU.
    pub const DATA_TRANSFER_LIMIT_EXCEEDED: Self = Self::LIMIT_EXCEEDED;
    /// 05h from the host: the controller sent more R2Ts than MAXR2T allows.
    pub const R2T_LIMIT_EXCEEDED: Self = Self::LIMIT_EXCEEDED;
}
