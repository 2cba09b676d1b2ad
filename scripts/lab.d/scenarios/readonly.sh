# a read-only namespace: mounted by two hosts, every way to change it refused
#: smoke node
truncate -s 32M /data/models
mkfs.ext4 -q -b 4096 /data/models
mount -o loop /data/models /mnt
random_file /mnt/model 4
umount /mnt
before=$(sha256sum </data/models)
serve --device file:/data/models,ro
connect
disk=$(disk 1)
expect 'the read-only flag' "$(blockdev --getro "$disk")" = 1
expect 'nsattr' $(($(field nsattr nvme id-ns "$disk") & 1)) = 1
refused '' dd if=/dev/zero of="$disk" bs=4k count=1 oflag=direct
head -c 4096 /dev/zero >/tmp/zero
for command in "write -s 0 -c 0 -z 4096 -d /tmp/zero" "write-zeroes -s 0 -c 0" "dsm -d -s 0 -b 8"; do
    refused 'WRITE_PROTECTED|write protected|Write Protected|0x2020|0x20' nvme ${command%% *} "$disk" -n 1 ${command#* }
done
mount -o ro "$disk" /mnt
connect $SECOND
[ "$(head -c $((4 << 20)) /mnt/model | wc -c)" = $((4 << 20)) ] || fail 'the model is not there'
umount /mnt
disconnect_all
stop
[ "$(sha256sum </data/models)" = "$before" ] || fail 'the read-only file changed'
