//! Asynchronous events: asked for, told once, told again after the log was read.

use std::sync::Arc;

use ferroce_wire::feature::{AsyncEvent, AsyncEventConfig, FeatureId};
use ferroce_wire::log::{LogId, SmartLog};
use ferroce_wire::sqe::{NSID_ALL, Sqe};
use ferroce_wire::status::Status;

use super::{World, listener, namespace, only, subsystem};
use crate::admin::{Answer, on_health, on_table};
use crate::controller::Kind;
use crate::health::Health;
use crate::limits;
use crate::refusal::Refusal;

fn turn_on(world: &mut World, bits: u32) {
    world.done(Sqe::set_features(FeatureId::ASYNC_EVENT_CONFIG, 0, bits));
}

fn add_namespace(world: &mut World, nsid: u32) {
    world.change(|table| {
        let namespaces = &mut subsystem(table).namespaces;
        namespaces.insert(nsid, namespace(9, 512, 8, false));
    });
}

fn read_changes(world: &mut World) {
    world.data(Sqe::get_log_page(
        LogId::CHANGED_NAMESPACES,
        NSID_ALL,
        0,
        4096,
    ));
}

const NAMESPACES: u32 = AsyncEventConfig::NS_ATTRIBUTE;
const TOLD: u32 = 0x0004_0002;

#[test]
fn requests_are_held_up_to_the_limit() {
    let mut world = World::new(Kind::Io);
    for slot in 0..limits::AERS_MAX as u32 {
        assert_eq!(world.request_event(slot + 10), Answer::Held);
    }
    assert_eq!(world.controller.aers, [10, 11, 12, 13]);
    let beyond = Refusal::of(Status::ASYNC_EVENT_LIMIT_EXCEEDED.dnr());
    assert_eq!(world.request_event(20), Answer::Refused(beyond));
    assert_eq!(world.event(), None);
}

#[test]
fn a_change_is_told_once_until_its_log_is_read() {
    let mut world = World::new(Kind::Io);
    turn_on(&mut world, NAMESPACES);
    world.request_event(10);
    world.request_event(11);
    add_namespace(&mut world, 2);
    assert_eq!(world.event(), Some((10, TOLD)));
    assert_eq!(AsyncEvent::NAMESPACE_CHANGED.dw0(), TOLD);
    assert_eq!(world.event(), None);
    add_namespace(&mut world, 3);
    assert_eq!(world.event(), None, "the host has not looked yet");
    // It looks and wants no more events for it.
    let mut peek = Sqe::get_log_page(LogId::CHANGED_NAMESPACES, NSID_ALL, 0, 4096);
    peek.cdw10 = (peek.cdw10.get() | Sqe::CDW10_RAE).into();
    world.data(peek);
    add_namespace(&mut world, 4);
    assert_eq!(world.event(), None);
    read_changes(&mut world);
    assert_eq!(world.event(), None, "all was in the list");
    add_namespace(&mut world, 6);
    assert_eq!(world.event(), Some((11, TOLD)));
}

#[test]
fn an_event_waits_for_a_request() {
    let mut world = World::new(Kind::Io);
    turn_on(&mut world, NAMESPACES);
    add_namespace(&mut world, 2);
    assert_eq!(world.event(), None);
    world.request_event(10);
    assert_eq!(world.event(), Some((10, TOLD)));
    // Read before it could be told, it need not be told.
    read_changes(&mut world);
    add_namespace(&mut world, 3);
    read_changes(&mut world);
    world.request_event(11);
    assert_eq!(world.event(), None);
}

#[test]
fn what_the_host_turned_off_is_not_told() {
    let mut world = World::new(Kind::Io);
    world.request_event(10);
    add_namespace(&mut world, 2);
    assert_eq!(world.event(), None);
    assert_eq!(world.controller.changed_namespaces.len(), 1);
    turn_on(&mut world, NAMESPACES);
    assert_eq!(world.event(), None);
    add_namespace(&mut world, 3);
    turn_on(&mut world, 0);
    assert_eq!(world.event(), None);
    turn_on(&mut world, NAMESPACES);
    assert_eq!(world.event(), Some((10, TOLD)));
}

#[test]
fn what_counts_as_a_change() {
    let mut world = World::new(Kind::Io);
    turn_on(&mut world, NAMESPACES);
    let mut slot = 10;
    let mut told = |change: &mut dyn FnMut(&mut crate::table::Table)| {
        world.request_event(slot);
        slot += 1;
        world.change(|table| change(table));
        let told = world.event().is_some();
        world.controller.aers.clear();
        read_changes(&mut world);
        told
    };
    let mut resize = |table: &mut crate::table::Table| {
        let one = subsystem(table).namespaces.get_mut(&1).expect("is there");
        std::sync::Arc::make_mut(&mut one.info).blocks *= 2;
    };
    assert!(told(&mut resize));
    let mut protect = |table: &mut crate::table::Table| {
        let one = subsystem(table).namespaces.get_mut(&1).expect("is there");
        one.read_only = true;
    };
    assert!(told(&mut protect));
    assert!(told(&mut |table| drop(
        subsystem(table).namespaces.remove(&1)
    )));
    assert!(!told(&mut |_| ()));
    assert!(!told(&mut |table| table.listeners.clear()));
    assert!(!told(&mut |table| subsystem(table).allow = only("nqn.x")));
    // With the subsystem goes the association, which the host notices.
    assert!(!told(&mut |table| table.subsystems.clear()));
}

