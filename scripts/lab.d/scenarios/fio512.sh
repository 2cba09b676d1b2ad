# checksummed writes read back, 512-byte blocks, several sizes and depths, RAM and file drives
#: smoke timeout=240
serve --device ram:64MiB,block=512 --device file:/data/a,size=64MiB,block=512
connect
for nsid in 1 2; do
    expect "the block size of $nsid" "$(blockdev --getss "$(disk $nsid)")" = 512
    verify "$(disk $nsid)" 1 io_uring '512 4k 20k' '1 32'
    verify "$(disk $nsid)" 8 io_uring '128k 1m' '1 8'
    verify "$(disk $nsid)" 8 io_uring '2m' '4'
done
