//! Get Features and Set Features.

use ferroce_wire::Wire;
use ferroce_wire::feature::{
    AsyncEventConfig, FeatureId, FeatureSelect, HostBehaviorSupport, TemperatureThreshold,
    Timestamp,
};
use ferroce_wire::log::{FeatureEffects, LogId, SCOPE_CONTROLLER, SCOPE_NAMESPACE};
use ferroce_wire::sqe::{NSID_ALL, Sgl, Sqe};
use ferroce_wire::status::Status;

use super::{HOSTID, World, at};
use crate::admin::Answer;
use crate::controller::{Controller, Kind};
use crate::port::Tick;

fn get(fid: FeatureId) -> Sqe {
    Sqe::get_features(fid, 0, FeatureSelect::CURRENT)
}

fn select(fid: FeatureId, select: FeatureSelect) -> Sqe {
    let mut sqe = Sqe::get_features(fid, 0, select);
    if fid == FeatureId::ERROR_RECOVERY {
        sqe.nsid = 1.into();
    }
    if fid == FeatureId::HOST_IDENTIFIER {
        sqe.cdw11 = 1.into();
    }
    sqe
}

fn set(fid: FeatureId, cdw11: u32) -> Sqe {
    Sqe::set_features(fid, 0, cdw11)
}

/// The features of a controller, by trying all FIDs.
fn known(world: &mut World) -> Vec<FeatureId> {
    let mut known = Vec::new();
    for fid in (0..=255).map(FeatureId) {
        let sqe = select(fid, FeatureSelect::CURRENT);
        match world.run(sqe) {
            Answer::Done(_) | Answer::Data(_) => known.push(fid),
            other => {
                assert!(matches!(other, Answer::Refused(refusal)
                    if (refusal.status, refusal.location) == at(Status::INVALID_FIELD, 40)));
                assert_eq!(world.refused(set(fid, 0)), at(Status::INVALID_FIELD, 40));
            }
        }
    }
    known
}

#[test]
fn the_log_of_features_is_what_there_is() {
    for (kind, expected) in [
        (
            Kind::Io,
            &[1, 2, 4, 5, 6, 7, 0x0A, 0x0B, 0x0E, 0x0F, 0x16, 0x19, 0x81][..],
        ),
        (Kind::Discovery, &[0x0B, 0x0F]),
    ] {
        let mut world = World::new(kind);
        let log = Sqe::get_log_page(LogId::FEATURE_EFFECTS, 0, 0, 1024);
        let log: FeatureEffects = world.structure(log);
        let known = known(&mut world);
        assert_eq!(known.iter().map(|fid| fid.0).collect::<Vec<_>>(), expected);
        for (fid, effects) in log.fids.iter().enumerate() {
            let (fid, effects) = (FeatureId(fid as u8), effects.get());
            assert_eq!(effects.fsupp(), known.contains(&fid), "{fid}");
            let scope = match (effects.fsupp(), fid) {
                (false, _) => 0,
                (true, FeatureId::ERROR_RECOVERY) => SCOPE_NAMESPACE,
                (true, _) => SCOPE_CONTROLLER,
            };
            assert_eq!(effects.fsp(), scope, "{fid}");
        }
    }
}

