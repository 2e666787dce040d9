"""``python -m scripts.docs``: fill the generated blocks of the documentation.

With ``--check`` nothing is written: the exit code is 1 if a page is out of date.
"""

from __future__ import annotations

import argparse
import sys

from scripts.docs.pages import ROOT, find_pages, render


def main(words: list[str]) -> int:
    """Write the pages anew, or say which would change; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m scripts.docs", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, only compare")
    check = parser.parse_args(words).check
    stale = 0
    for page in find_pages():
        before = page.read_text(encoding="utf-8")
        after = render(before)
        if after == before:
            continue
        stale += 1
        print(f"{'out of date' if check else 'wrote'}: {page.relative_to(ROOT)}")
        if not check:
            page.write_text(after, encoding="utf-8")
    if check and stale:
        print("'make docs' writes them anew", file=sys.stderr)
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
