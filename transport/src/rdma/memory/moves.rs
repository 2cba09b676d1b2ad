//! What may happen between queue pairs, one thing at a time.

use ferroce_buf::{Buf, BufList};

use super::{Grant, Inner, Place, Qp, Reply, Stage, Work};
use crate::rdma::provider::{
    Access, Answer, Event, HEAD_LEN, Message, QpId, REJ_CONSUMER, Read, Remote, WcStatus, Why,
};

/// Something that can happen.
#[derive(Clone, Copy, Debug)]
pub(super) enum Move {
    /// The next work request is begun.
    Begin(Place),
    /// A READ, by its index in the send queue, is carried out.
    Read(Place, usize),
    /// The oldest work request completes.
    Complete(Place),
    /// It hears of what its peer answered.
    Hear(Place),
    /// It hears that its peer is gone.
    End(Place),
    /// A broken one gives back a RECV.
    Unpost(Place),
    /// Nothing is left of it.
    Go(Place),
}

impl Inner {
    /// Everything that may happen next.
    pub(super) fn moves(&self) -> Vec<Move> {
        let mut moves = Vec::new();
        for (at, end) in self.ends.iter().enumerate() {
            if end.dead {
                continue;
            }
            for (slot, (generation, qp)) in end.slots.iter().enumerate() {
                let Some(qp) = qp else { continue };
                let id = QpId {
                    slot: slot as u32,
                    generation: *generation,
                };
                self.moves_of((at, id), qp, &mut moves);
            }
        }
        moves
    }

    fn moves_of(&self, place: Place, qp: &Qp, moves: &mut Vec<Move>) {
        if qp.sends.front().is_some_and(|send| send.status.is_some()) {
            moves.push(Move::Complete(place));
        }
        if qp.stage == Stage::Broken {
            if !qp.recvs.is_empty() {
                moves.push(Move::Unpost(place));
            }
            if qp.nothing_is_out() && !qp.going {
                moves.push(Move::Go(place));
            }
            return;
        }
        if qp.hears.is_some() {
            moves.push(Move::Hear(place));
        }
        if qp.ends.is_some() {
            moves.push(Move::End(place));
        }
        if qp.stage != Stage::Established {
            return;
        }
        for (index, send) in qp.sends.iter().take(qp.begun).enumerate() {
            if send.status.is_none() {
                moves.push(Move::Read(place, index));
            }
        }
        if qp.begun < qp.sends.len() && self.may_begin(qp) {
            moves.push(Move::Begin(place));
        }
    }

    /// Without a RECV at the peer a SEND waits (RNR), and so does what comes after it.
    fn may_begin(&self, qp: &Qp) -> bool {
        let send = &qp.sends[qp.begun];
        let speaks = match &send.work {
            Work::Answer(answer) => answer.capsule.is_some() && send.written,
            Work::Message(_) => true,
            Work::Read(_) => false,
        };
        let Some(peer) = qp.peer.filter(|peer| !self.ends[peer.0].dead) else {
            return true;
        };
        match self.qp(peer) {
            Some(peer) if speaks && peer.stage != Stage::Broken => !peer.recvs.is_empty(),
            _ => true,
        }
    }

    /// Lets a number of things happen, or all.
    pub(super) fn run(&mut self) {
        let count = match &mut self.random {
            Some(random) => random.usize(0..12),
            None => usize::MAX,
        };
        for _ in 0..count {
            let moves = self.moves();
            if moves.is_empty() {
                return;
            }
            let at = match &mut self.random {
                Some(random) => random.usize(..moves.len()),
                None => 0,
            };
            self.make_move(moves[at]);
        }
    }

    fn make_move(&mut self, happens: Move) {
        match happens {
            Move::Begin(place) => self.begin(place),
            Move::Read(place, index) => self.carry_out_read(place, index),
            Move::Complete(place) => self.complete(place),
            Move::Hear(place) => self.hear(place),
            Move::End(place) => {
                let qp = self.qp_mut(place).expect("it was just there");
                let why = qp.ends.take().expect("it was just there");
                self.lose(place, why, WcStatus::Flushed);
            }
            Move::Unpost((end, id)) => {
                let qp = self.qp_mut((end, id)).expect("it was just there");
                if let Some(Some(buf)) = qp.recvs.pop_front() {
                    self.ends[end].events.push_back(Event::Unposted { buf });
                }
            }
            Move::Go((end, id)) => {
                self.qp_mut((end, id)).expect("it was just there").going = true;
                self.ends[end].going.push_back(id);
            }
        }
    }

