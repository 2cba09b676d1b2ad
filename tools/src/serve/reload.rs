//! SIGHUP: the configuration file is read again, and what can change in a node that runs is changed, by the same changes
//! that `ferroce ctl` makes. Of the rest is told that it waits for the next start.

use std::path::Path;

use ferroce_drivers::spec::Kind;
use ferroce_engine::control::Change;
use ferroce_engine::table::Transport;

use crate::config::{Config, Namespace, Subsystem};
use crate::ctl::protocol::Order;
use crate::fail::{Fail, Result};
use crate::node::Node;
use crate::url::Url;

/// A change, as it is tried.
#[derive(Clone, PartialEq, Debug)]
enum Step {
    Add(String, Namespace),
    Order(String, Order),
    /// Who may connect, all of them.
    Allow(String, Subsystem),
}

/// Reads the file, and makes of the node what it says now. What fails is told and left out.
pub fn reload(node: &Node, file: &Path) -> Result<()> {
    let (now, text) = Config::read(file)?;
    let handle = node.handle();
    let _one_at_a_time = handle.changing();
    let before = Config::parse(&handle.in_force(), "the configuration in force")?;
    let live = node.listeners()?;
    let places = Places {
        live: &live,
        of: &|url| handle.place(&live, url),
        can_listen: &|url| handle.can_listen(url),
    };
    let (steps, later) = steps(&before, &now, &places);
    let (count, mut made) = (steps.len(), 0);
    let opened = steps.iter().any(|step| matches!(step, Step::Allow(..)));
    for step in steps {
        let done = match &step {
            Step::Add(nqn, namespace) => handle.add(nqn, namespace).map(drop),
            Step::Order(nqn, order) => handle.execute(order, Some(nqn)).map(drop),
            Step::Allow(nqn, subsystem) => handle.change(Change::Allow {
                nqn: nqn.clone(),
                hosts: subsystem.allow.clone(),
            }),
        };
        match done {
            Ok(()) => made += 1,
            Err(Fail(why)) => log::error!("{}: {why}", step.name()),
        }
    }
    // A new address has told of itself.
    if opened {
        for door in handle.open_doors()? {
            log::warn!("{door}");
        }
    }
    log::info!(
        "{} was read again: {made} of {count} changes made",
        file.display()
    );
    if !later.is_empty() {
        log::warn!(
            "{}: what is said there of {} is in force at the next start",
            file.display(),
            later.join(", ")
        );
    }
    handle.set_in_force(text);
    Ok(())
}

/// What a node can say of addresses.
struct Places<'a> {
    /// Where it listens.
    live: &'a [Url],
    /// What an address means, so that two ways to write it are one.
    of: &'a dyn Fn(&Url) -> Url,
    /// It can begin to listen there now.
    can_listen: &'a dyn Fn(&Url) -> bool,
}

impl Step {
    fn name(&self) -> String {
        match self {
            Step::Add(nqn, namespace) => format!("{nqn}: {}", namespace.device.text),
            Step::Order(nqn, Order::Remove { nsid } | Order::Resize { nsid, .. }) => {
                format!("{nqn}: namespace {nsid}")
            }
            Step::Order(_, Order::Listen { url } | Order::Unlisten { url }) => url.clone(),
            Step::Order(nqn, _) | Step::Allow(nqn, _) => nqn.clone(),
        }
    }
}

