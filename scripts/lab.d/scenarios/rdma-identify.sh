# RDMA: every Identify that nvme-cli sends
#: timeout=60
use_rdma 1500
. /lab/scenarios/identify.sh
