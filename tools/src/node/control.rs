//! The control thread: accepts connections and deals them over cores, admits queues, agrees with the
//! cores on changes. What may take long (opening a drive, writing a file) is done by who asks.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use ferroce_engine::control::{Change, ChangeError, ChangeId, Control, HostView};
use ferroce_engine::mail::{Mailbox, Post, ToControl, ToCore};
use ferroce_engine::port::{DriveId, Tick};
use ferroce_engine::table::{Table, Transport};

use crate::node::core::Clock;
use crate::node::door::{AnyListener, Door};
use crate::node::latency::Wakeful;
use crate::sets::{AnyDrive, AnyIncoming};
use crate::wait::Bed;

/// Where an answer goes. The asker may have given up; then nobody hears it.
pub type Reply<T> = SyncSender<T>;

/// What other threads want of the control thread.
#[derive(Debug)]
pub enum Ask {
    /// Make a change; the answer comes when all cores work by it.
    Change(Box<Change<AnyDrive>>, Reply<Result<(), ChangeError>>),
    /// A number for a new drive.
    NextDrive(Reply<DriveId>),
    /// What there is.
    Look(Reply<Look>),
    /// End the associations of a host; how many there were.
    Disconnect(String, Reply<usize>),
    /// Accept hosts here, too.
    Accept(Box<AnyListener>, Reply<()>),
    /// Accept no more hosts there.
    Refuse(Transport, SocketAddr, Reply<()>),
    /// Finish what is outstanding and end.
    Stop,
}

/// What there is.
#[derive(Debug)]
pub struct Look {
    /// What is served.
    pub table: Table,
    /// Who is connected.
    pub hosts: Vec<HostView>,
}

/// Connections accepted before other work gets its turn.
const ACCEPTS: usize = 64;
/// Mail that did not fit a core's box is tried again so soon.
const RETRY: Duration = Duration::from_millis(1);
/// How long what is outstanding may take when the node stops.
const STOP_MS: u64 = 10_000;

/// The control thread with all it needs to run.
#[derive(Debug)]
pub struct Thread {
    control: Control<AnyIncoming, AnyDrive>,
    mail: Mailbox<ToControl>,
    asks: Mailbox<Ask>,
    bed: Bed,
    clock: Clock,
    door: Door,
    wakeful: Wakeful,
    waiting: BTreeMap<ChangeId, Reply<Result<(), ChangeError>>>,
    stop_by: Option<Tick>,
}

impl Thread {
    /// Of a node with these cores.
    pub fn new(
        posts: Vec<Post<ToCore<AnyIncoming, AnyDrive>>>,
        (mail, asks): (Mailbox<ToControl>, Mailbox<Ask>),
        bed: Bed,
        clock: Clock,
        door: Door,
        wakeful: Wakeful,
    ) -> Thread {
        let mut control = Control::new(posts);
        control.bound_queues(door.places());
        Thread {
            control,
            mail,
            asks,
            bed,
            clock,
            door,
            wakeful,
            waiting: BTreeMap::new(),
            stop_by: None,
        }
    }

    /// Runs until it was told to stop and all cores did; false if they did not in time.
    pub fn run(mut self) -> bool {
        loop {
            let now = self.clock.now();
            let mut busy = false;
            while let Some(mail) = self.mail.poll() {
                self.control.on_mail(mail, now);
                busy = true;
            }
            while let Some(ask) = self.asks.poll() {
                self.answer(ask, now);
                busy = true;
            }
            self.control.on_time(now);
            self.wakeful.tell(self.control.is_in_use());
            while let Some(id) = self.control.finished() {
                if let Some(reply) = self.waiting.remove(&id) {
                    let _ = reply.send(Ok(()));
                }
                busy = true;
            }
            for _ in 0..ACCEPTS {
                let Some((core, incoming)) = self.door.poll(&self.bed, now) else {
                    break;
                };
                self.control.adopt(core, incoming.fabric(), incoming);
                busy = true;
            }
            if let Some(deadline) = self.stop_by {
                if self.control.is_stopped() {
                    return true;
                }
                if now >= deadline {
                    return false;
                }
            }
            if !busy {
                let (mail, asks) = (&self.mail, &self.asks);
                self.bed
                    .sleep(self.limit(now), || mail.is_empty() && asks.is_empty());
            }
        }
    }

    fn limit(&self, now: Tick) -> Option<Duration> {
        let due = |tick: Tick| Duration::from_nanos(tick.since(now)).max(RETRY);
        let timeouts = [
            self.control.next_timeout(),
            self.door.next_timeout(),
            self.stop_by,
        ];
        timeouts.into_iter().flatten().map(due).min()
    }

    fn answer(&mut self, ask: Ask, now: Tick) {
        match ask {
            Ask::Change(change, reply) => match self.control.change(*change) {
                Ok(id) => {
                    self.waiting.insert(id, reply);
                }
                Err(why) => {
                    let _ = reply.send(Err(why));
                }
            },
            Ask::NextDrive(reply) => {
                let _ = reply.send(self.control.next_drive());
            }
            Ask::Look(reply) => {
                let _ = reply.send(Look {
                    table: self.control.planned().clone(),
                    hosts: self.control.hosts(),
                });
            }
            Ask::Disconnect(host, reply) => {
                let _ = reply.send(self.control.disconnect(&host));
            }
            Ask::Accept(listener, reply) => {
                self.door.open(*listener, &self.bed);
                let _ = reply.send(());
            }
            Ask::Refuse(transport, address, reply) => {
                self.door.close(transport, address);
                let _ = reply.send(());
            }
            Ask::Stop => {
                self.door.close_all();
                self.control.stop();
                self.stop_by = Some(now.plus_ms(STOP_MS));
            }
        }
    }
}
