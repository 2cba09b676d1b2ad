# Verbs: our probe as a host over an RDMA device, against the kernel's own target and against ours
#: node timeout=180
use_verbs 4500
for module in nvmet nvmet_rdma; do modprobe "$module"; done
qps=$(held qp) mrs=$(held mr)
# Without its bar, which is for terminals.
probe() { ferroce probe "$1://10.9.0.1:4420/$NQN" "${@:2}" 2>&1 | cat; }
look_at() {
    probe rdma --time 1s | tee /tmp/probe
    grep 'over RDMA device rxe0, from 10.9.0.1' /tmp/probe || fail 'the probe does not say what it goes over'
    probe verbs --time 1s --block-size 128KiB --depth 8
    probe verbs --time 2s --queues 2 --write 100 --destroy-data --verify
}
(LAB_TARGET=nvmet FABRIC=rdma TARGET=10.9.0.1; . /lab/target-nvmet.sh; serve --device ram:64MiB)
look_at
# The target refuses a subsystem it does not have; and where nobody listens, nobody answers.
refused 'nqn.2026-01.org.example:none' ferroce probe verbs://10.9.0.1:4420/nqn.2026-01.org.example:none --time 1s
refused 'reason 8|nothing listens' ferroce probe verbs://10.9.0.1:4429 --time 1s
# An address of ours that is no device's: verbs:// says which there are.
refused 'no RDMA device has 127.0.0.1.*rxe0' ferroce probe verbs://127.0.0.1:4420 --time 1s
(. /lab/target-nvmet.sh; sweep_target)
refused 'rxe0 has no such GID.*1 \(10.9.0.1\)' ferroce serve --listen verbs://rxe0%77:4420 --device ram:16MiB --ctl /tmp/none.sock
refused 'neither an address nor an RDMA device .devices: rxe0' \
    ferroce serve --listen verbs://rxe9:4420 --device ram:16MiB --ctl /tmp/none.sock
# By the device's name: the address is its own.
TARGET=rxe0 serve --device ram:64MiB "${METRICS[@]}"
ctl show | grep 'listens   verbs://10.9.0.1:4420' || fail 'it listens elsewhere'
look_at
# What came in capsules is copied to the RAM drive's pages; the binding itself copies nothing.
expect 'bytes copied' "$(metric copied_bytes_total 'why="transport"')" = 0
wget -q -O - http://127.0.0.1:9520/metrics | grep 'ferroce_rdma_device_total{device="rxe0",what="rnr_naks_sent"} 0' ||
    fail 'the metrics do not tell of the device'
expect 'errors of protocol' "$(metric rdma_total 'what="verbs_violations"')" = 0
stop
until_true 20 eval '[ "$(held qp) $(held mr)" = "$qps $mrs" ]'
