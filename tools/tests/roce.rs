//! Node and probe over software RoCEv2, as a person uses them: data is verified, with and without loss,
//! and what is in the way is named.

mod common;

use std::net::{SocketAddr, UdpSocket};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};

use common::{Process, run, wait_until_it_says};
use ferroce_engine::port::Tick;
use ferroce_transport::rdma::provider::{QpId, Why};
use ferroce_transport::roce::cm::{Cm, CmEvent, Ours, Outgoing, Target};
use ferroce_transport::roce::device::mad_packet;
use ferroce_transport::roce::icrc::Flow;
use ferroce_transport::roce::packet::{self, Mtu, Psn};
use ferroce_wire::Wire as _;
use ferroce_wire::rdma::RdmaCmRequest;
use ferroce_wire::roce::{PORT, RejectReason};

const NQN: &str = "nqn.2024-01.org.example:node";

fn ferroce() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ferroce"));
    command.env_remove("RUST_LOG");
    command
}

/// An address of this machine that nothing else uses.
fn address() -> String {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let pid = std::process::id();
    let last = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("127.{}.{}.{last}", 32 | (pid >> 8 & 31), pid & 255)
}

/// A node that runs until the test ends.
struct Node {
    process: Process,
    dir: tempfile::TempDir,
    url: String,
    greeting: String,
}

impl Node {
    fn serve(loss: Option<&str>) -> Node {
        Node::serve_by("roce", loss, &[])
    }

    fn serve_by(scheme: &str, loss: Option<&str>, more: &[&str]) -> Node {
        let dir = tempfile::tempdir().expect("a directory");
        let url = format!("{scheme}://{}:4420", address());
        let mut command = ferroce();
        if let Some(loss) = loss {
            command.env("FERROCE_ROCE_LOSS", loss);
        }
        command
            .args(["serve", "--device", "ram:16MiB", "--nqn", NQN])
            .args(more)
            .args(["--listen", "tcp://127.0.0.1:0", "--listen", &url, "--ctl"])
            .arg(dir.path().join("ctl.sock"))
            .stdout(Stdio::piped());
        let mut process = Process::spawn(&mut command);
        let greeting = process
            .stdout()
            .until(|said| said.ends_with("\n\n") && said.contains("disconnect"));
        Node {
            process,
            dir,
            url,
            greeting: greeting.expect("it starts"),
        }
    }

    fn ctl(&self, arguments: &[&str]) -> Output {
        let mut command = ferroce();
        command
            .args(["ctl", "--ctl"])
            .arg(self.dir.path().join("ctl.sock"));
        run(command.args(arguments))
    }

    fn probe(&self, loss: Option<&str>, arguments: &[&str]) -> Output {
        let mut command = ferroce();
        if let Some(loss) = loss {
            command.env("FERROCE_ROCE_LOSS", loss);
        }
        command.args(["probe", &self.url, "--bind", &address()]);
        run(command.args(arguments))
    }
}

fn said(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&text).into_owned()
}

/// Whether it went well, and what it said.
fn well(output: &Output) -> String {
    let said = said(output);
    assert!(output.status.success(), "{said}");
    said
}

/// For so long that a probe whose threads the system keeps waiting for half a second has something to verify as well.
const VERIFY: [&str; 4] = ["--verify", "--destroy-data", "--time", "2s"];

#[test]
fn data_is_what_was_written() {
    let node = Node::serve(None);
    assert!(node.greeting.contains(&format!("  at {}\n", node.url)));
    assert!(
        node.greeting.contains("nvme connect -t rdma"),
        "{}",
        node.greeting
    );
    let ip = node.url.trim_start_matches("roce://");
    let facts = format!(
        "  RoCE in software at {}: packets of 4096 bytes, 16 of 32 bits of their ICRCs checked, with \
         UDP_SEGMENT, with UDP_GRO\n",
        ip.trim_end_matches(":4420")
    );
    assert!(node.greeting.contains(&facts), "{}", node.greeting);
    for size in [["--block-size", "4KiB"], ["--block-size", "64KiB"]] {
        let text = well(&node.probe(None, &[&VERIFY[..], &size, &["--queues", "3"]].concat()));
        assert!(
            text.contains("each was the last one acknowledged"),
            "{text}"
        );
    }
    let shown = well(&node.ctl(&["show"]));
    assert!(
        shown.contains(&format!("listens   {}\n", node.url)),
        "{shown}"
    );
    assert!(shown.contains("rdma    received"), "{shown}");
}

