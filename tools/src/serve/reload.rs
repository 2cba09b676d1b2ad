//! SIGHUP: the configuration file is read again, and what can change in a node that runs is changed, by the same changes
//! that `ferroce ctl` makes. Of the rest is told that it waits for the next start.
//!
//! What the node goes by is kept change by change: what failed, and what waits, differs at the next SIGHUP, too, and is
//! tried or told again. What is in memory, or beyond the end of a file, is not thrown away because it became another one in
//! the file: that takes an order of `ctl`, or a start. What is taken out of the file goes.

use std::collections::BTreeSet;
use std::path::Path;

use ferroce_drivers::DriveSpec;
use ferroce_drivers::spec::Kind;
use ferroce_engine::control::Change;
use ferroce_engine::table::{self, Transport};

use crate::config::{Config, Namespace, Subsystem};
use crate::ctl::protocol::Order;
use crate::fail::{Fail, Result};
use crate::node::{Handle, What, is_here};
use crate::units::Size;
use crate::url::Url;

/// A change.
#[derive(Clone, PartialEq, Debug)]
enum Step {
    Remove(String, u32),
    Add(String, Namespace),
    /// It has so many bytes.
    Resize(String, Namespace, u64),
    ReadOnly(String, Namespace, bool),
    /// Who may connect, all of them.
    Allow(String, Option<BTreeSet<String>>),
    Unlisten(Url),
    Listen(Url),
}

/// What is to be done about a file that has changed.
#[derive(PartialEq, Debug, Default)]
struct Plan {
    /// What the node does already, as by `ctl`, or has not.
    known: Vec<Step>,
    /// What changes at once, in order: what goes makes room for what comes.
    steps: Vec<Step>,
    /// What is not done, and why.
    kept: Vec<String>,
    /// The names of what changes at the next start.
    later: Vec<&'static str>,
    /// Addresses that are to come then.
    addresses_later: Vec<Url>,
}

/// What the node has and can.
struct Live<'a> {
    /// Where it listens.
    listens: &'a [Url],
    /// What an address means, so that two ways to write it are one.
    of: &'a dyn Fn(&Url) -> Url,
    /// It can begin to listen there now.
    can_listen: &'a dyn Fn(&Url) -> bool,
    /// The drive that is a namespace, all that may be left out of it filled in.
    drive: &'a dyn Fn(&str, u32) -> Option<DriveSpec>,
}

/// Reads the file, and makes of the node what it says now. What fails is told and left out.
pub fn reload(handle: &Handle, file: &Path) -> Result<()> {
    let _one_at_a_time = handle.changing_drives();
    let changing_access = handle.changing_access();
    // Not before: an order of `ctl` may write to it.
    let now = Config::read(file)?;
    let in_force = handle.in_force();
    let (listens, table) = (handle.listeners()?, handle.table()?);
    let live = Live {
        listens: &listens,
        of: &|url| handle.place(&listens, url),
        can_listen: &|url| handle.can_listen(url),
        drive: &|nqn, nsid| drive(table.subsystems.get(nqn)?.namespaces.get(&nsid)?),
    };
    let plan = plan(&in_force, &now, &live);
    for step in &plan.known {
        step.note(&mut handle.noting(), &live);
    }
    // What is still missing is looked for as the file names it now.
    let wanted = handle.wanted();
    wanted.keep(|what| names(&now, what, &live));
    let mut made = 0;
    let mut make = |step: &Step| match step.make(handle) {
        Ok(()) => {
            step.note(&mut handle.noting(), &live);
            made += 1;
        }
        Err(why) => match step.missing() {
            Some(what) if wanted.is_patient() => {
                wanted.miss(what, why);
                step.note(&mut handle.noting(), &live);
            }
            _ => log::error!("{}: {why}", step.name()),
        },
    };
    // Drives may take their time, for which who may connect and where does not wait.
    let of_access = |step: &&Step| step.is_of_access();
    plan.steps.iter().filter(of_access).for_each(&mut make);
    drop(changing_access);
    let of_drives = |step: &&Step| !step.is_of_access();
    plan.steps.iter().filter(of_drives).for_each(make);
    for url in plan.addresses_later {
        if wanted.is_patient() && !is_here(&url) {
            let why = Fail("no interface of this machine has this address".into());
            wanted.miss(What::Rdma { url, here: false }, why);
        }
    }
    for why in &plan.kept {
        log::error!("{why}");
    }
    // A new address has told of itself.
    if plan
        .steps
        .iter()
        .any(|step| matches!(step, Step::Allow(..)))
    {
        for door in handle.open_doors()? {
            log::warn!("{door}");
        }
    }
    log::info!(
        "{} was read again: {made} of {} changes made",
        file.display(),
        plan.steps.len() + plan.kept.len()
    );
    if !plan.later.is_empty() {
        log::warn!(
            "{}: what is said there of {} is in force at the next start",
            file.display(),
            plan.later.join(", ")
        );
    }
    Ok(())
}

