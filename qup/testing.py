r"""The kit for testing plugins: a host and a guest that are none, and a plan from a Qupfile.

It needs pytest, which qup itself does without. Functions are imported; the fixtures come with
one line in a test module or in the topmost ``conftest.py``::

    from qup.testing import FakeGuest, FakeHost, check_plugin, make_plan, qemu_words

    import qup_weather

    pytest_plugins = ["qup.testing"]


    def test_it_keeps_to_the_hooks():
        check_plugin(qup_weather)


    def test_the_guest_is_kept_dry():
        plan = make_plan('[machine.network]\nmode = "umbrella"', qup_weather)
        assert plan.nics[0].plan.netdev["restrict"] == "on"
        assert "-netdev user,id=net0,restrict=on" in " ".join(qemu_words(plan))


    def test_an_old_qemu_is_refused(fake_host: FakeHost):
        fake_host.version = (6, 2, 0)
        (problem,) = qup_weather.Umbrella().problems(None, fake_host)
        assert "7.0" in problem.message


    def test_the_guest_learns_the_weather(fake_guest: FakeGuest, tmp_path):
        fake_guest.on("date", stdout="Tuesday\n")
        qup_weather.Forecast().run(None, fake_guest, tmp_path, print)
        assert fake_guest.files["/etc/weather"] == b"Tuesday: rain\n"

Nothing here starts a program, opens a connection or looks at this computer. Real guests are
for ``qup up`` in a project of the test's own.

(PYTEST_DONT_REWRITE: a test module imports this before pytest loads it as a plugin.)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from qup.api import (
    Accelerator,
    BoxSource,
    GuestSeeder,
    NetworkMode,
    Plan,
    Provisioner,
    ProvisionError,
    Result,
    Verdict,
)
from qup.errors import HostError, MachineError
from qup.model.plan import Disk, Identity
from qup.paths import Project
from qup.planner import arch_of
from qup.plugins import KINDS, Plugins
from qup.qemu.argv import Layout, build, words
from qup.qemu.firmware import FirmwareFiles
from qup.qupfile import load, parse
from qup.runner.context import Context
from qup.runner.prepare import make_plan as plan_for
from qup.runner.prepare import resolve_box

__all__ = ["FakeGuest", "FakeHost", "check_plugin", "make_plan", "plugins_with", "qemu_words"]

MACHINE_ID = "0123456789ab"
MACHINE_UUID = "01234567-89ab-4cde-8f01-23456789abcd"


# --- a host ---------------------------------------------------------------------------------


@dataclass
class FakeHost:
    """A computer that is what a test says it is: a :class:`qup.api.Host`.

    Attributes:
        system: as :data:`sys.platform` has it.
        arch: the processor in QEMU's words.
        memory_mib: memory in MiB.
        resolvers: its DNS servers.
        version: the version of its QEMU programs.
        accelerators: those that its QEMU was built with.
        missing_devices: those that it was built without.
        programs: names of programs that are installed; they are in ``/usr/bin``.
        answers: what programs print when they are asked, by their path.
        verdict: what the proof of an accelerator ends with.
        proved: what was to be proved so far: the properties of ``-accel``.
    """

    system: str = "linux"
    arch: str = "x86_64"
    memory_mib: int = 16 * 1024
    resolvers: tuple[str, ...] = ()
    version: tuple[int, int, int] = (8, 2, 0)
    accelerators: set[str] = field(default_factory=lambda: {"tcg"})
    missing_devices: set[str] = field(default_factory=set)
    programs: set[str] = field(
        default_factory=lambda: {"qemu-system-x86_64", "qemu-system-aarch64", "qemu-img", "ssh"}
    )
    answers: dict[str, str] = field(default_factory=dict)
    verdict: Verdict = field(default_factory=lambda: Verdict(True, "the fake host says so"))
    proved: list[Mapping[str, str]] = field(default_factory=list)

    def which(self, program: str) -> Path | None:
        """Its path, if it is one of :attr:`programs`."""
        return Path("/usr/bin", program) if program in self.programs else None

    def ask(self, program: Path, *words: str) -> str:  # noqa: ARG002
        """What :attr:`answers` has for it, whatever it is asked."""
        return self.answers.get(str(program), "")

    def qemu_version(self, program: str) -> tuple[int, int, int]:
        """:attr:`version`, whichever program it is."""
        self._require(program)
        return self.version

    def qemu_supports(self, program: str, accelerator: str) -> bool:
        """Whether it is among :attr:`accelerators`."""
        self._require(program)
        return accelerator in self.accelerators

    def qemu_has_device(self, program: str, device: str) -> bool:
        """Whether it isn't among :attr:`missing_devices`."""
        self._require(program)
        return device not in self.missing_devices

    def emulator(self, program: str, accelerator: str) -> tuple[str, str]:  # noqa: ARG002
        """Its version stands for a QEMU program."""
        return ".".join(map(str, self.version)), ""

    def machine_type(self, program: str, name: str) -> str:
        """``q35`` as the newest of its kind; every other name as it is."""
        self._require(program)
        return f"pc-q35-{self.version[0]}.{self.version[1]}" if name == "q35" else name

    def firmware(self, program: str, machine_type: str) -> FirmwareFiles:
        """One in ``/usr/share/firmware``, for every machine type."""
        self._require(program)
        folder = Path("/usr/share/firmware")
        return FirmwareFiles(
            f"UEFI for {machine_type}", folder / "code.fd", "raw", folder / "vars.fd", "raw"
        )

    def prove(self, program: str, properties: Mapping[str, str], cpu: str) -> Verdict:  # noqa: ARG002
        """:attr:`verdict`."""
        self._require(program)
        self.proved.append(properties)
        return self.verdict

    def _require(self, program: str) -> None:
        if program not in self.programs:
            raise HostError(f"the program {program!r} was not found")


