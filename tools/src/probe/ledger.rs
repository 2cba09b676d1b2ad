//! What one queue of the probe knows about its part of the namespace: which places have a command
//! under way, and for `--verify` how often each was written. Places are as large as one command, each
//! belongs to one queue, and none has two commands at once: then the last acknowledged write is known.

use fastrand::Rng;

use crate::cli::Pattern;

/// A command to send.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Turn {
    /// Which place.
    pub place: u64,
    /// Write it, or read it.
    pub write: bool,
    /// The number of this write, or of the last one acknowledged; 0 is none.
    pub number: u32,
    /// Of which object it is a part, counted from 1, and of how many parts; 0 of none.
    pub object: u64,
    /// See `object`.
    pub parts: u8,
}

/// Commands of an object.
const PARTS: std::ops::RangeInclusive<u8> = 8..=16;

/// One queue's places: every `stride`th from `first` on.
#[derive(Debug)]
pub struct Ledger {
    first: u64,
    stride: u64,
    count: u64,
    pattern: Pattern,
    write_percent: u8,
    rng: Rng,
    next: u64,
    /// The object whose parts are being handed out, how many it has, and how many are to come.
    object: u64,
    parts: u8,
    parts_left: u8,
    /// Each place once, and commands to come.
    once: bool,
    left: u64,
    verify: Option<Verify>,
}

#[derive(Debug)]
struct Verify {
    /// Writes acknowledged of each place.
    written: Vec<u32>,
    busy: Vec<bool>,
    /// The outcome of the last write is not known: it must be written again before it is read.
    doubtful: Vec<bool>,
}

impl Ledger {
    /// Of queue number `queue` out of `queues`, which share `places`.
    pub fn new(
        places: u64,
        (queue, queues): (u16, u16),
        pattern: Pattern,
        write_percent: u8,
        seed: u64,
    ) -> Ledger {
        let (queue, queues) = (u64::from(queue), u64::from(queues));
        let (first, stride, count) = match pattern {
            // The parts of an object lie side by side.
            Pattern::Objects => (places / queues * queue, 1, places / queues),
            Pattern::Random | Pattern::Sequential => {
                (queue, queues, places.saturating_sub(queue).div_ceil(queues))
            }
        };
        Ledger {
            first,
            stride,
            count,
            pattern,
            write_percent,
            object: 0,
            parts: 0,
            parts_left: 0,
            rng: Rng::with_seed(seed ^ queue.wrapping_mul(0x9E37_79B9_7F4A_7C15)),
            next: 0,
            once: false,
            left: u64::MAX,
            verify: None,
        }
    }

    /// Only as many commands as there are places.
    pub fn once(mut self) -> Ledger {
        self.once = true;
        self.begin_again();
        self
    }

    /// From the first place on, once more.
    pub fn begin_again(&mut self) {
        if self.once {
            self.left = self.count;
            self.next = 0;
        }
    }

    /// No command will come any more.
    #[inline]
    pub fn is_exhausted(&self) -> bool {
        self.left == 0
    }

    /// Keeps track of what was written, too.
    pub fn with_verify(mut self) -> Ledger {
        let count = self.count as usize;
        self.verify = Some(Verify {
            written: vec![0; count],
            busy: vec![false; count],
            doubtful: vec![false; count],
        });
        self
    }

    /// The next command; `None` while every place has one under way, and once there were all.
    #[inline]
    pub fn next(&mut self) -> Option<Turn> {
        if self.left == 0 {
            return None;
        }
        let wants_write = self.write_percent > 0 && self.rng.u8(0..100) < self.write_percent;
        let mut index = match self.pattern {
            Pattern::Random => self.rng.u64(0..self.count),
            Pattern::Sequential => self.next,
            Pattern::Objects => self.next_of_object(),
        };
        let mut turn = Turn {
            write: wants_write,
            object: self.object,
            parts: self.parts,
            ..Turn::default()
        };
        if let Some(verify) = &mut self.verify {
            // The first free place from there on. With at least twice as many places as commands
            // under way, it is near.
            let free = (index..self.count)
                .chain(0..index)
                .find(|&i| !verify.busy[i as usize])?;
            index = free;
            let at = free as usize;
            verify.busy[at] = true;
            turn.write = wants_write || verify.written[at] == 0 || verify.doubtful[at];
            turn.number = verify.written[at] + u32::from(turn.write);
        }
        self.next = (index + 1) % self.count;
        self.left -= 1;
        turn.place = self.first + index * self.stride;
        Some(turn)
    }

