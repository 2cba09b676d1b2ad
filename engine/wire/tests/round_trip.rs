//! Random values survive the trip to bytes and back, and random bytes never panic a parser.

use ferroce_wire::discovery::{DiscoveryLogEntry, DiscoveryLogHeader};
use ferroce_wire::fabrics::*;
use ferroce_wire::feature::*;
use ferroce_wire::identify::*;
use ferroce_wire::log::*;
use ferroce_wire::num::{Be16, Be24, Be32, Be64, U16, U24, U32, U64, U128};
use ferroce_wire::prop::{Aqa, Cap, Cc, Crto, Csts, Vs};
use ferroce_wire::rdma::*;
use ferroce_wire::reservation::*;
use ferroce_wire::roce::*;
use ferroce_wire::tcp::*;
use ferroce_wire::{Cqe, KeyedSgl, NvmOpcode, Sgl, Sqe, Status, Wire};
use proptest::collection::vec;
use proptest::prelude::*;
use std::fmt::Debug;

/// Any bytes are a value of the type, come back as they were, and can be printed.
fn survives<T: Wire + Debug>(bytes: &[u8]) {
    match T::view(bytes) {
        None => assert!(bytes.len() < T::LEN),
        Some(value) => {
            assert_eq!(value.as_bytes(), &bytes[..T::LEN]);
            let mut out = vec![0xA5; T::LEN];
            *T::view_mut(&mut out).expect("long enough") = *value;
            assert_eq!(out, &bytes[..T::LEN]);
            // Printing calls every getter of the open sets and bit fields inside.
            assert!(!format!("{value:?}").is_empty());
        }
    }
}

