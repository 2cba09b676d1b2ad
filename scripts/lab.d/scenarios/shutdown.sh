# SIGTERM under I/O: outstanding commands end, hosts come back to the next node
#: node timeout=120
serve --device file:/data/a,size=64MiB
connect --reconnect-delay=1 --ctrl-loss-tmo=60
start_load "$(disk 1)"
for i in 1 2; do
    sleep 2
    from=$SECONDS
    stop
    expect 'seconds to end' $((SECONDS - from)) -le 12
    restart
    until_true 20 live "$CTRL"
done
sleep 2
stop_load
