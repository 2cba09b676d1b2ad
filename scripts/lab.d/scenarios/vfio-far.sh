# a drive whose storage is behind a stopped server: the host waits, through a reset of the drive if it takes long
#: machine=vfio cpus=2 timeout=300
. /lab/vfio.sh
plug 2 nvme2 "serial=LAB2,drive=far,$QUEUES"
far=$(slot 2)
to_vfio "$far"
serve --device "nvme:$far"
connect
disk=$(disk 1)
start_load "$disk"
sleep 2
# Shorter than the driver's patience of eight seconds: nobody does anything.
echo '@@far 5'
sleep 1
before=$(loaded)
sleep 3
expect 'bytes written while it stands still' $(($(loaded) - before)) = 0
until_true 30 load_goes_on "$before"
! grep -E 'abort|reset' /tmp/node.log || fail 'the node did not wait'
say 'it went on, and nobody did anything'
# Longer than its patience and what comes after an Abort, six more. QEMU's drive resets only when its storage answers, and its machine stands still for so long.
echo '@@far 17'
until_true 90 grep -q 'it is back' /tmp/node.log
before=$(loaded)
until_true 30 load_goes_on "$before"
stop_load
grep nvme: /tmp/node.log
live "$CTRL" || fail 'the controller is not live'
expect 'I/O errors of the host' "$(dmesg | grep -c 'I/O error' || true)" = 0
verify "$disk" 8 io_uring 16k 16
disconnect
stop
unplug 2 nvme2
