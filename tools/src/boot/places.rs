//! What the kernel shows as files, and the console as standard output.

use std::fs::{self, File};

use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};

use crate::fail::{Context, Result, fail};

/// File systems, where they go, and what is allowed there.
const MOUNTS: [(&str, &str, &str); 5] = [
    ("proc", "/proc", ""),
    ("sysfs", "/sys", ""),
    ("devtmpfs", "/dev", "mode=0755"),
    ("tmpfs", "/run", "mode=0755,size=16m"),
    ("tmpfs", "/tmp", "mode=1777,size=16m"),
];

/// Mounts them all.
pub fn prepare() -> Result<()> {
    for (kind, place, options) in MOUNTS {
        fs::create_dir_all(place).context(|| format!("cannot make {place}"))?;
        let flags = match kind {
            "devtmpfs" => MountFlags::NOSUID | MountFlags::NOEXEC,
            _ => MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC,
        };
        let options = std::ffi::CString::new(options).expect("there is no zero in it");
        match mount(kind, place, kind, flags, options.as_c_str()) {
            // The kernel may have mounted /dev by itself.
            Ok(()) | Err(Errno::BUSY) => (),
            Err(cause) => fail!("cannot mount {kind} at {place}: {cause}"),
        }
    }
    fs::create_dir_all("/run/ferroce").context(|| "cannot make /run/ferroce")?;
    console()?;
    set("/proc/sys/kernel/printk_devkmsg", "on");
    set("/proc/sys/kernel/panic", "10");
    // Ctrl-Alt-Del becomes a signal to us, so that the node ends in order first.
    set("/proc/sys/kernel/ctrl-alt-del", "0");
    Ok(())
}

/// The kernel gives the first process a console only if the image has a file for it.
fn console() -> Result<()> {
    let what = || "cannot open /dev/console";
    let console = File::options()
        .read(true)
        .write(true)
        .open("/dev/console")
        .context(what)?;
    rustix::stdio::dup2_stdin(&console).context(what)?;
    rustix::stdio::dup2_stdout(&console).context(what)?;
    rustix::stdio::dup2_stderr(&console).context(what)
}

/// Sets what is only a convenience: what cannot be set is told, and no more.
pub fn set(path: &str, value: &str) {
    if let Err(cause) = fs::write(path, value) {
        log::warn!("cannot write {value} to {path}: {cause}");
    }
}
