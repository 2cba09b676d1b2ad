//! Kernel modules: those that the hardware asks for by its aliases, and those that are named, each after what it depends
//! on. What can be loaded lies below /lib/modules, unpacked, with the lists that depmod makes.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::system::{finit_module, uname};

use crate::fail::{Context, Result, fail};

/// What can be loaded.
#[derive(Debug, Default)]
pub struct Modules {
    folder: PathBuf,
    /// By name: its file, and the files it needs, nearest first.
    files: BTreeMap<String, Vec<String>>,
    /// Patterns of what hardware, or the kernel, asks for, and the module that is meant.
    aliases: Vec<(String, String)>,
    /// By name: what the kernel's command line says to it, as `name.key=value`.
    parameters: BTreeMap<String, String>,
    /// What hardware asked for already.
    asked: BTreeSet<String>,
}

impl Modules {
    /// Those of the kernel that runs.
    pub fn of_this_kernel() -> Modules {
        let release = uname().release().to_string_lossy().into_owned();
        let command_line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
        Modules::read(&Path::new("/lib/modules").join(release), &command_line)
    }

    /// Those of a folder; none if there is no such folder.
    fn read(folder: &Path, command_line: &str) -> Modules {
        let text = |name| fs::read_to_string(folder.join(name)).unwrap_or_default();
        let mut modules = Modules {
            folder: folder.to_owned(),
            ..Modules::default()
        };
        for line in text("modules.dep").lines() {
            let Some((file, needs)) = line.split_once(':') else {
                continue;
            };
            let all = [file].into_iter().chain(needs.split_whitespace());
            let all = all.map(str::to_owned).collect();
            modules.files.insert(name_of(file), all);
        }
        for line in text("modules.alias").lines() {
            let mut words = line.split_whitespace();
            if let (Some("alias"), Some(pattern), Some(name)) =
                (words.next(), words.next(), words.next())
            {
                modules.aliases.push((pattern.to_owned(), name_of(name)));
            }
        }
        for word in command_line.split_whitespace() {
            if let Some((name, parameter)) = word.split_once('.') {
                let all = modules.parameters.entry(name_of(name)).or_default();
                *all = format!("{all} {parameter}").trim().to_owned();
            }
        }
        modules
    }

    /// True if there is a module of this name.
    pub fn has(&self, name: &str) -> bool {
        self.files.contains_key(&name_of(name))
    }

    /// Loads a module by name, after what it needs. One that is there already is no failure.
    pub fn load(&self, name: &str) -> Result<()> {
        let Some(files) = self.files.get(&name_of(name)) else {
            fail!(
                "there is no kernel module {name} in this image; `scripts/image --module {name}` packs it"
            );
        };
        // What it needs is listed nearest first, and so that what each of those needs comes later.
        for file in files.iter().rev() {
            let path = self.folder.join(file);
            let parameters = self.parameters.get(&name_of(file));
            let parameters = CString::new(parameters.map_or("", String::as_str))
                .context(|| format!("the parameters of {file}"))?;
            let opened = File::open(&path).context(|| format!("cannot open {}", path.display()))?;
            match finit_module(&opened, &parameters, 0) {
                Ok(()) | Err(Errno::EXIST) => (),
                Err(cause) => fail!("cannot load the kernel module {}: {cause}", name_of(file)),
            }
        }
        Ok(())
    }

    /// The modules that answer to what was asked for: a name, or an alias.
    pub fn answering(&self, asked: &str) -> BTreeSet<String> {
        let named = Some(name_of(asked)).filter(|name| self.files.contains_key(name));
        let of_alias = self
            .aliases
            .iter()
            .filter(|(pattern, _)| matches(pattern.as_bytes(), asked.as_bytes()))
            .map(|(_, name)| name.clone());
        named.into_iter().chain(of_alias).collect()
    }

    /// Loads what devices ask for that were not there before; what could not be loaded, and why. A driver that makes
    /// devices of its own is followed until nothing new appears.
    pub fn load_for_hardware(&mut self) -> Vec<String> {
        let mut failed = Vec::new();
        loop {
            let asked: Vec<String> = requests(Path::new("/sys/bus"))
                .into_iter()
                .filter(|alias| !self.asked.contains(alias))
                .collect();
            if asked.is_empty() {
                return failed;
            }
            for alias in asked {
                for name in self.answering(&alias) {
                    failed.extend(self.load(&name).err().map(|why| why.0));
                }
                self.asked.insert(alias);
            }
        }
    }
}

/// As the kernel calls itself to have a module loaded: `modprobe -q -- NAME`. True if one was.
pub fn modprobe(arguments: impl Iterator<Item = String>) -> bool {
    let modules = Modules::of_this_kernel();
    let mut loaded = false;
    for asked in arguments.filter(|word| !word.starts_with('-')) {
        for name in modules.answering(&asked) {
            loaded |= modules.load(&name).is_ok();
        }
    }
    loaded
}

