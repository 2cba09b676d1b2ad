# Two machines, an RDMA device at either end: packets carry the DSCP that the node was given, or else the host's, both ways
#: machine=pair node timeout=300
use_pair verbs 4500
# Those of queue pairs: queue pair 1 is the connection manager's.
of_qps='udp port 4791 and not (udp[13] = 0 and udp[14] = 0 and udp[15] = 1)'
# marked FROM DSCP COMMAND...: every packet that comes from there meanwhile carries it, and there are some.
marked() {
    local from=$1 dscp=$2 all right
    shift 2
    tcpdump -Z root -i rdma0 -w /tmp/packets.pcap -s 64 --immediate-mode "src $from and $of_qps" 2>/tmp/tcpdump &
    until_true 10 grep 'listening on' /tmp/tcpdump
    "$@" >/tmp/marked
    kill -INT $!
    wait $! || true
    all=$(tcpdump -Z root -r /tmp/packets.pcap -n 2>/dev/null | wc -l)
    right=$(tcpdump -Z root -r /tmp/packets.pcap -n "ip[1] & 0xfc = $((dscp * 4))" 2>/dev/null | wc -l)
    expect "packets from $from" "$all" -gt 20
    expect "packets from $from with DSCP $dscp" "$right" = "$all"
}
by_host() { connect "$@"; verify "$(disk 1)" 1 io_uring '4k 128k' 4; disconnect; }
# Without its bar, which is for terminals.
by_probe() { ferroce probe "verbs://10.9.0.2:4420/$NQN" --time 1s --verify --destroy-data "$@" 2>&1 | cat; }

# A node without a class of its own takes the host's.
serve --device ram:64MiB
marked 10.9.0.1 0 by_host
marked 10.9.0.2 0 by_host
marked 10.9.0.1 18 by_host --tos=72
marked 10.9.0.2 18 by_host --tos=72
marked 10.9.0.1 26 by_probe --dscp 26
marked 10.9.0.2 26 by_probe --dscp 26
stop
# One that has its own keeps to it, whatever the host's is.
serve --device ram:64MiB --dscp 26
marked 10.9.0.2 26 by_host
marked 10.9.0.2 26 by_host --tos=72
marked 10.9.0.1 18 by_host --tos=72
refused '.64. is no DSCP' ferroce probe "verbs://10.9.0.2:4420/$NQN" --dscp 64
