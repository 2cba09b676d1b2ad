//! Get Log Page.

use std::sync::Arc;

use ferroce_wire::Wire;
use ferroce_wire::feature::{FeatureId, TemperatureThreshold};
use ferroce_wire::identify::NamespaceList;
use ferroce_wire::log::{
    AnaGroups, AnaState, CommandsSupportedAndEffects, ErrorInfoEntry, FirmwareSlotLog, LogId,
    SmartLog, SupportedLogPages,
};
use ferroce_wire::opcode::NvmOpcode;
use ferroce_wire::prop::Cc;
use ferroce_wire::sqe::{NSID_ALL, Sgl, Sqe};
use ferroce_wire::status::Status;

use super::{World, at, namespace, subsystem};
use crate::admin::Answer;
use crate::controller::Kind;
use crate::health::Health;
use crate::limits;
use crate::port::Tick;
use crate::property;
use crate::refusal::Refusal;

fn sqe(lid: LogId, len: u32) -> Sqe {
    Sqe::get_log_page(lid, NSID_ALL, 0, len)
}

fn retaining(lid: LogId, len: u32) -> Sqe {
    let mut sqe = sqe(lid, len);
    sqe.cdw10 = (sqe.cdw10.get() | Sqe::CDW10_RAE).into();
    sqe
}

fn at_offset(lid: LogId, offset: u64, len: u32) -> Sqe {
    let mut sqe = sqe(lid, len);
    sqe.cdw12 = (offset as u32).into();
    sqe.cdw13 = ((offset >> 32) as u32).into();
    sqe
}

#[test]
fn the_log_of_pages_is_what_is_there() {
    for (kind, expected) in [
        (Kind::Io, &[0, 1, 2, 3, 4, 5, 0x0C, 0x12, 0x13][..]),
        (Kind::Discovery, &[0, 1, 5, 0x12, 0x13, 0x70]),
    ] {
        let mut world = World::new(kind);
        let log: SupportedLogPages = world.structure(sqe(LogId::SUPPORTED_LOG_PAGES, 1024));
        let mut known = Vec::new();
        for lid in 0..=255u8 {
            let effects = log.lids[usize::from(lid)].get();
            match world.run(sqe(LogId(lid), 4)) {
                Answer::Page { .. } => known.push(lid),
                Answer::Refused(refusal) => {
                    let refused = (refusal.status, refusal.location);
                    assert_eq!(refused, at(Status::INVALID_LOG_PAGE, 40));
                }
                other => panic!("{other:?}"),
            }
            assert_eq!(effects.lsupp(), known.last() == Some(&lid), "LID {lid:#x}");
            assert!(!effects.ios());
            // Of parameters, only Discovery's port local entries are reported so.
            assert_eq!(
                effects.lidsp(),
                if lid == 0x70 && effects.lsupp() { 2 } else { 0 }
            );
        }
        assert_eq!(known, expected);
    }
}

#[test]
fn a_page_may_be_read_in_parts() {
    let mut world = World::new(Kind::Io);
    let whole = world.data(sqe(LogId::COMMAND_EFFECTS, 4096));
    let mut parts = Vec::new();
    for (offset, len) in [(0, 4), (4, 1020), (1024, 3072)] {
        parts.extend(world.data(at_offset(LogId::COMMAND_EFFECTS, offset, len)));
    }
    assert_eq!(parts, whole);
}

#[test]
fn behind_a_pages_end_are_zeroes_as_far_as_was_asked() {
    let mut world = World::new(Kind::Io);
    let page = world.data(sqe(LogId::SMART, 4096));
    assert_eq!(page.len(), 4096);
    assert!(page[512..].iter().all(|byte| *byte == 0));
    // Whoever asks for a megabyte of a page of 512 bytes gets that, and nobody holds it meanwhile.
    match world.run(sqe(LogId::SMART, 1 << 20)) {
        Answer::Page { data, len } => assert_eq!((data.len(), len), (512, 1 << 20)),
        other => panic!("a page was expected: {other:?}"),
    }
    // At the end there is nothing but zeroes; behind it is an error.
    assert_eq!(world.data(at_offset(LogId::SMART, 512, 8)), [0; 8]);
    for offset in [516, 1 << 32, !3] {
        let refused = world.refused(at_offset(LogId::SMART, offset, 8));
        assert_eq!(refused, at(Status::INVALID_FIELD, 48));
    }
}

