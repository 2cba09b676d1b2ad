//! What the machine lacks: kept while it runs, told on the console and in the log when it changes, and left in a file that
//! the node shows in `/status`.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// Where the node finds it.
pub const FILE: &str = "/run/ferroce/missing";

/// Shared by those that look after parts of the machine.
#[derive(Clone, Debug, Default)]
pub struct Board {
    missing: Arc<Mutex<BTreeMap<String, String>>>,
    /// None in tests.
    file: Option<PathBuf>,
}

impl Board {
    /// The one that the node reads.
    pub fn of_machine() -> Board {
        Board {
            file: Some(FILE.into()),
            ..Board::default()
        }
    }

    /// Something is not there, or not as it should be. Told once for each reason.
    pub fn miss(&self, what: &str, why: &str) {
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        if missing.insert(what.into(), why.into()).as_deref() != Some(why) {
            log::warn!("{what}: {why}");
            self.write(&missing);
        }
    }

    /// It is there now.
    pub fn found(&self, what: &str, how: &str) {
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        missing.remove(what);
        log::info!("{what}: {how}");
        self.write(&missing);
    }

    /// True while it is missing.
    pub fn misses(&self, what: &str) -> bool {
        let missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        missing.contains_key(what)
    }

    /// The same as `found`, if it was missing; otherwise there is nothing to tell.
    pub fn found_if_missed(&self, what: &str, how: impl FnOnce() -> String) {
        if self.misses(what) {
            self.found(what, &how());
        }
    }

    /// It is no longer wanted.
    pub fn forget(&self, what: &str) {
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        if missing.remove(what).is_some() {
            self.write(&missing);
        }
    }

    /// As lines.
    pub fn lines(&self) -> Vec<String> {
        let missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        let line = |(what, why): (&String, &String)| format!("{what}: {why}");
        missing.iter().map(line).collect()
    }

    fn write(&self, missing: &BTreeMap<String, String>) {
        let Some(file) = &self.file else {
            return;
        };
        let text: String = missing
            .iter()
            .map(|(what, why)| format!("{what}: {why}\n"))
            .collect();
        // Put in place whole, since it is read at any time. It is told on the console anyway.
        let new = file.with_extension("new");
        let _ = fs::write(&new, text).and_then(|()| fs::rename(&new, file));
    }
}

/// What a machine that Ferroce booted lacks; nothing anywhere else.
pub fn missing() -> Vec<String> {
    if std::env::var_os(super::VARIABLE).is_none() {
        return Vec::new();
    }
    let text = fs::read_to_string(FILE).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_missing_and_came_is_not_missing() {
        let dir = tempfile::tempdir().expect("a directory");
        let board = Board {
            file: Some(dir.path().join("missing")),
            ..Board::default()
        };
        board.miss("eth0", "no carrier");
        board.miss("eth1", "not there");
        let read = || fs::read_to_string(dir.path().join("missing")).expect("written");
        assert_eq!(read(), "eth0: no carrier\neth1: not there\n");
        board.clone().found("eth0", "has 10.0.0.5/24");
        assert_eq!(read(), "eth1: not there\n");
        assert_eq!(board.lines(), ["eth1: not there"]);
    }
}
