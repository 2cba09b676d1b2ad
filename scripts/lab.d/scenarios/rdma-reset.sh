# RDMA: controller resets while checksummed I/O runs
#: smoke timeout=150
use_rdma 1500
. /lab/scenarios/reset.sh
