//! Many queues that do nothing, and what they cost the target: CPU time, memory; and how long it takes until all serve
//! again after all were lost at once.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use ferroce_engine::host as nvme;
use ferroce_transport::host::{
    Backoff, Controller, Data, HostError, HostIdentity, Namespace, Options, Queue,
};
use ferroce_wire::fabrics::Nqn;
use serde_json::{Value, json};

use super::drive::Place;
use super::target::{Target, plain};
use super::workload;
use crate::cli::ProbeArgs;
use crate::fail::{Fail, Result, fail};
use crate::usage;

/// Between two looks whether queues were lost.
const LOOK: Duration = Duration::from_millis(200);
/// Queues of one host.
const QUEUES: u16 = 64;
/// How a host that lost its target looks for it: as the kernel's, at growing distances.
const BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(10),
    max: Duration::from_millis(500),
    give_up_after: Some(Duration::from_secs(60)),
};

/// What was found.
#[derive(Debug)]
pub struct Found {
    about: String,
    queues: u16,
    depth: usize,
    hosts: usize,
    /// Until each had read a block.
    connected: Duration,
    /// For how long they did nothing, and the CPU time that the target used in it.
    idle: Duration,
    idle_cpu_ns: Option<u64>,
    /// Bytes of the target's memory that are its own, before and with the crowd.
    memory: Option<(u64, u64)>,
    /// Of each storm, how long until each queue had read a block again.
    storms: Vec<Duration>,
    /// Why it ended before its time.
    pub cut_short: Option<String>,
}

/// Connections that a crowd of so many queues takes: each host has an admin queue.
pub fn queues(count: u16) -> usize {
    usize::from(count) + usize::from(count.div_ceil(QUEUES))
}

/// What every host needs to know.
struct Plan {
    address: SocketAddr,
    nqn: Nqn,
    options: Options,
    own_identity: bool,
    namespace: Namespace,
    depth: u16,
}

/// A host that is connected.
struct Host {
    // In this order: a queue outlives its association for a moment only.
    queues: Vec<Queue>,
    _controller: Controller,
}

/// Connects `count` queues, waits, and lets them all be lost as often as the arguments say.
pub fn run(args: &ProbeArgs, count: u16, wants_end: &dyn Fn() -> bool) -> Result<Found> {
    let Some(url) = args.url.as_ref().and_then(Place::url) else {
        fail!("--crowd connects to a node: name one by its URL")
    };
    let untold = |pid| {
        Fail(format!(
            "--target-pid {pid}: the kernel does not tell what memory it has"
        ))
    };
    let own = |pid| usage::own_memory(pid).ok_or_else(|| untold(pid));
    let before = args.target_pid.map(own).transpose()?;
    let target = Target::connect(url, args)?;
    let plan = Plan {
        address: target.address(),
        nqn: target.nqn,
        options: super::target::options(args, url.scheme, target.address())?,
        own_identity: args.hostnqn.is_none(),
        namespace: target.namespace.clone(),
        depth: args.depth,
    };
    let never = AtomicBool::new(false);
    let start = Instant::now();
    let mut hosts = gather(count, &|queues| plan.host(queues))?;
    let mut found = Found {
        about: target.about(),
        queues: count,
        depth: hosts[0].queues[0].depth(),
        hosts: hosts.len(),
        connected: start.elapsed(),
        idle: Duration::ZERO,
        idle_cpu_ns: None,
        memory: None,
        storms: Vec::new(),
        cut_short: None,
    };
    let (start, cpu_before) = (Instant::now(), args.target_pid.and_then(usage::of_process));
    let mut looked = start;
    while start.elapsed() < workload::time(args) && found.cut_short.is_none() {
        thread::sleep(Duration::from_millis(10));
        if looked.elapsed() > LOOK {
            looked = Instant::now();
            found.cut_short = lost(&mut hosts);
        }
        if wants_end() {
            found.cut_short = Some("interrupted".into());
        }
    }
    found.idle = start.elapsed();
    if let (Some(pid), Some(before)) = (args.target_pid, cpu_before) {
        let after = usage::of_process(pid);
        found.idle_cpu_ns = after.map(|after| after.saturating_sub(before));
    }
    if let (Some(pid), Some(before)) = (args.target_pid, before) {
        found.memory = usage::own_memory(pid).map(|with| (before, with));
    }
    // Who was idle may have missed that the target is gone.
    if found.cut_short.is_none() {
        let read = |host: &mut Host| plan.read(host);
        found.cut_short = each(&mut hosts, read).map(|why| format!("a queue reads no more: {why}"));
    }
    for _ in 0..args.storms {
        if found.cut_short.is_none() && wants_end() {
            found.cut_short = Some("interrupted".into());
        }
        if found.cut_short.is_some() {
            break;
        }
        let start = Instant::now();
        drop(hosts);
        match gather(count, &|queues| BACKOFF.retry(&never, || plan.host(queues))) {
            Ok(back) => hosts = back,
            Err(Fail(why)) => {
                found.cut_short = Some(format!("not all came back: {why}"));
                break;
            }
        }
        found.storms.push(start.elapsed());
    }
    Ok(found)
}

