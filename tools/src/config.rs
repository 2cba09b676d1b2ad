//! What the node is to be: read from a TOML file or made from flags, checked, and the same from
//! there on. `ferroce.example.toml` documents each key; a test holds it complete.

pub mod machine;

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use ferroce_drivers::DriveSpec;
use ferroce_engine::limits;
use ferroce_engine::table::Transport;
use ferroce_wire::fabrics::{CNTLID_MAX, Nqn};
use serde::Deserialize;

use crate::fail::{Context, Fail, Result, fail};
use crate::units::{Dscp, Size, parse_time};
use crate::url::Url;
use crate::{identity, url};
use machine::Machine;

/// Where `serve` looks when it is told nothing.
pub const DEFAULT_PATH: &str = "/etc/ferroce/ferroce.toml";
/// The documented example, printed by `serve --print-config`.
pub const EXAMPLE: &str = include_str!("../ferroce.example.toml");
/// The least that `transfer` may be, in bytes.
const TRANSFER_LEAST: u64 = 64 * 1024;
/// The model number (MN) that hosts see if none is given.
const DEFAULT_MODEL: &str = "Ferroce";

/// The node.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Config {
    /// Where hosts connect.
    pub listen: Vec<Url>,
    /// CPUs to run on, one polling thread each; none named: a few threads, not pinned.
    pub cores: Cores,
    /// How long a core polls before it sleeps.
    pub spin: Spin,
    /// The control socket, if not the usual place.
    pub ctl: Option<PathBuf>,
    /// Where metrics are served, if anywhere.
    pub metrics: Option<SocketAddr>,
    /// DSCP of the packets to hosts over RDMA, if it is not what a host asked for.
    pub dscp: Option<Dscp>,
    /// Time every I/O.
    pub phases: bool,
    /// Ask the system for CPUs that wake up at once while hosts are connected.
    pub cpu_dma_latency: bool,
    /// Memory for data on its way.
    pub memory: Memory,
    /// Bounds.
    pub limits: Limits,
    /// What the machine needs, where Ferroce is all of its system.
    pub machine: Machine,
    /// What is served.
    pub subsystem: Vec<Subsystem>,
}

/// Memory for data on its way between hosts and drives.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Memory {
    /// Per core.
    pub buffers: Size,
    /// Try huge pages first.
    pub huge_pages: bool,
}

/// Bounds that hosts run into.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Limits {
    /// Connections of all hosts, per core.
    pub queues: u32,
    /// Commands under way, per core.
    pub commands: u32,
    /// Pairs of namespace and host that are measured apart, per core.
    pub series: u32,
    /// Entries of all RDMA I/O queues, per core: each has a buffer for in-capsule data.
    pub rdma_entries: u32,
    /// The most that one command moves (MDTS).
    pub transfer: Size,
}

/// An NVM subsystem: what hosts connect to by its NQN.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Subsystem {
    /// Its name; without one, a UUID that follows from this machine's.
    pub nqn: Option<String>,
    /// Serial number.
    pub serial: Option<String>,
    /// Model number.
    pub model: Option<String>,
    /// First and last controller ID.
    pub cntlid: Option<CntlidRange>,
    /// Hosts that may connect; without it, every host.
    pub allow: Option<BTreeSet<String>>,
    /// Its blocks.
    #[serde(default)]
    pub namespace: Vec<Namespace>,
}

/// A namespace: a drive, as hosts see it.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Namespace {
    /// `ram:64MiB`, `file:/path`.
    pub device: Device,
    /// Its number; without one, the lowest free.
    pub nsid: Option<u32>,
    /// Refuse writes, if the operator says so or not.
    pub read_only: Option<bool>,
    /// Its identity, if it is not to follow from the drive.
    pub uuid: Option<uuid_text::UuidText>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            listen: vec![Url {
                scheme: url::Scheme::Tcp,
                host: "127.0.0.1".into(),
                port: url::PORT,
                nqn: None,
            }],
            cores: Cores::default(),
            spin: Spin::default(),
            ctl: None,
            metrics: None,
            dscp: None,
            phases: true,
            cpu_dma_latency: true,
            memory: Memory::default(),
            limits: Limits::default(),
            machine: Machine::default(),
            subsystem: Vec::new(),
        }
    }
}