/// What changes at once, in order: what goes makes room for what comes. And the names of what does not.
fn steps(before: &Config, now: &Config, places: &Places<'_>) -> (Vec<Step>, Vec<&'static str>) {
    let mut steps = Vec::new();
    let mut later = Vec::new();
    let mut unless = |same: bool, name| {
        if !same && !later.contains(&name) {
            later.push(name);
        }
    };
    unless(before.cores == now.cores, "cores");
    unless(before.spin == now.spin, "spin");
    unless(before.ctl == now.ctl, "ctl");
    unless(before.metrics == now.metrics, "metrics");
    unless(before.dscp == now.dscp, "dscp");
    unless(before.memory == now.memory, "memory");
    unless(before.limits == now.limits, "limits");
    unless(before.machine == now.machine, "machine");
    let known = |nqn: &str| before.subsystem.iter().find(|old| old.nqn() == nqn);
    let stays = |old: &Subsystem| now.subsystem.iter().any(|new| new.nqn() == old.nqn());
    unless(
        before.subsystem.iter().all(stays),
        "subsystems that are gone",
    );
    for new in &now.subsystem {
        let Some(old) = known(new.nqn()) else {
            unless(false, "new subsystems");
            continue;
        };
        let names = |s: &Subsystem| (s.serial.clone(), s.model.clone(), s.cntlid);
        unless(names(old) == names(new), "serial, model and cntlid");
        if old.allow != new.allow {
            steps.push(Step::Allow(new.nqn().into(), new.clone()));
        }
        namespaces(old, new, &mut steps);
    }
    let of = |config: &Config| -> Vec<Url> { config.listen.iter().map(places.of).collect() };
    let (old, new) = (of(before), of(now));
    let gone = old.iter().filter(|url| !new.contains(url));
    let gone: Vec<&Url> = gone.filter(|url| places.live.contains(url)).collect();
    let come = new.iter().filter(|url| !old.contains(url));
    let come: Vec<&Url> = come.filter(|url| !places.live.contains(url)).collect();
    // What cannot come yet does not drive away what is there.
    let now = come.iter().all(|url| (places.can_listen)(url));
    unless(now, "RDMA addresses");
    let at_once = |url: &&&Url| now || url.scheme.transport() == Transport::Tcp;
    for url in gone.iter().filter(at_once) {
        let url = url.to_string();
        steps.push(Step::Order(String::new(), Order::Unlisten { url }));
    }
    for url in come.iter().filter(at_once) {
        let url = url.to_string();
        steps.push(Step::Order(String::new(), Order::Listen { url }));
    }
    (steps, later)
}

fn namespaces(old: &Subsystem, new: &Subsystem, steps: &mut Vec<Step>) {
    let nqn = || new.nqn().to_owned();
    let find =
        |all: &[Namespace], nsid: Option<u32>| all.iter().find(|known| known.nsid == nsid).cloned();
    let mut add = Vec::new();
    for namespace in &old.namespace {
        // They have numbers once they were checked.
        let nsid = namespace.nsid.unwrap_or_default();
        let Some(now) = find(&new.namespace, namespace.nsid) else {
            steps.push(Step::Order(nqn(), Order::Remove { nsid }));
            continue;
        };
        match difference(namespace, &now) {
            Difference::None => (),
            Difference::Size(size) => steps.push(Step::Order(nqn(), Order::Resize { nsid, size })),
            Difference::All => {
                steps.push(Step::Order(nqn(), Order::Remove { nsid }));
                add.push(Step::Add(nqn(), now));
            }
        }
    }
    let is_new = |now: &&Namespace| find(&old.namespace, now.nsid).is_none();
    let news = new.namespace.iter().filter(is_new);
    steps.extend(add);
    steps.extend(news.map(|now| Step::Add(nqn(), now.clone())));
}

enum Difference {
    None,
    /// Only this: the contents stay.
    Size(u64),
    All,
}

