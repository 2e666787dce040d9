# Runs as root in a box tiny that was just restored from a template, and makes it a machine of its
# own: become.sh for the guest that shall be there first.
#
# A restored guest begins without any translated code, so in emulation each kind of thing that it
# does for the first time costs milliseconds, most of them in its kernel: starting a program,
# cutting a file, making a pipe, looking into a folder. So this does few kinds of things, and puts
# off what nobody waits for.
#
# What it is told: see become.sh. Before the guest was saved, wait.sh has set cards (pairs of an
# address and a name), lists (of keys that let somebody in) and notifiers (pairs of a setting and
# what it was).
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C
umask 022
place=$PWD run=/run/qup key=/etc/dropbear/host_ed25519
newline='
'
cd /

fail() {
    echo "qup: failed: $*"
    exit 1
}

# Replaces a word in a file that has it. If the new one is not longer, blanks or a given filler take
# up the difference, and the file is written over: one that is cut first is written to the disk at
# once.
swap() { # file old new [filler]
    local file=$1 old=$2 new=$3 filler=${4:- } line text= found=
    while [ ${#new} -lt ${#old} ]; do new=$new$filler; done
    while IFS= read -r line || [ "$line" ]; do
        while :; do
            case $line in
            *"$old"*) text=$text${line%%"$old"*}$new line=${line#*"$old"} found=yes ;;
            *) break ;;
            esac
        done
        text=$text$line$newline
    done <"$file"
    [ "$found" ] || return 1
    if [ ${#new} = ${#old} ]; then printf %s "$text" 1<>"$file"; else printf %s "$text" >"$file"; fi
}

find_card() { # mac -> card
    case " $cards" in *" $1 "*) ;; *) return 1 ;; esac
    card=${cards#*"$1 "}
    card=${card%% *}
}

# The DHCP client is started anew at once, as long as the file is there; the address stays.
restart_dhcp() {
    local file pid
    : >$run/restart
    for file in $run/pid.dhcp-*; do
        read -r pid <"$file" && kill "$pid"
    done
}

# An sshd of before, that serves nobody any more.
restart_sshd() {
    local tries=0 pid inode= old=
    find_listener
    old=$inode
    : >$run/restart
    read -r pid <$run/pid.sshd && kill "$pid"
    until find_listener && [ "$inode" != "$old" ]; do
        [ $((tries += 1)) -lt 300 ] || fail 'sshd does not start anew'
        usleep 20000
    done
}

# The socket that sshd listens at: a restart shows by another one.
find_listener() {
    local line here there state queues timer retries uid timeout number rest
    inode=
    while read -r line here there state queues timer retries uid timeout number rest; do
        case $here-$state in *:0016-0A) inode=$number ;; esac
    done </proc/net/tcp
    [ "$inode" ]
}

# Who makes a template or a snapshot of this guest has it done at once, by the pipe (wait.sh).
do_late() {
    local tries=0
    read -r -t 5 tries <>$run/late.now
    rm -rf "$place"
    (umask 077 && printf '%s\n' "$host_key" >$key.seed)
    set -- $notifiers
    while [ $# -gt 0 ]; do
        echo "$2" >"$1"
        shift 2
    done
    # On QEMU's own network nobody has to know at once who the client is now.
    if [ ! "$moved" ]; then
        rm -f $run/network
        restart_dhcp
        while [ $((tries += 1)) -lt 100 ] && [ ! -e $run/network ]; do usleep 20000; done
    fi
    sync
    rm -f $run/restart $run/late
}

# --- names --------------------------------------------------------------------------------

echo "$hostname" >/proc/sys/kernel/hostname || fail 'the host name'
if [ "$hostname" != "$old_hostname" ]; then
    swap /etc/hostname "$old_hostname" "$hostname" "$newline" || echo "$hostname" >/etc/hostname
    swap /etc/hosts "$old_hostname" "$hostname"
fi
echo "$machine_id" 1<>/etc/machine-id || fail 'the machine id'
if [ "$instance" != "$old_instance" ]; then
    swap /var/lib/qup/instance-id "$old_instance" "$instance"
    swap /var/lib/qup/result "$old_instance" "$instance"
    swap $run/result "$old_instance" "$instance"
fi

# --- keys ---------------------------------------------------------------------------------

# shellcheck disable=SC2059 # it is all octal; of the same length as before
printf "$dropbear_key" 1<>$key || fail "the host's key"

let_in=
for file in $lists; do
    swap "$file" "$old_public_key $old_comment" "$public_key $comment" ||
        swap "$file" "$old_public_key" "$public_key" || continue
    let_in=yes
done
[ "$let_in" ] || fail 'nobody has the key of the template'

# --- network cards --------------------------------------------------------------------------

# The kernel makes a card's own IPv6 address of its MAC address, once: its neighbours would have the
# same one.
renew_own_address() { # card
    local switch=/proc/sys/net/ipv6/conf/$1/addr_gen_mode mode=
    [ ! -f "$switch" ] || read -r mode <"$switch"
    [ "$mode" = 0 ] || return 0
    ip -6 addr flush dev "$1" scope link
    echo 1 >"$switch"
    echo 0 >"$switch"
}

# Routes stay as long as the card has an address: the new one moves up when the old one goes.
# shellcheck disable=SC2086 # a list
set -- $addresses
while [ $# -gt 0 ]; do
    if find_card "$1"; then
        echo 1 >"/proc/sys/net/ipv4/conf/$card/promote_secondaries"
        ip addr add "$3" dev "$card" && ip addr del "$2" dev "$card" || fail "address $3"
    fi
    shift 3
done

# shellcheck disable=SC2086 # a list
set -- $macs
while [ $# -gt 0 ]; do
    if find_card "$1"; then
        ip link set "$card" address "$2" 2>/dev/null || {
            ip link set "$card" down
            ip link set "$card" address "$2" || fail "the address of $card"
            ip link set "$card" up
        }
        case " $met" in *" $1"*) renew_own_address "$card" ;; esac
    fi
    shift 2
done

# --- services -------------------------------------------------------------------------------

# DHCP comes first where its server is one that others have, too.
[ ! "$moved" ] || restart_dhcp
waiting=
[ ! -f $run/waiting ] || read -r waiting <$run/waiting
if [ "$waiting" ]; then
    : >$run/waiting
    # shellcheck disable=SC2059 # as above
    printf "$dropbear_key" >$run/waiting.key
    read -r pid <$run/waiting.pid || fail 'sshd does not start'
    echo "$pid" >$run/pid.sshd
else
    restart_sshd
    [ "$moved" ] || rm -f $run/restart
fi
: >$run/late
do_late >/dev/null 2>&1 </dev/null &
echo 'qup: done'
exit 0
