//! Fabrics commands (Base 6) and NVMe Qualified Names (Base 4.7).

use crate::num::{U16, U32, U64};
use crate::opcode::{AdminOpcode, FabricsType};
use crate::sqe::{Sgl, Sqe};
use bytemuck::{Pod, Zeroable};
use core::fmt;

/// Makes a Fabrics command a view of an SQE and back: both are 64 bytes.
macro_rules! fabrics_command {
    ($T:ident, $fctype:expr) => {
        impl $T {
            /// The command in this SQE, whatever its opcode and type say: check those first.
            pub fn of(sqe: &Sqe) -> &Self {
                bytemuck::cast_ref(sqe)
            }

            /// The command as an SQE.
            pub fn to_sqe(&self) -> Sqe {
                bytemuck::cast(*self)
            }

            /// Opcode, PSDT and FCTYPE set, everything else 0.
            fn blank() -> Self {
                Self {
                    opc: AdminOpcode::FABRICS.0,
                    flags: Sqe::PSDT_SGL << 6,
                    fctype: $fctype.0,
                    ..Self::default()
                }
            }
        }
    };
}

/// Connect (Base 6.3): creates a queue, and with the admin queue the controller.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct ConnectCmd {
    /// Opcode, 7Fh.
    pub opc: u8,
    /// PSDT in bits 7:6.
    pub flags: u8,
    /// Command Identifier.
    pub cid: U16,
    /// Fabrics Command Type, 01h.
    pub fctype: u8,
    /// Reserved.
    pub rsvd5: [u8; 19],
    /// SGL1: where `ConnectData` lies.
    pub sgl1: Sgl,
    /// Record Format, 0.
    pub recfmt: U16,
    /// Queue ID; 0 is the admin queue.
    pub qid: U16,
    /// SQSIZE, zero-based: entries of the submission queue.
    pub sqsize_z: U16,
    /// Connect Attributes, see `CATTR_*`.
    pub cattr: u8,
    /// Reserved.
    pub rsvd47: u8,
    /// Keep Alive Timeout in milliseconds; 0 is none. Admin queue only.
    pub kato_ms: U32,
    /// Reserved.
    pub rsvd52: [u8; 12],
}
layout!(ConnectCmd = 64 { opc @ 0, flags @ 1, cid @ 2, fctype @ 4, rsvd5 @ 5, sgl1 @ 24, recfmt @ 40,
    qid @ 42, sqsize_z @ 44, cattr @ 46, rsvd47 @ 47, kato_ms @ 48, rsvd52 @ 52 });
fabrics_command!(ConnectCmd, FabricsType::CONNECT);

/// CATTR: priority class of the submission queue.
pub const CATTR_PRIORITY: u8 = 0b11;
/// CATTR: disable SQ flow control.
pub const CATTR_NO_SQ_FLOW_CONTROL: u8 = 1 << 2;
/// CATTR: the host supports deletion of individual I/O queues, by Disconnect.
pub const CATTR_IO_QUEUE_DELETION: u8 = 1 << 3;

impl ConnectCmd {
    /// A Connect of queue `qid` with `sqsize_z` + 1 entries.
    pub fn new(qid: u16, sqsize_z: u16, cattr: u8, kato_ms: u32, sgl1: Sgl) -> Self {
        Self {
            qid: U16::new(qid),
            sqsize_z: U16::new(sqsize_z),
            cattr,
            kato_ms: U32::new(kato_ms),
            sgl1,
            ..Self::blank()
        }
    }

    /// Entries of the submission queue: 1 to 65536.
    pub const fn entries(&self) -> u32 {
        self.sqsize_z.get() as u32 + 1
    }

    /// The host asks for a queue without SQ flow control.
    pub const fn no_sq_flow_control(&self) -> bool {
        self.cattr & CATTR_NO_SQ_FLOW_CONTROL != 0
    }
}

/// The data of a Connect (Base 6.3).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct ConnectData {
    /// Host Identifier.
    pub hostid: [u8; 16],
    /// Controller ID asked for; see `CNTLID_*`.
    pub cntlid: U16,
    /// Reserved.
    pub rsvd18: [u8; 238],
    /// NQN of the subsystem.
    pub subnqn: [u8; 256],
    /// NQN of the host.
    pub hostnqn: [u8; 256],
    /// Reserved.
    pub rsvd768: [u8; 256],
}
layout!(ConnectData = 1024 { hostid @ 0, cntlid @ 16, rsvd18 @ 18, subnqn @ 256, hostnqn @ 512, rsvd768 @ 768 });

