//! Commands that wait for memory or for a drive, served by deficit round robin over hosts: a host
//! with large transfers gets no more bytes per round than one with small ones.
//!
//! Each host has two lanes. Commands whose data is here, in Bufs, and which lack only room at a drive
//! stand in one; all others in the other, in order, each queue's for themselves: a queue whose connection is
//! stuck may have all it may hold, and the host's other queues, on its other path perhaps, go on. Whoever has
//! Bufs is never behind someone who waits for Bufs: they might be the same. Admin commands stand in the first
//! lane too: a drive that is stuck must not hold up the log page that tells of it.

use std::collections::VecDeque;

use crate::limits::CHUNK_LEN;

/// The line. Hosts and queues are indices that the core gives out.
#[derive(Debug, Default)]
pub struct Line {
    hosts: Vec<HostLine>,
    queues: Vec<QueueLine>,
    round: VecDeque<u32>,
    waiting: usize,
}

#[derive(Debug, Default)]
struct HostLine {
    /// Queues of which commands want something, each once.
    round: VecDeque<u32>,
    /// At most as many as there are Bufs, and admin commands. Each is tried in every round: they may
    /// wait for different things.
    landed: VecDeque<(u32, u32)>,
    deficit: u32,
    in_round: bool,
}

#[derive(Debug, Default)]
struct QueueLine {
    /// In order; the first holds up the others, so that a large one is not passed by for ever.
    wanting: VecDeque<(u32, u32)>,
    /// It is in its host's round.
    in_round: bool,
}

/// What a command that stands in line has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lane {
    /// Nothing; it wants memory, or room at a drive.
    Wanting,
    /// Data in Bufs, and it wants room at a drive; or it is an admin command.
    Landed,
}

/// What came of serving a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Served {
    /// It needs nothing more for now: it leaves the line.
    Leaves,
    /// It got this many bytes under way and wants more.
    Took(u32),
    /// What it needs is not there.
    Blocked,
}

impl Line {
    /// Nobody waits.
    pub fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// A command (slot, generation) of a host's queue joins at the end.
    pub fn join(&mut self, host: u32, queue: u32, lane: Lane, command: (u32, u32)) {
        let at = host as usize;
        if self.hosts.len() <= at {
            self.hosts.resize_with(at + 1, HostLine::default);
        }
        if self.queues.len() <= queue as usize {
            self.queues
                .resize_with(queue as usize + 1, QueueLine::default);
        }
        let line = &mut self.hosts[at];
        match lane {
            Lane::Wanting => {
                // A slot may have become another host's queue while commands of its earlier life stand here: they
                // leave when their turn comes, in the earlier host's round, and so does what came behind them.
                let queue_line = &mut self.queues[queue as usize];
                queue_line.wanting.push_back(command);
                if !std::mem::replace(&mut queue_line.in_round, true) {
                    line.round.push_back(queue);
                }
            }
            Lane::Landed => line.landed.push_back(command),
        }
        self.waiting += 1;
        if !line.in_round {
            line.in_round = true;
            line.deficit = 0;
            self.round.push_back(host);
        }
    }

    /// One round: each host that waits gets about one part's worth of bytes. `serve` is called with
    /// a command that is next and says what came of it.
    pub fn serve(&mut self, mut serve: impl FnMut(Lane, (u32, u32)) -> Served) {
        for _ in 0..self.round.len() {
            let Some(host) = self.round.pop_front() else {
                return;
            };
            let line = &mut self.hosts[host as usize];
            line.deficit = line.deficit.saturating_add(CHUNK_LEN).min(2 * CHUNK_LEN);
            self.waiting -= line.serve_landed(&mut serve);
            self.waiting -= line.serve_wanting(&mut self.queues, &mut serve);
            if line.round.is_empty() && line.landed.is_empty() {
                line.in_round = false;
            } else {
                self.round.push_back(host);
            }
        }
    }
}

impl HostLine {
    /// How many left.
    fn serve_landed(&mut self, serve: &mut impl FnMut(Lane, (u32, u32)) -> Served) -> usize {
        let mut left = 0;
        for _ in 0..self.landed.len() {
            if self.deficit == 0 {
                break;
            }
            let command = self.landed.pop_front().expect("they were counted");
            match serve(Lane::Landed, command) {
                Served::Leaves => {
                    left += 1;
                    self.spend(0);
                }
                Served::Took(bytes) => {
                    self.spend(bytes);
                    self.landed.push_back(command);
                }
                Served::Blocked => self.landed.push_back(command),
            }
        }
        left
    }

