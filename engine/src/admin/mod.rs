//! Admin commands of a fabrics controller (NVMe Base 5), as functions of what the controller knows.
//!
//! Fabrics commands are elsewhere (`fabrics.rs`, `property.rs`); so is the data's way to the host.
//! Left out on purpose: namespace management, firmware, format, security, sanitize and everything
//! else that Identify Controller's OACS would have to claim.

mod discovery;
mod event;
mod feature;
mod identify;
mod log;

use std::mem::offset_of;

use ferroce_wire::opcode::{AdminOpcode, NvmOpcode};
use ferroce_wire::sqe::{Sgl, Sqe};
use ferroce_wire::status::Status;

use crate::controller::{Controller, Kind};
use crate::limits;
use crate::port::Tick;
use crate::refusal::Refusal;
use crate::table::{Subsystem, Table, Transport};

pub use event::{next_event, on_health, on_table};
pub use identify::RETRY_DELAYS_100_MS;

/// What is true of the node, whichever controller is asked.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Firmware revision (FR): ASCII, at most 8 bytes count.
    pub firmware: String,
    /// When the node started, for Power On Hours.
    pub started: Tick,
    /// The most that a command moves, as a power of two of 4 KiB, if that is to be less than [`limits::MDTS`].
    pub mdts: Option<u8>,
}

impl Facts {
    /// MDTS as reported.
    pub fn mdts(&self) -> u8 {
        self.mdts.unwrap_or(limits::MDTS).min(limits::MDTS)
    }

    /// The same in bytes.
    pub fn transfer_max(&self) -> u32 {
        4096 << self.mdts()
    }
}

/// Everything an admin command may look at.
#[derive(Debug)]
pub struct Admin<'a> {
    /// The controller it was sent to.
    pub controller: &'a mut Controller,
    /// What the node serves.
    pub table: &'a Table,
    /// The time.
    pub now: Tick,
    /// Milliseconds since 1970 at `now`.
    pub wall_ms: u64,
    /// The node.
    pub facts: &'a Facts,
}

/// What becomes of an admin or Fabrics command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// Success, with this dword 0.
    Done(u32),
    /// Success, with this in dwords 1 and 0.
    Wide(u64),
    /// Data for the host, then success. Never more than the command has room for; less where what
    /// was asked for ends.
    Data(Vec<u8>),
    /// The same of a log page: `len` bytes, which are the data and zeros behind it.
    Page {
        /// The page, from the offset asked for on.
        data: Vec<u8>,
        /// Bytes asked for, at least as many as the data has.
        len: u32,
    },
    /// The command needs this many bytes from the host; it is to be executed again with them.
    Wants(u32),
    /// Asynchronous Event Request: it stays outstanding, its slot is in the controller's `aers`.
    Held,
    /// Refused.
    Refused(Refusal),
}

type Outcome = Result<Answer, Refusal>;

/// Admin commands of an I/O controller, Fabrics aside.
const IO_CONTROLLER: &[AdminOpcode] = &[
    AdminOpcode::GET_LOG_PAGE,
    AdminOpcode::IDENTIFY,
    AdminOpcode::ABORT,
    AdminOpcode::SET_FEATURES,
    AdminOpcode::GET_FEATURES,
    AdminOpcode::ASYNC_EVENT_REQUEST,
    AdminOpcode::KEEP_ALIVE,
];

/// The same of a Discovery controller, which may have all of these (Base 3.1.3.3).
const DISCOVERY_CONTROLLER: &[AdminOpcode] = IO_CONTROLLER;

/// I/O commands of the NVM Command Set, as `io.rs` executes them.
const IO_COMMANDS: &[NvmOpcode] = &[
    NvmOpcode::FLUSH,
    NvmOpcode::WRITE,
    NvmOpcode::READ,
    NvmOpcode::COMPARE,
    NvmOpcode::WRITE_ZEROES,
    NvmOpcode::DSM,
    NvmOpcode::VERIFY,
];

