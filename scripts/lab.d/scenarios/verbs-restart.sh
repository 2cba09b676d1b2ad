# Verbs: kill -9 and restart under I/O
#: timeout=200
use_verbs 4500
. /lab/scenarios/restart.sh
