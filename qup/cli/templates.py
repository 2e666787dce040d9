"""``qup template``: guests that were booted once and are restored for new machines."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qup.cli.box import open_context
from qup.cli.common import AsJson, Quiet, ThoughNeeded, print_json, print_table, refuse_needed
from qup.errors import TemplateError
from qup.locks import lock
from qup.model.units import format_size
from qup.paths import templates_root
from qup.runner.context import Context
from qup.templates.cache import TemplateCache
from qup.templates.template import Template
from qup.ui import open_interface

if TYPE_CHECKING:
    from qup.runner.transfer import Transfer

app = typer.Typer(
    add_completion=False,
    rich_markup_mode="markdown",
    no_args_is_help=True,
    help="Templates: guests that were booted once, and are restored for new machines.",
)


def complete_templates(incomplete: str) -> list[str]:
    """Ids of templates for tab completion."""
    ids = (template.id for template in TemplateCache(templates_root()).templates())
    return sorted(item for item in ids if item.startswith(incomplete))


TemplateId = Annotated[
    str,
    typer.Argument(
        metavar="TEMPLATE",
        help="A template's id, or its beginning.",
        autocompletion=complete_templates,
    ),
]


def _describe(context: Context, template: Template) -> dict[str, object]:
    from qup.runner.holding import find_users

    cache = context.templates
    return {
        "id": template.id,
        "key": template.key,
        "box": template.box,
        "box_digest": template.box_digest,
        "size": cache.size(template),
        "created": template.created,
        "last_used": cache.last_used(template),
        "seconds": template.seconds,
        "steps": list(template.steps),
        "current": cache.is_current(template),
        "set_aside": cache.aside_reason(template),
        "used_by": find_users(cache, template),
    }


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(seconds))


@app.command("list")
def list_templates(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List the templates in the cache.

    Example: `qup template list`
    """
    context = open_context(ctx)
    templates = context.templates.templates()
    found = [_describe(context, item) for item in templates]
    if as_json:
        print_json({"templates": found})
        return
    rows = []
    for template, row in zip(templates, found, strict=True):
        visible, users = template.visible, row["used_by"]
        assert isinstance(users, list)
        state = "current" if row["current"] else f"set aside: {row['set_aside'] or 'replaced'}"
        rows.append(
            [template.id, template.box, f"{visible.get('memory_mib')}M",
             str(visible.get("cpus")), _describe_steps(template),
             format_size(context.templates.size(template)),
             _date(context.templates.last_used(template)), str(len(users)), state]
        )  # fmt: skip
    print_table(
        [
            "TEMPLATE",
            "BOX",
            "MEMORY",
            "CPUS",
            "STEPS",
            "ON DISK",
            "USED (UTC)",
            "MACHINES",
            "STATE",
        ],
        rows,
    )


def _describe_steps(template: Template) -> str:
    """How many provisioning steps have run in it, and for which host name."""
    if not template.steps:
        return "-"
    name = template.visible.get("name")
    return f"{len(template.steps)} (for {name})" if name else str(len(template.steps))


def _choose(cache: TemplateCache, name: str) -> Template:
    templates = cache.templates()
    found = [item for item in templates if name and item.id.startswith(name)]
    if len(found) != 1:
        known = ", ".join(item.id for item in templates) or "none"
        what = "begins with" if found else "is called"
        raise TemplateError(
            f"{'more than one' if found else 'no'} template {what} {name!r}",
            hint=f"there are: {known}",
        )
    return found[0]


@app.command()
def inspect(ctx: typer.Context, name: TemplateId) -> None:
    """Print everything about a template, including all that went into its key, as JSON.

    Example: `qup template inspect 3f2a`
    """
    context = open_context(ctx)
    template = _choose(context.templates, name)
    about = _describe(context, template)
    print_json({**about, "files": _files(template), "visible": template.visible})


def _files(template: Template) -> dict[str, object]:
    return {name: asdict(item) for name, item in template.files.items()}


@app.command()
def rm(
    ctx: typer.Context,
    name: TemplateId,
    force: ThoughNeeded = False,
    as_json: AsJson = False,
) -> None:
    """Remove a template. One that a machine's disk is based on is kept.

    Example: `qup template rm 3f2a`
    """
    from qup.runner.holding import find_users

    context = open_context(ctx)
    cache = context.templates
    with lock(cache.lock_path, what="the cache of templates", timeout=context.lock_timeout):
        template = _choose(cache, name)
        users = find_users(cache, template)
        if users and not force:
            refuse_needed(TemplateError, f"template {template.id}", users)
        size = cache.size(template)
        cache.remove(template)
    if as_json:
        print_json({"removed": template.id, "size": size})
    else:
        typer.echo(f"removed template {template.id}, {format_size(size)}")


