#!/usr/bin/env bash
# Makes reeve_VERSION_ARCH.deb of what packaging/install.sh installs. Needs dpkg-deb and built binaries.
#   packaging/deb.sh [--bin DIR] [--out DIR] [--compression xz|gzip|none]
set -euo pipefail
here="$(cd "$(dirname "$0")/.." && pwd)"
bin="${CARGO_TARGET_DIR:-$here/target}/release" out="$PWD" compression=xz
while [ $# -gt 0 ]; do
    case "$1" in
    --bin) bin="${2:?--bin needs a directory}"; shift ;;
    --out) out="${2:?--out needs a directory}"; shift ;;
    --compression) compression="${2:?--compression needs a name}"; shift ;;
    *) sed -n '2,3s/^# *//p' "$0" >&2; exit 64 ;;
    esac
    shift
done
version="$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' "$here/Cargo.toml")"
arch="$(dpkg --print-architecture)"
tree="$(mktemp -d)"
trap 'rm -rf "$tree"' EXIT
"$here/packaging/install.sh" --root "$tree/root" --bin "$bin" >/dev/null

cd "$tree/root"
gzip -9n usr/share/doc/reeve/CHANGELOG.md && mv usr/share/doc/reeve/CHANGELOG.md.gz usr/share/doc/reeve/changelog.gz
printf 'Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\nUpstream-Name: reeve\n\nFiles: *\nCopyright: the authors of reeve\nLicense: Apache-2.0\n On Debian systems: /usr/share/common-licenses/Apache-2.0\n' >usr/share/doc/reeve/copyright
rm usr/share/doc/reeve/LICENSE
mkdir DEBIAN
cp "$here"/packaging/deb/{postinst,prerm,postrm} DEBIAN/
chmod 0755 DEBIAN/{postinst,prerm,postrm}
find etc -type f | sed 's|^|/|' | sort >DEBIAN/conffiles
find usr -type f -print0 | sort -z | xargs -0 md5sum >DEBIAN/md5sums
# What the binaries need of the C library: the newest symbol version in any of them.
libc="$(grep -aohE 'GLIBC_2\.[0-9]+' usr/bin/* | sort -Vu | tail -1 | cut -d_ -f2)"
cat >DEBIAN/control <<END
Package: reeve
Version: $version
Section: admin
Priority: optional
Architecture: $arch
Maintainer: the authors of reeve <reeve@localhost>
Installed-Size: $(du -ks --exclude=DEBIAN . | cut -f1)
Depends: libc6 (>= ${libc:-2.36}), libgcc-s1, systemd
Recommends: git
Description: job management across machines
 Coordinator, agent, command line and console: commands, arrays and queues of
 jobs on one or many machines; jobs outlive every part of reeve but their own.
 No service is enabled by the installation: a machine is made head or member
 as /usr/share/doc/reeve/operations.md says.
END
mkdir -p "$out"
dpkg-deb -Z"$compression" --root-owner-group --build "$tree/root" "$out/reeve_${version}_${arch}.deb"
