# Verbs: too little locked memory, or too few RDMA objects of a control group: said at the start, or to the host that is too late; others go on
#: node timeout=300
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
# Nor is there one for a control group that has all the objects it may have, until it may have more.
mkdir -p /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
echo +rdma >/sys/fs/cgroup/cgroup.subtree_control
mkdir /sys/fs/cgroup/node
echo "$NODE" >/sys/fs/cgroup/node/cgroup.procs
too_late() { refused 'Input/output|reset|refused' dial -w 10.9.0.50 --hostnqn="$HOST2" --hostid="${HOST2##*:}" -i 1; }
objects() { sed -n 's/.*rxe0 .*hca_object=\([0-9]*\).*/\1/p' /sys/fs/cgroup/node/rdma.current; }
# allow_more COUNT: objects beyond those that the group has. The node says what it lacks once in ten seconds.
allow_more() {
    sleep 10
    local has
    has=$(objects)
    echo "rxe0 hca_object=$((${has:-0} + $1))" >/sys/fs/cgroup/node/rdma.max
}
# What is made first of a queue pair is a region, and last the queue pair.
allow_more 0
too_late
grep -E 'no memory for a queue pair.*hca_object in its rdma.max' /tmp/node.log
allow_more 1
too_late
grep -E 'no queue pair of .*hca_object in its rdma.max' /tmp/node.log
expect 'objects that are left of it' "$(objects)" '~' '^0?$'
echo 'rxe0 hca_object=max' >/sys/fs/cgroup/node/rdma.max
FIRST=$CTRL
connect -w 10.9.0.50 --hostnqn="$HOST2" --hostid="${HOST2##*:}" -i 1
disconnect
CTRL=$FIRST
stop_load
expect 'recoveries' "$(recoveries)" = 0
disconnect
stop
# A node that has no completion queue yet, and can have none.
cat >/bin/limited <<'END'
#!/bin/bash
echo $$ >/sys/fs/cgroup/node/cgroup.procs
exec "$@"
END
serve --device ram:64MiB --ctl /tmp/limited.sock "${METRICS[@]}"
allow_more 1
too_late
grep -E 'no completion queue: .*hca_object in its rdma.max' /tmp/node.log
echo 'rxe0 hca_object=max' >/sys/fs/cgroup/node/rdma.max
connect
