//! NVMe/RDMA: the binding, written once over a provider of queue pairs.

pub mod provider;
