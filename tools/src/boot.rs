//! What is asked of the kernel before anything else runs. One of the rooms where `unsafe` lives: these
//! are plain system calls that the standard library does not have.
#![allow(unsafe_code)]

use std::io;

/// Raises the limit of open files to what the hard limit allows, and says what it is then. Each
/// connection is a descriptor, and the usual soft limit is 1024.
pub fn raise_open_files() -> io::Result<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the struct is ours and of the right type.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    if limit.rlim_cur < limit.rlim_max {
        let raised = libc::rlimit {
            rlim_cur: limit.rlim_max,
            ..limit
        };
        // SAFETY: as above. A refusal leaves the limit as it was, which is what is reported then.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) } == 0 {
            limit = raised;
        }
    }
    Ok(limit.rlim_cur)
}

#[cfg(test)]
mod tests {
    #[test]
    fn there_are_files_to_open() {
        assert!(super::raise_open_files().expect("the limit can be read") >= 256);
    }
}
