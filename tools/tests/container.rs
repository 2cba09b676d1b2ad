//! Where little is allowed: few open files, no memory that may be locked, a user without rights, no io_uring. The
//! binary serves nevertheless, and says in one line what it did without.
//!
//! One of the rooms where `unsafe` lives: a filter of system calls is set between fork and exec.
#![allow(unsafe_code)]

mod common;

use std::io::Write;
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};

use common::{Process, Said, run, wait_until_it_says};

const FERROCE: &str = env!("CARGO_BIN_EXE_ferroce");

/// What a process may not have.
#[derive(Clone, Copy, Default)]
struct Confined {
    files: Option<u64>,
    locked_bytes: Option<u64>,
    no_io_uring: bool,
    /// In a user namespace of its own, whose rights count for nothing outside.
    no_rights: bool,
}

impl Confined {
    fn command(self, arguments: &[&str]) -> Command {
        let mut command = match self.no_rights {
            true => {
                let mut command = Command::new("unshare");
                command.args(["--user", "--map-root-user", "--", FERROCE]);
                command
            }
            false => Command::new(FERROCE),
        };
        command
            .args(arguments)
            .env_remove("RUST_LOG")
            .env_remove("XDG_RUNTIME_DIR");
        // SAFETY: between fork and exec nothing is called but system calls, on values of this closure.
        unsafe {
            command.pre_exec(move || {
                limit(libc::RLIMIT_NOFILE, self.files)?;
                limit(libc::RLIMIT_MEMLOCK, self.locked_bytes)?;
                match self.no_io_uring {
                    true => forbid_io_uring(),
                    false => Ok(()),
                }
            });
        }
        command
    }
}

