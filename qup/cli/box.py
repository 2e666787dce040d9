"""``qup box``: what machines boot from."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Annotated, Any

import typer

from qup.boxes.cache import BoxCache
from qup.cli import box_catalog, box_export
from qup.cli.common import AsJson, Quiet, ThoughNeeded, print_json, print_table, refuse_needed
from qup.cli.main import globals_of
from qup.errors import BoxError, ConfigError
from qup.locks import lock
from qup.model.box import Box
from qup.model.units import format_size
from qup.paths import Project, boxes_root
from qup.runner.context import Context
from qup.store import indexed, read_state
from qup.ui import open_interface

app = typer.Typer(
    add_completion=False,
    rich_markup_mode="markdown",
    no_args_is_help=True,
    help="Boxes: what machines boot from.",
)
for command in (
    box_catalog.search,
    box_catalog.add,
    box_catalog.outdated,
    box_catalog.update,
    box_catalog.prune,
    box_export.export,
):
    app.command()(command)


def complete_boxes(incomplete: str) -> list[str]:
    """Names of boxes for tab completion."""
    names = {box.spec.name for box in BoxCache(boxes_root()).boxes()} | {"tiny"}
    return sorted(name for name in names if name.startswith(incomplete))


BoxName = Annotated[
    str,
    typer.Argument(
        metavar="BOX",
        help="A box's name, path, or the beginning of its digest.",
        autocompletion=complete_boxes,
    ),
]


def open_context(ctx: typer.Context, listener: Any = None) -> Context:
    """A project is not needed here: boxes belong to the user."""
    settings = globals_of(ctx)
    try:
        return settings.context(listener)
    except ConfigError:
        context = Context(Project(settings.directory.absolute()))
        context.lock_timeout = settings.lock_timeout
        if listener is not None:
            context.listener = listener
        return context


def users_of(box: Box) -> list[str]:
    """Machines of this user whose disk is based on a box: ``project: name``."""
    found = []
    for entry in indexed():
        try:
            state = read_state(Project(entry.project).machine(entry.name))
        except Exception:  # noqa: S112  a broken machine has no say here
            continue
        if state is not None and state.box_digest == box.digest:
            found.append(f"{entry.project}: {entry.name}")
    return found


@app.command("list")
def list_boxes(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List the boxes in the cache, and the names of others that are available.

    Example: `qup box list`
    """
    context = open_context(ctx)
    boxes = context.boxes.boxes()
    known = sorted({name for src in context.plugins.box_sources.values() for name in src.names()})
    if as_json:
        print_json(
            {
                "boxes": [
                    {**asdict(box), "size": box.size, "used_by": users_of(box)} for box in boxes
                ],
                "available": known,
            }
        )
        return
    rows = [
        [box.spec.name, box.spec.arch, box.spec.version or "-", box.digest[:12],
         format_size(box.size), box.created[:16].replace("T", " "), str(len(users_of(box)))]
        for box in boxes
    ]  # fmt: skip
    print_table(["BOX", "ARCH", "VERSION", "DIGEST", "SIZE", "MADE (UTC)", "MACHINES"], rows)
    missing = [name for name in known if all(box.spec.name != name for box in boxes)]
    if missing:
        typer.echo(f"not here yet: {', '.join(missing)}; 'qup box build NAME' or 'qup up' gets it")


@app.command()
def build(
    ctx: typer.Context,
    name: BoxName = "tiny",
    force: Annotated[
        bool, typer.Option("--force", help="Make the box again, with today's packages.")
    ] = False,
    arch: Annotated[str, typer.Option(help="The guest's processor.")] = "x86_64",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Make or fetch a box now instead of at the first `qup up`.

    Existing machines keep the box that their disk is based on.

    Examples: `qup box build tiny`, `qup box build tiny --force`
    """
    from qup.runner.boxes import fetch_box
    from qup.runner.prepare import resolve_box

    with open_interface(as_json=as_json, quiet=quiet) as show:
        context = open_context(ctx, show)
        spec, _ = resolve_box(context, name, arch)
        box = None if force else context.boxes.find(spec)
        if box is None:
            box = fetch_box(context, "", spec, again=force)
        else:
            context.tell("", f"box {name} is here already ({box.digest[:12]})")
    if not as_json:
        typer.echo(context.boxes.folder(box.digest))


def _choose(cache: BoxCache, name: str) -> Box:
    boxes = cache.boxes()
    found = [box for box in boxes if box.spec.name == name]
    if not found and len(name) >= 4:
        found = [box for box in boxes if box.digest.startswith(name)]
    if not found:
        known = ", ".join(sorted({box.spec.name for box in boxes})) or "none"
        raise BoxError(f"box {name!r} is not in the cache", hint=f"there are: {known}")
    return found[0]


@app.command()
def path(ctx: typer.Context, name: BoxName = "tiny", as_json: AsJson = False) -> None:
    """Print the folder of a box.

    Example: `ls $(qup box path tiny)`
    """
    cache = open_context(ctx).boxes
    box = _choose(cache, name)
    if as_json:
        print_json({"path": os.fspath(cache.folder(box.digest)), "digest": box.digest})
    else:
        typer.echo(cache.folder(box.digest))


@app.command()
def verify(ctx: typer.Context, name: BoxName = "tiny", as_json: AsJson = False) -> None:
    """Hash all files of a box, and compare them with what was recorded when it was made.

    Example: `qup box verify tiny`
    """
    cache = open_context(ctx).boxes
    box = _choose(cache, name)
    cache.check(box, thorough=True)
    if as_json:
        print_json({"box": box.spec.name, "digest": box.digest, "intact": True})
    else:
        typer.echo(f"box {box.spec.name} ({box.digest[:12]}) is as it was made")


@app.command()
def rm(
    ctx: typer.Context,
    name: BoxName,
    force: ThoughNeeded = False,
    as_json: AsJson = False,
) -> None:
    """Remove a box from the cache. A box that a machine's disk is based on is kept.

    Example: `qup box rm tiny`
    """
    context = open_context(ctx)
    cache = context.boxes
    with lock(cache.lock_path, what="the cache of boxes", timeout=context.lock_timeout):
        box = _choose(cache, name)
        users = users_of(box)
        if users and not force:
            refuse_needed(BoxError, f"box {box.spec.name} ({box.digest[:12]})", users)
        cache.remove(box)
    if as_json:
        print_json({"removed": box.spec.name, "digest": box.digest, "size": box.size})
        return
    typer.echo(f"removed box {box.spec.name} ({box.digest[:12]}), {format_size(box.size)}")
