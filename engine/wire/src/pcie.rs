//! Admin commands that only PCIe has (Base 5.2): I/O queues are made by command, not by Connect.

use crate::num::U32;
use crate::opcode::AdminOpcode;
use crate::sqe::{Prp, Sqe};

/// PC: the queue is physically contiguous.
const PC: u32 = 1 << 0;
/// IEN: the completion queue raises interrupts.
const IEN: u32 = 1 << 1;

impl Sqe {
    /// Create I/O Completion Queue: `entries` of them at `addr`, with interrupt `vector` if any.
    pub fn create_io_cq(qid: u16, entries: u32, addr: u64, vector: Option<u16>) -> Self {
        let interrupt = vector.map_or(0, |vector| u32::from(vector) << 16 | IEN);
        let mut sqe = Self::create_queue(AdminOpcode::CREATE_IO_CQ, qid, entries, addr);
        sqe.cdw11 = U32::new(interrupt | PC);
        sqe
    }

    /// Create I/O Submission Queue: `entries` of them at `addr`, answered on completion queue `cqid`.
    pub fn create_io_sq(qid: u16, entries: u32, addr: u64, cqid: u16) -> Self {
        let mut sqe = Self::create_queue(AdminOpcode::CREATE_IO_SQ, qid, entries, addr);
        sqe.cdw11 = U32::new(u32::from(cqid) << 16 | PC);
        sqe
    }

    /// Delete I/O Submission Queue, which must go before its completion queue.
    pub const fn delete_io_sq(qid: u16) -> Self {
        let mut sqe = Self::new(AdminOpcode::DELETE_IO_SQ.0);
        sqe.cdw10 = U32::new(qid as u32);
        sqe
    }

    /// Delete I/O Completion Queue.
    pub const fn delete_io_cq(qid: u16) -> Self {
        let mut sqe = Self::new(AdminOpcode::DELETE_IO_CQ.0);
        sqe.cdw10 = U32::new(qid as u32);
        sqe
    }

    /// QID of the four commands.
    pub const fn queue_qid(&self) -> u16 {
        self.cdw10.get() as u16
    }

    /// QSIZE of the two Create commands: 1 to 65536 entries.
    pub const fn queue_entries(&self) -> u32 {
        (self.cdw10.get() >> 16) + 1
    }

    /// CQID of Create I/O Submission Queue.
    pub const fn queue_cqid(&self) -> u16 {
        (self.cdw11.get() >> 16) as u16
    }

    /// IV of Create I/O Completion Queue, if interrupts are on.
    pub fn queue_vector(&self) -> Option<u16> {
        let cdw11 = self.cdw11.get();
        (cdw11 & IEN != 0).then_some((cdw11 >> 16) as u16)
    }

    /// PC of the two Create commands.
    pub const fn queue_contiguous(&self) -> bool {
        self.cdw11.get() & PC != 0
    }

    fn create_queue(opcode: AdminOpcode, qid: u16, entries: u32, addr: u64) -> Self {
        assert!(
            (2..=0x1_0000).contains(&entries),
            "a queue has 2 to 65536 entries"
        );
        let mut sqe = Self::new(opcode.0);
        sqe.set_prp(Prp {
            prp1: addr.into(),
            prp2: 0.into(),
        });
        sqe.cdw10 = U32::new((entries - 1) << 16 | u32::from(qid));
        sqe
    }
}
