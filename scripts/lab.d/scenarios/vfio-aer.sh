# a drive whose bus reports an uncorrected error (AER) under load is brought up again, and the host sees no error
#: machine=vfio cpus=2 timeout=180
. /lab/vfio.sh
to_vfio "${DRIVES[@]}"
serve --cores 0,1 --device "nvme:${DRIVES[0]}" --device "nvme:${DRIVES[1]}"
connect --nr-io-queues=2
disk=$(disk 1)
start_load "$disk"
# The first leaves the link as it is (not fatal); the second has the kernel reset everything behind the port.
i=0
for error in COMP_TIME MALF_TLP; do
    sleep 2
    i=$((i + 1))
    qemu "pcie_aer_inject_error slot0 $error"
    back() { [ "$(grep -c 'it is back' /tmp/node.log)" = $i ]; }
    until_true 30 back
    say "$error: back"
done
# It writes nothing to where nobody sent it; the IOMMU would stop that, and tell, if not each time.
sleep 2
expect 'stray writes' "$(dmesg | grep -c 'DMAR.*Request device' || true)" = 0
stop_load
dmesg | grep -i 'AER' || fail 'the kernel heard of no error'
expect 'errors that the node heard of' "$(grep -c 'the bus reports an error' /tmp/node.log)" -ge 2
# The other drive, of another port, is left alone.
grep "${DRIVES[1]}.*is back" /tmp/node.log && fail 'the other drive was reset as well'
live "$CTRL" || fail 'the controller is not live'
expect 'I/O errors of the host' "$(dmesg | grep -c 'I/O error' || true)" = 0
verify "$disk" 8 io_uring 16k 16
disconnect
stop
