"""Tables of the reference that come from single modules: exit codes, events."""

from __future__ import annotations

import dataclasses
import re

from qup import errors
from qup.cli.main import PIPE_EXIT_CODE
from qup.errors import BUG_EXIT_CODE, Interrupted, QupError
from qup.model import events
from qup.model.events import Event
from qup.model.runstate import RUN_STATES
from scripts.docs.markdown import code, docstring, table

DONE = "Done; also when it was so already."
BUG = "A bug in qup. The message names a file to send with a report."
PIPE = "Whoever read the output has stopped reading (`qup logs | head -1`)."
OWN_WORDS: dict[type[QupError], str] = {
    QupError: "Any other failure that qup can explain.",
    Interrupted: "Ctrl-C or SIGTERM: what was started has been stopped again.",
}
"""For those whose docstring is for developers."""


def write_exit_codes() -> str:
    """One line for each code that qup itself ends with."""
    rows = {0: ["", DONE], BUG_EXIT_CODE: ["", BUG], PIPE_EXIT_CODE: ["", PIPE]}
    kinds: list[type[QupError]] = [QupError, *QupError.__subclasses__()]
    for kind in kinds:
        if kind.__module__ == errors.__name__:
            text = OWN_WORDS.get(kind) or docstring(kind.__doc__).split("\n\n")[0]
            rows[kind.exit_code] = [code(kind.kind), text]
    ordered = [[code(str(number)), *rows[number]] for number in sorted(rows)]
    return table(["Code", "`kind` in JSON", "Meaning"], ordered)


def write_events() -> str:
    """The lines of ``--json`` of the verbs that take time."""
    rows = []
    for kind in Event.__subclasses__():
        if kind.__module__ == events.__name__:
            keys = [code(field.name) for field in dataclasses.fields(kind)]
            rows.append([code(kind.kind), ", ".join(keys), docstring(kind.__doc__)])
    return table(["`event`", "Other keys", "What happened"], rows)


def write_run_states() -> str:
    """QEMU's run states in qup's words."""
    rows = [
        [code(name), code(state.word), state.meaning,
         re.sub(r"'(qup [^']+)'", r"`\1`", state.advice), state.way.value]
        for name, state in RUN_STATES.items()
    ]  # fmt: skip
    headings = ["In QEMU", "Word", "What is so", "What to do", "What `qup up` does"]
    return table(headings, rows)
