"""What plugins give for sources of boxes: the protocols behind ``qup_box_sources``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from qup.downloads import Report
from qup.model.box import Box, BoxSpec, Fetched


class BoxSource(Protocol):
    """Where boxes come from.

    Attributes:
        name: the source's name.
        summary: one line for lists and docs.
    """

    @property
    def name(self) -> str: ...
    @property
    def summary(self) -> str: ...

    def names(self) -> Sequence[str]:
        """The names it knows, for lists and completion; references it can't list are fine."""

    def resolve(self, reference: str, arch: str, project: Path) -> BoxSpec | None:
        """Say what a reference is, without fetching it; None if it isn't this source's.

        Raises:
            BoxError: it is this source's, and wrong.
        """

    def fetch(
        self, spec: BoxSpec, project: Path, into: Path, report: Report
    ) -> Mapping[str, object] | Fetched:
        """Make the box's files (``kernel``, ``initrd``, ``disk.qcow2``, ``boot.iso``) in an
        empty folder.

        ``report`` takes lines about how far it is; :func:`download` takes it as it is. Returns
        details worth remembering, or with them what the box has turned out to be.

        Raises:
            BoxError: it can't be had; the hint says what to do.
        """


@dataclass(frozen=True)
class Offer:
    """A box that can be had, as ``qup box search`` shows it.

    Attributes:
        name: what ``box`` in a Qupfile says.
        title: one line about it.
        arches: the processors that it exists for.
        origin: the catalog that has it: a file, or ``qup``.
        where: its address, or how it comes about.
        note: what one should know before.
    """

    name: str
    title: str
    arches: tuple[str, ...] = ()
    origin: str = "qup"
    where: str = ""
    note: str = ""


class Offering(BoxSource, Protocol):
    """A box source that can say more about its boxes than their names."""

    def offers(self, project: Path) -> Sequence[Offer]:
        """What there is, for ``qup box search``; nothing is fetched.

        Raises:
            BoxError: a catalog is damaged.
        """


class ChangingSource(BoxSource, Protocol):
    """A box source whose references lead to something else as time goes by."""

    def newer(self, box: Box, project: Path) -> str | None:
        """Ask whether there is something newer than a box in the cache.

        Called before a new machine is made from the box, and by ``qup upgrade``; never for a
        machine that exists.

        Returns:
            What is new about it, in a few words; None if the box is what there is.

        Raises:
            BoxError: nobody can be asked now. A new machine then takes the box.
        """


class RepeatingSource(BoxSource, Protocol):
    """A box source that can fetch again what a project's ``qup.lock`` names, when there is
    something newer already.
    """

    def fetch_pinned(
        self, spec: BoxSpec, project: Path, into: Path, report: Report, url: str, sha256: str
    ) -> Mapping[str, object] | Fetched:
        """As ``fetch``, but the file with this SHA-256 that came from this address.

        Raises:
            BoxError: it can't be had any more.
        """
