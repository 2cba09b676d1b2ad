//! Identify: the command, its lists, and the namespace identification descriptors.

mod controller;
mod namespace;

pub use controller::{IdentifyController, NvmIdentifyController, PowerState};
pub use namespace::{CsIndependentNamespace, IdentifyNamespace, LbaFormat, NvmIdentifyNamespace};

use crate::num::{U16, U32, U64};
use crate::opcode::AdminOpcode;
use crate::sqe::Sqe;
use bytemuck::{Pod, Zeroable};

open_set! {
    /// CNS: which structure Identify returns (Base 5.1.13).
    pub struct Cns(u8);
    NAMESPACE = 0x00, "Identify Namespace";
    CONTROLLER = 0x01, "Identify Controller";
    ACTIVE_NAMESPACES = 0x02, "Active Namespace ID list";
    NS_DESCRIPTORS = 0x03, "Namespace Identification Descriptor list";
    NVM_SETS = 0x04, "NVM Set List";
    CS_NAMESPACE = 0x05, "I/O Command Set specific Identify Namespace";
    CS_CONTROLLER = 0x06, "I/O Command Set specific Identify Controller";
    CS_ACTIVE_NAMESPACES = 0x07, "I/O Command Set specific Active Namespace ID list";
    CS_INDEPENDENT_NAMESPACE = 0x08, "I/O Command Set Independent Identify Namespace";
    NAMESPACE_FORMAT = 0x09, "Identify Namespace for a User Data Format";
    CS_NAMESPACE_FORMAT = 0x0A, "I/O Command Set specific Identify Namespace for a User Data Format";
    ALLOCATED_NAMESPACES = 0x10, "Allocated Namespace ID list";
    ALLOCATED_NAMESPACE = 0x11, "Identify Namespace for an allocated Namespace ID";
    NS_CONTROLLERS = 0x12, "Controller List of a namespace";
    CONTROLLERS = 0x13, "Controller List of the NVM subsystem";
    PRIMARY_CONTROLLER = 0x14, "Primary Controller Capabilities";
    SECONDARY_CONTROLLERS = 0x15, "Secondary Controller List";
    NS_GRANULARITY = 0x16, "Namespace Granularity List";
    UUIDS = 0x17, "UUID List";
    DOMAINS = 0x18, "Domain List";
    ENDURANCE_GROUPS = 0x19, "Endurance Group List";
    CS_ALLOCATED_NAMESPACES = 0x1A, "I/O Command Set specific Allocated Namespace ID list";
    CS_ALLOCATED_NAMESPACE = 0x1B, "I/O Command Set specific Identify Namespace for an allocated Namespace ID";
    IO_COMMAND_SETS = 0x1C, "Identify I/O Command Set";
    UNDERLYING_NAMESPACES = 0x1D, "Underlying Namespace List";
    PORTS = 0x1E, "Ports List";
    CS_INDEPENDENT_ALLOCATED = 0x1F, "I/O Command Set Independent Identify Namespace for an allocated Namespace ID";
    CONTROLLER_STATE_FORMATS = 0x20, "Supported Controller State Formats";
}

open_set! {
    /// CSI, Command Set Identifier.
    pub struct Csi(u8);
    NVM = 0x00, "NVM Command Set";
    KEY_VALUE = 0x01, "Key Value Command Set";
    ZONED = 0x02, "Zoned Namespace Command Set";
    LOCAL_MEMORY = 0x03, "Subsystem Local Memory Command Set";
    COMPUTATIONAL = 0x04, "Computational Programs Command Set";
}

/// Bytes of everything Identify returns.
pub const IDENTIFY_LEN: usize = 4096;

/// Identify (Base 5.1.13).
impl Sqe {
    /// An Identify of `cns` about `nsid`, of command set `csi` where CNS asks for one.
    pub const fn identify(cns: Cns, nsid: u32, csi: Csi) -> Self {
        let mut sqe = Self::new(AdminOpcode::IDENTIFY.0);
        sqe.nsid = U32::new(nsid);
        sqe.cdw10 = U32::new(cns.0 as u32);
        sqe.cdw11 = U32::new((csi.0 as u32) << 24);
        sqe
    }

