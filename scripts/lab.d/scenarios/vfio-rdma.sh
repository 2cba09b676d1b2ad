# RDMA to two drives of ours, several queues: fio verify, no byte copied, and the kernel finds what was written
#: machine=vfio cpus=2 timeout=400
. /lab/vfio.sh
use_verbs 4500
to_vfio "${DRIVES[@]}"
serve --cores 0,1 --device "nvme:${DRIVES[0]}" --device "nvme:${DRIVES[1]}" --metrics 127.0.0.1:9100
# copied KIND: bytes that were copied for that reason, so far.
copied() {
    wget -q -O /tmp/metrics http://127.0.0.1:9100/metrics
    awk -v why="why=\"$1\"" '/^ferroce_copied_bytes_total/ && index($0, why) { print $NF; seen = 1 }
        END { if (!seen) print "unknown" }' /tmp/metrics
}
connect --nr-io-queues=2
for nsid in 1 2; do verify "$(disk $nsid)" 2 io_uring 4k '1 16'; done
for nsid in 1 2; do
    disk=$(disk $nsid)
    verify "$disk" 4 io_uring 64k '1 16'
    random_file /tmp/data$nsid 8
    dd if=/tmp/data$nsid of="$disk" bs=1M seek=32 oflag=direct conv=notrunc,fsync status=none
    dd if="$disk" bs=1M count=4 iflag=direct status=none | sha256sum >/tmp/sum$nsid
done
expect 'number of bytes copied of in-capsule data' "$(copied in-capsule)" = 0
expect 'number of bytes copied by the transport' "$(copied transport)" = 0
expect 'number of bytes copied of parts of pages' "$(copied part-of-page)" = 0
disconnect
stop
to_kernel "${DRIVES[@]}"
for nsid in 1 2; do
    own=$(own_disk "${DRIVES[nsid - 1]}")
    dd if="$own" bs=1M count=4 iflag=direct status=none | sha256sum | cmp - /tmp/sum$nsid
    cmp /tmp/data$nsid <(dd if="$own" bs=1M skip=32 count=8 iflag=direct status=none)
    say "the kernel reads from $own what the host wrote"
done
