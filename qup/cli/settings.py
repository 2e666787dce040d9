"""The settings that commands take as options: one option for each row of ``SETTINGS``."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qup.errors import ConfigError
from qup.model.settings import SETTINGS, Setting
from qup.model.text import printable
from qup.runner.roster import Member, save_roster

if TYPE_CHECKING:
    from qup.model.config import Config
    from qup.paths import Project
    from qup.runner.context import Context


@dataclass(frozen=True)
class Overrides:
    """Settings said on the command line.

    Attributes:
        values: by dotted key, from options such as ``--memory``.
        assignments: the words of ``--set``, each ``KEY=VALUE``.
    """

    values: dict[str, object] = field(default_factory=dict)
    assignments: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.values or self.assignments)


SET_HELP = "Any setting, by its key: --set qemu.cpu=max. Can be given more than once."


def with_settings(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command one option for each setting, and hand it what was said as ``overrides``.

    The options come from the table, so that no setting can be forgotten in a command.
    """

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        said = {item.key: kwargs.pop(_parameter_name(item.key)) for item in SETTINGS}
        values = {key: value for key, value in said.items() if value is not None}
        overrides = Overrides(values, tuple(kwargs.pop("set_") or ()))
        return function(*args, overrides=overrides, **kwargs)

    signature = inspect.signature(function, eval_str=True)
    own = [item for item in signature.parameters.values() if item.name != "overrides"]
    added = [_parameter(setting) for setting in SETTINGS]
    added.append(
        inspect.Parameter(
            "set_",
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                list[str] | None,
                typer.Option(
                    "--set", metavar="KEY=VALUE", help=SET_HELP, rich_help_panel="Settings"
                ),
            ],
        )
    )
    keyword = [item.replace(kind=inspect.Parameter.KEYWORD_ONLY) for item in own[1:]]
    wrapper.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [own[0], *keyword, *added]
    )
    wrapper.__annotations__ = {item.name: item.annotation for item in [own[0], *keyword, *added]}
    return wrapper


def _parameter_name(key: str) -> str:
    return "setting_" + key.replace(".", "_").replace("-", "_")


def _parameter(setting: Setting) -> inspect.Parameter:
    option = typer.Option(
        setting.flag,
        metavar=setting.metavar,
        help=setting.summary,
        rich_help_panel="Settings",
    )
    return inspect.Parameter(
        _parameter_name(setting.key),
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[str | None, option],
    )


def load_config(context: Context, overrides: Overrides) -> Config:
    """Read and validate the project's Qupfile, with the environment and the command line.

    Raises:
        ConfigError: with all that is wrong.
    """
    from qup.qupfile import load, read

    document = read(context.project)
    config = load(
        document,
        registry=context.plugins,
        environment=os.environ,
        overrides=overrides.values,
        assignments=overrides.assignments,
    )
    for failure in context.plugins.failures:
        typer.secho(f"warning: {printable(str(failure))}", fg=typer.colors.YELLOW, err=True)
    state = context.project.state
    if state.is_dir() and not state.is_symlink() and not overrides:
        members = [
            Member(name, machine.settings.autostart, machine.settings.primary)
            for name, machine in config.machines.items()
        ]
        save_roster(context.project, members)
    return config


def require_trust(project: Project, config: Config) -> None:
    """Refuse a Qupfile that could run programs on this computer, until the user trusts it.

    Raises:
        ConfigError: it could, and ``qup trust`` was not said for this content.
    """
    from qup.qupfile import untrusted
    from qup.trust import is_trusted

    found = untrusted(config)
    if not found or is_trusted(project.root, config.digest):
        return
    lines = [f"machine {item.machine}: {item.key} = {item.description}" for item in found]
    raise ConfigError(
        "this Qupfile can run programs on this computer, and you have not said that you trust it",
        details="\n".join(lines),
        hint="read it; if it is fine, 'qup trust' allows exactly this content",
    )
