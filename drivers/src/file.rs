//! A drive in a regular file or on a block device, past the page cache where that can be had.
//!
//! The file is opened once, under an exclusive lock which belongs to the open file and not to the
//! process: requests that the kernel still has keep it. So a node that is started again waits until
//! the last write of the killed one has landed, and cannot be overtaken by it.
//!
//! Each core has its own io_uring, with the file and the core's memory registered, one system call
//! per turn to submit, and none to complete. Where io_uring is forbidden (containers), a few threads
//! per core do the same with plain system calls.
//!
//! Left out on purpose: a cache. What a host wrote is at the device when we say so; what the device
//! has in its own cache is on media after a Flush, which is fdatasync.

mod identity;
mod place;
mod request;
mod ring;
mod threads;

use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ferroce_buf::Region;
use ferroce_engine::port::{Backend, Done, DriveInfo, Io};

use crate::DriveError;
use crate::spec::Size;
use place::Place;
pub use request::status_of;
use ring::Ring;
use threads::Threads;

/// Requests a queue takes before completions must be polled.
pub const DEPTH: usize = 256;
/// The most bytes one request carries.
pub const MAX_TRANSFER: u32 = 128 * 1024;
/// The most Bufs one request carries.
pub const MAX_BUFS: usize = 32;

/// The most bytes one request deallocates: a file system does that in a few milliseconds.
const DEALLOCATE_MAX: u32 = 1 << 30;

/// How long a dropped queue waits for what the kernel still has.
const DROP_WAIT: Duration = Duration::from_secs(10);

/// What a file drive is to be.
#[derive(Clone, Debug)]
pub struct FileConfig {
    /// What the operator called it.
    pub label: String,
    /// The file or block device.
    pub path: PathBuf,
    /// Bytes of a file that is made if there is none; one that is there keeps its size.
    pub size: Option<u64>,
    /// Bytes of a block: 512 or 4096. By itself a file has 4096, a device its logical blocks.
    pub block_len: Option<u32>,
    /// Writes are refused, and others may read the file too.
    pub read_only: bool,
    /// Its identity; derived from the file or device if there is none.
    pub uuid: Option<[u8; 16]>,
    /// How it is read and written.
    pub via: Via,
    /// How long another process may still have it: a killed node's last requests keep the lock.
    pub lock_wait: Duration,
}

impl FileConfig {
    /// A file that is there, with everything else by itself.
    pub fn new(path: impl Into<PathBuf>) -> FileConfig {
        let path = path.into();
        FileConfig {
            label: format!("file:{}", path.display()),
            path,
            size: None,
            block_len: None,
            read_only: false,
            uuid: None,
            via: Via::Best,
            lock_wait: Duration::from_secs(5),
        }
    }

    /// What is seen of the file without opening it, if it is there.
    ///
    /// # Errors
    /// If it cannot be a drive, or one that would be made could not.
    pub fn look(&self) -> Result<Option<Metadata>, DriveError> {
        let kind = match std::fs::metadata(&self.path) {
            Ok(kind) => kind,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
                if let Some(size) = self.size {
                    check_size(&self.label, size, self.block_len.unwrap_or(4096))?;
                }
                return Ok(None);
            }
            Err(cause) => return Err(DriveError::system(&self.label, "looking at it", cause)),
        };
        let device = check_kind(&self.label, &kind)?;
        let (bytes, least) = match device {
            true => (place::device_len(&kind), 512),
            false => (Some(kind.len()), 4096),
        };
        if let Some(bytes) = bytes {
            check_len(&self.label, bytes, self.block_len.unwrap_or(least), device)?;
        }
        Ok(Some(kind))
    }

    /// What to tell of a file that is there and has so many bytes, if others were asked for.
    pub fn other_size(&self, bytes: u64) -> Option<String> {
        let size = self.size.filter(|size| *size != bytes)?;
        Some(format!(
            "{}: it has {}, not {}, and is served as it is, since size= is for a file that is made: write size={}, or \
             resize the namespace",
            self.label,
            Size(bytes),
            Size(size),
            Size(bytes)
        ))
    }
}

/// How a file is read and written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Via {
    /// io_uring, or threads where it is forbidden.
    #[default]
    Best,
    /// io_uring, or an error.
    Ring,
    /// Threads.
    Threads,
}

/// The part of a file drive that all cores see.
#[derive(Debug)]
pub struct FileDrive {
    file: File,
    label: String,
    device: bool,
    block_len: u32,
    preferred_blocks: u32,
    read_only: bool,
    uuid: [u8; 16],
    nguid: [u8; 16],
    blocks: AtomicU64,
    via: Via,
    /// Past the page cache (O_DIRECT).
    direct: bool,
    /// What the file system or device can do, as far as it did not say no.
    punches: AtomicBool,
    zeroes: AtomicBool,
    /// A sync of the page cache failed. The kernel then forgets what it could not write, and the
    /// next sync would say all is well; so every later one fails too.
    sync_failed: AtomicBool,
    notices: Mutex<Vec<String>>,
    /// Held while the capacity changes.
    resizing: Mutex<()>,
}

