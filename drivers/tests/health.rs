//! How the NVMe driver hears how a drive is: its SMART / Health log, its warnings, and drives that are slow to tell.

mod played;

use std::time::{Duration, Instant};

use ferroce_drivers::nvme::queue::FAILED;
use ferroce_drivers::nvme::{NvmeDrive, Patience};
use ferroce_engine::port::Op;
use ferroce_wire::log::SmartLog;
use ferroce_wire::prop::Vs;
use ferroce_wire::status::Status;
use played::Mischief;
use played::bench::{Bench, config, impatient, patient, pattern, until, wait_until};

/// A log that says so much.
fn smart(critical_warning: u8, kelvin: u16) -> SmartLog {
    SmartLog {
        critical_warning,
        ctemp: kelvin.into(),
        avsp: 90,
        avspt: 10,
        pused: 3,
        ..SmartLog::default()
    }
}

#[test]
fn the_health_of_a_drive_is_read_every_now_and_then() {
    // RAE is a reserved bit before 1.3, and this drive refuses it then.
    for vs in [None, Some(Vs(0x0001_0200))] {
        reads_health_every_now_and_then(vs);
    }
}

fn reads_health_every_now_and_then(vs: Option<Vs>) {
    let patience = Patience {
        smart_ms: 5,
        ..patient()
    };
    let bench = Bench::new(512, patience, |mischief| mischief.vs = vs);
    let health = bench.drive.info().health.expect("it has a log");
    bench.player.feels(&smart(0, 300));
    let kelvin = || health.smart().map(|smart| smart.ctemp.get());
    wait_until("it is 300 K", || kelvin() == Some(300));
    bench.player.feels(&smart(0, 310));
    wait_until("it is 310 K", || kelvin() == Some(310));
    assert_eq!(health.warnings(), 0);
    // Namespaces of one drive are one drive's.
    let again = NvmeDrive::open(bench.drive.controller().clone(), config(None)).unwrap();
    assert_eq!(again.info().health.as_ref(), Some(&health));
    drop(again);
    bench.end();
}

#[test]
fn a_warning_of_a_drive_is_heard_at_once_and_without_being_asked_for() {
    let patience = Patience {
        smart_ms: 3_600_000,
        ..patient()
    };
    let mut bench = Bench::new(512, patience, |_| {});
    let health = bench.drive.info().health.expect("it has a log");
    wait_until("it was read once", || bench.player.seen().smart_reads == 1);
    // Twice: the reading of the log lets it tell of the next.
    for warning in [SmartLog::WARNING_TEMPERATURE, SmartLog::WARNING_SPARE] {
        bench.player.feels(&smart(0, 300));
        bench.player.feels(&smart(warning, 360));
        wait_until("the warning is heard", || health.warnings() == warning);
    }
    // The reading that lets it tell of the next tells what it warned of, too.
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(bench.player.seen().smart_reads, 3);
    assert_eq!(bench.write(0, &pattern(4096, 7), 4096), Status::SUCCESS);
    assert_eq!(bench.read(0, 4096, 4096), pattern(4096, 7));
    bench.end();
}

#[test]
fn a_drive_that_warns_again_and_again_is_heard_once_and_then_when_its_log_is_read_anyway() {
    for smart_ms in [3_600_000, 5] {
        let patience = Patience {
            smart_ms,
            ..patient()
        };
        let mut bench = Bench::new(512, patience, |mischief| mischief.hot = true);
        // Both requests for events are answered. The first is given anew at once, the second with the reading at the start.
        let events = || bench.player.seen().hot_events;
        wait_until("it is heard", || events() >= 3);
        if smart_ms == 5 {
            wait_until("it is heard again", || events() > 10);
        } else {
            std::thread::sleep(Duration::from_millis(50));
            let seen = bench.player.seen();
            assert!((3..=4).contains(&seen.hot_events), "{seen:?}");
            assert!(seen.smart_reads <= 4, "{seen:?}");
        }
        assert_eq!(bench.write(0, &pattern(4096, 7), 4096), Status::SUCCESS);
        assert_eq!(bench.player.seen().disabled, 0);
        bench.end();
    }
}

