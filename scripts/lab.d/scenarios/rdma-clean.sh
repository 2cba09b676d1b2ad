# RDMA: on a clean cable nothing is sent twice, and no ICRC is wrong
#: timeout=120
use_rdma 9000
serve --device ram:64MiB
connect
verify "$(disk 1)" 4 io_uring '4k 128k' '1 8'
# rxe counts what it had to send again, and what it was sent twice or in the wrong order.
for counter in completer_retry_err retry_exceeded_err retry_rnr_exceeded_err rcvd_seq_err duplicate_request send_err; do
    expect "$counter" "$(rxe $counter)" = 0
done
! dmesg | grep -i 'bad icrc' || fail 'rxe found a wrong ICRC'
