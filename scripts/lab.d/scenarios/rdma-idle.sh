# RDMA: a host without a Keep Alive Timer may be idle for long, and is missed when its cable is pulled
#: node timeout=180
use_rdma 9000
serve --device ram:64MiB --allow "$HOST"
connect --keep-alive-tmo=0 --ctrl-loss-tmo=120
# Longer than the node waits before it asks whether the host is there, by a WRITE of no bytes.
sleep 40
expect 'the state' "$(cat "/sys/class/nvme/$CTRL/state")" = live
dd if="$(disk 1)" of=/dev/null bs=4k count=16 iflag=direct
ip link set rdma0 down
until_true 60 eval '! ctl hosts | grep "$HOST"'
say 'the node noticed'
ip link set rdma0 up
