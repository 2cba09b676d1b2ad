# two hosts with two paths each; one leaves and returns while the others read and write
#: timeout=120
serve --device ram:64MiB
connect
connect --host-traddr=127.0.0.3
connect $SECOND --host-traddr=127.0.0.4
connect $SECOND
last=$CTRL
expect 'distinct controllers' "$(cat /sys/class/nvme/nvme*/cntlid | sort -u | wc -l)" = 4
for policy in /sys/class/nvme-subsystem/*/iopolicy; do echo round-robin >"$policy"; done
start_load "$(disk 1)"
sleep 2
disconnect "$last"
sleep 1
connect $SECOND
sleep 1
stop_load