impl Default for Memory {
    fn default() -> Memory {
        Memory {
            buffers: Size(64 << 20),
            huge_pages: true,
        }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            queues: 1024,
            commands: 131_072,
            series: 128,
            rdma_entries: 8192,
            transfer: Size(limits::TRANSFER_MAX.into()),
        }
    }
}

impl Config {
    /// Reads and checks a file.
    pub fn read(path: &Path) -> Result<Config> {
        let text = fs::read_to_string(path).context(|| {
            let hint = match path.exists() {
                true => "",
                false => " (`ferroce serve --print-config` prints one to start from)",
            };
            format!("cannot read {}{hint}", path.display())
        })?;
        Config::parse(&text, &path.display().to_string())
    }

    /// Checks the text of a file called `name`.
    pub fn parse(text: &str, name: &str) -> Result<Config> {
        let config: Config = toml::from_str(text).map_err(|cause| {
            let line = cause
                .span()
                .map_or(1, |span| 1 + text[..span.start].matches('\n').count());
            let why = cause.message().replace('\n', " ");
            // Of a value it says what it should be, and not whose value it is.
            let key = text
                .lines()
                .nth(line - 1)
                .and_then(|line| line.split_once('='));
            let key = key.map_or("", |(key, _)| key.trim());
            match why.starts_with("invalid type") && !key.is_empty() {
                true => Fail(format!("{name}:{line}: {key}: {why}")),
                false => Fail(format!("{name}:{line}: {why}")),
            }
        })?;
        config
            .checked()
            .map_err(|Fail(why)| Fail(format!("{name}: {why}")))
    }

    /// The subsystem of this name.
    pub fn named(&mut self, nqn: &str) -> Option<&mut Subsystem> {
        self.subsystem.iter_mut().find(|known| known.nqn() == nqn)
    }

    /// Hosts may come by RDMA.
    pub fn has_rdma(&self) -> bool {
        self.listen
            .iter()
            .any(|url| url.scheme.transport() == Transport::Rdma)
    }

    /// Some drives are driven from user space.
    pub fn has_drives_of_ours(&self) -> bool {
        let mut namespaces = self.subsystem.iter().flat_map(|one| &one.namespace);
        namespaces.any(|namespace| namespace.device.spec.nvme().is_some())
    }

    /// Fills in what was left out and refuses what cannot be.
    pub fn checked(mut self) -> Result<Config> {
        if self.subsystem.is_empty() {
            fail!("nothing to serve: there is no [[subsystem]]");
        }
        if self.listen.is_empty() {
            fail!("`listen` is empty, so no host could connect; give at least one address");
        }
        let mut seen = BTreeSet::new();
        for url in &self.listen {
            if url.nqn.is_some() {
                fail!("listen: `{url}`: a listener serves every subsystem; leave the NQN out");
            }
            if !seen.insert(url.to_string()) {
                fail!("listen: `{url}` stands there twice");
            }
        }
        self.check_addresses()?;
        self.limits.check()?;
        self.machine.check()?;
        // A core moves one part of a command at a time, whatever else waits.
        let least = Size(16 * u64::from(limits::TRANSFER_MAX));
        if self.memory.buffers < least {
            fail!(
                "memory: buffers of {} are too few; each core needs {least} at least",
                self.memory.buffers
            );
        }
        if self.memory.buffers > Size(64 << 30) {
            fail!(
                "memory: buffers of {} per core are more than 64GiB",
                self.memory.buffers
            );
        }
        let unnamed = self.subsystem.iter().filter(|s| s.nqn.is_none()).count();
        if unnamed > 1 {
            fail!("{unnamed} subsystems have no `nqn`; only one may take this machine's");
        }
        let mut nqns = BTreeSet::new();
        for subsystem in &mut self.subsystem {
            subsystem.complete()?;
            if !nqns.insert(subsystem.nqn().to_owned()) {
                fail!("two subsystems are called {}", subsystem.nqn());
            }
        }
        self.check_files()?;
        Ok(self)
    }

