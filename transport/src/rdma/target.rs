//! The target's end of one NVMe/RDMA connection, as a value: work completions in, work requests out.
//!
//! It touches no queue pair and no clock. The shell (`fabric.rs`) tells it what completed, and posts
//! what it hands out: at once ([`Target::reply`], [`Target::fetch`]), or later, when there is room on
//! the queue pair again ([`Target::next_answer`], [`Target::next_read`]).
//!
//! Left out on purpose: what a command means, and whether its SGL is right: the engine looks at that
//! before it asks for data or gives any.

use std::collections::VecDeque;

use ferroce_buf::BufList;
use ferroce_engine::limits;
use ferroce_engine::port::{Fetch, Reply, Tag};
use ferroce_wire::Wire;
use ferroce_wire::rdma::{RdmaCmAccept, RdmaCmReject, RdmaCmRequest, RdmaCmStatus};
use ferroce_wire::sqe::Sgl;

use crate::rdma::provider::{Answer, Demand, HEAD_LEN, Limits, Read, Remote, Request};

/// READs of one connection that are out at a time, if the host serves as many.
pub const READS_MAX: u32 = 16;
/// Answers that wait for room on the queue pair before the engine is asked to hold back.
pub const ANSWERS_WAITING_MAX: usize = 16;
/// Parts that wait to be fetched, for which there is room from the start. Hosts that write more at a
/// time cost an allocation once.
const FETCHES_READY: usize = 256;
/// Bufs of one part of a command at most: its pages, and one more if they are cut unluckily.
const PART_BUFS: usize = limits::CHUNK_LEN as usize / ferroce_buf::PAGE + 1;

/// What a host asks for, in its private data, checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// Queue identifier; 0 is the admin queue.
    pub qid: u16,
    /// Entries of the submission queue, at least 2.
    pub entries: u16,
}

impl Wanted {
    /// Checks a host's private data (NVMe/RDMA 3.2.2).
    ///
    /// # Errors
    /// The status that the reject carries.
    pub fn check(request: &Request) -> Result<Wanted, RdmaCmStatus> {
        let private = RdmaCmRequest::view(request.private.bytes())
            .ok_or(RdmaCmStatus::INVALID_PRIVATE_DATA_LENGTH)?;
        if private.recfmt.get() != 0 {
            return Err(RdmaCmStatus::INVALID_RECFMT);
        }
        let qid = private.qid.get();
        if qid > limits::IO_QUEUES_MAX {
            return Err(RdmaCmStatus::INVALID_QID);
        }
        let entries_max = match qid {
            0 => limits::ADMIN_DEPTH_MAX,
            _ => limits::IO_DEPTH_MAX,
        };
        let entries = private.entries();
        if entries < 2 || entries > u32::from(entries_max) {
            return Err(RdmaCmStatus::INVALID_HSQSIZE);
        }
        // A RECV for the response to each command; some hosts count them from zero.
        if private.hrqsize.get() < private.hsqsize_z.get() {
            return Err(RdmaCmStatus::INVALID_HRQSIZE);
        }
        // Who serves no READ can write nothing but what fits its capsules, and Connect does not.
        if request.responder_resources == 0 {
            return Err(RdmaCmStatus::INVALID_IRD);
        }
        // Invalid ORD is what nobody hears: a host's initiator depth says how many READs it may have out, and a host reads
        // nothing (all data is moved by the controller), so that any number of them fits.
        Ok(Wanted {
            qid,
            entries: entries as u16,
        })
    }

    /// What the queue pair must be able to do. Admin queues have no in-capsule data.
    pub fn demand(self) -> Demand {
        let entries = u32::from(self.entries);
        Demand {
            recvs: entries,
            recv_data: match self.qid {
                0 => 0,
                _ => limits::IN_CAPSULE,
            },
            // Data and completion of each command, and some commands of several parts.
            sends: 2 * entries + 8 * READS_MAX,
            reads: READS_MAX,
        }
    }

    /// Private data of the REP.
    pub fn accept(self) -> RdmaCmAccept {
        RdmaCmAccept::new(self.entries)
    }
}

/// Private data of a REJ.
pub fn reject(status: RdmaCmStatus) -> RdmaCmReject {
    RdmaCmReject::new(status)
}

/// Where a connection is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Accepted; the host has not said yet that it knows.
    Opening,
    /// Commands come and are answered.
    Live,
    /// The engine is done with it: what was given is sent, then it is closed.
    Ending,
    /// Nothing is sent any more; what is posted comes back.
    Over,
}

/// What happens to a connection, as far as the state decides about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arrival {
    /// The handshake is over.
    Established,
    /// A message that has the length of a capsule.
    Capsule,
    /// A message too short to be a capsule.
    Stub,
    /// All that was given is sent and acknowledged.
    AllSent,
    /// The connection is lost.
    Disconnected,
}

