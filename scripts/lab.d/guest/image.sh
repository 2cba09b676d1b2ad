# For machines with another one beside them that boots the image (`#: machine=image`): it has no shell, so it is told what to
# do by its power button, its slots and its cable, and says what it is over HTTP.
on_node() { echo "@@node $*"; }

# use_image FABRIC: the host's end of the cable; tcp or rdma.
use_image() {
    cable rdma0 10.9.0.1/24 4500
    FABRIC=$1 TARGET=10.9.0.2 FROM=10.9.0.1
    [ "$1" = tcp ] || soft_roce rxe0 rdma0
    BEGAN=$(cut -d' ' -f1 /proc/uptime)
}

# page NAME: what the node answers over HTTP. (The wget of Debian's static busybox crashes when it is given a time limit.)
page() {
    timeout 10 bash -c 'exec 5<>/dev/tcp/10.9.0.2/9520; printf "GET /%s HTTP/1.1\r\n\r\n" "$1" >&5; cat <&5' page "$1"
}
shows() { page "$1" >/tmp/page && grep -q -e "$2" /tmp/page; }

# since: seconds from when use_image was called.
since() { awk -v from="$BEGAN" '{ printf "%.1f s after power-on\n", $1 - from }' /proc/uptime; }

# What a machine that is only Ferroce must do: serve, survive its power button and a reset under load, and lose nothing.
serve_through() {
    use_image "$2"
    on_node start "$1"
    until_true 150 shows status '"nsid": 2'
    say "the node says it serves, $(since)"
    connect --reconnect-delay=1 --keep-alive-tmo=5 --ctrl-loss-tmo=400
    dd if="$(disk 1)" of=/dev/null bs=4k count=1 iflag=direct status=none
    say "first read, $(since)"
    page log | grep 'of memory of its own' | tail -1
    for nsid in 1 2; do verify "$(disk $nsid)" 4 io_uring '4k 128k' '1 8'; done
    start_load "$(disk 1)"
    sleep 3
    on_node monitor system_powerdown
    until_true 90 not_live "$CTRL"
    say 'the node went down by its power button'
    on_node start "$1"
    until_true 150 live "$CTRL"
    say 'it is back'
    sleep 3
    on_node monitor system_reset
    until_true 60 not_live "$CTRL"
    until_true 150 live "$CTRL"
    say 'it is back after a hard reset'
    sleep 3
    stop_load
    disconnect
}
