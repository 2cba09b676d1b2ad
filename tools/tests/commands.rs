//! The commands as a person uses them: the real binary, its output, its exit codes.

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::{PATIENCE, Process, Said};

const NQN: &str = "nqn.2024-01.org.example:node";
const HOST: &str = "nqn.2024-01.org.example:host";

fn ferroce() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ferroce"));
    command.env_remove("RUST_LOG").env_remove("XDG_RUNTIME_DIR");
    command
}

fn run(arguments: &[&str]) -> Output {
    common::run(ferroce().args(arguments))
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Refused with one line that says `why`.
fn refused(arguments: &[&str], why: &str) {
    let output = run(arguments);
    let said = stderr(&output);
    assert!(!output.status.success(), "{arguments:?} went through");
    assert!(said.contains(why), "{arguments:?} said: {said}");
}

/// A node that runs until the test ends.
struct Node {
    process: Process,
    out: Said,
    greeting: String,
    dir: tempfile::TempDir,
    port: u16,
}

impl Node {
    fn serve(arguments: &[&str]) -> Node {
        let dir = tempfile::tempdir().expect("a directory");
        let ctl = dir.path().join("ctl.sock");
        let listen = [
            "--listen",
            "tcp://127.0.0.1:0",
            "--ctl",
            ctl.to_str().expect("a path"),
        ];
        Node::start(dir, [arguments, &listen, &["--nqn", NQN]].concat())
    }

    fn start(dir: tempfile::TempDir, arguments: Vec<&str>) -> Node {
        let mut process = Process::piped(ferroce().arg("serve").args(arguments));
        let (mut out, mut err) = (process.stdout(), process.stderr());
        // The greeting ends with an empty line after the lines to paste.
        let greeting = out.until(|said| said.contains("nvme disconnect") && said.ends_with("\n\n"));
        let greeting =
            greeting.unwrap_or_else(|_| panic!("the node did not start: {}", err.text()));
        let port = greeting
            .lines()
            .find_map(|line| {
                line.trim()
                    .strip_prefix("at tcp://127.0.0.1:")?
                    .parse()
                    .ok()
            })
            .expect("the greeting names the port");
        Node {
            process,
            out,
            greeting,
            dir,
            port,
        }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("ctl.sock")
    }

    fn ctl(&self, arguments: &[&str]) -> Output {
        let socket = self.socket();
        let socket = socket.to_str().expect("a path");
        run(&[&["ctl", "--ctl", socket], arguments].concat())
    }

    /// The order is carried out; what it says.
    fn told(&self, arguments: &[&str]) -> String {
        let output = self.ctl(arguments);
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            stderr(&output)
        );
        stdout(&output)
    }

    fn not_told(&self, arguments: &[&str], why: &str) {
        let output = self.ctl(arguments);
        assert!(
            !output.status.success(),
            "{arguments:?} went through: {}",
            stdout(&output)
        );
        assert!(
            stderr(&output).contains(why),
            "{arguments:?}: {}",
            stderr(&output)
        );
    }

    fn wait(&mut self) -> (Option<i32>, String) {
        let status = self.process.ended();
        (status.code(), self.out.text())
    }
}

#[test]
fn serve_prints_what_it_serves_and_what_to_paste() {
    let mut node = Node::serve(&[
        "--device",
        "ram:64MiB",
        "--device",
        "ram:1MiB",
        "--serial",
        "S1",
    ]);
    let port = node.port;
    for line in [
        format!("  {NQN}"),
        "    namespace 1  ram:64MiB, 64 MiB, blocks of ".into(),
        "    namespace 2  ram:1MiB, 1 MiB, blocks of ".into(),
        "  modprobe nvme-tcp".into(),
        format!("  nvme discover -t tcp -a 127.0.0.1 -s {port}"),
        format!("  nvme connect -t tcp -a 127.0.0.1 -s {port} -n {NQN}"),
        format!("  nvme disconnect -n {NQN}"),
    ] {
        let there = node.greeting.lines().any(|known| known.starts_with(&line));
        assert!(there, "`{line}` is missing:\n{}", node.greeting);
    }
    node.process.signal("TERM");
    let (code, rest) = node.wait();
    assert_eq!(code, Some(0));
    assert!(
        rest.contains("SIGTERM") && rest.contains("stopped"),
        "{rest}"
    );
    assert!(!node.socket().exists(), "the control socket is removed");
}

