//! Interrupts of the NVMe driver: a core that polls all the time has the drive keep still, one that sleeps does not.

mod played;

use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ferroce_buf::{BufList, Home};
use ferroce_drivers::dma::Bus;
use ferroce_drivers::mmio::Registers;
use ferroce_drivers::nvme::{
    Controller, NvmeConfig, NvmeDrive, NvmeQueue, Patience, Seat, Signals,
};
use ferroce_drivers::vfio::EventFd;
use ferroce_engine::port::{Backend, Io, Op, Tag};
use ferroce_wire::log::SmartLog;
use ferroce_wire::prop::PropertyOffset;
use played::Player;

/// Where the table of vectors is, well behind the doorbells.
const TABLE: u32 = 0x3000;
/// Vector Control of the first I/O queue's vector.
const CONTROL: u32 = TABLE + 16 + 12;

/// A drive that has a table of vectors, and what was written there.
#[derive(Debug)]
struct Device {
    player: Arc<Player>,
    written: Mutex<Vec<(u32, u32)>>,
    /// Once disabled it does not become ready.
    stays_down: AtomicBool,
    /// Turns of the core so far: a reset of the function takes some.
    turns: AtomicU32,
    /// Its function is being reset.
    in_reset: AtomicBool,
    /// Writes meanwhile: each would have stopped the core.
    stopped: AtomicU32,
    /// Registers that were read.
    looks: AtomicU32,
}

impl Registers for Device {
    fn read32(&self, at: u32) -> u32 {
        self.looks.fetch_add(1, Ordering::Relaxed);
        self.player.read32(at)
    }

    fn write32(&self, at: u32, value: u32) {
        let in_reset = self.in_reset.load(Ordering::Relaxed);
        self.stopped.fetch_add(in_reset.into(), Ordering::Relaxed);
        if at < TABLE {
            self.player.write32(at, value);
            if at == PropertyOffset::CC.0 && self.stays_down.load(Ordering::Relaxed) {
                self.player
                    .misbehave(|mischief| mischief.never_ready = true);
            }
        } else {
            self.written.lock().unwrap().push((at, value));
        }
    }

    fn reset(&self) -> bool {
        let until = self.turns.load(Ordering::Relaxed) + 3;
        self.in_reset.store(true, Ordering::Relaxed);
        while self.turns.load(Ordering::Relaxed) < until {
            std::thread::yield_now();
        }
        self.in_reset.store(false, Ordering::Relaxed);
        self.player.reset()
    }
}

/// A drive, what it signals by, and a core's queue at it.
struct Bench {
    device: Arc<Device>,
    signals: Signals,
    // Whoever takes it apart has the drive first and so drops it last: it waits for the queue to be closed.
    drive: NvmeDrive,
    queue: NvmeQueue,
}

impl Device {
    /// What the queue's mask was set to, from the start on.
    fn masks(&self) -> Vec<u32> {
        let written = self.written.lock().unwrap();
        assert!(
            written.iter().all(|(at, _)| *at == CONTROL),
            "nothing else of the table is the driver's: {written:x?}"
        );
        written.iter().map(|(_, value)| *value).collect()
    }
}

/// A core's queue, at a drive whose keeper looks around all the time and waits long.
fn open() -> Bench {
    open_with(60_000)
}

