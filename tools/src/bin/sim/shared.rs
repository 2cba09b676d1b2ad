//! What every part of the simulation has in common: the virtual clock, the agenda of what is to happen,
//! and the trace of what did.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::rc::Rc;

/// Nanoseconds of a microsecond.
pub const US: u64 = 1_000;
/// Nanoseconds of a millisecond.
pub const MS: u64 = 1_000_000;
/// Nanoseconds of a second.
pub const S: u64 = 1_000_000_000;

/// Something that is to happen at a time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Event {
    /// A core of this life of the node takes a turn.
    Turn { life: u32, core: usize },
    /// Something came for a core: if it sleeps, it wakes.
    Wake { life: u32, core: usize },
    /// The control thread looks at its mail.
    Control { life: u32 },
    /// Something came for a host on a link.
    ToHost { link: u32 },
    /// Something came for a host's end of a link by RDMA, or a timer of it is due.
    Packet { link: u32 },
    /// Something came for what listens for RDMA.
    Knock,
    /// A path of a host does its next thing.
    Path { path: usize },
    /// A drive carries out a request: the data moves.
    Apply { disk: usize, request: u64 },
    /// A drive is done with a request.
    Done { disk: usize, request: u64 },
    /// The operator does something.
    Operator,
    /// Something goes wrong.
    Fault,
    /// A node that was stopped or crashed starts again.
    Start,
    /// A stop that was asked for has taken long enough.
    StopLimit { life: u32 },
    /// The simulation looks whether it is over.
    Check,
}

/// Shared by everything in one run.
#[derive(Debug)]
pub struct Shared {
    now: Cell<u64>,
    agenda: RefCell<BinaryHeap<Reverse<(u64, u64, Event)>>>,
    entries: Cell<u64>,
    hash: Cell<u64>,
    print: bool,
    /// Which life of the node it is; events of earlier lives mean nothing.
    pub life: Cell<u32>,
    /// No more faults: everything is quick, nothing fails.
    pub calm: Cell<bool>,
    /// A dead node is being cleared away: what waits for time does not wait.
    pub hurry: Cell<bool>,
}

pub type Common = Rc<Shared>;

impl Shared {
    pub fn new(print: bool) -> Common {
        Rc::new(Shared {
            now: Cell::new(0),
            agenda: RefCell::new(BinaryHeap::new()),
            entries: Cell::new(0),
            hash: Cell::new(0xCBF2_9CE4_8422_2325),
            print,
            life: Cell::new(0),
            calm: Cell::new(false),
            hurry: Cell::new(false),
        })
    }

    /// The virtual time in ns.
    pub fn now(&self) -> u64 {
        self.now.get()
    }

    /// Plans an event.
    pub fn at(&self, time: u64, event: Event) {
        let entry = self.entries.get();
        self.entries.set(entry + 1);
        let time = time.max(self.now());
        self.agenda.borrow_mut().push(Reverse((time, entry, event)));
    }

    /// Plans an event some ns from now.
    pub fn after(&self, ns: u64, event: Event) {
        self.at(self.now() + ns, event);
    }

    /// Wakes a core of the node that lives.
    pub fn wake_at(&self, time: u64, core: usize) {
        let life = self.life.get();
        self.at(time, Event::Wake { life, core });
    }

    /// Goes on to the next event.
    pub fn next(&self) -> Option<Event> {
        let Reverse((time, _, event)) = self.agenda.borrow_mut().pop()?;
        self.now.set(time);
        Some(event)
    }

    /// Something happened: it becomes part of the trace.
    pub fn note(&self, what: &'static str, values: &[u64]) {
        let mut hash = self.hash.get();
        let mut mix = |value: u64| {
            hash = (hash ^ value)
                .wrapping_mul(0x9E37_79B9_7F4A_7C15)
                .rotate_left(23);
        };
        mix(self.now());
        what.bytes().for_each(|byte| mix(byte.into()));
        values.iter().for_each(|&value| mix(value));
        self.hash.set(hash);
        if self.print {
            let values: Vec<String> = values.iter().map(u64::to_string).collect();
            self.say(&format!("{what} {}", values.join(" ")));
        }
    }

    /// A line of the printed trace that adds nothing to its hash.
    pub fn say(&self, line: &str) {
        if self.print {
            println!("{:>14.3} us  {line}", self.now() as f64 / 1e3);
        }
    }

    /// The trace is printed.
    pub fn prints(&self) -> bool {
        self.print
    }

    /// A number that two runs have in common only if the same things happened at the same times.
    pub fn hash(&self) -> u64 {
        self.hash.get()
    }
}

/// Randomness with the words a simulation needs.
pub trait Chance {
    /// True once in `n`.
    fn once_in(&mut self, n: u32) -> bool;
    /// From low to high, both included, small values more likely than large ones.
    fn skewed(&mut self, low: u64, high: u64) -> u64;
    /// One of these.
    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T;
}

impl Chance for fastrand::Rng {
    fn once_in(&mut self, n: u32) -> bool {
        n > 0 && self.u32(0..n) == 0
    }

    fn skewed(&mut self, low: u64, high: u64) -> u64 {
        let (low_bits, high_bits) = ((low.max(1)).ilog2(), high.max(1).ilog2());
        let bits = self.u32(low_bits..=high_bits);
        self.u64(1 << bits..=(1 << bits) * 2 - 1).clamp(low, high)
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.usize(0..from.len())]
    }
}
