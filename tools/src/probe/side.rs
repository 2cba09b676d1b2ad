//! One target under load: its queues on their threads, for a slice of time at a time. Two sides are measured in turns.

use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use ferroce_transport::host::{HostIdentity, local_address};
use ferroce_transport::roce::udp;

use super::check::writes;
use super::ledger::Ledger;
use super::link::Link;
use super::load::{Load, Slice, Work};
use super::report::Sliced;
use super::schedule::Schedule;
use super::target::Ground;
use super::watch::{AtWork, Watch};
use super::{Target, drive, memory, raw};
use crate::cli::{Arrival, Neighbour, ProbeArgs, Workload};
use crate::fail::{Context, Fail, Result, fail};
use crate::units::Size;
use crate::url::Url;
use crate::usage;

/// What a slice is filled with.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Phase {
    /// Commands per second over all queues; None keeps all slots busy.
    pub rate: Option<f64>,
    /// How long.
    pub time: Duration,
    /// How much of its beginning is counted apart.
    pub early: Option<Duration>,
}

/// What came of a slice.
#[derive(Debug)]
pub struct Ran {
    /// The beginning, if it is counted apart.
    pub early: Option<Sliced>,
    /// All else.
    pub main: Sliced,
    /// The load beside it.
    pub beside: Option<Sliced>,
    /// Why it ended before its time.
    pub cut_short: Option<String>,
}

/// A target with its queues.
#[derive(Debug)]
pub struct Side {
    /// What people call it.
    pub name: &'static str,
    /// The namespace, or what stands for it, in words.
    pub about: String,
    // Dropped in this order: a drive waits for its queues to be closed.
    loads: Vec<Load>,
    source: Source,
    beside: Option<(Target, Vec<Load>)>,
    plan: Plan,
    cpu_of: Option<u32>,
}

#[derive(Debug)]
enum Source {
    Nvme(Box<Target>),
    Raw(raw::Site),
    Drive(#[expect(dead_code, reason = "kept for as long as its queues")] drive::Site),
    Memory,
}

/// What is the same for every slice.
#[derive(Clone, Debug)]
struct Plan {
    work: Work,
    places: u64,
    args: ProbeArgs,
    seed: u64,
}

impl Side {
    /// A namespace.
    pub fn nvme(name: &'static str, args: &ProbeArgs, target: Target, seed: u64) -> Result<Side> {
        let plan = Plan::of(&target.ground(), args, seed)?;
        let mut queues = target.queues(args)?;
        if plan.work.writes {
            let look = |lba, blocks| target.read(&mut queues[0], lba, blocks);
            target.ground().refuse_if_in_use(args.force, look)?;
        }
        let links = queues.into_iter().map(Link::Nvme).collect();
        Ok(Side {
            name,
            about: target.about(),
            loads: plan.loads(links),
            source: Source::Nvme(Box::new(target)),
            beside: None,
            plan,
            cpu_of: None,
        })
    }

    /// A drive of this machine.
    pub fn local(
        name: &'static str,
        args: &ProbeArgs,
        site: drive::Site,
        seed: u64,
    ) -> Result<Side> {
        let ground = site.ground();
        let plan = Plan::of(&ground, args, seed)?;
        let mut queues = site.queues(args)?;
        if plan.work.writes {
            // Reads of the size that its memory is for.
            let step = Ground {
                transfer_max: ground.transfer_max.min(args.block_size.0),
                ..ground
            };
            step.refuse_if_in_use(args.force, |lba, blocks| queues[0].read(lba, blocks))?;
        }
        let link = |queue| Link::Drive(Box::new(queue));
        Ok(Side {
            name,
            about: site.about(),
            loads: plan.loads(queues.into_iter().map(link).collect()),
            source: Source::Drive(site),
            beside: None,
            plan,
            cpu_of: None,
        })
    }

    /// Queues, and commands at a time of each: what was asked for, or less.
    pub fn granted(&self) -> (usize, usize) {
        (self.loads.len(), self.loads.first().map_or(0, Load::depth))
    }

    /// Of this side, the CPU time that the process uses is told.
    pub fn with_cpu_of(mut self, pid: Option<u32>) -> Side {
        self.cpu_of = pid;
        self
    }

