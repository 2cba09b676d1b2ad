//! Drives as an operator writes them: `ram:64MiB`, `file:/srv/models.img,size=100GiB,ro`.
//!
//! - `ram:SIZE[,block=512|4096][,ro][,uuid=UUID][,nsid=N]`
//! - `file:PATH[,size=SIZE][,block=512|4096][,ro][,uuid=UUID][,nsid=N]`
//! - `nvme:0000:bb:dd.f[/NAMESPACE][,ro][,uuid=UUID][,nsid=N]`

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use ferroce_buf::Want;
use ferroce_engine::limits::NAMESPACES_MAX;
use ferroce_engine::port::DriveId;
use uuid::Uuid;

use crate::pci::Address;
use crate::{FileConfig, NvmeConfig, RamConfig};

/// A drive to be served, and under which number.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DriveSpec {
    /// What kind, and what that kind needs to know.
    pub kind: Kind,
    /// Bytes of a block, if the operator says.
    pub block_len: Option<u32>,
    /// Writes are refused.
    pub read_only: bool,
    /// Its identity, if the operator says.
    pub uuid: Option<[u8; 16]>,
    /// Namespace identifier, if the operator says.
    pub nsid: Option<u32>,
}

/// What kind of drive.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Memory.
    Ram {
        /// Capacity.
        bytes: u64,
    },
    /// A file or block device.
    File {
        /// Where it is.
        path: PathBuf,
        /// Capacity of a file that is made.
        size: Option<u64>,
    },
    /// A namespace of an NVMe drive.
    Nvme {
        /// Where the drive is.
        address: Address,
        /// Namespace identifier at the drive, if the operator says.
        namespace: Option<u32>,
    },
}

impl DriveSpec {
    /// What it is called in logs: the kind, and what names it.
    pub fn label(&self) -> String {
        match &self.kind {
            Kind::Ram { bytes } => format!("ram:{}", Size(*bytes)),
            Kind::File { path, .. } => format!("file:{}", path.display()),
            Kind::Nvme {
                address,
                namespace: Some(namespace),
            } => format!("nvme:{address}/{namespace}"),
            Kind::Nvme { address, .. } => format!("nvme:{address}"),
        }
    }

    /// For [`crate::RamDrive::new`], if it is one.
    pub fn ram(&self, id: DriveId, cores: usize, want: Want) -> Option<RamConfig> {
        let Kind::Ram { bytes } = self.kind else {
            return None;
        };
        Some(RamConfig {
            id,
            label: self.label(),
            bytes,
            block_len: self.block_len.unwrap_or(4096),
            read_only: self.read_only,
            uuid: self.uuid,
            cores,
            spare: None,
            want,
        })
    }

    /// For [`crate::FileDrive::open_path`], if it is one.
    pub fn file(&self) -> Option<FileConfig> {
        let Kind::File { path, size } = &self.kind else {
            return None;
        };
        Some(FileConfig {
            label: self.label(),
            size: *size,
            block_len: self.block_len,
            read_only: self.read_only,
            uuid: self.uuid,
            ..FileConfig::new(path)
        })
    }

    /// For [`crate::NvmeDrive::open`], if it is one, and where the drive is.
    pub fn nvme(&self) -> Option<(Address, NvmeConfig)> {
        let Kind::Nvme { address, namespace } = self.kind else {
            return None;
        };
        let config = NvmeConfig {
            label: self.label(),
            nsid: namespace,
            read_only: self.read_only,
            uuid: self.uuid,
        };
        Some((address, config))
    }
}

/// Why a text is no drive: the part that is wrong, and what would be right.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SpecError {
    /// The wrong part.
    pub part: String,
    /// What is wrong with it, and what is accepted.
    pub why: String,
}