/// What is done then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The engine hears of the connection.
    Open,
    /// It is a command.
    Execute,
    /// The connection is closed.
    Close,
    /// What waits is given back; nothing more is sent.
    GiveUp,
    /// Not looked at.
    Ignore,
}

/// The connection's table.
pub const fn outcome(state: State, arrival: Arrival) -> Outcome {
    match (state, arrival) {
        (State::Opening, Arrival::Established) => Outcome::Open,
        // The provider reports the end of the handshake first.
        (State::Opening, Arrival::Capsule) => Outcome::Close,
        (State::Opening, Arrival::Stub) => Outcome::Close,
        (State::Opening, Arrival::AllSent) => Outcome::Ignore,
        (State::Opening, Arrival::Disconnected) => Outcome::GiveUp,
        (State::Live, Arrival::Established) => Outcome::Ignore,
        (State::Live, Arrival::Capsule) => Outcome::Execute,
        (State::Live, Arrival::Stub) => Outcome::Close,
        (State::Live, Arrival::AllSent) => Outcome::Ignore,
        (State::Live, Arrival::Disconnected) => Outcome::GiveUp,
        (State::Ending, Arrival::Established) => Outcome::Ignore,
        (State::Ending, Arrival::Capsule) => Outcome::Ignore,
        (State::Ending, Arrival::Stub) => Outcome::Close,
        (State::Ending, Arrival::AllSent) => Outcome::Close,
        (State::Ending, Arrival::Disconnected) => Outcome::GiveUp,
        (State::Over, Arrival::Established) => Outcome::Ignore,
        (State::Over, Arrival::Capsule) => Outcome::Ignore,
        (State::Over, Arrival::Stub) => Outcome::Ignore,
        (State::Over, Arrival::AllSent) => Outcome::Ignore,
        (State::Over, Arrival::Disconnected) => Outcome::Ignore,
    }
}

/// The target's end of one connection.
#[derive(Debug)]
pub struct Target {
    state: State,
    limits: Limits,
    answers: VecDeque<Answer>,
    fetches: VecDeque<Fetch>,
    /// Work requests of answers that are out, and how many may be. READs have their own share, so
    /// that neither waits for the other.
    answer_wrs: u32,
    answer_wrs_max: u32,
    /// READs that are out, as work requests, and whose they are, oldest first.
    read_wrs: u32,
    read_wrs_max: u32,
    reads: VecDeque<Tag>,
}

impl Target {
    /// A connection on a queue pair that can do so much.
    pub fn new(limits: Limits) -> Target {
        let read_wrs_max = limits.reads.min(READS_MAX).min(limits.sends / 2);
        // One READ and one answer may always be out, whatever they take.
        let answer_wrs_max = limits.sends - read_wrs_max.max(limits.wrs(PART_BUFS, false));
        let most = limits.wrs(PART_BUFS, true);
        assert!(
            limits.reads > 0 && answer_wrs_max >= most && limits.sends >= 2 * most,
            "a queue pair has room for a READ and an answer: {limits:?}"
        );
        Target {
            state: State::Opening,
            limits,
            answers: VecDeque::with_capacity(ANSWERS_WAITING_MAX),
            fetches: VecDeque::with_capacity(FETCHES_READY),
            answer_wrs: 0,
            answer_wrs_max,
            read_wrs: 0,
            read_wrs_max,
            reads: VecDeque::with_capacity(READS_MAX as usize),
        }
    }

    /// Where the connection is in its life.
    pub fn state(&self) -> State {
        self.state
    }

    /// The connection stands. True if that is news.
    pub fn established(&mut self) -> bool {
        let opens = outcome(self.state, Arrival::Established) == Outcome::Open;
        if opens {
            self.state = State::Live;
        }
        opens
    }

    /// A message of so many bytes came.
    #[inline]
    pub fn received(&mut self, len: u32) -> Outcome {
        let arrival = match len as usize >= HEAD_LEN {
            true => Arrival::Capsule,
            false => Arrival::Stub,
        };
        outcome(self.state, arrival)
    }

    /// The answer to post now; `None` if it waits for room on the queue pair.
    ///
    /// # Errors
    /// Gives the Bufs back if nothing is sent any more.
    #[inline(always)]
    pub fn reply(&mut self, reply: Reply) -> Result<Option<Answer>, BufList> {
        if self.state == State::Over {
            return Err(reply.bufs);
        }
        let answer = self.answer_of(reply);
        if self.answers.is_empty() && self.fits(answer.tag) {
            self.answer_wrs += answer.tag;
            return Ok(Some(answer));
        }
        self.answers.push_back(answer);
        Ok(None)
    }

