# header and data digests, alone and together
#: smoke
serve --device ram:64MiB
for digests in -g -G '-g -G'; do
    connect $digests
    verify "$(disk 1)" 1 io_uring '4k 12k' '1 32'
    verify "$(disk 1)" 4 io_uring '512k' '4'
    disconnect
done
