//! What a command carries, and what its completion brings back.

use ferroce_buf::Buf;
use ferroce_wire::cqe::Cqe;
use ferroce_wire::status::Status;

/// The data of a command. It moves in with the command and comes back with its completion: memory
/// that is under way is out of reach, and nothing is allocated or copied to hand it over.
#[derive(Debug, Default)]
#[must_use = "a Buf that is dropped is lost to its pool"]
pub enum Data {
    /// The command has none.
    #[default]
    None,
    /// So many bytes of a read that nobody will look at: they are received, checked by digest if
    /// there is one, and not copied anywhere.
    Discard(u32),
    /// All bytes of a vector: those of a write, or where those of a read go.
    Vec(Vec<u8>),
    /// All bytes in view of a Buf, likewise.
    Buf(Buf),
}

impl Data {
    /// Zeroes, for a read of `len` bytes.
    pub fn zeroed(len: usize) -> Data {
        Data::Vec(vec![0; len])
    }

    /// How many bytes.
    #[inline]
    pub fn len(&self) -> usize {
        match self {
            Data::None => 0,
            Data::Discard(len) => *len as usize,
            Data::Vec(bytes) => bytes.len(),
            Data::Buf(buf) => buf.len(),
        }
    }

    /// True if there is none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes, if there is memory that holds them.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        match self {
            Data::None | Data::Discard(_) => &[],
            Data::Vec(bytes) => bytes,
            Data::Buf(buf) => buf.bytes(),
        }
    }

    /// The bytes, to be written.
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Data::None | Data::Discard(_) => &mut [],
            Data::Vec(bytes) => bytes,
            Data::Buf(buf) => buf.bytes_mut(),
        }
    }

    /// The vector, if it is one; empty otherwise.
    pub fn into_vec(self) -> Vec<u8> {
        match self {
            Data::Vec(bytes) => bytes,
            Data::None | Data::Discard(_) | Data::Buf(_) => Vec::new(),
        }
    }
}

impl From<Vec<u8>> for Data {
    fn from(bytes: Vec<u8>) -> Data {
        Data::Vec(bytes)
    }
}

impl From<Buf> for Data {
    fn from(buf: Buf) -> Data {
        Data::Buf(buf)
    }
}

/// A command was answered, or its queue died before it could be.
#[derive(Debug)]
#[must_use = "it carries the command's data home"]
pub struct Completion {
    /// What [`crate::host::Queue::submit`] was given.
    pub user_data: u64,
    /// The completion as it came. For a command whose queue died, one of our own with
    /// [`Status::HOST_PATHING_ERROR`]: whether it was carried out is not known. For a read whose data
    /// did not match its digest, one with [`Status::TRANSIENT_TRANSPORT_ERROR`].
    pub cqe: Cqe,
    /// The data, filled if the command was a read that succeeded.
    pub data: Data,
}

impl Completion {
    /// The Status field.
    #[inline]
    pub fn status(&self) -> Status {
        self.cqe.status()
    }

    /// The command succeeded.
    #[inline]
    pub fn is_success(&self) -> bool {
        self.cqe.status().is_success()
    }
}

/// A command that was not taken, and its data back.
#[derive(Debug)]
#[must_use = "it carries the command's data home"]
pub struct Refused {
    /// Why.
    pub why: RefusedWhy,
    /// The data.
    pub data: Data,
}

/// Why a command was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RefusedWhy {
    /// As many commands are outstanding as the queue takes: poll first.
    Full,
    /// The queue is dead.
    Dead,
    /// The RDMA device does not know the memory that the Buf is of: [`crate::host::Queue::register`] tells it.
    NotRegistered,
}
