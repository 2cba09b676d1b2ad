# controller resets while checksummed I/O runs
#: smoke timeout=120
serve --device ram:64MiB
connect
start_load "$(disk 1)"
for i in 1 2 3 4 5 6; do
    sleep 1
    nvme reset "/dev/$CTRL"
    until_true 20 live "$CTRL"
    say "reset $i"
done
sleep 1
stop_load
