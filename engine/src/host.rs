//! The host's half of NVMe that no transport changes: command identifiers, the commands a host
//! sends, and the way a controller is enabled and shut down. The PCIe driver and the fabrics hosts
//! are both built on it.
//!
//! What moves the bytes (doorbells, capsules, Property Get and Set) and what the clock says is the
//! caller's business; nothing here waits. Builders for commands with richer fields (Identify, Get
//! Log Page, features, Dataset Management) are associated functions of [`Sqe`] next to their data.

use std::fmt;

use ferroce_wire::fabrics::{ConnectCmd, Disconnect, PropertyGet, PropertySet};
use ferroce_wire::opcode::{AdminOpcode, NvmOpcode};
use ferroce_wire::prop::{Cap, Cc, Crto, Csts, PropertyOffset};
use ferroce_wire::sqe::{Sgl, Sqe};

use crate::port::Tick;

/// The commands of one queue that have no answer yet, by CID.
///
/// A CID is a slot in its low bits and the slot's generation above, as far as the depth leaves room:
/// an answer that comes twice, or to a command of long ago, names a generation that is over. FFFFh is
/// never used (Base 4.1.1: the Error Information log means "no command" by it).
#[derive(Debug)]
pub struct CidTable<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u16>,
    slot_bits: u32,
    /// That many ones.
    slot_mask: u16,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u16,
    held: Option<T>,
}

impl<T> CidTable<T> {
    /// The largest depth there may be: FFFFh is no CID, and slots fill whole bits.
    pub const DEPTH_MAX: u16 = 1 << 15;

    /// A table for `depth` commands at a time.
    ///
    /// # Panics
    /// Unless `depth` is 1 to `DEPTH_MAX`.
    pub fn new(depth: u16) -> CidTable<T> {
        assert!(
            (1..=Self::DEPTH_MAX).contains(&depth),
            "a queue has 1 to 32768 commands"
        );
        let slot_bits = u32::from(depth).next_power_of_two().trailing_zeros();
        let slots = (0..depth)
            .map(|_| Slot {
                generation: 0,
                held: None,
            })
            .collect();
        CidTable {
            slots,
            // The last is taken first; low slots first keeps the caches warm.
            free: (0..depth).rev().collect(),
            slot_bits,
            slot_mask: ((1u32 << slot_bits) - 1) as u16,
        }
    }

    /// The CID the next [`CidTable::insert`] will give; None while the table is full.
    #[inline]
    pub fn next_cid(&self) -> Option<u16> {
        let &slot = self.free.last()?;
        Some(self.cid(slot, self.slots[usize::from(slot)].generation))
    }

    /// Takes a CID for a command.
    ///
    /// # Errors
    /// Gives the value back if all CIDs are taken.
    #[inline]
    pub fn insert(&mut self, value: T) -> Result<u16, T> {
        let Some(slot) = self.free.pop() else {
            return Err(value);
        };
        let place = &mut self.slots[usize::from(slot)];
        place.held = Some(value);
        let generation = place.generation;
        Ok(self.cid(slot, generation))
    }

    /// The command with this CID; None if there is none, whatever number a peer sent.
    #[inline]
    pub fn get(&self, cid: u16) -> Option<&T> {
        let (slot, generation) = self.split(cid);
        let place = self.slots.get(slot)?;
        place
            .held
            .as_ref()
            .filter(|_| place.generation == generation)
    }

    /// As [`CidTable::get`], to change it.
    #[inline]
    pub fn get_mut(&mut self, cid: u16) -> Option<&mut T> {
        let (slot, generation) = self.split(cid);
        let place = self.slots.get_mut(slot)?;
        let current = place.generation;
        place.held.as_mut().filter(|_| current == generation)
    }

    /// The command in the slot of a CID that this table gave a moment ago.
    ///
    /// # Panics
    /// If there is none.
    #[inline]
    pub fn in_slot_mut(&mut self, slot: usize) -> &mut T {
        let held = self.slots[slot].held.as_mut();
        held.expect("its slot is taken")
    }

    /// The command with this CID was answered; None if there is none.
    #[inline]
    pub fn remove(&mut self, cid: u16) -> Option<T> {
        self.remove_if(cid, |_| true)
    }

