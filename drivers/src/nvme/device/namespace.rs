//! A namespace of a controller, as a drive of the node: what it is, whether it can be served, and what must not change
//! about it while it is.

use std::sync::Arc;

use ferroce_buf::Region;
use ferroce_engine::port::DriveInfo;
use ferroce_wire::Wire;
use ferroce_wire::identify::{
    Cns, Csi, IdentifyController, IdentifyNamespace, NamespaceList, Nidt, NsDescriptors,
    NvmIdentifyController,
};
use ferroce_wire::prop::{Cap, Vs};
use uuid::Uuid;

use super::{Controller, Keeper, Trouble};
use crate::DriveError;
use crate::dma::BufMap;
use crate::nvme::admin::AdminError;
use crate::nvme::guest::{Guest, NvmeQueue, Visitor};
use crate::nvme::queue::{Abilities, End, MAX_TRANSFER, OwnQueue};
use crate::nvme::quirks::Quirks;

/// Keeps our names apart from other uses of UUID version 5.
const NAMES: Uuid = Uuid::from_u128(0x8d1b_2a57_6f34_4c0e_b7a9_15d2_90ce_34f6);
/// Namespaces that are looked for at a drive without a list of them. Such drives have one, or a few.
const NAMESPACES_MAX: u32 = 128;

/// Which namespace of which drive, and how it is to be served.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NvmeConfig {
    /// What the operator called it.
    pub label: String,
    /// Namespace identifier at the drive; the only one there is, if it is not said.
    pub nsid: Option<u32>,
    /// Writes are refused.
    pub read_only: bool,
    /// Its identity, if the operator says.
    pub uuid: Option<[u8; 16]>,
}

/// A core, and where it runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seated {
    /// Its number.
    pub index: usize,
    /// The NUMA node of its CPU, where its queues' memory is put; `None` where there is one node, or it may run on all.
    pub node: Option<u32>,
}

impl From<usize> for Seated {
    fn from(index: usize) -> Seated {
        Seated { index, node: None }
    }
}

/// A namespace of a controller, as a drive of the node.
#[derive(Debug)]
pub struct NvmeDrive {
    controller: Arc<Controller>,
    info: DriveInfo,
    abilities: Abilities,
    /// The keeper looks at it after a reset, for as long as the drive is served.
    _shape: Arc<Shape>,
}

/// What must not change under a namespace that is served.
#[derive(Debug)]
pub(super) struct Shape {
    pub(super) nsid: u32,
    blocks: u64,
    block_bytes: Option<u32>,
    metadata: u16,
}

impl Shape {
    pub(super) fn of(nsid: u32, id: &IdentifyNamespace) -> Shape {
        Shape {
            nsid,
            blocks: id.nsze.get(),
            block_bytes: id.block_bytes(),
            metadata: id.lba_format().ms.get(),
        }
    }

    /// A namespace that grew is still what hosts were told.
    pub(super) fn check(&self, id: &IdentifyNamespace) -> Result<(), String> {
        let now = Shape::of(self.nsid, id);
        if (now.block_bytes, now.metadata) != (self.block_bytes, self.metadata) {
            return Err(format!(
                "after its reset namespace {} has another format",
                self.nsid
            ));
        }
        if now.blocks < self.blocks {
            return Err(format!(
                "after its reset namespace {} has {} blocks, not {}",
                self.nsid, now.blocks, self.blocks
            ));
        }
        Ok(())
    }
}

impl NvmeDrive {
    /// Looks at a namespace.
    ///
    /// # Errors
    /// If there is no such namespace, or its format is none we serve.
    pub fn open(controller: Arc<Controller>, config: NvmeConfig) -> Result<NvmeDrive, DriveError> {
        let mut keeper = controller.keeper();
        let found = keeper.look_at_namespace(&config);
        drop(keeper);
        let (info, abilities, shape) =
            found.map_err(|why| DriveError::refused(&config.label, why.to_string()))?;
        Ok(NvmeDrive {
            controller,
            info,
            abilities,
            _shape: shape,
        })
    }