proptest! {
    #[test]
    fn numbers(value: u128) {
        prop_assert_eq!(U16::new(value as u16).get(), value as u16);
        prop_assert_eq!(U24::new(value as u32 & U24::MAX).get(), value as u32 & U24::MAX);
        prop_assert_eq!(U32::new(value as u32).get(), value as u32);
        prop_assert_eq!(U64::new(value as u64).get(), value as u64);
        prop_assert_eq!(U128::new(value).get(), value);
        prop_assert_eq!(Be16::new(value as u16).get(), value as u16);
        prop_assert_eq!(Be24::new(value as u32 & Be24::MAX).get(), value as u32 & Be24::MAX);
        prop_assert_eq!(Be32::new(value as u32).get(), value as u32);
        prop_assert_eq!(Be64::new(value as u64).get(), value as u64);
    }

    #[test]
    fn block_commands(nsid: u32, slba: u64, blocks in 1u32..=65536, fua: bool, cid: u16) {
        let mut sqe = Sqe::lba_range(NvmOpcode::WRITE, nsid, slba, blocks).with_ids(cid, nsid);
        sqe.set_fua(fua);
        let back = Sqe::read(sqe.as_bytes()).unwrap();
        prop_assert_eq!((back.slba(), back.blocks(), back.fua()), (slba, blocks, fua));
        prop_assert_eq!((back.nsid.get(), back.cid.get()), (nsid, cid));
    }

    #[test]
    fn log_commands(lid: u8, offset in (0u64..1 << 62).prop_map(|n| n * 4), dwords in 1u32..1 << 30, lsp in 0u8..128) {
        let sqe = Sqe::get_log_page(LogId(lid), 0, offset, dwords * 4).with_lsp(lsp);
        prop_assert_eq!((sqe.lid().0, sqe.log_offset(), sqe.lsp()), (lid, offset, lsp));
        prop_assert_eq!(sqe.log_len(), u64::from(dwords) * 4);
    }

    #[test]
    fn keyed_sgls(addr: u64, len in 0..=U24::MAX, key: u32, invalidate: bool) {
        let keyed = KeyedSgl::new(addr, len, key, invalidate);
        let back = Sgl::from(keyed).keyed();
        prop_assert_eq!((back.addr.get(), back.len.get(), back.key.get()), (addr, len, key));
        prop_assert_eq!(back.wants_invalidate(), invalidate);
    }

    #[test]
    fn statuses(sct in 0u8..8, sc: u8, crd in 0u8..4, phase: bool, cid: u16) {
        let status = Status::new(sct, sc).with_crd(crd).dnr();
        prop_assert_eq!((status.sct(), status.sc(), status.crd(), status.is_dnr()), (sct, sc, crd, true));
        let mut cqe = Cqe::new(cid, status);
        cqe.set_phase(phase);
        prop_assert_eq!((cqe.status(), cqe.phase(), cqe.cid.get()), (status, phase, cid));
    }

    #[test]
    fn nqns(tail in "[ -~]{1,219}") {
        let name = format!("nqn.{tail}");
        let nqn = Nqn::new(&name).unwrap();
        prop_assert_eq!(nqn.as_str(), &name);
        prop_assert_eq!(Nqn::from_field(&nqn.to_field()), Ok(nqn));
    }

    #[test]
    fn nqns_of_any_bytes(bytes in vec(any::<u8>(), 256), start: bool) {
        let mut field: [u8; 256] = bytes.try_into().unwrap();
        if start {
            field[..4].copy_from_slice(b"nqn.");
        }
        if let Ok(nqn) = Nqn::from_field(&field) {
            prop_assert!(field.starts_with(nqn.as_str().as_bytes()));
            prop_assert_eq!(Nqn::from_field(&nqn.to_field()), Ok(nqn));
        }
    }

    #[test]
    fn words_of_bits(word: u64) {
        let half = word as u32;
        let cap = Cap(word);
        prop_assert_eq!(Cap::default().with_to(cap.to()).with_css(cap.css()).to(), cap.to());
        let cc = Cc(half);
        let rebuilt = Cc::default().with_en(cc.en()).with_css(cc.css()).with_mps(cc.mps()).with_ams(cc.ams())
            .with_shn(cc.shn()).with_iosqes(cc.iosqes()).with_iocqes(cc.iocqes()).with_crime(cc.crime());
        prop_assert_eq!(rebuilt.0, half & 0x01FF_FFF1 & !0xE);
        let text = format!("{cap:?}{cc:?}{:?}{:?}{:?}{:?}", Csts(half), Vs(half), Crto(half), Aqa(half));
        prop_assert!(!text.is_empty());
        prop_assert_eq!(AsyncEvent::from_dw0(half).dw0(), half & 0x00FF_FF07);
        prop_assert_eq!(ConnectResponse::from_dw0(half).dw0(), half);
        prop_assert_eq!(ConnectRefusal::from_dw0(half).dw0(), half & 0x1_FFFF);
        let queues = NumberOfQueues(half);
        prop_assert!(queues.submission_queues() >= 1 && queues.completion_queues() <= 65536);
        prop_assert!(tcp_alignment_is_sane(word as u8));
    }

    #[test]
    fn any_bytes_are_commands(bytes in vec(any::<u8>(), 0..200)) {
        survives::<Sqe>(&bytes);
        survives::<Cqe>(&bytes);
        survives::<Sgl>(&bytes);
        survives::<KeyedSgl>(&bytes);
        survives::<ConnectCmd>(&bytes);
        survives::<PropertyGet>(&bytes);
        survives::<PropertySet>(&bytes);
        survives::<Disconnect>(&bytes);
        survives::<AuthCmd>(&bytes);
        survives::<CommonHeader>(&bytes);
        survives::<IcReq>(&bytes);
        survives::<IcResp>(&bytes);
        survives::<CapsuleCmd>(&bytes);
        survives::<CapsuleResp>(&bytes);
        survives::<H2cData>(&bytes);
        survives::<C2hData>(&bytes);
        survives::<R2t>(&bytes);
        survives::<TermReq>(&bytes);
        survives::<RdmaCmRequest>(&bytes);
        survives::<RdmaCmAccept>(&bytes);
        survives::<RdmaCmReject>(&bytes);
        survives::<DsmRange>(&bytes);
        survives::<Timestamp>(&bytes);
        survives::<RegisterData>(&bytes);
        survives::<AcquireData>(&bytes);
        survives::<ReleaseData>(&bytes);
        survives::<ExtendedStatusHeader>(&bytes);
        survives::<Registrant>(&bytes);
        survives::<ExtendedRegistrant>(&bytes);
        if let Some(sqe) = Sqe::view(&bytes) {
            every_getter(sqe);
        }
        if let Some(request) = RdmaCmRequest::view(&bytes) {
            prop_assert!(request.entries() >= 1);
        }
        if let Some(icreq) = IcReq::view(&bytes) {
            prop_assert!(icreq.maxr2t() >= 1);
        }
    }

    #[test]
    fn any_bytes_are_lists(bytes in vec(any::<u8>(), 0..4200)) {
        let read: usize = NsDescriptors::new(&bytes).map(|(_, nid)| 4 + nid.len()).sum();
        prop_assert!(read <= bytes.len());
        for nidt in [Nidt::EUI64, Nidt::NGUID, Nidt::UUID, Nidt::CSI, Nidt(9)] {
            NsDescriptors::new(&bytes).find(nidt);
        }
        if let Some((_, groups)) = AnaGroups::new(&bytes) {
            let read: usize = groups.map(|(_, nsids)| 32 + 4 * nsids.len()).sum();
            prop_assert!(read + 16 <= bytes.len());
        }
        prop_assert!(ascii(&bytes).len() <= bytes.len());
        if let Some(list) = NamespaceList::view(&bytes) {
            prop_assert!(list.iter().count() <= NamespaceList::CAPACITY);
        }
        if let Some(list) = ControllerList::view(&bytes) {
            prop_assert!(list.iter().count() <= 2047);
        }
    }

    #[test]
    fn descriptors_read_back(entries in vec((1u8.., vec(any::<u8>(), 1..40)), 0..20), room in 0usize..400) {
        let mut list = vec![0xA5; room];
        let mut writer = NsDescriptorWriter::new(&mut list);
        let fit: Vec<_> = entries.into_iter().take_while(|(nidt, nid)| writer.push(Nidt(*nidt), nid)).collect();
        let back: Vec<_> = NsDescriptors::new(&list).map(|(nidt, nid)| (nidt.0, nid.to_vec())).collect();
        prop_assert_eq!(back, fit);
    }
}

