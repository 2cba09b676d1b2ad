//! Identify.

use ferroce_wire::Wire;
use ferroce_wire::fabrics::DISCOVERY_NQN;
use ferroce_wire::identify::{
    Cns, CsIndependentNamespace, Csi, IdentifyController, IdentifyNamespace, IoCommandSetVectors,
    NamespaceList, Nidt, NsDescriptors, NvmIdentifyController, NvmIdentifyNamespace,
};
use ferroce_wire::sqe::{KeyedSgl, Sqe};
use ferroce_wire::status::Status;

use super::{CNTLID, NQN, World, at, namespace, subsystem};
use crate::admin::Answer;
use crate::controller::Kind;
use crate::limits;
use crate::table::Transport;

fn sqe(cns: Cns, nsid: u32) -> Sqe {
    Sqe::identify(cns, nsid, Csi::NVM)
}

#[test]
fn the_io_controller() {
    let id: IdentifyController = World::new(Kind::Io).structure(sqe(Cns::CONTROLLER, 0));
    assert_eq!(id.serial(), b"FERROCE0001");
    assert_eq!(id.model(), b"Ferroce");
    assert_eq!(id.firmware(), b"0.1.0");
    assert_eq!(id.sn.len(), 20);
    assert!(id.sn.ends_with(b"         "));
    assert_eq!(id.cntlid.get(), CNTLID);
    assert_eq!(id.ver.get(), 0x2_0000);
    assert_eq!(id.cntrltype, 1);
    assert_eq!(id.transfer_bytes_max(0), Some(1 << 20));
    assert_eq!(id.cmic, 0b1010 | 1);
    assert_eq!(id.oaes.get(), 0x900);
    assert_eq!(id.ctratt.get(), 0x41);
    assert_eq!(id.async_event_limit(), 4);
    assert_eq!(id.abort_limit(), 4);
    assert_eq!(id.error_log_entries(), 64);
    assert_eq!(id.power_states(), 1);
    assert_eq!(id.lpa, 0b10_0110);
    assert_eq!(id.oacs.get(), 0);
    assert_eq!(id.frmw, 0b11);
    assert_eq!(id.kas.get(), 10);
    assert_eq!((id.sqes, id.cqes), (0x66, 0x44));
    assert_eq!(id.maxcmd.get(), 1024);
    assert_eq!((id.nn.get(), id.mnan.get()), (1024, 1024));
    // Compare, DSM, Write Zeroes, Save and Select, Timestamp, Verify.
    assert_eq!(id.oncs.get(), 0b1101_1101);
    assert_eq!(id.fuses.get(), 0);
    assert_eq!(id.vwc, 0b101);
    assert_eq!((id.awun_z.get(), id.awupf_z.get()), (0, 0));
    // SGLs, offsets, the transport's descriptor.
    assert_eq!(id.sgls.get(), 1 | 1 << 20 | 1 << 21);
    assert_eq!((id.anatt, id.anacap), (10, 1));
    assert_eq!((id.anagrpmax.get(), id.nanagrpid.get()), (1, 1));
    assert_eq!(id.subnqn[..NQN.len()], *NQN.as_bytes());
    assert!(id.subnqn[NQN.len()..].iter().all(|byte| *byte == 0));
    assert_eq!(id.in_capsule_bytes_max(), 8192);
    assert_eq!((id.iorcsz.get(), id.icdoff.get()), (1, 0));
    assert_eq!((id.fcatt, id.msdbd, id.ofcs.get()), (0, 1, 1));
    assert_eq!(
        (id.crdt1.get(), id.crdt2.get(), id.crdt3.get()),
        (1, 10, 50)
    );
}

#[test]
fn rdma_has_keyed_sgls() {
    let mut world = World::by(Transport::Rdma);
    let sgl = KeyedSgl::new(0, 4096, 1, true);
    let identify = sqe(Cns::CONTROLLER, 0).with_sgl(sgl.into());
    let Answer::Data(data) = world.try_with(identify, 0, None) else {
        panic!("data was expected")
    };
    let id = IdentifyController::view(&data).expect("it is that long");
    assert_eq!(id.sgls.get(), 1 | 1 << 2 | 1 << 20);
    assert_eq!(id.in_capsule_bytes_max(), 8192);
    assert_eq!((id.iorcsz.get(), id.icdoff.get(), id.msdbd), (1, 0, 1));
}

#[test]
fn names_that_are_too_long_or_not_ascii_are_made_fit() {
    let mut world = World::new(Kind::Io);
    world.facts.firmware = "1.22.333-rc4".to_owned();
    world.change(|table| {
        subsystem(table).serial = "ö".repeat(30);
        subsystem(table).model.clear();
    });
    let id: IdentifyController = world.structure(sqe(Cns::CONTROLLER, 0));
    assert_eq!(id.firmware(), b"1.22.333");
    assert_eq!(id.serial(), b"????????????????????");
    assert_eq!(id.mn, [b' '; 40]);
}

