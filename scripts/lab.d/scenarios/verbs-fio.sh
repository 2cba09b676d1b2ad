# Verbs: checksummed writes read back, several sizes and depths
#: timeout=300
use_verbs 4500
. /lab/scenarios/fio4096.sh
