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
# On a clean cable no packet is missed by either end, and none comes out of order.
for counter in rcvd_seq_err out_of_seq_request; do expect "$counter" "$(rxe $counter)" = 0; done
# What was sent again nevertheless was by timers, of an end whose peer did not run for long: this machine has one CPU, and
# shares that. It is the exception, and no more.
again=$(($(rxe completer_retry_err) + $(rxe duplicate_request))) packets=$(($(rxe rcvd_pkts) + $(rxe sent_pkts)))
expect "sent again of $packets packets, in thousandths" $((again * 1000 / packets)) = 0
(. /lab/target-nvmet.sh; sweep_target)