/// CNTLID in Connect: any controller, chosen by the subsystem (dynamic controller model).
pub const CNTLID_DYNAMIC: u16 = 0xFFFF;
/// CNTLID in Connect: any static controller.
pub const CNTLID_STATIC: u16 = 0xFFFE;
/// Largest CNTLID that may name a controller; above are reserved values.
pub const CNTLID_MAX: u16 = 0xFFEF;

impl ConnectData {
    /// The data of a host that connects to `subnqn`.
    pub fn new(hostid: [u8; 16], cntlid: u16, subnqn: &Nqn, hostnqn: &Nqn) -> Self {
        Self {
            hostid,
            cntlid: U16::new(cntlid),
            subnqn: subnqn.to_field(),
            hostnqn: hostnqn.to_field(),
            ..Self::default()
        }
    }
}

/// Dword 0 of a Connect that ended in Connect Invalid Parameters: which parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectRefusal {
    /// Byte offset into the SQE (IATTR 0).
    Sqe(u16),
    /// Byte offset into `ConnectData` (IATTR 1).
    Data(u16),
}

impl ConnectRefusal {
    /// Offset of QID in the SQE.
    pub const QID: Self = Self::Sqe(core::mem::offset_of!(ConnectCmd, qid) as u16);
    /// Offset of SQSIZE in the SQE.
    pub const SQSIZE: Self = Self::Sqe(core::mem::offset_of!(ConnectCmd, sqsize_z) as u16);
    /// Offset of CATTR in the SQE.
    pub const CATTR: Self = Self::Sqe(core::mem::offset_of!(ConnectCmd, cattr) as u16);
    /// Offset of KATO in the SQE.
    pub const KATO: Self = Self::Sqe(core::mem::offset_of!(ConnectCmd, kato_ms) as u16);
    /// Offset of HOSTID in the data.
    pub const HOSTID: Self = Self::Data(core::mem::offset_of!(ConnectData, hostid) as u16);
    /// Offset of CNTLID in the data.
    pub const CNTLID: Self = Self::Data(core::mem::offset_of!(ConnectData, cntlid) as u16);
    /// Offset of SUBNQN in the data.
    pub const SUBNQN: Self = Self::Data(core::mem::offset_of!(ConnectData, subnqn) as u16);
    /// Offset of HOSTNQN in the data.
    pub const HOSTNQN: Self = Self::Data(core::mem::offset_of!(ConnectData, hostnqn) as u16);

    /// IPO in bits 15:0, IATTR in bit 16.
    pub const fn dw0(self) -> u32 {
        match self {
            Self::Sqe(ipo) => ipo as u32,
            Self::Data(ipo) => 1 << 16 | ipo as u32,
        }
    }

    /// What dword 0 of such a completion says.
    pub const fn from_dw0(dw0: u32) -> Self {
        if dw0 & 1 << 16 == 0 {
            Self::Sqe(dw0 as u16)
        } else {
            Self::Data(dw0 as u16)
        }
    }
}

/// Dword 0 of a Connect that succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectResponse {
    /// The controller that was allocated or joined.
    pub cntlid: u16,
    /// AUTHREQ, see the constants.
    pub authreq: u16,
}

impl ConnectResponse {
    /// AUTHREQ bit 1, ATR: authentication by DH-HMAC-CHAP in this queue is required.
    pub const AUTHREQ_ATR: u16 = 1 << 1;
    /// AUTHREQ bit 2, ASCR: a secure channel, then authentication in this queue, is required.
    pub const AUTHREQ_ASCR: u16 = 1 << 2;

    /// CNTLID in bits 15:0, AUTHREQ in bits 31:16.
    pub const fn dw0(self) -> u32 {
        (self.authreq as u32) << 16 | self.cntlid as u32
    }

    /// What dword 0 of such a completion says.
    pub const fn from_dw0(dw0: u32) -> Self {
        Self {
            cntlid: dw0 as u16,
            authreq: (dw0 >> 16) as u16,
        }
    }
}

/// Property Get (Base 6.5). The value comes back in dwords 1 and 0 of the completion.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct PropertyGet {
    /// Opcode, 7Fh.
    pub opc: u8,
    /// PSDT in bits 7:6.
    pub flags: u8,
    /// Command Identifier.
    pub cid: U16,
    /// Fabrics Command Type, 04h.
    pub fctype: u8,
    /// Reserved.
    pub rsvd5: [u8; 35],
    /// Size of the property in bits 2:0, see `PROPERTY_SIZE_*`.
    pub attrib: u8,
    /// Reserved.
    pub rsvd41: [u8; 3],
    /// Offset of the property, see `prop::PropertyOffset`.
    pub ofst: U32,
    /// Reserved.
    pub rsvd48: [u8; 16],
}
layout!(PropertyGet = 64 { opc @ 0, flags @ 1, cid @ 2, fctype @ 4, rsvd5 @ 5, attrib @ 40, rsvd41 @ 41,
    ofst @ 44, rsvd48 @ 48 });
