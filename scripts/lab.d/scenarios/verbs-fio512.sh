# Verbs: checksummed writes read back, 512-byte blocks, RAM and file drives
#: timeout=400
use_verbs 4500
. /lab/scenarios/fio512.sh