    /// What hosts are told.
    pub fn info(&self) -> DriveInfo {
        self.info.clone()
    }

    /// Its controller.
    pub fn controller(&self) -> &Arc<Controller> {
        &self.controller
    }

    /// A core's part. The Bufs of requests lie in `regions`, the same for all cores and all namespaces of a drive.
    ///
    /// A core has one queue at a drive: if another namespace of it has that already, this one is its guest; and if the drive
    /// has no queue left, that of the core with the fewest guests.
    ///
    /// # Errors
    /// If there is no such core either, or memory cannot be mapped for the drive.
    pub fn queue(
        &self,
        core: impl Into<Seated>,
        regions: &[Arc<Region>],
    ) -> Result<NvmeQueue, DriveError> {
        let seated = core.into();
        let core = seated.index;
        let label = &self.info.label;
        let mut keeper = self.controller.keeper();
        let bufs = BufMap::map(&keeper.iommu, regions)
            .map_err(|cause| DriveError::system(label, "mapping the data buffers for it", cause))?;
        let open: Vec<Arc<End>> = keeper.open_ends().cloned().collect();
        if let Some(guest) = self.visit(core, open.iter().filter(|end| end.core() == core))? {
            return Ok(guest);
        }
        let (end, bar) = match keeper.open_queue(seated) {
            Ok(opened) => opened,
            Err(why @ Trouble::NoQueue(_)) => {
                let mut hosts: Vec<(usize, &Arc<End>)> =
                    open.iter().map(|end| (end.guests(), end)).collect();
                hosts.sort_by_key(|(guests, _)| *guests);
                let guest = self.visit(core, hosts.into_iter().map(|(_, end)| end))?;
                return guest.ok_or_else(|| DriveError::refused(label, why.to_string()));
            }
            Err(why) => return Err(DriveError::refused(label, why.to_string())),
        };
        Ok(NvmeQueue::Own(OwnQueue::new(
            keeper.word.clone(),
            end,
            bar,
            keeper.cap,
            bufs,
            self.abilities,
            keeper.patience,
        )))
    }

    /// As a guest of the first of these queues that is not about to go.
    fn visit<'a>(
        &self,
        core: usize,
        ends: impl Iterator<Item = &'a Arc<End>>,
    ) -> Result<Option<NvmeQueue>, DriveError> {
        for end in ends {
            let visitor = Visitor {
                core,
                abilities: self.abilities,
            };
            let hatch = end.invite(visitor).map_err(|cause| {
                DriveError::system(&self.info.label, "making an eventfd for a core", cause)
            })?;
            if let Some(hatch) = hatch {
                return Ok(Some(NvmeQueue::Guest(Guest::new(hatch))));
            }
        }
        Ok(None)
    }
}

impl Keeper {
    /// The queues that cores have.
    fn open_ends(&self) -> impl Iterator<Item = &Arc<End>> {
        self.ends.iter().filter(|end| !end.is_closed())
    }

    /// The NSIDs of namespaces that there are. Their list is since 1.1; without it each is asked for.
    fn active_namespaces(&mut self) -> Result<Vec<u32>, AdminError> {
        if self.vs.0 >= Vs::V1_1.0 {
            match self.call(|admin| admin.identify::<NamespaceList>(Cns::ACTIVE_NAMESPACES, 0)) {
                Ok(list) => return Ok(list.iter().collect()),
                Err(AdminError::Status(_)) => {}
                Err(why) => return Err(why),
            }
        }
        let mut active = Vec::new();
        for nsid in 1..=self.id.nn.get().min(NAMESPACES_MAX) {
            match self.call(|admin| admin.identify::<IdentifyNamespace>(Cns::NAMESPACE, nsid)) {
                Ok(found) if found.nsze.get() > 0 => active.push(nsid),
                Ok(_) | Err(AdminError::Status(_)) => {}
                Err(why) => return Err(why),
            }
        }
        Ok(active)
    }