    /// No two of them take the same address and port.
    fn check_addresses(&self) -> Result<()> {
        let mut taken: Vec<(String, SocketAddr)> = Vec::new();
        let metrics = self.metrics.map(|at| (format!("metrics = \"{at}\""), at));
        let listeners = self.listen.iter().filter_map(|url| {
            let tcp = url.scheme == url::Scheme::Tcp;
            let ip = tcp.then(|| url.host.parse().ok()).flatten()?;
            Some((format!("listen: `{url}`"), SocketAddr::new(ip, url.port)))
        });
        for (what, at) in listeners.chain(metrics) {
            let all = |ip: IpAddr| ip.is_unspecified();
            let clash = taken.iter().find(|(_, other)| {
                let (ours, theirs) = (at.ip(), other.ip());
                let family = ours.is_ipv4() == theirs.is_ipv4();
                at.port() != 0
                    && at.port() == other.port()
                    && family
                    && (ours == theirs || all(ours) || all(theirs))
            });
            if let Some((other, _)) = clash {
                fail!("{what} and {other} are the same address and port");
            }
            taken.push((what, at));
        }
        Ok(())
    }

    /// A file that is written is one drive only.
    fn check_files(&self) -> Result<()> {
        let mut seen: Vec<(PathBuf, bool)> = Vec::new();
        for namespace in self.subsystem.iter().flat_map(|one| &one.namespace) {
            let Some(file) = namespace.spec().file() else {
                continue;
            };
            let (path, reads) = (file.path, file.read_only);
            if seen
                .iter()
                .any(|(other, shared)| *other == path && !(*shared && reads))
            {
                fail!(
                    "file:{} is the drive of two namespaces; that needs both to be read-only",
                    path.display()
                );
            }
            seen.push((path, reads));
        }
        Ok(())
    }
}

impl Limits {
    /// `transfer` as hosts are told it: a power of two of 4 KiB.
    pub fn mdts(&self) -> u8 {
        (self.transfer.0 / 4096).ilog2() as u8
    }

    fn check(&self) -> Result<()> {
        let bounds = [
            ("queues", u64::from(self.queues), 2, 65_536),
            ("commands", u64::from(self.commands), 64, 1 << 20),
            ("series", u64::from(self.series), 1, 4096),
            ("rdma-entries", u64::from(self.rdma_entries), 64, 1 << 20),
        ];
        for (name, value, least, most) in bounds {
            if !(least..=most).contains(&value) {
                fail!("limits: `{name} = {value}` is outside {least} to {most}");
            }
        }
        let (Size(transfer), most) = (self.transfer, u64::from(limits::TRANSFER_MAX));
        if !transfer.is_power_of_two() || !(TRANSFER_LEAST..=most).contains(&transfer) {
            fail!(
                "limits: `transfer = {}` is no power of two from {} to {}",
                self.transfer,
                Size(TRANSFER_LEAST),
                Size(most)
            );
        }
        Ok(())
    }
}

impl Subsystem {
    /// Its name, once checked.
    pub fn nqn(&self) -> &str {
        self.nqn.as_deref().unwrap_or_default()
    }

    /// Its serial number, once checked.
    pub fn serial(&self) -> &str {
        self.serial.as_deref().unwrap_or_default()
    }

    /// Its model number.
    pub fn model(&self) -> &str {
        self.model.as_deref().unwrap_or(DEFAULT_MODEL)
    }

    /// First and last CNTLID.
    pub fn cntlids(&self) -> (u16, u16) {
        let CntlidRange(first, last) = self.cntlid.unwrap_or(CntlidRange(1, CNTLID_MAX));
        (first, last)
    }

    /// It has this namespace, in place of another one of its number.
    pub fn put(&mut self, namespace: Namespace) {
        self.take(namespace.nsid);
        self.namespace.push(namespace);
    }

    /// It has no namespace of this number.
    pub fn take(&mut self, nsid: Option<u32>) {
        self.namespace.retain(|known| known.nsid != nsid);
    }