    /// The peer's answer to a request, or its last word of the handshake.
    fn hear(&mut self, place: Place) {
        let qp = self.qp_mut(place).expect("it was just there");
        match qp.hears.take().expect("it was just there") {
            Reply::Accepted(peer, private) => {
                qp.private = private;
                qp.peer = Some(peer);
                qp.stage = Stage::Established;
                let events = &mut self.ends[place.0].events;
                events.push_back(Event::Established { qp: place.1 });
                match self.qp_mut(peer) {
                    Some(other) if other.stage == Stage::Accepted => {
                        other.hears = Some(Reply::Ready);
                    }
                    _ => self.end_later(place, Why::Peer),
                }
            }
            Reply::Rejected(private) => {
                qp.private = private;
                let why = Why::Rejected {
                    reason: REJ_CONSUMER,
                };
                self.lose(place, why, WcStatus::Flushed);
            }
            Reply::Ready => self.establish(place),
        }
    }

    fn establish(&mut self, place: Place) {
        let Some(qp) = self.qp_mut(place) else { return };
        qp.hears = None;
        if qp.stage == Stage::Accepted {
            qp.stage = Stage::Established;
            let events = &mut self.ends[place.0].events;
            events.push_back(Event::Established { qp: place.1 });
        }
    }

    pub(super) fn end_later(&mut self, place: Place, why: Why) {
        if let Some(qp) = self.qp_mut(place)
            && qp.stage != Stage::Broken
        {
            qp.ends.get_or_insert(why);
        }
    }

    /// The connection ends at this side: it is told, and what is posted comes back. Its peer hears of
    /// it in time, unless this end is dead.
    pub(super) fn lose(&mut self, place: Place, why: Why, first: WcStatus) {
        let told = self.shut(place, first);
        if told {
            let events = &mut self.ends[place.0].events;
            events.push_back(Event::Disconnected { qp: place.1, why });
        }
    }

    /// Breaks a queue pair; false if it was broken before.
    pub(super) fn shut(&mut self, place: Place, first: WcStatus) -> bool {
        let Some(qp) = self.qp_mut(place) else {
            return false;
        };
        if qp.stage == Stage::Broken {
            return false;
        }
        qp.stage = Stage::Broken;
        let mut status = first;
        for send in &mut qp.sends {
            if send.status.is_none() {
                send.status = Some(std::mem::replace(&mut status, WcStatus::Flushed));
            }
        }
        qp.begun = qp.sends.len();
        let accepted = match &qp.hears {
            Some(Reply::Accepted(peer, _)) => Some(*peer),
            _ => None,
        };
        if let Some(peer) = qp.peer.or(accepted) {
            self.end_later(peer, Why::Peer);
        }
        true
    }

    /// A work request failed: its queue pair breaks, and so does the peer's.
    fn fail(&mut self, place: Place, index: usize, status: WcStatus) {
        let qp = self.qp_mut(place).expect("it was just there");
        qp.sends[index].status = Some(status);
        let peer = qp.peer;
        self.lose(place, Why::Error(status), WcStatus::Flushed);
        let refused = matches!(status, WcStatus::RemoteAccess | WcStatus::RemoteError);
        if refused && let Some(other) = peer.and_then(|peer| self.qp_mut(peer)) {
            other.ends = Some(Why::Violation);
        }
    }

    /// The other queue pair, if it can be reached.
    fn reach(&self, place: Place) -> Option<Place> {
        let peer = self.qp(place)?.peer?;
        let there = self.qp(peer)?;
        (!self.ends[peer.0].dead && there.stage != Stage::Broken).then_some(peer)
    }

    fn begin(&mut self, place: Place) {
        let index = self.qp(place).expect("it was just there").begun;
        let Some(peer) = self.reach(place) else {
            self.fail(place, index, WcStatus::RetriesExceeded);
            return;
        };
        let qp = self.qp_mut(place).expect("it was just there");
        if matches!(qp.sends[index].work, Work::Read(_)) {
            qp.begun += 1;
            return;
        }
        // Out of its place while both queue pairs are looked at.
        let send = &mut qp.sends[index];
        let written = send.written;
        let empty = Work::Read(Read {
            tag: 0,
            remote: Remote { addr: 0, key: 0 },
            bufs: BufList::new(),
        });
        let work = std::mem::replace(&mut send.work, empty);
        let result = match &work {
            Work::Answer(answer) => self.carry_out_answer(answer, written, peer),
            Work::Message(message) => self.deliver(peer, &message.head, &message.bufs, None),
            Work::Read(_) => unreachable!("looked at above"),
        };
        let qp = self.qp_mut(place).expect("it was just there");
        let send = &mut qp.sends[index];
        send.work = work;
        match result {
            Ok(true) => {
                send.status = Some(WcStatus::Success);
                qp.begun += 1;
            }
            Ok(false) => send.written = true,
            Err(status) => self.fail(place, index, status),
        }
    }

