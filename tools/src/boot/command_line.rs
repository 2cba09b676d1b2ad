//! `ferroce.KEY=VALUE` on the kernel's command line: the configuration file's keys, in force over what the file says.
//!
//!     ferroce.listen=tcp://0.0.0.0:4420 ferroce.device=ram:1GiB ferroce.memory.buffers=16MiB ferroce.link=eth0,dhcp,mtu=9000
//!
//! `device` adds a namespace to the first subsystem, whose `nqn` and `allow` can be given too; `link` adds a network
//! interface. `listen`, `device`, `allow` and `link` may stand there several times; of the other keys the last one counts.

use toml_edit::{Array, ArrayOfTables, DocumentMut, Item, Table, Value};

use crate::config::machine::Link;
use crate::fail::{Context, Fail, Result, fail};

/// The text of a file with what the command line says of it; None if that says nothing.
pub fn merge(text: &str, command_line: &str) -> Result<Option<String>> {
    let said: Vec<(&str, &str)> = command_line
        .split_whitespace()
        .filter_map(|word| word.strip_prefix("ferroce."))
        .map(|word| word.split_once('=').unwrap_or((word, "true")))
        .collect();
    if said.is_empty() {
        return Ok(None);
    }
    let mut document: DocumentMut = text
        .parse()
        .context(|| "the configuration file is no TOML")?;
    let mut listen = Array::new();
    let mut allow = Array::new();
    for (key, value) in said {
        let wrong = |why: &str| {
            Fail(format!(
                "ferroce.{key}={value} on the kernel's command line: {why}"
            ))
        };
        match key {
            "listen" => listen.push(value),
            "allow" => allow.push(value),
            "nqn" => {
                subsystem(&mut document)?.insert("nqn", value_of(value).into());
            }
            "device" => {
                let mut namespace = Table::new();
                namespace.insert("device", Value::from(value).into());
                tables(subsystem(&mut document)?, "namespace")?.push(namespace);
            }
            "link" => {
                let link: Link = value.parse().map_err(|why: String| wrong(&why))?;
                let machine = document
                    .entry("machine")
                    .or_insert(Item::Table(Table::new()));
                let machine = machine
                    .as_table_mut()
                    .ok_or_else(|| wrong("`machine` is no table in the file"))?;
                tables(machine, "link")?.push(table_of(&link));
            }
            _ => {
                let mut path: Vec<&str> = key.split('.').collect();
                let last = path.pop().unwrap_or(key);
                let mut table = document.as_table_mut();
                for part in path {
                    let next = table.entry(part).or_insert(Item::Table(Table::new()));
                    table = next
                        .as_table_mut()
                        .ok_or_else(|| wrong("there is no such table"))?;
                }
                table.insert(last, value_of(value).into());
            }
        }
    }
    if !listen.is_empty() {
        document.insert("listen", Value::from(listen).into());
    }
    if !allow.is_empty() {
        subsystem(&mut document)?.insert("allow", Value::from(allow).into());
    }
    Ok(Some(document.to_string()))
}

/// The first subsystem; one is made if there is none.
fn subsystem(document: &mut DocumentMut) -> Result<&mut Table> {
    let all = tables(document.as_table_mut(), "subsystem")?;
    if all.is_empty() {
        all.push(Table::new());
    }
    Ok(all.get_mut(0).expect("there is one"))
}

fn tables<'a>(table: &'a mut Table, name: &str) -> Result<&'a mut ArrayOfTables> {
    let item = table
        .entry(name)
        .or_insert(Item::ArrayOfTables(ArrayOfTables::new()));
    match item.as_array_of_tables_mut() {
        Some(all) => Ok(all),
        None => fail!(
            "the command line adds to `{name}`, which the file must write as [[{name}]] for that"
        ),
    }
}