    /// Identify's CNS.
    pub const fn cns(&self) -> Cns {
        Cns(self.cdw10.get() as u8)
    }

    /// Identify's CNTID: the first controller a Controller List may name.
    pub const fn identify_cntid(&self) -> u16 {
        (self.cdw10.get() >> 16) as u16
    }

    /// Identify's CSI.
    pub const fn identify_csi(&self) -> Csi {
        Csi((self.cdw11.get() >> 24) as u8)
    }

    /// Identify's CNS Specific Identifier: an NVM set, a domain, a format index.
    pub const fn identify_cnssid(&self) -> u16 {
        self.cdw11.get() as u16
    }
}

/// Namespace List (Base 4.6.2): NSIDs in increasing order, 0 ends it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct NamespaceList {
    /// The NSIDs.
    pub nsids: [U32; 1024],
}
layout!(NamespaceList = 4096 {
    nsids @ 0
});

impl NamespaceList {
    /// NSIDs that fit.
    pub const CAPACITY: usize = 1024;
    /// First entry of a Changed Namespace List that could not hold them all.
    pub const OVERFLOW: u32 = 0xFFFF_FFFF;

    /// The NSIDs up to the 0 that ends the list.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.nsids
            .iter()
            .map(|nsid| nsid.get())
            .take_while(|&nsid| nsid != 0)
    }

    /// The list of as many of `nsids` as fit. They must come in increasing order.
    pub fn collect(nsids: impl IntoIterator<Item = u32>) -> Self {
        let mut list = Self::default();
        for (slot, nsid) in list.nsids.iter_mut().zip(nsids) {
            slot.set(nsid);
        }
        list
    }
}

/// Controller List (Base 4.6.1).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct ControllerList {
    /// Number of Identifiers. Off the wire: may exceed what fits.
    pub numid: U16,
    /// Controller Identifiers in increasing order.
    pub ids: [U16; 2047],
}
layout!(ControllerList = 4096 {
    numid @ 0, ids @ 2
});

impl ControllerList {
    /// The identifiers that NUMID says are there and that fit.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        self.ids
            .iter()
            .map(|id| id.get())
            .take(usize::from(self.numid.get()))
    }

    /// The list of as many of `ids` as fit. They must come in increasing order.
    pub fn collect(ids: impl IntoIterator<Item = u16>) -> Self {
        let mut list = Self::default();
        let mut count = 0;
        for (slot, id) in list.ids.iter_mut().zip(ids) {
            slot.set(id);
            count += 1;
        }
        list.numid.set(count);
        list
    }
}

/// Identify I/O Command Set data structure, CNS 1Ch (Base 5.1.13.2.19): combinations of command sets.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct IoCommandSetVectors {
    /// Each a set of CSIs, one bit each; a combination that may be selected.
    pub vectors: [U64; 512],
}
layout!(IoCommandSetVectors = 4096 {
    vectors @ 0
});

impl IoCommandSetVectors {
    /// Vector: the NVM Command Set.
    pub const NVM: u64 = 1 << Csi::NVM.0;
    /// Vector: the Key Value Command Set.
    pub const KEY_VALUE: u64 = 1 << Csi::KEY_VALUE.0;
    /// Vector: the Zoned Namespace Command Set.
    pub const ZONED: u64 = 1 << Csi::ZONED.0;
}

open_set! {
    /// NIDT, Namespace Identifier Type.
    pub struct Nidt(u8);
    EUI64 = 0x01, "EUI64";
    NGUID = 0x02, "NGUID";
    UUID = 0x03, "UUID";
    CSI = 0x04, "CSI";
}

