# what an I/O over NVMe/RDMA and soft-RoCE costs host, target and fio together, in instructions
#: count timeout=900
use_rdma 9000
serve --device ram:64MiB,block=4096
connect -i 1
measure_all "$(disk 1)"
