# a drive's temperature and warnings reach the host's SMART log, its events where it asks for them, metrics and ctl
#: machine=vfio cpus=2 timeout=180
. /lab/vfio.sh
to_vfio "${DRIVES[@]}"
serve --device "nvme:${DRIVES[0]}" --device "nvme:${DRIVES[1]}" "${METRICS[@]}"
connect
c=/dev/$CTRL
# smart NAME: a value of the log, which is read without leave for more events; read_smart gives that leave.
smart() { nvme smart-log "$c" -o json | tr -d ' \n' | grep -o "\"$1\":[0-9]*" | cut -d: -f2; }
read_smart() { nvme get-log "$c" -i 2 -l 512 -b >/dev/null; }
says() { [ "$(smart "$1")" = "$2" ]; }
# QEMU's drives have 50 C, always.
until_true 10 says temperature 323
expect 'critical warning' "$(smart critical_warning)" = 0
for nsid in 1 2; do ctl show | grep "drive   of $nsid: 50 C, 0% used"; done
expect 'temperatures of both drives, summed' "$(metric drive_temperature_kelvin)" = 646
expect 'warnings in metrics' "$(metric drive_critical_warning)" = 0
wget -q -O - http://127.0.0.1:9520/metrics >/tmp/metrics
expect 'drives whose error logs are counted' "$(grep -c '^ferroce_drive_error_log_entries_total{' /tmp/metrics)" = 2

# The host's kernel tells what events it was given.
mount -t tracefs none /sys/kernel/tracing 2>/dev/null || true
echo 1 >/sys/kernel/tracing/events/nvme/nvme_async_event/enable
events() { grep -c 'NVME_AEN' /sys/kernel/tracing/trace || true; }
told() { [ "$(events)" = "$1" ]; }
warn() { qemu "qom-set /machine/peripheral/nvme1 smart_critical_warning $1"; }
start_load "$(disk 1)"
warn 2
until_true 20 says critical_warning 2
say 'the drive warns'
grep 'critical warning 0x02: its temperature' /tmp/node.log
ctl show | grep 'drive   of 2: .*critical warning 0x02'
ctl show | grep 'drive   of 1: ' | grep -v warning
expect 'warnings in metrics' "$(metric drive_critical_warning "${DRIVES[1]}")" = 2
expect 'events that nobody asked for' "$(events)" = 0
# From here on the host wants to hear of all of them, beside the notices it has asked for.
nvme set-feature "$c" -f 0xb -v 0x91f
until_true 10 told 1
warn 3
until_true 20 says critical_warning 3
read_smart
until_true 10 told 2
warn 0
until_true 30 says critical_warning 0
read_smart
warn 4
until_true 10 told 3
grep NVME_AEN /sys/kernel/tracing/trace
# Dword 0: log page 02h, then what it is, then type 1.
for event in 020101 020201 020001; do grep -q "NVME_AEN=0x$event" /sys/kernel/tracing/trace; done
stop_load
warn 0
disconnect
stop
