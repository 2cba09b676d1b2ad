//! Bugs that can be planted, one at a time, to see that the simulation finds them. Without the feature
//! `plant` there is no trace of them in the code that is compiled.

/// A bug.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Bug {
    /// A command's slot is used again with its generation unchanged.
    GenerationKept = 1,
    /// SQHD is one too far.
    HeadTooFar,
    /// Bufs of an abandoned command are not returned.
    BufsLost,
    /// A new queue is admitted while writes of a dead association are at a drive.
    StaleAdmitted,
    /// An answered command stays counted under its table.
    ParityKept,
    /// Parts leave as they come, not in order.
    OrderIgnored,
    /// An error of the drive is taken for success.
    ErrorSwallowed,
    /// A command is answered twice.
    AnsweredTwice,
    /// A core says that it has drained while commands of the old table are in flight.
    DrainedEarly,
    /// A RAM drive's page is let go while it is on its way to a host.
    PageEarly,
    /// The last part of a Compare is not compared.
    CompareShort,
    /// Flush is acknowledged without asking the drive.
    FlushEarly,
    /// Force Unit Access is not passed on.
    FuaDropped,
    /// Force Unit Access of what reads is not heeded.
    FuaReadDropped,
    /// A failed command is answered while its data is being fetched.
    AnsweredFetching,
    /// A controller's reset is done while its queues are still there.
    ResetEarly,
    /// Where in-capsule data has to wait all commands do, and the Keep Alive Timer runs.
    AllWait,
    /// One host may hold all buffers.
    HoldsAll,
    /// A RAM drive lends all pages it has.
    LendsAll,
    /// A change waits for commands that wait for their hosts.
    DrainsForEver,
    /// Commands that a lost I/O queue left at a drive are not waited for.
    LostQueueForgotten,
    /// A READ is taken for whole when its last packet came, whatever was lost before.
    ReadHoles,
    /// A request that comes a second time is carried out again.
    Repeated,
    /// Bufs of RECVs are lost with their queue pair.
    RecvsLost,
    /// A large read that is answered lets none of those behind it begin.
    LeftBehind,
}

impl Bug {
    /// All there are, by the name they are asked for.
    pub const ALL: [(&'static str, Bug); 25] = [
        ("generation-kept", Bug::GenerationKept),
        ("head-too-far", Bug::HeadTooFar),
        ("bufs-lost", Bug::BufsLost),
        ("stale-admitted", Bug::StaleAdmitted),
        ("parity-kept", Bug::ParityKept),
        ("order-ignored", Bug::OrderIgnored),
        ("error-swallowed", Bug::ErrorSwallowed),
        ("answered-twice", Bug::AnsweredTwice),
        ("drained-early", Bug::DrainedEarly),
        ("page-early", Bug::PageEarly),
        ("compare-short", Bug::CompareShort),
        ("flush-early", Bug::FlushEarly),
        ("fua-dropped", Bug::FuaDropped),
        ("fua-read-dropped", Bug::FuaReadDropped),
        ("answered-fetching", Bug::AnsweredFetching),
        ("reset-early", Bug::ResetEarly),
        ("all-wait", Bug::AllWait),
        ("holds-all", Bug::HoldsAll),
        ("lends-all", Bug::LendsAll),
        ("drains-for-ever", Bug::DrainsForEver),
        ("lost-queue-forgotten", Bug::LostQueueForgotten),
        ("read-holes", Bug::ReadHoles),
        ("repeated", Bug::Repeated),
        ("recvs-lost", Bug::RecvsLost),
        ("left-behind", Bug::LeftBehind),
    ];
}

#[cfg(feature = "plant")]
static PLANTED: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(0);

/// Plants a bug in this process, or none.
#[cfg(feature = "plant")]
pub fn plant(bug: Option<Bug>) {
    let number = bug.map_or(0, |bug| bug as u8);
    PLANTED.store(number, std::sync::atomic::Ordering::Relaxed);
}

/// True if this bug is planted.
#[cfg(feature = "plant")]
#[inline]
pub fn on(bug: Bug) -> bool {
    PLANTED.load(std::sync::atomic::Ordering::Relaxed) == bug as u8
}

/// Nothing is planted.
#[cfg(not(feature = "plant"))]
#[inline(always)]
pub const fn on(_bug: Bug) -> bool {
    false
}
