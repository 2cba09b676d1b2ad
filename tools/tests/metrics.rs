//! What a node tells of its work: the slowest I/Os, metrics and status.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use ferroce_engine::host as nvme;
use ferroce_transport::host::{Controller, Data, HostIdentity, Options, Queue};
use ferroce_wire::fabrics::Nqn;
use ferroce_wire::sqe::Sqe;
use ferroce_wire::status::Status;
use serde_json::Value;

const NQN: &str = "nqn.2024-01.org.example:node";

/// A node that runs until the test ends.
struct Node {
    child: Child,
    dir: tempfile::TempDir,
    address: SocketAddr,
}

impl Node {
    fn serve(arguments: &[&str]) -> Node {
        let dir = tempfile::tempdir().expect("a directory");
        let mut child = Command::new(env!("CARGO_BIN_EXE_ferroce"))
            .env_remove("RUST_LOG")
            .args(["serve", "--listen", "tcp://127.0.0.1:0", "--nqn", NQN])
            .args(["--device", "ram:16MiB", "--device", "ram:1MiB", "--ctl"])
            .arg(dir.path().join("ctl.sock"))
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut address = None;
        // To the last line of the greeting.
        for line in lines.map(|line| line.expect("reads")) {
            let after = |what| line.trim().strip_prefix(what)?.parse().ok();
            address = address.or(after("at tcp://"));
            if line.contains("nvme disconnect") {
                break;
            }
        }
        Node {
            child,
            dir,
            address: address.expect("the greeting names the address"),
        }
    }

    fn ctl(&self, arguments: &[&str]) -> String {
        let output = Command::new(env!("CARGO_BIN_EXE_ferroce"))
            .arg("ctl")
            .arg("--ctl")
            .arg(self.dir.path().join("ctl.sock"))
            .args(arguments)
            .output()
            .expect("the binary runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    fn ctl_json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.ctl(&[arguments, &["--json"]].concat())).expect("JSON")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A host that counts what it did.
struct Host {
    _controller: Controller,
    queue: Queue,
    nqn: String,
}

impl Host {
    fn connect(address: SocketAddr, name: &str) -> Host {
        let nqn = format!("nqn.2024-01.org.example:{name}");
        let mut identity = HostIdentity::random();
        identity.nqn = Nqn::new(&nqn).expect("a name");
        let options = Options {
            identity,
            ..Options::default()
        };
        let subsystem = Nqn::new(NQN).expect("a name");
        let controller = Controller::connect(address, &subsystem, &options).expect("connects");
        Host {
            queue: controller.queues(1, 32).expect("a queue").remove(0),
            _controller: controller,
            nqn,
        }
    }

    /// So many reads, and a write after every second one, of a page each.
    fn load(&mut self, nsid: u32, reads: u64) {
        for i in 0..reads {
            assert!(self.ask(nvme::read(nsid, i % 200, 1)).is_success());
            if i % 2 == 1 {
                let write = nvme::write(nsid, i % 200, 1, false);
                assert!(self.ask(write).is_success());
            }
        }
    }

    /// One command with a page of data, and how it ended.
    fn ask(&mut self, sqe: Sqe) -> Status {
        let data = Data::zeroed(4096);
        self.queue.submit(sqe, data, 0).expect("there is room");
        loop {
            if let Some(done) = self.queue.poll() {
                return done.status();
            }
        }
    }
}

#[test]
fn the_slowest_are_shown_whole() {
    let node = Node::serve(&["--cores", "0"]);
    assert_eq!(node.ctl(&["slow"]), "no I/O yet\n");
    let mut host = Host::connect(node.address, "a");
    host.load(2, 100);
    let slowest = node.ctl_json(&["slow"]);
    let slowest = slowest.as_array().expect("a list");
    assert_eq!(slowest.len(), 64);
    let mut before = u64::MAX;
    for slow in slowest {
        let number = |key: &str| slow[key].as_u64().expect("a number");
        let total = number("total_ns");
        let phases = ["queue_ns", "drive_ns", "send_ns"].map(number);
        assert_eq!(phases.iter().sum::<u64>(), total, "{slow}");
        assert!(total > 0 && total <= before, "slowest first: {slow}");
        before = total;
        assert!(["Read", "Write"].contains(&slow["opcode"].as_str().expect("a name")));
        assert_eq!(
            (number("nsid"), number("blocks"), number("core")),
            (2, 1, 0)
        );
        assert_eq!(slow["host"], host.nqn);
        assert_eq!(slow["subsystem"], NQN);
    }
    let text = node.ctl(&["slow", "--reset"]);
    assert!(
        text.starts_with("WHEN") && text.lines().count() == 65,
        "{text}"
    );
    assert_eq!(node.ctl(&["slow"]), "no I/O yet\n");
    host.load(1, 1);
    assert_eq!(node.ctl_json(&["slow"]).as_array().map(Vec::len), Some(1));
}