impl FileDrive {
    /// Opens the file, or makes it, under its lock.
    ///
    /// # Errors
    /// With what was tried, on what, why it failed and what to do.
    pub fn open_path(config: FileConfig) -> Result<Arc<FileDrive>, DriveError> {
        let FileConfig {
            label,
            path,
            size,
            block_len,
            read_only,
            uuid,
            via,
            lock_wait,
        } = config.clone();
        if block_len.is_some_and(|len| len != 512 && len != 4096) {
            return Err(DriveError::refused(&label, "blocks have 512 or 4096 bytes"));
        }
        let mut notices = Vec::new();
        if let Some(size) = size
            && !path.exists()
        {
            if read_only {
                return Err(DriveError::refused(
                    &label,
                    "there is no such file, and a read-only one is not made",
                ));
            }
            check_size(&label, size, block_len.unwrap_or(4096))?;
            make(&path, size)
                .map_err(|cause| DriveError::system(&label, "making the file", cause))?;
        }
        let deadline = Instant::now() + lock_wait;
        let (file, direct) = open(&label, &path, read_only, deadline)?;
        let place = Place::of(&file, &path)
            .map_err(|cause| DriveError::system(&label, "looking at it", cause))?;
        if !direct {
            notices.push(format!(
                "{label}: the file system has no O_DIRECT: data goes through the page cache"
            ));
        }
        lock(&label, &file, read_only, deadline)?;
        if !read_only && let Some(user) = place.loop_device() {
            return Err(DriveError::refused(
                &label,
                format!("it backs {user}; detach that first (losetup -d {user})"),
            ));
        }
        let block_len = place.block_len(&label, direct, block_len)?;
        let bytes = (&file)
            .seek(SeekFrom::End(0))
            .map_err(|cause| DriveError::system(&label, "asking for its size", cause))?;
        check_len(&label, bytes, block_len, place.is_device())?;
        notices.extend(config.other_size(bytes));
        let uuid = match uuid {
            Some(uuid) => uuid,
            None => identity::uuid(&place, &mut notices, &label),
        };
        for notice in &notices {
            log::warn!("{notice}");
        }
        let punches = !read_only && place.can_punch(&file, bytes);
        Ok(Arc::new(FileDrive {
            device: place.is_device(),
            preferred_blocks: (place.preferred_len() / block_len).max(1),
            nguid: crate::nguid_of(uuid),
            file,
            label,
            block_len,
            read_only,
            uuid,
            blocks: AtomicU64::new(bytes / u64::from(block_len)),
            via,
            direct,
            punches: AtomicBool::new(punches),
            zeroes: AtomicBool::new(true),
            sync_failed: AtomicBool::new(false),
            notices: Mutex::new(notices),
            resizing: Mutex::new(()),
        }))
    }

    /// What hosts are told.
    pub fn info(&self) -> DriveInfo {
        DriveInfo {
            label: self.label.clone(),
            block_len: self.block_len,
            blocks: self.blocks.load(Ordering::Acquire),
            uuid: self.uuid,
            nguid: self.nguid,
            read_only: self.read_only,
            volatile_cache: true,
            brings_memory: false,
            preferred_blocks: self.preferred_blocks,
            deallocates: self.punches.load(Ordering::Relaxed),
            max_deallocate: DEALLOCATE_MAX,
            max_transfer: MAX_TRANSFER,
            max_bufs: MAX_BUFS as u32,
            health: None,
        }
    }

