//! A drive of this machine without a fabric: what a node's drive does by itself, driven the way the node drives it. It
//! is what the node's answers are compared with: the difference is what the fabric and the node add.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use ferroce_buf::{BufList, Class, Home, PAGE, Pool, Region, Want};
use ferroce_engine::port::{Backend, Done, DriveId, DriveInfo, Io as Request, Op, Tag};
use ferroce_transport::host::{Completion, Data};
use ferroce_wire::cqe::Cqe;

use super::link::Io;
use super::target::Ground;
use crate::cli::ProbeArgs;
use crate::config::{Device, Memory, Namespace};
use crate::fail::{Context, Result, fail};
use crate::node::drives::Drive;
use crate::sets::AnyDrive;
use crate::units::about;
use crate::url::Url;
use crate::wait::Bed;

/// What a probe looks at.
#[derive(Clone, PartialEq, Debug)]
pub enum Place {
    /// A node, or another target.
    Node(Url),
    /// A drive of this machine.
    Drive(Box<Device>),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Place, String> {
        if !text.starts_with("nvme:") && !text.starts_with("file:") {
            let url = text.parse::<Url>();
            return url
                .map(Place::Node)
                .map_err(|why| format!("{why}, or nvme:0000:bb:dd.f for a drive of this machine"));
        }
        let device: Device = text.parse()?;
        if device.spec.nsid.is_some() {
            return Err(format!(
                "`{text}`: nsid= is how hosts see a drive; write nvme:0000:bb:dd.f/N for namespace N of a drive"
            ));
        }
        Ok(Place::Drive(Box::new(device)))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Node(url) => url.fmt(f),
            Place::Drive(device) => f.write_str(&device.text),
        }
    }
}

impl Place {
    /// The URL, if it is one.
    pub fn url(&self) -> Option<&Url> {
        match self {
            Place::Node(url) => Some(url),
            Place::Drive(_) => None,
        }
    }
}

/// A drive that is ours for the time of the run.
#[derive(Debug)]
pub struct Site {
    drive: Drive,
    info: DriveInfo,
}

impl Site {
    /// Opens it.
    pub fn open(device: &Device) -> Result<Site> {
        let namespace = Namespace::of(device.clone());
        let drive = Drive::open(&namespace, DriveId(0), 1, Memory::default())?;
        let info = drive.info();
        Ok(Site { drive, info })
    }

    /// What is measured.
    pub fn ground(&self) -> Ground {
        let DriveInfo {
            blocks,
            block_len,
            read_only,
            max_transfer,
            ..
        } = self.info;
        Ground {
            nsid: 1,
            blocks,
            block_len,
            read_only,
            transfer_max: max_transfer.into(),
        }
    }

    /// It in words.
    pub fn about(&self) -> String {
        let DriveInfo {
            label,
            blocks,
            block_len,
            ..
        } = &self.info;
        format!(
            "{label}, without a fabric\n{}, blocks of {block_len}",
            about(blocks * u64::from(*block_len))
        )
    }

    /// Its queues, each with memory for as many commands as are under way.
    pub fn queues(&self, args: &ProbeArgs) -> Result<Vec<Queue>> {
        let classes = [Class {
            size: (args.block_size.0 as usize).next_multiple_of(PAGE),
            count: args.depth.into(),
        }];
        let want = Want {
            huge: true,
            locked: false,
        };
        let map = |_| Region::map(Pool::bytes(&classes), want).map(Arc::new);
        let regions = (0..args.queues)
            .map(map)
            .collect::<std::io::Result<Vec<_>>>();
        let regions = regions.context(|| "memory for a drive's data")?;
        // All at once: where a drive has too few queues, one of them serves the data of several.
        let ends = self.drive.ends(&vec![None; regions.len()], &regions)?;
        if ends.iter().any(AnyDrive::brings_memory) {
            fail!("memory is measured by --ceiling");
        }
        let pools = regions
            .into_iter()
            .map(|region| Pool::new(region, 0, Home::CORE, &classes));
        ends.into_iter()
            .zip(pools)
            .map(|(drive, pool)| Queue::new(drive, pool, self.info.block_len, args.depth))
            .collect()
    }
}

