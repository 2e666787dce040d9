from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qup.model.units import (
    GIB,
    KIB,
    MIB,
    TIB,
    format_duration,
    format_size,
    parse_duration,
    parse_size,
    shorten,
)

VALUES = st.one_of(
    st.text(),
    st.integers(),
    st.floats(),
    st.booleans(),
    st.none(),
    st.lists(st.integers()),
    st.from_regex(r"[0-9]{1,20}(\.[0-9]+)? ?([KMGT]i?B?|ms|s|m|h)?", fullmatch=True),
)


def size(value: object) -> int:
    return parse_size(value, low=MIB, high=64 * TIB)


@pytest.mark.parametrize(
    ("value", "count"),
    [
        (512, 512 * MIB),
        ("512", 512 * MIB),
        ("512M", 512 * MIB),
        ("512 MiB", 512 * MIB),
        ("512MB", 512 * MIB),
        (" 2G ", 2 * GIB),
        ("1.5G", 1536 * MIB),
        ("0.1G", 103 * MIB),
        ("1T", TIB),
        ("1024K", MIB),
        ("1025K", 2 * MIB),
        ("1048577B", 2 * MIB),
    ],
)
def test_sizes(value: object, count: int) -> None:
    assert size(value) == count


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", "'' is not a size"),
        ("G", "'G' is not a size"),
        ("1e9", "'1e9' is not a size"),
        ("0x10", "'0x10' is not a size"),
        ("１G", "'１G' is not a size"),
        ("1,5G", "'1,5G' is not a size"),
        ("1g", "'1g' is not a size"),
        ("1P", "'1P' is not a size"),
        ("+1G", "'+1G' is not a size"),
        ("1G\n", r"'1G\n' is not a size"),
        ("x" * 10**6, f"'{'x' * 59}…' is not a size"),
        (0, "0 is too small: the least is 1M"),
        (-1, "-1 is too small"),
        ("0", "0 is too small"),
        ("65T", "65T is too large: the most is 64T"),
        ("999999999999999T", "999999999999999T is too large"),
        (2**63, "9223372036854775808 is too large"),
        (10**5000, "this number is too large"),
        (True, "a size is text such as"),
        (1.5, "a size is text such as"),
        (math.nan, "a size is text such as"),
        (None, "a size is text such as"),
        ([1], "a size is text such as"),
    ],
    ids=lambda value: shorten(value)[:20],
)
def test_what_is_no_size(value: object, message: str) -> None:
    with pytest.raises(ValueError, match="size|small|large") as caught:
        size(value)
    assert str(caught.value).startswith(message)


@given(VALUES)
def test_any_value_is_a_size_or_refused(value: object) -> None:
    try:
        count = size(value)
    except ValueError:
        return
    assert MIB <= count <= 64 * TIB
    assert count % MIB == 0


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0B"),
        (1023, "1023B"),
        (KIB, "1K"),
        (256 * MIB, "256M"),
        (1536 * MIB, "1.5G"),
        (1280 * MIB, "1280M"),
        (2 * GIB, "2G"),
        (TIB + GIB, "1025G"),
        (4 * TIB, "4T"),
        (123_456_789, "117.7M"),
        (MIB + 1, "1.0M"),
    ],
)
def test_sizes_for_people(count: int, text: str) -> None:
    assert format_size(count) == text.replace(".0", "")


@given(st.integers(1, 64 * 1024 * 1024))
def test_a_setting_is_printed_exactly(mib: int) -> None:
    assert size(format_size(mib * MIB)) == mib * MIB


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("90s", 90), ("5m", 300), ("1.5h", 5400), ("500ms", 0.5), ("7", 7), (7, 7), (0.5, 0.5)],
)
def test_durations(value: object, seconds: float) -> None:
    assert parse_duration(value) == seconds
    assert isinstance(parse_duration(value), float)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("soon", "'soon' is not a duration"),
        ("5 minutes", "'5 minutes' is not a duration"),
        ("-5s", "'-5s' is not a duration"),
        ("5m\n", r"'5m\n' is not a duration"),
        (0, "0 is out of range: more than 0 and at most 86400 s"),
        ("0s", "0s is out of range"),
        (-1, "-1 is out of range"),
        ("25h", "25h is out of range"),
        (math.nan, "nan is out of range"),
        (math.inf, "inf is out of range"),
        (10**400, "this number is out of range"),
        (True, "a duration is text"),
        (None, "a duration is text"),
    ],
    ids=lambda value: shorten(value)[:20],
)
def test_what_is_no_duration(value: object, message: str) -> None:
    with pytest.raises(ValueError, match="duration|range") as caught:
        parse_duration(value)
    assert str(caught.value).startswith(message)


@given(VALUES)
def test_any_value_is_a_duration_or_refused(value: object) -> None:
    try:
        seconds = parse_duration(value)
    except ValueError:
        return
    assert 0 < seconds <= 86400


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4231, "0.42 s"), (12.34, "12.3 s"), (125, "2 m 05 s")]
)
def test_durations_for_people(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.one_of(VALUES, st.text(min_size=100)))
def test_a_shortened_value_fits_into_a_message(value: object) -> None:
    shown = shorten(value)
    assert len(shown) <= 70
    assert shown.isprintable()


def test_a_shortened_value_can_be_recognized() -> None:
    assert shorten("a'b") == '"a\'b"'
    assert shorten("x" * 60) == f"'{'x' * 60}'"
    assert shorten("\x1b[31m") == r"'\x1b[31m'"
    assert shorten(10**5000) == "this number"
