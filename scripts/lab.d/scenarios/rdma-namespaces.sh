# RDMA: namespaces added, resized and removed while I/O runs
#: timeout=120
use_rdma 9000
. /lab/scenarios/namespaces.sh
