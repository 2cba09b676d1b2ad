# Verbs: hosts with wrong requests, keys and lengths, and such that die at any moment, beside one that reads and writes undisturbed
#: node timeout=240
use_verbs 4500
serve --device ram:64MiB "${METRICS[@]}"
connect
disconnect
until_true 20 eval '[ "$(held qp)" = 0 ]'
before=$(all_held)
connect
start_load "$(disk 1)"
FERROCE_RDMA=10.9.0.1 FERROCE_RDMA_NODE=10.9.0.1:4420 RUST_BACKTRACE=1 verbs-test --test-threads=1 --nocapture enemies
# Processes that are killed while they dial, connect and send: the kernel ends their connections.
for i in $(seq 20); do
    FERROCE_RDMA=10.9.0.1 FERROCE_RDMA_NODE=10.9.0.1:4420 timeout -s KILL "0.$((i * 4 + 10))" verbs-test enemies >/dev/null 2>&1 || true
done
stop_load
expect 'recoveries' "$(recoveries)" = 0
disconnect
held_again "$before"
