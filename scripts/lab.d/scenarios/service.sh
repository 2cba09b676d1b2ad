# The Debian package under systemd: ready when it serves, reloaded, started again, ended in order, within what its unit allows
#: machine=service timeout=600
install_package
expect 'what it depends on' "'$(dpkg-query -W -f '${Depends}' ferroce)'" = "''"
expect 'the unit' "$(systemctl is-enabled ferroce || true)" = disabled
for page in ferroce ferroce-serve ferroce-ctl; do [ -s "/usr/share/man/man1/$page.1.gz" ] || fail "there is no manual page of $page"; done
for file in notices.md relink.md examples/one-drive-tcp.toml examples/eight-drives-roce.toml examples/boot-image.toml; do
    [ -s "/usr/share/doc/ferroce/$file" ] || fail "the package has no $file"
done
systemctl start ferroce
expect 'without a configuration it' "$(systemctl is-active ferroce || true)" = inactive

# As README has it.
mkdir -p /etc/ferroce
ferroce serve --print-config > /etc/ferroce/ferroce.toml
systemctl enable --now ferroce
expect 'with the explained configuration it' "$(systemctl is-active ferroce)" = active
systemctl disable --now ferroce
echo 'spin = 5' >/etc/ferroce/ferroce.toml
refused '' systemctl start ferroce
journal | grep 'ferroce.toml' || fail 'the journal does not say what is wrong with the file'
systemctl stop ferroce
# A unit that nobody asks for is forgotten, and its failures with it.
systemctl reset-failed ferroce || true

ip link add rdma0 mtu 4500 type veth peer name rdma1 mtu 4500
ip addr add 10.9.0.1/24 dev rdma0
ip link set rdma0 up
ip link set rdma1 up
soft_roce rxe0 rdma0
cat >/etc/ferroce/ferroce.toml <<END
listen = ["tcp://127.0.0.1:4420", "verbs://10.9.0.1:4420"]
metrics = "127.0.0.1:9520"
[memory]
buffers = "16MiB"
[[subsystem]]
nqn = "$NQN"
[[subsystem.namespace]]
device = "ram:64MiB"
[[subsystem.namespace]]
device = "file:/var/lib/ferroce/models.img,size=64MiB"
END
systemctl enable --now ferroce
expect 'the service' "$(systemctl is-active ferroce)" = active
expect 'its kind' "$(property Type)" = notify
expect 'what it says of itself' "$(property StatusText)" '~' '^serves 2 namespaces at tcp://127.0.0.1:4420'
connect --reconnect-delay=1 --ctrl-loss-tmo=400
for nsid in 1 2; do verify "$(disk $nsid)" 4 io_uring '4k 128k' '1 8'; done
! journal | grep -i 'no io_uring\|operation not permitted\|permission denied' || fail 'the unit forbids something'
TARGET=10.9.0.1 FROM=10.9.0.1 FABRIC=rdma
connect --hostnqn="$HOST2" --hostid="${HOST2##*:}"
verify "$(disk 2)" 4 io_uring '4k 128k' '8'
disconnect
TARGET=127.0.0.1 FROM=127.0.0.1 FABRIC=tcp
say 'RAM and file are served by TCP and RDMA'

pid=$(property MainPID)
printf '[[subsystem.namespace]]\ndevice = "ram:32MiB"\n' >>/etc/ferroce/ferroce.toml
systemctl reload ferroce
expect 'bytes of the new namespace' "$(bytes "$(disk 3)")" = $((32 << 20))
expect 'the process' "$(property MainPID)" = "$pid"
ferroce ctl add ram:16MiB --persist
disk 4
grep -c 'ram:16MiB' /etc/ferroce/ferroce.toml

CTRL=$(controllers)
start_load "$(disk 2)"
systemctl kill --signal=KILL ferroce
until_true 30 not_live "$CTRL"
until_true 60 live "$CTRL"
[ "$(property MainPID)" != "$pid" ] || fail 'it is the same process'
say 'one that was killed is started again'
from=$SECONDS
systemctl stop ferroce
expect 'seconds to the end' $((SECONDS - from)) -lt 30
expect 'its end' "$(property Result) $(property ExecMainStatus)" = 'success 0'
until_true 30 not_live "$CTRL"
systemctl start ferroce
until_true 60 live "$CTRL"
stop_load
disconnect_all
systemctl stop ferroce
! journal | grep -E 'panicked|ERROR' || fail 'the journal has errors'

systemd-analyze security --no-pager ferroce.service >/tmp/security || true
tail -n 1 /tmp/security
dpkg --purge ferroce >/dev/null 2>&1
expect 'what is left of the unit' "$(systemctl is-enabled ferroce 2>/dev/null || true)" '~' '^(not-found)?$'
[ ! -e /usr/bin/ferroce ] || fail 'the program is still there'
