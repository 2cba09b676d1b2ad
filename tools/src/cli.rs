//! The command line: what can be said, and what contradicts itself.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use ferroce_drivers::pci::Address;

use crate::config::{CntlidRange, Cores, Device, Spin};
use crate::probe::drive::Place;
use crate::probe::schedule::Rates;
use crate::probe::slo::Slo;
use crate::units::{Dscp, Size, parse_time, size_with_unit};
use crate::url::Url;

/// Ferroce: an NVMe over Fabrics storage node.
///
/// Serves memory, files, block devices and NVMe drives to hosts that need nothing installed: `nvme connect` is enough.
#[derive(Parser, Debug)]
#[command(
    name = "ferroce",
    version,
    max_term_width = 110,
    propagate_version = true
)]
#[command(
    after_help = "Start with `ferroce demo`; then `ferroce serve --device ram:64MiB` and `ferroce probe tcp://127.0.0.1:4420`.\n\
    RUST_LOG=debug says more."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Serve drives to hosts
    Serve(ServeArgs),
    /// Look at a node that runs, and change it
    Ctl(CtlArgs),
    /// Measure a node, or verify it, from the host's side
    Probe(Box<ProbeArgs>),
    /// Answer the probe's baseline on this machine: the same bytes over plain TCP, or UDP for RoCE, without a protocol
    RawServer(RawServerArgs),
    /// Show it all at work: a node and a probe on this machine
    Demo(DemoArgs),
    /// List NVMe drives and RDMA devices; take drives from the kernel or give them back
    Devices(DevicesArgs),
    /// Write the manual pages into a folder
    #[command(hide = true)]
    Man {
        /// The folder
        folder: PathBuf,
    },
    /// Print the completions of a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// `ferroce serve`.
#[derive(Args, Debug, Default)]
#[command(after_help = "Without --device, /etc/ferroce/ferroce.toml is read.\n\
    Example: ferroce serve --device ram:64MiB --device file:/srv/disk.img,size=10GiB --listen tcp://127.0.0.1:4420")]
pub struct ServeArgs {
    /// Read everything from this file; no flag that says anything of the node goes with it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print a configuration file with every key explained, and stop
    #[arg(long)]
    pub print_config: bool,
    /// Say whether the configuration can be used, and stop
    #[arg(long)]
    pub check: bool,
    /// Start with what there is, and go on looking for drives and addresses that are missing; goes with --config, too
    #[arg(long)]
    pub patient: bool,
    /// A drive to serve: ram:SIZE, file:PATH, file:PATH,size=SIZE or nvme:ADDRESS; may be repeated
    #[arg(long, value_name = "SPEC")]
    pub device: Vec<Device>,
    /// Where hosts connect; may be repeated [default: tcp://127.0.0.1:4420]
    #[arg(long, value_name = "URL")]
    pub listen: Vec<Url>,
    /// The subsystem's name [default: a UUID that follows from the machine-id]
    #[arg(long)]
    pub nqn: Option<String>,
    /// A host that may connect, by its NQN; may be repeated [default: every host]
    #[arg(long, value_name = "NQN")]
    pub allow: Vec<String>,
    /// Serial number of the subsystem, 20 characters at most [default: follows from the NQN]
    #[arg(long)]
    pub serial: Option<String>,
    /// Model number of the subsystem, 40 characters at most [default: Ferroce]
    #[arg(long)]
    pub model: Option<String>,
    /// Controller IDs to hand out; two nodes that serve one NQN need ranges that do not meet [default: 1-65519]
    #[arg(long, value_name = "FIRST-LAST")]
    pub cntlid: Option<CntlidRange>,
    /// CPUs to run on, one thread each, as 1,2 or 0-3 [default: half of them, 4 at most, not pinned]
    #[arg(long, value_name = "LIST")]
    pub cores: Option<Cores>,
    /// How long an idle core polls before it sleeps, or `always` [default: 50us]
    #[arg(long, value_name = "TIME")]
    pub spin: Option<Spin>,
    /// DSCP of the packets to hosts over RDMA, 0 to 63 [default: what a host asks for; by roce:// the system's]
    #[arg(long, value_name = "NUMBER")]
    pub dscp: Option<Dscp>,
    /// Memory for data on its way, per core [default: 64MiB]
    #[arg(long, value_name = "SIZE")]
    pub buffers: Option<Size>,
    /// The control socket [default: /run/ferroce/ctl.sock, or under $XDG_RUNTIME_DIR]
    #[arg(long, value_name = "PATH")]
    pub ctl: Option<PathBuf>,
    /// Where to serve metrics for Prometheus (/metrics), status as JSON (/status) and the log (/log) [default: nowhere]
    #[arg(long, value_name = "ADDR:PORT", value_parser = address)]
    pub metrics: Option<SocketAddr>,
}

