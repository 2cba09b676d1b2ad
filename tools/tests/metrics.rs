//! What a node tells of its work: the slowest I/Os, metrics and status.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{Process, SetAtEnd, run, wait_for};

use ferroce_engine::host as nvme;
use ferroce_transport::host::{Controller, Data, HostIdentity, Options, Queue};
use ferroce_wire::fabrics::Nqn;
use ferroce_wire::sqe::Sqe;
use ferroce_wire::status::Status;
use serde_json::Value;

const NQN: &str = "nqn.2024-01.org.example:node";

/// A node that runs until the test ends.
struct Node {
    _process: Process,
    dir: tempfile::TempDir,
    address: SocketAddr,
    /// Where it is measured.
    metrics: SocketAddr,
}

impl Node {
    fn serve(arguments: &[&str]) -> Node {
        let dir = tempfile::tempdir().expect("a directory");
        let mut command = Command::new(env!("CARGO_BIN_EXE_ferroce"));
        command
            .env_remove("RUST_LOG")
            .args(["serve", "--listen", "tcp://127.0.0.1:0", "--nqn", NQN])
            .args(["--metrics", "127.0.0.1:0"])
            .args(["--device", "ram:16MiB", "--device", "ram:1MiB", "--ctl"])
            .arg(dir.path().join("ctl.sock"))
            .args(arguments)
            .stdout(Stdio::piped());
        let mut process = Process::spawn(&mut command);
        // To the last line of the greeting.
        let greeting = process.stdout().until(|said| said.ends_with("\n\n"));
        let greeting = greeting.expect("it starts");
        let after = |what| {
            let mut lines = greeting.lines();
            let rest = lines.find_map(|line| line.trim().strip_prefix(what))?;
            rest.split('/').next()?.parse().ok()
        };
        Node {
            address: after("at tcp://").expect("the greeting names the address"),
            metrics: after("measured at http://").expect("the greeting names that, too"),
            _process: process,
            dir,
        }
    }

    fn client(&self) -> TcpStream {
        let stream = TcpStream::connect(self.metrics).expect("it listens");
        let patience = Some(Duration::from_secs(30));
        stream.set_read_timeout(patience).expect("not zero");
        stream
    }

    /// Sends bytes; the status line, and the body.
    fn http(&self, request: &[u8]) -> (String, String) {
        let mut stream = self.client();
        stream.write_all(request).expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a whole head");
        let len = format!("Content-Length: {}", body.len());
        assert!(head.lines().any(|line| line == len), "{head}");
        let status = head.lines().next().expect("a status line");
        (status.to_owned(), body.to_owned())
    }

    fn get(&self, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nHost: node\r\n\r\n");
        let (status, body) = self.http(request.as_bytes());
        assert_eq!(status, "HTTP/1.1 200 OK");
        body
    }

    fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        Metrics::parse(&self.get("/metrics")).sum(name, labels)
    }

    /// Waits until a metric is what it is to be: pages are made a few times a second.
    fn wait_until(&self, name: &str, labels: &[(&str, &str)], is: impl Fn(f64) -> bool) {
        wait_for(&format!("{name} {labels:?}"), || {
            let count = self.sum(name, labels);
            if is(count) {
                Ok(())
            } else {
                Err(count.to_string())
            }
        });
    }

    /// The metrics, once they say that nothing is under way.
    fn settled(&self) -> Metrics {
        self.wait_until("ferroce_io_depth", &[], |depth| depth == 0.0);
        std::thread::sleep(Duration::from_millis(200));
        Metrics::parse(&self.get("/metrics"))
    }

    fn ctl(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ferroce"));
        command
            .arg("ctl")
            .arg("--ctl")
            .arg(self.dir.path().join("ctl.sock"))
            .args(arguments);
        let output = run(&mut command);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    fn ctl_json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.ctl(&[arguments, &["--json"]].concat())).expect("JSON")
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
        let done = self.queue.exec(sqe, Data::zeroed(4096), "an I/O command");
        done.expect("it is answered").status()
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

/// Samples by name and sorted labels, of a page that keeps the rules of the text format.
struct Metrics(BTreeMap<(String, Vec<(String, String)>), f64>);

