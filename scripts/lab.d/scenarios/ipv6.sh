# IPv6, and a small and a large MTU
#: smoke
serve --device ram:32MiB --listen 'tcp://[::1]:4420'
for mtu in 65536 1280; do
    ip link set lo mtu $mtu
    connect -a ::1 -w ::1
    verify "$(disk 1)" 1 io_uring '4k' '32'
    verify "$(disk 1)" 4 io_uring '256k' '4'
    disconnect
done
ip link set lo mtu 65536
