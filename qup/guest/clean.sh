# Runs as root in a throw-away copy of a machine that is to become a box: removes what made it
# that machine and no other. The copy is powered off right after it.
#
# Before it, qup sets: key (the base64 of its user's public key), known (lines that let somebody
# else in from now on; most often none) and begin and end (around the names of neighbours).
#
# It is for any guest with sshd; what a guest doesn't have is skipped.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C
umask 022
cd /

fail() {
    echo "qup: failed: $*"
    exit 1
}

# Writes a file's new content into it: owner and mode stay.
refill() { # file, and its new content on the standard input
    cat >/run/qup-clean.part && cat /run/qup-clean.part >"$1" || fail "$1 can't be written"
    rm -f /run/qup-clean.part
}

# `true`, as a redirection of `:` that fails would end the shell without a word.
empty() { # file
    [ -L "$1" ] || true >"$1" || fail "$1 can't be emptied"
}

remove() { # file or folder...
    rm -rf "$@" || fail "$* can't be removed"
}

[ -d /run ] || mkdir /run

# --- who gets in ------------------------------------------------------------------------------

for home in /root /home/*; do
    for file in "$home"/.ssh/authorized_keys "$home"/.ssh/authorized_keys2; do
        [ -f "$file" ] || continue
        had=
        ! grep -qF "$key" "$file" || had=yes
        # Box tiny has the seed's keys in a block of their own.
        {
            sed '/^# qup: from the seed/,/^# qup: end/d' "$file" | grep -vF "$key"
            [ -z "$had" ] || printf %s "$known"
        } | refill "$file"
        [ -s "$file" ] || remove "$file"
    done
    remove "$home"/.bash_history "$home"/.ash_history "$home"/.zsh_history \
        "$home"/.python_history "$home"/.lesshst "$home"/.viminfo "$home"/.wget-hsts
done
remove /etc/ssh/ssh_host_* /etc/dropbear/*host*

# --- who it is --------------------------------------------------------------------------------

# Empty means: to be made at the next boot (machine-id(5)).
[ ! -e /etc/machine-id ] || empty /etc/machine-id
[ -L /var/lib/dbus/machine-id ] || remove /var/lib/dbus/machine-id
[ ! -f /etc/hosts ] || sed "/^$begin\$/,/^$end\$/d" /etc/hosts | refill /etc/hosts
remove /etc/systemd/system/qup-folders.service \
    /etc/systemd/system/sysinit.target.wants/qup-folders.service
remove /var/lib/qup/* /etc/profile.d/qup* /etc/docker/key.json /var/lib/docker/engine-id
# A Docker host's key, and who may speak to it: without them its engine listens in the guest alone.
remove /etc/docker/tls /etc/systemd/system/docker.service.d/qup.conf
remove /var/lib/systemd/random-seed /var/lib/systemd/credential.secret /var/lib/urandom/random-seed \
    /boot/loader/random-seed /boot/efi/loader/random-seed /efi/loader/random-seed

# --- its first boot, and its network ------------------------------------------------------------

remove /var/lib/cloud/*
remove /etc/netplan/50-cloud-init.yaml /etc/network/interfaces.d/50-cloud-init* \
    /etc/systemd/network/10-cloud-init-*.network /etc/systemd/network/10-cloud-init-*.link \
    /etc/NetworkManager/system-connections/cloud-init-* /etc/udev/rules.d/70-persistent-net.rules
for file in /etc/sysconfig/network-scripts/ifcfg-*; do
    ! grep -qs 'Created by cloud-init' "$file" || remove "$file"
done
remove /var/lib/dhcp/*.lease* /var/lib/dhclient/*.lease* /var/lib/NetworkManager/*.lease \
    /var/lib/NetworkManager/secret_key /var/lib/NetworkManager/timestamps \
    /var/lib/dhcpcd/*.lease* /var/lib/dhcpcd/duid /var/lib/dhcpcd/secret /etc/dhcpcd.duid \
    /etc/dhcpcd.secret

# --- what it has said and kept -------------------------------------------------------------------

! command -v apt-get >/dev/null || apt-get clean >/dev/null 2>&1
remove /var/cache/dnf/* /var/cache/zypp/packages/*
find /tmp /var/tmp -xdev -mindepth 1 -maxdepth 1 -exec rm -rf {} + 2>/dev/null
remove /var/log/journal/* /var/lib/systemd/coredump/* /var/crash/*
find /var/log -xdev -type f 2>/dev/null | while IFS= read -r file; do
    case $file in
    *.gz | *.xz | *.bz2 | *.zst | *.old | *.[0-9] | *-20[0-9][0-9]*) remove "$file" ;;
    *) empty "$file" ;;
    esac
done || exit 1

# --- the disk: what is free is given back, and nobody writes to it any more -----------------------

sync
while read -r device place type rest; do
    case $device in
    /dev/*) fstrim "$(printf %b "$place")" >/dev/null 2>&1 ;;
    esac
done </proc/mounts
sync
if [ -w /proc/sysrq-trigger ] && echo u >/proc/sysrq-trigger; then
    tries=0
    until dmesg | grep -q 'Emergency Remount complete'; do
        tries=$((tries + 1))
        [ $tries -lt 300 ] || { echo 'qup: cleaned' && exit 0; }
        sleep 0.1
    done
    echo 'qup: cleaned, read-only'
else
    echo 'qup: cleaned'
fi
exit 0
