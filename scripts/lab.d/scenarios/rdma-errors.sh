# RDMA: what cannot be done is refused with its status, and the connection lives on
#: timeout=90
use_rdma 1500
. /lab/scenarios/errors.sh
