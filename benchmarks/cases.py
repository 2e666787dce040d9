"""What is measured, and against what."""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.bare import BareMachine, as_samples
from benchmarks.measure import BenchmarkError, Sample, Series, attempt, interleave, run
from benchmarks.outcome import Aim, Outcome, Phases, Row
from benchmarks.workshop import Workshop, peak_memory

ONE = '[machine]\nbox = "tiny"\nmemory = "256M"\n'
MANY = 10
IMPORT_TYPER = "python -c 'import typer'"
VAGRANT = "vagrant status"


def measure_commands(workshop: Workshop, rounds: int) -> Outcome:
    """``--version`` and ``status``, by the import of typer and by vagrant."""
    stopped = workshop.project("stopped", ONE)
    workshop.call(stopped, "up", "default")
    workshop.call(stopped, "down")
    many = _copy_machines(workshop, stopped)
    running = workshop.project("running", ONE)
    workshop.call(running, "up")
    actions: dict[str, Callable[[], Sample]] = {
        "python -c pass": _python(workshop, "pass"),
        IMPORT_TYPER: _python(workshop, "import typer"),
        "qup --version": workshop.action(stopped, "--version"),
        "qup status, 1 machine, stopped": workshop.action(stopped, "status"),
        "qup status, 1 machine, running": workshop.action(running, "status"),
        f"qup status, {MANY} machines, stopped": workshop.action(many, "status"),
    }
    outcome = Outcome("Looking")
    if vagrant := _vagrant_project(workshop):
        words = ["vagrant", "status"]
        actions[VAGRANT] = lambda: run(words, cwd=vagrant, env=workshop.env)
    else:
        outcome.notes.append("vagrant is not installed here, or has no provider that works.")
    found = interleave(actions, rounds)
    for name, series in found.items():
        is_status = name.startswith("qup status")
        against = found[IMPORT_TYPER] if name != IMPORT_TYPER else None
        outcome.rows.append(Row(series, against, Aim(1.5) if is_status else None))
        if is_status and VAGRANT in found:
            outcome.rows.append(Row(series, found[VAGRANT], Aim(0.2)))
    outcome.notes.append(tell_peak(found))
    workshop.call(running, "destroy", "-y")
    return outcome


def measure_ssh(workshop: Workshop, rounds: int) -> Outcome:
    """A command in the guest: by qup, by a connection of its own, by the shared connection."""
    project = workshop.project("ssh", ONE)
    workshop.call(project, "up")
    seen = workshop.ask(project, "inspect")
    words = ["ssh", "-F", str(Path(seen["folder"]) / "ssh" / "config")]
    fresh = [*words, "-o", "ControlPath=none", "default", "true"]
    shared = [*words, "default", "true"]
    found = interleave(
        {
            "qup ssh -- true": workshop.action(project, "ssh", "--", "true"),
            "ssh true, a new connection": lambda: run(fresh, cwd=project, env=workshop.env),
            "ssh true, the shared connection": lambda: run(shared, cwd=project, env=workshop.env),
        },
        rounds,
    )
    qup, plain, floor = found.values()
    workshop.call(project, "destroy", "-y")
    return Outcome("A command in a guest", [Row(qup, plain, Aim(1.0, strictly=True)), Row(plain),
                                            Row(floor, plain)])  # fmt: skip


def measure_start(workshop: Workshop, rounds: int) -> Outcome:
    """A machine's life, and the same QEMU started by hand."""
    base = workshop.project("bare", ONE)
    workshop.call(base, "up", "--cold")  # fetches the box, learns about the host
    bare = BareMachine(workshop, base)
    life = _Life(workshop, workshop.project("cold", ONE))
    banner, login = Series("bare QEMU until the banner"), Series("bare QEMU until ssh true")
    for number in range(rounds):
        if number % 2:
            life.live()
        start_bare(bare, banner, login)
        if not number % 2:
            life.live()
    up = life.steps["up"]
    rows = [
        Row(up, login, Aim(1.1)),
        Row(up, banner),
        Row(login),
        Row(banner),
        *(Row(life.steps[verb]) for verb in ("up again", "down", "destroy")),
    ]
    notes = [life.phases.tell("qup up"), tell_peak(life.steps), life.tell_memory(login)]
    return Outcome("Starting a machine", rows, notes)


