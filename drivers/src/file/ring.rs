//! A file through io_uring, and the system calls on files that the standard library lacks.
//!
//! This is one of the rooms where `unsafe` lives: the kernel is given addresses. What it was given
//! stays valid because a [`Request`] owns its Bufs until its completion was seen; if the ring is
//! dropped earlier it waits, and what the kernel will not let go of is leaked.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::time::Instant;

use ferroce_buf::{Buf, PAGE, Region, Want};
use ferroce_engine::port::{Done, Io};
use io_uring::{IoUring, Probe, opcode, squeue, types};

use super::request::{Call, Request, SCRATCH_LEN};
use super::{DEPTH, DROP_WAIT, FileDrive, MAX_BUFS};

/// The kernel takes registered buffers of at most 1 GiB.
const FIXED_MAX: usize = 1 << 30;
/// The file, by its place among the registered ones.
const FILE: types::Fixed = types::Fixed(0);

/// One core's ring onto a file.
pub struct Ring {
    ring: IoUring,
    drive: Arc<FileDrive>,
    slots: Box<[Option<Request>]>,
    free: Vec<u32>,
    /// `MAX_BUFS` for each slot.
    iovecs: Box<[libc::iovec]>,
    /// Memory the kernel has pinned, in the order of its index.
    fixed: Vec<Fixed>,
    /// Kept mapped while they are registered.
    regions: Vec<Arc<Region>>,
    /// Zeros, then bytes nobody looks at; `SCRATCH_LEN` each.
    scratch: Option<Region>,
    ready: VecDeque<Done>,
}

/// A piece of a region as it is registered.
#[derive(Clone, Copy, Debug)]
struct Fixed {
    base: usize,
    len: usize,
}

// SAFETY: the raw pointers in `iovecs` point into Bufs that the slots own, or into the regions, and
// are only ever handed to the kernel. Everything else is Send.
unsafe impl Send for Ring {}