/// `ferroce ctl`.
#[derive(Args, Debug)]
pub struct CtlArgs {
    /// What to ask for
    #[command(subcommand)]
    pub command: CtlCommand,
    /// The node's control socket [default: /run/ferroce/ctl.sock, or under $XDG_RUNTIME_DIR]
    #[arg(long, value_name = "PATH", global = true)]
    pub ctl: Option<PathBuf>,
    /// The subsystem, where the node has several
    #[arg(long, value_name = "NQN", global = true)]
    pub subsystem: Option<String>,
    /// Write the change to the node's configuration file as well
    #[arg(long, global = true)]
    pub persist: bool,
    /// Answer in JSON
    #[arg(long, global = true)]
    pub json: bool,
}

/// What to ask a node for.
#[derive(Subcommand, Debug)]
pub enum CtlCommand {
    /// What it serves
    Show,
    /// Open a drive and show it to hosts as a namespace
    Add {
        /// ram:SIZE, file:PATH, file:PATH,size=SIZE or nvme:ADDRESS
        #[arg(value_name = "SPEC")]
        device: Device,
        /// Its number [default: the lowest that is free]
        #[arg(long)]
        nsid: Option<u32>,
        /// Hosts may read only
        #[arg(long)]
        read_only: bool,
    },
    /// Take a namespace away from hosts and close its drive
    Remove {
        /// Its number
        nsid: u32,
    },
    /// Change a namespace's size
    Resize {
        /// Its number
        nsid: u32,
        /// The new size, such as 128MiB
        #[arg(value_parser = size_with_unit)]
        size: Size,
    },
    /// Let a host connect
    Allow {
        /// Its NQN
        #[arg(value_name = "NQN")]
        host: String,
    },
    /// Do not let a host connect any more, and disconnect it
    Forbid {
        /// Its NQN
        #[arg(value_name = "NQN")]
        host: String,
    },
    /// Who is connected
    Hosts,
    /// The slowest I/Os so far, and where their time went
    Slow {
        /// Forget them, so that the next answer has later ones
        #[arg(long)]
        reset: bool,
    },
    /// Disconnect a host; it may come back unless it is forbidden
    Disconnect {
        /// Its NQN
        #[arg(value_name = "HOSTNQN")]
        host: String,
    },
    /// Accept hosts at one more address
    Listen {
        /// tcp://ADDRESS:PORT
        url: Url,
    },
    /// Accept no more hosts at an address; who is connected stays
    Unlisten {
        /// tcp://ADDRESS:PORT
        url: Url,
    },
}

/// `ferroce probe`.
#[derive(Args, Debug, Clone)]
#[command(after_help = "Reads only, unless --destroy-data is given.\n\
    Examples:\n  \
    ferroce probe tcp://127.0.0.1:4420 --time 2s --depth 32 --block-size 4KiB\n  \
    ferroce probe tcp://127.0.0.1:4420 --rate 10k --slo 'p99<500us,errors=0'\n  \
    ferroce probe tcp://127.0.0.1:4420 --cores 1 --baseline --baseline-core 0")]
