//! NVMe/RDMA: the binding, written once over a provider of queue pairs.

pub mod fabric;
pub mod host;
pub mod memory;
pub mod provider;
pub mod target;
#[cfg(feature = "verbs")]
pub mod verbs;
