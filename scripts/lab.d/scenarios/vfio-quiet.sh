# a core that polls all the time has no interrupts of its drive, and one that sleeps is woken by them
#: machine=vfio cpus=2 timeout=240
. /lab/vfio.sh
# interrupts: those of the first drive's I/O queues so far.
interrupts() {
    awk -v at="(${DRIVES[0]})" '/vfio-msix\[[1-9]/ && index($0, at) { sum += $2 + $3 } END { print sum + 0 }' /proc/interrupts
}
to_vfio "${DRIVES[0]}"
for spin in always 0us; do
    serve --cores 0 --spin $spin --device "nvme:${DRIVES[0]}"
    connect --nr-io-queues=1
    disk=$(disk 1)
    # The keeper looks around twice a second, and what is masked is so from its second look on.
    sleep 3
    before=$(interrupts)
    run_fio --name="spin-$spin" --filename="$disk" --ioengine=psync --rw=randread --bs=4k --size=8m --number_ios=300 --cpus_allowed=1
    made=$(($(interrupts) - before))
    if [ $spin = always ]; then expect "number of interrupts for 300 reads, polling," $made -lt 5
    else expect "number of interrupts for 300 reads, sleeping," $made -gt 250; fi
    disconnect
    stop
done
