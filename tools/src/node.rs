//! A node: cores, drives, listeners and the control thread, put together from a [`Config`]. `serve`
//! runs one for as long as it is told to, `demo` for a few seconds.

mod clients;
mod control;
mod core;
pub mod cpus;
mod door;
pub mod drives;
mod handle;
mod latency;
mod memory;
mod numa;
mod roce;
#[cfg(feature = "verbs")]
mod verbs;
mod wanted;

use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ferroce_drivers::pci::Sysfs;
use ferroce_drivers::spec::Kind;
use ferroce_engine::admin::Facts;
use ferroce_engine::control::Change;
use ferroce_engine::core::{Core, CoreConfig};
use ferroce_engine::counters::{Counter, Counters};
use ferroce_engine::mail::mailbox;
use ferroce_engine::table::{Subsystem, Transport};
use ferroce_transport::roce::udp::{Facts as RoceFacts, Listener};
use ferroce_transport::tcp::fabric::TcpFabric;
use ferroce_transport::tcp::target::Offer;

use crate::boot;
use crate::config::Config;
use crate::ctl::socket::Socket;
use crate::fail::{Context, Result, fail};
use crate::sets::AnyFabric;
use crate::units::Dscp;
use crate::url::Scheme;
use crate::wait::Bed;
pub use handle::Handle;
use memory::Plan;
pub use memory::available as memory_available;
use wanted::Wanted;
pub use wanted::{News, What, is_here};

/// Messages that may wait for a core, or for the control thread. What does not fit waits at its sender.
const MAILBOX: usize = 4096;
/// A patient node lets nobody in for so long while a drive is not there, and looks for it so often.
const DRIVES_LATE: Duration = Duration::from_secs(10);
/// See `DRIVES_LATE`.
const LOOK_FOR_LATE: Duration = Duration::from_millis(500);
/// Descriptors that are not connections: standard streams, rings, drives, listeners, control.
const FILES_BESIDE: u64 = 128;

/// A node that runs.
#[derive(Debug)]
pub struct Node {
    handle: Arc<Handle>,
    memory: String,
    placed: String,
    roce: Vec<RoceFacts>,
    control: JoinHandle<bool>,
    cores: Vec<JoinHandle<()>>,
}

/// What every thread knows of a core.
#[derive(Debug, Default)]
pub struct CoreFacts {
    /// The CPU it is pinned to.
    pub cpu: Option<usize>,
    /// The NUMA node it runs on, and where its memory is; none on a machine of one node.
    pub node: Option<u32>,
    /// Connections it has, as its thread last said.
    pub connections: AtomicUsize,
    /// What it counts.
    pub counters: Arc<Counters>,
    /// Time in turns that did something, in ns.
    pub busy_ns: Counter,
    /// Time in turns that found nothing to do, in ns.
    pub spinning_ns: Counter,
    /// Bytes of data that its transports copied.
    pub copied_bytes: Counter,
    /// What its transports counted, by transport (`tcp`, `rdma`) and name, as it was a moment ago.
    pub transports: Mutex<Vec<(&'static str, &'static str, u64)>>,
}

impl Node {
    /// Starts one. When this returns, hosts may connect.
    pub fn start(config: &Config, file: Option<PathBuf>) -> Result<Node> {
        Node::start_with(config, file, Wanted::default())
    }

    /// Starts one with what there is: drives and addresses that are not there yet are looked for, by [`Node::look`].
    pub fn start_patient(config: &Config, file: Option<PathBuf>) -> Result<Node> {
        let wanted = Wanted::patiently();
        let mut usable = Config {
            listen: wanted::usable(&config.listen, &wanted),
            ..config.clone()
        };
        let why = match Node::start_with(&usable, file.clone(), wanted) {
            Err(why) if usable.has_rdma() => why,
            started => return started,
        };
        // RDMA needs more than an address, and what else it needs does not come by itself.
        let wanted = Wanted::patiently();
        for url in &config.listen {
            if url.scheme.transport() == Transport::Rdma {
                let (url, here) = (url.clone(), wanted::is_here(url));
                wanted.miss(What::Rdma { url, here }, why.clone());
            }
        }
        usable
            .listen
            .retain(|url| url.scheme.transport() == Transport::Tcp);
        Node::start_with(&usable, file, wanted)
    }

