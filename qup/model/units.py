"""Sizes and times as people write them."""

from __future__ import annotations

import re

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
TIB = 1024 * GIB

_SIZE = re.compile(
    r"(?P<number>[0-9]{1,15}(?:\.[0-9]{1,6})?) ?(?P<unit>[KMGT](?:i?B)?|B)?", re.ASCII
)
_DURATION = re.compile(r"(?P<number>[0-9]{1,9}(?:\.[0-9]{1,3})?) ?(?P<unit>ms|s|m|h)?", re.ASCII)
_SIZES = {"B": 1, "K": KIB, "M": MIB, "G": GIB, "T": TIB}
_SECONDS = {"ms": "0.001", "s": "1", "m": "60", "h": "3600"}


_SHOWN = 60


def shorten(value: object) -> str:
    """A value for a message, quoted if it is text: one line, printable, not too long."""
    if isinstance(value, int) and value.bit_length() > 64:
        return "this number"
    text = value[: _SHOWN + 1] if isinstance(value, str) else value
    shown = repr(text)
    return shown if len(shown) <= _SHOWN + 2 else f"{shown[:_SHOWN]}…{shown[-1]}"


def parse_size(value: object, *, low: int, high: int) -> int:
    """Read a size: ``"512M"``, ``"2G"``, ``"1.5G"``, or a bare number of MiB.

    Args:
        value: text or a whole number; K, M, G and T are powers of 1024.
        low: the smallest size allowed, in bytes.
        high: the largest size allowed, in bytes.

    Returns:
        The size in bytes, a whole number of MiB rounded up.

    Raises:
        ValueError: it isn't a size, or is out of bounds; the message says which.
    """
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError('a size is text such as "512M" or "2G", or a whole number of MiB')
    if isinstance(value, int):
        count = value * MIB
    else:
        match = _SIZE.fullmatch(value.strip(" "))
        if match is None:
            raise ValueError(
                f'{shorten(value)} is not a size; write "512M", "2G" or a number of MiB'
            )
        unit = (match["unit"] or "M")[0]
        from decimal import Decimal  # only reading needs it, and status does not read

        exact = Decimal(match["number"]) * _SIZES[unit]
        count = -(-int(exact.to_integral_value(rounding="ROUND_CEILING")) // MIB) * MIB
    if count < low:
        raise ValueError(f"{_bare(value)} is too small: the least is {format_size(low)}")
    if count > high:
        raise ValueError(f"{_bare(value)} is too large: the most is {format_size(high)}")
    return count


def format_size(count: int) -> str:
    """``256M``, ``2G``, ``1.5G``: the shortest that says the same.

    A size that is no whole number of MiB is a file's: it is rounded to one digit.
    """
    for unit, name in ((TIB, "T"), (GIB, "G"), (MIB, "M"), (KIB, "K")):
        if count >= unit and (count * 10 % unit == 0 or count % MIB):
            number = f"{count / unit:.1f}".removesuffix(".0")
            return f"{number}{name}"
    return f"{count}B"


def parse_duration(value: object, *, high: float = 24 * 3600) -> float:
    """Read a duration: ``"90s"``, ``"5m"``, ``"1.5h"``, or a number of seconds.

    Returns:
        Seconds.

    Raises:
        ValueError: it isn't a duration, is zero, or is longer than ``high``.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError('a duration is text such as "90s" or "5m", or a number of seconds')
    if isinstance(value, str):
        match = _DURATION.fullmatch(value.strip(" "))
        if match is None:
            raise ValueError(f'{shorten(value)} is not a duration; write "90s", "5m" or "1h"')
        from decimal import Decimal  # as above

        seconds = float(Decimal(match["number"]) * Decimal(_SECONDS[match["unit"] or "s"]))
    else:
        seconds = value
    if not 0 < seconds <= high:  # also false for NaN
        raise ValueError(f"{_bare(value)} is out of range: more than 0 and at most {high:g} s")
    return float(seconds)


def _bare(value: str | float) -> str:
    """A value that was understood, as it was written but without quotes."""
    return value.strip(" ") if isinstance(value, str) else shorten(value)


def format_duration(seconds: float) -> str:
    """``0.42 s``, ``12.3 s``, ``2 m 05 s``."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} m {rest:02d} s"
