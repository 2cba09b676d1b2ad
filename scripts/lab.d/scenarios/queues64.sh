# 64 I/O queues of one host: 22 read, 21 write and 21 poll queues
#: cpus=22 timeout=300
serve --device ram:128MiB
connect -i 22 -W 21 -P 21
expect 'the number of queues' "$(cat "/sys/class/nvme/$CTRL/queue_count")" = 65
jobs=(--filename="$(disk 1)" --ioengine=io_uring --rw=randwrite --verify=crc32c --size=256k --offset_increment=256k)
spread=(--numjobs=22 --cpus_allowed=0-21 --cpus_allowed_policy=split --bs=4k --iodepth=4)
run_fio --name=interrupts "${jobs[@]}" "${spread[@]}"
run_fio --name=polled "${jobs[@]}" "${spread[@]}" --hipri
