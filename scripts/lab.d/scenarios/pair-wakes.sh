# Two machines, an RDMA device at either end: a node that sleeps wakes once for a read, and not again when its answer is acknowledged
#: machine=pair node timeout=120
use_pair verbs 4500
serve --device ram:64MiB --spin 0us
connect -i 1

# How often the node's cores slept so far.
on_node eval 'slept() {
    local task sum=0
    for task in /proc/$(pidof ferroce)/task/*; do
        [[ $(cat "$task/comm") != core* ]] || sum=$((sum + $(sed -n "s/^voluntary_ctxt_switches:\s*//p" "$task/status")))
    done
    echo $sum
}'
reads=2000
before=$(on_node slept)
fio --name=job --filename="$(disk)" --direct=1 --ioengine=io_uring --rw=randread --bs=4k --iodepth=1 --io_size="$((reads * 4))k" >/dev/null
sleeps=$((($(on_node slept) - before) * 100 / reads))
expect 'sleeps of the node for a hundred reads' "$sleeps" -gt 50
expect 'sleeps of the node for a hundred reads' "$sleeps" -lt 150
