# Verbs: namespaces added, resized and removed while I/O runs
#: timeout=120
use_verbs 4500
. /lab/scenarios/namespaces.sh
if node; then
    # Memory of a drive that is gone is given back by the device as well: it is looked after once a second.
    sleep 3
    before=$(held mr)
    ctl add ram:16MiB --nsid 9
    expect 'regions with one more drive' "$(held mr)" -gt "$before"
    ctl remove 9
    until_true 10 eval '[ "$(held mr)" = '"$before"' ]'
fi
