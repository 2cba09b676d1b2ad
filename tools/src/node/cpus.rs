//! Which CPUs threads run on that are no core: those that no core has.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

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

    fn allowed() -> Vec<usize> {
        let set = sched_getaffinity(None).expect("Linux");
        (0..CpuSet::MAX_CPU)
            .filter(|cpu| set.is_set(*cpu))
            .collect()
    }

    #[test]
    fn a_thread_and_its_children_leave_cores_alone() {
        // Affinity belongs to a thread, so this one does no harm to other tests.
        let thread = std::thread::spawn(|| {
            let before = allowed();
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
            }
        });
        thread.join().expect("ends well");
    }
}
