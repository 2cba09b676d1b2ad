# kill -9 under I/O and restart on the same drive: the host goes on, and the kernel finds every block
#: machine=vfio cpus=2 timeout=240
. /lab/vfio.sh
to_vfio "${DRIVES[0]}"
serve --device "nvme:${DRIVES[0]}"
connect --reconnect-delay=1 --keep-alive-tmo=5 --ctrl-loss-tmo=60
disk=$(disk 1)
start_load "$disk"
for i in 1 2 3; do
    sleep 3
    crash
    restart
    until_true 20 live "$CTRL"
    say "killed and back: $i"
done
sleep 2
stop_load
dd if="$disk" bs=1M count=44 iflag=direct status=none | sha256sum >/tmp/disk
disconnect
stop
to_kernel "${DRIVES[0]}"
dd if="$(own_disk "${DRIVES[0]}")" bs=1M count=44 iflag=direct status=none | sha256sum | cmp - /tmp/disk
say 'the drive holds what the host saw'
