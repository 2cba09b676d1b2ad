# Verbs: too little locked memory is said at the start, or to the host that comes too late, with the limit; others go on
#: node timeout=240
use_verbs 4500
ip addr add 10.9.0.50/24 dev rdma0
echo 'nobody:x:65534:65534::/:/bin/sh' >>/etc/passwd
# As somebody who may not lock more than the limit.
cat >/bin/limited <<'END'
#!/bin/bash
ulimit -l "$LOCKED_KIB"
exec su nobody -s /bin/bash -c 'exec "$0" "$@"' -- "$@"
END
chmod 755 /bin/limited
export LOCKED_KIB=4096
refused "cannot register .* MiB of memory with rxe0: .*ulimit -l" \
    limited ferroce serve --listen verbs://10.9.0.1:4420 --device ram:16MiB --ctl /tmp/none.sock
LOCKED_KIB=unlimited
WITHIN=limited
serve --device ram:64MiB --ctl /tmp/limited.sock "${METRICS[@]}"
connect
start_load "$(disk 1)"
# From now on there is no room for another queue pair.
prlimit --pid "$NODE" --memlock=65536:65536
refused 'Input/output|reset|refused' dial -w 10.9.0.50 --hostnqn="$HOST2" --hostid="${HOST2##*:}" -i 1
grep -E 'no memory for a queue pair.*locked memory.*ulimit -l' /tmp/node.log
# 6 is No Resources of NVMe/RDMA; the kernel has words of its own for it.
dmesg | grep 'Connect rejected.*nvme status 6 ' || fail 'the host was not told why'
prlimit --pid "$NODE" --memlock=unlimited:unlimited
stop_load
expect 'recoveries' "$(recoveries)" = 0
