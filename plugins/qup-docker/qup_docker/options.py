"""What a step ``docker`` may say."""

from __future__ import annotations

import ipaddress
import json
import re
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qup.api import Settings

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*")
_REGISTRY = re.compile(r"[A-Za-z0-9.-]+(:[0-9]{1,5})?|\[[0-9A-Fa-f:]+\](:[0-9]{1,5})?")
_NAME = re.compile(r"(?=.{1,253}$)(\*\.)?([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.?)+")
_OPTION = re.compile(r"[a-z][a-z0-9-]*")
_OWN = ("hosts", "tls", "tlsverify", "tlscacert", "tlscert", "tlskey")
"""Keys of ``daemon.json`` by which the engine could be reached otherwise than qup says."""
_ELSEWHERE = ("labels", "registry-mirrors", "insecure-registries", "storage-driver")
"""Keys of ``daemon.json`` that are options here."""


def is_address(text: str) -> bool:
    """Whether it is an IP address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _check_line(text: str, what: str) -> str:
    if not text.isprintable():
        raise ValueError(f"{what} {text!r} has characters that can't be printed")
    return text


def _check_labels(labels: dict[str, str]) -> dict[str, str]:
    for key, value in labels.items():
        if not _LABEL.fullmatch(key):
            raise ValueError(f"{key!r} is not the name of a label")
        _check_line(value, "label")
    return labels


def _check_env(env: dict[str, str]) -> dict[str, str]:
    for key, value in env.items():
        if not key.isidentifier() or not key.isascii():
            raise ValueError(f"{key!r} is not the name of a variable")
        _check_line(value, "variable")
    return env


def _check_mirrors(mirrors: tuple[str, ...]) -> tuple[str, ...]:
    for mirror in mirrors:
        if not re.fullmatch(r"https?://[!-~]+", mirror):
            raise ValueError(f"{mirror!r} is not the http:// or https:// address of a mirror")
    return mirrors


def _check_registries(registries: tuple[str, ...]) -> tuple[str, ...]:
    for registry in registries:
        try:
            ipaddress.ip_network(registry, strict=False)
        except ValueError:
            if not _REGISTRY.fullmatch(registry):
                message = f"{registry!r} is no registry: write host, host:port or a network"
                raise ValueError(message) from None
    return registries


def _check_names(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if not is_address(name) and not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is neither a host's name nor an address")
    return names


def _check_options(options: dict[str, Any]) -> dict[str, Any]:
    for key in options:
        if key in _OWN:
            raise ValueError(f"{key!r} is set by qup: it says how the engine is reached")
        if key in _ELSEWHERE:
            raise ValueError(f"write {key!r} beside 'options', not in it")
        if not _OPTION.fullmatch(key):
            raise ValueError(f"{key!r} is not a key of the engine's daemon.json")
    try:
        json.dumps(options)
    except TypeError:
        raise ValueError("daemon.json has no dates") from None
    return options


@cache
def make_options() -> type[Settings]:
    """The model; pydantic takes 50 ms, so it is made where a Qupfile is validated."""
    from typing import Annotated

    from pydantic import AfterValidator, Field

    from qup.api import Settings

    class DockerOptions(Settings):
        """``docker`` in ``[[machine.provision]]``"""

        labels: Annotated[dict[str, str], AfterValidator(_check_labels)] = Field(
            default={}, description="The engine's labels, by name."
        )
        registry_mirrors: Annotated[tuple[str, ...], AfterValidator(_check_mirrors)] = Field(
            default=(), description="Addresses of mirrors of Docker Hub, which are asked first."
        )
        insecure_registries: Annotated[tuple[str, ...], AfterValidator(_check_registries)] = Field(
            default=(),
            description="Registries that may speak plain http or have a certificate of anybody's:"
            " host, host:port or a network.",
        )
        storage_driver: str | None = Field(
            default=None,
            pattern="^[a-z0-9][a-z0-9-]*$",
            description="How the engine stores images. Default: the engine's choice.",
        )
        env: Annotated[dict[str, str], AfterValidator(_check_env)] = Field(
            default={}, description="Variables of the engine's environment, such as HTTPS_PROXY."
        )
        options: Annotated[dict[str, Any], AfterValidator(_check_options)] = Field(
            default={},
            description="More of the engine's configuration, as daemon.json has it:"
            ' {"log-driver" = "local"}.',
        )
        names: Annotated[tuple[str, ...], AfterValidator(_check_names)] = Field(
            default=(),
            description="Names and addresses that the engine's certificate is good for, besides"
            " the guest's own, localhost and 127.0.0.1.",
        )
        install: bool = Field(
            default=True, description="Whether to install an engine in a guest that has none."
        )

    return DockerOptions
