# What scenarios say: serve and stop (the target), connect and disconnect (the kernel's host), disk, expect, refused, verify.
NQN=nqn.2026-01.org.example:lab
HOST=nqn.2014-08.org.nvmexpress:uuid:11111111-1111-4111-8111-111111111111
HOST2=nqn.2014-08.org.nvmexpress:uuid:22222222-2222-4222-8222-222222222222
# nvme-cli takes a second host for the first one, unless both name the addresses they come from and these differ.
SECOND="--hostnqn=$HOST2 --hostid=${HOST2##*:} --host-traddr=127.0.0.2"
NODE=
# The fabric that scenarios run over, where the target listens and where the host comes from; `use_rdma` changes them.
FABRIC=tcp
TARGET=127.0.0.1
FROM=127.0.0.1
# A command that starts the node elsewhere, if set.
WITHIN=
# What the node is to use for RDMA, if not its own RoCE.
PROVIDER=
SERVE=()

say() { echo "$(cut -d' ' -f1 /proc/uptime) $*"; }
fail() { say "FAILED: $*"; exit 1; }

# expect WHAT ACTUAL OPERATOR WANTED: operators of test, or ~ for a pattern.
expect() {
    if [ "$3" = '~' ]; then [[ $2 =~ $4 ]] || fail "$1 is '$2', not like '$4'"
    else test "$2" "$3" "$4" || fail "$1 is '$2', wanted $3 '$4'"; fi
    say "$1 is $2"
}

# Some things only the node does, the kernel's target does not: `node && ...`, or `if node`.
node() { [ "$LAB_TARGET" = ferroce ]; }

# refused PATTERN COMMAND...: it fails, and says so in these words.
refused() {
    local pattern=$1 output
    shift
    if output=$("$@" 2>&1); then fail "this was to be refused: $*"; fi
    [[ $output =~ $pattern ]] || fail "refused, but not with '$pattern': $*: $output"
    say "refused as it should be: $* (${output%%$'\n'*})"
}

# until_true SECONDS COMMAND...
until_true() {
    local end=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -le $end ] || fail "this did not become true: $*"
        sleep 0.1
    done
}

# dial [nvme connect options]: asks for a connection, no more. What comes last wins, as always with nvme-cli.
dial() {
    nvme connect -t "$FABRIC" -a "$TARGET" -s 4420 -w "$FROM" -n "$NQN" --hostnqn="$HOST" --hostid="${HOST##*:}" "$@"
}

