#!/bin/sh
# Runs in the guest, as root: what the kernel under test has to be able to do.
set -eu

check() { # what, and the command that shows it
    what=$1
    shift
    "$@" || { echo "FAILED: $what" && exit 1; }
    echo "ok: $what"
}

writes() {
    mkdir -p /mnt/scratch
    mount -t tmpfs none /mnt/scratch
    dd if=/dev/zero of=/mnt/scratch/file bs=1M count=8 2>/dev/null
    umount /mnt/scratch
}

check 'it was booted by the command line of the Qupfile' grep -q 'under=test' /proc/cmdline
check 'it mounts a file system and writes to it' writes
check 'it has nothing to complain about' sh -c '! dmesg | grep -E "BUG:|WARNING:|Oops"'
