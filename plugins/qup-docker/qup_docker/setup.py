"""What the step does: look, make certificates, change what differs, and knock at the door."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from qup.api import Guest, MachineError, ProvisionError, run
from qup_docker import PORT
from qup_docker.boot2docker import Boot2Docker, RancherOs
from qup_docker.certificates import keep_credentials
from qup_docker.contexts import adopt_context, describe_context, refresh_context
from qup_docker.engine import ask_version
from qup_docker.guests import ROOT, Facts, Family, look, run_script, write_files
from qup_docker.systemd import DAEMON, PATHS, Systemd, write_installation

Report = Callable[[str], None]

_TELLING = re.compile(r"\b(level=(fatal|error)|unable to|failed to|error)\b", re.IGNORECASE)
NOT_TELLING = ("docker.service: Failed", "Failed to start docker.service")


def set_up(options: Any, guest: Guest, project: Path, report: Report) -> None:
    """Make a guest a Docker host that is as the options say.

    Raises:
        ProvisionError: it can't be one, or its engine doesn't come up.
    """
    facts = look(guest, (*PATHS, *Boot2Docker.PATHS, *RancherOs.PATHS))
    family = choose_family(facts)
    if isinstance(family, Systemd) and needs_installation(facts):
        install(guest, facts, options, report)
        facts = look(guest, PATHS)
    names = [*facts.names, *find_way(guest), *options.names]
    made = keep_credentials(guest.folder, guest.name, names)
    for what in made.made:
        report(f"certificate made: {what}")
    if made.made:
        adopt_context(guest.folder, describe_context(project, guest.name))
    files = family.files(facts, options, made.ca, made.certificate, made.key)
    changed = facts.differs(files)
    if changed:
        for path in changed:
            report(f"{'changed' if path in facts.digests else 'new'}: {path}")
        again = " anew" if facts.get("active") == "active" else ""
        report(f"starting the engine{again}")
        script = family.settle() + write_files({path: files[path] for path in changed})
        start(guest, family, script + family.restart(changed))
    elif facts.get("active") != "active":
        start(guest, family, family.start())
    admit_user(guest, facts, report)
    knock(guest, family, report)


def choose_family(facts: Facts) -> Family:
    """How a guest's engine is configured.

    Raises:
        ProvisionError: nobody knows.
    """
    if facts.get("id") == "boot2docker":
        return Boot2Docker()
    if facts.get("id") == "rancheros":
        return RancherOs()
    if facts.get("systemd"):
        return Systemd()
    title = facts.get("title") or facts.get("id") or "this guest"
    raise ProvisionError(
        f"{title} can't be made a Docker host: it has no systemd, and is neither boot2docker nor"
        " RancherOS",
        hint='take a box such as "debian/12"',
    )


def find_way(guest: Guest) -> list[str]:
    """The address at which this computer reaches the engine, if it does: the guest's own, or one
    of this computer that a forward of the Qupfile names.
    """
    try:
        return [guest.reach(PORT)[0]]
    except MachineError:
        return []  # knock() says so, when all else is done


def needs_installation(facts: Facts) -> bool:
    """Whether there is no engine, none that could start a container, or half of one: what apt was
    doing when it was killed.
    """
    lacks_parser = facts.get("apparmor") == "Y" and not facts.get("parser")
    incomplete = lacks_parser or facts.get("half")
    return not facts.get("engine") or bool(incomplete and facts.get("apt"))


def install(guest: Guest, facts: Facts, options: Any, report: Report) -> None:
    """Install an engine by the guest's own packages.

    Raises:
        ProvisionError: it may not, can't, or didn't work.
    """
    script = write_installation(facts)
    title = facts.get("title") or "the guest"
    if script is None or not options.install:
        said = f"there is no package of one that qup knows for {title}"
        reason = said if options.install else "install = false"
        raise ProvisionError(
            f"the guest has no Docker engine, and {reason}",
            hint="install one by a step before this one, or take a box that has it:"
            ' recipe = { suite = "bookworm", packages = ["docker.io", "apparmor"] }',
        )
    report(f"installing Docker's engine in {title}")
    code = guest.stream([*ROOT[:-1], "-c", script], report)
    if code != 0:
        raise ProvisionError(
            f"Docker's engine could not be installed: apt-get ended with {code}",
            hint="can the guest reach its package sources? 'qup ssh -- sudo apt-get update'",
        )


def start(guest: Guest, family: Family, script: str) -> None:
    """Run a script that starts the engine.

    Raises:
        ProvisionError: the engine didn't come up; its own words are the details.
    """
    done = run_script(guest, script)
    if done.code == 0:
        return
    said = run_script(guest, family.complain()).stdout
    words = find_telling(said.splitlines()) or [done.stderr.strip() or done.stdout.strip()]
    raise ProvisionError(
        "Docker's engine did not start",
        details="\n".join(words)[-2000:] or None,
        hint="its options are those of the step 'docker' in the Qupfile"
        + (f", and the guest's own in {DAEMON}" if isinstance(family, Systemd) else ""),
    )


def find_telling(lines: Sequence[str]) -> list[str]:
    """Those of an engine's lines that say what is wrong: the newest five."""
    found = [line for line in lines if _TELLING.search(line) and not line.startswith(NOT_TELLING)]
    return found[-5:] or list(lines[-5:])


def admit_user(guest: Guest, facts: Facts, report: Report) -> None:
    """Let the ssh user use the engine, for ``docker -H ssh://``.

    Whoever may do that is root in the guest, and this user is so already by sudo.
    """
    user = facts.get("user")
    if user in ("", "root") or "docker" in facts.get("groups").split():
        return
    done = run_script(
        guest, f"getent group docker >/dev/null || exit 9\nusermod -aG docker {user}\n"
    )
    if done.code == 0:
        report(f"{user} may use the engine")
        # A connection that is there has the groups of its login: new ones get a new login.
        config = ["-F", str(guest.ssh_config)]
        run(["ssh", *config, "-O", "stop", guest.name], check=False)


def knock(guest: Guest, family: Family, report: Report) -> None:
    """Make sure that the engine answers this computer.

    Raises:
        ProvisionError: it doesn't.
    """
    try:
        address, port = guest.reach(PORT)
        version = ask_version(guest.folder, address, port)
    except MachineError as exc:
        said = find_telling(run_script(guest, family.complain()).stdout.splitlines())
        raise ProvisionError(
            f"the engine runs, but doesn't answer: {exc.message}",
            details=exc.details or "\n".join(said) or None,
            hint=exc.hint,
        ) from exc
    report(f"Docker {version} at tcp://{address}:{port}")
    for line in refresh_context(guest.folder, f"tcp://{address}:{port}"):
        report(line)
