//! Where the control socket is, and how to own it: one node answers there, only its owner may ask,
//! and what a killed node left behind is replaced.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use crate::fail::{Context, Result, fail};

/// The places to look, best first.
pub fn usual_places() -> Vec<PathBuf> {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty());
    let mut places = vec![PathBuf::from("/run/ferroce/ctl.sock")];
    if let Some(dir) = runtime {
        places.push(PathBuf::from(dir).join("ferroce/ctl.sock"));
    }
    places
}

/// The control socket of a node that runs. It is removed when this is dropped.
#[derive(Debug)]
pub struct Socket {
    /// Where it listens; does not block.
    pub listener: UnixListener,
    /// Its path.
    pub path: PathBuf,
}

impl Socket {
    /// Opens the socket at `path`, or at the first usual place this process may write to.
    pub fn open(path: Option<&Path>) -> Result<Socket> {
        if let Some(path) = path {
            return Socket::open_at(path);
        }
        let mut why = String::new();
        for path in usual_places() {
            match Socket::open_at(&path) {
                Ok(socket) => return Ok(socket),
                Err(cause) if answers(&path) => return Err(cause),
                Err(cause) => why = format!("{why}{cause}; "),
            }
        }
        fail!("{why}set XDG_RUNTIME_DIR or give --ctl PATH")
    }

    fn open_at(path: &Path) -> Result<Socket> {
        // As it is from anywhere: people paste it elsewhere.
        let path = &std::path::absolute(path).context(|| path.display())?;
        let shown = path.display();
        if answers(path) {
            fail!(
                "a node answers at {shown} already; stop it, or give this one a --ctl PATH of its own"
            );
        }
        if let Ok(meta) = fs::symlink_metadata(path)
            && !meta.file_type().is_socket()
        {
            fail!("{shown} exists and is not a socket; remove it, or give another --ctl PATH");
        }
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
        if let Some(dir) = dir
            && !dir.exists()
        {
            fs::DirBuilder::new()
                .mode(0o700)
                .create(dir)
                .context(|| format!("cannot make {} for the control socket", dir.display()))?;
        }
        // Made under another name, closed to others, then moved: nobody meets it half made, and what
        // a killed node left is replaced in one step.
        let draft = path.with_extension(format!("{}", std::process::id()));
        let made = UnixListener::bind(&draft).and_then(|listener| {
            fs::set_permissions(&draft, fs::Permissions::from_mode(0o600))?;
            listener.set_nonblocking(true)?;
            fs::rename(&draft, path)?;
            Ok(listener)
        });
        if made.is_err() {
            let _ = fs::remove_file(&draft);
        }
        let listener = made.context(|| format!("cannot make the control socket {shown}"))?;
        Ok(Socket {
            listener,
            path: path.to_owned(),
        })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Connects to a node, for `ferroce ctl`.
pub fn connect(path: Option<&Path>) -> Result<UnixStream> {
    let places = path.map_or_else(usual_places, |path| vec![path.to_owned()]);
    let mut why = String::new();
    for place in &places {
        match UnixStream::connect(place) {
            Ok(stream) => return Ok(stream),
            Err(cause) => {
                let kind = fs::metadata(place).map(|found| found.file_type());
                let hint = match cause.kind() {
                    _ if kind.is_ok_and(|kind| !kind.is_socket()) => {
                        "it is no socket, so no node made it"
                    }
                    io::ErrorKind::NotFound => "no node made a socket here",
                    io::ErrorKind::ConnectionRefused => "the node that made it is gone",
                    io::ErrorKind::PermissionDenied => "another user's; use sudo",
                    _ => "",
                };
                let hint = if hint.is_empty() {
                    cause.to_string()
                } else {
                    hint.into()
                };
                why = format!("{why}{}: {hint}; ", place.display());
            }
        }
    }
    fail!(
        "no node to talk to: {why}start one with `ferroce serve`, or name its socket with --ctl PATH"
    )
}

fn answers(path: &Path) -> bool {
    UnixStream::connect(path).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_owner_and_leftovers_are_replaced() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("deep/ctl.sock");
        let first = Socket::open(Some(&path)).expect("opens");
        let mode = fs::metadata(&path).expect("is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let refused = Socket::open(Some(&path)).expect_err("is taken").0;
        assert!(refused.contains("answers"), "{refused}");
        assert!(connect(Some(&path)).is_ok());

        // A killed node leaves its socket file behind, with nobody listening.
        let copy = dir.path().join("left.sock");
        drop(UnixListener::bind(&copy).expect("binds"));
        assert!(
            connect(Some(&copy))
                .expect_err("is dead")
                .0
                .contains("is gone")
        );
        Socket::open(Some(&copy)).expect("replaces it");

        drop(first);
        assert!(!path.exists());
        assert!(
            connect(Some(&path))
                .expect_err("is gone")
                .0
                .contains("no node made")
        );
        fs::write(&path, "mine").expect("writes");
        for path in [&*path, dir.path()] {
            let said = connect(Some(path)).expect_err("no socket").0;
            assert!(said.contains("it is no socket"), "{said}");
        }
        assert!(
            Socket::open(Some(&path))
                .expect_err("not ours")
                .0
                .contains("not a socket")
        );
    }
}
