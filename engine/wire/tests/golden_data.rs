//! Log pages, discovery, features and reservations, both ways, written down from the layouts in the
//! specifications.

mod bytes;

use bytes::{both_ways, hex, sparse};
use ferroce_wire::Wire;
use ferroce_wire::discovery::*;
use ferroce_wire::fabrics::{CNTLID_DYNAMIC, DISCOVERY_NQN, Nqn};
use ferroce_wire::feature::*;
use ferroce_wire::log::*;
use ferroce_wire::reservation::*;

#[test]
fn error_information() {
    let entry = ErrorInfoEntry {
        count: 1.into(),
        sqid: 2.into(),
        cid: 3.into(),
        status: 0x8004.into(),
        pel: ErrorInfoEntry::parameter_location(42, 3).into(),
        lba: 4.into(),
        nsid: 5.into(),
        vsia: 6,
        trtype: TrType::TCP.0,
        csi: 7,
        opc: 8,
        csinfo: 9.into(),
        ttsi: 10.into(),
        lpver: 1,
        ..ErrorInfoEntry::default()
    };
    let bytes = sparse(
        64,
        &[
            (
                0,
                &hex(
                    "0100000000000000 0200 0300 0480 2a03 0400000000000000 05000000 06 03 07 08 0900000000000000 0a00",
                ),
            ),
            (63, &[1]),
        ],
    );
    both_ways(&bytes, entry);
    assert_eq!(entry.status(), ferroce_wire::Status::INVALID_FIELD.dnr());
}

#[test]
fn smart_and_firmware() {
    let counters: Vec<u8> = (1..=10).flat_map(u128::to_le_bytes).collect();
    let smart = SmartLog {
        critical_warning: SmartLog::WARNING_TEMPERATURE,
        ctemp: 0x0140.into(),
        avsp: 100,
        avspt: 10,
        pused: 3,
        egcws: 1,
        dur: 1.into(),
        duw: 2.into(),
        hrc: 3.into(),
        hwc: 4.into(),
        cbt: 5.into(),
        pwrc: 6.into(),
        poh: 7.into(),
        upl: 8.into(),
        mdie: 9.into(),
        nele: 10.into(),
        wctt: 11.into(),
        cctt: 12.into(),
        tsen: [0x0141.into(); 8],
        tmt1tc: 13.into(),
        tmt2tc: 14.into(),
        tttmt1: 15.into(),
        tttmt2: 16.into(),
        ..SmartLog::default()
    };
    let bytes = sparse(
        512,
        &[
            (0, &hex("02 4001 64 0a 03 01")),
            (32, &counters),
            (
                192,
                &hex(
                    "0b000000 0c000000 4101410141014101 4101410141014101 0d000000 0e000000 0f000000 10000000",
                ),
            ),
        ],
    );
    both_ways(&bytes, smart);

    let mut log = FirmwareSlotLog {
        afi: 1,
        ..FirmwareSlotLog::default()
    };
    log.frs[0] = *b"1.2.3   ";
    log.frs[6] = *b"7       ";
    both_ways(
        &sparse(512, &[(0, &[1]), (8, b"1.2.3   "), (56, b"7       ")]),
        log,
    );
}

#[test]
fn effects() {
    let mut log = CommandsSupportedAndEffects::default();
    log.acs[0x06] = CommandEffectsBits::default().with_csupp(true).into();
    log.iocs[0x01] = CommandEffectsBits::default()
        .with_csupp(true)
        .with_lbcc(true)
        .into();
    log.iocs[0xFF] = CommandEffectsBits::default()
        .with_cse(7)
        .with_uuid(true)
        .with_csp(0xFFF)
        .into();
    both_ways(
        &sparse(4096, &[(24, &[1]), (1028, &[3]), (2044, &hex("0000ffff"))]),
        log,
    );
    assert!(log.iocs[1].get().lbcc() && !log.acs[6].get().lbcc());

    let mut log = FeatureEffects::default();
    log.fids[0x0F] = FeatureEffectBits::default()
        .with_fsupp(true)
        .with_ccc(true)
        .with_fsp(SCOPE_CONTROLLER)
        .into();
    both_ways(&sparse(1024, &[(60, &hex("11002000"))]), log);
    assert_eq!(log.fids[15].get().fsp(), SCOPE_CONTROLLER);

    let mut log = SupportedLogPages::default();
    log.lids[0x70] = LidEffectsBits::default()
        .with_lsupp(true)
        .with_ios(true)
        .with_lidsp(7)
        .into();
    both_ways(&sparse(1024, &[(448, &hex("03000700"))]), log);
}

