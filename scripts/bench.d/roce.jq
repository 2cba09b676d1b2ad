# From a list of rounds, each {work: what the probe printed}, to the tables of software RoCEv2. $wires are the wires.

include "shared";

def wires: $wires | split(" ") | .[];

def targets:
    . as $rounds
    | wires as $wire
    | $rounds
    | ( most("\($wire): 4 KiB read QD1"; "p50, of raw"; over(ratio("\($wire)-rdma1"; "read"; "p50")); 1.25; ""),
        least("\($wire): 4 KiB read QD32"; "requests per second, of raw"; over(ratio("\($wire)-rdma32"; "read"; "iops")); 0.7; "") );

def figures:
    . as $rounds
    | wires as $wire
    | ( ["rdma1", "4 KiB read QD1", "RDMA", []], ["rdma1", "", "raw UDP", ["baseline"]],
        ["tcp1", "", "TCP", []], ["tcp1", "", "raw TCP", ["baseline"]],
        ["rdma32", "4 KiB read QD32", "RDMA", []], ["rdma32", "", "raw UDP", ["baseline"]],
        ["tcp32", "", "TCP", []], ["tcp32", "", "raw TCP", ["baseline"]],
        ["rdmawrite32", "4 KiB write QD32", "RDMA", []], ["tcpwrite32", "", "TCP", []],
        ["rdmalarge", "128 KiB read QD8", "RDMA", []], ["tcplarge", "", "TCP", []],
        ["plain1", "by default: 4 KiB read QD1", "RDMA", []], ["plain32", "by default: 4 KiB read QD32", "RDMA", []],
        ["plainlarge", "by default: 128 KiB read QD8", "RDMA", []],
        ["loss1", "1% lost: 4 KiB read QD1", "RDMA", []], ["loss32", "1% lost: 4 KiB read QD32", "RDMA", []],
        ["losswrite32", "1% lost: 4 KiB write QD32", "RDMA", []], ["losslarge", "1% lost: 128 KiB read QD8", "RDMA", []]
      ) as [$key, $work, $name, $path]
    | [ $rounds[]["\($wire)-\($key)"] | getpath($path) | values | side ]
    | select(length > 0)
    | . as $sides
    | { wire: $wire, work: $work, name: $name }
      + ([ "iops", "gib", "p50", "p99", "p999", "cpu" ] | map(. as $f | { ($f): ([ $sides[][$f] | values ] | median) }) | add);

"| work | figure | wanted | measured | |",
"|---|---|---|---|---|",
( targets | verdicts ),
"",
"No command failed, with packets lost or without. Latencies in us; CPU time of the serving process per command in us.",
"",
"| wire | work | | per second | GiB/s | p50 | p99 | p99.9 | CPU |",
"|---|---|---|---|---|---|---|---|---|",
( figures | "| \(.wire) | \(.work) | \(.name) | \(.iops | thousands) | \(.gib | digits(2)) | \(.p50 | digits(1)) | \(.p99 | digits(1)) | \(.p999 | digits(1)) | \(if .cpu == null then "" else .cpu | digits(2) end) |" )
