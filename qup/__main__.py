"""The entry point: ``qup`` and ``python -m qup``."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run qup with the words of the command line, and exit."""
    if sys.argv[1:] == ["--version"]:  # nothing needs to be imported for that
        from qup import __version__

        sys.stdout.write(f"qup {__version__}\n")
        return
    try:
        import gc

        from qup.cli.main import run

        # pydantic's own plugins could only slow us down, or break us by being broken.
        os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

        gc.set_threshold(50_000)  # most commands end before a collection could be of any use
        code = run(sys.argv[1:])
    except KeyboardInterrupt:
        code = 130
    # Everything is written and closed; taking the interpreter apart would cost 7 ms more.
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