    fn start_with(config: &Config, file: Option<PathBuf>, wanted: Wanted) -> Result<Node> {
        let cpus = cpus::of(&config.cores)?;
        warn_of_few_files(config.limits.queues, cpus.len());
        let (machine, drives) = (numa::Nodes::here(), numa::drives(config, &Sysfs::default()));
        let places = machine.of_cores(&cpus, &drives);
        let placed = machine.said(&places, &drives);
        let plan = Plan::of(config, cpus.len(), config.has_rdma());
        let memory::Dealt { mut pools, regions } = plan.map(&places)?;
        let memory = format!("{plan} in {}", memory::pages(&regions));
        let clock = core::Clock::start();
        let bed = Bed::new().context(|| "cannot make an epoll")?;
        let (to_control, mail) = mailbox(MAILBOX, bed.waker());
        let (asks, asked) = mailbox(64, bed.waker());
        let node_facts = Arc::new(Facts {
            firmware: env!("CARGO_PKG_VERSION").into(),
            started: clock.now(),
            mdts: Some(config.limits.mdts()),
        });
        let class = config.dscp.map(Dscp::traffic_class);
        #[cfg(feature = "verbs")]
        let mut devices = verbs::open(&config.listen, cpus.len(), &regions, class)?;
        #[cfg(feature = "verbs")]
        let (others, both, soft_device) = (
            &devices.others,
            devices.verbs.is_some(),
            devices.verbs.as_ref().is_some_and(|all| all.any_is_soft()),
        );
        #[cfg(not(feature = "verbs"))]
        let (others, both, soft_device) = (&config.listen, false, false);
        let roce::Opened {
            mut fabrics,
            listener,
            facts: roce,
        } = roce::open(others, cpus.len(), config.limits.rdma_entries, class)?;
        // Queues that come by devices and those that come by our own RoCEv2 have their RECVs apart.
        let entries = config.limits.rdma_entries as usize;
        let entries = match both && !fabrics.is_empty() {
            true => entries / 2,
            false => entries,
        };
        #[cfg(feature = "verbs")]
        let mut devices_at = 0;
        let mut posts = Vec::new();
        let mut facts = Vec::new();
        let mut cores = Vec::new();
        for (index, cpu) in cpus.iter().copied().enumerate() {
            let fabric = TcpFabric::new(Offer::default()).context(|| "cannot make an epoll")?;
            let known = Arc::new(CoreFacts {
                cpu,
                node: places[index],
                counters: Arc::new(match config.phases {
                    true => Counters::with_series(config.limits.series as usize),
                    false => Counters::without_phases(),
                }),
                ..CoreFacts::default()
            });
            let (pool, mut landing) = pools.remove(0);
            let mut all = vec![AnyFabric::Tcp(Box::new(fabric))];
            // Index by index as `sets::TCP` and `sets::ROCE` say.
            if let Some(provider) = fabrics.pop_front() {
                all.push(roce::fabric(provider, &mut landing, entries));
            }
            #[cfg(feature = "verbs")]
            if let Some(provider) = devices.fabrics.pop_front() {
                devices_at = all.len();
                all.push(verbs::fabric(provider, &mut landing, entries));
            }
            let bed = AnyFabric::bed(&all).context(|| "cannot make an epoll")?;
            let (post, mailbox) = mailbox(MAILBOX, bed.waker());
            let config_of_core = CoreConfig {
                index,
                cores: cpus.len(),
                commands: config.limits.commands as usize,
                pool,
                landing,
                facts: Arc::clone(&node_facts),
                counters: known.counters.clone(),
            };
            let core = Core::new(config_of_core, all, mailbox, to_control.clone());
            let idling = core::Idling {
                spin: config.spin,
                alone: cpu.is_some() && !soft_device,
            };
            let thread = core::Thread {
                core,
                bed,
                clock,
                idling,
                facts: known.clone(),
                count_next: Default::default(),
            };
            posts.push(post);
            facts.push(known);
            let stay = places[index].filter(|_| cpu.is_none());
            let machine = machine.clone();
            cores.push(spawn(format!("core {index}"), move || {
                stay.inspect(|node| machine.stay_on(*node));
                thread.run();
            })?);
        }
        let door = door::Door::new(facts.clone(), config.limits.queues as usize);
        let wakeful = latency::Wakeful::new(config.cpu_dma_latency);
        let wake_up = wakeful.said();
        let control = control::Thread::new(posts, (mail, asked), bed, clock, door, wakeful);
        let control = spawn("control".into(), move || control.run())?;
        let node = Node {
            handle: Arc::new(Handle::new(
                asks,
                facts,
                file,
                (config.memory, regions),
                clock,
                (wanted, wake_up),
                #[cfg(feature = "verbs")]
                devices.verbs.map(|verbs| (devices_at, verbs)),
            )),
            memory,
            placed,
            roce,
            control,
            cores,
        };
        let filled = node.fill(config, listener);
        #[cfg(feature = "verbs")]
        let filled = filled.and_then(|()| {
            let mut listeners = devices.listeners.into_iter();
            listeners.try_for_each(|listener| node.handle.listen_verbs(listener))
        });
        match filled {
            Ok(()) => Ok(node),
            Err(why) => {
                let _ = node.stop();
                Err(why)
            }
        }
    }

