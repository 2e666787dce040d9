"""Other tools with the same guest, where they can run it: from nothing to ``true`` and gone."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from benchmarks.cases import ONE
from benchmarks.measure import Sample, interleave, run
from benchmarks.outcome import Outcome, Row
from benchmarks.warm import has_command
from benchmarks.workshop import Workshop

TRANSIENT = "transient run --ssh-command true"
RUN = "qup run -- true"
COLD = "qup up --cold, qup ssh -- true, qup destroy -y"

WHY_NOT = (
    (
        "virtme-ng boots a kernel over the computer's own files, by 9p or virtiofs. The kernel of"
        " tiny has neither built in: it can't be the same guest."
    ),
    (
        "quicksand waits for an agent of its own inside of images of its own, not for ssh: it"
        " can't be the same guest."
    ),
    (
        "testcloud and vagrant-libvirt start guests through libvirt, whose headers or daemon have"
        " to be on the computer. Both take images with a boot loader, and tiny is a kernel and an"
        " initrd: it can't be the same guest."
    ),
)
"""What isn't measured, and why."""


def measure_peers(workshop: Workshop, rounds: int) -> Outcome:
    """A throw-away guest by qup, and by each peer that can run the same one."""
    project = workshop.project("throw-away", ONE)
    actions: dict[str, Callable[[], Sample]] = {COLD: lambda: _live(workshop, project)}
    if has_command(workshop, project, "run"):
        actions[RUN] = workshop.action(project, "run", "--", "true")
    notes = list(WHY_NOT)
    if shutil.which("transient"):
        transient = _Transient(workshop, workshop.project("transient", ONE))
        actions[TRANSIENT] = transient.run
    else:
        notes.insert(0, "transient is not installed here ('pip install transient').")
    found = interleave(actions, rounds)
    mine = found.get(RUN, found[COLD])
    rows = [Row(series, None if series is mine else mine) for series in found.values()]
    return Outcome("Peers: a guest from nothing to true and gone", rows, notes)


def _live(workshop: Workshop, project: Path) -> Sample:
    samples = [
        workshop.call(project, "up", "--cold"),
        workshop.call(project, "ssh", "--", "true"),
        workshop.call(project, "destroy", "-y"),
    ]
    return Sample(sum(item.seconds for item in samples), max(item.peak for item in samples))


class _Transient:
    """The same kernel, initrd, seed and key, in the hands of transient."""

    def __init__(self, workshop: Workshop, project: Path) -> None:
        workshop.call(project, "up", "--cold")
        seen = workshop.ask(project, "inspect")
        folder = Path(seen["folder"])
        self._project = project
        # It keeps keys and images in the home.
        self._env = {**workshop.env, "HOME": str(project / "home")}
        (project / "home").mkdir()
        shutil.copytree(folder / "ssh", project / "ssh")
        shutil.copy(folder / "seed.iso", project / "seed.iso")
        self._user = str(seen["ssh"]["user"])
        plan = workshop.ask(project, "plan", "--qemu")["arguments"]
        words = [word for argument in plan for word in argument["words"]]
        keep = ("-machine", "-accel", "-cpu", "-smp", "-m", "-kernel", "-initrd", "-append")
        self._argv = [item for name in keep for item in (name, words[words.index(name) + 1])]
        box = Path(words[words.index("-kernel") + 1]).parent
        self._image = f"tiny,file={box / 'disk.qcow2'}"
        workshop.call(project, "destroy", "-y")

    def run(self) -> Sample:
        store = self._project / "store"
        try:
            return run(
                [
                    *("transient", "run", "--vmstore", str(store), "--name", "bench"),
                    *("--image-backend", str(self._project / "images")),
                    *("--ssh-user", self._user, "--ssh-command", "true"),
                    *("--ssh-option", f"IdentityFile={self._project / 'ssh' / 'key'}"),
                    *("--no-virtio-scsi", self._image, "--", *self._argv, "-nodefaults"),
                    *("-drive", f"file={self._project / 'seed.iso'},format=raw,if=virtio"),
                ],
                cwd=self._project,
                env=self._env,
            )
        finally:
            shutil.rmtree(store, ignore_errors=True)
