# An image without a configuration of its own takes it from a stick with the label FERROCE
#: machine=image timeout=300
use_image tcp
on_node stick
until_true 150 shows status '"nsid": 2'
say "the node says it serves, $(since)"
shows log 'the configuration is ferroce.toml of the file system FERROCE on /dev/sd' || fail 'the log does not say where it is from'
connect
verify "$(disk 1)" 4 io_uring '4k' '8'
disconnect
