# on two NUMA nodes it is shown what is where, and cores, their buffers and their queues are on the node that was said
#: machine=numa cpus=2 timeout=240
. /lab/vfio.sh
for node in 0 1; do expect "node of drive $node" "$(cat "/sys/bus/pci/devices/${DRIVES[node]}/numa_node")" = $node; done
# placed: memory that the node wants on a NUMA node, as `NODE-IT-IS-ON: PAGES` for each that it was wanted on.
placed() {
    awk '$2 ~ /^prefer/ { for (i = 3; i <= NF; i++) if (split($i, at, "=") == 2 && at[1] ~ /^N[0-9]+$/) pages[$2 " " at[1]] += at[2] }
        END { for (which in pages) print which, pages[which] }' "/proc/$NODE/numa_maps"
}
to_vfio "${DRIVES[@]}"
serve --cores 0,1 --device "nvme:${DRIVES[0]}" --device "nvme:${DRIVES[1]}"
until_true 10 grep NUMA /tmp/node.out
for node in 0 1; do grep -q "NUMA node $node: core $node with its buffers, nvme:${DRIVES[node]}\$" /tmp/node.out; done
# At once: the end of a pipe that grep -q leaves early would be a failure.
placed=$(placed)
say "$placed"
for node in 0 1; do grep -q "^prefer[^ ]*:$node N$node [0-9]" <<<"$placed" || fail "nothing is on node $node"; done
expect 'kinds of memory that are elsewhere' "$(grep -cE ':0 N1|:1 N0' <<<"$placed" || true)" = 0
connect --nr-io-queues=2
for nsid in 1 2; do verify "$(disk $nsid)" 4 io_uring 16k 16; done
disconnect
stop
# A core that is not pinned stays where its drive is.
serve --device "nvme:${DRIVES[1]}"
until_true 10 grep NUMA /tmp/node.out
grep -q "NUMA node 1: core 0 with its buffers, nvme:${DRIVES[1]}\$" /tmp/node.out
for thread in /proc/"$NODE"/task/*; do
    [ "$(cat "$thread/comm")" != 'core 0' ] || expect 'CPUs of the core' "$(sed -n 's/^Cpus_allowed_list:[[:space:]]*//p' "$thread/status")" = 1
done
stop
# And one that is, is where it was put.
serve --cores 0 --device "nvme:${DRIVES[1]}"
until_true 10 grep -q "NUMA node 1: nvme:${DRIVES[1]}, and no core" /tmp/node.out
stop
