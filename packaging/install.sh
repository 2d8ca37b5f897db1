#!/bin/sh
# Install the Local License Server from this unpacked archive, without any network. Needs Python 3.11 or later.
#
#     ./install.sh --key KEY.pem [--prefix DIR] [--python PROGRAM] [--no-systemd]
#     ./install.sh --uninstall [--prefix DIR] [--no-systemd]
#
# --key KEY.pem    the public key of who made this archive; nothing is run before the signature and every file were
#                  verified. Without a signed archive: --unsigned, which only compares the files with each other.
# --prefix DIR     where the program goes (default /opt/lls): DIR/versions/VERSION, and DIR/current, which is switched at
#                  the end; an interrupted installation changes nothing
# --python PROGRAM the Python to use (default: the newest of 3.11 to 3.13 that is there and that the archive has wheels for)
# --no-systemd     no user, no service, nothing outside DIR (containers, other supervisors, no root); manual pages and
#                  completions are in DIR/current/share, and man finds them with DIR/current/bin in PATH
# --uninstall      remove program, service and manual pages; settings (/etc/lls) and state (/var/lib/lls) stay
#
# To run it again is harmless; with a newer archive it is an upgrade. Exit status: 0 done, 1 refused, 2 wrong usage.
set -eu
umask 022

prefix=/opt/lls python='' key='' unsigned='' systemd=yes action=install
etc=/etc/lls state=/var/lib/lls unit=/etc/systemd/system/lls.service link=/usr/local/bin/lls
shelf=/usr/local/share

refuse() {
    echo "REFUSED: $*" >&2
    exit 1
}

usage() {
    sed -n '2,/^set -eu/s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

while [ $# -gt 0 ]; do
    case "$1" in
    --key) key=${2:-}; [ -n "$key" ] || usage; shift ;;
    --unsigned) unsigned=yes ;;
    --prefix) prefix=${2:-}; [ -n "$prefix" ] || usage; shift ;;
    --python) python=${2:-}; [ -n "$python" ] || usage; shift ;;
    --no-systemd) systemd='' ;;
    --uninstall) action=uninstall ;;
    *) usage ;;
    esac
    shift
