# A machine with an address by DHCP: no server at first, then an address and a route, renewed, a cable out and in, a lease that ends
#: machine=image timeout=700
# A scenario before this one took all addresses away; that of IPv6 comes with the link.
ip link set rdma0 down 2>/dev/null || true
use_image tcp
# Without an address by DHCP there is still the one that IPv6 makes of the hardware's.
PAGES=fe80::5054:ff:fe09:2%rdma0
printf '%s\n' 'interface rdma0' 'start 10.9.0.2' 'end 10.9.0.2' 'lease_file /tmp/leases' 'pidfile /tmp/udhcpd.pid' \
    'option subnet 255.255.255.0' 'option router 10.9.0.1' 'option lease 60' >/tmp/udhcpd.conf
: >/tmp/leases
: >/tmp/udhcpd.log
server_on() { udhcpd -f /tmp/udhcpd.conf >>/tmp/udhcpd.log 2>&1 & SERVER=$!; }
granted() { grep -c 'sending ACK' /tmp/udhcpd.log || true; }
granted_more_than() { [ "$(granted)" -gt "$1" ]; }

on_node dhcp 'ferroce.metrics=[::]:9520'
until_true 150 shows status 'eth0: no DHCP server answers'
on_node says 'eth0: no DHCP server answers'
say 'without a server it says so'
server_on
until_true 60 shows log 'eth0: has 10.9.0.2/24 by DHCP'
on_node says 'eth0: has 10.9.0.2/24 by DHCP'
until_true 60 shows status '"missing": \[\]'
say "nothing is missing any more, $(since)"
connect --reconnect-delay=1 --keep-alive-tmo=10 --ctrl-loss-tmo=400
start_load "$(disk 1)"
LOADED_BY=$CTRL

# What comes from another network is answered through the router, which is this machine.
ip addr add 10.8.0.1/32 dev lo
connect -w 10.8.0.1 --hostnqn="$HOST2" --hostid="${HOST2##*:}"
disconnect
say 'a host of another network is answered'
soft_roce rxe0 rdma0
FABRIC=rdma
connect --hostnqn="$HOST2" --hostid="${HOST2##*:}"
disconnect
FABRIC=tcp
say 'RDMA is served at that address, too'

before=$(granted) recovered=$(recoveries)
until_true 100 granted_more_than $((before + 1))
expect 'recoveries while the lease was renewed' $(($(recoveries) - recovered)) = 0
before=$(granted)
on_node monitor set_link cable off
sleep 4
on_node monitor set_link cable on
until_true 20 granted_more_than "$before"
shows log 'eth0: it has no carrier' || fail 'the log does not tell of the cable'
shows log 'eth0: its cable is back; it has 10.9.0.2/24' || fail 'the log does not tell that the cable is back'
say 'where the cable is back, the lease is renewed'

kill $SERVER
until_true 100 shows log '10.9.0.2/24 by DHCP is over: no server renews it'
until_true 20 shows status 'eth0: no DHCP server answers'
until_true 60 not_live "$LOADED_BY"
say 'without a server the lease ends, and the address with it'
server_on
until_true 90 live "$LOADED_BY"
sleep 3
stop_load
kill $SERVER
ip addr del 10.8.0.1/32 dev lo
