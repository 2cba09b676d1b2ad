//! RDMA devices: queue pairs of libibverbs, connections of librdmacm.
//!
//! This folder is a room where `unsafe` lives: both libraries are C, and a device reads and writes memory by itself.
#![allow(unsafe_code)]

pub mod inventory;
#[cfg(test)]
mod layout;
