"""``qup template``: guests that were booted once and are restored for new machines."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Annotated

import typer

from qup.cli.box import open_context
from qup.cli.common import AsJson, print_json, print_table
from qup.errors import TemplateError
from qup.locks import lock
from qup.model.units import format_size
from qup.paths import templates_root
from qup.runner.context import Context
from qup.templates.cache import Template, TemplateCache

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
    from qup.runner.warm import find_users

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
        "used_by": find_users(template),
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
    """Print everything about a template, with all that went into its key, as JSON.

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
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Even if machines need it; they are lost then.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Remove a template. One that a machine's disk is based on is kept.

    Example: `qup template rm 3f2a`
    """
    from qup.runner.warm import find_users

    context = open_context(ctx)
    cache = context.templates
    with lock(cache.lock_path, what="the cache of templates", timeout=context.lock_timeout):
        template = _choose(cache, name)
        users = find_users(template)
        if users and not force:
            raise TemplateError(
                f"template {template.id} is needed by {len(users)} machines",
                details="\n".join(users),
                hint="'qup destroy' them first; --force removes it all the same",
            )
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
        bool, typer.Option("--all", help="Also those that new machines would be made from.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Remove templates that no machine needs and no new one would be made from, and forget
    which ones could not be made.

    Examples: `qup template prune`, `qup template prune --all`
    """
    from qup.runner.warm import find_users

    context = open_context(ctx)
    cache = context.templates
    removed, freed = [], 0
    with lock(cache.lock_path, what="the cache of templates", timeout=context.lock_timeout):
        cache.remove_leftovers()
        for template in cache.templates():
            stale = everything or not cache.is_current(template)
            stale = stale or context.boxes.get(template.box_digest) is None
            if stale and not find_users(template):
                freed += cache.size(template)
                cache.remove(template)
                removed.append(template.id)
        cache.forget_refusals()
    if as_json:
        print_json({"removed": removed, "size": freed})
    else:
        typer.echo(f"removed {len(removed)} templates, {format_size(freed)}")
