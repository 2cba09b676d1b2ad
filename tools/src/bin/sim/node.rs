//! The node that is simulated: production cores and the production control, turned by the agenda
//! instead of by threads. How a core falls asleep and wakes is as in `tools/src/node/core.rs`.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};

use ferroce_buf::{Buf, Class, Home, Pool, Region, Want};
use ferroce_engine::admin::Facts;
use ferroce_engine::control::Control;
use ferroce_engine::core::{Core, CoreConfig, LANDING};
use ferroce_engine::counters::Counters;
use ferroce_engine::limits;
use ferroce_engine::mail::{Mailbox, ToControl, mailbox};
use ferroce_engine::port::Tick;

use crate::disk::SimDrive;
use crate::net::{SimFabric, Wire};
use crate::plan::Plan;
use crate::rdma::{AnyFabric, Incoming, Rdma};
use crate::shared::{Chance, Common, Event, MS, US};
use crate::wrong;

type SimCore = Core<AnyFabric, SimDrive>;

/// Time of day when the simulation starts.
const WALL_MS: u64 = 1_700_000_000_000;

#[derive(Debug)]
pub struct Node {
    common: Common,
    net: Wire,
    rng: fastrand::Rng,
    life: u32,
    naps: u32,
    pub control: Control<Incoming, SimDrive>,
    mail: Mailbox<ToControl>,
    control_bell: Arc<Bell>,
    /// When the control thread looks at its mail next.
    control_at: u64,
    cores: Vec<Slot>,
}

#[derive(Debug)]
struct Slot {
    core: SimCore,
    counters: Arc<Counters>,
    bell: Arc<Bell>,
    /// A turn is on the agenda.
    planned: bool,
    stopped: bool,
}

#[derive(Debug, Default)]
struct Bell(AtomicBool);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Bell {
    fn rang(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
}

impl Node {
    pub fn start(common: Common, mut rng: fastrand::Rng, plan: &Plan, net: &Wire) -> Node {
        let control_bell = Arc::new(Bell::default());
        let (to_control, mail) = mailbox(plan.mail.max(64), Waker::from(control_bell.clone()));
        net.borrow().medium.borrow_mut().node_up(plan.cores);
        let mut posts = Vec::new();
        let mut cores = Vec::new();
        for index in 0..plan.cores {
            let bell = Arc::new(Bell::default());
            let (post, mailbox) = mailbox(plan.mail, Waker::from(bell.clone()));
            posts.push(post);
            let landing = [Class {
                size: limits::IN_CAPSULE as usize,
                count: plan.landing,
            }];
            let counters = Arc::new(Counters::default());
            let config = CoreConfig {
                index,
                cores: plan.cores,
                commands: plan.commands_per_core,
                pool: pool(Home::CORE, &plan.classes),
                landing: pool(LANDING, &landing),
                facts: Arc::new(Facts::default()),
                counters: counters.clone(),
            };
            let mut fabrics: Vec<_> = (0..plan.fabrics)
                .map(|_| SimFabric::new(net.clone(), common.clone(), index))
                .map(|fabric| AnyFabric::Ordered(Box::new(fabric)))
                .collect();
            let entries = plan.rdma_entries();
            if entries > 0 {
                let medium = net.borrow().medium.clone();
                let rdma = Rdma::new(net.clone(), medium, index, recvs(2 * entries));
                fabrics.push(AnyFabric::Rdma(Box::new(rdma)));
            }
            cores.push(Slot {
                core: Core::new(config, fabrics, mailbox, to_control.clone()),
                counters,
                bell,
                planned: true,
                stopped: false,
            });
        }
        let life = common.life.get() + 1;
        common.life.set(life);
        for core in 0..plan.cores {
            common.after(rng.u64(0..50 * US), Event::Turn { life, core });
        }
        Node {
            common,
            net: net.clone(),
            rng,
            life,
            naps: plan.naps,
            control: Control::new(posts),
            mail,
            control_bell,
            control_at: u64::MAX,
            cores,
        }
    }

    pub fn life(&self) -> u32 {
        self.life
    }

    pub fn cores(&self) -> usize {
        self.cores.len()
    }

    /// A core takes a turn.
    pub fn turn(&mut self, at: usize) {
        let now = self.common.now();
        let slot = &mut self.cores[at];
        slot.planned = false;
        if slot.stopped {
            return;
        }
        let expiries = slot.counters.keep_alive_expiries.get();
        let work = slot.core.turn(Tick(now), WALL_MS + now / MS, || Tick(now));
        if slot.counters.keep_alive_expiries.get() > expiries {
            self.net.borrow_mut().on_expiry(at);
        }
        let (commands, bufs) = slot.core.outstanding();
        let numbers = [at as u64, commands as u64, bufs as u64, work.busy.into()];
        self.common.note("turn", &numbers);
        if work.stopped {
            slot.stopped = true;
            return;
        }
        if !work.rests {
            slot.planned = true;
            let gap = match self.rng.once_in(self.naps) && !self.common.calm.get() {
                true => self.rng.u64(100 * US..10 * MS),
                false => self.rng.u64(300..4 * US),
            };
            let (life, core) = (self.life, at);
            self.common.after(gap, Event::Turn { life, core });
            return;
        }
        // What is due now wakes it now, so that is no sleep.
        if work.busy && work.next_timeout.is_none_or(|due| due.0 > now) {
            let sent = || self.net.borrow().medium.borrow().sent();
            let before = sent();
            let again = slot.core.turn(Tick(now), WALL_MS + now / MS, || Tick(now));
            assert!(!again.busy, "core {at} would have slept with work to do");
            assert_eq!(sent(), before, "core {at} would have slept on packets");
        }
        if let Some(due) = work.next_timeout {
            self.common.wake_at(due.0, at);
        }
    }

