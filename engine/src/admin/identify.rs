//! Identify (Base 5.1.13).

use std::mem::offset_of;

use ferroce_wire::Wire;
use ferroce_wire::identify::{
    Cns, CsIndependentNamespace, Csi, IDENTIFY_LEN, IdentifyController, IdentifyNamespace,
    IoCommandSetVectors, LbaFormat, NamespaceList, Nidt, NsDescriptorWriter, NvmIdentifyController,
    NvmIdentifyNamespace,
};
use ferroce_wire::sqe::{NSID_ALL, Sqe};

use super::{Admin, Answer, Facts, Outcome, event};
use crate::controller::{Association, Kind};
use crate::limits;
use crate::property;
use crate::property::VERSION;
use crate::refusal::Refusal;
use crate::table::{Namespace, Subsystem, Transport};

/// CRDT1 to CRDT3: which delay a status with CRD 1 to 3 means, in units of 100 ms.
pub const RETRY_DELAYS_100_MS: [u16; 3] = [1, 10, 50];

/// The one ANA group, of all namespaces.
pub(super) const ANA_GROUP: u32 = 1;
/// ANATT in seconds. The group's state never changes; 0 is not allowed (Base 5.1.13.2.1).
const ANA_TRANSITION_S: u8 = 10;
/// Aborts end at once, so any number may be "outstanding"; at least four are recommended.
const ABORTS_MAX: u8 = 4;
/// CNTID of Identify I/O Command Set: this controller.
const CNTID_THIS: u16 = 0xFFFF;

// Fields of the command, as Parameter Error Locations.
const AT_CNS: usize = offset_of!(Sqe, cdw10);
const AT_CNTID: usize = offset_of!(Sqe, cdw10) + 2;
const AT_CSI: usize = offset_of!(Sqe, cdw11) + 3;

pub(super) fn execute(admin: &Admin, sqe: &Sqe) -> Outcome {
    let nsid = sqe.nsid.get();
    if admin.controller.who.kind == Kind::Discovery {
        return match sqe.cns() {
            Cns::CONTROLLER => data(&discovery_controller(&admin.controller.who, admin.facts)),
            _ => Err(Refusal::field(AT_CNS)),
        };
    }
    let subsystem = admin.subsystem()?;
    match sqe.cns() {
        // Every namespace that is allocated is attached to every controller of its subsystem.
        Cns::NAMESPACE | Cns::ALLOCATED_NAMESPACE => about(subsystem, nsid, namespace),
        Cns::CONTROLLER => data(&io_controller(
            &admin.controller.who,
            subsystem,
            admin.facts,
        )),
        Cns::ACTIVE_NAMESPACES | Cns::ALLOCATED_NAMESPACES => list(subsystem, nsid),
        Cns::NS_DESCRIPTORS => descriptors(subsystem, nsid),
        Cns::CS_NAMESPACE => {
            check_csi(sqe)?;
            // No protection information: nothing of it is other than 0.
            about(subsystem, nsid, |_| NvmIdentifyNamespace::default())
        }
        Cns::CS_CONTROLLER => {
            check_csi(sqe)?;
            data(&nvm_controller())
        }
        Cns::CS_ACTIVE_NAMESPACES => {
            check_csi(sqe)?;
            list(subsystem, nsid)
        }
        Cns::CS_INDEPENDENT_NAMESPACE => about(subsystem, nsid, independent_namespace),
        Cns::IO_COMMAND_SETS => command_sets(admin, sqe),
        _ => Err(Refusal::field(AT_CNS)),
    }
}

fn data(structure: &impl Wire) -> Outcome {
    Ok(Answer::Data(structure.as_bytes().to_vec()))
}

/// The only command set is NVM.
fn check_csi(sqe: &Sqe) -> Result<(), Refusal> {
    match sqe.identify_csi() {
        Csi::NVM => Ok(()),
        _ => Err(Refusal::field(AT_CSI)),
    }
}

/// A structure about one namespace; zeroes about an NSID that no namespace has (Base 3.2.1.5).
fn about<W: Wire + Default>(
    subsystem: &Subsystem,
    nsid: u32,
    tell: impl Fn(&Namespace) -> W,
) -> Outcome {
    // FFFFFFFFh asks what namespaces have in common, which comes with Namespace Management.
    if nsid == 0 || nsid > limits::NAMESPACES_MAX {
        return Err(Refusal::namespace());
    }
    match subsystem.namespaces.get(&nsid) {
        Some(namespace) => data(&tell(namespace)),
        None => data(&W::default()),
    }
}

