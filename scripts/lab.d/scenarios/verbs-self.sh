# Verbs: the provider against itself on soft-RoCE: messages, reads, writes, windows, refusals, ends at any moment
#: timeout=240
use_verbs 4500
FERROCE_RDMA=10.9.0.1 RUST_BACKTRACE=1 RUST_LOG=debug verbs-test --test-threads=1 --nocapture
