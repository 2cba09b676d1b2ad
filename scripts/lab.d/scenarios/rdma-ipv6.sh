# RDMA over IPv6, whose packets have no header checksum and no identification: checksummed I/O, no packet is missed
#: node timeout=180
use_rdma 9000
ip addr add fd00:9::1/64 dev rdma0 nodad
ip -n node addr add fd00:9::2/64 dev rdma1 nodad
until_true 10 grep -q fd00:0009: /sys/class/infiniband/rxe0/ports/1/gids/*
serve --device ram:64MiB --listen 'roce://[fd00:9::2]:4420'
for mtu in 9000 1500; do
    ip link set rdma0 mtu $mtu
    ip -n node link set rdma1 mtu $mtu
    connect -a fd00:9::2 -w fd00:9::1
    verify "$(disk 1)" 4 io_uring '4k 128k' '1 8'
    disconnect
done
nothing_missed
! ctl show | grep -E 'dropped_(icrc|short)' || fail 'the node dropped packets'
