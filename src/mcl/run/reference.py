"""docs/reference.md, written from the settings themselves: ``python -m mcl.run.reference > docs/reference.md``."""

from __future__ import annotations

import importlib
import types
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic_core import PydanticUndefined

from mcl.config.base import Command, flat_fields, read_recipe, recipe_names
from mcl.config.choice import Choice
from mcl.config.help import shown_value
from mcl.run.commands import COMMANDS
from mcl.run.recipes import about_recipe

HEADER = "| setting | type | default | what it does |\n|---|---|---|---|"


def reference() -> str:
    """All commands, settings and recipes as Markdown."""
    parts = [
        "# Reference\n",
        "Written by `python -m mcl.run.reference`; do not edit.\n",
        "Command line over `--config FILE` over `--recipe NAME` over the defaults below. Every command has a twin in "
        "Python (`mcl.pretrain(data=..., out=..., **{\"optim.lr\": 0.1})`).\n",
    ]
    choices: dict[Choice, None] = {}
    for name, (module, settings, _, _, summary) in COMMANDS.items():
        command = getattr(importlib.import_module(module), settings)
        parts.append(f"## mcl {name}\n\n{summary[0].upper()}{summary[1:]}.\n\n{_table(command)}\n")
        choices |= dict.fromkeys(getattr(command, "choices", ()))
    for choice in choices:
        parts.append(f"## Settings of a {choice.section}\n")
        for name in choice.names():
            parts.append(_kind(choice, name))
    parts.append("## Recipes\n")
    for recipe in recipe_names():
        about = about_recipe(recipe)
        parts.append(f"- `{recipe}` ({len(list(read_recipe(recipe)))} groups of settings): {about}")
    return "\n".join(parts) + "\n"


def _table(command: type[Command]) -> str:
    own_defaults = {n: f.get_default(call_default_factory=True) for n, f in command.model_fields.items()}
    by_name = {choice.section: choice for choice in command.choices}
    rows = [HEADER]
    for name, field in flat_fields(command):
        section, _, leaf = name.rpartition(".")
        default = getattr(own_defaults[section], leaf) if section else field.default
        if section not in by_name:
            rows.append(_row(name, field, default))
        elif leaf == "name":
            also = f"its settings are those of [a {section}](#settings-of-a-{section})"
            names = ", ".join(by_name[section].names())
            rows.append(f"| `--{name}` | {names} | `{by_name[section].default}` | {field.description} ({also}) |")
    return "\n".join(rows)


def _kind(choice: Choice, name: str) -> str:
    """A table of the settings that a section has with this name, all but the name."""
    settings = choice.settings_of(name)
    rows = [
        _row(f"{choice.section}.{leaf}", field, field.get_default(call_default_factory=True))
        for leaf, field in flat_fields(settings)
        if leaf != "name"
    ]
    about = (settings.__doc__ or "").strip().splitlines()[0]
    return "\n".join([f"### {name}\n\n{about}\n", *([HEADER, *rows] if rows else ["No settings of its own."])]) + "\n"


def _row(name: str, field: Any, default: Any) -> str:
    shown = "required" if default is PydanticUndefined else f"`{shown_value(default)}`"
    return f"| `--{name}` | {_type(field)} | {shown} | {field.description} |"


def _type(field: Any) -> str:
    limits = [_limit(m) for m in field.metadata if _limit(m)]
    return ", ".join([_type_name(field.annotation), *limits]).replace("|", "or")


def _type_name(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        limits = [_limit(m) for info in arguments[1:] for m in getattr(info, "metadata", []) if _limit(m)]
        return " ".join([_type_name(arguments[0]), *limits])
    if origin is Literal:
        return ", ".join(str(a) for a in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join("none" if a is type(None) else _type_name(a) for a in arguments)
    if origin is not None:
        return f"{origin.__name__} of {', '.join(dict.fromkeys(_type_name(a) for a in arguments if a is not ...))}"
    return {Path: "path"}.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _limit(metadata: Any) -> str:
    for attribute, sign in (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<"), ("multiple_of", "multiple of")):
        value = getattr(metadata, attribute, None)
        if value is not None:
            return f"{sign} {value}"
    return ""


if __name__ == "__main__":
    print(reference(), end="")
