# For counted machines (`#: machine=counted`): what an I/O keeps the whole machine busy with, in instructions.
. /lab/vfio.sh
DRIVE=${DRIVES[0]}
# A node's machine has the drive under vfio-pci, the kernel's target under the kernel's driver.
if node; then
    to_vfio "$DRIVE"
elif [ "$(driver "$DRIVE")" != nvme ]; then
    echo "$DRIVE" >/sys/bus/pci/drivers/nvme/bind
fi

# kernel_disk: what the kernel makes of the drive. With one CPU it has one queue, and the kernel would sort its I/Os, which it
# does not with the drives of larger machines.
kernel_disk() {
    local disk
    disk=$(own_disk "$DRIVE")
    echo none >"/sys/block/${disk#/dev/}/queue/scheduler"
    echo "$disk"
}

# set_mark: how many marks were set so far is in /run/marks, since boot.
set_mark() {
    mark
    MARKS=$(($(cat /run/marks 2>/dev/null || echo 0) + 1))
    echo $MARKS >/run/marks
}

# spent NAME COMMAND...: `COMMAND SECONDS` does I/Os for so long, and sets IOS and P50_US. It runs three times, the first one
# to warm up; the last one is long, since fio begins with some 30 million instructions, more or less.
spent() {
    local name=$1 line="@@insns $1" seconds from
    shift
    "$@" 1
    for seconds in 1 31; do
        set_mark
        from=$MARKS
        "$@" $seconds
        set_mark
        line+=" $from $MARKS $IOS"
    done
    echo "$line"
    echo "@@figure $name-iops $((IOS / seconds))"
    echo "@@figure $name-p50-us $P50_US"
}

# by_fio DISK OPTIONS... SECONDS
by_fio() {
    fio --name=job --filename="$1" --direct=1 --thread --ioengine=io_uring --bs=4k --time_based --runtime="${*: -1}" \
        --percentile_list=50 --output-format=json "${@:2:$#-2}" >/tmp/fio.json
    # The half without I/Os has neither.
    read -r IOS P50_US <<<"$(awk '
        /"error" :/ && $3 + 0 { exit 1 }
        /"total_ios" :/ { ios += $3 }
        /"clat_ns" :/ { inside = 1 }
        inside && /"50.000000" :/ { if ($3 > 0) p50 = $3 / 1000; inside = 0 }
        END { printf "%d %.1f\n", ios, p50 }' /tmp/fio.json)"
    expect 'I/Os by fio' "$IOS" -gt 0
}

# by_probe OPTIONS... SECONDS
by_probe() {
    ferroce probe "nvme:$DRIVE" --doze --json --time "${*: -1}s" "${@:1:$#-1}" >/tmp/probe.json
    read -r IOS P50_US <<<"$(tr -d ' \n' </tmp/probe.json | awk -F'"ios":' '{
        for (i = 2; i <= NF; i++) if ($i + 0) { ios += $i; match($i, /"p50":[0-9.]+/); p50 = substr($i, RSTART + 6, RLENGTH - 6) }
        printf "%d %.1f\n", ios, p50 }')"
    expect 'I/Os by the probe' "$IOS" -gt 0
}

# idle: what the machine executes in a second in which nobody asks for anything.
idle() {
    local line='@@insns idle-second' seconds from
    for seconds in 1 11; do
        set_mark
        from=$MARKS
        sleep $seconds
        set_mark
        line+=" $from $MARKS $seconds"
    done
    echo "$line"
}