impl Ring {
    pub(super) fn new(
        drive: Arc<FileDrive>,
        regions: &[Arc<Region>],
        notices: &mut Vec<String>,
    ) -> io::Result<Ring> {
        let ring = build()?;
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        let needed = [
            opcode::Read::CODE,
            opcode::Write::CODE,
            opcode::Readv::CODE,
            opcode::Writev::CODE,
            opcode::ReadFixed::CODE,
            opcode::WriteFixed::CODE,
            opcode::Fsync::CODE,
            opcode::Fallocate::CODE,
        ];
        if !needed.iter().all(|code| probe.is_supported(*code)) {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "the kernel's io_uring lacks operations, it is older than 5.6",
            ));
        }
        ring.submitter().register_files(&[drive.file.as_raw_fd()])?;
        let scratch = Region::map(2 * SCRATCH_LEN, Want::default())?;
        let mut fixed: Vec<Fixed> = regions
            .iter()
            .flat_map(|region| {
                let (base, len) = (region.base().addr(), region.len());
                (0..len).step_by(FIXED_MAX).map(move |offset| Fixed {
                    base: base + offset,
                    len: FIXED_MAX.min(len - offset),
                })
            })
            .collect();
        let iovecs: Vec<libc::iovec> = fixed
            .iter()
            .map(|piece| libc::iovec {
                iov_base: piece.base as *mut libc::c_void,
                iov_len: piece.len,
            })
            .collect();
        // SAFETY: the addresses are those of mapped regions that `regions` below keeps mapped.
        let registered = unsafe { ring.submitter().register_buffers(&iovecs) };
        if !iovecs.is_empty()
            && let Err(cause) = registered
        {
            fixed.clear();
            notices.push(format!(
                "the kernel does not register {} MiB of buffers ({cause}): each request pins its own \
                 (raise the locked-memory limit: ulimit -l, or LimitMEMLOCK= of the service)",
                iovecs.iter().map(|iovec| iovec.iov_len).sum::<usize>() >> 20
            ));
        }
        let nowhere = libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        };
        Ok(Ring {
            ring,
            drive,
            slots: (0..DEPTH).map(|_| None).collect(),
            free: (0..DEPTH as u32).rev().collect(),
            iovecs: vec![nowhere; DEPTH * MAX_BUFS].into_boxed_slice(),
            fixed,
            regions: regions.to_vec(),
            scratch: Some(scratch),
            ready: VecDeque::with_capacity(DEPTH),
        })
    }

    pub(super) fn submit(&mut self, io: Io) -> Result<(), Io> {
        if self.in_flight() >= DEPTH {
            return Err(io);
        }
        match Request::begin(&self.drive, io) {
            Ok(request) => {
                let slot = self.free.pop().expect("counted by in_flight");
                self.slots[slot as usize] = Some(request);
                self.push(slot);
            }
            Err(done) => self.ready.push_back(done),
        }
        Ok(())
    }

    pub(super) fn ring_doorbell(&mut self) {
        while !self.ring.submission().is_empty() {
            match self.ring.submit() {
                Ok(0) => return,
                Ok(_) => {}
                Err(cause) if cause.raw_os_error() == Some(libc::EINTR) => {}
                // The kernel is short of memory, or wants completions read first: next turn again.
                Err(_) => return,
            }
        }
    }

    pub(super) fn poll(&mut self) -> Option<Done> {
        if let Some(done) = self.ready.pop_front() {
            return Some(done);
        }
        if let Some(done) = self.reap() {
            return Some(done);
        }
        // Completions that the kernel left for this thread to finish are finished in its next system
        // call. A core that makes none for a while would wait for ever.
        if self.ring.submission().taskrun() {
            let _ = self.enter_for_completions();
            return self.reap();
        }
        None
    }

    pub(super) fn in_flight(&self) -> usize {
        DEPTH - self.free.len() + self.ready.len()
    }

    pub(super) fn has_work(&self) -> bool {
        if !self.ready.is_empty() {
            return true;
        }
        if self.free.len() == DEPTH {
            return false;
        }
        // SAFETY: `&self` cannot be had while a `&mut` one is used, a Ring is not Sync, and nothing
        // else makes views of its queues; so these are the only ones, and they are not changed.
        let (submission, completion) =
            unsafe { (self.ring.submission_shared(), self.ring.completion_shared()) };
        !completion.is_empty() || !submission.is_empty() || submission.taskrun()
    }

    /// Completions until one ends its request, or there are none.
    fn reap(&mut self) -> Option<Done> {
        loop {
            let cqe = self.ring.completion().next()?;
            let slot = cqe.user_data() as u32;
            let at = &mut self.slots[slot as usize];
            let request = at.as_mut().expect("the kernel completes what it was given");
            let result = u32::try_from(cqe.result()).map_err(|_| -cqe.result());
            match request.on_result(&self.drive, result) {
                None => self.push(slot),
                Some(status) => {
                    let request = at.take().expect("looked at above");
                    self.free.push(slot);
                    return Some(request.end(status));
                }
            }
        }
    }

    /// Puts the next call of a request into the submission queue.
    fn push(&mut self, slot: u32) {
        let entry = self.entry(slot).user_data(u64::from(slot));
        // SAFETY: what the entry points to is owned by the slot, or by the ring itself, until the
        // completion was seen (`Drop` waits for that or leaks).
        let pushed = unsafe { self.ring.submission().push(&entry) };
        pushed.expect("there are as many entries as slots, and a slot has one call at a time");
    }

    fn entry(&mut self, slot: u32) -> squeue::Entry {
        let request = self.slots[slot as usize].as_mut().expect("a slot in use");
        let scratch = self.scratch.as_ref().expect("present until drop").base();
        let iovecs = &mut self.iovecs[slot as usize * MAX_BUFS..][..MAX_BUFS];
        match request.call() {
            Call::Read { at, skip } => {
                let bufs = request.io.bufs.iter_mut();
                let count = fill(
                    iovecs,
                    skip,
                    bufs.map(|buf| {
                        let bytes = buf.bytes_mut();
                        (bytes.as_mut_ptr(), bytes.len())
                    }),
                );
                match (&iovecs[..count], fixed_of(&self.fixed, &iovecs[0])) {
                    ([one], Some(index)) => {
                        opcode::ReadFixed::new(FILE, one.iov_base.cast(), one.iov_len as u32, index)
                            .offset(at)
                            .build()
                    }
                    ([one], None) => {
                        opcode::Read::new(FILE, one.iov_base.cast(), one.iov_len as u32)
                            .offset(at)
                            .build()
                    }
                    (many, _) => opcode::Readv::new(FILE, many.as_ptr(), many.len() as u32)
                        .offset(at)
                        .build(),
                }
            }
            Call::Write { at, skip, sync } => {
                let flags = if sync { libc::RWF_DSYNC } else { 0 };
                let bufs = request.io.bufs.iter();
                let count = fill(
                    iovecs,
                    skip,
                    bufs.map(|buf: &Buf| (buf.as_ptr().cast_mut(), buf.len())),
                );
                match (&iovecs[..count], fixed_of(&self.fixed, &iovecs[0])) {
                    ([one], Some(index)) => opcode::WriteFixed::new(
                        FILE,
                        one.iov_base.cast(),
                        one.iov_len as u32,
                        index,
                    )
                    .offset(at)
                    .rw_flags(flags)
                    .build(),
                    ([one], None) => {
                        opcode::Write::new(FILE, one.iov_base.cast(), one.iov_len as u32)
                            .offset(at)
                            .rw_flags(flags)
                            .build()
                    }
                    (many, _) => opcode::Writev::new(FILE, many.as_ptr(), many.len() as u32)
                        .offset(at)
                        .rw_flags(flags)
                        .build(),
                }
            }
            Call::ReadAway { at, len } => {
                // Several may read to the same place at once: nobody looks.
                opcode::Read::new(FILE, scratch.wrapping_add(SCRATCH_LEN), len as u32)
                    .offset(at)
                    .build()
            }
            Call::WriteZeros { at, len, sync } => {
                opcode::Write::new(FILE, scratch.cast_const(), len as u32)
                    .offset(at)
                    .rw_flags(if sync { libc::RWF_DSYNC } else { 0 })
                    .build()
            }
            Call::Sync => opcode::Fsync::new(FILE)
                .flags(types::FsyncFlags::DATASYNC)
                .build(),
            Call::Allocate { mode, at, len } => opcode::Fallocate::new(FILE, len)
                .offset(at)
                .mode(mode)
                .build(),
        }
    }

    fn enter_for_completions(&self) -> io::Result<usize> {
        const GETEVENTS: u32 = 1;
        // SAFETY: nothing is submitted, and there is no argument.
        unsafe {
            self.ring
                .submitter()
                .enter::<libc::sigset_t>(0, 0, GETEVENTS, None)
        }
    }
}

