# the probe drives a drive without a fabric, proves its contents, and tells what the fabric adds; not what is in use
#: machine=vfio cpus=2 smoke timeout=240
. /lab/vfio.sh
to_vfio "${DRIVES[@]}"
# Not where reads of these drives fail: 64 MiB from the start.
ferroce probe "nvme:${DRIVES[0]}" --time 1s --size 32MiB --depth 1
ferroce probe "nvme:${DRIVES[0]}" --time 1s --size 32MiB --depth 32 --queues 2 --block-size 16KiB
ferroce probe "nvme:${DRIVES[0]}" --time 1s --size 16MiB --verify --destroy-data
refused 'overwrites the namespace' ferroce probe "nvme:${DRIVES[0]}" --write 50
serve --device "nvme:${DRIVES[1]}"
refused 'another process uses' ferroce probe "nvme:${DRIVES[1]}"
ferroce probe tcp://127.0.0.1:4420 --against "nvme:${DRIVES[0]}" --time 1s --size 32MiB --depth 1 --rounds 6 | tee /tmp/against
grep 'added latency of a read: .* us at p50, .* us at p99, .* us at p99.9' /tmp/against
stop

# Whoever was given the group's file needs not be root. Too little memory to lock is said, with what helps.
group=$(basename "$(readlink "/sys/bus/pci/devices/${DRIVES[0]}/iommu_group")")
chmod 666 /dev/vfio/vfio
echo 'user:x:1000:1000:user:/tmp:/bin/sh' >>/etc/passwd
# as_user KIB COMMAND...: with so much memory to lock.
as_user() { (ulimit -l "$1" && shift && exec su -c "$*" user); }
refused "/dev/vfio/$group.*chown" as_user unlimited ferroce probe "nvme:${DRIVES[0]}" --time 100ms
chown 1000 "/dev/vfio/$group"
refused 'ulimit -l' as_user 64 ferroce probe "nvme:${DRIVES[0]}" --time 100ms
as_user unlimited ferroce probe "nvme:${DRIVES[0]}" --time 500ms --size 32MiB