#[test]
fn wrong_parameters_are_named() {
    let mut world = World::new(Kind::Io);
    let refused = world.refused(at_offset(LogId::SMART, 2, 8));
    assert_eq!(refused, at(Status::INVALID_FIELD, 48));
    let refused = world.refused(sqe(LogId::SMART, limits::TRANSFER_MAX + 4));
    assert_eq!(refused, at(Status::INVALID_FIELD, 42));
    let mut longest = sqe(LogId::SMART, 4);
    longest.cdw10 = (longest.cdw10.get() | 0xFFFF_0000).into();
    longest.cdw11 = 0xFFFF.into();
    assert_eq!(world.refused(longest), at(Status::INVALID_FIELD, 42));
    let mut index = sqe(LogId::SMART, 8);
    index.cdw14 = (1 << 23).into();
    assert_eq!(world.refused(index), at(Status::INVALID_FIELD, 0x73A));
    // LPA does not offer SMART by namespace, nor is any other page about one.
    for lid in [LogId::SMART, LogId::ANA, LogId::ERROR_INFORMATION] {
        let one = Sqe::get_log_page(lid, 1, 0, 64);
        assert_eq!(world.refused(one), at(Status::INVALID_FIELD, 4));
        let none = Sqe::get_log_page(lid, 0, 0, 64);
        assert_eq!(world.data(none).len(), 64);
    }
    let mut zoned = sqe(LogId::COMMAND_EFFECTS, 64);
    zoned.cdw14 = (2 << 24).into();
    assert_eq!(world.refused(zoned), at(Status::INVALID_FIELD, 59));
    // With the NVM command set alone, CSI is not looked at.
    world.set_cc(Cc(0));
    property::reset_done(&mut world.controller);
    let cc = Cc(0).with_en(true).with_iosqes(Cc::IOSQES_64);
    world.set_cc(cc.with_iocqes(Cc::IOCQES_16));
    assert_eq!(world.data(zoned).len(), 64);
}

#[test]
fn errors_newest_first() {
    let mut world = World::new(Kind::Io);
    assert_eq!(world.data(sqe(LogId::ERROR_INFORMATION, 4096)), [0; 4096]);
    let mut read = Sqe::new(NvmOpcode::READ.0).with_ids(0, 5);
    for cid in 1..=100 {
        read.cid = cid.into();
        let mut refusal = Refusal::at(Status::LBA_OUT_OF_RANGE, 40);
        refusal.lba = 1234;
        world.controller.who.note_error(&refusal, 3, &read);
    }
    let page = world.data(sqe(LogId::ERROR_INFORMATION, 4096));
    let (entries, _) = page.as_chunks::<64>();
    let entries: Vec<_> = entries
        .iter()
        .map(|bytes| ErrorInfoEntry::read(bytes).expect("64 bytes"))
        .collect();
    assert_eq!(entries.len(), 64);
    for (index, entry) in entries.iter().enumerate() {
        let number = 100 - index as u64;
        assert_eq!(entry.count.get(), number);
        assert_eq!(u64::from(entry.cid.get()), number);
    }
    let newest = entries[0];
    assert_eq!(newest.status(), Status::LBA_OUT_OF_RANGE.dnr());
    assert_eq!((newest.sqid.get(), newest.pel.get()), (3, 40));
    assert_eq!((newest.lba.get(), newest.nsid.get()), (1234, 5));
    assert_eq!(newest.trtype, 0, "it is no error of the transport");
    let smart: SmartLog = world.structure(sqe(LogId::SMART, 512));
    assert_eq!(smart.nele.get(), 100);
}

