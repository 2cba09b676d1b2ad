//! Get Features and Set Features (Base 5.1.11, 5.1.25). Nothing is saveable: a controller here does not
//! outlive its host's association, so there is nobody to save for.

use std::mem::offset_of;

use ferroce_wire::Wire;
use ferroce_wire::feature::{
    Arbitration, CAPABILITY_CHANGEABLE, CAPABILITY_NS_SPECIFIC, EXHID, ErrorRecovery, FeatureId,
    FeatureSelect, HostBehaviorSupport, NumberOfQueues, PowerManagement, TemperatureThreshold,
    Timestamp, WCE, WRITE_ATOMICITY_DN,
};
use ferroce_wire::sqe::{NSID_ALL, Sqe};
use ferroce_wire::status::Status;

use super::{Admin, Answer, Outcome, event};
use crate::controller::{Controller, Features, Kind};
use crate::limits;
use crate::port::Tick;
use crate::refusal::Refusal;

/// A feature and what can be done with it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Feature {
    pub(super) fid: FeatureId,
    /// It has a value for each namespace.
    pub(super) per_namespace: bool,
    /// Set Features may change it.
    pub(super) changeable: bool,
}

const fn changeable(fid: FeatureId) -> Feature {
    Feature {
        fid,
        per_namespace: false,
        changeable: true,
    }
}

const fn fixed(fid: FeatureId) -> Feature {
    Feature {
        fid,
        per_namespace: false,
        changeable: false,
    }
}

/// Features of an I/O controller.
const IO_CONTROLLER: &[Feature] = &[
    changeable(FeatureId::ARBITRATION),
    changeable(FeatureId::POWER_MANAGEMENT),
    changeable(FeatureId::TEMPERATURE_THRESHOLD),
    Feature {
        fid: FeatureId::ERROR_RECOVERY,
        per_namespace: true,
        changeable: true,
    },
    // The drives' caches are the operator's, and other hosts', too.
    fixed(FeatureId::VOLATILE_WRITE_CACHE),
    changeable(FeatureId::NUMBER_OF_QUEUES),
    changeable(FeatureId::WRITE_ATOMICITY),
    changeable(FeatureId::ASYNC_EVENT_CONFIG),
    changeable(FeatureId::TIMESTAMP),
    changeable(FeatureId::KATO),
    changeable(FeatureId::HOST_BEHAVIOR_SUPPORT),
    changeable(FeatureId::IO_COMMAND_SET_PROFILE),
    // Connect has set it.
    fixed(FeatureId::HOST_IDENTIFIER),
];

/// Features of a Discovery controller (Base 3.1.3.3).
const DISCOVERY_CONTROLLER: &[Feature] = &[
    changeable(FeatureId::ASYNC_EVENT_CONFIG),
    changeable(FeatureId::KATO),
];

// Fields of the commands, as Parameter Error Locations.
const AT_FID: usize = offset_of!(Sqe, cdw10);
const AT_SEL: usize = offset_of!(Sqe, cdw10) + 1;
const AT_VALUE: usize = offset_of!(Sqe, cdw11);

/// Features that a controller of this kind has.
pub(super) fn known(kind: Kind) -> &'static [Feature] {
    match kind {
        Kind::Io => IO_CONTROLLER,
        Kind::Discovery => DISCOVERY_CONTROLLER,
    }
}

fn find(kind: Kind, fid: FeatureId) -> Result<Feature, Refusal> {
    let mut known = known(kind).iter().copied();
    known
        .find(|feature| feature.fid == fid)
        .ok_or(Refusal::field(AT_FID))
}

