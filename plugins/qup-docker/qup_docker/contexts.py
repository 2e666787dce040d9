"""Contexts of the ``docker`` command: a name for an engine that is there in every shell.

A context has the address in it, and copies of the certificates. qup remembers the one that was
made for a machine and tells it of the new port at each ``qup up``.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

from qup.api import HostError, QupError, Result, run, write_atomic
from qup_docker.certificates import CA, CLIENT, CLIENT_KEY

NOTE = "context"
"""The file that has the name of the machine's context."""
PATIENCE = 60.0


def name_context(project: Path, machine: str) -> str:
    """The name of a machine's context, unless the user wants another.

    Docker's names have letters, digits and ``_.+-`` (cli/context/store).
    """
    folder = re.sub(r"[^A-Za-z0-9_.+-]+", "-", project.name).strip("-.") or "project"
    return folder if machine == "default" else f"{folder}-{machine}"


def describe_context(project: Path, machine: str) -> str:
    """What a context of qup's is known by, also when its machine is no more."""
    return f"machine {machine} of {project}"


def find_context(folder: Path) -> str | None:
    """The name of the context that was made for a machine."""
    try:
        return (folder / NOTE).read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


def make_context(folder: Path, name: str, url: str, description: str) -> bool:
    """Make a context, or mend the one that there is; whether it is new.

    One that an earlier machine of that place has left behind is known by its description.

    Raises:
        HostError: there is no ``docker`` here, or it refuses.
    """
    words = ["--description", description, "--docker", describe_endpoint(folder, url)]
    known = _docker("context", "inspect", name, check=False)
    if known.code == 0 and name != find_context(folder) and read_title(known.stdout) != description:
        raise QupError(
            f"docker has a context {name!r} already, which is not this machine's",
            hint="take another name: --name NAME",
        )
    _docker("context", "create" if known.code else "update", *words, name)
    write_atomic(folder / NOTE, f"{name}\n")
    return known.code != 0


def adopt_context(folder: Path, description: str) -> None:
    """Take over the context that an earlier machine of that place has left behind, if there is
    one: whoever uses it has destroyed and made the machine anew, and means this one.
    """
    if find_context(folder) is not None:
        return
    try:
        listed = _docker("context", "ls", "--format", "{{json .}}", check=False).stdout
    except HostError:
        return  # there is no docker here
    for line in listed.splitlines():
        with contextlib.suppress(ValueError, LookupError, TypeError):
            found = json.loads(line)
            if found["Description"] == description:
                write_atomic(folder / NOTE, f"{found['Name']}\n")
                return


def read_title(inspected: str) -> str | None:
    """The description in what ``docker context inspect`` has said."""
    try:
        return str(json.loads(inspected)[0]["Metadata"]["Description"])
    except (ValueError, LookupError, TypeError):
        return None


def use_context(name: str) -> None:
    """Make ``docker`` use a context wherever nothing else is said.

    Raises:
        HostError: there is no ``docker`` here, or it refuses.
    """
    _docker("context", "use", name)


def remove_context(folder: Path) -> str | None:
    """Remove a machine's context; its name, if there was one.

    Raises:
        HostError: there is no ``docker`` here, or it refuses.
    """
    name = find_context(folder)
    if name is None:
        return None
    _docker("context", "rm", "--force", name)
    (folder / NOTE).unlink(missing_ok=True)
    return name


def refresh_context(folder: Path, url: str) -> Iterator[str]:
    """Tell a machine's context, if it has one, where the engine is now; says what was done."""
    name = find_context(folder)
    if name is None:
        return
    try:
        if _docker("context", "inspect", name, check=False).code != 0:
            (folder / NOTE).unlink(missing_ok=True)
            yield f"docker's context {name} is gone; 'qup docker context create' makes it again"
            return
        _docker("context", "update", "--docker", describe_endpoint(folder, url), name)
    except HostError as exc:
        yield f"docker's context {name} was left as it is: {exc.message}"
    else:
        yield f"docker's context {name} leads there"


def describe_endpoint(folder: Path, url: str) -> str:
    """An engine's address and the files to reach it by, as ``--docker`` takes it: a line of CSV."""
    line = io.StringIO()
    words = [
        f"host={url}",
        *(f"{key}={folder / name}" for key, name in
          (("ca", CA), ("cert", CLIENT), ("key", CLIENT_KEY))),
    ]  # fmt: skip
    csv.writer(line, lineterminator="").writerow(words)
    return line.getvalue()


def _docker(*words: str, check: bool = True) -> Result:
    done = run(["docker", *words], check=False, timeout=PATIENCE)
    if check and done.code != 0:
        said = (done.stderr or done.stdout).strip()
        raise HostError(f"docker {' '.join(words[:2])}: {done.outcome}", details=said or None)
    return done