impl fmt::Display for SpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`: {}", self.part, self.why)
    }
}

impl std::error::Error for SpecError {}

fn wrong<T>(part: &str, why: impl Into<String>) -> Result<T, SpecError> {
    Err(SpecError {
        part: part.to_owned(),
        why: why.into(),
    })
}

impl FromStr for DriveSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<DriveSpec, SpecError> {
        let accepted = "a drive is ram:SIZE, file:PATH or nvme:ADDRESS";
        let Some((kind, rest)) = text.split_once(':') else {
            return wrong(text, accepted);
        };
        let mut parts = rest.split(',');
        let what = parts.next().unwrap_or_default();
        let kind = match kind {
            "ram" => Kind::Ram {
                bytes: parse_size(what)?,
            },
            "file" if what.is_empty() => return wrong(text, "file: is followed by a path"),
            "file" => Kind::File {
                path: PathBuf::from(what),
                size: None,
            },
            "nvme" => parse_nvme(what)?,
            _ => return wrong(&format!("{kind}:"), accepted),
        };
        let mut spec = DriveSpec {
            kind,
            block_len: None,
            read_only: false,
            uuid: None,
            nsid: None,
        };
        let mut seen: Vec<&str> = Vec::new();
        for part in parts {
            let key = part.split_once('=').map_or(part, |(key, _)| key);
            if seen.contains(&key) {
                return wrong(part, format!("{key} is given twice"));
            }
            seen.push(key);
            spec.option(part)?;
        }
        Ok(spec)
    }
}

impl DriveSpec {
    fn option(&mut self, part: &str) -> Result<(), SpecError> {
        match (part.split_once('='), &mut self.kind) {
            (None, _) if part == "ro" => self.read_only = true,
            (Some(("block", _)), Kind::Nvme { .. }) => {
                return wrong(part, "the drive's format says how long its blocks are");
            }
            (Some(("block", value)), _) => match value.parse() {
                Ok(len @ (512 | 4096)) => self.block_len = Some(len),
                _ => return wrong(part, "block= is 512 or 4096"),
            },
            (Some(("uuid", value)), _) => match Uuid::try_parse(value) {
                Ok(uuid) if !uuid.is_nil() => self.uuid = Some(uuid.into_bytes()),
                _ => {
                    return wrong(
                        part,
                        "uuid= is like 3f2a6c1e-9b0d-4c57-8a41-0e6d5b7f9c23, and not all zero",
                    );
                }
            },
            (Some(("nsid", value)), _) => match value.parse() {
                Ok(nsid) if (1..=NAMESPACES_MAX).contains(&nsid) => self.nsid = Some(nsid),
                _ => return wrong(part, format!("nsid= is from 1 to {NAMESPACES_MAX}")),
            },
            (Some(("size", value)), Kind::File { size, .. }) => *size = Some(parse_size(value)?),
            (Some(("size", _)), Kind::Ram { .. }) => {
                return wrong(part, "a RAM drive's size follows the colon: ram:64MiB");
            }
            (_, Kind::Nvme { .. }) => {
                return wrong(part, "the options of nvme: are ro, uuid=UUID, nsid=N");
            }
            (_, Kind::Ram { .. }) => {
                return wrong(
                    part,
                    "the options of ram: are block=512|4096, ro, uuid=UUID, nsid=N",
                );
            }
            (_, Kind::File { .. }) => {
                return wrong(
                    part,
                    "the options of file: are size=SIZE, block=512|4096, ro, uuid=UUID, nsid=N",
                );
            }
        }
        Ok(())
    }
}

/// `0000:bb:dd.f`, or with the namespace `0000:bb:dd.f/2`.
fn parse_nvme(text: &str) -> Result<Kind, SpecError> {
    let (address, namespace) = match text.split_once('/') {
        Some((address, namespace)) => (address, Some(namespace)),
        None => (text, None),
    };
    let address = address.parse().or_else(|why: String| {
        wrong(
            text,
            format!("{why}; `ferroce devices` lists the drives there are"),
        )
    })?;
    let namespace = match namespace.map(|namespace| namespace.parse::<u32>()) {
        None => None,
        Some(Ok(nsid @ 1..)) => Some(nsid),
        Some(_) => return wrong(text, "after the / comes the drive's namespace, from 1 on"),
    };
    Ok(Kind::Nvme { address, namespace })
}

/// Units of bytes and how many they are: 1024 and its powers, then 1000 and its.
pub const UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

/// How many bytes a unit is, in whatever case it is written.
pub fn unit(name: &str) -> Option<u64> {
    let mut units = UNITS.iter();
    let found = units.find(|(unit, _)| unit.eq_ignore_ascii_case(name));
    found.map(|(_, bytes)| *bytes)
}

/// Bytes, from `64MiB` and the like.
///
/// # Errors
/// If it is no number with a known unit, or 0, or more than fits.
pub fn parse_size(text: &str) -> Result<u64, SpecError> {
    let accepted = "a size is a number with KiB, MiB, GiB or TiB (or KB, MB, GB, TB): 64MiB";
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let Ok(number) = number.parse::<u64>() else {
        return wrong(text, accepted);
    };
    match self::unit(unit.trim_start()).map(|factor| number.checked_mul(factor)) {
        None => wrong(text, accepted),
        Some(None) => wrong(text, "that is more than 16 EiB"),
        Some(Some(0)) => wrong(text, "a drive has at least one block"),
        Some(Some(bytes)) => Ok(bytes),
    }
}

/// Bytes, as people write them: in the unit of which they are the smallest whole number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, factor) = UNITS
            .iter()
            .filter(|(_, factor)| self.0 > 0 && self.0.is_multiple_of(*factor))
            .max_by_key(|(_, factor)| *factor)
            .unwrap_or(&("B", 1));
        f.pad(&format!("{}{name}", self.0 / factor))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> DriveSpec {
        text.parse().unwrap()
    }

    fn refusal(text: &str) -> String {
        text.parse::<DriveSpec>().unwrap_err().to_string()
    }

    #[test]
    fn drives() {
        let ram = parse("ram:64MiB");
        assert_eq!(ram.kind, Kind::Ram { bytes: 64 << 20 });
        assert_eq!((ram.block_len, ram.read_only), (None, false));
        assert_eq!(ram.label(), "ram:64MiB");
        let all = parse(
            "file:/srv/a b.img,size=3GB,block=512,ro,uuid=3f2a6c1e-9b0d-4c57-8a41-0e6d5b7f9c23,nsid=7",
        );
        let Kind::File { path, size } = &all.kind else {
            panic!("a file");
        };
        assert_eq!(path.to_str(), Some("/srv/a b.img"));
        assert_eq!(*size, Some(3_000_000_000));
        assert_eq!((all.block_len, all.nsid), (Some(512), Some(7)));
        assert!(all.read_only);
        assert_eq!(all.uuid.unwrap()[0], 0x3f);
        assert!(all.ram(DriveId(0), 1, Want::default()).is_none());
        assert_eq!(all.file().unwrap().size, *size);
        let config = ram.ram(DriveId(2), 1, Want::default()).unwrap();
        assert_eq!((config.bytes, config.block_len), (64 << 20, 4096));
    }

    #[test]
    fn nvme_drives() {
        let spec = parse("nvme:0000:3b:00.0/2,ro,nsid=7");
        assert_eq!((spec.nsid, spec.read_only), (Some(7), true));
        assert_eq!(spec.label(), "nvme:0000:3b:00.0/2");
        let (address, config) = spec.nvme().unwrap();
        assert_eq!(address.to_string(), "0000:3b:00.0");
        assert_eq!((config.nsid, config.read_only), (Some(2), true));
        let spec = parse("nvme:3b:00.0");
        assert_eq!(spec.label(), "nvme:0000:3b:00.0");
        assert_eq!(spec.nvme().unwrap().1.nsid, None);
        assert!(spec.file().is_none() && parse("ram:1MiB").nvme().is_none());
    }

    #[test]
    fn refusals_name_the_part_and_what_is_accepted() {
        for (text, part, accepted) in [
            ("", "``", "ram:SIZE, file:PATH or"),
            ("ram", "`ram`", "ram:SIZE, file:PATH or"),
            ("disk:/x", "`disk:`", "ram:SIZE, file:PATH or"),
            ("nvme:3b", "`3b`", "0000:3b:00.0"),
            ("nvme:0000:3b:00.0/0", "/0`", "from 1 on"),
            ("nvme:0000:3b:00.0/x", "/x`", "from 1 on"),
            ("nvme:3b:00.0,block=512", "`block=512`", "format"),
            ("nvme:3b:00.0,size=1GiB", "`size=1GiB`", "options of nvme:"),
            ("ram:", "``", "64MiB"),
            ("ram:64", "`64`", "KiB"),
            ("ram:64M", "`64M`", "MiB"),
            ("ram:0MiB", "`0MiB`", "at least one block"),
            ("ram:99999999TiB", "`99999999TiB`", "16 EiB"),
            ("ram:-1MiB", "`-1MiB`", "a size is"),
            ("ram:1MiB,block=1024", "`block=1024`", "512 or 4096"),
            ("ram:1MiB,size=1MiB", "`size=1MiB`", "follows the colon"),
            ("ram:1MiB,rw", "`rw`", "options of ram:"),
            ("ram:1MiB,", "``", "options of ram:"),
            ("ram:1MiB,ro=1", "`ro=1`", "options of ram:"),
            ("ram:1MiB,nsid=0", "`nsid=0`", "from 1 to 1024"),
            ("ram:1MiB,nsid=1025", "`nsid=1025`", "from 1 to 1024"),
            ("ram:1MiB,nsid=1,nsid=2", "`nsid=2`", "twice"),
            (
                "ram:1MiB,uuid=00000000-0000-0000-0000-000000000000",
                "uuid=0",
                "not all zero",
            ),
            ("file:", "`file:`", "a path"),
            ("file:/x,blok=512", "`blok=512`", "options of file:"),
            ("file:/x,size=big", "`big`", "a size is"),
        ] {
            let refusal = refusal(text);
            assert!(refusal.contains(part), "{text}: {refusal}");
            assert!(refusal.contains(accepted), "{text}: {refusal}");
        }
    }

    #[test]
    fn sizes_both_ways() {
        for (text, bytes) in [
            ("1KiB", 1 << 10),
            ("1024KiB", 1 << 20),
            ("7GiB", 7 << 30),
            ("2TiB", 2 << 40),
            ("5KB", 5_000),
            ("5mb", 5_000_000),
            ("1 GB", 1_000_000_000),
            ("3TB", 3_000_000_000_000),
            ("512B", 512),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
            assert_eq!(parse_size(&Size(bytes).to_string()), Ok(bytes));
        }
        assert_eq!(Size(64 << 20).to_string(), "64MiB");
        assert_eq!(Size(5_000_000).to_string(), "5MB");
        assert_eq!(Size(32_000_000).to_string(), "32MB");
        assert_eq!(Size(513).to_string(), "513B");
        assert_eq!(Size(0).to_string(), "0B");
    }
}
