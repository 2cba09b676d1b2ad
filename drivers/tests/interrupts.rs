//! Interrupts of the NVMe driver: a core that polls all the time has the drive keep still, one that sleeps does not.

mod played;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ferroce_buf::Home;
use ferroce_drivers::dma::Bus;
use ferroce_drivers::mmio::Registers;
use ferroce_drivers::nvme::{Controller, NvmeConfig, NvmeDrive, NvmeQueue, Patience, Seat};
use ferroce_drivers::vfio::EventFd;
use ferroce_engine::port::Backend;
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
}

impl Registers for Device {
    fn read32(&self, at: u32) -> u32 {
        self.player.read32(at)
    }

    fn write32(&self, at: u32, value: u32) {
        if at < TABLE {
            self.player.write32(at, value);
        } else {
            self.written.lock().unwrap().push((at, value));
        }
    }

    fn reset(&self) -> bool {
        self.player.reset()
    }
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

/// A core's queue, at a drive whose keeper looks around all the time.
fn open() -> (Arc<Device>, NvmeQueue, NvmeDrive) {
    let bus = Arc::new(Bus::default());
    let device = Arc::new(Device {
        player: Player::new(bus.clone(), &[4096]),
        written: Mutex::default(),
    });
    device
        .player
        .misbehave(|mischief| mischief.interrupts = true);
    let vectors = (0..3).map(|_| EventFd::new().unwrap()).collect();
    let seat = Seat::played_with(device.clone(), bus, vectors, Some(TABLE));
    let patience = Patience {
        look_ms: 2,
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
    (device, queue, drive)
}

fn turn(queue: &mut NvmeQueue) {
    queue.ring_doorbell();
    assert!(queue.poll().is_none());
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
        turn(queue);
        std::thread::yield_now();
    }
}

#[test]
fn a_core_that_polls_all_the_time_is_not_interrupted() {
    let (device, mut queue, _drive) = open();
    // Whoever had the vector before may have left it masked.
    assert_eq!(device.masks(), [0]);
    turn_until(&device, &mut queue, &[0, 1]);
    // Once it is masked that is all.
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(30) {
        turn(&mut queue);
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
    let (device, mut queue, _drive) = open();
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(50) {
        queue.before_sleep();
        turn(&mut queue);
    }
    assert_eq!(device.masks(), [0], "it is never masked");
}

#[test]
fn a_reset_leaves_it_armed() {
    let (device, mut queue, _drive) = open();
    turn_until(&device, &mut queue, &[0, 1]);
    device.player.misbehave(|mischief| mischief.fatal = true);
    // Its core knows how it is from there on, whatever kind of reset it was.
    turn_until(&device, &mut queue, &[0, 1, 0]);
    turn_until(&device, &mut queue, &[0, 1, 0, 1]);
}
