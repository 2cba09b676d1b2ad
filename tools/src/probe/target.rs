//! Finding the namespace a probe is to look at, and connecting queues to it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use ferroce_engine::host as nvme;
use ferroce_transport::host::{
    Backoff, Controller, Data, HostError, HostIdentity, Namespace, Options, Queue, Via, discover,
};
use ferroce_wire::fabrics::Nqn;

use super::check::writes;
use super::{PLACES_MAX, crowd, guard, rdma};
use crate::cli::{ProbeArgs, Workload};
use crate::fail::{Context, Fail, Result, fail};
use crate::identity;
use crate::roce;
use crate::units::{Dscp, Size, about};
use crate::url::{Scheme, Url};

/// How a lost target is looked for: soon and often, for the gap is what is measured.
const RECONNECT: Backoff = Backoff {
    first: Duration::from_millis(10),
    max: Duration::from_millis(250),
    give_up_after: None,
};

/// Bytes of a read when a namespace is looked at.
const LOOK_STEP: u64 = 128 * 1024;

/// A namespace of a controller we are connected to.
#[derive(Debug)]
pub struct Target {
    /// The subsystem.
    pub nqn: Nqn,
    /// The namespace.
    pub namespace: Namespace,
    controller: Controller,
}

impl Target {
    /// Finds and connects it.
    pub fn connect(url: &Url, args: &ProbeArgs) -> Result<Target> {
        let addresses = url.resolve()?;
        let mut last = Fail(String::new());
        for address in addresses {
            let target = options(args, url.scheme, address)
                .and_then(|options| Target::connect_at(address, url, args, &options));
            match target {
                Ok(target) => return Ok(target),
                Err(why) => last = why,
            }
        }
        Err(last)
    }

    fn connect_at(
        address: SocketAddr,
        url: &Url,
        args: &ProbeArgs,
        options: &Options,
    ) -> Result<Target> {
        let (nqn, address) = match &url.nqn {
            Some(nqn) => (Nqn::new(nqn).context(|| nqn.clone())?, address),
            None => only_subsystem(address, url.scheme, options)?,
        };
        let controller =
            Controller::connect(address, &nqn, options).map_err(|why| over(&options.via, why))?;
        let namespace = choose(&controller, args.nsid)?;
        Ok(Target {
            nqn,
            namespace,
            controller,
        })
    }

    /// What is measured.
    pub fn ground(&self) -> Ground {
        let Namespace {
            nsid,
            blocks,
            block_len,
            read_only,
            ..
        } = self.namespace;
        // The number of blocks of a command has 16 bits.
        let transfer_max = self.controller.transfer_max().unwrap_or(u64::MAX);
        Ground {
            nsid,
            blocks,
            block_len,
            read_only,
            transfer_max: transfer_max.min(65_536 * u64::from(block_len)),
        }
    }

    /// It in words.
    pub fn about(&self) -> String {
        let Namespace {
            nsid,
            blocks,
            block_len,
            ..
        } = self.namespace;
        let over = rdma::described(&self.controller.options().via);
        format!(
            "{}\nnamespace {nsid}, {}, blocks of {block_len}{}",
            self.nqn,
            about(blocks * u64::from(block_len)),
            over.map_or(String::new(), |over| format!("\nover {over}"))
        )
    }

    /// It is reached over our own RoCEv2.
    pub fn by_roce(&self) -> bool {
        matches!(self.controller.options().via, Via::Roce(_))
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.controller.address()
    }

    /// Connects the queues.
    pub fn queues(&self, args: &ProbeArgs) -> Result<Vec<Queue>> {
        let queues = self
            .controller
            .queues(args.queues, args.depth)
            .map_err(plain)?;
        if queues.len() < usize::from(args.queues) {
            log::warn!(
                "the target grants {} I/O queues, not {}",
                queues.len(),
                args.queues
            );
        }
        let Some(first) = queues.first() else {
            fail!("the target grants no I/O queue")
        };
        if first.depth() < usize::from(args.depth) {
            log::warn!(
                "the target takes {} commands at a time on a queue, not {}",
                first.depth(),
                args.depth
            );
        }
        Ok(queues)
    }

    /// Tries until `give_up_after` to connect again, after the connections were lost and dropped; as many queues as
    /// before. `stop` ends the attempt.
    pub fn reconnect(&mut self, give_up_after: Duration, stop: &AtomicBool) -> Result<Vec<Queue>> {
        let backoff = Backoff {
            give_up_after: Some(give_up_after),
            ..RECONNECT
        };
        self.controller.reconnect(&backoff, stop).map_err(plain)
    }

