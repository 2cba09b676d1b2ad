//! RoCEv2 headers and the messages of the communication manager (InfiniBand Architecture
//! Specification, volume 1: chapter 9 transport layer, chapter 12 communication management, annex
//! A11 IP CM service, annex A17 RoCEv2).
//!
//! A UDP datagram to [`PORT`] is a BTH, the extension headers its opcode names, payload, pad to four
//! bytes, and the ICRC. All numbers are big-endian but the ICRC.

use crate::num::{Be16, Be24, Be32, Be64};
use bytemuck::{Pod, Zeroable};

/// The UDP port IANA assigned to RoCEv2.
pub const PORT: u16 = 4791;
/// Bytes of the invariant CRC behind every packet.
pub const ICRC_LEN: usize = 4;
/// The partition every member of which may talk to every other: RoCE knows no other.
pub const PKEY_DEFAULT: u16 = 0xFFFF;
/// The queue pair the communication manager is reached at, and its Q_Key.
pub const CM_QPN: u32 = 1;
/// Q_Key of [`CM_QPN`].
pub const CM_QKEY: u32 = 0x8001_0000;

open_set! {
    /// BTH opcode: three bits of transport service, five of operation (9.2).
    pub struct Opcode(u8);
    SEND_FIRST = 0x00, "RC SEND First";
    SEND_MIDDLE = 0x01, "RC SEND Middle";
    SEND_LAST = 0x02, "RC SEND Last";
    SEND_LAST_IMM = 0x03, "RC SEND Last with Immediate";
    SEND_ONLY = 0x04, "RC SEND Only";
    SEND_ONLY_IMM = 0x05, "RC SEND Only with Immediate";
    WRITE_FIRST = 0x06, "RC RDMA WRITE First";
    WRITE_MIDDLE = 0x07, "RC RDMA WRITE Middle";
    WRITE_LAST = 0x08, "RC RDMA WRITE Last";
    WRITE_LAST_IMM = 0x09, "RC RDMA WRITE Last with Immediate";
    WRITE_ONLY = 0x0A, "RC RDMA WRITE Only";
    WRITE_ONLY_IMM = 0x0B, "RC RDMA WRITE Only with Immediate";
    READ_REQUEST = 0x0C, "RC RDMA READ Request";
    READ_RESPONSE_FIRST = 0x0D, "RC RDMA READ response First";
    READ_RESPONSE_MIDDLE = 0x0E, "RC RDMA READ response Middle";
    READ_RESPONSE_LAST = 0x0F, "RC RDMA READ response Last";
    READ_RESPONSE_ONLY = 0x10, "RC RDMA READ response Only";
    ACKNOWLEDGE = 0x11, "RC Acknowledge";
    ATOMIC_ACKNOWLEDGE = 0x12, "RC ATOMIC Acknowledge";
    COMPARE_SWAP = 0x13, "RC CmpSwap";
    FETCH_ADD = 0x14, "RC FetchAdd";
    SEND_LAST_INVALIDATE = 0x16, "RC SEND Last with Invalidate";
    SEND_ONLY_INVALIDATE = 0x17, "RC SEND Only with Invalidate";
    UD_SEND_ONLY = 0x64, "UD SEND Only";
    CONGESTION = 0x81, "CNP";
}

bit_fields! {
    /// Byte 1 of the BTH.
    pub struct BthFlags(u8) {
        /// Transport header version: 0.
        tver, with_tver: u8 = 4 @ 0;
        /// Bytes of pad between payload and ICRC.
        pad, with_pad: u8 = 2 @ 4;
        /// Migration state; hardware expects "migrated" (1), nobody else looks.
        migrated, with_migrated: bool = 1 @ 6;
        /// Solicited event.
        solicited, with_solicited: bool = 1 @ 7;
    }
}

