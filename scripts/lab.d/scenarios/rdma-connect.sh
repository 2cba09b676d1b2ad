# RDMA: connect, read and write, large and in-capsule writes, disconnect; what does not exist is refused
#: smoke timeout=180
use_rdma 9000
. /lab/scenarios/connect.sh