fn difference(old: &Namespace, new: &Namespace) -> Difference {
    let (old, new) = (old.spec(), new.spec());
    if old == new {
        return Difference::None;
    }
    let mut resized = old.clone();
    resized.kind = new.kind.clone();
    let size = match (&old.kind, &new.kind) {
        (Kind::Ram { .. }, Kind::Ram { bytes }) => Some(*bytes),
        (Kind::File { path: from, .. }, Kind::File { path: to, size }) if from == to => *size,
        _ => None,
    };
    match size {
        Some(size) if resized == new => Difference::Size(size),
        _ => Difference::All,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::url::Scheme;

    fn config(listen: &str, rest: &str, namespaces: &str) -> Config {
        let text = format!(
            "listen = [{listen}]\n{rest}\n[[subsystem]]\nnqn = \"nqn.2024-01.a:b\"\nnamespace = [{namespaces}]\n"
        );
        Config::parse(&text, "f.toml").unwrap_or_else(|why| panic!("{why}\n{text}"))
    }

    /// A node that listens where `before` says, with an RDMA device of the address 10.9.0.1.
    fn changes(before: &Config, now: &Config) -> (Vec<Step>, Vec<&'static str>) {
        let of = |url: &Url| -> Url {
            let text = url.to_string().replace("rxe0:", "10.9.0.1:");
            let text = text.replace("rdma://10.9", "verbs://10.9");
            text.parse().expect("an address")
        };
        let live: Vec<Url> = before.listen.iter().map(of).collect();
        let places = Places {
            live: &live,
            of: &of,
            can_listen: &|url| matches!(url.scheme, Scheme::Tcp | Scheme::Verbs),
        };
        steps(before, now, &places)
    }

    fn listeners(before: &str, now: &str) -> (Vec<String>, Vec<&'static str>) {
        let (steps, later) = changes(&config(before, "", ""), &config(now, "", ""));
        let said = steps.iter().map(|step| match step {
            Step::Order(_, Order::Unlisten { url }) => format!("-{url}"),
            Step::Order(_, Order::Listen { url }) => format!("+{url}"),
            step => panic!("{step:?}"),
        });
        (said.collect(), later)
    }

    #[test]
    fn what_is_the_same_stays() {
        let same = config("\"tcp://127.0.0.1:1\"", "", "{device=\"ram:1MiB\"}");
        assert_eq!(changes(&same, &same), (Vec::new(), Vec::new()));
    }

    #[test]
    fn an_address_is_the_same_however_it_is_written() {
        let device = "\"verbs://rxe0:4420\"";
        for text in ["verbs://rxe0", "verbs://10.9.0.1:4420", "rdma://10.9.0.1"] {
            let now = format!("\"{text}\"");
            assert_eq!(listeners(device, &now), (Vec::new(), Vec::new()), "{text}");
            assert_eq!(listeners(&now, device), (Vec::new(), Vec::new()), "{text}");
        }
        // What devices do can begin and end at once, and leaves the others alone.
        let more = "\"verbs://rxe0\", \"verbs://10.9.0.2:4420\"";
        assert_eq!(
            listeners(device, more),
            (vec!["+verbs://10.9.0.2:4420".into()], vec![])
        );
        assert_eq!(
            listeners(more, device),
            (vec!["-verbs://10.9.0.2:4420".into()], vec![])
        );
    }

    #[test]
    fn what_is_to_come_later_drives_nobody_away_now() {
        assert_eq!(
            listeners(
                "\"roce://127.0.0.1\", \"tcp://127.0.0.1:1\"",
                "\"roce://127.0.0.2\", \"tcp://127.0.0.1:2\""
            ),
            (
                vec!["-tcp://127.0.0.1:1".into(), "+tcp://127.0.0.1:2".into()],
                vec!["RDMA addresses"]
            )
        );
    }

    #[test]
    fn where_it_listens_already_or_no_more_nothing_is_to_be_done() {
        let before = config("\"tcp://127.0.0.1:1\"", "", "");
        let now = config("\"tcp://127.0.0.1:2\"", "", "");
        let live = ["tcp://127.0.0.1:2".parse().expect("an address")];
        let places = Places {
            live: &live,
            of: &Url::clone,
            can_listen: &|_| true,
        };
        assert_eq!(steps(&before, &now, &places), (Vec::new(), Vec::new()));
    }

    #[test]
    fn sizes_change_without_loss_and_the_rest_is_replaced() {
        let before = config(
            "\"tcp://127.0.0.1:1\", \"tcp://127.0.0.1:2\"",
            "",
            "{device=\"ram:1MiB\"},{device=\"ram:1MiB\"},{device=\"file:/a,size=1MiB\"},{device=\"file:/b\"},{device=\"file:/c\"}",
        );
        let now = config(
            "\"tcp://127.0.0.1:1\", \"tcp://127.0.0.1:3\"",
            "",
            "{device=\"ram:2MiB\"},{device=\"ram:1MiB\",read-only=true},{device=\"file:/a,size=2MiB\"},{device=\"file:/d\"},{device=\"ram:5MiB\",nsid=9}",
        );
        let (steps, later) = changes(&before, &now);
        let said: Vec<String> = steps
            .iter()
            .map(|step| match step {
                Step::Add(_, namespace) => {
                    format!("add {} {:?}", namespace.device.text, namespace.nsid)
                }
                Step::Order(_, order) => format!("{order:?}"),
                Step::Allow(..) => "allow".into(),
            })
            .collect();
        assert_eq!(
            said,
            [
                "Resize { nsid: 1, size: 2097152 }",
                "Remove { nsid: 2 }",
                "Resize { nsid: 3, size: 2097152 }",
                "Remove { nsid: 4 }",
                "Remove { nsid: 5 }",
                "add ram:1MiB Some(2)",
                "add file:/d Some(4)",
                "add ram:5MiB Some(9)",
                "Unlisten { url: \"tcp://127.0.0.1:2\" }",
                "Listen { url: \"tcp://127.0.0.1:3\" }",
            ]
        );
        assert!(later.is_empty());
    }

    #[test]
    fn what_cannot_change_now_is_named() {
        let before = config("\"tcp://127.0.0.1:1\"", "", "");
        let now = config(
            "\"tcp://127.0.0.1:1\", \"roce://127.0.0.1:3\"",
            "cores = [0]\nspin = \"always\"",
            "",
        );
        assert_eq!(
            changes(&before, &now),
            (Vec::new(), vec!["cores", "spin", "RDMA addresses"])
        );
    }
}
