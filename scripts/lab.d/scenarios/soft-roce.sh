# scripts/soft-roce makes a device that moves data, and says what is in the way; ferroce devices tells of it
#: node timeout=120
modprobe dummy numdummies=0
ip link add soft0 type dummy
refused 'no network interface' soft-roce up nowhere0
refused 'is down' soft-roce up soft0
ip link set soft0 up
refused 'has no address' soft-roce up soft0
ip addr add 10.9.1.1/24 dev soft0
soft-roce up soft0 | tee /tmp/said
grep 'data came through at 10.9.1.1' /tmp/said
expect 'the MTU' "$(cat /sys/class/net/soft0/mtu)" = 4500
ferroce devices | tee /tmp/devices
grep 'RDMA rxe_soft0: soft-RoCE' /tmp/devices
grep 'MTU 4096 of at most 4096' /tmp/devices
grep '10.9.1.1' /tmp/devices
soft-roce status | grep 'data came through'
soft-roce down soft0
soft-roce status | grep 'no RDMA device'
ferroce devices | grep 'soft-roce up'
# Somebody has the port: our own RoCE.
modprobe -r rdma_rxe
FABRIC=rdma TARGET=10.9.1.1
serve --device ram:16MiB
refused 'UDP port 4791 is taken' soft-roce up soft0
stop
soft-roce up soft0
soft-roce down soft0
ip link del soft0