    /// As [`CidTable::remove`], if the command is done with: else it stays, and None is returned as well.
    #[inline]
    pub fn remove_if(&mut self, cid: u16, done: impl FnOnce(&mut T) -> bool) -> Option<T> {
        let (slot, generation) = self.split(cid);
        let generations = 1u32 << (16 - self.slot_bits);
        let place = self.slots.get_mut(slot)?;
        if place.generation != generation || !done(place.held.as_mut()?) {
            return None;
        }
        let value = place.held.take()?;
        // All ones is left out, so that no CID is FFFFh.
        place.generation = if u32::from(place.generation) + 2 < generations {
            place.generation + 1
        } else {
            0
        };
        self.free.push(slot as u16);
        Some(value)
    }

    /// The CIDs in use, in the order of their slots.
    pub fn cids(&self) -> impl Iterator<Item = u16> + '_ {
        let slots = self.slots.iter().enumerate();
        slots
            .filter(|(_, place)| place.held.is_some())
            .map(|(slot, place)| self.cid(slot as u16, place.generation))
    }

    /// The slot of a CID that this table gave: below the depth, and one command's alone while it has no
    /// answer.
    #[inline]
    pub fn slot(&self, cid: u16) -> usize {
        self.split(cid).0
    }

    /// The CID of the command in a slot, if there is one.
    pub fn cid_in(&self, slot: usize) -> Option<u16> {
        let place = self.slots.get(slot)?;
        place.held.as_ref()?;
        Some(self.cid(slot as u16, place.generation))
    }

    /// How many commands have no answer.
    #[inline]
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// True if no command is without an answer.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many commands there may be at a time.
    pub fn depth(&self) -> usize {
        self.slots.len()
    }

    fn cid(&self, slot: u16, generation: u16) -> u16 {
        // With 16 slot bits there would be no generation; DEPTH_MAX keeps them at 15 or fewer.
        generation << self.slot_bits | slot
    }

    fn split(&self, cid: u16) -> (usize, u16) {
        (usize::from(cid & self.slot_mask), cid >> self.slot_bits)
    }
}

/// A Read of `blocks` blocks from `slba` (NVM 3.3.4).
pub const fn read(nsid: u32, slba: u64, blocks: u32) -> Sqe {
    Sqe::lba_range(NvmOpcode::READ, nsid, slba, blocks)
}

/// A Write of `blocks` blocks from `slba` (NVM 3.3.6).
pub const fn write(nsid: u32, slba: u64, blocks: u32, fua: bool) -> Sqe {
    let mut sqe = Sqe::lba_range(NvmOpcode::WRITE, nsid, slba, blocks);
    sqe.set_fua(fua);
    sqe
}

/// A Compare of `blocks` blocks from `slba` with the data sent (NVM 3.3.1).
pub const fn compare(nsid: u32, slba: u64, blocks: u32) -> Sqe {
    Sqe::lba_range(NvmOpcode::COMPARE, nsid, slba, blocks)
}

/// A Write Zeroes over `blocks` blocks from `slba`, which may give the space back (NVM 3.3.8).
pub fn write_zeroes(nsid: u32, slba: u64, blocks: u32, deallocate: bool) -> Sqe {
    let mut sqe = Sqe::lba_range(NvmOpcode::WRITE_ZEROES, nsid, slba, blocks);
    if deallocate {
        sqe.cdw12.set(sqe.cdw12.get() | Sqe::CDW12_DEAC);
    }
    sqe
}

/// A Verify of `blocks` blocks from `slba` (NVM 3.3.5).
pub const fn verify(nsid: u32, slba: u64, blocks: u32) -> Sqe {
    Sqe::lba_range(NvmOpcode::VERIFY, nsid, slba, blocks)
}

/// A Flush of a namespace (Base 7.2).
pub const fn flush(nsid: u32) -> Sqe {
    Sqe::new(NvmOpcode::FLUSH.0).with_ids(0, nsid)
}

/// A Keep Alive (Base 5.1.14).
pub const fn keep_alive() -> Sqe {
    Sqe::new(AdminOpcode::KEEP_ALIVE.0)
}

/// An Asynchronous Event Request (Base 5.1.2): answered when there is an event.
pub const fn async_event_request() -> Sqe {
    Sqe::new(AdminOpcode::ASYNC_EVENT_REQUEST.0)
}

/// A Connect of queue `qid` with `entries` entries (Base 6.3); its data is a `ConnectData`.
///
/// # Panics
/// Unless `entries` is 1 to 65536.
pub fn connect(qid: u16, entries: u32, cattr: u8, kato_ms: u32) -> Sqe {
    assert!(
        (1..=0x1_0000).contains(&entries),
        "SQSIZE is a zero-based 16-bit count"
    );
    ConnectCmd::new(qid, (entries - 1) as u16, cattr, kato_ms, Sgl::NONE).to_sqe()
}

