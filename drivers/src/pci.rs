//! PCI devices as the system shows them in `/sys/bus/pci`: what NVMe drives there are, and who has them.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Where a PCI device is: `0000:bb:dd.f`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Address {
    domain: u32,
    bus: u8,
    device: u8,
    function: u8,
}

impl FromStr for Address {
    type Err = String;

    /// `bb:dd.f` is taken for domain 0.
    fn from_str(text: &str) -> Result<Address, String> {
        let wrong = || format!("`{text}` is no PCI address; one is like 0000:3b:00.0");
        let hex = |digits: &str, most: usize| {
            let fits = (1..=most).contains(&digits.len());
            let number = u32::from_str_radix(digits, 16).ok();
            number.filter(|_| fits && digits.bytes().all(|b| b.is_ascii_hexdigit()))
        };
        let (rest, function) = text.rsplit_once('.').ok_or_else(wrong)?;
        let (rest, device) = rest.rsplit_once(':').ok_or_else(wrong)?;
        let (domain, bus) = rest.split_once(':').unwrap_or(("0", rest));
        let (domain, bus) = (hex(domain, 8), hex(bus, 2));
        let (device, function) = (hex(device, 2), hex(function, 1));
        match (domain, bus, device, function) {
            (Some(domain), Some(bus), Some(device @ 0..32), Some(function @ 0..8)) => Ok(Address {
                domain,
                bus: bus as u8,
                device: device as u8,
                function: function as u8,
            }),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Address {
            domain,
            bus,
            device,
            function,
        } = self;
        write!(f, "{domain:04x}:{bus:02x}:{device:02x}.{function:x}")
    }
}

/// The driver that gives a device to user space.
pub const VFIO: &str = "vfio-pci";
/// Drivers that use nothing of a group: this one, the one that only keeps others away, and that of bridges, which moves no
/// data of its own.
const HARMLESS: [&str; 3] = [VFIO, "pci-stub", "pcieport"];
/// What to do where a device has no IOMMU group.
pub const NO_IOMMU: &str = "switch the IOMMU (VT-d, AMD-Vi) on in the firmware, and on Intel boot with intel_iommu=on; a virtual \
     machine that has none serves what the kernel makes of the drive, as file:/dev/nvme0n1";
/// Class code of an NVM Express controller: mass storage, non-volatile memory, NVMe (PCIe Transport 1.0).
const CLASS_NVME: u32 = 0x01_08_02;

/// `/sys/bus/pci`, or in tests a folder that looks like it.
#[derive(Clone, Debug)]
pub struct Sysfs {
    bus: PathBuf,
}

impl Default for Sysfs {
    fn default() -> Sysfs {
        Sysfs::at("/sys/bus/pci")
    }
}

impl Sysfs {
    /// The folder that has `devices`, `drivers` and `drivers_probe`.
    pub fn at(bus: impl Into<PathBuf>) -> Sysfs {
        Sysfs { bus: bus.into() }
    }

    /// The NVMe drives there are.
    pub fn nvme(&self) -> Vec<Address> {
        let entries = fs::read_dir(self.bus.join("devices")).into_iter().flatten();
        let name = |entry: fs::DirEntry| entry.file_name().to_str()?.parse().ok();
        let mut found: Vec<Address> = entries
            .flatten()
            .filter_map(name)
            .filter(|address| self.is_nvme(*address))
            .collect();
        found.sort();
        found
    }

    /// There is such a device.
    pub fn exists(&self, address: Address) -> bool {
        self.folder(address).exists()
    }

    /// It is an NVMe drive.
    pub fn is_nvme(&self, address: Address) -> bool {
        let class = self.text(address, "class").unwrap_or_default();
        u32::from_str_radix(class.trim_start_matches("0x"), 16) == Ok(CLASS_NVME)
    }

    /// The driver that has it.
    pub fn driver(&self, address: Address) -> Option<String> {
        self.link(address, "driver")
    }

