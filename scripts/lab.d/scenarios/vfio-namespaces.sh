# two namespaces of one drive: fio verify on both at once, while one goes and comes; then each block is there for the kernel
#: machine=vfio cpus=2 timeout=400
. /lab/vfio.sh
drive=$(slot 4)
to_vfio "$drive" "$(slot 4 1)"
refused "namespaces .*1, 2.*nvme:$drive/1" ferroce serve --device "nvme:$drive"
refused 'no namespace 3' ferroce serve --device "nvme:$drive/3"
serve --cores 0,1 --device "nvme:$drive/1" --device "nvme:$drive/2"
cat /tmp/node.out
connect --nr-io-queues=2
disks=("$(disk 1)" "$(disk 2)")
for size in 4k 64k; do
    run_fio --ioengine=io_uring --rw=randwrite --verify=crc32c --verify_fatal=1 --bs=$size --iodepth=16 --size=4m \
        --name=one --filename="${disks[0]}" --name=two --filename="${disks[1]}"
done
# The cores' queues are those of the first one.
start_load "${disks[1]}"
ctl remove 1
until_true 10 no_disk 1
sleep 1
ctl add "nvme:$drive/1" --nsid 1
disks[0]=$(disk 1)
sleep 1
stop_load
for i in 0 1; do leave $i "${disks[i]}" 44; done
disconnect
stop
to_kernel "$drive"
for i in 0 1; do kernel_finds $i "$(own_disk "$drive" $((i + 1)))" 44; done
