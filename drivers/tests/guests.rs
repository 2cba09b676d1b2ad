//! Cores for which a drive has no queue left: the queue of another core serves them, through resets and to the end.

mod played;

use std::fs::File;
use std::io::Read as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ferroce_buf::{BufList, Home, Pool};
use ferroce_drivers::dma::Bus;
use ferroce_drivers::nvme::guest::PLACES;
use ferroce_drivers::nvme::queue::FAILED;
use ferroce_drivers::nvme::{Controller, NvmeConfig, NvmeDrive, NvmeQueue, Patience, Seat};
use ferroce_engine::port::{Backend, Done, Io, Op, Tag};
use ferroce_wire::status::Status;
use played::{Mischief, Player};

const BLOCK: usize = 512;

/// A drive with one queue, the core that has it, and two guests.
struct House {
    player: Arc<Player>,
    guests: Vec<NvmeQueue>,
    host: NvmeQueue,
    drive: NvmeDrive,
    pool: Pool,
}

fn open(player: &Arc<Player>, bus: &Arc<Bus>, patience: Patience) -> Arc<Controller> {
    let seat = Seat::played(player.clone(), bus.clone());
    Arc::new(Controller::start("nvme:played".into(), seat, patience).unwrap())
}

fn config(nsid: u32) -> NvmeConfig {
    NvmeConfig {
        label: format!("nvme:played/{nsid}"),
        nsid: Some(nsid),
        read_only: false,
        uuid: None,
    }
}

fn patient() -> Patience {
    Patience {
        look_ms: 2,
        ..Patience::default()
    }
}

impl House {
    fn new(patience: Patience, mischief: impl FnOnce(&mut Mischief)) -> House {
        let bus = Arc::new(Bus::default());
        let player = Player::new(bus.clone(), &[BLOCK as u32]);
        player.misbehave(|all| {
            all.queues = Some(1);
            mischief(all);
        });
        let drive = NvmeDrive::open(open(&player, &bus, patience), config(1)).unwrap();
        let pool = played::pool(Home::CORE, &[(4096, 300)]);
        let queue = |core| {
            let regions = std::slice::from_ref(pool.region());
            drive.queue(core, regions).unwrap()
        };
        let host = queue(0);
        let guests: Vec<NvmeQueue> = (1..3).map(queue).collect();
        assert!(!host.is_guest() && guests.iter().all(NvmeQueue::is_guest));
        House {
            player,
            guests,
            host,
            drive,
            pool,
        }
    }

    /// A request of one block of a guest.
    fn ask(&mut self, guest: usize, number: u32, write: bool) -> Result<(), Io> {
        let lba = u64::from(number);
        let mut bufs = BufList::new();
        bufs.push(self.pool.take(BLOCK).expect("enough Bufs"));
        let op = match write {
            true => {
                bufs.copy_in(0, &block(number));
                let fua = false;
                Op::Write {
                    lba,
                    blocks: 1,
                    fua,
                }
            }
            false => Op::Read { lba, blocks: 1 },
        };
        let tag = Tag {
            slot: number,
            generation: 3,
        };
        self.guests[guest].submit(Io { tag, op, bufs })?;
        self.guests[guest].ring_doorbell();
        Ok(())
    }

    /// A turn of the core that has the queue.
    fn turn(&mut self) {
        self.host.ring_doorbell();
        assert!(self.host.poll().is_none(), "it asked for nothing itself");
    }

    fn wait(&mut self, guest: usize) -> Done {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            self.turn();
            if let Some(done) = self.guests[guest].poll() {
                return done;
            }
            assert!(Instant::now() < deadline, "every request is answered");
            std::thread::yield_now();
        }
    }

    /// So many answers, each with this status.
    fn collect(&mut self, guest: usize, count: usize, status: Status) {
        for _ in 0..count {
            let done = self.wait(guest);
            assert_eq!(done.status, status);
            self.pool.put_all(done.bufs);
        }
        assert_eq!(self.guests[guest].in_flight(), 0);
    }

    fn end(self) {
        assert_eq!(self.pool.out(), 0, "every Buf is home");
        assert_eq!(self.player.seen().faults, 0);
        assert_eq!(self.host.in_flight(), 0);
        assert!(self.host.is_needed());
        drop(self.guests);
        assert!(!self.host.is_needed());
        let failed = self.drive.controller().has_failed();
        drop((self.host, self.drive));
        assert_eq!(self.player.seen().shutdowns, u32::from(!failed));
    }
}

fn block(number: u32) -> Vec<u8> {
    let mut data = vec![0; BLOCK];
    fastrand::Rng::with_seed(number.into()).fill(&mut data);
    data
}

