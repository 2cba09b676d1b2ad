//! `ferroce demo`: a node and a probe on this machine, talking over loopback, and what came of it.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use crate::cli::{DemoArgs, Pattern, ProbeArgs};
use crate::config::{Config, Namespace, Subsystem};
use crate::ctl::print;
use crate::fail::{Fail, Result, fail};
use crate::node::Node;
use crate::probe::measure;
use crate::probe::report::Sliced;
use crate::signals::Signals;
use crate::units::{Size, about, gib_per_s, thousands, us};
use crate::url::{self, Scheme, Url};

const NQN: &str = "nqn.2014-08.org.nvmexpress:ferroce-demo";

/// A load, and what a person calls it.
struct Load {
    name: &'static str,
    block: u64,
    depth: u16,
    write: u8,
    pattern: Pattern,
}

const LOADS: [Load; 5] = [
    load("one 4 KiB read at a time", 4096, 1, 0, Pattern::Random),
    load("4 KiB reads, 32 at a time", 4096, 32, 0, Pattern::Random),
    load("4 KiB writes, 32 at a time", 4096, 32, 100, Pattern::Random),
    load(
        "128 KiB reads, 8 at a time",
        131_072,
        8,
        0,
        Pattern::Sequential,
    ),
    load(
        "128 KiB writes, 8 at a time",
        131_072,
        8,
        100,
        Pattern::Sequential,
    ),
];

const fn load(name: &'static str, block: u64, depth: u16, write: u8, pattern: Pattern) -> Load {
    Load {
        name,
        block,
        depth,
        write,
        pattern,
    }
}

/// Runs the command.
pub fn run(args: DemoArgs) -> Result<()> {
    let signals = Signals::take()?;
    if args.time.is_zero() {
        fail!("--time 0: there would be nothing to measure");
    }
    let node = start(config(&args)?)?;
    let shown = show(&node, &args, &signals);
    // The node's end is as good as its beginning; an error of the measurement comes first.
    shown.and(node.stop())
}

/// Where RoCE in software does not work, as in a container without /sys, TCP is shown alone.
fn start(mut config: Config) -> Result<Node> {
    Node::start(&config, None).or_else(|Fail(why)| {
        config.listen.retain(|url| url.scheme == Scheme::Tcp);
        let node = Node::start(&config, None)?;
        print(&format!("Without RDMA here: {why}\n\n"))?;
        Ok(node)
    })
}

fn show(node: &Node, args: &DemoArgs, signals: &Signals) -> Result<()> {
    let urls = node.handle().listeners()?;
    let places: Vec<String> = urls.iter().map(Url::to_string).collect();
    print(&format!(
        "A storage node serves {} of memory at {}, and a host on the same machine uses it.\n\n",
        about(args.size.0),
        places.join(" and ")
    ))?;

    let interrupted = || signals.came();
    let mut verified = 0;
    for url in &urls {
        let verify = probe(url, args.time, &LOADS[1], true);
        let outcome = measure(&verify, false, &interrupted)?;
        outcome.judge()?;
        verified += outcome.whole().totals.blocks_verified;
    }
    print(&format!(
        "First, does it keep what it is given? {} blocks of random places were read while others\n\
         were written, and each was the last one acknowledged.\n\n",
        thousands(verified)
    ))?;

    print(&format!(
        "{:<30}{:>12}{:>9}{:>12}{:>12}{:>12}\n",
        "How fast is it?", "per second", "GiB/s", "median us", "p99 us", "p99.9 us"
    ))?;
    for url in &urls {
        print(match url.scheme {
            Scheme::Tcp => "NVMe/TCP\n",
            Scheme::Rdma | Scheme::Verbs | Scheme::Roce => "NVMe/RDMA, in software at both ends\n",
        })?;
        for load in &LOADS {
            let probe = probe(url, args.time, load, false);
            let outcome = measure(&probe, false, &interrupted)?;
            outcome.judge()?;
            print(&row(load, &outcome.whole()))?;
        }
    }
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    print(&format!(
        "\n\"p99 us\" is the time within which 99 of 100 commands were answered, in microseconds. Host and node share\n\
         this machine's {cpus} CPUs and the kernel's network here; each on its own machine does better.\n\n\
         Next, a node that stays, and a look at it from another terminal:\n\
         \x20 ferroce serve --device ram:1GiB\n\
         \x20 ferroce probe tcp://127.0.0.1:4420 --time 2s\n\
         With --listen roce://ADDRESS:4420 it serves RDMA hosts, too.\n\
         `ferroce serve` also prints the lines by which a Linux host makes a disk of it.\n"
    ))
}

fn row(load: &Load, slice: &Sliced) -> String {
    let flow = if load.write > 0 {
        &slice.totals.writes
    } else {
        &slice.totals.reads
    };
    let at = |share| us(flow.quantile(share));
    format!(
        "  {:<28}{:>12}{:>9.2}{:>12}{:>12}{:>12}\n",
        load.name,
        thousands(slice.iops(flow) as u64),
        gib_per_s(flow.bytes, slice.time.as_secs_f64()),
        at(0.5),
        at(0.99),
        at(0.999)
    )
}

/// Two loopback addresses that most likely nobody else uses now: both ends of RoCE need their port.
fn loopbacks() -> [IpAddr; 2] {
    let pid = std::process::id();
    [1, 2].map(|last| Ipv4Addr::new(127, 128 | (pid >> 8) as u8, pid as u8, last).into())
}

/// A small node: memory for one host, on a port that is free.
fn config(args: &DemoArgs) -> Result<Config> {
    let device = format!("ram:{}", args.size).parse().map_err(Fail)?;
    let mut config = Config::default();
    config.listen[0].port = 0;
    let [at, _] = loopbacks();
    config
        .listen
        .push(Url::from((Scheme::Roce, (at, url::PORT).into())));
    config.limits.rdma_entries = 1024;
    config.memory.buffers = Size(16 << 20);
    config.limits.commands = 1024;
    config.limits.queues = 64;
    config.subsystem.push(Subsystem {
        nqn: Some(NQN.into()),
        serial: None,
        model: None,
        cntlid: None,
        allow: None,
        namespace: vec![Namespace::of(device)],
    });
    config.checked()
}

fn probe(url: &Url, time: Duration, load: &Load, verify: bool) -> ProbeArgs {
    let [_, bind] = loopbacks();
    let bind = (url.scheme != Scheme::Tcp).then_some(bind);
    let url = Url {
        nqn: Some(NQN.into()),
        ..url.clone()
    };
    ProbeArgs {
        time: Some(time),
        block_size: Size(load.block),
        depth: load.depth,
        write: (!verify).then_some(load.write),
        pattern: load.pattern,
        verify,
        destroy_data: true,
        force: true,
        bind,
        ..ProbeArgs::of(&url)
    }
}
