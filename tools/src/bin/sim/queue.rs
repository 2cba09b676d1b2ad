//! A host's end of one queue: what it sent and waits for, and the rules every answer must keep.

use ferroce_engine::host::CidTable;
use ferroce_wire::cqe::Cqe;
use ferroce_wire::sqe::Sqe;
use ferroce_wire::status::Status;

use crate::ground::Ground;
use crate::io::Io;
use crate::net::{LinkId, ToTarget};
use crate::plan::PathPlan;
use crate::shared::Chance;
use crate::wrong;

/// What a command is to its host.
#[derive(Clone, Debug)]
pub enum What {
    /// The writes of these dead associations are over if it succeeds.
    Connect {
        settles: Vec<u64>,
    },
    /// Of enabling, resetting or shutting down.
    Property,
    /// The next step of setting up.
    Setup,
    /// Any admin command that may succeed or not.
    Any,
    KeepAlive,
    Event,
    /// The list of active namespaces is read anew.
    Namespaces,
    /// The list of changed namespaces is read, which re-arms the event.
    Changed,
    Disconnect,
    Io(Io),
}

/// A command without an answer.
#[derive(Debug)]
pub struct Cmd {
    pub what: What,
    /// For the model.
    pub start: u64,
    /// When it was sent, in ns.
    pub sent: u64,
    /// Data for the target.
    data: Vec<u8>,
    /// How much of it was asked for.
    asked: u32,
    /// It may be asked for.
    askable: bool,
    /// Data for the host: how much there is to be at most, and what came.
    len: u32,
    got: Vec<u8>,
    /// The head when it was submitted.
    head: u64,
}

/// A command and its answer.
#[derive(Debug)]
pub struct Answered {
    pub cmd: Cmd,
    pub cqe: Cqe,
}

impl Answered {
    pub fn got(&self) -> &[u8] {
        &self.cmd.got
    }
}

#[derive(Debug)]
pub struct Queue {
    pub link: LinkId,
    pub qid: u16,
    pub depth: u16,
    flow_control: bool,
    /// The host keeps an answer until the message that took the command's data is acknowledged, so that an answer which
    /// came later may be seen first.
    may_be_held: bool,
    /// The transport is up.
    pub up: bool,
    /// Connect succeeded.
    pub connected: bool,
    /// The connection is gone.
    pub closed: bool,
    pub cids: CidTable<Cmd>,
    /// Entries submitted, and how many of them the target says it took.
    tail: u64,
    head: u64,
}

impl Queue {
    pub fn new(link: LinkId, qid: u16, depth: u16, plan: &PathPlan) -> Queue {
        Queue {
            link,
            qid,
            depth,
            flow_control: plan.flow_control,
            may_be_held: plan.rdma,
            up: false,
            connected: false,
            closed: false,
            // Of more commands than the queue has entries, should the target's head allow it.
            cids: CidTable::new(2 * depth),
            tail: 0,
            head: 0,
        }
    }

    /// There is an entry for another command.
    pub fn has_room(&self) -> bool {
        self.has_room_of(u64::from(self.depth) - 1)
    }

    /// There is one more: for Keep Alive, when what waits for a drive that is stuck has the others.
    pub fn has_room_to_spare(&self) -> bool {
        self.has_room_of(u64::from(self.depth) - 2)
    }

    fn has_room_of(&self, most: u64) -> bool {
        // With flow control a host goes by the head alone.
        let taken = match self.flow_control {
            true => self.tail - self.head,
            false => self.cids.len() as u64,
        };
        !self.closed && taken < most
    }

    /// Sends a command. `len` is how much data its answer may bring.
    pub fn send(&mut self, ground: &mut Ground, mut sqe: Sqe, what: What, len: u32) -> u16 {
        let start = ground.model.tick();
        let cmd = self.cmd(ground, what, start, len);
        let cid = self.take_cid(cmd);
        sqe.cid = cid.into();
        self.submit(ground, sqe, Vec::new(), false);
        cid
    }

    /// Sends a command with data for the target, in the capsule behind a gap, or to be asked for.
    pub fn send_data(
        &mut self,
        ground: &mut Ground,
        mut sqe: Sqe,
        (what, start, len): (What, u64, u32),
        data: Vec<u8>,
        capsule: Option<u32>,
    ) {
        let mut cmd = self.cmd(ground, what, start, len);
        let mut carried = Vec::new();
        match capsule {
            Some(gap) => {
                carried = vec![0x5A; gap as usize];
                carried.extend_from_slice(&data);
            }
            None => {
                cmd.askable = !data.is_empty();
                cmd.data = data;
            }
        }
        let spoiled = !carried.is_empty()
            && !ground.common.calm.get()
            && ground.rng.once_in(ground.plan.weather.spoil);
        let cid = self.take_cid(cmd);
        sqe.cid = cid.into();
        self.submit(ground, sqe, carried, spoiled);
    }

    fn cmd(&self, ground: &Ground, what: What, start: u64, len: u32) -> Cmd {
        Cmd {
            what,
            start,
            sent: ground.common.now(),
            data: Vec::new(),
            asked: 0,
            askable: false,
            len,
            got: Vec::new(),
            head: self.head,
        }
    }

    fn take_cid(&mut self, cmd: Cmd) -> u16 {
        self.cids.insert(cmd).expect("there is room")
    }