/// NSIDs above the one given.
fn list(subsystem: &Subsystem, nsid: u32) -> Outcome {
    if nsid >= NSID_ALL - 1 {
        return Err(Refusal::namespace());
    }
    let above = subsystem.namespaces.range(nsid + 1..);
    data(&NamespaceList::collect(above.map(|(nsid, _)| *nsid)))
}

/// Namespace Identification Descriptor list.
fn descriptors(subsystem: &Subsystem, nsid: u32) -> Outcome {
    let namespace = subsystem.namespaces.get(&nsid);
    let info = &namespace.ok_or(Refusal::namespace())?.info;
    let mut list = vec![0; IDENTIFY_LEN];
    let mut writer = NsDescriptorWriter::new(&mut list);
    writer.push(Nidt::UUID, &info.uuid);
    writer.push(Nidt::NGUID, &info.nguid);
    writer.push(Nidt::CSI, &[Csi::NVM.0]);
    Ok(Answer::Data(list))
}

/// Identify I/O Command Set: one combination, of one command set.
fn command_sets(admin: &Admin, sqe: &Sqe) -> Outcome {
    // Of other controllers only their owner cores know.
    let cntid = sqe.identify_cntid();
    if cntid != CNTID_THIS && cntid != admin.controller.who.cntlid {
        return Err(Refusal::field(AT_CNTID));
    }
    let mut combinations = IoCommandSetVectors::default();
    combinations.vectors[0].set(IoCommandSetVectors::NVM);
    data(&combinations)
}

/// What I/O and Discovery controllers say alike.
fn controller(who: &Association, facts: &Facts) -> IdentifyController {
    let mut id = IdentifyController::default();
    id.set_names("", "", &facts.firmware);
    id.mdts = facts.mdts();
    id.cntlid = who.cntlid.into();
    id.ver = VERSION.0.into();
    id.oaes = event::notices(who.kind).into();
    id.ctratt = (IdentifyController::CTRATT_HOSTID_128 | IdentifyController::CTRATT_TBKAS).into();
    id.acl_z = ABORTS_MAX - 1;
    id.aerl_z = limits::AERS_MAX as u8 - 1;
    id.lpa = IdentifyController::LPA_COMMAND_EFFECTS
        | IdentifyController::LPA_EXTENDED
        | IdentifyController::LPA_SUPPORTED_LOG_PAGES;
    id.elpe_z = limits::ERROR_LOG_ENTRIES as u8 - 1;
    id.kas = limits::KAS.into();
    id.maxcmd = limits::IO_DEPTH_MAX.into();
    id.sgls = match who.transport {
        Transport::Tcp => {
            IdentifyController::SGLS_SUPPORTED
                | IdentifyController::SGLS_OFFSET
                | IdentifyController::SGLS_TRANSPORT
        }
        Transport::Rdma => {
            IdentifyController::SGLS_SUPPORTED
                | IdentifyController::SGLS_KEYED
                | IdentifyController::SGLS_OFFSET
        }
    }
    .into();
    for (place, byte) in id.subnqn.iter_mut().zip(who.subnqn.bytes()) {
        *place = byte;
    }
    id
}

fn discovery_controller(who: &Association, facts: &Facts) -> IdentifyController {
    let mut id = controller(who, facts);
    id.cntrltype = IdentifyController::CNTRLTYPE_DISCOVERY;
    id
}

