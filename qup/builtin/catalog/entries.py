"""Reading catalogs: what is in them is checked before anything is done with it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from qup.api import BoxError, config_root

FILE = "boxes.toml"
"""A catalog's name, in the project and in the user's configuration."""
SCHEMA = 1
SIZE = 1 << 20
"""Bytes: the most that a catalog may have."""

ARCHES = {"x86_64": "amd64", "aarch64": "arm64"}
"""Processors in the kernel's words and in Debian's."""

NAME = re.compile(r"[a-z0-9][a-z0-9._-]*(/[a-z0-9][a-z0-9._-]*)?")
PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+")
UNIT = re.compile(r"[A-Za-z0-9][A-Za-z0-9:_.@-]*\.[a-z]+")
USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
KEYS = {"title", "user", "url", "mirrors", "sums", "sha256", "format", "arches", "note", "recipe",
        "version"}  # fmt: skip
LISTS = ("arches", "recipe", "mirrors", "sums")


@dataclass(frozen=True)
class Recipe:
    """How a box is made here, instead of being fetched.

    Attributes:
        suite: the release's code name.
        packages: what is installed besides what every box has.
        disabled: units of these that don't start by themselves.
    """

    suite: str
    packages: tuple[str, ...] = ()
    disabled: tuple[str, ...] = ()


@dataclass(frozen=True)
class Entry:
    """A box of a catalog.

    Attributes:
        name: what ``box`` in a Qupfile says.
        origin: the catalog's file, or ``qup``.
        title: one line about it.
        user: the account that gets the key; empty for the one that the image means, or ``qup``.
        url: where the image is, with ``{arch}`` and ``{deb}`` for the processor.
        mirrors: where else the same file is, in the order in which they are asked.
        sums: where its digest is published; the places are asked in their order.
        digest: ``sha256:<hex>``; then ``sums`` isn't needed.
        format: what the image has to be.
        arches: the processors that it exists for.
        note: what one should know before.
        recipe: how it is made, if it isn't fetched.
    """

    name: str
    origin: str
    title: str = ""
    user: str = ""
    url: str = ""
    mirrors: tuple[str, ...] = ()
    sums: tuple[str, ...] = ()
    digest: str | None = None
    format: str | None = None
    arches: tuple[str, ...] = tuple(ARCHES)
    note: str = ""
    recipe: Recipe | None = None

    def address(self, text: str, arch: str) -> str:
        """An address for a processor."""
        return text.replace("{arch}", arch).replace("{deb}", ARCHES.get(arch, arch))


def find_entry(name: str, project: Path) -> Entry | None:
    """A box by its name: the project's, else the user's, else qup's.

    Raises:
        BoxError: a catalog is damaged.
    """
    return next((entry for entry in read_entries(project) if entry.name == name), None)


def read_entries(project: Path | None) -> Iterator[Entry]:
    """All entries, those first that come before others of the same name.

    Raises:
        BoxError: a catalog is damaged.
    """
    places = [project / FILE] if project is not None else []
    for path in (*places, config_root() / FILE):
        try:
            with path.open("rb") as file:
                data = file.read(SIZE + 1)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as exc:
            raise BoxError(f"the catalog {path} can't be read: {exc.strerror}") from exc
        if len(data) > SIZE:
            raise BoxError(f"the catalog {path} is too large")
        yield from parse_catalog(data, str(path))
    own = resources.files("qup.builtin.catalog") / FILE
    yield from parse_catalog(own.read_bytes(), "qup")


def parse_catalog(data: bytes, origin: str) -> list[Entry]:
    """Read a catalog.

    Raises:
        BoxError: it is no TOML, or an entry has something unknown or wrong.
    """
    try:
        tables: dict[str, Any] = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as exc:
        raise BoxError(f"the catalog {origin} is damaged: {exc}") from exc
    schema = tables.pop("schema", SCHEMA)
    if schema != SCHEMA:
        raise BoxError(
            f"the catalog {origin} has schema {schema}, and this qup knows {SCHEMA}",
            hint="use a newer qup, or an older catalog",
        )
    return [_read_entry(name, table, origin) for name, table in tables.items()]


def _read_entry(name: str, table: Any, origin: str) -> Entry:
    def wrong(reason: str) -> BoxError:
        return BoxError(
            f"the catalog {origin}, box {name!r}: {reason}", hint="docs: how-to/boxes.md"
        )

    if not NAME.fullmatch(name):
        raise wrong("a name has lower case letters, digits and one '/', like 'debian/12'")
    if not isinstance(table, dict):
        raise wrong("it is not a table")
    if unknown := sorted(set(table) - KEYS):
        raise wrong(f"{', '.join(unknown)} is not known; there are {', '.join(sorted(KEYS))}")
    texts = {key: value for key, value in table.items() if key not in LISTS}
    if odd := [key for key, value in texts.items() if not isinstance(value, str)]:
        raise wrong(f"{', '.join(odd)} has to be text")
    arches = table.get("arches", list(ARCHES))
    if not isinstance(arches, list) or not all(arch in ARCHES for arch in arches):
        raise wrong(f"'arches' is a list of {', '.join(ARCHES)}")
    if not USER.fullmatch(table.get("user", "qup")):
        raise wrong(f"{table['user']!r} is no user's name")
    mirrors = _read_addresses(table.get("mirrors", []), "'mirrors' is a list of addresses", wrong)
    sums = table.get("sums", [])
    sums = [sums] if isinstance(sums, str) else sums
    places = _read_addresses(sums, "'sums' is an address, or a list of addresses", wrong)
    recipe = _read_recipe(table.get("recipe"), wrong)
    if (recipe is None) == ("url" not in table):
        raise wrong("it needs either 'url' or 'recipe'")
    if recipe is None and not places and "sha256" not in table:
        raise wrong("it needs 'sha256', or 'sums': where its digest is published")
    digest = texts.pop("sha256", None)
    texts.pop("version", None)
    return Entry(
        name, origin, digest=digest and f"sha256:{digest.lower()}", arches=tuple(arches),
        mirrors=mirrors, sums=places, recipe=recipe, **texts,
    )  # fmt: skip


def _read_addresses(value: Any, reason: str, wrong: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(url, str) for url in value):
        raise wrong(reason)
    return tuple(value)


def _read_recipe(table: Any, wrong: Any) -> Recipe | None:
    if table is None:
        return None
    if not isinstance(table, Mapping) or set(table) - {"suite", "packages", "disabled"}:
        raise wrong("'recipe' has 'suite', 'packages' and 'disabled'")
    suite, packages = table.get("suite"), table.get("packages", [])
    if not isinstance(suite, str) or not re.fullmatch(r"[a-z]+", suite):
        raise wrong("'recipe.suite' is the code name of a release, such as bookworm")
    if not isinstance(packages, list) or not all(
        isinstance(name, str) and PACKAGE.fullmatch(name) for name in packages
    ):
        raise wrong("'recipe.packages' is a list of names of packages")
    disabled = table.get("disabled", [])
    if not isinstance(disabled, list) or not all(
        isinstance(name, str) and UNIT.fullmatch(name) for name in disabled
    ):
        raise wrong("'recipe.disabled' is a list of units of systemd, such as docker.service")
    return Recipe(suite, tuple(packages), tuple(disabled))
