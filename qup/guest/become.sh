# Runs as root in a guest that was just restored from a template, and makes it a machine of its
# own. What it writes is what the machine's seed says: the next boot finds nothing to change.
#
# It lies in the template; what a restored guest is told are the words that it needs, as the second
# serial port is slow: hostname, old_hostname, instance, old_instance, machine_id, public_key and
# old_public_key (the base64 in the middle of a line), comment and old_comment (its end),
# host_key, host_public_key, addresses (lines of "card's-old-mac old/prefix new/prefix"), macs
# (lines of "old new"), moved (the old mac of each card whose DHCP server is another one now) and
# met (the old mac of each card that has neighbours).
#
# It is for any guest with OpenSSH's sshd; what a guest doesn't have is skipped. Box tiny has
# become_tiny.sh. The time and the random
# pool are right already.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C
umask 022
place=$PWD
cd /

fail() {
    echo "qup: failed: $*"
    exit 1
}

# Replaces a word in those of the files that there are and that have it. Builtins alone: in
# emulation, starting a program takes 10 ms, and most of these files are a line or two.
replace() { # old new file...
    local old=$1 new=$2 file line text found
    shift 2
    [ "$old" != "$new" ] || return 0
    for file in "$@"; do
        [ -f "$file" ] || continue
        text= found=
        while IFS= read -r line || [ "$line" ]; do
            while :; do
                case $line in
                *"$old"*) text=$text${line%%"$old"*}$new line=${line#*"$old"} found=yes ;;
                *) break ;;
                esac
            done
            text=$text$line$newline
        done <"$file"
        [ ! "$found" ] || { replaced=yes && printf %s "$text" >"$file"; }
    done
}

# The socket that sshd listens at: a restart shows by another one.
find_listener() {
    local line here there state queues timer retries uid timeout number rest
    inode=
    while read -r line here there state queues timer retries uid timeout number rest; do
        case $here-$state in *:0016-0A) inode=$number ;; esac
    done </proc/net/tcp
}

wait_for_sshd() {
    local tries=0
    find_listener
    while [ -z "$inode" ] || [ "$inode" = "$old_inode" ]; do
        tries=$((tries + 1))
        [ $tries -lt 300 ] || fail 'sshd does not start anew'
        sleep 0.1
        find_listener
    done
}

newline='
'
systemd=
[ ! -d /run/systemd/system ] || systemd=yes

# Who manages the cards remembers the machine id and the host name: systemd-networkd makes its DHCP
# client id of the one, NetworkManager would set the other again. They are replaced by ones that
# read everything anew, and before they see that a card is another one: they would drop its lease.
managers=
for unit in systemd-networkd NetworkManager; do
    for file in /sys/fs/cgroup/system.slice/$unit.service/cgroup.procs \
        /sys/fs/cgroup/systemd/system.slice/$unit.service/cgroup.procs; do
        [ -f "$file" ] || continue
        while read -r pid; do managers="$managers $pid"; done <"$file"
    done
done
# shellcheck disable=SC2086 # they are numbers
[ ! "$managers" ] || kill -STOP $managers

# --- names --------------------------------------------------------------------------------