    /// A reply as a chain: its data where the host wants it, then its completion. The tag is the
    /// number of work requests it takes, which is all there is to know when it completes.
    #[inline(always)]
    fn answer_of(&self, reply: Reply) -> Answer {
        let keyed = reply.sgl.keyed();
        // With exactly the command's key, on errors too: the host waits for that, or takes its memory
        // back itself if the response does not say so.
        let invalidates = reply.cqe.is_some()
            && reply.sgl.kind == Sgl::KEYED_INVALIDATE
            && self.limits.invalidate;
        Answer {
            tag: self.limits.wrs(reply.bufs.count(), reply.cqe.is_some()),
            remote: Remote {
                // An address beyond the end of memory is the host's mistake, and its refusal.
                addr: keyed.addr.get().wrapping_add(reply.offset.into()),
                key: keyed.key.get(),
            },
            bufs: reply.bufs,
            capsule: reply.cqe.map(bytemuck::cast),
            invalidate: invalidates.then(|| keyed.key.get()),
        }
    }

    #[inline]
    fn fits(&self, wrs: u32) -> bool {
        self.answer_wrs == 0 || self.answer_wrs + wrs <= self.answer_wrs_max
    }

    /// An answer that says nothing, to find out whether the host is there; `None` while other answers
    /// are out, which find that out as well, or nothing is to be sent any more.
    pub fn probe(&mut self) -> Option<Answer> {
        if self.state != State::Live || self.answer_wrs > 0 || !self.answers.is_empty() {
            return None;
        }
        self.answer_wrs = 1;
        Some(Answer {
            tag: 1,
            remote: Remote { addr: 0, key: 0 },
            bufs: BufList::new(),
            capsule: None,
            invalidate: None,
        })
    }

    /// An answer that waited, if there is room for it now.
    #[inline]
    pub fn next_answer(&mut self) -> Option<Answer> {
        let wrs = self.answers.front()?.tag;
        if !self.fits(wrs) {
            return None;
        }
        self.answer_wrs += wrs;
        self.answers.pop_front()
    }

    /// An answer is done, well or not. Its Bufs are the engine's again.
    #[inline]
    pub fn sent(&mut self, tag: u32) {
        self.answer_wrs -= tag;
    }

    /// The READ to post now; `None` if it waits for others to come back.
    ///
    /// # Errors
    /// Gives the Bufs back if nothing is fetched any more.
    pub fn fetch(&mut self, fetch: Fetch) -> Result<Option<Read>, BufList> {
        if matches!(self.state, State::Over | State::Ending) {
            return Err(fetch.bufs);
        }
        self.fetches.push_back(fetch);
        Ok(self.next_read())
    }

    /// A READ that waited, if it may go now.
    #[inline]
    pub fn next_read(&mut self) -> Option<Read> {
        let fetch = self.fetches.front()?;
        let wrs = self.limits.wrs(fetch.bufs.count(), false);
        if self.read_wrs > 0 && self.read_wrs + wrs > self.read_wrs_max {
            return None;
        }
        let fetch = self.fetches.pop_front()?;
        self.read_wrs += wrs;
        self.reads.push_back(fetch.tag);
        let keyed = fetch.sgl.keyed();
        Some(Read {
            tag: wrs,
            remote: Remote {
                addr: keyed.addr.get().wrapping_add(fetch.offset.into()),
                key: keyed.key.get(),
            },
            bufs: fetch.bufs,
        })
    }

    /// The oldest READ is done, well or not. Whose data it was.
    pub fn read_done(&mut self, tag: u32) -> Tag {
        self.read_wrs -= tag;
        self.reads
            .pop_front()
            .expect("READs complete in the order they were posted")
    }

    /// False while so much waits for the queue pair that more should wait elsewhere.
    #[inline]
    pub fn wants_more(&self) -> bool {
        self.answers.len() < ANSWERS_WAITING_MAX
    }

    /// Answers that wait for room on the queue pair.
    pub fn answers_waiting(&self) -> usize {
        self.answers.len()
    }

    /// The engine wants it to end when all is sent. True if that is now.
    pub fn end(&mut self, home: &mut impl FnMut(BufList)) -> bool {
        if matches!(self.state, State::Opening | State::Live) {
            self.state = State::Ending;
        }
        for fetch in self.fetches.drain(..) {
            home(fetch.bufs);
        }
        self.is_to_close()
    }

    /// True if it was to end when all is sent, and all is.
    #[inline]
    pub fn is_to_close(&self) -> bool {
        let all = self.answers.is_empty() && self.answer_wrs == 0;
        all && outcome(self.state, Arrival::AllSent) == Outcome::Close
    }

    /// It is over: what waits goes home, what is posted will be back.
    pub fn give_up(&mut self, home: &mut impl FnMut(BufList)) {
        self.state = State::Over;
        for answer in self.answers.drain(..) {
            home(answer.bufs);
        }
        for fetch in self.fetches.drain(..) {
            home(fetch.bufs);
        }
    }

    /// True if nothing of it waits or is posted.
    pub fn is_empty(&self) -> bool {
        let waiting = self.answers.len() + self.fetches.len() + self.reads.len();
        waiting == 0 && self.answer_wrs == 0
    }
}
