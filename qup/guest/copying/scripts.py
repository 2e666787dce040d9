"""What a guest does for a copy: scripts for any POSIX shell, and tar, with busybox's in mind.

Nothing but words of ours and numbers comes back: names may hold any byte but zero.
"""

from __future__ import annotations

_COMMON = """\
LC_ALL=C; export LC_ALL
fix() {  # a path as the shell of the user's home would have it, and no option
    case $1 in
    '~' | '') path=. ;;
    '~/'*) path=./${1#'~/'} ;;
    /*) path=$1 ;;
    *) path=./$1 ;;
    esac
}
stamp() { touch -d "@$1" "$2" 2>/dev/null || TZ=UTC0 touch -t "$3" "$2"; }
"""

LOOK = (
    _COMMON
    + """\
fix "$1"
if [ -d "$path" ]; then echo folder
elif [ -f "$path" ]; then echo file
elif [ -e "$path" ]; then echo other
else echo missing; exit 0; fi
stat -L -c '%s %Y %a %b %B' "$path" 2>/dev/null || stat -L -f '%z %m %Lp %b 512' "$path"
[ -r "$path" ] && echo readable || echo secret
case $(tar --version 2>/dev/null) in *GNU*) echo holes ;; esac
"""
)
"""Prints the kind, then size, time, mode, blocks and their size, and what can be done."""

EXPAND = (
    _COMMON
    + """\
fix "$1"; IFS=
for name in $path; do
    if [ -e "$name" ] || [ -L "$name" ]; then printf '%s\\0' "$name"; fi
done
"""
)
"""Prints what a pattern matches, each with a zero byte behind it."""

READ_FILE = (
    _COMMON
    + """\
fix "$1"
[ "$2" = 0 ] && exec cat "$path"
exec tail -c "+$(($2 + 1))" "$path"
"""
)

READ_TREE = (
    _COMMON
    + """\
fix "$1"; flags=$2
cd "$path" || exit
exec tar -c $flags -f - .
"""
)

DIGEST = (
    _COMMON
    + """\
fix "$1"
head -c "$2" "$path" | sha256sum
"""
)

PREPARE = (
    _COMMON
    + """\
fix "$1"; name=$2 kind=$3 several=$4 draft=$5 parent=$6 own=$7
if [ -d "$path" ]; then echo into; folder=$path target=$path/$name
elif [ "$several" = 1 ]; then echo no-folder; exit 0
else echo as; fix "$parent"; folder=$path target=$path/$own; fi
if [ ! -d "$folder" ]; then echo no-parent; exit 0; fi
if [ ! -w "$folder" ] || [ ! -x "$folder" ]; then echo not-writable; fi
if [ -d "$target" ]; then echo is-folder
elif [ -e "$target" ] || [ -L "$target" ]; then echo is-file; fi
if [ -n "$draft" ] && [ -f "$folder/$draft" ]; then echo "part $(($(wc -c <"$folder/$draft")))"; fi
if [ "$kind" = holey ] && dd if=/dev/null of=/dev/null iflag=fullblock 2>/dev/null &&
    command -v truncate >/dev/null; then echo holes; fi
"""
)

_PLACE_FILE = """\
place() {  # draft, target, mode, time, time in words, owner
    [ ! -L "$2" ] || set -- "$1" "$(readlink -f "$2"; echo .)" "$3" "$4" "$5" "$6"
    target=${2%
.}
    [ -z "$3" ] || chmod "$3" "$1" || return
    [ -z "$4" ] || stamp "$4" "$1" "$5" || return
    [ -z "$6" ] || chown "$6" "$1" || return
    mv -f "$1" "$target"
}
"""

