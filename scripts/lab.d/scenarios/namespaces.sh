# namespaces added, resized and removed while I/O runs, seen by the host at once
#: smoke
truncate -s 32M /data/b
serve --device ram:64MiB
connect
start_load "$(disk 1)"
has_size() { [ "$(bytes "$(find_disk "$1")")" = $(($2 << 20)) ]; }
ctl add file:/data/b --nsid 2
until_true 5 has_size 2 32
random_file /tmp/data 8
dd if=/tmp/data of="$(disk 2)" bs=1M oflag=direct conv=notrunc status=none
ctl resize 2 48MiB
until_true 5 has_size 2 48
cmp -n $((8 << 20)) /tmp/data "$(disk 2)"
ctl add ram:16MiB --nsid 7
until_true 5 has_size 7 16
ctl remove 2
until_true 5 no_disk 2
ctl remove 7
until_true 5 no_disk 7
stop_load
expect 'announced changes' "$(dmesg | grep -c 'rescanning namespaces')" -ge 5
