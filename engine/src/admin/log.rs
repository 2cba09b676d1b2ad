//! Get Log Page (Base 5.1.12).

use std::mem::offset_of;

use ferroce_wire::Wire;
use ferroce_wire::identify::{Csi, NamespaceList, set_ascii};
use ferroce_wire::log::{
    ANA_LSP_RGO, AnaGroup, AnaHeader, AnaState, CommandEffectsBits, CommandsSupportedAndEffects,
    ErrorInfoEntry, FeatureEffectBits, FeatureEffects, FirmwareSlotLog, LidEffectsBits, LogId,
    SCOPE_CONTROLLER, SCOPE_NAMESPACE, SmartLog, SupportedLogPages,
};
use ferroce_wire::num::U32;
use ferroce_wire::opcode::NvmOpcode;
use ferroce_wire::prop::Cc;
use ferroce_wire::sqe::{NSID_ALL, Sqe};
use ferroce_wire::status::Status;

use super::identify::ANA_GROUP;
use super::{Admin, Answer, IO_COMMANDS, Outcome, check_room, commands, discovery, event, feature};
use crate::controller::{Controller, Event, Kind};
use crate::health;
use crate::limits;
use crate::refusal::Refusal;

/// Log pages of an I/O controller.
const IO_CONTROLLER: &[LogId] = &[
    LogId::SUPPORTED_LOG_PAGES,
    LogId::ERROR_INFORMATION,
    LogId::SMART,
    LogId::FIRMWARE_SLOT,
    LogId::CHANGED_NAMESPACES,
    LogId::COMMAND_EFFECTS,
    LogId::ANA,
    LogId::FEATURE_EFFECTS,
    // Comes with page 00h (LPA bit 5), and says that there is no management interface.
    LogId::MI_COMMAND_EFFECTS,
];

/// Log pages of a Discovery controller.
const DISCOVERY_CONTROLLER: &[LogId] = &[
    LogId::SUPPORTED_LOG_PAGES,
    LogId::ERROR_INFORMATION,
    LogId::COMMAND_EFFECTS,
    LogId::FEATURE_EFFECTS,
    LogId::MI_COMMAND_EFFECTS,
    LogId::DISCOVERY,
];

// Fields of the command, as Parameter Error Locations.
const AT_LID: usize = offset_of!(Sqe, cdw10);
const AT_NUMD: usize = offset_of!(Sqe, cdw10) + 2;
const AT_OFFSET: usize = offset_of!(Sqe, cdw12);
const AT_OT: usize =
    ErrorInfoEntry::parameter_location(offset_of!(Sqe, cdw14) as u8 + 2, 7) as usize;
const AT_CSI: usize = offset_of!(Sqe, cdw14) + 3;

pub(super) fn get(admin: &mut Admin, sqe: &Sqe) -> Outcome {
    let lid = sqe.lid();
    if !pages(admin.controller.who.kind).contains(&lid) {
        return Err(Refusal::at(Status::INVALID_LOG_PAGE, AT_LID));
    }
    // All pages here are about the controller or the subsystem; LPA claims none per namespace.
    if sqe.nsid.get() != 0 && sqe.nsid.get() != NSID_ALL {
        return Err(Refusal::field(offset_of!(Sqe, nsid)));
    }
    if sqe.log_offset_is_index() {
        return Err(Refusal::field(AT_OT));
    }
    if !sqe.log_offset().is_multiple_of(4) {
        return Err(Refusal::field(AT_OFFSET));
    }
    if sqe.log_len() > u64::from(admin.facts.transfer_max()) {
        return Err(Refusal::field(AT_NUMD));
    }
    let page = page(admin, sqe, lid)?;
    // An offset behind the end is an error (Base 5.1.12); the end itself is not.
    let offset = usize::try_from(sqe.log_offset()).unwrap_or(usize::MAX);
    let rest = page.get(offset..).ok_or(Refusal::field(AT_OFFSET))?;
    let asked = sqe.log_len() as usize;
    let data = rest[..rest.len().min(asked)].to_vec();
    let to_the_end = asked >= rest.len();
    // A page that has no room at the host was not read.
    check_room(sqe, admin.controller.who.transport, asked)?;
    if !sqe.rae() {
        was_read(admin.controller, lid, to_the_end);
    }
    // What lies behind the end is undefined (Base 5.1.12), but it is part of the transfer.
    let len = asked as u32;
    Ok(Answer::Page { data, len })
}

