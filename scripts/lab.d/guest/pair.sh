# For machines with another one beside them (`#: machine=pair`), which is the storage node: how it is told what to do, and
# the cable between the two. `use_pair` is all that a scenario needs; then `serve` and the others happen over there.
exec 9<>/dev/ttyS1
stty -F /dev/ttyS1 raw -echo

# on_node COMMAND...: run by the node's shell, its output here, its status ours. One at a time.
on_node() {
    local token=$RANDOM$RANDOM line
    printf '%s %s\n' "$token" "$(printf '%q ' "$@")" >&9
    while IFS= read -r -t 60 line <&9; do
        case $line in
            "@@status $token "*) return "${line##* }" ;;
            # An answer to somebody who is not there any more.
            @@status*) ;;
            ?*) echo "$line" ;;
        esac
    done
    fail "the node's machine does not answer: $*"
}

# Waits until the node's shell is there: what is said to it before that is lost, or comes in part.
meet_node() {
    local line
    while :; do
        echo 0 true >&9
        while IFS= read -r -t 1 line <&9; do [ "$line" != '@@status 0 0' ] || return 0; done
    done
}

# use_pair FABRIC MTU: tcp; rdma, the node by RoCE in software of its own; or verbs, both ends by the kernel's soft-RoCE.
# The host's end of the cable is rdma0, the node's rdma1.
use_pair() {
    cable rdma0 10.9.0.1/24 "$2"
    on_node cable rdma1 10.9.0.2/24 "$2"
    FABRIC=$1 TARGET=10.9.0.2 FROM=10.9.0.1 PROVIDER=
    if [ "$1" != tcp ]; then FABRIC=rdma; soft_roce rxe0 rdma0; fi
    if [ "$1" = verbs ] || { [ "$1" = rdma ] && ! node; }; then on_node soft_roce rxe1 rdma1; fi
    [ "$1" != verbs ] || PROVIDER=verbs
    on_node eval "FABRIC=$FABRIC TARGET=$TARGET FROM=$FROM PROVIDER=$PROVIDER"
    local name
    for name in serve restart crash stop ctl; do eval "$name() { on_node $name \"\$@\"; }"; done
}