proptest! {
    // Large structures: fewer cases, the same questions.
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn any_bytes_are_data(bytes in vec(any::<u8>(), 4000..4200)) {
        survives::<ConnectData>(&bytes);
        survives::<IdentifyController>(&bytes);
        survives::<IdentifyNamespace>(&bytes);
        survives::<NvmIdentifyNamespace>(&bytes);
        survives::<NvmIdentifyController>(&bytes);
        survives::<CsIndependentNamespace>(&bytes);
        survives::<IoCommandSetVectors>(&bytes);
        survives::<NamespaceList>(&bytes);
        survives::<ControllerList>(&bytes);
        survives::<ErrorInfoEntry>(&bytes);
        survives::<SmartLog>(&bytes);
        survives::<FirmwareSlotLog>(&bytes);
        survives::<CommandsSupportedAndEffects>(&bytes);
        survives::<FeatureEffects>(&bytes);
        survives::<SupportedLogPages>(&bytes);
        survives::<AnaHeader>(&bytes);
        survives::<AnaGroup>(&bytes);
        survives::<DiscoveryLogHeader>(&bytes);
        survives::<DiscoveryLogEntry>(&bytes);
        survives::<HostBehaviorSupport>(&bytes);
        survives::<Bth>(&bytes);
        survives::<Reth>(&bytes);
        survives::<Aeth>(&bytes);
        survives::<Deth>(&bytes);
        survives::<AtomicEth>(&bytes);
        survives::<MadHeader>(&bytes);
        survives::<CmaHeader>(&bytes);
        survives::<CmReq>(&bytes);
        survives::<CmRep>(&bytes);
        survives::<CmRej>(&bytes);
        survives::<CmMra>(&bytes);
        survives::<CmRtu>(&bytes);
        survives::<CmDreq>(&bytes);
        if let Some(id) = IdentifyController::view(&bytes) {
            let (mpsmin, sum) = (id.rab & 15, id.abort_limit() + id.async_event_limit() + id.error_log_entries());
            prop_assert!(id.transfer_bytes_max(mpsmin) != Some(0) && sum >= 3);
            prop_assert!(id.atomic_blocks() + id.atomic_blocks_power_fail() + id.atomic_blocks_compare() >= 3);
            prop_assert!(id.serial().len() <= 20 && id.model().len() <= 40 && id.firmware().len() <= 8);
            prop_assert!(id.in_capsule_bytes_max() <= 16 * u64::from(u32::MAX) && id.power_states() >= 1);
        }
        if let Some(ns) = IdentifyNamespace::view(&bytes) {
            prop_assert!(ns.format_index() < 64 && ns.lba_formats() >= 1);
            prop_assert!(ns.bytes().is_none_or(|len| len >= ns.nsze.get()));
        }
        let entry = DiscoveryLogEntry::read(&bytes).unwrap();
        let _ = (entry.traddr(), entry.trsvcid(), entry.subnqn(), entry.tcp_tsas(), entry.rdma_tsas());
    }
}

fn tcp_alignment_is_sane(pda: u8) -> bool {
    match alignment(pda) {
        None => pda > 31,
        Some(len) => len.is_multiple_of(4) && (4..=ALIGNMENT_MAX).contains(&len),
    }
}

fn every_getter(sqe: &Sqe) {
    let _ = (
        sqe.admin_opcode(),
        sqe.nvm_opcode(),
        sqe.fabrics_type(),
        sqe.fuse(),
        sqe.psdt(),
        sqe.prp(),
    );
    let _ = (
        sqe.lr(),
        sqe.prinfo(),
        sqe.deac(),
        sqe.abort_sqid(),
        sqe.abort_cid(),
        sqe.dptr.sgl_type(),
    );
    let _ = (
        sqe.cns(),
        sqe.identify_cntid(),
        sqe.identify_csi(),
        sqe.identify_cnssid(),
    );
    let _ = (
        sqe.lid(),
        sqe.rae(),
        sqe.numd_z(),
        sqe.lsi(),
        sqe.log_offset_is_index(),
        sqe.log_csi(),
    );
    let _ = (
        sqe.fid(),
        sqe.feature_select(),
        sqe.feature_save(),
        sqe.dsm_ad(),
    );
    let _ = (
        sqe.queue_qid(),
        sqe.queue_cqid(),
        sqe.queue_vector(),
        sqe.queue_contiguous(),
    );
    let _ = (
        sqe.reservation_action(),
        sqe.reservation_type(),
        sqe.reservation_cptpl(),
    );
    assert!((1..=65536).contains(&sqe.blocks()));
    assert!((1..=65536).contains(&sqe.queue_entries()));
    assert!((1..=Sqe::DSM_RANGES_MAX).contains(&sqe.dsm_ranges()));
    assert!(sqe.log_len() >= 4);
}
