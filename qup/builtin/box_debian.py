"""The box source ``debian``: real Debian machines, made on the spot from the host's apt sources."""

from __future__ import annotations

import hashlib
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
        return describe_box(reference, self.name, arch, recipe.SUITES[match[1]])

    def fetch(
        self,
        spec: BoxSpec,
        project: Path,  # noqa: ARG002  it is made from the host alone
        into: Path,
        report: Callable[[str], None],
    ) -> Mapping[str, object]:
        from qup.builtin.debian import recipe

        return fetch_debian(spec, recipe.SUITES[spec.name.partition("/")[2]], into, report)


def describe_box(
    name: str, source: str, arch: str, suite: str, packages: Sequence[str] = (),
    disabled: Sequence[str] = (),
) -> BoxSpec:  # fmt: skip
    """A Debian that can be made here.

    Args:
        name: what it is called.
        source: the box source that has it.
        arch: QEMU's word for the processor.
        suite: the release's code name.
        packages: what else is installed.
        disabled: units of these that don't start by themselves.

    Raises:
        BoxError: not for this processor.
    """
    from qup.builtin.debian import recipe

    if arch not in recipe.ARCHES:
        raise BoxError(
            f"box {name} can't be made for {arch}",
            hint=f"it exists for {', '.join(recipe.ARCHES)}",
        )
    made_of = repr((_recipe_digest(), sorted(packages), sorted(disabled)))
    digest = hashlib.sha256(made_of.encode()).hexdigest()[:12]
    return BoxSpec(
        name=name,
        source=source,
        arch=arch,
        version=recipe.RECIPE,
        key=f"{suite}-{arch}-{digest}",
        user=recipe.USER,
        cmdline=recipe.CMDLINE.format(console=recipe.ARCHES[arch].console),
        efi=True,
        buses=("virtio", "ide", "sata"),
        mounts=("9p", "virtiofs"),
    )


def fetch_debian(
    spec: BoxSpec, suite: str, into: Path, report: Callable[[str], None],
    packages: Sequence[str] = (), disabled: Sequence[str] = (),
) -> Mapping[str, object]:  # fmt: skip
    """Make the box's files; see :func:`describe_box`.

    Raises:
        BoxError: it can't be made.
    """
    from qup.builtin.debian import recipe
    from qup.builtin.tiny.errors import RecipeError

    try:
        made = recipe.build(
            into, suite=suite, arch=spec.arch, report=report, packages=packages, disabled=disabled
        )
    except RecipeError as exc:
        raise BoxError(f"box {spec.name} can't be made: {exc}", hint=exc.hint) from exc
    return asdict(made)


@cache
def _recipe_digest() -> str:
    from qup.builtin.debian.recipe import digest_recipe

    return digest_recipe()


@hookimpl
def qup_box_sources() -> Iterable[BoxSource]:
    return [Debian()]
