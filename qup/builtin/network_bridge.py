"""The network mode ``bridge``: the guest is one more computer on a bridge of the host's.

Root makes a tap on the bridge. Everybody else has QEMU's setuid helper make it, which obeys what
the administrator wrote into its ``bridge.conf``.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from qup.api import (
    Host,
    NetworkMode,
    NicPlan,
    NicRequest,
    Problem,
    Tap,
    find_bridge_helper,
    hookimpl,
    may_administrate,
)
from qup.builtin.network_tap import find_bridge_problems
from qup.builtin.taps import (
    find_common_problems,
    find_device_problems,
    make_command,
    plan_tap,
    user_name,
)

if TYPE_CHECKING:
    from qup.api import Settings

MAX_FILES = 16
"""Files of an ACL that are read: one could include itself."""
NAME_SIZE = 16
"""``IFNAMSIZ``; a longer name is no name to the helper."""


class BridgeNetwork:
    """A bridge of the host's."""

    name = "bridge"
    summary = "a bridge of this computer (br0); the guest is one more computer on its network"

    @property
    def options(self) -> type[Settings]:
        from qup.builtin.tap_options import BridgeOptions

        return BridgeOptions

    def problems(self, options: Any, host: Host) -> Sequence[Problem]:
        """Look whether the bridge is there, and whether a tap can be had on it."""
        found = list(find_common_problems(host, options.address))
        if host.system != "linux":
            return found
        found += find_device_problems()  # the helper opens it with this user's rights
        found += find_bridge_problems(options.bridge)
        if not may_administrate():
            found += find_helper_problems(options.bridge)
        return found

    def plan(self, options: Any, nic: NicRequest) -> NicPlan:
        tap = Tap(name_tap(nic.mac), bridge=options.bridge, helper=True)
        return plan_tap(tap, options, nic)


@hookimpl
def qup_network_modes() -> Iterable[NetworkMode]:
    return [BridgeNetwork()]


def name_tap(mac: str) -> str:
    """The name of a tap that qup makes: by the guest's MAC, so that no two are the same."""
    return "qup-" + mac.replace(":", "")[6:]


def find_helper_problems(bridge: str) -> Iterator[Problem]:
    """Why qemu-bridge-helper would not give this user a tap on the bridge."""
    helper = find_bridge_helper()
    if helper is None:
        yield Problem(
            "qemu-bridge-helper was not found, and without it only root may use a bridge",
            "it is in Debian's package qemu-system-common, Fedora's qemu-common",
        )
        return
    if reason := _find_weakness(helper):
        yield Problem(*reason)
    yield from find_acl_problems(acl_path(helper), bridge)


def _find_weakness(helper: Path) -> tuple[str, str] | None:
    """Why the helper can't become root."""
    if not _becomes_root(helper):
        return (
            f"{helper} is not setuid root, so it can't make a tap for you",
            make_command(f"chmod u+s {helper}"),
        )
    if os.statvfs(helper).f_flag & os.ST_NOSUID:
        return f"{helper} is on a file system mounted nosuid", "mount it without nosuid"
    with suppress(OSError):
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        if "NoNewPrivs:\t1" in status:
            return (
                "this process may gain no rights (no_new_privs), so the setuid helper has none",
                "run qup outside of the container or service that set it",
            )
    return None


def _becomes_root(helper: Path) -> bool:
    info = helper.stat()
    if info.st_mode & stat.S_ISUID and info.st_uid == 0:
        return True
    try:  # or a capability of the file's (capabilities(7))
        return bool(os.getxattr(helper, "security.capability"))
    except OSError:
        return False


def acl_path(helper: Path) -> Path:
    """The file that a helper obeys; it was compiled in."""
    prefix = "/usr/local/etc" if str(helper).startswith("/usr/local/") else "/etc"
    return Path(prefix, "qemu", "bridge.conf")


def find_acl_problems(path: Path, bridge: str) -> Iterator[Problem]:
    """Why the helper's configuration keeps this user from a bridge, with the line that mends it."""
    allow = make_command(f"sh -c 'mkdir -p {path.parent}; echo allow {bridge} >> {path}'")
    try:
        acl = read_acl(path)
    except FileNotFoundError:
        yield Problem(f"there is no {path}, and so qemu-bridge-helper refuses every bridge", allow)
        return
    except OSError as exc:
        yield Problem(
            f"{path} can't be read by you ({exc.strerror}), and so not by qemu-bridge-helper",
            make_command(f"chmod a+r {path}"),
        )
        return
    if acl.broken:
        yield Problem(
            f"qemu-bridge-helper does not understand {acl.broken[0]}, and so refuses every bridge",
            "a line is 'allow NAME', 'deny NAME' or 'include FILE', and has nothing behind it",
        )
        return
    denied = [rule for rule in acl.rules if not rule.allow and rule.covers(bridge)]
    if denied:
        yield Problem(
            f"{denied[0].file}:{denied[0].line} denies the bridge {bridge}, which beats every"
            " 'allow'",
            f"remove the line {denied[0].text!r}, and let {path} say 'allow {bridge}'",
        )
    elif not any(rule.allow and rule.covers(bridge) for rule in acl.rules):
        unread = "".join(f" ({item} can't be read by {user_name()})" for item in acl.unread)
        yield Problem(f"{path} has no line 'allow {bridge}'{unread}", allow)


class Rule(NamedTuple):
    """A line of an ACL."""

    allow: bool
    bridge: str
    file: Path
    line: int
    text: str

    def covers(self, bridge: str) -> bool:
        return self.bridge in (bridge, "all")


class Acl(NamedTuple):
    """What a ``bridge.conf`` and the files it includes say.

    Attributes:
        rules: all of them; their order doesn't matter.
        unread: included files that can't be read: they say nothing, to the helper as well.
        broken: a line of the file itself that the helper stumbles over, with its place.
    """

    rules: tuple[Rule, ...]
    unread: tuple[Path, ...]
    broken: tuple[str, ...]


def read_acl(path: Path) -> Acl:
    """Read an ACL as qemu-bridge-helper does (``parse_acl_file``), with this user's rights.

    Raises:
        OSError: the file itself can't be read.
    """
    rules: list[Rule] = []
    unread: list[Path] = []
    broken: list[str] = []
    files = [path]
    for file in files:  # grows by what is included
        try:
            text = file.read_text(encoding="utf-8", errors="replace")
        except OSError:
            if file == path:
                raise
            unread.append(file)
            continue
        for number, line in enumerate(text.splitlines(), 1):
            match line.split(maxsplit=1):
                case []:
                    continue
                case [first, *_] if first.startswith("#"):
                    continue
                case ["allow" | "deny" as verb, name] if len(name.strip()) < NAME_SIZE:
                    rules.append(Rule(verb == "allow", name.strip(), file, number, line.strip()))
                case ["include", other]:
                    if len(files) < MAX_FILES:
                        files.append(Path(other.strip()))
                case _:  # it doesn't read on
                    if file == path:
                        broken.append(f"{file}:{number} ({line.strip()[:60]!r})")
                    break
    return Acl(tuple(rules), tuple(unread), tuple(broken))
