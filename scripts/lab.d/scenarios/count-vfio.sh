# what an I/O over RDMA to an NVMe drive costs: node with its own driver (VFIO), kernel target on the kernel's, in instructions
#: count machine=counted timeout=900
. /lab/counted.sh
use_verbs 4500
if node; then serve --device "nvme:$DRIVE" --spin 0us; else serve --device "file:$(kernel_disk)"; fi
connect -i 1
disk=$(disk 1)
spent read-4k-qd1 by_fio "$disk" --iodepth=1 --rw=randread
spent read-4k-qd32 by_fio "$disk" --iodepth=32 --rw=randread
spent write-4k-qd1 by_fio "$disk" --iodepth=1 --rw=randwrite
spent write-4k-qd32 by_fio "$disk" --iodepth=32 --rw=randwrite
idle
