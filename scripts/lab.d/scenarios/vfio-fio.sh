# fio verify through the node onto two drives of ours, then each block is there for the kernel's driver
#: machine=vfio cpus=2 timeout=600
. /lab/vfio.sh
ferroce devices
to_vfio "${DRIVES[@]}"
serve --cores 0,1 --device "nvme:${DRIVES[0]}" --device "nvme:${DRIVES[1]}"
cat /tmp/node.out
connect --nr-io-queues=2
for nsid in 1 2; do
    disk=$(disk $nsid)
    verify "$disk" 8 io_uring '4k 64k 512k' '1 32'
    # Beside what fio wrote lies what is compared to the last byte.
    random_file /tmp/data$nsid 8
    dd if=/tmp/data$nsid of="$disk" bs=1M seek=32 oflag=direct conv=notrunc,fsync status=none
    dd if="$disk" bs=1M count=8 iflag=direct status=none | sha256sum >/tmp/sum$nsid
done
disconnect
stop
to_kernel "${DRIVES[@]}"
for nsid in 1 2; do
    own=$(own_disk "${DRIVES[nsid - 1]}")
    dd if="$own" bs=1M count=8 iflag=direct status=none | sha256sum | cmp - /tmp/sum$nsid
    cmp /tmp/data$nsid <(dd if="$own" bs=1M skip=32 count=8 iflag=direct status=none)
    say "the kernel reads from $own what the host wrote"
done
