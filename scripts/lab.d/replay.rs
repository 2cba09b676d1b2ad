//! Replays the write log of a dm-log-writes device, up to a mark, onto a zeroed device: what the medium held when the
//! mark was made. The format is that of the kernel's documentation of dm-log-writes, all little-endian.
//!
//! Without a mark it replays all that the log counts: QEMU, which writes such logs too (`blklogwrites`), counts at each
//! flush, so this is what the medium held at the last one.
//!
//!     replay LOG OUT BYTES [MARK]

use std::fs::{File, OpenOptions};
use std::io::{self, Error};
use std::os::unix::fs::FileExt;

const MAGIC: u64 = 0x006a_7366_7773_6872;
const DISCARD: u64 = 1 << 2;
const MARK: u64 = 1 << 3;

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (log, out, bytes, mark) = match arguments.as_slice() {
        [log, out, bytes] => (log, out, bytes, None),
        [log, out, bytes, mark] => (log, out, bytes, Some(mark)),
        _ => return Err(Error::other("usage: replay LOG OUT BYTES [MARK]")),
    };
    let log = File::open(log)?;
    let out = OpenOptions::new().write(true).open(out)?;
    let bytes = bytes.parse().map_err(Error::other)?;
    write_zeroes(&out, 0, bytes)?;

    // The super block: magic, version, number of entries, sector size.
    let head = words(&log, 0)?;
    if head[0] != MAGIC || head[1] != 1 {
        return Err(Error::other("this is no version 1 write log"));
    }
    let sector = head[3] & 0xffff_ffff;
    let mut at = sector;
    for entry in 0..head[2] {
        // An entry: where, how many sectors, flags, length of the mark's name. The data follow in sectors of their own.
        let [to, count, flags, name_len] = words(&log, at)?;
        if flags & MARK != 0 {
            let mut name = vec![0; name_len as usize];
            log.read_exact_at(&mut name, at + 32)?;
            if let Some(mark) = mark.filter(|mark| name == mark.as_bytes()) {
                println!("replayed {entry} entries, up to mark {mark}");
                return out.sync_all();
            }
        }
        at += sector;
        if flags & DISCARD != 0 {
            write_zeroes(&out, to * sector, count * sector)?;
        } else {
            let mut data = vec![0; (count * sector) as usize];
            log.read_exact_at(&mut data, at)?;
            out.write_all_at(&data, to * sector)?;
            at += count * sector;
        }
    }
    let Some(mark) = mark else {
        println!("replayed all {} entries", head[2]);
        return out.sync_all();
    };
    Err(Error::other(format!(
        "no mark {mark} in {} entries",
        head[2]
    )))
}

fn words(log: &File, at: u64) -> io::Result<[u64; 4]> {
    let mut bytes = [0; 32];
    log.read_exact_at(&mut bytes, at)?;
    let word = |i: usize| u64::from_le_bytes(std::array::from_fn(|j| bytes[8 * i + j]));
    Ok(std::array::from_fn(word))
}

fn write_zeroes(out: &File, from: u64, len: u64) -> io::Result<()> {
    let zeroes = vec![0; 1 << 20];
    let mut at = from;
    while at < from + len {
        let piece = (from + len - at).min(zeroes.len() as u64);
        out.write_all_at(&zeroes[..piece as usize], at)?;
        at += piece;
    }
    Ok(())
}