/// A ring with as little interruption of its core as the kernel offers.
fn build() -> io::Result<IoUring> {
    let cooperative = IoUring::builder()
        .dontfork()
        .setup_cqsize(2 * DEPTH as u32)
        .setup_coop_taskrun()
        .setup_taskrun_flag()
        .build(DEPTH as u32);
    match cooperative {
        // Kernels before 5.19 do not know these flags.
        Err(cause) if cause.raw_os_error() == Some(libc::EINVAL) => IoUring::builder()
            .dontfork()
            .setup_cqsize(2 * DEPTH as u32)
            .build(DEPTH as u32),
        result => result,
    }
}

/// The pieces from byte `skip` on. Their number.
fn fill(
    iovecs: &mut [libc::iovec],
    mut skip: usize,
    pieces: impl Iterator<Item = (*mut u8, usize)>,
) -> usize {
    let mut count = 0;
    for (base, len) in pieces {
        if skip >= len {
            skip -= len;
            continue;
        }
        iovecs[count] = libc::iovec {
            iov_base: base.wrapping_add(skip).cast(),
            iov_len: len - skip,
        };
        skip = 0;
        count += 1;
    }
    count
}

/// The registered buffer that a piece lies in.
fn fixed_of(fixed: &[Fixed], piece: &libc::iovec) -> Option<u16> {
    let start = piece.iov_base.addr();
    let index = fixed
        .iter()
        .position(|fixed| start >= fixed.base && start + piece.iov_len <= fixed.base + fixed.len)?;
    u16::try_from(index).ok()
}

impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as the ring.
        unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) }
    }
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring")
            .field("drive", &self.drive.label)
            .field("in_flight", &self.in_flight())
            .field("fixed", &self.fixed.len())
            .finish_non_exhaustive()
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // What was not submitted is not: nobody waits for it any more.
        let mut kernel_has = DEPTH - self.free.len() - self.ring.submission().len();
        let deadline = Instant::now() + DROP_WAIT;
        while kernel_has > 0 && Instant::now() < deadline {
            if self.ring.completion().next().is_some() {
                kernel_has -= 1;
                continue;
            }
            let _ = self.enter_for_completions();
            std::thread::sleep(std::time::Duration::from_micros(200));
        }
        if kernel_has > 0 {
            log::warn!(
                "{}: the kernel still has {kernel_has} requests; their memory is given up",
                self.drive.label
            );
            std::mem::forget(std::mem::take(&mut self.regions));
            std::mem::forget(std::mem::take(&mut self.iovecs));
            std::mem::forget(self.scratch.take());
            return;
        }
        // The kernel takes a ring apart later; the lock and the pinned memory are wanted now.
        let _ = self.ring.submitter().unregister_files();
        let _ = self.ring.submitter().unregister_buffers();
    }
}