fn open_with(reset_ms: u32) -> Bench {
    let bus = Arc::new(Bus::default());
    let device = Arc::new(Device {
        player: Player::new(bus.clone(), &[4096]),
        written: Mutex::default(),
        stays_down: AtomicBool::new(false),
        turns: AtomicU32::new(0),
        in_reset: AtomicBool::new(false),
        stopped: AtomicU32::new(0),
        looks: AtomicU32::new(0),
    });
    device
        .player
        .misbehave(|mischief| mischief.interrupts = true);
    let event = || EventFd::new().unwrap();
    let signals = Signals {
        vectors: (0..3).map(|_| event()).collect(),
        vector_table: Some(TABLE),
        request: Some(event()),
        error: Some(event()),
    };
    let seat = Seat::played_with(device.clone(), bus, signals.clone());
    let patience = Patience {
        look_ms: 2,
        reset_ms,
        ..Patience::default()
    };
    let controller = Controller::start("nvme:played".into(), seat, patience).unwrap();
    let config = NvmeConfig {
        label: "nvme:played".into(),
        nsid: None,
        read_only: false,
        uuid: None,
    };
    let drive = NvmeDrive::open(Arc::new(controller), config).unwrap();
    let pool = played::pool(Home::CORE, &[(4096, 4)]);
    let queue = drive.queue(0, &[pool.region().clone()]).unwrap();
    Bench {
        device,
        signals,
        queue,
        drive,
    }
}

fn turn(device: &Device, queue: &mut NvmeQueue) {
    queue.ring_doorbell();
    assert!(queue.poll().is_none());
    device.turns.fetch_add(1, Ordering::Relaxed);
}

/// Turns until the masks were set to these values. A keeper that looks around all the time may be further already.
fn turn_until(device: &Device, queue: &mut NvmeQueue, masks: &[u32]) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !device.masks().starts_with(masks) {
        assert!(
            Instant::now() < deadline,
            "{:?}, wanted {masks:?}",
            device.masks()
        );
        turn(device, queue);
        std::thread::yield_now();
    }
}

#[test]
fn a_core_that_polls_all_the_time_is_not_interrupted() {
    let Bench {
        drive: _drive,
        device,
        mut queue,
        ..
    } = open();
    // Whoever had the vector before may have left it masked.
    assert_eq!(device.masks(), [0]);
    turn_until(&device, &mut queue, &[0, 1]);
    // Once it is masked that is all.
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(30) {
        turn(&device, &mut queue);
    }
    assert_eq!(device.masks(), [0, 1]);
    // Before it sleeps it looks once more, so the interrupt is armed before that.
    queue.before_sleep();
    assert_eq!(device.masks(), [0, 1, 0]);
    // And when it polls on, the same again.
    turn_until(&device, &mut queue, &[0, 1, 0, 1]);
}

#[test]
fn a_core_that_sleeps_in_between_is() {
    let Bench {
        drive: _drive,
        device,
        mut queue,
        ..
    } = open();
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(50) {
        queue.before_sleep();
        turn(&device, &mut queue);
    }
    assert_eq!(device.masks(), [0], "it is never masked");
}

#[test]
fn a_reset_leaves_it_armed() {
    let Bench {
        drive: _drive,
        device,
        mut queue,
        ..
    } = open();
    turn_until(&device, &mut queue, &[0, 1]);
    device.player.misbehave(|mischief| mischief.fatal = true);
    // Its core knows how it is from there on, whatever kind of reset it was.
    turn_until(&device, &mut queue, &[0, 1, 0]);
    turn_until(&device, &mut queue, &[0, 1, 0, 1]);
}

/// Turns until something holds.
fn turn_while(device: &Device, queue: &mut NvmeQueue, what: &str, mut waits: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while waits() {
        assert!(Instant::now() < deadline, "{what}");
        turn(device, queue);
        std::thread::yield_now();
    }
}

#[test]
fn a_core_that_sleeps_during_a_reset_leaves_the_drive_alone() {
    let Bench {
        drive: _drive,
        device,
        mut queue,
        ..
    } = open();
    turn_until(&device, &mut queue, &[0, 1]);
    device.stays_down.store(true, Ordering::Relaxed);
    device.player.misbehave(|mischief| mischief.fatal = true);
    turn_while(&device, &mut queue, "it is reset", || {
        device.player.seen().disabled == 0
    });
    queue.before_sleep();
    assert_eq!(device.masks(), [0, 1]);
    device.stays_down.store(false, Ordering::Relaxed);
    device
        .player
        .misbehave(|mischief| mischief.never_ready = false);
    turn_until(&device, &mut queue, &[0, 1, 0]);
}