/// Base Transport Header (9.2).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Bth {
    /// Operation.
    pub opcode: Opcode,
    /// Solicited event, migration state, pad count, version.
    pub flags: BthFlags,
    /// Partition key.
    pub pkey: Be16,
    /// FECN (bit 7), BECN (bit 6); not covered by the ICRC.
    pub ecn: u8,
    /// The queue pair it is for.
    pub dest_qpn: Be24,
    /// AckReq (bit 7).
    pub ack_req: u8,
    /// Packet sequence number.
    pub psn: Be24,
}
layout!(Bth = 12 { opcode @ 0, flags @ 1, pkey @ 2, ecn @ 4, dest_qpn @ 5, ack_req @ 8, psn @ 9 });

/// `ack_req` of a packet that wants an acknowledgement.
pub const ACK_REQ: u8 = 1 << 7;
/// `ecn`: backward congestion notification.
pub const BECN: u8 = 1 << 6;

/// RDMA Extended Transport Header: where an RDMA WRITE or READ begins (9.3.3).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Reth {
    /// Address of the first byte, as the owner of the memory named it.
    pub va: Be64,
    /// The key to the memory.
    pub rkey: Be32,
    /// Bytes of the whole message.
    pub len: Be32,
}
layout!(Reth = 16 { va @ 0, rkey @ 8, len @ 12 });

/// ACK Extended Transport Header (9.3.5).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Aeth {
    /// What kind of acknowledgement.
    pub syndrome: Syndrome,
    /// Messages the responder has completed.
    pub msn: Be24,
}
layout!(Aeth = 4 { syndrome @ 0, msn @ 1 });

bit_fields! {
    /// AETH syndrome (9.7.5.1): kind and value.
    pub struct Syndrome(u8) {
        /// Credits of an ACK, timer of an RNR NAK, code of a NAK.
        value, with_value: u8 = 5 @ 0;
        /// 0 ACK, 1 RNR NAK, 3 NAK.
        kind, with_kind: u8 = 2 @ 5;
    }
}

impl Syndrome {
    /// ACK without a limit of credits.
    pub const ACK: Syndrome = Syndrome(0x1F);
    /// NAK: PSN sequence error.
    pub const NAK_SEQUENCE: Syndrome = Syndrome(0x60);
    /// NAK: invalid request.
    pub const NAK_INVALID: Syndrome = Syndrome(0x61);
    /// NAK: remote access error.
    pub const NAK_ACCESS: Syndrome = Syndrome(0x62);
    /// NAK: remote operational error.
    pub const NAK_OPERATION: Syndrome = Syndrome(0x63);

    /// `kind` of an ACK.
    pub const KIND_ACK: u8 = 0;
    /// `kind` of an RNR NAK.
    pub const KIND_RNR: u8 = 1;
    /// `kind` of a NAK.
    pub const KIND_NAK: u8 = 3;

    /// RNR NAK with a timer code below 32.
    pub const fn rnr(timer: u8) -> Syndrome {
        Syndrome(0).with_kind(Syndrome::KIND_RNR).with_value(timer)
    }
}

/// Immediate Data Extended Transport Header (9.3.6).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct ImmDt {
    /// Four bytes of the consumer's.
    pub data: Be32,
}
layout!(ImmDt = 4 { data @ 0 });

/// Invalidate Extended Transport Header (9.3.7).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Ieth {
    /// The key that is void when the message is delivered.
    pub rkey: Be32,
}
layout!(Ieth = 4 { rkey @ 0 });

/// Datagram Extended Transport Header (9.3.2).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Deth {
    /// Q_Key of the destination.
    pub qkey: Be32,
    /// Reserved.
    pub rsvd4: u8,
    /// Who sends.
    pub src_qpn: Be24,
}
layout!(Deth = 8 { qkey @ 0, rsvd4 @ 4, src_qpn @ 5 });

/// Atomic Extended Transport Header (9.3.4): here so that its length is known.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct AtomicEth {
    /// Address.
    pub va: Be64,
    /// Key.
    pub rkey: Be32,
    /// Swapped in, or added.
    pub swap: Be64,
    /// Compared.
    pub compare: Be64,
}
layout!(AtomicEth = 28 { va @ 0, rkey @ 8, swap @ 12, compare @ 20 });