WRITE_FILE = (
    _COMMON
    + _PLACE_FILE
    + """\
fix "$1/"; draft=$path$2 target=$path$3 start=$4 size=$5 kept=$6
mode=$7 time=$8 words=$9 owner=${10}
give_up() { [ "$kept" = 1 ] || rm -f "$draft"; exit "$1"; }
trap 'give_up 1' HUP INT TERM PIPE
if [ "$kept" = 1 ]; then
    for old in "${draft%-*}"-*.part; do [ "$old" = "$draft" ] || rm -f "$old"; done
fi
[ -z "$mode" ] || umask 077
if [ "$start" = 0 ]; then : >"$draft" || exit; fi
cat >>"$draft" || { rm -f "$draft"; exit 1; }  # no space: what is there is of no use
[ -n "$size" ] || exit 0
[ "$(($(wc -c <"$draft")))" = "$size" ] || give_up 3
place "$draft" "$target" "$mode" "$time" "$words" "$owner" || give_up $?
"""
)
"""With no size it stops before the end, which PLACE_FILE is."""

WRITE_HOLES = (
    _COMMON
    + _PLACE_FILE
    + """\
fix "$1/"; draft=$path$2 target=$path$3 size=$4 mode=$5 time=$6 words=$7 owner=$8
shift 8
give_up() { rm -f "$draft"; exit "$1"; }
trap 'give_up 1' HUP INT TERM PIPE
umask 077
: >"$draft" || exit
while [ $# -gt 0 ]; do
    dd "of=$draft" bs=4096 "seek=$1" "count=$2" conv=notrunc iflag=fullblock 2>"$draft.said" ||
        { cat "$draft.said" >&2; rm -f "$draft.said"; give_up 1; }
    shift 2
done
rm -f "$draft.said"
truncate -s "$size" "$draft" || give_up $?
[ "$(cat | wc -c)" -eq 0 ] || give_up 3
place "$draft" "$target" "$mode" "$time" "$words" "$owner" || give_up $?
"""
)

PLACE_FILE = (
    _COMMON
    + _PLACE_FILE
    + """\
fix "$1/"
place "$path$2" "$path$3" "" "" "" "$4"
"""
)

WRITE_TREE = (
    _COMMON
    + """\
fix "$1/"; draft=$path$2
give_up() { chmod -R u+w "$draft" 2>/dev/null; rm -rf "$draft"; exit "$1"; }
trap 'give_up 1' HUP INT TERM PIPE
mkdir -m 700 "$draft" || exit
tar -x -p -o -f - -C "$draft" || give_up $?
"""
)

FINISH_TREE = (
    _COMMON
    + """\
fix "$1/"; draft=$path$2 target=$path$3 owner=$4 mode=$5 time=$6 words=$7
move() {  # folders can be moved only by who may write to them
    if [ -L "$1" ] || [ -w "$1" ]; then mv -f "$1" "$2"
    else chmod u+w "$1" && mv -f "$1" "$2" && chmod u-w "$2"; fi
}
merge() (
    from=$1 into=$2 bad=0
    set --
    for entry in "$from"/* "$from"/.[!.]* "$from"/..?*; do
        [ -e "$entry" ] || [ -L "$entry" ] || continue
        goal=$into/${entry##*/}
        here=0 there=0
        [ ! -L "$entry" ] && [ -d "$entry" ] && here=1
        [ ! -L "$goal" ] && [ -d "$goal" ] && there=1
        if [ $here$there = 11 ]; then merge "$entry" "$goal" || bad=1
        elif [ $there = 1 ] || { [ $here = 1 ] && { [ -e "$goal" ] || [ -L "$goal" ]; }; }; then
            echo "$goal"; bad=1
        elif [ $here = 1 ]; then move "$entry" "$goal" || bad=1
        else
            set -- "$@" "$entry"
            [ $# -lt 200 ] || { mv -f "$@" "$into/" || bad=1; set --; }
        fi
    done
    [ $# = 0 ] || mv -f "$@" "$into/" || bad=1
    return $bad
)
if [ -n "$owner" ]; then chown -R "$owner" "$draft" || exit; fi
if [ ! -d "$target" ]; then
    stamp "$time" "$draft" "$words" && chmod "$mode" "$draft" && move "$draft" "$target"
    exit
fi
merge "$draft" "$target"
code=$?
chmod -R u+w "$draft"; rm -rf "$draft"
exit $code
"""
)
"""Prints what can't be put into its place."""

DISCARD = (
    _COMMON
    + """\
fix "$1/"
[ ! -d "$path$2" ] || chmod -R u+w "$path$2"
rm -rf "$path$2"
"""
)
