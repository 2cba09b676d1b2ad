//! How much CPU time a process has used.

use std::fs;

/// Nanoseconds on a CPU of all threads that `pid` has now, on this machine. None if there is no such process, or the
/// kernel keeps no such account (CONFIG_SCHED_INFO). Up to a tick of what a running thread did last is missing.
pub fn of_process(pid: u32) -> Option<u64> {
    let mut sum = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task")).ok()? {
        // A thread may end while we look.
        let Ok(text) = fs::read_to_string(thread.ok()?.path().join("schedstat")) else {
            continue;
        };
        sum += text.split_whitespace().next()?.parse::<u64>().ok()?;
    }
    (sum > 0).then_some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_use_some() {
        if fs::metadata("/proc/self/schedstat").is_ok() {
            assert!(of_process(std::process::id()).is_some());
        }
        assert_eq!(of_process(u32::MAX), None);
    }
}
