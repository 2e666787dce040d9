"""What plugins give and what they are given: the protocols and records of :mod:`qup.api`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

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

    def ask(self, program: Path, *words: str) -> str:
        """What a program prints, remembered until it changes; empty if it fails or hangs.

        It is for what doesn't depend on anything else, such as ``--help`` or ``--version``.
        """

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