open_set! {
    /// Attribute of a communication management MAD: which message it is (12.6). As a number; the
    /// header has it big-endian.
    pub struct CmAttribute(u16);
    REQ = 0x0010, "REQ";
    MRA = 0x0011, "MRA";
    REJ = 0x0012, "REJ";
    REP = 0x0013, "REP";
    RTU = 0x0014, "RTU";
    DREQ = 0x0015, "DREQ";
    DREP = 0x0016, "DREP";
}

open_set! {
    /// Why a connection was rejected (12.6.7.2).
    pub struct RejectReason(u16);
    NO_QP = 1, "no QP available";
    NO_RESOURCES = 3, "no resources available";
    TIMEOUT = 4, "timeout";
    UNSUPPORTED = 5, "unsupported request";
    INVALID_COMM_ID = 6, "invalid communication ID";
    INVALID_SERVICE_ID = 8, "invalid service ID";
    INVALID_TRANSPORT = 9, "invalid transport service type";
    STALE = 10, "stale connection";
    INVALID_GID = 12, "primary remote GID rejected";
    INVALID_MTU = 26, "path MTU too large";
    CONSUMER = 28, "consumer reject";
    DUPLICATE_COMM_ID = 30, "duplicate local communication ID";
}

/// Bytes of a MAD.
pub const MAD_LEN: usize = 256;
/// Management class of communication management.
pub const MGMT_CLASS_CM: u8 = 0x07;
/// Its only method.
pub const METHOD_SEND: u8 = 0x03;

/// What every management datagram starts with (13.4.3).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct MadHeader {
    /// 1.
    pub base_version: u8,
    /// [`MGMT_CLASS_CM`].
    pub mgmt_class: u8,
    /// 2.
    pub class_version: u8,
    /// [`METHOD_SEND`].
    pub method: u8,
    /// 0.
    pub status: Be16,
    /// 0.
    pub class_specific: Be16,
    /// Transaction; answers echo it.
    pub tid: Be64,
    /// A [`CmAttribute`].
    pub attribute: Be16,
    /// Reserved.
    pub rsvd18: [u8; 2],
    /// 0.
    pub modifier: Be32,
}
layout!(MadHeader = 24 {
    base_version @ 0, mgmt_class @ 1, class_version @ 2, method @ 3, status @ 4, class_specific @ 6,
    tid @ 8, attribute @ 16, rsvd18 @ 18, modifier @ 20
});

/// REQ: asks for a connection (12.6.5).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct CmReq {
    /// The sender's name for the connection.
    pub local_id: Be32,
    /// Reserved.
    pub rsvd4: [u8; 4],
    /// What is asked for: [`service_id`] of a port.
    pub service_id: Be64,
    /// The sender's channel adapter.
    pub ca_guid: Be64,
    /// Reserved.
    pub rsvd24: [u8; 4],
    /// Q_Key: 0.
    pub qkey: Be32,
    /// The sender's queue pair.
    pub qpn: Be24,
    /// READs of the receiver that the sender serves at a time.
    pub responder_resources: u8,
    /// EE context: 0.
    pub eecn: Be24,
    /// READs the sender may have outstanding.
    pub initiator_depth: u8,
    /// Remote EE context: 0.
    pub remote_eecn: Be24,
    /// How long the receiver may take to answer, transport service, flow control.
    pub remote_timeout: ReqTimeout,
    /// PSN the receiver is to begin its own sends with.
    pub starting_psn: Be24,
    /// How long the sender takes to answer, and its retry count.
    pub local_timeout: ReqRetry,
    /// Partition key.
    pub pkey: Be16,
    /// Path MTU and RNR retry count.
    pub path: ReqPath,
    /// How often messages are repeated, and SRQ.
    pub cm_retries: ReqCmRetries,
    /// LID of the sender: 0xFFFF with RoCE.
    pub local_lid: Be16,
    /// LID of the receiver: 0xFFFF with RoCE.
    pub remote_lid: Be16,
    /// The sender's address.
    pub local_gid: [u8; 16],
    /// The receiver's address.
    pub remote_gid: [u8; 16],
    /// Flow label (upper 20 bits) and packet rate (lower 6).
    pub flow_rate: Be32,
    /// Traffic class.
    pub traffic_class: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Service level and subnet-local.
    pub sl: u8,
    /// Local ACK timeout in the upper five bits: 4.096 us times a power of two; 0 is none.
    pub ack_timeout: u8,
    /// The alternate path: zeros are none.
    pub alternate: [u8; 44],
    /// Private data: with the IP CM service a [`CmaHeader`] and 56 bytes of the consumer's.
    pub private_data: [u8; 92],
}
layout!(CmReq = 232 {
    local_id @ 0, rsvd4 @ 4, service_id @ 8, ca_guid @ 16, rsvd24 @ 24, qkey @ 28, qpn @ 32,
    responder_resources @ 35, eecn @ 36, initiator_depth @ 39, remote_eecn @ 40,
    remote_timeout @ 43, starting_psn @ 44, local_timeout @ 47, pkey @ 48, path @ 50,
    cm_retries @ 51, local_lid @ 52, remote_lid @ 54, local_gid @ 56, remote_gid @ 72,
    flow_rate @ 88, traffic_class @ 92, hop_limit @ 93, sl @ 94, ack_timeout @ 95, alternate @ 96,
    private_data @ 140
});

