"""The box source ``tiny``: a small guest made on the spot from the host's own packages."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from qup.api import BoxError, BoxSource, BoxSpec, hookimpl

NAME = "tiny"


class Tiny:
    """Box ``tiny``; how it is made is in :mod:`qup.builtin.tiny.recipe`."""

    name = NAME
    summary = "a guest of a few megabytes, made here from the system's own packages"

    def names(self) -> Sequence[str]:
        return (NAME,)

    def resolve(self, reference: str, arch: str, project: Path) -> BoxSpec | None:  # noqa: ARG002
        if reference != NAME:
            return None
        from qup.builtin.tiny import recipe

        if arch not in recipe.ALIASES:
            raise BoxError(
                f"box {NAME} can't be made for {arch}",
                hint=f"it exists for {', '.join(recipe.ALIASES)}",
            )
        key = f"{arch}-{_recipe_digest()}"
        cmdline = recipe.CMDLINE.format(console=recipe.ARCHES[recipe.ALIASES[arch]].console)
        # Debian's kernel for clouds has drivers for a PC's old IDE, and none for SATA.
        buses = ("virtio", "ide")
        return BoxSpec(
            NAME,
            NAME,
            arch,
            recipe.RECIPE,
            key,
            cmdline=cmdline,
            efi=True,
            buses=buses,
            mounts=("virtiofs",),  # the same kernel has no 9p
            cloud_init=False,
        )

    def fetch(
        self,
        spec: BoxSpec,
        project: Path,  # noqa: ARG002  it is made from the host alone
        into: Path,
        report: Callable[[str], None],
    ) -> Mapping[str, object]:
        from qup.builtin.tiny import recipe

        try:
            return asdict(recipe.build(into, arch=spec.arch, report=report))
        except recipe.RecipeError as exc:
            raise BoxError(f"box {NAME} can't be made: {exc}", hint=exc.hint) from exc


@cache
def _recipe_digest() -> str:
    """Changes with every file of the recipe and of the guest, and with this one."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for path, data in sorted(_walk(resources.files("qup.builtin.tiny"))):
        digest.update(f"{path}\0{len(data)}\0".encode() + data)
    return digest.hexdigest()[:12]


def _walk(folder: Traversable, prefix: str = "") -> Iterable[tuple[str, bytes]]:
    for item in folder.iterdir():
        if item.is_dir():
            if item.name != "__pycache__":
                yield from _walk(item, f"{prefix}{item.name}/")
        else:
            yield f"{prefix}{item.name}", item.read_bytes()


@hookimpl
def qup_box_sources() -> Iterable[BoxSource]:
    return [Tiny()]