    /// Makes what the configuration says, by the same changes that `ctl` makes. Listeners come last:
    /// no host sees a half-made node.
    /// A patient node goes on without what is not there, without a drive after a while: hosts that come back take one
    /// that is late for one that is gone, and with it the disk that they made of it.
    fn fill(&self, config: &Config, roce: Option<Listener>) -> Result<()> {
        let wanted = self.handle.wanted();
        let mut late = Vec::new();
        for subsystem in &config.subsystem {
            self.handle.change(Change::AddSubsystem(Subsystem {
                nqn: subsystem.nqn().to_owned(),
                serial: subsystem.serial().to_owned(),
                model: subsystem.model().to_owned(),
                cntlids: subsystem.cntlids(),
                allow: subsystem.allow.clone(),
                namespaces: Default::default(),
            }))?;
            for namespace in &subsystem.namespace {
                match self.handle.add(subsystem.nqn(), namespace) {
                    Ok(_) => (),
                    Err(why) if wanted.is_patient() => {
                        late.push((subsystem.nqn(), namespace, why));
                    }
                    Err(why) => return Err(why),
                }
            }
        }
        let until = Instant::now() + DRIVES_LATE;
        while !late.is_empty() && Instant::now() < until {
            thread::sleep(LOOK_FOR_LATE);
            late.retain_mut(|(nqn, namespace, why)| {
                let added = self.handle.add(nqn, namespace);
                added.map_err(|again| *why = again).is_err()
            });
        }
        for (nqn, namespace, why) in late {
            let what = What::Drive(nqn.to_owned(), Box::new(namespace.clone()));
            wanted.miss(what, why);
        }
        let sockets = config.listen.iter().filter(|url| url.scheme == Scheme::Tcp);
        for url in sockets {
            let listening = self
                .handle
                .table()
                .and_then(|table| self.handle.listen(&table, url));
            match listening {
                Ok(_) => (),
                Err(why) if wanted.is_patient() => wanted.miss(What::Address(url.clone()), why),
                Err(why) => return Err(why),
            }
        }
        match roce {
            Some(listener) => self.handle.listen_roce(listener),
            None => Ok(()),
        }
    }

    /// Looks for what a patient node misses.
    pub fn look(&self, tell: impl Fn(News) + Send + Sync + 'static) -> Result<()> {
        wanted::look(&self.handle, tell)
    }

    /// For those who want to know or change something.
    pub fn handle(&self) -> &Arc<Handle> {
        &self.handle
    }

    /// What is on which NUMA node, a line each; nothing on a machine that has one.
    pub fn placed(&self) -> &str {
        &self.placed
    }

    /// What memory it has for data on its way.
    pub fn memory(&self) -> &str {
        &self.memory
    }

    /// How packets of RoCE in software come and go, at each of its addresses.
    pub fn roce(&self) -> &[RoceFacts] {
        &self.roce
    }

    /// Answers at a control socket, from threads of its own.
    pub fn answer_at(&self, socket: &Socket) -> Result<()> {
        clients::answer(socket, self.handle.clone())
    }

    /// Finishes what is outstanding, tells the hosts, and ends.
    pub fn stop(self) -> Result<()> {
        self.handle.stop();
        // A thread that panics ends the process; in unit tests it is told here.
        let all_back = self.control.join().expect("the control thread ends well");
        if !all_back {
            self.handle.close_drives();
            fail!(
                "not everything that was outstanding came back from the drives in time; ended without it"
            );
        }
        for core in self.cores {
            core.join().expect("a core ends well");
        }
        self.handle.close_drives();
        Ok(())
    }
}

