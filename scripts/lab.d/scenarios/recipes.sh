# What README says of Kubernetes and model serving: model files for hosts that only read, a raw device for a KV cache, by names that stay
#: machine=service timeout=600
MODELS=4f2d7f0e-8f0a-4c58-8a0e-2f1c0b9d7e61
CACHE=9d0c4b1e-53a7-4e0c-b5d5-0c6f3d2a7b18
models=/dev/disk/by-id/nvme-uuid.$MODELS cache=/dev/disk/by-id/nvme-uuid.$CACHE
# configure [LINE]: the node's file, with a line for the models.
configure() {
    cat >/etc/ferroce/ferroce.toml <<END
listen = ["tcp://127.0.0.1:4420"]
[[subsystem]]
nqn = "$NQN"
[[subsystem.namespace]]
device = "file:/var/lib/ferroce/models.img,size=320MiB,uuid=$MODELS"
${1-}
[[subsystem.namespace]]
device = "ram:256MiB,uuid=$CACHE"
END
}
install_package
mkdir -p /etc/ferroce
configure
systemctl start ferroce
connect
until_true 10 test -b $models
mkfs.xfs -q $models
mount $models /mnt
mkdir /mnt/models
for i in 1 2 3 4; do random_file /mnt/models/model-0000$i-of-00004.safetensors 8; done
(cd /mnt && find . -type f -exec sha256sum {} + >/tmp/sums)
umount /mnt
disconnect
configure 'read-only = true'
systemctl restart ferroce
ferroce ctl show | grep -c "$MODELS" || fail '`ctl show` does not list the UUID'

# The driver writes this to /dev/nvme-fabrics and waits for the name (csi-driver-nvmf, pkg/nvmf/fabrics.go).
modprobe nvme-tcp
exec 5<>/dev/nvme-fabrics
printf 'nqn=%s,transport=tcp,traddr=127.0.0.1,trsvcid=4420,hostnqn=%s' "$NQN" "$HOST" >&5
exec 5>&-
until_true 10 test -b $models
# As in the volume's mountOptions; xfs without `norecovery` would write.
mount -t xfs -o ro,norecovery $models /mnt
(cd /mnt && sha256sum -c --quiet /tmp/sums)
say "$(wc -l </tmp/sums) files are as they were, by $models"
refused 'ead-only' touch /mnt/models/another
refused '' dd if=/dev/zero of=$models bs=4k count=1 oflag=direct conv=notrunc
umount /mnt
disconnect_all

# Without a driver: what connects a machine at its start.
echo '-t tcp -a 127.0.0.1 -s 4420' >/etc/nvme/discovery.conf
systemctl start nvmf-autoconnect.service
until_true 20 test -b $models
until_true 20 test -b $cache
say 'nvmf-autoconnect.service connects'
mount -t xfs -o ro,norecovery $models /mnt
(cd /mnt && sha256sum -c --quiet /tmp/sums)
umount /mnt

# The raw block backend of LMCache: slots of a header of 4 KiB and a chunk each, behind 128 MiB of its index, written and read
# whole by several threads past the page cache.
for slot in 1028k 2052k; do
    run_fio --name=slots-$slot --filename=$cache --ioengine=psync --numjobs=4 --rw=randwrite --bs=$slot --size=$((10 * ${slot%k}))k \
        --offset=128m --offset_increment=24m --verify=crc32c --verify_fatal=1
    run_fio --name=uring-$slot --filename=$cache --ioengine=io_uring --iodepth=8 --rw=randwrite --bs=$slot --size=$((10 * ${slot%k}))k \
        --offset=128m --verify=crc32c --verify_fatal=1
done
random_file /tmp/index 4
random_file /tmp/slots 12
dd if=/tmp/index of=$cache bs=1M oflag=direct conv=notrunc status=none
dd if=/tmp/slots of=$cache bs=1M seek=200 oflag=direct conv=notrunc status=none
disconnect_all
systemctl start nvmf-autoconnect.service || systemctl restart nvmf-autoconnect.service
until_true 20 test -b $cache
cmp /tmp/index <(dd if=$cache bs=1M count=4 iflag=direct status=none)
cmp /tmp/slots <(dd if=$cache bs=1M skip=200 count=12 iflag=direct status=none)
say 'slots and index are there after another connection'
disconnect_all
rm /etc/nvme/discovery.conf
systemctl stop ferroce
dpkg --purge ferroce >/dev/null 2>&1
