//! Drives as the node has them: opened from what the operator wrote, then one end for each core.

use std::sync::Arc;

use ferroce_buf::{Region, Want};
use ferroce_drivers::nvme::{Controller, Seated};
use ferroce_drivers::{FileDrive, NvmeDrive, RamDrive};
use ferroce_engine::port::{DriveId, DriveInfo};

use crate::config::{Memory, Namespace};
use crate::fail::{Context, Result, fail};
use crate::node::memory::refuse_if_short;
use crate::sets::{AnyDrive, FileEnd, NvmeEnd};

/// The part of a drive that belongs to the node.
#[derive(Debug)]
pub enum Drive {
    /// Memory.
    Ram(Arc<RamDrive>),
    /// A file or a block device.
    File(Arc<FileDrive>),
    /// A namespace of an NVMe drive.
    Nvme(Box<NvmeDrive>),
}

impl Drive {
    /// Opens what a namespace of the configuration names.
    pub fn open(namespace: &Namespace, id: DriveId, cores: usize, memory: Memory) -> Result<Drive> {
        let spec = namespace.spec();
        let want = Want {
            huge: memory.huge_pages,
            locked: false,
        };
        let what = || "cannot open a drive";
        if let Some(mut config) = spec.ram(id, cores, want) {
            // Whether hosts may write is the namespace's, which can be changed without another drive.
            config.read_only = false;
            refuse_if_short(config.bytes, &config.label)?;
            return RamDrive::new(config).map(Drive::Ram).context(what);
        }
        if let Some(config) = spec.file() {
            return FileDrive::open_path(config).map(Drive::File).context(what);
        }
        if let Some((address, config)) = spec.nvme() {
            let drive = Controller::at(address, cores)
                .and_then(|controller| NvmeDrive::open(controller, config))
                .context(what)?;
            return Ok(Drive::Nvme(Box::new(drive)));
        }
        fail!("`{}` is a drive of no kind there is", namespace.device.text)
    }

    /// Bytes of data that were copied here.
    pub fn copied(&self) -> u64 {
        match self {
            Drive::Ram(drive) => drive.copied(),
            _ => 0,
        }
    }

    /// The memory it brings, for devices that are to reach it.
    #[cfg(feature = "verbs")]
    pub fn regions(&self) -> Vec<Arc<Region>> {
        match self {
            Drive::Ram(drive) => drive.regions(),
            Drive::File(_) | Drive::Nvme(_) => Vec::new(),
        }
    }

    /// What hosts are told.
    pub fn info(&self) -> DriveInfo {
        match self {
            Drive::Ram(drive) => drive.info(),
            Drive::File(drive) => drive.info(),
            Drive::Nvme(drive) => drive.info(),
        }
    }

    /// Its end for each core, whose NUMA nodes these are. The Bufs of requests lie in `regions`.
    pub fn ends(&self, nodes: &[Option<u32>], regions: &[Arc<Region>]) -> Result<Vec<AnyDrive>> {
        let open = |(core, node): (usize, &Option<u32>)| match self {
            Drive::Ram(drive) => drive.open(core).map(|queue| AnyDrive::Ram(Box::new(queue))),
            Drive::File(drive) => {
                let queue = drive.open(core, regions);
                queue.map(|queue| AnyDrive::File(Box::new(FileEnd::new(queue))))
            }
            Drive::Nvme(drive) => {
                let (index, node) = (core, *node);
                let queue = drive.queue(Seated { index, node }, regions);
                queue.map(|queue| AnyDrive::Nvme(Box::new(NvmeEnd::new(queue))))
            }
        };
        let ends: std::result::Result<_, _> = nodes.iter().enumerate().map(open).collect();
        ends.context(|| "cannot open a drive")
    }

    /// Refuses a smaller capacity that it cannot have, before hosts are told.
    pub fn may_shrink(&self, blocks: u64) -> Result<()> {
        match self {
            Drive::Ram(drive) => drive.check_size(blocks).map(drop),
            Drive::File(drive) => drive.may_resize(),
            Drive::Nvme(_) => return self.resize(blocks),
        }
        .context(|| "cannot resize")
    }

    /// Another capacity. Grow before hosts are told, shrink after.
    pub fn resize(&self, blocks: u64) -> Result<()> {
        match self {
            Drive::Ram(drive) => {
                let DriveInfo {
                    label,
                    blocks: now,
                    block_len,
                    ..
                } = drive.info();
                refuse_if_short(
                    blocks.saturating_sub(now).saturating_mul(block_len.into()),
                    &label,
                )?;
                drive.resize(blocks)
            }
            Drive::File(drive) => drive.resize(blocks),
            Drive::Nvme(drive) => fail!(
                "{} has the size its drive gave it; a new one is seen when it is removed and added again",
                drive.info().label
            ),
        }
        .context(|| "cannot resize")
    }
}
