# Verbs: connect, read and write, large and in-capsule writes, disconnect
#: smoke timeout=120
use_verbs 9000
. /lab/scenarios/connect.sh
