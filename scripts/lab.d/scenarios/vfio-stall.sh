# a drive that stops answering is reset while the host waits; bad sectors are the host's to know, and nobody else's
#: machine=vfio cpus=2 timeout=300
. /lab/vfio.sh
to_vfio "${DRIVES[@]}"
serve --device "nvme:${DRIVES[0]}" --device "nvme:${DRIVES[1]}"
connect
disk=$(disk 1)
# Sector 131072 cannot be read, its neighbours can; and it can be written, but still not read.
other=$(disk 2)
for sector in 131071 131073; do dd if="$other" bs=512 skip=$sector count=1 iflag=direct of=/dev/null status=none; done
refused 'No data available' dd if="$other" bs=512 skip=131072 count=1 iflag=direct of=/dev/null
refused 'nrecovered|2281|0x4281|0x281' nvme read "$other" -s 131072 -c 0 -z 512 -d /tmp/bad
dd if=/dev/urandom of="$other" bs=512 seek=131072 count=1 oflag=direct conv=notrunc status=none
live "$CTRL" || fail 'the controller is not live'
start_load "$disk"
sleep 2
# One request a second: sixteen at a time take longer than the driver's patience.
qemu 'qom-set -j /objects/limit0 limits {"iops-total": 1}'
until_true 60 grep -q 'resetting it' /tmp/node.log
say 'the drive is being reset'
qemu 'qom-set -j /objects/limit0 limits {"iops-total": 0}'
until_true 60 grep -q 'it is back' /tmp/node.log
sleep 3
stop_load
grep nvme: /tmp/node.log
live "$CTRL" || fail 'the controller is not live'
expect 'I/O errors of the host at namespace 1' "$(dmesg | grep -c "I/O error, dev ${disk##*/}" || true)" = 0
verify "$disk" 8 io_uring 16k 16
disconnect
stop
