# Run by mmdebstrap's last hook, with the new root as $1: what Debian leaves to whoever makes an
# image. What is only a matter of files is in guest/root, and was laid over the root before.
#
# Environment: BOX_USER (the account), BOX_DISABLED (units that don't start by themselves), BOX_ROOT_FD and BOX_BOOT_FD (files of qup's, by descriptor,
# as their folder may be closed to the user we are in here), BOX_MKE2FS.
set -eu
root=$1

# Every machine makes or is given its own.
rm -f "$root"/etc/ssh/ssh_host_*_key* "$root"/var/lib/systemd/random-seed
# Removed before they are written: without root, what may not be written to may not.
rm -f "$root"/var/lib/dbus/machine-id "$root"/etc/hostname "$root/etc/machine-id" "$root/etc/motd"
: >"$root/etc/machine-id"

chroot "$root" useradd --create-home --shell /bin/bash --comment Debian \
    --groups adm,dialout,cdrom,floppy,sudo,audio,dip,video,plugdev "$BOX_USER"

# Names are looked up by systemd-resolved, as the network says.
ln -sf ../run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"
chroot "$root" systemctl --quiet enable systemd-networkd systemd-resolved
[ -z "$BOX_DISABLED" ] || chroot "$root" systemctl --quiet disable $BOX_DISABLED

# It would offer ssh by vsock, and complains on the console where there is none (Debian 13).
mkdir -p "$root/etc/systemd/system-generators"
ln -s /dev/null "$root/etc/systemd/system-generators/systemd-ssh-generator"

# Upgrades in the background take apt's lock and the processor when nobody expects it. e2scrub is
# for LVM. A new kernel would not be booted: the box has its own.
chroot "$root" systemctl --quiet mask apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer \
    e2scrub_reap.service
chroot "$root" dpkg-query -W -f '${db:Status-Status} ${Package}\n' 'linux-image-*' |
    sed -n 's/^installed //p' | xargs chroot "$root" apt-mark hold >/dev/null

# /usr/bin/cloud-init looks for its own entry point in the metadata of all packages, which takes a
# second in emulation at each of its stages.
for unit in "$root"/usr/lib/systemd/system/cloud-*.service "$root"/lib/systemd/system/cloud-*.service; do
    words=$(sed -n 's|^ExecStart=/usr/bin/cloud-init ||p' "$unit" 2>/dev/null)
    [ -n "$words" ] || continue
    mkdir -p "$root/etc/systemd/system/${unit##*/}.d"
    cat >"$root/etc/systemd/system/${unit##*/}.d/qup.conf" <<END
[Service]
ExecStart=
ExecStart=/usr/bin/python3 -c "import sys; from cloudinit.cmd.main import main; sys.exit(main())" $words
END
done

# A login need not be told about the kernel.
rm -f "$root"/etc/update-motd.d/10-uname
: >"$root/etc/motd"

# mmdebstrap keeps services from starting in here; in the guest they shall. It looks whether these
# are still there before it puts them back itself.
rm -f "$root/usr/sbin/policy-rc.d"
daemon=$root/sbin/start-stop-daemon
[ ! -e "$daemon.REAL" ] || mv "$daemon.REAL" "$daemon"

# Traces of the making: mmdebstrap's settings for apt and dpkg, lists, caches, logs.
rm -f "$root"/etc/apt/apt.conf.d/99mmdebstrap "$root"/etc/dpkg/dpkg.cfg.d/99mmdebstrap
find "$root/var/lib/apt/lists" "$root/var/cache/apt" "$root/var/log" "$root/run" \
    -mindepth 1 ! -type d -delete
rm -rf "$root"/var/cache/debconf/*-old "$root"/var/lib/dpkg/*-old

# What boots: it is in the box beside the disk, so the disk need not have it.
tar -C "$root" --exclude='vmlinuz.old' -cf "/proc/self/fd/$BOX_BOOT_FD" \
    $(cd "$root" && ls -d boot/vmlinuz-* usr/bin/busybox bin/busybox usr/lib/modules lib/modules var/lib/dpkg/status 2>/dev/null)
rm -f "$root"/boot/* "$root"/vmlinuz* "$root"/initrd.img*

# fakechroot puts its root before the target of each absolute link that is made in there; where
# nothing is faked there are none of these.
find "$root" -xdev -type l -lname "$root/*" | while IFS= read -r link; do
    target=$(readlink "$link")
    ln -sfn "${target#"$root"}" "$link"
done

# In /tmp is what tells mmdebstrap's apt that it works on this root, and not on the computer itself:
# it steps aside for the image, and must be back in its place afterwards, however this ends.
aside=$(mktemp -d "$root.aside.XXXXXX")
put_back() { find "$aside" -mindepth 1 -maxdepth 1 -exec mv -t "$root/tmp" {} + && rmdir "$aside"; }
trap put_back EXIT
find "$root/tmp" -mindepth 1 -maxdepth 1 -exec mv -t "$aside" {} +

# The file system, without what mmdebstrap has mounted in there for the hooks: a bind mount shows
# what is below. Where nothing can be mounted nothing is.
if unshare --mount mount --bind "$root" "$root/mnt" 2>/dev/null; then
    unshare --mount sh -euc 'mount --bind "$1" "$1/mnt" && image=$2 && shift 2 && exec "$@" "$image"' \
        sh "$root" "/proc/self/fd/$BOX_ROOT_FD" $BOX_MKE2FS -d "$root/mnt"
else
    $BOX_MKE2FS -d "$root" "/proc/self/fd/$BOX_ROOT_FD"
fi