/// A Disconnect of the queue it is sent on (Base 6.3).
pub fn disconnect() -> Sqe {
    Disconnect::new().to_sqe()
}

/// A Property Get (Base 6.4); [`ferroce_wire::Cqe::result64`] has the value.
pub fn property_get(at: PropertyOffset) -> Sqe {
    PropertyGet::new(at.0, property_size(at)).to_sqe()
}

/// A Property Set (Base 6.5).
pub fn property_set(at: PropertyOffset, value: u64) -> Sqe {
    PropertySet::new(at.0, property_size(at), value).to_sqe()
}

/// ATTRIB of a property: its size.
const fn property_size(at: PropertyOffset) -> u8 {
    if is_64_bit(at) {
        ferroce_wire::fabrics::PROPERTY_SIZE_8
    } else {
        ferroce_wire::fabrics::PROPERTY_SIZE_4
    }
}

/// True for the properties of eight bytes. On PCIe those are two 32-bit accesses, low half first.
pub const fn is_64_bit(at: PropertyOffset) -> bool {
    matches!(
        at,
        PropertyOffset::CAP | PropertyOffset::ASQ | PropertyOffset::ACQ
    )
}

/// What [`Bringup`] asks its caller to do next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Read this property and call [`Bringup::got`].
    Get(PropertyOffset),
    /// Write this property and call [`Bringup::done`].
    Set(PropertyOffset, u64),
    /// The controller is disabled: PCIe writes AQA, ASQ and ACQ now, fabrics have nothing to do.
    /// Then call [`Bringup::done`].
    Program,
    /// Ask again at this time; nothing to do before.
    Wait(Tick),
    /// The goal is reached.
    Ready,
}

/// What is wanted of a controller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Goal {
    /// CSTS.RDY is 1, whatever it was before (Base 3.5.1, 3.5.3): a controller found enabled is
    /// disabled first, so that nothing of an earlier host is left in it.
    Enabled,
    /// CSTS.RDY is 0: a Controller Reset, and it stays so.
    Disabled,
    /// A normal shutdown is complete (Base 3.6).
    ShutDown,
}

/// Brings a controller to a [`Goal`], as a machine: it says which property to read or write next.
/// The same over MMIO and over Property Get and Set.
#[derive(Debug)]
pub struct Bringup {
    goal: Goal,
    state: State,
    /// What was found, for timeouts and for the caller.
    cap: Cap,
    cc: Cc,
    ready_timeout_ms: u32,
    shutdown_timeout_ms: u32,
    disable_pause_ms: u32,
    deadline: Tick,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Cap,
    Crto,
    Cc,
    /// It is enabled: waiting for RDY 1, or what says that it will not come.
    Settling(Tick),
    Disable,
    /// Waiting for RDY 0; not to be asked again before the tick.
    Falling(Tick),
    Program,
    Enable,
    /// Waiting for RDY 1.
    Rising(Tick),
    Notify,
    /// Waiting for SHST "complete".
    ShuttingDown(Tick),
    Ready,
}

/// Why a controller did not get there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BringupError {
    /// CSTS.CFS: the controller has failed and says so.
    Fatal,
    /// Every bit reads as 1: the device is not there, or not yet again after a reset of its function or link.
    Gone,
    /// RDY did not change within CAP.TO or CRTO.
    ReadyTimeout {
        /// RDY as it was wanted.
        wanted: bool,
        /// How long was waited.
        ms: u32,
    },
    /// The shutdown did not complete.
    ShutdownTimeout {
        /// How long was waited.
        ms: u32,
    },
    /// The controller's smallest page is larger than 4 KiB.
    PageSize {
        /// CAP.MPSMIN.
        mpsmin: u8,
    },
    /// CAP.CSS says something, and neither the NVM Command Set nor a list of command sets nor "admin only".
    CommandSets {
        /// CAP.CSS.
        css: u8,
    },
}

/// Between two looks at CSTS. Fabrics controllers are ready at once; drives take milliseconds.
const POLL_MS: u64 = 2;
/// Shortest time a controller is given whatever CAP.TO says: some say 0.
const READY_MIN_MS: u32 = 2_000;

impl Bringup {
    /// Starts. `shutdown_timeout_ms` matters for [`Goal::ShutDown`]: RTD3E, or some seconds.
    pub fn new(goal: Goal, shutdown_timeout_ms: u32) -> Bringup {
        Bringup {
            goal,
            state: State::Cap,
            cap: Cap::default(),
            cc: Cc::default(),
            ready_timeout_ms: 0,
            shutdown_timeout_ms,
            disable_pause_ms: 0,
            deadline: Tick::default(),
        }
    }

