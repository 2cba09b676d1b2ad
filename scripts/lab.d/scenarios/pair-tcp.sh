# Two machines over NVMe/TCP: checksummed writes read back, and a cable pulled and put back
#: machine=pair timeout=200
use_pair tcp 9000
serve --device ram:64MiB
connect --reconnect-delay=1 --keep-alive-tmo=5 --ctrl-loss-tmo=120
verify "$(disk 1)" 8 io_uring '4k 128k' '1 8'
start_load "$(disk 1)"
sleep 2
on_node ip link set rdma1 down
until_true 30 not_live "$CTRL"
say 'the host noticed'
on_node ip link set rdma1 up
until_true 40 live "$CTRL"
sleep 2
stop_load
