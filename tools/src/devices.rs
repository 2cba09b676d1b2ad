//! `ferroce devices`: the machine's NVMe drives, and who drives them, and its RDMA devices. Binding goes through sysfs, as
//! root.

mod open;
#[cfg(feature = "verbs")]
pub mod rdma;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ferroce_drivers::file::user_of;
use ferroce_drivers::pci::{Address, NO_IOMMU, Sysfs, VFIO};

use crate::cli::{DevicesArgs, DevicesOrder};
use crate::ctl::print;
use crate::fail::{Context, Result, fail};

/// The kernel's own driver.
const KERNEL: &str = "nvme";
/// How often, and how far apart, `bind` looks again whether a drive is in use: udev opens a disk for a moment whenever
/// something about it changed.
const LOOKS: u32 = 10;
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

/// Runs the command.
pub fn run(args: &DevicesArgs) -> Result<()> {
    let sysfs = Sysfs::default();
    let said = match &args.order {
        None => list(&sysfs, root()) + &rdma(),
        Some(DevicesOrder::Bind { address, force }) => {
            bind(&sysfs, root(), *address, *force, LOOKS)?
        }
        Some(DevicesOrder::Unbind { address, force }) => unbind(&sysfs, *address, *force)?,
    };
    print(&said)
}

/// Where the system tells who has what open; tests have another.
fn root() -> &'static Path {
    Path::new("/")
}

#[cfg(feature = "verbs")]
fn rdma() -> String {
    format!("\n{}", rdma::list())
}

#[cfg(not(feature = "verbs"))]
fn rdma() -> String {
    "\nRDMA devices: this build does without (feature `verbs`)\n".into()
}

/// A line for each drive.
fn list(sysfs: &Sysfs, root: &Path) -> String {
    let drives = sysfs.nvme();
    if drives.is_empty() {
        return "no NVMe drive on the PCI bus\n".into();
    }
    let mut rows = vec![["address", "driver", "group", "node", "use"].map(str::to_owned)];
    for address in drives {
        let number = |number: Option<u32>| number.map_or("-".into(), |number| number.to_string());
        rows.push([
            address.to_string(),
            sysfs.driver(address).unwrap_or_else(|| "-".into()),
            number(sysfs.group(address)),
            number(sysfs.numa_node(address)),
            usage(sysfs, root, address),
        ]);
    }
    let mut out = String::new();
    for [address, driver, group, node, used] in rows {
        writeln!(
            out,
            "{address:<13} {driver:<9} {group:>5} {node:>5}  {used}"
        )
        .expect("a String takes it");
    }
    out
}

/// What a drive is used for.
fn usage(sysfs: &Sysfs, root: &Path, address: Address) -> String {
    match sysfs.driver(address).as_deref() {
        Some(VFIO) => match vfio_user(sysfs, address) {
            Some(pid) => format!("process {pid}"),
            None => format!("free for nvme:{address}"),
        },
        None => "nobody's; `ferroce devices bind` takes it".into(),
        Some(_) => {
            let disks = sysfs.block_devices(address);
            let used = users(sysfs, root, address);
            match (disks.is_empty(), used.is_empty()) {
                (_, false) => used.join("; "),
                (true, _) => "no namespace".into(),
                (false, true) => format!("{}: not mounted", disks.join(", ")),
            }
        }
    }
}

/// Who uses a drive that the kernel has, in words: who has claimed a disk of it, then who has it open.
fn users(sysfs: &Sysfs, root: &Path, address: Address) -> Vec<String> {
    let disks = sysfs.block_devices(address);
    let claimed = |disk: &String| Some(format!("{disk}: {}", user_of(&device_file(disk))?));
    let mut users: Vec<String> = disks.iter().filter_map(claimed).collect();
    let controllers = sysfs.controllers(address);
    users.extend(open::Files { controllers, disks }.users(root));
    users
}