    fn submit(&mut self, ground: &mut Ground, sqe: Sqe, data: Vec<u8>, spoiled: bool) {
        self.tail += 1;
        ground.stats.commands += 1;
        let numbers = [self.link.into(), sqe.opc.into(), sqe.cid.get().into()];
        ground.common.note("send", &numbers);
        let message = ToTarget::Capsule { sqe, data, spoiled };
        ground.net.borrow_mut().send_to_target(self.link, message);
    }

    /// A piece of data; with `success`, it completes its command.
    pub fn on_data(
        &mut self,
        cid: u16,
        offset: u32,
        data: &[u8],
        success: bool,
    ) -> Option<Answered> {
        let Some(cmd) = self.cids.get_mut(cid) else {
            wrong!(
                "data for cid {cid} of queue {}, which waits for none",
                self.qid
            );
        };
        if offset != cmd.got.len() as u32 {
            let has = cmd.got.len();
            wrong!("data at {offset} where {has} was next: {:?}", cmd.what);
        }
        cmd.got.extend_from_slice(data);
        if cmd.got.len() as u32 > cmd.len {
            wrong!("more data than {} bytes: {:?}", cmd.len, cmd.what);
        }
        if !success {
            return None;
        }
        if self.flow_control {
            wrong!("an answer without SQHD on a queue with flow control");
        }
        let cmd = self.cids.remove(cid).expect("it was just there");
        let cqe = Cqe::new(cid, Status::SUCCESS);
        Some(self.answered(cmd, cqe))
    }

    pub fn on_answer(&mut self, cqe: Cqe) -> Answered {
        let cid = cqe.cid.get();
        let Some(cmd) = self.cids.remove(cid) else {
            wrong!(
                "an answer to cid {cid} of queue {}, which waits for none: {cqe:?}",
                self.qid
            );
        };
        if self.flow_control && self.connected {
            self.on_head(cqe.sqhd.get(), &cmd);
        } else if self.flow_control {
            self.head = self.tail;
        }
        self.answered(cmd, cqe)
    }

    /// An answer says how far the head is: it frees an entry for each command that was answered, and none else, since the target
    /// takes no more than the queue has entries.
    fn on_head(&mut self, sqhd: u16, cmd: &Cmd) {
        let depth = u64::from(self.depth);
        let sqhd = u64::from(sqhd);
        if sqhd >= depth {
            wrong!("SQHD {sqhd} of a queue of {depth}");
        }
        let (submitted, under_way) = (self.tail - self.head, self.cids.len() as u64);
        let moved = (sqhd + depth - self.head % depth) % depth;
        if self.may_be_held {
            // Which answer it was, of those since the command was submitted: up to all that are under way may have been before.
            self.head += 1;
            let may_be = self.head + under_way - cmd.head;
            let is = (sqhd + depth - (cmd.head + 1) % depth) % depth;
            if is >= may_be {
                wrong!(
                    "SQHD {sqhd} is none of the {may_be} after {}, in a queue of {depth}",
                    cmd.head
                );
            }
        } else if moved + under_way != submitted {
            wrong!(
                "SQHD {sqhd} moved by {moved}, where of {submitted} submitted {under_way} are under way"
            );
        } else {
            self.head += moved;
        }
    }

    fn answered(&self, cmd: Cmd, cqe: Cqe) -> Answered {
        if cqe.status().is_success() {
            let has = cmd.got.len() as u32;
            if matches!(cmd.what, What::Io(_)) && has != cmd.len {
                wrong!("success with {has} of {} bytes: {:?}", cmd.len, cmd.what);
            }
            if cmd.askable && cmd.asked != cmd.data.len() as u32 {
                let all = cmd.data.len();
                wrong!(
                    "success with {} of {all} bytes fetched: {:?}",
                    cmd.asked,
                    cmd.what
                );
            }
        }
        Answered { cmd, cqe }
    }

    /// The target asks for data: it gets it, in pieces.
    pub fn on_ask(&mut self, ground: &mut Ground, cid: u16, fetch: u32, offset: u32, len: u32) {
        let Some(cmd) = self.cids.get_mut(cid) else {
            wrong!("data of cid {cid} is asked for, which waits for no answer");
        };
        if !cmd.askable || offset != cmd.asked || (offset + len) as usize > cmd.data.len() {
            let asked = cmd.asked;
            wrong!(
                "{len} bytes at {offset} are asked for after {asked}: {:?}",
                cmd.what
            );
        }
        cmd.asked += len;
        let data = &cmd.data[offset as usize..(offset + len) as usize];
        let spoil = ground.plan.weather.spoil;
        let spoiled = !ground.common.calm.get() && ground.rng.once_in(spoil);
        let mut at = 0;
        while at < data.len() {
            let left = data.len() - at;
            let piece = match ground.rng.u32(0..3) {
                0 if left > 1 => ground.rng.usize(1..=left),
                _ => left,
            };
            let mut data = data[at..at + piece].to_vec();
            if spoiled {
                data.iter_mut().for_each(|byte| *byte ^= 0xFF);
            }
            let message = ToTarget::Data {
                fetch,
                data,
                spoiled,
            };
            ground.net.borrow_mut().send_to_target(self.link, message);
            at += piece;
        }
    }
}
