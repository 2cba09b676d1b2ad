//! Block devices behind the engine: what implements [`ferroce_engine::port::Backend`].
//!
//! Each kind has a part that belongs to the node ([`RamDrive`], [`FileDrive`], [`NvmeDrive`]), which the control
//! thread makes, describes and resizes, and a part that belongs to one core ([`RamQueue`],
//! [`FileQueue`], [`NvmeQueue`]), which the control thread opens from it and moves to that core.

pub mod dma;
pub mod error;
pub mod fault;
pub mod file;
pub mod mmio;
pub mod nvme;
pub mod pci;
pub mod ram;
pub mod spec;
pub mod vfio;

pub use error::DriveError;
pub use file::{FileConfig, FileDrive, FileQueue, Via};
pub use nvme::{NvmeConfig, NvmeDrive, NvmeQueue};
pub use ram::{RamConfig, RamDrive, RamQueue};
pub use spec::DriveSpec;

use uuid::Uuid;

/// The NGUID that goes with a UUID: as stable, and another number.
fn nguid_of(uuid: [u8; 16]) -> [u8; 16] {
    Uuid::new_v5(&Uuid::from_bytes(uuid), b"nguid").into_bytes()
}
