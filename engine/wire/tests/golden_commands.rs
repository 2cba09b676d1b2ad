//! Commands, completions, Fabrics and NVMe/TCP, both ways. What says "captured" comes from a trace of
//! the Linux 6.1 host and target; the rest is written down from the layouts in the specifications.

mod bytes;

use bytes::{both_ways, hex, sparse};
use ferroce_wire::fabrics::*;
use ferroce_wire::feature::{DsmRange, FeatureId, FeatureSelect};
use ferroce_wire::identify::{Cns, Csi};
use ferroce_wire::log::LogId;
use ferroce_wire::num::*;
use ferroce_wire::prop::{Cap, Cc, Crto, Csts, NSSR_RESET, PropertyOffset, Vs};
use ferroce_wire::rdma::*;
use ferroce_wire::sqe::Prp;
use ferroce_wire::status::{SCT_COMMAND_SPECIFIC, SCT_MEDIA};
use ferroce_wire::tcp::*;
use ferroce_wire::*;

#[test]
fn numbers() {
    both_number(
        U16::new(0x0102).get() as u128,
        bytemuck::bytes_of(&U16::new(0x0102)),
        &[2, 1],
    );
    both_number(
        u128::from(U24::new(0x01_0203).get()),
        bytemuck::bytes_of(&U24::new(0x01_0203)),
        &[3, 2, 1],
    );
    both_number(
        u128::from(U32::new(5).get()),
        bytemuck::bytes_of(&U32::new(5)),
        &[5, 0, 0, 0],
    );
    assert_eq!(
        bytemuck::bytes_of(&U64::new(0x0102_0304_0506_0708)),
        [8, 7, 6, 5, 4, 3, 2, 1]
    );
    assert_eq!(bytemuck::bytes_of(&U128::new(1))[..2], [1, 0]);
    assert_eq!(
        format!("{:?} {}", U32::new(77), U16::new(0xFFFF)),
        "77 65535"
    );
    assert!(
        U32::new(0x0100) > U32::new(0x00FF),
        "by number, not by byte"
    );
}

fn both_number(number: u128, wire: &[u8], expected: &[u8]) {
    assert_eq!(wire, expected);
    let back = expected
        .iter()
        .rev()
        .fold(0u128, |sum, &byte| sum << 8 | u128::from(byte));
    assert_eq!(number, back);
}

/// Captured: the Linux host asks for its admin queue and for one I/O queue; the target's answer.
#[test]
fn rdma_private_data() {
    let admin = RdmaCmRequest::new(0, 32);
    both_ways(&sparse(32, &[(4, &hex("20001f00"))]), admin);
    assert_eq!(admin.entries(), 32);
    let io = RdmaCmRequest::new(1, 32);
    both_ways(&sparse(32, &[(2, &hex("010020001f00"))]), io);
    both_ways(&sparse(32, &[(2, &hex("20"))]), RdmaCmAccept::new(32));
    assert_eq!(RdmaCmRequest::new(1, u16::MAX).entries(), 0xFFFF);
    let widest = RdmaCmRequest {
        hsqsize_z: u16::MAX.into(),
        ..io
    };
    assert_eq!(widest.entries(), 0x1_0000);

    // Not captured: a newer host says its controller, and a refusal.
    let named = RdmaCmRequest {
        cntlid: 0x0102.into(),
        ..io
    };
    both_ways(&sparse(32, &[(2, &hex("010020001f000201"))]), named);
    let reject = RdmaCmReject::new(RdmaCmStatus::INVALID_HSQSIZE);
    both_ways(&hex("00000400"), reject);
    assert_eq!(reject.status().to_string(), "Invalid HSQSIZE (0004h)");
}

