# From a list of rounds, each {work: what the probe printed}, to two tables of Markdown.

include "shared";

def tail: .read.latency_us | .p99 / .p50;

# Of the node, or of raw. Steady is what this rate has later, or in a run of its own: whichever the machine disturbed less.
def step(of):
    (.open10k | of.read.latency_us.p99 | values) as $alone | .step | of.stages | values
    | .[2].read.latency_us.p99 / ([.[3].read.latency_us.p99, $alone] | min);

def targets:
    . as $rounds
    | [
        least("the probe alone, 4 KiB read QD32"; "million per second"; over(.ceiling.ceiling.read.iops / 1e6); 1; ""),
        most("4 KiB read QD1"; "p50, of raw"; over(usual("read1"; "read"; "p50")); 1.25; ""),
        most("4 KiB read QD1"; "p99, of raw"; over(usual("read1"; "read"; "p99")); 1.25; ""),
        ( ["read32", "4 KiB read QD32"], ["read128", "4 KiB read QD128"] | . as [$key, $work] | $rounds
          | least($work; "requests per second, of raw"; over(ratio($key; "read"; "iops")); 0.8; ""),
            (most($work; "p99, of p50"; over(.[$key] | tail); 1.5; "") + {raw: over(.[$key].baseline | values | tail)}),
            most($work; "node CPU per read, of raw"; over(ratio($key; "all"; "target_cpu_us_per_io")); 1.25; "") ),
        least("4 KiB read QD32"; "per second with phases, of without"; over(ratio("phases"; "read"; "iops")); 0.98; ""),
        ( ["engine", "the engine alone", 1000], ["transport", "engine and RDMA binding", 1200] | . as [$part, $work, $bound]
          | ["depth1", "depth32"][] as $depth | $rounds
          | most($work + ", 4 KiB read at " + ($depth | sub("depth"; "QD")); "instructions"; over(.count[$part][$depth]); $bound; "") ),
        least("4 KiB write QD32"; "per second, of reads"; over(ratio("writes"; "all"; "iops")); 1; ""),
        least("4 KiB 70/30 QD32"; "per second, of reads"; over(ratio("mixed"; "all"; "iops")); 1; ""),
        least("128 KiB read QD32"; "bandwidth, of raw"; over(ratio("large128k"; "read"; "iops")); 0.8; ""),
        least("128 KiB read QD32, after 4 KiB writes"; "bandwidth, of raw"; over(ratio("aged128k"; "read"; "iops")); 0.8; ""),
        least("1 MiB read QD32"; "bandwidth, of raw"; over(ratio("large1m"; "read"; "iops")); 0.8; ""),
        ( ["open100", "100 reads/s"], ["open1k", "1,000 reads/s"], ["open10k", "10,000 reads/s"]
          | . as [$key, $work] | $rounds
          | most($work; "p50, of raw"; over(usual($key; "read"; "p50")); 1.25; ""),
            most($work; "p99, of raw"; over(usual($key; "read"; "p99")); 1.25; "") ),
        (most("step from 10 to 10,000 reads/s"; "p99 of the first second, of steady"; over(step(.)); 2; "") + {raw: over(step(.baseline))}),
        most("QD1 beside eight queues of 1 MiB QD16"; "p99"; over(.neighbour.read.latency_us.p99); 800; " us"),
        most("QD1 beside eight queues of 1 MiB QD16"; "longest gap of either"; over([.neighbour.longest_gap_ms, .neighbour.neighbour.longest_gap_ms] | max); 50; " ms"),
        most("1,000 reads/s beside hostile scrapes"; "p99, of beside scrapes of another node"; over(.elsewhere as $elsewhere | .scraped.read.latency_us.p99 | values | . / $elsewhere.read.latency_us.p99); 1.25; ""),
        most("idle, 64 queues"; "of a core"; over(.idle.crowd.idle_cpu_percent); 1; "%"),
        most("1,000 queues of 128"; "memory beyond regions"; over(.memory.crowd.memory_with / 1048576); 64; " MiB"),
        most("storm: 1,000 queues lost at once"; "all serving again"; over(.storm.crowd.storms_s | values | max); 5; " s"),
        most("storm: 1,000 queues lost at once"; "another host's p99, of alone"; over(.alone as $alone | .victim.read.latency_us.p99 | values | . / $alone.read.latency_us.p99); 2; "")
    ];

def figures:
    . as $rounds
    | ( ["read1", "4 KiB read QD1"], ["read32", "4 KiB read QD32"], ["read128", "4 KiB read QD128"],
        ["write32", "4 KiB write QD32"], ["mix32", "4 KiB 70/30 QD32"],
        ["large128k", "128 KiB read QD32"], ["aged128k", "128 KiB read QD32, after 4 KiB writes"],
        ["large1m", "1 MiB read QD32"],
        ["open100", "100 reads/s"], ["open1k", "1,000 reads/s"], ["open10k", "10,000 reads/s"],
        ["step", "step from 10 to 10,000 reads/s"],
        ["neighbour", "QD1 beside eight of 1 MiB QD16"] ) as [$key, $work]
    | (["node", []], ["raw", ["baseline"]], ["neighbour", ["neighbour"]],
       ["node, first second", ["stages", 2]], ["node, later", ["stages", 3]],
       ["raw, first second", ["baseline", "stages", 2]], ["raw, later", ["baseline", "stages", 3]]) as [$name, $path]
    | select($key != "step" or ($path | index("stages")))
    | [ $rounds[][$key] | getpath($path) | values | side ]
    | select(length > 0)
    | . as $sides
    | { work: $work, name: $name }
      + ([ "iops", "gib", "p50", "p99", "p999", "cpu" ] | map(. as $f | { ($f): ([ $sides[][$f] | values ] | median) }) | add);

"## Targets",
"",
"| work | figure | wanted | measured | |",
"|---|---|---|---|---|",
( targets[] | verdicts ),
"",
"## Figures",
"",
"Latencies in us, of the slower direction where there are two; CPU time of the serving process per command in us.",
"",
"| work | | per second | GiB/s | p50 | p99 | p99.9 | CPU |",
"|---|---|---|---|---|---|---|---|",
( figures | "| \(.work) | \(.name) | \(.iops | thousands) | \(.gib | digits(2)) | \(.p50 | digits(1)) | \(.p99 | digits(1)) | \(.p999 | digits(1)) | \(if .cpu == null then "" else .cpu | digits(2) end) |" )
