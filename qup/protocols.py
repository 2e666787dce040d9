"""What plugins give and what they are given: the protocols and records of :mod:`qup.api`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from qup.downloads import Report
from qup.errors import QupError
from qup.model.box import Box, BoxSpec, Fetched
from qup.model.network import NicPlan, NicRequest
from qup.model.plan import AcceleratorPlan, SeedPlan
from qup.model.seed import Seed, SeedForm
from qup.process import Result

if TYPE_CHECKING:
    from qup.model.fields import Settings


@dataclass(frozen=True)
class Problem:
    """A reason why something can't work on this computer, and what to do about it.

    Attributes:
        message: what is in the way.
        hint: what to do.
        pid: the process that is in the way. If it is the machine's own QEMU, which is to be
            stopped first, there is no problem.
    """

    message: str
    hint: str | None = None
    pid: int | None = None


@dataclass(frozen=True)
class Verdict:
    """Whether an accelerator is usable, and why (not)."""

    usable: bool
    reason: str
    hint: str | None = None


class Host(Protocol):
    """Facts about this computer."""

    @property
    def system(self) -> str:
        """``linux``, ``darwin``, ``win32`` ... as :data:`sys.platform` names it."""

    @property
    def arch(self) -> str:
        """The processor in QEMU's words: ``x86_64``, ``aarch64`` ..."""

    @property
    def memory_mib(self) -> int:
        """Memory of this computer in MiB."""

    def which(self, program: str) -> Path | None:
        """The program's full path, or None."""

    def qemu_version(self, program: str) -> tuple[int, int, int]:
        """The version of a QEMU program. Raises HostError when it is missing or no QEMU."""

    def qemu_supports(self, program: str, accelerator: str) -> bool:
        """Whether a QEMU program was built with an accelerator (QEMU's name for it)."""

    def qemu_has_device(self, program: str, device: str) -> bool:
        """Whether a QEMU program was built with a device."""

    def prove(self, program: str, properties: Mapping[str, str], cpu: str) -> Verdict:
        """Run a tiny guest under ``-accel`` with these properties and this CPU.

        It switches to long mode, runs for a while, and reports back: what passes works. The
        verdict is remembered until the host boots anew or QEMU changes.
        """


class NetworkMode(Protocol):
    """A way to connect a machine.

    Attributes:
        name: its word in ``network.mode``.
        summary: one line for lists and docs.
        options: the model of the other keys of ``[machine.network]``, and of each of
            ``[[machine.networks]]``.
    """

    @property
    def name(self) -> str: ...
    @property
    def summary(self) -> str: ...
    @property
    def options(self) -> type[Settings]: ...

    def problems(self, options: Any, host: Host) -> Sequence[Problem]:
        """Look, without touching anything, whether it can work here."""

    def plan(self, options: Any, nic: NicRequest) -> NicPlan:
        """Say how the NIC is connected. Pure: no I/O."""


class Accelerator(Protocol):
    """A way to run the guest's instructions.

    Attributes:
        name: its word in ``qemu.accelerator``.
        summary: one line for lists and docs.
        priority: ``auto`` takes the usable one with the highest; tcg has 0, kvm 100.
    """

    @property
    def name(self) -> str: ...
    @property
    def summary(self) -> str: ...
    @property
    def priority(self) -> int: ...

    def usable(self, host: Host, program: str, arch: str, *, prove: bool) -> Verdict:
        """Whether it works for guests of this arch; without ``prove`` only look."""

    def plan(self, arch: str) -> AcceleratorPlan:
        """What it puts into the plan. Pure: no I/O."""


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


class GuestSeeder(Protocol):
    """A way to tell a guest its name, its user and its keys, before it first boots.

    An attribute ``once = True`` says that a disk is told something at its first boot only, even
    when it has become another machine's.

    Attributes:
        name: its word in ``seeder``.
        summary: one line for lists and docs.
    """

    @property
    def name(self) -> str: ...
    @property
    def summary(self) -> str: ...

    def problems(self, seed: SeedPlan) -> Sequence[Problem]:
        """What of a seed it can't tell a guest. Pure: no I/O."""

    def form(self, seed: SeedPlan) -> SeedForm:
        """How it reaches the guest. Pure: no I/O."""

    def files(self, seed: Seed) -> Mapping[str, str]:
        """The files of its CD or share, by path. Pure: no I/O."""

    def payload(self, seed: Seed) -> bytes:
        """What the machine's new disk begins with. Pure: no I/O.

        Raises:
            ConfigError: it is more than the guest would read.
        """


class KnowingSeeder(GuestSeeder, Protocol):
    """A guest seeder for guests that let everybody in, until their key is replaced
    (``known_key`` in :class:`SeedForm`).
    """

    def known_keys(self) -> Sequence[str]:
        """The private keys that everybody knows, in a form that OpenSSH reads."""


