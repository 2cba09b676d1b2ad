# RDMA: controller resets while checksummed I/O runs
#: timeout=150
use_rdma 1500
. /lab/scenarios/reset.sh
