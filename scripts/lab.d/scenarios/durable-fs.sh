# ext4 keeps every synced file at every moment of the write log
#: timeout=240
mib=24
dmsetup create logged --noudevsync --table "0 $((mib << 11)) log-writes /dev/ram1 /dev/ram2"
dmsetup mknodes
serve --device file:/dev/mapper/logged
connect
disk=$(disk 1)
mkfs.ext4 -q -J size=4 "$disk"
mount "$disk" /mnt
for mark in 1 2 3 4 5; do
    mkdir "/mnt/$mark"
    for file in a b c; do random_file "/mnt/$mark/$file" 1; done
    [ "$mark" = 1 ] || mv "/mnt/$((mark - 1))/a" "/mnt/$mark/moved"
    sync
    dmsetup message logged 0 mark "$mark"
    (cd /mnt && find . -type f -exec sha256sum {} +) >/tmp/sums.$mark
done
umount /mnt
disconnect
stop
dmsetup remove logged --noudevsync
for mark in 1 2 3 4 5; do
    replay /dev/ram2 /dev/ram3 $((mib << 20)) "$mark"
    mount /dev/ram3 /mnt
    (cd /mnt && sha256sum -c --quiet "/tmp/sums.$mark")
    umount /mnt
    e2fsck -fn /dev/ram3
    say "mark $mark: $(wc -l <"/tmp/sums.$mark") files, all as synced"
done
