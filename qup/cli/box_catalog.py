"""``qup box search``, ``outdated``, ``update``, ``prune``: what there is, and what is too much."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qup.cli.common import AsJson, Quiet, print_json, print_table
from qup.cli.main import globals_of
from qup.errors import BoxError, ConfigError
from qup.model.text import clean_line
from qup.model.units import format_size
from qup.ui import open_interface

if TYPE_CHECKING:
    from qup.api import Offer
    from qup.model.box import Box, BoxSpec
    from qup.runner.context import Context

DRAFT_AGE = 24 * 3600.0
"""Seconds after which nobody is making a box any more."""


def search(
    ctx: typer.Context,
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[WORD]...", help="All of them have to occur.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the boxes that are available by name, from all catalogs. Downloads nothing.

    Examples: `qup box search`, `qup box search ubuntu lts`
    """
    from qup.cli.box import open_context

    found = [offer for offer in list_offers(open_context(ctx)) if _matches(offer, words or [])]
    if as_json:
        print_json({"boxes": [asdict(offer) for offer in found]})
        return
    if not found:
        raise BoxError(
            f"no catalog has a box with {' and '.join(words or [])!s}",
            hint="'qup box search' lists all; a box can also be a path or an address",
        )
    rows = [[offer.name, offer.title, ", ".join(offer.arches) or "-"] for offer in found]
    print_table(["BOX", "WHAT", "FOR"], rows)
    for offer in found:
        if offer.note:
            typer.echo(f"{offer.name}: {clean_line(offer.note)}")


def list_offers(context: Context) -> list[Offer]:
    """What all box sources have by name."""
    from qup.api import Offer

    found: dict[str, Offer] = {}
    for source in context.plugins.box_sources.values():
        offers = getattr(source, "offers", None)
        listed = (
            offers(context.project.root)
            if offers is not None
            else [Offer(name, source.summary) for name in source.names()]
        )
        for offer in listed:
            found.setdefault(offer.name, offer)
    return sorted(found.values(), key=lambda offer: offer.name)


def _matches(offer: Offer, words: list[str]) -> bool:
    text = f"{offer.name} {offer.title}".lower()
    return all(word.lower() in text for word in words)


