"""``qup doctor``: can machines run on this computer, and what would help."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Literal

import typer

from qup.api import Finding
from qup.cli.common import AsJson, print_json
from qup.errors import HostError, QupError
from qup.host import LocalHost
from qup.model.text import printable
from qup.plugins import Plugins
from qup.process import quote
from qup.runner.orphans import Orphan, end_orphan, find_orphans

PROGRAM = "qemu-system-x86_64"
MARKS = {
    "ok": ("✓", "green"),
    "note": ("-", "white"),
    "warning": ("!", "yellow"),
    "problem": ("✗", "red"),
}


@dataclass(frozen=True)
class Diagnosis:
    """A finding, and the check that found it."""

    check: str
    finding: Finding


def doctor(
    fix: Annotated[
        bool,
        typer.Option("--fix", help="Install what is missing, and end orphaned QEMU processes."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask before installing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check this computer: what is there, what is missing, which accelerator works and why.

    `--fix` shows each command before running it, and uses sudo where needed.

    Examples: `qup doctor`, `qup doctor --fix`
    """
    plugins, host = Plugins(), LocalHost()
    found = examine(plugins, host)
    if fix:
        if _fix(found, yes=yes):
            found = examine(Plugins(), LocalHost())
        for orphan in find_orphans():
            end_orphan(orphan)
            typer.echo(f"ended QEMU (pid {orphan.pid}) of a machine that is gone")
    else:
        found += [Diagnosis("orphans", _describe_orphan(orphan)) for orphan in find_orphans()]
    problems = [item for item in found if item.finding.status == "problem"]
    if as_json:
        findings = [{"check": item.check, **asdict(item.finding)} for item in found]
        print_json({"ok": not problems, "findings": findings})
        raise typer.Exit(HostError.exit_code if problems else 0)
    for item in found:
        _print(item)
    if problems:
        raise HostError(
            f"{len(problems)} problems keep machines from running on this computer",
            hint=None if fix else "'qup doctor --fix' installs what is missing",
        )


def examine(plugins: Plugins, host: LocalHost) -> list[Diagnosis]:
    """Run all checks; one that raises is a warning that names it."""
    found: list[Diagnosis] = []
    for check in plugins.checks.values():
        try:
            found += [Diagnosis(check.name, finding) for finding in check.run(host)]
        except QupError as exc:
            found.append(Diagnosis(check.name, Finding("warning", exc.message, exc.hint)))
        except Exception as exc:
            text = f"the check itself failed: {type(exc).__name__}: {exc}"
            found.append(Diagnosis(check.name, Finding("warning", text)))
    found += [Diagnosis("accelerator", finding) for finding in _accelerators(plugins, host)]
    found += [Diagnosis("plugins", Finding("warning", str(item))) for item in plugins.failures]
    return found


def _accelerators(plugins: Plugins, host: LocalHost) -> list[Finding]:
    """The verdict on each accelerator, best first; ``auto`` takes the first that works."""
    if host.which(PROGRAM) is None:
        return []
    found = []
    chosen = False
    for item in sorted(plugins.accelerators.values(), key=lambda item: -item.priority):
        try:
            verdict = item.usable(host, PROGRAM, "x86_64", prove=True)
        except QupError as exc:
            found.append(Finding("warning", f"{item.name}: {exc.message}", exc.hint))
            continue
        except Exception as exc:
            found.append(Finding("warning", f"{item.name}: {type(exc).__name__}: {exc}"))
            continue
        taken = verdict.usable and not chosen
        chosen = chosen or verdict.usable
        text = f"{item.name}: {'works' if verdict.usable else 'not usable'}, {verdict.reason}"
        if taken:
            text += "; 'auto' takes it"
        status: Literal["ok", "note"] = "ok" if verdict.usable else "note"
        found.append(Finding(status, text, verdict.hint))
    if not chosen:
        found.append(Finding("problem", "no accelerator works"))
    return found


def _describe_orphan(orphan: Orphan) -> Finding:
    return Finding(
        "warning",
        f"QEMU (pid {orphan.pid}) runs a machine whose project is gone",
        "'qup doctor --fix' ends it",
    )


def _print(item: Diagnosis) -> None:
    mark, colour = MARKS[item.finding.status]
    typer.secho(f"{mark} ", fg=colour, nl=False)
    typer.echo(f"{item.check}: {printable(item.finding.message)}")
    if item.finding.hint:
        typer.echo(f"    {printable(item.finding.hint)}")


def _fix(found: Sequence[Diagnosis], *, yes: bool) -> bool:
    """Install packages and run fixes; whether anything was done."""
    packages = sorted({name for item in found for name in item.finding.packages})
    commands = [list(item.finding.fix) for item in found if item.finding.fix]
    if packages:
        commands[:0] = _install_commands(packages)
    if not commands:
        return False
    for words in commands:
        typer.echo(f"$ {quote(words)}", err=True)
    if not yes and not (sys.stdin.isatty() and typer.confirm("Run that?", default=True, err=True)):
        raise HostError("nothing was installed", hint="--yes goes ahead without asking")
    for words in commands:
        _run_visibly(words)
    return True


def _install_commands(packages: Sequence[str]) -> list[list[str]]:
    if shutil.which("apt-get") is None:
        raise HostError(
            f"packages are missing: {', '.join(packages)} (Debian's names)",
            hint="install them with your system's package manager; 'qup doctor' has the names",
        )
    prefix = _privilege(packages)
    environment = ["env", "DEBIAN_FRONTEND=noninteractive"]
    return [
        [*prefix, "apt-get", "-q", "update"],
        [*prefix, *environment, "apt-get", "-qy", "install", "--no-install-recommends", *packages],
    ]


def _privilege(packages: Sequence[str]) -> list[str]:
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo") is not None and _sudo_works():
        return ["sudo"]
    raise HostError(
        "installing packages needs root, and sudo can't be used here",
        hint=f"ask your administrator for: {' '.join(packages)}",
    )


def _sudo_works() -> bool:
    if sys.stdin.isatty():
        return True
    done = subprocess.run(["sudo", "-n", "true"], capture_output=True, check=False)
    return done.returncode == 0


def _run_visibly(words: Sequence[str]) -> None:
    done = subprocess.run(words, stdout=sys.stderr, check=False)
    if done.returncode != 0:
        raise HostError(f"failed: {quote(words)}", hint="see its own messages above")
