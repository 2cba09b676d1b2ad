//! Why a drive could not be set up or changed: read by people.

use std::fmt;
use std::io;

/// A drive could not be opened, or a change of it was refused.
#[derive(Debug)]
pub enum DriveError {
    /// What was asked for cannot be had from this drive.
    Refused {
        /// The drive, as the operator called it.
        drive: String,
        /// Why, and what to do.
        why: String,
    },
    /// The system refused something.
    System {
        /// The drive, as the operator called it.
        drive: String,
        /// What was tried.
        tried: String,
        /// What came of it.
        cause: io::Error,
    },
}

impl DriveError {
    pub(crate) fn refused(drive: &str, why: impl Into<String>) -> DriveError {
        DriveError::Refused {
            drive: drive.to_owned(),
            why: why.into(),
        }
    }

    pub(crate) fn system(drive: &str, tried: impl Into<String>, cause: io::Error) -> DriveError {
        DriveError::System {
            drive: drive.to_owned(),
            tried: tried.into(),
            cause,
        }
    }
}

impl fmt::Display for DriveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DriveError::Refused { drive, why } => write!(f, "{drive}: {why}"),
            DriveError::System {
                drive,
                tried,
                cause,
            } => write!(f, "{drive}: {tried}: {cause}"),
        }
    }
}

impl std::error::Error for DriveError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            DriveError::Refused { .. } => None,
            DriveError::System { cause, .. } => Some(cause),
        }
    }
}