/// For each feature: what it can do, its value, its default and what is saved, after a change.
#[test]
fn selections() {
    let mut world = World::new(Kind::Io);
    for (fid, cdw11) in [
        (FeatureId::ARBITRATION, 0x0102_0303),
        (FeatureId::POWER_MANAGEMENT, 0x20),
        (FeatureId::TEMPERATURE_THRESHOLD, 350),
        (FeatureId::ERROR_RECOVERY, 10),
        (FeatureId::NUMBER_OF_QUEUES, 0x0007_0003),
        (FeatureId::WRITE_ATOMICITY, 1),
        (FeatureId::ASYNC_EVENT_CONFIG, 0x91F),
        (FeatureId::KATO, 5000),
        (FeatureId::IO_COMMAND_SET_PROFILE, 0),
    ] {
        let mut sqe = set(fid, cdw11);
        sqe.nsid = if fid == FeatureId::ERROR_RECOVERY {
            1
        } else {
            0
        }
        .into();
        world.done(sqe);
    }
    let mut table = String::new();
    for fid in known(&mut world) {
        table += &format!("{:02X}", fid.0);
        for which in [
            FeatureSelect::SUPPORTED,
            FeatureSelect::CURRENT,
            FeatureSelect::DEFAULT,
            FeatureSelect::SAVED,
        ] {
            match world.run(select(fid, which)) {
                Answer::Done(value) => table += &format!(" {value:x}"),
                Answer::Data(data) => table += &format!(" [{}]", data.len()),
                other => panic!("{fid}: {other:?}"),
            }
        }
        table += "\n";
        for reserved in 4..=7 {
            let refused = world.refused(select(fid, FeatureSelect(reserved)));
            assert_eq!(refused, at(Status::INVALID_FIELD, 41));
        }
    }
    // FID, capabilities (changeable 4, per namespace 2, saveable 1), current, default, saved.
    assert_eq!(
        table,
        "01 4 1020303 7 7\n\
         02 4 20 0 0\n\
         04 4 15e ffff ffff\n\
         05 6 a 0 0\n\
         06 0 1 1 1\n\
         07 4 30003 7f007f 7f007f\n\
         0A 4 1 0 0\n\
         0B 4 91f 0 0\n\
         0E 4 [8] [8] [8]\n\
         0F 4 1388 3a98 3a98\n\
         16 4 [512] [512] [512]\n\
         19 4 0 0 0\n\
         81 0 [16] [16] [16]\n"
    );
    world.reset();
    for fid in known(&mut world) {
        let current = world.run(select(fid, FeatureSelect::CURRENT));
        let default = world.run(select(fid, FeatureSelect::DEFAULT));
        assert_eq!(current, default, "{fid} after a reset");
    }
}

#[test]
fn nothing_can_be_saved() {
    let mut world = World::new(Kind::Io);
    for fid in known(&mut world) {
        let mut sqe = set(fid, 0);
        sqe.cdw10 = (sqe.cdw10.get() | Sqe::CDW10_SV).into();
        assert_eq!(world.refused(sqe), at(Status::FEATURE_NOT_SAVEABLE, 40));
    }
}

#[test]
fn namespaces_of_features() {
    let mut world = World::new(Kind::Io);
    for fid in known(&mut world) {
        if fid == FeatureId::ERROR_RECOVERY {
            continue;
        }
        let refused = world.refused(Sqe::set_features(fid, 1, 0));
        assert_eq!(
            refused,
            at(Status::FEATURE_NOT_NAMESPACE_SPECIFIC, 4),
            "{fid}"
        );
    }
    // For all of a feature that has no namespaces is the same as for none.
    world.done(Sqe::set_features(FeatureId::KATO, NSID_ALL, 5000));

    let fid = FeatureId::ERROR_RECOVERY;
    let get = |nsid| Sqe::get_features(fid, nsid, FeatureSelect::CURRENT);
    for nsid in [0, 1025, 0xFFFF_FFFE] {
        let refused = world.refused(Sqe::set_features(fid, nsid, 1));
        assert_eq!(refused, at(Status::INVALID_NAMESPACE, 4));
        assert_eq!(world.refused(get(nsid)), at(Status::INVALID_NAMESPACE, 4));
    }
    assert_eq!(
        world.refused(get(NSID_ALL)),
        at(Status::INVALID_NAMESPACE, 4)
    );
    let refused = world.refused(Sqe::set_features(fid, 2, 1));
    assert_eq!(refused, at(Status::INVALID_FIELD, 4));
    world.done(Sqe::set_features(fid, NSID_ALL, 7));
    world.done(Sqe::set_features(fid, 5, 8));
    assert_eq!((world.done(get(1)), world.done(get(5))), (7, 8));
    let dulbe = Sqe::set_features(fid, 1, 1 << 16);
    assert_eq!(world.refused(dulbe), at(Status::INVALID_FIELD, 46));
}

#[test]
fn what_cannot_be_changed() {
    let mut world = World::new(Kind::Io);
    let refused = world.refused(set(FeatureId::VOLATILE_WRITE_CACHE, 0));
    assert_eq!(refused, at(Status::FEATURE_NOT_CHANGEABLE, 40));
    let refused = world.refused(set(FeatureId::HOST_IDENTIFIER, 1));
    assert_eq!(refused, at(Status::COMMAND_SEQUENCE_ERROR, 40));
}