#[test]
fn discovery_is_told_of_what_this_host_sees() {
    let mut world = World::new(Kind::Discovery);
    let on = AsyncEventConfig::DISCOVERY_LOG;
    turn_on(&mut world, 0);
    world.request_event(10);
    world.change(|table| table.listeners.push(listener("192.0.2.3:1", 2)));
    assert_eq!(world.event(), None, "it is off");
    turn_on(&mut world, on);
    world.change(|table| table.listeners.push(listener("192.0.2.3:2", 3)));
    let told = AsyncEvent::DISCOVERY_CHANGED.dw0();
    assert_eq!(told, 0x0070_F002);
    assert_eq!(world.event(), Some((10, told)));
    world.request_event(11);
    world.change(|table| subsystem(table).allow = only("nqn.other"));
    assert_eq!(world.event(), None, "the host has not looked yet");
    world.data(Sqe::get_log_page(LogId::DISCOVERY, 0, 0, 1024));
    // Another host's rights are not this one's matter, nor are namespaces.
    world.change(|table| subsystem(table).allow = only("nqn.third"));
    world.change(|table| subsystem(table).namespaces.clear());
    assert_eq!(world.event(), None);
    world.change(|table| subsystem(table).allow = None);
    assert_eq!(world.event(), Some((11, told)));
}

#[test]
fn a_reset_forgets_events() {
    let mut world = World::new(Kind::Io);
    turn_on(&mut world, NAMESPACES);
    add_namespace(&mut world, 2);
    world.reset();
    assert!(world.controller.changed_namespaces.is_empty());
    turn_on(&mut world, NAMESPACES);
    world.request_event(10);
    assert_eq!(world.event(), None);
    // While it is not enabled nothing is noted: the host looks at everything afterwards.
    let mut world = World::not_ready(Kind::Io);
    add_namespace(&mut world, 2);
    assert!(world.controller.changed_namespaces.is_empty());
}

/// What a drive of the subsystem feels, and what the host is told of it.
fn feel(world: &mut World, health: &Health, critical_warning: u8) -> Option<(u32, u32)> {
    health.say(&SmartLog {
        critical_warning,
        ..SmartLog::default()
    });
    on_health(&mut world.controller, &world.table);
    world.event()
}

fn with_health(world: &mut World) -> Arc<Health> {
    let health: Arc<Health> = Arc::default();
    world.change(|table| {
        for namespace in subsystem(table).namespaces.values_mut() {
            Arc::make_mut(&mut namespace.info).health = Some(health.clone());
        }
    });
    health
}

#[test]
fn critical_warnings_are_told_as_asked_for() {
    let (spare, hot) = (SmartLog::WARNING_SPARE, SmartLog::WARNING_TEMPERATURE);
    let read_only = SmartLog::WARNING_READ_ONLY;
    let told = |info: u32| 0x0002_0001 | info << 8;
    let mut world = World::new(Kind::Io);
    let health = with_health(&mut world);
    for slot in 10..14 {
        world.request_event(slot);
    }
    assert_eq!(feel(&mut world, &health, hot), None, "nobody asked");
    turn_on(&mut world, u32::from(spare | read_only));
    assert_eq!(world.event(), None, "only of others");
    turn_on(&mut world, u32::from(spare | hot | read_only));
    assert_eq!(world.event(), Some((10, told(1))), "it is still so");
    // No more of this type before the log is read; then what came meanwhile, one by one.
    let all = spare | hot | read_only;
    assert_eq!(feel(&mut world, &health, all), None);
    let read = |world: &mut World, rae: u32| {
        let mut sqe = Sqe::get_log_page(LogId::SMART, NSID_ALL, 0, 512);
        sqe.cdw10 = (sqe.cdw10.get() | rae).into();
        world.data(sqe);
        world.event()
    };
    assert_eq!(read(&mut world, Sqe::CDW10_RAE), None);
    assert_eq!(read(&mut world, 0), Some((11, told(2))));
    assert_eq!(read(&mut world, 0), Some((12, told(0))));
    assert_eq!(read(&mut world, 0), None, "all was told");
    assert_eq!(feel(&mut world, &health, all), None, "and is as it was");
    // What goes and comes again is new.
    assert_eq!(feel(&mut world, &health, 0), None);
    assert_eq!(feel(&mut world, &health, hot), Some((13, told(1))));
    assert_eq!(read(&mut world, 0), None);
    assert_eq!(feel(&mut world, &health, spare), None, "no request waits");
    world.request_event(14);
    assert_eq!(world.event(), Some((14, told(2))));
}

#[test]
fn a_namespace_is_none_other_for_how_its_drive_feels() {
    let mut world = World::new(Kind::Io);
    let health = with_health(&mut world);
    turn_on(&mut world, NAMESPACES);
    world.request_event(10);
    let before = world.table.clone();
    health.fail();
    on_table(&mut world.controller, &before, &world.table);
    assert_eq!(world.event(), None);
}
