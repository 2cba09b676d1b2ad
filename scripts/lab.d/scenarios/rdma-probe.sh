# RDMA: our probe against the kernel's own target: discover, read, write and verify
#: node timeout=120
use_rdma 9000
for module in nvmet nvmet_rdma; do modprobe "$module"; done
(LAB_TARGET=nvmet FABRIC=rdma TARGET=10.9.0.1; . /lab/target-nvmet.sh; serve --device ram:64MiB)
probe() {
    $WITHIN ferroce probe "roce://10.9.0.1:4420/$NQN" --bind 10.9.0.2 "$@"
    for counter in completer_retry_err rcvd_seq_err duplicate_request; do say "$counter $(rxe $counter)"; done
}
probe --time 1s
probe --time 1s --block-size 128KiB --depth 8
probe --time 2s --write 100 --destroy-data --verify
nothing_lost
# More than this target takes of a queue.
probe --time 1s --workload kv-cache --json >/tmp/probe
expect 'the depth that was asked for' "$(sed -n '/"run"/,/}/s/.*"depth": \([0-9]*\).*/\1/p' /tmp/probe)" = 256
expect 'the depth that is granted' "$(sed -n '/"granted"/,/}/s/.*"depth": \([0-9]*\).*/\1/p' /tmp/probe)" -lt 256
(. /lab/target-nvmet.sh; sweep_target)
