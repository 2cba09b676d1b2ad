# drives are listed, taken and given back; what is in use is refused with the reason
#: machine=vfio cpus=2 timeout=180
. /lab/vfio.sh
drive=${DRIVES[0]}
to_kernel "$drive"
own=$(own_disk "$drive")
# kept PATTERN: the kernel keeps the drive, for this reason.
kept() {
    refused "in use: .*$1.*--force" ferroce devices bind "$drive"
    expect 'driver' "$(driver "$drive")" = nvme
}
# A partition of type 83h, 32 MiB from block 2048 on, and none of what other scenarios left.
dd if=/dev/zero of="$own" bs=1M count=1 conv=notrunc status=none
printf '\0\0\0\0\x83\0\0\0\0\x08\0\0\0\0\x01\0' | dd of="$own" bs=1 seek=446 conv=notrunc status=none
printf '\x55\xaa' | dd of="$own" bs=1 seek=510 conv=notrunc,fsync status=none
blockdev --rereadpt "$own"
until_true 10 [ -b "${own}p1" ]
mkswap "${own}p1"
swapon "${own}p1"
kept 'it is swapped to'
swapoff "${own}p1"
mkfs.ext4 -q "${own}p1"
mount "${own}p1" /mnt
kept 'mounted on /mnt'
umount /mnt
# Who has it open without having claimed it.
for file in "$own" "${own}p1" "/dev/ng${own#/dev/nvme}"; do
    sleep 1000 <"$file" &
    until_true 10 [ "/proc/$!/fd/0" -ef "$file" ]
    kept "${file##*/}: process $! .sleep. has it open"
    ferroce devices | grep -q "$drive  nvme .*process $! .sleep. has it open" || fail 'the user is not shown'
    kill $!
    wait $! || true
done
modprobe nvmet
exported=/sys/kernel/config/nvmet/subsystems/held
mkdir "$exported" "$exported/namespaces/1"
echo -n "$own" >"$exported/namespaces/1/device_path"
echo 1 >"$exported/namespaces/1/enable"
kept "the kernel's NVMe target exports it .held."
rmdir "$exported/namespaces/1" "$exported"
losetup /dev/loop0 "$own"
kept 'loop0 has it'
losetup -d /dev/loop0
dd if=/dev/zero of="$own" bs=1M count=1 conv=notrunc,fsync status=none
blockdev --rereadpt "$own"
mkfs.ext4 -q "$own"
mount "$own" /mnt
ferroce devices
ferroce devices | grep -q "$drive  nvme .*mounted on /mnt" || fail 'the mount is not shown'
kept 'mounted on /mnt'
umount /mnt
dmsetup create held --noudevsync --table "0 2048 linear $own 0"
kept 'dm-'
dmsetup remove held --noudevsync
refused 'nvme has it, not vfio-pci; .ferroce devices bind' ferroce serve --device "nvme:$drive"
refused 'no PCI device' ferroce devices bind 0000:7f:00.0
refused 'no such PCI device' ferroce serve --device nvme:0000:7f:00.0
refused 'no NVMe drive' ferroce devices bind 0000:00:00.0
# Who insists gets it.
sleep 1000 <"$own" &
until_true 10 [ "/proc/$!/fd/0" -ef "$own" ]
kept "process $!"
ferroce devices bind "$drive" --force
expect 'driver' "$(driver "$drive")" = vfio-pci
kill $!
wait $! || true
ferroce devices bind "$drive" | grep -q already
serve --device "nvme:$drive"
ferroce devices | grep -q "$drive  vfio-pci .*process $NODE" || fail 'the user is not shown'
refused "process $NODE uses" ferroce devices unbind "$drive"
refused 'another process uses' ferroce serve --device "nvme:$drive" --listen tcp://127.0.0.1:4421 --ctl /tmp/other.sock
# What is of one group is either ours or nobody's.
first=$(slot 4) second=$(slot 4 1)
to_vfio "$first"
to_kernel "$second"
refused "not viable.*$second .nvme" ferroce serve --device "nvme:$first/1" --listen tcp://127.0.0.1:4421 --ctl /tmp/other.sock
# Asked for it back, the node lets go, and lives on.
ferroce devices unbind "$drive" --force
expect 'driver' "$(driver "$drive")" = nvme
until_true 10 grep -q 'asks for it back' /tmp/node.log
ctl show | grep -q 'namespace\|NSID\|nvme:'
stop
# No file system was hurt by all this.
e2fsck -fn "$(own_disk "$drive")"
