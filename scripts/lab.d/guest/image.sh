# For machines with another one beside them that boots the image (`#: machine=image`): it has no shell, so it is told what to
# do by its power button, its slots and its cable, and says what it is over HTTP.
on_node() { echo "@@node $*"; }
# Where it answers over HTTP.
PAGES=10.9.0.2

# use_image FABRIC: the host's end of the cable; tcp or rdma.
use_image() {
    cable rdma0 10.9.0.1/24 4500
    FABRIC=$1 TARGET=10.9.0.2 FROM=10.9.0.1
    [ "$1" = tcp ] || soft_roce rxe0 rdma0
    BEGAN=$(cut -d' ' -f1 /proc/uptime)
}

# page NAME: what the node answers over HTTP. (The wget of Debian's static busybox crashes when it is given a time limit.)
page() {
    timeout 10 bash -c 'exec 5<>"/dev/tcp/$2/9520"; printf "GET /%s HTTP/1.1\r\n\r\n" "$1" >&5; cat <&5' page "$1" "$PAGES"
}
shows() { page "$1" >/tmp/page && grep -q -e "$2" /tmp/page; }

# since: seconds from when use_image was called.
since() { awk -v from="$BEGAN" '{ printf "%.1f s after power-on\n", $1 - from }' /proc/uptime; }

# What a machine that is only Ferroce must do: serve, survive its power button and a reset under load, and lose nothing.
serve_through() {
    use_image "$2"
    on_node start "$1"
    # UEFI firmware reads 16 MiB from an emulated stick, which takes minutes on a busy machine.
    until_true 300 shows status '"nsid": 2'
    local ready
    ready=$(cut -d' ' -f1 /proc/uptime)
    say "the node says it serves, $(since)"
    connect --reconnect-delay=1 --keep-alive-tmo=5 --ctrl-loss-tmo=400
    dd if="$(disk 1)" of=/dev/null bs=4k count=1 iflag=direct status=none
    say "first read, $(since), firmware included"
    page log | grep -m 1 'of memory of its own: serves 2 namespaces' | tee /tmp/own
    # Its own clock began when the firmware handed over to the kernel, and was there when it said that it serves.
    awk -v ready="$ready" -v own="$(sed 's/.*after \([0-9.]*\) s, with.*/\1/' /tmp/own)" \
        '{ printf "first read, %.1f s after the firmware handed over\n", $1 - ready + own }' /proc/uptime
    # Beside the kernel, buffers and drives in memory; the image itself lies in memory, too, and is part of it.
    expect 'MiB of memory' "$(sed 's/.*, with \([0-9]*\) MiB of memory of its own.*/\1/' /tmp/own)" -le 64
    for nsid in 1 2; do verify "$(disk $nsid)" 4 io_uring '4k 128k' '1 8'; done
    start_load "$(disk 1)"
    sleep 3
    on_node monitor system_powerdown
    until_true 90 not_live "$CTRL"
    say 'the node went down by its power button'
    on_node start "$1"
    until_true 300 live "$CTRL"
    say 'it is back'
    sleep 3
    # A machine that starts reads nothing from its cable, and what was sent would wait at the host's end. Linux 6.1's rxe falls
    # over a packet that its interface still has when the queue pair is gone. Without a link it is lost instead.
    on_node monitor set_link cable off
    on_node monitor system_reset
    until_true 60 not_live "$CTRL"
    on_node monitor set_link cable on
    until_true 300 live "$CTRL"
    say 'it is back after a hard reset'
    sleep 3
    stop_load
    disconnect
}