    /// One read, waited for.
    pub fn read(&self, queue: &mut Queue, lba: u64, blocks: u32) -> Result<Vec<u8>> {
        let data = Data::zeroed(blocks as usize * self.namespace.block_len as usize);
        let read = nvme::read(self.namespace.nsid, lba, blocks);
        let done = queue.exec(read, data, "Read").map_err(plain)?;
        if !done.is_success() {
            fail!(
                "cannot look at what is on the namespace: reading block {lba}: {}",
                done.status()
            );
        }
        Ok(done.data.into_vec())
    }

    /// Ends the association by the book. What was measured is there either way.
    pub fn goodbye(self) {
        if let Err(why) = self.controller.shutdown() {
            log::debug!("shutting the controller down: {why}");
        }
    }
}

/// What commands go to, whatever carries them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ground {
    /// Namespace.
    pub nsid: u32,
    /// Size in blocks.
    pub blocks: u64,
    /// Bytes of a block.
    pub block_len: u32,
    /// Writes are refused.
    pub read_only: bool,
    /// The most bytes one command may move.
    pub transfer_max: u64,
}

impl Ground {
    /// Refuses what the arguments ask for and the namespace does not have.
    pub fn check(&self, args: &ProbeArgs) -> Result<()> {
        let block = u64::from(self.block_len);
        let Size(size) = args.block_size;
        if size == 0 || !size.is_multiple_of(block) {
            fail!(
                "--block-size {}: the namespace has blocks of {block} bytes; choose a multiple",
                args.block_size
            );
        }
        let most = self.transfer_max;
        if size > most {
            fail!(
                "--block-size {}: the target takes at most {} in one command",
                args.block_size,
                Size(most)
            );
        }
        if writes(args) > 0 && self.read_only {
            fail!(
                "namespace {} is read-only: leave the writing flags out",
                self.nsid
            );
        }
        Ok(())
    }

    fn capacity(&self) -> u64 {
        self.blocks * u64::from(self.block_len)
    }

    /// Bytes of the namespace that are to be used: whole blocks.
    pub fn used(&self, args: &ProbeArgs) -> u64 {
        let capacity = self.capacity();
        let used = args.size.map_or(capacity, |size| size.0.min(capacity));
        used - used % u64::from(self.block_len)
    }

    /// How many commands side by side fill what is to be used of the namespace.
    pub fn places(&self, args: &ProbeArgs) -> Result<u64> {
        let (capacity, used) = (self.capacity(), self.used(args));
        if let Some(size) = args.size.filter(|size| size.0 > capacity) {
            log::warn!(
                "--size {size} is more than the namespace has: all of it is used, {}",
                about(capacity)
            );
        }
        let mut places = match args.workload {
            Some(Workload::ModelLoad) => used.div_ceil(args.block_size.0),
            _ => used / args.block_size.0,
        };
        if places < u64::from(args.queues) {
            fail!(
                "{} is too small for {} queues with commands of {}: use fewer or smaller ones",
                about(used),
                args.queues,
                args.block_size
            );
        }
        if args.verify && places > PLACES_MAX {
            places = PLACES_MAX;
            log::warn!(
                "only the first {} are verified; a larger --block-size covers more",
                about(places * args.block_size.0)
            );
        }
        Ok(places)
    }

    /// Looks whether somebody's data is there, before any of it is overwritten. `read` gives so many blocks from one on.
    pub fn refuse_if_in_use(
        &self,
        force: bool,
        mut read: impl FnMut(u64, u32) -> Result<Vec<u8>>,
    ) -> Result<()> {
        let block_len = u64::from(self.block_len);
        let look = (guard::LOOK as u64 / block_len).min(self.blocks);
        let step = self.transfer_max.min(LOOK_STEP) / block_len;
        let mut end = |from: u64| -> Result<Vec<u8>> {
            let (mut bytes, mut at) = (Vec::new(), from);
            while at < from + look {
                let count = step.min(from + look - at);
                bytes.extend(read(at, count as u32)?);
                at += count;
            }
            Ok(bytes)
        };
        let (head, tail) = (end(0)?, end(self.blocks - look)?);
        match guard::recognise(&head, &tail) {
            Some(what) if !force => fail!(
                "namespace {} has a {what}: nothing was written. Add --force if its data is not needed",
                self.nsid
            ),
            _ => Ok(()),
        }
    }
}