    /// How many left. Queues take turns, command by command. One that is blocked is not asked again in this round, and
    /// is the first to be asked in the next.
    fn serve_wanting(
        &mut self,
        queues: &mut [QueueLine],
        serve: &mut impl FnMut(Lane, (u32, u32)) -> Served,
    ) -> usize {
        let mut left = 0;
        // So many at the front are not known to be blocked.
        let mut open = self.round.len();
        while self.deficit > 0 && open > 0 {
            let queue = self.round.pop_front().expect("it has as many");
            open -= 1;
            let line = &mut queues[queue as usize];
            let command = *line.wanting.front().expect("it is in the round");
            match serve(Lane::Wanting, command) {
                Served::Leaves => {
                    line.wanting.pop_front();
                    left += 1;
                    self.spend(0);
                }
                Served::Took(bytes) => {
                    self.spend(bytes);
                    // The queue's other commands are not held up by its largest.
                    line.wanting.rotate_left(1);
                }
                Served::Blocked => {
                    self.round.push_back(queue);
                    continue;
                }
            }
            if line.wanting.is_empty() {
                line.in_round = false;
            } else {
                self.round.insert(open, queue);
                open += 1;
            }
        }
        self.round.rotate_left(open);
        left
    }

    /// Even a command that cost nothing uses up some of the round.
    fn spend(&mut self, bytes: u32) {
        self.deficit = self.deficit.saturating_sub(bytes.max(4096));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One round, in which `what` becomes of a command; who was asked.
    fn round(line: &mut Line, mut what: impl FnMut(u32) -> Served) -> Vec<u32> {
        let mut asked = Vec::new();
        line.serve(|_, (slot, _)| {
            asked.push(slot);
            what(slot)
        });
        asked
    }

    #[test]
    fn a_queue_that_is_stuck_holds_up_none_of_its_hosts_others() {
        let mut line = Line::default();
        for slot in 0..3 {
            line.join(1, 7, Lane::Wanting, (slot, 0));
        }
        line.join(1, 8, Lane::Wanting, (10, 0));
        line.join(1, 8, Lane::Wanting, (11, 0));
        line.join(1, 9, Lane::Wanting, (20, 0));
        let stuck = |slot| {
            if slot < 3 {
                Served::Blocked
            } else {
                Served::Leaves
            }
        };
        assert_eq!(round(&mut line, stuck), [0, 10, 20, 11]);
        // The first of a queue holds up the others of it.
        assert_eq!(round(&mut line, stuck), [0]);
        assert!(!line.is_empty());
        assert_eq!(round(&mut line, |_| Served::Leaves), [0, 1, 2]);
        assert!(line.is_empty());
        assert!(round(&mut line, |_| Served::Leaves).is_empty());
    }

    #[test]
    fn queues_take_turns_and_a_large_command_lets_others_pass() {
        let mut line = Line::default();
        line.join(0, 0, Lane::Wanting, (1, 0));
        line.join(0, 0, Lane::Wanting, (2, 0));
        line.join(0, 3, Lane::Wanting, (30, 0));
        let mut left = 2;
        let asked = round(&mut line, |slot| {
            if slot == 1 && left > 0 {
                left -= 1;
                return Served::Took(4096);
            }
            Served::Leaves
        });
        assert_eq!(asked, [1, 30, 2, 1, 1]);
        assert!(line.is_empty());
        // Blocked once, it is the first to be asked again, however busy others are.
        line.join(0, 0, Lane::Wanting, (1, 0));
        line.join(0, 3, Lane::Wanting, (30, 0));
        let mut blocked = true;
        let mut what = |slot| match slot {
            1 if std::mem::take(&mut blocked) => Served::Blocked,
            _ => Served::Took(CHUNK_LEN),
        };
        assert_eq!(round(&mut line, &mut what), [1, 30]);
        assert_eq!(round(&mut line, &mut what), [1]);
    }

    #[test]
    fn a_host_with_many_queues_gets_no_more_of_a_round() {
        let mut line = Line::default();
        for queue in 0..8 {
            line.join(0, queue, Lane::Wanting, (queue, 0));
        }
        line.join(1, 8, Lane::Wanting, (8, 0));
        let took = |_| Served::Took(CHUNK_LEN);
        assert_eq!(round(&mut line, took), [0, 8]);
        assert_eq!(round(&mut line, took), [1, 8]);
    }

    #[test]
    fn a_slot_that_became_another_hosts_queue_is_served_still() {
        let mut line = Line::default();
        line.join(0, 5, Lane::Wanting, (1, 0));
        line.join(1, 5, Lane::Wanting, (2, 0));
        assert_eq!(round(&mut line, |_| Served::Leaves), [1, 2]);
        assert!(line.is_empty());
        line.join(1, 5, Lane::Wanting, (3, 0));
        assert_eq!(round(&mut line, |_| Served::Leaves), [3]);
        assert!(line.is_empty());
    }
}
