//! How the drives behind namespaces are: what each last said in its SMART / Health log, and what a subsystem says of all of
//! them together.
//!
//! A drive's driver writes its [`Health`] whenever it has asked the drive; cores and monitoring read it. That is no data
//! path: a lock does no harm, and nobody holds it for longer than a copy of 512 bytes.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ferroce_wire::log::SmartLog;
use ferroce_wire::num::U128;

use crate::table::Subsystem;

/// What a drive last said of itself. Namespaces of one drive share it.
#[derive(Debug, Default)]
pub struct Health {
    smart: Mutex<Option<Box<SmartLog>>>,
    /// Critical Warning of it, for who looks often.
    warnings: AtomicU8,
    /// It was given up, and says nothing any more.
    failed: AtomicU8,
}

/// Two are equal if they are one: how a drive feels does not make another drive of it.
impl PartialEq for Health {
    fn eq(&self, other: &Health) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for Health {}

impl Health {
    /// The drive says this.
    pub fn say(&self, smart: &SmartLog) {
        *self.lock() = Some(Box::new(*smart));
        self.warnings
            .store(smart.critical_warning, Ordering::Relaxed);
    }

    /// The drive was given up: what it said last stays, and it is not reliable.
    pub fn fail(&self) {
        self.failed
            .store(SmartLog::WARNING_DEGRADED, Ordering::Relaxed);
    }

    /// Critical Warning, see `SmartLog::WARNING_*`; 0 if the drive has not said anything yet.
    pub fn warnings(&self) -> u8 {
        self.warnings.load(Ordering::Relaxed) | self.failed.load(Ordering::Relaxed)
    }

    /// The log as it was last read; `None` of a drive that has none.
    pub fn smart(&self) -> Option<SmartLog> {
        let mut smart = **self.lock().as_ref()?;
        smart.critical_warning = self.warnings();
        Some(smart)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Box<SmartLog>>> {
        self.smart.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The drives behind a subsystem that tell how they are, each once.
fn drives(subsystem: &Subsystem) -> Vec<&Arc<Health>> {
    let mut drives: Vec<&Arc<Health>> = Vec::new();
    for namespace in subsystem.namespaces.values() {
        if let Some(health) = &namespace.info.health
            && !drives.iter().any(|known| Arc::ptr_eq(known, health))
        {
            drives.push(health);
        }
    }
    drives
}

/// Critical Warning of all drives behind a subsystem.
pub fn warnings(subsystem: &Subsystem) -> u8 {
    // By namespace and not by drive: to look at one twice is cheaper than to remember it.
    let drives = subsystem.namespaces.values();
    drives
        .filter_map(|namespace| Some(namespace.info.health.as_ref()?.warnings()))
        .fold(0, |all, warnings| all | warnings)
}

/// What the drives behind a subsystem say, as of one: the worst of what is a state, the sum of what is counted, and the most
/// of what is a time. `None` if no drive there has such a log. What hosts did is not in it: that they are told of
/// themselves.
pub fn together(subsystem: &Subsystem) -> Option<SmartLog> {
    let mut all: Option<SmartLog> = None;
    for health in drives(subsystem) {
        let Some(one) = health.smart() else {
            continue;
        };
        all = Some(match all {
            None => one,
            Some(all) => worse(&all, &one),
        });
    }
    // One that was given up before it ever said anything counts, too.
    all.map(|smart| SmartLog {
        critical_warning: warnings(subsystem),
        ..smart
    })
}

/// How far the available spare is above its threshold.
fn margin(smart: &SmartLog) -> i16 {
    i16::from(smart.avsp) - i16::from(smart.avspt)
}

fn worse(a: &SmartLog, b: &SmartLog) -> SmartLog {
    let sum = |a: U128, b: U128| U128::new(a.get().saturating_add(b.get()));
    let most = |a: U128, b: U128| U128::new(a.get().max(b.get()));
    // Spare and threshold stay together, of the drive that is nearest to having too little.
    let spare = match (margin(a), a.avsp) <= (margin(b), b.avsp) {
        true => a,
        false => b,
    };
    let mut tsen = a.tsen;
    for (mine, other) in tsen.iter_mut().zip(&b.tsen) {
        mine.set(mine.get().max(other.get()));
    }
    SmartLog {
        critical_warning: a.critical_warning | b.critical_warning,
        ctemp: a.ctemp.get().max(b.ctemp.get()).into(),
        avsp: spare.avsp,
        avspt: spare.avspt,
        pused: a.pused.max(b.pused),
        egcws: a.egcws | b.egcws,
        cbt: most(a.cbt, b.cbt),
        pwrc: most(a.pwrc, b.pwrc),
        poh: most(a.poh, b.poh),
        upl: sum(a.upl, b.upl),
        mdie: sum(a.mdie, b.mdie),
        wctt: a.wctt.get().max(b.wctt.get()).into(),
        cctt: a.cctt.get().max(b.cctt.get()).into(),
        tsen,
        tmt1tc: a.tmt1tc.get().saturating_add(b.tmt1tc.get()).into(),
        tmt2tc: a.tmt2tc.get().saturating_add(b.tmt2tc.get()).into(),
        tttmt1: a.tttmt1.get().max(b.tttmt1.get()).into(),
        tttmt2: a.tttmt2.get().max(b.tttmt2.get()).into(),
        ..SmartLog::default()
    }
}
