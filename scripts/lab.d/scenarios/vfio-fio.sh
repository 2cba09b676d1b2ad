# fio verify through the node onto two drives of ours, then each block is there for the kernel's driver
#: machine=vfio cpus=2 timeout=600
. /lab/vfio.sh
ferroce devices
to_vfio "${DRIVES[@]}"
# Drives reach the buffers by pages of 2 MiB.
echo 160 >/proc/sys/vm/nr_hugepages
serve --cores 0,1 --device "nvme:${DRIVES[0]}" --device "nvme:${DRIVES[1]}"
cat /tmp/node.out
grep -q 'pages of 2 MiB' /tmp/node.out || fail 'the buffers are not in huge pages'
for drive in "${DRIVES[@]::2}"; do expect "bus mastering of $drive" "$(reaches_memory "$drive")" = 1; done
connect --nr-io-queues=2
for nsid in 1 2; do
    disk=$(disk $nsid)
    verify "$disk" 8 io_uring '4k 64k 512k' '1 32'
    # Beside what fio wrote lies what is compared to the last byte.
    leave $nsid "$disk" 8
done
disconnect
stop
for drive in "${DRIVES[@]::2}"; do
    expect "driver of $drive" "$(driver "$drive")" = vfio-pci
    expect "bus mastering of $drive" "$(reaches_memory "$drive")" = 0
done
to_kernel "${DRIVES[@]}"
for nsid in 1 2; do kernel_finds $nsid "$(own_disk "${DRIVES[nsid - 1]}")" 8; done
echo 0 >/proc/sys/vm/nr_hugepages
