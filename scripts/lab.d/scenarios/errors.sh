# what cannot be done is refused with its status, and the connection lives on
#: smoke
serve --device ram:16MiB,block=4096
connect
c=/dev/$CTRL disk=$(disk 1)
head -c 8192 /dev/urandom >/tmp/data
end=4096
refused 'Invalid Command Opcode' nvme io-passthru "$disk" -o 0x7d -n 1
refused 'Invalid (Command Opcode|Field)' nvme admin-passthru "$c" -o 0x7d
refused 'Invalid Command Opcode' nvme format "$disk" --force
refused '' nvme read "$disk" -s $end -c 0 -z 4096
if node; then
    for range in "$end 0" "$((end - 1)) 1" '0xffffffffffffffff 0' '0xfffffffffffffffe 7'; do
        read -r start count <<<"$range"
        size=$(((count + 1) * 4096))
        refused 'LBA Out of Range|LBA_RANGE' nvme read "$disk" -s "$start" -c "$count" -z $size
        refused 'LBA Out of Range|LBA_RANGE' nvme write "$disk" -s "$start" -c "$count" -z $size -d /tmp/data
        refused 'LBA Out of Range|LBA_RANGE' nvme write-zeroes "$disk" -s "$start" -c "$count"
        refused 'LBA Out of Range|LBA_RANGE' nvme verify "$disk" -s "$start" -c "$count"
    done
    nvme error-log "$c" -e 1 | tee /tmp/error
    expect 'the sqid of the error' "$(field sqid cat /tmp/error)" = 1
    expect 'its namespace' "$(field nsid cat /tmp/error)" = 0x1
    # With M (more in the error log), which not every target sets.
    expect 'its status' "$(field status_field cat /tmp/error)" '~' "$(node && echo 0x6080 || echo '0x[46]080')"
    expect 'its LBA' "$(field lba cat /tmp/error)" '~' '^0xf'
    refused 'Invalid Field' nvme admin-passthru "$c" -o 6 --cdw10=0x7e -l 4096 -r
    # Fewer data than the command speaks of.
    refused 'SGL|Invalid Field' nvme io-passthru "$disk" -o 9 -n 1 --cdw10=44 --cdw11=4 -l 16 -w -i /tmp/data
    refused 'SGL|Invalid Field' nvme io-passthru "$disk" -o 2 -n 1 --cdw12=1 -l 4096 -r
    refused 'SGL|Invalid Field' nvme io-passthru "$disk" -o 1 -n 1 --cdw12=1 -l 4096 -w -i /tmp/data
fi
if node; then
    # A disk that this machine uses itself is not served, whoever asks; free again it is.
    truncate -s 16M /data/loop
    loop=$(losetup --find --show /data/loop)
    refused 'it backs /dev/loop' ctl add file:/data/loop
    mkfs.ext4 -q "$loop"
    mount "$loop" /mnt
    # A node in a network namespace has mounts of its own, and sees another use.
    refused 'it is mounted on /mnt|the device is in use' ctl add "file:$loop"
    refused 'it is mounted on /mnt|the device is in use' ferroce serve --device "file:$loop" --listen tcp://127.0.0.1:0 --ctl /tmp/other.sock
    umount /mnt
    dmsetup create held --noudevsync --table "0 $(((16 << 20) / 512)) linear $loop 0"
    refused 'dm-[0-9]+ has it' ctl add "file:$loop"
    dmsetup remove held --noudevsync
    ctl add "file:$loop" --nsid 7
    until_true 5 find_disk 7
    ctl remove 7
    until_true 5 no_disk 7
    losetup --detach "$loop"
fi
expect 'recoveries' "$(recoveries)" = 0
verify "$disk" 1 io_uring '4k' '8'
