//! The admin queue: one command at a time, waited for, and events as they come (Base 5.1.2).

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferroce_engine::host::{self, CidTable};
use ferroce_wire::Wire;
use ferroce_wire::feature::AsyncEvent;
use ferroce_wire::identify::{Cns, Csi, IDENTIFY_LEN};
use ferroce_wire::prop::{Aqa, Cap, PropertyOffset};
use ferroce_wire::sqe::{Prp, Sqe};
use ferroce_wire::status::Status;

use super::ring::{CompletionRing, SubmissionRing, doorbells};
use crate::dma::{DmaMemory, Iommu};
use crate::mmio::Bar;

/// Entries of the admin queue: a page of submissions. Some drives want whole pages (SPDK, NVME_QUIRK_MINIMUM_ADMIN_QUEUE_SIZE).
const ENTRIES: u32 = 64;
/// Where things are in its memory: submissions, completions, data of what is waited for, a log page that may come late.
const COMPLETIONS: usize = 4096;
const DATA: usize = 8192;
const LOG: usize = DATA + IDENTIFY_LEN;
const _: () = assert!(ENTRIES as usize * size_of::<Sqe>() == COMPLETIONS);
/// The most bytes of a log page that are read.
pub const LOG_MAX: usize = 4096;
/// Asynchronous Event Requests that we keep at the drive.
const AERS_MAX: u16 = 2;
/// Aborts that it has at a time, if it takes as many.
const ABORTS_MAX: u16 = 4;
/// How long it waits between two looks, at first and at most.
const LOOK_MIN: Duration = Duration::from_micros(20);
const LOOK_MAX: Duration = Duration::from_millis(2);

/// Why an admin command gave nothing.
#[derive(Debug)]
pub enum AdminError {
    /// The drive refused it.
    Status(Status),
    /// It did not answer in time.
    Timeout,
    /// Its registers read as all ones: it is not there, or not yet again.
    Gone,
    /// It answered a command that nobody gave it.
    Lie,
}

impl std::fmt::Display for AdminError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            AdminError::Status(status) => write!(f, "the drive says {status}"),
            AdminError::Timeout => f.write_str("the drive did not answer in time"),
            AdminError::Gone => f.write_str("the drive is gone: its registers read as all ones"),
            AdminError::Lie => f.write_str("the drive answered a command that nobody gave it"),
        }
    }
}

/// What an admin command was for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Purpose {
    Call,
    Event,
    Log,
    Abort,
}

/// The admin queue of a controller.
#[derive(Debug)]
pub struct Admin {
    bar: Bar,
    memory: Arc<DmaMemory>,
    submissions: SubmissionRing,
    completions: CompletionRing,
    table: CidTable<Purpose>,
    events: Vec<AsyncEvent>,
    /// What came of the log page that was asked for last.
    log: Option<Status>,
    /// Aborts that have no answer.
    aborts: u16,
    timeout: Duration,
    /// A command was not answered in time. Its answer and its data may still come, over those of the next.
    late: bool,
}

impl Admin {
    /// Its memory. The drive knows of it when [`Admin::program`] was called.
    ///
    /// # Errors
    /// If there is no memory.
    pub fn new(bar: Bar, iommu: &Iommu, cap: Cap, timeout: Duration) -> io::Result<Admin> {
        let memory = Arc::new(DmaMemory::map(iommu, LOG + LOG_MAX, None)?);
        let (tail, head) = doorbells(cap, 0);
        Ok(Admin {
            bar,
            submissions: SubmissionRing::new(memory.clone(), 0, ENTRIES, tail),
            completions: CompletionRing::new(memory.clone(), COMPLETIONS, ENTRIES, head),
            memory,
            table: CidTable::new(ENTRIES as u16 - 1),
            events: Vec::new(),
            log: None,
            aborts: 0,
            timeout,
            late: false,
        })
    }

