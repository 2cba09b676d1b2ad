# Verbs: an idle host keeps itself alive, and leaves nothing behind
#: node timeout=120
use_verbs 4500
serve --device ram:64MiB "${METRICS[@]}"
# The first connection makes what stays: completion queues.
connect
disconnect
until_true 20 eval '[ "$(held qp)" = 0 ]'
before=$(all_held)
connect --keep-alive-tmo=2
sleep 12
live "$CTRL"
expect 'recoveries' "$(recoveries)" = 0
expect 'hosts that were given up' "$(metric core_keep_alive_expiries_total)" = 0
disconnect
held_again "$before"
