//! NVMe over Fabrics transports.
//!
//! A transport carries capsules and data between a host and the engine, as `ferroce_engine::port`
//! states it. What the bytes of a PDU mean is decided by pure machines; sockets and queue pairs are
//! thin shells around them.

pub mod host;
pub mod rdma;
pub mod roce;
pub mod sys;
pub mod tcp;

#[cfg(test)]
#[path = "../tests/common/mod.rs"]
mod common;