#[test]
fn ctl_shows_and_changes() {
    let node = Node::serve(&["--device", "ram:64MiB"]);
    assert!(node.told(&["show"]).contains("1     64 MiB"));
    assert!(
        node.told(&["add", "ram:8MiB", "--nsid", "7", "--read-only"])
            .contains("namespace 7 is ram:8MiB")
    );
    assert!(node.told(&["show"]).contains("read-only"));
    assert!(node.told(&["add", "ram:1MiB"]).contains("namespace 2"));
    assert!(node.told(&["resize", "2", "4MiB"]).contains("4 MiB"));
    assert!(node.told(&["resize", "2", "2MiB"]).contains("2 MiB"));
    let shown = node.told(&["show"]);
    assert!(
        shown.contains("ram:2MiB") && !shown.contains("ram:1MiB"),
        "{shown}"
    );
    node.not_told(&["resize", "2", "1000B"], "multiple of the block");
    node.not_told(&["resize", "2", "0B"], "multiple of the block");
    node.not_told(&["resize", "2", "5000"], "5000B");
    // What is refused has changed nothing.
    node.told(&["add", "ram:1MiB,block=512", "--nsid", "9"]);
    node.not_told(&["resize", "9", "1KiB"], "multiple of 4 KiB");
    let shown = node.told(&["show"]);
    assert!(shown.contains("9     1 MiB"), "{shown}");
    node.told(&["remove", "9"]);
    node.not_told(&["add", "ram:1MiB", "--nsid", "7"], "namespace 7 already");
    node.not_told(&["add", "ram:1MiB", "--nsid", "0"], "NSID 0");
    node.not_told(&["add", "tape:1"], "tape:1");
    node.told(&["remove", "7"]);
    node.not_told(&["remove", "7"], "it has 1, 2");
    node.not_told(
        &["remove", "1", "--subsystem", "nqn.2024-01.a:x"],
        "no subsystem",
    );

    node.not_told(&["forbid", HOST], "every host may connect");
    assert!(
        node.told(&["allow", HOST])
            .contains("every other host may not")
    );
    assert!(node.told(&["show"]).contains(&format!("allows  {HOST}")));
    node.told(&["forbid", HOST]);
    assert!(node.told(&["show"]).contains("allows  no host"));
    node.not_told(&["forbid", HOST], "may not connect anyway");
    node.not_told(&["allow", "me"], "`me`");

    assert!(node.told(&["hosts"]).contains("no host is connected"));
    node.not_told(&["disconnect", HOST], "is not connected");

    let first = format!("tcp://127.0.0.1:{}", node.port);
    node.not_told(&["listen", &first], "in use");
    let told = node.told(&["listen", "tcp://127.0.0.1:0"]);
    let second = told.trim().rsplit(' ').next().expect("a URL").to_owned();
    let port: u16 = second
        .rsplit(':')
        .next()
        .and_then(|port| port.parse().ok())
        .expect("a port");
    assert!(TcpStream::connect(("127.0.0.1", port)).is_ok());
    node.told(&["unlisten", &second]);
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    node.not_told(&["unlisten", &second], "no listener");
    node.told(&["allow", HOST]);
    assert!(
        !node
            .told(&["listen", "tcp://0.0.0.0:0"])
            .contains("warning")
    );

    node.not_told(&["remove", "1", "--persist"], "started from flags");
    node.not_told(&["show", "--persist"], "nothing to write");
    let json: serde_json::Value =
        serde_json::from_str(&node.told(&["show", "--json"])).expect("JSON");
    assert_eq!(json["subsystems"][0]["namespaces"][0]["bytes"], 64 << 20);
}

#[test]
fn the_printed_config_serves_and_persists() {
    let dir = tempfile::tempdir().expect("a directory");
    let ctl = dir.path().join("ctl.sock");
    let text = stdout(&run(&["serve", "--print-config"]))
        .replace("tcp://127.0.0.1:4420", "tcp://127.0.0.1:0")
        .replace(
            "#ctl = \"/run/ferroce/other.sock\"",
            &format!("ctl = \"{}\"", ctl.display()),
        )
        .replace(
            "#nqn = \"nqn.2024-01.org.example:models\"",
            &format!("nqn = \"{NQN}\""),
        );
    let file = dir.path().join("ferroce.toml");
    std::fs::write(&file, &text).expect("writes");
    let path = file.to_str().expect("a path").to_owned();
    let node = Node::start(dir, vec!["--config", &path]);
    assert!(
        node.told(&["add", "ram:1MiB", "--persist"])
            .contains("written to")
    );
    node.told(&["resize", "1", "32MiB", "--persist"]);
    node.told(&["allow", HOST, "--persist"]);
    let changed = std::fs::read_to_string(&file).expect("reads");
    for line in [
        "device = \"ram:1MiB\"",
        "device = \"ram:32MiB\"",
        &format!("allow = [\"{HOST}\"]"),
    ] {
        assert!(changed.contains(line), "`{line}` is missing:\n{changed}");
    }
    assert!(changed.starts_with("# Ferroce reads"), "comments stay");
}

