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

/// Bytes of memory that are the process's own, beyond its regions: all that is resident, but shared memory, as which other
/// targets have their buffers, and mappings that no child process gets (`dc` of VmFlags, proc(5)), as which ours has them.
pub fn own_memory(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps")).ok()?;
    let (mut own, mut resident, mut shared) = (0, 0, false);
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        match words.next()? {
            // A mapping's first line: its addresses, and its rights, of which the last says whether it is shared.
            range if range.contains('-') => shared = words.next()?.ends_with('s'),
            "Rss:" => resident = words.next()?.parse::<u64>().ok()? * 1024,
            "VmFlags:" if !shared && !words.any(|flag| flag == "dc") => own += resident,
            _ => (),
        }
    }
    (own > 0).then_some(own)
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
