# A machine that boots the image without drives, cable, huge pages, or a usable configuration: it says so, and takes what comes
#: machine=image timeout=600
use_image tcp
on_node bare hugepages=0 ferroce.machine.huge-pages=4GiB
sleep 30
on_node monitor set_link cable on
until_true 120 shows status '"missing": '
for part in 'nvme:0000:01:00.0, namespace 1 of' 'nvme:0000:02:00.0, namespace 2 of' 'huge pages: '; do
    until_true 20 shows status "$part"
    say "it says so: $(grep -o -e "$part.*" /tmp/page)"
    on_node says "$part"
done
on_node monitor set_link cable off
sleep 15
on_node monitor set_link cable on
until_true 60 shows log 'eth0: it has no carrier'
until_true 30 shows log 'eth0: is up with 10.9.0.2/24'
on_node says 'eth0: it has no carrier'
on_node says 'eth0: is up with 10.9.0.2/24'
say 'log and console tell of the cable, out and in'
connect
no_disk 1 || fail 'there is a namespace without its drive'
on_node monitor device_add nvme,id=nvme0,serial=LAB0,drive=disk0,bus=slot0,max_ioqpairs=8,msix_qsize=9
until_true 60 shows status '"nsid": 1'
verify "$(disk 1)" 4 io_uring '4k 128k' '1 8'
say 'a drive that came is served'
shows status 'nvme:0000:02:00.0, namespace 2 of' || fail 'the other drive is not missing'
disconnect
on_node monitor quit
sleep 2
on_node start direct ferroce.spin=forever
until_true 120 shows status 'the configuration: '
say "it says so: $(grep -o 'the configuration: .*' /tmp/page)"
shows log 'ferroce.spin\|forever' || fail 'the log does not say what is wrong'
on_node says 'the configuration: '