#[test]
fn what_is_switched_off_says_so() {
    let dir = tempfile::tempdir().expect("a directory");
    let text = format!(
        "listen = [\"tcp://127.0.0.1:0\"]\nctl = \"{}\"\nphases = false\ncpu-dma-latency = false\n\
         [[subsystem]]\nnamespace = [{{ device = \"ram:1MiB\" }}]\n",
        dir.path().join("ctl.sock").display()
    );
    let file = dir.path().join("ferroce.toml");
    std::fs::write(&file, text).expect("writes");
    let path = file.to_str().expect("a path").to_owned();
    let node = Node::start(dir, vec!["--config", &path]);
    let url = format!("tcp://127.0.0.1:{}", node.port);
    let read = run(&["probe", &url, "--time", "100ms"]);
    assert!(read.status.success(), "{}", stderr(&read));
    node.not_told(&["slow"], "`phases = false`");
    let shown = node.told(&["show"]);
    assert!(shown.contains("`cpu-dma-latency = false`"), "{shown}");
    // Beside it a node that is as nodes are.
    let node = Node::serve(&["--device", "ram:1MiB"]);
    let shown = node.told(&["show"]);
    assert!(
        shown.contains("CPUs      wake up as the system likes: no host"),
        "{shown}"
    );
}

#[test]
fn an_interrupt_ends_it_in_good_order() {
    let mut node = Node::serve(&["--device", "ram:1MiB"]);
    node.process.signal("INT");
    assert_eq!(node.wait().0, Some(0));
}

#[test]
fn one_node_for_each_socket_and_port() {
    let node = Node::serve(&["--device", "ram:1MiB"]);
    let socket = node.socket();
    let socket = socket.to_str().expect("a path");
    refused(
        &["serve", "--device", "ram:1MiB", "--ctl", socket],
        "a node answers at",
    );
    let at = format!("tcp://127.0.0.1:{}", node.port);
    let other = node.dir.path().join("other.sock");
    let other = other.to_str().expect("a path");
    refused(
        &[
            "serve", "--device", "ram:1MiB", "--listen", &at, "--ctl", other,
        ],
        "another program (or node) listens there",
    );
    assert!(
        !Path::new(other).exists(),
        "a node that did not start leaves no socket"
    );
}

#[test]
fn a_killed_node_leaves_nothing_in_the_way() {
    let mut node = Node::serve(&["--device", "ram:1MiB"]);
    node.process.kill().expect("kills");
    node.process.ended();
    node.not_told(&["show"], "is gone");
    let dir = std::mem::replace(&mut node.dir, tempfile::tempdir().expect("a directory"));
    let ctl = dir.path().join("ctl.sock");
    assert!(ctl.exists());
    let ctl = ctl.to_str().expect("a path").to_owned();
    let again = Node::start(
        dir,
        vec![
            "--device",
            "ram:1MiB",
            "--listen",
            "tcp://127.0.0.1:0",
            "--ctl",
            &ctl,
            "--nqn",
            NQN,
        ],
    );
    again.told(&["show"]);
}

