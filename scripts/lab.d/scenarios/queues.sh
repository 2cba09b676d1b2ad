# one I/O queue per CPU, write and poll queues beside them, depths of 16 and 1024
#: cpus=4 timeout=150
serve --device ram:64MiB
connect -i 4
expect 'the number of queues' "$(cat "/sys/class/nvme/$CTRL/queue_count")" = 5
jobs=(--filename="$(disk 1)" --ioengine=io_uring --rw=randwrite --verify=crc32c --size=1m --offset_increment=1m)
run_fio --name=each --numjobs=4 --cpus_allowed=0-3 --cpus_allowed_policy=split --bs=4k --iodepth=16 "${jobs[@]}"
disconnect
connect -i 4 -W 2 -P 2
expect 'the number of queues' "$(cat "/sys/class/nvme/$CTRL/queue_count")" = 9
run_fio --name=polled "${jobs[@]}" --hipri --numjobs=2 --bs=4k --iodepth=4
disconnect
connect -Q 16
expect 'sqsize' "$(cat "/sys/class/nvme/$CTRL/sqsize")" = 15
run_fio --name=shallow --bs=4k --iodepth=64 "${jobs[@]}"
disconnect
connect -Q 1024
# Over RDMA the kernel's host asks for 128 at most (NVME_RDMA_MAX_QUEUE_SIZE).
case $FABRIC in tcp) deep=1023 ;; rdma) deep=127 ;; esac
expect 'sqsize' "$(cat "/sys/class/nvme/$CTRL/sqsize")" = $deep
run_fio --name=deep --bs=4k --iodepth=900 "${jobs[@]}"
