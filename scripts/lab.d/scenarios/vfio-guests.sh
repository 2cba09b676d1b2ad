# a drive with one queue serves two cores, busy and asleep: fio verify through both, and the kernel finds what was written
#: machine=vfio cpus=2 timeout=300
. /lab/vfio.sh
unplug 1 nvme1
plug 1 nvme1 serial=LAB1,drive=disk1,max_ioqpairs=1,msix_qsize=2
to_vfio "${DRIVES[1]}"
serve --cores 0,1 --device "nvme:${DRIVES[1]}" "${METRICS[@]}"
connect --nr-io-queues=2
disk=$(disk 1)
verify "$disk" 2 io_uring 4k '1 16'
verify "$disk" 8 io_uring 64k 16
reads() { metric core_reads_total "core=\"$1\""; }
before=("$(reads 0)" "$(reads 1)")
# One read at a time, with pauses in which all cores fall asleep, from either CPU: each goes by another queue of the host.
for cpu in 0 1; do
    run_fio --name="cpu$cpu" --filename="$disk" --ioengine=psync --rw=randread --bs=4k --size=8m --thinktime=20ms \
        --number_ios=50 --cpus_allowed=$cpu
done
# The time of one read at a time, in us, by each core: a wake-up that was lost would cost what the keeper takes to look, 500 ms.
for cpu in 0 1; do
    fio --name="time$cpu" --filename="$disk" --direct=1 --thread --ioengine=psync --rw=randread --bs=4k --size=8m --thinktime=3ms \
        --number_ios=400 --cpus_allowed=$cpu --minimal --terse-version=3 >/tmp/time
    took() { grep -o ";$1[^;%]*%=[0-9]*" /tmp/time | head -n 1 | cut -d= -f2; }
    say "CPU $cpu: p50 $(took 50.) us, p99 $(took 99.0) us"
    expect "p99 of reads by CPU $cpu" "$(took 99.0)" -lt 300000
done
for core in 0 1; do expect "reads of core $core since then" $(($(reads $core) - before[core])) -gt 40; done
start_load "$disk"
sleep 2
stop_load
random_file /tmp/data 4
dd if=/tmp/data of="$disk" bs=1M seek=48 oflag=direct conv=notrunc,fsync status=none
disconnect
stop
to_kernel "${DRIVES[1]}"
until_true 20 eval "dmesg | grep '1/0/0 default/read/poll queues'"
cmp /tmp/data <(dd if="$(own_disk "${DRIVES[1]}")" bs=1M skip=48 count=4 iflag=direct status=none)
say "the kernel reads what the host wrote"
