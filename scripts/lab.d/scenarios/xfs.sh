# mkfs.xfs, files with checksums, trim, remount over a new connection, check
#: smoke
filesystem 'mkfs.xfs -q' 'xfs_repair -n' 320MiB