pub(super) fn get(admin: &Admin, sqe: &Sqe) -> Outcome {
    let feature = find(admin.controller.who.kind, sqe.fid())?;
    let nsid = sqe.nsid.get();
    if feature.per_namespace {
        if nsid == NSID_ALL {
            return Err(Refusal::namespace());
        }
        check_namespace(admin, nsid)?;
    }
    match sqe.feature_select() {
        FeatureSelect::CURRENT => {
            let features = &admin.controller.features;
            value(admin, sqe, features, admin.controller.kato_ms)
        }
        // What is not saveable has its default saved (Base 5.1.11).
        FeatureSelect::DEFAULT | FeatureSelect::SAVED => {
            let kato_ms = admin.controller.kato_connect_ms;
            let features = Features::initial(admin.controller.who.kind, kato_ms);
            value(admin, sqe, &features, kato_ms)
        }
        FeatureSelect::SUPPORTED => {
            let mut capabilities = 0;
            if feature.changeable {
                capabilities |= CAPABILITY_CHANGEABLE;
            }
            if feature.per_namespace {
                capabilities |= CAPABILITY_NS_SPECIFIC;
            }
            Ok(Answer::Done(capabilities))
        }
        _ => Err(Refusal::field(AT_SEL)),
    }
}

/// The value of a feature, out of what is kept now or was at the beginning.
fn value(admin: &Admin, sqe: &Sqe, features: &Features, kato_ms: u32) -> Outcome {
    let fid = sqe.fid();
    let word = match fid {
        FeatureId::ARBITRATION => kept(features, fid, ARBITRATION_DEFAULT.0),
        FeatureId::POWER_MANAGEMENT | FeatureId::WRITE_ATOMICITY => kept(features, fid, 0),
        FeatureId::TEMPERATURE_THRESHOLD => {
            let asked = TemperatureThreshold(sqe.cdw11.get());
            // Sensors are the drives' own, and have no thresholds here.
            if asked.tmpsel() != 0 || asked.thsel() > 1 {
                return Err(Refusal::field(AT_VALUE + 2));
            }
            let threshold = features.temperature[usize::from(asked.thsel())];
            asked_only(asked).with_tmpth(threshold).0
        }
        FeatureId::ERROR_RECOVERY => {
            let namespaces = &features.error_recovery;
            namespaces.get(&sqe.nsid.get()).copied().unwrap_or(0)
        }
        FeatureId::VOLATILE_WRITE_CACHE => WCE,
        FeatureId::NUMBER_OF_QUEUES => {
            let queues = features.queues.unwrap_or(limits::IO_QUEUES_MAX);
            NumberOfQueues::new(queues.into()).0
        }
        FeatureId::ASYNC_EVENT_CONFIG => features.async_event_config,
        FeatureId::KATO => kato_ms,
        // The one combination there is.
        FeatureId::IO_COMMAND_SET_PROFILE => 0,
        FeatureId::TIMESTAMP => {
            let timestamp = timestamp(admin, features, sqe.feature_select());
            return Ok(Answer::Data(timestamp.as_bytes().to_vec()));
        }
        FeatureId::HOST_BEHAVIOR_SUPPORT => {
            let [acre, etdas, lbafee, hdisns] = features.behavior;
            let behavior = HostBehaviorSupport {
                acre,
                etdas,
                lbafee,
                hdisns,
                ..HostBehaviorSupport::default()
            };
            return Ok(Answer::Data(behavior.as_bytes().to_vec()));
        }
        FeatureId::HOST_IDENTIFIER => {
            // On fabrics it has 16 bytes (Base 5.1.25).
            if sqe.cdw11.get() & EXHID == 0 {
                return Err(Refusal::field(AT_VALUE));
            }
            return Ok(Answer::Data(admin.controller.who.hostid.to_vec()));
        }
        _ => unreachable!("the list of features and this list are the same"),
    };
    Ok(Answer::Done(word))
}

/// As many commands at a time as there are.
const ARBITRATION_DEFAULT: Arbitration = Arbitration(0).with_ab(0b111);

fn kept(features: &Features, fid: FeatureId, default: u32) -> u32 {
    features.kept.get(&fid.0).copied().unwrap_or(default)
}

/// Which threshold is meant, without its value.
fn asked_only(asked: TemperatureThreshold) -> TemperatureThreshold {
    TemperatureThreshold(0)
        .with_tmpsel(asked.tmpsel())
        .with_thsel(asked.thsel())
}

