# RDMA: one I/O queue per CPU, write and poll queues beside them, depths of 16 and 1024
#: cpus=4 timeout=200
use_rdma 9000
. /lab/scenarios/queues.sh
