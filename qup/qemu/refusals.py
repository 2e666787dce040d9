"""What QEMU's words mean when it refuses to start, as far as more can be said than they do."""

from __future__ import annotations

import re
from typing import NamedTuple


class Refusal(NamedTuple):
    """Words of QEMU's, as a regular expression, and what to do about them."""

    pattern: str
    hint: str


REFUSALS = (
    Refusal(
        r'Failed to get (?:shared )?"[a-z -]+" lock|Failed to lock byte',
        "another QEMU has the image open: an image that is written to serves one machine at a time",
    ),
    Refusal(
        r"aio=\w+ was specified, but is not supported|does not accept value 'io_uring'"
        r"|Invalid parameter 'io_uring'",
        'this QEMU was built without that way of input and output: io = "threads" always works',
    ),
    Refusal(
        r"io_uring.*(?:Operation not permitted|not implemented|Cannot allocate)"
        r"|[Ff]ailed to (?:init|initialize) linux io_uring",
        'the kernel gives QEMU no io_uring: io = "threads" always works',
    ),
    Refusal(
        r"O_DIRECT",
        "the file system can't pass by the page cache: leave cache out, or use"
        ' "writeback" or "writethrough"',
    ),
    Refusal(
        r"combined size of system firmware exceeds|pflash.*(?:size|multiple)",
        "the firmware and the machine's variables don't fit each other: remove vars.qcow2 from the"
        " machine's folder for new ones",
    ),
)


def explain_refusal(said: str) -> str | None:
    """What to do about it, if that is known.

    Args:
        said: what QEMU said on its standard error.
    """
    return next((item.hint for item in REFUSALS if re.search(item.pattern, said)), None)