fabrics_command!(PropertyGet, FabricsType::PROPERTY_GET);

/// ATTRIB: a property of 4 bytes.
pub const PROPERTY_SIZE_4: u8 = 0b000;
/// ATTRIB: a property of 8 bytes.
pub const PROPERTY_SIZE_8: u8 = 0b001;

impl PropertyGet {
    /// A Property Get of the property at `ofst`.
    pub fn new(ofst: u32, attrib: u8) -> Self {
        Self {
            attrib,
            ofst: U32::new(ofst),
            ..Self::blank()
        }
    }
}

/// Property Set (Base 6.6).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct PropertySet {
    /// Opcode, 7Fh.
    pub opc: u8,
    /// PSDT in bits 7:6.
    pub flags: u8,
    /// Command Identifier.
    pub cid: U16,
    /// Fabrics Command Type, 00h.
    pub fctype: u8,
    /// Reserved.
    pub rsvd5: [u8; 35],
    /// Size of the property in bits 2:0, see `PROPERTY_SIZE_*`.
    pub attrib: u8,
    /// Reserved.
    pub rsvd41: [u8; 3],
    /// Offset of the property, see `prop::PropertyOffset`.
    pub ofst: U32,
    /// The new value; a property of 4 bytes is in the low half.
    pub value: U64,
    /// Reserved.
    pub rsvd56: [u8; 8],
}
layout!(PropertySet = 64 { opc @ 0, flags @ 1, cid @ 2, fctype @ 4, rsvd5 @ 5, attrib @ 40, rsvd41 @ 41,
    ofst @ 44, value @ 48, rsvd56 @ 56 });
fabrics_command!(PropertySet, FabricsType::PROPERTY_SET);

impl PropertySet {
    /// A Property Set of the property at `ofst`.
    pub fn new(ofst: u32, attrib: u8, value: u64) -> Self {
        Self {
            attrib,
            ofst: U32::new(ofst),
            value: U64::new(value),
            ..Self::blank()
        }
    }
}

/// Disconnect (Base 6.4): ends one I/O queue.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Disconnect {
    /// Opcode, 7Fh.
    pub opc: u8,
    /// PSDT in bits 7:6.
    pub flags: u8,
    /// Command Identifier.
    pub cid: U16,
    /// Fabrics Command Type, 08h.
    pub fctype: u8,
    /// Reserved.
    pub rsvd5: [u8; 35],
    /// Record Format, 0.
    pub recfmt: U16,
    /// Reserved.
    pub rsvd42: [u8; 22],
}
layout!(Disconnect = 64 { opc @ 0, flags @ 1, cid @ 2, fctype @ 4, rsvd5 @ 5, recfmt @ 40, rsvd42 @ 42 });
fabrics_command!(Disconnect, FabricsType::DISCONNECT);

impl Disconnect {
    /// A Disconnect of the queue it is sent on.
    pub fn new() -> Self {
        Self::blank()
    }
}

/// Authentication Send and Authentication Receive (Base 6.1, 6.2).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct AuthCmd {
    /// Opcode, 7Fh.
    pub opc: u8,
    /// PSDT in bits 7:6.
    pub flags: u8,
    /// Command Identifier.
    pub cid: U16,
    /// Fabrics Command Type, 05h or 06h.
    pub fctype: u8,
    /// Reserved.
    pub rsvd5: [u8; 19],
    /// SGL1: where the message lies.
    pub sgl1: Sgl,
    /// Reserved.
    pub rsvd40: u8,
    /// SP Specific 0, 01h.
    pub spsp0: u8,
    /// SP Specific 1, 01h.
    pub spsp1: u8,
    /// Security Protocol, E9h.
    pub secp: u8,
    /// Transfer Length of a Send, Allocation Length of a Receive, in bytes.
    pub len: U32,
    /// Reserved.
    pub rsvd48: [u8; 16],
}
layout!(AuthCmd = 64 { opc @ 0, flags @ 1, cid @ 2, fctype @ 4, rsvd5 @ 5, sgl1 @ 24, rsvd40 @ 40,
    spsp0 @ 41, spsp1 @ 42, secp @ 43, len @ 44, rsvd48 @ 48 });

