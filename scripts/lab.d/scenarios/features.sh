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
