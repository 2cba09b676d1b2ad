# Verbs: commands of 1 MiB, 32 at a time, straight from user space; 128 KiB with 32 MiB under way; 4 MiB
#: cpus=2 timeout=200
use_verbs 4500
serve --device ram:192MiB "${METRICS[@]}"
connect
disk=$(disk 1)
generic=/dev/ng${disk#/dev/nvme}
verify "$generic" 64 io_uring_cmd '1m' '32'
# Two queues of 128, which is all that Linux has in one: 256 times 128 KiB are 32 MiB.
verify "$generic" 64 io_uring_cmd '128k' '128' numjobs=2 cpus_allowed=0-1 cpus_allowed_policy=split offset_increment=64m &
fio=$!
if node; then
    until_true 60 eval '[ "$(metric io_depth)" -ge 200 ]'
    say "commands under way: $(metric io_depth)"
fi
wait $fio
verify "$disk" 64 io_uring '1m 4m' '32'