/// Log pages that a controller of this kind has.
fn pages(kind: Kind) -> &'static [LogId] {
    match kind {
        Kind::Io => IO_CONTROLLER,
        Kind::Discovery => DISCOVERY_CONTROLLER,
    }
}

fn page(admin: &Admin, sqe: &Sqe, lid: LogId) -> Result<Vec<u8>, Refusal> {
    let who = &admin.controller.who;
    Ok(match lid {
        LogId::SUPPORTED_LOG_PAGES => supported_pages(who.kind).as_bytes().to_vec(),
        LogId::ERROR_INFORMATION => errors(admin.controller),
        LogId::SMART => smart(admin).as_bytes().to_vec(),
        LogId::FIRMWARE_SLOT => firmware(admin).as_bytes().to_vec(),
        LogId::CHANGED_NAMESPACES => changed_namespaces(admin.controller),
        LogId::COMMAND_EFFECTS => command_effects(admin.controller, sqe)?.as_bytes().to_vec(),
        LogId::ANA => ana(admin, sqe.lsp() & ANA_LSP_RGO != 0)?,
        LogId::FEATURE_EFFECTS => feature_effects(who.kind).as_bytes().to_vec(),
        LogId::MI_COMMAND_EFFECTS => vec![0; size_of::<FeatureEffects>()],
        LogId::DISCOVERY => discovery::page(admin.table, who, sqe.lsp()),
        _ => unreachable!("the list of pages and this list are the same"),
    })
}

/// A page was read with RAE cleared: its events may be told again, and the list of changed
/// namespaces begins anew once it was read to its end.
fn was_read(controller: &mut Controller, lid: LogId, to_the_end: bool) {
    match lid {
        LogId::CHANGED_NAMESPACES => {
            controller.events.namespaces = Event::Idle;
            if to_the_end {
                controller.changed_namespaces.clear();
            }
        }
        LogId::DISCOVERY => controller.events.discovery = Event::Idle,
        LogId::SMART => controller.events.health.masked = false,
        _ => {}
    }
}

fn supported_pages(kind: Kind) -> SupportedLogPages {
    let mut page = SupportedLogPages::default();
    for lid in pages(kind) {
        let mut effects = LidEffectsBits(0).with_lsupp(true);
        if *lid == LogId::DISCOVERY {
            effects = effects.with_lidsp(discovery::LSP_SUPPORTED);
        }
        page.lids[usize::from(lid.0)] = effects.into();
    }
    page
}

/// Error Information: as many entries as ELPE says, those without an error all 0.
fn errors(controller: &Controller) -> Vec<u8> {
    // A poisoned lock would mean that a core panicked, which ends the process.
    let errors = controller.who.errors.lock();
    let errors = errors.expect("no panic while it is held");
    let mut page = Vec::with_capacity(limits::ERROR_LOG_ENTRIES * ErrorInfoEntry::LEN);
    for entry in &errors.entries {
        page.extend_from_slice(entry.as_bytes());
    }
    page.resize(limits::ERROR_LOG_ENTRIES * ErrorInfoEntry::LEN, 0);
    page
}

/// SMART / Health Information: how the drives are, and what this host did. Without a drive that has such a log there is no
/// sensor, and 0 K stands for "no temperature".
fn smart(admin: &Admin) -> SmartLog {
    let who = &admin.controller.who;
    let usage = who.usage();
    let subsystem = admin.subsystem().ok();
    let drives = subsystem.and_then(health::together);
    let hours = admin.now.since(admin.facts.started) / (3600 * 1_000_000_000);
    let known = drives.unwrap_or(SmartLog {
        avsp: 100,
        poh: u128::from(hours).into(),
        ..SmartLog::default()
    });
    let mut page = SmartLog {
        critical_warning: subsystem.map_or(0, |all| event::warnings(admin.controller, all)),
        dur: u128::from(usage.blocks_512_read.div_ceil(1000)).into(),
        duw: u128::from(usage.blocks_512_written.div_ceil(1000)).into(),
        hrc: u128::from(usage.reads).into(),
        hwc: u128::from(usage.writes).into(),
        ..known
    };
    // A poisoned lock would mean that a core panicked, which ends the process.
    let errors = who.errors.lock().expect("no panic while it is held");
    // A drive counts what this host met, too, and other drives count nothing.
    page.mdie = u128::from(errors.media).max(page.mdie.get()).into();
    page.nele = u128::from(errors.count).into();
    page
}

