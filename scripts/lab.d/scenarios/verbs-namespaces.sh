# Verbs: namespaces added, resized and removed while I/O runs
#: timeout=120
use_verbs 4500
. /lab/scenarios/namespaces.sh