bit_fields! {
    /// Byte 43 of a REQ.
    pub struct ReqTimeout(u8) {
        /// End-to-end flow control.
        flow_control, with_flow_control: bool = 1 @ 0;
        /// Transport service: 0 is reliable connected.
        transport, with_transport: u8 = 2 @ 1;
        /// 4.096 us times two to the power of this.
        timeout, with_timeout: u8 = 5 @ 3;
    }
}

bit_fields! {
    /// Byte 47 of a REQ.
    pub struct ReqRetry(u8) {
        /// Retries of packets.
        retry_count, with_retry_count: u8 = 3 @ 0;
        /// 4.096 us times two to the power of this.
        timeout, with_timeout: u8 = 5 @ 3;
    }
}

bit_fields! {
    /// Byte 50 of a REQ.
    pub struct ReqPath(u8) {
        /// RNR retry count; 7 is for ever.
        rnr_retry, with_rnr_retry: u8 = 3 @ 0;
        /// Reliable datagram channel exists.
        rdc, with_rdc: bool = 1 @ 3;
        /// Path MTU: 1 is 256 bytes, 5 is 4096.
        mtu, with_mtu: u8 = 4 @ 4;
    }
}

bit_fields! {
    /// Byte 51 of a REQ.
    pub struct ReqCmRetries(u8) {
        /// Extended transport: 0.
        extended, with_extended: u8 = 3 @ 0;
        /// The sender's QP has a shared receive queue.
        srq, with_srq: bool = 1 @ 3;
        /// How often messages are repeated.
        retries, with_retries: u8 = 4 @ 4;
    }
}

/// What the private data of a REQ starts with: addresses as sockets know them (annex A11).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct CmaHeader {
    /// 0.
    pub version: u8,
    /// IP version in the upper four bits.
    pub ip_version: u8,
    /// The sender's port.
    pub port: Be16,
    /// The sender's address; IPv4 in the last four bytes.
    pub src: [u8; 16],
    /// The receiver's address; IPv4 in the last four bytes.
    pub dst: [u8; 16],
}
layout!(CmaHeader = 36 { version @ 0, ip_version @ 1, port @ 2, src @ 4, dst @ 20 });

/// The service ID of a port of the RDMA port space TCP (annex A11).
pub const fn service_id(port: u16) -> u64 {
    0x0106_0000 | port as u64
}

