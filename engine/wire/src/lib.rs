//! NVMe, NVMe over Fabrics, NVMe/TCP, NVMe/RDMA and RoCEv2 structures: bytes to types and back.
//!
//! Every type here is plain bytes with alignment 1, so a slice of a receive buffer can be looked at
//! as the structure it holds, and a structure can be sent as it lies. What the bytes mean to a
//! controller or a host is decided elsewhere: `ferroce-engine` and `ferroce-transport`. Left out on
//! purpose: I/O, state, and any judgement whether a value is acceptable.
//!
//! Section numbers name NVMe Base 2.1, NVM Command Set 1.1, NVMe/TCP Transport 1.0 and
//! NVMe/RDMA Transport 1.0, and in `roce` the InfiniBand Architecture Specification, volume 1.
#![no_std]
#![forbid(unsafe_code)]

#[macro_use]
mod macros;

pub mod cqe;
pub mod discovery;
pub mod fabrics;
pub mod feature;
pub mod identify;
pub mod log;
pub mod num;
pub mod opcode;
mod pcie;
pub mod prop;
pub mod rdma;
pub mod reservation;
pub mod roce;
pub mod sqe;
pub mod status;
pub mod tcp;

pub use cqe::Cqe;
pub use opcode::{AdminOpcode, FabricsType, NvmOpcode};
pub use sqe::{KeyedSgl, Sgl, Sqe};
pub use status::Status;

/// A structure as it lies on the wire. Alignment is 1 for each, so any long enough slice will do.
pub trait Wire: bytemuck::Pod {
    /// Bytes on the wire.
    const LEN: usize = size_of::<Self>();

    /// The structure at the front of `bytes`; None if they are too few.
    fn view(bytes: &[u8]) -> Option<&Self> {
        bytemuck::try_from_bytes(bytes.get(..Self::LEN)?).ok()
    }

    /// As `view`, for writing in place.
    fn view_mut(bytes: &mut [u8]) -> Option<&mut Self> {
        bytemuck::try_from_bytes_mut(bytes.get_mut(..Self::LEN)?).ok()
    }

    /// A copy of the structure at the front of `bytes`; None if they are too few.
    fn read(bytes: &[u8]) -> Option<Self> {
        Self::view(bytes).copied()
    }

    /// The structure as it is sent.
    fn as_bytes(&self) -> &[u8] {
        bytemuck::bytes_of(self)
    }

    /// As `as_bytes`, for filling from a source.
    fn as_bytes_mut(&mut self) -> &mut [u8] {
        bytemuck::bytes_of_mut(self)
    }
}
