"""The Qupfile's reference, from its schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qup.model.config import StepSettings
from qup.model.settings import SETTINGS, Kind, Setting
from qup.plugins import Plugins
from qup.qupfile import schema
from scripts.docs.markdown import code, plain, table

_VARIABLES = {item.key: item for item in SETTINGS}


def built_in() -> Plugins:
    """What qup brings itself, whatever else is installed here."""
    return Plugins(installed=False)


def write_reference() -> str:
    """A table for each table of the Qupfile."""
    registry = built_in()
    whole = schema(registry)
    definitions = whole["$defs"]
    machine = definitions["machine"]["properties"]
    parts = [_section("[machine]", "", machine, definitions)]
    for name in ("ssh", "qemu"):
        properties = _resolve(machine[name], definitions)["properties"]
        parts += [_section(f"[machine.{name}]", f"{name}.", properties, definitions)]
    parts[2:2] = [
        _section(
            f"[machine.network] and [[machine.networks]]: {choice['properties']['mode']['const']}",
            "network.",
            choice["properties"],
            definitions,
            plain(f"{choice['description']}."),
        )
        for choice in definitions["network"]["anyOf"]  # one for each mode; the default is first
    ]
    disks = definitions["machine.DiskSettings"]["properties"]
    parts.append(_section("[[machine.disks]]", "", disks, definitions, variables=False))
    folders = definitions["machine.FolderSettings"]["properties"]
    parts.append(_section("[[machine.folders]]", "", folders, definitions, variables=False))
    properties = _properties(StepSettings)
    text = plain("What every step may have besides its provisioner.")
    parts.append(_section("[[machine.provision]]", "", properties, {}, text, variables=False))
    for name, item in registry.provisioners.items():
        heading = f"[[machine.provision]]: {name}"
        short = f" Text instead of a table is `{item.options.shorthand}`."
        text = plain(f"`{name} = {{ ... }}`: {item.summary}.{short * bool(item.options.shorthand)}")
        parts.append(_section(heading, "", _properties(item.options), {}, text, variables=False))
    return "\n\n".join(parts)


def write_variables() -> str:
    """The variables and options that stand for keys."""
    rows = [
        [", ".join(map(code, item.variables)), ", ".join(_options(item)), code(item.key)]
        for item in SETTINGS
    ]
    return table(["Variable", "Option", "Key in `[machine]`"], rows)


def _options(setting: Setting) -> list[str]:
    """The names of a setting's option, each as it is typed."""
    if setting.kind is not Kind.SWITCH:
        return [*map(code, setting.options)]
    return [code(f"{name}/--no-{name.removeprefix('--')}") for name in setting.options]


def _resolve(described: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    reference = described.get("$ref") or next(
        (item["$ref"] for item in described.get("allOf", ()) if "$ref" in item), None
    )
    return definitions[reference.removeprefix("#/$defs/")] if reference else described


def _properties(model: Any) -> Mapping[str, Any]:
    found: Mapping[str, Any] = model.model_json_schema(by_alias=True)["properties"]
    return found


def _section(
    heading: str,
    prefix: str,
    properties: Mapping[str, Any],
    definitions: Mapping[str, Any],
    text: str = "",
    *,
    variables: bool = True,
) -> str:
    headings = ["Key", "Type", "Default", "What it is"]
    if variables:
        headings[3:3] = ["Variable", "Option"]
    rows = []
    for key, described in properties.items():
        if "properties" in _resolve(described, definitions) or key == "network":
            continue  # a table of its own
        row = [code(key), _type(described), _default(described), _text(described)]
        if variables:
            setting = _VARIABLES.get(prefix + key)
            row[3:3] = [code(setting.env), code(setting.flag)] if setting else ["", ""]
        rows.append(row)
    parts = [f"## {heading}", text, table(headings, rows)]
    return "\n\n".join(filter(None, parts))


def _type(described: Mapping[str, Any]) -> str:
    choices = [item for item in described.get("anyOf", ()) if item.get("type") != "null"]
    patterns = " ".join(str(item.get("pattern", "")) for item in choices)
    if "KMGT" in patterns:
        return "size"
    if "ms|" in patterns:
        return "duration"
    if choices:
        return ", or ".join(map(_type, choices))
    if described.get("type") == "array":
        inner = _type(described.get("items", {}))
        return "list of tables" if inner == "table" else f"list of {inner}"
    words = {"string": "text", "integer": "number", "boolean": "true or false", "object": "table"}
    return words.get(str(described.get("type", "object")), "table")


def _default(described: Mapping[str, Any]) -> str:
    value = described.get("const", described.get("default"))
    if value is None:
        return ""
    if isinstance(value, bool):
        return code("true" if value else "false")
    return code(f'"{value}"') if isinstance(value, str) else code(str(value).replace("()", "[]"))


def _text(described: Mapping[str, Any]) -> str:
    text = plain(str(described.get("description", ""))).replace("<", "&lt;")
    low, high = described.get("minimum"), described.get("maximum")
    return f"{text} From {low} to {high}." if low is not None and high is not None else text
