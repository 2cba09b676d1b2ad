# a node that stops answering: the host gives the connection up, comes back, and no old write lands late
#: node timeout=120
serve --device file:/data/a,size=64MiB
connect --reconnect-delay=1 --keep-alive-tmo=5 --ctrl-loss-tmo=120
start_load "$(disk 1)"
for i in 1 2; do
    sleep 2
    kill -STOP $NODE
    until_true 30 not_live "$CTRL"
    say "the host noticed: $(cat "/sys/class/nvme/$CTRL/state")"
    sleep 1
    kill -CONT $NODE
    until_true 40 live "$CTRL"
    say 'back'
done
sleep 2
stop_load
