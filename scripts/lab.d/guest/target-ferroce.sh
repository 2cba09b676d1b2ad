# The node.
export RUST_BACKTRACE=1

# serve OPTIONS...: as of `ferroce serve`; remembered for restart.
serve() {
    SERVE=("$@")
    [ "$TARGET" = 127.0.0.1 ] || [ "$1" = --config ] || SERVE+=(--listen "${PROVIDER:-$FABRIC}://$TARGET:4420")
    restart
}

restart() {
    local nqn=(--nqn "$NQN")
    [ "${SERVE[0]}" != --config ] || nqn=()
    $WITHIN ferroce serve "${nqn[@]}" "${SERVE[@]}" >/tmp/node.out 2>>/tmp/node.log &
    NODE=$!
    local end=$((SECONDS + 20))
    until listening; do
        [ $SECONDS -le $end ] || { where_it_stands; fail 'the node does not listen'; }
        sleep 0.1
    done
}

# where_it_stands: what each of the node's threads waits for, in the kernel.
where_it_stands() {
    local thread
    for thread in /proc/$NODE/task/*; do
        say "$(<"$thread/comm"): $(sed -n 's/^State:[[:space:]]*//p' "$thread/status")," \
            "system call $(<"$thread/syscall"), at $(tr '\n' ' ' <"$thread/stack")"
    done
}

# A connection identifier of the node in state LISTEN, TCP port 4420 in that state, or UDP port 4791 bound; 1144 and 12B7
# are their hexadecimal forms. No `grep -q`: it leaves at once, and what still writes to it fails the pipeline.
listening() {
    kill -0 $NODE || fail "the node ended: $(tail -n 3 /tmp/node.log)"
    case ${PROVIDER:-$FABRIC} in
        verbs) rdma resource show cm_id | grep 'state LISTEN.*comm ferroce' >/dev/null ;;
        tcp) $WITHIN cat /proc/net/tcp /proc/net/tcp6 | grep ':1144 [0-9A-F]*:0000 0A' >/dev/null ;;
        rdma) $WITHIN cat /proc/net/udp | grep ':12B7 ' >/dev/null ;;
    esac
}

crash() { kill -KILL $NODE; wait $NODE || true; }

# SIGTERM ends a node in order, soon, with status 0.
stop() {
    [ -n "$NODE" ] || return 0
    kill -TERM $NODE
    local status=0
    wait $NODE || status=$?
    NODE=
    expect "the node's exit status" $status = 0
    ! grep -E 'panicked|ERROR' /tmp/node.log || fail "the node's log has errors"
}

ctl() { ferroce ctl "$@"; }

sweep_target() { killall -q -KILL ferroce; true; }