# --- a guest --------------------------------------------------------------------------------


@dataclass
class FakeGuest:
    """A guest that writes down what is done to it: a :class:`qup.api.Guest`.

    Attributes:
        name: the machine's name.
        ran: the commands, in order.
        inputs: the standard input of each command.
        files: what was put there, by path; ``get`` takes from here.
        modes: the permissions of what was put there.
        folder: a folder of this computer for the provisioner; a test gives it one that exists.
        ways: where this computer reaches the guest's ports.
        others: names of other machines that are up.
    """

    name: str = "default"
    ran: list[tuple[str, ...]] = field(default_factory=list)
    inputs: list[str | None] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    modes: dict[str, int] = field(default_factory=dict)
    folder: Path = Path("/machine/provisioners/none")
    ways: dict[int, tuple[str, int]] = field(default_factory=dict)
    others: tuple[str, ...] = ()
    _results: list[tuple[tuple[str, ...], Result]] = field(default_factory=list, repr=False)

    def on(self, *beginning: str, stdout: str = "", stderr: str = "", code: int = 0) -> None:
        """Say how commands end that begin with these words; what was said last counts."""
        self._results.insert(0, (beginning, Result(beginning, code, stdout, stderr)))

    @property
    def ssh_config(self) -> Path:
        """A path where nothing is."""
        return Path("/machine", self.name, "ssh/config")

    @property
    def environment(self) -> str | None:
        """There are no variables."""
        return None

    @property
    def peers(self) -> Mapping[str, Path]:
        """It is alone, unless a test has put others into :attr:`others`."""
        names = sorted({self.name, *self.others})
        return {name: Path("/machine", name, "ssh/config") for name in names}

    @property
    def time_left(self) -> float | None:
        """As much as is wanted."""
        return None

    def stream(self, argv: Sequence[str], report: Callable[[str], None]) -> int:
        """Report the output that :meth:`on` gave, and return its exit code."""
        done = self.run(argv, check=False)
        for line in (done.stdout + done.stderr).splitlines():
            report(line)
        return done.code

    def run(self, argv: Sequence[str], *, input: str | None = None, check: bool = True) -> Result:
        """End as :meth:`on` said: with 0 and no output where it said nothing."""
        words = tuple(argv)
        self.ran.append(words)
        self.inputs.append(input)
        matches = (said for begin, said in self._results if words[: len(begin)] == begin)
        said = next(matches, Result(words, 0, "", ""))
        if check and said.code != 0:
            raise ProvisionError(f"{' '.join(words)}: {said.outcome}", details=said.stderr or None)
        return Result(words, said.code, said.stdout, said.stderr)

    def reach(self, port: int) -> tuple[str, int]:
        """One of :attr:`ways`."""
        if port not in self.ways:
            raise MachineError(f"no port of this computer leads to the guest's port {port}")
        return self.ways[port]

    def put(self, source: Path, target: str, *, mode: int = 0o644) -> None:
        """Keep the content of a file."""
        self.files[target] = source.read_bytes()
        self.modes[target] = mode

    def get(self, source: str, target: Path) -> None:
        """Write what was put there into a file."""
        if source not in self.files:
            raise ProvisionError(f"copying failed: {source}: no such file")
        target.write_bytes(self.files[source])


@pytest.fixture
def fake_host() -> FakeHost:
    """A computer with Linux, QEMU 8.2 and nothing but tcg; see :class:`FakeHost`."""
    return FakeHost()


@pytest.fixture
def fake_guest() -> FakeGuest:
    """A guest on which every command succeeds; see :class:`FakeGuest`."""
    return FakeGuest()


