//! What the node and its machine are to be: the image's file, else that of a file system with our label, with what the
//! kernel's command line says. If that cannot be understood, as much of it as can.

use std::fs;
use std::path::{Path, PathBuf};

use super::board::Board;
use super::command_line::merge;
use super::modules::Modules;
use super::stick;
use crate::config::machine::Machine;
use crate::config::{Config, DEFAULT_PATH};
use crate::fail::{Context, Fail, Result, fail};

/// Where what was put together is left for the node.
const MERGED: &str = "/run/ferroce/ferroce.toml";
const WHAT: &str = "the configuration";

/// Checked, and the file that the node is to read.
pub fn read(board: &Board, modules: &mut Modules) -> Result<(Config, PathBuf)> {
    let command_line = fs::read_to_string("/proc/cmdline").context(|| "/proc/cmdline")?;
    let mut text = fs::read_to_string(DEFAULT_PATH).unwrap_or_default();
    let mut file = DEFAULT_PATH.to_owned();
    // A machine that was told what to do waits for no stick.
    if text.is_empty() && !command_line.contains("ferroce.") {
        match stick::read(modules) {
            Ok(Some((found, at))) => {
                log::info!("{WHAT} is {at}");
                write(&found)?;
                (text, file) = (found, MERGED.to_owned());
            }
            Ok(None) => (),
            Err(Fail(why)) => board.miss("the file system with the configuration", &why),
        }
    }
    match understood(&text, &command_line) {
        Ok((config, None)) => Ok((config, file.into())),
        Ok((config, Some(merged))) => Ok((config, write(&merged)?)),
        Err(Fail(why)) => {
            board.miss(WHAT, &why);
            let rest = what_is_left(&text);
            let config = Config::parse(&rest, MERGED)?;
            Ok((config, write(&rest)?))
        }
    }
}

fn write(text: &str) -> Result<PathBuf> {
    fs::write(MERGED, text).context(|| format!("cannot write {MERGED}"))?;
    Ok(Path::new(MERGED).to_owned())
}

fn understood(text: &str, command_line: &str) -> Result<(Config, Option<String>)> {
    match merge(text, command_line)? {
        Some(merged) => {
            let config = Config::parse(&merged, "the file and the command line together")?;
            Ok((config, Some(merged)))
        }
        None if text.is_empty() => fail!(
            "there is none: neither {DEFAULT_PATH} in the image (`scripts/image --config FILE`), nor ferroce.toml on a file \
             system with the label {}, nor ferroce.* on the kernel's command line",
            stick::LABEL
        ),
        None => Ok((Config::parse(text, DEFAULT_PATH)?, None)),
    }
}

/// The network and the address of `/status`, if they can be understood by themselves; and no namespaces. Nothing is served
/// over HTTP that was not asked for: who cannot read `/status` then has the console.
fn what_is_left(text: &str) -> String {
    let table: toml::Table = text.parse().unwrap_or_default();
    let metrics = table.get("metrics").filter(|address| {
        let address = address.as_str().map(str::parse::<std::net::SocketAddr>);
        matches!(address, Some(Ok(_)))
    });
    let machine = table.get("machine").filter(|machine| {
        Machine::deserialize_from(machine).is_ok_and(|machine| machine.check().is_ok())
    });
    let mut left = toml::Table::new();
    if let Some(metrics) = metrics {
        left.insert("metrics".into(), metrics.clone());
    }
    if let Some(machine) = machine {
        left.insert("machine".into(), machine.clone());
    }
    format!("{left}\n[[subsystem]]\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_understood_stays() {
        let text = "metrics = \"10.0.0.5:9000\"\nlisten = [\"nonsense\"]\n[machine]\nhostname = \"n\"\n\
                    [[machine.link]]\nname = \"eth0\"\naddress = [\"10.0.0.5/24\"]\n[[subsystem]]\nnqn = \"wrong\"\n";
        assert!(understood(text, "quiet").is_err());
        let config = Config::parse(&what_is_left(text), "left").expect("it can be understood");
        assert_eq!(config.metrics.map(|at| at.port()), Some(9000));
        assert_eq!(config.machine.link[0].address.len(), 1);
        assert!(config.subsystem[0].namespace.is_empty());
        for hopeless in ["", "a = ", "metrics = 5\n[machine]\nhostname = \"a b\"\n"] {
            let config = Config::parse(&what_is_left(hopeless), "left").expect("always");
            assert_eq!(config.metrics, None, "nobody asked for it");
            assert!(config.machine.link.is_empty());
        }
    }

    #[test]
    fn no_configuration_is_said_with_what_to_do() {
        let said = understood("", "quiet").expect_err("there is none").0;
        assert!(said.contains("scripts/image --config"), "{said}");
        let (config, merged) = understood("", "ferroce.device=ram:1MiB").expect("said");
        assert_eq!(config.subsystem[0].namespace.len(), 1);
        assert!(merged.is_some());
    }
}