fn spawn<T: Send + 'static>(
    name: String,
    run: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>> {
    thread::Builder::new()
        .name(name)
        .spawn(run)
        .context(|| "cannot start a thread")
}

/// The calling thread, and those it starts from now on, leave the CPUs to the cores that this configuration gives them to.
/// (The cores take theirs.)
pub fn keep_off_cores(config: &Config) -> Result<()> {
    cpus::keep_off(cpus::of(&config.cores)?.into_iter().flatten());
    Ok(())
}

/// Bytes of memory that a node of this configuration takes for data: what is worth being huge pages.
pub fn memory_wanted(config: &Config) -> u64 {
    let cores = cpus::of(&config.cores).map_or(1, |cpus| cpus.len());
    let page = 2 << 20;
    let drives = config.subsystem.iter().flat_map(|s| &s.namespace);
    let ram: u64 = drives
        .map(|namespace| match namespace.spec().kind {
            Kind::Ram { bytes } => bytes.next_multiple_of(page),
            _ => 0,
        })
        .sum();
    Plan::of(config, cores, config.has_rdma()).bytes() as u64 + ram
}

/// Bytes of buffers that a node of this configuration has, and lets each RDMA device reach, if it serves hosts by RDMA.
#[cfg(feature = "verbs")]
pub fn buffer_bytes(config: &Config) -> Result<u64> {
    Ok(Plan::of(config, cpus::of(&config.cores)?.len(), true).bytes() as u64)
}

/// Each connection is a descriptor: the limit is raised as far as the system lets us.
fn warn_of_few_files(queues: u32, cores: usize) {
    if let Some(why) = too_few_files(boot::raise_open_files(), queues, cores) {
        log::warn!("{why}");
    }
}

/// What is to be told if so many files are too few for so many queues of each core, and those that are turned away.
fn too_few_files(limit: u64, queues: u32, cores: usize) -> Option<String> {
    let cores = cores as u64;
    let queues = u64::from(queues) * cores;
    let beside = FILES_BESIDE + door::RESERVE as u64 * cores;
    let wanted = queues + beside;
    if limit >= wanted {
        return None;
    }
    let room = match limit.saturating_sub(beside) {
        0 => "for few connections".to_owned(),
        room => format!("for about {room} connections"),
    };
    Some(format!(
        "only {limit} files may be open, so there is room {room}, not {queues}; raise it with `ulimit -n {wanted}` or \
         LimitNOFILE= of the service"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Namespace;

    #[test]
    fn each_core_needs_files_for_its_queues() {
        assert_eq!(too_few_files(4 * (1024 + 16) + 128, 1024, 4), None);
        let said = too_few_files(2048, 1024, 4).expect("too few");
        assert!(said.contains("about 1856 connections, not 4096"), "{said}");
        assert!(said.contains("ulimit -n 4288"), "{said}");
        let said = too_few_files(100, 1024, 1).expect("too few");
        assert!(said.contains("few connections"), "{said}");
    }

    /// A patient node looks for a drive every two seconds, for as long as it is away.
    #[test]
    fn a_drive_that_cannot_be_had_takes_no_number() {
        let config = "listen = [\"tcp://127.0.0.1:0\"]\ncores = [0]\n[[subsystem]]\nnqn = \"nqn.2024-01.a:b\"\n";
        let config = Config::parse(config, "f").expect("valid");
        let node = Node::start(&config, None).expect("it starts");
        let namespace = |device: &str| Namespace::of(device.parse().expect("a device"));
        for device in [
            "file:/nonexistent/a",
            "ram:1MiB",
            "file:/nonexistent/a",
            "ram:1MiB",
        ] {
            let added = node.handle.add("nqn.2024-01.a:b", &namespace(device));
            assert_eq!(added.is_ok(), device.starts_with("ram"), "{device}");
        }
        let table = node.handle.table().expect("it answers");
        let namespaces = table.subsystems["nqn.2024-01.a:b"].namespaces.values();
        let drives: Vec<u16> = namespaces.map(|namespace| namespace.drive.0).collect();
        assert_eq!(drives, [0, 1]);
        node.stop().expect("it stops");
    }
}