/// System calls on files that the standard library lacks.
pub(super) mod sys {
    use std::fs::File;
    use std::io;
    use std::mem::MaybeUninit;
    use std::os::fd::AsRawFd;

    /// What a file system says of itself.
    #[derive(Clone, Copy, Debug)]
    pub struct FileSystem {
        /// Its magic number.
        pub kind: i64,
        /// Its identifier, stable over mounts where the file system has one of its own.
        pub id: u64,
        /// The length it writes best.
        pub block_len: u32,
    }

    /// The file system that a file is in.
    pub fn file_system(file: &File) -> io::Result<FileSystem> {
        let mut out = MaybeUninit::<libc::statfs>::zeroed();
        // SAFETY: the descriptor is open, and `out` has room for the answer.
        if unsafe { libc::fstatfs(file.as_raw_fd(), out.as_mut_ptr()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call filled it in; it was zeroed before, which is valid too.
        let out = unsafe { out.assume_init() };
        // SAFETY: the kernel's fsid is two 32-bit numbers; the type hides them.
        let id: [u32; 2] = unsafe { std::mem::transmute(out.f_fsid) };
        #[allow(
            clippy::unnecessary_cast,
            reason = "the types differ between C libraries"
        )]
        Ok(FileSystem {
            kind: out.f_type as i64,
            id: u64::from(id[0]) | u64::from(id[1]) << 32,
            block_len: out.f_bsize as u32,
        })
    }

    /// What offsets and lengths O_DIRECT asks for; `None` if the kernel (before 6.1) does not say.
    pub fn direct_align(file: &File) -> Option<u32> {
        let mut out = MaybeUninit::<libc::statx>::zeroed();
        // SAFETY: the descriptor is open, the path is empty and NUL-terminated, and `out` has room.
        let result = unsafe {
            libc::statx(
                file.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_EMPTY_PATH,
                libc::STATX_DIOALIGN,
                out.as_mut_ptr(),
            )
        };
        // SAFETY: the call filled it in; it was zeroed before, which is valid too.
        let out = unsafe { out.assume_init() };
        (result == 0 && out.stx_mask & libc::STATX_DIOALIGN != 0 && out.stx_dio_offset_align > 0)
            .then_some(out.stx_dio_offset_align)
    }

    /// Gives space back.
    pub fn punch_hole(file: &File, at: u64, len: u64) -> Result<(), i32> {
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        allocate(file, mode, at, len)
    }

    /// fallocate.
    pub fn allocate(file: &File, mode: i32, at: u64, len: u64) -> Result<(), i32> {
        // SAFETY: a plain system call on an open descriptor.
        let result = unsafe {
            libc::fallocate(
                file.as_raw_fd(),
                mode,
                at as libc::off_t,
                len as libc::off_t,
            )
        };
        if result == 0 {
            return Ok(());
        }
        Err(io::Error::last_os_error()
            .raw_os_error()
            .unwrap_or(libc::EIO))
    }
}

