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
grep -E '[0-9]+ queue pairs of [0-9]+ requests .* [0-9]+ memory regions' /tmp/devices
grep 'locked memory: ' /tmp/devices
soft-roce status | grep 'data came through'
soft-roce down soft0
soft-roce status | grep 'no RDMA device'
ferroce devices | grep 'soft-roce up'
# Somebody has the port: our own RoCE.
modprobe -r rdma_rxe
# What modprobe says where a module cannot be loaded, and what is made of it.
mkdir -p /tmp/fake
says() {
    printf '#!/bin/sh\necho "modprobe: %s" >&2\nexit 1\n' "$1" >/tmp/fake/modprobe
    chmod +x /tmp/fake/modprobe
    refused "$2" env PATH="/tmp/fake:$PATH" soft-roce up soft0
}
says 'FATAL: Module rdma_rxe not found in directory /lib/modules/0' 'has no module rdma_rxe.*linux-image-amd64'
says "ERROR: could not insert 'rdma_rxe': Key was rejected by service" 'secure boot refuses the module'
says "ERROR: could not insert 'rdma_rxe': Operation not permitted" 'is not permitted: be root'
says "ERROR: could not insert 'rdma_rxe': Exec format error" 'cannot be loaded: .*Exec format error'
touch /run/.containerenv
says "ERROR: could not insert 'rdma_rxe': Exec format error" 'from within a container'
rm /run/.containerenv
FABRIC=rdma TARGET=10.9.1.1
serve --device ram:16MiB
refused 'UDP port 4791 is taken' soft-roce up soft0
stop
soft-roce up soft0
soft-roce down soft0
ip link del soft0
