# our probe over TCP against the kernel's own target: it measures, verifies, with digests
#: node timeout=120
for module in nvmet nvmet_tcp; do modprobe "$module"; done
(LAB_TARGET=nvmet; . /lab/target-nvmet.sh; serve --device ram:64MiB)
# Without its bar, which is for terminals.
probe() { ferroce probe "tcp://127.0.0.1:4420/$NQN" "$@" 2>&1 | cat; }
probe --time 1s
probe --time 1s --block-size 1MiB --depth 4 --queues 2
probe --time 2s --write 100 --destroy-data --verify
probe --time 1s --workload kv-cache
probe --time 1s --write 50 --destroy-data --verify --header-digest --data-digest
refused 'nqn.2026-01.org.example:none' ferroce probe tcp://127.0.0.1:4420/nqn.2026-01.org.example:none --time 1s
(. /lab/target-nvmet.sh; sweep_target)