pub struct ProbeArgs {
    /// tcp://ADDRESS:PORT or rdma://ADDRESS:PORT, with /NQN behind it where a node has several subsystems; or a drive of
    /// this machine without a fabric, nvme:0000:bb:dd.f[/NAMESPACE] (bound to vfio-pci) or file:PATH. rdma:// takes the RDMA
    /// device that has the address we come from, else RoCEv2 in software; verbs:// and roce:// insist on one of them
    #[arg(required_unless_present = "ceiling")]
    pub url: Option<Place>,
    /// The address of this machine to come from, for RDMA alone. With roce:// both ends need UDP port 4791 of theirs
    /// [default: that of the route; with roce:// another loopback address if the target is on the same]
    #[arg(long, value_name = "ADDRESS")]
    pub bind: Option<IpAddr>,
    /// DSCP of our packets, 0 to 63, for RDMA alone [default: the system's]
    #[arg(long, value_name = "NUMBER")]
    pub dscp: Option<Dscp>,
    /// How long to measure: each target, and each rate [default: 2s]
    #[arg(long, short, value_name = "TIME", value_parser = parse_time)]
    pub time: Option<Duration>,
    /// Bytes of each command
    #[arg(long, short, value_name = "SIZE", default_value = "4KiB")]
    pub block_size: Size,
    /// Commands under way on each queue; with --rate, at most
    #[arg(long, short, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1023))]
    pub depth: u16,
    /// I/O queues, one connection each, on as many threads as there are CPUs for them
    #[arg(long, short, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=128))]
    pub queues: u16,
    /// What an application does, in place of --block-size, --depth and --pattern; README.md says where the sizes come from
    #[arg(long, value_enum, conflicts_with_all = ["block_size", "depth", "pattern"])]
    pub workload: Option<Workload>,
    /// Percentage of commands that write; needs --destroy-data
    #[arg(long, short, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    pub write: Option<u8>,
    /// Where the commands go
    #[arg(long, short, value_enum, default_value_t = Pattern::Random)]
    pub pattern: Pattern,

    /// Send so many commands per second, whatever the target does; latency counts from when each was meant to start.
    /// Several rates (10,10000) follow each other without a pause. Its threads poll all the time
    #[arg(long, value_name = "RATES", help_heading = "Open loop")]
    pub rate: Option<Rates>,
    /// How the commands of --rate or --sweep are spread over time [default: poisson]
    #[arg(long, value_enum, help_heading = "Open loop")]
    pub arrival: Option<Arrival>,