fn timestamp(admin: &Admin, features: &Features, select: FeatureSelect) -> Timestamp {
    let ms_since = |then: Tick| admin.now.since(then) / 1_000_000;
    match features.timestamp {
        _ if select != FeatureSelect::CURRENT => Timestamp::default(),
        Some((ms, when)) => Timestamp::new(ms + ms_since(when), Timestamp::ORIGIN_SET),
        None => Timestamp::new(ms_since(admin.controller.reset_at), Timestamp::ORIGIN_RESET),
    }
}

pub(super) fn set(admin: &mut Admin, sqe: &Sqe, host_data: Option<&[u8]>) -> Outcome {
    let feature = find(admin.controller.who.kind, sqe.fid())?;
    if sqe.feature_save() {
        return Err(Refusal::at(Status::FEATURE_NOT_SAVEABLE, AT_FID));
    }
    let nsid = sqe.nsid.get();
    if feature.per_namespace {
        if nsid != NSID_ALL {
            check_namespace(admin, nsid)?;
        }
    } else if nsid != 0 && nsid != NSID_ALL {
        return Err(Refusal::at(
            Status::FEATURE_NOT_NAMESPACE_SPECIFIC,
            offset_of!(Sqe, nsid),
        ));
    }
    if !feature.changeable {
        // Set Features of the Host Identifier is out of order on fabrics: Connect gave it.
        let status = match feature.fid {
            FeatureId::HOST_IDENTIFIER => Status::COMMAND_SEQUENCE_ERROR,
            _ => Status::FEATURE_NOT_CHANGEABLE,
        };
        return Err(Refusal::at(status, AT_FID));
    }
    change(admin, sqe, host_data)
}

fn change(admin: &mut Admin, sqe: &Sqe, host_data: Option<&[u8]>) -> Outcome {
    let word = sqe.cdw11.get();
    let fid = sqe.fid();
    let kind = admin.controller.who.kind;
    let features = &mut admin.controller.features;
    match fid {
        FeatureId::ARBITRATION => {
            features.kept.insert(fid.0, word & ARBITRATION_BITS);
        }
        FeatureId::POWER_MANAGEMENT => {
            let power = PowerManagement(word);
            // There is one power state (NPSS).
            if power.ps() != 0 {
                return Err(Refusal::field(AT_VALUE));
            }
            let kept = PowerManagement(0).with_wh(power.wh());
            features.kept.insert(fid.0, kept.0);
        }
        FeatureId::TEMPERATURE_THRESHOLD => {
            let asked = TemperatureThreshold(word);
            let all_or_composite = matches!(asked.tmpsel(), 0 | 0xF);
            if !all_or_composite || asked.thsel() > 1 {
                return Err(Refusal::field(AT_VALUE + 2));
            }
            features.temperature[usize::from(asked.thsel())] = asked.tmpth();
        }
        FeatureId::ERROR_RECOVERY => error_recovery(admin, sqe)?,
        FeatureId::NUMBER_OF_QUEUES => return number_of_queues(admin.controller, word),
        FeatureId::WRITE_ATOMICITY => {
            features.kept.insert(fid.0, word & WRITE_ATOMICITY_DN);
        }
        FeatureId::ASYNC_EVENT_CONFIG => {
            if word & !async_events(kind) != 0 {
                return Err(Refusal::field(AT_VALUE));
            }
            features.async_event_config = word;
        }
        FeatureId::KATO => {
            // Both transports require it, and so it cannot be switched off (Base 3.9.1, NVMe/TCP 3.4).
            if word == 0 {
                return Err(Refusal::at(Status::KEEP_ALIVE_TIMEOUT_INVALID, AT_VALUE));
            }
            admin.controller.set_kato(word);
        }
        FeatureId::IO_COMMAND_SET_PROFILE => {
            // IOCSCI is an index into what Identify CNS 1Ch tells, and only the first is there.
            if word & 0x1FF != 0 {
                return Err(Refusal::at(
                    Status::IO_COMMAND_SET_COMBINATION_REJECTED,
                    AT_VALUE,
                ));
            }
        }
        FeatureId::TIMESTAMP => {
            let Some(data) = host_data else {
                return Ok(Answer::Wants(Timestamp::LEN as u32));
            };
            let given = Timestamp::read(data).ok_or(short())?;
            features.timestamp = Some((given.ms(), admin.now));
        }
        FeatureId::HOST_BEHAVIOR_SUPPORT => {
            let Some(data) = host_data else {
                return Ok(Answer::Wants(HostBehaviorSupport::LEN as u32));
            };
            let given = HostBehaviorSupport::read(data).ok_or(short())?;
            features.behavior = check_behavior(&given)?;
            let acre = features.acre();
            admin.controller.who.set_acre(acre);
        }
        _ => unreachable!("the list of features and this list are the same"),
    }
    Ok(Answer::Done(0))
}