# cable INTERFACE ADDRESS MTU: the only interface that a cable is plugged into, under this name and with this address.
cable() {
    local at name
    for at in /sys/class/net/*/device; do name=$(basename "${at%/device}"); done
    [ "$name" = "$1" ] || { ip link set "$name" down; ip link set "$name" name "$1"; }
    ip link set "$1" mtu "$3"
    ip addr replace "$2" dev "$1"
    ip link set "$1" up
}

# soft_roce DEVICE INTERFACE: an RDMA device in the kernel's software, once it has the interface's IPv4 address.
soft_roce() {
    local module
    for module in rdma_rxe rdma_ucm; do modprobe "$module"; done
    rdma link add "$1" type rxe netdev "$2"
    until_true 10 grep -q ffff:0a09: "/sys/class/infiniband/$1/ports/1/gids/1"
}

# use_rdma MTU: from here on everything goes over RDMA. The kernel's host has soft-RoCE (rxe) on one end of a virtual
# cable, the node the other end, in a network of its own, since UDP port 4791 of the first network is rxe's. The kernel's
# own target listens on the host's end: rxe reaches itself.
use_rdma() {
    watch_stalls
    ip netns add node
    ip link add rdma0 mtu "$1" type veth peer name rdma1 mtu "$1" netns node
    ip addr add 10.9.0.1/24 dev rdma0
    ip link set rdma0 up
    ip -n node addr add 10.9.0.2/24 dev rdma1
    ip -n node link set lo up
    ip -n node link set rdma1 up
    soft_roce rxe0 rdma0
    FABRIC=rdma FROM=10.9.0.1
    if node; then TARGET=10.9.0.2 WITHIN='ip netns exec node'; else TARGET=10.9.0.1; fi
}

# use_verbs MTU: as use_rdma, but the node uses soft-RoCE as well, the same device as the host: rxe reaches itself.
use_verbs() {
    ip link add rdma0 mtu "$1" type veth peer name rdma1 mtu "$1"
    ip addr add 10.9.0.1/24 dev rdma0
    ip link set rdma0 up
    ip link set rdma1 up
    soft_roce rxe0 rdma0
    FABRIC=rdma FROM=10.9.0.1 TARGET=10.9.0.1 PROVIDER=verbs
}

# held KIND: how many queue pairs, regions, connections (qp, mr, cm_id) the kernel holds for programs, which is the node. Its
# own have a module's name in brackets; what a thread asked for that is gone has no name at all.
held() { rdma resource show "$1" | grep -vc 'comm \[' || true; }
# all_held: all of that, and what the node itself says it has out.
all_held() {
    echo "qp $(held qp), mr $(held mr), cm_id $(held cm_id), connections $(metric core_connections)," \
        "buffers $(metric core_buffer_used_bytes), in capsules $(metric core_landing_used_bytes)"
}
# metric NAME [LABEL]: what the node's metrics say of it, summed; it serves with METRICS.
METRICS=(--metrics 127.0.0.1:9520)
metric() {
    $WITHIN wget -q -O - http://127.0.0.1:9520/metrics |
        awk -v name="ferroce_$1" -v label="${2-}" '
            (index($1, name "{") == 1 || $1 == name) && (label == "" || index($1, label)) { sum += $2 } END { printf "%d\n", sum }'
}
# held_again WHAT: waits until all_held says this, as it did before.
held_again() {
    local end=$((SECONDS + 40))
    until [ "$(all_held)" = "$1" ]; do
        [ $SECONDS -le $end ] || fail "it was: $1; it is: $(all_held)"
        sleep 0.2
    done
    say "as before: $1"
}

# rxe NAME: one of soft-RoCE's counters.
rxe() { cat "/sys/class/infiniband/rxe0/ports/1/hw_counters/$1"; }

# nothing_lost: what must hold on a clean cable. No packet was missed by either end, none came out of order, and nothing was
# sent again; but for rxe. Its timer of 0.54 s runs on while this machine stands still. And it does not begin anew with a packet
# that goes out when everything before was acknowledged: captured, one was sent again 1.5 ms after it was sent, which is some
# milliseconds before anyone here answers. The slower the machine, the likelier it is that one is out at that moment.
nothing_lost() {
    local in_vain=3
    nothing_missed
    expect duplicate_request "$(rxe duplicate_request)" = 0
    expect 'completer_retry_err, as often as the machine stood still and by a timer that began before,' \
        "$(rxe completer_retry_err)" -le $(($(wc -l <"$STALLS") + in_vain))
}

# nothing_missed: the same, but for what was sent again in vain, which a machine that is as slow as this one may have done.
nothing_missed() {
    local counter
    for counter in rcvd_seq_err out_of_seq_request retry_exceeded_err retry_rnr_exceeded_err rcvd_rnr_err send_err; do
        expect "$counter" "$(rxe $counter)" = 0
    done
}

# watch_stalls: notes each time that this machine stood still for 0.4 s or longer, in hundredths of a second, until the
# scenario ends.
STALLS=/tmp/stalls
watch_stalls() {
    : >"$STALLS"
    (
        exec {never}<> <(:)
        read -r before _ </proc/uptime
        while [ -d "/proc/$$" ]; do
            read -r -t 0.1 -u "$never" || true
            read -r now _ </proc/uptime
            stood=$((${now/./} - ${before/./}))
            [ $stood -lt 40 ] || echo $stood >>"$STALLS"
            before=$now
        done
    ) &
}

# connect [nvme connect options]: sets CTRL to the new controller, such as nvme0, once it is live.
connect() {
    local before=" $(echo $(controllers)) " name
    dial "$@"
    for name in $(controllers); do
        [[ $before = *" $name "* ]] || CTRL=$name
    done
    until_true 10 live "$CTRL"
    say "connected as $CTRL, cntlid $(cat "/sys/class/nvme/$CTRL/cntlid")"
}

# Those over a fabric: a machine may have drives of its own.
controllers() {
    local at
    for at in /sys/class/nvme/nvme*; do
        [ ! -e "$at" ] || [ "$(cat "$at/transport")" = pcie ] || echo "${at##*/}"
    done
}
live() { [ "$(cat "/sys/class/nvme/$1/state")" = live ]; }
recoveries() { dmesg | grep -c 'error recovery\|reconnect' || true; }
not_live() { ! live "$1"; }
disconnect() { nvme disconnect -d "${1:-$CTRL}"; }
disconnect_all() { nvme disconnect-all; until_true 20 no_controller; }
no_controller() { [ -z "$(controllers)" ]; }

