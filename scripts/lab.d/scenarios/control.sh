# listeners, namespaces and hosts changed under I/O and written to the configuration: the next node has them
#: node timeout=90
truncate -s 16M /data/b
cat >/tmp/ferroce.toml <<END
# A comment that stays.
listen = ["tcp://127.0.0.1:4420"]

[[subsystem]]
nqn = "$NQN"

[[subsystem.namespace]]
device = "ram:64MiB"
END
serve --config /tmp/ferroce.toml
connect
start_load "$(disk 1)"
ctl add file:/data/b --nsid 4 --persist
until_true 5 find_disk 4
random_file /tmp/data 4
dd if=/tmp/data of="$(disk 4)" bs=1M oflag=direct conv=notrunc status=none
ctl listen tcp://127.0.0.5:4421 --persist
ctl allow "$HOST" --persist
first=$CTRL
connect -a 127.0.0.5 -s 4421
ctl unlisten tcp://127.0.0.5:4421
refused 'refused' dial -a 127.0.0.5 -s 4421 --host-traddr=127.0.0.6
expect 'who is connected stays' "$(cat "/sys/class/nvme/$CTRL/state")" = live
disconnect
# Told to go, a host comes back by itself.
before=$(recoveries)
ctl disconnect "$HOST"
until_true 20 eval "[ \$(recoveries) -gt $before ]"
until_true 20 live "$first"
stop_load
disconnect "$first"
cat /tmp/ferroce.toml
grep -q 'A comment that stays' /tmp/ferroce.toml
stop
serve --config /tmp/ferroce.toml
connect -a 127.0.0.5 -s 4421
cmp -n $((4 << 20)) /tmp/data "$(disk 4)"
refused 'Input/output|denied|not allowed' dial $SECOND