    pub(super) fn look_at_namespace(
        &mut self,
        config: &NvmeConfig,
    ) -> Result<(DriveInfo, Abilities, Arc<Shape>), Trouble> {
        let at = |what| move |why| Trouble::Admin(what, why);
        let active = self
            .active_namespaces()
            .map_err(at("Identify, active namespaces"))?;
        let nsid = match (config.nsid, &active[..]) {
            (Some(nsid), active) if active.contains(&nsid) => nsid,
            (None, [nsid]) => *nsid,
            (_, []) => return Err(Trouble::Other("the drive has no namespace".into())),
            (Some(nsid), active) => {
                return Err(Trouble::Other(format!(
                    "the drive has no namespace {nsid}; it has {active:?}"
                )));
            }
            (None, active) => {
                return Err(Trouble::Other(format!(
                    "the drive has namespaces {active:?}; say which: {}/{}",
                    config.label, active[0]
                )));
            }
        };
        let namespace: Box<IdentifyNamespace> = self
            .call(|admin| admin.identify(Cns::NAMESPACE, nsid))
            .map_err(at("Identify Namespace"))?;
        // What single commands may carry is told since 2.0; before, a limit on data is the best guess.
        let limits: Box<NvmIdentifyController> = if self.vs.0 >= Vs::V2_0.0 {
            match self.call(|admin| admin.identify(Cns::CS_CONTROLLER, 0)) {
                Ok(limits) => limits,
                Err(AdminError::Status(_)) => Box::default(),
                Err(why) => return Err(Trouble::Admin("Identify, NVM controller", why)),
            }
        } else {
            Box::default()
        };
        // The list is since 1.3, and before CNS had fewer bits: there is no telling what a drive would do. One without it has
        // no other command set either.
        let told = self.vs.0 >= Vs::V1_3.0 || self.cap.css() & Cap::CSS_IOCSS != 0;
        let list = told
            .then(|| self.call(|admin| admin.identify::<NamespaceList>(Cns::NS_DESCRIPTORS, nsid)));
        let csi = match list {
            Some(Ok(list)) => NsDescriptors::new(list.as_bytes())
                .find(Nidt::CSI)
                .map(|csi| Csi(csi[0])),
            None | Some(Err(AdminError::Status(_))) => None,
            Some(Err(why)) => return Err(Trouble::Admin("Identify, namespace descriptors", why)),
        };
        if let Some(csi) = csi.filter(|csi| *csi != Csi::NVM) {
            return Err(Trouble::Other(format!(
                "namespace {nsid} speaks the {csi}; only namespaces of the NVM Command Set are served"
            )));
        }
        let shape = Arc::new(Shape::of(nsid, &namespace));
        self.served.push(Arc::downgrade(&shape));
        let drive = Facts {
            cap: self.cap,
            quirks: self.quirks,
            id: &self.id,
            namespace: &namespace,
            limits: &limits,
        };
        let (mut info, abilities) = drive.judge(nsid, config).map_err(Trouble::Other)?;
        info.health = Some(self.health.clone());
        Ok((info, abilities, shape))
    }
}

/// What a drive says of itself and of a namespace.
struct Facts<'a> {
    cap: Cap,
    quirks: Quirks,
    id: &'a IdentifyController,
    namespace: &'a IdentifyNamespace,
    limits: &'a NvmIdentifyController,
}

