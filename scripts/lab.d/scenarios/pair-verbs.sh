# Two machines, an RDMA device at either end: checksummed writes read back, resets, kill -9 and restart
#: machine=pair timeout=200
use_pair verbs 4500
serve --device ram:64MiB --device file:/data/a,size=64MiB
connect
for nsid in 1 2; do verify "$(disk $nsid)" 4 io_uring '4k 128k 1m' '1 8'; done
disconnect
stop
serve --device file:/data/a
connect --reconnect-delay=1 --keep-alive-tmo=5 --ctrl-loss-tmo=120
start_load "$(disk 1)"
for i in 1 2; do
    sleep 1
    nvme reset "/dev/$CTRL"
    until_true 20 live "$CTRL"
    say "reset $i"
done
sleep 1
crash
sleep 1
restart
until_true 30 live "$CTRL"
say 'killed and back'
sleep 2
stop_load