    /// With another host's reads beside it, on the same threads.
    pub fn with_beside(mut self, url: &Url, neighbour: &Neighbour) -> Result<Side> {
        let args = ProbeArgs {
            queues: neighbour.queues,
            depth: neighbour.depth,
            block_size: neighbour.block_size,
            nsid: Some(self.plan.work.nsid),
            size: self.plan.args.size,
            // Fairness is between hosts, so it is to be another.
            hostnqn: Some(HostIdentity::random().nqn.as_str().to_owned()),
            ..ProbeArgs::of(url)
        };
        let target = Target::connect(url, &args).context(|| "the neighbour")?;
        let other = Side::nvme("neighbour", &args, target, !self.plan.seed)?;
        if let Source::Nvme(target) = other.source {
            self.beside = Some((*target, other.loads));
        }
        Ok(self)
    }

    /// The same requests without a protocol.
    pub fn raw(name: &'static str, like: &Side, args: &ProbeArgs) -> Result<Side> {
        let mut plan = like.plan.clone();
        plan.work.verify = None;
        let used = Size((plan.places * args.block_size.0).clamp(16 << 20, RAW_MEMORY_MAX));
        let site = match &args.baseline {
            Some(Some(url)) => raw::Site::connect(url)?,
            _ => {
                let Source::Nvme(target) = &like.source else {
                    return Err(Fail("a baseline needs a target".into()));
                };
                if args.baseline_core.is_none() {
                    log::warn!(
                        "--baseline without --baseline-core: the raw server runs where the system lets it, perhaps on the \
                         probe's CPU, and is slower than it could be. Name the node's CPU, and another for the probe (--cores)"
                    );
                }
                raw::Site::start(target.address(), used, args.baseline_core)?
            }
        };
        let datagrams = match &like.source {
            Source::Nvme(target) if target.by_roce() => Some(datagrams_to(like, args)?),
            _ => None,
        };
        let links = (0..like.loads.len())
            .map(|_| match datagrams {
                Some((from, segment)) => {
                    let queue = site.datagrams(from, segment, args.depth)?;
                    Ok(Link::Datagrams(Box::new(queue)))
                }
                None => Ok(Link::Raw(site.queue(args.depth)?)),
            })
            .collect::<Result<_>>()?;
        let what = match datagrams {
            Some((_, segment)) => format!("raw UDP server, datagrams of {segment} bytes of data"),
            None => "raw TCP server".to_owned(),
        };
        Ok(Side {
            name,
            about: format!("{what}, {} of memory", Size(site.size())),
            loads: plan.loads(links),
            source: Source::Raw(site),
            beside: None,
            plan,
            cpu_of: None,
        })
    }

    /// Memory of this process.
    pub fn memory(name: &'static str, args: &ProbeArgs, seed: u64) -> Side {
        let len = args.block_size.0 as u32;
        let plan = Plan {
            work: Work {
                nsid: 1,
                block_len: len,
                blocks: 1,
                end: 1 << 17,
                verify: None,
                writes: false,
            },
            places: 1 << 17,
            args: ProbeArgs {
                write: None,
                verify: false,
                ..args.clone()
            },
            seed,
        };
        let queue = |_| Link::Memory(Box::new(memory::Queue::new(args.depth, len)));
        Side {
            name,
            about: "memory of this process".into(),
            loads: plan.loads((0..args.queues).map(queue).collect()),
            source: Source::Memory,
            beside: None,
            plan,
            cpu_of: None,
        }
    }

