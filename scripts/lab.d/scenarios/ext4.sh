# mkfs.ext4, files with checksums, trim, remount over a new connection, check
#: smoke
filesystem 'mkfs.ext4 -q' 'e2fsck -fn' 128MiB
