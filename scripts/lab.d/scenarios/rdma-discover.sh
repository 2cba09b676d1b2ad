# RDMA: discovery log on the listener, its generation counter, connect-all
#: timeout=60
use_rdma 1500
. /lab/scenarios/discover.sh
