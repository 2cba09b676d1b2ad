# a RAM drive that lost its data is a new disk: the host must not take it for the old one
#: node timeout=120
serve --device ram:32MiB
connect --reconnect-delay=1 --keep-alive-tmo=5 --ctrl-loss-tmo=60
old=$(cat "/sys/block/$(basename "$(disk 1)")/uuid")
crash
restart
until_true 20 live "$CTRL"
until_true 10 eval 'dmesg | grep "identifiers changed for nsid 1"'
disconnect
connect
expect 'the new UUID' "$(cat "/sys/block/$(basename "$(disk 1)")/uuid")" != "$old"