    /// Reads nothing for so long after the controller was disabled: there are drives that want that.
    #[must_use]
    pub fn with_disable_pause_ms(mut self, ms: u32) -> Bringup {
        self.disable_pause_ms = ms;
        self
    }

    /// CAP, once past the first step.
    pub fn cap(&self) -> Cap {
        self.cap
    }

    /// How long it may take to become ready, or to be disabled, by its own word (CAP.TO, Base 3.1.4.1; CRTO.CRWMT, Base
    /// 3.1.4.21), in milliseconds; 0 before that is read.
    pub fn ready_timeout_ms(&self) -> u32 {
        self.ready_timeout_ms
    }

    /// What to do next.
    pub fn next(&self, now: Tick) -> Step {
        let poll = |at: Tick| {
            if at > now {
                Step::Wait(at)
            } else {
                Step::Get(PropertyOffset::CSTS)
            }
        };
        match self.state {
            State::Cap => Step::Get(PropertyOffset::CAP),
            State::Crto => Step::Get(PropertyOffset::CRTO),
            State::Cc => Step::Get(PropertyOffset::CC),
            State::Disable => {
                let cc = self.cc.with_en(false).with_shn(Cc::SHN_NONE);
                Step::Set(PropertyOffset::CC, u64::from(cc.0))
            }
            State::Settling(at)
            | State::Falling(at)
            | State::Rising(at)
            | State::ShuttingDown(at) => poll(at),
            State::Program => Step::Program,
            State::Enable => Step::Set(PropertyOffset::CC, u64::from(enabling(self.cap).0)),
            State::Notify => {
                let cc = self.cc.with_shn(Cc::SHN_NORMAL);
                Step::Set(PropertyOffset::CC, u64::from(cc.0))
            }
            State::Ready => Step::Ready,
        }
    }

    /// The value of the property that [`Step::Get`] named.
    ///
    /// # Errors
    /// The controller cannot be brought there.
    pub fn got(&mut self, value: u64, now: Tick) -> Result<(), BringupError> {
        match self.state {
            State::Cap => {
                if value == u64::MAX {
                    return Err(BringupError::Gone);
                }
                self.cap = Cap(value);
                self.ready_timeout_ms = self.cap.timeout_ms().max(READY_MIN_MS);
                if self.goal == Goal::Enabled {
                    check(self.cap)?;
                }
                self.state = if self.cap.crwms() {
                    State::Crto
                } else {
                    State::Cc
                };
            }
            State::Crto => {
                // CRTO has more bits than CAP.TO and wins where it is larger (Base 3.1.4.21).
                let crwmt_ms = u32::from(Crto(value as u32).crwmt()) * 500;
                self.ready_timeout_ms = self.ready_timeout_ms.max(crwmt_ms);
                self.state = State::Cc;
            }
            State::Cc => {
                if value as u32 == u32::MAX {
                    return Err(BringupError::Gone);
                }
                self.cc = Cc(value as u32);
                self.deadline = now.plus_ms(u64::from(self.ready_timeout_ms));
                self.state = match self.goal {
                    Goal::ShutDown => State::Notify,
                    Goal::Enabled | Goal::Disabled if self.cc.en() => State::Settling(now),
                    // A reset may still be under way: RDY must be seen at 0.
                    Goal::Enabled | Goal::Disabled => State::Falling(now),
                };
            }
            State::Settling(_) => {
                let csts = status(value)?;
                // To clear CC.EN while RDY is 0 has undefined results (Base 3.1.4.5). One that never becomes ready is
                // disabled all the same.
                let settled = csts.rdy() || csts.cfs() || csts.shst() != 0;
                self.state = match settled || now >= self.deadline {
                    true => State::Disable,
                    false => State::Settling(now.plus_ms(POLL_MS)),
                };
            }
            State::Falling(_) => {
                let csts = status(value)?;
                if !csts.rdy() {
                    self.state = match self.goal {
                        Goal::Enabled => State::Program,
                        Goal::Disabled | Goal::ShutDown => State::Ready,
                    };
                } else if now >= self.deadline {
                    return Err(self.ready_timeout(false));
                } else {
                    self.state = State::Falling(now.plus_ms(POLL_MS));
                }
            }
            State::Rising(_) => {
                let csts = status(value)?;
                if csts.cfs() {
                    return Err(BringupError::Fatal);
                }
                if csts.rdy() {
                    self.state = State::Ready;
                } else if now >= self.deadline {
                    return Err(self.ready_timeout(true));
                } else {
                    self.state = State::Rising(now.plus_ms(POLL_MS));
                }
            }
            State::ShuttingDown(_) => {
                let csts = status(value)?;
                if csts.shst() == Csts::SHST_COMPLETE {
                    self.state = State::Ready;
                } else if csts.cfs() {
                    return Err(BringupError::Fatal);
                } else if now >= self.deadline {
                    let ms = self.shutdown_timeout_ms;
                    return Err(BringupError::ShutdownTimeout { ms });
                } else {
                    self.state = State::ShuttingDown(now.plus_ms(POLL_MS));
                }
            }
            State::Disable | State::Program | State::Enable | State::Notify | State::Ready => {
                panic!("{:?} did not ask for a property", self.state)
            }
        }
        Ok(())
    }

