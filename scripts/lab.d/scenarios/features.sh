# every feature: those supported are read and set, the others refused
#: smoke
serve --device ram:64MiB
connect
c=/dev/$CTRL

expect 'number of queues' "$(nvme get-feature "$c" -f 7)" '~' 'alue:(0x)?00[0-9a-f]+$'
expect 'keep alive timer' "$(nvme get-feature "$c" -f 0xf)" '~' 'alue:0x00001388'
expect 'volatile write cache' "$(nvme get-feature "$c" -f 6)" '~' 'alue:(0x)?0000000[01]'
nvme get-feature "$c" -f 0xb -H
nvme set-feature "$c" -f 0xf -v 15000
expect 'keep alive timer' "$(nvme get-feature "$c" -f 0xf)" '~' 'alue:0x00003a98'
if node; then
    # Mandatory for an I/O controller over fabrics: these can be read.
    for fid in 1 2 4 5 6 7 0xa 0xb 0xf; do nvme get-feature "$c" -f $fid -n 1 -H; done
    nvme get-feature "$c" -f 0x81 -l 16 -c 1 | tee /tmp/hostid
    expect 'host identifier' "$(tr -d ' \n' </tmp/hostid)" '~' '1111111111114111'
    for fid in 1 2 4 7 0xb 0xf; do nvme get-feature "$c" -f $fid -s 3; done
    nvme set-feature "$c" -f 4 -v 0x150
    expect 'temperature threshold' "$(nvme get-feature "$c" -f 4)" '~' 'alue:0x00000150'
    # All that can be set: what was set is read, what was there at the beginning stays the default.
    while read -r fid value more; do
        nvme set-feature "$c" -f "$fid" -v "$value" $more
        expect "feature $fid" "$(nvme get-feature "$c" -f "$fid" $more)" '~' "alue:(0x)?0*${value#0x}\$"
    done <<'END'
1 0x3020107
2 0x20
4 0x160
5 0x64 -n 1
0xa 0x1
0xb 0x100
0x19 0x0
END
    expect 'arbitration at the beginning' "$(nvme get-feature "$c" -f 1 -s 1)" '~' 'alue:(0x)?0*7$'
    printf '\x00\x00\xf5\x7b\x8c\x01\x00\x00' >/tmp/time
    nvme set-feature "$c" -f 0xe -v 0 -l 8 -d /tmp/time
    nvme get-feature "$c" -f 0xe -l 8 -b >/tmp/timestamp
    # In milliseconds; bytes 2 to 5 change in a minute. The origin in byte 6 says that a host has set it.
    expect 'timestamp' "$(od -An -tx1 -j2 -N5 /tmp/timestamp | tr -d ' \n')" = f57b8c0102
    head -c 512 /dev/zero >/tmp/behavior
    printf '\x01' | dd of=/tmp/behavior conv=notrunc status=none
    nvme set-feature "$c" -f 0x16 -v 0 -l 512 -d /tmp/behavior >/dev/null
    nvme get-feature "$c" -f 0x16 -l 512 -b >/tmp/behaves
    cmp /tmp/behavior /tmp/behaves
    # Values that nobody could keep to, and what is not to be changed or saved.
    for set in '2 1' '4 0x200000' '5 0x10000 -n 1' '0xb 0x40000000'; do
        read -r fid value more <<<"$set"
        refused 'Invalid Field|INVALID_FIELD' nvme set-feature "$c" -f "$fid" -v "$value" $more
    done
    refused 'combination is rejected|REJECTED' nvme set-feature "$c" -f 0x19 -v 1
    refused 'Not Changeable|NOT_CHANGEABLE' nvme set-feature "$c" -f 6 -v 0
    refused 'Not Saveable|NOT_SAVEABLE' nvme set-feature "$c" -f 1 -v 7 -s
    refused 'Not Namespace Specific|NOT_PER_NS' nvme set-feature "$c" -f 1 -v 7 -n 1
    refused 'Invalid Namespace|INVALID_NS' nvme set-feature "$c" -f 5 -v 1 -n 0xfffffff0
    head -c 16 /dev/zero >/tmp/nobody
    refused 'Command Sequence Error|CMD_SEQ' nvme set-feature "$c" -f 0x81 -v 1 -l 16 -d /tmp/nobody
    for fid in 0xd 0x10 0x70 0xc0 0xff; do refused 'Invalid Field|INVALID_FIELD' nvme get-feature "$c" -f $fid; done
    # The number of queues is settled before there are any. Linux 6.12 does not even pass it on.
    refused 'Command Sequence Error|Permission denied' nvme set-feature "$c" -f 7 -v 0x00030003
    # What the log calls supported can be read. The host identifier, above, only in its long form over fabrics.
    for fid in $(nvme fid-support-effects-log "$c" | sed -n 's/^FID \([0-9a-f]*\) .*/\1/p'); do
        [ "$fid" = 81 ] || nvme get-feature "$c" -f "0x$fid" -n 1 >/dev/null || fail "feature $fid"
        say "feature $fid"
    done
    expect 'ready timeouts (CRTO)' "$(nvme get-property "$c" -o 0x68)" '~' 'value: [0-9a-f]'
fi
# show-regs of nvme-cli 2.3 shows no fabrics controller right, whatever the target; property by property it does.
for offset in 0 8 0x14 0x1c; do nvme get-property "$c" -o $offset -H; done
expect 'ready' "$(nvme get-property "$c" -o 0x1c)" '~' 'value: 1'
refused 'Invalid Field' nvme get-property "$c" -o 0x10
