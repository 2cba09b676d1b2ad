//! A file through a few threads and plain system calls, where io_uring is forbidden.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_queue::ArrayQueue;
use ferroce_buf::{Buf, Class, Home, Pool, Region, Want};
use ferroce_engine::port::{Done, Io};

use super::request::{Call, Request, SCRATCH_LEN};
use super::ring::sys;
use super::{DEPTH, DROP_WAIT, FileDrive};

/// Threads of one queue.
const THREADS: usize = 4;

/// One core's threads onto a file.
#[derive(Debug)]
pub struct Threads {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Says to a sleeping core that there is something to poll.
    signal: PipeReader,
    in_flight: usize,
    unsubmitted: bool,
}

#[derive(Debug)]
struct Shared {
    drive: Arc<FileDrive>,
    jobs: ArrayQueue<Request>,
    done: ArrayQueue<Done>,
    /// True when the workers are to end.
    stop: Mutex<bool>,
    wake: Condvar,
    /// True while a byte is in the pipe; so there is never more than one.
    signalled: AtomicBool,
    signal: PipeWriter,
}

impl Threads {
    pub(super) fn start(drive: Arc<FileDrive>, core: usize) -> io::Result<Threads> {
        let (signal, writer) = io::pipe()?;
        let shared = Arc::new(Shared {
            drive,
            jobs: ArrayQueue::new(DEPTH),
            done: ArrayQueue::new(DEPTH),
            stop: Mutex::new(false),
            wake: Condvar::new(),
            signalled: AtomicBool::new(false),
            signal: writer,
        });
        let mut threads = Threads {
            shared: shared.clone(),
            workers: Vec::new(),
            signal,
            in_flight: 0,
            unsubmitted: false,
        };
        for number in 0..THREADS {
            let shared = shared.clone();
            let mut worker = Worker::new(shared)?;
            let name = format!("file-{core}.{number}");
            let handle = std::thread::Builder::new()
                .name(name)
                .spawn(move || worker.run())?;
            threads.workers.push(handle);
        }
        Ok(threads)
    }

    pub(super) fn submit(&mut self, io: Io) -> Result<(), Io> {
        if self.in_flight >= DEPTH {
            return Err(io);
        }
        self.in_flight += 1;
        match Request::begin(&self.shared.drive, io) {
            Ok(request) => {
                let pushed = self.shared.jobs.push(request);
                pushed.expect("counted by in_flight");
                self.unsubmitted = true;
            }
            Err(done) => self.shared.done.push(done).expect("counted by in_flight"),
        }
        Ok(())
    }

    pub(super) fn ring_doorbell(&mut self) {
        if std::mem::take(&mut self.unsubmitted) {
            // With the lock, so that no worker is between its last look and its sleep.
            let held = self.shared.stop.lock();
            drop(held.unwrap_or_else(PoisonError::into_inner));
            self.shared.wake.notify_all();
        }
    }

    pub(super) fn poll(&mut self) -> Option<Done> {
        if self.shared.signalled.load(Ordering::Acquire) {
            // First the pipe, then the flag, then the queue: what is done later signals anew.
            let mut byte = [0];
            let _ = self.signal.read(&mut byte);
            self.shared.signalled.swap(false, Ordering::AcqRel);
        }
        let done = self.shared.done.pop()?;
        self.in_flight -= 1;
        Some(done)
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    pub(super) fn has_work(&self) -> bool {
        self.unsubmitted || !self.shared.done.is_empty()
    }
}

impl AsFd for Threads {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.signal.as_fd()
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        *self
            .shared
            .stop
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = true;
        self.shared.wake.notify_all();
        // A thread that hangs in a call owns what the call uses, so it may be left behind.
        let deadline = Instant::now() + DROP_WAIT;
        while self.workers.iter().any(|worker| !worker.is_finished()) {
            if Instant::now() > deadline {
                log::warn!(
                    "{}: threads hang in system calls and are left behind",
                    self.shared.drive.label
                );
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

struct Worker {
    shared: Arc<Shared>,
    pool: Pool,
    zeros: Option<Buf>,
    away: Option<Buf>,
}

impl Worker {
    fn new(shared: Arc<Shared>) -> io::Result<Worker> {
        let classes = [Class {
            size: SCRATCH_LEN,
            count: 2,
        }];
        let region = Arc::new(Region::map(Pool::bytes(&classes), Want::default())?);
        let mut pool = Pool::new(region, 0, Home::CORE, &classes);
        Ok(Worker {
            zeros: pool.take(SCRATCH_LEN),
            away: pool.take(SCRATCH_LEN),
            pool,
            shared,
        })
    }

    fn run(&mut self) {
        while let Some(mut request) = self.next() {
            let status = loop {
                let result = self.execute(&mut request);
                if let Some(status) = request.on_result(&self.shared.drive, result) {
                    break status;
                }
            };
            let pushed = self.shared.done.push(request.end(status));
            pushed.expect("there is room for all that are in flight");
            if !self.shared.signalled.swap(true, Ordering::AcqRel) {
                let _ = (&self.shared.signal).write(&[1]);
            }
        }
    }

    /// The next request; `None` when it is over.
    fn next(&self) -> Option<Request> {
        let shared = &self.shared;
        let mut stop = shared.stop.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if *stop {
                return None;
            }
            if let Some(request) = shared.jobs.pop() {
                return Some(request);
            }
            stop = shared
                .wake
                .wait(stop)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Makes the call a request is at.
    fn execute(&mut self, request: &mut Request) -> Result<u32, i32> {
        let file = &self.shared.drive.file;
        match request.call() {
            Call::Read { at, skip } => {
                let (buf, skip) = piece(request.io.bufs.iter_mut(), skip, |buf| buf.len());
                counted(file.read_at(&mut buf.bytes_mut()[skip..], at))
            }
            Call::Write { at, skip, sync } => {
                let (buf, skip) = piece(request.io.bufs.iter(), skip, |buf| buf.len());
                write(file, &buf.bytes()[skip..], at, sync)
            }
            Call::ReadAway { at, len } => {
                let away = self.away.as_mut().expect("present until drop");
                counted(file.read_at(&mut away.bytes_mut()[..len], at))
            }
            Call::WriteZeros { at, len, sync } => {
                let zeros = self.zeros.as_ref().expect("present until drop");
                write(file, &zeros.bytes()[..len], at, sync)
            }
            Call::Sync => counted(file.sync_data().map(|()| 0)),
            Call::Allocate { mode, at, len } => sys::allocate(file, mode, at, len).map(|()| 0),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        for buf in [self.zeros.take(), self.away.take()].into_iter().flatten() {
            self.pool.put(buf);
        }
    }
}

/// The Buf that byte `skip` of all is in, and where in it.
fn piece<B>(
    bufs: impl Iterator<Item = B>,
    mut skip: usize,
    len: impl Fn(&B) -> usize,
) -> (B, usize) {
    for buf in bufs {
        if skip < len(&buf) {
            return (buf, skip);
        }
        skip -= len(&buf);
    }
    unreachable!("there are bytes left to move");
}

fn write(file: &File, bytes: &[u8], at: u64, sync: bool) -> Result<u32, i32> {
    let count = counted(file.write_at(bytes, at))?;
    if sync {
        counted(file.sync_data().map(|()| 0))?;
    }
    Ok(count)
}

fn counted(result: io::Result<usize>) -> Result<u32, i32> {
    match result {
        Ok(count) => Ok(count as u32),
        Err(cause) => Err(cause.raw_os_error().unwrap_or(libc::EIO)),
    }
}