impl AuthCmd {
    /// Security Protocol of NVMe in-band authentication.
    pub const SECP: u8 = 0xE9;

    /// The command in this SQE, whatever its opcode and type say: check those first.
    pub fn of(sqe: &Sqe) -> &Self {
        bytemuck::cast_ref(sqe)
    }
}

/// NQN of every discovery subsystem that has no other.
pub const DISCOVERY_NQN: &str = "nqn.2014-08.org.nvmexpress.discovery";
/// What an NQN made of a UUID starts with.
pub const UUID_NQN_PREFIX: &str = "nqn.2014-08.org.nvmexpress:uuid:";

/// An NVMe Qualified Name: 5 to 223 bytes of UTF-8 that start with "nqn.".
///
/// Two names are equal if their bytes are; no letter case is folded (Base 4.7).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nqn {
    // Bytes beyond `len` are 0, so that the derived comparisons are right.
    bytes: [u8; Nqn::LEN_MAX],
    len: u8,
}

/// Why some bytes are no NQN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NqnError {
    /// Longer than 223 bytes, or not terminated.
    TooLong,
    /// Not UTF-8.
    NotUtf8,
    /// Does not start with "nqn." or has nothing behind it.
    NoPrefix,
    /// Has a control character, which would spoil logs and terminals.
    Control,
}

impl Nqn {
    /// Bytes of the longest NQN, its terminating NUL not counted.
    pub const LEN_MAX: usize = 223;

    /// Checks a name given as text.
    pub fn new(name: &str) -> Result<Self, NqnError> {
        if name.len() > Self::LEN_MAX {
            return Err(NqnError::TooLong);
        }
        if name.chars().any(char::is_control) {
            return Err(NqnError::Control);
        }
        if !name.starts_with("nqn.") || name.len() == "nqn.".len() {
            return Err(NqnError::NoPrefix);
        }
        let mut bytes = [0; Self::LEN_MAX];
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        Ok(Self {
            bytes,
            len: name.len() as u8,
        })
    }

    /// Checks a name in a field of a structure; what follows the first NUL does not count.
    pub fn from_field(field: &[u8; 256]) -> Result<Self, NqnError> {
        let len = field
            .iter()
            .position(|&b| b == 0)
            .ok_or(NqnError::TooLong)?;
        let name = core::str::from_utf8(&field[..len]).map_err(|_| NqnError::NotUtf8)?;
        Self::new(name)
    }

    /// A name made of a UUID (Base 4.7), which is in the order of RFC 9562.
    pub fn of_uuid(uuid: &[u8; 16]) -> Self {
        let mut bytes = [0; Self::LEN_MAX];
        let mut len = UUID_NQN_PREFIX.len();
        bytes[..len].copy_from_slice(UUID_NQN_PREFIX.as_bytes());
        for (at, byte) in uuid.iter().enumerate() {
            if matches!(at, 4 | 6 | 8 | 10) {
                bytes[len] = b'-';
                len += 1;
            }
            for digit in [byte >> 4, byte & 0xF] {
                bytes[len] = b"0123456789abcdef"[usize::from(digit)];
                len += 1;
            }
        }
        Self {
            bytes,
            len: len as u8,
        }
    }

    /// The discovery subsystem's name.
    pub fn discovery() -> Self {
        Self::new(DISCOVERY_NQN).expect("the well-known NQN is one")
    }

    /// The name as a NUL-padded field of a structure.
    pub fn to_field(&self) -> [u8; 256] {
        let mut field = [0; 256];
        field[..Self::LEN_MAX].copy_from_slice(&self.bytes);
        field
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes[..usize::from(self.len)])
            .expect("checked when it was made")
    }

    /// This is the well-known discovery NQN.
    pub fn is_discovery(&self) -> bool {
        self.as_str() == DISCOVERY_NQN
    }
}

impl core::str::FromStr for Nqn {
    type Err = NqnError;

    fn from_str(name: &str) -> Result<Self, NqnError> {
        Self::new(name)
    }
}

impl fmt::Display for Nqn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Nqn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for NqnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLong => "an NQN has at most 223 bytes",
            Self::NotUtf8 => "an NQN is UTF-8",
            Self::NoPrefix => {
                "an NQN starts with \"nqn.\", as in nqn.2014-08.org.nvmexpress:uuid:..."
            }
            Self::Control => "an NQN has no control characters",
        })
    }
}

impl core::error::Error for NqnError {}
