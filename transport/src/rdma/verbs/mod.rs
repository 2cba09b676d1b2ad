//! RDMA devices: queue pairs of libibverbs, connections of librdmacm.
//!
//! - `inventory`: what devices there are.
//! - `cm`: connections, on a control thread; making and destroying, on set-up threads.
//! - `listen`: where peers ask for connections.
//! - `device`: a device as all cores share it, and memory registered with it. Regions are registered for the device's
//!   own access alone; a host grants peers what they may reach by memory windows.
//! - `queue`: a queue pair, its completion queue and its windows: the calls of the data path.
//! - `core`: the [`Provider`](super::provider::Provider) of one core, over all of it.
//!
//! This folder is a room where `unsafe` lives: both libraries are C, and a device reads and writes memory by itself. What
//! keeps it sound: a Buf that is posted or granted belongs to the queue pair until its completion, until its key is
//! invalid, or until the queue pair is destroyed; an id, a queue pair and what belongs to it are destroyed by one job,
//! the last one that knows them.
//!
//! Left out on purpose: iWARP; shared receive queues (each queue pair has as many RECVs as its peer may use, so there is
//! no RNR); XRC.
#![allow(unsafe_code)]

mod cm;
mod conn;
mod core;
mod device;
mod inbox;
pub mod inventory;
#[cfg(test)]
mod layout;
mod listen;
mod providers;
mod queue;

pub use cm::{Options, Verbs, VerbsIncoming, none_here};
pub use core::VerbsProvider;
pub use listen::Listener;
pub use providers::link_providers;