#[test]
fn a_fabrics_command_in_the_error_log_has_no_namespace() {
    let world = World::new(Kind::Io);
    let connect = Sqe::new(0x7F).with_ids(4, 1);
    world
        .controller
        .who
        .note_error(&Refusal::opcode(), 0, &connect);
    let errors = world.controller.who.errors.lock().expect("not poisoned");
    assert_eq!(errors.entries[0].nsid.get(), 0);
}

#[test]
fn smart_counts_what_was_done() {
    let mut world = World::new(Kind::Io);
    let who = world.controller.who.clone();
    who.count_read(0, 4096);
    who.count_read(1, 1 << 20);
    who.count_write(0, 512);
    let lost = Refusal::of(Status::UNRECOVERED_READ_ERROR);
    who.note_error(&lost, 1, &Sqe::new(NvmOpcode::READ.0));
    let other = Refusal::of(Status::COMPARE_FAILURE);
    who.note_error(&other, 1, &Sqe::new(NvmOpcode::COMPARE.0));
    world.now = Tick(0).plus_ms(3 * 3_600_000 + 5);
    let smart: SmartLog = world.structure(sqe(LogId::SMART, 512));
    assert_eq!((smart.hrc.get(), smart.hwc.get()), (2, 1));
    // 2056 units of 512 bytes are three thousands begun; one is one.
    assert_eq!((smart.dur.get(), smart.duw.get()), (3, 1));
    assert_eq!(smart.poh.get(), 3);
    assert_eq!((smart.mdie.get(), smart.nele.get()), (1, 2));
    assert_eq!(
        (smart.critical_warning, smart.avsp, smart.pused),
        (0, 100, 0)
    );
}

/// Drives that say this are behind namespaces 1 and up, and each has another namespace, too.
fn with_drives(world: &mut World, said: &[SmartLog]) -> Vec<Arc<Health>> {
    let drives: Vec<Arc<Health>> = said.iter().map(|_| Arc::default()).collect();
    world.change(|table| {
        let namespaces = &mut subsystem(table).namespaces;
        namespaces.clear();
        for (nsid, health) in (1..).zip(drives.iter().chain(&drives)) {
            let mut namespace = namespace(nsid as u8, 512, 8, false);
            Arc::make_mut(&mut namespace.info).health = Some(health.clone());
            namespaces.insert(nsid, namespace);
        }
        // Memory says nothing of the kind.
        namespaces.insert(100, namespace(100, 512, 8, false));
    });
    for (health, smart) in drives.iter().zip(said) {
        health.say(smart);
    }
    drives
}

#[test]
fn smart_is_what_the_drives_say_together() {
    let mut world = World::new(Kind::Io);
    let cold = SmartLog {
        critical_warning: SmartLog::WARNING_READ_ONLY,
        ctemp: 300.into(),
        avsp: 90,
        avspt: 10,
        pused: 3,
        pwrc: 7.into(),
        poh: 50.into(),
        upl: 2.into(),
        mdie: 5.into(),
        hrc: 1_000.into(),
        ..SmartLog::default()
    };
    let hot = SmartLog {
        critical_warning: SmartLog::WARNING_TEMPERATURE,
        ctemp: 350.into(),
        avsp: 95,
        avspt: 80,
        pused: 1,
        pwrc: 4.into(),
        poh: 60.into(),
        upl: 3.into(),
        mdie: 6.into(),
        duw: 9.into(),
        nele: 11.into(),
        ..SmartLog::default()
    };
    let drives = with_drives(&mut world, &[cold, hot]);
    world.controller.who.count_read(0, 4096);
    let smart: SmartLog = world.structure(sqe(LogId::SMART, 512));
    let both = SmartLog::WARNING_READ_ONLY | SmartLog::WARNING_TEMPERATURE;
    assert_eq!(
        (smart.critical_warning, smart.ctemp.get(), smart.pused),
        (both, 350, 3)
    );
    // The hot one is nearer to having too little.
    assert_eq!((smart.avsp, smart.avspt), (95, 80));
    assert_eq!((smart.pwrc.get(), smart.poh.get()), (7, 60));
    // Each drive counts once, though it has two namespaces.
    assert_eq!((smart.upl.get(), smart.mdie.get()), (5, 11));
    // What this host did is what this host did, and so are its errors.
    assert_eq!((smart.hrc.get(), smart.dur.get()), (1, 1));
    assert_eq!((smart.duw.get(), smart.nele.get()), (0, 0));
    // One that was given up is not reliable, whatever it said.
    drives[0].fail();
    let smart: SmartLog = world.structure(sqe(LogId::SMART, 512));
    assert_eq!(smart.critical_warning, both | SmartLog::WARNING_DEGRADED);
}

