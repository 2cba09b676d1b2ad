# Verbs: the RDMA device goes while it serves; hosts are heard again at its address as soon as another one has it
#: node timeout=120
# Soft-RoCE goes only when programs have let go of it. Whose module came first hears of it last: so that the node hears of
# it, that is the one that waits for programs.
modprobe -r nvme_rdma nvmet_rdma rdma_ucm rdma_rxe
modprobe -r rdma_cm ib_uverbs
modprobe rdma_rxe
modprobe nvme_rdma
use_verbs 4500
serve --device ram:64MiB "${METRICS[@]}"
connect
# Without the other end of its cable it has no carrier.
ip link set rdma1 down
until_true 10 eval '[ "$(metric rdma_device_total port_errors)" -ge 1 ]'
ip link set rdma1 up
until_true 30 dd if="$(disk 1)" of=/dev/null bs=4k count=1 iflag=direct
rdma link delete rxe0 &
until_true 20 grep 'hosts are heard there again' /tmp/node.log
until_true 20 eval '[ "$(metric core_connections)" = 0 ]'
ip addr del 10.9.0.1/24 dev rdma0
ip link add rdma2 mtu 4500 type veth peer name rdma3 mtu 4500
ip addr add 10.9.0.1/24 dev rdma2
ip link set rdma2 up
ip link set rdma3 up
soft_roce rxe1 rdma2
until_true 20 eval 'rdma resource show cm_id | grep "rxe1.*state LISTEN"'
connect
random_file /tmp/data 8
dd if=/tmp/data of="$(disk 1)" bs=1M oflag=direct conv=notrunc status=none
cmp -n $((8 << 20)) /tmp/data "$(disk 1)"
# Nobody is woken again and again by what is gone. (The descriptors of soft-RoCE's stay quiet here, those of NICs do not.)
ticks() { awk '{ print $14 + $15 }' /proc/$NODE/stat; }
before=$(ticks)
sleep 5
expect 'ticks of CPU time in 5 s' $(($(ticks) - before)) -le 100
disconnect
stop