# As cloud-init does it: a name with dots is the full one, and the first part is the host's.
name=${hostname%%.*}
echo "$name" >/proc/sys/kernel/hostname || fail 'the host name'
echo "$name" >/etc/hostname
replace "$old_hostname" "$name" /etc/hosts /etc/mailname /var/lib/cloud/data/*-hostname

old_machine_id=
[ ! -f /etc/machine-id ] || read -r old_machine_id </etc/machine-id
if [ "$old_machine_id" ]; then
    echo "$machine_id" >/etc/machine-id || fail 'the machine id'
    if [ -f /var/lib/dbus/machine-id ] && [ ! -L /var/lib/dbus/machine-id ]; then
        echo "$machine_id" >/var/lib/dbus/machine-id
    fi
fi

# --- the first boot: it counts as this machine's --------------------------------------------

cloud=/var/lib/cloud
if [ -d "$cloud/instances/$old_instance" ] && [ "$instance" != "$old_instance" ]; then
    mv "$cloud/instances/$old_instance" "$cloud/instances/$instance"
    ln -sfn "$cloud/instances/$instance" "$cloud/instance"
    # Copies of the template's seed, whose host name the next boot would believe; it makes them
    # anew from this machine's seed. What has been done is noted elsewhere (sem/).
    (cd "$cloud/instances/$instance" && rm -f cloud-config.txt user-data.txt* obj.pkl)
    replace "$old_instance" "$instance" "$cloud"/data/*instance-id /run/cloud-init/.instance-id
    # These are long, and what is replaced has no character that matters to sed but the dot,
    # which does match a dot. Links among them lead to others of them.
    set --
    for file in "$cloud"/data/*.json /run/cloud-init/*.json; do
        [ ! -f "$file" ] || [ -L "$file" ] || set -- "$@" "$file"
    done
    [ $# = 0 ] || sed -i "s|$old_instance|$instance|g;s|$old_hostname|$name|g" "$@"
fi

# --- keys ---------------------------------------------------------------------------------

if [ -d /etc/ssh ]; then
    key=/etc/ssh/ssh_host_ed25519_key
    rm -f /etc/ssh/ssh_host_*
    (umask 077 && printf '%s\n' "$host_key" >$key) || fail "the host's key"
    printf '%s\n' "$host_public_key" >$key.pub
else
    fail 'no sshd that is known'
fi

let_in=
for file in /root/.ssh/authorized_keys /home/*/.ssh/authorized_keys; do
    [ -f "$file" ] || continue
    replaced=
    replace "$old_public_key $old_comment" "$public_key $comment" "$file"
    [ "$replaced" ] || replace "$old_public_key" "$public_key" "$file"
    [ ! "$replaced" ] || let_in=yes
done
[ "$let_in" ] || fail 'nobody has the key of the template'

# --- network cards --------------------------------------------------------------------------

find_card() { # mac -> card
    local path address
    card=
    for path in /sys/class/net/*; do
        read -r address <"$path/address" 2>/dev/null || continue
        [ "$address" != "$1" ] || card=${path##*/}
    done
    [ "$card" ]
}