#[test]
fn ana() {
    let header = AnaHeader {
        chgcnt: 1.into(),
        ngrps: 2.into(),
        rsvd10: [0; 6],
    };
    both_ways(&hex("0100000000000000 0200 000000000000"), header);
    let group = AnaGroup {
        agid: 1.into(),
        nnsids: 2.into(),
        chgcnt: 3.into(),
        state: AnaState::OPTIMIZED,
        rsvd17: [0; 15],
    };
    both_ways(
        &hex("01000000 02000000 0300000000000000 01 000000000000000000000000000000"),
        group,
    );

    let mut page = header.as_bytes().to_vec();
    page.extend(group.as_bytes());
    page.extend(hex("0a000000 0b000000"));
    page.extend(
        AnaGroup {
            nnsids: 9.into(),
            ..group
        }
        .as_bytes(),
    );
    let (head, groups) = AnaGroups::new(&page).unwrap();
    let found: Vec<_> = groups
        .map(|(g, nsids)| {
            (
                g.agid.get(),
                nsids.iter().map(|n| n.get()).collect::<Vec<_>>(),
            )
        })
        .collect();
    assert_eq!(
        (head.chgcnt.get(), found),
        (1, vec![(1, vec![10, 11])]),
        "the second claims NSIDs that are not there"
    );
}

#[test]
fn discovery() {
    let header = DiscoveryLogHeader {
        genctr: 5.into(),
        numrec: 2.into(),
        recfmt: 0.into(),
        ..Default::default()
    };
    both_ways(
        &sparse(1024, &[(0, &hex("0500000000000000 0200000000000000 0000"))]),
        header,
    );

    type Entry = DiscoveryLogEntry;
    let mut entry = Entry {
        trtype: TrType::TCP,
        adrfam: AdrFam::IPV4,
        subtype: SubType::CURRENT_DISCOVERY,
        treq: Entry::TREQ_NOT_REQUIRED | Entry::TREQ_NO_SQ_FLOW_CONTROL,
        portid: 1.into(),
        cntlid: CNTLID_DYNAMIC.into(),
        asqsz: 32.into(),
        eflags: (Entry::EFLAGS_DUPRETINFO | Entry::EFLAGS_EPCSD).into(),
        subnqn: Nqn::discovery().to_field(),
        ..Entry::default()
    };
    entry.set_address("127.0.0.1", "4420");
    entry.tsas[0] = TcpSecType::TLS_1_3.0;
    let bytes = sparse(
        1024,
        &[
            (0, &hex("03 01 03 06 0100 ffff 2000 0300")),
            (32, &[b' '; 32]),
            (32, b"4420"),
            (256, DISCOVERY_NQN.as_bytes()),
            (512, &[b' '; 256]),
            (512, b"127.0.0.1"),
            (768, &[2]),
        ],
    );
    both_ways(&bytes, entry);
    assert_eq!(
        (entry.traddr(), entry.trsvcid()),
        (Some("127.0.0.1"), Some("4420"))
    );
    assert_eq!(
        (entry.subnqn(), entry.tcp_tsas().sectype),
        (Ok(Nqn::discovery()), TcpSecType::TLS_1_3)
    );
    entry.traddr[..5].copy_from_slice(b"1\x1b[2J");
    assert_eq!(
        entry.traddr(),
        None,
        "no escape sequence reaches a terminal"
    );

    both_ways(
        &sparse(256, &[(0, &[1])]),
        TcpTsas {
            sectype: TcpSecType::TLS_1_2,
            ..Default::default()
        },
    );
    let rdma = RdmaTsas {
        rdma_qptype: RdmaQpType::RELIABLE_CONNECTED,
        rdma_prtype: RdmaPrType::ROCE_V2,
        rdma_cms: RdmaCms::RDMA_CM,
        rdma_pkey: 0xFFFF.into(),
        ..RdmaTsas::default()
    };
    both_ways(
        &sparse(256, &[(0, &hex("01 04 01")), (8, &hex("ffff"))]),
        rdma,
    );
    entry.tsas.copy_from_slice(rdma.as_bytes());
    assert_eq!(entry.rdma_tsas(), rdma);
}