    /// What is not as good as it could be, and why: for the operator.
    pub fn notices(&self) -> Vec<String> {
        self.notices
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Changes the capacity: a file is cut or lengthened, a device must have as much. Shrink only
    /// after no core sends requests for what is cut off.
    ///
    /// # Errors
    /// If the size cannot be had. Then nothing changed, unless it is that the new size could not be made to last.
    pub fn resize(&self, blocks: u64) -> Result<(), DriveError> {
        self.may_resize()?;
        let _held = self.resizing.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = blocks
            .checked_mul(u64::from(self.block_len))
            .filter(|bytes| *bytes > 0)
            .ok_or_else(|| {
                DriveError::refused(&self.label, format!("{blocks} blocks are no size"))
            })?;
        let system = |tried: &str, cause| DriveError::system(&self.label, tried, cause);
        if self.device {
            let has = (&self.file)
                .seek(SeekFrom::End(0))
                .map_err(|cause| system("asking for its size", cause))?;
            if bytes > has {
                return Err(DriveError::refused(
                    &self.label,
                    format!("the device has {has} bytes, not {bytes}"),
                ));
            }
        } else {
            let failed = |cause| system(&format!("changing its size to {bytes} bytes"), cause);
            self.file.set_len(bytes).map_err(failed)?;
            self.blocks.store(blocks, Ordering::Release);
            return self.file.sync_all().map_err(failed);
        }
        self.blocks.store(blocks, Ordering::Release);
        Ok(())
    }

    /// Refuses what can have no other size.
    ///
    /// # Errors
    /// If it is a file that is only read.
    pub fn may_resize(&self) -> Result<(), DriveError> {
        if self.read_only && !self.device {
            return Err(DriveError::refused(
                &self.label,
                "a read-only file keeps its size",
            ));
        }
        Ok(())
    }

    /// One core's part. `regions` are those the core's Bufs lie in; Bufs of others are read and
    /// written too, a little slower.
    ///
    /// # Errors
    /// Of setting up the ring or the threads.
    pub fn open(
        self: &Arc<Self>,
        core: usize,
        regions: &[Arc<Region>],
    ) -> Result<FileQueue, DriveError> {
        let threads = || {
            Threads::start(self.clone(), core)
                .map(FileQueue::Threads)
                .map_err(|cause| {
                    DriveError::system(
                        &self.label,
                        format!("starting threads for core {core}"),
                        cause,
                    )
                })
        };
        if self.via == Via::Threads {
            return threads();
        }
        let mut notices = Vec::new();
        let queue = match Ring::new(self.clone(), regions, &mut notices) {
            Ok(ring) => FileQueue::Ring(Box::new(ring)),
            Err(cause) if self.via == Via::Ring => {
                return Err(DriveError::system(
                    &self.label,
                    format!("setting up io_uring for core {core}"),
                    cause,
                ));
            }
            Err(cause) => {
                let why = match cause.raw_os_error() {
                    Some(libc::ENOMEM) => {
                        "too little memory may be locked: raise `ulimit -l`, or LimitMEMLOCK= of \
                         the service"
                    }
                    _ => "kernel.io_uring_disabled, or the container's seccomp profile",
                };
                notices.push(format!(
                    "no io_uring here ({cause}): threads read and write instead, at a cost of \
                     several microseconds each ({why})"
                ));
                threads()?
            }
        };
        for notice in notices {
            self.notice(format!("{}: {notice}", self.label));
        }
        Ok(queue)
    }

    /// Tells the operator, once.
    fn notice(&self, notice: String) {
        let mut notices = self.notices.lock().unwrap_or_else(PoisonError::into_inner);
        if !notices.contains(&notice) {
            log::warn!("{notice}");
            notices.push(notice);
        }
    }
}

/// Of a drive that is there.
fn check_len(label: &str, bytes: u64, block_len: u32, device: bool) -> Result<(), DriveError> {
    let why = match (bytes, device) {
        (0, true) => "it has no medium",
        (0, false) => {
            "it is empty: `truncate -s` gives it a size, or remove it and give size= to make a new one"
        }
        _ => return check_size(label, bytes, block_len),
    };
    Err(DriveError::refused(label, why))
}

fn check_size(label: &str, bytes: u64, block_len: u32) -> Result<(), DriveError> {
    if bytes > 0 && bytes.is_multiple_of(u64::from(block_len)) {
        return Ok(());
    }
    let hint = if bytes.is_multiple_of(512) {
        "; give block=512"
    } else {
        "; cut the file or let it grow to a multiple of 4096, or of 512 with block=512 (`truncate -s` does both)"
    };
    Err(DriveError::refused(
        label,
        format!("{bytes} bytes are not a number of blocks of {block_len}{hint}"),
    ))
}

/// Makes a file of so many bytes, all zero, whose name survives a power failure.
fn make(path: &Path, size: u64) -> io::Result<()> {
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    let finish = || {
        file.set_len(size)?;
        file.sync_all()?;
        let folder = path.parent().filter(|folder| *folder != Path::new(""));
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    };
    finish().inspect_err(|_| {
        // A file of the wrong size would be in the way of the next try.
        let _ = std::fs::remove_file(path);
    })
}

/// True for a block device.
fn check_kind(label: &str, kind: &Metadata) -> Result<bool, DriveError> {
    let device = place::is_device(kind);
    if !device && !kind.is_file() {
        let why = "it is neither a regular file nor a block device";
        return Err(DriveError::refused(label, why));
    }
    Ok(device)
}

/// Opens it, past the page cache if that can be had.
fn open(
    label: &str,
    path: &Path,
    read_only: bool,
    deadline: Instant,
) -> Result<(File, bool), DriveError> {
    let kind = std::fs::metadata(path).map_err(|cause| {
        let hint = if cause.kind() == io::ErrorKind::NotFound {
            "opening it (give size= to make a file)"
        } else {
            "opening it"
        };
        DriveError::system(label, hint, cause)
    })?;
    let device = check_kind(label, &kind)?;
    // On a block device, O_EXCL without O_CREAT is a claim on it, which a mount or another owner has.
    let claim = if device { libc::O_EXCL } else { 0 };
    let with = |flags: i32| {
        OpenOptions::new()
            .read(true)
            .write(!read_only)
            .custom_flags(flags | claim)
            .open(path)
    };
    loop {
        let cause = match with(libc::O_DIRECT) {
            Ok(file) => return Ok((file, true)),
            Err(cause) => cause,
        };
        match cause.raw_os_error() {
            Some(libc::EINVAL) => {
                return with(0)
                    .map(|file| (file, false))
                    .map_err(|cause| DriveError::system(label, "opening it", cause));
            }
            Some(libc::EBUSY) if device => {
                let user = place::user_of_device(&kind);
                // A mount stays; what has no name may be a killed node's last requests.
                if user.is_some() || Instant::now() >= deadline {
                    let user = user.unwrap_or_else(|| "another process has it open".to_owned());
                    return Err(DriveError::refused(
                        label,
                        format!("the device is in use: {user}"),
                    ));
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            Some(libc::EACCES | libc::EPERM) => {
                let what = "opening it (this user may not: run as root, or give it the rights; in a container, let the device in)";
                return Err(DriveError::system(label, what, cause));
            }
            _ => return Err(DriveError::system(label, "opening it", cause)),
        }
    }
}

/// Takes the lock, waiting a little for one that dies.
fn lock(label: &str, file: &File, read_only: bool, deadline: Instant) -> Result<(), DriveError> {
    loop {
        // Readers share it, and keep writers out.
        let tried = if read_only {
            file.try_lock_shared()
        } else {
            file.try_lock()
        };
        match tried {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(TryLockError::WouldBlock) => {
                let why = match place::lock_holder(file) {
                    Some(pid) if pid == std::process::id() => {
                        "this process has it open already, as another drive".to_owned()
                    }
                    Some(pid) => {
                        format!("process {pid} has it locked; is another node serving it?")
                    }
                    None => "another process has it locked; is another node serving it?".to_owned(),
                };
                return Err(DriveError::refused(label, why));
            }
            Err(TryLockError::Error(cause)) => {
                return Err(DriveError::system(label, "locking it", cause));
            }
        }
    }
}

/// Who uses a block device, or a partition of it, in words; None if nobody does.
pub fn user_of(path: &Path) -> Option<String> {
    let kind = std::fs::metadata(path).ok()?;
    if let Some(user) = place::user_of_device(&kind) {
        return Some(user);
    }
    // Whatever else has claimed it keeps others from doing so.
    let claim = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_EXCL)
        .open(path);
    let busy = claim.is_err_and(|cause| cause.raw_os_error() == Some(libc::EBUSY));
    busy.then(|| "another program has claimed it".to_owned())
}

/// One core's part of a file drive. Poll it empty before dropping it: Bufs of requests that were not
/// polled as done do not come home.
#[derive(Debug)]
pub enum FileQueue {
    /// Through io_uring.
    Ring(Box<Ring>),
    /// Through threads.
    Threads(Threads),
}

impl FileQueue {
    /// True if it uses io_uring.
    pub fn is_ring(&self) -> bool {
        matches!(self, FileQueue::Ring(_))
    }
}

impl AsFd for FileQueue {
    /// Readable when there is something to poll: what a sleeping core waits on.
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            FileQueue::Ring(ring) => ring.as_fd(),
            FileQueue::Threads(threads) => threads.as_fd(),
        }
    }
}

impl Backend for FileQueue {
    fn submit(&mut self, io: Io) -> Result<(), Io> {
        match self {
            FileQueue::Ring(ring) => ring.submit(io),
            FileQueue::Threads(threads) => threads.submit(io),
        }
    }

    fn ring_doorbell(&mut self) {
        match self {
            FileQueue::Ring(ring) => ring.ring_doorbell(),
            FileQueue::Threads(threads) => threads.ring_doorbell(),
        }
    }

    fn poll(&mut self) -> Option<Done> {
        match self {
            FileQueue::Ring(ring) => ring.poll(),
            FileQueue::Threads(threads) => threads.poll(),
        }
    }

    fn in_flight(&self) -> usize {
        match self {
            FileQueue::Ring(ring) => ring.in_flight(),
            FileQueue::Threads(threads) => threads.in_flight(),
        }
    }

    fn has_work(&self) -> bool {
        match self {
            FileQueue::Ring(ring) => ring.has_work(),
            FileQueue::Threads(threads) => threads.has_work(),
        }
    }
}
