# RDMA: packets lost, doubled, late and damaged on both ways: the host sees none of it
#: node timeout=240
use_rdma 1500
modprobe sch_netem
serve --device ram:64MiB
connect
disk=$(disk 1)
# worse HOW...: on what either end sends. What is damaged must be found out by its ICRC.
worse() {
    tc qdisc replace dev rdma0 root netem "$@"
    tc -n node qdisc replace dev rdma1 root netem "$@"
}
worse loss 1%
verify "$disk" 1 io_uring '4k 64k' '1 8'
worse loss 1% duplicate 1%
verify "$disk" 2 io_uring '128k' '4'
worse delay 1ms reorder 20% 50%
verify "$disk" 1 io_uring '4k' '8'
worse corrupt 0.5%
verify "$disk" 1 io_uring '4k 64k' '8'
say "rxe: sent again $(rxe completer_retry_err), out of order $(rxe rcvd_seq_err), doubled $(rxe duplicate_request)"
expect 'what went wrong on the way' $(($(rxe completer_retry_err) + $(rxe rcvd_seq_err) + $(rxe duplicate_request))) -gt 0
expect 'recoveries' "$(recoveries)" = 0