#[test]
fn each_gets_its_own_answers() {
    let mut house = House::new(patient(), |_| {});
    for write in [true, false] {
        for number in 0..40 {
            house.ask(number as usize % 2, number, write).unwrap();
        }
        for number in 0..40 {
            let done = house.wait(number as usize % 2);
            assert_eq!(done.status, Status::SUCCESS);
            assert_eq!(done.tag.slot % 2, number % 2, "nobody else's");
            if !write {
                let mut data = vec![0; BLOCK];
                done.bufs.copy_out(0, &mut data);
                assert_eq!(data, block(done.tag.slot));
            }
            house.pool.put_all(done.bufs);
        }
    }
    assert_eq!(house.player.seen().completion_queues, 1);
    house.end();
}

#[test]
fn a_guest_has_so_many_places_and_leaves_half_to_the_core() {
    let mut house = House::new(patient(), |mischief| mischief.hold = true);
    for guest in 0..2 {
        for number in 0..PLACES as u32 {
            house.ask(guest, number, true).unwrap();
        }
        let io = house.ask(guest, 99, true).expect_err("there is no place");
        house.pool.put_all(io.bufs);
    }
    house.turn();
    // 255 commands fit, and half of them are 127.
    assert_eq!(house.host.in_flight(), 127);
    assert_eq!(house.player.held(), 127);
    house.player.release_backwards();
    house.collect(0, PLACES, Status::SUCCESS);
    house.collect(1, PLACES, Status::SUCCESS);
    house.end();
}

/// In a queue with two places for guests, and in one with a single place, nobody waits for the other's last request.
#[test]
fn guests_that_ask_for_more_than_there_are_places_take_turns() {
    for entries in [5, 3] {
        let mut house = House::new(patient(), |mischief| mischief.entries = Some(entries));
        for guest in 0..2 {
            for number in 0..PLACES as u32 {
                house.ask(guest, number, true).unwrap();
            }
        }
        let mut answered = [0usize; 2];
        let deadline = Instant::now() + Duration::from_secs(60);
        while answered != [PLACES; 2] {
            assert!(Instant::now() < deadline, "every request is answered");
            house.turn();
            for (guest, answered) in answered.iter_mut().enumerate() {
                while let Some(done) = house.guests[guest].poll() {
                    assert_eq!(done.status, Status::SUCCESS);
                    house.pool.put_all(done.bufs);
                    *answered += 1;
                }
            }
            assert!(answered[0].abs_diff(answered[1]) <= 1, "{answered:?}");
        }
        house.end();
    }
}

/// The core whose queue it is takes each place that it sees free, and guests get their turns of a single one nevertheless.
#[test]
fn a_queue_for_one_command_serves_its_core_and_guests() {
    let mut house = House::new(patient(), |mischief| mischief.entries = Some(2));
    for guest in 0..2 {
        for number in 0..20 {
            house.ask(guest, number, true).unwrap();
        }
    }
    let own = || Io {
        tag: Tag {
            slot: 0,
            generation: 4,
        },
        op: Op::Flush,
        bufs: BufList::new(),
    };
    let (mut done, mut answered) = (0, [0usize; 2]);
    let deadline = Instant::now() + Duration::from_secs(60);
    while answered != [20; 2] {
        assert!(Instant::now() < deadline, "every request is answered");
        let _ = house.host.submit(own());
        house.host.ring_doorbell();
        while house.host.poll().is_some() {
            done += 1;
            let _ = house.host.submit(own());
        }
        for (guest, answered) in answered.iter_mut().enumerate() {
            while let Some(done) = house.guests[guest].poll() {
                house.pool.put_all(done.bufs);
                *answered += 1;
            }
        }
        assert!(answered[0].abs_diff(answered[1]) <= 1, "{answered:?}");
    }
    assert!(done >= 20, "the core's own: {done}");
    while house.host.in_flight() > 0 {
        assert!(Instant::now() < deadline, "every request is answered");
        house.host.ring_doorbell();
        let _ = house.host.poll();
    }
    house.end();
}

/// A core in the middle of a guest's stream is awake between its requests, as in the middle of its own; and with nothing
/// that it could do it sleeps.
#[test]
fn what_is_done_for_guests_is_work_and_what_must_wait_is_none() {
    let mut house = House::new(patient(), |mischief| {
        mischief.entries = Some(3);
        mischief.hold = true;
    });
    house.turn();
    assert!(!house.host.has_work(), "nobody asks");
    house.ask(0, 0, true).unwrap();
    assert!(house.host.has_work(), "it is asked");
    house.turn();
    assert!(house.host.has_work(), "it took a request");
    house.ask(1, 1, true).unwrap();
    house.turn();
    assert_eq!(house.host.in_flight(), 1, "there is one place for guests");
    assert!(!house.host.has_work(), "there is no place");
    house.player.release_backwards();
    house.host.ring_doorbell();
    assert!(house.host.poll().is_none());
    assert!(house.host.has_work(), "it gave an answer");
    house.collect(0, 1, Status::SUCCESS);
    house.collect(1, 1, Status::SUCCESS);
    house.turn();
    assert!(!house.host.has_work(), "all is done");
    house.end();
}

