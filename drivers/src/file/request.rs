//! One request to a file, as the system calls it takes: pure logic, the same for io_uring and threads.

use std::sync::atomic::Ordering;

use ferroce_engine::port::{Done, Io, Op};
use ferroce_wire::status::Status;

use super::{FileDrive, MAX_BUFS, MAX_TRANSFER};

/// Bytes that one call of Verify, or of zeros that are written, covers.
pub(super) const SCRATCH_LEN: usize = 128 * 1024;
/// How often one call is repeated that was interrupted or found no memory.
const TRIES: u8 = 16;

/// A request under way.
#[derive(Debug)]
pub(super) struct Request {
    pub io: Io,
    stage: Stage,
    /// First byte in the file.
    start: u64,
    len: u64,
    /// Bytes done.
    moved: u64,
    tries: u8,
}

/// Which call is out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Data,
    Punch,
    ZeroRange,
    Zeros,
    Sync,
}

/// A system call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Call {
    /// Into the Bufs, from byte `skip` of them on.
    Read { at: u64, skip: usize },
    /// The Bufs, from byte `skip` of them on; on media before it is done if `sync`.
    Write { at: u64, skip: usize, sync: bool },
    /// Into memory nobody looks at.
    ReadAway { at: u64, len: usize },
    /// Zeros.
    WriteZeros { at: u64, len: usize, sync: bool },
    /// fdatasync.
    Sync,
    /// fallocate.
    Allocate { mode: i32, at: u64, len: u64 },
}

impl Request {
    /// Starts with a request; the end of it if there is nothing to ask of the kernel.
    pub fn begin(drive: &FileDrive, io: Io) -> Result<Request, Done> {
        let refuse = |io: Io, status| Done {
            tag: io.tag,
            status,
            bufs: io.bufs,
        };
        let (lba, blocks) = match io.op {
            Op::Flush => (0, 0),
            Op::Read { lba, blocks }
            | Op::Verify { lba, blocks }
            | Op::Write { lba, blocks, .. }
            | Op::WriteZeroes { lba, blocks, .. }
            | Op::Deallocate { lba, blocks } => (lba, blocks),
        };
        let end = lba.checked_add(u64::from(blocks));
        if end.is_none_or(|end| end > drive.blocks.load(Ordering::Relaxed)) {
            return Err(refuse(io, Status::LBA_OUT_OF_RANGE.dnr()));
        }
        let changes = matches!(
            io.op,
            Op::Write { .. } | Op::WriteZeroes { .. } | Op::Deallocate { .. }
        );
        if changes && drive.read_only {
            return Err(refuse(io, Status::NAMESPACE_WRITE_PROTECTED.dnr()));
        }
        let stage = match io.op {
            Op::Flush if drive.read_only => return Err(refuse(io, Status::SUCCESS)),
            Op::Flush => Stage::Sync,
            Op::Read { .. } | Op::Write { .. } | Op::Verify { .. } => Stage::Data,
            Op::Deallocate { .. } if !drive.punches.load(Ordering::Relaxed) => {
                return Err(refuse(io, Status::SUCCESS));
            }
            Op::Deallocate { .. } => Stage::Punch,
            Op::WriteZeroes { deallocate, .. } => first_of_zeroes(drive, deallocate),
        };
        let len = u64::from(blocks) * u64::from(drive.block_len);
        if matches!(io.op, Op::Read { .. } | Op::Write { .. }) {
            assert!(io.bufs.len() as u64 == len, "the Bufs are the blocks");
            assert!(
                len <= u64::from(MAX_TRANSFER) && io.bufs.count() <= MAX_BUFS,
                "a request within the limits"
            );
        }
        let request = Request {
            start: lba * u64::from(drive.block_len),
            len,
            moved: 0,
            tries: 0,
            stage,
            io,
        };
        if len == 0 && stage != Stage::Sync {
            return Err(request.end(Status::SUCCESS));
        }
        Ok(request)
    }

    /// What to ask of the kernel now.
    pub fn call(&self) -> Call {
        let at = self.start + self.moved;
        let skip = self.moved as usize;
        let left = self.len - self.moved;
        match (self.stage, self.io.op) {
            (Stage::Data, Op::Read { .. }) => Call::Read { at, skip },
            (Stage::Data, Op::Write { fua, .. }) => Call::Write {
                at,
                skip,
                sync: fua,
            },
            (Stage::Data, _) => Call::ReadAway {
                at,
                len: left.min(SCRATCH_LEN as u64) as usize,
            },
            (Stage::Zeros, op) => Call::WriteZeros {
                at,
                len: left.min(SCRATCH_LEN as u64) as usize,
                sync: wants_media(op),
            },
            (Stage::Punch, _) => Call::Allocate {
                mode: libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
                at: self.start,
                len: self.len,
            },
            (Stage::ZeroRange, _) => Call::Allocate {
                mode: libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE,
                at: self.start,
                len: self.len,
            },
            (Stage::Sync, _) => Call::Sync,
        }
    }