    /// Measure the same bytes over plain TCP, or for roce:// the same datagrams over UDP, in the same run, in turns: a raw
    /// server is started beside the target, if that is on this machine, or `ferroce raw-server` runs at this URL
    #[arg(long, value_name = "URL", num_args = 0..=1, require_equals = true, help_heading = "Compare")]
    pub baseline: Option<Option<Url>>,
    /// The CPU that the raw server of --baseline is to run on: the one the node has
    #[arg(
        long,
        value_name = "CPU",
        requires = "baseline",
        help_heading = "Compare"
    )]
    pub baseline_core: Option<usize>,
    /// Measure another target in turns with this one; against a drive of this machine, such as nvme:0000:bb:dd.f, tell the
    /// latency that the fabric and the node add
    #[arg(
        long,
        value_name = "URL or DRIVE",
        conflicts_with = "baseline",
        help_heading = "Compare"
    )]
    pub against: Option<Place>,
    /// Percentage of commands that write at the target of --against, which may be this one: two loads in turns; needs
    /// --destroy-data [default: as --write says]
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100), help_heading = "Compare")]
    pub against_write: Option<u8>,
    /// Slices to cut --time into, of each target in turns [default: of 100ms, 40 at most]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000), help_heading = "Compare")]
    pub rounds: Option<u16>,
    /// Another host's reads beside the measured load, on the same threads: 8x16x1MiB is eight queues of 16 reads of 1 MiB
    #[arg(long, value_name = "QUEUESxDEPTHxSIZE", help_heading = "Compare", conflicts_with_all = ["baseline", "against"])]
    pub neighbour: Option<Neighbour>,
    /// The target's process on this machine: tell the CPU time it uses for each command
    #[arg(long, value_name = "PID", help_heading = "Compare")]
    pub target_pid: Option<u32>,

    /// Connect so many queues, 64 a host, and send nothing for --time: tells what they cost a --target-pid
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=20000), help_heading = "Crowd",
        conflicts_with_all = ["rate", "baseline", "against", "neighbour", "workload", "slo", "verify", "write", "queues", "ceiling",
            "block_size", "pattern", "size", "reconnect", "doze", "seed"])]
    pub crowd: Option<u16>,
    /// Then lose all connections at once, so many times: tells how long until every queue serves again
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        requires = "crowd",
        help_heading = "Crowd"
    )]
    pub storms: u16,

    /// Sleep where it would poll: others have its CPUs, and its own waking up is measured
    #[arg(long)]
    pub doze: bool,

    /// What has to hold, as p99<500us,p99.9<2ms,errors=0; the status is 3 if it does not
    #[arg(long, value_name = "CONDITIONS", help_heading = "Judge")]
    pub slo: Option<Slo>,
    /// Find the highest rate that keeps the --slo, each tried for --time
    #[arg(long, help_heading = "Judge", requires = "slo", conflicts_with_all = ["rate", "baseline", "against", "neighbour", "crowd", "verify"])]
    pub sweep: bool,

    /// Write seeded patterns and prove that every block read is the last one acknowledged; needs --destroy-data
    #[arg(long)]
    pub verify: bool,
    /// Allow writing: the namespace's data is lost
    #[arg(long)]
    pub destroy_data: bool,
    /// Overwrite even a namespace with a partition table or a file system
    #[arg(long, requires = "destroy_data")]
    pub force: bool,
    /// Connect again when the connections are lost, and go on
    #[arg(long)]
    pub reconnect: bool,
    /// The namespace [default: the only one]
    #[arg(long)]
    pub nsid: Option<u32>,
    /// Use the first bytes of the namespace only
    #[arg(long, value_name = "SIZE")]
    pub size: Option<Size>,
    /// CPUs for the threads, as 1,2 or 0-3 [default: not pinned]
    #[arg(long, value_name = "LIST")]
    pub cores: Option<Cores>,
    /// Seed of addresses, arrivals and data, to repeat a run [default: random]
    #[arg(long)]
    pub seed: Option<u64>,
    /// The NQN to connect as [default: a UUID that follows from the machine-id]
    #[arg(long, value_name = "NQN")]
    pub hostnqn: Option<String>,
    /// Protect PDU headers by a digest (CRC32C)
    #[arg(long)]
    pub header_digest: bool,
    /// Protect data by a digest (CRC32C)
    #[arg(long)]
    pub data_digest: bool,
    /// Measure first what the probe itself can do here: reads of memory in this process, on one thread
    #[arg(long)]
    pub ceiling: bool,
    /// Print the result as JSON (tools/probe-json.md describes it)
    #[arg(long)]
    pub json: bool,
}

impl ProbeArgs {
    /// What the command line means that has nothing but a URL.
    pub fn of(url: &Url) -> ProbeArgs {
        match Cli::parse_from(["ferroce", "probe", &url.to_string()]).command {
            Command::Probe(args) => *args,
            _ => unreachable!("it says probe"),
        }
    }
}

/// How commands of an open loop are spread over time.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arrival {
    /// As of many independent users
    Poisson,
    /// At even distances
    Fixed,
}