impl Step {
    fn is_of_access(&self) -> bool {
        match self {
            Step::Allow(..) | Step::Unlisten(_) | Step::Listen(_) => true,
            Step::Remove(..) | Step::Add(..) | Step::Resize(..) | Step::ReadOnly(..) => false,
        }
    }

    fn make(&self, handle: &Handle) -> Result<()> {
        let ctl = |order, nqn| handle.execute(&order, nqn).map(drop);
        match self {
            Step::Remove(nqn, nsid) => ctl(Order::Remove { nsid: *nsid }, Some(nqn)),
            Step::Add(nqn, namespace) => handle.add(nqn, namespace).map(drop),
            Step::Resize(nqn, namespace, size) => {
                let (nsid, size) = (number(namespace), *size);
                ctl(Order::Resize { nsid, size }, Some(nqn))
            }
            Step::ReadOnly(nqn, namespace, read_only) => handle.change(Change::ReadOnly {
                nqn: nqn.clone(),
                nsid: number(namespace),
                read_only: *read_only,
            }),
            Step::Allow(nqn, hosts) => handle.change(Change::Allow {
                nqn: nqn.clone(),
                hosts: hosts.clone(),
            }),
            Step::Unlisten(url) => ctl(
                Order::Unlisten {
                    url: url.to_string(),
                },
                None,
            ),
            Step::Listen(url) => ctl(
                Order::Listen {
                    url: url.to_string(),
                },
                None,
            ),
        }
    }

    /// What is not there if it fails, which a patient node waits for.
    fn missing(&self) -> Option<What> {
        match self {
            Step::Add(nqn, namespace) => Some(What::Drive(nqn.clone(), namespace.clone().into())),
            Step::Listen(url) => Some(What::Address(url.clone())),
            _ => None,
        }
    }

    /// The node goes by it.
    fn note(&self, config: &mut Config, live: &Live<'_>) {
        match self {
            Step::Unlisten(url) => config.listen.retain(|known| (live.of)(known) != *url),
            Step::Listen(url) => config.listen.push(url.clone()),
            Step::Remove(nqn, _)
            | Step::Add(nqn, _)
            | Step::Resize(nqn, ..)
            | Step::ReadOnly(nqn, ..)
            | Step::Allow(nqn, _) => {
                let subsystem = config.named(nqn).expect("there is a plan for it");
                match self {
                    Step::Remove(_, nsid) => subsystem.take(Some(*nsid)),
                    Step::Allow(_, hosts) => subsystem.allow.clone_from(hosts),
                    Step::Add(_, namespace)
                    | Step::Resize(_, namespace, _)
                    | Step::ReadOnly(_, namespace, _) => subsystem.put(namespace.clone()),
                    Step::Unlisten(_) | Step::Listen(_) => (),
                }
            }
        }
    }

