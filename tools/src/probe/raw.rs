//! The floor under NVMe/TCP: the same request and reply bytes over plain sockets, without a protocol. A read is a
//! request of 72 bytes (as CapsuleCmd) and a reply of 24 (as C2HData) with data from wherever in a large memory the
//! request says; a write is a request of 72 bytes with data, and a reply of 24 (as CapsuleResp). Both ends batch:
//! one `recv` brings as many as there are, one `sendmsg` takes as many as fit.
//!
//! The server ([`server`]) idles as a node does: it polls a while, then sleeps. Both can therefore live on one core, each
//! asleep while the other is measured. It also answers for the floor under RoCE ([`datagrams`]), at the UDP port of its TCP
//! port's number.

mod book;
pub mod datagrams;
mod queue;
pub mod server;
mod site;

pub use queue::Queue;
pub use site::Site;

/// Bytes of a request without its data.
pub const REQUEST: usize = 72;
/// Bytes of a reply without its data.
pub const REPLY: usize = 24;
/// The most bytes of data a request moves.
pub const DATA_MAX: u32 = 16 << 20;
/// Both kinds of header start so; the last byte counts versions.
const MAGIC: [u8; 4] = *b"FRW\x02";

/// What a request asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// `len` bytes from `at`.
    Read,
    /// Take the `len` bytes behind the request, for `at`.
    Write,
    /// How much CPU time the server has used, in ns.
    Usage,
}

/// A request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// What to do.
    pub what: What,
    /// Bytes of data.
    pub len: u32,
    /// Where in the memory, in bytes.
    pub at: u64,
}

impl Request {
    /// As it is sent.
    pub fn to_bytes(self) -> [u8; REQUEST] {
        let mut bytes = [0; REQUEST];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4] = self.what as u8;
        bytes[8..12].copy_from_slice(&self.len.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.at.to_le_bytes());
        bytes
    }

    /// As it came; None if it is none, or not within a memory of `size` bytes.
    pub fn of(bytes: &[u8; REQUEST], size: u64) -> Option<Request> {
        let what = match bytes[4] {
            0 => What::Read,
            1 => What::Write,
            2 => What::Usage,
            _ => return None,
        };
        let len = u32::from_le_bytes(bytes[8..12].try_into().expect("four bytes"));
        let at = u64::from_le_bytes(bytes[16..24].try_into().expect("eight bytes"));
        let inside = at
            .checked_add(u64::from(len))
            .is_some_and(|end| end <= size);
        (bytes[..4] == MAGIC && inside && len <= DATA_MAX).then_some(Request { what, len, at })
    }
}

/// A reply's header: a number for [`What::Usage`] and the greeting, else 0.
pub fn reply(value: u64) -> [u8; REPLY] {
    let mut bytes = [0; REPLY];
    bytes[..4].copy_from_slice(&MAGIC);
    bytes[8..16].copy_from_slice(&value.to_le_bytes());
    bytes
}

/// The number in a reply; None if it is no reply.
pub fn value_of(bytes: &[u8; REPLY]) -> Option<u64> {
    let value = u64::from_le_bytes(bytes[8..16].try_into().expect("eight bytes"));
    (bytes[..4] == MAGIC).then_some(value)
}

#[cfg(test)]
mod tests;