/// `ferroce raw-server`.
#[derive(Args, Debug)]
#[command(
    after_help = "Anyone who reaches the address may use it: give it one that only the probe reaches.\n\
    Example: ferroce raw-server --listen tcp://10.0.0.5:4421 --core 2, and on the probe's machine\n  \
    ferroce probe tcp://10.0.0.5:4420 --baseline=tcp://10.0.0.5:4421"
)]
pub struct RawServerArgs {
    /// Where the probe connects
    #[arg(long, value_name = "URL", default_value = "tcp://127.0.0.1:4421")]
    pub listen: Url,
    /// Its memory: as much as the node's drive has, for caches to be of equal use
    #[arg(long, value_name = "SIZE", default_value = "512MiB")]
    pub size: Size,
    /// The CPU to run on: the one the node has [default: not pinned]
    #[arg(long, value_name = "CPU")]
    pub core: Option<usize>,
    /// How long it polls before it sleeps, or `always` [default: 50us, as a node]
    #[arg(long, value_name = "TIME")]
    pub spin: Option<Spin>,
    /// End when stdin does
    #[arg(long, hide = true)]
    pub until_eof: bool,
}

/// Where commands go.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pattern {
    /// Anywhere
    Random,
    /// One after the other
    Sequential,
    /// Eight to sixteen one after the other, then elsewhere: objects of so many commands
    Objects,
}

/// What an application does.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Workload {
    /// Rows of large tables: random reads of 4 KiB, 32 at a time
    Embedding,
    /// Caches of attention keys and values: objects of 1 to 2 MiB in reads of 128 KiB, 32 MiB under way
    KvCache,
    /// Weights: all of it once, in order, in the largest reads up to 4 MiB, 32 MiB under way; ends with the last byte
    ModelLoad,
}

/// A load beside the measured one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Neighbour {
    /// Its queues.
    pub queues: u16,
    /// Commands under way on each.
    pub depth: u16,
    /// Bytes of each command.
    pub block_size: Size,
}

impl FromStr for Neighbour {
    type Err = String;

    fn from_str(text: &str) -> Result<Neighbour, String> {
        let wrong = || format!("`{text}` is no load: write queues, depth and size as 8x16x1MiB");
        let mut parts = text.splitn(3, 'x');
        let mut next = || parts.next().ok_or_else(wrong);
        let (queues, depth, block_size) = (next()?, next()?, next()?);
        let number = |text: &str, most: u16| {
            let number = text.parse().map_err(|_| wrong())?;
            if (1..=most).contains(&number) {
                Ok(number)
            } else {
                Err(wrong())
            }
        };
        Ok(Neighbour {
            queues: number(queues, 128)?,
            depth: number(depth, 1023)?,
            block_size: block_size.parse()?,
        })
    }
}

/// `ferroce demo`.
#[derive(Args, Debug)]
pub struct DemoArgs {
    /// How long to measure each load
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_time)]
    pub time: Duration,
    /// Size of the RAM drive
    #[arg(long, value_name = "SIZE", default_value = "64MiB")]
    pub size: Size,
}

/// `ferroce devices`.
#[derive(Args, Debug)]
pub struct DevicesArgs {
    /// Without an order, they are listed
    #[command(subcommand)]
    pub order: Option<DevicesOrder>,
}

/// What is to become of a drive.
#[derive(Subcommand, Debug)]
pub enum DevicesOrder {
    /// Take a drive from the kernel, so that it can be served as nvme:ADDRESS
    Bind {
        /// As in the list: 0000:3b:00.0
        address: Address,
        /// Even if it is mounted or in use: what is not written out is lost
        #[arg(long)]
        force: bool,
    },
    /// Give a drive back to the kernel
    Unbind {
        /// As in the list: 0000:3b:00.0
        address: Address,
        /// Even if a program uses it: it is asked to let go
        #[arg(long)]
        force: bool,
    },
}

