# mkfs.xfs, files with checksums, trim, remount over a new connection, check
#: smoke
serve --device ram:320MiB
connect
disk=$(disk 1)
mkfs.xfs -q "$disk"
mount "$disk" /mnt
for i in 1 2 3 4 5 6; do random_file /mnt/$i $i; done
cp -r /lab /mnt/lab
(cd /mnt && find . -type f -exec sha256sum {} + >/tmp/sums)
rm /mnt/6 && sed -i '/ .\/6$/d' /tmp/sums
fstrim -v /mnt
umount /mnt
disconnect
connect
disk=$(disk 1)
xfs_repair -n "$disk"
mount "$disk" /mnt
(cd /mnt && sha256sum -c --quiet /tmp/sums)
say "$(wc -l </tmp/sums) files are as they were"
umount /mnt
expect 'I/O errors' "$(dmesg | grep -c 'I/O error' || true)" = 0