#[test]
fn a_drive_without_a_log_is_asked_once_and_served() {
    for status in [
        Status::INVALID_LOG_PAGE.dnr(),
        Status::INVALID_FIELD,
        Status::INVALID_OPCODE.dnr(),
    ] {
        let patience = Patience {
            smart_ms: 1,
            ..patient()
        };
        let mut bench = Bench::new(512, patience, |mischief| mischief.no_smart = Some(status));
        wait_until("it was asked", || bench.player.seen().smart_reads > 0);
        assert_eq!(bench.write(0, &pattern(4096, 7), 4096), Status::SUCCESS);
        std::thread::sleep(Duration::from_millis(50));
        let seen = bench.player.seen();
        assert_eq!((seen.smart_reads, seen.disabled), (1, 0));
        let health = bench.drive.info().health.expect("what it says goes there");
        assert_eq!((health.smart(), health.warnings()), (None, 0));
        bench.end();
    }
}

#[test]
fn a_drive_that_gives_its_log_not_now_is_asked_again() {
    let patience = Patience {
        smart_ms: 5,
        ..patient()
    };
    let refuse = |mischief: &mut Mischief| mischief.no_smart = Some(Status::INTERNAL_ERROR.dnr());
    let bench = Bench::new(512, patience, refuse);
    let health = bench.drive.info().health.expect("it has a log");
    wait_until("it was asked", || bench.player.seen().smart_reads > 2);
    bench.player.feels(&smart(0, 300));
    bench.player.misbehave(|mischief| mischief.no_smart = None);
    let kelvin = || health.smart().map(|smart| smart.ctemp.get());
    wait_until("it is 300 K", || kelvin() == Some(300));
    assert_eq!(bench.player.seen().disabled, 0);
    bench.end();
}

#[test]
fn a_drive_that_failed_is_not_reliable() {
    let patience = Patience {
        reset_ms: 200,
        ..patient()
    };
    let mut bench = Bench::new(512, patience, |_| {});
    let health = bench.drive.info().health.expect("it has a log");
    wait_until("it was read", || health.smart().is_some());
    bench.player.misbehave(|mischief| mischief.gone = true);
    assert_eq!(bench.plain(Op::Flush), FAILED);
    assert_eq!(health.warnings(), SmartLog::WARNING_DEGRADED);
    drop(bench);
}

#[test]
fn a_drive_that_is_slow_to_give_a_log_page_is_not_reset() {
    let patience = Patience {
        admin_ms: 50,
        smart_ms: 5,
        ..impatient()
    };
    let mut bench = Bench::new(512, patience, |mischief| mischief.slow_logs = true);
    let health = bench.drive.info().health.expect("it has a log");
    wait_until("it is asked", || bench.player.logs_asked() == 1);
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(200) {
        assert_eq!(bench.write(0, &pattern(4096, 7), 4096), Status::SUCCESS);
    }
    // What is to be done meanwhile is done.
    bench.player.misbehave(|mischief| {
        (mischief.hold, mischief.aborts) = (true, true);
    });
    let interrupted = Status::COMMAND_INTERRUPTED;
    assert_eq!(bench.write(0, &[1; 4096], 4096), interrupted);
    bench.player.misbehave(|mischief| mischief.hold = false);
    drop(bench.drive.queue(1, &[]).unwrap());
    let seen = bench.player.seen();
    assert_eq!((seen.disabled, bench.player.logs_asked()), (0, 1));
    assert_eq!(health.smart(), None);
    // It comes, and so do those that follow.
    bench.player.feels(&smart(0, 300));
    bench.player.give_logs();
    let kelvin = || health.smart().map(|smart| smart.ctemp.get());
    wait_until("it is 300 K", || kelvin() == Some(300));
    bench.player.feels(&smart(0, 310));
    wait_until("it is 310 K", || kelvin() == Some(310));
    assert_eq!(bench.player.seen().disabled, 0);
    bench.end();
}

#[test]
fn a_drive_that_gives_no_log_page_is_reset_ever_more_rarely_and_never_given_up_for_it() {
    let start = Instant::now();
    let patience = Patience {
        log_ms: 5,
        smart_ms: 1,
        ..patient()
    };
    let mut bench = Bench::new(512, patience, |mischief| mischief.slow_logs = true);
    until(&mut bench, "it is reset again and again", |player| {
        player.seen().disabled > 6
    });
    // Behind six of the seven it was asked for nothing, for 10 ms, 20 ms and so on.
    assert!(start.elapsed() >= Duration::from_millis(10 + 20 + 40 + 80 + 160 + 320));
    bench.player.give_logs();
    assert_eq!(bench.write(0, &pattern(4096, 7), 4096), Status::SUCCESS);
    assert!(!bench.drive.controller().has_failed());
    bench.end();
}