const _: () = assert!(SCRATCH_LEN.is_multiple_of(PAGE));

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use ferroce_buf::{BufList, Class, Home, Pool, Region, Want};
    use ferroce_engine::port::{Backend, Io, Op, Tag};
    use ferroce_wire::status::Status;

    use super::*;
    use crate::{FileConfig, Via};

    const TAG: Tag = Tag {
        slot: 0,
        generation: 0,
    };

    fn drive(folder: &tempfile::TempDir, via: Via) -> Arc<FileDrive> {
        FileDrive::open_path(FileConfig {
            size: Some(1 << 20),
            via,
            ..FileConfig::new(folder.path().join("disk"))
        })
        .unwrap()
    }

    fn pool() -> Pool {
        let classes = [Class {
            size: 4096,
            count: 64,
        }];
        let region = Region::map(Pool::bytes(&classes), Want::default()).unwrap();
        Pool::new(Arc::new(region), 0, Home::CORE, &classes)
    }

    fn read(lba: u64, pool: &mut Pool) -> Io {
        let mut bufs = BufList::new();
        bufs.push(pool.take(4096).unwrap());
        Io {
            tag: TAG,
            op: Op::Read { lba, blocks: 1 },
            bufs,
        }
    }

    /// Sleeps until the queue is readable; false if it was not within ten seconds.
    fn sleep_on(queue: &impl AsFd) -> bool {
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            let mut fd = libc::pollfd {
                fd: queue.as_fd().as_raw_fd(),
                events: libc::POLLIN,
                revents: 0,
            };
            // SAFETY: one entry, which is ours.
            if unsafe { libc::poll(&raw mut fd, 1, 1000) } > 0 {
                return true;
            }
        }
        false
    }

    #[test]
    fn a_sleeping_core_is_woken() {
        for via in [Via::Ring, Via::Threads] {
            let folder = tempfile::tempdir().unwrap();
            let drive = drive(&folder, via);
            let mut pool = pool();
            let mut queue = drive.open(0, std::slice::from_ref(pool.region())).unwrap();
            // As in the node, the core is not the thread that opened the queue.
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    for round in 0..200 {
                        queue.submit(read(round % 256, &mut pool)).unwrap();
                        queue.ring_doorbell();
                        let done = loop {
                            assert!(sleep_on(&queue), "the core sleeps for ever");
                            if let Some(done) = queue.poll() {
                                break done;
                            }
                        };
                        assert_eq!(done.status, Status::SUCCESS);
                        let mut bufs = done.bufs;
                        pool.put(bufs.pop().unwrap());
                    }
                });
            });
            assert_eq!(pool.out(), 0);
        }
    }

    #[test]
    fn a_core_that_only_polls_sees_completions() {
        let folder = tempfile::tempdir().unwrap();
        let drive = drive(&folder, Via::Ring);
        let mut pool = pool();
        let mut queue = drive.open(0, &[]).unwrap();
        for round in 0..200 {
            queue.submit(read(round, &mut pool)).unwrap();
            queue.ring_doorbell();
            let since = Instant::now();
            let done = loop {
                if let Some(done) = queue.poll() {
                    break done;
                }
                assert!(since.elapsed() < Duration::from_secs(10));
                std::hint::spin_loop();
            };
            let mut bufs = done.bufs;
            pool.put(bufs.pop().unwrap());
        }
    }

    #[test]
    fn a_dropped_queue_waits_for_the_kernel() {
        for via in [Via::Ring, Via::Threads] {
            for doorbell in [true, false] {
                let folder = tempfile::tempdir().unwrap();
                let drive = drive(&folder, via);
                let mut pool = pool();
                let mut queue = drive.open(0, std::slice::from_ref(pool.region())).unwrap();
                for lba in 0..64 {
                    queue.submit(read(lba, &mut pool)).unwrap();
                }
                if doorbell {
                    queue.ring_doorbell();
                }
                drop(queue);
                drop(drive);
                assert_eq!(
                    pool.out(),
                    64,
                    "the Bufs are lost, and their memory stays mapped"
                );
                FileDrive::open_path(FileConfig::new(folder.path().join("disk"))).unwrap();
            }
        }
    }

    #[test]
    fn threads_serve_where_io_uring_is_forbidden() {
        // A filter of system calls is for one thread: load the number; is it io_uring_setup? EPERM.
        let filter = |code: u32, jump_true, jump_false, k| libc::sock_filter {
            code: code as u16,
            jt: jump_true,
            jf: jump_false,
            k,
        };
        let mut program = [
            filter(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
            filter(
                libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
                0,
                1,
                libc::SYS_io_uring_setup as u32,
            ),
            filter(
                libc::BPF_RET | libc::BPF_K,
                0,
                0,
                libc::SECCOMP_RET_ERRNO | libc::EPERM as u32,
            ),
            filter(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
        ];
        let core = move || {
            let program = libc::sock_fprog {
                len: program.len() as u16,
                filter: program.as_mut_ptr(),
            };
            // SAFETY: the filter is a valid program of four instructions, copied by the call.
            unsafe {
                assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
                let mode = libc::SECCOMP_MODE_FILTER;
                let set = libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program);
                assert_eq!(set, 0);
            }
            let folder = tempfile::tempdir().unwrap();
            let drive = drive(&folder, Via::Best);
            let queue = drive.open(0, &[]).unwrap();
            assert!(!queue.is_ring());
            let notices = drive.notices();
            assert!(
                notices
                    .iter()
                    .any(|notice| notice.contains("no io_uring here"))
            );
        };
        std::thread::spawn(core).join().unwrap();
    }
}