    /// What [`Step::Set`] or [`Step::Program`] asked for was done.
    pub fn done(&mut self, now: Tick) {
        let ready_by = now.plus_ms(u64::from(self.ready_timeout_ms));
        match self.state {
            State::Disable => {
                let pause_ms = u64::from(self.disable_pause_ms);
                self.deadline = ready_by.plus_ms(pause_ms);
                self.state = State::Falling(now.plus_ms(pause_ms));
            }
            State::Program => self.state = State::Enable,
            State::Enable => {
                self.deadline = ready_by;
                self.state = State::Rising(now);
            }
            State::Notify => {
                self.deadline = now.plus_ms(u64::from(self.shutdown_timeout_ms));
                self.state = State::ShuttingDown(now);
            }
            State::Cap
            | State::Crto
            | State::Cc
            | State::Settling(_)
            | State::Falling(_)
            | State::Rising(_)
            | State::ShuttingDown(_)
            | State::Ready => panic!("{:?} asked for nothing to be done", self.state),
        }
    }

    fn ready_timeout(&self, wanted: bool) -> BringupError {
        BringupError::ReadyTimeout {
            wanted,
            ms: self.ready_timeout_ms,
        }
    }
}

/// What a controller must be for us to enable it.
fn check(cap: Cap) -> Result<(), BringupError> {
    if cap.mpsmin() != 0 {
        let mpsmin = cap.mpsmin();
        return Err(BringupError::PageSize { mpsmin });
    }
    // Some say nothing, and have the NVM Command Set.
    let known = Cap::CSS_NVM | Cap::CSS_IOCSS | Cap::CSS_NOIOCSS;
    if cap.css() != 0 && cap.css() & known == 0 {
        return Err(BringupError::CommandSets { css: cap.css() });
    }
    Ok(())
}

/// CC that enables a controller: all its command sets, pages of 4 KiB, entries of 64 and 16 bytes.
fn enabling(cap: Cap) -> Cc {
    let css = if cap.css() & Cap::CSS_IOCSS != 0 {
        Cc::CSS_ALL
    } else if cap.css() & Cap::CSS_NVM != 0 || cap.css() == 0 {
        Cc::CSS_NVM
    } else {
        Cc::CSS_ADMIN
    };
    Cc::default()
        .with_css(css)
        .with_iosqes(Cc::IOSQES_64)
        .with_iocqes(Cc::IOCQES_16)
        .with_en(true)
}

/// CSTS, unless the device is gone.
fn status(value: u64) -> Result<Csts, BringupError> {
    if value as u32 == u32::MAX {
        return Err(BringupError::Gone);
    }
    Ok(Csts(value as u32))
}

impl fmt::Display for BringupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Fatal => f.write_str("the controller reports a fatal error (CSTS.CFS)"),
            Self::Gone => f.write_str("the controller is gone: its registers read as all ones"),
            Self::ReadyTimeout { wanted, ms } => write!(
                f,
                "the controller did not set CSTS.RDY to {} within {ms} ms",
                u8::from(wanted)
            ),
            Self::ShutdownTimeout { ms } => {
                write!(f, "the controller did not shut down within {ms} ms")
            }
            Self::PageSize { mpsmin } => write!(
                f,
                "the controller's smallest memory page is {} bytes; 4096 are needed",
                4096u64 << mpsmin
            ),
            Self::CommandSets { css } => {
                write!(
                    f,
                    "the controller has no command set we know (CAP.CSS {css:02X}h)"
                )
            }
        }
    }
}

impl std::error::Error for BringupError {}

#[cfg(test)]
mod tests;