class Guest(Protocol):
    """A running guest, as provisioners see it."""

    @property
    def name(self) -> str: ...
    @property
    def ssh_config(self) -> Path:
        """Configuration for OpenSSH in which :attr:`name` is a host. Not there before 'up'."""

    @property
    def environment(self) -> str | None:
        """A script in the guest that sets the variables of ``[machine.env]``, if there are any."""

    @property
    def peers(self) -> Mapping[str, Path]:
        """The machines of the project that are up, this one among them: by name, as
        :attr:`ssh_config` each.
        """

    @property
    def time_left(self) -> float | None:
        """Seconds that the step may still take; None for any number."""

    def run(self, argv: Sequence[str], *, input: str | None = None, check: bool = True) -> Result:
        """Run a command in the guest as the ssh user. No shell splits the words.

        Raises:
            ProvisionError: with check, when it doesn't end with 0.
        """

    def stream(self, argv: Sequence[str], report: Callable[[str], None]) -> int:
        """Run a command and hand over each line that it prints, errors among them.

        Returns:
            Its exit code.

        Raises:
            ProvisionError: the connection broke.
            TooLong: the step's time is over; the command may still run in the guest.
        """

    @property
    def folder(self) -> Path:
        """A folder of this computer for what the provisioner keeps of this machine: only the user
        can enter it, and it goes with the machine. A command finds it by
        :meth:`ProjectMachine.folder`.
        """

    def reach(self, port: int) -> tuple[str, int]:
        """Where this computer reaches a TCP port of the guest: an address, and the port there.

        Raises:
            MachineError: nowhere; a provisioner asks for a way with ``ports``.
        """

    def put(self, source: Path, target: str, *, mode: int = 0o644) -> None:
        """Copy a file into the guest."""

    def get(self, source: str, target: Path) -> None:
        """Copy a file out of the guest."""


class Provisioner(Protocol):
    """Something that sets a guest up once ssh answers.

    Attributes:
        name: its key in ``[[machine.provision]]``.
        summary: one line for lists and docs.
        options: the model of its options; its ``shorthand`` names the field that plain text
            stands for.

    More may be left out. ``on_host = True`` says that it runs programs on this computer:
    then it may run before the machine is up, and does so at each ``up`` unless the Qupfile
    says otherwise. With ``needs_guest = True`` beside it, it works on a guest all the same, and
    only on one that is up. ``default_run`` is the step's ``run`` when the Qupfile has none:
    ``always`` for one that looks first and is quick when there is nothing to do.
    ``by_content = True`` says that what a step leaves in a guest follows from its options and
    :meth:`digest` alone and holds nothing that is one machine's own, such as a key or an address:
    a guest in which it has run may become a template for other machines, in which it does not run
    then.

    ``ports(options)`` returns TCP ports of the guest that this computer is to reach: where that
    takes a forward, the plan gets one from a free port of 127.0.0.1, unless the Qupfile has one.
    ``risk(options, project)`` returns what a step of a stranger's Qupfile could do to this
    computer, or None; what is returned needs ``qup trust``.
    ``problems(options, project, host)`` returns what a step lacks on this computer, each a
    :class:`Problem`: the machine is not started then.
    """

    @property
    def name(self) -> str: ...
    @property
    def summary(self) -> str: ...
    @property
    def options(self) -> type[Settings]: ...

    def digest(self, options: Any, project: Path) -> str:
        """A digest of what the options refer to; a step runs again when it changes."""

    def run(self, options: Any, guest: Guest, project: Path, report: Callable[[str], None]) -> None:
        """Do it. ``report`` takes lines of output.

        Raises:
            ProvisionError: it failed.
        """


class ProjectMachine(Protocol):
    """A machine of the project, as plugins' commands see it."""

    @property
    def name(self) -> str: ...
    @property
    def project(self) -> Path:
        """The folder with the Qupfile."""

    def folder(self, provisioner: str) -> Path:
        """Where a provisioner keeps what it has of this machine; see :attr:`Guest.folder`."""

    def reach(self, port: int) -> tuple[str, int]:
        """Where this computer reaches a TCP port of the guest: an address, and the port there.

        Raises:
            MachineError: the machine isn't running, or nothing leads there.
        """


class ProjectMachines(Protocol):
    """The machines of a project, for plugins' commands."""

    def names(self) -> Sequence[str]:
        """What they are called: those in the Qupfile, and those that have left it but exist."""

    def choose(self, name: str | None = None) -> ProjectMachine:
        """The machine of a name; without one the only machine, or the primary one.

        Raises:
            QupError: there is no such machine, or a name is needed.
        """


def machines_of(ctx: Any) -> ProjectMachines:
    """The machines of the project that a command works on.

    Nothing is loaded for it but what ``qup status`` needs, too: no Qupfile, no plan.

    Args:
        ctx: the command's ``typer.Context``.

    Raises:
        ConfigError: there is no project here.
    """
    found: ProjectMachines = ctx.find_root().obj.machines()
    return found


def complete_machines(ctx: Any, incomplete: str) -> list[str]:
    """Names of machines for tab completion, as ``autocompletion`` of an option or argument.

    Args:
        ctx: the command's ``typer.Context``.
        incomplete: what has been typed of the name.
    """
    try:
        names = machines_of(ctx).names()
    except QupError:
        return []  # nobody wants to read about it in the middle of a line
    return [name for name in names if name.startswith(incomplete)]


@dataclass(frozen=True)
class Finding:
    """One line of ``qup doctor``.

    Attributes:
        status: ``ok``, ``note`` (so it is, and nobody need do anything), ``warning`` (works,
            but), or ``problem`` (qup can't work).
        message: what is so.
        hint: what to do.
        packages: Debian packages that would mend it; ``doctor --fix`` installs them.
        fix: a command that would mend it, run as it is by ``doctor --fix``.
    """

    status: Literal["ok", "note", "warning", "problem"]
    message: str
    hint: str | None = None
    packages: tuple[str, ...] = ()
    fix: tuple[str, ...] = ()


@dataclass(frozen=True)
class Check:
    """Something ``qup doctor`` looks at."""

    name: str
    summary: str
    run: Callable[[Host], Sequence[Finding]]


@dataclass(frozen=True)
class Command:
    """A command of ``qup``.

    Attributes:
        name: its word.
        summary: one line for ``qup --help``.
        callback: a function with typer's annotations, or a ``typer.Typer``.
    """

    name: str
    summary: str
    callback: Callable[..., Any] = field(compare=False)
