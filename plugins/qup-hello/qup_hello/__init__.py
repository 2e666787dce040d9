"""The tutorial's plugin: one small example of everything a plugin can bring to qup.

Copy what you need. There are three kinds of hooks:

* *Registrations* (``qup_network_modes`` and so on) take nothing, touch nothing, and return
  objects with a name: :class:`Quiet`, :class:`SlowTcg`, :class:`Greet`, :class:`Packed`,
  a command, a check.
* The *contribution* ``qup_amend_plan`` adds words to QEMU's command line.
* The *observation* ``qup_event`` is told what happens to machines.

``qup.api`` is all of qup that a plugin imports. A plugin is loaded by every ``qup up``: import
what is slow where it is needed, as :func:`quiet_options` does with pydantic.
"""

from __future__ import annotations

import ipaddress
import os
import statistics
import sys
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer  # noqa: TID251  for the options of the command; the command line has loaded it

from qup.api import (
    Accelerator,
    AcceleratorPlan,
    Check,
    Command,
    Event,
    ExtraArguments,
    Finding,
    FolderGuest,
    FolderType,
    Guest,
    Host,
    MachineError,
    NetworkMode,
    NicPlan,
    NicRequest,
    Parcel,
    Plan,
    Problem,
    Provisioner,
    Verdict,
    hookimpl,
    run,
)

if TYPE_CHECKING:
    from qup.api import MachineConfig, Settings


# --- a network mode: values of network.mode -------------------------------------------------


class Quiet:
    """``mode = "quiet"``: ssh gets in, and nothing gets out."""

    name = "quiet"
    summary = "a network of its own that the guest can't leave; qup ssh works"

    @property
    def options(self) -> type[Settings]:
        """The model of the other keys of ``[machine.network]``."""
        return quiet_options()

    def problems(self, options: Any, host: Host) -> Sequence[Problem]:  # noqa: ARG002
        """Say what stands in the way on this computer, before anything is touched.

        There is nothing here that QEMU's own network stack would need. A mode that needs a
        program would ask ``host.which("passt")`` and return
        ``[Problem("the program 'passt' was not found", "install passt")]``.
        """
        return ()

    def plan(self, options: Any, nic: NicRequest) -> NicPlan:
        """Describe the connection: pure, so the same question has the same answer.

        ``netdev`` is QEMU's ``-netdev`` (``qemu(1)``), without its id. A mode that has to do
        something on the host first adds ``actions``, each with its undo.
        """
        subnet = ipaddress.IPv4Network(options.subnet)
        netdev = {
            "type": "user",
            "hostname": nic.hostname,
            "net": str(subnet),
            "restrict": "on",
            "ipv6": "off",
        }
        # QEMU's DHCP server begins at the 15th address: net/slirp.c.
        return NicPlan(netdev, guest_address=str(subnet[15]))


@cache
def quiet_options() -> type[Settings]:
    """Make the model of options where a Qupfile needs it: pydantic takes 50 ms to load.

    It yields validation with line and column, ``qup schema``, and what ``qup plan --explain``
    shows. A key is written with hyphens in the Qupfile: ``max_age`` is ``max-age``.
    """
    from pydantic import Field, field_validator

    from qup.api import Settings

    class QuietOptions(Settings):
        """``[machine.network]`` with ``mode = "quiet"``"""

        subnet: str = Field(default="10.7.0.0/24", description="The guest's network, a /24.")

        @field_validator("subnet")
        @classmethod
        def _is_a_subnet(cls, value: str) -> str:
            # A ValueError becomes a problem of the Qupfile, shown at its line.
            if ipaddress.IPv4Network(value).prefixlen != 24:
                raise ValueError(f"{value} is no /24")
            return value

    return QuietOptions


@hookimpl
def qup_network_modes() -> Sequence[NetworkMode]:
    return [Quiet()]


# --- an accelerator: values of qemu.accelerator ---------------------------------------------