# disk NSID: the block device of that namespace, waiting for it to appear; hidden per-path devices are left out.
disk() {
    local nsid=${1:-1}
    until_true 10 find_disk "$nsid"
    find_disk "$nsid"
}
find_disk() {
    local at
    for at in /sys/block/nvme*n*; do
        [ -e "$at/nsid" ] && [ "$(cat "$at/nsid")" = "$1" ] && [ -b "/dev/${at##*/}" ] || continue
        [ "$(cat "$at/device/subsysnqn")" = "$NQN" ] || continue
        echo "/dev/${at##*/}"
        return
    done
    return 1
}
no_disk() { ! find_disk "$1" >/dev/null; }
bytes() { blockdev --getsize64 "$1"; }

# random_file FILE MIB
random_file() { dd if=/dev/urandom of="$1" bs=1M count="$2" status=none; }

# field NAME COMMAND...: one value out of what nvme-cli prints as `name : value`.
field() {
    local name=$1
    shift
    "$@" | sed -n "s/^ *$name[[:space:]]*:[[:space:]]*\([^[:space:]]*\).*/\1/p" | head -1
}

# run_fio OPTIONS...: in one process with threads, its report kept short.
run_fio() {
    fio --direct=1 --thread --group_reporting --minimal --terse-version=3 "$@" |
        awk -F';' 'NF > 40 { printf "fio: %s read %d KiB at %d/s, written %d KiB at %d/s, error %d\n", $3, $6, $8, $47, $49, $5; if ($5) bad = 1 }
            NF <= 40 { print } END { exit bad }'
}

# verify DISK MIB ENGINE "SIZES" "DEPTHS" [LINE...]: writes checksummed blocks all over the first MIB and reads them all
# back, once for each pair, in one process; with more lines for fio's section [global].
verify() {
    local file=$1 size=$2 engine=$3 bs depth
    {
        printf '[global]\nfilename=%s\nioengine=%s\nsize=%dm\nrw=randwrite\nverify=crc32c\nverify_fatal=1\nstonewall\n' \
            "$file" "$engine" "$size"
        [ $# -le 5 ] || printf '%s\n' "${@:6}"
        [ "$engine" != io_uring_cmd ] || printf 'cmd_type=nvme\ndirect=0\n'
        for bs in $4; do
            for depth in $5; do printf '[%s-qd%s]\nbs=%s\niodepth=%s\n' "$bs" "$depth" "$bs" "$depth"; done
        done
    } >/tmp/verify.fio
    run_fio /tmp/verify.fio
}

# start_load DISK: checksummed writes to the first 32 MiB, each read back some 32 writes later, until stop_load; which
# fails if anything did. Beside them 4 MiB lie still, at 40 MiB, and must be the same in the end.
start_load() {
    LOADED=$1
    random_file /tmp/still 4
    dd if=/tmp/still of="$1" bs=1M seek=40 oflag=direct conv=notrunc status=none
    fio --name=load --filename="$1" --ioengine=io_uring --direct=1 --thread --rw=randwrite --bs=16k --iodepth=16 --size=32m \
        --verify=crc32c --verify_fatal=1 --verify_backlog=32 --time_based --runtime=300 --rate_iops=80,80 \
        --minimal --terse-version=3 >/tmp/load &
    LOAD=$!
    # A shell starts what is in the background deaf to SIGINT, which fio is until it has begun: one sent too early is lost.
    until_true 30 load_goes_on 0
}
# load_goes_on BYTES: it has written more than that.
load_goes_on() { [ "$(loaded)" -gt "$1" ]; }
loaded() { sed -n 's/^write_bytes: //p' "/proc/$LOAD/io"; }
stop_load() {
    kill -INT $LOAD || fail 'the load ended too early'
    local status=0
    wait $LOAD || status=$?
    # 128 is how fio says that it was interrupted, and nothing else.
    expect "the load's status" $status = 128
    awk -F';' 'NF > 40 { printf "load: read %d KiB, written %d KiB, error %d\n", $6, $47, $5 }' /tmp/load
    cmp /tmp/still <(dd if="$LOADED" bs=1M skip=40 count=4 iflag=direct status=none)
}

# register ON: whether the kernel's host registers all memory that an I/O names. That is its default. With `N` an I/O of one
# piece of memory, which huge_buffers makes of each, goes by the key of all memory, and no registration stands in the send
# queue.
#
# Soft-RoCE, of Linux 6.1 as of later ones, makes a registration again whenever it has to send again something that stands
# before it in the send queue (req_retry leaves it done, rxe_requester executes it nevertheless), finds the memory
# registered ("mr->lkey not free"), and stops its queue pair without a completion: the host's I/Os time out. So each lost
# command that has others behind it costs the host a reconnection, whatever the target is (pair-loss shows it with both).
register() {
    modprobe -r nvme_rdma
    modprobe nvme_rdma register_always="$1"
}
# excused: the host had to come back only where soft-RoCE made a registration again, and no more often than it did that.
excused() {
    local again
    again=$(dmesg | grep -c 'rxe_reg_fast_mr.*not free' || true)
    say "registrations made again: $again"
    if [ "$again" = 0 ]; then
        expect 'recoveries' "$(recoveries)" = 0
    else
        expect 'recoveries begun' "$(dmesg | grep -c 'starting error recovery' || true)" -le "$again"
    fi
}
# Memory of fio's that lies in one piece, for verify.
huge_buffers() {
    echo 16 >/proc/sys/vm/nr_hugepages
    HUGE='iomem=shmhuge'
}

# filesystem MAKE CHECK SIZE: a file system made over the fabric keeps its files, through trim and a new connection.
filesystem() {
    serve --device "ram:$3"
    connect
    local disk
    disk=$(disk 1)
    $1 "$disk"
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
    $2 "$disk"
    mount "$disk" /mnt
    (cd /mnt && sha256sum -c --quiet /tmp/sums)
    say "$(wc -l </tmp/sums) files are as they were"
    umount /mnt
    expect 'I/O errors' "$(dmesg | grep -c 'I/O error' || true)" = 0
}

# measure NAME DISK OPTIONS...: one fio job, and what each of its I/Os kept the machine busy for: host, target and fio
# together. With counted instructions (scripts/lab --count) this repeats to a percent or two.
measure() {
    local name=$1 disk=$2 from to
    shift 2
    # The first second warms up caches, pools and the estimates of the kernel's schedulers.
    fio --name=warm --filename="$disk" --direct=1 --thread --ioengine=io_uring --time_based --runtime=1 "$@" >/dev/null
    from=$(</proc/uptime)
    fio --name="$name" --filename="$disk" --direct=1 --thread --ioengine=io_uring --time_based --runtime=3 \
        --minimal --terse-version=3 "$@" >/tmp/measured
    to=$(</proc/uptime)
    awk -F';' -v name="$name" -v from="$from" -v to="$to" 'NF > 40 {
        split(from, a, " "); split(to, b, " ")
        # Fields of --terse-version=3: 8 and 49 are reads and writes a second, 9 and 50 the milliseconds they went on.
        ios = ($8 * $9 + $49 * $50) / 1000
        printf "@@figure %s-iops %d\n@@figure %s-busy-us %.1f\n", name, $8 + $49, name, (b[1] - a[1] - b[2] + a[2]) * 1e6 / ios
        if ($5) exit 1
    }' /tmp/measured
}