/// Captured: a read of 8 blocks by the Linux RDMA host.
#[test]
fn read_with_a_keyed_sgl() {
    let bytes = hex("02400a00 01000000 00000000 00000000 00000000 00000000
         0000000000000000 001000 33030000 4f
         00000000 00000000 07000000 00000000 00000000 00000000");
    let sgl = KeyedSgl::new(0, 4096, 0x333, true);
    let mut sqe = Sqe::lba_range(NvmOpcode::READ, 1, 0, 8).with_sgl(sgl.into());
    sqe.cid = U16::new(10);
    both_ways(&bytes, sqe);

    let sqe = Sqe::read(&bytes).unwrap();
    assert_eq!(
        (sqe.nvm_opcode(), sqe.psdt(), sqe.fuse()),
        (NvmOpcode::READ, Sqe::PSDT_SGL, 0)
    );
    assert_eq!(
        (sqe.slba(), sqe.nlb_z(), sqe.blocks(), sqe.fua()),
        (0, 7, 8, false)
    );
    assert_eq!(sqe.dptr.keyed(), sgl);
    assert!(sqe.dptr.keyed().wants_invalidate());
    assert_eq!(sqe.dptr.sgl_type(), Sgl::TYPE_KEYED);
}

#[test]
fn write_with_every_field() {
    let bytes = hex("01403412 78563412 00000000 00000000 0807060504030201
         0000000000000000 00001000 000000 5a
         88776655 44332211 ffff00c4 00000000 00000000 00000000");
    let mut sqe = Sqe::lba_range(
        NvmOpcode::WRITE,
        0x1234_5678,
        0x1122_3344_5566_7788,
        0x1_0000,
    )
    .with_sgl(Sgl::transport(0x10_0000))
    .with_ids(0x1234, 0x1234_5678);
    sqe.mptr = U64::new(0x0102_0304_0506_0708);
    sqe.set_fua(true);
    sqe.cdw12 = U32::new(sqe.cdw12.get() | Sqe::CDW12_LR | 1 << 26);
    both_ways(&bytes, sqe);
    assert!(sqe.fua() && sqe.lr() && !sqe.deac());
    assert_eq!(
        (sqe.prinfo(), sqe.blocks(), sqe.slba()),
        (1, 65536, 0x1122_3344_5566_7788)
    );
    sqe.set_fua(false);
    assert!(!sqe.fua() && sqe.lr());
    assert_eq!(sqe.nlb_z(), 0xFFFF);
}

#[test]
fn sgl_kinds() {
    both_ways(
        &hex("0010000000000000 00200000 000000 01"),
        Sgl::in_capsule(0x1000, 0x2000),
    );
    both_ways(
        &hex("0010000000000000 00200000 000000 00"),
        Sgl::data_block(0x1000, 0x2000),
    );
    both_ways(
        &hex("0000000000000000 00200000 000000 5a"),
        Sgl::transport(0x2000),
    );
    both_ways(
        &hex("009c62027c8dffff 000400 9c040000 4f"),
        KeyedSgl::new(0xFFFF_8D7C_0262_9C00, 1024, 0x49C, true),
    );
    both_ways(
        &hex("0000000000000000 ffffff 01000000 40"),
        KeyedSgl::new(0, U24::MAX, 1, false),
    );
    both_ways(
        &hex("0010000000000000 0020000000000000"),
        Prp {
            prp1: 0x1000.into(),
            prp2: 0x2000.into(),
        },
    );
    assert_eq!(
        (Sgl::transport(1).sgl_type(), Sgl::transport(1).subtype()),
        (Sgl::TYPE_TRANSPORT, 0xA)
    );
    assert_eq!(
        (
            Sgl::in_capsule(0, 1).sgl_type(),
            Sgl::in_capsule(0, 1).subtype()
        ),
        (Sgl::TYPE_DATA_BLOCK, 1)
    );
}

/// The log page read of the first line is captured, its buffer left out.
#[test]
fn admin_commands() {
    let log = Sqe::get_log_page(LogId::COMMAND_EFFECTS, 0, 0, 4096);
    let fields = sparse(64, &[(0, &hex("02")), (40, &hex("0500ff03 00000000"))]);
    both_ways(&fields, log);
    assert_eq!(
        (log.lid(), log.log_len(), log.log_offset(), log.rae()),
        (LogId::COMMAND_EFFECTS, 4096, 0, false)
    );

    let long = Sqe::get_log_page(LogId::DISCOVERY, 0, 0x1_0000_0400, 0x0800_0000).with_lsp(5);
    both_ways(
        &sparse(
            64,
            &[(0, &[2]), (40, &hex("7005ffff ff010000 00040000 01000000"))],
        ),
        long,
    );
    assert_eq!(
        (long.log_len(), long.log_offset(), long.lsp()),
        (0x0800_0000, 0x1_0000_0400, 5)
    );

    let set = Sqe::set_features(FeatureId::NUMBER_OF_QUEUES, 0, 0x0003_0003);
    both_ways(
        &sparse(64, &[(0, &[9]), (40, &hex("07000000 03000300"))]),
        set,
    );
    let get = Sqe::get_features(FeatureId::KATO, 0, FeatureSelect::SUPPORTED);
    both_ways(&sparse(64, &[(0, &[0x0A]), (40, &hex("0f030000"))]), get);
    assert_eq!(
        (get.fid(), get.feature_select(), set.feature_save()),
        (FeatureId::KATO, FeatureSelect::SUPPORTED, false)
    );

    let identify = Sqe::identify(Cns::CS_NAMESPACE, 3, Csi::ZONED);
    both_ways(
        &sparse(64, &[(0, &[6]), (4, &[3]), (40, &hex("05000000 00000002"))]),
        identify,
    );
    assert_eq!(
        (
            identify.cns(),
            identify.identify_csi(),
            identify.identify_cntid()
        ),
        (Cns::CS_NAMESPACE, Csi::ZONED, 0)
    );

    let abort = Sqe::abort(0x0102, 0x0304);
    both_ways(&sparse(64, &[(0, &[8]), (40, &hex("02010403"))]), abort);
    assert_eq!((abort.abort_sqid(), abort.abort_cid()), (0x0102, 0x0304));

    let dsm = Sqe::dsm(1, 256, Sqe::DSM_AD);
    both_ways(
        &sparse(64, &[(0, &[9]), (4, &[1]), (40, &hex("ff000000 04000000"))]),
        dsm,
    );
    assert_eq!((dsm.dsm_ranges(), dsm.dsm_ad()), (256, true));
    both_ways(
        &hex("01000000 00100000 0000000001000000"),
        DsmRange {
            cattr: 1.into(),
            nlb: 4096.into(),
            slba: (1 << 32).into(),
        },
    );
}

#[test]
fn queues_over_pcie() {
    let cq = Sqe::create_io_cq(3, 1024, 0x8000, Some(7));
    both_ways(
        &sparse(
            64,
            &[
                (0, &[5]),
                (24, &hex("0080")),
                (40, &hex("0300ff03 03000700")),
            ],
        ),
        cq,
    );
    assert_eq!(
        (cq.queue_qid(), cq.queue_entries(), cq.queue_vector()),
        (3, 1024, Some(7))
    );
    let sq = Sqe::create_io_sq(3, 65536, 0x8000, 4);
    both_ways(
        &sparse(
            64,
            &[
                (0, &[1]),
                (24, &hex("0080")),
                (40, &hex("0300ffff 01000400")),
            ],
        ),
        sq,
    );
    assert_eq!(
        (sq.queue_cqid(), sq.queue_entries(), sq.queue_contiguous()),
        (4, 65536, true)
    );
    both_ways(&sparse(64, &[(0, &[0]), (40, &[3])]), Sqe::delete_io_sq(3));
    both_ways(&sparse(64, &[(0, &[4]), (40, &[3])]), Sqe::delete_io_cq(3));
    assert_eq!(
        sq.prp(),
        Prp {
            prp1: 0x8000.into(),
            prp2: 0.into()
        }
    );
}

/// Captured: the answers to Connect, Property Get of CAP, and a read the target refused.
#[test]
fn completions() {
    let mut cqe = Cqe::new(0, Status::SUCCESS).with_dw0(
        ConnectResponse {
            cntlid: 1,
            authreq: 0,
        }
        .dw0(),
    );
    cqe.sqhd = 1.into();
    cqe.sqid = 1.into();
    both_ways(&hex("01000000 00000000 0100 0100 0000 0000"), cqe);

    let cap = Cap(0x0000_0820_0F00_007F);
    let mut cqe = Cqe::new(2, Status::SUCCESS).with_result64(cap.0);
    cqe.sqhd = 2.into();
    both_ways(&hex("7f00000f 20080000 0200 0000 0200 0000"), cqe);
    assert_eq!(cqe.result64(), cap.0);
    assert_eq!(cap.css(), Cap::CSS_NVM | Cap::CSS_IOCSS);

    let mut cqe = Cqe::new(10, Status::DATA_SGL_LENGTH_INVALID.dnr().more());
    cqe.sqhd = 2.into();
    cqe.sqid = 1.into();
    both_ways(&hex("00000000 00000000 0200 0100 0a00 1ec0"), cqe);
    assert_eq!(cqe.status().to_string(), "Data SGL Length Invalid (600Fh)");
    assert_eq!(cqe.status().code(), Status::DATA_SGL_LENGTH_INVALID);
}

#[test]
fn phase_and_status_leave_each_other_alone() {
    let mut cqe = Cqe::new(1, Status::INVALID_FIELD.dnr());
    cqe.set_phase(true);
    assert_eq!(
        (cqe.status.get(), cqe.status(), cqe.phase()),
        (0x8005, Status::INVALID_FIELD.dnr(), true)
    );
    cqe.set_status(Status::SUCCESS);
    assert!(cqe.phase() && cqe.status().is_success());
    cqe.set_phase(false);
    assert_eq!(cqe.status.get(), 0);
}

#[test]
fn status_fields() {
    let status = Status::COMPARE_FAILURE.with_crd(2).dnr();
    assert_eq!(status.0, 0x5285);
    assert_eq!(
        (status.sct(), status.sc(), status.crd()),
        (SCT_MEDIA, 0x85, 2)
    );
    assert!(status.is_dnr() && !status.is_more() && !status.is_success());
    assert_eq!(
        Status::new(SCT_COMMAND_SPECIFIC, 0x82),
        Status::CONNECT_INVALID_PARAMETERS
    );
    assert_eq!(Status::CONNECT_INVALID_HOST.0, 0x184);
    assert_eq!(Status::AUTHENTICATION_REQUIRED.0, 0x191);
    assert_eq!(Status(0x7C2).to_string(), "unknown (07C2h)");
    assert_eq!(
        Status::ANA_TRANSITION.to_string(),
        "Asymmetric Access Transition (0303h)"
    );
    assert_eq!(format!("{:?}", NvmOpcode::DSM), "Dataset Management (09h)");
    assert_eq!(FabricsType(0x77).to_string(), "unknown (77h)");
}

/// Captured: the admin queue's Connect of the Linux host, KATO 5 s.
#[test]
fn connect() {
    let bytes = hex("7f400000 01000000 00000000 00000000 00000000 00000000
         009c62027c8dffff 000400 9c040000 4f
         0000 0000 1f00 00 00 88130000 000000000000000000000000");
    let sgl = KeyedSgl::new(0xFFFF_8D7C_0262_9C00, 1024, 0x49C, true);
    let connect = ConnectCmd::new(0, 31, 0, 5000, sgl.into());
    both_ways(&bytes, connect);
    let sqe = Sqe::read(&bytes).unwrap();
    assert_eq!(sqe.fabrics_type(), Some(FabricsType::CONNECT));
    assert_eq!(ConnectCmd::of(&sqe), &connect);
    assert_eq!(connect.to_sqe(), sqe);
    assert_eq!(
        (connect.entries(), connect.no_sq_flow_control()),
        (32, false)
    );
}

/// Captured, the subsystem's name replaced.
#[test]
fn connect_data() {
    let bytes = sparse(
        1024,
        &[
            (0, b"0123456789abcdef\xff\xff"),
            (256, DISCOVERY_NQN.as_bytes()),
            (512, b"nqn.2026-11.test:host"),
        ],
    );
    let host = Nqn::new("nqn.2026-11.test:host").unwrap();
    let data = ConnectData::new(
        *b"0123456789abcdef",
        CNTLID_DYNAMIC,
        &Nqn::discovery(),
        &host,
    );
    both_ways(&bytes, data);
    assert!(Nqn::from_field(&data.subnqn).unwrap().is_discovery());
    assert_eq!(Nqn::from_field(&data.hostnqn), Ok(host));
}

/// Captured: Property Get of CAP, Property Set of CC, and the values.
#[test]
fn properties() {
    let get = PropertyGet::new(PropertyOffset::CAP.0, PROPERTY_SIZE_8);
    let mut bytes = sparse(
        64,
        &[(0, &hex("7f400200 04")), (40, &hex("01000000 00000000"))],
    );
    let mut with_cid = get;
    with_cid.cid = 2.into();
    both_ways(&bytes, with_cid);
    bytes[2] = 0;
    assert_eq!(get.to_sqe().as_bytes(), bytes);

    let cc = Cc::default()
        .with_en(true)
        .with_iosqes(Cc::IOSQES_64)
        .with_iocqes(Cc::IOCQES_16);
    assert_eq!(cc.0, 0x0046_0001);
    let mut set = PropertySet::new(PropertyOffset::CC.0, PROPERTY_SIZE_4, u64::from(cc.0));
    set.cid = 2.into();
    both_ways(
        &sparse(
            64,
            &[
                (0, &hex("7f400200")),
                (40, &hex("00000000 14000000 01004600")),
            ],
        ),
        set,
    );
    assert_eq!(PropertySet::of(&set.to_sqe()), &set);

    let cap = Cap(0x0000_0020_2001_007F);
    assert_eq!(
        (
            cap.queue_entries_max(),
            cap.cqr(),
            cap.timeout_ms(),
            cap.css()
        ),
        (128, true, 16000, Cap::CSS_NVM)
    );
    let ours = Cap::default()
        .with_crwms(true)
        .with_crims(true)
        .with_nssrs(true)
        .with_mpsmax(4);
    assert_eq!(ours.0, 0x1840_0010_0000_0000);
    assert_eq!(
        Csts::default()
            .with_rdy(true)
            .with_shst(Csts::SHST_COMPLETE)
            .0,
        0b1001
    );
    assert_eq!(
        Crto::default().with_crwmt(0x0102).with_crimt(0x0304).0,
        0x0304_0102
    );
    assert_eq!(
        (Vs(0x0001_0400), Vs::V2_1.mjr(), Vs::V2_1.mnr()),
        (Vs::V1_4, 2, 1)
    );
    assert_eq!(NSSR_RESET.to_be_bytes(), *b"NVMe");
}

#[test]
fn disconnect_and_authentication() {
    both_ways(&sparse(64, &[(0, &hex("7f40 0000 08"))]), Disconnect::new());
    let bytes = sparse(
        64,
        &[
            (0, &hex("7f40 0000 05")),
            (24, &hex("0000000000000000 00010000 000000 01")),
            (41, &hex("0101e9 00010000")),
        ],
    );
    let auth = AuthCmd {
        opc: AdminOpcode::FABRICS.0,
        flags: Sqe::PSDT_SGL << 6,
        fctype: FabricsType::AUTHENTICATION_SEND.0,
        sgl1: Sgl::in_capsule(0, 256),
        spsp0: 1,
        spsp1: 1,
        secp: AuthCmd::SECP,
        len: 256.into(),
        ..AuthCmd::default()
    };
    both_ways(&bytes, auth);
    assert_eq!(AuthCmd::of(&Sqe::read(&bytes).unwrap()), &auth);
}

#[test]
fn connect_answers() {
    assert_eq!(ConnectRefusal::HOSTNQN.dw0(), 0x0001_0200);
    assert_eq!(ConnectRefusal::SUBNQN.dw0(), 0x0001_0100);
    assert_eq!(ConnectRefusal::CNTLID.dw0(), 0x0001_0010);
    assert_eq!(ConnectRefusal::HOSTID.dw0(), 0x0001_0000);
    assert_eq!(
        (ConnectRefusal::QID.dw0(), ConnectRefusal::SQSIZE.dw0()),
        (42, 44)
    );
    assert_eq!(
        (ConnectRefusal::CATTR.dw0(), ConnectRefusal::KATO.dw0()),
        (46, 48)
    );
    for refusal in [ConnectRefusal::HOSTID, ConnectRefusal::SQSIZE] {
        assert_eq!(ConnectRefusal::from_dw0(refusal.dw0()), refusal);
    }
    let answer = ConnectResponse {
        cntlid: 0x1234,
        authreq: ConnectResponse::AUTHREQ_ATR,
    };
    assert_eq!(answer.dw0(), 0x0002_1234);
    assert_eq!(ConnectResponse::from_dw0(answer.dw0()), answer);
}

#[test]
fn nqns() {
    let longest = format!("nqn.{}", "x".repeat(Nqn::LEN_MAX - 4));
    let nqn = Nqn::new(&longest).unwrap();
    assert_eq!(
        (nqn.as_str(), Nqn::from_field(&nqn.to_field())),
        (longest.as_str(), Ok(nqn))
    );
    assert_eq!(Nqn::new(&format!("{longest}x")), Err(NqnError::TooLong));
    let uuid = core::array::from_fn(|at| 0x10 * at as u8 + 0xF - at as u8);
    assert_eq!(
        Nqn::of_uuid(&uuid).as_str(),
        "nqn.2014-08.org.nvmexpress:uuid:0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"
    );
    assert_eq!(Nqn::new(""), Err(NqnError::NoPrefix));
    assert_eq!(Nqn::new("nqn."), Err(NqnError::NoPrefix));
    assert_eq!(Nqn::new("iqn.2014-08.org"), Err(NqnError::NoPrefix));
    assert_eq!(Nqn::new("nqn.2014-08.org\x1b[2J"), Err(NqnError::Control));
    assert_eq!(Nqn::from_field(&[b'n'; 256]), Err(NqnError::TooLong));
    let mut field = Nqn::discovery().to_field();
    field[4] = 0xFF;
    assert_eq!(Nqn::from_field(&field), Err(NqnError::NotUtf8));
    let mut field = Nqn::discovery().to_field();
    field[100] = b'x';
    assert_eq!(
        Nqn::from_field(&field),
        Ok(Nqn::discovery()),
        "nothing behind the NUL counts"
    );
    assert_eq!(
        "nqn.2014-08.org.nvmexpress.discovery".parse(),
        Ok(Nqn::discovery())
    );
}

#[test]
fn tcp_set_up() {
    let bytes = sparse(128, &[(0, &hex("00008000 80000000 0000 1f 03 0f000000"))]);
    let icreq = IcReq::new(31, DGST_HEADER | DGST_DATA, 15);
    both_ways(&bytes, icreq);
    assert_eq!(
        (icreq.maxr2t(), alignment(icreq.hpda), alignment(32)),
        (16, Some(128), None)
    );

    let bytes = sparse(128, &[(0, &hex("01008000 80000000 0000 00 01 00000200"))]);
    both_ways(&bytes, IcResp::new(0, DGST_HEADER, 0x2_0000));
    assert_eq!(alignment(0), Some(4));
}

#[test]
fn tcp_capsules() {
    let mut cmd = CapsuleCmd {
        ch: CommonHeader::bare(PduType::CAPSULE_CMD),
        sqe: Disconnect::new().to_sqe(),
    };
    cmd.ch.flags = HDGSTF | DDGSTF;
    cmd.ch.pdo = 76;
    cmd.ch.plen = 1104.into();
    both_ways(
        &sparse(72, &[(0, &hex("0403484c 50040000 7f400000 08"))]),
        cmd,
    );
    assert!(cmd.ch.has_hdgst() && cmd.ch.has_ddgst());

    let resp = CapsuleResp {
        ch: CommonHeader::bare(PduType::CAPSULE_RESP),
        cqe: Cqe::new(7, Status::LBA_OUT_OF_RANGE.dnr()),
    };
    both_ways(
        &hex("05001800 18000000 00000000 00000000 0000 0000 0700 0081"),
        resp,
    );
}

#[test]
fn tcp_data() {
    let mut ch = CommonHeader::bare(PduType::H2C_DATA);
    ch.flags = LAST_PDU;
    ch.pdo = 24;
    ch.plen = 4120.into();
    let h2c = H2cData {
        ch,
        cccid: 0x0102.into(),
        ttag: 0x0304.into(),
        datao: 0x1000.into(),
        datal: 4096.into(),
        rsvd20: [0; 4],
    };
    both_ways(
        &hex("06041818 18100000 0201 0403 00100000 00100000 00000000"),
        h2c,
    );
    assert!(ch.is_last() && !ch.is_success());

    ch.type_ = PduType::C2H_DATA;
    ch.flags |= SUCCESS;
    let c2h = C2hData {
        ch,
        cccid: 0x0102.into(),
        rsvd10: [0; 2],
        datao: 0.into(),
        datal: 4096.into(),
        rsvd20: [0; 4],
    };
    both_ways(
        &hex("070c1818 18100000 0201 0000 00000000 00100000 00000000"),
        c2h,
    );
    assert!(ch.is_success());

    let r2t = R2t {
        cccid: 1.into(),
        ttag: 2.into(),
        r2to: 0x2000.into(),
        r2tl: 0x1_0000.into(),
        ch: CommonHeader::bare(PduType::R2T),
        rsvd20: [0; 4],
    };
    both_ways(
        &hex("09001800 18000000 0100 0200 00200000 00000100 00000000"),
        r2t,
    );
}

#[test]
fn tcp_termination() {
    let term = TermReq::new(
        PduType::C2H_TERM_REQ,
        Fes::INVALID_PDU_HEADER_FIELD,
        0x0102_0304,
        72,
    );
    both_ways(
        &hex("03001800 60000000 0100 04030201 00000000000000000000"),
        term,
    );
    assert_eq!(term.fes(), Fes::INVALID_PDU_HEADER_FIELD);
    let term = TermReq::new(PduType::H2C_TERM_REQ, Fes::R2T_LIMIT_EXCEEDED, 0, 0);
    both_ways(
        &hex("02001800 18000000 0500 00000000 00000000000000000000"),
        term,
    );
    assert_eq!(
        Fes::DATA_TRANSFER_OUT_OF_RANGE.to_string(),
        "Data Transfer Out of Range (0004h)"
    );
}