    /// Runs one slice.
    pub fn run(&mut self, phase: &Phase, watch: &Watch<'_>) -> Result<Ran> {
        let cpu_before = self.cpu_ns();
        let slice = Slice::new(phase.time, phase.early);
        let queues = self.loads.len() as u16;
        for (number, load) in (0..queues).zip(&mut self.loads) {
            let place = (number, queues);
            let schedule = phase.rate.map(|rate| {
                let arrival = self.plan.args.arrival.unwrap_or(Arrival::Poisson);
                Schedule::new(slice.start, rate, arrival, place, self.plan.next_seed())
            });
            load.begin(&slice, schedule);
        }
        for load in self.beside.iter_mut().flat_map(|(_, loads)| loads) {
            load.begin(&slice, None);
        }
        let mut reconnects = 0;
        let cut_short = loop {
            self.drive(&slice, watch)?;
            let dead = self.loads.iter().find_map(Load::dead).map(str::to_owned);
            let beside = self.beside.iter().flat_map(|(_, loads)| loads);
            let other = beside.filter_map(Load::dead).next();
            match (dead, other) {
                (None, None) => break None,
                (None, Some(why)) => break Some(format!("the load beside it: {why}")),
                (Some(why), _) if !self.plan.args.reconnect => break Some(why),
                (Some(_), _) if (watch.wants_end)() || Instant::now() >= slice.end => break None,
                (Some(_), _) => {
                    log::warn!("the connections are lost; trying to make them again");
                    if let Err(Fail(why)) = self.reconnect(&slice, watch) {
                        break Some(why);
                    }
                    reconnects += 1;
                }
            }
        };
        let cpu_ns = cpu_before.and_then(|before| Some(self.cpu_ns()?.saturating_sub(before)));
        let (mut early, mut main) = finish(&mut self.loads, &slice);
        main.totals.reconnects = reconnects;
        let early = phase.early.map(|time| {
            early.time = time.min(main.time);
            main.time -= early.time;
            early
        });
        if early.is_none() {
            main.cpu_ns = cpu_ns;
        }
        let beside = self
            .beside
            .as_mut()
            .map(|(_, loads)| finish(loads, &slice).1);
        Ok(Ran {
            early,
            main,
            beside,
            cut_short,
        })
    }

    /// Runs the loads until they are over.
    fn drive(&mut self, slice: &Slice, watch: &Watch<'_>) -> Result<()> {
        let cpus = self.plan.args.cores.clone().unwrap_or_default().0;
        let most = if cpus.is_empty() {
            thread::available_parallelism().map_or(1, usize::from)
        } else {
            cpus.len()
        };
        let count = most.min(self.loads.len());
        let mut crews: Vec<Crew<'_>> = (0..count)
            .map(|number| Crew {
                cpu: cpus.get(number).copied(),
                doze: self.plan.args.doze,
                ..Crew::default()
            })
            .collect();
        for (number, load) in self.loads.iter_mut().enumerate() {
            crews[number % count].loads.push(load);
        }
        let beside = self.beside.iter_mut().flat_map(|(_, loads)| loads);
        for (number, load) in beside.enumerate() {
            crews[number % count].beside.push(load);
        }
        let work = &AtWork::new(count);
        thread::scope(|scope| {
            let mut threads = Vec::new();
            for crew in crews {
                threads.push(scope.spawn(move || {
                    let _shift = work.shift();
                    crew.run(slice);
                }));
            }
            watch.until_done(work, slice);
            threads.into_iter().try_for_each(|thread| {
                thread
                    .join()
                    .map_err(|_| Fail("a queue's thread failed".into()))
            })
        })
    }

    fn reconnect(&mut self, slice: &Slice, watch: &Watch<'_>) -> Result<()> {
        let Source::Nvme(target) = &mut self.source else {
            return Err(Fail("what was measured went away".into()));
        };
        self.loads.iter_mut().for_each(Load::hang_up);
        slice.stop.store(false, Ordering::Relaxed);
        let left = slice.end.saturating_duration_since(Instant::now());
        let work = &AtWork::new(1);
        let queues = thread::scope(|scope| {
            let thread = scope.spawn(move || {
                let _shift = work.shift();
                target.reconnect(left, &slice.stop)
            });
            watch.until_done(work, slice);
            thread
                .join()
                .map_err(|_| Fail("reconnecting failed".into()))?
        })?;
        if queues.len() < self.loads.len() {
            return Err(Fail(format!(
                "the target grants {} I/O queues now, not {}",
                queues.len(),
                self.loads.len()
            )));
        }
        for (load, queue) in self.loads.iter_mut().zip(queues) {
            load.resume(Link::Nvme(queue));
        }
        Ok(())
    }

    fn cpu_ns(&mut self) -> Option<u64> {
        match &mut self.source {
            Source::Raw(site) => site.cpu_ns(),
            Source::Nvme(_) => usage::of_process(self.cpu_of?),
            Source::Drive(_) | Source::Memory => None,
        }
    }