impl Metrics {
    /// Reads a page strictly: what is not allowed fails the test (OpenMetrics 1.0, text format).
    fn parse(page: &str) -> Metrics {
        let body = page.strip_suffix("# EOF\n").expect("ends with EOF");
        let mut samples = BTreeMap::new();
        let (mut family, mut kind) = (String::new(), String::new());
        let mut families = BTreeSet::new();
        for line in body.split_inclusive('\n') {
            let line = line.strip_suffix('\n').expect("lines end");
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').expect("a help text");
                assert!(
                    !help.is_empty() && families.insert(name.to_owned()),
                    "{line}"
                );
                let unit = name.rsplit('_').next();
                let base = !["percent", "hours", "ms", "us", "ns"]
                    .map(Some)
                    .contains(&unit);
                assert!(base, "{name} is in no base unit");
                name.clone_into(&mut family);
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, of) = rest.split_once(' ').expect("a type");
                assert_eq!(name, family);
                of.clone_into(&mut kind);
            } else {
                let (name, labels, value) = sample(line);
                let suffix = name.strip_prefix(&family).expect("a sample of this family");
                let suffixes: &[&str] = match kind.as_str() {
                    "counter" => &["_total"],
                    "gauge" => &[""],
                    "info" => &["_info"],
                    "histogram" => &["_bucket", "_count", "_sum"],
                    other => panic!("a type of {other}"),
                };
                assert!(suffixes.contains(&suffix), "{line}");
                assert!(kind == "gauge" || value >= 0.0, "{line}");
                let key = (name, labels);
                assert!(samples.insert(key, value).is_none(), "twice: {line}");
            }
        }
        let metrics = Metrics(samples);
        metrics.check_histograms();
        metrics
    }

    /// Buckets ascend, and the last one is the count.
    fn check_histograms(&self) {
        let mut buckets: BTreeMap<(String, Vec<_>), Vec<(f64, f64)>> = BTreeMap::new();
        for ((name, labels), value) in &self.0 {
            if let Some(family) = name.strip_suffix("_bucket") {
                let mut labels = labels.clone();
                let le = labels.iter().position(|(key, _)| key == "le");
                let (_, le) = labels.remove(le.expect("a bucket has a bound"));
                let le = le.replace("+Inf", "inf").parse().expect("a number");
                let key = (family.to_owned(), labels);
                buckets.entry(key).or_default().push((le, *value));
            }
        }
        for ((family, labels), mut buckets) in buckets {
            buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
            assert!(buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1));
            let last = buckets.last().expect("it has some");
            let count = self.0[&(format!("{family}_count"), labels)];
            assert_eq!(*last, (f64::INFINITY, count));
        }
    }

    /// The sum of the samples of this name that have these labels.
    fn sum(&self, name: &str, wanted: &[(&str, &str)]) -> f64 {
        let has = |labels: &[(String, String)]| {
            let mut wanted = wanted.iter();
            wanted.all(|(key, value)| labels.iter().any(|(k, v)| k == key && v == value))
        };
        let mut found = self
            .0
            .iter()
            .filter(|((known, labels), _)| known == name && has(labels));
        let first = found.next().map_or(0.0, |(_, value)| *value);
        first + found.map(|(_, value)| value).sum::<f64>()
    }
}

/// Name, sorted labels, value of a line.
fn sample(line: &str) -> (String, Vec<(String, String)>, f64) {
    let is_name = |name: &str| {
        let mut chars = name.chars();
        chars
            .next()
            .is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
            && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    let end = line.find(['{', ' ']).expect("a name ends");
    let (name, mut rest) = line.split_at(end);
    assert!(is_name(name), "{line}");
    let mut labels = Vec::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            let (key, after) = rest.split_once("=\"").expect("a label has a value");
            assert!(is_name(key), "{line}");
            let mut value = String::new();
            let mut chars = after.char_indices();
            let end = loop {
                match chars.next().expect("a value ends") {
                    (at, '"') => break at,
                    (_, '\\') => match chars.next().expect("something is escaped").1 {
                        'n' => value.push('\n'),
                        c @ ('"' | '\\') => value.push(c),
                        c => panic!("\\{c} in {line}"),
                    },
                    (_, c) => value.push(c),
                }
            };
            labels.push((key.to_owned(), value));
            rest = &after[end + 1..];
            match rest.strip_prefix(',') {
                Some(more) => rest = more,
                None => break,
            }
        }
        rest = rest.strip_prefix('}').expect("labels end");
    }
    let value = rest
        .strip_prefix(' ')
        .expect("a value")
        .parse()
        .expect("a number");
    labels.sort();
    (name.to_owned(), labels, value)
}

