# io_uring_cmd on the generic device: NVMe commands straight from user space
#: smoke
serve --device ram:64MiB
connect
disk=$(disk 1)
generic=/dev/ng${disk#/dev/nvme}
verify "$generic" 1 io_uring_cmd '4k 16k' '1 32'
verify "$generic" 16 io_uring_cmd '128k' '1 8'
