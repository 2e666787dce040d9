"""The settings that commands take as options: one option for each row of ``SETTINGS``."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from qup.errors import ConfigError, UsageError
from qup.model.settings import NO, SETTINGS, YES, Kind, Setting, parse_switch
from qup.model.text import printable
from qup.runner.roster import Member, save_roster

if TYPE_CHECKING:
    from qup.model.config import Config
    from qup.qupfile import Untrusted
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


class SettingsCommand(TyperCommand):
    """A command that understands docker-machine's spelling of the settings, too."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, translate_words(args, os.environ))


def translate_words(words: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """A command line with docker-machine's old spellings of options in qup's own.

    ``--qemu-x`` becomes the setting's option; a switch may say ``--qemu-x=false``, as Go's
    flags may. An old switch that stands for a value (``--qemu-display``) does so only where
    the value isn't said by another option or a variable.

    Raises:
        UsageError: a switch has a value that is neither yes nor no.
    """
    end = words.index("--") if "--" in words else len(words)
    translated = _complete_bare([_translate(word) for word in words[:end]])
    said = {word.partition("=")[0] for word in translated}
    for setting in SETTINGS:
        switch, value = setting.old_switch
        if not switch or switch not in said:
            continue
        wanted = [_read_switch(switch, word) for word in translated if _names(switch, word)]
        translated = [word for word in translated if not _names(switch, word)]
        elsewhere = said & {*setting.options} or any(map(environment.get, setting.variables))
        if wanted[-1] and not elsewhere:
            translated.append(f"{setting.flag}={value}")
    return [*translated, *words[end:]]


_BARE = {flag: setting.bare for setting in SETTINGS if setting.bare for flag in setting.options}


def _complete_bare(words: Sequence[str]) -> list[str]:
    """Give an option that needs no value (``--display``) the one it stands for."""
    pairs = zip_longest(words, words[1:], fillvalue="-")
    return [
        f"{word}={_BARE[word]}" if word in _BARE and follower.startswith("-") else word
        for word, follower in pairs
    ]


_OLD = {setting.old: setting for setting in SETTINGS if setting.old}


def _translate(word: str) -> str:
    name, equals, value = word.partition("=")
    setting = _OLD.get(name)
    if setting is None:
        return word
    if setting.kind is not Kind.SWITCH:
        return f"{setting.flag}{equals}{value}"
    return setting.flag if _read_switch(name, word) else _negative(setting.flag)


def _names(option: str, word: str) -> bool:
    return word == option or word.startswith(f"{option}=")


def _read_switch(option: str, word: str) -> bool:
    _, equals, text = word.partition("=")
    value = parse_switch(text) if equals else True
    if value is None:
        raise UsageError(
            f"{option}: {printable(text)!r} is neither yes nor no",
            hint=f"write {', '.join(YES[:4])}; or {', '.join(NO[:4])}",
        )
    return value


def _negative(flag: str) -> str:
    return "--no-" + flag.removeprefix("--")


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
    wrapper.command_class = SettingsCommand  # type: ignore[attr-defined]
    wrapper.__annotations__ = {item.name: item.annotation for item in [own[0], *keyword, *added]}
    return wrapper


def _parameter_name(key: str) -> str:
    return "setting_" + key.replace(".", "_").replace("-", "_")


def _parameter(setting: Setting) -> inspect.Parameter:
    switch = setting.kind is Kind.SWITCH
    names = [f"{flag}/{_negative(flag)}" if switch else flag for flag in setting.options]
    option = typer.Option(
        *names,
        metavar=None if switch else setting.metavar,
        help=setting.summary,
        rich_help_panel="Settings",
    )
    return inspect.Parameter(
        _parameter_name(setting.key),
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[bool | None if switch else str | None, option],
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
    for note in config.notes:
        typer.echo(f"note: {printable(note)}", err=True)
    state = context.project.state
    if state.is_dir() and not state.is_symlink() and not overrides:
        members = [
            Member(name, settings.autostart, settings.primary, settings.after)
            for name, settings in config.settings.items()
        ]
        save_roster(context.project, members)
    return config


def find_risks(context: Context, config: Config) -> list[Untrusted]:
    """What in the Qupfile needs the user's trust."""
    from qup.qupfile import untrusted

    return untrusted(config, context.plugins.provisioners, context.project.root)


def require_trust(context: Context, config: Config) -> None:
    """Refuse a Qupfile that reaches into this computer, or opens it, until the user trusts it.

    Raises:
        ConfigError: it could, and ``qup trust`` was not said for this content.
    """
    from qup.trust import is_trusted

    found = find_risks(context, config)
    if not found or is_trusted(context.project.root, config.digest):
        return
    lines = [f"machine {item.machine}: {item.key} = {item.description}" for item in found]
    raise ConfigError(
        "this Qupfile wants to do more on this computer than run guests, and you have not said"
        " that you trust it",
        details="\n".join(lines),
        hint="read it; if it is fine, 'qup trust' allows exactly this content",
    )
