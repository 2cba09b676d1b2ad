# a persistent discovery controller hears of changes: event, generation counter, new entry
#: smoke
ask() { nvme discover -t "$FABRIC" -a "$TARGET" -s 4420 --hostnqn="$HOST" --hostid="${HOST##*:}" "$@"; }
generation() { sed -n 's/.*Generation counter \([0-9]*\).*/\1/p' /tmp/log; }
serve --device ram:16MiB --allow "$HOST2"
ask -p | tee /tmp/log
CTRL=$(controllers)
before=$(generation)
expect 'entries of the subsystem' "$(grep -c "subnqn: *$NQN\$" /tmp/log || true)" = 0
uevent sh -c 'echo "$NVME_AEN" >>/tmp/events' &
watcher=$!
sleep 0.5
ctl allow "$HOST"
until_true 5 grep -q 0x70f002 /tmp/events
say 'the host was told'
ask -d "$CTRL" | tee /tmp/log
expect 'generation counter' "$(generation)" -gt "$before"
expect 'entries of the subsystem' "$(grep -c "subnqn: *$NQN\$" /tmp/log)" = 1
# A discovery controller that keeps alive outlives its timer.
sleep 6
expect 'the state' "$(cat "/sys/class/nvme/$CTRL/state")" = live
expect 'recoveries' "$(recoveries)" = 0
kill $watcher
