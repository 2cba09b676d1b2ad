//! The first process once the machine is ready: starts the node, hears of what happens, ends in order.

use std::fs;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use ferroce_drivers::pci::{Address, Sysfs};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, wait};
use signal_hook::consts::{SIGCHLD, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::board::Board;
use super::button::Buttons;
use super::links::Links;
use super::modules::Modules;
use super::places::set;
use super::{End, VARIABLE, net, raise_all_limits, settings};
use crate::config::Config;
use crate::devices;
use crate::fail::{Context, Result, fail};
use crate::node;
use crate::usage;

/// What is missing is looked for so often.
const TEND: Duration = Duration::from_secs(2);
/// A node that ends gets so long to finish what is outstanding and to shut its drives down.
const END: Duration = Duration::from_secs(60);
/// One that lived so long was no failed start.
const LIVED: Duration = Duration::from_secs(30);
/// After so many failed starts in a row, the machine starts again.
const STARTS: u32 = 5;
/// What hardware there is appears in this time after the start, most of it at once.
const SETTLE: Duration = Duration::from_secs(3);
/// Between two starts.
const PAUSE: Duration = Duration::from_secs(1);
const NOTIFY: &str = "/run/ferroce/notify";
const HUGE: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
const HUGE_LEN: u64 = 2 << 20;
/// Bytes of memory that are not made huge pages: for the kernel's network, and for processes.
const KEPT: u64 = 192 << 20;

/// What happens to a machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A child ended.
    Child,
    /// The power button was pressed.
    Button,
    /// Somebody wants the machine to start again: Ctrl-Alt-Del, say.
    Restart(&'static str),
    /// What the node says of itself.
    Status(String),
}

/// Gets the machine ready, runs the node, and returns when the machine is to end.
pub fn live() -> Result<End> {
    let board = Board::of_machine();
    let (send, events) = channel();
    hear_signals(send.clone())?;
    hear_node(send.clone())?;
    raise_all_limits()?;
    if let Err(why) = net::loopback_up() {
        board.miss("loopback", &why.0);
    }
    let mut modules = Modules::of_this_kernel();
    let (config, file) = settings::read(&board, &mut modules)?;
    if let Some(name) = &config.machine.hostname {
        set("/proc/sys/kernel/hostname", name);
    }
    let mut machine = Machine {
        modules,
        links: Links::of(&config.machine, board.clone()),
        drives: drives(&config),
        buttons: Buttons::default(),
        board,
        events: send,
        file,
    };
    machine.load_modules(&config);
    machine.set_huge_pages_aside(&config);
    machine.settle();
    machine.tend();
    machine.run(&events)
}

#[derive(Debug)]
struct Machine {
    modules: Modules,
    links: Links,
    /// NVMe drives to take from the kernel.
    drives: Vec<Address>,
    buttons: Buttons,
    board: Board,
    events: Sender<Event>,
    /// The node's configuration.
    file: PathBuf,
}

/// The node, as a child.
#[derive(Debug)]
struct Child {
    pid: Pid,
    since: Instant,
}

impl Machine {
    /// What no device asks for by itself.
    fn load_modules(&self, config: &Config) {
        let mut wanted = vec!["evdev", "button"];
        if !self.drives.is_empty() {
            wanted.extend(["vfio_iommu_type1", "vfio_pci"]);
        }
        if config.has_rdma() {
            wanted.extend(["ib_uverbs", "rdma_ucm"]);
        }
        // What the image does not have may be part of the kernel itself.
        wanted.retain(|name| self.modules.has(name));
        wanted.extend(config.machine.modules.iter().map(String::as_str));
        for name in wanted {
            if let Err(why) = self.modules.load(name) {
                self.board.miss(&format!("kernel module {name}"), &why.0);
            }
        }
    }

    fn set_huge_pages_aside(&self, config: &Config) {
        let wanted = match config.machine.huge_pages {
            Some(size) => size.0,
            None if config.memory.huge_pages => node::memory_wanted(config),
            None => return,
        };
        let wanted = wanted.div_ceil(HUGE_LEN);
        // The kernel would give all it has, and then have none for itself.
        let room =
            node::memory_available().map_or(wanted, |bytes| bytes.saturating_sub(KEPT) / HUGE_LEN);
        let written = fs::write(HUGE, wanted.min(room).to_string());
        let there = fs::read_to_string(HUGE).unwrap_or_default();
        let there: u64 = there.trim().parse().unwrap_or(0);
        match written {
            Ok(()) if there >= wanted => log::info!("{there} huge pages of 2 MiB are set aside"),
            Ok(()) => self.board.miss(
                "huge pages",
                &format!(
                    "{there} of 2 MiB could be set aside of the {wanted} that are wanted; the rest is pages of 4 KiB"
                ),
            ),
            Err(cause) => self.board.miss("huge pages", &format!("the kernel has none: {cause}")),
        }
    }

    /// Interfaces appear a moment after their drivers were loaded; those that are missing then are missing.
    fn settle(&mut self) {
        self.take_drives();
        let until = Instant::now() + SETTLE;
        loop {
            self.load_drivers();
            if self.links.are_there() || Instant::now() >= until {
                return;
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Looks for what is new or was missing.
    fn tend(&mut self) {
        self.take_drives();
        self.load_drivers();
        self.links.tend(&self.modules);
        self.buttons.watch(&self.events);
    }

    /// Before drivers are loaded: the kernel's own takes what is nobody's.
    fn take_drives(&self) {
        let sysfs = Sysfs::default();
        for drive in &self.drives {
            let what = format!("drive {drive}");
            // One that is not there is what the node tells of.
            match sysfs.exists(*drive).then(|| devices::take(&sysfs, *drive)) {
                Some(Ok(true)) => self.board.found(&what, "taken from the kernel"),
                Some(Err(why)) => self.board.miss(&what, &why.0),
                Some(Ok(false)) | None => self.board.forget(&what),
            }
        }
    }

    fn load_drivers(&mut self) {
        for why in self.modules.load_for_hardware() {
            log::warn!("{why}");
        }
    }

    fn run(&mut self, events: &Receiver<Event>) -> Result<End> {
        let mut child = Some(self.start()?);
        let mut again = Instant::now();
        let mut failed = 0;
        let mut tended = Instant::now();
        loop {
            let end = match events.recv_timeout(TEND.saturating_sub(tended.elapsed())) {
                Ok(Event::Button) => Some((End::PowerOff, "the power button was pressed")),
                Ok(Event::Restart(why)) => Some((End::Restart, why)),
                Ok(Event::Status(status)) => {
                    self.tell(&status);
                    None
                }
                Ok(Event::Child) => {
                    if let Some(status) = child.as_ref().and_then(|child| reap(child.pid)) {
                        let ended = child.take().expect("it was there");
                        failed = match ended.since.elapsed() < LIVED {
                            true => failed + 1,
                            false => 0,
                        };
                        log::error!("the node ended: {}", told(status));
                        if failed == STARTS {
                            fail!("the node ended {failed} times in a row, soon after its start");
                        }
                        again = Instant::now() + PAUSE;
                    }
                    None
                }
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => fail!("nobody tells of events any more"),
            };
            if let Some((end, why)) = end {
                log::info!("{why}: ending in order");
                if let Some(child) = child {
                    stop(&child, events);
                }
                return Ok(end);
            }
            if child.is_none() && Instant::now() >= again {
                child = Some(self.start()?);
            }
            if tended.elapsed() >= TEND {
                self.tend();
                tended = Instant::now();
            }
        }
    }

    fn start(&self) -> Result<Child> {
        let child = Command::new("/proc/self/exe")
            .arg0("ferroce")
            .args(["serve", "--patient", "--config"])
            .arg(&self.file)
            .env(VARIABLE, "1")
            .env("NOTIFY_SOCKET", NOTIFY)
            .env("PATH", "/bin:/sbin")
            .spawn()
            .context(|| "cannot start the node")?;
        let Some(pid) = Pid::from_raw(child.id().cast_signed()) else {
            fail!("the node has the process number 0");
        };
        Ok(Child {
            pid,
            since: Instant::now(),
        })
    }

    /// The status line: what the node says, and what else is missing.
    fn tell(&self, status: &str) {
        let up = fs::read_to_string("/proc/uptime").unwrap_or_default();
        let up = up.split_whitespace().next().unwrap_or("?").to_owned();
        log::info!(
            "after {up} s, with {} MiB of memory of its own: {status}",
            memory() >> 20
        );
        for line in self.board.lines() {
            log::info!("still missing: {line}");
        }
    }
}

/// Bytes that this system takes beside the kernel, buffers and drives in memory, and what was set aside: of all processes,
/// and of the files in memory. What processes share with files is counted with the files.
fn memory() -> u64 {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let own: u64 = processes
        .filter_map(|process| process.file_name().to_str()?.parse().ok())
        .filter_map(usage::anonymous_memory)
        .sum();
    let files = rustix::fs::statvfs("/").map_or(0, |root| {
        root.f_blocks.saturating_sub(root.f_bfree) * root.f_frsize
    });
    own + files
}

/// The NVMe drives that the node drives itself.
fn drives(config: &Config) -> Vec<Address> {
    let namespaces = config.subsystem.iter().flat_map(|s| &s.namespace);
    namespaces
        .filter_map(|namespace| Some(namespace.spec().nvme()?.0))
        .collect()
}

/// Has a node end, and waits until it did, or until it took too long.
fn stop(child: &Child, events: &Receiver<Event>) {
    let until = Instant::now() + END;
    if kill_process(child.pid, Signal::TERM).is_err() {
        return;
    }
    while let Ok(event) = events.recv_timeout(until.saturating_duration_since(Instant::now())) {
        if event == Event::Child && reap(child.pid).is_some() {
            return;
        }
    }
    log::error!(
        "the node did not end within {} s; ending without it",
        END.as_secs()
    );
    // Drives are reset when their file is closed.
    let _ = kill_process(child.pid, Signal::KILL);
    thread::sleep(PAUSE);
}

/// Takes in every child that ended: orphans of others are ours as well. The status of this one, if it is among them.
fn reap(wanted: Pid) -> Option<WaitStatus> {
    let mut found = None;
    while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
        if pid == wanted {
            found = Some(status);
        }
    }
    found
}

fn told(status: WaitStatus) -> String {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(status), _) => format!("exit status {status}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "for no known reason".into(),
    }
}

fn hear_signals(events: Sender<Event>) -> Result<()> {
    let what = || "cannot hear signals";
    let mut signals = Signals::new([SIGCHLD, SIGINT, SIGTERM]).context(what)?;
    let listen = move || {
        for signal in &mut signals {
            let event = match signal {
                SIGCHLD => Event::Child,
                SIGINT => Event::Restart("Ctrl-Alt-Del"),
                _ => Event::Restart("SIGTERM"),
            };
            if events.send(event).is_err() {
                return;
            }
        }
    };
    let thread = thread::Builder::new().name("signals".into()).spawn(listen);
    thread.map(drop).context(what)
}

/// The node speaks as services do to their manager: sd_notify(3).
fn hear_node(events: Sender<Event>) -> Result<()> {
    let what = || "cannot hear the node";
    let socket = notify_socket(Path::new(NOTIFY)).context(what)?;
    let listen = move || {
        let mut bytes = [0; 4096];
        while let Ok(count) = socket.recv(&mut bytes) {
            let text = String::from_utf8_lossy(&bytes[..count]).into_owned();
            let status = text.lines().find_map(|line| line.strip_prefix("STATUS="));
            if let Some(status) = status
                && events.send(Event::Status(status.to_owned())).is_err()
            {
                return;
            }
        }
    };
    let thread = thread::Builder::new().name("node".into()).spawn(listen);
    thread.map(drop).context(what)
}

fn notify_socket(path: &Path) -> io::Result<UnixDatagram> {
    let _ = fs::remove_file(path);
    UnixDatagram::bind(path)
}