#[test]
fn values_that_cannot_be() {
    let mut world = World::new(Kind::Io);
    for (fid, cdw11, expected) in [
        (
            FeatureId::POWER_MANAGEMENT,
            1,
            at(Status::INVALID_FIELD, 44),
        ),
        (
            FeatureId::TEMPERATURE_THRESHOLD,
            1 << 16,
            at(Status::INVALID_FIELD, 46),
        ),
        (
            FeatureId::TEMPERATURE_THRESHOLD,
            2 << 20,
            at(Status::INVALID_FIELD, 46),
        ),
        (
            FeatureId::NUMBER_OF_QUEUES,
            0xFFFF,
            at(Status::INVALID_FIELD, 44),
        ),
        (
            FeatureId::NUMBER_OF_QUEUES,
            0xFFFF_0000,
            at(Status::INVALID_FIELD, 44),
        ),
        (
            FeatureId::ASYNC_EVENT_CONFIG,
            1 << 31,
            at(Status::INVALID_FIELD, 44),
        ),
        (
            FeatureId::ASYNC_EVENT_CONFIG,
            1 << 9,
            at(Status::INVALID_FIELD, 44),
        ),
        (
            FeatureId::IO_COMMAND_SET_PROFILE,
            1,
            at(Status::IO_COMMAND_SET_COMBINATION_REJECTED, 44),
        ),
    ] {
        assert_eq!(world.refused(set(fid, cdw11)), expected, "{fid} {cdw11:x}");
    }
    let mut discovery = World::new(Kind::Discovery);
    let refused = discovery.refused(set(FeatureId::ASYNC_EVENT_CONFIG, 1 << 8));
    assert_eq!(refused, at(Status::INVALID_FIELD, 44));
}

#[test]
fn temperature_thresholds_are_two() {
    let mut world = World::new(Kind::Io);
    let fid = FeatureId::TEMPERATURE_THRESHOLD;
    let under = TemperatureThreshold(0).with_thsel(1);
    world.done(set(fid, under.with_tmpth(270).0));
    // Fh is every sensor, and there is only the composite.
    let every = TemperatureThreshold(0).with_tmpsel(0xF);
    world.done(set(fid, every.with_tmpth(340).0));
    let mut ask = get(fid);
    assert_eq!(world.done(ask), 340);
    ask.cdw11 = under.0.into();
    assert_eq!(world.done(ask), under.with_tmpth(270).0);
    for wrong in [every.0, 1 << 16, 2 << 20] {
        ask.cdw11 = wrong.into();
        assert_eq!(world.refused(ask), at(Status::INVALID_FIELD, 46));
    }
}

#[test]
fn queues_are_granted_once_and_before_there_are_any() {
    let mut world = World::new(Kind::Io);
    let fid = FeatureId::NUMBER_OF_QUEUES;
    assert_eq!(world.done(set(fid, 0x01FF_01FF)), 0x007F_007F);
    assert_eq!(
        world.done(set(fid, 0)),
        0x007F_007F,
        "granted until a reset"
    );
    world.reset();
    // A queue is a pair: the fewer of both.
    assert_eq!(world.done(set(fid, 0x0007_0003)), 0x0003_0003);
    world.controller.who.note_io_queue();
    let refused = world.refused(set(fid, 0));
    assert_eq!(refused, at(Status::COMMAND_SEQUENCE_ERROR, 40));
    assert_eq!(world.done(get(fid)), 0x0003_0003);
    world.reset();
    assert_eq!(world.done(set(fid, 0)), 0);
}

#[test]
fn kato_is_rounded_up_and_cannot_be_switched_off() {
    let mut world = World::new(Kind::Io);
    let kato = |world: &mut World, ms: u32| {
        world.done(set(FeatureId::KATO, ms));
        assert_eq!(world.done(get(FeatureId::KATO)), world.controller.kato_ms);
        (
            world.controller.kato_ms,
            world.controller.silence_allowed_ms(),
        )
    };
    assert_eq!(kato(&mut world, 5000), (5000, Some(6000)));
    assert_eq!(kato(&mut world, 1), (1000, Some(2000)));
    let refused = world.refused(set(FeatureId::KATO, 0));
    assert_eq!(refused, at(Status::KEEP_ALIVE_TIMEOUT_INVALID, 44));
    assert_eq!(world.done(get(FeatureId::KATO)), 1000);
    assert_eq!(
        kato(&mut world, u32::MAX),
        (4_294_967_000, Some(4_294_968_000))
    );
    world.reset();
    assert_eq!(world.controller.kato_ms, 15_000, "what Connect said");
}

#[test]
fn who_names_no_kato_has_none() {
    for (kind, allowed_ms) in [(Kind::Io, None), (Kind::Discovery, Some(120_000))] {
        let mut world = World::new(kind);
        let who = world.controller.who.clone();
        world.controller = Controller::new(who, 0, 0);
        world.enable();
        assert_eq!(world.done(get(FeatureId::KATO)), 0);
        assert_eq!(world.controller.silence_allowed_ms(), allowed_ms);
    }
}