#[test]
fn counters_add_up_with_what_hosts_sent_while_they_are_read() {
    let node = Node::serve(&["--cores", "0"]);
    let loads = [("a", 1, 300), ("b", 1, 200), ("b", 2, 100), ("c", 2, 50)];
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let at_end = SetAtEnd(&over);
        let scrapes = scope.spawn(|| {
            let mut pages = 0;
            while !over.load(Ordering::Relaxed) {
                Metrics::parse(&node.get("/metrics"));
                pages += 1;
            }
            pages
        });
        let hosts = loads.map(|(name, nsid, reads)| {
            let address = node.address;
            scope.spawn(move || Host::connect(address, name).load(nsid, reads))
        });
        hosts
            .into_iter()
            .for_each(|host| host.join().expect("served"));
        drop(at_end);
        assert!(scrapes.join().expect("parsed") > 0);
    });
    let metrics = node.settled();
    for (name, nsid, reads) in loads {
        let host = format!("nqn.2024-01.org.example:{name}");
        let nsid = nsid.to_string();
        let (reads, writes) = (reads as f64, (reads / 2) as f64);
        for (operation, count) in [("read", reads), ("write", writes)] {
            let whose = [
                ("host", host.as_str()),
                ("subsystem", NQN),
                ("nsid", &nsid),
                ("operation", operation),
            ];
            let is =
                |name: &str, wanted| assert_eq!(metrics.sum(name, &whose), wanted, "{whose:?}");
            is("ferroce_io_seconds_count", count);
            is("ferroce_io_bytes_total", count * 4096.0);
            // Three phases.
            is("ferroce_io_phase_seconds_count", 3.0 * count);
            let time = metrics.sum("ferroce_io_seconds_sum", &whose);
            let parts = metrics.sum("ferroce_io_phase_seconds_sum", &whose);
            assert!(time > 0.0 && (time - parts).abs() < 1e-6, "{time} {parts}");
        }
    }
    let total = |name: &str| metrics.sum(name, &[]);
    assert_eq!(total("ferroce_core_reads_total"), 650.0);
    assert_eq!(total("ferroce_core_writes_total"), 325.0);
    assert_eq!(total("ferroce_core_read_bytes_total"), 650.0 * 4096.0);
    assert_eq!(total("ferroce_core_written_bytes_total"), 325.0 * 4096.0);
    let copied = metrics.sum("ferroce_copied_bytes_total", &[("why", "in-capsule")]);
    assert_eq!(
        copied,
        325.0 * 4096.0,
        "writes of a page come in their capsules"
    );
    // An admin queue and an I/O queue each.
    assert_eq!(total("ferroce_core_connects_total"), 8.0);
    assert_eq!(total("ferroce_core_buffer_used_bytes"), 0.0);
    assert!(total("ferroce_core_buffer_bytes") > 0.0);
    let uptime = total("ferroce_uptime_seconds");
    let spent = |state| metrics.sum("ferroce_core_seconds_total", &[("state", state)]);
    assert!(spent("busy") > 0.0 && spent("asleep") > 0.0);
    let all = spent("busy") + spent("spinning") + spent("asleep");
    assert!((all - uptime).abs() < 0.1 * uptime, "{all} of {uptime} s");
}

