//! Mail between cores and the control thread: bounded queues, and a bell for who sleeps.

use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Waker;

use crossbeam_queue::ArrayQueue;
use ferroce_wire::fabrics::Nqn;
use ferroce_wire::status::Status;

use crate::controller::Association;
use crate::port::DriveId;
use crate::queue::QueueRef;
use crate::table::{Table, Transport};

/// The sending end of a mailbox. Clone it for each sender.
#[derive(Debug)]
pub struct Post<M> {
    queue: Arc<ArrayQueue<M>>,
    bell: Waker,
}

impl<M> Clone for Post<M> {
    fn clone(&self) -> Self {
        Post {
            queue: self.queue.clone(),
            bell: self.bell.clone(),
        }
    }
}

impl<M> Post<M> {
    /// Puts a message in and rings the bell.
    ///
    /// # Errors
    /// Gives the message back if the box is full.
    pub fn send(&self, message: M) -> Result<(), M> {
        self.queue.push(message)?;
        self.bell.wake_by_ref();
        Ok(())
    }

    /// Messages that wait.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// True if none waits.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

/// The receiving end of a mailbox.
#[derive(Debug)]
pub struct Mailbox<M> {
    queue: Arc<ArrayQueue<M>>,
}

impl<M> Mailbox<M> {
    /// The oldest message.
    pub fn poll(&self) -> Option<M> {
        self.queue.pop()
    }

    /// True if none waits. Who is about to sleep looks here after arming its bell.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

/// A mailbox for `capacity` messages. `bell` is rung at every message; it wakes the receiver if that
/// sleeps, and costs next to nothing if it does not.
pub fn mailbox<M>(capacity: usize, bell: Waker) -> (Post<M>, Mailbox<M>) {
    let queue = Arc::new(ArrayQueue::new(capacity));
    (
        Post {
            queue: queue.clone(),
            bell,
        },
        Mailbox { queue },
    )
}

/// From a core to the control thread.
#[derive(Debug)]
pub enum ToControl {
    /// A host asks to connect a queue.
    Connect {
        /// Where.
        core: usize,
        /// Its name there.
        queue: QueueRef,
        /// What it asked for.
        request: Box<ConnectRequest>,
    },
    /// An I/O queue heard that it is admitted: its connection was still there.
    QueueBegan {
        /// Its controller.
        cntlid: u16,
        /// Which of its queues.
        qid: u16,
    },
    /// An admitted I/O queue takes no more commands; those it has may be at a drive.
    QueueEnding {
        /// Its controller.
        cntlid: u16,
        /// Which of its queues.
        qid: u16,
    },
    /// An admitted queue is gone, and nothing of it is at any drive.
    QueueEnded {
        /// Its controller.
        cntlid: u16,
        /// Which of its queues.
        qid: u16,
    },
    /// A controller must go: its admin queue ended, or its Keep Alive Timer expired.
    ControllerEnding {
        /// Which.
        cntlid: u16,
    },
    /// The host reset its controller, or shut it down: its I/O queues must go, the admin queue stays.
    Resetting {
        /// Which.
        cntlid: u16,
    },
    /// Commands that come to this core are served by this table.
    HasTable {
        /// Which core.
        core: usize,
        /// Which table.
        version: u64,
    },
    /// No command that began under an earlier table is left on this core.
    Drained {
        /// Which core.
        core: usize,
        /// The table it works with now.
        epoch: u64,
    },
    /// All queues of this core are closed and drained; said once after [`ToCore::Stop`].
    Stopped {
        /// Which core.
        core: usize,
    },
}

/// From the control thread to a core. `I` is what its fabric adopts, `D` one of its drives.
#[derive(Debug)]
pub enum ToCore<I, D> {
    /// A new connection.
    Adopt {
        /// Index of the fabric on the core.
        fabric: usize,
        /// The connection.
        incoming: I,
    },
    /// The answer to [`ToControl::Connect`].
    Admit {
        /// The queue.
        queue: QueueRef,
        /// Its association, or status and dword 0 of the refusal.
        admission: Result<Admission, Refused>,
    },
    /// Queues of a controller are to be closed.
    EndController {
        /// Which.
        cntlid: u16,
        /// Only I/O queues: the controller is being reset.
        keep_admin: bool,
    },
    /// To the owner of a controller in reset: all its I/O queues are gone.
    ResetDone {
        /// Which.
        cntlid: u16,
    },
    /// The table from now on.
    Table(Arc<Table>),
    /// Every core has that table: hosts may be told what is new in it.
    Tell {
        /// Which table.
        version: u64,
    },
    /// A drive for tables to come.
    AddDrive(DriveId, D),
    /// No table names this drive any more, and none of its commands is left.
    RemoveDrive(DriveId),
    /// Finish what is outstanding, take nothing new, close.
    Stop,
}

/// What a Connect command and its data say, checked in form.
#[derive(Clone, Debug)]
pub struct ConnectRequest {
    /// The transport it came by.
    pub transport: Transport,
    /// The address it came to.
    pub local: SocketAddr,
    /// The address it came from.
    pub peer: SocketAddr,
    /// Queue identifier; 0 asks for a new controller.
    pub qid: u16,
    /// Entries (SQSIZE + 1), at least 2.
    pub depth: u32,
    /// Controller identifier, FFFFh for a new one.
    pub cntlid: u16,
    /// Host identifier.
    pub hostid: [u8; 16],
    /// Subsystem wanted.
    pub subnqn: Nqn,
    /// Who wants it.
    pub hostnqn: Nqn,
}

/// A queue may be used.
#[derive(Clone, Debug)]
pub struct Admission {
    /// The controller it belongs to.
    pub who: Arc<Association>,
    /// Which of its queues.
    pub qid: u16,
}

/// A queue may not be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refused {
    /// Status of the Connect command.
    pub status: Status,
    /// Dword 0 of its completion.
    pub dw0: u32,
}