#[test]
fn wrong_wishes_are_refused_in_one_clear_line() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("f.toml");
    let path = file.to_str().expect("a path");
    std::fs::write(&file, "[[subsystem]]\nnamespaces = 1\n").expect("writes");
    refused(
        &["serve", "--config", path],
        "f.toml:2: unknown field `namespaces`",
    );
    refused(
        &["serve", "--config", path, "--device", "ram:1MiB"],
        "contradict each other",
    );
    refused(
        &["serve", "--config", "/nonexistent"],
        "cannot read /nonexistent",
    );
    refused(&["serve", "--nqn", NQN], "nothing to serve");
    refused(
        &["serve", "--device", "ram:1MiB", "--nqn", "me"],
        "cannot name a subsystem",
    );
    refused(
        &[
            "serve",
            "--device",
            "ram:lots",
            "--listen",
            "tcp://127.0.0.1:0",
        ],
        "lots",
    );
    refused(
        &[
            "serve",
            "--device",
            "ram:1KiB",
            "--listen",
            "tcp://127.0.0.1:0",
        ],
        "4 KiB",
    );
    refused(
        &[
            "serve",
            "--device",
            "ram:1MiB",
            "--listen",
            "tcp://192.0.2.1",
        ],
        "no such address",
    );
    refused(
        &[
            "serve",
            "--device",
            "ram:1MiB",
            "--cores",
            "999",
            "--listen",
            "tcp://127.0.0.1:0",
        ],
        "CPU 999",
    );
    let serve = |device: &str, why: &str| {
        refused(
            &["serve", "--listen", "tcp://127.0.0.1:0", "--device", device],
            why,
        )
    };
    serve("ram:100TiB", "");
    serve("ram:3TiB", "are available");
    serve("file:/nonexistent/disk", "give size=");
    serve("file:/nonexistent/disk,size=1MiB", "making the file");
    serve("file:/", "neither a regular file nor a block device");
    serve("file:/etc/passwd,size=4KiB", "are not a number of blocks");
    refused(
        &["serve", "--device", "ram:1MiB", "--buffers", "1MiB"],
        "too few",
    );
    refused(&["probe", "tcp://127.0.0.1:1"], "nothing listens there");
    refused(
        &["probe", "tcp://127.0.0.1:1", "--verify"],
        "--destroy-data",
    );
    refused(
        &["probe", "tcp://127.0.0.1:1", "--write", "50"],
        "--destroy-data",
    );
    refused(
        &["probe", "tcp://127.0.0.1:1", "--destroy-data"],
        "nothing writes",
    );
    refused(&["probe", "127.0.0.1:1"], "transport is missing");
    refused(&["ctl", "--ctl", path, "show"], "ferroce serve");
}

#[test]
fn garbage_at_the_control_socket_does_no_harm() {
    let node = Node::serve(&["--device", "ram:1MiB"]);
    for text in ["", "\n", "{}\n", "hello\n", "{\"order\":{\"remove\":{}}}\n"] {
        let mut stream = UnixStream::connect(node.socket()).expect("connects");
        stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
        stream.write_all(text.as_bytes()).expect("writes");
        stream
            .shutdown(std::net::Shutdown::Write)
            .expect("shuts down");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("reads");
        assert!(
            answer.is_empty() || answer.contains("failed"),
            "{text:?}: {answer}"
        );
    }
    // Half a request keeps nobody else waiting.
    let mut half = UnixStream::connect(node.socket()).expect("connects");
    half.write_all(b"{\"order\":").expect("writes");
    node.told(&["show"]);
}

#[test]
fn a_door_opened_later_is_worth_a_warning() {
    let node = Node::serve(&["--device", "ram:1MiB"]);
    let told = node.told(&["listen", "tcp://0.0.0.0:0"]);
    assert!(
        told.contains("warning: every host that reaches tcp://0.0.0.0:"),
        "{told}"
    );
}

#[test]
fn a_listener_beyond_loopback_is_worth_a_warning() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut command = ferroce();
    command.env("XDG_RUNTIME_DIR", dir.path()).args([
        "serve",
        "--device",
        "ram:1MiB",
        "--listen",
        "tcp://0.0.0.0:0",
        "--nqn",
        NQN,
        "--ctl",
        dir.path().join("c").to_str().expect("a path"),
    ]);
    let mut process = Process::piped(&mut command);
    let warned = process
        .stderr()
        .until(|said| said.contains("every host that reaches"));
    warned.expect("it warns");
}

#[test]
fn completions_for_each_shell() {
    for shell in ["bash", "zsh", "fish"] {
        let output = run(&["completions", shell]);
        assert!(
            output.status.success() && stdout(&output).contains("ferroce"),
            "{shell}"
        );
    }
}

#[test]
fn the_readme_names_every_flag_and_order() {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md"))
        .expect("reads");
    for command in ["serve", "ctl", "probe", "raw-server", "demo"] {
        let help = stdout(&run(&[command, "--help"]));
        for word in help
            .split_whitespace()
            .filter(|word| word.starts_with("--"))
        {
            let flag = word.trim_end_matches([',', ';', '.', ':']);
            let flag = flag.split(['[', '=']).next().unwrap_or(flag);
            let known = ["`", " ", "[", "="]
                .iter()
                .any(|end| readme.contains(&format!("{flag}{end}")));
            assert!(
                known || ["--help", "--version"].contains(&flag),
                "{command} {flag} is not in the README"
            );
        }
    }
    let orders = stdout(&run(&["ctl", "--help"]));
    let listed = orders
        .split("Commands:")
        .nth(1)
        .and_then(|rest| rest.split("Options:").next())
        .expect("a list");
    for order in listed
        .lines()
        .filter_map(|line| line.split_whitespace().next())
    {
        assert!(
            order == "help" || readme.contains(&format!("`{order}")),
            "ctl {order} is not in the README"
        );
    }
}