#[test]
fn errors_disconnects_and_strange_names_are_told() {
    let node = Node::serve(&["--cores", "0"]);
    let mut host = Host::connect(node.address, "a\"b\\c");
    assert!(!host.ask(nvme::read(1, u64::MAX - 8, 1)).is_success());
    assert!(!host.ask(nvme::read(9, 0, 1)).is_success());
    host.load(1, 1);
    let name = host.nqn.clone();
    let metrics = node.settled();
    let whose = [("host", name.as_str())];
    assert_eq!(metrics.sum("ferroce_io_seconds_count", &whose), 2.0);
    // The namespace that is not there has no series.
    assert_eq!(
        metrics.sum("ferroce_io_seconds_count", &[("host", "other")]),
        1.0
    );
    let kinds = ["LBA Out of Range", "Invalid Namespace or Format"];
    for kind in kinds {
        let found = metrics.0.iter().any(|((metric, labels), count)| {
            metric == "ferroce_errors_total" && labels[0].1.starts_with(kind) && *count == 1.0
        });
        assert!(found, "{kind}");
    }
    assert_eq!(metrics.sum("ferroce_core_disconnects_total", &[]), 0.0);

    let status: Value = serde_json::from_str(&node.get("/status?pretty")).expect("JSON");
    assert_eq!(status["hosts"][0]["nqn"], name.as_str());
    assert!(status["node"]["cores"][0]["busy_ns"].as_u64() > Some(0));
    let io = status["io"].as_array().expect("a list");
    let mine = io
        .iter()
        .find(|io| io["host"] == name.as_str())
        .expect("listed");
    assert_eq!(mine["read"]["count"], 2);
    let us = |quantile: &str| {
        mine["read"]["total-us"][quantile]
            .as_f64()
            .expect("a number")
    };
    assert!(us("p50") > 0.0 && us("p50") <= us("p99") && us("p99") <= us("max"));

    drop(host);
    node.wait_until("ferroce_core_disconnects_total", &[], |count| count >= 2.0);
    let shown = node.ctl(&["show"]);
    let core = shown
        .lines()
        .find(|line| line.starts_with("core 0"))
        .expect("shown");
    for part in ["% busy", "% polling", "% asleep", "buffers in use"] {
        assert!(core.contains(part), "{core}");
    }
}

#[test]
fn clients_that_mean_no_good_cost_only_themselves() {
    let node = Node::serve(&[]);
    let mut host = Host::connect(node.address, "a");
    let says = |request: &[u8], status: &str| {
        let said = node.http(request).0;
        assert!(said.ends_with(status), "{said}");
    };
    says(b"GET /nothing HTTP/1.1\r\n\r\n", "404 Not Found");
    says(b"POST /metrics HTTP/1.1\r\n\r\n", "405 Method Not Allowed");
    says(b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", "400 Bad Request");
    says(b"GET /metrics HTTP/7.0\r\n\r\n", "400 Bad Request");
    says(b"GET http://node/log?all HTTP/1.1\r\n\r\n", "200 OK");
    says(b"GET http://node HTTP/1.1\r\n\r\n", "404 Not Found");
    for (request, status, line) in [
        (&b"PUT / HTTP/1.1\r\n\r\n"[..], "405", "Allow: GET, HEAD"),
        (b"HEAD / HTTP/1.1\r\n\r\n", "200", "Content-Length: 22"),
    ] {
        let mut stream = node.client();
        stream.write_all(request).expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a whole head");
        let as_it_should = head.contains(status) && head.lines().any(|found| found == line);
        assert!(as_it_should, "{head}");
        assert_eq!(body.is_empty(), request.starts_with(b"HEAD"), "{body}");
    }
    let long = format!("GET / HTTP/1.1\r\nLong: {}", "x".repeat(9000));
    says(long.as_bytes(), "431 Request Header Fields Too Large");
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(100));
    says(many.as_bytes(), "431 Request Header Fields Too Large");
    // In pieces, and with more than was asked for after it.
    let mut pieces = node.client();
    for piece in [
        &b"GE"[..],
        b"T / HTTP/1.1\r",
        b"\n\r\nGET / HTTP/1.1\r\n\r\n",
    ] {
        pieces.write_all(piece).expect("it reads");
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut answer = String::new();
    pieces.read_to_string(&mut answer).expect("it answers");
    assert!(answer.ends_with("/metrics\n/status\n/log\n"), "{answer}");

    // Some say nothing, some half of it, some never read, some send without end; then some more.
    let mut others = Vec::new();
    for i in 0..200 {
        let mut stream = node.client();
        let said = match i % 4 {
            0 => Ok(()),
            1 => stream.write_all(b"GET /metrics HT"),
            2 => stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n"),
            _ => {
                stream.set_nonblocking(true).expect("it can be");
                let _ = stream.write(b"GET /status HTTP/1.1\r\n\r\n");
                while stream.write(&[b'x'; 4096]).is_ok() {}
                Ok(())
            }
        };
        // Those that are in the way are cut off.
        let _ = said;
        others.push(stream);
        if i % 10 == 0 {
            Metrics::parse(&node.get("/metrics"));
            host.load(1, 10);
        }
    }
    Metrics::parse(&node.get("/metrics"));
    // The oldest made room for those that came later.
    let mut rest = Vec::new();
    let gone = others[0].read_to_end(&mut rest);
    assert!(gone.is_err() || rest.is_empty());
}

#[test]
fn an_address_that_is_taken_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound").to_string();
    let dir = tempfile::tempdir().expect("a directory");
    let mut command = Command::new(env!("CARGO_BIN_EXE_ferroce"));
    command
        .args(["serve", "--device", "ram:1MiB"])
        .args(["--listen", "tcp://127.0.0.1:0", "--metrics", &address])
        .arg("--ctl")
        .arg(dir.path().join("ctl.sock"));
    let output = run(&mut command);
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let why = format!(
        "cannot serve metrics at {address}: Address already in use (os error 98); another program"
    );
    assert!(said.contains(&why), "{said}");
}