class SlowTcg:
    """``accelerator = "slow-tcg"``: emulation with all CPUs on one thread.

    A guest's CPUs then take turns, so that its race conditions come out alike more often.
    """

    name = "slow-tcg"
    summary = "emulation with all CPUs on one thread, for hunting races"
    # "auto" takes the usable one with the highest: kvm has 100, tcg has 0.
    priority = -10

    def usable(
        self,
        host: Host,
        program: str,
        arch: str,  # noqa: ARG002  every one can be emulated
        *,
        prove: bool,  # noqa: ARG002  tcg needs no proof: hardware would call host.prove()
    ) -> Verdict:
        """Look whether it works here. A refusal comes with a reason and a hint."""
        if not host.qemu_supports(program, "tcg"):
            return Verdict(False, f"{program} was built without tcg", "install another QEMU")
        return Verdict(True, "emulation works everywhere")

    def plan(self, arch: str) -> AcceleratorPlan:
        """Properties of QEMU's ``-accel``, and the CPU for ``cpu = "auto"``."""
        cpu = "max,-la57" if arch == "x86_64" else "max"
        return AcceleratorPlan(self.name, {"accel": "tcg", "thread": "single"}, cpu)


@hookimpl
def qup_accelerators() -> Sequence[Accelerator]:
    return [SlowTcg()]


# --- a provisioner: keys of [[machine.provision]] -------------------------------------------


class Greet:
    """``greet = {text = "..."}``: leave a greeting in the guest."""

    name = "greet"
    summary = "a file with a greeting in the guest's home"

    @property
    def options(self) -> type[Settings]:
        """The model of the step's options."""
        return greet_options()

    def digest(self, options: Any, project: Path) -> str:  # noqa: ARG002
        """What the step depends on besides its options, which qup looks at itself.

        A step runs again when this changes. A provisioner that copies a file would return the
        digest of its content; raise the number when :meth:`run` does something new.
        """
        return "1"

    def run(
        self,
        options: Any,
        guest: Guest,
        project: Path,  # noqa: ARG002  for options that name files
        report: Callable[[str], None],
    ) -> None:
        """Do it. What ``guest`` raises is a ProvisionError already and says it all."""
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "greeting")
            source.write_text(f"{options.text}\n", encoding="utf-8")
            guest.put(source, options.file)  # a relative path is in the user's home
        # Words are passed as they are: no shell splits them.
        report(guest.run(["cat", "--", options.file]).stdout.rstrip("\n"))


@cache
def greet_options() -> type[Settings]:
    from pydantic import Field

    from qup.api import Settings

    class GreetOptions(Settings):
        """``greet`` in ``[[machine.provision]]``"""

        text: str = Field(default="hello", max_length=200, description="What the file says.")
        file: str = Field(default="greeting.txt", min_length=1, description="The file's path.")

    return GreetOptions


@hookimpl
def qup_provisioners() -> Sequence[Provisioner]:
    return [Greet()]


# --- a folder type: values of type in [[machine.folders]] -----------------------------------


class Packed:
    """``type = "packed"``: a copy that is compressed on its way, for guests that are far away.

    It has ``send``, so it copies. One that mounts has ``share`` instead.
    """

    name = "packed"
    summary = "a copy as a compressed archive"
    priority = -1  # 'auto' never takes it: a processor is slower than the way to a guest here
    programs = ("tar", "gzip")

    def problems(self, host: Host, program: str) -> Sequence[Problem]:  # noqa: ARG002
        """Say what stands in the way on this computer; there is nothing."""
        return ()

    def send(self, guest: FolderGuest, parcel: Parcel) -> None:
        """Bring there what qup has found to be new or different."""
        with tempfile.TemporaryFile() as file:
            with tarfile.open(fileobj=file, mode="w:gz") as archive:
                for count, name in enumerate(map(os.fsdecode, parcel.names), 1):
                    try:
                        archive.add(parcel.root / name, name, recursive=False)
                    except OSError as exc:  # one that can't be read keeps no other from going
                        parcel.unsure.add(os.fsencode(name))
                        parcel.failed.add(os.fsencode(name), str(exc.strerror))
                    parcel.report(count, file.tell())
            file.seek(0)
            chunks = iter(lambda: file.read(1 << 20), b"")
            script = 'gzip -d | tar -x -p -o -f - -C "$1"'
            guest.call("unpacking in the guest", script, parcel.target, input=chunks)