fn firmware(admin: &Admin) -> FirmwareSlotLog {
    let mut page = FirmwareSlotLog {
        afi: 1,
        ..FirmwareSlotLog::default()
    };
    set_ascii(&mut page.frs[0], &admin.facts.firmware);
    page
}

fn changed_namespaces(controller: &Controller) -> Vec<u8> {
    let changed = &controller.changed_namespaces;
    let list = if changed.len() > NamespaceList::CAPACITY {
        NamespaceList::collect([NamespaceList::OVERFLOW])
    } else {
        NamespaceList::collect(changed.iter().copied())
    };
    list.as_bytes().to_vec()
}

/// Commands Supported and Effects. Nothing here changes what other commands see, so no command asks
/// to be submitted alone (CSE).
fn command_effects(
    controller: &Controller,
    sqe: &Sqe,
) -> Result<CommandsSupportedAndEffects, Refusal> {
    let kind = controller.who.kind;
    // CSI is ignored where not all I/O command sets were selected (Base 5.1.12).
    if controller.cc.css() == Cc::CSS_ALL && sqe.log_csi() != Csi::NVM {
        return Err(Refusal::field(AT_CSI));
    }
    let mut page = CommandsSupportedAndEffects::default();
    let supported = CommandEffectsBits(0).with_csupp(true);
    // No scope for I/O commands: it is the namespace they name, and Linux warns of "unusual effects"
    // of a Read that says so.
    for opcode in commands(kind) {
        page.acs[usize::from(opcode.0)] = supported.with_csp(SCOPE_CONTROLLER).into();
    }
    if kind == Kind::Io {
        for opcode in IO_COMMANDS {
            let writes = [NvmOpcode::WRITE, NvmOpcode::WRITE_ZEROES, NvmOpcode::DSM];
            page.iocs[usize::from(opcode.0)] = supported.with_lbcc(writes.contains(opcode)).into();
        }
    }
    Ok(page)
}

fn feature_effects(kind: Kind) -> FeatureEffects {
    let mut page = FeatureEffects::default();
    for feature in feature::known(kind) {
        let scope = if feature.per_namespace {
            SCOPE_NAMESPACE
        } else {
            SCOPE_CONTROLLER
        };
        page.fids[usize::from(feature.fid.0)] =
            FeatureEffectBits(0).with_fsupp(true).with_fsp(scope).into();
    }
    page
}

/// Asymmetric Namespace Access: one group of all namespaces, optimized. It is there even if it is
/// empty, so that a host knows the state of a namespace before it comes.
fn ana(admin: &Admin, groups_only: bool) -> Result<Vec<u8>, Refusal> {
    let namespaces = &admin.subsystem()?.namespaces;
    let count = if groups_only { 0 } else { namespaces.len() };
    let changes = admin.table.epoch;
    let header = AnaHeader {
        chgcnt: changes.into(),
        ngrps: 1.into(),
        ..AnaHeader::default()
    };
    let group = AnaGroup {
        agid: ANA_GROUP.into(),
        nnsids: (count as u32).into(),
        chgcnt: changes.into(),
        state: AnaState::OPTIMIZED,
        ..AnaGroup::default()
    };
    let mut page = header.as_bytes().to_vec();
    page.extend_from_slice(group.as_bytes());
    for nsid in namespaces.keys().take(count) {
        page.extend_from_slice(bytemuck::bytes_of(&U32::new(*nsid)));
    }
    if !groups_only {
        // Hosts read as far as the page could reach, piece by piece (nvme-cli does).
        let nsids = limits::NAMESPACES_MAX as usize * size_of::<U32>();
        page.resize(AnaHeader::LEN + AnaGroup::LEN + nsids, 0);
    }
    Ok(page)
}
