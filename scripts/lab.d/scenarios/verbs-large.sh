# Verbs: commands of 1 MiB, 32 at a time, straight from user space; 128 KiB with 32 MiB under way; 4 MiB
#: timeout=200
use_verbs 4500
serve --device ram:192MiB
connect
disk=$(disk 1)
generic=/dev/ng${disk#/dev/nvme}
verify "$generic" 64 io_uring_cmd '1m' '32'
verify "$generic" 64 io_uring_cmd '128k' '256'
verify "$disk" 64 io_uring '1m 4m' '32'
