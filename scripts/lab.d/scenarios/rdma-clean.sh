# RDMA: on a clean cable nothing is sent twice, and no ICRC is wrong
#: timeout=120
use_rdma 9000
serve --device ram:64MiB
connect
verify "$(disk 1)" 4 io_uring '4k 128k' '1 8'
nothing_lost
! dmesg | grep -i 'bad icrc' || fail 'rxe found a wrong ICRC'
