"""JSON schema of the YAML that ``--config`` reads, for editors: completion and mistakes while typing."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from pydantic_settings import CliPositionalArg

from mcl.config.base import Command
from mcl.config.choice import Choice

DRAFT = "https://json-schema.org/draft/2020-12/schema"


class SchemaSettings(Command):
    """Print the JSON schema of a command's settings file, for editors."""

    command: CliPositionalArg[Literal["pretrain", "finetune"]] = Field(description="Whose --config file.")
    out: Path | None = Field(None, description="File to write instead of printing.")


def file_schema(command: type[Command], title: str) -> dict[str, Any]:
    """The schema of a file with any of a command's settings; ``NAME.name`` decides what a section may hold."""
    schema = command.model_json_schema(by_alias=True)
    schema.pop("required", None)  # a file may hold a part
    properties, definitions = schema["properties"], schema.setdefault("$defs", {})
    properties.pop("config", None)
    for choice in command.choices:
        properties[choice.section] = {"anyOf": [_kind(choice, name, definitions) for name in choice.names()]}
    return {"$schema": DRAFT, **schema, "title": title}


def _kind(choice: Choice, name: str, definitions: dict[str, Any]) -> dict[str, str]:
    """A reference to what a section holds with this name, which is defined on the way."""
    own = choice.settings_of(name).model_json_schema(by_alias=True)
    definitions |= own.pop("$defs", {})
    own["properties"]["name"] = {"const": name, "description": own["properties"]["name"].get("description", "")}
    own["required"] = [] if name == choice.default else ["name"]
    key = f"{choice.section}-{name}"
    definitions[key] = own
    return {"$ref": f"#/$defs/{key}"}