    fn name(&self) -> String {
        match self {
            Step::Remove(nqn, nsid) => format!("{nqn}: namespace {nsid}"),
            Step::Add(nqn, namespace) => format!("{nqn}: {}", namespace.device.text),
            Step::Resize(nqn, namespace, _) | Step::ReadOnly(nqn, namespace, _) => {
                format!("{nqn}: namespace {}", number(namespace))
            }
            Step::Unlisten(url) | Step::Listen(url) => url.to_string(),
            Step::Allow(nqn, _) => nqn.clone(),
        }
    }
}

/// From what the node goes by to what the file says.
fn plan(before: &Config, now: &Config, live: &Live<'_>) -> Plan {
    let mut plan = Plan::default();
    // Each by its name, so that a key more is not forgotten here.
    let Config {
        listen: _,
        cores,
        spin,
        ctl,
        metrics,
        dscp,
        phases,
        cpu_dma_latency,
        memory,
        limits,
        machine,
        subsystem: subsystems,
    } = before;
    plan.unless(*cores == now.cores, "cores");
    plan.unless(*spin == now.spin, "spin");
    plan.unless(*ctl == now.ctl, "ctl");
    plan.unless(*metrics == now.metrics, "metrics");
    plan.unless(*dscp == now.dscp, "dscp");
    plan.unless(*phases == now.phases, "phases");
    plan.unless(*cpu_dma_latency == now.cpu_dma_latency, "cpu-dma-latency");
    plan.unless(*memory == now.memory, "memory");
    plan.unless(*limits == now.limits, "limits");
    plan.unless(*machine == now.machine, "machine");
    let stays = |old: &Subsystem| now.subsystem.iter().any(|new| new.nqn() == old.nqn());
    plan.unless(subsystems.iter().all(stays), "subsystems that are gone");
    for new in &now.subsystem {
        match subsystems.iter().find(|old| old.nqn() == new.nqn()) {
            Some(old) => plan.subsystem(old, new, live),
            None => plan.unless(false, "new subsystems"),
        }
    }
    plan.addresses(&before.listen, &now.listen, live);
    plan
}

impl Plan {
    fn unless(&mut self, same: bool, name: &'static str) {
        if !same && !self.later.contains(&name) {
            self.later.push(name);
        }
    }

    fn addresses(&mut self, before: &[Url], now: &[Url], live: &Live<'_>) {
        let of = |urls: &[Url]| -> Vec<Url> { urls.iter().map(live.of).collect() };
        let (old, new) = (of(before), of(now));
        let listens = |url: &Url| live.listens.contains(url);
        let gone = old.iter().filter(|url| !new.contains(url)).cloned();
        let (gone, gone_already): (Vec<Url>, Vec<Url>) = gone.partition(listens);
        let come = new.iter().filter(|url| !old.contains(url)).cloned();
        let (come_already, come): (Vec<Url>, Vec<Url>) = come.partition(listens);
        self.known
            .extend(gone_already.into_iter().map(Step::Unlisten));
        self.known
            .extend(come_already.into_iter().map(Step::Listen));
        // What cannot come yet does not drive away what is there.
        let now = come.iter().all(|url| (live.can_listen)(url));
        self.unless(now, "RDMA addresses");
        let at_once = |url: &Url| now || url.scheme.transport() == Transport::Tcp;
        let gone = gone.into_iter().filter(at_once);
        self.steps.extend(gone.map(Step::Unlisten));
        let (come, later) = come.into_iter().partition(at_once);
        let come: Vec<Url> = come;
        self.steps.extend(come.into_iter().map(Step::Listen));
        self.addresses_later = later;
    }