    fn complete(&mut self) -> Result<()> {
        let nqn = self.nqn.get_or_insert_with(|| {
            let (nqn, stable) = identity::default_nqn();
            if !stable {
                log::warn!("this machine has no machine-id, so its NQN is made up anew at each start; give one");
            }
            nqn
        });
        check_nqn(nqn)?;
        let serial = self
            .serial
            .get_or_insert_with(|| identity::default_serial(nqn));
        check_ascii("serial", serial, 20)?;
        check_ascii("model", self.model(), 40)?;
        for host in self.allow.iter().flatten() {
            Nqn::new(host).context(|| format!("allow: `{host}`"))?;
        }
        for namespace in &mut self.namespace {
            namespace.agree()?;
        }
        let mut taken = BTreeSet::new();
        for nsid in self.namespace.iter().filter_map(|namespace| namespace.nsid) {
            check_nsid(nsid)?;
            if !taken.insert(nsid) {
                fail!("two namespaces of {} have NSID {nsid}", self.nqn());
            }
        }
        if self.namespace.len() > limits::NAMESPACES_MAX as usize {
            fail!(
                "{} has more than {} namespaces",
                self.nqn(),
                limits::NAMESPACES_MAX
            );
        }
        let mut uuids = BTreeSet::new();
        for namespace in &self.namespace {
            if let Some(uuid) = namespace.spec().uuid
                && !uuids.insert(uuid)
            {
                fail!(
                    "two namespaces of {} have the UUID {}, and hosts refuse the second one with \"duplicate IDs\"",
                    self.nqn(),
                    uuid::Uuid::from_bytes(uuid)
                );
            }
        }
        for namespace in &mut self.namespace {
            let free = (1..).find(|nsid| !taken.contains(nsid));
            let nsid = *namespace
                .nsid
                .get_or_insert(free.expect("numbers do not end"));
            taken.insert(nsid);
        }
        Ok(())
    }
}

/// Refuses what cannot be the name of a subsystem.
pub fn check_nqn(nqn: &str) -> Result<()> {
    Nqn::new(nqn).context(|| format!("`{nqn}` cannot name a subsystem"))?;
    if nqn == ferroce_wire::fabrics::DISCOVERY_NQN {
        fail!("{nqn} is the name of every discovery subsystem; choose another");
    }
    Ok(())
}

/// Refuses numbers that no namespace has.
pub fn check_nsid(nsid: u32) -> Result<()> {
    if !(1..=limits::NAMESPACES_MAX).contains(&nsid) {
        fail!("NSID {nsid} is outside 1 to {}", limits::NAMESPACES_MAX);
    }
    Ok(())
}

fn check_ascii(name: &str, text: &str, most: usize) -> Result<()> {
    if text.is_empty() || text.len() > most || !text.chars().all(|c| (' '..='~').contains(&c)) {
        fail!("{name}: `{text}` is not 1 to {most} printable ASCII characters");
    }
    Ok(())
}

/// A drive, as the operator wrote it and as it was understood.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(try_from = "String")]
pub struct Device {
    /// As written.
    pub text: String,
    /// As understood.
    pub spec: DriveSpec,
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Device, String> {
        match text.parse() {
            Ok(spec) => Ok(Device {
                text: text.to_owned(),
                spec,
            }),
            Err(why) => Err(format!("`{text}` is no drive: {why}")),
        }
    }
}

impl TryFrom<String> for Device {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Device, String> {
        text.parse()
    }
}

impl Namespace {
    /// A namespace of this drive, everything else by itself.
    pub fn of(device: Device) -> Namespace {
        Namespace {
            nsid: device.spec.nsid,
            read_only: Some(device.spec.read_only),
            uuid: None,
            device,
        }
    }

    /// The drive with what the namespace's own keys say of it.
    pub fn spec(&self) -> DriveSpec {
        let mut spec = self.device.spec.clone();
        spec.read_only |= self.read_only == Some(true);
        if let Some(uuid) = self.uuid {
            spec.uuid = Some(uuid.0.into_bytes());
        }
        spec
    }

    /// What is said in the drive and beside it must agree.
    fn agree(&mut self) -> Result<()> {
        let Device { text, spec } = &self.device;
        if let (Some(inside), Some(beside)) = (spec.nsid, self.nsid)
            && inside != beside
        {
            fail!("`{text}` says nsid={inside}, and the key beside it says {beside}");
        }
        if let (Some(inside), Some(beside)) = (spec.uuid, self.uuid)
            && inside != beside.0.into_bytes()
        {
            fail!("`{text}` says another UUID than the key beside it");
        }
        if spec.read_only && self.read_only == Some(false) {
            fail!("`{text}` says ro, and the key beside it says `read-only = false`");
        }
        self.nsid = self.nsid.or(spec.nsid);
        self.read_only = Some(self.spec().read_only);
        Ok(())
    }
}

