# a cable pulled and put back: the host reconnects, and the node lets go of hosts that it no longer hears
#: node timeout=150
ip netns add node
ip link add near type veth peer name far netns node
ip addr add 10.77.0.1/24 dev near
ip -n node addr add 10.77.0.2/24 dev far
ip link set near up
ip -n node link set far up
WITHIN='ip netns exec node'
serve --device ram:64MiB --listen tcp://10.77.0.2:4420 --allow "$HOST"
connect -a 10.77.0.2 -w 10.77.0.1 --reconnect-delay=1 --keep-alive-tmo=5 --ctrl-loss-tmo=120
start_load "$(disk 1)"
sleep 2
ip link set near down
until_true 30 not_live "$CTRL"
say 'the host noticed'
until_true 30 eval '! ctl hosts | grep "$HOST"'
say 'the node noticed'
ip link set near up
until_true 40 live "$CTRL"
sleep 2
stop_load
