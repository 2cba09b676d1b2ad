//! The host asked for something we refuse: it gets a status, and the connection lives on.

use std::mem::offset_of;

use ferroce_wire::fabrics::ConnectRefusal;
use ferroce_wire::sqe::Sqe;
use ferroce_wire::status::Status;

/// Why a command is refused, and what of it was wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// What the host is told.
    pub status: Status,
    /// Parameter Error Location (Error Information Log Entry): byte of the SQE in bits 7:0, bit of
    /// that byte in bits 10:8; FFFFh if no one field is to blame.
    pub location: u16,
    /// First block concerned, for the error log.
    pub lba: u64,
    /// Dword 0 of the completion.
    pub dw0: u32,
}

impl Refusal {
    /// No one field is to blame.
    pub const NOWHERE: u16 = 0xFFFF;

    /// A refusal that blames no field.
    pub const fn of(status: Status) -> Refusal {
        Refusal {
            status,
            location: Refusal::NOWHERE,
            lba: 0,
            dw0: 0,
        }
    }

    /// A refusal for what stands at this byte of the SQE; trying again would not help (DNR).
    pub const fn at(status: Status, byte: usize) -> Refusal {
        Refusal {
            status: status.dnr(),
            location: byte as u16,
            lba: 0,
            dw0: 0,
        }
    }

    /// Invalid Field in Command, for the field at this byte of the SQE.
    pub const fn field(byte: usize) -> Refusal {
        Refusal::at(Status::INVALID_FIELD, byte)
    }

    /// Invalid Namespace or Format.
    pub const fn namespace() -> Refusal {
        Refusal::at(Status::INVALID_NAMESPACE, offset_of!(Sqe, nsid))
    }

    /// Invalid Command Opcode.
    pub const fn opcode() -> Refusal {
        Refusal::at(Status::INVALID_OPCODE, offset_of!(Sqe, opc))
    }

    /// The data pointer is not what the command needs.
    pub const fn sgl(status: Status) -> Refusal {
        Refusal::at(status, offset_of!(Sqe, dptr))
    }

    /// Connect Invalid Parameters, with what was wrong in dword 0.
    pub const fn connect(what: ConnectRefusal) -> Refusal {
        let status = Status::CONNECT_INVALID_PARAMETERS.dnr();
        Refusal {
            status,
            location: Refusal::NOWHERE,
            lba: 0,
            dw0: what.dw0(),
        }
    }
}
