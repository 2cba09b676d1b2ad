# what a flush or FUA acknowledged is on the medium, shown by replaying the device's write log
#: smoke timeout=150
mib=8
dmsetup create logged --noudevsync --table "0 $((mib << 11)) log-writes /dev/ram1 /dev/ram2"
dmsetup mknodes
serve --device file:/dev/mapper/logged
connect
disk=$(disk 1)
block=$(blockdev --getss "$disk")
truncate -s ${mib}M /tmp/model
for mark in 1 2 3 4 5 6; do
    write_both "$disk" "$mark"
    if [ $((mark % 2)) = 0 ]; then
        nvme flush "$disk" -n 1
    else
        dd if=/dev/null of="$disk" conv=notrunc,fsync status=none
    fi
    nvme write "$disk" --force-unit-access -s $((mark * 300 * 4096 / block)) -c $((8192 / block - 1)) -z 8192 -d /tmp/data >/dev/null
    dd if=/tmp/data of=/tmp/model bs=4k seek=$((mark * 300)) count=2 conv=notrunc status=none
    dmsetup message logged 0 mark "$mark"
    sha256sum </tmp/model >/tmp/sum.$mark
done
dd if=/tmp/data of="$disk" bs=4k count=1 oflag=direct status=none
dmsetup message logged 0 mark unflushed
disconnect
stop
dmsetup remove logged --noudevsync
for mark in 1 2 3 4 5 6; do
    replay /dev/ram2 /dev/ram3 $((mib << 20)) "$mark"
    dd if=/dev/ram3 bs=1M count=$mib status=none | sha256sum | cmp - /tmp/sum.$mark
    say "mark $mark: the medium held everything acknowledged"
done
replay /dev/ram2 /dev/ram3 $((mib << 20)) unflushed
if cmp -s -n 4096 /tmp/data /dev/ram3; then say 'a write without a flush was on the medium as well'
else say 'a write without a flush was not: the log tells them apart'; fi
