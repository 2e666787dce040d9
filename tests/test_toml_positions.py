from __future__ import annotations

import contextlib
import datetime as dt
import math
import time
import tomllib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qup.qupfile.document import walk
from qup.toml_positions import MAX_DEPTH, KeyPath, NotToml, TooDeep, locate

EVERYTHING = """\
# a comment with "quotes" and [brackets]
top = 1 # = 2
"quoted \\u00e9 key" = 'literal # no comment'
a.b . "c.d" = true
lines = \"\"\"
one "two" \\"\"\" three\"\"\"\"\"
raw = '''
it's'' ''''
list = [ # comment ]
  1, [2.5, "x]"],
  { k = 'v}', "l".m = [] },
]
when = 1979-05-27 07:32:00.5
day = 1979-05-27
zoned = 1979-05-27T07:32:00Z
inline = { }
infinite = -inf
[table]
key = 0xff
[ table . "sub table" ]
key = 1_000
[[things]]
name = "one"
[things.deep]
er = 1
[[things]]
name = "two"
[[things.nested]]
x = 1
[[things.nested]]
x = 2
['']
'' = ''
"""


def check(text: str) -> None:
    """Every value of tomllib has a place, and the text there is that value."""
    data = tomllib.loads(text)
    places = locate(text).places
    text = text.removeprefix("\ufeff")
    lines = text.split("\n")
    for path, value in walk(data):
        place = places[path]
        span = place.value
        assert lines[span.line - 1][span.col - 1 :].startswith(
            text[span.start : span.end].split("\n")[0]
        )
        assert same(tomllib.loads(f"v = {text[span.start : span.end]}")["v"], value)
        if isinstance(path[-1], str):
            key = text[place.key.start : place.key.end]
            assert tomllib.loads(f"{key} = 1") == {path[-1]: 1}
    for path in paths_of(data):
        assert path in places
    assert all(reaches(data, path) for path in places)


def same(one: object, other: object) -> bool:
    both_nan = isinstance(one, float) and isinstance(other, float) and math.isnan(one)
    return (both_nan and math.isnan(other)) or one == other  # type: ignore[arg-type]


def paths_of(value: object, path: KeyPath = ()) -> list[KeyPath]:
    found = [path] if path else []
    if isinstance(value, dict):
        for key, item in value.items():
            found += paths_of(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            found += paths_of(item, (*path, index))
    return found


def reaches(value: Any, path: KeyPath) -> bool:
    for part in path:
        value = value[part]
    return True


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_everything_has_its_place(end: str, mark: str) -> None:
    text = EVERYTHING.replace("\n", end)
    if mark:
        places = locate(mark + text).places
        assert places == locate(text).places
    else:
        check(text)


def test_positions_are_those_that_an_editor_shows() -> None:
    places = locate('"é" = 1\n[machine]\n\tmemory = "2G"\n').places
    memory = places["machine", "memory"]
    assert (memory.key.line, memory.key.col) == (3, 2)
    assert (memory.value.line, memory.value.col) == (3, 11)
    assert (places["é",].value.line, places["é",].value.col) == (1, 7)


def test_a_header_is_a_better_place_than_a_mention() -> None:
    places = locate("[a.b]\nx = 1\n[a]\ny = 1\n").places
    assert places["a",].key.line == 3
    assert locate("[a.b]\nx = 1\n").places["a",].key.line == 1


def test_repeated_keys_are_found() -> None:
    found = locate("a = 1\n[b]\nc = 1\na = 2\nc = 2\n[b]\n").repeated
    assert [(path, first.key.line, second.key.line) for path, first, second in found] == [
        (("b", "c"), 3, 5),
        (("b",), 2, 6),
    ]


KEYS = st.one_of(
    st.from_regex(r"[A-Za-z0-9_-]{1,5}", fullmatch=True),
    st.text(max_size=5).filter(str.isprintable),
)
LEAVES = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.text(st.characters(exclude_categories=("Cs", "Cc"), include_characters="\n\t"), max_size=20),
    st.datetimes(),
    st.dates(),
    st.times(),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


def quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def dump(value: Any, draw: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str() if "'" not in value and "\n" not in value and draw(st.booleans()):
            return f"'{value}'"
        case str() if draw(st.booleans()):
            escaped = value.replace("\\", "\\\\").replace('"', '\\"')
            return f'"""\n{escaped}"""'
        case str():
            return quote(value)
        case dict():
            pairs = (f"{dump_key(key, draw)} = {dump(item, draw)}" for key, item in value.items())
            return f"{{ {', '.join(pairs)} }}"
        case list():
            gap = draw(st.sampled_from(["", " ", "\n", " # c ]\n\t", "\r\n"]))
            items = f",{gap}".join(dump(item, draw) for item in value)
            return f"[{gap}{items}{gap}]"
        case dt.datetime():
            return value.isoformat(draw(st.sampled_from("T ")))
        case dt.date() | dt.time():
            return value.isoformat()
    return repr(value)


def dump_key(key: str, draw: Any) -> str:
    bare = key and all(char.isascii() and (char.isalnum() or char in "_-") for char in key)
    return key if bare and draw(st.booleans()) else quote(key)


@st.composite
def documents(draw: Any) -> str:
    lines: list[str] = []
    for prefix in ("", *draw(st.lists(KEYS, max_size=3, unique=True))):
        if prefix:
            name = dump_key(f"t-{prefix}", draw)
            header = draw(st.sampled_from([f"[{name}]", f"[[{name}]]", f"[ {name} . x ]"]))
            lines += [header + draw(st.sampled_from(["", " # c", "\r"]))]
        for key, value in draw(st.dictionaries(KEYS, VALUES, max_size=3)).items():
            dotted = draw(st.sampled_from(["", "d . ", '"" .'])) if prefix else ""
            lines += [f"{dotted}{dump_key(key, draw)} = {dump(value, draw)}", "", "  # c = 1"]
    return "\n".join(lines)


@settings(deadline=None, max_examples=300)
@given(documents())
def test_every_value_that_tomllib_finds_is_found(text: str) -> None:
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    check(text)


PIECES = ["a", "b", ".", "=", "[", "]", "{", "}", ",", "\n", "'", '"', "1", "#", " ", "\\", "\r"]


@settings(deadline=None, max_examples=500)
@given(st.one_of(st.text(), st.lists(st.sampled_from(PIECES)).map("".join)))
def test_what_tomllib_accepts_is_accepted(text: str) -> None:
    try:
        data = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError):
        with contextlib.suppress(NotToml):
            locate(text)
        return
    if text.startswith("\ufeff"):
        return
    places = locate(text).places
    assert all(path in places for path in paths_of(data))


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * 100_000,
        "a = " + "{a = " * 100_000,
        "a." * 100_000 + "a = 1",
        "[" + "a." * 100_000 + "a]",
        "[a]\n" + "b." * (MAX_DEPTH - 1) + "b = {c = 1}",
        "a = " + "[" * 40 + "]" * 40,
    ],
    ids=lambda text: text[:8],
)
def test_deep_nesting_is_refused(text: str) -> None:
    with pytest.raises(TooDeep):
        locate(text)


@pytest.mark.parametrize(
    "text",
    ['a = "' + "\\" * 400_000, 'a = """' + '""\\"' * 100_000, "a" * 400_000, " " * 400_000 + "="],
    ids=lambda text: text[:8],
)
def test_time_grows_with_the_text_alone(text: str) -> None:
    started = time.monotonic()
    with contextlib.suppress(NotToml):
        locate(text)
    assert time.monotonic() - started < 5
