# every log page that nvme-cli reads, with the values that must be there
#: smoke
serve --device ram:64MiB
connect
c=/dev/$CTRL disk=$(disk 1)

before=$(field num_err_log_entries nvme smart-log "$c")
refused '' nvme admin-passthru "$c" -o 0x7d
expect 'errors counted' "$(field num_err_log_entries nvme smart-log "$c")" -gt "$before"
nvme error-log "$c" -e 1 | tee /tmp/error
expect 'the sqid of the error' "$(field sqid cat /tmp/error)" = 0
if node; then expect 'its transport' "$(field trtype cat /tmp/error)" = The; fi
written=$(field host_write_commands nvme smart-log "$c")
dd if=/dev/zero of="$disk" bs=128k count=64 oflag=direct status=none
nvme smart-log "$c" | tee /tmp/smart
expect 'writes counted' "$(field host_write_commands cat /tmp/smart)" -ge $((written + 64))
expect 'critical_warning' "$(field critical_warning cat /tmp/smart)" = 0
nvme fw-log "$c"
nvme changed-ns-list-log "$c"
nvme effects-log "$c" -c 0 -H
nvme ana-log "$c" | tee /tmp/ana
expect 'ANA state' "$(grep -c 'optimized' /tmp/ana)" -ge 1
if node; then
    expect 'active firmware slot' "$(field afi nvme fw-log "$c")" = 0x1
    nvme supported-log-pages "$c" | tee /tmp/pages
    # Each page that is said to be there can be read.
    for page in $(grep -oi '^LID 0x[0-9a-f]*' /tmp/pages | cut -d' ' -f2); do
        nvme get-log "$c" --log-id="$page" --log-len=512 >/dev/null || fail "log page $page"
        say "log page $page"
    done
    nvme fid-support-effects-log "$c"
    nvme mi-cmd-support-effects-log "$c"
    # The others are refused: by their commands, and by number those of which nvme-cli reads more than one page.
    while read -r -a command; do
        refused 'Invalid Log Page|INVALID_LOG' nvme "${command[0]}" "$c" "${command[@]:1}"
    done <<'END'
endurance-log -g 1
predictable-lat-log -i 1
pred-lat-event-agg-log -e 1
endurance-event-agg-log -e 1
resv-notif-log
self-test-log
sanitize-log
media-unit-stat-log
supported-cap-config-log
END
    for page in 7 8 0xd 0xe 0x14 0x15 0x70 0xc5 0xff; do
        refused 'Invalid Log Page|INVALID_LOG' nvme get-log "$c" --log-id=$page --log-len=512
    done
    nvme get-log "$c" --log-id=2 --log-len=256 --lpo=256 >/dev/null
fi