/// CPUs, as `1,2` or `0-3,6` or a list of numbers.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(try_from = "CoresText")]
pub struct Cores(pub Vec<usize>);

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "a list of CPU numbers, or a text like \"1,2\" or \"0-3\""
)]
enum CoresText {
    List(Vec<usize>),
    Text(String),
}

impl FromStr for Cores {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Cores, String> {
        let mut list = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            match (first.trim().parse::<usize>(), last.trim().parse::<usize>()) {
                (Ok(first), Ok(last)) if first <= last && last < 1024 => list.extend(first..=last),
                _ => return Err(format!("`{text}` is not a list of CPUs: write 1,2 or 0-3")),
            }
        }
        Cores::new(list)
    }
}

impl Cores {
    fn new(list: Vec<usize>) -> std::result::Result<Cores, String> {
        let unique: BTreeSet<_> = list.iter().collect();
        if unique.len() < list.len() {
            return Err("a CPU is named twice".into());
        }
        Ok(Cores(list))
    }
}

impl TryFrom<CoresText> for Cores {
    type Error = String;

    fn try_from(text: CoresText) -> std::result::Result<Cores, String> {
        match text {
            CoresText::List(list) => Cores::new(list),
            CoresText::Text(text) => text.parse(),
        }
    }
}

/// How long a core polls, with nothing to do, before it sleeps.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(try_from = "String")]
pub enum Spin {
    /// So long.
    For(Duration),
    /// It never sleeps: for isolated cores.
    Always,
}

impl Default for Spin {
    fn default() -> Spin {
        Spin::For(Duration::from_micros(50))
    }
}

impl FromStr for Spin {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Spin, String> {
        if text == "always" {
            return Ok(Spin::Always);
        }
        match parse_time(text) {
            Ok(time) if time <= Duration::from_secs(1) => Ok(Spin::For(time)),
            _ => Err(format!(
                "`{text}` is no spin: write `always` or a time up to 1s, as 50us"
            )),
        }
    }
}

impl TryFrom<String> for Spin {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Spin, String> {
        text.parse()
    }
}

impl fmt::Display for Spin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Spin::For(time) => write!(f, "{}us", time.as_micros()),
            Spin::Always => f.write_str("always"),
        }
    }
}

/// First and last controller ID, as `1-1000` or `[1, 1000]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(try_from = "CntlidText")]
pub struct CntlidRange(pub u16, pub u16);

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "two numbers: the first and the last controller ID"
)]
enum CntlidText {
    Pair(u16, u16),
    Text(String),
}

impl FromStr for CntlidRange {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<CntlidRange, String> {
        let pair = text.split_once('-').and_then(|(first, last)| {
            Some((first.trim().parse().ok()?, last.trim().parse().ok()?))
        });
        let (first, last) = pair.ok_or_else(|| format!("`{text}` is not a range: write 1-1000"))?;
        CntlidRange::new(first, last)
    }
}

impl CntlidRange {
    fn new(first: u16, last: u16) -> std::result::Result<CntlidRange, String> {
        if first == 0 || first > last || last > CNTLID_MAX {
            return Err(format!(
                "controller IDs {first} to {last}: they go from 1 up to {CNTLID_MAX}"
            ));
        }
        Ok(CntlidRange(first, last))
    }
}

impl TryFrom<CntlidText> for CntlidRange {
    type Error = String;

    fn try_from(text: CntlidText) -> std::result::Result<CntlidRange, String> {
        match text {
            CntlidText::Pair(first, last) => CntlidRange::new(first, last),
            CntlidText::Text(text) => text.parse(),
        }
    }
}

/// A UUID in a file.
pub mod uuid_text {
    use serde::Deserialize;
    use uuid::Uuid;

    /// As people write it, never zero.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
    #[serde(try_from = "String")]
    pub struct UuidText(pub Uuid);

