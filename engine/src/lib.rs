//! The NVMe controller as pure logic: no socket, no clock, no device, no `unsafe`.
//!
//! Capsules come from a [`port::Fabric`], requests go to a [`port::Backend`]; both are traits here and
//! implemented elsewhere. Time and randomness are arguments.

pub mod admin;
pub mod command;
pub mod control;
pub mod controller;
pub mod core;
pub mod counters;
pub mod drives;
mod fabrics;
pub mod health;
pub mod host;
mod io;
pub mod limits;
mod line;
pub mod mail;
mod memory;
pub mod phases;
pub mod plant;
pub mod port;
pub mod property;
pub mod queue;
mod queues;
pub mod refusal;
mod shares;
pub mod table;
