# Two machines, an RDMA device at either end: a cable pulled and put back; host and node notice, and go on
#: machine=pair timeout=240
use_pair verbs 4500
serve --device ram:64MiB
connect --reconnect-delay=1 --keep-alive-tmo=5 --ctrl-loss-tmo=120
start_load "$(disk 1)"
# An admin command that is under way when the cable goes would have the host wait for its minute to be over.
sleep 4
plug off
until_true 40 not_live "$CTRL"
say 'the host noticed'
if node; then
    until_true 30 eval '! ctl hosts | grep "$HOST"'
    say 'the node noticed'
fi
plug on
until_true 90 live "$CTRL"
say 'back'
sleep 2
stop_load
