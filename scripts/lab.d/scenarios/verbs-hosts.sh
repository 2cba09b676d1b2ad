# Verbs: 32 hosts at once; one more is refused and disturbs nobody; all go, and nothing is left of them
#: node timeout=150
use_verbs 4500
cat >/tmp/hosts.toml <<END
listen = ["verbs://$TARGET:4420"]
metrics = "127.0.0.1:9520"
[limits]
rdma-entries = 4096
[[subsystem]]
nqn = "$NQN"
namespace = [{device = "ram:64MiB"}]
END
serve --config /tmp/hosts.toml
connect
disconnect
until_true 20 eval '[ "$(held qp)" = 0 ]'
before=$(all_held)
# host N [nvme connect options]: connects as another host, from an address of its own.
host() {
    local number=$1 uuid
    shift
    uuid=$(printf '33333333-3333-4333-8333-%012d' "$number")
    ip addr replace "10.9.0.$((100 + number))/24" dev rdma0
    dial -w "10.9.0.$((100 + number))" --hostnqn="nqn.2014-08.org.nvmexpress:uuid:$uuid" --hostid="$uuid" -i 1 "$@"
}
for number in $(seq 32); do
    ip addr replace "10.9.0.$((100 + number))/24" dev rdma0
done
sleep 2
for number in $(seq 32); do host "$number" >/dev/null; done
expect 'hosts' "$(ctl hosts | grep -c nqn.2014-08.org.nvmexpress:uuid:33333333)" = 32
expect 'queue pairs of the node' "$(held qp)" = 64
for policy in /sys/class/nvme-subsystem/*/iopolicy; do echo round-robin >"$policy"; done
verify "$(disk 1)" 8 io_uring '4k 128k' '32'
start_load "$(disk 1)"
refused 'Input/output|reset|refused|resources' host 33
grep -i 'rdma-entries' /tmp/node.log || fail 'the refusal does not say what to raise'
until_true 20 load_goes_on "$(loaded)"
stop_load
expect 'recoveries' "$(recoveries)" = 0
disconnect_all
held_again "$before"
