"""``qup plugins``."""

from __future__ import annotations

from dataclasses import asdict

import typer

from qup.cli.commands import COMMANDS
from qup.cli.common import AsJson, print_json, print_table
from qup.model.text import printable
from qup.plugins import Plugins

app = typer.Typer(
    add_completion=False,
    rich_markup_mode="markdown",
    no_args_is_help=True,
    help="Plugins: what they add to qup.",
)


@app.callback()
def root() -> None:
    """Plugins: what they bring, and which are broken."""


@app.command("list")
def list_plugins(as_json: AsJson = False) -> None:
    """List all plugins with what they add, and what is wrong with the broken ones.

    A broken plugin is named in one line on standard error; `--json` has its traceback, too.

    Examples: `qup plugins list`, `qup plugins list --json | jq -r '.failures[].log'`
    """
    plugins = Plugins()
    plugins.reserve("command", COMMANDS)
    plugins.collect_all()
    broken = {failure.plugin for failure in plugins.failures}
    if as_json:
        print_json(
            {
                "plugins": [
                    {**asdict(item), "ok": item.name not in broken}
                    for item in plugins.plugins.values()
                ],
                "failures": [asdict(item) for item in plugins.failures],
            }
        )
        return
    rows = [
        [item.name, "built in" if item.builtin else item.version or "-",
         "broken" if item.name in broken else "ok", ", ".join(item.brings) or "-"]
        for item in plugins.plugins.values()
    ]  # fmt: skip
    print_table(
        ["PLUGIN", "VERSION", "STATE", "BRINGS"],
        [[printable(cell) for cell in row] for row in rows],
    )
    for failure in plugins.failures:
        typer.secho(f"warning: {printable(str(failure))}", fg=typer.colors.YELLOW, err=True)