fn table_of(link: &Link) -> Table {
    let mut table = Table::new();
    let mut put = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            table.insert(key, value.into());
        }
    };
    put("name", link.name.as_deref().map(Value::from));
    put("mac", link.mac.map(|mac| mac.to_string().into()));
    let addresses: Array = link.address.iter().map(ToString::to_string).collect();
    put("address", (!addresses.is_empty()).then(|| addresses.into()));
    put("gateway", link.gateway.map(|ip| ip.to_string().into()));
    put("mtu", link.mtu.map(|mtu| i64::from(mtu).into()));
    put("rxe", link.rxe.then(|| true.into()));
    table
}

/// As TOML if it is a number, a truth value or a list, else as text.
fn value_of(text: &str) -> Value {
    match text.parse::<Value>() {
        Ok(value @ (Value::Integer(_) | Value::Boolean(_) | Value::Array(_))) => value,
        _ => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn merged(text: &str, line: &str) -> Config {
        let text = merge(text, line)
            .expect("merged")
            .expect("something is said");
        Config::parse(&text, "merged").unwrap_or_else(|why| panic!("{why}\n{text}"))
    }

    #[test]
    fn a_node_can_be_said_on_the_command_line_alone() {
        let config = merged(
            "",
            "console=ttyS0 ferroce.listen=tcp://0.0.0.0:4420 ferroce.listen=rdma://10.0.0.5:4420 ferroce.device=ram:64MiB \
             ferroce.device=nvme:0000:01:00.0 ferroce.nqn=nqn.2024-01.org.example:node ferroce.memory.buffers=16MiB \
             ferroce.cores=0,1 ferroce.limits.queues=64 ferroce.metrics=0.0.0.0:9520 ferroce.memory.huge-pages=false \
             ferroce.link=eth0,10.0.0.5/24,mtu=4500,rxe ferroce.allow=nqn.2024-01.org.example:host quiet",
        );
        assert_eq!(config.listen.len(), 2);
        assert_eq!(config.cores.0, [0, 1]);
        assert_eq!(config.memory.buffers.0, 16 << 20);
        assert!(!config.memory.huge_pages);
        assert_eq!(config.limits.queues, 64);
        assert_eq!(config.subsystem[0].nqn(), "nqn.2024-01.org.example:node");
        assert_eq!(config.subsystem[0].namespace.len(), 2);
        assert_eq!(
            config.subsystem[0].allow.as_ref().map(|all| all.len()),
            Some(1)
        );
        let link = &config.machine.link[0];
        assert_eq!(
            (link.label(), link.mtu, link.rxe),
            ("eth0".into(), Some(4500), true)
        );
    }

    #[test]
    fn what_is_said_is_in_force_over_the_file_or_beside_it() {
        let file = "listen = [\"tcp://127.0.0.1:1\"]\nspin = \"10us\"\n[[subsystem]]\nnqn = \"nqn.2024-01.a:b\"\n\
                    [[subsystem.namespace]]\ndevice = \"ram:1MiB\"\n[[machine.link]]\nname = \"eth0\"\n";
        let config = merged(
            file,
            "ferroce.listen=tcp://127.0.0.1:2 ferroce.device=ram:2MiB ferroce.link=eth1,dhcp ferroce.spin=20us ferroce.spin=30us",
        );
        assert_eq!(config.listen[0].port, 2);
        assert_eq!(config.spin.to_string(), "30us");
        assert_eq!(config.subsystem[0].nqn(), "nqn.2024-01.a:b");
        assert_eq!(config.subsystem[0].namespace.len(), 2);
        assert_eq!(config.machine.link.len(), 2);
        assert_eq!(merge(file, "quiet other.key=1"), Ok(None));
    }

    #[test]
    fn nonsense_is_told() {
        for (file, line, why) in [
            ("a = ", "ferroce.spin=1us", "no TOML"),
            ("", "ferroce.link=eth0,10.0.0.1", "prefix"),
            ("memory = 1", "ferroce.memory.buffers=1MiB", "no such table"),
            ("subsystem = 1", "ferroce.device=ram:1MiB", "[[subsystem]]"),
        ] {
            let said = merge(file, line).expect_err(line).0;
            assert!(said.contains(why), "{line}: {said}");
        }
    }
}