#[test]
fn what_guests_asked_for_outlives_a_reset() {
    let patience = Patience {
        command_ms: 50,
        abort_ms: 50,
        ..patient()
    };
    let mut house = House::new(patience, |mischief| mischief.swallow = true);
    for number in 0..20 {
        house.ask(0, number, true).unwrap();
    }
    let deadline = Instant::now() + Duration::from_secs(60);
    while house.player.seen().disabled == 0 {
        house.turn();
        assert!(Instant::now() < deadline, "it is reset");
    }
    house.player.misbehave(|mischief| mischief.swallow = false);
    house.collect(0, 20, Status::SUCCESS);
    house.end();
}

#[test]
fn guests_of_a_drive_that_is_gone_are_told() {
    let patience = Patience {
        reset_ms: 200,
        ..patient()
    };
    let mut house = House::new(patience, |mischief| mischief.swallow = true);
    for number in 0..20 {
        house.ask(0, number, true).unwrap();
    }
    house.turn();
    house.player.misbehave(|mischief| mischief.gone = true);
    house.collect(0, 20, FAILED);
    house.ask(1, 7, false).unwrap();
    house.collect(1, 1, FAILED);
    house.end();
}

#[test]
fn a_guest_that_sleeps_is_woken_by_its_answer() {
    let mut house = House::new(patient(), |_| {});
    let fd = house.guests[0].wake_fd().expect("a bell");
    let mut bell = File::from(fd.try_clone_to_owned().unwrap());
    let mut rang = move || bell.read(&mut [0; 8]).is_ok();
    house.ask(0, 1, true).unwrap();
    house.collect(0, 1, Status::SUCCESS);
    assert!(!rang(), "nobody slept");
    house.ask(0, 2, true).unwrap();
    house.guests[0].before_sleep();
    assert!(!house.guests[0].has_work());
    house.turn();
    house.turn();
    assert!(rang() && house.guests[0].has_work());
    house.collect(0, 1, Status::SUCCESS);
    house.end();
}

#[test]
fn in_threads_of_their_own_nothing_is_lost() {
    let House {
        player,
        mut guests,
        mut host,
        drive,
        mut pool,
    } = House::new(patient(), |_| {});
    let over = Arc::new(AtomicBool::new(false));
    let stop = over.clone();
    let core = std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            assert!(host.poll().is_none());
            host.ring_doorbell();
            std::thread::yield_now();
        }
        host
    });
    let guest = &mut guests[0];
    let (mut asked, mut answered) = (0, 0);
    let deadline = Instant::now() + Duration::from_secs(60);
    while answered < 2_000 {
        assert!(Instant::now() < deadline, "every request is answered");
        while asked < 2_000 && guest.in_flight() < 16 {
            let mut bufs = BufList::new();
            bufs.push(pool.take(BLOCK).expect("enough Bufs"));
            let tag = Tag {
                slot: asked,
                generation: 0,
            };
            let (lba, blocks) = (u64::from(asked), 1);
            let op = Op::Read { lba, blocks };
            assert!(guest.submit(Io { tag, op, bufs }).is_ok());
            asked += 1;
        }
        guest.ring_doorbell();
        match guest.poll() {
            Some(mut done) => {
                assert_eq!(done.status, Status::SUCCESS);
                pool.put(done.bufs.pop().expect("its Buf"));
                answered += 1;
            }
            None => std::thread::yield_now(),
        }
    }
    over.store(true, Ordering::Relaxed);
    let host = core.join().expect("no panic");
    let house = House {
        player,
        guests,
        host,
        drive,
        pool,
    };
    house.end();
}

/// Two namespaces of one drive, of different block sizes, and what they ask for.
struct Pair {
    player: Arc<Player>,
    drives: [NvmeDrive; 2],
    pool: Pool,
}

impl Pair {
    fn new(queues: u16) -> Pair {
        let bus = Arc::new(Bus::default());
        let player = Player::new(bus.clone(), &[512, 4096]);
        player.misbehave(|mischief| mischief.queues = Some(queues));
        let controller = open(&player, &bus, patient());
        let drive = |nsid| NvmeDrive::open(controller.clone(), config(nsid)).unwrap();
        Pair {
            player,
            drives: [drive(1), drive(2)],
            pool: played::pool(Home::CORE, &[(4096, 8)]),
        }
    }

    fn queue(&self, drive: usize, core: usize) -> NvmeQueue {
        let regions = std::slice::from_ref(self.pool.region());
        self.drives[drive].queue(core, regions).unwrap()
    }

