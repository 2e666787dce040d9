#!/bin/sh
# An installer, small enough to be read: puts a file system and a greeting on a disk.
#
#     install.sh DISK
set -eu
disk=${1:?which disk?}

if [ -n "$(dd if="$disk" bs=4096 count=1 2>/dev/null | tr -d '\0')" ]; then
    echo "install: $disk is not empty" >&2
    exit 1
fi
mke2fs -L installed "$disk" >/dev/null
mkdir -p /mnt/target
mount "$disk" /mnt/target
mkdir -p /mnt/target/etc
echo "installed" >/mnt/target/etc/motd
umount /mnt/target
sync
