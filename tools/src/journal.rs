//! What the program says of itself: to standard error, and into a ring that the node shows at `/log`. On a machine whose
//! only program this is, the ring is the kernel's log, which holds what the kernel and the first process said as well.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Mutex, OnceLock, PoisonError};

use log::{LevelFilter, Log, Metadata, Record};

use crate::boot;

/// Bytes of text that are kept.
const RING: usize = 256 * 1024;
/// Of one line, so much is kept.
const LINE: usize = 1024;
/// The kernel's log.
const KERNEL: &str = "/dev/kmsg";

static JOURNAL: OnceLock<Journal> = OnceLock::new();

struct Journal {
    /// Says what goes to standard error, by RUST_LOG.
    terminal: env_logger::Logger,
    kept: Kept,
}

/// Where lines are kept.
enum Kept {
    Here(Mutex<Ring>),
    Kernel(Mutex<File>),
}

/// The latest lines.
#[derive(Debug, Default)]
struct Ring {
    lines: VecDeque<String>,
    bytes: usize,
}

/// Warnings and above to standard error, unless RUST_LOG says otherwise; the ring has what is worth knowing later, too.
/// Cores do not log between two I/Os: only set-up and the control thread do.
pub fn start() {
    match std::env::var_os(boot::VARIABLE) {
        Some(_) => start_for_machine(),
        None => start_with(Kept::Here(Mutex::default()), "warn"),
    }
}

/// Of a machine that Ferroce booted.
pub fn start_for_machine() {
    match File::options().write(true).open(KERNEL) {
        Ok(file) => start_with(Kept::Kernel(Mutex::new(file)), "info"),
        Err(_) => start_with(Kept::Here(Mutex::default()), "info"),
    }
}

fn start_with(kept: Kept, filter: &str) {
    let env = env_logger::Env::default().default_filter_or(filter);
    let terminal = env_logger::Builder::from_env(env)
        .format(|out, record| writeln!(out, "ferroce: {}", line(record)))
        .build();
    let most = terminal.filter().max(LevelFilter::Info);
    let journal = JOURNAL.get_or_init(|| Journal { terminal, kept });
    // A second start in one process would be a mistake of ours, and changes nothing.
    if log::set_logger(journal).is_ok() {
        log::set_max_level(most);
    }
}

/// `info` is the usual case, and goes without saying.
fn line(record: &Record) -> String {
    match record.level() {
        log::Level::Info => record.args().to_string(),
        level => format!("{}: {}", level.as_str().to_ascii_lowercase(), record.args()),
    }
}

impl Log for Journal {
    fn enabled(&self, metadata: &Metadata) -> bool {
        metadata.level() <= LevelFilter::Info || self.terminal.enabled(metadata)
    }

    fn log(&self, record: &Record) {
        self.terminal.log(record);
        if record.level() > LevelFilter::Info {
            return;
        }
        match &self.kept {
            Kept::Here(ring) => {
                let mut ring = ring.lock().unwrap_or_else(PoisonError::into_inner);
                ring.push(format!("{:.3} {}", jiff::Timestamp::now(), line(record)));
            }
            Kept::Kernel(file) => {
                // At a level that the kernel does not show on the console: there it stands already.
                let text = format!(
                    "<7>ferroce: {}\n",
                    shortened(line(record)).replace('\n', " ")
                );
                let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
                let _ = file.write_all(text.as_bytes());
            }
        }
    }

    fn flush(&self) {}
}

impl Ring {
    fn push(&mut self, line: String) {
        let line = shortened(line);
        self.bytes += line.len() + 1;
        self.lines.push_back(line);
        while self.bytes > RING {
            let oldest = self.lines.pop_front();
            self.bytes -= oldest.map_or(self.bytes, |line| line.len() + 1);
        }
    }

    fn text(&self) -> String {
        let mut text = String::with_capacity(self.bytes);
        for line in &self.lines {
            text.push_str(line);
            text.push('\n');
        }
        text
    }
}

fn shortened(mut line: String) -> String {
    line.truncate(line.floor_char_boundary(LINE));
    line
}

/// All that is kept, oldest first.
pub fn text() -> String {
    match JOURNAL.get().map(|journal| &journal.kept) {
        Some(Kept::Here(ring)) => ring.lock().unwrap_or_else(PoisonError::into_inner).text(),
        Some(Kept::Kernel(_)) => of_kernel().unwrap_or_else(|cause| format!("{KERNEL}: {cause}\n")),
        None => String::new(),
    }
}

/// Each read is one record (Documentation/ABI/testing/dev-kmsg), until the next one would have to be waited for.
fn of_kernel() -> std::io::Result<String> {
    let mut file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(KERNEL)?;
    let mut text = String::new();
    let mut record = [0; 8192];
    loop {
        match file.read(&mut record) {
            Ok(0) => return Ok(text),
            Ok(count) => text.extend(read_record(&String::from_utf8_lossy(&record[..count]))),
            Err(cause) if cause.kind() == ErrorKind::WouldBlock => return Ok(text),
            // It was overwritten meanwhile; the next read goes on behind.
            Err(cause) if cause.kind() == ErrorKind::BrokenPipe => (),
            Err(cause) => return Err(cause),
        }
    }
}

/// `priority,number,microseconds,flags;text`, then lines of properties.
fn read_record(record: &str) -> Option<String> {
    let (head, text) = record.split_once(';')?;
    let at: u64 = head.split(',').nth(2)?.parse().ok()?;
    let text = text.lines().next().unwrap_or_default();
    Some(format!(
        "[{:5}.{:06}] {text}\n",
        at / 1_000_000,
        at % 1_000_000
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_keeps_the_latest() {
        let mut ring = Ring::default();
        for number in 0..100_000 {
            ring.push(format!("line {number}"));
            assert!(ring.bytes <= RING);
        }
        ring.push("x".repeat(LINE * 2));
        let text = ring.text();
        assert_eq!(text.len(), ring.bytes);
        assert!(text.contains("line 99999\n") && !text.contains("line 0\n"));
        assert_eq!(text.lines().last().map(str::len), Some(LINE));
    }

    #[test]
    fn records_of_the_kernel() {
        let record = "6,339,5140900,-;NET: Registered protocol family 10\n SUBSYSTEM=net\n";
        assert_eq!(
            read_record(record).as_deref(),
            Some("[    5.140900] NET: Registered protocol family 10\n")
        );
        assert_eq!(read_record("no record"), None);
        assert_eq!(read_record("6,1,x,-;text"), None);
    }
}
