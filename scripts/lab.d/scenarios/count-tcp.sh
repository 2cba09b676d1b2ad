# what an I/O over NVMe/TCP costs host, target and fio together, in instructions
#: count timeout=600
serve --device ram:64MiB,block=4096
connect -i 1
measure_all "$(disk 1)"
