//! What the node and its machine are to be: the image's file, else that of a file system with our label, with the kernel's
//! command line over it. If that cannot be understood, as much of it as can.

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
    let mut name = DEFAULT_PATH.to_owned();
    let mut file = PathBuf::from(DEFAULT_PATH);
    if text.is_empty() {
        match stick::read(modules) {
            Ok(Some((found, at))) => {
                log::info!("{WHAT} is {at}");
                file = write(&found)?;
                (text, name) = (found, at);
            }
            Ok(None) => (),
            Err(Fail(why)) => board.miss("the file system with the configuration", &why),
        }
    }
    match understood(&text, &name, &command_line) {
        Ok((config, None)) => Ok((config, file)),
        Ok((config, Some(merged))) => Ok((config, write(&merged)?)),
        Err(Fail(why)) => {
            board.miss(WHAT, &why);
            let rest = what_is_left(&text, &command_line);
            let config = Config::parse(&rest, MERGED)?;
            Ok((config, write(&rest)?))
        }
    }
}

fn write(text: &str) -> Result<PathBuf> {
    fs::write(MERGED, text).context(|| format!("cannot write {MERGED}"))?;
    Ok(Path::new(MERGED).to_owned())
}

/// The text of the file with this name, with the command line over it; and what they are together, if that is not the
/// text alone.
fn understood(text: &str, name: &str, command_line: &str) -> Result<(Config, Option<String>)> {
    text.parse::<toml::Table>().map_err(|cause| {
        let why = cause.message().replace('\n', " ");
        Fail(format!("{name} is no TOML: {why}"))
    })?;
    match merge(text, command_line)? {
        Some(merged) => {
            let together = match text {
                "" => "the kernel's command line".to_owned(),
                _ => format!("{name} with the kernel's command line"),
            };
            let config = Config::parse(&merged, &together)?;
            Ok((config, Some(merged)))
        }
        None if text.is_empty() => fail!(
            "there is none: neither {DEFAULT_PATH} in the image (`scripts/image --config FILE`), nor ferroce.toml on a file \
             system with the label {} (`mkfs.vfat -n {0}`), nor ferroce.* on the kernel's command line",
            stick::LABEL
        ),
        None => Ok((Config::parse(text, name)?, None)),
    }
}

/// The network and the address of `/status`, if they can be understood by themselves, as the file and each word of the
/// command line that is right say them; and no namespaces. Nothing is served over HTTP that was not asked for: who cannot
/// read `/status` then has the console.
fn what_is_left(text: &str, command_line: &str) -> String {
    let mut left = cut(text);
    for word in command_line.split_whitespace() {
        if let Ok(Some(merged)) = merge(&left.to_string(), word) {
            let merged = cut(&merged);
            // A word that spoils what there is says nothing.
            if merged.len() >= left.len() {
                left = merged;
            }
        }
    }
    format!("{left}\n[[subsystem]]\n")
}

/// `metrics` and `machine`, each if it is right.
fn cut(text: &str) -> toml::Table {
    let mut table: toml::Table = text.parse().unwrap_or_default();
    table.retain(|key, value| match key {
        "metrics" => {
            let address = value.as_str().map(str::parse::<std::net::SocketAddr>);
            matches!(address, Some(Ok(_)))
        }
        "machine" => Machine::deserialize_from(value).is_ok_and(|machine| machine.check().is_ok()),
        _ => false,
    });
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_understood_stays() {
        let text = "metrics = \"10.0.0.5:9000\"\nlisten = [\"nonsense\"]\n[machine]\nhostname = \"n\"\n\
                    [[machine.link]]\nname = \"eth0\"\naddress = [\"10.0.0.5/24\"]\n[[subsystem]]\nnqn = \"wrong\"\n";
        assert!(understood(text, "f", "quiet").is_err());
        let config = Config::parse(&what_is_left(text, "quiet"), "left").expect("always");
        assert_eq!(config.metrics.map(|at| at.port()), Some(9000));
        assert_eq!(config.machine.link[0].address.len(), 1);
        assert!(config.subsystem[0].namespace.is_empty());
        for hopeless in ["", "a = ", "metrics = 5\n[machine]\nhostname = \"a b\"\n"] {
            let config = Config::parse(&what_is_left(hopeless, ""), "left").expect("always");
            assert_eq!(config.metrics, None, "nobody asked for it");
            assert!(config.machine.link.is_empty());
        }
    }

    #[test]
    fn one_wrong_word_does_not_take_the_network_away() {
        let said =
            "BOOT_IMAGE=/ferroce.efi ferroce.metrics=10.0.0.5:9000 ferroce.link=eth0,10.0.0.5/24";
        for wrong in [
            "ferroce.spin=5",
            "ferroce.link=eth1,nonsense",
            "ferroce.metrics=here",
            "ferroce.machine.hostname=a_b",
            "ferroce.machine=5",
            "ferroce.listen.more=1",
        ] {
            for text in ["", "listen = [\"nonsense\"]\n", "this is no TOML"] {
                let line = format!("{said} {wrong}");
                assert!(understood(text, "f", &line).is_err(), "{text} {wrong}");
                let left = what_is_left(text, &line);
                let config = Config::parse(&left, "left").expect("always");
                assert_eq!(config.metrics.map(|at| at.port()), Some(9000), "{wrong}");
                assert_eq!(config.machine.link.len(), 1, "{wrong}");
            }
        }
        // The command line is over what the file says.
        let left = what_is_left("metrics = \"10.0.0.6:8000\"\nspin = 5\n", said);
        assert!(left.contains("10.0.0.5:9000"), "{left}");
    }

    #[test]
    fn an_error_names_the_file_that_it_is_in() {
        let at = "ferroce.toml of the file system FERROCE on /dev/sdb1";
        for (text, line) in [
            ("spin = 5\n", ""),
            ("a =", "ferroce.nqn=x"),
            ("spin = 5\n", "ferroce.nqn=x"),
        ] {
            let said = understood(text, at, line).expect_err("wrong").0;
            assert!(said.starts_with(at), "{said}");
        }
    }

    #[test]
    fn no_configuration_is_said_with_what_to_do() {
        let nothing = "quiet BOOT_IMAGE=/ferroce.efi";
        let said = understood("", DEFAULT_PATH, nothing).expect_err("there is none");
        assert!(said.0.contains("scripts/image --config"), "{}", said.0);
        assert!(said.0.contains("mkfs.vfat -n FERROCE"), "{}", said.0);
        let word = "ferroce.device=ram:1MiB";
        let (config, merged) = understood("", DEFAULT_PATH, word).expect("said");
        assert_eq!(config.subsystem[0].namespace.len(), 1);
        assert!(merged.is_some());
    }
}