#[test]
fn loss_costs_time_and_nothing_else() {
    let node = Node::serve(Some("10000:1"));
    let text = well(&node.probe(Some("10000:2"), &[&VERIFY[..], &["--depth", "8"]].concat()));
    assert!(
        text.contains("each was the last one acknowledged"),
        "{text}"
    );
    // What was counted is told every now and then.
    for what in ["resent", "dropped_injected"] {
        wait_until_it_says(what, || well(&node.ctl(&["show"])));
    }
}

/// No RDMA device has a loopback address: `rdma://` is RoCE in software there, which the greeting says.
#[test]
fn who_listens_by_rdma_is_told_what_it_became() {
    let node = Node::serve_by("rdma", None, &[]);
    let became = node.url.replace("rdma://", "at roce://");
    assert!(node.greeting.contains(&became), "{}", node.greeting);
    well(&node.probe(None, &["--time", "50ms"]));
}

/// A host that is gone acknowledges nothing, its last answers neither: a node that stops does not wait for it until it fails.
#[test]
fn a_node_stops_though_its_host_is_gone() {
    let mut node = Node::serve(None);
    let mut probe = ferroce();
    probe.args(["probe", &node.url, "--bind", &address(), "--time", "60s"]);
    let mut probe = Process::spawn(probe.stdout(Stdio::null()));
    wait_until_it_says("nqn.", || {
        let ended = probe.try_wait().expect("it is asked");
        assert!(ended.is_none(), "the probe has ended: {ended:?}");
        well(&node.ctl(&["hosts"]))
    });
    drop(probe);
    node.process.signal("TERM");
    assert!(node.process.ended().success());
}

/// A host whose messages are looked at one by one. It has no queue pairs.
struct Host {
    socket: UdpSocket,
    target: Target,
    cm: Cm,
}

impl Host {
    fn of(node: &Node) -> Host {
        let ip = address().parse().expect("an address");
        let service = node.url.trim_start_matches("roce://").parse();
        let socket = UdpSocket::bind((ip, PORT)).expect("it is this machine's");
        let timeout = Some(common::PATIENCE);
        socket.set_read_timeout(timeout).expect("it is set");
        Host {
            socket,
            target: Target {
                port: 0,
                local: ip,
                peer: service.expect("an address"),
                mtu: Mtu::MIN,
            },
            cm: Cm::new(1, 0, 1, 1),
        }
    }

    /// Asks for a connection of an admin queue with this queue pair. What came of it.
    fn ask(&mut self, qpn: u32) -> CmEvent {
        let ours = Ours {
            qp: QpId {
                slot: 0,
                generation: 0,
            },
            qpn,
            recv_psn: Psn::new(0),
            responder_resources: 16,
            initiator_depth: 0,
        };
        let private = RdmaCmRequest::new(0, 32);
        self.cm
            .connect(Tick(1), ours, self.target, private.as_bytes());
        self.heard()
    }

    /// What is heard next that says something.
    fn heard(&mut self) -> CmEvent {
        loop {
            self.say();
            if let Some(event) = self.cm.events.pop_front() {
                return event;
            }
            let (from, mad) = self.hear();
            // What it does not know, it says by itself.
            let _ = self.cm.on_mad(Tick(1), 0, from, &mad);
        }
    }

    fn hear(&self) -> (SocketAddr, Vec<u8>) {
        let mut datagram = [0; 8192];
        loop {
            let (len, from) = self.socket.recv_from(&mut datagram).expect("it comes");
            let packet = packet::parse(&datagram[..len]).expect("a packet");
            if packet.deth.is_some() {
                return (from, packet.payload.to_vec());
            }
        }
    }

    fn say(&mut self) {
        while let Some(Outgoing { to, mad, .. }) = self.cm.out.pop_front() {
            let mut datagram = mad_packet(&mad, Psn::new(0)).head.bytes().to_vec();
            datagram.extend(*mad);
            let from = self.socket.local_addr().expect("it is bound");
            let flow = Flow::new(from, to.ip());
            let icrc = flow.icrc(0, &datagram[..12], std::iter::once(&datagram[12..]));
            datagram.extend(icrc.to_le_bytes());
            self.socket.send_to(&datagram, to).expect("it goes out");
        }
    }
}

