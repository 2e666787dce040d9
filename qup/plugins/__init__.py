"""Plugins: loaded one by one, kept apart, and asked for what they bring.

:class:`Plugins` is all there is to know for the rest of qup. What it hands out behaves: a
method of a plugin's object that raises or answers wrongly raises a PluginError that names the
plugin (:mod:`qup.plugins.contract`).
"""

from __future__ import annotations

from qup.plugins.contract import KINDS, OTHER_HOOKS
from qup.plugins.registry import Failure, Plugin, Plugins
from qup.plugins.sources import BUILTIN, ENTRY_POINT_GROUP

__all__ = [
    "BUILTIN",
    "ENTRY_POINT_GROUP",
    "KINDS",
    "OTHER_HOOKS",
    "Failure",
    "Plugin",
    "Plugins",
]
