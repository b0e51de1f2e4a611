# Becomes systemd, as process 1 of a scratch copy of this system. Runs inside `unshare --mount --pid --cgroup --net`.
# systemd.sh SCRATCH REPOSITORY BINARIES: SCRATCH is an empty directory.
set -eu
scratch=$1 repository=$2 binaries=$3
mount --make-rprivate /
mount -t tmpfs tmpfs "$scratch"
mkdir "$scratch/upper" "$scratch/work" "$scratch/root"
root=$scratch/root
mount -t overlay overlay -o "lowerdir=/,upperdir=$scratch/upper,workdir=$scratch/work" "$root"
mount -t proc proc "$root/proc"
# The kernel is the same one: nothing in there may change its settings or touch its devices.
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount -t sysfs sysfs -o ro "$root/sys"
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/dev"
for device in null zero full random urandom; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/shm" "$root/dev/pts"
mount -t tmpfs tmpfs "$root/dev/shm"
mount -t devpts devpts -o newinstance,ptmxmode=0666 "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
mount -t tmpfs tmpfs "$root/sys/fs/cgroup"
mkdir "$root/sys/fs/cgroup/systemd" "$root/sys/fs/cgroup/unified"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup/unified"
mount -t cgroup -o none,name=systemd cgroup "$root/sys/fs/cgroup/systemd"
mkdir -p "$root/mnt/repository" "$root/mnt/binaries" "$root/usr/lib/systemd/system"
mount --bind "$repository" "$root/mnt/repository"
mount --bind "$binaries" "$root/mnt/binaries"
ip link set lo up
# Of this system's own services only the journal, without the kernel's words.
rm -rf "$root"/etc/systemd/system/* "$root"/usr/lib/systemd/system/*.target.wants
mkdir -p "$root/etc/systemd/journald.conf.d"
printf '[Journal]\nReadKMsg=no\nStorage=volatile\n' >"$root/etc/systemd/journald.conf.d/test.conf"
printf '[Unit]\nDescription=nothing but what a test starts\nWants=systemd-journald.service\nAfter=systemd-journald.service\n' >"$root/usr/lib/systemd/system/reeve-test.target"
cd "$root"
exec env -i container=reeve-test PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    chroot "$root" /lib/systemd/systemd --system --unit=reeve-test.target --log-target=console --log-level=warning