/// True if the drive is given up, as its health says: the keeper is not asked, it may be waiting for our queue.
fn has_failed(drive: &NvmeDrive) -> bool {
    drive.info().health.unwrap().warnings() == SmartLog::WARNING_DEGRADED
}

/// How often an event was signalled since it was drained.
fn count(event: &EventFd) -> u64 {
    let fd = event.as_fd().as_raw_fd();
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap();
    let count = |line: &str| {
        let hex = line.strip_prefix("eventfd-count:")?.trim();
        Some(u64::from_str_radix(hex, 16).unwrap())
    };
    info.lines().find_map(count).unwrap()
}

#[test]
fn no_core_touches_a_drive_that_is_given_up_while_its_function_is_reset() {
    let Bench {
        drive,
        device,
        signals,
        mut queue,
    } = open();
    // At each turn there is an error of the bus. The fourth reset is one too many.
    let error = signals.error.unwrap();
    device.player.misbehave(|mischief| mischief.swallow = true);
    let mut slot = 0;
    loop {
        // What is answered at the end, and something to ring the doorbell for meanwhile.
        if slot == 0 || (slot < 200 && device.in_reset.load(Ordering::Relaxed)) {
            slot += 1;
            let (op, bufs) = (Op::Flush, BufList::new());
            let tag = Tag {
                slot,
                generation: 0,
            };
            queue.submit(Io { tag, op, bufs }).expect("there is room");
        }
        error.signal();
        queue.ring_doorbell();
        let done = queue.poll();
        device.turns.fetch_add(1, Ordering::Relaxed);
        if done.is_some() {
            break;
        }
        std::thread::yield_now();
    }
    assert!(has_failed(&drive));
    assert_eq!(device.stopped.load(Ordering::Relaxed), 0);
    while queue.poll().is_some() {}
}

#[test]
fn the_keeper_of_a_failed_drive_hears_what_still_comes_and_rests() {
    let Bench {
        drive,
        device,
        signals,
        mut queue,
    } = open_with(200);
    device.player.misbehave(|mischief| mischief.gone = true);
    turn_while(&device, &mut queue, "it fails", || !has_failed(&drive));
    // The keeper waits for them: one that stays readable would never let it wait.
    let events = [
        &signals.vectors[0],
        signals.request.as_ref().unwrap(),
        signals.error.as_ref().unwrap(),
    ];
    for event in events {
        event.signal();
        turn_while(&device, &mut queue, "it is heard", || count(event) > 0);
    }
}

#[test]
fn an_error_of_the_bus_leads_to_a_reset() {
    let Bench {
        drive,
        device,
        signals,
        mut queue,
    } = open();
    signals.error.unwrap().signal();
    turn_while(&device, &mut queue, "it is reset", || {
        device.player.seen().enabled < 2
    });
    turn_until(&device, &mut queue, &[0]);
    let seen = device.player.seen();
    assert_eq!((seen.disabled, seen.shutdowns), (1, 0));
    assert!(!has_failed(&drive));
}

#[test]
fn a_drive_that_the_system_wants_back_is_shut_down_first() {
    let Bench {
        drive,
        device,
        signals,
        mut queue,
    } = open();
    signals.request.unwrap().signal();
    turn_while(&device, &mut queue, "it is given up", || {
        !has_failed(&drive)
    });
    let seen = device.player.seen();
    assert_eq!((seen.disabled, seen.shutdowns), (1, 1));
}

#[test]
fn a_drive_that_was_pulled_out_is_not_waited_for() {
    // An hour.
    let Bench {
        drive,
        device,
        signals,
        mut queue,
    } = open_with(3_600_000);
    device.player.misbehave(|mischief| mischief.gone = true);
    let looks = || device.looks.load(Ordering::Relaxed);
    let before = looks();
    turn_while(&device, &mut queue, "it is looked for", || {
        looks() < before + 10
    });
    assert!(!has_failed(&drive));
    signals.request.unwrap().signal();
    turn_while(&device, &mut queue, "it is given up", || {
        !has_failed(&drive)
    });
}
