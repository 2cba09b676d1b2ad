//! Commands that wait for memory or for a drive, served by deficit round robin over hosts: a host
//! with large transfers gets no more bytes per round than one with small ones.
//!
//! Each host has two lanes. Commands whose data is here, in Bufs, and which lack only room at a drive
//! stand in one; all others in the other. Whoever has Bufs is never behind someone who waits for Bufs:
//! they might be the same. Admin commands stand in the first lane too: a drive that is stuck must not
//! hold up the log page that tells of it.

use std::collections::VecDeque;

use crate::limits::CHUNK_LEN;

/// The line. Hosts are indices that the core gives out.
#[derive(Debug, Default)]
pub struct Line {
    hosts: Vec<HostLine>,
    round: VecDeque<u32>,
    waiting: usize,
}

#[derive(Debug, Default)]
struct HostLine {
    /// In order; the first holds up the others, so that a large one is not passed by for ever.
    wanting: VecDeque<(u32, u32)>,
    /// At most as many as there are Bufs, and admin commands. Each is tried in every round: they may
    /// wait for different things.
    landed: VecDeque<(u32, u32)>,
    deficit: u32,
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

    /// A command (slot, generation) of a host joins at the end.
    pub fn join(&mut self, host: u32, lane: Lane, command: (u32, u32)) {
        let at = host as usize;
        if self.hosts.len() <= at {
            self.hosts.resize_with(at + 1, HostLine::default);
        }
        let line = &mut self.hosts[at];
        match lane {
            Lane::Wanting => line.wanting.push_back(command),
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
            self.waiting -= line.serve_wanting(&mut serve);
            if line.wanting.is_empty() && line.landed.is_empty() {
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

    /// How many left.
    fn serve_wanting(&mut self, serve: &mut impl FnMut(Lane, (u32, u32)) -> Served) -> usize {
        let mut left = 0;
        while self.deficit > 0
            && let Some(&command) = self.wanting.front()
        {
            match serve(Lane::Wanting, command) {
                Served::Leaves => {
                    self.wanting.pop_front();
                    left += 1;
                    self.spend(0);
                }
                Served::Took(bytes) => {
                    self.spend(bytes);
                    // The host's other commands are not held up by its largest.
                    self.wanting.rotate_left(1);
                }
                Served::Blocked => break,
            }
        }
        left
    }

    /// Even a command that cost nothing uses up some of the round.
    fn spend(&mut self, bytes: u32) {
        self.deficit = self.deficit.saturating_sub(bytes.max(4096));
    }
}
