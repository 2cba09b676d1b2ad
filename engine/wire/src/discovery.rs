//! The Discovery log page, LID 70h (Base 5.1.12.3.1).

use crate::fabrics::{Nqn, NqnError};
use crate::identify::{ascii, set_ascii};
use crate::num::{U16, U64};
use bytemuck::{Pod, Zeroable};

/// LSP of Get Log Page Discovery: extended entries are wanted.
pub const LSP_EXTENDED: u8 = 1 << 0;
/// LSP of Get Log Page Discovery: only entries of the port that is asked.
pub const LSP_PORT_LOCAL: u8 = 1 << 1;
/// LSP of Get Log Page Discovery: entries of all NVM subsystems, whatever the host may access.
pub const LSP_ALL_SUBSYSTEMS: u8 = 1 << 2;

/// Head of the Discovery log page; entries follow.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct DiscoveryLogHeader {
    /// Generation Counter: changes with every change of the page.
    pub genctr: U64,
    /// Number of Records. Off the wire: may exceed what follows.
    pub numrec: U64,
    /// Record Format, 0.
    pub recfmt: U16,
    /// Discovery Log Page Flags, of `DLPF_*`.
    pub dlpf: u8,
    /// Reserved.
    pub rsvd19: [u8; 1005],
}
layout!(DiscoveryLogHeader = 1024 {
    genctr @ 0, numrec @ 8, recfmt @ 16, dlpf @ 18, rsvd19 @ 19
});

impl DiscoveryLogHeader {
    /// DLPF, PORTLCL: the page is of the port that the host came to, as it asked (Base 2.1, 5.1.12.3.1).
    pub const DLPF_PORT_LOCAL: u8 = 1 << 1;
}

/// Discovery Log Page Entry: one way to one subsystem.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct DiscoveryLogEntry {
    /// Transport Type.
    pub trtype: TrType,
    /// Address Family.
    pub adrfam: AdrFam,
    /// Subsystem Type.
    pub subtype: SubType,
    /// Transport Requirements, see `TREQ_*`.
    pub treq: u8,
    /// Port ID.
    pub portid: U16,
    /// Controller ID, or `fabrics::CNTLID_DYNAMIC` or `CNTLID_STATIC`.
    pub cntlid: U16,
    /// Admin Max SQ Size, not zero-based; at least 32.
    pub asqsz: U16,
    /// Entry Flags, see `EFLAGS_*`.
    pub eflags: U16,
    /// Reserved.
    pub rsvd12: [u8; 20],
    /// Transport Service Identifier, ASCII: the port number.
    pub trsvcid: [u8; 32],
    /// Reserved.
    pub rsvd64: [u8; 192],
    /// NVM Subsystem Qualified Name, NUL-padded.
    pub subnqn: [u8; 256],
    /// Transport Address, ASCII.
    pub traddr: [u8; 256],
    /// Transport Specific Address Subtype, see `TcpTsas` and `RdmaTsas`.
    pub tsas: [u8; 256],
}
layout!(DiscoveryLogEntry = 1024 {
    trtype @ 0, adrfam @ 1, subtype @ 2, treq @ 3, portid @ 4, cntlid @ 6, asqsz @ 8, eflags @ 10,
    rsvd12 @ 12, trsvcid @ 32, rsvd64 @ 64, subnqn @ 256, traddr @ 512, tsas @ 768
});

impl DiscoveryLogEntry {
    /// TREQ: a secure channel is not specified.
    pub const TREQ_NOT_SPECIFIED: u8 = 0b00;
    /// TREQ: a secure channel is required.
    pub const TREQ_REQUIRED: u8 = 0b01;
    /// TREQ: a secure channel is not required.
    pub const TREQ_NOT_REQUIRED: u8 = 0b10;
    /// TREQ: the controller can disable SQ flow control.
    pub const TREQ_NO_SQ_FLOW_CONTROL: u8 = 1 << 2;

    /// EFLAGS: Duplicate Returned Information: this way leads to the discovery subsystem that was asked.
    pub const EFLAGS_DUPRETINFO: u16 = 1 << 0;
    /// EFLAGS: Explicit Persistent Connection Support for Discovery.
    pub const EFLAGS_EPCSD: u16 = 1 << 1;
    /// EFLAGS: No CDC Connectivity.
    pub const EFLAGS_NCC: u16 = 1 << 2;

    /// ASQSZ: the smallest that may be reported.
    pub const ASQSZ_MIN: u16 = 32;

