//! NVMe drives by our own driver, in user space.
//!
//! [`ring`] is the two rings of a queue, [`queue`] one core's queue and its commands, [`admin`] the
//! admin queue, [`device`] the controller: brought up, watched, reset, shut down. A drive of the node is one
//! namespace, [`NvmeDrive`]; those of one controller share it, and a core's queue at it. Who has no queue is the [`guest`]
//! of one that is there. [`quirks`] is what single drives want.
//!
//! Who may touch what: a core's queue stores to its rings and two doorbells, and nothing else. Everything
//! slow (admin commands, aborts, resets) is done by the controller's keeper, a thread of its own, and the
//! two talk through the few atomics of [`queue::End`].
//!
//! Left out on purpose: metadata, SGLs (a Buf is one run of pages), the controller's memory buffer, shadow
//! doorbells.

pub mod admin;
pub mod device;
pub mod guest;
pub mod queue;
pub mod quirks;
pub mod ring;

pub use device::{Controller, NvmeConfig, NvmeDrive, Patience, Seat, Seated, Signals};
pub use guest::NvmeQueue;
pub use quirks::PciId;
