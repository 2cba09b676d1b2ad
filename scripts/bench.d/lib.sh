# What the parts of scripts/bench share: programs in the background that end with the script, and what they printed.

die() { echo "bench: $*" >&2; exit 1; }

tmp=$(mktemp -d)
running=()
# Whatever happens, what was started ends.
finish() {
    local pid
    for pid in "${running[@]}"; do kill -KILL "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
    rm -rf "$tmp"
}
trap finish EXIT
trap 'exit 130' INT TERM

# start NAME COMMAND...: in the background, its output in NAME.out and NAME.err, its process in $started. In a session of its
# own, which the scheduler gives its own share of the CPU.
start() {
    local name=$1
    shift
    setsid -w "$@" >"$tmp/$name.out" 2>"$tmp/$name.err" &
    started=$!
    running+=("$started")
}

# await_line NAME TEXT: the program in $started has printed it.
await_line() {
    local i
    for ((i = 0; i < 200; i++)); do
        grep -qF "$2" "$tmp/$1.out" && return
        kill -0 "$started" 2>/dev/null || break
        sleep 0.1
    done
    cat "$tmp/$1.err" >&2
    die "$1 did not start"
}

# end PID STATUS...: waits for it; the status has to be one of those.
end() {
    local pid=$1 status=0
    shift
    wait "$pid" || status=$?
    [[ " $* " = *" $status "* ]]
}

# keep NAME: what a probe printed belongs to this round.
keep() { jq -c --arg name "$1" '{($name): .}' "$tmp/$1.out" >>"$tmp/round.$round"; }
