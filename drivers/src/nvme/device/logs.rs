//! What a drive tells of itself: events, and log pages, which the keeper reads one at a time and does not wait for.

use std::time::{Duration, Instant};

use ferroce_wire::Wire;
use ferroce_wire::feature::AsyncEvent;
use ferroce_wire::log::{ErrorInfoEntry, LogId, SmartLog, Warnings};
use ferroce_wire::prop::Vs;
use ferroce_wire::sqe::{NSID_ALL, Sqe};
use ferroce_wire::status::Status;

use super::Keeper;
use crate::nvme::admin::{Admin, AdminError, LOG_MAX};

/// After a reset for a log page that did not come none is asked for, and twice as long each time, but this often at most: from
/// two minutes to 17 hours.
const UNREAD_MAX: u32 = 10;

/// A log page to be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Log {
    lid: LogId,
    /// What its command says beside: [`Keeper::retain`], or 0 if the drive may tell of the next event afterwards.
    cdw10: u32,
}

impl Keeper {
    /// Takes the events that the drive tells, and has their pages read.
    pub(super) fn hear_events(&mut self) {
        let events = match self.call(Admin::events) {
            Ok(events) => events,
            Err(AdminError::Gone) => return,
            Err(why) => return self.reset(&why.to_string()),
        };
        let now = Instant::now();
        for event in events {
            let of_health = event.lid == LogId::SMART;
            // A drive that is hot, or worn, tells so again as soon as it may, thousands of times a second. What it says is read,
            // but it may not before the next reading that is due.
            if of_health && now < self.smart_event_at {
                log::debug!("{}: {}", self.label, said(&event));
                self.held += 1;
                self.want_log(event.lid, self.retain());
                continue;
            }
            if of_health {
                self.smart_event_at = now + self.smart_pause();
            }
            log::warn!("{}: {}", self.label, said(&event));
            // Reading the page is what lets the drive tell of the next such event.
            self.want_log(event.lid, 0);
            self.listen(1);
        }
    }

    fn listen(&mut self, requests: u16) {
        if let Some(admin) = &mut self.admin {
            admin.listen(requests);
        }
    }

    fn smart_pause(&self) -> Duration {
        Duration::from_millis(self.patience.smart_ms.into())
    }

    /// Has the SMART log read, if it is time to and no other page is being read.
    pub(super) fn look_at_health(&mut self) {
        let now = Instant::now();
        if self.asked.is_none() && self.smart_at.is_some_and(|at| at <= now) {
            self.smart_at = Some(now + self.smart_pause());
            match std::mem::take(&mut self.held) {
                0 => self.want_log(LogId::SMART, self.retain()),
                held => {
                    self.smart_event_at = now + self.smart_pause();
                    self.want_log(LogId::SMART, 0);
                    self.listen(held);
                }
            }
        }
    }

    /// Retain Asynchronous Event: events are left to be told, since the host of this command did not hear of any. Before
    /// NVMe 1.3 the bit is reserved, and drives may refuse it.
    fn retain(&self) -> u32 {
        match self.vs.0 >= Vs::V1_3.0 {
            true => Sqe::CDW10_RAE,
            false => 0,
        }
    }

    fn want_log(&mut self, lid: LogId, cdw10: u32) {
        let log = Log { lid, cdw10 };
        if !self.logs.contains(&log) {
            self.logs.push_back(log);
        }
    }

    /// Takes the log page that was asked for, if it is there, and asks for the next.
    pub(super) fn read_logs(&mut self) {
        if let Some((log, since)) = self.asked {
            match self.call(Admin::log) {
                Ok(Some(page)) => self.on_log(log.lid, &page),
                Ok(None) if since.elapsed().as_millis() < self.patience.log_ms.into() => return,
                // That says nothing of its queues, so it is not counted with what does. All I/O waits for it, so it
                // is done ever more rarely.
                Ok(None) => {
                    let ms = self.patience.log_ms;
                    self.unread = (self.unread + 1).min(UNREAD_MAX);
                    self.renew(&format!("no {} within {ms} ms", log.lid));
                    let pause = Duration::from_millis(u64::from(ms) << self.unread);
                    self.logs_at = Instant::now() + pause;
                    return;
                }
                Err(AdminError::Status(status))
                    if log.lid == LogId::SMART && is_lasting(status) =>
                {
                    log::info!("{}: it gives no SMART log: {status}", self.label);
                    self.smart_at = None;
                }
                // The next time may be better.
                Err(AdminError::Status(status)) => {
                    log::debug!("{}: it gives no {}: {status}", self.label, log.lid);
                }
                Err(AdminError::Gone) => return,
                Err(why) => return self.reset(&why.to_string()),
            }
            self.asked = None;
        }
        if Instant::now() < self.logs_at {
            return;
        }
        if let Some(log) = self.logs.front().copied() {
            let len = match log.lid {
                LogId::SMART => size_of::<SmartLog>(),
                LogId::ERROR_INFORMATION => size_of::<ErrorInfoEntry>(),
                _ => LOG_MAX,
            };
            let mut sqe = Sqe::get_log_page(log.lid, NSID_ALL, 0, len as u32);
            sqe.cdw10 = (sqe.cdw10.get() | log.cdw10).into();
            // Else it stays the first, for the next look.
            if self
                .call(|admin| Ok(admin.ask_log(sqe)))
                .is_ok_and(|asked| asked)
            {
                self.logs.pop_front();
                self.asked = Some((log, Instant::now()));
            }
        }
    }

    fn on_log(&mut self, lid: LogId, page: &[u8]) {
        match lid {
            LogId::SMART => {
                self.unread = 0;
                self.on_smart(&SmartLog::read(page).expect("it is shorter"));
            }
            LogId::ERROR_INFORMATION => {
                let newest = ErrorInfoEntry::read(page).expect("it is shorter");
                log::warn!("{}: {}", self.label, told(&newest));
            }
            // Of others it is enough that they were read: the drive may tell of the next event.
            _ => {}
        }
    }

    /// Hosts are told, too.
    fn on_smart(&self, smart: &SmartLog) {
        let new = smart.critical_warning & !self.health.warnings();
        if new != 0 {
            log::warn!("{}: {}", self.label, Warnings(smart.critical_warning));
        } else if smart.critical_warning == 0 && self.health.warnings() != 0 {
            log::info!("{}: it warns of nothing any more", self.label);
        }
        self.health.say(smart);
    }
}

/// True if a drive that answers so has no such log: it would say the same the next time.
fn is_lasting(status: Status) -> bool {
    let lasting = [
        Status::INVALID_LOG_PAGE,
        Status::INVALID_FIELD,
        Status::INVALID_OPCODE,
    ];
    lasting.contains(&status.code())
}

/// An entry of the drive's Error Information log, for ours. Hosts have logs of their own, by their own queues and commands.
fn told(error: &ErrorInfoEntry) -> String {
    format!(
        "error {}: {}, namespace {}, block {}",
        error.count,
        error.status(),
        error.nsid,
        error.lba
    )
}

/// An event, for the log.
fn said(event: &AsyncEvent) -> String {
    let what = match event.event_type {
        AsyncEvent::TYPE_ERROR => "an error",
        AsyncEvent::TYPE_SMART => "its health changed",
        AsyncEvent::TYPE_NOTICE if *event == AsyncEvent::NAMESPACE_CHANGED => {
            "a namespace changed; a new size is seen when the drive is opened again"
        }
        AsyncEvent::TYPE_NOTICE => "a notice",
        _ => "an event",
    };
    format!(
        "{what} (type {}, {:#x}; {})",
        event.event_type, event.info, event.lid
    )
}
