//! Asynchronous Event Requests and what they tell (Base 5.1.2).

use ferroce_wire::feature::{AsyncEvent, AsyncEventConfig};
use ferroce_wire::log::{LogId, SmartLog};
use ferroce_wire::status::Status;

use super::{Answer, Outcome, discovery};
use crate::controller::{Controller, Event, Kind};
use crate::health;
use crate::limits;
use crate::refusal::Refusal;
use crate::table::{Subsystem, Table};

/// Notices that an I/O controller can send, as OAES and Asynchronous Event Configuration say it.
///
/// ANA Change Notices come with ANA (Base 8.1.1). None is ever sent: the one group stays optimized,
/// and of namespaces that come and go the namespace notice tells.
const IO_NOTICES: u32 = AsyncEventConfig::NS_ATTRIBUTE | AsyncEventConfig::ANA_CHANGE;

/// Notices that a controller of this kind can send: its OAES.
pub(super) const fn notices(kind: Kind) -> u32 {
    match kind {
        Kind::Io => IO_NOTICES,
        Kind::Discovery => AsyncEventConfig::DISCOVERY_LOG,
    }
}

/// Asynchronous Event Request: it is outstanding now.
pub(super) fn request(controller: &mut Controller, slot: u32) -> Outcome {
    if controller.aers.len() >= limits::AERS_MAX {
        return Err(Refusal::of(Status::ASYNC_EVENT_LIMIT_EXCEEDED.dnr()));
    }
    controller.aers.push_back(slot);
    Ok(Answer::Held)
}

/// The next event to tell, if a request waits for one: the request's slot, and its dword 0. To be
/// called after every change, until it says None.
pub fn next_event(controller: &mut Controller) -> Option<(u32, u32)> {
    let config = AsyncEventConfig(controller.features.async_event_config);
    let events = &mut controller.events;
    let known = [
        (
            &mut events.namespaces,
            AsyncEventConfig::NS_ATTRIBUTE,
            AsyncEvent::NAMESPACE_CHANGED,
        ),
        (
            &mut events.discovery,
            AsyncEventConfig::DISCOVERY_LOG,
            AsyncEvent::DISCOVERY_CHANGED,
        ),
    ];
    for (event, bit, what) in known {
        // A notice that the host turned off meanwhile is kept, for when it is turned on again.
        if *event == Event::Pending && config.has(bit) {
            let slot = controller.aers.pop_front()?;
            *event = Event::Told;
            return Some((slot, what.dw0()));
        }
    }
    let health = &mut events.health;
    let untold = health.warnings & !health.told & config.0 as u8;
    if health.masked || untold == 0 {
        return None;
    }
    let (bits, info) = match untold {
        untold if untold & SmartLog::WARNING_SPARE != 0 => {
            (SmartLog::WARNING_SPARE, AsyncEvent::SMART_SPARE)
        }
        untold if untold & SmartLog::WARNING_TEMPERATURE != 0 => {
            (SmartLog::WARNING_TEMPERATURE, AsyncEvent::SMART_TEMPERATURE)
        }
        // All others are about how far the subsystem can be relied on.
        others => (others, AsyncEvent::SMART_RELIABILITY),
    };
    let slot = controller.aers.pop_front()?;
    health.told |= bits;
    health.masked = true;
    let what = AsyncEvent {
        event_type: AsyncEvent::TYPE_SMART,
        info,
        lid: LogId::SMART,
    };
    Some((slot, what.dw0()))
}

/// Critical Warning as this controller's host is told it: of the drives, and of the temperature by the thresholds that the
/// host set (Base 5.1.25, Temperature Threshold). 0 K is no temperature.
pub(super) fn warnings(controller: &Controller, subsystem: &Subsystem) -> u8 {
    let mut warnings = health::warnings(subsystem);
    let [over, under] = controller.features.temperature;
    if (over, under) != (0xFFFF, 0) {
        let kelvin = health::together(subsystem).map_or(0, |smart| smart.ctemp.get());
        if kelvin != 0 && (kelvin >= over || kelvin <= under) {
            warnings |= SmartLog::WARNING_TEMPERATURE;
        }
    }
    warnings
}

/// Looks how the drives are. Every now and then is enough.
pub fn on_health(controller: &mut Controller, table: &Table) {
    if !controller.is_enabled() || controller.who.kind != Kind::Io {
        return;
    }
    if let Some(subsystem) = table.subsystems.get(&controller.who.subnqn) {
        let warnings = warnings(controller, subsystem);
        let health = &mut controller.events.health;
        health.warnings = warnings;
        health.told &= warnings;
    }
}

/// The table changed: notes what of it concerns this controller's host.
pub fn on_table(controller: &mut Controller, old: &Table, new: &Table) {
    if !controller.is_enabled() {
        // The host has not looked at anything yet that could have changed.
        return;
    }
    match controller.who.kind {
        Kind::Io => namespaces(controller, old, new),
        Kind::Discovery => {
            let config = AsyncEventConfig(controller.features.async_event_config);
            let wanted = config.has(AsyncEventConfig::DISCOVERY_LOG);
            let who = &controller.who;
            if wanted && discovery::entries(old, who, false) != discovery::entries(new, who, false)
            {
                controller.events.discovery.raise();
            }
        }
    }
}

fn namespaces(controller: &mut Controller, old: &Table, new: &Table) {
    let nqn = &controller.who.subnqn;
    let (Some(old), Some(new)) = (old.subsystems.get(nqn), new.subsystems.get(nqn)) else {
        // With the subsystem goes the association.
        return;
    };
    let (old, new) = (&old.namespaces, &new.namespaces);
    let nsids = old.keys().chain(new.keys()).copied();
    let changed: Vec<u32> = nsids
        .filter(|nsid| old.get(nsid) != new.get(nsid))
        .collect();
    if changed.is_empty() {
        return;
    }
    // The list is kept for hosts that only look at it, too.
    controller.changed_namespaces.extend(changed);
    let config = AsyncEventConfig(controller.features.async_event_config);
    if config.has(AsyncEventConfig::NS_ATTRIBUTE) {
        controller.events.namespaces.raise();
    }
}