    /// Its IOMMU group: none where the system has no IOMMU, or does not use it.
    pub fn group(&self, address: Address) -> Option<u32> {
        self.link(address, "iommu_group")?.parse().ok()
    }

    /// The other devices of its IOMMU group.
    pub fn group_mates(&self, address: Address) -> Vec<Address> {
        let devices = self.folder(address).join("iommu_group/devices");
        let names = fs::read_dir(devices).into_iter().flatten().flatten();
        let mates = names.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        mates.filter(|mate| *mate != address).collect()
    }

    /// Those of them that the kernel uses, and by what, in words: while there is one, the group is nobody else's.
    pub fn mates_in_use(&self, address: Address) -> Vec<String> {
        let mates = self.group_mates(address).into_iter();
        let used = mates.filter_map(|mate| {
            let driver = self.driver(mate)?;
            (!HARMLESS.contains(&driver.as_str())).then(|| format!("{mate} ({driver})"))
        });
        used.collect()
    }

    /// Its NUMA node: none on machines that have one, or do not say.
    pub fn numa_node(&self, address: Address) -> Option<u32> {
        self.text(address, "numa_node")?.parse().ok()
    }

    /// The names that the kernel's driver has for it: `nvme0`.
    pub fn controllers(&self, address: Address) -> Vec<String> {
        names(&self.folder(address).join("nvme"))
    }

    /// Names of the block devices that the kernel's driver makes of it: `nvme0n1`.
    pub fn block_devices(&self, address: Address) -> Vec<String> {
        let mut found = Vec::new();
        for controller in self.controllers(address) {
            let folder = self.folder(address).join("nvme").join(&controller);
            // With native multipath the block device lies under the subsystem, and the controller has a
            // hidden path to it, nvme0c0n1.
            for name in names(&folder).into_iter().filter(|name| is_namespace(name)) {
                found.push(match name.split_once('c') {
                    Some((front, back)) => {
                        let back = back.trim_start_matches(|c: char| c.is_ascii_digit());
                        format!("{front}{back}")
                    }
                    None => name,
                });
            }
        }
        found.sort();
        found
    }

    /// A file of the device's folder.
    pub fn text(&self, address: Address, file: &str) -> Option<String> {
        let text = fs::read_to_string(self.folder(address).join(file)).ok()?;
        Some(text.trim().to_owned())
    }

    /// Its folder.
    pub fn folder(&self, address: Address) -> PathBuf {
        self.bus.join("devices").join(address.to_string())
    }

    /// The folder of all of them.
    pub fn bus(&self) -> &Path {
        &self.bus
    }

    fn link(&self, address: Address, name: &str) -> Option<String> {
        let target = fs::read_link(self.folder(address).join(name)).ok()?;
        Some(target.file_name()?.to_str()?.to_owned())
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

/// `nvme0n1`, `nvme0c0n1`; not `nvme0`, `ng0n1`.
fn is_namespace(name: &str) -> bool {
    name.strip_prefix("nvme")
        .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()) && rest.contains('n'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_both_ways() {
        for (text, printed) in [
            ("0000:3b:00.0", "0000:3b:00.0"),
            ("3b:1f.7", "0000:3b:1f.7"),
            ("10000:E1:00.0", "10000:e1:00.0"),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), printed);
        }
        for text in [
            "",
            "3b",
            "3b:00",
            "0000:3b:20.0",
            "0000:3b:00.8",
            "0000:3b:00.",
            "x:3b:00.0",
            "0000:03b:00.0",
            "+0:3b:00.0",
        ] {
            let said = text.parse::<Address>().unwrap_err();
            assert!(said.contains("0000:3b:00.0"), "{text}: {said}");
        }
    }

    #[test]
    fn block_devices_are_told_from_the_rest() {
        for (name, yes) in [
            ("nvme0n1", true),
            ("nvme0c0n1", true),
            ("nvme0", false),
            ("ng0n1", false),
        ] {
            assert_eq!(is_namespace(name), yes, "{name}");
        }
    }
}