    /// Tells a disabled controller where the queue is; whatever was on it is forgotten.
    pub fn program(&mut self) {
        self.memory.clear(COMPLETIONS, DATA - COMPLETIONS);
        self.submissions.reset();
        self.completions.reset();
        self.table = CidTable::new(ENTRIES as u16 - 1);
        self.events.clear();
        self.log = None;
        self.aborts = 0;
        self.late = false;
        let entries_z = ENTRIES as u16 - 1;
        let aqa = Aqa::default().with_asqs_z(entries_z).with_acqs_z(entries_z);
        self.bar.write32(PropertyOffset::AQA.0, aqa.0);
        self.bar.write64(PropertyOffset::ASQ.0, self.memory.iova(0));
        self.bar
            .write64(PropertyOffset::ACQ.0, self.memory.iova(COMPLETIONS));
    }

    /// True if a command was not answered in time: the controller takes no other before it is reset.
    pub fn is_late(&self) -> bool {
        self.late
    }

    /// One command, waited for. Dword 0 of its completion.
    ///
    /// # Errors
    /// If it failed, or the drive did.
    pub fn call(&mut self, mut sqe: Sqe) -> Result<u32, AdminError> {
        if self.late {
            return Err(AdminError::Timeout);
        }
        let cid = self
            .table
            .insert(Purpose::Call)
            .map_err(|_| AdminError::Timeout)?;
        sqe.cid.set(cid);
        self.submissions.push(&sqe);
        self.submissions.ring(&self.bar);
        let (start, mut pause) = (Instant::now(), LOOK_MIN);
        loop {
            if let Some(cqe) = self.take(Some(cid))? {
                return if cqe.0.is_success() {
                    Ok(cqe.1)
                } else {
                    Err(AdminError::Status(cqe.0))
                };
            }
            let gone = self.bar.read32(PropertyOffset::CSTS.0) == u32::MAX;
            // The CID stays taken: the answer may still come, even of a drive that seemed to be gone.
            if gone || start.elapsed() > self.timeout {
                self.late = true;
                return Err(match gone {
                    true => AdminError::Gone,
                    false => AdminError::Timeout,
                });
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(LOOK_MAX);
        }
    }

    /// Takes completions until that of `wanted`: its status and dword 0.
    fn take(&mut self, wanted: Option<u16>) -> Result<Option<(Status, u32)>, AdminError> {
        let mut found = None;
        while found.is_none()
            && let Some(cqe) = self.completions.poll()
        {
            let cid = cqe.cid.get();
            match self.table.remove(cid) {
                None => return Err(AdminError::Lie),
                Some(Purpose::Event) if cqe.status().is_success() => {
                    self.events.push(AsyncEvent::from_dw0(cqe.dw0.get()));
                }
                // A drive that takes no (more) event requests.
                Some(Purpose::Event) => {}
                Some(Purpose::Log) => self.log = Some(cqe.status()),
                // Dword 0 says whether it was aborted; if not, its age will tell.
                Some(Purpose::Abort) => self.aborts -= 1,
                Some(Purpose::Call) if Some(cid) == wanted => {
                    found = Some((cqe.status(), cqe.dw0.get()));
                }
                // An answer that nobody waits for any more.
                Some(Purpose::Call) => {}
            }
        }
        self.completions.ring(&self.bar);
        Ok(found)
    }

    /// True if it may be given another Abort: it has fewer than `limit` (ACL, Base 5.1.1).
    pub fn may_abort(&self, limit: u16) -> bool {
        self.aborts < limit.min(ABORTS_MAX) && self.table.len() < self.table.depth()
    }

    /// Asks for a command to be aborted, if [`Admin::may_abort`], and does not wait: there are drives that answer only when the
    /// command ends.
    pub fn abort(&mut self, qid: u16, cid: u16) {
        let Ok(own) = self.table.insert(Purpose::Abort) else {
            return;
        };
        self.aborts += 1;
        let mut sqe = Sqe::abort(qid, cid);
        sqe.cid.set(own);
        self.submissions.push(&sqe);
        self.submissions.ring(&self.bar);
    }

    /// Asks for a log page of [`LOG_MAX`] bytes at most, one at a time, and does not wait: drives may be slow to give
    /// one, while they do everything else. [`Admin::log`] tells when it is there. False if the queue is full: nothing was asked.
    #[must_use]
    pub fn ask_log(&mut self, mut sqe: Sqe) -> bool {
        let Ok(cid) = self.table.insert(Purpose::Log) else {
            return false;
        };
        self.memory.clear(LOG, LOG_MAX);
        self.log = None;
        sqe.cid.set(cid);
        sqe.set_prp(Prp {
            prp1: self.memory.iova(LOG).into(),
            prp2: 0.into(),
        });
        self.submissions.push(&sqe);
        self.submissions.ring(&self.bar);
        true
    }

    /// The log page that was asked for, once it is there; behind what was asked for lie zeros.
    ///
    /// # Errors
    /// If the drive refused it, or lies.
    pub fn log(&mut self) -> Result<Option<Box<[u8]>>, AdminError> {
        self.take(None)?;
        match self.log.take() {
            None => Ok(None),
            Some(status) if status.is_success() => {
                let mut page = vec![0; LOG_MAX].into_boxed_slice();
                self.memory.copy_out(LOG, &mut page);
                Ok(Some(page))
            }
            Some(status) => Err(AdminError::Status(status)),
        }
    }

    /// Identify, waited for.
    ///
    /// # Errors
    /// As [`Admin::call`].
    pub fn identify<T: Wire>(&mut self, cns: Cns, nsid: u32) -> Result<Box<T>, AdminError> {
        const { assert!(size_of::<T>() <= IDENTIFY_LEN) };
        self.memory.clear(DATA, IDENTIFY_LEN);
        let mut sqe = Sqe::identify(cns, nsid, Csi::NVM);
        sqe.set_prp(Prp {
            prp1: self.memory.iova(DATA).into(),
            prp2: 0.into(),
        });
        self.call(sqe)?;
        let mut found = Box::new(T::zeroed());
        self.memory.copy_out(DATA, found.as_bytes_mut());
        Ok(found)
    }

    /// Asks the drive to tell what happens; it may have `limit` requests for that.
    pub fn listen(&mut self, limit: u16) {
        for _ in 0..limit.min(AERS_MAX) {
            let Ok(cid) = self.table.insert(Purpose::Event) else {
                break;
            };
            let mut sqe = host::async_event_request();
            sqe.cid.set(cid);
            self.submissions.push(&sqe);
        }
        self.submissions.ring(&self.bar);
    }

    /// What happened since the last look.
    ///
    /// # Errors
    /// If the drive lies.
    pub fn events(&mut self) -> Result<Vec<AsyncEvent>, AdminError> {
        self.take(None)?;
        Ok(std::mem::take(&mut self.events))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dma::Bus;
    use crate::mmio::Registers;
    use ferroce_wire::log::LogId;
    use ferroce_wire::sqe::NSID_ALL;

    /// A drive that answers nothing.
    #[derive(Debug)]
    struct Silent;

    impl Registers for Silent {
        fn read32(&self, _at: u32) -> u32 {
            0
        }

        fn write32(&self, _at: u32, _value: u32) {}
    }

    #[test]
    fn a_full_queue_asks_for_no_log_page() {
        let bar = Bar::Played(Arc::new(Silent));
        let iommu = Iommu::Bus(Arc::new(Bus::default()));
        let mut admin = Admin::new(bar, &iommu, Cap::default(), Duration::ZERO).unwrap();
        let sqe = Sqe::get_log_page(LogId::SMART, NSID_ALL, 0, 512);
        assert!(admin.ask_log(sqe));
        for _ in 0..ENTRIES {
            admin.listen(1);
        }
        assert!(!admin.ask_log(sqe));
    }
}