impl Facts<'_> {
    /// What hosts are told, and what commands may be; or why it cannot be served.
    fn judge(&self, nsid: u32, config: &NvmeConfig) -> Result<(DriveInfo, Abilities), String> {
        let Facts {
            cap,
            quirks,
            id,
            namespace,
            limits,
        } = self;
        let format = namespace.lba_format();
        if format.ms.get() != 0 {
            return Err(format!(
                "namespace {nsid} has {} bytes of metadata with each block; format it without (nvme format \
                 --lbaf=N with a format of ms:0)",
                format.ms
            ));
        }
        let block_len = match namespace.block_bytes() {
            Some(len @ (512 | 4096)) => len,
            len => {
                return Err(format!(
                    "namespace {nsid} has blocks of {} bytes; 512 and 4096 are served (nvme format --lbaf=N)",
                    len.unwrap_or(0)
                ));
            }
        };
        let blocks = namespace.nsze.get();
        if blocks == 0 {
            return Err(format!("namespace {nsid} has no blocks"));
        }
        let shift = block_len.trailing_zeros();
        let mdts = id.transfer_bytes_max(cap.mpsmin()).unwrap_or(u64::MAX);
        let max_transfer = mdts.min(MAX_TRANSFER.into()) as u32;
        let transfer = max_transfer >> shift;
        // WZSL, WZDSL and VSL are powers of two of the smallest page; 0 is no limit, if the structure is there at all.
        let told = limits.ver.get() != 0 || **limits != NvmIdentifyController::default();
        let limit = |log2: u8| match log2 {
            0 if told => 0x1_0000,
            0 => transfer,
            _ => {
                let bytes = 1u64
                    .checked_shl(12 + u32::from(cap.mpsmin()) + u32::from(log2))
                    .unwrap_or(u64::MAX);
                (bytes >> shift).clamp(1, 0x1_0000) as u32
            }
        };
        let can = |bit| id.oncs.get() & bit != 0;
        let leaves_zeros = namespace.dlfeat & 0b111 == IdentifyNamespace::DLFEAT_ZEROES;
        // We give one range at a time, so its limit and that of all ranges of a command are one.
        let range_max = [limits.dmrsl.get().into(), limits.dmsl.get()]
            .into_iter()
            .filter(|blocks| *blocks != 0)
            .min()
            .map_or(u32::MAX, |blocks| u32::try_from(blocks).unwrap_or(u32::MAX));
        let boundary = match namespace.noiob.get() {
            // Up to 128 MiB, so that it fits.
            0 if quirks.has(Quirks::STRIPES) && (1..16).contains(&id.vs[3]) => {
                4096 << id.vs[3] >> shift
            }
            noiob => noiob.into(),
        };
        let zeroes =
            can(IdentifyController::ONCS_WRITE_ZEROES) && !quirks.has(Quirks::NO_WRITE_ZEROES);
        let abilities = Abilities {
            nsid,
            block_shift: shift as u8,
            transfer,
            boundary,
            zeroes: zeroes.then(|| limit(limits.wzsl)),
            // A drive that has no limit of its own for this says 0 (NVM 1.1, WZDSL).
            zeroes_deallocate: (leaves_zeros
                && namespace.dlfeat & IdentifyNamespace::DLFEAT_WRITE_ZEROES != 0)
                .then(|| match limits.wzdsl {
                    0 => limit(limits.wzsl),
                    own => limit(own).min(limit(limits.wzsl)),
                }),
            verify: can(IdentifyController::ONCS_VERIFY).then(|| limit(limits.vsl)),
            deallocate: can(IdentifyController::ONCS_DSM).then_some(range_max),
        };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut name =
            format!("nvme {} {} {nsid}", text(id.model()), text(id.serial())).into_bytes();
        // Serial numbers are not always one drive's. What else names the namespace goes into our identity for it; the
        // drive's own names are not ours to give to hosts, who may meet the drive by another way.
        for named in [&namespace.eui64[..], &namespace.nguid] {
            if named.iter().any(|byte| *byte != 0) {
                name.extend(named);
            }
        }
        let uuid = config
            .uuid
            .unwrap_or_else(|| Uuid::new_v5(&NAMES, &name).into_bytes());
        let preferred = match namespace.nsfeat & IdentifyNamespace::NSFEAT_OPTPERF {
            0 => 1,
            _ => namespace.preferred_write_blocks(),
        };
        let info = DriveInfo {
            label: config.label.clone(),
            block_len,
            blocks,
            uuid,
            nguid: crate::nguid_of(uuid),
            read_only: config.read_only
                || namespace.nsattr & IdentifyNamespace::NSATTR_WRITE_PROTECTED != 0,
            volatile_cache: id.vwc & IdentifyController::VWC_PRESENT != 0,
            brings_memory: false,
            preferred_blocks: preferred,
            deallocates: abilities.deallocate.is_some() && leaves_zeros,
            max_deallocate: 1 << 30,
            max_transfer,
            max_bufs: 1,
            health: None,
        };
        Ok((info, abilities))
    }
}
