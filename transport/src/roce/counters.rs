//! What happened to packets: how many came and went, and why some were dropped.

macro_rules! dropped {
    ($($(#[$doc:meta])* $Name:ident = $text:literal,)*) => {
        /// Why a packet changed nothing.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Dropped {
            $($(#[$doc])* $Name,)*
        }

        impl Dropped {
            /// All reasons, in the order of their numbers.
            pub const ALL: &[Dropped] = &[$(Dropped::$Name,)*];

            /// For metrics: what its counter is called.
            pub const fn counter(self) -> &'static str {
                match self {
                    $(Dropped::$Name => concat!("dropped_", $text),)*
                }
            }
        }
    };
}

dropped! {
    /// Shorter than its headers say, or not in whole words.
    Short = "short",
    /// A transport header version that is not 0.
    Version = "version",
    /// A partition other than the default.
    Partition = "partition",
    /// An opcode of a service that is not reliable connected.
    Opcode = "opcode",
    /// The ICRC does not match.
    Icrc = "icrc",
    /// No queue pair has this number.
    Qpn = "qpn",
    /// The sender's address is not that of the queue pair's peer.
    Peer = "peer",
    /// The queue pair is not, or no longer, connected.
    State = "state",
    /// A request that was executed before.
    Duplicate = "duplicate",
    /// A request whose predecessors are missing.
    Gap = "gap",
    /// An answer to nothing that is outstanding, or a request from far beyond what the peer can have come to.
    Stray = "stray",
    /// A READ response out of order.
    ReadOrder = "read_order",
    /// A request that breaks the protocol; the connection ends.
    Invalid = "invalid",
    /// A request for memory that was not granted; the connection ends.
    Access = "access",
    /// A request without a receive buffer.
    NotReady = "not_ready",
    /// A management datagram that cannot be understood.
    Mad = "mad",
    /// A management datagram about a connection we do not know.
    CmUnknown = "cm_unknown",
    /// A management datagram that was heard before, or does not fit the state.
    CmState = "cm_state",
    /// A connection request beyond what may be pending.
    CmFlood = "cm_flood",
    /// Dropped on purpose, for tests.
    Injected = "injected",
}

/// Counts of one core, since its start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    dropped: [u64; Dropped::ALL.len()],
    /// Packets that came and were looked at.
    pub received: u64,
    /// Packets that were sent, retransmissions with them.
    pub sent: u64,
    /// Packets sent again.
    pub resent: u64,
    /// Requests that came before others, and wait for these a moment instead of being dropped.
    pub early: u64,
    /// Acknowledgements that never came in time.
    pub timeouts: u64,
    /// NAKs for missing packets that came.
    pub naks_received: u64,
    /// NAKs for missing packets that went.
    pub naks_sent: u64,
    /// Bytes copied out of packets into Bufs.
    pub copied: u64,
    /// Datagrams the system dropped for want of room in a socket's buffer.
    pub overflows: u64,
    /// Packets whose IPv4 identification had to be computed.
    pub ids_recovered: u64,
}

impl Counters {
    /// One more packet was dropped.
    pub fn drop(&mut self, why: Dropped) {
        self.dropped[why as usize] += 1;
    }

    /// Each count, by its name in metrics.
    pub fn each(&self, give: &mut dyn FnMut(&'static str, u64)) {
        for (name, count) in [
            ("received", self.received),
            ("sent", self.sent),
            ("resent", self.resent),
            ("early", self.early),
            ("timeouts", self.timeouts),
            ("naks_received", self.naks_received),
            ("naks_sent", self.naks_sent),
            ("bytes_copied", self.copied),
            ("overflows", self.overflows),
            ("ids_recovered", self.ids_recovered),
        ] {
            give(name, count);
        }
        for why in Dropped::ALL {
            give(why.counter(), self.dropped(*why));
        }
    }

    /// How many were dropped for this reason.
    pub fn dropped(&self, why: Dropped) -> u64 {
        self.dropped[why as usize]
    }
}