class _Life:
    """A machine that is made, used and removed, again and again."""

    def __init__(self, workshop: Workshop, project: Path) -> None:
        self._workshop = workshop
        self._project = project
        self._qemu: list[int] = []
        self.phases = Phases()
        names = {
            "up": "qup up --cold, a new machine",
            "up again": "qup up, when it is up",
            "down": "qup down",
            "destroy": "qup destroy -y, stopped",
        }
        self.steps = {verb: Series(name) for verb, name in names.items()}

    def live(self) -> None:
        call, project = self._workshop.call, self._project
        try:
            if attempt(self.steps["up"], self._start) is None:
                return
            attempt(self.steps["up again"], lambda: call(project, "up"))
            attempt(self.steps["down"], lambda: call(project, "down"))
        finally:
            attempt(self.steps["destroy"], lambda: call(project, "destroy", "-y"))

    def _start(self) -> Sample:
        sample = self._workshop.call(self._project, "up", "--cold")
        seen = self._workshop.ask(self._project, "inspect")
        if " box ended after" in (Path(seen["logs"]) / "qup.log").read_text():
            raise BenchmarkError("a box was fetched: it has changed since the beginning")
        self._qemu.append(peak_memory(int(seen["pid"])))
        self.phases.note(seen, sample)
        return sample

    def tell_memory(self, bare: Series) -> str:
        mine = int(statistics.median(self._qemu)) if self._qemu else 0
        if not mine or not bare.peak:
            return "QEMU's peak memory is not known on this system."
        return (
            f"Peak memory of QEMU: {_mib(mine)} started by qup, {_mib(bare.peak)} bare."
            " It is the guest's memory, for the most part."
        )


def start_bare(bare: BareMachine, banner: Series, login: Series) -> None:
    """Start it once, and note both ends, or that it failed."""
    try:
        first, second = as_samples(bare.start())
    except BenchmarkError as exc:
        print(f"  failed: {login.name}: {exc}", file=sys.stderr, flush=True)
        banner.add(None)
        login.add(None)
        return
    banner.add(first)
    login.add(second)


def tell_peak(found: Mapping[str, Series]) -> str:
    parts = [f"{item.name} {_mib(item.peak)}" for item in found.values() if item.peak]
    return "Peak memory of the largest process, without QEMU: " + ", ".join(parts) + "."


def _mib(size: int) -> str:
    return f"{size / 2**20:.0f} MiB"


def _python(workshop: Workshop, code: str) -> Callable[[], Sample]:
    return lambda: run([sys.executable, "-c", code], cwd=workshop.root, env=workshop.env)


def _copy_machines(workshop: Workshop, origin: Path) -> Path:
    """A project with many machines that were up once: copies of one, each with its own identity.

    Raises:
        BenchmarkError: qup doesn't take them for what they should be.
    """
    names = [f"m{number}" for number in range(MANY)]
    tables = "".join(f"[machines.{name}]\n" for name in names)
    project = workshop.project("many", ONE + tables)
    machines = project / ".qup" / "machines"
    machines.mkdir(mode=0o700, parents=True)
    for name in names:
        copy = machines / name
        shutil.copytree(origin / ".qup" / "machines" / "default", copy)
        state = json.loads((copy / "state.json").read_text())
        number = uuid.uuid4()
        state |= {"name": name, "id": number.hex[:12], "uuid": str(number), "project": str(project)}
        (copy / "state.json").write_text(json.dumps(state))
    workshop.call(project, "validate")
    seen = workshop.ask(project, "status")["machines"]
    if [item["status"] for item in seen] != ["stopped"] * MANY:
        raise BenchmarkError(f"the copied machines are not taken for stopped ones: {seen}")
    return project


def _vagrant_project(workshop: Workshop) -> Path | None:
    if shutil.which("vagrant") is None:
        return None
    folder = workshop.root / "vagrant"
    folder.mkdir()
    text = 'Vagrant.configure("2") do |config|\n  config.vm.box = "none"\nend\n'
    (folder / "Vagrantfile").write_text(text)
    try:
        run(["vagrant", "status"], cwd=folder, env=workshop.env)
    except BenchmarkError:  # it is there, but none of its providers can be used
        return None
    return folder