#[test]
fn a_drive_that_says_nothing_leaves_smart_as_it_is() {
    let mut world = World::new(Kind::Io);
    let before: SmartLog = world.structure(sqe(LogId::SMART, 512));
    let drives = with_drives(&mut world, &[]);
    assert!(drives.is_empty());
    world.change(|table| {
        let namespace = subsystem(table).namespaces.get_mut(&100).expect("there");
        Arc::make_mut(&mut namespace.info).health = Some(Arc::default());
    });
    let after: SmartLog = world.structure(sqe(LogId::SMART, 512));
    assert_eq!(before, after);
}

#[test]
fn the_host_sets_what_is_too_hot() {
    let mut world = World::new(Kind::Io);
    let warm = SmartLog {
        ctemp: 320.into(),
        ..SmartLog::default()
    };
    with_drives(&mut world, &[warm]);
    let mut warning = |over: bool, kelvin: u16| {
        let threshold = TemperatureThreshold(0)
            .with_tmpth(kelvin)
            .with_thsel(u8::from(!over));
        let fid = FeatureId::TEMPERATURE_THRESHOLD;
        world.done(Sqe::set_features(fid, 0, threshold.0));
        let smart: SmartLog = world.structure(sqe(LogId::SMART, 512));
        smart.critical_warning
    };
    assert_eq!(warning(true, 321), 0);
    assert_eq!(warning(true, 320), SmartLog::WARNING_TEMPERATURE);
    assert_eq!(warning(true, 330), 0);
    assert_eq!(warning(false, 319), 0);
    assert_eq!(warning(false, 320), SmartLog::WARNING_TEMPERATURE);
}

#[test]
fn one_firmware_slot() {
    let log: FirmwareSlotLog = World::new(Kind::Io).structure(sqe(LogId::FIRMWARE_SLOT, 512));
    assert_eq!(log.afi, 1);
    assert_eq!(&log.frs[0], b"0.1.0   ");
    assert_eq!(log.frs[1], [0; 8]);
}

#[test]
fn changed_namespaces_once_read_are_forgotten() {
    let mut world = World::new(Kind::Io);
    let list = |world: &mut World, sqe: Sqe| -> Vec<u32> {
        let list: NamespaceList = world.structure(sqe);
        list.iter().collect()
    };
    let read = sqe(LogId::CHANGED_NAMESPACES, 4096);
    assert_eq!(list(&mut world, read), []);
    world.change(|table| {
        let namespaces = &mut subsystem(table).namespaces;
        namespaces.remove(&1);
        namespaces.insert(2, namespace(2, 512, 8, false));
        namespaces.insert(5, namespace(5, 512, 2000, true));
    });
    world.change(|_| ());
    let keep = retaining(LogId::CHANGED_NAMESPACES, 4096);
    assert_eq!(list(&mut world, keep), [1, 2, 5]);
    // What the host has no room for it has not read.
    let short = world.try_with(read.with_sgl(Sgl::transport(4092)), 0, None);
    assert!(matches!(short, Answer::Refused(_)), "{short:?}");
    assert_eq!(list(&mut world, keep), [1, 2, 5]);
    // A part of it is not all of it.
    world.data(sqe(LogId::CHANGED_NAMESPACES, 8));
    assert_eq!(list(&mut world, read), [1, 2, 5]);
    assert_eq!(list(&mut world, read), []);
}