    fn subsystem(&mut self, old: &Subsystem, new: &Subsystem, live: &Live<'_>) {
        let Subsystem {
            nqn: _,
            serial,
            model,
            cntlid,
            allow,
            namespace,
        } = old;
        let same = (serial, model, cntlid) == (&new.serial, &new.model, &new.cntlid);
        self.unless(same, "serial, model and cntlid");
        let nqn = || new.nqn().to_owned();
        if *allow != new.allow {
            self.steps.push(Step::Allow(nqn(), new.allow.clone()));
        }
        let of = |all: &[Namespace], nsid| all.iter().find(|one| number(one) == nsid).cloned();
        let drive = |nsid| (live.drive)(new.nqn(), nsid);
        // Where numbers are those of places in the file, what goes may be another one than the one that was taken out.
        let shifted = namespace
            .iter()
            .any(|old| of(&new.namespace, number(old)).is_some_and(|now| spec(&now) != spec(old)));
        for nsid in namespace.iter().map(number) {
            if of(&new.namespace, nsid).is_some() {
                continue;
            }
            match drive(nsid) {
                None => self.known.push(Step::Remove(nqn(), nsid)),
                Some(has) if shifted && matches!(has.kind, Kind::Ram { .. }) => self.kept.push(format!(
                    "{}: namespace {nsid} stays, {}: others changed with it, and what is in memory is not thrown away by mistake; \
                     `ferroce ctl remove {nsid}` does it, or the next start",
                    nqn(),
                    has.label()
                )),
                Some(_) => self.steps.push(Step::Remove(nqn(), nsid)),
            }
        }
        let mut add = Vec::new();
        for now in &new.namespace {
            let nsid = number(now);
            let before = of(namespace, nsid);
            match (before, drive(nsid)) {
                (Some(before), _) if spec(&before) == spec(now) => (),
                (Some(before), Some(has)) => match difference(&has, &spec(&before), &spec(now)) {
                    Difference::None => self.known.push(Step::Add(nqn(), now.clone())),
                    Difference::Size(size) => {
                        self.steps.push(Step::Resize(nqn(), now.clone(), size));
                    }
                    Difference::ReadOnly(read_only) => {
                        let step = Step::ReadOnly(nqn(), now.clone(), read_only);
                        self.steps.push(step);
                    }
                    Difference::Less(size) => self.kept.push(format!(
                        "{}: namespace {nsid} keeps its size: nothing is cut off because a file is read again; \
                         `ferroce ctl resize {nsid} {}` does it",
                        nqn(),
                        Size(size)
                    )),
                    Difference::Contents => self.kept.push(format!(
                        "{}: namespace {nsid} stays {}, not {}: what is in memory is not thrown away because a file is \
                         read again; `ferroce ctl remove {nsid}` does it, and the file read once more then adds what \
                         it says; so does the next start",
                        nqn(),
                        has.label(),
                        now.device.text
                    )),
                    Difference::All => {
                        self.steps.push(Step::Remove(nqn(), nsid));
                        add.push(Step::Add(nqn(), now.clone()));
                    }
                },
                // By `ctl`, which may have been told of another drive; then why it cannot be added is told.
                (None, Some(has)) if serves(&has, &spec(now)) => {
                    self.known.push(Step::Add(nqn(), now.clone()));
                }
                (_, None) | (None, Some(_)) => add.push(Step::Add(nqn(), now.clone())),
            }
        }
        self.steps.extend(add);
    }
}

/// The file says that the node is to have it.
fn names(now: &Config, what: &What, live: &Live<'_>) -> bool {
    match what {
        What::Drive(nqn, wanted) => {
            let of_it = now.subsystem.iter().filter(|one| one.nqn() == nqn);
            let mut namespaces = of_it.flat_map(|one| &one.namespace);
            namespaces.any(|one| one.nsid == wanted.nsid && spec(one) == spec(wanted))
        }
        What::Address(wanted) | What::Rdma { url: wanted, .. } => {
            let wanted = (live.of)(wanted);
            now.listen.iter().any(|url| (live.of)(url) == wanted)
        }
    }
}