#[test]
fn who_names_a_kato_to_a_discovery_controller_is_told_of_changes() {
    let fid = FeatureId::ASYNC_EVENT_CONFIG;
    let mut world = World::new(Kind::Discovery);
    assert_eq!(world.done(get(fid)), AsyncEventConfig::DISCOVERY_LOG);
    world.done(set(fid, 0));
    assert_eq!(world.done(get(fid)), 0);
    let default = Sqe::get_features(fid, 0, FeatureSelect::DEFAULT);
    assert_eq!(world.done(default), AsyncEventConfig::DISCOVERY_LOG);
    world.reset();
    assert_eq!(world.done(get(fid)), AsyncEventConfig::DISCOVERY_LOG);
    let who = world.controller.who.clone();
    world.controller = Controller::new(who, 0, 0);
    world.enable();
    assert_eq!(world.done(get(fid)), 0);
    assert_eq!(World::new(Kind::Io).done(get(fid)), 0);
}

#[test]
fn the_host_identifier_has_sixteen_bytes() {
    let mut world = World::new(Kind::Io);
    assert_eq!(
        world.refused(get(FeatureId::HOST_IDENTIFIER)),
        at(Status::INVALID_FIELD, 44)
    );
    let extended = select(FeatureId::HOST_IDENTIFIER, FeatureSelect::CURRENT);
    assert_eq!(world.data(extended), HOSTID);
}

#[test]
fn the_timestamp_goes_on() {
    let mut world = World::new(Kind::Io);
    let read = |world: &mut World| {
        let timestamp: Timestamp = world.structure(get(FeatureId::TIMESTAMP));
        (timestamp.ms(), timestamp.attr)
    };
    world.now = world.now.plus_ms(250);
    assert_eq!(read(&mut world), (250, Timestamp::ORIGIN_RESET));
    let set = set(FeatureId::TIMESTAMP, 0);
    assert_eq!(world.run(set), Answer::Wants(8));
    let given = Timestamp::new(1_700_000_000_000, 0xFF);
    let answer = world.try_with(set, 0, Some(given.as_bytes()));
    assert_eq!(answer, Answer::Done(0));
    world.now = world.now.plus_ms(42);
    assert_eq!(read(&mut world), (1_700_000_000_042, Timestamp::ORIGIN_SET));
    world.reset();
    world.now = world.now.plus_ms(3);
    assert_eq!(read(&mut world), (3, Timestamp::ORIGIN_RESET));
    // The largest there is wraps in 48 bits and hurts nobody.
    let given = Timestamp::new(u64::MAX, 0);
    world.try_with(set, 0, Some(given.as_bytes()));
    world.now = Tick(u64::MAX);
    read(&mut world);
    assert!(matches!(
        world.try_with(set, 0, Some(&[0; 7])),
        Answer::Refused(_)
    ));
}

#[test]
fn host_behavior() {
    let mut world = World::new(Kind::Io);
    let fid = FeatureId::HOST_BEHAVIOR_SUPPORT;
    assert!(!world.controller.features.acre());
    assert_eq!(world.run(set(fid, 0)), Answer::Wants(512));
    let mut give = |behavior: HostBehaviorSupport| {
        let sqe = set(fid, 0).with_sgl(Sgl::transport(512));
        world.try_with(sqe, 0, Some(behavior.as_bytes()))
    };
    let plain = HostBehaviorSupport {
        acre: 1,
        etdas: 1,
        ..HostBehaviorSupport::default()
    };
    assert_eq!(give(plain), Answer::Done(0));
    for wrong in [
        HostBehaviorSupport { acre: 2, ..plain },
        HostBehaviorSupport { etdas: 2, ..plain },
        HostBehaviorSupport { hdisns: 2, ..plain },
        HostBehaviorSupport { lbafee: 1, ..plain },
        HostBehaviorSupport {
            cdfe: 4.into(),
            ..plain
        },
    ] {
        let Answer::Refused(refusal) = give(wrong) else {
            panic!("{wrong:?}");
        };
        assert_eq!(refusal.status, Status::INVALID_FIELD.dnr());
    }
    assert!(world.controller.features.acre());
    let kept: HostBehaviorSupport = world.structure(get(fid));
    assert_eq!(kept, plain);
}
