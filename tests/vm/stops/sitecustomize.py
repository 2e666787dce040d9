"""Python loads this at its start if the folder is on its path: see the package's own words.

``QUP_TEST_STOP`` is an audit event and the end of a path, or lines of these: the last counts once
those before it have come to pass. ``QUP_TEST_TRACE`` is a file that
gets a line for each event with a path, for whoever looks for a place.
"""

import os
import signal
import sys


def _texts(found):
    for item in found:
        if isinstance(item, (list, tuple)):
            yield from _texts(item)
        elif isinstance(item, (str, bytes)):
            yield os.fsdecode(item)


def _stop_at(places):
    left = list(places)

    def hook(name, found):
        if not left or name != left[0][0]:
            return
        if any(text.endswith(left[0][1]) for text in _texts(found)):
            del left[0]
            if not left:
                os.kill(os.getpid(), signal.SIGSTOP)

    sys.addaudithook(hook)


def _trace(path):
    out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def hook(name, found):
        written = name == "open" and isinstance(found[2], int) and found[2] & 3
        if written or name.startswith(("os.", "shutil.", "subprocess.")):
            os.write(out, f"{name} {' '.join(_texts(found))}\n".encode())

    sys.addaudithook(hook)


# Programs that it starts are not stopped.
if _where := os.environ.pop("QUP_TEST_STOP", ""):
    _stop_at([_line.split(" ", 1) for _line in _where.splitlines()])
if _trace_file := os.environ.pop("QUP_TEST_TRACE", ""):
    _trace(_trace_file)
