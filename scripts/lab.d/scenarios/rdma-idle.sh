# RDMA: a host that is idle keeps itself alive, and is missed when its cable is pulled
#: node timeout=180
# A Keep Alive Timeout of 0 cannot be had from Linux, which takes its default for it.
use_rdma 9000
serve --device ram:64MiB "${METRICS[@]}"
given_up() { metric core_keep_alive_expiries_total; }
connect --keep-alive-tmo=2 --reconnect-delay=1 --ctrl-loss-tmo=120
# Longer than the node waits before it asks whether the host is there, by a WRITE of no bytes.
sleep 20
live "$CTRL"
dd if="$(disk 1)" of=/dev/null bs=4k count=16 iflag=direct
expect 'recoveries' "$(recoveries)" = 0
expect 'hosts that were given up' "$(given_up)" = 0
ip -n node link set rdma1 down
until_true 30 eval '[ "$(given_up)" = 1 ]'
say 'the node noticed'
ip -n node link set rdma1 up
# The host finds out when it asks for something.
dd if="$(disk 1)" of=/dev/null bs=4k count=16 iflag=direct
live "$CTRL"
disconnect
