# noise, half-open and slow connections on the port, while a host reads and writes undisturbed
#: timeout=120
serve --device ram:64MiB
connect
start_load "$(disk 1)"
noise() { head -c "$1" /dev/urandom >/dev/tcp/127.0.0.1/4420; }
for size in 1 7 8 72 127 128 129 4096 100000 1000000; do noise $size 2>/dev/null || true; done
# An ICReq's header, and then nothing; a byte at a time; many that come and go.
for i in 1 2 3 4 5 6 7 8; do exec {held}<>/dev/tcp/127.0.0.1/4420; printf '\0\0\200\0\200\0\0\0' >&$held; done
exec {slow}<>/dev/tcp/127.0.0.1/4420
for i in 0 0 200 0 200 0 0; do printf "\\$i" >&$slow; sleep 0.2; done
for i in $(seq 300); do exec {quick}<>/dev/tcp/127.0.0.1/4420; exec {quick}>&-; done
expect 'the state' "$(cat "/sys/class/nvme/$CTRL/state")" = live
expect 'recoveries' "$(recoveries)" = 0
stop_load
connect $SECOND
