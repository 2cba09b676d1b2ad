# drives are listed, taken and given back; what is in use is refused with the reason
#: machine=vfio cpus=2 timeout=180
. /lab/vfio.sh
drive=${DRIVES[0]}
to_kernel "$drive"
own=$(own_disk "$drive")
mkfs.ext4 -q "$own"
mount "$own" /mnt
ferroce devices
ferroce devices | grep -q "$drive  nvme .*mounted on /mnt" || fail 'the mount is not shown'
refused 'in use: .*mounted on /mnt.*--force' ferroce devices bind "$drive"
expect 'driver' "$(driver "$drive")" = nvme
umount /mnt
dmsetup create held --noudevsync --table "0 2048 linear $own 0"
refused 'in use: .*dm-' ferroce devices bind "$drive"
dmsetup remove held --noudevsync
refused 'nvme has it, not vfio-pci; .ferroce devices bind' ferroce serve --device "nvme:$drive"
refused 'no PCI device' ferroce devices bind 0000:7f:00.0
refused 'no such PCI device' ferroce serve --device nvme:0000:7f:00.0
refused 'no NVMe drive' ferroce devices bind 0000:00:00.0
to_vfio "$drive"
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
