//! Writes changes to the configuration file: comments and order stay, and the file is replaced in one
//! step, so that a crash leaves the old one or the new one.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use toml_edit::{ArrayOfTables, DocumentMut, Item, Table, TableLike, Value, value};

use crate::config::{Config, Namespace};
use crate::fail::{Context, Result, fail};
use crate::units::Size;
use crate::url::Url;

/// A change to the file, of the subsystem `nqn` where it is about one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change<'a> {
    /// A namespace more.
    Add {
        /// Its subsystem.
        nqn: &'a str,
        /// Its number.
        nsid: u32,
        /// What drive it is.
        device: &'a str,
        /// Hosts may read only.
        read_only: bool,
    },
    /// A namespace less.
    Remove {
        /// Its subsystem.
        nqn: &'a str,
        /// Its number.
        nsid: u32,
    },
    /// A namespace of another size.
    Resize {
        /// Its subsystem.
        nqn: &'a str,
        /// Its number.
        nsid: u32,
        /// Bytes.
        size: u64,
    },
    /// A host that may connect.
    Allow {
        /// To which subsystem.
        nqn: &'a str,
        /// The host.
        host: &'a str,
    },
    /// A host that may not connect any more.
    Forbid {
        /// To which subsystem.
        nqn: &'a str,
        /// The host.
        host: &'a str,
    },
    /// One more address.
    Listen(&'a Url),
    /// One address less.
    Unlisten(&'a Url),
}

/// Makes the change in the file at `path`.
pub fn persist(path: &Path, change: &Change<'_>) -> Result<()> {
    let name = path.display().to_string();
    let text = fs::read_to_string(path).context(|| format!("cannot read {name}"))?;
    let changed = edit(&text, change, &name)?;
    replace(path, &changed).context(|| format!("cannot write {name}"))
}

impl Change<'_> {
    /// Makes it in what was read of the file earlier.
    pub fn note(&self, config: &mut Config) {
        let named = match self {
            Change::Add { nqn, .. }
            | Change::Remove { nqn, .. }
            | Change::Resize { nqn, .. }
            | Change::Allow { nqn, .. }
            | Change::Forbid { nqn, .. } => config.named(nqn),
            Change::Listen(url) => {
                if !config.listen.iter().any(|known| known.is_at(url)) {
                    config.listen.push((*url).clone());
                }
                return;
            }
            Change::Unlisten(url) => return config.listen.retain(|known| !known.is_at(url)),
        };
        // One that the file has got since then is for the next start.
        let Some(subsystem) = named else { return };
        match self {
            Change::Add {
                nsid,
                device,
                read_only,
                ..
            } => {
                let device = device.parse().expect("it was one when it was added");
                let mut namespace = Namespace::of(device);
                namespace.nsid = Some(*nsid);
                if *read_only {
                    namespace.read_only = Some(true);
                }
                subsystem.put(namespace);
            }
            Change::Remove { nsid, .. } => subsystem.take(Some(*nsid)),
            Change::Resize { nsid, size, .. } => {
                let mut known = subsystem.namespace.iter_mut();
                if let Some(known) = known.find(|known| known.nsid == Some(*nsid)) {
                    let device = resized(&known.device.text, *size);
                    known.device = device.parse().expect("only its size is another");
                }
            }
            Change::Allow { host, .. } => {
                let hosts = subsystem.allow.get_or_insert_default();
                hosts.insert((*host).to_owned());
            }
            Change::Forbid { host, .. } => {
                subsystem.allow.as_mut().map(|hosts| hosts.remove(*host));
            }
            Change::Listen(_) | Change::Unlisten(_) => (),
        }
    }
}

