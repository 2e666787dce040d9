"""JSON Schema of the Qupfile, for editors: the core's keys and those of the loaded plugins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from qup.model.config import (
    MachineSettings,
    NetworkSettings,
    StepSettings,
)
from qup.model.fields import MACHINE_NAME, has_defaults, json_pattern
from qup.model.folders import AUTO

if TYPE_CHECKING:
    from pydantic import BaseModel

    from qup.qupfile.registry import Registry

DIALECT = "https://json-schema.org/draft/2020-12/schema"

Schema = dict[str, Any]


def make_schema(registry: Registry) -> Schema:
    """The schema of a whole Qupfile (JSON Schema 2020-12).

    It accepts every valid Qupfile. It can't see everything that is wrong with one: what is
    required of a machine may come from ``[machine]``, for instance.
    """
    definitions: Schema = {}
    machine = _describe(MachineSettings, "machine", definitions)
    network = definitions.pop("machine.NetworkSettings", {})
    properties = machine["properties"]
    definitions["network"] = _describe_network(registry, network, definitions)
    properties["network"] = {
        "description": properties["network"].get("description", ""),
        "$ref": "#/$defs/network",
    }
    properties["networks"] = {**properties["networks"], "items": {"$ref": "#/$defs/network"}}
    properties["provision"] = {
        "type": "array",
        "description": properties["provision"]["description"],
        "items": _describe_steps(registry, definitions),
    }
    folder = definitions["machine.FolderSettings"]["properties"]
    folder["type"] = {**folder["type"], "enum": [AUTO, *registry.folder_types]}
    definitions["machine"] = machine
    reference = {"$ref": "#/$defs/machine"}
    return {
        "$schema": DIALECT,
        "title": "Qupfile",
        "description": "The virtual machines of a project, for qup.",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "machine": {"description": "The machine, or what all machines share.", **reference},
            "machines": {
                "description": "Several machines: a table for each, over what [machine] says.",
                "type": "object",
                "propertyNames": {"pattern": json_pattern(MACHINE_NAME)},
                "additionalProperties": reference,
            },
        },
        "$defs": dict(sorted(definitions.items())),
    }


def _describe(model: type[BaseModel], prefix: str, definitions: Schema) -> Schema:
    """A model's schema; what it refers to goes to ``definitions`` under a prefix."""
    from pydantic.errors import PydanticInvalidForJsonSchema

    template = f"#/$defs/{prefix}.{{model}}"
    try:
        schema = model.model_json_schema(by_alias=True, ref_template=template)
    except PydanticInvalidForJsonSchema:
        return {"type": "object", "properties": {}}
    for name, definition in schema.pop("$defs", {}).items():
        definitions[f"{prefix}.{name}"] = _tidy(definition)
    return {"properties": {}, **_tidy(schema)}


def _describe_network(registry: Registry, network: Schema, definitions: Schema) -> Schema:
    """One alternative for each mode; ``mode`` itself may come from another table."""
    mode = network.get("properties", {}).get("mode", {})
    choices = []
    for name, item in sorted(registry.network_modes.items()):
        options = _describe(item.options, f"network-{name}", definitions)
        choices.append(
            {
                "title": f"mode = {name!r}",
                "description": item.summary,
                "type": "object",
                "additionalProperties": options.get("additionalProperties", False),
                "properties": {
                    "mode": {**mode, "const": name},
                    **options["properties"],
                },
            }
        )
    default = NetworkSettings.model_fields["mode"].default
    choices.sort(key=lambda choice: choice["properties"]["mode"]["const"] != default)
    return {"anyOf": choices} if choices else {"type": "object"}


def _describe_steps(registry: Registry, definitions: Schema) -> Schema:
    choices = []
    common = _describe(StepSettings, "step", definitions)["properties"]
    for name, item in sorted(registry.provisioners.items()):
        options: Schema = _describe(item.options, f"provision-{name}", definitions)
        forms = [options]
        if shorthand := item.options.shorthand:
            text = f"The same with {shorthand!r} alone."
            forms.append({"type": "string", "description": text})
        if has_defaults(item.options):
            forms.append({"const": True, "description": "The same with nothing said."})
        if len(forms) > 1:
            options = {"description": item.summary, "anyOf": forms}
        choices.append(
            {
                "type": "object",
                "description": item.summary,
                "required": [name],
                "additionalProperties": False,
                "properties": {name: options, **common},
            }
        )
    return {"anyOf": choices} if choices else {"type": "object"}


def _tidy(schema: Any) -> Any:
    """Without what TOML doesn't know (null) and titles that repeat the key."""
    if isinstance(schema, list):
        return [_tidy(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    tidy = {
        key: _tidy(value)
        for key, value in schema.items()
        if not (key == "title" and isinstance(value, str))
        and not (key == "default" and value is None)
    }
    if isinstance(tidy.get("description"), str):
        tidy["description"] = tidy["description"].replace("``", "")
    choices = tidy.get("anyOf")
    if isinstance(choices, list) and {"type": "null"} in choices:
        choices = [choice for choice in choices if choice != {"type": "null"}]
        del tidy["anyOf"]
        tidy = {**choices[0], **tidy} if len(choices) == 1 else {**tidy, "anyOf": choices}
    return tidy
