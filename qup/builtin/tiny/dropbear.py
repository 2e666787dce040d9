"""One defect of dropbear 2022.82 to 2025.86 that qup's connection sharing runs into.

When a command ends while another session on the same connection has been opened but has not
yet said what to run, the server closes the new one at once: its client sees exit code 255 and
no output. With four commands at a time over one OpenSSH ControlMaster, a quarter of them failed.
The cause is ``sesscheckclose`` in dropbear's ``svr-chansession.c``:

    return chansess->pid == 0 || chansess->exit.exitpid != -1;

A session that runs nothing yet (``pid == 0``) counts as one that may be closed. Upstream mended
it in pull request 326 ("Don't close channels when a PID hasn't started"), released in 2025.87;
Debian 12 has 2022.83. Here the left half of that line is made false in the machine code: three
bytes, and only if exactly this function is found exactly once. What is lost: a session that is
closed before it ran anything is freed when its connection ends, not before.
"""

from __future__ import annotations

import re

_SESSCHECKCLOSE_AMD64 = re.compile(
    rb"\x48\x8b\x47\x20"  # mov    0x20(%rdi),%rax        chansess = channel->typedata
    rb"\x83\x78\x30\xff"  # cmpl   $-1,0x30(%rax)         chansess->exit.exitpid
    rb"\x74\x16"  # je     1f
    rb"\xc7\x47\x58\x01\0\0\0"  # movl   $1,0x58(%rdi)          channel->flushing = 1
    rb"\xb8\x01\0\0\0"  # mov    $1,%eax
    rb"\xe9....\x0f\x1f\x44\0\0"  # jmp    return; padding
    rb"\x8b\x40\x08"  # 1: mov 0x8(%rax),%eax         chansess->pid
    rb"\x85\xc0"  # test   %eax,%eax
    rb"(\x0f\x94\xc0)"  # sete   %al                    pid == 0
    rb"\x0f\xb6\xc0",  # movzbl %al,%eax
    re.DOTALL,
)
_FALSE = b"\x31\xc0\x90"
"""``xor %eax,%eax; nop``: as long as the instruction it replaces."""

FIRST_AFFECTED, FIRST_MENDED = (2022, 82), (2025, 87)


def mend_sessions(program: bytes) -> bytes | None:
    """The server with the defect mended, or None if the function is not there as we know it."""
    found = list(_SESSCHECKCLOSE_AMD64.finditer(program))
    if len(found) != 1:
        return None
    start, end = found[0].span(1)
    return program[:start] + _FALSE + program[end:]


def is_affected(version: str) -> bool:
    """Whether a package version (``2022.83-1+deb12u3``) has the defect."""
    numbers = re.match(r"(?:\d+:)?(\d+)\.(\d+)", version)
    return numbers is not None and (
        FIRST_AFFECTED <= (int(numbers[1]), int(numbers[2])) < FIRST_MENDED
    )
