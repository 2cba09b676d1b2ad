# a drive that is given an address that is none of its own meets the IOMMU: that command fails, others go on, no byte is touched
#: machine=vfio cpus=2 timeout=300
. /lab/vfio.sh
to_vfio "${DRIVES[@]}"
# Only commands of more than two pages have a PRP list, and only those of the first drive are torn out of its memory.
WITHIN='env LD_PRELOAD=/lab/libhole.so'
serve --device "nvme:${DRIVES[0]}" --device "nvme:${DRIVES[1]}"
connect
disk=$(disk 1)
other=$(disk 2)
random_file /tmp/data 4
dd if=/tmp/data of="$disk" bs=1M oflag=direct conv=notrunc,fsync status=none
start_load "$other"
read_beside "$disk"
sleep 2
touch /tmp/hole
until_true 10 grep -q 'hole: open' /tmp/node.log
refused 'DATA_XFER|ata Transfer Error' nvme read "$disk" -s 0 -c 127 -z 65536 -d /tmp/read
refused 'emote I/O error|nput/output error' dd if="$disk" bs=64k count=1 iflag=direct of=/dev/null
# Nothing of a write whose list the drive could not read is on the drive; that is seen below.
refused 'emote I/O error|nput/output error' dd if=/dev/zero of="$disk" bs=64k count=1 oflag=direct conv=notrunc
dmesg | grep -i 'dmar: .*'"${DRIVES[0]#0000:}" | head -n 3
expect 'faults of the first drive in the kernel log' "$(dmesg | grep -ci 'dmar: .*'"${DRIVES[0]#0000:}.*fault addr")" -gt 0
expect 'faults of the second' "$(dmesg | grep -ci 'dmar: .*'"${DRIVES[1]#0000:}.*fault addr" || true)" = 0
cmp /tmp/data <(dd if="$disk" bs=4k count=1024 iflag=direct status=none)
rm /tmp/hole
until_true 10 grep -q 'hole: closed' /tmp/node.log
cmp /tmp/data <(dd if="$disk" bs=1M count=4 iflag=direct status=none)
say 'small commands went on, and large ones do again'
kill -INT $BESIDE
status=0
wait $BESIDE || status=$?
expect 'the status of reads beside' $status = 128
stop_load
! grep -E 'abort|reset' /tmp/node.log || fail 'the drive was reset'
live "$CTRL" || fail 'the controller is not live'
verify "$disk" 8 io_uring 64k 16
disconnect
stop
WITHIN=
