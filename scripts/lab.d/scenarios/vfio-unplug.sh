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
start_load "$disk"
read_beside "$other"
sleep 2
unplug 1 nvme1
say 'the drive is gone'
# What reads there is told so, and ends.
wait $BESIDE && fail 'reads of a drive that is gone went well' || say 'its reads fail'
refused 'emote I/O error|nput/output error' dd if="$other" bs=4k count=1 iflag=direct of=/dev/null
live "$CTRL" || fail 'the controller is not live'
ctl remove 2
plug 1 nvme1 "serial=LAB1,drive=disk1,$QUEUES"
to_vfio "${DRIVES[1]}"
ctl add "nvme:${DRIVES[1]}" --nsid 2
other=$(disk 2)
cmp /tmp/data <(dd if="$other" bs=1M count=4 iflag=direct status=none)
say 'it is back, with its data'
verify "$other" 4 io_uring 16k 16
stop_load
disconnect
stop
