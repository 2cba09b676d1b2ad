//! Identify, both ways. What says "captured" comes from a trace of the Linux 6.1 target; the rest is
//! written down from the layouts in the specifications.

mod bytes;

use bytes::{both_ways, hex, sparse};
use ferroce_wire::fabrics::{DISCOVERY_NQN, Nqn};
use ferroce_wire::feature::AsyncEventConfig;
use ferroce_wire::identify::*;

/// Captured: Identify Controller of the Linux target, its subsystem's name replaced.
#[test]
fn identify_controller() {
    let bytes = sparse(
        4096,
        &[
            (
                4,
                b"6cc032fe58ea9a1c1b74Linux                                   6.1.0-56",
            ),
            (72, &hex("06 000000 0b 08 0100 00030100")),
            (92, &hex("00090000 41800000")),
            (111, &hex("01")),
            (258, &hex("03 03 03 07 7f")),
            (320, &hex("0a00")),
            (342, &hex("0a 1f 80000000 80000000")),
            (
                512,
                &hex("66 44 0004 00040000 0c00 0000 00 01 0000 0000 00 01"),
            ),
            (536, &hex("05001000 00040000")),
            (768, DISCOVERY_NQN.as_bytes()),
            (1792, &hex("04010000 01000000 0000 00 01")),
            (2048, &hex("c409 00 00 10000000 04000000")),
        ],
    );
    type Id = IdentifyController;
    let mut id = Id {
        rab: 6,
        cmic: Id::CMIC_MULTI_PORT | Id::CMIC_MULTI_CONTROLLER | Id::CMIC_ANA,
        mdts: 8,
        cntlid: 1.into(),
        ver: 0x0001_0300.into(),
        oaes: (AsyncEventConfig::NS_ATTRIBUTE | AsyncEventConfig::ANA_CHANGE).into(),
        ctratt: (Id::CTRATT_HOSTID_128 | Id::CTRATT_TBKAS | Id::CTRATT_EXTENDED_LBA_FORMATS).into(),
        cntrltype: Id::CNTRLTYPE_IO,
        acl_z: 3,
        aerl_z: 3,
        frmw: Id::FRMW_SLOT1_READ_ONLY | 1 << 1,
        lpa: Id::LPA_SMART_PER_NS | Id::LPA_COMMAND_EFFECTS | Id::LPA_EXTENDED,
        elpe_z: 127,
        kas: 10.into(),
        anatt: 10,
        anacap: 0x1F,
        anagrpmax: 128.into(),
        nanagrpid: 128.into(),
        sqes: Id::SQES_64,
        cqes: Id::CQES_16,
        maxcmd: 1024.into(),
        nn: 1024.into(),
        oncs: (Id::ONCS_DSM | Id::ONCS_WRITE_ZEROES).into(),
        vwc: Id::VWC_PRESENT,
        nwpc: 1,
        sgls: (Id::SGLS_SUPPORTED | Id::SGLS_KEYED | Id::SGLS_OFFSET).into(),
        mnan: 1024.into(),
        subnqn: Nqn::discovery().to_field(),
        ioccsz: 260.into(),
        iorcsz: 1.into(),
        msdbd: 1,
        ..Id::default()
    };
    id.set_names("6cc032fe58ea9a1c1b74", "Linux", "6.1.0-56");
    id.psd[0] = PowerState {
        mp: 2500.into(),
        enlat: 16.into(),
        exlat: 4.into(),
        ..PowerState::default()
    };
    both_ways(&bytes, id);

    assert_eq!(
        (id.serial(), id.model(), id.firmware()),
        (
            &b"6cc032fe58ea9a1c1b74"[..],
            &b"Linux"[..],
            &b"6.1.0-56"[..]
        )
    );
    assert_eq!(
        (
            id.abort_limit(),
            id.async_event_limit(),
            id.error_log_entries()
        ),
        (4, 4, 128)
    );
    assert_eq!(id.transfer_bytes_max(0), Some(1 << 20));
    assert_eq!(id.in_capsule_bytes_max(), 4096);
    assert_eq!(
        (
            id.atomic_blocks(),
            id.atomic_blocks_power_fail(),
            id.power_states()
        ),
        (1, 1, 1)
    );
}