    /// Ends the association by the book.
    pub fn goodbye(self) {
        drop(self.loads);
        if let Source::Nvme(target) = self.source {
            target.goodbye();
        }
        if let Some((target, loads)) = self.beside {
            drop(loads);
            target.goodbye();
        }
    }
}

/// Of the raw server's memory.
const RAW_MEMORY_MAX: u64 = 1 << 30;

/// Where the datagrams of a comparison with RoCE come from, and how many bytes of data each has: as the packets.
fn datagrams_to(like: &Side, args: &ProbeArgs) -> Result<(IpAddr, u32)> {
    if writes(args) > 0 {
        fail!("--baseline: what it measures for roce:// are reads; leave the writing flags out");
    }
    let Source::Nvme(target) = &like.source else {
        return Err(Fail("a baseline needs a target".into()));
    };
    let target = target.address();
    let from = match args.bind {
        Some(from) => from,
        None => local_address(target).context(|| format!("the way to {target}"))?,
    };
    let port = udp::port_of(from).context(|| "--baseline")?;
    Ok((from, port.mtu.bytes()))
}

/// What the loads measured: the early part, and the rest.
fn finish(loads: &mut [Load], slice: &Slice) -> (Sliced, Sliced) {
    let (mut early, mut main) = (Sliced::default(), Sliced::default());
    for load in loads {
        let (totals, first, time) = load.finish(slice);
        main.totals.merge(&totals);
        early.totals.merge(&first);
        main.time = main.time.max(time);
    }
    (early, main)
}

impl Plan {
    fn of(ground: &Ground, args: &ProbeArgs, seed: u64) -> Result<Plan> {
        ground.check(args)?;
        let blocks = args.block_size.0 as u32 / ground.block_len;
        let places = ground.places(args)?;
        let end = match args.workload {
            // All of it, and so perhaps less by the last command.
            Some(Workload::ModelLoad) => ground.used(args) / u64::from(ground.block_len),
            _ => places * u64::from(blocks),
        };
        Ok(Plan {
            work: Work {
                nsid: ground.nsid,
                block_len: ground.block_len,
                blocks,
                end,
                verify: args.verify.then_some(seed),
                writes: writes(args) > 0,
            },
            places,
            args: args.clone(),
            seed,
        })
    }

    fn loads(&self, links: Vec<Link>) -> Vec<Load> {
        let count = links.len() as u16;
        let args = &self.args;
        (0..count)
            .zip(links)
            .map(|(number, link)| {
                let place = (number, count);
                let mut ledger =
                    Ledger::new(self.places, place, args.pattern, writes(args), self.seed);
                if self.work.verify.is_some() {
                    ledger = ledger.with_verify();
                }
                if args.workload == Some(Workload::ModelLoad) {
                    ledger = ledger.once();
                }
                Load::new(self.work, link, ledger, args.depth)
            })
            .collect()
    }

    /// Every slice has other arrivals, and every run of a seed the same.
    fn next_seed(&mut self) -> u64 {
        self.seed = self
            .seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        self.seed
    }
}

/// The loads of one thread.
#[derive(Default)]
struct Crew<'a> {
    cpu: Option<usize>,
    doze: bool,
    loads: Vec<&'a mut Load>,
    beside: Vec<&'a mut Load>,
}

/// After so long without anything to do, a thread with several queues looks at them less often.
const QUIET: Duration = Duration::from_millis(10);

impl Crew<'_> {
    fn run(mut self, slice: &Slice) {
        if let Some(id) = self.cpu
            && !core_affinity::set_for_current(core_affinity::CoreId { id })
        {
            log::warn!("the system does not let a thread run on CPU {id}");
        }
        while Instant::now() < slice.start {
            std::hint::spin_loop();
        }
        let mut busy_at = Instant::now();
        loop {
            if self.turn(slice) {
                busy_at = Instant::now();
                continue;
            }
            if self
                .loads
                .iter()
                .chain(&self.beside)
                .all(|load| load.is_over())
            {
                return;
            }
            match &mut self.loads[..] {
                [only] if self.beside.is_empty() => only.rest(self.doze),
                _ if busy_at.elapsed() < QUIET => thread::yield_now(),
                _ => thread::sleep(Duration::from_micros(50)),
            }
        }
    }

    /// Looks at each queue once; the measured ones again after each of the others, which have more to receive. True if
    /// there was something to do.
    fn turn(&mut self, slice: &Slice) -> bool {
        let mut busy = false;
        for load in &mut self.beside {
            busy |= load.step(slice);
            for load in &mut self.loads {
                busy |= load.step(slice);
            }
        }
        if self.beside.is_empty() {
            for load in &mut self.loads {
                busy |= load.step(slice);
            }
        }
        if self
            .loads
            .iter()
            .chain(&self.beside)
            .any(|load| load.dead().is_some())
        {
            slice.stop.store(true, Ordering::Relaxed);
        }
        busy
    }
}
