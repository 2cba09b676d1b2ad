//! A node that runs until its test ends, and the probe against it.

use std::net::SocketAddr;
use std::process::{Command, Output, Stdio};

use ferroce_engine::host as nvme;
use ferroce_transport::host::{Controller, Data, HostIdentity, Options};
use ferroce_wire::fabrics::Nqn;

use crate::common::{Process, run, wait_for};

pub const NQN: &str = "nqn.2024-01.org.example:node";

pub fn ferroce() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ferroce"));
    command.env_remove("RUST_LOG");
    command
}

/// A node that runs until the test ends.
pub struct Node {
    pub process: Process,
    pub dir: tempfile::TempDir,
    pub address: SocketAddr,
}

impl Node {
    pub fn serve(arguments: &[&str]) -> Node {
        Node::serve_by(ferroce(), arguments)
    }

    pub fn serve_by(mut command: Command, arguments: &[&str]) -> Node {
        let dir = tempfile::tempdir().expect("a directory");
        command
            .args(["serve", "--listen", "tcp://127.0.0.1:0", "--ctl"])
            .arg(dir.path().join("ctl.sock"))
            .args(arguments);
        Node::spawn(command, dir)
    }

    pub fn spawn(mut command: Command, dir: tempfile::TempDir) -> Node {
        let mut process = Process::spawn(command.stdout(Stdio::piped()));
        let greeting = process.stdout().until(|said| said.ends_with("\n\n"));
        let greeting = greeting.expect("it starts");
        let mut lines = greeting.lines();
        let address = lines.find_map(|line| line.trim().strip_prefix("at tcp://")?.parse().ok());
        Node {
            process,
            dir,
            address: address.expect("the greeting names the address"),
        }
    }

    pub fn one() -> Node {
        Node::serve(&["--device", "ram:16MiB,block=512", "--nqn", NQN])
    }

    pub fn ctl(&self, arguments: &[&str]) -> Output {
        let mut command = ferroce();
        command.arg("ctl").arg("--ctl");
        command.arg(self.dir.path().join("ctl.sock"));
        run(command.args(arguments))
    }

    pub fn url(&self) -> String {
        format!("tcp://{}", self.address)
    }

    pub fn probe(&self, arguments: &[&str]) -> Output {
        let mut command = ferroce();
        command.args(["probe", &self.url()]).args(arguments);
        run(&mut command)
    }

    /// A probe that has begun: some hundred of its commands are answered.
    pub fn under_load(&self, arguments: &[&str]) -> Process {
        let hosts = || -> Vec<serde_json::Value> {
            let output = self.ctl(&["hosts", "--json"]);
            serde_json::from_slice(&output.stdout).expect("JSON")
        };
        let before: Vec<_> = hosts().iter().map(|host| host["cntlid"].clone()).collect();
        let mut command = ferroce();
        command.args(["probe", &self.url()]).args(arguments);
        let mut probe = Process::piped(&mut command);
        let count = |host: &serde_json::Value| host["reads"].as_u64().zip(host["writes"].as_u64());
        let has_begun = |host: &serde_json::Value| {
            !before.contains(&host["cntlid"]) && count(host).is_some_and(|(r, w)| r + w >= 200)
        };
        wait_for("some hundred commands of the probe", || {
            let hosts = hosts();
            if hosts.iter().any(has_begun) {
                return Ok(());
            }
            let ended = probe.try_wait().expect("it is asked");
            assert!(ended.is_none(), "{arguments:?}: the probe has ended");
            Err(format!("{hosts:?}"))
        });
        probe
    }

    /// It goes well; what it measured.
    pub fn measured(&self, arguments: &[&str]) -> serde_json::Value {
        let output = self.probe(&[&["--json", "--time", "200ms"], arguments].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    pub fn refused(&self, arguments: &[&str], why: &str) {
        let output = self.probe(&[&["--time", "200ms"], arguments].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{arguments:?} went through");
        assert!(said.contains(why), "{arguments:?}: {said}");
    }

    /// Writes bytes at a block, as a host of its own.
    pub fn write(&self, lba: u64, mut bytes: Vec<u8>) {
        let options = Options {
            identity: HostIdentity::random(),
            ..Options::default()
        };
        let nqn = Nqn::new(NQN).expect("a name");
        let controller = Controller::connect(self.address, &nqn, &options).expect("connects");
        let namespace = controller.namespaces().expect("lists").remove(0);
        let block = namespace.block_len as usize;
        bytes.resize(bytes.len().next_multiple_of(block), 0);
        let write = nvme::write(1, lba, (bytes.len() / block) as u32, false);
        let mut queue = controller.queues(1, 8).expect("connects").remove(0);
        let done = queue
            .exec(write, Data::Vec(bytes), "Write")
            .expect("is answered");
        assert!(done.is_success(), "{}", done.status());
    }
}