/// Executes an admin command. `slot` names it if it stays outstanding; `host_data` is what an earlier
/// [`Answer::Wants`] asked for.
pub fn execute(admin: &mut Admin, sqe: &Sqe, slot: u32, host_data: Option<&[u8]>) -> Answer {
    let transport = admin.controller.who.transport;
    let answer = match dispatch(admin, sqe, slot, host_data) {
        Ok(Answer::Data(data)) => {
            check_room(sqe, transport, data.len()).map(|()| Answer::Data(data))
        }
        answer => answer,
    };
    answer.unwrap_or_else(Answer::Refused)
}

fn dispatch(admin: &mut Admin, sqe: &Sqe, slot: u32, host_data: Option<&[u8]>) -> Outcome {
    if !admin.controller.serves() {
        // Only Fabrics commands work on a controller that is not ready, in reset (Base 3.5), or shut down (Base 3.6.2).
        return Err(Refusal::of(Status::COMMAND_SEQUENCE_ERROR.dnr()));
    }
    let opcode = sqe.admin_opcode();
    if !commands(admin.controller.who.kind).contains(&opcode) {
        return Err(Refusal::opcode());
    }
    if sqe.fuse() != Sqe::FUSE_NORMAL {
        return Err(Refusal::field(offset_of!(Sqe, flags)));
    }
    match opcode {
        AdminOpcode::GET_LOG_PAGE => log::get(admin, sqe),
        AdminOpcode::IDENTIFY => identify::execute(admin, sqe),
        AdminOpcode::ABORT => abort(sqe),
        AdminOpcode::SET_FEATURES => feature::set(admin, sqe, host_data),
        AdminOpcode::GET_FEATURES => feature::get(admin, sqe),
        AdminOpcode::ASYNC_EVENT_REQUEST => event::request(admin.controller, slot),
        // That it came is what it says; the queue has noted that already.
        AdminOpcode::KEEP_ALIVE => Ok(Answer::Done(0)),
        _ => unreachable!("the list of commands and this list are the same"),
    }
}

/// Admin commands that a controller of this kind executes.
fn commands(kind: Kind) -> &'static [AdminOpcode] {
    match kind {
        Kind::Io => IO_CONTROLLER,
        Kind::Discovery => DISCOVERY_CONTROLLER,
    }
}

/// Data for the host needs a place there: an SGL of a kind that fabrics have for it, long enough.
fn check_room(sqe: &Sqe, transport: Transport, len: usize) -> Result<(), Refusal> {
    if sqe.psdt() != Sqe::PSDT_SGL {
        return Err(Refusal::field(offset_of!(Sqe, flags)));
    }
    let room = match transport.data_len(&sqe.dptr) {
        Some(room) if sqe.dptr.kind != Sgl::IN_CAPSULE => room,
        _ => return Err(Refusal::sgl(Status::SGL_TYPE_INVALID)),
    };
    if len > room as usize {
        return Err(Refusal::sgl(Status::DATA_SGL_LENGTH_INVALID));
    }
    Ok(())
}

/// Abort (Base 5.1.1). Dword 0 bit 0 says that the command was not aborted; whoever has the commands
/// clears it if one was. An Abort is over at once, so ACL cannot be exceeded.
fn abort(sqe: &Sqe) -> Outcome {
    if sqe.abort_sqid() > limits::IO_QUEUES_MAX {
        return Err(Refusal::field(offset_of!(Sqe, cdw10)));
    }
    Ok(Answer::Done(1))
}

impl Admin<'_> {
    /// The subsystem of an I/O controller.
    fn subsystem(&self) -> Result<&Subsystem, Refusal> {
        let subsystem = self.table.subsystems.get(&self.controller.who.subnqn);
        // It was removed, and this association is about to end.
        let gone = Refusal::of(Status::INTERNAL_ERROR);
        subsystem.map(AsRef::as_ref).ok_or(gone)
    }
}

#[cfg(test)]
mod tests;
