# For machines with NVMe drives (`#: machine=vfio`): DRIVES are their addresses, in the order of the slots. A scenario
# finds them with no driver, and takes them by `ferroce devices bind`.
for module in vfio_iommu_type1 vfio_pci nvme; do modprobe "$module"; done
read -ra DRIVES <<<"$(for at in /sys/bus/pci/devices/*; do [ "$(cat "$at/class")" != 0x010802 ] || echo -n "${at##*/} "; done)"
expect 'number of drives' ${#DRIVES[@]} -ge 2

qemu() { echo "@@qemu $*"; }
driver() { basename "$(readlink "/sys/bus/pci/devices/$1/driver")" 2>/dev/null; }
to_vfio() { local at; for at; do ferroce devices bind "$at" >/dev/null; expect "driver of $at" "$(driver "$at")" = vfio-pci; done; }
to_kernel() { local at; for at; do ferroce devices unbind "$at" >/dev/null; expect "driver of $at" "$(driver "$at")" = nvme; done; }

# own_disk ADDRESS: the block device that the kernel's driver makes of a drive.
own_disk() {
    until_true 10 find_own_disk "$1"
    find_own_disk "$1"
}
find_own_disk() {
    local at
    for at in /sys/bus/pci/devices/"$1"/nvme/nvme*/nvme*n1; do [ -b "/dev/${at##*/}" ] && echo "/dev/${at##*/}" && return; done
    return 1
}