#[test]
fn identify_controller_limits_hold_for_any_byte() {
    let mut id = IdentifyController::default();
    assert_eq!(id.transfer_bytes_max(0), None);
    id.mdts = 255;
    assert_eq!(id.transfer_bytes_max(15), None);
    assert_eq!(id.in_capsule_bytes_max(), 0);
}

/// The fields the capture leaves at 0, each with a value of its own.
#[test]
fn identify_controller_rest() {
    let bytes = sparse(
        4096,
        &[
            (0, &hex("f41a f51a")),
            (73, &hex("010203")),
            (84, &hex("01000000 02000000")),
            (100, &hex("0300 04 00 05000000 0000 06")),
            (112, &[0x11; 16]),
            (128, &hex("0100 0200 0300 07")),
            (253, &hex("08 09 0a 0b0c")),
            (263, &hex("0d 0e 0f 1011 1213 1415 16171819 20212223")),
            (280, &[0x24; 16]),
            (296, &[0x25; 16]),
            (312, &hex("26272829 2a2b 2c 2d")),
            (322, &hex("3031 3233 3435 36373839 40414243 4445 4647 4849")),
            (352, &hex("50515253 5455 56 00 5758")),
            (368, &[0x59; 16]),
            (384, &hex("60 00 6162")),
            (522, &hex("0100 02 00 0300 0400 05 00 0600 0700")),
            (544, &[0x70; 16]),
            (
                560,
                &hex("71727374 75767778 79 7a 7b7c 7d7e 7f 80 81 00 8283 8485 8687 8889 8a8b"),
            ),
            (1800, &hex("0100 01 00 0100 02")),
            (3072, &[0xEE; 1024]),
        ],
    );
    type Id = IdentifyController;
    let id = Id {
        vid: 0x1AF4.into(),
        ssvid: 0x1AF5.into(),
        sn: [0; 20],
        ieee: [1, 2, 3],
        rtd3r: 1.into(),
        rtd3e: 2.into(),
        rrls: 3.into(),
        bpcap: 4,
        nssl: 5.into(),
        plsi: 6,
        fguid: [0x11; 16],
        crdt1: 1.into(),
        crdt2: 2.into(),
        crdt3: 3.into(),
        crcap: 7,
        nvmsr: 8,
        vwci: 9,
        mec: 10,
        oacs: 0x0C0B.into(),
        npss_z: 0x0D,
        avscc: 0x0E,
        apsta: 0x0F,
        wctemp: 0x1110.into(),
        cctemp: 0x1312.into(),
        mtfa: 0x1514.into(),
        hmpre: 0x1918_1716.into(),
        hmmin: 0x2322_2120.into(),
        tnvmcap: u128::from_le_bytes([0x24; 16]).into(),
        unvmcap: u128::from_le_bytes([0x25; 16]).into(),
        rpmbs: 0x2928_2726.into(),
        edstt: 0x2B2A.into(),
        dsto: 0x2C,
        fwug: 0x2D,
        hctma: 0x3130.into(),
        mntmt: 0x3332.into(),
        mxtmt: 0x3534.into(),
        sanicap: 0x3938_3736.into(),
        hmminds: 0x4342_4140.into(),
        hmmaxd: 0x4544.into(),
        nsetidmax: 0x4746.into(),
        endgidmax: 0x4948.into(),
        pels: 0x5352_5150.into(),
        domainid: 0x5554.into(),
        kpioc: 0x56,
        mptfawr: 0x5857.into(),
        megcap: u128::from_le_bytes([0x59; 16]).into(),
        tmpthha: 0x60,
        cqt: 0x6261.into(),
        fuses: Id::FUSES_COMPARE_AND_WRITE.into(),
        fna: 2,
        awun_z: 3.into(),
        awupf_z: 4.into(),
        icsvscc: 5,
        acwu_z: 6.into(),
        ocfs: 7.into(),
        maxdna: u128::from_le_bytes([0x70; 16]).into(),
        maxcna: 0x7473_7271.into(),
        oaqd: 0x7877_7675.into(),
        rhiri: 0x79,
        hirt: 0x7A,
        cmmrtd: 0x7C7B.into(),
        nmmrtd: 0x7E7D.into(),
        minmrtg: 0x7F,
        maxmrtg: 0x80,
        trattr: 0x81,
        mcudmq: 0x8382.into(),
        mnsudmq: 0x8584.into(),
        mcmr: 0x8786.into(),
        nmcmr: 0x8988.into(),
        mcdqpc: 0x8B8A.into(),
        icdoff: 1.into(),
        fcatt: Id::FCATT_STATIC,
        ofcs: Id::OFCS_DISCONNECT.into(),
        dctype: Id::DCTYPE_CENTRAL,
        vs: [0xEE; 1024],
        ..Id::default()
    };
    both_ways(&bytes, id);
    assert_eq!(
        (
            id.atomic_blocks(),
            id.atomic_blocks_power_fail(),
            id.atomic_blocks_compare()
        ),
        (4, 5, 7)
    );
}

