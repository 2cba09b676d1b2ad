# Two machines, an RDMA device at either end: a cable pulled and put back; host and node notice, and go on
#: machine=pair timeout=240
use_pair verbs 4500
on_node eval 'export RUST_LOG=debug'
serve --device ram:64MiB
connect --reconnect-delay=1 --keep-alive-tmo=5 --ctrl-loss-tmo=120
start_load "$(disk 1)"
# An admin command that is under way when the cable goes would have the host wait for its minute to be over.
sleep 4
on_node ip link set rdma1 down
until_true 40 not_live "$CTRL"
say 'the host noticed'
if node; then
    until_true 30 eval '! ctl hosts | grep "$HOST"'
    say 'the node noticed'
fi
on_node ip link set rdma1 up
sleep 8
say 'after link up'
ping -c 3 -W 1 10.9.0.2 || true
for i in 1 2 3; do
say "client"; rdma link; rdma resource show cm_id; rdma resource show qp; cat /sys/class/infiniband/rxe0/ports/1/gids/[012] ; grep -H . /sys/class/infiniband/rxe0/ports/1/hw_counters/{sent_pkts,rcvd_pkts}
say "node"; on_node eval 'rdma link; rdma resource show cm_id; rdma resource show qp; cat /sys/class/infiniband/rxe1/ports/1/gids/[012]; grep -H . /sys/class/infiniband/rxe1/ports/1/hw_counters/{sent_pkts,rcvd_pkts}; for t in /proc/$NODE/task/*; do echo $(cat $t/comm) $(cat $t/stack | head -5); done'
sleep 3
done
until_true 20 live "$CTRL"
say 'back'
sleep 2
stop_load