/// Bits of Arbitration that are not reserved.
const ARBITRATION_BITS: u32 = 0xFFFF_FF07;
/// SMART critical warnings that a host may want to hear of.
const SMART_WARNINGS: u32 = 0x3F;

/// What Asynchronous Event Configuration may ask for.
fn async_events(kind: Kind) -> u32 {
    match kind {
        Kind::Io => event::notices(kind) | SMART_WARNINGS,
        Kind::Discovery => event::notices(kind),
    }
}

fn short() -> Refusal {
    Refusal::sgl(Status::DATA_SGL_LENGTH_INVALID)
}

fn check_namespace(admin: &Admin, nsid: u32) -> Result<(), Refusal> {
    if nsid == 0 || nsid > limits::NAMESPACES_MAX {
        return Err(Refusal::namespace());
    }
    if admin.subsystem()?.namespaces.contains_key(&nsid) {
        Ok(())
    } else {
        // A valid NSID that no namespace has (Base 3.2.1.5).
        Err(Refusal::field(offset_of!(Sqe, nsid)))
    }
}

fn error_recovery(admin: &mut Admin, sqe: &Sqe) -> Result<(), Refusal> {
    let asked = ErrorRecovery(sqe.cdw11.get());
    // No namespace reports errors for deallocated blocks (NSFEAT).
    if asked.dulbe() {
        return Err(Refusal::field(AT_VALUE + 2));
    }
    let kept = ErrorRecovery(0).with_tler(asked.tler()).0;
    let nsids: Vec<u32> = match sqe.nsid.get() {
        NSID_ALL => admin.subsystem()?.namespaces.keys().copied().collect(),
        nsid => vec![nsid],
    };
    let namespaces = &mut admin.controller.features.error_recovery;
    namespaces.extend(nsids.into_iter().map(|nsid| (nsid, kept)));
    Ok(())
}

/// Number of Queues: as many as asked for, within reason. A queue is one of each here.
fn number_of_queues(controller: &mut Controller, word: u32) -> Outcome {
    let asked = NumberOfQueues(word);
    if !asked.is_valid() {
        return Err(Refusal::field(AT_VALUE));
    }
    if controller.who.has_io_queues() {
        return Err(Refusal::at(Status::COMMAND_SEQUENCE_ERROR, AT_FID));
    }
    let queues = asked.submission_queues().min(asked.completion_queues());
    let queues = queues.min(limits::IO_QUEUES_MAX.into()) as u16;
    // What was granted stands until the next reset.
    let granted = *controller.features.queues.get_or_insert(queues);
    controller.who.grant_queues(granted);
    Ok(Answer::Done(NumberOfQueues::new(granted.into()).0))
}

/// Each byte is 0 or 1, and what Identify does not offer cannot be enabled: LBA formats beyond 16
/// (CTRATT), Copy descriptor formats (OCFS).
fn check_behavior(given: &HostBehaviorSupport) -> Result<[u8; 4], Refusal> {
    let flags = [given.acre, given.etdas, given.lbafee, given.hdisns];
    if flags.iter().any(|flag| *flag > 1) || given.lbafee != 0 || given.cdfe.get() != 0 {
        return Err(Refusal::of(Status::INVALID_FIELD.dnr()));
    }
    Ok(flags)
}
