# RDMA: a host without a Keep Alive Timer may be idle for long; one that is idle keeps itself alive; both are missed when
# their cable is pulled
#: node timeout=240
use_rdma 9000
serve --device ram:64MiB --allow "$HOST" "${METRICS[@]}"
# nvme-cli takes a time of 0 for none given.
how="transport=rdma,traddr=$TARGET,trsvcid=4420,host_traddr=$FROM,ctrl_loss_tmo=120,keep_alive_tmo=0"
echo "nqn=$NQN,hostnqn=$HOST,hostid=${HOST##*:},$how" >/dev/nvme-fabrics
CTRL=$(controllers)
dmesg | grep "keep_alive_tmo 0 won't execute keep alives" || fail 'the host has a Keep Alive Timer'
# Longer than the node waits before it asks whether the host is there, by a WRITE of no bytes.
sleep 40
live "$CTRL"
dd if="$(disk 1)" of=/dev/null bs=4k count=16 iflag=direct
ip -n node link set rdma1 down
until_true 60 eval '! ctl hosts | grep "$HOST"'
say 'the node noticed'
ip -n node link set rdma1 up
# The host finds out when it asks for something.
dd if="$(disk 1)" of=/dev/null bs=4k count=16 iflag=direct
until_true 60 live "$CTRL"
disconnect
expect 'hosts that were given up' "$(metric core_keep_alive_expiries_total)" = 0
connect --keep-alive-tmo=2 --ctrl-loss-tmo=120
sleep 12
live "$CTRL"
expect 'hosts that were given up' "$(metric core_keep_alive_expiries_total)" = 0
ip link set rdma0 down
until_true 30 eval '[ "$(metric core_keep_alive_expiries_total)" = 1 ]'
say 'the node noticed again'
ip link set rdma0 up