/// Looks at each queue; how many are lost, and why the first of them is.
fn lost(hosts: &mut [Host]) -> Option<String> {
    let (mut count, mut all, mut first) = (0, 0, None);
    for queue in hosts.iter_mut().flat_map(|host| &mut host.queues) {
        all += 1;
        queue.exchange();
        if let Some(why) = queue.error() {
            count += 1;
            first.get_or_insert(why.to_string());
        }
    }
    first.map(|why| format!("{count} of {all} queues are lost: {why}"))
}

/// Does it for each host, all at the same time; why it failed for one.
fn each(
    hosts: &mut [Host],
    what: impl Fn(&mut Host) -> std::result::Result<(), HostError> + Sync,
) -> Option<String> {
    let what = &what;
    thread::scope(|scope| {
        let threads: Vec<_> = hosts
            .iter_mut()
            .map(|host| scope.spawn(move || what(host)))
            .collect();
        let mut failed = threads
            .into_iter()
            .filter_map(|thread| match thread.join() {
                Ok(done) => done.err().map(|why| why.to_string()),
                Err(_) => Some("a host's thread failed".into()),
            });
        let first = failed.next();
        failed.for_each(drop);
        first
    })
}

/// Makes a host with so many queues.
type Connect<'a> = dyn Fn(u16) -> std::result::Result<Host, HostError> + Sync + 'a;

/// Connects so many queues, each host on a thread of its own, all at the same time.
fn gather(count: u16, host: &Connect<'_>) -> Result<Vec<Host>> {
    thread::scope(|scope| {
        let hosts: Vec<_> = (0..count)
            .step_by(usize::from(QUEUES))
            .map(|at| {
                let queues = (count - at).min(QUEUES);
                scope.spawn(move || host(queues))
            })
            .collect();
        let joined = hosts.into_iter().map(|host| host.join());
        joined
            .map(|host| match host {
                Ok(Ok(host)) => Ok(host),
                Ok(Err(why)) => Err(plain(why)),
                Err(_) => Err(Fail("a host's thread failed".into())),
            })
            .collect()
    })
}

impl Plan {
    /// One host, each of whose queues has read a block.
    fn host(&self, count: u16) -> std::result::Result<Host, HostError> {
        let mut options = self.options.clone();
        if self.own_identity {
            options.identity = HostIdentity::random();
        }
        let controller = Controller::connect(self.address, &self.nqn, &options)?;
        let queues = controller.queues(count, self.depth)?;
        if queues.len() < usize::from(count) {
            return Err(HostError::Nonsense {
                what: "the target grants fewer I/O queues than a host of the crowd asks for",
            });
        }
        let mut host = Host {
            queues,
            _controller: controller,
        };
        self.read(&mut host)?;
        Ok(host)
    }

    /// Each queue of the host reads a block.
    fn read(&self, host: &mut Host) -> std::result::Result<(), HostError> {
        for queue in &mut host.queues {
            let read = nvme::read(self.namespace.nsid, 0, 1);
            let data = Data::Discard(self.namespace.block_len);
            let status = queue.exec(read, data, "Read")?.status();
            if !status.is_success() {
                let what = "Read";
                return Err(HostError::Command { what, status });
            }
        }
        Ok(())
    }
}

impl Found {
    /// Share of one core that the target used while nobody asked for anything, in percent.
    fn idle_percent(&self) -> Option<f64> {
        Some(self.idle_cpu_ns? as f64 / self.idle.as_nanos() as f64 * 100.0)
    }

    /// For a program.
    pub fn json(&self) -> Value {
        let seconds: Vec<f64> = self.storms.iter().map(Duration::as_secs_f64).collect();
        json!({
            "about": self.about,
            "crowd": {
                "queues": self.queues,
                "depth": self.depth,
                "hosts": self.hosts,
                "connect_s": self.connected.as_secs_f64(),
                "idle_s": self.idle.as_secs_f64(),
                "idle_cpu_percent": self.idle_percent(),
                "memory_before": self.memory.map(|memory| memory.0),
                "memory_with": self.memory.map(|memory| memory.1),
                "storms_s": seconds,
                "cut_short": self.cut_short,
            },
        })
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.about)?;
        writeln!(
            f,
            "{} queues of {} by {} hosts, each of which read a block after {:.3} s",
            self.queues,
            self.depth,
            self.hosts,
            self.connected.as_secs_f64()
        )?;
        if let Some(percent) = self.idle_percent() {
            let seconds = self.idle.as_secs_f64();
            writeln!(f, "idle for {seconds:.1} s: {percent:.2}% of a core")?;
        }
        if let Some((before, with)) = self.memory {
            let mib = |bytes| bytes as f64 / f64::from(1 << 20);
            writeln!(
                f,
                "the target's memory, beyond what it shares: {:.1} MiB before, {:.1} MiB with them",
                mib(before),
                mib(with)
            )?;
        }
        for storm in &self.storms {
            let seconds = storm.as_secs_f64();
            writeln!(f, "all lost, and serving again after {seconds:.3} s")?;
        }
        Ok(())
    }
}
