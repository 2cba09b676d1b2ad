# Verbs: io_uring_cmd on the generic device
#: timeout=120
use_verbs 4500
. /lab/scenarios/passthru.sh