    /// The call came back with a count or an errno. `None` if there is another to make.
    pub fn on_result(&mut self, drive: &FileDrive, result: Result<u32, i32>) -> Option<Status> {
        let op = self.io.op;
        let count = match result {
            Ok(count) => {
                self.tries = 0;
                count
            }
            Err(libc::EINTR | libc::EAGAIN) if self.tries < TRIES => {
                self.tries += 1;
                return None;
            }
            Err(libc::EOPNOTSUPP | libc::ENOSYS) if self.stage == Stage::Punch => {
                drive.punches.store(false, Ordering::Relaxed);
                let Op::WriteZeroes { .. } = op else {
                    // Advice that cannot be followed is still well received.
                    return Some(Status::SUCCESS);
                };
                self.stage = first_of_zeroes(drive, false);
                return None;
            }
            Err(libc::EOPNOTSUPP | libc::ENOSYS) if self.stage == Stage::ZeroRange => {
                drive.zeroes.store(false, Ordering::Relaxed);
                self.stage = Stage::Zeros;
                return None;
            }
            Err(errno) => {
                let syncs = self.stage == Stage::Sync || wants_media(op);
                if syncs && !drive.direct {
                    drive.sync_failed.store(true, Ordering::Relaxed);
                }
                return Some(status_of(op, errno));
            }
        };
        match self.stage {
            Stage::Data | Stage::Zeros => {
                if count == 0 {
                    // The file ends here: somebody cut it.
                    return Some(status_of(op, libc::EIO));
                }
                self.moved += u64::from(count);
                assert!(self.moved <= self.len, "the kernel moves what it was asked");
                if self.moved < self.len {
                    return None;
                }
            }
            Stage::Punch | Stage::ZeroRange => {
                if wants_media(op) {
                    self.stage = Stage::Sync;
                    return None;
                }
            }
            Stage::Sync => {}
        }
        let syncs = self.stage == Stage::Sync || wants_media(op);
        if syncs && drive.sync_failed.load(Ordering::Relaxed) {
            return Some(Status::WRITE_FAULT.dnr());
        }
        Some(Status::SUCCESS)
    }

    /// Ends it.
    pub fn end(self, status: Status) -> Done {
        Done {
            tag: self.io.tag,
            status,
            bufs: self.io.bufs,
        }
    }
}

fn first_of_zeroes(drive: &FileDrive, deallocate: bool) -> Stage {
    if deallocate && drive.punches.load(Ordering::Relaxed) {
        Stage::Punch
    } else if drive.zeroes.load(Ordering::Relaxed) {
        Stage::ZeroRange
    } else {
        Stage::Zeros
    }
}

fn wants_media(op: Op) -> bool {
    matches!(
        op,
        Op::Write { fua: true, .. } | Op::WriteZeroes { fua: true, .. }
    )
}

/// What a host is told of an errno. Without DNR where the same request may do better later.
pub fn status_of(op: Op, errno: i32) -> Status {
    let reads = matches!(op, Op::Read { .. } | Op::Verify { .. });
    match errno {
        libc::ENOSPC | libc::EDQUOT | libc::EFBIG => Status::CAPACITY_EXCEEDED.dnr(),
        libc::EIO | libc::ENODATA | libc::EILSEQ | libc::EBADMSG | libc::EUCLEAN => {
            if reads {
                Status::UNRECOVERED_READ_ERROR
            } else {
                Status::WRITE_FAULT
            }
        }
        libc::EAGAIN
        | libc::EINTR
        | libc::ENOMEM
        | libc::EBUSY
        | libc::ETIMEDOUT
        | libc::ENOBUFS
        | libc::ECANCELED => Status::COMMAND_INTERRUPTED,
        libc::EROFS | libc::EPERM | libc::EACCES | libc::ETXTBSY | libc::EBADF if !reads => {
            Status::NAMESPACE_WRITE_PROTECTED.dnr()
        }
        libc::EPERM | libc::EACCES => Status::ACCESS_DENIED.dnr(),
        libc::EOPNOTSUPP => Status::INVALID_OPCODE.dnr(),
        // A device that is gone (ENODEV, ENXIO), and what should not happen (EINVAL, EFAULT).
        _ => Status::INTERNAL_ERROR.dnr(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errnos_by_what_failed() {
        const READ: Op = Op::Read { lba: 0, blocks: 1 };
        const VERIFY: Op = Op::Verify { lba: 0, blocks: 1 };
        const WRITE: Op = Op::Write {
            lba: 0,
            blocks: 1,
            fua: false,
        };
        for (op, errno, status) in [
            (WRITE, libc::ENOSPC, Status::CAPACITY_EXCEEDED.dnr()),
            (WRITE, libc::EDQUOT, Status::CAPACITY_EXCEEDED.dnr()),
            (WRITE, libc::EFBIG, Status::CAPACITY_EXCEEDED.dnr()),
            (READ, libc::EIO, Status::UNRECOVERED_READ_ERROR),
            (VERIFY, libc::EIO, Status::UNRECOVERED_READ_ERROR),
            (WRITE, libc::EIO, Status::WRITE_FAULT),
            (Op::Flush, libc::EIO, Status::WRITE_FAULT),
            (READ, libc::ENODATA, Status::UNRECOVERED_READ_ERROR),
            (READ, libc::ENOMEM, Status::COMMAND_INTERRUPTED),
            (WRITE, libc::EAGAIN, Status::COMMAND_INTERRUPTED),
            (WRITE, libc::EROFS, Status::NAMESPACE_WRITE_PROTECTED.dnr()),
            (WRITE, libc::EPERM, Status::NAMESPACE_WRITE_PROTECTED.dnr()),
            (READ, libc::EPERM, Status::ACCESS_DENIED.dnr()),
            (WRITE, libc::EOPNOTSUPP, Status::INVALID_OPCODE.dnr()),
            (READ, libc::ENODEV, Status::INTERNAL_ERROR.dnr()),
            (READ, libc::EINVAL, Status::INTERNAL_ERROR.dnr()),
        ] {
            assert_eq!(status_of(op, errno), status, "{op:?} {errno}");
        }
    }
}