#[test]
fn power_state() {
    both_ways(
        &hex("0102 00 03 04000000 05000000 06 07 08 09 0a0b 40 00 0c0d 81 0e 0f 10 11 12 00000000"),
        PowerState {
            mp: 0x0201.into(),
            flags: PowerState::MXPS | PowerState::NOPS,
            enlat: 4.into(),
            exlat: 5.into(),
            rrt: 6,
            rrl: 7,
            rwt: 8,
            rwl: 9,
            idlp: 0x0B0A.into(),
            ips: 0x40,
            actp: 0x0D0C.into(),
            apws: 0x81,
            epfrt: 0x0E,
            fqvt: 0x0F,
            epfvt: 0x10,
            epfr_fqv_ts: 0x11,
            epfvts: 0x12,
            ..PowerState::default()
        },
    );
}

#[test]
fn identify_namespace() {
    let bytes = sparse(
        4096,
        &[
            (
                0,
                &hex("0010000000000000 0020000000000000 0030000000000000"),
            ),
            (24, &hex("12 01 01 03 1f 01 01 ff 80 09")),
            (34, &hex("0700 0800 0900 0a00 0b00 0c00 0d00")),
            (48, &[0x0E; 16]),
            (
                64,
                &hex("0700 0f00 ff00 1000 1f00 8000 00010000 7f 11 12 00 13000000"),
            ),
            (92, &hex("01000000 000000 01 0200 0300")),
            (
                104,
                &hex("000102030405060708090a0b0c0d0e0f f0f1f2f3f4f5f6f7"),
            ),
            (128, &hex("0000 09 02 0000 0c 00 0800 0c 01")),
            (384, &[0x77; 3712]),
        ],
    );
    type Ns = IdentifyNamespace;
    let mut ns = Ns {
        nsze: 0x1000.into(),
        ncap: 0x2000.into(),
        nuse: 0x3000.into(),
        nsfeat: Ns::NSFEAT_ATOMICS | Ns::NSFEAT_OPTPERF,
        nlbaf_z: 1,
        flbas: 1,
        mc: 3,
        dpc: 0x1F,
        dps: 1,
        nmic: Ns::NMIC_SHARED,
        rescap: 0xFF,
        fpi: 0x80,
        dlfeat: Ns::DLFEAT_ZEROES | Ns::DLFEAT_WRITE_ZEROES,
        nawun_z: 7.into(),
        nawupf_z: 8.into(),
        nacwu_z: 9.into(),
        nabsn_z: 10.into(),
        nabo: 11.into(),
        nabspf_z: 12.into(),
        noiob: 13.into(),
        nvmcap: u128::from_le_bytes([0x0E; 16]).into(),
        npwg_z: 7.into(),
        npwa_z: 15.into(),
        npdg_z: 255.into(),
        npda_z: 16.into(),
        nows_z: 31.into(),
        mssrl: 128.into(),
        mcl: 256.into(),
        msrc_z: 127,
        kpios: 0x11,
        nulbaf: 0x12,
        kpiodaag: 0x13.into(),
        anagrpid: 1.into(),
        nsattr: Ns::NSATTR_WRITE_PROTECTED,
        nvmsetid: 2.into(),
        endgid: 3.into(),
        nguid: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
        eui64: [0xF0, 0xF1, 0xF2, 0xF3, 0xF4, 0xF5, 0xF6, 0xF7],
        vs: [0x77; 3712],
        ..Ns::default()
    };
    ns.lbaf[0] = LbaFormat::new(9, 2);
    ns.lbaf[1] = LbaFormat::new(12, 0);
    ns.lbaf[2] = LbaFormat {
        ms: 8.into(),
        lbads: 12,
        rp: 1,
    };
    both_ways(&bytes, ns);

    assert_eq!(
        (ns.block_bytes(), ns.bytes()),
        (Some(4096), Some(0x100_0000))
    );
    assert_eq!((ns.atomic_blocks(), ns.atomic_blocks_power_fail()), (8, 9));
    assert_eq!(
        (
            ns.optimal_write_blocks(),
            ns.preferred_write_blocks(),
            ns.copy_ranges_max()
        ),
        (32, 8, 128)
    );
    assert_eq!(ns.lba_formats(), 2);
}

