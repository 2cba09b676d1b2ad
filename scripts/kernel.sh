# Sourced by the scripts that need a Debian kernel: fetches its package, and unpacks it without installing it.

# kernel_package [VERSION]: the name of Debian's package, of the newest kernel or of one by the start of its version.
kernel_package() {
    if [ -n "${1-}" ]; then
        apt-cache pkgnames "linux-image-$1" | grep -E '[0-9](\+deb[0-9]+)?-amd64$' | sort -V | tail -1
    else
        apt-cache depends linux-image-amd64 | awk '$1 == "Depends:" && /linux-image/ { print $2; exit }'
    fi
}

# unpack_kernel PACKAGE FOLDER: its files into the folder, if they are not there.
unpack_kernel() {
    [ ! -e "$2/complete" ] || return 0
    rm -rf "$2"
    mkdir -p "$2"
    (cd "$2" && apt-get -qq -o APT::Sandbox::User=root download "$1")
    dpkg -x "$2"/*.deb "$2"
    rm "$2"/*.deb
    # Debian 12 has /lib, later ones /usr/lib.
    [ -d "$2/lib" ] || ln -s usr/lib "$2/lib"
    depmod -b "$2" "${1#linux-image-}"
    touch "$2/complete"
}