    /// Something came for a core.
    pub fn wake(&mut self, at: usize) {
        let slot = &mut self.cores[at];
        if slot.planned || slot.stopped {
            return;
        }
        slot.planned = true;
        // The system may be in no hurry to wake it.
        let delay = match self.rng.once_in(self.naps) && !self.common.calm.get() {
            true => self.rng.u64(100 * US..10 * MS),
            false => self.rng.u64(0..5 * US),
        };
        let (life, core) = (self.life, at);
        self.common.after(delay, Event::Turn { life, core });
    }

    /// Mail came for those whose bells rang.
    pub fn hear_bells(&mut self) {
        for at in 0..self.cores.len() {
            if self.cores[at].bell.rang() {
                self.wake(at);
            }
        }
        if self.control_bell.rang() {
            self.plan_control(0);
        }
        // What the operator asked for may not have fitted a core's box.
        if let Some(due) = self.control.next_timeout() {
            self.plan_control(due.0.saturating_sub(self.common.now()).max(MS));
        }
    }

    fn plan_control(&mut self, wait: u64) {
        let soonest = self.common.now() + wait;
        if soonest + US < self.control_at {
            let life = self.life;
            self.control_at = soonest + self.rng.u64(US..30 * US);
            self.common.at(self.control_at, Event::Control { life });
        }
    }

    /// The control thread reads its mail.
    pub fn run_control(&mut self) {
        let now = self.common.now();
        // A later time was replaced by an earlier one, and comes all the same.
        if now != self.control_at {
            return;
        }
        self.control_at = u64::MAX;
        while let Some(mail) = self.mail.poll() {
            if self.common.prints() {
                self.common.say(&format!("  control: {mail:?}"));
            }
            self.control.on_mail(mail, Tick(now));
        }
        self.control.on_time(Tick(now));
        if let Some(due) = self.control.next_timeout() {
            self.plan_control(due.0.saturating_sub(now).max(MS));
        }
    }

    /// Commands and Bufs that are out, on all cores.
    pub fn outstanding(&self) -> (usize, usize) {
        self.cores.iter().fold((0, 0), |sum, slot| {
            let (commands, bufs) = slot.core.outstanding();
            (sum.0 + commands, sum.1 + bufs)
        })
    }

    /// The process is dead. Its memory is looked through all the same: with every connection closed
    /// and every request over, nothing may be out. `end_requests` ends what is at the drives.
    pub fn bury(mut self, end_requests: impl Fn()) {
        self.common.hurry.set(true);
        for slot in &mut self.cores {
            slot.core.fabrics.iter_mut().for_each(AnyFabric::kill_all);
        }
        let now = self.common.now();
        for turn in 0..200 {
            end_requests();
            for slot in self.cores.iter_mut().filter(|slot| !slot.stopped) {
                let work = slot
                    .core
                    .turn(Tick(now + turn), WALL_MS, || Tick(now + turn));
                slot.stopped |= work.stopped;
            }
            // Nobody else reads this mail, and nothing may depend on that.
            while self.mail.poll().is_some() {}
            if self.outstanding() == (0, 0) && turn > 4 {
                break;
            }
        }
        self.common.hurry.set(false);
        for slot in &self.cores {
            slot.core.fabrics.iter().for_each(AnyFabric::check);
        }
        let (commands, bufs) = self.outstanding();
        if (commands, bufs) != (0, 0) {
            wrong!("{commands} commands and {bufs} Bufs are out though all connections are closed");
        }
    }
}

thread_local! {
    /// Mapped memory, used by one run after the other.
    static REGIONS: RefCell<Vec<Arc<Region>>> = const { RefCell::new(Vec::new()) };
}

/// Bufs of RECVs.
fn recvs(count: usize) -> Vec<Buf> {
    let size = limits::IN_CAPSULE as usize;
    let mut pool = pool(Home::CORE, &[Class { size, count }]);
    (0..count).filter_map(|_| pool.take(size)).collect()
}

/// A pool in memory that may have been used before, filled with a pattern that is no data.
fn pool(home: Home, classes: &[Class]) -> Pool {
    let bytes = Pool::bytes(classes);
    let region = REGIONS.with_borrow_mut(|regions| {
        let fits = |region: &&Arc<Region>| Arc::strong_count(region) == 1 && region.len() >= bytes;
        if let Some(region) = regions.iter().find(fits) {
            return region.clone();
        }
        let bytes = bytes.next_power_of_two();
        let region = Region::map(bytes, Want::default()).expect("there is memory");
        regions.push(Arc::new(region));
        regions.last().expect("it was just put there").clone()
    });
    let mut pool = Pool::new(region, 0, home, classes);
    let mut bufs: Vec<Buf> = Vec::new();
    for class in classes {
        bufs.extend(std::iter::from_fn(|| pool.take(class.size)));
    }
    while let Some(mut buf) = bufs.pop() {
        buf.bytes_mut().fill(0xA5);
        pool.put(buf);
    }
    pool
}
