# The kernel's own target, with the node's commands: what a scenario asks for must hold here as well.
NVMET=/sys/kernel/config/nvmet
NULLB=/sys/kernel/config/nullb
SUB=$NVMET/subsystems/$NQN

# serve [--device SPEC]... [--allow NQN]... [--listen URL]...
serve() {
    mkdir "$SUB"
    echo 1 >"$SUB/attr_allow_any_host"
    local listeners=() url
    while [ $# -gt 0 ]; do
        case $1 in
            --device) ctl add "$2" ;;
            --allow) ctl allow "$2" ;;
            --listen) listeners+=("$2") ;;
        esac
        shift 2
    done
    for url in "${listeners[@]-$FABRIC://$TARGET:4420}"; do listen "${url#*://}"; done
}

listen() {
    local port=$NVMET/ports/$(($(ls $NVMET/ports | wc -l) + 1)) address=${1%:*}
    mkdir "$port"
    echo "$FABRIC" >"$port/addr_trtype"
    case $address in \[*) echo ipv6 ;; *) echo ipv4 ;; esac >"$port/addr_adrfam"
    echo "${address//[\[\]]/}" >"$port/addr_traddr"
    echo "${1##*:}" >"$port/addr_trsvcid"
    ln -s "$SUB" "$port/subsystems/"
}

# A machine that stops answering, and one that is back: the port goes, and with it every connection.
crash() { local port; for port in "$NVMET"/ports/*; do rm "$port/subsystems/$NQN"; done; }
restart() { local port; for port in "$NVMET"/ports/*; do ln -s "$SUB" "$port/subsystems/"; done; }
stop() { sweep_target; }

ctl() {
    local command=$1 at nsid
    shift
    case $command in
        add)
            nsid=${3:-$(($(ls "$SUB/namespaces" | sort -n | tail -1) + 1))}
            at=$SUB/namespaces/$nsid
            mkdir "$at"
            make_device "$1" "$nsid" >"$at/device_path"
            echo 1 >"$at/enable"
            ;;
        remove) echo 0 >"$SUB/namespaces/$1/enable"; rmdir "$SUB/namespaces/$1" ;;
        resize)
            at=$SUB/namespaces/$1
            truncate -s "$(in_bytes "$2")" "$(cat "$at/device_path")"
            echo 1 >"$at/revalidate_size"
            ;;
        allow)
            mkdir -p "$NVMET/hosts/$1"
            echo 0 >"$SUB/attr_allow_any_host"
            ln -s "$NVMET/hosts/$1" "$SUB/allowed_hosts/"
            ;;
        forbid) rm "$SUB/allowed_hosts/$1" ;;
        *) fail "the kernel's target has no $command" ;;
    esac
}

# make_device SPEC NSID: prints the path of a block device or file made to that specification.
make_device() {
    local path=${1#*:} option block= size=
    path=${path%%,*}
    for option in ${1//,/ }; do
        case $option in block=*) block=${option#*=} ;; size=*) size=${option#*=} ;; esac
    done
    case $1 in
        file:*)
            [ -z "$size" ] || truncate -s "$(in_bytes "$size")" "$path"
            # A file has the blocks of its file system there; others need a loop device.
            if [ -n "$block" ]; then losetup -f --show --direct-io=on --sector-size "$block" "$path"; else echo "$path"; fi
            ;;
        ram:*)
            local at=$NULLB/lab$2
            mkdir "$at"
            echo $(($(in_bytes "$path") >> 20)) >"$at/size"
            echo "${block:-4096}" >"$at/blocksize"
            echo 1 >"$at/memory_backed"
            echo 1 >"$at/discard"
            echo 0 >"$at/irqmode"
            echo 1 >"$at/power"
            echo "/dev/lab$2"
            ;;
    esac
}

in_bytes() { numfmt --from=iec-i --suffix=B "$1" | tr -d B; }

sweep_target() {
    local at
    for at in "$NVMET"/ports/*; do [ ! -d "$at" ] || { rm -f "$at"/subsystems/*; rmdir "$at"; }; done
    for at in "$NVMET"/subsystems/*; do
        [ -d "$at" ] || continue
        rm -f "$at"/allowed_hosts/*
        rmdir "$at"/namespaces/* "$at" 2>/dev/null
    done
    losetup -D
    for at in "$NVMET"/hosts/* "$NULLB"/lab*; do [ ! -d "$at" ] || rmdir "$at"; done
}
