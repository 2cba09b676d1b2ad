# how long an I/O over soft-RoCE at both ends takes where a CPU polls, and what the two messages in it take alone
#: count cpus=2 timeout=600
use_verbs 4500
# Each end polls on a CPU of its own. By the wall clock: a counted one is shared by both CPUs, and an idle one stops it.
floor() {
    local program=$1 size=$2
    taskset -c 1 "$program" -x 1 -s "$size" -n 2000 -F >/dev/null 2>&1 &
    sleep 1
    taskset -c 0 "$program" -x 1 -s "$size" -n 2000 -F 10.9.0.1 |
        awk -v name="$program" -v size="$size" '$1 == size && NF >= 9 { printf "@@figure %s-p50-us %.1f\n", name, $5; found = 1 } END { exit !found }'
    wait $!
}
floor ib_write_lat 4096
floor ib_send_lat 16
serve --device ram:64MiB,block=4096 --cores 1 --spin always
connect -i 1
disk=$(disk 1)
dd if=/dev/urandom of="$disk" bs=1M count=64 oflag=direct status=none
for job in 4k-qd1 4k-qd8 4k-qd32 128k-qd8; do
    for rw in read write; do
        fio --name=p50 --filename="$disk" --direct=1 --thread --ioengine=io_uring --time_based --ramp_time=1 --runtime=3 \
            --bs="${job%-*}" --iodepth="${job#*-qd}" --rw=rand$rw --cpus_allowed=0 --percentile_list=50 --output-format=json \
            >/tmp/fio.json
        awk -v name="$rw-$job" '
            /"clat_ns"/ { inside = 1 }
            inside && /"50.000000"/ {
                gsub(/[^0-9]*"50.000000" : |,/, "")
                if ($1 > 0) printf "@@figure %s-p50-us %.1f\n", name, $1 / 1000
                inside = 0
            }' /tmp/fio.json
    done
done
