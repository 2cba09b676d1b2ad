# a drive is unplugged under load and fails alone; plugged in again and added again it holds what was acknowledged
#: machine=vfio cpus=2 timeout=300
. /lab/vfio.sh
to_vfio "${DRIVES[@]}"
serve --device "nvme:${DRIVES[0]}" --device "nvme:${DRIVES[1]}"
connect
disk=$(disk 1)
other=$(disk 2)
random_file /tmp/data 4
dd if=/tmp/data of="$other" bs=1M oflag=direct conv=notrunc,fsync status=none
# 16 MiB of old blocks, at 16 MiB; so slow that there are always writes of new ones at the drive.
dd if=/dev/zero bs=1M count=16 status=none | tr '\0' a | dd of="$other" bs=4k seek=4096 iflag=fullblock oflag=direct conv=notrunc status=none
start_load "$disk"
qemu 'qom-set -j /objects/limit1 limits {"iops-total": 400}'
read_beside "$other"
fio --name=new --filename="$other" --ioengine=io_uring --direct=1 --thread --rw=randwrite --bs=4k --iodepth=16 \
    --offset=16m --size=16m --buffer_pattern='"b"' --time_based --runtime=300 --minimal --terse-version=3 >/tmp/new 2>&1 &
writes=$!
under_way() { [ "$(awk '/^write_bytes/ { print $2 }' "/proc/$writes/io")" -gt 400000 ]; }
until_true 60 under_way
unplug 1 nvme1
say 'the drive is gone'
# What reads and writes there is told so, and ends.
wait $BESIDE && fail 'reads of a drive that is gone went well' || say 'its reads fail'
wait $writes && fail 'writes to a drive that is gone went well' || say 'its writes fail'
qemu 'qom-set -j /objects/limit1 limits {"iops-total": 0}'
refused 'emote I/O error|nput/output error' dd if="$other" bs=4k count=1 iflag=direct of=/dev/null
live "$CTRL" || fail 'the controller is not live'
ctl remove 2
plug 1 nvme1 "serial=LAB1,drive=disk1,$QUEUES"
to_vfio "${DRIVES[1]}"
ctl add "nvme:${DRIVES[1]}" --nsid 2
other=$(disk 2)
cmp /tmp/data <(dd if="$other" bs=1M count=4 iflag=direct status=none)
say 'it is back, with its data'
# Each block is one or the other, from its first byte to its last; and there are both.
dd if="$other" bs=1M skip=16 count=16 iflag=direct status=none | fold -w 4096 | sort | uniq -c | cut -c1-12 >/tmp/blocks
cat /tmp/blocks
awk '{ sum += $1; kinds = kinds substr($2, 1, 1) } END { exit !(kinds == "ab" && sum == 4096) }' /tmp/blocks ||
    fail 'a block is neither old nor new'
verify "$other" 4 io_uring 16k 16
stop_load
disconnect
stop
