//! What a node tells of itself: to `ctl`, and for metrics.

use super::*;

/// How a core spent its time since the start, in ns.
#[derive(Clone, Copy, Debug)]
pub struct Spent {
    /// In turns that did something.
    pub busy: u64,
    /// In turns that found nothing to do.
    pub spinning: u64,
    /// The rest.
    pub asleep: u64,
}

impl Spent {
    /// Each with its name.
    pub fn by_name(self) -> [(&'static str, u64); 3] {
        [
            ("busy", self.busy),
            ("spinning", self.spinning),
            ("asleep", self.asleep),
        ]
    }
}

impl Handle {
    /// What is known of the cores.
    pub fn cores(&self) -> &[Arc<CoreFacts>] {
        &self.cores
    }

    /// Time since the start, in ns.
    pub fn uptime_ns(&self) -> u64 {
        self.clock.now().0
    }

    /// How a core spent its time.
    pub fn spent(&self, core: &CoreFacts) -> Spent {
        let (busy, spinning) = (core.busy_ns.get(), core.spinning_ns.get());
        Spent {
            busy,
            spinning,
            asleep: self.uptime_ns().saturating_sub(busy + spinning),
        }
    }

    /// Commands that were answered with an error, by status.
    pub fn errors(&self) -> BTreeMap<String, u64> {
        let mut errors = BTreeMap::new();
        for (status, count) in self
            .cores
            .iter()
            .flat_map(|core| core.counters.errors.read())
        {
            *errors.entry(status.to_string()).or_default() += count;
        }
        errors
    }

    /// How the drives are that tell, by what the operator called them.
    pub fn health(&self) -> Vec<(String, HealthView)> {
        let drives = lock(&self.drives);
        let told = drives.values().map(|drive| drive.info());
        told.filter_map(|info| Some((info.label, health_view(info.health.as_deref()?)?)))
            .collect()
    }

