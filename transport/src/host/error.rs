//! What can go wrong between a host and a target, in words for the person who has to mend it.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ferroce_engine::host::BringupError;
use ferroce_wire::fabrics::{ConnectData, ConnectRefusal, Nqn};
use ferroce_wire::status::Status;

use crate::rdma::host as rdma;
use crate::tcp::host::Broken;

/// Why something on the host's side failed: what was tried, on what, and the cause.
#[derive(Clone, Debug)]
pub enum HostError {
    /// No TCP connection could be made.
    Unreachable {
        /// To where.
        address: SocketAddr,
        /// What the system said.
        cause: Arc<io::Error>,
    },
    /// There is a TCP connection, but whoever answers does not speak NVMe/TCP.
    NotNvmeTcp {
        /// Where.
        address: SocketAddr,
        /// What came instead of ICResp.
        what: String,
    },
    /// The target does not turn on digests that were asked for.
    NoDigests {
        /// Where.
        address: SocketAddr,
    },
    /// The target refused Connect.
    ConnectRefused {
        /// Where.
        address: SocketAddr,
        /// The subsystem asked for.
        nqn: Box<Nqn>,
        /// Who asked.
        hostnqn: Box<Nqn>,
        /// The queue: 0 is the admin queue.
        qid: u16,
        /// What the target said.
        status: Status,
        /// Which parameter, if the status says that one was wrong.
        parameter: Option<ConnectRefusal>,
    },
    /// The target wants the host to authenticate, which this host cannot do yet.
    AuthenticationRequired {
        /// Where.
        address: SocketAddr,
        /// The subsystem asked for.
        nqn: Box<Nqn>,
    },
    /// The controller could not be enabled, disabled or shut down.
    Bringup(BringupError),
    /// A command that has to succeed did not.
    Command {
        /// Which.
        what: &'static str,
        /// What the target said.
        status: Status,
    },
    /// What a command brought makes no sense.
    Nonsense {
        /// What it was.
        what: &'static str,
    },
    /// No answer in time.
    Timeout {
        /// Of whom.
        address: SocketAddr,
        /// What was waited for.
        what: &'static str,
        /// How long.
        after: Duration,
    },
    /// The target broke the protocol, or says that we did.
    Protocol {
        /// Who.
        address: SocketAddr,
        /// What was received.
        broken: Broken,
    },
    /// The target closed the connection.
    Closed {
        /// Who.
        address: SocketAddr,
    },
    /// There is no queue pair for a connection by RDMA.
    NoQueuePair {
        /// To where.
        address: SocketAddr,
        /// Why.
        why: String,
    },
    /// There is no memory for the data of commands, or none that the RDMA device may reach.
    NoMemory {
        /// To whom they were to go.
        address: SocketAddr,
        /// Why.
        why: String,
    },
    /// A connection by RDMA could not be made, or broke.
    Rdma {
        /// To whom.
        address: SocketAddr,
        /// How.
        broken: rdma::Broken,
    },
    /// The connection broke.
    Lost {
        /// To whom.
        address: SocketAddr,
        /// What the system said.
        cause: Arc<io::Error>,
    },
    /// The wait was called off.
    Stopped,
}

impl HostError {
    /// True if the same may well succeed a little later: the target is away, restarts, or is busy.
    pub fn is_transient(&self) -> bool {
        match self {
            HostError::Unreachable { .. }
            | HostError::Timeout { .. }
            | HostError::Closed { .. }
            | HostError::Lost { .. } => true,
            HostError::ConnectRefused { status, .. } | HostError::Command { status, .. } => {
                !status.is_dnr()
            }
            HostError::Bringup(why) => matches!(
                why,
                BringupError::ReadyTimeout { .. } | BringupError::ShutdownTimeout { .. }
            ),
            HostError::Rdma { broken, .. } => broken.is_transient(),
            HostError::NotNvmeTcp { .. }
            | HostError::NoQueuePair { .. }
            | HostError::NoMemory { .. }
            | HostError::NoDigests { .. }
            | HostError::AuthenticationRequired { .. }
            | HostError::Nonsense { .. }
            | HostError::Protocol { .. }
            | HostError::Stopped => false,
        }
    }

