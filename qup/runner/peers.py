"""Names for neighbours: machines on one network find each other in ``/etc/hosts``.

The lines are in a block with marks around it, which is replaced as a whole; the rest of the file
is the guest's. A guest gets its block once ssh answers, and those that run already get theirs
anew when somebody has come, gone or moved.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from qup.errors import HostError
from qup.files import write_atomic
from qup.guest import ssh
from qup.model.network import Seat
from qup.paths import MachineFolder, SshFolder
from qup.runner.context import Context
from qup.runner.observe import observe

if TYPE_CHECKING:
    from qup.model.config import MachineConfig

TIMEOUT = 60.0
"""Seconds for telling the guest that was started; in emulation, one that just booted is slow."""
NEIGHBOUR_TIMEOUT = 15.0
"""Seconds for telling a neighbour: one that hangs holds nobody up for longer."""

BEGIN = "# qup: the other machines of this project"
END = "# qup: end"

_WRITE = f"""\
set -e
file=/etc/hosts
new=$file.qup.$$  # a neighbour's start may do this at the same moment
trap 'rm -f "$new"' EXIT
touch "$file"
awk -v begin='{BEGIN}' -v end='{END}' '
    $0 == begin {{ inside = 1 }}
    !inside
    $0 == end {{ inside = 0 }}
' "$file" >"$new"
printf %s "$1" >>"$new"
chmod 644 "$new"
cmp -s "$file" "$new" || mv -f "$new" "$file"
"""
_AS_ROOT = """\
if [ "$(id -u)" = 0 ]; then exec sh -c "$1" sh "$2"
elif command -v sudo >/dev/null; then exec sudo -n sh -c "$1" sh "$2"
else exec doas -n sh -c "$1" sh "$2"; fi
"""


def share_names(ctx: Context, config: MachineConfig, *, login: bool = True) -> None:
    """Tell a guest that just became ready, or runs, who its neighbours are, and those that run
    who it is. What goes wrong is said and stops nothing: all else works without names.

    Args:
        ctx: the surroundings.
        config: the machine.
        login: whether qup can log in to it.
    """
    mine = {seat.segment for seat in config.seats if seat.machine == config.name}
    if not mine and not _known(ctx, config.name):
        return
    seats = _current(ctx, config)
    own = render_block(config.name, seats)
    if login and (own or _known(ctx, config.name)):
        _tell(ctx, config.name, own, TIMEOUT)
    neighbours = {seat.machine for seat in seats if seat.segment in mine} - {config.name}
    for name in sorted(neighbours):
        text = render_block(name, seats)
        if text != _known(ctx, name) and _listens(ctx.project.machine(name)):
            _tell(ctx, name, text, NEIGHBOUR_TIMEOUT)


def render_block(machine: str, seats: Sequence[Seat]) -> str:
    """The lines for a machine's ``/etc/hosts``: all that are on a network with it.

    Somebody met on several networks is called by the plain name on the first, and by the name
    with the network's behind it (``db.lab``) on each.
    """
    lines: list[str] = []
    named: set[str] = set()
    segments = dict.fromkeys(seat.segment for seat in seats if seat.machine == machine)
    for segment in segments:
        for seat in seats:
            if seat.segment == segment and seat.machine != machine:
                names = [f"{seat.machine}.{segment.rpartition('/')[2]}"]
                if seat.machine not in named:
                    names = [*dict.fromkeys((seat.hostname, seat.machine)), *names]
                named.add(seat.machine)
                lines.append(f"{seat.address.partition('/')[0]} {' '.join(names)}")
    return "\n".join([BEGIN, *lines, END, ""]) if lines else ""


def _current(ctx: Context, config: MachineConfig) -> list[Seat]:
    """The seats of the Qupfile, but of machines that run those that they were started with."""
    seats: list[Seat] = []
    for name in dict.fromkeys(seat.machine for seat in config.seats):
        wanted = [seat for seat in config.seats if seat.machine == name]
        folder = ctx.project.machine(name)
        alive = observe(folder, thorough=False).alive
        seats += _seats_of_plan(folder, wanted[0]) if alive else wanted
    return seats


def _seats_of_plan(folder: MachineFolder, seat: Seat) -> Iterator[Seat]:
    try:
        plan: Any = json.loads(folder.plan.read_bytes())
        cards = [card["plan"] for card in plan["nics"]]
        for card in cards:
            for address in card["address"]["addresses"] if card["segment"] else ():
                yield replace(seat, segment=card["segment"], address=address)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        yield seat


def _listens(folder: MachineFolder) -> bool:
    """Whether a neighbour runs, and qup can log in to it."""
    if not observe(folder, thorough=False).ready:
        return False
    try:
        return bool(json.loads(folder.plan.read_bytes())["seed_form"]["login"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return True


def _known(ctx: Context, machine: str) -> str | None:
    try:
        return ctx.project.machine(machine).hosts.read_text()
    except (OSError, ValueError):
        return None


def _tell(ctx: Context, machine: str, text: str, timeout: float) -> None:
    folder = ctx.project.machine(machine)
    words = ["sh", "-c", _AS_ROOT, "sh", _WRITE, text]
    try:
        done = ssh.run_in_guest(SshFolder(folder.ssh), machine, words, timeout=timeout)
        said = None if done.code == 0 else f"{done.outcome}: {done.stderr.strip()}"
    except HostError as exc:
        said = exc.message
    if said is None:
        write_atomic(folder.hosts, text, durable=False)
        return
    ctx.tell(
        machine,
        f"could not tell the guest the names of its neighbours: {said}",
        level="warning",
        hint="their addresses work; 'qup up' tries again",
    )
