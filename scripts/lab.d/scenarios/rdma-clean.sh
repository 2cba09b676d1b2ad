# RDMA: on a clean cable nothing is sent twice, and no ICRC is wrong
#: timeout=120
use_rdma 9000
serve --device ram:64MiB
connect
verify "$(disk 1)" 4 io_uring '4k 128k' '1 8'
disconnect
nothing_lost
# With four times the packets.
ip link set rdma0 mtu 1500
ip -n node link set rdma1 mtu 1500
connect
verify "$(disk 1)" 4 io_uring '4k 128k' '1 8'
nothing_missed
# The node's own counts, of which those that are 0 are not shown. What rxe sent again after a stall is a duplicate here.
counts=$(ctl show | grep '^  rdma ')
say "$counts"
! grep -E 'naks|overflows|dropped_' <<<"${counts//dropped_duplicate/}" || fail 'the node dropped packets'
! dmesg | grep -i 'bad icrc' || fail 'rxe found a wrong ICRC'
