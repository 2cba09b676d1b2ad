//! From flags or a file to a checked [`Config`].

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use ferroce_buf::Want;
use ferroce_drivers::FileConfig;
use ferroce_drivers::pci::Sysfs;
use ferroce_engine::port::DriveId;
use rustix::fs::{Access, access};

use crate::cli::ServeArgs;
use crate::config::{Config, DEFAULT_PATH, Namespace, Subsystem};
use crate::fail::{Context, Fail, Result, fail};

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

/// Looks whether the drives can be what is asked for, without opening any; whether they can be opened is seen at the start.
/// Who is patient waits for those that are not there.
pub fn look_at_drives(config: &Config, patient: bool) -> Result<()> {
    let mut files: Vec<(PathBuf, FileConfig)> = Vec::new();
    for namespace in config.subsystem.iter().flat_map(|one| &one.namespace) {
        let spec = namespace.spec();
        if let Some(ram) = spec.ram(DriveId(0), 1, Want::default()) {
            ram.look().map_err(|why| Fail(why.to_string()))?;
        }
        if let Some((address, config)) = spec.nvme()
            && !patient
            && !Sysfs::default().exists(address)
        {
            fail!(
                "{}: there is no such device; `ferroce devices` lists the drives there are",
                config.label
            );
        }
        let Some(file) = spec.file() else { continue };
        let Some(path) = look_at_file(&file, patient)? else {
            continue;
        };
        let shared = |other: &FileConfig| other.read_only && file.read_only;
        let other = files.iter().find(|(known, _)| *known == path);
        if let Some((_, other)) = other.filter(|(_, other)| !shared(other)) {
            fail!(
                "{} and {} are one file; that needs both to be read-only",
                other.label,
                file.label
            );
        }
        files.push((path, file));
    }
    Ok(())
}

/// The file's own path, unless it may come later.
fn look_at_file(file: &FileConfig, patient: bool) -> Result<Option<PathBuf>> {
    let label = &file.label;
    if let Some(found) = file.look().map_err(|why| Fail(why.to_string()))? {
        let (may, what) = match file.read_only {
            true => (Access::READ_OK, "read"),
            false => (Access::READ_OK | Access::WRITE_OK, "read and write"),
        };
        access(&file.path, may).context(|| format!("{label}: this user may not {what} it"))?;
        if let Some(told) = file.other_size(found.len()).filter(|_| found.is_file()) {
            log::warn!("{told}");
        }
        return fs::canonicalize(&file.path).context(|| label).map(Some);
    }
    if patient {
        return Ok(None);
    }
    if file.size.is_none() {
        fail!("{label}: there is no such file; size= makes one");
    }
    if file.read_only {
        fail!("{label}: there is no such file, and a read-only one is not made");
    }
    let folder = file.path.parent().filter(|path| *path != Path::new(""));
    let folder = folder.unwrap_or(Path::new("."));
    let cannot = || format!("{label}: it cannot be made in {}", folder.display());
    access(folder, Access::WRITE_OK | Access::EXEC_OK).context(cannot)?;
    let folder = fs::canonicalize(folder).context(cannot)?;
    // Without a name the path ends in `..`, and that is there.
    Ok(file.path.file_name().map(|name| folder.join(name)))
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
    fn drives_are_looked_at_before_the_start() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| format!("file:{}", folder.path().join(name).display());
        fs::write(folder.path().join("disk"), [0; 8192]).expect("written");
        fs::write(folder.path().join("odd"), [0; 1000]).expect("written");
        fs::write(folder.path().join("empty"), []).expect("written");
        std::os::unix::fs::symlink("disk", folder.path().join("link")).expect("linked");
        std::os::unix::fs::symlink(".", folder.path().join("here")).expect("linked");
        let look = |devices: &[&str], patient| {
            let args = ServeArgs {
                device: devices.iter().map(|text| device(text)).collect(),
                ..ServeArgs::default()
            };
            look_at_drives(&plan(&args).expect("valid").config, patient).map_err(|why| why.0)
        };
        let (disk, link, new) = (&*at("disk"), &*at("link"), &*at("new,size=8KiB"));
        for good in [
            &["ram:64KiB", disk, new][..],
            &[&at("disk,size=64KiB")],
            &[&at("disk,ro"), &at("link,ro")],
            &["file:new,size=8KiB"],
        ] {
            assert_eq!(look(good, false), Ok(()), "{good:?}");
        }
        for (bad, why) in [
            (&["ram:5000B"][..], "a multiple of 4 KiB"),
            (
                &["file:/dev/null"],
                "neither a regular file nor a block device",
            ),
            (&[&at("")], "neither a regular file nor a block device"),
            (&[&at("odd")], "1000 bytes are not a number of blocks"),
            (&[&at("empty")], "`truncate -s`"),
            (&[&at("empty,size=8KiB")], "`truncate -s`"),
            (
                &[&at("new,size=5000B")],
                "5000 bytes are not a number of blocks",
            ),
            (&[disk, link], "are one file"),
            (&[new, &at("here/new,size=8KiB")], "are one file"),
            (&[&at("disk/new,size=8KiB")], "Not a directory"),
        ] {
            for patient in [false, true] {
                let said = look(bad, patient);
                // A file that is to be made may be made by then.
                if !(patient && bad.contains(&new)) {
                    assert!(
                        said.as_ref().is_err_and(|said| said.contains(why)),
                        "{bad:?}: {said:?}"
                    );
                }
            }
        }
        for (late, why) in [
            (at("new"), "size= makes one"),
            (at("new,size=8KiB,ro"), "a read-only one is not made"),
            (at("none/new,size=8KiB"), "cannot be made"),
            ("nvme:ffff:ff:1f.7".into(), "`ferroce devices`"),
        ] {
            let said = look(&[&late], false).expect_err(&late);
            assert!(said.contains(why), "{late}: {said}");
            assert_eq!(look(&[&late], true), Ok(()), "{late}");
        }
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