fn device_file(disk: &str) -> PathBuf {
    Path::new("/dev").join(disk)
}

/// A process that has the drive's group open, as far as we may see.
fn vfio_user(sysfs: &Sysfs, address: Address) -> Option<u32> {
    let group = PathBuf::from(format!("/dev/vfio/{}", sysfs.group(address)?));
    open::process(root(), |file| file == group).map(|(pid, _)| pid)
}

fn check(sysfs: &Sysfs, address: Address) -> Result<()> {
    if !sysfs.exists(address) {
        fail!("there is no PCI device {address}; `ferroce devices` lists the NVMe drives");
    }
    if !sysfs.is_nvme(address) {
        fail!("{address} is no NVMe drive; `ferroce devices` lists those");
    }
    Ok(())
}

/// Takes a drive from the kernel, unless it is in use. False if we had it already.
pub fn take(sysfs: &Sysfs, address: Address) -> Result<bool> {
    if sysfs.driver(address).as_deref() == Some(VFIO) {
        return Ok(false);
    }
    bind(sysfs, root(), address, false, 1).map(|_| true)
}

/// Takes a drive from the kernel. One that is in use is looked at that often, in case that it is for a moment only.
fn bind(sysfs: &Sysfs, root: &Path, address: Address, force: bool, looks: u32) -> Result<String> {
    check(sysfs, address)?;
    let Some(group) = sysfs.group(address) else {
        fail!("{address} has no IOMMU group: {NO_IOMMU}");
    };
    let warning = match &sysfs.mates_in_use(address)[..] {
        [] => String::new(),
        mates => format!(
            "warning: the kernel uses other devices of its IOMMU group {group}: {}; it is not served before those are \
             bound to {VFIO} too, or to no driver\n",
            mates.join(", ")
        ),
    };
    if sysfs.driver(address).as_deref() == Some(VFIO) {
        return Ok(format!("{address} is bound to {VFIO} already\n{warning}"));
    }
    for look in (1..=looks).rev().filter(|_| !force) {
        let used = users(sysfs, root, address);
        if used.is_empty() {
            break;
        }
        if look == 1 {
            let used = used.join("; ");
            fail!(
                "{address} is in use: {used}; stop that first, or give --force and lose what is not written out"
            );
        }
        std::thread::sleep(BETWEEN_LOOKS);
    }
    load(sysfs, VFIO)?;
    change_driver(sysfs, address, VFIO)?;
    Ok(format!(
        "{address} is bound to {VFIO}; serve it with --device nvme:{address}. Users other than root need /dev/vfio/{group} \
         (chown) and enough locked memory (ulimit -l)\n{warning}"
    ))
}

/// Gives a drive back to the kernel.
fn unbind(sysfs: &Sysfs, address: Address, force: bool) -> Result<String> {
    check(sysfs, address)?;
    let driver = sysfs.driver(address);
    if driver.as_deref() == Some(KERNEL) {
        return Ok(format!("{address} has the kernel's driver already\n"));
    }
    if let Some(pid) = vfio_user(sysfs, address)
        && !force
    {
        fail!(
            "process {pid} uses {address}; stop it first, or give --force and it is asked to let go"
        );
    }
    load(sysfs, KERNEL)?;
    change_driver(sysfs, address, KERNEL)?;
    Ok(format!("{address} has the kernel's driver again\n"))
}

/// Has the kernel load a driver, if it is not there.
fn load(sysfs: &Sysfs, driver: &str) -> Result<()> {
    let folder = sysfs.bus().join("drivers").join(driver);
    if folder.exists() {
        return Ok(());
    }
    // Its absence is what counts, not what modprobe says.
    let _ = Command::new("modprobe").arg(driver).output();
    if folder.exists() {
        return Ok(());
    }
    fail!("the kernel has no driver {driver}; as root: modprobe {driver}");
}