/// An address with its port.
fn address(text: &str) -> Result<SocketAddr, String> {
    let wrong =
        |_| format!("`{text}` is no address with a port: write 127.0.0.1:9520 or [::1]:9520");
    text.parse().map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_contract() {
        for line in [
            "ferroce serve --nqn nqn.2024-01.a:b --device ram:64MiB --device file:/path --listen tcp://127.0.0.1:4420",
            "ferroce serve --config FILE",
            "ferroce serve --device ram:64MiB --metrics 127.0.0.1:9520",
            "ferroce serve --device ram:64MiB --cores 1,2 --spin always --allow nqn.2024-01.a:host",
            "ferroce ctl show",
            "ferroce ctl show --json",
            "ferroce ctl add ram:64MiB --nsid 3 --persist",
            "ferroce ctl remove 3",
            "ferroce ctl resize 3 128MiB",
            "ferroce ctl allow nqn.2024-01.a:host",
            "ferroce ctl forbid nqn.2024-01.a:host",
            "ferroce ctl hosts",
            "ferroce ctl slow --reset",
            "ferroce ctl disconnect nqn.2024-01.a:host",
            "ferroce ctl listen tcp://127.0.0.1:4421",
            "ferroce ctl unlisten tcp://127.0.0.1:4421",
            "ferroce probe tcp://127.0.0.1:4420 --time 2s",
            "ferroce probe tcp://127.0.0.1:4420/nqn.2024-01.a:b --verify --destroy-data --force --json --cores 1",
            "ferroce probe tcp://127.0.0.1:4420 --rate 10,10k --arrival fixed --slo p99<500us,errors=0",
            "ferroce probe tcp://127.0.0.1:4420 --baseline --baseline-core 0 --target-pid 1 --rounds 5",
            "ferroce probe tcp://127.0.0.1:4420 --baseline=tcp://127.0.0.1:4421",
            "ferroce probe tcp://127.0.0.1:4420 --against tcp://127.0.0.1:4430 --reconnect",
            "ferroce probe tcp://127.0.0.1:4420 --against tcp://127.0.0.1:4420 --against-write 30 --destroy-data",
            "ferroce probe tcp://127.0.0.1:4420 --neighbour 8x16x1MiB --depth 1",
            "ferroce probe tcp://127.0.0.1:4420 --workload kv-cache --queues 2",
            "ferroce probe tcp://127.0.0.1:4420 --sweep --slo p99<1ms --arrival fixed",
            "ferroce probe tcp://127.0.0.1:4420 --crowd 1000 --storms 5 --target-pid 1",
            "ferroce probe tcp://127.0.0.1:4420 --rate 100 --doze",
            "ferroce probe nvme:0000:3b:00.0 --doze",
            "ferroce probe --ceiling",
            "ferroce raw-server --listen tcp://127.0.0.1:4421 --size 512MiB --core 1 --spin always",
            "ferroce demo",
            "ferroce devices",
            "ferroce devices bind 0000:3b:00.0",
            "ferroce devices unbind 3b:00.0 --force",
            "ferroce serve --device nvme:0000:3b:00.0/2",
            "ferroce completions bash",
        ] {
            Cli::try_parse_from(line.split(' ')).unwrap_or_else(|why| panic!("{line}: {why}"));
        }
        for line in [
            "ferroce",
            "ferroce serve --device",
            "ferroce serve --device ram:64MiB --metrics 9520",
            "ferroce probe",
            "ferroce probe 127.0.0.1",
            "ferroce probe tcp://127.0.0.1 --depth 0",
            "ferroce probe tcp://127.0.0.1 --write 101",
            "ferroce probe tcp://127.0.0.1 --force",
            "ferroce probe tcp://127.0.0.1 --rate 0",
            "ferroce probe tcp://127.0.0.1 --sweep",
            "ferroce probe tcp://127.0.0.1 --sweep --slo errors=0 --rate 10",
            "ferroce probe tcp://127.0.0.1 --baseline --against tcp://127.0.0.1:1",
            "ferroce probe tcp://127.0.0.1 --baseline-core 0",
            "ferroce probe tcp://127.0.0.1 --against tcp://127.0.0.1:1 --against-write 101",
            "ferroce probe tcp://127.0.0.1 --slo p99",
            "ferroce probe tcp://127.0.0.1 --neighbour 8x16",
            "ferroce probe tcp://127.0.0.1 --neighbour 0x16x1MiB",
            "ferroce probe tcp://127.0.0.1 --workload embedding --depth 3",
            "ferroce ctl resize 3 big",
            "ferroce ctl resize 3 5000",
            "ferroce devices bind 3b",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