/// How this host connects to a target at an address.
pub fn options(args: &ProbeArgs, scheme: Scheme, address: SocketAddr) -> Result<Options> {
    let mut identity = if Path::new("/etc/nvme/hostnqn").exists() {
        HostIdentity::of_machine()
    } else {
        HostIdentity::from_uuid(identity::default_host().into_bytes())
    };
    if let Some(nqn) = &args.hostnqn {
        identity.nqn = Nqn::new(nqn).context(|| format!("--hostnqn {nqn}"))?;
        identity.id = identity::of_nqn(nqn).into_bytes();
    }
    let via = match scheme {
        Scheme::Tcp if args.bind.is_some() => {
            fail!("--bind: the address to come from is chosen for RDMA only")
        }
        Scheme::Tcp if args.dscp.is_some() => {
            fail!("--dscp: packets are marked for RDMA only")
        }
        Scheme::Tcp => Via::Tcp,
        _ if args.header_digest || args.data_digest => {
            fail!("--header-digest and --data-digest are of TCP: RDMA has checksums of its own")
        }
        Scheme::Roce | Scheme::Rdma | Scheme::Verbs => {
            // Those of a connection that was lost, and of the one in its place.
            let neighbours = args.neighbour.as_ref().map_or(0, |beside| beside.queues);
            let crowd = args.crowd.map_or(0, crowd::queues);
            let queues = 2 * (usize::from(args.queues) + usize::from(neighbours) + 2) + crowd;
            let class = args.dscp.map(Dscp::traffic_class);
            let via = rdma::via(scheme, address, args.bind, queues, class)?;
            if crowd > 0 && queues > roce::QUEUES_MAX && matches!(via, Via::Roce(_)) {
                fail!(
                    "--crowd over RoCE in software: at most {} queues at a time, those of hosts' admin queues and a few to \
                     spare among them, and this takes {queues}; connect fewer, or by TCP",
                    roce::QUEUES_MAX
                );
            }
            via
        }
    };
    Ok(Options {
        via,
        identity,
        header_digest: args.header_digest,
        data_digest: args.data_digest,
        ..Options::default()
    })
}

/// The subsystem a discovery controller names, if it names one only.
fn only_subsystem(
    address: SocketAddr,
    scheme: Scheme,
    options: &Options,
) -> Result<(Nqn, SocketAddr)> {
    let log = discover(address, options).map_err(|why| over(&options.via, why))?;
    let mut places: BTreeMap<Nqn, Vec<SocketAddr>> = BTreeMap::new();
    for found in log.subsystems() {
        places.entry(found.nqn).or_default().push(found.address);
    }
    match places.len() {
        0 => fail!(
            "{address} serves no subsystem that this host may see ({0}); `ferroce ctl allow {0}` on the node lets it in",
            options.identity.nqn
        ),
        1 => {
            let (nqn, at) = places.pop_first().expect("there is one");
            // Where we came in is as good as any; elsewhere only if it is not among them.
            let address = if at.contains(&address) {
                address
            } else {
                at[0]
            };
            Ok((nqn, address))
        }
        _ => {
            let names: Vec<String> = places
                .keys()
                .map(|nqn| format!("\n  {scheme}://{address}/{nqn}"))
                .collect();
            fail!(
                "{address} serves several subsystems; choose one:{}",
                names.concat()
            )
        }
    }
}

/// The namespace that was named, or the only one.
fn choose(controller: &Controller, nsid: Option<u32>) -> Result<Namespace> {
    let nsids = controller.nsids().map_err(plain)?;
    let known = || {
        nsids
            .iter()
            .map(u32::to_string)
            .collect::<Vec<_>>()
            .join(", ")
    };
    let nsid = match (nsid, &nsids[..]) {
        (_, []) => fail!("the subsystem has no namespace"),
        (Some(nsid), _) if nsids.contains(&nsid) => nsid,
        (Some(nsid), _) => fail!("there is no namespace {nsid}; there is {}", known()),
        (None, [nsid]) => *nsid,
        (None, _) => fail!(
            "there are several namespaces; choose with --nsid: {}",
            known()
        ),
    };
    match controller.namespace(nsid).map_err(plain)? {
        Some(namespace) if namespace.identify.lba_format().ms.get() > 0 => fail!(
            "namespace {nsid} has blocks of {} bytes and {} of metadata, which this host does not send: choose one without",
            namespace.block_len,
            namespace.identify.lba_format().ms
        ),
        Some(namespace) => Ok(namespace),
        None => fail!("namespace {nsid} went away"),
    }
}

/// With what was tried, where that does not go without saying.
fn over(via: &Via, why: HostError) -> Fail {
    match rdma::described(via) {
        Some(over) => Fail(format!("{why} (tried over {over})")),
        None => plain(why),
    }
}

pub fn plain(why: HostError) -> Fail {
    Fail(why.to_string())
}
