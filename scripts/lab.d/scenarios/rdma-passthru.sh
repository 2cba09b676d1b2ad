# RDMA: io_uring_cmd on the generic device
#: timeout=120
use_rdma 9000
. /lab/scenarios/passthru.sh
