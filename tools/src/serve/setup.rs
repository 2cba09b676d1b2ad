//! From flags or a file to a checked [`Config`].

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::cli::ServeArgs;
use crate::config::{Config, DEFAULT_PATH, Namespace, Subsystem};
use crate::fail::{Result, fail};

/// What to serve, and the file it came from.
#[derive(Debug)]
pub struct Plan {
    /// Checked.
    pub config: Config,
    /// Where `ctl --persist` writes.
    pub file: Option<PathBuf>,
}

/// Decides between flags and file.
pub fn plan(args: &ServeArgs) -> Result<Plan> {
    let flags = flags_given(args);
    if let Some(path) = &args.config {
        if !flags.is_empty() {
            fail!(
                "--config and {} contradict each other: the file says everything; write it there",
                flags.join(", ")
            );
        }
        return from_file(path);
    }
    if args.device.is_empty() {
        let path = Path::new(DEFAULT_PATH);
        if flags.is_empty() && path.exists() {
            return from_file(path);
        }
        fail!(
            "nothing to serve: give --device ram:64MiB (memory), --device file:/path (a file or block device), \
             or --device nvme:ADDRESS (a drive that `ferroce devices` lists), or --config FILE"
        );
    }
    Ok(Plan {
        config: from_flags(args).checked()?,
        file: None,
    })
}

/// Files are there, or are to be made, and have the size that is written; whether they can be opened is seen at the start.
pub fn look_at_files(config: &Config) -> Result<()> {
    for namespace in config.subsystem.iter().flat_map(|one| &one.namespace) {
        let Some(file) = namespace.spec().file() else {
            continue;
        };
        match (fs::metadata(&file.path), file.size) {
            (Err(cause), None) => fail!("{}: {cause}; size= makes a file", file.label),
            (Err(cause), Some(_)) if cause.kind() != io::ErrorKind::NotFound => {
                fail!("{}: {cause}", file.label)
            }
            _ => (),
        }
    }
    Ok(())
}

fn from_file(path: &Path) -> Result<Plan> {
    Ok(Plan {
        config: Config::read(path)?,
        file: Some(path.to_owned()),
    })
}

fn from_flags(args: &ServeArgs) -> Config {
    let mut config = Config::default();
    if !args.listen.is_empty() {
        config.listen.clone_from(&args.listen);
    }
    config.cores = args.cores.clone().unwrap_or_default();
    config.spin = args.spin.unwrap_or_default();
    config.ctl.clone_from(&args.ctl);
    config.metrics = args.metrics;
    config.dscp = args.dscp;
    if let Some(buffers) = args.buffers {
        config.memory.buffers = buffers;
    }
    let allow: BTreeSet<String> = args.allow.iter().cloned().collect();
    config.subsystem = vec![Subsystem {
        nqn: args.nqn.clone(),
        serial: args.serial.clone(),
        model: args.model.clone(),
        cntlid: args.cntlid,
        allow: (!allow.is_empty()).then_some(allow),
        namespace: args.device.iter().cloned().map(Namespace::of).collect(),
    }];
    config
}

/// The flags that say what a file would say.
fn flags_given(args: &ServeArgs) -> Vec<&'static str> {
    [
        ("--device", !args.device.is_empty()),
        ("--listen", !args.listen.is_empty()),
        ("--nqn", args.nqn.is_some()),
        ("--allow", !args.allow.is_empty()),
        ("--serial", args.serial.is_some()),
        ("--model", args.model.is_some()),
        ("--cntlid", args.cntlid.is_some()),
        ("--cores", args.cores.is_some()),
        ("--spin", args.spin.is_some()),
        ("--dscp", args.dscp.is_some()),
        ("--buffers", args.buffers.is_some()),
        ("--ctl", args.ctl.is_some()),
        ("--metrics", args.metrics.is_some()),
    ]
    .into_iter()
    .filter_map(|(name, given)| given.then_some(name))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Device;

    fn device(text: &str) -> Device {
        text.parse().expect("a drive")
    }

    #[test]
    fn flags_make_the_same_config_as_a_file() {
        let args = ServeArgs {
            device: vec![device("ram:64MiB"), device("file:/a")],
            nqn: Some("nqn.2024-01.a:b".into()),
            allow: vec!["nqn.2024-01.a:host".into()],
            cores: Some("1,2".parse().expect("a list")),
            spin: Some("always".parse().expect("a spin")),
            ..ServeArgs::default()
        };
        let file = "cores = [1, 2]\nspin = \"always\"\n[[subsystem]]\nnqn = \"nqn.2024-01.a:b\"\n\
            allow = [\"nqn.2024-01.a:host\"]\nnamespace = [{ device = \"ram:64MiB\" }, { device = \"file:/a\" }]\n";
        assert_eq!(
            plan(&args).expect("valid").config,
            Config::parse(file, "f").expect("valid")
        );
    }

    #[test]
    fn files_are_looked_at_before_the_start() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("disk");
        let look = |rest: &str| {
            let args = ServeArgs {
                device: vec![device(&format!("file:{}{rest}", path.display()))],
                ..ServeArgs::default()
            };
            look_at_files(&plan(&args).expect("valid").config).map_err(|why| why.0)
        };
        let missing = look("").expect_err("it is not there");
        assert!(missing.contains("size= makes a file"), "{missing}");
        assert_eq!(look(",size=8KiB"), Ok(()));
        fs::write(&path, [0; 4096]).expect("written");
        assert_eq!(look(""), Ok(()));
        assert_eq!(look(",size=8KiB"), Ok(()));
    }

    #[test]
    fn contradictions_are_refused_with_the_reason() {
        let args = ServeArgs {
            config: Some("f.toml".into()),
            device: vec![device("ram:1MiB")],
            ..ServeArgs::default()
        };
        let said = plan(&args).expect_err("contradicts").0;
        assert!(said.contains("--config and --device contradict"), "{said}");
        let args = ServeArgs {
            nqn: Some("nqn.2024-01.a:b".into()),
            ..ServeArgs::default()
        };
        assert!(
            plan(&args)
                .expect_err("no device")
                .0
                .contains("nothing to serve")
        );
    }
}