@hookimpl
def qup_folder_types() -> Sequence[FolderType]:
    return [Packed()]


# --- a contribution to plans ----------------------------------------------------------------


@hookimpl
def qup_amend_plan(config: MachineConfig, plan: Plan) -> ExtraArguments | None:
    """Let firmware and guest see the greeting: an OEM string in the SMBIOS tables.

    In the guest: ``dmidecode -t 11``. A hook takes the arguments it needs and may leave out
    the others, here ``host``. Only machines with a step ``greet`` asked for it: add nothing
    that nobody asked for.
    """
    steps: list[Any] = [use.options for use in config.provision if use.name == Greet.name]
    if not steps or plan.box.arch not in ("x86_64", "aarch64"):
        return None
    # QEMU splits an option's value at commas, unless they are doubled.
    text = steps[0].text.replace(",", ",,")
    return ExtraArguments(("-smbios", f"type=11,value=qup-hello:{text}"), "qup-hello")


# --- an observer of events ------------------------------------------------------------------


def starts_file() -> Path:
    """Where the times of starts are noted: a folder of this plugin's own."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state, "qup-hello", "starts.log")


@hookimpl
def qup_event(event: Event) -> None:
    """Note how long each start took: a line with the time, the machine and the seconds.

    Be quick, and expect every kind of event, also those of a newer qup. What this raises is
    noted in the machine's log, and changes nothing.
    """
    if event.kind != "finished":
        return
    data = event.to_dict()  # as a line of `qup up --json`
    if data["verb"] != "up" or not data["changed"]:
        return
    path = starts_file()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(
            f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {event.machine} {data['seconds']:.2f}\n"
        )


def read_starts() -> list[float]:
    """The seconds that each noted start took."""
    try:
        lines = starts_file().read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    return [float(line.rsplit(" ", 1)[1]) for line in lines]


# --- a command: qup hello -------------------------------------------------------------------


def hello(
    ctx: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="The machine; can be left out when it is clear."),
    ] = None,
    times: Annotated[int, typer.Option(min=1, max=10, help="How often to say it.")] = 1,
    shout: Annotated[bool, typer.Option("--shout", help="Say it louder.")] = False,
) -> None:
    """Greet a machine, which answers with its host name.

    Examples: `qup hello`, `qup hello web --times 3 --shout`
    """
    # A command reaches machines as a person does: by qup's own commands, here in the folder
    # that `qup -C DIR` named. `status --json`, `plan --json` and others answer questions.
    directory = ctx.find_root().params.get("directory") or "."
    words = ["ssh", *([name] if name else []), "--", "uname", "-n"]
    answer = run([sys.executable, "-m", "qup", "-C", str(directory), *words], check=False)
    if answer.code != 0:
        raise MachineError(
            f"nobody is there to be greeted ({answer.outcome})",
            details=answer.stderr.strip() or None,
            hint="'qup up' starts the machine",
        )
    text = f"Hello, {answer.stdout.strip()}!"
    for _ in range(times):
        typer.echo(text.upper() if shout else text)
    if starts := read_starts():
        typer.echo(f"{len(starts)} starts so far, {statistics.median(starts):.1f} s in the median")


@hookimpl
def qup_commands() -> Sequence[Command]:
    return [Command("hello", "Greet a machine.", hello)]


# --- a check of qup doctor ------------------------------------------------------------------


def check_starts(host: Host) -> Sequence[Finding]:  # noqa: ARG001  it asks only the file system
    """Look whether starts can be noted. Checks only look: they create nothing."""
    path = starts_file()
    there = next(place for place in (path, *path.parents) if place.exists())
    if os.access(there, os.W_OK):
        return [Finding("ok", f"starts are noted in {path}")]
    return [Finding("warning", f"starts can't be noted in {path}", f"make {there} writable")]


@hookimpl
def qup_checks() -> Sequence[Check]:
    return [Check("hello-starts", "The list of starts", check_starts)]
