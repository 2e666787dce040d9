"""The entry point: ``qup`` and ``python -m qup``."""

from __future__ import annotations

import os
import sys

GARBAGE = 200_000
"""Objects that are made before Python looks for garbage; `up` makes 90,000."""


def main() -> None:
    """Run qup with the words of the command line, and exit."""
    _fill_streams()
    if sys.argv[1:] == ["--version"]:  # nothing needs to be imported for that
        from qup import __version__

        try:
            sys.stdout.write(f"qup {__version__}\n")
            sys.stdout.flush()
        except OSError:
            os._exit(1)
        return
    try:
        import gc

        # Before the imports: what they make stays. Most commands end before a collection could
        # be of any use; one looks at everything, and copies the pages that forked workers share.
        gc.set_threshold(GARBAGE)

        from qup.cli.main import run

        # pydantic's own plugins could only slow us down, or break us by being broken.
        os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

        code = run(sys.argv[1:])
    except KeyboardInterrupt:
        code = 130
    # Everything is written and closed; taking the interpreter apart would cost 7 ms more.
    try:
        sys.stderr.flush()
    except OSError:
        pass  # nobody can be told
    os._exit(code)


def _fill_streams() -> None:
    """A standard stream that was closed would give its number to the next file opened."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
            setattr(sys, name, open(number, "w" if number else "r"))  # noqa: PTH123, SIM115


if __name__ == "__main__":
    main()