    /// Bytes that were copied, by why.
    pub fn copied(&self) -> [(&'static str, u64); 3] {
        let sum = |get: fn(&CoreFacts) -> u64| self.cores.iter().map(|core| get(core)).sum();
        let drives: u64 = lock(&self.drives)
            .values()
            .map(|drive| drive.copied())
            .sum();
        [
            ("in-capsule", sum(|core| core.counters.copied_bytes.get())),
            ("transport", sum(|core| core.copied_bytes.get())),
            ("part-of-page", drives + self.copied_before.load(Relaxed)),
        ]
    }

    /// What was counted of each RDMA device: its name, what it is, how often.
    pub fn rdma_devices(&self) -> Vec<(String, &'static str, u64)> {
        #[cfg_attr(not(feature = "verbs"), expect(unused_mut))]
        let mut counts = Vec::new();
        #[cfg(feature = "verbs")]
        if let Some((_, verbs)) = &self.verbs {
            verbs.each_device_counter(&mut |device, what, count| {
                counts.push((device.to_owned(), what, count));
            });
        }
        counts
    }

    /// What was counted where requests for RoCE connections are heard, by name.
    pub fn requests(&self) -> Vec<(&'static str, u64)> {
        let mut counts = Vec::new();
        if let Some((_, counters)) = self.roce.get() {
            lock(counters).each(&mut |name, count| counts.push((name, count)));
        }
        counts
    }

    /// What is served.
    pub fn view(&self) -> Result<Node> {
        let table = self.table()?;
        let core = |core: &Arc<CoreFacts>| {
            let spent = self.spent(core);
            let transports = lock(&core.transports);
            let counted = |wanted| {
                let some = transports
                    .iter()
                    .filter(|(of, _, count)| *of == wanted && *count > 0);
                some.map(|(_, name, count)| ((*name).to_owned(), *count))
                    .collect()
            };
            CoreView {
                cpu: core.cpu,
                connections: core.counters.queues.get(),
                busy_ns: spent.busy,
                spinning_ns: spent.spinning,
                asleep_ns: spent.asleep,
                buffer_bytes: core.counters.pool_bytes.get() + core.counters.landing_bytes.get(),
                buffer_used_bytes: core.counters.pool_out.get() + core.counters.landing_out.get(),
                waits: core.counters.waits.get(),
                tcp: counted("tcp"),
                rdma: counted("rdma"),
            }
        };
        Ok(Node {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            uptime_s: self.since.elapsed().as_secs(),
            config: self.file.as_ref().map(|file| file.display().to_string()),
            listen: table
                .listeners
                .iter()
                .map(|known| self.url(known).to_string())
                .collect(),
            wake_up: self.wake_up.read(),
            cores: self.cores.iter().map(core).collect(),
            rdma_devices: self
                .rdma_devices()
                .into_iter()
                .filter(|(.., count)| *count > 0)
                .map(|(device, what, count)| (device, what.to_owned(), count))
                .collect(),
            requests: self
                .requests()
                .into_iter()
                .filter(|(_, count)| *count > 0)
                .map(|(name, count)| (name.to_owned(), count))
                .collect(),
            missing: [self.wanted.lines(), boot::missing()].concat(),
            subsystems: table
                .subsystems
                .values()
                .map(|subsystem| subsystem_view(subsystem))
                .collect(),
        })
    }

    /// The slowest I/Os of all cores, slowest first.
    pub(super) fn slow(&self, reset: bool) -> Result<Vec<SlowIo>> {
        if !self.cores.iter().all(|core| core.counters.phases.is_on()) {
            fail!("no I/O is timed here: the configuration says `phases = false`");
        }
        let of_core = |(core, facts): (usize, &Arc<CoreFacts>)| {
            let slowest = facts.counters.phases.slowest(reset);
            let view = move |slow: Slow| SlowIo {
                at_ms: self.clock.wall_ms(slow.arrived),
                total_ns: slow.times.total(),
                queue_ns: slow.times.queue,
                drive_ns: slow.times.drive,
                send_ns: slow.times.send,
                opcode: match NvmOpcode(slow.opcode).name() {
                    Some(name) => name.into(),
                    None => format!("{:02X}h", slow.opcode),
                },
                nsid: slow.nsid,
                slba: slow.slba,
                blocks: slow.blocks,
                core,
                host: slow.who.hostnqn.clone(),
                subsystem: slow.who.subnqn.clone(),
            };
            slowest.into_iter().map(view)
        };
        let mut slowest: Vec<SlowIo> = self.cores.iter().enumerate().flat_map(of_core).collect();
        slowest.sort_by_key(|slow| Reverse(slow.total_ns));
        slowest.truncate(limits::SLOWEST);
        Ok(slowest)
    }

    /// Who is connected.
    pub fn hosts(&self) -> Result<Vec<Host>> {
        let Look { hosts, .. } = self.look()?;
        let view = |host: ferroce_engine::control::HostView| {
            let usage = host.who.usage();
            Host {
                nqn: host.who.hostnqn.clone(),
                address: host.who.peer.to_string(),
                subsystem: host.who.subnqn.clone(),
                cntlid: host.who.cntlid,
                queues: host.io_queues as u32 + 1,
                reads: usage.reads,
                writes: usage.writes,
                bytes_read: usage.blocks_512_read * 512,
                bytes_written: usage.blocks_512_written * 512,
            }
        };
        Ok(hosts
            .into_iter()
            .filter(|host| !host.ending)
            .map(view)
            .collect())
    }
}

fn health_view(health: &Health) -> Option<HealthView> {
    health.smart().as_ref().map(HealthView::from)
}

/// What the drive is called: one of memory by its size, which may be another one by now.
fn device_view(info: &DriveInfo) -> String {
    match info.label.starts_with("ram:") {
        true => format!("ram:{}", Size(info.blocks * u64::from(info.block_len))),
        false => info.label.clone(),
    }
}

fn subsystem_view(subsystem: &table::Subsystem) -> SubsystemView {
    let namespace = |(nsid, namespace): (&u32, &table::Namespace)| NamespaceView {
        nsid: *nsid,
        device: device_view(&namespace.info),
        bytes: namespace.info.blocks * u64::from(namespace.info.block_len),
        block: namespace.info.block_len,
        read_only: namespace.read_only,
        uuid: Uuid::from_bytes(namespace.info.uuid).to_string(),
        health: namespace.info.health.as_deref().and_then(health_view),
    };
    SubsystemView {
        nqn: subsystem.nqn.clone(),
        serial: subsystem.serial.clone(),
        model: subsystem.model.clone(),
        allow: subsystem
            .allow
            .as_ref()
            .map(|hosts| hosts.iter().cloned().collect()),
        namespaces: subsystem.namespaces.iter().map(namespace).collect(),
    }
}
