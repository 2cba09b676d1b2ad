# RDMA: kill -9 and restart under I/O
#: timeout=200
use_rdma 9000
. /lab/scenarios/restart.sh
