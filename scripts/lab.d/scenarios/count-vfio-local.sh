# what a local I/O costs the probe with its own driver (VFIO), and fio with io_uring on the kernel's, in instructions
#: count machine=counted timeout=900
. /lab/counted.sh
if node; then
    by_depth() { by_probe --depth "$1" "${@:2}"; }
    write=(--write 100 --destroy-data --force) read=()
else
    disk=$(kernel_disk)
    by_depth() { by_fio "$disk" --iodepth="$1" "${@:2}"; }
    write=(--rw=randwrite) read=(--rw=randread)
fi
spent read-4k-qd1 by_depth 1 "${read[@]}"
spent read-4k-qd32 by_depth 32 "${read[@]}"
spent write-4k-qd1 by_depth 1 "${write[@]}"
spent write-4k-qd32 by_depth 32 "${write[@]}"
idle
