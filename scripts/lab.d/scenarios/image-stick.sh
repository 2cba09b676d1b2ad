# An image without a configuration takes it from a stick labelled FERROCE; the command line counts over it, and pins a core
#: machine=image timeout=300
use_image tcp
on_node stick BOOT_IMAGE=/ferroce.efi ferroce.device=ram:16MiB ferroce.cores=[1]
until_true 150 shows status '"nsid": 3'
say "the node says it serves, $(since)"
shows log 'the configuration is ferroce.toml of the file system FERROCE on /dev/sd' || fail 'the log does not say where it is from'
shows status '"cpu": 1' || fail 'the core is not pinned'
! shows log 'did not let us run on CPU' || fail 'the core is not on its CPU'
connect
for nsid in 1 3; do verify "$(disk $nsid)" 4 io_uring '4k' '8'; done
disconnect