#[test]
fn the_discovery_controller() {
    let mut world = World::new(Kind::Discovery);
    let id: IdentifyController = world.structure(sqe(Cns::CONTROLLER, 0));
    assert_eq!(id.cntrltype, 2);
    assert_eq!(id.cntlid.get(), CNTLID);
    assert_eq!(id.oaes.get(), 1 << 31);
    assert_eq!(id.firmware(), b"0.1.0");
    assert_eq!(id.kas.get(), 10);
    assert_eq!(id.nn.get(), 0);
    assert_eq!((id.oncs.get(), id.vwc, id.cmic), (0, 0, 0));
    // Linux demands both of discovery controllers as well.
    assert_ne!(id.maxcmd.get(), 0);
    assert_ne!(id.sgls.get() & 0b11, 0);
    assert_eq!(id.subnqn[..DISCOVERY_NQN.len()], *DISCOVERY_NQN.as_bytes());
    for cns in (0..=255).filter(|cns| Cns(*cns) != Cns::CONTROLLER) {
        let refused = world.refused(sqe(Cns(cns), 1));
        assert_eq!(refused, at(Status::INVALID_FIELD, 40), "CNS {cns:#x}");
    }
}

#[test]
fn the_structures_there_are() {
    let mut world = World::new(Kind::Io);
    let mut known = Vec::new();
    for cns in 0..=255 {
        let mut sqe = sqe(Cns(cns), 1);
        sqe.cdw10 = (sqe.cdw10.get() | 0xFFFF_0000).into();
        match world.run(sqe) {
            Answer::Data(data) => {
                assert_eq!(data.len(), 4096);
                known.push(cns);
            }
            Answer::Refused(refusal) => {
                let refused = (refusal.status, refusal.location);
                assert_eq!(refused, at(Status::INVALID_FIELD, 40), "CNS {cns:#x}");
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(known, [0, 1, 2, 3, 5, 6, 7, 8, 0x10, 0x11, 0x1C]);
}

#[test]
fn a_namespace() {
    let mut world = World::new(Kind::Io);
    for cns in [Cns::NAMESPACE, Cns::ALLOCATED_NAMESPACE] {
        let id: IdentifyNamespace = world.structure(sqe(cns, 1));
        assert_eq!(id.nsze.get(), 1 << 18);
        assert_eq!((id.ncap, id.nuse), (id.nsze, id.nsze));
        assert_eq!((id.lba_formats(), id.flbas), (1, 0));
        assert_eq!(id.block_bytes(), Some(4096));
        assert_eq!(id.lba_format().ms.get(), 0);
        assert_eq!(id.bytes(), Some(1 << 30));
        assert_eq!(id.nvmcap.get(), 1 << 30);
        assert_eq!((id.nmic, id.rescap, id.nsfeat), (1, 0, 0));
        assert_eq!(id.dlfeat, 0b1001);
        assert_eq!(id.anagrpid.get(), 1);
        assert_eq!(id.nsattr, 0);
        assert_eq!(id.nguid, [0x81; 16]);
        assert_eq!(id.eui64, [0; 8]);

        let id: IdentifyNamespace = world.structure(sqe(cns, 5));
        assert_eq!(id.block_bytes(), Some(512));
        assert_eq!(id.nsze.get(), 1000);
        assert_eq!(id.nsattr, 1);
        assert_eq!(id.dlfeat, 0);
        assert_eq!(id.nsfeat, 1 << 4);
        assert_eq!(id.preferred_write_blocks(), 8);
        assert_eq!(id.optimal_write_blocks(), 8);
        assert_eq!(
            (id.npwa_z.get(), id.npdg_z.get(), id.npda_z.get()),
            (7, 7, 7)
        );
    }
}

#[test]
fn a_namespaces_independent_part() {
    let mut world = World::new(Kind::Io);
    let id: CsIndependentNamespace = world.structure(sqe(Cns::CS_INDEPENDENT_NAMESPACE, 1));
    assert_eq!((id.nsfeat, id.nmic, id.nstat), (1 << 5, 1, 1));
    assert_eq!((id.anagrpid.get(), id.nsattr), (1, 0));
    let id: CsIndependentNamespace = world.structure(sqe(Cns::CS_INDEPENDENT_NAMESPACE, 5));
    assert_eq!((id.nsfeat, id.nsattr), (0, 1));
}

#[test]
fn the_nvm_command_sets_parts_are_zero() {
    let mut world = World::new(Kind::Io);
    let id: NvmIdentifyNamespace = world.structure(sqe(Cns::CS_NAMESPACE, 1));
    assert_eq!(id, NvmIdentifyNamespace::default());
    let id: NvmIdentifyController = world.structure(sqe(Cns::CS_CONTROLLER, 0));
    assert_eq!(id, NvmIdentifyController::default());
}

#[test]
fn an_nsid_that_no_namespace_has_gives_zeroes_and_one_that_none_can_have_an_error() {
    let mut world = World::new(Kind::Io);
    for cns in [
        Cns::NAMESPACE,
        Cns::ALLOCATED_NAMESPACE,
        Cns::CS_NAMESPACE,
        Cns::CS_INDEPENDENT_NAMESPACE,
    ] {
        for nsid in [2, limits::NAMESPACES_MAX] {
            assert_eq!(world.data(sqe(cns, nsid)), [0; 4096]);
        }
        for nsid in [0, limits::NAMESPACES_MAX + 1, 0xFFFF_FFFE, 0xFFFF_FFFF] {
            let refused = world.refused(sqe(cns, nsid));
            assert_eq!(refused, at(Status::INVALID_NAMESPACE, 4));
        }
    }
}

#[test]
fn lists_of_namespaces() {
    let mut world = World::new(Kind::Io);
    for cns in [
        Cns::ACTIVE_NAMESPACES,
        Cns::CS_ACTIVE_NAMESPACES,
        Cns::ALLOCATED_NAMESPACES,
    ] {
        for (above, expected) in [
            (0, &[1, 5][..]),
            (1, &[5]),
            (4, &[5]),
            (5, &[]),
            (0xFFFF_FFFD, &[]),
        ] {
            let list: NamespaceList = world.structure(sqe(cns, above));
            assert_eq!(list.iter().collect::<Vec<_>>(), expected);
        }
        for nsid in [0xFFFF_FFFE, 0xFFFF_FFFF] {
            let refused = world.refused(sqe(cns, nsid));
            assert_eq!(refused, at(Status::INVALID_NAMESPACE, 4));
        }
    }
    // A full subsystem fills the list to its last entry.
    world.change(|table| {
        let all = (1..=limits::NAMESPACES_MAX).map(|nsid| (nsid, namespace(1, 512, 8, false)));
        subsystem(table).namespaces = all.collect();
    });
    let list: NamespaceList = world.structure(sqe(Cns::ACTIVE_NAMESPACES, 0));
    assert_eq!(
        list.iter().collect::<Vec<_>>(),
        (1..=1024).collect::<Vec<_>>()
    );
}

#[test]
fn descriptors_name_a_namespace() {
    let mut world = World::new(Kind::Io);
    let list = world.data(sqe(Cns::NS_DESCRIPTORS, 5));
    let descriptors = NsDescriptors::new(&list);
    assert_eq!(descriptors.clone().count(), 3);
    assert_eq!(descriptors.find(Nidt::UUID), Some(&[5; 16][..]));
    assert_eq!(descriptors.find(Nidt::NGUID), Some(&[0x85; 16][..]));
    assert_eq!(descriptors.find(Nidt::CSI), Some(&[0][..]));
    for nsid in [0, 2, 1025, 0xFFFF_FFFF] {
        let refused = world.refused(sqe(Cns::NS_DESCRIPTORS, nsid));
        assert_eq!(refused, at(Status::INVALID_NAMESPACE, 4));
    }
}

#[test]
fn command_sets() {
    let mut world = World::new(Kind::Io);
    let with = |cntid: u16| {
        let mut sqe = sqe(Cns::IO_COMMAND_SETS, 0);
        sqe.cdw10 = (sqe.cdw10.get() | u32::from(cntid) << 16).into();
        sqe
    };
    for cntid in [0xFFFF, CNTLID] {
        let sets: IoCommandSetVectors = world.structure(with(cntid));
        assert_eq!(sets.vectors[0].get(), 1);
        assert!(sets.vectors[1..].iter().all(|vector| vector.get() == 0));
    }
    let refused = world.refused(with(CNTLID + 1));
    assert_eq!(refused, at(Status::INVALID_FIELD, 42));
}

#[test]
fn other_command_sets_are_not_there() {
    let mut world = World::new(Kind::Io);
    for cns in [
        Cns::CS_NAMESPACE,
        Cns::CS_CONTROLLER,
        Cns::CS_ACTIVE_NAMESPACES,
    ] {
        for csi in [Csi::KEY_VALUE, Csi::ZONED, Csi(0xFF)] {
            let refused = world.refused(Sqe::identify(cns, 1, csi));
            assert_eq!(refused, at(Status::INVALID_FIELD, 47));
        }
    }
}

#[test]
fn a_controller_whose_subsystem_was_removed_fails_for_now() {
    let mut world = World::new(Kind::Io);
    world.change(|table| table.subsystems.clear());
    let (status, _) = world.refused(sqe(Cns::CONTROLLER, 0));
    assert_eq!(status, Status::INTERNAL_ERROR);
}
