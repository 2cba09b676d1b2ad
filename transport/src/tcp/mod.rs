//! NVMe/TCP: PDU machines, and the sockets under them.

pub mod fabric;
pub mod frame;
pub mod host;
pub mod listen;
pub mod outbox;
pub mod target;
pub mod transfer;