fn io_controller(who: &Association, subsystem: &Subsystem, facts: &Facts) -> IdentifyController {
    let mut id = controller(who, facts);
    id.set_names(&subsystem.serial, &subsystem.model, &facts.firmware);
    id.cntrltype = IdentifyController::CNTRLTYPE_IO;
    id.cmic = IdentifyController::CMIC_MULTI_PORT
        | IdentifyController::CMIC_MULTI_CONTROLLER
        | IdentifyController::CMIC_ANA;
    let [crdt1, crdt2, crdt3] = RETRY_DELAYS_100_MS;
    (id.crdt1, id.crdt2, id.crdt3) = (crdt1.into(), crdt2.into(), crdt3.into());
    // One firmware slot, read only: there is nothing to download.
    id.frmw = 1 << 1 | IdentifyController::FRMW_SLOT1_READ_ONLY;
    id.anatt = ANA_TRANSITION_S;
    // ANAGRPID never changes either (bit 6), but libnvme then leaves no room for NSIDs in the log.
    id.anacap = IdentifyController::ANACAP_OPTIMIZED;
    id.anagrpmax = ANA_GROUP.into();
    id.nanagrpid = 1.into();
    // As long as a reset may take: a shutdown waits for the same.
    id.rtd3e = (u32::from(property::TIMEOUT_500_MS) * 500_000).into();
    id.sqes = IdentifyController::SQES_64;
    id.cqes = IdentifyController::CQES_16;
    id.nn = limits::NAMESPACES_MAX.into();
    id.mnan = limits::NAMESPACES_MAX.into();
    id.oncs = (IdentifyController::ONCS_COMPARE
        | IdentifyController::ONCS_DSM
        | IdentifyController::ONCS_WRITE_ZEROES
        | IdentifyController::ONCS_SAVE_SELECT
        | IdentifyController::ONCS_TIMESTAMP
        | IdentifyController::ONCS_VERIFY)
        .into();
    // Hosts look here once, but a drive with a volatile cache may be added at any time; were this
    // clear, they would never flush it. Which namespaces have none, CNS 08h says.
    id.vwc = IdentifyController::VWC_PRESENT | IdentifyController::VWC_FLUSH_NO_BROADCAST;
    id.ioccsz = ((size_of::<Sqe>() as u32 + limits::IN_CAPSULE) / 16).into();
    id.iorcsz = 1.into();
    id.msdbd = 1;
    id.ofcs = IdentifyController::OFCS_DISCONNECT.into();
    id
}

/// The NVM Command Set's part: all 0, which for each limit is none beyond what the command can say.
fn nvm_controller() -> NvmIdentifyController {
    NvmIdentifyController::default()
}

fn namespace(namespace: &Namespace) -> IdentifyNamespace {
    let info = &namespace.info;
    let mut id = IdentifyNamespace {
        nsze: info.blocks.into(),
        ncap: info.blocks.into(),
        nuse: info.blocks.into(),
        nmic: IdentifyNamespace::NMIC_SHARED,
        ..IdentifyNamespace::default()
    };
    if info.deallocates {
        id.dlfeat = IdentifyNamespace::DLFEAT_ZEROES | IdentifyNamespace::DLFEAT_WRITE_ZEROES;
    }
    if info.preferred_blocks > 1 {
        id.nsfeat = IdentifyNamespace::NSFEAT_OPTPERF;
        let blocks_z = u16::try_from(info.preferred_blocks - 1).unwrap_or(u16::MAX);
        for field in [
            &mut id.npwg_z,
            &mut id.npwa_z,
            &mut id.npdg_z,
            &mut id.npda_z,
            &mut id.nows_z,
        ] {
            field.set(blocks_z);
        }
    }
    id.nvmcap = (u128::from(info.blocks) * u128::from(info.block_len)).into();
    id.anagrpid = ANA_GROUP.into();
    id.nsattr = attributes(namespace);
    id.nguid = info.nguid;
    id.lbaf[0] = LbaFormat::new(info.block_len.trailing_zeros() as u8, 0);
    id
}

fn independent_namespace(namespace: &Namespace) -> CsIndependentNamespace {
    let mut id = CsIndependentNamespace::default();
    if !namespace.info.volatile_cache {
        id.nsfeat = CsIndependentNamespace::NSFEAT_NO_WRITE_CACHE;
    }
    id.nmic = IdentifyNamespace::NMIC_SHARED;
    id.anagrpid = ANA_GROUP.into();
    id.nsattr = attributes(namespace);
    id.nstat = CsIndependentNamespace::NSTAT_READY;
    id
}

/// NSATTR.
fn attributes(namespace: &Namespace) -> u8 {
    if namespace.read_only {
        IdentifyNamespace::NSATTR_WRITE_PROTECTED
    } else {
        0
    }
}
