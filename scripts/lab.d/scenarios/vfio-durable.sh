# what a flush acknowledged is on the drive's medium, and what was not flushed is gone: its write log is replayed to the last flush
#: machine=vfio cpus=2 timeout=300
. /lab/vfio.sh
# FUA is not shown here: QEMU's drive takes no notice of it. drivers/tests/limits.rs shows it by a drive that is played.
mib=8
plug 2 nvme2 "serial=LAB2,drive=logged,$QUEUES"
plug 3 log serial=LOG,drive=log
log=$(own_disk "$(slot 3)")
# replayed FILE: what the medium held at the last flush.
replayed() {
    blockdev --flushbufs "$log"
    replay "$log" /dev/ram3 $((mib << 20))
    dd if=/dev/ram3 of="$1" bs=1M count=$mib status=none
}
logged=$(slot 2)
to_vfio "$logged"
serve --device "nvme:$logged"
connect
disk=$(disk 1)
block=$(blockdev --getss "$disk")
expect 'what the host knows of its cache' "$(cat "/sys/block/${disk##*/}/queue/write_cache")" = 'write back'
truncate -s ${mib}M /tmp/model
cp /tmp/model /tmp/flushed
# So that the log counts at all.
dd if=/dev/zero of="$disk" bs=4k count=1 oflag=direct conv=notrunc,fsync status=none
for mark in 1 2 3 4 5; do
    write_both "$disk" "$mark"
    replayed /tmp/medium
    cmp /tmp/medium /tmp/flushed
    say "mark $mark: what was not flushed is not there"
    if [ $((mark % 2)) = 0 ]; then nvme flush "$disk" -n 1
    else dd if=/dev/null of="$disk" conv=notrunc,fsync status=none; fi
    replayed /tmp/medium
    cmp /tmp/medium /tmp/model
    cp /tmp/model /tmp/flushed
    say "mark $mark: what was flushed is there"
done
disconnect
stop
unplug 2 nvme2
unplug 3 log
