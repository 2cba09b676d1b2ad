# only allowed hosts connect; allow and forbid take effect at once
#: smoke
serve --device ram:16MiB --allow "$HOST"
connect
refused 'Input/output|denied|not allowed' dial $SECOND
dmesg | grep -i 'not allowed\|invalid host\|0x184\|16772' || fail 'the host was not told why'
ctl allow "$HOST2"
connect $SECOND
disconnect
ctl forbid "$HOST2"
refused 'Input/output|denied|not allowed' dial $SECOND
