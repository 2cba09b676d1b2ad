# Verbs: controller resets while checksummed I/O runs
#: timeout=150
use_verbs 4500
. /lab/scenarios/reset.sh
