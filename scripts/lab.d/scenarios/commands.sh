# every I/O command by nvme-cli, in blocks of 512 and 4096
#: smoke
serve --device ram:16MiB,block=512 --device ram:16MiB,block=4096
connect
random_file /tmp/data 1
for nsid in 1 2; do
    disk=$(disk $nsid)
    block=$(blockdev --getss "$disk")
    one=(-c 0 -z "$block")
    nvme write "$disk" -s 8 "${one[@]}" -d /tmp/data
    nvme read "$disk" -s 8 "${one[@]}" -d /tmp/read
    cmp -n "$block" /tmp/data /tmp/read
    # The largest transfer that the controller takes, at the end of the namespace.
    nvme write "$disk" -s $(((15 << 20) / block)) -c $(((1 << 20) / block - 1)) -z $((1 << 20)) -d /tmp/data
    cmp /tmp/data <(dd if="$disk" bs=1M skip=15 iflag=direct status=none)
    nvme write "$disk" -s 8 "${one[@]}" -d /tmp/data --force-unit-access
    nvme flush "$disk" -n $nsid
    if node; then
        nvme compare "$disk" -s 8 "${one[@]}" -d /tmp/data
        refused 'Compare Failure|COMPARE_FAILED' nvme compare "$disk" -s 9 "${one[@]}" -d /tmp/data
        nvme verify "$disk" -s 8 -c 7
    fi
    nvme write-zeroes "$disk" -s 8 -c 0
    nvme read "$disk" -s 8 "${one[@]}" -d /tmp/read
    cmp -n "$block" /dev/zero /tmp/read
    # Two ranges in one command, aligned as any drive would like them.
    at=$((65536 / block))
    nvme write "$disk" -s $at -c $((at - 1)) -z 65536 -d /tmp/data
    nvme dsm "$disk" -n $nsid -d -s $((at * 8)),$at -b 1,$at
    # Deallocated blocks read as zeroes where the namespace says so (DLFEAT).
    nvme read "$disk" -s $at -c $((at - 1)) -z 65536 -d /tmp/read
    [ $(($(field dlfeat nvme id-ns "$disk") & 7)) != 1 ] || cmp -n 65536 /dev/zero /tmp/read
    blkdiscard -z -o 0 -l $((1 << 20)) "$disk"
    blkdiscard "$disk"
done
