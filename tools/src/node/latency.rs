//! CPUs that sleep deeply wake up late, and that shows in the latency of every command which comes after a pause.
//! While hosts use the node, `/dev/cpu_dma_latency` is held at 0 us, if the system lets us (Linux
//! `Documentation/power/pm_qos_interface`): the wish lasts as long as the file is open.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// Where the kernel takes such wishes.
const DEVICE: &str = "/dev/cpu_dma_latency";

/// What became of the wish, for those who look.
#[derive(Clone, Debug, Default)]
pub struct Said(Arc<Mutex<String>>);

impl Said {
    /// In words, as `ctl show` has it.
    pub fn read(&self) -> String {
        let said = self.0.lock();
        said.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn say(&self, what: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = what;
    }
}

/// The wish that CPUs wake up at once.
#[derive(Debug)]
pub struct Wakeful {
    path: PathBuf,
    allowed: bool,
    in_use: bool,
    held: Option<File>,
    said: Said,
}

impl Wakeful {
    /// Not held yet. `allowed` is what the configuration says.
    pub fn new(allowed: bool) -> Wakeful {
        Wakeful::at(DEVICE.into(), allowed)
    }

    fn at(path: PathBuf, allowed: bool) -> Wakeful {
        let wakeful = Wakeful {
            path,
            allowed,
            in_use: false,
            held: None,
            said: Said::default(),
        };
        wakeful.said.say(match allowed {
            true => "as the system likes: no host is connected".into(),
            false => "as the system likes: `cpu-dma-latency = false`".into(),
        });
        wakeful
    }

    /// Where it is told what became of it.
    pub fn said(&self) -> Said {
        self.said.clone()
    }

    /// Hosts use the node, or none does any more. Costs next to nothing if that is no news.
    pub fn tell(&mut self, in_use: bool) {
        if !self.allowed || in_use == self.in_use {
            return;
        }
        self.in_use = in_use;
        self.held = None;
        let said = match in_use.then(|| self.hold()) {
            Some(Ok(file)) => {
                self.held = Some(file);
                format!("at once: {} is held at 0 us", self.path.display())
            }
            // A system without it, or one that does not let us, is no worse than before.
            Some(Err(cause)) => format!(
                "as the system likes: {} cannot be held ({cause})",
                self.path.display()
            ),
            None => "as the system likes: no host is connected".into(),
        };
        log::debug!("CPUs wake up {said}");
        self.said.say(said);
    }

    fn hold(&self) -> io::Result<File> {
        let mut file = OpenOptions::new().write(true).open(&self.path)?;
        // A whole number of microseconds, as the machine writes 32 bits.
        file.write_all(&0i32.to_ne_bytes())?;
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file in the device's place.
    fn place(name: &str) -> PathBuf {
        let name = format!("ferroce-latency-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, b"").expect("written");
        path
    }

    fn open_here(path: &std::path::Path) -> usize {
        let open = std::fs::read_dir("/proc/self/fd").expect("Linux");
        let open = open.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
        open.filter(|target| target == path).count()
    }

    #[test]
    fn held_while_hosts_are_there_and_dropped_after_the_last() {
        let path = place("held");
        let mut wakeful = Wakeful::at(path.clone(), true);
        let said = wakeful.said();
        assert_eq!(open_here(&path), 0);
        for _ in 0..2 {
            wakeful.tell(true);
            wakeful.tell(true);
            assert_eq!(open_here(&path), 1);
            assert_eq!(std::fs::read(&path).expect("there"), [0; 4]);
            assert!(said.read().starts_with("at once"), "{}", said.read());
            wakeful.tell(false);
            assert_eq!(open_here(&path), 0);
            assert!(said.read().contains("no host"), "{}", said.read());
        }
        std::fs::remove_file(path).expect("removed");
    }

    #[test]
    fn what_is_not_there_or_not_wanted_is_done_without() {
        let mut missing = Wakeful::at("/nowhere/at/all".into(), true);
        missing.tell(true);
        let said = missing.said().read();
        assert!(said.contains("/nowhere/at/all cannot be held"), "{said}");
        let path = place("off");
        let mut off = Wakeful::at(path.clone(), false);
        off.tell(true);
        assert_eq!(open_here(&path), 0);
        assert!(off.said().read().contains("cpu-dma-latency = false"));
        std::fs::remove_file(path).expect("removed");
    }
}