#[test]
fn a_namespace_that_lies_is_no_index() {
    let mut ns = IdentifyNamespace {
        nlbaf_z: 255,
        flbas: 0xFF,
        ..Default::default()
    };
    assert_eq!(
        (ns.format_index(), ns.block_bytes(), ns.bytes()),
        (63, None, None)
    );
    ns.lbaf[63] = LbaFormat::new(12, 0);
    ns.nsze = u64::MAX.into();
    assert_eq!((ns.block_bytes(), ns.bytes()), (Some(4096), None));
    ns.lbaf[63] = LbaFormat::new(255, 0);
    assert_eq!(ns.block_bytes(), None);
    ns.nlbaf_z = 15;
    assert_eq!(
        ns.format_index(),
        15,
        "bits 6:5 count only with more than 16 formats"
    );
}

#[test]
fn identify_of_the_command_set() {
    both_ways(
        &sparse(
            4096,
            &[
                (0, &hex("0800000000000000 01 02")),
                (12, &hex("03000000")),
                (
                    264,
                    &hex("04000000 05000000 06000000 07000000 08000000 09000000 0a000000 0b000000"),
                ),
            ],
        ),
        {
            let mut ns = NvmIdentifyNamespace {
                lbstm: 8.into(),
                pic: 1,
                pifa: 2,
                npdgl: 5.into(),
                nprg: 6.into(),
                npra: 7.into(),
                nors: 8.into(),
                npdal: 9.into(),
                lbapss: 10.into(),
                tlbaag: 11.into(),
                ..NvmIdentifyNamespace::default()
            };
            ns.elbaf[0].set(3);
            ns.elbaf[63].set(4);
            ns
        },
    );
    both_ways(
        &sparse(
            4096,
            &[(
                0,
                &hex("01 02 03 04 05000000 0600000000000000 07 08 0900 00010100 0a"),
            )],
        ),
        NvmIdentifyController {
            vsl: 1,
            wzsl: 2,
            wusl: 3,
            dmrl: 4,
            dmrsl: 5.into(),
            dmsl: 6.into(),
            kpiocap: 7,
            wzdsl: 8,
            aocs: 9.into(),
            ver: 0x0001_0100.into(),
            lbamqf: 10,
            ..NvmIdentifyController::default()
        },
    );
    type Ind = CsIndependentNamespace;
    both_ways(
        &sparse(
            4096,
            &[(
                0,
                &hex("08 01 02 03 04000000 01 00 0500 0600 01 07 0800 0000 09000000"),
            )],
        ),
        Ind {
            nsfeat: Ind::NSFEAT_ID_NOT_REUSED,
            nmic: 1,
            rescap: 2,
            fpi: 3,
            anagrpid: 4.into(),
            nsattr: 1,
            nvmsetid: 5.into(),
            endgid: 6.into(),
            nstat: Ind::NSTAT_READY,
            kpios: 7,
            maxkt: 8.into(),
            rgrpid: 9.into(),
            ..Ind::default()
        },
    );
    let mut vectors = IoCommandSetVectors::default();
    vectors.vectors[0].set(IoCommandSetVectors::NVM);
    vectors.vectors[511].set(IoCommandSetVectors::NVM | IoCommandSetVectors::ZONED);
    both_ways(&sparse(4096, &[(0, &[1]), (4088, &[5])]), vectors);
}