impl Nidt {
    /// NIDL that an identifier of this type must have; None for a type nobody defined.
    pub const fn nidl(self) -> Option<u8> {
        Some(match self {
            Self::EUI64 => 8,
            Self::NGUID | Self::UUID => 16,
            Self::CSI => 1,
            _ => return None,
        })
    }
}

/// Head of a Namespace Identification Descriptor, CNS 03h (Base 5.1.13.2.3); NIDL bytes follow.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct NsDescriptorHeader {
    /// Namespace Identifier Type; 0 ends the list.
    pub nidt: Nidt,
    /// Namespace Identifier Length in bytes. Off the wire: may exceed what is left.
    pub nidl: u8,
    /// Reserved.
    pub rsvd2: [u8; 2],
}
layout!(NsDescriptorHeader = 4 {
    nidt @ 0, nidl @ 1, rsvd2 @ 2
});

/// The descriptors of a Namespace Identification Descriptor list, in order. Ends at the first that is
/// empty or does not fit, so a list cut short is read as far as it goes.
#[derive(Clone, Debug)]
pub struct NsDescriptors<'a> {
    rest: &'a [u8],
}

impl<'a> NsDescriptors<'a> {
    /// Reads the data of Identify CNS 03h.
    pub const fn new(list: &'a [u8]) -> Self {
        Self { rest: list }
    }

    /// The identifier of this type, if the list has one of the right length.
    pub fn find(&self, nidt: Nidt) -> Option<&'a [u8]> {
        let (_, nid) = Iterator::find(&mut self.clone(), |(found, _)| *found == nidt)?;
        match nidt.nidl() {
            Some(nidl) if nid.len() != usize::from(nidl) => None,
            _ => Some(nid),
        }
    }
}

impl<'a> Iterator for NsDescriptors<'a> {
    type Item = (Nidt, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (head, rest) = self
            .rest
            .split_at_checked(size_of::<NsDescriptorHeader>())?;
        let [nidt, nidl, _, _] = *head else {
            return None;
        };
        if nidt == 0 || nidl == 0 {
            return None;
        }
        let (nid, rest) = rest.split_at_checked(usize::from(nidl))?;
        self.rest = rest;
        Some((Nidt(nidt), nid))
    }
}

/// Writes descriptors one after the other into the data of Identify CNS 03h.
#[derive(Debug)]
pub struct NsDescriptorWriter<'a> {
    rest: &'a mut [u8],
}

impl<'a> NsDescriptorWriter<'a> {
    /// Starts an empty list: all of `list` becomes 0.
    pub fn new(list: &'a mut [u8]) -> Self {
        list.fill(0);
        Self { rest: list }
    }

    /// Adds a descriptor; false if it does not fit.
    pub fn push(&mut self, nidt: Nidt, nid: &[u8]) -> bool {
        let Ok(nidl) = u8::try_from(nid.len()) else {
            return false;
        };
        let head_len = size_of::<NsDescriptorHeader>();
        let list = core::mem::take(&mut self.rest);
        if list.len() < head_len + nid.len() {
            self.rest = list;
            return false;
        }
        let (place, rest) = list.split_at_mut(head_len + nid.len());
        self.rest = rest;
        place[..head_len].copy_from_slice(&[nidt.0, nidl, 0, 0]);
        place[head_len..].copy_from_slice(nid);
        true
    }
}

/// Text of a field: up to the first NUL, without the spaces that pad it.
pub fn ascii(field: &[u8]) -> &[u8] {
    let text = field.split(|&b| b == 0).next().unwrap_or_default();
    text.trim_ascii_end()
}

/// Puts text into a field and pads it with spaces (Base 1.4.2). What is not printable ASCII becomes
/// '?'; what is too long is cut.
pub fn set_ascii(field: &mut [u8], text: &str) {
    field.fill(b' ');
    for (slot, c) in field.iter_mut().zip(text.chars()) {
        *slot = if c == ' ' || c.is_ascii_graphic() {
            c as u8
        } else {
            b'?'
        };
    }
}
