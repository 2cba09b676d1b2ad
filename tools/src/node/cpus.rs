//! Which CPUs cores run on, and all other threads: those that no core has.

use std::sync::OnceLock;
use std::thread;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::config::Cores;
use crate::fail::{Result, fail};

/// The CPU of each core; a core that is not pinned has none.
pub fn of(cores: &Cores) -> Result<Vec<Option<usize>>> {
    if cores.0.is_empty() {
        let cpus = thread::available_parallelism().map_or(1, usize::from);
        return Ok(vec![None; (cpus / 2).clamp(1, 4)]);
    }
    // Those of the program as it was started: who asks again may be a thread that leaves the cores' CPUs alone.
    static ALLOWED: OnceLock<Vec<usize>> = OnceLock::new();
    let allowed = ALLOWED.get_or_init(allowed);
    for cpu in &cores.0 {
        if !allowed.contains(cpu) {
            fail!("cores: this process may not run on CPU {cpu}; it may on {allowed:?}");
        }
    }
    Ok(cores.0.iter().copied().map(Some).collect())
}

/// Where the calling thread may run.
fn allowed() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(None) else {
        return Vec::new();
    };
    let is_set = |cpu: &usize| set.is_set(*cpu);
    (0..CpuSet::MAX_CPU).filter(is_set).collect()
}

/// The calling thread, and those it starts from now on, stay away from these CPUs. A core that polls
/// shares its CPU badly: whoever else runs there delays all hosts by the scheduler's slices. If that
/// leaves no CPU at all, nothing changes.
pub fn keep_off(cpus: impl IntoIterator<Item = usize>) {
    let Ok(mut allowed) = sched_getaffinity(None) else {
        return;
    };
    for cpu in cpus.into_iter().filter(|cpu| *cpu < CpuSet::MAX_CPU) {
        allowed.unset(cpu);
    }
    if allowed.count() > 0
        && let Err(cause) = sched_setaffinity(None, &allowed)
    {
        log::debug!("a thread cannot be kept off the cores' CPUs: {cause}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_and_its_children_leave_cores_alone() {
        // Affinity belongs to a thread, so this one does no harm to other tests.
        let thread = std::thread::spawn(|| {
            let before = allowed();
            of(&Cores(before.clone())).expect("it may run there");
            keep_off(before.iter().copied());
            assert_eq!(allowed(), before, "it has to run somewhere");
            keep_off([usize::MAX]);
            assert_eq!(allowed(), before);
            if let [first, rest @ ..] = &before[..]
                && !rest.is_empty()
            {
                keep_off([*first]);
                assert_eq!(allowed(), rest);
                let child = std::thread::spawn(allowed).join().expect("ends");
                assert_eq!(child, rest);
                let cores = Cores(vec![*first]);
                assert_eq!(of(&cores).expect("as before"), [Some(*first)]);
            }
        });
        thread.join().expect("ends well");
    }
}