def outdated(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Check whether there are newer versions of the boxes in the cache.

    Existing machines keep their box; `qup box update` gets the newer ones for new machines.

    Example: `qup box outdated`
    """
    from qup.cli.box import open_context

    context = open_context(ctx)
    rows: list[dict[str, Any]] = []
    for box in _current_boxes(context):
        news, problem = _ask(context, box)
        rows.append({"name": box.spec.name, "arch": box.spec.arch, "digest": box.digest,
                     "created": box.created, "newer": news, "problem": problem})  # fmt: skip
    if as_json:
        print_json({"boxes": rows})
        return
    table = [
        [row["name"], row["arch"], row["created"][:10],
         row["newer"] or (f"not known: {row['problem']}" if row["problem"] else "no")]
        for row in rows
    ]  # fmt: skip
    print_table(["BOX", "ARCH", "MADE", "NEWER"], table)


def _current_boxes(context: Context) -> list[Box]:
    """The newest of each name and processor."""
    newest: dict[tuple[str, str], Box] = {}
    for box in context.boxes.boxes():
        newest.setdefault((box.spec.name, box.spec.arch), box)
    return list(newest.values())


def _ask(context: Context, box: Box) -> tuple[str | None, str | None]:
    """What is newer than a box, and why that isn't known."""
    source = context.plugins.box_sources.get(box.spec.source)
    if source is None:
        return None, f"no plugin brings the box source {box.spec.source!r} now"
    try:
        spec = source.resolve(box.spec.name, box.spec.arch, context.project.root)
        if spec is not None and spec.key != box.spec.key:
            return "it would be made in another way now", None
        ask = getattr(source, "newer", None)
        return (ask(box, context.project.root) if ask is not None else None), None
    except BoxError as exc:
        return None, exc.message


def update(
    ctx: typer.Context,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[BOX]...", help="Default: the project's boxes.")
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Get the project's boxes as they are published now, and pin them in `qup.lock`.

    Existing machines keep the box that their disk is based on.

    Examples: `qup box update`, `qup box update ubuntu/24.04`
    """
    from qup.runner.boxes import fetch_box
    from qup.runner.pins import pin_box
    from qup.runner.prepare import resolve_box

    with open_interface(as_json=as_json, quiet=quiet) as show:
        context = globals_of(ctx).context(show)
        for name, arch in _boxes_to_update(context, names or []):
            spec, _ = resolve_box(context, name, arch)
            box = context.boxes.find(spec)
            if box is not None and not _is_old(context, spec, box):
                context.tell("", f"box {name} is the newest there is ({box.digest[:12]})")
            else:
                box = fetch_box(context, "", spec, again=True)
            pin_box(context, "", box)


def _boxes_to_update(context: Context, names: list[str]) -> list[tuple[str, str]]:
    from qup.cli.settings import Overrides, load_config
    from qup.planner import arch_of

    used = {
        (machine.settings.box, arch_of(machine.settings.qemu.program))
        for machine in load_config(context, Overrides()).machines.values()
    }
    if unknown := sorted(set(names) - {name for name, _ in used}):
        raise ConfigError(
            f"no machine of this project has the box {', '.join(unknown)}",
            hint=f"its boxes are {', '.join(sorted({name for name, _ in used}))}",
        )
    return sorted(item for item in used if not names or item[0] in names)


def _is_old(context: Context, spec: BoxSpec, box: Box) -> bool:
    ask = getattr(context.plugins.box_sources[spec.source], "newer", None)
    return ask is not None and ask(box, context.project.root) is not None


def add(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Such as 'team/web'.")],
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="The image: a path, or an http(s) address.")
    ],
    sha256: Annotated[str, typer.Option(help="The digest that the image has to have.")] = "",
    format: Annotated[
        str, typer.Option(help="The format that the image has to have, such as qcow2.")
    ] = "",
    user: Annotated[
        str, typer.Option(help="The account that gets the key. Default: the image's own, or qup.")
    ] = "",
    title: Annotated[str, typer.Option(help="One line of description.")] = "",
    arch: Annotated[str, typer.Option(help="The processor that the image is for.")] = "x86_64",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Give an image a name, for all your projects.

    The image is fetched now, and recorded with its digest in `boxes.toml` in qup's configuration
    folder.

    Examples: `qup box add team/web ./web.qcow2 --user web`,
    `qup box add team/db https://images.example.org/db.img.xz`
    """
    from qup.cli.box import open_context
    from qup.runner.naming import add_box

    with open_interface(as_json=as_json, quiet=quiet) as show:
        context = open_context(ctx, show)
        box = add_box(
            context, name, source, digest=sha256 or None, format=format or None, user=user,
            title=title, arch=arch,
        )  # fmt: skip
        context.tell("", f"box {name} is {box.digest[:12]}, {format_size(box.size)}")


def prune(
    ctx: typer.Context,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Only say what would be removed.")
    ] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Also remove current boxes: all that no machine needs.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Remove boxes that are neither current nor needed by a machine, and the remains of abandoned
    downloads.

    Examples: `qup box prune --dry-run`, `qup box prune --all`
    """
    from qup.cli.box import open_context, users_of
    from qup.downloads import sweep_partials
    from qup.locks import lock
    from qup.paths import downloads_root

    context = open_context(ctx)
    cache = context.boxes
    with lock(cache.lock_path, what="the cache of boxes", timeout=context.lock_timeout):
        kept = set() if everything else {box.digest for box in _current_boxes(context)}
        unused = [box for box in cache.boxes() if box.digest not in kept and not users_of(box)]
        for box in unused:
            if not dry_run:
                cache.remove(box)
        if not dry_run:
            cache.remove_drafts(older=DRAFT_AGE)
    partial = sweep_partials(downloads_root(), dry_run=dry_run)
    freed = sum(box.size for box in unused) + partial
    if as_json:
        removed = [
            {"name": box.spec.name, "digest": box.digest, "size": box.size} for box in unused
        ]
        sizes = {"size": freed, "downloads": partial}
        print_json({"removed": removed, **sizes, "dry_run": dry_run})
        return
    for box in unused:
        typer.echo(f"{box.spec.name} ({box.digest[:12]}), {format_size(box.size)}")
    if partial:
        typer.echo(f"downloads that were given up, {format_size(partial)}")
    verb = "would be freed" if dry_run else "freed"
    typer.echo(f"{format_size(freed)} {verb}" if freed else "nothing to remove")
