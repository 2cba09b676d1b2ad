//! What a process has used of CPU time and memory.

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

/// Bytes of memory that are the process's own: all that is resident but shared mappings, as which a node has its regions
/// (RssAnon and RssFile).
pub fn own_memory(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    ["RssAnon:", "RssFile:"]
        .iter()
        .map(|name| {
            let line = status.lines().find(|line| line.starts_with(name))?;
            let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
            Some(kib * 1024)
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_use_some() {
        if fs::metadata("/proc/self/schedstat").is_ok() {
            assert!(of_process(std::process::id()).is_some());
        }
        assert!(own_memory(std::process::id()).is_some_and(|bytes| bytes > 100_000));
        assert_eq!(of_process(u32::MAX), None);
        assert_eq!(own_memory(u32::MAX), None);
    }
}