fn check(result: libc::c_int) -> std::io::Result<()> {
    match result {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

fn limit(what: libc::__rlimit_resource_t, most: Option<u64>) -> std::io::Result<()> {
    let Some(most) = most else {
        return Ok(());
    };
    let limit = libc::rlimit {
        rlim_cur: most,
        rlim_max: most,
    };
    // SAFETY: the struct is ours and of the right type.
    check(unsafe { libc::setrlimit(what, &raw const limit) })
}

/// As container runtimes do it: the three system calls of io_uring fail with EPERM.
fn forbid_io_uring() -> std::io::Result<()> {
    let filter = |code: u32, jump_true, jump_false, k| libc::sock_filter {
        code: code as u16,
        jt: jump_true,
        jf: jump_false,
        k,
    };
    let equals = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let back = libc::BPF_RET | libc::BPF_K;
    let mut program = [
        filter(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        filter(equals, 2, 0, libc::SYS_io_uring_setup as u32),
        filter(equals, 1, 0, libc::SYS_io_uring_enter as u32),
        filter(equals, 0, 1, libc::SYS_io_uring_register as u32),
        filter(back, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        filter(back, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the filter is a valid program of six instructions, copied by the call.
    unsafe {
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
        let mode = libc::SECCOMP_MODE_FILTER;
        check(libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program))
    }
}

/// A container as most people start one, or `None`, said aloud, where this machine has no user namespaces.
fn container() -> Option<Confined> {
    let confined = Confined {
        locked_bytes: Some(64 << 10),
        no_io_uring: true,
        no_rights: true,
        ..Confined::default()
    };
    match confined.command(&["--version"]).output() {
        Ok(output) if output.status.success() => Some(confined),
        Ok(output) => {
            let why = String::from_utf8_lossy(&output.stderr);
            skipped(why.trim());
            None
        }
        Err(why) => {
            skipped(&format!("unshare: {why}"));
            None
        }
    }
}

/// Past the harness, which keeps what tests print to itself.
fn skipped(why: &str) {
    let _ = writeln!(
        std::io::stderr(),
        "SKIPPED: no unprivileged container here: {why}"
    );
}

struct Node {
    process: Process,
    err: Said,
    url: String,
}

impl Node {
    fn serve(confined: Confined, dir: &tempfile::TempDir, device: &str) -> Node {
        let ctl = dir.path().join("ctl.sock");
        let arguments = [
            "serve",
            "--device",
            device,
            "--listen",
            "tcp://127.0.0.1:0",
            "--ctl",
            ctl.to_str().expect("a path"),
        ];
        Node::start(confined, &arguments)
    }

    fn start(confined: Confined, arguments: &[&str]) -> Node {
        let mut process = Process::piped(&mut confined.command(arguments));
        let (mut out, mut err) = (process.stdout(), process.stderr());
        let Ok(greeting) = out.until(|said| said.contains("nvme disconnect")) else {
            panic!("the node did not start: {}", err.text());
        };
        let url = greeting
            .lines()
            .find_map(|line| line.trim().strip_prefix("at "));
        Node {
            url: url.expect("the greeting names it").to_owned(),
            process,
            err,
        }
    }

    /// Writes patterns and proves that what is read is the last one acknowledged.
    fn verify(&self, confined: Confined) {
        let arguments = [
            "probe",
            &self.url,
            "--verify",
            "--destroy-data",
            "--time",
            "300ms",
        ];
        succeeded(&run(&mut confined.command(&arguments)));
    }

    /// Ends it in good order; what it said meanwhile.
    fn stop(mut self) -> String {
        self.process.signal("TERM");
        let status = self.process.ended();
        let said = self.err.text();
        assert!(status.success(), "{said}");
        said
    }
}

fn succeeded(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn one_line(said: &str, what: &str) {
    let lines = said.lines().filter(|line| line.contains(what)).count();
    assert_eq!(lines, 1, "one line that says `{what}`: {said}");
}

#[test]
fn few_files_are_said_and_survived() {
    let dir = tempfile::tempdir().expect("a directory");
    let confined = Confined {
        files: Some(64),
        ..Confined::default()
    };
    let node = Node::serve(confined, &dir, "ram:16MiB");
    node.verify(Confined::default());
    // More connections than there are descriptors for: those that are there go on, and when the others
    // are gone there is room again.
    let address = node
        .url
        .strip_prefix("tcp://")
        .expect("over TCP")
        .to_owned();
    let crowd: Vec<TcpStream> = (0..150)
        .map_while(|_| TcpStream::connect(&address).ok())
        .collect();
    assert!(crowd.len() > 64, "{} connections", crowd.len());
    drop(crowd);
    node.verify(Confined::default());
    one_line(&node.stop(), "only 64 files may be open");
}

#[test]
fn without_locked_memory_a_file_is_served_by_threads_or_io_uring_that_needs_none() {
    let confined = Confined {
        locked_bytes: Some(0),
        no_io_uring: false,
        ..match container() {
            Some(container) => container,
            None => return,
        }
    };
    let dir = tempfile::tempdir().expect("a directory");
    let device = format!("file:{}/disk,size=16MiB", dir.path().display());
    let node = Node::serve(confined, &dir, &device);
    node.verify(Confined::default());
    let said = node.stop();
    // Since Linux 5.12 only what is registered is locked memory, before it was the ring as well.
    let says = |what: &str| said.contains(what) && said.contains("ulimit -l");
    let named = says("no io_uring here") || says("does not register");
    // Some sandboxes forbid io_uring altogether.
    assert!(named || said.contains("Operation not permitted"), "{said}");
}

#[test]
fn a_file_is_served_in_an_unprivileged_container() {
    let Some(container) = container() else {
        return;
    };
    let dir = tempfile::tempdir().expect("a directory");
    let device = format!("file:{}/disk,size=16MiB", dir.path().display());
    let node = Node::serve(container, &dir, &device);
    node.verify(container);
    one_line(&node.stop(), "no io_uring here (Operation not permitted");
}

#[test]
fn the_demo_runs_in_an_unprivileged_container() {
    let Some(container) = container() else {
        return;
    };
    let mut demo = container.command(&["demo", "--time", "100ms", "--size", "16MiB"]);
    let said = succeeded(&run(&mut demo));
    assert!(said.contains("4 KiB reads"), "{said}");
}

#[test]
fn a_host_for_whom_there_is_no_queue_is_told_so() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = dir.path().join("ferroce.toml");
    let text = format!(
        "listen = [\"tcp://127.0.0.1:0\"]\nctl = \"{}/ctl.sock\"\n[limits]\nqueues = 2\n[[subsystem]]\n\
         nqn = \"nqn.2026-01.test:few\"\n[[subsystem.namespace]]\ndevice = \"ram:16MiB\"\n",
        dir.path().display()
    );
    std::fs::write(&config, text).expect("is written");
    let path = config.to_str().expect("a path");
    let node = Node::start(Confined::default(), &["serve", "--config", path]);
    let probe = |time| {
        let mut probe = Confined::default().command(&["probe", &node.url, "--time", time]);
        Process::piped(&mut probe)
    };
    let socket = dir.path().join("ctl.sock");
    let socket = socket.to_str().expect("a path");
    let until_hosts = |what: &str| {
        let mut ctl = Confined::default().command(&["ctl", "--ctl", socket, "hosts", "--json"]);
        wait_until_it_says(what, || succeeded(&run(&mut ctl)));
    };
    // An admin queue and an I/O queue are all there is.
    let first = probe("3s");
    until_hosts("\"queues\": 2");
    let second = probe("100ms").output();
    assert!(!second.status.success(), "there is no place for it");
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(said.contains("limits.queues"), "{said}");
    succeeded(&first.output());
    // There is room again.
    until_hosts("[]");
    succeeded(&probe("100ms").output());
    let said = node.stop();
    assert!(said.contains("raise `limits.queues`"), "{said}");
}
