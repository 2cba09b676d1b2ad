//! What is waiting to be sent on one connection: headers in one run of bytes, data where it lies.
//!
//! Headers of PDUs that follow each other lie next to each other, so that a completion and the next
//! header of data are one piece of a system call. Nothing is allocated once the vectors have grown.

use std::collections::VecDeque;

use ferroce_buf::BufList;

use crate::tcp::frame::{self, Crc, Fatal, Format, Pdu};
use ferroce_wire::tcp::PduType;

/// PDUs that wait to be sent, in order.
#[derive(Debug, Default)]
pub struct Outbox {
    heads: Vec<u8>,
    /// Where the headers of the first run begin; those before were sent.
    heads_at: usize,
    runs: VecDeque<Run>,
    /// Bytes of the first run that were sent.
    front_sent: usize,
    len: usize,
}

/// Headers, and the data behind the last of them, if it has some.
#[derive(Debug)]
struct Run {
    heads: usize,
    data: BufList,
    data_len: usize,
}

/// Sent bytes of `heads` are kept until they are this many, so that what is left is moved rarely.
const KEPT_MAX: usize = 4096;

/// What is sent of one command is large if it is more than this: 16 KiB of data and some headers.
pub const LARGE: usize = 16 * 1024 + 512;

impl Outbox {
    /// Adds a PDU without data.
    #[inline]
    pub fn pdu<P: Pdu>(&mut self, pdu: P, format: &Format) {
        let len = frame::put(&mut self.heads, pdu, 0, format);
        self.grew(len);
    }

    /// Adds a PDU and its data, of which there is some.
    #[inline]
    pub fn pdu_with<P: Pdu>(&mut self, pdu: P, data: BufList, data_len: usize, format: &Format) {
        let len = frame::put(&mut self.heads, pdu, data_len, format);
        self.grew(len);
        let digest = format.digests.data.then(|| {
            let mut crc = Crc::new();
            for buf in data.iter() {
                crc.update(buf.bytes());
            }
            crc.finish().to_le_bytes()
        });
        let run = self.runs.back_mut().expect("its header is there");
        run.data = data;
        run.data_len = data_len;
        self.len += data_len;
        if let Some(digest) = digest {
            self.heads.extend_from_slice(&digest);
            self.grew(digest.len());
        }
    }

    /// Adds a TermReq.
    pub fn term(&mut self, kind: PduType, why: Fatal, offending: &[u8]) {
        let len = frame::put_term(&mut self.heads, kind, why, offending);
        self.grew(len);
    }

    #[inline]
    fn grew(&mut self, by: usize) {
        self.len += by;
        match self.runs.back_mut() {
            Some(run) if run.data_len == 0 => run.heads += by,
            _ => self.runs.push_back(Run {
                heads: by,
                data: BufList::new(),
                data_len: 0,
            }),
        }
    }

    /// Bytes that wait.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if nothing waits.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What waits comes in large pieces: more than [`LARGE`] bytes each on average.
    #[inline]
    pub fn is_large(&self) -> bool {
        self.len > self.runs.len() * LARGE
    }

    /// Hands out what waits, piece by piece and in order, until `push` says false.
    #[inline]
    pub fn gather<'a>(&'a self, mut push: impl FnMut(&'a [u8]) -> bool) {
        let mut heads_at = self.heads_at;
        let mut skip = self.front_sent;
        for run in &self.runs {
            if skip < run.heads {
                if !push(&self.heads[heads_at + skip..heads_at + run.heads]) {
                    return;
                }
                skip = 0;
            } else {
                skip -= run.heads;
            }
            heads_at += run.heads;
            for buf in run.data.iter() {
                if skip >= buf.len() {
                    skip -= buf.len();
                    continue;
                }
                if !push(&buf.bytes()[skip..]) {
                    return;
                }
                skip = 0;
            }
        }
    }

    /// The first `count` bytes of what waited were sent. Data whose last byte left goes to `home`.
    ///
    /// # Panics
    /// If fewer waited.
    #[inline]
    pub fn sent(&mut self, count: usize, home: &mut impl FnMut(BufList)) {
        self.len = self
            .len
            .checked_sub(count)
            .expect("only what waits is sent");
        let mut left = self.front_sent + count;
        while let Some(run) = self.runs.front() {
            let len = run.heads + run.data_len;
            if left < len {
                break;
            }
            left -= len;
            self.heads_at += run.heads;
            if let Some(run) = self.runs.pop_front()
                && run.data_len > 0
            {
                home(run.data);
            }
        }
        self.front_sent = left;
        if self.heads_at == self.heads.len() {
            self.heads.clear();
            self.heads_at = 0;
        } else if self.heads_at >= KEPT_MAX && self.heads_at * 2 >= self.heads.len() {
            self.heads.drain(..self.heads_at);
            self.heads_at = 0;
        }
    }

    /// Gives up on all of it; the data goes to `home`.
    pub fn clear(&mut self, home: &mut impl FnMut(BufList)) {
        let len = self.len;
        self.sent(len, home);
    }
}
