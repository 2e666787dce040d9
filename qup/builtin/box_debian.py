"""The box source ``debian``: real Debian machines, made on the spot from the host's apt sources."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path

from qup.api import BoxError, BoxSource, BoxSpec, hookimpl

_REFERENCE = re.compile(r"^debian/([a-z0-9.]+)$")


class Debian:
    """Boxes ``debian/12`` and so on; how they are made is in :mod:`qup.builtin.debian.recipe`."""

    name = "debian"
    summary = "Debian, made here with mmdebstrap from the system's own apt sources"

    def names(self) -> Sequence[str]:
        from qup.builtin.debian import recipe

        return [f"debian/{number}" for number in recipe.SUITES]

    def resolve(self, reference: str, arch: str, project: Path) -> BoxSpec | None:  # noqa: ARG002
        match = _REFERENCE.match(reference)
        if match is None:
            return None
        from qup.builtin.debian import recipe

        if match[1] not in recipe.SUITES:
            raise BoxError(
                f"there is no box {reference!r}", hint=f"there are: {', '.join(self.names())}"
            )
        if arch not in recipe.ARCHES:
            raise BoxError(
                f"box {reference} can't be made for {arch}",
                hint=f"it exists for {', '.join(recipe.ARCHES)}",
            )
        cmdline = recipe.CMDLINE.format(console=recipe.ARCHES[arch].console)
        return BoxSpec(
            name=reference,
            source=self.name,
            arch=arch,
            version=recipe.RECIPE,
            key=f"{match[1]}-{arch}-{_recipe_digest()}",
            user=recipe.USER,
            cmdline=cmdline,
        )

    def fetch(
        self,
        spec: BoxSpec,
        project: Path,  # noqa: ARG002  it is made from the host alone
        into: Path,
        report: Callable[[str], None],
    ) -> Mapping[str, object]:
        from qup.builtin.debian import recipe
        from qup.builtin.tiny.errors import RecipeError

        suite = recipe.SUITES[spec.name.partition("/")[2]]
        try:
            return asdict(recipe.build(into, suite=suite, arch=spec.arch, report=report))
        except RecipeError as exc:
            raise BoxError(f"box {spec.name} can't be made: {exc}", hint=exc.hint) from exc


@cache
def _recipe_digest() -> str:
    from qup.builtin.debian.recipe import digest_recipe

    return digest_recipe()


@hookimpl
def qup_box_sources() -> Iterable[BoxSource]:
    return [Debian()]
