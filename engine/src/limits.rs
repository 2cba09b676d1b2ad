//! Every bound of the engine, in one place, and how they relate.

/// Where there is little room for in-capsule data, a connection that has as many commands under way waits with the next that
/// carries some. (Over TCP only those that carry some count: the data of others may come behind the one that waits.)
pub const FEW: u32 = 8;
/// Mail read per turn. Much of it is connections to begin, which cost a core some 10 us each: a storm of them shall not
/// keep other hosts waiting.
pub const MAIL_PER_TURN: usize = 16;
/// Things taken from one fabric per turn.
pub const INBOUND_PER_TURN: usize = 256;
/// As how many of these a connection counts that opens or ends, for the same reason.
pub const CONNECTION_COUNTS_AS: usize = 16;
/// Completions taken from one drive per turn.
pub const DONE_PER_TURN: usize = 256;
/// Commands per I/O queue, the largest SQSIZE + 1 (CAP.MQES + 1).
pub const IO_DEPTH_MAX: u16 = 1024;
/// Commands per admin queue.
pub const ADMIN_DEPTH_MAX: u16 = 256;
/// I/O queues per controller.
pub const IO_QUEUES_MAX: u16 = 128;
/// A command's data is cut into parts of at most this many bytes, one request to a drive each.
/// Drives that take less say so in `DriveInfo::max_transfer`.
pub const CHUNK_LEN: u32 = 128 * 1024;
/// Parts of one command that are under way at once. The first is enough for progress.
pub const CHUNKS_PER_COMMAND: usize = 4;
/// Bytes of a queue's reads of several parts that are under way at once; the next ones wait for these to be answered. It is
/// what keeps a drive busy: more would have all of a deep queue's reads get on together, and none of them done for long.
pub const LARGE_READS: u32 = 4 << 20;
/// Lists for the Bufs of a part, and places for the parts of large commands, that a core makes at its start. Should more
/// be under way at once, more are made, and kept.
pub const LISTS: usize = 1024;
/// Largest data transfer of one command: MDTS of 2^8 pages of 4 KiB.
pub const TRANSFER_MAX: u32 = 1 << 20;
/// MDTS as reported: a power of two of CAP.MPSMIN (4 KiB) pages.
pub const MDTS: u8 = 8;
/// In-capsule data of an I/O command, in bytes (IOCCSZ less the SQE).
pub const IN_CAPSULE: u32 = 8192;
/// In-capsule data of admin and Fabrics commands (NVMe/TCP: at least 8192).
pub const IN_CAPSULE_ADMIN: u32 = 8192;
/// Bytes that Write Zeroes and Verify hand to a drive in one request: the host's whole
/// command may be 65,536 blocks, and other hosts' commands go between its parts.
pub const SLICE_LEN: u32 = 1 << 20;
/// Outstanding Asynchronous Event Requests of a controller (AERL + 1).
pub const AERS_MAX: usize = 4;
/// Entries kept in a controller's error log (ELPE + 1).
pub const ERROR_LOG_ENTRIES: usize = 64;
/// Namespaces of a subsystem (NN, MNAN).
pub const NAMESPACES_MAX: u32 = 1024;
/// Keep-alive granularity in 100 ms (KAS).
pub const KAS: u16 = 10;
/// The slowest I/Os of a core that are kept.
pub const SLOWEST: usize = 64;
/// How long a pair of namespace and host must have been without I/O before its counters may become
/// another pair's, in ms.
pub const SERIES_IDLE_MS: u64 = 600_000;
/// How long pairs that found no counters free do without before they look again, in ms.
pub const SERIES_FULL_MS: u64 = 1000;
/// The time a host has between a transport's handshake and Connect, in ms.
pub const CONNECT_MS: u64 = 10_000;
/// Slots of a core beyond those promised to connected queues: connections that have not got through
/// their Connect have these, and half of what nobody was promised yet.
pub const STRANGERS: usize = 64;
/// Commands of one such connection: Connect, and one more to be told that it comes too early.
pub const STRANGER_COMMANDS: u32 = 2;
/// How long commands that wait for their hosts may hold up a change of the table, in ms. Then they end
/// with Command Interrupted.
pub const DRAIN_MS: u64 = 2_000;
/// How long a new queue of a host waits for commands of its dead associations, in ms.
pub const STALE_WAIT_MS: u64 = 20_000;

const _: () = assert!(TRANSFER_MAX == 4096 << MDTS);
const _: () = assert!(TRANSFER_MAX.is_multiple_of(CHUNK_LEN));
const _: () = assert!(IN_CAPSULE <= CHUNK_LEN);
const _: () = assert!((CHUNK_LEN as usize).is_multiple_of(ferroce_buf::PAGE));