    /// The place behind the last one, or another object's first.
    fn next_of_object(&mut self) -> u64 {
        if self.parts_left == 0 {
            self.object += 1;
            self.parts = self.rng.u8(PARTS);
            self.parts_left = self.parts;
            self.next = self.rng.u64(0..self.count);
        }
        self.parts_left -= 1;
        self.next
    }

    /// A command of [`Ledger::written`] is sent.
    pub fn begin(&mut self, turn: Turn) {
        if let Some(verify) = &mut self.verify {
            verify.busy[((turn.place - self.first) / self.stride) as usize] = true;
        }
    }

    /// The command's outcome.
    pub fn done(&mut self, turn: Turn, success: bool) {
        let Some(verify) = &mut self.verify else {
            return;
        };
        let at = ((turn.place - self.first) / self.stride) as usize;
        assert!(verify.busy[at], "a place without a command came back");
        verify.busy[at] = false;
        if turn.write {
            // After a refused write either content may be there; its number is not used again.
            verify.written[at] = turn.number;
            verify.doubtful[at] = !success;
        }
    }

    /// The places that were written, to be read once more at the end.
    pub fn written(&self) -> impl Iterator<Item = Turn> {
        let verify = self.verify.as_ref();
        (0..self.count).filter_map(move |index| {
            let verify = verify?;
            let number = verify.written[index as usize];
            (number > 0 && !verify.doubtful[index as usize]).then_some(Turn {
                place: self.first + index * self.stride,
                number,
                ..Turn::default()
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{HashMap, HashSet};

    #[test]
    fn queues_share_every_place_once() {
        let mut seen = HashSet::new();
        for queue in 0..3 {
            let mut ledger = Ledger::new(100, (queue, 3), Pattern::Sequential, 0, 1);
            for _ in 0..ledger.count {
                assert!(seen.insert(ledger.next().expect("a place").place));
            }
        }
        assert_eq!(seen, (0..100).collect());
    }

    #[test]
    fn all_once_is_every_place_once() {
        let mut ledger = Ledger::new(100, (1, 3), Pattern::Sequential, 0, 1).once();
        let places: Vec<u64> = std::iter::from_fn(|| ledger.next())
            .map(|turn| turn.place)
            .collect();
        assert_eq!(places, (1..100).step_by(3).collect::<Vec<u64>>());
        assert!(ledger.is_exhausted());
    }

    #[test]
    fn parts_of_an_object_lie_side_by_side() {
        let mut ledger = Ledger::new(1000, (1, 2), Pattern::Objects, 0, 1);
        let turns: Vec<Turn> = (0..10_000).filter_map(|_| ledger.next()).collect();
        let mut objects = 0;
        for object in turns.chunk_by(|a, b| a.object == b.object) {
            objects += 1;
            assert_eq!(object[0].object, objects);
            assert!(PARTS.contains(&object[0].parts));
            if objects < turns.last().expect("there are some").object {
                assert_eq!(object.len(), usize::from(object[0].parts));
            }
            for two in object.windows(2) {
                assert_eq!((two[0].place - 500 + 1) % 500, two[1].place - 500);
            }
        }
        assert!(turns.iter().all(|turn| (500..1000).contains(&turn.place)));
    }

    #[test]
    fn verified_places_never_overlap_and_count_their_writes() {
        let mut ledger = Ledger::new(16, (0, 1), Pattern::Random, 50, 7).with_verify();
        let mut truth: HashMap<u64, u32> = HashMap::new();
        let mut under_way: Vec<Turn> = Vec::new();
        let mut rng = Rng::with_seed(1);
        for _ in 0..10_000 {
            if let Some(turn) = (under_way.len() < 20).then(|| ledger.next()).flatten() {
                assert!(under_way.iter().all(|other| other.place != turn.place));
                if !turn.write {
                    assert_eq!(
                        truth[&turn.place], turn.number,
                        "reads expect the last write"
                    );
                }
                under_way.push(turn);
            } else {
                assert!(under_way.len() <= 16);
                let turn = under_way.swap_remove(rng.usize(0..under_way.len()));
                let success = rng.u8(0..10) > 0;
                match (turn.write, success) {
                    (true, true) => {
                        truth.insert(turn.place, turn.number);
                    }
                    (true, false) => {
                        truth.remove(&turn.place);
                    }
                    _ => (),
                }
                ledger.done(turn, success);
            }
        }
        let all: HashMap<u64, u32> = ledger
            .written()
            .map(|turn| (turn.place, turn.number))
            .collect();
        for (place, number) in &all {
            if under_way.iter().all(|turn| turn.place != *place) {
                assert_eq!(truth[place], *number);
            }
        }
    }
}
