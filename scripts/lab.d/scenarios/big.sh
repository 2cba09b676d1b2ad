# a namespace of 8 TiB: both ends of it, and beyond 32 bits of blocks
truncate -s 8T /data/a
serve --device file:/data/a
connect
disk=$(disk 1)
expect 'the size' "$(bytes "$disk")" = $((8 << 40))
random_file /tmp/data 1
places='0 2097151 2097152 4194304 8388606 8388607'
for place in $places; do dd if=/tmp/data of="$disk" bs=1M seek="$place" oflag=direct conv=notrunc status=none; done
for place in $places; do cmp /tmp/data <(dd if="$disk" bs=1M skip="$place" count=1 iflag=direct status=none); done
cmp -n $((1 << 20)) /dev/zero <(dd if="$disk" bs=1M skip=1 count=1 iflag=direct status=none)
