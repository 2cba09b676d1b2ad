# RDMA: checksummed writes read back, several sizes and depths, MTU 1500
#: timeout=300
use_rdma 1500
. /lab/scenarios/fio4096.sh
