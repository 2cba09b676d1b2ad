# discovery log on the listener, its generation counter, connect-all
#: smoke
serve --device ram:16MiB
nvme discover -t "$FABRIC" -a "$TARGET" -s 4420 --hostnqn="$HOST" --hostid="${HOST##*:}" | tee /tmp/log
at=$(grep -n "subnqn: *$NQN\$" /tmp/log | cut -d: -f1)
[ -n "$at" ] || fail 'the subsystem is not in the log'
entry=$(sed -n "$((at - 6)),$((at + 4))p" /tmp/log)
for line in "trtype: *$FABRIC" 'adrfam: *ipv4' 'subtype: *nvme subsystem' "traddr: *$TARGET" 'trsvcid: *4420'; do
    grep -q "$line" <<<"$entry" || fail "no '$line' in the entry: $entry"
done
nvme connect-all -t "$FABRIC" -a "$TARGET" -s 4420 --hostnqn="$HOST" --hostid="${HOST##*:}"
expect 'the size' "$(bytes "$(disk 1)")" = $((16 << 20))
