# a drive that is reset under load by somebody else is brought up again, and the host sees no error
#: machine=vfio cpus=2 timeout=180
. /lab/vfio.sh
to_vfio "${DRIVES[0]}"
serve --cores 0,1 --device "nvme:${DRIVES[0]}"
connect --nr-io-queues=2
disk=$(disk 1)
start_load "$disk"
for i in 1 2; do
    sleep 3
    echo 1 >"/sys/bus/pci/devices/${DRIVES[0]}/reset"
    back() { [ "$(grep -c 'it is back' /tmp/node.log)" = $i ]; }
    until_true 20 back
    say "reset and back: $i"
done
sleep 2
stop_load
grep 'somebody else reset it' /tmp/node.log
live "$CTRL" || fail 'the controller is not live'
expect 'I/O errors of the host' "$(dmesg | grep -c 'I/O error' || true)" = 0
verify "$disk" 8 io_uring 16k 16
disconnect
stop