@app.command()
def prune(
    ctx: typer.Context,
    everything: Annotated[
        bool, typer.Option("--all", help="Also remove those that new machines would use.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Remove templates that no machine needs and no new machine would use, and forget which ones
    could not be made.

    Examples: `qup template prune`, `qup template prune --all`
    """
    from qup.runner.holding import find_users

    context = open_context(ctx)
    cache = context.templates
    removed, freed = [], 0
    with lock(cache.lock_path, what="the cache of templates", timeout=context.lock_timeout):
        cache.remove_leftovers()
        for template in cache.templates():
            stale = everything or not cache.is_current(template)
            stale = stale or context.boxes.get(template.box_digest) is None
            if stale and not find_users(cache, template):
                freed += cache.size(template)
                cache.remove(template)
                removed.append(template.id)
        cache.forget_refusals()
    if as_json:
        print_json({"removed": removed, "size": freed})
    else:
        typer.echo(f"removed {len(removed)} templates, {format_size(freed)}")


@app.command()
def export(
    ctx: typer.Context,
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Where to; made if it isn't there.")
    ],
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TEMPLATE]...",
            help="Ids, or their beginnings. Default: those for the machines of this project.",
            autocompletion=complete_templates,
        ),
    ] = None,
    no_box: Annotated[
        bool,
        typer.Option(
            "--no-box",
            help="Leave the box out; it has to be in the cache where the template is imported.",
        ),
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write templates into a folder, one file each, for a computer with the same QEMU.

    Each file is named after the template's key, and a file that is there already is left as it
    is, so the folder can be a cache between the runs of a CI job. **A template contains
    everything that its guest does**, including what provisioning steps have left there.

    Examples: `qup template export .cache/qup`, `qup template export /mnt/share 3f2a --no-box`
    """
    from qup.runner.transfer import export as run_export
    from qup.runner.transfer import find_own

    with open_interface(as_json=as_json, quiet=quiet) as show:
        context = open_context(ctx, show)
        chosen = [_choose(context.templates, name) for name in names or ()]
        if not names:
            chosen = find_own(context)
        if not chosen:
            raise TemplateError(
                "no machine of this project has a template",
                hint="'qup up' makes one; 'qup template list' shows those of other projects",
            )
        done = [run_export(context, one, folder.absolute(), box=not no_box) for one in chosen]
    _tell_transfers(done, "exported", "is exported already", as_json=as_json, quiet=quiet)


@app.command("import")
def import_template(
    ctx: typer.Context,
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="PATH...", help="Files that were exported, or folders of them."),
    ],
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Put exported templates into the cache, so that `qup up` can restore them.

    A template that is damaged, or was made with another QEMU, accelerator or processor, is
    refused, and you are told why. In a folder, such templates are skipped, so an old CI cache
    does no harm. Import only what you would run as well: a template is a whole running guest.

    Examples: `qup template import .cache/qup`, `qup template import 0a1b2c.qup-template`
    """
    from qup.runner.transfer import find_archives, import_archive

    done = []
    with open_interface(as_json=as_json, quiet=quiet) as show:
        context = open_context(ctx, show)
        for path in paths:
            if not path.exists():
                raise TemplateError(f"there is no {path}")
            for file in find_archives(path):
                try:
                    done.append(import_archive(context, file))
                except TemplateError as exc:
                    if not path.is_dir():
                        raise
                    context.tell("", exc.message, level="warning", hint=exc.hint)
    _tell_transfers(done, "imported", "is here already", as_json=as_json, quiet=quiet)


def _tell_transfers(
    transfers: list[Transfer], done: str, nothing: str, *, as_json: bool, quiet: bool
) -> None:
    if as_json:
        found = [
            {"template": one.template.id, "file": str(one.file), "size": one.size, "done": one.done}
            for one in transfers
        ]
        print_json({"templates": found})
    elif not quiet:
        for one in transfers:
            text = f"{done}, {format_size(one.size)}" if one.done else nothing
            typer.echo(f"template {one.template.id} ({one.template.box}) {text}")
