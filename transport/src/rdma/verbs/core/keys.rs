//! What devices want to see beside an address, kept where a core finds it at once.

use std::sync::Arc;

use ferroce_buf::Buf;
use rdma_sys as sys;

use super::super::device::{Device, Key};

const REGISTERED: &str = "a region is registered before its Bufs are dealt";

/// Keys of the regions, for each device.
#[derive(Debug, Default)]
pub(super) struct Keys(Vec<Known>);

/// Keys of a device by number of the region, as they were when so many changes had been made. Numbers come back: what was
/// kept for longer could be the key of a region that is gone.
#[derive(Debug)]
struct Known {
    device: Arc<Device>,
    changes: u64,
    keys: Vec<Option<Key>>,
}

impl Keys {
    /// The key of a Buf's region with this device.
    #[inline]
    pub(super) fn of(&mut self, device: &Arc<Device>, buf: &Buf) -> Key {
        self.find(device, buf).expect(REGISTERED)
    }

    /// The same, if the region is registered there.
    #[inline]
    pub(super) fn find(&mut self, device: &Arc<Device>, buf: &Buf) -> Option<Key> {
        let region = usize::from(buf.region().0);
        let changes = device.changes();
        for known in &self.0 {
            if Arc::ptr_eq(&known.device, device) && known.changes == changes {
                return known.keys.get(region).copied().flatten();
            }
        }
        self.look_up(device, changes, region)
    }

    /// Something was registered since it was looked at last.
    #[cold]
    fn look_up(&mut self, device: &Arc<Device>, changes: u64, region: usize) -> Option<Key> {
        self.forget(device);
        let keys = device.keys();
        let key = keys.get(region).copied().flatten();
        self.0.push(Known {
            device: device.clone(),
            changes,
            keys,
        });
        key
    }

    /// The device is gone.
    pub(super) fn forget(&mut self, device: &Arc<Device>) {
        self.0.retain(|known| !Arc::ptr_eq(&known.device, device));
    }

    #[inline]
    pub(super) fn sge(&mut self, device: &Arc<Device>, buf: &Buf) -> sys::ibv_sge {
        sys::ibv_sge {
            addr: buf.as_ptr() as u64,
            length: buf.len() as u32,
            lkey: self.of(device, buf).lkey,
        }
    }
}