    impl std::str::FromStr for UuidText {
        type Err = String;

        fn from_str(text: &str) -> Result<UuidText, String> {
            match Uuid::parse_str(text) {
                Ok(uuid) if !uuid.is_nil() => Ok(UuidText(uuid)),
                _ => Err(format!("`{text}` is not a UUID, or is zero")),
            }
        }
    }

    impl TryFrom<String> for UuidText {
        type Error = String;

        fn try_from(text: String) -> Result<UuidText, String> {
            text.parse()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        Config::parse(text, "f.toml").expect_err(text).0
    }

    #[test]
    fn the_example_is_valid_and_names_every_key() {
        Config::parse(EXAMPLE, "example").unwrap_or_else(|why| panic!("{why}"));
        // With every key that is commented out put in force, too.
        let all: String = EXAMPLE
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(key) if !key.starts_with(' ') && !key.is_empty() => format!("{key}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        Config::parse(&all, "example").unwrap_or_else(|why| panic!("{why}\n{all}"));
        // What an unknown key is told names the known ones.
        for table in [
            "",
            "[memory]",
            "[limits]",
            "[machine]",
            "[[machine.link]]",
            "[[subsystem]]",
            "[[subsystem.namespace]]",
        ] {
            let said = refused(&format!("{table}\nunknown-key = 1\n"));
            let known = said
                .split_once("expected")
                .expect("the known keys are named")
                .1;
            for key in known.split('`').skip(1).step_by(2) {
                let there = all.contains(&format!("\n{key} =")) || all.contains(&format!("{key}]"));
                assert!(there, "{table} {key} is missing from the example");
            }
        }
    }

    #[test]
    fn the_packaged_examples_are_valid() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/package/examples");
        let mut count = 0;
        for entry in fs::read_dir(folder).expect("it is there") {
            let path = entry.expect("readable").path();
            Config::read(&path).unwrap_or_else(|why| panic!("{why}"));
            count += 1;
        }
        assert_eq!(count, 3);
    }

