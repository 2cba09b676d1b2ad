# what an I/O over soft-RoCE at both ends costs host, target and fio together, in instructions
#: count timeout=900
use_verbs 4500
serve --device ram:64MiB,block=4096
connect -i 1
measure_all "$(disk 1)"