/// What the devices of all buses ask for.
fn requests(buses: &Path) -> Vec<String> {
    let folders = |path: &Path| fs::read_dir(path).into_iter().flatten().flatten();
    folders(buses)
        .flat_map(|bus| folders(&bus.path().join("devices")))
        .filter_map(|device| fs::read_to_string(device.path().join("modalias")).ok())
        .map(|alias| alias.trim().to_owned())
        .filter(|alias| !alias.is_empty())
        .collect()
}

/// Of a file or a name: both `-` and `_` stand for the latter, and `.ko` goes.
fn name_of(text: &str) -> String {
    let file = text.rsplit('/').next().unwrap_or(text);
    file.strip_suffix(".ko").unwrap_or(file).replace('-', "_")
}

/// As fnmatch(3) has it for what depmod writes: `*`, `?` and `[...]`.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.first(), text.first()) {
        (None, None) => true,
        (Some(b'*'), _) => {
            matches(&pattern[1..], text) || !text.is_empty() && matches(pattern, &text[1..])
        }
        (Some(b'?'), Some(_)) => matches(&pattern[1..], &text[1..]),
        (Some(b'['), Some(byte)) => {
            let Some(end) = pattern.iter().position(|byte| *byte == b']') else {
                return false;
            };
            one_of(&pattern[1..end], *byte) && matches(&pattern[end + 1..], &text[1..])
        }
        (Some(wanted), Some(byte)) => wanted == byte && matches(&pattern[1..], &text[1..]),
        (Some(_), None) | (None, Some(_)) => false,
    }
}

/// The inside of brackets: bytes, and ranges of them.
fn one_of(set: &[u8], byte: u8) -> bool {
    match set {
        [first, b'-', last, rest @ ..] => (*first..=*last).contains(&byte) || one_of(rest, byte),
        [first, rest @ ..] => *first == byte || one_of(rest, byte),
        [] => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_of_depmod() {
        for (pattern, text, is) in [
            (
                "pci:v*d*sv*sd*bc01sc08i02*",
                "pci:v00001B36d00000010sv00001AF4sd00001100bc01sc08i02",
                true,
            ),
            (
                "pci:v*d*sv*sd*bc01sc08i02*",
                "pci:v00001B36d00000010sv00001AF4sd00001100bc02sc08i02",
                false,
            ),
            ("virtio:d00000001v*", "virtio:d00000001v00001AF4", true),
            ("acpi*:PNP0C0C:*", "acpi:PNP0C0C:", true),
            (
                "input:b*v*p*e*-e*1,*k*7[0-4],*r*",
                "input:b0019v0000p0001e0000-e0,1,k72,ramlsfw",
                true,
            ),
            (
                "input:b*v*p*e*-e*1,*k*7[0-4],*r*",
                "input:b0019v0000p0001e0000-e0,1,k79,ramlsfw",
                false,
            ),
            ("crypto-crc32", "crypto-crc32", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("a[", "ab", false),
            ("", "", true),
        ] {
            assert_eq!(
                matches(pattern.as_bytes(), text.as_bytes()),
                is,
                "{pattern} {text}"
            );
        }
    }

    #[test]
    fn what_a_module_needs_comes_first() {
        let dir = tempfile::tempdir().expect("a directory");
        let write =
            |name: &str, text: &str| fs::write(dir.path().join(name), text).expect("written");
        write(
            "modules.dep",
            "net/rdma_rxe.ko: net/ib_uverbs.ko ib_core.ko\nnet/ib_uverbs.ko: ib_core.ko\nib_core.ko:\n",
        );
        write(
            "modules.alias",
            "# made\nalias rdma-link-rxe rdma_rxe\nalias pci:v1* ib-core\n",
        );
        let modules = Modules::read(
            dir.path(),
            "quiet vfio-pci.ids=8086:1 rdma_rxe.a=1 rdma_rxe.b=2",
        );
        assert_eq!(
            modules.files["rdma_rxe"],
            ["net/rdma_rxe.ko", "net/ib_uverbs.ko", "ib_core.ko"]
        );
        assert!(modules.has("rdma-rxe") && !modules.has("nvme"));
        let answering = |asked: &str| modules.answering(asked).into_iter().collect::<Vec<_>>();
        assert_eq!(answering("rdma-link-rxe"), ["rdma_rxe"]);
        assert_eq!(answering("pci:v17"), ["ib_core"]);
        assert_eq!(answering("ib-uverbs"), ["ib_uverbs"]);
        assert!(answering("nvme").is_empty());
        assert_eq!(modules.parameters["vfio_pci"], "ids=8086:1");
        assert_eq!(modules.parameters["rdma_rxe"], "a=1 b=2");
        let said = modules.load("nvme").expect_err("it is not there").0;
        assert!(said.contains("--module nvme"), "{said}");
        let said = modules.load("ib_core").expect_err("there is no file").0;
        assert!(said.contains("ib_core.ko"), "{said}");
    }

    #[test]
    fn without_a_folder_there_is_nothing() {
        let modules = Modules::read(Path::new("/nonexistent"), "");
        assert!(!modules.has("nvme") && modules.answering("nvme").is_empty());
    }
}