#[test]
fn what_goes_wrong_and_what_waits_is_counted() {
    let small = ["--device", "ram:1MiB,block=512"];
    let node = Node::serve(&[&["--cores", "0", "--buffers", "16MiB"], &small[..]].concat());
    let until = |name: &str, label: Option<&str>, least: f64| {
        let labels: Vec<_> = label.map(|what| ("what", what)).into_iter().collect();
        node.wait_until(name, &labels, |count| count >= least);
    };
    // No PDU is of this type.
    let mut rude = TcpStream::connect(node.address).expect("connects");
    rude.write_all(&[0xff; 128]).expect("it reads");
    until("ferroce_tcp_total", Some("violations"), 1.0);
    // An H2CTermReq: PDU-type, FLAGS, HLEN, PDO, PLEN, FES 1.
    let mut leaving = TcpStream::connect(node.address).expect("connects");
    let mut term = [0; 24];
    (term[0], term[2], term[4], term[8]) = (0x02, 24, 24, 1);
    leaving.write_all(&term).expect("it reads");
    until("ferroce_tcp_total", Some("terminated"), 1.0);
    let shown = node.ctl(&["show"]);
    assert!(
        shown.contains("tcp     violations 1, terminated 1"),
        "{shown}"
    );

    // A write that its host does not go on with: its data is more than fits a capsule, and the R2T is not looked at.
    let mut host = Host::connect(node.address, "a");
    let write = nvme::write(1, 0, 32, false);
    let data = Data::zeroed(32 * 4096);
    host.queue.submit(write, data, 0).expect("there is room");
    host.queue.flush();
    until("ferroce_io_depth", None, 1.0);
    drop(host);

    // Twice as much data at a time as there is memory for, and blocks that are less than a page.
    for arguments in [
        &[
            "--depth=128",
            "--queues=2",
            "--block-size=128KiB",
            "--nsid=1",
        ][..],
        &["--block-size=512", "--nsid=3"],
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ferroce"));
        command
            .args(["probe", &format!("tcp://{}", node.address), "--time=200ms"])
            .args(["--write=100", "--destroy-data"])
            .args(arguments);
        let output = run(&mut command);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
    }
    until("ferroce_core_waits_total", None, 1.0);
    let metrics = node.settled();
    for why in ["in-capsule", "part-of-page"] {
        let copied = metrics.sum("ferroce_copied_bytes_total", &[("why", why)]);
        assert!(copied > 0.0, "{why}");
    }
    assert!(metrics.sum("ferroce_core_landing_bytes", &[]) > 0.0);

    // A host that says nothing for longer than it said it would.
    let options = Options {
        identity: HostIdentity::random(),
        kato_ms: 1000,
        background: false,
        ..Options::default()
    };
    let subsystem = Nqn::new(NQN).expect("a name");
    let _silent = Controller::connect(node.address, &subsystem, &options).expect("connects");
    until("ferroce_core_keep_alive_expiries_total", None, 1.0);
}
