# Verbs: 100 connects and disconnects, half of them under I/O: no queue pair, region, connection or buffer is left
#: node timeout=600
use_verbs 4500
serve --device ram:64MiB "${METRICS[@]}"
# The first connection makes what stays: completion queues.
connect -i 1
disconnect
until_true 20 eval '[ "$(held qp)" = 0 ]'
before=$(all_held)
for i in $(seq 100); do
    dial -i 1 >/dev/null
    CTRL=$(controllers)
    until_true 10 live "$CTRL"
    if [ $((i % 2)) = 0 ]; then
        disk=$(disk 1)
        fio --name=cut --filename="$disk" --direct=1 --thread --ioengine=io_uring --rw=randrw --bs=64k --iodepth=16 \
            --size=32m --allow_file_create=0 --time_based --runtime=30 >/dev/null 2>&1 &
        load=$!
        until_true 10 eval '[ "$(metric io_bytes_total)" -gt 0 ]'
        disconnect "$CTRL"
        wait $load || true
    else
        disconnect "$CTRL"
    fi
done
held_again "$before"
! wget -q -O - http://127.0.0.1:9520/metrics | grep -E 'verbs_(slow_drains|stale_completions|failed)"} [1-9]' || fail 'queue pairs did not end well'