/// REP: accepts (12.6.8).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct CmRep {
    /// The sender's name for the connection.
    pub local_id: Be32,
    /// The receiver's.
    pub remote_id: Be32,
    /// Q_Key: 0.
    pub qkey: Be32,
    /// The sender's queue pair.
    pub qpn: Be24,
    /// Reserved.
    pub rsvd15: u8,
    /// EE context: 0.
    pub eecn: Be24,
    /// Reserved.
    pub rsvd19: u8,
    /// PSN the receiver is to begin its own sends with.
    pub starting_psn: Be24,
    /// Reserved.
    pub rsvd23: u8,
    /// READs of the receiver that the sender serves at a time.
    pub responder_resources: u8,
    /// READs the sender may have outstanding.
    pub initiator_depth: u8,
    /// Target ACK delay, failover, flow control.
    pub delay: RepDelay,
    /// RNR retry count and SRQ.
    pub rnr: RepRnr,
    /// The sender's channel adapter.
    pub ca_guid: Be64,
    /// The consumer's.
    pub private_data: [u8; 196],
}
layout!(CmRep = 232 {
    local_id @ 0, remote_id @ 4, qkey @ 8, qpn @ 12, rsvd15 @ 15, eecn @ 16, rsvd19 @ 19,
    starting_psn @ 20, rsvd23 @ 23, responder_resources @ 24, initiator_depth @ 25, delay @ 26,
    rnr @ 27, ca_guid @ 28, private_data @ 36
});

bit_fields! {
    /// Byte 26 of a REP.
    pub struct RepDelay(u8) {
        /// End-to-end flow control.
        flow_control, with_flow_control: bool = 1 @ 0;
        /// Failover accepted.
        failover, with_failover: u8 = 2 @ 1;
        /// Target ACK delay, 4.096 us times two to the power of this.
        ack_delay, with_ack_delay: u8 = 5 @ 3;
    }
}

bit_fields! {
    /// Byte 27 of a REP.
    pub struct RepRnr(u8) {
        /// The sender's QP has a shared receive queue.
        srq, with_srq: bool = 1 @ 4;
        /// RNR retry count; 7 is for ever.
        rnr_retry, with_rnr_retry: u8 = 3 @ 5;
    }
}

/// REJ: refuses or aborts (12.6.7).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct CmRej {
    /// The sender's name for the connection; 0 if it has none.
    pub local_id: Be32,
    /// The receiver's.
    pub remote_id: Be32,
    /// What is rejected, in the upper two bits: 0 REQ, 1 REP, 2 no message.
    pub rejected: u8,
    /// Bytes of `ari` in the upper seven bits.
    pub ari_len: u8,
    /// A [`RejectReason`].
    pub reason: Be16,
    /// What would be acceptable.
    pub ari: [u8; 72],
    /// The consumer's.
    pub private_data: [u8; 148],
}
layout!(CmRej = 232 {
    local_id @ 0, remote_id @ 4, rejected @ 8, ari_len @ 9, reason @ 10, ari @ 12, private_data @ 84
});

/// MRA: the answer will take a while (12.6.6).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct CmMra {
    /// The sender's name for the connection.
    pub local_id: Be32,
    /// The receiver's.
    pub remote_id: Be32,
    /// What was received, in the upper two bits: 0 REQ, 1 REP.
    pub received: u8,
    /// How long it takes, in the upper five bits: 4.096 us times a power of two.
    pub service_timeout: u8,
    /// The consumer's.
    pub private_data: [u8; 222],
}
layout!(CmMra = 232 {
    local_id @ 0, remote_id @ 4, received @ 8, service_timeout @ 9, private_data @ 10
});

/// RTU and DREP: ready to use (12.6.9), disconnected (12.6.11).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct CmRtu {
    /// The sender's name for the connection.
    pub local_id: Be32,
    /// The receiver's.
    pub remote_id: Be32,
    /// The consumer's.
    pub private_data: [u8; 224],
}
layout!(CmRtu = 232 { local_id @ 0, remote_id @ 4, private_data @ 8 });

/// DREQ: asks to disconnect (12.6.10).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct CmDreq {
    /// The sender's name for the connection.
    pub local_id: Be32,
    /// The receiver's.
    pub remote_id: Be32,
    /// The receiver's queue pair.
    pub remote_qpn: Be24,
    /// Reserved.
    pub rsvd11: u8,
    /// The consumer's.
    pub private_data: [u8; 220],
}
layout!(CmDreq = 232 { local_id @ 0, remote_id @ 4, remote_qpn @ 8, rsvd11 @ 11, private_data @ 12 });
