# Verbs: whole pages are not copied by the node, to and from files and out of memory; into memory once at most
#: node timeout=300
use_verbs 4500
serve --device ram:256MiB,block=4096 --device file:/data/a,size=64MiB,block=4096 "${METRICS[@]}"
connect
# copies NSID OPTIONS...: bytes the node copied while fio did that, and bytes that it moved.
copies() {
    local nsid=$1 before moved
    shift
    before=$(metric copied_bytes_total) moved=$(metric io_bytes_total)
    run_fio --name=copies --filename="$(disk "$nsid")" --ioengine=io_uring --size=32m --number_ios=200 "$@" >/dev/null
    COPIED=$(($(metric copied_bytes_total) - before)) MOVED=$(($(metric io_bytes_total) - moved))
    say "namespace $nsid, $*: $MOVED bytes moved, $COPIED copied"
}
for bs in 4k 8k 128k 1m; do
    for nsid in 1 2; do
        for rw in randwrite randread; do
            # 4 MiB under way are within what a memory drive of this size lends to one queue; what is beyond is copied, once.
            copies $nsid --rw=$rw --bs=$bs --iodepth=4
            expect 'bytes moved' "$MOVED" -ge 800000
            case $nsid$rw$bs in
                # In a capsule, or more of them on their way than the drive has pages to lend.
                1randwrite*) expect 'bytes copied' "$COPIED" -le "$MOVED" ;;
                *) expect 'bytes copied' "$COPIED" = 0 ;;
            esac
        done
    done
done
# Deeper, up to the 4 MiB that it lends: of larger reads no more than that are under way in the node.
for shape in '4k 128' '128k 32' '1m 32'; do
    for nsid in 1 2; do
        copies $nsid --rw=randread --bs="${shape% *}" --iodepth="${shape#* }"
        expect 'bytes copied' "$COPIED" = 0
    done
done
