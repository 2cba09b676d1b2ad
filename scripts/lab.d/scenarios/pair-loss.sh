# Two machines, packets lost and out of order on both ways: what soft-RoCE makes of it, whatever the target is
#: machine=pair timeout=300
use_pair rdma 1500
modprobe sch_netem
on_node modprobe sch_netem
worse() {
    tc qdisc replace dev rdma0 root netem "$@"
    on_node tc qdisc replace dev rdma1 root netem "$@"
}
# The host that registers connects by a clean cable: it asks for several things at a time then.
better() {
    tc qdisc del dev rdma0 root
    on_node tc qdisc del dev rdma1 root
}
serve --device ram:64MiB

# A host that registers nothing notices nothing.
register N
huge_buffers
connect
disk=$(disk 1)
worse loss 1% duplicate 1%
verify "$disk" 1 io_uring '4k 64k' '8' $HUGE
worse delay 1ms reorder 20% 50%
verify "$disk" 1 io_uring '4k 64k' '8' $HUGE
expect 'recoveries' "$(recoveries)" = 0
disconnect

# One that registers breaks its queue pairs, comes back, and reads what it wrote.
better
register Y
echo 5 >/sys/module/nvme_core/parameters/io_timeout
connect --reconnect-delay=1
disk=$(disk 1)
worse loss 1%
verify "$disk" 1 libaio '4k' '8'
excused
better
