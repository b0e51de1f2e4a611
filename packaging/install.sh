#!/usr/bin/env bash
# Installs reeve, or removes it: the one list of what belongs where. packaging/deb.sh makes its package of the same list.
set -euo pipefail
here="$(cd "$(dirname "$0")/.." && pwd)"

usage() {
    cat <<'END'
packaging/install.sh [--root DIR] [--bin DIR] [--user] [--uninstall [--purge]]
  --root DIR    below this directory instead of / (as DESTDIR: nothing of the running system is touched)
  --bin DIR     where the three binaries were built [default: target/release]
  --user        for this user alone, without root: ~/.local and ~/.config
  --uninstall   removes what was installed; configuration that was changed, state and keys stay
  --purge       with --uninstall: those too
Repeating it is an upgrade. Running services are left alone; what to restart is said at the end.
END
}

root="" bin="${CARGO_TARGET_DIR:-$here/target}/release" mode=install user=no purge=no
while [ $# -gt 0 ]; do
    case "$1" in
    --root) root="${2:?--root needs a directory}"; shift ;;
    --bin) bin="${2:?--bin needs a directory}"; shift ;;
    --user) user=yes ;;
    --uninstall) mode=uninstall ;;
    --purge) purge=yes ;;
    -h | --help) usage; exit 0 ;;
    *) echo "install.sh: unknown option $1" >&2; usage >&2; exit 64 ;;
    esac
    shift
done
root="${root%/}"
if [ "$purge" = yes ] && [ "$mode" != uninstall ]; then
    echo "install.sh: --purge goes with --uninstall" >&2
    exit 64
fi
if [ "$user" = no ] && [ -z "$root" ] && [ "$(id -u)" != 0 ]; then
    echo "install.sh: installing for the whole machine needs root; without root: packaging/install.sh --user" >&2
    exit 77
fi

if [ "$user" = yes ]; then
    home="$root$HOME"
    bindir="$home/.local/bin" doc="$home/.local/share/doc/reeve"
    units="$home/.config/systemd/user" etc="$home/.config/reeve"
    state=("$home/.local/state/reeve" "$home/.local/state/reeve-agent" "$home/.local/state/reeve-keeper")
else
    bindir="$root/usr/bin" doc="$root/usr/share/doc/reeve"
    units="$root/usr/lib/systemd/system" etc="$root/etc/reeve"
    state=("$root/var/lib/reeve" "$root/var/lib/reeve-agent" "$root/var/lib/reeve-keeper")
fi

# MODE SOURCE DESTINATION, one per line. Sources are below the repository, binaries below --bin.
list() {
    local name
    for name in reeve reeve-coordinator reeve-agent; do echo "0755 $bin/$name $bindir/$name"; done
    for name in coordinator agent keeper jobs; do
        if [ "$user" = yes ]; then
            echo "0644 $here/packaging/systemd/user/reeve-$name.service $units/reeve-$name.service"
        else
            echo "0644 $here/packaging/systemd/system/reeve-$name.service $units/reeve-$name.service"
        fi
    done
    if [ "$user" = no ]; then
        echo "0644 $here/packaging/sysusers.d/reeve.conf $root/usr/lib/sysusers.d/reeve.conf"
        echo "0644 $here/packaging/tmpfiles.d/reeve.conf $root/usr/lib/tmpfiles.d/reeve.conf"
    fi
    for name in README.md CHANGELOG.md LICENSE docs/operations.md docs/api.md docs/errors.md docs/job-lifecycle.md; do
        echo "0644 $here/$name $doc/${name##*/}"
    done
}
# Files that belong to whoever runs the machine: never overwritten.
configs() {
    echo "$here/packaging/coordinator.toml $etc/coordinator.toml"
    echo "$here/agent/agent.example.toml $etc/agent.toml"
}

# A unit for one user names that user's own binaries.
place() { # place MODE SOURCE DESTINATION
    mkdir -p "$(dirname "$3")"
    # Beside and renamed: a running program's file cannot be written to, and nobody sees half a file.
    if [ "$user" = yes ] && [[ "$2" == *.service ]]; then
        sed "s|^ExecStart=/usr/bin/|ExecStart=%h/.local/bin/|" "$2" >"$3.new"
    else
        cp "$2" "$3.new"
    fi
    chmod "$1" "$3.new"
    mv -f "$3.new" "$3"
}

live() { [ -z "$root" ] && [ -d /run/systemd/system ]; }
systemctl_here() { if [ "$user" = yes ]; then systemctl --user "$@"; else systemctl "$@"; fi; }

install_all() {
    local mode source destination
    for name in reeve reeve-coordinator reeve-agent; do
        if [ ! -x "$bin/$name" ]; then
            echo "install.sh: there is no $bin/$name; build it with: cargo build --release" >&2
            exit 66
        fi
    done
    while read -r mode source destination; do place "$mode" "$source" "$destination"; done < <(list)
    while read -r source destination; do
        [ -e "$destination" ] || place 0644 "$source" "$destination"
    done < <(configs)
    if [ "$user" = no ] && [ -z "$root" ]; then
        systemd-sysusers reeve.conf
        systemd-tmpfiles --create reeve.conf
    fi
    if live; then systemctl_here daemon-reload || true; fi
    echo "installed${root:+ below $root}"
    if [ "$user" = yes ]; then
        echo "next: $doc/operations.md, Without root"
    else
        echo "next: $doc/operations.md, Installation; after an upgrade: systemctl try-restart reeve-coordinator reeve-keeper reeve-agent"
    fi
}

uninstall_all() {
    local mode source destination
    if live; then
        for unit in reeve-jobs reeve-agent reeve-keeper reeve-coordinator; do
            systemctl_here disable --now "$unit" 2>/dev/null || true
        done
    fi
    while read -r mode source destination; do rm -f "$destination"; done < <(list)
    while read -r source destination; do
        # A file that nobody changed says nothing.
        if [ "$purge" = yes ] || cmp -s "$source" "$destination"; then rm -f "$destination"; fi
    done < <(configs)
    if [ "$purge" = yes ]; then rm -rf "${state[@]}"; fi
    rmdir "$doc" "$etc" 2>/dev/null || true
    if [ -n "$root" ]; then
        # What was made on the way there goes when it is empty.
        find "$root" -mindepth 1 -depth -type d -empty -delete
    fi
    if live; then systemctl_here daemon-reload || true; fi
    echo "removed${root:+ below $root}"
    if [ "$purge" = no ]; then echo "kept: ${state[*]} and changed configuration in $etc; --purge removes them"; fi
}

if [ "$mode" = install ]; then install_all; else uninstall_all; fi