#[test]
fn lists() {
    let list = NamespaceList::collect([1, 3, 0x0102_0304]);
    both_ways(
        &sparse(4096, &[(0, &hex("01000000 03000000 04030201"))]),
        list,
    );
    assert_eq!(list.iter().collect::<Vec<_>>(), [1, 3, 0x0102_0304]);
    assert_eq!(
        NamespaceList::collect(1..5000).iter().count(),
        NamespaceList::CAPACITY
    );

    let list = ControllerList::collect([1, 2]);
    both_ways(&sparse(4096, &[(0, &hex("0200 0100 0200"))]), list);
    assert_eq!(list.iter().collect::<Vec<_>>(), [1, 2]);
    assert_eq!(ControllerList::collect(0..5000).numid.get(), 2047);
    let lying = ControllerList {
        numid: 0xFFFF.into(),
        ..list
    };
    assert_eq!(lying.iter().count(), 2047);
}

/// Captured: the Linux-made list of one UUID; CSI added.
#[test]
fn namespace_descriptors() {
    let bytes = sparse(
        4096,
        &[
            (0, &hex("03100000")),
            (4, b"softrocesoftroce"),
            (20, &hex("04010000 00")),
        ],
    );
    let mut out = vec![0xA5; 4096];
    let mut writer = NsDescriptorWriter::new(&mut out);
    assert!(writer.push(Nidt::UUID, b"softrocesoftroce"));
    assert!(writer.push(Nidt::CSI, &[Csi::NVM.0]));
    assert_eq!(out, bytes);

    let list = NsDescriptors::new(&bytes);
    assert_eq!(list.find(Nidt::UUID), Some(&b"softrocesoftroce"[..]));
    assert_eq!(
        (list.find(Nidt::CSI), list.find(Nidt::NGUID)),
        (Some(&[0][..]), None)
    );
    assert_eq!(list.count(), 2);
    both_ways(
        &hex("02100000"),
        NsDescriptorHeader {
            nidt: Nidt::NGUID,
            nidl: 16,
            rsvd2: [0; 2],
        },
    );

    let mut small = [0; 22];
    let mut writer = NsDescriptorWriter::new(&mut small);
    assert!(writer.push(Nidt::UUID, &[1; 16]));
    assert!(!writer.push(Nidt::CSI, &[0]), "two bytes are left");
    assert_eq!(
        NsDescriptors::new(&hex("03ff0000 01")).count(),
        0,
        "longer than what is there"
    );
    assert_eq!(
        NsDescriptors::new(&hex("03040000 01020304")).find(Nidt::UUID),
        None,
        "a UUID has 16 bytes"
    );
}

#[test]
fn text_fields() {
    let mut field = [0xA5; 8];
    set_ascii(&mut field, "a\u{e9} b");
    assert_eq!((&field, ascii(&field)), (b"a? b    ", &b"a? b"[..]));
    set_ascii(&mut field, "longer than it");
    assert_eq!(&field, b"longer t");
    assert_eq!(ascii(b"4420\0junk"), b"4420");
    assert_eq!(ascii(b"    "), b"");
}
