# Runs as root in a guest that is about to be saved as a template: leaves a process behind that
# waits at the second serial port for what will make a restored guest a machine of its own.
#
# Before it, qup sets: port, refresh (a program, in base64), and hold, if nobody shall get in any
# more until it is a machine.
set -eu
umask 077

fail() {
    echo "qup: failed: $*"
    exit 1
}

# The first boot has to be over: what it still does would be done again by every restored guest.
wait_for_first_boot() {
    if [ -d /run/cloud-init ] && [ ! -e /run/cloud-init/disabled ]; then
        until [ -e /run/cloud-init/result.json ]; do sleep 0.2; done
        # Its last unit has yet to end. A unit that failed is none of our business.
        [ ! -d /run/systemd/system ] || systemctl is-system-running --wait >/dev/null 2>&1 || :
    elif [ -x /usr/lib/qup/pid1 ]; then
        until grep -qs '^status=[di]' /run/qup/result; do usleep 20000; done
    fi
}

# Each card shall have its lease: a restored guest's card gets the one after it. A card that
# has no address after five seconds shall have none.
wait_for_leases() {
    local card tries=0
    for card in /sys/class/net/*; do
        card=${card##*/}
        [ "$card" != lo ] || continue
        until ip -4 addr show dev "$card" 2>/dev/null | grep -q inet; do
            tries=$((tries + 1))
            [ $tries -lt 50 ] || break
            sleep 0.1
        done
    done
}

list_cards() { # -> the address and the name of each
    local path address
    for path in /sys/class/net/*; do
        read -r address <"$path/address" 2>/dev/null || continue
        printf '%s %s ' "$address" "${path##*/}"
    done
}

# Whoever is on a card's network, and be it QEMU alone, shall know at once when its address is
# another one.
have_changes_told() { # -> settings and what they were
    local notify before
    for notify in /proc/sys/net/ipv4/conf/*/arp_notify; do
        case $notify in */all/* | */default/* | */lo/*) continue ;; esac
        read -r before <"$notify"
        printf '%s %s ' "$notify" "$before"
        echo 1 >"$notify"
    done
}

list_lists() { # -> those of keys
    local file
    for file in /root/.ssh/authorized_keys /home/*/.ssh/authorized_keys; do
        [ ! -f "$file" ] || printf '%s ' "$file"
    done
}

# What become.sh has put off in a guest that is a restored one itself: it is done now.
end_put_off() {
    local pid=
    while [ -e /run/qup-late ]; do
        [ "$pid" ] || { read -r pid </run/qup-late && kill "$pid"; } || :
        sleep 0.1
    done 2>/dev/null
    [ -x /usr/lib/qup/pid1 ] || return 0
    [ -p /run/qup/late.now ] || mkfifo -m 600 /run/qup/late.now
    [ ! -e /run/qup/late ] || echo 1<>/run/qup/late.now
    while [ -e /run/qup/late ]; do usleep 20000; done
}

# Box tiny: sshd is started anew and waits for its host key, which is the first thing that it
# reads, from a pipe. A restored guest writes that, and has no program to start. When sshd
# listens it writes its process id, into another pipe. A box of before knows nothing of that.
hold_sshd() {
    local run=/run/qup pid
    [ "$hold" ] && grep -qs waiting.key /usr/lib/qup/pid1 || return 0
    read -r pid <$run/pid.sshd || fail 'sshd has no process id'
    mkfifo -m 600 $run/waiting.key $run/waiting.pid
    echo yes >$run/waiting
    : >$run/restart
    kill "$pid"
    until is_held; do usleep 20000; done
    rm $run/restart
}

# Whether there is an sshd that waits for somebody to open a pipe.
is_held() {
    local process name at
    for process in /proc/[0-9]*; do
        name= at=
        read -r name <"$process/comm" && [ "$name" = dropbear ] || continue
        read -r at <"$process/wchan" || : # it has no end of line
        [ "$at" != wait_for_partner ] || return 0
    done 2>/dev/null
    return 1
}

end_put_off
notifiers=
[ ! "$hold" ] || [ ! -x /usr/lib/qup/pid1 ] || notifiers=$(have_changes_told)
# A place that programs may be started from.
for folder in /dev/shm /run /tmp /var/tmp /root; do
    place=$folder/.qup-template
    mkdir "$place" 2>/dev/null || continue
    {
        if [ -x /usr/lib/qup/pid1 ]; then
            printf "cards='%s' lists='%s' notifiers='%s'\\n%s" \
                "$(list_cards)" "$(list_lists)" "$notifiers" "$become_tiny"
        else
            printf %s "$become"
        fi
    } >"$place/body"
    echo "$refresh" | base64 -d >"$place/refresh"
    chmod 700 "$place/refresh"
    head -c 72 /dev/zero | "$place/refresh" 2>/dev/null && break
    rm -rf "$place"
    place=
done
[ "$place" ] || fail 'no place to start a program from'
[ -c "$port" ] || fail "there is no $port"
stty -F "$port" raw -echo clocal || fail "$port can't be used"
# It stays open from here on: what arrives at a port that nobody has open is lost.
exec 4<>"$port"
wait_for_first_boot
wait_for_leases
# It is of the template; what a restored guest has in its place is another one.
[ ! -x /usr/lib/qup/pid1 ] || umount /run/qup/seed 2>/dev/null || :
hold_sshd
sync
# Where somebody watches over the cards, who must not see one change (become.sh), refresh leaves
# them alone.
cards=
[ ! -x /usr/lib/qup/pid1 ] || cards=cards
# What is sourced removes the folder; without it, the guest stays as it is.
export place cards
setsid sh -c 'cd "$place" && ./refresh $cards 3>become && . ./become' <&4 >&4 2>&1 4>&- &
echo 'qup: waiting'