#[test]
fn too_many_changed_namespaces_are_all_of_them() {
    let mut world = World::new(Kind::Io);
    world.controller.changed_namespaces = (1..=1024).collect();
    let list: NamespaceList = world.structure(sqe(LogId::CHANGED_NAMESPACES, 4096));
    assert_eq!(list.iter().count(), 1024);
    world.controller.changed_namespaces = (1..=1025).collect();
    let list: NamespaceList = world.structure(sqe(LogId::CHANGED_NAMESPACES, 4096));
    assert_eq!(list.iter().collect::<Vec<_>>(), [0xFFFF_FFFF]);
}

#[test]
fn effects_of_io_commands() {
    let log: CommandsSupportedAndEffects =
        World::new(Kind::Io).structure(sqe(LogId::COMMAND_EFFECTS, 4096));
    let mut known = Vec::new();
    for (opcode, effects) in log.iocs.iter().enumerate() {
        let effects = effects.get();
        if effects.csupp() {
            let name = NvmOpcode(opcode as u8).name().expect("it has a name");
            known.push((name, effects.lbcc()));
            assert_eq!((effects.cse(), effects.csp()), (0, 0));
        } else {
            assert_eq!(effects.0, 0);
        }
    }
    assert_eq!(
        known,
        [
            ("Flush", false),
            ("Write", true),
            ("Read", false),
            ("Compare", false),
            ("Write Zeroes", true),
            ("Dataset Management", true),
            ("Verify", false),
        ]
    );
    let log: CommandsSupportedAndEffects =
        World::new(Kind::Discovery).structure(sqe(LogId::COMMAND_EFFECTS, 4096));
    assert!(log.iocs.iter().all(|effects| effects.get().0 == 0));
}

#[test]
fn one_optimized_ana_group() {
    let mut world = World::new(Kind::Io);
    let page = world.data(sqe(LogId::ANA, 56));
    let (header, groups) = AnaGroups::new(&page).expect("a header");
    assert_eq!((header.chgcnt.get(), header.ngrps.get()), (3, 1));
    let groups: Vec<_> = groups.collect();
    let [(group, nsids)] = groups[..] else {
        panic!("one group");
    };
    assert_eq!((group.agid.get(), group.state), (1, AnaState::OPTIMIZED));
    assert_eq!(
        nsids.iter().map(|nsid| nsid.get()).collect::<Vec<_>>(),
        [1, 5]
    );

    let rgo = world.data(sqe(LogId::ANA, 56).with_lsp(1));
    let (_, mut groups) = AnaGroups::new(&rgo).expect("a header");
    let (group, _) = groups.next().expect("the group");
    assert_eq!(group.nnsids.get(), 0);

    // Empty, the group is still there; and the change is counted.
    world.change(|table| subsystem(table).namespaces.clear());
    let page = world.data(sqe(LogId::ANA, 48));
    let (header, mut groups) = AnaGroups::new(&page).expect("a header");
    assert_eq!(
        (header.chgcnt.get(), groups.next().map(|(_, of)| of.len())),
        (4, Some(0))
    );
}

#[test]
fn no_management_interface() {
    let mut world = World::new(Kind::Io);
    assert_eq!(world.data(sqe(LogId::MI_COMMAND_EFFECTS, 1024)), [0; 1024]);
}

#[test]
fn a_reset_empties_the_error_log_and_keeps_its_count() {
    let mut world = World::new(Kind::Io);
    let who = world.controller.who.clone();
    who.note_error(&Refusal::opcode(), 0, &Sqe::new(0xFF));
    world.reset();
    assert_eq!(world.data(sqe(LogId::ERROR_INFORMATION, 4096)), [0; 4096]);
    let smart: SmartLog = world.structure(sqe(LogId::SMART, 512));
    assert_eq!(smart.nele.get(), 1);
}

#[test]
fn unknown_pages_of_the_other_kind() {
    let refused = World::new(Kind::Io).refused(sqe(LogId::DISCOVERY, 1024));
    assert_eq!(refused, at(Status::INVALID_LOG_PAGE, 40));
    let refused = World::new(Kind::Discovery).refused(sqe(LogId::ANA, 64));
    assert_eq!(refused, at(Status::INVALID_LOG_PAGE, 40));
}