replace_in_network() { # old new
    replace "$1" "$2" /etc/netplan/* /etc/network/interfaces /etc/network/interfaces.d/* \
        /etc/systemd/network/* /run/systemd/network/* /etc/udev/rules.d/* \
        /etc/NetworkManager/system-connections/* /etc/sysconfig/network-scripts/ifcfg-*
}

# NetworkManager goes by the address that a card came with, which is the template's until the next
# boot, and the machine's from then on: by the card's name its profile is right all the time. A
# section may be there twice.
name_card() { # mac card profile...
    local mac=$1 card=$2 file
    shift 2
    for file in "$@"; do
        [ ! -f "$file" ] || sed -i \
            "s/^mac-address=$mac\$/\n[connection]\ninterface-name=$card\n\n[ethernet]/I" "$file"
    done
}

# The kernel makes a card's own IPv6 address of its MAC address, once: its neighbours would have the
# same one. Who has it made by somebody else (mode 1 and up) is replaced anyway.
renew_own_address() { # card
    local switch=/proc/sys/net/ipv6/conf/$1/addr_gen_mode mode=
    [ ! -f "$switch" ] || read -r mode <"$switch"
    [ "$mode" = 0 ] || return 0
    ip -6 addr flush dev "$1" scope link
    echo 1 >"$switch"
    echo 0 >"$switch"
}

# Routes stay as long as the card has an address: the new one moves up when the old one goes.
while read -r mac old new; do
    [ "$mac" ] && find_card "$mac" || continue
    echo 1 >"/proc/sys/net/ipv4/conf/$card/promote_secondaries"
    ip addr add "$new" dev "$card" && ip addr del "$old" dev "$card" || fail "address $new"
    replace_in_network "${old%/*}" "${new%/*}"
done <<END
$addresses
END

while read -r old new; do
    [ "$old" ] || continue
    if find_card "$old"; then
        name_card "$old" "$card" /etc/NetworkManager/system-connections/*
        # Whoever is on the network shall know at once where the address is now.
        notify=/proc/sys/net/ipv4/conf/$card/arp_notify
        read -r notified <"$notify"
        echo 1 >"$notify"
        ip link set "$card" address "$new" 2>/dev/null || {
            ip link set "$card" down
            ip link set "$card" address "$new" || fail "the address of $card"
            ip link set "$card" up
        }
        echo "$notified" >"$notify"
        case " $met" in *" $old"*) renew_own_address "$card" ;; esac
        case " $moved" in
        *" $old"*)
            ip -4 addr flush dev "$card" scope global dynamic
            rm -f /var/lib/NetworkManager/*-"$card".lease
            ;;
        esac
    fi
    replace_in_network "$old" "$new"
done <<END
$macs
END
[ ! -f /var/lib/NetworkManager/secret_key ] || rm /var/lib/NetworkManager/secret_key
# A networkd that starts takes away what it has not set itself, and asks its DHCP server again: for
# some tenths of a second the guest would reach nobody. Its addresses are right, unless a card is on
# another network now, so it is told to keep them until it has started.
kept=
keep_addresses() {
    local file folder
    for file in /etc/systemd/network/*.network /run/systemd/network/*.network; do
        [ -f "$file" ] || continue
        folder=/run/systemd/network/${file##*/}.d
        mkdir -p "$folder"
        printf '[Network]\nKeepConfiguration=yes\n' >"$folder/qup.conf"
        kept=yes
    done
}
[ ! -d /sys/fs/cgroup/system.slice/systemd-networkd.service ] || [ "$moved" ] || keep_addresses

# systemd starts them again at once, as after any failure. A networkd that starts keeps the whole
# guest busy for a second: on QEMU's own network alone, where nobody has to know at once who the
# client is now, it stands still until somebody is logged in.
late=
[ "$moved$met" ] || [ -d /sys/fs/cgroup/system.slice/NetworkManager.service ] || late=$managers
# shellcheck disable=SC2086
[ ! "$managers" ] || [ "$late" ] || kill -KILL $managers

# --- services that have learned what was ----------------------------------------------------

find_listener
old_inode=$inode
for file in /var/lib/dhcp/*.leases; do
    [ ! -f "$file" ] || rm -f "$file"
done
# sshd executes itself anew on SIGHUP; where systemd listens for it there is nothing to do.
pid=
[ ! -f /run/sshd.pid ] || read -r pid </run/sshd.pid
if [ "$pid" ]; then
    kill -HUP "$pid" || fail 'sshd'
    wait_for_sshd
elif [ "$systemd" ]; then
    systemctl try-restart ssh.service sshd.service >/dev/null 2>&1
fi

# What can wait until somebody is logged in; a template or a snapshot of this guest has it done at
# once (wait.sh).
do_late() {
    sleep 5 &
    echo $! >/run/qup-late
    wait $!
    rm -rf "$place"
    [ ! -f /var/lib/systemd/random-seed ] ||
        head -c 512 /dev/urandom >/var/lib/systemd/random-seed
    [ ! "$old_machine_id" ] || for folder in /var/log/journal /run/log/journal; do
        [ ! -d "$folder/$old_machine_id" ] || mv "$folder/$old_machine_id" "$folder/$machine_id"
    done
    # shellcheck disable=SC2086 # they are numbers
    [ ! "$late" ] || kill -KILL $late
    [ ! "$kept" ] || systemctl start systemd-networkd.service
    [ ! "$kept" ] || {
        rm -f /run/systemd/network/*.network.d/qup.conf
        rmdir /run/systemd/network/*.network.d
    }
    sync
    rm -f /run/qup-late
}

: >/run/qup-late
do_late >/dev/null 2>&1 </dev/null &
echo 'qup: done'
exit 0