    pub(super) fn lost(address: SocketAddr, cause: io::Error) -> HostError {
        HostError::Lost {
            address,
            cause: Arc::new(cause),
        }
    }
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostError::Unreachable { address, cause } => {
                write!(f, "cannot connect to {address}: {cause}")?;
                f.write_str(match cause.kind() {
                    io::ErrorKind::ConnectionRefused => {
                        "; nothing listens there: is the target running, and on this port?"
                    }
                    io::ErrorKind::TimedOut => {
                        "; no answer: check the address, the route, and firewalls"
                    }
                    _ => "",
                })
            }
            HostError::NotNvmeTcp { address, what } => write!(
                f,
                "{address} does not answer as an NVMe/TCP target: {what}; check the port \
                 (4420 or 8009 are usual), and that the target does not ask for TLS"
            ),
            HostError::NoDigests { address } => write!(
                f,
                "{address} does not turn on the digests that were asked for; connect without them"
            ),
            HostError::ConnectRefused {
                address,
                nqn,
                hostnqn,
                qid,
                status,
                parameter,
            } => {
                let queue = if *qid == 0 {
                    "the admin queue".into()
                } else {
                    format!("I/O queue {qid}")
                };
                write!(f, "{address} refused to connect {queue} of {nqn}: ")?;
                refusal(f, *status, *parameter, hostnqn)
            }
            HostError::AuthenticationRequired { address, nqn } => write!(
                f,
                "{nqn} at {address} requires authentication, which this host does not do"
            ),
            HostError::Bringup(why) => fmt::Display::fmt(why, f),
            HostError::Command { what, status } => write!(f, "{what} failed: {status}"),
            HostError::Nonsense { what } => f.write_str(what),
            HostError::Timeout {
                address,
                what,
                after,
            } => write!(f, "no {what} from {address} within {after:?}"),
            HostError::Protocol { address, broken } => match broken {
                Broken::Violation(_) => write!(f, "{address} broke the protocol: {broken}"),
                Broken::Terminated { .. } => write!(f, "{address}: {broken}"),
            },
            HostError::Closed { address } => write!(f, "{address} closed the connection"),
            HostError::Lost { address, cause } => {
                write!(f, "the connection to {address} is lost: {cause}")
            }
            HostError::NoQueuePair { address, why } => {
                write!(f, "cannot connect to {address} by RDMA: {why}")
            }
            HostError::NoMemory { address, why } => {
                write!(f, "{address}: no memory for the data of commands: {why}")
            }
            HostError::Rdma { address, broken } => write!(f, "{address}: {broken}"),
            HostError::Stopped => f.write_str("called off"),
        }
    }
}

/// What the status of a Connect means, and what to do.
fn refusal(
    f: &mut fmt::Formatter<'_>,
    status: Status,
    parameter: Option<ConnectRefusal>,
    hostnqn: &Nqn,
) -> fmt::Result {
    match status.code() {
        Status::CONNECT_INVALID_HOST => write!(
            f,
            "the host is not allowed there; allow {hostnqn} at the target, or connect under \
             another host NQN"
        ),
        Status::CONNECT_CONTROLLER_BUSY => {
            f.write_str(
                "it is busy, or an earlier connection is not over yet; try again, and if that does not \
                 help, let it have more queues and commands (limits.queues and limits.commands of Ferroce)",
            )
        }
        Status::CONNECT_INCOMPATIBLE_FORMAT => {
            f.write_str("it does not know this format of Connect")
        }
        Status::CONNECT_RESTART_DISCOVERY => {
            f.write_str("it asks for discovery to be started again")
        }
        Status::CONNECT_INVALID_PARAMETERS => match parameter {
            Some(ConnectRefusal::SUBNQN) => {
                f.write_str("it has no subsystem of that name; discovery tells those it has")
            }
            Some(ConnectRefusal::HOSTNQN) => {
                write!(f, "it does not take the host NQN {hostnqn}")
            }
            Some(ConnectRefusal::HOSTID) => f.write_str("it does not take the host ID"),
            Some(ConnectRefusal::CNTLID) => {
                f.write_str("it knows no such controller (any more); connect from the start")
            }
            Some(ConnectRefusal::QID) => {
                f.write_str("it does not take that queue: too many, or connected already")
            }
            Some(ConnectRefusal::SQSIZE) => f.write_str("the queue is too deep or too shallow"),
            Some(ConnectRefusal::KATO) => f.write_str("it does not take that keep-alive time"),
            Some(ConnectRefusal::CATTR) => f.write_str("it does not take those attributes"),
            Some(ConnectRefusal::Sqe(at)) => write!(f, "byte {at} of the command is wrong"),
            Some(ConnectRefusal::Data(at)) => {
                let of = size_of::<ConnectData>();
                write!(f, "byte {at} of the command's {of} bytes of data is wrong")
            }
            None => f.write_str("a parameter is wrong"),
        },
        _ => fmt::Display::fmt(&status, f),
    }
}

impl std::error::Error for HostError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            HostError::Unreachable { cause, .. } | HostError::Lost { cause, .. } => Some(&**cause),
            HostError::Bringup(why) => Some(why),
            _ => None,
        }
    }
}