/// A DREQ may be lost, and is repeated until it is answered, or for a second.
#[test]
fn a_node_that_stops_tells_its_hosts_until_they_know() {
    for answers in [true, false] {
        let mut node = Node::serve(None);
        let mut host = Host::of(&node);
        assert!(matches!(host.ask(0x1234), CmEvent::Accepted { .. }));
        host.say();
        // The RTU.
        wait_until_it_says("rdma    received 1", || well(&node.ctl(&["show"])));
        node.process.signal("TERM");
        let (_, lost) = host.hear();
        if answers {
            let ended = host.heard();
            assert!(matches!(ended, CmEvent::Ended { why: Why::Peer, .. }));
            host.say();
        } else {
            assert_eq!(host.hear().1, lost);
        }
        assert!(node.process.ended().success());
    }
}

/// A host that crashed asks with the queue pair it had: its old connection ends, on whichever core, and then it is let in.
#[test]
fn a_host_that_came_back_gets_in() {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let cores = ["--cores", if cpus > 1 { "0,1" } else { "0" }];
    let node = Node::serve_by("roce", None, &cores);
    let mut host = Host::of(&node);
    assert!(matches!(host.ask(0x1234), CmEvent::Accepted { .. }));
    let refused = host.ask(0x1234);
    let stale = Why::Rejected {
        reason: RejectReason::STALE.0,
    };
    assert!(matches!(refused, CmEvent::Ended { why, .. } if why == stale));
    let ended = host.heard();
    assert!(matches!(ended, CmEvent::Ended { why: Why::Peer, .. }));
    assert!(matches!(host.ask(0x1234), CmEvent::Accepted { .. }));
}

/// Packets that are dropped wake the node and lead to nothing else; they are counted all the same.
#[test]
fn what_is_dropped_is_told_though_nothing_else_happens() {
    let node = Node::serve(None);
    let at = node.url.trim_start_matches("roce://");
    let at = format!("{}:4791", at.trim_end_matches(":4420"));
    let socket = std::net::UdpSocket::bind((address(), 0)).expect("it is this machine's");
    let mut count = 0;
    for more in [1, 8, 30] {
        count += more;
        for _ in 0..more {
            // No version of the transport header.
            socket.send_to(&[0xff; 64], &at).expect("it goes out");
        }
        let told = format!("dropped_version {count}");
        wait_until_it_says(&told, || said(&node.ctl(&["show"])));
    }
}

#[test]
fn what_cannot_be_is_said() {
    let node = Node::serve(None);
    let refused = |output: Output, why: &str| {
        let said = said(&output);
        assert!(!output.status.success() && said.contains(why), "{said}");
    };
    refused(
        node.ctl(&["listen", "roce://127.0.0.1:4420"]),
        "at the start",
    );
    let serve = |listen: &str| {
        let mut command = ferroce();
        command.args(["serve", "--device", "ram:1MiB", "--listen", listen, "--ctl"]);
        command.arg(node.dir.path().join("other.sock"));
        run(&mut command)
    };
    refused(serve(&node.url), "UDP port 4791");
    refused(serve("roce://0.0.0.0:4420"), "very address");
    refused(serve("roce://192.0.2.1:4420"), "no interface");
    let probe = |arguments: &[&str]| {
        let mut command = ferroce();
        command.args(["probe", "--time", "100ms"]).args(arguments);
        run(&mut command)
    };
    let at = node
        .url
        .strip_prefix("roce://")
        .and_then(|at| at.split(':').next());
    let at = at.expect("an address");
    refused(
        probe(&[&node.url, "--bind", at]),
        "another address of this machine",
    );
    refused(probe(&["tcp://127.0.0.1:1", "--bind", at]), "for RDMA only");
    for scheme in ["roce", "rdma"] {
        let elsewhere = format!("{scheme}://{at}:4421");
        let from = address();
        let output = probe(&[&elsewhere, "--bind", &from]);
        let over = format!("over RoCEv2 in software, from {from}");
        let text = said(&output);
        assert!(!output.status.success(), "{text}");
        assert!(text.contains("nothing listens there"), "{text}");
        assert!(text.contains(&over), "{text}");
    }
}
