# What the tables of scripts/bench share. Input is a list of rounds, each {work: what the probe printed}.

def median: sort | if length == 0 then null
    elif length % 2 == 1 then .[length / 2 | floor]
    else (.[length / 2 - 1] + .[length / 2]) / 2 end;

# The median over the rounds of a figure that each of them has.
def over(figure): [.[] | figure | values] | median;

def digits(n): . * pow(10; n) | round / pow(10; n) | tostring;
def thousands: round | tostring | [while(length > 0; .[:-3]) | .[-3:]] | reverse | join(",");

# Of the two sides of one run: of all its slices together, and as the median of its pairs of slices.
def ratio(work; flow; figure): .[work].comparison[0][flow][figure].ratio.value;
def usual(work; flow; figure): .[work].comparison[0][flow][figure].ratio.median;
def most(work; what; value; bound; unit):
    { work: work, what: what, want: "at most \(bound)\(unit)", value: value, unit: unit, ok: (value != null and value <= bound) };
def least(work; what; value; bound; unit):
    { work: work, what: what, want: "at least \(bound)\(unit)", value: value, unit: unit, ok: (value != null and value >= bound) };

def verdict: if .value == null then "not measured" elif .ok then "met" else "**missed**" end;

# Of one side of one run; nothing if it was not measured.
def side:
    . as $side
    | [.read, .write | values]
    | select(length > 0)
    | { iops: (map(.iops) | add), gib: (map(.gib_per_s) | add), cpu: $side.target_cpu_us_per_io,
        p50: (map(.latency_us.p50) | max), p99: (map(.latency_us.p99) | max), p999: (map(.latency_us["p99.9"]) | max) };

# Where the machine has a part in it, what the same is of raw goes beside.
def verdicts:
    (if .value == null then "" else (.value | digits(2)) + .unit end) as $measured
    | (if .raw == null then "" else " (raw: \(.raw | digits(2)))" end) as $raw
    | "| \(.work) | \(.what) | \(.want) | \($measured)\($raw) | \(verdict) |";
