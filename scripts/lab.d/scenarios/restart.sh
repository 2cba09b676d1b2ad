# kill -9 and restart under I/O: the host reconnects by itself, everything acknowledged is there
#: smoke timeout=150
serve --device file:/data/a,size=64MiB
connect --reconnect-delay=1 --keep-alive-tmo=5 --ctrl-loss-tmo=60
disk=$(disk 1)
start_load "$disk"
for i in 1 2 3; do
    sleep 2
    crash
    sleep 1
    restart
    until_true 20 live "$CTRL"
    say "killed and back: $i"
done
sleep 1
stop_load
dd if="$disk" bs=1M iflag=direct status=none | sha256sum >/tmp/disk
disconnect
stop
dd if=/data/a bs=1M status=none | sha256sum | cmp - /tmp/disk
say 'the file holds what the host saw'