/// Its number, which it has once it was checked.
fn number(namespace: &Namespace) -> u32 {
    namespace.nsid.unwrap_or_default()
}

/// What drive it is, under whatever number.
fn spec(namespace: &Namespace) -> DriveSpec {
    DriveSpec {
        nsid: None,
        ..namespace.spec()
    }
}

/// See [`Live::drive`].
fn drive(namespace: &table::Namespace) -> Option<DriveSpec> {
    let info = &namespace.info;
    let len = info.blocks * u64::from(info.block_len);
    let named: DriveSpec = info.label.parse().ok()?;
    Some(DriveSpec {
        kind: match named.kind {
            Kind::Ram { .. } => Kind::Ram { bytes: len },
            Kind::File { path, .. } => Kind::File {
                path,
                size: Some(len),
            },
            Kind::Nvme { .. } => named.kind,
        },
        block_len: Some(info.block_len),
        read_only: namespace.read_only,
        uuid: Some(info.uuid),
        nsid: None,
    })
}

/// The drive is what is wanted. What is wanted may leave to it what it likes.
fn serves(has: &DriveSpec, wanted: &DriveSpec) -> bool {
    let mut wanted = wanted.clone();
    if let (Kind::File { size: has, .. }, Kind::File { size, .. }) = (&has.kind, &mut wanted.kind) {
        *size = size.or(*has);
    }
    wanted.block_len = wanted.block_len.or(match wanted.kind {
        Kind::Ram { .. } => Some(4096),
        _ => has.block_len,
    });
    wanted.uuid = wanted.uuid.or(has.uuid);
    *has == wanted
}

enum Difference {
    None,
    /// It grows, and its contents stay.
    Size(u64),
    ReadOnly(bool),
    /// What is behind this would be lost.
    Less(u64),
    /// All that is in memory would be lost.
    Contents,
    All,
}

