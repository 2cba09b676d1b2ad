//! A target that is nothing but memory in this process: the probe's own ceiling. Commands go through the same NVMe/TCP
//! machine as to a real target, and so do the answers; what is missing is the sockets, and a target that does anything.

use ferroce_transport::host::{Completion, Data};
use ferroce_transport::tcp::frame::Digests;
use ferroce_transport::tcp::host::{Conn, Wishes};
use ferroce_wire::Wire;
use ferroce_wire::num::U32;
use ferroce_wire::sqe::Sqe;
use ferroce_wire::tcp::{
    C2hData, CapsuleCmd, CommonHeader, IcResp, LAST_PDU, MAXH2CDATA_MIN, PduType, SUCCESS,
};

const CAPSULE: usize = size_of::<CapsuleCmd>();
const HEADER: usize = size_of::<C2hData>();
/// Where the CID of a command lies in its capsule, and that of the answer in C2HData.
const CID: usize = 8 + 2;
const CCCID: usize = 8;

/// One connection to it. It answers every read, all of one length, at once.
#[derive(Debug)]
pub struct Queue {
    conn: Conn,
    /// C2HData PDUs with their data, one behind the other; only their CIDs are written per answer.
    answers: Vec<u8>,
    /// Bytes of one.
    answer_len: usize,
    cids: Vec<u16>,
    error: Option<String>,
}

impl Queue {
    /// For reads of `len` bytes, `depth` at a time.
    pub fn new(depth: u16, len: u32) -> Queue {
        let mut conn = Conn::new(Wishes {
            digests: Digests::default(),
            hpda: 0,
            maxr2t: 1,
            depth,
        });
        let mut hello = 0;
        conn.gather(|piece| {
            hello += piece.len();
            true
        });
        conn.sent(hello);
        let icresp = IcResp::new(0, 0, MAXH2CDATA_MIN);
        conn.received(icresp.as_bytes())
            .expect("a sound answer opens the connection");
        conn.set_sq_flow_control(false);
        let answer_len = HEADER + len as usize;
        let mut header = C2hData {
            ch: CommonHeader::bare(PduType::C2H_DATA),
            datal: U32::new(len),
            ..C2hData::default()
        };
        header.ch.flags = LAST_PDU | SUCCESS;
        header.ch.pdo = HEADER as u8;
        header.ch.plen = U32::new(answer_len as u32);
        let mut answers = vec![0; answer_len * usize::from(depth)];
        for answer in answers.chunks_exact_mut(answer_len) {
            answer[..HEADER].copy_from_slice(header.as_bytes());
        }
        Queue {
            conn,
            answers,
            answer_len,
            cids: Vec::with_capacity(usize::from(depth)),
            error: None,
        }
    }

    /// Commands at a time.
    pub fn depth(&self) -> usize {
        self.conn.depth()
    }

    /// Commands without an answer.
    pub fn outstanding(&self) -> usize {
        self.conn.outstanding()
    }

    /// Why it is dead.
    pub fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    /// Takes a command, if there is room.
    pub fn submit(&mut self, sqe: Sqe, data: Data, user_data: u64) -> Result<(), Data> {
        match self.conn.submit(sqe, data, user_data) {
            Ok(_) => Ok(()),
            Err(refused) => Err(refused.data),
        }
    }

    /// Answers what was submitted.
    pub fn exchange(&mut self) {
        if !self.conn.wants_send() {
            return;
        }
        let (cids, mut count) = (&mut self.cids, 0);
        cids.clear();
        self.conn.gather(|piece| {
            count += piece.len();
            cids.extend(
                piece
                    .chunks_exact(CAPSULE)
                    .map(|capsule| u16::from_le_bytes([capsule[CID], capsule[CID + 1]])),
            );
            true
        });
        self.conn.sent(count);
        let answers = self.answers.chunks_exact_mut(self.answer_len);
        for (cid, answer) in self.cids.iter().zip(answers) {
            answer[CCCID..CCCID + 2].copy_from_slice(&cid.to_le_bytes());
        }
        let bytes = &self.answers[..self.cids.len() * self.answer_len];
        if let Err(broken) = self.conn.received(bytes) {
            self.error = Some(broken.to_string());
            self.conn.end();
        }
    }

    /// The next completion.
    pub fn next_done(&mut self) -> Option<Completion> {
        self.conn.poll()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferroce_engine::host as nvme;

    #[test]
    fn every_read_is_answered_once() {
        let mut queue = Queue::new(8, 4096);
        for round in 0..100u64 {
            for i in 0..8 {
                let taken = queue.submit(nvme::read(1, i, 8), Data::Discard(4096), round * 8 + i);
                assert!(taken.is_ok());
            }
            queue.exchange();
            for i in 0..8 {
                let done = queue.next_done().expect("an answer");
                assert!(done.is_success());
                assert_eq!(done.user_data, round * 8 + i);
            }
            assert!(queue.next_done().is_none());
            assert_eq!(queue.outstanding(), 0);
        }
        assert_eq!(queue.error(), None);
    }
}