    /// The WRITE of a chain, and in another move its SEND. True if that was all of it.
    fn carry_out_answer(
        &mut self,
        answer: &Answer,
        written: bool,
        peer: Place,
    ) -> Result<bool, WcStatus> {
        if !written && !answer.bufs.is_empty() {
            let other = self.qp_mut(peer).expect("it was just reached");
            let place = other.reach_memory(answer.remote, answer.bufs.len(), Access::Write)?;
            let (grant, mut offset) = place;
            for buf in answer.bufs.iter() {
                grant.bufs.copy_in(offset, buf.bytes());
                offset += buf.len();
            }
            if answer.capsule.is_some() {
                return Ok(false);
            }
        }
        if let Some(capsule) = &answer.capsule {
            if self.qp(peer).is_some_and(|other| other.recvs.is_empty()) {
                return Ok(false);
            }
            return self.deliver(peer, capsule, &BufList::new(), answer.invalidate);
        }
        Ok(true)
    }

    /// A message arrives at a queue pair that has a RECV.
    fn deliver(
        &mut self,
        peer: Place,
        first: &[u8],
        rest: &BufList,
        invalidate: Option<u32>,
    ) -> Result<bool, WcStatus> {
        // It says more than the last step of the handshake would.
        self.establish(peer);
        let other = self.qp_mut(peer).expect("it was just reached");
        if let Some(key) = invalidate {
            let grant = other
                .grants
                .iter_mut()
                .find(|grant| grant.remote.key == key);
            let grant = grant.filter(|grant| grant.valid);
            grant.ok_or(WcStatus::RemoteAccess)?.valid = false;
        }
        let buf = other.recvs.pop_front().expect("looked at before");
        let len = first.len() + rest.len();
        let room = HEAD_LEN + buf.as_ref().map_or(0, Buf::len);
        if len > room {
            other.recvs.push_front(buf);
            return Err(WcStatus::RemoteError);
        }
        let mut head = [0; HEAD_LEN];
        head[..first.len()].copy_from_slice(first);
        let mut buf = buf;
        if !rest.is_empty() {
            assert!(
                first.len() == HEAD_LEN,
                "what follows, follows a whole head"
            );
            let buf = buf.as_mut().expect("it has room");
            rest.copy_out(0, &mut buf.bytes_mut()[..rest.len()]);
        }
        self.ends[peer.0].events.push_back(Event::Received {
            qp: peer.1,
            len: len as u32,
            head,
            buf,
            invalidated: invalidate,
        });
        Ok(true)
    }

    fn carry_out_read(&mut self, place: Place, index: usize) {
        let Some(peer) = self.reach(place) else {
            self.fail(place, index, WcStatus::RetriesExceeded);
            return;
        };
        let qp = self.qp_mut(place).expect("it was just there");
        let Work::Read(read) = &mut qp.sends[index].work else {
            unreachable!("only READs are begun and not done");
        };
        let remote = read.remote;
        let mut bufs = std::mem::take(&mut read.bufs);
        let other = self.qp_mut(peer).expect("it was just reached");
        let result =
            other
                .reach_memory(remote, bufs.len(), Access::Read)
                .map(|(grant, mut offset)| {
                    for buf in bufs.iter_mut() {
                        grant.bufs.copy_out(offset, buf.bytes_mut());
                        offset += buf.len();
                    }
                });
        let qp = self.qp_mut(place).expect("it was just there");
        let send = &mut qp.sends[index];
        if let Work::Read(read) = &mut send.work {
            read.bufs = bufs;
        }
        match result {
            Ok(()) => send.status = Some(WcStatus::Success),
            Err(status) => self.fail(place, index, status),
        }
    }

    fn complete(&mut self, (end, id): Place) {
        let qp = self.qp_mut((end, id)).expect("it was just there");
        let send = qp.sends.pop_front().expect("it was just there");
        qp.begun = qp.begun.saturating_sub(1);
        let status = send.status.expect("it is done");
        let event = match send.work {
            Work::Answer(Answer { tag, bufs, .. }) | Work::Message(Message { tag, bufs, .. }) => {
                Event::Sent {
                    qp: id,
                    tag,
                    bufs,
                    status,
                }
            }
            Work::Read(Read { tag, bufs, .. }) => Event::ReadDone {
                qp: id,
                tag,
                bufs,
                status,
            },
        };
        self.ends[end].events.push_back(event);
    }
}

impl Qp {
    /// The grant that holds these bytes, and where in it they begin.
    fn reach_memory(
        &mut self,
        remote: Remote,
        len: usize,
        access: Access,
    ) -> Result<(&mut Grant, usize), WcStatus> {
        let found = self
            .grants
            .iter_mut()
            .find(|grant| grant.remote.key == remote.key && grant.valid);
        let grant = found.ok_or(WcStatus::RemoteAccess)?;
        let offset = remote.addr.checked_sub(grant.remote.addr);
        let room = grant.bufs.len() as u64;
        match offset {
            Some(offset)
                if grant.access == access && offset <= room && len as u64 <= room - offset =>
            {
                Ok((grant, offset as usize))
            }
            _ => Err(WcStatus::RemoteAccess),
        }
    }
}
