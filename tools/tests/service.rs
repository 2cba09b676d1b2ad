//! The node as a service: what it says to its manager, a file that is read again, starting with what there is.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use common::{PATIENCE, Process, Said, run, wait_for};

/// A node of a configuration file, whose manager we are.
struct Node {
    process: Process,
    log: Said,
    dir: tempfile::TempDir,
    socket: UnixDatagram,
}

fn ferroce() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ferroce"));
    command.env_remove("RUST_LOG").env_remove("NOTIFY_SOCKET");
    command
}

impl Node {
    fn start(arguments: &[&str], text: &str) -> Node {
        let dir = tempfile::tempdir().expect("a directory");
        let socket = UnixDatagram::bind(dir.path().join("notify")).expect("a socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("not zero");
        write(dir.path(), text);
        let mut command = ferroce();
        command
            .arg("serve")
            .args(arguments)
            .arg("--config")
            .arg(dir.path().join("f.toml"))
            .env("RUST_LOG", "info")
            .env("NOTIFY_SOCKET", dir.path().join("notify"));
        let mut process = Process::piped(&mut command);
        // Nobody listens to that.
        drop(process.stdout());
        Node {
            log: process.stderr(),
            process,
            dir,
            socket,
        }
    }

    /// The next thing it says to its manager.
    fn said(&self) -> String {
        let mut bytes = [0; 4096];
        let count = self.socket.recv(&mut bytes).expect("it says something");
        String::from_utf8_lossy(&bytes[..count]).into_owned()
    }

    fn ctl(&self, order: &str) -> String {
        let socket = self.dir.path().join("ctl.sock");
        let mut command = ferroce();
        command.arg("ctl").args(order.split(' '));
        stdout(&run(command.arg("--ctl").arg(socket)))
    }

    fn end(mut self) -> (Option<i32>, String) {
        (self.process.ended().code(), self.log.text())
    }
}

/// What every file has: a control socket beside it.
fn write(dir: &Path, text: &str) {
    let ctl = dir.join("ctl.sock");
    let text = format!("ctl = {ctl:?}\n{text}");
    fs::write(dir.join("f.toml"), text).expect("written");
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn file(dir: &Path, name: &str, bytes: u64) -> PathBuf {
    let path = dir.join(name);
    let file = fs::File::create(&path).expect("made");
    file.set_len(bytes).expect("sized");
    path
}

const SUBSYSTEM: &str =
    "listen = [\"tcp://127.0.0.1:0\"]\n[[subsystem]]\nnqn = \"nqn.2024-01.org.example:node\"\n";

#[test]
fn its_manager_hears_of_its_life() {
    let node = Node::start(
        &[],
        &format!("{SUBSYSTEM}namespace = [{{device = \"ram:1MiB\"}}]\n"),
    );
    let said = node.said();
    assert!(said.contains("READY=1"), "{said}");
    assert!(
        said.contains("STATUS=serves 1 namespace at tcp://127.0.0.1:"),
        "{said}"
    );
    node.process.signal("TERM");
    assert_eq!(node.said().trim(), "STOPPING=1");
    assert_eq!(node.end().0, Some(0));
}

#[test]
fn a_hangup_has_the_file_read_again() {
    let node = Node::start(
        &[],
        &format!("{SUBSYSTEM}namespace = [{{device = \"ram:1MiB\"}}]\n"),
    );
    assert!(node.said().contains("READY=1"));
    write(
        node.dir.path(),
        &format!(
            "spin = \"20us\"\n{SUBSYSTEM}allow = [\"nqn.2024-01.org.example:host\"]\n\
             namespace = [{{device = \"ram:2MiB\"}}, {{device = \"ram:3MiB\"}}]\n"
        ),
    );
    node.process.signal("HUP");
    assert!(node.said().contains("RELOADING=1\nMONOTONIC_USEC="));
    assert!(node.said().contains("READY=1\nSTATUS=serves 2 namespaces"));
    let shown = node.ctl("show");
    for part in ["2 MiB", "3 MiB", "allows  nqn.2024-01.org.example:host"] {
        assert!(shown.contains(part), "{shown}");
    }
    // What is wrong changes nothing.
    write(node.dir.path(), "listen = 5\n");
    node.process.signal("HUP");
    assert!(node.said().contains("RELOADING=1"));
    assert!(node.said().contains("serves 2 namespaces"));
    node.process.signal("TERM");
    let (status, log) = node.end();
    assert_eq!(status, Some(0), "{log}");
    assert!(
        log.contains("of spin is in force at the next start"),
        "{log}"
    );
    assert!(
        log.contains("nothing of the configuration was changed"),
        "{log}"
    );
}

/// Be it that the file does not come, or a drive that is in it: the node can still be told to end.
#[test]
fn it_ends_while_a_file_is_read_that_does_not_come() {
    let node = Node::start(
        &[],
        &format!("{SUBSYSTEM}namespace = [{{device = \"ram:1MiB\"}}]\n"),
    );
    assert!(node.said().contains("READY=1"));
    let file = node.dir.path().join("f.toml");
    fs::remove_file(&file).expect("it is there");
    let made = Command::new("mkfifo").arg(&file).status();
    assert!(made.expect("there is mkfifo").success());
    node.process.signal("HUP");
    assert!(node.said().contains("RELOADING=1"));
    // Metrics and `ctl` do not wait for it either.
    assert!(node.ctl("show").contains("1 MiB"));
    node.process.signal("TERM");
    assert_eq!(node.said().trim(), "STOPPING=1");
    assert_eq!(node.end().0, Some(0));
}

/// What `ctl --persist` wrote is in force already, and an edit of the file that nobody had read yet is still made.
#[test]
fn what_was_written_by_ctl_is_no_change_when_the_file_is_read_again() {
    let namespaces = "namespace = [{device = \"ram:1MiB\"}]\n";
    let node = Node::start(&[], &format!("{SUBSYSTEM}{namespaces}"));
    let added = file(node.dir.path(), "added.img", 2 << 20);
    assert!(node.said().contains("READY=1"));
    write(
        node.dir.path(),
        &format!("{SUBSYSTEM}allow = [\"nqn.2024-01.org.example:host\"]\n{namespaces}"),
    );
    node.ctl(&format!("add file:{} --persist", added.display()));
    let said = node.ctl("listen tcp://127.0.0.2:0 --persist");
    let url = said
        .split_whitespace()
        .find_map(|word| word.trim_end_matches(';').strip_prefix("tcp://127.0.0.2:"));
    let url = format!("tcp://127.0.0.2:{}", url.expect("it says where"));
    node.process.signal("HUP");
    assert!(node.said().contains("RELOADING=1"));
    assert!(node.said().contains("serves 2 namespaces"));
    let shown = node.ctl("show");
    for part in ["2 MiB", &url, "allows  nqn.2024-01.org.example:host"] {
        assert!(shown.contains(part), "{shown}");
    }
    // Nor is it one when it is taken back by the file.
    write(node.dir.path(), &format!("{SUBSYSTEM}{namespaces}"));
    node.process.signal("HUP");
    assert!(node.said().contains("RELOADING=1"));
    assert!(node.said().contains("serves 1 namespace"));
    let shown = node.ctl("show");
    for part in ["2 MiB", &url, "allows  nqn.2024-01.org.example:host"] {
        assert!(!shown.contains(part), "{shown}");
    }
    node.process.signal("TERM");
    let (status, log) = node.end();
    assert_eq!(status, Some(0), "{log}");
    assert!(!log.contains("error: "), "{log}");
    assert!(!log.contains("next start"), "{log}");
}

/// What a file of some namespaces says once it is read again: the log until then, and what is shown.
fn reloaded(node: &mut Node, text: &str) -> (String, String) {
    let read = |log: &str| log.matches(" was read again").count();
    let before = node.log.until(|_| true).expect("it runs");
    write(node.dir.path(), text);
    node.process.signal("HUP");
    let log = node.log.until(|log| read(log) > read(&before));
    assert!(node.said().contains("RELOADING=1"));
    assert!(node.said().contains("READY=1"));
    // What is said after that line is there when the next one is.
    let shown = node.ctl("show");
    (log.expect("it runs")[before.len()..].to_owned(), shown)
}

#[test]
fn what_failed_is_tried_again_and_undone_without_a_word() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("it has one").port();
    let ram = "namespace = [{device = \"ram:1MiB\"}]\n";
    let mut node = Node::start(&[], &format!("{SUBSYSTEM}{ram}"));
    let late = node.dir.path().join("late.img");
    assert!(node.said().contains("READY=1"));
    let all = SUBSYSTEM.replace(":0\"", &format!(":0\", \"tcp://127.0.0.1:{port}\""));
    let all = format!(
        "{all}namespace = [{{device = \"ram:1MiB\"}}, {{device = \"file:{}\"}}]\n",
        late.display()
    );
    for _ in 0..2 {
        let (log, shown) = reloaded(&mut node, &all);
        assert!(log.contains("late.img") && log.contains("0 of 2"), "{log}");
        assert!(
            log.contains(&format!("cannot listen at tcp://127.0.0.1:{port}")),
            "{log}"
        );
        assert!(!shown.contains("late.img"), "{shown}");
    }
    drop(taken);
    file(node.dir.path(), "late.img", 1 << 20);
    let (log, shown) = reloaded(&mut node, &all);
    assert!(log.contains("2 of 2") && !log.contains("error: "), "{log}");
    assert!(shown.contains("late.img"), "{shown}");
    // What never came need not go.
    let gone = all.replace("late.img", "gone.img");
    let (log, _) = reloaded(&mut node, &gone);
    assert!(log.contains("1 of 2"), "{log}");
    let (log, shown) = reloaded(&mut node, &format!("{SUBSYSTEM}{ram}"));
    assert!(log.contains("1 of 1") && !log.contains("error: "), "{log}");
    assert!(!shown.contains(".img"), "{shown}");
    node.process.signal("TERM");
    assert_eq!(node.end().0, Some(0));
}

#[test]
fn what_waits_for_the_next_start_is_told_until_the_file_says_again_what_runs() {
    let ram = "namespace = [{device = \"ram:1MiB\"}]\n";
    let mut node = Node::start(&[], &format!("{SUBSYSTEM}{ram}"));
    assert!(node.said().contains("READY=1"));
    for keys in ["phases = false\n", "spin = \"20us\"\nphases = false\n", ""] {
        reloaded(&mut node, &format!("{keys}{SUBSYSTEM}{ram}"));
    }
    node.process.signal("TERM");
    let (status, log) = node.end();
    assert_eq!(status, Some(0), "{log}");
    let told = log
        .lines()
        .filter_map(|line| line.split_once("what is said there of "));
    let told: Vec<&str> = told.map(|(_, told)| told).collect();
    assert_eq!(
        told,
        [
            "phases is in force at the next start",
            "spin, phases is in force at the next start"
        ]
    );
}

#[test]
fn a_ram_drive_outlives_the_file_that_is_read_again() {
    let uuid = |shown: &str| {
        let line = shown.lines().find(|line| line.contains("\"uuid\""));
        line.expect("there is a namespace").to_owned()
    };
    let of = |namespace: &str| format!("{SUBSYSTEM}namespace = [{{{namespace}}}]\n");
    let mut node = Node::start(&[], &of("device = \"ram:1MiB\""));
    assert!(node.said().contains("READY=1"));
    let before = uuid(&node.ctl("--json show"));
    for (namespace, shown, why) in [
        ("device = \"ram:1MiB,ro\"", "read-only", ""),
        ("device = \"ram:2MiB,ro\"", "2 MiB", ""),
        ("device = \"ram:2MiB\"", "2 MiB", ""),
        (
            "device = \"ram:1MiB\"",
            "2 MiB",
            "`ferroce ctl resize 1 1MiB`",
        ),
        (
            "device = \"ram:2MiB,block=512\"",
            "2 MiB",
            "`ferroce ctl remove 1`",
        ),
    ] {
        let (log, now) = reloaded(&mut node, &of(namespace));
        assert!(now.contains(shown), "{namespace}: {now}");
        assert_eq!(
            now.contains("read-only"),
            namespace.contains("ro\""),
            "{now}"
        );
        assert!(
            log.contains(why) && log.contains("error: ") != why.is_empty(),
            "{log}"
        );
        assert_eq!(uuid(&node.ctl("--json show")), before, "{namespace}");
    }
    // Who does as told hears no more of it.
    node.ctl("remove 1");
    let (log, now) = reloaded(&mut node, &of("device = \"ram:2MiB,block=512\""));
    assert!(
        !log.contains("error: ") && now.contains("512"),
        "{log}\n{now}"
    );
    // What is taken out goes.
    let (log, now) = reloaded(&mut node, SUBSYSTEM);
    assert!(
        !log.contains("error: ") && !now.contains("2 MiB"),
        "{log}\n{now}"
    );
    node.process.signal("TERM");
    assert_eq!(node.end().0, Some(0));
}

#[test]
fn a_patient_node_waits_for_a_drive_and_an_impatient_one_does_not() {
    let dir = tempfile::tempdir().expect("a directory");
    let late = dir.path().join("late.img");
    let text = format!(
        "{SUBSYSTEM}namespace = [{{device = \"file:{}\"}}, {{device = \"ram:1MiB\"}}]\n",
        late.display()
    );
    let (status, log) = Node::start(&[], &text).end();
    assert_eq!(status, Some(1));
    assert!(log.contains("late.img"), "{log}");

    let node = Node::start(&["--patient"], &text);
    let said = node.said();
    assert!(said.contains("serves 1 namespace at"), "{said}");
    assert!(
        said.contains("; missing: file:") && said.contains("late.img"),
        "{said}"
    );
    assert!(node.ctl("show").contains("missing   file:"));
    file(dir.path(), "late.img", 1 << 20);
    let said = node.said();
    assert!(
        said.contains("serves 2 namespaces at") && !said.contains("missing"),
        "{said}"
    );
    wait_for("the number it was to have", || {
        let shown = node.ctl("show");
        match !shown.contains("missing") && shown.contains("late.img") {
            true => Ok(()),
            false => Err(shown),
        }
    });
    node.process.signal("TERM");
    assert_eq!(node.end().0, Some(0));
}

#[test]
fn a_patient_node_lets_nobody_in_before_a_drive_that_is_a_moment_late() {
    let dir = tempfile::tempdir().expect("a directory");
    let late = dir.path().join("late.img");
    let text = format!(
        "{SUBSYSTEM}namespace = [{{device = \"file:{}\"}}, {{device = \"ram:1MiB\"}}]\n",
        late.display()
    );
    let node = Node::start(&["--patient"], &text);
    std::thread::sleep(Duration::from_secs(1));
    file(dir.path(), "late.img", 1 << 20);
    let said = node.said();
    assert!(
        said.contains("READY=1") && said.contains("serves 2 namespaces at"),
        "{said}"
    );
    assert!(!said.contains("missing"), "{said}");
    node.process.signal("TERM");
    assert_eq!(node.end().0, Some(0));
}

#[test]
fn what_a_patient_node_waits_for_is_what_the_file_says_last() {
    let dir = tempfile::tempdir().expect("a directory");
    let of = |name: &str, rest: &str| {
        let path = dir.path().join(name);
        format!("{{device = \"file:{}\"{rest}}}", path.display())
    };
    let text = |namespaces: &[String]| {
        let namespaces = namespaces.join(", ");
        format!("{SUBSYSTEM}namespace = [{{device = \"ram:1MiB\"}}, {namespaces}]\n")
    };
    let first = [of("edited.img", ""), of("deleted.img", "")];
    let mut node = Node::start(&["--patient"], &text(&first));
    assert!(node.said().contains("READY=1"));
    // 192.0.2.0/24 is for documentation: no machine has it.
    let second = [
        of("edited.img", ", read-only = true"),
        of("new.img", ", nsid = 4"),
    ];
    let second = text(&second).replace(":0\"", ":0\", \"tcp://192.0.2.7:4420\"");
    let (log, shown) = reloaded(&mut node, &second);
    assert!(!log.contains("error: "), "{log}");
    let missing: Vec<&str> = shown
        .lines()
        .filter(|line| line.contains("missing "))
        .collect();
    assert_eq!(missing.len(), 3, "{shown}");
    for name in ["edited.img", "new.img", "tcp://192.0.2.7:4420"] {
        assert!(
            missing.iter().any(|line| line.contains(name)),
            "{name}: {shown}"
        );
    }
    // Read once more, it is nothing new; and an address goes as it came.
    let (log, _) = reloaded(&mut node, &second);
    assert!(log.contains("0 of 0"), "{log}");
    let (log, shown) = reloaded(&mut node, &second.replace(", \"tcp://192.0.2.7:4420\"", ""));
    assert!(
        !log.contains("error: ") && !shown.contains("192.0.2.7"),
        "{log}\n{shown}"
    );
    for name in ["deleted.img", "edited.img", "new.img"] {
        file(dir.path(), name, 1 << 20);
    }
    let shown = wait_for("the drives", || {
        let shown = node.ctl("show");
        match shown.contains("missing ") {
            true => Err(shown),
            false => Ok(shown),
        }
    });
    let line = |name: &str| shown.lines().find(|line| line.contains(name));
    assert!(
        line("edited.img").expect(&shown).contains("read-only"),
        "{shown}"
    );
    assert!(
        line("new.img").is_some() && line("deleted.img").is_none(),
        "{shown}"
    );
    node.process.signal("TERM");
    assert_eq!(node.end().0, Some(0));
}

#[test]
fn a_patient_node_goes_on_without_an_address_and_starts_again_for_none_that_is_there() {
    // 192.0.2.0/24 is for documentation: no machine has it.
    let text = "listen = [\"tcp://127.0.0.1:0\", \"tcp://192.0.2.7:4420\", \"roce://192.0.2.7:4420\"]\n[[subsystem]]\n";
    let node = Node::start(&["--patient"], text);
    let said = node.said();
    for part in [
        "READY=1",
        "tcp://192.0.2.7:4420: ",
        "roce://192.0.2.7:4420: no interface",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    // It looks twice, and finds nothing.
    std::thread::sleep(Duration::from_secs(5));
    assert!(node.ctl("show").contains("missing   tcp://192.0.2.7:4420"));
    node.process.signal("TERM");
    assert_eq!(node.end().0, Some(0));
}

#[test]
fn the_log_is_shown() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let metrics = taken.local_addr().expect("it has one");
    drop(taken);
    let text = format!(
        "metrics = \"{metrics}\"\n{SUBSYSTEM}namespace = [{{device = \"file:/nonexistent/a\"}}]\n"
    );
    let node = Node::start(&["--patient"], &text);
    assert!(node.said().contains("READY=1"));
    let mut stream = TcpStream::connect(metrics).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
    stream
        .write_all(b"GET /log HTTP/1.1\r\n\r\n")
        .expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    assert!(
        answer.contains("200 OK") && answer.contains("text/plain"),
        "{answer}"
    );
    assert!(
        answer.contains("Z warn: ") && answer.contains("/nonexistent/a"),
        "{answer}"
    );
}

#[test]
fn a_configuration_can_be_checked() {
    let dir = tempfile::tempdir().expect("a directory");
    let check = |text: &str| {
        write(dir.path(), text);
        let path = dir.path().join("f.toml");
        run(ferroce().args(["serve", "--check", "--config"]).arg(path))
    };
    let good = check(&format!(
        "{SUBSYSTEM}namespace = [{{device = \"ram:1MiB\"}}]\n"
    ));
    assert!(good.status.success() && stdout(&good).contains("can be used"));
    let bad = check("spin = 5\n");
    assert!(!bad.status.success());
    assert!(String::from_utf8_lossy(&bad.stderr).contains("f.toml:2"));
}

/// The CPUs of a status file of /proc on which the thread may run.
fn allowed(status: &str) -> Vec<usize> {
    let list = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let ranges = list.expect("it is there").trim().split(',');
    let number = |text: &str| text.parse::<usize>().expect("a number");
    let range = |text: &str| {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        number(first)..=number(last)
    };
    ranges.flat_map(range).collect()
}

#[test]
fn nothing_but_its_core_runs_on_the_cpu_of_a_core() {
    let ours = allowed(&fs::read_to_string("/proc/thread-self/status").expect("Linux"));
    let [.., _, cpu] = ours[..] else {
        let _ = writeln!(std::io::stderr(), "SKIPPED: there is but one CPU here");
        return;
    };
    let dir = tempfile::tempdir().expect("a directory");
    let file = file(dir.path(), "drive", 1 << 20);
    let text = format!(
        "cores = [{cpu}]\nmetrics = \"127.0.0.1:0\"\n{SUBSYSTEM}namespace = [{{device = \"ram:1MiB\"}}, \
         {{device = \"file:{}\"}}, {{device = \"file:/no/such/file\"}}]\n",
        file.display()
    );
    let node = Node::start(&["--patient"], &text);
    assert!(node.said().contains("READY=1"));
    let mut cores = 0;
    let tasks = fs::read_dir(format!("/proc/{}/task", node.process.id())).expect("it runs");
    for task in tasks.flatten() {
        // One that has just ended has no status.
        let Ok(status) = fs::read_to_string(task.path().join("status")) else {
            continue;
        };
        let name = status.lines().next().unwrap_or_default();
        if name.contains("core 0") {
            assert_eq!(allowed(&status), [cpu], "{name}");
            cores += 1;
        } else {
            assert!(!allowed(&status).contains(&cpu), "{name}");
        }
    }
    assert_eq!(cores, 1);
}

/// What systemd finds wrong with a unit; None where there is no systemd-analyze.
fn wrong_with(unit: &str) -> Option<String> {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("ferroce.service");
    fs::write(&file, unit).expect("a file");
    let mut command = Command::new("systemd-analyze");
    // It may not be there.
    Command::new("systemd-analyze")
        .arg("--version")
        .output()
        .ok()?;
    command.args(["verify", "--man=no", "--recursive-errors=no"]);
    let output = run(command.arg(&file));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    // Of other units of this machine it may have something to say as well.
    let ours = |line: &&str| line.contains("ferroce.service");
    Some(said.lines().filter(ours).collect())
}

#[test]
fn systemd_understands_the_unit() {
    let unit = include_str!("../package/ferroce.service");
    let unit = unit.replace("/usr/bin/ferroce", env!("CARGO_BIN_EXE_ferroce"));
    let Some(wrong) = wrong_with(&unit) else {
        // Past the harness, which keeps what a test prints.
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED: there is no systemd-analyze here"
        );
        return;
    };
    assert_eq!(wrong, "");
    for (good, bad) in [
        ("Type=notify", "Type=notified"),
        ("LimitMEMLOCK=infinity", "LimitMEMLOCK=much"),
        ("@system-service", "@no-such-group"),
    ] {
        assert!(unit.contains(good), "{good}");
        let wrong = wrong_with(&unit.replace(good, bad)).expect("it was there");
        assert_ne!(wrong, "", "{bad} was not found");
    }
}