    /// Sets TRADDR and TRSVCID.
    pub fn set_address(&mut self, traddr: &str, trsvcid: &str) {
        set_ascii(&mut self.traddr, traddr);
        set_ascii(&mut self.trsvcid, trsvcid);
    }

    /// TRADDR without its padding, if it is printable ASCII.
    pub fn traddr(&self) -> Option<&str> {
        printable(ascii(&self.traddr))
    }

    /// TRSVCID without its padding, if it is printable ASCII.
    pub fn trsvcid(&self) -> Option<&str> {
        printable(ascii(&self.trsvcid))
    }

    /// The subsystem's name, checked.
    pub fn subnqn(&self) -> Result<Nqn, NqnError> {
        Nqn::from_field(&self.subnqn)
    }

    /// TSAS, read as that of a TCP entry.
    pub fn tcp_tsas(&self) -> TcpTsas {
        bytemuck::cast(self.tsas)
    }

    /// TSAS, read as that of an RDMA entry.
    pub fn rdma_tsas(&self) -> RdmaTsas {
        bytemuck::cast(self.tsas)
    }
}

open_set! {
    /// TRTYPE, Transport Type.
    pub struct TrType(u8);
    UNSPECIFIED = 0, "not specified";
    RDMA = 1, "RDMA";
    FC = 2, "Fibre Channel";
    TCP = 3, "TCP";
    LOOP = 254, "intra-host";
}

open_set! {
    /// ADRFAM, Address Family.
    pub struct AdrFam(u8);
    UNSPECIFIED = 0, "not specified";
    IPV4 = 1, "IPv4";
    IPV6 = 2, "IPv6";
    INFINIBAND = 3, "InfiniBand";
    FC = 4, "Fibre Channel";
    LOOP = 254, "intra-host";
}

open_set! {
    /// SUBTYPE, Subsystem Type.
    pub struct SubType(u8);
    REFERRAL = 1, "referral to another discovery subsystem";
    NVM = 2, "NVM subsystem";
    CURRENT_DISCOVERY = 3, "the current discovery subsystem";
}

/// TSAS of TCP (NVMe/TCP 3.6.1.1).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct TcpTsas {
    /// Security Type.
    pub sectype: TcpSecType,
    /// Reserved.
    pub rsvd1: [u8; 255],
}
layout!(TcpTsas = 256 {
    sectype @ 0, rsvd1 @ 1
});

open_set! {
    /// SECTYPE of TCP.
    pub struct TcpSecType(u8);
    NONE = 0, "no security";
    TLS_1_2 = 1, "TLS 1.2";
    TLS_1_3 = 2, "TLS 1.3";
}

/// TSAS of RDMA (NVMe/RDMA 3.1).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct RdmaTsas {
    /// RDMA QP Service Type.
    pub rdma_qptype: RdmaQpType,
    /// RDMA Provider Type.
    pub rdma_prtype: RdmaPrType,
    /// RDMA Connection Management Service.
    pub rdma_cms: RdmaCms,
    /// Reserved.
    pub rsvd3: [u8; 5],
    /// RDMA Partition Key, for InfiniBand.
    pub rdma_pkey: U16,
    /// Reserved.
    pub rsvd10: [u8; 246],
}
layout!(RdmaTsas = 256 {
    rdma_qptype @ 0, rdma_prtype @ 1, rdma_cms @ 2, rsvd3 @ 3, rdma_pkey @ 8, rsvd10 @ 10
});

open_set! {
    /// RDMA_QPTYPE.
    pub struct RdmaQpType(u8);
    RELIABLE_CONNECTED = 1, "Reliable Connected";
    RELIABLE_DATAGRAM = 2, "Reliable Datagram";
}

open_set! {
    /// RDMA_PRTYPE.
    pub struct RdmaPrType(u8);
    NONE = 1, "no provider specified";
    INFINIBAND = 2, "InfiniBand";
    ROCE = 3, "RoCE (v1)";
    ROCE_V2 = 4, "RoCEv2";
    IWARP = 5, "iWARP";
}

open_set! {
    /// RDMA_CMS.
    pub struct RdmaCms(u8);
    RDMA_CM = 1, "RDMA_IP_CM";
}

/// The peer's text goes to terminals and logs: nothing there may move a cursor.
fn printable(text: &[u8]) -> Option<&str> {
    let clean = text.iter().all(|&b| b == b' ' || b.is_ascii_graphic());
    core::str::from_utf8(text).ok().filter(|_| clean)
}
