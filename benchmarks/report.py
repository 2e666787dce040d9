"""The results as a table for the terminal, as Markdown, and as JSON."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.outcome import Fact, Outcome, Row

RESULTS = Path(__file__).with_name("RESULTS.md")
HEADINGS = ("", "n", "median", "min", "by", "ratio", "aim", "")

_INTRODUCTION = """\
# What qup costs

Written by `make bench ARGS=--write`; don't edit. Whole processes, wall-clock time. Within a
round every command of a group has its turn, each round begins with another one, and a ratio is
the median of the ratios within the rounds: what slows the computer for a while slows both sides.

*Bare* is QEMU with the command line that `qup plan --qemu` prints, without `-S`, on a new overlay
and with a seed, keys and a port that are all there beforehand. The prober is qup's, and `ssh true`
follows the first banner at once. Boxes and facts about the host are cached. *Until ssh true* and
`qup up` end at the same point: a command can be run in the guest.

*Bare restore* is the same QEMU, restored by hand by the recipe that qup follows: memory in a file
that is mapped privately, an overlay on a frozen disk, deferred incoming migration, the same prober
and one `ssh true`. Its guest stays who it was: the difference is the machine's own identity, clock
and randomness, and what qup itself costs. An aim such as "≤ 1.50 + 0.3 s" allows the ratio and so
many seconds on top.
"""


@dataclass(frozen=True)
class Surroundings:
    """Where and when it was measured; nothing that names the computer or its owner."""

    facts: dict[str, str]

    @classmethod
    def look(cls, accelerator: str) -> Surroundings:
        """Gather the facts.

        Args:
            accelerator: what the guests ran with.
        """
        from importlib.metadata import version

        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return cls(
            {
                "Date": datetime.now(UTC).strftime("%Y-%m-%d"),
                "Processor": f"{_processor()}, {os.cpu_count()} cores",
                "Memory": f"{memory / 2**30:.0f} GiB",
                "System": f"{platform.system()} {platform.release()}",
                "QEMU": _version("qemu-system-x86_64", "--version"),
                "Accelerator": accelerator,
                "ssh": _version("ssh", "-V"),
                "Python": f"{platform.python_version()}, typer {version('typer')}",
                "qup": version("qup"),
                "Load average at the end": f"{os.getloadavg()[0]:.1f}",
            }
        )


def table(outcomes: Sequence[Outcome]) -> str:
    """Columns for a terminal."""
    lines: list[str] = []
    for outcome in outcomes:
        cells = [(outcome.title, *HEADINGS[1:]), *(_cells(row) for row in outcome.rows)]
        widths = [max(len(line[column]) for line in cells) for column in range(len(HEADINGS))]
        for line in cells:
            padded = (
                text.ljust(width) if column in (0, 4, 7) else text.rjust(width)
                for column, (text, width) in enumerate(zip(line, widths, strict=True))
            )
            lines.append("  ".join(padded).rstrip())
        lines += [f"  {_fact_line(fact)}" for fact in outcome.facts]
        lines += [f"  {note}" for note in outcome.notes]
        lines.append("")
    return "\n".join(lines)


def _fact_line(fact: Fact) -> str:
    aim = f" (aim {fact.aim}: {_verdict(fact.met)})" if fact.aim else ""
    return f"{fact.name}: {fact.value}{aim}"


def _verdict(met: bool | None) -> str:
    return "" if met is None else "met" if met else "MISSED"


def markdown(outcomes: Sequence[Outcome], surroundings: Surroundings) -> str:
    """The file that is kept."""
    lines = [_INTRODUCTION]
    lines += [f"- {name}: {value}" for name, value in surroundings.facts.items()]
    for outcome in outcomes:
        lines += ["", f"## {outcome.title}", ""]
        lines.append("| " + " | ".join(HEADINGS) + " |")
        lines.append("| --- | ---: | ---: | ---: | --- | ---: | ---: | --- |")
        lines += ["| " + " | ".join(_cells(row)) + " |" for row in outcome.rows]
        if outcome.facts:
            lines += ["", "|  |  | aim |  |", "| --- | ---: | ---: | --- |"]
            lines += [
                f"| {fact.name} | {fact.value} | {fact.aim} | {_verdict(fact.met)} |"
                for fact in outcome.facts
            ]
        lines += [line for note in outcome.notes for line in ("", note)]
    return "\n".join(lines) + "\n"


def as_json(outcomes: Sequence[Outcome], surroundings: Surroundings) -> dict[str, Any]:
    """Everything, with every sample, in seconds and bytes."""
    return {
        "schema": 1,
        "surroundings": surroundings.facts,
        "groups": [
            {
                "title": outcome.title,
                "rows": [_row_data(row) for row in outcome.rows],
                "facts": [asdict(fact) for fact in outcome.facts],
                "notes": outcome.notes,
            }
            for outcome in outcomes
        ],
    }


def _row_data(row: Row) -> dict[str, Any]:
    series = row.series
    return {
        "name": series.name,
        "seconds": series.seconds,
        "failures": series.failures,
        "median": series.median if series.seconds else None,
        "min": series.least if series.seconds else None,
        "peak": series.peak,
        "against": row.against.name if row.against else None,
        "ratio": row.ratio,
        "aim": str(row.aim) if row.aim else None,
        "met": row.met,
    }


def _cells(row: Row) -> tuple[str, ...]:
    series, ratio = row.series, row.ratio
    count = str(len(series.seconds))
    if series.failures:
        count += f" ({series.failures} failed)"
    return (
        series.name,
        count,
        _time(series.median) if series.seconds else "-",
        _time(series.least) if series.seconds else "-",
        row.against.name if row.against else "",
        f"{ratio:.2f}" if ratio is not None else "",
        str(row.aim) if row.aim else "",
        _verdict(row.met),
    )


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _version(program: str, option: str) -> str:
    """The first line of what a program says about itself."""
    if shutil.which(program) is None:
        return "not installed"
    done = subprocess.run([program, option], capture_output=True, text=True, check=False)
    lines = (done.stdout + done.stderr).splitlines()
    return lines[0].strip() if lines else "unknown"


def complain(message: str) -> None:
    """Tell the person on the terminal."""
    print(message, file=sys.stderr, flush=True)
