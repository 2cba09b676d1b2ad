# Verbs: four I/O queues, write and poll queues beside them, depths of 16 and 1024
#: cpus=4 timeout=200
use_verbs 4500
. /lab/scenarios/queues.sh