done
prefix=${prefix%/}
case "$prefix" in
/*) ;;
*) refuse "--prefix must be an absolute path" ;;
esac
[ -z "$key" ] || key=$(cd "$(dirname "$key")" && pwd)/$(basename "$key")
cd "$(dirname "$0")"

running() { [ -n "$systemd" ] && [ -d /run/systemd/system ]; }

verify() {
    if [ -n "$key" ]; then
        sh ./verify.sh "$key" . || exit 1
    elif [ -n "$unsigned" ]; then
        echo "NOT SIGNED: nobody vouches for what is being installed." >&2
    else
        refuse "name the public key of who made this archive (--key KEY.pem), or say --unsigned"
    fi
    # verify.sh allows that files are missing; here all must be there, and no other: an extra wheel would be a stranger's.
    sha256sum --check --strict --quiet SHA256SUMS || refuse "this archive is not whole"
    sed 's/^[0-9a-f]*  //' SHA256SUMS | sort >"$work/listed"
    find . -type f | sed 's,^\./,,' | grep -v '^SHA256SUMS\(\.sig\)\{0,1\}$' | sort >"$work/found"
    cmp -s "$work/listed" "$work/found" || refuse "this folder holds files that SHA256SUMS does not name"
}

find_python() {
    [ -z "$python" ] || { echo "$python"; return; }
    for one in python3.13 python3.12 python3.11 python3; do
        # A name may be there and no program behind it (pyenv).
        if [ -r "wheels-$(minor "$one" 2>/dev/null).txt" ]; then
            echo "$one"
            return
        fi
    done
}

minor() { "$1" -I -c 'import sys; print("%d.%d" % sys.version_info[:2])'; }

install_program() {
    python=$(find_python)
    [ -n "$python" ] || refuse "no Python that this archive has wheels for was found; it has: $(echo wheels-*.txt)"
    wheels=wheels-$(minor "$python" || echo unknown).txt
    [ -r "$wheels" ] || refuse "this archive has no wheels for the Python that $python is"
    home=$prefix/versions/$(cat VERSION)
    if [ ! -e "$home/.whole" ]; then
        rm -rf "$home"
        mkdir -p "$prefix/versions"
        "$python" -I -m venv --without-pip "$home"
        # pip runs from its own wheel and compares every other one with its hash again.
        "$home/bin/python3" -I "$(echo wheelhouse/pip-*.whl)/pip" install --quiet --no-index --no-deps --no-compile \
            --no-cache-dir --disable-pip-version-check --require-hashes --find-links wheelhouse -r "$wheels"
        { echo "#!$home/bin/python3 -I"; cat launcher.py; } >"$home/bin/lls"
        chmod 0755 "$home/bin/lls"
        rm -f "$home/bin/lls-issuer"  # the vendor's tool is no part of the appliance
        "$home/bin/python3" -I -m compileall -q "$home/lib"
        mkdir -p "$home/share"
        cp -R config docs systemd sbom.cdx.json LICENSE share/* "$home/share/"
        [ ! -r vendor.llskeys ] || cp vendor.llskeys "$home/share/"
        "$home/bin/lls" --version
        : >"$home/.whole"
    fi
    ln -sfn "versions/$(cat VERSION)" "$prefix/current.new"
    mv -T "$prefix/current.new" "$prefix/current"
}

make_users() {
    nologin=$(command -v nologin || echo /usr/sbin/nologin)
    getent group lls >/dev/null || groupadd --system lls
    getent passwd lls >/dev/null ||
        useradd --system --gid lls --home-dir "$state" --no-create-home --shell "$nologin" \
            --comment "Local License Server" lls
    getent group lls-admin >/dev/null || groupadd --system lls-admin
    usermod --append --groups lls-admin lls
}

# Manual pages and completions where man and the shells look, as links: what is switched with `current` are they, too.
fill_shelf() {
    clear_shelf
    (cd "$prefix/current/share" && find man bash-completion zsh fish -type f) >"$work/shelf"
    while read -r file; do
        mkdir -p "$(dirname "$shelf/$file")"  # unlike install -d it leaves the mode of what is there
        # What is there now is somebody else's, and stays.
        [ -e "$shelf/$file" ] || [ -L "$shelf/$file" ] || ln -s "$prefix/current/share/$file" "$shelf/$file"
    done <"$work/shelf"
}

clear_shelf() {
    for folder in man bash-completion zsh fish; do
        [ ! -d "$shelf/$folder" ] || find "$shelf/$folder/" -type l  # the folder itself may be a link, too
    done | while read -r file; do
        case "$(readlink "$file")" in
        "$prefix/current/share/"*) rm -f "$file" ;;
        esac
    done
}

install_service() {
    make_users
    install -d -m 0755 "$etc"
    [ -e "$etc/lls.toml" ] || install -m 0644 config/lls.toml "$etc/lls.toml"
    if [ -r vendor.llskeys ] && [ ! -e "$etc/vendor.llskeys" ]; then
        install -m 0644 vendor.llskeys "$etc/vendor.llskeys"
    fi
    [ -d "$state" ] || install -d -m 0700 -o lls -g lls "$state"
    install -d "$(dirname "$link")" "$(dirname "$unit")" /etc/tmpfiles.d
    ln -sfn "$prefix/current/bin/lls" "$link"
    fill_shelf
    sed "s,^\(Exec[A-Za-z]*\)=/usr/bin/lls,\1=$prefix/current/bin/lls," systemd/lls.service >"$work/unit"
    install -m 0644 "$work/unit" "$unit"
    install -m 0644 systemd/lls.tmpfiles /etc/tmpfiles.d/lls.conf
    # Where SELinux rules, files get the type of their place.
    if command -v restorecon >/dev/null; then
        restorecon -R "$prefix" "$etc" "$state" "$unit" "$link"
    fi
    if running; then
        systemctl daemon-reload
        systemctl try-restart lls.service || echo "lls.service did not start again; see: journalctl -u lls" >&2
    fi
}

uninstall() {
    if running && [ -e "$unit" ]; then
        systemctl disable --now lls.service
    fi
    if [ -n "$systemd" ]; then
        rm -f "$unit" /etc/tmpfiles.d/lls.conf
        clear_shelf
        [ "$(readlink "$link" || :)" != "$prefix/current/bin/lls" ] || rm -f "$link"
    fi
    if running; then
        systemctl daemon-reload
    fi
    rm -rf "$prefix/versions" "$prefix/current"
    [ ! -d "$prefix" ] || rmdir --ignore-fail-on-non-empty "$prefix"
    echo "Removed. Settings ($etc) and state ($state: keys, journal) are where they were."
}

if [ -n "$systemd" ] && [ "$(id -u)" -ne 0 ]; then
    refuse "a service needs root; without: --no-systemd --prefix DIR"
fi
if [ "$action" = uninstall ]; then
    uninstall
    exit
fi
[ -r SHA256SUMS ] || refuse "there is no SHA256SUMS beside this script; unpack the whole archive"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
verify
install_program
if [ -n "$systemd" ]; then
    install_service
    echo "Installed in $prefix. Next, on a new server, as root:"
    if [ -e "$etc/vendor.llskeys" ]; then
        echo "  lls setup"
    else
        echo "  lls setup     # asks for your vendor's key set, a file that ends in .llskeys: have it at hand"
    fi
    echo "It asks a few questions, starts the server and writes the request for your vendor."
fi
