# deallocate and write zeroes punch holes into a file, and what was there reads as zeroes
serve --device file:/data/a,size=64MiB
connect
disk=$(disk 1)
used() { du -m /data/a | cut -f1; }
random_file /tmp/data 32
dd if=/tmp/data of="$disk" bs=1M oflag=direct status=none
expect 'MiB used' "$(used)" -ge 32
if node || [ "$(cat "/sys/block/$(basename "$disk")/queue/discard_max_bytes")" != 0 ]; then
    blkdiscard -o $((4 << 20)) -l $((16 << 20)) "$disk"
    expect 'MiB used' "$(used)" -le 20
    cmp -n $((16 << 20)) /dev/zero <(dd if="$disk" bs=1M skip=4 count=16 iflag=direct status=none)
fi
blkdiscard -z -o $((24 << 20)) -l $((4 << 20)) "$disk"
cmp -n $((4 << 20)) /dev/zero <(dd if="$disk" bs=1M skip=24 count=4 iflag=direct status=none)
for part in "0 4" "20 4" "28 4"; do
    read -r from count <<<"$part"
    cmp <(dd if=/tmp/data bs=1M skip="$from" count="$count" status=none) \
        <(dd if="$disk" bs=1M skip="$from" count="$count" iflag=direct status=none)
done
