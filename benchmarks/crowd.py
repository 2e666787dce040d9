"""Many machines of one template: what each takes, and how long all of them take."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from benchmarks.measure import BenchmarkError, Series, attempt
from benchmarks.outcome import Aim, Fact, Outcome, Row
from benchmarks.workshop import Workshop

FEW, MANY = (1, 4), (20,)
"""How many there are when their memory is looked at."""
FEW_MIB, MANY_MIB = 256, 128
MIB = 1 << 20
PRIVATE = 0.4
"""The part of its memory that a clone should have for itself, at most."""
DISK = 1 << 20
"""Bytes that a clone should take up on disk, at most."""


def measure_crowd(workshop: Workshop, rounds: int) -> Outcome:
    """Twenty machines at once by two boots one after the other; memory and disk of each."""
    few, _ = _make_project(workshop, "few", FEW[-1], FEW_MIB)
    project, names = _make_project(workshop, "crowd", MANY[-1], MANY_MIB)
    single, _ = _make_project(workshop, "single", 1, MANY_MIB)
    up = Series(f"qup up of {len(names)} machines from a template")
    down = Series(f"qup destroy -y of {len(names)} machines")
    cold = Series("qup up --cold of one machine")
    facts = [*_look_at(workshop, few, FEW, FEW_MIB), *_look_at(workshop, project, MANY, MANY_MIB)]
    for _ in range(rounds):
        attempt(up, workshop.action(project, "up"))
        _check_all(workshop, project, names)
        attempt(down, workshop.action(project, "destroy", "-y"))
        attempt(cold, workshop.action(single, "up", "--cold"))
        workshop.call(single, "destroy", "-y")
    rows = [Row(up, cold, Aim(2.0, strictly=True)), Row(down), Row(cold)]
    note = f"The times are of machines of {MANY_MIB} MiB. Two boots take twice the time of one."
    return Outcome("Many machines", rows, [note], facts)


def _make_project(workshop: Workshop, name: str, count: int, memory: int) -> tuple[Path, list[str]]:
    """A project of so many machines whose template exists, and their names."""
    names = [f"m{number:02}" for number in range(1, count + 1)]
    text = f'[machine]\nbox = "tiny"\nmemory = "{memory}M"\n'
    project = workshop.project(name, text + "".join(f"[machines.{n}]\n" for n in names))
    workshop.call(project, "up", names[0])
    workshop.call(project, "destroy", "-y")
    return project, names


def _look_at(workshop: Workshop, project: Path, counts: tuple[int, ...], memory: int) -> list[Fact]:
    """Memory and disk of each while there are more and more of them."""
    facts = []
    for count in counts:
        names = [f"m{number:02}" for number in range(1, count + 1)]
        workshop.call(project, "up", *names)
        seen = [item for item in workshop.ask(project, "status")["machines"] if item["pid"]]
        facts += _tell_memory(seen, count, memory)
    sizes = [_disk_use(project / ".qup" / "machines" / name) for name in names]
    middle = statistics.median(sizes)
    value = f"{middle / 1024:.0f} KiB (most {max(sizes) / 1024:.0f} KiB)"
    facts.append(
        Fact(f"{count} clones: disk of each, with all its files", value, "< 1 MiB", middle < DISK)
    )
    workshop.call(project, "destroy", "-y")
    return facts


def _tell_memory(seen: list[dict[str, Any]], count: int, memory: int) -> list[Fact]:
    uses = [item["memory"] for item in seen]
    if len(seen) != count or None in uses:
        return [Fact(f"memory of {count}", "not known")]
    own = statistics.median(use["private"] for use in uses)
    share = statistics.median(use["proportional"] for use in uses)
    part = own / MIB / memory
    what = f"{count} clone{'' if count == 1 else 's'} of {memory} MiB"
    return [
        Fact(
            f"{what}: private memory of each",
            f"{own / MIB:.0f} MiB, {part:.0%}",
            f"≤ {PRIVATE:.0%}",
            part <= PRIVATE,
        ),
        Fact(f"{what}: proportional memory of each", f"{share / MIB:.0f} MiB"),
    ]


def _disk_use(folder: Path) -> int:
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*"))


def _check_all(workshop: Workshop, project: Path, names: list[str]) -> None:
    """Make sure that all are there, and are machines of their own.

    Raises:
        BenchmarkError: they are not.
    """
    seen = workshop.ask(project, "status")["machines"]
    ready = [item["name"] for item in seen if item["status"] == "running" and item["ready"]]
    ports = {item["ssh"]["port"] for item in seen if item["ssh"]}
    if sorted(ready) != names or len(ports) != len(names):
        raise BenchmarkError(f"of {len(names)} machines these are up: {', '.join(ready)}")
