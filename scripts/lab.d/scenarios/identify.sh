# every Identify that nvme-cli sends, with the values that must be there
#: smoke
serve --device ram:64MiB --device ram:16MiB,block=512
connect
c=/dev/$CTRL disk=$(disk 1) small=$(disk 2)

nvme id-ctrl "$c" -H >/tmp/ctrl
ctrl() { field "$1" cat /tmp/ctrl; }
expect 'sqes' "$(ctrl sqes)" = 0x66
expect 'cqes' "$(ctrl cqes)" = 0x44
expect 'cntrltype' "$(ctrl cntrltype)" = 1
expect 'subnqn' "$(ctrl subnqn)" = "$NQN"
expect 'sn' "$(ctrl sn)" '~' '[0-9a-zA-Z]{4}'
expect 'mn' "$(ctrl mn)" '~' '[a-zA-Z]'
expect 'fr' "$(ctrl fr)" '~' '[0-9]'
expect 'kas' "$(ctrl kas)" -ge 1
expect 'cntlid' $(($(ctrl cntlid))) = "$(cat "/sys/class/nvme/$CTRL/cntlid")"
# The kernel's target takes less in a capsule over RDMA.
if node || [ "$FABRIC" = tcp ]; then expect 'bytes in a capsule' $(($(ctrl ioccsz) * 16 - 64)) -ge 8192; fi
expect 'oncs: write zeroes, dataset management' $(($(ctrl oncs) & 0xc)) = 12
expect 'vwc' $(($(ctrl vwc) & 1)) = 1
expect 'nn' "$(ctrl nn)" -ge 2
if node; then
    expect 'ver' $(($(ctrl ver))) -ge $((0x20000))
    expect 'mdts, as blocks of 4 KiB or unbounded' "$(ctrl mdts)" '~' '^(0|8|9|1[0-9])$'
    expect 'oncs: verify, compare' $(($(ctrl oncs) & 0x81)) = $((0x81))
    expect 'oaes: namespace attributes' $(($(ctrl oaes) & 0x100)) = $((0x100))
    expect 'maxcmd' "$(ctrl maxcmd)" -ge 1024
    expect 'sgls' "$(ctrl sgls)" '~' '^0x'
fi

nvme id-ns "$disk" -H >/tmp/ns
expect 'nsze' $(($(field nsze cat /tmp/ns))) = $(((64 << 20) / 4096))
expect 'nuse' $(($(field nuse cat /tmp/ns))) -le $(((64 << 20) / 4096))
expect 'format in use' "$(grep 'in use' /tmp/ns)" '~' 'Data Size: 4096'
expect 'format in use' "$(nvme id-ns "$small" -H | grep 'in use')" '~' 'Data Size: 512'
nvme ns-descs "$disk" >/tmp/descs
expect 'uuid' "$(field uuid cat /tmp/descs)" '~' '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$'
expect 'the other uuid' "$(field uuid nvme ns-descs "$small")" != "$(field uuid cat /tmp/descs)"
expect 'list-ns' "$(nvme list-ns "$c" | tr -d ' \n')" = '[0]:0x1[1]:0x2'
nvme nvm-id-ctrl "$c"
if node; then
    expect 'nguid' "$(field nguid cat /tmp/ns)" '~' '[1-9a-f]'
    expect 'nguid of the descriptors' "$(field nguid cat /tmp/descs)" = "$(field nguid cat /tmp/ns)"
    expect 'list-ns --all' "$(nvme list-ns "$c" --all | tr -d ' \n')" = '[0]:0x1[1]:0x2'
    expect 'list-ns from 2' "$(nvme list-ns "$c" -n 2 | tr -d ' \n')" = '[0]:0x2'
    expect 'list-ns of the NVM command set' "$(nvme list-ns "$c" --csi=0 | tr -d ' \n')" = '[0]:0x1[1]:0x2'
    expect 'the same from 2' "$(nvme list-ns "$c" --csi=0 -n 2 | tr -d ' \n')" = '[0]:0x2'
    # No zoned namespaces, nor a list of allocated ones by command set.
    refused 'INVALID_FIELD|Invalid Field' nvme list-ns "$c" --csi=2
    refused 'INVALID_FIELD|Invalid Field' nvme list-ns "$c" --csi=0 --all
    nvme cmdset-ind-id-ns "$c" -n 1 | tee /tmp/independent
    expect 'nstat' $(($(field nstat cat /tmp/independent) & 1)) = 1
    nvme nvm-id-ns "$c" -n 1
    refused 'INVALID_NS|Invalid Namespace' nvme id-ns "$c" -n 0xfffffff0
    nvme id-iocs "$c"
    # Identify commands of what a controller without sets, groups, domains and functions beside itself does not have.
    while read -r -a command; do
        refused 'INVALID_FIELD|Invalid Field' nvme "${command[0]}" "$c" "${command[@]:1}"
    done <<'END'
id-nvmset
list-ctrl
list-ctrl -n 1
primary-ctrl-caps
list-secondary
id-ns-granularity
id-uuid
id-domain
list-endgrp
id-ns-lba-format
nvm-id-ns-lba-format
END
fi
nvme list
nvme list-subsys