# measure_all DISK: the jobs of `scripts/bench lab`.
measure_all() {
    dd if=/dev/urandom of="$1" bs=1M count=64 oflag=direct status=none
    measure read-4k-qd1 "$1" --rw=randread --bs=4k --iodepth=1
    measure read-4k-qd8 "$1" --rw=randread --bs=4k --iodepth=8
    measure read-4k-qd32 "$1" --rw=randread --bs=4k --iodepth=32
    measure write-4k-qd1 "$1" --rw=randwrite --bs=4k --iodepth=1
    measure write-4k-qd8 "$1" --rw=randwrite --bs=4k --iodepth=8
    measure write-4k-qd32 "$1" --rw=randwrite --bs=4k --iodepth=32
    measure mixed-4k-qd1 "$1" --rw=randrw --rwmixread=70 --bs=4k --iodepth=1
    measure mixed-4k-qd8 "$1" --rw=randrw --rwmixread=70 --bs=4k --iodepth=8
    measure mixed-4k-qd32 "$1" --rw=randrw --rwmixread=70 --bs=4k --iodepth=32
    measure read-128k-qd8 "$1" --rw=randread --bs=128k --iodepth=8
    measure write-128k-qd8 "$1" --rw=randwrite --bs=128k --iodepth=8
    measure mixed-128k-qd8 "$1" --rw=randrw --rwmixread=70 --bs=128k --iodepth=8
}

# write_both DISK MARK: random bytes at places that follow from MARK, to the disk and to /tmp/model, which is to be its like:
# one large write and small ones across it, in the order in which a later one overwrites an earlier one.
write_both() {
    local place bs seek count
    random_file /tmp/data 1
    for place in "64k $(($2 * 13)) 16" "4k $(($2 * 257)) 3" "16k $(($2 * 37)) 2"; do
        read -r bs seek count <<<"$place"
        dd if=/tmp/data of="$1" bs="$bs" seek="$seek" count="$count" oflag=direct conv=notrunc status=none
        dd if=/tmp/data of=/tmp/model bs="$bs" seek="$seek" count="$count" conv=notrunc status=none
    done
}
