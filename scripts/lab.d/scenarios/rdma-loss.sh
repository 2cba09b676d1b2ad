# RDMA: packets lost, doubled, late, out of order and damaged on both ways: the host sees none of it
#: node timeout=600
use_rdma 1500
modprobe sch_netem
serve --device ram:64MiB "${METRICS[@]}"
# worse HOW...: on what either end sends. What is damaged must be found out by its ICRC.
worse() {
    tc qdisc replace dev rdma0 root netem "$@"
    tc -n node qdisc replace dev rdma1 root netem "$@"
}
# Hosts that register connect by a clean cable: they ask for several things at a time then.
better() {
    tc qdisc del dev rdma0 root
    tc -n node qdisc del dev rdma1 root
}

# A host that registers nothing, since soft-RoCE does not bear that (see `register`): it loses nothing and notices nothing.
register N
huge_buffers
connect
disk=$(disk 1)
worse loss 1%
verify "$disk" 1 io_uring '4k 64k' '1 8' $HUGE
worse loss 1% duplicate 1%
verify "$disk" 2 io_uring '128k' '4' $HUGE
worse delay 1ms reorder 20% 50%
verify "$disk" 1 io_uring '4k 64k' '8' $HUGE
worse corrupt 0.5%
verify "$disk" 1 io_uring '4k 64k' '8' $HUGE
say "rxe: sent again $(rxe completer_retry_err), out of order $(rxe rcvd_seq_err), doubled $(rxe duplicate_request)"
expect 'what went wrong on the way' $(($(rxe completer_retry_err) + $(rxe rcvd_seq_err) + $(rxe duplicate_request))) -gt 0
expect 'recoveries' "$(recoveries)" = 0
for counter in resent naks_sent naks_received; do expect "the node's $counter" "$(metric rdma_total "\"$counter\"")" -gt 0; done
disconnect

# A host that registers, one I/O at a time: nothing stands behind what is lost, so this holds as well.
better
register Y
connect --reconnect-delay=1
disk=$(disk 1)
worse loss 1% duplicate 1%
verify "$disk" 1 io_uring '4k 128k' '1'
worse delay 1ms reorder 20% 50%
verify "$disk" 1 io_uring '4k 128k' '1'
expect 'recoveries' "$(recoveries)" = 0
disconnect

# With more at a time its queue pairs break. It comes back, and every block is what was written; the node keeps nothing.
better
echo 5 >/sys/module/nvme_core/parameters/io_timeout
connect --reconnect-delay=1
disk=$(disk 1)
worse delay 1ms reorder 1%
verify "$disk" 1 libaio '4k' '8'
excused
better
disconnect
for gauge in core_connections core_buffer_used_bytes core_landing_used_bytes; do until_true 40 eval "[ \$(metric $gauge) = 0 ]"; done