/// Between a drive that is served, as the file said `old` of it, and `new`.
fn difference(has: &DriveSpec, old: &DriveSpec, new: &DriveSpec) -> Difference {
    let sized = |from: u64, to: u64| match to < from {
        true => Difference::Less(to),
        false => Difference::Size(to),
    };
    match (&has.kind, &new.kind) {
        (Kind::Ram { bytes }, _) => {
            let as_is = |kind: &Kind, read_only| DriveSpec {
                kind: kind.clone(),
                read_only,
                ..has.clone()
            };
            match &new.kind {
                _ if serves(has, new) => Difference::None,
                _ if serves(&as_is(&has.kind, new.read_only), new) => {
                    Difference::ReadOnly(new.read_only)
                }
                Kind::Ram { bytes: to } if serves(&as_is(&new.kind, has.read_only), new) => {
                    sized(*bytes, *to)
                }
                _ => Difference::Contents,
            }
        }
        (
            Kind::File { path, size },
            Kind::File {
                path: to,
                size: wanted,
            },
        ) if path == to => {
            let resized = DriveSpec {
                kind: new.kind.clone(),
                ..old.clone()
            };
            match (size, wanted) {
                _ if resized != *new || old.label() != new.label() => Difference::All,
                (Some(size), Some(wanted)) => sized(*size, *wanted),
                _ => Difference::None,
            }
        }
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

    /// Of a node that listens where `before` says, with an RDMA device of the address 10.9.0.1, and has these drives.
    fn planned(before: &Config, now: &Config, has: &Config) -> Plan {
        let of = |url: &Url| -> Url {
            let text = url.to_string().replace("rxe0:", "10.9.0.1:");
            let text = text.replace("rdma://10.9", "verbs://10.9");
            text.parse().expect("an address")
        };
        let listens: Vec<Url> = before.listen.iter().map(of).collect();
        let drive = |_: &str, nsid| {
            let mut all = has.subsystem[0].namespace.iter();
            let mut drive = spec(all.find(|one| number(one) == nsid)?);
            drive.block_len = drive.block_len.or(Some(4096));
            drive.uuid = drive.uuid.or(Some([7; 16]));
            if let Kind::File { size, .. } = &mut drive.kind {
                *size = size.or(Some(1 << 20));
            }
            Some(drive)
        };
        plan(
            before,
            now,
            &Live {
                listens: &listens,
                of: &of,
                can_listen: &|url| matches!(url.scheme, Scheme::Tcp | Scheme::Verbs),
                drive: &drive,
            },
        )
    }

    fn said(steps: &[Step]) -> Vec<String> {
        let line = |step: &Step| match step {
            Step::Unlisten(url) => format!("-{url}"),
            Step::Listen(url) => format!("+{url}"),
            Step::Remove(_, nsid) => format!("remove {nsid}"),
            Step::Add(_, now) => format!("add {} {}", number(now), now.device.text),
            Step::Resize(_, now, size) => format!("resize {} {}", number(now), Size(*size)),
            Step::ReadOnly(_, now, read_only) => format!("read-only {} {read_only}", number(now)),
            Step::Allow(_, hosts) => format!("allow {hosts:?}"),
        };
        steps.iter().map(line).collect()
    }

    fn listeners(before: &str, now: &str) -> (Vec<String>, Vec<&'static str>) {
        let (before, now) = (config(before, "", ""), config(now, "", ""));
        let plan = planned(&before, &now, &before);
        (said(&plan.steps), plan.later)
    }

    /// What is done, known and kept of namespaces, of a node that has `has`.
    fn namespaces(before: &str, now: &str, has: &str) -> (Vec<String>, Vec<String>, Vec<String>) {
        let of = |text| config("\"tcp://127.0.0.1:1\"", "", text);
        let plan = planned(&of(before), &of(now), &of(has));
        assert!(plan.later.is_empty(), "{:?}", plan.later);
        (said(&plan.steps), said(&plan.known), plan.kept)
    }

    #[test]
    fn what_is_the_same_stays() {
        let same = config("\"tcp://127.0.0.1:1\"", "", "{device=\"ram:1MiB\"}");
        assert_eq!(planned(&same, &same, &same), Plan::default());
        // However it is written.
        let beside = config("\"tcp://127.0.0.1:1\"", "", "{device=\"ram:1MiB\",nsid=1}");
        let inside = config("\"tcp://127.0.0.1:1\"", "", "{device=\"ram:1MiB,nsid=1\"}");
        assert_eq!(planned(&beside, &inside, &same), Plan::default());
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
        let mut before = config("\"tcp://127.0.0.1:1\"", "", "");
        let now = config("\"tcp://127.0.0.1:2\"", "", "");
        let live = Live {
            listens: &["tcp://127.0.0.1:2".parse().expect("an address")],
            of: &Url::clone,
            can_listen: &|_| true,
            drive: &|_, _| None,
        };
        let plan = plan(&before, &now, &live);
        assert!(plan.steps.is_empty());
        assert_eq!(
            said(&plan.known),
            ["-tcp://127.0.0.1:1", "+tcp://127.0.0.1:2"]
        );
        for step in &plan.known {
            step.note(&mut before, &live);
        }
        assert_eq!(before.listen, now.listen);
    }

    #[test]
    fn sizes_change_without_loss_and_the_rest_is_replaced() {
        let before = "{device=\"ram:1MiB\"},{device=\"file:/a,size=1MiB\"},{device=\"file:/b\"},{device=\"file:/c\"},{device=\"file:/e,size=1MiB\"}";
        let now = "{device=\"ram:2MiB\"},{device=\"file:/a,size=2MiB\"},{device=\"file:/d\"},{device=\"ram:5MiB\",nsid=9},{device=\"file:/e\",nsid=5}";
        let (steps, known, kept) = namespaces(before, now, before);
        assert_eq!(
            steps,
            [
                "remove 4",
                "resize 1 2MiB",
                "resize 2 2MiB",
                "remove 3",
                "add 3 file:/d",
                "add 9 ram:5MiB",
            ]
        );
        assert_eq!(known, ["add 5 file:/e"]);
        assert!(kept.is_empty());
    }

    #[test]
    fn a_ram_drive_changes_without_loss_or_not_at_all() {
        let ram = "{device=\"ram:1MiB\"}";
        let change = |now: &str, has: &str| {
            let (steps, known, kept) = namespaces(ram, now, has);
            (steps.join(", "), known.join(", "), kept.join(", "))
        };
        let done = |steps: &str| (steps.to_owned(), String::new(), String::new());
        let read_only = "{device=\"ram:1MiB,ro\"}";
        assert_eq!(change(read_only, ram), done("read-only 1 true"));
        let (steps, _, _) = namespaces(read_only, ram, read_only);
        assert_eq!(steps, ["read-only 1 false"]);
        for (now, orders) in [
            ("{device=\"file:/a\"},{device=\"ram:1MiB\"}", "ctl remove 1"),
            ("{device=\"ram:1MiB,block=512\"}", "ctl remove 1"),
            ("{device=\"ram:512KiB\"}", "ctl resize 1 512KiB"),
        ] {
            let (steps, known, kept) = change(now, ram);
            let second = if now.contains("file") {
                "add 2 ram:1MiB"
            } else {
                ""
            };
            assert_eq!((steps.as_str(), known.as_str()), (second, ""), "{now}");
            assert!(kept.contains(orders), "{kept}");
        }
        // One that is taken out goes, if it is that one for certain.
        assert_eq!(change("", ram), done("remove 1"));
        let two = "{device=\"ram:1MiB,block=512\"},{device=\"ram:2MiB\"}";
        let (steps, _, kept) = namespaces(two, "{device=\"ram:2MiB\"}", two);
        assert_eq!((steps.len(), kept.len()), (0, 2), "{kept:?}");
        assert!(kept[0].contains("ctl remove 2"), "{kept:?}");
        // Who obeys has what the file says.
        let other = "{device=\"ram:1MiB,block=512\"}";
        assert_eq!(change(other, ""), done("add 1 ram:1MiB,block=512"));
        let (steps, known, kept) = change(other, other);
        assert_eq!(
            (steps, known, kept),
            ("".into(), "add 1 ram:1MiB,block=512".into(), "".into())
        );
        assert_eq!(change("", "").1, "remove 1");
    }

    #[test]
    fn no_file_is_cut_whatever_the_file_said_before() {
        let of = |size: &str| format!("{{device=\"file:/a,size={size}\"}}");
        for (before, now, has, done) in [
            ("4MiB", "2MiB", "4MiB", None),
            ("4MiB", "6MiB", "8MiB", None),
            ("4MiB", "8MiB", "4MiB", Some("resize 1 8MiB")),
        ] {
            let (steps, _, kept) = namespaces(&of(before), &of(now), &of(has));
            assert_eq!(steps.first().map(String::as_str), done, "{now}");
            let order = format!("`ferroce ctl resize 1 {now}`");
            let told = kept.iter().any(|why| why.contains(&order));
            assert_eq!(told, done.is_none(), "{kept:?}");
        }
    }

    #[test]
    fn what_cannot_change_now_is_named() {
        let before = config("\"tcp://127.0.0.1:1\"", "", "");
        let now = config(
            "\"tcp://127.0.0.1:1\", \"roce://127.0.0.1:3\"",
            "cores = [0]\nspin = \"always\"\nphases = false\ncpu-dma-latency = false",
            "",
        );
        let plan = planned(&before, &now, &before);
        assert_eq!(plan.steps, []);
        let names = [
            "cores",
            "spin",
            "phases",
            "cpu-dma-latency",
            "RDMA addresses",
        ];
        assert_eq!(plan.later, names);
    }
}
