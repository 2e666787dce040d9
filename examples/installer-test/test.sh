#!/bin/sh
# Runs in the guest, as root. Its exit code is the test's.
set -eu
disk=/dev/vdc

sh ./install.sh $disk
mkdir -p /mnt/check
mount -o ro $disk /mnt/check
[ "$(cat /mnt/check/etc/motd)" = installed ]
umount /mnt/check
echo "ok: it installs"

if sh ./install.sh $disk 2>/dev/null; then
    echo "FAILED: it wrote over a disk in use"
    exit 1
fi
echo "ok: it leaves a disk alone that is in use"
