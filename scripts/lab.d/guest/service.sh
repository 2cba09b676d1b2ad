# For machines with systemd as their first process and our Debian package (`#: machine=service`).

# install: the package, as a person does it.
install_package() { dpkg -i /lab/ferroce.deb >/tmp/dpkg 2>&1 || fail "dpkg: $(cat /tmp/dpkg)"; }
# is STATE: what the service manager says of the node.
is() { [ "$(systemctl is-active ferroce || true)" = "$1" ]; }
property() { systemctl show -P "$1" ferroce; }
# journal: what the node said, this time and before.
journal() { journalctl -q -u ferroce -o cat --no-pager; }
