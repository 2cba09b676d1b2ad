# Verbs: the binding's tests, which in-memory queue pairs and software RoCEv2 have passed, over soft-RoCE: data, cuts, copies, refusals
#: node timeout=600
use_verbs 4500
FERROCE_RDMA=10.9.0.1 RUST_BACKTRACE=1 rdma_pair-test --test-threads=1 --nocapture rdma_devices