/// From whatever driver to this one. If that does not come to pass, the kernel's choice is restored.
fn change_driver(sysfs: &Sysfs, address: Address, driver: &str) -> Result<()> {
    // The kernel's driver is found without help; what is not to be found by itself must be named.
    let wanted = if driver == KERNEL { "\n" } else { driver };
    let changed = set_driver(sysfs, address, wanted);
    let now = sysfs.driver(address);
    if changed.is_ok() && now.as_deref() == Some(driver) {
        return Ok(());
    }
    if wanted != "\n" {
        // The first failure is what is told.
        let _ = set_driver(sysfs, address, "\n");
    }
    changed?;
    let now = now.unwrap_or_else(|| "no driver".into());
    fail!(
        "{address} was offered to {driver}, and {now} has it; the kernel's log (dmesg) may say why"
    );
}

fn set_driver(sysfs: &Sysfs, address: Address, wanted: &str) -> Result<()> {
    let folder = sysfs.folder(address);
    write(&folder.join("driver_override"), wanted)?;
    if folder.join("driver").exists() {
        write(&folder.join("driver/unbind"), &address.to_string())?;
    }
    write(&sysfs.bus().join("drivers_probe"), &address.to_string())
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).context(|| {
        let root = "(root may)";
        format!("cannot write {} {root}", path.display())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::wait_for;
    use std::os::unix::fs::symlink;

    /// A folder that looks like sysfs with one drive of the kernel's; nothing in it acts.
    fn sysfs(dir: &Path) -> (Sysfs, Address) {
        let device = dir.join("devices/0000:3b:00.0");
        fs::create_dir_all(device.join("nvme/nvme9/nvme9c9n1")).expect("made");
        for driver in [KERNEL, VFIO] {
            fs::create_dir_all(dir.join("drivers").join(driver)).expect("made");
        }
        symlink("../../drivers/nvme", device.join("driver")).expect("made");
        fs::create_dir_all(dir.join("groups/7/devices")).expect("made");
        symlink("../../groups/7", device.join("iommu_group")).expect("made");
        fs::write(device.join("class"), "0x010802\n").expect("made");
        fs::write(device.join("numa_node"), "-1\n").expect("made");
        fs::create_dir_all(dir.join("devices/0000:00:1f.0")).expect("made");
        fs::write(dir.join("devices/0000:00:1f.0/class"), "0x060100\n").expect("made");
        (Sysfs::at(dir), "3b:00.0".parse().expect("an address"))
    }

    #[test]
    fn drives_are_listed_and_nothing_else() {
        let dir = tempfile::tempdir().expect("a directory");
        let (sysfs, address) = sysfs(dir.path());
        assert_eq!(sysfs.nvme(), [address]);
        let said = list(&sysfs, dir.path());
        assert_eq!(
            said.lines().nth(1),
            Some("0000:3b:00.0  nvme          7     -  nvme9n1: not mounted"),
            "{said}"
        );
    }

    #[test]
    fn what_is_no_drive_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let (sysfs, _) = sysfs(dir.path());
        for (address, why) in [("00:1f.0", "no NVMe drive"), ("00:02.0", "no PCI device")] {
            let address = address.parse().expect("an address");
            for said in [
                bind(&sysfs, dir.path(), address, true, 1),
                unbind(&sysfs, address, true),
            ] {
                let said = said.expect_err("refused").0;
                assert!(
                    said.contains(why) && said.contains("ferroce devices"),
                    "{said}"
                );
            }
        }
    }

    #[test]
    fn what_does_not_come_to_pass_is_told_and_taken_back() {
        let dir = tempfile::tempdir().expect("a directory");
        let (sysfs, address) = sysfs(dir.path());
        // Nobody reacts to what is written, so the driver stays.
        let said = bind(&sysfs, dir.path(), address, false, 1)
            .expect_err("nothing happened")
            .0;
        assert!(said.contains("nvme has it"), "{said}");
        let text = |file: &str| fs::read_to_string(dir.path().join(file)).expect("written");
        assert_eq!(text("devices/0000:3b:00.0/driver_override"), "\n");
        assert_eq!(text("drivers/nvme/unbind"), "0000:3b:00.0");
        assert_eq!(text("drivers_probe"), "0000:3b:00.0");
        assert!(
            unbind(&sysfs, address, false)
                .expect("it is so")
                .contains("already")
        );
    }

    #[test]
    fn what_a_process_has_open_is_left_alone_unless_forced() {
        let dir = tempfile::tempdir().expect("a directory");
        let (sysfs, address) = sysfs(dir.path());
        let fd = dir.path().join("proc/41/fd");
        fs::create_dir_all(&fd).expect("made");
        fs::write(dir.path().join("proc/41/comm"), "dd\n").expect("made");
        symlink("/dev/nvme9n1", fd.join("1")).expect("made");
        let used = "nvme9n1: process 41 (dd) has it open";
        let said = list(&sysfs, dir.path());
        assert!(said.contains(used), "{said}");
        let bind = |force| {
            bind(&sysfs, dir.path(), address, force, 2)
                .expect_err("nothing acts")
                .0
        };
        let said = bind(false);
        assert!(said.contains(used) && said.contains("--force"), "{said}");
        let unbound = dir.path().join("drivers/nvme/unbind");
        assert!(!unbound.exists(), "nothing was asked of the kernel");
        let said = bind(true);
        assert!(said.contains("nvme has it") && unbound.exists(), "{said}");
        // One that ends while we look.
        fs::remove_file(&unbound).expect("there");
        std::thread::scope(|scope| {
            scope.spawn(|| fs::remove_file(fd.join("1")).expect("there"));
            wait_for("what is let go of", || {
                let said = bind(false);
                if unbound.exists() { Ok(()) } else { Err(said) }
            });
        });
    }

    #[test]
    fn without_an_iommu_the_fix_is_told() {
        let dir = tempfile::tempdir().expect("a directory");
        let (sysfs, address) = sysfs(dir.path());
        fs::remove_file(dir.path().join("devices/0000:3b:00.0/iommu_group")).expect("there");
        let said = bind(&sysfs, dir.path(), address, false, 1)
            .expect_err("refused")
            .0;
        assert!(said.contains("intel_iommu=on"), "{said}");
        assert!(said.contains("file:/dev/nvme0n1"), "{said}");
    }

    #[test]
    fn who_else_is_in_the_iommu_group_is_told() {
        let dir = tempfile::tempdir().expect("a directory");
        let (sysfs, address) = sysfs(dir.path());
        let of = |address: &str, file: &str| dir.path().join("devices").join(address).join(file);
        fs::remove_file(of("0000:3b:00.0", "driver")).expect("there");
        symlink("../../drivers/vfio-pci", of("0000:3b:00.0", "driver")).expect("made");
        let said = || bind(&sysfs, dir.path(), address, false, 1).expect("it is so");
        assert_eq!(said(), "0000:3b:00.0 is bound to vfio-pci already\n");
        // Itself, a bridge, one without a driver, one more drive of ours and one of the kernel's.
        for (mate, driver) in [
            ("0000:3b:00.0", None),
            ("0000:3a:00.0", Some("pcieport")),
            ("0000:3b:00.1", None),
            ("0000:3c:00.0", Some("vfio-pci")),
            ("0000:3d:00.0", Some("nvme")),
        ] {
            fs::create_dir_all(of(mate, "")).expect("made");
            fs::create_dir_all(dir.path().join("groups/7/devices").join(mate)).expect("made");
            if let Some(driver) = driver {
                symlink(format!("../../drivers/{driver}"), of(mate, "driver")).expect("made");
            }
        }
        let said = said();
        assert!(
            said.contains("group 7: 0000:3d:00.0 (nvme); it is not served"),
            "{said}"
        );
    }
}