    #[test]
    fn the_example_shows_the_defaults() {
        let parsed = Config::parse(EXAMPLE, "example").expect("valid");
        let mut default = Config {
            subsystem: parsed.subsystem.clone(),
            ..Config::default()
        };
        default = default.checked().expect("valid");
        assert_eq!(parsed, default);
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line() {
        let said = refused("[[subsystem]]\nnqn = \"nqn.2024-01.a:b\"\nserail = \"x\"\n");
        assert!(
            said.starts_with("f.toml:3: unknown field `serail`"),
            "{said}"
        );
        assert!(!said.contains('\n'), "{said}");
        assert!(refused("[memory]\nbufers = 1\n").starts_with("f.toml:2: unknown field"));
    }

    #[test]
    fn wrong_values_are_refused_with_the_reason() {
        let subsystem = "[[subsystem]]\nnqn = \"nqn.2024-01.a:b\"\n";
        for (text, why) in [
            ("", "nothing to serve"),
            ("listen = []\n[[subsystem]]", "no host could connect"),
            (
                "listen = [\"tcp://1.2.3.4\", \"tcp://1.2.3.4:4420\"]\n[[subsystem]]",
                "twice",
            ),
            (
                "listen = [\"udp://1.2.3.4\"]\n[[subsystem]]",
                "f.toml:1: `udp://1.2.3.4`",
            ),
            (
                "cores = \"3-1\"\n[[subsystem]]",
                "f.toml:1: `3-1` is not a list of CPUs",
            ),
            (
                "listen = \"tcp://1.2.3.4\"\n[[subsystem]]",
                "f.toml:1: listen: invalid type",
            ),
            (
                "listen = [\"tcp://1.2.3.4\", \"tcp://0.0.0.0\"]\n[[subsystem]]",
                "the same address and port",
            ),
            (
                "metrics = \"127.0.0.1:4420\"\n[[subsystem]]",
                "metrics = \"127.0.0.1:4420\" and listen: `tcp://127.0.0.1:4420` are the same",
            ),
            (
                "[[subsystem]]\nnamespace = [{device=\"file:/a\"},{device=\"file:/a,ro\"}]",
                "file:/a is the drive of two namespaces",
            ),
            (
                "[[subsystem]]\nnamespace = [{device=\"ram:1MiB,uuid=4f2d7f0e-8f2e-4a53-9d0e-0d8a6a3c9b11\"},\
                 {device=\"ram:2MiB\",uuid=\"4f2d7f0e-8f2e-4a53-9d0e-0d8a6a3c9b11\"}]",
                "have the UUID 4f2d7f0e",
            ),
            (
                "[[subsystem]]\nnamespace = [{device=\"ram:1MiB,ro\",read-only=false}]",
                "`ram:1MiB,ro` says ro, and the key beside it says `read-only = false`",
            ),
            (
                "[limits]\ntransfer = \"100KiB\"\n[[subsystem]]",
                "`transfer = 100KiB` is no power of two from 64KiB to 1MiB",
            ),
            ("cores = [1, 1]\n[[subsystem]]", "named twice"),
            (
                "spin = \"forever\"\n[[subsystem]]",
                "f.toml:1: `forever` is no spin",
            ),
            (
                "dscp = 64\n[[subsystem]]",
                "f.toml:1: `64` is no DSCP: write a number from 0 to 63",
            ),
            ("[memory]\nbuffers = \"1MiB\"\n[[subsystem]]", "too few"),
            (
                "[memory]\nbuffers = \"lots\"\n[[subsystem]]",
                "f.toml:2: `lots` is not a size",
            ),
            (
                "metrics = \"9520\"\n[[subsystem]]",
                "f.toml:1: invalid socket address",
            ),
            ("[limits]\nqueues = 1\n[[subsystem]]", "outside 2 to 65536"),
            (
                &format!("{subsystem}{subsystem}"),
                "two subsystems are called",
            ),
            (&format!("{subsystem}serial = \"\""), "serial"),
            (
                &format!("{subsystem}model = \"{}\"", "x".repeat(41)),
                "model",
            ),
            (
                &format!("{subsystem}cntlid = [0, 5]"),
                "f.toml:3: controller IDs 0 to 5",
            ),
            (&format!("{subsystem}allow = [\"me\"]"), "allow: `me`"),
            (
                &format!("{subsystem}[[subsystem.namespace]]\ndevice = \"ram:1MiB\"\nnsid = 0"),
                "NSID 0",
            ),
            (
                &format!(
                    "{subsystem}namespace = [{{device=\"ram:1MiB\",nsid=1}},{{device=\"file:/a,nsid=1\"}}]"
                ),
                "have NSID 1",
            ),
            (
                "[[subsystem]]\nnqn = \"nqn.2014-08.org.nvmexpress.discovery\"",
                "choose another",
            ),
            ("[[subsystem]]\nnqn = \"node\"", "cannot name a subsystem"),
        ] {
            let said = refused(text);
            assert!(said.contains(why), "{text}\n-> {said}");
        }
    }

    #[test]
    fn left_out_numbers_are_the_lowest_free() {
        let config = Config::parse(
            "[[subsystem]]\nnamespace = [{device=\"ram:1MiB\"},{device=\"ram:1MiB\",nsid=1},{device=\"file:/a,nsid=4\"},{device=\"file:/b\"}]",
            "f.toml",
        )
        .expect("valid");
        let nsids: Vec<_> = config.subsystem[0]
            .namespace
            .iter()
            .map(|n| n.nsid)
            .collect();
        assert_eq!(nsids, [Some(2), Some(1), Some(4), Some(3)]);
        assert!(
            config.subsystem[0]
                .nqn()
                .starts_with("nqn.2014-08.org.nvmexpress:uuid:")
        );
        assert_eq!(config.subsystem[0].cntlids(), (1, 0xFFEF));
    }

    #[test]
    fn cores_are_lists_and_ranges() {
        assert_eq!("1,2".parse(), Ok(Cores(vec![1, 2])));
        assert_eq!("0-3,6".parse(), Ok(Cores(vec![0, 1, 2, 3, 6])));
        for text in ["", "a", "1,,2", "5000", "2-1", "1,1"] {
            assert!(text.parse::<Cores>().is_err(), "{text}");
        }
    }
}
