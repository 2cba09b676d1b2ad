# An image without a configuration of its own takes it from a stick with the label FERROCE, and the command line counts over it
#: machine=image timeout=300
use_image tcp
on_node stick BOOT_IMAGE=/ferroce.efi ferroce.device=ram:16MiB
until_true 150 shows status '"nsid": 3'
say "the node says it serves, $(since)"
shows log 'the configuration is ferroce.toml of the file system FERROCE on /dev/sd' || fail 'the log does not say where it is from'
connect
for nsid in 1 3; do verify "$(disk $nsid)" 4 io_uring '4k' '8'; done
disconnect
