# A machine whose node cannot run says why on its console, and starts again after a while instead of hanging
#: machine=image timeout=400
use_image tcp
answers() { ping -c 1 -W 1 10.9.0.2; }
silent() { ! answers; }
# The machine has one CPU.
on_node start direct ferroce.cores=[7]
until_true 100 answers
until_true 100 silent
on_node says 'cores: this process may not run on CPU 7'
on_node says 'the node ended 5 times in a row, soon after its start; the machine starts again in 20 s'
on_node says 'Restarting system'
until_true 100 answers
say 'it started again'
