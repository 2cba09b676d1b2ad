//! What applications do, as sizes, depths and orders of commands. Where the numbers come from is in README.md.

use std::time::Duration;

use crate::cli::{Pattern, ProbeArgs, Workload};
use crate::units::Size;

/// Bytes under way at a time, where much is moved: on all queues together.
const UNDER_WAY: u64 = 32 << 20;
/// The largest read of a model.
const MODEL_READ_MAX: u64 = 4 << 20;
const KV_READ: u64 = 128 << 10;

/// How long to measure without a word about it.
const TIME: Duration = Duration::from_secs(2);
/// Longer than any load that ends by itself.
const NO_END: Duration = Duration::from_secs(30 * 24 * 3600);

/// How long to measure.
pub fn time(args: &ProbeArgs) -> Duration {
    match (args.time, args.workload) {
        (Some(time), _) => time,
        (None, Some(Workload::ModelLoad)) => NO_END,
        (None, _) => TIME,
    }
}

/// The arguments with what the workload stands for in place. `transfer_max` is the most one command may move at the
/// target.
pub fn apply(args: &ProbeArgs, transfer_max: u64) -> ProbeArgs {
    let mut args = args.clone();
    // Over all queues.
    let under_way = UNDER_WAY / u64::from(args.queues);
    let mut set = |block: u64, depth: u64, pattern| {
        args.block_size = Size(block);
        args.depth = depth.clamp(1, 1023) as u16;
        args.pattern = pattern;
    };
    match args.workload {
        None => (),
        Some(Workload::Embedding) => set(4096, 32, Pattern::Random),
        Some(Workload::KvCache) => set(KV_READ, under_way / KV_READ, Pattern::Objects),
        Some(Workload::ModelLoad) => {
            // A power of two, so that it is made of whole blocks.
            let block = 1 << MODEL_READ_MAX.min(transfer_max.max(512)).ilog2();
            set(block, under_way / block, Pattern::Sequential);
        }
    }
    args
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(workload: Option<Workload>, transfer_max: u64) -> (u64, u16, Pattern) {
        with_queues(workload, transfer_max, 1)
    }

    fn with_queues(
        workload: Option<Workload>,
        transfer_max: u64,
        queues: u16,
    ) -> (u64, u16, Pattern) {
        let url = "tcp://127.0.0.1".parse().expect("a URL");
        let args = ProbeArgs {
            workload,
            queues,
            ..ProbeArgs::of(&url)
        };
        let args = apply(&args, transfer_max);
        (args.block_size.0, args.depth, args.pattern)
    }

    #[test]
    fn each_is_what_it_says() {
        assert_eq!(of(None, 1 << 20), (4096, 32, Pattern::Random));
        let workload = |workload, max| of(Some(workload), max);
        assert_eq!(
            workload(Workload::Embedding, 1 << 20),
            (4096, 32, Pattern::Random)
        );
        assert_eq!(
            workload(Workload::KvCache, 1 << 20),
            (128 << 10, 256, Pattern::Objects)
        );
        // As much in all.
        let four = |workload| with_queues(Some(workload), 1 << 20, 4).1;
        assert_eq!(
            (four(Workload::KvCache), four(Workload::ModelLoad)),
            (64, 8)
        );
        assert_eq!(
            workload(Workload::ModelLoad, u64::MAX),
            (4 << 20, 8, Pattern::Sequential)
        );
        assert_eq!(
            workload(Workload::ModelLoad, (1 << 20) + 5),
            (1 << 20, 32, Pattern::Sequential)
        );
    }
}