/// The text with the change made; it is valid if the text was.
fn edit(text: &str, change: &Change<'_>, name: &str) -> Result<String> {
    let config = Config::parse(text, name)?;
    let mut doc: DocumentMut = text.parse().context(|| name.to_owned())?;
    match change {
        Change::Listen(url) => {
            let list = listeners(&mut doc)?;
            if !config.listen.iter().any(|known| known.is_at(url)) {
                list.push(url.to_string());
            }
        }
        Change::Unlisten(url) => {
            let parse = |item: &Value| item.as_str().and_then(|text| text.parse::<Url>().ok());
            listeners(&mut doc)?.retain(|item| !parse(item).is_some_and(|known| known.is_at(url)));
        }
        Change::Add {
            nqn,
            nsid,
            device,
            read_only,
        } => {
            let table = subsystem(&mut doc, &config, nqn)?;
            let mut entry = Table::new();
            entry.insert("device", value(*device));
            entry.insert("nsid", value(i64::from(*nsid)));
            if *read_only {
                entry.insert("read-only", value(true));
            }
            match table
                .entry("namespace")
                .or_insert(Item::ArrayOfTables(ArrayOfTables::new()))
            {
                Item::ArrayOfTables(tables) => tables.push(entry),
                Item::Value(Value::Array(array)) => array.push(entry.into_inline_table()),
                _ => fail!("{name}: `namespace` is neither [[subsystem.namespace]] nor a list"),
            }
        }
        Change::Remove { nqn, nsid } => {
            let table = subsystem(&mut doc, &config, nqn)?;
            let is_it = |entry: &dyn TableLike| number(entry) == Some(*nsid);
            match table.get_mut("namespace") {
                Some(Item::ArrayOfTables(tables)) => tables.retain(|entry| !is_it(entry)),
                Some(Item::Value(Value::Array(array))) => {
                    array
                        .retain(|entry| !entry.as_inline_table().is_some_and(|entry| is_it(entry)));
                }
                _ => (),
            }
        }
        Change::Resize { nqn, nsid, size } => {
            let table = subsystem(&mut doc, &config, nqn)?;
            let entry = namespaces(table)
                .into_iter()
                .find(|entry| number(*entry) == Some(*nsid));
            let Some(entry) = entry else {
                fail!("{name}: {nqn} has no namespace {nsid} there")
            };
            let device = entry
                .get("device")
                .and_then(Item::as_str)
                .unwrap_or_default();
            let resized = resized(device, *size);
            if let Some(Item::Value(old)) = entry.get_mut("device") {
                // The comment behind it is part of the value.
                let decor = old.decor().clone();
                *old = Value::from(resized);
                *old.decor_mut() = decor;
            }
        }
        Change::Allow { nqn, host } => {
            let table = subsystem(&mut doc, &config, nqn)?;
            let empty = || value(toml_edit::Array::new());
            let list = table.entry("allow").or_insert_with(empty).as_array_mut();
            let Some(list) = list else {
                fail!("{name}: `allow` is not a list")
            };
            if list.iter().all(|known| known.as_str() != Some(host)) {
                list.push(*host);
            }
        }
        Change::Forbid { nqn, host } => {
            let table = subsystem(&mut doc, &config, nqn)?;
            if let Some(list) = table.get_mut("allow").and_then(Item::as_array_mut) {
                list.retain(|known| known.as_str() != Some(host));
            }
        }
    }
    let changed = doc.to_string();
    Config::parse(&changed, name)
        .context(|| "the change would leave a file that cannot be read")?;
    Ok(changed)
}

fn listeners(doc: &mut DocumentMut) -> Result<&mut toml_edit::Array> {
    let default = || {
        let list: toml_edit::Array = Config::default()
            .listen
            .iter()
            .map(Url::to_string)
            .collect();
        value(list)
    };
    let list = doc.entry("listen").or_insert_with(default).as_array_mut();
    list.ok_or_else(|| "`listen` is not a list".into())
}

