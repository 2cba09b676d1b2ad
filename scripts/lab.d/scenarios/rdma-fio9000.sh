# RDMA: checksummed writes read back, 512-byte blocks, several sizes and depths, MTU 9000
#: timeout=400
use_rdma 9000
. /lab/scenarios/fio512.sh