    /// Writes 4 KiB of this byte to the start of a namespace, and reads them back.
    fn use_both_ways(&mut self, drive: usize, queues: &mut [&mut NvmeQueue], at: usize, byte: u8) {
        let blocks = 4096 / self.drives[drive].info().block_len;
        for write in [true, false] {
            let mut bufs = BufList::new();
            bufs.push(self.pool.take(4096).unwrap());
            bufs.copy_in(0, &[if write { byte } else { 0xA5 }; 4096]);
            let (lba, fua) = (0, false);
            let op = match write {
                true => Op::Write { lba, blocks, fua },
                false => Op::Read { lba, blocks },
            };
            let tag = Tag {
                slot: 7,
                generation: byte.into(),
            };
            queues[at].submit(Io { tag, op, bufs }).unwrap();
            let deadline = Instant::now() + Duration::from_secs(60);
            let mut done = loop {
                assert!(Instant::now() < deadline, "it is answered");
                // A turn of the core, in the order in which it has them.
                let mut found = None;
                for (index, queue) in queues.iter_mut().enumerate() {
                    queue.ring_doorbell();
                    if let Some(done) = queue.poll() {
                        assert_eq!(index, at, "an answer comes where it was asked");
                        found = Some(done);
                    }
                }
                if let Some(done) = found {
                    break done;
                }
            };
            assert_eq!((done.status, done.tag), (Status::SUCCESS, tag));
            let buf = done.bufs.pop().unwrap();
            assert!(buf.bytes().iter().all(|there| *there == byte));
            self.pool.put(buf);
        }
    }
}

#[test]
fn namespaces_of_a_drive_share_a_core_s_queue() {
    // A drive has fewer queues than there are ends, or more; it makes no difference.
    for queues in [1, 8] {
        let mut pair = Pair::new(queues);
        let mut first = pair.queue(0, 0);
        let mut second = pair.queue(1, 0);
        assert!(!first.is_guest() && second.is_guest());
        assert_eq!(pair.player.seen().completion_queues, 1);
        for byte in 1..4 {
            pair.use_both_ways(0, &mut [&mut first, &mut second], 0, byte);
            pair.use_both_ways(1, &mut [&mut first, &mut second], 1, byte + 100);
            pair.use_both_ways(1, &mut [&mut second, &mut first], 0, byte + 200);
        }
        // One core sleeps: nobody rings for the other of the two, and there is something to wait for.
        first.before_sleep();
        second.before_sleep();
        assert!(!first.has_work() && !second.has_work() && second.wake_fd().is_some());
        // The first namespace is removed and the second is not: its queue stays until nobody needs it.
        assert!(!first.may_leave() && second.may_leave());
        pair.use_both_ways(1, &mut [&mut first, &mut second], 1, 99);
        drop(second);
        assert!(first.may_leave());
        // It lets nobody in any more.
        if queues == 1 {
            let why = pair.drives[1].queue(0, &[]).expect_err("it is about to go");
            assert!(why.to_string().contains("try again"), "{why}");
        } else {
            assert!(!pair.drives[1].queue(0, &[]).unwrap().is_guest());
        }
        drop(first);
        let mut second = pair.queue(1, 0);
        assert!(!second.is_guest());
        pair.use_both_ways(1, &mut [&mut second], 0, 17);
        assert_eq!(pair.pool.out(), 0);
        assert_eq!(pair.player.seen().faults, 0);
    }
}

#[test]
fn a_place_of_a_guest_that_left_is_another_s() {
    let mut pair = Pair::new(8);
    let mut first = pair.queue(0, 0);
    for round in 0..100 {
        let mut second = pair.queue(1, 0);
        assert!(second.is_guest());
        pair.use_both_ways(1, &mut [&mut first, &mut second], 1, round);
        // Its core stops, rather than that it goes.
        if round % 2 == 0 {
            assert!(first.is_needed());
            second.on_stop();
        }
        drop(second);
        assert!(!first.is_needed());
    }
    let debug = format!("{first:?}");
    assert_eq!(
        debug.matches("asked: ArrayQueue").count(),
        2,
        "in the door and in the core"
    );
}

#[test]
fn a_core_without_a_queue_may_be_the_guest_of_another_namespace() {
    let mut pair = Pair::new(1);
    let mut first = pair.queue(0, 0);
    let mut second = pair.queue(1, 1);
    assert!(second.is_guest());
    pair.use_both_ways(1, &mut [&mut first, &mut second], 1, 3);
    pair.use_both_ways(0, &mut [&mut first, &mut second], 0, 4);
    assert!(!first.may_leave());
    // Who leaves wakes the core that waits for it.
    first.before_sleep();
    drop(second);
    assert!(first.may_leave());
}