/// A command at the drive.
#[derive(Debug)]
struct Waiting {
    data: Data,
    user_data: u64,
    write: bool,
}

/// One queue of it.
#[derive(Debug)]
pub struct Queue {
    drive: AnyDrive,
    bed: Bed,
    block_len: u32,
    pool: Pool,
    slots: Vec<Option<Waiting>>,
    free: Vec<u32>,
}

impl Queue {
    fn new(drive: AnyDrive, pool: Pool, block_len: u32, depth: u16) -> Result<Queue> {
        Ok(Queue {
            drive,
            bed: Bed::new().context(|| "a place to sleep")?,
            block_len,
            pool,
            slots: (0..depth).map(|_| None).collect(),
            free: (0..u32::from(depth)).rev().collect(),
        })
    }

    /// Commands at a time.
    pub fn depth(&self) -> usize {
        self.slots.len()
    }

    /// Commands without an answer.
    #[inline]
    pub fn outstanding(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Takes a command, if there is room. Bytes of a write are copied to where the drive reads them.
    #[inline]
    pub fn submit(&mut self, io: &Io, data: Data, user_data: u64) -> std::result::Result<(), Data> {
        let Some(slot) = self.free.pop() else {
            return Err(data);
        };
        let (lba, blocks) = (io.lba, io.blocks);
        let len = blocks as usize * self.block_len as usize;
        let mut bufs = BufList::new();
        bufs.push(self.pool.take(len).expect("one for each slot"));
        let op = if io.write {
            bufs.copy_in(0, data.bytes());
            Op::Write {
                lba,
                blocks,
                fua: false,
            }
        } else {
            Op::Read { lba, blocks }
        };
        let tag = Tag {
            slot,
            generation: 0,
        };
        match self.drive.submit(Request { tag, op, bufs }) {
            Ok(()) => {
                self.slots[slot as usize] = Some(Waiting {
                    data,
                    user_data,
                    write: io.write,
                });
                Ok(())
            }
            Err(refused) => {
                self.pool.put_all(refused.bufs);
                self.free.push(slot);
                Err(data)
            }
        }
    }

    /// Tells the drive of what was submitted.
    #[inline]
    pub fn flush(&mut self) {
        self.drive.ring_doorbell();
    }

    /// The next answer.
    #[inline]
    pub fn next_done(&mut self) -> Option<Completion> {
        let Done { tag, status, bufs } = self.drive.poll()?;
        let Waiting {
            mut data,
            user_data,
            write,
        } = self.slots[tag.slot as usize]
            .take()
            .expect("each command is answered once");
        if !write && status.is_success() && !data.bytes().is_empty() {
            bufs.copy_out(0, data.bytes_mut());
        }
        self.pool.put_all(bufs);
        self.free.push(tag.slot);
        Some(Completion {
            user_data,
            cqe: Cqe::new(tag.slot as u16, status),
            data,
        })
    }

    /// Sleeps until the drive has something, or `limit` is over.
    pub fn wait(&mut self, limit: Duration) {
        if !self.drive.watch_by(&self.bed).unwrap_or(false) {
            return std::thread::yield_now();
        }
        let drive = &self.drive;
        self.bed.sleep(Some(limit), || !drive.has_work());
    }

    /// One read, waited for.
    pub fn read(&mut self, lba: u64, blocks: u32) -> Result<Vec<u8>> {
        let io = Io {
            nsid: 1,
            lba,
            blocks,
            write: false,
        };
        let data = Data::zeroed(blocks as usize * self.block_len as usize);
        if self.submit(&io, data, 0).is_err() {
            fail!("the drive takes no command");
        }
        loop {
            self.flush();
            if let Some(done) = self.next_done() {
                if !done.is_success() {
                    fail!(
                        "cannot look at what is on the drive: reading block {lba}: {}",
                        done.status()
                    );
                }
                return Ok(done.data.into_vec());
            }
            self.wait(Duration::from_millis(10));
        }
    }
}
