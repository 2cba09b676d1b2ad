# connect, read and write, disconnect; what does not exist is refused
#: smoke
serve --device ram:64MiB
connect
disk=$(disk 1)
expect 'the size' "$(bytes "$disk")" = $((64 << 20))
random_file /tmp/data 8
dd if=/tmp/data of="$disk" bs=1M oflag=direct status=none
cmp /tmp/data <(dd if="$disk" bs=1M count=8 iflag=direct status=none)
disconnect
connect
cmp /tmp/data <(dd if="$(disk 1)" bs=64k count=128 iflag=direct status=none)
disconnect
refused 'Input/output' dial -n "$NQN:other"
refused 'refused|reset' dial -s 4421
connect --disable-sqflow
cmp /tmp/data <(dd if="$(disk 1)" bs=64k count=128 iflag=direct status=none)
verify "$(disk 1)" 1 io_uring '4k' '32'
