//! Who a file drive is: derived by hash, so that it is never the device's own, and the same whenever
//! the same data is served again.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use uuid::Uuid;

use super::place::{Place, read_line};

/// Random, once and for all: keeps our names apart from other uses of UUID version 5.
const NAMES: Uuid = Uuid::from_u128(0x5c1d_86b3_0f0e_4a52_9a2e_6f3d_27c8_41e9);

/// XFS makes its file system identifier from the device number, which may be another after a boot.
const XFS_MAGIC: i64 = 0x5846_5342;

/// The identity of what is at a place. Where it rests on something weak, a notice says so.
pub(super) fn uuid(place: &Place, notices: &mut Vec<String>, label: &str) -> [u8; 16] {
    let name = if place.is_device() {
        device_name(place).unwrap_or_else(|| {
            notices.push(format!(
                "{label}: the device has no serial number; its identity comes from its name \
                 (give uuid= if that may change)"
            ));
            format!("{} path {}", machine_id(), place.path().display())
        })
    } else {
        file_name(
            place.file_system.kind,
            place.file_system.id,
            place.inode(),
            place.born_ns(),
        )
    };
    Uuid::new_v5(&NAMES, name.as_bytes()).into_bytes()
}

fn file_name(kind: i64, file_system: u64, inode: u64, born_ns: u128) -> String {
    let file_system = if kind == XFS_MAGIC { 0 } else { file_system };
    format!("{} file {file_system:x} {inode} {born_ns}", machine_id())
}

/// What the device says of itself. It goes with the disk, whatever machine that is in.
fn device_name(place: &Place) -> Option<String> {
    let folder = place.sysfs();
    let disk = place.disk();
    if let Some(file) = read_line(&disk.join("loop/backing_file")) {
        let kind = fs::metadata(&file).ok()?;
        let part = read_line(&folder.join("start")).unwrap_or_default();
        return Some(format!("{} loop {} {part}", machine_id(), kind.ino()));
    }
    let known = [
        "dm/uuid",
        "md/uuid",
        "wwid",
        "device/wwid",
        "serial",
        "device/serial",
    ];
    let (kind, id) = known
        .iter()
        .find_map(|name| Some((*name, read_line(&disk.join(name))?)))?;
    // A partition is where it starts on its disk; growing it does not make it another.
    let start = read_line(&folder.join("start")).unwrap_or_default();
    Some(format!("device {kind} {id} {start}"))
}

/// This machine, if it has a name.
fn machine_id() -> String {
    ["/etc/machine-id", "/var/lib/dbus/machine-id"]
        .iter()
        .find_map(|path| read_line(Path::new(path)))
        .unwrap_or_default()
}