# --- plugins --------------------------------------------------------------------------------


def plugins_with(*plugins: object) -> Plugins:
    """The built-in plugins and these; what is installed stays out.

    Args:
        plugins: modules, or other objects with hook implementations.

    Returns:
        The registry. What is wrong with the plugins is in its ``failures``.
    """
    registry = Plugins(installed=False)
    for plugin in plugins:
        name = str(getattr(plugin, "__name__", type(plugin).__name__))
        taken = sum(known.partition(":")[0] == name for known in registry.plugins)
        registry.add(plugin, f"{name}:{taken + 1}" if taken else name)
    return registry


def check_plugin(plugin: object) -> Plugins:
    """Look for what qup, or a reader of its lists, would object to in a plugin.

    It loads beside the built-in plugins; its hooks have the right names and arguments; what
    it registers has all that is asked for, with methods that take what qup passes; summaries
    are one line, and options are described.

    Returns:
        The registry with the plugin in it.

    Raises:
        AssertionError: with every objection.
    """
    registry = plugins_with(plugin)
    registry.collect_all()
    objections = [str(failure) for failure in registry.failures]
    if not objections:
        for kind, rules in KINDS.items():
            for item in getattr(plugin, rules.hook, tuple)():
                objections += (f"{kind} {item.name}: {text}" for text in _objections(kind, item))
    assert not objections, "\n".join(objections)
    return registry


_PROTOCOLS: dict[str, type] = {
    "network mode": NetworkMode,
    "accelerator": Accelerator,
    "box source": BoxSource,
    "guest seeder": GuestSeeder,
    "provisioner": Provisioner,
}


def _objections(kind: str, item: Any) -> Iterator[str]:
    if not item.summary.strip() or "\n" in item.summary:
        yield "its summary is not one line"
    for method in KINDS[kind].methods if kind in _PROTOCOLS else ():
        wanted = list(inspect.signature(getattr(_PROTOCOLS[kind], method)).parameters.values())[1:]
        given = [one.name for one in wanted if one.kind is not one.KEYWORD_ONLY]
        named = {one.name: None for one in wanted if one.kind is one.KEYWORD_ONLY}
        try:
            inspect.signature(getattr(item, method)).bind(*given, **named)
        except TypeError as exc:
            words = ", ".join(one.name for one in wanted)
            yield f"{method} must take ({words}): {exc}"
    if "options" in KINDS[kind].attributes:
        for name, option in item.options.model_fields.items():
            if not option.description:
                yield f"its option {option.alias or name} has no description"


# --- plans ----------------------------------------------------------------------------------


def make_plan(
    qupfile: str = "",
    *plugins: object,
    host: FakeHost | None = None,
    machine: str | None = None,
    project: Path | None = None,
) -> Plan:
    """What ``qup plan`` would say: the real loader, planner and plugins on a host that is none.

    Args:
        qupfile: the Qupfile's text.
        plugins: plugins besides the built-in ones.
        host: the computer; QEMU 8.2 with tcg unless the test says otherwise.
        machine: which machine; the first one otherwise.
        project: the Qupfile's folder, for plugins that read files.

    Raises:
        QupError: as ``qup plan`` would.
    """
    context = Context(Project(project or Path("/project")))
    # Both are worked out on first use; here they are known.
    vars(context).update(plugins=plugins_with(*plugins), host=host or FakeHost())
    config = load(parse(qupfile.encode()), registry=context.plugins)
    chosen = config.machines[machine or next(iter(config.machines))]
    settings = chosen.settings
    spec, _ = resolve_box(context, settings.box, arch_of(settings.qemu.program))
    identity = Identity(MACHINE_ID, MACHINE_UUID, chosen.name)
    return plan_for(context, chosen, identity, spec, None)


SOCKETS = ("control", "events", "console", "agent", "identity")


def qemu_words(plan: Plan) -> list[str]:
    """The words of QEMU's command line for a plan; files are in ``/machine`` and ``/box``."""
    folder = Path("/machine")
    layout = Layout(
        program=Path("/usr/bin", plan.program),
        pidfile=folder / "qemu.pid",
        serial_log=folder / "serial.log",
        box=Path("/box"),
        files={
            **{disk.role: folder / _file_name(disk) for disk in plan.disks},
            "firmware": Path("/usr/share/firmware/code.fd"),
            "vars": folder / "vars.qcow2",
        },
        sockets={name: folder / name for name in SOCKETS},
    )
    return words(build(plan, layout))


def _file_name(disk: Disk) -> str:
    known = {"disk": "disk.qcow2", "seed": "seed.iso", "iso": "boot.iso"}
    return known.get(disk.role, f"{disk.role}.{disk.format}")
