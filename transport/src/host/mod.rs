//! The host's side of NVMe over Fabrics, as a library: discover, connect, read, write.
//!
//! ```no_run
//! use ferroce_transport::host::{Controller, Data, Options};
//! use ferroce_engine::host as nvme;
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let options = Options::default();
//! let at = "127.0.0.1:4420".parse()?;
//! let nqn = ferroce_transport::host::discover(at, &options)?.subsystems().next().unwrap().nqn;
//! let controller = Controller::connect(at, &nqn, &options)?;
//! let namespace = controller.namespaces()?.remove(0);
//! let mut queue = controller.queues(1, 128)?.remove(0);
//! let read = nvme::read(namespace.nsid, 0, 8);
//! queue.submit(read, Data::zeroed(8 * namespace.block_len as usize), 42).expect("it has room");
//! let completion = loop {
//!     if let Some(completion) = queue.poll() {
//!         break completion;
//!     }
//! };
//! assert!(completion.is_success() && completion.user_data == 42);
//! # Ok(())
//! # }
//! ```
//!
//! A [`Controller`] has the admin queue, which a small thread keeps alive, and hands out
//! [`Queue`]s: those are polled, belong to whoever holds them, and allocate nothing per command.
//! Commands are built by `ferroce_engine::host` and by associated functions of `ferroce_wire::Sqe`.

mod controller;
mod data;
mod discovery;
mod error;
mod options;
mod queue;
mod rdma;
mod reconnect;
mod tcp;

pub use controller::{Connector, Controller, Namespace};
pub use data::{Completion, Data, Refused, RefusedWhy};
pub use discovery::{DiscoveryLog, Subsystem, discover};
pub use error::HostError;
pub use options::{HostIdentity, Options, Via};
pub use queue::Queue;
pub use rdma::{RdmaHost, local_address, route_address};
pub use reconnect::Backoff;
