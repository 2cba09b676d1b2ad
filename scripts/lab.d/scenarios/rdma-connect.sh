# RDMA: connect, read and write, large and in-capsule writes, disconnect; a clean cable needs no retries
#: timeout=120
use_rdma 9000
. /lab/scenarios/connect.sh
# rxe counts what it had to send again, and what it was sent twice or in the wrong order.
for counter in completer_retry_err retry_exceeded_err retry_rnr_exceeded_err rcvd_seq_err duplicate_request send_err; do
    expect "$counter" "$(rxe $counter)" = 0
done
! dmesg | grep -i 'bad icrc' || fail 'rxe found a wrong ICRC'