#[test]
fn features() {
    both_ways(
        &sparse(512, &[(0, &hex("01 02 03 04 0500"))]),
        HostBehaviorSupport {
            acre: 1,
            etdas: 2,
            lbafee: 3,
            hdisns: 4,
            cdfe: 5.into(),
            ..Default::default()
        },
    );
    let timestamp = Timestamp::new(0x0102_0304_0506, Timestamp::ORIGIN_SET);
    both_ways(&hex("060504030201 02 00"), timestamp);
    assert_eq!(timestamp.ms(), 0x0102_0304_0506);

    let queues = NumberOfQueues::new(4);
    assert_eq!(
        (
            queues.0,
            queues.submission_queues(),
            queues.completion_queues()
        ),
        (0x0003_0003, 4, 4)
    );
    assert!(queues.is_valid() && !NumberOfQueues(0xFFFF_0000).is_valid());
    assert_eq!(NumberOfQueues::new(0xFFFF).0, 0xFFFE_FFFE);

    assert_eq!(AsyncEvent::NAMESPACE_CHANGED.dw0(), 0x0004_0002);
    assert_eq!(AsyncEvent::ANA_CHANGED.dw0(), 0x000C_0302);
    assert_eq!(AsyncEvent::DISCOVERY_CHANGED.dw0(), 0x0070_F002);
    assert_eq!(
        AsyncEvent::from_dw0(0x0070_F002),
        AsyncEvent::DISCOVERY_CHANGED
    );
    assert!(
        AsyncEventConfig(0x8000_0100)
            .has(AsyncEventConfig::DISCOVERY_LOG | AsyncEventConfig::NS_ATTRIBUTE)
    );

    let threshold = TemperatureThreshold::default()
        .with_tmpth(350)
        .with_tmpsel(1)
        .with_thsel(1);
    assert_eq!(threshold.0, 0x0011_015E);
    assert_eq!(
        ErrorRecovery::default().with_tler(2).with_dulbe(true).0,
        0x0001_0002
    );
    assert_eq!(
        Arbitration::default().with_ab(7).with_hpw_z(1).0,
        0x0100_0007
    );
    assert_eq!(PowerManagement::default().with_ps(3).with_wh(1).0, 0x23);
}

#[test]
fn reservations() {
    both_ways(
        &hex("0100000000000000 0200000000000000"),
        RegisterData {
            crkey: 1.into(),
            nrkey: 2.into(),
        },
    );
    both_ways(
        &hex("0100000000000000 0200000000000000"),
        AcquireData {
            crkey: 1.into(),
            prkey: 2.into(),
        },
    );
    both_ways(&hex("0100000000000000"), ReleaseData { crkey: 1.into() });
    let head = StatusHeader {
        gen_: 1.into(),
        rtype: ReservationType::WRITE_EXCLUSIVE_ALL,
        regstrnt: 2.into(),
        ptpls: 1,
        ..Default::default()
    };
    both_ways(&sparse(24, &[(0, &hex("01000000 05 0200 0000 01"))]), head);
    both_ways(
        &sparse(64, &[(0, &hex("01000000 05 0200 0000 01"))]),
        ExtendedStatusHeader {
            head,
            rsvd24: [0; 40],
        },
    );
    both_ways(
        &hex("0100 01 0000000000 0200000000000000 0300000000000000"),
        Registrant {
            cntlid: 1.into(),
            rcsts: 1,
            rsvd3: [0; 5],
            hostid: 2.into(),
            rkey: 3.into(),
        },
    );
    both_ways(
        &sparse(
            64,
            &[
                (0, &hex("0100 01 0000000000 0300000000000000")),
                (16, &[7; 16]),
            ],
        ),
        ExtendedRegistrant {
            cntlid: 1.into(),
            rcsts: 1,
            rkey: 3.into(),
            hostid: [7; 16],
            ..Default::default()
        },
    );
    let mut sqe = ferroce_wire::Sqe::new(0x11);
    sqe.cdw10 = 0x8000_030A.into();
    sqe.cdw11 = 1.into();
    assert_eq!(
        (
            sqe.reservation_action(),
            sqe.reservation_iekey(),
            sqe.reservation_type()
        ),
        (2, true, ReservationType::WRITE_EXCLUSIVE_REGISTRANTS)
    );
    assert_eq!(
        (
            sqe.reservation_cptpl(),
            sqe.reservation_eds(),
            sqe.reservation_numd_z()
        ),
        (2, true, 0x8000_030A)
    );
}
