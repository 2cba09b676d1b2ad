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
    of_mappings(pid, "Rss:").filter(|bytes| *bytes > 0)
}

/// The same without what files are mapped as: how much memory comes free when the process ends.
pub fn anonymous_memory(pid: u32) -> Option<u64> {
    of_mappings(pid, "Anonymous:")
}

/// The sum of one line of smaps over the mappings that are the process's own.
fn of_mappings(pid: u32, line_name: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps")).ok()?;
    let (mut own, mut bytes, mut shared) = (0, 0, false);
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        match words.next()? {
            // A mapping's first line: its addresses, and its rights, of which the last says whether it is shared.
            range if range.contains('-') => shared = words.next()?.ends_with('s'),
            name if name == line_name => bytes = words.next()?.parse::<u64>().ok()? * 1024,
            "VmFlags:" if !shared && !words.any(|flag| flag == "dc") => own += bytes,
            _ => (),
        }
    }
    Some(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_no_memory_of_our_own() {
        let before = anonymous_memory(std::process::id()).expect("it is there");
        let region =
            ferroce_buf::Region::map(64 << 20, ferroce_buf::Want::default()).expect("memory");
        let after = anonymous_memory(std::process::id()).expect("it is there");
        assert!(after < before + (32 << 20), "{before} became {after}");
        drop(region);
    }

    #[test]
    fn we_use_some() {
        if fs::metadata("/proc/self/schedstat").is_ok() {
            assert!(of_process(std::process::id()).is_some());
        }
        assert!(own_memory(std::process::id()).is_some_and(|bytes| bytes > 100_000));
        let (own, anonymous) = (
            own_memory(std::process::id()),
            anonymous_memory(std::process::id()),
        );
        assert!(
            anonymous > Some(0) && anonymous <= own,
            "{anonymous:?} of {own:?}"
        );
        assert_eq!(of_process(u32::MAX), None);
        assert_eq!(own_memory(u32::MAX), None);
    }
}
