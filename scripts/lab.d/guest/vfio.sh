# For machines with NVMe drives (`#: machine=vfio`): DRIVES are their addresses, in the order of the slots. A scenario
# finds them with no driver, and takes them by `ferroce devices bind`.
for module in vfio_iommu_type1 vfio_pci nvme; do modprobe "$module"; done
read -ra DRIVES <<<"$(for at in /sys/bus/pci/devices/*; do [ "$(cat "$at/class")" != 0x010802 ] || echo -n "${at##*/} "; done)"
expect 'number of drives' ${#DRIVES[@]} -ge 1

qemu() { echo "@@qemu $*"; }
driver() { basename "$(readlink "/sys/bus/pci/devices/$1/driver")" 2>/dev/null; }
to_vfio() { local at; for at; do ferroce devices bind "$at" >/dev/null; expect "driver of $at" "$(driver "$at")" = vfio-pci; done; }
to_kernel() { local at; for at; do ferroce devices unbind "$at" >/dev/null; expect "driver of $at" "$(driver "$at")" = nvme; done; }
# reaches_memory ADDRESS: 1 if the drive may (bus mastering, bit 2 of its Command register), else 0.
reaches_memory() { echo $(($(od -An -tu1 -j4 -N1 "/sys/bus/pci/devices/$1/config") >> 2 & 1)); }

# own_disk ADDRESS [NSID]: the block device that the kernel's driver makes of a drive.
own_disk() {
    until_true 10 find_own_disk "$1" "${2-1}"
    find_own_disk "$1" "${2-1}"
}
find_own_disk() {
    local at
    for at in /sys/bus/pci/devices/"$1"/nvme/nvme*/nvme*n"$2"; do [ -b "/dev/${at##*/}" ] && echo "/dev/${at##*/}" && return; done
    return 1
}

# plug SLOT ID OPTIONS: has QEMU put an NVMe drive into that slot, and waits until the kernel has it. QEMU is done with a drive
# that was in the slot a moment later than the kernel, and refuses till then; it refuses a second one, too. Of one that went
# with I/O under way it may keep the storage for good (Permission conflict on node), so all of them share it (share-rw).
plug() {
    local i
    for i in 1 2 3 4 5 6 7 8; do
        ! plugged "$1" || return 0
        qemu "device_add nvme,id=$2,bus=slot$1,share-rw=on,$3"
        sleep 3
    done
    until_true 20 plugged "$1"
}
# unplug SLOT ID: asks for the drive in that slot, and waits until it is gone.
unplug() {
    qemu "device_del $2"
    until_true 60 not_plugged "$1"
}
# slot SLOT [FUNCTION]: the address of what is there.
slot() { printf '0000:%02x:00.%d' $(($1 + 1)) "${2-0}"; }
plugged() { [ -e "/sys/bus/pci/devices/$(slot "$1")" ]; }
not_plugged() { ! plugged "$1"; }
QUEUES=max_ioqpairs=8,msix_qsize=9

# read_beside DISK: 200 reads a second of its first 4 MiB until BESIDE is killed; what fio says of them is in /tmp/beside.
read_beside() {
    fio --name=beside --filename="$1" --ioengine=io_uring --direct=1 --thread --rw=randread --bs=4k --iodepth=8 --size=4m \
        --time_based --runtime=300 --rate_iops=200 --minimal --terse-version=3 >/tmp/beside 2>&1 &
    BESIDE=$!
}

# leave NUMBER DISK HEAD: writes 8 MiB to the disk at 48 MiB, and notes what its first HEAD MiB are.
leave() {
    random_file "/tmp/left$1" 8
    dd if="/tmp/left$1" of="$2" bs=1M seek=48 oflag=direct conv=notrunc,fsync status=none
    dd if="$2" bs=1M count="$3" iflag=direct status=none | sha256sum >"/tmp/head$1"
}
# kernel_finds NUMBER DISK HEAD: the kernel's own disk has all that was left.
kernel_finds() {
    dd if="$2" bs=1M count="$3" iflag=direct status=none | sha256sum | cmp - "/tmp/head$1"
    cmp "/tmp/left$1" <(dd if="$2" bs=1M skip=48 count=8 iflag=direct status=none)
    say "the kernel reads from $2 what the host wrote"
}
