"""``python -m scripts.picture``: draw ``docs/images/up.svg`` from a real run.

Runs qup in ``examples/hello`` on a terminal of its own, so that the live display is what is
drawn, and keeps what the terminal shows at the end.
"""

from __future__ import annotations

import fcntl
import io
import itertools
import os
import pty
import re
import shlex
import struct
import subprocess
import sys
import termios
from pathlib import Path

from rich.console import Console  # noqa: TID251  it draws what qup's own wrote
from rich.terminal_theme import TerminalTheme  # noqa: TID251
from rich.text import Text  # noqa: TID251

ROOT = Path(__file__).resolve().parent.parent
PROJECT = ROOT / "examples" / "hello"
PICTURE = ROOT / "docs" / "images" / "up.svg"
TITLE = "examples/hello"
COMMANDS = ("qup up", "qup status", "qup ssh -- uname -a", "qup destroy -y")
COLUMNS, LINES = 106, 40

THEME = TerminalTheme(
    (24, 27, 33),
    (214, 219, 225),
    [
        *((40, 44, 52), (224, 108, 117), (126, 199, 120), (229, 192, 123)),
        *((97, 175, 239), (198, 120, 221), (86, 182, 194), (171, 178, 191)),
    ],
)

TEMPLATE = """\
<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg" role="img">
<title>qup up, qup status, qup ssh and qup destroy in a terminal</title>
<style>
.{unique_id}-matrix {{
  font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: {char_height}px;
  line-height: {line_height}px;
}}
.{unique_id}-title {{ font: 16px system-ui, sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/>
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">{matrix}</g>
</g>
</svg>
"""
"""As rich draws a terminal, with the reader's own fonts instead of some from the network."""

_SEQUENCE = re.compile(r"\x1b\[(?P<parameters>[0-9;?]*)(?P<final>[A-Za-z])|\x1b\][^\x07]*\x07")


class Screen:
    """What a terminal shows after the output that qup makes: enough of one for that.

    Understands carriage return, line feed, the cursor's way up (CSI A), erasing a line (CSI K)
    and a screen's rest (CSI J), and keeps colours (CSI m) where they were printed.
    """

    def __init__(self) -> None:
        self._rows: list[list[tuple[str, str]]] = [[]]  # each character with its style
        self._row = self._column = 0
        self._style = ""

    def feed(self, output: str) -> None:
        """Print something."""
        position = 0
        for match in _SEQUENCE.finditer(output):
            self._print(output[position : match.start()])
            position = match.end()
            if match["final"]:
                self._control(match["final"], match["parameters"])
        self._print(output[position:])

    def _control(self, final: str, parameters: str) -> None:
        match final:
            case "m":
                self._style = f"\x1b[{parameters}m" if parameters not in ("", "0") else ""
            case "A":
                self._row = max(0, self._row - int(parameters or 1))
            case "K":
                del self._rows[self._row][0 if parameters == "2" else self._column :]
            case "J":
                del self._rows[self._row + 1 :]
            case _:  # the cursor is shown or hidden
                pass

    def _print(self, text: str) -> None:
        for char in text:
            if char == "\r":
                self._column = 0
            elif char == "\n":
                self._row += 1
                if self._row == len(self._rows):
                    self._rows.append([])
            elif char.isprintable():
                self._put(char)

    def _put(self, char: str) -> None:
        row = self._rows[self._row]
        row.extend([("", " ")] * (self._column + 1 - len(row)))
        row[self._column] = (self._style, char)
        self._column += 1

    def lines(self) -> list[str]:
        """The lines, with colours, without those at the end that are empty."""
        lines = [_join(row) for row in self._rows]
        while lines and not lines[-1].strip():
            lines.pop()
        return lines


def _join(row: list[tuple[str, str]]) -> str:
    text = ""
    for style, cells in itertools.groupby(row, key=lambda cell: cell[0]):
        run = "".join(char for _, char in cells)
        text += f"{style}{run}\x1b[0m" if style else run
    return text


def run_on_terminal(command: str) -> str:
    """Run a command on a terminal of its own, and return what it wrote there.

    Raises:
        SystemExit: it failed; what it wrote is the message.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    words = [sys.executable, "-m", *shlex.split(command)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color"}
    environment |= {"COLUMNS": str(COLUMNS), "LINES": str(LINES)}
    environment.pop("NO_COLOR", None)
    with subprocess.Popen(
        words,
        cwd=PROJECT,
        env=environment,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    ) as process:
        os.close(theirs)
        output = _read_all(ours)
    if process.returncode != 0:
        sys.exit(f"{command} ended with {process.returncode}:\n{output}")
    return output


def _read_all(terminal: int) -> str:
    chunks = []
    with os.fdopen(terminal, "rb", buffering=0) as stream:
        try:
            while chunk := stream.read(65536):
                chunks.append(chunk)
        except OSError:  # EIO: nobody has the other end any more
            pass
    return b"".join(chunks).decode(errors="replace")


def record() -> list[str]:
    """The lines of a whole session; the machine is gone at the end, whatever happens."""
    screen = Screen()
    try:
        for number, command in enumerate(COMMANDS):
            output = run_on_terminal(command)
            if str(ROOT) in output:
                sys.exit(f"{command} names a folder of this computer:\n{output}")
            blank = "\r\n" if number else ""
            screen.feed(f"{blank}\x1b[1;36m$ \x1b[0m\x1b[1m{command}\x1b[0m\r\n{output}")
    finally:
        subprocess.run(
            [sys.executable, "-m", "qup", "destroy", "-y"],
            cwd=PROJECT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            check=False,
            capture_output=True,
        )
    return screen.lines()


def draw(lines: list[str]) -> str:
    """The picture of a terminal with these lines."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    for line in [*lines, ""]:  # the last line's lower half would be cut off
        console.print(Text.from_ansi(line), soft_wrap=False, highlight=False)
    svg = console.export_svg(
        title=TITLE, theme=THEME, code_format=TEMPLATE, unique_id="qup", font_aspect_ratio=0.602
    )
    return "\n".join(line.strip() for line in svg.splitlines() if line.strip()) + "\n"


def main() -> int:
    """Run the session and write the picture; returns the exit code."""
    lines = record()
    PICTURE.write_text(draw(lines), encoding="utf-8")
    print("\n".join(Text.from_ansi(line).plain for line in lines))
    print(f"\nwrote {PICTURE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
