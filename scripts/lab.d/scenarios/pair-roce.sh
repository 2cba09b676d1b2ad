# Two machines, the node by RoCE in software of its own: checksummed writes read back, kill -9 and restart
#: machine=pair timeout=300
use_pair rdma 4500
serve --device ram:64MiB --device file:/data/a,size=64MiB
connect --reconnect-delay=1 --keep-alive-tmo=5 --ctrl-loss-tmo=120
for nsid in 1 2; do verify "$(disk $nsid)" 4 io_uring '4k 128k' '1 8'; done
disconnect
stop
serve --device file:/data/a
connect --reconnect-delay=1 --keep-alive-tmo=5 --ctrl-loss-tmo=120
start_load "$(disk 1)"
sleep 1
crash
sleep 1
restart
until_true 30 live "$CTRL"
say 'killed and back'
sleep 2
stop_load