/// The subsystem's table, each namespace with its number written out: the numbers of those that had
/// none must not move when others come and go.
fn subsystem<'a>(
    doc: &'a mut DocumentMut,
    config: &Config,
    nqn: &str,
) -> Result<&'a mut dyn TableLike> {
    let named = config.subsystem.iter().position(|known| known.nqn() == nqn);
    // The one without a name has this machine's, which may be made up anew at each start.
    let Some(at) = named.or_else(|| unnamed(doc)) else {
        fail!("the file has no subsystem {nqn}");
    };
    let table: Option<&mut dyn TableLike> = match doc.get_mut("subsystem") {
        Some(Item::ArrayOfTables(tables)) => {
            tables.get_mut(at).map(|table| table as &mut dyn TableLike)
        }
        Some(Item::Value(Value::Array(array))) => array
            .get_mut(at)
            .and_then(Value::as_inline_table_mut)
            .map(|table| table as &mut dyn TableLike),
        _ => None,
    };
    let Some(table) = table else {
        fail!("the file's `subsystem` is not a list of tables")
    };
    for (entry, known) in namespaces(table)
        .into_iter()
        .zip(&config.subsystem[at].namespace)
    {
        if number(entry).is_none() {
            entry.insert("nsid", value(known.nsid.map_or(0, i64::from)));
        }
    }
    Ok(table)
}

fn unnamed(doc: &DocumentMut) -> Option<usize> {
    doc.get("subsystem")?
        .as_array_of_tables()?
        .iter()
        .position(|table| !table.contains_key("nqn"))
}

fn namespaces(table: &mut dyn TableLike) -> Vec<&mut dyn TableLike> {
    match table.get_mut("namespace") {
        Some(Item::ArrayOfTables(tables)) => tables
            .iter_mut()
            .map(|table| table as &mut dyn TableLike)
            .collect(),
        Some(Item::Value(Value::Array(array))) => array
            .iter_mut()
            .filter_map(Value::as_inline_table_mut)
            .map(|table| table as &mut dyn TableLike)
            .collect(),
        _ => Vec::new(),
    }
}

fn number(entry: &dyn TableLike) -> Option<u32> {
    entry.get("nsid")?.as_integer()?.try_into().ok()
}

/// The device of another size: `ram:` says it first, `file:` says it if it made the file.
fn resized(device: &str, size: u64) -> String {
    let size = Size(size);
    let mut parts = device.split(',');
    let first = parts.next().unwrap_or_default();
    let first = if first.starts_with("ram:") {
        format!("ram:{size}")
    } else {
        first.to_owned()
    };
    parts.fold(first, |out, part| match part.trim().strip_prefix("size=") {
        Some(_) => format!("{out},size={size}"),
        None => format!("{out},{part}"),
    })
}

fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    // What a link points to is replaced, not the link.
    let path = fs::canonicalize(path)?;
    let dir = path.parent().unwrap_or(Path::new("."));
    let draft = path.with_extension(format!("toml.{}", std::process::id()));
    let written = (|| {
        let mut file = File::create(&draft)?;
        file.set_permissions(fs::metadata(&path)?.permissions())?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&draft, &path)?;
        File::open(dir)?.sync_all()
    })();
    if written.is_err() {
        let _ = fs::remove_file(&draft);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# mine\nspin = \"10us\" # short\n\n[[subsystem]]\nnqn = \"nqn.2024-01.a:b\"\n\n\
        [[subsystem.namespace]]\ndevice = \"ram:1MiB\"\n\n[[subsystem.namespace]]\ndevice = \"file:/a,size=1GiB\" # big\n";
    const NQN: &str = "nqn.2024-01.a:b";

    /// What is noted is what is read of the file afterwards.
    fn edited(change: &Change<'_>) -> String {
        let text = edit(TEXT, change, "f").unwrap_or_else(|why| panic!("{why}"));
        let mut noted = Config::parse(TEXT, "f").expect("valid");
        change.note(&mut noted);
        assert_eq!(noted, Config::parse(&text, "f").expect("valid"));
        text
    }

    fn devices(text: &str) -> Vec<(u32, String)> {
        let config = Config::parse(text, "f").expect("valid");
        let entries = &config.subsystem[0].namespace;
        entries
            .iter()
            .map(|entry| (entry.nsid.expect("numbered"), entry.device.text.clone()))
            .collect()
    }

    #[test]
    fn changes_leave_the_rest_as_it_was() {
        let text = edited(&Change::Add {
            nqn: NQN,
            nsid: 5,
            device: "ram:2MiB",
            read_only: true,
        });
        assert!(
            text.starts_with("# mine\nspin = \"10us\" # short\n"),
            "{text}"
        );
        assert!(text.contains("# big"), "{text}");
        assert_eq!(devices(&text)[2], (5, "ram:2MiB".into()));
    }

    #[test]
    fn numbers_do_not_move_when_one_is_removed() {
        let text = edited(&Change::Remove { nqn: NQN, nsid: 1 });
        assert_eq!(devices(&text), [(2, "file:/a,size=1GiB".into())]);
    }

    #[test]
    fn sizes_are_written_where_they_stand() {
        let text = edited(&Change::Resize {
            nqn: NQN,
            nsid: 2,
            size: 2 << 30,
        });
        assert_eq!(devices(&text)[1].1, "file:/a,size=2GiB");
        assert!(text.contains("size=2GiB\" # big"), "{text}");
        let text = edited(&Change::Resize {
            nqn: NQN,
            nsid: 1,
            size: 3 << 20,
        });
        assert_eq!(devices(&text)[0].1, "ram:3MiB");
        assert_eq!(resized("file:/a", 5), "file:/a");
        assert_eq!(
            resized("ram:1MiB,block=4096", 1 << 30),
            "ram:1GiB,block=4096"
        );
    }

    #[test]
    fn hosts_and_listeners() {
        let host = "nqn.2024-01.a:host";
        let text = edited(&Change::Allow { nqn: NQN, host });
        let config = Config::parse(&text, "f").expect("valid");
        assert!(
            config.subsystem[0]
                .allow
                .as_ref()
                .is_some_and(|allow| allow.contains(host))
        );
        let text = edit(&text, &Change::Forbid { nqn: NQN, host }, "f").expect("edits");
        let config = Config::parse(&text, "f").expect("valid");
        assert!(
            config.subsystem[0]
                .allow
                .as_ref()
                .is_some_and(|allow| allow.is_empty())
        );

        let url: Url = "tcp://127.0.0.1:4421".parse().expect("a url");
        let text = edited(&Change::Listen(&url));
        assert_eq!(Config::parse(&text, "f").expect("valid").listen.len(), 2);
        let text = edit(
            &text,
            &Change::Unlisten(&"tcp://127.0.0.1".parse().expect("a url")),
            "f",
        )
        .expect("edits");
        assert_eq!(Config::parse(&text, "f").expect("valid").listen, [url]);
    }

    #[test]
    fn the_subsystem_without_a_name_is_this_machines() {
        let text = "[[subsystem]]\nserial = \"S\"\n";
        let change = Change::Allow {
            nqn: "nqn.2024-01.a:once",
            host: "nqn.2024-01.a:host",
        };
        assert!(
            edit(text, &change, "f")
                .expect("edits")
                .contains("allow = [\"nqn.2024-01.a:host\"]")
        );
    }

    #[test]
    fn the_file_is_replaced_whole() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("ferroce.toml");
        fs::write(&path, TEXT).expect("writes");
        persist(&path, &Change::Remove { nqn: NQN, nsid: 2 }).expect("persists");
        assert_eq!(devices(&fs::read_to_string(&path).expect("reads")).len(), 1);
        assert_eq!(fs::read_dir(dir.path()).expect("lists").count(), 1);
        let said = persist(
            &path,
            &Change::Remove {
                nqn: "nqn.2024-01.a:x",
                nsid: 2,
            },
        )
        .expect_err("unknown")
        .0;
        assert!(said.contains("no subsystem"), "{said}");
    }
}
